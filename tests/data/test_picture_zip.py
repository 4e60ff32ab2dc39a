"""Data sets on disk: the host's file names and labels, equal bytes for equal input, nothing half-written."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layered_plugin.data.mask_files import read_pairs
from layered_plugin.data.picture_zip import PictureZipWriter
from layered_plugin.errors import MaskError, PictureError


def _pictures(num: int, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (num, size, size)
    return rng.integers(0, 256, (*shape, 3), dtype=np.uint8), rng.integers(0, 256, shape, dtype=np.uint8)


def _write(path: Path, pictures: np.ndarray, labels: list | None = None) -> Path:
    with PictureZipWriter(path) as writer:
        for index, picture in enumerate(pictures):
            writer.add(picture, None if labels is None else labels[index])
    return path


def test_names_follow_the_host_and_entries_are_stored(tmp_path: Path) -> None:
    with zipfile.ZipFile(_write(tmp_path / "a.zip", np.zeros((1001, 4, 4), np.uint8))) as archive:
        names = archive.namelist()
        assert names[0] == "00000/img00000000.png"
        assert names[1000] == "00001/img00001000.png"
        assert names[1001] == "dataset.json"
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_pictures_and_masks_come_back_unchanged(tmp_path: Path) -> None:
    pictures, masks = _pictures(5)
    got_pictures, got_masks = read_pairs(_write(tmp_path / "p.zip", pictures), _write(tmp_path / "m.zip", masks))
    assert np.array_equal(got_pictures, pictures.transpose(0, 3, 1, 2))
    assert np.array_equal(got_masks, masks)
    assert got_pictures.dtype == got_masks.dtype == np.uint8


def test_masks_are_gray_png(tmp_path: Path) -> None:
    with zipfile.ZipFile(_write(tmp_path / "m.zip", _pictures(1)[1])) as archive:
        with Image.open(io.BytesIO(archive.read("00000/img00000000.png"))) as mask:
            assert (mask.format, mask.mode) == ("PNG", "L")


@pytest.mark.parametrize("labels, expected", [
    (None, None),
    ([3, 0], [["00000/img00000000.png", 3], ["00000/img00000001.png", 0]]),
    ([[0.5, 1.0], [0.0, 2.0]], [["00000/img00000000.png", [0.5, 1.0]], ["00000/img00000001.png", [0.0, 2.0]]]),
    ([3, None], None),
])
def test_labels_are_a_complete_list_or_null(tmp_path: Path, labels: list | None, expected: list | None) -> None:
    with zipfile.ZipFile(_write(tmp_path / "a.zip", _pictures(2)[0], labels)) as archive:
        assert json.loads(archive.read("dataset.json")) == {"labels": expected}


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    pictures = _pictures(3)[0]
    first, second = _write(tmp_path / "a.zip", pictures), _write(tmp_path / "b.zip", pictures)
    assert first.read_bytes() == second.read_bytes()


def test_failure_leaves_the_older_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.zip", _pictures(1)[0])
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="stop"), PictureZipWriter(path) as writer:
        writer.add(np.zeros((8, 8), np.uint8))
        raise RuntimeError("stop")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_only_when_complete(tmp_path: Path) -> None:
    with PictureZipWriter(tmp_path / "a.zip") as writer:
        writer.add(np.zeros((8, 8), np.uint8))
        assert not (tmp_path / "a.zip").exists()
    assert (tmp_path / "a.zip").exists()


@pytest.mark.parametrize("picture", [
    np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8), np.zeros((3, 8, 8), np.uint8), np.zeros(8, np.uint8),
])
def test_other_pictures_are_refused(tmp_path: Path, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="`picture`"), PictureZipWriter(tmp_path / "a.zip") as writer:
        writer.add(picture)


def test_other_file_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`dest` to be a path ending in \.zip"):
        PictureZipWriter(tmp_path / "a.tar")


def test_pairs_that_do_not_match_are_named(tmp_path: Path) -> None:
    pictures, masks = _pictures(3)
    good = _write(tmp_path / "p.zip", pictures)
    with pytest.raises(MaskError, match=r"fewer\.zip: no mask for picture 00000/img00000002\.png of .*p\.zip"):
        read_pairs(good, _write(tmp_path / "fewer.zip", masks[:2]))
    with pytest.raises(MaskError, match=r"smaller\.zip: mask 00000/img00000000\.png is 4x4, its picture 8x8"):
        read_pairs(good, _write(tmp_path / "smaller.zip", masks[:, :4, :4]))
    with pytest.raises(MaskError, match=r"missing\.zip: neither a folder nor a readable zip"):
        read_pairs(good, tmp_path / "missing.zip")
    with pytest.raises(PictureError, match=r"empty\.zip: holds no pictures"):
        read_pairs(_write(tmp_path / "empty.zip", masks[:0]), good)


def test_pairs_of_other_sizes_are_named(tmp_path: Path) -> None:
    with PictureZipWriter(tmp_path / "a.zip") as writer:
        for size in (8, 4):
            writer.add(np.zeros((size, size), np.uint8))
    with pytest.raises(PictureError, match=r"a\.zip: 00000/img00000001\.png is 4x4, the first one 8x8"):
        read_pairs(tmp_path / "a.zip", tmp_path / "a.zip")


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    good = _write(tmp_path / "m.zip", _pictures(1)[1])
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("00000/img00000000.png", b"no picture")
    with pytest.raises(PictureError, match=r"p\.zip: cannot read picture 00000/img00000000\.png"):
        read_pairs(tmp_path / "p.zip", good)
