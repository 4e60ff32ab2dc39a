"""Chunks trained with --jobs=2: a signal stops every process, all is saved, none is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_models import make_gan_run, make_pictures

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name, code, to_all", [("SIGINT", 130, True), ("SIGTERM", 143, False)])
def test_signal_stops_all_processes_after_saving(tmp_path, name, code, to_all):
    data = make_pictures(tmp_path / "pictures", [f"{idx}.png" for idx in range(9)])
    args = ["train", f"--network={make_gan_run(tmp_path / 'gan')}", f"--data={data}", f"--outdir={tmp_path / 'out'}",
            "--steps=200", "--chunk-size=3", "--batch=2", "--feature-resolution=8", "--jobs=2", "--device=cpu"]
    process = subprocess.Popen([sys.executable, "invert.py", *args], cwd=ROOT, stdout=subprocess.PIPE,
                               env=dict(os.environ, OMP_NUM_THREADS="1"), stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    deadline = time.time() + 120
    while len(list(tmp_path.glob("out/*/chunk-*/stats.jsonl"))) < 2 and time.time() < deadline:
        time.sleep(0.1)
    (os.killpg if to_all else os.kill)(process.pid, getattr(signal, name))  # Ctrl-C reaches every process.
    output, errors = process.communicate(timeout=100)  # Until every process has closed its end.
    assert process.returncode == code, errors
    assert output == "" and "Traceback" not in errors
    assert f"Stopped by {name}; all is saved. Go on with: python invert.py train" in errors
    states = sorted(path.parent.name for path in tmp_path.glob("out/*/*/training-state-encoder.pt"))
    assert states == ["chunk-00000", "chunk-00001"] and not list(tmp_path.glob("out/*/*.safetensors"))
