"""layered_plugin.export: parts as ordinary snapshots, generators without code, scenes for painters."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import legacy
import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from tiny_models import make_discriminator
from torch_utils import custom_ops
from training.networks import Generator

from layered_plugin import export, generate
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.layers import Layers
from layered_plugin.model.open_raster import scene_layers, write_open_raster
from layered_plugin.model.scenes import to_pictures
from layered_plugin.model.snapshots import load_snapshot, save_network_pkl

TESTS = Path(__file__).parent
KINDS = dict(plain={}, shared=dict(mapping="shared"), single=dict(generator="single", num_objects=2),
             two=dict(num_objects=2), labels=dict(c_dim=2))


def save_run(folder, c_dim=0, **kwargs):
    torch.manual_seed(0)
    G = LayeredGenerator(z_dim=8, c_dim=c_dim, w_dim=8, img_resolution=16, img_channels=3,
                         mapping_kwargs=dict(num_layers=1), **kwargs, synthesis_kwargs=dict(
                             channel_base=64, channel_max=4, num_fp16_res=2, conv_clamp=256, half_dtype="bfloat16"))
    for name, param in G.named_parameters():
        if name.endswith("noise_strength"):
            param.data.fill_(0.3)
    for net in G.mapping.children():
        net.w_avg.normal_()
    G.eval().requires_grad_(False)
    folder.mkdir(parents=True)
    save_network_pkl(folder / "network-snapshot-000001.pkl", dict(
        G=G, D=make_discriminator(), G_ema=G, training_set_kwargs=dict(path="cars", size_px=18), augment_pipe=None))
    return G


def invoke(*args):
    result = CliRunner().invoke(export.main, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result


def read(path):
    with open(path, "rb") as file:
        return legacy.load_network_pkl(file)


def picture_in(archive, name):
    return PIL.Image.open(io.BytesIO(archive.read(name)))


def draw_both(G, part):
    z, c = torch.randn(3, 8), torch.eye(2)[[0, 1, 0]] if G.c_dim else None
    how = dict(noise_mode="const", truncation_psi=0.5, force_fp32=True)
    return G(z, c, return_layers=True, **how), part(z, c, **how)


@pytest.mark.parametrize("kind", KINDS)
def test_background_is_an_ordinary_generator_of_that_layer(tmp_path, kind):
    G = save_run(tmp_path / "run", **KINDS[kind])
    invoke("background", f"--network={tmp_path / 'run'}", f"--dest={tmp_path / 'new/bg.pkl'}")
    data = read(tmp_path / "new/bg.pkl")
    assert isinstance(data["G_ema"], Generator) and type(data["G_ema"].synthesis).__name__ == "SynthesisNetwork"
    assert "half_dtype" not in str(data["G_ema"].init_kwargs)
    layers, img = draw_both(G, data["G_ema"])
    torch.testing.assert_close(img, layers.bg, rtol=1e-4, atol=1e-4)
    assert data["D"](img[:1], None).shape == (1, 1)


@pytest.mark.parametrize("kind, number", [("plain", 1), ("shared", 1), ("single", 2), ("two", 1), ("two", 2)])
def test_foreground_has_its_opacity_as_fourth_channel(tmp_path, kind, number):
    G = save_run(tmp_path / "run", **KINDS[kind])
    dest = tmp_path / "fg.pkl"
    invoke("foreground", f"--network={tmp_path / 'run'}", f"--object={number}", f"--dest={dest}")
    layers, img = draw_both(G, read(dest)["G_ema"])
    torch.testing.assert_close(img[:, :3], layers.fg[:, 3 * number - 3:3 * number], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(img[:, 3], 2 * layers.mask[:, number - 1] - 1, rtol=1e-4, atol=1e-4)


def test_parts_draw_in_an_official_checkout_without_the_plugin(tmp_path):
    save_run(tmp_path / "run")
    for part in ("background", "foreground"):
        invoke(part, f"--network={tmp_path / 'run'}", f"--dest={tmp_path / part}.pkl")
    (tmp_path / "checkout").mkdir()
    code = f"""import sys; sys.path.insert(0, {str(TESTS / "vendor")!r})
import official_checkout
official_checkout.install({str(Path(custom_ops.__file__).parents[1])!r}, {str(tmp_path / "checkout")!r})
import dnnlib, legacy, torch
out = official_checkout.draw({str(tmp_path / "background.pkl")!r})
with dnnlib.util.open_url({str(tmp_path / "foreground.pkl")!r}) as file:
    out["rgba"] = legacy.load_network_pkl(file)["G_ema"](torch.ones(2, 8), None, noise_mode="const")
