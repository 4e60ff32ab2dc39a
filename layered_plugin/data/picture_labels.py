"""Labels of training pictures: upstream's dataset.json, or classes as WebDataset has them, `a/b.cls` of `a/b.jpg`."""

from typing import Any

import numpy as np

from layered_plugin.data.files import UNREADABLE
from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import PictureError
from layered_plugin.json_files import parse_json

MAX_CLASSES = 100_000  # A label is as long as there are classes.


def read_labels(source: PictureSource) -> np.ndarray | None:
    """Labels in the order of the pictures: classes [N], int64, or numbers [N, C], float32; None if there are none.

    Raises:
        PictureError: They are damaged, of no use, or not there for each picture; the text names file or picture.
    """
    try:
        text = source.read("dataset.json")
    except (KeyError, FileNotFoundError):
        return _read_classes(source)
    except UNREADABLE as err:
        raise PictureError(f"{source.path}: dataset.json: damaged: {err}") from err
    content = parse_json(text, f"{source.path}: dataset.json", PictureError)
    try:
        labels = content.get("labels")
        if labels is None:
            return None
        by_name = dict(labels)
    except (ValueError, TypeError, AttributeError) as err:
        raise PictureError(f"{source.path}: dataset.json: damaged: {err}") from err
    missing = [name for name in source.names if name not in by_name]
    if missing:
        raise PictureError(f"{source.path}: dataset.json: has labels but none for {missing[0]}")
    return _check([by_name[name] for name in source.names], f"{source.path}: dataset.json")


def _read_classes(source: PictureSource) -> np.ndarray | None:
    classes: list[int] = []
    for name in source.names:
        folder, slash, file = name.rpartition("/")
        path = f"{folder}{slash}{file.split('.')[0]}.cls"  # What stands behind the first dot is no part of the key.
        try:
            classes.append(int(source.read(path)))
        except (KeyError, FileNotFoundError):
            if not classes:
                return None
            raise PictureError(f"{source.path}: has classes in .cls but none for {name}") from None
        except UNREADABLE as err:
            raise PictureError(f"{source.path}: {path}: no class number, or not readable: {err}") from err
    return _check(classes, f"{source.path}: .cls")


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
