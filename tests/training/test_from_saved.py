"""--resume and --init-from with a folder of `export generator`: its networks, of which nothing is unpickled."""

import legacy
import pytest
import torch
from click.testing import CliRunner
from tiny_models import make_discriminator, make_gan_run, make_generator
from training.networks import Discriminator, Generator

import train_layered
from layered_plugin.errors import CheckpointError
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.model.weights_file import save_generator
from layered_plugin.training import setup


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """The folder, and the networks in it."""
    networks = load_snapshot(make_gan_run(tmp_path / "run"))
    (tmp_path / "my-cars").mkdir()
    save_generator(tmp_path / "my-cars", networks)
    monkeypatch.setattr(legacy, "load_network_pkl", lambda *_: pytest.fail("unpickled"))
    return tmp_path / "my-cars", networks


def test_weights_of_the_folder_go_into_a_new_run(data, tmp_path, monkeypatch, saved):
    folder, networks = saved
    launched = []
    monkeypatch.setattr(train_layered, "launch", lambda config, _outdir, desc, _find: launched.append((config, desc)))
    args = [f"--outdir={tmp_path / 'out'}", f"--data={data}", "--device=cpu", f"--resume={folder}"]
    result = CliRunner().invoke(train_layered.main, args)
    assert result.exit_code == 0 and "loading a pickle runs its code" not in result.stderr, result.output
    ((config, desc),) = launched
    assert config["resume_pkl"] == str(folder) and config["run_dir"] is None and desc.endswith("-resumecustom")

    modules = dict(G=make_generator(1), D=make_discriminator(1), G_ema=make_generator(2))
    said = []
    setup.transfer(config["resume_pkl"], modules, said.append)
    assert "unpickling" not in " ".join(said)
    for name, module in modules.items():
        for key, value in networks[name].state_dict().items():
            assert torch.equal(module.state_dict()[key], value), (name, key)


def test_a_run_that_holds_such_a_folders_files_goes_on_as_a_run(data, tmp_path, saved):
    folder, _networks = saved
    (folder / "training-state-000000.pt").write_bytes(b"")
    result = CliRunner().invoke(train_layered.main, [f"--outdir={tmp_path}", f"--resume={folder}"])
    assert result.exit_code == 1 and f"Error: --resume: {folder}/training_options.json" in result.stderr


@pytest.mark.parametrize("theirs, ours, words", [
    (3, 0, "takes labels of 3 classes, and this run has no labels; add `cond`=1"),
    (0, 3, "takes no labels, and this run has labels of 3 classes; leave `cond` out"),
    (3, 5, "takes labels of 3 classes, and this run has labels of 5 classes; take pictures of as many classes"),
])
@pytest.mark.parametrize("name", ["G", "D"])
def test_networks_of_other_labels_are_said_to_be_such(monkeypatch, name, theirs, ours, words):
    kwargs = dict(channel_base=64, channel_max=4)
    make = {"G": lambda c_dim: Generator(8, c_dim, 8, 16, 3, synthesis_kwargs=kwargs),
            "D": lambda c_dim: Discriminator(c_dim, 16, 3, **kwargs)}[name]
    monkeypatch.setattr(setup, "read_networks", lambda path: {name: make(theirs)})
    with pytest.raises(CheckpointError, match=f"`resume`: {name} of a.pkl {words}"):
        setup.transfer("a.pkl", {name: make(ours)}, print)


def test_layers_are_no_ordinary_generator(data, tmp_path, saved):
    result = CliRunner().invoke(train_layered.main, [f"--outdir={tmp_path}", f"--data={data}", "--device=cpu",
                                                     f"--init-from={saved[0]}"])
    assert result.exit_code == 1
    assert f"Error: --init-from: {saved[0]} draws layers already; go on from it with --resume" in result.stderr


@pytest.mark.parametrize("option", ["--resume", "--init-from"])
def test_folder_of_something_else_is_named(data, tmp_path, option):
    (tmp_path / "else").mkdir()
    result = CliRunner().invoke(train_layered.main, [f"--outdir={tmp_path}", f"--data={data}", "--device=cpu",
                                                     f"{option}={tmp_path / 'else'}"])
    assert result.exit_code == 1 and f"Error: {option}: {tmp_path / 'else'}" in result.stderr, result.output
