"""No file of a run makes a command run code: neither a class that it names, nor a pickle."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_models import Bomb, make_gan_run, make_pictures

import invert
import train_layered
from layered_plugin import runs, trust
from layered_plugin.data.labels import labels_of_training
from layered_plugin.errors import CheckpointError
from layered_plugin.model.snapshots import load_snapshot, save_network_pkl
from layered_plugin.model.weights_file import save_generator
from layered_plugin.training import presets
from layered_plugin.training.stored_config import read_config


def invoke(command, *args):
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception  # No traceback.
    return result


@pytest.fixture(autouse=True)
def _own_ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(trust, "_seen", set())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("data") / "cars", [f"{idx}.png" for idx in range(4)])


def config_of(data, *args):
    result = invoke(train_layered.main, "--outdir=out", f"--data={data}", "-n", "--device=cpu", *args)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def run(data, tmp_path):
    folder = tmp_path / "runs" / "00000-cars"
    folder.mkdir(parents=True)
    (folder / "training_options.json").write_text(json.dumps(config_of(data, "--resolution=16")))
    runs.save_training_state(folder, 1, {})
    return folder


def change(run, path, value):
    """Put a value into the run's options; ... = remove it. A path has dots."""
    file = run / "training_options.json"
    config = json.loads(file.read_text())
    *parents, last = path.split(".")
    place = config
    for name in parents:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    file.write_text(json.dumps(config))


@pytest.mark.parametrize("cfg", presets.NAMES)
def test_options_of_every_preset_are_read_back_as_they_were(data, tmp_path, cfg):
    filtered = ["--resolution=32", "--no-grow", "--aug=ada", "--augpipe=bgcfnc"]
    for more in ([], ["--gan-loss=wgan-gp"], filtered, ["--precision=bf16", "--freezed=0"]):
        config = config_of(data, f"--cfg={cfg}", "--resolution=16", *more)
        (tmp_path / "training_options.json").write_text(json.dumps(config))
        # Of a dry run there is no fingerprint.
        assert read_config(tmp_path) == config | dict(data_fingerprint=None, masks_fingerprint=None,
                                                      network_sha256=None, asked={})


@pytest.mark.parametrize("place", ["training_set_kwargs", "G_kwargs", "D_kwargs", "loss_kwargs", "G_opt_kwargs",
                                   "D_opt_kwargs", "augment_kwargs"])
def test_resume_constructs_no_class_that_is_not_in_the_list(run, tmp_path, place):
    change(run, place, dict(class_name="subprocess.getoutput", cmd=f"touch {tmp_path}/went-off"))
    result = invoke(train_layered.main, f"--outdir={run.parent}", f"--resume={run}")
    assert result.exit_code == 1
    assert f"{run}/training_options.json: damaged: {place}.class_name must be among" in result.stderr
    assert not (tmp_path / "went-off").exists()


@pytest.mark.parametrize("path, value, words", [
    ("surprise", 1, "unknown key surprise"),
    ("loss_kwargs.surprise", 1, "unknown key loss_kwargs.surprise"),
    ("batch_size", "8", 'batch_size must be a whole number from 1 to'),
    ("batch_size", True, "batch_size must be a whole number"),
    ("batch_size", 10**12, "batch_size must be a whole number"),
    pytest.param("batch_size", 10**400, "batch_size must be a whole number", id="400 digits"),
    ("batch_size", None, "batch_size must be a whole number from 1 to 1.04858e+06, got null"),
    ("G_kwargs", None, "G_kwargs must be an object, got null"),
    ("G_kwargs.synthesis_kwargs.channel_max", 10**9, "G_kwargs.synthesis_kwargs.channel_max must be"),
    ("G_opt_kwargs.lr", [0.1], "G_opt_kwargs.lr must be a list of 2"),
    ("G_opt_kwargs.betas", [0.1, "x"], "G_opt_kwargs.betas[1] must be a number"),
    ("training_set_kwargs.path", ..., "has no training_set_kwargs.path"),
    ("device", ..., "has no device"),
    ("device", "tpu", "device must be among cpu, cuda, mps"),
])
def test_option_that_no_version_has_written_is_named(run, path, value, words):
    change(run, path, value)
    result = invoke(train_layered.main, f"--outdir={run.parent}", f"--resume={run}")
    assert result.exit_code == 1 and words in result.stderr
    assert f"{run}/training_options.json" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 200_000, b"\xff", b"", b'{"base": NaN}', b"[]"])
