"""Distilled segmenter to ONNX."""

import os

import torch

from layered_plugin.errors import UserError
from layered_plugin.onnx_files import write_onnx
from layered_plugin.segmentation.model_file import load_model


def export_onnx(model: str | os.PathLike[str], dest: str | os.PathLike[str]) -> float:
    """Write a distilled model as ONNX: `image` [N, 3, R, R] in [-1, 1] to `mask` [N, 1, R, R] in [0, 1], N free.

    A picture comes to the square as for `Segmenter` (`data.pictures.to_letterbox`, then `to_float`), which is not part
    of the file. Result and errors are those of ``write_onnx``, for random pictures; UserError if the model is no
    distilled one, ModelError if it can't be read.
    """
    meta, networks = load_model(model)
    if meta["kind"] != "distill":
        raise UserError(f"{model}: only a distilled model can be exported, this is of kind {meta['kind']}")
    net = torch.nn.Sequential(networks["unet"].to(memory_format=torch.contiguous_format), torch.nn.Sigmoid()).eval()
    side = meta["resolution"]
    image = torch.rand([2, 3, side, side], generator=torch.Generator().manual_seed(0)) * 2 - 1
    return write_onnx(net, dict(image=image), ["mask"], dest)
