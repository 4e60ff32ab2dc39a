"""Tests of dnnlib: attribute dicts, name lookup, files and downloads, logging.

Downloads are served by a server on the loopback interface.
"""

import copy
import hashlib
import http.server
import math
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import dnnlib
import numpy as np
import pytest
import requests
from dnnlib import download, util


def test_easy_dict_maps_attributes_to_items() -> None:
    d = dnnlib.EasyDict(a=1, nested={"b": 2})
    d.c = 3
    del d.a
    assert d == {"nested": {"b": 2}, "c": 3} and d["c"] == 3
    assert type(d.nested) is dict
    with pytest.raises(AttributeError):
        _ = d.missing
    with pytest.raises(AttributeError):
        del d.missing


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_easy_dict_keeps_its_type_when_copied(clone) -> None:
    d = clone(dnnlib.EasyDict(a=[1]))
    assert type(d) is dnnlib.EasyDict and d.a == [1]
    assert type(d).__module__ == "dnnlib.util"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("numpy.pi", math.pi),
        ("np.pi", math.pi),
        ("numpy.linalg.norm", np.linalg.norm),
        ("collections.OrderedDict.fromkeys.__name__", "fromkeys"),
        ("dnnlib.util", util),
    ],
)
def test_get_obj_by_name_resolves(name: str, expected) -> None:
    assert util.get_obj_by_name(name) == expected


def _package(root: Path, monkeypatch, name: str, **files: str) -> None:
    (root / name).mkdir()
    for stem, text in {"__init__": "", **files}.items():
        (root / name / f"{stem}.py").write_text(text)
    monkeypatch.syspath_prepend(str(root))


def test_names_that_only_start_like_a_shorthand_are_kept(tmp_path: Path, monkeypatch) -> None:
    _package(tmp_path, monkeypatch, "npz_pkg", inner="value = 7")
    assert util.get_obj_by_name("npz_pkg.inner.value") == 7


@pytest.mark.parametrize(
    ("text", "name", "error", "message"),
    [
        ("import does_not_exist_xyz", "pkg_a.broken.x", ModuleNotFoundError, "does_not_exist_xyz"),
        ("raise ImportError('half installed')", "pkg_a.broken.x", ImportError, "half installed"),
        ("", "pkg_a.broken.x", AttributeError, "x"),
        ("", "no_such_package_xyz.a.b", ImportError, "no_such_package_xyz"),
        ("", "", ValueError, "obj_name"),
    ],
)
def test_get_obj_by_name_reports_the_cause(tmp_path, monkeypatch, text, name, error, message) -> None:
    _package(tmp_path, monkeypatch, "pkg_a", broken=text)
    for module in ("pkg_a", "pkg_a.broken"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(error, match=message):
        util.get_obj_by_name(name)


def test_construct_and_call_by_name_pass_arguments() -> None:
    assert util.construct_class_by_name([("a", 1)], class_name="dnnlib.EasyDict", b=2) == {"a": 1, "b": 2}
    assert util.call_func_by_name(9.0, func_name="math.sqrt") == 3
    for func, argument in ((util.construct_class_by_name, "class_name"), (util.call_func_by_name, "func_name")):
        with pytest.raises(ValueError, match=argument):
            func()
    with pytest.raises(ValueError, match="math.pi"):
        util.call_func_by_name(func_name="math.pi")


def test_top_level_function_names() -> None:
    assert util.is_top_level_function(util.format_time)
    assert util.get_top_level_function_name(util.format_time) == "dnnlib.util.format_time"
    assert not util.is_top_level_function(lambda: None)
    with pytest.raises(ValueError, match="obj"):
        util.get_top_level_function_name(3)
    assert util.get_module_dir_by_obj_name("dnnlib.EasyDict") == str(Path(dnnlib.__file__).parent)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (185, "3m 05s"),
        (3723, "1h 02m 03s"),
        (2 * 86400 + 3 * 3600 + 4 * 60 + 59, "2d 03h 04m"),
    ],
)
def test_format_time(seconds: float, text: str) -> None:
    assert util.format_time(seconds) == text


def test_logger_copies_both_streams_and_gives_them_back(tmp_path: Path, capsys) -> None:
    before = sys.stdout, sys.stderr
    log = tmp_path / "log.txt"
    with util.Logger(str(log), file_mode="a"):
        print("out")
        print("err", file=sys.stderr)
        sys.stdout.write(b"bytes\n")
        assert log.read_text() == "out\nerr\nbytes\n"
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "out\nerr\nbytes\n"
    with util.Logger() as logger:
        logger.close()
        assert (sys.stdout, sys.stderr) == before


