"""Shared set-up: the base on the path, one thread (two spin on busy cores), fixed seeds."""

import os
import signal
import tempfile

import numpy as np
import pytest
import torch

import layered_plugin  # noqa: F401 - activates the base
from layered_plugin.synthetic.shapes import write_shapes
from layered_plugin.training import scene_variety

STATE = tempfile.TemporaryDirectory()  # Also of the processes that tests start: the user's own list stays as it is.
os.environ["XDG_STATE_HOME"] = STATE.name

torch.set_num_threads(1)
# As from a terminal: Ctrl-C is ignored where `make test` runs in the background, SIGHUP under nohup.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.fsync = lambda _file: None  # No test cuts the power, and on a busy disk tests would wait most of the time.
scene_variety.NUM_SCENES, scene_variety.STEPS = 10, 2  # Most runs of the tests have them drawn.
torch.backends.cudnn.allow_tf32 = False  # PyTorch's default rounds the factors of float32 convolutions on a GPU.


@pytest.fixture(autouse=True)
def _seed() -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_flush_denormal(False)  # Which commands switch on, and hypothesis can't draw numbers with.


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two dozen pictures of the built-in data set, for networks of 16x16."""
    path = tmp_path_factory.mktemp("data") / "shapes.zip"
    write_shapes(dict(picture=str(path)), 24, 18, 0)
    return path


@pytest.fixture
def process_as_before():
    """Undo what a training does to its process: threads, and denormals, of which NumPy warns when next asked."""
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)
