"""Every command line in README, docs and help is one that the command accepts; every name in them is there."""

import pkgutil
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_examples import find_command, find_examples, help_texts, parse

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = [module.name for module in pkgutil.iter_modules([str(ROOT / "benchmarks")])
              if not module.ispkg]

NUM_COMMANDS = {"README.md": 13, "docs/architecture.md": 0, "docs/data.md": 69, "docs/history.md": 51,
                "docs/results.md": 62, "docs/scaling.md": 8, "docs/segmenting.md": 10, "docs/training.md": 20,
                "docs/upstream.md": 1}  # At least: a finder that misses some would pass.


@pytest.mark.parametrize("source", ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))])
def test_every_command_in_the_documentation_is_accepted(source):
    examples = find_examples((ROOT / source).read_text())
    assert len(examples) >= NUM_COMMANDS[source]
    for name, args in examples:
        assert not any("$" in arg for arg in args), (name, args)
        parse(find_command(name), args)


@pytest.mark.parametrize("source", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "vendor/README.md",
                                    *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))])
def test_every_link_leads_to_a_file_and_a_heading(source):
    links = re.findall(r"\]\((?!https?:)([^()\s#]*)(?:#([^()\s]+))?\)", (ROOT / source).read_text())
    assert len(links) >= 1
    for name, heading in links:
        path = (ROOT / source).parent / name if name else ROOT / source
        assert path.exists(), name
        assert not heading or heading in headings(path), (name, heading)


def headings(path: Path) -> set[str]:
    """Names under which a Markdown file's headings can be linked to."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def test_every_record_is_linked_from_the_documents():
    text = "".join(path.read_text() for path in ROOT.glob("docs/*.md"))
    records = {path.name for path in ROOT.glob("docs/results/*")}
    assert len(records) >= 40 and records == set(re.findall(r"\]\(results/([\w.-]+)\)", text))


def test_arrays_and_functions_of_the_shell_are_put_in():
    text = """
few=(
    --a='x y'
)
all=(
    --b "${few[@]}"
)
python eval.py one "${all[@]}" \\
    --c
each() {
    python -m benchmarks.ops --d=$1/$2 > $1.json
}
each first 2
each other 3
"""
    assert find_examples(text) == [
        ("eval.py", ["one", "--b", "--a=x y", "--c"]),
        ("-m benchmarks.ops", ["--d=first/2"]), ("-m benchmarks.ops", ["--d=other/3"])]


@pytest.mark.parametrize("name", [
    "train_layered.py", "invert.py", "eval.py",
    *(f"-m layered_plugin.{name}" for name in (
        "dataset_tool", "generate", "export", "projector", "style_mixing", "app")),
    *(f"-m benchmarks.{name}" for name in BENCHMARKS),
])
def test_every_help_has_examples_that_are_accepted(name):
    examples = [example for text in help_texts(find_command(name)) for example in find_examples(text)]
    assert len(examples) >= 1
    for other, args in examples:
        parse(find_command(other), args)


@pytest.mark.parametrize("name", ["invert.py", "eval.py", "-m layered_plugin.dataset_tool", "-m layered_plugin.export"])
def test_no_line_of_a_list_of_commands_is_cut_off(name):
    _usage, _heading, commands = CliRunner().invoke(find_command(name), ["--help"]).output.partition("Commands:")
    assert len(commands.splitlines()) > 4 and "..." not in commands


def test_every_name_in_the_architecture_is_there():
    text = (ROOT / "docs/architecture.md").read_text()
    rooms = "|".join(path.parent.name for path in ROOT.glob("layered_plugin/*/__init__.py"))
    names = set(re.findall(rf"`((?:{rooms})\.\w[\w.]*)`", text)) - {"training.networks"}  # The base's.
    assert len(names) >= 20
    for name in names:
        pkgutil.resolve_name(f"layered_plugin.{name}")
