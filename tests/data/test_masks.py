"""Files of true masks as people have them: what is object in each kind, and which are refused."""

import io

import numpy as np
import PIL.Image
import pytest

from layered_plugin.data.masks import mask_opacity, parse_values
from layered_plugin.errors import ArgumentError, UnusableError

OBJECT = [[False, True, True], [False, False, True]]


def stored(picture, suffix="png", **options):
    """A picture as it comes back from a file."""
    file = io.BytesIO()
    picture.save(file, suffix, **options)
    return PIL.Image.open(file)


def levels(low, middle, high, dtype=np.uint8):
    return np.array([[low, middle, high], [low, low, high]], dtype)


def palette(colors, numbers):
    picture = PIL.Image.new("P", numbers.shape[::-1])
    picture.putpalette([value for color in colors for value in color])
    picture.putdata(numbers.ravel().tolist())
    return picture


def with_alpha(colors, alpha):
    picture = PIL.Image.fromarray(np.broadcast_to(np.uint8(colors), [*alpha.shape, 3]).copy())
    picture.putalpha(PIL.Image.fromarray(alpha))
    return picture


GRAYS = [(idx, idx, idx) for idx in range(256)]
VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0)]


@pytest.mark.parametrize("picture", [
    stored(PIL.Image.fromarray(levels(0, 255, 255)).convert("1")),
    stored(PIL.Image.fromarray(levels(0, 128, 255))),
    stored(PIL.Image.fromarray(levels(127, 128, 255)).convert("RGB")),
    stored(PIL.Image.fromarray(levels(0, 0x8000, 0xFFFF, np.uint16))),
    stored(PIL.Image.fromarray(levels(0x7FFF, 0x8000, 0xFFFF, np.int32)), "tiff"),
    stored(PIL.Image.fromarray(levels(0, 255, 255, np.uint16))),  # 8 bits, stored as 16.
    stored(PIL.Image.fromarray(levels(0, 255, 255, np.float32)), "tiff"),
    stored(palette(VOC, levels(0, 1, 2))),
    stored(palette([(0, 0, 0), (255, 255, 255)], levels(0, 1, 1))),
    stored(palette([(255, 255, 255), (0, 0, 0)], levels(1, 0, 0))),  # By the colours, not the numbers.
    stored(with_alpha((0, 0, 0), levels(0, 128, 255))),  # Black as it is, and cut out.
    stored(with_alpha((9, 200, 30), levels(0, 200, 255))),
    stored(PIL.Image.merge("LA", [PIL.Image.fromarray(levels(255, 255, 0)), PIL.Image.fromarray(levels(0, 255, 255))])),
    stored(PIL.Image.fromarray(levels(0, 255, 255)).convert("RGBA")),  # Opaque all over: by its gray.
])
def test_plain_masks_are_read(picture):
    opacity = mask_opacity(picture)
    assert opacity.dtype == np.uint8 and (opacity >= 128).tolist() == OBJECT


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "I;16"])
def test_black_is_no_object(mode):
    assert not mask_opacity(stored(PIL.Image.new(mode, (3, 2), "black" if mode.startswith("RGB") else 0))).any()


def test_soft_masks_stay_soft():
    soft = np.array([[0, 100, 130, 255]], np.uint8)
    assert mask_opacity(PIL.Image.fromarray(soft)).tolist() == soft.tolist()
    assert mask_opacity(PIL.Image.fromarray(soft.astype(np.uint16) * 256 + 7)).tolist() == soft.tolist()


@pytest.mark.parametrize("picture, words", [
    (PIL.Image.fromarray(levels(0, 1, 3)), "holds values up to 3 alone, and object is from 128 on; save it with 0 and "
                                           "255, or in eval.py say what is object, such as `mask_values`=1-"),
    (PIL.Image.fromarray(levels(0, 1, 127)), "holds values up to 127 alone"),
    (PIL.Image.fromarray(levels(0, 1, 300, np.uint16)), "holds values up to 300 alone, and object is from 32768 on"),
    (with_alpha((255, 255, 255), levels(0, 9, 90)), "holds opacities up to 90 alone"),
    (palette([*VOC, *[(7, 7, 7)] * 253], levels(0, 1, 255)), "palette of colours, numbers 0 to 255, but"),
    (palette([(128, 0, 0), (0, 0, 0)], levels(0, 1, 1)), "palette of colours, numbers 0 to 1, but 0 is not black"),
    (PIL.Image.fromarray(np.stack([levels(0, 128, 128)] + [levels(0, 0, 0)] * 2, 2)), "is coloured"),
    (PIL.Image.fromarray(levels(0, 0.5, 1, np.float32)), "holds fractions"),
])
def test_what_is_not_plain_is_refused(picture, words):
    with pytest.raises(UnusableError, match=words.replace("(", r"\(")):
        mask_opacity(picture)


@pytest.mark.parametrize("picture", [
    PIL.Image.fromarray(levels(0, 1, 3)), PIL.Image.fromarray(levels(2, 1, 5, np.uint16)),
    palette([*VOC, *[(7, 7, 7)] * 253], levels(255, 1, 3)), PIL.Image.fromarray(levels(0, 1, 4)).convert("RGBA"),
])
def test_values_say_what_is_object(picture):
    assert (mask_opacity(picture, parse_values("1,3-5")) == np.where(OBJECT, 255, 0)).all()


def test_values_may_be_without_an_end():
    assert (mask_opacity(PIL.Image.fromarray(levels(0, 1, 255)), parse_values("1-")) == np.where(OBJECT, 255, 0)).all()


@pytest.mark.parametrize("text", ["", "a", "1,", "-3", "1--2", "1.5", "5-2", "1,5-2"])
def test_other_values_are_refused(text):
    with pytest.raises(ArgumentError, match="`mask_values` must be numbers and ranges such as 1,3-5 or 1-, got"):
        parse_values(text)
