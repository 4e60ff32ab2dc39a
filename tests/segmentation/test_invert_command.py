"""invert.py train and distill as a user types them: help, dry run, wrong values, runs, signals, resumption."""

import json
import os
import re
import shlex
import signal
from functools import partial
from pathlib import Path

import pytest
import shell
import torch
from click.testing import CliRunner
from command_examples import check_options, find_examples
from shell import call_and_stop
from tiny_models import TINY, make_gan_run, make_model, make_pictures, small_resnet

import invert
import train_layered
from layered_plugin.model.snapshots import save_network_pkl
from layered_plugin.segmentation import fitting, train_distilled
from layered_plugin.segmentation.encoder_training import EncoderTraining
from layered_plugin.segmentation.fitting import Fitting
from layered_plugin.segmentation.model_file import load_tensors
from layered_plugin.segmentation.segmenter import Segmenter

ROOT = Path(__file__).resolve().parents[2]
DISTILL = ["distill", "--steps=3", "--adapt=2", "--batch=4", "--max-coverage=0.99", "--device=cpu"]
TRAIN = ["train", "--steps=3", "--batch=2", "--device=cpu"]


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.models.resnet18", small_resnet)
        patch.setattr(fitting, "SETTLE_BATCH", 4)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("data") / "my-cars", [f"{idx}.png" for idx in range(6)])


@pytest.fixture(scope="module")
def gan(data, tmp_path_factory):
    """A run of train_layered.py."""
    outdir = tmp_path_factory.mktemp("runs")
    done = CliRunner().invoke(train_layered.main, [f"--outdir={outdir}", f"--data={data}", *TINY, "--workers=0"])
    assert done.exit_code == 0, done.output
    return next(outdir.iterdir())


invoke = partial(shell.invoke, invert.main)


def run(*args):
    """Call a command that ends with its run folder."""
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


@pytest.fixture
def stop(monkeypatch):
    """Send a signal in the middle of the next training."""
    def arm(name):
        calls = []

        def disturb(step):
            def disturbed(self, *args):
                calls.append(1)
                if len(calls) == 2:
                    os.kill(os.getpid(), getattr(signal, name))
                return step(self, *args)
            return disturbed

        for owner in (Fitting, EncoderTraining):
            monkeypatch.setattr(owner, "step", disturb(owner.step))
    return arm


# Help and dry run.

@pytest.mark.parametrize("name", ["train", "distill", "segment", "export"])
def test_help_explains_every_option(name):
    result = invoke(name, "--help")
    assert result.exit_code == 0
    check_options(invert.main.commands[name], result.output)
    assert find_examples(result.output), "no example in the help"
    assert name in invoke("--help").output


@pytest.mark.parametrize("name", ["train", "distill"])
def test_examples_are_accepted(gan, data, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "00000-my-cars").symlink_to(gan)
    (tmp_path / "my-cars").symlink_to(data)
    examples = [args for _, args in find_examples(invert.main.commands[name].callback.__doc__) if args[0] == name]
    assert len(examples) >= 1
    for args in examples:
        result = invoke(*args, "-n")
        assert result.exit_code == 0, (args, result.output)


def test_defaults_are_the_papers(gan, data):
    result = invoke("train", "--outdir=out", f"--network={gan}", f"--data={data}", "-n")
    options = json.loads(result.stdout)["options"]
    expected = dict(mode="chunks", chunk_size=100, steps=1000, lr=1e-4, feature_resolution=None, feature_weight=1.0,
                    mean_w_weight=0.0, pretrain=0, init=None, network=str(gan / "network-snapshot-000000.pkl"))
    assert expected.items() <= options.items()


@pytest.mark.parametrize("few, args, steps", [
    (7, [], 1200), (6, [], 4800), (7, ["--adapt=9"], 9),  # The set has 6 pictures.
])
def test_a_small_set_is_adapted_to_in_fewer_steps(gan, data, monkeypatch, few, args, steps):
    monkeypatch.setattr(train_distilled, "FEW_PICTURES", few)
    result = invoke("distill", "--outdir=out", f"--network={gan}", f"--data={data}", *args, "-n")
    assert json.loads(result.stdout)["options"]["adapt"] == steps


@pytest.mark.parametrize("name", ["train", "distill"])
def test_dry_run_makes_no_folder(gan, data, tmp_path, name):
    result = invoke(name, f"--outdir={tmp_path / 'out'}", f"--network={gan}", f"--data={data}", "--dry-run")
    record = json.loads(result.stdout)
    assert {"invert", "options", "base", "torch", "date", "command"} == record.keys() and record["invert"] == name
    assert not (tmp_path / "out").exists()


