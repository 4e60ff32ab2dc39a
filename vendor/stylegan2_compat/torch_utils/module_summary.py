"""Table of the sub-modules of a network with parameter counts and output shapes.

Made by running the network once with hooks.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

_HEADER = ["", "Parameters", "Buffers", "Output shape", "Datatype"]


class _Call:
    """One call of a sub-module: the module and the tensors it returned."""

    def __init__(self, module: torch.nn.Module, outputs: list[torch.Tensor]) -> None:
        self.module = module
        self.outputs = outputs


@contextlib.contextmanager
def _recording(module: torch.nn.Module, max_nesting: int) -> Iterator[list[_Call]]:
    """Record the calls of all sub-modules at most max_nesting levels deep, inner calls before outer ones."""
    calls: list[_Call] = []
    depth = 0

    def enter(_mod: torch.nn.Module, _inputs: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(mod: torch.nn.Module, _inputs: Any, outputs: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth <= max_nesting:
            items = outputs if isinstance(outputs, tuple | list) else [outputs]
            calls.append(_Call(mod, [item for item in items if isinstance(item, torch.Tensor)]))

    handles = []
    try:
        for mod in module.modules():
            handles.append(mod.register_forward_pre_hook(enter))
            handles.append(mod.register_forward_hook(leave))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _rows(module: torch.nn.Module, calls: list[_Call], skip_redundant: bool) -> list[list[str]]:
    """Turn calls into table rows; each tensor is counted once, at the innermost module that has it."""
    names = {mod: name for name, mod in module.named_modules()}
    seen: set[int] = set()

    def fresh(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        new = [tensor for tensor in tensors if id(tensor) not in seen]
        seen.update(id(tensor) for tensor in new)
        return new

    rows, total_params, total_buffers = [], 0, 0
    for call in calls:
        num_params = sum(tensor.numel() for tensor in fresh(list(call.module.parameters())))
        num_buffers = sum(tensor.numel() for tensor in fresh(list(call.module.buffers())))
        new_outputs = fresh(call.outputs)
        total_params += num_params
        total_buffers += num_buffers
        if skip_redundant and not (num_params or num_buffers or new_outputs):
            continue
        name = names[call.module] or "<top-level>"
        outputs: Sequence[Any] = call.outputs or [None]
        for index, output in enumerate(outputs):
            first = index == 0
            rows.append([
                name if first else f"{name}:{index}",
                (str(num_params) if num_params else "-") if first else "-",
                (str(num_buffers) if num_buffers else "-") if first else "-",
                str(list(output.shape)) if output is not None else "-",
                str(output.dtype).removeprefix("torch.") if output is not None else "-",
            ])  # fmt: skip
    rows.append(["---"] * len(_HEADER))
    rows.append(["Total", str(total_params), str(total_buffers), "-", "-"])
    return rows


def print_module_summary(
    module: torch.nn.Module, inputs: Sequence[Any], max_nesting: int = 3, skip_redundant: bool = True
) -> Any:
    """Run a module once and print a table of its sub-modules.

    Args:
        module: Module to run, in its present mode.
        inputs: Positional arguments of its forward method.
        max_nesting: Deepest level of sub-modules to show; 0 = the module alone.
        skip_redundant: Leave out sub-modules that add no parameters, buffers or outputs of their own.

    Returns:
        What the module returned: a tensor, or a tuple or list.

    Raises:
        ValueError: If inputs is not a tuple or list.
    """
    if not isinstance(inputs, tuple | list):
        raise ValueError(f"Expected argument `inputs` to be a tuple or list, but got {type(inputs).__name__}")
    with _recording(module, max_nesting) as calls:
        outputs = module(*inputs)

    rows = [[type(module).__name__, *_HEADER[1:]], ["---"] * len(_HEADER), *_rows(module, calls, skip_redundant)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
    return outputs
