"""Every command line in README, docs and help is one that the command accepts."""

from pathlib import Path

import pytest
from command_examples import find_command, find_examples, help_texts, parse

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("source", ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))])
def test_every_command_in_the_documentation_is_accepted(source):
    for name, args in find_examples((ROOT / source).read_text()):
        parse(find_command(name), args)


@pytest.mark.parametrize("name", ["-m benchmarks.scaling", "-m benchmarks.time_to_masks",
                                  "-m benchmarks.training_throughput",
                                  "train_layered.py", "invert.py", "eval.py", "-m layered_plugin.shapes",
                                  "-m layered_plugin.composites", "-m layered_plugin.flops",
                                  "-m layered_plugin.generate",
                                  "-m benchmarks.ablation", "-m benchmarks.emergence", "-m benchmarks.judge",
                                  "-m benchmarks.segmentation"])
def test_every_help_has_examples_that_are_accepted(name):
    examples = [example for text in help_texts(find_command(name)) for example in find_examples(text)]
    assert len(examples) >= 1
    for other, args in examples:
        parse(find_command(other), args)
