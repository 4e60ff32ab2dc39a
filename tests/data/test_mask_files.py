"""Pictures with their masks as a fourth channel."""

import numpy as np
import PIL.Image
import pytest

from layered_plugin.data import dataset
from layered_plugin.data.dataset import PictureDataset
from layered_plugin.data.mask_files import MaskFiles
from layered_plugin.data.masked_pictures import MaskedPictures
from layered_plugin.errors import MaskError
from layered_plugin.segmentation.shares import Targets

NAMES = ["a.jpg", "sub/b.png", "sub/c.png"]


@pytest.fixture
def folders(tmp_path):
    """Pictures whose left part is red, and masks of that part, of the pictures' sizes."""
    for name, width, height, red in zip(NAMES, (12, 8, 16), (12, 20, 8), (6, 2, 16), strict=True):
        left = np.zeros([height, width], bool)
        left[:, :red] = True
        for kind, pixels, file in (("pictures", np.where(left[:, :, None], [250, 0, 0], [0, 0, 250]), name),
                                   ("masks", left * 255, name.replace("jpg", "png"))):
            path = tmp_path / kind / file
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "pictures", tmp_path / "masks"


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("options", [dict(), dict(xflip=True), dict(max_size=2, xflip=True, random_seed=1)])
def test_fourth_channel_is_where_the_picture_has_its_object(folders, options, in_memory, monkeypatch):
    if not in_memory:
        monkeypatch.setattr(dataset, "CACHE_BYTES", 0)
    pictures = PictureDataset(folders[0], size_px=8, **options)
    masked = MaskedPictures(pictures, folders[1])
    assert masked.preload() is in_memory
    assert len(masked) == len(pictures) == len(range(options.get("max_size", 3))) * (2 if "xflip" in options else 1)
    for idx in range(len(masked)):
        (both, label), (img, expected) = masked[idx], pictures[idx]
        assert both.dtype == np.uint8 and both.shape == (4, 8, 8)
        np.testing.assert_array_equal(both[:3], img)
        np.testing.assert_array_equal(label, expected)
        assert np.abs(both[3].astype(int) - both[0]).max() <= 60  # Red is object; at the edge filters differ.


def test_masks_follow_a_picture_that_became_unreadable(folders, monkeypatch):
    monkeypatch.setattr(dataset, "CACHE_BYTES", 0)
    pictures = PictureDataset(folders[0], size_px=8)
    masked = MaskedPictures(pictures, folders[1])
    (folders[0] / "sub/b.png").write_bytes(b"gone")
    np.testing.assert_array_equal(masked[1][0], masked[2][0])


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("picture, mask, fits", [
    ((28, 74), (28, 74), True), ((28, 74), (14, 37), True), ((28, 74), (56, 148), True), ((28, 74), (29, 74), True),
    ((300, 200), (32, 21), True), ((300, 200), (32, 22), True), ((100, 33), (3000, 1000), True),
    ((28, 74), (9, 9), False), ((300, 200), (200, 300), False), ((300, 200), (32, 32), False),
    ((100, 100), (100, 103), False), ((100, 33), (3000, 1300), False)])
def test_masks_have_any_size_in_the_proportions_of_their_pictures(tmp_path, monkeypatch, in_memory, picture, mask,
                                                                  fits):
    if not in_memory:
        monkeypatch.setattr(dataset, "CACHE_BYTES", 0)
    for name, size in (("pictures", picture), ("masks", mask)):
        (tmp_path / name).mkdir()
        PIL.Image.new("L", size, 255).save(tmp_path / name / "bild 01.png")
    masked = MaskedPictures(PictureDataset(tmp_path / "pictures", size_px=8), tmp_path / "masks")
    if fits:
        assert masked.preload() is in_memory and masked[0][0].min() == 255
    else:
        with pytest.raises(MaskError, match=f"masks: mask bild 01.png is {mask[0]}x{mask[1]}, its picture "
                                            f"{picture[0]}x{picture[1]}$"):
            masked.preload()
            masked[0]


