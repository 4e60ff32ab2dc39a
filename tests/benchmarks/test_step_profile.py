"""The profile of a training step: how operations are sorted, that the shares add up, and the command."""

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from benchmarks import step_profile

pytestmark = pytest.mark.usefixtures("process_as_before")
TINY = ["--resolution=8", "--cbase=32", "--cmax=4", "--w-dim=8", "--batch=4", "--steps=2", "--threads=1"]


def test_operations_are_sorted_by_name_and_none_is_lost():
    times = {"aten::convolution_backward": 5.0, "aten::mkldnn_convolution": 3.0, "aten::mm": 1.0, "aten::bmm": 2.0,
             "FusedBiasActBackward": 4.0, "_CompiledResample": 6.0, "aten::copy_": 7.0, "aten::_fused_adam_": 8.0,
             "aten::add": 9.0, "detach": 10.0}
    found = step_profile.by_kind(times)
    assert sum(found.values()) == sum(times.values())
    assert found == {"convolutions": 8, "matrix products": 3, "bias, activation, scale": 4, "resampling": 6,
                     "copies and casts": 7, "Adam, moving average": 8, "other operations": 19}


def test_steps_that_warm_up_are_neither_profiled_nor_timed(monkeypatch):
    done, clock = [], iter(range(100))
    monkeypatch.setattr(step_profile, "profile", lambda activities: SimpleNamespace(
        start=lambda: done.append("start"), stop=lambda: done.append("stop")))
    monkeypatch.setattr(step_profile.time, "process_time", lambda: float(next(clock)))
    watch = step_profile.Stopwatch(num_steps=3)
    for step in range(step_profile.WARM_UP + 3):
        watch.before_step(0, 1)
        done.append(step)
        ended = watch.after_step()
        assert ended == (step == step_profile.WARM_UP + 2)
    monkeypatch.undo()
    assert done == [0, 1, "start", 2, 3, 4, "stop"] and watch.seconds == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_kind_is_found_in_a_real_step(precision):
    result = CliRunner().invoke(step_profile.main, [*TINY, f"--precision={precision}"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    kinds = record["ms_by_kind"]
    operations = kinds.keys() - {"Python, the profiler"}
    assert set(step_profile.KINDS) < operations and all(kinds[kind] > 0 for kind in operations), kinds
    assert sum(kinds.values()) == pytest.approx(max(record["ms"], sum(kinds[kind] for kind in operations)))
    assert record["precision"] == precision and record["gflop_per_step"] > 0
    for line in ("| operations | ms a step | share |", "| convolutions | ", "GFLOP/s"):
        assert line in result.stderr
