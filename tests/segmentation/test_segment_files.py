"""Segmenting to files: names, sizes, bad pictures, resumption, manifest and contact sheet, batch by batch."""

import json
import os
import shutil
import tarfile
import zipfile
import zlib
from contextlib import closing

import numpy as np
import PIL.Image
import pytest
from tiny_models import make_model, make_pictures, picture, small_resnet, zip_folder

from layered_plugin.data.mask_files import MaskFiles
from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import ModelError, PictureError
from layered_plugin.segmentation import contact_sheet, segment_files
from layered_plugin.segmentation.contact_sheet import CELL_PX, SHEET_GROUND
from layered_plugin.segmentation.edges import foreground_colors
from layered_plugin.segmentation.merging import sheet_of_folder
from layered_plugin.segmentation.outputs import FolderOutput, read_manifest
from layered_plugin.segmentation.segmenter import Refinement, Segmenter
from layered_plugin.segmentation.shares import Targets


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.models.resnet18", small_resnet)
        kinds = ("distill", "encoder", "chunks")
        yield {kind: Segmenter.load(make_model(folder / kind, kind), "cpu") for kind in kinds}


@pytest.fixture
def segment(models, tmp_path):
    def call(images, kind="distill", **options):
        return segment_files.segment_files(models[kind], images, tmp_path / "out", **options)
    return call


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def read(path):
    with PIL.Image.open(path) as found:
        found.load()
        return found


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def files(out):
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_results_of_a_distilled_model(segment, models, out, tmp_path):
    names = ["a.png", "deep/er/b.png"]
    folder = make_pictures(tmp_path / "pictures", names)
    assert segment(folder) == (2, 0, {})
    assert files(out) == {"manifest.jsonl", "segment.json", "contact-sheet.png",
                          *(f"{part}/{name}" for part in ("masks", "cutouts") for name in names)}
    for name, entry in zip(names, manifest(out), strict=True):
        original = read(folder / name)
        expected = models["distill"]([original])[0].mask >= 0.5
        mask, cutout = read(out / "masks" / name), read(out / "cutouts" / name)
        assert (mask.mode, mask.size, cutout.mode) == ("L", original.size, "RGBA")
        np.testing.assert_array_equal(np.asarray(mask), expected * np.uint8(255))
        np.testing.assert_array_equal(np.asarray(cutout)[:, :, :3], np.asarray(original) * expected[:, :, None])
        np.testing.assert_array_equal(np.asarray(cutout)[:, :, 3], np.asarray(mask))
        assert entry == dict(name=name, file=name, width=original.width, height=original.height,
                             coverage=round(float(expected.mean()), 4),
                             confidence=round(models["distill"]([original])[0].confidence, 4),
                             bytes=(folder / name).stat().st_size, crc32=zlib.crc32((folder / name).read_bytes()))


def test_results_of_an_encoder(segment, models, out, tmp_path):
    folder = make_pictures(tmp_path / "pictures", ["a.png"])
    segment(folder, "encoder")
    found = models["encoder"]([read(folder / "a.png")])[0]
    for part, pixels in dict(backgrounds=found.bg, foregrounds=found.fg, reconstructions=found.composite).items():
        np.testing.assert_array_equal(np.asarray(read(out / part / "a.png")), pixels)
    (entry,) = manifest(out)
    assert entry["error"] == pytest.approx(found.error, abs=1e-3)


@pytest.mark.parametrize("soft, threshold", [(True, 0.5), (False, 0.3), (False, 0.52)])
def test_soft_masks_and_threshold(segment, models, out, tmp_path, soft, threshold):
    folder = make_pictures(tmp_path / "pictures", ["a.png"])
    segment(folder, soft=soft, threshold=threshold)
    found = models["distill"]([read(folder / "a.png")])[0].mask
    expected = (found * 255).round() if soft else (found >= threshold) * 255
    np.testing.assert_array_equal(np.asarray(read(out / "masks" / "a.png")), expected)
    assert manifest(out)[0]["coverage"] == pytest.approx((found >= threshold).mean(), abs=1e-4)


@pytest.mark.parametrize("kind, parts", [
    ("distill", []), ("encoder", ["backgrounds", "foregrounds", "reconstructions"])])
