"""Operations of a training step: closed forms, scaling, and the command that turns them into GPU hours."""

import json

import pytest
import torch
from click.testing import CliRunner
from tiny_models import make_pictures
from torch.nn.functional import conv2d, conv_transpose2d

import train_layered
from benchmarks import flops
from benchmarks.flops import FlopCounter, count_step_flops, gpu_hours

GROWN = ("--resolution=16", "--grow", "--kimg=8")


def make_config(tmp_path, *options):
    """What train_layered.py -n prints for a tiny network."""
    data = tmp_path / "pictures"
    make_pictures(data)
    result = CliRunner().invoke(train_layered.main, [
        "--outdir=runs", f"--data={data}", "--resolution=8", "--cbase=64", "--cmax=8", "--w-dim=8", "--map-depth=1",
        "--batch=2", "--device=cpu", "--aug=noaug", "-n", *options])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_and_its_gradients_count_three_times_its_formula(groups):
    x, weight = torch.randn([2, 4, 5, 5], requires_grad=True), torch.randn([6, 4 // groups, 3, 3], requires_grad=True)
    with FlopCounter() as counter:
        out = conv2d(x, weight, padding=1, groups=groups)
    forward = 2 * (2 * 5 * 5) * 6 * (4 // groups) * 9
    assert counter.total == forward
    with FlopCounter() as counter:
        out.sum().backward()
    assert counter.total == 2 * forward


def test_a_transposed_convolution_counts_its_input_pixels():
    x, weight = torch.randn([1, 4, 5, 5]), torch.randn([4, 6, 3, 3], requires_grad=True)
    with FlopCounter() as counter:
        conv_transpose2d(x, weight, stride=2).sum().backward()
    assert counter.total == 2 * (2 * 25 * 4 * 6 * 9)  # forward, and the gradient of the weight alone


def test_the_gradient_inside_of_r1_is_counted():
    x, weight = torch.randn([1, 2, 4, 4], requires_grad=True), torch.randn([3, 2, 1, 1], requires_grad=True)
    with FlopCounter() as counter:
        (grad,) = torch.autograd.grad((conv2d(x, weight) ** 2).sum(), x, create_graph=True)
        (grad**2).sum().backward()
    assert counter.total >= 4 * (2 * 16 * 2 * 3)


def test_wide_layers_dominate_and_cost_the_square_of_their_width(tmp_path):
    narrow, wide = (count_step_flops(make_config(tmp_path, f"--cbase={8 * width}", f"--cmax={width}")).per_picture
                    for width in (64, 128))
    assert 3.5 < wide / narrow < 4


def test_lazy_phases_count_by_their_interval(tmp_path):
    step = count_step_flops(make_config(tmp_path))
    assert step.intervals == dict(Gboth=1, Dmain=1, Dreg=16)
    assert step.per_picture == pytest.approx(step.by_phase["Gboth"] + step.by_phase["Dmain"]
                                             + step.by_phase["Dreg"] / 16)
    assert min(step.by_phase.values()) > 0


@pytest.mark.parametrize("options", [["--batch=8"], ["--precision=bf16"], ["--seed=3"]])
def test_the_count_depends_on_the_network_alone(tmp_path, options):
    expected = count_step_flops(make_config(tmp_path)).by_phase["Gboth"]
    assert count_step_flops(make_config(tmp_path, *options)).by_phase["Gboth"] == pytest.approx(expected, rel=0.02)


def test_a_second_synthesis_network_costs_more(tmp_path):
    both, single = (count_step_flops(make_config(tmp_path, f"--generator={kind}")).by_phase["Gboth"]
                    for kind in ("separate", "single"))
    assert both > 1.3 * single


def test_augmentation_and_labels_are_counted(tmp_path):
    plain = count_step_flops(make_config(tmp_path))
    assert count_step_flops(make_config(tmp_path, "--aug=ada")).per_picture > plain.per_picture
    assert count_step_flops(make_config(tmp_path), c_dim=4).per_picture > plain.per_picture


def test_hours_are_pictures_times_operations_by_speed():
    assert gpu_hours(flops_per_picture=36e9, kimg=1000, tflops=10) == pytest.approx(1.0)


def test_command_reads_the_dry_run(tmp_path):
    config = make_config(tmp_path)
    (tmp_path / "options.json").write_text(json.dumps(config))
    args = [f"--options={tmp_path}/options.json", "--kimg=8000", "--kimg=1200", "--tflops=0.5"]
    result = CliRunner().invoke(flops.main, args)
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    per_picture = shown["gflops_per_picture"] * 1e9
    assert shown["gpu_hours"] == {"8000 kimg": pytest.approx(gpu_hours(per_picture, 8000, 0.5)),
                                  "1200 kimg": pytest.approx(gpu_hours(per_picture, 1200, 0.5))}
    piped = CliRunner().invoke(flops.main, ["--options=-"], input=json.dumps(config))
    assert list(json.loads(piped.stdout)["gpu_hours"]) == ["25000 kimg"]


def test_a_growing_run_is_the_sum_of_its_stages(tmp_path):
    grown = make_config(tmp_path, *GROWN)
    apart = [count_step_flops(make_config(tmp_path, f"--resolution={px}")).per_picture for px in (8, 16)]
    result = CliRunner().invoke(flops.main, ["--options=-", "--tflops=0.5"], input=json.dumps(grown))
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert [(stage["resolution"], stage["kimg"]) for stage in shown["stages"]] == [(8, 4), (16, 4)]
    assert [stage["gflops_per_picture"] * 1e9 for stage in shown["stages"]] == pytest.approx(apart, rel=0.02)
    assert shown["gpu_hours"] == {"8 kimg": pytest.approx(gpu_hours(sum(apart), 4, 0.5), rel=0.02)}


@pytest.mark.parametrize("total, lengths", [(10, [4, 6]), (3, [3, 0])])
def test_a_growing_run_of_another_length_is_longer_in_its_last_stage_or_ends_early(tmp_path, total, lengths):
    grown = make_config(tmp_path, *GROWN)
    result = CliRunner().invoke(flops.main, ["--options=-"], input=json.dumps(dict(grown, total_kimg=total)))
    shown = json.loads(result.stdout)
    assert [stage["kimg"] for stage in shown["stages"]] == lengths and list(shown["gpu_hours"]) == [f"{total} kimg"]


def test_other_lengths_of_a_growing_run_are_refused(tmp_path):
    grown = make_config(tmp_path, *GROWN)
    result = CliRunner().invoke(flops.main, ["--options=-", "--kimg=8"], input=json.dumps(grown))
    assert result.exit_code == 2
    assert "--kimg: the stages of a growing run have their own lengths; set them in train_layered.py" in result.output


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"training_set_kwargs": {"use_labels": false}}'])
def test_command_names_a_file_that_is_something_else(tmp_path, text):
    (tmp_path / "options.json").write_text(text)
    result = CliRunner().invoke(flops.main, [f"--options={tmp_path}/options.json"])
    assert result.exit_code == 1
    assert "is not the output of train_layered.py -n" in result.output


def test_command_names_a_missing_file(tmp_path):
    result = CliRunner().invoke(flops.main, [f"--options={tmp_path}/none.json"])
    assert result.exit_code == 1
    assert "--options: cannot be read" in result.output and "none.json" in result.output
