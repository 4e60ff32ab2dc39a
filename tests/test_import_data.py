"""Data sets as downloaded to zips: order, labels, masks that fit, and a clear word about whatever is wrong."""

import json
import weakref
import zipfile

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner
from command_examples import check_options
from downloads import (
    CUB_BOXES,
    FLOWER_BOXES,
    GREEN,
    RED,
    cub_files,
    cub_mask_files,
    encode,
    lsun_values,
    make_cub,
    make_flowers,
    make_lsun,
    object_mask,
    unpack,
    write_tar,
)
from tiny_models import make_pictures, zip_folder

import train_layered
from layered_plugin import import_data
from layered_plugin.dataset import PictureDataset
from layered_plugin.picture_zip import read_pairs
from layered_plugin.pictures import PictureSource
from layered_plugin.real_sources import Entry
from layered_plugin.square import square_mask
from layered_plugin.teachers import MaskTeacher


def run(*args):
    return CliRunner().invoke(import_data.main, [str(arg) for arg in args])


def run_ok(*args):
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result


def labels_of(path):
    with zipfile.ZipFile(path) as archive:
        labels = json.loads(archive.read("dataset.json"))["labels"]
    return None if labels is None else [label for _name, label in labels]


def read_pictures(path):
    """[N, 3, H, W], through the data set that training reads."""
    with zipfile.ZipFile(path) as archive, archive.open("00000/img00000000.png") as file:
        side = PIL.Image.open(file).width
    data = PictureDataset(path=path, size_px=side)
    pictures = np.stack([data[index][0] for index in range(len(data))])
    data.close()
    return pictures


def is_object(pictures):
    """Pixels nearer to the object's red than to the green around it, [N, H, W]."""
    near = [((pictures.astype(float) - np.reshape(colour, [1, 3, 1, 1])) ** 2).sum(axis=1) for colour in (RED, GREEN)]
    return near[0] < near[1]


def agreement(pictures, masks):
    """IoU of where the picture shows the object and where the mask says so, for each picture."""
    seen, said = is_object(pictures), masks >= 128
    return (seen & said).sum(axis=(1, 2)) / (seen | said).sum(axis=(1, 2))


# LSUN.

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


# Class folders.

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


@pytest.mark.parametrize("names, text", [(["a.png", "cat/b.png"], "a.png lies in no class folder"),
                                         (["a.png"], "a.png lies in no class folder"), ([], "holds no pictures")])
def test_folders_without_classes_are_refused(tmp_path, names, text):
    (tmp_path / "tree").mkdir()
    make_pictures(tmp_path / "tree", names)
    result = run("folders", f"--source={tmp_path}/tree", f"--dest={tmp_path}/a.zip")
    assert result.exit_code == 1 and text in result.output, result.output


# CUB-200-2011.

def test_cub_follows_images_txt_and_its_own_split(tmp_path):
    source = make_cub(tmp_path / "cub")
    for split, labels in (("all", [0, 0, 1, 1, 2, 2]), ("train", [0, 1, 2]), ("test", [0, 1, 2])):
        run_ok("cub", f"--source={source}", f"--dest={tmp_path}/{split}.zip", f"--split={split}", "--size=16")
        assert labels_of(tmp_path / f"{split}.zip") == labels
    everything = read_pictures(tmp_path / "all.zip")
    assert np.array_equal(everything[0::2], read_pictures(tmp_path / "train.zip"))
    assert np.array_equal(everything[1::2], read_pictures(tmp_path / "test.zip"))
    assert [path.name for path in source.iterdir() if path.name.startswith("tmp")] == []


@pytest.mark.parametrize("options", [[], ["--fit=crop"], ["--crop-box"], ["--crop-box", "--margin=0", "--fit=crop"],
                                     ["--crop-box", "--margin=1"]])
def test_cub_masks_lie_where_the_bird_is(tmp_path, options):
    source = make_cub(tmp_path / "cub")
    run_ok("cub", f"--source={source}", f"--dest={tmp_path}/p.zip", f"--masks={tmp_path}/m.zip", "--size=32", *options)
    pictures, masks = read_pairs(tmp_path / "p.zip", tmp_path / "m.zip")
    assert pictures.shape == (6, 3, 32, 32)
    assert agreement(pictures, masks).min() > 0.93


