"""The growing benchmark: which snapshot counts at a minute, and the whole of it at toy size."""

import contextlib
import json
import types

import pytest
from click.testing import CliRunner

import eval as eval_command
import train_layered
from benchmarks import growing
from layered_plugin.dataset_tool import shapes as shapes_command
from layered_plugin.evaluation.judge import save_judge
from layered_plugin.model.unet import UNet
from layered_plugin.training import run_log

TINY = ["--cbase=64", "--cmax=4", "--w-dim=8", "--map-depth=1", "--batch-gpu=8", "--tick=0.016", "--device=cpu",
        "--precision=fp32"]


def fake_run(folder, points):
    """A run with (kimg, CPU seconds) per tick and a snapshot at each."""
    folder.mkdir()
    lines = []
    for kimg, seconds in points:
        (folder / f"network-snapshot-{int(kimg):06d}.pkl").touch()
        values = {"Progress/kimg": kimg, "Progress/resolution": 8, "Resources/cpu_sec": seconds}
        lines.append(json.dumps({name: dict(num=1, mean=value, std=0) for name, value in values.items()}))
    (folder / "stats.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_newest_snapshot_within_the_minutes_counts(tmp_path):
    points = growing.curve(fake_run(tmp_path / "run", [(1.0, 60), (2.048, 120), (3.0, 300)]))
    assert [(point["kimg"], point["cpu_minutes"]) for point in points] == [(1, 1), (2.048, 2), (3, 5)]
    assert growing.newest(points, 4.9)["kimg"] == 2.048 and growing.newest(points, 5.0)["kimg"] == 3
    assert growing.newest(points, 0.5) is None


def test_tick_without_a_snapshot_is_left_out(tmp_path):
    run = fake_run(tmp_path / "run", [(1, 60), (2, 120)])
    (run / "network-snapshot-000002.pkl").unlink()
    assert [point["kimg"] for point in growing.curve(run)] == [1]


def test_table_has_mean_and_deviation_per_mark_and_way():
    rows = [dict(minutes=2.0, way="grow", train_seed=seed, mean_iou=iou, kimg=3.0, resolution=16)
            for seed, iou in enumerate([0.5, 0.7])]
    lines = growing.table(rows).splitlines()
    assert lines[2] == "| 2.0 | full |  | no snapshot yet |  |  |  |"
    assert lines[3] == "| 2.0 | grow | 0, 1 | 0.600 +- 0.100 | 0.500, 0.700 | 3.0, 3.0 | 16, 16 |"


@pytest.fixture
def in_process(monkeypatch):
    """Commands run in this process, which saves their start, and end after one minute of its CPU; the calls made."""
    calls = []
    monkeypatch.setattr(growing, "ThreadPoolExecutor", lambda _jobs: contextlib.nullcontext(
        types.SimpleNamespace(map=map)))
    monkeypatch.setattr(run_log.time, "process_time", lambda: 60.0)

    def call(_shell, args, _log):
        calls.append(args)
        command = {"train_layered.py": train_layered, "eval.py": eval_command}[args[0]].main
        result = CliRunner().invoke(command, args[1:])
        assert result.exit_code == 0, result.output
        return result.stdout.strip().splitlines()[-1]

    monkeypatch.setattr(growing.Shell, "call", call)
    return calls


def test_both_ways_are_trained_once_and_scored_at_the_same_minutes(tmp_path, in_process):
    data, judge = tmp_path / "shapes.zip", tmp_path / "judge.pt"
    shapes_command([f"--dest={data}", "--num=24", "--size=18", "--seed=0"], standalone_mode=False)
    save_judge(UNet((4, 4, 4)), judge, 16)
    args = [f"--data={data}", f"--judge={judge}", "--schedule=8:0.04:16,16:0.04:8", "--kimg=0.08", "--seeds=1",
            "--marks=2", "--num=4", "--jobs=1", f"--outdir={tmp_path / 'out'}", *(f"--option={one}" for one in TINY)]
    result = CliRunner().invoke(growing.main, args)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert [(row["way"], row["minutes"], row["resolution"], row["num"]) for row in record["results"]] == [
        ("full", 1, 16, 4), ("grow", 1, 16, 4)]
    assert all(0 <= row["mean_iou"] <= 1 for row in record["results"]) and record["total_cpu_minutes"] == [1, 1]
    full, grow = (call for call in in_process if call[0] == "train_layered.py")
    assert "--no-grow" in full and "--grow-schedule=8:0.04:16,16:0.04:8" in grow
    assert all("--resolution=16" in call and set(TINY) < set(call) for call in (full, grow))
    assert "| 1.0 | full | 0 |" in result.stderr and "| 1.0 | grow | 0 |" in result.stderr

    in_process.clear()
    again = CliRunner().invoke(growing.main, args)
    assert json.loads(again.stdout)["results"] == record["results"] and not in_process


def test_unreadable_schedule_is_named():
    result = CliRunner().invoke(growing.main, ["--data=a.zip", "--judge=b.pt", "--schedule=small"])
    assert result.exit_code == 2 and "--schedule must be RES:KIMG:BATCH" in result.output
