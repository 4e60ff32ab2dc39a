"""Files are whole or absent."""

import os

import pytest

from layered_plugin.files import atomic_write, remove_leftovers, write_json


def test_atomic_write_replaces_only_when_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="full"), atomic_write(path) as file:
        file.write(b"half")
        raise OSError("disk full")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", [b"caf\xe9.bin", b"\xff\xfe", b"\xe9" * 255, "é".encode() * 127])
def test_file_of_any_name_is_written_whole_and_its_leftover_is_known(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    with atomic_write(path) as file:
        file.write(b"new")
        (partial,) = os.listdir(tmp_path)
    assert path.read_bytes() == b"new" and os.listdir(os.fsencode(tmp_path)) == [name]
    (tmp_path / partial).touch()
    assert remove_leftovers(tmp_path) == [partial] and path.exists()


@pytest.mark.parametrize("mask, mode", [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_who_may_read_a_file_is_the_users_choice(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "new.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == mode


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", dict(a=[1]))
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", dict(a=object()))
    assert (tmp_path / "a.json").read_text() == '{\n  "a": [\n    1\n  ]\n}'
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
