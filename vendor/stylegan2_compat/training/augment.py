"""Image augmentations for the discriminator, each applied to a sample with a probability that training may adapt.

Source: Karras et al. 2020 (ADA, arXiv:2006.06676), appendix B."""

# One module on purpose: a snapshot carries the source of this module, which then has to find everything
# else under the host's own names.

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch_utils import misc, persistence
from torch_utils.ops import conv2d_gradfix, grid_sample_gradfix, upfirdn2d

# Low-pass decomposition filters of Daubechies' least asymmetric wavelets, of those that are in use here.
wavelets = {
    "sym2": [-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025],
    "sym6": [
        0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
        0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564,
        0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
    ],
}  # fmt: skip

Entry = float | torch.Tensor  # Of a matrix: a number, or a tensor with a value per sample.


def _filled(background: np.ndarray, entries: dict[tuple[int, int], Entry], device: torch.device | None) -> torch.Tensor:
    """Put entries into a matrix of numbers, [rows, columns]; with tensors of samples among them, [..., rows, columns].

    Tensors must be of one shape [...] and decide where the result lies; device does where there is none.
    """
    background = background.astype(np.float64)
    varying = {}
    for place, entry in entries.items():
        if isinstance(entry, torch.Tensor):
            varying[place] = entry
        else:
            background[place] = entry
    if not varying:
        return misc.constant(background, device=device)
    sample = next(iter(varying.values()))
    full = misc.constant(background, device=sample.device)
    full = full.to(torch.promote_types(full.dtype, sample.dtype)).repeat(*sample.shape, 1, 1)
    for (row, column), entry in varying.items():
        full[..., row, column] = entry
    return full


def matrix(*rows: Sequence[Entry], device: torch.device | None = None) -> torch.Tensor:
    """Make a matrix from its rows.

    Args:
        rows: Rows of equal length; each entry is a number or a tensor of samples, all of one shape [...].
        device: Where the result lies when every entry is a number.

    Returns:
        [rows, columns] if every entry is a number, else [..., rows, columns].

    Raises:
        ValueError: If the rows are of different lengths.
    """
    lengths = [len(row) for row in rows]
    if len(set(lengths)) != 1:
        raise ValueError(f"Expected argument `rows` to be of one length, but got {lengths}")
    places = np.ndindex(len(rows), lengths[0])
    return _filled(np.zeros([len(rows), lengths[0]]), {(i, j): rows[i][j] for i, j in places}, device)


def _translation(shift: Sequence[Entry], device: torch.device | None) -> torch.Tensor:
    """Identity in homogeneous coordinates with the shift in its last column."""
    last = len(shift)
    return _filled(np.eye(last + 1), {(axis, last): amount for axis, amount in enumerate(shift)}, device)


def _scaling(factors: Sequence[Entry], device: torch.device | None) -> torch.Tensor:
    """Identity in homogeneous coordinates with the factors on its diagonal."""
    return _filled(np.eye(len(factors) + 1), {(axis, axis): factor for axis, factor in enumerate(factors)}, device)


def translate2d(tx: Entry, ty: Entry, device: torch.device | None = None) -> torch.Tensor:
    """Shift by (tx, ty) in homogeneous coordinates, [..., 3, 3]."""
    return _translation((tx, ty), device)


def translate2d_inv(tx: Entry, ty: Entry, device: torch.device | None = None) -> torch.Tensor:
    """Inverse of translate2d."""
    return _translation((-tx, -ty), device)


def translate3d(tx: Entry, ty: Entry, tz: Entry, device: torch.device | None = None) -> torch.Tensor:
    """Shift by (tx, ty, tz) in homogeneous coordinates, [..., 4, 4]."""
    return _translation((tx, ty, tz), device)


def scale2d(sx: Entry, sy: Entry, device: torch.device | None = None) -> torch.Tensor:
    """Multiply each axis by its factor, [..., 3, 3]."""
    return _scaling((sx, sy), device)


def scale2d_inv(sx: Entry, sy: Entry, device: torch.device | None = None) -> torch.Tensor:
    """Inverse of scale2d."""
    return _scaling((1 / sx, 1 / sy), device)


