"""Settings that a folder of results was made with: of an older version they go on, of a later one they are named."""

import json

import pytest
from tiny_models import make_model, make_pictures

from layered_plugin.errors import PictureError
from layered_plugin.segmentation.segment_files import segment_files
from layered_plugin.segmentation.segmenter import Segmenter


def test_settings_of_an_older_version_have_the_defaults(tmp_path):
    data = make_pictures(tmp_path / "cars")
    segmenter = Segmenter.load(make_model(tmp_path / "00001-distill"), "cpu")
    segment_files(segmenter, data, tmp_path / "out")
    file = tmp_path / "out" / "segment.json"
    settings = json.loads(file.read_text())
    assert settings["margin"] == segmenter.margin
    for name in ("sharp", "min_confidence", "prior", "batch", "work"):
        del settings[name]
    file.write_text(json.dumps(settings))
    assert segment_files(segmenter, data, tmp_path / "out").skipped == 3
    file.write_text(json.dumps(dict(settings, later=1)))
    with pytest.raises(PictureError, match=r"segment\.json: unknown key later"):
        segment_files(segmenter, data, tmp_path / "out")
