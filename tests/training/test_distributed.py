"""Two CPU processes over gloo: the same step as one process, and a short real run."""

import json
import re
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from shell import call, dry
from test_growing import SCHEDULE
from test_growing import TINY as TINY_GROWING
from test_loop import config, weights
from tiny_models import TINY, make_pictures
from torch.nn.parallel import DistributedDataParallel
from torch_utils import training_stats
from training.networks import Discriminator

from layered_plugin import runs
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.synthetic.shapes import write_shapes
from layered_plugin.training import legs, metrics, scene_variety
from layered_plugin.training import wgan_gp as gan_loss
from layered_plugin.training.launcher import leave_process
from layered_plugin.training.loop import training_loop
from layered_plugin.training.loss import LayeredLoss
from layered_plugin.training.phases import setup_phases
from layered_plugin.training.state import saved_resolution

WORLD, BATCH = 2, 8
LOSSES = ("logistic", "wgan-gp")


def draw_like_rank(rank: int, num: int):
    """Shifts of a rank: every other row of what one process with the whole batch draws."""
    draws = torch.Generator().manual_seed(11)

    def random_shift(_num, max_px, device):
        del device
        return torch.randint(-max_px, max_px + 1, [BATCH, 2], generator=draws)[rank::WORLD if num < BATCH else 1]

    return random_shift


def halfway(real_img: torch.Tensor, gen_img: torch.Tensor) -> torch.Tensor:
    """Interpolates that do not depend on how the batch is shared out."""
    return (real_img + gen_img) / 2


def step(rank: int, world: int, loss_name: str) -> dict[str, torch.Tensor]:
    """Three optimizer steps of every phase on the rows of a rank; returns the weights."""
    import layered_plugin.training.loss as loss_module

    torch.manual_seed(0)
    channels = dict(channel_base=64, channel_max=4)
    G = LayeredGenerator(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3,
                         mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(channels, use_noise=False)).train()
    # A group of the minibatch statistics must lie within one process: of 8 rows, n and n + 4, so rows of one parity.
    D = Discriminator(c_dim=0, img_resolution=16, img_channels=3, **channels,
                      epilogue_kwargs=dict(mbstd_group_size=2)).train()
    loss_module.random_shift = draw_like_rank(rank, BATCH // world)
    modules = dict(G_mapping=G.mapping, G_synthesis=G.synthesis, D=D)
    if world > 1:
        modules = {name: DistributedDataParallel(net) for name, net in modules.items()}
    plain = dict(style_mixing_prob=0, bg_jitter=0, mask_min=0.6)
    if loss_name == "wgan-gp":
        gan_loss.interpolate = halfway
        loss = gan_loss.WganGpLoss("cpu", **modules, **plain)
    else:
        loss = LayeredLoss("cpu", **modules, r1_gamma=1.0, **plain)
    opt = dict(class_name="torch.optim.Adam", lr=0.01, betas=[0.0, 0.99], eps=1e-8)
    phases = setup_phases("G", G, opt, None) + setup_phases("D", D, opt, None if loss_name == "wgan-gp" else 2)
    G.requires_grad_(False)
    D.requires_grad_(False)
    data = torch.Generator().manual_seed(5)
    for _ in range(3):
        for phase in phases:
            rows = slice(rank, None, world)
            real = torch.randn(BATCH, 3, 16, 16, generator=data)[rows]
            z = torch.randn(BATCH, 8, generator=data)[rows]
            label = torch.zeros(len(z), 0)
            phase.opt.zero_grad(set_to_none=True)
            phase.module.requires_grad_(True)
            loss.accumulate_gradients(phase=phase.name, real_img=real, real_c=label, gen_z=z, gen_c=label, sync=True,
                                      gain=phase.interval)
            phase.module.requires_grad_(False)
            phase.opt.step()
    return {f"{letter}.{name}": param.detach().clone()
            for letter, net in (("G", G), ("D", D)) for name, param in net.named_parameters()}


def find_masks(run_dir: Path, data: str, num: int, seed: int, device: str, workers: int) -> None:
    """As the first process finds them, while the other waits."""
    assert torch.distributed.get_rank() == 0 and num == 16 and len(runs.training_states(run_dir)) == 1
    time.sleep(1)
    shutil.copytree(run_dir.parent / "masks", run_dir / runs.FOUND / "masks")


def work(rank: int, folder: str, data: str, grown: dict[str, Any], found: dict[str, Any]) -> None:
    """What one of the two processes does, for all tests: to start them costs more than their steps."""
    torch.set_num_threads(1)
    scene_variety.NUM_SCENES, scene_variety.STEPS = 10, 2
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=WORLD)
    training_stats.init_multiprocessing(rank=rank, sync_device=torch.device("cpu"))
    train_whole_and_in_two_parts(rank, folder, data, "", pl_weight=2.0)
    train_whole_and_in_two_parts(rank, folder, data, "masked-", show_masks=True)
    legs.train_legs(grown, rank, torch.device("cpu"))
    legs.train_legs(found, rank, torch.device("cpu"), find_masks)
    torch.save({name: step(rank, WORLD, name) for name in LOSSES}, f"{folder}/{rank}.pt")
    with metrics.others_wait(WORLD):
        if rank == 0:
            time.sleep(1)
            Path(folder, "measured").touch()
    Path(folder, f"waited{rank}").write_text(str(Path(folder, "measured").exists()))
    torch.distributed.destroy_process_group()
    leave_process(0)


