"""layered_plugin.projector: the codes of a picture, its layers as files, the film; wrong values."""

import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from tiny_models import SIDE, make_gan_run, picture

from layered_plugin import device, generate, projector, video
from layered_plugin.model.layers import composite
from layered_plugin.model.snapshots import load_snapshot, save_network_pkl
from layered_plugin.segmentation.projection import PerceptualDistance, project
from layered_plugin.segmentation.reconstruction import Reconstruction

pytestmark = pytest.mark.usefixtures("process_as_before")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_gan_run(tmp_path_factory.mktemp("runs") / "00000-gan")


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    path = tmp_path_factory.mktemp("target") / "car.png"
    picture(20, 30, seed=1).save(path)
    return path


def invoke(run, target, outdir, *args):
    return CliRunner().invoke(projector.main, [f"--network={run}", f"--target={target}", f"--outdir={outdir}",
                                               "--device=cpu", *args])


@pytest.mark.parametrize("space", ["w", "w+"])
def test_descent_on_equation_7_comes_near_a_picture_the_generator_can_draw(run, space):
    networks = load_snapshot(run)
    G = networks["G_ema"]
    ws = G.mapping(torch.randn(1, G.z_dim), None)
    img = composite(G.synthesis(ws, noise_mode="const", return_layers=True))
    objective = Reconstruction(G, networks["D"], feature_resolution=8)
    before = {key: value.clone() for key, value in G.state_dict().items()}
    steps = list(project(objective, img, torch.zeros(1, 0), 60, space))
    assert len(steps) == 61 and steps[-1].terms["loss"] < 0.5 * steps[0].terms["loss"]
    reached = steps[-1]
    drawn = G.synthesis(reached.ws, noise_mode="const", return_layers=True)
    torch.testing.assert_close(composite(drawn), composite(reached.layers), rtol=1e-3, atol=1e-3)
    same = (reached.ws == reached.ws[:, :1]).all()
    assert bool(same) == (space == "w") and reached.ws.shape == (1, G.num_ws, G.w_dim)
    assert all(torch.equal(value, before[key]) for key, value in G.state_dict().items())


@pytest.fixture(params=["fp32", "bf16"])
def run_of_precision(request, run, tmp_path, monkeypatch):
    """A run trained in either precision, which the descent then computes in."""
    if request.param == "fp32":
        return run
    monkeypatch.setattr(device, "has_fast_bf16", lambda: True)
    data = load_snapshot(run)
    for block in (net for name in ("G_ema", "D") for net in data[name].modules() if hasattr(net, "use_fp16")):
        block.use_fp16, block.half_dtype = block.resolution > 4, "bfloat16"
    del data["path"]
    (tmp_path / "half").mkdir()
    save_network_pkl(tmp_path / "half/network-snapshot-000001.pkl", data)
    return tmp_path / "half"


def test_command_writes_the_layers_and_generate_draws_them_again(run_of_precision, target, tmp_path):
    run = run_of_precision
    result = invoke(run, target, tmp_path / "out", "--num-steps=3", "--save-video=0")
    assert result.exit_code == 0 and "Steps: 3/3 in" in result.stderr, result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"target.png", "proj.png", "proj.ora", "projected_w.npz", "mask.png", "cutout.png",
                     "background.png", "foreground.png"}
    assert np.asarray(PIL.Image.open(tmp_path / "out/target.png")).shape == (SIDE, SIDE, 3)
    again = CliRunner().invoke(generate.main, [
        f"--network={run}", f"--projected-w={tmp_path / 'out/projected_w.npz'}", f"--outdir={tmp_path / 'again'}"])
    assert again.exit_code == 0, again.output
    for kind, name in (("composites", "proj"), ("masks", "mask"), ("cutouts", "cutout")):
        one, two = (np.asarray(PIL.Image.open(path)) for path in (
            tmp_path / f"again/{kind}/proj00.png", tmp_path / f"out/{name}.png"))
        assert (one == two).all()


