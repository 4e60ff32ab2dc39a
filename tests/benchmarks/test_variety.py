"""Trials side by side: what a user can mend is named and the others go on; a mistake of the program is not hidden."""

from pathlib import Path

import click
import pytest

from benchmarks.variety import Trial, only_run, side_by_side
from layered_plugin.errors import CheckpointError

TRIALS = [Trial("demo", seed, "cpu", Path("x")) for seed in range(3)]


def fail(error):
    def work(trial):
        if trial.seed == 1:
            raise error
        return trial.seed
    return work


@pytest.mark.parametrize("error", [click.ClickException("exit code 1"), CheckpointError("a.pkl: damaged")])
def test_failure_of_a_command_or_file_is_named_and_the_others_go_on(capsys, error):
    assert side_by_side(TRIALS, fail(error)) == [0, None, 2]
    assert capsys.readouterr().err == f"demo-seed1-cpu: {error}\n"


@pytest.mark.parametrize("error", [ValueError("a mistake"), StopIteration(), KeyError("iou")])
def test_mistake_of_the_program_is_not_taken_for_a_failure(error):
    with pytest.raises((type(error), RuntimeError)):  # A StopIteration may not leave a thread's result as it is.
        side_by_side(TRIALS, fail(error))


@pytest.mark.parametrize("names", [[], ["00000-a", "00001-a"]])
def test_run_of_a_command_is_the_only_one(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(click.ClickException, match=f"expected one run folder, found {len(names)}"):
        only_run(tmp_path)
