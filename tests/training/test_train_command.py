"""train_layered.py as a user types it: help, dry run, wrong values, a run, its resumption, signals, two processes."""

import inspect
import json
import re
import shlex
import shutil
import signal
from functools import partial
from pathlib import Path

import PIL.Image
import pytest
import shell
import torch
from command_examples import check_options, find_examples
from shell import ROOT, call_and_stop, dry
from tiny_models import TINY, make_pictures, make_plain

import train_layered
from layered_plugin import device, runs
from layered_plugin.training import guards, launcher, metrics, presets
from layered_plugin.training.loop import training_loop

invoke = partial(shell.invoke, train_layered.main)


def fake_run(data, folder, **changes):
    """A run folder that can be resumed, as a dry run sees it."""
    folder.mkdir()
    (folder / "training_options.json").write_text(json.dumps(dict(dry(data, "--device=cpu"), **changes)))
    runs.save_training_state(folder, 1, {})
    return folder


def test_help_explains_every_option():
    result = invoke("--help")
    assert result.exit_code == 0
    check_options(train_layered.main, result.output)


@pytest.mark.parametrize("source", ["help", "README.md", "docs/results.md", "docs/history.md"])
def test_examples_are_accepted(source, data, tmp_path, monkeypatch):
    text = train_layered.main.callback.__doc__ if source == "help" else (ROOT / source).read_text()
    examples = [args for name, args in find_examples(text) if name == "train_layered.py"]
    assert len(examples) >= 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "my-masks").mkdir()
    for name in ("data/shapes.zip", "data/shapes2.zip", "data/plants.zip", "data/plants-lit.zip",
                 "data/plants-lit-64.zip", "data/plants-lit-small.zip", "data/vegetables-lit.zip",
                 "data/vehicles-lit.zip", "data/things-lit.zip", "data/flowers-close.zip", "data/clothing.zip",
                 "my-cars", "my-plants", "my-masks/masks"):
        (tmp_path / name).write_bytes(data.read_bytes())
    for path in {Path(arg.partition("=")[2]) for args in examples for arg in args if arg.startswith("--init-from=")}:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_plain(path)
    for args in examples:
        if not any(arg.startswith("--resume") for arg in args):
            result = invoke(*args, "-n", "--device=cpu")
            assert result.exit_code == 0, (args, result.output)


def test_config_has_exactly_the_loops_parameters(data):
    keys = set(dry(data, "--cfg=demo")) - {"base", "data_fingerprint", "masks_fingerprint"}
    assert keys == set(inspect.signature(training_loop).parameters) - {
        "rank", "training_set", "abort_fn", "progress_fn"}


def test_dry_run_makes_no_folder(data, tmp_path):
    assert invoke(f"--outdir={tmp_path / 'out'}", f"--data={data}", "-n").exit_code == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cfg, eta", [("car", 0.25), ("chair", 0.20), ("horse", 0.15), ("bird", 0.15)])
def test_categories_have_the_papers_eta(data, cfg, eta):
    assert dry(data, f"--cfg={cfg}")["loss_kwargs"]["mask_min"] == eta


def test_preset_fills_only_unset_options(data):
    options = dry(data, "--cfg=car", "--mask-min=0.3")
    assert options["loss_kwargs"]["mask_min"] == 0.3


