"""Reading of runs: what a resumed run did twice, which models are of a network."""

from pathlib import Path

import pytest
from fake_runs import lines, make_gan, make_model, tick

from layered_plugin.report import reading


def test_what_a_resumed_run_did_twice_counts_once(tmp_path):
    gan = make_gan(tmp_path / "00000-shapes")
    rows = [tick(0, 10), tick(1, 10), tick(2, 10), tick(1.5, 7), tick(2.5, 10)]
    (gan / "stats.jsonl").write_text(lines(rows))
    with (gan / "log.txt").open("a") as log:
        log.write("Command: python train_layered.py --outdir=runs --resume=latest\nWARNING: w\nWARNING: w\n")
    run = reading.read_gan_run(gan)
    assert [row["Progress/kimg"] for row in run.stats] == [0, 1, 1.5, 2.5]
    assert run.seconds == 20 + 17
    assert [command.split()[-1] for command in run.commands] == ["--cfg=demo", "--resume=latest"]
    assert run.warnings == ["w"]


@pytest.mark.parametrize("spent", [[10, 20, 5, 10], [5, 10, 20, 40], [10, 20, 20, 40]])
def test_training_time_is_of_all_starts_however_long_each_is(tmp_path, spent):
    first, second, third, fourth = spent
    gan = make_gan(tmp_path / "00000-shapes")
    totals = [first, first + second, third, third + fourth]  # The clock starts anew at the third tick.
    rows = [tick(kimg, seconds, maintenance=4, **{"Timing/total_sec": total})
            for kimg, (seconds, total) in enumerate(zip(spent, totals, strict=True))]
    (gan / "stats.jsonl").write_text(lines(rows))
    assert reading.read_gan_run(gan).seconds == sum(spent)


def test_models_are_found_by_their_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gan, other = make_gan(Path("runs/00000-a")), make_gan(Path("runs/00001-a"))
    make_model(Path("runs/00002-mine"), gan)
    make_model(Path("runs/00003-others"), other)
    make_model(Path("runs/00004-moved"), Path("elsewhere/00000-a"))
    make_model(Path("runs/00005-url"), "https://example.org/00000-a")
    assert reading.find_model_runs(gan) == [Path("runs/00002-mine"), Path("runs/00004-moved")]
    twin = make_gan(Path("twin/00000-a"))
    make_model(Path("runs/00006-twin"), twin)
    assert Path("runs/00006-twin") not in reading.find_model_runs(gan)


def test_damaged_neighbour_is_left_out_with_a_line(tmp_path, capsys):
    gan, sibling = make_gan(tmp_path / "00000-a"), make_gan(tmp_path / "00001-a")
    mine = make_model(tmp_path / "00002-mine", gan)
    (make_gan(tmp_path / "00003-torn") / "training_options.json").write_text("{")
    make_model(tmp_path / "00004-torn", gan).joinpath("model.json").write_text('{"options": ')
    assert reading.find_siblings(gan) == [sibling]
    assert reading.find_model_runs(gan) == [mine]
    torn = [tmp_path / "00003-torn/training_options.json", tmp_path / "00004-torn/model.json"]
    for line, path in zip(capsys.readouterr().err.splitlines(), torn, strict=True):
        assert line.startswith(f"WARNING: left out {path}: damaged")
