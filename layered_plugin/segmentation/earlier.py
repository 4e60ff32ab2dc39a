"""What earlier calls of ``invert.py segment`` left in a folder, and whether this one can go on with it.

Results of other settings, of pictures that have changed since, and of shards that divide other work are refused.
"""

import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from layered_plugin.data.files import UNREADABLE
from layered_plugin.data.fingerprint import of_names
from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import ModelError, PictureError
from layered_plugin.files import write_json
from layered_plugin.json_files import check_fields, fields, flag, maybe, number, read_json, text
from layered_plugin.runs import MANIFEST
from layered_plugin.segmentation.outputs import Entry, read_manifest
from layered_plugin.segmentation.segmenter import USUAL
from layered_plugin.segmentation.shares import Part, Shard

SETTINGS = "segment.json"

# What an earlier version may not have written has its default.
SETTINGS_RULE = fields(dict(model=text, threshold=number(0, 1), soft=flag), dict(
    flip=(flag, USUAL.flip), refine=(number(0, 10**9, whole=True), USUAL.refine), posterior=(flag, USUAL.posterior),
    sharp=(flag, USUAL.sharp), margin=(number(0, 0.5), 0.0), prior=(maybe(text), None),
    weights=(maybe(text), None), prior_weights=(maybe(text), None),
    cutouts=(flag, True), min_confidence=(number(0, 1), 0.0), batch=(maybe(number(1, whole=True)), None),
    work=(maybe(fields(dict(num=number(0, whole=True), names=text))), None), images=(maybe(text), None)))

UNKNOWN = dict(batch=None, work=None, weights=None, prior_weights=None)  # In a folder of an earlier version.


def read_settings(outdir: Path) -> dict[str, Any]:
    """Settings of the results in a folder; PictureError if they are damaged."""
    return check_fields(read_json(outdir / SETTINGS, PictureError), SETTINGS_RULE, outdir / SETTINGS, PictureError)


def pictures_of(outdir: Path) -> PictureSource | None:
    """The pictures that the results in a folder are of, to be closed; None if they are no longer where they were."""
    images = read_settings(outdir)["images"] if (outdir / SETTINGS).is_file() else None
    try:
        return None if images is None else PictureSource(images, outdir)
    except PictureError:
        return None


def check_settings(outdir: Path, settings: Mapping[str, Any], names: Sequence[str], shard: Shard,
                   shares_folder: bool) -> None:
    """Refuse to mix results of different calls in one folder; make it if it is missing, and keep the settings there.

    Args:
        outdir: The folder.
        settings: Of this call, `batch` among them.
        names: Of all pictures, or of the archives of a pattern, of which a shard does some.
        shard: Which of the calls that share the work this is.
        shares_folder: Whether shards fill one folder, for ``merge``; the work may change once they are merged.

    Raises:
        ModelError: A setting differs from that of the results; the text names it.
        PictureError: The file is damaged.
    """
    outdir.mkdir(parents=True, exist_ok=True)
    begun = shard.total > 1 and (_shards_begun(outdir) if shares_folder else has_results(outdir))
    now, earlier = dict(settings, work=of_names(names)), None
    if (outdir / SETTINGS).is_file() and (begun or has_results(outdir)):
        earlier = read_settings(outdir)
        free = ["images"] + ([] if begun and shares_folder else ["batch"] if begun else ["batch", "work"])
        for name in now:
            if name not in free and earlier[name] not in (now[name], UNKNOWN.get(name, now[name])):
                raise ModelError(f"{outdir}: {_difference(name, earlier[name], now[name])}")
    if now != earlier:
        write_json(outdir / SETTINGS, now)


def _difference(name: str, before: Any, now: Any) -> str:
    if name in ("weights", "prior_weights"):
        return (f"holds results of another training of the same {'model' if name == 'weights' else 'prior'}; choose "
                "another `outdir`")
    if name != "work":
        return f"holds results with {name} = {before}, not {now}; choose another `outdir`"
    what = f"{before['num']} pictures or archives, and there are {now['num']} now" if before["num"] != now["num"] else \
        "pictures or archives of other names"
    return f"its shards were begun for {what}; put them back, go on without `shard`, or choose another `outdir`"


