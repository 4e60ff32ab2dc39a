"""The paper's adversarial loss: against closed forms, and against Eq. 5 and 6 written out picture by picture."""

import pytest
import torch
from torch_utils import training_stats
from training.networks import Discriminator

from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.layers import composite
from layered_plugin.training import wgan_gp as gan_loss
from layered_plugin.training.wgan_gp import WganGpLoss, gradient_penalty, interpolate

CHANNELS = dict(channel_base=64, channel_max=4)


class LinearCritic(torch.nn.Module):
    """D(x) = <w, x> + b, of slope |w| everywhere."""

    def __init__(self, weight, bias=0.0):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)
        self.bias = bias

    def forward(self, img, c):
        return (img * self.weight).sum(dim=[1, 2, 3])[:, None] + self.bias


def make_loss(D=None, D_kwargs=None, **kwargs):
    torch.manual_seed(0)
    G = LayeredGenerator(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3, mapping_kwargs=dict(
        num_layers=2), synthesis_kwargs=dict(CHANNELS, use_noise=False)).train().requires_grad_(False)
    if D is None:
        D = Discriminator(c_dim=0, img_resolution=16, img_channels=3, **CHANNELS,
                          **(D_kwargs or dict(epilogue_kwargs=dict(mbstd_num_channels=0)))).train()
    return G, D.requires_grad_(False), WganGpLoss("cpu", G.mapping, G.synthesis, D, **kwargs)


def batch(num=4):
    draws = torch.Generator().manual_seed(7)
    return dict(real_img=torch.randn(num, 3, 16, 16, generator=draws), real_c=torch.zeros(num, 0),
                gen_z=torch.randn(num, 8, generator=draws), gen_c=torch.zeros(num, 0))


def gradients(loss, module, phase, gain=1.0, **inputs):
    module.zero_grad(set_to_none=True)
    module.requires_grad_(True)
    torch.manual_seed(5)
    loss.accumulate_gradients(phase=phase, sync=True, gain=gain, **(inputs or batch()))
    module.requires_grad_(False)
    return {name: param.grad.clone() for name, param in module.named_parameters() if param.grad is not None}


def collected(regex):
    """Statistics reported from now on."""
    return training_stats.Collector(regex=regex, keep_previous=False)


@pytest.mark.parametrize("slope", [0.5, 1.0, 3.0])
def test_penalty_of_a_linear_critic_has_a_closed_form(slope):
    direction = torch.randn(1, 3, 4, 4)
    critic = LinearCritic(slope * direction / direction.norm())
    img = torch.randn(5, 3, 4, 4, requires_grad=True)
    penalty = gradient_penalty(critic(img, None), img)
    assert penalty.tolist() == pytest.approx([(slope - 1) ** 2] * 5, abs=1e-5)
    penalty.mean().backward()
    assert torch.allclose(critic.weight.grad, 2 * (slope - 1) * direction / direction.norm(), atol=1e-5)


def test_penalty_is_of_each_pictures_own_slope():
    img = torch.randn(4, 3, 4, 4, requires_grad=True)
    penalty = gradient_penalty(img.square().sum(dim=[1, 2, 3])[:, None] / 2, img)  # The gradient is the picture.
    assert penalty.tolist() == pytest.approx([(picture.norm().item() - 1) ** 2 for picture in img], rel=1e-5)


def test_a_flat_critic_costs_1_and_has_a_finite_gradient():
    critic = LinearCritic(torch.zeros(1, 3, 4, 4))
    img = torch.randn(2, 3, 4, 4, requires_grad=True)
    penalty = gradient_penalty(critic(img, None), img)
    penalty.mean().backward()
    assert penalty.tolist() == [1, 1] and critic.weight.grad.isfinite().all()


def test_interpolates_lie_on_the_line_between_the_pictures_of_a_pair():
    real, gen = torch.randn(500, 3, 2, 2), torch.randn(500, 3, 2, 2)
    zeta = (interpolate(real, gen) - gen) / (real - gen)
    per_picture = zeta.flatten(1).median(dim=1, keepdim=True).values
    assert torch.allclose(zeta.flatten(1), per_picture.expand(-1, 12), atol=1e-2)
    assert 0 <= per_picture.min() < 0.02 and 0.98 < per_picture.max() <= 1
    assert per_picture.mean().item() == pytest.approx(0.5, abs=0.05)


def test_discriminator_gradient_is_that_of_equation_6_written_out():
    _G, D, loss = make_loss(gp_weight=10, drift_weight=0.5)
    found = gradients(loss, D, "Dboth", gain=3.0)

    inputs = batch()
    torch.manual_seed(5)
    gen_img = loss.run_G(inputs["gen_z"], None, sync=True)[0]
    zeta = torch.rand(4, 1, 1, 1)
    D.zero_grad(set_to_none=True)
    D.requires_grad_(True)
    total = 0
    for real, gen, share in zip(inputs["real_img"], gen_img, zeta, strict=True):
        mixed = (share * real + (1 - share) * gen).detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(D(mixed[None], None), mixed, create_graph=True)
        score = D(real[None], None)
        total = total + D(gen[None], None) - score + 10 * (slope.square().sum().sqrt() - 1) ** 2 + 0.5 * score ** 2
    (3 * total / 4).backward()
    for name, param in D.named_parameters():
        assert torch.allclose(found[name], param.grad, rtol=1e-3, atol=1e-4), name


