"""Step ``compile``: a generator's step, which has no second derivative, as a CUDA graph and by torch.compile."""

import time
from collections.abc import Callable
from typing import Any

import dnnlib
import torch
from torch.nn.functional import softplus

from benchmarks.gpu.step import small_networks
from benchmarks.gpu.step_config import training_config
from benchmarks.gpu.step_process import Context, run_cases, seconds_per_call


class GeneratorStep:
    """Gmain without the mask terms: synthesis, discriminator, gradients of the synthesis' parameters."""

    def __init__(self, context: Context, resolution: int):
        half = "bf16" if context.device == "cpu" else "fp16"
        options = ["--aug=noaug", *small_networks(context.quick), f"--precision={half}"]
        config = training_config(resolution, context.device, [*options, *(["--nhwc=1"] if half == "fp16" else [])])
        size: dict[str, Any] = dict(c_dim=0, img_resolution=resolution, img_channels=3)
        G = dnnlib.util.construct_class_by_name(**config["G_kwargs"], **size).train().to(context.device)
        D = dnnlib.util.construct_class_by_name(**config["D_kwargs"], **size).train().to(context.device)
        self.device, self.batch = context.device, config["batch_size"]
        self.synthesis, self.D = G.synthesis, D.requires_grad_(False)
        self.ws = G.mapping(torch.randn(self.batch, G.z_dim, device=context.device), None).detach()
        self.params = list(G.synthesis.parameters())

    def run(self, synthesis: Callable[..., Any], judge: Callable[..., Any]) -> tuple[torch.Tensor, ...]:
        """One step with these in the networks' place."""
        return torch.autograd.grad(softplus(-judge(synthesis(self.ws), None)).mean(), self.params)

    def milliseconds(self, work: Callable[[], object]) -> dict[str, Any]:
        """Of a step, and seconds until it has run for the first time."""
        start = time.perf_counter()
        work()
        if self.device == "cuda":
            torch.cuda.synchronize()
        first = time.perf_counter() - start
        return dict(batch=self.batch, first_s=first, step_ms=1e3 * seconds_per_call(work, self.device, least_s=0.5))


def main(context: Context) -> int:
    """Run the step."""
    resolution = 16 if context.quick else 64
    cases = [("as in training", lambda: plain(GeneratorStep(context, resolution))),
             ("CUDA graph", lambda: graphed(GeneratorStep(context, resolution))),
             ("torch.compile", lambda: compiled(GeneratorStep(context, resolution), context.quick))]
    return run_cases(context, cases, seconds=10)


def plain(step: GeneratorStep) -> dict[str, Any]:
    """Kernel by kernel."""
    return step.milliseconds(lambda: step.run(step.synthesis, step.D))


def graphed(step: GeneratorStep) -> dict[str, Any]:
    """All kernels of the step as one graph."""
    if step.device != "cuda":
        return dict(skipped="needs a CUDA device")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step.run(step.synthesis, step.D)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        grads = step.run(step.synthesis, step.D)
    found = step.milliseconds(graph.replay)
    return dict(found, finite=bool(torch.stack(torch._foreach_norm(grads)).isfinite().all()))


def compiled(step: GeneratorStep, quick: bool) -> dict[str, Any]:
    """By torch.compile, which sees the reference operations."""
    backend = "aot_eager" if quick else "inductor"
    networks = [torch.compile(net, backend=backend) for net in (step.synthesis, step.D)]
    return dict(step.milliseconds(lambda: step.run(*networks)), backend=backend)
