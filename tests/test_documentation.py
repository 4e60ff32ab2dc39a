"""Every command line in README, docs and help is one that the command accepts."""

from pathlib import Path

import pytest
from command_examples import find_command, find_examples, help_texts, parse

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ("ablation", "emergence", "flops", "growing", "objects", "ops", "scaling", "segmentation",
              "step_profile", "time_to_masks", "torch_compile", "training_throughput")


@pytest.mark.parametrize("source", ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))])
def test_every_command_in_the_documentation_is_accepted(source):
    for name, args in find_examples((ROOT / source).read_text()):
        parse(find_command(name), args)


@pytest.mark.parametrize("name", [
    "train_layered.py", "invert.py", "eval.py",
    *(f"-m layered_plugin.{name}" for name in ("dataset_tool", "generate")),
    *(f"-m benchmarks.{name}" for name in BENCHMARKS),
])
def test_every_help_has_examples_that_are_accepted(name):
    examples = [example for text in help_texts(find_command(name)) for example in find_examples(text)]
    assert len(examples) >= 1
    for other, args in examples:
        parse(find_command(other), args)
