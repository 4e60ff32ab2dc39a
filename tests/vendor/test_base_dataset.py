"""Tests of training.dataset: index lists, labels, folders, zip files and damaged input.

Images are written with Pillow and compared as arrays.
"""

import copy
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from training.dataset import Dataset, ImageFolderDataset


class _Counting(Dataset):
    """Image i is filled with i, its first column with 255; labels as given."""

    def __init__(self, num: int = 10, labels: np.ndarray | None = None, **kwargs) -> None:
        self.labels = labels
        super().__init__(name="counting", raw_shape=[num, 1, 2, 3], **kwargs)

    def _load_raw_image(self, raw_idx: int) -> np.ndarray:
        image = np.full([1, 2, 3], raw_idx, dtype=np.uint8)
        image[:, :, 0] = 255
        return image

    def _load_raw_labels(self) -> np.ndarray | None:
        return self.labels


def _raw_indices(dataset: Dataset) -> list[int]:
    return [dataset.get_details(i).raw_idx for i in range(len(dataset))]


def test_max_size_keeps_the_documented_choice() -> None:
    order = np.arange(10)
    np.random.RandomState(7).shuffle(order)
    assert _raw_indices(_Counting(max_size=4, random_seed=7)) == sorted(order[:4].tolist())
    assert _raw_indices(_Counting(max_size=10, random_seed=7)) == list(range(10))


def test_xflip_appends_mirrored_copies_of_the_chosen_images() -> None:
    dataset = _Counting(max_size=3, xflip=True)
    half = _raw_indices(dataset)[:3]
    assert len(dataset) == 6 and _raw_indices(dataset)[3:] == half
    assert [dataset.get_details(i).xflip for i in range(6)] == [False] * 3 + [True] * 3
    for i in range(3):
        assert np.array_equal(dataset[i + 3][0], dataset[i][0][:, :, ::-1])
    assert dataset[3][0][0, 0].tolist() == [half[0], half[0], 255]


def test_items_are_copies_that_a_data_loader_can_stack() -> None:
    image, label = next(iter(torch.utils.data.DataLoader(_Counting(xflip=True), batch_size=20)))
    assert image.shape == (20, 1, 2, 3) and image.dtype == torch.uint8
    assert label.shape == (20, 0) and label.dtype == torch.float32


def test_class_labels_are_one_hot_over_the_raw_set() -> None:
    labels = np.array([2, 0, 1, 4], dtype=np.int64)
    dataset = _Counting(4, labels, use_labels=True, max_size=2, xflip=True)
    assert (dataset.label_shape, dataset.label_dim) == ([5], 5)
    assert dataset.has_labels and dataset.has_onehot_labels
    for i in range(4):
        details = dataset.get_details(i)
        assert details.raw_label == labels[details.raw_idx]
        assert dataset.get_label(i).tolist() == np.eye(5)[details.raw_label].tolist()
    assert dataset[0][1].dtype == np.float32


def test_vector_labels_are_copied_as_they_are() -> None:
    labels = np.arange(8, dtype=np.float32).reshape(4, 2)
    dataset = _Counting(4, labels, use_labels=True)
    assert (dataset.label_shape, dataset.has_onehot_labels) == ([2], False)
    dataset.get_label(1)[:] = 9
    assert dataset.get_label(1).tolist() == [2, 3]


@pytest.mark.parametrize("kwargs", [{}, {"use_labels": True}])
def test_missing_labels_have_length_zero(kwargs) -> None:
    dataset = _Counting(**kwargs)
    assert dataset.label_dim == 0 and not dataset.has_labels and not dataset.has_onehot_labels
    assert dataset.get_label(0).shape == (0,)


@pytest.mark.parametrize(
    "labels",
    [np.array([0, -1, 1, 2]), np.zeros(3, dtype=np.int64), np.zeros(4, dtype=np.float32), np.zeros([4, 2])],
)
def test_wrong_labels_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(OSError, match="labels for counting"):
        _Counting(4, labels, use_labels=True).get_label(0)


def test_properties_and_their_limits() -> None:
    dataset = _Counting()
    assert (dataset.name, dataset.image_shape, dataset.num_channels) == ("counting", [1, 2, 3], 1)
    with pytest.raises(ValueError, match="square"):
        _ = dataset.resolution
    with pytest.raises(ValueError, match="`max_size`"):
        _Counting(max_size=-1)
    with pytest.raises(ValueError, match="`raw_shape`"):
        Dataset(name="x", raw_shape=[1, 2, 3])


def test_pickling_drops_cached_labels() -> None:
    dataset = _Counting(4, np.arange(4), use_labels=True)
    assert dataset.label_dim == 4
    assert copy.deepcopy(dataset)._label_cache is None and dataset._label_cache is not None


