"""FID and KID: torch-fidelity is called as its own command would be, and what is missing is named."""

import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from tiny_models import write_inception

from layered_plugin.data.dataset import PictureDataset
from layered_plugin.errors import FidelityError
from layered_plugin.model.fidelity import Fidelity
from layered_plugin.model.layers import Layers

torch_fidelity = pytest.importorskip("torch_fidelity", reason="optional extra `fid`")
NUM = 8


class Noise(torch.nn.Module):
    """A generator whose pictures, all background, are its latents."""

    z_dim, c_dim, img_resolution = 192, 0, 8

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones([]))

    def forward(self, z, c, noise_mode, return_layers, truncation_psi, force_fp32):
        assert return_layers and force_fp32  # It has no blocks in bfloat16, the only format that is fast on a CPU.
        img = (z.view(-1, 3, 8, 8) * self.gain * 0.4 * truncation_psi).clamp(-1, 1)
        return Layers(img, -img, torch.zeros(len(z), 1, 8, 8))

    def pictures(self, z):
        return self(z, None, "const", True, 1, force_fp32=True).bg.detach()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_inception(tmp_path_factory.mktemp("inception") / "weights.pth")


@pytest.fixture(autouse=True)
def _no_download(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


def write_pictures(folder: Path, num: int = NUM, size: int = 8, seed: int = 1) -> Path:
    folder.mkdir()
    draws = np.random.RandomState(seed)
    for idx in range(num):
        PIL.Image.fromarray(draws.randint(256, size=(size, size, 3), dtype=np.uint8)).save(folder / f"{idx:02d}.png")
    return folder


def test_scores_are_those_of_torch_fidelity_on_the_same_files(weights, tmp_path):
    real = write_pictures(tmp_path / "real")
    fidelity = Fidelity(weights, feature_layer="64")
    scores = fidelity(Noise(), PictureDataset(real, resolution=8), num=NUM, seed=5, batch=5)

    # The scenes of score_generated with this seed, written to files.
    (tmp_path / "gen").mkdir()
    z = torch.from_numpy(np.random.RandomState(5).randn(NUM, 192)).float()
    img = Noise().pictures(z)
    pixels = ((img + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for idx, picture in enumerate(pixels):
        PIL.Image.fromarray(picture).save(tmp_path / "gen" / f"{idx:02d}.png")
    expected = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "gen"), input2=str(real), fid=True, kid=True, kid_subset_size=NUM, rng_seed=5,
        feature_layer_fid="64", feature_layer_kid="64", feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights), cuda=False, cache=False, save_cpu_ram=True, verbose=False)
    assert scores["fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert scores["kid"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3)
    assert (scores["num_gen"], scores["num_real"], scores["kid_subset"]) == (NUM, NUM, NUM)


def test_truncated_scenes_are_farther_from_noise(weights, tmp_path):
    # Pictures of the very latents: nothing but the truncation differs.
    (tmp_path / "real").mkdir()
    z = torch.from_numpy(np.random.RandomState(0).randn(NUM, 192)).float()
    for idx, img in enumerate(Noise().pictures(z)):
        picture = ((img.permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
        PIL.Image.fromarray(picture).save(tmp_path / "real" / f"{idx:02d}.png")
    fidelity, real = Fidelity(weights, feature_layer="64"), PictureDataset(tmp_path / "real", resolution=8)
    same, far = (fidelity(Noise(), real, num=NUM, seed=0, trunc=trunc)["fid"] for trunc in (1.0, 0.8))
    assert abs(same) < 1e-3 * far


def test_real_pictures_are_cropped_as_in_training(tmp_path):
    folder = write_pictures(tmp_path / "real", num=40, size=18)
    pictures = PictureDataset(folder, size_px=18, resolution=16)
    assert len(pictures) == 40
    places = set()
    for idx in range(40):
        whole = np.asarray(PIL.Image.open(folder / f"{idx:02d}.png")).transpose(2, 0, 1)
        places |= {(top, left) for top in range(3) for left in range(3)
                   if np.array_equal(pictures[idx][0], whole[:, top : top + 16, left : left + 16])}
        assert np.array_equal(pictures[idx][0], pictures[idx][0])
    assert len(places) == 9
    assert PictureDataset(folder, resolution=16)[0][0].shape == (3, 16, 16)


def test_one_picture_is_too_few(weights, tmp_path):
    real = PictureDataset(write_pictures(tmp_path / "real", num=1), resolution=8)
    with pytest.raises(FidelityError, match="at least 2 pictures on either side, got 8 generated and 1 real"):
        Fidelity(weights, feature_layer="64")(Noise(), real, num=NUM, seed=0)


@pytest.mark.parametrize("path, said", [(None, "no `fid_weights` given"), ("none.pth", r"none\.pth: no such file")])
def test_missing_weights_say_which_file(path, said):
    with pytest.raises(FidelityError, match=rf"{said}; .*weights-inception-2015-12-05-6726825d\.pth"):
        Fidelity(path)


def test_damaged_weights_are_named_and_run_no_code(weights, tmp_path):
    (tmp_path / "short.pth").write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save(Path("an object"), tmp_path / "code.pth")
    for name in ("short.pth", "text.pth", "other.pth", "code.pth"):
        with pytest.raises(FidelityError, match=rf"{name}: damaged, or weights of another network; the file wanted is"):
            Fidelity(tmp_path / name)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(FidelityError, match=r"pip install 'layered-plugin\[fid\]'"):
        Fidelity("weights.pth")
