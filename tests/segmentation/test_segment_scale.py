"""Many pictures: worker processes, archives in and out, shards of the work, kills; the bytes are those of one call."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import PIL.Image
import psutil
import pytest
import torch
from click.testing import CliRunner
from shell import ROOT
from tiny_models import make_model, make_pictures, picture, zip_folder

import invert
from layered_plugin.data.mask_files import MaskFiles
from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import ArgumentError, ModelError, PictureError, UserError
from layered_plugin.segmentation import outputs, segment_files, shares, workers
from layered_plugin.segmentation.full_size import Drawn
from layered_plugin.segmentation.merging import merge_shards
from layered_plugin.segmentation.outputs import ArchiveOutput, FolderOutput
from layered_plugin.segmentation.segmenter import Segmenter
from layered_plugin.segmentation.shares import Shard


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "distill")


@pytest.fixture(scope="module")
def segmenter(model):
    return Segmenter.load(model, "cpu")


@pytest.fixture
def folder(tmp_path):
    return make_pictures(tmp_path / "pictures", [f"{idx:02d}.png" for idx in range(11)] + ["sub/a.b.png", "z.png"])


@pytest.fixture
def segment(segmenter):
    return lambda images, out, **options: segment_files.segment_files(segmenter, images, out, batch=3, **options)


def contents(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def tar_folder(folder, path, mode="w"):
    with tarfile.open(path, mode) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.add(file, file.relative_to(folder).as_posix())
    return path


def names_in(path):
    with contextlib.closing(PictureSource(path)) as source:
        return source.names


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("images", ["00000.zip", "*.zip", "00001.zip"])
def test_archive_that_no_call_has_made_is_not_replaced(segment, folder, tmp_path, images):
    (tmp_path / "shards").mkdir()
    for name in ("00000.zip", "00001.zip"):
        zip_folder(folder, tmp_path / "shards" / name)
    before = contents(tmp_path / "shards")
    with pytest.raises(ArgumentError, match=r"`outdir`: .*00000.zip is there, and no results; choose another folder"):
        segment(tmp_path / "shards" / images, tmp_path / "shards", form="zip")
    after = contents(tmp_path / "shards")
    assert {name: after[name] for name in before} == before


# Worker processes.

def test_workers_make_the_same_bytes(segment, folder, tmp_path, monkeypatch):
    (folder / "05.png").write_bytes(b"no picture")
    expected = segment(folder, tmp_path / "here")
    monkeypatch.setattr(segment_files, "WORTH_WORKERS", 1)
    assert segment(folder, tmp_path / "there", workers=2) == expected
    assert expected.done == 12 and expected.failed.keys() == {"05.png"}
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_few_pictures_start_no_process(segment, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "ProcessPoolExecutor", lambda *_args: pytest.fail("a process was started"))
    assert segment(folder, tmp_path / "out", workers=2).done == 13


@pytest.mark.parametrize("kind, num, expected", [("distill", 2, 2), ("distill", 0, 8), ("encoder", 2, 8)])
def test_network_of_little_work_leaves_the_cores_to_the_workers(segmenter, segment, folder, tmp_path, monkeypatch, kind,
                                                                num, expected):
    found = set()

    def draw(squares, *_args):
        found.add(torch.get_num_threads())
        return [Drawn(np.zeros([16, 16], np.float32)) for _ in squares]

    monkeypatch.setattr(segment_files, "WORTH_WORKERS", 1)
    monkeypatch.setattr(segment_files, "task_executor", lambda _num: contextlib.nullcontext(workers.Here()))
    monkeypatch.setattr(segmenter, "kind", kind)
    monkeypatch.setattr(segmenter, "draw", draw)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        segment(folder, tmp_path / "out", workers=num)
        assert (found, torch.get_num_threads()) == ({expected}, 8)
    finally:
        torch.set_num_threads(before)


def test_worker_that_is_killed_is_an_error_with_a_remedy(segment, folder, tmp_path, monkeypatch):
    def killed(*_args):
        raise segment_files.BrokenProcessPool
    monkeypatch.setattr(workers.Here, "submit", killed)
    with pytest.raises(UserError, match="worker process was killed.*the same command goes on.*fewer `workers`"):
        segment(folder, tmp_path / "out")


def test_workers_end_with_a_main_process_that_is_killed(model, folder, tmp_path):
    code = ("import sys, time; from layered_plugin.segmentation import workers\n"
            "if __name__ == '__main__':\n"
            "    with workers.task_executor(1) as tasks:\n"
            "        import os; print(tasks.submit(os.getpid).result(), flush=True); time.sleep(60)\n")
    (tmp_path / "main.py").write_text(code)
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    main = subprocess.Popen([sys.executable, str(tmp_path / "main.py")], stdout=subprocess.PIPE, env=env)
    worker = psutil.Process(int(main.stdout.readline()))
    assert worker.is_running()
    main.kill()
    main.wait()
    main.stdout.close()
    worker.wait(timeout=60)  # Raises if it still runs.


# Archives.

@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_gives_what_its_folder_gives(segment, folder, tmp_path, kind):
    segment(folder, tmp_path / "expected")
    path = tmp_path / f"pictures.{kind}"
    zip_folder(folder, path) if kind == "zip" else tar_folder(folder, path, "w:gz" if kind == "tar.gz" else "w")
    segment(path, tmp_path / "out")
    made, expected = contents(tmp_path / "out"), contents(tmp_path / "expected")
    ours, theirs = (json.loads(found.pop("segment.json")) for found in (made, expected))
    assert made == expected
    assert ours == dict(theirs, images=str(path))


@pytest.mark.parametrize("form", ["files", "zip", "tar"])
def test_each_archive_of_a_pattern_gets_results_and_a_manifest_of_its_own(segment, folder, tmp_path, form):
    tars = [tar_folder(folder, tmp_path / f"s-{idx}.tar") for idx in range(2)]
    outcome = segment(tmp_path / "s-*.tar", tmp_path / "out", form=form)
    assert outcome == (26, 0, {})
    if form == "files":
        segment(tars[0], tmp_path / "alone")
        alone = contents(tmp_path / "alone")
        del alone["segment.json"]
        for part in ("s-0", "s-1"):
            assert contents(tmp_path / "out" / part) == alone
    else:
        assert contents(tmp_path / "out").keys() == {"segment.json", f"s-0.{form}", "s-0.jsonl", f"s-1.{form}",
                                                     "s-1.jsonl"}
        assert len(lines(tmp_path / "out" / "s-1.jsonl")) == 13


@pytest.mark.parametrize("form", ["files", "tar"])
def test_an_archive_that_cannot_be_read_is_named_and_the_others_go_on(segment, folder, tmp_path, form):
    tars = [tar_folder(folder, tmp_path / f"s-{idx}.tar") for idx in range(4)]
    whole = segment(tmp_path / "s-*.tar", tmp_path / "whole", form=form)
    good = tars[1].read_bytes()
    tars[1].write_bytes(good[:len(good) // 2 + 100])
    with tarfile.open(tars[2], "w"):
        pass
    out = tmp_path / "out"
    done, skipped, failed = segment(tmp_path / "s-*.tar", out, form=form)
    assert (done, skipped) == (26, 0) and failed.keys() == {str(tars[1]), str(tars[2])}
    assert failed[str(tars[2])] == f"{tars[2]}: holds no pictures"
    for tar in tars[1:3]:
        tar.write_bytes(good)
    assert segment(tmp_path / "s-*.tar", out, form=form) == (26, 26, {})
    assert contents(out) == contents(tmp_path / "whole") and whole.done == 52


def test_no_archive_that_can_be_read_is_an_error(segment, tmp_path):
    (tmp_path / "s-0.tar").write_bytes(b"no tar")
    with pytest.raises(ModelError, match=r"s-0\.tar: neither a folder nor a readable zip or tar"):
        segment(tmp_path / "s-*.tar", tmp_path / "out")


def test_zip_holds_what_the_folder_would(segment, folder, tmp_path):
    segment(folder, tmp_path / "expected")
    segment(folder, tmp_path / "out", form="zip")
    with zipfile.ZipFile(tmp_path / "out" / "00000.zip") as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found == {name: data for name, data in contents(tmp_path / "expected").items() if "/" in name}
    assert (tmp_path / "out" / "00000.jsonl").read_bytes() == (tmp_path / "expected" / "manifest.jsonl").read_bytes()


@pytest.mark.parametrize("form, masks", [("zip", "00000.zip"), ("tar", "00000.tar"), ("tar", ".")])
def test_masks_in_an_archive_of_results_are_those_of_their_pictures(segment, folder, tmp_path, form, masks):
    segment(folder, tmp_path / "expected")
    segment(folder, tmp_path / "out", form=form)
    names, expected = names_in(folder), MaskFiles(tmp_path / "expected" / "masks")
    assert len(names) == 13 and "sub/a.b.png" in names
    with contextlib.closing(MaskFiles(tmp_path / "out" / masks)) as found:
        found.check_names(names, folder)
        for name in names:
            np.testing.assert_array_equal(found.read(name), expected.read(name))
        left = "masks/00.png" if form == "zip" else f"{'00000.tar/' if masks == '.' else ''}00.mask.png"
        assert found.unmatched(names[1:], folder) == ([], [left])


def test_shards_find_the_masks_of_their_own_results(segment, folder, tmp_path):
    """Pictures have the same names in both shards, and other masks."""
    shards = tmp_path / "shards"
    shards.mkdir()
    tar_folder(folder, shards / "s-0.tar")
    make_pictures(folder, names_in(folder)[::-1])
    tar_folder(folder, shards / "s-1.tar")
    segment(shards / "s-*.tar", tmp_path / "out", form="tar")
    segment(folder, tmp_path / "expected")
    masks = MaskFiles(tmp_path / "out")
    masks.check_names(names_in(shards), shards)
    np.testing.assert_array_equal(masks.read("s-1.tar/z.png"), MaskFiles(tmp_path / "expected" / "masks").read("z.png"))
    assert masks.read("s-1.tar/z.png").shape != masks.read("s-0.tar/z.png").shape


@pytest.mark.filterwarnings("ignore")  # Of the library.
def test_webdataset_reads_our_tar(segment, folder, tmp_path):
    wds = pytest.importorskip("webdataset")
    segment(folder, tmp_path / "expected")
    segment(folder, tmp_path / "out", form="tar")
    samples = list(wds.WebDataset(str(tmp_path / "out" / "00000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{idx:02d}" for idx in range(11)] + ["sub/a%2Eb", "z"]
    for sample in samples:
        entry = json.loads(sample["json"])
        file = entry["name"]
        assert sample["mask.png"] == (tmp_path / "expected" / "masks" / file).read_bytes()
        assert sample["cutout.png"] == (tmp_path / "expected" / "cutouts" / file).read_bytes()
        with PIL.Image.open(io.BytesIO(sample["mask.png"])) as mask:
            assert mask.size == (entry["width"], entry["height"])
            assert entry["coverage"] == pytest.approx((np.asarray(mask) == 255).mean(), abs=1e-4)


@pytest.mark.parametrize("form", ["files", "tar", "zip"])
def test_a_name_that_is_not_utf8_is_refused_by_a_zip_alone(segment, folder, tmp_path, form):
    (folder / "05.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    done, _skipped, failed = segment(folder, tmp_path / "out", form=form)
    assert (done, len(failed)) == ((12, 1) if form == "zip" else (13, 0))
    for text in failed.values():
        assert re.fullmatch(r".*pictures: caf\\xe9\.png: .* not UTF-8, .*: rename it, or take another `form`", text)


def test_an_archive_of_results_is_whole_or_not_there(segment, folder, tmp_path, monkeypatch):
    segment(folder, tmp_path / "expected", form="tar")
    add, out = ArchiveOutput.add, tmp_path / "out"
    monkeypatch.setattr(ArchiveOutput, "add", lambda self, entry, data: add(self, entry, data)
                        if entry["name"] != "07.png" else (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        segment(folder, out, form="tar")
    assert contents(out).keys() == {"segment.json"}
    monkeypatch.setattr(ArchiveOutput, "add", add)
    assert segment(folder, out, form="tar").done == 13
    assert contents(out) == contents(tmp_path / "expected")
    assert segment(folder, out, form="tar") == (0, 13, {})


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_what_failed_is_said_again_of_a_finished_archive(segment, folder, tmp_path, form):
    (folder / "05.png").write_bytes(b"no picture")
    first, second = (segment(folder, tmp_path / "out", form=form) for _ in range(2))
    assert first.failed.keys() == {"05.png"} and "cannot read picture 05.png" in first.failed["05.png"]
    assert second == (0, 12, first.failed)


@pytest.mark.parametrize("images", ["pictures", "*.tar"])
def test_an_archive_is_made_anew_once_what_failed_was_mended(segment, folder, tmp_path, images):
    good = (folder / "05.png").read_bytes()
    (folder / "05.png").write_bytes(b"no picture")
    tar_folder(folder, tmp_path / "s.tar")
    assert segment(tmp_path / images, tmp_path / "out", form="tar").failed.keys() == {"05.png"}
    (folder / "05.png").write_bytes(good)
    tar_folder(folder, tmp_path / "s.tar")
    assert [segment(tmp_path / images, tmp_path / "out", form="tar") for _ in range(2)] == [(13, 0, {}), (0, 13, {})]


def test_a_large_folder_goes_to_several_archives(segment, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shares, "PER_ARCHIVE", 6)
    segment(folder, tmp_path / "whole", form="tar")
    assert [len(lines(tmp_path / "whole" / f"0000{idx}.jsonl")) for idx in range(3)] == [6, 6, 1]
    for number in (1, 0):
        segment(folder, tmp_path / "shards", form="tar", shard=Shard(number, 2))
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["zz.png", "00a.png"])
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_archives_to_which_pictures_were_added_are_made_anew(segment, folder, tmp_path, monkeypatch, form, name):
    monkeypatch.setattr(shares, "PER_ARCHIVE", 6)
    segment(folder, tmp_path / "out", form=form)
    picture(40, 30, seed=9).save(folder / name)
    outcome = segment(folder, tmp_path / "out", form=form)
    assert (outcome.done, outcome.skipped) == ((2, 12) if name == "zz.png" else (14, 0))
    segment(folder, tmp_path / "whole", form=form)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change, words", [
    (lambda folder: picture(40, 30, seed=9).save(folder / "07.png"), r"07\.png has other contents than when it was"),
    (lambda folder: (folder / "07.png").unlink(), r"00001\.tar: holds results of pictures that .*pictures has no more"),
])
def test_archives_of_pictures_that_changed_are_refused(segment, folder, tmp_path, monkeypatch, change, words):
    monkeypatch.setattr(shares, "PER_ARCHIVE", 6)
    segment(folder, tmp_path / "out", form="tar")
    before = contents(tmp_path / "out")
    change(folder)
    with pytest.raises(ModelError, match=rf"{words}.* remove .*00001\.tar and 00001\.jsonl to have it made anew, or"):
        segment(folder, tmp_path / "out", form="tar")
    del before["segment.json"]
    assert before.items() <= contents(tmp_path / "out").items()


@pytest.mark.parametrize("images", ["pictures", "s-*.tar"])
def test_archives_of_pictures_of_other_bytes_are_refused(segment, folder, tmp_path, images):
    picture(20, 20).save(folder / "b.bmp")
    tar_folder(folder, tmp_path / "s-0.tar")
    for _ in range(2):
        outcome = segment(tmp_path / images, tmp_path / "out", form="tar")
    assert (outcome.done, outcome.skipped) == (0, 14)
    picture(20, 20, seed=1).save(folder / "b.bmp")
    tar_folder(folder, tmp_path / "s-0.tar")
    with pytest.raises(ModelError, match=r"b\.bmp has other contents .* \(1254 other bytes\); .*to have it made anew"):
        segment(tmp_path / images, tmp_path / "out", form="tar")


@pytest.mark.parametrize("form", ["files", "tar"])
def test_a_tar_that_changed_is_noticed_and_others_stay_shut(segment, folder, tmp_path, monkeypatch, form):
    tars = [tar_folder(folder, tmp_path / f"s-{idx}.tar") for idx in range(2)]
    segment(tmp_path / "s-*.tar", tmp_path / "out", form=form)
    (folder / "more").mkdir()
    for idx in range(20):
        picture(40, 30, seed=idx).save(folder / f"more/{idx}.png")
    tar_folder(folder, tars[1])
    opened, init = [], PictureSource.__init__
    monkeypatch.setattr(PictureSource, "__init__",
                        lambda self, path, *args: opened.append(path) or init(self, path, *args))
    outcome = segment(tmp_path / "s-*.tar", tmp_path / "out", form=form)
    assert (outcome.done, outcome.skipped) == ((20, 26) if form == "files" else (33, 13))
    assert opened == (tars if form == "files" else tars[1:])
    (folder / "03.png").write_bytes((folder / "04.png").read_bytes())
    tar_folder(folder, tars[0])
    with pytest.raises(ModelError, match=r"s-0\.tar: 03\.png has other contents"):
        segment(tmp_path / "s-*.tar", tmp_path / "out", form=form)


@pytest.mark.parametrize("form", ["files", "tar"])
def test_dots_within_the_names_of_archives_tell_them_apart(folder, tmp_path, form):
    names = ["x.000.tar", "x.001.tar.gz", "x.tgz"]
    for name in names:
        (tmp_path / name).touch()
    found = shares.plan_parts(str(tmp_path / "x.*"), tmp_path / "out", form, shares.WHOLE)
    places = [part.folder if form == "files" else part.archive for part in found]
    suffix = "" if form == "files" else ".tar"
    assert places == [tmp_path / "out" / f"{stem}{suffix}" for stem in ("x.000", "x.001", "x")]
    assert len({part.manifest for part in found}) == len(names)


def test_archives_that_would_share_a_place_are_refused(segment, folder, tmp_path):
    tar_folder(folder, tmp_path / "s.tar")
    zip_folder(folder, tmp_path / "s.zip")
    with pytest.raises(PictureError, match=r"s\.tar: differs from .*s\.zip in its suffix or folder alone"):
        segment(tmp_path / "s.*", tmp_path / "out")
    with pytest.raises(PictureError, match="no file fits this pattern"):
        segment(tmp_path / "t.*", tmp_path / "out")
    with pytest.raises(PictureError, match="fits pictures, such as .*; a pattern is of zips or tars: give the folder"):
        segment(folder / "*", tmp_path / "out")


# Shards.

@pytest.mark.parametrize("total", [2, 3, 5])
def test_merged_shards_one_of_them_interrupted_are_what_one_call_makes(segment, folder, tmp_path, monkeypatch, total):
    segment(folder, tmp_path / "whole")
    out, add, left = tmp_path / "out", FolderOutput.add, [1]

    def interrupted(self, entry, data):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        add(self, entry, data)

    monkeypatch.setattr(FolderOutput, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        segment(folder, out, shard=Shard(0, total))
    with open(out / f"manifest-0-of-{total}.partial.jsonl", "a") as torn:
        torn.write('{"name": "0')
    monkeypatch.setattr(FolderOutput, "add", add)
    with pytest.raises(PictureError, match=f"shard 0/{total} is not finished; run it again"):
        merge_shards(out)
    for number in reversed(range(total)):
        segment(folder, out, shard=Shard(number, total))
    assert merge_shards(out) == (13, 0)
    assert contents(out) == contents(tmp_path / "whole")
    assert segment(folder, out) == (0, 13, {})


@pytest.mark.parametrize("first", [0, 1])
def test_shards_that_divide_other_work_are_refused(segmenter, segment, folder, tmp_path, first):
    def share(number, batch):
        return segment_files.segment_files(segmenter, folder, tmp_path / "out", batch=batch, shard=Shard(number, 2))

    share(first, 13)  # All of it is the second's.
    with pytest.raises(ModelError, match=r"out: holds results with batch = 13, not 4; choose another `outdir`"):
        share(1 - first, 4)
    (folder / "z.png").rename(folder / "zz.png")
    with pytest.raises(ModelError, match=r"begun for pictures or archives of other names; put them back"):
        share(1 - first, 13)
    (folder / "zz.png").rename(folder / "z.png")
    make_pictures(folder, ["new/a.png"])
    with pytest.raises(ModelError, match="for 13 pictures or archives, and there are 14 now; put them back, go on"):
        share(1 - first, 13)
    (folder / "new" / "a.png").unlink()
    share(1 - first, 13)
    assert merge_shards(tmp_path / "out") == (13, 0)
    make_pictures(folder, ["new/a.png"])
    assert [share(number, 4).done for number in range(2)] == [0, 1]  # Once all is merged, work may be divided anew.
    assert merge_shards(tmp_path / "out") == (14, 0)


def test_work_that_shards_have_left_is_ended_by_one_call(segment, folder, tmp_path):
    out = tmp_path / "out"
    segment(folder, out, shard=Shard(0, 2))
    make_pictures(folder, ["00a.png"])
    with pytest.raises(ModelError, match="go on without `shard`"):
        segment(folder, out, shard=Shard(1, 2))
    assert segment(folder, out).done == 8
    assert merge_shards(out) == (14, 0) and not list(out.glob("manifest-*"))


@pytest.mark.parametrize("pattern", [False, True])
def test_shards_of_archives_that_divide_other_work_are_refused(segment, folder, tmp_path, monkeypatch, pattern):
    monkeypatch.setattr(shares, "PER_ARCHIVE", 6)
    images = tmp_path / "s-*.tar" if pattern else folder
    for name in "abcd":
        tar_folder(folder, tmp_path / f"s-{name}.tar")
    segment(images, tmp_path / "out", form="tar", shard=Shard(0, 2))
    tar_folder(folder, tmp_path / "s-aa.tar") if pattern else make_pictures(folder, ["00a.png"])
    with pytest.raises(ModelError, match=r"there are (5|14) now; put them back, go on without `shard`, or"):
        segment(images, tmp_path / "out", form="tar", shard=Shard(1, 2))
    segment(images, tmp_path / "out", form="tar")
    segment(images, tmp_path / "whole", form="tar")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert segment(images, tmp_path / "out", form="tar", shard=Shard(1, 2)).done == 0


def test_merge_counts_the_pictures(model, folder, tmp_path):
    (folder / "05.png").write_bytes(b"no picture")
    for number in range(2):
        run(model, folder, tmp_path / "out", f"--shard={number}/2", "--workers=0")
    merged = CliRunner().invoke(invert.main, ["merge", f"--outdir={tmp_path}/out"])
    assert merged.exit_code == 1 and "12 pictures: " in merged.stderr
    assert "Error: of 13 pictures 1 could not be segmented; segment without --shard says why" in merged.stderr


@pytest.mark.parametrize("again", ["before the merge", "after the merge"])
def test_a_finished_shard_may_be_given_again(segment, folder, tmp_path, again):
    """As by a queue that repeats a task, whose end it did not see."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    segment(folder, whole)
    for number in range(2):
        segment(folder, out, shard=Shard(number, 2))
    if again == "after the merge":
        merge_shards(out)
    outcome = segment(folder, out, shard=Shard(0, 2))
    assert (outcome.done, outcome.skipped, outcome.failed) == (0, 6, {})
    if again == "before the merge":
        assert merge_shards(out) == (13, 0)
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("left", [(0, 1), (1,), (0,)])
def test_a_merge_that_was_killed_while_it_tidied_up_is_taken_up(segment, folder, tmp_path, left):
    for number in range(2):
        segment(folder, tmp_path / "out", shard=Shard(number, 2))
    kept = contents(tmp_path / "out")
    merge_shards(tmp_path / "out")
    merged = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    for number in left:
        name = f"manifest-{number}-of-2.jsonl"
        (tmp_path / "out" / name).write_bytes(kept[name])
    assert merge_shards(tmp_path / "out") == (13, 0)
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == merged
    assert not list((tmp_path / "out").glob("manifest-*"))


