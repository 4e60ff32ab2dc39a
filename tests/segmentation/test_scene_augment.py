"""Augmentation of scenes: edges and outlines against pixel-by-pixel references, backgrounds left alone."""

import math

import pytest
import torch

from layered_plugin.model.layers import Layers, composite
from layered_plugin.segmentation import augment
from layered_plugin.segmentation.augment import clean_edges, vary_shape


def reference_edges(fg, mask, radius_px):
    """clean_edges of one scene, fg [3, H, W] and mask [H, W], pixel by pixel."""
    _, height, width = fg.shape

    def near(row, col):
        return [(r, c) for r in range(row - 1, row + 2) for c in range(col - 1, col + 2)
                if 0 <= r < height and 0 <= c < width]

    pixels = [(row, col) for row in range(height) for col in range(width)]
    known = {p: fg[:, p[0], p[1]] for p in pixels if all(mask[q] > 0.9 for q in near(*p))}
    for _ in range(radius_px):
        new = {p: [known[q] for q in near(*p) if q in known] for p in pixels if p not in known}
        known |= {p: sum(colors) / len(colors) for p, colors in new.items() if colors}
    out = fg.clone()
    for (row, col), color in known.items():
        out[:, row, col] = color
    return out


@pytest.mark.parametrize("radius_px", [0, 1, 3])
def test_edges_are_cleaned_pixel_by_pixel(radius_px):
    mask = torch.zeros(3, 1, 12, 14)
    mask[0, 0, 2:9, 3:10], mask[0, 0, 2, 3:10] = 1, 0.8
    mask[1, 0, :5, 9:] = 0.95  # At the corner of the picture.
    mask[2, 0, 4:6, 4:6] = 1  # Too thin to have an inside.
    layers = Layers(torch.randn(3, 3, 12, 14), torch.randn(3, 3, 12, 14), mask)
    clean = clean_edges(layers, radius_px)
    assert clean.bg is layers.bg and clean.mask is layers.mask
    for one, fg, alpha in zip(clean.fg, layers.fg, mask[:, 0], strict=True):
        assert torch.allclose(one, reference_edges(fg, alpha, radius_px), atol=1e-5)
    assert torch.equal(clean.fg[2], layers.fg[2])


def test_no_rim_is_left_of_the_color_outside():
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1
    soft = torch.nn.functional.avg_pool2d(mask, 3, 1, 1)
    fg = torch.where(mask > 0, 0.5, -1.0).expand(-1, 3, -1, -1)
    rim = composite(clean_edges(Layers(torch.full_like(fg, 0.5), fg, soft)))
    assert torch.allclose(rim, torch.full_like(rim, 0.5), atol=1e-6)


def discs(num, radius=4.0, size=24, at=(12.0, 12.0)):
    """Scenes with a disc of opacity 1 around a point (x, y), in pixels, and fg colors that say where they were."""
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    mask = (((x - at[0]) ** 2 + (y - at[1]) ** 2).sqrt() < radius).float()
    fg = torch.stack([x / size, y / size, mask])
    return Layers(torch.randn(num, 3, size, size), fg.expand(num, -1, -1, -1).clone(),
                  mask.expand(num, 1, -1, -1).clone())


