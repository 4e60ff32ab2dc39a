"""Command lines in the documentation, and whether the commands' own parsers accept them."""

import importlib
import re
import shlex

import click

NAME = r"(\w+\.py|-m (?:layered_plugin|benchmarks)\.[\w.]+)"


def find_examples(text: str) -> list[tuple[str, list[str]]]:
    """Every call of a script or module of the project in a text: its name, such as `invert.py`, and its arguments.

    Lines may be continued with a backslash; comments, redirections and closing backticks end them. Arrays and functions
    of the shell that the text defines are put in where it uses them.
    """
    text = _put_in_functions(_put_in_arrays(re.sub(r"\s*\\\n\s*", " ", text)))
    found = re.findall(rf"(?:python3?|torchrun [^`\n]*?) {NAME}((?: [^`\n]*)?)", text)
    return [(name, shlex.split(re.split(r" [>|] ", args)[0], comments=True)) for name, args in found]


def _put_in_arrays(text: str) -> str:
    """Replace each `"${name[@]}"` by what stands between `name=(` and `)` lines above it."""
    for name, body in re.findall(r"^(\w+)=\(\n(.*?)^\)$", text, re.MULTILINE | re.DOTALL):
        for inner, content in re.findall(r"^(\w+)=\(\n(.*?)^\)$", text, re.MULTILINE | re.DOTALL):
            body = body.replace(f'"${{{inner}[@]}}"', " ".join(content.split()))
        text = text.replace(f'"${{{name}[@]}}"', " ".join(body.split()))
    return text


def _put_in_functions(text: str) -> str:
    """Replace each call of a function that is defined between `name() {` and `}` lines by its body, and drop that."""
    for name, body in re.findall(r"^(\w+)\(\) \{\n(.*?)^\}$", text, re.MULTILINE | re.DOTALL):
        text = text.replace(f"{name}() {{\n{body}}}", "")

        def called(match: re.Match[str], body: str = body) -> str:
            for number, value in enumerate(match[1].split(), start=1):
                body = body.replace(f"${number}", value)
            return body

        text = re.sub(rf"^{name} ([^\n`]+)$", called, text, flags=re.MULTILINE)
    return text


def find_command(name: str) -> click.Command:
    """The click command behind `script.py` or `-m package.module`."""
    return importlib.import_module(name.removeprefix("-m ").removesuffix(".py")).main


def parse(command: click.Command, args: list[str]) -> None:
    """Let the command read its arguments without doing anything.

    Raises:
        click.UsageError: It does not take them.
    """
    if isinstance(command, click.Group):
        _name, subcommand, args = command.resolve_command(click.Context(command), args)
        return parse(subcommand, args)
    try:
        command.make_context(command.name, list(args))
    except click.exceptions.Exit:  # --help and its like.
        pass
    return None


def help_texts(command: click.Command) -> list[str]:
    """Docstrings of a command and its subcommands."""
    commands = [command, *getattr(command, "commands", {}).values()]
    return [one.callback.__doc__ for one in commands]


def check_options(command: click.Command, shown: str) -> None:
    """Assert that each option is in the help shown, and explained in a few words."""
    for param in command.params:
        if isinstance(param, click.Option):
            explained = param.help.split("  [")[0] if param.help else ""
            assert param.opts[0] in shown and 0 < len(explained) <= 45 and not explained.endswith("."), param.name
