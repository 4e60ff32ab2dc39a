"""Tables of the report: what may stand side by side, which record counts, what is marked."""

import json

import pytest
from fake_runs import generated_record, real_record

from layered_plugin.errors import UserError
from layered_plugin.report import rows as report_rows
from layered_plugin.report import tables as report_tables


def test_only_equal_conditions_share_a_table_and_the_last_scoring_counts():
    def record(**more):
        found = real_record("runs/a", **more)
        return dict(found, models=[dict(found["models"][0], folder="runs/a")])

    tables = report_tables.real_tables([
        record(iou=0.1), record(iou=0.5, polarity="oracle"), record(iou=0.2, refine=50, flip=True), record(iou=0.3)])
    assert len(tables) == 2
    latest, oracle = tables
    assert [(row.name, row.note, row.cells[0].text) for row in latest.rows[:2]] == [
        ("a", "distilled U-Net", "0.300"), ("a", "distilled U-Net, mirrored too, 50 refining steps", "0.200")]
    assert "no measure of an unsupervised method" in oracle.notes[0]
    best = report_tables.best_real([dict(record(iou=0.99), polarity="oracle"), record(iou=0.3)])
    assert best[1]["detected"]["iou"] == 0.3


def test_pictures_that_have_no_mask_are_counted():
    def notes(**more):
        found = real_record("runs/a", **more)
        return report_tables.real_tables([dict(found, models=[dict(found["models"][0], folder="runs/a")])])[0].notes

    assert notes() == notes(num_left_out=0) == []
    assert notes(num_left_out=450) == ["450 pictures without a mask left out"]


def test_real_scores_by_size_have_a_table_of_their_own():
    def by_size(*ious):
        return [dict(low=0.0, high=0.08, num=9, iou=ious[0], iou_ci=[0.1, 0.2]),
                dict(low=0.08, high=0.5, num=0, iou=None, iou_ci=None),
                dict(low=0.5, high=1.0, num=7, iou=ious[1], iou_ci=[0.3, 0.4])]

    def record(name, sizes, siblings, **more):
        found = real_record(name, **more)
        own = dict(found["models"][0], folder=name, siblings=siblings)
        own["detected"] = dict(own["detected"], by_size=sizes)
        return dict(found, models=[own])

    old = dict(real_record("runs/old"), models=[dict(real_record("runs/old")["models"][0], folder="runs/old")])
    assert len(report_tables.real_tables([old])) == 1  # Scored before there were sizes.
    first, second = (record(f"runs/{name}", by_size(0.2 * k, 0.4 * k), "seeds", baselines=dict(otsu=0.1))
                     for k, name in ((1, "a"), (2, "b")))
    second["baselines"]["otsu"]["detected"]["by_size"] = by_size(0.11, 0.12)
    whole, sizes = report_tables.real_tables([old, first, second])
    assert len(whole.rows) == 6 and sizes.caption == "Mean IoU by the object's share of the picture"
    assert sizes.headings == ["below 8 % (9 pictures)", "50 % and more (7 pictures)"]
    assert [(row.name, [cell.text for cell in row.cells]) for row in sizes.rows] == [
        ("a", ["0.200", "0.400"]), ("b", ["0.400", "0.800"]), ("2 seeds", ["0.300", "0.600"]),
        ("Otsu", ["0.110", "0.120"])]
    assert sizes.rows[1].cells[1].best and sizes.rows[0].cells[0].interval == "0.100 to 0.200"
    assert sizes.rows[2].cells[0].interval == "\N{PLUS-MINUS SIGN} 0.100"


def test_ties_are_marked_and_a_single_row_is_not():
    own = real_record("runs/a", 0.5, baselines=dict(otsu=0.5, box=0.2))
    own["models"][0]["folder"] = "runs/a"
    (table,) = report_tables.real_tables([own])
    assert [(row.name, row.cells[0].best) for row in table.rows] == [
        ("a", True), ("Otsu", True), ("full-image mask", False), ("centre box", False)]
    assert [cell.text for cell in table.rows[2].cells[1:]] == [""] * 5
    assert not any(cell.best for cell in table.rows[2].cells)
    cells = report_rows.mark_best([report_rows.Cell("0.900"), report_rows.Cell("")])
    assert not any(cell.best for cell in cells)


