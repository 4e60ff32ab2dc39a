"""benchmarks.gpu_day: its steps rehearsed on the CPU, its limits, and what it writes when something fails."""

import json
import sys
import time

import click
import pytest
import torch
from click.testing import CliRunner
from shell import COPIES

from benchmarks import gpu_day
from benchmarks.gpu import flop_count, step, step_process, tables
from benchmarks.gpu.shape_coverage import coverage_scores, pairwise_iou


def context(tmp_path, seconds=60.0, **kwargs):
    values = dict(step="ops", outdir=tmp_path, workdir=tmp_path, device="cpu", quick=True,
                  deadline=time.time() + seconds, data=None, train_args="")
    return step_process.Context(**values | kwargs)


def test_steps_share_the_time_and_inherit_what_is_left():
    names = ["ops", "step"]
    assert gpu_day.limit_of("ops", names, 230.0) == pytest.approx(50)
    assert gpu_day.limit_of("step", names[1:], 200.0) == pytest.approx(200)


@pytest.mark.parametrize("text", ["cards", "card,card"])
def test_unknown_and_repeated_steps_are_refused(text):
    with pytest.raises(click.UsageError, match="--steps must be some of card,"):
        gpu_day.choose_steps(text)


def test_a_case_that_fails_is_recorded_and_the_next_one_runs(tmp_path):
    def fail():
        raise ValueError("no such luck")

    assert step_process.run_cases(context(tmp_path), [("one", fail), ("two", lambda: dict(speed=2.5))], 1) == 0
    found = {record["case"]: record for record in step_process.read_records(tmp_path) if record["status"] != "begun"}
    assert found["one"]["error"] == "ValueError: no such luck" and found["two"]["speed"] == 2.5


def test_a_new_process_of_a_step_goes_on_behind_the_case_that_ended_the_last(tmp_path):
    step_process.write_record(tmp_path, step="ops", case="one", status="begun")
    done = []
    step_process.run_cases(context(tmp_path), [(name, lambda name=name: done.append(name) or {}) for name in
                                               ("one", "two")], 1)
    assert done == ["two"]
    assert "- one: begun, not ended" in tables.all_tables([
        dict(step="card", case="one", status="begun"), dict(step="card", case="two", status="ok")])


def test_no_case_begins_without_the_time_for_it(tmp_path):
    step_process.run_cases(context(tmp_path, seconds=2), [("one", dict)], seconds=5)
    assert [record["status"] for record in step_process.read_records(tmp_path)] == ["left out"]


def test_a_process_that_runs_out_of_time_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_day, "LEAST_SECONDS", 0.1)
    monkeypatch.setattr(sys, "executable", "/bin/sh")
    script = tmp_path / "sleeper"
    script.write_text("sleep 60 & sleep 60\n")
    monkeypatch.setattr(gpu_day.subprocess, "Popen", _shell(script, gpu_day.subprocess.Popen))
    start = time.monotonic()
    assert gpu_day.run_step("card", tmp_path, tmp_path / "log.txt", 1.0, []) == "ran out of time"
    assert time.monotonic() - start < 5


def _shell(script, popen):
    return lambda command, **kwargs: popen(["/bin/sh", str(script)], **kwargs)


def test_command_rehearses_steps_and_writes_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_day, "subprocess", COPIES)
    monkeypatch.setattr(step_process.seconds_per_call, "__defaults__", (0.001, 1))  # Copies have it, too.
    result = CliRunner().invoke(gpu_day.main, [f"--outdir={tmp_path}", "--device=cpu", "--quick", "--minutes=2",
                                               "--steps=card,ops"])
    assert result.exit_code == 0, result.output
    records = step_process.read_records(tmp_path)
    assert [record["outcome"] for record in records if record["case"] == "step"] == ["done", "done"]
    assert not [record for record in records if record["status"] == "failed"]
    table = (tmp_path / "tables.md").read_text()
    assert "| bias_act-16-fp32-nhwc | 2x8x16x16 |" in table and "| bandwidth |" in table


def test_table_of_steps_has_ratio_and_share_of_the_peak():
    case = dict(step="step", status="ok", resolution=64, options=[], step_ms=1.0, peak_memory_gib=2.0, batch=32)
    records = [
        dict(step="card", case="matrix product fp16", status="ok", tflops=100.0),
        dict(step="flops", case="64", status="ok", per_picture=2e10),
        dict(case, case="a", precision="fp32", ops="reference", pictures_per_s=100.0),
        dict(case, case="b", precision="fp16", ops="ours", pictures_per_s=1000.0),
    ]
    row = next(line for line in tables.all_tables(records).splitlines() if line.startswith("| b "))
    assert row.split(" | ")[4:6] == ["10.0", "20.0%"]


def test_iou_of_each_pair():
    masks = torch.zeros(3, 2, 2, dtype=torch.bool)
    masks[0, 0] = masks[1, 0, 0] = True
    expected = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.equal(pairwise_iou(masks, masks), expected)


def test_generated_masks_that_are_the_true_ones_cover_all():
    masks = torch.rand(6, 8, 8) < 0.5
    found = coverage_scores(masks, masks)
    assert found["coverage"] == 1 and found["coverage_few"] > found["coverage_true"]
    assert coverage_scores(masks, ~masks)["coverage"] < 1
    json.dumps(found)


def test_operations_are_counted_without_data(tmp_path):
    flop_count.main(tmp_path, [16], step.small_networks(quick=True))
    (record,) = step_process.read_records(tmp_path)
    assert record["step"] == "flops" and record["case"] == "16"
    assert record["per_picture"] == pytest.approx(
        record["by_phase"]["Gboth"] + record["by_phase"]["Dmain"] + record["by_phase"]["Dreg"] / 16)


def test_data_that_is_not_there_is_named_before_the_work(tmp_path):
    result = CliRunner().invoke(gpu_day.main, [f"--outdir={tmp_path}/out", f"--data={tmp_path}/none"])
    assert result.exit_code == 2 and f"Error: --data: no such folder: {tmp_path}/none" in result.stderr
    assert not (tmp_path / "out").exists()
