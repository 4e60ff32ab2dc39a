"""Guards: collapse findings, patience, non-finite losses, signals."""

import os
import re
import signal

import pytest

import train_layered
from layered_plugin.errors import UserError
from layered_plugin.signals import StopRequest
from layered_plugin.training import presets
from layered_plugin.training.guards import CollapseWatch, check_finite, find_collapse
from layered_plugin.training.phases import ramp

HEALTHY = dict(coverage=0.25, border=0.05, center=0.6, binarity=0.9, all_bg=0.0, all_fg=0.0, mask_variation=0.3,
               difference=0.5)


def stats(**changes):
    return {f"Layers/{name}": dict(num=8, mean=value, std=0.0) for name, value in dict(HEALTHY, **changes).items()}


@pytest.mark.parametrize("changes, words", [
    (dict(all_bg=1.0, coverage=0.0, border=0.0), "mask is empty"),
    (dict(all_fg=1.0, coverage=1.0, border=1.0), "covers everything"),
    (dict(mask_variation=0.001), "same for every z"),
    (dict(border=0.8, coverage=0.6), "objects are probably in the background"),
    (dict(border=0.002, coverage=0.24, center=0.01), "leaves out the middle"),  # With a border term, which hides it.
    (dict(difference=0.001), "same picture"),
])
def test_each_collapse_is_found_with_a_remedy(changes, words):
    findings = find_collapse(stats(**changes))
    assert len(findings) == 1 and words in findings[0] and "--" in findings[0]


@pytest.mark.parametrize("changes", [dict(all_bg=1.0), dict(all_fg=1.0), dict(mask_variation=0.0), dict(border=1.0),
                                     dict(center=0.0), dict(difference=0.0)])
def test_remedies_are_options_of_a_new_run(changes):
    """A resumed run keeps these options; and --gan-loss=wgan-gp refuses --gamma."""
    (text,) = find_collapse(stats(**changes))
    remedy = text.partition(": ")[2]
    options = set(re.findall(r"--[a-z-]+", remedy))
    assert "start a new run with " in remedy and options <= {param.opts[0] for param in train_layered.main.params}
    assert ("--gamma" in options) == ("wgan-gp: --gp-weight" in remedy)


def test_remedy_for_objects_in_the_background_is_what_the_demo_begins_with():
    demo = presets.preset_options("demo")
    for changes, names in ((dict(border=1.0), ("border", "size")), (dict(center=0.0), ("center",))):
        (text,) = find_collapse(stats(**changes))
        for name in names:
            assert f"--mask-{name}-weight={ramp(demo[f'mask_{name}_weight'], 0):g} " in text.replace(",", " ")


def test_healthy_layers_have_no_findings():
    assert find_collapse(stats()) == []


@pytest.mark.parametrize("changes, num", [({}, 0), (dict(border=0.8, coverage=0.6), 1), (dict(difference=0.001), 1)])
def test_variation_that_was_not_measured_is_no_finding(changes, num):
    measured = stats(**changes)
    measured["Layers/mask_variation"] = dict(num=0, mean=float("nan"), std=float("nan"))
    assert len(find_collapse(measured)) == num
    del measured["Layers/mask_variation"]
    assert len(find_collapse(measured)) == num


def test_watch_warns_once_and_gives_a_verdict_after_its_patience():
    watch, bad = CollapseWatch(), stats(all_fg=1.0)
    found = {kimg: [len(part) for part in watch.update(bad, kimg)] for kimg in (1, 4, 5, 6, 20, 21)}
    assert found == {1: [0, 0], 4: [0, 0], 5: [1, 0], 6: [0, 0], 20: [0, 0], 21: [0, 1]}


def test_watch_begins_anew_after_a_recovery():
    watch, bad = CollapseWatch(), stats(all_fg=1.0)
    assert [[len(part) for part in watch.update(bad, kimg)] for kimg in (1, 5)] == [[0, 0], [1, 0]]
    watch.update(stats(), 9)
    assert [[len(part) for part in watch.update(bad, kimg)] for kimg in (12, 16, 21)] == [[0, 0], [1, 0], [0, 0]]


def test_watch_goes_on_where_a_run_stopped():
    first, bad = CollapseWatch(), stats(all_fg=1.0)
    assert [[len(part) for part in first.update(bad, kimg)] for kimg in (1, 5)] == [[0, 0], [1, 0]]
    second = CollapseWatch()
    second.unpack(first.pack())
    assert [[len(part) for part in second.update(bad, kimg)] for kimg in (9, 21)] == [[0, 0], [0, 1]]


def test_non_finite_loss_names_quantity_phase_and_kimg():
    losses = {"Loss/D/loss": dict(num=4, mean=float("nan"), std=0.0), "Loss/G/loss": dict(num=4, mean=1.0, std=0.0)}
    words = r"^Loss/D/loss not finite in phase Dmain at kimg 3\.5.* a higher --gamma \(wgan-gp: --gp-weight\)"
    with pytest.raises(UserError, match=words):
        check_finite(losses, "Dmain", 3.5)


def test_a_quantity_that_was_not_measured_is_not_an_error():
    check_finite({"Loss/G/reg": dict(num=0, mean=float("nan"), std=0.0)}, "Gmain", 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_noted_and_handlers_are_restored(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop.received == number.name
    assert signal.getsignal(number) is before


def test_second_interrupt_acts_at_once():
    with pytest.raises(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_patience_outlasts_the_known_early_degenerate_state():
    watch = CollapseWatch()
    ended = [kimg for kimg in range(40) if watch.update(stats(all_fg=1.0), kimg)[1]]
    assert ended and min(ended) >= 20
