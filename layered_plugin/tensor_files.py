"""Files of tensors: written whole or not at all, a full disk in one line."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from layered_plugin.files import write_watched


def save_state(path: str | os.PathLike, state: dict[str, Any]) -> None:
    """Write tensors, numbers, lists and dicts, whole or not at all; DiskFullError if there is no room."""
    write_watched(path, lambda file: torch.save(state, file), tensor_bytes(state))


def tensor_bytes(data: Any) -> int:
    """Bytes of the tensors in nested dicts, lists and networks."""
    if isinstance(data, torch.nn.Module):
        data = data.state_dict()
    if isinstance(data, torch.Tensor):
        return data.numel() * data.element_size()
    parts = data.values() if isinstance(data, Mapping) else data if isinstance(data, list | tuple) else ()
    return sum(map(tensor_bytes, parts))
