"""A beginning that fits several run folders: every command says so in one line."""

import pytest
from click.testing import CliRunner

import eval as eval_script
import invert
import train_layered
from layered_plugin import generate


@pytest.mark.parametrize("command, args, option", [
    (train_layered.main, ["--outdir=OUT", "--resume=RUN"], "--resume: "),
    (invert.main, ["distill", "--outdir=OUT", "--resume=RUN"], ""),
    (invert.main, ["distill", "--outdir=OUT", "--network=RUN"], ""),
    (invert.main, ["segment", "--model=RUN", "--images=PICTURE", "--outdir=OUT"], ""),
    (invert.main, ["export", "--model=RUN"], ""),
    (invert.main, ["export", "--model=RUN", "--dest=OUT/model.onnx"], ""),
    (eval_script.main, ["generated", "--network=RUN", "--class=car"], "--network: "),
    (eval_script.main, ["real", "--model=RUN", "--data=PICTURE", "--masks=OUT"], "--model: "),
    (eval_script.main, ["report", "RUN"], "RUN: "),
    (eval_script.main, ["report", "OUT", "--model=RUN"], "--model: "),
    (generate.main, ["--network=RUN", "--seeds=0", "--grid=OUT/grid.png"], "--network: "),
])
def test_beginning_that_fits_several_runs_is_an_error(tmp_path, command, args, option):
    for idx in range(3):
        (tmp_path / "runs" / f"0000{idx}-cars").mkdir(parents=True)
    (tmp_path / "picture.png").write_bytes(b"")
    run = tmp_path / "runs" / "0000"
    for name, path in dict(OUT=tmp_path, RUN=run, PICTURE=tmp_path / "picture.png").items():
        args = [arg.replace(name, str(path)) for arg in args]
    result = CliRunner().invoke(command, args)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    assert f"Error: {option}{run}: fits 3 run folders, such as {run}0-cars; write more of the name" in result.stderr
