"""Real masks beside generated ones: read as everywhere, squeezed and cropped as the pictures."""

import zipfile

import numpy as np
import PIL.Image
import pytest
import torch

from layered_plugin.data.mask_files import MaskFiles
from layered_plugin.errors import MaskError
from layered_plugin.evaluation.variety import Comparison, real_masks, real_pictures

NAMES = ["a.b.png", "a.bmp", "c.png", "d.png"]  # Without suffixes, a comes before a.b.


@pytest.fixture
def folders(tmp_path):
    """Gray pictures with soft edges, each its own mask."""
    for folder in ("pictures", "masks"):
        (tmp_path / folder).mkdir()
    for idx, name in enumerate(NAMES):
        values = np.random.RandomState(idx).randint(0, 256, [4, 4], dtype=np.uint8)
        values[0, 0] = 255
        gray = PIL.Image.fromarray(values).resize((20 + idx, 18), PIL.Image.Resampling.NEAREST)
        gray.convert("RGB").save(tmp_path / "pictures" / name)
        gray.save(tmp_path / "masks" / name.replace("bmp", "png"))
    return tmp_path / "pictures", tmp_path / "masks"


def masks_of(path, **kwargs):
    return real_masks(MaskFiles(path, **kwargs), NAMES, 16, 9, 18)


def test_masks_are_squeezed_and_cropped_as_their_pictures(folders):
    masks = masks_of(folders[1])
    assert masks.shape == (4, 16, 16) and masks.dtype == torch.float32
    assert torch.equal((masks * 255).round(), real_pictures(folders[0], 16, 9, 18)[:, 0].float())
    assert len(torch.unique(masks)) > 20  # Edges stay soft: only what is compared is cut at half.
    assert torch.equal(real_masks(MaskFiles(folders[1]), NAMES, 16, 2), masks[:2])


def test_of_the_results_of_segment_only_masks_are_taken(folders, tmp_path):
    with zipfile.ZipFile(tmp_path / "results.zip", "w") as archive:
        for path in folders[1].iterdir():
            for kind in ("masks", "cutouts", "backgrounds"):
                archive.write(folders[0] / "c.png" if kind != "masks" else path, f"{kind}/{path.name}")
    Comparison(str(folders[0]), str(tmp_path / "results.zip"))
    assert torch.equal(masks_of(tmp_path / "results.zip"), masks_of(folders[1]))


def test_unusable_mask_is_named_not_replaced_by_its_neighbour(folders):
    PIL.Image.new("L", (20, 18), 7).save(folders[1] / "c.png")
    with pytest.raises(MaskError, match="masks: mask c.png holds values up to 7 alone"):
        masks_of(folders[1])
    assert masks_of(folders[1], values=[(7, 7)])[2].min() == 1
    (folders[1] / "c.png").write_bytes(b"none")
    with pytest.raises(MaskError, match="cannot read mask c.png"):
        masks_of(folders[1])