def test_cub_masks_count_the_votes_of_at_least_half(tmp_path):
    source = make_cub(tmp_path / "cub")
    run_ok("cub", f"--source={source}", f"--dest={tmp_path}/p.zip", f"--masks={tmp_path}/m.zip", "--size=16")
    _pictures, masks = read_pairs(tmp_path / "p.zip", tmp_path / "m.zip")
    assert all(np.array_equal(mask, square_mask(object_mask(index, CUB_BOXES), 16, "squeeze"))
               for index, mask in enumerate(masks))


def test_cub_crops_the_box_so_that_the_bird_fills_the_picture(tmp_path):
    source = make_cub(tmp_path / "cub")
    for name, options in (("whole", []), ("box", ["--crop-box", "--margin=0"])):
        run_ok("cub", f"--source={source}", f"--dest={tmp_path}/{name}.zip", f"--masks={tmp_path}/{name}-m.zip",
               "--size=32", *options)
    whole, box = (read_pairs(tmp_path / f"{name}.zip", tmp_path / f"{name}-m.zip")[1].mean(axis=(1, 2)) / 255
                  for name in ("whole", "box"))
    assert box[1] == pytest.approx(np.pi / 4, abs=0.02)  # The second box is a square inside of the picture.
    assert (box >= whole - 0.01).all() and box[0] > 3 * whole[0]


def test_cub_is_the_same_from_archives_and_unpacked(tmp_path):
    source = make_cub(tmp_path / "packed")
    (tmp_path / "unpacked").mkdir()
    for archive in ("CUB_200_2011.tgz", "segmentations.tgz"):
        unpack(source / archive, tmp_path / "unpacked")
    for name in ("packed", "unpacked"):
        run_ok("cub", f"--source={tmp_path}/{name}", f"--dest={tmp_path}/{name}.zip",
               f"--masks={tmp_path}/{name}-m.zip", "--size=16", "--crop-box")
    for end in (".zip", "-m.zip"):
        assert (tmp_path / f"packed{end}").read_bytes() == (tmp_path / f"unpacked{end}").read_bytes()


def test_cub_without_masks_needs_no_segmentations(tmp_path):
    write_tar(tmp_path / "cub/CUB_200_2011.tgz", cub_files())
    run_ok("cub", f"--source={tmp_path}/cub", f"--dest={tmp_path}/p.zip")
    result = run("cub", f"--source={tmp_path}/cub", f"--dest={tmp_path}/p.zip", f"--masks={tmp_path}/m.zip")
    assert result.exit_code == 1
    assert "holds neither segmentations.tgz nor a folder segmentations" in result.output
    assert not (tmp_path / "m.zip").exists()


def test_a_mask_of_another_size_leaves_its_picture_out(tmp_path):
    write_tar(tmp_path / "cub/CUB_200_2011.tgz", cub_files())
    masks = cub_mask_files()
    name = list(masks)[2]
    masks[name] = encode(np.zeros((10, 20), np.uint8), "png")
    write_tar(tmp_path / "cub/segmentations.tgz", masks)
    result = run_ok("cub", f"--source={tmp_path}/cub", f"--dest={tmp_path}/p.zip", f"--masks={tmp_path}/m.zip")
    assert "its mask is 20x10, the picture 180x120" in result.stderr and "5 pictures" in result.stderr
    pictures, masks = read_pairs(tmp_path / "p.zip", tmp_path / "m.zip")
    assert len(pictures) == 5 and agreement(pictures, masks).min() > 0.93
    assert labels_of(tmp_path / "p.zip") == [0, 0, 1, 2, 2]


def without(files, ending):
    return {name: data for name, data in files.items() if not name.endswith(ending)}


def changed(files, ending, data):
    return {name: data if name.endswith(ending) else old for name, old in files.items()}


