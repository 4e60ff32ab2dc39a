"""Training of encoders: exact resumption in every stage, chunks apart from one another, where an encoder may start."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from tiny_models import default_options, make_discriminator, make_gan_run, make_model, make_pictures, small_resnet

import invert
from layered_plugin.errors import ArgumentError, ModelError, PictureError
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.snapshots import save_network_pkl
from layered_plugin.segmentation import chunks, fitting, train_encoder
from layered_plugin.segmentation.encoder_training import EncoderTraining, prepare
from layered_plugin.segmentation.model_file import load_model, load_tensors, network_hash, weights_hash
from layered_plugin.segmentation.reconstruction import DiscriminatorFeatures

NAMES = ("a.png", "b.png", "c.png", "d.png", "e.png")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    return dict(network=str(make_gan_run(folder / "gan") / "network-snapshot-000001.pkl"),
                data=str(make_pictures(folder / "pictures", NAMES)))


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setattr("torchvision.models.resnet18", small_resnet)
    monkeypatch.setattr(fitting, "SETTLE_BATCH", 4)


def options_of(places, **changes):
    options = dict(default_options(invert.main.commands["train"]), **places)
    options.update(device="cpu", mode="dataset", chunk_size=3, steps=3, batch=2, lr=1e-3, feature_resolution=8,
                   pretrain=2)
    return dict(options, **changes)


def train(run_dir, places, **changes):
    run_dir.mkdir(parents=True, exist_ok=True)
    return train_encoder.train_encoder(run_dir, options_of(places, **changes), dict(command="python invert.py train"))


@pytest.fixture
def interrupted(monkeypatch):
    """Make the first step of every call of `train` act on a signal."""
    update, calls = EncoderTraining._update, []

    def disturbed(self, loss):
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        update(self, loss)

    def start():
        monkeypatch.setattr(EncoderTraining, "_update", disturbed)
        return calls

    return start


@pytest.mark.usefixtures("_quick")
def test_data_set_run_leaves_a_model_its_log_and_samples(tmp_path, places):
    before = network_hash(make_discriminator())
    assert train(tmp_path, places) is None
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.json", "model.safetensors", "stats.jsonl", "samples000003.png"}
    meta, networks = load_model(tmp_path)
    assert meta["kind"] == "encoder" and meta["generator"] == network_hash(networks["G"])
    assert network_hash(networks["D"]) == before  # Generator and discriminator are frozen.
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [
        ("generated", 1), ("generated", 2), ("encoder", 1), ("encoder", 2), ("encoder", 3)]
    assert {"loss", "l1", "feature", "coverage", "seconds"} <= lines[-1].keys()
    for line in lines[2:]:
        assert line["loss"] == pytest.approx(line["l1"] + line["feature"])  # Eq. 7.


@pytest.mark.usefixtures("_quick")
def test_data_set_run_stopped_after_every_step_ends_as_an_uninterrupted_one(tmp_path, places, interrupted):
    train(tmp_path / "whole", places)
    calls = interrupted()
    for _ in range(5):
        assert train(tmp_path / "parts", places) == "SIGTERM"
        calls.clear()
    assert train(tmp_path / "parts", places) is None
    for file in ("model.safetensors", "samples000003.png"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.usefixtures("_quick")
def test_chunks_stopped_after_every_step_end_as_uninterrupted_ones(tmp_path, places, interrupted):
    train(tmp_path / "whole", places, mode="chunks", pretrain=0)
    calls = interrupted()
    for _ in range(6):
        assert train(tmp_path / "parts", places, mode="chunks", pretrain=0) == "SIGTERM"
        calls.clear()
    assert train(tmp_path / "parts", places, mode="chunks", pretrain=0) is None
    files = sorted(path.name for path in (tmp_path / "whole").glob("*.safetensors"))
    assert files == ["chunk-00000.safetensors", "chunk-00001.safetensors", "model.safetensors"]
    for file in files:
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not list((tmp_path / "parts").rglob("training-state-*"))


@pytest.mark.usefixtures("_quick")
def test_finished_chunks_are_skipped(tmp_path, places, monkeypatch):
    train(tmp_path, places, mode="chunks", pretrain=0)
    first = load_tensors(tmp_path / "chunk-00000.safetensors")
    for name in ("model.json", "chunk-00001.safetensors"):
        (tmp_path / name).unlink()
    seen = []
    step = EncoderTraining.step
    monkeypatch.setattr(EncoderTraining, "step", lambda self, *args: seen.append(len(args[0])) or step(self, *args))
    train(tmp_path, places, mode="chunks", pretrain=0)
    assert seen == [2, 2, 2]  # Three steps: the second chunk alone.
    again = load_tensors(tmp_path / "chunk-00000.safetensors")
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.usefixtures("_quick")
def test_features_of_a_chunks_pictures_are_computed_once_and_belong_to_them(tmp_path, places, monkeypatch):
    computed, step = [], EncoderTraining.step

    def check(self, img, target):
        assert torch.allclose(target, self.reconstruction.features(img), atol=1e-6)
        computed.clear()
        found = step(self, img, target)
        assert len(computed) == 1, "those of the reconstruction alone"
        return found

    features = DiscriminatorFeatures.__call__
    monkeypatch.setattr(DiscriminatorFeatures, "__call__",
                        lambda self, img: computed.append(len(img)) or features(self, img))
    monkeypatch.setattr(EncoderTraining, "step", check)
    train(tmp_path, places, mode="chunks", pretrain=0)
    assert computed == [2]


@pytest.mark.usefixtures("_quick")
def test_chunks_do_not_influence_one_another(tmp_path, places):
    train(tmp_path / "all", places, mode="chunks", pretrain=0)
    train(tmp_path / "first", places, mode="chunks", pretrain=0, num=3)
    chunks = load_model(tmp_path / "all")[0]["chunks"]
    assert [chunk["names"] for chunk in chunks] == [["a.png", "b.png", "c.png"], ["d.png", "e.png"]]
    sizes = [[Path(places["data"], name).stat().st_size for name in chunk["names"]] for chunk in chunks]
    assert [chunk["bytes"] for chunk in chunks] == sizes
    assert [chunk["names"] for chunk in load_model(tmp_path / "first")[0]["chunks"]] == [["a.png", "b.png", "c.png"]]
    file = "chunk-00000.safetensors"
    assert (tmp_path / "all" / file).read_bytes() == (tmp_path / "first" / file).read_bytes()
    assert (tmp_path / "all" / file).read_bytes() != (tmp_path / "all" / "chunk-00001.safetensors").read_bytes()


@pytest.mark.usefixtures("_quick")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a process that has used a GPU can't be forked")
def test_chunks_side_by_side_are_those_one_after_the_other(tmp_path, places, monkeypatch):
    """In copies of this process; fresh ones, which import PyTorch first, are stopped in test_chunks_side_by_side."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(chunks.multiprocessing, "get_context", lambda *_method: context)
    monkeypatch.setattr(chunks, "usable_cores", lambda: 2)  # Sums depend on how many threads share them.
    for jobs in (1, 2):
        assert train(tmp_path / str(jobs), places, mode="chunks", pretrain=0, steps=2, jobs=jobs) is None
    for file in ("chunk-00000.safetensors", "chunk-00001.safetensors", "model.safetensors"):
        assert (tmp_path / "2" / file).read_bytes() == (tmp_path / "1" / file).read_bytes()


