"""Steps on another device than the CPU, one without data: what mixes devices fails here, without a GPU too."""

import contextlib

import dnnlib
import pytest
import torch
from torch_utils import custom_ops, training_stats

from layered_plugin.data.dataset import random_crop
from layered_plugin.data.pictures import to_float
from layered_plugin.model.encoder import Encoder
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.layers import Layers
from layered_plugin.model.unet import make_unet
from layered_plugin.segmentation.augment import clean_edges, disturb, random_affine, vary_shape
from layered_plugin.segmentation.encoder_training import EncoderTraining
from layered_plugin.segmentation.pairs import PairSampler
from layered_plugin.segmentation.reconstruction import Reconstruction
from layered_plugin.training import phases
from layered_plugin.training.presets import AUGPIPES

META = torch.device("meta")


@pytest.fixture
def no_data(monkeypatch):
    """The reference operations, and statistics that nobody reads."""
    reports = []
    monkeypatch.setattr(training_stats, "report", lambda name, value: reports.append(name) or value)
    with custom_ops.reference_ops():
        yield reports


def networks():
    half = dict(num_fp16_res=2, conv_clamp=256)
    block = dict(half_dtype="float16", fp16_channels_last=True)
    size = dict(c_dim=0, img_resolution=32, img_channels=3)
    G = LayeredGenerator(z_dim=8, w_dim=8, mapping_kwargs=dict(num_layers=2),
                         synthesis_kwargs=dict(channel_base=128, channel_max=8, **half, **block), **size)
    D = dnnlib.util.construct_class_by_name(class_name="training.networks.Discriminator", channel_base=128,
                                            channel_max=8, block_kwargs=block, **half, **size)
    return G.to(META), D.to(META)


@pytest.mark.parametrize("class_name", ["loss.LayeredLoss", "wgan_gp.WganGpLoss"])
def test_step_of_training_stays_on_the_device(no_data, class_name):
    G, D = networks()
    loss = dnnlib.util.construct_class_by_name(
        class_name=f"layered_plugin.training.{class_name}", device=META, G_mapping=G.mapping,
        G_synthesis=G.synthesis, D=D, pl_weight=2, mask_border_weight=1)
    real = to_float(random_crop(torch.zeros([4, 3, 36, 36], dtype=torch.uint8, device=META), 32))
    rest = dict(real_c=torch.zeros([4, 0], device=META), gen_z=torch.randn([4, 8], device=META),
                gen_c=torch.zeros([4, 0], device=META), sync=True, gain=1)
    for phase in ("Gboth", "Dboth"):
        module = D if phase[0] == "D" else G
        loss.accumulate_gradients(phase=phase, real_img=real, **rest)
        grads = [param.grad for param in module.parameters()]
        assert all(grad is not None and grad.device.type == "meta" for grad in grads)
        module.zero_grad()
    phases.update_ema(G, G, 4, 1000, 10, 0.05)
    assert "Loss/G/loss" in no_data and "Layers/coverage" in no_data


def test_augmentation_draws_on_the_device(no_data, monkeypatch):
    from training import augment

    monkeypatch.setattr(augment, "_margins", lambda inverse, height, width, reach: [3, 3, 2, 2])  # It reads values.
    pipe = augment.AugmentPipe(**AUGPIPES["bgc"]).to(META)
    img = torch.zeros([4, 3, 32, 32], device=META, requires_grad=True)
    (grad,) = torch.autograd.grad(pipe(img).sum(), img)
    assert grad.device.type == "meta"


def test_pairs_for_distilling_are_made_on_the_device(no_data):
    G, _D = networks()
    sampler = PairSampler(G, 0.125, lambda img, mask: (img, mask), seed=0, vary=0.6)
    layers = Layers(torch.zeros(2, 3, 32, 32, device=META), torch.zeros(2, 3, 32, 32, device=META),
                    torch.zeros(2, 1, 32, 32, device=META))
    generator = torch.Generator()
    bent = vary_shape(clean_edges(layers), 0.6, generator)
    img, mask = random_affine(bent.fg, bent.mask, generator)
    assert {part.device.type for part in (*bent, disturb(img, generator, 2), mask)} == {"meta"}
    assert {part.device.type for part in sampler.scenes(2)} == {"meta"}


def test_networks_of_segmenting_train_on_the_device(no_data, monkeypatch):
    G, D = networks()
    E = Encoder(32, G.num_ws, G.w_dim, max_shift=0.1).to(META)
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: 0.0)
    monkeypatch.setattr("layered_plugin.model.encoder.fast_half", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(EncoderTraining, "_update", lambda training, loss: loss.backward())
    training = EncoderTraining(E, Reconstruction(G.eval(), D.eval(), mask_border_weight=1))
    terms = training.step(torch.zeros(2, 3, 32, 32, device=META))
    unet = make_unet((4, 8, 8, 8), deep=1).to(META)
    assert set(terms) >= {"loss", "l1"} and unet(torch.zeros(2, 3, 32, 32, device=META)).device.type == "meta"