@pytest.mark.parametrize("cfg, expected", [
    ("auto", dict(batch=32, gamma=0.0002 * 16**2 / 32, lr=0.0025, kimg=25000, ema=10, base=16384)),
    ("stylegan2", dict(batch=32, gamma=10, lr=0.002, kimg=25000, ema=10, base=32768)),
    ("paper256", dict(batch=64, gamma=1, lr=0.0025, kimg=25000, ema=20, base=16384)),
    ("cifar", dict(batch=64, gamma=0.01, lr=0.0025, kimg=100000, ema=500, base=32768)),
])
def test_base_configurations_are_upstreams(data, cfg, expected):
    options = dry(data, f"--cfg={cfg}")
    found = dict(batch=options["batch_size"], gamma=options["loss_kwargs"]["r1_gamma"],
                 lr=options["G_opt_kwargs"]["lr"], kimg=options["total_kimg"], ema=options["ema_kimg"],
                 base=options["D_kwargs"]["channel_base"])
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("args, batch_gpu, gamma, ema, group", [
    (["--cfg=auto"], 32, 0.0256, 10, 4),
    (["--cfg=auto", "--batch=8"], 8, 0.0256, 10, 4),
    (["--cfg=auto", "--batch=2"], 2, 0.0256, 10, 2),
    (["--cfg=auto", "--batch=64", "--gpus=2"], 32, 0.0128, 20, 4),  # auto's own batch is 64.
    (["--cfg=car", "--batch=16"], 16, 0.0256, 10, 4),
    (["--cfg=stylegan2", "--batch=16"], 16, 10, 10, 4),  # 4 at a time are for 8 GPUs and the preset's own batch.
    (["--cfg=stylegan2"], 4, 10, 10, 4),
    (["--cfg=demo"], 32, 0.5, 10, 4),
    (["--cfg=demo", "--resolution=256"], 32, 0.5, 10, 4),  # The preset's batch; auto's would be 16.
    (["--cfg=demo", "--batch=8"], 8, 0.5, 10, 4),
    (["--cfg=auto", "--grow"], 32, 0.0256, 10, 4),
    (["--cfg=auto", "--grow", "--batch=8"], 8, 0.0256, 10, 4),
    (["--cfg=auto", "--resolution=32", "--grow"], 64, 0.0002 * 32**2 / 64, 20, 4),
])
def test_batch_changes_neither_gamma_nor_the_average(data, args, batch_gpu, gamma, ema, group):
    """As upstream: `auto` computes both from its own batch, or from that of a preset or schedule of ours."""
    options = dry(data, "--device=cpu", "--resolution=64", *args)
    found = dict(batch_gpu=options["batch_gpu"], gamma=options["loss_kwargs"]["r1_gamma"], ema=options["ema_kimg"],
                 group=options["D_kwargs"]["epilogue_kwargs"]["mbstd_group_size"], kimg=options["total_kimg"])
    kimg = 24 if "--cfg=demo" in args else {False: 25000, True: found["kimg"]}["--grow" in args]
    assert found == pytest.approx(dict(batch_gpu=batch_gpu, gamma=gamma, ema=ema, group=group, kimg=kimg))


def test_cifar_has_upstreams_discriminator_and_no_style_mixing(data):
    options = dry(data, "--cfg=cifar")
    assert options["D_kwargs"]["architecture"] == "orig" and options["loss_kwargs"]["style_mixing_prob"] == 0


@pytest.mark.parametrize("target", [0.0, 0.3])
def test_ada_target_is_what_was_given(data, target):
    assert dry(data, f"--target={target}")["ada_target"] == target


def test_objects_and_their_overlap_reach_the_networks_and_the_loss(data):
    assert dry(data)["G_kwargs"]["num_objects"] == 1 and dry(data)["loss_kwargs"]["mask_overlap_weight"] == 0
    options = dry(data, "--objects=2", "--mask-overlap-weight=1.5")
    assert options["G_kwargs"]["num_objects"] == 2 and options["loss_kwargs"]["mask_overlap_weight"] == 1.5


def test_varied_is_the_demo_with_varied_scenes_and_the_papers_losses_have_none_of_it(data):
    demo, varied = dry(data, "--cfg=demo"), dry(data, "--cfg=varied")
    loss = varied["loss_kwargs"]
    assert (loss["mask_size_over"], loss["mask_variety"], loss["shift"]) == ("batch", 0.55, [0.125, 0.06])
    assert varied["G_kwargs"] == demo["G_kwargs"] and varied["total_kimg"] == demo["total_kimg"] == 24
    for loss in (demo["loss_kwargs"], dry(data, "--cfg=paper", "--resolution=16")["loss_kwargs"]):
        assert (loss["mask_size_over"], loss["mask_variety"], loss["range_weight"]) == ("picture", 0, 0)


def test_cpu_is_the_demo_wider_and_longer(data):
    asked = ["--cfg=demo", "--cbase=1024", "--cmax=64", "--kimg=32"]
    assert dry(data, "--cfg=cpu", "--find-masks=0") | dict(asked={}) == dry(data, *asked) | dict(asked={})


