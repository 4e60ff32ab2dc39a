"""Convert networks of the TensorFlow versions of StyleGAN2 and StyleGAN2-ADA.

The structure is read from the names and shapes of the variables, the rest from the settings in the pickle; what cannot
be derived from these is an error, never a guess.
"""

import re
from typing import Any

import numpy as np
import torch
from legacy_tf import (
    Layout,
    TFNetwork,
    dense,
    flipped_kernel,
    kernel,
    need,
    plane,
    same,
    shape,
    style_bias,
    without_batch,
)
from training import networks

Sources = dict[str, tuple[str, Layout]]

# Variables that belong to progressive growing, which the converted networks are past.
_UNUSED_VARIABLES = re.compile(r"(.*/)?(lod|(To|From)RGB_lod[1-9]\d*/(weight|bias|mod_weight|mod_bias))")


def _resolutions(variables: dict[str, np.ndarray], prefix: str) -> list[int]:
    """List the resolutions 4, 8, ... of a network from the scopes of its variables."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)x\1/Conv.*/weight")
    found = {int(match.group(1)) for match in map(pattern.fullmatch, variables) if match}
    expected = [2**k for k in range(2, max(found, default=0).bit_length())]
    if not found or sorted(found) != expected:
        raise ValueError(f"TensorFlow network cannot be converted: its layers have the resolutions {sorted(found)}")
    return expected


def _name_last_rgb(variables: dict[str, np.ndarray], prefix: str, layer: str, resolution: int) -> None:
    """Give the RGB layer of the full resolution the same name with progressive growing as without."""
    old, new = f"{prefix}{layer}_lod0/", f"{prefix}{resolution}x{resolution}/{layer}/"
    for name in [name for name in variables if name.startswith(old)]:
        variables[new + name.removeprefix(old)] = variables.pop(name)


def _channel_settings(channels: dict[int, int]) -> dict[str, int]:
    """Find channel_base and channel_max with min(channel_base div r, channel_max) = channels[r] for all r."""
    maximum = max(channels.values())
    base = max(resolution * count for resolution, count in channels.items())
    if any(min(base // resolution, maximum) != count for resolution, count in channels.items()):
        raise ValueError(f"TensorFlow network cannot be converted: its channels per resolution are {channels}")
    return {"channel_base": base, "channel_max": maximum}


def _architecture(variables: dict[str, np.ndarray], prefix: str, rgb_layer: str) -> str:
    if f"{prefix}4x4/{rgb_layer}/weight" in variables:
        return "skip"
    return "resnet" if any(name.endswith("/Skip/weight") for name in variables) else "orig"


def _label_settings(variables: dict[str, np.ndarray], settings: dict[str, Any], prefix: str) -> tuple[int, int | None]:
    """Return the label size and the size of the label embedding (None without labels)."""
    embed = variables.get(f"{prefix}LabelEmbed/weight")
    size = settings.get("label_size", 0)
    if embed is None and size > 0:
        raise ValueError(
            "TensorFlow network cannot be converted: it uses labels without embedding them (before StyleGAN2-ADA), "
            "which no network here does"
        )
    return (0, None) if embed is None else (embed.shape[0], embed.shape[1])


def _mapping_settings(
    variables: dict[str, np.ndarray], settings: dict[str, Any], prefix: str, act_name: str, embed_features: int | None
) -> dict[str, Any]:
    """Return the arguments of a MappingNetwork whose layers are `<prefix><number>`, with the named activation."""
    pattern = re.compile(re.escape(prefix) + r"\d+/weight")
    num_layers = sum(pattern.fullmatch(name) is not None for name in variables)
    found: dict[str, Any] = {"num_layers": num_layers, "embed_features": embed_features}
    if num_layers > 0:
        found["layer_features"] = shape(variables, f"{prefix}0/weight")[1]
        found["activation"] = need(settings, act_name)
        found["lr_multiplier"] = need(settings, "mapping_lrmul")
    return found


def _load_variables(net: torch.nn.Module, variables: dict[str, np.ndarray], sources: Sources) -> Any:
    """Fill a network from variables; each variable must be used and each tensor, filters excepted, be filled."""
    used = set()
    with torch.no_grad():
        for key, tensor in net.state_dict(keep_vars=True).items():
            if key.endswith("resample_filter"):
                continue
            name, layout = sources[key]
            if name not in variables:
                raise ValueError(f"TensorFlow network cannot be converted: it has no variable {name!r}")
            value = torch.from_numpy(np.array(layout(variables[name]), dtype=np.float32))
            if value.shape != tensor.shape:
                raise ValueError(
                    f"TensorFlow network cannot be converted: {name!r} gives {list(value.shape)}, "
                    f"but {key} needs {list(tensor.shape)}"
                )
            tensor.copy_(value)
            used.add(name)
    left = sorted(name for name in set(variables) - used if not _UNUSED_VARIABLES.fullmatch(name))
    if left:
        raise ValueError(f"TensorFlow network cannot be converted: it has unknown variables {', '.join(left)}")
    return net.eval().requires_grad_(False)


def _generator_sources(resolutions: list[int], num_mapping_layers: int) -> Sources:
    """Map the state_dict keys of a Generator to variables."""
    sources: Sources = {
        "mapping.w_avg": ("dlatent_avg", same),
        "mapping.embed.weight": ("mapping/LabelEmbed/weight", dense),
        "mapping.embed.bias": ("mapping/LabelEmbed/bias", same),
        "synthesis.b4.const": ("synthesis/4x4/Const/const", without_batch),
    }
    for index in range(num_mapping_layers):
        sources[f"mapping.fc{index}.weight"] = (f"mapping/Dense{index}/weight", dense)
        sources[f"mapping.fc{index}.bias"] = (f"mapping/Dense{index}/bias", same)

    noise_index = 0
    for resolution in resolutions:
        block, scope = f"synthesis.b{resolution}", f"synthesis/{resolution}x{resolution}"
        layers: list[tuple[str, str, Layout]] = [("conv0", "Conv0_up", flipped_kernel), ("conv1", "Conv1", kernel)]
        if resolution == 4:
            layers = [("conv1", "Conv", kernel)]
        for layer, name, _layout in layers:
            sources[f"{block}.{layer}.noise_const"] = (f"synthesis/noise{noise_index}", plane)
            sources[f"{block}.{layer}.noise_strength"] = (f"{scope}/{name}/noise_strength", same)
            noise_index += 1
        for layer, name, layout in [*layers, ("torgb", "ToRGB", kernel)]:
            sources[f"{block}.{layer}.weight"] = (f"{scope}/{name}/weight", layout)
            sources[f"{block}.{layer}.bias"] = (f"{scope}/{name}/bias", same)
            sources[f"{block}.{layer}.affine.weight"] = (f"{scope}/{name}/mod_weight", dense)
            sources[f"{block}.{layer}.affine.bias"] = (f"{scope}/{name}/mod_bias", style_bias)
        sources[f"{block}.skip.weight"] = (f"{scope}/Skip/weight", flipped_kernel)
    return sources


def convert_tf_generator(tf_G: TFNetwork) -> networks.Generator:
    """Convert a TensorFlow generator with its mapping and synthesis components.

    Args:
        tf_G: Network as unpickled by `legacy.load_network_pkl`.

    Returns:
        Generator on the CPU, in evaluation mode, without gradients.

    Raises:
        ValueError: If something has no counterpart here or cannot be derived from the pickle; the text says what.
    """
    variables, settings = tf_G.all_variables(), tf_G.all_settings()
    resolutions = _resolutions(variables, "synthesis/")
    _name_last_rgb(variables, "synthesis/", "ToRGB", resolutions[-1])
    if not settings.get("normalize_latents", True):
        raise ValueError("TensorFlow network cannot be converted: it does not normalize its latents")

    c_dim, embed_features = _label_settings(variables, settings, "mapping/")
    mapping = _mapping_settings(variables, settings, "mapping/Dense", "mapping_nonlinearity", embed_features)
    last_dense = shape(variables, f"mapping/Dense{mapping['num_layers'] - 1}/weight")
    has_average = "dlatent_avg" in variables
    mapping["w_avg_beta"] = need(settings, "dlatent_avg_beta", "w_avg_beta") if has_average else None

    last = f"synthesis/{resolutions[-1]}x{resolutions[-1]}"
    channels = {4: shape(variables, "synthesis/4x4/Conv/weight")[3]}
    channels.update({r: shape(variables, f"synthesis/{r}x{r}/Conv1/weight")[3] for r in resolutions[1:]})
    synthesis = {
        **_channel_settings(channels),
        "num_fp16_res": settings.get("num_fp16_res", 0),
        "conv_clamp": settings.get("conv_clamp"),
        "architecture": _architecture(variables, "synthesis/", "ToRGB"),
        "resample_filter": need(settings, "resample_kernel"),
        "use_noise": any(name.endswith("/noise_strength") for name in variables),
        "activation": need(settings, "nonlinearity"),
    }
    G = networks.Generator(
        z_dim=shape(variables, "mapping/Dense0/weight")[0] - (embed_features or 0),
        c_dim=c_dim,
        w_dim=last_dense[1],
        img_resolution=resolutions[-1],
        img_channels=shape(variables, f"{last}/ToRGB/weight")[3],
        mapping_kwargs=mapping,
        synthesis_kwargs=synthesis,
    )
    return _load_variables(G, variables, _generator_sources(resolutions, mapping["num_layers"]))


def _discriminator_sources(resolutions: list[int], num_mapping_layers: int) -> Sources:
    """Map the state_dict keys of a Discriminator to variables."""
    sources: Sources = {
        "mapping.embed.weight": ("LabelEmbed/weight", dense),
        "mapping.embed.bias": ("LabelEmbed/bias", same),
    }
    for index in range(num_mapping_layers):
        sources[f"mapping.fc{index}.weight"] = (f"Mapping{index}/weight", dense)
        sources[f"mapping.fc{index}.bias"] = (f"Mapping{index}/bias", same)
    for resolution in resolutions:
        block, scope = f"b{resolution}", f"{resolution}x{resolution}"
        for layer, name in (("fromrgb", "FromRGB"), ("conv0", "Conv0"), ("conv1", "Conv1_down"), ("conv", "Conv")):
            sources[f"{block}.{layer}.weight"] = (f"{scope}/{name}/weight", kernel)
            sources[f"{block}.{layer}.bias"] = (f"{scope}/{name}/bias", same)
        sources[f"{block}.skip.weight"] = (f"{scope}/Skip/weight", kernel)
    for layer, name in (("fc", "4x4/Dense0"), ("out", "Output")):
        sources[f"b4.{layer}.weight"] = (f"{name}/weight", dense)
        sources[f"b4.{layer}.bias"] = (f"{name}/bias", same)
    return sources


def convert_tf_discriminator(tf_D: TFNetwork) -> networks.Discriminator:
    """Convert a TensorFlow discriminator.

    Args:
        tf_D: Network as unpickled by `legacy.load_network_pkl`.

    Returns:
        Discriminator on the CPU, in evaluation mode, without gradients.

    Raises:
        ValueError: If something has no counterpart here or cannot be derived from the pickle; the text says what.
    """
    variables, settings = tf_D.all_variables(), tf_D.all_settings()
    resolutions = _resolutions(variables, "")
    _name_last_rgb(variables, "", "FromRGB", resolutions[-1])
    c_dim, embed_features = _label_settings(variables, settings, "")
    mapping = _mapping_settings(variables, settings, "Mapping", "nonlinearity", embed_features)

    epilogue_conv = shape(variables, "4x4/Conv/weight")
    channels = {4: epilogue_conv[3]}
    channels.update({r: shape(variables, f"{r}x{r}/Conv0/weight")[2] for r in resolutions[1:]})
    activation = need(settings, "nonlinearity")
    clamp = settings.get("conv_clamp")
    epilogue = {
        "mbstd_group_size": need(settings, "mbstd_group_size"),
        "mbstd_num_channels": epilogue_conv[2] - channels[4],
        "activation": activation,
    }
    D = networks.Discriminator(
        c_dim=c_dim,
        img_resolution=resolutions[-1],
        img_channels=shape(variables, f"{resolutions[-1]}x{resolutions[-1]}/FromRGB/weight")[2],
        architecture=_architecture(variables, "", "FromRGB"),
        **_channel_settings(channels),
        num_fp16_res=settings.get("num_fp16_res", 0),
        conv_clamp=clamp,
        cmap_dim=shape(variables, "Output/weight")[1] if c_dim > 0 else None,
        block_kwargs={"activation": activation, "resample_filter": need(settings, "resample_kernel")},
        mapping_kwargs=mapping,
        epilogue_kwargs=epilogue,
    )
    return _load_variables(D, variables, _discriminator_sources(resolutions, mapping["num_layers"]))