# Wrong input.

@pytest.mark.parametrize("args, words", [
    (["train", "--data=DATA"], "--network is needed for a new run"),
    (["distill"], "--network is needed for a new run"),
    (["train", "--network=GAN"], "--data is needed for a new run"),
    (["train", "--network=GAN", "--data=DATA", "--pretrain=5"], "--pretrain needs --mode=dataset"),
    (["train", "--network=GAN", "--data=DATA", "--mode=dataset", "--num=5"], "--num needs --mode=chunks"),
    (["train", "--network=GAN", "--data=DATA", "--mode=dataset", "--chunk-size=5"], "--chunk-size needs --mode=chunks"),
    (["train", "--network=GAN", "--data=DATA", "--mode=dataset", "--jobs=1"], "--jobs needs --mode=chunks"),
    (["train", "--network=GAN", "--data=DATA", "--mode=all"], "--mode"),
    (["train", "--network=GAN", "--data=DATA", "--batch=1"], "--batch"),
    (["train", "--network=GAN", "--data=DATA", "--lr=0"], "--lr"),
    (["train", "--network=GAN", "--data=DATA", "--chunk-size=1"], "--chunk-size"),
    (["train", "--network=GAN", "--data=DATA", "--max-shift=0.6"], "--max-shift"),
    (["distill", "--network=GAN", "--min-coverage=0.7"], "--min-coverage must be below --max-coverage, got 0.7 and"),
    (["distill", "--network=GAN", "--max-coverage=0.01"], "--min-coverage must be below --max-coverage, got 0.02 and"),
    (["distill", "--network=GAN", "--adapt=5"], "--adapt needs --data"),
    (["distill", "--network=GAN", "--batch=3"], "--batch"),
    (["distill", "--network=GAN", "--steps=0"], "--steps"),
    (["distill", "--network=GAN", "--lr=0.1"], "--lr"),
])
def test_wrong_option_is_named_with_its_rule(gan, data, tmp_path, args, words):
    args = [arg.replace("GAN", str(gan)).replace("DATA", str(data)) for arg in args]
    result = invoke(*args, f"--outdir={tmp_path / 'out'}")
    assert result.exit_code == 2, result.output
    assert words in result.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["train", "distill"])
def test_run_inside_the_pictures_is_refused(tmp_path, name):
    pictures = make_pictures(tmp_path / "my-cars", ["0.png", "1.png"])
    result = invoke(name, f"--network={tmp_path}", f"--data={pictures}", f"--outdir={pictures / 'runs'}")
    assert result.exit_code == 2, result.output
    assert f"--outdir={pictures}/runs lies in --data={pictures}, where its files would be taken" in result.stderr


