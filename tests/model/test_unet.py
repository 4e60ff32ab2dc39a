"""The U-Net: what it computes, written out; seeds; the steps of its fitting."""

import itertools
import re

import pytest
import torch
from torch.nn import functional as F

from layered_plugin import device
from layered_plugin.model.unet import FastUNet, UNet, fold_batch_norm, make_unet
from layered_plugin.segmentation.fitting import Fitting, best_order


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch):
    """The same sums on every CPU."""
    monkeypatch.setattr(device, "has_fast_bf16", lambda: False)


@pytest.fixture(scope="module")
def unet():
    """A U-Net whose normalisation has seen something."""
    net = make_unet((4, 5, 6), seed=0)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, 16, 16))
    return net.eval().requires_grad_(False)


def make_fast(deep):
    net = make_unet((3, 5, 4, 6), seed=0, deep=deep)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, 32, 32))
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def fast():
    """As `unet`, a FastUNet."""
    return make_fast(deep=0)


@pytest.fixture(scope="module")
def deep():
    """As `fast`, with two levels more."""
    return make_fast(deep=2)


def convs(weights, name, x, places=((0, 1),)):
    for conv, norm in places:
        x = F.conv2d(x, weights[f"{name}.{conv}.weight"], padding=1)
        mean, var = (weights[f"{name}.{norm}.running_{what}"].view(-1, 1, 1) for what in ("mean", "var"))
        gain, bias = (weights[f"{name}.{norm}.{what}"].view(-1, 1, 1) for what in ("weight", "bias"))
        x = ((x - mean) / (var + 1e-5).sqrt() * gain + bias).clamp(min=0)
    return x


def halve(x):
    return torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(dim=0)


def double(x):
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def reference(weights, img):
    """Two convolutions each, max pooling down, nearest neighbours up, skip connections second."""
    def two_convs(name, x):
        return convs(weights, name, x, ((0, 1), (3, 4)))

    x0 = two_convs("down0", img)
    x1 = two_convs("down1", halve(x0))
    x = two_convs("middle", halve(x1))
    x = two_convs("up1", torch.cat([double(x), x1], dim=1))
    x = two_convs("up0", torch.cat([double(x), x0], dim=1))
    return F.conv2d(x, weights["out.weight"], weights["out.bias"])


