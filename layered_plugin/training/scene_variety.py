"""How varied the scenes are at each snapshot, as training statistics; needs no mask of a real picture."""

import functools
from typing import Any

import numpy as np
import torch

from layered_plugin.data.dataset import random_crop
from layered_plugin.data.labels import Labels
from layered_plugin.device import seeded_cpu
from layered_plugin.model.mask_variety import spread
from layered_plugin.model.picture_distance import PictureFeatures, frechet_distance
from layered_plugin.model.scenes import collect_scenes

NUM_SCENES, NUM_REAL = 500, 1000
STEPS = 100  # Of the features: seconds.


class SceneVariety:
    """Figures of the same 500 scenes at every snapshot; draws nothing from PyTorch's default generators.

    The seed is that of scenes, crops and features.
    """

    def __init__(self, training_set: Any, resolution: int, seed: int) -> None:
        self._training_set, self._resolution, self._seed = training_set, resolution, seed

    @functools.cached_property
    def _learnt(self) -> tuple[PictureFeatures, torch.Tensor]:
        """Features learnt from half of the pictures, and those of the other half, with which scenes are compared."""
        order = np.random.RandomState(self._seed).permutation(len(self._training_set))  # Names go by class, perhaps.
        pictures = torch.from_numpy(np.stack([self._training_set[idx][0] for idx in order[:NUM_REAL]]))
        with seeded_cpu(self._seed):
            pictures = random_crop(pictures, self._resolution)
        features = PictureFeatures(pictures[::2], self._seed, STEPS)
        return features, features(pictures[1::2])

    def __call__(self, G: Any) -> dict[str, dict[str, float]]:
        """Statistics by name, as the log takes them, of a layered generator in evaluation mode.

        Returns:
            ``Variety/variation``, ``Variety/area``, ``Variety/area_deviation`` (``mask_variety.spread``) and, from
            four pictures on, ``Variety/frechet``: distance of the composites from real pictures.
        """
        labels = Labels(G.c_dim, self._training_set if G.c_dim > 0 else None)
        scenes = collect_scenes(G, NUM_SCENES, self._seed, labels=labels, quiet=True)
        values = spread(scenes.masks)
        if len(self._training_set) >= 4:
            features, real = self._learnt
            values["frechet"] = frechet_distance(features(scenes.pictures), real)
        return {f"Variety/{name}": dict(num=1, mean=value, std=0.0) for name, value in values.items()}
