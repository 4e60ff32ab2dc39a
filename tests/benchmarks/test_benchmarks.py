"""Benchmarks: the arithmetic of their scores and tables."""

import importlib
import json
import pkgutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from shell import COPIES

import benchmarks
from benchmarks import emergence, objects, segmentation, segmenting_speed, variety
from benchmarks.support import shell
from layered_plugin.command_line import Number, Whole
from layered_plugin.dataset_tool import shapes as shapes_command

# But that which gpu_day alone starts, with a time of the clock.
MODULES = [importlib.import_module(module.name) for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")
           if module.name != "benchmarks.gpu.__main__"]
COMMANDS = {module.__name__: module.main for module in MODULES
            if isinstance(getattr(module, "main", None), click.Command)}
NUMERIC = [(name, param) for name, command in COMMANDS.items() for param in command.params
           if isinstance(param.type, click.types.IntParamType | click.types.FloatParamType)]


@pytest.mark.parametrize("name, param", NUMERIC, ids=[f"{name} {param.opts[0]}" for name, param in NUMERIC])
def test_numbers_are_finite_and_within_bounds(name, param):
    assert isinstance(param.type, Number | Whole) and param.type.min is not None
    required = [f"{other.opts[0]}=nowhere" for other in COMMANDS[name].params
                if other.required and other is not param and not isinstance(other.type, click.Choice)]
    required += [f"{other.opts[0]}={other.type.choices[0]}" for other in COMMANDS[name].params
                 if other.required and isinstance(other.type, click.Choice)]
    for value in ("nan", "inf", "-inf", "1e400", "9" * 30, "-1"):
        result = CliRunner().invoke(COMMANDS[name], [*required, f"{param.opts[0]}={value}"])
        assert result.exit_code == 2 and f"'{param.opts[0]}'" in result.stderr, (value, result.output)


def test_there_are_many_numbers():
    assert len(COMMANDS) >= 24 and len(NUMERIC) >= 80


def test_finished_runs_are_not_repeated_and_the_table_has_mean_and_deviation(tmp_path):
    for seed, value in enumerate([0.5, 0.7]):
        folder = tmp_path / "lit" / f"no-shift-kimg20-seed{seed}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(dict(
            setting="no-shift", train_seed=seed, mean_iou=value, coverage=0.2, judge_coverage=0.3,
            reference_iou=0.25, shapes=dict(coverage=value + 0.1, variation=0.2))))
    result = CliRunner().invoke(emergence.main, ["--data=lit.zip", "--masks=m.zip", "--judge=x.pt",
                                                 "--settings=no-shift", "--seeds=2", "--kimg=20",
                                                 f"--outdir={tmp_path}"])
    assert result.exit_code == 0, result.output
    assert "| no-shift | 0, 1 | 0.600 +- 0.100 | 0.500, 0.700 | 0.700 | 0.20 | 0.20 | 0.30 | 0.250 |" in result.stderr
    assert [row["mean_iou"] for row in json.loads(result.stdout)["results"]] == [0.5, 0.7]


def test_unknown_setting_is_named():
    result = CliRunner().invoke(emergence.main, ["--data=a.zip", "--masks=m.zip", "--judge=b.pt",
                                                 "--settings=shiftless"])
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


def test_objects_trains_a_judge_and_generators_and_keeps_what_is_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(shell, "subprocess", COPIES)
    for name, seed in (("train", 0), ("test", 1)):
        shapes_command([f"--dest={tmp_path}/{name}.zip", f"--labels={tmp_path}/{name}-labels.zip", "--objects=2",
                        "--num=8", "--size=18", f"--seed={seed}"], standalone_mode=False)
    args = [f"--data={tmp_path}/train.zip", f"--labels={tmp_path}/train-labels.zip",
            f"--test-data={tmp_path}/test.zip", f"--test-labels={tmp_path}/test-labels.zip", "--judge-steps=2",
            "--num=5", f"--outdir={tmp_path}/out"]
    options = ["resolution=16", "cbase=64", "cmax=4", "w-dim=8", "batch=4", "kimg=0.008", "device=cpu"]
    asked = [*args, *(f"--option=--{option}" for option in options)]
    result = CliRunner().invoke(objects.main, asked)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["judge"]["test_num"] == 8 and 0 <= record["judge"]["matched_iou"] <= 1
    row, = record["results"]
    assert (row["num"], row["train_seed"], len(row["coverage"])) == (5, 0, 2) and 0 <= row["matched_iou"] <= 1
    assert "--objects=2" in row["train_command"] and "--resolution=16" in row["train_command"]
    assert f"mean matched IoU {row['matched_iou']:.3f} +- 0.000" in result.stderr
    monkeypatch.setattr(objects, "Shell", lambda: pytest.fail("a finished run was repeated"))
    monkeypatch.setattr(objects, "train_judge", lambda *_args, **_kwargs: pytest.fail("the judge was trained again"))
    assert json.loads(CliRunner().invoke(objects.main, asked).stdout)["results"] == record["results"]
    for other, differs in ((asked[:-1], "--device=cpu"), ([*asked, "--num=6"], "--num=5"),
                           ([*asked, "--judge-steps=3"], "--judge-steps=2"),
                           ([*asked, f"--data={tmp_path}/test.zip"], f"--data={tmp_path}/train.zip")):
        result = CliRunner().invoke(objects.main, other)
        assert result.exit_code == 1
        assert f"--outdir: {tmp_path}/out was made with {differs}; choose another --outdir" in result.output


