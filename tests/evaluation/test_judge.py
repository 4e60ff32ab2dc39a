"""The judge: shapes, repeatable training that leaves the global generator alone, files without code, augmentation."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

import eval as eval_command
from benchmarks.support.object_scores import matched_iou
from layered_plugin.data.picture_zip import PictureZipWriter
from layered_plugin.data.pictures import to_float
from layered_plugin.errors import PictureError
from layered_plugin.evaluation.judge import (
    center_crop,
    crop_side,
    judge_masks,
    judge_objects,
    load_judge,
    random_crop_flip,
    save_judge,
    score_judge,
    train_judge,
)
from layered_plugin.model.unet import UNet
from layered_plugin.segmentation.augment import disturb


def _squares(num: int, size: int = 18, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bright squares on a dark ground: learnt within a few steps."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((num, size, size), np.uint8)
    for mask, (top, left) in zip(masks, rng.integers(3, 8, (num, 2)), strict=True):
        mask[top : top + 7, left : left + 7] = 255
    pictures = np.where(masks[:, None] > 0, 200, 50) + rng.integers(-20, 20, (num, 3, size, size))
    return pictures.astype(np.uint8), masks


@pytest.fixture(scope="module")
def judge() -> UNet:
    return train_judge(*_squares(64), steps=40, batch=8, seed=0)


def test_training_finds_the_objects_of_unseen_pictures(judge: UNet) -> None:
    pictures, masks = _squares(32, seed=1)
    pred = judge_masks(judge, center_crop(to_float(torch.from_numpy(pictures)), 16))
    target = center_crop(torch.from_numpy(masks), 16) >= 128
    iou = ((pred & target).sum(dim=(1, 2)) / (pred | target).sum(dim=(1, 2))).mean()
    scores = score_judge(judge, pictures, masks)
    assert scores["mean_iou"] == pytest.approx(float(iou)) and iou > 0.9
    assert scores["pixel_accuracy"] == pytest.approx((pred == target).float().mean().item())
    assert not judge.training


def test_masks_do_not_depend_on_the_batch_size(judge: UNet) -> None:
    img = center_crop(to_float(torch.from_numpy(_squares(7, seed=2)[0])), 16)
    assert torch.equal(judge_objects(judge, img, batch=2), judge_objects(judge, img, batch=7))


def test_a_judge_of_two_objects_tells_them_apart_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(30, 70, (64, 3, 18, 18)).astype(np.uint8)
    masks = np.zeros((64, 2, 18, 18), np.uint8)
    for idx in range(64):
        red, green = rng.permutation(2)  # Neither color is always the first.
        masks[idx, red, 4:14, 3:8], masks[idx, green, 4:14, 10:15] = 255, 255
        pictures[idx, 0, 4:14, 3:8], pictures[idx, 1, 4:14, 10:15] = 220, 220
    save_judge(train_judge(pictures, masks, steps=60, batch=8), tmp_path / "judge.pt", 16)
    judge = load_judge(tmp_path / "judge.pt").unet
    img = center_crop(to_float(torch.from_numpy(pictures[:16])), 16)
    truth = center_crop(torch.from_numpy(masks[:16]), 16) > 0
    found = judge_objects(judge, img)
    assert found.shape == (16, 2, 16, 16)
    assert np.mean([matched_iou(pred, target) for pred, target in zip(found, truth, strict=True)]) > 0.8
    assert torch.equal(judge_masks(judge, img), found.any(dim=1))


def test_logits_keep_the_size_of_the_picture(judge: UNet) -> None:
    assert judge(torch.zeros(2, 3, 12, 20)).shape == (2, 1, 12, 20)


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 3, 16, 18), (3, 16, 16)])
def test_other_pictures_are_refused(judge: UNet, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`img` to be"):
        judge(torch.zeros(shape))


def test_training_repeats_by_seed_and_leaves_the_global_generator_alone() -> None:
    pictures, masks = _squares(8)
    before = torch.get_rng_state()
    first, again, other = (train_judge(pictures, masks, steps=2, batch=4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.out.weight, other.out.weight)


@pytest.mark.parametrize("change, text", [
    ({"steps": 0}, "Expected argument `steps`"),
    ({"batch": 0}, "Expected argument `batch`"),
    ({"pictures": np.zeros((4, 1, 18, 18), np.uint8)}, "pictures must be uint8"),
    ({"pictures": np.zeros((4, 3, 18, 18))}, "pictures must be uint8"),
    ({"masks": np.zeros((4, 17, 17), np.uint8)}, "masks must be uint8"),
    ({"masks": np.zeros((4, 18, 18), bool)}, "masks must be uint8"),
    ({"masks": np.zeros((4, 2, 17, 17), np.uint8)}, "masks must be uint8"),
    ({"masks": np.zeros((4, 0, 18, 18), np.uint8)}, "masks must be uint8"),
])
def test_wrong_arguments_are_named(change: dict, text: str) -> None:
    arguments = {"pictures": np.zeros((4, 3, 18, 18), np.uint8), "masks": np.zeros((4, 18, 18), np.uint8), **change}
    with pytest.raises((ValueError, PictureError), match=text):
        train_judge(**arguments)


def test_saved_judge_gives_the_same_logits(judge: UNet, tmp_path: Path) -> None:
    save_judge(judge, tmp_path / "new" / "judge.pt", 16)
    img = center_crop(to_float(torch.from_numpy(_squares(2)[0])), 16)
    with torch.no_grad():
        saved = load_judge(tmp_path / "new" / "judge.pt")
        assert torch.equal(saved.unet(img), judge(img)) and saved.size_px == 16
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["judge.pt"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: holds no judge"):
        load_judge(tmp_path / "other.pt")


@pytest.mark.parametrize("size, side, start", [(18, 16, 1), (9, 8, 0), (8, 8, 0), (9, 4, 2)])
def test_the_middle_is_cut_out(size: int, side: int, start: int) -> None:
    values = torch.arange(size * size).view(1, size, size)
    assert torch.equal(center_crop(values, side), values[:, start:start + side, start:start + side])


@pytest.mark.parametrize("size, side", [(36, 32), (72, 64), (18, 16), (20, 16)])
def test_crops_are_an_eighth_smaller_and_divisible_by_four(size: int, side: int) -> None:
    assert crop_side(size) == side


def test_picture_and_mask_are_cropped_and_mirrored_together() -> None:
    values = torch.arange(200.0).repeat(18 * 18 * 64 // 200 + 1)[: 18 * 18 * 64].reshape(64, 1, 18, 18)
    img, target = random_crop_flip(values.expand(-1, 3, -1, -1), values, 16, torch.Generator().manual_seed(0))
    assert img.shape == (64, 3, 16, 16)
    assert torch.equal(img[:, :1], target)
    # Every place and both orientations occur: steps to the right are +1 as stored, -1 when mirrored.
    steps = (target[:, 0, 0, 1] - target[:, 0, 0, 0]).tolist()
    assert 10 < sum(step == -1 for step in steps) < 54


def test_disturbed_pictures_stay_in_range_and_keep_the_scene() -> None:
    img = to_float(torch.from_numpy(_squares(16)[0]))
    changed = disturb(img, torch.Generator().manual_seed(0))
    assert changed.abs().max() <= 1
    assert not torch.equal(changed, img)
    same = torch.corrcoef(torch.stack([img.flatten(), changed.flatten()]))[0, 1]
    assert same > 0.9


def _write(path: Path, pictures: np.ndarray) -> str:
    with PictureZipWriter(path) as writer:
        for picture in pictures:
            writer.add(picture)
    return str(path)


def test_command_prints_scores_as_json(tmp_path: Path) -> None:
    pictures, masks = _squares(8)
    data = _write(tmp_path / "p.zip", pictures.transpose(0, 2, 3, 1).copy())
    truth = _write(tmp_path / "m.zip", masks)
    result = CliRunner().invoke(eval_command.main, [
        "judge", f"--data={data}", f"--masks={truth}", f"--test-data={data}", f"--test-masks={truth}",
        f"--dest={tmp_path}/j.pt", "--steps=2", "--batch=4",
    ], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)
    assert scores["test_num"] == 8 and scores["size_px"] == 16 and scores["seed"] == 0
    assert scores["full_mask_iou"] == pytest.approx(49 / 256, abs=1e-4)
    assert scores["command"].startswith("python eval.py") and scores["train_seconds"] >= 0
    saved = load_judge(tmp_path / "j.pt")
    assert scores["mean_iou"] == round(score_judge(saved.unet, pictures, masks)["mean_iou"], 4) and saved.size_px == 16


def test_judge_is_scored_at_the_one_scale_it_knows(tmp_path: Path) -> None:
    args = ["judge", f"--dest={tmp_path}/j.pt", "--steps=2"]
    for name, pixels in (("", _squares(8)), ("test-", tuple(part.repeat(2, -1).repeat(2, -2) for part in _squares(8)))):
        args += [f"--{name}data={_write(tmp_path / f'{name}p.zip', pixels[0].transpose(0, 2, 3, 1).copy())}",
                 f"--{name}masks={_write(tmp_path / f'{name}m.zip', pixels[1])}"]
    result = CliRunner().invoke(eval_command.main, args)
    assert result.exit_code == 2 and "--test-data must be of the size of --data, 18 pixels" in result.stderr
    assert "got 36" in result.stderr and not (tmp_path / "j.pt").exists()


def test_command_finds_masks_whose_suffix_is_another(tmp_path: Path) -> None:
    for kind, suffix, levels in zip(("pictures", "masks"), ("jpg", "png"), _squares(4), strict=True):
        (tmp_path / kind).mkdir()
        for number, pixels in enumerate(levels):
            PIL.Image.fromarray(pixels.T if kind == "pictures" else pixels).save(tmp_path / kind / f"{number}.{suffix}")
    data = [f"--{test}{option}={tmp_path}/{kind}" for test in ("", "test-")
            for option, kind in (("data", "pictures"), ("masks", "masks"))]
    result = CliRunner().invoke(eval_command.main, ["judge", *data, f"--dest={tmp_path}/j.pt", "--steps=1"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["test_num"] == 4


def test_command_names_unreadable_data(tmp_path: Path) -> None:
    result = CliRunner().invoke(eval_command.main, [
        "judge", "--data=none.zip", "--masks=none.zip", "--test-data=none.zip", "--test-masks=none.zip", "--dest=j.pt",
    ])
    assert result.exit_code == 1
    assert "--data, --masks: none.zip" in result.output


@pytest.mark.parametrize("size, dest, text", [
    ((18, 20), "j.pt", "--data, --masks: pictures must be uint8 [N, 3, S, S]"),
    ((18, 18), "p.zip/j.pt", "--dest: can't write to"),
])
def test_command_says_in_one_line_what_is_wrong(tmp_path: Path, size: tuple[int, int], dest: str, text: str) -> None:
    data = _write(tmp_path / "p.zip", np.zeros((2, *size, 3), np.uint8))
    truth = _write(tmp_path / "m.zip", np.zeros((2, *size), np.uint8))
    result = CliRunner().invoke(eval_command.main, [
        "judge", f"--data={data}", f"--masks={truth}", f"--test-data={data}", f"--test-masks={truth}",
        f"--dest={tmp_path}/{dest}", "--steps=1",
    ])
    assert result.exit_code == 1 and text in result.output and "Traceback" not in result.output
