"""Benchmarks of training: what is timed, what it is compared with, and the arithmetic of their tables."""

import itertools
import json
import warnings
from unittest import mock

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch_utils import native
from training.networks import Discriminator

from benchmarks import scaling, training_throughput
from benchmarks.support import peak, training_rounds, worker, zero_insertion
from benchmarks.support.simulated import SimulatedPictures
from benchmarks.support.training_rounds import Sizes, StepClock, train_in_rounds, training_config
from layered_plugin.model.generator import LayeredGenerator

pytestmark = pytest.mark.usefixtures("process_as_before")
TINY = Sizes(resolution=8, cbase=32, cmax=4, w_dim=8, batch=4)
TINY_OPTIONS = ["--resolution=8", "--cbase=32", "--cmax=4", "--w-dim=8", "--batch=4", "--threads=1", "--seconds=0"]


class FakeConnection:
    """The command's end: asks for so many rounds, then is gone."""

    def __init__(self, rounds):
        self.rounds, self.sent = list(rounds), []

    def send(self, result):
        self.sent.append(result)

    def recv(self):
        if not self.rounds:
            raise EOFError
        return self.rounds.pop(0)


def test_networks_by_formula_compute_what_the_base_computes():
    G = LayeredGenerator(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3,
                         synthesis_kwargs=dict(channel_base=64, channel_max=6))
    D = Discriminator(c_dim=0, img_resolution=16, img_channels=3, channel_base=64, channel_max=6)
    for name, param in G.named_parameters():
        if name.endswith(("bias", "noise_strength")):
            torch.nn.init.normal_(param)

    def results():
        torch.manual_seed(1)
        img = G(torch.randn(4, 8), None)
        (grad,) = torch.autograd.grad(D(img, None).sum(), img, create_graph=True)
        grad.square().sum().backward()  # As R1 differentiates.
        # One way of computing leaves a gradient undefined where the other fills in zeros.
        params = [param for net in (G, D) for param in net.parameters()]
        found = [img.detach(), grad.detach(),
                 *(torch.zeros_like(param) if param.grad is None else param.grad for param in params)]
        G.zero_grad()
        D.zero_grad()
        return found

    expected = results()
    with zero_insertion.installed():
        found = results()
    assert len(expected) > 50
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4 * float(one.abs().max()))
    assert all(torch.equal(one, other) for one, other in zip(expected, results(), strict=True))  # Uninstalled.


def test_zero_insertion_is_the_sum_of_the_formula():
    x, taps = torch.randn(1, 1, 3, 3), torch.randn(4, 4)
    padded = torch.zeros(9, 9)
    padded[2:8:2, 2:8:2] = x[0, 0]  # A zero after each pixel, 2 before and 1 after the picture.
    expected = torch.empty(6, 6)
    for i, j in itertools.product(range(6), repeat=2):
        expected[i, j] = sum(taps[3 - u, 3 - v] * padded[i + u, j + v] for u in range(4) for v in range(4))
    found = zero_insertion.upfirdn(x, taps, up=2, pads=(2, 1, 2, 1))
    torch.testing.assert_close(found[0, 0], expected)


@pytest.mark.parametrize("plain", [False, True])
def test_rounds_are_pairs_of_steps_of_the_real_loop(tmp_path, plain):
    conn = FakeConnection([0, 0])
    with pytest.raises(EOFError):
        train_in_rounds(conn, TINY._replace(plain=plain), "fp32", "zeros", 1, str(tmp_path), num_pictures=5)
    assert conn.sent[0].keys() == {"start_seconds"}
    assert [(len(result["with_r1"]), len(result["without_r1"])) for result in conn.sent[1:]] == [(1, 1)] * 3
    assert all(result["peak_memory_mb"] > 50 for result in conn.sent[1:])
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    penalties = [line["Loss/r1_penalty"]["mean"] for line in lines]  # Stays on the steps without R1.
    assert penalties[::2] == penalties[1::2] and len(set(penalties)) == 3
    assert not list(tmp_path.glob("*.pkl")) and not list(tmp_path.glob("*.pt"))


