"""The networks of StyleGAN2: what maps latent codes, draws images and judges them.

Sources: Karras et al. 2020 (StyleGAN2, arXiv:1912.04958) and 2020 (ADA, arXiv:2006.06676). Classes, attributes and
state_dict keys have the names that the interface of StyleGAN2-ADA gives them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_resample, upfirdn2d

try:
    from torch_utils.ops import scaled_bias_act
except ImportError:  # An official checkout has no such operation, and snapshots carry this source into one.
    scaled_bias_act = None

FIR_TAPS = [1, 3, 3, 1]  # Default low-pass filter of every resampling layer.
NO_KWARGS: dict[str, Any] = {}
ARCHITECTURES = ("orig", "skip", "resnet")
HALF_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
NOISE_MODES = ("random", "const", "none")
KEEP_PIXELS = dict(up=1, down=1, padding=0)  # Convolution with one output for each pixel, if the kernel has one.
HALF_POWER = math.sqrt(0.5)  # Gain of both branches of a residual sum: keeps the variance.


def _check_architecture(architecture: str) -> None:
    if architecture not in ARCHITECTURES:
        raise ValueError(f"Expected argument `architecture` to be one of {ARCHITECTURES}, but got {architecture!r}.")


def _check_half_dtype(half_dtype: str) -> None:
    if half_dtype not in HALF_DTYPES:
        raise ValueError(f"Expected argument `half_dtype` to be one of {tuple(HALF_DTYPES)}, but got {half_dtype!r}.")


def _log2_resolution(img_resolution: int) -> int:
    log2 = int(math.log2(img_resolution)) if img_resolution >= 4 else 0
    if log2 == 0 or img_resolution != 2**log2:
        raise ValueError(
            f"Expected argument `img_resolution` to be a power of two of at least 4, but got {img_resolution}."
        )
    return log2


def _lowest_half_resolution(log2_resolution: int, num_fp16_res: int) -> int:
    """Smallest block resolution that runs in half precision; above the image's own if there is none."""
    return max(2 ** (log2_resolution + 1 - num_fp16_res), 8)


