"""The perturbation that makes objects emerge: a random shift of the foreground, and contrast jitter behind it.

Section 3.2 of the paper, equation 2; the jitter is setting (d) of its section 4. Both act in training only.
"""

import torch

from layered_plugin.model.layers import Layers, fold_objects, unfold_objects


def random_shift(num: int, max_px: int, device: torch.device | str = "cpu",
                 generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw N = num whole-pixel shifts (dx, dy), uniform on [-max_px, max_px]^2; [N, 2], int64, on the device.

    By torch's default generator where none is given. ValueError if num or max_px is negative.
    """
    if num < 0 or max_px < 0:
        raise ValueError(f"Expected `num` and `max_px` to be at least 0, but got {num} and {max_px}")
    return torch.randint(-max_px, max_px + 1, [num, 2], device=device, generator=generator)


def shift_images(img: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Shift every image of a batch by its own whole number of pixels; what comes in from outside is zero.

    Args:
        img: Images, [N, C, H, W], any float dtype.
        shift: (dx, dy) per image in pixels, [N, 2], integer; as in Eq. 2, out[p] = img[p + shift]: positive numbers
            move what is there to the left and up, the other way than ``encoder.Codes.shift``.

    Returns:
        Shifted images, [N, C, H, W], dtype of img.

    Raises:
        ValueError: If img is not of rank 4, or shift is not an integer tensor [N, 2].

    One gather along each axis of a zero-padded copy, no loop over samples.
    """
    if img.ndim != 4:
        raise ValueError(f"Expected argument `img` to be [N, C, H, W], but got {list(img.shape)}")
    if shift.shape != (img.shape[0], 2) or shift.is_floating_point():
        raise ValueError(f"Expected argument `shift` to be an integer tensor [{img.shape[0]}, 2], "
                         f"but got {shift.dtype} {list(shift.shape)}")
    num, _channels, height, width = img.shape
    dx, dy = shift.to(img.device).unbind(1)
    cols = torch.arange(width, device=img.device) + dx[:, None]  # [N, W]
    rows = torch.arange(height, device=img.device) + dy[:, None]  # [N, H]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((cols >= 0) & (cols < width))[:, None, :]
    source = rows.clamp(0, height - 1)[:, :, None] * width + cols.clamp(0, width - 1)[:, None, :]  # [N, H, W]
    moved = img.flatten(2).gather(2, source.view(num, 1, -1).expand(-1, img.shape[1], -1)).view_as(img)
    return moved * inside[:, None].to(img.dtype)


def shift_foreground(layers: Layers, shift: torch.Tensor) -> Layers:
    """Shift the foreground of each object and its mask together, leave the background where it is (Eq. 2).

    Args:
        layers: Scene of N pictures with K objects.
        shift: (dx, dy) per object in pixels, [N * K, 2], integer, the K of a picture in a row; positive numbers move
            to the left and up, see ``shift_images``.

    Returns:
        The scene to composite; a mask is 0 where nothing was moved in.
    """
    objects = fold_objects(layers)
    moved = shift_images(torch.cat([objects.fg, objects.mask], dim=1), shift)
    return unfold_objects(objects._replace(fg=moved[:, :-1], mask=moved[:, -1:]), layers.bg)


def jitter_contrast(img: torch.Tensor, strength: float) -> torch.Tensor:
    """Multiply each image's contrast about its own mean by a random factor (section 4, setting d).

    Args:
        img: Images, [N, C, H, W].
        strength: Half width s of the factor's range [1 - s, 1 + s], in [0, 1]; 0 = off.

    Returns:
        Images [N, C, H, W], clamped to each image's own range before the jitter, so that no new extreme appears.

    Raises:
        ValueError: If strength is outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"Expected argument `strength` to be in [0, 1], but got {strength}")
    if strength == 0:
        return img
    uniform = torch.rand([img.shape[0], 1, 1, 1], device=img.device)
    factor = (1 + strength * (2 * uniform - 1)).to(img.dtype)
    mean = img.mean(dim=[1, 2, 3], keepdim=True)
    low, high = img.detach().amin(dim=[1, 2, 3], keepdim=True), img.detach().amax(dim=[1, 2, 3], keepdim=True)
    return torch.lerp(mean, img, factor).clamp(low, high)