def test_varied_can_grow(data):
    stages = dry(data, "--cfg=varied", "--resolution=16", "--grow-schedule=8:4:16,16:6:8:0.004")["stages"]
    assert [stage["lr"] for stage in stages] == [0.003, 0.004]


def test_settings_that_change_over_the_run_reach_the_loop(data):
    config = dry(data, "--cfg=demo", "--lr=0.004:0.0005", "--d-lr=0.002", "--shift=0.125:0.0625", "--gamma=0.1")
    assert (config["G_opt_kwargs"]["lr"], config["D_opt_kwargs"]["lr"]) == ([0.004, 0.0005], 0.002)
    assert (config["loss_kwargs"]["shift"], config["loss_kwargs"]["r1_gamma"]) == ([0.125, 0.0625], 0.1)


def test_crop_needs_a_margin_of_an_eighth(data):
    assert dry(data)["training_set_kwargs"]["size_px"] == 18
    assert dry(data, "--crop=0")["training_set_kwargs"]["size_px"] == 16
    assert dry(data, "--shift=0.25")["training_set_kwargs"]["size_px"] == 18


def test_augmentations_are_upstreams(data):
    assert dry(data)["augment_kwargs"].keys() == {"class_name", *presets.AUGPIPES["bgc"]}
    assert dry(data)["ada_target"] == 0.6
    assert len(presets.AUGPIPES["bgcfnc"]) == 15
    assert dry(data, "--aug=noaug")["augment_kwargs"] is None


@pytest.mark.parametrize("cfg, num, kimg, expected", [
    ("auto", 4999, 25000, (True, "ada")), ("auto", 5000, 25000, (False, "ada")), ("car", 10, 1, (True, "ada")),
    ("demo", 4999, 24, (True, "noaug")), ("demo", 4999, 100, (True, "ada")), ("demo", 5000, 100, (False, "noaug")),
    ("cpu", 2184, 32, (True, "noaug")), ("varied", 2184, 99.9, (True, "noaug")), ("varied", 2184, 200, (True, "ada")),
])
def test_small_sets_are_mirrored_and_augmented_where_nothing_was_said(cfg, num, kimg, expected):
    assert presets.choose_for_size(cfg, num, kimg, None, None) == expected
    assert presets.choose_for_size(cfg, num, kimg, not expected[0], "fixed") == (not expected[0], "fixed")


@pytest.mark.parametrize("args, mirror, aug, said", [
    ([], True, True, "mirrored too: yes, augmentation: ada"),
    (["--cfg=demo"], True, False, "mirrored too: yes, augmentation: noaug"),
    (["--cfg=demo", "--kimg=100"], True, True, "mirrored too: yes, augmentation: ada"),
    (["--cfg=demo", "--mirror=0"], False, False, "mirrored too: no, augmentation: noaug"),
    (["--cfg=varied", "--aug=ada"], True, True, "mirrored too: yes, augmentation: ada"),
    (["--mirror=0", "--aug=noaug"], False, False, None),
    (["--cfg=paper", "--resolution=16"], False, False, None),
])
def test_what_follows_from_the_size_of_the_set_is_said(data, args, mirror, aug, said):
    result = invoke("--outdir=out", f"--data={data}", "-n", *args)
    config = json.loads(result.stdout)
    assert config["training_set_kwargs"]["xflip"] == mirror and (config["augment_kwargs"] is not None) == aug
    assert f"(sets below {presets.FEW_PICTURES} are mirrored), {said}" in result.stderr if said else \
        "are mirrored" not in result.stderr


def test_size_of_the_set_is_that_of_the_subset(data, monkeypatch):
    num = dry(data)["training_set_kwargs"]["max_size"]
    monkeypatch.setattr(presets, "FEW_PICTURES", num)
    assert not dry(data)["training_set_kwargs"]["xflip"]
    assert dry(data, f"--subset={num - 1}")["training_set_kwargs"]["xflip"]


@pytest.mark.parametrize("args", [["--resolution=32"], ["--resolution=64", "--grow-schedule=32:4:16,64:4:16"]])
def test_filter_is_taken_where_every_stage_is_large_enough(data, args):
    assert dry(data, "--augpipe=bgcfnc", *args)["augment_kwargs"]["imgfilter"] == 1


