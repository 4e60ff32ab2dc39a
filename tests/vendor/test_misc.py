"""Tests of torch_utils.misc: constants, shape checks, samplers, parameter copies and the summary table.

The consistency check between processes is tested with gloo in test_training_stats.
"""

import itertools
import warnings

import numpy as np
import pytest
import torch
from torch_utils import misc


def test_constant_is_built_once_per_key() -> None:
    a = misc.constant([1, 2], shape=[3, 2])
    assert a is misc.constant(np.array([1, 2]), shape=(3, 2))
    assert a is not misc.constant([1, 2], shape=[3, 2], dtype=torch.float64)
    assert a is not misc.constant([1.0, 2.0], shape=[3, 2])
    assert a.tolist() == [[1, 2]] * 3 and a.dtype == torch.float32 and a.is_contiguous()


def test_constant_follows_the_memory_format() -> None:
    x = misc.constant(0.5, shape=[2, 3, 4, 5], memory_format=torch.channels_last)
    assert x.is_contiguous(memory_format=torch.channels_last) and bool((x == 0.5).all())


def test_constant_made_in_inference_mode_works_in_backward_passes() -> None:
    with torch.inference_mode():
        c = misc.constant([7.25, 3.5])
    x = torch.ones(2, requires_grad=True)
    (x * c).sum().backward()
    assert x.grad.tolist() == [7.25, 3.5]


def test_constant_is_a_copy_of_what_it_was_given() -> None:
    values = np.array([[1.5, 2.5]])
    first = misc.constant(values, shape=[2, 2])
    values[:] = 0
    assert first.tolist() == [[1.5, 2.5]] * 2
    assert misc.constant(values, shape=[2, 2]).tolist() == [[0, 0]] * 2
    assert misc.constant(True, dtype=torch.bool).item() is True and misc.constant([]).shape == (0,)


@pytest.mark.parametrize("ref", [[2, 3], [None, 3], [None, None]])
def test_assert_shape_accepts(ref) -> None:
    misc.assert_shape(torch.zeros(2, 3), ref)


@pytest.mark.parametrize("ref", [[2], [2, 3, 1], [2, 4], [None, 2], []])
def test_assert_shape_refuses(ref) -> None:
    with pytest.raises(AssertionError, match=r"\[2, 3\]"):
        misc.assert_shape(torch.zeros(2, 3), ref)


def test_suppress_tracer_warnings_silences_these_only() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with misc.suppress_tracer_warnings():
            warnings.warn("constant", torch.jit.TracerWarning, stacklevel=1)
            warnings.warn("other", UserWarning, stacklevel=1)
    assert [str(w.message) for w in caught] == ["other"]


def test_profiled_function_keeps_name_and_result() -> None:
    @misc.profiled_function
    def twice(x, factor=2):
        return x * factor

    assert twice.__name__ == "twice"
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        assert twice(3, factor=4) == 12
    assert "twice" in {event.key for event in profile.key_averages()}


def test_profiled_function_may_call_itself() -> None:
    @misc.profiled_function
    def factorial(n):
        return 1 if n == 0 else n * factorial(n - 1)

    assert factorial(4) == 24


def _take(count: int, **kwargs) -> list[int]:
    return list(itertools.islice(misc.InfiniteSampler(range(6), **kwargs), count))


def test_infinite_sampler_gives_the_known_sequence() -> None:
    assert _take(14) == [5, 2, 1, 3, 0, 2, 4, 3, 1, 5, 0, 3, 4, 5]


def test_infinite_sampler_deals_the_sequence_out_to_replicas() -> None:
    whole = _take(30)
    for rank in range(3):
        assert _take(10, rank=rank, num_replicas=3) == whole[rank::3]


