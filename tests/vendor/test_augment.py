"""AugmentPipe: every transform against its formula, order of draws, gates, gradients and persistence."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from torch_utils.ops import upfirdn2d
from training import augment
from training.augment import AugmentPipe

GEOMETRY = ["xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac"]
COLORS = ["brightness", "contrast", "lumaflip", "hue", "saturation"]
CORRUPTIONS = ["imgfilter", "noise", "cutout"]
ALL = GEOMETRY + COLORS + CORRUPTIONS
RANGES = {
    "xint_max": 0.125, "scale_std": 0.2, "rotate_max": 1, "aniso_std": 0.2, "xfrac_std": 0.125, "brightness_std": 0.2,
    "contrast_std": 0.5, "hue_max": 1, "saturation_std": 1, "imgfilter_std": 1, "noise_std": 0.1, "cutout_size": 0.5,
}  # fmt: skip


def _pipe(names, p=1.0, **kwargs):
    pipe = AugmentPipe(**dict.fromkeys(names, 1), **kwargs)
    pipe.p.fill_(p)
    return pipe


def _images(n=3, c=3, h=24, w=28):
    return torch.rand(n, c, h, w) * 2 - 1


def _smooth(n=1, c=3, size=32):
    axis = torch.linspace(-1, 1, size)
    return torch.stack([torch.sin(2 * axis)[:, None] * torch.cos(axis + k)[None] for k in range(c)]).repeat(n, 1, 1, 1)


def _half_normal_exponent(q):
    """Value that stands for a normal variable at percentile q: its quantile without the factor sqrt(2)."""
    return torch.erfinv(torch.tensor(2 * q - 1)).item()


# ----------------------------------------------------------------------------- identity and switching off


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_is_identity_at_zero_strength(name, channels):
    x = _images(c=channels)
    torch.testing.assert_close(_pipe([name], p=0)(x), x, rtol=0, atol=1e-5)


def test_all_transforms_are_identity_at_zero_strength():
    x = _images()
    torch.testing.assert_close(_pipe(ALL, p=0)(x), x, rtol=0, atol=2e-5)


def test_disabled_pipe_draws_nothing_and_returns_its_input():
    x, state = _images(), torch.get_rng_state()
    assert AugmentPipe()(x) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ALL)
def test_keeps_shape_and_changes_images_at_full_strength(name):
    x = _images(n=4)
    y = _pipe([name])(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    assert (y - x).abs().max() > 0.01


# ----------------------------------------------------------------------------- geometry


def _reference_warp(x, inverse, taps):
    """Warp in float64 with the largest margins and bilinear look-ups written out; inverse: [N, 3, 3]."""
    n, c, h, w = x.shape
    padded = np.pad(x.numpy().astype(np.float64), [(0, 0), (0, 0), (h - 1, h - 1), (w - 1, w - 1)], mode="reflect")
    large = upfirdn2d.upsample2d(torch.as_tensor(padded), taps, up=2).numpy()
    rows, cols = (h + 6) * 2, (w + 6) * 2
    result = np.zeros([n, c, rows, cols])
    # Centred coordinates in pixels of the doubled image; its filter moves it by half a pixel.
    jx, iy = np.meshgrid(np.arange(cols) - (cols - 1) / 2 + 0.5, np.arange(rows) - (rows - 1) / 2 + 0.5)
    for k in range(n):
        m = np.asarray(inverse[k], dtype=np.float64)
        px = m[0, 0] * jx + m[0, 1] * iy + 2 * m[0, 2] - 0.5 + (large.shape[3] - 1) / 2
        py = m[1, 0] * jx + m[1, 1] * iy + 2 * m[1, 2] - 0.5 + (large.shape[2] - 1) / 2
        x0, y0 = np.floor(px).astype(int), np.floor(py).astype(int)
        for dy in (0, 1):
            for dx in (0, 1):
                xi, yi = x0 + dx, y0 + dy
                inside = (xi >= 0) & (xi < large.shape[3]) & (yi >= 0) & (yi < large.shape[2])
                weight = inside * (1 - np.abs(px - xi)) * (1 - np.abs(py - yi))
                xi, yi = xi.clip(0, large.shape[3] - 1), yi.clip(0, large.shape[2] - 1)
                result[k] += weight * large[k][:, yi, xi]
    return upfirdn2d.downsample2d(torch.as_tensor(result), taps, down=2, padding=-6, flip_filter=True)


def _scale(sx, sy):
    return np.diag([sx, sy, 1.0])


def _turn(theta):
    return np.array([[math.cos(theta), -math.sin(theta), 0], [math.sin(theta), math.cos(theta), 0], [0, 0, 1]])


def _move(tx, ty):
    return np.array([[1, 0, tx], [0, 1, ty], [0, 0, 1]])


def _drawn_geometry(names, n, h, w, p):
    """Inverse maps from the table of draws: value, then gate, one transform after the other."""

    def gated(value, neutral, probability=p):
        gate = torch.rand([n] + [1] * (value.ndim - 1))
        return torch.where(gate < probability, value, torch.full_like(value, neutral)).double().numpy()

    total = [np.eye(3)] * n
    p_rot = 1 - math.sqrt(1 - p)
    stages = {
        "xflip": lambda: [_scale(1 - 2 * i, 1) for i in gated(torch.floor(torch.rand(n) * 2), 0)],
        "rotate90": lambda: [_turn(math.pi / 2 * i) for i in gated(torch.floor(torch.rand(n) * 4), 0)],
        "xint": lambda: [
            _move(-np.round(t[0] * w), -np.round(t[1] * h)) for t in gated((torch.rand(n, 2) * 2 - 1) * 0.125, 0)
        ],
        "scale": lambda: [_scale(1 / s, 1 / s) for s in gated(torch.exp2(torch.randn(n) * 0.2), 1)],
        "rotate": lambda: [_turn(a) for a in gated((torch.rand(n) * 2 - 1) * math.pi, 0, p_rot)],
        "aniso": lambda: [_scale(1 / s, s) for s in gated(torch.exp2(torch.randn(n) * 0.2), 1)],
        "rotate_again": lambda: [_turn(a) for a in gated((torch.rand(n) * 2 - 1) * math.pi, 0, p_rot)],
        "xfrac": lambda: [_move(-t[0] * w, -t[1] * h) for t in gated(torch.randn(n, 2) * 0.125, 0)],
    }
    for name, draw in stages.items():
        if name.removesuffix("_again") in names:
            total = [a @ b for a, b in zip(total, draw(), strict=True)]
    return total


@pytest.mark.parametrize("names", [*([name] for name in GEOMETRY), ["xflip", "rotate"], GEOMETRY])
@pytest.mark.parametrize("p", [0.5, 1.0])
def test_geometry_follows_table_of_draws(names, p):
    x = _images(n=4, h=16, w=20)
    pipe = _pipe(names, p)
    torch.manual_seed(5)
    y = pipe(x)
    torch.manual_seed(5)
    inverse = _drawn_geometry(names, 4, 16, 20, p)
    torch.testing.assert_close(y.double(), _reference_warp(x, inverse, pipe.Hz_geom), rtol=0, atol=1e-4)


def test_geometry_draws_only_for_enabled_transforms():
    x = _images(n=2, h=16, w=16)
    torch.manual_seed(0)
    _pipe(["scale", "xfrac"])(x)
    after = torch.rand(3)
    torch.manual_seed(0)
    _drawn_geometry(["scale", "xfrac"], 2, 16, 16, 1.0)
    assert torch.equal(after, torch.rand(3))


@pytest.mark.parametrize(
    ("name", "q", "expected"),
    [
        ("xflip", 0.6, lambda x: x.flip(3)),
        ("xflip", 0.4, lambda x: x),
        ("rotate90", 0.3, lambda x: x.rot90(1, [2, 3])),
        ("rotate90", 0.6, lambda x: x.rot90(2, [2, 3])),
        ("rotate90", 0.9, lambda x: x.rot90(3, [2, 3])),
        ("rotate", 0.75, lambda x: x.rot90(1, [2, 3])),
        ("rotate", 0.5, lambda x: x),
    ],
)
def test_flips_and_turns_at_percentiles(name, q, expected):
    x = _smooth()
    torch.testing.assert_close(_pipe([name])(x, debug_percentile=q), expected(x), rtol=0, atol=0.02)


@pytest.mark.parametrize(("q", "shift"), [(0.75, 2), (0.25, -2)])
def test_whole_pixel_shift_moves_image_and_reflects_its_border(q, shift):
    x = _images(h=32, w=32)
    y = _pipe(["xint"])(x, debug_percentile=q)
    padded = torch.nn.functional.pad(x, [2, 2, 2, 2], mode="reflect")
    start = 2 - shift
    torch.testing.assert_close(y, padded[:, :, start : start + 32, start : start + 32], rtol=0, atol=1e-4)


def test_scale_by_two_doubles_a_centred_square():
    x = torch.zeros(1, 1, 32, 32)
    x[:, :, 12:20, 12:20] = 1
    y = _pipe(["scale"], scale_std=1)(x, debug_percentile=(1 + math.erf(1)) / 2)
    expected = torch.zeros(1, 1, 32, 32)
    expected[:, :, 8:24, 8:24] = 1
    assert y.sum().item() == pytest.approx(256, rel=0.02) and (y - expected).abs().mean() < 0.05


# ----------------------------------------------------------------------------- colours


def _drawn_colors(names, n, channels, p):
    """Colour maps from the table of draws, [N, 4, 4]."""

    def gated(value, neutral):
        gate = torch.rand([n] + [1] * (value.ndim - 1))
        return torch.where(gate < p, value, torch.full_like(value, neutral)).double().numpy().reshape(n)

    axis = np.ones(3) / math.sqrt(3)
    along = np.outer(axis, axis)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)

    def linear(block):
        return np.block([[block, np.zeros([3, 1])], [np.zeros([1, 3]), np.ones([1, 1])]])

    def offset(value):
        return np.block([[np.eye(3), np.full([3, 1], value)], [np.zeros([1, 3]), np.ones([1, 1])]])

    def rotation(theta):
        return np.eye(3) * math.cos(theta) + cross * math.sin(theta) + along * (1 - math.cos(theta))

    stages = {
        "brightness": lambda: [offset(b) for b in gated(torch.randn(n) * 0.2, 0)],
        "contrast": lambda: [linear(np.eye(3) * s) for s in gated(torch.exp2(torch.randn(n) * 0.5), 1)],
        "lumaflip": lambda: [linear(np.eye(3) - 2 * i * along) for i in gated(torch.floor(torch.rand(n, 1, 1) * 2), 0)],
        "hue": lambda: [linear(rotation(a)) for a in gated((torch.rand(n) * 2 - 1) * math.pi, 0)],
        "saturation": lambda: [
            linear(along + (np.eye(3) - along) * s) for s in gated(torch.exp2(torch.randn(n, 1, 1)), 1)
        ],
    }
    total = [np.eye(4)] * n
    for name, draw in stages.items():
        if name in names and (channels == 3 or name not in ("hue", "saturation")):
            total = [b @ a for a, b in zip(total, draw(), strict=True)]
    return np.stack(total)


@pytest.mark.parametrize("names", [*([name] for name in COLORS), COLORS])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("p", [0.5, 1.0])
def test_colors_follow_table_of_draws(names, channels, p):
    x = _images(n=4, c=channels, h=3, w=5)
    torch.manual_seed(7)
    y = _pipe(names, p)(x)
    torch.manual_seed(7)
    colors = _drawn_colors(names, 4, channels, p)
    expected = np.empty(x.shape)
    for k, i, j in np.ndindex(4, 3, 5):
        pixel = x[k, :, i, j].numpy()
        if channels == 3:
            expected[k, :, i, j] = colors[k, :3, :3] @ pixel + colors[k, :3, 3]
        else:
            mean = colors[k, :3].mean(axis=0)
            expected[k, :, i, j] = mean[:3].sum() * pixel + mean[3]
    np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("q", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_adds_and_contrast_multiplies(q, channels):
    x, value = _images(c=channels), _half_normal_exponent(q)
    torch.testing.assert_close(_pipe(["brightness"])(x, q), x + 0.2 * value)
    torch.testing.assert_close(_pipe(["contrast"])(x, q), x * 2 ** (0.5 * value))


def test_luma_flip_negates_the_mean_and_keeps_color_differences():
    x = _images()
    y = _pipe(["lumaflip"])(x, 0.6)
    torch.testing.assert_close(y.mean(1), -x.mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(y - y.mean(1, keepdim=True), x - x.mean(1, keepdim=True), rtol=0, atol=1e-5)
    torch.testing.assert_close(_pipe(["lumaflip"])(x[:, :1], 0.6), -x[:, :1], rtol=0, atol=1e-5)


def test_hue_third_turn_permutes_channels():
    x = _images()
    torch.testing.assert_close(_pipe(["hue"])(x, 5 / 6), x[:, [2, 0, 1]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("q", [0.1, 0.8])
def test_saturation_scales_color_differences(q):
    x = _images()
    grey = x.mean(1, keepdim=True)
    expected = grey + (x - grey) * 2 ** _half_normal_exponent(q)
    torch.testing.assert_close(_pipe(["saturation"])(x, q), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["hue", "saturation"])
def test_grey_images_skip_color_rotation_without_drawing(name):
    x, state = _images(c=1), torch.get_rng_state()
    assert _pipe([name])(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_other_channel_counts_only_without_colors():
    assert _pipe(["xflip", "cutout"])(_images(c=5)).shape[1] == 5
    with pytest.raises(ValueError, match="1 or 3 channels"):
        _pipe(["brightness"])(_images(c=2))


# ----------------------------------------------------------------------------- frequency filter


def test_filter_bank_splits_one_tap():
    bank = AugmentPipe().Hz_fbank.double()
    assert bank.shape == (4, 43)
    torch.testing.assert_close(bank.sum(1), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64), rtol=0, atol=1e-6)
    delta = torch.zeros(43, dtype=torch.float64)
    delta[21] = 1
    torch.testing.assert_close(bank.sum(0), delta, rtol=0, atol=1e-6)
    torch.testing.assert_close(bank, bank.flip(1), rtol=0, atol=1e-7)


def test_filter_bank_bands_rise_in_frequency():
    spectrum = torch.fft.rfft(AugmentPipe().Hz_fbank, n=256).abs()
    centre = (spectrum * torch.arange(129)).sum(1) / spectrum.sum(1)
    assert torch.all(centre.diff() > 0) and spectrum[0].argmax() == 0 and spectrum[3].argmax() == 128


def _drawn_gains(n, bands, p):
    power = np.array([10, 1, 1, 1]) / 13
    gains = np.ones([n, 4])
    for band, multiplier in enumerate(bands):
        value, gate = torch.exp2(torch.randn(n)), torch.rand(n)
        t = torch.where(gate < p * multiplier, value, torch.ones(n)).double().numpy()
        vector = np.ones([n, 4])
        vector[:, band] = t
        gains *= vector / np.sqrt((power * vector**2).sum(1, keepdims=True))
    return gains


@pytest.mark.parametrize("bands", [(1, 1, 1, 1), (0, 1, 0.5, 0)])
@pytest.mark.parametrize("channels", [1, 2])
def test_image_filter_follows_table_of_draws(bands, channels):
    x = _images(n=3, c=channels, h=22, w=23)
    pipe = _pipe(["imgfilter"], p=0.7, imgfilter_bands=bands)
    torch.manual_seed(2)
    y = pipe(x)
    torch.manual_seed(2)
    taps = _drawn_gains(3, bands, 0.7) @ pipe.Hz_fbank.double().numpy()
    padded = np.pad(x.numpy().astype(np.float64), [(0, 0), (0, 0), (21, 21), (21, 21)], mode="reflect")
    expected = np.zeros(x.shape)
    for k in range(3):
        kernel = np.outer(taps[k], taps[k])
        for c, i, j in np.ndindex(channels, 22, 23):
            expected[k, c, i, j] = (kernel * padded[k, c, i : i + 43, j : j + 43]).sum()
    np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=2e-5)


def test_image_filter_percentile_leaves_disabled_bands():
    x = torch.ones(1, 1, 24, 24)
    q = 0.8
    value = 2 ** _half_normal_exponent(q)
    y = _pipe(["imgfilter"], imgfilter_bands=[1, 0, 0, 0])(x, q)
    torch.testing.assert_close(y, x * (value / math.sqrt((10 * value**2 + 3) / 13)) ** 2)


@pytest.mark.parametrize("size", [(21, 30), (30, 21)])
def test_image_filter_refuses_small_images(size):
    with pytest.raises(ValueError, match="larger than 21"):
        _pipe(["imgfilter"])(torch.zeros(1, 3, *size))


# ----------------------------------------------------------------------------- noise and cutout


def test_noise_follows_table_of_draws():
    x = _images(n=5)
    torch.manual_seed(3)
    y = _pipe(["noise"], p=0.5)(x)
    torch.manual_seed(3)
    sigma, gate = torch.randn(5, 1, 1, 1).abs() * 0.1, torch.rand(5, 1, 1, 1)
    expected = x + torch.randn(x.shape) * torch.where(gate < 0.5, sigma, torch.zeros(()))
    torch.testing.assert_close(y, expected)


def test_noise_has_the_requested_level_at_a_percentile():
    x = torch.zeros(4, 3, 64, 64)
    y = _pipe(["noise"])(x, 0.5)
    assert y.std().item() == pytest.approx(0.1 * torch.erfinv(torch.tensor(0.5)).item(), rel=0.02)


def test_cutout_zeroes_a_box():
    y = _pipe(["cutout"])(torch.ones(2, 3, 16, 8), 0.5)
    expected = torch.ones(2, 3, 16, 8)
    expected[:, :, 4:12, 2:6] = 0
    assert torch.equal(y, expected)


def test_cutout_follows_table_of_draws():
    n, h, w = 6, 10, 12
    torch.manual_seed(4)
    y = _pipe(["cutout"], p=0.6)(torch.ones(n, 1, h, w))
    torch.manual_seed(4)
    gate, centre = torch.rand(n, 1, 1, 1, 1).flatten(), torch.rand(n, 2, 1, 1, 1).reshape(n, 2)
    for k, i, j in np.ndindex(n, h, w):
        half = 0.25 if gate[k] < 0.6 else 0.0
        inside = abs((j + 0.5) / w - centre[k, 0]) < half and abs((i + 0.5) / h - centre[k, 1]) < half
        assert y[k, 0, i, j] == (0 if inside else 1)


@pytest.mark.parametrize(("multiplier", "p", "expected"), [(1, 0.3, 0.3), (0.5, 0.8, 0.4), (1, 5.0, 1.0), (1, 0, 0)])
def test_share_of_augmented_samples(multiplier, p, expected):
    pipe = AugmentPipe(cutout=multiplier)
    pipe.p.fill_(p)
    y = pipe(torch.ones(2000, 1, 8, 8))
    share = (y.amin(dim=(1, 2, 3)) == 0).double().mean().item()
    assert share == pytest.approx(expected, abs=0 if expected in (0, 1) else 0.04)


# ----------------------------------------------------------------------------- whole pipe


def test_stages_run_in_table_order():
    x = _images(n=4)
    torch.manual_seed(1)
    together = _pipe(ALL, p=0.8)(x)
    torch.manual_seed(1)
    apart = x
    for names in (GEOMETRY, COLORS, ["imgfilter"], ["noise"], ["cutout"]):
        apart = _pipe(names, p=0.8)(apart)
    torch.testing.assert_close(together, apart)


def test_samples_do_not_affect_each_other():
    x = _images(n=3)
    names = [name for name in ALL if name != "noise"]
    together = _pipe(names)(x, 0.7)
    alone = torch.cat([_pipe(names)(image[None], 0.7) for image in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("names", [GEOMETRY, COLORS, ["noise", "cutout"], ["imgfilter"]])
def test_two_derivatives(names):
    size = 22 if names == ["imgfilter"] else 6
    x = torch.randn(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    pipe = _pipe(names, p=0.9)

    def func(x):
        torch.manual_seed(6)
        return pipe(x).square()

    # The maps are float32; gradients are exact for the map that was drawn.
    assert torch.autograd.gradcheck(func, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(func, (x,), fast_mode=True)


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (2, 3, 0, 1), (27, 5, 23, 0)])
def test_reflection_in_a_fixed_order_is_the_same_with_the_same_gradient(pads):
    x = _images().requires_grad_()
    results = []
    for wanted in (False, True):
        torch.use_deterministic_algorithms(wanted)
        y = augment._reflect(x, *pads)
        (grad,) = torch.autograd.grad(y.square().sum(), x)
        results.append((y, grad))
    torch.use_deterministic_algorithms(False)
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_module_has_documented_buffers_and_no_parameters():
    pipe = AugmentPipe()
    assert {k: tuple(v.shape) for k, v in pipe.state_dict().items()} == {
        "p": (), "Hz_geom": (12,), "Hz_fbank": (4, 43)
    }  # fmt: skip
    assert not list(pipe.parameters()) and pipe.p == 1
    assert all(v.dtype == torch.float32 for v in pipe.state_dict().values())
    torch.testing.assert_close(pipe.Hz_geom.sum(), torch.ones(()))


def test_constructor_defaults_and_attributes():
    pipe = AugmentPipe()
    assert all(getattr(pipe, name) == 0 and isinstance(getattr(pipe, name), float) for name in ALL)
    assert {name: getattr(pipe, name) for name in RANGES} == RANGES
    assert pipe.imgfilter_bands == [1, 1, 1, 1]
    values = {name: k + 1 for k, name in enumerate([*ALL, *RANGES])}
    pipe = AugmentPipe(**values, imgfilter_bands=[1, 2, 3, 4])
    assert {name: getattr(pipe, name) for name in values} == values and pipe.imgfilter_bands == [1, 2, 3, 4]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda pipe: pickle.load(io.BytesIO(pickle.dumps(pipe)))])
def test_copies_behave_the_same(clone):
    pipe = _pipe(ALL, p=0.3)
    twin, x = clone(pipe), _images()
    assert type(twin) is type(pipe) and twin.init_kwargs == pipe.init_kwargs
    torch.manual_seed(8)
    first = pipe(x)
    torch.manual_seed(8)
    assert torch.equal(first, twin(x))


@pytest.mark.parametrize("images", [torch.zeros(3, 8, 8), np.zeros([1, 3, 8, 8])])
def test_refuses_other_images(images):
    with pytest.raises(ValueError, match="`images`"):
        AugmentPipe()(images)


@pytest.mark.parametrize("q", [-0.1, 1])
def test_refuses_percentiles_out_of_range(q):
    with pytest.raises(ValueError, match="`debug_percentile`"):
        AugmentPipe()(_images(), q)


def test_refuses_wrong_number_of_bands():
    with pytest.raises(ValueError, match="`imgfilter_bands`"):
        AugmentPipe(imgfilter_bands=[1, 1])


# ----------------------------------------------------------------------------- matrices and wavelets


def test_matrix_stacks_numbers_and_samples():
    t = torch.tensor([1.0, 2.0])
    assert torch.equal(augment.matrix([1, 2], [3, 4]), torch.tensor([[1.0, 2], [3, 4]]))
    assert torch.equal(augment.matrix([t, 0], [1, -t])[1], torch.tensor([[2.0, 0], [1, -2]]))
    with pytest.raises(ValueError, match="`rows`"):
        augment.matrix([1, 2], [3])


@pytest.mark.parametrize("name", ["translate2d", "scale2d", "rotate2d"])
def test_inverse_helpers_invert(name):
    args = [torch.rand(3) + 0.5 for _ in range(1 if name == "rotate2d" else 2)]
    product = getattr(augment, name)(*args) @ getattr(augment, f"{name}_inv")(*args)
    torch.testing.assert_close(product, torch.eye(3).expand(3, 3, 3))


def test_three_dimensional_helpers():
    point = torch.tensor([1.0, 2.0, 3.0, 1.0])
    assert torch.equal(augment.translate3d(1, 2, 3) @ point, torch.tensor([2.0, 4, 6, 1]))
    assert torch.equal(augment.scale3d(2, 3, 4) @ point, torch.tensor([2.0, 6, 12, 1]))
    theta = torch.tensor([0.4])
    around_z = augment.rotate3d(torch.tensor([0.0, 0, 1, 0]), theta)
    torch.testing.assert_close(around_z[:, :2, :2], augment.rotate2d(theta)[:, :2, :2])
    torch.testing.assert_close(around_z[:, 2:], torch.eye(4)[None, 2:])


def test_rotation_around_a_skew_axis_is_the_exponential_of_its_cross_product():
    axes = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1)
    angles = torch.linspace(-3, 3, 5, dtype=torch.float64)
    turns = augment.rotate3d(axes, angles)
    for (x, y, z), angle, turn in zip(axes.tolist(), angles.tolist(), turns, strict=True):
        generator = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
        torch.testing.assert_close(turn[:3, :3], torch.matrix_exp(angle * generator))
        assert turn[3].tolist() == [0, 0, 0, 1] and turn[:3, 3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", list(augment.wavelets))
def test_wavelets_are_orthonormal_with_vanishing_moments(name):
    h = np.asarray(augment.wavelets[name])
    order = len(h) // 2
    assert order == int(name.removeprefix("sym"))
    for shift in range(order):
        product = float(h[2 * shift :] @ h[: len(h) - 2 * shift])
        assert product == pytest.approx(1.0 if shift == 0 else 0.0, abs=1e-10)
    assert h.sum() == pytest.approx(math.sqrt(2), abs=1e-10)
    signs, n = (-1.0) ** np.arange(len(h)), np.arange(len(h)) / len(h)
    for moment in range(order):
        assert float((signs * n**moment) @ h) == pytest.approx(0, abs=1e-8)


def test_wavelets_used_by_the_pipe_have_the_published_values():
    assert augment.wavelets["sym2"] == [
        -0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025
    ]  # fmt: skip
    assert augment.wavelets["sym6"] == [
        0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
        0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
        0.0017677118642428036, -0.007800708325034148,
    ]  # fmt: skip
