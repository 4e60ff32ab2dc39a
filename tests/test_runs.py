"""Files of a run: whole or absent, newest found, nothing executed on loading."""

import os
import pickle
from datetime import date

import pytest
import torch

from layered_plugin import calls, runs
from layered_plugin.errors import CheckpointError, DiskFullError
from layered_plugin.runs import find_run


def test_full_disk_leaves_the_previous_state_whole(tmp_path, monkeypatch):
    runs.save_training_state(tmp_path, 1, dict(value=torch.ones(2)))

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(DiskFullError, match="no room"):
        runs.save_training_state(tmp_path, 2, dict(value=torch.zeros(2)))
    assert os.listdir(tmp_path) == ["training-state-000001.pt"]
    assert runs.load_training_state(tmp_path / "training-state-000001.pt")["value"].tolist() == [1, 1]


def test_only_the_newest_states_are_kept(tmp_path):
    for kimg in (0, 999, 5, 1000000):
        runs.save_training_state(tmp_path, kimg, {})
    assert [path.name for path in runs.training_states(tmp_path)] == \
        ["training-state-000999.pt", "training-state-1000000.pt"]


class Bomb:
    def __reduce__(self):
        return (os.system, ("exit 0",))


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-200]),
    lambda path: path.write_bytes(pickle.dumps(Bomb())),
    lambda path: torch.save(dict(value=Bomb()), path),
    lambda path: path.unlink(),
])
def test_damaged_or_executable_state_is_refused(tmp_path, damage):
    path = runs.save_training_state(tmp_path, 1, dict(value=torch.ones(100)))
    damage(path)
    with pytest.raises(CheckpointError, match="training-state-000001.pt"):
        runs.load_training_state(path)


def test_latest_is_the_run_saved_last(tmp_path):
    for idx, name in enumerate(["00000-a", "00001-b"]):
        (tmp_path / name).mkdir()
        runs.save_training_state(tmp_path / name, 5 - idx, {})
        os.utime(tmp_path / name / f"training-state-{5 - idx:06d}.pt", (100 - idx, 100 - idx))
    (tmp_path / "00002-without-state").mkdir()
    assert find_run(tmp_path, "latest").name == "00000-a"
    assert find_run(tmp_path, str(tmp_path / "00001-b")).name == "00001-b"


@pytest.mark.parametrize("resume", ["latest", "here"])
def test_nothing_to_resume_from_is_an_error(tmp_path, resume):
    with pytest.raises(CheckpointError, match="training-state"):
        find_run(tmp_path, "latest" if resume == "latest" else str(tmp_path))


def test_beginning_of_a_run_folders_name_will_do(tmp_path):
    for name in ("00000-cars-demo-32px", "00001-distill-cars", "00010-distill-cars"):
        (tmp_path / name).mkdir()
    (tmp_path / "00002-file").write_text("")
    (tmp_path / "cars-of-1957").mkdir()  # No run.
    assert runs.complete_run(tmp_path / "00000-cars") == tmp_path / "00000-cars-demo-32px"
    assert runs.complete_run(tmp_path / "00001") == tmp_path / "00001-distill-cars"
    for kept in ("00001-distill-cars", "00002", "cars"):  # Whole, no folder, not the beginning.
        assert runs.complete_run(tmp_path / kept) == tmp_path / kept
    assert runs.complete_run(tmp_path / "gone" / "00000") == tmp_path / "gone" / "00000"
    (tmp_path / "00000-birds").mkdir()
    with pytest.raises(CheckpointError, match="00000: fits 2 run folders, such as .*00000-birds; write more"):
        runs.complete_run(tmp_path / "00000")


def begin(outdir, name, *files):
    (outdir / name).mkdir(parents=True)
    for file in files:
        (outdir / name / file).write_text("{}")


def test_training_goes_on_where_one_has_begun(tmp_path):
    new = ["invert.py", "distill", "--network=a.pkl", f"--outdir={tmp_path}", "--steps=5"]
    begin(tmp_path, "00000-distill-a")  # Nothing in it yet.
    assert runs.begun_runs(tmp_path) == [] and runs.or_go_on(new) == new
    for number in (1, 2):
        begin(tmp_path, f"0000{number}-distill-a", "options.json")
    begin(tmp_path, "00003-shapes", "training-state-000004.pt", "training-state-000012.pt")
    assert runs.or_go_on(new, "distill") == ["invert.py", "distill", f"--outdir={tmp_path}",
                                             f"--resume={tmp_path / '00002-distill-a'}"]
    assert runs.or_go_on(new)[-1] == f"--resume={tmp_path / '00003-shapes'}"
    assert runs.last_kimg(tmp_path / "00003-shapes") == 12 and runs.last_kimg(tmp_path / "00001-distill-a") == -1


@pytest.mark.parametrize("program, typed", [
    ("invert.py", "python invert.py train '--data=my cars'"),
    ("-m benchmarks.scaling", "python -m benchmarks.scaling train '--data=my cars'")])
def test_provenance_has_the_command_as_it_was_typed(monkeypatch, program, typed):
    monkeypatch.setattr("sys.argv", ["/somewhere/invert.py", "train", "--data=my cars"])
    assert calls.typed_command(program) == typed
    assert runs.provenance(program) == dict(command=typed, date=date.today().isoformat(), base=runs.BASE.name,
                                            torch=torch.__version__)