def fast_reference(weights, img):
    """One convolution at full resolution on either way; pixels of a 2x2 square become channels and back."""
    def lift(name, x):
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def gather(x):
        return torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=2).flatten(1, 2)

    def spread(x):
        out = torch.zeros(len(x), x.shape[1] // 4, 2 * x.shape[2], 2 * x.shape[3])
        for place in range(4):
            out[:, :, place // 2::2, place % 2::2] = x[:, place::4]
        return out

    def deepen(x, level):
        if f"deep.{level}.0.weight" not in weights:
            return x
        return x + double(deepen(convs(weights, f"deep.{level}", halve(x), two), level + 1))

    two = ((0, 1), (3, 4))
    x0 = convs(weights, "down0", img)
    x1 = convs(weights, "down1", gather(x0), two)
    x2 = convs(weights, "down2", halve(x1), two)
    x = deepen(convs(weights, "middle", halve(x2), two), 0)
    x = convs(weights, "up2", torch.cat([double(lift("lift2", x)), x2], dim=1))
    x = convs(weights, "up1", torch.cat([double(lift("lift1", x)), x1], dim=1))
    x = convs(weights, "up0", torch.cat([spread(lift("lift0", x)), x0], dim=1))
    return lift("out", x)


@pytest.mark.parametrize("name, height, width", [("fast", 16, 16), ("fast", 8, 24), ("fast", 8, 8), ("deep", 32, 32),
                                                 ("deep", 64, 32)])
def test_the_fast_one_computes_what_the_docstring_says(name, height, width, request):
    net, img = request.getfixturevalue(name), torch.rand(2, 3, height, width) * 2 - 1
    logits = net(img)
    assert logits.shape == (2, 1, height, width)
    assert torch.allclose(logits, fast_reference(net.state_dict(), img), atol=1e-5)


@pytest.mark.parametrize("name", ["unet", "fast", "deep"])
def test_folded_normalisation_changes_nothing_but_the_number_of_operations(name, request):
    net = request.getfixturevalue(name)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    folded, img = fold_batch_norm(net), torch.randn(3, 3, 32, 32)
    assert torch.allclose(folded(img), net(img), atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_channels_choose_the_network():
    assert type(make_unet((4, 4, 4))) is UNet and type(make_unet([4, 4, 4, 4])) is FastUNet
    with pytest.raises(ValueError, match=r"3 or 4 numbers, but got \[4, 4\]"):
        make_unet((4, 4))
    with pytest.raises(ValueError, match="`deep` to be 0 with 3 channels, but got 1"):
        make_unet((4, 4, 4), deep=1)


@pytest.mark.parametrize("height, width", [(16, 16), (8, 20), (4, 4)])
def test_it_computes_what_the_docstring_says(unet, height, width):
    img = torch.rand(2, 3, height, width) * 2 - 1
    logits = unet(img)
    assert logits.shape == (2, 1, height, width)
    assert torch.allclose(logits, reference(unet.state_dict(), img), atol=1e-5)


def test_result_does_not_depend_on_the_batch(unet):
    img = torch.randn(5, 3, 16, 16)
    assert torch.allclose(unet(img), torch.cat([unet(one[None]) for one in img]), atol=1e-6)


def test_logits_are_of_either_sign(unet):
    logits = unet(torch.randn(8, 3, 16, 16))
    assert logits.min() < logits.mean() < logits.max() and len(logits.unique()) > 100


@pytest.mark.parametrize("shape", [(1, 3, 6, 8), (1, 3, 8, 6), (1, 1, 8, 8), (3, 8, 8)])
def test_another_shape_is_told_back(unet, fast, deep, shape):
    for net, factor in ((unet, 4), (fast, 8), (deep, 32)):
        with pytest.raises(ValueError, match=f"divisible by {factor}, but got " + re.escape(str(list(shape)))):
            net(torch.zeros(shape))


def test_weights_come_from_the_seed_and_the_global_generators_are_left_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", calls.append)
    before = torch.get_rng_state()
    first, again, other = (make_unet((4, 4, 4), seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert calls == [], "the generators of a GPU were seeded, and would not have been put back"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["out.weight"], other["out.weight"])


def test_without_a_seed_weights_come_from_the_global_generator():
    torch.manual_seed(5)
    first = make_unet((4, 4, 4))
    torch.manual_seed(5)
    assert torch.equal(first.out.weight, UNet((4, 4, 4)).out.weight)
    assert not torch.equal(first.out.weight, make_unet((4, 4, 4)).out.weight)


@pytest.mark.parametrize("fast", [False, True])
def test_half_precision_is_for_cpus_with_hardware_for_it(monkeypatch, fast):
    monkeypatch.setattr(device, "has_fast_bf16", lambda: fast)
    conv = torch.nn.Conv2d(1, 1, 1)
    with device.fast_half(torch.device("cpu")):
        assert conv(torch.zeros(1, 1, 2, 2)).dtype == (torch.bfloat16 if fast else torch.float32)


def test_half_precision_of_the_caller_stays_on_other_devices(monkeypatch):
    monkeypatch.setattr(device, "has_fast_bf16", lambda: False)
    with torch.autocast("cpu", dtype=torch.bfloat16), device.fast_half("cpu"):  # Stands for a GPU.
        assert torch.is_autocast_enabled("cpu")
    with device.fast_half("cuda"):
        assert not torch.is_autocast_enabled("cuda")


def test_half_precision_fits_much_the_same(monkeypatch):
    losses = []
    for fast in (False, True):
        monkeypatch.setattr(device, "has_fast_bf16", lambda fast=fast: fast)
        torch.manual_seed(0)
        unet = make_unet((4, 4, 4), seed=0)
        losses.append(Fitting(unet, steps=2).step(*pair()))
        assert all(param.dtype == torch.float32 for param in unet.parameters())
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)


def pair():
    img = torch.randn(4, 3, 8, 8)
    return img, (img[:, :1] > 0).float()


def test_step_returns_the_loss_before_it():
    unet, (img, target) = make_unet((4, 4, 4), seed=0), pair()
    prob = unet.train()(img).sigmoid()
    expected = -(target * prob.log() + (1 - target) * (1 - prob).log()).mean()
    assert Fitting(unet, steps=5).step(img, target) == pytest.approx(expected.item(), rel=1e-5)


def test_masks_of_several_objects_are_put_into_the_order_of_least_cross_entropy():
    logits, target = torch.randn(6, 3, 4, 4), torch.rand(6, 3, 4, 4)
    ordered = best_order(logits, target)
    for n in range(6):
        losses = {order: F.binary_cross_entropy_with_logits(logits[n], target[n, list(order)]).item()
                  for order in itertools.permutations(range(3))}
        assert torch.equal(ordered[n], target[n, list(min(losses, key=losses.get))])
    one = torch.rand(2, 1, 4, 4)
    assert best_order(torch.randn(2, 1, 4, 4), one) is one


def test_step_takes_the_masks_of_several_objects_in_any_order():
    img, target = torch.randn(4, 3, 8, 8), torch.rand(4, 2, 8, 8)
    losses = [Fitting(make_unet((4, 4, 4), seed=0, num_objects=2), steps=5).step(img, target[:, order])
              for order in ([0, 1], [1, 0])]
    assert losses[0] == losses[1]
    logits = make_unet((4, 4, 4), seed=0, num_objects=2).train()(img)
    assert losses[0] <= F.binary_cross_entropy_with_logits(logits, target).item()


def test_a_single_step_is_one_of_adamw_at_the_full_rate():
    unet, (img, target) = make_unet((4, 4, 4), seed=0), pair()
    before = {name: param.detach().clone() for name, param in unet.named_parameters()}
    Fitting(unet, steps=1, lr=1.0).step(img, target)
    for name, param in unet.named_parameters():
        # The first step of Adam is the sign of the gradient, but for its epsilon.
        expected = before[name] * (1 - 1e-4) - param.grad / (param.grad.abs() + 1e-8)
        assert torch.allclose(param, expected, atol=2e-6), name


@pytest.mark.parametrize("steps", [2, 3, 9, 10, 11, 15, 20, 40])
def test_rate_rises_to_its_largest_and_falls_to_next_to_nothing(steps):
    fitting = Fitting(make_unet((4, 4, 4), seed=0), steps, lr=0.02)
    rates = []
    for _ in range(steps):
        rates.append(fitting.optimizer.param_groups[0]["lr"])
        fitting.step(*pair())
    top = rates.index(max(rates))
    assert max(rates) <= 0.02 * (1 + 1e-6) and rates[-1] < 0.001 * max(rates)
    assert rates[:top + 1] == sorted(rates[:top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    if steps >= 20:
        assert max(rates) > 0.019 and top == round(0.1 * steps) - 1


def test_it_learns_and_is_left_in_training_mode():
    unet = make_unet((4, 4, 4), seed=0).eval()
    fitting = Fitting(unet, steps=40, lr=0.03)
    assert unet.training
    img, target = pair()
    losses = [fitting.step(img, target) for _ in range(40)]
    assert losses[-1] < 0.3 * losses[0]
