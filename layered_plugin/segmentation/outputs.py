"""Where results of segmented pictures go: files in a folder, a zip, or a tar in WebDataset's layout; their manifests.

A manifest has a line of JSON for each picture, written after the picture's files. In a folder it grows with every
picture, and what it lists is not done again. An archive and its manifest appear under their names when all is there,
so that one that was interrupted is made anew.
"""

import io
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import PIL.Image

from layered_plugin.data.mask_files import RESULTS
from layered_plugin.data.picture_zip import FIXED_TIME
from layered_plugin.data.tars import sample_key
from layered_plugin.errors import ArgumentError, PictureError
from layered_plugin.files import cut_torn_line, lock
from layered_plugin.runs import DOUBTFUL, MANIFEST

Entry = dict[str, Any]


def encode_png(picture: PIL.Image.Image) -> bytes:
    """A result as a file, written quickly: docs/scaling.md has bytes and time.

    Only runs of equal bytes are looked for: others are rare in photographs, and the search takes longer than it saves.
    """
    data = io.BytesIO()
    picture.save(data, format="png", compress_level=1, compress_type=zlib.Z_RLE)
    return data.getvalue()


def read_manifest(path: Path) -> Iterator[Entry]:
    """Entries of a manifest, one at a time; a last line that is not finished is passed over.

    Raises:
        PictureError: Another line is damaged.
    """
    if not path.is_file():
        return
    with path.open(errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                return
            try:
                entry = json.loads(line)
                if not isinstance(entry["name"], str):
                    raise ValueError(entry["name"])
                if "failed" not in entry:
                    entry["file"] = str(entry["file"])
            except (ValueError, KeyError, TypeError, RecursionError) as err:
                raise PictureError(f"{path}: line {number} is damaged; remove the file to start over") from err
            yield entry


def result_folder(outdir: Path, entry: Mapping[str, Any]) -> Path:
    """Where masks/, cutouts/ and so on of a picture are, by its entry in the manifest."""
    return outdir / DOUBTFUL if entry.get("doubtful") else outdir


def say_doubtful(outdir: str | os.PathLike[str]) -> str:
    """How many results of a folder are doubtful, for the end of a line; nothing if none are."""
    num = sum(bool(entry.get("doubtful")) for entry in read_manifest(Path(outdir) / MANIFEST))
    return f", {num} in {DOUBTFUL}/" if num else ""


class FolderOutput:
    """masks/NAME.png and so on, and a manifest that grows.

    Args:
        folder: Made if missing.
        manifest: Its file.

    Here as for archives, ArgumentError if another call is writing the same.
    """

    def __init__(self, folder: Path, manifest: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._manifest_name = folder, manifest.name
        self._manifest = _open_alone(manifest)
        cut_torn_line(manifest)  # An earlier call was killed while it wrote.

    def listed(self) -> Iterator[Entry]:
        """Entries of pictures whose results are there already."""
        for path in sorted(self._folder.glob("manifest*.jsonl")):  # Also of calls that share the work.
            yield from read_manifest(path)

    def written(self, entry: Entry) -> int:
        """When a picture's mask was written, in ns as ``stat`` has it; 0 if it is not there."""
        try:
            return os.stat(f"{result_folder(self._folder, entry)}/masks/{entry['file']}").st_mtime_ns
        except (OSError, ValueError):
            return 0

    def add(self, entry: Entry, parts: dict[str, bytes]) -> None:
        """Write the files of a picture, then its entry, which says as `file` where they are."""
        for kind, data in parts.items():
            path = result_folder(self._folder, entry) / kind / entry["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{self._manifest_name}.part")  # Others that share the folder have their own.
            try:
                partial.write_bytes(data)
                os.replace(partial, path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        self._manifest.write(_line(entry))
        self._manifest.flush()

    def fail(self, name: str, reason: str) -> None:
        """Note that there is no result for a picture; here the next call tries again."""

    def close(self) -> None:
        """All is there."""
        self._manifest.close()

    def abandon(self) -> None:
        """Not all is there: leave what the next call can go on with."""
        with suppress(OSError):  # What could not be written before is tried again.
            self._manifest.close()


class ArchiveOutput:
    """As FolderOutput, a zip with masks/NAME.png and so on, or a tar in WebDataset's layout, and a manifest beside it.

    In a tar, `a/car.jpg` becomes the sample `a/car`: a/car.mask.png, a/car.cutout.png, a/car.json. What stands behind
    the first dot of a file is its extension there, so a key's own dots are written %2E.

    Args:
        path: The archive, ending in .zip or .tar; its manifest has its name with .jsonl.
        of_whole: What the first line of the manifest says beside its picture, about all.
    """

    def __init__(self, path: Path, of_whole: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._manifest_path, self._of_whole = path, path.with_suffix(".jsonl"), of_whole
        self._partial = [path.with_name(f".{name}.part") for name in (path.name, self._manifest_path.name)]
        self._manifest = _open_alone(self._partial[1])
        self._manifest.truncate(0)
        self._file = self._partial[0].open("wb")
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED) if path.suffix == ".zip" else None
        self._tar = tarfile.open(fileobj=self._file, mode="w") if self._zip is None else None

    def listed(self) -> Iterator[Entry]:
        return iter(())

    def written(self, entry: Entry) -> int:
        """When a picture's results were written: none are there."""
        return 0

    def add(self, entry: Entry, parts: dict[str, bytes]) -> None:
        if self._tar is not None:
            key = sample_key(entry["file"].removesuffix(".png"))
            entry = dict(entry, file=key)
            parts = {RESULTS[kind]: data for kind, data in parts.items()} | dict(json=json.dumps(entry).encode())
            for extension, data in parts.items():
                member = tarfile.TarInfo(f"{key}.{extension}")  # Without time and owner: equal input, equal bytes.
                member.size = len(data)
                self._tar.addfile(member, io.BytesIO(data))
        if self._zip is not None:
            for kind, data in parts.items():
                name = (result_folder(Path(), entry) / kind / entry["file"]).as_posix()
                self._zip.writestr(zipfile.ZipInfo(name, FIXED_TIME), data)
        self._list(entry)

    def fail(self, name: str, reason: str) -> None:
        self._list(dict(name=name, failed=reason))

    def _list(self, entry: Entry) -> None:
        self._manifest.write(_line({**entry, **self._of_whole}))
        self._of_whole = {}

    def close(self) -> None:
        for archive in (self._zip, self._tar):
            if archive is not None:
                archive.close()
        for file in (self._file, self._manifest):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        os.replace(self._partial[0], self._path)
        os.replace(self._partial[1], self._manifest_path)  # Last: it says that the archive is whole.

    def abandon(self) -> None:
        for file in (self._zip, self._file, self._manifest):
            if file is not None:
                with suppress(OSError, ValueError):  # The last writes may fail as others did.
                    file.close()
        for partial in self._partial:
            partial.unlink(missing_ok=True)


def _open_alone(manifest: Path) -> IO[bytes]:
    """Open a manifest at its end; ArgumentError if another call is writing it: the same results, in the same place."""
    file = manifest.open("ab")
    if not lock(file):
        file.close()
        raise ArgumentError(f"`outdir`: another call is writing {manifest}; wait for its end, share the work by "
                            "`shard`, or choose another folder")
    return file


def join_manifests(paths: Iterable[Path], out: IO[bytes]) -> None:
    """Write manifests one behind the other."""
    for path in paths:
        for entry in read_manifest(path):
            out.write(_line(entry))


def _line(entry: Entry) -> bytes:
    return json.dumps(entry).encode() + b"\n"