def test_pictures_that_have_moved_leave_a_merge_without_contact_sheet(segment, folder, tmp_path):
    for number in range(2):
        segment(folder, tmp_path / "out", shard=Shard(number, 2))
    folder.rename(tmp_path / "moved")
    merged = CliRunner().invoke(invert.main, ["merge", f"--outdir={tmp_path}/out"])
    assert merged.exit_code == 0 and "No contact sheet: the pictures are no longer where they were" in merged.stderr
    assert not (tmp_path / "out" / "contact-sheet.png").exists()
    assert segment(tmp_path / "moved", tmp_path / "out") == (0, 13, {})  # And where they are now is kept.
    assert (tmp_path / "out" / "contact-sheet.png").is_file()


def test_nothing_to_merge_is_an_error(tmp_path):
    with pytest.raises(PictureError, match="holds manifests of no shard"):
        merge_shards(tmp_path)


def test_a_picture_that_was_added_does_not_change_the_others_company(segment, segmenter, folder, tmp_path, monkeypatch):
    segment(folder, tmp_path / "out")
    (folder / "10a.png").write_bytes((folder / "10.png").read_bytes())
    companies, draw = [], Segmenter.draw
    monkeypatch.setattr(Segmenter, "draw",
                        lambda self, squares, names, how: companies.append(names) or draw(self, squares, names, how))
    segment(folder, tmp_path / "out")
    assert companies == [["09.png", "10.png", "10a.png"]]
    assert lines(tmp_path / "out" / "manifest.jsonl")[-1]["name"] == "10a.png"


