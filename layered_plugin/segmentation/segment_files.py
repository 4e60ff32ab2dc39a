"""Segment a folder, an archive or many archives: masks, cut-outs, layers, manifests, contact sheet.

Streams: in memory are the names of one folder or archive and a few groups of pictures, however many there are. The work
of ``invert.py segment``; what a call has to do is said by ``shares``, what becomes of pictures by ``pipeline``, where
results go by ``outputs``.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from layered_plugin.data.files import UNREADABLE
from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import ArgumentError, ModelError, PictureError, UserError
from layered_plugin.progress import progress
from layered_plugin.runs import MANIFEST
from layered_plugin.segmentation import shares
from layered_plugin.segmentation.earlier import check_settings, has_results, is_whole, mark_there, same_archive
from layered_plugin.segmentation.merging import sheet_of_folder
from layered_plugin.segmentation.model_file import weights_hash
from layered_plugin.segmentation.outputs import ArchiveOutput, FolderOutput, read_manifest
from layered_plugin.segmentation.pipeline import Item, Pipeline
from layered_plugin.segmentation.segmenter import USUAL, Refinement, Segmenter
from layered_plugin.segmentation.shares import Part, Shard, Targets
from layered_plugin.segmentation.workers import Finish, task_executor, threads_beside

GROUP_BYTES = 16 << 20  # A group of pictures ends early once its files have so many.
WORTH_WORKERS = 200  # Fewer pictures are done before processes have started.


class Outcome(NamedTuple):
    """How many pictures were segmented now and before, and what is wrong with the others, by name."""

    done: int
    skipped: int
    failed: dict[str, str]


class Job(NamedTuple):
    """What stays the same for all pictures of a call."""

    segmenter: Segmenter
    refinement: Refinement
    how: Finish
    batch: int
    workers: int


class Listing(NamedTuple):
    """Pictures of a folder or archive, and the name of each one's results."""

    source: PictureSource
    targets: Targets


