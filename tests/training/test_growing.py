"""Growing: the schedule, its stages' parameters, exact resume inside and across stages, the command."""

import copy
import json
import re
from functools import partial

import legacy
import PIL.Image
import pytest
import shell
import torch
from shell import dry
from training.networks import Discriminator

import train_layered
from layered_plugin import errors, runs
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.training import growing, legs
from layered_plugin.training.fading import Fade
from layered_plugin.training.growing import (
    Stage,
    choose_stages,
    parse_schedule,
    plan,
    stage_config,
)
from layered_plugin.training.legs import leg_of, legs_of, train_legs
from layered_plugin.training.state import TrainingState, saved_resolution

TINY = ["--cfg=demo", "--resolution=16", "--cbase=64", "--cmax=4", "--w-dim=8", "--map-depth=1", "--tick=0.016",
        "--snap=1", "--device=cpu", "--precision=fp32"]
SCHEDULE = "--grow-schedule=8:0.04:16,16:0.048:8:0.004"


invoke = partial(shell.invoke, train_layered.main)


def grown(data, run_dir, *args, state=None):
    """Train on the tiny schedule in this process."""
    run_dir.mkdir(exist_ok=True)
    config = dry(data, *TINY, SCHEDULE, "--snap=1000", *args)
    del config["base"]
    config.update(run_dir=str(run_dir), resume_state=None if state is None else str(state), image_snapshot_ticks=None)
    return train_legs(config, rank=0, device=torch.device("cpu"))


def states(run_dir):
    return [runs.load_training_state(path) for path in runs.training_states(run_dir)]


def test_schedule_is_the_papers():
    """Section 4: 1.2 million pictures each, batches 256, 128, 64, 32, 32, learning rate 0.001 but 0.0015 at 128."""
    assert choose_stages(128) == [
        Stage(8, 1200, 256, 0.001), Stage(16, 1200, 128, 0.001), Stage(32, 1200, 64, 0.001),
        Stage(64, 1200, 32, 0.001), Stage(128, 1200, 32, 0.0015)]
    assert choose_stages(32) == choose_stages(128)[:3]
    assert choose_stages(256)[-1] == Stage(256, 1200, 32, 0.0015)


def test_length_batch_and_learning_rate_of_the_whole_run_are_the_users():
    assert choose_stages(32, kimg=24, batch=16, lr=0.002) == [Stage(px, 8, 16, 0.002) for px in (8, 16, 32)]


def test_own_schedule_is_read():
    assert parse_schedule("8:600:256, 16:0.5:128:0.002,32:10:32:1e-3", 32) == [
        Stage(8, 600, 256, 0.001), Stage(16, 0.5, 128, 0.002), Stage(32, 10, 32, 0.001)]
    assert [stage.lr for stage in parse_schedule("64:1:32,128:1:32:0.01", 128, lr=0.003)] == [0.003, 0.01]


def test_stage_has_its_own_resolution_crop_batch_rate_and_fade(data):
    config = dry(data, *TINY, "--grow-schedule=8:4:16,16:6:8:0.004")
    first, second = stage_config(config, 0), stage_config(config, 1)
    assert (first["resolution"], first["training_set_kwargs"]["size_px"], first["batch_size"]) == (8, 9, 16)
    assert (second["resolution"], second["training_set_kwargs"]["size_px"], second["batch_size"]) == (16, 18, 8)
    assert (first["G_opt_kwargs"]["lr"], second["D_opt_kwargs"]["lr"]) == (0.002, 0.004)
    assert (first["total_kimg"], second["total_kimg"]) == (4, 10)
    assert (first["fade_kimg"], second["fade_kimg"]) == (None, [4, 7])
    assert second["G_kwargs"] == first["G_kwargs"] and second["loss_kwargs"] == first["loss_kwargs"]
    uncropped = stage_config(dry(data, *TINY, "--grow-schedule=8:4:16,16:6:8", "--crop=0"), 0)
    assert uncropped["training_set_kwargs"]["size_px"] == 8


def test_whole_run_is_the_last_stage_and_the_table(data):
    config = dry(data, *TINY, "--grow", "--kimg=10", "--batch=8")
    assert config["stages"] == [dict(resolution=px, kimg=5, batch_size=8, batch_gpu=8, lr=0.002) for px in (8, 16)]
    assert (config["total_kimg"], config["batch_size"], config["resolution"]) == (10, 8, 16)
    assert "stages" not in dry(data, *TINY)


