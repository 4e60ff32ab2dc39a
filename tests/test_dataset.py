"""Training pictures, their order, the crop, and the way between bytes and floats."""

import json
import pickle
import zipfile

import numpy as np
import PIL.Image
import pytest
import torch

from layered_plugin import dataset
from layered_plugin.dataset import PictureDataset, PictureError, ResumableSampler, random_crop, to_float, to_uint8


@pytest.fixture
def folder(tmp_path):
    """Five pictures of different sizes and modes."""
    path = tmp_path / "things"
    (path / "sub").mkdir(parents=True)
    for idx, mode in enumerate(["RGB", "L", "RGBA", "P", "RGB"]):
        picture = PIL.Image.fromarray(np.full([20 + idx, 24, 3], 40 * idx + 10, dtype=np.uint8))
        picture = picture.quantize() if mode == "P" else picture.convert(mode)
        picture.save(path / ("sub" if idx > 2 else ".") / f"{idx}.png")
    return path


def as_zip(folder, labels=None):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
        if labels is not None:
            archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_any_size_and_mode_becomes_square_rgb(folder, zipped):
    pictures = PictureDataset(as_zip(folder) if zipped else folder, size_px=9)
    assert pictures.name == "things" and len(pictures) == 5 and pictures.image_shape == [3, 9, 9]
    for idx in range(5):
        img, label = pictures[idx]
        assert img.dtype == np.uint8 and img.shape == (3, 9, 9) and label.shape == (0,)
        assert (img == 40 * idx + 10).all()


@pytest.mark.parametrize("in_memory", [False, True])
def test_preload_changes_no_picture(folder, in_memory, monkeypatch):
    plain, pictures = PictureDataset(folder, size_px=8), PictureDataset(folder, size_px=8, xflip=True)
    monkeypatch.setattr(dataset, "CACHE_BYTES", 5 * 3 * 64 if in_memory else 5 * 3 * 64 - 1)
    assert pictures.preload() is in_memory
    for idx in range(5):
        assert (pictures[idx][0] == plain[idx][0]).all()
        assert (pictures[idx + 5][0] == plain[idx][0][:, :, ::-1]).all()


def test_subset_is_preloaded_alone(folder):
    (folder / "9.png").write_bytes(b"broken")
    pictures = PictureDataset(folder, size_px=8, max_size=2, random_seed=0)
    used = {pictures.get_details(idx).raw_idx for idx in range(2)}
    assert 3 not in used, "the broken picture must not be in the subset for this test"
    assert pictures.preload()


def test_broken_picture_is_named(folder):
    (folder / "9.png").write_bytes(b"broken")
    with pytest.raises(PictureError, match="9.png"):
        PictureDataset(folder, size_px=8).preload()


def test_truncated_picture_is_named(folder):
    file = folder / "0.png"
    PIL.Image.effect_noise((64, 64), 90).save(file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(PictureError, match="0.png"):
        PictureDataset(folder, size_px=8)


@pytest.mark.parametrize("make, words", [
    (lambda path: path / "nowhere.zip", "nowhere.zip"),
    (lambda path: path, "no pictures"),
    (lambda path: (path / "text.zip").write_text("no zip") and path / "text.zip", "readable zip"),
])
def test_unusable_path_is_named(tmp_path, make, words):
    with pytest.raises(PictureError, match=words):
        PictureDataset(make(tmp_path), size_px=8)


def test_without_a_size_the_first_picture_must_be_square(folder):
    with pytest.raises(PictureError, match="24x20, not square"):
        PictureDataset(folder)


@pytest.mark.parametrize("values, shape", [([0, 1, 2, 1, 0], (3,)), ([[0.5, 1.0]] * 5, (2,))])
def test_labels_are_upstreams(folder, values, shape):
    names = ["0.png", "1.png", "2.png", "sub/3.png", "sub/4.png"]
    pictures = PictureDataset(as_zip(folder, labels=[list(pair) for pair in zip(names, values, strict=True)]),
                              size_px=8, use_labels=True)
    assert pictures.get_label(2).shape == shape and pictures.get_label(2).dtype == np.float32
    expected = np.eye(3)[values[2]] if shape == (3,) else values[2]
    assert pictures.get_label(2).tolist() == list(expected)


def test_missing_label_is_named(folder):
    pictures = PictureDataset(as_zip(folder, labels=[["0.png", 1]]), size_px=8, use_labels=True)
    with pytest.raises(PictureError, match="1.png"):
        pictures.get_label(0)


def test_pickles_for_worker_processes(folder):
    pictures = pickle.loads(pickle.dumps(PictureDataset(as_zip(folder), size_px=8)))
    assert pictures[1][0].shape == (3, 8, 8)


def take(sampler, num):
    return [idx for idx, _ in zip(sampler, range(num), strict=False)]


def test_sampler_shows_every_picture_once_an_epoch_in_new_order():
    order = take(ResumableSampler(7, seed=3), 21)
    epochs = [order[i:i + 7] for i in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("start", [0, 3, 7, 16])
def test_sampler_goes_on_where_it_stopped(start):
    assert take(ResumableSampler(7, start=start), 10) == take(ResumableSampler(7), 10 + start)[start:]


def test_ranks_share_the_order_of_one_process():
    whole = take(ResumableSampler(7, seed=1), 20)
    ranks = [take(ResumableSampler(7, rank=rank, num_replicas=2, seed=1), 10) for rank in range(2)]
    assert [idx for pair in zip(*ranks, strict=True) for idx in pair] == whole


def test_random_crop_cuts_each_image_at_a_place_of_its_own():
    rows, cols = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
    img = torch.stack([rows, cols]).expand(400, 2, 9, 9).to(torch.uint8)
    crops = random_crop(img, 6)
    assert crops.shape == (400, 2, 6, 6) and crops.dtype == torch.uint8
    corners = crops[:, :, 0, 0].long()
    expected = corners[:, :, None, None] + torch.stack([rows, cols])[:, :6, :6]
    assert torch.equal(crops.long(), expected)
    assert len(torch.unique(corners, dim=0)) == 16  # 4 x 4 places, each with probability 1/16 in 400 draws.


def test_crop_to_the_same_size_is_identity_and_a_larger_one_is_refused():
    img = torch.rand(2, 3, 4, 4)
    assert random_crop(img, 4) is img
    with pytest.raises(ValueError, match="at least 5 px"):
        random_crop(img, 5)


def test_all_256_levels_round_trip():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert to_float(levels).min() == -1 and to_float(levels).max() == 1
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