def test_damaged_options_are_one_line(run, content):
    (run / "training_options.json").write_bytes(content)
    result = invoke(train_layered.main, f"--outdir={run.parent}", f"--resume={run}")
    assert result.exit_code == 1 and "training_options.json: " in result.stderr and result.stderr.count("\n") == 1


def test_option_of_a_later_version_takes_its_default_in_an_older_run(run):
    for name in ("on_collapse", "ramp_kimg", "loss_kwargs.range_weight", "loss_kwargs.mask_size_over"):
        change(run, name, ...)
    config = read_config(run)
    assert config["on_collapse"] == "warn" and "range_weight" not in config["loss_kwargs"]


def test_network_without_code_names_no_class_that_is_not_in_the_list(tmp_path, capsys):
    kwargs = dict(class_name="subprocess.getoutput", cmd=f"touch {tmp_path}/went-off")
    assert labels_of_training(kwargs, 3).dataset is None
    assert "class subprocess.getoutput is not known here" in capsys.readouterr().err
    assert not (tmp_path / "went-off").exists()


# Pickles.

def write_bomb(path, tmp_path):
    with open(path, "wb") as file:
        import pickle
        pickle.dump(Bomb(tmp_path / "went-off"), file)
    return path


DISTILL = ["--steps=1", "--adapt=0", "--batch=4", "--device=cpu", "--max-coverage=0.99"]


@pytest.fixture
def begun(tmp_path):
    """A run of distill that has only begun, and the run of its network."""
    gan = make_gan_run(tmp_path / "runs" / "00000-gan")
    network = next(gan.glob("*.pkl"))
    record = json.loads(invoke(invert.main, "distill", f"--network={gan}", f"--outdir={tmp_path}/runs", "-n",
                               *DISTILL).stdout)
    record["network_sha256"] = trust.pickle_hash(network)
    return runs.start_run(str(tmp_path / "runs"), "distill", record), network


def test_resume_loads_no_pickle_that_its_options_name_instead(begun, tmp_path):
    run, network = begun
    record = json.loads((run / "options.json").read_text())
    bomb = write_bomb(tmp_path / "planted.pkl", tmp_path)
    for kept in (record["network_sha256"], trust.pickle_hash(bomb), None):
        planted = dict(record, options=dict(record["options"], network=str(bomb)), network_sha256=kept)
        (run / "options.json").write_text(json.dumps({k: v for k, v in planted.items() if v is not None}))
        result = invoke(invert.main, "distill", f"--outdir={tmp_path}/runs", f"--resume={run}")
        assert result.exit_code == 1 and str(bomb) in result.stderr and result.stderr.count("\n") == 1
        assert ("--trust-pickle" in result.stderr) == (kept != record["network_sha256"])
    assert not (tmp_path / "went-off").exists()


def test_run_folder_is_judged_as_the_pickle_that_would_be_loaded_from_it(begun, tmp_path):
    run, network = begun
    (tmp_path / "runs" / "00002-evil").mkdir()
    bomb = write_bomb(tmp_path / "runs" / "00002-evil" / network.name, tmp_path)
    record = json.loads((run / "options.json").read_text())
    del record["network_sha256"]
    args = ["distill", f"--outdir={tmp_path}/runs", f"--resume={run}"]
    for folder in (bomb.parent, tmp_path / "runs" / "00002"):  # By the beginning of its name, too.
        record["options"]["network"] = str(folder)
        (run / "options.json").write_text(json.dumps(record))
        refused = invoke(invert.main, *args)
        assert refused.exit_code == 1 and f"names the pickle {bomb}, which was not made here" in refused.stderr
    assert not (tmp_path / "went-off").exists() and not trust.is_trusted(trust.pickle_hash(bomb))
    record["options"]["network"] = str(network.parent)
    (run / "options.json").write_text(json.dumps(record))
    assert invoke(invert.main, *args).exit_code == 0  # One that was made here goes on.


def test_only_a_folder_of_networks_without_code_needs_no_trust(tmp_path):
    write_bomb(tmp_path / "network-snapshot-000000.pkl", tmp_path)
    with pytest.raises(CheckpointError, match=f"{tmp_path}: not readable"):
        trust.check_pickle(str(tmp_path), None, False, "options.json")


