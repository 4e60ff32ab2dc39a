"""--find-masks: a run that distils a segmenter on its way, and shows the masks that this finds from there on."""

import json
import os
import signal
from functools import partial

import pytest
import shell
import torch
from tiny_models import TINY, make_generator, make_plain
from training.networks import Discriminator

import invert
import train_layered
from layered_plugin import runs
from layered_plugin.errors import DiskFullError
from layered_plugin.model.layers import pad_channels
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.report.page import write_report
from layered_plugin.segmentation import find_masks
from layered_plugin.segmentation.outputs import FolderOutput
from layered_plugin.segmentation.segmenter import Segmenter
from layered_plugin.segmentation.self_training import SelfTraining
from layered_plugin.segmentation.train_distilled import DEFAULTS
from layered_plugin.synthetic.shapes import write_shapes
from layered_plugin.training import legs
from layered_plugin.training.loss import LayeredLoss
from layered_plugin.training.maintenance import Maintenance
from layered_plugin.training.presets import MASKED
from layered_plugin.training.wgan_gp import WganGpLoss

invoke = partial(shell.invoke, train_layered.main)
LENGTH = ["--kimg=0.064", "--find-masks=0.032"]


def shorten(patch):
    """A segmenter of a few steps, by whatever the untrained generator draws."""
    patch.setattr(find_masks, "SHORT", dict(DEFAULTS, steps=2, adapt=2, batch=8, min_coverage=0, max_coverage=1,
                                            vary_shape=0))


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    shorten(monkeypatch)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures as a zip; not to be changed."""
    path = tmp_path_factory.mktemp("pictures") / "shapes.zip"
    write_shapes(dict(picture=str(path)), 24, 18, 0)
    return path


def begin(pictures, outdir, *args):
    return invoke(f"--outdir={outdir}", f"--data={pictures}", *TINY, *LENGTH, *args)


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    """A finished run; not to be changed."""
    outdir = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        result = begin(pictures, outdir)
    assert result.exit_code == 0, result.output
    return next(outdir.iterdir())


def assert_same_end(run, other):
    one, two = (runs.load_training_state(runs.training_states(folder)[-1]) for folder in (run, other))
    assert one["cur_nimg"] == two["cur_nimg"] == 64 and torch.equal(one["rng"][0]["cpu"], two["rng"][0]["cpu"])
    for net in ("G", "D", "G_ema"):
        assert all(torch.equal(value, two[net][name]) for name, value in one[net].items()), net


def test_run_has_masks_of_all_pictures_and_the_segmenter_that_found_them(whole, pictures):
    lines = [json.loads(line) for line in (whole / "found/manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 24 and all((whole / "found/masks" / line["file"]).is_file() for line in lines)
    assert (whole / "found/contact-sheet.png").is_file() and not (whole / "found.partial").exists()
    segmenter = Segmenter.load(whole / "segmenter")
    assert segmenter.kind == "distill" and segmenter.resolution == 16
    result = shell.invoke(invert.main, "segment", f"--model={whole / 'segmenter'}", f"--images={pictures}",
                          f"--outdir={whole.parent.parent / 'again'}", "--cutouts=0", "--workers=0")
    assert result.exit_code == 0, result.output
    for line in lines:
        name = line["file"]
        assert (whole.parent.parent / "again/masks" / name).read_bytes() == (whole / "found/masks" / name).read_bytes()


def test_run_says_what_it_does(whole):
    log = (whole / "log.txt").read_text()
    parts = [log.index(words) for words in (
        "Stage 1 of 2: 16x16, batch 8, learning rate 0.002, up to kimg 0.032\n", "Finding masks", "Masks found: ",
        "Stage 2 of 2: 16x16, batch 8, learning rate 0.002, up to kimg 0.064, with the masks that were found\n",
        f"Masks: {whole / 'found/masks'}  of pictures: 48 ")]
    assert parts == sorted(parts) and "-found-" in whole.name
    kimg = [json.loads(line)["Progress/kimg"]["mean"] for line in (whole / "stats.jsonl").read_text().splitlines()]
    assert kimg == sorted(kimg) and kimg[-1] == 0.064
    networks = load_snapshot(whole / "network-snapshot-000000.pkl")
    assert networks["D"].img_channels == 4 and networks["G_ema"].img_channels == 3


def test_report_shows_the_masks_that_were_found(whole, tmp_path):
    page = write_report(whole, tmp_path / "report.html").read_text()
    assert f"<h3>24 pictures in {whole / 'found'}</h3>" in page
    assert "After 0.032 kimg a segmenter distilled from it found masks of the pictures, which its discriminator" in page


@pytest.mark.parametrize("cut", [16, 32, 48])
def test_resumed_run_equals_an_uninterrupted_one(pictures, whole, tmp_path, monkeypatch, cut):
    """Cut before masks are found, when they are to be, and after."""
    real_loop = legs.training_loop
    monkeypatch.setattr(legs, "training_loop", lambda **config: real_loop(
        **dict(config, total_kimg=min(config["total_kimg"], cut / 1000)))
        or ("SIGTERM" if config["total_kimg"] * 1000 >= cut else None))
    assert begin(pictures, tmp_path).exit_code == 128 + signal.SIGTERM
    (run,) = tmp_path.iterdir()
    assert runs.load_training_state(runs.training_states(run)[-1])["cur_nimg"] == cut
    assert (run / "found").exists() == (cut > 32)
    monkeypatch.setattr(legs, "training_loop", real_loop)
    torch.manual_seed(999)
    result = invoke(f"--outdir={tmp_path}", "--resume=latest")
    assert result.exit_code == 0, result.output
    assert_same_end(whole, run)


@pytest.mark.parametrize("step", ["train_distilled", "segment_files"])
def test_stopped_while_it_finds_masks_it_goes_on_there(pictures, whole, tmp_path, monkeypatch, step):
    real, follow = getattr(find_masks, step), SelfTraining.follow

    def stop(sent=[]):  # noqa: B006 - Once: a second one acts at once.
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    if step == "train_distilled":
        monkeypatch.setattr(SelfTraining, "follow", lambda self: (follow(self), stop()))
    else:
        monkeypatch.setattr(find_masks, step, lambda *args, **kwargs: (stop(), real(*args, **kwargs))[1])
    result = begin(pictures, tmp_path)
    (run,) = tmp_path.iterdir()
    assert result.exit_code == 128 + signal.SIGTERM, result.output
    assert "Stopped by SIGTERM; all is saved. Go on with: " in result.stdout and "Stage 2" not in result.stdout
    assert (run / "segmenter/training-state-real.pt").exists() == (step == "train_distilled")
    monkeypatch.setattr(SelfTraining, "follow", follow)
    monkeypatch.setattr(find_masks, step, real)
    assert invoke(f"--outdir={tmp_path}", "--resume=latest").exit_code == 0
    assert_same_end(whole, run)


def test_signal_while_the_last_tick_before_is_made_is_heeded(pictures, whole, tmp_path, monkeypatch):
    real = Maintenance.tick

    def tick(self, ending, **kwargs):
        if ending:
            os.kill(os.getpid(), signal.SIGTERM)
        real(self, ending, **kwargs)

    monkeypatch.setattr(Maintenance, "tick", tick)
    result = begin(pictures, tmp_path)
    (run,) = tmp_path.iterdir()
    assert result.exit_code == 128 + signal.SIGTERM and not (run / "segmenter").exists(), result.output
    monkeypatch.setattr(Maintenance, "tick", real)
    assert invoke(f"--outdir={tmp_path}", "--resume=latest").exit_code == 0
    assert_same_end(whole, run)


@pytest.mark.parametrize("moved", [False, True])
def test_killed_while_it_segments_it_goes_on_there(pictures, whole, tmp_path, monkeypatch, moved):
    real, add = find_masks.segment_files, FolderOutput.add
    added = []

    def fail(self, entry, parts):
        if len(added) == 10:
            raise DiskFullError("full")
        added.append(entry["name"])
        add(self, entry, parts)

    monkeypatch.setattr(find_masks, "segment_files", partial(real, batch=4))
    monkeypatch.setattr(FolderOutput, "add", fail)
    result = begin(pictures, tmp_path)
    (run,) = tmp_path.iterdir()
    assert result.exit_code == 1 and "Error: full: the last training state is " in result.stderr, result.output
    assert not (run / "found").exists() and 0 < len(list((run / "found.partial/masks").rglob("*.png"))) <= 10
    monkeypatch.setattr(FolderOutput, "add", add)
    if moved:
        run = run.rename(run.with_name("00001-moved"))
    assert invoke(f"--outdir={tmp_path}", "--resume=latest").exit_code == 0
    assert_same_end(whole, run)


def test_no_more_masks_are_found_than_pictures_are_yet_to_be_shown(pictures, tmp_path):
    """So that a set of millions does not take days; 24 pictures here, of which every third is shown."""
    result = begin(pictures, tmp_path, "--kimg=0.04")
    assert result.exit_code == 0, result.output
    (run,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in (run / "found/manifest.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [f"00000/img{idx:08d}.png" for idx in range(0, 24, 3)]
    assert "masks" in result.stdout and "  of pictures: 16 " in result.stdout  # Mirrored.


@pytest.mark.parametrize("num_pictures, expected", [(20, 20), (100, 100), (101, 100), (10_000, 100), (10_100, 101)])
def test_masks_of_a_large_set_are_enough_to_be_accepted(num_pictures, expected):
    assert legs._num_masks(dict(total_kimg=0.3, found=dict(kimg=0.2)), num_pictures) == expected


def test_no_segmenter_no_masks_and_what_to_do_is_said(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(find_masks, "SHORT", dict(find_masks.SHORT, min_coverage=0.98, max_coverage=0.99))
    result = begin(pictures, tmp_path)
    assert result.exit_code == 1 and "Error: no masks found: " in result.stderr, result.output
    (run,) = tmp_path.iterdir()
    assert result.stderr.splitlines()[-1].endswith(
        f"; go on without, or start anew with another --seed: python train_layered.py --outdir={tmp_path} "
        f"--resume={run} --find-masks=0")
    again = invoke(f"--outdir={tmp_path}", f"--resume={run}", "--find-masks=0")
    assert again.exit_code == 0 and "Masks: " not in again.stdout, again.output
    assert runs.load_training_state(runs.training_states(run)[-1])["cur_nimg"] == 64
    assert "found masks of the pictures" not in write_report(run, tmp_path / "report.html").read_text()


def test_growing_run_finds_masks_at_any_of_its_resolutions(pictures, tmp_path):
    tiny = [arg for arg in TINY if not arg.startswith(("--kimg", "--batch"))]
    result = invoke(f"--outdir={tmp_path}", f"--data={pictures}", *tiny, "--grow-schedule=8:0.032:8,16:0.032:8",
                    "--find-masks=0.048")
    assert result.exit_code == 0, result.output
    assert [line.partition(", batch")[0] for line in result.stdout.splitlines() if line.startswith("Stage ")] == [
        "Stage 1 of 3: 8x8", "Stage 2 of 3: 16x16", "Stage 3 of 3: 16x16"]
    (run,) = tmp_path.iterdir()
    assert Segmenter.load(run / "segmenter").resolution == 16


def config(kimg, find, stages=None):
    stages = stages and [dict(resolution=px, kimg=length, batch_size=8, batch_gpu=8, lr=0.1) for px, length in stages]
    return dict(dict(run_dir="run", total_kimg=kimg, resolution=16, masks_path=None, ramp_kimg=None,
                     training_set_kwargs=dict(size_px=18), G_opt_kwargs=dict(lr=0.1), D_opt_kwargs=dict(lr=0.1),
                     loss_kwargs=dict(shift=0.125, mask_min=0.2)),
                **(dict(stages=stages) if stages else {}), found=dict(kimg=find, loss_kwargs=dict(shift=0.0625)))


@pytest.mark.parametrize("kimg, find, stages, expected", [
    (64, 32, None, [(16, 32, False), (16, 64, True)]),
    (24, 32, None, [(16, 24, False)]),  # Of a run that was made shorter.
    (20, 8, [(8, 8), (16, 12)], [(8, 8, False), (16, 20, True)]),
    (20, 10, [(8, 8), (16, 12)], [(8, 8, False), (16, 10, False), (16, 20, True)]),
    (20, 4, [(8, 8), (16, 12)], [(8, 4, False), (8, 8, True), (16, 20, True)]),
])
def test_legs_end_where_masks_are_found(kimg, find, stages, expected):
    found = legs.legs_of(config(kimg, find, stages))
    assert [(leg["resolution"], leg["total_kimg"], leg["masks_path"] is not None) for leg in found] == expected
    for leg in found:
        assert leg["masks_path"] in (None, os.path.join("run", "found", "masks"))
        shown = dict(shift=0.0625, mask_min=0.2, show_masks=True)
        assert leg["loss_kwargs"] == (shown if leg["masks_path"] else dict(shift=0.125, mask_min=0.2))
        assert leg["ramp_kimg"] == kimg and not {"found", "stages"} & leg.keys()


@pytest.mark.parametrize("resolution, expected", [(8, 1), (16, 2), (32, 3)])
def test_run_that_is_long_enough_is_left_in_the_leg_of_its_networks(resolution, expected):
    """A later one has networks that the state does not fit."""
    stages = legs.legs_of(config(12, 4, [(8, 8), (16, 2), (32, 20)]))
    saved = dict(cur_nimg=20_000, cur_tick=0, batch_idx=0, batch_size=8, G={}, G_ema={}, G_opt={}, D_opt={},
                 D={f"b{resolution}.fromrgb.weight": 0}, pl_mean=torch.zeros(1),
                 rng=[dict(cpu=torch.get_rng_state())])
    assert legs.leg_of(stages, saved) == expected


def test_cpu_finds_masks_unless_an_option_speaks_against_it(pictures, tmp_path):
    make_plain(tmp_path / "plain.pkl")
    (tmp_path / "run").mkdir()
    chosen = shell.dry(pictures, "--cfg=cpu")
    assert chosen["total_kimg"] == 64 and chosen["found"] == dict(
        kimg=32, loss_kwargs={name: value for name, value in MASKED.items() if name != "aug"})
    assert chosen["D_sees_masks"] and chosen["loss_kwargs"]["mask_size_weight"] == 10
    assert chosen["augment_kwargs"] is None
    given = shell.dry(pictures, "--cfg=cpu", "--mask-size-weight=3", "--kimg=200")
    assert given["total_kimg"] == 200 and "mask_size_weight" not in given["found"]["loss_kwargs"]
    for args in (["--find-masks=0"], ["--kimg=32"], ["--aug=ada", "--kimg=200"], ["--subset=20"],
                 ["--kimg=200", "--aug=ada", "--target=0.5"], ["--kimg=200", "--augpipe=blit"],
                 [f"--init-from={tmp_path / 'plain.pkl'}"], ["--resolution=16", "--grow"],
                 ["--resolution=64", "--kimg=32"]):
        plain = shell.dry(pictures, "--cfg=cpu", *args)
        assert "found" not in plain and not plain["D_sees_masks"], args
    assert "found" not in shell.dry(pictures, "--cfg=demo")


@pytest.mark.parametrize("args, lengths, found", [
    (["--resolution=64"], [48, 48], 32), (["--resolution=128"], [48, 48, 48], 32),
    (["--resolution=64", "--kimg=60"], [30, 30], 20),
    (["--resolution=128", "--kimg=100"], [33.333, 33.333, 33.334], 22.222),
    (["--resolution=64", "--find-masks=0"], [48, 48], None), (["--resolution=64", "--find-masks=8"], [48, 48], 8),
    (["--resolution=64", "--masks=PICTURES"], [48, 48], None)])
def test_cpu_grows_above_32_and_finds_masks_in_its_first_stage(pictures, args, lengths, found):
    args = [arg.replace("PICTURES", str(pictures)) for arg in args]
    chosen = shell.dry(pictures, "--cfg=cpu", "--batch=16", *args)
    sides = [32 << idx for idx in range(len(lengths))]
    assert chosen["stages"] == [dict(resolution=px, kimg=kimg, batch_size=16, batch_gpu=16, lr=0.002)
                                for px, kimg in zip(sides, lengths, strict=True)]
    assert chosen["total_kimg"] == pytest.approx(sum(lengths)) and chosen["resolution"] == sides[-1]
    assert chosen.get("found", dict(kimg=None))["kimg"] == found


def test_cpu_does_not_grow_where_an_option_speaks_against_it(pictures, tmp_path):
    make_plain(tmp_path / "plain.pkl")
    for args in ([], ["--resolution=32"], ["--resolution=16"], ["--resolution=64", "--no-grow"],
                 ["--resolution=64", "--lr=0.002:0.001"], ["--resolution=64", "--d-lr=0.001"],
                 ["--resolution=64", "--freezed=1"], [f"--init-from={tmp_path / 'plain.pkl'}"]):
        assert "stages" not in shell.dry(pictures, "--cfg=cpu", *args), args
    paper = shell.dry(pictures, "--cfg=cpu", "--resolution=64", "--grow")["stages"]
    assert [stage["resolution"] for stage in paper] == [8, 16, 32, 64]
    assert "stages" not in shell.dry(pictures, "--cfg=demo", "--resolution=64")


@pytest.mark.parametrize("args, words", [
    (["--masks=PICTURES"], "--find-masks finds what --masks has; give one of them"),
    (["--aug=ada"], "--find-masks goes with --aug=noaug alone, got ada"),
    (["--subset=20"], "--find-masks learns from all pictures of --data, so it can't be given with --subset"),
    (["--init-from=PLAIN"], "and that of --init-from does not"),
    (["--cfg=auto", "--augpipe=blit"], "--find-masks goes without augmentation, so --augpipe can't be given"),
    (["--mask-max=0.6"], "--mask-max is weighted by --mask-size-weight, which is 0 once masks are found"),
    (["--kimg=0.5"], "--find-masks=1 must be below --kimg=0.5"),
])
def test_what_does_not_go_with_it_is_refused(pictures, tmp_path, args, words):
    make_plain(tmp_path / "plain.pkl")
    args = [arg.replace("PLAIN", str(tmp_path / "plain.pkl")).replace("PICTURES", str(pictures)) for arg in args]
    result = invoke(f"--outdir={tmp_path}", f"--data={pictures}", "--find-masks=1", "-n", *args)
    assert result.exit_code == 2 and words in result.output


@pytest.mark.parametrize("make_loss", [LayeredLoss, WganGpLoss])
def test_channel_for_masks_is_empty_until_there_are_some(make_loss):
    """A discriminator of four channels is asked what it thinks of pictures beside an unknown mask."""
    G = make_generator()
    D = Discriminator(c_dim=0, img_resolution=16, img_channels=4, channel_base=64, channel_max=4)
    seen = []
    D.register_forward_pre_hook(lambda _net, args: seen.append(args[0]))
    loss = make_loss("cpu", G.mapping, G.synthesis, D, D_channels=4)
    img, z, c = torch.rand(4, 3, 16, 16), torch.randn(4, 8), torch.zeros(4, 0)
    D.requires_grad_(True)
    for phase in ["Gmain"] + (["Dboth"] if make_loss is WganGpLoss else ["Dmain", "Dreg"]):
        loss.accumulate_gradients(phase, img, c, z, c, sync=True, gain=1)
    assert len(seen) >= 3 and all(shown.shape[1] == 4 and not shown[:, 3].any() for shown in seen)
    assert any(torch.equal(shown, pad_channels(img, 4)) for shown in seen)
    assert D.b16.fromrgb.weight.grad.isfinite().all() and not D.b16.fromrgb.weight.grad[:, 3].any()
