"""A teacher for photographs that needs no GPU: any ONNX network from a picture to where its salient object is.

IS-Net, U2-Net and BiRefNet are such networks. They take seconds a picture, so masks are kept by content.
"""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dnnlib
import numpy as np
import PIL.Image
import torch

from layered_plugin.data.files import UNREADABLE
from layered_plugin.data.masks import OBJECT_LEVEL
from layered_plugin.errors import MissingLibraryError, TeacherError, raising
from layered_plugin.evaluation.teachers import none_if_empty, resized
from layered_plugin.files import atomic_write

SIZE_PX, MEAN, SCALE = 1024, (128.0,), (256.0,)  # IS-Net's.


class OnnxTeacher:
    """An ONNX network that was trained on salient objects, on the CPU.

    It is shown each picture squeezed to a square, as (picture - mean) / scale with levels of 0 to 255. Its first output
    is the mask; one that leaves [0, 1] is taken for logits. What it says of a picture is kept in a file whose name is a
    hash of the picture, the network and these numbers, so that it is asked once.

    Args:
        path: ONNX file with one input, [1, 3, S, S], float32.
        size_px: S, where the file leaves it open; None = the file's, or ``SIZE_PX``.
        mean, scale: One number, or one for each of red, green and blue.
        cache: Folder for the masks, made if missing; None = the one of all downloads, ``~/.cache/dnnlib``.

    Raises:
        TeacherError: The file is missing or damaged, or no such network; the text names it.
        MissingLibraryError: onnxruntime is not installed.
        ValueError: A number is of no use.
    """

    def __init__(self, path: str | os.PathLike[str], size_px: int | None = None, mean: Sequence[float] = MEAN,
                 scale: Sequence[float] = SCALE, cache: str | os.PathLike[str] | None = None) -> None:
        for name, values in (("mean", mean), ("scale", scale)):
            if len(values) not in (1, 3) or (name == "scale" and 0 in values):
                raise ValueError(f"Expected argument `{name}` to be 1 or 3 numbers, no scale 0, but got {values}")
        self.path, self._session = path, _open_network(path)
        self._input, self.size_px = _find_input(path, self._session, size_px)
        self._mean, self._scale = (np.array(values, np.float32) for values in (mean, scale))
        network = hashlib.sha256(Path(path).read_bytes())
        network.update(repr((self.size_px, tuple(mean), tuple(scale))).encode())
        root = Path(cache if cache is not None else dnnlib.make_cache_dir_path("layered_plugin", "masks"))
        self.cache = root / network.hexdigest()[:16]
        self.cache.mkdir(parents=True, exist_ok=True)

    def __call__(self, images: list[np.ndarray], names: list[str]) -> list[np.ndarray | None]:
        """See ``Teacher``; one picture at a time."""
        return [none_if_empty(self._mask(image, name) >= OBJECT_LEVEL)
                for image, name in zip(images, names, strict=True)]

    def _mask(self, image: np.ndarray, name: str) -> np.ndarray:
        """Opacity of 0 to 255, [H, W], uint8."""
        content = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        path = self.cache / f"{content}.png"
        try:
            with PIL.Image.open(path) as kept:
                mask = np.asarray(kept)
            if mask.dtype == np.uint8 and mask.shape == image.shape[:2]:
                return mask
        except UNREADABLE:  # Not there, or damaged.
            pass
        opacity = PIL.Image.fromarray(np.round(self._ask(image, name) * 255).astype(np.uint8))
        opacity = resized(opacity, (image.shape[1], image.shape[0]))
        data = io.BytesIO()
        opacity.save(data, "png")
        with atomic_write(path) as file:
            file.write(data.getvalue())
        return np.asarray(opacity)

    def _ask(self, image: np.ndarray, name: str) -> np.ndarray:
        """The network's mask of a picture, [S, S] or what it gives, float, in [0, 1]."""
        square = resized(PIL.Image.fromarray(image), (self.size_px, self.size_px))
        pixels = ((np.asarray(square, np.float32) - self._mean) / self._scale).transpose(2, 0, 1)[None]  # [1, 3, S, S]
        with raising(TeacherError, f"{self.path}: cannot be run on {name} at {self.size_px}x{self.size_px}",
                     Exception, width=200):  # Those of onnxruntime have no other base.
            output = self._session.run([self._session.get_outputs()[0].name], {self._input: pixels})[0]
        output = np.asarray(output, np.float32)
        if output.ndim < 2 or 1 in output.shape[-2:] or output.size != output.shape[-2] * output.shape[-1]:
            raise TeacherError(f"{self.path}: its first output is {list(output.shape)}, which is no mask [1, 1, S, S]")
        mask = output.reshape(output.shape[-2:])
        if np.isnan(mask).any():
            raise TeacherError(f"{self.path}: its mask of {name} at {self.size_px}x{self.size_px} is not a number "
                               "(NaN); are mean and scale those that it was trained with?")
        if mask.min() < 0 or mask.max() > 1:
            mask = 1 / (1 + np.exp(-mask.clip(-30, 30)))
        return mask


def _open_network(path: str | os.PathLike[str]) -> Any:
    try:
        import onnxruntime
    except ImportError as err:
        raise MissingLibraryError(f"{err}; pip install 'layered-plugin[onnx]' brings what ONNX needs") from err
    if not Path(path).is_file():
        raise TeacherError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # It does not know OMP_NUM_THREADS.
    options.log_severity_level = 3
    # Those of onnxruntime have no other base.
    with raising(TeacherError, f"{path}: no readable ONNX file", Exception, width=200):
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])


def _find_input(path: str | os.PathLike[str], session: Any, size_px: int | None) -> tuple[str, int]:
    """Name of the network's input, and the side of what it is shown."""
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != 4 or inputs[0].type != "tensor(float)" or shape[0] not in (1, None) and isinstance(shape[0], int) \
            or isinstance(shape[1], int) and shape[1] != 3:
        taken = ", ".join(f"{node.name} {node.shape} {node.type}" for node in inputs)
        raise TeacherError(f"{path}: must take one picture, [1, 3, S, S] of float32, but takes {taken}")
    fixed = {side for side in shape[2:] if isinstance(side, int)}
    if len(fixed) > 1 or (size_px is not None and fixed - {size_px}):
        raise TeacherError(f"{path}: takes pictures of {shape[3]}x{shape[2]} only, not of a square"
                           + ("" if size_px is None else f" of {size_px}"))
    return inputs[0].name, size_px or (fixed.pop() if fixed else SIZE_PX)
