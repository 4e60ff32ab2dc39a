"""Labels of training pictures: upstream's dataset.json, or classes as WebDataset has them.

That of `a/b.jpg` stands in `a/b.cls`, or as a whole number under `label` or `cls` in `a/b.json`. What else there is in
a .json plays no part; without such a number in that of the first picture there are no labels.
"""

from typing import Any

import numpy as np

from layered_plugin.data.files import UNREADABLE
from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import PictureError, raising
from layered_plugin.json_files import parse_json

KEYS = ("label", "cls")  # Of a class in .json, the first that is there.
MAX_CLASSES = 100_000  # A label is as long as there are classes.


def read_labels(source: PictureSource) -> np.ndarray | None:
    """Labels in the order of the pictures: classes [N], int64, or numbers [N, C], float32; None if there are none.

    PictureError, with file or picture, if they are damaged, of no use, or not there for each picture.
    """
    try:
        text = source.read("dataset.json")
    except (KeyError, FileNotFoundError):
        return _read_classes(source)
    except UNREADABLE as err:
        raise PictureError(f"{source.path}: dataset.json: damaged: {err}") from err
    content = parse_json(text, f"{source.path}: dataset.json", PictureError)
    with raising(PictureError, f"{source.path}: dataset.json: damaged", ValueError, TypeError, AttributeError):
        labels = content.get("labels")
        if labels is None:
            return None
        by_name = dict(labels)
    missing = [name for name in source.names if name not in by_name]
    if missing:
        raise PictureError(f"{source.path}: dataset.json: has labels but none for {missing[0]}")
    return _check([by_name[name] for name in source.names], f"{source.path}: dataset.json")


def _read_classes(source: PictureSource) -> np.ndarray | None:
    """Of .cls beside each picture, else of .json; the first picture says which, and under which key."""
    for suffix in (".cls", ".json"):
        content = _read_beside(source, source.names[0], suffix)
        if content is None:
            continue
        key = None
        if suffix == ".json":  # It may hold other things, such as captions.
            first = parse_json(content, f"{source.path}: {_beside(source.names[0], suffix)}", PictureError)
            key = next((key for key in KEYS if isinstance(first, dict) and type(first.get(key)) is int), None)
            if key is None:
                continue
        return _check([_class(source, name, suffix, key) for name in source.names], f"{source.path}: {suffix}")
    return None


def _class(source: PictureSource, name: str, suffix: str, key: str | None) -> int:
    content, where = _read_beside(source, name, suffix), f"{source.path}: {_beside(name, suffix)}"
    if content is None:
        raise PictureError(f"{source.path}: has classes in {suffix} but none for {name}")
    if key is None:
        with raising(PictureError, f"{where}: no class number", ValueError):
            return int(content)
    data = parse_json(content, where, PictureError)
    value = data.get(key) if isinstance(data, dict) else None
    if type(value) is not int:
        raise PictureError(f"{where}: no class number under {key}")
    return value


def _read_beside(source: PictureSource, name: str, suffix: str) -> bytes | None:
    """Contents of the file beside a picture; None if there is none."""
    try:
        return source.read(_beside(name, suffix))
    except (KeyError, FileNotFoundError):
        return None
    except UNREADABLE as err:
        raise PictureError(f"{source.path}: {_beside(name, suffix)}: not readable: {err}") from err


def _beside(name: str, suffix: str) -> str:
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.split('.')[0]}{suffix}"  # What stands behind the first dot is no part of the key.


def _check(labels: list[Any], where: str) -> np.ndarray:
    rule = "labels must be class indices from 0 on, or lists of numbers, all of one length"
    try:
        values = np.array(labels)
        if values.ndim == 1 and values.dtype.kind != "i":  # Of true, 1.5 and "1" no class can be made.
            raise ValueError(values.dtype)
        values = values.astype({1: np.int64, 2: np.float32}[values.ndim])
    except (ValueError, TypeError, KeyError, OverflowError) as err:
        raise PictureError(f"{where}: {rule}") from err
    if not np.isfinite(values).all() or (values.ndim == 1 and values.min() < 0):
        raise PictureError(f"{where}: {rule}")
    if max(values.max() + 1 if values.ndim == 1 else 0, *values.shape[1:], 0) > MAX_CLASSES:
        raise PictureError(f"{where}: more than {MAX_CLASSES} classes, or numbers in a label")
    return values
