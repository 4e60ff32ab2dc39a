"""What segmenting many pictures takes: memory by their number, and time against decoding and encoding alone.

Memory: `invert.py segment` on a tar shard of small pictures that stands under many names, to tar shards again. Time:
JPEGs of 500 pixels made of a photograph that matplotlib brings along, in turns with runs that decode and encode the
same pictures and do nothing else: encoded as the command does it, and as Pillow does it unasked. Results go to standard
output as JSON.
"""

import io
import json
import multiprocessing
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import click
import matplotlib.cbook
import numpy as np
import PIL.Image

from benchmarks.support.memory import Sample, peaks_of_parts, sample_memory
from benchmarks.support.provenance import provenance
from layered_plugin.command_line import Whole
from layered_plugin.data.pictures import PictureSource, to_rgb
from layered_plugin.segmentation.edges import cut_out
from layered_plugin.segmentation.merging import sheet_of_folder
from layered_plugin.segmentation.model_file import save_model
from layered_plugin.segmentation.outputs import encode_png
from layered_plugin.segmentation.segment_files import segment_files
from layered_plugin.segmentation.segmenter import Segmenter
from layered_plugin.segmentation.train_distilled import make_segmenting_unet

ROOT = Path(__file__).resolve().parent.parent

PER_SHARD = 1000


def make_model(folder: Path, resolution: int) -> Path:
    """A distilled model with random weights."""
    folder.mkdir()
    save_model(folder, "distill", dict(unet=make_segmenting_unet(resolution, 0).eval()),
               dict(resolution=resolution, options={}))
    return folder


def make_photos(folder: Path, num: int) -> Path:
    """JPEGs of 500x375 and 375x500, of parts of one photograph."""
    folder.mkdir()
    photo = PIL.Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    random = np.random.RandomState(0)
    for idx in range(num):
        size = (500, 375) if idx % 2 else (375, 500)
        width, height = (round(side * random.uniform(0.75, 1)) for side in size)
        left, top = random.randint(photo.width - width + 1), random.randint(photo.height - height + 1)
        part = photo.crop((left, top, left + width, top + height)).resize(size, PIL.Image.Resampling.LANCZOS)
        part.save(folder / f"{idx:05d}.jpg", quality=90)
    return folder


