"""The report: every number from the records, all text escaped, gaps and damage named, nothing loaded from outside."""

import inspect
import json
import math
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_runs import (
    Page,
    generated_record,
    lines,
    make_gan,
    make_model,
    make_runs,
    real_record,
    save_picture,
    scores,
    tick,
)

import eval as eval_script
from layered_plugin.report import charts, figures
from layered_plugin.report import page as report_page

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
                None)


@pytest.fixture(autouse=True)
def _quick(request, monkeypatch):
    """Draw no charts where a test does not look at them."""
    if "whole" not in request.fixturenames:
        monkeypatch.setattr(figures, "line_chart", lambda title, *_args: charts.Chart("data:,", "data:,", title))


@pytest.fixture
def runs(tmp_path):
    return make_runs(tmp_path)


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def whole(whole_runs):
    """The report of all that there can be; for tests that change nothing."""
    return Page(report_page.write_report(whole_runs / "00000-shapes", segmented=whole_runs / "segmented"))


def invoke(*args):
    return CliRunner().invoke(eval_script.main, ["report", *map(str, args)])


def table_rows(page):
    """First cells and scores, with what is marked as best in stars, of all rows of all tables."""
    found = []
    for row in re.findall(r"<tr>(.*?)</tr>", page.text, re.S):
        name = re.search(r'<th scope="row"[^>]*>(.*?)<span', row, re.S)
        if name:
            cells = re.findall(r"<td>(.*?)</td>", row, re.S)
            cells = [re.sub(r"<strong[^>]*>(.*?)</strong>", r"*\1*", cell) for cell in cells]
            found.append([name[1], *(re.sub(r"<span.*?</span>", "", cell) for cell in cells)])
    return found


def test_nothing_is_loaded_from_outside_and_everything_has_a_name(whole):
    assert not re.search(r'(src|srcset|href)="(?!data:|#)', whole.text)
    assert not re.search(r"https?://|url\(|@import|<script|<link", whole.text)
    pictures = whole.all("img")
    assert len(pictures) > 20 and all(attrs["alt"] and attrs["width"] for _tag, attrs, _text in pictures)
    anchors = [attrs["href"] for _tag, attrs, _text in whole.all("a")]
    assert anchors == ["#layers", "#real", "#scores", "#training", "#commands"]
    assert all(whole.all("section", id=anchor[1:]) for anchor in anchors)
    assert "/home/someone" not in whole.text


