"""layered_plugin.app: what the page computes, and the page itself in a headless browser where there is one."""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from tiny_models import SIDE, make_gan_run, make_model, picture

from layered_plugin import Segmenter, app, trust
from layered_plugin.model.layers import Layers, composite
from layered_plugin.model.scenes import seed_codes
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.segmentation.edges import foreground_colors, is_enlarged

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return make_gan_run(folder / "00000-gan"), make_model(folder / "00001-distill"), make_model(
        folder / "00002-encoder", kind="encoder"), make_model(folder / "00003-chunks", kind="chunks")


def test_a_picture_gives_mask_cutout_and_confidence(runs):
    given = picture(30, 40, seed=1)
    segmenter = Segmenter.load(runs[1], "cpu")
    mask, cutout, background, text = app.segment(segmenter, given)
    expected = segmenter([given])[0]
    assert np.abs(np.asarray(mask) / 255 - expected.mask).max() <= 0.5 / 255 + 1e-6
    assert cutout.mode == "RGBA" and cutout.getchannel("A").tobytes() == mask.tobytes()
    assert is_enlarged(given.size, segmenter.resolution) and background is None
    shown = np.asarray(foreground_colors(given, expected.mask)) * (np.asarray(mask) > 0)[:, :, None]
    np.testing.assert_array_equal(np.asarray(cutout)[:, :, :3], shown)
    assert f"{expected.confidence:.2f}" in text and f"{(expected.mask >= 0.5).mean():.0%}" in text
    assert app.segment(Segmenter.load(runs[2], "cpu"), given)[2].size == given.size  # An encoder draws the ground.
    assert app.segment(segmenter, None)[:3] == (None, None, None)


def test_a_picture_is_turned_upright_as_its_exif_says(runs, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # Turned by 90 degrees.
    picture(40, 30).save(tmp_path / "turned.jpg", exif=exif)
    segmenter = Segmenter.load(runs[1], "cpu")
    with PIL.Image.open(tmp_path / "turned.jpg") as turned:
        mask, cutout, _, _ = app.segment(segmenter, turned)
    assert mask.size == cutout.size == (40, 30)


def test_scenes_are_those_of_the_seeds_and_their_objects_move(runs):
    G = load_snapshot(runs[0])["G_ema"]
    scenes = app.moved_scenes(G, 5, 0, 0)
    assert [caption for _picture, caption in scenes] == [f"seed {seed}" for seed in range(5, 21)]
    layers = G.synthesis(seed_codes(G, [7]), noise_mode="const", return_layers=True)
    expected = (composite(layers) * 127.5 + 128).clamp(0, 255)[0].permute(1, 2, 0).numpy()
    small = scenes[2][0].resize((SIDE, SIDE), PIL.Image.Resampling.NEAREST)
    assert np.abs(np.asarray(small) - expected).max() <= 2
    # Moved out of sight, only the background is left.
    away = app.moved_scenes(G, 7, SIDE, 0)[0][0].resize((SIDE, SIDE), PIL.Image.Resampling.NEAREST)
    background = (layers.bg * 127.5 + 128).clamp(0, 255)[0].permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(away) - background).max() <= 2 and torch.is_tensor(layers.mask)


@pytest.mark.parametrize("right, down", [(2, 0), (0, 3), (-1, -4), (3, -2)])
def test_objects_move_where_the_sliders_say(runs, monkeypatch, right, down):
    G, place = load_snapshot(runs[0])["G_ema"], (7, 5)  # Row and column of an object of one pixel, white on black.
    mask = torch.zeros(app.NUM_SCENES, 1, SIDE, SIDE)
    mask[:, :, place[0], place[1]] = 1
    white = torch.ones(app.NUM_SCENES, 3, SIDE, SIDE)
    monkeypatch.setattr(app, "draw_layers", lambda *_args, **_kwargs: Layers(-white, white, mask))
    shown = app.moved_scenes(G, 0, right, down)[0][0].resize((SIDE, SIDE), PIL.Image.Resampling.NEAREST)
    assert np.argwhere(np.asarray(shown.convert("L")) > 128).tolist() == [[place[0] + down, place[1] + right]]


