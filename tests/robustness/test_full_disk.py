"""A disk without room: one line that names file, folder and need; what was there stays, and nothing half written."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
import time
from contextlib import contextmanager

import dnnlib
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from shell import ROOT, call
from tiny_models import TINY, make_discriminator, make_gan_run, make_generator, make_model, make_pictures

import invert
from layered_plugin import dataset_tool, files, generate, runs
from layered_plugin.data import picture_zip
from layered_plugin.errors import DiskFullError
from layered_plugin.model.snapshots import save_network_pkl
from layered_plugin.segmentation import earlier
from layered_plugin.segmentation.model_file import save_tensors
from layered_plugin.tensor_files import save_state
from layered_plugin.training import run_log


@contextmanager
def room(num_bytes):
    """No file gets longer than this: the system's own error, in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


STATE = dict(G={"weight": torch.zeros(1000, 100)}, step=3)
LINE = r"state\.pt: no room in \S+: at least 0\.4 MB are needed, [\d.]+ MB are free \(or a quota is used up\); make"


def test_training_state_without_room_is_one_line_and_leaves_the_older_one(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, dict(step=2))
    before = path.read_bytes()
    with room(100_000), pytest.raises(DiskFullError, match=LINE):
        save_state(path, STATE)
    assert names(tmp_path) == ["state.pt"] and path.read_bytes() == before


def test_state_is_what_torch_saves(tmp_path):
    save_state(tmp_path / "state.pt", STATE)
    again = runs.load_training_state(tmp_path / "state.pt")
    assert again["step"] == 3 and torch.equal(again["G"]["weight"], STATE["G"]["weight"])


def test_other_errors_of_a_library_are_not_taken_for_the_disks(tmp_path):
    def save(_file):
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        files.write_watched(tmp_path / "state.pt", save, 10)
    assert names(tmp_path) == []


@pytest.mark.parametrize("number, kind", [(errno.ENOSPC, DiskFullError), (errno.EDQUOT, DiskFullError),
                                          (errno.EACCES, PermissionError)])
def test_errors_that_mean_no_room(tmp_path, number, kind):
    with pytest.raises(kind), files.atomic_write(tmp_path / "file"):
        raise OSError(number, "no")
    assert names(tmp_path) == []


def test_snapshot_and_model_without_room_leave_nothing(tmp_path):
    G, D = make_generator(), make_discriminator()
    with room(10_000):
        with pytest.raises(DiskFullError, match=r"a\.pkl: no room in"):
            save_network_pkl(tmp_path / "a.pkl", dict(G=G, D=D, G_ema=G, training_set_kwargs=None, augment_pipe=None))
        with pytest.raises(DiskFullError, match=r"a\.safetensors: no room in"):
            save_tensors(tmp_path / "a.safetensors", dict(G=G))
    assert names(tmp_path) == []


def invoke(command, *args):
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("limit", [100, 1500, 2500, 3600, 4000])
def test_data_set_without_room_leaves_no_part(tmp_path, limit):
    """Somewhere in the pictures, in the labels or in the zip's directory."""
    with room(limit):
        line = invoke(dataset_tool.main, "shapes", f"--dest={tmp_path}/a.zip", f"--masks={tmp_path}/b.zip", "--num=4",
                      "--size=16")
    assert re.search(r"[ab]\.zip: no room in \S+", line) and names(tmp_path) == []


def test_scenes_without_room_leave_no_part(tmp_path):
    gan = make_gan_run(tmp_path / "gan")
    (tmp_path / "out").mkdir()
    with room(3000):
        line = invoke(generate.main, f"--network={gan}", "--seeds=0-9", f"--zip={tmp_path}/out/a.zip", "--device=cpu")
    assert re.search(r"a(-masks)?\.zip: no room in", line) and names(tmp_path / "out") == []


def test_log_of_a_run_without_room_is_named_and_the_run_goes_on(tmp_path, monkeypatch):
    gan, start_run = make_gan_run(tmp_path / "runs/00000-gan"), runs.start_run

    def start_full(*args):
        run = start_run(*args)
        (run / "stats.jsonl").symlink_to("/dev/full")
        return run

    monkeypatch.setattr(runs, "start_run", start_full)
    line = invoke(invert.main, "distill", f"--network={gan}", f"--outdir={tmp_path}/runs", "--steps=2", "--batch=4",
                  "--device=cpu")
    (run,) = (tmp_path / "runs").glob("*-distill-*")
    assert f"Error: {run}/stats.jsonl: no room in {run}: " in line and line.endswith(f" --resume={run}")
    (run / "stats.jsonl").unlink()
    assert CliRunner().invoke(invert.main, ["distill", f"--outdir={run.parent}", f"--resume={run}"]).exit_code == 0
    assert [json.loads(row)["step"] for row in (run / "stats.jsonl").read_text().splitlines()] == [1, 2]