def test_path_length_is_off_and_warned_about(data):
    assert dry(data)["loss_kwargs"]["pl_weight"] == 0
    result = invoke("--outdir=out", f"--data={data}", "-n", "--pl-weight=2")
    assert "WARNING: --pl-weight" in result.stderr


def test_wgan_gp_has_the_papers_weights_and_its_penalty_in_every_step(data):
    options = dry(data, "--cfg=demo", "--gan-loss=wgan-gp")  # The preset's gamma is R1's: not an error, not used.
    loss = options["loss_kwargs"]
    assert loss["class_name"] == "layered_plugin.training.wgan_gp.WganGpLoss"
    assert (loss["gp_weight"], loss["drift_weight"]) == (10, 0.001) and "r1_gamma" not in loss
    assert options["D_reg_interval"] is None
    changed = dry(data, "--gan-loss=wgan-gp", "--gp-weight=1", "--drift-weight=0")["loss_kwargs"]
    assert (changed["gp_weight"], changed["drift_weight"]) == (1, 0)
    assert dry(data)["loss_kwargs"]["r1_gamma"] > 0 and dry(data)["D_reg_interval"] == 16


def test_precision_follows_the_cpu(data, monkeypatch):
    for fast, expected in [(True, 4), (False, 0)]:
        monkeypatch.setattr(device, "has_fast_bf16", lambda fast=fast: fast)
        options = dry(data, "--device=cpu")
        assert options["G_kwargs"]["synthesis_kwargs"]["num_fp16_res"] == expected
        assert options["D_kwargs"]["num_fp16_res"] == expected


SOURCES = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets/"


@pytest.mark.parametrize("name, file, in_name", [
    ("noresume", None, "-noresume"),
    ("ffhq256", "ffhq-res256-mirror-paper256-noaug.pkl", "-resumeffhq256"),
    ("ffhq512", "ffhq-res512-mirror-stylegan2-noaug.pkl", "-resumeffhq512"),
    ("ffhq1024", "ffhq-res1024-mirror-stylegan2-noaug.pkl", "-resumeffhq1024"),
    ("celebahq256", "celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl", "-resumecelebahq256"),
    ("lsundog256", "lsundog-res256-paper256-kimg100000-noaug.pkl", "-resumelsundog256"),
    ("https://example.org/mine.pkl", "https://example.org/mine.pkl", "-resumecustom"),
])
def test_resume_takes_upstreams_names(data, monkeypatch, name, file, in_name):
    launched = []
    monkeypatch.setattr(train_layered, "launch", lambda config, _outdir, desc, _find: launched.append((config, desc)))
    monkeypatch.setattr(train_layered.trust, "trust_named", lambda _pickle: None)  # Would download it.
    result = invoke("--outdir=out", f"--data={data}", "--device=cpu", f"--resume={name}")
    assert result.exit_code == 0, result.output
    ((config, desc),) = launched
    assert desc.endswith(in_name) and runs.next_desc(f"00000-{desc}", 7) == desc.replace("seed0", "seed7")
    assert config["resume_pkl"] == (file if file is None or "://" in file else SOURCES + file)
    transfers = file is not None
    assert (config["ada_kimg"], config["ema_rampup"]) == ((100, None) if transfers else (500, 0.05))


