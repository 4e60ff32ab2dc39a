"""Benchmarks: the arithmetic of their scores and tables."""

import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks import emergence, segmentation, segmenting_speed


def test_finished_runs_are_not_repeated_and_the_table_has_mean_and_deviation(tmp_path):
    for seed, value in enumerate([0.5, 0.7]):
        folder = tmp_path / "lit" / f"no-shift-kimg20-seed{seed}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(dict(
            setting="no-shift", train_seed=seed, mean_iou=value, coverage=0.2, judge_coverage=0.3,
            reference_iou=0.25)))
    result = CliRunner().invoke(emergence.main, ["--data=lit.zip", "--judge=x.pt", "--settings=no-shift", "--seeds=2",
                                                 "--kimg=20", f"--outdir={tmp_path}"])
    assert result.exit_code == 0, result.output
    assert "| no-shift | 0, 1 | 0.600 +- 0.100 | 0.500, 0.700 | 0.20 | 0.30 | 0.250 |" in result.stderr
    assert [row["mean_iou"] for row in json.loads(result.stdout)["results"]] == [0.5, 0.7]


def test_unknown_setting_is_named():
    result = CliRunner().invoke(emergence.main, ["--data=a.zip", "--judge=b.pt", "--settings=shiftless"])
    assert result.exit_code == 2 and "got shiftless" in result.output


def test_segmentation_trains_each_network_once_and_scores_all_together(tmp_path, monkeypatch):
    called = []

    def call(args):
        called.append(args)
        if args[0] == "eval.py":
            return json.dumps(dict(models=[]))
        outdir = next(arg.split("=")[1] for arg in args if arg.startswith("--outdir="))
        folder = Path(outdir) / "00000-distill"
        folder.mkdir(exist_ok=True)
        (folder / "options.json").write_text("{}")
        (folder / "model.json").write_text(json.dumps(dict(command="python invert.py distill")))
        (folder / "stats.jsonl").write_text('{"seconds": 1}\n{"seconds": 2.5}\n')
        return f"{folder}\n"

    monkeypatch.setattr(segmentation, "_call", call)
    args = ["--route=distill", "--network=runs/a", "--network=runs/b", "--data=d.zip", "--test-data=t.zip",
            "--test-masks=m.zip", "--option=--adapt=5", f"--outdir={tmp_path}"]
    record = json.loads(CliRunner().invoke(segmentation.main, args).stdout)
    assert [args[:2] for args in called] == [["invert.py", "distill"]] * 2 + [["eval.py", "real"]]
    assert "--adapt=5" in called[0] and "--network=runs/b" in called[1]
    assert sum(arg.startswith("--model=") for arg in called[2]) == 2
    assert record["last_stage_seconds"] == [[2.5], [2.5]]
    called.clear()
    CliRunner().invoke(segmentation.main, args)
    assert any(arg.startswith("--resume=") for arg in called[0]) and "--adapt=5" not in called[0]


def test_speeds_are_of_paired_rounds():
    args = ["--resolution=16", "--batch=2", "--cbase=64", "--cmax=4", "--w-dim=8", "--rounds=2"]
    record = json.loads(CliRunner().invoke(segmenting_speed.main, args).stdout)
    assert record["ratio_min"] <= record["ratio_median"] <= record["ratio_max"]
    assert record["pictures_per_sec"]["distilled"] > 0