def segment_files(segmenter: Segmenter, images: str | os.PathLike[str], outdir: str | os.PathLike[str], *,
                  batch: int = 64, threshold: float = 0.5, soft: bool = False, cutouts: bool = True,
                  min_confidence: float = 0.0, refinement: Refinement = USUAL, workers: int = 0, form: str = "files",
                  shard: Shard = shares.WHOLE, num: int | None = None) -> Outcome:
    """Segment every picture that no manifest lists yet.

    Args:
        segmenter: A loaded model.
        images: Folder, zip, tar or picture, or a pattern of archives, each of which gets results of its own.
        outdir: Where results go; made if missing.
        batch: Pictures that go through the network together, at most; fewer if their files are large.
        threshold: Opacity from which a pixel counts as object, in (0, 1).
        soft: Write opacities instead of 0 and 255?
        cutouts: Write cut-outs, by far the largest files, too?
        min_confidence: Results of pictures with less go to a folder of their own, doubtful/; in a tar they are marked.
        refinement: What is done beyond one pass through the network.
        workers: Processes that decode and encode; 0 = none but this one.
        form: What results are written as: files, zip or tar.
        shard: Which of the calls that share the work this is.
        num: At most so many pictures of a folder or archive, evenly spread over their names; None = all.

    Returns:
        What happened; a picture that can't be read or matched is left out and named, and so is one of many archives.

    Raises:
        ArgumentError: An archive of results would take the place of a file that no call has written, or another call is
            writing the same results.
        CheckpointError: The model's weights are there no more.
        ModelError: None of the pictures can be segmented by this model, or the folder holds results of another call.
        OSError: A file can't be written.
        PictureError: The pictures, or the manifest of an earlier call, can't be read.
        UserError: A worker was killed.
    """
    outdir, margin = Path(outdir), refinement.margin_for(segmenter)
    how = Finish(threshold, soft, cutouts, min_confidence, refinement.sharp, margin, segmenter.letterbox)
    job = Job(segmenter, refinement, how, batch, workers)
    prior = refinement.prior
    settings = dict(model=str(segmenter.folder.resolve()), threshold=threshold, soft=soft, cutouts=cutouts, batch=batch,
                    min_confidence=min_confidence, images=os.path.abspath(images),
                    **(refinement.record() | dict(margin=margin)), weights=weights_hash(segmenter.folder),
                    prior_weights=None if prior is None else weights_hash(prior.folder))
    if shares.is_pattern(str(images)):
        parts = shares.plan_parts(str(images), outdir, form, shares.WHOLE)
        check_settings(outdir, settings, [part.images.name for part in parts], shard, shares_folder=False)
        return _segment_parts(job, parts[shard.number::shard.total], outdir, None)
    listing = _list(images, outdir)
    with closing(listing.source):
        if num is not None and num < len(listing.source):
            names = listing.source.names
            listing.source.names = [names[pos * len(names) // num] for pos in range(num)]
        parts = shares.plan_parts(str(images), outdir, form, shard, len(listing.source), batch)
        shares_folder = form == "files" and shard.total > 1
        check_settings(outdir, settings, listing.source.names, shard, shares_folder)
        return (_segment_share(job, parts[0], outdir, listing, shard) if shares_folder else
                _segment_parts(job, parts, outdir, listing))


def _segment_share(job: Job, part: Part, outdir: Path, listing: Listing, shard: Shard) -> Outcome:
    """Segment one of several shares of a folder; its manifest has another name once it is finished."""
    done = outdir / shares.shard_manifest(shard, done=True)
    if done.is_file():  # A finished shard is given again: its manifest goes on.
        os.replace(done, part.manifest)
    outcome = _segment_parts(job, [part], outdir, listing)
    if outcome.skipped > 0 and part.manifest.stat().st_size == 0:
        part.manifest.unlink()  # All stands in the merged manifest.
    else:
        os.replace(part.manifest, done)
    return outcome


def _segment_parts(job: Job, parts: list[Part], outdir: Path, listing: Listing | None) -> Outcome:
    total = Outcome(0, 0, {})
    for part in parts:
        if part.archive is not None and part.archive.exists() and not part.manifest.exists():
            raise ArgumentError(f"`outdir`: {part.archive} is there, and no results; choose another folder")
    for count, part in enumerate(parts, start=1):
        label = "Pictures" if len(parts) == 1 else f"Part {count} of {len(parts)}"
        done, skipped, failed = _segment_part(job, part, listing, label)
        total = Outcome(total.done + done, total.skipped + skipped, {**total.failed, **failed})
    if total.done == 0 and total.failed and not has_results(outdir):
        num = len(total.failed)
        raise ModelError(next(iter(total.failed.values())) + (f"; all {num} failed" if num > 1 else ""))
    return total


def _list(images: str | os.PathLike[str], temp_dir: Path) -> Listing:
    source = PictureSource(images, temp_dir if str(images).endswith((".tar.gz", ".tgz")) else None)
    return Listing(source, Targets(source.names))


def _segment_part(job: Job, part: Part, listing: Listing | None, label: str) -> Outcome:
    is_done = part.archive is not None and part.manifest.is_file()  # Only when all is.
    if is_done and (same_archive(part) if listing is None else is_whole(part, listing.source)):
        entries = list(read_manifest(part.manifest))
        failed = {entry["name"]: entry["failed"] for entry in entries if "failed" in entry}
        return Outcome(0, len(entries) - len(failed), failed)
    if listing is not None:
        return _segment_listing(job, part, listing, label)
    try:
        opened = _list(part.images, part.manifest.parent)
    except PictureError as err:  # One of many archives; without a manifest the next call tries it again.
        return Outcome(0, 0, {str(part.images): str(err)})
    with closing(opened.source):
        return _segment_part(job, part, opened, label)


def _segment_listing(job: Job, part: Part, listing: Listing, label: str) -> Outcome:
    source, targets = listing
    names = source.names[part.first:part.last]
    of_whole = dict(archive_bytes=part.images.stat().st_size) if part.last is None else {}
    output: FolderOutput | ArchiveOutput = (FolderOutput(part.folder, part.manifest) if part.archive is None
                                            else ArchiveOutput(part.archive, of_whole))
    failed: dict[str, str] = {}
    try:
        listed = mark_there(source, names, output.listed(), output.written,
                            "remove its line from the manifest to have it made anew")
        num = listed.count(0)
        workers = job.workers if num >= WORTH_WORKERS else 0
        in_zip = part.archive is not None and part.archive.suffix == ".zip"
        groups = _groups(names, listed, job.batch, lambda name: _read(job.segmenter, source, name, in_zip))
        with task_executor(workers) as tasks, threads_beside(workers if job.segmenter.kind == "distill" else 0):
            pipeline = Pipeline(job.segmenter, job.refinement, job.how, source.cannot_read, tasks, workers)
            for name, result in progress(pipeline.run(groups), num, label):
                if isinstance(result, str):
                    failed[name] = result
                    output.fail(name, result)
                else:
                    output.add(dict(name=name, file=targets[name], **result.entry), result.parts)
        output.close()
    except BaseException as err:
        output.abandon()
        if isinstance(err, BrokenProcessPool):
            raise UserError("a worker process was killed, perhaps for lack of memory; the same command goes on, with "
                            "fewer `workers` if need be") from err
        raise
    if part.archive is None and part.manifest.name == MANIFEST:
        sheet_of_folder(part.folder, source)
    return Outcome(num - len(failed), len(names) - num, failed)


def _groups(names: list[str], listed: bytearray, batch: int,
            read: Callable[[str], bytes | str]) -> Iterator[list[Item]]:
    """Read the pictures that go through the network together; those of which all are there are passed over."""
    for start in range(0, len(names), batch):
        places = range(start, min(start + batch, len(names)))
        if all(listed[pos] for pos in places):
            continue
        group: list[Item] = []
        size = 0
        for pos in places:
            content = read(names[pos])
            group.append(Item(names[pos], not listed[pos], content))
            size += len(content) if isinstance(content, bytes) else 0
            if size >= GROUP_BYTES:
                yield group
                group, size = [], 0
        if group:
            yield group


def _read(segmenter: Segmenter, source: PictureSource, name: str, in_zip: bool) -> bytes | str:
    """Contents of a picture's file, or why there can be no result for it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:  # An archive may hold any name.
        return f"{source.path}: {name} leads out of the folder"
    if in_zip and name.encode(errors="ignore").decode() != name:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        return f"{source.path}: {shown}: its name is not UTF-8, as all in a zip are: rename it, or take another `form`"
    refused = segmenter.refusal(name)
    if refused is not None:
        return refused
    try:
        content = source.read(name)
    except UNREADABLE as err:
        return source.cannot_read(name, err)
    return segmenter.refusal(name, len(content)) or content
