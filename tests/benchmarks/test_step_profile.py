"""The profile of a training step: how operations are sorted, that the shares add up, and the command."""

import json

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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_kind_is_found_in_a_real_step(precision):
    result = CliRunner().invoke(step_profile.main, [*TINY, f"--precision={precision}"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    kinds = record["ms_by_kind"]
    own = {"Python, the profiler"}
    assert all(kinds[kind] > 0 for kind in kinds.keys() - own), kinds
    assert sum(kinds[kind] for kind in kinds.keys() - own) < 1.5 * record["ms"]
    assert record["precision"] == precision and record["gflop_per_step"] > 0
    for line in ("| operations | ms a step | share |", "| convolutions | ", "GFLOP/s"):
        assert line in result.stderr
