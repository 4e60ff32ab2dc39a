"""A model as a callable class for engines that hand out batches, such as ``ray.data.Dataset.map_batches``.

An example stands in docs/scaling.md. Nothing here needs Ray; `pip install 'layered-plugin[ray]'` brings it.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from layered_plugin.data.mask_files import RESULTS
from layered_plugin.errors import ArgumentError
from layered_plugin.segmentation.pipeline import Item, Pipeline
from layered_plugin.segmentation.segmenter import Refinement, Segmenter
from layered_plugin.segmentation.workers import Finish, Here

FIELDS = ("width", "height", "coverage", "confidence", "doubtful")


class BatchSegmenter:
    """What ``invert.py segment`` does with each picture, for the rows of a batch.

    Args:
        model: Run folder of ``invert.py distill`` or ``train --mode=dataset``.
        column: Where a row has the picture's file.
        device: auto, cpu, cuda or mps.
        threshold: Opacity from which a pixel counts as object, in (0, 1).
        soft: Write opacities instead of 0 and 255?
        cutouts: Make cut-outs too?
        min_confidence: Results of pictures with less are marked doubtful.
        sharp: Correct masks by the pictures' colors?
        margin: In which objects are less likely, by the side, if sharp; None = the model's.
        flip: Average with the mirrored picture?

    Raises:
        ArgumentError: It is a model of chunks, the device is not there, or a number is out of its range.
        ModelError: The model can't be used; the text names its file.
    """

    def __init__(self, model: str | os.PathLike[str], *, column: str = "bytes", device: str = "auto",
                 threshold: float = 0.5, soft: bool = False, cutouts: bool = True, min_confidence: float = 0.0,
                 sharp: bool = True, margin: float | None = None, flip: bool = False) -> None:
        if not 0 < threshold < 1 or not 0 <= min_confidence <= 1:
            raise ArgumentError(f"`threshold` must be between 0 and 1, `min_confidence` from 0 to 1; got {threshold}, "
                                f"{min_confidence}")
        segmenter = Segmenter.load(model, device)
        if segmenter.kind == "chunks":
            raise ArgumentError(f"`model`: encoders of chunks know their own pictures alone: {segmenter.folder}")
        self._column = column
        kinds = RESULTS if segmenter.kind == "encoder" else ("masks", "cutouts")
        self._kinds = [kind for kind in kinds if cutouts or kind != "cutouts"]
        self._fields = (*FIELDS, "error") if segmenter.kind == "encoder" else FIELDS
        refinement = Refinement(flip=flip, sharp=sharp, margin=margin)
        refinement.check(segmenter)
        how = Finish(threshold, soft, cutouts, min_confidence, sharp, refinement.margin_for(segmenter),
                     segmenter.letterbox)
        self._pipeline = Pipeline(segmenter, refinement, how, lambda _name, reason: reason, Here(), workers=0)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Segment the pictures of a batch.

        Args:
            batch: Columns of N rows; that of the pictures has their files, bytes of any format that Pillow reads.

        Returns:
            The columns without the pictures, and for each row mask and, if wanted, cutout, PNG as bytes (of encoders
            also background, foreground and reconstruction), width, height, coverage, confidence, doubtful (of encoders
            also error). Where a picture can't be read they are None, and `failed` says why; else that is None.
        """
        items = [Item(str(row), True, self._content(value)) for row, value in enumerate(batch[self._column])]
        names = [RESULTS[kind].removesuffix(".png") for kind in self._kinds]
        columns: dict[str, list[Any]] = {name: [] for name in (*names, *self._fields, "failed")}
        for _name, result in self._pipeline.run([items] if items else []):
            row: dict[str, Any] = dict(failed=result)
            if not isinstance(result, str):
                parts = zip(names, (result.parts[kind] for kind in self._kinds), strict=True)
                row = {"doubtful": False, **result.entry, **dict(parts)}
            for name, values in columns.items():
                values.append(row.get(name))
        out = {name: values for name, values in batch.items() if name != self._column}
        return out | {name: _objects(values) for name, values in columns.items()}

    def _content(self, value: Any) -> bytes | str:
        """What a row has of a picture's file, or that it has none."""
        try:
            return bytes(memoryview(value))
        except TypeError:
            return f"{self._column} holds {type(value).__name__}, not the bytes of a file"


def _objects(values: list[Any]) -> np.ndarray:
    """As an array of Python's own objects: None stays None, and bytes keep zeros at their end."""
    out = np.empty(len(values), object)
    out[:] = values
    return out
