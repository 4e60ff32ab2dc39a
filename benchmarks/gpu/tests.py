"""Step ``tests``: the tests that need a CUDA device, with their results as records."""

import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

from benchmarks.gpu.step_process import Context, run_cases

QUICK = "tests/data/test_labels.py"  # What a rehearsal runs in their place.


def main(context: Context) -> int:
    """Run the step."""
    return run_cases(context, [("pytest -m gpu", lambda: run_tests(context))], seconds=5)


def run_tests(context: Context) -> dict[str, Any]:
    """Counts, and the names of the tests that failed; the report is written as the tests end."""
    report = context.workdir / "tests.xml"
    root = Path(__file__).parents[2]
    marked = sorted(str(path) for path in (root / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text())
    chosen = [QUICK] if context.quick else [*marked, "-m", "gpu"]
    # Other versions than ours warn of other things, which is no failure there.
    command = [sys.executable, "-m", "pytest", *chosen, "-v", "-W", "default", "-p", "no:cacheprovider", "--tb=short",
               f"--junitxml={report}"]
    try:
        subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL,
                       timeout=max(context.seconds_left - 5, 1))
    except subprocess.TimeoutExpired:
        raise RuntimeError("the tests took too long; the step's output names those that were done") from None
    cases = xml.etree.ElementTree.parse(report).getroot().iter("testcase")
    found: dict[str, list[str]] = dict(passed=[], failed=[], skipped=[])
    for case in cases:
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[kind].append(f"{case.get('classname')}::{case.get('name')}")
    return dict({kind: len(names) for kind, names in found.items()}, names_failed=found["failed"])
