"""Training of the distilled segmenter: stopped after any step it ends as if it had not been; what it leaves behind."""

import json
import os
import signal

import pytest
import torch
from tiny_models import SIDE, default_options, make_gan_run, make_generator, make_pictures

import invert
from layered_plugin.errors import PictureError, UserError
from layered_plugin.segmentation import fitting, train_distilled
from layered_plugin.segmentation.fitting import Fitting
from layered_plugin.segmentation.model_file import load_model, network_hash


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    return dict(network=str(make_gan_run(folder / "gan") / "network-snapshot-000001.pkl"),
                data=str(make_pictures(folder / "pictures")))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(train_distilled, "CHANNELS", (4, 4, 4, 4))
    monkeypatch.setattr(fitting, "SETTLE_BATCH", 4)
    monkeypatch.setattr(train_distilled, "MARGIN_BATCH", 4)


@pytest.mark.parametrize("resolution, coarsest", [(16, 2), (32, 4), (64, 4), (128, 4)])
def test_the_coarsest_level_sees_the_whole_picture(resolution, coarsest):
    unet = train_distilled.make_segmenting_unet(resolution, seed=0)
    sides = []
    for module in unet.modules():
        module.register_forward_hook(lambda _module, _inputs, out: sides.append(out.shape[-1]))
    unet.eval()(torch.zeros(1, 3, resolution, resolution))
    assert min(sides) == coarsest


def train(run_dir, places, **changes):
    options = dict(default_options(invert.main.commands["distill"]), **places)
    options.update(device="cpu", batch=4, steps=3, adapt=2, max_coverage=0.98)
    options.update(changes)
    run_dir.mkdir(parents=True, exist_ok=True)
    return train_distilled.train_distilled(run_dir, options, dict(command="python invert.py distill"))


@pytest.fixture
def interrupted(monkeypatch):
    """Make the first step of every call of `train` do something else as well."""
    step = Fitting.step

    def make(action):
        calls = []

        def disturbed(self, *args):
            if not calls:
                calls.append(1)
                action()
            return step(self, *args)

        monkeypatch.setattr(Fitting, "step", disturbed)
        return calls

    return make


@pytest.mark.parametrize("share, warned", [(1.0, False), (0.5, True)])
def test_masks_that_fall_apart_are_told_of(tmp_path, places, monkeypatch, capsys, share, warned):
    def batches(_self, img):
        num = round(share * len(img))
        return [(img[:num], img[:num, :1].gt(0).float())] * 2

    monkeypatch.setattr(train_distilled.SelfTraining, "batches", batches)
    assert train(tmp_path, places) is None
    told = capsys.readouterr().err
    assert ("WARNING: 50% of the pictures ended without a mask of 2% to 98%" in told) == warned


@pytest.mark.parametrize("text", ["", '{"stage": "real", "step": 2, "seconds": 1.0}\n'])
def test_a_log_that_tells_nothing_is_no_error(tmp_path, places, capsys, text):
    (tmp_path / "stats.jsonl").write_text(text)
    train_distilled._warn_of_lost_objects(tmp_path, default_options(invert.main.commands["distill"]))
    assert capsys.readouterr().err == ""


def test_run_leaves_a_model_its_log_and_samples(tmp_path, places):
    assert train(tmp_path, places) is None
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.json", "model.safetensors", "stats.jsonl", "samples000000.png", "samples000002.png"}
    meta, _networks = load_model(tmp_path)
    assert (meta["kind"], meta["resolution"]) == ("distill", SIDE)
    assert meta["generator"] == network_hash(make_generator()) and meta["command"] == "python invert.py distill"
    assert places.items() <= meta["options"].items()
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [
        ("generated", 1), ("generated", 2), ("generated", 3), ("real", 1), ("real", 2)]
    assert all({"seconds", "loss", "images_per_sec"} <= line.keys() for line in lines)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_run_stopped_after_every_step_ends_as_an_uninterrupted_one(tmp_path, places, interrupted, name):
    train(tmp_path / "whole", places)
    calls = interrupted(lambda: os.kill(os.getpid(), getattr(signal, name)))
    for _ in range(5):
        assert train(tmp_path / "parts", places) == name
        assert not (tmp_path / "parts" / "model.json").exists()
        calls.clear()
    assert train(tmp_path / "parts", places) is None
    for file in ("model.safetensors", "model.json", "samples000000.png", "samples000002.png"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize("changes, margin", [
    (dict(), 0.25), (dict(margin=0.1), 0.25), (dict(data=None), None), (dict(adapt=0), None)])
def test_the_model_knows_the_margin_found_in_its_pictures(tmp_path, places, monkeypatch, changes, margin):
    seen = []
    monkeypatch.setattr(train_distilled, "rare_border", lambda mask: seen.append(mask.shape) or 0.25)
    train(tmp_path, places, **changes)
    assert load_model(tmp_path)[0].get("margin") == margin
    assert seen == ([(20, 1, SIDE, SIDE)] if margin == 0.25 else [])


def test_run_that_broke_off_before_its_first_state_ends_as_an_uninterrupted_one(tmp_path, places, interrupted):
    def power_cut():
        raise RuntimeError("power cut")

    train(tmp_path / "whole", places)
    interrupted(power_cut)
    with pytest.raises(RuntimeError):
        train(tmp_path / "parts", places)
    assert train(tmp_path / "parts", places) is None
    assert network_hash(load_model(tmp_path / "parts")[1]["unet"]) \
        == network_hash(load_model(tmp_path / "whole")[1]["unet"])


@pytest.mark.parametrize("changes", [dict(data=None), dict(adapt=0)])
def test_without_real_pictures_it_learns_from_generated_ones_alone(tmp_path, places, changes):
    train(tmp_path, places, **changes)
    stages = {json.loads(line)["stage"] for line in (tmp_path / "stats.jsonl").read_text().splitlines()}
    assert stages == {"generated"}


def test_result_depends_on_the_seed_alone(tmp_path, places):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, places, seed=seed, data=None)
    found = [network_hash(load_model(tmp_path / name)[1]["unet"]) for name in "abc"]
    assert found[0] == found[1] != found[2]


def test_collapsed_masks_are_named(tmp_path, places):
    with pytest.raises(UserError, match=r"only 0 of 10\d\d generated masks cover between 0.97 and 0.98"):
        train(tmp_path, places, min_coverage=0.97)


def test_bad_picture_is_named_before_the_training(tmp_path, places):
    folder = make_pictures(tmp_path / "pictures")
    (folder / "c.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"c\.png"):
        train(tmp_path / "run", dict(places, data=str(folder)))
    assert list((tmp_path / "run").iterdir()) == []