def _channels(resolutions: Sequence[int], channel_base: int, channel_max: int) -> dict[int, int]:
    """Number of feature maps at each resolution."""
    return {res: min(channel_base // res, channel_max) for res in resolutions}


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _placement(block: torch.nn.Module, force_fp32: bool, device: torch.device) -> dict[str, Any]:
    """Keyword arguments for `Tensor.to`: the number format and memory layout a block computes in."""
    if force_fp32 or not block.use_fp16:
        # Strides only: convolutions on the CPU are faster in channels_last, values are the same.
        return dict(dtype=torch.float32, memory_format=_layout(device.type == "cpu"))
    return dict(dtype=HALF_DTYPES[block.half_dtype], memory_format=_layout(block.channels_last))


def _scaled_clamp(conv_clamp: float | None, gain: float) -> float | None:
    return None if conv_clamp is None else conv_clamp * gain


def _scaled_bias_act(
    x: Tensor, scale: Tensor | None = None, noise: Tensor | None = None, b: Tensor | None = None, **activation: Any
) -> Tensor:
    """bias_act(x * scale + noise, b) in one pass where the base can do that; see `scaled_bias_act`."""
    if scaled_bias_act is not None:
        return scaled_bias_act.scaled_bias_act(x, scale, noise, b, **activation)
    if scale is not None:
        x = x * scale.to(x.dtype)[:, :, None, None]
    if noise is not None:
        x = x + noise.to(x.dtype)
    return bias_act.bias_act(x, None if b is None else b.to(x.dtype), **activation)


def _require_shape(name: str, tensor: Tensor | None, *sizes: int | None) -> None:
    """Raise ValueError unless an argument has these sizes, of which None fits any."""
    try:
        if tensor is not None:
            return misc.assert_shape(tensor, sizes)
    except AssertionError:
        pass
    wanted = ["any" if size is None else size for size in sizes]
    got = None if tensor is None else list(tensor.shape)
    raise ValueError(f"Expected argument `{name}` to be of shape {wanted}, but got {got}")


def _new_kernels(out_channels: int, in_channels: int, kernel_size: int, channels_last: bool) -> Tensor:
    """Normal values, [O, I, k, k]."""
    return torch.randn([out_channels, in_channels, kernel_size, kernel_size]).to(memory_format=_layout(channels_last))


def _he_gain(in_channels: int, kernel_size: int) -> float:
    """1 / square root of the number of products in a sum: keeps the variance of a convolution's input."""
    return 1 / math.sqrt(in_channels * kernel_size**2)


def normalize_2nd_moment(x: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Divide by the root mean square over one axis.

    Args:
        x: Any shape, floating point.
        dim: Axis of the mean.
        eps: Added to the mean square, so that zeros stay zeros.

    Returns:
        Tensor of the shape of x with a mean square of one along dim.
    """
    return x * (x.square().mean(dim=dim, keepdim=True) + eps).rsqrt()


def _demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """1 / norm of every modulated output kernel, [N, O], in the weight's dtype.

    The squared norm is a product of two small matrices, so the [N, O, I, k, k] weights are never built.
    """
    kernel_energy = weight.square().sum(dim=[2, 3])  # [O, I]
    return (styles.square() @ kernel_energy.t() + 1e-8).rsqrt()


def _pointwise_modconv(x: Tensor, weight: Tensor, styles: Tensor, demod: Tensor | None) -> Tensor:
    """1x1 modulated convolution as one matrix product per sample, without a modulated copy of x."""
    kernels = weight.flatten(1) * styles.unsqueeze(1)  # [N, O, I]
    if demod is not None:
        kernels = kernels * demod.unsqueeze(2)
    return (kernels.to(x.dtype) @ x.flatten(2)).unflatten(2, x.shape[2:])


def _grouped_modconv(x: Tensor, weight: Tensor, styles: Tensor, demod: Tensor | None, **resample: Any) -> Tensor:
    """Modulated convolution with one group of kernels per sample."""
    batch = x.shape[0]
    kernels = weight * styles[:, None, :, None, None]  # [N, O, I, k, k]
    if demod is not None:
        kernels = kernels * demod[:, :, None, None, None]
    x = x.flatten(0, 1).unsqueeze(0)  # [1, N * I, H, W]
    x = conv2d_resample.conv2d_resample(x, kernels.flatten(0, 1).to(x.dtype), groups=batch, **resample)
    return x.unflatten(1, (batch, -1)).squeeze(0)


def _modconv(
    x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool, fused_modconv: bool, resample: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """`modulated_conv2d` without noise, up to a scale [N, O] of the result that is left to the caller; None = 1.

    `resample` holds further arguments of `conv2d_resample`; empty, the convolution neither pads nor resamples.
    """
    in_channels, *kernel = weight.shape[1:]
    _require_shape("styles", styles, x.shape[0], in_channels)
    _require_shape("x", x, styles.shape[0], in_channels, None, None)

    # float16 overflows easily: bring weights and styles to unit range first. Both factors cancel in the demodulation.
    if demodulate and x.dtype == torch.float16:
        fan_in = in_channels * math.prod(kernel)
        weight = weight / (weight.abs().amax(dim=[1, 2, 3], keepdim=True) * math.sqrt(fan_in))
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    demod = _demodulation(weight, styles) if demodulate else None

    if kernel == [1, 1] and all(resample.get(key, keep) == keep for key, keep in KEEP_PIXELS.items()):
        return _pointwise_modconv(x, weight, styles, demod), None
    if fused_modconv and (x.shape[0] == 1 or x.device.type != "cpu"):
        # On the CPU a grouped convolution is slower than a plain one with two extra products, so batches skip it.
        return _grouped_modconv(x, weight, styles, demod, **resample), None
    x = _scaled_bias_act(x, styles)
    return conv2d_resample.conv2d_resample(x, weight.to(x.dtype), **resample), demod


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused_modconv: bool = True,
) -> Tensor:
    """Convolution whose kernels are scaled per sample and input channel, then normalised ("demodulated").

    Args:
        x: Feature maps, [N, I, H, W], floating point.
        weight: Shared kernels, [O, I, k, k].
        styles: Scale of each input channel, [N, I].
        noise: Added to the result; [N, 1, H, W], [1, 1, H, W] or [H, W] of the result; None adds nothing.
        up: Integer up-sampling factor.
        down: Integer down-sampling factor.
        padding: Padding of the up-sampled input in pixels.
        resample_filter: Result of `upfirdn2d.setup_filter`; None resamples without a filter.
        demodulate: Scale every output kernel of every sample to unit norm.
        flip_weight: True correlates, False convolves with spatially flipped kernels.
        fused_modconv: True allows one grouped convolution where it is faster, False scales input and output of a
            plain one. The result is the same up to rounding.

    Returns:
        Feature maps in the dtype of x, [N, O, H * up / down, W * up / down].

    Raises:
        ValueError: If the shapes of x, weight and styles do not agree.
    """
    resample = dict(f=resample_filter, up=up, down=down, padding=padding, flip_weight=flip_weight)
    x, scale = _modconv(x, weight, styles, demodulate, fused_modconv, resample)
    return x if scale is None and noise is None else _scaled_bias_act(x, scale, noise)


@persistence.persistent_class
class FullyConnectedLayer(torch.nn.Module):
    """Linear layer with run-time weight scaling: act(x W^T * weight_gain + bias * bias_gain)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,  # Add a learned bias before the activation?
        activation: str = "linear",  # Key of bias_act.activation_funcs.
        lr_multiplier: float = 1,  # Effective learning rate relative to the optimiser's.
        bias_init: float = 0,  # Initial value of every bias, before bias_gain.
    ) -> None:
        super().__init__()
        self.activation, self.bias_gain = activation, lr_multiplier
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        weight = torch.randn([out_features, in_features]) / lr_multiplier
        self.register_parameter("weight", torch.nn.Parameter(weight))
        start = torch.nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.register_parameter("bias", start)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_features] to [N, out_features] in the dtype of x."""
        weight = self.weight.to(x.dtype).t()
        bias = None if self.bias is None else self.bias.to(x.dtype)
        # The gains ride along in the matrix product, which saves a pass over the weights.
        if bias is not None and (x.ndim == 2 or self.activation == "linear"):
            x = torch.addmm(bias, x, weight, beta=self.bias_gain, alpha=self.weight_gain)
            return x if self.activation == "linear" else bias_act.bias_act(x, act=self.activation)
        x = (x * self.weight_gain) @ weight
        return bias_act.bias_act(x, None if bias is None else bias * self.bias_gain, act=self.activation)


@persistence.persistent_class
class Conv2dLayer(torch.nn.Module):
    """Convolution with run-time weight scaling, optional resampling, bias and activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,  # Add a learned bias before the activation?
        activation: str = "linear",  # Key of bias_act.activation_funcs.
        up: int = 1,  # Integer up-sampling factor.
        down: int = 1,  # Integer down-sampling factor.
        resample_filter: Sequence[float] | None = FIR_TAPS,  # Low-pass taps, None = no filter.
        conv_clamp: float | None = None,  # Limit of the output at gain 1, None = disable.
        channels_last: bool = False,  # Store the weight in channels_last layout?
        trainable: bool = True,  # False keeps weight and bias as buffers.
    ) -> None:
        super().__init__()
        self.up, self.down, self.padding = up, down, kernel_size // 2
        self.activation, self.conv_clamp = activation, conv_clamp
        self.weight_gain = _he_gain(in_channels, kernel_size)
        self.act_gain = bias_act.activation_funcs[activation].def_gain
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(resample_filter))
        weight = _new_kernels(out_channels, in_channels, kernel_size, channels_last)
        for name, tensor in dict(weight=weight, bias=torch.zeros([out_channels]) if bias else None).items():
            if trainable:
                self.register_parameter(name, None if tensor is None else torch.nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def forward(self, x: Tensor, gain: float = 1) -> Tensor:
        """Map [N, I, H, W] to [N, O, H * up / down, W * up / down]; gain multiplies the output and its clamp."""
        x = conv2d_resample.conv2d_resample(
            x=x,
            w=(self.weight * self.weight_gain).to(x.dtype),
            f=self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,
        )
        return bias_act.bias_act(
            x,
            None if self.bias is None else self.bias.to(x.dtype),
            act=self.activation,
            gain=self.act_gain * gain,
            clamp=_scaled_clamp(self.conv_clamp, gain),
        )


@persistence.persistent_class
class MappingNetwork(torch.nn.Module):
    """Fully connected network from a latent code and a label to intermediate latents w."""

    def __init__(
        self,
        z_dim: int,  # Size of the latent code, 0 = none.
        c_dim: int,  # Size of the label, 0 = none.
        w_dim: int,  # Size of an intermediate latent.
        num_ws: int | None,  # Copies of w to return, None = one, without that axis.
        num_layers: int = 8,
        embed_features: int | None = None,  # Size of the label embedding, None = w_dim.
        layer_features: int | None = None,  # Size of the hidden layers, None = w_dim.
        activation: str = "lrelu",  # Key of bias_act.activation_funcs.
        lr_multiplier: float = 0.01,  # Relative learning rate of the layers.
        w_avg_beta: float | None = 0.995,  # Decay per training batch of the running mean of w, None = disable.
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.num_ws, self.num_layers, self.w_avg_beta = num_ws, num_layers, w_avg_beta
        self.tracks_mean = num_ws is not None and w_avg_beta is not None
        if self.tracks_mean:
            self.register_buffer("w_avg", torch.zeros([w_dim]))

        features = z_dim
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, w_dim if embed_features is None else embed_features)
            features += w_dim if embed_features is None else embed_features
        hidden = w_dim if layer_features is None else layer_features
        for idx in range(num_layers):
            out_features = hidden if idx < num_layers - 1 else w_dim
            layer = FullyConnectedLayer(features, out_features, activation=activation, lr_multiplier=lr_multiplier)
            self.add_module(f"fc{idx}", layer)
            features = out_features

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        skip_w_avg_update: bool = False,
    ) -> Tensor:
        """Map latent codes to intermediate latents.

        Args:
            z: Latent codes, [N, z_dim]; ignored if z_dim is 0.
            c: Labels, [N, c_dim]; ignored if c_dim is 0.
            truncation_psi: Distance from the mean latent, 1 leaves w as it is and 0 gives the mean.
            truncation_cutoff: Number of leading latents to truncate, None truncates all.
            skip_w_avg_update: Leave the running mean alone in training mode.

        Returns:
            Intermediate latents, [N, num_ws, w_dim], or [N, w_dim] if num_ws is None.

        Raises:
            ValueError: If truncation is asked of a network that keeps no running mean, or z or c has a wrong shape.
        """
        if truncation_psi != 1 and not self.tracks_mean:
            raise ValueError(
                f"Expected argument `truncation_psi` to be 1 without a running mean of w, but got {truncation_psi}."
            )
        w = self._normalized_inputs(z, c)
        for idx in range(self.num_layers):
            w = self.get_submodule(f"fc{idx}")(w)
        if self.tracks_mean and self.training and not skip_w_avg_update:
            self.w_avg.lerp_(w.detach().mean(dim=0), 1 - self.w_avg_beta)
        if self.num_ws is None:
            return w
        ws = w.unsqueeze(1).expand(-1, self.num_ws, -1)
        if truncation_psi == 1:
            return ws.contiguous()
        # A cutoff of None is also the slice end that selects everything.
        near_mean = self.w_avg.lerp(ws[:, :truncation_cutoff], truncation_psi)
        return torch.cat([near_mean, ws[:, near_mean.shape[1] :]], dim=1)

    def _normalized_inputs(self, z: Tensor | None, c: Tensor | None) -> Tensor:
        """Latent code and embedded label, each of unit power, side by side."""
        inputs = []
        if self.z_dim > 0:
            _require_shape("z", z, None, self.z_dim)
            inputs.append(normalize_2nd_moment(z.float()))
        if self.c_dim > 0:
            _require_shape("c", c, None, self.c_dim)
            inputs.append(normalize_2nd_moment(self.embed(c.float())))
        return torch.cat(inputs, dim=1)


