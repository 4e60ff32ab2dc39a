"""What a data set was when a run began: names, sizes and order of its pictures and some contents, to notice changes."""

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from layered_plugin.data.files import UNREADABLE
from layered_plugin.data.picture_labels import read_labels
from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import CheckpointError, PictureError, raising
from layered_plugin.json_files import fields, number, text

SAMPLE = 64  # Pictures that are read: enough to notice that a set was replaced, and quick on any disk.

FINGERPRINT = fields(dict(num=number(1, whole=True), bytes=number(0, 2**63, whole=True), names=text, contents=text),
                     dict(sample=text, labels=text))

REMEDY = "put it back, or go on with the other pictures by `data_changed`=ok"


def fingerprint(path: str | os.PathLike[str], labels: bool = False) -> dict[str, Any]:
    """Fingerprint of a folder or archive, from its directory and a sample: not every picture is read.

    Args:
        path: Folder or archive.
        labels: Include the labels? All are read.

    Returns:
        num, of pictures; bytes, of all; hashes of their names in order, and of their sizes, in a zip with checksums;
        of what ``SAMPLE`` of them hold, spread evenly; of the labels, if asked for.

    Raises:
        PictureError: It can't be read.
    """
    source = PictureSource(path)
    try:
        described = of_source(source)
        if labels:
            values = read_labels(source)
            described["labels"] = _hash([] if values is None else [str(values.shape), values.tobytes()])
        return described
    finally:
        source.close()


def of_source(source: PictureSource) -> dict[str, Any]:
    """As ``fingerprint``, of what is open already."""
    with raising(PictureError, f"{source.path}: not readable", *UNREADABLE):
        return dict(num=len(source), bytes=sum(map(source.size, source.names)), names=_hash(source.names),
                    contents=_hash(map(source.files.contents, source.names)), sample=_sample(source))


def compare(path: str, before: Mapping[str, Any] | None, may_change: bool, where: str, remedy: str = REMEDY,
            labels: bool = False, option: str = "data") -> tuple[dict[str, Any], bool]:
    """Fingerprint of pictures or masks, and whether it is another than before, which a warning says.

    Raises:
        CheckpointError: They can't be read, which names `where`, and the option that says where they lie now; or are
            others and must not be, with the remedy.
    """
    try:
        now = fingerprint(path, labels)
    except PictureError as err:
        moved = "" if before is None else f"; if it lies elsewhere now, say where by `{option}`"
        raise CheckpointError(f"{where}: {err}{moved}") from err
    changed = None if before is None else what_changed(before, now)
    if changed is not None and not may_change:
        raise CheckpointError(f"{path}: {changed}; {remedy}")
    if changed is not None:
        print(f"WARNING: {path}: {changed}", file=sys.stderr)
    return now, changed is not None


def of_names(names: Sequence[str]) -> dict[str, Any]:
    """Number of names, and their hash in order: what a fingerprint says of them."""
    return dict(num=len(names), names=_hash(names))


def what_changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How two fingerprints differ, in words; None if they don't."""
    if before["num"] != now["num"]:
        return f"it had {before['num']} pictures when the run began, and has {now['num']} now"
    if before["names"] != now["names"]:
        return f"its {now['num']} pictures have other names than when the run began"
    if before["contents"] != now["contents"]:
        return (f"pictures have other contents than when the run began ({before['bytes']} bytes then, "
                f"{now['bytes']} now)")
    if before.get("sample", now["sample"]) != now["sample"]:  # Older versions have none.
        return "pictures have other contents than when the run began, of the same sizes in bytes"
    if before.get("labels", now.get("labels")) != now.get("labels"):
        return "its pictures have other labels than when the run began"
    return None


def _sample(source: PictureSource) -> str:
    """Hash of what pictures spread over the set hold; the first and the last are among them."""
    digest = hashlib.sha256()
    for place in sorted({idx * (len(source) - 1) // (SAMPLE - 1) for idx in range(SAMPLE)}):
        try:
            digest.update(hashlib.sha256(source.read(source.names[place])).digest())
        except UNREADABLE:
            digest.update(b"unreadable")
    return digest.hexdigest()[:16]


def _hash(words: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for word in words:
        digest.update((word if isinstance(word, bytes) else word.encode(errors="surrogatepass")) + b"\0")
    return digest.hexdigest()[:16]
