"""Encoder: the paper's sizes, where its codes start, and moving the foreground against whole-pixel shifts."""

import pytest
import torch
from tiny_models import make_generator
from torch import nn

from layered_plugin import device
from layered_plugin.model import encoder as encoder_module
from layered_plugin.model.encoder import Codes, Encoder, decode, move_foreground
from layered_plugin.model.layers import Layers, composite
from layered_plugin.model.perturb import shift_foreground, shift_images


def test_at_64_pixels_it_is_the_papers():
    """Section 4: ResNet-18 without average pooling; 5 scales x 2 x 2 generators = 20 codes of 512 = 10240 outputs."""
    E = Encoder(64, num_ws=10, w_dim=2 * 512, from_mean=False)
    assert (E.head.in_features, E.head.out_features) == (512 * 2 * 2, 10240)
    assert not any(isinstance(module, (nn.AdaptiveAvgPool2d, nn.AvgPool2d)) for module in E.modules())
    convs = [module for module in E.body.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 1 + 16 + 3, "17 convolutions and the fully connected layer make 18; 3 lie in shortcuts"
    assert sum(param.numel() for param in E.body.parameters()) == 11_689_512 - 513_000, "all but ImageNet's classes"
    codes = E.eval()(torch.zeros(1, 3, 64, 64))
    assert codes.ws.shape == (1, 10, 1024) and codes.shift.tolist() == [[0, 0]]


@pytest.mark.parametrize("resolution, side", [(16, 1), (32, 1), (64, 2), (96, 3), (128, 4)])
def test_the_head_sees_every_place_of_the_features(resolution, side):
    E = Encoder(resolution, num_ws=2, w_dim=4).eval()
    assert E.head.in_features == 512 * side * side
    assert E.body(torch.zeros(1, 3, resolution, resolution)).shape == (1, 512, side, side)
    assert E(torch.zeros(2, 3, resolution, resolution)).ws.shape == (2, 2, 4)


def test_body_computes_in_half_precision_where_that_is_fast_and_codes_stay_float32(monkeypatch):
    torch.manual_seed(0)
    E, img, found = Encoder(32, num_ws=2, w_dim=4).eval(), torch.rand(4, 3, 32, 32) * 2 - 1, []
    nn.init.normal_(E.head.weight)
    for fast in (False, True):
        monkeypatch.setattr(device, "has_fast_bf16", lambda fast=fast: fast)
        found.append(E(img).ws)
    assert found[0].dtype == found[1].dtype == torch.float32 and not torch.equal(*found)
    assert (found[0] - found[1]).abs().max() < 0.05 * found[0].std()


class Flat(nn.Module):
    """In the place of ResNet-18: features that are the picture's."""

    def forward(self, img):
        return img.reshape(len(img), -1)[:, :512].view(-1, 512, 1, 1)


def make(**kwargs):
    """An encoder of 16x16 pictures without the weight of its body."""
    E = Encoder(16, **dict(dict(num_ws=6, w_dim=16), **kwargs))
    E.body = Flat()
    return E.eval()


def test_outputs_are_codes_then_the_shift():
    E, img = make(max_shift=0.2, from_mean=False), torch.rand(3, 3, 16, 16)
    out = img.reshape(3, -1)[:, :512] @ E.head.weight.T + E.head.bias
    codes = E(img)
    assert torch.allclose(codes.ws, out[:, :96].view(3, 6, 16), atol=1e-5)
    assert torch.allclose(codes.shift, 0.2 * torch.tanh(out[:, 96:]), atol=1e-6)
    assert E.head.out_features == 98 and make().head.out_features == 96


def test_codes_start_close_to_the_mean_w():
    E, w_avg = make(max_shift=0.2), torch.randn(16) * 5
    E.set_mean(w_avg)
    codes = E(torch.rand(4, 3, 16, 16) * 2 - 1)
    assert (codes.ws - w_avg).abs().max() < 1
    assert codes.shift.abs().max() < 0.1
    nn.init.zeros_(E.head.weight)
    assert torch.equal(E(torch.rand(1, 3, 16, 16)).ws, w_avg.expand(1, 6, 16))


def test_without_from_mean_the_mean_has_no_part_in_it():
    E, img = make(from_mean=False), torch.rand(1, 3, 16, 16)
    before = E(img).ws
    E.set_mean(torch.full([16], 100.0))
    assert torch.equal(E(img).ws, before)


def test_the_shift_is_limited():
    E = make(max_shift=0.15)
    nn.init.constant_(E.head.weight, 100.0)
    assert torch.allclose(E(torch.ones(1, 3, 16, 16)).shift, torch.tensor([[0.15, 0.15]]))
    assert torch.allclose(E(-torch.ones(1, 3, 16, 16)).shift, torch.tensor([[-0.15, -0.15]]))


def test_the_mean_travels_with_the_weights_and_the_config_builds_it_anew():
    E, img = Encoder(16, num_ws=2, w_dim=4, max_shift=0.1), torch.rand(2, 3, 16, 16)
    E.set_mean(torch.randn(4))
    twin = Encoder(**E.config)
    twin.load_state_dict(E.state_dict())
    for one, other in zip(E.eval()(img), twin.eval()(img), strict=True):
        assert torch.equal(one, other)


def test_result_does_not_depend_on_the_batch():
    E, img = Encoder(32, num_ws=2, w_dim=4, from_mean=False).eval(), torch.rand(3, 3, 32, 32)
    apart = torch.cat([E(one[None]).ws for one in img])
    assert torch.allclose(E(img).ws, apart, atol=1e-4)
    assert not torch.allclose(apart[0], apart[1], atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 3, 16, 32), (1, 3, 32, 32), (1, 1, 16, 16), (3, 16, 16)])
