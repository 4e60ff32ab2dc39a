"""Labels of generated scenes: those of the training's pictures, in their shares, or every class alike."""

import json

import pytest
import torch
from tiny_models import make_pictures

from layered_plugin.data.labels import Labels, labels_of_training

NAMES = ["a.png", "b.png", "c.png", "d.png"]


def conditional(folder, values=(0, 2, 2, 2)):
    """Pictures of one class 0 and three classes 2, and what a snapshot says of them."""
    make_pictures(folder, NAMES)
    (folder / "dataset.json").write_text(json.dumps(dict(labels=list(zip(NAMES, values, strict=True)))))
    return dict(class_name="layered_plugin.data.dataset.PictureDataset", path=str(folder), size_px=8, use_labels=True)


def drawn(labels, num=400, seed=0):
    return labels.draw(num, torch.Generator().manual_seed(seed))


def test_without_a_data_set_every_class_is_equally_likely():
    c = drawn(Labels(4))
    assert c.dtype == torch.float32 and torch.equal(c.sum(dim=1), torch.ones(400))
    assert c.mean(dim=0).tolist() == pytest.approx([0.25] * 4, abs=0.08)


def test_an_unconditional_generator_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert Labels(0).draw(5, generator).shape == (5, 0) and torch.equal(before, generator.get_state())
    assert labels_of_training(None, 0).draw(5, generator).shape == (5, 0)


def test_labels_come_in_the_shares_of_the_training(tmp_path, capsys):
    c = drawn(labels_of_training(conditional(tmp_path / "data"), 3))
    assert c.mean(dim=0).tolist() == pytest.approx([0.25, 0, 0.75], abs=0.08)
    assert torch.equal(c, drawn(labels_of_training(conditional(tmp_path / "data"), 3)))
    assert capsys.readouterr().err == ""


def test_vectors_are_labels_too(tmp_path):
    values = [[0.5, 1.0], [0.5, 2.0], [0.5, 3.0], [0.5, 4.0]]
    c = drawn(labels_of_training(conditional(tmp_path / "data", values), 2))
    assert set(c[:, 0].tolist()) == {0.5} and set(c[:, 1].tolist()) == {1.0, 2.0, 3.0, 4.0}


@pytest.mark.parametrize("spoil, words", [
    (lambda kwargs: None, "does not name its data set"),
    (lambda kwargs: dict(kwargs, path="gone"), "gone"),
    (lambda kwargs: dict(kwargs, use_labels=False), "Expected labels of length 3, but got [0]"),
    (lambda kwargs: dict(kwargs, class_name="somebody.Else"), "somebody"),
])
def test_labels_that_are_not_at_hand_are_said_to_be_drawn_alike(tmp_path, capsys, spoil, words):
    labels = labels_of_training(spoil(conditional(tmp_path / "data")), 3)
    assert drawn(labels).mean(dim=0).tolist() == pytest.approx([1 / 3] * 3, abs=0.08)
    said = capsys.readouterr().err
    assert said.startswith("Labels: every class equally likely") and words in said and said.count("\n") == 1


def test_labels_of_another_length_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"length 5, but got \[3\]"):
        Labels(5, labels_of_training(conditional(tmp_path / "data"), 3).dataset)