def test_cfg_paper_is_the_papers_training(data):
    """Sections 3.4 and 4, setting (a)."""
    options = dry(data, "--cfg=paper", "--resolution=128", "--device=cpu")
    assert [tuple(stage[key] for key in ("resolution", "kimg", "batch_size", "lr")) for stage in options["stages"]] \
        == [tuple(stage) for stage in growing.SCHEDULE]
    assert options["loss_kwargs"] == dict(
        class_name="layered_plugin.training.wgan_gp.WganGpLoss", gp_weight=10, drift_weight=0.001, pl_weight=0,
        style_mixing_prob=0.9, shift=0.125, mask_min=0.25, mask_size_weight=2, mask_binary_weight=2,
        mask_border_weight=0, mask_center_weight=0, mask_overlap_weight=0, bg_jitter=0, mask_size_over="picture",
        mask_floor=0, mask_max=1, mask_variety=0, mask_variety_weight=10, range_weight=0,
        show_masks=False)
    G = options["G_kwargs"]
    assert (G["z_dim"], G["w_dim"], G["generator"], G["mapping"], G["mapping_kwargs"]) == (
        512, 512, "separate", "separate", dict(num_layers=8))
    assert (G["synthesis_kwargs"]["channel_base"], G["synthesis_kwargs"]["channel_max"]) == (16384, 512)
    assert options["G_opt_kwargs"]["betas"] == options["D_opt_kwargs"]["betas"] == [0, 0.99]
    assert (options["G_reg_interval"], options["D_reg_interval"]) == (None, None)  # Adam's lr and betas stay as given.
    assert options["augment_kwargs"] is None and options["ema_kimg"] == 10
    assert options["training_set_kwargs"]["size_px"] == 144


def test_options_beside_cfg_paper_have_the_last_word(data):
    options = dry(data, "--cfg=paper", "--no-grow", "--gan-loss=logistic", "--mask-min=0.15", "--shift=0")
    assert "stages" not in options and options["loss_kwargs"]["r1_gamma"] > 0
    assert (options["loss_kwargs"]["mask_min"], options["loss_kwargs"]["shift"]) == (0.15, 0)


def test_batch_gpu_limits_every_stage(data):
    stages = dry(data, *TINY, "--grow-schedule=8:4:64,16:6:8", "--batch-gpu=8", "--gpus=2")["stages"]
    assert [stage["batch_gpu"] for stage in stages] == [8, 4]


@pytest.mark.parametrize("kimg, cur_nimg, resolution, expected", [
    (10, 0, 8, 0), (10, 3999, 8, 0), (10, 4000, 8, 1), (10, 4096, 16, 1), (10, 10000, 16, 1), (3, 3000, 8, 0),
])
def test_state_goes_on_in_its_stage_or_the_next(kimg, cur_nimg, resolution, expected):
    config = dict(stages=plan([Stage(8, 4, 16, 1e-3), Stage(16, 6, 8, 1e-3)], 1, None, 1, 4), total_kimg=kimg,
                  resolution=16, training_set_kwargs=dict(size_px=18), G_opt_kwargs={}, D_opt_kwargs={})
    saved = dict(cur_nimg=cur_nimg, cur_tick=0, batch_idx=0, batch_size=8, G={}, G_ema={}, G_opt={}, D_opt={},
                 D={"b4.fc.weight": 0, "b8.conv0.weight": 0, f"b{resolution}.fromrgb.weight": 0},
                 pl_mean=torch.zeros(1), rng=[dict(cpu=torch.get_rng_state())])
    assert leg_of(legs_of(config), saved) == expected
    with pytest.raises(errors.CheckpointError, match="of 32x32 networks, but the schedule has 8, 16"):
        leg_of(legs_of(config), dict(saved, D={"b32.fromrgb.weight": 0}))


@pytest.mark.parametrize("args, words", [
    (["--grow-schedule=8:4,16:6:8"], "RES:KIMG:BATCH or RES:KIMG:BATCH:LR, all above 0, such as 8:600:256, got '8:4'"),
    (["--grow-schedule=8:0:8,16:6:8"], "all above 0"),
    (["--grow-schedule=8:4:8"], "end at --resolution=16, got 8"),
    (["--grow-schedule=4:4:8,8:4:8,16:4:8"], "begin at 8 or more"),
    (["--grow-schedule=8:4:8,32:4:8", "--resolution=32"], "double"),
    (["--grow-schedule=8:4:8,16:4:8", "--kimg=3"], "--kimg stands in --grow-schedule"),
    (["--grow-schedule=8:4:8,16:4:8", "--batch=8"], "--batch stands in --grow-schedule"),
    (["--grow", "--batch=8", "--kimg=0.01"], "at 8x8 there must be at least one of the largest batches, 8 pictures"),
    (["--grow-schedule=8:4:9,16:4:8", "--gpus=2"], "at 8x8 the batch must be a multiple of --gpus=2, got 9"),
    (["--grow-schedule=8:4:12,16:4:8", "--batch-gpu=8"], "at 8x8 --batch-gpu must divide the batch per process, 12"),
    (["--grow", "--freezed=2"], "--freezed is for transfer learning"),
])
def test_wrong_schedule_is_named_with_its_rule(data, args, words):
    result = invoke("--outdir=out", f"--data={data}", "-n", *TINY, *args)
    assert result.exit_code == 2, result.output
    assert words in result.stderr


