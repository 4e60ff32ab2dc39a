"""Self-training: what the teacher says, whom it follows, which pictures come back."""

import copy

import pytest
import torch
from torch import nn

from layered_plugin import device
from layered_plugin.model.unet import make_unet
from layered_plugin.segmentation import self_training
from layered_plugin.segmentation.fitting import Fitting
from layered_plugin.segmentation.pairs import PairFilter
from layered_plugin.segmentation.self_training import SelfTraining

ALL = PairFilter(min_coverage=0.0, max_coverage=1.0)


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch):
    """The same sums on every CPU."""
    monkeypatch.setattr(device, "has_fast_bf16", lambda: False)


def tiny(seed=0):
    """A network with statistics, and a bias that makes it half sure."""
    unet = make_unet((4, 4, 4), seed=seed)
    with torch.no_grad():
        unet(torch.randn(8, 3, 16, 16))
        unet.out.bias -= unet.eval()(torch.randn(8, 3, 16, 16)).mean()
    return unet.train()


class Bright(nn.Module):
    """Says that bright pixels are the object."""

    def forward(self, img):
        return 100 * img.mean(dim=1, keepdim=True)


def scenes(*sides, size=16):
    """Bright squares on dark ground; their masks."""
    mask = torch.zeros(len(sides), 1, size, size)
    for one, side in zip(mask, sides, strict=True):
        one[:, 2:2 + side, 3:3 + side] = 1
    return (mask * 1.6 - 0.8).expand(-1, 3, -1, -1), mask


@pytest.mark.parametrize("shape", [(16, 16), (8, 12)])
def test_opinions_are_the_mean_over_a_picture_and_its_mirror_image(shape):
    unet = tiny()
    img = torch.randn(3, 3, *shape)
    net, columns = copy.deepcopy(unet).eval(), range(shape[1] - 1, -1, -1)
    with torch.no_grad():
        expected = (net(img).sigmoid() + net(img[:, :, :, columns]).sigmoid()[:, :, :, columns]) / 2
    teaching = SelfTraining(unet, ALL, seed=0, colors=False)
    opinions = teaching.opinions(img)
    assert opinions.shape == (3, 1, *shape) and torch.allclose(opinions, expected, atol=1e-5)
    assert 0.05 < (opinions > 0.5).float().mean() < 0.95, "all of one kind would test nothing"
    targets = teaching.targets(img)
    unlike = (targets != (expected > 0.5)) & ((expected - 0.5).abs() > 1e-5)
    assert targets.dtype == torch.float32 and not unlike.any()


class Aside(nn.Module):
    """Says that bright pixels are the object, and their right neighbours."""

    def forward(self, img):
        bright = img.mean(dim=1, keepdim=True)
        return 3 * torch.maximum(bright, bright.roll(1, 3)) + 1


@pytest.mark.parametrize("colors", [False, True])
def test_colors_correct_what_the_teacher_says(colors):
    img, mask = scenes(5, 8)
    targets = SelfTraining(Aside(), ALL, seed=0, colors=colors).targets(img)
    assert torch.equal(targets, mask) == colors


def test_targets_do_not_depend_on_the_batch():
    teaching, img = SelfTraining(tiny(), ALL, seed=0), torch.randn(4, 3, 16, 16)
    assert torch.equal(teaching.targets(img), torch.cat([teaching.targets(one[None]) for one in img]))


def test_the_teacher_is_a_frozen_copy_in_evaluation_mode():
    unet = tiny()
    teaching = SelfTraining(unet, ALL, seed=0)
    before = copy.deepcopy(unet.state_dict())
    for module in teaching.mean_teacher.modules():
        assert not module.training
    assert unet.training and all(param.requires_grad for param in unet.parameters())
    teaching.targets(torch.randn(4, 3, 16, 16))
    Fitting(unet, steps=1).step(*next(teaching.batches(torch.randn(4, 3, 16, 16))))
    for key, value in teaching.mean_teacher.state_dict().items():
        assert torch.equal(value, before[key]), "asking and training must not move the teacher"
    assert all(param.grad is None for param in teaching.mean_teacher.parameters())
    assert not torch.equal(unet.out.weight, teaching.mean_teacher.out.weight)


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_the_teacher_follows_by_a_moving_average(decay):
    teaching = SelfTraining(tiny(0), ALL, seed=0, decay=decay)
    old = copy.deepcopy(teaching.mean_teacher.state_dict())
    teaching.unet.load_state_dict(tiny(1).state_dict())
    teaching.unet.down0[1].num_batches_tracked += 5
    new = copy.deepcopy(teaching.unet.state_dict())
    teaching.follow()
    for key, value in teaching.mean_teacher.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, decay * old[key] + (1 - decay) * new[key], atol=1e-6), key
        else:
            assert torch.equal(value, new[key]), key
    assert all(torch.equal(value, new[key]) for key, value in teaching.unet.state_dict().items())


