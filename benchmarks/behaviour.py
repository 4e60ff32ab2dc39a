"""Hashes of what the commands make on this machine, to show that a change of the code changes no result.

The project's own commands run as a user would call them, in processes of their own, small and in full precision: data,
seven ways to train, distilling, both kinds of encoder, segmenting, scoring. Nothing of the package is imported here, so
that any commit can be measured, whatever its modules are called. Bytes depend on the processor, PyTorch and the
compiler: compare only what one machine made. Results go to standard output as JSON, the commands to stderr.
"""

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import safetensors.numpy

TRAIN = ["--cfg=demo", "--resolution=16", "--precision=fp32", "--mirror=0"]
LENGTH = ["--batch=16", "--kimg=0.48"]  # 30 steps; R1 runs in two of them.
VARIANTS: dict[str, list[str]] = {
    "default": [],
    "wgan-gp": ["--gan-loss=wgan-gp"],
    "growing": ["--grow-schedule=8:0.16:16,16:0.32:16"],  # 10 steps at 8x8, 10 fading to 16x16, 10 there.
    "objects": ["--objects=2", "--mask-min=0.08", "--mask-overlap-weight=5"],
    "single": ["--generator=single"],
    "ada": ["--aug=ada", "--target=0"],  # p rises, but 30 steps end near 0 ...
    # ... so here every operation is at work; the filters need more than 21 pixels.
    "augmented": ["--resolution=32", "--aug=fixed", "--p=0.5", "--augpipe=bgcfnc"],
}
ENCODER = ["--batch=4", "--feature-resolution=8"]
PROVENANCE = ("command", "date", "base", "torch")  # Of a record of eval.py: says nothing of its scores.

# Prints the hashes of a snapshot's networks. Runs in the tree under test: a pickle needs the modules it was made of.
READER = """
import hashlib, json, pathlib, pickle, sys
import layered_plugin
repo, path = map(pathlib.Path, sys.argv[1:])
if not pathlib.Path(layered_plugin.__file__).resolve().is_relative_to(repo):
    sys.exit(f"Error: the package of {layered_plugin.__file__} is imported, not that of {repo}")
layered_plugin.BASE  # Puts the base on sys.path.
hashes = {}
for name, net in pickle.loads(path.read_bytes()).items():
    if hasattr(net, "state_dict"):
        digest = hashlib.sha256()
        for key, value in sorted(net.state_dict().items()):
            array = value.detach().cpu().contiguous().numpy()
            digest.update(f"{key} {array.dtype} {array.shape}".encode() + array.tobytes())
        hashes[name] = digest.hexdigest()
print(json.dumps(hashes))
"""


class Commands:
    """Runs commands of the tree under test, on one thread."""

    def __init__(self, repo: Path) -> None:
        self.repo = repo
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.env = dict(os.environ, PYTHONPATH=str(repo), **threads)

    def __call__(self, *args: str) -> str:
        """Run `python ARGS` and return its standard output.

        Raises:
            click.ClickException: It failed.
        """
        shown = shlex.join(["python", *args]) if args[0] != "-c" else f"read {args[-1]}"
        start = time.monotonic()
        done = subprocess.run([sys.executable, *args], cwd=self.repo, env=self.env, capture_output=True, text=True)
        if done.returncode != 0:
            raise click.ClickException(f"{shown}\n{done.stderr[-2000:] or done.stdout[-2000:]}")
        click.echo(f"{time.monotonic() - start:5.1f} s  {shown}", err=True)
        return done.stdout

    def draw(self, folder: Path, name: str, *args: str) -> None:
        """Draw a data set, by the name that the tree under test has for the command."""
        tool = (self.repo / "layered_plugin" / "dataset_tool.py").is_file()
        self("-m", *(["layered_plugin.dataset_tool", "shapes"] if tool else ["layered_plugin.shapes"]),
             f"--dest={folder / name}.zip", "--size=18", *args)

    def start(self, outdir: Path, *args: str) -> Path:
        """Train something, and return the run folder, the only one in `outdir`."""
        self(*args, f"--outdir={outdir}", "--device=cpu")
        (run_dir,) = outdir.glob("[0-9]*-*")
        return run_dir

    def snapshot(self, run_dir: Path) -> dict[str, str]:
        """Hash of each network of a run's last snapshot."""
        (path,) = run_dir.glob("network-snapshot-*.pkl")
        hashes: dict[str, str] = json.loads(self("-c", READER, str(self.repo), str(path)))
        return hashes


