"""Step ``segment``: pictures a second of the distilled segmenter, from files and from memory, and where time goes."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from benchmarks.gpu.step_process import Context, run_cases, seconds_per_call
from benchmarks.gpu.train import ROOT, data_of, make_data, newest_run
from layered_plugin.data.pictures import PictureSource, to_float, to_rgb, to_square
from layered_plugin.runs import MODEL_FILE
from layered_plugin.segmentation.full_size import enlarge
from layered_plugin.segmentation.model_file import save_model
from layered_plugin.segmentation.segmenter import Segmenter
from layered_plugin.segmentation.train_distilled import make_segmenting_unet


def main(context: Context) -> int:
    """Run the step."""
    if context.data is None and not data_of(context).is_dir():
        make_data(context)
    batches = (8,) if context.quick else (64, 256, 1024)
    cases = [("files", partial(from_files, context))]
    cases += [(f"memory, batches of {batch}", partial(from_memory, context, batch)) for batch in batches]
    cases.append(("parts", partial(parts, context)))
    return run_cases(context, cases, seconds=2)


def model_of(context: Context) -> Path:
    """The model of step train, or one of random weights: speed does not depend on them."""
    if (context.workdir / "models").is_dir() and (newest_run(context, "models") / MODEL_FILE).is_file():
        return newest_run(context, "models")
    folder = context.workdir / "random-model"
    folder.mkdir(exist_ok=True)
    resolution = 32 if context.quick else 64
    save_model(folder, "distill", dict(unet=make_segmenting_unet(resolution, seed=0).eval()),
               dict(resolution=resolution, options={}))
    return folder


def pictures_of(context: Context) -> list[PIL.Image.Image]:
    """Decoded test pictures."""
    source = PictureSource(test_zip(context))
    pictures = [to_rgb(source.open(name)) for name in source.names]
    source.close()
    return pictures


def test_zip(context: Context) -> Path:
    """The largest set of test pictures that is there."""
    folder = data_of(context)
    return next(path for path in (folder / "test.zip", folder / "test-masked.zip") if path.is_file())


def from_files(context: Context) -> dict[str, Any]:
    """``invert.py segment`` on a zip, with all that it writes and its start."""
    outdir = context.workdir / "segmented"
    start = time.perf_counter()
    subprocess.run([sys.executable, "invert.py", "segment", f"--model={model_of(context)}",
                    f"--images={test_zip(context)}", f"--outdir={outdir}", f"--device={context.device}"],
                   cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    num = len(list((outdir / "masks").rglob("*.png")))
    return dict(num=num, seconds=seconds, pictures_per_s=num / seconds)


def from_memory(context: Context, batch: int) -> dict[str, Any]:
    """`Segmenter` on arrays of the network's size, and its network alone on tensors that lie on the device."""
    segmenter = Segmenter.load(model_of(context), context.device)
    side = segmenter.resolution
    arrays = list(np.random.RandomState(0).randint(0, 256, [batch, side, side, 3], dtype=np.uint8))
    img = to_float(torch.from_numpy(np.stack(arrays)).to(context.device).permute(0, 3, 1, 2).contiguous())
    whole = seconds_per_call(lambda: segmenter(arrays), context.device)
    net = seconds_per_call(lambda: segmenter._unet_mask(img, flip=False), context.device)
    return dict(resolution=side, pictures_per_s=batch / whole, network_pictures_per_s=batch / net)


def parts(context: Context) -> dict[str, Any]:
    """Milliseconds a picture of each part of the way from a file to a mask."""
    segmenter = Segmenter.load(model_of(context), context.device)
    device, side = context.device, segmenter.resolution
    start = time.perf_counter()
    pictures = pictures_of(context)[:100]
    decode = time.perf_counter() - start
    squares = np.stack([to_square(picture, side) for picture in pictures])
    img = to_float(torch.from_numpy(squares).to(device))
    drawn = segmenter.draw(squares)
    seconds = dict(
        decode=decode,
        squeeze=seconds_per_call(lambda: [to_square(picture, side) for picture in pictures], device),
        to_device=seconds_per_call(lambda: to_float(torch.from_numpy(squares).to(device)), device),
        network=seconds_per_call(lambda: segmenter._unet_mask(img, flip=False), device),
        stretch=seconds_per_call(lambda: [enlarge(one, picture, sharp=False)
                                          for one, picture in zip(drawn, pictures, strict=True)], "cpu"))
    return dict(num=len(pictures), ms_per_picture={key: 1e3 * value / len(pictures) for key, value in seconds.items()})
