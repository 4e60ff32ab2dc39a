"""How long functions and modules are, the longest first. Run as `python tests/code_size.py`."""

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("train_layered.py", "invert.py", "eval.py")
BASE = "vendor/stylegan2_compat"

Size = tuple[int, str]  # Lines, and what has them.


def measure(paths: Iterable[Path], root: Path) -> tuple[list[Size], list[Size]]:
    """Sizes of functions and of modules, each with the longest first.

    A function runs from its first decorator to its last line; what is defined inside it counts as its own, too.
    """
    functions, modules = [], []
    for path in paths:
        text, name = path.read_text(), str(path.relative_to(root))
        modules.append((len(text.splitlines()), name))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                start = min(part.lineno for part in (node, *node.decorator_list))
                functions.append((node.end_lineno - start + 1, f"{name}:{start} {node.name}"))
    return sorted(functions, reverse=True), sorted(modules, reverse=True)


def main(num: int = 5) -> None:
    """Print the longest of the package with its commands, and of the base; the totals of both."""
    package = [*(ROOT / "layered_plugin").rglob("*.py"), *(ROOT / name for name in COMMANDS)]
    for title, paths in (("layered_plugin and commands", package), (BASE, list((ROOT / BASE).rglob("*.py")))):
        functions, modules = measure(paths, ROOT)
        print(f"{title}: {len(modules)} modules, {sum(lines for lines, _ in modules)} lines")
        for sizes in (functions, modules):
            print("\n".join(f"{lines:6} {name}" for lines, name in sizes[:num]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
