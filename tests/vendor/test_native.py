"""Tests of torch_utils.native: one build per contents and machine, and a warning where none is possible."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch_utils import custom_ops, native

needs_compiler = pytest.mark.skipif(not (shutil.which("ninja") and shutil.which("g++")), reason="needs ninja and g++")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "libraries", {})
    monkeypatch.setattr(custom_ops, "verbosity", "none")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "build"))


@pytest.fixture
def library_source(tmp_path: Path) -> str:
    path = tmp_path / "answer.cpp"
    path.write_text('#include "value.h"\nextern "C" int answer() { return VALUE; }')
    (tmp_path / "value.h").write_text("#define VALUE 42")
    return str(path)


@needs_compiler
def test_library_is_built_once_per_contents_and_flags(library_source, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(custom_ops, "verbosity", "brief")
    header = tmp_path / "value.h"
    library = native.get_library("answers", [library_source, str(header)])
    assert library.answer() == 42 and native.get_library("answers", []) is library
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.endswith("Done.\n") and captured.err.count("answers") == 1

    native.libraries.clear()
    header.write_text("#define VALUE 43")
    assert native.get_library("answers", [library_source, str(header)]).answer() == 43
    assert len(list((tmp_path / "build").glob("answers-*/answers.so"))) == 2


@needs_compiler
def test_finished_library_loads_silently_without_a_compiler(library_source, monkeypatch, capsys) -> None:
    native.get_library("answers", [library_source])
    native.libraries.clear()
    monkeypatch.setattr(custom_ops, "verbosity", "brief")
    monkeypatch.setenv("PATH", "")
    assert native.get_library("answers", [library_source]).answer() == 42
    assert capsys.readouterr() == ("", "")


def test_library_that_cannot_be_built_warns_once_with_a_remedy(library_source, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(UserWarning, match=r"reference operations run.*apt install g\+\+.*pip install ninja") as caught:
        assert native.get_library("answers", [library_source]) is None
        assert native.get_library("answers", [library_source]) is None
    assert len(caught) == 1


def test_folder_that_cannot_be_written_is_named_in_the_warning(library_source, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=f"{tmp_path / 'file'}.*set TORCH_EXTENSIONS_DIR"):
        assert native.get_library("answers", [library_source]) is None


@needs_compiler
def test_two_processes_at_once_make_one_build(library_source, tmp_path: Path) -> None:
    compiler, calls = tmp_path / "compiler", tmp_path / "calls"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *" -c "*) echo "$*" >> {calls}; sleep 1;; esac\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    root = Path(custom_ops.__file__).parents[1]
    call = f"native.get_library('answers', [{library_source!r}]).answer()"
    code = f"from torch_utils import native; print({call})"
    env = os.environ | dict(CXX=str(compiler), PYTHONPATH=str(root))
    pair = [subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in pair] == [b"42\n"] * 2
    assert len(calls.read_text().splitlines()) == 1


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
def test_cuda_source_is_built_by_nvcc_alone_and_needs_no_cuda_library_to_load(tmp_path: Path, monkeypatch) -> None:
    source = tmp_path / "answer.cu"
    source.write_text('__global__ void work() {}\nextern "C" int answer() { work<<<1, 1>>>(); return 42; }')
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))  # A folder without it is no hindrance.
    assert native.get_library("answers", [str(source)], extra_cuda_cflags=["-O1"]).answer() == 42


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_error_of_nvcc_is_in_the_warning(tmp_path: Path, monkeypatch) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text('#!/bin/sh\necho "answer.cu(1): error: no such thing" >&2\nexit 2\n')
    nvcc.chmod(0o755)
    (tmp_path / "answer.cu").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match=r"nvcc failed: answer.cu\(1\): error: no such thing"):
        assert native.get_library("answers", [str(tmp_path / "answer.cu")], extra_cuda_cflags=[]) is None
