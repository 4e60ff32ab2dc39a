"""Does torch.compile pay? A generator's step, without second derivatives, as we compute it and compiled by PyTorch.

PyTorch compiles the reference operations: it cannot see into ours. Random weights: speed does not depend on them.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import dnnlib
import torch
from torch.nn.functional import softplus

from benchmarks.support.provenance import provenance
from benchmarks.support.training_rounds import Sizes, size_options, training_config
from layered_plugin.command_line import Whole
from layered_plugin.device import PRECISIONS, tune_cpu


class GeneratorStep:
    """Gmain without the mask terms: synthesis, discriminator, backward to the synthesis' parameters.

    Args:
        sizes: Networks and batch.
        precision: Value of ``--precision``.
    """

    def __init__(self, sizes: Sizes, precision: str):
        with tempfile.TemporaryDirectory() as folder:
            config = training_config(sizes, precision, folder)
        size: dict[str, Any] = dict(c_dim=0, img_resolution=sizes.resolution, img_channels=3)
        G = dnnlib.util.construct_class_by_name(**config["G_kwargs"], **size).train()
        self.synthesis = G.synthesis
        self.D = dnnlib.util.construct_class_by_name(**config["D_kwargs"], **size).train().requires_grad_(False)
        self.ws = G.mapping(torch.randn(sizes.batch, G.z_dim), None).detach()

    def run(self, synthesis: Callable[..., torch.Tensor], discriminate: Callable[..., torch.Tensor]) -> None:
        """One step with these in the networks' place."""
        softplus(-discriminate(synthesis(self.ws), None)).mean().backward()
        self.synthesis.zero_grad(set_to_none=True)

    def time(self, backend: str | None, num_steps: int, repeats: int = 4) -> dict[str, float]:
        """Seconds until two steps are done, the compilation among them, and the best CPU milliseconds of a step.

        Args:
            backend: Of ``torch.compile``; None = as training computes.
            num_steps: Steps of a measurement.
            repeats: Measurements, of which the best counts.
        """
        networks: Sequence[Any] = (self.synthesis, self.D)
        if backend is not None:
            networks = tuple(torch.compile(network, backend=backend) for network in networks)
        start = time.perf_counter()
        self.run(*networks)
        self.run(*networks)
        first = time.perf_counter() - start
        best = float("inf")
        for _ in range(repeats):
            start = time.process_time()
            for _ in range(num_steps):
                self.run(*networks)
            best = min(best, (time.process_time() - start) / num_steps)
        return dict(seconds_to_second_step=first, step_ms=best * 1e3)


@click.command(context_settings=dict(show_default=True))
@size_options
@click.option("--precision", help="Number format of the convolutions", type=click.Choice(PRECISIONS), default="auto")
@click.option("--steps", help="Steps of a measurement", metavar="INT", type=Whole(1), default=8)
@click.option("--threads", help="Of the step", metavar="INT", type=Whole(1), default=1)
@click.option("--backend", help="Of torch.compile", metavar="NAME", default="inductor")
def main(precision: str, steps: int, threads: int, backend: str, **sizes: Any) -> None:
    """Time a generator's step with and without torch.compile; JSON on stdout, the table on stderr.

    \b
    Example:
    python -m benchmarks.torch_compile
    """
    from torch._inductor import config as inductor  # Takes seconds to import.

    torch.set_num_threads(threads)
    tune_cpu()
    chosen = Sizes(**sizes)
    step = GeneratorStep(chosen, precision)
    with inductor.patch(force_disable_caches=True):  # What an earlier call compiled is no help.
        found = {"as in training": step.time(None, steps), "torch.compile": step.time(backend, steps)}
    print("| step | seconds to the second step | ms a step |\n|---|---|---|", file=sys.stderr)
    for name, row in found.items():
        print(f"| {name} | {row['seconds_to_second_step']:.1f} | {row['step_ms']:.1f} |", file=sys.stderr)
    print(json.dumps(dict(ways=found, backend=backend, precision=precision, steps=steps, threads=threads,
                          **chosen._asdict(), **provenance("benchmarks.torch_compile")), indent=2))


if __name__ == "__main__":
    main()