def test_run_without_room_for_its_first_file_leaves_no_folder_and_names_none(tmp_path):
    gan = make_gan_run(tmp_path / "runs/00000-gan")
    with room(1200):
        line = invoke(invert.main, "distill", f"--network={gan}", f"--outdir={tmp_path}/runs", "--device=cpu")
    assert "samples000000.png: no room in" in line and "--resume" not in line
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["00000-gan"]


def test_segmenting_without_room_goes_on_when_there_is_some(tmp_path):
    model = make_model(tmp_path / "model")
    images = make_pictures(tmp_path / "images", [f"{idx:02d}.png" for idx in range(12)])
    args = ["segment", f"--model={model}", f"--images={images}", f"--outdir={tmp_path}/out", "--device=cpu"]
    with room(1000):  # Enough for segment.json, not for the manifest.
        line = invoke(invert.main, *args)
    assert "--outdir: can't write to" in line and "make room, and give the same command again" in line
    assert CliRunner().invoke(invert.main, args).exit_code == 0
    assert len((tmp_path / "out/manifest.jsonl").read_text().splitlines()) == 12


# Limits at which the system says no within a mask, a cut-out, an archive's end and a manifest.
@pytest.mark.parametrize("form, limits", [("files", (60, 120, 500)), ("tar", (60, 500, 10_000, 20_000)),
                                          ("zip", (60, 500, 1500, 2400))])
def test_segmenting_without_room_leaves_nothing_half_written(tmp_path, form, limits, monkeypatch):
    model, images = make_model(tmp_path / "model"), make_pictures(tmp_path / "images")
    args = ["segment", f"--model={model}", f"--images={images}", "--device=cpu", f"--format={form}"]
    assert CliRunner().invoke(invert.main, [*args, f"--outdir={tmp_path}/whole"]).exit_code == 0
    whole = {name: (tmp_path / "whole" / name).read_bytes() for name in names(tmp_path / "whole")}
    monkeypatch.setattr(earlier, "write_json", lambda *_args: None)  # The settings are there, and longer than a mask.
    for limit in limits:
        out = tmp_path / f"out-{limit}"
        out.mkdir()
        (out / "segment.json").write_bytes(whole["segment.json"])
        with room(limit):
            assert "--outdir: can't write to" in invoke(invert.main, *args, f"--outdir={out}")
        for name in names(out):
            found = (out / name).read_bytes()
            assert whole[name].startswith(found) if name == "manifest.jsonl" else whole[name] == found, (limit, name)
        assert CliRunner().invoke(invert.main, [*args, f"--outdir={out}"]).exit_code == 0
        assert {name: (out / name).read_bytes() for name in names(out)} == whole


# In a training.

START_ANEW = r"nothing is saved in \S+ yet: start anew"


