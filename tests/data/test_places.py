"""Places of files in archives: found by name, and little memory for many."""

import tracemalloc
import zipfile

import numpy as np
import pytest

from layered_plugin.data.files import Zip
from layered_plugin.data.places import Places


def test_places_are_found_by_name_and_the_last_of_two_counts():
    places = Places(["b", "a/x", "b", "c"], np.arange(4))
    assert places.names == ["a/x", "b", "c"]
    assert [int(places[name]) for name in places.names] == [1, 2, 3]
    for missing in ("a", "bb", "d"):
        with pytest.raises(KeyError, match=missing):
            places[missing]
    assert Places([], np.arange(0)).names == []


def test_members_of_a_zip_take_a_fifth_of_a_kilobyte_each(tmp_path):
    num = 5000
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        archive.writestr("folder/", "")
        for idx in range(num):
            archive.writestr(f"folder/picture{idx:08d}.jpg", str(idx), zipfile.ZIP_DEFLATED if idx % 2 else None)
    tracemalloc.start()
    files = Zip(tmp_path / "many.zip")
    names = files.list_names()
    held, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(names) == num and held < 200 * num
    for idx in (0, 1, num - 1):
        assert files.open(names[idx]).read() == str(idx).encode() and files.size(names[idx]) == len(str(idx))
