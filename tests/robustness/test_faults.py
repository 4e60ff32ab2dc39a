"""What goes wrong in the middle: changed or unreadable pictures, dead processes, losses that are no number."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from tiny_models import TINY, make_discriminator, make_encoder, make_gan_run, make_generator, make_pictures, zip_folder

import invert
import train_layered
from layered_plugin import runs
from layered_plugin.data import dataset
from layered_plugin.data.fingerprint import fingerprint, what_changed
from layered_plugin.errors import LostReaderError, MaskError, ModelError, PictureError, UserError
from layered_plugin.model.encoder import Codes
from layered_plugin.model.unet import FastUNet
from layered_plugin.segmentation.encoder_training import EncoderTraining
from layered_plugin.segmentation.fitting import Fitting
from layered_plugin.segmentation.reconstruction import Reconstruction, refine_codes
from layered_plugin.segmentation.stage import ModelRun
from layered_plugin.training import feed, legs, processes, resume
from layered_plugin.training.loop import training_loop

ROOT = Path(__file__).resolve().parents[2]
NAN = float("nan")


def invoke(command, *args):
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception  # No traceback.
    return result


@pytest.fixture
def data(tmp_path):
    return make_pictures(tmp_path / "cars", [f"{idx}.png" for idx in range(6)])


def fake_run(data, folder, **changes):
    """A run that can be resumed, as a dry run sees it."""
    folder.mkdir(parents=True)
    result = invoke(train_layered.main, "--outdir=out", f"--data={data}", "-n", "--device=cpu", "--resolution=16",
                    "--batch=8")
    config = dict(json.loads(result.stdout), data_fingerprint=fingerprint(data)) | changes
    (folder / "training_options.json").write_text(json.dumps(config))
    runs.save_training_state(folder, 1, {})
    return folder


# Data that changed.

def test_fingerprint_is_of_names_sizes_and_order(data, tmp_path):
    known = fingerprint(data)
    assert known == fingerprint(data) and known["num"] == 6
    assert known["bytes"] == sum(path.stat().st_size for path in data.iterdir())
    (data / "notes.txt").touch()
    assert fingerprint(data) == known  # No picture.
    shutil.copytree(data, tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == known


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("change, words", [
    (lambda data: (data / "0.png").unlink(), "it had 6 pictures when the run began, and has 5 now"),
    (lambda data: shutil.copy(data / "0.png", data / "9.png"), "it had 6 pictures when the run began, and has 7 now"),
    (lambda data: (data / "0.png").rename(data / "00.png"), "its 6 pictures have other names"),
    (lambda data: shutil.copy(data / "1.png", data / "0.png"), "pictures have other contents"),
])
def test_change_of_the_data_is_said(data, tmp_path, change, words, zipped):
    def now():
        return fingerprint(zip_folder(data, tmp_path / "cars.zip") if zipped else data)

    before = now()
    change(data)
    assert words in what_changed(before, now()) and what_changed(before, before) is None


def test_picture_of_the_same_size_in_bytes_is_noticed_in_a_zip(data, tmp_path):
    before = fingerprint(zip_folder(data, tmp_path / "a.zip"))
    content = bytearray((data / "0.png").read_bytes())
    content[-20] ^= 255
    (data / "0.png").write_bytes(content)
    after = fingerprint(zip_folder(data, tmp_path / "b.zip"))
    assert before["bytes"] == after["bytes"] and "other contents" in what_changed(before, after)


@pytest.mark.parametrize("num, noticed", [(6, True), (200, False)])
def test_contents_of_the_same_size_in_a_folder_are_noticed_in_a_sample(tmp_path, num, noticed):
    pixels = np.random.RandomState(0).randint(0, 255, [num, 8, 8, 3], np.uint8)
    folder = tmp_path / "cars"
    folder.mkdir()

    def write(positions, changed):
        for idx in positions:
            PIL.Image.fromarray(pixels[idx] ^ changed).save(folder / f"{idx:04d}.bmp")

    write(range(num), 0)
    before = fingerprint(folder)
    os.utime(folder / "0001.bmp", (1, 1))  # When a file was written is no content.
    assert what_changed(before, fingerprint(folder)) is None
    write([1], 255)
    assert (what_changed(before, fingerprint(folder)) is not None) == noticed
    write(range(num), 255)
    after = fingerprint(folder)
    words = "pictures have other contents than when the run began, of the same sizes in bytes"
    assert before["bytes"] == after["bytes"] and what_changed(before, after) == words
    del before["sample"]  # Of an older version.
    assert what_changed(before, after) is None


def test_picture_that_can_not_be_read_has_a_fingerprint_too(data):
    before = fingerprint(zip_folder(data, data.parent / "cars.zip"))
    content = bytearray((data.parent / "cars.zip").read_bytes())
    content[60:90] = bytes(30)  # Of the first picture; the directory stays.
    (data.parent / "cars.zip").write_bytes(content)
    assert "other contents" in what_changed(before, fingerprint(data.parent / "cars.zip"))


@pytest.mark.parametrize("cond", [0, 1])
@pytest.mark.parametrize("beside", [False, True])
def test_labels_that_were_swapped_are_noticed_where_the_run_has_them(data, tmp_path, cond, beside):
    def label(classes):
        for idx, number in enumerate(classes):
            if beside:
                (data / f"{idx}.cls").write_text(str(number))
        if not beside:
            names = [[f"{idx}.png", number] for idx, number in enumerate(classes)]
            (data / "dataset.json").write_text(json.dumps(dict(labels=names)))

    label([0, 0, 0, 1, 1, 1])
    run = fake_run(data, tmp_path / "runs" / "00000-cars", training_set_kwargs=dict(
        class_name="layered_plugin.data.dataset.PictureDataset", path=str(data), size_px=18, use_labels=bool(cond)),
        data_fingerprint=fingerprint(data, labels=bool(cond)))
    args = [f"--outdir={tmp_path}/runs", f"--resume={run}", "-n"]
    assert invoke(train_layered.main, *args).exit_code == 0
    label([1, 1, 1, 0, 0, 0])
    refused = invoke(train_layered.main, *args)
    assert refused.exit_code == cond
    if cond:
        assert f"{data}: its pictures have other labels than when the run began; put it back" in refused.stderr
    assert invoke(train_layered.main, *args, "--data-changed=ok").exit_code == 0


def test_training_with_labels_keeps_their_fingerprint(data, tmp_path, monkeypatch):
    (data / "dataset.json").write_text(json.dumps(dict(labels=[[f"{idx}.png", idx % 2] for idx in range(6)])))
    kept = []
    monkeypatch.setattr(train_layered, "launch", lambda config, *_args: kept.append(config["data_fingerprint"]))
    for more in ([], ["--cond=1"]):
        assert invoke(train_layered.main, f"--outdir={tmp_path}/runs", f"--data={data}", *TINY, *more).exit_code == 0
    assert kept == [fingerprint(data), fingerprint(data, labels=True)] and "labels" in kept[1]


def test_training_on_changed_data_is_resumed_only_if_told(data, tmp_path):
    run = fake_run(data, tmp_path / "runs" / "00000-cars")
    args = [f"--outdir={tmp_path}/runs", f"--resume={run}", "-n"]
    assert invoke(train_layered.main, *args).exit_code == 0
    shutil.copy(data / "0.png", data / "9.png")
    refused = invoke(train_layered.main, *args)
    assert refused.exit_code == 1 and "--data-changed=ok" in refused.stderr
    assert f"{data}: it had 6 pictures when the run began, and has 7 now" in refused.stderr
    told = invoke(train_layered.main, *args, "--data-changed=ok")
    config = json.loads(told.stdout)
    assert config["training_set_kwargs"]["max_size"] == 7 and config["data_fingerprint"] == fingerprint(data)
    assert "WARNING" in told.stderr


def test_run_older_than_fingerprints_is_resumed(data, tmp_path):
    run = fake_run(data, tmp_path / "runs" / "00000-cars", data_fingerprint=None)
    result = invoke(train_layered.main, f"--outdir={tmp_path}/runs", f"--resume={run}", "-n")
    assert json.loads(result.stdout)["data_fingerprint"] == fingerprint(data)


def test_data_that_has_moved_is_named_to_go_on_and_remembered(data, tmp_path):
    out, moved = tmp_path / "runs", tmp_path / "moved"
    train = [f"--outdir={out}", "--kimg=0.016", *TINY]
    assert invoke(train_layered.main, *train, f"--data={data}").exit_code == 0
    (gan,) = out.iterdir()
    distill = ["distill", f"--outdir={out}", "--device=cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layered_plugin.segmentation.stage.ModelRun.loop", lambda *_args: "SIGTERM")
        assert invoke(invert.main, *distill, f"--network={gan}", f"--data={data}", "--steps=2", "--adapt=2",
                      "--batch=4").exit_code == 143
    (distilled,) = out.glob("00001-*")
    data.rename(moved)
    for command, args, run, file, path in (
            (invert.main, distill, distilled, "options.json", ["options", "data"]),
            (train_layered.main, [f"--outdir={out}", "--kimg=0.032"], gan, "training_options.json",
             ["training_set_kwargs", "path"])):
        args = [*args, f"--resume={run}"]
        refused = invoke(command, *args)
        assert refused.exit_code == 1 and f"{data}: neither a folder nor a readable zip" in refused.stderr
        assert "if it lies elsewhere now, say where by --data" in refused.stderr
        (moved / "6.png").write_bytes((moved / "5.png").read_bytes())
        refused = invoke(command, *args, f"--data={moved}")
        assert refused.exit_code == 1 and f"{moved}: it had 6 pictures when the run began" in refused.stderr
        (moved / "6.png").unlink()
        assert invoke(command, *args, f"--data={moved}").exit_code == 0
        kept = json.loads((run / file).read_text())
        assert kept[path[0]][path[1]] == str(moved)


def test_masks_that_have_moved_are_named_to_go_on(data, tmp_path):
    run = fake_run(data, tmp_path / "runs" / "00000-cars")
    args = [f"--outdir={tmp_path}/runs", f"--resume={run}", "-n"]
    refused = invoke(train_layered.main, *args, f"--masks={data}")
    assert refused.exit_code == 2 and "--masks cannot change" in refused.stderr  # It has none.
    config = json.loads((run / "training_options.json").read_text())
    (run / "training_options.json").write_text(json.dumps(dict(
        config, masks_path=str(tmp_path / "gone"), masks_fingerprint=fingerprint(data))))
    refused = invoke(train_layered.main, *args)
    assert refused.exit_code == 1 and "if it lies elsewhere now, say where by --masks" in refused.stderr
    assert json.loads(invoke(train_layered.main, *args, f"--masks={data}").stdout)["masks_path"] == str(data)


@pytest.mark.parametrize("command, more, may", [
    ("distill", ["--steps=1", "--adapt=1", "--batch=4"], True),
    ("train", ["--mode=dataset", "--steps=1", "--batch=2"], True), ("train", ["--mode=chunks"], False)])
def test_model_run_on_changed_data_is_resumed_only_if_told_and_chunks_never(data, tmp_path, command, more, may):
    gan = make_gan_run(tmp_path / "runs" / "00000-gan")
    dry = invoke(invert.main, command, f"--network={gan}", f"--data={data}", f"--outdir={tmp_path}/runs", "-n", *more)
    run = runs.start_run(str(tmp_path / "runs"), command, dict(json.loads(dry.stdout),
                                                               data_fingerprint=fingerprint(data)))
    args = [command, f"--outdir={tmp_path}/runs", f"--resume={run}", "-n"]
    assert invoke(invert.main, *args).exit_code == 0
    (data / "3.png").unlink()
    refused = invoke(invert.main, *args)
    assert refused.exit_code == 1 and "it had 6 pictures when the run began, and has 5 now" in refused.stderr
    assert invoke(invert.main, *args, "--data-changed=ok").exit_code == (0 if may else 1)
    if may:  # Told once, it has the new ones as its own.
        assert invoke(invert.main, *args[:-1], "--data-changed=ok").exit_code == 0
        for name in (runs.OPTIONS, runs.MODEL_FILE):
            assert json.loads((run / name).read_text())["data_fingerprint"] == fingerprint(data)


# Pictures that become unreadable.

def loop_config(data, run_dir, **changes):
    run_dir.mkdir(exist_ok=True)
    channels = dict(channel_base=64, channel_max=4)
    opt = dict(class_name="torch.optim.Adam", lr=0.002, betas=[0.0, 0.99], eps=1e-8)
    return dict(
        run_dir=str(run_dir), resolution=16, batch_size=4, batch_gpu=4, kimg_per_tick=0.008, image_snapshot_ticks=None,
        network_snapshot_ticks=1000, total_kimg=0.04, G_reg_interval=None, D_reg_interval=None,
        training_set_kwargs=dict(class_name="layered_plugin.data.dataset.PictureDataset", path=str(data), size_px=18),
        G_kwargs=dict(class_name="layered_plugin.model.generator.LayeredGenerator", z_dim=8, w_dim=8,
                      mapping_kwargs=dict(num_layers=1), synthesis_kwargs=channels),
        D_kwargs=dict(class_name="training.networks.Discriminator", **channels), G_opt_kwargs=opt, D_opt_kwargs=opt,
        loss_kwargs=dict(class_name="layered_plugin.training.loss.LayeredLoss", r1_gamma=0.5)) | changes


@pytest.mark.parametrize("workers", [dict(num_workers=0), dict(num_workers=1, prefetch_factor=1)])
@pytest.mark.usefixtures("process_as_before")
def test_unreadable_pictures_are_skipped_up_to_a_limit_then_all_is_saved(data, tmp_path, monkeypatch, capfd, workers):
    monkeypatch.setattr(dataset, "CACHE_BYTES", 0)
    monkeypatch.setattr(dataset, "MAX_UNREADABLE", 3)

    def damage(_done, _total):
        (data / "2.png").write_bytes(b"no picture")

    run = tmp_path / "run"
    with pytest.raises(PictureError, match=r"cannot read picture 2\.png: .*; 3 others were skipped") as raised:
        training_loop(**loop_config(data, run, total_kimg=1, progress_fn=damage, data_loader_kwargs=workers))
    assert "\n" not in str(raised.value)
    shown = capfd.readouterr().err
    assert shown.count("2.png: no picture in a known format") + shown.count("the next one is shown in its place") >= 3
    state = runs.load_training_state(runs.training_states(run)[-1])
    assert 0 < state["cur_nimg"] < 1000 and state["cur_nimg"] % 4 == 0


@pytest.mark.parametrize("workers", [dict(num_workers=0), dict(num_workers=1, prefetch_factor=1)])
@pytest.mark.usefixtures("process_as_before")
def test_mask_that_becomes_unusable_is_named_after_all_is_saved(data, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(dataset, "CACHE_BYTES", 0)
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in data.iterdir():
        with PIL.Image.open(path) as picture:
            PIL.Image.new("L", picture.size, 255).save(masks / path.name)

    def damage(_done, _total):
        PIL.Image.new("L", (9, 30), 255).save(tmp_path / "new.png")
        (tmp_path / "new.png").replace(masks / "2.png")

    run, config = tmp_path / "run", loop_config(data, tmp_path / "run", total_kimg=1, progress_fn=damage)
    config["loss_kwargs"]["show_masks"] = True
    with pytest.raises(MaskError, match=r"^`masks`: .*masks: mask 2\.png is 9x30, its picture 21x19$") as raised:
        training_loop(**config, masks_path=str(masks), data_loader_kwargs=workers)
    assert "\n" not in str(raised.value)
    assert 0 < runs.load_training_state(runs.training_states(run)[-1])["cur_nimg"] < 1000


@pytest.mark.usefixtures("process_as_before")
def test_killed_reader_of_pictures_ends_the_run_after_all_is_saved(data, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "CACHE_BYTES", 0)
    killed = []

    def kill(_done, _total):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        if len(children) > 1 and not killed and runs.training_states(next((tmp_path / "runs").iterdir())):
            killed.append(children[-1])
            os.kill(int(children[-1]), signal.SIGKILL)

    loop = legs.training_loop
    monkeypatch.setattr(legs, "training_loop", lambda **kwargs: loop(progress_fn=kill, **kwargs))
    result = invoke(train_layered.main, f"--outdir={tmp_path}/runs", f"--data={data}", *TINY, "--kimg=1000",
                    "--workers=2")
    (run,) = (tmp_path / "runs").iterdir()
    state = runs.training_states(run)[-1]
    assert result.exit_code == 1 and killed, result.output
    assert result.stderr.splitlines()[-1] == (
        "Error: a process that reads pictures was killed, perhaps for lack of memory (fewer --workers need less): "
        f"the last training state is {state}; go on with: python train_layered.py --outdir={tmp_path}/runs "
        f"--resume={run}")
    again = invoke(train_layered.main, f"--outdir={tmp_path}/runs", f"--resume={run}", "--workers=0", "--kimg=0.001")
    assert again.exit_code == 0 and "Already at kimg" in again.output, again.output


@pytest.mark.parametrize("death, is_said", [
    (ConnectionResetError("reset by peer"), True),
    (EOFError(), True),
    (FileNotFoundError("its socket"), True),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), True),
    (RuntimeError("shapes differ"), False),
])
def test_reader_that_dies_at_any_moment_is_said_to_be_killed(death, is_said):
    def batches():
        raise death
        yield

    pictures = feed.Feed(batches(), 16, None, torch.device("cpu"), voters=1)
    with pytest.raises(LostReaderError if is_said else RuntimeError):
        pictures.next(0)


def test_run_on_a_model_saves_before_it_stops_for_a_picture(tmp_path):
    def step(number):
        if number == 3:
            raise PictureError("x.png")
        return dict(loss=0.0)

    run = ModelRun(tmp_path, "toy", "", 9, 1, dict(net=torch.nn.Linear(1, 1)), {})
    with pytest.raises(PictureError):
        run.loop(step)
    assert ModelRun(tmp_path, "toy", "", 9, 1, dict(net=torch.nn.Linear(1, 1)), {}).step == 3


# Losses that are no number.

def test_encoder_takes_no_step_by_a_loss_that_is_no_number():
    """The gradient of grid_sample at a position that is no number ends the process."""
    G, D = make_generator(), make_discriminator()
    E = make_encoder(G).requires_grad_(True)
    training = EncoderTraining(E, Reconstruction(G, D, feature_resolution=8))
    before = {name: value.clone() for name, value in E.state_dict().items() if "running" not in name}
    img = torch.rand(2, 3, 16, 16)
    img[0] = NAN
    assert not np.isfinite(training.step(img)["loss"])
    E.head.weight.data.fill_(NAN)
    assert not np.isfinite(training.pretrain_step(2, 3, torch.Generator().manual_seed(0))["loss"])
    E.head.weight.data.copy_(before["head.weight"])
    assert all(torch.equal(value, E.state_dict()[name]) for name, value in before.items() if "num_" not in name)


def test_segmenter_takes_no_step_by_a_loss_that_is_no_number():
    unet = FastUNet((4, 4, 4, 4))
    before = unet.out.weight.clone()
    assert not np.isfinite(Fitting(unet, 5).step(torch.full([2, 3, 16, 16], NAN), torch.zeros(2, 1, 16, 16)))
    assert torch.equal(unet.out.weight, before)


def test_refinement_by_a_loss_that_is_no_number_is_an_error():
    G = make_generator()
    reconstruction = Reconstruction(G, make_discriminator(), feature_resolution=8)
    codes = Codes(G.mapping.w_avg.expand(1, G.num_ws, -1).clone(), torch.full([1, 2], NAN))
    with pytest.raises(ModelError, match="`refine` is not finite"):
        refine_codes(reconstruction, codes, torch.zeros(1, 3, 16, 16), 3, 0.2)


# Another base, another number of processes, a name that is not there.

def test_bf16_run_of_the_bundled_base_is_refused_on_the_official_one(data, tmp_path, monkeypatch):
    run = fake_run(data, tmp_path / "runs" / "00000-cars")
    config = json.loads((run / "training_options.json").read_text())
    monkeypatch.setattr(resume, "BASE", resume.BASE._replace(name="official"))
    args = [f"--outdir={tmp_path}/runs", f"--resume={run}", "-n"]
    for part in ("synthesis_kwargs",):
        config["G_kwargs"][part]["half_dtype"] = "bfloat16"
    (run / "training_options.json").write_text(json.dumps(config))
    refused = invoke(train_layered.main, *args)
    assert refused.exit_code == 1 and "was trained with --precision=bf16 on the bundled base" in refused.stderr
    del config["G_kwargs"]["synthesis_kwargs"]["half_dtype"]
    config["D_kwargs"].pop("block_kwargs")
    (run / "training_options.json").write_text(json.dumps(config))
    assert invoke(train_layered.main, *args).exit_code == 0


@pytest.mark.parametrize("kept, gpus, batch_gpu, words", [
    (1, 2, 4, None), (2, 1, 4, None), (1, 3, None, "--gpus must divide the run's batch of 8, got 3"),
    (1, 8, None, "--gpus=8 leaves 1 pictures for each process"),
])
def test_another_number_of_processes_shares_the_batch_out_anew(data, tmp_path, kept, gpus, batch_gpu, words):
    run = fake_run(data, tmp_path / "runs" / "00000-cars", num_gpus=kept, batch_gpu=8 // kept)
    result = invoke(train_layered.main, f"--outdir={tmp_path}/runs", f"--resume={run}", f"--gpus={gpus}", "-n")
    if words is not None:
        assert result.exit_code == 2 and words in result.stderr
        return
    config = json.loads(result.stdout)
    assert (config["num_gpus"], config["batch_gpu"]) == (gpus, batch_gpu)
    assert f"was trained by {kept} processes, {gpus} go on" in result.stderr


def test_statistics_over_the_whole_batch_may_be_shared_out_anyhow(data, tmp_path):
    """A minibatch-std group of null is the base's own word for all pictures of a process."""
    run = fake_run(data, tmp_path / "runs" / "00000-cars", num_gpus=1, batch_gpu=8)
    config = json.loads((run / "training_options.json").read_text())
    config["D_kwargs"]["epilogue_kwargs"] = dict(mbstd_group_size=None)
    (run / "training_options.json").write_text(json.dumps(config))
    result = invoke(train_layered.main, f"--outdir={tmp_path}/runs", f"--resume={run}", "--gpus=8", "-n")
    assert result.exit_code == 0 and json.loads(result.stdout)["batch_gpu"] == 1, result.output


