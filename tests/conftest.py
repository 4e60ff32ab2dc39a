"""Shared set-up: the base on the path, one thread (two spin on busy cores), fixed seeds."""

import os
import tempfile

import numpy as np
import pytest
import torch

import layered_plugin  # noqa: F401 - activates the base

STATE = tempfile.TemporaryDirectory()  # Also of the processes that tests start: the user's own list stays as it is.
os.environ["XDG_STATE_HOME"] = STATE.name

torch.set_num_threads(1)
torch.backends.cudnn.allow_tf32 = False  # PyTorch's default rounds the factors of float32 convolutions on a GPU.


@pytest.fixture(autouse=True)
def _seed() -> None:
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def process_as_before():
    """Undo what a training does to its process: threads, and denormals, of which NumPy warns when next asked."""
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)
