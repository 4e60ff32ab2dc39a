"""Sheets, tables and run folders: what they show of known scores."""

import json
import re

import numpy as np
import PIL.Image
import pytest

from layered_plugin import runs
from layered_plugin.evaluation import output
from layered_plugin.evaluation.scoring import Example


def test_sheet_shows_picture_cutout_mask_and_truth(tmp_path):
    picture = np.full((32, 48, 3), (200, 30, 30), np.uint8)
    mask = np.zeros((32, 48), np.float32)
    mask[:, :24] = 0.8
    truth = np.ones((32, 48), bool)
    output.write_sheet([Example("a", 0.5, picture, mask, truth)] * 3, tmp_path / "sheet.png")
    sheet = np.asarray(PIL.Image.open(tmp_path / "sheet.png"))
    cell = output.CELL_PX + output.GAP_PX
    assert sheet.shape[1] == output.NAMES_PX + 3 * cell
    x, y = output.NAMES_PX + output.CELL_PX // 2, output.CAPTION_PX + output.CELL_PX // 2
    rows = [[sheet[y + idx * cell, x + side].tolist() for side in (-10, 10)] for idx in range(4)]
    red, white, black = [200, 30, 30], [255] * 3, [0] * 3
    assert rows == [[red, red], [red, white], [[204] * 3, black], [white, white]]


def test_large_pictures_are_reduced_and_small_ones_enlarged_to_whole_pixels(tmp_path):
    for side in (500, 36):
        picture, mask = np.zeros((side, side // 2, 3), np.uint8), np.zeros((side, side // 2), np.float32)
        output.write_sheet([Example("a", 0.0, picture, mask, mask > 0)], tmp_path / "sheet.png")
        sheet = np.asarray(PIL.Image.open(tmp_path / "sheet.png"))[output.CAPTION_PX :, output.NAMES_PX :]
        black = (sheet[: output.CELL_PX] == 0).all(axis=2)
        # 36 pixels threefold; 500 reduced to the cell.
        assert black.any(axis=1).sum() == 108 and black.any(axis=0).sum() == 54


def test_record_is_not_glued_to_one_torn_by_a_kill(tmp_path):
    for name, before, kept in (("new", "", []), ("whole", '{"a": 1}\n', [dict(a=1)]),
                               ("torn", '{"a": 1}\n{"num": 20, "detect', [dict(a=1)])):
        (tmp_path / name).write_text(before)
        output.append_record(tmp_path, name, dict(num=3))
        assert [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] == [*kept, dict(num=3)]


@pytest.mark.parametrize("file", ["training_options.json", "model.json"])
def test_run_folder_of_a_run_of_its_files_and_of_nothing(tmp_path, file):
    assert runs.run_folder(tmp_path) is None
    (tmp_path / file).write_text("{}")
    assert runs.run_folder(tmp_path) == tmp_path
    assert runs.run_folder(tmp_path / "network-snapshot-000001.pkl") == tmp_path
    assert runs.run_folder("https://example.org/net.pkl") is None


def test_table_has_a_dash_where_nothing_was_detected():
    scores = dict(iou=0.1, iou_ci=[0.05, 0.15], miou=0.2, dice=0.3, pixel_accuracy=0.4, max_fbeta=0.5,
                  boundary_f=0.45, full_mask_iou=0.25)
    table = output.score_table([("mine", dict(detected=None, all=scores))])
    assert re.search(r"mine +- +0\.100 +- +- +- +- +-$", table, re.M)
    table = output.score_table([("mine", dict(detected=scores, all=scores))])
    assert re.search(r"mine +0\.100 \[0\.050, 0\.150\] +0\.100 +0\.200 +0\.300 +0\.400 +0\.500 +0\.450$", table, re.M)
    assert re.search(r"full-image mask +0\.250 +0\.250$", table, re.M)


def test_table_by_size_names_the_counts_and_leaves_out_sizes_without_pictures():
    bins = [dict(low=0.0, high=0.075, num=0, iou=None, iou_ci=None),
            dict(low=0.075, high=0.15, num=12, iou=0.4, iou_ci=[0.3, 0.5]),
            dict(low=0.15, high=1.0, num=1, iou=0.9, iou_ci=[0.9, 0.9])]
    other = [dict(one, iou=one["iou"] and one["iou"] / 2) for one in bins]
    table = output.size_table([("mine", dict(by_size=bins)), ("otsu", dict(by_size=other))])
    heading, first, second = table.splitlines()
    assert re.fullmatch(r"IoU by the object's share +7\.5 to 15 % \(12\) +15 % and more \(1\)", heading)
    assert re.fullmatch(r"mine +0\.400 \[0\.300, 0\.500\] +0\.900 \[0\.900, 0\.900\]", first)
    assert re.fullmatch(r"otsu +0\.200 \[0\.300, 0\.500\] +0\.450 \[0\.900, 0\.900\]", second)
    assert "below 7.5 % (3)" in output.size_table([("mine", dict(by_size=[dict(bins[1], low=0.0, high=0.075, num=3)]))])
