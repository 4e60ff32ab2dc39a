"""What the commands share: how they show help, which devices they offer, and errors in one line."""

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from layered_plugin.errors import ArgumentError, UserError, lack_of_memory, one_line, with_options
from layered_plugin.files import NAME_BYTES, NO_ROOM

SETTINGS = dict(show_default=True, max_content_width=100)

DEVICES = click.Choice(["auto", "cpu", "cuda", "mps"])

LARGEST = 10**9  # Of any number that has no bound of its own: beyond it are slips of the keyboard.

# Metavars of options that name files.
FILES = {"DIR", "ZIP", "RUN", "PKL", "FILE", "PT", "HTML", "NPZ", "PNG", "JSONL", "ONNX", "TAR", "PATH", "JSON"}


TAKE_MEMORY = {"--batch", "--jobs", "--workers"}  # Options whose value decides how much.


class Number(click.FloatRange):
    """A number within bounds; not NaN, not infinite, and of a size that means something."""

    def get_metavar(self, *_args: Any, **_kwargs: Any) -> str:
        return "FLOAT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not abs(number) <= LARGEST:
            self.fail(f"{str(value)[:20]!r} is no finite number up to {LARGEST:g}", param, ctx)
        return number


class Whole(click.IntRange):
    """A whole number within bounds, and of a size that means something."""

    def get_metavar(self, *_args: Any, **_kwargs: Any) -> str:
        return "INT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and len(value) > 30:  # Python itself refuses to read some thousand digits.
            self.fail(f"{value[:12]}... is no whole number up to {LARGEST}", param, ctx)
        number = super().convert(value, param, ctx)
        if (self.max is None and number > LARGEST) or (self.min is None and number < -LARGEST):
            self.fail(f"{number} is no whole number up to {LARGEST}", param, ctx)
        return number


SEED = Whole(0, 2**31 - 1)  # NumPy takes twice as many, of which restarts and self-training use some.


class CheckedCommand(click.Command):
    """Refuses texts that are empty or can't name a file, whatever the option, and says what takes less memory.

    Of files it knows `~`, which a shell leaves as it is in `--outdir=~/runs`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for param in self.params:
            given = ctx.params.get(str(param.name))
            for text in given if isinstance(given, tuple) else (given,):
                if isinstance(text, str):
                    _check_text(text, param, ctx)
            if _names_files(param) and given is not None:
                ctx.params[str(param.name)] = (tuple(map(_at_home, given)) if isinstance(given, tuple)
                                               else _at_home(given))
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (MemoryError, RuntimeError) as err:
            lack = lack_of_memory(err)
            if lack is None:
                raise
            smaller = " or ".join(option for param in self.params for option in param.opts if option in TAKE_MEMORY)
            raise click.ClickException(f"{lack}; a smaller {smaller} takes less" if smaller else lack) from err


class CheckedGroup(click.Group):
    """Commands in the order in which they are defined."""

    command_class = CheckedCommand

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _names_files(param: click.Parameter) -> bool:
    return not FILES.isdisjoint(re.split(r"\W", param.metavar or ""))


def _at_home(path: Any) -> Any:
    return os.path.expanduser(path) if isinstance(path, str) and re.match(r"~(/|$)", path) else path


def _check_text(text: str, param: click.Parameter, ctx: click.Context) -> None:
    if not text.strip():
        raise click.BadParameter("must not be empty", ctx, param)
    if "\0" in text:
        raise click.BadParameter("must not hold a NUL", ctx, param)
    if _names_files(param) and "://" not in text and (
            len(os.fsencode(text)) > 4000 or any(len(os.fsencode(part)) > NAME_BYTES for part in text.split("/"))):
        raise click.BadParameter(f"names of files have at most {NAME_BYTES} bytes, got {text[:20]!r}...", ctx, param)


def check_outside(outdir: str, option: str, pictures: str) -> None:
    """Refuse to write into the folder of pictures that a command reads; raises click.UsageError."""
    if Path(pictures).is_dir() and Path(outdir).resolve().is_relative_to(Path(pictures).resolve()):
        raise click.UsageError(f"--outdir={outdir} lies in {option}={pictures}, where its files would be taken for "
                               "pictures by the next call; choose another folder")


Command = Callable[..., Any]


def several_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Options that several commands share, as one decorator, in the order of the help."""
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command
    return add


@contextmanager
def user_errors(options: Mapping[type[UserError], str] | None = None) -> Iterator[None]:
    """Say in one line, without a traceback, what a user can mend; as decorator of a command, or around a part of it.

    Args:
        options: What to put in front of an error of each kind: the option that the file is from.

    Raises:
        click.UsageError: In place of an ArgumentError, with the command's option for each argument named.
        click.ClickException: In place of any other UserError, and of an OSError.
    """
    try:
        yield
    except ArgumentError as err:
        raise click.UsageError(with_options(str(err), _own_options())) from err
    except UserError as err:
        option = next((name for kind, name in (options or {}).items() if isinstance(err, kind)), None)
        text = one_line(with_options(str(err), _own_options()))
        raise click.ClickException(text if option is None else f"{option}: {text}") from err
    except OSError as err:
        raise click.ClickException(f"{err}{_remedy(err)}") from err


def _remedy(err: OSError) -> str:
    if err.errno == errno.ENOENT and err.filename is None:  # Of no file, but of the folder that relative paths are in.
        return "; the current folder was removed: change to another"
    return "; make room, and give the same command again" if err.errno in NO_ROOM else ""


def _own_options() -> dict[str, str]:
    """Option of each parameter of the command that runs."""
    ctx = click.get_current_context(silent=True)
    return {} if ctx is None else {str(param.name): param.opts[0] for param in ctx.command.params}


@contextmanager
def writing(option: str, path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Say in one line that what an option names can't be written.

    Args:
        option: One, or several with commas.
        path: What it names; None = the error knows better.

    Raises:
        click.ClickException: In place of an OSError.
    """
    try:
        yield
    except OSError as err:
        text = f"can't be written: {err}" if path is None else f"can't write to {path}: {err.strerror or err}"
        raise click.ClickException(f"{option}: {text}{_remedy(err)}") from err
