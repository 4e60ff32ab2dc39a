"""`make demo`: the order of its commands, some side by side, each acceptable, none repeated; long work is replaced."""

from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from command_examples import find_command, parse

from layered_plugin import demo


class FakeShell:
    """Notes every command, and leaves behind the files by which the demo knows that it is finished."""

    def __init__(self, fail_at=None):
        self.commands, self.threads, self.fail_at, self.folders = [], [], fail_at, 0

    def start(self, args, env, **_kwargs):
        self.threads.append(env.get("OMP_NUM_THREADS"))
        return SimpleNamespace(wait=lambda: self.run(args[1:]))

    def run(self, command):
        if command[1].startswith("layered_plugin.commands."):  # The scripts, wherever they lie.
            command = [command[1].rpartition(".")[2] + ".py", *command[2:]]
        self.commands.append(command)
        values = dict(arg[2:].split("=", 1) for arg in command if arg.startswith("--") and "=" in arg)
        for name in ("dest", "masks"):
            if name in values and not command[0] == "eval.py":
                demo.Path(values[name]).parent.mkdir(exist_ok=True)
                demo.Path(values[name]).write_bytes(b"")
        files = {"train_layered.py": ("shapes-demo-x", "training-state-000024.pt"),
                 "distill": ("distill-x", "model.json"), "train": ("encoder-x", "model.json")}
        key = command[0] if command[0] in files else command[1]
        if key == self.fail_at:
            return 3
        if key in files:
            name, file = files[key]
            folder = demo.Path(values["outdir"]) / f"{self.folders:05d}-{name}"
            self.folders += 1
            folder.mkdir(parents=True)
            (folder / file).write_text("{}")
        return 0


@pytest.fixture
def shell(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    fake = FakeShell()
    monkeypatch.setattr(demo.subprocess, "Popen", fake.start)
    return fake


def test_the_whole_job_in_order(shell, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    result = CliRunner().invoke(demo.main, [])
    assert result.exit_code == 0, result.output
    done = [" ".join(command[:3 if "dataset_tool" in command[1] else 2]).split(" --")[0] for command in shell.commands]
    assert done[:3] == [*["-m layered_plugin.dataset_tool shapes"] * 2, "train_layered.py"]
    assert done[-1] == "eval.py report"
    assert sorted(done[3:-1]) == sorted([  # In two courses, side by side.
        "invert.py distill", "eval.py real", "invert.py segment",
        "eval.py judge", "eval.py generated", "invert.py train", "eval.py real"])
    for earlier, later in (("invert.py distill", "invert.py segment"), ("eval.py judge", "eval.py generated"),
                           ("eval.py generated", "invert.py train")):
        assert done.index(earlier) < done.index(later)
    assert shell.threads[3:-1] == ["3"] * 7  # Half of 7.
    assert result.output.strip().splitlines()[-1].endswith("report.html")
    for command in shell.commands:  # What a person would copy.
        assert f"$ python {' '.join(command)}" in result.output


def test_masks_are_read_for_scoring_only(shell):
    assert CliRunner().invoke(demo.main, []).exit_code == 0
    learning = [command for command in shell.commands if command[0] == "train_layered.py"
                or command[:2] in (["invert.py", "distill"], ["invert.py", "train"])]
    assert len(learning) == 3
    assert not any("masks" in arg for command in learning for arg in command)


def test_finished_steps_are_not_repeated(shell):
    assert CliRunner().invoke(demo.main, []).exit_code == 0
    shell.commands.clear()
    assert CliRunner().invoke(demo.main, []).exit_code == 0
    assert {command[0] for command in shell.commands} == {"eval.py", "invert.py"}
    assert not any(command[1] in ("distill", "train") for command in shell.commands)


def test_begun_steps_are_continued(shell, tmp_path):
    begun = tmp_path / "runs" / "demo" / "00000-shapes-demo-y"
    begun.mkdir(parents=True)
    (begun / "training-state-000008.pt").write_text("")
    assert CliRunner().invoke(demo.main, []).exit_code == 0
    training = next(command for command in shell.commands if command[0] == "train_layered.py")
    assert any(arg.startswith("--resume=") and arg.endswith("00000-shapes-demo-y") for arg in training)


@pytest.mark.parametrize("name", ["train_layered.py", "distill", "judge"])
def test_a_failed_command_ends_the_demo(shell, name):
    shell.fail_at = name
    result = CliRunner().invoke(demo.main, [])
    assert result.exit_code in ((1, 3) if name == "judge" else (3,))  # The other course may meet its end first.
    assert not any(command[1] in ("report", "generated" * (name == "judge")) for command in shell.commands)
    assert ("Failed, see runs/demo/comparisons.log: Train a judge" in result.stderr) == (name == "judge")


def test_ctrl_c_waits_until_the_command_has_saved(shell, monkeypatch):
    waited = []

    def wait():
        waited.append(1)
        if len(waited) == 1:
            raise KeyboardInterrupt
        return 130

    monkeypatch.setattr(demo.subprocess, "Popen", lambda *_args, **_kwargs: SimpleNamespace(wait=wait))
    assert CliRunner().invoke(demo.main, []).exit_code == 130 and len(waited) == 2


def test_every_command_is_accepted(shell):
    assert CliRunner().invoke(demo.main, []).exit_code == 0
    assert len(shell.commands) == 11
    for command in shell.commands:
        if command[0] == "-m":
            parse(find_command(" ".join(command[:2])), command[2:])
        else:
            parse(find_command(command[0]), command[1:])


def test_training_that_leaves_no_finished_run_is_named(shell, monkeypatch):
    monkeypatch.setattr(demo.Steps, "run", lambda self, title, command: None)
    result = CliRunner().invoke(demo.main, ["--outdir=runs/old"])
    assert result.exit_code == 1
    assert "--outdir: runs/old has no finished run of shapes-demo, though its training has ended" in result.stderr