@pytest.mark.usefixtures("process_as_before")
def test_run_of_two_processes_goes_on_in_one(data, tmp_path):
    run = tmp_path / "run"
    training_loop(**loop_config(data, run, total_kimg=0.008))
    path = runs.training_states(run)[-1]
    state = runs.load_training_state(path)
    runs.save_training_state(run, 0, dict(state, rng=state["rng"] * 2))
    training_loop(**loop_config(data, run, total_kimg=0.016, resume_state=str(path)))
    again = runs.load_training_state(path)
    assert again["cur_nimg"] == 16 and len(again["rng"]) == 1


def test_nearest_names_are_given_for_one_that_is_not_there(data, tmp_path):
    fake_run(data, tmp_path / "runs" / "00000-cars-demo")
    (tmp_path / "runs" / "00001-distill-cars").mkdir()
    for wrong in ("00000-cats-demo", f"{tmp_path}/runs/00000-cars-dmo"):
        result = invoke(train_layered.main, f"--outdir={tmp_path}/runs", f"--data={data}", f"--resume={wrong}")
        assert result.exit_code == 1 and f"{tmp_path}/runs/00000-cars-demo" in result.stderr
        assert "no such run folder or pickle: " in result.stderr and "the nearest names are" in result.stderr
    result = invoke(invert.main, "distill", f"--outdir={tmp_path}/runs", "--resume=00001-destill-cars")
    assert result.exit_code == 1 and "00001-distill-cars" in result.stderr


