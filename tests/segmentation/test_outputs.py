"""Results as files: what is encoded comes back, and masks are small."""

import io

import numpy as np
import PIL.Image
import pytest
from PIL.Image import Resampling

from layered_plugin.segmentation.outputs import encode_png


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_png_holds_the_picture(mode):
    pixels = np.random.RandomState(0).randint(0, 256, [21, 33, 4], np.uint8)
    picture = PIL.Image.fromarray(pixels, "RGBA").convert(mode)
    found = PIL.Image.open(io.BytesIO(encode_png(picture)))
    assert found.format == "PNG" and found.mode == mode
    np.testing.assert_array_equal(np.asarray(found), np.asarray(picture))


def test_mask_takes_fewer_bytes_than_pillow_gives_it():
    mask = PIL.Image.fromarray(np.random.RandomState(0).randint(0, 256, [6, 8], np.uint8))
    mask = mask.resize((400, 300), Resampling.BICUBIC).point(lambda level: 255 * (level >= 128))
    usual = io.BytesIO()
    mask.save(usual, "png")
    assert len(encode_png(mask)) < usual.tell()


def test_cut_out_takes_fewer_bytes_than_pillow_gives_it_at_the_quickest_level():
    coarse = PIL.Image.fromarray(np.random.RandomState(0).randint(0, 256, [6, 8, 3], np.uint8))
    cutout = coarse.resize((400, 300), Resampling.BICUBIC)
    cutout.putalpha(coarse.convert("L").resize((400, 300)).point(lambda level: 255 * (level >= 128)))
    usual = io.BytesIO()
    cutout.save(usual, "png", compress_level=1)
    assert len(encode_png(cutout)) < usual.tell()
