"""Tensor, module and sampler helpers of the training code.

Shape checks, constants, parameter copies and multi-GPU consistency; the summary table is in `module_summary.py`.
"""

import contextlib
import functools
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch_utils.module_summary import print_module_summary

__all__ = [
    "InfiniteSampler", "assert_shape", "check_ddp_consistency", "constant", "copy_params_and_buffers", "ddp_sync",
    "named_params_and_buffers", "nan_to_num", "params_and_buffers", "print_module_summary", "profiled_function",
    "suppress_tracer_warnings", "symbolic_assert",
]  # fmt: skip

nan_to_num = torch.nan_to_num
symbolic_assert = torch._assert


def constant(
    value: Any,
    shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """Return a constant as a tensor, building it only at the first call with the same arguments.

    Args:
        value: Number, nested list or array.
        shape: Shape to which the value is broadcast, None = its own.
        dtype: None = torch's default.
        device: None = CPU.
        memory_format: None = contiguous.

    Returns:
        A tensor shared by all callers: never change it in place.
    """
    array = np.asarray(value)
    target = array.shape if shape is None else tuple(shape)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    device = torch.device("cpu" if device is None else device)
    layout = torch.contiguous_format if memory_format is None else memory_format
    return _built_constant(array.tobytes(), array.dtype, array.shape, target, dtype, device, layout)


@functools.cache
def _built_constant(
    data: bytes,
    data_dtype: np.dtype,
    data_shape: tuple[int, ...],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    memory_format: torch.memory_format,
) -> torch.Tensor:
    """The tensor that `constant` returns; the arguments are its key."""
    array = np.frombuffer(data, dtype=data_dtype).reshape(data_shape).copy()
    # An inference tensor in the cache would break every later backward pass.
    with torch.inference_mode(False):
        # Converted before it travels: not every device has the double precision of NumPy's numbers.
        tensor = torch.from_numpy(array).to(dtype).to(device)
        return tensor.broadcast_to(shape).contiguous(memory_format=memory_format)


@contextlib.contextmanager
def suppress_tracer_warnings() -> Iterator[None]:
    """Silence the warnings of torch.jit.trace about values that become constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=torch.jit.TracerWarning)
        yield


def assert_shape(tensor: torch.Tensor, ref_shape: Sequence[int | None]) -> None:
    """Check the shape of a tensor.

    Args:
        tensor: Tensor of any shape.
        ref_shape: Expected size of each dimension, None = any.

    Raises:
        AssertionError: If the number of dimensions or a size differs.
    """
    if torch.jit.is_tracing():
        # Sizes are traced tensors here; comparing them warns although the check itself is meant to be constant.
        with suppress_tracer_warnings():
            sizes = [int(size) for size in tensor.shape]
    else:
        sizes = list(tensor.shape)
    matches = len(sizes) == len(ref_shape) and all(r is None or s == r for s, r in zip(sizes, ref_shape, strict=True))
    if not matches:
        raise AssertionError(f"Expected a tensor of shape {list(ref_shape)}, but got {sizes}")


@contextlib.contextmanager
def _profile_range(name: str) -> Iterator[None]:
    with torch.autograd.profiler.record_function(name):
        yield


def profiled_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function so that profiles show its calls as a range of its name."""
    return _profile_range(fn.__name__)(fn)


class InfiniteSampler(torch.utils.data.Sampler[int]):
    """Endless sequence of dataset indices, shuffled within a sliding window and dealt out to the replicas.

    All replicas run the same random stream and keep every num_replicas-th index. The constructor does not pass the
    dataset on: torch's Sampler takes no arguments any more.

    Args:
        dataset: Anything with a length.
        rank: Index of this replica.
        num_replicas: Number of replicas.
        shuffle: False = the order of the dataset, over and over.
        seed: Seed of numpy.random.RandomState.
        window_size: Share of the dataset over which an index that was just used is exchanged, in [0, 1].

    Raises:
        ValueError: If the dataset is empty or another argument is out of its range.
    """

    def __init__(
        self,
        dataset: Sized,
        rank: int = 0,
        num_replicas: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        window_size: float = 0.5,
    ) -> None:
        if len(dataset) < 1:
            raise ValueError("Expected argument `dataset` to be non-empty, but got length 0")
        if num_replicas < 1:
            raise ValueError(f"Expected argument `num_replicas` to be at least 1, but got {num_replicas}")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"Expected argument `rank` to be in [0, {num_replicas}), but got {rank}")
        if not 0 <= window_size <= 1:
            raise ValueError(f"Expected argument `window_size` to be in [0, 1], but got {window_size}")
        super().__init__()
        self.dataset, self.window_size = dataset, window_size
        self.shuffle, self.seed = shuffle, seed
        self.rank, self.num_replicas = rank, num_replicas

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._sequence(), self.rank, None, self.num_replicas)

    def _sequence(self) -> Iterator[int]:
        """What all replicas together see."""
        size = len(self.dataset)
        order = np.arange(size)
        random = np.random.RandomState(self.seed)
        window = 0
        if self.shuffle:
            random.shuffle(order)
            window = round(size * self.window_size)
        for step in itertools.count():
            last = step % size
            yield int(order[last])
            if window > 1:
                # A used index changes places with one of those used just before it.
                earlier = (last - random.randint(window)) % size
                order[[last, earlier]] = order[[earlier, last]]


