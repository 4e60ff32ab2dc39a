"""Mask losses (Eq. 3, 4) and LayeredLoss (Eq. 2, 5)."""

import pytest
import torch
from torch_utils import training_stats
from training.loss import StyleGAN2Loss
from training.networks import Discriminator

from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.layers import Layers, composite
from layered_plugin.model.mask_losses import (
    layer_range_loss,
    mask_binary_loss,
    mask_border_loss,
    mask_center_loss,
    mask_excess_loss,
    mask_size_loss,
    mask_variety_loss,
)
from layered_plugin.training.loss import LayeredLoss, report_layers


@pytest.mark.parametrize("coverage, expected", [(0.2, 0.05), (0.25, 0.0), (0.9, 0.0), (0.0, 0.25)])
def test_size_loss_is_a_hinge_on_coverage(coverage, expected):
    mask = torch.full([3, 1, 4, 4], coverage)
    assert mask_size_loss(mask, 0.25)[:, 0].tolist() == pytest.approx([expected] * 3, abs=1e-6)


def test_size_loss_is_per_image_not_of_the_mean_mask():
    mask = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])  # Mean coverage 0.5, yet one is empty.
    assert mask_size_loss(mask, 0.25)[:, 0].tolist() == [0.25, 0]


def test_size_loss_over_the_batch_lets_small_objects_be():
    mask = torch.stack([torch.zeros(1, 4, 4), torch.full([1, 4, 4], 0.4)])
    assert mask_size_loss(mask, 0.25, over="batch")[:, 0].tolist() == pytest.approx([0.05, 0.05])
    assert mask_size_loss(mask, 0.2, over="batch")[:, 0].tolist() == pytest.approx([0, 0])
    with pytest.raises(ValueError, match="`over`"):
        mask_size_loss(mask, 0.25, over="all")


def test_excess_loss_is_a_hinge_on_the_other_side():
    mask = torch.stack([torch.zeros(1, 4, 4), torch.full([1, 4, 4], 0.9)])
    assert mask_excess_loss(mask, 0.6)[:, 0].tolist() == pytest.approx([0, 0.3])


def test_variety_loss_is_a_hinge_on_the_deviation_over_the_batch():
    halves = torch.zeros(2, 1, 16, 16)
    halves[0] = 1  # Every pixel is 1 and 0: deviation 0.5.
    assert mask_variety_loss(halves, 1).item() == pytest.approx(0, abs=1e-4)  # No more is possible.
    three = torch.cat([halves, halves[:1]])  # Coverage 2/3, deviation sqrt(2)/3 again the largest.
    assert mask_variety_loss(three, 1).item() == pytest.approx(0, abs=1e-4)
    corner = torch.zeros(2, 1, 16, 16)
    corner[0, :, :8, :8] = 1  # Coverage 1/8; a quarter of the parts has deviation 1/2.
    largest = (1 / 8 * 7 / 8) ** 0.5
    assert mask_variety_loss(corner, 0.9).item() == pytest.approx(0.9 * largest - 1 / 8, abs=1e-3)
    assert mask_variety_loss(corner, 0.3).item() == 0


def test_variety_loss_sees_no_variety_in_fine_noise():
    fine = (torch.arange(16) % 2).float().expand(1, 16, 16)
    assert mask_variety_loss(torch.stack([fine, 1 - fine]), 0.6).item() == pytest.approx(0.3, abs=2e-3)


def test_variety_loss_of_equal_masks_has_finite_gradients():
    mask = torch.full([4, 1, 16, 16], 0.5, requires_grad=True)
    mask_variety_loss(mask, 0.3).sum().backward()
    assert mask.grad.isfinite().all()


def test_range_loss_counts_what_lies_outside():
    layers = Layers(torch.full([2, 3, 4, 4], -1.5), torch.full([2, 3, 4, 4], 0.9), torch.ones(2, 1, 4, 4))
    assert layer_range_loss(layers).tolist() == pytest.approx([0.25, 0.25])
    assert layer_range_loss(layers._replace(bg=layers.fg)).tolist() == [0, 0]


@pytest.mark.parametrize("value, expected", [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (0.9, 0.1)])
def test_binary_loss_is_the_distance_to_the_nearer_end(value, expected):
    assert mask_binary_loss(torch.full([2, 1, 3, 3], value))[:, 0].tolist() == pytest.approx([expected] * 2, abs=1e-6)


