"""The words in which commands name themselves, in a checkout and where the package is installed."""

import importlib
import sys

import pytest

from layered_plugin import calls

LINE = "python invert.py segment --model=runs/1; python -m layered_plugin.dataset_tool shapes --dest=a.zip"


def test_a_checkout_has_its_scripts(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_layered.py", "--help"])
    assert calls.as_typed(LINE) == LINE


def test_installed_commands_go_by_their_names(monkeypatch, tmp_path):
    short = "layered-invert segment --model=runs/1; layered-data shapes --dest=a.zip"
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/layered-eval"])
    assert calls.as_typed(LINE) == short
    monkeypatch.setattr(sys, "argv", ["notebook"])
    monkeypatch.setattr(calls, "ROOT", tmp_path)
    assert calls.as_typed(LINE) == short


@pytest.mark.parametrize("argv, python, expected", [
    (["../eval.py", "real"], ["../eval.py", "real"], True),
    (["/venv/bin/layered-data"], ["/venv/bin/layered-data"], True),
    (["-m"], ["-m", "layered_plugin.generate", "--seeds=1"], True),
    (["-m"], ["-m", "pytest"], False),
    (["mine.py"], ["mine.py", "-m", "layered_plugin.generate"], False),
    ([""], [], False),
])
def test_only_the_commands_count_as_commands(monkeypatch, argv, python, expected):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", ["python", *python])
    assert calls.is_command() is expected


@pytest.mark.parametrize("name", ["train_layered", "invert", "eval"])
def test_a_checkout_lends_its_scripts_to_the_package(name):
    module = importlib.import_module(f"layered_plugin.commands.{name}")
    assert module.__file__ == str(calls.ROOT / f"{name}.py") and module.main.name
