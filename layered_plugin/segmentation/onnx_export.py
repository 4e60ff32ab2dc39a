"""Distilled segmenter to ONNX."""

import os

import torch

from layered_plugin.errors import UserError
from layered_plugin.onnx_files import write_onnx
from layered_plugin.segmentation.model_file import load_model


def export_onnx(model: str | os.PathLike[str], dest: str | os.PathLike[str]) -> float:
    """Write a distilled model as ONNX: `image` [N, 3, R, R] in [-1, 1] to `mask` [N, 1, R, R] in [0, 1], N free.

    A picture comes to the square as for `Segmenter` (`data.pictures.to_letterbox`, then `to_float`), which is not part
    of the file.

    Args:
        model: Run folder of ``invert.py distill``.
        dest: File to write, whole or not at all.

    Returns:
        Largest difference of the masks that onnxruntime and PyTorch give for the same random pictures.

    Raises:
        UserError: An optional package is missing, the model is no distilled one, or the two results differ.
        ModelError: The model can't be read.
        OSError: The file can't be written.
    """
    meta, networks = load_model(model)
    if meta["kind"] != "distill":
        raise UserError(f"{model}: only a distilled model can be exported, this is of kind {meta['kind']}")
    net = torch.nn.Sequential(networks["unet"].to(memory_format=torch.contiguous_format), torch.nn.Sigmoid()).eval()
    side = meta["resolution"]
    image = torch.rand([2, 3, side, side], generator=torch.Generator().manual_seed(0)) * 2 - 1
    return write_onnx(net, dict(image=image), ["mask"], dest)
