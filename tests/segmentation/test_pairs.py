"""Distillation: masks cleaned as a flood fill would, and pairs that are what the generator drew."""

import copy

import numpy as np
import pytest
import torch
from tiny_models import make_generator

from layered_plugin.data.masks import remove_small_parts
from layered_plugin.errors import UserError
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.layers import Layers, composite
from layered_plugin.model.perturb import random_shift, shift_foreground
from layered_plugin.segmentation import pairs
from layered_plugin.segmentation.augment import clean_edges, disturb, random_affine, vary_shape
from layered_plugin.segmentation.pairs import PairFilter, PairSampler

ALL = PairFilter(min_coverage=0.0, max_coverage=1.0)


def parts_of(pixels):
    """Sets of pixels that hang together along edges, by flood fill."""
    rest, parts = set(pixels), []
    while rest:
        part, border = set(), [rest.pop()]
        while border:
            row, col = border.pop()
            part.add((row, col))
            near = {(row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)} & rest
            rest -= near
            border += near
        parts.append(part)
    return parts


def reference_clean(mask, min_part):
    """remove_small_parts of one mask, [H, W] bool, from its description."""
    height, width = mask.shape
    everywhere = {(row, col) for row in range(height) for col in range(width)}
    parts = parts_of({pixel for pixel in everywhere if mask[pixel]})
    least = min_part * max(map(len, parts), default=0)
    kept = set().union(*(part for part in parts if len(part) >= least))
    for hole in parts_of(everywhere - kept):
        inside = all(0 < row < height - 1 and 0 < col < width - 1 for row, col in hole)
        if inside and len(hole) < least:
            kept |= hole
    out = np.zeros_like(mask)
    for pixel in kept:
        out[pixel] = True
    return out


@pytest.mark.parametrize("min_part", [0.0, 0.2, 0.6, 1.0])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.6, 0.7, 0.9])
def test_small_parts_go_as_by_flood_fill(density, min_part):
    masks = np.random.default_rng(0).random((12, 11, 14)) < density
    before = masks.copy()
    clean = remove_small_parts(masks, min_part)
    assert clean.dtype == bool and np.array_equal(masks, before)
    for one, expected in zip(clean, masks, strict=True):
        assert np.array_equal(one, reference_clean(expected, min_part))


def draw(*rows):
    return np.array([[char == "#" for char in row] for row in rows])[None]


@pytest.mark.parametrize("before, after", [
    # Parts touch along edges: the corner pixel is another part.
    ((".....", ".###.", ".###.", "....#"), (".....", ".###.", ".###.", ".....")),
    # A small hole is filled, a notch that reaches the border is none.
    (("#####", "##.##", "#####", "##.##"), ("#####", "#####", "#####", "##.##")),
    # A part and a hole as large as the limit, a fifth of 10 pixels, stay.
    (("####.#", "#..#.#", "####.."), ("####.#", "#..#.#", "####..")),
    # A small part within a hole goes first, then the hole counts with its place.
    (("#######", "#.....#", "#..#..#", "#.....#", "#######"), ("#######", "#.....#", "#.....#", "#.....#", "#######")),
    (("...", "..."), ("...", "...")),
    (("###", "###"), ("###", "###")),
])
def test_small_parts_by_hand(before, after):
    assert np.array_equal(remove_small_parts(draw(*before), 0.2), draw(*after))


def test_of_two_equal_parts_both_stay():
    mask = draw("##..##", "##..##")
    assert np.array_equal(remove_small_parts(mask, 1.0), mask)


def squares(*sides, size=10):
    mask = torch.zeros(len(sides), 1, size, size)
    for one, side in zip(mask, sides, strict=True):
        one[:, :side, :side] = 1
    return mask


def test_filter_keeps_what_covers_enough_and_not_too_much():
    mask = squares(0, 1, 3, 4, 8, 9, 10)
    img = torch.arange(7.0).view(7, 1, 1, 1).expand(-1, 3, 10, 10)
    kept, clean = PairFilter(min_coverage=0.09, max_coverage=0.64)(img, mask * 0.9)
    assert kept[:, 0, 0, 0].tolist() == [2, 3, 4], "both limits are included"
    assert kept.shape == (3, 3, 10, 10) and torch.equal(clean, mask[2:5])


