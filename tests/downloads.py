"""Tiny data sets in the formats that LSUN, CUB-200-2011 and Flowers-102 are downloaded in, and their import."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import scipy.io
from click.testing import CliRunner

from layered_plugin import dataset_tool
from layered_plugin.data.dataset import PictureDataset

RED, GREEN, BLUE = (200, 30, 20), (30, 160, 60), (0, 0, 254)
SIZE = (180, 120)  # width, height
CUB_NAMES = ["001.Black_footed_Albatross/Albatross_0001.jpg", "001.Black_footed_Albatross/Albatross_0002.jpg",
             "002.Laysan_Albatross/Laysan_0001.jpg", "002.Laysan_Albatross/Laysan_0002.jpg",
             "003.Sooty_Albatross/Sooty_0001.jpg", "003.Sooty_Albatross/Sooty_0002.jpg"]
CUB_BOXES = [(18, 24, 60, 48), (90, 30, 72, 72), (6, 6, 48, 90), (120, 12, 54, 36), (30, 30, 120, 60), (0, 0, 180, 120)]
FLOWER_BOXES = [(30, 24, 60, 60), (90, 30, 72, 72), (12, 12, 90, 90), (60, 15, 48, 90)]
FLOWER_LABELS = [77, 77, 3, 102]


def object_mask(index, boxes):
    """Filled ellipse in a bounding box, [H, W], bool."""
    left, top, width, height = boxes[index]
    y, x = np.mgrid[:SIZE[1], :SIZE[0]] + 0.5
    return ((x - left - width / 2) / (width / 2)) ** 2 + ((y - top - height / 2) / (height / 2)) ** 2 <= 1


def encode(array, suffix, **options):
    data = io.BytesIO()
    PIL.Image.fromarray(array).save(data, format=suffix, **options)
    return data.getvalue()


def painted(mask, ground, colour=RED):
    """Picture of an object on one colour, [H, W, 3]."""
    return np.where(mask[:, :, None], np.uint8(colour), np.uint8(ground))


def write_tar(path, files, mode="w:gz"):
    """Pack files, in the order given, which need not be that of the names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def unpack(path, folder):
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")


def make_lsun(folder, values):
    """A database in LSUN's layout; keys in descending order, so that the database's own order shows."""
    import lmdb
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 22) as env, env.begin(write=True) as txn:
        for number, value in reversed(list(enumerate(values))):
            txn.put(f"{number:040x}".encode(), value)
    return folder


def lsun_values(num=5):
    """Encoded pictures of one gray level each: 0, 40, 80, ..."""
    return [encode(np.full((48, 64, 3), 40 * number % 256, np.uint8), "webp", lossless=True) for number in range(num)]


def cub_files():
    """Contents of CUB_200_2011.tgz; texts last, pictures in another order than images.txt."""
    files = {f"CUB_200_2011/images/{name}": encode(painted(object_mask(index, CUB_BOXES), GREEN), "jpeg", quality=95)
             for index, name in reversed(list(enumerate(CUB_NAMES)))}
    rows = list(enumerate(zip(CUB_NAMES, CUB_BOXES, strict=True), start=1))
    texts = {"images.txt": [f"{number} {name}" for number, (name, _box) in rows],
             "image_class_labels.txt": [f"{number} {int(name[:3])}" for number, (name, _box) in rows],
             "train_test_split.txt": [f"{number} {number % 2}" for number, _row in rows],
             "bounding_boxes.txt": [f"{number} " + " ".join(f"{value:.1f}" for value in box)
                                    for number, (_name, box) in rows]}
    files["attributes.txt"] = b"1 has_bill_shape::curved\n"
    files.update({f"CUB_200_2011/{name}": ("\n".join(lines) + "\n").encode() for name, lines in texts.items()})
    return files


def cub_mask_files():
    """Contents of segmentations.tgz: gray, more than half of the annotators inside, less than half on a rim."""
    files = {}
    for index, name in enumerate(CUB_NAMES):
        mask = object_mask(index, CUB_BOXES)
        votes = np.where(mask, 204, 0).astype(np.uint8)
        votes[0, :] = np.maximum(votes[0, :], 102)
        files[f"segmentations/{name.removesuffix('.jpg')}.png"] = encode(votes, "png")
    return files


def make_cub(folder: Path) -> Path:
    write_tar(folder / "CUB_200_2011.tgz", cub_files())
    write_tar(folder / "segmentations.tgz", cub_mask_files())
    return folder


def make_flowers(folder: Path) -> Path:
    masks = [object_mask(index, FLOWER_BOXES) for index in range(len(FLOWER_BOXES))]
    # The second flower is violet: nearly the blue of the painted background.
    colours = [RED, (90, 30, 200), RED, (250, 250, 250)]
    write_tar(folder / "102flowers.tgz", {
        f"jpg/image_{number:05d}.jpg": encode(painted(mask, GREEN, colour), "jpeg", quality=95)
        for number, (mask, colour) in enumerate(zip(masks, colours, strict=True), start=1)})
    write_tar(folder / "102segmentations.tgz", {
        f"segmim/segmim_{number:05d}.jpg": encode(painted(mask, BLUE, colour), "jpeg", quality=80)
        for number, (mask, colour) in enumerate(zip(masks, colours, strict=True), start=1)})
    scipy.io.savemat(folder / "imagelabels.mat", dict(labels=np.array([FLOWER_LABELS], np.uint8)))
    scipy.io.savemat(folder / "setid.mat", dict(trnid=np.array([[3]]), valid=np.array([[1]]),
                                                tstid=np.array([[4, 2]])))
    return folder


def run(*args):
    """Outcome of layered_plugin.dataset_tool."""
    return CliRunner().invoke(dataset_tool.main, [str(arg) for arg in args])


def run_ok(*args):
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result


def labels_of(path):
    """Labels of a zip in the order of its pictures, or None."""
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
