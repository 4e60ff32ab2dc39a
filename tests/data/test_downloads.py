"""Folder, zip and tar as one: the same names and contents, any order, damage named."""

import pytest
from downloads import write_tar
from tiny_models import zip_folder

from layered_plugin.data.downloads import Archive, find_download
from layered_plugin.errors import PictureError

FILES = {"set/b.txt": b"bee", "set/deep/er/a.txt": b"deep a", "set/a.txt": b"a", "set/empty.txt": b""}


def pack(tmp_path, kind):
    root = tmp_path / "raw"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    if kind == "folder":
        return root
    if kind == "zip":
        return zip_folder(root, tmp_path / "packed.zip")
    return write_tar(tmp_path / "packed.tgz", FILES, "w" if kind == "tar" else "w:gz")


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tgz"])
def test_names_and_contents_are_the_same_in_any_container(tmp_path, kind):
    with Archive(pack(tmp_path, kind), tmp_path / "temp") as archive:
        assert archive.names == sorted(FILES)
        for name in ("set/b.txt", "set/a.txt", "set/b.txt", "set/deep/er/a.txt", "set/empty.txt"):
            assert archive.read(name) == FILES[name]
        assert archive.by_ending(1) == {"a.txt": "set/a.txt", "b.txt": "set/b.txt", "empty.txt": "set/empty.txt"}
        assert archive.by_ending(2)["er/a.txt"] == "set/deep/er/a.txt"
        with pytest.raises(PictureError, match="cannot read set/none.txt"):
            archive.read("set/none.txt")
    assert not list((tmp_path / "temp").glob("*"))


@pytest.mark.parametrize("cut, text", [(0.5, "damaged or cut off"), (0.0, "neither a folder nor a whole")])
def test_a_cut_off_download_is_named(tmp_path, cut, text):
    path = pack(tmp_path, "tgz")
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * cut)])
    with pytest.raises(PictureError, match=text) as err:
        Archive(path, tmp_path)
    assert str(path) in str(err.value) and "download it again" in str(err.value)


def test_a_cut_off_plain_tar_is_named(tmp_path):
    path = pack(tmp_path, "tar")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(PictureError, match="neither a folder nor a whole zip or tar"):
        Archive(path, tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PictureError, match="none.tgz: cannot be read"):
        Archive(tmp_path / "none.tgz", tmp_path)


def test_downloads_are_found_unpacked_first_then_packed(tmp_path):
    with pytest.raises(PictureError, match="holds neither set.tgz nor a folder raw or set"):
        find_download(tmp_path, "set.tgz", ["raw", "set"])
    for name in ("set.zip", "set.tar", "set.tgz"):
        (tmp_path / name).touch()
        assert find_download(tmp_path, "set.tgz", ["raw", "set"]) == tmp_path / name
    (tmp_path / "set").mkdir()
    assert find_download(tmp_path, "set.tgz", ["raw", "set"]) == tmp_path / "set"
