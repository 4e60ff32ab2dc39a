"""What one call of ``invert.py segment`` has to do: parts, each with a manifest of its own, and groups of pictures.

Which pictures go through the network together depends on their places in the listing alone, since a batch's company
may change the last bit of a mask. So a call that goes on, or one of several that share the work, makes the same bytes.
"""

import glob
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from layered_plugin.data.files import is_picture_name
from layered_plugin.errors import ArgumentError, PictureError
from layered_plugin.files import NAME_BYTES
from layered_plugin.runs import MANIFEST

FORMATS = ("files", "zip", "tar")

PER_ARCHIVE = 4096  # Pictures of a folder or zip that go to one archive: about 1 GB at 500 pixels.


class Shard(NamedTuple):
    """One of several calls that share the work: its number, from 0 on, and how many they are."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read I/N; ArgumentError if it is not so, or I is not below N."""
        number, _, total = text.partition("/")
        if not (number.isdecimal() and total.isdecimal() and int(number) < int(total)):
            raise ArgumentError(f"`shard` must be I/N with I from 0 to N - 1, got {text}")
        return cls(int(number), int(total))

    @classmethod
    def of_environment(cls, env: Mapping[str, str] = os.environ) -> tuple["Shard", str]:
        """That of this process under torchrun or in a Slurm array, and by which variable; else the whole, and ""."""
        try:
            if int(env.get("WORLD_SIZE", "1")) > 1:
                return cls.parse(f"{int(env['RANK'])}/{int(env['WORLD_SIZE'])}"), "RANK"
            if int(env.get("SLURM_ARRAY_TASK_COUNT", "1")) > 1:
                first, step = (int(env.get(f"SLURM_ARRAY_TASK_{name}", default))
                               for name, default in (("MIN", "0"), ("STEP", "1")))
                number = (int(env["SLURM_ARRAY_TASK_ID"]) - first) // max(step, 1)
                return cls.parse(f"{number}/{int(env['SLURM_ARRAY_TASK_COUNT'])}"), "SLURM_ARRAY_TASK_ID"
        except (KeyError, ValueError) as err:
            raise ArgumentError(f"`shard` can't be taken from the environment: {err}; give it") from err
        return WHOLE, ""


WHOLE = Shard(0, 1)


class Part(NamedTuple):
    """Pictures that share a manifest."""

    images: Path  # Folder or archive they are of.
    first: int  # Position in its listing.
    last: int | None  # Likewise, exclusive; None = to the end.
    folder: Path  # Where results go as files.
    manifest: Path
    archive: Path | None = None  # Where results go instead, ending in .zip or .tar.


def is_pattern(images: str) -> bool:
    """Whether it stands for several archives, such as "shards/*.tar"."""
    return glob.has_magic(images) and not Path(images).exists()


def plan_parts(images: str, outdir: Path, form: str, shard: Shard, num: int = 0, batch: int = 1) -> list[Part]:
    """Divide the work.

    Args:
        images: Folder, archive, picture, or pattern of archives; each of the latter is a part.
        outdir: Of the call.
        form: files, zip or tar.
        shard: Which of the calls that share the work this is.
        num: Number of pictures; needed unless `images` is a pattern, as is the next.
        batch: Pictures that go through the network together.

    Raises:
        PictureError: Nothing fits the pattern, or pictures do, or two archives would go to one place.
    """
    if is_pattern(images):
        archives = sorted(Path(name) for name in glob.glob(images, recursive=True))
        stems = {_stem(path): path for path in archives}
        if not archives:
            raise PictureError(f"{images}: no file fits this pattern")
        pictures = [path for path in archives if is_picture_name(path.name)]
        if pictures:
            raise PictureError(f"{images}: fits pictures, such as {pictures[0]}; a pattern is of zips or tars: give "
                               "the folder of the pictures")
        if len(stems) < len(archives):
            same_stem = next(path for path in archives if stems[_stem(path)] != path)
            other = stems[_stem(same_stem)]
            raise PictureError(f"{same_stem}: differs from {other} in its suffix or folder alone, so that the results "
                               "of both would go to one place")
        return [_whole(path, outdir, stem, form) for stem, path in list(stems.items())[shard.number::shard.total]]
    if form != "files":
        return [_whole(Path(images), outdir, f"{idx:05d}", form)._replace(
                    first=idx * PER_ARCHIVE, last=min(num, (idx + 1) * PER_ARCHIVE))
                for idx in range(shard.number, -(-num // PER_ARCHIVE), shard.total)]
    batches = -(-num // batch)
    first, last = (min(num, batches * idx // shard.total * batch) for idx in (shard.number, shard.number + 1))
    name = MANIFEST if shard.total == 1 else shard_manifest(shard, done=False)
    return [Part(Path(images), first, last, outdir, outdir / name)]


def _stem(path: Path) -> str:
    """An archive's name without .tar, .zip, .tar.gz and the like; other dots belong to it."""
    return Path(path.name.removesuffix(".gz")).stem


def _whole(path: Path, outdir: Path, stem: str, form: str) -> Part:
    if form == "files":
        return Part(path, 0, None, outdir / stem, outdir / stem / MANIFEST)
    return Part(path, 0, None, outdir, outdir / f"{stem}.jsonl", outdir / f"{stem}.{form}")


def shard_manifest(shard: Shard, done: bool) -> str:
    """Name of the manifest of one of several calls that fill one folder, while it is at work and after."""
    return f"manifest-{shard.number}-of-{shard.total}{'' if done else '.partial'}.jsonl"


class Targets:
    """File name of each picture's results: its own with .png, and its whole name before that if two would collide."""

    def __init__(self, names: list[str]) -> None:
        self._renamed: dict[str, str] = {}
        while True:  # A whole name may meet another's file in its turn: a.jpg.png beside a.jpg and a.png.
            # Numbers, since there may be millions.
            marks = np.fromiter((hash(self[name]) for name in names), np.int64, len(names))
            values, users = np.unique(marks, return_counts=True)
            shared = np.isin(marks, values[users > 1])
            clash = [names[pos] for pos in np.flatnonzero(shared) if names[pos] not in self._renamed
                     and self[names[pos]] != fitting_name(f"{names[pos]}.png")]
            if not clash:
                return
            self._renamed.update({name: fitting_name(f"{name}.png") for name in clash})

    def __getitem__(self, name: str) -> str:
        return self._renamed.get(name) or fitting_name(str(PurePosixPath(name).with_suffix(".png")))


def fitting_name(name: str) -> str:
    """A path whose last part is no longer than names may be; if cut, it ends in a hash of the whole."""
    path = PurePosixPath(name)
    if len(os.fsencode(path.name)) <= NAME_BYTES:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return str(path.with_name(f"{os.fsencode(path.name)[:NAME_BYTES - 25].decode(errors='ignore')}-{digest}.png"))
