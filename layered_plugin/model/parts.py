"""One part of a layered generator, background or an object, as a generator of its own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch_utils import misc
from training import networks

from layered_plugin.errors import ArgumentError
from layered_plugin.model.rgba import RgbaSynthesis

HALF = {"num_fp16_res", "fp16_channels_last", "half_dtype", "freeze_layers"}  # Left out: computed in fp32.


def background_networks(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """An ordinary snapshot that draws the backgrounds of layered networks, of ``load_snapshot``.

    Returns:
        As upstream pickles them: `G`, `D`, `G_ema` of the base's own classes, with three channels, in fp32;
        `training_set_kwargs`, `augment_pipe`. G(z, c) is the layer that the layered generator draws for z.
    """
    return _snapshot_of(snapshot, "bg", [0, 1, 2])


def foreground_networks(snapshot: Mapping[str, Any], number: int = 1) -> dict[str, Any]:
    """A snapshot that draws an object with its opacity as fourth channel, 1 = opaque, -1 = transparent.

    Args:
        snapshot: Layered networks, of ``load_snapshot``.
        number: Of the object, from back to front, from 1 on.

    Returns:
        As ``background_networks``, but for ``RgbaSynthesis``. The discriminator judges three channels.

    Raises:
        ArgumentError: The generator has no such object.
    """
    num_objects = snapshot["G_ema"].synthesis.num_objects
    if not 1 <= number <= num_objects:
        raise ArgumentError(f"`object` must be from 1 to {num_objects} for this network, got {number}")
    if snapshot["G_ema"].synthesis.single:
        first = 3 + 4 * (number - 1)
        return _snapshot_of(snapshot, "fg", list(range(first, first + 4)))
    return _snapshot_of(snapshot, "fg" if number == 1 else f"fg{number}", [0, 1, 2, 3])


def _snapshot_of(snapshot: Mapping[str, Any], name: str, rows: list[int]) -> dict[str, Any]:
    nets = dict(G=_part(snapshot["G"], name, rows), D=_plain_discriminator(snapshot["D"]),
                G_ema=_part(snapshot["G_ema"], name, rows))
    return dict({key: net.eval().requires_grad_(False) for key, net in nets.items()}, training_set_kwargs=None,
                augment_pipe=None)


@torch.no_grad()
def _plain_discriminator(D: Any) -> Any:
    """The base's own discriminator of three channels, which judges as D does with the mask unknown."""
    plain = networks.Discriminator(**dict(_in_fp32(D.init_kwargs), img_channels=3))
    tensors = dict(misc.named_params_and_buffers(D))
    for key, tensor in misc.named_params_and_buffers(plain):
        if key.endswith("fromrgb.weight"):  # Layers divide by the root of their channels' number.
            tensor.copy_(tensors[key][:, :3] * (3 / D.img_channels) ** 0.5)
        else:
            tensor.copy_(tensors[key])
    return plain


@torch.no_grad()
def _part(G: Any, name: str, rows: list[int]) -> Any:
    """Generator of some outputs of one part."""
    synthesis = getattr(G.synthesis, "both" if G.synthesis.single else name)
    mapping = getattr(G.mapping, name if name in G.mapping.names else "both")
    sizes = {"w_dim", "img_resolution", "img_channels", "z_dim", "c_dim", "num_ws"}
    kwargs, mapping_kwargs = ({key: value for key, value in _in_fp32(net.init_kwargs).items() if key not in sizes}
                              for net in (synthesis, mapping))
    shape = dict(w_dim=mapping.w_dim, img_resolution=G.img_resolution, img_channels=len(rows))
    part = networks.Generator(z_dim=G.z_dim, c_dim=G.c_dim, **shape, mapping_kwargs=mapping_kwargs,
                              synthesis_kwargs=kwargs)
    if len(rows) == 4:
        part.synthesis = RgbaSynthesis(**shape, **kwargs)
    misc.copy_params_and_buffers(mapping, part.mapping, require_all=True)
    tensors = dict(misc.named_params_and_buffers(synthesis))
    for key, tensor in misc.named_params_and_buffers(part.synthesis):
        tensor.copy_(tensors[key][rows] if key.rpartition(".")[0].endswith("torgb") else tensors[key])
    return part


def _in_fp32(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a network without those that say where half precision begins."""
    return {key: _in_fp32(value) if isinstance(value, dict) else value
            for key, value in kwargs.items() if key not in HALF}
