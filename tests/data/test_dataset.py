"""Training pictures, their order, the crop, and the way between bytes and floats."""

import json
import pickle
import zipfile

import numpy as np
import PIL.Image
import pytest
import torch

from layered_plugin.data import dataset, decoded
from layered_plugin.data.dataset import PictureDataset, PictureError, RealPictures, ResumableSampler, random_crop
from layered_plugin.data.pictures import to_float, to_square, to_uint8


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


def test_reduced_pictures_are_antialiased_and_come_from_memory(folder, monkeypatch):
    noise = np.random.RandomState(0).randint(0, 256, [24, 24, 3], dtype=np.uint8)
    PIL.Image.fromarray(noise).save(folder / "0.png")
    pictures = PictureDataset(folder, size_px=24, xflip=True)
    assert pictures.preload()
    monkeypatch.setattr(pictures.source, "open", lambda _name: pytest.fail("read from disk again"))
    smaller = pictures.reduced(8)
    monkeypatch.setattr(smaller.source, "open", lambda _name: pytest.fail("read from disk again"))
    assert smaller.preload() and pictures.reduced(24).preload()
    assert smaller.image_shape == [3, 8, 8] and len(smaller) == 10 and pictures.reduced(24) is pictures
    expected = to_square(PIL.Image.fromarray(noise), 8)
    assert (smaller[0][0] == expected).all() and (smaller[5][0] == expected[:, :, ::-1]).all()
    assert smaller[0][0].std() < 0.5 * noise.std()  # Every third pixel would keep the deviation.


def test_reduced_pictures_are_read_where_memory_is_short(folder, monkeypatch):
    monkeypatch.setattr(dataset, "CACHE_BYTES", 0)
    pictures = PictureDataset(folder, size_px=24)
    assert not pictures.preload() and not pictures.reduced(8).preload()
    assert (pictures.reduced(8)[1][0] == 40 * 1 + 10).all()


def test_progress_says_at_which_resolution_pictures_are_read(folder, capsys):
    pictures = PictureDataset(folder, size_px=9)
    for stage in (pictures, pictures.reduced(4)):
        stage.preload(verbose=True)
    shown = [line.partition(": ")[0] for line in capsys.readouterr().err.splitlines()]
    assert list(dict.fromkeys(shown)) == ["Decoding pictures at 9x9", "Decoding pictures at 4x4"]


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


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("num, words", [
    (1, "cannot read picture 05.png: no picture in a known format$"),
    (2, "05.png: no picture in a known format; nor can 1 more be read: 06.png$"),
    (9, "format; nor can 8 more be read: 06.png, 07.png, .*, 12.png, 13.png$"),
    (10, "format; nor can 9 more be read: 06.png, 07.png, .*, 12.png, 13.png and others$"),
])
def test_all_pictures_that_can_not_be_read_are_named_at_once(many, tmp_path, monkeypatch, shared, num, words):
    monkeypatch.setattr(decoded, "SHARED_FROM", 0 if shared else 1 << 40)
    monkeypatch.setenv("LAYERED_CACHE", str(tmp_path / "cache"))
    for idx in range(12, 15):
        (many / f"{idx:02d}.png").write_bytes((many / "00.png").read_bytes())
    for idx in range(5, 5 + num):
        (many / f"{idx:02d}.png").write_bytes(b"broken")
    pictures = PictureDataset(many, size_px=8)
    with pytest.raises(PictureError, match=words):
        pictures.preload()
    assert not list(tmp_path.glob("cache/*.uint8*"))
    for idx in range(5, 5 + num):
        (many / f"{idx:02d}.png").unlink()
    pictures, plain = (PictureDataset(many, size_px=8) for _ in range(2))
    assert pictures.preload()
    for idx in range(15 - num):
        np.testing.assert_array_equal(pictures[idx][0], plain[idx][0])


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


