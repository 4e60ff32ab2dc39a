"""Memory that runs out: one line that says how much was asked for, what takes less, and how to go on."""

import json
import re

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from shell import invoke
from tiny_models import TINY, make_gan_run, make_pictures

import invert
import train_layered
from layered_plugin import runs
from layered_plugin.command_line import CheckedCommand
from layered_plugin.segmentation.fitting import Fitting
from layered_plugin.training import phases


def of_cuda() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB")


def of_mps() -> None:
    raise RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GB, other allocations: 1.00 GB, max allowed: "
                       "18.13 GB). Tried to allocate 256.00 MB on private pool.")


@pytest.mark.parametrize("work, asked", [
    (lambda: torch.empty(10**15), "4000000000000000 bytes"),  # PyTorch's and NumPy's own errors, for once.
    (lambda: np.empty(10**17), r"[0-9.]+ PiB"),
    (of_cuda, "2.50 GiB"),
    (of_mps, "256.00 MB"),
])
def test_a_command_names_its_options_that_take_memory(work, asked):
    @click.command(cls=CheckedCommand)
    @click.option("--batch", type=int)
    @click.option("--workers", type=int)
    @click.option("--lr", type=float)
    def main(**_opts):
        work()

    result = CliRunner().invoke(main, [])
    assert result.exit_code == 1
    text = f"Error: out of memory: {asked} more can't be had; a smaller --batch or --workers takes less\n"
    assert re.fullmatch(text, result.stderr)


def test_a_training_says_how_to_go_on_and_goes_on_in_smaller_rounds(tmp_path, monkeypatch):
    data = make_pictures(tmp_path / "cars", [f"{idx}.png" for idx in range(6)])
    update_ema, steps = phases.update_ema, []

    def lacking(*args):
        update_ema(*args)
        steps.append(None)
        if len(steps) == 3:
            torch.empty(10**15)

    monkeypatch.setattr(phases, "update_ema", lacking)
    args = [f"--outdir={tmp_path}", f"--data={data}", *TINY, "--kimg=0.04", "--tick=0.008", "--snap=1"]
    result = invoke(train_layered.main, *args)
    assert result.exit_code == 1
    run = next(tmp_path.glob("00000-*"))
    state = runs.training_states(run)[-1]
    assert (f"Error: out of memory: 4000000000000000 bytes more can't be had; a smaller --batch-gpu takes less: the "
            f"last training state is {state}; go on with: python train_layered.py --outdir={tmp_path} --resume={run}\n"
            ) in result.stderr
    refused = invoke(train_layered.main, f"--outdir={tmp_path}", f"--resume={run}", "--batch-gpu=3")
    assert refused.exit_code == 2 and "--batch-gpu must divide the run's batch per process, 8, and be" in refused.stderr
    result = invoke(train_layered.main, f"--outdir={tmp_path}", f"--resume={run}", "--batch-gpu=4")
    assert result.exit_code == 0, result.output
    assert len(steps) == 3 + 3  # Of five: the third once more.
    assert json.loads((run / runs.GAN_FILE).read_text())["batch_gpu"] == 4


def test_a_distillation_says_how_to_go_on(tmp_path, monkeypatch):
    args = ["distill", f"--network={make_gan_run(tmp_path / 'gan')}", f"--outdir={tmp_path}/runs", "--steps=2",
            "--batch=4", "--device=cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(Fitting, "step", lambda *_args: torch.empty(10**15))
        result = invoke(invert.main, *args)
    (run,) = (tmp_path / "runs").glob("*-distill-*")
    assert result.exit_code == 1 and result.stderr.endswith(
        "Error: out of memory: 4000000000000000 bytes more can't be had; free some, and go on with: python invert.py "
        f"distill --outdir={run.parent} --resume={run}; or start anew with a smaller --batch\n")
    result = invoke(invert.main, "distill", f"--outdir={run.parent}", f"--resume={run}")
    assert result.exit_code == 0 and (run / runs.MODEL_FILE).is_file(), result.output


def lacking(run_dir, _options, _record):
    """Work of ``invert.py train`` that has begun when memory runs out."""
    (run_dir / "chunk-00000.safetensors").touch()
    of_cuda()


def test_chunks_side_by_side_go_on_with_fewer_jobs(tmp_path, monkeypatch):
    monkeypatch.setattr(invert, "train_encoder", lacking)
    data = make_pictures(tmp_path / "cars", [f"{idx}.png" for idx in range(4)])
    args = [f"--network={make_gan_run(tmp_path / 'gan')}", f"--data={data}", f"--outdir={tmp_path}/runs", "--jobs=2"]
    result = invoke(invert.main, "train", *args, "--device=cpu")
    (run,) = (tmp_path / "runs").iterdir()
    assert result.exit_code == 1 and result.stderr.endswith(
        "Error: out of memory: 2.50 GiB more can't be had; fewer --jobs take less: go on with: python invert.py "
        f"train --outdir={run.parent} --resume={run} --jobs=1\n")


def test_a_run_that_has_not_begun_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(invert, "train_distilled", lambda *_args: of_cuda())
    args = [f"--network={make_gan_run(tmp_path / 'gan')}", f"--outdir={tmp_path}/runs", "--device=cpu"]
    result = invoke(invert.main, "distill", *args)
    assert result.exit_code == 1 and result.stderr.endswith("a smaller --batch takes less\n")
    assert not list((tmp_path / "runs").iterdir())
