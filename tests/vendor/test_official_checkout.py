"""Snapshots of the bundled base in an official checkout, of which only the names are here."""

import os
import subprocess
import sys
from pathlib import Path

import dnnlib
import official_checkout
import pytest
import torch
from torch_utils import custom_ops
from training.augment import AugmentPipe

from layered_plugin.base import REQUIRED_FILES
from layered_plugin.model.snapshots import save_network_pkl
from layered_plugin.training.presets import AUGPIPES, NAMES, base_settings, preset_options

BASE = Path(custom_ops.__file__).parents[1]
ROOT = Path(__file__).parents[2]
LAYERED = "layered_plugin.model.generator.LayeredGenerator"
PLAIN = "training.networks.Generator"
AUGMENTED = dict(augment_pipe=AUGPIPES["bgc"] | AUGPIPES["noise"] | AUGPIPES["cutout"])


def shape_of(cfg):
    """What a preset decides about the networks, their widths left aside: the same for several of them."""
    settings = base_settings(cfg, resolution=16, gpus=1, batch=None) | preset_options(cfg)
    architecture = "orig" if cfg == "cifar" else "resnet"
    return settings["map_depth"], settings["mbstd"], architecture


DISTINCT = {shape_of(cfg): cfg for cfg in NAMES}.values()
SNAPSHOTS = dict(
    plain=dict(G=dict(class_name=PLAIN)),
    conditional=dict(G=dict(class_name=PLAIN), c_dim=3),
    resnet=dict(G=dict(class_name=PLAIN), architecture="resnet"),
    layered_conditional=dict(c_dim=3, **AUGMENTED),
    two_objects=dict(G=dict(num_objects=2)),
    single=dict(G=dict(generator="single", mapping="shared")),
    half=dict(half=dict(num_fp16_res=2, conv_clamp=256)),
    grown=dict(side=32),
    **{cfg: dict(cfg=cfg) for cfg in DISTINCT},
)


def write_snapshot(path, G=None, cfg="demo", c_dim=0, side=16, architecture="skip", half=None, augment_pipe=None):
    torch.manual_seed(0)
    map_depth, mbstd, d_architecture = shape_of(cfg)
    common = dict(c_dim=c_dim, img_resolution=side, img_channels=3)
    sizes = dict(channel_base=128, channel_max=8, **(half or {}))
    G = dnnlib.util.construct_class_by_name(
        **(dict(class_name=LAYERED) | (G or {})), z_dim=8, w_dim=8, **common,
        mapping_kwargs=dict(num_layers=map_depth), synthesis_kwargs=dict(architecture=architecture, **sizes),
    )  # fmt: skip
    for name, param in G.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(param, 0.1)
    D = dnnlib.util.construct_class_by_name(
        class_name="training.networks.Discriminator", architecture=d_architecture,
        epilogue_kwargs=dict(mbstd_group_size=mbstd), **sizes, **common,
    )  # fmt: skip
    G, D = (net.eval().requires_grad_(False) for net in (G, D))
    pipe = None if augment_pipe is None else AugmentPipe(**augment_pipe)
    save_network_pkl(path, dict(G=G, D=D, G_ema=G, training_set_kwargs=dict(path="."), augment_pipe=pipe))


@pytest.fixture(scope="module")
def drawn_there(tmp_path_factory):
    """Name of a snapshot -> its path; beside it lies what a process with the names of a checkout drew with it."""
    folder, checkout = tmp_path_factory.mktemp("snapshots"), tmp_path_factory.mktemp("checkout")
    paths = {name: folder / f"{name}.pkl" for name in SNAPSHOTS}
    for name, path in paths.items():
        write_snapshot(path, **SNAPSHOTS[name])
    command = [sys.executable, official_checkout.__file__, str(BASE), str(checkout), *map(str, paths.values())]
    env = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    done = subprocess.run(command, cwd=checkout, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"official ({checkout})", "Names of ours are absent"]
    return paths


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_snapshot_draws_in_an_official_checkout_what_it_draws_here(drawn_there, name):
    here = official_checkout.draw(str(drawn_there[name]))
    there = torch.load(f"{drawn_there[name]}.pt")
    assert set(here) == set(there) >= {"img", "logits", "mixed", "noise"}
    assert ("mask" in here) == (SNAPSHOTS[name].get("G", {}).get("class_name") != PLAIN)
    for part, value in here.items():
        torch.testing.assert_close(there[part], value, rtol=1e-4, atol=1e-4)


def test_a_checkout_without_one_of_its_modules_is_no_base():
    """All that is imported, by the plugin or by another of them, is among ``NAMES``."""
    names = official_checkout.NAMES
    packages = {name.rpartition(".")[0] for name in names}
    files = {f"{name.replace('.', '/')}{'/__init__' if name in packages else ''}.py" for name in names}
    assert files == set(REQUIRED_FILES)
