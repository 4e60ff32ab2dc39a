"""The benchmark of torch.compile: the step it times is a generator's, and the command reports both ways."""

import json

import pytest
from click.testing import CliRunner

from benchmarks import torch_compile
from benchmarks.support.training_rounds import Sizes

pytestmark = pytest.mark.usefixtures("process_as_before")
TINY = Sizes(resolution=8, cbase=32, cmax=4, w_dim=8, batch=4)


def test_step_differentiates_the_synthesis_alone():
    step = torch_compile.GeneratorStep(TINY, "fp32")
    seen = []
    step.synthesis.zero_grad = lambda set_to_none: seen.append([param.grad for param in step.synthesis.parameters()])
    step.run(step.synthesis, step.D)
    (grads,) = seen
    assert sum(grad is not None and float(grad.abs().sum()) > 0 for grad in grads) > len(grads) / 2
    assert all(param.grad is None for param in step.D.parameters())


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:dynamo_pgo force disabled",
                            "ignore:Guards may run slower on Python 3.13.0")
def test_both_ways_are_timed():
    result = CliRunner().invoke(torch_compile.main, [
        "--resolution=8", "--cbase=32", "--cmax=4", "--w-dim=8", "--batch=4", "--steps=1", "--threads=1",
        "--precision=fp32", "--backend=eager"])
    assert result.exit_code == 0, result.output
    ways = json.loads(result.stdout)["ways"]
    assert list(ways) == ["as in training", "torch.compile"]
    assert all(row["step_ms"] > 0 and row["seconds_to_second_step"] > 0 for row in ways.values())
    assert "| torch.compile | " in result.stderr
