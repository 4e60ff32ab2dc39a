"""Errors of the commands: one line for what a user can mend, with the option's name; a traceback for all else."""

import click
import pytest
from click.testing import CliRunner

from layered_plugin import errors
from layered_plugin.command_line import CheckedCommand, user_errors, writing
from layered_plugin.errors import ArgumentError, PictureError, UserError, with_options


def command(error: Exception) -> click.Command:
    @click.command()
    @click.option("--batch-gpu", type=int)
    @click.option("--device", "device_name")
    @user_errors({PictureError: "--data"})
    def main(batch_gpu: int | None, device_name: str | None) -> None:
        raise error

    return main


@pytest.mark.parametrize(("error", "code", "text"), [
    (ArgumentError("`batch_gpu` must fit `device_name`"), 2, "Error: --batch-gpu must fit --device\n"),
    (PictureError("a.png: damaged"), 1, "Error: --data: a.png: damaged\n"),
    (UserError("a.pkl: damaged; lower `lr`"), 1, "Error: a.pkl: damaged; lower --lr\n"),
    (FileNotFoundError(2, "No such file", "a.json"), 1, "Error: [Errno 2] No such file: 'a.json'\n"),
])
def test_what_a_user_can_mend_is_one_line_with_the_option(error, code, text):
    result = CliRunner().invoke(command(error))
    assert result.exit_code == code and result.stderr.endswith(text)


@pytest.mark.parametrize("error", [ValueError("wrong shape"), KeyError("name"), RuntimeError("size mismatch")])
def test_a_programming_error_keeps_its_traceback(error):
    assert CliRunner().invoke(command(error)).exception is error


def test_home_is_known_in_paths_which_a_shell_leaves_as_they_are(monkeypatch):
    """As in --outdir=~/runs; other texts and web addresses stay."""
    @click.command(cls=CheckedCommand)
    @click.option("--outdir", metavar="DIR")
    @click.option("--model", "models", metavar="RUN", multiple=True)
    @click.option("--title", metavar="TEXT")
    def main(outdir: str, models: tuple[str, ...], title: str) -> None:
        click.echo(f"{outdir} {models} {title}")

    monkeypatch.setenv("HOME", "/home/me")
    result = CliRunner().invoke(main, ["--outdir=~/runs", "--model=~", "--model=a~/b", "--model=~you/c", "--title=~/x"])
    assert result.stdout == "/home/me/runs ('/home/me', 'a~/b', '~you/c') ~/x\n"
    assert CliRunner().invoke(main, []).stdout == "None () None\n"


def test_all_errors_of_the_package_are_user_errors():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 10 and all(issubclass(kind, UserError) for kind in kinds)


def test_texts_name_options_in_place_of_arguments():
    assert with_options("`fp32`=1 contradicts `precision`=bf16", {}) == "--fp32=1 contradicts --precision=bf16"
    assert with_options("`class_idx` must be 0", {"class_idx": "--class"}) == "--class must be 0"


def test_what_cannot_be_written_is_named(tmp_path):
    with pytest.raises(click.ClickException, match="--dest: can't write to a.zip: No such file or directory"), \
            writing("--dest", "a.zip"):
        open(tmp_path / "none/a.zip", "w")
    with pytest.raises(click.ClickException, match="--dest, --masks: can't be written: .*none/a.zip"), \
            writing("--dest, --masks"):
        open(tmp_path / "none/a.zip", "w")