@pytest.mark.parametrize("name, num_bytes, go_on", [
    ("log.txt", None, START_ANEW),
    ("stats.jsonl", None, r"the last training state is \S+; go on with: python train_layered\.py .+"),
    ("log.txt", 200, START_ANEW),
    ("fakes_init.png", 6000, START_ANEW),
])
def test_training_without_room_is_one_line_that_says_how_to_go_on(tmp_path, name, num_bytes, go_on):
    """Of one file, by the device that is always full, or of whatever gets longer than so many bytes."""
    data = make_pictures(tmp_path / "cars")
    script = ["import os, sys, resource, train_layered", "from layered_plugin.training import launcher"]
    if num_bytes is None:
        script += ["make = launcher.make_run_dir",
                   f"def made(*args): run = make(*args); os.symlink('/dev/full', run + '/{name}'); return run",
                   "launcher.make_run_dir = made"]
    else:
        script += [f"resource.setrlimit(resource.RLIMIT_FSIZE, ({num_bytes}, -1))"]
    done = call("-c", "\n".join([*script, "train_layered.main()"]), f"--outdir={tmp_path}/runs", f"--data={data}",
                *TINY, "--workers=0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert not re.search("Traceback|ignored|Error.*Error|at least 0.0", done.stderr, re.DOTALL), done.stderr
    assert re.fullmatch(rf"Error: \S+/{re.escape(name)}: no room in \S+: [\d.]+ MB are free \(or a quota is used up\); "
                        rf"make room and go on: {go_on}", done.stderr.splitlines()[-1]), done.stderr


def test_what_the_log_has_got_stays_where_there_is_no_room_for_more(tmp_path):
    output = sys.stdout, sys.stderr
    with pytest.raises(OSError, match="File too large"), room(5), dnnlib.util.Logger(str(tmp_path / "log.txt")):
        print("1234")
        print("5678")
    assert (sys.stdout, sys.stderr) == output and (tmp_path / "log.txt").read_text() == "1234\n"


def test_full_statistics_and_tfevents_are_named_without_a_word_of_their_thread(tmp_path, capfd):
    log = run_log.RunLog(tmp_path, 1)
    pixels = np.random.RandomState(0).randint(0, 255, [64, 64, 3], np.uint8)
    with room(5000), pytest.raises(DiskFullError, match=r"events\.out\.tfevents\.\*: no room in"):
        for _ in range(3):
            log.write({"Loss": dict(num=1, mean=1, std=0)}, 1, dict(picture=pixels))
        time.sleep(0.1)
    with room(60), pytest.raises(DiskFullError, match="(stats.jsonl|tfevents.*): no room in"):
        log.write({"Loss": dict(num=1, mean=1, std=0)}, 1)
    with pytest.raises(DiskFullError, match="no room in"), room(60):
        log.close()
    assert capfd.readouterr().err == ""


# What a killed process leaves.

LONG = "a" * 70_000


@pytest.mark.parametrize("text, kept", [
    ("", ""), ("a\nb\n", "a\nb\n"), ("a\nb", "a\n"), ("torn", ""), ("a\n" + LONG * 3, "a\n"),
    (LONG + "\n" + LONG, LONG + "\n"), ("a\n" + "[" * 200_000, "a\n"), ("a\n12", "a\n"), ('{"b": {}', ""),
    ('a\n{"b": 1}', 'a\n{"b": 1}\n')])
def test_last_line_is_cut_off_if_torn_and_ended_if_whole(tmp_path, text, kept):
    (tmp_path / "stats.jsonl").write_text(text)
    files.cut_torn_line(tmp_path / "stats.jsonl")
    assert (tmp_path / "stats.jsonl").read_text() == kept
    (tmp_path / "stats.jsonl").write_text(text)
    files.append_line(tmp_path / "stats.jsonl", '{"é": 2}')
    assert (tmp_path / "stats.jsonl").read_text(encoding="utf-8") == kept + '{"é": 2}\n'


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    left = [".training-state-000001.pt.a1b2c3_d", ".network-snapshot-000001.pkl.abcdefgh", ".model.json.00000000"]
    stays = ["training-state-000001.pt", ".hidden", ".notes.txt", "stats.jsonl", ".gitignore", "a.b.abcdefgh"]
    for name in (*left, *stays):
        (tmp_path / name).touch()
    (tmp_path / ".folder.abcdefgh").mkdir()
    assert sorted(files.remove_leftovers(tmp_path)) == sorted(left)
    assert names(tmp_path) == sorted(stays)


def test_part_of_a_killed_process_is_removed_by_a_later_one(tmp_path):
    dead, other, fresh = (tmp_path / f".{name}.part" for name in ("a.zip.77", "b.zip.77", "a.zip.78"))
    for path in (dead, other, fresh):
        path.touch()
    for path in (dead, other):
        os.utime(path, (0, 0))
    with picture_zip.PictureZipWriter(tmp_path / "a.zip"):
        pass
    assert names(tmp_path) == sorted([fresh.name, other.name, "a.zip"])


@pytest.mark.parametrize("length", [246, 255])
def test_long_names_are_written(tmp_path, length):
    for letter in ("n", "é"):
        name = (letter * length).encode()[:length - 5].decode(errors="ignore") + ".json"
        files.write_json(tmp_path / name, {})
        assert (tmp_path / name).read_text() == "{}"


def test_stdout_without_room_is_named_and_not_the_log(tmp_path):
    data = make_pictures(tmp_path / "cars")
    command = [sys.executable, "train_layered.py", f"--outdir={tmp_path}/runs", f"--data={data}", *TINY, "--workers=0"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1, done.stderr
    assert not re.search("Traceback|ignored|Error.*Error", done.stderr, re.DOTALL), done.stderr
    assert re.fullmatch("Error: stdout: no room where it is written to; make room, or have it written elsewhere: "
                        + START_ANEW, done.stderr.splitlines()[-1]), done.stderr
