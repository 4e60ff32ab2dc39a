"""Training runs: a stopped one goes on bit for bit, signals save first, the log's means, which run is resumed."""

import io
import json
import os
import pickle
import signal
import sys

import pytest
import torch
from tiny_models import Bomb

from layered_plugin import progress, signals
from layered_plugin.errors import CheckpointError, UserError
from layered_plugin.runs import find_model_run, forget_states, start_run
from layered_plugin.segmentation.commands import discard_unstarted
from layered_plugin.segmentation.stage import ModelRun

STEPS = 7


class Toy:
    """A linear network that follows random targets, from both sources of randomness."""

    def __init__(self, folder, steps=STEPS, name="toy", label="", **kwargs):
        torch.manual_seed(0)
        self.net = torch.nn.Linear(3, 1)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)
        self.generator = torch.Generator().manual_seed(1)
        self.seen = []
        folder.mkdir(exist_ok=True)
        saved = dict(net=self.net, optimizer=self.optimizer, schedule=self.schedule, unused=None)
        self.run = ModelRun(folder, name, label, steps, 4, saved, dict(toy=self.generator), **kwargs)

    def step(self, number, at=None, action=None):
        if number == at:
            action()
        x, y = torch.randn(4, 3, generator=self.generator), torch.randn(4, 1)
        loss = (self.net(x) - y).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.seen.append(number)
        return dict(loss=loss.item(), number=float(number))

    def result(self):
        return [value.tolist() for value in self.net.parameters()] + [torch.rand(1).item()]


def kill(name):
    return lambda: os.kill(os.getpid(), getattr(signal, name))


def stats(folder):
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


@pytest.fixture
def expected(tmp_path):
    """What an uninterrupted run gives."""
    toy = Toy(tmp_path / "whole")
    assert toy.run.loop(toy.step) is None
    return toy.result()


def test_means_of_the_log_are_over_the_steps_that_had_the_loss(tmp_path):
    toy = Toy(tmp_path / "run", steps=4)
    toy.run.log_every = 4
    assert toy.run.loop(lambda number: dict(loss=0.6) if number == 2 else dict(kept=number / 2)) is None
    line, = stats(tmp_path / "run")
    assert line["loss"] == 0.6
    assert line["kept"] == pytest.approx((0 + 0.5 + 1.5) / 3)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize("at", range(STEPS))
def test_run_stopped_by_a_signal_goes_on_bit_for_bit(tmp_path, expected, name, at):
    handlers = [signal.getsignal(number) for number in signals.STOPS]
    toy = Toy(tmp_path / "parts")
    assert toy.run.loop(lambda number: toy.step(number, at, kill(name))) == name
    assert toy.seen == list(range(at + 1))
    assert [signal.getsignal(number) for number in signals.STOPS] == handlers
    again = Toy(tmp_path / "parts")
    assert again.run.step == at + 1
    assert again.run.loop(again.step) is None
    assert again.seen == list(range(at + 1, STEPS)) and again.result() == expected


