"""Snapshots: found, loaded frozen, and every file that is none named."""

import io
import json
import pickle
from pathlib import Path

import pytest
import torch
from training import networks as base

from layered_plugin.errors import CheckpointError
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.snapshots import find_snapshot, is_layered, load_snapshot, save_network_pkl

TINY = dict(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3, mapping_kwargs=dict(num_layers=1),
            synthesis_kwargs=dict(channel_base=64, channel_max=4))


def networks(seed=0):
    torch.manual_seed(seed)
    D = base.Discriminator(c_dim=0, img_resolution=16, img_channels=3, channel_base=64, channel_max=4)
    return dict(G=LayeredGenerator(**TINY), D=D, G_ema=LayeredGenerator(**TINY), augment_pipe=None,
                training_set_kwargs=dict(size_px=18))


@pytest.fixture
def run(tmp_path):
    """A run folder with two snapshots."""
    for seed, kimg in enumerate(["000012", "000100"]):
        save_network_pkl(tmp_path / f"network-snapshot-{kimg}.pkl", networks(seed))
    return tmp_path


@pytest.mark.parametrize("locate", [
    lambda run: run, str, lambda run: run / "network-snapshot-000100.pkl",
    lambda run: (run / "network-snapshot-000100.pkl").as_uri(),
])
def test_a_run_a_pickle_and_a_url_give_the_same_networks(run, locate):
    data = load_snapshot(locate(run))
    assert data["path"].endswith("network-snapshot-000100.pkl")
    assert data["training_set_kwargs"] == dict(size_px=18)
    z, expected = torch.randn(2, 8), networks(seed=1)
    assert torch.equal(data["G_ema"](z, None, noise_mode="const"), expected["G_ema"](z, None, noise_mode="const"))
    img = torch.randn(2, 3, 16, 16)
    assert torch.equal(data["D"](img, None), expected["D"](img, None))


def test_networks_are_frozen_and_in_evaluation_mode(run):
    data = load_snapshot(run)
    for name in ("G", "D", "G_ema"):
        assert not any(module.training for module in data[name].modules())
        assert not any(param.requires_grad for param in data[name].parameters())
        assert all(param.device.type == "cpu" for param in data[name].parameters())


def test_the_last_snapshot_is_that_of_the_largest_kimg(run):
    for kimg in ("999999", "1000000"):
        (run / f"network-snapshot-{kimg}.pkl").touch()
    assert find_snapshot(run) == str(run / "network-snapshot-1000000.pkl")


def test_pickles_of_other_names_are_no_snapshots_of_a_run(run):
    for name in ("best", "000100-copy", "12", "００００１２", "000007.old"):
        (run / f"network-snapshot-{name}.pkl").touch()
    assert find_snapshot(run) == find_snapshot(run, "best") == str(run / "network-snapshot-000100.pkl")
    assert find_snapshot(run, "12") == str(run / "network-snapshot-000012.pkl")
    for kimg in ("000012", "000100"):
        (run / f"network-snapshot-{kimg}.pkl").unlink()
    with pytest.raises(CheckpointError, match="holds no network-snapshot-KIMG.pkl"):
        find_snapshot(run)
    assert find_snapshot(run / "network-snapshot-best.pkl").endswith("best.pkl")


def test_files_and_urls_are_taken_as_they_are(run):
    assert find_snapshot("https://example.org/net.pkl") == "https://example.org/net.pkl"
    assert find_snapshot(run / "network-snapshot-000012.pkl", "best") == str(run / "network-snapshot-000012.pkl")


@pytest.mark.parametrize("name, words", [
    ("nowhere.pkl", "nowhere.pkl: no such file or run folder"),
    ("empty", "empty: holds no network-snapshot-KIMG.pkl.*train_layered.py"),
])
def test_what_is_not_there_is_named(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=words):
        load_snapshot(tmp_path / name)


def damaged_source():
    """A pickle whose embedded source is no Python any more."""
    return pickle.dumps(networks()).replace(b"def forward", b"def for ard")