def _write(folder: Path, images: dict[str, np.ndarray], labels=None) -> Path:
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(folder / name)
    if labels is not None:
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def _zip(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as file:
        for source in sorted(folder.rglob("*"), reverse=True):
            if source.is_file():
                file.write(source, source.relative_to(folder).as_posix())
    return path


def _images(channels: int | None) -> dict[str, np.ndarray]:
    shape = [8, 8] if channels is None else [8, 8, channels]
    names = ("00001/img00001000.png", "00000/img00000001.PNG", "00000/img00000000.png")
    return {name: np.random.randint(0, 256, shape, dtype=np.uint8) for name in names}


@pytest.mark.parametrize("channels", [None, 3, 4])
@pytest.mark.parametrize("pack", [lambda folder: folder, _zip])
def test_folder_and_zip_give_the_same_images_in_order(tmp_path: Path, pack, channels: int | None) -> None:
    images = _images(channels)
    dataset = ImageFolderDataset(str(pack(_write(tmp_path / "some data", images))), resolution=8)
    assert dataset.name == "some data" and len(dataset) == 3 and dataset.resolution == 8
    assert dataset.image_shape == [channels or 1, 8, 8]
    for i, name in enumerate(sorted(images)):
        expected = images[name][np.newaxis] if channels is None else images[name].transpose(2, 0, 1)
        assert np.array_equal(dataset[i][0], expected)
    dataset.close()
    assert dataset[0][0].shape == (channels or 1, 8, 8)
    dataset.close()


@pytest.mark.parametrize("pack", [lambda folder: folder, _zip])
@pytest.mark.parametrize("values", [[2, 0, 1], [[1.5, 2], [3, 4], [5, 6]]])
def test_labels_are_found_by_file_name(tmp_path: Path, pack, values) -> None:
    images = _images(3)
    names = sorted(images)
    entries = list(zip(names, values, strict=True))[::-1]
    dataset = ImageFolderDataset(str(pack(_write(tmp_path / "d", images, entries))), use_labels=True, xflip=True)
    expected = np.eye(3)[values] if isinstance(values[0], int) else np.array(values)
    assert np.array_equal(np.stack([dataset.get_label(i) for i in range(6)]), np.tile(expected, [2, 1]))
    dataset.close()


@pytest.mark.parametrize("labels", [None, "null"])
def test_absent_labels_are_none(tmp_path: Path, labels) -> None:
    folder = _write(tmp_path / "d", _images(3))
    if labels is not None:
        (folder / "dataset.json").write_text('{"labels": null}')
    assert not ImageFolderDataset(str(folder), use_labels=True).has_labels


def test_pickled_zip_dataset_opens_its_own_file(tmp_path: Path) -> None:
    dataset = ImageFolderDataset(str(_zip(_write(tmp_path / "d", _images(3)))))
    twin = pickle.loads(pickle.dumps(dataset))
    assert dataset._zip is not None and twin._zip is None
    assert np.array_equal(twin[1][0], dataset[1][0])
    dataset.close()
    twin.close()


def test_forked_workers_do_not_share_the_position_in_the_zip(tmp_path: Path, monkeypatch) -> None:
    dataset = ImageFolderDataset(str(_zip(_write(tmp_path / "d", _images(3)))))
    parent = dataset._open_zip()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    child = dataset._open_zip()
    assert child is not parent and dataset._open_zip() is child
    for handle in (parent, child):
        handle.close()


def _missing(folder: Path) -> str:
    return str(folder / "nowhere")


def _empty(folder: Path) -> str:
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")
    return str(folder)


def _broken_zip(folder: Path) -> str:
    path = folder.with_suffix(".zip")
    path.write_bytes(b"not a zip")
    return str(path)


def _broken_first_image(folder: Path) -> str:
    folder.mkdir()
    (folder / "bad.png").write_bytes(b"not a picture")
    return str(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [(_missing, "nowhere"), (_empty, "No image"), (_broken_zip, r"\.zip"), (_broken_first_image, r"bad\.png")],
)
def test_unusable_paths_are_named(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(OSError, match=message):
        ImageFolderDataset(make(tmp_path / "d"))


def test_wrong_resolution_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"16 x 16.*8 x 8.*img00000000\.png"):
        ImageFolderDataset(str(_write(tmp_path / "d", _images(3))), resolution=16)


@pytest.mark.parametrize(
    "odd",
    [np.zeros([8, 8], np.uint8), np.zeros([4, 8, 3], np.uint8), np.zeros([8, 8], bool), "truncated"],
)
def test_an_image_unlike_the_first_is_named(tmp_path: Path, odd) -> None:
    folder = _write(tmp_path / "d", {"a.png": np.random.randint(0, 256, [8, 8, 3], dtype=np.uint8)})
    if isinstance(odd, str):
        (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
    else:
        _write(folder, {"b.png": odd})
    dataset = ImageFolderDataset(str(folder))
    assert dataset[0][0].shape == (3, 8, 8)
    with pytest.raises(OSError, match=r"b\.png"):
        _ = dataset[1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["00000/img00000000.png", 1]], "img00000001"),
        (3, "Cannot read labels"),
        ([[name, [0.5] * length] for length, name in enumerate(sorted(_images(3)))], "labels"),
        ([[name, "cat"] for name in _images(3)], "class indices"),
        ([[name, 0.5] for name in _images(3)], "class indices"),
    ],
)
def test_unusable_label_files_are_named(tmp_path: Path, labels, message: str) -> None:
    folder = _write(tmp_path / "d", _images(3), labels)
    with pytest.raises(OSError, match=rf"{message}(.|\n)*dataset\.json|dataset\.json(.|\n)*{message}"):
        ImageFolderDataset(str(folder), use_labels=True).get_label(0)
