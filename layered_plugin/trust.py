"""Which pickles may be loaded: loading one runs its code, so a file's word alone is not enough.

A list of this user on this machine keeps the SHA-256 of pickles that trainings wrote here, or that were loaded because
a command line named them. A run that is resumed loads what its files name only if it is in the list.
"""

import hashlib
import os
import sys
from pathlib import Path

import dnnlib

from layered_plugin.errors import CheckpointError, raising

GENERATOR_FILE = "generator.json"  # Of networks without code (``model/weights_file.py``).

_seen: set[str] = set()  # Of this process; the list may not be writable.


def ledger() -> Path:
    """The list: one hash a line, in the folder of the user's state (XDG_STATE_HOME)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "layered-plugin" / "pickles.sha256"


def pickle_hash(file_or_url: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, of what a URL gives, or of networks without code; CheckpointError if it can't be read."""
    digest = hashlib.sha256()
    files = sorted(Path(file_or_url).glob("generator.*")) if is_saved_generator(file_or_url) else [file_or_url]
    with raising(CheckpointError, f"{file_or_url}: not readable", OSError, ValueError):
        for name in files:
            with dnnlib.util.open_url(str(name)) as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def is_trusted(digest: str) -> bool:
    """Whether a pickle of this hash was made here, or loaded before."""
    if digest in _seen:
        return True
    try:
        return digest in ledger().read_text().split()
    except (OSError, ValueError, RuntimeError):  # No list, no right to read it, or no home.
        return False


def trust(digest: str) -> None:
    """Add a hash to the list."""
    if is_trusted(digest):
        return
    _seen.add(digest)
    try:
        ledger().parent.mkdir(parents=True, exist_ok=True)
        with open(ledger(), "a") as file:
            file.write(digest + "\n")
    except (OSError, RuntimeError):
        pass  # Then --trust-pickle is needed when a run is resumed.


def trust_named(file_or_url: str | os.PathLike[str]) -> str:
    """Trust a pickle that the user has named, and return its hash.

    Says once, on stderr, that loading it runs code, unless it was made here.
    """
    digest = pickle_hash(file_or_url)
    if not is_trusted(digest) and not is_saved_generator(file_or_url):
        print(f"NOTE: {file_or_url} was not made here, and loading a pickle runs its code", file=sys.stderr)
        trust(digest)
    return digest


def check_pickle(file_or_url: str, recorded: str | None, told: bool, where: str | os.PathLike[str]) -> None:
    """See that a pickle that a run's file names may be loaded.

    Args:
        file_or_url: The pickle, or networks without code; of a run folder the snapshot that is to be loaded.
        recorded: Its hash when the run began, None = the run is older than hashes.
        told: Has the user given --trust-pickle?
        where: The file that names it.

    Raises:
        CheckpointError: It is not what the run began with, or unknown here and the user has not vouched for it.
    """
    digest = pickle_hash(file_or_url)
    if recorded is not None and digest != recorded:
        raise CheckpointError(f"{file_or_url}: its contents have changed since the run of {where} began; put the file "
                              "back, or start a new run")
    if is_trusted(digest) or is_saved_generator(file_or_url):
        return
    if not told:
        raise CheckpointError(f"{where} names the pickle {file_or_url}, which was not made here, and loading a pickle "
                              "runs its code; give --trust-pickle if you know where it is from")
    trust(digest)


def is_saved_generator(path: str | os.PathLike[str]) -> bool:
    """Whether these are networks without code: a folder of ``weights_file.save_generator``."""
    return (Path(path) / GENERATOR_FILE).is_file()
