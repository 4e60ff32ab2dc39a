"""The paper's ablation study (section 4, Table 1 and Figure 3) as one command, on data that a laptop can hold.

Seven settings, each with several seeds, are trained with --cfg=demo and scored by a judge in Mask R-CNN's place. They
are the paper's: (a) its defaults, (b) no shift, (c) twice the shift, (d) background contrast jitter, (e) no random
crops, (f) five times the weight of the mask size, (g) one generator for all layers. What (a) is, the base, is said in
docs/training.md, "The ablation study".
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

from benchmarks.support.ablation_output import draw_figure, write_table
from benchmarks.support.judged_runs import NUM_SCENES, JudgedRun, judged_results
from benchmarks.support.provenance import provenance
from layered_plugin.command_line import Number, Whole, user_errors
from layered_plugin.errors import CheckpointError, TeacherError
from layered_plugin.grids import save_picture
from layered_plugin.training.presets import LAYERED

DEMO = LAYERED["demo"]
DEFAULTS: dict[str, Any] = {"shift": 0.125, "bg-jitter": 0, "crop": 1, "generator": "separate"}


class Base(NamedTuple):
    """Weights of the mask losses that all settings share; (f) multiplies the last by five, as the paper does."""

    border: float
    center: float
    size: float  # gamma_1


BASES = {"demo": Base(*(DEMO[f"mask_{name}_weight"] for name in Base._fields)), "paper-losses": Base(0, 0, 2)}
SETTINGS: dict[str, dict[str, Any]] = {  # What differs from (a).
    "a": {}, "b": {"shift": 0}, "c": {"shift": 0.25}, "d": {"bg-jitter": 0.3}, "e": {"crop": 0}, "f": {},
    "g": {"generator": "single"},
}
STUDY = {"outdir", "data", "cfg", "kimg", "seed", "resume", *(f"mask-{name}-weight" for name in Base._fields),
         *DEFAULTS}


def train_options(base: str, setting: str) -> list[str]:
    """Options of train_layered.py beside --cfg=demo, all that any setting changes among them.

    Args:
        base: Name out of ``BASES``.
        setting: Letter out of ``SETTINGS``.
    """
    weights = BASES[base]._replace(size=BASES[base].size * (5 if setting == "f" else 1))._asdict()
    options = {**{f"mask-{name}-weight": weight for name, weight in weights.items()}, **DEFAULTS, **SETTINGS[setting]}
    return [f"--{name}={value:g}" if isinstance(value, int | float) else f"--{name}={value}"
            for name, value in options.items()]


def check_settings(settings: str) -> str:
    """The letters of --settings, in the paper's order, each once.

    Raises:
        click.UsageError: One is unknown, or there are none.
    """
    unknown = [letter for letter in settings if letter not in SETTINGS]
    if unknown or not settings:
        raise click.UsageError(f"--settings must be letters from {''.join(SETTINGS)}, got {settings!r}")
    return "".join(letter for letter in SETTINGS if letter in settings)


def check_extra(options: tuple[str, ...]) -> None:
    """Refuse options that the study itself sets.

    Raises:
        click.UsageError: Naming the option.
    """
    for text in options:
        if not text.startswith("--") or "=" not in text:
            raise click.UsageError(f"--option must look like --NAME=VALUE, got {text!r}")
        if text[2:].split("=")[0] in STUDY:
            raise click.UsageError(f"--option: {text.split('=')[0]} is set by the study; leave it out")


@click.command(context_settings=dict(show_default=True, max_content_width=100))
@click.option("--data", help="Training pictures", metavar="ZIP|DIR", required=True)
@click.option("--masks", help="Their true masks, for scores alone", metavar="ZIP|DIR", required=True)
@click.option("--judge", help="Judge of `eval.py judge`", metavar="PT", required=True)
@click.option("--settings", help="Letters of the paper's Table 1", metavar="LETTERS", default="".join(SETTINGS))
@click.option("--seeds", help="Training seeds 0 to N - 1", metavar="N", type=Whole(1), default=3)
@click.option("--kimg", help="Length of each run", metavar="KIMG", type=Number(0, min_open=True),
              default=DEMO["kimg"])
@click.option("--base", help="Weights of the mask losses in (a)", type=click.Choice(list(BASES)), default="demo")
@click.option("--num", help="Scenes scored per run (paper: 10000)", metavar="INT", type=Whole(2),
              default=NUM_SCENES)
@click.option("--option", help="Further train_layered.py option; repeatable", metavar="--NAME=VALUE",
              multiple=True)
@click.option("--jobs", help="Runs at a time, one thread each", metavar="INT", type=Whole(1),
              default=os.cpu_count())
@click.option("--outdir", help="Where runs and results go", metavar="DIR", default="runs/ablation")
def main(data: str, masks: str, judge: str, settings: str, seeds: int, kimg: float, base: str, num: int,
         option: tuple[str, ...], jobs: int, outdir: str) -> None:
    """Train the paper's seven settings with several seeds, score their masks, write its Table 1 and Figure 3.

    Interrupted, the same command goes on: finished runs are kept, an unfinished one is resumed. --settings, --seeds
    and --jobs may change; for any other option choose another --outdir. Results are table1.md, table1.csv,
    table1.json and figure3.png in --outdir; the JSON is also standard output, everything else standard error.

    \b
    Examples:
    python -m benchmarks.ablation --data=data/plants-lit.zip --masks=data/plants-lit-masks.zip \\
        --judge=data/judge-plants-lit.pt --kimg=20
    python -m benchmarks.ablation --data=data/plants.zip --masks=data/plants-masks.zip --judge=data/judge-plants.pt \\
        --settings=ab --outdir=runs/ablation-plants

    \b
    # The paper's mask losses alone, networks with twice the channels.
    python -m benchmarks.ablation --data=data/plants-lit.zip --masks=data/plants-lit-masks.zip \\
        --judge=data/judge-plants-lit.pt --base=paper-losses --option=--cbase=1024 --option=--cmax=64 \\
        --outdir=runs/ablation-paper
    """
    letters = check_settings(settings)
    check_extra(option)
    out = Path(outdir)
    runs = [JudgedRun(letter, seed, data, kimg, (*train_options(base, letter), *option), judge, masks,
                      out / f"{letter}-seed{seed}", num) for seed in range(seeds) for letter in letters]
    results = sorted(judged_results(runs, jobs), key=lambda result: (result["setting"], result["train_seed"]))
    record = dict(base=base, weights=BASES[base]._asdict(), data=data, masks=masks, judge=judge, kimg=kimg, num=num,
                  options=list(option), **provenance("benchmarks.ablation"))
    with user_errors({TeacherError: "--judge", CheckpointError: "--outdir"}):
        record = write_table(results, record, out)
        save_picture(draw_figure(record["rows"], results, judge), out / "figure3.png")
    print((out / "table1.md").read_text(), file=sys.stderr)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