def test_the_teacher_reaches_a_network_that_stands_still():
    teaching = SelfTraining(tiny(0), ALL, seed=0, decay=0.5)
    teaching.unet.load_state_dict(tiny(1).state_dict())
    for _ in range(40):
        teaching.follow()
    for value, goal in zip(teaching.mean_teacher.parameters(), teaching.unet.parameters(), strict=True):
        assert torch.allclose(value, goal, atol=1e-6)


def test_pictures_that_cannot_show_an_object_are_left_out():
    img, mask = scenes(0, 4, 8, 12)
    teaching = SelfTraining(Bright(), PairFilter(min_coverage=0.05, max_coverage=0.3), seed=0, paste=0.0)
    assert torch.equal(teaching.targets(img), mask)
    kept, target = next(teaching.batches(img))
    assert len(kept) == len(target) == 2
    kept, target = next(teaching.batches(img[:1]))
    assert kept.shape == (0, 3, 16, 16) and target.shape == (0, 1, 16, 16)


def test_picture_and_target_are_turned_together():
    img, _ = scenes(*[6, 7, 8] * 8)
    teaching = SelfTraining(Bright(), ALL, seed=0, paste=0.0)
    moved, target = next(teaching.batches(img))
    assert moved.shape == img.shape and moved.abs().max() <= 1
    assert target.min() >= 0 and target.max() <= 1
    assert not torch.equal(target, teaching.targets(img))
    sure = (target < 0.05) | (target > 0.95)
    right = (moved.mean(dim=1, keepdim=True) > 0) == (target > 0.5)
    assert sure.float().mean() > 0.7 and right[sure].float().mean() > 0.97


def test_what_is_upright_stays_so():
    rows = torch.linspace(0.8, -0.8, 16)[:, None].expand(16, 16)
    moved, _ = next(SelfTraining(Bright(), ALL, seed=0, paste=0.0).batches(rows.expand(40, 3, -1, -1)))
    slope = moved.mean(dim=[1, 3]).diff(dim=1).mean(dim=1)
    across = moved.mean(dim=[1, 2]).diff(dim=1).mean(dim=1)
    assert (slope < 0).all() and (across.abs() < slope.abs()).all()
    assert across.std() > 0.1 * slope.mean().abs(), "turned a little it should be"


def test_targets_are_cleaned():
    img, mask = scenes(8)
    img = img.clone()
    img[:, :, 14, 14] = 0.8  # A speck.
    img[:, :, 5, 6] = -0.8  # A hole.
    teaching = SelfTraining(Bright(), ALL, seed=0)
    assert not torch.equal(teaching.targets(img), mask)
    assert torch.equal(teaching.keep(img, teaching.targets(img))[1], mask)


def test_seeds_repeat_and_the_global_generator_is_left_alone():
    img, before = scenes(5, 6, 7)[0], torch.get_rng_state()
    first, again, other = (next(SelfTraining(Bright(), ALL, seed=seed).batches(img))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("reuse, paste, times", [(1, 0.5, 1), (2, 0.5, 1), (4, 0.25, 1), (4, 0.5, 2)])
def test_each_object_is_pasted_as_often_as_any_other(monkeypatch, reuse, paste, times):
    def darken(img, mask, generator):
        return -torch.ones_like(img), mask

    monkeypatch.setattr(self_training, "paste_objects", darken)
    monkeypatch.setattr(self_training, "random_affine", lambda img, mask, *args, **given: (img, mask))
    monkeypatch.setattr(self_training, "disturb", lambda img, *args: img)
    img, mask = scenes(*range(3, 11))
    asked, sides = [], mask.sum(dim=[1, 2, 3])
    teaching = SelfTraining(Bright(), ALL, seed=0, paste=paste, reuse=reuse)
    monkeypatch.setattr(teaching, "opinions", lambda img: asked.append(1) or mask)
    turns = list(teaching.batches(img))
    assert len(turns) == reuse and len(asked) == 1, "targets are found once"
    pasted = torch.zeros(8)
    for shown, target in turns:
        assert sorted(target.sum(dim=[1, 2, 3]).tolist()) == sorted(sides.tolist()), "all come each time"
        dark = (shown == -1).flatten(1).all(dim=1)
        pasted += torch.tensor([bool(dark[target.sum(dim=[1, 2, 3]) == side]) for side in sides])
    assert (pasted == times).sum() == 8 * paste * reuse / times


@pytest.mark.parametrize("paste, whole", [(0.0, 8), (0.25, 6), (1.0, 0)])
def test_a_share_of_objects_is_pasted_on_other_grounds(monkeypatch, paste, whole):
    monkeypatch.setattr(self_training, "random_affine", lambda img, mask, *args, **given: (img, mask))
    monkeypatch.setattr(self_training, "disturb", lambda img, *args: img)
    img, mask = scenes(*[5] * 8)
    shown, target = next(SelfTraining(Bright(), ALL, seed=0, paste=paste).batches(img))
    assert len(shown) == len(target) == 8
    same = (shown == img).flatten(1).all(dim=1)
    assert same[:whole].all() and not same[whole:].any()
    assert torch.equal(target[:whole], mask[:whole])
    assert ((target == 0) | (target == 1)).all()
