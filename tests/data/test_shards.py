"""Folders of tars, such as WebDataset's: their pictures one after the other, from their places in the files."""

import io
import pickle
import tarfile
import zipfile

import numpy as np
import PIL.Image
import pytest

from layered_plugin.data.dataset import PictureDataset
from layered_plugin.data.decoded import _key
from layered_plugin.data.fingerprint import fingerprint, what_changed
from layered_plugin.data.pictures import PictureSource
from layered_plugin.data.tars import Shards, Tar
from layered_plugin.errors import PictureError


def write_shard(path, names, seed=0):
    """A tar of pictures of noise, each with a text beside it; the pictures."""
    pictures = {}
    with tarfile.open(path, "w") as tar:
        for idx, name in enumerate(names):
            pixels = np.random.RandomState(seed + idx).randint(0, 256, [8, 8, 3], dtype=np.uint8)
            one = path.with_name("one")
            PIL.Image.fromarray(pixels).save(one, format="PNG")
            tar.add(one, f"./{name}.png")
            one.write_text("words")
            tar.add(one, f"./{name}.txt")
            one.unlink()
            pictures[f"{path.name}/{name}.png"] = pixels
    return pictures


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    pictures = {}
    for number in (1, 0):
        pictures |= write_shard(folder / f"cars-{number:06d}.tar", [f"{number}a", f"{number}b"], seed=10 * number)
    (folder / "notes.txt").write_text("no picture")
    return folder, pictures


def test_a_folder_of_tars_is_their_pictures_in_order(shards):
    folder, pictures = shards
    source = PictureSource(folder)
    assert source.names == sorted(pictures) and len(source) == 4
    for name, pixels in pictures.items():
        np.testing.assert_array_equal(np.asarray(source.open(name)), pixels)
        assert source.size(name) == len(source.read(name))
    assert source.read("cars-000001.tar/1b.txt") == b"words"
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(np.asarray(again.open(source.names[0])), pictures[source.names[0]])


def test_a_folder_with_pictures_of_its_own_is_these(shards):
    folder, pictures = shards
    PIL.Image.fromarray(next(iter(pictures.values()))).save(folder / "own.png")
    assert PictureSource(folder).names == ["own.png"]


def test_training_reads_them(shards):
    folder, pictures = shards
    data = PictureDataset(path=folder, size_px=8)
    for idx, name in enumerate(sorted(pictures)):
        np.testing.assert_array_equal(data[idx][0], pictures[name].transpose(2, 0, 1))


def test_a_shard_more_or_another_is_a_change(shards):
    folder, _ = shards
    before, key = fingerprint(folder), _key(PictureSource(folder), [8], [0])
    assert what_changed(before, fingerprint(folder)) is None and before["num"] == 4
    assert _key(PictureSource(folder), [8], [0]) == key
    write_shard(folder / "cars-000002.tar", ["2a"])
    assert "had 4 pictures" in what_changed(before, fingerprint(folder))
    assert _key(PictureSource(folder), [8], [0]) != key


def test_a_shard_that_is_cut_off_is_named(shards):
    folder, _ = shards
    source = PictureSource(folder)
    (folder / "cars-000001.tar").write_bytes((folder / "cars-000001.tar").read_bytes()[:700])
    with pytest.raises(PictureError, match="cars-000001.tar/1a.png"):
        source.open("cars-000001.tar/1a.png")


def test_what_is_no_tar_is_refused(shards):
    folder, _ = shards
    (folder / "cars-000003.tar").write_bytes(b"no tar " * 200)
    with pytest.raises(PictureError, match="neither a folder nor a readable zip or tar"):
        PictureSource(folder)


def test_a_file_that_is_not_there_is_a_key_error(shards):
    with pytest.raises(KeyError):
        Shards(shards[0]).open("cars-000000.tar/x.png")


def test_a_zip_is_no_folder_of_shards(shards, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(shards[0] / "cars-000000.tar", "cars-000000.tar")
    with pytest.raises(PictureError, match="all.zip: holds no pictures"):
        PictureSource(tmp_path / "all.zip")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pax_headers", [{}, {"comment": "of all"}])
def test_files_are_where_tarfile_says(tmp_path, form, pax_headers):
    """Plain files, those of long and foreign names, empty and large ones, and what is no file between them."""
    names = ["a.jpg", "./b.jpg", "folder/", f"{'d' * 90}/{'e' * 60}.jpg", "link", "empty", "\u00e4.jpg", "last.bin"]
    if form != tarfile.USTAR_FORMAT:
        names.insert(3, f"{'n' * 200}.jpg")
    with tarfile.open(tmp_path / "a.tar", "w", format=form, pax_headers=pax_headers) as tar:
        for idx, name in enumerate(names):
            member = tarfile.TarInfo(name.rstrip("/"))
            member.type = {"folder/": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}.get(name, tarfile.REGTYPE)
            member.size = 0 if not member.isfile() or name == "empty" else 500 * idx + 12
            member.mtime = idx + 0.5 * (idx % 2)  # A part of a second needs a header of its own in the pax format.
            tar.addfile(member, io.BytesIO(bytes([idx]) * member.size))
    with tarfile.open(tmp_path / "a.tar") as tar:
        expected = {one.name.removeprefix("./"): tar.extractfile(one).read() for one in tar if one.isfile()}
    found = Tar(tmp_path / "a.tar", None)
    assert found.list_names() == sorted(expected) and len(expected) >= 6
    for name, content in expected.items():
        assert found.open(name).read() == content and found.size(name) == len(content)
    found.close()


@pytest.mark.parametrize("at, text", [(148, b"0000000\0"), (124, b"9"), (0, b"\xff"), (156, b"\xfe")])
def test_a_damaged_header_is_an_error_and_not_the_end(shards, at, text):
    folder, _pictures = shards
    path = folder / "cars-000001.tar"
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        start = tar.getmembers()[2].offset
    content[start + at:start + at + len(text)] = text
    path.write_bytes(content)
    with pytest.raises(tarfile.ReadError, match=f"^damaged at byte {start}$"):
        Tar(path, None)
    with pytest.raises(PictureError, match="readable zip or tar: cars-000001.tar: damaged at byte"):
        PictureSource(folder)
    path.write_bytes(content[:start + 100])  # Cut off within it.
    with pytest.raises(tarfile.ReadError, match=f"^damaged at byte {start}$"):
        Tar(path, None)
