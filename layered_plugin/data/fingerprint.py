"""What a data set was when a run began: names, sizes and order of its pictures, to notice that it has changed."""

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from layered_plugin.data.files import UNREADABLE
from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import CheckpointError, PictureError
from layered_plugin.json_files import fields, number, text

FINGERPRINT = fields(dict(num=number(1, whole=True), bytes=number(0, 2**63, whole=True), names=text, contents=text))

REMEDY = "put it back, or go on with the other pictures by `data_changed`=ok"


def fingerprint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Fingerprint of a folder or archive, from its directory alone: no picture is read.

    Returns:
        num, of pictures; bytes, of all; hashes of their names in order, and of their sizes, in a zip with checksums.

    Raises:
        PictureError: It can't be read.
    """
    source = PictureSource(path)
    try:
        return of_source(source)
    finally:
        source.close()


def of_source(source: PictureSource) -> dict[str, Any]:
    """As ``fingerprint``, of what is open already."""
    try:
        return dict(num=len(source), bytes=sum(map(source.size, source.names)), names=_hash(source.names),
                    contents=_hash(map(source.files.contents, source.names)))
    except UNREADABLE as err:
        raise PictureError(f"{source.path}: not readable: {err}") from err


def compare(path: str, before: Mapping[str, Any] | None, may_change: bool, where: str, remedy: str = REMEDY
            ) -> tuple[dict[str, Any], bool]:
    """Fingerprint of pictures or masks, and whether it is another than before, which a warning says.

    Raises:
        CheckpointError: They can't be read, which names `where`; or are others and must not be, with the remedy.
    """
    try:
        now = fingerprint(path)
    except PictureError as err:
        raise CheckpointError(f"{where}: {err}") from err
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
    return None


def _hash(words: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for word in words:
        digest.update(word.encode(errors="surrogatepass") + b"\0")
    return digest.hexdigest()[:16]
