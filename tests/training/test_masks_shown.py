"""--masks: a discriminator that sees masks beside pictures, from the command to what is made of its snapshots."""

import json
import shutil
import zipfile
from functools import partial

import legacy
import numpy as np
import PIL.Image
import pytest
import shell
import torch
from tiny_models import TINY, make_generator, make_plain
from torch_utils import misc
from training.networks import Discriminator

import train_layered
from layered_plugin import export, runs
from layered_plugin.data.dataset import PictureDataset
from layered_plugin.data.masked_pictures import MaskedPictures
from layered_plugin.errors import CheckpointError, MaskError, PictureError
from layered_plugin.model.layers import Layers, composite, pad_channels
from layered_plugin.model.perturb import random_shift, shift_foreground
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.segmentation.reconstruction import Reconstruction
from layered_plugin.synthetic.shapes import write_shapes
from layered_plugin.training import setup
from layered_plugin.training.loss import LayeredLoss

invoke = partial(shell.invoke, train_layered.main)


@pytest.fixture(scope="module")
def masked_data(tmp_path_factory):
    """Pictures and their masks, as zips; not to be changed."""
    folder = tmp_path_factory.mktemp("masked")
    write_shapes(dict(picture=str(folder / "shapes.zip"), mask=str(folder / "masks.zip")), 24, 18, 0)
    return folder


def train(masked_data, outdir, *args):
    result = invoke(f"--outdir={outdir}", f"--data={masked_data / 'shapes.zip'}",
                    f"--masks={masked_data / 'masks.zip'}", *TINY, *args)
    assert result.exit_code == 0, result.output
    return max(outdir.iterdir())


@pytest.fixture(scope="module")
def run(masked_data, tmp_path_factory):
    """A finished run; not to be changed."""
    return train(masked_data, tmp_path_factory.mktemp("runs"))


def make_D(img_channels=4):
    return Discriminator(c_dim=0, img_resolution=16, img_channels=img_channels, channel_base=64, channel_max=4)


def test_discriminator_sees_the_shifted_composite_and_the_shifted_mask():
    G = make_generator()
    loss = LayeredLoss("cpu", G.mapping, G.synthesis, make_D(), shift=0.25, bg_jitter=0, show_masks=True)
    layers = Layers(torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16), torch.rand(3, 1, 16, 16))
    torch.manual_seed(1)
    seen = loss.perturb(layers)
    torch.manual_seed(1)
    moved = shift_foreground(layers, random_shift(3, 4))
    torch.testing.assert_close(seen, torch.cat([composite(moved), moved.mask * 2 - 1], dim=1))


def test_two_objects_are_shown_as_one_mask():
    G = make_generator()
    loss = LayeredLoss("cpu", G.mapping, G.synthesis, make_D(), shift=0, bg_jitter=0, show_masks=True)
    mask = torch.zeros(1, 2, 16, 16)
    mask[:, 0, :8], mask[:, 1, 4:12] = 1, 1
    seen = loss.perturb(Layers(torch.zeros(1, 3, 16, 16), torch.ones(1, 6, 16, 16), mask))
    assert seen[0, 3, :, 0].tolist() == [1] * 12 + [-1] * 4


def test_run_has_a_discriminator_of_four_channels_and_says_so(run):
    networks = load_snapshot(run / "network-snapshot-000000.pkl")
    assert networks["D"].img_channels == 4 and networks["G_ema"].img_channels == 3
    assert "-masks-" in run.name and "Masks: " in (run / "log.txt").read_text()


def test_terms_that_stand_in_for_masks_are_off_unless_given(masked_data):
    masks = f"--masks={masked_data / 'masks.zip'}"
    chosen = shell.dry(masked_data / "shapes.zip", "--cfg=cpu", masks)["loss_kwargs"]
    assert chosen["show_masks"]
    assert all(chosen[f"mask_{name}_weight"] == 0 for name in ("size", "border", "center"))
    assert chosen["mask_binary_weight"] == 2 and chosen["shift"] == 0.0625
    given = shell.dry(masked_data / "shapes.zip", "--cfg=cpu", masks, "--mask-size-weight=3", "--shift=0.125")
    assert given["loss_kwargs"]["mask_size_weight"] == 3 and given["loss_kwargs"]["shift"] == 0.125
    plain = shell.dry(masked_data / "shapes.zip", "--cfg=cpu")["loss_kwargs"]
    assert not plain["show_masks"] and plain["mask_size_weight"] == 10 and plain["shift"] == 0.125


