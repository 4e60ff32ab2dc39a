"""Guards of a training run: non-finite losses stop it, collapsed layers are noticed without labels.

The paper's losses have no upper bound on the mask and leave open which layer owns the object; see docs/training.md.
"""

import math
from collections.abc import Mapping
from typing import Any

from layered_plugin.errors import UserError

WARN_KIMG = 4  # Shorter than this is how every run begins.
PATIENCE_KIMG = 20  # A collapse this long does not recover; many runs pass a degenerate state before 20 kimg.

STRONGER_PENALTY = "a higher --gamma (wgan-gp: --gp-weight)"


def check_finite(stats: Mapping[str, Mapping[str, float]], phase: str, kimg: float) -> None:
    """Stop if a mean of the losses, {num, mean, std} by name, is not finite: UserError that names all such."""
    bad = [name for name, value in stats.items() if value["num"] > 0 and not math.isfinite(value["mean"])]
    if bad:
        raise UserError(f"{', '.join(bad)} not finite in phase {phase} at kimg {kimg:.1f}. Resume from the "
                        f"last training state, or start a new run with a lower --lr, {STRONGER_PENALTY} "
                        "or --precision=fp32.")


def find_collapse(stats: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What is wrong with the layers of a tick, by the statistics of ``loss.report_layers``; nothing of healthy ones.

    mask_variation may be missing.
    """
    def mean(name: str) -> float:
        return stats[f"Layers/{name}"]["mean"]

    findings = []
    if mean("all_bg") > 0.9:
        findings.append("the mask is empty: start a new run with a higher --mask-min or --mask-size-weight")
    elif mean("all_fg") > 0.9:
        findings.append("the mask covers everything: start a new run with another --seed, a lower --cbase or "
                        f"{STRONGER_PENALTY}")
    elif "Layers/mask_variation" in stats and mean("mask_variation") < 0.01:
        findings.append(f"the mask is the same for every z: start a new run with another --seed or {STRONGER_PENALTY}")
    elif mean("border") > mean("coverage"):
        findings.append("the mask is denser along the border than inside, so the objects are probably in the "
                        "background layer: start a new run with --mask-border-weight=1 --mask-size-weight=10, or "
                        "another --seed, and a --shift above 0")
    elif mean("center") < mean("coverage") / 2:
        findings.append("the mask leaves out the middle of the picture, so the objects are probably in the background "
                        "layer: start a new run with --mask-center-weight=10, or another --seed")
    if mean("difference") < 0.02:
        findings.append("foreground and background are the same picture: start a new run with another --seed and a "
                        "--shift above 0")
    return findings


class CollapseWatch:
    """Turn each tick's findings into one warning when they have lasted, and a verdict when they stay."""

    def __init__(self) -> None:
        self.since: dict[str, float] = {}
        self.warned: set[str] = set()

    def pack(self) -> dict[str, Any]:
        """What it remembers, as plain values."""
        return dict(since=dict(self.since), warned=sorted(self.warned))

    def unpack(self, saved: Mapping[str, Any]) -> None:
        """Remember what another one packed."""
        self.since, self.warned = dict(saved["since"]), set(saved["warned"])

    def update(self, stats: Mapping[str, Mapping[str, float]], kimg: float) -> tuple[list[str], list[str]]:
        """Take in a tick; findings to warn of now, once each time they come up, and those of ``PATIENCE_KIMG``."""
        self.since = {text: self.since.get(text, kimg) for text in find_collapse(stats)}
        self.warned &= self.since.keys()
        due = [text for text, begin in self.since.items() if kimg - begin >= WARN_KIMG and text not in self.warned]
        self.warned.update(due)
        return due, [text for text, begin in self.since.items() if kimg - begin >= PATIENCE_KIMG]
