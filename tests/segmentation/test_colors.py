"""The colors' say in a mask: against the formula pixel by pixel, and what it does to masks that are nearly right."""

import math

import pytest
import torch

from layered_plugin.segmentation import colors
from layered_plugin.segmentation.colors import (
    RARE,
    color_posterior,
    correct_by_colors,
    likely_place,
    rare_border,
    tie_neighbours,
)


def by_the_formula(img, mask):
    """Bayes' rule for one picture [3, H, W] and its mask, each pixel with each other one, no histogram."""
    color, prior = img.double().flatten(1).T, mask.double().flatten().clamp(0.02, 0.98)
    near = torch.exp(-(color[:, None] - color).square().sum(2) / (2 * 0.08**2))  # [P, P]
    opacity = prior
    for _ in range(4):
        of_object, of_ground = (near @ weight / weight.sum() + 1e-5 for weight in (opacity**2, (1 - opacity)**2))
        ratio = torch.log(of_object / of_ground).clamp(-6, 6)
        opacity = 1 / (1 + (1 - prior) / prior * torch.exp(-ratio))
    return opacity.reshape(mask.shape).float()


@pytest.mark.parametrize("height, width", [(5, 7), (18, 3)])
def test_bayes_rule_pixel_by_pixel(height, width):
    generator = torch.Generator().manual_seed(0)
    # A few colors, exactly on levels that are told apart.
    img = -1 + 2 * torch.randint(8, 14, [2, 3, height, width], generator=generator) / (colors.BINS - 1)
    mask = torch.rand(2, 1, height, width, generator=generator)
    expected = torch.stack([by_the_formula(one, soft[0]) for one, soft in zip(img, mask, strict=True)])
    assert torch.allclose(color_posterior(img, mask)[:, 0], expected, atol=1e-4)


def test_colors_between_levels_change_little():
    generator = torch.Generator().manual_seed(5)
    img, mask = torch.rand(1, 3, 24, 24, generator=generator) - 0.5, torch.rand(1, 1, 24, 24, generator=generator)
    assert (color_posterior(img, mask)[0, 0] - by_the_formula(img[0], mask[0, 0])).abs().mean() < 0.05


def square(size, low, high):
    mask = torch.zeros(1, 1, size, size)
    mask[..., low:high, low:high] = 1
    return mask


def in_two_colors(mask):
    """A red object on green ground, with a little noise."""
    red, green = (torch.tensor(color).reshape(1, 3, 1, 1) for color in ([0.8, -0.6, -0.6], [-0.6, 0.6, -0.6]))
    noise = 0.03 * torch.randn(len(mask), 3, *mask.shape[2:], generator=torch.Generator().manual_seed(1))
    return mask * red + (1 - mask) * green + noise


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("low, high", [(0.2, 0.7), (0.4, 0.6), (0.3, 0.8)])
def test_an_unsure_mask_too_large_too_small_or_aside_becomes_the_object(size, low, high):
    truth = square(size, round(0.3 * size), round(0.7 * size))
    soft = square(size, round(low * size), round(high * size)) * 0.4 + 0.3
    assert torch.equal((color_posterior(in_two_colors(truth), soft) > 0.5).float(), truth)


def test_one_color_leaves_the_mask():
    mask = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.05
    assert torch.allclose(color_posterior(torch.zeros(2, 3, 12, 12), mask), mask, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mask_of_one_value_stays_on_its_side(value):
    posterior = color_posterior(in_two_colors(square(16, 4, 9)), torch.full([1, 1, 16, 16], value))
    assert ((posterior > 0.5).float() == value).all() and posterior.isfinite().all()


def test_a_pixel_is_likely_by_its_distance_from_the_nearest_border():
    place = likely_place(10, 20, 0.2)
    for row, column in ((0, 10), (1, 10), (2, 10), (5, 0), (5, 3), (5, 4), (9, 19), (8, 17)):
        near = min((row + 0.5) / 10, 1 - (row + 0.5) / 10, (column + 0.5) / 20, 1 - (column + 0.5) / 20)
        assert place[row, column].item() == pytest.approx(min(1, near / 0.2))
    assert torch.equal(place, place.flip(0)) and torch.equal(place, place.flip(1))
    assert (likely_place(4, 6, 0) == 1).all()


def test_a_mask_of_a_thin_object_stays_though_its_color_is_nearly_the_grounds():
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 6:26, 15] = 1
    ground, redder = (torch.tensor(color).reshape(1, 3, 1, 1) for color in ([-0.2, 0.1, 0.1], [0.25, 0, -0.25]))
    noise = 0.03 * torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = correct_by_colors(ground + truth * redder + noise, truth * 0.8 + 0.1) > 0.5
    assert torch.equal(found.float(), truth)


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_a_second_thing_at_the_border_goes_and_the_object_stays(margin):
    """Of two things that the mask takes for the object, the one that goes on beyond the border is ground."""
    truth, clutter = square(32, 10, 24), torch.zeros(1, 1, 32, 32)
    clutter[..., :5, 4:16] = 1
    blue = torch.tensor([-0.6, -0.6, 0.8]).reshape(1, 3, 1, 1)
    img = (1 - clutter) * in_two_colors(truth) + clutter * blue
    found = correct_by_colors(img, 0.7 * (truth + clutter), margin) > 0.5
    assert torch.equal(found.float(), truth if margin else truth + clutter)


