"""The benchmark of confidence: views are undone exactly, and the command ranks a model's masks."""

import json

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner
from tiny_models import make_model, make_pictures, small_resnet

from benchmarks import confidence


@pytest.mark.parametrize("name", confidence.VIEWS)
def test_way_back_undoes_a_view(name):
    there, back = confidence.VIEWS[name]
    mask = np.zeros([2, 20, 20])
    mask[:, 5:12, 4:9] = np.random.RandomState(0).rand(2, 7, 5)  # Away from the border, which shifts repeat.
    assert not np.array_equal(there(mask), mask)
    np.testing.assert_array_equal(back(there(mask)), mask)


def test_soft_iou_of_hard_masks_is_their_iou():
    one, other = np.zeros([2, 4, 4]), np.zeros([2, 4, 4])
    one[0, :2], other[0, 1:3] = 1, 1
    assert confidence.soft_iou(one, other).tolist() == [pytest.approx(1 / 3), 1]


@pytest.mark.parametrize("kind", ["distill", "encoder"])
def test_command_has_a_row_for_each_measure(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("torchvision.models.resnet18", small_resnet)
    names = [f"{idx}.png" for idx in range(5)]
    folder = make_pictures(tmp_path / "pictures", names)
    (tmp_path / "masks").mkdir()
    for idx, name in enumerate(names):
        mask = np.zeros([17 + idx, 23 - idx], np.uint8)
        mask[: 4 + 2 * idx] = 255
        PIL.Image.fromarray(mask).save(tmp_path / "masks" / name)
    model = make_model(tmp_path / "model", kind)
    result = CliRunner().invoke(confidence.main, [f"--model={model}", f"--data={folder}", f"--masks={tmp_path}/masks"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["num"], record["kind"]) == (5, kind) and 0 < record["iou"] < 1
    assert ("reconstruction error" in record["measures"]) == (kind == "encoder")
    for name, row in record["measures"].items():
        assert -1 <= row["spearman"] <= 1
        assert f"| {name} | {row['passes']} | {row['spearman']:.3f} |" in result.stderr
