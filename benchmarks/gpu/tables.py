"""Markdown of the results of a GPU day."""

from collections.abc import Callable, Sequence
from typing import Any

Records = Sequence[dict[str, Any]]


def all_tables(records: Records) -> str:
    """A section per step that has results."""
    makers: dict[str, Callable[[Records], list[str]]] = dict(card=_plain, tests=_plain, ops=_ops, step=_step,
                                                             train=_plain, segment=_plain, compile=_plain)
    sections = []
    for name, maker in makers.items():
        own = [record for record in records if record["step"] == name and record["status"] != "begun"]
        if own:
            done = [record for record in own if record["status"] == "ok" and record["case"] != "step"]
            lines = maker(done) if maker is not _step else _step(done, records)
            sections.append("\n".join([f"## {name}", "", *lines, *_problems(own, records)]))
    return "\n\n".join(sections) + "\n"


def _problems(own: Records, records: Records) -> list[str]:
    """A line for each case without a result."""
    lines = [f"- {record['case']}: {record['status']}: {record.get('error') or record.get('why') or record['outcome']}"
             for record in own if record["status"] != "ok"]
    known = {record["case"] for record in own}
    begun = [record["case"] for record in records if record["step"] == own[0]["step"] and record["status"] == "begun"]
    lines += [f"- {case}: begun, not ended" for case in begun if case not in known]
    return ["", *lines] if lines else []


def _plain(records: Records) -> list[str]:
    lines = ["| | |", "|---|---|"]
    for record in records:
        values = {key: value for key, value in record.items() if key not in ("step", "case", "status", "record")}
        lines.append(f"| {record['case']} | {', '.join(f'{key} {_short(value)}' for key, value in values.items())} |")
    return lines


def _ops(records: Records) -> list[str]:
    lines = ["| op | x | forward ms | backward ms | times as fast as reference | GB/s | share of a copy |",
             "|---|---|---|---|---|---|---|"]
    for record in records:
        ours, times, speed = (record[key] for key in ("ours_ms", "times_as_fast", "gb_per_s"))
        share = record.get("share", {})
        lines.append(f"| {record['case']} | {'x'.join(map(str, record['shape']))} | {ours['forward']:.3f} "
                     f"| {ours['backward']:.3f} | {times['forward']:.1f}, {times['backward']:.1f} "
                     f"| {speed['forward']:.0f}, {speed['backward']:.0f} "
                     f"| {', '.join(f'{value:.0%}' for value in share.values())} |")
    return lines


def _step(records: Records, everything: Records = ()) -> list[str]:
    flops = {record["case"]: record["per_picture"] for record in everything if record["step"] == "flops"}
    peaks = {record["case"].removeprefix("matrix product "): record["tflops"] for record in everything
             if record["case"].startswith("matrix product") and record["status"] == "ok"}
    base = {(record["resolution"], record["batch"]): record["pictures_per_s"] for record in records
            if (record["precision"], record["ops"], record["options"]) == ("fp32", "reference", [])}
    lines = ["| case | batch | step ms | pictures/s | times as fast as fp32 reference | share of the matrix peak "
             "| memory GiB |", "|---|---|---|---|---|---|---|"]
    for record in records:
        speed, side = record["pictures_per_s"], record["resolution"]
        plain = not any("cbase" in option or "aug" in option for option in record["options"])
        reference = base.get((side, record["batch"]))  # Of the same batch: a step may take as long for more pictures.
        times = f"{speed / reference:.1f}" if reference and plain else ""
        peak, work = peaks.get(record["precision"]), flops.get(str(side))
        share = f"{speed * work / peak / 1e12:.1%}" if peak and work and plain else ""
        lines.append(f"| {record['case']} | {record['batch']} | {record['step_ms']:.1f} | {speed:.0f} | {times} "
                     f"| {share} | {record['peak_memory_gib']:.1f} |")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return str(value).replace("|", "/").replace("\n", " ")
