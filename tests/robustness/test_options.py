"""Every option of every command against wrong values: exit code 2 or 1, one line that names it, no traceback."""

import os

import click
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import make_gan_run, make_model, make_pictures

import invert
import train_layered
from eval import main as evaluate
from layered_plugin import app, dataset_tool, demo, export, generate, projector, style_mixing
from layered_plugin.command_line import CheckedCommand, CheckedGroup, Number, Whole

TIMES = int(os.environ.get("LAYERED_PLUGIN_FUZZ", "1"))  # More examples, for a longer search.

COMMANDS = {"train_layered": train_layered.main, "generate": generate.main, "demo": demo.main,
            "projector": projector.main, "style_mixing": style_mixing.main, "app": app.main}
GROUPS = dict(invert=invert.main, eval=evaluate, dataset_tool=dataset_tool.main, export=export.main)
for _name, _group in GROUPS.items():
    COMMANDS |= {f"{_name} {name}": command for name, command in _group.commands.items()}
OPTIONS = [(name, param) for name, command in COMMANDS.items() for param in command.params
           if isinstance(param, click.Option) and not param.is_flag]
NUMERIC = [(name, param) for name, param in OPTIONS if isinstance(param.type, click.IntRange | click.FloatRange)]
FILES = [(name, param) for name, param in OPTIONS if param.type is click.STRING]


def ids(pairs):
    return [f"{name} {param.opts[0]}" for name, param in pairs]


def call(name, *args):
    """Exit code and last line; fails on a traceback and on anything but one line of error."""
    result = CliRunner().invoke(COMMANDS[name], list(args))
    torch.set_flush_denormal(False)  # Which commands switch on, and hypothesis can't draw numbers with.
    assert result.exception is None or isinstance(result.exception, SystemExit), (args, result.exc_info)
    assert result.exit_code in (0, 1, 2), args
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    if result.exit_code != 0:
        assert len(lines) == 1 and len(lines[0]) <= 1200, (args, result.stderr)
    return result.exit_code, lines[0] if lines else ""


def required(name, but):
    """Values for the options that a command must have: of nothing that is there."""
    return ["nowhere/it" if isinstance(param, click.Argument) else f"{param.opts[0]}=nowhere/it"
            for param in COMMANDS[name].params if param.required and param is not but]


def test_there_are_many_options_and_all_are_checked():
    assert len(OPTIONS) > 150 and len(NUMERIC) > 80
    assert all(isinstance(command, CheckedCommand) for command in COMMANDS.values())
    assert all(isinstance(group, CheckedGroup) for group in GROUPS.values())


@pytest.mark.parametrize("name, param", NUMERIC, ids=ids(NUMERIC))
def test_numbers_are_finite_within_bounds_and_numbers(name, param):
    assert isinstance(param.type, Number | Whole)
    wrong = ["nan", "inf", "-inf", "1e400", "1" + "0" * 30, "1" * 5000, "-" + "9" * 30, "x", "", " ", "0x10", "1,5"]
    if isinstance(param.type, Whole):
        wrong += ["1.5", "1e3"]
    for bound, step in ((param.type.min, -1), (param.type.max, 1)):
        if bound is not None:
            wrong.append(str(bound + step))
    for value in wrong:
        code, line = call(name, *required(name, param), f"{param.opts[0]}={value}")
        assert code == 2 and param.opts[0] in line, (value, line)


@pytest.mark.parametrize("name, param", FILES, ids=ids(FILES))
def test_texts_are_not_empty_hold_no_nul_and_name_files(name, param):
    for value in ("", "  ", "a\0b"):
        code, line = call(name, *required(name, param), f"{param.opts[0]}={value}")
        assert code == 2 and param.opts[0] in line
    if {"DIR", "ZIP", "RUN", "FILE"} & set((param.metavar or "").split("|")):
        for value in ("n" * 256, "é" * 128, "a/" * 2500, f"x/{'n' * 256}/y"):
            code, line = call(name, *required(name, param), f"{param.opts[0]}={value}")
            assert code == 2 and param.opts[0] in line, value


@settings(max_examples=80 * TIMES, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None,
          derandomize=TIMES == 1)
