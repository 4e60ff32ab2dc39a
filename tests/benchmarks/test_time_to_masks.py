"""Time until masks: minutes from the statistics of a run, thresholds, what is kept; commands are stood in for."""

import itertools
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import time_to_masks


def stats_row(tick, kimg, sec, maintenance, total):
    values = {"Progress/tick": tick, "Progress/kimg": kimg, "Timing/sec_per_tick": sec,
              "Timing/maintenance_sec": maintenance, "Timing/total_sec": total}
    return json.dumps({name: dict(num=1, mean=value, std=0) for name, value in values.items()})


@pytest.fixture
def fake_calls(monkeypatch):
    """Commands that only leave what is read of them; IoU 0.6 after 1 kimg and 0.9 after 2."""
    called = []

    def call(shell, args, log, on_line=None):
        called.append((args[0], shell.threads))
        if args[0] == "train_layered.py":
            run = Path(next(arg for arg in args if arg.startswith("--outdir=")).split("=")[1]) / "00000-run"
            run.mkdir()
            rows = [stats_row(0, 0.032, 5, 25, 30), stats_row(1, 1.024, 30, 60, 120), stats_row(2, 2.016, 60, 90, 270)]
            (run / "stats.jsonl").write_text("\n".join(rows) + "\n")
            for kimg in range(3):
                (run / f"network-snapshot-{kimg:06d}.pkl").touch()
            return ""
        if args[0] == "invert.py":
            return "model"
        iou = 0.6 if any("000001" in arg for arg in args) else 0.9
        if args[1] == "real":
            return json.dumps(dict(models=[dict(all=dict(iou=iou))]))
        scores = dict(num=4, num_detected=4, coverage=0.2, teacher_coverage=0.2, all=dict(iou=iou), network="n", seed=1,
                      detected=dict(iou=iou, full_mask_iou=0.2), teacher=dict(weights="j"), base="b", command="c")
        return json.dumps(scores)

    monkeypatch.setattr(time_to_masks.Shell, "call", call)
    return called


def test_minutes_leave_out_the_snapshots_and_nothing_is_done_twice(tmp_path, fake_calls):
    files = {name: tmp_path / name for name in ("lit.zip", "judge.pt")}
    for path in files.values():
        path.touch()
    args = [f"--data={files['lit.zip']}", f"--judge={files['judge.pt']}", "--seeds=2", f"--outdir={tmp_path / 'out'}",
            "--threads=3"]
    result = CliRunner().invoke(time_to_masks.main, args)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert [row["median"] for row in record["thresholds"]] == [1, 2, 2]  # 25 + 5 + 30 seconds, then 60 more.
    assert record["thresholds"][1]["minutes"] == {"0": 2, "1": 2}
    assert [point["minutes_with_snapshots"] for point in record["curves"]["0"]] == [2, 4.5]
    assert "| 0.7 | 2.0 | 2.0, 2.0 | 2.0, 2.0 |" in result.stderr
    assert fake_calls == [("train_layered.py", 3), ("eval.py", 3), ("eval.py", 3)] * 2
    fake_calls.clear()
    again = CliRunner().invoke(time_to_masks.main, args)
    assert json.loads(again.stdout)["thresholds"] == record["thresholds"] and fake_calls == []
    assert CliRunner().invoke(time_to_masks.main, [*args, "--num=7"]).exit_code == 0
    assert fake_calls == [("eval.py", 3)] * 4
    other = CliRunner().invoke(time_to_masks.main, [*args, "--option=--lr=0.1"])
    assert other.exit_code == 1 and "holds a training of other options" in other.output


def test_the_distillation_counts(tmp_path, fake_calls, monkeypatch):
    for name in ("lit.zip", "test.zip", "masks.zip"):
        (tmp_path / name).touch()
    times = itertools.count(step=120)  # Two minutes by the clock.
    monkeypatch.setattr(time_to_masks.time, "perf_counter", lambda: next(times))
    args = [f"--data={tmp_path / 'lit.zip'}", "--metric=distilled", f"--test-data={tmp_path / 'test.zip'}",
            f"--test-masks={tmp_path / 'masks.zip'}", "--seeds=1", f"--outdir={tmp_path / 'out'}", "--threads=1"]
    result = CliRunner().invoke(time_to_masks.main, args)
    assert result.exit_code == 0, result.output
    curve = json.loads(result.stdout)["curves"]["0"]
    assert [point["minutes"] for point in curve] == [3, 4]
    assert fake_calls[1:] == [("invert.py", 1), ("eval.py", 1)] * 2


def test_a_threshold_that_is_never_reached_is_said_so():
    point = dict(kimg=1.0, minutes=3.0, iou=0.75)
    rows = time_to_masks.minutes_to_masks({0: [point], 1: [dict(point, iou=0.1)], 2: [dict(point, minutes=4.0)]})
    assert [row["median"] for row in rows] == [4.0, 4.0, None]
    assert rows[0]["minutes"] == {0: 3.0, 1: None, 2: 4.0}
    assert "| 0.8 | not reached | not reached, not reached, not reached |" in time_to_masks.table(rows)


@pytest.mark.parametrize(("args", "text"), [([], "--judge is needed"), (["--judge=no.pt"], "no such file: no.pt"),
                                            (["--metric=distilled"], "--test-data is needed")])
def test_missing_files_are_named(tmp_path, args, text):
    (tmp_path / "a.zip").touch()
    result = CliRunner().invoke(time_to_masks.main, [f"--data={tmp_path / 'a.zip'}", *args])
    assert result.exit_code == 2 and text in result.output