@pytest.mark.parametrize("args, words", [
    (["--batch=9", "--gpus=2"], "--batch must be a multiple of --gpus, got 9 and 2"),
    (["--batch=8", "--batch-gpu=3"], "--batch-gpu must divide --batch / --gpus = 8, got 3"),
    (["--resolution=24"], "--resolution must be a power of two, at least 8, got 24"),
    (["--p=0.2"], "--p can only be given with --aug=fixed"),
    (["--aug=fixed"], "--aug=fixed needs --p"),
    (["--aug=noaug", "--augpipe=bg"], "--augpipe cannot be given with --aug=noaug"),
    (["--augpipe=bgcf"], "--augpipe=bgcf filters pictures of at least 22x22, but the run is at 16x16; use"),
    (["--augpipe=filter", "--resolution=64", "--grow"], "--augpipe=filter filters pictures of at least 22x22, but the "
                                                        "run is at 8x8 first; use --augpipe=bgc, or begin at 32x32"),
    (["--aug=noaug", "--target=0.5"], "--target can only be given with --aug=ada"),
    (["--fp32=1", "--precision=bf16"], "--fp32=1 contradicts --precision=bf16"),
    (["--device=cpu", "--precision=fp16"], "--precision=fp16 needs --device=cuda"),
    (["--cond=1"], "--cond=1 needs labels"),
    (["--subset=999"], "--subset must be at most the "),
    (["--metrics=fid50k_full,is50k"], "--metrics: 'is50k' needs the official base"),
    (["--metrics=fid0k_full"], "--metrics: 'fid0k_full' needs the official base"),
    (["--fid-weights=inception.pth"], "--fid-weights is for --metrics on the bundled base"),
    (["--mask-overlap-weight=2"], "--mask-overlap-weight=2 needs --objects of at least 2, got 1"),
    (["--objects=0"], "--objects"),
    (["--shift=0.7"], "--shift"),
    (["--lr=0.004:0"], "--lr"),
    (["--lr=0.004:0.002:0.001"], "'0.004:0.002:0.001' is neither a number nor two with a colon between them"),
    (["--lr=0.004:0.002", "--grow"], "--lr=A:B and --d-lr can't be given with --grow"),
    (["--mask-size-over=all"], "--mask-size-over"),
    (["--cfg=cars"], "--cfg"),
    (["--kimg=0"], "--kimg"),
    (["--snap-minutes=0"], "--snap-minutes"),
    (["--gan-loss=wgan-gp", "--gamma=1"], "--gamma is R1's weight, which --gan-loss=wgan-gp has not; see --gp-weight"),
    (["--gp-weight=1"], "--gp-weight needs --gan-loss=wgan-gp"),
    (["--drift-weight=0", "--gan-loss=logistic"], "--drift-weight needs --gan-loss=wgan-gp"),
    (["--pl-weight=2", "--batch-gpu=1"], "--pl-weight needs --batch-gpu of at least 2"),
    (["--pl-weight=2", "--batch=8", "--batch-gpu=1", "--grow"], "--pl-weight needs --batch-gpu of at least 2"),
    (["--mask-min=0.9", "--mask-max=0.5"], "--mask-min=0.9 must be at most --mask-max=0.5"),
    (["--mask-variety=0.5", "--batch-gpu=1"], "--mask-variety compares pictures and needs --batch-gpu of at least 2"),
    (["--cfg=varied", "--batch-gpu=1"], "--mask-variety compares pictures and needs --batch-gpu of at least 2"),
    (["--mask-floor=0.4", "--mask-size-weight=0"], "--mask-floor is weighted by --mask-size-weight, which is 0; give"),
    (["--mask-max=0.6", "--mask-size-weight=0"], "--mask-max is weighted by --mask-size-weight, which is 0; give"),
])
def test_wrong_option_is_named_with_its_rule(data, args, words):
    result = invoke("--outdir=out", f"--data={data}", "-n", *args)
    assert result.exit_code == 2, result.output
    assert words in result.stderr


@pytest.mark.parametrize("inside", ["", "runs", "a/../runs"])
def test_run_inside_the_pictures_is_refused(tmp_path, inside):
    pictures = make_pictures(tmp_path / "my-cars", ["0.png", "1.png"])
    result = invoke(f"--outdir={pictures / inside}", f"--data={pictures}", "--resolution=8", "-n")
    assert result.exit_code == 2, result.output
    assert f"--outdir={pictures / inside} lies in --data={pictures}, where its files would be taken" in result.stderr
    assert len(list(pictures.iterdir())) == 2


@pytest.mark.parametrize("args, words", [
    (["--data=nowhere.zip"], "nowhere.zip"),
    (["--resume=latest"], "no run folder with a training-state"),
    (["--data=DATA", "--resume=nowhere.pkl"], "no such run folder or pickle: nowhere.pkl"),
])
def test_wrong_file_is_named(data, tmp_path, args, words):
    result = invoke(f"--outdir={tmp_path}", *[arg.replace("DATA", str(data)) for arg in args])
    assert result.exit_code == 1, result.output
    assert words in result.stderr and "Traceback" not in result.output