def test_headings_are_nested_and_none_is_empty(whole):
    headings = [tag for tag in whole.order if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1" and headings.count("h1") == 1
    assert all(int(later[1]) <= int(now[1]) + 1 for now, later in zip(headings, headings[1:], strict=False))
    check_no_empty_heading(whole)


def check_no_empty_heading(page):
    """Between a heading and the next one that is not below it there must be something to see."""
    for idx, tag in enumerate(page.order):
        if re.fullmatch("h[2-6]", tag):
            rest = page.order[idx + 2:]  # The heading's own text comes first.
            below = next((pos for pos, other in enumerate(rest) if re.fullmatch(f"h[1-{tag[1]}]", other)), len(rest))
            assert {"text", "img"} & set(rest[:below]), f"an empty {tag}"


def test_key_numbers_are_those_of_the_records(whole):
    cards = dict(zip(whole.texts("span", class_="label"), whole.texts("span", class_="value"), strict=True))
    assert cards == {"mean IoU, real": "0.876", "mean IoU, generated": "0.912", "mask coverage": "0.320",
                     "training length": "7 kimg", "training time": "7m 10s"}
    notes = " ".join(whole.texts("span", class_="note"))
    assert "distilled U-Net, 500 pictures of shapes-test.zip; full-image mask 0.300" in notes
    assert "1990 scenes; full-image mask 0.300" in notes and "at least 0.2 asked for" in notes
    assert "20,000 unlabelled pictures at 32 x 32 pixels" in whole.texts("p", class_="lead")[0]


@pytest.mark.parametrize("masks, labels, said", [
    (None, True, "20,000 pictures with labels of classes at 32 x 32 pixels; nobody told it what an object is."),
    ("found/masks", False, "20,000 pictures at 32 x 32 pixels, but for those without a mask in found/masks; its "
                           "discriminator was shown each picture with its mask."),
    ("found/masks", True, "20,000 pictures with labels of classes at 32 x 32 pixels, but for those without a mask in"),
])
def test_what_was_shown_beside_the_pictures_is_said(tmp_path, masks, labels, said):
    gan = make_gan(tmp_path / "00000-shapes")
    options = json.loads((gan / "training_options.json").read_text())
    options["training_set_kwargs"]["use_labels"] = labels
    (gan / "training_options.json").write_text(json.dumps(dict(options, masks_path=masks)))
    page = Page(report_page.write_report(gan))
    assert said in page.texts("p", class_="lead")[0]
    facts = dict(zip(page.texts("dt"), page.texts("dd"), strict=True))
    assert (facts.get("masks"), facts.get("labels")) == (masks, "yes" if labels else None)


@pytest.mark.parametrize("kimg, least", [(1, ""), (99, "; at least 0.2 asked for")])
def test_of_a_run_that_finds_masks_both_settings_are_said(tmp_path, kimg, least):
    gan = make_gan(tmp_path / "00000-shapes")
    options = json.loads((gan / "training_options.json").read_text())
    first = options["loss_kwargs"] | dict(mask_min=0.2, mask_size_weight=10, shift=0.125, mask_binary_weight=2)
    found = dict(kimg=kimg, loss_kwargs=dict(mask_size_weight=0, shift=0.0625))
    (gan / "training_options.json").write_text(json.dumps(dict(options, loss_kwargs=first, found=found)))
    page = Page(report_page.write_report(gan))
    facts = dict(zip(page.texts("dt"), page.texts("dd"), strict=True))
    assert facts["largest shift"] == f"0.125, from {kimg} kimg on 0.0625"
    assert facts["weight of mask size"] == f"10, from {kimg} kimg on 0" and facts["weight of binarisation"] == "2"
    assert f"of the picture{least}" in page.texts("span", class_="note")


def test_tables_hold_the_records_and_mark_the_best(whole):
    def cells(iou, best=False):
        shown = [f"{scores(iou)[key]:.3f}" for key in ("iou", "miou", "dice", "pixel_accuracy", "max_fbeta",
                                                       "pooled_iou")]
        return [f"*{text}*" for text in shown] if best else shown

    snapshot = cells(0.9123)
    nothing = "\N{EN DASH}"
    assert table_rows(whole) == [
        ["network-snapshot-000007.pkl", "*0.912*", "*0.902*", *snapshot[1:]],
        ["full-image mask", "0.300", "0.300", *[nothing] * 5],
        ["00001-distill", *cells(0.8765, best=True)],
        ["00002-encoder", *cells(0.5432)],
        ["Otsu", *cells(0.412)],
        ["full-image mask", *cells(0.3)]]
    assert whole.texts("span", class_="interval") == [
        f"{iou - 0.0123:.3f} to {iou + 0.0117:.3f}" for iou in (0.9123, 0.9023, 0.8765, 0.5432, 0.412, 0.3)]
    captions = whole.texts("p", class_="caption")
    assert captions == ["1990 of 2000 generated scenes with an object, scored against U-Net judge.pt, at 32 px"
                        "truncation 1, seed 0",
                        "500 of 500 pictures of shapes-test.zip with an object, scored against true masks "
                        "shapes-test-masks.zip"]


def test_figures_of_the_paper_are_there(whole):
    captions = whole.texts("figcaption")
    assert captions[0] == "7 kimg"
    widths = [(attrs["width"], attrs["alt"]) for _tag, attrs, _text in whole.all("img")]
    kimgs = [alt.split("after ")[1].split()[0] for _width, alt in widths if alt.startswith("Layers of")]
    assert kimgs == ["7", "0", "2", "4", "5", "7"]
    assert sum(width == "63" for width, _alt in widths) == sum(width == "64" for width, _alt in widths) == 2
    assert [width for width, _alt in widths].count("62") == 2 and "65" in [width for width, _alt in widths]
    examples = [text for text in captions if re.fullmatch(r"\d.jpg: [\d.]+", text)]
    assert examples == ["5.jpg: 15.00", "4.jpg: 16.00", "3.jpg: 17.00", "0.jpg: 20.00", "1.jpg: 19.00", "2.jpg: 18.00"]


def test_commands_are_those_of_the_records_each_once(whole_runs, whole):
    shown = whole.texts("li")[-6:]
    assert shown == [
        "Training the generatorpython train_layered.py --outdir=runs --data=data/shapes.zip --cfg=demo",
        f"Training 00001-distillpython invert.py distill --outdir={whole_runs}",
        f"Training 00002-encoderpython invert.py encoder --outdir={whole_runs}",
        "Scoring generated scenes, 2026-11-24python eval.py generated --network=x",
        f"Scoring real pictures, 2026-11-24python eval.py real --model={whole_runs}/00001-distill",
        f"Scoring real pictures, 2026-11-24python eval.py real --model={whole_runs}/00002-encoder"]


def test_text_from_files_is_escaped(tmp_path):
    evil = "<script>alert('x')</script>&\"<b>"
    gan = make_gan(tmp_path / "00000-a&b", data=f"data/{evil}.zip")
    (gan / "log.txt").write_text(f"Command: python {evil}\nWARNING: {evil}\n")
    (gan / "metric-generated.jsonl").write_text(lines([generated_record(evil, command=evil, date=evil)]))
    model = make_model(tmp_path / "00001-<i>", gan, note=evil)
    (model / "metric-real.jsonl").write_text(lines([real_record(model, baselines={evil: 0.4}, data=evil)]))
    page = Page(report_page.write_report(gan))
    assert "<script" not in page.text and "<b>" not in page.text and "<i>" not in page.text
    assert f"python {evil}" in page.texts("code") and f"Warning of the training: {evil}" in page.texts("p")


def test_run_that_has_just_begun_names_all_that_is_missing(tmp_path):
    gan = make_gan(tmp_path / "00000-my shapes", kimgs=(), command=False)
    page = Page(report_page.write_report(gan))
    check_no_empty_heading(page)
    outdir, data, network = f"--outdir={tmp_path}", "--data=data/shapes.zip", shlex.quote(f"--network={gan}")
    begin = f"python train_layered.py {outdir} {data}"
    assert page.texts("code")[:-2] == [
        begin, f"python invert.py distill {network} {data} {outdir}",
        f"python eval.py generated {network} --class=CLASS --weights=WEIGHTS",
        "python eval.py real --model=MODEL --data=PICTURES --masks=MASKS"]
    assert page.texts("code")[-1] == begin
    assert "kept no command line" in page.text and "no results yet" in page.texts("p", class_="lead")[0]
    assert not page.all("table") and not page.all("img") and not page.all("ul", class_="cards")
    record = json.loads((gan / "training_options.json").read_text())
    (gan / "training_options.json").write_text(json.dumps(dict(record, command=f"{begin} --cfg=cpu")))
    assert Page(report_page.write_report(gan)).texts("code")[0] == f"{begin} --cfg=cpu"
    (gan / "training-state-000000.pt").touch()
    page = Page(report_page.write_report(gan))
    assert page.texts("code")[0] == f"python train_layered.py {outdir} " + shlex.quote(f"--resume={gan}")


def test_unfinished_and_unscored_models_say_how_to_go_on(tmp_path):
    gan = make_gan(tmp_path / "00000-shapes", kimgs=(0, 3))
    running = make_model(tmp_path / "00001-encoder", gan, "encoder", finished=False, mode="dataset")
    ready = make_model(tmp_path / "00002-distill", gan)
    page = Page(report_page.write_report(gan))
    check_no_empty_heading(page)
    assert f"python invert.py train --outdir={tmp_path} --resume={running}" in page.texts("code")
    assert f"python eval.py real --model={ready} --data=PICTURES --masks=MASKS" in page.texts("code")
    assert any(text.startswith(f"python invert.py segment --model={ready}") for text in page.texts("code"))
    assert "not at its end: it is at 3 of 7 kimg" in page.texts("p", class_="lead")[0]
    assert page.texts("span", class_="kind") == ["encoder", "distilled U-Net"]


def test_models_given_are_shown_and_those_of_another_network_are_noted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gan, other = make_gan(Path("runs/00000-a")), make_gan(Path("runs/00001-a"))
    make_model(Path("runs/00002-mine"), gan)
    make_model(Path("runs/00003-others"), other)
    (Path("runs/00003-others") / "metric-real.jsonl").write_text(lines([real_record("runs/00003-others")]))
    page = Page(report_page.write_report(gan, models=["runs/00003-others", "runs/00002-mine"]))
    assert page.all("table") and "mean IoU, real" not in page.texts("span", class_="label")
    names = [text for text in page.texts("h3") if text.startswith("0000")]
    assert names == ["00002-minedistilled U-Net", "00003-othersdistilled U-Net"]
    (note,) = [text for text in page.texts("p") if text.startswith("Trained on another network")]
    assert note.endswith("runs/00001-a/network-snapshot-000007.pkl")


def seeds(tmp_path):
    """Three generators that differ in the seed and one in more, with a scored model of each."""
    gans = []
    for idx, iou in enumerate((0.6, 0.7, 0.8, 0.1)):
        gan = make_gan(tmp_path / f"0000{idx}-shapes-seed{idx}", kimgs=(0, 7))
        options = json.loads((gan / "training_options.json").read_text())
        options.update(random_seed=idx, run_dir=str(gan), batch_size=32 if idx < 3 else 64)
        options["training_set_kwargs"]["random_seed"] = idx
        (gan / "training_options.json").write_text(json.dumps(options))
        (gan / "metric-generated.jsonl").write_text(lines([generated_record(gan, iou)]))
        model = make_model(tmp_path / f"0001{idx}-distill", gan, seed=idx)
        (model / "metric-real.jsonl").write_text(lines([real_record(model, iou + 0.1)]))
        gans.append(gan)
    return gans


def test_scores_of_other_seeds_have_a_mean_and_a_deviation(tmp_path):
    page = Page(report_page.write_report(seeds(tmp_path)[1]))
    rows = table_rows(page)
    means = [row for row in rows if row[0] == "3 seeds"]
    assert [row[1] for row in means] == ["0.700", "0.800"]
    assert f"\N{PLUS-MINUS SIGN} {(2 / 3) ** 0.5 / 10:.3f}" in page.texts("span", class_="interval")
    assert [row[:2] for row in rows if row[0].endswith("distill")] == [
        ["00010-distill", "0.700"], ["00012-distill", "*0.900*"], ["00011-distill", "0.800"]]
    own, name = [row[0] for row in rows if "seed1/" in row[0]], "00001-shapes-seed1/network-snapshot-000007.pkl"
    assert own == [name] and not any("seed3" in row[0] for row in rows)
    cards = dict(zip(page.texts("span", class_="label"), page.texts("span", class_="value"), strict=True))
    assert (cards["mean IoU, generated"], cards["mean IoU, real"]) == ("0.700", "0.800"), "its own, not a sibling's"
    assert [text for text in page.texts("h3") if text.startswith("0001")] == ["00011-distilldistilled U-Net"]


def test_models_trained_otherwise_are_no_seeds_of_one(tmp_path):
    gan = seeds(tmp_path)[0]
    for idx in (1, 2):
        about = json.loads((tmp_path / f"0001{idx}-distill" / "model.json").read_text())
        about["options"]["steps"] = 100 + idx
        (tmp_path / f"0001{idx}-distill" / "model.json").write_text(json.dumps(about))
    page = Page(report_page.write_report(gan, models=[tmp_path / "00013-distill"]))
    rows = table_rows(page)
    assert [row[1] for row in rows if row[0] == "3 seeds"] == ["0.700"], "of generated scenes alone"
    assert not any(row[0] in ("2 seeds", "4 seeds") for row in rows)


def test_report_of_a_model_finds_the_training_run(runs):
    page = Page(report_page.write_report(runs / "00002-encoder", dest=runs / "encoder.html"))
    assert [text for text in page.texts("h3") if text.startswith("0000")] == ["00002-encoderencoder"]
    assert page.all("section", id="layers") and "7 kimg" in page.texts("span", class_="value")
    shutil.rmtree(runs / "00000-shapes")
    page = Page(report_page.write_report(runs / "00002-encoder"))
    check_no_empty_heading(page)
    assert not page.all("section", id="layers") and not page.all("a", href="#layers")
    assert f"python eval.py report RUN --model={runs}/00002-encoder" in page.texts("code")
    assert page.texts("span", class_="value") == ["0.543"]


@pytest.mark.parametrize("there", [True, False])
def test_examples_show_the_pictures_where_these_are_still_there(runs, there):
    for idx in range(6 if there else 0):
        save_picture(runs / "pictures" / f"{idx}.jpg", width=20)
    (runs / "segmented" / "segment.json").write_text(json.dumps(dict(
        model="m", threshold=0.5, soft=False, images=str(runs / "pictures"))))
    page = Page(report_page.write_report(runs / "00000-shapes", segmented=runs / "segmented"))
    shown = [alt for _tag, attrs, _text in page.all("img") if (alt := attrs["alt"]).endswith(" 0.jpg")]
    assert shown == ["Picture 0.jpg" if there else "Cut-out of 0.jpg", "Mask of 0.jpg", "Reconstruction of 0.jpg"]


def test_distilled_models_have_no_reconstruction_error(runs):
    manifest = runs / "segmented" / "manifest.jsonl"
    manifest.write_text(lines([dict(name="0.jpg", file="0.png", coverage=0.1, width=8, height=6)]))
    page = Page(report_page.write_report(runs / "00000-shapes", segmented=runs / "segmented"))
    assert not page.all("div", class_="examples") and "reconstructs nothing" in page.text
    assert f"1 picture in {runs}/segmented" in page.texts("h3")


@pytest.mark.parametrize("file, content, words", [
    ("00000-shapes/training_options.json", "{", "damaged"),
    ("00000-shapes/training_options.json", "[]", "holds no JSON object"),
    ("00000-shapes/training_options.json", "{}", "has no training_set_kwargs"),
    ("00000-shapes/stats.jsonl", lines([tick(0, 1)]) + '{"Prog', "line 2 is damaged"),
    ("00000-shapes/stats.jsonl", '{"Progress/kimg": {"mean": 1}, "timestamp": 1}\n',
     "line 1: damaged: has no Timing/maintenance_sec; remove that line"),
    ("00000-shapes/stats.jsonl", b"\xff\xfe\xff", "not readable"),
    ("00000-shapes/layers000007.png", b"\x89PNG\r\n", "not a readable picture"),
    ("00000-shapes/metric-generated.jsonl", "{}\n", "line 1: damaged: has no command"),
    ("00000-shapes/metric-generated.jsonl", lines([{**generated_record("g"), "detected": dict(iou="x")}]), "line 1"),
    ("00001-distill/metric-real.jsonl", lines([real_record("m")]) + "]\n", "line 2 is damaged"),
    ("00001-distill/metric-real.jsonl", lines([{**real_record("m"), "models": [{}]}]), "has no models[0].kind"),
    ("00001-distill/metric-real.jsonl", lines([{**real_record("m"), "models": []}]), "line 1"),
    ("00002-encoder/stats.jsonl", "{}\n", "line 1: damaged: has no step"),
    ("00002-encoder/real-worst.png", b"no picture", "not a readable picture"),
    ("segmented/manifest.jsonl", '{"file": "a.png"}\n', "line 1 lacks 'name'"),
    ("segmented/manifest.jsonl", '{"name": "a.jpg", "error": 1}\n{"name": "b.jpg", "error": 2}\n', "masks/a.png"),
    ("segmented/contact-sheet.png", b"", "not a readable picture"),
    ("segmented/segment.json", "{", "damaged"),
])
def test_damaged_file_is_named(runs, file, content, words):
    path = runs / file
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
    result = invoke(runs / "00000-shapes", f"--segmented={runs}/segmented")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    assert words in result.stderr
    assert (str(path) if "masks" not in words else "a.png") in result.stderr
    assert not (runs / "00000-shapes" / "report.html").exists()


def test_report_leaves_a_damaged_model_out_unless_it_is_of_that(runs):
    (runs / "00001-distill/model.json").write_text('{"kind"')
    of_gan, of_model = invoke(runs / "00000-shapes"), invoke(runs / "00001-distill")
    assert of_gan.exit_code == 0 and "00001-distill/model.json: damaged" in of_gan.stderr
    assert of_model.exit_code == 1 and "Error: " in of_model.stderr and "model.json: damaged" in of_model.stderr


@pytest.mark.parametrize("file, keys, value, words", [
    ("00000-shapes/training_options.json", ["training_set_kwargs", "path"], 3, "training_set_kwargs.path must be text"),
    ("00000-shapes/training_options.json", ["loss_kwargs", "mask_min"], "x", "loss_kwargs.mask_min must be a number"),
    ("00000-shapes/training_options.json", ["base"], 3, "base must be text"),
    ("00000-shapes/training_options.json", ["command"], [3], "command must be text"),
    ("00000-shapes/training_options.json", ["total_kimg"], 10**400, "total_kimg must be a number"),
    ("00000-shapes/stats.jsonl", ["timestamp"], math.inf, "line 8: damaged: timestamp must be a number"),
    ("00000-shapes/stats.jsonl", ["Timing/sec_per_tick", "mean"], math.nan, "sec_per_tick.mean must be a number"),
    ("00000-shapes/stats.jsonl", ["Loss/G/loss", "mean"], 10**400, "line 8 is damaged (int too large"),
    ("00000-shapes/metric-generated.jsonl", ["command"], [3], "line 1: damaged: command must be text"),
    ("00000-shapes/metric-generated.jsonl", ["detected", "iou"], None, "detected.iou must be a number"),
    ("00000-shapes/metric-generated.jsonl", ["trunc"], 10**400, "line 1 is damaged (int too large"),
    ("00001-distill/metric-real.jsonl", ["models", 0, "detected", "iou"], None, "detected.iou must be a number"),
    ("00001-distill/model.json", ["options", "network"], 3, "options.network must be text"),
    ("00001-distill/model.json", ["options", "data"], 3, "options.data must be text"),
    ("00001-distill/model.json", ["command"], [1], "command must be text"),
    ("00001-distill/model.json", ["kind"], "x", "kind must be among encoder, chunks, distill"),
    ("00001-distill/stats.jsonl", ["seconds"], math.inf, "line 4: damaged: seconds must be a number"),
    ("00001-distill/stats.jsonl", ["step"], math.inf, "line 4: damaged: step must be a whole number"),
    ("00001-distill/stats.jsonl", ["stage"], [1], "line 4: damaged: stage must be text"),
    ("00001-distill/stats.jsonl", ["loss"], "x", "line 4 is damaged (could not convert"),
])
def test_value_of_the_wrong_kind_is_named_with_its_place(runs, file, keys, value, words):
    path = runs / file
    *before, last = path.read_text().splitlines()
    data = place = json.loads(last)
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text("\n".join([*before, json.dumps(data)]) + "\n")
    result = invoke(path.parent)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    (line,) = result.stderr.splitlines()
    assert words in line and f"{path}: " in line


def test_network_of_an_impossible_name_is_that_of_no_run(runs):
    path = runs / "00001-distill/model.json"
    about = json.loads(path.read_text())
    about["options"]["network"] = "n" * 5000
    path.write_text(json.dumps(about))
    assert invoke(runs / "00001-distill").exit_code == 0


@pytest.mark.parametrize("args, words", [
    (["nowhere"], "RUN: nowhere is no run folder of train_layered.py or invert.py"),
    (["GAN", "--model=GAN"], "--model: GAN holds no model.json"),
    (["GAN", "--segmented=GAN"], "--segmented: GAN holds no manifest.jsonl"),
    (["GAN", "--dest=GAN/log.txt/report.html"], "--dest: can't write GAN/log.txt/report.html: File exists"),
])
def test_wrong_argument_is_named(runs, args, words):
    gan = str(runs / "00000-shapes")
    (runs / "00000-shapes/log.txt").touch()
    result = invoke(*[arg.replace("GAN", gan) for arg in args])
    assert result.exit_code == 1 and words.replace("GAN", gan) in result.stderr


def test_command_prints_the_path_and_writes_the_file_whole(runs, monkeypatch):
    dest = runs / "no folder yet/my report.html"
    result = invoke(runs / "00000-shapes", f"--dest={dest}", f"--model={runs}/00001-distill")
    assert result.exit_code == 0 and result.stdout == f"{dest}\n"
    before = dest.read_text()
    assert before.startswith("<!DOCTYPE html>") and before.count("<article") == 2
    monkeypatch.setattr(report_page, "render", lambda view: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        report_page.write_report(runs / "00000-shapes", dest)
    assert dest.read_text() == before


def test_help_explains_every_option_and_its_examples_are_accepted(monkeypatch):
    command = eval_script.main.commands["report"]
    text = invoke("--help").output
    for param in command.params[1:]:
        assert param.opts[0] in text and len(param.help.split("  [")[0]) <= 45, param.name
    given = []
    monkeypatch.setattr(eval_script, "write_report", lambda *args: given.append(args) or "x")
    examples = re.findall(r"^python eval.py report (.*)$", inspect.getdoc(command.callback), re.M)
    assert len(examples) == 2
    for example in examples:
        assert invoke(*shlex.split(example)).exit_code == 0
    assert given[1] == ("runs/00000-shapes", "report.html", ("models/00001-distill",), "my-masks")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_browser_opens_it_without_an_error(whole_runs, whole, tmp_path):
    def console(path):
        done = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
             f"--user-data-dir={tmp_path}/profile", "--dump-dom", path.absolute().as_uri()],
            capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout, re.findall(r".*CONSOLE.*", done.stderr)

    report = whole_runs / "00000-shapes" / "report.html"
    dom, errors = console(report)
    assert errors == []
    assert len(re.findall("<img ", dom)) == len(whole.all("img")) and "Exact commands" in dom
    # What the check would say of a report that loads or runs something.
    broken = tmp_path / "broken.html"
    broken.write_text(report.read_text().replace("</main>", '<img src="file:///x.png"><script>1</script></main>'))
    assert len(console(broken)[1]) == 2