def test_generator_gradient_is_that_of_equation_5_written_out():
    G, D, loss = make_loss(style_mixing_prob=0, bg_jitter=0, shift=0, mask_min=0.8)
    found = gradients(loss, G, "Gboth")
    G.zero_grad(set_to_none=True)
    G.requires_grad_(True)
    layers = G.synthesis(G.mapping(batch()["gen_z"], None), return_layers=True)
    size = torch.relu(0.8 - layers.mask.mean(dim=[1, 2, 3]))
    binary = torch.minimum(layers.mask, 1 - layers.mask).mean(dim=[1, 2, 3])
    (-D(composite(layers), None).mean() + 2 * size.mean() + 2 * binary.mean()).backward()
    for name, param in G.named_parameters():
        assert torch.allclose(found[name], param.grad, atol=1e-6), name


def test_every_parameter_of_the_discriminator_gets_a_gradient_and_none_of_the_generator():
    G, D, loss = make_loss(D_kwargs=dict(epilogue_kwargs=dict(mbstd_group_size=2)))
    assert gradients(loss, D, "Dboth").keys() == dict(D.named_parameters()).keys()
    assert all(param.grad is None for param in G.parameters())


@pytest.mark.parametrize("phase", ["Dmain", "Dreg"])
def test_lazy_phases_are_refused(phase):
    _G, D, loss = make_loss()
    with pytest.raises(ValueError, match="D_reg_interval"):
        gradients(loss, D, phase)


def test_rounds_of_a_batch_add_up_to_its_gradient(monkeypatch):
    monkeypatch.setattr(gan_loss, "interpolate", lambda real, gen: (real + gen) / 2)
    _G, D, loss = make_loss(style_mixing_prob=0, bg_jitter=0, shift=0)
    whole = gradients(loss, D, "Dboth")
    rounds = [gradients(loss, D, "Dboth", gain=0.5, **{key: value[part] for key, value in batch().items()})
              for part in (slice(0, 2), slice(2, 4))]
    for name, value in whole.items():
        assert torch.allclose(value, rounds[0][name] + rounds[1][name], rtol=1e-4, atol=1e-5), name


def test_penalty_is_taken_after_the_augmentation():
    """A pipe that triples the contrast changes what D sees, but not the slope that D is held to."""
    weight = torch.randn(1, 3, 16, 16)
    inputs, stats = batch(), collected("Loss/.*")
    _G, D, loss = make_loss(D=LinearCritic(2 * weight / weight.norm()))
    loss.augment_pipe = lambda img: 3 * img
    gradients(loss, D, "Dboth", **inputs)
    stats.update()
    assert stats.mean("Loss/D/gp") == pytest.approx(1, abs=1e-4)
    assert stats.mean("Loss/scores/real") == pytest.approx(D(3 * inputs["real_img"], None).mean().item(), abs=1e-4)


def test_statistics_match_their_definitions():
    inputs, stats = batch(), collected("Loss/.*")
    _G, D, loss = make_loss(D=LinearCritic(torch.full([1, 3, 16, 16], 0.1)), gp_weight=4, drift_weight=0.25,
                            style_mixing_prob=0, bg_jitter=0, shift=0)
    gradients(loss, D, "Dboth", **inputs)
    stats.update()
    with torch.no_grad():
        real = D(inputs["real_img"], None)
        gen = D(loss.run_G(inputs["gen_z"], None, sync=True)[0], None)
    drift, penalty = real.square().mean().item(), (0.1 * 768 ** 0.5 - 1) ** 2
    expected = {"Loss/scores/real": real.mean().item(), "Loss/scores/fake": gen.mean().item(),
                "Loss/D/loss": (gen - real).mean().item(), "Loss/D/drift": drift, "Loss/D/gp": penalty,
                "Loss/D/reg": 4 * penalty + 0.25 * drift}
    for name, value in expected.items():
        assert stats.mean(name) == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize("bias", [0.0, 100.0])
def test_adas_signal_does_not_depend_on_the_critics_constant(bias):
    inputs, stats = batch(), collected("Loss/signs/real")
    inputs["real_img"] = inputs["real_img"] + torch.tensor([5.0, 5, 5, -5]).view(4, 1, 1, 1)
    _G, D, loss = make_loss(D=LinearCritic(torch.full([1, 3, 16, 16], 0.01), bias))
    gradients(loss, D, "Dboth", **inputs)
    stats.update()
    assert stats.mean("Loss/signs/real") == 0.5


def test_half_precision_gives_the_gradient_of_full_precision():
    plain = dict(epilogue_kwargs=dict(mbstd_num_channels=0))
    half = dict(plain, num_fp16_res=4, conv_clamp=256, block_kwargs=dict(half_dtype="bfloat16"))
    found = []
    for kwargs in (plain, half):  # The same seed gives the same weights.
        _G, D, loss = make_loss(D_kwargs=kwargs)
        found.append(torch.cat([grad.flatten() for grad in gradients(loss, D, "Dboth").values()]))
    assert found[1].isfinite().all() and not torch.equal(*found)
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.98  # bf16 keeps 8 bits.
