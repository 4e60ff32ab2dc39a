"""Models trained on top of a generator, as files without code: ``model.safetensors`` and ``model.json``.

A model holds everything it needs: an encoder brings its generator and discriminator along.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from training.networks import Discriminator

from layered_plugin.errors import ModelError, one_line
from layered_plugin.files import write_json
from layered_plugin.json_files import anything, check_fields, choice, fields, list_of, maybe, number, read_json, text
from layered_plugin.model import network_rules as check
from layered_plugin.model.encoder import Encoder
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.unet import FastUNet, UNet, make_unet
from layered_plugin.model.weights_file import fill, load_tensors, save_tensors
from layered_plugin.runs import MODEL_FILE, find_model
from layered_plugin.segmentation.reconstruction import LOSS_OPTIONS
from layered_plugin.trust import pickle_hash

FORMAT = 1

WEIGHTS = "model.safetensors"  # Of all networks but the encoders of chunks.

KINDS = ("encoder", "chunks", "distill")

NETWORKS = {"encoder": {"E", "G", "D"}, "chunks": {"E", "G", "D"}, "distill": {"unet"}}

ORIGIN = ("invert", "command", "date", "base", "torch", "generator", "network_sha256")  # Where a model is from.

MAKERS: dict[str, Callable[..., torch.nn.Module]] = {"E": Encoder, "G": LayeredGenerator, "D": Discriminator,
                                                    "unet": make_unet}


def save_model(folder: str | os.PathLike[str], kind: str, networks: Mapping[str, torch.nn.Module],
               meta: Mapping[str, Any]) -> None:
    """Write a model.

    Args:
        folder: Where `model.safetensors` and `model.json` go.
        kind: One of ``KINDS``.
        networks: By name out of ``MAKERS``.
        meta: Further entries of the JSON file, such as resolution, options and command.
    """
    # Every chunk keeps its encoder in a file of its own.
    in_one_file = {name: net for name, net in networks.items() if kind != "chunks" or name != "E"}
    save_tensors(Path(folder) / WEIGHTS, in_one_file)
    configs = {name: network_config(net) for name, net in networks.items()}
    write_json(Path(folder) / MODEL_FILE, dict(format=FORMAT, kind=kind, **meta, networks=configs))


def network_config(net: torch.nn.Module) -> dict[str, Any]:
    """Arguments that build a network anew."""
    if isinstance(net, Encoder):
        return net.config
    if isinstance(net, FastUNet):
        return dict(channels=list(net.channels), deep=len(net.deep))
    if isinstance(net, UNet):
        return dict(channels=list(net.channels))
    return json.loads(json.dumps(net.init_kwargs))  # A persistent class of the base remembers its own.


def read_meta(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON half of a model; ModelError if it is missing, damaged, or of another format."""
    path = Path(folder) / MODEL_FILE
    meta = read_json(path, ModelError)
    if meta.get("format") != FORMAT or meta.get("kind") not in KINDS:
        raise ModelError(f"{path}: not a model of this version of invert.py")
    networks = {name: check.NETWORKS[name] for name in NETWORKS[meta["kind"]]}
    sizes = list_of(number(0, 2**63, whole=True))  # An earlier version did not write them.
    chunks = list_of(fields(dict(file=_plain_name, names=list_of(text)), dict(bytes=sizes)))
    required = dict(format=number(whole=True), kind=text, resolution=check.SIDE, networks=fields(networks))
    required |= dict(chunks=chunks) if meta["kind"] == "chunks" else {}
    optional = dict(options=_options, chunks=chunks, margin=number(0, 0.5), data_fingerprint=anything,
                    **dict.fromkeys(ORIGIN, text))
    check_fields(meta, fields(required, optional), path, ModelError)
    return meta


def _other_base(err: Exception) -> str:
    """What to do where a network needs an argument that only one of the two bases has."""
    return "; it was trained on the bundled base: unset STYLEGAN2_ADA_PYTORCH" if "half_dtype" in str(err) else ""


def _options(value: Any, key: str) -> Any:
    """What a run of invert.py was asked for; checked is what a model at work heeds of it."""
    options = anything(value, key)
    rules = dict(dict.fromkeys(LOSS_OPTIONS, number(0)), network=text, feature_resolution=maybe(number(0)))
    for name, rule in rules.items():
        if name in options:
            rule(options[name], f"{key}.{name}")
    return options


def _plain_name(value: Any, key: str) -> Any:
    return choice(os.path.basename(value))(value, key) if isinstance(value, str) and value else text(value, key)


def weights_hash(run: str | os.PathLike[str]) -> str:
    """SHA-256 of a model's weights, with chunks; CheckpointError if they can't be read, ModelError without a model."""
    folder = find_model(run)
    hashes = [pickle_hash(file) for file in (folder / WEIGHTS, *sorted(folder.glob("chunk-*.safetensors")))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def start_from(E: Encoder, G: torch.nn.Module, run: str | os.PathLike[str], sha256: str | None = None) -> None:
    """Give an encoder the weights of that of another run, trained for the same generator.

    Args:
        E: Gets the weights.
        G: The generator.
        run: Folder of the other run, or a file of it.
        sha256: Of its weights when this run began (`weights_hash`); None = this run is older than these hashes.

    Raises:
        ModelError: The run holds no encoder of a whole data set, one of another generator or other options, or another
            than when this run began.
    """
    path = find_model(run)
    if sha256 is not None and weights_hash(path) != sha256:
        raise ModelError(f"{path}: its encoder is not the one that this run began with; put it back, or start a new "
                         "run")
    meta = read_meta(path)
    if meta["kind"] != "encoder":
        raise ModelError(f"{path}: holds no encoder of a whole data set to start from")
    if meta.get("generator") != network_hash(G):
        other = meta.get("options", {}).get("network")
        raise ModelError(f"{path}: its encoder was trained for another generator" + (f", {other}" if other else ""))
    if meta["networks"]["E"] != network_config(E):
        raise ModelError(f"{path}: its encoder has other options: {meta['networks']['E']}, not {network_config(E)}")
    fill(E, "E", load_tensors(path / WEIGHTS), path)


def load_model(path: str | os.PathLike[str], device: torch.device | str = "cpu"
               ) -> tuple[dict[str, Any], dict[str, torch.nn.Module]]:
    """Read a model.

    Args:
        path: Its folder, or one of its two files.
        device: Where to put the networks.

    Returns:
        The JSON half; networks by name, in evaluation mode, without gradients.

    Raises:
        ModelError: It is missing, damaged, or its halves don't belong together.
    """
    folder = find_model(path)
    meta = read_meta(folder)
    file = folder / WEIGHTS
    tensors = load_tensors(file)
    networks = {}
    for name, config in meta["networks"].items():
        try:
            with torch.device("cpu"):  # Whatever the caller's defaults are.
                net = MAKERS[name](**config).float()
        except (KeyError, TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError) as err:
            raise ModelError(f"{folder / 'model.json'}: can't build network {name}: {one_line(err, 200)}"
                             f"{_other_base(err)}") from err
        if meta["kind"] != "chunks" or name != "E":
            fill(net, name, tensors, file)
        networks[name] = net.to(device)
    if "G" in networks and meta.get("generator") not in (None, network_hash(networks["G"])):
        raise ModelError(f"{file}: its generator is not that of model.json; the two files belong to different models")
    return meta, networks


def network_hash(net: torch.nn.Module) -> str:
    """Hash of a network's weights, to tell one generator from another."""
    digest = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]
