"""JSON that anyone may have changed: read within bounds, and checked field by field; errors name file and key.

A rule takes a value and the name of its place, and returns the value; ``fields`` also adds what is missing.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from layered_plugin.errors import CheckpointError, UserError

MAX_BYTES = 64 << 20  # Of what a command writes about a run.
MAX_NUMBER = 10**12  # Of what has no bound of its own.

Rule = Callable[[Any, str], Any]


class _MismatchError(Exception):
    """Which key breaks which rule."""


def parse_json(content: bytes | str, where: str | os.PathLike[str], kind: type[UserError] = CheckpointError) -> Any:
    """A value from JSON text.

    Args:
        content: UTF-8 or text.
        where: Name of the file, for errors.
        kind: Of the error.

    Raises:
        UserError: Of this kind: it is no JSON, holds NaN or infinity, or is nested too deep.
    """
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(content, parse_constant=refuse)
    except RecursionError:
        raise kind(f"{where}: damaged: nested too deep") from None
    except ValueError as err:
        raise kind(f"{where}: damaged: {err}") from err


def read_json(path: str | os.PathLike[str], kind: type[UserError] = CheckpointError) -> dict[str, Any]:
    """An object from a JSON file.

    UserError of this kind if the file is missing, larger than ``MAX_BYTES``, no JSON, or holds no object.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise kind(f"{path}: not readable: {size} bytes, where at most {MAX_BYTES} are expected")
        content = path.read_bytes()
    except OSError as err:
        raise kind(f"{path}: not readable: {err.strerror or err}") from err
    data = parse_json(content, path, kind)
    if not isinstance(data, dict):
        raise kind(f"{path}: damaged: holds no JSON object")
    return data


def check_fields(data: Any, rule: Rule, where: str | os.PathLike[str], kind: type[UserError] = CheckpointError) -> Any:
    """What a rule makes of the contents of a file; UserError of this kind, with file and key, if they break it."""
    try:
        return rule(data, "")
    except _MismatchError as err:
        raise kind(f"{where}: {err}") from None


def number(low: float = -MAX_NUMBER, high: float = MAX_NUMBER, whole: bool = False) -> Rule:
    """A number within bounds; true and false are none."""
    kinds = (int,) if whole else (int, float)

    def rule(value: Any, key: str) -> Any:
        if type(value) not in kinds or not low <= value <= high:  # Both are finite; of NaN no comparison is true.
            bounds = f" from {low:g} to {high:g}" if high < MAX_NUMBER else f" of at least {low:g}"
            described = ("a whole number" if whole else "a number") + (bounds if low > -MAX_NUMBER else "")
            raise _wrong(key, described, value)
        return value
    return rule


def flag(value: Any, key: str) -> Any:
    """True or false."""
    if not isinstance(value, bool):
        raise _wrong(key, "true or false", value)
    return value


def text(value: Any, key: str) -> Any:
    """Text that is not empty."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise _wrong(key, "text", value)
    return value


def anything(value: Any, key: str) -> Any:
    """An object with any keys, for others to check."""
    if not isinstance(value, dict):
        raise _wrong(key, "an object", value)
    return value


def choice(*values: str) -> Rule:
    """One of some texts."""
    def rule(value: Any, key: str) -> Any:
        if not isinstance(value, str) or value not in values:
            raise _wrong(key, f"among {', '.join(values)}", value)
        return value
    return rule


def maybe(rule: Rule) -> Rule:
    """Null, or what another rule takes."""
    return lambda value, key: None if value is None else rule(value, key)


def list_of(rule: Rule, sizes: Collection[int] | None = None) -> Rule:
    """A list, of one of some lengths, whose entries all follow another rule."""
    def list_rule(value: Any, key: str) -> Any:
        if not isinstance(value, list) or (sizes is not None and len(value) not in sizes):
            length = "" if sizes is None else f" of {' or '.join(map(str, sizes))}"
            raise _wrong(key, f"a list{length}", value)
        return [rule(entry, f"{key}[{idx}]") for idx, entry in enumerate(value)]
    return list_rule


def either(plain: Rule, listed: Rule) -> Rule:
    """A list by one rule, anything else by another."""
    return lambda value, key: listed(value, key) if isinstance(value, list) else plain(value, key)


def fields(required: Mapping[str, Rule], optional: Mapping[str, tuple[Rule, Any] | Rule] | None = None,
           others: bool = False) -> Rule:
    """An object with these keys and, but for `others`, no others.

    Args:
        required: Rules of keys that must be there.
        optional: Rules of keys that an older version may not have written; with a default, or left out.
        others: May there be any other keys? They stay as they are.
    """
    more = optional or {}
    defaults = {name: entry[1] for name, entry in more.items() if isinstance(entry, tuple)}
    rules = {**{name: entry[0] if isinstance(entry, tuple) else entry for name, entry in more.items()}, **required}

    def rule(value: Any, key: str) -> Any:
        anything(value, key)
        path = f"{key}." if key else ""
        unknown = [name for name in value if name not in rules]
        if unknown and not others:
            raise _MismatchError(f"unknown key {path}{unknown[0][:80]}; was it written by a later version?")
        missing = [name for name in required if name not in value]
        if missing:
            raise _MismatchError(f"damaged: has no {path}{missing[0]}")
        checked = {name: rules[name](entry, path + name) for name, entry in value.items() if name in rules}
        return defaults | {name: value[name] for name in unknown} | checked
    return rule


def by_class(classes: Mapping[str, Rule]) -> Rule:
    """Arguments of one of some classes, named by class_name; no other class is ever looked up."""
    def rule(value: Any, key: str) -> Any:
        name = choice(*classes)(anything(value, key).get("class_name"), f"{key}.class_name")
        arguments = {other: entry for other, entry in value.items() if other != "class_name"}
        return dict(class_name=name, **classes[name](arguments, key))
    return rule


def _wrong(key: str, what: str, value: Any) -> _MismatchError:
    shown = json.dumps(value, default=str)
    return _MismatchError(f"damaged: {key or 'the file'} must be {what}, got "
                          f"{shown if len(shown) <= 60 else shown[:57] + '...'}")
