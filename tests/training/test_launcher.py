"""How a run goes on: the command that is printed when it was stopped, the next seed after a collapse."""

import json
import shlex

import pytest

import train_layered
from layered_plugin import errors
from layered_plugin.training import launcher


def config(**changes):
    return dict(dict(run_dir=None, resume_state=None, num_gpus=1, on_collapse="restart", random_seed=0), **changes)


@pytest.mark.parametrize("outdir", ["runs", "my runs", "it's & that"])
def test_stopped_run_prints_a_command_that_can_be_pasted(tmp_path, monkeypatch, capsys, outdir):
    run_dir = str(tmp_path / outdir / "00000-cars")
    monkeypatch.setattr(launcher, "train_legs", lambda *_: "SIGTERM")
    assert launcher._run_attempts(0, "cpu", config(), str(tmp_path / outdir), "cars", None) == "SIGTERM"
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("Stopped by SIGTERM; all is saved. Go on with: ")
    words = shlex.split(line.split("Go on with: ")[1])
    assert words == ["python", "train_layered.py", f"--outdir={tmp_path / outdir}", f"--resume={run_dir}"]
    train_layered.main.make_context("train_layered.py", words[2:])


@pytest.fixture
def collapse_twice(monkeypatch):
    """Replace the training by one that collapses with the first two seeds; gives the seeds it was called with."""
    seeds = []

    def train_legs(config, *_args):
        seeds.append(config["random_seed"])
        if len(seeds) < 3:
            raise errors.CollapsedError("at kimg 20")

    monkeypatch.setattr(launcher, "train_legs", train_legs)
    return seeds


def test_name_of_a_restarted_run_has_its_seed(tmp_path, collapse_twice):
    told = tmp_path.with_name("told")
    launcher._run_attempts(0, "cpu", config(random_seed=8), str(tmp_path), "cars-seed8", None, told)
    names = ["00000-cars-seed8", "00001-cars-seed9", "00002-cars-seed10"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names and collapse_twice == [8, 9, 10]
    assert told.read_text() == str(tmp_path / names[-1])  # What is said if it is killed.
    for name, seed in zip(names, collapse_twice, strict=True):
        assert json.loads((tmp_path / name / "training_options.json").read_text())["random_seed"] == seed


@pytest.mark.parametrize("resumed, names", [
    ("00000-cars-seed0", ["00001-cars-seed1", "00002-cars-seed2"]),
    ("00007-seed9-kimg20-seed0-resumecustom", ["00008-seed9-kimg20-seed1-resumecustom",
                                               "00009-seed9-kimg20-seed2-resumecustom"]),
    ("my-cars", ["00000-my-cars-seed1", "00001-my-cars-seed2"]),  # Renamed by the user.
])
@pytest.mark.usefixtures("collapse_twice")
def test_resumed_run_restarts_under_its_own_name(tmp_path, resumed, names):
    (tmp_path / resumed).mkdir()
    launcher._run_attempts(0, "cpu", config(run_dir=str(tmp_path / resumed)), str(tmp_path), "", None)
    assert sorted({path.name for path in tmp_path.iterdir()} - {resumed}) == names