def test_network_that_changed_since_the_run_began_is_refused(begun, tmp_path):
    run, network = begun
    shutil.copy(make_gan_run(tmp_path / "other", seed=1) / network.name, network)
    result = invoke(invert.main, "distill", f"--outdir={tmp_path}/runs", f"--resume={run}", "--trust-pickle")
    assert result.exit_code == 1 and f"{network}: its contents have changed" in result.stderr


def test_pickle_of_another_machine_needs_trust_when_resumed_and_none_when_named(begun, tmp_path, monkeypatch):
    run, network = begun
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(trust, "_seen", set())
    args = ["distill", f"--outdir={tmp_path}/runs", f"--resume={run}"]
    refused = invoke(invert.main, *args)
    assert refused.exit_code == 1 and "give --trust-pickle if you know where it is from" in refused.stderr
    done = invoke(invert.main, *args, "--trust-pickle")
    assert done.exit_code == 0, done.output


def test_loading_a_pickle_of_elsewhere_is_said_once(begun, tmp_path, monkeypatch, capsys):
    _run, network = begun
    load_snapshot(network)
    assert "NOTE" not in capsys.readouterr().err  # Made here.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(trust, "_seen", set())
    load_snapshot(network)
    load_snapshot(network)
    said = [line for line in capsys.readouterr().err.splitlines() if "NOTE" in line]
    assert said == [f"NOTE: {network} was not made here, and loading a pickle runs its code"]


def test_list_that_cannot_be_written_is_no_hindrance(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    data = dict(load_snapshot(make_gan_run(tmp_path / "gan")))
    data.pop("path")
    save_network_pkl(tmp_path / "again.pkl", data)
    assert trust.is_trusted(trust.pickle_hash(tmp_path / "again.pkl"))


def test_networks_without_code_need_no_trust_but_must_stay_the_same(begun, tmp_path, capsys):
    _run, network = begun
    folder = tmp_path / "exported"
    folder.mkdir()
    save_generator(folder, load_snapshot(network))
    digest = trust.trust_named(folder)
    trust.check_pickle(str(folder), digest, False, "options.json")
    load_snapshot(folder)
    assert "NOTE" not in capsys.readouterr().err
    with open(folder / "generator.json", "a") as file:
        file.write(" ")
    with pytest.raises(CheckpointError, match="its contents have changed"):
        trust.check_pickle(str(folder), digest, True, "options.json")


@pytest.mark.parametrize("key, value, words", [
    ("steps", "many", "options.steps must be a whole number"), ("steps", None, "options.steps must be"),
    ("steps", 0, "options.steps must be a whole number from 1 to 1e+09, got 0"),
    ("shift", 0.7, "options.shift must be a number from 0 to 0.5"), ("surprise", 1, "unknown key options.surprise"),
    ("device", "tpu", "options.device must be among"), ("network", ..., "has no options.network"),
    ("network", 3, "options.network must be text"),
])
def test_option_of_a_model_run_that_no_version_has_written_is_named(begun, tmp_path, key, value, words):
    run, _network = begun
    record = json.loads((run / "options.json").read_text())
    record["options"][key] = value
    if value is ...:
        del record["options"][key]
    (run / "options.json").write_text(json.dumps(record))
    result = invoke(invert.main, "distill", f"--outdir={tmp_path}/runs", f"--resume={run}")
    assert result.exit_code == 1 and words in result.stderr and f"{run}/options.json" in result.stderr


def test_option_that_an_older_version_did_not_have_takes_its_default(begun, tmp_path):
    run, _network = begun
    record = json.loads((run / "options.json").read_text())
    del record["options"]["vary_shape"]
    (run / "options.json").write_text(json.dumps(record))
    result = invoke(invert.main, "distill", f"--outdir={tmp_path}/runs", f"--resume={run}", "-n")
    assert json.loads(result.stdout)["options"]["vary_shape"] == 0.6


def test_trusted_hashes_are_kept_where_the_user_keeps_state(tmp_path, monkeypatch):
    assert trust.ledger() == tmp_path / "state" / "layered-plugin" / "pickles.sha256"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert trust.ledger() == tmp_path / ".local" / "state" / "layered-plugin" / "pickles.sha256"