@pytest.mark.parametrize("env, expected", [
    ({}, (0, 1, "")),
    ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, "")),
    ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8, "RANK")),
    ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4"}, (2, 4, "SLURM_ARRAY_TASK_ID")),
    ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1",
      "SLURM_ARRAY_TASK_STEP": "2"}, (2, 3, "SLURM_ARRAY_TASK_ID")),
])
def test_shard_by_the_environment(env, expected):
    shard, reason = Shard.of_environment(env)
    assert (*shard, reason) == expected


def test_an_environment_that_makes_no_sense_is_named():
    with pytest.raises(ArgumentError, match="`shard` can't be taken from the environment"):
        Shard.of_environment({"WORLD_SIZE": "two"})


# As a user types it.

def run(model, images, out, *args):
    return CliRunner().invoke(invert.main, ["segment", f"--model={model}", f"--images={images}", f"--outdir={out}",
                                            "--device=cpu", "--batch=3", *args])


@pytest.mark.parametrize("shard", ["2/2", "1", "a/b", "-1/2", "0/0"])
def test_a_wrong_shard_is_named(model, folder, tmp_path, shard):
    result = run(model, folder, tmp_path / "out", f"--shard={shard}")
    assert result.exit_code == 2 and f"--shard must be I/N with I from 0 to N - 1, got {shard}" in result.stderr