def networks(resolution):
    channels = dict(channel_base=64, channel_max=4)
    G = LayeredGenerator(z_dim=8, c_dim=0, w_dim=8, img_resolution=resolution, img_channels=3,
                         mapping_kwargs=dict(num_layers=1), synthesis_kwargs=channels).train()
    G_ema, D = copy.deepcopy(G), Discriminator(c_dim=0, img_resolution=resolution, img_channels=3, **channels)
    for net in (G, G_ema, D):
        for tensor in net.parameters():
            tensor.data.normal_()
    return dict(G=G, D=D, G_ema=G_ema, pl_mean=torch.tensor(0.5), augment_pipe=None, ada=None)


def optimizers(G, D):
    opts = dict(G_opt=torch.optim.Adam(G.parameters()), D_opt=torch.optim.Adam(D.parameters()))
    for opt in opts.values():
        for param in opt.param_groups[0]["params"]:
            param.grad = torch.randn_like(param)
    return opts


def test_growing_gives_the_smaller_networks_blocks_on_and_begins_the_optimizers_anew():
    old, new = networks(8), networks(16)
    old_opts = optimizers(old["G"], old["D"])
    for opt in old_opts.values():
        opt.step()
    saved = TrainingState(**old, **old_opts, cur_nimg=48, batch_idx=3, cur_tick=2).pack(16, 1, torch.device("cpu"))
    fade = Fade(new["G"], new["D"], networks(8)["D"], 0.04, 0.064)
    before = {name: copy.deepcopy(new[name].state_dict()) for name in ("G", "D", "G_ema")}
    run = TrainingState(**new, **optimizers(new["G"], fade.D), fade=fade)
    assert run.unpack(saved, batch_size=8)
    for name in ("G", "D", "G_ema"):
        small = old[name].state_dict()
        for key, value in new[name].state_dict().items():
            assert torch.equal(value, small[key] if key in small else before[name][key]), (name, key)
        fresh = {key for key in before[name] if key not in small}
        assert fresh and all(re.match(r"(synthesis\.[bf]g\.)?b16\.", key) for key in fresh), name
    assert torch.equal(fade.D.fromrgb.weight, old["D"].b8.fromrgb.weight)
    assert not run.G_opt.state and not run.D_opt.state
    assert (run.cur_nimg, run.batch_idx, run.cur_tick, run.pl_mean) == (48, 3, 2, 0.5)


def test_state_of_another_resolution_does_not_fit_an_ordinary_run():
    old, new = networks(8), networks(16)
    saved = TrainingState(**old, **optimizers(old["G"], old["D"])).pack(8, 1, torch.device("cpu"))
    assert saved_resolution(saved) == 8
    with pytest.raises(errors.CheckpointError, match="does not fit the networks"):
        TrainingState(**new, **optimizers(new["G"], new["D"])).unpack(saved, batch_size=8)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run over both stages without a break."""
    folder = tmp_path_factory.mktemp("whole")
    assert grown(data, folder) is None
    return folder


def test_a_finished_run_is_left_as_it_is(data, whole, capsys):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert grown(data, whole, state=runs.training_states(whole)[-1]) is None
    assert "nothing to do; give a larger --kimg" in capsys.readouterr().out
    assert before == {path.name: path.read_bytes() for path in whole.iterdir()}


@pytest.mark.parametrize("cut", [16, 48, 56, 72])
def test_resumed_growing_run_equals_an_uninterrupted_one_bit_for_bit(cut, data, whole, tmp_path, monkeypatch):
    """Cut inside the first stage, between the stages, in the fade and after it."""
    parts = tmp_path / "parts"
    real_loop = legs.training_loop

    def cut_short(**config):
        return real_loop(**dict(config, total_kimg=min(config["total_kimg"], cut / 1000))) or "cut"

    monkeypatch.setattr(legs, "training_loop", cut_short)
    while not states(parts) or states(parts)[-1]["cur_nimg"] < cut:
        grown(data, parts, state=next(iter(runs.training_states(parts)[-1:]), None))
    assert states(parts)[-1]["cur_nimg"] == cut
    monkeypatch.setattr(legs, "training_loop", real_loop)
    torch.manual_seed(999)
    grown(data, parts, state=runs.training_states(parts)[-1])
    one, two = states(whole)[-1], states(parts)[-1]
    assert one["cur_nimg"] == two["cur_nimg"] == 88 and one["batch_idx"] == two["batch_idx"] == 3 + 5
    for net in ("G", "D", "G_ema", "fromrgb"):
        assert all(torch.equal(value, two[net][name]) for name, value in one[net].items()), net
    assert torch.equal(one["rng"][0]["cpu"], two["rng"][0]["cpu"])


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run of the command over both stages, stopped between a tick of the fade and the end; and its output."""
    outdir = tmp_path_factory.mktemp("out")
    done = invoke(f"--outdir={outdir}", f"--data={data}", *TINY, SCHEDULE, "--gan-loss=wgan-gp")
    assert done.exit_code == 0, done.stderr
    (folder,) = outdir.iterdir()
    return folder, done


