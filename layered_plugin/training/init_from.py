"""Start a layered generator from an ordinary StyleGAN2 generator (``--init-from``), and D from its discriminator.

Every synthesis and mapping network begins as a copy of the ordinary one, but each object's mapping sees z turned. So
background and foreground are two pictures that have nothing to do with each other; in one and the same, an object would
keep the color of its ground and hardly be seen. Only the mask is new. What remains to be learnt is which of the two
draws what (Eq. 1, 2).
"""

import functools
import math
from typing import Any

import torch
from torch.nn import functional as F
from torch_utils import misc

from layered_plugin.errors import ArgumentError, CheckpointError, raising
from layered_plugin.model.parts import HALF
from layered_plugin.model.snapshots import is_layered, read_networks

PRECISION = HALF | {"conv_clamp"}  # Ours to choose.
SHAPE = {"c_dim", "img_resolution", "img_channels"}

MASK_STEPS = 150  # In which the mask logits are fitted to the middle.


@functools.lru_cache(maxsize=1)
def read_plain(path: str) -> tuple[Any, Any]:
    """The averaged generator and the discriminator of a pickle of ordinary networks; unpickling runs its code.

    CheckpointError if it can't be read, its generator draws layers already, or it is no StyleGAN2.
    """
    source = read_networks(path)
    G, D = source["G_ema"], source["D"]
    if is_layered(G):
        raise CheckpointError(f"{path} draws layers already; go on from it with `resume`")
    for net, wanted in ((G, ("mapping.fc0.weight", "synthesis.b4.const")), (D, ("b4.out.weight",))):
        names = {name for name, _ in misc.named_params_and_buffers(net)}
        if not names.issuperset(wanted) or not hasattr(net, "init_kwargs"):
            raise CheckpointError(f"{path}: its {type(net).__name__} is not StyleGAN2's")
    if G.img_channels != 3:
        raise CheckpointError(f"{path}: pictures have {G.img_channels} channels; 3 are needed")
    return G, D


