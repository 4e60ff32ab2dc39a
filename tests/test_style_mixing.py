"""layered_plugin.style_mixing: upstream's mixing, and that of one layer alone."""

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from tiny_models import SIDE, make_gan_run

from layered_plugin import style_mixing
from layered_plugin.data.pictures import to_uint8
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.snapshots import load_snapshot, save_network_pkl


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_gan_run(tmp_path_factory.mktemp("runs") / "00000-gan")


def invoke(run, outdir, *args):
    return CliRunner().invoke(style_mixing.main, [f"--network={run}", f"--outdir={outdir}", "--device=cpu", *args])


def read(path):
    return np.asarray(PIL.Image.open(path)).astype(int)


def test_pictures_are_upstreams(run, tmp_path):
    # From the description of upstream's script: w_avg + psi (w - w_avg), the column's w in the chosen layers.
    result = invoke(run, tmp_path, "--rows=3,4", "--cols=5", "--styles=0-2", "--trunc=0.7")
    assert result.exit_code == 0, result.output
    G = load_snapshot(run)["G_ema"]
    w = {seed: G.mapping(torch.from_numpy(np.random.RandomState(seed).randn(1, G.z_dim)), None) for seed in (3, 4, 5)}
    w = {seed: G.mapping.w_avg + 0.7 * (code - G.mapping.w_avg) for seed, code in w.items()}
    grid = read(tmp_path / "grid.png")
    assert grid.shape == (3 * SIDE, 2 * SIDE, 3) and (grid[:SIDE, :SIDE] == 0).all()
    for y, row in enumerate((3, 4), start=1):
        mixed = w[row].clone()
        mixed[:, :3] = w[5][:, :3]
        cells = ((mixed, (y, 1), tmp_path / f"{row}-5.png"), (w[row], (y, 0), None), (w[5], (0, 1), None))
        for code, cell, file in cells:
            expected = to_uint8(G.synthesis(code, noise_mode="const"))[0].permute(1, 2, 0).numpy().astype(int)
            shown = grid[cell[0] * SIDE:(cell[0] + 1) * SIDE, cell[1] * SIDE:(cell[1] + 1) * SIDE]
            assert np.abs(shown - expected).max() <= 1
            assert file is None or np.abs(read(file) - expected).max() <= 1


@pytest.mark.parametrize("part, kept, taken", [
    ("foreground", ["backgrounds"], ["foregrounds", "masks"]),
    ("background", ["foregrounds", "masks"], ["backgrounds"])])
def test_one_part_alone_takes_the_columns_styles(run, tmp_path, part, kept, taken):
    invoke(run, tmp_path / "mixed", "--rows=1", "--cols=2", "--styles=0-99", f"--part={part}")
    invoke(run, tmp_path / "row", "--rows=1", "--cols=1")
    invoke(run, tmp_path / "col", "--rows=2", "--cols=2")
    for kinds, folder, name in ((kept, "row", "1-1"), (taken, "col", "2-2")):
        for kind in kinds:
            assert np.abs(read(tmp_path / f"mixed/{kind}/1-2.png") - read(tmp_path / f"{folder}/{kind}/{name}.png")
                          ).max() <= 1
    assert np.abs(read(tmp_path / "row/masks/1-1.png") - read(tmp_path / "col/masks/2-2.png")).max() > 5


@pytest.mark.parametrize("args, code, text", [
    (["--rows=5-1", "--cols=1"], 2, "--rows must be"),
    (["--rows=1", "--cols=x"], 2, "--cols must be"),
    (["--rows=1", "--cols=1", "--styles=6-9"], 2, "--styles must name some of the layers 0 to 5"),
    (["--rows=1", "--cols=1", "--network=none"], 1, "--network: none"),
])
def test_wrong_values_are_named(run, tmp_path, args, code, text):
    result = invoke(run, tmp_path / "out", *args)
    assert result.exit_code == code and text in result.stderr, result.output


def test_one_network_for_all_parts_has_no_styles_of_a_part(tmp_path):
    G = LayeredGenerator(z_dim=4, c_dim=0, w_dim=4, img_resolution=8, img_channels=3, generator="single",
                         synthesis_kwargs=dict(channel_base=32, channel_max=4)).eval().requires_grad_(False)
    save_network_pkl(tmp_path / "a.pkl", dict(G=G, D=G, G_ema=G, training_set_kwargs=None, augment_pipe=None))
    result = invoke(tmp_path / "a.pkl", tmp_path / "out", "--rows=1", "--cols=2", "--styles=0", "--part=background")
    assert result.exit_code == 2 and "--part=background" in result.stderr
    assert invoke(tmp_path / "a.pkl", tmp_path / "out", "--rows=1", "--cols=2", "--styles=0").exit_code == 0
