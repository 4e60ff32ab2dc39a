"""LSUN's databases and class folders: order, labels, and a clear word about whatever is wrong."""

import contextlib

import numpy as np
import pytest
from downloads import labels_of, lsun_values, make_lsun, read_pictures, run, run_ok, write_tar
from tiny_models import make_pictures, zip_folder

from layered_plugin.data.dataset import PictureDataset


def test_lsun_keeps_the_order_of_the_database_and_stops_after_num(tmp_path):
    source = make_lsun(tmp_path / "car", lsun_values())
    run_ok("lsun", f"--source={source}", f"--dest={tmp_path}/all.zip", "--size=8")
    pictures = read_pictures(tmp_path / "all.zip")
    assert pictures.shape == (5, 3, 8, 8)
    assert [int(level) for level in pictures[:, 0, 0, 0]] == [0, 40, 80, 120, 160]
    assert labels_of(tmp_path / "all.zip") is None
    run_ok("lsun", f"--source={source}", f"--dest={tmp_path}/two.zip", "--size=8", "--num=2")
    assert len(read_pictures(tmp_path / "two.zip")) == 2


def test_lsun_reads_its_zip_and_leaves_nothing_beside_the_result(tmp_path):
    make_lsun(tmp_path / "raw/car", lsun_values())
    source = zip_folder(tmp_path / "raw", tmp_path / "car.zip")
    run_ok("lsun", f"--source={source}", f"--dest={tmp_path}/out/car-64.zip", "--size=8")
    run_ok("lsun", f"--source={tmp_path}/raw", f"--dest={tmp_path}/folder.zip", "--size=8")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["car-64.zip"]
    assert (tmp_path / "out/car-64.zip").read_bytes() == (tmp_path / "folder.zip").read_bytes()


def test_lsun_names_a_bad_picture_and_goes_on(tmp_path):
    values = lsun_values()
    values[1], values[3] = b"not a picture", values[3][:40]
    source = make_lsun(tmp_path / "car", values)
    result = run_ok("lsun", f"--source={source}", f"--dest={tmp_path}/car.zip", "--size=8")
    assert f"left out {1:040x}: unreadable" in result.stderr and f"left out {3:040x}" in result.stderr
    assert "3 pictures, 2 left out" in result.stderr
    assert [int(level) for level in read_pictures(tmp_path / "car.zip")[:, 0, 0, 0]] == [0, 80, 160]


