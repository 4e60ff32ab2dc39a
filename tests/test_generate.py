"""layered_plugin.generate: upstream's scenes with their masks, whatever the batch; the command and its errors."""

import inspect
import os
import re
import shlex
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from shell import call
from training import networks as base

from layered_plugin import generate
from layered_plugin.data.dataset import PictureDataset
from layered_plugin.data.mask_files import read_pairs
from layered_plugin.data.pictures import to_uint8
from layered_plugin.model import scenes
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.layers import Layers
from layered_plugin.model.scenes import to_pictures
from layered_plugin.model.snapshots import save_network_pkl

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("composites", "masks", "cutouts", "backgrounds", "foregrounds")
TINY = dict(z_dim=8, w_dim=8, img_resolution=16, img_channels=3, mapping_kwargs=dict(num_layers=1))


def make(c_dim=0, **synthesis_kwargs):
    """An untrained generator whose noise shows and whose colors are mostly in range."""
    torch.manual_seed(0)
    G = LayeredGenerator(c_dim=c_dim, synthesis_kwargs=dict(channel_base=64, channel_max=4, **synthesis_kwargs), **TINY)
    for name, param in G.named_parameters():
        if name.endswith("noise_strength"):
            param.data.fill_(0.5)
        if name.endswith("torgb.weight"):
            param.data.mul_(0.15)
    for net in G.mapping.children():
        net.w_avg.normal_()
    return G.eval().requires_grad_(False)


def save(folder, G):
    folder.mkdir(parents=True)
    save_network_pkl(folder / "network-snapshot-000001.pkl",
                     dict(G=G, D=G, G_ema=G, training_set_kwargs=None, augment_pipe=None))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save(tmp_path_factory.mktemp("runs") / "00000-plain", make())


@pytest.fixture(scope="module")
def cond_run(tmp_path_factory):
    return save(tmp_path_factory.mktemp("runs") / "00000-cond", make(c_dim=3))


def invoke(*args):
    return CliRunner().invoke(generate.main, ["--device=cpu", *map(str, args)])


def draw(network, *args):
    result = invoke(f"--network={network}", *args)
    assert result.exit_code == 0, result.output
    return result


def read(folder, kind, name):
    return np.asarray(PIL.Image.open(folder / kind / f"{name}.png"))


def upstream_picture(G, seed, class_idx=None, **kwargs):
    """What upstream's generate.py does, from its description: one float64 z, one label, x * 127.5 + 128."""
    z = torch.from_numpy(np.random.RandomState(seed).randn(1, G.z_dim))
    c = torch.zeros([1, G.c_dim])
    if class_idx is not None:
        c[:, class_idx] = 1
    img = G(z, c, **kwargs)
    return (img[0].permute(1, 2, 0) * 127.5 + 128).clamp(0, 255).to(torch.uint8).numpy()


def assert_close(pred, target):
    """Equal up to rounding: at most one level, and rarely."""
    difference = np.abs(pred.astype(int) - target.astype(int))
    assert pred.shape == target.shape and difference.max() <= 1 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("text, expected", [
    ("0", [0]), ("0,3,5-9", [0, 3, 5, 6, 7, 8, 9]), ("7-7", [7]), (" 3, 1 ", [3, 1]), ("2,1-3,2", [2, 1, 3]),
    ("4294967295", [2**32 - 1]),
])
def test_seeds_are_numbers_and_ranges(text, expected):
    assert generate.parse_seeds(text) == expected


@pytest.mark.parametrize("text", ["a", "1,,2", "5-3", "-1", "1-2-3", "0.5", "4294967296", "0-4294967296"])
def test_other_seeds_are_refused(run, tmp_path, text):
    result = invoke(f"--network={run}", f"--seeds={text}", f"--outdir={tmp_path}")
    assert result.exit_code == 2
    assert f"--seeds must be numbers and rising ranges such as 0,3,5-9, up to 4294967295, got {text!r}" in result.stderr


