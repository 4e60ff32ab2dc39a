"""Data set `shapes`: whole objects of the promised size in the promised place, exact masks, repeatable."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from layered_plugin import dataset_tool
from layered_plugin.data.mask_files import read_pairs
from layered_plugin.synthetic import drawing, shapes
from layered_plugin.synthetic.lighting import Light, blur_matrix, contact_shadow, light_field, put_into_scene


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    pairs = [shapes.draw_picture(36, np.random.default_rng([0, index])) for index in range(300)]
    return np.stack([picture for picture, _, _ in pairs]), np.stack([mask for _, mask, _ in pairs])


@pytest.mark.parametrize("kind", shapes.KINDS)
def test_outlines_have_unit_area(kind: str) -> None:
    x, y = shapes.outline(kind, np.random.default_rng(1)).T
    area = sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x))) / 2
    assert abs(area) == pytest.approx(1)


@pytest.mark.parametrize("background", [(0.3, 0.4, 0.5), (0.8, 0.8, 0.8), (0.9, 0.5, 0.1)])
def test_object_colour_is_the_first_of_20_that_stands_out(background: tuple[float, float, float]) -> None:
    for seed in range(20):
        found, rng = np.random.default_rng(seed), np.random.default_rng(seed)
        colour = shapes._object_colour(np.array(background, np.float32), found)
        tries = [shapes._colour(rng, (0.55, 1.0), (0.6, 1.0)) for _ in range(20)]
        distances = [np.linalg.norm(one - np.array(background, np.float32)) for one in tries]
        first = next((idx for idx, distance in enumerate(distances) if distance >= shapes.MIN_CONTRAST),
                     int(np.argmax(distances)))
        assert colour.tolist() == tries[first].tolist()
        assert found.random() == rng.random()  # The same number of draws, whichever it was.


def test_unknown_outlines_are_refused() -> None:
    with pytest.raises(ValueError, match="`kind` to be one of ellipse, box, .* got 'line'"):
        shapes.outline("line", np.random.default_rng(0))


def test_coverage_is_near_a_quarter_and_bounded(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    share = drawn[1].mean(axis=(1, 2)) / 255
    assert 0.22 < share.mean() < 0.28
    assert share.min() > 0.1
    assert share.max() < 0.45


def test_centres_stay_near_the_middle(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    weights = drawn[1].astype(float)
    axis = (np.arange(36) + 0.5) / 36 - 0.5
    total = weights.sum(axis=(1, 2))
    x, y = (weights.sum(axis=1) @ axis) / total, (weights.sum(axis=2) @ axis) / total
    # A blob's centre of mass may lie off its origin; the mean offset is zero.
    assert max(abs(x).max(), abs(y).max()) < shapes.JITTER + 0.06
    assert abs(x.mean()) < 0.02 and abs(y.mean()) < 0.02


def test_edges_are_smooth_and_insides_opaque(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    masks = drawn[1]
    between = ((masks > 0) & (masks < 255)).mean(axis=(1, 2))
    assert (between > 0.01).all() and (between < 0.25).all()
    assert (masks.max(axis=(1, 2)) == 255).all()


def test_objects_differ_from_their_surroundings(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    pictures, masks = drawn
    distances = [
        np.linalg.norm(picture[mask == 255].mean(axis=0) - picture[mask == 0].mean(axis=0))
        for picture, mask in zip(pictures, masks, strict=True)
    ]
    assert np.median(distances) > 60


def test_command_writes_the_same_bytes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two jobs as with one; in threads, since that processes do is shown where composites are drawn."""
    monkeypatch.setattr(drawing, "CHUNK", 2)
    monkeypatch.setattr(drawing, "ProcessPoolExecutor", lambda jobs, _context, start, args: ThreadPoolExecutor(
        jobs, initializer=start, initargs=pickle.loads(pickle.dumps(args))))
    for name, jobs in (("a", 1), ("b", 2)):
        arguments = [f"--dest={tmp_path}/{name}.zip", f"--masks={tmp_path}/{name}-m.zip", "--num=5", "--size=16",
                     f"--jobs={jobs}"]
        result = CliRunner().invoke(dataset_tool.shapes, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert (tmp_path / "a-m.zip").read_bytes() == (tmp_path / "b-m.zip").read_bytes()
    pictures, masks = read_pairs(tmp_path / "a.zip", tmp_path / "a-m.zip")
    assert pictures.shape == (5, 3, 16, 16)
    assert np.array_equal(masks[3], shapes.draw_picture(16, np.random.default_rng([0, 3]))[1])


def test_labels_are_drawn_for_who_wants_them() -> None:
    one, other = (shapes.draw_picture(16, np.random.default_rng(0), labelled=wanted) for wanted in (True, False))
    assert np.array_equal(one.picture, other.picture) and np.array_equal(one.mask, other.mask)
    assert one.labels is not None and other.labels is None


def test_seeds_give_other_pictures() -> None:
    first, second = (shapes.draw_picture(16, np.random.default_rng([seed, 0]))[0] for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("arguments, text", [
    (["--dest=a.tar"], "--dest must end in .zip, got a.tar"),
    (["--dest=a.zip", "--masks=a.zip"], "--masks must differ from --dest"),
    (["--dest=a.zip", "--masks=b/../a.zip"], "--masks must differ from --dest"),
    (["--dest=a.zip", "--num=0"], "--num"),
    (["--dest=a.zip", "--size=4"], "--size"),
    (["--dest=a.zip", "--masks=b.zip", "--labels=b.zip"], "--labels must differ from --masks, got b.zip for both"),
    (["--dest=a.zip", "--objects=6"], "--objects"),
    ([], "--dest"),
])
def test_wrong_options_are_named(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(dataset_tool.shapes, arguments)
    assert result.exit_code == 2
    assert text in result.output


def test_blur_matrix_keeps_the_sum_and_shifts() -> None:
    dot = np.zeros(33, np.float32)
    dot[16] = 1
    blurred = blur_matrix(33, 2.0, 3.0) @ dot
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    assert int(blurred.argmax()) == 19
    assert blurred[21] / blurred[19] == pytest.approx(np.exp(-0.5), rel=1e-5)


def test_shadow_lies_below_the_object() -> None:
    alpha = np.zeros((32, 32), np.float32)
    alpha[12:20, 12:20] = 1
    shade = contact_shadow(alpha, 0.06, 0.125)
    assert shade.sum(axis=1) @ np.arange(32) / shade.sum() == pytest.approx(15.5 + 4, abs=0.05)
    assert shade.sum(axis=0) @ np.arange(32) / shade.sum() == pytest.approx(15.5, abs=0.05)


def test_light_field_is_one_in_the_middle_and_linear() -> None:
    field = light_field(4, (0.8, -0.4))
    expected = [[1 + 0.8 * x - 0.4 * y for x in (-0.375, -0.125, 0.125, 0.375)] for y in (-0.375, -0.125, 0.125, 0.375)]
    assert np.allclose(field, expected)


def test_scene_matches_the_formula_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    alpha, colour, bg = rng.random((8, 8)), rng.random((8, 8, 3)), rng.random((8, 8, 3))
    light = Light(0.06, 0.06, 0.6, tint=(0.5, 1.0, 1.2), gradient=(0.4, -0.6))
    scene = put_into_scene(colour * alpha[:, :, None], alpha, bg, light)
    shade = contact_shadow(alpha, 0.06, 0.06)
    for y, x, c in np.ndindex(8, 8, 3):
        value = alpha[y, x] * colour[y, x, c] + (1 - alpha[y, x]) * bg[y, x, c] * (1 - 0.6 * shade[y, x])
        value *= light.tint[c] * (1 + 0.4 * ((x + 0.5) / 8 - 0.5) - 0.6 * ((y + 0.5) / 8 - 0.5))
        assert abs(scene[y, x, c] - min(value * 255, 255)) <= 0.501


def test_several_objects_are_smaller_visible_and_labelled(tmp_path: Path) -> None:
    drawn = [shapes.draw_picture(36, np.random.default_rng([0, index]), 3) for index in range(60)]
    labels, masks = np.stack([one.labels for one in drawn]), np.stack([one.mask for one in drawn])
    assert np.array_equal(labels > 0, masks >= 128)
    shares = np.stack([(labels == number).mean(axis=(1, 2)) for number in (1, 2, 3)])
    assert shares.min() > 0.01 and (0.035 < shares.mean(axis=1)).all() and (shares.mean(axis=1) < 0.06).all()
    paths = [f"--dest={tmp_path}/a.zip", f"--labels={tmp_path}/l.zip"]
    result = CliRunner().invoke(dataset_tool.shapes, [*paths, "--objects=3", "--num=4"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    pictures, written = read_pairs(tmp_path / "a.zip", tmp_path / "l.zip")
    assert np.array_equal(written, labels[:4])
    assert np.array_equal(pictures[2].transpose(1, 2, 0), drawn[2].picture)


def test_one_object_is_drawn_as_if_there_were_never_more() -> None:
    """The order of random draws for one object: background, outline, size, centre, colour, detail, shade, light."""
    rng = np.random.default_rng([0, 7])
    picture, mask, labels = shapes.draw_picture(24, np.random.default_rng([0, 7]))
    bg = shapes._background(24, rng)
    corners = shapes.outline(str(rng.choice(shapes.KINDS)), rng)
    reach = np.linalg.norm(corners, axis=1).max()
    scale = min(np.sqrt(rng.uniform(0.14, 0.38)), 0.46 / reach)
    centre = 0.5 + rng.uniform(-0.12, 0.12, size=2)
    alpha = shapes._stencil([centre + corners * scale], 24)
    colour = shapes._object_colour(bg.mean(axis=(0, 1)), rng)
    fg = shapes._add_detail(colour * np.ones((24, 24, 1), np.float32), colour, centre, corners * scale, rng)
    fg = np.clip(fg * shapes._shading(24, centre, scale, rng)[:, :, None], 0, 1) * alpha[:, :, None]
    light = Light(0.06, 0.06, 0.6, tuple(rng.uniform(0.65, 1.15, size=3)), tuple(rng.uniform(-0.6, 0.6, size=2)))
    assert np.array_equal(picture, put_into_scene(fg, alpha, bg, light))
    assert np.array_equal(mask, np.rint(alpha * 255)) and np.array_equal(labels, mask >= 128)