def test_cache_dir_precedence(monkeypatch) -> None:
    monkeypatch.delenv("DNNLIB_CACHE_DIR", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("USERPROFILE", "/profile")
    assert dnnlib.make_cache_dir_path("a") == "/profile/.cache/dnnlib/a"
    monkeypatch.setenv("HOME", "/home/x")
    assert dnnlib.make_cache_dir_path() == "/home/x/.cache/dnnlib"
    monkeypatch.setenv("DNNLIB_CACHE_DIR", "/env")
    assert dnnlib.make_cache_dir_path("a", "b") == "/env/a/b"
    monkeypatch.setattr(download, "_cache_dir", None)
    util.set_cache_dir("/set")
    assert dnnlib.make_cache_dir_path("a") == "/set/a"


def test_open_url_reads_local_files(tmp_path: Path) -> None:
    path = tmp_path / "f ile.bin"
    path.write_bytes(b"abc")
    for url in (str(path), path.as_uri()):
        with util.open_url(url) as file:
            assert file.read() == b"abc"
        assert util.open_url(url, return_filename=True) == str(path)
    with pytest.raises(FileNotFoundError, match="missing"):
        util.open_url(str(tmp_path / "missing"))


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server that fails the first request to /flaky and counts all of them."""
    requested: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            status = 404 if self.path == "/absent" else 503 if self.path == "/flaky" and len(requested) == 1 else 200
            self.send_response(status)
            self.end_headers()
            self.wfile.write(self.path.encode())

        def log_message(self, *args) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", requested
        httpd.shutdown()
        thread.join()


def test_open_url_downloads_once_into_the_cache(tmp_path: Path, server) -> None:
    base, requested = server
    url = f"{base}/dir/net%3F.pkl"
    for _attempt in range(2):
        with util.open_url(url, cache_dir=str(tmp_path), verbose=False) as file:
            assert file.read() == b"/dir/net%3F.pkl"
    expected = tmp_path / f"{hashlib.md5(url.encode()).hexdigest()}_net_3F.pkl"
    assert util.open_url(url, cache_dir=str(tmp_path), return_filename=True) == str(expected)
    assert [p.name for p in tmp_path.iterdir()] == [expected.name]
    assert len(requested) == 1


def test_open_url_retries_failures_of_the_server_only(tmp_path: Path, server, monkeypatch) -> None:
    monkeypatch.setattr(download, "_RETRY_DELAY_S", 0)
    base, requested = server
    assert util.open_url(f"{base}/flaky", cache=False, verbose=False).read() == b"/flaky"
    with pytest.raises(requests.exceptions.HTTPError, match="404"):
        util.open_url(f"{base}/absent", cache_dir=str(tmp_path), verbose=False)
    assert requested == ["/flaky", "/flaky", "/absent"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kwargs", "name"), [({"num_attempts": 0}, "num_attempts"), ({"return_filename": True, "cache": False}, "cache")]
)
def test_open_url_refuses_wrong_arguments(kwargs, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        util.open_url("x", **kwargs)


@pytest.mark.parametrize(
    ("obj", "allow", "expected"),
    [
        ("http://a.b/c", False, True),
        ("a/b", False, False),
        (3, False, False),
        ("file:///x", False, False),
        ("file:///x", True, True),
        ("http://", False, False),
    ],
)
def test_is_url(obj, allow: bool, expected: bool) -> None:
    assert util.is_url(obj, allow_file_urls=allow) is expected


def test_file_listing_and_copying(tmp_path: Path) -> None:
    source = tmp_path / "src"
    for name in ("a.py", "skip/b.py", "sub/c.py", "sub/d.pyc"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    found = util.list_dir_recursively_with_ignore(str(source), ignores=["skip", "*.pyc"], add_base_to_relative=True)
    assert found == [(str(source / "a.py"), "src/a.py"), (str(source / "sub/c.py"), "src/sub/c.py")]
    util.copy_files_and_create_dirs([(path, str(tmp_path / "out" / rel)) for path, rel in found])
    assert (tmp_path / "out/src/sub/c.py").read_text() == "sub/c.py"
    with pytest.raises(ValueError, match="dir_path"):
        util.list_dir_recursively_with_ignore(str(tmp_path / "missing"))


def test_small_helpers(monkeypatch, capsys) -> None:
    assert util.tuple_product((2, 3, 4)) == 24
    dtype, ctype = util.get_dtype_and_ctype("uint8")
    assert dtype == np.uint8 and ctype(255).value == 255
    with pytest.raises(ValueError, match="type_obj"):
        util.get_dtype_and_ctype("nonsense")
    assert util.is_pickleable([1]) and not util.is_pickleable(lambda: None)
    answers = iter(["what", "YES"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(answers))
    assert util.ask_yes_no("Sure?") is True
