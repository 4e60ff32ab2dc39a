"""Classes as WebDataset has them, beside the pictures."""

import io
import json
import tarfile

import numpy as np
import PIL.Image
import pytest

from layered_plugin.data.dataset import PictureDataset
from layered_plugin.errors import PictureError


def write_shard(path, files):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def encoded():
    data = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(data, "png")
    return data.getvalue()


def dataset(folder, classes, suffix="cls"):
    """Two shards with a picture for each class; None = without."""
    folder.mkdir(exist_ok=True)
    for number in range(2):
        files = {}
        for idx, content in list(enumerate(classes))[number::2]:
            files[f"{idx:04d}.png"] = encoded()
            if content is not None:
                files[f"{idx:04d}.{suffix}"] = content
        write_shard(folder / f"data-{number}.tar", files)
    return PictureDataset(path=folder, size_px=8, use_labels=True)


def test_classes_of_shards_are_labels(tmp_path):
    found = dataset(tmp_path / "shards", [b"2", b"0", b"1\n", b"1"])  # The order is 0, 2, then 1, 3.
    assert found.label_shape == [3]
    np.testing.assert_array_equal(np.stack([found.get_label(idx) for idx in range(4)]).argmax(axis=1), [2, 1, 0, 1])


def test_shards_without_classes_have_no_labels(tmp_path):
    assert dataset(tmp_path / "shards", [None] * 4).label_shape == [0]


@pytest.mark.parametrize("classes, text", [
    ([b"2", b"0", b"1", None], r"has classes in \.cls but none for data-1\.tar/0003\.png"),
    ([b"2", b"dog", b"1", b"0"], r"data-1\.tar/0001\.cls: no class number"),
    ([b"2", b"0", b"-1", b"0"], r"\.cls: labels must be class indices from 0 on"),
    ([b"2", b"0", b"1000000000", b"0"], r"\.cls: more than 100000 classes"),
])
def test_classes_of_no_use_are_named(tmp_path, classes, text):
    with pytest.raises(PictureError, match=text):
        _ = dataset(tmp_path / "shards", classes).label_shape


def json_of(labels):
    return [None if label is None else json.dumps(label).encode() for label in labels]


@pytest.mark.parametrize("key", ["cls", "label"])
def test_classes_in_json_are_labels(tmp_path, key):
    found = dataset(tmp_path / "shards", json_of([{key: 2, "caption": "a dog"}, {key: 0}, {key: 1}, {key: 1}]), "json")
    np.testing.assert_array_equal(np.stack([found.get_label(idx) for idx in range(4)]).argmax(axis=1), [2, 1, 0, 1])


@pytest.mark.parametrize("labels", [
    [{"caption": "a dog"}] * 4, [{"label": "dog"}] * 4, [["dog"], {"label": 1}, {"label": 1}, {"label": 1}],
])
def test_json_without_a_class_in_the_first_is_no_label(tmp_path, labels):
    """It may hold anything else, such as captions; a word is no class."""
    assert dataset(tmp_path / "shards", json_of(labels), "json").label_shape == [0]


@pytest.mark.parametrize("labels, text", [
    ([{"label": 2}, {"label": 0}, {"label": 1}, None], r"has classes in \.json but none for data-1\.tar/0003\.png"),
    ([{"label": 2}, {"label": "dog"}, {"label": 1}, {"label": 1}], r"data-1\.tar/0001\.json: no class number"),
    ([{"label": 2}, {"label": True}, {"label": 1}, {"label": 1}], r"data-1\.tar/0001\.json: no class number"),
    ([{"label": 2}, [1], {"label": 1}, {"label": 1}], r"data-1\.tar/0001\.json: no class number"),
    ([{"label": 2}, {"cls": 1}, {"label": 1}, {"label": 1}], r"data-1\.tar/0001\.json: no class number under label"),
    ([{"label": 2}, {"label": 0}, {"label": -1}, {"label": 0}], r"\.json: labels must be class indices from 0 on"),
])
def test_json_of_no_use_is_named(tmp_path, labels, text):
    with pytest.raises(PictureError, match=text):
        _ = dataset(tmp_path / "shards", json_of(labels), "json").label_shape


def test_damaged_json_is_named(tmp_path):
    with pytest.raises(PictureError, match=r"data-0\.tar/0000\.json: damaged"):
        _ = dataset(tmp_path / "shards", [b"{", b"{}"], "json").label_shape
