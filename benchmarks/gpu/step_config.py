"""Parameters of the training loop as ``train_layered.py`` makes them, on simulated pictures."""

import contextlib
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

import train_layered
from layered_plugin.data.pictures import CROP_RATIO

NUM_PICTURES = 1024


def training_config(resolution: int, device: str, options: Sequence[str]) -> dict[str, Any]:
    """What ``train_layered.py -n`` prints, with simulated pictures in place of the data set, and nothing saved.

    Args:
        resolution: Side of the pictures.
        device: cpu or cuda.
        options: Further options of ``train_layered.py``.
    """
    output = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(output):
        Path(folder, "pictures").mkdir()
        PIL.Image.fromarray(np.zeros([8, 8, 3], np.uint8)).save(Path(folder, "pictures", "0.png"))  # It wants one.
        with contextlib.redirect_stderr(io.StringIO()):
            train_layered.main(["-n", f"--outdir={folder}/runs", f"--data={folder}/pictures",
                                f"--resolution={resolution}", f"--device={device}", *options], standalone_mode=False)
    config = json.loads(output.getvalue())
    del config["base"]
    config.update(total_kimg=1e9, image_snapshot_ticks=None, network_snapshot_ticks=None, training_set_kwargs=dict(
        class_name="benchmarks.support.simulated.SimulatedPictures", num=NUM_PICTURES,
        size_px=round(resolution * CROP_RATIO)))
    return config