def test_masks_are_the_same_without_cutouts(segment, out, tmp_path, kind, parts):
    folder = make_pictures(tmp_path / "pictures", ["a.png"])
    segment(folder, kind, cutouts=False)
    assert files(out) == {"manifest.jsonl", "segment.json", "contact-sheet.png",
                          *(f"{part}/a.png" for part in ("masks", *parts))}
    mask, sheet, known = (out / "masks/a.png").read_bytes(), (out / "contact-sheet.png").read_bytes(), MaskFiles(out)
    assert known.unmatched(["a.png"], "pictures") == ([], [])
    shutil.rmtree(out)
    segment(folder, kind)
    assert ((out / "masks/a.png").read_bytes(), (out / "contact-sheet.png").read_bytes()) == (mask, sheet)


@pytest.mark.parametrize("sharp", [True, False])
def test_cutouts_have_the_objects_own_colors_and_hide_nothing(segment, models, out, tmp_path, sharp):
    (tmp_path / "pictures").mkdir()
    one = picture(60, 50)
    one.save(tmp_path / "pictures" / "a.png")
    refinement = Refinement(sharp=sharp)
    segment(tmp_path / "pictures", refinement=refinement)
    (found,) = models["distill"]([one], refinement=refinement)
    expected = np.asarray(foreground_colors(one, found.mask) if sharp else one)
    assert np.array_equal(expected, np.asarray(one)) != sharp
    seen = found.mask >= 0.5
    assert 0 < seen.mean() < 1
    expected = np.dstack([expected, np.full_like(expected[:, :, 0], 255)])
    np.testing.assert_array_equal(np.asarray(read(out / "cutouts" / "a.png")), np.where(seen[:, :, None], expected, 0))


def test_flip_and_refinement_are_handed_on(segment, models, out, tmp_path):
    folder = make_pictures(tmp_path / "pictures", ["a.png"])
    refinement = Refinement(flip=True, refine=2, posterior=True, prior=models["distill"])
    segment(folder, "encoder", refinement=refinement, soft=True)
    found = models["encoder"]([read(folder / "a.png")], refinement=refinement)[0].mask
    np.testing.assert_array_equal(np.asarray(read(out / "masks" / "a.png")), (found * 255).round())


@pytest.mark.parametrize("kind", ["distill", "encoder"])
def test_results_below_the_least_confidence_are_kept_apart(segment, models, out, tmp_path, kind):
    names = ["a.png", "b.png", "sub/c.png"]
    folder = make_pictures(tmp_path / "pictures", names)
    confidence = {name: models[kind]([read(folder / name)])[0].confidence for name in names}
    first, second, third = sorted(names, key=confidence.get)
    least = (confidence[first] + confidence[second]) / 2
    assert confidence[second] - confidence[first] > 1e-5
    segment(folder, kind, min_confidence=least)
    for name in names:
        entry = next(entry for entry in manifest(out) if entry["name"] == name)
        assert entry["confidence"] == pytest.approx(confidence[name], abs=1e-4)
        assert entry.get("doubtful", False) == (name == first)
    parts = ("masks", "cutouts") if kind == "distill" else (
        "masks", "cutouts", "backgrounds", "foregrounds", "reconstructions")
    assert files(out) == {"manifest.jsonl", "segment.json", "contact-sheet.png", "doubtful/contact-sheet.png",
                          *(f"doubtful/{part}/{first}" for part in parts),
                          *(f"{part}/{name}" for part in parts for name in (second, third))}
    assert read(out / "contact-sheet.png").size == (2 * CELL_PX, 2 * CELL_PX)
    assert read(out / "doubtful" / "contact-sheet.png").size == (CELL_PX, 2 * CELL_PX)
    assert segment(folder, kind, min_confidence=least) == (0, 3, {})
    with pytest.raises(ModelError, match="holds results with min_confidence = "):
        segment(folder, kind)


# Pictures of every kind.

def test_folder_zip_and_file_give_the_same(segment, out, tmp_path):
    folder = make_pictures(tmp_path / "pictures", ["a.png", "sub/b.png"])
    found = []
    for images in (folder, zip_folder(folder, tmp_path / "pictures.zip"), folder / "a.png"):
        segment(images)
        found.append({name: (out / name).read_bytes() for name in files(out) if "masks" in name})
        shutil.rmtree(out)
    assert found[0] == found[1] and found[2] == {"masks/a.png": found[0]["masks/a.png"]}