def test_filter_judges_the_cleaned_mask_above_one_half():
    mask = squares(3, 3)
    mask[0, 0, 9, 9] = 0.51
    mask[1, 0, 9, 9] = mask[1, 0, 0, 0] = 0.5
    img, clean = PairFilter(min_coverage=0.09, max_coverage=1)(torch.zeros(2, 3, 10, 10), mask)
    assert torch.equal(clean, squares(3)), "the first loses its speck, the second has lost its corner"
    img, clean = PairFilter(min_coverage=0.5)(torch.zeros(2, 3, 10, 10), mask)
    assert img.shape == (0, 3, 10, 10) and clean.shape == (0, 1, 10, 10)


def make_labelled(c_dim=3):
    return LayeredGenerator(z_dim=8, c_dim=c_dim, w_dim=8, img_resolution=16, img_channels=3,
                            mapping_kwargs=dict(num_layers=1),
                            synthesis_kwargs=dict(channel_base=64, channel_max=4)).eval().requires_grad_(False)


@pytest.mark.parametrize("vary, shift", [(0.0, 0.0), (0.0, 0.125), (0.5, 0.125)])
def test_scenes_are_the_generators_with_clean_edges_bent_and_shifted(vary, shift):
    G = make_labelled(c_dim=0)  # Its noise has strength 0.
    G.synthesis.fg.b16.torgb.weight[3] *= 50  # So that masks have an inside.
    got = PairSampler(G, shift, ALL, seed=3, vary=vary).scenes(5)
    draws = torch.Generator().manual_seed(3)
    drawn = G(torch.randn([5, 8], generator=draws), None, return_layers=True)
    expected = clean_edges(drawn)
    assert not torch.equal(expected.fg, drawn.fg), "nothing to clean would test nothing"
    expected = vary_shape(expected, vary, draws)
    if shift > 0:
        expected = shift_foreground(expected, random_shift(5, 2, generator=draws))
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def test_each_of_several_objects_is_treated_alone_and_the_mask_is_of_all():
    torch.manual_seed(0)
    G = LayeredGenerator(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3, num_objects=2,
                         mapping_kwargs=dict(num_layers=1), synthesis_kwargs=dict(channel_base=64, channel_max=4))
    G = G.eval().requires_grad_(False)
    for net in (G.synthesis.fg, G.synthesis.fg2):
        net.b16.torgb.weight[3] *= 50
    got = PairSampler(G, 0.125, ALL, seed=3, vary=0.5).scenes(5)
    draws = torch.Generator().manual_seed(3)
    drawn = G(torch.randn([5, 8], generator=draws), None, return_layers=True)
    alone = Layers(drawn.bg.repeat_interleave(2, 0), torch.stack([drawn.fg[:, :3], drawn.fg[:, 3:]], 1).flatten(0, 1),
                   drawn.mask.flatten(0, 1).unsqueeze(1))
    alone = shift_foreground(vary_shape(clean_edges(alone), 0.5, draws), random_shift(10, 2, generator=draws))
    assert torch.equal(got.bg, drawn.bg)
    assert torch.equal(got.fg, torch.cat([alone.fg[::2], alone.fg[1::2]], dim=1))
    assert torch.equal(got.mask, torch.cat([alone.mask[::2], alone.mask[1::2]], dim=1))
    sampler = PairSampler(G, 0.125, ALL, seed=3, vary=0.5)
    sampler.keep, seen = lambda img, mask: (seen.append((img, mask)), ALL(img, mask))[1], []
    sampler.batch(5)
    assert torch.allclose(seen[0][1], 1 - (1 - got.mask[:, :1]) * (1 - got.mask[:, 1:]))
    assert torch.equal(seen[0][0], composite(got).clamp(-1, 1))