@pytest.mark.parametrize("files, options, text", [
    (without(cub_files(), "/images.txt"), [], "lacks 1 of 1 files, such as images.txt"),
    (without(cub_files(), "image_class_labels.txt"), [], "such as image_class_labels.txt"),
    (without(cub_files(), "train_test_split.txt"), ["--split=test"], "such as train_test_split.txt"),
    (without(cub_files(), "bounding_boxes.txt"), ["--crop-box"], "such as bounding_boxes.txt"),
    (without(cub_files(), "Laysan_0001.jpg"), [], "lacks 1 of 6 files, such as 002.Laysan_Albatross/Laysan_0001.jpg"),
    (changed(cub_files(), "image_class_labels.txt", b"1 one\n"), [], "has no usable line for picture 1"),
    (changed(cub_files(), "image_class_labels.txt", b"1 1\n"), [], "has no usable line for picture 2"),
    (changed(cub_files(), "bounding_boxes.txt", b"1 3 4\n"), ["--crop-box"], "has no usable line for picture 1"),
    ({"jpg/image_00001.jpg": b"flower"}, [], "is it the right archive, and whole?"),
])
def test_cub_names_what_an_archive_lacks(tmp_path, files, options, text):
    write_tar(tmp_path / "cub/CUB_200_2011.tgz", files)
    result = run("cub", f"--source={tmp_path}/cub", f"--dest={tmp_path}/p.zip", *options)
    assert result.exit_code == 1 and text in result.output and "CUB_200_2011.tgz" in result.output, result.output
    assert not (tmp_path / "p.zip").exists()


def test_a_box_outside_of_its_picture_leaves_it_out(tmp_path):
    boxes = b"1 6 8 20 16\n2 200 10 24 24\n3 2 2 0 30\n4 40 4 18 12\n5 10 10 40 20\n6 0 0 60 40\n"
    write_tar(tmp_path / "cub/CUB_200_2011.tgz", changed(cub_files(), "bounding_boxes.txt", boxes))
    result = run_ok("cub", f"--source={tmp_path}/cub", f"--dest={tmp_path}/p.zip", "--crop-box")
    assert "bounding box 200,10 24x24 is empty or outside the picture, which is 180x120" in result.stderr
    assert "4 pictures, 2 left out" in result.stderr


# Flowers-102.

def test_flowers_follow_their_numbers_and_setid_mat(tmp_path):
    source = make_flowers(tmp_path / "flowers")
    for split, labels in (("all", [76, 76, 2, 101]), ("train", [2]), ("val", [76]), ("test", [76, 101])):
        run_ok("flowers", f"--source={source}", f"--dest={tmp_path}/{split}.zip", f"--split={split}", "--size=16")
        assert labels_of(tmp_path / f"{split}.zip") == labels
    everything = read_pictures(tmp_path / "all.zip")
    assert np.array_equal(everything[[1, 3]], read_pictures(tmp_path / "test.zip"))


@pytest.mark.parametrize("fit", ["squeeze", "crop"])
def test_flower_masks_are_what_is_not_painted_blue(tmp_path, fit):
    source = make_flowers(tmp_path / "flowers")
    run_ok("flowers", f"--source={source}", f"--dest={tmp_path}/p.zip", f"--masks={tmp_path}/m.zip", "--size=32",
           f"--fit={fit}")
    _pictures, masks = read_pairs(tmp_path / "p.zip", tmp_path / "m.zip")
    for index, mask in enumerate(masks >= 128):
        truth = square_mask(object_mask(index, FLOWER_BOXES), 32, fit) >= 128
        assert (mask & truth).sum() / (mask | truth).sum() > 0.93, index


def test_flowers_are_the_same_unpacked(tmp_path):
    source = make_flowers(tmp_path / "flowers")
    run_ok("flowers", f"--source={source}", f"--dest={tmp_path}/a.zip", f"--masks={tmp_path}/am.zip", "--size=16")
    for archive in ("102flowers.tgz", "102segmentations.tgz"):
        unpack(source / archive, source)
        (source / archive).unlink()
    run_ok("flowers", f"--source={source}", f"--dest={tmp_path}/b.zip", f"--masks={tmp_path}/bm.zip", "--size=16")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert (tmp_path / "am.zip").read_bytes() == (tmp_path / "bm.zip").read_bytes()