def has_results(outdir: Path) -> bool:
    """Whether any manifest, of the folder or of a part, lists something."""
    manifests = chain(outdir.glob("*.jsonl"), outdir.glob(f"*/{MANIFEST}"))
    return any(path.stat().st_size > 0 for path in manifests)


def _shards_begun(outdir: Path) -> bool:
    """Whether calls that share a folder have a manifest there that is finished, or lists something."""
    return any(path.stat().st_size > 0 or ".partial" not in path.name for path in outdir.glob("manifest-*-of-*.jsonl"))


def mark_there(source: PictureSource, names: list[str], entries: Iterable[Entry], written: Callable[[Entry], int],
               remedy: str) -> bytearray:
    """For each of the sorted names 1 if a manifest lists it, else 0.

    Args:
        source: The pictures as they are now.
        names: Some of them.
        entries: Of the manifest; an older version's do not tell contents.
        written: When an entry's results were, in ns. A picture is read only if its file has been changed since.
        remedy: What to do about a picture that has changed.

    Raises:
        ModelError: A picture has changed, or can't be read to see whether it has; the text names it.
    """
    there = bytearray(len(names))
    for entry in entries:
        name = entry["name"]
        pos = bisect_left(names, name)
        if pos < len(names) and names[pos] == name:
            there[pos] = 1
            change = _change(source, entry, written)
            if change is not None:
                raise ModelError(f"{source.path}: {name} has other contents than when it was segmented ({change}); "
                                 f"put it back, {remedy}, or choose another `outdir`")
    return there


def _change(source: PictureSource, entry: Entry, written: Callable[[Entry], int]) -> str | None:
    """How a picture differs from what it was by its entry, in words; None if it does not."""
    name, size, crc32 = entry["name"], entry.get("bytes"), entry.get("crc32")
    if size is None:
        return None
    now, _, listed = source.files.contents(name).partition(" ")  # The second only of a zip, which has checksums.
    if now != f"{size}":
        return f"{size} bytes then, {now} now"
    if crc32 is None or (not listed and source.files.changed(name) < written(entry)):
        return None
    try:
        found = int(listed or zlib.crc32(source.read(name)))
    except UNREADABLE as err:
        raise ModelError(source.cannot_read(name, err)) from err
    return None if found == crc32 else f"{size} other bytes"


def _is_touched(source: PictureSource, name: str, written: int) -> bool:
    """Whether a picture's file was changed after results were written; not if it is gone."""
    try:
        return source.files.changed(name) >= written
    except (OSError, KeyError):
        return False


def same_archive(part: Part) -> bool:
    """Whether an archive of a pattern is as large as when its results were made, and unchanged since; it stays shut."""
    before, now = next(read_manifest(part.manifest), {}).get("archive_bytes"), part.images.stat()
    return before == now.st_size and now.st_ctime_ns < part.manifest.stat().st_mtime_ns


def is_whole(part: Part, source: PictureSource) -> bool:
    """Whether an archive of results that is there has all of its part; else it is to be made anew.

    It is not whole if pictures were added, or the file of one that failed has been changed since.

    ModelError if a picture has changed, or is gone, with whose result the archive would not be made anew.
    """
    remedy = f"remove {part.archive} and {part.manifest.name} to have it made anew"
    names, entries = source.names[part.first:part.last], list(read_manifest(part.manifest))
    written = part.manifest.stat().st_mtime_ns
    if names == [entry["name"] for entry in entries]:
        mark_there(source, names, entries, lambda _entry: written, remedy)
        return not any(_is_touched(source, entry["name"], written) for entry in entries if "failed" in entry)
    if mark_there(source, source.names, entries, lambda _entry: written, remedy).count(1) < len(entries):
        raise ModelError(f"{part.archive}: holds results of pictures that {source.path} has no more; put them back, "
                         f"{remedy}, or choose another `outdir`")
    return False