def test_variants_differ_in_the_passes_of_the_discriminator(tmp_path):
    batches = {}
    for ops in ("compiled", "two-passes", "zeros"):
        with mock.patch.object(Discriminator, "__call__", autospec=True,
                               side_effect=torch.nn.Module.__call__) as call, pytest.raises(EOFError):
            train_in_rounds(FakeConnection([]), TINY, "fp32", ops, 1, str(tmp_path / ops), num_pictures=5)
        batches[ops] = [len(one.args[1]) for one in call.call_args_list]
    # The summary of D; then twice G, D, and R1 once.
    assert sorted(batches["compiled"]) == [4] * 4 + [8] * 2
    assert batches["two-passes"] == batches["zeros"] == [4] * 8


@pytest.mark.parametrize("tuned", [False, True])
def test_baselines_go_without_our_settings_of_the_process(tmp_path, tuned, monkeypatch):
    made = []
    monkeypatch.setattr("layered_plugin.training.setup.tune_cpu", lambda: made.append(True))
    with pytest.raises(EOFError):
        train_in_rounds(FakeConnection([]), TINY, "fp32", "zeros", 1, str(tmp_path), tuned=tuned, num_pictures=5)
    assert made == [True] * tuned
    assert [name for name, variant in training_throughput.VARIANTS.items() if not variant.tuned] == ["zeros",
                                                                                                     "official"]


def test_a_round_lasts_as_long_as_asked_for(monkeypatch):
    now = itertools.count()
    monkeypatch.setattr(training_rounds.time, "perf_counter", lambda: float(next(now)))
    conn = FakeConnection([3.5])
    clock = StepClock(conn)
    with pytest.raises(EOFError):
        while True:
            clock.before_step(0, 0)
            clock.after_step()
    assert len(conn.sent[1]["with_r1"]) == 1
    assert conn.sent[2]["with_r1"] == conn.sent[2]["without_r1"] == [1.0, 1.0]


def test_config_is_that_of_training(tmp_path):
    config = training_config(Sizes(64, 8192, 256, 128, 32), "bf16", str(tmp_path))
    assert config["G_kwargs"]["class_name"].endswith("LayeredGenerator") and config["G_kwargs"]["w_dim"] == 128
    assert config["D_kwargs"]["channel_base"] == 8192 and config["D_kwargs"]["channel_max"] == 256
    assert config["G_kwargs"]["synthesis_kwargs"]["half_dtype"] == "bfloat16"
    assert config["batch_size"] == config["batch_gpu"] == 32
    assert config["training_set_kwargs"]["size_px"] == 72


