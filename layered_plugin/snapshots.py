"""Trained networks from upstream's pickles, for use without training them further.

Unpickling runs code of the file: load only what you trust. What the plugin trains on top of a generator is saved
without pickles (`model_file.py`).
"""

import os
from typing import Any

import dnnlib
import legacy
import torch

from layered_plugin.checkpoint import CheckpointError, complete_run


def find_snapshot(path: str | os.PathLike[str]) -> str:
    """The pickle or URL itself, or the last network snapshot of a run folder.

    Raises:
        CheckpointError: There is none.
    """
    if "://" in str(path):
        return str(path)
    path = complete_run(path)
    if path.is_file():
        return str(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or run folder")
    found = list(path.glob("network-snapshot-*.pkl"))
    if not found:
        raise CheckpointError(f"{path}: holds no network-snapshot-*.pkl; is it the run folder of train_layered.py?")
    return str(max(found, key=lambda file: (len(file.name), file.name)))  # From kimg 1000000 on names are longer.


def load_snapshot(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load the networks of a layered snapshot, frozen.

    Args:
        path: Pickle, run folder (its last snapshot) or URL.
        device: Where to put them.

    Returns:
        As upstream's loader: `G_ema`, `D`, ... in evaluation mode and without gradients, `training_set_kwargs`; and
        `path`, the pickle that was read.

    Raises:
        CheckpointError: It can't be read, or its generator is not layered; the text names the file.
    """
    found = find_snapshot(path)
    try:
        with dnnlib.util.open_url(found) as file:
            data = legacy.load_network_pkl(file)
    except Exception as err:  # A pickle is a program, a damaged one may fail in any way.
        raise CheckpointError(f"{found}: not a readable network snapshot: {err}") from err
    if not is_layered(data["G_ema"]):
        raise CheckpointError(f"{found}: its generator draws no layers; train one with train_layered.py")
    for name in ("G", "D", "G_ema"):
        data[name] = data[name].eval().requires_grad_(False).to(device)
    return dict(data, path=found)


def is_layered(G: torch.nn.Module) -> bool:
    """Whether a generator is a LayeredGenerator, of this or another installation of the plugin."""
    return type(G).__name__ == "LayeredGenerator" and hasattr(G, "synthesis") and hasattr(G.synthesis, "single")
