"""benchmarks.many_names: the same pictures in each form, and the peak of a process."""

import os

import numpy as np
import pytest

from benchmarks import many_names
from layered_plugin.data.pictures import PictureSource, to_rgb


@pytest.mark.parametrize("form", many_names.FORMS)
def test_each_form_holds_so_many_pictures(tmp_path, form, monkeypatch):
    monkeypatch.setattr(many_names, "PER_FOLDER", 4)
    monkeypatch.setattr(many_names, "PER_SHARD", 4)
    source = PictureSource(many_names.make_data(tmp_path / "data", form, 11))
    assert len(source.names) == len(set(source.names)) == 11
    first, last = (np.asarray(to_rgb(source.open(source.names[idx]))) for idx in (0, -1))
    assert first.shape == (18, 18, 3) and np.array_equal(first, last)


def test_peak_is_that_of_the_process():
    before = many_names.peak_mb(os.getpid())
    block = np.ones(100_000_000, np.uint8)
    assert many_names.peak_mb(os.getpid()) > 100 and block.sum() == 100_000_000
    del block
    assert many_names.peak_mb(os.getpid()) >= before
