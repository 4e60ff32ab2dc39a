"""Count the arithmetic of a training step, and estimate the GPU hours of a run from it.

Counted on the real networks and losses, forward and backward; nothing is trained and no GPU is needed.
"""

import copy
import json
from typing import Any, NamedTuple

import click
import dnnlib
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry

import layered_plugin  # noqa: F401 - activates the base
from layered_plugin.command_line import Number
from layered_plugin.training import growing, phases


class FlopCounter(TorchDispatchMode):
    """Within this context, ``total`` grows by the operations of every matrix product and convolution.

    PyTorch's own FlopCounterMode refuses R1's gradient inside of a step, and overcounts the gradients of grouped
    convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        op = func.overloadpacket
        if op is torch.ops.aten.convolution_backward:
            grad_out, x, weight = args[:3]
            transposed, output_mask = args[7], args[10]
            # Either gradient costs as much as the forward pass.
            self.total += (output_mask[0] + output_mask[1]) * conv_flop_count(x.shape, weight.shape, grad_out.shape,
                                                                              transposed)
        elif op in flop_registry:
            self.total += flop_registry[op](*args, **kwargs, out_val=out)
        return out


class StepFlops(NamedTuple):
    """Floating-point operations of a training step; a multiply-add counts as two."""

    by_phase: dict[str, float]  # Of one run of each phase, for one picture.
    intervals: dict[str, int]  # Each phase runs every so many steps.

    @property
    def per_picture(self) -> float:
        """Mean over many steps, for one real picture shown."""
        return sum(flops / self.intervals[name] for name, flops in self.by_phase.items())


def count_step_flops(config: dict[str, Any], img_channels: int = 3, c_dim: int = 0) -> StepFlops:
    """Count the matrix products and convolutions of a training step, forward and backward.

    Everything else (activations, sampling, optimizer, moving average) is a few per cent and is left out. One step is
    really run, in float32 on the CPU, on as few pictures as the discriminator's standard deviation takes; the count
    for one picture depends neither on the batch nor on the device or precision of the config.

    Args:
        config: Parameters of ``training_loop``, as ``train_layered.py -n`` prints them.
        img_channels: Colour channels of the pictures.
        c_dim: Width of the labels, 0 = no labels.

    Returns:
        Counts by phase, and their intervals.
    """
    common = dict(c_dim=c_dim, img_resolution=config["resolution"], img_channels=img_channels)
    G_kwargs, D_kwargs = copy.deepcopy(config["G_kwargs"]), copy.deepcopy(config["D_kwargs"])
    G_kwargs["synthesis_kwargs"]["num_fp16_res"] = D_kwargs["num_fp16_res"] = 0
    G = dnnlib.util.construct_class_by_name(**G_kwargs, **common).train().requires_grad_(False)
    D = dnnlib.util.construct_class_by_name(**D_kwargs, **common).train().requires_grad_(False)
    augment_pipe = None
    if config["augment_kwargs"] is not None and (config["augment_p"] > 0 or config["ada_target"] is not None):
        augment_pipe = dnnlib.util.construct_class_by_name(**config["augment_kwargs"]).train().requires_grad_(False)
        augment_pipe.p.fill_(config["augment_p"])
    loss = dnnlib.util.construct_class_by_name(device=torch.device("cpu"), G_mapping=G.mapping,
                                               G_synthesis=G.synthesis, D=D, augment_pipe=augment_pipe,
                                               **config["loss_kwargs"])
    all_phases = [*phases.setup_phases("G", G, config["G_opt_kwargs"], config["G_reg_interval"]),
                  *phases.setup_phases("D", D, config["D_opt_kwargs"], config["D_reg_interval"])]

    batch = max(D_kwargs["epilogue_kwargs"]["mbstd_group_size"], 2)  # Path length takes half of a batch.
    real_img = torch.rand([batch, img_channels, config["resolution"], config["resolution"]]) * 2 - 1
    by_phase = {}
    for phase in all_phases:
        phase.module.requires_grad_(True)
        with FlopCounter() as counter:
            loss.accumulate_gradients(phase=phase.name, real_img=real_img, real_c=torch.zeros([batch, c_dim]),
                                      gen_z=torch.randn([batch, G.z_dim]), gen_c=torch.zeros([batch, c_dim]),
                                      sync=True, gain=phase.interval)
        phase.module.requires_grad_(False)
        by_phase[phase.name] = counter.total / batch
    return StepFlops(by_phase, {phase.name: phase.interval for phase in all_phases})


def gpu_hours(flops_per_picture: float, kimg: float, tflops: float) -> float:
    """Hours = pictures x operations per picture / operations per second.

    Args:
        flops_per_picture: ``StepFlops.per_picture``.
        kimg: Length of the run in thousands of real pictures.
        tflops: Sustained speed, in 10^12 operations per second.
    """
    return kimg * 1e3 * flops_per_picture / (tflops * 1e12) / 3600


def _numbers(config: dict[str, Any]) -> dict[str, Any]:
    """Count a step, as the command shows it."""
    flops = count_step_flops(config)
    return dict(resolution=config["resolution"],
                gflops_by_phase={name: value / 1e9 for name, value in flops.by_phase.items()},
                intervals=flops.intervals, gflops_per_picture=flops.per_picture / 1e9)


def _stages(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Count a step of each stage of a growing run, beside the stage's length."""
    stages, begin = [], 0.0
    for idx in range(len(config["stages"])):
        stage = growing.stage_config(config, idx)
        stages.append(dict(_numbers(stage), kimg=stage["total_kimg"] - begin))
        begin = stage["total_kimg"]
    return stages