def test_shards_by_option_and_environment_and_then_merge(model, folder, tmp_path, monkeypatch):
    run(model, folder, tmp_path / "whole")
    out = tmp_path / "my out"
    first = run(model, folder, out, "--shard=1/2", "--workers=0")
    assert first.exit_code == 0 and "Shard 1 of 2, from 0 on, by --shard" in first.stderr
    assert f"When all shards are finished: python invert.py merge '--outdir={out}'" in first.stderr
    early = CliRunner().invoke(invert.main, ["merge", f"--outdir={out}"])
    assert early.exit_code == 1 and f"Error: {out}: shard 0/2 is not finished; run it again" in early.stderr
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/layered-invert"])
    second = run(model, folder, out)
    assert second.exit_code == 0 and f": layered-invert merge '--outdir={out}'\n" in second.stderr
    merged = CliRunner().invoke(invert.main, ["merge", f"--outdir={out}"])
    assert merged.exit_code == 0 and f"13 pictures: {out}/manifest.jsonl" in merged.stderr
    assert "contact sheet" not in merged.stderr
    assert contents(out) == contents(tmp_path / "whole")


def test_call_that_is_killed_and_given_again_leaves_the_bytes_of_one_call(model, folder, tmp_path):
    """By SIGKILL, with worker processes; the second call ends the work."""
    many = tmp_path / "many"
    many.mkdir()
    for idx in range(220):
        picture(17 + idx % 5, 23 - idx % 7, seed=idx).save(many / f"{idx:03d}.png")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(model, many, whole, "--workers=0").exit_code == 0
    args = [sys.executable, "invert.py", "segment", f"--model={model}", f"--images={many}", f"--outdir={out}",
            "--device=cpu", "--batch=3", "--workers=1"]
    call = subprocess.Popen(args, cwd=ROOT, stderr=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1"))
    while call.poll() is None and len(list((out / "masks").glob("*"))) < 20:
        time.sleep(0.01)
    call.send_signal(signal.SIGKILL)
    call.wait()
    assert 0 < len(lines_so_far(out / "manifest.jsonl")) < 220
    assert run(model, many, out, "--workers=0").exit_code == 0
    assert contents(out) == contents(whole)


def lines_so_far(path):
    return list(outputs.read_manifest(path))