def test_second_ctrl_c_acts_at_once(tmp_path):
    toy = Toy(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        toy.run.loop(lambda number: toy.step(number, 3, lambda: [kill("SIGINT")(), kill("SIGINT")()]))


class Gpu:
    """Stands for torch's default generator of a GPU."""

    def __init__(self, monkeypatch):
        self.generator = torch.Generator().manual_seed(5)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_rng_state", self.generator.get_state)
        monkeypatch.setattr(torch.cuda, "set_rng_state", self.generator.set_state)

    def draw(self):
        return torch.rand(1, generator=self.generator).item()


def test_run_goes_on_with_the_random_numbers_of_the_gpu(tmp_path, monkeypatch):
    gpu = Gpu(monkeypatch)
    toy = Toy(tmp_path / "parts")
    toy.run.loop(lambda number: [gpu.draw(), toy.step(number, 3, kill("SIGTERM"))][1])
    following = gpu.draw()
    Gpu(monkeypatch).draw()
    other = Gpu(monkeypatch)
    Toy(tmp_path / "parts")
    assert other.draw() == following


def test_state_of_a_machine_without_gpu_is_read_on_one_with_it(tmp_path, monkeypatch, expected):
    toy = Toy(tmp_path / "parts")
    toy.run.loop(lambda number: toy.step(number, 3, kill("SIGTERM")))
    gpu = Gpu(monkeypatch)
    again = Toy(tmp_path / "parts")
    assert gpu.draw() == Gpu(monkeypatch).draw()
    assert again.run.loop(again.step) is None and again.result() == expected


@pytest.mark.parametrize("at, start", [(1, 0), (2, 2), (5, 4)])
def test_run_that_broke_off_goes_on_from_its_last_state(tmp_path, expected, at, start):
    def power_cut():
        raise RuntimeError("power cut")

    toy = Toy(tmp_path / "parts", save_every=2)
    with pytest.raises(RuntimeError, match="power cut"):
        toy.run.loop(lambda number: toy.step(number, at, power_cut))
    again = Toy(tmp_path / "parts", save_every=2)
    assert again.run.loop(again.step) is None
    assert again.seen == list(range(start, STEPS)) and again.result() == expected


def test_finished_stage_takes_no_step_and_restores_its_result(tmp_path, expected):
    again = Toy(tmp_path / "whole")
    assert again.run.loop(again.step) is None
    assert again.seen == [] and again.result() == expected


def test_stages_keep_states_of_their_own(tmp_path, expected):
    first = Toy(tmp_path / "whole", name="other", steps=2)
    first.run.loop(first.step)
    assert Toy(tmp_path / "whole").result() == expected
    assert {line["stage"] for line in stats(tmp_path / "whole")} == {"toy", "other"}


def test_log_holds_the_mean_of_the_steps_since_the_last_line(tmp_path):
    toy = Toy(tmp_path / "run", steps=250)
    toy.run.loop(toy.step)
    lines = stats(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(2, 251, 2))
    assert [line["number"] for line in lines] == [step - 1.5 for step in range(2, 251, 2)]
    assert all(line["stage"] == "toy" and line["images_per_sec"] > 0 for line in lines)
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] >= 0


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_goes_on_from_where_the_run_stopped(tmp_path, monkeypatch, capsys, terminal):
    begun = Toy(tmp_path, steps=20, halted=iter([False] * 11 + [True]).__next__)
    assert begun.run.loop(begun.step) == "SIGTERM"
    monkeypatch.setattr(progress, "on_terminal", lambda: terminal)
    shown = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", shown)
    resumed = Toy(tmp_path, steps=20, label="Steps")
    assert resumed.run.loop(resumed.step) is None
    if terminal:
        assert "60%" in shown.getvalue() and "12/20" in shown.getvalue()
    else:
        lines = capsys.readouterr().err.splitlines()
        assert [line.split(" in ")[0] for line in lines] == ["Steps: 14/20", "Steps: 16/20", "Steps: 18/20",
                                                             "Steps: 20/20"]


def test_log_and_clock_go_on_when_resumed(tmp_path):
    toy = Toy(tmp_path / "run", steps=350)  # A line every three steps, and at the last.
    toy.run.loop(lambda number: toy.step(number, 100, kill("SIGTERM")))
    again = Toy(tmp_path / "run", steps=350)
    again.run.loop(again.step)
    lines = stats(tmp_path / "run")
    assert [line["step"] for line in lines] == [*range(3, 350, 3), 350]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_loss_stops_the_run_and_is_named(tmp_path, value):
    toy = Toy(tmp_path / "run")
    with pytest.raises(UserError, match=r"^l1, l2 not finite at step 3 \(toy\); start anew with"):
        toy.run.loop(lambda number: dict(loss=1.0, l1=value if number == 2 else 0.0, l2=value if number == 2 else 0.0))
    assert not (tmp_path / "run" / "training-state-toy.pt").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", None])
