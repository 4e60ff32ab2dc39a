"""LayeredGenerator: shapes, options, and the contract that upstream's tools rely on."""

import copy
import io
import pickle
import subprocess
import sys

import legacy
import pytest
import torch
from training import networks as base

from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.layers import Layers, composite

TINY = dict(z_dim=16, w_dim=12, img_resolution=16, img_channels=3, mapping_kwargs=dict(num_layers=2),
            synthesis_kwargs=dict(channel_base=128, channel_max=8))


def make(c_dim=0, **kwargs) -> LayeredGenerator:
    torch.manual_seed(0)
    return LayeredGenerator(c_dim=c_dim, **dict(TINY, **kwargs)).eval().requires_grad_(False)


VARIANTS = [dict(), dict(mapping="shared"), dict(generator="single"), dict(generator="single", mapping="shared")]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("c_dim", [0, 3])
def test_picture_is_the_composite_of_its_layers(variant, c_dim):
    G = make(c_dim=c_dim, **variant)
    z, c = torch.randn(4, 16), torch.eye(4, 3)[:, :c_dim] if c_dim else None
    img = G(z, c, noise_mode="const")
    layers = G(z, c, noise_mode="const", return_layers=True)
    assert isinstance(layers, Layers)
    assert img.shape == layers.bg.shape == layers.fg.shape == (4, 3, 16, 16)
    assert layers.mask.shape == (4, 1, 16, 16)
    assert layers.mask.min() > 0 and layers.mask.max() < 1
    assert img.dtype == torch.float32
    assert torch.equal(img, composite(layers))


def test_layers_are_those_of_two_plain_synthesis_networks():
    G = make()
    ws = torch.randn(2, G.num_ws, 24)
    layers = G.synthesis(ws, return_layers=True, noise_mode="const")
    fg = G.synthesis.fg(ws[:, :, 12:], noise_mode="const")
    assert torch.equal(layers.bg, G.synthesis.bg(ws[:, :, :12], noise_mode="const"))
    assert torch.equal(layers.fg, fg[:, :3])
    assert torch.allclose(layers.mask, torch.sigmoid(fg[:, 3:]))


@pytest.mark.parametrize("variant, width", list(zip(VARIANTS, [24, 24, 12, 12], strict=True)))
def test_ws_has_a_half_per_synthesis_network(variant, width):
    G = make(**variant)
    ws = G.mapping(torch.randn(3, 16), None)
    assert ws.shape == (3, G.num_ws, width)
    assert G.num_ws == G.mapping.num_ws == G.synthesis.num_ws == 6
    assert G.w_dim == G.mapping.w_dim == G.synthesis.w_dim == width
    assert G.mapping.w_avg.shape == (width,)


def test_separate_mappings_differ_and_a_shared_one_repeats():
    z = torch.randn(2, 16)
    separate, shared = (make(mapping=name).mapping(z, None) for name in ("separate", "shared"))
    assert not torch.allclose(separate[:, :, :12], separate[:, :, 12:])
    assert torch.equal(shared[:, :, :12], shared[:, :, 12:])


def test_truncation_moves_towards_w_avg():
    G = make().train()
    G.mapping(torch.randn(64, 16), None)  # Fills w_avg.
    G.eval()
    z = torch.randn(2, 16)
    full, half = G.mapping(z, None), G.mapping(z, None, truncation_psi=0.5)
    assert torch.allclose(half, G.mapping.w_avg + 0.5 * (full - G.mapping.w_avg), atol=1e-6)
    cut = G.mapping(z, None, truncation_psi=0.5, truncation_cutoff=2)
    assert torch.equal(cut[:, 2:], full[:, 2:]) and torch.equal(cut[:, :2], half[:, :2])


def test_w_avg_updates_in_training_unless_skipped():
    G = make().train()
    G.mapping(torch.randn(8, 16), None, skip_w_avg_update=True)
    assert not G.mapping.w_avg.any()
    G.mapping(torch.randn(8, 16), None)
    assert (G.mapping.w_avg.view(2, 12).abs().sum(dim=1) > 0).all()