def test_modes_and_formats_keep_size_and_name(segment, out, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    one = picture(21, 33)
    one.convert("L").save(folder / "gray.jpg")
    one.convert("RGBA").save(folder / "alpha.png")
    one.convert("P").save(folder / "palette.gif")
    one.convert("P").save(folder / "clear.png", transparency=bytes(range(256)))
    one.convert("CMYK").save(folder / "print.tif")
    one.save(folder / "UPPER.BMP")
    PIL.Image.fromarray(np.asarray(one.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    assert segment(folder, refinement=Refinement(sharp=False)) == (7, 0, {})
    for stem in ("gray", "alpha", "palette", "clear", "print", "UPPER", "deep"):
        assert read(out / "masks" / f"{stem}.png").size == (33, 21)
    cutout = np.asarray(read(out / "cutouts" / "deep.png"))
    seen = cutout[:, :, 3] > 0
    assert seen.any()
    np.testing.assert_array_equal(cutout[:, :, 0], np.asarray(one.convert("L")) * seen)


def test_picture_turned_by_exif_is_segmented_upright(segment, out, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees to see it upright.
    picture(20, 30).save(folder / "turned.png", exif=exif)
    picture(20, 30).rotate(-90, expand=True).save(folder / "upright.png")
    segment(folder)
    entries = manifest(out)
    assert [(entry["width"], entry["height"]) for entry in entries] == [(20, 30)] * 2
    masks = [np.asarray(read(out / "masks" / name)) for name in ("turned.png", "upright.png")]
    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize("names, expected", [
    (["a.jpg", "b.png"], ["a.png", "b.png"]),
    (["a.jpg", "a.png"], ["a.jpg.png", "a.png.png"]),
    (["a.jpg", "b/a.png"], ["a.png", "b/a.png"]),
    (["a.b.jpg", "a.c.jpg"], ["a.b.png", "a.c.png"]),
    (["a.jpg", "a.jpg.png", "a.png"], ["a.jpg.png", "a.jpg.png.png", "a.png.png"]),
    (["a.gif", "a.jpg", "a.jpg.png", "a.jpg.png.gif"],
     ["a.gif.png", "a.jpg.png", "a.jpg.png.png", "a.jpg.png.gif.png"]),
])
def test_no_two_pictures_share_a_file(names, expected):
    targets = Targets(names)
    assert [targets[name] for name in names] == expected
    assert len(set(expected)) == len(names)


def test_pictures_that_differ_in_their_suffix_are_kept_apart(segment, out, tmp_path):
    folder = make_pictures(tmp_path / "pictures", ["a.bmp", "a.png"])
    segment(folder)
    for name in ("a.bmp", "a.png"):
        cutout = np.asarray(read(out / "cutouts" / f"{name}.png"))
        seen = cutout[:, :, 3:] > 0
        assert seen.any()
        np.testing.assert_array_equal(cutout[:, :, :3], np.asarray(read(folder / name)) * seen)


# Bad input.

def test_bad_pictures_are_named_and_the_others_done(segment, out, tmp_path):
    folder = make_pictures(tmp_path / "pictures", ["a.png", "b.png", "c.png", "d.png"])
    (folder / "b.png").write_bytes(b"no picture")
    (folder / "d.png").write_bytes((folder / "c.png").read_bytes()[:100])
    done, skipped, failed = segment(folder, batch=2)
    assert (done, skipped) == (2, 0) and failed.keys() == {"b.png", "d.png"}
    assert all(f"pictures: cannot read picture {name}" in text for name, text in failed.items())
    assert [entry["name"] for entry in manifest(out)] == ["a.png", "c.png"]
    picture().save(folder / "b.png")  # Once mended, it is taken up.
    done, skipped, failed = segment(folder, batch=2)
    assert (done, skipped) == (1, 2) and failed.keys() == {"d.png"}


def test_names_in_a_zip_do_not_lead_out_of_the_folder(segment, out, tmp_path):
    folder = make_pictures(tmp_path / "pictures", ["a.png"])
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name in ("a.png", "../../evil.png", "/evil.png", "sub/../../../evil.png"):
            archive.writestr(name, (folder / "a.png").read_bytes())
    done, _skipped, failed = segment(tmp_path / "evil.zip")
    assert done == 1 and len(failed) == 3
    assert all(f"{tmp_path}/evil.zip: {name} leads out of the folder" == text for name, text in failed.items())
    assert not list(tmp_path.rglob("evil.png"))


def test_folder_of_which_nothing_can_be_read_is_an_error(segment, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    with pytest.raises(ModelError, match=r"cannot read picture a\.png: no picture in a known format$"):
        segment(folder)
    (folder / "b.png").write_bytes(b"")
    with pytest.raises(ModelError, match=r"cannot read picture a\.png: .*; all 2 failed$"):
        segment(folder)


def test_model_of_chunks_names_the_pictures_it_does_not_know(segment, out, tmp_path):
    folder = make_pictures(tmp_path / "pictures", ["a.png", "c.png", "other.png"])
    done, _skipped, failed = segment(folder, "chunks", batch=2)
    assert done == 2 and failed.keys() == {"other.png"}
    assert "no chunk was trained on a picture named other.png" in failed["other.png"]
    with pytest.raises(ModelError, match=r"no chunk was trained on a picture named x\.png"):
        other = make_pictures(tmp_path / "other", ["x.png", "y.png"])
        (out / "manifest.jsonl").unlink()
        segment(other, "chunks")


def test_model_of_chunks_names_pictures_that_are_not_those_it_was_trained_on(models, out, tmp_path):
    folder = make_pictures(tmp_path / "pictures", ["a.png", "b.png", "c.png"])
    path = make_model(tmp_path / "model", "chunks")
    meta = json.loads((path / "model.json").read_text())
    for chunk in meta["chunks"]:
        chunk["bytes"] = [(folder / name).stat().st_size for name in chunk["names"]]
    (path / "model.json").write_text(json.dumps(meta))
    picture(30, 40, seed=9).save(folder / "b.png")
    done, _skipped, failed = segment_files.segment_files(Segmenter.load(path, "cpu"), folder, out)
    assert done == 2 and failed.keys() == {"b.png"}
    before, now = meta["chunks"][0]["bytes"][1], (folder / "b.png").stat().st_size
    assert failed["b.png"].startswith(
        f"{path}: b.png is not the picture that its chunk was trained on, which had {before} bytes, not {now}; ")


# The same command again.

def test_second_call_computes_only_what_is_new(segment, models, out, tmp_path, monkeypatch):
    folder = make_pictures(tmp_path / "pictures", ["a.png", "b.png"])
    segment(folder)
    before = {name: (out / name).stat().st_mtime_ns for name in files(out) if "/" in name}
    picture(9, 9).save(folder / "c.png")
    added, add = [], FolderOutput.add
    monkeypatch.setattr(FolderOutput, "add", lambda self, entry, parts: added.append(entry) or add(self, entry, parts))
    assert segment(folder) == (1, 2, {})
    assert [entry["name"] for entry in added] == ["c.png"]
    monkeypatch.setattr(PictureSource, "read", lambda self, name: pytest.fail("nothing is to be done"))
    assert segment(folder) == (0, 3, {})
    assert all((out / name).stat().st_mtime_ns == time for name, time in before.items())
    assert [entry["name"] for entry in manifest(out)] == ["a.png", "b.png", "c.png"]


def test_only_pictures_of_this_call_count_as_there_already(segment, tmp_path):
    first, second = (make_pictures(tmp_path / name, [f"{name}.png", "b.png"]) for name in ("first", "second"))
    assert segment(first) == (2, 0, {}) and segment(second) == (1, 1, {})


@pytest.mark.parametrize("zipped", [False, True])
def test_pictures_that_have_changed_are_refused_and_named(segment, out, tmp_path, zipped):
    folder = make_pictures(tmp_path / "pictures")

    def images():
        return zip_folder(folder, tmp_path / "pictures.zip") if zipped else folder

    segment(images())
    before = {name: (out / name).read_bytes() for name in files(out)}
    good = (folder / "b.png").read_bytes()
    picture(30, 40, seed=9).save(folder / "b.png")
    picture(9, 9).save(folder / "new.png")
    size = (folder / "b.png").stat().st_size
    said = (rf"pictures(\.zip)?: b\.png has other contents than when it was segmented \({len(good)} bytes then, {size} "
            r"now\); put it back, remove its line from .*manifest.*, or choose another `outdir`")
    with pytest.raises(ModelError, match=said):
        segment(images())
    assert {name: (out / name).read_bytes() for name in files(out)} == before | {
        "segment.json": (out / "segment.json").read_bytes()}
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text(lines[0] + lines[2])
    assert segment(images()) == (2, 2, {})
    assert read(out / "masks" / "b.png").size == (40, 30)


@pytest.mark.parametrize("form", ["folder", "zip", "tar", "tars"])
def test_other_contents_of_the_same_size_are_noticed_and_only_what_was_touched_is_read(segment, tmp_path, monkeypatch,
                                                                                       form):
    folder = make_pictures(tmp_path / "pictures", [])
    for name in ("a.bmp", "b.bmp"):
        picture(seed=ord(name[0])).save(folder / name)
    images = dict(folder=folder, zip=tmp_path / "s.zip", tar=tmp_path / "s.tar", tars=tmp_path / "*.tar")[form]

    def pack():
        if form == "zip":
            zip_folder(folder, images)
        elif form != "folder":
            with tarfile.open(tmp_path / "s.tar", "w") as archive:
                for path in sorted(folder.iterdir()):
                    archive.add(path, path.name)

    def files_read():
        names.clear()
        assert segment(images) == (0, 2, {})
        return names

    names, read_file = [], PictureSource.read
    pack()
    assert segment(images) == (2, 0, {})
    monkeypatch.setattr(PictureSource, "read", lambda self, name: names.append(name) or read_file(self, name))
    assert files_read() == []
    (folder / "b.bmp").write_bytes((folder / "b.bmp").read_bytes())
    pack()
    assert files_read() == dict(folder=["b.bmp"], zip=[]).get(form, ["a.bmp", "b.bmp"])
    shutil.copy(folder / "a.bmp", folder / "b.bmp")
    os.utime(folder / "b.bmp", (10**9, 10**9))  # As if it were unpacked from an archive.
    pack()
    with pytest.raises(ModelError, match=r"b\.bmp has other contents than when it was segmented \(\d+ other bytes\)"):
        segment(images)


def test_manifest_of_an_earlier_version_tells_no_contents(segment, out, tmp_path):
    folder = make_pictures(tmp_path / "pictures")
    segment(folder)
    older = [{key: value for key, value in entry.items() if key not in ("bytes", "crc32")} for entry in manifest(out)]
    (out / "manifest.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in older))
    picture(9, 9).save(folder / "b.png")
    assert segment(folder) == (0, 3, {})


def test_call_that_was_killed_while_it_wrote_is_taken_up(segment, out, tmp_path):
    folder = make_pictures(tmp_path / "pictures")
    segment(folder)
    text = (out / "manifest.jsonl").read_text()
    (out / "manifest.jsonl").write_text(text[:-20])
    assert segment(folder) == (1, 2, {})
    assert (out / "manifest.jsonl").read_text() == text


def test_failure_between_batches_keeps_what_is_done(segment, models, out, tmp_path, monkeypatch):
    folder = make_pictures(tmp_path / "pictures")
    draw, calls = Segmenter.draw, []

    def full_disk(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OSError("disk full")
        return draw(self, *args, **kwargs)

    monkeypatch.setattr(Segmenter, "draw", full_disk)
    with pytest.raises(OSError):
        segment(folder, batch=2)
    assert [entry["name"] for entry in manifest(out)] == ["a.png", "b.png"]
    assert segment(folder, batch=2) == (1, 2, {})


@pytest.mark.parametrize("line", ["", "{", "7", "[]", '{"file": "a.png"}', '{"name": "a.png"}',
                                  '{"name": [], "file": "a.png"}'])
def test_damaged_manifest_is_named_with_its_line(out, line):
    out.mkdir()
    (out / "manifest.jsonl").write_text('{"name": "x.png", "file": "x.png"}\n' + line + "\n")
    with pytest.raises(PictureError, match=r"out/manifest\.jsonl: line 2 is damaged; remove the file to start over"):
        list(read_manifest(out / "manifest.jsonl"))


def test_manifest_of_bytes_is_named(out):
    out.mkdir()
    (out / "manifest.jsonl").write_bytes(b"\x89PNG\xff\n")
    with pytest.raises(PictureError, match=r"manifest\.jsonl: line 1 is damaged"):
        list(read_manifest(out / "manifest.jsonl"))


@pytest.mark.parametrize("place", ["out", "out/masks", "out/manifest.jsonl"])
def test_output_that_can_not_be_written_is_an_os_error(segment, tmp_path, place):
    folder = make_pictures(tmp_path / "pictures", ["a.png"])
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if "manifest" in place else path.touch()
    with pytest.raises(OSError):
        segment(folder)


# Streaming and the contact sheet.

@pytest.mark.parametrize("batch, group_bytes, held", [(3, 10**9, 3), (64, 1500, 2)])
def test_pictures_are_read_a_batch_at_a_time_and_few_of_large_ones(segment, tmp_path, monkeypatch, batch, group_bytes,
                                                                   held):
    monkeypatch.setattr(segment_files, "GROUP_BYTES", group_bytes)
    folder = make_pictures(tmp_path / "pictures", [f"{idx}.png" for idx in range(7)])
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert 750 < min(sizes) and max(sizes) < 1500  # The second is one too many.
    events, read_file, add = [], PictureSource.read, FolderOutput.add
    monkeypatch.setattr(PictureSource, "read",
                        lambda self, name: events.append(("read", name)) or read_file(self, name))
    monkeypatch.setattr(FolderOutput, "add",
                        lambda self, entry, parts: events.append(("add", entry["name"])) or add(self, entry, parts))
    segment(folder, batch=batch)
    now, most = 0, 0
    for what, _name in events:
        now += 1 if what == "read" else -1
        most = max(most, now)
    assert (now, most) == (0, held)
    assert [name for what, name in events if what == "add"] == [f"{idx}.png" for idx in range(7)]


def test_contact_sheet_shows_pictures_over_their_cutouts(segment, out, tmp_path):
    folder = make_pictures(tmp_path / "pictures", [f"{idx:02d}.png" for idx in range(10)])
    PIL.Image.new("RGB", (200, 100), (0, 200, 0)).save(folder / "00.png")
    segment(folder)
    sheet = read(out / "contact-sheet.png")
    assert sheet.size == (8 * CELL_PX, 2 * 2 * CELL_PX)
    assert sheet.getpixel((CELL_PX // 2, CELL_PX // 4)) == (0, 200, 0)
    assert sheet.getpixel((CELL_PX // 2, CELL_PX - 2)) == (255, 255, 255)  # The picture is half as high as wide.
    mask = np.asarray(read(out / "masks" / "00.png"))
    for row, column in [(10, 10), (50, 100), (90, 190)]:
        pixel = sheet.getpixel((column * CELL_PX // 200, CELL_PX + row * CELL_PX // 200))
        if (mask[row - 4:row + 4, column - 4:column + 4] == mask[row, column]).all():  # Away from edges.
            expected = (0, 200, 0) if mask[row, column] else SHEET_GROUND
            assert pixel == pytest.approx(expected, abs=2), "resampling rounds"


@pytest.mark.parametrize("removed", ["out/masks/b.png", "pictures/b.png"])
def test_contact_sheet_passes_over_what_was_removed(segment, out, tmp_path, removed):
    folder = make_pictures(tmp_path / "pictures")
    segment(folder)
    (tmp_path / removed).unlink()
    with closing(PictureSource(folder)) as pictures:
        sheet_of_folder(out, pictures)
    assert read(out / "contact-sheet.png").size == (2 * CELL_PX, 2 * CELL_PX)


def test_contact_sheet_holds_so_many_pictures_and_no_more(segment, out, tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "SHEET_PICTURES", 2)
    segment(make_pictures(tmp_path / "pictures"))
    assert read(out / "contact-sheet.png").size == (2 * CELL_PX, 2 * CELL_PX)


@pytest.mark.parametrize("options, name", [(dict(threshold=0.9), "threshold"), (dict(kind="encoder"), "model"),
                                           (dict(cutouts=False), "cutouts")])
def test_results_of_another_call_are_not_mixed_in(segment, tmp_path, options, name):
    folder = make_pictures(tmp_path / "pictures", ["a.png"])
    assert segment(folder).done == 1
    with pytest.raises(ModelError, match=f"holds results with {name} = .*choose another `outdir`"):
        segment(folder, **options)


@pytest.mark.parametrize("text", [None, "{"])
def test_call_without_any_result_does_not_bind_the_next(segment, out, tmp_path, text):
    folder = make_pictures(tmp_path / "pictures", ["known.png"])
    with pytest.raises(ModelError):
        segment(folder, kind="chunks")  # These encoders know other pictures.
    assert (out / "segment.json").is_file() and manifest(out) == []
    if text is not None:
        (out / "segment.json").write_text(text)
    assert segment(folder, threshold=0.3).done == 1
    with pytest.raises(ModelError, match="holds results with threshold = 0.3, not 0.5"):
        segment(folder)