@persistence.persistent_class
class SynthesisLayer(torch.nn.Module):
    """Modulated convolution followed by noise, bias and activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,  # Size of an intermediate latent.
        resolution: int,  # Side of the output in pixels.
        kernel_size: int = 3,
        up: int = 1,  # Integer up-sampling factor.
        use_noise: bool = True,  # Add noise of learned strength?
        activation: str = "lrelu",  # Key of bias_act.activation_funcs.
        resample_filter: Sequence[float] | None = FIR_TAPS,  # Low-pass taps, None = no filter.
        conv_clamp: float | None = None,  # Limit of the output at gain 1, None = disable.
        channels_last: bool = False,  # Store the weight in channels_last layout?
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.padding = resolution, up, kernel_size // 2
        self.use_noise, self.activation, self.conv_clamp = use_noise, activation, conv_clamp
        self.act_gain = bias_act.activation_funcs[activation].def_gain
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(resample_filter))

        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        learned = dict(weight=_new_kernels(out_channels, in_channels, kernel_size, channels_last))
        if use_noise:
            self.register_buffer("noise_const", torch.randn([resolution, resolution]))
            learned["noise_strength"] = torch.zeros([])
        learned["bias"] = torch.zeros([out_channels])
        for name, start in learned.items():
            self.register_parameter(name, torch.nn.Parameter(start))

    def forward(
        self, x: Tensor, w: Tensor, noise_mode: str = "random", fused_modconv: bool = True, gain: float = 1
    ) -> Tensor:
        """Apply the layer.

        Args:
            x: Feature maps, [N, I, resolution / up, resolution / up].
            w: Intermediate latents, [N, w_dim].
            noise_mode: 'random' draws new noise, 'const' uses the stored one, 'none' adds none.
            fused_modconv: See `modulated_conv2d`.
            gain: Multiplies the output and its clamp.

        Returns:
            Feature maps, [N, O, resolution, resolution].

        Raises:
            ValueError: If noise_mode is unknown or x has a wrong shape.
        """
        side = self.resolution // self.up
        _require_shape("x", x, None, self.weight.shape[1], side, side)
        noise = self._noise(noise_mode, x.shape[0], x.device)
        resample = dict(f=self.resample_filter, up=self.up, padding=self.padding, flip_weight=self.up == 1)
        x, scale = _modconv(x, self.weight, self.affine(w), True, fused_modconv, resample)
        return _scaled_bias_act(
            x,
            scale,
            noise,
            self.bias,
            act=self.activation,
            gain=self.act_gain * gain,
            clamp=_scaled_clamp(self.conv_clamp, gain),
        )

    def _noise(self, noise_mode: str, batch: int, device: torch.device) -> Tensor | None:
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"Expected argument `noise_mode` to be one of {NOISE_MODES}, but got {noise_mode!r}.")
        if not self.use_noise or noise_mode == "none":
            return None
        if noise_mode == "const":
            return self.noise_const * self.noise_strength
        return torch.randn([batch, 1, self.resolution, self.resolution], device=device) * self.noise_strength


@persistence.persistent_class
class ToRGBLayer(torch.nn.Module):
    """Modulated convolution to image channels, without demodulation, noise and activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,  # Size of an intermediate latent.
        kernel_size: int = 1,
        conv_clamp: float | None = None,  # Limit of the output, None = disable.
        channels_last: bool = False,  # Store the weight in channels_last layout?
    ) -> None:
        super().__init__()
        self.conv_clamp, self.weight_gain = conv_clamp, _he_gain(in_channels, kernel_size)
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(_new_kernels(out_channels, in_channels, kernel_size, channels_last))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))

    def forward(self, x: Tensor, w: Tensor, fused_modconv: bool = True) -> Tensor:
        """Map feature maps [N, I, H, W] and latents [N, w_dim] to image channels [N, O, H, W]."""
        rgb, _scale = _modconv(x, self.weight, self.affine(w) * self.weight_gain, False, fused_modconv, {})
        return bias_act.bias_act(rgb, self.bias.to(rgb.dtype), clamp=self.conv_clamp)


