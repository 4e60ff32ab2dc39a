"""After an encoder's training: statistics settled over the pictures, codes refined picture by picture."""

import math

import pytest
import torch
from test_reconstruction import make, pictures, same, state
from torch import nn

from layered_plugin.model.encoder import Codes, decode
from layered_plugin.model.layers import Layers, composite
from layered_plugin.segmentation.fitting import settle_batch_norm
from layered_plugin.segmentation.reconstruction import posterior_mask, refine_codes


def test_settled_statistics_are_the_plain_mean_over_the_batches():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, momentum=0.3))
    net(torch.randn(4, 3, 5, 5) + 100)  # Statistics to be forgotten.
    batches = [torch.randn(4, 3, 5, 5) * scale + scale for scale in (1.0, 2.0, 5.0)]
    weights = net[1].weight.clone()
    settle_batch_norm(net.eval(), batches)
    assert not net.training and torch.equal(net[1].weight, weights)
    assert (net[0].momentum, net[2].momentum) == (0.1, 0.3)

    def check(norm, batches):
        expected = torch.stack([batch.mean(dim=[0, 2, 3]) for batch in batches]).mean(dim=0)
        assert torch.allclose(norm.running_mean, expected, rtol=1e-4, atol=1e-5)
        expected = torch.stack([batch.var(dim=[0, 2, 3]) for batch in batches]).mean(dim=0)
        assert torch.allclose(norm.running_var, expected, rtol=1e-4, atol=1e-5)

    check(net[0], batches)
    with torch.no_grad():
        seen = [(batch - batch.mean(dim=[0, 2, 3], keepdim=True)) / batch.std(dim=[0, 2, 3], keepdim=True)
                * (100 / 99) ** 0.5 for batch in batches]
        check(net[2], [net[1](part) for part in seen])


def test_after_settling_on_one_batch_evaluation_gives_what_training_gave():
    training, _, _ = make()
    img = pictures(16)
    with torch.no_grad():
        trained = training.E.train()(img).ws
        settle_batch_norm(training.E, [img])
        settled = training.E(img).ws
    assert (settled - trained).abs().max() < 0.02 * (trained - training.reconstruction.w_avg).abs().max()


def test_refinement_lowers_each_pictures_loss_and_changes_nothing_else():
    training, G, D = make()
    before, img = state(G, D, training.E.eval()), pictures()
    codes = Codes(*(part.detach() for part in training.E(img)))
    kept = Codes(*(part.clone() for part in codes))
    better = refine_codes(training.reconstruction, codes, img, 10, 0.2)
    losses = [[training.reconstruction(Codes(*(part[idx:idx + 1] for part in one)), img[idx:idx + 1])[0].item()
               for idx in range(4)] for one in (codes, better)]
    assert all(new < old for old, new in zip(*losses, strict=True))
    assert torch.equal(codes.ws, kept.ws) and torch.equal(codes.shift, kept.shift)
    assert same(before, G, D, training.E)
    assert all(param.grad is None for net in (G, D, training.E) for param in net.parameters())
    assert not better.ws.requires_grad and not better.shift.requires_grad
    assert not torch.equal(better.shift, codes.shift)


def test_refined_pictures_do_not_influence_one_another():
    training, _, _ = make(mean_w_weight=0.1)
    img = pictures(3)
    codes = training.E.eval()(img)
    together = refine_codes(training.reconstruction, codes, img, 5, 0.2)
    for idx in range(3):
        one = Codes(*(part[idx:idx + 1] for part in codes))
        alone = refine_codes(training.reconstruction, one, img[idx:idx + 1], 5, 0.2)
        assert torch.allclose(alone.ws[0], together.ws[idx], atol=2e-3)
        assert torch.allclose(alone.shift[0], together.shift[idx], atol=2e-4)


def test_features_of_the_pictures_are_computed_once(monkeypatch):
    training, _, _ = make()
    codes, img = training.E.eval()(pictures()), pictures()
    seen, features = [], training.reconstruction.features
    monkeypatch.setattr(training.reconstruction, "features",
                        lambda one: seen.append(torch.equal(one, img)) or features(one))
    refine_codes(training.reconstruction, codes, img, 3, 0.2)
    assert seen == [True, False, False, False]


def test_no_steps_leave_the_codes():
    training, G, _ = make()
    codes = Codes(torch.randn(2, G.num_ws, G.w_dim), torch.rand(2, 2) * 0.1)
    same_codes = refine_codes(training.reconstruction, codes, pictures(2), 0, 0.2)
    assert torch.equal(same_codes.ws, codes.ws) and torch.equal(same_codes.shift, codes.shift)


def test_refinement_moves_a_foreground_that_stood_still_and_keeps_it_in_bounds():
    training, G, _ = make()
    ws = G.mapping(torch.randn(2, 8), None)
    real = composite(decode(G, Codes(ws, torch.tensor([[0.04, 0.0], [0.12, 0.0]]))))
    shift = refine_codes(training.reconstruction, Codes(ws, torch.zeros(2, 2)), real, 25, 0.05, lr=0.1).shift
    assert 0.01 < shift[0, 0] <= 0.05
    assert shift[1, 0] == torch.tensor(0.05), "it would go further"


def test_a_prior_costs_its_mean_distance_to_the_mask():
    training, _, _ = make()
    img, prior = pictures(2), torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        codes = training.E.eval()(img)
        plain, layers, _ = training.reconstruction(codes, img)
        kept, _, _ = training.reconstruction(codes, img, prior=prior)
    assert (kept - plain).item() == pytest.approx(0.3 * (layers.mask - prior).abs().mean().item(), rel=1e-4)


def test_an_encoder_without_shifts_gets_none_by_refinement():
    training, _, _ = make(max_shift=0.0)
    img = pictures(2)
    codes = training.E.eval()(img)
    assert refine_codes(training.reconstruction, codes, img, 3, 0.0).shift.tolist() == [[0, 0], [0, 0]]


# Posterior.

@pytest.mark.parametrize("prior", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("pixel", [-0.4, 0.1, 0.6])
def test_posterior_is_bayes_rule_with_laplace_noise(prior, pixel):
    bg, fg, noise = -0.3, 0.5, 0.2
    layers = Layers(torch.full([1, 3, 1, 1], bg), torch.full([1, 3, 1, 1], fg), torch.full([1, 1, 1, 1], prior))
    object_ = prior * math.exp(-abs(pixel - fg) / noise)
    ground = (1 - prior) * math.exp(-abs(pixel - bg) / noise)
    found = posterior_mask(layers, torch.full([1, 3, 1, 1], pixel), noise=noise)
    assert found.item() == pytest.approx(object_ / (object_ + ground), rel=1e-5)


def test_posterior_of_layers_that_explain_a_picture_alike_is_the_mask():
    torch.manual_seed(0)
    same_layer, mask = torch.rand(2, 3, 4, 4), torch.rand(2, 1, 4, 4)
    assert torch.allclose(posterior_mask(Layers(same_layer, same_layer, mask), torch.rand(2, 3, 4, 4)), mask, atol=2e-4)


def test_posterior_stays_finite_where_the_mask_is_sure():
    layers = Layers(torch.zeros(1, 3, 1, 2), torch.ones(1, 3, 1, 2), torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2))
    sure = posterior_mask(layers, torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)).flatten()
    swapped = posterior_mask(layers, torch.tensor([1.0, 0.0]).expand(1, 3, 1, 2)).flatten()
    assert sure[0] < 1e-4 and sure[1] > 1 - 1e-4
    assert swapped[0] > 0.5 and swapped[1] < 0.5, "a pixel that only the other layer explains overrules the mask"