def scale3d(sx: Entry, sy: Entry, sz: Entry, device: torch.device | None = None) -> torch.Tensor:
    """Multiply each axis by its factor, [..., 4, 4]."""
    return _scaling((sx, sy, sz), device)


def rotate2d(theta: torch.Tensor) -> torch.Tensor:
    """Rotate by theta radians from the x axis towards the y axis, [..., 3, 3]."""
    along, across = torch.cos(theta), torch.sin(theta)
    return _filled(np.eye(3), {(0, 0): along, (1, 1): along, (1, 0): across, (0, 1): -across}, None)


def rotate2d_inv(theta: torch.Tensor) -> torch.Tensor:
    """Inverse of rotate2d."""
    return rotate2d(-theta)


def rotate3d(v: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Rotate by theta radians around a unit vector, [..., 4, 4]: (1 - cos) v v^T + cos I + sin [v]x (Rodrigues).

    Args:
        v: Axis, [..., 3] or [..., 4]; a fourth component is ignored.
        theta: Angle, right-handed, of a shape that broadcasts with v[..., 0].
    """
    axis, angle = v[..., None, :3], theta[..., None, None]  # [..., 1, 3], [..., 1, 1]
    eye = torch.eye(3, dtype=v.dtype, device=v.device)
    cross = torch.linalg.cross(eye.expand(*axis.shape[:-2], 3, 3), axis.expand(*axis.shape[:-2], 3, 3))  # Rows e_i x v.
    turn = axis.mT * axis * (1 - angle.cos()) + eye * angle.cos() + cross * angle.sin()
    full = torch.eye(4, dtype=turn.dtype, device=turn.device).repeat(*turn.shape[:-2], 1, 1)
    full[..., :3, :3] = turn
    return full


def _filter_bank() -> np.ndarray:
    """Four band-pass filters that sum to one tap of 1, [4, 43]; row i leaves the i-th octave from below."""
    low = np.asarray(wavelets["sym2"])
    high = low * (-1.0) ** np.arange(low.size)
    low2, high2 = np.convolve(low, low[::-1]) / 2, np.convolve(high, high[::-1]) / 2
    bank = np.eye(4, 1)
    for band in range(1, 4):
        sparse = np.zeros([4, 2 * bank.shape[1] - 1])
        sparse[:, ::2] = bank
        bank = np.stack([np.convolve(row, low2) for row in sparse])
        start = (bank.shape[1] - high2.size) // 2
        bank[band, start : start + high2.size] += high2
    return bank


class _Draws:
    """Random values for a batch, one per sample, and the gates that decide who gets them.

    With a debug percentile the same numbers are drawn and then replaced by that quantile, and all gates
    are open. Normal values use erfinv(2q - 1), which is the quantile divided by sqrt(2), as the host does.
    """

    def __init__(self, num_samples: int, device: torch.device, percentile: float | None):
        self.num_samples = num_samples
        self.device = device
        self.percentile = percentile

    def face(self, count: int, *dims: int) -> torch.Tensor:
        """Whole numbers below count, [N, *dims]."""
        return self._uniform(dims, lambda u: torch.floor(u * count))

    def angle(self, limit: float) -> torch.Tensor:
        """Angles up to limit half turns either way, in radians, [N]."""
        return self._uniform((), lambda u: (u * 2 - 1) * math.pi * limit)

    def shift(self, limit: float) -> torch.Tensor:
        """Uniform pairs up to limit either way, [N, 2]."""
        return self._uniform((2,), lambda u: (u * 2 - 1) * limit)

    def position(self) -> torch.Tensor:
        """Points of the unit square, [N, 2, 1, 1, 1]."""
        return self._uniform((2, 1, 1, 1), lambda u: u)

    def normal(self, std: float, *dims: int) -> torch.Tensor:
        """Normal values, [N, *dims]."""
        return self._normal(dims, lambda q: torch.erfinv(q * 2 - 1), lambda value: value * std)

    def factor(self, std: float, *dims: int) -> torch.Tensor:
        """Powers of two with a normal exponent, [N, *dims]."""
        return self._normal(dims, lambda q: torch.erfinv(q * 2 - 1), lambda value: torch.exp2(value * std))

    def magnitude(self, std: float, *dims: int) -> torch.Tensor:
        """Absolute normal values, [N, *dims]."""
        return self._normal(dims, torch.erfinv, lambda value: value.abs() * std)

    def gate(self, value: torch.Tensor, probability: torch.Tensor, neutral: float) -> torch.Tensor:
        """Keep each sample's value with the given probability, else put the neutral one; shape of value."""
        uniform = torch.rand([self.num_samples] + [1] * (value.ndim - 1), device=self.device)
        if self.percentile is not None:
            return value
        return torch.where(uniform < probability, value, neutral)

    def _uniform(self, dims, transform):
        """Transformed uniform values; the quantile of a monotone transform is the transformed quantile."""
        uniform = torch.rand([self.num_samples, *dims], device=self.device)
        if self.percentile is not None:
            uniform = torch.full_like(uniform, self.percentile)
        return transform(uniform)

    def _normal(self, dims, quantile, transform):
        """Transformed normal values."""
        normal = torch.randn([self.num_samples, *dims], device=self.device)
        if self.percentile is not None:
            normal = quantile(torch.full_like(normal, self.percentile))
        return transform(normal)


@persistence.persistent_class
class AugmentPipe(torch.nn.Module):
    """Geometric, colour, frequency and corruption transforms, each with its own probability per sample.

    The first parameter of each transform multiplies the buffer `p`; the product is its probability, so
    values above 1 saturate. A transform with multiplier 0 is disabled and draws no random numbers.
    """

    def __init__(
        self,
        xflip: float = 0,  # Multiplier of mirroring, 0 = disable.
        rotate90: float = 0,  # Multiplier of quarter turns, 0 = disable.
        xint: float = 0,  # Multiplier of whole-pixel shifts, 0 = disable.
        xint_max: float = 0.125,  # Largest whole-pixel shift, as a share of the image.
        scale: float = 0,  # Multiplier of isotropic scaling, 0 = disable.
        rotate: float = 0,  # Multiplier of arbitrary rotation, 0 = disable.
        aniso: float = 0,  # Multiplier of anisotropic scaling, 0 = disable.
        xfrac: float = 0,  # Multiplier of fractional shifts, 0 = disable.
        scale_std: float = 0.2,  # Standard deviation of isotropic scaling, in octaves.
        rotate_max: float = 1,  # Largest rotation, in half turns.
        aniso_std: float = 0.2,  # Standard deviation of anisotropic scaling, in octaves.
        xfrac_std: float = 0.125,  # Standard deviation of fractional shifts, as a share of the image.
        brightness: float = 0,  # Multiplier of brightness, 0 = disable.
        contrast: float = 0,  # Multiplier of contrast, 0 = disable.
        lumaflip: float = 0,  # Multiplier of luma inversion, 0 = disable.
        hue: float = 0,  # Multiplier of hue rotation, 0 = disable.
        saturation: float = 0,  # Multiplier of saturation, 0 = disable.
        brightness_std: float = 0.2,  # Standard deviation of brightness, in image values.
        contrast_std: float = 0.5,  # Standard deviation of contrast, in octaves.
        hue_max: float = 1,  # Largest hue rotation, in half turns.
        saturation_std: float = 1,  # Standard deviation of saturation, in octaves.
        imgfilter: float = 0,  # Multiplier of frequency filtering, 0 = disable.
        imgfilter_bands: Sequence[float] = (1, 1, 1, 1),  # Further multipliers per frequency band, lowest first.
        imgfilter_std: float = 1,  # Standard deviation of a band's gain, in octaves.
        noise: float = 0,  # Multiplier of additive noise, 0 = disable.
        cutout: float = 0,  # Multiplier of cutout, 0 = disable.
        noise_std: float = 0.1,  # Standard deviation of the noise's standard deviation, in image values.
        cutout_size: float = 0.5,  # Width and height of the cutout, as a share of the image.
    ):
        super().__init__()
        self.register_buffer("p", torch.ones([]))  # Overall strength, set by the training loop.

        self.xflip, self.rotate90, self.xint, self.xint_max = map(float, (xflip, rotate90, xint, xint_max))
        self.scale, self.rotate, self.aniso, self.xfrac = map(float, (scale, rotate, aniso, xfrac))
        self.scale_std, self.rotate_max, self.aniso_std = map(float, (scale_std, rotate_max, aniso_std))
        self.xfrac_std = float(xfrac_std)
        self.brightness, self.contrast, self.lumaflip = map(float, (brightness, contrast, lumaflip))
        self.hue, self.saturation, self.brightness_std = map(float, (hue, saturation, brightness_std))
        self.contrast_std, self.hue_max, self.saturation_std = map(float, (contrast_std, hue_max, saturation_std))
        self.imgfilter, self.imgfilter_std = float(imgfilter), float(imgfilter_std)
        self.imgfilter_bands = [float(band) for band in imgfilter_bands]
        self.noise, self.cutout, self.noise_std, self.cutout_size = map(float, (noise, cutout, noise_std, cutout_size))

        bank = torch.as_tensor(_filter_bank(), dtype=torch.float32)
        if len(self.imgfilter_bands) != len(bank):
            raise ValueError(
                f"Expected argument `imgfilter_bands` to be {len(bank)} numbers, but got {list(imgfilter_bands)}"
            )
        self.register_buffer("Hz_geom", upfirdn2d.setup_filter(wavelets["sym6"]))  # [12]
        self.register_buffer("Hz_fbank", bank)  # [4, 43]

    def forward(self, images: torch.Tensor, debug_percentile: float | None = None) -> torch.Tensor:
        """Augment each image independently.

        Args:
            images: [N, C, H, W], about [-1, 1]; C is 1 or 3 if a colour transform is enabled.
            debug_percentile: Quantile, in [0, 1), that replaces every random value; None = random.

        Returns:
            [N, C, H, W]; differentiable twice.

        Raises:
            ValueError: If images has a wrong shape or is too small, or if debug_percentile is out of range.
        """
        if not isinstance(images, torch.Tensor) or images.ndim != 4:
            got = list(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
            raise ValueError(f"Expected argument `images` to be of shape [N, C, H, W], but got {got}")
        if debug_percentile is not None and not 0 <= debug_percentile < 1:
            raise ValueError(f"Expected argument `debug_percentile` to be in [0, 1), but got {debug_percentile}")
        draws = _Draws(len(images), images.device, None if debug_percentile is None else float(debug_percentile))

        # All values are drawn in this order, the geometry and the colours before they are applied.
        geometry = self._draw_geometry(draws, *images.shape[2:])
        if geometry is not None:
            images = self._warp(images, geometry)
        colors = self._draw_colors(draws, images.shape[1])
        if colors is not None:
            images = _recolor(images, colors)
        if self.imgfilter > 0:
            images = self._filter(images, self._draw_band_gains(draws))
        if self.noise > 0:
            sigma = draws.gate(draws.magnitude(self.noise_std, 1, 1, 1), self.noise * self.p, 0)
            images = images + torch.randn(images.shape, device=images.device) * sigma
        if self.cutout > 0:
            size = images.new_full([len(images), 2, 1, 1, 1], self.cutout_size)
            size = draws.gate(size, self.cutout * self.p, 0)
            images = images * _outside_box(draws.position(), size, *images.shape[2:])
        return images

    def _draw_geometry(self, draws: _Draws, height: int, width: int) -> torch.Tensor | None:
        """Map from output to input pixels around the image centre, [N, 3, 3] or [3, 3]; None if disabled."""
        p, steps = self.p, []
        if self.xflip > 0:
            flip = draws.gate(draws.face(2), self.xflip * p, 0)
            steps.append(scale2d_inv(1 - 2 * flip, 1))
        if self.rotate90 > 0:
            turns = draws.gate(draws.face(4), self.rotate90 * p, 0)
            steps.append(rotate2d_inv(-math.pi / 2 * turns))
        if self.xint > 0:
            shift = draws.gate(draws.shift(self.xint_max), self.xint * p, 0)
            steps.append(translate2d_inv(torch.round(shift[:, 0] * width), torch.round(shift[:, 1] * height)))
        if self.scale > 0:
            factor = draws.gate(draws.factor(self.scale_std), self.scale * p, 1)
            steps.append(scale2d_inv(factor, factor))
        # Two independent rotations, each with the probability that makes at least one as likely as asked for.
        p_rot = 1 - torch.sqrt((1 - self.rotate * p).clamp(0, 1))
        if self.rotate > 0:
            steps.append(rotate2d_inv(-draws.gate(draws.angle(self.rotate_max), p_rot, 0)))
        if self.aniso > 0:
            factor = draws.gate(draws.factor(self.aniso_std), self.aniso * p, 1)
            steps.append(scale2d_inv(factor, 1 / factor))
        if self.rotate > 0:
            angle = draws.gate(draws.angle(self.rotate_max), p_rot, 0)
            steps.append(rotate2d_inv(-angle if draws.percentile is None else torch.zeros_like(angle)))
        if self.xfrac > 0:
            shift = draws.gate(draws.normal(self.xfrac_std, 2), self.xfrac * p, 0)
            steps.append(translate2d_inv(shift[:, 0] * width, shift[:, 1] * height))
        if not steps:
            return None
        inverse = steps[0]
        for step in steps[1:]:
            inverse = inverse @ step
        return inverse

    def _draw_colors(self, draws: _Draws, channels: int) -> torch.Tensor | None:
        """Affine map of RGB values, [N, 4, 4]; None if disabled."""
        p, steps = self.p, []
        eye = torch.eye(4, device=draws.device)
        luma = misc.constant(np.asarray([1, 1, 1, 0]) / np.sqrt(3), device=draws.device)  # Unit grey axis.
        grey = torch.outer(luma, luma)
        if self.brightness > 0:
            offset = draws.gate(draws.normal(self.brightness_std), self.brightness * p, 0)
            steps.append(translate3d(offset, offset, offset))
        if self.contrast > 0:
            factor = draws.gate(draws.factor(self.contrast_std), self.contrast * p, 1)
            steps.append(scale3d(factor, factor, factor))
        if self.lumaflip > 0:
            flip = draws.gate(draws.face(2, 1, 1), self.lumaflip * p, 0)
            steps.append(eye - 2 * grey * flip)
        if self.hue > 0 and channels > 1:
            steps.append(rotate3d(luma, draws.gate(draws.angle(self.hue_max), self.hue * p, 0)))
        if self.saturation > 0 and channels > 1:
            factor = draws.gate(draws.factor(self.saturation_std, 1, 1), self.saturation * p, 1)
            steps.append(grey + (eye - grey) * factor)
        if not steps:
            return None
        colors = steps[0]
        for step in steps[1:]:
            colors = step @ colors
        return colors

    def _draw_band_gains(self, draws: _Draws) -> torch.Tensor:
        """Gain of each frequency band, [N, 4], such that the expected power of an image is kept."""
        power = misc.constant(np.asarray([10, 1, 1, 1]) / 13, device=draws.device)  # Of natural images, 1/f.
        gains = torch.ones([draws.num_samples, len(power)], device=draws.device)
        for band, multiplier in enumerate(self.imgfilter_bands):
            factor = draws.gate(draws.factor(self.imgfilter_std), self.imgfilter * self.p * multiplier, 1)
            if multiplier == 0:
                factor = torch.ones_like(factor)
            gain = torch.ones_like(gains)
            gain[:, band] = factor
            gains = gains * (gain / (power * gain.square()).sum(dim=1, keepdim=True).sqrt())
        return gains

    def _warp(self, images: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        """Resample images at twice their resolution through the map from output to input pixels."""
        num, channels, height, width = images.shape
        device = images.device
        reach = self.Hz_geom.shape[0] // 4
        x0, x1, y0, y1 = _margins(inverse, height, width, 2 * reach)
        images = _reflect(images, x0, x1, y0, y1)
        inverse = translate2d((x0 - x1) / 2, (y0 - y1) / 2, device=device) @ inverse

        images = upfirdn2d.upsample2d(images, self.Hz_geom, up=2)
        inverse = scale2d(2, 2, device=device) @ inverse @ scale2d_inv(2, 2, device=device)
        # The filters move the image by half a pixel.
        inverse = translate2d(-0.5, -0.5, device=device) @ inverse @ translate2d_inv(-0.5, -0.5, device=device)

        in_height, in_width = images.shape[2:]
        out_height, out_width = (height + 2 * reach) * 2, (width + 2 * reach) * 2
        inverse = scale2d(2 / in_width, 2 / in_height, device=device) @ inverse
        inverse = inverse @ scale2d_inv(2 / out_width, 2 / out_height, device=device)
        theta = inverse[..., :2, :].expand(num, 2, 3).to(images.dtype)
        grid = F.affine_grid(theta, [num, channels, out_height, out_width], align_corners=False)
        images = grid_sample_gradfix.grid_sample(images, grid)
        return upfirdn2d.downsample2d(images, self.Hz_geom, down=2, padding=-2 * reach, flip_filter=True)

    def _filter(self, images: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
        """Apply each sample's band gains along both axes."""
        num, channels, height, width = images.shape
        margin = self.Hz_fbank.shape[1] // 2
        if min(height, width) <= margin:
            raise ValueError(
                f"Expected argument `images` to be larger than {margin} pixels for imgfilter, but got {height}x{width}"
            )
        taps = (gains @ self.Hz_fbank).to(images.dtype).repeat_interleave(channels, dim=0)  # [N * C, 43]
        images = _reflect(images.reshape(1, num * channels, height, width), *[margin] * 4)
        images = conv2d_gradfix.conv2d(images, taps[:, None, None, :], groups=num * channels)
        images = conv2d_gradfix.conv2d(images, taps[:, None, :, None], groups=num * channels)
        return images.reshape(num, channels, height, width)


def _reflect(images: torch.Tensor, x0: int, x1: int, y0: int, y1: int) -> torch.Tensor:
    """Mirror images at their border pixels, by as many pixels before and after each axis.

    On CUDA the gradient of PyTorch's padding is summed in no fixed order; where determinism is asked for, parts are
    put together instead.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return F.pad(images, [x0, x1, y0, y1], mode="reflect")
    for dim, before, after in ((3, x0, x1), (2, y0, y1)):
        size = images.shape[dim]
        head, tail = images.narrow(dim, 1, before), images.narrow(dim, size - 1 - after, after)
        images = torch.cat([head.flip(dim), images, tail.flip(dim)], dim)
    return images


def _margins(inverse: torch.Tensor, height: int, width: int, reach: int) -> list[int]:
    """Pixels to add at the sides (x0, x1, y0, y1) so that every sample reads inside, at most a reflection."""
    cx, cy = (width - 1) / 2, (height - 1) / 2
    corners = matrix([-cx, cx, cx, -cx], [-cy, -cy, cy, cy], [1, 1, 1, 1], device=inverse.device)
    reached = (inverse @ corners)[..., :2, :].reshape(-1, 2, 4)  # [N, xy, corner]
    reached = reached.transpose(0, 1).flatten(1)  # [xy, N * corner]
    below, above = (-reached).amax(dim=1), reached.amax(dim=1)
    sides = torch.stack([below, above], dim=1)  # [xy, side]
    half = misc.constant([[cx], [cy]], device=inverse.device)
    limit = misc.constant([[width - 1], [height - 1]], device=inverse.device)
    sides = (sides + (reach - half)).clamp(min=0).minimum(limit)
    return [int(side) for side in sides.ceil().flatten().tolist()]


def _recolor(images: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
    """Apply an affine colour map, [N, 4, 4], to each pixel; grey images get its average over the rows."""
    num, channels, height, width = images.shape
    colors = colors.to(images.dtype)
    pixels = images.flatten(2)
    if channels == 3:
        pixels = colors[..., :3, :3] @ pixels + colors[..., :3, 3:]
    elif channels == 1:
        mean = colors[..., :3, :].mean(dim=-2, keepdim=True)
        pixels = pixels * mean[..., :3].sum(dim=-1, keepdim=True) + mean[..., 3:]
    else:
        raise ValueError(f"Expected argument `images` to have 1 or 3 channels for colours, but got {channels}")
    return pixels.reshape(num, channels, height, width)


def _outside_box(center: torch.Tensor, size: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Mask that is 0 in a box and 1 elsewhere, [N, 1, H, W]; center and size are shares, [N, 2, 1, 1, 1]."""
    x = (torch.arange(width, device=size.device).reshape(1, 1, 1, -1) + 0.5) / width
    y = (torch.arange(height, device=size.device).reshape(1, 1, -1, 1) + 0.5) / height
    outside_x = (x - center[:, 0]).abs() >= size[:, 0] / 2
    outside_y = (y - center[:, 1]).abs() >= size[:, 1] / 2
    return (outside_x | outside_y).to(size.dtype)