@pytest.mark.parametrize("how", ["at one size", "growing"])
def test_resumed_run_equals_an_uninterrupted_one(masked_data, tmp_path, how):
    grow = [] if how == "at one size" else ["--grow-schedule=8:0.04:8,16:0.04:8"]
    options = [arg for arg in TINY if not grow or not arg.startswith(("--kimg", "--batch"))]

    def call(outdir, *args):
        result = invoke(f"--outdir={outdir}", *args)
        assert result.exit_code == 0, result.output
        return runs.load_training_state(runs.training_states(max(outdir.iterdir()))[-1])

    new = [f"--data={masked_data / 'shapes.zip'}", f"--masks={masked_data / 'masks.zip'}", *options, *grow]
    whole = call(tmp_path / "whole", *new, *([] if grow else ["--kimg=0.08"]))
    call(tmp_path / "parts", *new)
    if grow:  # Back to the end of the first stage.
        for path in runs.training_states(max((tmp_path / "parts").iterdir()))[1:]:
            path.unlink()
    torch.manual_seed(5)
    parts = call(tmp_path / "parts", "--resume=latest", *([] if grow else ["--kimg=0.08"]))
    for net in ("G", "D", "G_ema"):
        for name, value in whole[net].items():
            assert torch.equal(value, parts[net][name]), (net, name)


def test_masks_that_changed_are_refused_at_resume(masked_data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(masked_data, copy)
    train(copy, tmp_path / "runs")
    with zipfile.ZipFile(copy / "masks.zip") as old, zipfile.ZipFile(tmp_path / "new.zip", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info)[:-1] + b"?" if info.filename.endswith("3.png")
                         else old.read(info))
    (tmp_path / "new.zip").replace(copy / "masks.zip")
    result = invoke(f"--outdir={tmp_path / 'runs'}", "--resume=latest", "--kimg=0.08")
    assert result.exit_code == 1 and "masks.zip: pictures have other contents" in result.output


@pytest.mark.parametrize("args, words", [
    (["--aug=ada"], "--masks go with --aug=noaug alone, got ada"),
    (["--init-from=PLAIN"], "that of --init-from does not"),
])
def test_what_does_not_go_with_masks_is_refused(masked_data, tmp_path, args, words):
    make_plain(tmp_path / "plain.pkl")
    args = [arg.replace("PLAIN", str(tmp_path / "plain.pkl")) for arg in args]
    result = invoke(f"--outdir={tmp_path}", f"--data={masked_data / 'shapes.zip'}",
                    f"--masks={masked_data / 'masks.zip'}", "--cfg=auto", "-n", *args)
    assert result.exit_code == 2 and words in result.output


def pick_masks(masked_data, folder, numbers):
    """Some of the masks, in a folder."""
    with zipfile.ZipFile(masked_data / "masks.zip") as archive:
        archive.extractall(folder, [f"00000/img{number:08d}.png" for number in numbers])
    return folder


def test_pictures_without_a_mask_are_left_out_and_masks_without_a_picture(masked_data, tmp_path):
    masks = pick_masks(masked_data, tmp_path / "masks", range(5, 20))
    (masks / "other.png").write_bytes((masks / "00000/img00000005.png").read_bytes())
    result = invoke(f"--outdir={tmp_path / 'runs'}", f"--data={masked_data / 'shapes.zip'}", f"--masks={masks}", *TINY)
    assert result.exit_code == 0, result.output
    data = masked_data / "shapes.zip"
    assert (f"WARNING: 9 of 24 pictures of {data} have no mask in {masks} and are left out, such as "
            "00000/img00000000.png\n") in result.stderr
    assert (f"WARNING: 1 of 16 masks in {masks} belong to no picture of {data} and are left out, such as "
            "other.png\n") in result.stderr
    (run,) = (tmp_path / "runs").iterdir()
    options = json.loads((run / "training_options.json").read_text())
    assert options["training_set_kwargs"]["max_size"] == 24 and options["masks_fingerprint"]["num"] == 16
    mirrored = 2 if options["training_set_kwargs"]["xflip"] else 1
    assert f"of pictures: {15 * mirrored} " in (run / "log.txt").read_text()
    longer = invoke(f"--outdir={tmp_path / 'runs'}", "--resume=latest", "--kimg=0.08")
    assert longer.exit_code == 0, longer.output