@pytest.mark.parametrize("ext", ["jpg", "png", "tif"])
def test_masks_are_upright_where_the_picture_is_turned(tmp_path, ext):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # Orientation: the stored picture is turned by a quarter.
    for name, size, file, options in (("pictures", (12, 20), f"a.{ext}", dict(exif=exif)),
                                      ("upright", (20, 12), "a.png", {}), ("stored", (12, 20), "a.png", {})):
        (tmp_path / name).mkdir()
        PIL.Image.new("L", size, 255).save(tmp_path / name / file, **options)
    pictures = PictureDataset(tmp_path / "pictures", size_px=8)
    assert MaskedPictures(pictures, tmp_path / "upright").preload()
    with pytest.raises(MaskError, match="mask a.png is 12x20, its picture 20x12$"):
        MaskedPictures(pictures, tmp_path / "stored").preload()


def test_pictures_are_not_decoded_anew_for_their_masks(folders, monkeypatch):
    pictures = PictureDataset(folders[0], size_px=8)
    assert pictures.preload()
    monkeypatch.setattr(pictures.source, "open", lambda _name: pytest.fail("decoded again"))
    assert MaskedPictures(pictures, folders[1]).preload()


def test_a_mask_that_can_not_be_read_is_called_a_mask(folders):
    (folders[1] / "sub/b.png").write_bytes(b"no mask")
    with pytest.raises(MaskError, match="masks: cannot read mask sub/b.png: no picture in a known format$"):
        MaskedPictures(PictureDataset(folders[0], size_px=8), folders[1]).preload()


def test_masks_must_belong_to_the_pictures(folders):
    pictures = PictureDataset(folders[0], size_px=8)
    (folders[1] / "a.png").unlink()
    masked = MaskedPictures(pictures, folders[1])
    assert len(masked) == len(pictures) - 1 and "such as a.jpg" in masked.left_out[0]
    for mask in folders[1].rglob("*.png"):
        mask.unlink()
    with pytest.raises(MaskError, match="holds no"):
        MaskedPictures(pictures, folders[1])
    with pytest.raises(MaskError, match="neither a folder nor"):
        MaskedPictures(pictures, folders[1] / "none")


def test_masks_of_pictures_that_differ_in_the_suffix_alone_have_the_whole_name(tmp_path):
    names = ["a.jpg", "a.png", "b.jpg"]
    targets = Targets(names)  # Of invert.py segment.
    for name, level in zip(names, (0, 255, 255), strict=True):
        PIL.Image.new("L", (4, 4), level).save(tmp_path / targets[name])
    files = MaskFiles(tmp_path)
    assert files.unmatched(names, "pictures") == ([], [])
    assert [files.read(name).all() for name in names] == [False, True, True]


@pytest.mark.parametrize("masks", [["a.png"], ["a.png", "a.jpg.png"]])
def test_pictures_that_would_share_a_mask_are_named(tmp_path, masks):
    for name in masks:
        PIL.Image.new("L", (4, 4)).save(tmp_path / name)
    with pytest.raises(MaskError, match=r"pictures a.jpg and a.png of pictures would share mask a.png; name their "
                                        r"masks a.jpg.png and a.png.png instead"):
        MaskFiles(tmp_path).unmatched(["a.jpg", "a.png"], "pictures")


def test_two_masks_of_one_picture_that_both_bear_its_name_are_named(tmp_path):
    for name in ("a.png", "a.jpg.png"):
        PIL.Image.new("L", (4, 4)).save(tmp_path / name)
    files = MaskFiles(tmp_path)
    with pytest.raises(MaskError, match=r"a.png and a.jpg.png are masks of picture a.jpg of pictures; remove one"):
        files.unmatched(["a.jpg"], "pictures")
    assert files.unmatched(["a.jpg", "a.jpg.png"], "pictures") == ([], [])  # The second is another picture's.


def test_masks_of_one_picture_are_named(tmp_path):
    for name in ("a.jpg", "a.png"):
        PIL.Image.new("L", (4, 4)).save(tmp_path / name)
    with pytest.raises(MaskError, match=r"a.jpg and a.png are masks of the same picture; remove one"):
        MaskFiles(tmp_path)


def test_folder_of_results_has_its_masks_in_it(tmp_path):
    for name, level in (("masks/a.png", 255), ("cutouts/a.png", 0), ("doubtful/masks/b.png", 255),
                        ("doubtful/cutouts/b.png", 0), ("contact-sheet.png", 0), ("doubtful/contact-sheet.png", 0)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (4, 4), level).save(tmp_path / name)
    files = MaskFiles(tmp_path)
    assert len(files) == 1 and files.read("a.jpg").all()
