"""Memory that the number of pictures takes before any is worked: opening a data set, a first step, a first batch.

Tiny JPEGs, all of one content, in a folder, a zip, or a folder of tar shards. Each command runs by itself, and the most
memory that it had is printed, with that on 1,000 pictures to compare. Results go to standard output as JSON lines.
"""

import io
import json
import os
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image

from benchmarks.endurance import TINY
from benchmarks.segment_scale import make_model
from benchmarks.support.memory import ROOT
from benchmarks.support.provenance import provenance
from layered_plugin.command_line import Whole

FORMS = ("folder", "zip", "shards")

PER_FOLDER, PER_SHARD, BATCH = 1000, 10_000, 64

LEAST = 1000


def make_data(path: Path, form: str, num: int, side: int = 18) -> Path:
    """So many pictures in one of the forms."""
    data = io.BytesIO()
    PIL.Image.fromarray(np.random.RandomState(0).randint(0, 256, [side, side, 3], np.uint8)).save(data, "jpeg")
    content = data.getvalue()
    names = (f"{idx // PER_FOLDER:05d}/img{idx:08d}.jpg" for idx in range(num))
    if form == "zip":
        path = path.with_suffix(".zip")
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(zipfile.ZipInfo(name), content)
        return path
    path.mkdir()
    if form == "folder":
        for idx, name in enumerate(names):
            file = path / name
            if idx % PER_FOLDER == 0:
                file.parent.mkdir()
                first = file
                file.write_bytes(content)
            else:
                os.link(first, file)
        return path
    for start in range(0, num, PER_SHARD):
        shard = path / f"{start // PER_SHARD:05d}.tar"
        if start > 0 and start + PER_SHARD <= num:
            os.link(path / "00000.tar", shard)
            continue
        with tarfile.open(shard, "w") as tar:
            for idx in range(min(num - start, PER_SHARD)):
                member = tarfile.TarInfo(f"img{idx:08d}.jpg")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def run_once(command: list[str], cache: Path) -> dict[str, float]:
    """Peak memory in MB and CPU seconds of a command of this repository; decoded pictures go to the folder."""
    before, peak = resource.getrusage(resource.RUSAGE_CHILDREN), 0.0
    with tempfile.TemporaryFile() as said:
        call = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said,
                                env=dict(os.environ, LAYERED_CACHE=str(cache)))
        while call.poll() is None:
            peak = max(peak, peak_mb(call.pid))
            time.sleep(0.05)
        if call.returncode != 0:
            said.seek(0)
            raise click.ClickException(f"{command[0]} ended with {call.returncode}: "
                                       f"{said.read().decode(errors='replace')[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return dict(peak_mb=round(peak, 1), cpu_seconds=round(seconds, 1))


def peak_mb(pid: int) -> float:
    """Most memory that a process had so far; Linux only. What wait4 tells includes the memory of who started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 0.0 if found is None else int(found[1]) * 1024 / 1e6


def measure(form: str, num: int, with_step: bool) -> dict[str, Any]:
    """Peaks of the commands on so many pictures."""
    with tempfile.TemporaryDirectory() as temp:
        data, model = make_data(Path(temp) / "data", form, num), make_model(Path(temp) / "model", 16)
        train = ["train_layered.py", f"--outdir={temp}/runs", f"--data={data}", *TINY, "--kimg=0.008", "--tick=0.008"]
        cache = Path(temp) / "cache"
        found = dict(opened=run_once([*train, "-n"], cache))
        if with_step:
            found["first_step"] = run_once(train, cache)
        found["first_batch"] = run_once(["invert.py", "segment", f"--model={model}", f"--images={data}", "--device=cpu",
                                         f"--outdir={temp}/out", "--workers=0", f"--batch={BATCH}",
                                         f"--shard=0/{-(-num // BATCH)}"], cache)
    return dict(form=form, pictures=num, **found)


@click.command()
@click.option("--nums", help="Numbers of pictures", default="100000,1000000", show_default=True, metavar="INT,INT")
@click.option("--forms", help="What they are in", default=",".join(FORMS), show_default=True, metavar="NAME,NAME")
@click.option("--steps-up-to", help="Most pictures that a first step is trained on: all are decoded for it",
              type=Whole(0), default=100_000, show_default=True, metavar="INT")
def main(nums: str, forms: str, steps_up_to: int) -> None:
    """Measure what opening a data set, a first training step and a first segmented batch take of many pictures.

    \b
    Example:
    OMP_NUM_THREADS=1 python -m benchmarks.many_names --nums=100000 --forms=zip,shards
    """
    print(json.dumps(provenance("benchmarks.many_names")), flush=True)
    for form in forms.split(","):
        if form not in FORMS:
            raise click.UsageError(f"--forms must be of {', '.join(FORMS)}, got {form}")
        for num in (LEAST, *map(int, nums.split(","))):
            print(json.dumps(measure(form, num, num <= steps_up_to)), flush=True)


if __name__ == "__main__":
    main()
