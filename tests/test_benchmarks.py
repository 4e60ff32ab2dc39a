"""Benchmarks: the arithmetic of their scores and tables."""

import json
import math

from click.testing import CliRunner

from benchmarks import emergence


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


def test_scores_are_taken_from_the_record_of_eval():
    record = dict(protocol="generated", num=10, num_detected=8, coverage=0.3, teacher_coverage=0.2, all=dict(iou=0.8),
                  detected=dict(iou=0.9, full_mask_iou=0.25), teacher=dict(weights="j.pt"), network="n.pkl", seed=1,
                  base="bundled", command="c")
    scores = emergence.flat_scores(record)
    assert scores == dict(mean_iou=0.8, mean_iou_detected=0.9, detected=8, num=10, reference_iou=0.25, coverage=0.3,
                          judge_coverage=0.2, judge="j.pt", network="n.pkl", seed=1, base="bundled", command="c")
    nothing_seen = emergence.flat_scores(dict(record, num_detected=0, detected=None))
    assert math.isnan(nothing_seen["reference_iou"]) and nothing_seen["mean_iou"] == 0.8
