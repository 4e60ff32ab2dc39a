"""The package as a user installs it: a wheel, in an environment of its own, at work in another folder."""

import email
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("layered_plugin", "vendor/stylegan2_compat", "train_layered.py", "invert.py", "eval.py", "setup.py",
           "pyproject.toml", "README.md", "LICENSE")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
CLEAN = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "STYLEGAN2_ADA_PYTORCH")}
CLEAN["OMP_NUM_THREADS"] = "1"  # Two threads spin on busy cores.


def run(*command, cwd, **env):
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=CLEAN | env, text=True, capture_output=True,
                          timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def names_of(requirements, extra=""):
    """Packages that requirements name here, and those that these want in turn, installed or not."""
    found, open_ = {}, [(requirement, extra) for requirement in requirements]
    while open_:
        requirement, extra = open_.pop()
        parsed = Requirement(requirement)
        if parsed.marker is not None and not parsed.marker.evaluate(dict(extra=extra)):
            continue
        name = canonicalize_name(parsed.name)
        for wanted in {"", *parsed.extras} - found.setdefault(name, set()):
            found[name].add(wanted)
            try:
                open_ += [(line, wanted) for line in importlib.metadata.requires(name) or []]
            except importlib.metadata.PackageNotFoundError:
                pass
    return set(found)


def project():
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there some packages are left to pip")
def test_every_package_that_make_installs_has_its_version():
    pinned = {canonicalize_name(Requirement(line).name) for line in (ROOT / "constraints.txt").read_text().splitlines()
              if line and not line.startswith("#")}
    extras = project()["optional-dependencies"]
    asked = [*project()["dependencies"], *(line for extra in ("onnx", "grabcut", "fid", "lsun", "video", "test")
                                           for line in extras[extra] if not line.startswith("layered-plugin"))]
    assert "layered-plugin[onnx,grabcut,fid,lsun,video]" in extras["test"]
    wanted = names_of(asked)
    assert len(wanted) > 60 and wanted - pinned == set()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with 3.11")
def test_every_library_that_users_install_has_an_upper_bound():
    extras = {name: lines for name, lines in project()["optional-dependencies"].items() if name != "test"}
    for line in [*project()["dependencies"], *(line for lines in extras.values() for line in lines)]:
        assert any(bound.operator == "<" for bound in Requirement(line).specifier), line


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of all that a build may need, with what an earlier build left behind."""
    place = tmp_path_factory.mktemp("build")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place / name)
    stale = place / "build/lib/layered_plugin/removed.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    return place


@pytest.fixture(scope="module")
def wheel(sources):
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir=dist", ".", cwd=sources)
    (path,) = (sources / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory):
    """Folder of the commands in an environment that holds the wheel, and sees what else is installed here."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv.parent)
    python = venv / "bin" / "python"
    run(*PIP, "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=venv.parent)
    (site,) = venv.glob("lib/python*/site-packages")
    paths = sysconfig.get_paths()
    (site / "others.pth").write_text(f"{paths['purelib']}\n{paths['platlib']}\n")
    return venv / "bin"


def test_wheel_holds_all_sources_and_takes_no_other_name(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    info = next(name.split("/")[0] for name in names if name.endswith("dist-info/METADATA"))
    assert {name.split("/")[0] for name in names} == {"layered_plugin", info}
    base = ROOT / "vendor/stylegan2_compat"
    wanted = {path: f"layered_plugin/{path.relative_to(ROOT / 'layered_plugin')}"
              for path in (ROOT / "layered_plugin").rglob("*")}
    wanted |= {path: f"layered_plugin/_base/{path.relative_to(base)}" for path in base.rglob("*")}
    wanted |= {ROOT / name: f"layered_plugin/commands/{name}" for name in ("train_layered.py", "invert.py", "eval.py")}
    kept = {name for path, name in wanted.items() if path.is_file() and "__pycache__" not in path.parts}
    assert kept == {name for name in names if not name.startswith(info)}
    assert {Path(name).suffix for name in kept} >= {".py", ".typed", ".html", ".cpp", ".cu", ".h"}


def test_source_distribution_holds_all_that_a_build_needs(sources):
    run(sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('dist')", cwd=sources)
    (path,) = (sources / "dist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = [path for name in SOURCES for path in [sources / name, *(sources / name).rglob("*")] if path.is_file()]
    assert {str(path.relative_to(sources)) for path in files} <= names


def test_installed_commands_train_in_any_folder(scripts, tmp_path):
    run(scripts / "layered-data", "shapes", "--dest=shapes.zip", "--num=3", "--size=18", cwd=tmp_path)
    run(scripts / "layered-train", "--outdir=runs", "--data=shapes.zip", "--cfg=demo", "--resolution=16", "--cbase=64",
        "--cmax=4", "--w-dim=8", "--batch=8", "--kimg=0.016", "--snap=1", "--tick=0.1", "--device=cpu",
        "--precision=fp32", cwd=tmp_path)
    (folder,) = (tmp_path / "runs").iterdir()
    last = json.loads((folder / "stats.jsonl").read_text().splitlines()[-1])
    assert last["Progress/kimg"]["mean"] == 0.016
    base = json.loads((folder / "training_options.json").read_text())["base"]
    assert base == f"bundled ({next(scripts.parent.glob('lib/python*/site-packages'))}/layered_plugin/_base)"
    log = (folder / "log.txt").read_text()
    assert "Command: layered-train --outdir=runs" in log and "Cannot build" not in log


def test_help_of_installed_commands_shows_them_as_they_are_called(scripts, tmp_path):
    code = ("import sys, importlib.metadata as m, click.testing as t\n"
            "for entry in m.distribution('layered-plugin').entry_points:\n"
            "    sys.argv = [entry.name, '--help']\n"
            "    try: entry.load()()\n"
            "    except SystemExit: pass\n"
            "sys.argv = ['layered-eval', 'real', '--help']; entry = m.entry_points(name='layered-eval')\n"
            "list(entry)[0].load()()")
    shown = run(scripts / "python", "-c", code, cwd=tmp_path, COLUMNS="100").stdout
    for name in ("train", "invert", "eval", "data", "generate", "export", "projector", "style-mixing", "app"):
        assert f"Usage: layered-{name} " in shown
    assert "  layered-train --outdir=runs --data=data/shapes.zip --cfg=demo" in shown
    assert "  layered-eval real --model=" in shown
    assert "python train_layered.py" not in shown and "python -m" not in shown


def test_installed_package_leaves_the_names_of_the_base_to_others(scripts, tmp_path):
    code = ("import importlib.util as u\n"
            "print([n for n in ('training', 'legacy', 'dnnlib', 'torch_utils', 'eval', 'invert') if u.find_spec(n)])")
    assert run(scripts / "python", "-c", code, cwd=tmp_path).stdout.strip() == "[]"


def test_version_is_that_of_the_package(wheel):
    import layered_plugin

    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Version"] == layered_plugin.__version__