def test_command_grows_in_one_run_folder(run):
    folder, done = run
    assert folder.name == "00000-shapes-mirror-demo-16px-grow-kimg0.088-batch8-noaug-wgan-gp-shift0.125-seed0"
    assert "Stage 1 of 2: 8x8, batch 16, learning rate 0.002, up to kimg 0.04" in done.stdout
    assert "Stage 2 of 2: 16x16, batch 8, learning rate 0.004, up to kimg 0.088" in done.stdout
    assert (folder / "log.txt").read_text().count("Stage ") == 2
    stats = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    seen = [[line[f"Progress/{name}"]["mean"] for name in ("tick", "kimg", "resolution", "fade")] for line in stats]
    assert seen == [[0, 0.016, 8, 1], [1, 0.032, 8, 1], [2, 0.048, 8, 1],
                    [3, 0.064, 16, pytest.approx(16 / 24)], [4, 0.08, 16, 1], [5, 0.088, 16, 1]]
    assert all(line["Loss/D/gp"]["num"] > 0 for line in stats)
    assert stats[-1]["Resources/cpu_sec"]["mean"] > stats[0]["Resources/cpu_sec"]["mean"] > 0


def test_grown_snapshot_is_an_ordinary_one(run):
    folder, _done = run
    with open(folder / "network-snapshot-000000.pkl", "rb") as file:
        nets = legacy.load_network_pkl(file)
    assert nets["training_set_kwargs"]["size_px"] == 18
    assert set(nets["G_ema"].state_dict()) == set(networks(16)["G"].state_dict())
    assert set(nets["D"].state_dict()) == set(networks(16)["D"].state_dict())
    assert nets["G_ema"](torch.randn(1, nets["G_ema"].z_dim), None).shape == (1, 3, 16, 16)
    assert type(nets["D"]).__name__ == "Discriminator" and not nets["D"].b16._forward_hooks
    for name, side in [("fakes000000", 16), ("reals", 18), ("fakes_init", 8)]:
        with PIL.Image.open(folder / f"{name}.png") as grid:
            assert grid.size == (16 * side, 8 * side), name


def test_command_goes_on_to_a_greater_length(run):
    folder, _done = run
    again = invoke(f"--outdir={folder.parent}", "--resume=latest", "--kimg=0.096")
    assert again.exit_code == 0, again.output
    assert "Stage 1" not in again.stdout and "Stage 2 of 2: 16x16" in again.stdout
    assert states(folder)[-1]["cur_nimg"] == 96


@pytest.mark.parametrize("cut, side", [(0.032, 8), (0.056, 16)])
def test_intermediate_snapshot_draws_what_the_training_sees(cut, side, data, tmp_path, monkeypatch):
    """In the fade as well: at alpha a third, torgb of the highest block is a third of the state's."""
    real_loop = legs.training_loop
    monkeypatch.setattr(legs, "training_loop", lambda **config: real_loop(
        **dict(config, total_kimg=min(config["total_kimg"], cut))) or ("cut" if cut < 0.04 else None))
    grown(data, tmp_path / "run")
    with open(tmp_path / "run/network-snapshot-000000.pkl", "rb") as file:
        nets = legacy.load_network_pkl(file)
    saved = states(tmp_path / "run")[-1]
    assert nets["G_ema"].img_resolution == saved_resolution(saved) == side
    assert nets["training_set_kwargs"]["size_px"] == side * 9 // 8
    alpha = 1 if side == 8 else pytest.approx(8 / 24)
    key = f"synthesis.bg.b{side}.torgb.weight"
    assert float(nets["G_ema"].state_dict()[key].norm() / saved["G_ema"][key].norm()) == alpha
    key = "synthesis.bg.b8.conv1.weight"
    assert torch.equal(nets["G_ema"].state_dict()[key], saved["G_ema"][key])
