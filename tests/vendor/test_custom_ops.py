"""Tests of torch_utils.custom_ops: caching, locking, folders of builds, and one real build.

The real build is plain C++ without PyTorch headers, which compiles in a second.
"""

import shutil
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch.utils.cpp_extension
from filelock import FileLock
from torch_utils import custom_ops

_SOURCE = """
#include <Python.h>
static PyModuleDef_Slot slots[] = {{0, nullptr}};
static PyModuleDef def = {PyModuleDef_HEAD_INIT, "NAME", nullptr, 0, nullptr, slots, nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit_NAME() { return PyModuleDef_Init(&def); }
"""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(custom_ops, "_cached_plugins", {})
    monkeypatch.setattr(custom_ops, "verbosity", "none")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "build"))
    monkeypatch.setitem(sys.modules, "plugin_x", types.ModuleType("plugin_x"))


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    folder = tmp_path / "src"
    folder.mkdir()
    for name, text in {"b.cu": "second", "a.cpp": "first", "c.h": "header"}.items():
        (folder / name).write_text(text)
    return [str(folder / "a.cpp"), str(folder / "b.cu")]


@pytest.fixture
def loads(monkeypatch) -> list[dict]:
    """Replace the compiler by a recorder of its arguments."""
    calls: list[dict] = []

    def load(**kwargs) -> types.ModuleType:
        calls.append(kwargs)
        return types.ModuleType(kwargs["name"])

    monkeypatch.setattr(torch.utils.cpp_extension, "load", load)
    return calls


def test_cached_plugin_is_returned_before_anything_else(monkeypatch) -> None:
    module = types.ModuleType("plugin_x")
    monkeypatch.setitem(custom_ops._cached_plugins, "plugin_x", module)
    monkeypatch.setattr(custom_ops, "verbosity", "nonsense")
    assert custom_ops.get_plugin("plugin_x", sources=[]) is module


def test_plugin_is_built_once_and_importable(sources, loads) -> None:
    module = custom_ops.get_plugin("plugin_x", sources, extra_cuda_cflags=["--use_fast_math"])
    assert custom_ops.get_plugin("plugin_x", sources) is module and len(loads) == 1
    assert sys.modules["plugin_x"] is module
    assert loads[0]["name"] == "plugin_x" and loads[0]["extra_cuda_cflags"] == ["--use_fast_math"]


def test_folder_is_named_by_the_contents_of_sources_and_headers(sources, loads, tmp_path: Path) -> None:
    folders = []
    for header in ("header", "header", "another"):
        (tmp_path / "src/c.h").write_text(header)
        custom_ops._cached_plugins.clear()
        custom_ops.get_plugin("plugin_x", sources)
        folders.append(Path(loads[-1]["build_directory"]))
    assert folders[0] == folders[1] != folders[2]
    assert {folder.parent for folder in folders} == {tmp_path / "build"} and loads[0]["sources"] == sources
    custom_ops._cached_plugins.clear()
    custom_ops.get_plugin("plugin_x", sources, extra_cflags=["-O3"], build_directory=str(tmp_path / "mine"))
    assert loads[-1]["build_directory"] == str(tmp_path / "mine")


def test_build_waits_for_another_process(sources, loads, tmp_path: Path) -> None:
    custom_ops.get_plugin("plugin_x", sources)
    custom_ops._cached_plugins.clear()
    with FileLock(Path(loads[0]["build_directory"]) / "building"):
        thread = threading.Thread(target=custom_ops.get_plugin, args=("plugin_x", sources))
        thread.start()
        time.sleep(0.3)
        assert len(loads) == 1
    thread.join(timeout=10)
    assert len(loads) == 2


def test_failed_build_raises_and_leaves_nothing_behind(sources, monkeypatch, tmp_path: Path, capsys) -> None:
    def fail(**kwargs) -> None:
        raise RuntimeError("compiler says no")

    monkeypatch.setattr(torch.utils.cpp_extension, "load", fail)
    monkeypatch.setattr(custom_ops, "verbosity", "brief")
    with pytest.raises(RuntimeError, match="compiler says no"):
        custom_ops.get_plugin("plugin_x", sources)
    assert not custom_ops._cached_plugins
    captured = capsys.readouterr()
    assert captured.err.endswith("Failed!\n") and not captured.out


@pytest.mark.parametrize(("verbosity", "lines"), [("none", 0), ("brief", 1), ("full", 1)])
def test_verbosity_sets_the_number_of_lines(sources, loads, monkeypatch, capsys, verbosity: str, lines: int) -> None:
    monkeypatch.setattr(custom_ops, "verbosity", verbosity)
    custom_ops.get_plugin("plugin_x", sources)
    captured = capsys.readouterr()
    assert captured.err.count("\n") == captured.err.count("Done.\n") == lines and not captured.out
    assert loads[0]["verbose"] == (verbosity == "full")


@pytest.mark.parametrize(
    ("verbosity", "sources", "message"), [("loud", ["a.cpp"], "verbosity"), ("none", [], "sources")]
)
def test_wrong_arguments_are_refused(monkeypatch, verbosity: str, sources, message: str) -> None:
    monkeypatch.setattr(custom_ops, "verbosity", verbosity)
    with pytest.raises(ValueError, match=message):
        custom_ops.get_plugin("plugin_x", sources)


@pytest.mark.skipif(not (shutil.which("ninja") and shutil.which("g++")), reason="needs ninja and g++")
def test_real_build_with_multi_phase_initialisation_loads(tmp_path: Path) -> None:
    source = tmp_path / "real" / "plugin.cpp"
    source.parent.mkdir()
    source.write_text(_SOURCE.replace("NAME", "plugin_x"))
    module = custom_ops.get_plugin("plugin_x", [str(source)])
    assert module.__name__ == "plugin_x" and Path(module.__file__).is_relative_to(tmp_path / "build")
    assert sys.modules["plugin_x"] is module

    source.write_text("this does not compile")
    custom_ops._cached_plugins.clear()
    with pytest.raises(RuntimeError, match="plugin_x"):
        custom_ops.get_plugin("plugin_x", [str(source)])
