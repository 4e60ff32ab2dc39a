"""Choice and activation of the base: each case in a fresh process, since a base is imported once."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

from layered_plugin.base import BUNDLED_DIR, REQUIRED_FILES

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "vendor" / "stylegan2_compat"


def run(code: str, cwd=ROOT, **env) -> subprocess.CompletedProcess:
    clean = {key: value for key, value in os.environ.items() if key != "STYLEGAN2_ADA_PYTORCH"}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, text=True, capture_output=True,
                          env=dict(clean, PYTHONPATH=str(ROOT), **env))


@pytest.fixture
def checkout(tmp_path):
    """A folder laid out like an official checkout; it holds our own sources, the official ones are not here."""
    path = tmp_path / "stylegan2-ada-pytorch"
    shutil.copytree(BUNDLED, path, ignore=shutil.ignore_patterns("__pycache__"))
    return path


def test_bundled_base_is_the_default_and_leaves_pytorch_as_it_is():
    done = run("import layered_plugin, training; from torch.utils import cpp_extension as ext; "
               "print(layered_plugin.BASE.name, training.__path__[0], hasattr(ext.load, 'registers_module'))")
    assert done.stdout.split() == ["bundled", str(BUNDLED / "training"), "False"], done.stderr


def test_environment_variable_chooses_a_checkout_from_which_plugin_classes_derive(checkout):
    done = run("import inspect, layered_plugin; from layered_plugin.model.generator import LayeredGenerator as L; from "
               "training.networks import Generator as G\n"
               "print(layered_plugin.BASE, issubclass(L, G), inspect.getfile(G.__mro__[1]))",
               STYLEGAN2_ADA_PYTORCH=str(checkout))
    networks = str(checkout / "training/networks.py")
    assert done.stdout.split() == ["official", f"({checkout})", "True", networks], done.stderr


def test_a_base_that_is_already_imported_is_kept(checkout):
    code = (f"import sys; sys.path.insert(0, {str(checkout)!r}); import dnnlib, layered_plugin; "
            "print(layered_plugin.BASE)")
    assert run(code).stdout.strip() == f"official ({checkout})"


@pytest.mark.parametrize("damage, words", [
    (lambda path: shutil.rmtree(path), ["no such folder", "STYLEGAN2_ADA_PYTORCH"]),
    (lambda path: (path / "training/networks.py").unlink(), ["lacks training/networks.py", "root of a"]),
    (lambda path: (path / "torch_utils/ops/conv2d_resample.py").unlink(), ["lacks torch_utils/ops/conv2d_resample.py"]),
    (lambda path: (path / "dnnlib/__init__.py").unlink(), ["lacks dnnlib/__init__.py"]),
    (lambda path: [(path / "legacy.py").unlink(), (path / "dnnlib/tflib").mkdir()], ["TensorFlow version"]),
])
def test_unusable_checkout_says_what_is_wrong(checkout, damage, words):
    damage(checkout)
    done = run("import layered_plugin", STYLEGAN2_ADA_PYTORCH=str(checkout))
    assert done.returncode != 0
    assert str(checkout) in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("call", [["train_layered.py"], ["-m", "layered_plugin.generate"]])
def test_commands_report_an_unusable_checkout_without_a_traceback(call, tmp_path):
    env = dict(os.environ, STYLEGAN2_ADA_PYTORCH=str(tmp_path / "nowhere"))
    done = subprocess.run([sys.executable, *call, "--help"], cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "no such folder" in done.stderr


def test_options_of_a_run_name_the_base(checkout, tmp_path):
    (tmp_path / "pictures").mkdir()
    PIL.Image.new("RGB", (16, 16)).save(tmp_path / "pictures/a.png")
    done = subprocess.run([sys.executable, "train_layered.py", f"--outdir={tmp_path}", f"--data={tmp_path}/pictures",
                           "-n"], cwd=ROOT, env=dict(os.environ, STYLEGAN2_ADA_PYTORCH=str(checkout)), text=True,
                          capture_output=True)
    assert json.loads(done.stdout)["base"] == f"official ({checkout})", done.stderr


def test_official_base_gets_distutils_and_a_registering_loader(checkout):
    code = ("import sys\n"
            "from torch.utils import cpp_extension\n"
            "sys.modules.update({'distutils': None, 'distutils.util': None})\n"  # As if there were none.
            "import layered_plugin\n"
            "from distutils.util import strtobool\n"
            "print(strtobool('yes'), strtobool('off'), cpp_extension.load.registers_module)")
    done = run(code, STYLEGAN2_ADA_PYTORCH=str(checkout))
    assert done.stdout.split() == ["1", "0", "True"], done.stderr


def test_all_that_the_plugin_imports_of_a_base_is_required_of_it():
    files = set()
    for path in (ROOT / "layered_plugin").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            candidates = {f"{name.replace('.', '/')}{end}" for name in names for end in (".py", "/__init__.py")}
            files |= {name for name in candidates if (BUNDLED_DIR / name).is_file()}
    assert len(files) > 5 and files <= set(REQUIRED_FILES)