@pytest.mark.parametrize("outdir, words", [("FILE", "File exists"), ("FILE/runs", "Not a directory")])
def test_outdir_that_cannot_be_written_is_named(data, tmp_path, outdir, words):
    (tmp_path / "file").touch()
    outdir = outdir.replace("FILE", str(tmp_path / "file"))
    result = invoke(f"--outdir={outdir}", f"--data={data}", *TINY)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"Error: --outdir: can't write to {outdir}: {words}"


@pytest.mark.parametrize("text, words", [
    ("{", "dataset.json: damaged"),
    ('{"labels": [["0.png", null]]}', "dataset.json: labels must be"),
    ('{"labels": []}', "dataset.json: has labels but none for 0.png"),
])
def test_damaged_labels_are_named(tmp_path, text, words):
    PIL.Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    (tmp_path / "dataset.json").write_text(text)
    result = invoke("--outdir=out", f"--data={tmp_path}", "--cond=1", "-n")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    assert f"Error: --data: {tmp_path}: {words}" in result.stderr


@pytest.mark.usefixtures("process_as_before")
def test_run_resumes_and_goes_on(data, tmp_path):
    done = invoke(f"--outdir={tmp_path}", f"--data={data}", *TINY)
    assert done.exit_code == 0, done.stderr
    (run,) = tmp_path.iterdir()
    assert run.name.startswith("00000-shapes-mirror-demo-16px-")
    options = json.loads((run / "training_options.json").read_text())
    assert options["run_dir"] == str(run) and options["total_kimg"] == 0.04
    assert options["base"].startswith("bundled (")
    log = (run / "log.txt").read_text()
    assert "StyleGAN2-ADA base: bundled" in log
    assert re.search(r"^tick 2 +kimg 0\.0 +time [\dms ]+ +sec/tick [\d.]+ +sec/kimg [\d.]+ +maintenance [\d.]+ +"
                     r"cpumem [\d.]+ +gpumem 0\.00 +augment 0\.000 mask [\d.]+ img/s [\d.]+ +eta 0s$", log, re.M)
    assert f"{run}/layers" in log

    again = invoke(f"--outdir={tmp_path}", "--resume=latest", "--kimg=0.08")
    assert again.exit_code == 0, again.output
    assert "from kimg 0.0" in again.stdout
    stats = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    kimg = [round(line["Progress/kimg"]["mean"], 3) for line in stats]
    assert kimg == sorted(kimg) and kimg[-1] == 0.08 and 0.04 in kimg
    assert [line["Progress/tick"]["mean"] for line in stats] == list(range(len(stats)))

    later = tmp_path / "00009-later"  # Stopped by an error before its first snapshot.
    later.mkdir()
    shutil.copy(run / "training_options.json", later)
    passed = invoke(f"--outdir={tmp_path}", "--resume=latest")
    assert passed.exit_code == 0 and f"WARNING: {later} is newer than {run}, but has saved nothing" in passed.stderr
    assert "WARNING" not in invoke(f"--outdir={tmp_path}", f"--resume={run}").stderr

    for option in ("--mask-min=0.4", "--device=auto"):
        refused = invoke(f"--outdir={tmp_path}", f"--resume={run}", option)
        assert refused.exit_code == 2 and f"{option.split('=')[0]} cannot change" in refused.stderr


def test_the_command_of_a_run_goes_on_with_it(data, tmp_path):
    """Of a job that is started again, with --resume=latest at its end."""
    args = [f"--outdir={tmp_path}", f"--data={data}", "--cfg=demo", "--resolution=16", "--cbase=64", "--cmax=4",
            "--lr=0.004:0.002", "--batch=8", "--kimg=0.016", "--seed=3", "--mirror=1"]
    assert invoke(*args).exit_code == 0
    again = invoke(*args[:8], "--kimg=0.032", *args[9:], "--resume=latest")
    assert again.exit_code == 0 and "Training for 0.032 kimg, from kimg 0.0" in again.stdout, again.output
    refused = invoke(*args[:9], "--seed=4", "--resume=latest")
    assert refused.exit_code == 2 and "--seed cannot change" in refused.stderr


