"""Tests of torch_utils.training_stats, alone and with two processes over gloo.

The two processes also run the consistency check and the gradient synchronisation of misc.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch_utils import misc, training_stats

from layered_plugin.training.launcher import leave_process


@pytest.fixture(autouse=True)
def _empty(monkeypatch) -> None:
    monkeypatch.setattr(training_stats, "_ledger", training_stats._Ledger())


def test_report_returns_its_value() -> None:
    value = torch.ones(2, requires_grad=True)
    assert training_stats.report("a", value) is value
    assert training_stats.report0("a", 3) == 3


def test_moments_match_numpy_over_several_reports() -> None:
    collector = training_stats.Collector()
    parts = [np.random.randn(4, 3), np.random.randn(7), np.array(2.5)]
    for part in parts:
        training_stats.report("x", torch.from_numpy(part))
    collector.update()
    values = np.concatenate([part.ravel() for part in parts])
    assert collector.num("x") == values.size
    assert collector.mean("x") == collector["x"] == pytest.approx(values.mean(), abs=1e-6)
    assert collector.std("x") == pytest.approx(values.std(), abs=1e-6)


def test_sums_are_kept_in_double_precision() -> None:
    collector = training_stats.Collector()
    training_stats.report("x", 2.0**24)
    for _index in range(4):
        training_stats.report("x", 1.0)
    collector.update()
    assert collector.mean("x") * 5 == 2.0**24 + 4


def test_values_pass_through_single_precision() -> None:
    collector = training_stats.Collector()
    training_stats.report("kimg", 0.16)
    collector.update()
    assert collector.mean("kimg") == float(np.float32(0.16)) != 0.16


def test_nothing_and_one_value_have_defined_statistics() -> None:
    collector = training_stats.Collector()
    training_stats.report("none", [])
    training_stats.report("one", 5.0)
    collector.update()
    assert collector.num("none") == 0 and math.isnan(collector.mean("none")) and math.isnan(collector.std("none"))
    assert (collector.num("one"), collector.mean("one"), collector.std("one")) == (1, 5.0, 0.0)


class _WithoutDoublePrecision(TorchDispatchMode):
    """Refuse float64 tensors, as MPS does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float64:
            raise TypeError(f"{func} on a device without float64")
        return out


def test_device_without_double_precision_can_report() -> None:
    collector = training_stats.Collector()
    value = torch.tensor([1.0, 2.0, 6.0])
    with _WithoutDoublePrecision():
        with pytest.raises(TypeError):
            value.double()
        training_stats.report("x", value)
        training_stats.report("x", value.half())
    collector.update()
    assert (collector.num("x"), collector.mean("x")) == (6, 3.0)


def test_reports_that_nobody_collects_do_not_pile_up() -> None:
    collector = training_stats.Collector()
    count = 2 * training_stats._MAX_UNREAD + 1
    for _index in range(count):
        training_stats.report("x", 2.0)
    (waiting,) = training_stats._ledger.accounts["x"]._unread.values()
    assert len(waiting) == 1
    collector.update()
    assert (collector.num("x"), collector.mean("x")) == (count, 2.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_give_an_undefined_deviation(bad: float) -> None:
    collector = training_stats.Collector()
    training_stats.report("x", [1.0, bad])
    collector.update()
    assert math.isnan(collector.std("x")) and not math.isfinite(collector.mean("x"))


@pytest.mark.parametrize(("keep", "expected"), [(True, 2.0), (False, math.nan)])
def test_update_gives_the_delta_and_may_keep_the_previous(keep: bool, expected: float) -> None:
    collector = training_stats.Collector(keep_previous=keep)
    training_stats.report("x", 1.0)
    collector.update()
    training_stats.report("x", 2.0)
    collector.update()
    assert collector.mean("x") == 2.0 and collector.num("x") == 1
    collector.update()
    assert collector.mean("x") == pytest.approx(expected, nan_ok=True)


def test_collectors_do_not_take_values_from_each_other() -> None:
    training_stats.report("x", 100.0)
    first = training_stats.Collector()
    training_stats.report("x", 1.0)
    second = training_stats.Collector("x")
    training_stats.report("x", 3.0)
    first.update()
    second.update()
    assert (first.num("x"), first.mean("x")) == (2, 2.0)
    assert (second.num("x"), second.mean("x")) == (1, 3.0)


def test_names_match_completely_in_order_of_report() -> None:
    for name in ("b/x", "a/x", "a/xy"):
        training_stats.report(name, 1)
    collector = training_stats.Collector("./x")
    assert collector.names() == ["b/x", "a/x"]
    with pytest.raises(ValueError, match="a/xy"):
        collector.mean("a/xy")
    collector = training_stats.Collector()
    training_stats.report("a/x", 4)
    collector.update()
    found = collector.as_dict()
    assert list(found) == ["b/x", "a/x", "a/xy"] and found["a/x"] == {"num": 1, "mean": 4.0, "std": 0.0}
    assert found["a/x"].mean == 4.0


def test_report0_counts_on_rank_0_only() -> None:
    training_stats.init_multiprocessing(rank=1, sync_device=None)
    collector = training_stats.Collector()
    training_stats.report0("x", 1.0)
    collector.update()
    assert collector.names() == ["x"] and collector.num("x") == 0


def test_init_multiprocessing_must_come_first() -> None:
    training_stats.init_multiprocessing(rank=0, sync_device=None)
    training_stats.Collector()
    training_stats.init_multiprocessing(rank=0, sync_device=None)
    with pytest.raises(RuntimeError, match="before"):
        training_stats.init_multiprocessing(rank=1, sync_device=None)


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    training_stats.init_multiprocessing(rank=rank, sync_device=torch.device("cpu"))
    collector = training_stats.Collector()
    training_stats.report("x", torch.tensor([1.0, 2.0]) if rank == 0 else 6.0)
    training_stats.report0("first", 10.0 + rank)
    collector.update()
    stats = {name: (collector.num(name), collector.mean(name), collector.std(name)) for name in collector.names()}

    net = torch.nn.BatchNorm1d(2)
    net.running_mean[0] = math.nan
    misc.check_ddp_consistency(net)
    net.running_var.fill_(1 + rank)
    misc.check_ddp_consistency(net, ignore_regex=r".*\.running_var")
    try:
        misc.check_ddp_consistency(net)
        error = ""
    except AssertionError as raised:
        error = str(raised)

    ddp = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1, bias=False))
    grads = []
    for sync in (False, True):
        ddp.zero_grad(set_to_none=True)
        with misc.ddp_sync(ddp, sync):
            ddp(torch.full([1, 1], 1.0 + 2 * rank)).sum().backward()
        grads.append(ddp.module.weight.grad.item())
    torch.save({"stats": stats, "error": error, "grads": grads}, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
    leave_process(0)


def test_two_processes_share_statistics_and_are_compared(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for result in results:
        assert result["stats"]["x"] == (3, 3.0, pytest.approx(np.std([1, 2, 6])))
        assert result["stats"]["first"] == (1, 10.0, 0.0)
    assert results[0]["error"] == "" and "BatchNorm1d.running_var" in results[1]["error"]
    assert [result["grads"] for result in results] == [[1.0, 2.0], [3.0, 2.0]]
