"""Fading: the ends of alpha are the smaller and the ordinary network; baked networks are ordinary."""

import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch_utils import misc
from torch_utils.ops import upfirdn2d
from training.networks import Discriminator

from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.training.fading import Fade

CHANNELS = dict(channel_base=64, channel_max=6)
KINDS = [dict(), dict(generator="single"), dict(mapping="shared")]


def make_G(resolution, **kind):
    return LayeredGenerator(z_dim=8, c_dim=0, w_dim=8, img_resolution=resolution, img_channels=3, **kind,
                            mapping_kwargs=dict(num_layers=1), synthesis_kwargs=dict(CHANNELS, use_noise=False))


def make_D(resolution, architecture="resnet"):
    return Discriminator(c_dim=0, img_resolution=resolution, img_channels=3, architecture=architecture, **CHANNELS)


def grown(architecture="resnet", **kind):
    """An 8x8 pair, and a 16x16 pair that has its blocks, with its fade over kimg 2 to 4."""
    torch.manual_seed(0)
    small_G, small_D = make_G(8, **kind), make_D(8, architecture)
    G, D = make_G(16, **kind), make_D(16, architecture)
    for net in (small_G, small_D, G, D):  # Biases begin at 0, where they could not be told apart.
        for tensor in net.eval().parameters():
            tensor.data.add_(0.1 * torch.randn_like(tensor))
    misc.copy_params_and_buffers(small_G, G)
    misc.copy_params_and_buffers(small_D, D)
    return small_G, small_D, G, D, Fade(G, D, small_D, 2, 4)


def up(img):
    return upfirdn2d.upsample2d(img, upfirdn2d.setup_filter([1, 3, 3, 1]))


@pytest.mark.parametrize("cur_nimg, alpha", [(0, 0), (2000, 0), (2500, 0.25), (3000, 0.5), (4000, 1), (9000, 1)])
def test_alpha_goes_up_linearly_between_begin_and_end(cur_nimg, alpha):
    *_nets, fade = grown()
    fade.move_to(cur_nimg)
    assert (fade.alpha, fade.synthesis.alpha, fade.D.alpha) == (alpha, alpha, alpha)


@pytest.mark.parametrize("kind", KINDS)
def test_generator_at_0_draws_the_smaller_one_upsampled(kind):
    small_G, _small_D, G, _D, fade = grown(**kind)
    z = torch.randn(3, 8)
    small = small_G.synthesis(small_G.mapping(z, None), return_layers=True)
    layers = fade.synthesis(G.mapping(z, None), return_layers=True)
    assert torch.allclose(layers.bg, up(small.bg), atol=1e-5)
    assert torch.allclose(layers.fg, up(small.fg), atol=1e-5)
    assert torch.allclose(torch.logit(layers.mask), up(torch.logit(small.mask)), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_generator_in_between_adds_alpha_times_the_new_image(kind):
    _small_G, _small_D, G, _D, fade = grown(**kind)
    ws = G.mapping(torch.randn(3, 8), None)
    outputs = []
    for cur_nimg in (2000, 2500, 4000):
        fade.move_to(cur_nimg)
        outputs.append(fade.synthesis(ws, return_layers=True).bg)
    assert torch.allclose(outputs[1], torch.lerp(outputs[0], outputs[2], 0.25), atol=1e-5)


def test_at_1_both_are_the_ordinary_networks():
    _small_G, _small_D, G, D, fade = grown()
    fade.move_to(4000)
    ws, img = G.mapping(torch.randn(3, 8), None), torch.randn(3, 3, 16, 16)
    assert torch.equal(fade.synthesis(ws), G.synthesis(ws))
    assert torch.equal(fade.D(img, None), D(img, None))
    assert fade.blend_real(img) is img and fade.baked(G) is G


@pytest.mark.parametrize("architecture", ["resnet", "orig"])
def test_discriminator_at_0_is_the_smaller_one_on_halved_pictures(architecture):
    _small_G, small_D, _G, D, fade = grown(architecture)
    img = torch.randn(4, 3, 16, 16)
    halved = img.view(4, 3, 8, 2, 8, 2).mean(dim=[3, 5])
    assert torch.allclose(fade.D(img, None), small_D(halved, None), atol=1e-5)
    assert not torch.allclose(D(img, None), small_D(halved, None), atol=1e-2)


def test_discriminator_in_between_blends_the_features_below_the_new_block():
    _small_G, small_D, _G, D, fade = grown()
    fade.move_to(2500)
    img = torch.randn(4, 3, 16, 16)
    new, _ = D.b16(None, img)
    x, _ = D.b8(0.25 * new + 0.75 * small_D.b8.fromrgb(F.avg_pool2d(img, 2)), None)
    assert torch.allclose(fade.D(img, None), D.b4(x, None, None), atol=1e-5)


def test_call_leaves_no_hook_behind_even_if_it_fails():
    *_nets, D, fade = grown()
    fade.D(torch.randn(4, 3, 16, 16), None)
    with pytest.raises(ValueError, match="`img`"):
        fade.D(torch.randn(4, 3, 8, 8), None)
    assert not any(module._forward_hooks for module in D.modules())


@pytest.mark.parametrize("cur_nimg", [2000, 3000])
def test_every_parameter_gets_a_gradient(cur_nimg):
    """At 0 too, as DistributedDataParallel demands; and the new torgb learns at once."""
    _small_G, _small_D, G, D, fade = grown()
    fade.move_to(cur_nimg)
    fade.D(fade.synthesis(G.mapping(torch.randn(4, 8), None)), None).sum().backward()
    for module in (G, fade.D):
        assert all(param.grad is not None for param in module.parameters())
    expected = {id(param) for param in D.parameters()} | {id(param) for param in fade.D.fromrgb.parameters()}
    assert {id(param) for param in fade.D.parameters()} == expected


def test_real_pictures_at_0_are_halved_ones_upsampled_as_the_generator_does():
    *_nets, fade = grown()
    img = torch.randn(2, 3, 16, 16)
    halved = F.avg_pool2d(img, 2)
    assert torch.allclose(fade.blend_real(img), up(halved), atol=1e-6)
    fade.move_to(3000)
    assert torch.allclose(fade.blend_real(img), (up(halved) + img) / 2, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cur_nimg", [2000, 3000, 5000])
def test_baked_generator_is_an_ordinary_one_that_draws_the_same(kind, cur_nimg):
    _small_G, _small_D, G, _D, fade = grown(**kind)
    fade.move_to(cur_nimg)
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    baked = pickle.load(io.BytesIO(pickle.dumps(fade.baked(G))))
    z = torch.randn(3, 8)
    assert torch.allclose(baked(z, None), fade.synthesis(G.mapping(z, None)), atol=1e-6)
    assert baked.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in G.state_dict().items())