def hash_parts(parts: Iterable[tuple[str, bytes]]) -> str:
    """Hash of names with their contents, in the order of the names."""
    digest = hashlib.sha256()
    for name, content in sorted(parts):
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def hash_zip(path: Path) -> str:
    """Hash of the files in a zip, without their times."""
    with zipfile.ZipFile(path) as file:
        return hash_parts((name, file.read(name)) for name in file.namelist())


def hash_files(folder: Path, pattern: str) -> str:
    """Hash of the files of a folder, at any depth, whose names fit."""
    return hash_parts((str(path.relative_to(folder)), path.read_bytes())
                      for path in folder.rglob(pattern) if path.is_file())


def hash_model(run_dir: Path) -> dict[str, str]:
    """Hash of each network of the safetensors files of a run, by file and first part of the tensors' names."""
    networks: dict[str, list[tuple[str, bytes]]] = {}
    for path in sorted(run_dir.rglob("*.safetensors")):
        for name, array in safetensors.numpy.load_file(path).items():
            network = "/".join([*path.relative_to(run_dir).with_suffix("").parts, name.split(".")[0]])
            networks.setdefault(network, []).append((f"{name} {array.dtype} {array.shape}",
                                                     np.ascontiguousarray(array).tobytes()))
    return {name: hash_parts(parts) for name, parts in networks.items()}


def hash_record(record: Mapping[str, Any], folder: Path) -> str:
    """Hash of the record of `eval.py real` without provenance, and without the folder that its paths begin with."""
    scores = {key: value for key, value in record.items() if key not in PROVENANCE}
    text = json.dumps(scores, sort_keys=True).replace(json.dumps(str(folder))[1:-1], "")
    return hashlib.sha256(text.encode()).hexdigest()


