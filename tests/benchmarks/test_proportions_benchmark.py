"""The benchmark of proportions: both ways are scored, and are the same for square pictures."""

import json
import re

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner
from tiny_models import make_model, picture

from benchmarks import proportions


@pytest.mark.parametrize("width, same", [(20, True), (40, False)])
def test_both_ways_are_scored(tmp_path, width, same):
    for folder in ("pictures", "masks"):
        (tmp_path / folder).mkdir()
    for idx in range(3):
        picture(20, width, seed=idx).save(tmp_path / "pictures" / f"{idx}.png")
        mask = np.zeros([20, width], np.uint8)
        mask[4:15, 5:15] = 255
        PIL.Image.fromarray(mask).save(tmp_path / "masks" / f"{idx}.png")
    args = [f"--data={tmp_path}/pictures", f"--masks={tmp_path}/masks"]
    result = CliRunner().invoke(proportions.main, [f"--model={make_model(tmp_path / 'model', 'distill')}", *args])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["num"] == 3 and (record["difference"] == 0) == same
    assert record["difference"] == pytest.approx(record["iou"]["letterbox"] - record["iou"]["squeezed"], abs=2e-4)
    shown = re.search(r"\| ([+-]\d\.\d{3}) \+- (\d\.\d{3}) \|", result.stderr)
    assert float(shown[1]) == pytest.approx(record["difference"], abs=6e-4)
    assert float(shown[2]) == pytest.approx(record["standard_error"], abs=6e-4)
