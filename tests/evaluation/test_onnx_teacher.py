"""ONNX networks as teachers: what they are shown, what of their output is object, masks kept, misfits named."""

import json
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner
from tiny_models import make_model, write_network

import eval as eval_script
from layered_plugin.errors import MissingLibraryError, TeacherError
from layered_plugin.evaluation.onnx_teacher import OnnxTeacher
from layered_plugin.report.tables import teacher_name


def picture(height=20, width=30, level=200):
    """The left half is bright."""
    img = np.zeros((height, width, 3), np.uint8)
    img[:, : width // 2] = level
    return img


@pytest.fixture
def teacher(tmp_path):
    def make(size_px=16, mean=(128.0,), scale=(256.0,), **network):
        return OnnxTeacher(write_network(tmp_path / "net.onnx", **network), size_px, mean, scale, tmp_path / "cache")
    return make


# What it is shown, and what it says.

def test_object_is_where_the_output_is_at_least_a_half(teacher):
    (mask,) = teacher(mean=[0.0], scale=[255.0])([picture()], ["a"])  # Brightness in [0, 1].
    assert mask.dtype == bool and mask.shape == (20, 30)
    assert mask[:, :13].all() and not mask[:, 17:].any()
    assert teacher(mean=[0.0], scale=[255.0])([picture(level=120)], ["a"]) == [None]


def test_output_that_leaves_0_to_1_is_logits(teacher):
    network = teacher()  # (level - 128) / 256, IS-Net's numbers: below 0 on dark ground.
    (mask,) = network([picture(level=140)], ["a"])
    assert mask[:, :13].all() and not mask[:, 17:].any()
    assert network([picture(level=110)], ["a"]) == [None]


def test_each_channel_has_its_mean_and_scale(teacher):
    img = np.zeros((8, 8, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    network = teacher(size_px=8, mean=(10, 10, 10), scale=(1, 2, 4))
    shown = network._session.run(["other"], {"picture": np.zeros([1, 3, 8, 8], np.float32)})[0]
    assert shown.shape == (1, 3, 8, 8)
    asked = network._ask(img, "a")  # Mean of 0, 5 and 5, then a sigmoid.
    np.testing.assert_allclose(asked, 1 / (1 + np.exp(-10 / 3)), rtol=1e-5)


def test_side_is_the_files_own_or_the_one_given_or_that_of_isnet(tmp_path, teacher):
    fixed, free = write_network(tmp_path / "a.onnx", side=24), write_network(tmp_path / "b.onnx")
    assert [OnnxTeacher(fixed, cache=tmp_path).size_px, OnnxTeacher(free, 40, cache=tmp_path).size_px,
            OnnxTeacher(free, cache=tmp_path).size_px] == [24, 40, 1024]
    (mask,) = OnnxTeacher(fixed, cache=tmp_path)([picture(50, 11)], ["a"])
    assert mask.shape == (50, 11)


# Masks that are kept.

def test_a_picture_is_asked_once_whatever_its_name(teacher):
    network = teacher()
    first = network([picture(), picture(10, 10)], ["a", "b"])
    again = teacher()  # Another process.
    again._session = None  # Can't be asked.
    for mask, expected in zip(again([picture(10, 10), picture()], ["c", "d"]), first[::-1], strict=True):
        np.testing.assert_array_equal(mask, expected)
    assert len(list(network.cache.iterdir())) == 2  # No temporary files either.


@pytest.mark.parametrize("other", [dict(gain=2.0), dict(mean=(3.0,)), dict(scale=(8.0,)), dict(size_px=8)])
def test_another_network_or_another_number_is_asked_anew(teacher, other):
    assert teacher(**other).cache != teacher().cache


def test_pictures_that_differ_have_masks_of_their_own(teacher):
    network = teacher()
    flat = np.zeros((4, 6, 3), np.uint8)
    network([flat, flat.reshape(6, 4, 3), flat + np.uint8(1)], ["a", "b", "c"])  # The first two: the same bytes.
    assert len(list(network.cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["", "no picture", "of another size"])
def test_damaged_mask_is_made_anew(teacher, damage):
    network = teacher()
    (expected,) = network([picture()], ["a"])
    (file,) = network.cache.iterdir()
    if damage == "of another size":
        PIL.Image.new("L", (3, 3)).save(file)
    else:
        file.write_text(damage)
    np.testing.assert_array_equal(network([picture()], ["a"])[0], expected)
    with PIL.Image.open(file) as kept:
        assert kept.size == (30, 20)


# Misfits.

@pytest.mark.parametrize("network, size_px, text", [
    (dict(side=24), 16, "takes pictures of 24x24 only, not of a square of 16"),
    (dict(channels=1), None, "must take one picture, [1, 3, S, S] of float32, but takes picture [1, 1,"),
])
def test_network_of_another_input_is_refused(tmp_path, network, size_px, text):
    path = write_network(tmp_path / "net.onnx", **network)
    with pytest.raises(TeacherError) as err:
        OnnxTeacher(path, size_px, cache=tmp_path)
    assert f"{path}: {text}" in str(err.value)


def test_network_whose_output_is_no_mask_is_named(teacher):
    with pytest.raises(TeacherError, match=r"net\.onnx: its first output is \[1, 2, 16, 16\], which is no mask"):
        teacher(num_outputs=2)([picture()], ["a"])


def test_scores_of_classes_are_no_mask(teacher, monkeypatch):
    network = teacher()
    monkeypatch.setattr(network, "_session", SimpleNamespace(
        get_outputs=lambda: [SimpleNamespace(name="scores")], run=lambda *_args: [np.zeros([1, 3], np.float32)]))
    with pytest.raises(TeacherError, match=r"net\.onnx: its first output is \[1, 3\], which is no mask"):
        network([picture()], ["a"])


def test_mask_that_is_not_a_number_is_refused_and_not_kept(teacher):
    network = teacher(gain=float("nan"))
    with pytest.raises(TeacherError, match=r"net\.onnx: its mask of a at 16x16 is not a number"):
        network([picture()], ["a"])
    assert not list(network.cache.iterdir())


def test_file_that_is_no_network_is_named(tmp_path):
    with pytest.raises(TeacherError, match="gone.onnx: no such file"):
        OnnxTeacher(tmp_path / "gone.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(TeacherError, match="bad.onnx: no readable ONNX file"):
        OnnxTeacher(tmp_path / "bad.onnx")


@pytest.mark.parametrize("numbers", [dict(mean=(1, 2)), dict(scale=(0,)), dict(scale=())])
def test_numbers_of_no_use_are_refused(tmp_path, numbers):
    with pytest.raises(ValueError, match=f"argument `{next(iter(numbers))}`"):
        OnnxTeacher(tmp_path / "net.onnx", **numbers)


def test_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'layered-plugin\[onnx\]'"):
        OnnxTeacher(tmp_path / "net.onnx")


# The commands.

@pytest.fixture
def scoring(tmp_path):
    """Arguments of eval.py real but for the teacher."""
    (tmp_path / "pictures").mkdir()
    for idx in range(2):
        PIL.Image.fromarray(picture(20 + idx, 30)).save(tmp_path / "pictures" / f"{idx}.png")
    model = make_model(tmp_path / "model", "distill")
    return ["real", f"--model={model}", f"--data={tmp_path}/pictures", "--baselines=none"]


def test_real_pictures_are_scored_by_it(tmp_path, scoring):
    network = write_network(tmp_path / "net.onnx")
    args = [*scoring, "--teacher=onnx", f"--weights={network}", "--onnx-size=32", "--onnx-mean=100,110,120",
            f"--onnx-cache={tmp_path}/cache"]
    result = CliRunner().invoke(eval_script.main, args)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["teacher"] == dict(kind="onnx", weights=str(network), size_px=32, mean=[100, 110, 120], scale=[256])
    assert record["num_detected"] == 2 and len(list((tmp_path / "cache").glob("*/*.png"))) == 2
    assert teacher_name(record["teacher"]) == "ONNX network net.onnx"


@pytest.mark.parametrize("args, code, text", [
    ([], 2, "--teacher=onnx needs --weights"),
    (["--weights={odd}"], 1, "--weights: {odd}: its first output is [1, 2, "),
    (["--weights={net}", "--class=car"], 2, "--class is for --teacher=maskrcnn"),
    (["--weights={net}", "--onnx-mean=1,2"], 2, "'1,2' is neither one number nor three"),
    (["--weights={net}", "--onnx-scale=1,0,1"], 2, "none of them 0"),
    (["--weights={net}", "--onnx-scale=a"], 2, "--onnx-scale"),
    (["--weights=gone.onnx"], 1, "--weights: gone.onnx: no such file"),
    (["--weights={net}", "--onnx-cache={net}"], 1, "--onnx-cache: can't be written"),
])
def test_wrong_options_are_named(tmp_path, scoring, args, code, text):
    files = dict(net=write_network(tmp_path / "net.onnx"), odd=write_network(tmp_path / "odd.onnx", num_outputs=2))
    result = CliRunner().invoke(eval_script.main, [*scoring, "--teacher=onnx", f"--onnx-cache={tmp_path}/cache",
                                                   *(arg.format(**files) for arg in args)])
    assert result.exit_code == code and text.format(**files) in result.stderr, result.output
    assert "Traceback" not in result.output
