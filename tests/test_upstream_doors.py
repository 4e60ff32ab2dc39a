"""Doors that docs/upstream.md and docs/training.md name: another fork's loop, and Weights & Biases."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest
import torch
from tiny_models import TINY, make_pictures
from torch_utils import custom_ops

from layered_plugin.model.snapshots import load_snapshot

ROOT = Path(__file__).resolve().parent.parent
BASE = Path(custom_ops.__file__).parents[1]
MARKER = "# The lines go here."


def lines_for_a_fork():
    text = (ROOT / "docs/upstream.md").read_text()
    return re.search(r"## Add layers to your own fork\n.*?```python\n(.*?)```", text, re.DOTALL)[1]


def test_a_few_lines_add_layers_to_a_fork_with_a_loop_of_its_own(tmp_path):
    lines = lines_for_a_fork()
    assert len([line for line in lines.splitlines() if line.strip()]) <= 8
    fork = tmp_path / "fork"
    shutil.copytree(BASE, fork, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests/fork/forked_loop.py", fork)
    script = (ROOT / "tests/fork/train.py").read_text()
    assert script.count(MARKER) == 1
    (fork / "train.py").write_text(script.replace(MARKER, textwrap.indent(lines, "    ").lstrip()))
    data = make_pictures(tmp_path / "pictures", [f"{idx}.png" for idx in range(8)])  # Of different sizes.
    done = subprocess.run([sys.executable, "train.py", f"--outdir={tmp_path / 'run'}", f"--data={data}"], cwd=fork,
                          env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT)), text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"Loss/G/loss", "Loss/mask/size", "Loss/mask/binary", "Loss/r1_penalty"} <= set(done.stdout.split())
    G = load_snapshot(str(tmp_path / "run/network-snapshot-000000.pkl"), "cpu")["G_ema"]
    layers = G(torch.randn(2, G.z_dim), None, return_layers=True)
    assert layers.mask.shape == (2, 1, 16, 16) and layers.bg.shape == layers.fg.shape == (2, 3, 16, 16)


def test_documented_line_sends_statistics_to_wandb(tmp_path, monkeypatch, process_as_before):
    """A stand-in does what wandb's `sync_tensorboard` rests on: it takes the place of PyTorch's writer of events."""
    from torch.utils.tensorboard import writer as module

    sent = {}

    def init(sync_tensorboard=False, **_options):
        assert sync_tensorboard

        class Sending(module.EventFileWriter):
            def add_event(self, event):
                for value in event.summary.value:
                    sent.setdefault(value.tag, []).append(value.simple_value)
                super().add_event(event)

        monkeypatch.setattr(module, "EventFileWriter", Sending)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    line = re.search(r"^python -c .*wandb\.init.*$", (ROOT / "docs/training.md").read_text(), re.MULTILINE)[0]
    _python, _c, code, *_args = shlex.split(line)
    data = make_pictures(tmp_path / "pictures", [f"{idx}.png" for idx in range(8)])
    args = [f"--outdir={tmp_path / 'out'}", f"--data={data}", *TINY, "--kimg=0.008"]
    monkeypatch.setattr(sys, "argv", ["-c", *args])
    with pytest.raises(SystemExit) as stopped:
        exec(code, {"__name__": "__main__"})
    assert stopped.value.code == 0
    assert {"Loss/G/loss", "Loss/mask/size", "Progress/kimg"} <= set(sent)
    assert sent["Progress/kimg"] == pytest.approx([0.008])