def test_labels_are_one_class_each():
    G, seen = make_labelled(), []
    G.mapping.register_forward_pre_hook(lambda _module, args: seen.append(args[1]))
    PairSampler(G, 0.0, ALL, seed=0).scenes(200)
    assert torch.equal(seen[0].sum(dim=1), torch.ones(200))
    assert seen[0].sum(dim=0).min() > 40


def test_a_batch_is_scenes_filtered_and_augmented():
    G = make_labelled(c_dim=0)
    sampler, twin = (PairSampler(G, 0.125, ALL, seed=1) for _ in range(2))
    img, mask = sampler.batch(6)
    layers = twin.scenes(6)
    pairs = ALL(composite(layers).clamp(-1, 1), layers.mask)
    expected_img, expected_mask = random_affine(*pairs, twin.generator)
    assert torch.equal(mask, expected_mask)
    assert torch.equal(img, disturb(expected_img, twin.generator))
    assert img.shape == (6, 3, 16, 16) and mask.shape == (6, 1, 16, 16)
    assert img.abs().max() <= 1 and mask.min() >= 0 and mask.max() <= 1
    assert (sampler.drawn, sampler.kept) == (6, 6)


def test_widths_in_pixels_grow_with_the_generators_resolution():
    G = LayeredGenerator(z_dim=4, c_dim=0, w_dim=4, img_resolution=64, img_channels=3,
                         synthesis_kwargs=dict(channel_base=64, channel_max=2)).eval().requires_grad_(False)
    G.synthesis.fg.b64.torgb.weight[3] *= 50  # So that masks have an inside.
    sampler, twin = (PairSampler(G, 0.0, ALL, seed=1) for _ in range(2))
    drawn = G(torch.randn([4, 4], generator=twin.generator), None, return_layers=True)
    edges = clean_edges(drawn, 6)
    assert not torch.equal(edges.fg, clean_edges(drawn, 3).fg)
    pairs = random_affine(*ALL(composite(edges).clamp(-1, 1), drawn.mask), twin.generator)
    assert torch.equal(sampler.batch(4)[0], disturb(pairs[0], twin.generator, detail=2))


def test_it_draws_until_enough_pairs_serve(monkeypatch):
    monkeypatch.setattr(pairs, "random_affine", lambda img, mask, _generator: (img, mask))
    sampler = PairSampler(make_generator(), 0.125, PairFilter(min_coverage=0.4, max_coverage=0.6), seed=0)
    coverage = sampler.batch(40)[1].mean(dim=[1, 2, 3])
    assert len(coverage) == 40 and coverage.min() >= 0.4 and coverage.max() <= 0.6
    assert sampler.drawn > sampler.kept >= 40 and sampler.drawn % 40 == 0


def test_seeds_repeat_given_the_noise_which_is_of_the_global_generator():
    G = make_generator()
    batches = []
    for seed, noise_seed in ((0, 0), (0, 0), (1, 0), (0, 1)):
        torch.manual_seed(noise_seed)
        batches.append(PairSampler(G, 0.125, ALL, seed).batch(3)[0])
    assert torch.equal(batches[0], batches[1])
    assert not torch.allclose(batches[0], batches[2]) and not torch.equal(batches[0], batches[3])


def test_the_generator_does_not_change():
    G = make_generator()
    before = copy.deepcopy(G.state_dict())
    img, _ = PairSampler(G, 0.125, ALL, seed=0).batch(8)
    assert not img.requires_grad
    assert all(torch.equal(before[key], value) for key, value in G.state_dict().items())


@pytest.mark.parametrize("bias, what", [(-100.0, "empty"), (100.0, "full")])
def test_collapsed_masks_are_an_error_not_an_endless_loop(bias, what):
    G = make_generator()
    for block in G.synthesis.fg.children():
        block.torgb.bias[3] = bias
    sampler = PairSampler(G, 0.0, PairFilter(min_coverage=0.05, max_coverage=0.5), seed=0)
    with pytest.raises(UserError, match="only 0 of 1024 generated masks cover between 0.05 and 0.5 .* collapsed"):
        sampler.batch(64)