@click.command()
@click.option("--options", help="Output of train_layered.py -n, - = piped in", metavar="JSON", required=True)
@click.option("--kimg", help="Lengths, not of a growing run  [default: the run's]", metavar="KIMG", multiple=True,
              type=Number(0, min_open=True))
@click.option("--tflops", help="Assumed sustained speed", metavar="TFLOPS", default=20.0, show_default=True,
              type=Number(0, min_open=True))
def main(options: str, kimg: tuple[float, ...], tflops: float) -> None:
    """Estimate how many GPU hours a training takes, from the operations of one step.

    The count is exact for matrix products and convolutions; the speed is yours to assume: that of large
    convolutions on your GPU, times the share of it that training reaches. A growing run is counted stage by stage.

    \b
    Examples:
    python train_layered.py --outdir=runs --data=data/car-64.zip --cfg=car -n > options.json
    python -m benchmarks.flops --options=options.json --kimg=8000 --tflops=20
    """
    try:
        with click.open_file(options) as file:
            config = json.load(file)
        c_dim_needed = config["training_set_kwargs"]["use_labels"]
        total_kimg = float(config["total_kimg"])
        if "stages" in config and kimg:
            raise click.UsageError("--kimg: the stages of a growing run have their own lengths; set them in "
                                   "train_layered.py")
        stages = _stages(config) if "stages" in config else []
        numbers: dict[str, Any] = dict(stages=stages) if stages else _numbers(config)
    except OSError as err:
        raise click.ClickException(f"--options: cannot be read ({err})") from err
    except (ValueError, KeyError, TypeError) as err:
        raise click.ClickException(f"--options: {options} is not the output of train_layered.py -n "
                                   f"or a training_options.json ({type(err).__name__}: {err})") from err
    if c_dim_needed:
        click.echo("WARNING: counted without labels, whose share is small", err=True)
    if stages:
        hours = {f"{total_kimg:g} kimg": sum(gpu_hours(stage["gflops_per_picture"] * 1e9, stage["kimg"], tflops)
                                             for stage in stages)}
    else:
        hours = {f"{length:g} kimg": gpu_hours(numbers["gflops_per_picture"] * 1e9, length, tflops)
                 for length in kimg or (total_kimg,)}
    click.echo(json.dumps(dict(numbers, assumed_tflops=tflops, gpu_hours=hours), indent=2))


if __name__ == "__main__":
    main()
