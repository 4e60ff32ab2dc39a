"""Metrics of snapshots on the bundled base: upstream's files, torch-fidelity's numbers, a training left as it was."""

import json

import pytest
import torch
from test_loop import config, weights
from tiny_models import write_inception

from layered_plugin.data.dataset import PictureDataset
from layered_plugin.errors import FidelityError, PictureError
from layered_plugin.model.fidelity import Fidelity
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.training import metrics
from layered_plugin.training.loop import training_loop

NAMES = ["fid50k_full", "kid50k_full", "fid2k_full"]


class StandIn:
    """In the place of Fidelity; draws random numbers, as torch-fidelity's data loader does."""

    calls: list[tuple] = []

    def __init__(self, weights_file, device="cpu"):
        self.weights_file = weights_file

    def __call__(self, G_ema, real, num, seed, labels):
        torch.rand(3)
        shape = real[0][0].shape
        self.calls.append((self.weights_file, G_ema.img_resolution, len(real), shape, num, seed, labels.c_dim))
        return dict(fid=num / 10, kid=0.5)


def records(run, name):
    return [json.loads(line) for line in (run / f"metric-{name}.jsonl").read_text().splitlines()]


def test_each_snapshot_has_a_line_in_upstreams_files(data, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "Fidelity", StandIn)
    monkeypatch.setattr(StandIn, "calls", [])
    run = tmp_path / "run"
    training_loop(**config(data, run, metrics=NAMES, fid_weights="inception.pth", network_snapshot_ticks=9))
    assert StandIn.calls == [("inception.pth", 16, 24, (3, 16, 16), num, 3, 0) for num in (2000, 50000)] * 2
    for name, value in zip(NAMES, (5000, 0.5, 200), strict=True):
        for record in records(run, name):
            assert set(record) == {"results", "metric", "total_time", "total_time_str", "num_gpus", "snapshot_pkl",
                                   "timestamp"}
            assert (record["results"], record["metric"], record["num_gpus"]) == ({name: value}, name, 1)
            assert (run / record["snapshot_pkl"]).is_file()
        assert len(records(run, name)) == 2
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [line.get("Metrics/fid2k_full", {}).get("mean") for line in lines] == [200, None, 200]

    # What is learnt is the same without them.
    training_loop(**config(data, tmp_path / "other", network_snapshot_ticks=9))
    expected = weights(tmp_path / "other", 0)
    for name, value in weights(run, 0).items():
        assert torch.equal(value, expected[name]), name


def test_numbers_are_torch_fidelitys(data, tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity", reason="optional extra `fid`")
    file = write_inception(tmp_path / "inception.pth")

    class Few(Fidelity):
        """Of eight scenes, by the first features of Inception."""

        def __init__(self, weights_file, device="cpu"):
            super().__init__(weights_file, "64", device)

        def __call__(self, G_ema, real, num, seed, **kwargs):
            assert num == 50_000
            return super().__call__(G_ema, real, 8, seed, **kwargs)

    monkeypatch.setattr(metrics, "Fidelity", Few)
    run = tmp_path / "run"
    training_loop(**config(data, run, metrics=NAMES[:2], fid_weights=str(file), total_kimg=0.008, D_reg_interval=None))
    (fid,), (kid,) = (records(run, name) for name in NAMES[:2])
    G_ema = load_snapshot(run)["G_ema"]
    expected = Fidelity(file, "64")(G_ema, PictureDataset(data, 18, 16), num=8, seed=3)
    assert fid["results"]["fid50k_full"] == pytest.approx(expected["fid"], rel=1e-3) and expected["fid"] > 0
    assert kid["results"]["kid50k_full"] == pytest.approx(expected["kid"], rel=1e-3)


def test_pictures_that_can_not_be_read_for_metrics_end_the_run_with_its_snapshot(data, tmp_path, monkeypatch):
    calls = []

    class Broken(StandIn):
        def __call__(self, *_args, **_kwargs):
            calls.append(1)
            raise PictureError("shapes.zip: a.png: damaged")

    monkeypatch.setattr(metrics, "Fidelity", Broken)
    with pytest.raises(FidelityError, match="`metrics`: shapes.zip: a.png: damaged"):
        training_loop(**config(data, tmp_path / "run", metrics=["fid2k_full"]))
    assert calls == [1] and list((tmp_path / "run").glob("network-snapshot-*.pkl"))


def test_a_line_torn_by_a_kill_is_replaced(data, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "Fidelity", StandIn)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metric-fid2k_full.jsonl").write_text('{"results": {}}\n{"resul')
    training_loop(**config(data, tmp_path / "run", metrics=["fid2k_full"], total_kimg=0.008))
    assert [record["results"] for record in records(tmp_path / "run", "fid2k_full")] == [{}, {"fid2k_full": 200}]
