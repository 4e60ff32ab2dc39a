"""Benchmarks: the arithmetic of their scores and tables, on stand-ins whose masks are known."""

import json

import pytest
import torch
from click.testing import CliRunner

from benchmarks import emergence, generated_masks
from layered_plugin.compose import Layers


class FakeGenerator(torch.nn.Module):
    """White squares on black; the mask covers a given part of each."""

    z_dim = 4

    def __init__(self, columns):
        super().__init__()
        self.columns = columns

    def forward(self, z, c, noise_mode, return_layers):
        fg = -torch.ones(len(z), 3, 8, 8)
        fg[:, :, 2:6, 2:6] = 1
        mask = torch.ones(len(z), 1, 8, 8)
        layers = Layers(fg, fg, mask * 0)
        layers.mask[:, :, 2:6, 2:2 + self.columns] = 1
        return layers


class Brightness(torch.nn.Module):
    """A judge that sees white as object."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones([]))

    def forward(self, img):
        return img.mean(dim=1, keepdim=True) * self.scale


@pytest.mark.parametrize("columns, expected", [(4, 1.0), (2, 0.5), (0, 0.0)])
def test_score_is_the_iou_with_what_the_judge_sees(columns, expected):
    score = generated_masks.score_generator(FakeGenerator(columns), Brightness(), num=6, seed=0, batch=4)
    assert score["mean_iou"] == pytest.approx(expected)
    assert score["detected"] == score["num"] == 6
    assert score["reference_iou"] == pytest.approx(16 / 64)
    assert score["coverage"] == pytest.approx(4 * columns / 64)


def test_missing_network_is_named(tmp_path):
    result = CliRunner().invoke(generated_masks.main, [f"--network={tmp_path}", "--judge=x.pt"])
    assert result.exit_code == 1 and str(tmp_path) in result.output


def test_finished_runs_are_not_repeated_and_the_table_has_mean_and_deviation(tmp_path):
    for seed, value in enumerate([0.5, 0.7]):
        folder = tmp_path / "lit" / f"no-shift-kimg20-seed{seed}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(dict(
            setting="no-shift", train_seed=seed, mean_iou=value, coverage=0.2, judge_coverage=0.3,
            reference_iou=0.25)))
    result = CliRunner().invoke(emergence.main, ["--data=lit.zip", "--judge=x.pt", "--settings=no-shift", "--seeds=2",
                                                 "--kimg=20", f"--outdir={tmp_path}"])
    assert result.exit_code == 0, result.output
    assert "| no-shift | 0, 1 | 0.600 +- 0.100 | 0.500, 0.700 | 0.20 | 0.30 | 0.250 |" in result.stderr
    assert [row["mean_iou"] for row in json.loads(result.stdout)["results"]] == [0.5, 0.7]


def test_unknown_setting_is_named():
    result = CliRunner().invoke(emergence.main, ["--data=a.zip", "--judge=b.pt", "--settings=shiftless"])
    assert result.exit_code == 2 and "got shiftless" in result.output
