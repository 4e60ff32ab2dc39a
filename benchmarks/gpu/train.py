"""Step ``train``: a real training as long as the time allows, its distillation, and the scores of both.

The commands that users call run in processes of their own. The masks of the test pictures are for scoring alone.
"""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import safetensors.torch
import torch

from benchmarks.gpu.shape_coverage import coverage_scores
from benchmarks.gpu.step_process import Context, run_cases
from layered_plugin.data.pictures import PictureSource
from layered_plugin.model.snapshots import find_snapshot, load_snapshot
from layered_plugin.runs import GAN_FILE, OPTIONS, STATS_FILE

ROOT = Path(__file__).parents[2]
TRAIN_ARGS = "--cfg=demo --resolution=64 --cbase=8192 --cmax=256 --batch=64 --nhwc=1 --tick=10 --snap=10"
QUICK_ARGS = "--cfg=demo --resolution=16 --cbase=128 --cmax=8 --w-dim=16 --map-depth=2 --batch=8 --tick=0.2 --snap=1"
SECONDS_A_STEP = 0.135  # Of distilling: 128 to 134 ms on an H100 whose host was busy.
LARGEST_FILE = 15 << 20  # Bytes; larger ones stay behind.


def main(context: Context) -> int:
    """Run the step."""
    cases = [("data", lambda: make_data(context)), ("train", lambda: train(context)),
             ("keep the generator", lambda: keep(context)), ("distill", lambda: distill(context)),
             ("keep the model", lambda: keep_model(context)), ("score", lambda: score(context)),
             ("draw", lambda: draw(context)), ("coverage", lambda: coverage(context))]
    return run_cases(context, cases, seconds=1)


def data_of(context: Context) -> Path:
    """Folder with train.zip, test-masked.zip and test-masks."""
    return context.data or context.workdir / "data"


def masks_of(context: Context) -> Path:
    """True masks of the test pictures, a folder or a zip."""
    folder = data_of(context) / "test-masks"
    return folder if folder.is_dir() else folder.with_suffix(".zip")


def make_data(context: Context) -> dict[str, Any]:
    """Shapes, where no data is given."""
    if context.data is not None:
        return dict(folder=context.data.name)
    folder = data_of(context)
    folder.mkdir(parents=True, exist_ok=True)
    size = "18" if context.quick else "72"
    sets = dict(train=("0", "64" if context.quick else "4000"), test=("1", "16" if context.quick else "200"))
    for name, (seed, num) in sets.items():
        run(context, "-m", "layered_plugin.dataset_tool", "shapes", f"--dest={folder / name}.zip", f"--num={num}",
            f"--seed={seed}", f"--masks={folder / name}-masks.zip", f"--size={size}")
    (folder / "test.zip").rename(folder / "test-masked.zip")
    return dict(folder="shapes")


def run(context: Context, *command: str, seconds: float | None = None) -> str:
    """Run a Python command to its end and return what it prints; with ``seconds``, ask it to stop after these.

    Raises:
        RuntimeError: It fails.
    """
    print("$ python", shlex.join(command), flush=True)
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               text=True)
    try:
        output, _ = process.communicate(timeout=seconds or max(context.seconds_left - 1, 1))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # It finishes its step and saves.
        output, _ = process.communicate()
        if seconds is None:
            raise RuntimeError(f"{command[0]} ran out of time") from None
    print(output, flush=True)
    stopped = seconds is not None and process.returncode == 128 + signal.SIGTERM
    if process.returncode != 0 and not stopped:
        raise RuntimeError(f"{shlex.join(command[:2])} failed with code {process.returncode}")
    return output


def train(context: Context) -> dict[str, Any]:
    """Train for about 40 % of the step's time; what is left is for distilling and scoring."""
    args = shlex.split(context.train_args or (QUICK_ARGS if context.quick else TRAIN_ARGS))
    seconds = min(30.0, 0.3 * context.seconds_left) if context.quick else 0.4 * context.seconds_left
    command = ["train_layered.py", f"--outdir={context.workdir / 'runs'}", f"--data={data_of(context) / 'train.zip'}",
               f"--device={context.device}", *([] if any("--kimg" in arg for arg in args) else ["--kimg=25000"]), *args]
    start = time.time()
    run(context, *command, seconds=seconds)
    last = stats_of(newest_run(context, "runs"))[-1]
    return dict(command=shlex.join(["python", *command[:1], *args]), asked_s=seconds, seconds=time.time() - start,
                kimg=last["Progress/kimg"]["mean"], resolution=last["Progress/resolution"]["mean"],
                training_s=last["Timing/total_sec"]["mean"], s_per_kimg_last=last["Timing/sec_per_kimg"]["mean"],
                peak_memory_gib=last["Resources/peak_gpu_mem_gb"]["mean"],
                mask_coverage=last["Layers/coverage"]["mean"])


def newest_run(context: Context, name: str) -> Path:
    """Last run folder below a folder of the step's."""
    return max((context.workdir / name).glob("[0-9]*-*"))


