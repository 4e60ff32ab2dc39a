"""The endurance benchmark: its rehearsal, and that it sees what was lost, what hangs and what grows."""

import json
import mmap
import os
import time

import pytest
import torch
from click.testing import CliRunner

from benchmarks import endurance
from benchmarks.support import killing
from benchmarks.support.memory import Sample, peaks_of_parts, sample_memory

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("process_as_before"),
              pytest.mark.skipif(torch.cuda.is_available(), reason="a process that has used a GPU can't be forked")]


def test_rehearsal_kills_each_work_once_and_nothing_is_lost():
    result = CliRunner().invoke(endurance.main, ["--quick"])
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in result.stdout.splitlines()]
    kills = [record for record in records if record["kind"] == "kill"]
    assert sorted(kill["work"] for kill in kills) == ["chunks", "distillation", "segmenting", "training"]
    for kill in kills:
        assert kill["killed"] == "main" and kill["exit_code"] in (-9, 0) and kill["then_exit_code"] == 0
        assert kill["compared"] > 0 and kill["differing"] == []
    assert sum(kill["exit_code"] == -9 for kill in kills) >= 3  # On a busy machine one may be at its end already.
    assert "| training | 1 | 1 | 0 | 0 |" in result.stderr


@pytest.fixture
def _short(monkeypatch):
    monkeypatch.setattr(endurance, "TURNS", ("training",))
    monkeypatch.setattr(killing, "STUCK", 2.0)


def in_a_process(monkeypatch, work):
    """In the place of a command: a function of its folder."""
    def start(folder, _log):
        child = os.fork()
        if child == 0:
            try:
                work(folder)
            finally:
                os._exit(0)
        return child

    monkeypatch.setattr(killing, "start", start)
    return {"training": endurance.Work(lambda folder: folder, ["*.txt"])}


@pytest.mark.usefixtures("_short")
def test_lost_byte_is_reported(monkeypatch, tmp_path):
    def append(folder):  # What a killed call has written is there twice.
        folder.mkdir(exist_ok=True)
        for _ in range(30):
            with (folder / "a.txt").open("a") as file:
                file.write("x")
            time.sleep(0.005)

    records = list(endurance.kill_often(in_a_process(monkeypatch, append), 4, 0, tmp_path))
    kills = [record for record in records if record["kind"] == "kill"]
    differing = [kill["differing"] for kill in kills if kill["differing"]]  # On a busy machine some die unbegun.
    assert differing and all(files == ["a.txt"] for files in differing)
    assert all(kill["then_exit_code"] == 0 for kill in kills)
    assert f"| training | 4 | 4 | {len(differing)} | 0 |" in endurance.table(records)


@pytest.mark.usefixtures("_short")
def test_call_that_never_ends_is_reported(monkeypatch, tmp_path):
    def hang_if_begun(folder):
        begun = folder.exists()
        folder.mkdir(exist_ok=True)
        (folder / "a.txt").write_text("x")
        time.sleep(60 if begun else 0.2)

    records = list(endurance.kill_often(in_a_process(monkeypatch, hang_if_begun), 1, 0, tmp_path))
    assert records[-1]["then_exit_code"] == -14
    assert "| training | 1 | 1 | 1 | 0 |" in endurance.table(records)


def test_growth_is_between_the_first_fifth_and_the_last_after_the_start():
    flat = [Sample(idx, 900 if idx == 0 else 100) for idx in range(20)]
    assert endurance.growth(flat)["grown_mb"] == 0
    rising = [Sample(idx, 100 + idx) for idx in range(110)]  # 99 samples from 11 on: fifths end at 30, 50, ..., 109.
    assert endurance.growth(rising)["peak_mb_of_fifths"] == [129, 149, 169, 189, 209]
    assert endurance.growth(rising)["grown_mb"] == 80


def test_memory_of_a_command_counts_its_processes(tmp_path):
    script = tmp_path / "two.py"
    script.write_text("import subprocess, sys, time\n"
                      "a = bytearray(b'x') * (20 << 20)\n"
                      "b = \"import time; b = bytearray(b'x') * (30 << 20); time.sleep(1)\"\n"
                      "subprocess.run([sys.executable, '-c', b])\n")
    peak = max(sample.used_mb for sample in sample_memory([str(script)], every=0.05))
    assert 52 <= peak <= 90


def test_memory_of_files_is_counted_once_whoever_else_maps_them(tmp_path):
    file = tmp_path / "data"
    file.write_bytes(b"x" * (40 << 20))
    script = tmp_path / "mapped.py"
    script.write_text("import mmap, os, sys, time\n"
                      "file = open(sys.argv[1], 'rb')\n"
                      "m = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
                      "os.fork()\n"
                      "for at in range(0, len(m), 4096): m[at]\n"
                      "time.sleep(1)\n")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as here:
        assert sum(here[at] for at in range(0, len(here), 4096)) > 0
        peak = max(sample.used_mb for sample in sample_memory([str(script), str(file)], every=0.05))
    assert 42 <= peak <= 70


def test_peaks_of_parts():
    assert peaks_of_parts([Sample(idx, used) for idx, used in enumerate([1, 5, 2, 3, 9, 0])], 3) == [5, 3, 9]
    assert peaks_of_parts([Sample(0, 4)], 2) == [4, 4]
