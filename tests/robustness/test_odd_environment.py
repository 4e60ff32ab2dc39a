"""Commands where the surroundings are odd: nobody reads what they print, no home, several at once in one folder."""

import errno
import io
import os
import pty
import signal
import sys
from pathlib import Path

import pytest
from shell import invoke
from tiny_models import TINY, make_model, make_pictures
from torch_utils import native

import invert
import train_layered
from layered_plugin import runs, signals
from layered_plugin.data import decoded
from layered_plugin.data.pictures import PictureSource
from layered_plugin.segmentation import segment_files
from layered_plugin.training import launcher

NAME = "Run folder: é\udcff"  # As Python has a name that is no UTF-8.


def broken_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w")


def closed_terminal():
    main, terminal = pty.openpty()
    os.close(main)
    return open(terminal, "w")


def ascii_only():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


@pytest.mark.parametrize("make", [lambda: None, broken_pipe, closed_terminal, ascii_only])
def test_run_whose_output_nobody_can_read_goes_on_and_the_log_has_it(tmp_path, monkeypatch, make):
    stream = make()
    monkeypatch.setattr(sys, "stdout", stream)
    with launcher._logged(str(tmp_path), str(tmp_path / "log.txt")):
        print(NAME)
        print("tick 0", flush=True)
    assert sys.stdout is stream
    if stream is not None:
        stream.close()  # As Python does at its end.
    assert (tmp_path / "log.txt").read_text() == "Run folder: é\\udcff\ntick 0\n"


def test_other_errors_of_the_output_end_the_run(tmp_path, monkeypatch):
    def refuse(_text):
        raise OSError(errno.EBADF, "Bad file descriptor")

    stream = ascii_only()
    monkeypatch.setattr(stream, "write", refuse, raising=False)
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(OSError, match="Bad file"), launcher._logged(str(tmp_path), str(tmp_path / "log.txt")):
        print(NAME)


def test_closed_terminal_stops_a_run_once_however_often_it_says_so():
    with signals.StopRequest() as stop:
        for _ in range(2):  # From the terminal, and from the shell.
            os.kill(os.getpid(), signal.SIGHUP)
    assert stop.received == "SIGHUP"


def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is None and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_runs_that_begin_at_the_same_moment_have_folders_of_their_own(tmp_path, monkeypatch):
    first = runs.make_run_dir(str(tmp_path), "a")
    monkeypatch.setattr(Path, "iterdir", lambda _path: iter(()))  # The folder as it was before.
    assert (first, runs.make_run_dir(str(tmp_path), "a")) == (f"{tmp_path}/00000-a", f"{tmp_path}/00001-a")


@pytest.fixture
def _no_home(tmp_path, monkeypatch):
    """A user whom the system does not know, as in containers."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "LAYERED_CACHE", "TORCH_EXTENSIONS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_no_home")
def test_without_home_no_decoded_pictures_are_kept():
    assert decoded.cache_folder() is None


@pytest.mark.usefixtures("_no_home")
def test_without_home_nothing_is_compiled_into_the_current_folder(tmp_path, monkeypatch):
    source = tmp_path / "one.cpp"
    source.write_text('extern "C" int one() { return 1; }')
    monkeypatch.setattr(native, "libraries", {})
    with pytest.warns(UserWarning, match="no home folder.*set TORCH_EXTENSIONS_DIR"):
        assert native.get_library("one", [str(source)]) is None
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("form", ["files", "zip", "tar"])
def test_second_call_does_not_segment_into_what_the_first_is_writing(tmp_path, monkeypatch, form):
    model, pictures, out = make_model(tmp_path / "model"), make_pictures(tmp_path / "cars"), tmp_path / "out"
    args = ["segment", f"--model={model}", f"--images={pictures}", f"--outdir={out}", f"--format={form}",
            "--device=cpu", "--workers=0"]
    read, others = segment_files._read, []

    def meanwhile(*args_of_read):
        if not others:
            others.append(None)
            others[0] = invoke(invert.main, *args)
        return read(*args_of_read)

    monkeypatch.setattr(segment_files, "_read", meanwhile)
    assert invoke(invert.main, *args).exit_code == 0
    (second,) = others
    assert second.exit_code == 2 and "--outdir: another call is writing" in second.stderr
    monkeypatch.undo()
    again = invoke(invert.main, *args)
    assert again.exit_code == 0 and "0 pictures segmented, 3 were there already" in again.stderr


def test_run_in_which_another_command_trains_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "END_SECONDS", 0.2)
    data = make_pictures(tmp_path / "cars")
    train = [f"--outdir={tmp_path}/runs", f"--data={data}", *TINY, "--kimg=0.016"]
    assert invoke(train_layered.main, *train).exit_code == 0
    (gan,) = (tmp_path / "runs").iterdir()
    distill = ["distill", f"--network={gan}", f"--outdir={tmp_path}/runs", "--device=cpu", "--steps=2", "--batch=4"]
    with monkeypatch.context() as patch:
        patch.setattr("layered_plugin.segmentation.stage.ModelRun.loop", lambda *_args: "SIGTERM")
        assert invoke(invert.main, *distill).exit_code == 143
    (distilled,) = (tmp_path / "runs").glob("00001-*")
    for command, args, run in ((invert.main, ["distill"], distilled), (train_layered.main, ["--kimg=0.032"], gan)):
        args = [*args, f"--outdir={tmp_path}/runs", f"--resume={run}"]
        before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
        with runs.held(run):
            refused = invoke(command, *args)
        assert refused.exit_code == 1 and f"{run}: another command is training there" in refused.stderr
        assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before
        assert invoke(command, *args).exit_code == 0


def test_links_are_followed_but_not_in_circles(tmp_path):
    data, other, third = (make_pictures(tmp_path / name, ["a.png"]) for name in ("data", "data2", "third"))
    for link, target in (("data/class", other), ("data/again", data), ("data/up", tmp_path), ("data2/back", data),
                         ("data2/third", third), ("third/second", other), ("data/b.png", third / "a.png")):
        (tmp_path / link).symlink_to(target)
    (data / "own").mkdir()
    (data / "own/inside").symlink_to(data / "own")
    assert PictureSource(data).names == ["a.png", "b.png", "class/a.png", "class/third/a.png"]


def test_link_to_a_picture_that_is_gone_is_named(tmp_path):
    pictures = make_pictures(tmp_path / "cars")
    (pictures / "lost.png").symlink_to(tmp_path / "nowhere.png")
    result = invoke(invert.main, "segment", f"--model={make_model(tmp_path / 'model')}", f"--images={pictures}",
                    f"--outdir={tmp_path / 'out'}", "--device=cpu", "--workers=0")
    assert result.exit_code == 1 and "cannot read picture lost.png: " in result.stderr
    assert "3 pictures segmented" in result.stderr


def test_current_folder_that_was_removed_is_named(tmp_path, monkeypatch):
    model, pictures = make_model(tmp_path / "model"), make_pictures(tmp_path / "cars")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = invoke(invert.main, "segment", f"--model={model}", f"--images={pictures}", "--outdir=out", "--device=cpu")
    assert result.exit_code == 1 and "the current folder was removed: change to another" in result.stderr