def stats_of(run_dir: Path) -> list[dict[str, Any]]:
    """Ticks of a run."""
    return [json.loads(line) for line in (run_dir / STATS_FILE).read_text().splitlines()]


def distill(context: Context) -> dict[str, Any]:
    """Distil in as many steps as two thirds of the time allow, at the speed of a busy machine, 300 + 700 at most.

    Each batch of real pictures gives two.
    """
    steps = int(min(1000.0, 0.65 * context.seconds_left / SECONDS_A_STEP))
    short = ["--steps=4", "--adapt=4", "--batch=4"]
    if not context.quick:
        short = [f"--steps={max(1, 3 * steps // 10)}", f"--adapt={max(1, 7 * steps // 20)}"]
    start = time.time()
    run(context, "invert.py", "distill", f"--network={newest_run(context, 'runs')}",
        f"--data={data_of(context) / 'train.zip'}", f"--outdir={context.workdir / 'models'}",
        f"--device={context.device}", *short)
    seconds = time.time() - start
    lines = stats_of(newest_run(context, "models"))
    speeds = {line["stage"]: line["images_per_sec"] for line in lines}
    return dict(seconds=seconds, pictures_per_s=speeds)


def score(context: Context) -> dict[str, Any]:
    """IoU of the distilled model on the test pictures."""
    output = run(context, "eval.py", "real", f"--model={newest_run(context, 'models')}",
                 f"--data={data_of(context) / 'test-masked.zip'}", f"--masks={masks_of(context)}",
                 f"--baselines={'none' if context.quick else 'full,otsu'}", f"--device={context.device}")
    found = json.loads(output)
    scores = found["models"][0].get("all") or found["models"][0]["detected"]
    return dict(iou=scores["iou"], iou_ci=scores["iou_ci"], num=found.get("num"), record=found)


def draw(context: Context) -> dict[str, Any]:
    """Scenes with their masks, as a data set that is kept."""
    num = 20 if context.quick else 2000
    run(context, "-m", "layered_plugin.generate", f"--network={newest_run(context, 'runs')}", f"--seeds=0-{num - 1}",
        f"--zip={context.workdir / 'generated.zip'}", f"--device={context.device}", "--batch=200")
    shutil.copy(context.workdir / "generated-masks.zip", context.outdir)
    return dict(num=num)


def coverage(context: Context) -> dict[str, Any]:
    """How many of the true shapes the generator draws."""
    gen = read_masks(context.workdir / "generated-masks.zip")
    return coverage_scores(read_masks(masks_of(context), gen.shape[-1]), gen)


def read_masks(path: Path, size_px: int | None = None) -> torch.Tensor:
    """Masks of a folder or zip, [N, S, S], bool, squeezed to a square where a size is given."""
    source = PictureSource(path)
    masks = []
    for name in source.names:
        picture = source.open(name).convert("L")
        if size_px is not None:
            picture = picture.resize((size_px, size_px), PIL.Image.Resampling.BOX)
        masks.append(np.asarray(picture) >= 128)
    source.close()
    return torch.from_numpy(np.stack(masks))


def keep_model(context: Context) -> dict[str, Any]:
    """Pack the model, and what says how it came about, into one file of the results."""
    run_dir, model = newest_run(context, "runs"), newest_run(context, "models")
    with zipfile.ZipFile(context.outdir / "distilled.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (*model.glob("model.*"), model / OPTIONS, *model.glob("*.png"),
                     run_dir / GAN_FILE, run_dir / STATS_FILE):
            archive.write(path, path.name)
    return dict(bytes=(context.outdir / "distilled.zip").stat().st_size)


def keep(context: Context) -> dict[str, Any]:
    """Copy the last grid and, if it is small enough, the snapshot or the generator in half precision to the results."""
    run_dir = newest_run(context, "runs")
    last: Sequence[Path] = sorted(run_dir.glob("layers*.png"))[-1:]
    for path in last:
        shutil.copy(path, context.outdir / "layers.png")
    snapshot = Path(find_snapshot(run_dir))
    left_out = {} if snapshot.stat().st_size <= LARGEST_FILE else {snapshot.name: snapshot.stat().st_size}
    if not left_out:
        shutil.copy(snapshot, context.outdir / "network-snapshot.pkl")
    else:
        left_out |= keep_generator(snapshot, context.outdir / "generator.safetensors")
    return dict(left_out_bytes=left_out)


def keep_generator(snapshot: Path, target: Path) -> dict[str, int]:
    """Write G_ema alone, in half precision; returns its size if it is still too large."""
    G = load_snapshot(snapshot)["G_ema"]
    tensors = {key: value.half().contiguous() for key, value in G.state_dict().items()}
    safetensors.torch.save_file(tensors, target, metadata=dict(init_kwargs=json.dumps(G.init_kwargs)))
    size = target.stat().st_size
    if size <= LARGEST_FILE:
        return {}
    target.unlink()
    return {target.name: size}
