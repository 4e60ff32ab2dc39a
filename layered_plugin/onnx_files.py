"""Networks as ONNX files, checked with onnxruntime before they appear (optional extra `onnx`)."""

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from layered_plugin.errors import MissingLibraryError, UserError, raising
from layered_plugin.files import atomic_write

TOLERANCE = 1e-4
OPSET = 18


def write_onnx(net: torch.nn.Module, inputs: Mapping[str, torch.Tensor], outputs: Sequence[str],
               dest: str | os.PathLike[str]) -> float:
    """Write a network as ONNX; the number of samples, N, is free.

    Args:
        net: Network in evaluation mode, on the CPU.
        inputs: Its arguments by name, in order, each [N, ...] with N of at least 2: what the file is checked with.
        outputs: Names of what it returns, a tensor or a tuple of them.
        dest: File to write, whole or not at all.

    Returns:
        Largest difference of what onnxruntime and PyTorch make of the same inputs, of all samples and of one.

    Raises:
        MissingLibraryError: An optional package is missing.
        UserError: The network can't be written as ONNX, or the two results differ.
        OSError: The file can't be written.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - PyTorch's exporter needs it.
    except ImportError as err:
        raise MissingLibraryError(f"{err}; pip install 'layered-plugin[onnx]' brings what ONNX needs") from err
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with raising(UserError, f"{dest}: PyTorch {torch.__version__} can't write this network as ONNX",
                     Exception, width=200):  # Converter and runtime refuse a network in many ways.
            _convert(net, inputs, outputs, path)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            num = len(next(iter(inputs.values())))
            difference = max(_difference(net, session, inputs, size) for size in (num, 1))
        if not difference <= TOLERANCE:
            raise UserError(f"{dest}: the exported model differs from PyTorch by {difference:g}")
        with atomic_write(dest) as file:
            file.write(path.read_bytes())
    return difference


def _convert(net: torch.nn.Module, inputs: Mapping[str, torch.Tensor], outputs: Sequence[str], path: Path) -> None:
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of several inputs, that their batches are one.
        torch.onnx.export(net, tuple(inputs.values()), path, dynamo=True, verbose=False, opset_version=OPSET,
                          external_data=False, input_names=list(inputs), output_names=list(outputs),
                          dynamic_shapes=[{0: batch}] * len(inputs))


@torch.no_grad()
def _difference(net: torch.nn.Module, session, inputs: Mapping[str, torch.Tensor], size: int) -> float:
    """Largest difference for the first samples."""
    part = {name: value[:size] for name, value in inputs.items()}
    expected = net(*part.values())
    actual = session.run(None, {name: value.numpy() for name, value in part.items()})
    expected = (expected,) if isinstance(expected, torch.Tensor) else expected
    return max(float(np.abs(out - want.numpy()).max()) for out, want in zip(actual, expected, strict=True))
