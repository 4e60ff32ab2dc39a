"""Tests of torch_utils.persistence: the pickle format, copies, subclasses and import hooks.

Classes live in modules written to a temporary directory, since the mechanism needs source files.
"""

import copy
import importlib
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import dnnlib
import pytest
import torch
from torch_utils import persistence

_SOURCE = """
import torch
from torch_utils.persistence import persistent_class

@persistent_class
class Net(torch.nn.Module):
    def __init__(self, width, extra=None):
        super().__init__()
        self.linear = torch.nn.Linear(width, 2)
        self.extra = extra

    def forward(self, x):
        return self.linear(x) * FACTOR

@persistent_class
class Child(Net):
    def __init__(self, name):
        super().__init__(3, extra=name)
        self.inner = Net(width=1)

    def who(self):
        return "child"

class Plain(Net):
    def who(self):
        return "plain"

@persistent_class
class Record:
    def __init__(self, value):
        self.value = value
        self.transient = value

    def __getstate__(self):
        return dict(self.__dict__, transient=None)

FACTOR = 10
"""


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch):
    """Return a function that writes a module, imports it, and forgets it after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Of a source that changes within a second it would be old.

    def write(text: str = _SOURCE, name: str = "persistent_example"):
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return write


@pytest.fixture
def in_new_process(monkeypatch):
    """Return a function that forgets all known sources, as a process does that only unpickles."""

    def forget() -> None:
        monkeypatch.setattr(persistence, "_module_of_text", {})

    return forget


def test_decorated_class_reports_name_and_module(write_module) -> None:
    Net = write_module().Net
    assert Net.__name__ == "Net" and Net.__module__ == "torch_utils.persistence" and "<locals>" in Net.__qualname__
    assert persistence.persistent_class(Net) is Net


def test_is_persistent_means_exactly_the_decorated_type(write_module) -> None:
    module = write_module()
    assert persistence.is_persistent(module.Net) and persistence.is_persistent(module.Net(1))
    assert not persistence.is_persistent(module.Plain) and not persistence.is_persistent(module.Plain(1))
    assert not persistence.is_persistent([]) and not persistence.is_persistent(module.Net.__mro__[1])


def test_constructor_arguments_are_stored_as_copies(write_module) -> None:
    extra = [1]
    net = write_module().Net(3, extra=extra)
    extra.append(2)
    net.init_kwargs.extra.append(3)
    assert net.init_args == (3,) and net.init_kwargs == {"extra": [1]}
    assert type(net.init_kwargs) is dnnlib.EasyDict
    assert net._init_args == (3,) and net._init_kwargs == {"extra": [1]}


def test_reduce_gives_the_version_6_description(write_module) -> None:
    net = write_module().Net(3)
    function, (meta,) = net.__reduce__()
    assert function is persistence._reconstruct_persistent_obj
    assert set(meta) == {"type", "version", "module_src", "class_name", "state"}
    assert (meta["type"], meta["version"], meta["module_src"], meta["class_name"]) == ("class", 6, _SOURCE, "Net")
    assert meta["state"] == net.__dict__ and {"_init_args", "_init_kwargs"} <= set(meta["state"])


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_keep_type_values_and_independence(write_module, clone) -> None:
    module = write_module()
    net = module.Child(name="x")
    twin = clone(net)
    x = torch.randn(4, 3)
    assert type(twin) is module.Child and type(twin.inner) is module.Net and twin.who() == "child"
    assert torch.equal(twin(x), net(x)) and twin.init_kwargs == {"name": "x"}
    with torch.no_grad():
        net.linear.weight.zero_()
    assert not torch.equal(twin(x), net(x))


def test_undecorated_subclass_becomes_its_base(write_module) -> None:
    module = write_module()
    twin = copy.deepcopy(module.Plain(2))
    assert type(twin) is module.Net and not hasattr(twin, "who")


def test_unknown_source_runs_in_a_module_without_package(write_module, in_new_process) -> None:
    module = write_module()
    net = module.Child(name="x")
    data = pickle.dumps(net)
    in_new_process()
    twin = pickle.loads(data)
    home = sys.modules[type(twin).__mro__[1].__module__]
    assert home.__name__.startswith("_imported_module_") and not hasattr(home, "__file__")
    assert type(twin) is not module.Child and type(twin) is home.Child and persistence.is_persistent(twin)
    x = torch.randn(4, 3)
    assert torch.equal(twin(x), net(x))
    assert type(pickle.loads(data)) is type(twin)
    assert type(pickle.loads(pickle.dumps(twin))) is type(twin)


def test_pickle_outlives_changes_of_the_source(write_module) -> None:
    module = write_module()
    net = module.Net(3)
    data = pickle.dumps(net)
    changed = write_module(_SOURCE.replace("FACTOR = 10", "FACTOR = 20"))
    x = torch.randn(4, 3)
    assert torch.equal(pickle.loads(data)(x), net(x))
    assert torch.allclose(net(x) * 2, changed.FACTOR * net.linear(x))


def test_pickle_loads_in_a_process_without_the_module(write_module, tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps(write_module().Child(name="x")))
    code = f"import pickle; net = pickle.load(open({str(path)!r}, 'rb')); print(net.who(), net.init_kwargs)"
    base = str(Path(persistence.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=base, env={"PYTHONPATH": base, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.split() == ["child", "{'name':", "'x'}"]


def test_failing_source_can_be_tried_again(write_module, in_new_process, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "late_dependency_xyz", torch)
    data = pickle.dumps(write_module("import late_dependency_xyz\n" + _SOURCE).Net(1))
    in_new_process()
    monkeypatch.delitem(sys.modules, "late_dependency_xyz")
    with pytest.raises(ModuleNotFoundError, match="late_dependency_xyz"):
        pickle.loads(data)
    monkeypatch.setitem(sys.modules, "late_dependency_xyz", torch)
    assert type(pickle.loads(data)).__name__ == "Net"


@pytest.mark.filterwarnings("ignore:can't resolve package:ImportWarning")  # comes with the error that is tested
def test_relative_imports_fail_when_unpickled(tmp_path: Path, write_module, in_new_process) -> None:
    (tmp_path / "rel_pkg").mkdir()
    (tmp_path / "rel_pkg/__init__.py").write_text("")
    (tmp_path / "rel_pkg/part.py").write_text("from . import __name__ as package\n" + _SOURCE)
    write_module("", name="unrelated")
    data = pickle.dumps(importlib.import_module("rel_pkg.part").Net(1))
    assert type(pickle.loads(data)).__name__ == "Net"
    in_new_process()
    with pytest.raises(ImportError):
        pickle.loads(data)


def test_getstate_of_the_class_is_respected(write_module) -> None:
    twin = copy.deepcopy(write_module().Record(value=[5]))
    assert twin.value == [5] and twin.transient is None


@pytest.mark.parametrize("bad", [lambda: None, (i for i in range(3)), threading.Lock()])
def test_attributes_that_do_not_pickle_fail_at_construction(write_module, bad) -> None:
    module = write_module(_SOURCE.replace("self.value = value", "self.value = VALUE"))
    module.VALUE = [{"deep": bad}]
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        module.Record(value=1)


def test_class_must_keep_its_name(write_module) -> None:
    module = write_module()
    Net = module.Net
    del module.Net
    with pytest.raises(AssertionError, match="Net"):
        Net(1)


def test_import_hooks_rewrite_descriptions(write_module, monkeypatch) -> None:
    monkeypatch.setattr(persistence, "_hooks", [])
    data = pickle.dumps(write_module().Net(2, extra="before"))

    @persistence.import_hook
    def rename(meta):
        assert (meta.version, meta.class_name) == (6, "Net")
        meta.state.extra = "after"
        return meta

    assert pickle.loads(data).extra == "after"
    assert callable(rename)
    persistence.import_hook(lambda meta: None)
    with pytest.raises(ValueError, match="hook"):
        pickle.loads(data)
    with pytest.raises(ValueError, match="`hook`"):
        persistence.import_hook("not callable")


@pytest.mark.parametrize(
    ("change", "message"), [({"version": 5}, "version"), ({"type": "function"}, "function"), ({"class_name": "Q"}, "Q")]
)
def test_other_descriptions_are_refused(write_module, change, message: str) -> None:
    function, (meta,) = write_module().Net(2).__reduce__()
    with pytest.raises(pickle.UnpicklingError, match=message):
        function({**meta, **change})


def test_only_classes_can_be_decorated() -> None:
    with pytest.raises(ValueError, match="`orig_class`"):
        persistence.persistent_class(lambda: None)