def test_run_folder_that_cannot_be_written_is_named(data, tmp_path, monkeypatch):
    args = [f"--outdir={tmp_path}", f"--data={data}", "--cfg=demo", "--resolution=16", "--cbase=64", "--cmax=4",
            "--batch=8", "--kimg=0.008"]
    assert invoke(*args).exit_code == 0
    monkeypatch.setattr(launcher.os, "access", lambda path, mode: False)  # As of a read-only file system.
    refused = invoke(f"--outdir={tmp_path}", "--resume=latest", "--kimg=0.016")
    assert refused.exit_code == 1 and f"--resume: can't write to {tmp_path}/00000-" in refused.stderr


@pytest.mark.parametrize("name", ["00000", "00000-shapes", "00000-shapes-demo", "00000-shapes-demo/"])
def test_beginning_of_a_run_folders_name_is_enough_to_resume(data, tmp_path, name):
    run = fake_run(data, tmp_path / "00000-shapes-demo")
    result = invoke(f"--outdir={tmp_path}", f"--resume={tmp_path}/{name}", "-n")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["run_dir"] == str(run)


def test_longest_time_between_snapshots_may_change_when_resumed(data, tmp_path):
    assert dry(data)["snapshot_minutes"] is None and dry(data, "--snap-minutes=10")["snapshot_minutes"] == 10
    fake_run(data, tmp_path / "00000-shapes", snapshot_minutes=10)
    args = [f"--outdir={tmp_path}", "--resume=latest", "-n"]
    assert [json.loads(invoke(*args, *given).stdout)["snapshot_minutes"]
            for given in ([], ["--snap-minutes=2.5"])] == [10, 2.5]


def test_metrics_of_the_official_base_are_its_own(data, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "BASE", metrics.BASE._replace(name="official"))
    run = fake_run(data, tmp_path / "00000-shapes", metrics=["fid50k_full"])
    args = [f"--outdir={tmp_path}", f"--resume={run}", "-n"]
    for given, names in (([], ["fid50k_full"]), (["--metrics=kid50k,is50k"], ["kid50k", "is50k"])):
        assert json.loads(invoke(*args, *given).stdout)["metrics"] == names


def test_metrics_of_the_bundled_base_need_their_weights_when_resumed_too(data, tmp_path, monkeypatch):
    run = fake_run(data, tmp_path / "00000-shapes", metrics=["fid50k_full"], fid_weights="kept.pth")
    args = [f"--outdir={tmp_path}", f"--resume={run}", "-n"]
    for given, said in ((["--fid-weights=other.pth"], "other.pth: no such file"), ([], "kept.pth: no such file")):
        refused = invoke(*args, *given)
        assert refused.exit_code == 1 and f"Error: --metrics: {said}; FID and KID need" in refused.stderr
    refused = invoke(f"--outdir={tmp_path}", f"--data={data}", "-n", "--metrics=fid50k_full")
    assert refused.exit_code == 1 and "Error: --metrics: no --fid-weights given; FID" in refused.stderr
    assert json.loads(invoke(*args, "--metrics=none").stdout)["metrics"] == []
    monkeypatch.setattr(metrics, "Fidelity", lambda weights: weights)
    settings = json.loads(invoke(*args, "--metrics=kid5k_full", "--fid-weights=other.pth").stdout)
    assert (settings["metrics"], settings["fid_weights"]) == (["kid5k_full"], "other.pth")


@pytest.fixture
def cuda_devices(monkeypatch):
    """Let PyTorch see so many CUDA devices."""
    def show(num):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: num > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num)
    return show


