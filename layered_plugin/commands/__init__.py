"""The commands as an installed package calls them: layered-train, layered-invert, layered-eval, and the others.

``layered_plugin.commands.eval`` is eval.py, and so on. A wheel carries the three files in this folder (setup.py); in a
checkout they lie at its root.
"""

import importlib
from functools import partial
from pathlib import Path

from layered_plugin.calls import ROOT, as_typed

if not Path(__file__).with_name("train_layered.py").is_file():
    __path__.append(str(ROOT))


def run(module: str) -> None:
    """Run the command of a module, with the examples of its help in the words that the user types."""
    main = importlib.import_module(module).main
    for command in (main, *getattr(main, "commands", {}).values()):
        command.help = as_typed(command.help)
    main()


train = partial(run, "layered_plugin.commands.train_layered")
invert = partial(run, "layered_plugin.commands.invert")
evaluate = partial(run, "layered_plugin.commands.eval")
data = partial(run, "layered_plugin.dataset_tool")
generate = partial(run, "layered_plugin.generate")
export = partial(run, "layered_plugin.export")
projector = partial(run, "layered_plugin.projector")
style_mixing = partial(run, "layered_plugin.style_mixing")
app = partial(run, "layered_plugin.app")
