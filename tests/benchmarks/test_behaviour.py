"""benchmarks.behaviour: a hash changes with what it stands for and with nothing else."""

import json
import zipfile
from pathlib import Path

import click
import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner
from shell import COPIES

from benchmarks import behaviour


def test_hash_of_files_depends_on_names_and_contents_alone(tmp_path):
    for name, files in dict(one=["a.png", "b.png"], same=["b.png", "a.png"], renamed=["a.png", "c.png"]).items():
        for file in files:
            (tmp_path / name / "masks").mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "masks" / file).write_bytes(file[:1].replace("c", "b").encode())
            (tmp_path / name / "notes.txt").write_text(name)
    one, same, renamed = (behaviour.hash_files(tmp_path / name, "*.png") for name in ("one", "same", "renamed"))
    assert one == same != renamed
    (tmp_path / "same" / "masks" / "a.png").write_bytes(b"A")
    assert behaviour.hash_files(tmp_path / "same", "*.png") != one


def test_hash_of_parts_tells_where_a_name_ends():
    assert behaviour.hash_parts([("a", b"bc")]) != behaviour.hash_parts([("ab", b"c")])


def test_hash_of_a_zip_leaves_out_times(tmp_path):
    hashes = []
    for idx, (year, content) in enumerate([(1990, b"x"), (2020, b"x"), (2020, b"y")]):
        with zipfile.ZipFile(tmp_path / f"{idx}.zip", "w") as file:
            file.writestr(zipfile.ZipInfo("0.png", (year, 1, 1, 0, 0, 0)), content)
        hashes.append(behaviour.hash_zip(tmp_path / f"{idx}.zip"))
    assert hashes[0] == hashes[1] != hashes[2]


def test_model_has_a_hash_for_each_network_of_each_file(tmp_path):
    weights = {"E.a": np.zeros([2, 3], np.float32), "G.a": np.zeros(1, np.float32)}
    safetensors.numpy.save_file(weights, tmp_path / "model.safetensors")
    before = behaviour.hash_model(tmp_path)
    assert set(before) == {"model/E", "model/G"}
    safetensors.numpy.save_file(dict(weights, **{"E.a": weights["E.a"].reshape(3, 2)}), tmp_path / "model.safetensors")
    after = behaviour.hash_model(tmp_path)
    assert behaviour.differences(before, after) == ["model/E"]


def test_record_is_hashed_without_provenance_and_folder(tmp_path):
    def record(folder, day, iou):
        return dict(data=f"{folder}/shapes.zip", models=[dict(model=f"{folder}/distilled", iou=iou)], date=day,
                    command=f"python eval.py real --data={folder}/shapes.zip", base="bundled", torch="2")
    one, two = tmp_path / "one", tmp_path / "two"
    before = behaviour.hash_record(record(one, "2020-01-01", 0.5), one)
    assert behaviour.hash_record(record(two, "2021-01-01", 0.5), two) == before
    assert behaviour.hash_record(record(one, "2020-01-01", 0.25), one) != before


def test_differences_are_other_hashes_and_names_of_one_alone():
    assert behaviour.differences(dict(a="1", b="1", c="1"), dict(a="1", b="2", d="1")) == ["b", "c", "d"]


@pytest.mark.parametrize("found, code", [("same", 0), ("other", 1)])
def test_exit_code_says_whether_all_is_as_before(tmp_path, monkeypatch, found, code):
    before = tmp_path / "before.json"
    before.write_text(json.dumps(dict(hashes={"default/G": "same"})))
    monkeypatch.setattr(behaviour, "measure", lambda run, folder: dict(hashes={"default/G": found}))
    result = CliRunner().invoke(behaviour.main, [f"--outdir={tmp_path / 'out'}", f"--against={before}"])
    assert result.exit_code == code
    assert ("differs: default/G" in result.stderr) == (code == 1)
    assert json.loads((tmp_path / "out" / "behaviour.json").read_text()) == json.loads(result.stdout)


@pytest.mark.parametrize("option, text", [
    ("--repo=docs", "holds no train_layered.py"), ("--against=README.md", "README.md: no record of this command"),
    ("--outdir=docs", "--outdir=docs is not empty")])
def test_unusable_folders_and_files_are_named(tmp_path, option, text):
    result = CliRunner().invoke(behaviour.main, [f"--outdir={tmp_path}", option])
    assert result.exit_code != 0 and text in result.output


def test_snapshot_and_data_are_read_by_the_tree_under_test(tmp_path, monkeypatch):
    monkeypatch.setattr(behaviour, "subprocess", COPIES)
    run = behaviour.Commands(Path(__file__).resolve().parents[2])
    run.draw(tmp_path, "shapes", "--num=8")
    run_dir = run.start(tmp_path / "runs", "train_layered.py", f"--data={tmp_path}/shapes.zip", "--cfg=demo",
                        "--resolution=8", "--batch=8", "--kimg=0.008", "--cmax=4", "--w-dim=8", "--precision=fp32")
    monkeypatch.undo()  # Another tree's code can't run in a copy of this process.
    hashes = run.snapshot(run_dir)
    assert set(hashes) >= {"G", "D", "G_ema"} and len(set(hashes.values())) >= 2
    with pytest.raises(click.ClickException, match="(?i)no such option"):
        run("-c", "import sys; sys.exit('no such option')")
