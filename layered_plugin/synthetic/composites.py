"""Benchmark data sets with exact mattes: RGBA cut-outs put over background photographs.

Run as `python -m layered_plugin.dataset_tool composites`; docs/data.md has the commands of `plants` and `plants-lit`.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from layered_plugin.data.picture_zip import picture_zips
from layered_plugin.progress import progress
from layered_plugin.synthetic.collage import Composite
from layered_plugin.synthetic.material import Source


def hold_out(cutouts: Sequence[Source], every: int | None, split: str) -> list[Source]:
    """Every n-th cut-out for the split "test", the others for "train"; all of them if n is None."""
    return [cutout for number, cutout in enumerate(cutouts)
            if every is None or (number % every == every - 1) == (split == "test")]


def write_composites(composites: Iterator[Composite], num: int, zips: Mapping[str, str | None], manifest: str) -> float:
    """Write pictures, masks and manifest; all appear only when complete.

    Args:
        composites: Pictures.
        num: How many there are.
        zips: Field of Composite to the zip for it, None = none; `picture` among them.
        manifest: File of one JSON record a picture.

    Returns:
        Mean object share.
    """
    share = 0.0
    Path(manifest).parent.mkdir(parents=True, exist_ok=True)
    partial = Path(f"{manifest}.{os.getpid()}.part")
    try:
        with picture_zips(zips) as writers, open(partial, "w") as records:
            for composite in progress(composites, num, "composites"):
                names = {field: writer.add(getattr(composite, field)) for field, writer in writers.items()}
                records.write(json.dumps({"picture": names["picture"], **composite.record}) + "\n")
                share += float(composite.mask.mean()) / 255.0
        os.replace(partial, manifest)
    finally:
        partial.unlink(missing_ok=True)
    return share / num
