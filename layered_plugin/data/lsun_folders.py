"""LSUN databases and folders of classes, as downloaded."""

import contextlib
import difflib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from layered_plugin.data.downloads import Archive, Entry, decode_bytes
from layered_plugin.data.files import UNREADABLE, is_picture_name
from layered_plugin.errors import MissingLibraryError, PictureError


@contextlib.contextmanager
def lsun(source: Path, num: int, temp_dir: Path) -> Iterator[tuple[int, Iterator[Entry]]]:
    """The first pictures of a category of LSUN, in the order of the database.

    Args:
        source: Folder with data.mdb, or the zip that holds it, which is unpacked for as long as it is read.
        num: Number of entries, at most.
        temp_dir: Where a zip is unpacked.

    Yields:
        Number of entries, and the entries.

    Raises:
        PictureError: It is neither, or damaged.
        MissingLibraryError: The lmdb library is not installed.
    """
    try:
        import lmdb
    except ImportError as err:
        raise MissingLibraryError(f"LSUN needs the lmdb library: pip install 'layered-plugin[lsun]' ({err})") from err

    with contextlib.ExitStack() as stack:
        folder = source
        if not source.is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=temp_dir)))
            _unpack_lmdb(source, str(folder))
        files = sorted(folder.rglob("data.mdb"))
        if len(files) != 1:
            raise PictureError(f"{source}: must hold one data.mdb, but holds {len(files)}; give the folder of one "
                               "category, as unpacked from LSUN's zip")
        try:
            env = stack.enter_context(lmdb.open(str(files[0].parent), readonly=True, lock=False, readahead=False))
            # Reading past the end of the file would kill the process. The last pages may lawfully be unwritten.
            size, whole = files[0].stat().st_size, (env.info()["last_pgno"] + 1) * env.stat()["psize"]
            if size < 0.99 * whole:
                raise PictureError(f"{source}: data.mdb is cut off at {size} of {whole} bytes; download it again")
            total = min(num, env.stat()["entries"])
            if total == 0:
                raise PictureError(f"{source}: the database is empty")
            cursor = stack.enter_context(env.begin()).cursor()
            yield total, (_lsun_entry(key, value) for _, (key, value) in zip(range(total), cursor, strict=False))
        except lmdb.Error as err:
            raise PictureError(f"{source}: data.mdb cannot be read ({err}); download it again") from err


def _lsun_entry(key: bytes, value: bytes) -> Entry:
    name = key.decode("ascii", "backslashreplace")
    return Entry(name, lambda: (decode_bytes(value, name, upright=True), None))


def _unpack_lmdb(source: Path, folder: str) -> None:
    """Unpack every data.mdb of a zip into a folder."""
    try:
        with zipfile.ZipFile(source) as archive:
            databases = [info for info in archive.infolist() if info.filename.split("/")[-1] == "data.mdb"]
            size, free = sum(info.file_size for info in databases), shutil.disk_usage(folder).free
            if size > free:
                raise PictureError(f"{source}: unpacking takes {size >> 20} MB in {Path(folder).parent}, where "
                                   f"{free >> 20} MB are free; unpack it elsewhere and give the folder")
            for info in databases:
                archive.extract(info, folder)
    except UNREADABLE as err:
        raise PictureError(f"{source}: neither a folder with data.mdb nor a whole zip of one ({err})") from err


def class_folders(archive: Archive, wanted: Sequence[str] = ()) -> tuple[list[str], list[Entry]]:
    """Pictures of a tree with a folder for each class, sorted by class and name.

    Folders that hold all the classes are passed through.

    Args:
        archive: Folder or archive.
        wanted: Classes to take, each a name or several with commas; none = all.

    Returns:
        Names of the classes taken, in their order, and the entries, labelled by the place in it. A single wanted class
        is unlabelled.

    Raises:
        PictureError: There are no class folders, or not these.
    """
    paths = [(name.split("/"), name) for name in archive.names if is_picture_name(name)]
    while paths and len({parts[0] for parts, _ in paths}) == 1 and all(len(parts) > 2 for parts, _ in paths):
        paths = [(parts[1:], name) for parts, name in paths]
    loose = [name for parts, name in paths if len(parts) < 2]
    if loose or not paths:
        raise PictureError(f"{archive.path}: " + (f"{loose[0]} lies in no class folder; train_layered.py --data takes "
                           "pictures without classes as they are" if loose else "holds no pictures"))
    available = {parts[0] for parts, _ in paths}
    classes = sorted(_choose_classes(archive, available, wanted) if wanted else available)
    numbers = {name: None if wanted and len(classes) == 1 else number for number, name in enumerate(classes)}
    ordered = sorted(paths, key=lambda path: (path[0][0], path[1]))
    return classes, [_plain_entry(archive, name, numbers[parts[0]]) for parts, name in ordered if parts[0] in numbers]


def _choose_classes(archive: Archive, available: set[str], wanted: Sequence[str]) -> set[str]:
    """The classes that a user named, one by one or with commas; a name may hold a comma of its own."""
    names = [name for text in wanted for name in ([text] if text in available else text.split(","))]
    for name in names:
        if name not in available:
            near = difflib.get_close_matches(name, sorted(available)) or sorted(available)[:5]
            raise PictureError(f"{archive.path}: has no class {name!r}; there are {len(available)}, such as "
                               + ", ".join(near))
    return set(names)


def _plain_entry(archive: Archive, name: str, label: int | None) -> Entry:
    return Entry(name, lambda: (decode_bytes(archive.read(name), name, upright=True), None), label)
