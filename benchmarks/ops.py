"""The compiled operations against the reference operations, by derivative, on tensors as StyleGAN2 has them.

A third variant resamples by inserting zeros, as upstream's formula says. Results go to standard output as JSON.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import torch
from torch import Tensor
from torch_utils import custom_ops
from torch_utils.ops import bias_act, compiled, scaled_bias_act, upfirdn2d

from benchmarks.support import zero_insertion
from benchmarks.support.provenance import provenance
from layered_plugin.command_line import Whole
from layered_plugin.device import tune_cpu
from layered_plugin.progress import progress

CLAMP = 256.0
FILTER = upfirdn2d.setup_filter([1, 3, 3, 1])
LAYOUTS = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16)
DERIVATIVES = ("forward", "backward", "double_backward", "forward_backward")
# Name -> the operation on feature maps, and factors that require gradients too: scale, noise, bias.
OPS: dict[str, tuple[Callable[..., Tensor], str]] = dict(
    bias_act=(lambda x, b: bias_act.bias_act(x, b.to(x.dtype), act="lrelu", clamp=CLAMP), "b"),
    scaled_bias_act=(lambda x, s, n, b: scaled_bias_act.scaled_bias_act(x, s, n, b, act="lrelu", clamp=CLAMP), "snb"),
    scale=(scaled_bias_act.scaled_bias_act, "s"),
    upsample2d=(lambda x: upfirdn2d.upsample2d(x, FILTER), ""),
    downsample2d=(lambda x: upfirdn2d.downsample2d(x, FILTER), ""),
    filter2d=(lambda x: upfirdn2d.filter2d(x, FILTER), ""),
)
ZERO_INSERTING: dict[str, Callable[[Tensor], Tensor]] = dict(
    upsample2d=lambda x: zero_insertion.upfirdn(x, FILTER.to(x.dtype), up=2, pads=(2, 1, 2, 1), gain=4),
    downsample2d=lambda x: zero_insertion.upfirdn(x, FILTER.to(x.dtype), down=2, pads=(1, 1, 1, 1)),
    filter2d=lambda x: zero_insertion.upfirdn(x, FILTER.to(x.dtype), pads=(2, 1, 2, 1)),
)


def works(func: Callable[..., Tensor], inputs: Sequence[Tensor]) -> dict[str, Callable[[], object]]:
    """What is timed; graphs are built once, so that each derivative is measured alone.

    Args:
        func: Operation.
        inputs: Its arguments, which require gradients.

    Returns:
        By derivative, a function that computes it.
    """
    y = func(*inputs)
    grad = torch.randn_like(y, requires_grad=True)
    first = torch.autograd.grad(y, inputs[0], grad, create_graph=True)
    direction = torch.randn_like(first[0])
    plain_grad = grad.detach()

    def forward() -> None:
        with torch.no_grad():
            func(*inputs)

    return dict(
        forward=forward,
        backward=lambda: torch.autograd.grad(y, inputs, plain_grad, retain_graph=True),
        double_backward=lambda: torch.autograd.grad(first, [grad, *inputs], direction, retain_graph=True,
                                                    allow_unused=True),
        forward_backward=lambda: torch.autograd.grad(func(*inputs), inputs, plain_grad),
    )


def make_inputs(factors: str, shape: Sequence[int], dtype: torch.dtype, layout: torch.memory_format) -> list[Tensor]:
    """Feature maps and the factors that belong to them, float32 as parameters are."""
    n, channels, height, width = shape
    sizes = dict(s=[n, channels], n=[n, 1, height, width], b=[channels])
    x = torch.randn(*shape).to(dtype).contiguous(memory_format=layout)
    return [t.requires_grad_() for t in (x, *(torch.randn(sizes[name]) for name in factors))]


def clock() -> float:
    """Seconds: the processor's for one thread, which other processes disturb less, else the wall's."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def measure(variants: dict[str, dict[str, Callable[[], object]]], num_rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each variant and derivative, the least of some rounds, in which the variants take turns."""
    best = {name: dict.fromkeys(parts, float("inf")) for name, parts in variants.items()}
    for derivative in DERIVATIVES:
        for _ in range(num_rounds + 1):  # One more, since the first one warms up and is not the least.
            for name, parts in variants.items():
                start = clock()
                parts[derivative]()
                best[name][derivative] = min(best[name][derivative], 1e3 * (clock() - start))
    return best


