"""The ablation study: its settings, its table and figure, and the command, interrupted and gone on with."""

import csv
import json
import signal

import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from command_examples import check_options
from shell import COPIES, call_and_stop
from tiny_models import make_gan_run

import train_layered
from benchmarks import ablation
from benchmarks.support import shell
from benchmarks.support.ablation_output import GAP_PX, PAPER, SCENES, csv_text, draw_figure, markdown, table_rows
from layered_plugin.evaluation.judge import save_judge
from layered_plugin.grids import GAP_PX as ROW_GAP_PX
from layered_plugin.grids import NAMES_PX
from layered_plugin.model.unet import make_unet
from layered_plugin.synthetic.shapes import write_shapes

RECORD = dict(num=2000, data="d.zip", kimg=20.0, base="paper-losses", weights=dict(border=0, size=2),
              command="python x")
TINY = ["--resolution=16", "--cbase=64", "--cmax=4", "--w-dim=8", "--batch=8", "--tick=0.1", "--snap=10",
        "--device=cpu", "--precision=fp32"]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A judge that sees object everywhere."""
    unet = make_unet((4, 4, 4))
    torch.nn.init.zeros_(unet.out.weight)
    torch.nn.init.ones_(unet.out.bias)
    path = tmp_path_factory.mktemp("judge") / "judge.pt"
    save_judge(unet, path, 16)
    return path


@pytest.fixture(scope="module")
def masks(data):
    """True masks of the pictures of `data`."""
    path = data.with_name("masks.zip")
    write_shapes(dict(mask=str(path)), 24, 18, 0)
    return path


def result(setting, seed, iou, reference=0.25, detected=1990, network="n.pkl", coverage=0.7):
    return dict(setting=setting, train_seed=seed, mean_iou_detected=iou, reference_iou=reference, detected=detected,
                network=str(network), shapes=dict(coverage=coverage, variation=0.2))


@pytest.mark.parametrize("base, border, center, size", [("demo", 1, 10, 10), ("paper-losses", 0, 0, 2)])
@pytest.mark.parametrize("setting, changed", [
    ("a", {}), ("b", dict(shift=0)), ("c", dict(shift=0.25)), ("d", dict(bg_jitter=0.3)), ("e", dict(size_px=16)),
    ("f", dict(mask_size_weight=5)), ("g", dict(generator="single"))])
def test_settings_are_the_papers(data, base, border, center, size, setting, changed):
    args = ["--outdir=out", f"--data={data}", "--cfg=demo", "-n", "--resolution=16", "--device=cpu",
            *ablation.train_options(base, setting)]
    config = json.loads(CliRunner().invoke(train_layered.main, args).stdout)
    expected = dict(shift=0.125, bg_jitter=0, size_px=18, generator="separate", mask_size_weight=1) | changed
    loss = config["loss_kwargs"]
    found = {key: loss[key] for key in ("shift", "bg_jitter", "mask_size_weight")}
    assert dict(found, size_px=config["training_set_kwargs"]["size_px"], generator=config["G_kwargs"]["generator"]) == (
        expected | dict(mask_size_weight=expected["mask_size_weight"] * size))
    assert (loss["mask_border_weight"], loss["mask_center_weight"]) == (border, center)
    assert loss["mask_binary_weight"] == 2


def test_table_has_mean_and_deviation_over_seeds():
    rows = table_rows([result("a", 0, 0.5, 0.2, 1000), result("a", 1, 0.8, 0.4, 2000, coverage=0.9),
                       result("a", 2, 0.2, 0.3, 1500), result("b", 0, 0.1, 0.3, 1999)])
    assert [row["setting"] for row in rows] == ["a", "b"] and rows[0]["seeds"] == [0, 1, 2]
    assert rows[0]["mean_iou"] == pytest.approx(dict(mean=0.5, deviation=0.06**0.5))
    assert rows[0]["reference_iou"] == pytest.approx(dict(mean=0.3, deviation=(0.02 / 3) ** 0.5))
    assert rows[0]["detected"] == pytest.approx(dict(mean=1500, deviation=(500000 / 3) ** 0.5))
    assert rows[0]["coverage"] == pytest.approx(dict(mean=2.3 / 3, deviation=0.02**0.5 * 2 / 3))
    assert rows[0]["shown"] == 0 and rows[0]["paper"]["mean_iou"] == 0.685
    text = markdown(rows, RECORD)
    assert ("| (a) defaults | 0, 1, 2 | 0.500 +- 0.245 | 0.500, 0.800, 0.200 | 0.767 +- 0.094 | 0.20 +- 0.00 "
            "| 0.300 +- 0.082 | 1500 +- 408 | 0.685 |" in text)
    assert "| (b) no shift | 0 | 0.100 | 0.100 | 0.700 | 0.20 | 0.300 | 1999 | 0.039 |" in text
    assert "gamma_1 = 2 ((f): 10)" in text and "python x" in text and "of 2,000" in text


def test_seeds_without_detections_have_no_iou():
    rows = table_rows([result("c", 0, None, None, 0), result("c", 1, 0.6, 0.3, 100), result("e", 0, None, None, 0)])
    assert rows[0]["mean_iou"] == dict(mean=0.6, deviation=0) and rows[0]["detected"]["mean"] == 50
    assert rows[1]["mean_iou"] is None and rows[1]["shown"] == 0
    assert "| (c) 25 % shift | 0, 1 | 0.600 +- 0.000 | -, 0.600 |" in markdown(rows, RECORD)
    assert "| (e) no random crops | 0 | - | - | 0.700 | 0.20 | - | 0 | 0.264 |" in markdown(rows, RECORD)
    first, last = csv.DictReader(csv_text(rows).splitlines())
    assert first["mean_iou"] == "0.6" and first["seeds"] == "2" and first["paper_detected"] == "6493"
    assert last["mean_iou"] == last["reference_iou_deviation"] == "" and last["detected"] == "0.0"


def test_settings_are_taken_in_the_papers_order():
    assert ablation.check_settings("gba") == "abg"


def test_the_papers_order():
    assert "".join(sorted(PAPER, key=lambda letter: -PAPER[letter].mean_iou)) == "dfagecb"


def test_figure_shows_composites_masks_and_the_judges(tmp_path, judge):
    results = [result(letter, 0, 0.5, network=make_gan_run(tmp_path / letter, seed)) for seed, letter in
               enumerate("abg")]
    figure = draw_figure(table_rows(results), results, str(judge))
    block = 3 * (64 + ROW_GAP_PX) - ROW_GAP_PX
    assert figure.size == (NAMES_PX + SCENES * 64, 3 * block + 2 * GAP_PX)
    last = 2 * (block + GAP_PX)
    judged = figure.crop((NAMES_PX, last + 2 * (64 + ROW_GAP_PX), *figure.size))
    assert judged.getextrema() == ((255, 255),) * 3  # It sees object everywhere.
    first, second = (figure.crop((NAMES_PX, top, figure.width, top + 64)) for top in (0, block + GAP_PX))
    assert first.tobytes() != second.tobytes()


def test_help_explains_every_option():
    shown = CliRunner().invoke(ablation.main, ["--help"])
    assert shown.exit_code == 0
    check_options(ablation.main, shown.output)
    assert ("--settings, --seeds and --jobs may change; for any other option choose another --outdir"
            in " ".join(shown.output.split()))


@pytest.mark.parametrize("option, text", [
    ("--settings=abx", "--settings must be letters from abcdefg, got 'abx'"), ("--settings=", "--settings must be"),
    ("--option=--shift=0.1", "--shift is set by the study"), ("--option=cbase", "must look like --NAME=VALUE"),
    ("--base=none", "'--base'"), ("--seeds=0", "'--seeds'")])
def test_wrong_options_are_named(option, text):
    outcome = CliRunner().invoke(ablation.main, ["--data=d.zip", "--masks=m.zip", "--judge=j.pt", option])
    assert outcome.exit_code == 2 and text in " ".join(outcome.output.split())


def test_interrupted_the_same_command_goes_on(tmp_path, data, masks, judge, monkeypatch):
    monkeypatch.setattr(shell, "subprocess", COPIES)
    out = tmp_path / "study"
    args = [f"--data={data}", f"--masks={masks}", f"--judge={judge}", "--settings=a", "--seeds=1", "--kimg=0.2",
            "--num=16", "--jobs=1", f"--outdir={out}", *(f"--option={option}" for option in TINY)]
    code, _output, said = call_and_stop(signal.SIGTERM, out / "a-seed0/*/training-state-*.pt", "-m",
                                        "benchmarks.ablation", *args)
    assert code == 128 + signal.SIGTERM and "the same command goes on" in said
    assert not (out / "table1.md").exists() and not (out / "a-seed0/result.json").exists()

    done = CliRunner().invoke(ablation.main, args)
    assert done.exit_code == 0, done.stderr
    [run_dir] = [path for path in (out / "a-seed0").iterdir() if path.is_dir()]
    commands = [line for line in (run_dir / "log.txt").read_text().splitlines() if line.startswith("Command:")]
    assert len(commands) == 2 and "--resume=" in commands[1]
    record = json.loads(done.stdout)
    assert [(row["setting"], row["detected"]["mean"]) for row in record["rows"]] == [("a", 16)]
    for run in record["results"]:  # The judge's masks are full.
        assert run["reference_iou"] == 1 and run["mean_iou_detected"] == pytest.approx(run["coverage"])
    assert json.loads((out / "table1.json").read_text()) == record
    assert (out / "table1.md").read_text() in done.stderr and (out / "table1.csv").read_text().startswith("setting,")
    with PIL.Image.open(out / "figure3.png") as figure:
        assert figure.width == NAMES_PX + SCENES * 64
    before = {path: path.stat().st_mtime_ns for path in out.glob("*-seed0/**/*")}
    again = CliRunner().invoke(ablation.main, args)
    assert again.exit_code == 0 and json.loads(again.stdout)["results"] == record["results"]
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*-seed0/**/*")}
