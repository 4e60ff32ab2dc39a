"""Trainings over settings and seeds: what is read, resumed, begun, refused; long work is replaced."""

import json
from pathlib import Path

import click
import pytest

from benchmarks.support import judged_runs, shell
from benchmarks.support.judged_runs import JudgedRun, flat_scores, judged_results
from benchmarks.support.shell import Shell
from layered_plugin.evaluation.judge import save_judge
from layered_plugin.model.unet import make_unet
from layered_plugin.synthetic.shapes import write_shapes

RECORD = dict(protocol="generated", num=10, num_detected=8, coverage=0.3, teacher_coverage=0.2, all=dict(iou=0.8),
              detected=dict(iou=0.9, full_mask_iou=0.25), teacher=dict(weights="j.pt"), network="n.pkl", seed=1,
              base="bundled", command="c")
SHARE = dict(coverage=0.7, variation=0.2)
VARIETY = dict(variety=dict(shapes=dict(share=SHARE)))


class FakeShell(Shell):
    """Notes every command; a training leaves a state and statistics, a scoring a record."""

    commands: list[list[str]] = []
    broken = refused = ""

    def call(self, args, log, on_line=lambda line: None):
        FakeShell.commands.append(list(args))
        if FakeShell.refused:
            raise click.ClickException(FakeShell.refused)
        if FakeShell.broken and any(FakeShell.broken in arg for arg in args) and "--dry-run" not in args:
            raise click.ClickException("out of luck")
        values = dict(arg[2:].split("=", 1) for arg in args if "=" in arg)
        if args[0] == "eval.py":
            return json.dumps(dict(RECORD, **VARIETY, network=values["network"]))
        if "--dry-run" not in args:
            folder = Path(values.get("resume", f"{values['outdir']}/00000-plants"))
            make_begun(folder)
            on_line("tick 1     kimg 1.0      time 1s mask 0.125 img/s 90.0   eta 1m 02s")
            on_line("tick 1     kimg 1.1      time 1s mask 0.126 img/s 90.0   eta 1m 00s")
            on_line("tick 2     kimg 2.0      time 2s mask 0.250 img/s 90.0   eta 0s")
        return ""


