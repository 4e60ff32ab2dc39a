"""The work of invert.py train and distill: a run folder that is started, or gone on with; what its files may hold."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from layered_plugin import runs, trust
from layered_plugin.calls import go_on_command
from layered_plugin.command_line import LARGEST, check_outside, writing
from layered_plugin.data.dataset import PictureDataset
from layered_plugin.data.fingerprint import FINGERPRINT, REMEDY, compare, fingerprint
from layered_plugin.device import choose_device
from layered_plugin.errors import DiskFullError, UserError, lack_of_memory
from layered_plugin.files import remove_leftovers, write_json
from layered_plugin.json_files import Rule, check_fields, choice, fields, flag, maybe, number, text
from layered_plugin.model.snapshots import find_snapshot
from layered_plugin.segmentation.model_file import weights_hash

Work = Callable[[Path, dict[str, Any], dict[str, Any]], str | None]

# Options of this call, not of the run.
OF_CALL = ("outdir", "resume", "dry_run", "snapshot", "trust_pickle", "data_changed")
MAY_CHANGE = ("outdir", "resume", "dry_run", "trust_pickle", "data_changed", "device", "jobs")
# What a run did that was begun before these options were there.
BEFORE = dict(colors=False, margin=0.0, paste=0.0, reuse=1)


def run_training(ctx: click.Context, command: str, opts: dict[str, Any], desc: str, work: Work) -> None:
    """Start or resume a run of a command, train or distill, and say at the end where it is.

    `desc` is what the name of a new run begins with; `work` is the training: run folder, options, record to the signal
    that stopped it, or None.
    """
    new_dir = None
    try:
        if opts["resume"] is not None:
            run_dir, record = _go_on(ctx, command, opts)
        else:
            record = _begin(command, opts)
        options = record["options"]
        if opts["dry_run"]:
            click.echo(json.dumps(record, indent=2))
            return
        if opts["resume"] is None:
            record["network_sha256"] = trust.trust_named(options["network"])
            if options.get("init") is not None:
                options["init_sha256"] = weights_hash(options["init"])
            if options["data"] is not None:
                record["data_fingerprint"] = fingerprint(options["data"])
            data = runs.short_name(Path(options["data"] or options["network"]).stem)
            name = f"{desc}-{data}-steps{options['steps']}-seed{options['seed']}"
            with writing("--outdir", opts["outdir"]):
                run_dir = new_dir = runs.start_run(opts["outdir"], name, record)
        if (run_dir / runs.MODEL_FILE).is_file():
            click.echo(f"{run_dir} is complete", err=True)
        else:
            click.echo(f"Run folder: {run_dir}", err=True)
            go_on = go_on_command(f"invert.py {command}", run_dir)
            try:
                with runs.held(run_dir):
                    if opts["resume"] is not None:
                        if opts["data"] is not None or opts["data_changed"] == "ok":  # Elsewhere now, or others.
                            write_json(run_dir / runs.OPTIONS, record)
                        for folder in (run_dir, *run_dir.glob("chunk-*/")):
                            remove_leftovers(folder)
                    stopped = work(run_dir, options, record)
            except DiskFullError as err:
                if is_unstarted(run_dir):
                    raise  # There is nothing to go on with.
                raise UserError(f"{err}: {go_on}") from err
            except (MemoryError, RuntimeError) as err:
                lack = lack_of_memory(err)
                if lack is None or is_unstarted(run_dir):
                    raise
                if options.get("jobs", 1) > 1:  # The one option of these that a run may change.
                    raise UserError(f"{lack}; fewer `jobs` take less: go on with: {go_on} --jobs=1") from err
                raise UserError(f"{lack}; free some, and go on with: {go_on}; or start anew with a smaller "
                                "`batch`") from err
            if stopped is not None:
                click.echo(f"Stopped by {stopped}; all is saved. Go on with: {go_on}", err=True)
                sys.exit(128 + signal.Signals[stopped])
    except Exception:
        if new_dir is not None:
            discard_unstarted(new_dir)
        raise
    click.echo(run_dir)


def is_unstarted(run_dir: Path) -> bool:
    """Whether a run has written nothing but its options."""
    return [path.name for path in run_dir.iterdir()] == [runs.OPTIONS]


def discard_unstarted(run_dir: Path) -> None:
    """Remove the folder of a run that failed before it wrote anything but its options."""
    if is_unstarted(run_dir):
        (run_dir / runs.OPTIONS).unlink()
        run_dir.rmdir()


def _begin(command: str, opts: dict[str, Any]) -> dict[str, Any]:
    """Record of a new run."""
    if opts["network"] is None:
        raise click.UsageError("--network is needed for a new run")
    if opts["data"] is not None:
        check_outside(opts["outdir"], "--data", opts["data"])
    options = {name: value for name, value in opts.items() if name not in OF_CALL}
    options.update(network=find_snapshot(opts["network"], opts["snapshot"]), device=choose_device(opts["device"]))
    if options["data"] is not None:
        PictureDataset(path=options["data"], size_px=4).close()
    return dict(invert=command, options=options, **runs.provenance("invert.py"))


def _go_on(ctx: click.Context, command: str, opts: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Folder and record of a run that was begun, both found to be in order."""
    given = [name for name in ctx.params if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE]
    run_dir, record = runs.find_model_run(opts["outdir"], opts["resume"], command)
    path = run_dir / runs.OPTIONS
    record = check_fields(record, _record_rule(ctx, opts), path)
    options = record["options"]
    may_change = MAY_CHANGE if record.get("data_fingerprint") is None else (*MAY_CHANGE, "data")
    for name in given:
        if name not in may_change and not _is_the_same(name, opts, options):
            raise click.UsageError(f"--{name.replace('_', '-')} cannot change when a run is resumed; leave it out")
    if opts["data"] is not None:
        check_outside(opts["outdir"], "--data", opts["data"])
    options.update({name: opts[name] for name in given if name in ("data", "device", "jobs")})
    options["device"] = choose_device(options["device"])
    if not (run_dir / runs.MODEL_FILE).is_file():
        _check_data(options, record, opts["data_changed"] == "ok", path)
        options["network"] = find_snapshot(options["network"])  # What is judged is what will be loaded.
        trust.check_pickle(options["network"], record.get("network_sha256"), opts["trust_pickle"], path)
    return run_dir, record