def test_single_picture_left_over_is_refused_with_the_remedy(tmp_path, places):
    with pytest.raises(ArgumentError, match=r"`chunk_size`=2 leaves a last chunk of one of the 5 .*or `num`"):
        train(tmp_path, places, mode="chunks", pretrain=0, chunk_size=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("mode", ["chunks", "dataset"])
def test_bad_picture_is_named(tmp_path, places, mode):
    folder = make_pictures(tmp_path / "pictures", NAMES)
    (folder / "b.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"pictures: cannot read picture b\.png"):
        train(tmp_path / "run", dict(places, data=str(folder)), mode=mode, pretrain=0)


# Where an encoder starts.

@pytest.mark.usefixtures("_quick")
def test_encoder_starts_from_the_mean_or_from_another(tmp_path, places):
    folder = make_model(tmp_path / "model", "encoder", seed=0)
    training = prepare(options_of(places))
    E, G = training.E, training.reconstruction.G
    assert torch.equal(E.w_avg, G.mapping.w_avg)
    for path in (folder, folder / "model.json"):
        started = prepare(options_of(places, init=str(path))).E
        assert network_hash(started) == network_hash(load_model(folder)[1]["E"]) != network_hash(E)
        assert all(param.requires_grad for param in started.parameters())


@pytest.mark.usefixtures("_quick")
def test_encoder_that_is_replaced_between_two_chunks_is_refused(tmp_path, places, monkeypatch):
    first, second = (make_model(tmp_path / name, "encoder") for name in ("first", "second"))
    tensors = load_tensors(second / "model.safetensors")
    tensors["E.head.weight"] += 1
    save_file(tensors, second / "model.safetensors")
    saved = []

    def replace(path, networks):
        saved.append(path.name)
        chunk_weights(path, networks)
        shutil.copy(second / "model.safetensors", first)

    chunk_weights = chunks.save_tensors
    monkeypatch.setattr(chunks, "save_tensors", replace)
    with pytest.raises(ModelError, match="first: its encoder is not the one that this run began with; put it back"):
        train(tmp_path / "run", places, mode="chunks", pretrain=0, init=str(first), init_sha256=weights_hash(first))
    assert saved == ["chunk-00000.safetensors"]


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("kind, seed, changes, words", [
    ("encoder", 1, {}, "its encoder was trained for another generator, runs/00000-gan"),
    ("encoder", 0, dict(max_shift=0.1), "its encoder has other options: .*0.2.*, not .*0.1"),
    ("encoder", 0, dict(from_mean=False), "its encoder has other options"),
    ("distill", 0, {}, "holds no encoder of a whole data set to start from"),
    ("chunks", 0, {}, "holds no encoder of a whole data set to start from"),
    (None, 0, {}, "no such file or run folder"),
])
def test_unfit_start_is_named(tmp_path, places, kind, seed, changes, words):
    folder = make_model(tmp_path / "start", kind, seed) if kind else tmp_path / "start"
    with pytest.raises(ModelError, match=rf"start: {words}"):
        train(tmp_path / "run", places, init=str(folder), **changes)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.usefixtures("_quick")
def test_feature_resolution_that_the_discriminator_lacks_is_refused(tmp_path, places):
    with pytest.raises(ArgumentError, match=r"`feature_resolution` must be one of 8, 4 for this discriminator, got 16"):
        train(tmp_path, places, feature_resolution=16)


def test_generator_of_several_objects_is_refused_with_the_remedy(tmp_path, places):
    G = LayeredGenerator(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3, num_objects=2,
                         mapping_kwargs=dict(num_layers=1), synthesis_kwargs=dict(channel_base=64, channel_max=4))
    path = tmp_path / "network-snapshot-000001.pkl"
    save_network_pkl(path, dict(G=G, D=make_discriminator(), G_ema=G, training_set_kwargs=None, augment_pipe=None))
    args = ["train", f"--outdir={tmp_path / 'runs'}", f"--network={path}", f"--data={places['data']}", "--device=cpu"]
    result = CliRunner().invoke(invert.main, args)
    assert result.exit_code == 1, result.output
    assert f"{path}: draws 2 objects a picture, but an encoder finds one; use invert.py distill" in result.output
