"""Grids: every picture in its place, no random draw of PyTorch's."""

import numpy as np
import PIL.Image
import pytest
import torch

from layered_plugin import grids
from layered_plugin.data.dataset import PictureDataset
from layered_plugin.dataset_tool import shapes as shapes_command
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.layers import Layers
from layered_plugin.training import sample_view


def test_image_grid_is_row_major():
    img = torch.arange(6).view(6, 1, 1, 1).expand(6, 3, 2, 2) / 127.5 - 1
    grid = np.asarray(grids.image_grid(img, columns=3))
    assert grid.shape == (4, 6, 3)
    assert grid[::2, ::2, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_image_grid_refuses_a_broken_last_row():
    with pytest.raises(ValueError, match="multiple of 4"):
        grids.image_grid(torch.zeros(6, 3, 2, 2), columns=4)


def test_layer_grid_has_a_named_row_per_layer():
    white, black = torch.ones(3, 3, 8, 8), -torch.ones(3, 3, 8, 8)
    mask = torch.zeros(3, 1, 8, 8)
    mask[:, :, :, 4:] = 1
    sheet = sample_view.layer_grid(Layers(black, white, mask), shifted=torch.zeros(3, 3, 8, 8), cell_px=16)
    cells = np.asarray(sheet)[:, grids.NAMES_PX:, 0]
    assert cells.shape == (6 * 16 + 5 * grids.GAP_PX, 3 * 16)
    left, right = cells[8::16 + grids.GAP_PX, 2], cells[8::16 + grids.GAP_PX, 14]
    assert left.tolist() == [0, 255, 0, 0, 0, 128]
    assert right.tolist() == [0, 255, 255, 255, 255, 128]
    margin = np.asarray(sheet)[:, :grids.NAMES_PX]
    assert all((margin[i * 18:i * 18 + 16] < 128).any() for i in range(6)), "a row has no name"


def test_picture_rows_put_every_picture_into_its_row_and_column():
    levels = torch.arange(6).view(2, 3, 1, 1, 1).expand(-1, -1, 3, 4, 5) / 127.5 * 20 - 1
    sheet = grids.picture_rows({"one": levels[0], "two": levels[1, :, :1]}, cell_px=8)
    step = 8 + grids.GAP_PX  # Four rows of pixels, each twice: the least that gives 8.
    cells = np.asarray(sheet)[:, grids.NAMES_PX:]
    assert cells.shape == (2 * 8 + grids.GAP_PX, 3 * 10, 3)
    for row in range(2):
        for col in range(3):
            cell = cells[row * step:row * step + 8, col * 10:col * 10 + 10]
            assert (cell == 20 * (3 * row + col)).all()
    assert (cells[8:step] == 255).all()


@pytest.mark.parametrize("side, cell_px, shown", [(16, 64, 64), (24, 64, 72), (64, 64, 64), (100, 64, 100), (8, 1, 8)])
def test_picture_rows_enlarge_small_pictures_by_a_whole_factor(side, cell_px, shown):
    sheet = grids.picture_rows({"name": torch.zeros(2, 3, side, side)}, cell_px)
    assert sheet.size == (grids.NAMES_PX + 2 * shown, shown)


def test_picture_rows_are_named_in_order():
    black = -torch.ones(1, 3, 64, 64)
    names = {name: np.asarray(grids.picture_rows({name: black}))[:, :grids.NAMES_PX] for name in ("mask", "picture")}
    both = np.asarray(grids.picture_rows(dict.fromkeys(names, black)))[:, :grids.NAMES_PX]
    assert np.array_equal(both[:64], names["mask"]) and np.array_equal(both[64 + grids.GAP_PX:], names["picture"])
    assert not np.array_equal(names["mask"], names["picture"])
    assert all((name < 128).any() for name in names.values())


def test_sample_view_repeats_and_draws_nothing_from_pytorch(tmp_path):
    data = tmp_path / "shapes.zip"
    shapes_command([f"--dest={data}", "--num=10", "--size=16", "--seed=0"], standalone_mode=False)
    G = LayeredGenerator(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3,
                         synthesis_kwargs=dict(channel_base=64, channel_max=4)).eval()
    before = torch.get_rng_state()
    views = [sample_view.SampleView(G, PictureDataset(data, size_px=16), seed=1, shift_px=2) for _ in range(2)]
    for draw in (lambda view: view.reals(), lambda view: view.fakes(G), lambda view: view.layers(G)):
        assert np.array_equal(*(np.asarray(draw(view)) for view in views))
    assert torch.equal(before, torch.get_rng_state())


def test_save_picture_leaves_no_half_file(tmp_path, monkeypatch):
    picture = PIL.Image.new("RGB", (4, 4))
    monkeypatch.setattr(PIL.Image.Image, "save", lambda *_args, **_kwargs: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        grids.save_picture(picture, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
