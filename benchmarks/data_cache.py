"""Start-up and memory of two training processes on the same data, with and without the decoded file they share.

Each is a process of its own that opens the data as a training does, decodes or maps it, and reads every picture once.
Results go to standard output as JSON.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import click
import matplotlib.cbook
import numpy as np
import PIL.Image

from benchmarks.support.provenance import provenance

# Opens the data as a rank does, reports, and stays until its input ends, so that memory is that of several at once.
RANK = """
import json, sys, time
from layered_plugin.data.dataset import PictureDataset
start, cpu = time.monotonic(), time.process_time()
data = PictureDataset(sys.argv[1], size_px=int(sys.argv[2]))
data.preload()
seconds, cpu = time.monotonic() - start, time.process_time() - cpu
total = sum(int(data[idx][0][0, 0, 0]) for idx in range(len(data)))
print(json.dumps(dict(seconds=seconds, cpu_seconds=cpu, total=total)), flush=True)
sys.stdin.read(1)
import psutil
print(psutil.Process().memory_full_info().pss, flush=True)
sys.stdin.read()
"""


def make_data(path: Path, num: int, side: int) -> Path:
    """A zip of JPEGs, of parts of a photograph that matplotlib brings along."""
    photo = PIL.Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    random = np.random.RandomState(0)
    with zipfile.ZipFile(path, "w") as archive:
        for idx in range(num):
            left, top = random.randint(photo.width - side + 1), random.randint(photo.height - side + 1)
            data = io.BytesIO()
            photo.crop((left, top, left + side, top + side)).save(data, "jpeg", quality=90)
            archive.writestr(f"{idx:07d}.jpg", data.getvalue())
    return path


def start_ranks(num: int, path: Path, size_px: int, cache: str) -> dict[str, Any]:
    """What so many processes say of their start, and their memory when all have read all."""
    env = dict(os.environ, LAYERED_CACHE=cache, OMP_NUM_THREADS="1")
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(path), str(size_px)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, env=env) for _ in range(num)]
    started = [json.loads(rank.stdout.readline()) for rank in ranks]  # type: ignore[union-attr]
    memory = []
    for rank in ranks:
        rank.stdin.write("x")  # type: ignore[union-attr]
        rank.stdin.flush()  # type: ignore[union-attr]
        memory.append(int(rank.stdout.readline()))  # type: ignore[union-attr]
    for rank in ranks:
        rank.communicate()
    if len({one["total"] for one in started}) != 1:
        raise click.ClickException("the processes have read different pictures")
    return dict(seconds=max(one["seconds"] for one in started),
                cpu_seconds=sum(one["cpu_seconds"] for one in started), memory_mb=sum(memory) / 1e6)


@click.command()
@click.option("--num", help="Pictures", type=int, default=8000, show_default=True, metavar="INT")
@click.option("--side", help="Side of the files' pictures", type=int, default=256, show_default=True, metavar="PX")
@click.option("--size", help="Side they are brought to", type=int, default=72, show_default=True, metavar="PX")
@click.option("--ranks", help="Processes", type=int, default=2, show_default=True, metavar="INT")
def main(num: int, side: int, size: int, ranks: int) -> None:
    """Measure start-up and memory of processes that train on the same data.

    \b
    Example:
    python -m benchmarks.data_cache --num=8000
    """
    with tempfile.TemporaryDirectory() as temp:
        path = make_data(Path(temp) / "data.zip", num, side)
        record = dict(without=start_ranks(ranks, path, size, ""), first=start_ranks(ranks, path, size, f"{temp}/cache"),
                      second=start_ranks(ranks, path, size, f"{temp}/cache"))
    quicker = {name: record["first"][name] / record["second"][name] for name in ("seconds", "cpu_seconds")}
    print(json.dumps(dict(record, times_quicker=quicker, pictures=num, side_px=side, size_px=size, ranks=ranks,
                          decoded_mb=num * 3 * size**2 / 1e6, **provenance("benchmarks.data_cache")), indent=2))


if __name__ == "__main__":
    main()