def cases(batch: int, channels: int, resolution: int) -> Iterator[tuple[str, list[int], str, str]]:
    """Operation, shape, number format and layout: large feature maps, then the small images of the RGB path."""
    for dtype in DTYPES:
        for layout in LAYOUTS:
            for name in OPS:
                yield name, [batch, channels, resolution, resolution], dtype, layout
    yield "upsample2d", [batch, 3, resolution // 2, resolution // 2], "fp32", "contiguous"


def run_case(name: str, shape: Sequence[int], dtype: str, layout: str, num_rounds: int) -> dict[str, Any]:
    """Record of one case."""
    func, factors = OPS[name]
    inputs = make_inputs(factors, shape, DTYPES[dtype], LAYOUTS[layout])
    variants = dict(compiled=works(func, inputs))
    with custom_ops.reference_ops():
        reference = works(func, inputs)
    # Graphs keep what they were built with; these two parts call the operation.
    again = {part: custom_ops.reference_ops()(reference[part]) for part in ("forward", "forward_backward")}
    variants["reference"] = reference | again
    if name in ZERO_INSERTING and layout == "contiguous":
        variants["zero_inserting"] = works(ZERO_INSERTING[name], inputs)
    ms = measure(variants, num_rounds)
    ratios = {rival: {part: ms[rival][part] / ms["compiled"][part] for part in DERIVATIVES}
              for rival in ms if rival != "compiled"}
    return dict(op=name, shape=list(shape), dtype=dtype, layout=layout, ms=ms, times_as_fast_as=ratios)


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown, a row per case: how many times as fast the compiled operation is, and its milliseconds."""
    lines = ["| op | x | format, layout | forward | backward | double backward | forward + backward, ms | "
             "against zero insertion |", "|---|---|---|---|---|---|---|---|"]
    for record in records:
        ratios = record["times_as_fast_as"]
        forward, backward, double, both = (ratios["reference"][part] for part in DERIVATIVES)
        zeros = ratios.get("zero_inserting", {}).get("forward_backward")
        lines.append(
            f"| {record['op']} | {'x'.join(map(str, record['shape']))} | {record['dtype']}, {record['layout']} | "
            f"{forward:.1f} | {backward:.1f} | {double:.1f} | {both:.1f}, "
            f"{record['ms']['compiled']['forward_backward']:.2f} ms | {'' if zeros is None else f'{zeros:.1f}'} |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--batch", help="Images in a tensor", metavar="INT", type=Whole(1), default=32,
              show_default=True)
@click.option("--channels", help="Channels of feature maps", metavar="INT", type=Whole(1), default=64,
              show_default=True)
@click.option("--resolution", help="Side of feature maps", metavar="PX", type=Whole(4), default=64,
              show_default=True)
@click.option("--rounds", help="Rounds, of which the best counts", metavar="INT", type=Whole(1),
              default=7, show_default=True)
@click.option("--threads", help="Threads of PyTorch and the kernels", metavar="INT", type=Whole(1),
              default=1, show_default=True)
def main(batch: int, channels: int, resolution: int, rounds: int, threads: int) -> None:
    """Time every operation in turns, compiled and reference.

    \b
    Examples:
    python -m benchmarks.ops
    python -m benchmarks.ops --batch=2 --channels=8 --resolution=8 --rounds=1
    """
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    tune_cpu()
    if not compiled.supports(torch.zeros(1)):
        raise click.ClickException("No compiled operations to measure; the warning above says why")
    todo = list(cases(batch, channels, resolution))
    records = [run_case(*case, rounds) for case in progress(todo, len(todo), "Cases")]
    print(table(records), file=sys.stderr)
    print(json.dumps(dict(records=records, threads=threads, rounds=rounds, clock="CPU" if threads == 1 else "wall",
                          **provenance("benchmarks.ops")), indent=2))


if __name__ == "__main__":
    main()