def test_proportion_of_r1_is_that_of_training(capsys, tmp_path):
    import train_layered
    training_config(TINY, "fp32", str(tmp_path))
    train_layered.main(["-n", "--outdir=x", f"--data={tmp_path / 'probe'}", "--resolution=8"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["D_reg_interval"] == training_throughput.R1_INTERVAL
    assert training_throughput.step_seconds(dict(with_r1=[17.0, 17.0], without_r1=[1.0, 1.0, 9.0])) == 2


def test_simulated_pictures_are_a_data_set_of_any_size():
    few, many = SimulatedPictures(3, 9), SimulatedPictures(100_000, 9)
    assert (len(few), len(many), many.image_shape) == (3, 100_000, [3, 9, 9])
    img, label = many[99_999]
    assert img.dtype == np.uint8 and img.shape == (3, 9, 9) and label.shape == (0,)
    assert few.preload() and np.array_equal(few[2][0], SimulatedPictures(3, 9)[2][0])
    assert not np.array_equal(few[0][0], few[1][0])


def test_arithmetic_of_the_limit():
    assert peak.conv_shapes(Sizes(32, 1024, 64, 128, 4)) == [(64, 8), (64, 16), (32, 32)]
    speeds = [[dict(dtype="fp32", channels=8, side=8, forward=3e9, backward=1e9)],
              [dict(dtype="fp32", channels=8, side=8, forward=1e9, backward=2e9)]]
    rows = peak.best_speeds(speeds)
    assert peak.peak_speed(rows, "fp32") == 3e9
    assert peak.typical_speed(rows, "fp32") == pytest.approx(3 / (1 / 3e9 + 2 / 2e9))
    rows.append(dict(rows[0], dtype="bf16", forward=8e9))
    steps = [dict(with_r1=[1.0], without_r1=[1.0], peak_memory_mb=5), dict(with_r1=[3.0], without_r1=[3.0],
                                                                          peak_memory_mb=7)]
    slow = [dict(with_r1=[4.0], without_r1=[4.0], peak_memory_mb=9)] * 2
    flops = dict(Gboth=0.5e9, Dmain=0.25e9, Dreg=4e9)
    found, limit = training_throughput.summarize(dict(bf16=steps, fp32=slow), flops, rows, batch=4)
    assert limit["gflops_per_picture"] == 1 and limit["bf16"]["pictures_per_sec"] == 8
    assert found["bf16"]["pictures_per_sec"] == 2 and found["bf16"]["share_of_limit"] == 0.25
    assert found["fp32"]["times_as_long_as"] == dict(
        bf16=dict(median=pytest.approx(8 / 3), least=pytest.approx(4 / 3), largest=4),
        fp32=dict(median=1, least=1, largest=1))
    assert found["bf16"]["peak_memory_mb"] == 7
    shown = training_throughput.table(found, limit)
    assert "| 1.0 (1.0) | 4000 ms, 4000 ms | 2.67 (1.33, 4.00) | 1.00 (1.00, 1.00) | 33% | 9 MiB |" in shown
    assert len({line.count("|") for line in shown.splitlines()}) == 1


def test_throughput_measures_variants_in_turns():
    result = CliRunner().invoke(training_throughput.main, [*TINY_OPTIONS, "--rounds=2", "--variants=reference,zeros"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert list(record["variants"]) == ["reference", "zeros"]
    for found in record["variants"].values():
        assert len(found["rounds_step_seconds"]) == 2 and found["pictures_per_sec"] > 0
        assert 0 < found["share_of_limit"] < 1 and found["peak_memory_mb"] > 50
    assert record["gflops_by_phase"].keys() == {"Gboth", "Dmain", "Dreg"}
    assert "not the official base" in result.stderr and "limit in bf16" in result.stderr


def test_a_failed_build_does_not_pass_for_compiled_ops():
    with warnings.catch_warnings(), training_rounds.use_ops("compiled"):
        with pytest.raises(UserWarning, match="Cannot build"):
            native.get_library("nothing", ["no-such-file.cpp"])
    native.libraries.pop("nothing", None)


@pytest.mark.parametrize(("given", "text"), [("fp32,fp16", "must be some of bf16,fp32"), ("fp32,fp32", "each once"),
                                             ("official", "STYLEGAN2_ADA_PYTORCH")])
def test_unknown_variants_are_refused(given, text):
    result = CliRunner().invoke(training_throughput.main, [f"--variants={given}"])
    assert result.exit_code == 2 and text in result.output


def test_a_failing_process_is_reported():
    with worker.Worker("fp32", json.loads) as process:  # Its connection is no JSON.
        with pytest.raises(click.ClickException, match=r"fp32 failed:(.|\n)*JSON object must be str"):
            process.receive()


def test_a_point_of_scaling_is_a_training_of_two_processes():
    point = scaling.measure_point(TINY, processes=2, num_pictures=7, seconds=0, threads=2)
    assert all(point[name] > 0 for name in ("pictures_per_sec", "peak_memory_mb", "start_seconds"))


def test_scaling_has_a_table_for_each_axis(monkeypatch):
    asked = []

    def measure_point(sizes, processes, num_pictures, seconds, threads):
        asked.append((sizes.resolution, sizes.batch, processes, num_pictures))
        return dict(pictures_per_sec=2.0, peak_memory_mb=700.0, start_seconds=1.5)

    monkeypatch.setattr(scaling, "measure_point", measure_point)
    args = ["--batch=4", "--resolutions=16,32", "--batches=", "--processes=2", "--pictures=7"]
    result = CliRunner().invoke(scaling.main, args)
    assert result.exit_code == 0, result.output
    assert asked == [(16, 4, 1, 1000), (32, 4, 1, 1000), (32, 4, 2, 1000), (32, 4, 1, 7)]
    assert list(json.loads(result.stdout)["tables"]) == ["resolution", "processes", "pictures"]
    assert "| pictures | pictures/s |" in result.stderr and "| 7 | 2.0 | 700 MiB | 1.5 |" in result.stderr


@pytest.mark.parametrize("value", ["2,1", "0", "1,x", "4,4"])
def test_axes_are_increasing_numbers(value):
    result = CliRunner().invoke(scaling.main, [f"--batches={value}"])
    assert result.exit_code == 2 and "increasing positive integers" in result.output


def test_batch_must_fit_the_processes():
    result = CliRunner().invoke(scaling.main, ["--resolutions=", "--batches=", "--pictures=", "--processes=3"])
    assert result.exit_code == 2 and "got 32 and 3" in result.output
