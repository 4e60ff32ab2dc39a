"""Networks as files without code: weights in safetensors, how they are built in JSON."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from training.networks import Discriminator

from layered_plugin.errors import ModelError, one_line, raising
from layered_plugin.files import atomic_write, write_json
from layered_plugin.json_files import anything, check_fields, fields, maybe, number, read_json, text
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.network_rules import NETWORKS
from layered_plugin.trust import GENERATOR_FILE

WEIGHTS_FILE = "generator.safetensors"
FORMAT = 1

GENERATOR = fields(
    dict(format=number(whole=True), networks=fields(dict(G_ema=NETWORKS["G_ema"], D=NETWORKS["D"]))),
    dict(kind=text, training_set_kwargs=(maybe(anything), None)))


def save_tensors(path: str | os.PathLike[str], networks: Mapping[str, torch.nn.Module]) -> None:
    """Write the weights of several networks to one safetensors file, whole or not at all."""
    tensors = {f"{name}.{key}": value.detach().cpu().contiguous()
               for name, net in networks.items() for key, value in net.state_dict().items()}
    content = safetensors.torch.save(tensors)
    with atomic_write(path, len(content)) as file:
        file.write(content)


def load_tensors(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a safetensors file; executes no code.

    ModelError if it is missing, truncated or no safetensors file, or a weight is infinite or not a number.
    """
    with raising(ModelError, f"{path}: not a readable model file", OSError, SafetensorError):
        tensors = safetensors.torch.load_file(path)
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ModelError(f"{path}: {name} is not finite; the file is damaged, or its training failed: use another")
    return tensors


def fill(net: torch.nn.Module, name: str, tensors: Mapping[str, torch.Tensor], path: Any) -> torch.nn.Module:
    """Give a network its weights, frozen, in evaluation mode; ModelError if they are not those of this network."""
    weights = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    try:
        net.load_state_dict(weights)
    except RuntimeError as err:
        reason = one_line(str(err).partition("\n")[2], 200)
        raise ModelError(f"{path}: its weights do not fit the JSON file beside it: {reason}") from err
    return net.eval().requires_grad_(False)


def save_generator(folder: str | os.PathLike[str], snapshot: Mapping[str, Any]) -> None:
    """Write `G_ema`, `D` and `training_set_kwargs` of a snapshot as generator.json and generator.safetensors."""
    networks = {name: snapshot[name] for name in ("G_ema", "D")}
    save_tensors(Path(folder) / WEIGHTS_FILE, networks)
    write_json(Path(folder) / GENERATOR_FILE, dict(
        format=FORMAT, kind="layered generator", networks={name: net.init_kwargs for name, net in networks.items()},
        training_set_kwargs=snapshot.get("training_set_kwargs")))


def load_generator(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what ``save_generator`` wrote; executes no code.

    Returns:
        `G`, `D`, `G_ema`, `training_set_kwargs`, `augment_pipe` as in a snapshot; `G` is `G_ema`.

    Raises:
        ModelError: A file is missing or damaged, or they don't belong together; the text names it.
    """
    path = Path(folder) / GENERATOR_FILE
    meta = check_fields(read_json(path, ModelError), GENERATOR, path, ModelError)
    if meta["format"] != FORMAT:
        raise ModelError(f"{path}: not a readable generator: format {meta['format']}, not {FORMAT}")
    with raising(ModelError, f"{path}: not a readable generator",
                 ValueError, KeyError, TypeError, RuntimeError, AssertionError, ArithmeticError, width=200):
        networks = {name: maker(**meta["networks"][name])
                    for name, maker in dict(G_ema=LayeredGenerator, D=Discriminator).items()}
    file = Path(folder) / WEIGHTS_FILE
    tensors = load_tensors(file)
    for name, net in networks.items():
        fill(net, name, tensors, file)
    return dict(G=networks["G_ema"], **networks, training_set_kwargs=meta.get("training_set_kwargs"), augment_pipe=None)