def test_film_has_a_frame_per_step(run, target, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    result = invoke(run, target, tmp_path, "--num-steps=4", "--save-video=1")
    assert result.exit_code == 0, result.output
    assert ffmpeg.count_frames_and_secs(str(tmp_path / "proj.mp4"))[0] == 5
    reader = ffmpeg.read_frames(str(tmp_path / "proj.mp4"))
    assert next(reader)["source_size"] == (5 * 256, 256)  # Target, composite, background, mask, cut-out.
    frame = np.frombuffer(next(reader), np.uint8).reshape(256, 5 * 256, 3)
    reader.close()
    expected = np.asarray(PIL.Image.open(tmp_path / "target.png").resize((256, 256), PIL.Image.Resampling.NEAREST))
    assert np.abs(frame[:, :256].astype(int) - expected).mean() < 8  # H.264 is not exact.


def test_film_without_the_library_names_the_extra(run, target, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    result = invoke(run, target, tmp_path, "--save-video=1")
    assert result.exit_code == 1 and "layered-plugin[video]" in result.stderr and "--save-video" in result.stderr
    result = invoke(run, target, tmp_path, "--num-steps=1")  # Nobody asked for a film.
    assert result.exit_code == 0 and not (tmp_path / "proj.mp4").exists()


@pytest.mark.parametrize("film", [0, 1])
def test_network_that_draws_no_numbers_is_named_and_nothing_written(run, target, tmp_path, film):
    data = load_snapshot(run)
    next(data["G_ema"].mapping.parameters()).fill_(float("nan"))
    del data["path"]
    save_network_pkl(tmp_path / "nan.pkl", data)
    result = invoke(tmp_path / "nan.pkl", target, tmp_path / "out", "--num-steps=9", f"--save-video={film}")
    assert result.exit_code == 1 and not (tmp_path / "out").exists()
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"Error: --network: {tmp_path}/nan.pkl: loss is not finite at step 0; ")


@pytest.mark.parametrize("film", [0, 1])
def test_loss_that_becomes_no_number_writes_nothing(run, target, tmp_path, monkeypatch, film):
    def diverge(*args, **kwargs):
        for number, step in enumerate(project(*args, **kwargs)):
            yield step._replace(terms=dict(step.terms, loss=float("inf"))) if number == 2 else step

    monkeypatch.setattr(projector, "project", diverge)
    result = invoke(run, target, tmp_path / "out", "--num-steps=9", f"--save-video={film}")
    assert result.exit_code == 1 and "loss is not finite at step 2; " in result.stderr and "--lr" in result.stderr
    assert not [*(tmp_path / "out").glob("*")]


class _FakeVgg(torch.nn.Module):
    def forward(self, img: torch.Tensor, resize_images: bool = True, return_lpips: bool = False) -> torch.Tensor:
        assert not resize_images and return_lpips
        return img.mean(dim=[2, 3]) / 255


@pytest.fixture
def vgg(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated.
        torch.jit.script(_FakeVgg()).save(str(tmp_path / "vgg16.pt"))
    return tmp_path / "vgg16.pt"


def test_perceptual_distance_is_that_of_the_file(vgg, run, target, tmp_path):
    distance = PerceptualDistance(str(vgg), "cpu")
    img = torch.zeros(2, 3, 300, 300)
    img[1] = 1
    torch.testing.assert_close(distance.features(img), torch.tensor([[0.5] * 3, [1.0] * 3]))  # [-1, 1] to [0, 255].
    result = invoke(run, target, tmp_path / "out", "--num-steps=2", f"--vgg={vgg}", "--save-video=0")
    assert result.exit_code == 0 and "perceptual" in result.stderr


@pytest.mark.parametrize("args, code, text", [
    (["--target=none.png"], 1, "--target: none.png: not a readable picture"),
    (["--target=text.png"], 1, "--target: text.png: not a readable picture"),
    (["--vgg=text.png"], 1, "--vgg: text.png: no TorchScript network such as upstream's vgg16.pt: Pytorch"),
    (["--network=none"], 1, "--network: none"),
    (["--feature-resolution=5"], 2, "--feature-resolution must be one of"),
    (["--space=z"], 2, "--space"),
    (["--outdir=text.png"], 1, "--outdir"),
])
def test_wrong_values_are_named(run, target, tmp_path, monkeypatch, args, code, text):
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no picture")
    result = invoke(run, target, "out", "--num-steps=1", "--save-video=0", *args)
    assert result.exit_code == code and text in result.stderr, result.output
