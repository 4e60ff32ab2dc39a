"""One manifest and contact sheet of what several calls have left in one folder. The work of ``invert.py merge``."""

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import PIL.Image

from layered_plugin.data.files import UNREADABLE
from layered_plugin.data.pictures import PictureSource, to_rgb
from layered_plugin.errors import PictureError
from layered_plugin.files import atomic_write
from layered_plugin.runs import CONTACT_SHEET, DOUBTFUL, MANIFEST
from layered_plugin.segmentation.contact_sheet import write_contact_sheet
from layered_plugin.segmentation.earlier import SETTINGS, pictures_of, read_settings
from layered_plugin.segmentation.outputs import Entry, join_manifests, read_manifest, result_folder
from layered_plugin.segmentation.shares import Shard, shard_manifest

_PATTERN = re.compile(r"manifest-\d+-of-(\d+)(\.partial)?\.jsonl")


def merge_shards(outdir: str | Path) -> tuple[int, int]:
    """Join the manifests of all shards of a folder, so that it is as one call would have left it.

    Returns:
        How many pictures it lists, and how many more the calls were given, which could not be read.

    Raises:
        PictureError: There are no shards, one is not finished, or a manifest is damaged.
    """
    outdir = Path(outdir)
    totals = {int(match[1]) for path in outdir.glob("manifest-*") if (match := _PATTERN.fullmatch(path.name))}
    if len(totals) != 1:
        raise PictureError(f"{outdir}: holds manifests of {'different numbers of shards' if totals else 'no shard'}")
    shards = [Shard(number, total) for total in totals for number in range(total)]
    manifests = [path for shard in shards for done in (True, False)
                 if (path := outdir / shard_manifest(shard, done)).is_file()]
    whole = outdir / MANIFEST
    work = read_settings(outdir)["work"] if (outdir / SETTINGS).is_file() else None
    first = next((entry["name"] for path in manifests for entry in read_manifest(path)), None)
    if all(entry["name"] != first for entry in read_manifest(whole)):  # Else a merge was killed while it tidied up.
        unfinished = [shard for shard in shards if not (outdir / shard_manifest(shard, done=True)).is_file()]
        if unfinished and (work is None or _count(whole, *manifests) < work["num"]):  # Else one call did it.
            number, total = unfinished[0]
            raise PictureError(f"{outdir}: shard {number}/{total} is not finished; run it again, then merge")
        with atomic_write(whole) as file:
            join_manifests([whole, *manifests], file)
    for path in sorted(manifests, key=lambda path: path.stat().st_size):  # Last one that tells that they are merged.
        path.unlink()
    pictures = pictures_of(outdir)
    if pictures is not None:
        with closing(pictures):
            sheet_of_folder(outdir, pictures)
    num = _count(whole)
    return num, 0 if work is None else max(0, work["num"] - num)


def _count(*manifests: Path) -> int:
    return sum(1 for path in manifests for _entry in read_manifest(path))


def sheet_of_folder(folder: Path, pictures: PictureSource) -> None:
    """Draw the contact sheets of results that are files, those that are still there: a user may tidy up."""
    for doubtful in (False, True):
        entries = (entry for entry in read_manifest(folder / MANIFEST) if bool(entry.get("doubtful")) == doubtful)
        write_contact_sheet((folder / DOUBTFUL if doubtful else folder) / CONTACT_SHEET,
                            _masked(folder, entries, pictures))


def _masked(folder: Path, entries: Iterable[Entry],
            pictures: PictureSource) -> Iterator[tuple[PIL.Image.Image, PIL.Image.Image]]:
    """Pictures and their masks, where both are there as they were."""
    for entry in entries:
        try:
            mask = PIL.Image.open(result_folder(folder, entry) / "masks" / entry["file"]).convert("L")
            picture = to_rgb(pictures.open(entry["name"]))
        except (PictureError, *UNREADABLE):
            continue
        if picture.size == mask.size:
            yield picture, mask