@pytest.fixture
def places(tmp_path):
    """Six pictures of 18x18 whose red and green tell the column and row."""
    path = tmp_path / "places"
    path.mkdir()
    for idx in range(6):
        pixels = np.full([18, 18, 3], idx, dtype=np.uint8)
        pixels[:, :, 0], pixels[:, :, 1] = np.arange(18), np.arange(18)[:, None]
        PIL.Image.fromarray(pixels).save(path / f"{idx}.png")
    return path


@pytest.mark.parametrize("in_memory", [False, True])
def test_resolution_crops_as_training_does_and_the_same_way_at_every_call(places, in_memory):
    pictures = PictureDataset(places, size_px=18, resolution=16, xflip=True, max_size=5)
    if in_memory:
        assert pictures.preload()
    assert pictures.resolution == 16 and pictures.image_shape == [3, 16, 16]
    corners = []
    for idx in range(5):
        state, img = torch.get_rng_state(), pictures[idx][0]
        assert torch.equal(state, torch.get_rng_state())
        assert img.shape == (3, 16, 16) and (img == pictures[idx][0]).all()
        corner = tuple(img[:2, 0, 0])
        assert (img[0] == corner[0] + np.arange(16)).all() and (img[1].T == corner[1] + np.arange(16)).all()
        assert (pictures[idx + 5][0] == img[:, :, ::-1]).all()
        corners.append(corner)
    assert len(set(corners)) > 1


def test_resolution_without_a_size_is_that_of_the_pictures_as_upstream_has_it(places):
    assert PictureDataset(places, resolution=16).image_shape == [3, 16, 16]
    with pytest.raises(ValueError, match="`resolution` must be at most `size_px`=18, got 20"):
        PictureDataset(places, size_px=18, resolution=20)


def test_missing_label_is_named(folder):
    pictures = PictureDataset(as_zip(folder, labels=[["0.png", 1]]), size_px=8, use_labels=True)
    with pytest.raises(PictureError, match="1.png"):
        pictures.get_label(0)


NOT_LABELS = "dataset.json: labels must be class indices from 0 on, or lists of numbers, all of one length"


@pytest.mark.parametrize("text, words", [
    ("", "dataset.json: damaged"),
    ('{"labels": [', "dataset.json: damaged"),
    ("[1, 2]", "dataset.json: damaged"),
    ('{"labels": 3}', "dataset.json: damaged"),
    ('{"labels": [["0.png"]]}', "dataset.json: damaged"),
    ('{"labels": [["0.png", 1], ["sub/1.png", 0]]}', "dataset.json: has labels but none for 1.png"),
    ('{"labels": [["0.png", 1], ["1.png", null]]}', NOT_LABELS),
    ('{"labels": [["0.png", 1], ["1.png", -1]]}', NOT_LABELS),
    ('{"labels": [["0.png", 1], ["1.png", "car"]]}', NOT_LABELS),
    ('{"labels": [["0.png", 1], ["1.png", 100000000000000000000]]}', NOT_LABELS),
    ('{"labels": [["0.png", [1, 0]], ["1.png", [1]]]}', NOT_LABELS),
    ('{"labels": [["0.png", [1, 0]], ["1.png", [1, null]]]}', NOT_LABELS),
    ('{"labels": [["0.png", [[1]]], ["1.png", [[0]]]]}', NOT_LABELS),
])
def test_damaged_labels_are_named(tmp_path, text, words):
    folder = tmp_path / "things"
    folder.mkdir()
    for idx in range(2):
        PIL.Image.new("RGB", (8, 8)).save(folder / f"{idx}.png")
    (folder / "dataset.json").write_text(text)
    with pytest.raises(PictureError) as error:
        PictureDataset(folder, use_labels=True).get_label(0)
    assert str(error.value).startswith(f"{folder}: {words}")