def test_a_wrong_option_of_objects_is_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(shell, "subprocess", COPIES)
    shapes_command([f"--dest={tmp_path}/a.zip", f"--labels={tmp_path}/l.zip", "--objects=2", "--num=2", "--size=18"],
                   standalone_mode=False)
    pair = [f"--{test}{kind}={tmp_path}/{name}.zip" for test in ("", "test-")
            for kind, name in (("data", "a"), ("labels", "l"))]
    result = CliRunner().invoke(objects.main, [*pair, "--option=--mask-mim=0.1", f"--outdir={tmp_path}/out"])
    assert result.exit_code == 1 and "--mask-mim" in result.output and not (tmp_path / "out").exists()


def test_labels_of_single_objects_are_refused(tmp_path):
    shapes_command([f"--dest={tmp_path}/a.zip", f"--labels={tmp_path}/l.zip", "--num=2", "--size=18"],
                   standalone_mode=False)
    pair = [f"--{test}{kind}={tmp_path}/{name}.zip" for test in ("", "test-")
            for kind, name in (("data", "a"), ("labels", "l"))]
    result = CliRunner().invoke(objects.main, [*pair, f"--outdir={tmp_path}/out"])
    assert result.exit_code == 1 and "--data, --labels" in result.output and "labels go up to 1" in result.output


def test_speeds_are_of_paired_rounds(monkeypatch):
    shapes, times = [], iter([2.0, 10.0, 4.0, 8.0, 1.0, 3.0])  # Distilled and encoder in turns.

    def seconds(work, rounds):
        assert rounds == 1
        shapes.append(list(work().shape))
        return [next(times)]

    monkeypatch.setattr(segmenting_speed, "seconds", seconds)
    args = ["--resolution=16", "--batch=2", "--cbase=64", "--cmax=4", "--w-dim=8", "--rounds=3"]
    record = json.loads(CliRunner().invoke(segmenting_speed.main, args).stdout)
    assert shapes == [[2, 1, 16, 16], [2, 3, 16, 16]] * 3
    assert (record["ratio_min"], record["ratio_median"], record["ratio_max"]) == (2, 3, 5)
    assert record["pictures_per_sec"] == dict(distilled=2 / 2, encoder=2 / 8)


def test_the_first_round_is_not_timed(monkeypatch):
    clock, done = iter([5.0, 6.5, 7.0, 7.25]), []
    monkeypatch.setattr(segmenting_speed.time, "perf_counter", lambda: next(clock))
    times = segmenting_speed.seconds(lambda: done.append(1), 2)
    monkeypatch.undo()
    assert times == [1.5, 0.25] and len(done) == 3


def test_variety_trains_all_for_the_same_time_and_names_what_fails(tmp_path, monkeypatch):
    lengths = {}

    def speed(trial, *_args):
        if trial.setting == "paper":
            raise variety.click.ClickException("no speed")
        return dict(none=100, varied=50)[trial.setting]

    def train(trial, speed, seconds, files, resolution, steps, shell, keep):
        lengths[trial.setting, trial.seed] = speed * seconds / 1000
        share = dict(coverage=0.9, precision=0.8, variation=0.7, area_deviation=1.1)
        keep(dict(setting=trial.setting, device=trial.device, seed=trial.seed, kimg=1.5, shapes=dict(share=share),
                  frechet=0.5, frechet_floor=0.05))

    monkeypatch.setattr(variety, "measure_speed", speed)
    monkeypatch.setattr(variety, "train_and_score", train)
    result = CliRunner().invoke(variety.main, [
        "--data=a.zip", "--masks=b.zip", "--settings=none,varied,paper", "--seeds=2", "--seconds=60",
        f"--outdir={tmp_path / 'new'}"])
    assert result.exit_code == 0, result.output
    assert lengths == {("none", 0): 6, ("none", 1): 6, ("varied", 0): 3, ("varied", 1): 3}
    assert "paper-seed0-cpu: no speed" in result.stderr
    assert "| varied | cpu | 1 | 1.5 | 0.900 | 0.800 | 0.70 | 1.10 | 0.50 (0.05) | - |" in result.stdout
    assert len(json.loads((tmp_path / "new" / "results.json").read_text())["results"]) == 4


def test_variety_names_an_unknown_setting(tmp_path):
    result = CliRunner().invoke(variety.main, ["--data=a.zip", "--masks=b.zip", "--settings=wild",
                                               f"--outdir={tmp_path}"])
    assert result.exit_code == 2 and "got wild" in result.output
