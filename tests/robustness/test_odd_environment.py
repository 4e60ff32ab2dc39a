"""Commands where the surroundings are odd: nobody reads what they print, no home, several at once in one folder."""

import errno
import io
import os
import pty
import signal
import sys

import pytest

from layered_plugin import signals
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
