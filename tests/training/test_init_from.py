"""train_layered.py --init-from: layers that start from an ordinary generator."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tiny_models import SIDE, TINY, make_gan_run, make_plain
from training.networks import Discriminator

import train_layered
from layered_plugin import runs, trust
from layered_plugin.dataset_tool import shapes as shapes_command
from layered_plugin.errors import CheckpointError
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.layers import composite
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.training import init_from, presets
from layered_plugin.training.init_from import mask_rows, plain_options, read_plain, start_from_plain, turn_of

SYNTHESIS = dict(channel_base=64, channel_max=8)  # Of ``make_plain``.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "shapes.zip"
    shapes_command([f"--dest={path}", "--num=24", "--size=18", "--seed=0"], standalone_mode=False)
    return path


def invoke(data, path, *args):
    return CliRunner().invoke(train_layered.main, ["--outdir=out", f"--data={data}", f"--init-from={path}",
                                                   "--device=cpu", *args])


def layered(num_objects=1, architecture="skip", c_dim=0, **kwargs):
    return LayeredGenerator(
        z_dim=5, c_dim=c_dim, w_dim=6, img_resolution=SIDE, img_channels=3, num_objects=num_objects,
        mapping_kwargs=dict(num_layers=3, lr_multiplier=0.1),
        synthesis_kwargs=dict(SYNTHESIS, architecture=architecture), **kwargs).requires_grad_(False)


def test_mask_rows_are_those_the_generator_takes_for_logits():
    # Colours of an object, then its logit; where one network draws all, the background's colours come first.
    assert [mask_rows(channels) for channels in (3, 4, 7, 11)] == [[], [3], [6], [6, 10]]


@pytest.mark.parametrize("kwargs", [dict(mapping="shared"), dict(generator="single")])
def test_of_one_mapping_the_picture_stays_what_it_was(tmp_path, monkeypatch, kwargs):
    monkeypatch.setattr(init_from, "MASK_STEPS", 3)
    plain, D = make_plain(tmp_path / "plain.pkl")
    G, G_ema = layered(**kwargs), layered(**kwargs)
    own_D = Discriminator(c_dim=0, img_resolution=SIDE, img_channels=3, **SYNTHESIS).requires_grad_(False)
    start_from_plain(str(tmp_path / "plain.pkl"), G, own_D, G_ema, 0.2, 8, print)
    z = torch.randn(16, 5)
    layers = G_ema.eval()(z, None, noise_mode="const", return_layers=True, truncation_psi=0.7)
    expected = plain(z, None, noise_mode="const", truncation_psi=0.7)
    for picture in (layers.bg, *layers.fg.split(3, dim=1), composite(layers)):
        torch.testing.assert_close(picture, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(G.eval()(z, None, noise_mode="const", truncation_psi=0.7), expected, rtol=1e-4,
                               atol=1e-4)
    assert all(torch.equal(value, own_D.state_dict()[name]) for name, value in D.state_dict().items())
    assert not any(param.requires_grad for param in G.parameters())


@pytest.mark.parametrize("kwargs", [dict(), dict(num_objects=2), dict(architecture="resnet"), dict(c_dim=3)])
def test_each_part_draws_a_picture_of_the_ordinary_generator_another_for_the_same_z(tmp_path, monkeypatch, kwargs):
    monkeypatch.setattr(init_from, "MASK_STEPS", 3)
    c_dim = kwargs.pop("c_dim", 0)
    plain, D = make_plain(tmp_path / "plain.pkl", c_dim=c_dim, architecture=kwargs.get("architecture", "skip"))
    G, G_ema = layered(c_dim=c_dim, **kwargs), layered(c_dim=c_dim, **kwargs)
    start_from_plain(str(tmp_path / "plain.pkl"), G, D, G_ema, 0.2, 8, print)
    z, c = torch.randn(16, 5), torch.eye(3)[torch.arange(16) % 3] if c_dim else None
    options = dict(noise_mode="const", truncation_psi=0.7)
    layers = G_ema.eval()(z, c, return_layers=True, **options)
    torch.testing.assert_close(layers.bg, plain(z, c, **options), rtol=1e-4, atol=1e-4)
    drawn = [layers.bg, *layers.fg.split(3, dim=1)]
    for number, fg in enumerate(drawn[1:]):
        turned = z @ turn_of(number, 5).T
        torch.testing.assert_close(fg, plain(turned, c, **options), rtol=1e-4, atol=1e-4)
        assert all((fg - other).abs().mean() > 1e-3 for other in drawn[:number + 1])
    assert not any(param.requires_grad for param in G.parameters())


def test_a_turn_keeps_lengths_and_is_the_same_in_every_run():
    z = torch.randn(100, 5)
    for number in (0, 1):
        turned = z @ turn_of(number, 5).T
        torch.testing.assert_close(turned.norm(dim=1), z.norm(dim=1))  # So it is as likely as z.
        assert torch.equal(turn_of(number, 5), turn_of(number, 5))
    assert not torch.allclose(turn_of(0, 5), turn_of(1, 5), atol=0.1)


def test_the_mask_starts_in_the_middle_and_the_colours_stay(tmp_path):
    plain, D = make_plain(tmp_path / "plain.pkl")
    G = layered()
    start_from_plain(str(tmp_path / "plain.pkl"), G, D, layered(), 0.2, 8, print)
    z = torch.randn(16, 5)
    layers = G.eval()(z, None, noise_mode="const", return_layers=True)
    turned = plain(z @ turn_of(0, 5).T, None, noise_mode="const")
    torch.testing.assert_close(layers.fg, turned, rtol=1e-4, atol=1e-4)
    mean = layers.mask.mean(dim=[0, 1])
    middle = mean[SIDE // 2 - 2:SIDE // 2 + 2, SIDE // 2 - 2:SIDE // 2 + 2].mean()
    assert middle > mean[0].mean() + 0.1 and 0.1 < mean.mean() < 0.3


def test_all_that_a_pickle_decides_is_taken_over(data, tmp_path):
    make_plain(tmp_path / "plain.pkl", architecture="resnet", D_architecture="orig")
    result = invoke(data, tmp_path / "plain.pkl", "-n", "--cfg=demo")
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout)
    G, D = config["G_kwargs"], config["D_kwargs"]
    assert (config["resolution"], G["z_dim"], G["w_dim"]) == (SIDE, 5, 6)
    assert G["mapping_kwargs"] == dict(num_layers=3, lr_multiplier=0.1)
    assert SYNTHESIS.items() <= G["synthesis_kwargs"].items() and SYNTHESIS.items() <= D.items()
    assert (G["synthesis_kwargs"]["architecture"], D["architecture"]) == ("resnet", "orig")
    assert D["epilogue_kwargs"] == dict(mbstd_group_size=4)  # By the batch, as ever.
    assert config["init_pkl"] == str(tmp_path / "plain.pkl") and config["loss_kwargs"]["mask_min"] == 0.2


@pytest.mark.parametrize("args, texts", [
    (["--resolution=32"], ["--resolution=32", "have 16"]),
    (["--cbase=128"], ["--cbase=128", "have 64"]),
    (["--cmax=4"], ["--cmax=4", "have 8"]),
    (["--w-dim=5"], ["--w-dim=5", "have 6"]),
    (["--map-depth=8"], ["--map-depth=8", "have 3"]),
    (["--cond=1"], ["--cond=1", "take no labels"]),
    (["--cfg=paper"], ["--init-from", "--no-grow"]),
    (["--resume=other.pkl"], ["--init-from", "--resume"]),
])
def test_what_does_not_fit_is_refused(data, tmp_path, args, texts):
    make_plain(tmp_path / "plain.pkl")
    Path(tmp_path, "other.pkl").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = invoke(data, tmp_path / "plain.pkl", "-n", *args)
    assert result.exit_code == 2 and all(text in result.stderr for text in texts), result.output


def test_name_of_no_networks_is_refused(data):
    result = invoke(data, "noresume", "-n")
    assert result.exit_code == 2 and "--init-from=noresume names no networks" in result.stderr


def test_pickles_that_cannot_serve_are_named(data, tmp_path):
    grey, layered_pkl = tmp_path / "grey.pkl", make_gan_run(tmp_path / "run") / "network-snapshot-000001.pkl"
    make_plain(grey, img_channels=1)
    (tmp_path / "text.pkl").write_text("not a pickle")
    for path, text in [(grey, "1 channels"), (layered_pkl, "draws layers already"), (tmp_path / "none.pkl", "No such"),
                       (tmp_path / "text.pkl", "not a readable network snapshot")]:
        result = invoke(data, path, "-n")
        assert result.exit_code == 1 and f"Error: --init-from: {path}" in result.stderr and text in result.stderr
    result = invoke(data, tmp_path / "none.pkl")
    assert result.exit_code == 1 and f"Error: --init-from: {tmp_path / 'none.pkl'}" in result.stderr


def test_upstreams_names_stand_for_its_pickles(data, tmp_path, monkeypatch):
    make_plain(tmp_path / "plain.pkl")
    monkeypatch.setitem(presets.RESUME_PKLS, "ffhq256", str(tmp_path / "plain.pkl"))
    result = invoke(data, "ffhq256", "-n", "--resume=noresume")
    assert result.exit_code == 0 and json.loads(result.stdout)["init_pkl"] == str(tmp_path / "plain.pkl")


def test_labels_of_another_number_are_refused(tmp_path):
    make_plain(tmp_path / "plain.pkl", c_dim=3)
    opts = dict(resume=None, grow=False, grow_schedule=None, cond=True)
    assert plain_options(str(tmp_path / "plain.pkl"), opts, set())["w_dim"] == 6
    with pytest.raises(CheckpointError, match="other shapes"):
        start_from_plain(str(tmp_path / "plain.pkl"), layered(), read_plain(str(tmp_path / "plain.pkl"))[1], layered(),
                         0.2, 8, print)


def test_a_run_starts_from_a_pickle_and_can_be_resumed(data, tmp_path, monkeypatch, process_as_before):
    monkeypatch.setattr(init_from, "MASK_STEPS", 3)
    monkeypatch.chdir(tmp_path)
    plain, _D = make_plain(tmp_path / "plain.pkl")
    sizes = ("--resolution", "--cbase", "--cmax", "--w-dim")
    args = [arg for arg in TINY if not arg.startswith(sizes)]
    result = invoke(data, "plain.pkl", *args, "--seed=3")
    assert result.exit_code == 0, result.output
    run_dir = next(Path("out").iterdir())
    assert run_dir.name.endswith("-seed3-initfrom")
    G = load_snapshot(run_dir)["G_ema"]
    z = torch.randn(2, 5)
    bg = G(z, None, noise_mode="const", return_layers=True).bg
    assert (bg - plain(z, None, noise_mode="const")).abs().mean() < 0.3  # Steps from it.
    Path("plain.pkl").unlink()
    resumed = CliRunner().invoke(train_layered.main, ["--outdir=out", "--resume=latest", "--kimg=0.05"])
    assert resumed.exit_code == 0 and "Starting from" not in resumed.output


@pytest.mark.parametrize("more", [[], ["-n"]])
def test_pickle_of_elsewhere_is_said_to_run_code_in_a_dry_run_too(data, tmp_path, monkeypatch, more):
    path = tmp_path / "plain.pkl"
    make_plain(path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(trust, "_seen", set())
    monkeypatch.setattr(train_layered, "launch", lambda *_args: None)
    said = [line for _ in range(2) for line in invoke(data, path, *more).stderr.splitlines() if "NOTE" in line]
    assert said == [f"NOTE: {path} was not made here, and loading a pickle runs its code"]


@pytest.mark.parametrize("option", ["--init-from", "--resume"])
def test_run_that_may_start_anew_is_resumed_with_the_networks_it_began_with_alone(data, tmp_path, monkeypatch, option):
    begun = []
    monkeypatch.setattr(train_layered, "launch", lambda config, *_args: begun.append(config))
    if option == "--init-from":
        network, other = tmp_path / "plain.pkl", tmp_path / "other.pkl"
        make_plain(network)
        make_plain(other, D_architecture="skip")
    else:
        network, other = (next(make_gan_run(tmp_path / f"gan{seed}", seed).glob("*.pkl")) for seed in (0, 1))
    args = ["--outdir=out", f"--data={data}", f"{option}={network}", "--device=cpu", "--resolution=16"]
    begin = CliRunner().invoke(train_layered.main, args)
    assert begin.exit_code == 0, begin.output
    run = tmp_path / "00000-run"
    run.mkdir()
    (run / "training_options.json").write_text(json.dumps(dict(base="bundled", **begun[0])))
    runs.save_training_state(run, 1, {})
    resume = [f"--outdir={tmp_path}", f"--resume={run}", "-n"]
    assert CliRunner().invoke(train_layered.main, [*resume, "--on-collapse=restart"]).exit_code == 0
    shutil.copy(other, network)
    refused = CliRunner().invoke(train_layered.main, [*resume, "--on-collapse=restart"])
    assert refused.exit_code == 1 and refused.stderr.splitlines()[-1] == (
        f"Error: --resume: {network}: its contents have changed since the run of {run}/training_options.json began; "
        "put the file back, or start a new run")
    assert CliRunner().invoke(train_layered.main, resume).exit_code == 0  # It is not read again.