@pytest.mark.parametrize("name", ["cuda", "auto"])
def test_more_processes_than_gpus_are_refused(data, cuda_devices, monkeypatch, name):
    cuda_devices(2)
    args = ["--outdir=out", f"--data={data}", "-n", "--batch=32", f"--device={name}"]
    refused = invoke(*args, "--gpus=4")
    assert refused.exit_code == 2, refused.output
    words = r"--gpus=4 needs 4 cuda devices, but PyTorch \S+ sees 2 here; use fewer processes or --device=cpu"
    assert re.search(words, refused.stderr)
    assert invoke(*args, "--gpus=2").exit_code == 0
    assert invoke(*args[:-1], "--gpus=4", "--device=cpu").exit_code == 0
    monkeypatch.setenv("WORLD_SIZE", "4")  # torchrun on two machines.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert invoke(*args).exit_code == 0


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
def test_environment_that_is_not_torchruns_is_named(data, monkeypatch, name):
    for value in ("x", "", "-1", "1.5", "0" if "SIZE" in name else "1x"):
        monkeypatch.setenv(name, value)
        result = invoke("--outdir=out", f"--data={data}", "-n")
        assert result.exit_code == 2, result.output
        assert f"the environment's {name} must be a whole number" in result.stderr
        assert f"got {value!r}; unset it to train without torchrun" in result.stderr


@pytest.mark.parametrize("seen, kept, words", [
    (0, dict(device="cuda"), "--gpus=1 needs 1 cuda device, but PyTorch .* sees 0 here"),
    (2, dict(device="cuda", num_gpus=4), "--gpus=4 needs 4 cuda devices, but PyTorch .* sees 2 here"),
    (0, dict(device="mps"), "--gpus=1 needs 1 mps device, but PyTorch .* sees 0 here"),
])
def test_run_of_a_device_that_is_not_here_is_not_resumed(data, tmp_path, cuda_devices, monkeypatch, seen, kept, words):
    cuda_devices(seen)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    run = fake_run(data, tmp_path / "00000-shapes", **kept)
    args = [f"--outdir={tmp_path}", f"--resume={run}", "-n"]
    refused = invoke(*args)
    assert refused.exit_code == 1, refused.output
    assert f"--resume: {run} was trained with --device={kept['device']}: --gpus" in refused.stderr
    assert re.search(f"{words}; go on where they are, or start a new run", refused.stderr)
    cuda_devices(4)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert invoke(*args).exit_code == 0


@pytest.mark.usefixtures("process_as_before")
def test_broken_picture_is_named_without_a_traceback(data, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for idx in range(3):
        PIL.Image.new("RGB", (18, 18), (90, 140, 60)).save(folder / f"{idx}.png")
    (folder / "2.png").write_bytes(b"no picture")
    done = invoke(f"--outdir={tmp_path / 'out'}", f"--data={folder}", *TINY)
    assert done.exit_code == 1
    assert "2.png" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("gpus", [1, 2])
def test_sigterm_saves_says_how_to_go_on_and_exits_with_143(data, tmp_path, gpus):
    args = [f"--outdir={tmp_path}", f"--data={data}", *TINY, "--kimg=1000", f"--gpus={gpus}"]
    code, output, errors = call_and_stop(signal.SIGTERM, tmp_path / "*/training-state-*.pt", "train_layered.py", *args)
    assert code == 143, errors
    assert "Stopped by SIGTERM; all is saved" in output + errors and "Traceback" not in output + errors
    go_on = re.search(r"Go on with: python train_layered\.py (.*)$", output + errors, re.MULTILINE)[1]
    result = invoke(*shlex.split(go_on), "--kimg=1001", "-n")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["resume_state"].startswith(str(tmp_path))


@pytest.mark.usefixtures("process_as_before")
def test_collapse_restarts_with_the_next_seed(data, tmp_path, monkeypatch):
    findings = [["the mask is empty"]]
    monkeypatch.setattr(guards, "WARN_KIMG", 0.0)
    monkeypatch.setattr(guards, "PATIENCE_KIMG", 0.0)
    monkeypatch.setattr(guards, "find_collapse", lambda stats: findings.pop() if findings else [])
    done = invoke(f"--outdir={tmp_path}", f"--data={data}", *TINY, "--on-collapse=restart")
    assert done.exit_code == 0, done.stderr
    runs = sorted(tmp_path.iterdir())
    seeds = [json.loads((run / "training_options.json").read_text())["random_seed"] for run in runs]
    assert seeds == [0, 1] and "Starting anew with seed 1" in done.stdout
    assert runs[1].name == runs[0].name.replace("00000", "00001").replace("seed0", "seed1")
