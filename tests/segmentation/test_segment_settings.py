"""Settings that a folder of results was made with: of an older version they go on, of a later one they are named."""

import json
import shutil

import pytest
from tiny_models import make_model, make_pictures, small_resnet

from layered_plugin.errors import ModelError, PictureError
from layered_plugin.segmentation.model_file import weights_hash
from layered_plugin.segmentation.segment_files import segment_files
from layered_plugin.segmentation.segmenter import Refinement, Segmenter


def test_settings_of_an_older_version_have_the_defaults(tmp_path):
    data = make_pictures(tmp_path / "cars")
    segmenter = Segmenter.load(make_model(tmp_path / "00001-distill"), "cpu")
    segment_files(segmenter, data, tmp_path / "out")
    file = tmp_path / "out" / "segment.json"
    settings = json.loads(file.read_text())
    assert settings["margin"] == segmenter.margin
    for name in ("sharp", "min_confidence", "prior", "batch", "work", "weights", "prior_weights"):
        del settings[name]
    file.write_text(json.dumps(settings))
    assert segment_files(segmenter, data, tmp_path / "out").skipped == 3
    file.write_text(json.dumps(dict(settings, later=1)))
    with pytest.raises(PictureError, match=r"segment\.json: unknown key later"):
        segment_files(segmenter, data, tmp_path / "out")


@pytest.mark.parametrize("kind, again", [("distill", "distill"), ("encoder", "encoder"), ("chunks", "chunks"),
                                         ("encoder", "prior")])
def test_results_of_a_model_that_was_trained_anew_are_not_mixed_in(tmp_path, monkeypatch, kind, again):
    monkeypatch.setattr("torchvision.models.resnet18", small_resnet)
    data = make_pictures(tmp_path / "cars")
    prior = make_model(tmp_path / "prior") if again == "prior" else None
    model = make_model(tmp_path / "model", kind)
    anew, before = (prior, "distill") if again == "prior" else (model, kind)

    def segment():
        refinement = Refinement() if prior is None else Refinement(refine=1, prior=Segmenter.load(prior, "cpu"))
        return segment_files(Segmenter.load(model, "cpu"), data, tmp_path / "out", refinement=refinement)

    assert (segment().done, segment().skipped) == (3, 3)
    shutil.rmtree(anew)
    make_model(anew, before, seed=1)
    word = "prior" if again == "prior" else "model"
    with pytest.raises(ModelError, match=f"holds results of another training of the same {word}; choose another"):
        segment()


def test_each_chunk_counts_in_a_models_hash(tmp_path):
    model = make_model(tmp_path / "model", "chunks")
    before, file = weights_hash(model), model / "chunk-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert weights_hash(model) != before