@pytest.mark.parametrize("name, data, text", [
    ("imagelabels.mat", None, "holds no imagelabels.mat"),
    ("setid.mat", None, "holds no setid.mat"),
    ("imagelabels.mat", b"<html>", "imagelabels.mat: cannot be read as a MATLAB file"),
    ("102flowers.tgz", None, "holds neither 102flowers.tgz nor a folder jpg or 102flowers"),
    ("102flowers.tgz", b"<html>", "neither a folder nor a whole zip or tar archive"),
    ("102segmentations.tgz", "half", "102segmentations.tgz: damaged or cut off"),
])
def test_flowers_name_the_download_that_is_wrong(tmp_path, name, data, text):
    source = make_flowers(tmp_path / "flowers")
    whole = (source / name).read_bytes()
    (source / name).unlink()
    if data is not None:
        (source / name).write_bytes(whole[:len(whole) // 2] if data == "half" else data)
    result = run("flowers", f"--source={source}", f"--dest={tmp_path}/p.zip", f"--masks={tmp_path}/m.zip",
                 "--split=test")
    assert result.exit_code == 1 and text in result.output, result.output
    assert not (tmp_path / "p.zip").exists() and not (tmp_path / "m.zip").exists()


def test_flowers_refuse_mat_files_that_were_swapped(tmp_path):
    source = make_flowers(tmp_path / "flowers")
    (source / "setid.mat").replace(source / "imagelabels.mat")
    result = run("flowers", f"--source={source}", f"--dest={tmp_path}/p.zip")
    assert result.exit_code == 1 and "imagelabels.mat: has no labels" in result.output


# All of them.

def test_results_fit_training_and_scoring_as_they_are(tmp_path):
    source = make_flowers(tmp_path / "flowers")
    run_ok("flowers", f"--source={source}", f"--dest={tmp_path}/p.zip", f"--masks={tmp_path}/m.zip", "--size=18")
    pictures = PictureSource(tmp_path / "p.zip")
    MaskTeacher(tmp_path / "m.zip").check_names(pictures.names, "p.zip")
    result = CliRunner().invoke(train_layered.main, ["--outdir=runs", f"--data={tmp_path}/p.zip", "--cond=1", "-n"])
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout)
    assert config["resolution"] == 16 and config["training_set_kwargs"]["size_px"] == 18
    data = PictureDataset(path=tmp_path / "p.zip", use_labels=True)
    assert data.label_dim == 102 and data.get_label(2).argmax() == 2
    data.close()


def test_only_one_picture_is_in_memory_at_a_time(tmp_path):
    pictures = []

    def load():
        assert sum(picture() is not None for picture in pictures) <= 1  # The previous one.
        picture = PIL.Image.new("RGB", (20, 20))
        pictures.append(weakref.ref(picture))
        return picture, None

    import_data.write_entries((Entry(str(number), load) for number in range(5)), 5, str(tmp_path / "a.zip"), None,
                              8, "squeeze")
    assert len(read_pictures(tmp_path / "a.zip")) == 5


def test_an_error_midway_leaves_the_old_files(tmp_path):
    def load():
        raise OSError("disk gone")

    for name in ("a.zip", "m.zip"):
        (tmp_path / name).write_bytes(b"old")
    with pytest.raises(OSError, match="disk gone"):
        import_data.write_entries([Entry("1", load)], 1, str(tmp_path / "a.zip"), str(tmp_path / "m.zip"), 8, "crop")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.zip": b"old", "m.zip": b"old"}


@pytest.mark.parametrize("name", ["lsun", "folders", "cub", "flowers"])
def test_help_explains_every_option(name):
    command = import_data.main.commands[name]
    check_options(command, run_ok(name, "--help").output)


@pytest.mark.parametrize("args, text", [
    (["lsun", "--source=a", "--dest=a.tar"], "--dest must end in .zip, got a.tar"),
    (["lsun", "--source=a.zip", "--dest=a.zip"], "--dest must differ from --source"),
    (["cub", "--source=a", "--dest=a.zip", "--masks=a.zip"], "--masks must differ from --dest"),
    (["cub", "--source=a", "--dest=a.zip", "--margin=0.5"], "--margin needs --crop-box"),
    (["cub", "--source=a", "--dest=a.zip", "--split=val"], "--split"),
    (["flowers", "--source=a", "--dest=a.zip", "--fit=stretch"], "--fit"),
    (["folders", "--source=a", "--dest=a.zip", "--size=4"], "--size"),
    (["lsun", "--source=a", "--dest=a.zip", "--num=0"], "--num"),
    (["lsun", "--dest=a.zip"], "--source"),
])
def test_wrong_options_are_named(args, text):
    result = run(*args)
    assert result.exit_code == 2 and text in result.output, result.output
