"""Tests of legacy: loading and checking pickles, float16 rebuilding, and TensorFlow conversion.

TensorFlow pickles are made here: a stand-in class under TensorFlow's module name and variables in its layouts.
"""

import copy
import io
import pickle
import sys
import types
from pathlib import Path

import legacy
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch_utils import misc
from training import networks

from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.training import init_from

_G_KWARGS = {
    "z_dim": 6,
    "c_dim": 0,
    "w_dim": 5,
    "img_resolution": 16,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 2, "layer_features": 7},
    "synthesis_kwargs": {"channel_base": 64, "channel_max": 8},
}
_D_KWARGS = {
    "c_dim": 0, "img_resolution": 16, "img_channels": 3, "channel_base": 64, "channel_max": 8,
    "epilogue_kwargs": {"mbstd_group_size": 2},
}  # fmt: skip


def _randomize(net: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, tensor in misc.named_params_and_buffers(net):
            if not name.endswith("resample_filter"):
                tensor.copy_(torch.randn_like(tensor))
    return net.eval().requires_grad_(False)


def _networks(**changes) -> dict[str, torch.nn.Module]:
    G = _randomize(networks.Generator(**_G_KWARGS))
    return {"G": G, "D": _randomize(networks.Discriminator(**_D_KWARGS)), "G_ema": copy.deepcopy(G), **changes}


def _load(data, **kwargs) -> dict:
    return legacy.load_network_pkl(io.BytesIO(pickle.dumps(data)), **kwargs)


def test_present_pickles_load_with_defaults_and_further_entries() -> None:
    data = _networks(note="kept")
    loaded = _load(data)
    assert set(loaded) == {"G", "D", "G_ema", "training_set_kwargs", "augment_pipe", "note"}
    assert loaded["training_set_kwargs"] is None and loaded["augment_pipe"] is None and loaded["note"] == "kept"
    z = torch.randn(2, 6)
    assert torch.equal(loaded["G_ema"](z, None, noise_mode="const"), data["G_ema"](z, None, noise_mode="const"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"D": None}, "`D`"),
        ({"G": 3}, "`G`"),
        ({"G_ema": {}}, "`G_ema`"),
        ({"training_set_kwargs": [1]}, "`training_set_kwargs`"),
        ({"augment_pipe": 1}, "`augment_pipe`"),
    ],
)
def test_wrong_entries_are_named(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _load(_networks(**change))


@pytest.mark.parametrize("data", [[1, 2], (1, 2, 3)])
def test_other_objects_are_refused(data) -> None:
    with pytest.raises(ValueError, match=type(data).__name__):
        _load(data)


def test_force_fp16_rebuilds_with_the_same_values() -> None:
    data = _networks()
    loaded = _load(data, force_fp16=True)
    assert [loaded["G"].synthesis.b4.use_fp16, loaded["G"].synthesis.b16.use_fp16] == [False, True]
    assert loaded["D"].b16.use_fp16 and loaded["D"].b16.conv0.conv_clamp == 256
    assert loaded["G"].init_kwargs["synthesis_kwargs"] == {
        "channel_base": 64, "channel_max": 8, "num_fp16_res": 4, "conv_clamp": 256
    }  # fmt: skip
    for key in ("G", "D", "G_ema"):
        assert not loaded[key].training and not any(p.requires_grad for p in loaded[key].parameters())
        for name, tensor in misc.named_params_and_buffers(loaded[key]):
            assert torch.equal(tensor, data[key].state_dict()[name])
    again = legacy._with_fp16("G", loaded["G"])
    assert again is loaded["G"]


@pytest.mark.parametrize(
    ("D", "message"),
    [(torch.nn.Linear(1, 1), "persistent"), (networks.Discriminator(0, 8, 3, channel_base=32), "keywords")],
)
def test_force_fp16_refuses_networks_it_cannot_rebuild(D: torch.nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=f"`D`.*{message}"):
        _load(_networks(D=D), force_fp16=True)


class Network:
    """What the pickles of TensorFlow contain; pickled under the name of TensorFlow's class."""

    def __init__(self, variables=(), components=None, src="", func="", **static_kwargs) -> None:
        self.__dict__.update(
            version=5, name="net", static_kwargs=static_kwargs, components=components or {}, build_module_src=src,
            build_func_name=func, variables=list(variables),
        )  # fmt: skip


@pytest.fixture
def as_tf(monkeypatch):
    """Return a function that pickles and loads a tuple of networks as TensorFlow's pickles are."""
    for name in ("dnnlib.tflib", "dnnlib.tflib.network"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(Network, "__module__", "dnnlib.tflib.network")
    sys.modules["dnnlib.tflib.network"].Network = Network
    return lambda *nets: _load(nets)


_BUILD_SRC = """
import tensorflow as tf
def G_mapping(latents_in, mapping_lrmul = 0.01, mapping_nonlinearity = 'lrelu', normalize_latents = True, **_kwargs):
    pass
def G_synthesis(dlatents_in, fmap_base = 16 << 10, nonlinearity = 'lrelu', resample_kernel = [1,3,3,1], **_kwargs):
    pass
def G_main(latents_in, dlatent_avg_beta = 0.995, other = tf.float32, **kwargs):
    pass
def D_main(images_in, nonlinearity = 'lrelu', *, mbstd_group_size = 2, resample_kernel = [1,3,3,1], **_kwargs):
    pass
"""


def _hwio(weight: torch.Tensor, flip: bool = False) -> np.ndarray:
    """Kernel [O, I, kh, kw] in TensorFlow's layout, element by element."""
    out_features, in_features, height, width = weight.shape
    kernel = np.zeros([height, width, in_features, out_features], dtype=np.float32)
    for y in range(height):
        for x in range(width):
            source = (height - 1 - y, width - 1 - x) if flip else (y, x)
            kernel[y, x] = weight[:, :, source[0], source[1]].numpy().T
    return kernel


def _tf_layer(layer: torch.nn.Module, scope: str, flip: bool = False) -> list[tuple[str, np.ndarray]]:
    found = [(f"{scope}/weight", _hwio(layer.weight, flip))]
    if layer.bias is not None:
        found.append((f"{scope}/bias", layer.bias.numpy()))
    if hasattr(layer, "affine"):
        found.append((f"{scope}/mod_weight", layer.affine.weight.numpy().T))
        found.append((f"{scope}/mod_bias", layer.affine.bias.numpy() - 1))
    if hasattr(layer, "noise_strength"):
        found.append((f"{scope}/noise_strength", layer.noise_strength.numpy()))
    return found


def _tf_dense(layer: torch.nn.Module, scope: str) -> list[tuple[str, np.ndarray]]:
    return [(f"{scope}/weight", layer.weight.numpy().T), (f"{scope}/bias", layer.bias.numpy())]


def _tf_generator(G: torch.nn.Module, grown: bool = False, **static_kwargs) -> Network:
    synthesis: list[tuple[str, np.ndarray]] = [("4x4/Const/const", G.synthesis.b4.const.numpy()[np.newaxis])]
    noise = []
    for r in G.synthesis.block_resolutions:
        block = getattr(G.synthesis, f"b{r}")
        if r > 4:
            synthesis += _tf_layer(block.conv0, f"{r}x{r}/Conv0_up", flip=True)
            noise.append(block.conv0.noise_const)
        synthesis += _tf_layer(block.conv1, f"{r}x{r}/Conv1" if r > 4 else "4x4/Conv")
        noise.append(block.conv1.noise_const)
        if hasattr(block, "torgb"):
            synthesis += _tf_layer(block.torgb, "ToRGB_lod0" if grown else f"{r}x{r}/ToRGB")
        if hasattr(block, "skip"):
            synthesis += _tf_layer(block.skip, f"{r}x{r}/Skip", flip=True)
    synthesis += [(f"noise{i}", value.numpy()[np.newaxis, np.newaxis]) for i, value in enumerate(noise)]
    if grown:
        synthesis += [("lod", np.float32(0)), ("ToRGB_lod1/weight", np.zeros([1, 1, 8, 3], np.float32))]

    mapping = []
    for i in range(G.mapping.num_layers):
        mapping += _tf_dense(getattr(G.mapping, f"fc{i}"), f"Dense{i}")
    if G.c_dim > 0:
        mapping += _tf_dense(G.mapping.embed, "LabelEmbed")
    components = {
        "mapping": Network(mapping, src=_BUILD_SRC, func="G_mapping", label_size=G.c_dim),
        "synthesis": Network(synthesis, src=_BUILD_SRC, func="G_synthesis"),
    }
    variables = [("dlatent_avg", G.mapping.w_avg.numpy())]
    return Network(variables, components, src=_BUILD_SRC, func="G_main", label_size=G.c_dim, **static_kwargs)


def _tf_discriminator(D: torch.nn.Module, src: str = _BUILD_SRC, grown: bool = False, **static_kwargs) -> Network:
    variables = _tf_layer(D.b4.conv, "4x4/Conv") + _tf_dense(D.b4.fc, "4x4/Dense0") + _tf_dense(D.b4.out, "Output")
    for r in D.block_resolutions:
        block = getattr(D, f"b{r}")
        for layer, name in {"fromrgb": "FromRGB", "conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip"}.items():
            if hasattr(block, layer):
                scope = "FromRGB_lod0" if grown and layer == "fromrgb" else f"{r}x{r}/{name}"
                variables += _tf_layer(getattr(block, layer), scope)
    if hasattr(D.b4, "fromrgb"):
        variables += _tf_layer(D.b4.fromrgb, "4x4/FromRGB")
    if D.c_dim > 0:
        variables += _tf_dense(D.mapping.embed, "LabelEmbed")
        for i in range(D.mapping.num_layers):
            variables += _tf_dense(getattr(D.mapping, f"fc{i}"), f"Mapping{i}")
    return Network(variables, src=src, func="D_main", label_size=D.c_dim, **static_kwargs)


def _assert_same(net: torch.nn.Module, expected: torch.nn.Module) -> None:
    wanted = expected.state_dict()
    assert list(net.state_dict()) == list(wanted)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-6, msg=name)
    assert not net.training and not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize(
    ("architecture", "grown"), [("skip", False), ("resnet", False), ("orig", False), ("orig", True)]
)
def test_tensorflow_networks_are_converted(as_tf, architecture: str, grown: bool, c_dim: int) -> None:
    g_kwargs = copy.deepcopy(_G_KWARGS) | {"c_dim": c_dim}
    g_kwargs["synthesis_kwargs"]["architecture"] = architecture
    G, G_ema = (_randomize(networks.Generator(**g_kwargs)) for _ in range(2))
    labels = {"cmap_dim": 4, "mapping_kwargs": {"num_layers": 2, "lr_multiplier": 0.1}} if c_dim else {}
    D = _randomize(networks.Discriminator(**_D_KWARGS | labels | {"c_dim": c_dim, "architecture": architecture}))
    d_static = {"mapping_lrmul": 0.1} if c_dim else {}

    tf_nets = _tf_generator(G, grown), _tf_discriminator(D, grown=grown, **d_static), _tf_generator(G_ema, grown)
    loaded = as_tf(*tf_nets)
    for key, expected in {"G": G, "D": D, "G_ema": G_ema}.items():
        _assert_same(loaded[key], expected)
    z, c = torch.randn(4, 6), torch.eye(3)[[0, 1, 2, 0]] if c_dim else None
    img = G_ema(z, c, noise_mode="const", truncation_psi=0.5)
    torch.testing.assert_close(loaded["G_ema"](z, c, noise_mode="const", truncation_psi=0.5), img)
    torch.testing.assert_close(loaded["D"](img, c), D(img, c))


def test_label_mapping_of_a_tensorflow_discriminator_has_the_activation_of_its_other_layers(as_tf) -> None:
    act = {"activation": "swish"}
    mapping = {"num_layers": 1, "lr_multiplier": 0.1, **act}
    kwargs = _D_KWARGS | {"c_dim": 3, "mapping_kwargs": mapping, "block_kwargs": act}
    kwargs["epilogue_kwargs"] = _D_KWARGS["epilogue_kwargs"] | act
    D = _randomize(networks.Discriminator(**kwargs))
    tf_G = _tf_generator(_networks()["G"])
    loaded = as_tf(tf_G, _tf_discriminator(D, mapping_lrmul=0.1, nonlinearity="swish"), tf_G)["D"]
    img, c = torch.randn(2, 3, 16, 16), torch.eye(3)[:2]
    torch.testing.assert_close(loaded(img, c), D(img, c))


def test_tensorflow_settings_reach_the_networks(as_tf) -> None:
    G, D = _networks()["G"], _networks()["D"]
    tf_G = _tf_generator(G, dlatent_avg_beta=0.9, num_fp16_res=2, conv_clamp=256)
    loaded = as_tf(tf_G, _tf_discriminator(D, mbstd_group_size=3, conv_clamp=128, num_fp16_res=1), tf_G)
    assert loaded["G"].mapping.w_avg_beta == 0.9 and loaded["G"].synthesis.b8.use_fp16
    assert loaded["G"].synthesis.b8.conv0.conv_clamp == 256 and loaded["D"].b16.conv0.conv_clamp == 128
    assert loaded["D"].b16.use_fp16 and not loaded["D"].b8.use_fp16 and loaded["D"].b4.mbstd.group_size == 3


def _change(net: Network, old: str, new: str | None) -> Network:
    """Rename (or drop) a variable of the network or of its components."""
    net = copy.deepcopy(net)
    for part in (net, *net.components.values()):
        part.variables = [(new if name == old else name, v) for name, v in part.variables if name != old or new]
    return net


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda G, D: (_change(G, "8x8/Conv1/bias", None), D), "8x8/Conv1/bias"),
        (lambda G, D: (_change(G, "Dense1/bias", "Dense1/other"), D), "Dense1/bias"),
        (lambda G, D: (_change(G, "8x8/Conv0_up/weight", "64x64/Conv0_up/weight"), D), "resolutions"),
        (lambda G, D: (G, _change(D, "Output/bias", "Output2/bias")), "Output/bias"),
        (lambda G, D: (G, Network(D.variables + [("Attention/weight", np.zeros(1))], src=_BUILD_SRC, func="D_main")),
         "Attention/weight"),
        (lambda G, D: (G, Network(D.variables, src="", func="D_main")), "nonlinearity"),
        (lambda G, D: (G, Network(D.variables, src=_BUILD_SRC, func="D_main", use_spectral_norm=True)), "use_spectral"),
        (lambda G, D: (G, Network(D.variables, src=_BUILD_SRC, func="D_main", label_size=5)), "labels"),
        (lambda G, D: (G, Network(D.variables, src="def broken(:", func="D_main")), "source"),
    ],
)  # fmt: skip
def test_tensorflow_networks_that_cannot_be_converted_say_why(as_tf, make, message: str) -> None:
    nets = _networks()
    tf_G, tf_D = make(_tf_generator(nets["G"]), _tf_discriminator(nets["D"]))
    with pytest.raises(ValueError, match=message):
        as_tf(tf_G, tf_D, tf_G)