@pytest.mark.parametrize("args, code, text", [
    ([], 2, "--model and --network"),
    (["--model={3}"], 2, "--model: encoders of chunks"),
    (["--model=none"], 1, "--model: none"),
    (["--network=none"], 1, "--network: none"),
])
def test_wrong_values_are_named(runs, monkeypatch, args, code, text):
    monkeypatch.setattr(app, "check_gradio", lambda: None)
    result = CliRunner().invoke(app.main, [arg.format(*runs) for arg in args])
    assert result.exit_code == code and text in result.stderr, result.output


def test_page_without_gradio_names_the_extra(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app.main, [f"--network={runs[0]}"])
    assert result.exit_code == 1 and "layered-plugin[app]" in result.stderr


def test_network_that_a_model_names_is_loaded_only_if_it_was_made_here(runs, capsys):
    path = str(runs[0] / "network-snapshot-000001.pkl")
    assert app.own_network(None) is None and app.own_network("gone.pkl") is None
    trust.trust(trust.pickle_hash(path))
    assert app.own_network(path) == path
    (runs[0] / "foreign.pkl").write_bytes(b"made elsewhere")
    assert app.own_network(str(runs[0] / "foreign.pkl")) is None and "--network=" in capsys.readouterr().err


def test_run_folder_that_a_model_names_is_judged_as_the_pickle_that_would_be_loaded(runs, tmp_path, capsys):
    assert app.own_network(str(runs[0])) == str(runs[0] / "network-snapshot-000001.pkl")
    foreign = tmp_path / "network-snapshot-000000.pkl"
    foreign.write_bytes(b"made elsewhere")
    assert app.own_network(str(tmp_path)) is None and f"--network={foreign}" in capsys.readouterr().err


@contextlib.contextmanager
def served(*args):
    """Address of the page, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "layered_plugin.app", f"--port={port}", "--device=cpu", *map(str, args)]
    env = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(600):
            assert process.poll() is None, process.stdout.read()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.communicate(timeout=30)


def shown(page, selector):
    """The first picture of an element, as the page got it."""
    with urllib.request.urlopen(page.locator(selector).first.get_attribute("src")) as response:
        return PIL.Image.open(io.BytesIO(response.read())).convert("RGB")


def farthest(one, other):
    """Largest difference of two pictures' levels."""
    return np.abs(np.asarray(one).astype(int) - np.asarray(other)).max()


def test_page_in_a_browser(runs, tmp_path):
    pytest.importorskip("gradio")
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    given = picture(30, 40, seed=1)
    given.save(tmp_path / "car.png")
    with served(f"--model={runs[1]}", f"--network={runs[0]}") as url, playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(url)
        page.locator("#picture input[type=file]").set_input_files(tmp_path / "car.png")
        page.locator("#mask img").first.wait_for()
        mask = np.asarray(shown(page, "#mask img").convert("L")).astype(int)
        expected = np.asarray(app.segment(Segmenter.load(runs[1], "cpu"), given)[0]).astype(int)
        assert np.abs(mask - expected).max() <= 1
        assert "Confidence" in page.locator("#said textarea").input_value()
        page.get_by_role("tab", name="Scenes").click()
        page.locator("#draw").click()
        page.locator("#scenes img").nth(15).wait_for()
        before = shown(page, "#scenes img")
        G = load_snapshot(runs[0])["G_ema"]
        assert farthest(before, app.moved_scenes(G, 0, 0, 0)[0][0]) <= 1

        # Drag the slider from its middle to the right end; scenes are drawn when it is let go.
        address = page.locator("#scenes img").first.get_attribute("src")
        handle = page.locator("#right input[type=range]")
        box = handle.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2, steps=8)
        page.mouse.up()
        page.wait_for_function("old => document.querySelector('#scenes img').getAttribute('src') !== old", arg=address)
        right = int(handle.input_value())
        assert right == SIDE // 2
        moved = shown(page, "#scenes img")
        assert farthest(moved, app.moved_scenes(G, 0, right, 0)[0][0]) <= 1 and farthest(moved, before) > 8
        browser.close()
