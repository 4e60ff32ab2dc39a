"""invert.py segment and export as a user types them: messages, exit codes, the same command again, every misfit."""

import json
from functools import partial

import pytest
import shell
from tiny_models import make_model, make_pictures, picture, zip_folder

import invert


@pytest.fixture
def pictures(tmp_path):
    return make_pictures(tmp_path / "pictures", ["a.png", "b.png", "c.jpg"])


invoke = partial(shell.invoke, invert.main)


def segment(model, images, outdir, *args):
    return invoke("segment", f"--model={model}", f"--images={images}", f"--outdir={outdir}", "--device=cpu", *args)


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind, args", [
    ("distill", ["--flip=1", "--soft=1"]), ("encoder", ["--refine=2", "--posterior=1"]),
    ("encoder", ["--refine=2", "--prior=MODELS/distill"]), ("encoder", []),
    ("chunks", ["--batch=1"])])
def test_pictures_are_segmented_and_then_there_already(models, pictures, tmp_path, kind, args):
    if kind == "chunks":
        (pictures / "c.jpg").unlink()
    num, out = len(list(pictures.iterdir())), tmp_path / "out"
    args = [arg.replace("MODELS", str(models)) for arg in args]
    done = segment(models / kind, pictures, out, *args)
    assert done.exit_code == 0, done.output
    assert f"{num} pictures segmented, 0 were there already, 0 failed: {out}/contact-sheet.png" in done.stderr
    layers = {"backgrounds", "foregrounds", "reconstructions"}
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"masks", "cutouts"} | (
        set() if kind == "distill" else layers)
    for entry in manifest(out):
        assert entry.keys() == {"name", "file", "width", "height", "coverage", "confidence", "bytes", "crc32"} | (
            set() if kind == "distill" else {"error"})
    text = (out / "manifest.jsonl").read_text()
    again = segment(models / kind, pictures, out, *args)
    assert again.exit_code == 0 and f"0 pictures segmented, {num} were there already, 0 failed" in again.stderr
    assert (out / "manifest.jsonl").read_text() == text


@pytest.mark.parametrize("images", ["pictures.zip", "pictures/a.png"])
def test_zip_and_single_picture(models, pictures, tmp_path, images):
    zip_folder(pictures, tmp_path / "pictures.zip")
    done = segment(models / "distill" / "model.json", tmp_path / images, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert len(manifest(tmp_path / "out")) == (3 if images.endswith("zip") else 1)


def test_doubtful_pictures_are_counted_and_said_to_be_elsewhere(models, pictures, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):  # The same command again says so again.
        done = segment(models / "distill", pictures, out, "--min-confidence=1")
        assert done.exit_code == 0 and f"0 failed, 3 in doubtful/: {out}\n" in done.stderr
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"doubtful"}
    assert " in doubtful/" not in segment(models / "distill", pictures, tmp_path / "all").stderr


def test_bad_picture_is_named_the_others_done_and_the_exit_code_1(models, pictures, tmp_path):
    (pictures / "b.png").write_bytes(b"no picture")
    for done, there in ((2, 0), (0, 2)):
        result = segment(models / "distill", pictures, tmp_path / "out")
        assert result.exit_code == 1
        assert f"Error: {pictures}: cannot read picture b.png" in result.stderr
        assert f"{done} pictures segmented, {there} were there already, 1 failed" in result.stderr
    picture().save(pictures / "b.png")
    result = segment(models / "distill", pictures, tmp_path / "out")
    assert result.exit_code == 0 and "1 picture segmented, 2 were there already, 0 failed" in result.stderr


def test_chunks_given_other_pictures_say_what_to_do(models, tmp_path):
    other = make_pictures(tmp_path / "other", ["a.png", "x.png"])
    result = segment(models / "chunks", other, tmp_path / "out")
    assert result.exit_code == 1
    assert "no chunk was trained on a picture named x.png" in result.stderr
    assert "use invert.py train --mode=dataset, or distill" in result.stderr
    (other / "a.png").unlink()
    result = segment(models / "chunks", other, tmp_path / "out2")
    assert result.exit_code == 1 and "no chunk was trained on a picture named x.png" in result.stderr


@pytest.mark.parametrize("args, words", [
    (["--threshold=0"], "--threshold"),
    (["--threshold=1"], "--threshold"),
    (["--refine=-1"], "--refine"),
    (["--min-confidence=1.1"], "--min-confidence"),
    (["--prior=MODELS/distill"], "--prior is for an encoder's refinement: it needs --refine of at least 1"),
    (["--posterior=1"], "--posterior needs an encoder; MODELS/distill is distilled and draws no layers"),
    (["--refine=5"], "--refine needs an encoder; MODELS/distill is distilled and has no codes"),
    (["--batch=0"], "--batch"),
    (["--outdir=PICTURES"], "lies in --images=PICTURES"),
    (["--outdir=PICTURES/masks"], "--outdir=PICTURES/masks lies in --images=PICTURES, where its files would be taken"),
])
def test_wrong_option_is_named_with_its_rule(models, pictures, tmp_path, args, words):
    before = sorted(pictures.iterdir())
    args = [arg.replace("PICTURES", str(pictures)).replace("MODELS", str(models)) for arg in args]
    result = segment(models / "distill", pictures, tmp_path / "out", *args)
    assert result.exit_code == 2, result.output
    assert words.replace("MODELS", str(models)).replace("PICTURES", str(pictures)) in result.stderr
    assert sorted(pictures.iterdir()) == before and not (tmp_path / "out").exists()