def test_layers_start_from_a_tensorflow_pickle(as_tf, tmp_path: Path, monkeypatch) -> None:
    G, D = _networks()["G"], _networks()["D"]
    (tmp_path / "old.pkl").write_bytes(pickle.dumps((_tf_generator(G), _tf_discriminator(D), _tf_generator(G))))
    config: dict = dict(G_kwargs=dict(mapping_kwargs={}, synthesis_kwargs={}),
                        D_kwargs=dict(block_kwargs={}, mapping_kwargs={}, epilogue_kwargs={}))
    path, shape = str(tmp_path / "old.pkl"), dict(c_dim=0, img_resolution=16, img_channels=3)
    init_from.adopt_plain(config, path)
    layered = LayeredGenerator(w_dim=G.w_dim, **shape, **config["G_kwargs"]).requires_grad_(False)
    own_D = networks.Discriminator(**shape, **config["D_kwargs"]).requires_grad_(False)
    monkeypatch.setattr(init_from, "MASK_STEPS", 3)
    init_from.start_from_plain(path, layered, own_D, copy.deepcopy(layered), 0.2, 4, print)
    z = torch.randn(4, 6)
    img = G(z, None, noise_mode="const")
    torch.testing.assert_close(layered.eval()(z, None, noise_mode="const"), img, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(own_D(img, None), D(img, None))


def test_command_converts_a_file(tmp_path: Path) -> None:
    source, dest = tmp_path / "old.pkl", tmp_path / "new.pkl"
    source.write_bytes(pickle.dumps(_networks()))
    args = ["--source", str(source), "--dest", str(dest), "--force-fp16", "1"]
    result = CliRunner().invoke(legacy.convert_network_pickle, args, catch_exceptions=False)
    assert result.exit_code == 0
    with open(dest, "rb") as file:
        assert legacy.load_network_pkl(file)["D"].b16.use_fp16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.pkl", "old.pkl"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "--source"),
        (["--source", "missing.pkl"], 2, "--dest"),
        (["--source", "missing.pkl", "--dest", "x.pkl"], 1, "missing.pkl"),
        (["--source", "missing.pkl", "--dest", "x.pkl", "--force-fp16", "maybe"], 2, "maybe"),
    ],
)
def test_command_refuses(args: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(legacy.convert_network_pickle, args)
    assert result.exit_code == code and message in result.output
