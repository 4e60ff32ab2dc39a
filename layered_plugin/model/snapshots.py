"""Trained networks from upstream's pickles, for use without training them further.

Unpickling runs code of the file: load only what you trust. What the plugin trains on top of a generator is saved
without pickles (`model_file.py`).
"""

import os
import pickle
from typing import Any

import dnnlib
import legacy
import torch

from layered_plugin.errors import CheckpointError
from layered_plugin.runs import atomic_write, find_snapshot


def save_network_pkl(path: str | os.PathLike, data: dict[str, Any]) -> None:
    """Write a snapshot in upstream's format: a pickled dict of training_set_kwargs, G, D, G_ema, augment_pipe."""
    with atomic_write(path) as file:
        pickle.dump(data, file)


def load_snapshot(path: str | os.PathLike[str], device: torch.device | str = "cpu",
                  choice: str = "latest") -> dict[str, Any]:
    """Load the networks of a layered snapshot, frozen.

    Args:
        path: Pickle, run folder or URL.
        device: Where to put them.
        choice: Snapshot of a run folder, see ``find_snapshot``.

    Returns:
        As upstream's loader: `G_ema`, `D`, ... in evaluation mode and without gradients, `training_set_kwargs`; and
        `path`, the pickle that was read.

    Raises:
        CheckpointError: It can't be read, or its generator is not layered; the text names the file.
    """
    file_or_url = find_snapshot(path, choice)
    try:
        with dnnlib.util.open_url(file_or_url) as file:
            data = legacy.load_network_pkl(file)
    except Exception as err:  # A pickle is a program, a damaged one may fail in any way.
        raise CheckpointError(f"{file_or_url}: not a readable network snapshot: {err}") from err
    if not is_layered(data["G_ema"]):
        raise CheckpointError(f"{file_or_url}: its generator draws no layers; train one with train_layered.py")
    for name in ("G", "D", "G_ema"):
        data[name] = data[name].eval().requires_grad_(False).to(device)
    return dict(data, path=file_or_url)


def is_layered(G: torch.nn.Module) -> bool:
    """Whether a generator is a LayeredGenerator, of this or another installation of the plugin."""
    return type(G).__name__ == "LayeredGenerator" and hasattr(G, "synthesis") and hasattr(G.synthesis, "single")
