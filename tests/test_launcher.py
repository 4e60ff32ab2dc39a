"""How a run goes on: the command that is printed when it was stopped."""

import shlex

import pytest

import train_layered
from layered_plugin import launcher


def config(**changes):
    return dict(dict(run_dir=None, resume_state=None, num_gpus=1, on_collapse="restart", random_seed=0), **changes)


@pytest.mark.parametrize("outdir", ["runs", "my runs", "it's & that"])
def test_stopped_run_prints_a_command_that_can_be_pasted(tmp_path, monkeypatch, capsys, outdir):
    run_dir = str(tmp_path / outdir / "00000-cars")
    monkeypatch.setattr(launcher, "training_loop", lambda **_: "SIGTERM")
    assert launcher._run_attempts(0, "cpu", config(), str(tmp_path / outdir), "cars") == "SIGTERM"
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("Stopped by SIGTERM; all is saved. Go on with: ")
    words = shlex.split(line.split("Go on with: ")[1])
    assert words == ["python", "train_layered.py", f"--outdir={tmp_path / outdir}", f"--resume={run_dir}"]
    train_layered.main.make_context("train_layered.py", words[2:])