def test_it_is_the_base_generator_for_isinstance_and_attributes():
    G = make(c_dim=2)
    assert isinstance(G, base.Generator)
    assert (G.z_dim, G.c_dim, G.img_resolution, G.img_channels) == (16, 2, 16, 3)
    assert [name for name, _ in G.named_children()] == ["synthesis", "mapping"]
    assert sum("noise_const" in name for name, _ in G.synthesis.named_buffers()) == 2 * 5


@pytest.mark.parametrize("kwargs, name", [(dict(generator="two"), "generator"), (dict(mapping="one"), "mapping")])
def test_unknown_variant_is_refused(kwargs, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        make(**kwargs)


def test_deepcopy_and_pickle_keep_class_arguments_and_output():
    G, z = make(), torch.randn(2, 16)
    for twin in (copy.deepcopy(G), pickle.loads(pickle.dumps(G))):
        assert type(twin) is type(G)
        assert twin.init_kwargs.synthesis_kwargs == TINY["synthesis_kwargs"]
        assert torch.equal(twin(z, None, noise_mode="const"), G(z, None, noise_mode="const"))


def test_pickle_loads_in_a_fresh_process_and_draws_the_same_picture(tmp_path):
    G, z = make(), torch.randn(1, 16)
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(dict(G=G, z=z, img=G(z, None, noise_mode="const"))))
    code = ("import pickle, sys, torch; import layered_plugin; d = pickle.load(open(sys.argv[1], 'rb')); "
            "img = d['G'](d['z'], None, truncation_psi=1, noise_mode='const'); "
            "assert torch.allclose(img, d['img'], atol=1e-5); print(type(d['G']).__name__)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "net.pkl")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "LayeredGenerator"


def test_state_dict_round_trip_through_bytes():
    G, other = make(), LayeredGenerator(c_dim=0, **TINY)
    buffer = io.BytesIO()
    torch.save(G.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    z = torch.randn(1, 16)
    assert torch.equal(other.eval()(z, None, noise_mode="const"), G(z, None, noise_mode="const"))


def test_half_precision_stays_close_and_returns_float32():
    kwargs = dict(TINY["synthesis_kwargs"], num_fp16_res=4, conv_clamp=256, half_dtype="bfloat16")
    G, full = make(synthesis_kwargs=kwargs), make()
    full.load_state_dict(G.state_dict())
    z = torch.randn(4, 16)
    img, reference = G(z, None, noise_mode="const"), full(z, None, noise_mode="const")
    assert img.dtype == torch.float32
    assert (img - reference).abs().mean() < 0.03 * reference.abs().mean()


def test_upstreams_loader_can_force_half_precision():
    G, D = make(), base.Discriminator(c_dim=0, img_resolution=16, img_channels=3, channel_base=128, channel_max=8)
    file = io.BytesIO(pickle.dumps(dict(training_set_kwargs=None, G=G, D=D.eval(), G_ema=G, augment_pipe=None)))
    forced = legacy.load_network_pkl(file, force_fp16=True)["G_ema"]
    assert type(forced) is type(G)
    assert forced.synthesis.fg.b16.use_fp16 and not G.synthesis.fg.b16.use_fp16
    z = torch.randn(2, 16)
    assert torch.allclose(forced(z, None, noise_mode="const"), G(z, None, noise_mode="const"), atol=0.05)


def test_projector_finds_its_noise_buffers_and_latent_width():
    """What upstream's projector and style mixing read of a network."""
    G = make()
    noise = {name: buf for name, buf in G.synthesis.named_buffers() if "noise_const" in name}
    w = G.mapping(torch.randn(4, 16), None)[:, :1].mean(dim=0, keepdim=True).requires_grad_()  # [1, 1, w_dim]
    for buf in noise.values():
        buf.requires_grad_()
    G.synthesis(w.repeat([1, G.mapping.num_ws, 1]), noise_mode="const").sum().backward()
    assert w.grad.abs().sum() > 0
    assert all(buf.grad is not None for buf in noise.values())
    mixed = G.mapping.w_avg + 0.5 * (w[0, 0] - G.mapping.w_avg)
    assert mixed.shape == (G.w_dim,)