def make_shards(folder: Path, num: int, side: int, per_shard: int = PER_SHARD) -> Path:
    """One tar of small JPEGs under as many names as it takes."""
    folder.mkdir()
    first = folder / "00000.tar"
    random = np.random.RandomState(0)
    with tarfile.open(first, "w") as archive:
        for idx in range(per_shard):
            data = io.BytesIO()
            coarse = PIL.Image.fromarray(random.randint(0, 256, [4, 4, 3], dtype=np.uint8))
            coarse.resize((side, side), PIL.Image.Resampling.BICUBIC).save(data, "jpeg")
            member = tarfile.TarInfo(f"{idx:06d}.jpg")
            member.size = len(data.getvalue())
            archive.addfile(member, io.BytesIO(data.getvalue()))
    for idx in range(1, num // per_shard):
        (folder / f"{idx:05d}.tar").symlink_to(first)
    return folder


def sample_segmenting(num: int, side: int, workers: int, per_shard: int = PER_SHARD,
                      resolution: int = 32) -> list[Sample]:
    """Memory of segmenting so many pictures from tar shards to tar shards."""
    with tempfile.TemporaryDirectory() as temp:
        model = make_model(Path(temp) / "model", resolution)
        shards = make_shards(Path(temp) / "shards", num, side, per_shard)
        samples = sample_memory(["invert.py", "segment", f"--model={model}", f"--images={shards}/*.tar",
                                 f"--outdir={temp}/out", "--format=tar", "--device=cpu", f"--workers={workers}"])
        listed = sum(1 for path in Path(temp, "out").glob("*.jsonl") for _line in path.open())
    if listed != num:
        raise click.ClickException(f"the command listed {listed} of {num} pictures")
    return samples


def memory(num: int, **how: int) -> dict[str, Any]:
    """Peak memory of the command and of its workers together, in MB; pages that they share count once."""
    samples = sample_segmenting(num, **how)
    return dict(pictures=num, **how, seconds=round(samples[-1].seconds, 1), samples=len(samples),
                peak_mb_of_tenths=peaks_of_parts(samples, 10))


def usual_png(picture: PIL.Image.Image) -> bytes:
    """As Pillow encodes unasked."""
    data = io.BytesIO()
    picture.save(data, format="png")
    return data.getvalue()


def alone(paths: list[Path], dest: Path, alpha: Path, encode: Callable[[PIL.Image.Image], bytes]) -> None:
    """Decode pictures and encode masks and cut-outs, those of an earlier run as alpha."""
    for part in ("masks", "cutouts"):
        (dest / part).mkdir(parents=True, exist_ok=True)
    for path in paths:
        picture = to_rgb(PIL.Image.open(io.BytesIO(path.read_bytes())))
        opacity = np.asarray(PIL.Image.open(alpha / "masks" / f"{path.stem}.png"))
        cutout = cut_out(picture, opacity, opacity, estimate=False)
        (dest / "masks" / f"{path.stem}.png").write_bytes(encode(PIL.Image.fromarray(opacity)))
        (dest / "cutouts" / f"{path.stem}.png").write_bytes(encode(cutout))


def mean_bytes(folder: Path) -> dict[str, float]:
    """Of a mask and a cut-out."""
    return {part: float(np.mean([path.stat().st_size for path in (folder / part).iterdir()]))
            for part in ("masks", "cutouts")}


def share_of(name: str, shares: list[float]) -> dict[str, Any]:
    """Median and range over the rounds."""
    return {f"share_of_{name}": float(np.median(shares)), f"share_of_{name}_range": [min(shares), max(shares)]}


def throughput(num: int, rounds: int, model: str | None) -> dict[str, Any]:
    """CPU seconds a picture of segmenting and of decoding and encoding alone, in one process each, in turns.

    The contact sheet shows the first pictures of any number, so that the shares leave it out.
    """
    with tempfile.TemporaryDirectory() as temp, ExitStack() as stack:
        segmenter = Segmenter.load(model or make_model(Path(temp) / "model", 32), "cpu")
        photos = make_photos(Path(temp) / "photos", num)
        first = Path(temp) / "first"
        segment_files(segmenter, photos, first)
        pictures = stack.enter_context(closing(PictureSource(photos)))
        works: dict[str, Callable[[Path], Any]] = dict(
            segment=lambda dest: segment_files(segmenter, photos, dest),
            alone=lambda dest: alone(sorted(photos.iterdir()), dest, first, encode_png),
            alone_usual=lambda dest: alone(sorted(photos.iterdir()), dest, first, usual_png),
            contact_sheet=lambda _dest: sheet_of_folder(first, pictures))
        cpu: dict[str, list[float]] = {name: [] for name in works}
        for idx in range(rounds):
            for name, work in works.items():
                start = time.process_time()
                work(Path(temp) / f"{name}{idx}")
                cpu[name].append((time.process_time() - start) / num)
        sizes = {name: mean_bytes(Path(temp) / f"{name}0") for name in ("segment", "alone_usual")}
    record: dict[str, Any] = dict(
        pictures=num, cpu_ms_per_picture={name: 1e3 * float(np.median(values)) for name, values in cpu.items()},
        bytes=sizes)
    for name in ("alone", "alone_usual"):
        record |= share_of(name, [quick / (slow - sheet) for quick, slow, sheet in zip(
            cpu[name], cpu["segment"], cpu["contact_sheet"], strict=True)])
    return record


def by_the_clock(num: int, rounds: int, model: str | None, workers: int) -> dict[str, Any]:
    """Pictures a second of the command with so many workers, and of as many processes that decode and encode alone.

    In turns; the start of all processes counts.
    """
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(model) if model is not None else make_model(Path(temp) / "model", 32)
        photos = make_photos(Path(temp) / "photos", num)
        paths, first = sorted(photos.iterdir()), Path(temp) / "first"

        def segment(dest: Path) -> None:
            subprocess.run([sys.executable, "invert.py", "segment", f"--model={folder}", f"--images={photos}",
                            f"--outdir={dest}", "--device=cpu", f"--workers={workers}"], check=True, cwd=ROOT,
                           stderr=subprocess.DEVNULL)

        def only(encode: Callable[[PIL.Image.Image], bytes], dest: Path) -> None:
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
                for task in [pool.submit(alone, paths[idx::workers], dest, first, encode) for idx in range(workers)]:
                    task.result()

        segment(first)
        works: dict[str, Callable[[Path], None]] = dict(
            segment=segment, alone=partial(only, encode_png), alone_usual=partial(only, usual_png))
        rates: dict[str, list[float]] = {name: [] for name in works}
        for idx in range(rounds):
            for name, work in works.items():
                start = time.monotonic()
                work(Path(temp) / f"{name}{idx}")
                rates[name].append(num / (time.monotonic() - start))
    record: dict[str, Any] = dict(pictures=num, workers=workers, pictures_per_second={
        name: float(np.median(values)) for name, values in rates.items()})
    for name in ("alone", "alone_usual"):
        record |= share_of(name, [ours / most for ours, most in zip(rates["segment"], rates[name], strict=True)])
    return record


@click.command()
@click.option("--memory", "numbers", help="Numbers of pictures, multiples of --per-shard", metavar="N,N",
              default="10000,100000", show_default=True)
@click.option("--side", help="Side of the small pictures", type=Whole(1), default=32, show_default=True, metavar="PX")
@click.option("--resolution", help="Of the network, for memory", type=Whole(1), default=32, show_default=True,
              metavar="PX")
@click.option("--per-shard", help="Pictures in a tar", type=Whole(1), default=PER_SHARD, show_default=True,
              metavar="INT")
@click.option("--photos", help="JPEGs of 500 pixels for the time, 0 = none", type=Whole(0), default=64,
              show_default=True, metavar="INT")
@click.option("--clock", help="JPEGs for the time by the clock, 0 = none", type=Whole(0), default=0,
              show_default=True, metavar="INT")
@click.option("--rounds", help="Paired rounds", type=Whole(1), default=3, show_default=True, metavar="INT")
@click.option("--model", help="For the time  [default: random weights, whose masks are all edge]", metavar="RUN")
@click.option("--workers", help="Of the command", type=Whole(0), default=2, show_default=True, metavar="INT")
def main(numbers: str, photos: int, clock: int, rounds: int, model: str | None, **how: int) -> None:
    """Measure memory by the number of pictures, and time against decoding and encoding alone.

    \b
    Example:
    python -m benchmarks.segment_scale --memory=10000,100000
    OMP_NUM_THREADS=1 python -m benchmarks.segment_scale --photos=0 --memory=1000000 --side=16 --resolution=16 \\
        --per-shard=10000
    """
    record: dict[str, Any] = dict(cores=os.cpu_count())
    if photos:
        record["throughput"] = throughput(photos, rounds, model)
    if clock and not how["workers"]:
        raise click.UsageError("--clock needs --workers of at least 1")
    if clock:
        record["clock"] = by_the_clock(clock, rounds, model, how["workers"])
    record["memory"] = [memory(int(num), **how) for num in numbers.split(",") if num]
    print(json.dumps(dict(record, **provenance("benchmarks.segment_scale")), indent=2))


if __name__ == "__main__":
    main()
