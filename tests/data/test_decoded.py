"""One decoded file for all processes and runs: the same pictures, built once, named by the data, gone without harm."""

import errno
import multiprocessing
import os

import numpy as np
import pytest
from tiny_models import picture, zip_folder

from layered_plugin.data import decoded, fingerprint
from layered_plugin.data.dataset import PictureDataset
from layered_plugin.errors import DiskFullError, PictureError, UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for idx in range(5):
        picture(9 + idx, 12, seed=idx).save(tmp_path / "pictures" / f"{idx}.png")
    return tmp_path / "pictures"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "SHARED_FROM", 0)
    monkeypatch.setenv("LAYERED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(path, **options):
    pictures = PictureDataset(path, size_px=8, **options)
    assert pictures.preload()
    return pictures


def files(cache):
    return sorted(path.name for path in cache.iterdir() if path.suffix == ".uint8")


def no_decoding(monkeypatch):
    monkeypatch.setattr(PictureDataset, "_decode", lambda self, raw_idx: pytest.fail("decoded again"))


@pytest.mark.parametrize("zipped", [False, True])
def test_pictures_are_those_of_the_files_and_decoded_once(folder, cache, tmp_path, monkeypatch, zipped):
    path = zip_folder(folder, tmp_path / "pictures.zip") if zipped else folder
    plain = PictureDataset(path, size_px=8)
    expected = [plain[idx][0] for idx in range(5)]
    load(path)
    no_decoding(monkeypatch)
    again = load(path)
    for idx in range(5):
        np.testing.assert_array_equal(again[idx][0], expected[idx])
    assert len(files(cache)) == 1 and files(cache)[0].startswith("pictures-8px-")
    assert (cache / files(cache)[0]).stat().st_size == 5 * 3 * 8 * 8


def test_a_subset_mirrored_is_the_same_as_without(folder, monkeypatch):
    options = dict(max_size=3, random_seed=1, xflip=True)
    plain, shared = PictureDataset(folder, size_px=8, **options), load(folder, **options)
    for idx in range(6):
        np.testing.assert_array_equal(plain[idx][0], shared[idx][0])


def test_smaller_pictures_are_made_of_the_larger_ones(folder, cache, monkeypatch):
    monkeypatch.setattr(decoded, "SHARED_FROM", 10**9)
    expected = load(folder).reduced(4)
    monkeypatch.setattr(decoded, "SHARED_FROM", 0)
    smaller = load(folder).reduced(4)
    assert smaller.preload()
    np.testing.assert_array_equal(smaller[2][0], expected[2][0])
    directly = PictureDataset(folder, size_px=4)
    directly.preload()
    assert len(files(cache)) == 3  # Squeezed twice is not squeezed once.


def test_a_picture_that_has_changed_gives_another_file(folder, cache):
    before = load(folder)[0][0]
    picture(9, 12, seed=7).save(folder / "0.png")
    os.utime(folder / "0.png", ns=(1, 1))
    after = load(folder)[0][0]
    assert len(files(cache)) == 2 and not np.array_equal(before, after)


def test_a_changed_picture_of_equal_size_and_time_gives_another_file(folder, cache, monkeypatch):
    """As archives unpack that give all files one time; it is not among those that the fingerprint reads."""
    monkeypatch.setattr(fingerprint, "SAMPLE", 2)
    for idx in range(5):
        picture(9, 12, seed=idx).save(folder / f"{idx}.bmp")
        (folder / f"{idx}.png").unlink()
        os.utime(folder / f"{idx}.bmp", ns=(1, 1))
    before = load(folder)[2][0].copy()
    picture(9, 12, seed=7).save(folder / "2.bmp")
    os.utime(folder / "2.bmp", ns=(1, 1))
    assert not np.array_equal(load(folder)[2][0], before)


def test_a_picture_that_can_not_be_read_is_named_and_nothing_kept(folder, cache):
    (folder / "3.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"cannot read picture 3\.png"):
        PictureDataset(folder, size_px=8).preload()
    assert files(cache) == []


def test_what_a_killed_process_left_is_removed_and_built_anew(folder, cache):
    load(folder)
    (name,) = files(cache)
    (cache / name).rename(cache / f".{name}.abcdefgh")
    load(folder)
    assert files(cache) == [name] and not list(cache.glob(".*.uint8.*"))


@pytest.mark.parametrize("size", [0, 100, 5 * 3 * 8 * 8 + 1])
def test_a_file_of_another_length_is_built_anew(folder, cache, size):
    expected = load(folder)[3][0].copy()
    (name,) = files(cache)
    os.truncate(cache / name, size)
    np.testing.assert_array_equal(load(folder)[3][0], expected)
    assert (cache / name).stat().st_size == 5 * 3 * 8 * 8


@pytest.mark.parametrize("reason", ["nowhere", "full", "denied", "little room", "read only", "no locks"])
def test_without_room_for_the_file_pictures_are_in_memory(folder, cache, monkeypatch, reason):
    def fail(*_args):
        raise DiskFullError("full") if reason == "full" else PermissionError("denied")
    if reason == "nowhere":
        monkeypatch.setenv("LAYERED_CACHE", "")
    elif reason == "little room":
        monkeypatch.setattr(decoded, "SPARE", 1)
    elif reason in ("read only", "no locks"):
        number = errno.EROFS if reason == "read only" else errno.ENOLCK

        def refuse(*_args):
            raise OSError(number, os.strerror(number))
        monkeypatch.setattr(decoded, "FileLock", refuse)
    else:
        monkeypatch.setattr(decoded, "_write", fail)
    assert load(folder)._cache.flags.writeable
    assert not cache.exists() or files(cache) == []


def test_it_is_in_the_users_cache_unless_said_otherwise(monkeypatch):
    monkeypatch.delenv("LAYERED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(decoded.cache_folder()) == "/caches/layered-plugin"
    monkeypatch.setenv("LAYERED_CACHE", "~/decoded")
    assert decoded.cache_folder() == type(decoded.cache_folder())("~/decoded").expanduser()


def test_home_of_nobody_is_named(folder, monkeypatch):
    monkeypatch.setenv("LAYERED_CACHE", "~nosuchuser/x")
    with pytest.raises(UserError, match="^LAYERED_CACHE=~nosuchuser/x: .* Name another folder, or set it to nothing"):
        load(folder)


def test_two_processes_at_once_build_one_file(folder, cache):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=load, args=(folder,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0] and len(files(cache)) == 1