def test_lsun_refuses_a_database_that_is_cut_off(tmp_path):
    source = make_lsun(tmp_path / "car", lsun_values(200))
    data = (source / "data.mdb").read_bytes()
    (source / "data.mdb").write_bytes(data[:len(data) // 2])
    result = run("lsun", f"--source={source}", f"--dest={tmp_path}/car.zip")
    assert result.exit_code == 1 and "data.mdb is cut off" in result.output, result.output
    assert not (tmp_path / "car.zip").exists()


@pytest.mark.parametrize("prepare, text", [
    (lambda folder: folder.mkdir(), "must hold one data.mdb, but holds 0"),
    (lambda folder: folder.write_bytes(b"no zip"), "neither a folder with data.mdb nor a whole zip"),
    (lambda folder: (folder.mkdir(), (folder / "data.mdb").write_bytes(b"x" * 9000)), "data.mdb cannot be read"),
    (lambda folder: make_lsun(folder, []), "the database is empty"),
    (lambda folder: make_lsun(folder, [b"bad"]), "none of 1 pictures can be used"),
    (lambda folder: (make_lsun(folder / "a", []), make_lsun(folder / "b", [])), "but holds 2"),
    (lambda folder: None, "no such file or folder"),
])
def test_lsun_says_what_is_wrong_with_the_source(tmp_path, prepare, text):
    prepare(tmp_path / "car")
    (tmp_path / "old.zip").write_bytes(b"old")
    result = run("lsun", f"--source={tmp_path}/car", f"--dest={tmp_path}/old.zip")
    assert result.exit_code == 1 and text in result.output, result.output
    assert (tmp_path / "old.zip").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "car") == ["old.zip"]


def test_lsun_names_the_missing_library(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    (tmp_path / "car").mkdir()
    result = run("lsun", f"--source={tmp_path}/car", f"--dest={tmp_path}/car.zip")
    assert result.exit_code == 1 and "pip install 'layered-plugin[lsun]'" in result.output


@pytest.fixture
def tree(tmp_path):
    """Three classes, wrapped twice; one file that is no picture."""
    root = tmp_path / "tree/data/train"
    make_pictures(root, ["cat/b.png", "cat/a.png", "ant/sub/x.png", "cow/y.jpg"])
    (root / "cow/about.txt").write_text("cows")
    return tmp_path / "tree"


def test_folders_are_classes_in_the_order_of_their_names(tmp_path, tree):
    result = run_ok("folders", f"--source={tree}", f"--dest={tmp_path}/a.zip", "--size=8")
    assert labels_of(tmp_path / "a.zip") == [0, 1, 1, 2]
    assert "labels: 0 ant, 1 cat, 2 cow" in result.stderr


@pytest.mark.parametrize("pack", ["zip", "tgz", "tar"])
def test_folders_are_the_same_in_an_archive(tmp_path, tree, pack):
    run_ok("folders", f"--source={tree}", f"--dest={tmp_path}/a.zip", "--size=8")
    source = tmp_path / f"packed.{pack}"
    if pack == "zip":
        zip_folder(tree, source)
    else:
        files = {f"./{path.relative_to(tree)}": path.read_bytes() for path in tree.rglob("*") if path.is_file()}
        write_tar(source, files, "w:gz" if pack == "tgz" else "w")
    run_ok("folders", f"--source={source}", f"--dest={tmp_path}/b.zip", "--size=8")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_one_class_is_taken_without_labels(tmp_path, tree):
    run_ok("folders", f"--source={tree}", f"--dest={tmp_path}/a.zip", "--size=8", "--class=cat")
    assert labels_of(tmp_path / "a.zip") is None and len(read_pictures(tmp_path / "a.zip")) == 2
    result = run("folders", f"--source={tree}", f"--dest={tmp_path}/b.zip", "--class=cats")
    assert result.exit_code == 1 and "has no class 'cats'; there are 3, such as cat" in result.output


@pytest.mark.parametrize("args", [["--class=cow,ant"], ["--class=cow", "--class=ant"], ["--class=ant,cow,ant"]])
def test_several_classes_are_labelled_by_their_place_among_them(tmp_path, tree, args):
    result = run_ok("folders", f"--source={tree}", f"--dest={tmp_path}/a.zip", "--size=8", *args)
    assert labels_of(tmp_path / "a.zip") == [0, 1]
    assert "labels: 0 ant, 1 cow\n" in result.stderr
    everything = run_ok("folders", f"--source={tree}", f"--dest={tmp_path}/all.zip", "--size=8")
    assert "labels: 0 ant, 1 cat, 2 cow" in everything.stderr
    np.testing.assert_array_equal(read_pictures(tmp_path / "a.zip"), read_pictures(tmp_path / "all.zip")[[0, 3]])


def test_several_classes_are_one_data_set_for_training(tmp_path, tree):
    run_ok("folders", f"--source={tree}", f"--dest={tmp_path}/a.zip", "--size=9", "--class=cat,cow")
    for cond, width in ((True, 2), (False, 0)):
        with contextlib.closing(PictureDataset(path=tmp_path / "a.zip", size_px=9, use_labels=cond)) as data:
            assert (len(data), data.label_dim) == (3, width)


def test_class_with_a_comma_in_its_name_can_be_taken(tmp_path):
    make_pictures(tmp_path / "tree", ["cat, wild/a.png", "cow/b.png", "dog/c.png"])
    result = run_ok("folders", f"--source={tmp_path}/tree", f"--dest={tmp_path}/a.zip", "--class=cat, wild",
                    "--class=dog")
    assert "labels: 0 cat, wild, 1 dog" in result.stderr and labels_of(tmp_path / "a.zip") == [0, 1]


@pytest.mark.parametrize("value, name", [("cat,cows", "cows"), ("cat,", "")])
def test_unknown_class_among_several_is_named(tmp_path, tree, value, name):
    result = run("folders", f"--source={tree}", f"--dest={tmp_path}/a.zip", f"--class={value}")
    assert result.exit_code == 1 and f"has no class {name!r}; there are 3, such as" in result.output
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize("names, text", [(["a.png", "cat/b.png"], "a.png lies in no class folder"),
                                         (["a.png"], "a.png lies in no class folder"), ([], "holds no pictures")])
def test_folders_without_classes_are_refused(tmp_path, names, text):
    (tmp_path / "tree").mkdir()
    make_pictures(tmp_path / "tree", names)
    result = run("folders", f"--source={tmp_path}/tree", f"--dest={tmp_path}/a.zip")
    assert result.exit_code == 1 and text in result.output, result.output
