"""What only a CUDA device shows: exact resumption, models that travel between devices, every precision's step."""

import os
import warnings

import dnnlib
import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from test_loop import VARIANTS, config, weights
from tiny_models import make_gan_run, make_generator, make_model, make_pictures, picture
from torch_utils import custom_ops

import invert
from layered_plugin.data.dataset import PictureDataset
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.scenes import draw_layers, seed_codes
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.segmentation.segmenter import Refinement, Segmenter
from layered_plugin.training.loop import training_loop

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "squares"
    folder.mkdir()
    for idx in range(40):
        picture(18, 18, seed=idx).save(folder / f"{idx:02d}.png")
    return folder


@pytest.fixture
def deterministic(monkeypatch, process_as_before):
    monkeypatch.setitem(os.environ, "CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with warnings.catch_warnings(record=True) as found:  # Of what has no deterministic variant.
        warnings.simplefilter("always")
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield found
        torch.use_deterministic_algorithms(False)


def on_gpu(data, run_dir, half, **changes):
    values = config(data, run_dir, device="cuda", cudnn_benchmark=False, image_snapshot_ticks=None,
                    network_snapshot_ticks=1, kimg_per_tick=0.02, **changes)
    if half:
        values["G_kwargs"]["synthesis_kwargs"].update(num_fp16_res=2, conv_clamp=256, fp16_channels_last=True)
        values["D_kwargs"].update(num_fp16_res=2, conv_clamp=256, block_kwargs=dict(fp16_channels_last=True))
    return values


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("variant", ["plain", "ada"])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(variant, half, data, tmp_path, deterministic):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    changes = VARIANTS[variant]
    training_loop(**on_gpu(data, whole, half, total_kimg=0.08, **changes))
    training_loop(**on_gpu(data, parts, half, total_kimg=0.04, **changes))
    torch.manual_seed(999)
    training_loop(**on_gpu(data, parts, half, total_kimg=0.08,
                           resume_state=str(parts / "training-state-000000.pt"), **changes))
    expected, resumed = weights(whole, 0), weights(parts, 0)
    different = [name for name, value in expected.items() if not torch.equal(value, resumed[name])]
    causes = sorted({str(entry.message)[:200] for entry in deterministic if "determin" in str(entry.message)})
    assert not different, f"{len(different)} of {len(expected)}, such as {different[0]}; {causes}"


def test_snapshot_of_a_gpu_draws_the_same_on_a_cpu(data, tmp_path, process_as_before):
    run_dir = tmp_path / "run"
    training_loop(**on_gpu(data, run_dir, half=True, total_kimg=0.04))
    scenes = []
    for device in ("cpu", "cuda"):
        G = load_snapshot(run_dir, device)["G_ema"]
        scenes.append(draw_layers(G, seed_codes(G, [0, 1, 2])))
    for on_cpu, on_cuda in zip(*scenes, strict=True):
        assert on_cuda.device.type == "cuda"
        torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["distill", "encoder"])
def test_masks_of_a_gpu_equal_those_of_a_cpu(kind, tmp_path):
    model = make_model(tmp_path / "model", kind)
    pictures = [picture(17, 23), picture(30, 20, seed=1)]
    found = [Segmenter.load(model, device)(pictures, refinement=Refinement(flip=True)) for device in ("cpu", "cuda")]
    for on_cpu, on_cuda in zip(*found, strict=True):
        assert on_cuda.mask.shape == on_cpu.mask.shape
        assert np.abs(on_cuda.mask - on_cpu.mask).mean() < 0.02  # A CPU may compute in bfloat16.


@pytest.mark.parametrize("command", [
    ["distill", "--steps=3", "--adapt=2", "--batch=4", "--max-coverage=0.99"],
    ["train", "--mode=dataset", "--steps=3", "--pretrain=2", "--batch=2", "--feature-resolution=8"],
], ids=["distill", "train"])
def test_model_trained_on_a_gpu_segments_on_a_cpu(command, tmp_path, process_as_before):
    images = make_pictures(tmp_path / "images", [f"{idx}.png" for idx in range(6)])
    make_gan_run(tmp_path / "gan")
    result = CliRunner().invoke(invert.main, [*command, f"--network={tmp_path / 'gan'}", f"--data={images}",
                                              f"--outdir={tmp_path / 'models'}", "--device=cuda"])
    assert result.exit_code == 0, result.output
    model = next((tmp_path / "models").iterdir())
    (mask,) = (found.mask for found in Segmenter.load(model, "cpu")([PIL.Image.open(images / "0.png")]))
    assert np.isfinite(mask).all()


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_step_has_the_gradients_of_float32(dtype, layout):
    """By our operations; the reference operations in float32 are the truth. Directions, since rounding is coarse."""
    found = []
    for half in (True, False):
        torch.manual_seed(0)
        block = dict(half_dtype=dtype, fp16_channels_last=layout == "nhwc")
        shared = dict(num_fp16_res=3 if half else 0, conv_clamp=256)
        size = dict(c_dim=0, img_resolution=32, img_channels=3)
        G = LayeredGenerator(z_dim=16, w_dim=16, synthesis_kwargs=dict(
            channel_base=512, channel_max=32, **shared, **block), **size).cuda()
        D = dnnlib.util.construct_class_by_name(class_name="training.networks.Discriminator", channel_base=512,
                                                channel_max=32, block_kwargs=block, **shared, **size).cuda()
        z = torch.randn(8, 16, generator=torch.Generator().manual_seed(1)).cuda()
        with custom_ops.reference_ops() if not half else warnings.catch_warnings():
            img = G(z, torch.zeros(8, 0, device="cuda"), noise_mode="const")
            logits = D(img, None)
            (slope,) = torch.autograd.grad(logits.sum(), img, create_graph=True)
            loss = torch.nn.functional.softplus(-logits).mean() + slope.square().sum(dim=[1, 2, 3]).mean()
            grads = torch.autograd.grad(loss, [*G.parameters(), *D.parameters()], allow_unused=True)
        found.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
    assert found[0].isfinite().all()
    assert torch.cosine_similarity(*found, dim=0) > 0.98


def test_pictures_in_memory_are_the_same_on_the_gpu(data):
    training_set = PictureDataset(path=str(data), size_px=16)
    assert training_set.preload()
    img = torch.from_numpy(training_set[0][0])
    assert torch.equal(img.pin_memory().to("cuda", non_blocking=True).cpu(), img)


def test_generator_in_evaluation_draws_alike_with_ours_and_reference_operations():
    G = make_generator().cuda()
    ws = seed_codes(G, range(4))
    ours = draw_layers(G, ws)
    with custom_ops.reference_ops():
        reference = draw_layers(G, ws)
    for got, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