def test_each_object_has_terms_of_its_own():
    masks = torch.rand(4, 3, 8, 8)
    for term in (mask_binary_loss, mask_border_loss, lambda mask: mask_size_loss(mask, 0.6),
                 lambda mask: mask_size_loss(mask, 0.6, over="batch"), lambda mask: mask_excess_loss(mask, 0.4)):
        apart = torch.cat([term(mask) for mask in masks.split(1, dim=1)], dim=1)
        assert term(masks).shape == (4, 3) and torch.allclose(term(masks), apart, atol=1e-6)
    apart = torch.cat([mask_variety_loss(mask, 0.9) for mask in masks.split(1, dim=1)])
    assert torch.allclose(mask_variety_loss(masks, 0.9), apart, atol=1e-6) and len(apart) == 3


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="`mask`"):
        mask_binary_loss(torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="`min_coverage`"):
        mask_size_loss(torch.zeros(2, 1, 4, 4), 1.5)


def make_loss(pl_weight=0.0, **kwargs):
    torch.manual_seed(0)
    channels = dict(channel_base=64, channel_max=4)
    G = LayeredGenerator(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3,
                         mapping_kwargs=dict(num_layers=2), synthesis_kwargs=channels).train().requires_grad_(False)
    D = Discriminator(c_dim=0, img_resolution=16, img_channels=3, **channels).train().requires_grad_(False)
    return G, D, LayeredLoss("cpu", G.mapping, G.synthesis, D, pl_weight=pl_weight, **kwargs)


def run_phase(loss, module, phase, gain=1.0, num=4):
    module.zero_grad(set_to_none=True)
    module.requires_grad_(True)
    torch.manual_seed(5)
    loss.accumulate_gradients(phase=phase, real_img=torch.randn(num, 3, 16, 16), real_c=torch.zeros(num, 0),
                              gen_z=torch.randn(num, 8), gen_c=torch.zeros(num, 0), sync=True, gain=gain)
    module.requires_grad_(False)
    return {name: param.grad.clone() for name, param in module.named_parameters() if param.grad is not None}


def test_it_is_the_hosts_loss():
    assert issubclass(LayeredLoss, StyleGAN2Loss)


def test_main_phase_gradient_equals_that_of_equation_5():
    G, D, loss = make_loss(style_mixing_prob=0, bg_jitter=0, shift=0, mask_min=0.8)
    grads = run_phase(loss, G, "Gmain", gain=3.0)

    torch.manual_seed(5)
    torch.randn(4, 3, 16, 16)
    z = torch.randn(4, 8)
    G.zero_grad(set_to_none=True)
    G.requires_grad_(True)
    # The host adds noise drawn per layer; the same seed draws it alike, since nothing else is drawn before it.
    layers = G.synthesis(G.mapping(z, None), return_layers=True)
    logits = D(composite(layers), None)
    mask = layers.mask
    size = torch.relu(0.8 - mask.mean(dim=[1, 2, 3]))
    binary = torch.minimum(mask, 1 - mask).mean(dim=[1, 2, 3])
    total = torch.nn.functional.softplus(-logits).mean() + 2 * size.mean() + 2 * binary.mean()
    (3 * total).backward()
    assert size.mean() > 0
    for name, param in G.named_parameters():
        assert torch.allclose(grads[name], param.grad, atol=1e-6), name


@pytest.mark.parametrize("name", ["mask_size_weight", "mask_binary_weight", "mask_border_weight",
                                  "mask_center_weight"])
def test_each_mask_weight_changes_the_mask_head_alone_at_the_top(name):
    grads = []
    for value in (0.0, 5.0):
        G, _D, loss = make_loss(mask_min=0.9, **{name: value})
        grads.append(run_phase(loss, G, "Gmain"))
    change = (grads[0]["synthesis.fg.b16.torgb.weight"] - grads[1]["synthesis.fg.b16.torgb.weight"]).flatten(1)
    assert change[3].abs().sum() > 0
    assert change[:3].abs().sum() == 0


@pytest.mark.parametrize("phase", ["Gmain", "Gboth"])
def test_main_phase_touches_the_generator_alone(phase):
    G, D, loss = make_loss()
    assert run_phase(loss, G, phase).keys() == dict(G.named_parameters()).keys()
    assert all(param.grad is None for param in D.parameters())


@pytest.mark.parametrize("phase", ["Dmain", "Dreg", "Dboth"])
def test_discriminator_phases_are_the_hosts(phase):
    G, D, loss = make_loss(r1_gamma=1.0)
    assert run_phase(loss, D, phase)
    assert all(param.grad is None for param in G.parameters())


def test_path_length_runs_when_asked_and_only_then():
    G, _D, loss = make_loss(pl_weight=2.0)
    run_phase(loss, G, "Greg")
    assert loss.pl_mean > 0
    G, _D, loss = make_loss(pl_weight=0.0)
    assert not run_phase(loss, G, "Greg")
    assert loss.pl_mean == 0


def test_both_phase_is_main_and_regularization():
    G, _D, loss = make_loss(pl_weight=2.0, style_mixing_prob=0, shift=0, bg_jitter=0)
    run_phase(loss, G, "Gboth")
    assert loss.pl_mean > 0