@pytest.mark.parametrize("trunc", [1, 0.5])
@pytest.mark.parametrize("noise_mode", ["const", "none"])
def test_composites_are_upstreams_pictures(run, tmp_path, trunc, noise_mode):
    draw(run, "--seeds=0,3,5-6", f"--trunc={trunc}", f"--noise-mode={noise_mode}", f"--outdir={tmp_path}")
    names = [f"seed{seed:04d}.png" for seed in (0, 3, 5, 6)]
    assert all(sorted(os.listdir(tmp_path / kind)) == names for kind in FOLDERS)
    pictures = [read(tmp_path, "composites", f"seed{seed:04d}") for seed in (0, 3, 5, 6)]
    for seed, picture in zip((0, 3, 5, 6), pictures, strict=True):
        assert_close(picture, upstream_picture(make(), seed, truncation_psi=trunc, noise_mode=noise_mode))
    assert not np.array_equal(pictures[0], pictures[1])


def test_class_is_a_one_hot_label(cond_run, tmp_path):
    pictures = {}
    for class_idx in (0, 2):
        draw(cond_run, "--seeds=4", f"--class={class_idx}", f"--outdir={tmp_path / str(class_idx)}")
        pictures[class_idx] = read(tmp_path / str(class_idx), "composites", "seed0004")
        assert_close(pictures[class_idx], upstream_picture(make(c_dim=3), 4, class_idx, noise_mode="const"))
    assert not np.array_equal(pictures[0], pictures[2])


def test_class_of_an_unconditional_network_is_refused(run, tmp_path):
    result = CliRunner().invoke(generate.main, [f"--network={run}", "--seeds=0", "--class=1", f"--outdir={tmp_path}/o"])
    assert result.exit_code == 2 and "--class=1 can't be given: this network has no classes" in result.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("half", [0, 2])
@pytest.mark.parametrize("noise_mode", ["const", "none", "random"])
def test_scenes_do_not_depend_on_the_batch_or_the_company(tmp_path, half, noise_mode):
    network = save(tmp_path / "run", make(num_fp16_res=half))
    args = [network, f"--noise-mode={noise_mode}"]
    for batch, seeds in [(1, "0-4"), (2, "0-4"), (32, "0-4"), (8, "9,3")]:
        draw(*args, f"--seeds={seeds}", f"--batch={batch}", f"--outdir={tmp_path / str(batch)}")
    for kind in FOLDERS:
        for seed in range(5):
            alone = read(tmp_path / "1", kind, f"seed{seed:04d}")
            assert_close(read(tmp_path / "2", kind, f"seed{seed:04d}"), alone)
            assert_close(read(tmp_path / "32", kind, f"seed{seed:04d}"), alone)
        assert_close(read(tmp_path / "8", kind, "seed0003"), read(tmp_path / "1", kind, "seed0003"))


def test_half_precision_networks_draw_in_float32():
    half, full = make(num_fp16_res=2), make()
    ws = scenes.seed_codes(full, range(4))
    for pred, target in zip(scenes.draw_layers(half, ws), scenes.draw_layers(full, ws), strict=True):
        assert torch.allclose(pred, target, atol=1e-5)
    assert not torch.allclose(half.synthesis(ws, noise_mode="const"), full.synthesis(ws, noise_mode="const"), atol=1e-5)


def test_random_noise_comes_from_the_seed_alone():
    G = make()
    ws = scenes.seed_codes(G, [5, 5, 6])
    before = torch.random.get_rng_state()
    layers = scenes.draw_layers(G, ws, "random", [5, 7, 6])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(layers.bg[:1], scenes.draw_layers(G, ws[:1], "random", [5]).bg)
    assert not torch.allclose(layers.bg[0], layers.bg[1])
    assert not torch.allclose(layers.bg[:1], scenes.draw_layers(G, ws[:1]).bg)


def test_pictures_are_the_layers_as_bytes():
    # Levels that a byte holds exactly, so that composites can be told to half a level.
    bg, fg = (torch.randint(256, (3, 3, 4, 4)) for _ in range(2))
    mask = torch.randint(256, (3, 1, 4, 4))
    scenes = to_pictures(Layers(bg / 127.5 - 1, fg / 127.5 - 1, mask / 255))
    for idx, scene in enumerate(scenes):
        assert np.array_equal(scene["backgrounds"], bg[idx].permute(1, 2, 0))
        assert np.array_equal(scene["foregrounds"], fg[idx].permute(1, 2, 0))
        assert np.array_equal(scene["masks"], mask[idx, 0])
        assert np.array_equal(scene["cutouts"], np.dstack([fg[idx].permute(1, 2, 0), mask[idx, 0]]))
        for y, x, channel in np.ndindex(4, 4, 3):
            alpha = int(mask[idx, 0, y, x]) / 255
            value = int(fg[idx, channel, y, x]) * alpha + int(bg[idx, channel, y, x]) * (1 - alpha)
            assert abs(int(scene["composites"][y, x, channel]) - value) <= 0.501


