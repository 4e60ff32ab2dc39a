"""Model files: whole round trips, also in a fresh process; what is damaged is named; no code is ever run."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny_models import Bomb, make_discriminator, make_encoder, make_generator, make_model, picture, small_resnet

from layered_plugin.errors import ModelError
from layered_plugin.model.unet import UNet, make_unet
from layered_plugin.runs import find_model
from layered_plugin.segmentation.model_file import (
    KINDS,
    MAKERS,
    fill,
    load_model,
    load_tensors,
    network_config,
    network_hash,
    save_model,
    save_tensors,
    start_from,
)
from layered_plugin.segmentation.segmenter import Segmenter

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = dict(unet=lambda: make_unet((4, 8, 4, 6), deep=1), E=lambda: make_encoder(make_generator()),
                G=make_generator, D=make_discriminator)


@pytest.fixture
def small_body(monkeypatch):
    monkeypatch.setattr("torchvision.models.resnet18", small_resnet)


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "00001-distill")


def edit(folder, **changes):
    """Change entries of model.json; None removes one."""
    meta = json.loads((folder / "model.json").read_text())
    meta.update(changes)
    (folder / "model.json").write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))


def test_models_give_the_same_results_in_a_fresh_process(tmp_path):
    folders = [make_model(tmp_path / kind, kind, seed=3) for kind in KINDS]
    pictures = [picture(19, 16, seed=1), picture(16, 16, seed=2)]
    code = ("import sys, numpy as np, torch, PIL.Image\n"
            "torch.set_num_threads(1)\n"
            "from layered_plugin.segmentation.segmenter import Segmenter\n"
            "pictures = [PIL.Image.open(path) for path in sys.argv[2:4]]\n"
            "parts = [part for folder in sys.argv[4:]\n"
            "         for result in Segmenter.load(folder, 'cpu')(pictures, ['a.png', 'c.png'])\n"
            "         for part in result if part is not None]\n"
            "np.savez(sys.argv[1], *parts)\n")
    for idx, one in enumerate(pictures):
        one.save(tmp_path / f"{idx}.png")
    args = [tmp_path / "out.npz", tmp_path / "0.png", tmp_path / "1.png", *folders]
    subprocess.run([sys.executable, "-c", code, *map(str, args)], cwd=ROOT, check=True, timeout=120,
                   env=dict(os.environ, OMP_NUM_THREADS="1"))
    expected = [part for folder in folders for result in Segmenter.load(folder, "cpu")(pictures, ["a.png", "c.png"])
                for part in result if part is not None]
    with np.load(tmp_path / "out.npz") as found:
        assert len(found.files) == len(expected) == 2 * (2 + 6 + 6)
        for name, part in zip(found.files, expected, strict=True):
            np.testing.assert_array_equal(found[name], part)


@pytest.mark.parametrize("name", MAKERS)
def test_network_is_rebuilt_from_json_and_weights(tmp_path, name):
    net = NETWORKS[name]()
    save_tensors(tmp_path / "net.safetensors", {name: net})
    torch.manual_seed(99)
    again = MAKERS[name](**json.loads(json.dumps(network_config(net))))
    assert network_hash(again) != network_hash(net)
    fill(again, name, load_tensors(tmp_path / "net.safetensors"), "net")
    assert network_hash(again) == network_hash(net)
    assert not again.training and not any(param.requires_grad for param in again.parameters())


def test_unet_of_three_resolutions_is_rebuilt_as_such(tmp_path):
    save_model(tmp_path, "distill", dict(unet=UNet((4, 8, 4))), dict(resolution=16))
    assert type(load_model(tmp_path)[1]["unet"]) is UNet


def test_fingerprint_tells_weights_apart_but_not_their_layout():
    net = make_unet((4, 4, 4), seed=0)
    assert network_hash(net) == network_hash(make_unet((4, 4, 4), seed=0).to(memory_format=torch.contiguous_format))
    before = network_hash(net)
    with torch.no_grad():
        net.out.bias += 1e-6
    assert network_hash(net) != before


def test_chunks_keep_their_encoders_in_files_of_their_own(tmp_path, small_body):
    folder = make_model(tmp_path / "chunks", "chunks")
    prefixes = {key.split(".")[0] for key in load_tensors(folder / "model.safetensors")}
    assert prefixes == {"G", "D"}
    assert {key.split(".")[0] for key in load_tensors(folder / "chunk-00001.safetensors")} == {"E"}


@pytest.mark.parametrize("file", ["", "model.json", "model.safetensors"])
def test_model_is_found_by_its_folder_or_files(model, file):
    assert find_model(model / file) == model
    assert load_model(model / file)[0]["kind"] == "distill"


def test_what_is_given_to_save_comes_back(tmp_path):
    given = dict(resolution=32, options=dict(network="a b"), date="today")
    save_model(tmp_path, "distill", dict(unet=UNet((4, 4, 4))), given)
    meta, networks = load_model(tmp_path)
    assert meta["kind"] == "distill" and given.items() <= meta.items()
    assert networks.keys() == {"unet"}


# Nothing is run.

@pytest.mark.parametrize("file, protocol", [("model.safetensors", 0), ("model.safetensors", 4), ("model.json", 0)])
def test_pickle_in_the_place_of_a_file_is_refused_unread(model, tmp_path, file, protocol):
    (model / file).write_bytes(pickle.dumps(Bomb(tmp_path / "went-off"), protocol))
    with pytest.raises(ModelError, match=file.replace(".", r"\.")):
        load_model(model)
    assert not (tmp_path / "went-off").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "went-off")))
    assert (tmp_path / "went-off").exists()  # It would have.


# What is wrong is named.

@pytest.mark.parametrize("length", [0, 4, 100, 0.5, -1])
def test_truncated_weights_are_named(model, length):
    file = model / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:int(length * len(whole)) if isinstance(length, float) else length])
    with pytest.raises(ModelError, match=r"00001-distill/model\.safetensors: not a readable model file"):
        load_model(model)


def test_missing_weights_are_named(model):
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(model)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "7", '"text"', "{}", '{"format": 1, "kind": "other"}',
                                  '{"format": 2, "kind": "distill"}', '{"format": 1, "kind": ["distill"]}',
                                  '{"format": 1, "kind": "distill"}', "\ufffe"])
def test_damaged_description_is_named(model, text):
    (model / "model.json").write_text(text, encoding="utf-16" if text == "\ufffe" else None)
    with pytest.raises(ModelError, match=r"00001-distill/model\.json: (not |damaged|unknown key)"):
        load_model(model)


@pytest.mark.parametrize("kind, changes", [
    ("distill", dict(networks=None)),
    ("distill", dict(networks=[])),
    ("distill", dict(networks={})),
    ("distill", dict(networks=dict(E={}))),
    ("distill", dict(networks=dict(unet=7))),
    ("distill", dict(networks=dict(unet=dict(channels=[4])))),
    ("distill", dict(networks=dict(unet=dict(channels=["a", "b", "c"])))),
    ("distill", dict(networks=dict(unet=dict(width=3)))),
    ("distill", dict(resolution=None)),
    ("distill", dict(resolution="16")),
    ("distill", dict(options="all")),
    ("distill", dict(options=dict(network=3))),
    ("encoder", dict(options=dict(feature_weight="much"))),
    ("encoder", dict(options=dict(feature_resolution="16"))),
    ("distill", dict(margin="wide")),
    ("distill", dict(margin=0.6)),
    ("distill", dict(kind="encoder")),
    ("chunks", dict(chunks=None)),
    ("chunks", dict(chunks={})),
    ("chunks", dict(chunks=[dict(file="chunk-00000.safetensors")])),
])
def test_description_with_wrong_entries_is_named(tmp_path, small_body, kind, changes):
    folder = make_model(tmp_path / "model", kind)
    edit(folder, **changes)
    with pytest.raises(ModelError, match=r"model/model\.json: "):
        Segmenter.load(folder, "cpu")


@pytest.mark.parametrize("kind", ["distill", "encoder"])
def test_options_that_are_null_are_named(tmp_path, small_body, kind):
    folder = make_model(tmp_path / "model", kind)
    meta = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(dict(meta, options=None)))
    with pytest.raises(ModelError, match=r"model/model\.json: damaged: options must be an object, got null"):
        Segmenter.load(folder, "cpu")


def test_encoder_of_another_generator_is_no_start_whatever_it_says_of_its_options(tmp_path, small_body):
    G = make_generator(seed=1)
    folder = make_model(tmp_path / "model", "encoder")
    for options, said in ((dict(network="gan.pkl"), "another generator, gan.pkl"), (None, "another generator$")):
        edit(folder, options=options)
        with pytest.raises(ModelError, match=said):
            start_from(make_encoder(G), G, folder)


def test_weights_of_another_network_are_refused_in_one_short_line(model):
    edit(model, networks=dict(unet=dict(channels=[4, 4, 8])))
    said = r"model\.safetensors: its weights do not fit the JSON file beside it: \w"
    with pytest.raises(ModelError, match=said) as caught:
        load_model(model)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_missing_tensor_is_refused(model):
    tensors = load_tensors(model / "model.safetensors")
    del tensors["unet.out.bias"]
    safetensors.torch.save_file(tensors, model / "model.safetensors")
    with pytest.raises(ModelError, match="out.bias"):
        load_model(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind, file, net", [("distill", "model", "unet"), ("encoder", "model", "G"),
                                             ("chunks", "chunk-00001", "E")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, small_body, kind, file, net, value):
    path = make_model(tmp_path / "model", kind) / f"{file}.safetensors"
    tensors = load_tensors(path)
    key = next(key for key in tensors if key.startswith(f"{net}.") and tensors[key].is_floating_point())
    tensors[key].view(-1)[0] = value
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ModelError, match=rf"model/{file}\.safetensors: {key} is not finite; .* use another"):
        Segmenter.load(tmp_path / "model", "cpu")([picture()], ["c.png"])


def test_weights_with_the_generator_of_another_model_are_refused(tmp_path, small_body):
    folders = [make_model(tmp_path / str(seed), "encoder", seed) for seed in (0, 1)]
    (folders[0] / "model.safetensors").write_bytes((folders[1] / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"0/model\.safetensors: its generator is not that of model\.json"):
        load_model(folders[0])


@pytest.mark.parametrize("path, words", [("nowhere", "no such file or run folder"),
                                         ("empty", r"holds no model\.json; give the run folder"),
                                         ("nowhere/model.json", "no such file or run folder")])
def test_missing_model_is_named(tmp_path, path, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=f"{path}: {words}"):
        load_model(tmp_path / path)


def test_unfinished_run_is_called_so(tmp_path):
    (tmp_path / "options.json").write_text("{}")
    with pytest.raises(ModelError, match="not finished; go on with: python invert.py distill --outdir="):
        load_model(tmp_path)
