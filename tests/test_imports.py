"""Who may import whom, and how long functions and modules may be."""

import ast
import graphlib
import importlib.util
from pathlib import Path

import pytest
from code_size import measure
from shell import call

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "layered_plugin"
SCRIPTS = ["train_layered", "invert", "eval"]

# Rooms of the package, and those below each; the other modules at its root are tools, open to every room.
BELOW: dict[str, set[str]] = {
    "data": set(),
    "synthetic": {"data"},
    "grids": {"data"},
    "model": {"data", "grids"},
    "training": {"data", "grids", "model"},
    "segmentation": {"data", "grids", "model"},
    "evaluation": {"data", "grids", "model", "training", "segmentation"},
    "report": {"data", "grids", "model", "training", "segmentation", "evaluation"},
}

# Modules that are commands or parts of them: they may use every room, and click.
COMMANDS = {*SCRIPTS, *(f"{PACKAGE}.{name}" for name in (
    "commands", "command_line", "dataset_tool", "dataset_options", "generate", "export", "projector",
    "style_mixing", "app", "demo", "evaluation.commands", "evaluation.options",
    "segmentation.commands", "segmentation.segment_command", "training.options"))}

MAX_MODULE, MAX_FUNCTION = 260, 80
MAX_LOOP = 127  # Of the training loop: a line for each of its 44 parameters, and a body of about 70.


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PATHS = {module_name(path): path for folder in (PACKAGE, "benchmarks") for path in (ROOT / folder).rglob("*.py")}
PATHS.update({name: ROOT / f"{name}.py" for name in SCRIPTS})
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}


def imported(name: str) -> set[str]:
    """Modules that one imports, at whatever place in it; a module from which names are imported counts by itself."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name if PATHS[name].name == "__init__.py" else name.rpartition(".")[0]
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            parts = {f"{source}.{alias.name}" for alias in node.names}
            found |= {part for part in parts if part in PATHS} or {source}
    return found - {name}


def room(name: str) -> str:
    """The room of a module; empty for the tools at the package's root."""
    parts = name.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 and parts[1] in BELOW else ""


def imports_that_go_up():
    wrong = [f"{name} imports {other}" for name in PATHS if name.startswith(PACKAGE) and name not in COMMANDS
             for other in imported(name) if room(other) and room(other) not in BELOW.get(room(name), set())
             | {room(name)}]
    return [line for line in wrong if not line.startswith(f"{PACKAGE} imports {PACKAGE}.segmentation")]  # Its face.


def test_imports_go_down_only():
    assert imports_that_go_up() == [] and len(PATHS) > 100


@pytest.mark.parametrize("name, line, other", [
    ("data.new", "import layered_plugin.model.unet", "model.unet"),
    ("training.new", "from layered_plugin.segmentation import edges", "segmentation.edges"),
    ("segmentation.new", "def f():\n    from layered_plugin.training.loss import LayeredLoss", "training.loss"),
    ("data.new", "from ..model import unet", "model.unet"),
    ("data", "from .. import model", "model"),
    ("new", "from .report.page import write_report", "report.page"),
])
def test_an_import_that_goes_up_is_found(monkeypatch, name, line, other):
    name, other = f"{PACKAGE}.{name}", f"{PACKAGE}.{other}"
    monkeypatch.setitem(PATHS, name, PATHS.get(name, ROOT / f"{name.replace('.', '/')}.py"))
    monkeypatch.setitem(TREES, name, ast.parse(line))
    assert imports_that_go_up() == [f"{name} imports {other}"]


def test_the_tools_at_the_root_stand_on_no_room_but_commands_do():
    users = {name for name in PATHS if name.startswith(f"{PACKAGE}.") and not room(name)
             and any(room(other) for other in imported(name))}
    assert users <= COMMANDS


def test_nothing_uses_benchmarks_or_commands():
    assert [(name, other) for name in PATHS if not name.startswith("benchmarks") for other in imported(name)
            if other.startswith("benchmarks")] == []
    called = {f"{PACKAGE}.{name}" for name in (
        "dataset_tool", "generate", "export", "projector", "style_mixing", "app", "demo")} | set(SCRIPTS)
    assert [(name, other) for name in PATHS if name not in COMMANDS and not name.startswith("benchmarks")
            for other in imported(name) if other in called] == []


def test_only_commands_speak_click():
    users = {name for name in PATHS if not name.startswith("benchmarks") and "click" in imported(name)}
    assert users <= COMMANDS


def test_there_is_no_circle():
    graph = {name: {other for other in imported(name) if other in PATHS} - {PACKAGE} for name in PATHS}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) >= len(graph) - 1  # Raises on a circle.


# Sizes.

VENDOR = ROOT / "vendor/stylegan2_compat"
LONG_MODULES = {VENDOR / "training/networks.py", VENDOR / "training/augment.py"}


def test_modules_are_short():
    _, modules = measure({*PATHS.values(), *VENDOR.rglob("*.py")} - LONG_MODULES, ROOT)
    assert [name for lines, name in modules if lines > MAX_MODULE] == [] and len(modules) > 100


def test_functions_are_short():
    limits = {"training_loop": MAX_LOOP}
    for paths in (PATHS.values(), VENDOR.rglob("*.py")):
        functions, _ = measure(paths, ROOT)
        assert [(lines, name) for lines, name in functions
                if lines > limits.get(name.split()[-1], MAX_FUNCTION)] == [] and len(functions) > 100


# Start of a command.

def test_help_of_the_commands_comes_without_the_libraries_that_take_long_to_import():
    """PyTorch alone takes most of two seconds; these together would take twice that."""
    code = ("import sys, invert, eval, train_layered, layered_plugin.app, layered_plugin.dataset_tool\n"
            "import layered_plugin.demo, layered_plugin.generate, layered_plugin.export, layered_plugin.projector\n"
            "print(*({name.split('.')[0] for name in sys.modules} & {'torchvision', 'matplotlib', 'onnx', 'gradio'}),\n"
            "      *({'torch._dynamo', 'scipy.stats', 'scipy.spatial', 'scipy.ndimage'} & set(sys.modules)))")
    done = call("-c", code)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr + done.stdout


def test_drawing_and_the_demo_start_without_pytorch():
    """Each process that draws would import it anew; the demo's commands do by themselves."""
    done = call("-c", "import sys, layered_plugin.dataset_tool, layered_plugin.demo\nprint('torch' in sys.modules)")
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr + done.stdout
