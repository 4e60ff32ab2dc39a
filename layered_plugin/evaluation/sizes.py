"""Scores by the object's size (`by_size` of ``MaskEvaluation.result``): names, bounds, several models as one."""

from collections.abc import Mapping, Sequence
from typing import Any

from layered_plugin.evaluation.metrics import mean_and_deviation

BySize = Sequence[Mapping[str, Any]]


def size_name(entry: Mapping[str, Any]) -> str:
    """Which objects an entry of `by_size` is of, in words."""
    low, high = (f"{100 * entry[bound]:g}" for bound in ("low", "high"))
    if entry["low"] == 0:
        return f"below {high} %"
    return f"{low} % and more" if entry["high"] == 1 else f"{low} to {high} %"


def size_bounds(by_size: BySize) -> list[float]:
    """The shares that part the pictures."""
    return [entry["low"] for entry in by_size[1:]]


def sizes_over(models: Sequence[BySize]) -> list[dict[str, Any]]:
    """`by_size` of several models, scored on the same pictures, as one.

    Returns:
        `low`, `high` and `num` as in each; `iou` is `mean` and `deviation` over the models, None where there are no
        pictures.
    """
    return [dict(low=bins[0]["low"], high=bins[0]["high"], num=bins[0]["num"], iou=mean_and_deviation(bins).get("iou"))
            for bins in zip(*models, strict=True)]