def test_labels_that_can_not_be_read_are_named(folder):
    (folder / "dataset.json").mkdir()
    with pytest.raises(PictureError, match="things: dataset.json: damaged"):
        PictureDataset(folder, size_px=8, use_labels=True).get_label(0)


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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [(6, 6), (13, 5), (2, 40)])
def test_any_picture_is_squeezed_to_square_rgb(mode, size):
    white = PIL.Image.new("RGB", size, "white")
    picture = PIL.Image.new(mode, size, 65535) if mode == "I;16" else white.convert(mode)
    square = to_square(picture, 6)
    assert square.shape == (3, 6, 6) and square.dtype == np.uint8 and (square >= 254).all()


def test_squeezing_keeps_what_has_the_size_and_where_things_are():
    pixels = np.random.RandomState(0).randint(0, 256, [8, 8, 3], dtype=np.uint8)
    assert np.array_equal(to_square(PIL.Image.fromarray(pixels), 8), pixels.transpose(2, 0, 1))
    wide = np.zeros([8, 32, 3], dtype=np.uint8)
    wide[:4, 24:, 0] = 255  # Top right, red.
    square = to_square(PIL.Image.fromarray(wide), 8)
    assert square[0, :3, 7].min() > 240 and square[0, :, :5].max() < 15 and square[0, 5:].max() < 15
    assert not square[1:].any()


@pytest.fixture
def many(tmp_path):
    """Twelve pictures whose columns tell the place, and whose blue the number."""
    path = tmp_path / "many"
    path.mkdir()
    for idx in range(12):
        pixels = np.full([18, 18, 3], idx, dtype=np.uint8)
        pixels[:, :, 0], pixels[:, :, 1] = np.arange(18), np.arange(18)[:, None]
        PIL.Image.fromarray(pixels).save(path / f"{idx:02d}.png")
    return path


def numbers(img):
    """Which pictures a batch holds."""
    assert img.dtype == torch.float32 and -1 <= img.min() and img.max() <= 1
    return to_uint8(img)[:, 2, 0, 0].tolist()


def test_real_pictures_come_in_the_samplers_order_without_end(many):
    real = RealPictures(many, 16, seed=5)
    shown = [number for _ in range(6) for number in numbers(real.batch(5))]
    assert shown == take(ResumableSampler(12, seed=5), 30)
    assert numbers(RealPictures(many, 16, seed=6).batch(12)) != shown[:12]


@pytest.mark.parametrize("position", [0, 7, 12, 100])
def test_real_pictures_can_start_anywhere(many, position):
    (real := RealPictures(many, 16)).start_at(position)
    assert numbers(real.batch(5)) == take(ResumableSampler(12, start=position), 5)


def test_real_pictures_are_cropped_as_for_the_generator(many):
    """Section 3.4: resized to 1.125 times the resolution, then cropped at random."""
    real, before = RealPictures(many, 16), torch.get_rng_state()
    img = real.batch(60)
    assert img.shape == (60, 3, 16, 16)
    pixels = to_uint8(img).long()
    corners = pixels[:, :2, 0, 0]
    assert {tuple(corner) for corner in corners.tolist()} == {(x, y) for x in range(3) for y in range(3)}
    assert torch.equal(pixels[:, 0], (corners[:, :1] + torch.arange(16))[:, None, :].expand(-1, 16, -1))
    real.start_at(0)
    torch.set_rng_state(before)
    assert torch.equal(real.batch(60), img), "crops are of torch's default generator"


def test_real_pictures_need_not_fit_into_memory(many, monkeypatch):
    kept = RealPictures(many, 16)
    monkeypatch.setattr(dataset, "CACHE_BYTES", 100)
    assert numbers(RealPictures(many, 16).batch(12)) == numbers(kept.batch(12))


def test_a_broken_real_picture_is_named_before_training(many):
    (many / "05.png").write_bytes(b"broken")
    with pytest.raises(PictureError, match="many: cannot read picture 05.png"):
        RealPictures(many, 16)