def _is_the_same(name: str, opts: dict[str, Any], options: dict[str, Any]) -> bool:
    """Whether an option is what a run began with: so the same command, with --resume, goes on."""
    if name in ("network", "snapshot"):
        return opts["network"] is not None and find_snapshot(opts["network"], opts["snapshot"]) == options["network"]
    return name in options and opts[name] == options[name]


def _check_data(options: dict[str, Any], record: dict[str, Any], may_change: bool, path: Path) -> None:
    """See that the pictures are those that the run began with, or note those; a chunk's belong to its encoder."""
    if options["data"] is None:
        return
    of_chunks = options.get("mode") == "chunks"
    remedy = "encoders of chunks belong to their pictures: put it back, or start a new run" if of_chunks else REMEDY
    record["data_fingerprint"], _changed = compare(options["data"], record.get("data_fingerprint"),
                                                   may_change and not of_chunks, f"{path}: its data", remedy)


def _record_rule(ctx: click.Context, defaults: dict[str, Any]) -> Rule:
    """What options.json may hold: the options of the command, each within its bounds."""
    before = {**defaults, **BEFORE}
    options: dict[str, Any] = {
        param.name: (_option_rule(param, defaults[str(param.name)]), before[str(param.name)])
        for param in ctx.command.params if param.name not in (*OF_CALL, "network")}
    options["init_sha256"] = text  # Of the weights that --init names; an older version did not write it.
    return fields(dict(invert=text, options=fields(dict(network=text), options)),
                  dict(dict.fromkeys(("command", "date", "base", "torch", "network_sha256"), text),
                       data_fingerprint=FINGERPRINT))


def _option_rule(param: click.Parameter, default: Any) -> Rule:
    rule: Rule = text
    if isinstance(param.type, click.Choice):
        rule = choice(*param.type.choices)
    elif isinstance(param.type, click.IntRange | click.FloatRange):
        low, high = param.type.min, param.type.max
        rule = number(-LARGEST if low is None else low, LARGEST if high is None else high,
                      whole=isinstance(param.type, click.IntRange))
    elif param.type is click.BOOL:
        rule = flag
    return maybe(rule) if default is None else rule
