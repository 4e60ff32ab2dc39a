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
import psutil

from benchmarks.many_names import FORMS, make_data
from benchmarks.support.memory import used_mb
from benchmarks.support.provenance import provenance
from layered_plugin.command_line import Whole

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
sys.stdin.read()
"""


def make_photos(place: Path, num: int, side: int) -> Path:
    """A zip of JPEGs, of parts of a photograph that matplotlib brings along."""
    photo = PIL.Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    random, path = np.random.RandomState(0), place.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for idx in range(num):
            left, top = random.randint(photo.width - side + 1), random.randint(photo.height - side + 1)
            data = io.BytesIO()
            photo.crop((left, top, left + side, top + side)).save(data, "jpeg", quality=90)
            archive.writestr(f"{idx:07d}.jpg", data.getvalue())
    return path


def start_ranks(num: int, path: Path, size_px: int, cache: Path | None) -> dict[str, Any]:
    """What so many processes say of their start, and their memory when all have read all."""
    env = dict(os.environ, LAYERED_CACHE="" if cache is None else str(cache), OMP_NUM_THREADS="1")
    ranks = [psutil.Popen([sys.executable, "-c", RANK, str(path), str(size_px)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True, env=env) for _ in range(num)]
    started = [json.loads(rank.stdout.readline()) for rank in ranks]
    memory = used_mb(ranks)
    for rank in ranks:
        rank.communicate()
    if len({one["total"] for one in started}) != 1:
        raise click.ClickException("the processes have read different pictures")
    return dict(seconds=max(one["seconds"] for one in started),
                cpu_seconds=sum(one["cpu_seconds"] for one in started), memory_mb=memory)


@click.command()
@click.option("--num", help="Pictures", type=Whole(1), default=8000, show_default=True, metavar="INT")
@click.option("--form", help="What they are in; all but photos are of one content, as of benchmarks.many_names",
              type=click.Choice(("photos", *FORMS)), default="photos", show_default=True)
@click.option("--side", help="Side of the files' pictures", type=Whole(1), default=256, show_default=True, metavar="PX")
@click.option("--size", help="Side they are brought to", type=Whole(1), default=72, show_default=True, metavar="PX")
@click.option("--ranks", help="Processes", type=Whole(1), default=2, show_default=True, metavar="INT")
@click.option("--shared-only", help="Leave out the start at which each process decodes", is_flag=True)
def main(num: int, form: str, side: int, size: int, ranks: int, shared_only: bool) -> None:
    """Measure start-up and memory of processes that train on the same data.

    \b
    Example:
    python -m benchmarks.data_cache --num=8000
    python -m benchmarks.data_cache --num=1000000 --form=shards --side=18 --size=18 --shared-only
    """
    with tempfile.TemporaryDirectory() as temp:
        place, cache = Path(temp) / "data", Path(temp) / "cache"
        path = make_photos(place, num, side) if form == "photos" else make_data(place, form, num, side)
        record: dict[str, Any] = {} if shared_only else dict(without=start_ranks(ranks, path, size, None))
        record |= {name: start_ranks(ranks, path, size, cache) for name in ("first", "second")}
    quicker = {name: record["first"][name] / record["second"][name] for name in ("seconds", "cpu_seconds")}
    record |= dict(times_quicker=quicker, pictures=num, form=form, side_px=side, size_px=size, ranks=ranks,
                   decoded_mb=num * 3 * size**2 / 1e6)
    print(json.dumps(dict(record, **provenance("benchmarks.data_cache")), indent=2))


if __name__ == "__main__":
    main()
