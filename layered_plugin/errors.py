"""What a user can mend, as exceptions: the text says what is wrong with which argument or file.

The commands show the text alone. Any other exception is a mistake of the program, and keeps its traceback.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class UserError(Exception):
    """The base of all; each kind below is one that some code tells from the others.

    A text writes arguments between backticks; the commands put their options in the place (``with_options``).
    """


class ArgumentError(UserError, ValueError):
    """An argument's value is of no use here, or does not fit another's; the text names it."""


class BaseError(UserError, ImportError):
    """The chosen base cannot be used; the text says which folder, why, and what to do."""


class CheckpointError(UserError):
    """A run folder, checkpoint or network cannot be used; the text names it."""


class ModelError(UserError):
    """A model trained on top of a generator can't be used; the text names its file."""


class PictureError(UserError):
    """A data set or one of its pictures cannot be read; the text names the file."""


class LostReaderError(PictureError):
    """A process that reads pictures was killed; the text names the option."""


class MaskError(UserError):
    """Masks of a data set can't be read, or do not belong to its pictures; the text names the file."""


class TeacherError(MaskError):
    """A teacher can't be had, or has no truth for these pictures; the text names the file or the class."""


class FidelityError(UserError):
    """FID and KID can't be computed; the text names the file or package wanted."""


class MissingLibraryError(UserError, ImportError):
    """An optional library is missing; the text names the extra that brings it."""


class DiskFullError(UserError):
    """There is no room for a file; the text names it, its folder and how much is needed."""


class CollapsedError(UserError):
    """The layers have collapsed for good; the text names the findings and the remedy."""


class ImpossibleRecipeError(UserError):
    """No picture with large enough objects came out."""


class CrowdedError(UserError):
    """There is no room for so many objects of this size."""


class UnusableError(UserError):
    """Reason why a file cannot serve."""


def one_line(error: BaseException | str, width: int = 1000) -> str:
    """Text of an error of whatever kind as one line, cut to a width; of one without text, its kind."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= width else f"{text[:width - 4]} ..."


@contextmanager
def raising(kind: type[Exception], what: str, *caught: type[BaseException], width: int | None = None) -> Iterator[None]:
    """Turn errors into one that a user can mend: what is wrong with which argument or file, a colon, and their text.

    Args:
        kind: Of the error to raise.
        what: What is wrong.
        caught: Kinds of the errors that are turned.
        width: Of their text, made one line; None = as it is.
    """
    try:
        yield
    except caught as err:
        raise kind(f"{what}: {err if width is None else one_line(err, width)}") from err


def lack_of_memory(error: BaseException) -> str | None:
    """What an error says of memory that could not be had, on any device; None if it is about something else."""
    text = str(error)
    if not isinstance(error, MemoryError) and not re.search("out of memory|can't allocate memory|std::bad_alloc", text):
        return None
    asked = re.search(r"allocate ([0-9.]+ ?[A-Za-z]+)", text)
    return "out of memory" + (f": {asked[1]} more can't be had" if asked else "")


def with_options(text: str, options: Mapping[str, str] | None = None) -> str:
    """A text with the options of a command in place of arguments: `batch_gpu` becomes --batch-gpu.

    `options` are those that are not named after their argument.
    """
    named = options or {}
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda match: named.get(match[1], "--" + match[1].replace("_", "-")), text)