def test_files_are_cutout_mask_and_layers_of_the_composite(run, tmp_path):
    draw(run, "--seeds=1-3", f"--outdir={tmp_path}")
    modes = dict(zip(FOLDERS, ("RGB", "L", "RGBA", "RGB", "RGB"), strict=True))
    for seed in (1, 2, 3):
        name = f"seed{seed:04d}"
        for kind, mode in modes.items():
            with PIL.Image.open(tmp_path / kind / f"{name}.png") as picture:
                assert (picture.mode, picture.size) == (mode, (16, 16))
        img, mask, cutout, bg, fg = (read(tmp_path, kind, name).astype(float) for kind in FOLDERS)
        assert np.array_equal(cutout[..., 3], mask) and np.array_equal(cutout[..., :3], fg)
        alpha = mask[..., None] / 255
        # A clamped layer stands for any value beyond it; half a level of each layer, of the mask and of the result.
        inside = np.minimum(bg, fg).min(axis=2) > 0
        inside &= np.maximum(bg, fg).max(axis=2) < 255
        assert inside.mean() > 0.5
        assert np.abs(img - (fg * alpha + bg * (1 - alpha)))[inside].max() <= 1.51


def test_several_objects_have_files_of_their_own_and_a_common_mask(tmp_path):
    torch.manual_seed(1)
    G = LayeredGenerator(c_dim=0, num_objects=2, synthesis_kwargs=dict(channel_base=64, channel_max=4), **TINY)
    network = save(tmp_path / "run", G.eval().requires_grad_(False))
    draw(network, "--seeds=0-2", f"--outdir={tmp_path / 'out'}", f"--zip={tmp_path / 'a.zip'}",
         f"--grid={tmp_path / 'sheet.png'}")
    of_each = [f"{kind}{number}" for kind in ("cutouts", "foregrounds", "masks") for number in (1, 2)]
    assert sorted(os.listdir(tmp_path / "out")) == sorted(["backgrounds", "composites", "masks", *of_each])
    pictures, masks = read_pairs(tmp_path / "a.zip", tmp_path / "a-masks.zip")
    for seed in range(3):
        name = f"seed{seed:04d}"
        layers = scenes.draw_layers(G, scenes.seed_codes(G, [seed]))
        union, first, second, cutout = (read(tmp_path / "out", kind, name)
                                        for kind in ("masks", "masks1", "masks2", "cutouts1"))
        m1, m2 = layers.mask[0].numpy() * 255
        assert np.abs(first - m1 * (1 - m2 / 255)).max() <= 0.501 and np.abs(second - m2).max() <= 0.501
        assert np.abs(union - (255 - (255 - m1) * (255 - m2) / 255)).max() <= 0.501
        assert np.abs(cutout[..., 3] - m1).max() <= 0.501, "a cut-out is the whole object, hidden parts as well"
        assert np.array_equal(cutout[..., :3], read(tmp_path / "out", "foregrounds1", name))
        assert np.array_equal(masks[seed], union)
        assert_close(pictures[seed].transpose(1, 2, 0), upstream_picture(G, seed, noise_mode="const"))
    with PIL.Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (92 + 3 * 64, 9 * 66 - 2)


def test_zips_are_a_data_set_of_pairs(run, tmp_path):
    draw(run, "--seeds=8,2,5", f"--outdir={tmp_path}", f"--zip={tmp_path / 'new' / 'drawn.zip'}", "--batch=2")
    pictures, masks = read_pairs(tmp_path / "new/drawn.zip", tmp_path / "new/drawn-masks.zip")
    for idx, name in enumerate(["seed0008", "seed0002", "seed0005"]):
        assert np.array_equal(pictures[idx].transpose(1, 2, 0), read(tmp_path, "composites", name))
        assert np.array_equal(masks[idx], read(tmp_path, "masks", name))
    dataset = PictureDataset(tmp_path / "new/drawn.zip")
    assert (len(dataset), dataset.resolution, dataset.has_labels) == (3, 16, False)
    assert np.array_equal(dataset[1][0], pictures[1])