def reference_shape(layers, prob, draws, least):
    """Masks [N, H, W] of vary_shape pixel by pixel, in pixels, with the same random numbers."""
    num, _, height, width = layers.mask.shape
    assert height == width, "in pixels, angles and stretches are true for squares only"

    def uniform(low, high):
        return [low + (high - low) * value for value in torch.rand([num, 1, 1], generator=draws).flatten().tolist()]

    waves = []
    for depth, low, high in ((0.6, 2, 8), (0.3, 1, 3)):
        lobes = torch.randint(low, high + 1, [num, 1, 1], generator=draws).flatten().tolist()
        waves.append(list(zip(lobes, uniform(0, depth), uniform(0, 2 * math.pi), strict=True)))
    axis, stretch, chance = uniform(0, math.pi), uniform(-math.log(2), math.log(2)), uniform(0, 1)
    out = layers.mask[:, 0].clone()
    for n in range(num):
        if chance[n] >= prob:
            continue
        mask = layers.mask[n, 0].tolist()
        pixels = [(row, col) for row in range(height) for col in range(width)]
        total = sum(mask[row][col] for row, col in pixels)
        center_x, center_y = (sum(mask[p[0]][p[1]] * p[i] for p in pixels) / total for i in (1, 0))
        for row, col in pixels:
            dx, dy = col - center_x, row - center_y
            angle = math.atan2(dy, dx)
            factor = max(least, 1 + sum(depth * math.cos(lobes * angle + phase) for lobes, depth, phase in
                                       (wave[n] for wave in waves)))
            radius, angle = math.hypot(dx, dy), angle - axis[n]  # In the coordinates of the axis.
            along = factor * radius * math.cos(angle) * math.exp(stretch[n])
            across = factor * radius * math.sin(angle) / math.exp(stretch[n])
            radius, angle = math.hypot(along, across), math.atan2(across, along) + axis[n]
            x, y = center_x + radius * math.cos(angle), center_y + radius * math.sin(angle)
            left, top = math.floor(x), math.floor(y)
            out[n, row, col] = sum(
                (1 - abs(x - c)) * (1 - abs(y - r)) * mask[r][c]
                for r in (top, top + 1) for c in (left, left + 1) if 0 <= r < height and 0 <= c < width)
    return out


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("least", [0.35, 0.9])
def test_outlines_are_bent_by_the_formula(monkeypatch, least):
    monkeypatch.setattr(augment, "LEAST_RADIUS", least)
    layers = discs(8, at=(13.0, 10.0))
    bent = vary_shape(layers, 0.7, seeded())
    expected = reference_shape(layers, 0.7, seeded(), least)
    assert torch.allclose(bent.mask[:, 0], expected, atol=1e-3)
    changed = (bent.mask - layers.mask).abs().amax(dim=[1, 2, 3]) > 0.1
    assert 0 < changed.sum() < 8, "some must be bent and some not, or this tests half of it"
    assert torch.equal(bent.bg, layers.bg)


def test_the_foreground_moves_with_its_mask():
    bent = vary_shape(discs(6), 1.0, seeded())
    assert torch.allclose(bent.fg[:, 2:], bent.mask, atol=1e-5)
    assert bent.mask.min() >= 0 and bent.mask.max() <= 1 + 1e-5


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_so_many_are_bent(prob):
    layers = discs(300)
    changed = (vary_shape(layers, prob, seeded()).mask - layers.mask).abs().amax(dim=[1, 2, 3]) > 0.05
    assert changed.float().mean() == pytest.approx(prob, abs=0.08)


@pytest.mark.parametrize("at", [(3.0, 12.0), (21.0, 12.0), (12.0, 3.0), (12.0, 21.0)])
def test_object_cut_by_the_border_keeps_its_outline(at):
    cut, whole = discs(20, at=at), discs(20)
    both = Layers(*(torch.cat(parts) for parts in zip(cut, whole, strict=True)))
    bent = vary_shape(both, 1.0, seeded())
    assert torch.allclose(bent.mask[:20], cut.mask, atol=1e-5) and torch.allclose(bent.fg[:20], cut.fg, atol=1e-5)
    assert ((bent.mask[20:] - whole.mask).abs().amax(dim=[1, 2, 3]) > 0.1).all()


def test_none_are_bent_without_a_random_draw():
    layers, generator = discs(2), seeded()
    before = generator.get_state()
    assert vary_shape(layers, 0.0, generator) is layers
    assert torch.equal(before, generator.get_state())


def test_outlines_stay_within_their_limits_and_differ():
    bent = vary_shape(discs(200, radius=2.0, size=32, at=(16.0, 16.0)), 1.0, seeded())
    y, x = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    radius = ((x - 16) ** 2 + (y - 16) ** 2).sqrt().expand(200, -1, -1)
    reach = (radius * (bent.mask[:, 0] > 0.5)).amax(dim=[1, 2])
    assert reach.max() < 2 * 2.0 / 0.35 + 1 and reach.min() > 0
    assert reach.max() > 5 and len(reach.unique()) > 10


def test_seeds_repeat_and_the_global_generator_is_left_alone():
    layers, before = discs(4), torch.get_rng_state()
    first, again, other = (vary_shape(layers, 0.9, seeded(seed)).mask for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("opacity", [0.0, 1.0])
def test_empty_and_full_masks_give_numbers(opacity):
    layers = discs(5)._replace(mask=torch.full([5, 1, 24, 24], opacity))
    bent = vary_shape(layers, 1.0, seeded())
    assert all(part.isfinite().all() for part in bent)
    assert opacity == 1.0 or not bent.mask.any()


def test_scenes_may_be_on_another_device_than_the_generator():
    bent = vary_shape(Layers(*(part.to("meta") for part in discs(2))), 0.5, seeded())
    assert bent.mask.device.type == bent.fg.device.type == "meta"
