"""Tiny stand-ins for what a user has: a run of train_layered.py, trained models, pictures of every kind."""

import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import nn
from training.networks import Discriminator, Generator

from layered_plugin.model.encoder import Encoder
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.snapshots import save_network_pkl
from layered_plugin.model.unet import FastUNet
from layered_plugin.segmentation.model_file import network_hash, save_model, save_tensors

SIDE = 16
# Of train_layered.py: seconds, not minutes.
TINY = ["--cfg=demo", "--resolution=16", "--cbase=64", "--cmax=4", "--w-dim=8", "--batch=8", "--tick=0.016",
        "--kimg=0.04", "--snap=1", "--device=cpu", "--precision=fp32"]


def make_generator(seed=0):
    torch.manual_seed(seed)
    G = LayeredGenerator(z_dim=8, c_dim=0, w_dim=8, img_resolution=SIDE, img_channels=3,
                         mapping_kwargs=dict(num_layers=1), synthesis_kwargs=dict(channel_base=64, channel_max=4))
    for name, param in G.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(param, 0.1)  # As in a trained one, pictures depend on the noise.
    return G.eval().requires_grad_(False)


def make_discriminator(seed=0):
    torch.manual_seed(seed)
    D = Discriminator(c_dim=0, img_resolution=SIDE, img_channels=3, channel_base=64, channel_max=4)
    return D.eval().requires_grad_(False)


def make_gan_run(folder, seed=0):
    """A run folder of train_layered.py with an untrained snapshot."""
    folder.mkdir(parents=True)
    G = make_generator(seed)
    data = dict(G=G, D=make_discriminator(seed), G_ema=G, training_set_kwargs=None, augment_pipe=None)
    save_network_pkl(folder / "network-snapshot-000001.pkl", data)
    return folder


def make_plain(path, c_dim=0, img_channels=3, architecture="skip", D_architecture="resnet", w_dim=6):
    """An ordinary snapshot, untrained, whose pictures depend on the noise."""
    torch.manual_seed(0)
    sizes = dict(channel_base=64, channel_max=8)
    shape = dict(c_dim=c_dim, img_resolution=SIDE, img_channels=img_channels)
    G = Generator(z_dim=5, w_dim=w_dim, **shape, mapping_kwargs=dict(num_layers=3, lr_multiplier=0.1),
                  synthesis_kwargs=dict(sizes, architecture=architecture))
    for name, param in G.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(param, 0.1)
    G.mapping.w_avg.normal_()
    D = Discriminator(**shape, **sizes, architecture=D_architecture)
    G, D = (net.eval().requires_grad_(False) for net in (G, D))
    save_network_pkl(path, dict(G=G, D=D, G_ema=G, training_set_kwargs=None, augment_pipe=None))
    return G, D


def small_resnet(weights=None):
    """In the place of ResNet-18, which is slow to train and large to save: 512 features, batch normalisation."""
    return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 512, SIDE // 4),
                         nn.Identity(), nn.Identity())


def make_encoder(G, seed=0, max_shift=0.2):
    torch.manual_seed(seed)
    E = Encoder(SIDE, G.num_ws, G.w_dim, max_shift=max_shift)
    E.set_mean(G.mapping.w_avg)
    nn.init.normal_(E.head.weight, std=0.1)  # So that codes differ from picture to picture.
    return E.eval().requires_grad_(False)


def make_model(folder, kind="distill", seed=0, chunks=(("a.png", "b.png"), ("c.png",))):
    """A model as `invert.py train` or `distill` leaves it, untrained."""
    folder.mkdir(parents=True)
    if kind == "distill":
        torch.manual_seed(seed)
        unet = FastUNet((4, 4, 4, 4)).eval()
        nn.init.normal_(unet.out.weight, std=30)  # So that masks have both black and white.
        save_model(folder, kind, dict(unet=unet), dict(resolution=SIDE, options=dict(seed=seed)))
        return folder
    G = make_generator(seed)
    networks = dict(E=make_encoder(G, seed), G=G, D=make_discriminator(seed))
    meta = dict(resolution=SIDE, generator=network_hash(G), options=dict(
        seed=seed, network="runs/00000-gan", feature_resolution=8, feature_weight=1.0, mean_w_weight=0.0))
    if kind == "chunks":
        meta["chunks"] = [dict(file=f"chunk-{idx:05d}.safetensors", names=list(part))
                          for idx, part in enumerate(chunks)]
        for idx, chunk in enumerate(meta["chunks"]):
            save_tensors(folder / chunk["file"], dict(E=make_encoder(G, seed + idx)))
    save_model(folder, kind, networks, meta)
    return folder


def default_options(command):
    """Options of a command of invert.py when none is given."""
    return command.make_context(command.name, ["--outdir=out"]).params


def picture(height=SIDE, width=SIDE, seed=0):
    """Smooth colors, RGB."""
    values = np.random.RandomState(seed).randint(0, 256, [4, 4, 3], dtype=np.uint8)
    return PIL.Image.fromarray(values).resize((width, height), PIL.Image.Resampling.BICUBIC)


def make_pictures(folder, names=("a.png", "b.png", "c.png")):
    """A folder of pictures of different sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for idx, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(17 + idx, 23 - idx, seed=idx).save(folder / name)
    return folder


def zip_folder(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(Path(folder).rglob("*")):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


class Bomb:
    """A pickle of this writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def write_network(path, side=None, channels=3, num_outputs=1, gain=1.0):
    """An ONNX file: gain times the mean of the channels as the first output, the input as the second."""
    import onnx
    from onnx import TensorProto, helper

    shape = [1, channels, side or "height", side or "width"]
    kernel = np.full([num_outputs, channels, 1, 1], gain / channels, np.float32)
    nodes = [helper.make_node("Conv", ["picture", "kernel"], ["mask"]),
             helper.make_node("Identity", ["picture"], ["other"])]
    graph = helper.make_graph(
        nodes, "brightness", [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, num_outputs, *shape[2:]]),
         helper.make_tensor_value_info("other", TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(kernel, "kernel")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def write_inception(path):
    """Inception with random weights, as torch-fidelity reads it from a file."""
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    load, torch.nn.Module.load_state_dict = torch.nn.Module.load_state_dict, lambda self, state: None
    download, inception.load_state_dict_from_url = inception.load_state_dict_from_url, lambda *args, **kwargs: {}
    try:
        torch.manual_seed(0)
        network = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["64"])
    finally:
        torch.nn.Module.load_state_dict, inception.load_state_dict_from_url = load, download
    torch.save(network.state_dict(), path)
    return path
