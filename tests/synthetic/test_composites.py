"""Composite data sets from tiny drawn cut-outs and backgrounds: exact mattes, presets, errors, repeatability."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from layered_plugin.data.mask_files import read_pairs
from layered_plugin.dataset_tool import composites as main
from layered_plugin.errors import ImpossibleRecipeError, UnusableError
from layered_plugin.synthetic.collage import PRESETS, Recipe, crop_background, draw_composite, place
from layered_plugin.synthetic.lighting import Light, put_into_scene
from layered_plugin.synthetic.material import Source, find_files, prepare_background, prepare_cutout


def _disc(size: int = 64, colour: tuple[int, int, int] = (255, 0, 0)) -> Image.Image:
    axis = np.arange(size) + 0.5 - size / 2
    inside = axis[None, :] ** 2 + axis[:, None] ** 2 < (size / 2) ** 2
    # The hidden colour is green: it must never bleed into the picture.
    pixels = np.where(inside[:, :, None], [*colour, 255], [0, 255, 0, 0]).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def material(tmp_path: Path) -> tuple[Path, Path]:
    cutouts, backgrounds = tmp_path / "cutouts", tmp_path / "backgrounds"
    (cutouts / "sub").mkdir(parents=True)
    backgrounds.mkdir()
    _disc().save(cutouts / "disc.png")
    _disc(40, (0, 0, 255)).save(cutouts / "sub" / "blue.png")
    (cutouts / "notes.txt").write_text("not a picture")
    for name, level in (("dark", 40), ("light", 200)):
        Image.new("RGB", (80, 60), (level, level, level)).save(backgrounds / f"{name}.png")
    return cutouts, backgrounds


def _run(material: tuple[Path, Path], dest: Path, *options: str) -> Result:
    return CliRunner().invoke(main, [
        f"--cutouts={material[0]}", f"--backgrounds={material[1]}",
        f"--dest={dest}.zip", f"--masks={dest}-masks.zip", "--size=16", "--num=6", *options,
    ])


def test_presets_are_the_measured_recipes() -> None:
    assert PRESETS["plants"] == Recipe(
        scale=(0.45, 0.75), rotation=180, flip=0.5, jitter=0.12, crop=(0.15, 0.6), shadow_strength=0, tint=(1, 1),
        light=0,
    )
    lit = PRESETS["plants-lit"]
    assert (lit.scale, lit.jitter, lit.tint, lit.light) == ((0.5, 0.95), 0.15, (0.5, 1.2), 0.8)
    assert (lit.shadow_blur, lit.shadow_offset, lit.shadow_strength) == (0.06, 0.06, 0.6)
    assert (lit.crop, lit.rotation, lit.flip) == ((0.15, 0.6), 180, 0.5)


def test_placed_disc_has_the_area_centre_and_colour_asked_for() -> None:
    fg, alpha = place(prepare_cutout(_disc(), 128), 32, 0.5, 30.0, False, (0.6, 0.4))
    assert alpha.mean() == pytest.approx(np.pi / 4 * 0.25, rel=0.02)
    axis = (np.arange(32) + 0.5) / 32
    assert alpha.sum(axis=0) @ axis / alpha.sum() == pytest.approx(0.6, abs=0.005)
    assert alpha.sum(axis=1) @ axis / alpha.sum() == pytest.approx(0.4, abs=0.005)
    assert np.allclose(fg[:, :, 0], alpha, atol=2 / 255)
    assert fg[:, :, 1:].max() == 0


@pytest.mark.parametrize("rotation, flip, corner", [
    (0, False, (0, 0)), (90, False, (0, 1)), (180, False, (1, 1)), (-90, False, (1, 0)), (0, True, (0, 1)),
    (90, True, (1, 1)),
])
def test_cutouts_are_mirrored_then_turned_clockwise(rotation: float, flip: bool, corner: tuple[int, int]) -> None:
    # Only the upper left quarter of the cut-out is opaque; the corner is its (row, column) afterwards.
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:8, :8] = 255
    _, alpha = place(prepare_cutout(Image.fromarray(pixels), 64), 16, 1.0, rotation, flip, (0.5, 0.5))
    quarters = alpha.reshape(2, 8, 2, 8).mean(axis=(1, 3))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == corner
    assert quarters[corner] > 0.9


def test_picture_is_the_composite_of_the_mask() -> None:
    cutouts = [Source("disc", prepare_cutout(_disc(), 64))]
    backgrounds = [Source("gray", Image.new("RGB", (50, 50), (100, 100, 100)))]
    drawn = draw_composite(cutouts, backgrounds, PRESETS["plants"], 24, np.random.default_rng(0))
    alpha = drawn.mask / 255.0
    expected = alpha[:, :, None] * [255, 0, 0] + (1 - alpha)[:, :, None] * 100
    assert np.abs(drawn.picture - expected).max() <= 2
    assert drawn.record["coverage"] == pytest.approx(alpha.mean(), abs=0.002)


def test_lit_background_is_darker_below_the_object() -> None:
    cutouts = [Source("disc", prepare_cutout(_disc(), 64))]
    backgrounds = [Source("white", Image.new("RGB", (50, 50), (255, 255, 255)))]
    recipe = Recipe(scale=(0.5, 0.5), jitter=0, shadow_blur=0.06, shadow_offset=0.06, shadow_strength=0.6)
    drawn = draw_composite(cutouts, backgrounds, recipe, 32, np.random.default_rng(0))
    below, above = drawn.picture[25, 16].astype(int), drawn.picture[6, 16].astype(int)
    assert drawn.mask[25, 16] == drawn.mask[6, 16] == 0
    assert below.mean() < above.mean() - 15


def test_grounds_are_the_pictures_without_object_but_with_its_shadow(material: tuple[Path, Path],
                                                                     tmp_path: Path) -> None:
    lit = [f"--grounds={tmp_path}/g.zip", "--preset=plants-lit", "--light=0", "--tint=1,1", "--size=32"]
    assert _run(material, tmp_path / "a", *lit).exit_code == 0
    pictures, masks = read_pairs(tmp_path / "a.zip", tmp_path / "a-masks.zip")
    grounds, _masks = read_pairs(tmp_path / "g.zip", tmp_path / "a-masks.zip")
    for picture, ground, mask in zip(pictures, grounds, masks, strict=True):
        assert np.array_equal(picture[:, mask == 0], ground[:, mask == 0])  # In sight: the picture itself.
        level = float(ground.max())  # Of the backgrounds of one color, where no shadow falls.
        assert np.ptp(ground, axis=0).max() <= 1 and min(abs(level - 40), abs(level - 200)) <= 1
        deep = ground[0][mask == 255].min() / level  # Under the object's middle the full shadow takes 0.6 at most.
        assert 0.35 < deep < 0.75 * ground[0][mask == 0].mean() / level


def test_small_objects_are_drawn_again() -> None:
    cutouts = [Source("disc", prepare_cutout(_disc(), 64))]
    backgrounds = [Source("gray", Image.new("RGB", (50, 50)))]
    recipe = Recipe(scale=(0.1, 0.6), min_coverage=0.15)
    shares = [
        draw_composite(cutouts, backgrounds, recipe, 16, np.random.default_rng(seed)).mask.mean() / 255
        for seed in range(20)
    ]
    assert min(shares) >= 0.149
    with pytest.raises(ImpossibleRecipeError, match="no object covers 0.9"):
        draw_composite(cutouts, backgrounds, Recipe(min_coverage=0.9), 16, np.random.default_rng(0))


def test_background_crop_stays_within_its_range() -> None:
    # A ramp of one level a pixel shows the side of the crop as the range of levels.
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (200, 1, 3)))
    spans = []
    for seed in range(50):
        bg = crop_background(ramp, 20, Recipe(crop=(0.2, 0.5), flip=0), np.random.default_rng(seed))
        spans.append((bg[0, -1, 0] - bg[0, 0, 0]) * 255 * 20 / 19)
    assert min(spans) > 38 and max(spans) < 102
    assert max(spans) - min(spans) > 30


def test_the_number_of_processes_does_not_change_the_bytes(material: tuple[Path, Path], tmp_path: Path) -> None:
    for jobs in (1, 2):
        result = _run(material, tmp_path / f"{jobs}" / "a", "--preset=plants-lit", f"--jobs={jobs}", "--num=70")
        assert result.exit_code == 0, result.output
    for name in ("a.zip", "a-masks.zip", "a-manifest.jsonl"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_manifest_tells_what_each_picture_is_made_of(material: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = tmp_path / "records.jsonl"
    result = _run(material, tmp_path / "a", f"--manifest={manifest}", "--jitter=0", "--scale=0.5", "--rotation=0")
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in manifest.read_text().splitlines()]
    _, masks = read_pairs(tmp_path / "a.zip", tmp_path / "a-masks.zip")
    assert [record["picture"] for record in records] == [f"00000/img{index:08d}.png" for index in range(6)]
    assert {record["cutout"] for record in records} <= {"cutouts/disc.png", "cutouts/sub/blue.png"}
    assert {record["background"] for record in records} <= {"backgrounds/dark.png", "backgrounds/light.png"}
    for record, mask in zip(records, masks, strict=True):
        assert (record["scale"], record["rotation"], record["position"]) == (0.5, 0, [0.5, 0.5])
        assert record["coverage"] == pytest.approx(mask.mean() / 255, abs=0.002)


def test_holdout_splits_the_cutouts(material: tuple[Path, Path], tmp_path: Path) -> None:
    used = {}
    for split in ("train", "test"):
        result = _run(material, tmp_path / split, "--holdout=2", f"--split={split}")
        assert result.exit_code == 0, result.output
        lines = (tmp_path / f"{split}-manifest.jsonl").read_text().splitlines()
        used[split] = {json.loads(line)["cutout"] for line in lines}
    assert used == {"train": {"cutouts/disc.png"}, "test": {"cutouts/sub/blue.png"}}


def test_excluded_files_are_not_used(material: tuple[Path, Path]) -> None:
    assert [name for name, _ in find_files([str(material[0])], ["sub/*"])] == ["cutouts/disc.png"]
    assert [name for name, _ in find_files([str(material[0])])] == ["cutouts/disc.png", "cutouts/sub/blue.png"]


def test_unusable_files_are_named_and_left_out(material: tuple[Path, Path], tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(material[0] / "flat.png")
    (material[0] / "broken.png").write_bytes(b"no picture")
    result = _run(material, tmp_path / "a")
    assert result.exit_code == 0, result.output
    assert "flat.png: no alpha channel" in result.stderr
    assert "broken.png: unreadable" in result.stderr
    assert "--cutouts: 2 pictures, 2 left out" in result.stderr


@pytest.mark.parametrize("image, text", [
    (Image.new("RGB", (8, 8)), "no alpha channel"),
    (Image.new("RGBA", (8, 8), (0, 0, 0, 255)), "without a transparent pixel"),
    (Image.new("RGBA", (8, 8)), "without an opaque pixel"),
])
def test_pictures_without_a_cut_out_object_are_refused(image: Image.Image, text: str) -> None:
    with pytest.raises(UnusableError, match=text):
        prepare_cutout(image, 64)


def test_palette_transparency_counts_as_alpha() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 255, 0, 255, 0, 0])
    palette.putpixel((0, 0), 0)
    palette.info["transparency"] = 0
    prepared = prepare_cutout(palette, 64)
    assert prepared.getpixel((2, 2)) == (0, 0, 0, 0)
    assert prepared.getpixel((5, 5)) == (255, 0, 0, 255)


def test_backgrounds_shrink_to_the_shorter_side() -> None:
    assert prepare_background(Image.new("RGBA", (200, 100)), 50).size == (100, 50)
    assert prepare_background(Image.new("RGB", (40, 30)), 50).size == (40, 30)


@pytest.mark.parametrize("options, code, text", [
    (["--scale=0.7,0.5"], 2, "--scale': must be MIN,MAX within 0.01 and 2, got 0.7,0.5"),
    (["--scale=wide"], 2, "--scale"),
    (["--tint=1,2,3"], 2, "--tint"),
    (["--crop=0.5,1.5"], 2, "--crop"),
    (["--preset=cars"], 2, "--preset"),
    (["--rotation=200"], 2, "--rotation"),
    (["--shadow-strength=0.5"], 2, "--shadow-strength needs --shadow-blur"),
    (["--holdout=3", "--split=test"], 2, "--holdout leaves no cut-out for --split=test, got 3 of 2"),
    (["--min-coverage=0.9"], 1, "--min-coverage: no object covers 0.9"),
    (["--objects=2", "--scale=1.5"], 1, "--objects, --scale: no room for object 2 of 2"),
    (["--objects=9"], 2, "--objects"),
    (["--labels=a.tar"], 2, "--labels must end in .zip, got a.tar"),
    (["--cutouts-exclude=*"], 1, "--cutouts: no usable picture in"),
    (["--backgrounds=nowhere"], 1, "--backgrounds: no such folder: nowhere"),
])
def test_wrong_options_are_named(
    material: tuple[Path, Path], tmp_path: Path, options: list[str], code: int, text: str
) -> None:
    result = _run(material, tmp_path / "a", *options)
    assert result.exit_code == code
    assert text in result.output
    assert not (tmp_path / "a.zip").exists()


def test_several_objects_are_labelled_and_recorded(material: tuple[Path, Path], tmp_path: Path) -> None:
    result = _run(material, tmp_path / "a", "--objects=2", f"--labels={tmp_path}/l.zip", "--size=32")
    assert result.exit_code == 0, result.output
    _, masks = read_pairs(tmp_path / "a.zip", tmp_path / "a-masks.zip")
    pictures, labels = read_pairs(tmp_path / "a.zip", tmp_path / "l.zip")
    assert np.array_equal(labels > 0, masks >= 128)
    records = [json.loads(line) for line in (tmp_path / "a-manifest.jsonl").read_text().splitlines()]
    for picture, label, record in zip(pictures, labels, records, strict=True):
        assert len(record["objects"]) == 2 and record["background"].startswith("backgrounds/")
        assert record["coverage"] == pytest.approx(sum(one["coverage"] for one in record["objects"]), abs=0.001)
        for number, one in enumerate(record["objects"], start=1):
            assert (label == number).mean() == pytest.approx(one["coverage"], abs=0.03)
            red, _, blue = picture[:, label == number].mean(axis=1)
            assert (red > blue) == (one["cutout"] == "cutouts/disc.png")


def test_presets_for_several_objects_are_smaller_and_for_one_the_same() -> None:
    assert PRESETS["plants"].for_objects(1) == PRESETS["plants"]
    four = PRESETS["plants"].for_objects(4)
    assert four.scale == pytest.approx((0.45 / 8**0.5, 0.75 / 8**0.5)) and four.min_coverage == pytest.approx(0.03 / 8)


def test_one_object_takes_the_draws_in_the_order_it_always_did(material: tuple[Path, Path]) -> None:
    cutouts = [Source("a", prepare_cutout(_disc(), 64)), Source("b", prepare_cutout(_disc(40), 64))]
    backgrounds = [Source("c", prepare_background(Image.effect_noise((40, 40), 50).convert("RGB"), 40))]
    drawn = draw_composite(cutouts, backgrounds, PRESETS["plants-lit"], 16, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    cutout, scale = cutouts[int(rng.integers(2))], rng.uniform(0.5, 0.95)
    rotation, flip = rng.uniform(-180, 180), bool(rng.random() < 0.5)
    centre = 0.5 + rng.uniform(-0.15, 0.15, size=2)
    fg, alpha = place(cutout.image, 16, scale, rotation, flip, (float(centre[0]), float(centre[1])))
    bg = crop_background(backgrounds[int(rng.integers(1))].image, 16, PRESETS["plants-lit"], rng)
    light = Light(0.06, 0.06, 0.6, tuple(rng.uniform(0.5, 1.2, size=3)), tuple(rng.uniform(-0.8, 0.8, size=2)))
    assert np.array_equal(drawn.picture, put_into_scene(fg, alpha, bg, light))
    assert list(drawn.record) == ["cutout", "background", "scale", "rotation", "flip", "position", "coverage"]
