"""Ten kills (SIGKILL) at the worst moments of writing; gone on with, each work ends byte for byte as if undisturbed."""

import hashlib
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import PIL.Image
import psutil
import pytest
import torch
from click.testing import CliRunner
from tiny_models import make_gan_run, make_model, make_pictures, small_resnet

import invert
from layered_plugin import dataset_tool, runs
from layered_plugin.segmentation import chunks, fitting
from layered_plugin.training import loop, maintenance

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("process_as_before"),
              pytest.mark.skipif(torch.cuda.is_available(), reason="a process that has used a GPU can't be forked")]


def in_a_process(work, module=None, name="", number=0, after=False):
    """Run something in a copy of this process; it is killed at its so many-th call of a function, before or after."""
    import torch._dynamo  # noqa: F401 - every optimizer imports it, which takes longer than the work of a copy.

    child = os.fork()
    if child == 0:
        try:
            if module is not None:
                called, calls = getattr(module, name), []

                def counted(*args, **kwargs):
                    calls.append(1)
                    if len(calls) == number and not after:
                        os.kill(os.getpid(), signal.SIGKILL)
                    result = called(*args, **kwargs)
                    if len(calls) == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return result

                setattr(module, name, counted)
            sys.stdout = sys.stderr = open(os.devnull, "w")
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    _pid, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def kill(work, *where, after=False):
    assert in_a_process(work, *where, after=after) == -signal.SIGKILL


def command(group, *args):
    result = CliRunner().invoke(group, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result


def contents(folder, pattern="*"):
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob(pattern)) if path.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("data") / "cars", [f"{idx}.png" for idx in range(6)])


# Training.

def train(data, run):
    """The training, from its last state if it has one."""
    run.mkdir(exist_ok=True)
    maintenance.SceneVariety = lambda *_args: lambda _G: {}  # Takes longer than all the rest; this process is a copy.
    channels = dict(channel_base=64, channel_max=4)
    opt = dict(class_name="torch.optim.Adam", lr=0.002, betas=[0.0, 0.99], eps=1e-8)
    states = runs.training_states(run)
    loop.training_loop(
        run_dir=str(run), resolution=16, batch_size=4, batch_gpu=4, kimg_per_tick=0.008, image_snapshot_ticks=None,
        network_snapshot_ticks=1, total_kimg=0.024, G_reg_interval=None, D_reg_interval=None, random_seed=3,
        resume_state=str(states[-1]) if states else None,
        training_set_kwargs=dict(class_name="layered_plugin.data.dataset.PictureDataset", path=str(data), size_px=18),
        G_kwargs=dict(class_name="layered_plugin.model.generator.LayeredGenerator", z_dim=8, w_dim=8,
                      mapping_kwargs=dict(num_layers=1), synthesis_kwargs=channels),
        D_kwargs=dict(class_name="training.networks.Discriminator", **channels), G_opt_kwargs=opt, D_opt_kwargs=opt,
        loss_kwargs=dict(class_name="layered_plugin.training.loss.LayeredLoss", r1_gamma=0.5))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Weights of an undisturbed run."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert in_a_process(lambda: train(data, run)) == 0
    return runs.load_training_state(runs.training_states(run)[-1])


# Pictures of the start, then a snapshot and a state after each tick.
@pytest.mark.parametrize("where", [("replace", 3, False), ("replace", 6, False), ("replace", 6, True),
                                   ("fsync", 7, False)])
def test_training(data, trained, tmp_path, where):
    name, number, after = where
    kill(lambda: train(data, tmp_path / "run"), os, name, number, after=after)
    for path in (tmp_path / "run").glob("[!.]*"):  # Whatever has its name is whole.
        if path.suffix == ".png":
            PIL.Image.open(path).load()
        if path.suffix == ".pt":
            runs.load_training_state(path)
    assert in_a_process(lambda: train(data, tmp_path / "run")) == 0
    again = runs.load_training_state(runs.training_states(tmp_path / "run")[-1])
    assert again["cur_nimg"] == trained["cur_nimg"] == 24
    for net in ("G", "D", "G_ema"):
        assert all(torch.equal(value, again[net][key]) for key, value in trained[net].items()), net


# Models on top of it.

def invert_args(name, data, gan, outdir):
    args = [name, f"--network={gan}", f"--data={data}", f"--outdir={outdir}", "--batch=4", "--device=cpu", "--steps=3"]
    more = ["--adapt=2", "--max-coverage=0.99"] if name == "distill" else \
        ["--mode=chunks", "--chunk-size=3", "--feature-resolution=8"]
    return [*args, *more]


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    return make_gan_run(tmp_path_factory.mktemp("gan") / "00000-gan")


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr("torchvision.models.resnet18", small_resnet)
    monkeypatch.setattr(fitting, "SETTLE_BATCH", 4)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("name, number", [("distill", 3), ("distill", 5), ("train", 2), ("train", 4)])
def test_model(data, gan, tmp_path, name, number):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert in_a_process(lambda: command(invert.main, *invert_args(name, data, gan, undisturbed))) == 0
    kill(lambda: command(invert.main, *invert_args(name, data, gan, disturbed)), os, "replace", number)
    assert in_a_process(lambda: command(invert.main, name, f"--outdir={disturbed}", "--resume=latest")) == 0
    assert contents(disturbed, "*.safetensors") == contents(undisturbed, "*.safetensors") != {}
    assert not list(disturbed.rglob(".*"))


def test_killed_side_by_side_training_leaves_no_process():
    """Its processes wait for chunks, which no one will send them."""
    context = multiprocessing.get_context("fork")
    received, sent = context.Pipe(duplex=False)

    def wait_for_chunks():
        chunks._join_pool(context.Event())
        sent.send(os.getpid())
        time.sleep(100)

    def train_side_by_side():
        context.Process(target=wait_for_chunks).start()
        time.sleep(100)

    main = context.Process(target=train_side_by_side)
    main.start()
    worker = psutil.Process(received.recv())
    main.kill()
    _gone, left = psutil.wait_procs([worker], timeout=20)
    for process in left:
        process.kill()
    assert left == []


def test_segmenting(data, tmp_path):
    model = make_model(tmp_path / "model")

    def segment(out):
        command(invert.main, "segment", f"--model={model}", f"--images={data}", f"--outdir={tmp_path / out}",
                "--device=cpu", "--workers=0", "--batch=2")

    assert in_a_process(lambda: segment("undisturbed")) == 0
    kill(lambda: segment("disturbed"), PIL.Image.Image, "save", 5)
    assert in_a_process(lambda: segment("disturbed")) == 0
    for pattern in ("masks/*", "cutouts/*", "manifest.jsonl"):
        assert contents(tmp_path / "disturbed", pattern) == contents(tmp_path / "undisturbed", pattern) != {}


def test_data_set(tmp_path):
    def draw():
        command(dataset_tool.main, "shapes", f"--dest={tmp_path}/a.zip", f"--masks={tmp_path}/b.zip", "--num=3",
                "--size=8")

    kill(draw, os, "replace", 2)
    assert {path.name for path in Path(tmp_path).glob("[!.]*")} <= {"a.zip", "b.zip"}
    draw()
    assert {path.name for path in Path(tmp_path).glob("[!.]*")} == {"a.zip", "b.zip"}