def test_masked_pictures_are_those_that_have_masks(masked_data, tmp_path):
    numbers = [3, 7, 23]
    masks = pick_masks(masked_data, tmp_path / "masks", numbers)
    pictures = PictureDataset(masked_data / "shapes.zip", size_px=18, xflip=True)
    whole, some = MaskedPictures(pictures, masked_data / "masks.zip"), MaskedPictures(pictures, masks)
    assert len(whole) == 48 and len(some) == 6
    for cached in (False, True):
        assert not cached or some.preload()
        for idx in range(6):
            np.testing.assert_array_equal(some[idx][0], whole[numbers[idx % 3] + 24 * (idx // 3)][0])
    assert whole.left_out == []


def test_picture_that_stands_in_for_an_unreadable_one_has_a_mask(masked_data, tmp_path, monkeypatch):
    masks = pick_masks(masked_data, tmp_path / "masks", [3, 7, 23])
    pictures = PictureDataset(masked_data / "shapes.zip", size_px=18)
    some = MaskedPictures(pictures, masks)
    expected, read = some[1][0], pictures._decode
    monkeypatch.setattr(pictures, "_decode",
                        lambda raw_idx: read(raw_idx) if raw_idx != 3 else (_ for _ in ()).throw(PictureError("torn")))
    np.testing.assert_array_equal(some[0][0], expected)


def test_masks_of_other_pictures_are_an_error_before_anything_is_made(masked_data, tmp_path):
    masks = pick_masks(masked_data, tmp_path / "masks", [0])
    (masks / "00000/img00000000.png").rename(masks / "other.png")
    result = invoke(f"--outdir={tmp_path / 'runs'}", f"--data={masked_data / 'shapes.zip'}", f"--masks={masks}", *TINY)
    assert result.exit_code == 1 and not (tmp_path / "runs").exists()
    assert "--masks: " in result.output and "0 of the 24 pictures" in result.output
    assert "00000/img00000000.png has none; a mask needs its picture's name" in result.output


@pytest.mark.parametrize("broken, words", [
    (b"no mask", "cannot read mask 00000/img00000007.png: no picture in a known format"),
    (None, "mask 00000/img00000007.png is 9x30, its picture 18x18")])
def test_mask_that_can_not_be_used_is_named_with_its_option_before_the_first_snapshot(masked_data, tmp_path, broken,
                                                                                      words):
    masks = pick_masks(masked_data, tmp_path / "masks", range(24))
    PIL.Image.new("L", (9, 30), 255).save(masks / "00000/img00000007.png")
    if broken is not None:
        (masks / "00000/img00000007.png").write_bytes(broken)
    result = invoke(f"--outdir={tmp_path / 'runs'}", f"--data={masked_data / 'shapes.zip'}", f"--masks={masks}", *TINY)
    assert result.exit_code == 1 and f"Error: --masks: {masks}: {words}\n" in result.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in run.iterdir()) == ["log.txt", "training_options.json"]


def test_fewer_masks_than_one_in_a_hundred_pictures_are_an_error(tmp_path):
    for folder, num in (("pictures", 201), ("masks", 2)):
        (tmp_path / folder).mkdir()
        for idx in range(num):
            PIL.Image.new("L", (4, 4), 255).save(tmp_path / folder / f"{idx:03d}.png")
    pictures = PictureDataset(tmp_path / "pictures", size_px=4)
    with pytest.raises(MaskError, match="2 of the 201 pictures"):
        MaskedPictures(pictures, tmp_path / "masks")
    (tmp_path / "pictures/200.png").unlink()
    assert len(MaskedPictures(PictureDataset(tmp_path / "pictures", size_px=4), tmp_path / "masks")) == 2


def test_discriminator_of_an_exported_layer_judges_pictures_alone(run, tmp_path):
    result = shell.invoke(export.main, "background", f"--network={run}", f"--dest={tmp_path / 'bg.pkl'}")
    assert result.exit_code == 0, result.output
    D = load_snapshot(run / "network-snapshot-000000.pkl")["D"]
    with open(tmp_path / "bg.pkl", "rb") as file:
        plain = legacy.load_network_pkl(file)["D"]
    assert plain.img_channels == 3
    img = torch.rand(2, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(plain(img, None), D(pad_channels(img, 4), None), rtol=1e-4, atol=1e-5)


def test_pictures_are_reconstructed_by_its_features_without_masks():
    torch.manual_seed(0)
    D, plain = make_D().eval(), make_D(3).eval()
    for name, tensor in misc.named_params_and_buffers(plain):
        tensor.data.copy_(dict(misc.named_params_and_buffers(D))[name][:, :3] * 0.75 ** 0.5
                          if name.endswith("fromrgb.weight") else dict(misc.named_params_and_buffers(D))[name])
    img = torch.rand(2, 3, 16, 16) * 2 - 1
    found, expected = (Reconstruction(make_generator(), net, feature_resolution=8).targets(img) for net in (D, plain))
    torch.testing.assert_close(found, expected)


def test_configuration_names_the_masks(run, masked_data):
    options = json.loads((run / "training_options.json").read_text())
    assert options["masks_path"] == str(masked_data / "masks.zip") and options["masks_fingerprint"]["num"] == 24


@pytest.mark.parametrize("channels, words", [(3, "was trained without masks, and this run has them: leave"),
                                             (4, "was trained with masks, and this run has none: give")])
def test_networks_with_another_view_of_masks_are_said_to_be_such(monkeypatch, channels, words):
    theirs, ours = (Discriminator(0, 16, number, channel_base=64, channel_max=4) for number in (channels, 7 - channels))
    monkeypatch.setattr(setup, "read_networks", lambda path: dict(D=theirs))
    with pytest.raises(CheckpointError, match=f"`resume`: D of a.pkl {words} `masks`"):
        setup.transfer("a.pkl", dict(D=ours), print)
