"""The benchmark of grounds: the closed form of its score, and scenes and true grounds through the command."""

import json
import math

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from tiny_models import SIDE, make_gan_run

from benchmarks import grounds
from layered_plugin.model.layers import Layers


def test_score_is_the_mean_step_at_the_same_pixel():
    torch.manual_seed(0)
    masks = (torch.rand(50, 4, 4) < 0.4).float()
    masks[:, 0, 0], masks[:, 1, 1] = 1, 0  # Always hidden, never hidden: nothing to compare there.
    place = torch.arange(16.0).view(1, 1, 4, 4) * 10  # A ground that differs from pixel to pixel alone.
    assert grounds.hidden_less_seen(place.expand(50, 3, 4, 4), masks) == pytest.approx(0, abs=1e-9)
    assert grounds.hidden_less_seen(place - 7 * masks[:, None], masks) == pytest.approx(-7)
    assert math.isnan(grounds.hidden_less_seen(place.expand(50, 3, 4, 4), torch.ones(50, 4, 4)))


def test_pixels_count_by_the_inverse_variance_of_their_step():
    masks = torch.tensor([[1.0, 1], [1, 0], [1, 0], [0, 0]])[:, None]  # Hidden in 3 of 4 scenes, in 1 of 4.
    levels = masks[:, None] * torch.tensor([4.0, 8])
    assert grounds.hidden_less_seen(levels, masks) == pytest.approx((4 * 3 / 4 + 8 * 3 / 4) / (3 / 4 + 3 / 4))
    masks = torch.cat([masks, torch.tensor([[1.0, 0]])[:, None]])  # 4 of 5 and 1 of 5; then 4 of 5 and 2 of 5.
    masks[4, 0, 1] = 1
    levels = masks[:, None] * torch.tensor([4.0, 8])
    assert grounds.hidden_less_seen(levels, masks) == pytest.approx((4 * 4 / 5 + 8 * 6 / 5) / (4 / 5 + 6 / 5))


def test_holes_that_cancel_are_seen_by_the_ratio():
    torch.manual_seed(0)
    masks = (torch.rand(400, 4, 4) < 0.4).float()
    masks[0], masks[1] = 0, 1  # Nothing behind, nothing elsewhere.
    ground = 100 + 10 * torch.randn(400, 3, 4, 4)
    sign = torch.ones(400, 1, 1, 1)
    sign[::2] = -1
    holes = ground + 30 * sign * masks[:, None]
    assert abs(grounds.hidden_less_seen(holes, masks)) < 3 and grounds.contrast_ratio(holes, masks) > 2
    assert grounds.contrast_ratio(ground, masks) == pytest.approx(1, abs=0.1)


@pytest.fixture
def truth(tmp_path):
    """Grounds that are 20 levels darker behind the object than elsewhere, and the masks."""
    draws = np.random.default_rng(0)
    for folder in ("grounds", "masks"):
        (tmp_path / folder).mkdir()
    for idx in range(6):
        mask = draws.random([18, 18]) < 0.5  # What crops of 16 are taken from.
        PIL.Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(tmp_path / "masks" / f"{idx}.png")
        ground = np.where(mask, 80, 100).astype(np.uint8)
        PIL.Image.fromarray(ground).convert("RGB").save(tmp_path / "grounds" / f"{idx}.png")
    return [f"--grounds={tmp_path}/grounds", f"--masks={tmp_path}/masks", "--num=6"]


def test_drawn_grounds_are_beside_true_ones(tmp_path, truth, monkeypatch):
    run = make_gan_run(tmp_path / "00000-run")

    def scenes(G, num, seed):
        for _ in range(num // 2):
            mask = (torch.rand(2, 1, SIDE, SIDE) < 0.5).float()
            yield Layers(bg=(10 * mask / 127.5).expand(2, 3, -1, -1), fg=torch.ones(2, 3, SIDE, SIDE), mask=mask)

    monkeypatch.setattr(grounds, "draw_scenes", scenes)
    result = CliRunner().invoke(grounds.main, [f"--network={run}", *truth])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    name = "00000-run/network-snapshot-000001.pkl"
    (scores,) = record["networks"]
    assert scores["network"] == name
    assert (scores["drawn"]["step"], scores["true"]["step"]) == (pytest.approx(10, abs=1), pytest.approx(-20, abs=1))
    assert min(scores["drawn"]["ratio"], scores["true"]["ratio"]) > 3
    assert f"| {name} | +1" in result.stderr


def test_missing_masks_and_networks_are_named(tmp_path, truth):
    result = CliRunner().invoke(grounds.main, ["--network=none.pkl", *truth])
    assert result.exit_code == 1 and result.stderr.startswith("Error: --network: none.pkl"), result.output
    (tmp_path / "masks" / "3.png").unlink()
    result = CliRunner().invoke(grounds.main, [f"--network={make_gan_run(tmp_path / 'run')}", *truth])
    assert result.exit_code == 1 and result.stderr.startswith("Error: --masks: ") and "3.png" in result.stderr