# Processes that die.

class FakeProcess:
    def __init__(self, code):
        self.exitcode, self.killed = code, False
        self.sentinel = os.pipe()[0]

    def terminate(self):
        pass

    def kill(self):
        self.killed = True

    def join(self):
        pass


def supervise(codes, tmp_path):
    context = SimpleNamespace(processes=[FakeProcess(code) for code in codes], error_files=[str(tmp_path / "none")] * 9)
    told = tmp_path / "told"
    told.write_text(str(tmp_path / "00000-cars"))
    return processes.supervise(context, SimpleNamespace(received=None), told, grace=0.1)


def test_exit_codes_of_processes_are_passed_on(tmp_path):
    assert supervise([0, 0], tmp_path) == 0
    assert supervise([0, 143], tmp_path) == 143
    assert supervise([1, 1], tmp_path) == 1


def test_killed_process_is_named_with_what_is_saved(tmp_path):
    with pytest.raises(UserError, match=r"process 1 of 2 was killed by SIGKILL, perhaps for lack of memory; nothing is "
                                        r"saved in \S+00000-cars yet: start anew"):
        supervise([1, -9], tmp_path)
    (tmp_path / "00000-cars").mkdir()
    runs.save_training_state(tmp_path / "00000-cars", 3, {})
    words = (r"process 0 of 2 was killed by SIGSEGV; the last training state is \S+000003\.pt; "
             r"go on with: python train_layered\.py --outdir=\S+ --resume=\S+00000-cars$")
    with pytest.raises(UserError, match=words):
        supervise([-11, None], tmp_path)


