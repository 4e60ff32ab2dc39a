"""benchmarks.ops: what it times is what it names, and its records have a row for each case."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from torch_utils.ops import compiled

from benchmarks import ops

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") and shutil.which("ninja")), reason="needs g++ and ninja to build the kernels"
)


@pytest.mark.parametrize("name", list(ops.ZERO_INSERTING))
def test_zero_insertion_computes_the_same(name):
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(ops.ZERO_INSERTING[name](x), ops.OPS[name][0](x))


def test_parts_are_the_derivatives_of_the_operation():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    parts = ops.works(lambda x: x**2, [x])
    assert tuple(parts) == ops.DERIVATIVES
    (grad,), (both,) = parts["backward"](), parts["forward_backward"]()
    assert torch.equal(grad, both) and parts["forward"]() is None
    by_grad, by_x = parts["double_backward"]()  # Of 2 x grad, along a direction.
    assert torch.allclose(by_grad * grad, 2 * x * by_x * x, atol=1e-5)


def test_the_least_round_counts(monkeypatch):
    ticks = iter([0.0, 5.0, 0.0, 3.0, 0.0, 4.0] + [0.0, 1.0] * 9)
    monkeypatch.setattr(ops, "clock", lambda: next(ticks))
    best = ops.measure({"a": dict.fromkeys(ops.DERIVATIVES, lambda: None)}, num_rounds=2)
    assert best["a"] == dict(forward=3000.0, backward=1000.0, double_backward=1000.0, forward_backward=1000.0)


@needs_compiler
def test_command_writes_a_record_per_case(monkeypatch):
    monkeypatch.setattr(ops, "tune_cpu", lambda: None)  # It would change this process for the tests that follow.
    args = ["--batch=1", "--channels=2", "--resolution=4", "--rounds=1"]
    result = CliRunner().invoke(ops.main, args)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    cases = list(ops.cases(1, 2, 4))
    assert [(r["op"], r["shape"], r["dtype"], r["layout"]) for r in record["records"]] == cases
    assert sum(line.startswith("| ") for line in result.stderr.splitlines()) == len(cases) + 1
    for row in record["records"]:
        assert set(row["ms"]) >= {"compiled", "reference"}
        assert all(value > 0 for times in row["ms"].values() for value in times.values())


def test_without_kernels_it_says_so(monkeypatch):
    monkeypatch.setattr(ops, "tune_cpu", lambda: None)
    monkeypatch.setattr(compiled, "supports", lambda x: False)
    result = CliRunner().invoke(ops.main, ["--rounds=1"])
    assert result.exit_code == 1 and "No compiled operations" in result.output