@pytest.mark.parametrize("args, words", [
    (["--model=none"], "none: no such file or run folder"),
    (["--model=EMPTY"], "empty: holds no model.json; give the run folder of invert.py train or distill"),
    (["--model=UNFINISHED"], "unfinished: not finished; go on with: python invert.py distill --outdir="),
    (["--model=TRUNCATED"], "truncated/model.safetensors: not a readable model file"),
    (["--model=DAMAGED"], "damaged/model.json: damaged: Expecting"),
    (["--model=PARTIAL"], "partial/model.json: damaged: has no resolution"),
    (["--images=none.zip"], "none.zip: neither a folder nor a readable zip"),
    (["--images=EMPTY"], "empty: holds no pictures"),
    (["--images=notes.txt"], "notes.txt: neither a folder nor a readable zip"),
    (["--outdir=FILE"], "--outdir: can't write to TMP/file: File exists"),
    (["--outdir=FILE/out"], "--outdir: can't write to TMP/file/out: Not a directory"),
    (["--outdir=LISTED"], "listed/manifest.jsonl: line 1 is damaged; remove the file to start over"),
])
def test_wrong_file_is_named(models, pictures, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "unfinished", "listed"):
        (tmp_path / name).mkdir()
    (tmp_path / "unfinished" / "options.json").write_text("{}")
    (tmp_path / "listed" / "manifest.jsonl").write_text("masks\n")
    for name in ("file", "notes.txt"):
        (tmp_path / name).write_text("text")
    whole = (make_model(tmp_path / "truncated") / "model.safetensors").read_bytes()
    (tmp_path / "truncated" / "model.safetensors").write_bytes(whole[:len(whole) // 2])
    (make_model(tmp_path / "damaged") / "model.json").write_text('{"format": 1, ')
    (make_model(tmp_path / "partial") / "model.json").write_text('{"format": 1, "kind": "distill"}')
    for name in ("EMPTY", "UNFINISHED", "TRUNCATED", "DAMAGED", "PARTIAL", "LISTED", "FILE"):
        args = [arg.replace(name, str(tmp_path / name.lower())) for arg in args]
    result = segment(models / "distill", pictures, tmp_path / "out", *args)
    assert result.exit_code == 1, result.output
    assert words.replace("TMP", str(tmp_path)) in result.stderr


# Export.

@pytest.mark.parametrize("args, place", [([], "distill/model.onnx"), (["--dest=DEST"], "new/apple.onnx")])
def test_export_says_where_and_how_near(models, tmp_path, monkeypatch, args, place):
    called = []
    monkeypatch.setattr(invert, "export_onnx", lambda *given: called.append(given) or 2.5e-7)
    args = [arg.replace("DEST", str(tmp_path / "new/apple.onnx")) for arg in args]
    result = invoke("export", f"--model={models / 'distill'}", *args)
    path = (tmp_path if args else models) / place
    assert result.exit_code == 0 and called == [(str(models / "distill"), path)] and path.parent.is_dir()
    assert f"{path}: differs from PyTorch by at most 2.5e-07" in result.stderr


@pytest.mark.parametrize("args, words", [
    (["--model=none"], "none: no such file or run folder"),
    (["--model=MODELS/encoder"], "only a distilled model can be exported, this is of kind encoder"),
])
def test_wrong_model_of_export_is_named(models, tmp_path, args, words):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="the extra `onnx` is not installed")
    args = [arg.replace("MODELS", str(models)).replace("TMP", str(tmp_path)) for arg in args]
    result = invoke("export", f"--model={models / 'distill'}", *args)
    assert result.exit_code == 1, result.output
    assert words.replace("TMP", str(tmp_path)) in result.stderr


def test_export_that_can_not_be_written_is_named(models, tmp_path, monkeypatch):
    monkeypatch.setattr(invert, "export_onnx", lambda model, dest: dest.write_bytes(b"model"))
    (tmp_path / "file").touch()
    result = invoke("export", f"--model={models / 'distill'}", f"--dest={tmp_path / 'file/apple.onnx'}")
    assert result.exit_code == 1
    assert f"--dest: can't write to {tmp_path}/file/apple.onnx: " in result.stderr
