"""What the commands share: how they show help, which devices they offer, and errors in one line."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from layered_plugin.errors import ArgumentError, UserError, with_options
from layered_plugin.files import NO_ROOM

SETTINGS = dict(show_default=True, max_content_width=100)

DEVICES = click.Choice(["auto", "cpu", "cuda", "mps"])


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
        text = with_options(str(err), _own_options())
        raise click.ClickException(text if option is None else f"{option}: {text}") from err
    except OSError as err:
        raise click.ClickException(f"{err}{_remedy(err)}") from err


def _remedy(err: OSError) -> str:
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
