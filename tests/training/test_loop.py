"""The loop: files of a run, exact resume, guards, parameters."""

import inspect
import json
import pickle
import signal
import sys
import tracemalloc
import types
from math import nan

import dnnlib
import legacy
import numpy as np
import PIL.Image
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch_utils import training_stats

from layered_plugin import errors, runs
from layered_plugin.data import dataset
from layered_plugin.data.picture_zip import PictureZipWriter
from layered_plugin.training import feed, guards, metrics, setup
from layered_plugin.training.loop import training_loop
from layered_plugin.training.run_log import RunLog


def config(data, run_dir, **changes):
    channels = dict(channel_base=64, channel_max=4)
    run_dir.mkdir(exist_ok=True)
    opt = dict(class_name="torch.optim.Adam", lr=0.002, betas=[0.0, 0.99], eps=1e-8, fused=True)
    base = dict(
        run_dir=str(run_dir), random_seed=3, resolution=16, batch_size=8, batch_gpu=8, kimg_per_tick=0.032,
        image_snapshot_ticks=1, network_snapshot_ticks=1, total_kimg=0.064, ema_rampup=0.05, G_reg_interval=None,
        D_reg_interval=2,
        training_set_kwargs=dict(class_name="layered_plugin.data.dataset.PictureDataset", path=str(data), size_px=18,
                                 use_labels=False, xflip=True),
        G_kwargs=dict(class_name="layered_plugin.model.generator.LayeredGenerator", z_dim=8, w_dim=8,
                      mapping_kwargs=dict(num_layers=2), synthesis_kwargs=channels),
        D_kwargs=dict(class_name="training.networks.Discriminator", **channels),
        G_opt_kwargs=opt, D_opt_kwargs=opt,
        loss_kwargs=dict(class_name="layered_plugin.training.loss.LayeredLoss", r1_gamma=0.5))
    return dict(base, **changes)


def weights(run_dir, kimg):
    state = runs.load_training_state(run_dir / f"training-state-{kimg:06d}.pt")
    return {f"{net}.{name}": value for net in ("G", "D", "G_ema") for name, value in state[net].items()}


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Folder of a run; not to be changed."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert training_loop(**config(data, run)) is None
    return run


def test_run_folder_has_upstreams_files_and_ours(finished):
    run = finished
    names = {path.name for path in run.iterdir() if not path.name.startswith("events.out.tfevents.")}
    assert names == {"reals.png", "fakes_init.png", "fakes000000.png", "layers000000.png", "stats.jsonl",
                     "network-snapshot-000000.pkl", "training-state-000000.pt"}
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/tick"]["mean"] for line in lines] == [0, 1, 2]
    assert lines[-1]["Progress/kimg"]["mean"] == 0.064
    for name in ("Loss/G/loss", "Loss/D/loss", "Loss/r1_penalty", "Loss/mask/size", "Loss/mask/binary",
                 "Layers/coverage", "Layers/all_fg", "Timing/Gboth", "Timing/sec_per_kimg", "Resources/cpu_mem_gb"):
        assert set(lines[-1][name]) == {"num", "mean", "std"}, name
    assert {"timestamp", "Loss/signs/real", "Loss/scores/fake"} <= set(lines[-1])


def test_pictures_of_a_run_are_not_blank(finished):
    for name in ("reals.png", "fakes_init.png", "fakes000000.png", "layers000000.png"):
        assert np.asarray(PIL.Image.open(finished / name)).std() > 10, name


def test_labelled_pictures_train_a_conditional_generator(tmp_path):
    path = tmp_path / "labelled.zip"
    with PictureZipWriter(path) as pictures:
        for idx in range(12):
            pictures.add(np.full([18, 18, 3], 20 * idx, dtype=np.uint8), label=idx % 3)
    base = config(path, tmp_path / "run", total_kimg=0.016)
    base["training_set_kwargs"]["use_labels"] = True
    training_loop(**base)
    with open(tmp_path / "run/network-snapshot-000000.pkl", "rb") as file:
        G_ema = legacy.load_network_pkl(file)["G_ema"]
    z = torch.randn(1, 8)
    one, two = (G_ema(z, torch.eye(3)[None, label], noise_mode="const") for label in (0, 1))
    assert G_ema.c_dim == 3 and not torch.allclose(one, two)