def test_later_runs_of_others_are_not_taken_for_the_run_that_failed(tmp_path):
    run = tmp_path / "00003-shapes-demo"
    run.mkdir()
    runs.save_training_state(run, 3, {})
    later = runs.start_run(str(tmp_path), "distill-shapes", dict(invert="distill", options={}))
    for _ in range(2):
        told = processes.how_to_go_on(str(run))
        assert str(run / "training-state-000003.pt") in told and told.endswith(f"--resume={run}")
        runs.save_training_state(later, 9, {})


def test_processes_that_end_between_two_looks_keep_their_exit_codes(tmp_path, monkeypatch):
    class Ending(FakeProcess):
        """Runs when first looked at, and has ended when looked at again."""

        exitcode = property(lambda self: self.codes.pop(0) if len(self.codes) > 1 else self.codes[0],
                            lambda self, code: setattr(self, "codes", [None, code]))

    monkeypatch.setattr(sys.modules[__name__], "FakeProcess", Ending)
    assert supervise([143, 143], tmp_path) == 143


def test_process_that_does_not_answer_is_ended(tmp_path):
    with pytest.raises(UserError, match="process 1 of 2 does not answer"):
        supervise([1, None], tmp_path)


@pytest.mark.parametrize("text, lost", [
    ("Application timeout caused pair closure", True),
    ("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:3113", True),
    ("The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 1", False)])