@persistence.persistent_class
class SynthesisBlock(torch.nn.Module):
    """All synthesis layers of one resolution."""

    def __init__(
        self,
        in_channels: int,  # 0 = first block, which starts from a learned constant.
        out_channels: int,
        w_dim: int,  # Size of an intermediate latent.
        resolution: int,  # Side of the output in pixels.
        img_channels: int,
        is_last: bool,
        architecture: str = "skip",  # 'orig', 'skip' or 'resnet'.
        resample_filter: Sequence[float] | None = FIR_TAPS,  # Low-pass taps, None = no filter.
        conv_clamp: float | None = None,  # Limit of each layer's output, None = disable.
        use_fp16: bool = False,  # Compute in half precision?
        fp16_channels_last: bool = False,  # Use channels_last layout in half precision?
        *,
        half_dtype: str = "float16",  # Half precision format, 'float16' or 'bfloat16'.
        **layer_kwargs: Any,  # Further arguments of conv0 and conv1.
    ) -> None:
        _check_architecture(architecture)
        _check_half_dtype(half_dtype)
        super().__init__()
        self.resolution, self.architecture, self.is_last = resolution, architecture, is_last
        self.in_channels, self.img_channels, self.w_dim = in_channels, img_channels, w_dim
        self.use_fp16, self.half_dtype, self.channels_last = use_fp16, half_dtype, use_fp16 and fp16_channels_last
        self.num_conv = 2 if in_channels else 1
        self.num_torgb = int(is_last or architecture == "skip")
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(resample_filter))

        shared = dict(conv_clamp=conv_clamp, channels_last=self.channels_last)
        doubling = dict(up=2, resample_filter=resample_filter)
        layer_kwargs = dict(w_dim=w_dim, resolution=resolution, **shared, **layer_kwargs)
        if in_channels:
            self.conv0 = SynthesisLayer(in_channels, out_channels, **doubling, **layer_kwargs)
        else:
            self.const = torch.nn.Parameter(torch.randn([out_channels, resolution, resolution]))
        self.conv1 = SynthesisLayer(out_channels, out_channels, **layer_kwargs)
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim=w_dim, **shared)
        if in_channels and architecture == "resnet":
            self.skip = Conv2dLayer(
                in_channels, out_channels, kernel_size=1, bias=False, channels_last=self.channels_last, **doubling
            )

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        ws: Tensor,
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        **layer_kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Apply the block.

        Args:
            x: Feature maps of the previous block, [N, in_channels, resolution / 2, resolution / 2]; unused if
                in_channels is 0.
            img: Image so far, [N, img_channels, resolution / 2, resolution / 2], float32, or None.
            ws: Intermediate latents, [N, num_conv + num_torgb, w_dim].
            force_fp32: Compute in float32 whatever use_fp16 says.
            fused_modconv: See `modulated_conv2d`; None chooses by mode, dtype and batch size.
            layer_kwargs: Further arguments of both convolution layers, such as noise_mode.

        Returns:
            Feature maps [N, out_channels, resolution, resolution] and the image so far, float32, or None.

        Raises:
            ValueError: If an argument has a wrong shape.
        """
        _require_shape("ws", ws, None, self.num_conv + self.num_torgb, self.w_dim)
        placement = _placement(self, force_fp32, ws.device)
        if fused_modconv is None:
            fused_modconv = not self.training and (placement["dtype"] == torch.float32 or ws.shape[0] == 1)
        layer_kwargs = dict(fused_modconv=fused_modconv, **layer_kwargs)
        x = self._features(x, ws, placement, layer_kwargs)

        if img is not None:
            half = self.resolution // 2
            _require_shape("img", img, None, self.img_channels, half, half)
            img = upfirdn2d.upsample2d(img, self.resample_filter)
        if self.num_torgb:
            rgb = self.torgb(x, ws[:, self.num_conv], fused_modconv=fused_modconv)
            rgb = rgb.to(dtype=torch.float32, memory_format=torch.contiguous_format)
            img = rgb if img is None else img + rgb
        return x, img

    def _features(
        self, x: Tensor | None, ws: Tensor, placement: dict[str, Any], layer_kwargs: dict[str, Any]
    ) -> Tensor:
        if self.in_channels == 0:
            start = self.const.expand(ws.shape[0], -1, -1, -1).to(**placement)
            return self.conv1(start, ws[:, 0], **layer_kwargs)
        _require_shape("x", x, None, self.in_channels, self.resolution // 2, self.resolution // 2)
        x = x.to(**placement)
        if self.architecture != "resnet":
            return self.conv1(self.conv0(x, ws[:, 0], **layer_kwargs), ws[:, 1], **layer_kwargs)
        shortcut = self.skip(x, gain=HALF_POWER)
        return shortcut + self.conv1(self.conv0(x, ws[:, 0], **layer_kwargs), ws[:, 1], gain=HALF_POWER, **layer_kwargs)


@persistence.persistent_class
class SynthesisNetwork(torch.nn.Module):
    """Stack of synthesis blocks from 4x4 to the image resolution."""

    def __init__(
        self,
        w_dim: int,  # Size of an intermediate latent.
        img_resolution: int,  # Side of the image in pixels, a power of two.
        img_channels: int,
        channel_base: int = 32768,  # Channels at resolution r: channel_base / r,
        channel_max: int = 512,  # but no more than this.
        num_fp16_res: int = 0,  # Number of highest resolutions in half precision.
        **block_kwargs: Any,  # Further arguments of every block.
    ) -> None:
        super().__init__()
        self.w_dim, self.img_channels, self.img_resolution = w_dim, img_channels, img_resolution
        self.img_resolution_log2 = _log2_resolution(img_resolution)
        self.block_resolutions = [2**log2 for log2 in range(2, self.img_resolution_log2 + 1)]

        widths = _channels(self.block_resolutions, channel_base, channel_max)
        half_from = _lowest_half_resolution(self.img_resolution_log2, num_fp16_res)
        self.num_ws = 1  # The last torgb has a latent of its own.
        for res in self.block_resolutions:
            block = SynthesisBlock(
                widths.get(res // 2, 0),
                widths[res],
                w_dim=w_dim,
                resolution=res,
                img_channels=img_channels,
                is_last=res == img_resolution,
                use_fp16=res >= half_from,
                **block_kwargs,
            )
            self.add_module(f"b{res}", block)
            self.num_ws += block.num_conv

    def forward(self, ws: Tensor, **block_kwargs: Any) -> Tensor:
        """Map intermediate latents [N, num_ws, w_dim] to float32 images [N, img_channels, R, R]."""
        _require_shape("ws", ws, None, self.num_ws, self.w_dim)
        ws = ws.to(torch.float32)
        x = img = None
        first = 0
        for res in self.block_resolutions:
            block = self.get_submodule(f"b{res}")
            # The cursor skips convolutions only: torgb shares its latent with the next block's first layer.
            x, img = block(x, img, ws.narrow(1, first, block.num_conv + block.num_torgb), **block_kwargs)
            first += block.num_conv
        return img


@persistence.persistent_class
class Generator(torch.nn.Module):
    """Mapping and synthesis network."""

    def __init__(
        self,
        z_dim: int,  # Size of the latent code.
        c_dim: int,  # Size of the label, 0 = none.
        w_dim: int,  # Size of an intermediate latent.
        img_resolution: int,  # Side of the image in pixels, a power of two.
        img_channels: int,
        mapping_kwargs: Mapping[str, Any] = NO_KWARGS,  # Further arguments of MappingNetwork.
        synthesis_kwargs: Mapping[str, Any] = NO_KWARGS,  # Further arguments of SynthesisNetwork.
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_channels, self.img_resolution = img_channels, img_resolution
        image = dict(img_channels=img_channels, img_resolution=img_resolution)
        self.synthesis = SynthesisNetwork(w_dim=w_dim, **image, **synthesis_kwargs)
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **mapping_kwargs)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        **synthesis_kwargs: Any,
    ) -> Tensor:
        """Generate images.

        Args:
            z: Latent codes, [N, z_dim].
            c: Labels, [N, c_dim]; None is allowed if c_dim is 0.
            truncation_psi: See `MappingNetwork.forward`.
            truncation_cutoff: See `MappingNetwork.forward`.
            synthesis_kwargs: noise_mode, force_fp32, fused_modconv; see `SynthesisBlock.forward`.

        Returns:
            Images, [N, img_channels, R, R], float32, nominally in [-1, 1] but not clamped.
        """
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, **synthesis_kwargs)


@persistence.persistent_class
class DiscriminatorBlock(torch.nn.Module):
    """All discriminator layers of one resolution; halves the resolution."""

    def __init__(
        self,
        in_channels: int,  # 0 = first block.
        tmp_channels: int,  # Channels between the layers.
        out_channels: int,
        resolution: int,  # Side of the input in pixels.
        img_channels: int,
        first_layer_idx: int,  # Number of layers before this block, for freeze_layers.
        architecture: str = "resnet",  # 'orig', 'skip' or 'resnet'.
        activation: str = "lrelu",  # Key of bias_act.activation_funcs.
        resample_filter: Sequence[float] | None = FIR_TAPS,  # Low-pass taps, None = no filter.
        conv_clamp: float | None = None,  # Limit of each layer's output, None = disable.
        use_fp16: bool = False,  # Compute in half precision?
        fp16_channels_last: bool = False,  # Use channels_last layout in half precision?
        freeze_layers: int = 0,  # Number of leading layers of the whole network to freeze.
        *,
        half_dtype: str = "float16",  # Half precision format, 'float16' or 'bfloat16'.
    ) -> None:
        _check_architecture(architecture)
        _check_half_dtype(half_dtype)
        if in_channels not in (0, tmp_channels):
            raise ValueError(
                f"Expected argument `in_channels` to be 0 or `tmp_channels` = {tmp_channels}, but got {in_channels}."
            )
        super().__init__()
        self.resolution, self.architecture, self.first_layer_idx = resolution, architecture, first_layer_idx
        self.in_channels, self.img_channels = in_channels, img_channels
        self.use_fp16, self.half_dtype, self.channels_last = use_fp16, half_dtype, use_fp16 and fp16_channels_last
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(resample_filter))

        active = dict(activation=activation, conv_clamp=conv_clamp)
        halving = dict(down=2, resample_filter=resample_filter)
        layers = {}  # Name -> (in, out, kernel_size, further arguments), in order of construction.
        if in_channels == 0 or architecture == "skip":
            layers["fromrgb"] = (img_channels, tmp_channels, 1, active)
        layers["conv0"] = (tmp_channels, tmp_channels, 3, active)
        layers["conv1"] = (tmp_channels, out_channels, 3, active | halving)
        if architecture == "resnet":
            layers["skip"] = (tmp_channels, out_channels, 1, dict(bias=False) | halving)
        self.num_layers = len(layers)
        for idx, (name, (*sizes, kwargs)) in enumerate(layers.items(), start=first_layer_idx):
            layer = Conv2dLayer(*sizes, trainable=idx >= freeze_layers, channels_last=self.channels_last, **kwargs)
            self.add_module(name, layer)

    def forward(
        self, x: Tensor | None, img: Tensor | None, force_fp32: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Apply the block.

        Args:
            x: Feature maps, [N, in_channels, resolution, resolution], or None in the first block.
            img: Image, [N, img_channels, resolution, resolution]; read by the first block and for 'skip'.
            force_fp32: Compute in float32 whatever use_fp16 says.

        Returns:
            Feature maps [N, out_channels, resolution / 2, resolution / 2] and, for 'skip' only, the halved image.

        Raises:
            ValueError: If an argument has a wrong shape.
        """
        sides = (self.resolution, self.resolution)
        if x is not None:
            _require_shape("x", x, None, self.in_channels, *sides)
            x = x.to(**_placement(self, force_fp32, x.device))
        if self.in_channels == 0 or self.architecture == "skip":
            _require_shape("img", img, None, self.img_channels, *sides)
            img = img.to(**_placement(self, force_fp32, img.device))
            seen = self.fromrgb(img)
            x = seen if x is None else x + seen
            img = upfirdn2d.downsample2d(img, self.resample_filter) if self.architecture == "skip" else None

        if self.architecture == "resnet":
            shortcut = self.skip(x, gain=HALF_POWER)
            return shortcut + self.conv1(self.conv0(x), gain=HALF_POWER), img
        return self.conv1(self.conv0(x)), img


