"""A generator as ONNX: pictures and masks of PyTorch for any number of scenes, with labels too; misfits are named."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_models import make_discriminator

from layered_plugin import export, onnx_files
from layered_plugin.errors import UserError
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.layers import composite, visible_masks
from layered_plugin.model.perturb import shift_foreground
from layered_plugin.model.snapshots import load_snapshot, save_network_pkl

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the extra `onnx` is not installed")

# An export takes seconds for every network and block, so one kind has all that is special, and the other is tiny.
KINDS = dict(special=dict(c_dim=2, generator="single", num_objects=2, side=8), plain=dict(c_dim=0, side=4))


def save_network(path, side, **kwargs):
    torch.manual_seed(0)
    G = LayeredGenerator(z_dim=8, w_dim=8, img_resolution=side, img_channels=3, mapping_kwargs=dict(num_layers=1),
                         synthesis_kwargs=dict(channel_base=32, channel_max=4, num_fp16_res=2, conv_clamp=256,
                                               half_dtype="bfloat16"), **kwargs)
    for name, param in G.named_parameters():
        if name.endswith("noise_strength"):
            param.data.fill_(0.3)
    for net in G.mapping.children():
        net.w_avg.normal_()
    save_network_pkl(path, dict(G=G, D=make_discriminator(), G_ema=G, training_set_kwargs=None, augment_pipe=None))
    return path


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    """Snapshot, and the ONNX file of it that the command wrote with --trunc=0.5."""
    folder = tmp_path_factory.mktemp("onnx")
    network, dest = save_network(folder / "network.pkl", **KINDS[request.param]), folder / "new/scenes.onnx"
    result = CliRunner().invoke(export.main, ["onnx", f"--network={network}", "--trunc=0.5", f"--dest={dest}"])
    assert result.exit_code == 0, result.output
    assert f"{dest}: differs from PyTorch by at most" in result.stderr
    assert [path.name for path in dest.parent.iterdir()] == ["scenes.onnx"]
    return network, dest


def test_pictures_and_masks_are_pytorchs_for_any_number(exported):
    import onnxruntime

    network, dest = exported
    G = load_snapshot(network)["G_ema"]
    session = onnxruntime.InferenceSession(dest, providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["z", "shift"] + ["label"] * (G.c_dim > 0)
    assert [entry.name for entry in session.get_outputs()] == ["picture", "mask"]
    for num in (1, 3):
        z, shift = torch.randn(num, 8), torch.randint(-3, 4, [num, G.num_objects, 2])
        given = dict(z=z, shift=shift)
        label = torch.eye(2)[[1, 0, 1][:num]] if G.c_dim > 0 else None
        if label is not None:
            given["label"] = label
        layers = G(z, label, return_layers=True, noise_mode="const", truncation_psi=0.5, force_fp32=True)
        layers = shift_foreground(layers, shift.flatten(0, 1))
        picture, mask = session.run(None, {name: value.numpy() for name, value in given.items()})
        np.testing.assert_allclose(picture, composite(layers).numpy(), atol=1e-4)
        np.testing.assert_allclose(mask, visible_masks(layers).numpy(), atol=1e-4)
        side = G.img_resolution
        assert picture.shape == (num, 3, side, side) and mask.shape == (num, G.num_objects, side, side)
        assert picture.std() > 0.05 and mask.std() > 1e-3


@pytest.mark.parametrize("net, reason", [
    (lambda z: z if z.sum() > 0 else -z, "can't write this network as ONNX"),  # Its numbers decide about the graph.
    (lambda z: (z + torch.zeros(2, 3)).flatten(), "can't write this network as ONNX"),  # It takes two samples only.
    (lambda z: z + torch.randn(3), "differs from PyTorch by"),
])
def test_network_that_has_no_onnx_is_named(tmp_path, net, reason):
    module = torch.nn.Module()
    module.forward = net
    with pytest.raises(UserError, match=rf"a\.onnx: .*{reason}") as err:
        onnx_files.write_onnx(module.eval(), dict(z=torch.ones(2, 3)), ["y"], tmp_path / "a.onnx")
    assert "\n" not in str(err.value) and list(tmp_path.iterdir()) == []


def test_file_that_can_not_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "_convert", lambda net, inputs, outputs, path: path.write_bytes(b""))
    monkeypatch.setattr(onnx_files, "_difference", lambda *_args: 0.0)
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_args, **_kwargs: None)
    network = save_network(tmp_path / "network.pkl", side=4, c_dim=0)
    dest = network / "a.onnx"
    result = CliRunner().invoke(export.main, ["onnx", f"--network={network}", f"--dest={dest}"])
    assert result.exit_code == 1 and f"--dest: can't write to {dest}: " in result.stderr