def make_begun(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training-state-000001.pt").write_bytes(b"")
    (folder / "training_options.json").write_text(json.dumps(dict(
        training_set_kwargs={}, loss_kwargs={}, resolution=16, total_kimg=2)))
    row = {"Progress/kimg": 2, "Timing/maintenance_sec": 20, "Timing/sec_per_tick": 70, "Layers/coverage": 0.2}
    (folder / "stats.jsonl").write_text(json.dumps({**{key: dict(mean=value) for key, value in row.items()},
                                                    "timestamp": 1.0}) + "\n")


@pytest.fixture
def commands(monkeypatch):
    for module in (judged_runs, shell):
        monkeypatch.setattr(module, "Shell", FakeShell)
    FakeShell.commands, FakeShell.broken, FakeShell.refused = [], "", ""
    return FakeShell.commands


def make_run(tmp_path, seed=0, kimg=2.0):
    judge, data, masks = (tmp_path / name for name in ("judge.pt", "plants.zip", "masks.zip"))
    if not judge.exists():
        save_judge(make_unet((4, 4, 4)), judge, 16)
        write_shapes(dict(picture=str(data), mask=str(masks)), 4, 18, 0)
    return JudgedRun("b", seed, str(data), kimg, ("--shift=0",), str(judge), str(masks), tmp_path / f"b-seed{seed}",
                     num=10)


def trainings(commands):
    return [args for args in commands if args[0] == "train_layered.py" and "--dry-run" not in args]


def test_a_new_run_is_trained_scored_and_kept(tmp_path, commands, capsys):
    run = make_run(tmp_path)
    [result] = judged_results([run], jobs=1)
    assert trainings(commands) == [["train_layered.py", f"--outdir={run.folder}", f"--data={run.data}",
                                    "--cfg=demo", "--kimg=2", "--seed=0", "--shift=0"]]
    assert commands[0][-1] == "--dry-run" and commands[-1] == [
        "eval.py", "generated", f"--network={run.folder}/00000-plants", "--snapshot=latest", "--teacher=unet",
        f"--weights={run.judge}", "--num=10", "--seed=1", f"--real={run.data}", f"--real-masks={run.masks}"]
    assert result["mean_iou"] == 0.8 and result["train_minutes"] == 1.5 and result["setting"] == "b"
    assert result["shapes"] == SHARE
    assert result["train_command"].startswith("python train_layered.py --outdir=")
    said = capsys.readouterr().err
    assert "b seed 0: 1.0 of 2 kimg, mask 0.12, 1m 02s to go" in said and "kimg 1.1" not in said
    assert "b seed 0: mean IoU of all scenes 0.800, coverage 0.700; 1 of 1 runs, about 0 min to go" in said


def test_finished_runs_are_skipped_and_a_begun_one_is_resumed(tmp_path, commands):
    finished, begun, new = (make_run(tmp_path, seed) for seed in range(3))
    first = judged_results([finished], jobs=1)
    commands.clear()
    make_begun(begun.folder / "00003-plants")
    results = judged_results([finished, begun, new], jobs=1)
    assert results[0] == first[0] and [result["train_seed"] for result in results] == [0, 1, 2]
    resumed, started = trainings(commands)
    assert resumed == ["train_layered.py", f"--outdir={begun.folder}", f"--resume={begun.folder}/00003-plants"]
    assert started == new.train_args


def test_nothing_runs_when_all_is_finished(tmp_path, commands):
    runs = [make_run(tmp_path)]
    judged_results(runs, jobs=1)
    commands.clear()
    assert judged_results(runs, jobs=2)[0]["mean_iou"] == 0.8 and commands == []


def test_a_folder_of_other_options_is_refused(tmp_path, commands):
    judged_results([make_run(tmp_path)], jobs=1)
    with pytest.raises(click.ClickException, match="b-seed0 was made with --kimg=2; choose another --outdir"):
        judged_results([make_run(tmp_path, kimg=3)], jobs=1)


def test_a_failed_run_is_named_and_the_others_are_finished(tmp_path, commands, capsys):
    runs = [make_run(tmp_path, seed) for seed in range(3)]
    FakeShell.broken = "b-seed1"
    with pytest.raises(click.ClickException, match="b seed 1: out of luck"):
        judged_results(runs, jobs=2)
    assert [(run.folder / "result.json").is_file() for run in runs] == [True, False, True]
    assert "b seed 1: FAILED" in capsys.readouterr().err


def test_a_judge_that_cannot_be_read_is_told_before_any_training(tmp_path, commands):
    run = make_run(tmp_path)
    Path(run.judge).write_text("no judge")
    with pytest.raises(click.ClickException, match="--judge: .*judge.pt: no judge"):
        judged_results([run], jobs=1)
    assert commands == []


@pytest.mark.parametrize("option, name", [("--masks", "masks.zip"), ("--data", "plants.zip")])
def test_files_that_cannot_be_read_are_told_before_any_training(tmp_path, commands, option, name):
    run = make_run(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(click.ClickException, match=f"^{option}: .*{name}"):
        judged_results([run], jobs=1)
    assert commands == []


def test_a_wrong_option_is_told_once_and_leaves_no_folder(tmp_path, commands):
    FakeShell.refused = "Error: no such option"
    with pytest.raises(click.ClickException, match="Error: no such option"):
        judged_results([make_run(tmp_path, seed) for seed in range(3)], jobs=2)
    assert len(commands) == 1 and not list(tmp_path.glob("b-seed*"))


def test_shell_gives_the_last_line_and_names_what_failed(tmp_path):
    log, lines = tmp_path / "log", []
    assert Shell().call(["-c", "print('one'); print('two')"], log, lines.append) == "two" and lines == ["one", "two"]
    with pytest.raises(click.ClickException, match=r"^python -c .* failed: Error: bad$"):
        Shell().call(["-c", "import sys; print('x'); sys.exit('some\\nError: bad')"], log)


def test_a_stopped_shell_begins_nothing(tmp_path):
    shell = Shell()
    shell.stop()
    with pytest.raises(click.ClickException, match="stopped"):
        shell.call(["-c", "open('made', 'w')"], tmp_path / "log")


def test_scores_are_taken_from_the_record_of_eval():
    assert flat_scores(RECORD) == dict(
        mean_iou=0.8, mean_iou_detected=0.9, detected=8, num=10, reference_iou=0.25, coverage=0.3, judge_coverage=0.2,
        judge="j.pt", network="n.pkl", seed=1, base="bundled", command="c")
    assert flat_scores(dict(RECORD, **VARIETY))["shapes"] == SHARE
    nothing_seen = flat_scores(dict(RECORD, num_detected=0, detected=None))
    assert nothing_seen["reference_iou"] is None and nothing_seen["mean_iou"] == 0.8