@persistence.persistent_class
class MinibatchStdLayer(torch.nn.Module):
    """Append the standard deviation within groups of samples as further channels."""

    def __init__(self, group_size: int | None, num_channels: int = 1) -> None:
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x: Tensor) -> Tensor:
        """Append statistics of sample groups.

        Args:
            x: Feature maps, [N, C, H, W].

        Returns:
            Feature maps, [N, C + num_channels, H, W]. Sample n is in group n mod (N / group size).

        Raises:
            ValueError: If N is no multiple of the group size or C none of num_channels.
        """
        batch, channels, height, width = x.shape
        group = batch if self.group_size is None else min(self.group_size, batch)
        if batch % group != 0 or channels % self.num_channels != 0:
            raise ValueError(
                f"Expected argument `x` to have a batch that is a multiple of {group} and channels that are a"
                f" multiple of {self.num_channels}, but got shape {tuple(x.shape)}."
            )
        members = x.reshape(group, batch // group, self.num_channels, -1, height, width)  # [G, M, F, c, H, W]
        # Not Tensor.var, which is slow along the outermost axis.
        variance = (members - members.mean(dim=0)).square().mean(dim=0)
        deviation = (variance + 1e-8).sqrt().mean(dim=[2, 3, 4])  # [M, F]
        features = deviation.repeat(group, 1)[:, :, None, None].expand(-1, -1, height, width)
        return torch.cat([x, features], dim=1)


@persistence.persistent_class
class DiscriminatorEpilogue(torch.nn.Module):
    """Last layers of the discriminator, from feature maps to one logit per sample; always in float32."""

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,  # Size of the mapped label, 0 = none.
        resolution: int,  # Side of the input in pixels.
        img_channels: int,
        architecture: str = "resnet",  # 'orig', 'skip' or 'resnet'.
        mbstd_group_size: int | None = 4,  # Group size of the statistics, None = whole batch.
        mbstd_num_channels: int = 1,  # Channels of the statistics, 0 = disable.
        activation: str = "lrelu",  # Key of bias_act.activation_funcs.
        conv_clamp: float | None = None,  # Limit of the convolution's output, None = disable.
    ) -> None:
        _check_architecture(architecture)
        super().__init__()
        self.resolution, self.architecture, self.cmap_dim = resolution, architecture, cmap_dim
        self.in_channels, self.img_channels = in_channels, img_channels
        active = dict(activation=activation)
        if architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, in_channels, 1, **active)
        self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels > 0 else None
        self.conv = Conv2dLayer(in_channels + mbstd_num_channels, in_channels, 3, conv_clamp=conv_clamp, **active)
        self.fc = FullyConnectedLayer(in_channels * resolution**2, in_channels, **active)
        self.out = FullyConnectedLayer(in_channels, cmap_dim or 1)

    def forward(self, x: Tensor, img: Tensor | None, cmap: Tensor | None, force_fp32: bool = False) -> Tensor:
        """Apply the layers.

        Args:
            x: Feature maps, [N, in_channels, resolution, resolution].
            img: Image of the same size, read for 'skip' only.
            cmap: Mapped labels, [N, cmap_dim], read if cmap_dim is not 0.
            force_fp32: Accepted for the sake of a common signature.

        Returns:
            Logits, [N, 1], float32.

        Raises:
            ValueError: If an argument has a wrong shape.
        """
        sides = (self.resolution, self.resolution)
        placement = dict(dtype=torch.float32, memory_format=torch.contiguous_format)
        _require_shape("x", x, None, self.in_channels, *sides)
        x = x.to(**placement)
        if self.architecture == "skip":
            _require_shape("img", img, None, self.img_channels, *sides)
            x = x + self.fromrgb(img.to(**placement))
        if self.mbstd is not None:
            x = self.mbstd(x)
        scores = self.out(self.fc(self.conv(x).flatten(1)))
        if self.cmap_dim == 0:
            return scores
        _require_shape("cmap", cmap, None, self.cmap_dim)
        return (scores * cmap).sum(dim=1, keepdim=True) * (1 / math.sqrt(self.cmap_dim))