assert not [name for name in sys.modules if name.startswith("layered_plugin")]
torch.save(out, {str(tmp_path / "there.pt")!r})
"""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | dict(OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    there = torch.load(tmp_path / "there.pt")
    z = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    img = read(tmp_path / "background.pkl")["G_ema"](z, None, truncation_psi=0.7, noise_mode="const", force_fp32=True)
    torch.testing.assert_close(there["img"], img, rtol=1e-4, atol=1e-4)
    rgba = read(tmp_path / "foreground.pkl")["G_ema"](torch.ones(2, 8), None, noise_mode="const")
    torch.testing.assert_close(there["rgba"], rgba, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["single", "labels"])
def test_generator_without_code_is_a_snapshot_to_the_commands(tmp_path, monkeypatch, kind):
    save_run(tmp_path / "run", **KINDS[kind])
    invoke("generator", f"--network={tmp_path / 'run'}", f"--dest={tmp_path / 'out/saved'}")
    pickled = load_snapshot(tmp_path / "run")
    args = ["--seeds=0-2", "--device=cpu", *(["--class=1"] if kind == "labels" else [])]

    def generated(network):
        result = CliRunner().invoke(generate.main, [f"--network={network}", f"--outdir={tmp_path / 'drawn'}", *args])
        assert result.exit_code == 0, result.output
        return [path.read_bytes() for path in sorted((tmp_path / "drawn").rglob("*.png"))]

    before = generated(tmp_path / "run")
    monkeypatch.setattr(legacy, "load_network_pkl", lambda *_: pytest.fail("unpickled"))
    assert generated(tmp_path / "out/saved") == before and len(before) >= 15
    saved = load_snapshot(tmp_path / "out/saved")
    for name in ("G_ema", "D"):
        for key, value in pickled[name].state_dict().items():
            assert torch.equal(saved[name].state_dict()[key], value)
    assert saved["training_set_kwargs"] == pickled["training_set_kwargs"]


@pytest.mark.parametrize("damage", ["json", "weights", "missing"])
def test_damaged_generator_is_named(tmp_path, damage):
    save_run(tmp_path / "run")
    invoke("generator", f"--network={tmp_path / 'run'}", f"--dest={tmp_path / 'saved'}")
    file = tmp_path / "saved" / ("generator.json" if damage == "json" else "generator.safetensors")
    file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:50])
    result = CliRunner().invoke(generate.main, [f"--network={tmp_path / 'saved'}", "--seeds=0", "--outdir=out"])
    assert result.exit_code == 1 and str(file) in result.stderr and "--network" in result.stderr


def test_scenes_are_open_raster_files(tmp_path):
    G = save_run(tmp_path / "run", num_objects=2)
    done = invoke("scenes", f"--network={tmp_path / 'run'}", "--seeds=3,5", f"--outdir={tmp_path / 'out'}")
    assert done.stdout == f"{tmp_path / 'out'}\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["seed0003.ora", "seed0005.ora"]
    generated = tmp_path / "drawn"
    CliRunner().invoke(generate.main, [f"--network={tmp_path / 'run'}", "--seeds=3", f"--outdir={generated}"])
    with zipfile.ZipFile(tmp_path / "out/seed0003.ora") as archive:
        first = archive.infolist()[0]  # By the specification, for programs that look at the first bytes.
        assert (first.filename, first.compress_type, first.extra) == ("mimetype", zipfile.ZIP_STORED, b"")
        assert archive.read("mimetype") == b"image/openraster"
        image = ElementTree.fromstring(archive.read("stack.xml"))
        assert image.attrib == dict(version="0.0.3", w="16", h="16")
        layers = image.findall("./stack/layer")
        assert [layer.get("name") for layer in layers] == ["object 2", "object 1", "background"]
        expected = ["cutouts2", "cutouts1", "backgrounds"]
        for layer, kind in zip(layers, expected, strict=True):
            picture = picture_in(archive, layer.get("src"))
            own = PIL.Image.open(generated / kind / "seed0003.png").convert("RGBA")
            assert picture.tobytes() == own.tobytes() and (layer.get("x"), layer.get("y")) == ("0", "0")
        thumbnail = picture_in(archive, "Thumbnails/thumbnail.png")
        assert thumbnail.format == "PNG" and max(thumbnail.size) <= 256
    assert G.num_objects == 2


def test_merged_picture_is_the_composite(tmp_path):
    layers = Layers(torch.rand(1, 3, 8, 300) * 2 - 1, torch.rand(1, 3, 8, 300) * 2 - 1, torch.rand(1, 1, 8, 300))
    scene = to_pictures(layers)[0]
    write_open_raster(tmp_path / "a.ora", scene_layers(scene))
    with zipfile.ZipFile(tmp_path / "a.ora") as archive:
        merged = np.asarray(picture_in(archive, "mergedimage.png")).astype(int)
        assert picture_in(archive, "Thumbnails/thumbnail.png").size == (256, 7)
    assert np.abs(merged[:, :, :3] - scene["composites"]).max() <= 2 and (merged[:, :, 3] == 255).all()


def test_layers_of_many_objects_are_in_their_order():
    layers = Layers(torch.zeros(1, 3, 4, 4), torch.rand(1, 33, 4, 4) * 2 - 1, torch.rand(1, 11, 4, 4))
    scene = to_pictures(layers)[0]
    found = scene_layers(scene)
    assert list(found) == ["background", *(f"object {number}" for number in range(1, 12))]
    assert all((found[f"object {number}"] == scene[f"cutouts{number}"]).all() for number in range(1, 12))


@pytest.mark.parametrize("args, code, text", [
    (["background", "--network=none", "--dest=a.pkl"], 1, "--network: none: no such file"),
    (["foreground", "--network=run", "--dest=a.pkl", "--object=2"], 2, "--object must be from 1 to 1"),
    (["background", "--network=run", "--dest=file/a.pkl"], 1, "--dest: can't write to file/a.pkl"),
    (["scenes", "--network=run", "--seeds=3-1", "--outdir=out"], 2, "--seeds must be"),
    (["scenes", "--network=run", "--seeds=1", "--outdir=file"], 1, "--outdir"),
])
def test_wrong_values_are_named(tmp_path, monkeypatch, args, code, text):
    monkeypatch.chdir(tmp_path)
    save_run(tmp_path / "run")
    Path("file").touch()
    result = CliRunner().invoke(export.main, args)
    assert result.exit_code == code and text in result.stderr, result.output