def test_damaged_state_is_named_and_runs_no_code(tmp_path, expected, content):
    file = tmp_path / "whole" / "training-state-toy.pt"
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "went-off")) if content is None else content)
    with pytest.raises(CheckpointError, match=r"training-state-toy\.pt: missing, damaged"):
        Toy(tmp_path / "whole")
    assert not (tmp_path / "went-off").exists()


def test_state_that_runs_code_is_refused(tmp_path, expected):
    file = tmp_path / "whole" / "training-state-toy.pt"
    torch.save(Bomb(tmp_path / "went-off"), file)
    with pytest.raises(CheckpointError, match=r"training-state-toy\.pt: not a readable training state"):
        Toy(tmp_path / "whole")
    assert not (tmp_path / "went-off").exists()


def test_states_are_forgotten_and_nothing_else(tmp_path, expected):
    forget_states(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "whole").iterdir()] == ["stats.jsonl"]


# Run folders.

def record(command, **options):
    return dict(invert=command, options=options)


def test_runs_are_numbered_and_found_by_their_command(tmp_path):
    dirs = [start_run(tmp_path / "out", desc, record(command, number=idx))
            for idx, (desc, command) in enumerate([("distill-a", "distill"), ("chunks-a", "train"),
                                                   ("distill-b", "distill"), ("encoder-b", "train")])]
    assert [path.name for path in dirs] == ["00000-distill-a", "00001-chunks-a", "00002-distill-b", "00003-encoder-b"]
    assert find_model_run(tmp_path / "out", "latest", "distill") == (dirs[2], record("distill", number=2))
    assert find_model_run(tmp_path / "out", "latest", "train") == (dirs[3], record("train", number=3))
    assert find_model_run(tmp_path / "elsewhere", str(dirs[0]), "distill") == (dirs[0], record("distill", number=0))
    found = find_model_run(tmp_path, str(tmp_path / "out" / "00002"), "distill")  # The beginning of the name.
    assert found == (dirs[2], record("distill", number=2))


def test_other_things_beside_the_runs_are_passed_over(tmp_path):
    run = start_run(tmp_path, "distill-a", record("distill"))
    (tmp_path / "00007-gan").mkdir()
    (tmp_path / "00007-gan" / "training_options.json").write_text("{}")
    (tmp_path / "2026-cars.zip").write_bytes(b"PK")
    (tmp_path / "notes").mkdir()
    assert find_model_run(tmp_path, "latest", "distill")[0] == run


@pytest.mark.parametrize("resume", ["latest", "RUN", "nowhere"])
def test_missing_run_is_named(tmp_path, resume):
    run = start_run(tmp_path / "out", "chunks", record("train"))
    with pytest.raises(CheckpointError, match=r": no run of invert\.py distill there"):
        find_model_run(tmp_path / "out", str(run) if resume == "RUN" else resume, "distill")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"options": 3}'])
def test_damaged_options_are_named_and_left_out_of_the_latest(tmp_path, capsys, text):
    run = start_run(tmp_path, "distill", record("distill"))
    (run / "options.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"00000-distill/options\.json: (not readable|damaged)"):
        find_model_run(tmp_path, str(run), "distill")
    with pytest.raises(CheckpointError, match=r": no run of invert\.py distill there"):
        find_model_run(tmp_path, "latest", "distill")
    sound = start_run(tmp_path, "distill", record("distill"))
    start_run(tmp_path, "distill", record("distill")).joinpath("options.json").write_text(text)
    capsys.readouterr()
    assert find_model_run(tmp_path, "latest", "distill")[0] == sound
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["WARNING", f"left out {tmp_path}/0000{number}-distill/options.json"] for number in (0, 2)]


@pytest.mark.parametrize("extra", ["samples000000.png", "training-state-real.pt", "chunk-00000"])
def test_only_a_run_without_any_work_is_discarded(tmp_path, extra):
    runs = [start_run(tmp_path, "distill", record("distill")) for _ in range(2)]
    (runs[1] / extra).touch()
    for run in runs:
        discard_unstarted(run)
    assert not runs[0].exists() and {path.name for path in runs[1].iterdir()} == {"options.json", extra}