def measure(run: Commands, folder: Path) -> dict[str, Any]:
    """Run all commands and hash what they leave.

    Args:
        run: Of the tree under test.
        folder: Empty, absolute; keeps everything.

    Returns:
        hashes, by name; base and torch, as eval.py names them.
    """
    data, masks, pairs = (folder / f"{name}.zip" for name in ("shapes", "shapes-masks", "shapes2"))
    run.draw(folder, "shapes", f"--masks={masks}", "--num=64")
    run.draw(folder, "shapes2", "--objects=2", "--num=64")
    hashes = {f"data/{path.stem}": hash_zip(path) for path in (data, masks, pairs)}
    runs = {}
    for name, options in VARIANTS.items():
        pictures = pairs if name == "objects" else data
        length = [] if name == "growing" else LENGTH
        runs[name] = run.start(folder / name, "train_layered.py", f"--data={pictures}", *TRAIN, *length, *options)
        hashes.update({f"{name}/{network}": found for network, found in run.snapshot(runs[name]).items()})

    given = [f"--network={runs['default']}", f"--data={data}"]
    models = dict(
        distilled=run.start(folder / "distilled", "invert.py", "distill", *given, "--steps=20", "--adapt=10",
                            "--batch=8"),
        encoder=run.start(folder / "encoder", "invert.py", "train", *given, *ENCODER, "--mode=dataset",
                          "--pretrain=5", "--steps=10"),
        chunks=run.start(folder / "chunks", "invert.py", "train", *given, *ENCODER, "--num=8", "--chunk-size=4",
                         "--steps=5"))
    prior = f"--prior={models['distilled']}"
    ways: dict[str, list[str]] = dict(distilled=[], encoder=["--refine=2", prior, "--posterior=1", "--flip=1"])
    record: dict[str, Any] = {}
    for name, options in ways.items():
        model = [f"--model={models[name]}", "--device=cpu", *options]
        segmented = folder / f"{name}-segmented"
        run("invert.py", "segment", f"--images={data}", f"--outdir={segmented}", *model)
        hashes.update({f"{name}/segmented/{path.name}": hash_files(segmented, path.name) if path.is_file()
                       else hash_files(path, "*")
                       for path in segmented.iterdir() if path.name != "segment.json"})  # It names the model's folder.
        record = json.loads(run("eval.py", "real", f"--data={data}", f"--masks={masks}", "--num=16", *model))
        hashes[f"{name}/eval-real"] = hash_record(record, folder)
    for name, run_dir in models.items():
        hashes.update({f"{name}/{network}": found for network, found in hash_model(run_dir).items()})
    for name, run_dir in {**runs, **models}.items():  # Grids, samples, and the sheets of eval.py.
        if list(run_dir.glob("*.png")):
            hashes[f"{name}/pictures"] = hash_files(run_dir, "*.png")
    return dict(base=record["base"], torch=record["torch"], hashes=dict(sorted(hashes.items())))


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Names that are in one alone, or have another hash in the other."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def read_hashes(path: str) -> dict[str, str]:
    """Hashes of a file of this command.

    Raises:
        click.ClickException: It is none.
    """
    try:
        hashes = json.loads(Path(path).read_text())["hashes"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise click.ClickException(f"--against: {path}: no record of this command") from err
    return dict(hashes)


def commit_of(repo: Path) -> str | None:
    """The commit that a tree has checked out, with -dirty if it was edited since; None outside of git."""
    done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], cwd=repo,
                          capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


@click.command()
@click.option("--outdir", help="Empty folder for runs and behaviour.json", metavar="DIR", required=True)
@click.option("--repo", help="Tree to measure  [default: this one]", metavar="DIR")
@click.option("--against", help="Earlier behaviour.json to compare with", metavar="JSON")
def main(outdir: str, repo: str | None, against: str | None) -> None:
    """Hash weights, masks, pictures and scores that the commands make, 30 training steps at 16x16 each.

    Takes two minutes on one thread. With --against the exit code is 1 if any hash is another one.

    \b
    Examples:
    python -m benchmarks.behaviour --outdir=runs/behaviour-before
    python -m benchmarks.behaviour --outdir=runs/behaviour-after --against=runs/behaviour-before/behaviour.json

    \b
    # Another commit, without touching this tree.
    git worktree add ../other 1234abc
    python -m benchmarks.behaviour --repo=../other --outdir=runs/behaviour-other
    """
    folder = Path(outdir).resolve()
    root = Path(__file__).resolve().parent.parent if repo is None else Path(repo).resolve()
    if not (root / "train_layered.py").is_file():
        raise click.UsageError(f"--repo={root} holds no train_layered.py; give the root of a tree of this project")
    before = None if against is None else read_hashes(against)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise click.UsageError(f"--outdir={outdir} is not empty; choose another folder")
    except OSError as err:
        raise click.ClickException(f"--outdir: can't write to {outdir}: {err.strerror or err}") from err
    start = time.monotonic()
    result = dict(commit=commit_of(root), **measure(Commands(root), folder))
    text = json.dumps(dict(result, seconds=round(time.monotonic() - start)), indent=2)
    (folder / "behaviour.json").write_text(text + "\n")
    click.echo(text)
    if before is not None:
        different = differences(before, result["hashes"])
        click.echo("\n".join([f"differs: {name}" for name in different] + [
            f"{len(different)} hashes differ from {against}, of {len(result['hashes'])}"]), err=True)
        if different:
            sys.exit(1)


if __name__ == "__main__":
    main()
