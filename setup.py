"""What pyproject.toml can't say: a wheel holds the base and the commands inside the package.

In the repository they lie beside it, where a reader looks for them. Installed beside it, ``training``, ``legacy``,
``dnnlib`` and ``torch_utils`` would shadow an official checkout, and ``eval`` and ``invert`` other people's modules.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BASE = Path("vendor/stylegan2_compat")

COMMANDS = ("train_layered.py", "invert.py", "eval.py")


class BuildPackage(build_py):
    """``build_py`` that also copies base and commands, to ``layered_plugin/_base`` and ``layered_plugin/commands``."""

    def run(self) -> None:
        if not self.editable_mode:  # There, the package finds both where they are.
            # A module that was removed or renamed since the last build must not be shipped.
            shutil.rmtree(Path(self.build_lib, "layered_plugin"), ignore_errors=True)
        super().run()
        if not self.editable_mode:
            for source, dest in self._moved().items():
                dest.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, dest)

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *map(str, self._moved())]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        moved = [] if self.editable_mode else [str(dest) for dest in self._moved().values()]
        return [*super().get_outputs(include_bytecode), *moved]

    def _moved(self) -> dict[Path, Path]:
        """Files in the repository, and where they go."""
        package = Path(self.build_lib, "layered_plugin")
        files = [path for path in BASE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        return ({path: package / "_base" / path.relative_to(BASE) for path in sorted(files)}
                | {Path(name): package / "commands" / name for name in COMMANDS})


setup(cmdclass={"build_py": BuildPackage})