@pytest.mark.parametrize("name", ["train", "distill"])
@pytest.mark.parametrize("args, words", [
    (["--network=none.pkl"], "none.pkl: no such file or run folder"),
    (["--network=EMPTY"], "empty: holds no network-snapshot-KIMG.pkl; is it the run folder of train_layered.py?"),
    (["--network=SHORT"], "short.pkl: not a readable network snapshot"),
    (["--network=PLAIN"], "plain.pkl: its generator draws no layers; train one with train_layered.py"),
    (["--data=none.zip"], "none.zip: neither a folder nor a readable zip"),
    (["--data=EMPTY"], "empty: holds no pictures"),
    (["--data=BROKEN"], "broken: cannot read picture 5.png"),
    pytest.param(["--device=cuda"], "--device=cuda", marks=pytest.mark.skipif(
        torch.cuda.is_available(), reason="this machine has a GPU")),
])
def test_wrong_file_is_named_and_no_folder_is_left(gan, data, tmp_path, name, args, words):
    whole = (gan / "network-snapshot-000000.pkl").read_bytes()
    (tmp_path / "short.pkl").write_bytes(whole[:len(whole) // 2])
    net = torch.nn.Linear(1, 1)
    save_network_pkl(tmp_path / "plain.pkl", dict(G=net, D=net, G_ema=net, training_set_kwargs=None, augment_pipe=None))
    (tmp_path / "empty").mkdir()
    make_pictures(tmp_path / "broken", [f"{idx}.png" for idx in range(6)])
    (tmp_path / "broken" / "5.png").write_bytes(b"no picture")
    for place in ("EMPTY", "SHORT.pkl", "PLAIN.pkl", "BROKEN"):
        args = [arg.replace(place.split(".")[0], str(tmp_path / place.lower())) for arg in args]
    out = tmp_path / "out"
    result = invoke(*(DISTILL if name == "distill" else [*TRAIN, "--mode=dataset"]), f"--outdir={out}",
                    f"--network={gan}", f"--data={data}", *args)
    assert result.exit_code == (2 if args == ["--device=cuda"] else 1), result.output
    assert words in result.stderr and result.stdout == ""
    assert not out.exists() or list(out.iterdir()) == []


@pytest.mark.parametrize("place", ["out", "out/deeper"])
def test_output_folder_that_can_not_be_written_is_named(gan, data, tmp_path, place):
    (tmp_path / "out").write_text("a file")
    result = invoke(*DISTILL, f"--network={gan}", f"--data={data}", f"--outdir={tmp_path / place}")
    assert result.exit_code == 1
    assert f"--outdir: can't write to {tmp_path / place}: " in result.stderr


@pytest.mark.parametrize("args, words", [
    (["--init=OTHER"], "other: its encoder was trained for another generator, runs/00000-gan"),
    (["--init=SAME", "--max-shift=0.1"], "same: its encoder has other options"),
    (["--init=UNET"], "unet: holds no encoder of a whole data set to start from"),
    (["--init=none"], "none: no such file or run folder"),
    (["--feature-resolution=16"], "--feature-resolution must be one of 8, 4 for this discriminator, got 16"),
    (["--chunk-size=5"], "--chunk-size=5 leaves a last chunk of one of the 6 pictures"),
])
def test_misfit_of_an_encoder_is_named_and_no_folder_is_left(data, tmp_path, args, words):
    network = make_gan_run(tmp_path / "gan", seed=0)
    for name, kind, seed in (("OTHER", "encoder", 1), ("SAME", "encoder", 0), ("UNET", "distill", 0)):
        folder = make_model(tmp_path / name.lower(), kind, seed)
        args = [arg.replace(name, str(folder)) for arg in args]
    result = invoke(*TRAIN, f"--network={network}", f"--data={data}", f"--outdir={tmp_path / 'out'}", *args)
    assert result.exit_code == (2 if words.startswith("--") else 1), result.output
    assert words in result.stderr and list(tmp_path.glob("out/*")) == []


# Runs.

@pytest.mark.parametrize("args, name, kind", [
    (DISTILL, "00000-distill-my-cars-steps3-seed0", "distill"),
    ([*TRAIN, "--mode=dataset", "--pretrain=1"], "00000-encoder-my-cars-steps3-seed0", "encoder"),
    ([*TRAIN, "--chunk-size=3", "--num=5"], "00000-chunks-my-cars-steps3-seed0", "chunks"),
])
@pytest.mark.parametrize("signal_name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_stopped_run_says_how_to_go_on_and_ends_as_an_uninterrupted_one(gan, data, tmp_path, stop, args, name, kind,
                                                                        signal_name, code):
    args = [*args, f"--network={gan}", f"--data={data}"]
    whole = run(*args, f"--outdir={tmp_path / 'whole'}")
    outdir = tmp_path / "my runs"
    stop(signal_name)
    stopped = invoke(*args, f"--outdir={outdir}")
    assert stopped.exit_code == code and stopped.stdout == ""
    assert f"Stopped by {signal_name}; all is saved" in stopped.stderr
    go_on = shlex.split(re.search(r"Go on with: (.*)$", stopped.stderr, re.MULTILINE)[1])
    assert go_on[:2] == ["python", "invert.py"]
    parts = run(*go_on[2:])
    assert parts == outdir / name and whole.name == name
    for file in sorted(whole.glob("*.safetensors")):
        assert (parts / file.name).read_bytes() == file.read_bytes()
    segmenter = Segmenter.load(parts, "cpu")
    assert segmenter.kind == kind and segmenter.options["data"] == str(data)
    again = invoke(*go_on[2:])
    assert again.exit_code == 0 and "is complete" in again.stderr and again.stdout.strip() == str(parts)


def test_encoders_of_chunks_start_from_that_of_the_data_set(gan, data, tmp_path):
    args = [*TRAIN, f"--network={gan}", f"--data={data}", f"--outdir={tmp_path}", "--steps=1", "--lr=1e-9"]
    first = run(*args, "--mode=dataset", "--pretrain=3")
    second = run(*args, f"--init={first}", "--chunk-size=3")
    chunk, whole = load_tensors(second / "chunk-00001.safetensors"), load_tensors(first / "model.safetensors")
    torch.testing.assert_close(chunk["E.head.weight"], whole["E.head.weight"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["--mode=chunks", "--mode=dataset"])
def test_run_is_not_resumed_from_another_encoder_than_it_began_with(gan, data, tmp_path, stop, mode):
    args = [*TRAIN, f"--network={gan}", f"--data={data}", f"--outdir={tmp_path}"]
    first, second = (run(*args, "--mode=dataset", "--pretrain=1", f"--seed={seed}") for seed in (1, 2))
    stop("SIGTERM")
    stopped = invoke(*args, mode, f"--init={first}")
    begun = tmp_path / f"00002-{'chunks' if mode == '--mode=chunks' else 'encoder'}-my-cars-steps3-seed0"
    assert stopped.exit_code == 143 and begun.is_dir(), stopped.output
    weights = (first / "model.safetensors").read_bytes()
    (first / "model.safetensors").write_bytes((second / "model.safetensors").read_bytes())
    refused = invoke("train", f"--outdir={tmp_path}", f"--resume={begun}")
    assert refused.exit_code == 1, refused.output
    assert (f"Error: {first}: its encoder is not the one that this run began with; put it back, or start a new run\n"
            in refused.stderr)
    (first / "model.safetensors").write_bytes(weights)
    assert run("train", f"--outdir={tmp_path}", f"--resume={begun}") == begun


def test_resumed_run_keeps_its_options(gan, data, tmp_path, stop):
    stop("SIGTERM")
    args = [f"--outdir={tmp_path}", "--resume=latest"]
    invoke(*TRAIN, "--mode=dataset", f"--network={gan}", f"--data={data}", args[0])
    other = make_gan_run(tmp_path / "other" / "00000-gan")
    for option in ("--steps=5", "--mode=chunks", "--pretrain=3", "--seed=1", f"--network={other}"):
        refused = invoke("train", *args, option)
        assert refused.exit_code == 2, refused.output
        assert f"{option.split('=')[0]} cannot change when a run is resumed" in refused.stderr
    refused = invoke("distill", *args)
    assert refused.exit_code == 1 and f"{tmp_path}: no run of invert.py distill there" in refused.stderr
    begun = [*TRAIN, "--mode=dataset", f"--network={gan}", f"--data={data}"]
    shown = invoke(*begun, *args, "--device=cpu", "-n")
    assert shown.exit_code == 0 and json.loads(shown.stdout)["options"]["steps"] == 3
    assert not list(tmp_path.glob("*/model.json"))
    assert (run("train", *args, "--device=cpu", "--jobs=2") / "model.json").is_file()


def test_distillation_of_an_older_version_goes_on_without_what_is_new(gan, data, tmp_path, stop):
    stop("SIGTERM")
    invoke(*DISTILL, f"--network={gan}", f"--data={data}", f"--outdir={tmp_path}")
    (path,) = tmp_path.glob("*/options.json")
    record = json.loads(path.read_text())
    assert record["options"].pop("colors") and record["options"].pop("reuse") > 1
    assert all(record["options"].pop(name) > 0 for name in ("paste", "margin"))
    path.write_text(json.dumps(record))
    shown = invoke("distill", f"--outdir={tmp_path}", "--resume=latest", "-n")
    assert shown.exit_code == 0, shown.output
    options = json.loads(shown.stdout)["options"]
    assert options["colors"] is False and options["paste"] == options["margin"] == 0 and options["reuse"] == 1


def test_ctrl_c_in_a_terminal(gan, data, tmp_path):
    args = ["distill", "--steps=100000", "--batch=4", "--max-coverage=0.99", "--device=cpu"]
    code, output, errors = call_and_stop(signal.SIGINT, tmp_path / "*/stats.jsonl", "invert.py", *args,
                                         f"--network={gan}", f"--data={data}", f"--outdir={tmp_path}")
    assert code == 130, errors
    assert output == "" and "Traceback" not in errors
    (folder,) = tmp_path.iterdir()
    assert errors.splitlines()[-1] == ("Stopped by SIGINT; all is saved. Go on with: python invert.py distill "
                                       f"--outdir={tmp_path} --resume={folder}")
    assert (folder / "training-state-generated.pt").is_file()
