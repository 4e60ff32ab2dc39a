"""Distilled segmenter to ONNX, checked against PyTorch with onnxruntime."""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from layered_plugin.errors import UserError
from layered_plugin.files import atomic_write
from layered_plugin.segmentation.model_file import load_model

TOLERANCE = 1e-4

OPSET = 18


class _MaskNet(torch.nn.Module):
    """U-Net with its sigmoid."""

    def __init__(self, unet: torch.nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.unet(image))


def export_onnx(model: str | os.PathLike[str], dest: str | os.PathLike[str]) -> float:
    """Write a distilled model as ONNX: `image` [N, 3, R, R] in [-1, 1] to `mask` [N, 1, R, R] in [0, 1], N free.

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
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - PyTorch's exporter needs it.
    except ImportError as err:
        raise UserError(f"{err}; pip install 'layered-plugin[onnx]' brings what ONNX needs") from err
    meta, networks = load_model(model)
    if meta["kind"] != "distill":
        raise UserError(f"{model}: only a distilled model can be exported, this is of kind {meta['kind']}")
    net = _MaskNet(networks["unet"].to(memory_format=torch.contiguous_format)).eval()
    side = meta["resolution"]
    image = torch.rand([2, 3, side, side], generator=torch.Generator().manual_seed(0)) * 2 - 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        batch = torch.export.Dim("batch")
        torch.onnx.export(net, (image,), path, dynamo=True, verbose=False, opset_version=OPSET, external_data=False,
                          input_names=["image"], output_names=["mask"], dynamic_shapes=dict(image={0: batch}))
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        difference = 0.0
        for part in (image, image[:1]):
            with torch.no_grad():
                expected = net(part).numpy()
            difference = max(difference, float(np.abs(session.run(None, {"image": part.numpy()})[0] - expected).max()))
        if difference > TOLERANCE:
            raise UserError(f"{dest}: the exported model differs from PyTorch by {difference:g}")
        with atomic_write(dest) as file:
            file.write(path.read_bytes())
    return difference
