"""Figures of variety at each snapshot."""

import numpy as np
import pytest
import torch
from tiny_models import make_generator

from layered_plugin.model.picture_distance import frechet_distance
from layered_plugin.training import scene_variety
from layered_plugin.training.scene_variety import SceneVariety


class Pictures:
    label_dim = 0

    def __init__(self, num):
        self.img = np.random.RandomState(0).randint(0, 256, [num, 3, 18, 18], dtype=np.uint8)

    def __len__(self):
        return len(self.img)

    def __getitem__(self, idx):
        return self.img[idx], np.zeros(0, np.float32)


def test_the_same_generator_has_the_same_figures_and_random_streams_are_left_alone():
    G = make_generator()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    found = SceneVariety(Pictures(12), 16, seed=0)(G)
    assert torch.equal(torch.rand(2), expected)
    assert SceneVariety(Pictures(12), 16, seed=0)(G) == found
    assert found.keys() == {"Variety/variation", "Variety/area", "Variety/area_deviation", "Variety/frechet"}


def test_generators_of_gpus_are_left_alone(monkeypatch):
    """`torch.manual_seed` seeds them too, and nothing would put them back: a run on a GPU would repeat its draws."""
    G = make_generator()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail(f"CUDA was seeded with {seed}"))
    SceneVariety(Pictures(12), 16, seed=0)(G)


def test_real_pictures_are_taken_from_all_of_the_set(monkeypatch):
    monkeypatch.setattr(scene_variety, "NUM_REAL", 20)
    seen = []
    pictures = Pictures(100)
    monkeypatch.setattr(Pictures, "__getitem__", lambda self, idx: (seen.append(int(idx)), (self.img[idx], None))[1])
    assert SceneVariety(pictures, 16, seed=0)._learnt
    assert len(set(seen)) == 20
    assert min(seen) < 25 < 75 < max(seen)  # Names may go by class.


def test_other_pictures_than_real_ones_are_further_away(monkeypatch):
    monkeypatch.setattr(scene_variety, "NUM_SCENES", 50)
    monkeypatch.setattr(scene_variety, "STEPS", 20)
    pictures = Pictures(200)
    variety = SceneVariety(pictures, 16, seed=0)
    features, real = variety._learnt
    same = frechet_distance(features(torch.from_numpy(pictures.img[:, :, 1:17, 1:17])), real)
    assert variety(make_generator())["Variety/frechet"]["mean"] > 3 * same


def test_too_few_pictures_leave_the_distance_out():
    assert "Variety/frechet" not in SceneVariety(Pictures(3), 16, seed=0)(make_generator())
