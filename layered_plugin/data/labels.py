"""Labels for the scenes of a conditional generator: drawn as in its training where that data set is at hand."""

import sys
from collections.abc import Mapping
from typing import Any

import dnnlib
import numpy as np
import torch
from torch.nn import functional as F

# What a network's own description of its data set may construct: no other class is ever looked up.
DATA_SETS = ("layered_plugin.data.dataset.PictureDataset", "training.dataset.ImageFolderDataset")


class Labels:
    """Source of conditioning labels.

    Args:
        c_dim: Length of a label, 0 = an unconditional generator.
        dataset: Data set whose pictures' labels are drawn; None = one-hot labels, every class equally likely.

    Raises:
        ValueError: The data set's labels are of another length.
    """

    def __init__(self, c_dim: int, dataset: Any = None):
        if dataset is not None and dataset.label_shape != [c_dim]:
            raise ValueError(f"Expected labels of length {c_dim}, but got {dataset.label_shape}")
        self.c_dim, self.dataset = c_dim, dataset

    def draw(self, num: int, generator: torch.Generator) -> torch.Tensor:
        """Draw labels, [num, c_dim], float32, by a generator on the CPU, which is not used without labels."""
        if self.c_dim == 0:
            return torch.zeros(num, 0)
        if self.dataset is None:
            return F.one_hot(torch.randint(self.c_dim, [num], generator=generator), self.c_dim).float()
        chosen = torch.randint(len(self.dataset), [num], generator=generator).tolist()
        return torch.from_numpy(np.stack([self.dataset.get_label(idx) for idx in chosen]))


def labels_of_training(training_set_kwargs: Mapping[str, Any] | None, c_dim: int) -> Labels:
    """Labels as a generator saw them in its training.

    Args:
        training_set_kwargs: What its snapshot says of its data set, class_name included; None = nothing.
        c_dim: Of the generator.

    Returns:
        Labels of that data set. If it can't be read any more, or its labels don't fit, every class is equally likely,
        and a line on stderr says so.
    """
    if c_dim == 0:
        return Labels(0)
    try:
        if not training_set_kwargs:
            raise ValueError("the network does not name its data set")
        if training_set_kwargs.get("class_name") not in DATA_SETS:
            raise ValueError(f"a data set of class {training_set_kwargs.get('class_name')} is not known here")
        return Labels(c_dim, dnnlib.util.construct_class_by_name(**training_set_kwargs))
    except Exception as err:  # A foreign network may name any class and any file.
        print(f"Labels: every class equally likely, for those of the training are not at hand: {err}", file=sys.stderr)
        return Labels(c_dim)
