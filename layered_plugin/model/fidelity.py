"""FID and KID of a generator's composites, through torch-fidelity (optional extra `fid`).

They tell whether the pictures look real and vary; masks play no part. Not in the paper; the field's custom.
"""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from layered_plugin.data.dataset import PictureDataset
from layered_plugin.data.labels import Labels
from layered_plugin.data.pictures import to_uint8
from layered_plugin.errors import FidelityError
from layered_plugin.model.layers import Layers, composite
from layered_plugin.model.scenes import draw_scenes
from layered_plugin.progress import progress

KID_SUBSET = 1000  # torch-fidelity's; smaller where fewer pictures are at hand.


class Fidelity:
    """FID and KID with Inception weights from a local file; nothing is ever downloaded.

    Args:
        weights_file: torch-fidelity's Inception weights.
        feature_layer: Layer of Inception that is compared, by its width.
        device: Where Inception runs: cpu or cuda.

    Raises:
        FidelityError: torch-fidelity is not installed, or the file is missing, damaged or of another network.
    """

    def __init__(self, weights_file: str | os.PathLike[str] | None, feature_layer: str = "2048",
                 device: str = "cpu") -> None:
        try:
            import torch_fidelity
        except ImportError as err:
            raise FidelityError("needs the package torch-fidelity: pip install 'layered-plugin[fid]'") from err
        self._package, self._layer = torch_fidelity, feature_layer
        self._weights, self._cuda = str(weights_file), device == "cuda"
        self._check_weights(weights_file)

    def _check_weights(self, path: str | os.PathLike[str] | None) -> None:
        """Fail before hours of work; and torch-fidelity itself would run code that a damaged file holds."""
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

        wanted = PurePosixPath(URL_INCEPTION_V3).name
        if path is None or not Path(path).is_file():
            said = "no `fid_weights` given" if path is None else f"{path}: no such file"
            raise FidelityError(f"{said}; FID and KID need torch-fidelity's Inception weights, the file {wanted} "
                                "(95 MB), which is a download of release v0.2.0 of torch-fidelity's repository")
        try:
            torch.load(path, map_location="cpu", weights_only=True)
            FeatureExtractorInceptionV3("inception-v3-compat", [self._layer], feature_extractor_weights_path=str(path))
        except (OSError, EOFError, RuntimeError, TypeError, AttributeError, ValueError, pickle.UnpicklingError) as err:
            raise FidelityError(f"{path}: damaged, or weights of another network; the file wanted is {wanted}") from err

    def __call__(self, G_ema: Any, real: PictureDataset, num: int, seed: int, trunc: float = 1.0,
                 batch: int = 32, labels: Labels | None = None) -> dict[str, Any]:
        """Compare generated composites with real pictures.

        Args:
            G_ema: Layered generator in evaluation mode.
            real: Real pictures, with the generator's ``resolution``.
            num: Number of composites.
            seed: Of the latents: the same scenes as in ``scoring.score_generated``; and of KID's subsets.
            trunc: Truncation psi.
            batch: Pictures at a time.
            labels: Of the scenes; None = every class equally likely.

        Returns:
            `fid`, `kid` and `kid_std` (over subsets), the numbers of pictures, and `kid_subset`.

        Raises:
            FidelityError: There are fewer than two pictures on either side.
            PictureError: A real picture can't be read; the text names it.
        """
        num_real = len(real)
        if min(num, num_real) < 2:
            raise FidelityError(f"needs at least 2 pictures on either side, got {num} generated and {num_real} real")
        composites = _Composites(draw_scenes(G_ema, num, seed, labels, min(batch, num), trunc))
        scenes = self._package.GenerativeModelModuleWrapper(composites, G_ema.z_dim, "normal", num_classes=0)
        subset = min(KID_SUBSET, num, num_real)
        metrics = self._package.calculate_metrics(
            input1=scenes, input1_model_num_samples=num, input2=_Counted(real), fid=True, kid=True, rng_seed=seed,
            kid_subset_size=subset, feature_extractor="inception-v3-compat", feature_layer_fid=self._layer,
            feature_layer_kid=self._layer, feature_extractor_weights_path=self._weights, batch_size=batch,
            cuda=self._cuda, save_cpu_ram=True, cache=False, verbose=False)
        return dict(fid=metrics["frechet_inception_distance"], kid=metrics["kernel_inception_distance_mean"],
                    kid_std=metrics["kernel_inception_distance_std"], num_gen=num, num_real=num_real, kid_subset=subset)


class _Counted(torch.utils.data.Dataset):
    """Pictures as tensors, with progress while they are read."""

    def __init__(self, pictures: PictureDataset) -> None:
        self._pictures = pictures
        self._ticks = iter(progress(range(len(pictures)), len(pictures), "Real pictures"))

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, idx: int) -> torch.Tensor:
        next(self._ticks, None)
        return torch.from_numpy(self._pictures[idx][0])


class _Composites(torch.nn.Module):
    """Unshifted composites of scenes already under way, uint8; torch-fidelity's own latents say how many at a time."""

    def __init__(self, scenes: Iterator[Layers]) -> None:
        super().__init__()
        self._scenes = scenes

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return to_uint8(composite(next(self._scenes))).to(z.device)
