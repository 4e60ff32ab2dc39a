"""Start a run: its folder, its processes, restarts, and what is said at the end.

One process, several spawned here, or processes started by torchrun.
"""

import atexit
import contextlib
import errno
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

import dnnlib
import torch
import torch.distributed
from torch_utils import custom_ops, training_stats

from layered_plugin import errors, runs, signals
from layered_plugin.base import BASE
from layered_plugin.calls import go_on_command, typed_command
from layered_plugin.cores import usable_cores
from layered_plugin.files import NO_ROOM, atomic_write, remove_leftovers, room_for, write_json
from layered_plugin.runs import make_run_dir, next_desc
from layered_plugin.training import processes
from layered_plugin.training.legs import FindMasks, train_legs

MAX_RESTARTS = 4

UNREAD = (errno.EPIPE, errno.EIO)  # Of a pipe whose reader has ended, and of a terminal that was closed.


def launch(config: dict[str, Any], outdir: str, desc: str, find_masks: FindMasks) -> None:
    """Run the training that a config describes, to its end.

    Args:
        config: Parameters of ``training_loop``, and what ``legs.legs_of`` reads; a config with run_dir goes on in that
            folder.
        outdir: Parent of the run folders.
        desc: What follows the number in the name of a new one.
        find_masks: What finds the masks of a run with ``found``; a function of a module, which processes can import.

    Under torchrun, num_gpus is the number of its processes.

    Exits with 1 on an error, with 128 + N when signal N stopped the run after saving.
    """
    num_gpus = config["num_gpus"]
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        _run_rank(int(os.environ["RANK"]), config, outdir, desc, find_masks, init_method="env://")
    elif num_gpus == 1:
        _run_rank(0, config, outdir, desc, find_masks, init_method=None)
    else:
        _spawn(config, outdir, desc, find_masks)


def _spawn(config: dict[str, Any], outdir: str, desc: str, find_masks: FindMasks) -> None:
    if config["run_dir"] is None:  # Made here, so that it is known whatever becomes of the processes.
        config = dict(config, run_dir=make_run_dir(outdir, desc))
    with tempfile.TemporaryDirectory() as temp_dir, signals.StopRequest() as stop:
        init_method = Path(temp_dir, "init").absolute().as_uri()
        run_dir_file = Path(temp_dir, "run-dir")
        run_dir_file.write_bytes(os.fsencode(config["run_dir"]))
        context = torch.multiprocessing.start_processes(
            _run_rank, args=(config, outdir, desc, find_masks, init_method, run_dir_file), nprocs=config["num_gpus"],
            join=False, start_method="spawn")
        code = processes.supervise(context, stop, run_dir_file)
    if code != 0:
        sys.exit(code)


