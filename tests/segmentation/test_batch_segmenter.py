"""A model as a callable class for batches: rows as the command makes them; on a local Ray, a worker is killed."""

import io
import json

import numpy as np
import PIL.Image
import psutil
import pytest
from tiny_models import make_model, make_pictures, picture

from layered_plugin.errors import ArgumentError
from layered_plugin.segmentation.batch_segmenter import BatchSegmenter
from layered_plugin.segmentation.segment_files import segment_files
from layered_plugin.segmentation.segmenter import Segmenter


def contents(folder):
    paths = sorted(folder.iterdir())
    out = np.empty(len(paths), object)
    out[:] = [path.read_bytes() for path in paths]
    return dict(bytes=out, path=np.array([path.name for path in paths]))


@pytest.mark.parametrize("kind, parts", [
    ("distill", ["mask", "cutout"]), ("encoder", ["mask", "cutout", "background", "foreground", "reconstruction"])])
def test_rows_are_what_the_command_writes(kind, parts, tmp_path):
    model, folder = make_model(tmp_path / "model", kind), make_pictures(tmp_path / "pictures")
    segment_files(Segmenter.load(model, "cpu"), folder, tmp_path / "out")
    rows = BatchSegmenter(model, device="cpu")(contents(folder))
    assert list(rows["path"]) == ["a.png", "b.png", "c.png"] and list(rows["failed"]) == [None] * 3
    assert "bytes" not in rows
    manifest = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    for idx, entry in enumerate(manifest):
        for part in parts:
            assert rows[part][idx] == (tmp_path / "out" / f"{part}s" / entry["file"]).read_bytes()
        of_file = ("name", "file", "bytes", "crc32")
        assert {name: rows[name][idx] for name in entry if name not in of_file} == {
            name: value for name, value in entry.items() if name not in of_file}


def test_picture_that_can_not_be_read_is_none_and_says_why(tmp_path):
    model = make_model(tmp_path / "model")
    batch = contents(make_pictures(tmp_path / "pictures"))
    batch["bytes"][1] = b"no picture"
    rows = BatchSegmenter(model, device="cpu", min_confidence=1)(batch)
    assert rows["mask"][1] is None and rows["failed"][1] == "no picture in a known format"
    assert rows["failed"][0] is rows["failed"][2] is None and PIL.Image.open(io.BytesIO(rows["mask"][2])).mode == "L"
    assert list(rows["doubtful"]) == [True, None, True]


@pytest.mark.parametrize("value, kind", [(None, "NoneType"), ("a.png", "str"), (7, "int")])
def test_row_that_holds_no_file_is_none_and_says_so(tmp_path, value, kind):
    batch = contents(make_pictures(tmp_path / "pictures"))
    batch["bytes"][1] = value
    rows = BatchSegmenter(make_model(tmp_path / "model"), device="cpu")(batch)
    assert rows["mask"][1] is None and rows["failed"][1] == f"bytes holds {kind}, not the bytes of a file"
    assert rows["failed"][0] is rows["failed"][2] is None and rows["mask"][2]


@pytest.mark.parametrize("options", [dict(threshold=1), dict(threshold=0.0), dict(min_confidence=-0.1),
                                     dict(min_confidence=7), dict(margin=7)])
def test_numbers_out_of_their_range_are_refused(tmp_path, options):
    with pytest.raises(ArgumentError, match=f"`{next(iter(options))}`"):
        BatchSegmenter(make_model(tmp_path / "model"), device="cpu", **options)


def test_batch_without_rows_has_the_columns(tmp_path):
    rows = BatchSegmenter(make_model(tmp_path / "model"), device="cpu")(dict(bytes=np.empty(0, object)))
    assert {"mask", "cutout", "failed"} <= rows.keys() and all(len(values) == 0 for values in rows.values())


def test_rows_without_cutouts(tmp_path):
    model, batch = make_model(tmp_path / "model"), contents(make_pictures(tmp_path / "pictures"))
    rows, whole = (BatchSegmenter(model, device="cpu", cutouts=cutouts)(batch) for cutouts in (False, True))
    assert rows.keys() == whole.keys() - {"cutout"} and list(rows["mask"]) == list(whole["mask"])


def test_model_of_chunks_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="`model`: encoders of chunks"):
        BatchSegmenter(make_model(tmp_path / "model", "chunks"), device="cpu")


def maps(process):
    """Is it one of Ray's workers that segment?"""
    try:
        return "MapWorker" in " ".join(process.cmdline())
    except psutil.Error:  # It has ended.
        return False


@pytest.mark.filterwarnings("ignore")
def test_local_ray_with_two_workers_of_which_one_is_killed(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness"):  # On a busy machine, Ray's own would get no turn.
        monkeypatch.setenv(name, "0")
    model, folder = make_model(tmp_path / "model"), tmp_path / "pictures"
    folder.mkdir()
    for idx in range(60):
        picture(17 + idx % 5, 23 - idx % 7, seed=idx).save(folder / f"{idx:02d}.png")
    ray.init(num_cpus=4, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    try:
        rows = ray.data.read_binary_files(str(folder), include_paths=True, override_num_blocks=20).map_batches(
            BatchSegmenter, fn_constructor_kwargs=dict(model=str(model), device="cpu"), batch_size=3,
            compute=ray.data.ActorPoolStrategy(size=2))
        found, killed = {}, 0
        for row in rows.iter_rows():
            found[row["path"].rpartition("/")[2]] = row
            if not killed:
                workers = [process for process in psutil.Process().children(recursive=True) if maps(process)]
                workers[0].kill()
                killed = len(workers)
    finally:
        ray.shutdown()
    assert killed >= 1
    here = BatchSegmenter(model, device="cpu")(contents(folder))
    assert sorted(found) == list(here["path"])
    for name, mask, confidence in zip(here["path"], here["mask"], here["confidence"], strict=True):
        pixels = [np.asarray(PIL.Image.open(io.BytesIO(data))) for data in (found[name]["mask"], mask)]
        assert (pixels[0] != pixels[1]).mean() < 0.01  # Other company may change the last bit of an opacity.
        assert found[name]["confidence"] == pytest.approx(confidence, abs=1e-3)