@given(pair=st.sampled_from(OPTIONS), value=st.text(max_size=20) | st.floats().map(str) | st.integers().map(str)
       | st.sampled_from(["latest", "best", "none", "all", "0", "1", "-", "--", "/", ".", "..", "~", "%s", "{}", "[",
                          "\\", "0-", "5-3", "1:2:3", "a:b", ":", "http://", "file:///x", "8:1:1", "\udc80"]))
def test_no_value_of_an_option_ends_in_a_traceback(tmp_path_factory, pair, value):
    name, param = pair
    here = os.getcwd()
    os.chdir(tmp_path_factory.getbasetemp())
    try:
        if name == "demo" or value.startswith("http"):
            return  # The whole job; a download.
        args = [*required(name, param), f"{param.opts[0]}={value}"]
        if name.startswith("dataset_tool shapes"):
            args.append("--num=0")  # Nothing is drawn.
        code, line = call(name, *args, *([] if "train" not in name and "distill" not in name else ["-n"]))
        assert code != 2 or param.opts[0] in line or "--" in line, (args, line)  # Or one that is missing.
    finally:
        os.chdir(here)


NUMBERS = st.sampled_from(["0", "1", "2", "3", "8", "16", "64", "0.5", "0.001", "1e-9", "1e9", "999999999"])


@settings(max_examples=60 * TIMES, deadline=None, suppress_health_check=list(HealthCheck), database=None,
          derandomize=TIMES == 1)
@given(chosen=st.dictionaries(st.sampled_from([param for param in train_layered.main.params if isinstance(
    param.type, click.IntRange | click.FloatRange | click.Choice)]), NUMBERS | st.integers(0, 9), max_size=4))
def test_options_of_a_training_fit_or_are_refused_together(data, chosen):
    args = []
    for param, value in chosen.items():
        if isinstance(param.type, click.Choice):
            value = list(param.type.choices)[int(value) % len(param.type.choices) if isinstance(value, int) else 0]
        args.append(f"{param.opts[0]}={value}")
    code, line = call("train_layered", "--outdir=out", f"--data={data}", "-n", "--device=cpu", *args)
    assert code == 0 or any(param.opts[0] in line for param in chosen), (args, line)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("data") / "cars")


@pytest.mark.parametrize("args, words", [
    (["--cbase=1"], "--cbase must be at least the resolution of 16"),
    (["--seed=4294967296"], "--seed"),
    (["--kimg=1e306"], "--kimg"),
    (["--grow-schedule=8:" + "9" * 400 + ":8,16:1:8"], "--grow-schedule"),
    (["--lr=nan"], "--lr"), (["--lr=0.1:inf"], "--lr"), (["--shift=nan:0.1"], "--shift"),
])
def test_wrong_options_of_a_training_are_named(data, args, words):
    code, line = call("train_layered", "--outdir=out", f"--data={data}", "-n", "--device=cpu", "--resolution=16", *args)
    assert code == 2 and words in line


def test_long_names_of_data_give_run_folders_that_can_be_made(tmp_path):
    data = make_pictures(tmp_path / ("é" * 127))
    gan = make_gan_run(tmp_path / "gan")
    result = CliRunner().invoke(invert.main, [
        "distill", f"--network={gan}", f"--data={data}", f"--outdir={tmp_path}/out", "--steps=1", "--adapt=0",
        "--batch=4", "--device=cpu", "--max-coverage=0.99"])
    assert result.exit_code == 0, result.output
    (run,) = (tmp_path / "out").iterdir()
    assert run.name.startswith("00000-distill-éé") and len(os.fsencode(run.name)) < 200


def test_pictures_with_names_as_long_as_they_may_be_are_segmented(tmp_path):
    start = "n" * 251
    images = make_pictures(tmp_path / "images", [f"{start}.png", f"{start}.bmp", f"{start[:-1]}x.png"])
    result = CliRunner().invoke(invert.main, ["segment", f"--model={make_model(tmp_path / 'model')}",
                                              f"--images={images}", f"--outdir={tmp_path}/out", "--device=cpu"])
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 3


def test_class_of_a_network_without_classes_is_refused(tmp_path):
    gan = make_gan_run(tmp_path / "gan")
    code, line = call("generate", f"--network={gan}", "--seeds=0", "--class=3", f"--outdir={tmp_path}/out",
                      "--device=cpu")
    assert code == 2 and "--class=3 can't be given: this network has no classes" in line
    assert not (tmp_path / "out").exists()
