"""The host's training loop for layered generators: any device, layer grids, guards, exact resume.

Parameters, order of work, files and statistics are the host's; docs/training.md says what differs and why.
"""

import contextlib
import copy
import inspect
import pickle
import time
import warnings
from pathlib import Path
from typing import Any

import dnnlib
import legacy
import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch_utils import misc, training_stats

from layered_plugin import errors, grids, runs, signals
from layered_plugin.base import BASE
from layered_plugin.data.dataset import ResumableSampler
from layered_plugin.data.pictures import random_crop, to_float
from layered_plugin.device import tune_cpu
from layered_plugin.model import snapshots
from layered_plugin.training import guards, phases, sample_view
from layered_plugin.training.fading import Fade
from layered_plugin.training.run_log import RunLog, tick_stats
from layered_plugin.training.scene_variety import SceneVariety
from layered_plugin.training.state import TrainingState, restore_rng


def training_loop(
    run_dir                 = ".",      # Folder of the run, which exists.
    training_set_kwargs     = {},       # noqa: B006 - Class and arguments of the data set; size_px > resolution crops.
    data_loader_kwargs      = {},       # noqa: B006 - Arguments of torch.utils.data.DataLoader.
    G_kwargs                = {},       # noqa: B006 - Class and arguments of the generator.
    D_kwargs                = {},       # noqa: B006 - Class and arguments of the discriminator.
    G_opt_kwargs            = {},       # noqa: B006 - Class and arguments of its optimizer.
    D_opt_kwargs            = {},       # noqa: B006 - Class and arguments of its optimizer.
    augment_kwargs          = None,     # Class and arguments of the augmentation, None = no augmentation.
    loss_kwargs             = {},       # noqa: B006 - Class and arguments of the loss.
    metrics                 = [],       # noqa: B006 - Names of metrics for each snapshot (official base only).
    random_seed             = 0,        # Seed of all random numbers.
    num_gpus                = 1,        # Number of processes.
    rank                    = 0,        # Rank of this process.
    device                  = "cpu",    # Device of this process, such as cpu, cuda:0, mps.
    resolution              = 32,       # Resolution of the networks.
    batch_size              = 4,        # Pictures in an iteration, of all processes.
    batch_gpu               = 4,        # Pictures that a process takes at a time.
    ema_kimg                = 10,       # Kimg in which an old weight's share in G_ema halves.
    ema_rampup              = None,     # Half-life at most this share of the pictures shown, None = no limit.
    G_reg_interval          = 4,        # Iterations from path length to path length; None = in the main pass.
    D_reg_interval          = 16,       # Iterations from R1 to R1; None = in the main pass.
    augment_p               = 0,        # p at the start.
    ada_target              = None,     # Mean sign of real logits that p is steered to, None = p stays.
    ada_interval            = 4,        # Iterations from change to change of p.
    ada_kimg                = 500,      # Kimg in which p can move by 1.
    total_kimg              = 25000,    # Thousands of real pictures to show.
    kimg_per_tick           = 4,        # Kimg in a tick.
    image_snapshot_ticks    = 50,       # Ticks from grid to grid, None = no grids.
    network_snapshot_ticks  = 50,       # Ticks from snapshot and training state to the next, None = none.
    resume_pkl              = None,     # Network pickle to start from (transfer learning), None = disable.
    resume_state            = None,     # Training state to continue from, None = start anew.
    fade_kimg               = None,     # Kimg between which the highest blocks are faded in, [begin, end], None = none.
    ramp_kimg               = None,     # Kimg over which settings with two values change, None = total_kimg.
    cudnn_benchmark         = True,     # Let cuDNN choose the fastest algorithms?
    allow_tf32              = False,    # Allow TF32 in matrix products and convolutions?
    on_collapse             = "warn",   # What a lasting collapse does: "warn", or raise errors.CollapsedError.
    abort_fn                = None,     # Asked once per tick; True ends the run after the tick's snapshots.
    training_set            = None,     # Pictures to train on, None = construct them from training_set_kwargs.
    progress_fn             = None,     # Called with (kimg done, total kimg) at the start and at every tick.
):
    """Train a layered generator; see the parameters.

    Returns:
        None when the run reached total_kimg or was aborted, else the name of the signal that stopped it.

    Raises:
        errors.UserError: A loss is not finite; the last snapshots stand.
        errors.CollapsedError: The layers stayed collapsed and on_collapse is not "warn".
        errors.CheckpointError: resume_state is damaged or does not fit this configuration.
    """
    start_time = time.time()
    device = torch.device(device)
    torch.manual_seed(random_seed * num_gpus + rank)
    tune_cpu()
    torch.backends.cudnn.benchmark = cudnn_benchmark
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    torch.backends.cudnn.allow_tf32 = allow_tf32
    say = print if rank == 0 else _say_nothing
    saved = None if resume_state is None else runs.load_training_state(resume_state)

    # Load training set.
    say(f"StyleGAN2-ADA base: {BASE}\nLoading training set...")
    if training_set is None:
        training_set = dnnlib.util.construct_class_by_name(**training_set_kwargs)
    in_memory = training_set.preload(verbose=rank == 0)
    say(f"Pictures: {len(training_set)}  shape: {training_set.image_shape}  label: {training_set.label_shape}  "
        f"in memory: {'yes' if in_memory else 'no'}")
    if in_memory:
        data_loader_kwargs = dict(pin_memory=data_loader_kwargs.get("pin_memory", False), num_workers=0)

    # Construct networks.
    say("Constructing networks...")
    common_kwargs = dict(c_dim=training_set.label_dim, img_resolution=resolution,
                         img_channels=training_set.num_channels)
    G = dnnlib.util.construct_class_by_name(**G_kwargs, **common_kwargs).train().requires_grad_(False).to(device)
    D = dnnlib.util.construct_class_by_name(**D_kwargs, **common_kwargs).train().requires_grad_(False).to(device)
    G_ema = copy.deepcopy(G).eval()
    if resume_pkl is not None and saved is None:
        _transfer(resume_pkl, dict(G=G, D=D, G_ema=G_ema), say)
    if rank == 0:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            z = torch.randn([batch_gpu, G.z_dim], device=device)
            c = torch.zeros([batch_gpu, G.c_dim], device=device)
            img = misc.print_module_summary(G_ema, [z, c])
            misc.print_module_summary(D, [img, c])

    # Setup augmentation.
    augment_pipe: Any = None
    ada = None
    if augment_kwargs is not None and (augment_p > 0 or ada_target is not None):
        augment_pipe = dnnlib.util.construct_class_by_name(**augment_kwargs).train().requires_grad_(False).to(device)
        augment_pipe.p.fill_(augment_p)
        ada = phases.AdaSignal() if ada_target is not None else None

    # Setup fading: G and D stay ordinary networks, what is trained is around them.
    fade = None
    if fade_kimg is not None:
        half_kwargs = dict(common_kwargs, img_resolution=resolution // 2)
        smaller_D = dnnlib.util.construct_class_by_name(**D_kwargs, **half_kwargs)
        fade = Fade(G, D, smaller_D.train().requires_grad_(False).to(device), *fade_kimg)

    # Distribute across processes: all start from rank 0's weights and buffers.
    if num_gpus > 1:
        for tensor in [t for module in (G, D, G_ema) for t in misc.params_and_buffers(module)]:
            torch.distributed.broadcast(tensor.detach(), src=0)
    trained_D = D if fade is None else fade.D
    modules = dict(G_mapping=G.mapping, G_synthesis=G.synthesis if fade is None else fade.synthesis, D=trained_D)
    modules = {name: _distribute(module, num_gpus, device) for name, module in modules.items()}

    # Setup training phases.
    loss = dnnlib.util.construct_class_by_name(device=device, augment_pipe=augment_pipe, **modules, **loss_kwargs)
    G_phases = phases.setup_phases("G", G, G_opt_kwargs, G_reg_interval)
    D_phases = phases.setup_phases("D", trained_D, D_opt_kwargs, D_reg_interval)
    all_phases = G_phases + D_phases
    run = TrainingState(G=G, D=D, G_ema=G_ema, G_opt=G_phases[0].opt, D_opt=D_phases[0].opt, pl_mean=loss.pl_mean,
                        augment_pipe=augment_pipe, ada=ada, fade=fade)
    has_grown = False
    if saved is not None:
        has_grown = run.unpack(saved, batch_size=batch_size, num_gpus=num_gpus)
        if run.cur_nimg >= total_kimg * 1000:
            say(f"Already at kimg {run.cur_nimg / 1000:.1f} of {total_kimg}: nothing to do; give a larger --kimg.")
            return None

    # Export sample images, then set the random states as the last thing before the loop.
    max_px = round(loss.shift * resolution)
    view = sample_view.SampleView(G_ema, training_set, random_seed, max_px) if rank == 0 else None
    variety = SceneVariety(training_set, resolution, random_seed) if rank == 0 else None
    if view is not None and (saved is None or has_grown):
        grids.save_picture(view.reals(), Path(run_dir) / "reals.png")
        if saved is None:
            grids.save_picture(view.fakes(G_ema), Path(run_dir) / "fakes_init.png")
    sampler = ResumableSampler(len(training_set), start=run.cur_nimg, rank=rank, num_replicas=num_gpus,
                               seed=random_seed)
    batches = iter(torch.utils.data.DataLoader(training_set, sampler=sampler, batch_size=batch_size // num_gpus,
                                               **data_loader_kwargs))
    all_labels = _all_labels(training_set)
    if saved is not None:
        restore_rng(saved, rank, device)

    # Train.
    say(f"Training for {total_kimg} kimg, from kimg {run.cur_nimg / 1000:.1f}...")
    all_stats = training_stats.Collector(regex=".*")
    loss_stats = training_stats.Collector(regex="Loss/.*", keep_previous=False)
    watch = guards.CollapseWatch()
    tick_start_nimg, tick_start_time = run.cur_nimg, time.time()
    maintenance_sec = tick_start_time - start_time
    if progress_fn is not None:
        progress_fn(run.cur_nimg // 1000, total_kimg)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(RunLog(run_dir, total_kimg, run.cur_nimg)) if rank == 0 else None
        stop = stack.enter_context(signals.StopRequest())
        while True:
            # Move the settings that change over the run.
            progress = run.cur_nimg / ((ramp_kimg or total_kimg) * 1000)
            loss.set_progress(progress)
            phases.set_learning_rate(G_phases, G_opt_kwargs["lr"], progress)
            phases.set_learning_rate(D_phases, D_opt_kwargs["lr"], progress)

            # Fetch training data, draw latents and labels.
            real_img, real_c = (tensor.to(device, non_blocking=True) for tensor in next(batches))
            real_img = to_float(random_crop(real_img, resolution))
            if fade is not None:
                fade.move_to(run.cur_nimg)
                real_img = fade.blend_real(real_img)
            all_gen_z = torch.randn([len(all_phases), len(real_img), G.z_dim], device=device)
            picks = torch.randint(len(all_labels), [len(all_phases), len(real_img)])
            all_gen_c = all_labels[picks].to(device)

            # Execute training phases.
            for phase, gen_z, gen_c in zip(all_phases, all_gen_z, all_gen_c, strict=True):
                if run.batch_idx % phase.interval != 0:
                    continue
                phase_start = time.perf_counter()
                phase.opt.zero_grad(set_to_none=True)
                phase.module.requires_grad_(True)
                starts = range(0, len(real_img), batch_gpu)
                for start in starts:
                    part = slice(start, start + batch_gpu)
                    # Rounds are averaged (upstream adds them up), so that --batch-gpu changes memory alone.
                    loss.accumulate_gradients(
                        phase=phase.name, real_img=real_img[part], real_c=real_c[part], gen_z=gen_z[part],
                        gen_c=gen_c[part], sync=start == starts[-1], gain=phase.interval / len(starts))
                phase.module.requires_grad_(False)
                grads = [param.grad for param in phase.module.parameters() if param.grad is not None]
                if not phases.all_finite(grads):
                    loss_stats.update()
                    guards.check_finite(loss_stats.as_dict(), phase.name, run.cur_nimg / 1000)
                    phases.zero_nonfinite(grads)
                phase.opt.step()
                training_stats.report0(f"Timing/{phase.name}", (time.perf_counter() - phase_start) * 1000)

            # Update G_ema, counters and the augmentation probability.
            phases.update_ema(G, G_ema, batch_size, run.cur_nimg, ema_kimg, ema_rampup)
            run.cur_nimg += batch_size
            run.batch_idx += 1
            if log is not None:
                log.advance(batch_size)
            if ada is not None and run.batch_idx % ada_interval == 0:
                step = np.sign(ada.take() - ada_target) * batch_size * ada_interval / (ada_kimg * 1000)
                augment_pipe.p.add_(step).clamp_(min=0)

            # Perform maintenance tasks once per tick.
            stopping = _any_rank(stop.received is not None, num_gpus, device)
            done = run.cur_nimg >= total_kimg * 1000
            if not (done or stopping or run.cur_tick == 0
                    or run.cur_nimg >= tick_start_nimg + kimg_per_tick * 1000):
                continue
            tick_end_time = time.time()
            done = done or (abort_fn is not None and abort_fn())
            ending = done or stopping
            all_stats.update()
            stats = all_stats.as_dict()
            guards.check_finite({name: stats[name] for name in stats if name.startswith("Loss/")}, "any",
                                run.cur_nimg / 1000)
            stats.update(tick_stats(run, device, start_time, tick_start_time, tick_end_time,
                                    run.cur_nimg - tick_start_nimg, maintenance_sec))
            if log is not None:
                log.tick(stats, run.cur_nimg)
            due_findings, lasting_findings = watch.update(stats, run.cur_nimg / 1000)
            for text in due_findings:
                say(f"WARNING: {text}")

            # Save pictures, then the snapshot and the training state; each file is whole or absent.
            tick = run.cur_tick
            run.cur_tick += 1
            pictures = {}
            G_shown = G_ema if fade is None else fade.baked(G_ema)
            if view is not None and image_snapshot_ticks and (ending or tick % image_snapshot_ticks == 0):
                pictures = dict(fakes=view.fakes(G_shown), layers=view.layers(G_shown))
                for name, picture in pictures.items():
                    grids.save_picture(picture, Path(run_dir) / f"{name}{run.cur_nimg // 1000:06d}.png")
            if network_snapshot_ticks and (ending or tick % network_snapshot_ticks == 0):
                if num_gpus > 1:
                    for module in (G, D, G_ema):
                        misc.check_ddp_consistency(module, ignore_regex=r".*\.w_avg")
                packed = run.pack(batch_size, num_gpus, device)
                snapshot_pkl = Path(run_dir) / f"network-snapshot-{run.cur_nimg // 1000:06d}.pkl"
                if variety is not None:
                    stats.update(variety(G_shown))
                if rank == 0:
                    _save_snapshot(snapshot_pkl, run, training_set_kwargs)
                    runs.save_training_state(run_dir, run.cur_nimg // 1000, packed)
                if metrics:
                    _evaluate(metrics, snapshot_pkl, G_shown, training_set_kwargs, num_gpus, rank, device)

            # Write logs.
            if log is not None:
                log.write(stats, run.cur_nimg / 1000, {name: np.asarray(pic) for name, pic in pictures.items()})
            if progress_fn is not None:
                progress_fn(run.cur_nimg // 1000, total_kimg)
            if lasting_findings and on_collapse != "warn" and not ending:
                raise errors.CollapsedError(f"at kimg {run.cur_nimg / 1000:.1f}: {'; '.join(lasting_findings)}")
            if ending:
                return None if done else (stop.received or "a signal in another process")
            tick_start_nimg, tick_start_time = run.cur_nimg, time.time()
            maintenance_sec = tick_start_time - tick_end_time


def _say_nothing(*_args, **_kwargs) -> None:
    """What ranks above 0 print."""


def _transfer(resume_pkl: str, modules: dict[str, torch.nn.Module], say) -> None:
    """Copy what a network pickle has under the same names (upstream's transfer learning)."""
    say(f"Transferring weights from {resume_pkl} (unpickling runs its code)")
    try:
        with dnnlib.util.open_url(resume_pkl) as file:
            source = legacy.load_network_pkl(file)
    except (OSError, EOFError, ImportError, AttributeError, KeyError, ValueError, AssertionError,
            pickle.UnpicklingError) as err:
        raise errors.CheckpointError(f"`resume`: {resume_pkl} is no readable network pickle: {err!r}") from err
    for name, module in modules.items():
        known = {key for key, _ in misc.named_params_and_buffers(source[name])}
        wanted = [key for key, _ in misc.named_params_and_buffers(module)]
        try:
            misc.copy_params_and_buffers(source[name], module, require_all=False)
        except (RuntimeError, ValueError) as err:
            raise errors.CheckpointError(f"`resume`: {name} of {resume_pkl} has other shapes than this "
                                             f"configuration asks for: {err}") from err
        say(f"{name}: {sum(key in known for key in wanted)} of {len(wanted)} tensors found in the pickle")


def _distribute(module: torch.nn.Module, num_gpus: int, device: torch.device) -> torch.nn.Module:
    if num_gpus == 1:
        return module
    # Current PyTorch has another name for leaving the buffers alone in forward.
    accepted = inspect.signature(DistributedDataParallel).parameters
    options: dict[str, Any] = {
        "forward_sync_buffers" if "forward_sync_buffers" in accepted else "broadcast_buffers": False}
    # Weights of 1x1 layers have several equal layouts; the hint that they differ means nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    module.requires_grad_(True)
    ddp = DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None, **options)
    module.requires_grad_(False)
    return ddp


def _any_rank(flag: bool, num_gpus: int, device: torch.device) -> bool:
    """Whether the flag is set in any process, so that all of them stop after the same step."""
    if num_gpus == 1:
        return flag
    votes = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(votes)
    return bool(votes)


def _all_labels(training_set) -> torch.Tensor:
    """Labels to draw from, [num, c_dim]; a single empty one for an unlabelled set."""
    if training_set.label_dim == 0:
        return torch.zeros([1, 0])
    return torch.from_numpy(np.stack([training_set.get_label(idx) for idx in range(len(training_set))]))


def _save_snapshot(path: Path, run: TrainingState, training_set_kwargs: dict) -> None:
    """Write the host's network pickle: CPU copies in evaluation mode."""
    data: dict[str, Any] = dict(training_set_kwargs=dict(training_set_kwargs))
    for name in ("G", "D", "G_ema", "augment_pipe"):
        module = getattr(run, name)
        if run.fade is not None and name in ("G", "G_ema"):
            module = run.fade.baked(module)
        data[name] = None if module is None else copy.deepcopy(module).eval().requires_grad_(False).cpu()
    snapshots.save_network_pkl(path, data)


def _evaluate(metrics, snapshot_pkl, G_ema, training_set_kwargs, num_gpus, rank, device) -> None:
    """Run the official base's metrics on a snapshot."""
    from metrics import metric_main

    for metric in metrics:
        result = metric_main.calc_metric(metric=metric, G=G_ema, dataset_kwargs=training_set_kwargs,
                                         num_gpus=num_gpus, rank=rank, device=device)
        if rank == 0:
            metric_main.report_metric(result, run_dir=str(snapshot_pkl.parent), snapshot_pkl=str(snapshot_pkl))
