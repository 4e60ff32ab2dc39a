"""Pictures of folders, zips and files: all of them, upright, and whatever can't be read named."""

import io
import multiprocessing
import os
import pickle
import zipfile

import numpy as np
import PIL.Image
import pytest

from layered_plugin.data.files import Zip
from layered_plugin.data.masks import mask_opacity
from layered_plugin.data.pictures import PictureSource, to_rgb
from layered_plugin.errors import PictureError

ORIENTATION = 0x0112

# How a stored picture becomes the upright one, from the EXIF standard's table of first row and first column.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored[::-1].transpose(1, 0, 2),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: stored.transpose(1, 0, 2)[::-1],
}


def noise(seed=0, height=6, width=9):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three pictures, one of them deeper, and files that are none."""
    path = tmp_path / "things"
    (path / "sub").mkdir(parents=True)
    for idx, name in enumerate(["b.png", "a.PNG", "sub/c.bmp"]):
        PIL.Image.fromarray(noise(idx)).save(path / name)
    (path / "notes.txt").write_text("no picture")
    (path / "dataset.json").write_text('{"labels": null}')
    return path


def as_zip(folder, compression=zipfile.ZIP_STORED):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_all_pictures_are_found_sorted_and_decoded(folder, zipped):
    source = PictureSource(as_zip(folder) if zipped else folder)
    assert source.names == ["a.PNG", "b.png", "sub/c.bmp"]
    assert len(source) == 3
    for name, seed in zip(source.names, [1, 0, 2], strict=True):
        assert np.array_equal(np.asarray(source.open(name)), noise(seed))


def test_one_file_is_a_source_of_one(folder):
    source = PictureSource(folder / "sub" / "c.bmp")
    assert source.names == ["c.bmp"] and len(source) == 1
    assert np.array_equal(np.asarray(source.open("c.bmp")), noise(2))


@pytest.mark.parametrize("zipped", [False, True])
def test_shadow_files_of_a_mac_are_left_out(folder, zipped):
    (folder / "__MACOSX" / "sub").mkdir(parents=True)
    for name in ("__MACOSX/sub/c.bmp", "__MACOSX/a.PNG", "._b.png", "sub/._c.bmp"):
        (folder / name).write_bytes(b"resource fork")
    assert PictureSource(as_zip(folder) if zipped else folder).names == ["a.PNG", "b.png", "sub/c.bmp"]


def test_files_that_pillow_writes_alone_are_no_pictures(folder):
    (folder / "licence.pdf").write_bytes(b"%PDF-1.4")
    assert PictureSource(folder).names == ["a.PNG", "b.png", "sub/c.bmp"]


@pytest.fixture
def photos(folder):
    """The three pictures beside those of a phone and a camera, and what else lies in such folders."""
    for name in ("a.HEIC", "sub/b.heic", "c.CR2", "._a.HEIC", ".thumbs/a.heic", "sub/.d.heic", "a.xml", "a.csv",
                 "b.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"heif")
    return folder


@pytest.mark.parametrize("zipped", [False, True])
def test_pictures_that_can_not_be_read_are_counted_once(photos, zipped, capfd):
    path = as_zip(photos) if zipped else photos
    for _again in range(2):
        assert len(PictureSource(path)) == 3
    assert len(PictureSource(photos / "b.png")) == 1
    assert capfd.readouterr().err == (f"WARNING: {path}: left out 1 .cr2, 2 .heic, which can't be read: convert them "
                                      "to JPEG or PNG\n")


def test_pictures_that_can_not_be_read_are_counted_by_no_other_process(photos, capfd, monkeypatch):
    process = multiprocessing.get_context("fork").Process(target=PictureSource, args=(photos,))
    process.start()
    process.join()
    monkeypatch.setenv("RANK", "1")  # As torchrun sets it.
    PictureSource(photos)
    assert process.exitcode == 0 and capfd.readouterr().err == ""


@pytest.mark.parametrize("ext", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright(tmp_path, monkeypatch, ext, orientation):
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    stored = noise()
    path = tmp_path / f"a.{ext}"
    PIL.Image.fromarray(stored).save(path, exif=exif, **(dict(lossless=True) if ext == "webp" else {}))
    source = PictureSource(path)
    picture = source.open(path.name)
    assert np.array_equal(np.asarray(picture), UPRIGHT[orientation](stored))
    assert picture.getexif().get(ORIENTATION, 1) == 1, "whoever turns it again must not turn it over"
    monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", lambda _self: pytest.fail("decoded for its size"))
    assert source.header_size(path.name) == picture.size


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_mode_and_size_stay(tmp_path, mode):
    PIL.Image.new(mode, (7, 5)).save(tmp_path / "a.png")
    picture = PictureSource(tmp_path).open("a.png")
    assert (picture.mode, picture.size) == (mode, (7, 5))


# From RGB there is no direct way to these.
BY_WAY_OF = {"PA": ["P"], "La": ["LA"], "I;16": ["L"], "I;16L": ["L"], "I;16B": ["I"]}


def white(mode):
    """Three by two pixels, as white as the mode has it: levels of 16 bits stay below 256, and are read as of 8."""
    picture = PIL.Image.new("RGB", (3, 2), "white")
    if mode == "LAB":
        return PIL.Image.merge(mode, [PIL.Image.new("L", (3, 2), level) for level in (255, 128, 128)])
    for step in [*BY_WAY_OF.get(mode, []), mode]:
        picture = picture.convert(step)
    return picture


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr",
                                  "HSV", "LAB", "I", "F", "I;16", "I;16L", "I;16B"])
def test_every_mode_becomes_rgb(mode):
    picture = to_rgb(white(mode))
    assert (picture.mode, picture.size) == ("RGB", (3, 2))
    assert np.asarray(picture).min() >= 254


@pytest.mark.parametrize("file", [
    *(f"{mode}.png" for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")),
    *(f"{mode}.tif" for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "LAB", "I", "F", "I;16",
                                 "I;16L", "I;16B"))])
def test_every_mode_that_a_file_can_have_is_read_as_picture_and_mask(tmp_path, file):
    white(file[:-4]).save(tmp_path / file)
    picture = PictureSource(tmp_path).open(file)
    assert np.asarray(to_rgb(picture)).min() >= 254 and mask_opacity(picture).min() >= 254


def test_transparency_shows_the_backdrop_without_a_warning(tmp_path):
    picture = PIL.Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    picture = PictureSource(tmp_path).open("a.png")
    assert np.asarray(to_rgb(picture)).tolist() == [[[255, 255, 255], [147, 152, 157]]]
    assert np.asarray(to_rgb(picture, "#ff0000")).tolist() == [[[255, 0, 0], [147, 25, 30]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_hidden_colours_do_not_show_and_opaque_ones_stay(mode):
    picture = PIL.Image.new("RGB", (2, 1), (70, 70, 70)).convert(mode)
    alpha = PIL.Image.new("L", (2, 1))
    alpha.putpixel((0, 0), 255)
    picture.putalpha(alpha)
    assert np.asarray(to_rgb(picture, "black")).tolist() == [[[70] * 3, [0] * 3]]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_gray_of_16_bits_keeps_its_upper_8(tmp_path, dtype):
    levels = np.array([[0, 255, 256, 32768, 65535]], dtype=dtype)
    PIL.Image.fromarray(levels).save(tmp_path / "a.tif")
    rgb = np.asarray(to_rgb(PictureSource(tmp_path).open("a.tif")))
    assert rgb.shape == (1, 5, 3) and rgb[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert np.asarray(to_rgb(PIL.Image.fromarray(levels[:, :2])))[0, :, 0].tolist() == [0, 255], "8 bits, stored as 16"


def test_gray_of_fractions_from_0_to_1_is_not_black(tmp_path):
    PIL.Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(to_rgb(PictureSource(tmp_path).open("a.tif")))[0, :, 0].tolist() == [0, 128, 255]
    for levels, expected in (([0, 1.5, 200], [0, 1, 200]), ([0, 32768, 65535], [0, 128, 255])):
        picture = PIL.Image.fromarray(np.array([levels], np.float32))
        assert np.asarray(to_rgb(picture))[0, :, 0].tolist() == expected


def test_file_in_no_known_format_is_said_to_be_that(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(PictureError, match=r"cannot read picture a.png: no picture in a known format$"):
        PictureSource(tmp_path).open("a.png")


def test_any_file_can_be_read_beside_the_pictures(folder):
    for path, error in ((folder, FileNotFoundError), (as_zip(folder), KeyError)):
        source = PictureSource(path)
        assert source.read("notes.txt") == b"no picture"
        with pytest.raises(error):
            source.read("nothing.txt")


def test_a_source_is_usable_after_close_and_in_another_process(folder):
    source = PictureSource(as_zip(folder))
    source.open("b.png")
    source.close()
    source.close()
    assert np.array_equal(np.asarray(source.open("b.png")), noise(0))
    twin = pickle.loads(pickle.dumps(source))
    assert twin.names == source.names
    assert np.array_equal(np.asarray(twin.open("b.png")), noise(0))


def test_a_forked_process_opens_the_zip_for_itself(folder, monkeypatch):
    """Processes that share one open file move each other's position in it."""
    files = Zip(as_zip(folder))
    assert files.list_names() and (mine := files.archive().fp) is files.archive().fp
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    assert files.archive().fp is not mine
    assert files.open("notes.txt").read() == b"no picture"