def params_and_buffers(module: torch.nn.Module) -> list[torch.Tensor]:
    """List the parameters of a module, then its buffers."""
    return [*module.parameters(), *module.buffers()]


def named_params_and_buffers(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """List (name, tensor) of the parameters of a module, then of its buffers."""
    return [*module.named_parameters(), *module.named_buffers()]


@torch.no_grad()
def copy_params_and_buffers(
    src_module: torch.nn.Module, dst_module: torch.nn.Module, require_all: bool = False
) -> None:
    """Copy parameters and buffers in place between modules, for the names that both have.

    Whether a parameter requires gradients stays as it is in dst_module.

    Args:
        src_module: Module to read.
        dst_module: Module to change.
        require_all: Every tensor of dst_module must exist in src_module.

    Raises:
        AssertionError: If require_all is set and a tensor is missing.
        ValueError: If the shapes of two tensors of the same name differ. Copying would broadcast some of them silently.
    """
    sources = dict(named_params_and_buffers(src_module))
    for name, tensor in named_params_and_buffers(dst_module):
        if name not in sources:
            if require_all:
                raise AssertionError(f"{type(src_module).__name__} has no parameter or buffer named {name}")
            continue
        if sources[name].shape != tensor.shape:
            raise ValueError(
                f"Expected `{name}` to have the same shape in both modules, but got {list(sources[name].shape)} "
                f"in the source and {list(tensor.shape)} in the destination"
            )
        tensor.copy_(sources[name])


@contextlib.contextmanager
def ddp_sync(module: torch.nn.Module, sync: bool) -> Iterator[None]:
    """Leave out the gradient exchange of a DistributedDataParallel module unless sync; other modules are unaffected."""
    if isinstance(module, torch.nn.parallel.DistributedDataParallel) and not sync:
        with module.no_sync():
            yield
    else:
        yield


def check_ddp_consistency(module: torch.nn.Module, ignore_regex: str | None = None) -> None:
    """Check that parameters and buffers equal those of rank 0; a collective call for all ranks.

    Args:
        module: Module with the same structure on every rank.
        ignore_regex: Tensors whose `<ClassName>.<tensor name>` matches completely are left out, None = check all.

    Raises:
        AssertionError: On each rank with different values, naming the tensors; NaN counts as 0.
    """
    different = []
    for name, tensor in named_params_and_buffers(module):
        full_name = f"{type(module).__name__}.{name}"
        if ignore_regex is not None and re.fullmatch(ignore_regex, full_name):
            continue
        tensor = tensor.detach()
        tensor = (nan_to_num(tensor) if tensor.is_floating_point() else tensor).contiguous()
        reference = tensor.clone()
        torch.distributed.broadcast(tensor=reference, src=0)
        if not torch.equal(reference, tensor):
            different.append(full_name)
    # Raised after the loop: a rank that leaves early would let the others wait for it.
    if different:
        raise AssertionError(f"Values differ from rank 0: {', '.join(different)}")
