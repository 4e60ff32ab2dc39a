"""dataset_tool alpha: pictures with transparency become a data set on a colour, with true masks."""

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from layered_plugin.data.mask_files import read_pairs
from layered_plugin.dataset_tool import main

RED = (200, 30, 40)


@pytest.fixture
def source(tmp_path):
    """Two cut-outs, 16x16, whose left half is opaque, hidden colours green; a picture without transparency."""
    folder = tmp_path / "cut-outs"
    (folder / "sub").mkdir(parents=True)
    colors = np.zeros([16, 16, 3], np.uint8) + np.uint8([0, 255, 0])
    colors[:, :8] = RED
    alpha = np.zeros([16, 16], np.uint8)
    alpha[:, :8] = 255
    cut_out = PIL.Image.fromarray(np.dstack([colors, alpha]))
    cut_out.save(folder / "b.png")
    cut_out.save(folder / "sub/a.webp", lossless=True, exact=True)
    PIL.Image.fromarray(colors).save(folder / "whole.png")
    return folder


@pytest.mark.parametrize("backdrop, behind", [([], (255, 255, 255)), (["--backdrop=#102030"], (16, 32, 48))])
def test_hidden_colours_are_gone_and_opacity_is_the_mask(source, tmp_path, backdrop, behind):
    dest, masks = tmp_path / "p.zip", tmp_path / "m.zip"
    result = CliRunner().invoke(main, ["alpha", f"--source={source}", f"--dest={dest}", f"--masks={masks}",
                                       "--size=16", *backdrop])
    assert result.exit_code == 0, result.output
    assert "left out whole.png: has no transparency" in result.stderr
    assert "2 pictures, object share 0.500, 1 left out" in result.stderr
    pictures, truth = read_pairs(dest, masks)
    assert (truth[:, :, :8] == 255).all() and not truth[:, :, 8:].any()
    assert (pictures[:, :, :, :8] == np.uint8(RED)[:, None, None]).all()
    assert (pictures[:, :, :, 8:] == np.uint8(behind)[:, None, None]).all()


def test_wrong_colour_and_empty_source_are_named(source, tmp_path):
    args = ["alpha", f"--dest={tmp_path / 'p.zip'}"]
    wrong = CliRunner().invoke(main, [*args, f"--source={source}", "--backdrop=mauvish"])
    assert wrong.exit_code == 2 and "'mauvish' is no colour such as gray or #808080" in wrong.stderr
    (tmp_path / "empty").mkdir()
    empty = CliRunner().invoke(main, [*args, f"--source={tmp_path / 'empty'}"])
    assert empty.exit_code == 1 and "--source: " in empty.stderr and "holds no pictures" in empty.stderr