def test_zip_of_a_class_is_labelled_as_the_network(cond_run, tmp_path):
    draw(cond_run, "--seeds=0-1", "--class=1", f"--zip={tmp_path / 'a.zip'}", f"--masks-zip={tmp_path / 'b.zip'}")
    dataset = PictureDataset(tmp_path / "a.zip", use_labels=True)
    assert dataset.label_dim == 3
    assert [dataset.get_label(idx).tolist() for idx in range(2)] == [[0, 1, 0]] * 2
    assert read_pairs(tmp_path / "a.zip", tmp_path / "b.zip")[1].shape == (2, 16, 16)


def test_sheet_has_a_column_per_scene_up_to_its_width(run, tmp_path):
    for seeds, columns in [("0-2", 3), ("0-99", generate.SHEET_SCENES)]:
        draw(run, f"--seeds={seeds}", f"--grid={tmp_path / 'new' / 'sheet.png'}", "--batch=2")
        with PIL.Image.open(tmp_path / "new/sheet.png") as sheet:
            assert sheet.size == (92 + columns * 64, 5 * 66 - 2)
    assert os.listdir(tmp_path / "new") == ["sheet.png"]


def test_projected_codes_are_drawn(run, tmp_path):
    G = make()
    ws = G.mapping(torch.randn(3, 8), None)
    np.savez(tmp_path / "w.npz", w=ws.numpy())
    args = [f"--projected-w={tmp_path / 'w.npz'}", f"--outdir={tmp_path}", "--batch=2"]
    assert "WARNING" not in draw(run, *args).stderr
    target = G.synthesis(ws, noise_mode="const")
    for idx in range(3):
        pred = read(tmp_path, "composites", f"proj{idx:02d}")
        assert_close(pred, to_uint8(target[idx]).permute(1, 2, 0).numpy())
    for option in ("--seeds=0", "--trunc=0.5"):
        assert "WARNING: --seeds, --class and --trunc are ignored" in draw(run, *args, option).stderr
    assert os.listdir(tmp_path / "masks") == os.listdir(tmp_path / "composites") != []


@pytest.mark.parametrize("content, words", [
    (None, "not a readable npz file"),
    (b"PK no zip", "not a readable npz file"),
    (dict(z=np.zeros(3)), "not a readable npz file with an array w"),
    (dict(w=np.zeros((1, 6, 5))), "w must be float [K, 6, 16] for this network, got float64 [1, 6, 5]"),
    (dict(w=np.zeros((0, 6, 16))), "got float64 [0, 6, 16]"),
    (dict(w=np.zeros((6, 16))), "got float64 [6, 16]"),
    (dict(w=np.array([object()])), "not a readable npz file"),
])
def test_codes_that_do_not_fit_are_named(run, tmp_path, content, words):
    path = tmp_path / "codes.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    result = invoke(f"--network={run}", f"--projected-w={path}", f"--outdir={tmp_path / 'out'}")
    assert result.exit_code == 1, result.output
    assert f"--projected-w: {path}" in result.stderr and words in result.stderr


def test_array_without_names_is_no_npz(run, tmp_path):
    np.save(tmp_path / "codes.npy", np.zeros((1, 6, 16)))
    result = invoke(f"--network={run}", f"--projected-w={tmp_path / 'codes.npy'}", f"--outdir={tmp_path / 'out'}")
    assert result.exit_code == 1 and "not a readable npz file" in result.stderr


def test_array_that_no_memory_holds_is_named(run, tmp_path):
    path = tmp_path / "codes.npy"
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    result = invoke(f"--network={run}", f"--projected-w={path}", f"--outdir={tmp_path / 'out'}")
    assert result.exit_code == 1 and f"Error: --projected-w: {path}: not a readable npz file" in result.stderr