def test_run_G_shifts_and_jitters_in_training():
    G, _D, loss = make_loss(style_mixing_prob=0)
    z = torch.randn(4, 8)
    G.requires_grad_(False)
    torch.manual_seed(1)
    img, ws = loss.run_G(z, None, sync=True)
    torch.manual_seed(1)
    layers, same_ws = loss.run_layers(z, None, sync=True)
    assert torch.equal(ws, same_ws)
    assert not torch.allclose(img, composite(layers))
    loss.shift = loss.bg_jitter = 0
    torch.manual_seed(1)
    assert torch.equal(loss.run_G(z, None, sync=True)[0], composite(layers))


def test_shift_range_is_a_fraction_of_the_resolution(monkeypatch):
    seen = []
    monkeypatch.setattr("layered_plugin.training.loss.random_shift",
                        lambda num, max_px, device: seen.append(max_px) or torch.zeros(num, 2, dtype=torch.int64))
    for shift, expected in [(0.125, 2), (0.25, 4), (0.0, None)]:
        _G, _D, loss = make_loss(shift=shift)
        seen.clear()
        loss.run_G(torch.randn(2, 8), None, sync=True)
        assert seen == ([] if expected is None else [expected])


def test_style_mixing_takes_later_codes_from_a_second_z():
    _G, _D, loss = make_loss(style_mixing_prob=1.0)
    z = torch.randn(3, 8)
    _layers, ws = loss.run_layers(z, None, sync=True)
    plain = loss.G_mapping(z, None, skip_w_avg_update=True)
    same = [torch.allclose(ws[:, i], plain[:, i]) for i in range(ws.shape[1])]
    crossover = same.index(False)
    assert crossover >= 1 and not any(same[crossover:])


def test_reported_layer_statistics_match_their_definitions():
    mask = torch.zeros(3, 1, 4, 4)
    mask[1] = 1
    mask[2, 0, 1:3, 1:3] = 0.5
    collector = training_stats.Collector(regex="Layers/.*", keep_previous=False)
    report_layers(Layers(torch.zeros(3, 3, 4, 4), torch.full([3, 3, 4, 4], 0.25), mask))
    collector.update()
    expected_variation = mask.std(dim=0, unbiased=False).mean().item()
    expected = {"coverage": (0 + 1 + 0.125) / 3, "border": 1 / 3, "center": 1.5 / 3, "all_bg": 1 / 3, "all_fg": 1 / 3,
                "binarity": (1 + 1 + 0.75) / 3, "difference": 0.25}
    for name, value in expected.items():
        assert collector.mean(f"Layers/{name}") == pytest.approx(value, abs=1e-6), name
    assert collector.mean("Layers/mask_variation") == pytest.approx(expected_variation, abs=1e-6)


def test_masks_of_a_single_scene_say_nothing_of_variation():
    collector = training_stats.Collector(regex="Layers/.*", keep_previous=False)
    report_layers(Layers(*torch.rand(2, 1, 3, 4, 4), torch.ones(1, 1, 4, 4)))
    collector.update()
    stats = {name: stat for name, stat in collector.as_dict().items() if stat["num"] > 0}
    assert stats["Layers/coverage"]["mean"] == 1 and "Layers/mask_variation" not in stats


def test_border_loss_is_the_mean_of_the_outermost_pixels():
    mask = torch.rand(3, 1, 5, 6)
    expected = []
    for n in range(3):
        ring = [mask[n, 0, y, x].item() for y in range(5) for x in range(6) if y in (0, 4) or x in (0, 5)]
        expected.append(sum(ring) / len(ring))
    assert mask_border_loss(mask)[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_border_loss_tells_an_object_from_its_inverse():
    mask = torch.zeros(1, 1, 8, 8)
    mask[:, :, 2:6, 2:6] = 1
    assert mask_border_loss(mask).item() == 0
    assert mask_border_loss(1 - mask).item() == 1


def test_center_loss_is_how_much_the_middle_lacks():
    mask = torch.rand(3, 2, 8, 12)
    mask[:, :, 2:6, 3:9] /= 4
    every = sum(mask[n, k, y, x].item() for n in range(3) for k in range(2) for y in range(8) for x in range(12)) / 576
    middle = sum(mask[n, k, y, x].item() for n in range(3) for k in range(2) for y in range(2, 6)
                 for x in range(3, 9)) / 144
    assert mask_center_loss(mask).item() == pytest.approx(every - middle, abs=1e-6)


def test_center_loss_sees_pieces_of_ground_that_keep_off_the_border():
    strips = torch.zeros(1, 1, 16, 16)
    strips[:, :, 1:-1, 1:4] = strips[:, :, 1:-1, 12:15] = 1
    object_ = torch.zeros(1, 1, 16, 16)
    object_[:, :, 3:13, 5:11] = 1
    assert mask_border_loss(strips).item() == 0 and mask_center_loss(strips).item() == strips.mean().item()
    assert mask_center_loss(object_).item() == 0


def test_center_loss_is_of_the_batch_and_of_all_objects_together():
    beside = torch.zeros(1, 1, 8, 8)
    beside[:, :, :2] = 1
    inside = torch.zeros(1, 1, 8, 8)
    inside[:, :, 2:6, 2:6] = 1
    assert mask_center_loss(beside).item() == 0.25
    assert mask_center_loss(torch.cat([beside, inside])).item() == 0  # One of two pictures has it aside.
    assert mask_center_loss(torch.cat([beside, inside], dim=1)).item() == 0  # One of two objects is aside.
    assert mask_center_loss(torch.ones(2, 1, 8, 8)).item() == 0


def test_center_loss_says_nothing_to_masks_of_objects():
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, 2:7, 2:6] = 0.9
    mask.requires_grad_()
    mask_center_loss(mask).backward()
    assert mask.grad.count_nonzero() == 0