@pytest.mark.parametrize("make, words", [
    (lambda path: path / "nowhere", "nowhere: neither a folder nor a readable zip"),
    (lambda path: path / "nowhere.png", "nowhere.png: neither a folder nor a readable zip"),
    (lambda path: path, "empty: holds no pictures"),
    (lambda path: (path / "text.zip").write_text("no zip") and path / "text.zip",
     "text.zip: neither a folder nor a readable zip"),
    (lambda path: (path / "a.txt").write_text("text") and path, "empty: holds no pictures"),
    (lambda path: (path / "._a.png").write_text("fork") and path, "empty: holds no pictures"),
    (lambda path: (path / "a.HEIC").write_text("heif") and path,
     "empty: holds no pictures but 1 .heic, which can't be read: convert them to JPEG or PNG"),
    (lambda path: (path / "a.HEIC").write_text("heif") and path / "a.HEIC",
     "a.HEIC: pictures of this format can't be read: convert it to JPEG or PNG"),
])
def test_an_unusable_path_is_named(tmp_path, make, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PictureError, match=words):
        PictureSource(make(tmp_path / "empty"))


def test_an_empty_zip_holds_no_pictures(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    with pytest.raises(PictureError, match="a.zip: holds no pictures"):
        PictureSource(tmp_path / "a.zip")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", "truncated"])
def test_a_damaged_picture_is_named_and_the_others_open(folder, zipped, content):
    if content == "truncated":
        whole = io.BytesIO()
        PIL.Image.fromarray(noise(height=50, width=50)).save(whole, format="png")
        content = whole.getvalue()[:2000]
    (folder / "b.png").write_bytes(content)
    source = PictureSource(as_zip(folder) if zipped else folder)
    with pytest.raises(PictureError, match=f"things{'.zip' if zipped else ''}: cannot read picture b.png"):
        source.open("b.png")
    if content == b"no picture":
        with pytest.raises(PictureError, match="cannot read picture b.png: no picture in a known format$"):
            source.header_size("b.png")
    assert source.open("a.PNG").size == (9, 6)


def test_a_name_that_is_not_there_is_named(folder):
    for path in (folder, as_zip(folder)):
        with pytest.raises(PictureError, match="cannot read picture gone.png"):
            PictureSource(path).open("gone.png")


@pytest.mark.parametrize("start, flip", [(35, lambda value: 0xff), (40, lambda value: value ^ 0xff)])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_entry_is_named(tmp_path, compression, start, flip):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("b.bmp", noise(height=30, width=30).tobytes())
    content = bytearray(path.read_bytes())
    content[start:140] = bytes(map(flip, content[start:140]))  # The local header has 35 bytes.
    path.write_bytes(content)
    with pytest.raises(PictureError, match="a.zip: cannot read picture b.bmp"):
        PictureSource(path).open("b.bmp")


@pytest.mark.parametrize("offset, value", [(6, 1), (8, 99)])
def test_an_encrypted_or_foreign_zip_entry_is_named(folder, offset, value):
    """Flag bit 0 of a local header says encrypted; method 99 is one that zipfile does not know."""
    path = as_zip(folder)
    with zipfile.ZipFile(path) as archive:
        local, central = archive.getinfo("b.png").header_offset, archive.start_dir
        order = [info.filename for info in archive.infolist()]
        for name in order[:order.index("b.png")]:
            central += 46 + len(name)
    content = bytearray(path.read_bytes())
    content[local + offset] = content[central + offset + 2] = value
    path.write_bytes(content)
    with pytest.raises(PictureError, match="cannot read picture b.png"):
        PictureSource(path).open("b.png")


def test_a_zip_of_a_future_version_is_named(folder):
    path = as_zip(folder)
    with zipfile.ZipFile(path) as archive:
        central = archive.start_dir
    content = bytearray(path.read_bytes())
    content[central + 6] = 250
    path.write_bytes(content)
    with pytest.raises(PictureError, match="things.zip: neither a folder nor a readable zip or tar: zip file version"):
        PictureSource(path)


def test_a_picture_too_large_to_be_honest_is_refused(folder, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    PIL.Image.new("1", (50, 60)).save(folder / "b.png")
    with pytest.raises(PictureError, match="cannot read picture b.png: 3,000 pixels are more than the 2,000 that are "
                                           "read; shrink it$"):
        PictureSource(folder).open("b.png")
