"""benchmarks.segment_scale: what decodes and encodes alone writes what the command writes, and every share is of it."""

import numpy as np
import PIL.Image
import pytest

from benchmarks import segment_scale
from layered_plugin.segmentation.outputs import encode_png


@pytest.mark.parametrize("encode", [encode_png, segment_scale.usual_png])
def test_decoding_and_encoding_alone_writes_masks_and_cutouts(tmp_path, encode):
    photos = sorted(segment_scale.make_photos(tmp_path / "photos", 3).iterdir())
    (tmp_path / "first/masks").mkdir(parents=True)
    for path in photos:
        mask = np.zeros(np.asarray(PIL.Image.open(path)).shape[:2], np.uint8)
        mask[100:200, 50:] = 255
        PIL.Image.fromarray(mask).save(tmp_path / f"first/masks/{path.stem}.png")
    segment_scale.alone(photos[:2], tmp_path / "out", tmp_path / "first", encode)
    segment_scale.alone(photos[2:], tmp_path / "out", tmp_path / "first", encode)
    for path in photos:
        mask = np.asarray(PIL.Image.open(tmp_path / f"first/masks/{path.stem}.png"))
        np.testing.assert_array_equal(PIL.Image.open(tmp_path / f"out/masks/{path.stem}.png"), mask)
        cutout = np.asarray(PIL.Image.open(tmp_path / f"out/cutouts/{path.stem}.png"))
        np.testing.assert_array_equal(cutout[:, :, 3], mask)
        np.testing.assert_array_equal(cutout[:, :, :3], np.asarray(PIL.Image.open(path)) * (mask > 0)[:, :, None])


def test_shares_are_rates_of_the_command_by_those_of_decoding_and_encoding(monkeypatch):
    clock = iter(np.cumsum([0, 4, 0, 2, 0, 8, 0, 10, 0, 5, 0, 10]).tolist())  # Seconds of three works, twice.
    monkeypatch.setattr(segment_scale.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(segment_scale.subprocess, "run", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(segment_scale, "ProcessPoolExecutor", NoProcesses)
    record = segment_scale.by_the_clock(num=4, rounds=2, model="model", workers=2)
    assert record["pictures_per_second"] == dict(segment=0.7, alone=1.4, alone_usual=0.45)
    assert record["share_of_alone"] == 0.5 and record["share_of_alone_usual_range"] == [1.0, 2.0]


class NoProcesses:
    """Takes work, and does none."""

    def __init__(self, *_args):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        pass

    def submit(self, *_args):
        return self

    def result(self):
        pass