def test_settings_with_two_values_move_with_the_progress():
    _G, _D, loss = make_loss(shift=[0.25, 0.125], r1_gamma=2, mask_border_weight=[1, 0])
    assert (loss.shift, loss.r1_gamma, loss.mask_border_weight) == (0.25, 2, 1)
    loss.set_progress(0.75)
    assert (loss.shift, loss.r1_gamma, loss.mask_border_weight) == (0.1875, 2, 0.5)


@pytest.mark.parametrize("term", [dict(range_weight=1), dict(mask_floor=1.5), dict(mask_max=0.1),
                                  dict(mask_variety=0.9), dict(mask_size_over="batch")])
def test_terms_for_variety_change_the_generators_gradient(term):
    _G, _D, loss = make_loss(style_mixing_prob=0)
    torch.manual_seed(5)
    _real, gen_z = torch.randn(4, 3, 16, 16), torch.randn(4, 8)  # As in run_phase.
    areas = loss.run_layers(gen_z, torch.zeros(4, 0), sync=False)[0].mask.mean(dim=[1, 2, 3])
    common = dict(style_mixing_prob=0, mask_min=float(areas.median() + areas.max()) / 2)  # Some masks are below it.
    plain, changed = (run_phase(loss, G, "Gmain") for G, _D, loss in (make_loss(**common), make_loss(**common, **term)))
    assert any(not torch.equal(plain[name], changed[name]) for name in plain)


def test_terms_for_variety_are_the_weighted_sum_of_their_definitions():
    _G, _D, loss = make_loss(mask_min=0.4, mask_size_weight=3, mask_floor=0.5, mask_max=0.3, mask_variety=0.9,
                             mask_variety_weight=7, range_weight=5)
    coverage = torch.tensor([0.1, 0.25, 0.5, 0.9])
    layers = Layers(torch.full([4, 3, 8, 8], -1.5), torch.full([4, 3, 8, 8], 0.5),
                    coverage[:, None, None, None].expand(-1, 1, 8, 8))
    q = coverage.mean()
    variety = (0.9 * (q * (1 - q)).sqrt() - coverage.std(unbiased=False)).item()
    floor, excess = (0.2 - 0.1) / 4, (0.2 + 0.6) / 4
    assert variety > 0
    assert loss._variety_terms(layers).item() == pytest.approx(3 * (floor + excess) + 7 * variety + 5 * 0.25, rel=1e-4)


@pytest.mark.parametrize("bounds, expected", [
    (dict(mask_min=0.4, mask_floor=0, mask_max=1), 0), (dict(mask_min=0.4, mask_max=0), 3 * 0.3),
    (dict(mask_min=1, mask_floor=1), 3 * 0.7)])
def test_only_a_floor_of_0_and_a_ceiling_of_1_are_off(bounds, expected):
    _G, _D, loss = make_loss(mask_size_weight=3, **bounds)
    picture = torch.zeros(2, 3, 4, 4)
    terms = loss._variety_terms(Layers(picture, picture, torch.full([2, 1, 4, 4], 0.3)))
    assert float(terms) == pytest.approx(expected)


def test_scenes_count_as_empty_or_full_below_1_and_above_99_percent():
    coverage = torch.tensor([0.005, 0.015, 0.6, 0.985, 0.995])[:, None, None, None]
    collector = training_stats.Collector(regex="Layers/.*", keep_previous=False)
    report_layers(Layers(*torch.zeros(2, 5, 3, 4, 4), coverage.expand(-1, 1, 4, 4)))
    collector.update()
    assert collector.mean("Layers/all_bg") == pytest.approx(1 / 5)
    assert collector.mean("Layers/all_fg") == pytest.approx(1 / 5)