def test_what_the_group_says_of_a_lost_process_is_known(text, lost):
    assert processes.is_lost_process(RuntimeError(text)) == lost


@pytest.mark.parametrize("text, seconds", [(None, 600), ("30", 30), ("0", None), ("nan", None), ("x", None)])
def test_processes_wait_for_one_another_for_minutes(monkeypatch, text, seconds):
    monkeypatch.delenv(processes.WAIT_ENV, raising=False)
    if text is not None:
        monkeypatch.setenv(processes.WAIT_ENV, text)
    if seconds is None:
        with pytest.raises(UserError, match="must be a number of seconds"):
            processes.wait_limit()
        return
    given = {}
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda _backend, **kwargs: given.update(kwargs))
    processes.join_group("cpu", "file:///x", 0, 2)
    assert given["timeout"].total_seconds() == seconds


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
def test_killed_or_stuck_rank_ends_the_run_with_its_name(data, tmp_path, name):
    args = [f"--outdir={tmp_path}/runs", f"--data={data}", *TINY, "--kimg=1000", "--gpus=2", "--tick=0.1"]
    env = dict(os.environ, OMP_NUM_THREADS="1", LAYERED_PLUGIN_WAIT_SECONDS="5")
    process = subprocess.Popen([sys.executable, "train_layered.py", *args], cwd=ROOT, text=True, env=env,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.time() + 200
    while not list((tmp_path / "runs").glob("*/training-state-*.pt")) and time.time() < deadline:
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(ranks[1]), getattr(signal, name))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in output, output
    words = "process 1 of 2 was killed by SIGKILL" if name == "SIGKILL" else "process 1 of 2 does not answer"
    line = re.search(f"^Error: {words}.*$", output, re.MULTILINE)[0]
    assert "the last training state is" in line and "go on with: python train_layered.py" in line



