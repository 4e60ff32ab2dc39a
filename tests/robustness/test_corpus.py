"""Damaged files, made from whole ones by a seed: each is refused in one line that names it, within 2 GB, or harmless.

LAYERED_PLUGIN_FUZZ=N makes N times as many.
"""

import copy
import io
import json
import os
import random
import resource
from contextlib import contextmanager
from pathlib import Path

import PIL.Image
import psutil
import pytest
import torch
from click.testing import CliRunner
from tiny_models import make_discriminator, make_gan_run, make_generator, make_model, make_pictures, picture, zip_folder

import invert
import train_layered
from layered_plugin import runs
from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import UserError
from layered_plugin.model.snapshots import load_snapshot
from layered_plugin.model.weights_file import load_generator, save_generator
from layered_plugin.report import reading
from layered_plugin.segmentation.model_file import load_model
from layered_plugin.segmentation.segment_files import segment_files
from layered_plugin.segmentation.segmenter import Segmenter
from layered_plugin.segmentation.stage import ModelRun
from layered_plugin.training.state import TrainingState

TIMES = int(os.environ.get("LAYERED_PLUGIN_FUZZ", "1"))
GIGABYTES = 2


@contextmanager
def little_memory():
    """An allocation beyond the limit fails at once, as on a small machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (GIGABYTES << 30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def one_line_naming(file, check):
    """Whether a check accepts; if not, it must say so in one line of bounded length that names the file."""
    with little_memory():
        try:
            check()
        except UserError as err:
            text = str(err)
        except Exception as err:
            raise AssertionError(f"{type(err).__name__}: {err}") from err
        else:
            return True
    named = Path(file).name in text or f"{Path(file).parent}: holds results" in text
    assert named and "\n" not in text and len(text) <= 700, text
    return False


def command_accepts(file, command, *args):
    """The same of a command."""
    with little_memory():
        result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    if result.exit_code == 0:
        return True
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.exit_code in (1, 2) and len(lines) == 1 and len(lines[0]) <= 1200, result.stderr
    assert Path(file).name in lines[0], lines[0]
    return False


# Ways to damage JSON: the new text, and whether any command may still take it.

def leaves(data, path=()):
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from leaves(value, (*path, key))
    else:
        yield path


def put(data, path, value):
    data = copy.deepcopy(data)
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return data


def damaged_json(text, rng, skip=()):
    """A damaged text, and whether it must be refused. `skip`: keys at the top whose contents mean nothing here."""
    data = json.loads(text)
    way = rng.randrange(9)
    if way == 0:
        return text[:rng.randrange(len(text.rstrip()))], True
    if way == 1:
        return rng.randbytes(rng.randrange(1, 200)).decode("latin-1"), True
    if way == 2:
        return rng.choice(["[" * 200_000, '{"a":' * 100_000, "null", "[]", "3", '"x"', "NaN", "", "\ufeff{}"]), True
    if way == 3:
        return json.dumps(dict(data, **{"surprise" * rng.randrange(1, 3): rng.choice([None, 1, "x", [], {}])})), True
    if way == 4:  # A key that is missing may have a default.
        short = copy.deepcopy(data)
        del short[rng.choice([key for key in short if key not in skip])]
        return json.dumps(short), False
    path = rng.choice([path for path in leaves(data) if path[0] not in skip])
    kept = data
    for key in path:
        kept = kept[key]
    wrong = [{"x": 1}, [[["x"]]], [None] * 3]
    if kept is not None and not isinstance(kept, str):  # Where nothing stands, a name may.
        wrong += ["x", ""]
    if not isinstance(kept, bool) and isinstance(kept, int | float):
        wrong += [-1e30, 1e300, 10**40, True]
    if isinstance(kept, str):
        wrong += [3, None, False]
    return json.dumps(put(data, path, rng.choice(wrong))), True


def try_json(name, path, accepts, num, skip=()):
    """Damage a JSON file so many times; nothing that must be refused is accepted."""
    text = path.read_text()
    for number in range(num * TIMES):
        rng = random.Random(f"{name} {number}")
        content, must_fail = damaged_json(text, rng, skip)
        path.write_bytes(content.encode("latin-1", errors="ignore") if "\ufeff" not in content else content.encode())
        assert not (accepts() and must_fail), f"{name} {number}: {content[:3000]}"
    path.write_text(text)
    assert accepts()


def damaged_bytes(content, rng):
    """A damaged binary file."""
    way = rng.randrange(4)
    if way == 0:
        return content[:rng.randrange(len(content))]
    if way == 1:
        return rng.randbytes(rng.randrange(300))
    start = rng.randrange(len(content))
    if way == 2:  # A block of zeros, as a disk leaves them.
        return content[:start] + bytes(min(512, len(content) - start)) + content[start + 512:]
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 20)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def try_bytes(name, path, accepts, num):
    """Damage a binary file so many times; what is not noticed must do no harm."""
    content = path.read_bytes()
    refused = 0
    for number in range(num * TIMES):
        path.write_bytes(damaged_bytes(content, random.Random(f"{name} {number}")))
        refused += not accepts()
    path.write_bytes(content)
    assert accepts() and refused >= num * TIMES // 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("data") / "cars", [f"{idx}.png" for idx in range(3)])


def test_training_options(data, tmp_path):
    run = tmp_path / "00000-cars"
    run.mkdir()
    dry = CliRunner().invoke(train_layered.main, ["--outdir=out", f"--data={data}", "-n", "--device=cpu",
                                                  "--resolution=16", "--cfg=demo", "--grow-schedule=8:1:8,16:1:8"])
    file = run / "training_options.json"
    file.write_text(dry.stdout)
    runs.save_training_state(run, 1, {})
    args = [f"--outdir={tmp_path}", f"--resume={run}", "-n"]
    try_json("training options", file, lambda: command_accepts(file, train_layered.main, *args), 90, skip=("asked",))


def test_options_of_a_model_run(tmp_path):
    gan = make_gan_run(tmp_path / "00000-gan")
    dry = CliRunner().invoke(invert.main, ["distill", f"--network={gan}", f"--outdir={tmp_path}", "-n"])
    run = runs.start_run(str(tmp_path), "distill", json.loads(dry.stdout))
    args = ["distill", f"--outdir={tmp_path}", f"--resume={run}", "-n"]
    file = run / "options.json"
    try_json("model options", file, lambda: command_accepts(file, invert.main, *args), 60)


def test_model_and_its_weights(tmp_path):
    folder = make_model(tmp_path / "00001-distill")
    for name, num in (("model.json", 60), ("model.safetensors", 30)):
        file = folder / name
        trial = try_json if name == "model.json" else try_bytes
        more = dict(skip=("options",)) if name == "model.json" else {}
        trial(name, file, lambda file=file: one_line_naming(file, lambda: load_model(folder)), num, **more)


def test_networks_without_code(tmp_path):
    G = make_generator()
    save_generator(tmp_path, dict(G_ema=G, D=make_discriminator(), training_set_kwargs=None))
    file = tmp_path / "generator.json"
    try_json("generator", file, lambda: one_line_naming(file, lambda: load_generator(tmp_path)), 30,
             skip=("training_set_kwargs",))


@pytest.mark.filterwarnings("ignore")
def test_snapshot(tmp_path):
    file = next(make_gan_run(tmp_path / "00000-gan").glob("*.pkl"))
    try_bytes("snapshot", file, lambda: one_line_naming(file, lambda: load_snapshot(file)), 30)


def test_training_state(tmp_path):
    G, D = make_generator().train().requires_grad_(True), make_discriminator().train().requires_grad_(True)

    def state():
        return TrainingState(G=G, D=D, G_ema=make_generator(), G_opt=torch.optim.Adam(G.parameters()),
                             D_opt=torch.optim.Adam(D.parameters()), pl_mean=torch.zeros([]), augment_pipe=None,
                             ada=None)

    def read(file):
        try:
            state().unpack(runs.load_training_state(file), batch_size=8)
        except UserError as err:
            raise UserError(str(err) if file.name in str(err) else f"{file.name}: {err}") from err

    saved = state().pack(8, 1, torch.device("cpu"))
    file = runs.save_training_state(tmp_path, 1, saved)
    try_bytes("training state", file, lambda: one_line_naming(file, lambda: read(file)), 30)
    for name in saved:
        for wrong in (None, 3.5, "x", [], {}, torch.zeros(0)):
            if name in ("augment_p", "ada", "fromrgb"):
                continue  # Of runs with augmentation or growing.
            runs.save_training_state(tmp_path, 1, dict(saved, **{name: wrong}))
            assert not one_line_naming(file, lambda: read(file)), (name, wrong)


def test_state_of_a_model_run(tmp_path):
    def run():
        return ModelRun(tmp_path, "toy", "", 9, 1, dict(net=torch.nn.Linear(3, 3)), dict(draws=torch.Generator()))

    run()._save()
    file = tmp_path / "training-state-toy.pt"
    try_bytes("model state", file, lambda: one_line_naming(file, run), 20)


@pytest.mark.parametrize("zipped", [False, True])
def test_labels(data, tmp_path, zipped):
    folder = make_pictures(tmp_path / "cars", [f"{idx}.png" for idx in range(3)])
    file = folder / "dataset.json"
    file.write_text(json.dumps(dict(labels=[[f"{idx}.png", idx] for idx in range(3)])))

    def accepts():
        path = zip_folder(folder, tmp_path / "cars.zip") if zipped else folder
        return command_accepts(file, train_layered.main, "--outdir=out", f"--data={path}", "--cond=1", "-n",
                               "--device=cpu", "--resolution=16")

    text = file.read_text()
    for wrong in ([1.5, 0, 1], ["1", 0, 1], [True, False, True], [10**9, 0, 1], [-1, 0, 1], [None, 0, 1],
                  [[1], [1, 2], 0], [1e300, 0, 1], [10**40, 0, 1], [[0.0] * 200_000] * 3):
        file.write_text(json.dumps(dict(labels=[[f"{idx}.png", value] for idx, value in enumerate(wrong)])))
        assert not accepts(), wrong[0]
    for content in (b"[" * 200_000, b'{"labels":' * 90_000, b'{"labels": NaN}', b"\xff\xfe", b"", b"3",
                    b'{"labels": 3}'):
        file.write_bytes(content)
        assert not accepts(), content[:20]
    for number in range(15 * TIMES):
        file.write_text(text[:random.Random(number).randrange(len(text))])
        assert not accepts()
    file.write_text(text)
    assert accepts()


def test_settings_and_manifest_of_segmented_pictures(data, tmp_path):
    segmenter = Segmenter.load(make_model(tmp_path / "00001-distill"), "cpu")
    out = tmp_path / "out"
    segment_files(segmenter, data, out)
    for name, num in (("segment.json", 25), ("manifest.jsonl", 15)):
        file = out / name
        text = file.read_text()
        for number in range(num * TIMES):
            rng = random.Random(f"{name} {number}")
            if name == "segment.json":
                content, must_fail = damaged_json(text, rng)
            else:  # A line that is no entry; what is cut off at the end is drawn again.
                content, must_fail = rng.choice(["x\n", "[]\n", '{"name": 3}\n', "[" * 9999 + "\n"]) + text, True
            file.write_text(content, errors="replace")
            done = one_line_naming(file, lambda: segment_files(segmenter, data, out))
            assert not (done and must_fail), content[:200]
        file.write_text(text)
        assert segment_files(segmenter, data, out).done == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp"])
def test_pictures(tmp_path, suffix):
    content = io.BytesIO()
    picture(24, 20).save(content, format=PIL.Image.registered_extensions()[suffix])
    file = tmp_path / f"0{suffix}"
    file.write_bytes(content.getvalue())

    def open_it():
        PictureSource(tmp_path).open(file.name)

    for number in range(8 * TIMES):
        file.write_bytes(damaged_bytes(content.getvalue(), random.Random(f"{suffix} {number}")))
        one_line_naming(file, open_it)


@pytest.mark.filterwarnings("ignore")
def test_zips(data, tmp_path):
    file = zip_folder(data, tmp_path / "cars.zip")

    def read_all():
        source = PictureSource(file)
        try:
            for name in source.names:
                source.open(name)
        finally:
            source.close()

    try_bytes("zip", file, lambda: one_line_naming(file, read_all), 30)


def test_statistics(tmp_path):
    file = tmp_path / "stats.jsonl"
    good = json.dumps({"loss": 1.0}) + "\n"
    for number in range(20 * TIMES):
        rng = random.Random(number)
        file.write_text(good + rng.choice(["{", "[" * 99_999, "null", "3", rng.randbytes(9).hex(), "[]"]) + "\n" + good)
        assert not one_line_naming(file, lambda: reading.read_lines(file, lambda row: row["loss"]))
