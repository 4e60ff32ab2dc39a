"""What a file may hold of how networks are built: known arguments within bounds, so that none runs code.

Each pair is of arguments that must be there and arguments that may, for ``json_files.fields``.
"""

from typing import Any

from layered_plugin.json_files import Rule, choice, fields, flag, list_of, maybe, number

COUNT, SHARE, WEIGHT = number(1, 2**20, whole=True), number(0, 1), number(0)
FROM_ZERO = number(0, 2**31, whole=True)
SIDE = number(4, 2**13, whole=True)  # Of pictures and networks, in pixels.

_WIDTH, _DEPTH = number(1, 2**14, whole=True), number(1, 64, whole=True)
_ACTIVATION = choice("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")

_BLOCK: dict[str, Rule] = dict(
    fp16_channels_last=flag, half_dtype=choice("bfloat16", "float16"), activation=_ACTIVATION,
    resample_filter=list_of(number()), architecture=choice("orig", "skip", "resnet"), use_noise=flag)

_WIDTHS: dict[str, Rule] = dict(channel_base=number(1, 2**24, whole=True), channel_max=_WIDTH,
                                num_fp16_res=number(0, 16, whole=True), conv_clamp=maybe(WEIGHT))

_MAPPING = fields({}, dict(num_layers=_DEPTH, embed_features=maybe(_WIDTH), layer_features=maybe(_WIDTH),
                           activation=_ACTIVATION, lr_multiplier=WEIGHT, w_avg_beta=maybe(SHARE)))

GENERATOR_FIELDS: tuple[dict[str, Rule], dict[str, Any]] = (
    dict(z_dim=_WIDTH, w_dim=_WIDTH),
    dict(generator=choice("separate", "single"), mapping=choice("separate", "shared"), num_objects=_DEPTH,
         mapping_kwargs=_MAPPING, synthesis_kwargs=fields({}, _WIDTHS | _BLOCK)))

DISCRIMINATOR_FIELDS: tuple[dict[str, Rule], dict[str, Any]] = ({}, dict(
    _WIDTHS, architecture=_BLOCK["architecture"], cmap_dim=maybe(FROM_ZERO),
    block_kwargs=fields({}, dict(_BLOCK, freeze_layers=FROM_ZERO)), mapping_kwargs=_MAPPING,
    epilogue_kwargs=fields({}, dict(mbstd_group_size=maybe(COUNT), mbstd_num_channels=FROM_ZERO, cmap_dim=FROM_ZERO,
                                    activation=_ACTIVATION))))

_SHAPE: dict[str, Rule] = dict(c_dim=number(0, 100_000, whole=True), img_resolution=SIDE,
                               img_channels=number(1, 4, whole=True))

# Of networks in files without code: by name, each with its shape.
NETWORKS: dict[str, Rule] = dict(
    G=fields(GENERATOR_FIELDS[0] | _SHAPE, GENERATOR_FIELDS[1]),
    G_ema=fields(GENERATOR_FIELDS[0] | _SHAPE, GENERATOR_FIELDS[1]),
    D=fields(DISCRIMINATOR_FIELDS[0] | _SHAPE, DISCRIMINATOR_FIELDS[1]),
    E=fields(dict(resolution=SIDE, num_ws=_DEPTH, w_dim=_WIDTH), dict(max_shift=number(0, 0.5), from_mean=flag)),
    unet=fields(dict(channels=list_of(number(1, 4096, whole=True), sizes=(3, 4))),
                dict(deep=number(0, 16, whole=True), num_objects=_DEPTH)))
