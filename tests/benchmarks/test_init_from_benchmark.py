"""The benchmark of --init-from: when the bar counts as met, and the whole of it at toy size."""

import io
import json
from pathlib import Path

import legacy
import pytest
import torch
from click.testing import CliRunner
from training.networks import Generator

from benchmarks import init_from
from benchmarks.support.plain_training import networks_of, train
from layered_plugin.dataset_tool import shapes as shapes_command


def points(*rows):
    return [dict(kimg=kimg, iou=iou, coverage=coverage, mask=0.2) for kimg, iou, coverage in rows]


@pytest.mark.parametrize("rows, kimg, passed", [
    ([(2, 0.9, 0.5), (4, 0.8, 0.6)], 4, True),  # Both measures, and in one snapshot.
    ([(2, 0.9, 0.5), (4, 0.7, 0.9)], None, False),
    ([(2, 0.7, 0.5), (5, 0.8, 0.6)], 5, False),  # Too late.
])
def test_the_bar_is_both_measures_in_a_third_of_the_pictures(rows, kimg, passed):
    outcome = init_from.compare(points((6, 0.9, 0.9), (12, 0.8, 0.6)), points(*rows))
    assert (outcome["kimg"], outcome["passed"]) == (kimg, passed) and outcome["goal"] == dict(iou=0.8, coverage=0.6)
    text = init_from.table({"0": dict(init=points(*rows))}, {"0": outcome})
    assert ("not reached" in text) == (kimg is None) and "| 0 | init | 2.0 |" in text


def test_both_measures_at_each_level_by_the_first_snapshot_that_has_them():
    outcome = init_from.compare(points((6, 0.95, 0.6), (12, 0.91, 0.7)), points((2, 0.84, 0.8), (4, 0.9, 0.69)))
    assert outcome["levels"] == [[0.8, 2, 12], [0.85, None, 12], [0.9, None, 12], [0.92, None, None],
                                 [0.94, None, None]]
    text = init_from.table({}, {"0": outcome})
    assert "IoU 0.80 with coverage 0.70: 2.0 kimg from the ordinary generator, 12.0 kimg from scratch" in text
    assert "IoU 0.85 with coverage 0.70: never from the ordinary generator, 12.0 kimg from scratch" in text


def test_ordinary_training_writes_an_ordinary_snapshot(tmp_path, process_as_before):
    data = tmp_path / "shapes.zip"
    shapes_command([f"--dest={data}", "--num=40", "--size=18", "--seed=0"], standalone_mode=False)
    kwargs = networks_of(16, 64, 4, 8, 1, half=False)
    first = train(str(data), tmp_path / "a.pkl", 0.064, 0, 16, kwargs)
    train(str(data), tmp_path / "b.pkl", 0.032, 0, 16, kwargs)
    nets = [legacy.load_network_pkl(io.BytesIO((tmp_path / name).read_bytes())) for name in ("a.pkl", "b.pkl")]
    assert first > 0 and isinstance(nets[0]["G_ema"], Generator)
    weights = [net["G_ema"].synthesis.b16.conv1.weight for net in nets]
    assert not torch.equal(*weights)  # It learns.


def test_whole_benchmark_with_the_commands_stood_in_for(tmp_path, monkeypatch):
    for name in ("a.zip", "m.zip", "j.pt"):
        (tmp_path / name).touch()
    calls = []

    def call(self, args, log, on_line=lambda line: None):
        calls.append(args)
        if args[0] == "eval.py":
            return json.dumps(dict(
                detected=None, all=dict(iou=0.9), num=4, coverage=0.2, network="", seed=0, base="", command="",
                num_detected=4, teacher_coverage=0.2, teacher=dict(weights=""),
                variety=dict(shapes=dict(share=dict(coverage=0.7)))))
        return ""

    monkeypatch.setattr(init_from.Shell, "call", call)
    monkeypatch.setattr(init_from, "train_once", lambda command, folder, shell: calls.append(command) or (
        folder.mkdir(parents=True, exist_ok=True) or folder))
    monkeypatch.setattr(init_from, "snapshots", lambda run_dir: [
        dict(network=str(run_dir / "a.pkl"), kimg=6.0 if run_dir.name == "scratch" else 2.0)])
    args = [f"--data={tmp_path / 'a.zip'}", f"--masks={tmp_path / 'm.zip'}", f"--judge={tmp_path / 'j.pt'}",
            "--kimg=6", "--plain-kimg=1", "--option=--bg-jitter=0", "--init-option=--batch=8",
            f"--outdir={tmp_path / 'out'}"]
    result = CliRunner().invoke(init_from.main, args)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    outcome = record["outcomes"]["0"]
    assert outcome.pop("levels")[2:] == [[0.9, 2.0, 6.0], [0.92, None, None], [0.94, None, None]]
    assert outcome == dict(goal=dict(iou=0.9, coverage=0.7), kimg=2.0, share=1 / 3, passed=True)
    trained = {Path(call[1]).name: call for call in calls if call[0] == "train_layered.py"}
    assert "--kimg=2" in trained["init"] and "--kimg=6" in trained["scratch"]
    assert any(arg.startswith("--init-from=") for arg in trained["init"]) and "--cbase=512" in trained["scratch"]
    assert [way for way, call in trained.items() if "--batch=8" in call] == ["init"]
    assert all("--bg-jitter=0" in call for call in trained.values())
    before = len(calls)
    assert CliRunner().invoke(init_from.main, args).exit_code == 0
    assert not [call for call in calls[before:] if call[0] == "eval.py"]  # Scores are kept.


def test_missing_files_are_named(tmp_path):
    (tmp_path / "a.zip").touch()
    result = CliRunner().invoke(init_from.main, [f"--data={tmp_path / 'a.zip'}", "--masks=no.zip", "--judge=no.pt"])
    assert result.exit_code == 2 and "no such file: no.zip" in result.stderr