def train_whole_and_in_two_parts(rank: int, folder: str, data: str, prefix: str, **changes: Any) -> None:
    loss = dict(class_name="layered_plugin.training.loss.LayeredLoss", r1_gamma=0.5, **changes)
    for name, kimg in (("whole", 0.032), ("parts", 0.016), ("parts", 0.032)):
        run = Path(folder, prefix + name)
        states = runs.training_states(run)
        save = runs.save_training_state
        runs.save_training_state = lambda *args, save=save: (time.sleep(0.5), save(*args))[1]  # A slow disk.
        training_loop(**config(data, run, num_gpus=WORLD, rank=rank, batch_gpu=BATCH // WORLD,
                               G_reg_interval=2 if "pl_weight" in changes else None,
                               masks_path=f"{folder}/masks" if "show_masks" in changes else None,
                               loss_kwargs=loss, total_kimg=kimg, image_snapshot_ticks=None,
                               resume_state=str(states[-1]) if states else None))
        runs.save_training_state = save
        if states or name == "whole":
            Path(folder, f"{prefix}{name}-saved{rank}").write_text(
                str(runs.load_training_state(runs.training_states(run)[-1])["cur_nimg"]))
        torch.distributed.barrier()


@pytest.fixture(scope="module")
def worked(data, tmp_path_factory):
    """Folder of what two processes have left."""
    folder = tmp_path_factory.mktemp("worked")
    grown = dict(dry(data, *TINY_GROWING, SCHEDULE, "--gpus=2", "--aug=ada"), run_dir=str(folder / "grown"))
    found = dict(dry(data, *TINY, "--gpus=2", "--kimg=0.032", "--find-masks=0.016"), run_dir=str(folder / "found"))
    for config_ in (grown, found):
        del config_["base"]
        Path(config_["run_dir"]).mkdir()
    write_shapes(dict(picture=str(folder / "same.zip"), mask=str(folder / "masks.zip")), 24, 18, 0)
    with zipfile.ZipFile(folder / "masks.zip") as archive:  # Not of all: pictures without one are left out.
        archive.extractall(folder / "masks", archive.namelist()[5:])
    torch.multiprocessing.start_processes(work, args=(str(folder), str(data), grown, found), nprocs=WORLD,
                                          start_method="spawn")
    return folder


@pytest.mark.parametrize("loss_name", LOSSES)
def test_two_processes_step_to_the_weights_of_one(loss_name, worked, monkeypatch):
    import layered_plugin.training.loss as loss_module

    # Restored after the test.
    monkeypatch.setattr(loss_module, "random_shift", loss_module.random_shift)
    monkeypatch.setattr(gan_loss, "interpolate", gan_loss.interpolate)
    ranks = [torch.load(worked / f"{rank}.pt", weights_only=True)[loss_name] for rank in range(WORLD)]
    single = step(0, 1, loss_name)
    for name, value in single.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        assert torch.allclose(ranks[0][name], value, rtol=1e-3, atol=1e-4), name


def test_the_others_wait_until_the_first_has_measured(worked):
    assert [(worked / f"waited{rank}").read_text() for rank in range(WORLD)] == ["True"] * WORLD


def test_no_process_is_through_before_the_first_has_saved(worked):
    """One that ended with an error would have the first killed soon after."""
    assert [(worked / f"{name}-saved1").read_text() for name in ("whole", "parts")] == ["32", "32"]


def test_two_processes_with_path_length_resume_exactly(worked):
    """Each has a mean path length of its own."""
    whole, parts = (weights(worked / name, 0) for name in ("whole", "parts"))
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    means = runs.load_training_state(worked / "parts/training-state-000000.pt")["pl_mean"]
    assert means[0] != means[1]


def test_two_processes_with_masks_resume_exactly(worked):
    whole, parts = (weights(worked / f"masked-{name}", 0) for name in ("whole", "parts"))
    assert whole["D.b16.fromrgb.weight"].shape[1] == 4
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


def test_growing_on_two_processes(worked):
    """Each snapshot compares the processes' networks."""
    state = runs.load_training_state(runs.training_states(worked / "grown")[-1])
    assert state["cur_nimg"] == 88 and len(state["rng"]) == 2 and saved_resolution(state) == 16
    assert not torch.equal(state["rng"][0]["cpu"], state["rng"][1]["cpu"])
    assert all(value.isfinite().all() for value in state["G_ema"].values())


def test_two_processes_go_on_together_with_the_masks_that_the_first_has_found(worked):
    state = runs.load_training_state(runs.training_states(worked / "found")[-1])
    assert state["cur_nimg"] == 32 and state["D"]["b16.fromrgb.weight"].shape[1] == 4
    lines = [json.loads(line) for line in (worked / "found/stats.jsonl").read_text().splitlines()]
    assert [line["Progress/kimg"]["mean"] for line in lines] == [0.008, 0.016, 0.032]
    assert all(value.isfinite().all() for value in state["G_ema"].values())


def test_short_run_under_torchrun_trains(tmp_path):
    """That --gpus starts processes by itself is shown where SIGTERM stops two of them."""
    data = make_pictures(tmp_path / "pictures")  # Too few to be compared with, which would take longer than all else.
    done = call("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train_layered.py",
                f"--outdir={tmp_path / 'runs'}", f"--data={data}", *TINY, "--kimg=0.048", "--snap=9", "--aug=ada")
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert len(re.findall(r"^tick ", (run / "log.txt").read_text(), re.MULTILINE)) == 4
    state = runs.load_training_state(runs.training_states(run)[-1])
    assert state["cur_nimg"] == 48 and len(state["rng"]) == 2
    assert not torch.equal(state["rng"][0]["cpu"], state["rng"][1]["cpu"])
    assert all(value.isfinite().all() for value in state["G_ema"].values())