@pytest.mark.parametrize("content", [
    b"", b"no pickle\n", b"\x89PNG\r\n\x1a\n" + bytes(64), pickle.dumps([1, 2]), pickle.dumps(dict(G_ema=1)),
    pickle.dumps(dict(G_ema=torch.nn.Linear(1, 1))), b"cnowhere\nThing\n.", b"\x80\xff.", damaged_source,
], ids=["empty", "text", "png", "list", "number", "no D", "unknown class", "protocol", "source"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "net.pkl").write_bytes(content() if callable(content) else content)
    with pytest.raises(CheckpointError, match="net.pkl: not a readable network snapshot"):
        load_snapshot(tmp_path / "net.pkl")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(run, part):
    path = run / "network-snapshot-000100.pkl"
    content = path.read_bytes()
    path.write_bytes(content[:int(part * len(content))])
    with pytest.raises(CheckpointError, match="network-snapshot-000100.pkl: not a readable network snapshot"):
        load_snapshot(run)


def test_a_plain_generator_is_refused(tmp_path):
    plain = base.Generator(**TINY)
    save_network_pkl(tmp_path / "net.pkl", dict(networks(), G=plain, G_ema=plain))
    with pytest.raises(CheckpointError, match="net.pkl: its generator draws no layers; train one with train_layered"):
        load_snapshot(tmp_path / "net.pkl")


@pytest.mark.parametrize("variant", [dict(), dict(generator="single"), dict(mapping="shared")])
def test_every_layered_generator_counts_also_out_of_a_pickle(variant):
    G = LayeredGenerator(**TINY, **variant)
    assert is_layered(G)
    assert is_layered(pickle.load(io.BytesIO(pickle.dumps(G))))
    assert not is_layered(base.Generator(**TINY))
    assert not is_layered(torch.nn.Linear(1, 1))


def test_snapshot_of_a_run_is_the_nearest_to_the_real_pictures_the_latest_or_that_of_a_kimg(tmp_path, capsys):
    run = tmp_path / "00000-run"
    run.mkdir()
    for kimg in (4, 8, 1000000):
        (run / f"network-snapshot-{kimg:06d}.pkl").touch()
    assert Path(find_snapshot(run, "best")).name == "network-snapshot-1000000.pkl"  # Nothing was measured.
    rows = [{"Progress/kimg": dict(mean=kimg), "Variety/frechet": dict(mean=distance)}
            for kimg, distance in [(2.1, 0.1), (4.032, 0.9), (8.064, 0.5), (1e6, 0.7)]]  # None was saved at 2.
    lines = [json.dumps(row) for row in [*rows, {"Progress/kimg": dict(mean=9)}]]
    (run / "stats.jsonl").write_text("\n".join([*lines, "{damaged"]))
    assert Path(find_snapshot(run, "best")).name == "network-snapshot-000008.pkl"
    assert "of 3 snapshots the nearest to the real pictures (Frechet distance 0.50)" in capsys.readouterr().err
    (run / "stats.jsonl").write_text(lines[2])
    find_snapshot(run, "best")
    assert "000008.pkl: the only snapshot compared with the real pictures (Frechet" in capsys.readouterr().err
    assert Path(find_snapshot(run)).name == "network-snapshot-1000000.pkl"
    assert Path(find_snapshot(run, "4")).name == "network-snapshot-000004.pkl"
    with pytest.raises(CheckpointError, match="no snapshot of kimg 5; those it has: 4, 8, 1000000"):
        find_snapshot(run, "5")


def test_snapshots_of_a_growing_run_are_compared_at_its_largest_resolution(tmp_path, capsys):
    rows = []
    for kimg, side, distance in [(4, 8, 0.1), (8, 16, 0.2), (12, 32, 0.9), (16, 32, 0.5)]:
        (tmp_path / f"network-snapshot-{kimg:06d}.pkl").touch()
        rows.append(json.dumps({"Progress/kimg": dict(mean=kimg), "Progress/resolution": dict(mean=side),
                                "Variety/frechet": dict(mean=distance)}))
    (tmp_path / "stats.jsonl").write_text("\n".join(rows))
    assert Path(find_snapshot(tmp_path, "best")).name == "network-snapshot-000016.pkl"
    assert "of 2 snapshots the nearest" in capsys.readouterr().err


@pytest.mark.parametrize("line", [
    b"\xff", b"[" * 200_000, b"{damaged", b"[]", b"NaN",
    *(b'{"Progress/kimg": {"mean": %s}, "Variety/frechet": {"mean": %s}}' % pair for pair in (
        (b"Infinity", b"0"), (b"1e400", b"0"), (b"4", b"1e400"), (b"4", b"NaN"), (b"4", b"-1"), (b'"4"', b"0"))),
    b'{"Progress/kimg": 4, "Variety/frechet": {"mean": 0}}', b'{"Variety/frechet": {"mean": 0}}',
], ids=lambda line: line[:70].decode(errors="replace"))
def test_damaged_lines_of_statistics_count_as_not_measured_and_are_named(tmp_path, capsys, line):
    for kimg in (4, 8):
        (tmp_path / f"network-snapshot-{kimg:06d}.pkl").touch()
    good = [json.dumps({"Progress/kimg": dict(mean=kimg), "Variety/frechet": dict(mean=kimg)}) for kimg in (4, 8)]
    (tmp_path / "stats.jsonl").write_bytes(b"\n".join([good[0].encode(), line, good[1].encode(), b""]))
    assert Path(find_snapshot(tmp_path, "best")).name == "network-snapshot-000004.pkl"
    note, said = capsys.readouterr().err.splitlines()
    assert note.startswith(f"NOTE: {tmp_path / 'stats.jsonl'}: line 2: damaged: ") and len(note) < 450
    assert "1 in all, count as not measured" in note and "of 2 snapshots" in said
