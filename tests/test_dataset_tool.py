"""Import of any source: results that training and scoring take, whole files or none, options that are named."""

import json
import weakref

import PIL.Image
import pytest
from click.testing import CliRunner
from command_examples import check_options
from downloads import make_flowers, read_pictures, run, run_ok

import train_layered
from layered_plugin import dataset_tool
from layered_plugin.data.dataset import PictureDataset
from layered_plugin.data.downloads import Entry, write_entries
from layered_plugin.data.pictures import PictureSource
from layered_plugin.evaluation.teachers import MaskTeacher


def test_results_fit_training_and_scoring_as_they_are(tmp_path):
    source = make_flowers(tmp_path / "flowers")
    run_ok("flowers", f"--source={source}", f"--dest={tmp_path}/p.zip", f"--masks={tmp_path}/m.zip", "--size=18")
    pictures = PictureSource(tmp_path / "p.zip")
    MaskTeacher(tmp_path / "m.zip").check_names(pictures.names, "p.zip")
    result = CliRunner().invoke(train_layered.main, ["--outdir=runs", f"--data={tmp_path}/p.zip", "--cond=1", "-n"])
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout)
    assert config["resolution"] == 16 and config["training_set_kwargs"]["size_px"] == 18
    data = PictureDataset(path=tmp_path / "p.zip", use_labels=True)
    assert data.label_dim == 102 and data.get_label(2).argmax() == 2
    data.close()


def test_only_one_picture_is_in_memory_at_a_time(tmp_path):
    pictures = []

    def load():
        assert sum(picture() is not None for picture in pictures) <= 1  # The previous one.
        picture = PIL.Image.new("RGB", (20, 20))
        pictures.append(weakref.ref(picture))
        return picture, None

    write_entries((Entry(str(number), load) for number in range(5)), 5, str(tmp_path / "a.zip"), None,
                              8, "squeeze")
    assert len(read_pictures(tmp_path / "a.zip")) == 5


def test_an_error_midway_leaves_the_old_files(tmp_path):
    def load():
        raise OSError("disk gone")

    for name in ("a.zip", "m.zip"):
        (tmp_path / name).write_bytes(b"old")
    with pytest.raises(OSError, match="disk gone"):
        write_entries([Entry("1", load)], 1, str(tmp_path / "a.zip"), str(tmp_path / "m.zip"), 8, "crop")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.zip": b"old", "m.zip": b"old"}


@pytest.mark.parametrize("name", ["shapes", "composites", "lsun", "folders", "cub", "flowers"])
def test_help_explains_every_option(name):
    command = dataset_tool.main.commands[name]
    check_options(command, run_ok(name, "--help").output)


@pytest.mark.parametrize("args, text", [
    (["lsun", "--source=a", "--dest=a.tar"], "--dest must end in .zip, got a.tar"),
    (["lsun", "--source=a.zip", "--dest=a.zip"], "--dest must differ from --source"),
    (["cub", "--source=a", "--dest=a.zip", "--masks=a.zip"], "--masks must differ from --dest"),
    (["cub", "--source=a", "--dest=a.zip", "--masks=./a.zip"], "--masks must differ from --dest, got ./a.zip for both"),
    (["cub", "--source=a", "--dest=a.zip", "--margin=0.5"], "--margin needs --crop-box"),
    (["cub", "--source=a", "--dest=a.zip", "--split=val"], "--split"),
    (["flowers", "--source=a", "--dest=a.zip", "--fit=stretch"], "--fit"),
    (["folders", "--source=a", "--dest=a.zip", "--size=4"], "--size"),
    (["lsun", "--source=a", "--dest=a.zip", "--num=0"], "--num"),
    (["lsun", "--dest=a.zip"], "--source"),
])
def test_wrong_options_are_named(args, text):
    result = run(*args)
    assert result.exit_code == 2 and text in result.output, result.output
