"""CUB-200-2011 and Flowers-102: order, splits, labels, masks that fit, and a clear word about whatever is wrong."""

import numpy as np
import pytest
from downloads import (
    CUB_BOXES,
    FLOWER_BOXES,
    GREEN,
    RED,
    cub_files,
    cub_mask_files,
    encode,
    labels_of,
    make_cub,
    make_flowers,
    object_mask,
    read_pictures,
    run,
    run_ok,
    unpack,
    write_tar,
)

from layered_plugin.data.mask_files import read_pairs
from layered_plugin.data.masks import square_mask


def is_object(pictures):
    """Pixels nearer to the object's red than to the green around it, [N, H, W]."""
    near = [((pictures.astype(float) - np.reshape(colour, [1, 3, 1, 1])) ** 2).sum(axis=1) for colour in (RED, GREEN)]
    return near[0] < near[1]


def agreement(pictures, masks):
    """IoU of where the picture shows the object and where the mask says so, for each picture."""
    seen, said = is_object(pictures), masks >= 128
    return (seen & said).sum(axis=(1, 2)) / (seen | said).sum(axis=(1, 2))


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