def plain_options(path: str, opts: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """Options of a training that the networks of a pickle decide.

    Args:
        path: Pickle or URL.
        opts: Options by name; those of a preset among them.
        given: Names of those that the user set.

    Raises:
        ArgumentError: The user set one to something else, or asks for what an ordinary start does not allow.
        CheckpointError: As for ``read_plain``.
    """
    if opts["resume"] not in (None, "noresume"):
        raise ArgumentError("`init_from` can't be given with `resume`: both say where the networks start")
    if opts["grow"] or opts["grow_schedule"] is not None:
        raise ArgumentError("`init_from` starts at the full resolution; leave `grow` out, or add --no-grow")
    G, _D = read_plain(path)
    if bool(G.c_dim) != bool(opts["cond"]):
        takes = f"labels of {G.c_dim} classes" if G.c_dim else "no labels"
        raise ArgumentError(f"`cond`={int(opts['cond'])}: the networks of {path} take {takes}")
    synthesis, mapping = (G.init_kwargs.get(f"{name}_kwargs", {}) for name in ("synthesis", "mapping"))
    sizes = dict(resolution=G.img_resolution, w_dim=G.w_dim, cbase=synthesis.get("channel_base", 32768),
                 cmax=synthesis.get("channel_max", 512), map_depth=mapping.get("num_layers", 8))
    for name, value in sizes.items():
        if name in given and opts[name] != value:
            raise ArgumentError(f"`{name}`={opts[name]}: the networks of {path} have {value}; leave it out")
    return sizes


def adopt_plain(config: dict[str, Any], path: str) -> None:
    """Put into the parameters of ``training_loop`` whatever else the networks of a pickle were built with."""
    G, D = read_plain(path)
    G_init, D_init = _plain_dict(G.init_kwargs), _plain_dict(D.init_kwargs)
    G_kwargs, D_kwargs = config["G_kwargs"], config["D_kwargs"]
    G_kwargs["z_dim"] = G.z_dim
    for name in ("mapping_kwargs", "synthesis_kwargs"):
        G_kwargs[name] = {**_without(G_init.get(name, {}), PRECISION), **G_kwargs[name]}
    nested = {name: {**_without(D_init.get(name, {}), PRECISION), **D_kwargs[name]}
              for name in ("block_kwargs", "mapping_kwargs", "epilogue_kwargs")}
    channels = dict(channel_base=32768, channel_max=512, architecture="resnet")
    config["D_kwargs"] = {**D_kwargs, **channels, **_without(D_init, PRECISION | SHAPE), **nested}


def _plain_dict(kwargs: Any) -> dict[str, Any]:
    """Dicts of the base as Python's own."""
    return {key: _plain_dict(value) if isinstance(value, dict) else value for key, value in kwargs.items()}


def _without(kwargs: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in names}


def start_from_plain(path: str, G: Any, D: torch.nn.Module, G_ema: Any, mask_min: float, batch: int, say) -> None:
    """Copy ordinary networks into layered ones, and start the mask.

    Args:
        path: Pickle or URL.
        G: Layered generator; gets the averaged weights of the pickle.
        D: Discriminator.
        G_ema: Moving average of G; begins as a copy of it.
        mask_min: Area that the mask starts with (eta), as a share of the picture; at least 0.05 is taken.
        batch: Scenes at a time.
        say: Prints.

    Raises:
        CheckpointError: The networks do not fit.
    """
    plain_G, plain_D = read_plain(path)
    say(f"Starting from {path}: background, foreground and discriminator as it has them, the mask in the middle")
    with raising(CheckpointError, f"`init_from`: the networks of {path} have other shapes than this configuration asks "
                 "for", RuntimeError, ValueError, AssertionError, KeyError, width=200):
        for name in G.mapping.names:
            misc.copy_params_and_buffers(plain_G.mapping, getattr(G.mapping, name), require_all=True)
        for name in G.synthesis.names:
            _copy_synthesis(plain_G.synthesis, getattr(G.synthesis, name))
        misc.copy_params_and_buffers(plain_D, D, require_all=True)
    for number, name in enumerate(G.mapping.names[1:]):
        turn_codes(getattr(G.mapping, name), G.z_dim, number)
    start_masks(G, max(mask_min, 0.05), batch)
    misc.copy_params_and_buffers(G, G_ema, require_all=True)


def mask_rows(channels: int) -> list[int]:
    """Which outputs of a synthesis network are mask logits, by their number: those after an object's three colours."""
    first = 6 if channels % 4 == 3 else 3  # Behind the background's colours, in a network that draws it too.
    return list(range(first, channels, 4))


def _copy_synthesis(source: torch.nn.Module, net: Any) -> None:
    """Copy all; of ``torgb``, the rows of the colours go to each layer, and those of mask logits become zero."""
    tensors = dict(misc.named_params_and_buffers(source))
    masks = mask_rows(net.img_channels)
    colours = [row for row in range(net.img_channels) if row not in masks]
    for name, tensor in misc.named_params_and_buffers(net):
        value = tensors[name].detach().to(tensor)
        if name.rpartition(".")[0].endswith("torgb"):
            rows = torch.zeros_like(tensor)
            rows[colours] = value.repeat([len(colours) // 3, *[1] * (value.ndim - 1)])
            value = rows
        if value.shape != tensor.shape:
            raise ValueError(f"{name} is {list(value.shape)}, not {list(tensor.shape)}")
        tensor.copy_(value)


def turn_of(number: int, z_dim: int) -> torch.Tensor:
    """A rotation of z, [z_dim, z_dim], the same for a number at any time; z turned is as likely as z."""
    draws = torch.randn(z_dim, z_dim, generator=torch.Generator().manual_seed(number))
    return torch.linalg.qr(draws)[0]


def turn_codes(mapping: torch.nn.Module, z_dim: int, number: int) -> None:
    """Let a mapping network see z turned by ``turn_of``; what it draws over all z stays what it was."""
    weight: Any = mapping.get_parameter("fc0.weight")  # [out, z_dim and embedded label]
    codes = weight[:, :z_dim]
    codes.copy_(codes @ turn_of(number, z_dim).to(codes))


def start_masks(G: Any, coverage: float, batch: int) -> None:
    """Fit the mask logits to a disc in the middle, as well as the features of the foreground can tell it.

    What is in the middle more often than at the border is the object, so features that know the object serve best: the
    masks vary with z from the start, and no layer owns the scene alone. Colours stay as they are.

    Args:
        G: Layered generator in fp32 or half precision, its mask logits zero, without gradients.
        coverage: Area of the disc, as a share of the picture, in (0, 1).
        batch: Scenes at a time.
    """
    device, side = next(G.parameters()).device, G.img_resolution
    place = (torch.arange(side, device=device) + 0.5) / side * 2 - 1
    disc = (place.square() + place[:, None].square() < 4 * coverage / math.pi).float()  # [H, W]
    nets = {name: net for name, net in G.synthesis.named_children() if mask_rows(net.img_channels)}
    heads = [(param, mask_rows(net.img_channels)) for net in nets.values() for name, param in net.named_parameters()
             if name.rpartition(".")[0].endswith("torgb")]
    for param, _rows in heads:
        param.requires_grad_(True)
    opt = torch.optim.Adam([param for param, _rows in heads], lr=0.03)
    with torch.enable_grad():
        for _ in range(MASK_STEPS):
            z = torch.randn([batch, G.z_dim], device=device)
            c = torch.eye(G.c_dim, device=device)[torch.randint(max(G.c_dim, 1), [batch])] if G.c_dim else z[:, :0]
            opt.zero_grad(set_to_none=True)
            for name, net in nets.items():
                ws = getattr(G.mapping, name if name in G.mapping.names else "both")(z, c, skip_w_avg_update=True)
                logits = net(ws, noise_mode="const")[:, mask_rows(net.img_channels)]
                F.binary_cross_entropy_with_logits(logits, disc.expand_as(logits)).backward()
            for param, rows in heads:
                colours = [row for row in range(len(param)) if row not in rows]
                param.grad[colours] = 0  # type: ignore[index] # Adam leaves alone what never had a gradient.
            opt.step()
    for param, _rows in heads:
        param.requires_grad_(False)
