"""Chunks trained with --jobs=2: a signal stops every process, all is saved, none is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from shell import invoke
from tiny_models import make_gan_run, make_pictures, small_resnet

import invert
from layered_plugin.segmentation import chunks

ROOT = Path(__file__).resolve().parents[2]


def command(folder):
    data = make_pictures(folder / "pictures", [f"{idx}.png" for idx in range(9)])
    return ["train", f"--network={make_gan_run(folder / 'gan')}", f"--data={data}", f"--outdir={folder / 'out'}",
            "--steps=100000", "--chunk-size=3", "--batch=2", "--feature-resolution=8", "--jobs=2", "--device=cpu"]


def wait_for_two_chunks(folder):
    """Until both processes have taken a step."""
    deadline = time.time() + 120
    while len(list(folder.glob("out/*/chunk-*/stats.jsonl"))) < 2 and time.time() < deadline:
        time.sleep(0.1)


def check_stopped(folder, name, output, errors):
    assert output == "" and "Traceback" not in errors
    assert f"Stopped by {name}; all is saved. Go on with: python invert.py train" in errors
    states = sorted(path.parent.name for path in folder.glob("out/*/*/training-state-encoder.pt"))
    assert states == ["chunk-00000", "chunk-00001"] and not list(folder.glob("out/*/*.safetensors"))


def test_ctrl_c_reaches_every_process(tmp_path):
    process = subprocess.Popen([sys.executable, "invert.py", *command(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE,
                               env=dict(os.environ, OMP_NUM_THREADS="1"), stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    wait_for_two_chunks(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=100)  # Until every process has closed its end.
    assert process.returncode == 130, errors
    check_stopped(tmp_path, "SIGINT", output, errors)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a process that has used a GPU can't be forked")
def test_signal_to_the_main_process_alone_stops_the_others(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")  # Fresh processes, which import PyTorch first, stop above.
    monkeypatch.setattr(chunks.multiprocessing, "get_context", lambda *_method: context)
    monkeypatch.setattr("torchvision.models.resnet18", small_resnet)
    before = multiprocessing.active_children()  # Data loaders of other tests may linger.
    def stop_main():
        wait_for_two_chunks(tmp_path)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop_main)
    thread.start()
    result = invoke(invert.main, *command(tmp_path))
    thread.join()
    assert result.exit_code == 143, result.output
    check_stopped(tmp_path, "SIGTERM", result.stdout, result.stderr)
    assert [child for child in multiprocessing.active_children() if child not in before] == []
