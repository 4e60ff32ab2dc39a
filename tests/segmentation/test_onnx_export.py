"""ONNX export: the same masks as PyTorch for any batch, checked before the file appears; misfits are named."""

import contextlib
import sys

import numpy as np
import pytest
import torch
from tiny_models import SIDE, make_model, picture, small_resnet

from layered_plugin import onnx_files
from layered_plugin.data.pictures import inner_box, to_float, to_letterbox
from layered_plugin.errors import ModelError, UserError
from layered_plugin.segmentation import segmenter
from layered_plugin.segmentation.model_file import load_model
from layered_plugin.segmentation.onnx_export import export_onnx
from layered_plugin.segmentation.segmenter import Refinement, Segmenter

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the extra `onnx` is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "distill")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "apple.onnx"
    return path, export_onnx(model, path)


def test_exported_masks_are_pytorchs_for_any_batch(model, exported):
    import onnxruntime

    path, difference = exported
    assert 0 <= difference <= 1e-5
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (source,), (target,) = session.get_inputs(), session.get_outputs()
    assert (source.name, source.type, source.shape[1:]) == ("image", "tensor(float)", [3, SIDE, SIDE])
    assert (target.name, target.type, target.shape[1:]) == ("mask", "tensor(float)", [1, SIDE, SIDE])
    unet = load_model(model)[1]["unet"]
    for num in (1, 2, 7):
        image = torch.rand([num, 3, SIDE, SIDE], generator=torch.Generator().manual_seed(num)) * 2 - 1
        (mask,) = session.run(None, {"image": image.numpy()})
        np.testing.assert_allclose(mask, unet(image).sigmoid().detach().numpy(), atol=1e-5)
        assert mask.std() > 1e-3


def test_picture_that_is_not_square_goes_in_and_out_as_the_documentation_says(model, exported, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(segmenter, "fast_half", lambda _device: contextlib.nullcontext())
    img = picture(40, 23)
    image = to_float(torch.from_numpy(to_letterbox(img, SIDE))[None]).numpy()
    (mask,) = onnxruntime.InferenceSession(exported[0]).run(None, {"image": image})
    box = inner_box(img.size, SIDE)
    part = torch.from_numpy(mask[:, :, box.top:box.bottom, box.left:box.right])
    stretched = torch.nn.functional.interpolate(part, size=(40, 23), mode="bilinear")[0, 0].numpy()
    (result,) = Segmenter.load(model, "cpu")([img], refinement=Refinement(sharp=False))
    np.testing.assert_allclose(stretched, result.mask, atol=1e-4)


def test_file_is_a_valid_model_by_itself(exported):
    import onnx

    path, _difference = exported
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert [file.name for file in path.parent.iterdir()] == ["apple.onnx"]


def test_difference_is_an_error_and_leaves_what_was_there(model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "TOLERANCE", -1.0)
    (tmp_path / "apple.onnx").write_bytes(b"before")
    with pytest.raises(UserError, match=r"apple\.onnx: the exported model differs from PyTorch by"):
        export_onnx(model, tmp_path / "apple.onnx")
    assert (tmp_path / "apple.onnx").read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", ["encoder", "chunks"])
def test_encoder_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("torchvision.models.resnet18", small_resnet)
    folder = make_model(tmp_path / "model", kind)
    with pytest.raises(UserError, match=f"model: only a distilled model can be exported, this is of kind {kind}"):
        export_onnx(folder, tmp_path / "apple.onnx")
    assert not (tmp_path / "apple.onnx").exists()


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_missing_package_is_named_with_the_remedy(model, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}.*pip install 'layered-plugin\[onnx\]'"):
        export_onnx(model, tmp_path / "apple.onnx")


def test_damaged_model_is_named(tmp_path):
    folder = make_model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        export_onnx(folder, tmp_path / "apple.onnx")
