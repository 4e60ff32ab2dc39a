"""conv2d_resample: each case against filter and convolution done one after the other."""

import pytest
import torch
import torch.nn.functional as F
from torch_utils.ops import upfirdn2d
from torch_utils.ops.conv2d_resample import conv2d_resample


def _enlarged(padding, taps, up, down):
    """Total padding of the up-sampled image, from the documented sums."""
    sides = list(upfirdn2d.parse_padding(padding))
    for before in (0, 2):
        if up > 1:
            sides[before] += (taps + up - 1) // 2
            sides[before + 1] += (taps - up) // 2
        if down > 1:
            sides[before] += (taps - down + 1) // 2
            sides[before + 1] += (taps - down) // 2
    return sides


def _in_sequence(x, w, f, up, down, padding, groups, flip_weight, flip_filter):
    """Up-sample, pad and filter; convolve "valid"; filter and decimate."""
    w = w if flip_weight else w.flip([2, 3])
    pads = _enlarged(padding, 1 if f is None else f.shape[0], up, down)
    if up > 1:
        x = upfirdn2d.upfirdn2d(x, f, up=up, padding=pads, gain=up**2, flip_filter=flip_filter)
        x = F.conv2d(x, w, groups=groups)
        return upfirdn2d.upfirdn2d(x, f, down=down, flip_filter=flip_filter) if down > 1 else x
    x = upfirdn2d.upfirdn2d(x, f if down > 1 else None, padding=pads, flip_filter=flip_filter)
    return F.conv2d(x, w, stride=down, groups=groups)


def _inputs(kernel=3, groups=1, taps=(1, 3, 3, 1)):
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    w = torch.randn(6, 4 // groups, kernel, kernel, dtype=torch.float64)
    return x, w, upfirdn2d.setup_filter(list(taps))


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 1), (1, 3), (2, 2), (2, 3)])
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, [2, 1], [0, 1, 3, 2], [2, -1, -1, 2]])
@pytest.mark.parametrize(("groups", "flip_weight", "flip_filter"), [(1, True, False), (2, False, True)])
def test_equals_filter_and_convolution_in_sequence(up, down, kernel, padding, groups, flip_weight, flip_filter):
    x, w, f = _inputs(kernel, groups, taps=(1, 2, 4, 3))
    args = (f, up, down, padding, groups, flip_weight, flip_filter)
    torch.testing.assert_close(conv2d_resample(x, w, *args), _in_sequence(x, w, *args), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("taps", [None, [1, 1], [1, 2, 1], [1, 2, 3, 4, 5, 6, 7, 8]])
@pytest.mark.parametrize(("up", "down"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_filters_of_other_lengths(taps, up, down, kernel):
    x, w, _ = _inputs(kernel)
    f = None if taps is None else upfirdn2d.setup_filter(taps)
    args = (f, up, down, kernel // 2, 1, True, False)
    torch.testing.assert_close(conv2d_resample(x, w, *args), _in_sequence(x, w, *args), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_half_kernel_padding_gives_resampled_size(kernel, up, down):
    x, w, f = _inputs(kernel)
    y = conv2d_resample(x[..., :6, :], w, f, up=up, down=down, padding=kernel // 2)
    assert y.shape == (2, 6, 6 * up // down, 8 * up // down)


def test_groups_equal_separate_convolutions():
    x, w, f = _inputs(groups=2)
    y = conv2d_resample(x, w, f, up=2, padding=1, groups=2)
    parts = [conv2d_resample(a, b, f, up=2, padding=1) for a, b in zip(x.split(2, 1), w.split(3, 0), strict=True)]
    torch.testing.assert_close(y, torch.cat(parts, dim=1))


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_first_and_second_gradients(up, down, kernel):
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, kernel, kernel, dtype=torch.float64, requires_grad=True)
    f = upfirdn2d.setup_filter([1, 2, 1])

    def func(x, w):
        return conv2d_resample(x, w, f, up=up, down=down, padding=kernel // 2, flip_weight=up == 1)

    assert torch.autograd.gradcheck(func, (x, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(func, (x, w), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_keeps_dtype_and_channels_last(up, down, dtype):
    x = torch.randn(2, 16, 8, 8).to(dtype).contiguous(memory_format=torch.channels_last)
    w = torch.randn(16, 16, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
    y = conv2d_resample(x, w, upfirdn2d.setup_filter([1, 3, 3, 1]), up=up, down=down, padding=1)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"x": torch.zeros(4, 5, 5)}, "`x`"),
        ({"w": torch.zeros(6, 3, 3, 3)}, "`w`"),
        ({"w": torch.zeros(5, 2, 3, 3), "groups": 2}, "`w`"),
        ({"w": torch.zeros(6, 4, 3, 3, dtype=torch.float64)}, "`w`"),
        ({"up": 0}, "`up`"),
        ({"down": [2, 2]}, "`down`"),
        ({"groups": 0}, "`groups`"),
        ({"padding": [1, 2, 3]}, "`padding`"),
    ],
)
def test_refuses_wrong_arguments(kwargs, text):
    with pytest.raises(ValueError, match=text):
        conv2d_resample(**{"x": torch.zeros(1, 4, 5, 5), "w": torch.zeros(6, 4, 3, 3), **kwargs})