@persistence.persistent_class
class Discriminator(torch.nn.Module):
    """Image (and label) to logit; a label enters by projection."""

    def __init__(
        self,
        c_dim: int,  # Size of the label, 0 = none.
        img_resolution: int,  # Side of the image in pixels, a power of two.
        img_channels: int,
        architecture: str = "resnet",  # 'orig', 'skip' or 'resnet'.
        channel_base: int = 32768,  # Channels at resolution r: channel_base / r,
        channel_max: int = 512,  # but no more than this.
        num_fp16_res: int = 0,  # Number of highest resolutions in half precision.
        conv_clamp: float | None = None,  # Limit of each layer's output, None = disable.
        cmap_dim: int | None = None,  # Size of the mapped label, None = channels at 4x4.
        block_kwargs: Mapping[str, Any] = NO_KWARGS,  # Further arguments of DiscriminatorBlock.
        mapping_kwargs: Mapping[str, Any] = NO_KWARGS,  # Further arguments of MappingNetwork.
        epilogue_kwargs: Mapping[str, Any] = NO_KWARGS,  # Further arguments of DiscriminatorEpilogue.
    ) -> None:
        super().__init__()
        self.c_dim, self.img_channels, self.img_resolution = c_dim, img_channels, img_resolution
        self.img_resolution_log2 = _log2_resolution(img_resolution)
        self.block_resolutions = [2**log2 for log2 in range(self.img_resolution_log2, 2, -1)]

        widths = _channels([*self.block_resolutions, 4], channel_base, channel_max)
        half_from = _lowest_half_resolution(self.img_resolution_log2, num_fp16_res)
        shared = dict(img_channels=img_channels, architecture=architecture, conv_clamp=conv_clamp)
        num_layers = 0
        for res in self.block_resolutions:
            block = DiscriminatorBlock(
                widths[res] if res < img_resolution else 0,
                widths[res],
                widths[res // 2],
                resolution=res,
                first_layer_idx=num_layers,
                use_fp16=res >= half_from,
                **block_kwargs,
                **shared,
            )
            self.add_module(f"b{res}", block)
            num_layers += block.num_layers
        cmap_dim = widths[4] if cmap_dim is None else cmap_dim
        if c_dim > 0:
            self.mapping = MappingNetwork(0, c_dim, cmap_dim, num_ws=None, w_avg_beta=None, **mapping_kwargs)
        epilogue_kwargs = dict(cmap_dim=cmap_dim if c_dim > 0 else 0, resolution=4, **epilogue_kwargs, **shared)
        self.b4 = DiscriminatorEpilogue(widths[4], **epilogue_kwargs)

    def forward(self, img: Tensor, c: Tensor | None, **block_kwargs: Any) -> Tensor:
        """Judge images.

        Args:
            img: Images, [N, img_channels, R, R], nominally in [-1, 1].
            c: Labels, [N, c_dim]; ignored if c_dim is 0.
            block_kwargs: force_fp32; see `DiscriminatorBlock.forward`.

        Returns:
            Logits, [N, 1], float32; positive means real.
        """
        x = None
        for res in self.block_resolutions:
            x, img = self.get_submodule(f"b{res}")(x, img, **block_kwargs)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        return self.b4(x, img, cmap)