def by_distance(shares):
    """Masks [100, 1, S, S] whose share of object pixels at each distance from the border is as given."""
    size = 2 * len(shares)
    mask = torch.zeros(100, 1, size, size)
    for distance, share in enumerate(shares):  # Each goes over the one before.
        inside = slice(distance, size - distance)
        mask[:, :, inside, inside] = (torch.arange(100) < 100 * share).float().reshape(-1, 1, 1, 1)
    return mask


@pytest.mark.parametrize("shares, pixels", [
    ((0, 0, RARE, 1), 2.5),
    ((0, 0, 0, 1), 2.5 + RARE),
    ((0.05, 0.1, 0.4, 1), 1.5 + (RARE - 0.1) / 0.3),
    ((0.02, 0.06, 0.06, 0.2), 0.5 + (0.2 * RARE - 0.02) / 0.04),  # A share of the largest.
    ((RARE, 0, 1, 1), 0),
    ((1, 1, 1, 1), 0),
    ((0, 0, 0, 0), 0),
    ((1, 0.9, 0, 0), 0),
])
def test_the_border_is_as_wide_as_objects_are_rare_there(shares, pixels):
    assert rare_border(by_distance(shares)) == pytest.approx(pixels / 8, abs=1e-6)


@pytest.mark.parametrize("size", [15, 16, 33])
def test_objects_far_inside_and_objects_that_fill_the_picture(size):
    small = torch.zeros(6, 1, size, size)
    small[..., size // 3:size // 3 + 5, size // 3:size // 3 + 5] = 0.9
    assert 0.25 < rare_border(small) < 0.5
    assert rare_border(torch.full([6, 1, size, size], 0.51)) == 0
    assert rare_border(torch.full([6, 1, size, size], 0.49)) == 0  # Half and less is no object.


def test_no_picture_sees_another(monkeypatch):
    truth = torch.cat([square(16, 2, 8), square(16, 5, 12), square(16, 1, 4)])
    img, soft = in_two_colors(truth), truth.roll(2, 3) * 0.6 + 0.2
    monkeypatch.setattr(colors, "_CHUNK", 2)
    together = correct_by_colors(img, soft)
    alone = torch.cat([correct_by_colors(img[[idx]], soft[[idx]]) for idx in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


def tied_by_the_formula(img, prob):
    """Eight rounds of mean field for one picture [3, H, W], pixel by pixel; beyond the border its own edge again."""
    _, height, width = img.shape
    given = [[math.log(min(max(float(p), 1e-3), 1 - 1e-3)) - math.log(1 - min(max(float(p), 1e-3), 1 - 1e-3))
              for p in row] for row in prob]
    odds = given
    for _ in range(8):
        new = []
        for y in range(height):
            new.append([])
            for x in range(width):
                total = given[y][x]
                for dy, dx in [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]:
                    v, u = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
                    square = sum((float(img[c, y, x]) - float(img[c, v, u]))**2 for c in range(3))
                    likeness = math.exp(-square / (2 * 0.2**2)) / math.hypot(dy, dx)
                    total += 2.0 * likeness * (2 / (1 + math.exp(-odds[v][u])) - 1)
                new[-1].append(total)
        odds = new
    return 1 / (1 + torch.exp(-torch.tensor(odds)))


def test_neighbours_follow_the_formula_pixel_by_pixel():
    generator = torch.Generator().manual_seed(3)
    img, prob = torch.rand(2, 3, 4, 6, generator=generator), torch.rand(2, 1, 4, 6, generator=generator)
    expected = torch.stack([tied_by_the_formula(one, soft[0]) for one, soft in zip(img, prob, strict=True)])
    assert torch.allclose(tie_neighbours(img, prob)[:, 0], expected, atol=1e-4)


def test_a_speck_follows_its_neighbours_but_not_across_an_edge():
    truth = square(16, 4, 11)
    img = in_two_colors(truth)
    prob = truth * 0.8 + 0.1
    prob[0, 0, 7, 7], prob[0, 0, 2, 13] = 0.2, 0.8  # A hole and a speck, both of their neighbours' color.
    assert torch.equal((tie_neighbours(img, prob) > 0.5).float(), truth)


def test_neighbours_turn_with_the_picture():
    generator = torch.Generator().manual_seed(4)
    img, prob = torch.rand(1, 3, 9, 9, generator=generator), torch.rand(1, 1, 9, 9, generator=generator)
    turned = tie_neighbours(img.rot90(1, (2, 3)), prob.rot90(1, (2, 3)))
    assert torch.allclose(turned, tie_neighbours(img, prob).rot90(1, (2, 3)), atol=1e-5)


def test_kernel_without_its_tiniest_weights_gives_the_same_densities():
    table = torch.rand(1, 2, *[colors.BINS] * 3, generator=torch.Generator().manual_seed(0)) / 1000
    level = torch.linspace(-1, 1, colors.BINS)
    kernel = torch.exp((level[:, None] - level).square() / (-2 * colors.BANDWIDTH**2))
    whole = torch.einsum("nkrgb,rx,gy,bz->nkxyz", table, kernel, kernel, kernel)
    torch.testing.assert_close(colors._blur(table) + colors.LEAST_DENSITY, whole + colors.LEAST_DENSITY,
                               rtol=1e-6, atol=0)  # Up to rounding, in whatever order the sums are.
