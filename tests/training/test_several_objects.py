"""Generators of K objects: K = 1 is the paper's model bit for bit; parts, losses, shifts and grids of several."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch_utils import training_stats
from training import networks as base

from layered_plugin import grids
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.layers import Layers, composite, fold_objects, unfold_objects, union_mask, visible_masks
from layered_plugin.model.mask_losses import mask_overlap_loss
from layered_plugin.model.perturb import random_shift, shift_foreground, shift_images
from layered_plugin.training import sample_view
from layered_plugin.training.loss import LayeredLoss, report_layers

CHANNELS = dict(channel_base=64, channel_max=4)


def make(num_objects=1, **kwargs):
    torch.manual_seed(0)
    return LayeredGenerator(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3, num_objects=num_objects,
                            mapping_kwargs=dict(num_layers=2), synthesis_kwargs=CHANNELS, **kwargs)


def scene(num_objects=3, num=2, size=5):
    return Layers(torch.randn(num, 3, size, size), torch.randn(num, 3 * num_objects, size, size),
                  torch.rand(num, num_objects, size, size))


def test_one_object_has_the_parameters_and_draws_of_the_papers_model():
    G = make()
    after = torch.get_rng_state()
    torch.manual_seed(0)
    kwargs = dict(w_dim=8, img_resolution=16, **CHANNELS)
    parts = {"synthesis.bg": base.SynthesisNetwork(img_channels=3, **kwargs),
             "synthesis.fg": base.SynthesisNetwork(img_channels=4, **kwargs)}
    for name in ("bg", "fg"):
        parts[f"mapping.{name}"] = base.MappingNetwork(z_dim=8, c_dim=0, w_dim=8, num_ws=G.num_ws, num_layers=2)
    assert torch.equal(torch.get_rng_state(), after)
    expected = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    assert list(G.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in G.state_dict().items())


def test_one_object_has_the_papers_gradients_bit_for_bit():
    """Layers, style mixing, shift, jitter and mask terms, written out for one object; the same random stream."""
    G = make().train().requires_grad_(False)
    twin = copy.deepcopy(G)
    D = base.Discriminator(c_dim=0, img_resolution=16, img_channels=3, **CHANNELS).requires_grad_(False)
    loss = LayeredLoss("cpu", G.mapping, G.synthesis, D, style_mixing_prob=0, mask_min=0.8, mask_border_weight=3)
    z, c = torch.randn(4, 8), torch.zeros(4, 0)
    G.requires_grad_(True)
    torch.manual_seed(5)
    loss.accumulate_gradients("Gmain", None, None, z, c, sync=True, gain=1.0)
    after = torch.get_rng_state()

    twin.requires_grad_(True)
    torch.manual_seed(5)
    bg_ws, fg_ws = twin.mapping(z, c).chunk(2, dim=2)
    bg, fg, logit = torch.cat([twin.synthesis.bg(bg_ws), twin.synthesis.fg(fg_ws)], dim=1).split([3, 3, 1], dim=1)
    mask = torch.sigmoid(logit)
    moved = shift_images(torch.cat([fg, mask], dim=1), torch.randint(-2, 3, [4, 2]))
    mean, factor = bg.mean(dim=[1, 2, 3], keepdim=True), 1 + 0.3 * (2 * torch.rand(4, 1, 1, 1) - 1)
    low, high = bg.detach().amin(dim=[1, 2, 3], keepdim=True), bg.detach().amax(dim=[1, 2, 3], keepdim=True)
    img = torch.lerp(torch.lerp(mean, bg, factor).clamp(low, high), moved[:, :-1], moved[:, -1:])
    ring = torch.cat([mask[:, 0, 0], mask[:, 0, -1], mask[:, 0, 1:-1, 0], mask[:, 0, 1:-1, -1]], dim=1).mean(dim=1)
    terms = (2 * (0.8 - mask.mean(dim=[1, 2, 3])).clamp(min=0)
             + 2 * torch.minimum(mask, 1 - mask).mean(dim=[1, 2, 3]) + 3 * ring)
    (torch.nn.functional.softplus(-D(img, c)).mean() + terms.mean()).backward()
    assert torch.equal(torch.get_rng_state(), after)
    for (name, param), other in zip(G.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(param.grad, other.grad), name


@pytest.mark.parametrize("generator, mapping, parts, width", [
    ("separate", "separate", ["bg", "fg", "fg2", "fg3"], 32), ("separate", "shared", ["bg", "fg", "fg2", "fg3"], 32),
    ("single", "separate", ["both"], 8),
])
def test_each_object_has_networks_of_its_own(generator, mapping, parts, width):
    G = make(3, generator=generator, mapping=mapping).eval()
    assert [name for name, _ in G.synthesis.named_children()] == parts
    assert [name for name, _ in G.mapping.named_children()] == (["both"] if mapping == "shared" else parts)
    assert G.w_dim == G.mapping.w_avg.numel() == width
    layers = G(torch.randn(2, 8), None, noise_mode="const", return_layers=True)
    assert [layer.shape[1] for layer in layers] == [3, 9, 3]
    twin = pickle.loads(pickle.dumps(G))
    z = torch.randn(2, 8)
    img = G(z, None, noise_mode="const")
    assert twin.num_objects == 3 and torch.equal(twin(z, None, noise_mode="const"), img)
    assert torch.equal(img, composite(G(z, None, noise_mode="const", return_layers=True)))


def test_layers_are_those_of_the_objects_networks_in_order():
    G = make(2).eval()
    ws = torch.randn(2, G.num_ws, 24)
    layers = G.synthesis(ws, return_layers=True, noise_mode="const")
    outs = [net(ws[:, :, 8 * i:8 * i + 8], noise_mode="const") for i, net in enumerate(G.synthesis.children())]
    assert torch.equal(layers.bg, outs[0])
    assert torch.equal(layers.fg, torch.cat([outs[1][:, :3], outs[2][:, :3]], dim=1))
    assert torch.allclose(layers.mask, torch.sigmoid(torch.cat([outs[1][:, 3:], outs[2][:, 3:]], dim=1)))


def test_a_network_of_one_object_fills_background_and_hindmost_object_of_more():
    one, two = make(1).state_dict(), make(2).state_dict()
    assert all(two[key].shape == value.shape for key, value in one.items())
    assert {key.split(".")[1] for key in two.keys() - one.keys()} == {"fg2"}


def test_no_object_is_refused():
    with pytest.raises(ValueError, match="`num_objects` to be at least 1, but got 0"):
        make(0)


def test_composite_applies_equation_1_once_per_object_pixel_by_pixel():
    layers = scene()
    out = composite(layers)
    for n, c, y, x in np.ndindex(2, 3, 5, 5):
        value = layers.bg[n, c, y, x].item()
        for k in range(3):
            m = layers.mask[n, k, y, x].item()
            value = (1 - m) * value + m * layers.fg[n, 3 * k + c, y, x].item()
        assert out[n, c, y, x].item() == pytest.approx(value, abs=1e-6)


def test_the_last_object_lies_in_front():
    layers = scene(2)
    opaque = layers._replace(mask=torch.ones(2, 2, 5, 5))
    assert torch.equal(composite(opaque), layers.fg[:, 3:])
    assert torch.equal(visible_masks(opaque)[:, 0], torch.zeros(2, 5, 5))


def test_visible_masks_are_the_weights_of_the_composite():
    layers = scene()
    visible, union = visible_masks(layers), union_mask(layers)
    mixed = (1 - union) * layers.bg + sum(visible[:, k:k + 1] * layers.fg[:, 3 * k:3 * k + 3] for k in range(3))
    assert torch.allclose(mixed, composite(layers), atol=1e-6)
    assert torch.allclose(visible.sum(dim=1, keepdim=True), union, atol=1e-6)
    one = scene(1)
    assert visible_masks(one) is one.mask and union_mask(one) is one.mask and fold_objects(one) is one


def test_folding_lists_the_objects_of_each_scene_in_a_row_and_back():
    layers = scene()
    folded = fold_objects(layers)
    for n, k in np.ndindex(2, 3):
        assert torch.equal(folded.fg[3 * n + k], layers.fg[n, 3 * k:3 * k + 3])
        assert torch.equal(folded.mask[3 * n + k, 0], layers.mask[n, k])
        assert torch.equal(folded.bg[3 * n + k], layers.bg[n])
    assert all(torch.equal(a, b) for a, b in zip(unfold_objects(folded, layers.bg), layers, strict=True))


def test_each_object_is_shifted_by_its_own_shift():
    layers, shift = scene(num=4), random_shift(12, 3, generator=torch.Generator().manual_seed(0))
    out = shift_foreground(layers, shift)
    assert torch.equal(out.bg, layers.bg)
    for k in range(3):
        assert torch.equal(out.fg[:, 3 * k:3 * k + 3], shift_images(layers.fg[:, 3 * k:3 * k + 3], shift[k::3]))
        assert torch.equal(out.mask[:, k:k + 1], shift_images(layers.mask[:, k:k + 1], shift[k::3]))


def test_training_shifts_the_objects_independently():
    G = make(2)
    loss = LayeredLoss("cpu", G.mapping, G.synthesis, None, shift=0.25, bg_jitter=0)
    mask = torch.zeros(400, 2, 16, 16)
    mask[:, :, 8, 8] = 1
    fg = torch.zeros(400, 6, 16, 16)
    fg[:, 0] = fg[:, 4] = 1  # The first object is red, the second green.
    img = loss.perturb(Layers(torch.zeros(400, 3, 16, 16), fg, mask))
    red, green = (img[:, c].flatten(1).argmax(dim=1) for c in (0, 1))
    apart = img[:, 0].flatten(1).any(dim=1)  # Elsewhere the second hides the first.
    columns = torch.stack([red[apart] % 16, green[apart] % 16]).double()
    assert columns.min() == 4 and columns.max() == 12
    assert torch.corrcoef(columns)[0, 1].abs() < 0.2


def test_mask_terms_are_summed_over_the_objects():
    G = make(2).train().requires_grad_(True)
    D = base.Discriminator(c_dim=0, img_resolution=16, img_channels=3, **CHANNELS).requires_grad_(False)
    loss = LayeredLoss("cpu", G.mapping, G.synthesis, D, style_mixing_prob=0, bg_jitter=0, shift=0, mask_min=0.8,
                       mask_size_weight=3, mask_binary_weight=5, mask_border_weight=7, mask_overlap_weight=11)
    z, c = torch.randn(4, 8), torch.zeros(4, 0)
    torch.manual_seed(5)
    loss.accumulate_gradients("Gmain", None, None, z, c, sync=True, gain=1.0)
    grads = [param.grad.clone() for param in G.parameters()]
    G.zero_grad()
    torch.manual_seed(5)
    layers = G(z, c, return_layers=True)
    total = torch.nn.functional.softplus(-D(composite(layers), c)).mean()
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    for mask in layers.mask.unbind(dim=1):
        total = total + (3 * torch.relu(0.8 - mask.mean(dim=[1, 2])) + 7 * mask[:, ~inside].mean(dim=1)
                         + 5 * torch.minimum(mask, 1 - mask).mean(dim=[1, 2])).mean()
    (total + 11 * (layers.mask[:, 0] * layers.mask[:, 1]).mean()).backward()
    for grad, (name, param) in zip(grads, G.named_parameters(), strict=True):
        assert torch.allclose(grad, param.grad, atol=1e-5), name


def test_overlap_is_the_mean_product_of_every_pair():
    mask = torch.rand(2, 3, 4, 5)
    expected = sum((mask[:, i] * mask[:, j]).mean(dim=[1, 2]) for i in range(3) for j in range(i))
    assert torch.allclose(mask_overlap_loss(mask), expected)
    assert mask_overlap_loss(torch.rand(2, 1, 4, 4)).abs().max() < 1e-7
    apart = torch.zeros(1, 2, 4, 4)
    apart[:, 0, :2], apart[:, 1, 2:] = 1, 1
    assert mask_overlap_loss(apart).item() == 0


def test_one_empty_mask_of_two_counts_as_collapsed():
    mask = torch.zeros(3, 2, 4, 4)
    mask[:, 1, 1:3] = 1
    collector = training_stats.Collector(regex="Layers/.*", keep_previous=False)
    report_layers(Layers(torch.zeros(3, 3, 4, 4), torch.full([3, 6, 4, 4], 0.5), mask))
    collector.update()
    values = {name: collector.mean(f"Layers/{name}") for name in ("all_bg", "all_fg", "coverage", "difference")}
    assert values == dict(all_bg=1, all_fg=0, coverage=0.25, difference=0.5)


def test_layer_grid_has_rows_for_each_object():
    black, white = -torch.ones(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
    mask = torch.zeros(2, 2, 8, 8)
    mask[:, 1] = 1
    layers = Layers(black, torch.cat([torch.zeros_like(black), white], dim=1), mask)
    sheet = sample_view.layer_grid(layers, shifted=torch.zeros(2, 3, 8, 8), cell_px=16)
    cells = np.asarray(sheet)[8::16 + grids.GAP_PX, grids.NAMES_PX + 8, 0]
    assert cells.tolist() == [0, 128, 0, 0, 255, 255, 255, 255, 128]