def test_pictures_without_a_detection_have_no_scores_of_detected():
    nothing = generated_record("runs/g", detected=None, num_detected=0, fidelity=dict(
        fid=12.3456, kid=0.01234, kid_std=0.0, num_gen=10, num_real=20, kid_subset=10))
    (table,) = report_tables.generated_tables([nothing])
    assert table.headings == ["mean IoU, all"]
    assert table.notes == ["truncation 1, seed 0", "network-snapshot-000007.pkl: FID 12.35, KID 0.01234 (10 generated, "
                           "20 real pictures)"]


def outlines(share, frechet=0.5, **more):
    """As ``variety.Comparison`` makes it; what is real has 0.8 of everything."""
    figures = ("coverage", "precision", "variation", "area", "area_deviation")
    shapes = dict(generated=dict.fromkeys(figures, 0.8 * share), real=dict.fromkeys(figures, 0.8),
                  share=dict.fromkeys(figures, share), num_queries=500, num_compared=2000)
    return dict(shapes=shapes, frechet=frechet, frechet_floor=0.25, num_real=2500, data="data/plants.zip",
                masks="data/plants-masks.zip") | more


def test_outlines_beside_real_ones_have_a_table_after_that_of_the_scores():
    records = [generated_record("runs/0", variety=outlines(0.1)), generated_record("runs/0", variety=outlines(0.5)),
               generated_record("runs/0"), generated_record("runs/1", variety=outlines(0.7, 0.9))]
    scored, table = report_tables.generated_tables(records)
    assert scored.headings[0] == "mean IoU" and len(scored.rows) == 5
    assert table.caption == ("Outlines of generated masks beside those of plants.zip, whose masks are by "
                             "plants-masks.zip")
    assert table.headings == ["coverage", "precision", "variation", "area", "area deviation", "Frechet distance"]
    sign, name = "\N{PLUS-MINUS SIGN}", "network-snapshot-000007.pkl"
    assert table.rows[0].note == "2500 real pictures"
    assert [(row.name, row.cells[0], row.cells[-1]) for row in table.rows] == [
        (f"0/{name}", ("0.500", "0.400 of 0.800", False), ("0.50", "real 0.25", False)),
        (f"1/{name}", ("0.700", "0.560 of 0.800", False), ("0.90", "real 0.25", False)),
        ("2 seeds", ("0.600", f"{sign} 0.100", False), ("0.70", f"{sign} 0.20", False))]
    assert {len(row.cells) for row in table.rows} == {6}


def test_outlines_share_a_table_with_those_beside_the_same_masks_alone():
    flat = outlines(0.5, masks="teacher")
    flat["shapes"]["real"]["variation"], flat["shapes"]["share"]["variation"] = 0.0, None  # All real masks are alike.
    records = [generated_record("runs/0", variety=outlines(0.5)), generated_record("runs/0", variety=flat)]
    _scored, by_judge, by_masks = report_tables.generated_tables(records)
    assert by_judge.caption.endswith("plants.zip, whose masks are by U-Net judge.pt") and len(by_masks.rows) == 1
    assert [cell.text for cell in by_judge.rows[0].cells[1:4]] == ["0.500", "", "0.500"]


def test_damaged_outlines_name_file_line_and_key(tmp_path):
    good = generated_record("runs/0", variety=outlines(0.5))
    (tmp_path / "metric-generated.jsonl").write_text(json.dumps(good) + "\n")
    assert report_tables.read_generated(tmp_path) == [good]
    del good["variety"]["shapes"]["share"]["precision"]
    (tmp_path / "metric-generated.jsonl").write_text(json.dumps(good) + "\n")
    with pytest.raises(UserError, match="line 1: damaged: has no variety.shapes.share.precision; remove that line"):
        report_tables.read_generated(tmp_path)