def _run_rank(rank: int, config: dict[str, Any], outdir: str, desc: str, find_masks: FindMasks,
              init_method: str | None, run_dir_file: Path | None = None) -> None:
    """One process of a run; `run_dir_file` as for ``_run_attempts``."""
    num_gpus, kind = config["num_gpus"], config["device"]
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    device = torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    if num_gpus > 1:
        if kind == "cpu":
            torch.set_num_threads(max(1, usable_cores() // num_gpus))
        processes.join_group(kind, str(init_method), rank, num_gpus)
    training_stats.init_multiprocessing(rank=rank, sync_device=device if num_gpus > 1 else None)
    if rank != 0:
        custom_ops.verbosity = "none"
    code = 0
    try:
        signal_name = _run_attempts(rank, device, config, outdir, desc, find_masks, run_dir_file)
        if signal_name is not None:
            code = 128 + getattr(signal, signal_name, signal.SIGTERM)
        if num_gpus > 1:
            torch.distributed.barrier()  # The first to leave with a code has the others stopped.
    except (errors.UserError, OSError) as err:  # Of the system: a full disk, for one.
        # Any process may be the one that meets a bad file, so each speaks for itself.
        text = errors.with_options(str(err))
        print(f"Error: {text}" if rank == 0 else f"Error in process {rank}: {text}", file=sys.stderr)
        code = 1
    except RuntimeError as err:
        if num_gpus == 1 or not processes.is_lost_process(err):
            raise
        print(f"Error in process {rank}: another process has ended, or did not answer within "
              f"{processes.wait_limit():g} s", file=sys.stderr)
        leave_process(1)  # The group can't be left in order.
    finally:
        if num_gpus > 1:
            torch.distributed.destroy_process_group()
    if num_gpus > 1:
        leave_process(code)
    if code != 0:
        sys.exit(code)


def leave_process(code: int) -> NoReturn:
    """End a process that has used DistributedDataParallel over gloo.

    PyTorch 2.14 keeps gloo's threads alive even when the group is destroyed, and a regular exit now and then aborts on
    them after all is done. So Python tidies up, and what is left of C++ is not torn down.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run_attempts(rank: int, device: torch.device, config: dict[str, Any], outdir: str, desc: str,
                  find_masks: FindMasks, run_dir_file: Path | None = None) -> str | None:
    """Train; if the layers collapse and the config says so, again in a new folder with the next seed.

    The first process writes the path of each folder to `run_dir_file`, for who has to say how to go on.
    """
    for attempt in range(MAX_RESTARTS + 1):
        run_dir = _agree_on_run_dir(rank, config, outdir, desc)
        log_file = str(Path(run_dir) / runs.LOG_FILE) if rank == 0 else None
        with runs.held(run_dir) if rank == 0 else contextlib.nullcontext(), _logged(run_dir, log_file):
            config = dict(config, run_dir=run_dir)
            if rank == 0:
                if config["resume_state"] is not None:
                    remove_leftovers(run_dir)
                if run_dir_file is not None:
                    with atomic_write(run_dir_file) as file:
                        file.write(os.fsencode(run_dir))
                print(f"Run folder: {run_dir}")
                print("Command: " + typed_command("train_layered.py"))
                write_json(Path(run_dir) / runs.GAN_FILE, dict(base=str(BASE), **config))
            try:
                signal_name = train_legs(config, rank, device, find_masks)
            except errors.CollapsedError as err:
                if config["on_collapse"] != "restart" or attempt == MAX_RESTARTS:
                    raise
                config = dict(config, random_seed=config["random_seed"] + 1, run_dir=None, resume_state=None)
                desc = next_desc(run_dir, config["random_seed"])
                if rank == 0:
                    print(f"Collapsed {err}\nStarting anew with seed {config['random_seed']}.")
                continue
            if rank == 0:
                _say_how_to_go_on(run_dir, signal_name)
            return signal_name
    raise AssertionError("the last attempt returns or raises")


class _Stdout:
    """Where a run prints to, None = nowhere; the log has all, so that nobody need read it.

    Characters that it lacks are escaped, and where there is no room it is named: its errors are told from the log's.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._named():
            if self._stream is not None:
                encoding = self._stream.encoding or "utf-8"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._named():
            if self._stream is not None:
                self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            if err.errno not in (*NO_ROOM, *UNREAD):
                raise
            # What is left to print would fail once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # type: ignore[union-attr]
            if err.errno in NO_ROOM:
                raise errors.DiskFullError("stdout: no room where it is written to; make room, or have it written "
                                           "elsewhere") from err


@contextlib.contextmanager
def _logged(run_dir: str, log_file: str | None) -> Iterator[None]:
    """Copy what is printed to the log; where memory or a disk is full or a process was lost, say how to go on.

    The official logger writes once more when it is closed, and does not give the streams back where that fails.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout = _Stdout(sys.stdout)  # type: ignore[assignment]
    try:
        with room_for(Path(run_dir) / runs.LOG_FILE), dnnlib.util.Logger(log_file, file_mode="a", should_flush=True):
            yield
    except (errors.DiskFullError, errors.LostReaderError) as err:
        raise errors.UserError(f"{err}: {processes.how_to_go_on(run_dir)}") from err
    except (MemoryError, RuntimeError) as err:
        lack = errors.lack_of_memory(err)
        if lack is None:
            raise
        raise errors.UserError(f"{lack}; a smaller `batch_gpu` takes less: {processes.how_to_go_on(run_dir)}") from err
    finally:
        sys.stdout, sys.stderr = streams


def _agree_on_run_dir(rank: int, config: dict[str, Any], outdir: str, desc: str) -> str:
    run_dir = config["run_dir"]
    if run_dir is None and rank == 0:
        try:
            run_dir = make_run_dir(outdir, desc)
        except OSError as err:
            raise errors.UserError(f"`outdir`: can't write to {outdir}: {err.strerror}") from err
    elif rank == 0 and not os.access(run_dir, os.W_OK):
        raise errors.UserError(f"`resume`: can't write to {run_dir}")
    if config["num_gpus"] > 1:
        names = [run_dir]
        torch.distributed.broadcast_object_list(names, src=0)
        run_dir = names[0]
    return run_dir


def _say_how_to_go_on(run_dir: str, signal_name: str | None) -> None:
    grids = sorted(Path(run_dir).glob("layers*.png"))
    if grids:
        print(f"Layers (background, foreground, mask, cut-out, composite, shifted): {grids[-1]}")
    if signal_name is not None:
        print(f"Stopped by {signal_name}; all is saved. Go on with: {go_on_command('train_layered.py', run_dir)}")
