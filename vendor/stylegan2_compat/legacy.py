"""Load network pickles of all generations: persistent pickles and those of the TensorFlow versions.

As a command it converts a pickle into the present format.
"""

import os
import pickle
import uuid
from typing import IO, Any

import click
import dnnlib
import torch
from legacy_convert import convert_tf_discriminator, convert_tf_generator
from legacy_tf import TFNetwork
from torch_utils import misc, persistence

__all__ = ["convert_network_pickle", "convert_tf_discriminator", "convert_tf_generator", "load_network_pkl"]

_NETWORKS = ("G", "D", "G_ema")
_OPTIONAL = {"training_set_kwargs": dict, "augment_pipe": torch.nn.Module}
_FP16_SETTINGS = {"num_fp16_res": 4, "conv_clamp": 256}


def load_network_pkl(f: IO[bytes], force_fp16: bool = False) -> dict[str, Any]:
    """Load the networks of a snapshot. Unpickling runs code from the file: never load one you do not trust.

    Args:
        f: Binary file with a dict of networks, or with a TensorFlow tuple (G, D, Gs), which is converted.
        force_fp16: Rebuild each network with float16 blocks (num_fp16_res 4, conv_clamp 256)?

    Returns:
        Dict with the modules `G`, `D` and `G_ema`, `training_set_kwargs` (dict or None), `augment_pipe` (module or
        None) and everything else that was in the file.

    Raises:
        ValueError: If an entry is missing or of the wrong type, if a TensorFlow network has no counterpart here, or if
            a network does not say how it was constructed and force_fp16 is set.
    """
    snapshot = _as_snapshot(_Unpickler(f).load())
    if force_fp16:
        snapshot.update({key: _with_fp16(key, snapshot[key]) for key in _NETWORKS})
    return snapshot


class _Unpickler(pickle.Unpickler):
    """Unpickler that puts a plain container in the place of TensorFlow's network class."""

    def find_class(self, module: str, name: str) -> Any:
        is_tf = f"{module}.{name}" == "dnnlib.tflib.network.Network"
        return TFNetwork if is_tf else super().find_class(module, name)


def _as_snapshot(content: Any) -> dict[str, Any]:
    """Return what was pickled as a dict that has every entry, of its type."""
    match content:
        case (TFNetwork() as tf_G, TFNetwork() as tf_D, TFNetwork() as tf_Gs):
            nets = (convert_tf_generator(tf_G), convert_tf_discriminator(tf_D), convert_tf_generator(tf_Gs))
            content = dict(zip(_NETWORKS, nets, strict=True))
        case dict():
            pass
        case _:
            kind = type(content).__name__
            raise ValueError(f"Expected a pickle of a dict or a TensorFlow tuple (G, D, Gs), but got {kind}")
    snapshot = {**dict.fromkeys(_OPTIONAL), **content}
    for key, kinds in {**dict.fromkeys(_NETWORKS, torch.nn.Module), **_OPTIONAL}.items():
        entry = snapshot.get(key)
        if not (isinstance(entry, kinds) or (entry is None and key in _OPTIONAL)):
            wanted = f"a {kinds.__name__}" + (" or None" if key in _OPTIONAL else "")
            raise ValueError(f"Expected `{key}` in the pickle to be {wanted}, but got {type(entry).__name__}")
    return snapshot


def _with_fp16(key: str, net: Any) -> torch.nn.Module:
    """Return the network with float16 blocks, or itself if it has them; generators take the settings for synthesis."""
    if not persistence.is_persistent(net):
        raise ValueError(f"Expected `{key}` to be of a persistent class to rebuild it, but got {type(net).__name__}")
    if net.init_args:
        raise ValueError(f"Expected `{key}` to be constructed by keywords only, but got {len(net.init_args)} arguments")
    before = net.init_kwargs
    if key == "D":
        after = {**before, **_FP16_SETTINGS}
    else:
        after = {**before, "synthesis_kwargs": {**before.get("synthesis_kwargs", {}), **_FP16_SETTINGS}}
    if after == before:
        return net
    rebuilt = type(net)(**after).eval().requires_grad_(False)
    misc.copy_params_and_buffers(net, rebuilt, require_all=True)
    return rebuilt


@click.command()
@click.option("--source", help="Network pickle to read", metavar="PATH|URL", required=True)
@click.option("--dest", help="Network pickle to write", metavar="PATH", required=True)
@click.option("--force-fp16", help="Use float16 blocks", metavar="BOOL", type=bool, default=False, show_default=True)
def convert_network_pickle(source: str, dest: str, force_fp16: bool) -> None:
    """Convert a network pickle of an older version into the present format.

    \b
    Example:
    python legacy.py --source=stylegan2-cat-config-f.pkl --dest=cat.pkl
    """
    click.echo(f"Loading {source}", err=True)
    try:
        with dnnlib.util.open_url(source) as file:
            data = load_network_pkl(file, force_fp16=force_fp16)
    except (OSError, EOFError, ImportError, ValueError, pickle.UnpicklingError) as error:
        raise click.ClickException(f"--source: {source}: {error}") from error

    click.echo(f"Writing {dest}", err=True)
    temporary = f"{dest}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            pickle.dump(data, file)
        os.replace(temporary, dest)
    except OSError as error:
        raise click.ClickException(f"--dest: {dest}: {error}") from error


if __name__ == "__main__":
    convert_network_pickle()
