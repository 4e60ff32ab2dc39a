"""Shared set-up: the base on the path, one thread (two spin on busy cores), fixed seeds."""

import numpy as np
import pytest
import torch

import layered_plugin  # noqa: F401 - activates the base

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    np.random.seed(0)
    torch.manual_seed(0)
