"""Eq. 7 by hand; steps of an encoder's training: frozen networks, generated pictures with known codes."""

import copy
from types import SimpleNamespace

import pytest
import torch
from tiny_models import make_discriminator, make_encoder, make_generator
from torch import nn
from training.networks import Discriminator

from layered_plugin.errors import ArgumentError
from layered_plugin.model.encoder import Codes, decode
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.layers import composite
from layered_plugin.model.perturb import random_shift
from layered_plugin.segmentation.encoder_training import EncoderTraining
from layered_plugin.segmentation.reconstruction import DiscriminatorFeatures, Reconstruction, autoencoder_loss


class Body(nn.Module):
    """In the place of ResNet-18, which is slow: 512 features, with batch normalisation."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 512, 4))

    def forward(self, img):
        return self.net(img)


def make(max_shift=0.2, lr=1e-4, **kwargs):
    """Training of a small encoder on top of an untrained generator and discriminator."""
    G, D = make_generator(), make_discriminator()
    for net in G.mapping.children():
        net.w_avg.normal_()
    E = make_encoder(G, max_shift=max_shift)
    E.body = Body()
    reconstruction = Reconstruction(G, D, **dict(dict(feature_resolution=8), **kwargs))
    return EncoderTraining(E.requires_grad_(True).train(), reconstruction, lr=lr), G, D


def pictures(num=4):
    return torch.rand(num, 3, 16, 16) * 2 - 1


def state(*networks):
    return [value.clone() for net in networks for value in net.state_dict().values()]


def same(before, *networks):
    after = [value for net in networks for value in net.state_dict().values()]
    return all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("architecture", ["resnet", "orig", "skip"])
def test_features_are_those_of_the_blocks_run_by_hand(architecture):
    D = Discriminator(c_dim=0, img_resolution=32, img_channels=3, architecture=architecture, channel_base=64,
                      channel_max=6)
    assert D.block_resolutions == [32, 16, 8]
    original = torch.rand(2, 3, 32, 32) * 2 - 1
    x, img = None, original
    for block, side in ((D.b32, 16), (D.b16, 8), (D.b8, 4)):
        x, img = block(x, img)
        features = DiscriminatorFeatures(D, side)(original)
        assert features.shape == (2, x.shape[1], side, side)
        assert torch.equal(features, x)
    assert torch.equal(D.b4(features, img, None), D(original, None)), "the epilogue goes on from there"


def test_features_at_the_papers_size():
    """Section 4: 512 x 16 x 16 features of 64x64 pictures."""
    D = Discriminator(c_dim=0, img_resolution=64, img_channels=3, channel_base=16 * 512, channel_max=512)
    assert DiscriminatorFeatures(D, 16).blocks == [D.b64, D.b32]
    assert DiscriminatorFeatures(D, 16)(torch.zeros(1, 3, 64, 64)).shape == (1, 512, 16, 16)


@pytest.mark.parametrize("resolution", [2, 6, 16, 32])
def test_another_resolution_is_told_which_there_are(resolution):
    with pytest.raises(ArgumentError, match=f"`feature_resolution` must be one of 8, 4 .* got {resolution}"):
        DiscriminatorFeatures(make_discriminator(), resolution)


@pytest.mark.parametrize("side, expected", [(64, 16), (32, 16), (16, 8), (8, 4)])
def test_features_are_of_16x16_or_half_the_pictures(side, expected):
    D = Discriminator(c_dim=0, img_resolution=side, img_channels=3, channel_base=64, channel_max=4)
    G = SimpleNamespace(img_resolution=side, mapping=SimpleNamespace(w_avg=torch.zeros(8)))
    assert Reconstruction(G, D).features(torch.zeros(1, 3, side, side)).shape[2:] == (expected, expected)


def test_features_are_float32_and_can_be_computed_so():
    torch.manual_seed(0)
    D = Discriminator(c_dim=0, img_resolution=16, img_channels=3, channel_base=64, channel_max=4, num_fp16_res=2,
                      conv_clamp=256, block_kwargs=dict(half_dtype="bfloat16"))
    img, full = pictures(), make_discriminator()
    full.load_state_dict(D.state_dict())
    half, forced = (DiscriminatorFeatures(D, 4, kwargs)(img) for kwargs in (None, dict(force_fp32=True)))
    assert half.dtype == forced.dtype == torch.float32
    exact = DiscriminatorFeatures(full, 4)(img)
    assert torch.allclose(forced, exact, atol=1e-6)
    assert 0 < (half - exact).abs().max() < 0.1


def test_both_terms_of_equation_7_by_hand():
    D = make_discriminator()
    gen, real = pictures(), pictures()
    l1, feature = autoencoder_loss(gen, real, DiscriminatorFeatures(D, 8))
    assert l1.shape == feature.shape == (4,)
    for idx in range(4):
        pixels = [abs(a - b) for a, b in zip(gen[idx].flatten().tolist(), real[idx].flatten().tolist(), strict=True)]
        assert l1[idx].item() == pytest.approx(sum(pixels) / (3 * 16 * 16), rel=1e-5)
        there, here = (D.b16(None, img[idx:idx + 1])[0].flatten().tolist() for img in (gen, real))
        squares = [(a - b) ** 2 for a, b in zip(there, here, strict=True)]
        assert feature[idx].item() == pytest.approx(sum(squares) / len(squares), rel=1e-4)


def test_loss_of_a_perfect_reconstruction_is_zero():
    img = pictures()
    terms = autoencoder_loss(img, img, DiscriminatorFeatures(make_discriminator(), 8))
    assert [term.abs().max().item() for term in terms] == [0, 0]


def test_gradients_go_to_the_reconstruction_alone():
    D = make_discriminator()
    gen, real = pictures().requires_grad_(), pictures().requires_grad_()
    _l1, feature = autoencoder_loss(gen, real, DiscriminatorFeatures(D, 4))
    feature.sum().backward()
    assert gen.grad.abs().sum() > 0 and real.grad is None
    assert all(param.grad is None for param in D.parameters())


def test_defaults_are_the_papers():
    G, D = make_generator(), make_discriminator()
    reconstruction = Reconstruction(G, D, feature_resolution=8)
    training = EncoderTraining(make_encoder(G), reconstruction)
    group = training.optimizer.param_groups[0]
    assert (group["lr"], group["betas"]) == (1e-4, (0.9, 0.999)) and isinstance(training.optimizer, torch.optim.Adam)
    assert (reconstruction.feature_weight, reconstruction.mean_w_weight) == (1.0, 0.0)
    assert (reconstruction.mask_border_weight, reconstruction.mask_area_weight) == (0.0, 0.0)
    assert len(group["params"]) == len(list(training.E.parameters()))


@pytest.mark.parametrize("feature_weight, mean_w_weight, border, area", [
    (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), (3.0, 0.5, 0.7, 0.0), (1.0, 0.0, 0.0, 0.3)])
def test_a_step_is_one_of_adam_on_equation_7(feature_weight, mean_w_weight, border, area):
    training, G, D = make(feature_weight=feature_weight, mean_w_weight=mean_w_weight, mask_border_weight=border,
                          mask_area_weight=area, lr=0.01)
    twin, img = copy.deepcopy(training.E), pictures()
    terms = training.step(img)

    ws, shift = twin(img)
    layers = decode(G, Codes(ws, shift))
    x = (1 - layers.mask) * layers.bg + layers.mask * layers.fg
    l1, feature = (x - img).abs().mean(), (D.b16(None, x)[0] - D.b16(None, img)[0]).square().mean()
    loss = l1 + feature_weight * feature + mean_w_weight * (ws - G.mapping.w_avg).square().mean()
    inside = torch.zeros_like(layers.mask, dtype=torch.bool)
    inside[:, :, 1:-1, 1:-1] = True
    loss = loss + border * layers.mask[~inside].mean() + area * layers.mask.mean()
    loss.backward()
    torch.optim.Adam(twin.parameters(), lr=0.01, betas=(0.9, 0.999)).step()

    expected = dict(loss=loss, l1=l1, feature=feature, coverage=layers.mask.mean())
    assert set(terms) == set(expected) and all(type(value) is float for value in terms.values())
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value.item(), rel=1e-4), name
    assert torch.allclose(training.E.head.weight, twin.head.weight, atol=1e-4)
    assert torch.allclose(training.E.body.net[0].weight, twin.body.net[0].weight, atol=1e-4)


def test_steps_change_the_encoder_and_no_frozen_network():
    training, G, D = make()
    before, encoder = state(G, D), state(training.E)
    training.step(pictures())
    training.pretrain_step(4, 2, torch.Generator().manual_seed(0))
    assert same(before, G, D) and not same(encoder, training.E)
    assert all(param.grad is None for net in (G, D) for param in net.parameters())
    assert all(param.grad.abs().sum() > 0 for param in training.E.head.parameters())


@pytest.mark.parametrize("pretrain", [False, True])
def test_training_lowers_the_loss(pretrain):
    training, _, _ = make(lr=0.003)
    img = pictures()
    losses = []
    for _ in range(15):
        known = torch.Generator().manual_seed(0)
        losses.append((training.pretrain_step(4, 2, known) if pretrain else training.step(img))["loss"])
    assert losses[-1] < 0.8 * losses[0]


class Knowing(nn.Module):
    """An encoder that answers with what was drawn."""

    config = dict(max_shift=0.2)

    def __init__(self, codes):
        super().__init__()
        self.ws, self.shift = (nn.Parameter(part.clone()) for part in codes)

    def forward(self, img):
        self.img = img
        return Codes(self.ws, self.shift)


@pytest.mark.parametrize("c_dim", [0, 3])
def test_on_generated_pictures_the_true_codes_cost_nothing(c_dim):
    G, D = make_generator(), make_discriminator()
    if c_dim > 0:
        G = LayeredGenerator(**dict(G.init_kwargs, c_dim=c_dim)).eval().requires_grad_(False)
    draws = torch.Generator().manual_seed(4)
    z = torch.randn([6, 8], generator=draws)
    c = torch.eye(3)[torch.randint(3, [6], generator=draws)] if c_dim > 0 else torch.zeros(6, 0)
    ws, shift = G.mapping(z, c), random_shift(6, 3, generator=draws)
    E = Knowing(Codes(ws, -shift / 16))
    reconstruction = Reconstruction(G, D, feature_resolution=8)
    terms = EncoderTraining(E, reconstruction).pretrain_step(6, 3, torch.Generator().manual_seed(4))
    assert set(terms) == {"loss", "code", "layer", "move"}
    assert all(value == pytest.approx(0, abs=1e-4) for value in terms.values()), terms
    drawn = composite(decode(G, Codes(ws, -shift / 16))).clamp(-1, 1)
    assert torch.allclose(E.img, drawn, atol=1e-4)

    away = Knowing(Codes(ws, shift / 16))
    terms = EncoderTraining(away, reconstruction).pretrain_step(6, 3, torch.Generator().manual_seed(4))
    assert terms["move"] == pytest.approx((2 * shift.abs() / 16).mean().item(), rel=1e-4)
    assert terms["layer"] > 0.01 and terms["code"] < 1e-6


def test_pretraining_repeats_by_its_generator_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    first, again, other = (make()[0] for _ in range(3))
    torch.set_rng_state(before)
    terms = [training.pretrain_step(4, 2, torch.Generator().manual_seed(seed))
             for training, seed in ((first, 0), (again, 0), (other, 1))]
    assert terms[0] == terms[1] != terms[2]
    assert same(state(first.E), again.E)
    assert torch.equal(before, torch.get_rng_state())