def test_pictures_of_another_size_are_told_back(shape):
    with pytest.raises(ValueError) as err:
        make()(torch.zeros(shape))
    assert str(err.value) == f"Expected argument `img` to be [N, 3, 16, 16], but got {list(shape)}"


def scene(num=5, height=16, width=16):
    return Layers(torch.randn(num, 3, height, width), torch.randn(num, 3, height, width),
                  torch.rand(num, 1, height, width))


def test_whole_pixels_are_the_perturbations_shift_with_its_sign_turned():
    """Eq. 2 reads at p + shift, so its shift moves the object by -shift."""
    layers = scene()
    shift = torch.tensor([[0, 0], [3, 0], [0, -2], [-4, 1], [5, 6]])
    moved, expected = move_foreground(layers, -shift / 16), shift_foreground(layers, shift)
    assert torch.equal(moved.bg, layers.bg)
    assert torch.allclose(moved.mask, expected.mask, atol=1e-5)
    inside = shift_images(torch.ones_like(layers.mask), shift)
    assert torch.allclose(moved.fg * inside, expected.fg, atol=1e-5)
    assert torch.allclose(composite(moved), composite(expected), atol=1e-5)


def test_positive_shifts_go_right_and_down_on_pictures_that_are_not_square():
    mask = torch.zeros(1, 1, 8, 16)
    mask[:, :, 2, 5] = 1
    moved = move_foreground(Layers(mask, mask.expand(-1, 3, -1, -1), mask), torch.tensor([[0.25, 0.5]]))
    expected = torch.zeros(1, 1, 8, 16)
    expected[:, :, 2 + 4, 5 + 4] = 1
    assert torch.allclose(moved.mask, expected, atol=1e-5)
    assert torch.allclose(moved.fg, expected.expand(-1, 3, -1, -1), atol=1e-5)


def test_half_a_pixel_is_the_mean_of_two():
    layers = scene()
    moved = move_foreground(layers, torch.tensor([[0.5 / 16, 0.0]]).expand(5, -1))
    left = shift_images(layers.mask, torch.tensor([[-1, 0]]).expand(5, -1))  # Nothing comes in from outside.
    assert torch.allclose(moved.mask, (layers.mask + left) / 2, atol=1e-5)
    fg = torch.cat([layers.fg[:, :, :, :1], layers.fg], dim=3)  # The border goes on.
    assert torch.allclose(moved.fg, (fg[:, :, :, 1:] + fg[:, :, :, :-1]) / 2, atol=1e-5)


def test_the_shift_has_the_gradient_of_a_difference():
    smooth = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    layers = Layers(torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16), smooth)
    shift = torch.zeros(1, 2, requires_grad=True)
    move_foreground(layers, shift).mask[0, 0, 5:10, 5:10].mean().backward()
    # To the right by a side of 16 pixels would take 16 steps of 1/15 off each pixel.
    assert torch.allclose(shift.grad, torch.tensor([[-16 / 15, 0.0]]), atol=1e-4)


def test_decode_draws_the_generators_layers_where_the_shift_says():
    G = make_generator()
    ws = G.mapping(torch.randn(3, 8), None)
    still = G.synthesis(ws, noise_mode="const", return_layers=True)
    assert all(torch.equal(a, b) for a, b in zip(decode(G, Codes(ws, torch.zeros(3, 2))), still, strict=True))
    shift = torch.tensor([[0.1, 0.0], [0.0, -0.1], [0.0, 0.0]])
    moved = decode(G, Codes(ws, shift))
    assert all(torch.equal(a, b) for a, b in zip(moved, move_foreground(still, shift), strict=True))


def test_decode_gives_a_shift_of_zero_its_gradient():
    G = make_generator()
    shift = torch.zeros(1, 2, requires_grad=True)
    composite(decode(G, Codes(G.mapping(torch.randn(1, 8), None), shift))).square().sum().backward()
    assert (shift.grad != 0).all()


def test_decode_passes_arguments_on(monkeypatch):
    G, seen = make_generator(), {}
    monkeypatch.setattr(encoder_module, "move_foreground", lambda layers, _shift: layers)
    G.synthesis.register_forward_pre_hook(lambda _module, _args, kwargs: seen.update(kwargs), with_kwargs=True)
    decode(G, Codes(torch.randn(1, G.num_ws, G.w_dim), torch.zeros(1, 2)), force_fp32=True, fused_modconv=False)
    assert seen == dict(noise_mode="const", return_layers=True, force_fp32=True, fused_modconv=False)


def test_encoders_of_small_pictures_compute_in_float32(monkeypatch):
    """Where the last stage sees a single pixel, oneDNN leaves part of the bfloat16 weight gradient unwritten."""
    monkeypatch.setattr("layered_plugin.device.has_fast_bf16", lambda: True)
    for side, dtype in ((16, torch.float32), (32, torch.bfloat16)):
        E, seen = Encoder(side, 4, 8), []
        E.body.register_forward_hook(lambda _net, _args, out, seen=seen: seen.append(out.dtype))
        E(torch.zeros(2, 3, side, side))
        assert seen == [dtype]