@pytest.mark.parametrize("args, words", [
    (["--seeds=0"], "at least one of --outdir, --zip and --grid must be given"),
    (["--outdir=out"], "--seeds must be given, for example --seeds=0-99, or else --projected-w"),
    (["--seeds=0", "--zip=a.tar"], "--zip must end in .zip, got a.tar"),
    (["--seeds=0", "--zip=a.zip", "--masks-zip=b"], "--masks-zip must end in .zip, got b"),
    (["--seeds=0", "--zip=a.zip", "--masks-zip=./a.zip"], "--masks-zip must differ from --zip"),
    (["--seeds=0", "--masks-zip=a.zip", "--outdir=out"], "--masks-zip can only be given with --zip"),
    (["--seeds=0", "--grid=sheet.jpg"], "--grid must end in .png, got sheet.jpg"),
    (["--seeds=0", "--outdir=out", "--noise-mode=some"], "--noise-mode"),
    (["--seeds=0", "--outdir=out", "--batch=0"], "--batch"),
    (["--seeds=0", "--outdir=out", "--trunc=half"], "--trunc"),
])
def test_wrong_options_are_named_with_their_rule(run, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    result = invoke(f"--network={run}", *args)
    assert result.exit_code == 2, result.output
    assert words in result.stderr and os.listdir(tmp_path) == []


@pytest.mark.parametrize("args, got", [([], "none"), (["--class=3"], "3")])
def test_class_must_be_one_of_the_networks(cond_run, tmp_path, args, got):
    result = invoke(f"--network={cond_run}", "--seeds=0", f"--outdir={tmp_path / 'out'}", *args)
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert f"--class must be from 0 to 2 for this conditional network, got {got}" in result.stderr


def test_network_that_cannot_be_used_is_named(tmp_path):
    plain = base.Generator(c_dim=0, synthesis_kwargs=dict(channel_base=64, channel_max=4), **TINY)
    run = save(tmp_path / "plain", plain.eval().requires_grad_(False))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pkl").write_text("no pickle")
    for path, words in [(run, "draws no layers"), (tmp_path / "missing.pkl", "no such file"),
                        (tmp_path / "empty", "holds no network-snapshot"), (tmp_path / "text.pkl", "not a readable")]:
        result = invoke(f"--network={path}", "--seeds=0", f"--outdir={tmp_path / 'out'}")
        assert result.exit_code == 1 and not (tmp_path / "out").exists()
        assert f"--network: {path}" in result.stderr and words in result.stderr


@pytest.mark.parametrize("option", ["--outdir=FILE", "--zip=FILE/a.zip", "--masks-zip=FILE/b.zip", "--grid=FILE/a.png"])
def test_place_that_cannot_be_written_is_named_and_nothing_is_left(run, tmp_path, option):
    (tmp_path / "file").write_text("a file, not a folder")
    args = [] if option.startswith("--zip") else [f"--zip={tmp_path / 'whole.zip'}"]
    result = invoke(f"--network={run}", "--seeds=0", option.replace("FILE", str(tmp_path / "file")), *args)
    assert result.exit_code == 1, result.output
    assert "can't be written" in result.stderr and str(tmp_path / "file") in result.stderr
    assert os.listdir(tmp_path) == ["file"]


def test_help_explains_every_option():
    result = invoke("--help")
    assert result.exit_code == 0
    for param in generate.main.params:
        assert param.opts[0] in result.output
        assert param.help and len(param.help) <= 45 and not param.help.endswith("."), param.name


def test_examples_of_the_help_run(tmp_path, monkeypatch):
    save(tmp_path / "runs/00000-my-cars", make())
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"python -m layered_plugin.generate (--.*)", inspect.getdoc(generate.main.callback))
    assert len(examples) == 3
    for example in examples:
        result = invoke(*shlex.split(example.replace("0-9999", "0-9")))
        assert result.exit_code == 0, (example, result.output)
    assert len(os.listdir("out/masks")) == 100 and os.path.isfile("out/sheet.png")
    assert read_pairs("data/drawn.zip", "data/drawn-masks.zip")[0].shape == (10, 3, 16, 16)


def test_module_prints_the_paths_of_its_results_and_no_more_on_standard_output(run, tmp_path):
    places = [tmp_path / "a.png", tmp_path, tmp_path / "b.zip", tmp_path / "b-masks.zip"]
    args = [f"--network={run}", "--seeds=0-1", f"--grid={places[0]}", f"--outdir={tmp_path}", f"--zip={places[2]}",
            "--device=cpu"]
    done = call("-m", "layered_plugin.generate", *args)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(map(str, places)) and all(path.exists() for path in places)
    assert "Scenes: 2/2" in done.stderr and "Warning" not in done.stderr
    assert len(os.listdir(tmp_path / "cutouts")) == 2