@pytest.mark.parametrize("kwargs", [{"shuffle": False}, {"window_size": 0}])
def test_infinite_sampler_without_a_window_repeats_one_order(kwargs) -> None:
    indices = _take(18, **kwargs)
    assert indices[:6] == indices[6:12] == indices[12:] and sorted(indices[:6]) == list(range(6))
    assert (indices[:6] == list(range(6))) == ("shuffle" in kwargs)


def test_infinite_sampler_feeds_a_data_loader() -> None:
    loader = torch.utils.data.DataLoader(list(range(6)), sampler=misc.InfiniteSampler(range(6)), batch_size=4)
    assert next(iter(loader)).tolist() == [5, 2, 1, 3]


@pytest.mark.parametrize(
    ("name", "value"), [("dataset", []), ("num_replicas", 0), ("rank", 1), ("rank", -1), ("window_size", 1.5)]
)
def test_infinite_sampler_refuses(name: str, value) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        misc.InfiniteSampler(**{"dataset": range(6), name: value})


def test_params_come_before_buffers() -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
    names = [name for name, _tensor in misc.named_params_and_buffers(net)]
    assert names == ["0.weight", "0.bias", "1.weight", "1.bias", "0.running_mean", "0.running_var",
                     "0.num_batches_tracked"]  # fmt: skip
    assert [id(t) for t in misc.params_and_buffers(net)] == [id(t) for _n, t in misc.named_params_and_buffers(net)]


def test_copy_params_and_buffers_copies_common_names_in_place() -> None:
    src = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    dst = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    src[1].running_mean.fill_(3)
    dst[0].requires_grad_(False)
    kept, weight = dst[2].weight.clone(), dst[0].weight
    misc.copy_params_and_buffers(src, dst)
    assert dst[0].weight is weight and torch.equal(weight, src[0].weight)
    assert dst[1].running_mean.tolist() == [3, 3] and torch.equal(dst[2].weight, kept)
    assert not dst[0].weight.requires_grad and dst[1].weight.requires_grad
    with pytest.raises(AssertionError, match=r"2\.weight"):
        misc.copy_params_and_buffers(src, dst, require_all=True)


def test_copy_params_and_buffers_never_broadcasts() -> None:
    with pytest.raises(ValueError, match="`weight`"):
        misc.copy_params_and_buffers(torch.nn.Linear(1, 4), torch.nn.Linear(3, 4))


def test_ddp_sync_leaves_other_modules_alone() -> None:
    net = torch.nn.Linear(1, 1)
    with misc.ddp_sync(net, sync=False):
        net(torch.ones(1, 1)).sum().backward()
    assert net.weight.grad.item() == 1


class _Nested(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Identity())
        self.norm = torch.nn.BatchNorm1d(4)

    def forward(self, x, y):
        x = self.norm(self.body(x))
        return x, y


def test_print_module_summary_counts_each_tensor_once(capsys) -> None:
    net, y = _Nested(), torch.zeros(1)
    out = misc.print_module_summary(net, [torch.zeros(5, 3), y])
    assert out[0].shape == (5, 4) and out[1] is y
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    rows = {row[0]: row[1:3] for row in table}
    assert table[0][:3] == ["_Nested", "Parameters", "Buffers"]
    assert rows["body.0"] == ["16", "-"] and rows["norm"] == ["8", "9"] and rows["Total"] == ["24", "9"]
    assert "body.1" not in rows and "body" not in rows
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_print_module_summary_limits_the_depth(capsys) -> None:
    misc.print_module_summary(_Nested(), (torch.zeros(5, 3), torch.zeros(1)), max_nesting=1, skip_redundant=False)
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert names[2:] == ["body", "norm", "<top-level>", "<top-level>:1", "---", "Total"]


def test_print_module_summary_removes_its_hooks_after_an_error() -> None:
    net = _Nested()
    with pytest.raises(RuntimeError):
        misc.print_module_summary(net, [torch.zeros(5, 7), torch.zeros(1)])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    with pytest.raises(ValueError, match="`inputs`"):
        misc.print_module_summary(net, torch.zeros(5, 3))
