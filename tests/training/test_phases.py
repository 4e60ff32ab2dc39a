"""Phases with lazy regularization, the moving average, ADA's signal."""

import copy

import pytest
import torch
from torch_utils import training_stats

from layered_plugin.training.phases import (
    AdaSignal,
    all_finite,
    ramp,
    set_learning_rate,
    setup_phases,
    update_ema,
    zero_nonfinite,
)

ADAM = dict(class_name="torch.optim.Adam", lr=0.01, betas=[0.0, 0.99], eps=1e-8)


def test_lazy_regularization_corrects_lr_and_betas_of_one_shared_optimizer():
    main, reg = setup_phases("D", torch.nn.Linear(2, 2), ADAM, reg_interval=16)
    assert [(p.name, p.interval) for p in (main, reg)] == [("Dmain", 1), ("Dreg", 16)]
    assert main.opt is reg.opt
    group = main.opt.param_groups[0]
    assert group["lr"] == pytest.approx(0.01 * 16 / 17)
    assert group["betas"] == pytest.approx((0, 0.99 ** (16 / 17)))


def test_without_interval_there_is_one_phase():
    (both,) = setup_phases("G", torch.nn.Linear(2, 2), ADAM, reg_interval=None)
    assert (both.name, both.interval, both.opt.param_groups[0]["lr"]) == ("Gboth", 1, 0.01)


@pytest.mark.parametrize("progress, expected", [(0, 4), (0.5, 4), (0.75, 3), (1, 2), (1.5, 2)])
def test_a_ramp_holds_for_half_the_run_and_then_goes_straight_to_its_end(progress, expected):
    assert ramp([4, 2], progress) == expected
    assert ramp(4, progress) == 4


@pytest.mark.parametrize("interval, ratio", [(16, 16 / 17), (None, 1)])
def test_a_learning_rate_with_two_values_moves_and_stays_corrected(interval, ratio):
    lr = [0.01, 0.002]
    phases = setup_phases("D", torch.nn.Linear(2, 2), dict(ADAM, lr=lr), reg_interval=interval)
    for progress, expected in ((0, 0.01), (0.75, 0.006), (1, 0.002)):
        set_learning_rate(phases, lr, progress)
        assert phases[-1].opt.param_groups[0]["lr"] == pytest.approx(expected * ratio)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3))
        self.register_buffer("count", torch.randn(2))


@pytest.mark.parametrize("rampup, cur_nimg, half_life", [(None, 0, 2000), (0.05, 10000, 500), (0.05, 10**6, 2000)])
def test_ema_has_the_stated_half_life_and_copies_buffers(rampup, cur_nimg, half_life):
    G = Net().requires_grad_(False)
    G_ema = copy.deepcopy(G)
    before = G_ema.weight.clone()
    G.weight.add_(1)
    G.count.add_(1)
    update_ema(G, G_ema, batch_size=100, cur_nimg=cur_nimg, ema_kimg=2, ema_rampup=rampup)
    assert torch.allclose(G_ema.weight, before + 1 - 0.5 ** (100 / half_life))
    assert torch.equal(G_ema.count, G.count)


def test_ema_with_rampup_starts_as_a_copy():
    G = Net().requires_grad_(False)
    G_ema = copy.deepcopy(G)
    G.weight.add_(1)
    update_ema(G, G_ema, batch_size=100, cur_nimg=0, ema_kimg=2, ema_rampup=0.05)
    assert torch.allclose(G_ema.weight, G.weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_gradients_are_noticed_and_replaced(bad):
    grads = [torch.ones(3), torch.tensor([1.0, bad])]
    assert not all_finite(grads)
    zero_nonfinite(grads)
    assert all_finite(grads)
    assert grads[1].tolist() == [1.0, {"nan": 0.0, "inf": 1e5, "-inf": -1e5}[str(bad)]]


def test_no_gradients_are_finite():
    assert all_finite([])


def test_ada_signal_is_the_mean_sign_since_it_was_taken():
    ada = AdaSignal()
    training_stats.report("Loss/signs/real", torch.tensor([1.0, 1, 1, -1]))
    ada.gather()  # As a save between two adjustments does.
    assert (ada.count, ada.total) == (4, 2)
    training_stats.report("Loss/signs/real", torch.tensor([-1.0, -1]))
    assert ada.take() == 0
    training_stats.report("Loss/signs/real", torch.tensor([1.0]))
    assert ada.take() == 1