@pytest.mark.usefixtures("process_as_before")
def test_leftovers_and_a_torn_line_are_gone_after_a_resume(data, tmp_path):
    args = [f"--outdir={tmp_path}/runs", f"--data={data}", *TINY, "--workers=0"]
    assert invoke(train_layered.main, *args).exit_code == 0
    (run,) = (tmp_path / "runs").iterdir()
    (run / ".training-state-000000.pt.abcd1234").touch()
    with open(run / "stats.jsonl", "a") as file:
        file.write('{"Progress/kimg": {"me')
    again = invoke(train_layered.main, f"--outdir={tmp_path}/runs", "--resume=latest", "--kimg=0.08")
    assert again.exit_code == 0, again.output
    assert not list(run.glob(".*"))
    kimg = [json.loads(line)["Progress/kimg"]["mean"] for line in (run / "stats.jsonl").read_text().splitlines()]
    assert kimg == sorted(kimg) and kimg[-1] == 0.08


def test_picture_of_a_data_set_in_memory_is_named_at_the_start(data):
    (data / "2.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match="2.png"):
        dataset.PictureDataset(data, size_px=8).preload()
    with pytest.raises(PictureError, match="1.png"):
        PIL.Image.new("RGB", (8, 8)).save(data / "0.png")
        (data / "1.png").write_bytes(b"")
        dataset.PictureDataset(data, size_px=8).preload()
