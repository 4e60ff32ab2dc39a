"""One HTML file that shows what a run learnt and how well: pictures, curves, scores, commands; needs no network.

The work of ``eval.py report``. Every number is out of the files of the runs, or mean and deviation of such numbers
over runs that differ in the seed alone; what is missing is named, with the command that would make it.
"""

import json
import os
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from layered_plugin.calls import as_typed
from layered_plugin.errors import CheckpointError, UserError, raising
from layered_plugin.files import atomic_write
from layered_plugin.report import figures, reading, tables
from layered_plugin.report.facts import Fact, gan_facts, key_numbers, lead, model_facts, shown_options, title
from layered_plugin.report.reading import GanRun, ModelRecord
from layered_plugin.runs import FOUND, GAN_FILE, MODEL_FILES, complete_run, training_states


class Missing(NamedTuple):
    """What the report lacks, and the command that would make it."""

    what: str
    command: str


def write_report(run: str | os.PathLike[str], dest: str | os.PathLike[str] | None = None,
                 models: Sequence[str | os.PathLike[str]] = (),
                 segmented: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run.

    Args:
        run: Folder of train_layered.py, whose models beside it are found; or of a model, which names its network.
        dest: HTML file, whose folder is made; None = report.html in the run.
        models: Folders of further models.
        segmented: Output folder of ``invert.py segment``; None = the masks that a training found, if it did.

    Returns:
        The file written.

    Raises:
        UserError: A folder is none of these, a file is damaged, or the report can't be written.
    """
    run = _complete("RUN", run)
    page = render(collect(run, [_complete("`model`", model) for model in models], segmented))
    path = Path(dest) if dest is not None else run / "report.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(page.encode())
    except OSError as err:
        raise UserError(f"`dest`: can't write {path}: {err.strerror or err}") from err
    return path


def _complete(argument: str, path: str | os.PathLike[str]) -> Path:
    with raising(UserError, argument, CheckpointError):
        return complete_run(path)


def render(view: dict[str, Any]) -> str:
    """The page, with all text escaped."""
    env = jinja2.Environment(loader=jinja2.PackageLoader("layered_plugin.report", "."), autoescape=True,
                             undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return env.get_template("template.html").render(view)


def collect(run: Path, more: Sequence[Path], segmented: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Read everything that the page shows; arguments and errors as `write_report`."""
    gan, folders = _find_runs(run)
    if segmented is None and gan is not None and (gan.folder / FOUND).is_dir():
        segmented = gan.folder / FOUND
    known = {folder.resolve(): folder for folder in [*folders, *more]}
    models = [reading.read_model_run(folder) for folder in known.values()]
    generated = tables.read_generated(gan.folder) if gan else []
    real = [tables.read_real(model) for model in models]
    siblings = reading.find_siblings(gan.folder) if gan else []
    generated_too = [record for folder in siblings for record in tables.read_generated(folder)]
    real_too = [record for folder in siblings for model in reading.find_model_runs(folder)
                if model.resolve() not in known for record in tables.read_real(reading.read_model_run(model))]
    records = real_too + [record for part in real for record in part]
    of_network = [record for model, part in zip(models, real, strict=True) for record in part
                  if gan is None or reading.is_of_run(model.about["options"].get("network"), gan.folder)]
    over_time = figures.layers_over_time(gan.folder) if gan else []
    return dict(
        title=title(gan, models), run=str(run), lead=lead(gan) if gan else "",
        cards=key_numbers(gan, generated, of_network), warnings=gan.warnings if gan else [],
        layers=over_time[-1] if over_time else None, over_time=over_time,
        charts=figures.gan_charts(gan) if gan else [], facts=gan_facts(gan) if gan else [],
        config=json.dumps(shown_options(gan), indent=2) if gan else "",
        models=[_model_view(model, gan, scores) for model, scores in zip(models, real, strict=True)],
        segmented=figures.read_segmented(Path(segmented)) if segmented is not None else None,
        tables=[("Generated scenes", tables.generated_tables(generated_too + generated)),
                ("Real pictures", tables.real_tables(records))],
        commands=_commands(gan, models, generated_too + generated, records),
        missing=_missing(gan, run, models, generated, segmented),
        made=datetime.now(timezone.utc).date().isoformat())


def _find_runs(run: Path) -> tuple[GanRun | None, list[Path]]:
    """The training run and the models that a run folder stands for."""
    if (run / GAN_FILE).is_file():
        return reading.read_gan_run(run), reading.find_model_runs(run)
    if not any((run / name).is_file() for name in MODEL_FILES):
        raise UserError(f"RUN: {run} is no run folder of train_layered.py or invert.py: it holds no {GAN_FILE} and "
                          "no model.json")
    network = reading.read_model_run(run).about["options"].get("network") or ""
    parent = run.absolute().parent
    places = [Path(network), Path(network).parent, parent / Path(network).parent.name, parent / Path(network).name]
    gan = next(filter(reading.is_gan_run, places), None) if network else None
    return (reading.read_gan_run(gan) if gan else None), [run]


def _model_view(model: ModelRecord, gan: GanRun | None, scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the page shows of a model."""
    opts = model.about["options"]
    notes, missing = [], []
    if gan is not None and not reading.is_of_run(opts.get("network"), gan.folder):
        notes.append(f"Trained on another network: {opts.get('network')}")
    if not model.finished:
        command = "train" if model.kind != "distill" else "distill"
        missing.append(Missing("This training is not at its end.",
                               _line("invert.py", command, f"--outdir={model.folder.parent}",
                                     f"--resume={model.folder}")))
    sheets = figures.score_sheets(model.folder)
    if model.finished and not (scores and sheets):
        what = "No scores on real pictures yet." if not scores else "Its best and worst pictures are not there."
        missing.append(Missing(what, _line("eval.py", "real", f"--model={model.folder}", "--data=PICTURES",
                                           "--masks=MASKS")))
    return dict(
        name=model.folder.name, kind=tables.KINDS.get(model.kind, model.kind), notes=notes, facts=model_facts(model),
        options=[(f"--{name.replace('_', '-')}", str(value)) for name, value in opts.items() if value is not None],
        charts=figures.model_charts(model), samples=figures.sample_pictures(model), sheets=sheets, missing=missing)


def _commands(gan: GanRun | None, models: Sequence[ModelRecord], generated: Sequence[dict[str, Any]],
              real: Sequence[dict[str, Any]]) -> list[Fact]:
    """What was run, in the order of the work, each once, with what it did."""
    commands = [("Training the generator", command) for command in (gan.commands if gan else [])]
    commands += [(f"Training {model.folder.name}", model.about["command"]) for model in models
                 if model.about.get("command")]
    commands += [(f"Scoring {what}, {record.get('date', 'undated')}", record["command"])
                 for what, records in (("generated scenes", generated), ("real pictures", real)) for record in records]
    first: dict[str, str] = {}
    for what, command in commands:
        first.setdefault(command, what)
    return [(what, command) for command, what in first.items()]


def _line(script: str, *args: str) -> str:
    return as_typed(shlex.join(["python", script, *args]))


def _missing(gan: GanRun | None, run: Path, models: Sequence[ModelRecord], generated: Sequence[Any],
             segmented: Any) -> dict[str, Missing]:
    """What each section lacks."""
    lacks = {}
    if gan is None:
        network = models[0].about["options"].get("network")
        lacks["gan"] = Missing(f"The training run of {network} is not there; its own report:",
                               _line("eval.py", "report", "RUN", f"--model={run}"))
    else:
        data = gan.options["training_set_kwargs"].get("path") or "PICTURES"
        training = (_line("train_layered.py", f"--outdir={gan.folder.parent}", f"--resume={gan.folder}")
                    if training_states(gan.folder) else gan.commands[0] if gan.commands
                    else _line("train_layered.py", f"--outdir={gan.folder.parent}", f"--data={data}"))
        lacks["stats"] = Missing("No statistics yet; they come with the first tick of a training.", training)
        lacks["layers"] = Missing("No layer grid yet; it comes with the first snapshot of a training.", training)
        if not gan.commands:
            lacks["command"] = Missing("The training kept no command line; its full configuration stands above.", "")
        if not generated:
            lacks["generated"] = Missing("The generated masks are not scored yet.",
                                         _line("eval.py", "generated", f"--network={gan.folder}", "--class=CLASS",
                                               "--weights=WEIGHTS"))
        if not models:
            lacks["models"] = Missing("No model segments real pictures yet.",
                                      _line("invert.py", "distill", f"--network={gan.folder}", f"--data={data}",
                                            f"--outdir={gan.folder.parent}"))
    finished = [model for model in models if model.finished]
    if not finished:
        lacks["real"] = Missing("Masks of real pictures are not scored yet.",
                                _line("eval.py", "real", "--model=MODEL", "--data=PICTURES", "--masks=MASKS"))
    if segmented is None and finished:
        lacks["segmented"] = Missing(
            "Your own pictures can stand here, too:",
            _line("invert.py", "segment", f"--model={finished[0].folder}", "--images=PICTURES", "--outdir=DIR") + "\n"
            + _line("eval.py", "report", str(run), "--segmented=DIR"))
    return lacks