def test_snapshot_is_upstreams_dict(finished):
    with open(finished / "network-snapshot-000000.pkl", "rb") as file:
        assert list(pickle.load(file)) == ["training_set_kwargs", "G", "D", "G_ema", "augment_pipe"]
        file.seek(0)
        nets = legacy.load_network_pkl(file)
    G_ema = nets["G_ema"]
    assert not G_ema.training and not any(param.requires_grad for param in G_ema.parameters())
    assert G_ema(torch.randn(1, 8), None, truncation_psi=0.7, noise_mode="const").shape == (1, 3, 16, 16)


VARIANTS = dict(
    plain=dict(),
    ada=dict(augment_kwargs=dict(class_name="training.augment.AugmentPipe", xflip=1, brightness=1), ada_target=0.0,
             ada_interval=3, ada_kimg=1),
    path_length=dict(G_reg_interval=3,
        loss_kwargs=dict(class_name="layered_plugin.training.loss.LayeredLoss", pl_weight=2)),
    rounds=dict(batch_gpu=4),
    two_objects=dict(G_kwargs=dict(class_name="layered_plugin.model.generator.LayeredGenerator", z_dim=8, w_dim=8,
                                   num_objects=2, synthesis_kwargs=dict(channel_base=64, channel_max=4))),
    wgan_gp=dict(D_reg_interval=None,
        loss_kwargs=dict(class_name="layered_plugin.training.wgan_gp.WganGpLoss"), batch_gpu=4,
                 augment_kwargs=dict(class_name="training.augment.AugmentPipe", xflip=1, brightness=1), ada_target=0.0,
                 ada_interval=3, ada_kimg=1),
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(variant, data, tmp_path):
    """2N steps at once against N steps, a fresh start from the file, and N more; N = 5 is no multiple of anything."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    changes = dict(VARIANTS[variant], network_snapshot_ticks=1000, image_snapshot_ticks=None)
    training_loop(**config(data, whole, total_kimg=0.08, **changes))
    training_loop(**config(data, parts, total_kimg=0.04, **changes))
    torch.manual_seed(999)
    training_loop(**config(data, parts, total_kimg=0.08, resume_state=str(parts / "training-state-000000.pt"),
                           **changes))
    expected, resumed = weights(whole, 0), weights(parts, 0)
    assert expected.keys() == resumed.keys()
    for name, value in expected.items():
        assert torch.equal(value, resumed[name]), name
    states = [runs.load_training_state(run / "training-state-000000.pt") for run in (whole, parts)]
    for key in ("cur_nimg", "batch_idx", "augment_p", "ada", "watch"):
        assert states[0][key] == states[1][key], key
    assert torch.equal(states[0]["pl_mean"], states[1]["pl_mean"])
    assert torch.equal(states[0]["rng"][0]["cpu"], states[1]["rng"][0]["cpu"])
    if variant == "ada":
        assert states[0]["augment_p"] > 0


def test_run_of_two_objects_leaves_their_snapshot_grid_and_statistics(data, tmp_path):
    run = tmp_path / "run"
    training_loop(**config(data, run, **VARIANTS["two_objects"]))
    with open(run / "network-snapshot-000000.pkl", "rb") as file:
        G_ema = legacy.load_network_pkl(file)["G_ema"]
    assert G_ema(torch.randn(2, 8), None, return_layers=True).mask.shape == (2, 2, 16, 16)
    with PIL.Image.open(run / "layers000000.png") as grid:
        assert grid.height == 9 * 64 + 8 * 2  # Three rows for each object, and background, composite, shifted.
    stats = json.loads((run / "stats.jsonl").read_text().splitlines()[-1])
    assert stats["Loss/mask/overlap"]["mean"] > 0


def test_reading_in_worker_processes_shows_the_same_pictures(data, tmp_path, monkeypatch):
    memory, workers = tmp_path / "memory", tmp_path / "workers"
    training_loop(**config(data, memory, total_kimg=0.024))
    monkeypatch.setattr(dataset, "CACHE_BYTES", 0)
    training_loop(**config(data, workers, total_kimg=0.024,
                           data_loader_kwargs=dict(num_workers=1, prefetch_factor=2)))
    expected, found = weights(memory, 0), weights(workers, 0)
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_resuming_a_finished_run_changes_nothing(data, finished, capsys):
    run = finished
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    training_loop(**config(data, run, resume_state=str(run / "training-state-000000.pt")))
    assert "nothing to do; give a larger --kimg" in capsys.readouterr().out
    assert before == {path.name: path.read_bytes() for path in run.iterdir()}


def test_state_that_does_not_fit_is_refused(data, finished, tmp_path):
    run, state = tmp_path / "run", str(finished / "training-state-000000.pt")
    with pytest.raises(errors.CheckpointError, match="`batch`=4 .* made with 8"):
        training_loop(**config(data, run, resume_state=state, batch_size=4, batch_gpu=4))
    with pytest.raises(errors.CheckpointError, match="networks"):
        training_loop(**config(data, run, resume_state=state,
                               D_kwargs=dict(class_name="training.networks.Discriminator", channel_base=32)))


def test_batch_gpu_changes_memory_alone(data, tmp_path):
    """Gradients of 2 rounds of 4 equal those of one round of 8 where nothing is drawn or shared within a round."""
    still = dict(
        total_kimg=0.008,
        loss_kwargs=dict(class_name="layered_plugin.training.loss.LayeredLoss", style_mixing_prob=0, shift=0,
                                           bg_jitter=0, r1_gamma=0.5))
    runs = [tmp_path / "one", tmp_path / "two", tmp_path / "unmoved"]
    for run, batch_gpu, lr in zip(runs, (8, 4, 8), (0.1, 0.1, 0), strict=True):
        base = config(data, run, batch_gpu=batch_gpu, **still)
        base["G_kwargs"]["synthesis_kwargs"] = dict(base["G_kwargs"]["synthesis_kwargs"], use_noise=False)
        base["D_kwargs"] = dict(base["D_kwargs"], epilogue_kwargs=dict(mbstd_num_channels=0))
        base["G_opt_kwargs"] = base["D_opt_kwargs"] = dict(class_name="torch.optim.SGD", lr=lr)
        training_loop(**base)
    one, two, unmoved = (weights(run, 0) for run in runs)
    changed = [name for name in one if "w_avg" not in name]
    for name in changed:
        assert torch.allclose(one[name], two[name], atol=1e-6), name
    for net in ("G.mapping.", "G.synthesis.bg.", "G.synthesis.fg.", "D.", "G_ema."):
        moves = [(one[name] - unmoved[name]).abs().max().item() for name in changed if name.startswith(net)]
        assert max(moves) > 1e-5, net  # Ten times what two runs may differ by.


def test_transfer_from_a_pickle_copies_the_networks(data, finished, tmp_path):
    source, run = finished, tmp_path / "run"
    training_loop(**config(data, run, total_kimg=0.008, random_seed=4, G_opt_kwargs=dict(
        class_name="torch.optim.SGD", lr=0.0), resume_pkl=str(source / "network-snapshot-000000.pkl")))
    old, new = weights(source, 0), weights(run, 0)
    assert torch.equal(old["G.synthesis.fg.b8.conv0.weight"], new["G.synthesis.fg.b8.conv0.weight"])


def test_transfer_from_an_unusable_pickle_names_it(data, finished, tmp_path):
    source, run = finished, tmp_path / "run"
    (tmp_path / "text.pkl").write_text("no pickle")
    with pytest.raises(errors.CheckpointError, match="`resume`: .*text.pkl: not a readable network snapshot"):
        training_loop(**config(data, run, resume_pkl=str(tmp_path / "text.pkl")))
    with pytest.raises(errors.CheckpointError, match="other shapes"):
        training_loop(**config(data, run, resume_pkl=str(source / "network-snapshot-000000.pkl"),
                               D_kwargs=dict(class_name="training.networks.Discriminator", channel_base=32,
                                             channel_max=2)))


def test_non_finite_loss_stops_and_leaves_the_last_files(data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(training_stats, "_ledger", type(training_stats._ledger)())  # A NaN would outlast the test.
    real, calls = feed.random_crop, []

    def poisoned(img, size_px):
        calls.append(1)
        return real(img, size_px) if len(calls) < 3 else torch.full([8, 3, 16, 16], float("nan"))

    monkeypatch.setattr(feed, "random_crop", poisoned)
    with pytest.raises(errors.UserError, match=r"Loss/.*not finite in phase Dmain at kimg 0\.0"):
        training_loop(**config(data, run))
    assert all(value.isfinite().all() for value in weights(run, 0).values())


def test_metrics_see_real_pictures_cropped_to_the_networks_size(data, tmp_path, monkeypatch):
    """A stand-in for the official base's metrics, called as upstream's `calc_metrics.py` calls them."""
    seen = []

    def calc_metric(metric, G, dataset_kwargs, **_options):
        pictures = dnnlib.util.construct_class_by_name(**dict(dataset_kwargs, max_size=None, xflip=False))
        seen.append((metric, pictures.resolution, pictures[0][0].shape, G.img_resolution))
        return dict(metric=metric, results={metric: 7.5})

    metric_main = types.SimpleNamespace(calc_metric=calc_metric, report_metric=lambda *_args, **_kwargs: None)
    monkeypatch.setitem(sys.modules, "metrics", types.SimpleNamespace(metric_main=metric_main))
    monkeypatch.setattr(metrics, "BASE", metrics.BASE._replace(name="official"))
    training_loop(**config(data, tmp_path / "run", metrics=["fid50k_full"], network_snapshot_ticks=9))
    assert seen == [("fid50k_full", 16, (3, 16, 16), 16)] * 2
    lines = [json.loads(line) for line in (tmp_path / "run/stats.jsonl").read_text().splitlines()]
    assert [line["Metrics/fid50k_full"]["mean"] for line in (lines[0], lines[-1])] == [7.5] * 2


@pytest.mark.parametrize("on_collapse, stops", [("warn", False), ("stop", True)])
def test_lasting_collapse_warns_or_stops(on_collapse, stops, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(guards, "WARN_KIMG", 0.0)
    monkeypatch.setattr(guards, "PATIENCE_KIMG", 0.03)
    monkeypatch.setattr(guards, "find_collapse", lambda stats: ["the mask is empty: raise --mask-min"])
    run = config(data, tmp_path / "run", on_collapse=on_collapse)
    if stops:
        with pytest.raises(errors.CollapsedError, match="mask is empty"):
            training_loop(**run)
    else:
        training_loop(**run)
    assert capsys.readouterr().out.count("WARNING: the mask is empty") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_finishes_the_step_and_saves(number, data, tmp_path):
    run = tmp_path / "run"
    calls = []

    def progress_fn(_done, _total):
        calls.append(1)
        if len(calls) == 2:  # The first call comes before the loop.
            signal.raise_signal(number)

    assert training_loop(**config(data, run, total_kimg=1000, progress_fn=progress_fn)) == number.name
    assert runs.training_states(run) and list(run.glob("network-snapshot-*.pkl"))


def test_abort_fn_ends_the_run_with_its_snapshots(data, tmp_path):
    run = tmp_path / "run"
    assert training_loop(**config(data, run, total_kimg=1000, network_snapshot_ticks=7, abort_fn=lambda: True)) is None
    assert runs.training_states(run)


@pytest.mark.parametrize("minutes, num_saved", [(1e-9, 4), (1e9, 0)])
def test_snapshots_come_in_time_whatever_the_ticks_say(minutes, num_saved, data, tmp_path, monkeypatch):
    save, saved = runs.save_training_state, []
    monkeypatch.setattr(runs, "save_training_state", lambda *args: saved.append(save(*args)))
    run = config(data, tmp_path / "run", total_kimg=0.032, kimg_per_tick=1000, network_snapshot_ticks=None,
                 image_snapshot_ticks=None, snapshot_minutes=minutes)
    training_loop(**run)
    assert len(saved) == num_saved and len(list((tmp_path / "run").glob("network-snapshot-*.pkl"))) == min(num_saved, 1)


class ManyClasses:
    """A labelled data set of which nothing but its labels is ever asked for."""

    label_dim = 1000

    def __len__(self):
        return 1_200_000

    def get_label(self, idx):
        return (np.arange(self.label_dim) == idx % self.label_dim).astype(np.float32)


def test_labels_are_drawn_without_a_table_of_all():
    expected = torch.randint(1_200_000, [3, 5]).flatten() % 1000
    torch.manual_seed(0)
    tracemalloc.start()
    labels = setup.draw_labels(ManyClasses(), 15)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert labels.shape == (15, 1000) and labels.dtype == torch.float32 and peak < 1 << 20
    assert torch.equal(labels.argmax(dim=1), expected) and (labels.sum(dim=1) == 1).all()


def test_labels_leave_the_random_stream_as_it_is(data):
    kwargs = config(data, data.parent / "unused")["training_set_kwargs"]
    torch.randint(1, [6])
    state = torch.get_rng_state()
    torch.manual_seed(0)
    assert setup.draw_labels(dnnlib.util.construct_class_by_name(**kwargs), 6).shape == (6, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters_are_the_hosts_and_ours():
    hosts = {"run_dir", "training_set_kwargs", "data_loader_kwargs", "G_kwargs", "D_kwargs", "G_opt_kwargs",
             "D_opt_kwargs", "augment_kwargs", "loss_kwargs", "metrics", "random_seed", "num_gpus", "rank",
             "batch_size", "batch_gpu", "ema_kimg", "ema_rampup", "G_reg_interval", "D_reg_interval", "augment_p",
             "ada_target", "ada_interval", "ada_kimg", "total_kimg", "kimg_per_tick", "image_snapshot_ticks",
             "network_snapshot_ticks", "resume_pkl", "cudnn_benchmark", "allow_tf32", "abort_fn", "progress_fn"}
    ours = {"device", "masks_path", "resolution", "resume_state", "on_collapse", "fade_kimg", "ramp_kimg",
            "training_set", "D_sees_masks", "snapshot_minutes", "init_pkl", "fid_weights"}
    assert set(inspect.signature(training_loop).parameters) == hosts | ours


def test_what_a_tick_did_not_measure_is_left_out_of_the_statistics(tmp_path):
    log = RunLog(tmp_path, total_kimg=1)
    log.write({"Progress/kimg": dict(num=1, mean=0.5, std=0.0), "Loss/r1_penalty": dict(num=0, mean=nan, std=nan)}, 0.5)
    log.close()
    (line,) = (tmp_path / "stats.jsonl").read_text().splitlines()
    assert set(json.loads(line, parse_constant=pytest.fail)) == {"Progress/kimg", "timestamp"}


def test_tensorboard_shows_no_step_of_a_resumed_run_twice(tmp_path):
    def write(start_nimg, steps):
        log = RunLog(tmp_path, total_kimg=9, start_nimg=start_nimg)
        for step in steps:
            log.write({"Progress/kimg": dict(num=1, mean=step, std=0.0)}, step)
        log.close()

    write(0, [0.016, 1.024, 2.048, 3.072, 4.096])
    write(2048, [3.072, 4.096, 5.12])
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("Progress/kimg")] == [0, 1, 2, 3, 4, 5]
