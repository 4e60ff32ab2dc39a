"""The host's training loop for layered generators: any device, layer grids, guards, exact resume.

Parameters, files and statistics are the host's; docs/training.md says what differs and why.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch_utils import training_stats

from layered_plugin import runs, signals
from layered_plugin.base import BASE
from layered_plugin.training import guards, phases, setup
from layered_plugin.training.feed import Feed, endless_batches
from layered_plugin.training.init_from import start_from_plain
from layered_plugin.training.maintenance import Maintenance, Schedule
from layered_plugin.training.metrics import SnapshotMetrics
from layered_plugin.training.processes import Process
from layered_plugin.training.state import TrainingState, restore_rng


def training_loop(
    # Where it runs.
    run_dir                 = ".",      # Folder of the run, which exists.
    device                  = "cpu",    # Device of this process, such as cpu, cuda:0, mps.
    rank                    = 0,        # Rank of this process.
    num_gpus                = 1,        # Number of processes.
    random_seed             = 0,        # Seed of all random numbers.
    cudnn_benchmark         = True,     # Let cuDNN choose the fastest algorithms?
    allow_tf32              = False,    # Allow TF32 in matrix products and convolutions?
    # What is learnt from.
    training_set            = None,     # Pictures to train on, None = construct them from training_set_kwargs.
    masks_path              = None,     # Masks of the pictures, which D sees beside them; None = pictures alone.
    D_sees_masks            = False,    # Has D a channel for masks, even where masks_path is None?
    training_set_kwargs     = {},       # noqa: B006 - Class and arguments of the data set; size_px > resolution crops.
    data_loader_kwargs      = {},       # noqa: B006 - Arguments of torch.utils.data.DataLoader.
    resolution              = 32,       # Resolution of the networks.
    # What learns, and by what.
    G_kwargs                = {},       # noqa: B006 - Class and arguments of the generator.
    D_kwargs                = {},       # noqa: B006 - Class and arguments of the discriminator.
    loss_kwargs             = {},       # noqa: B006 - Class and arguments of the loss.
    G_opt_kwargs            = {},       # noqa: B006 - Class and arguments of its optimizer.
    G_reg_interval          = 4,        # Iterations from path length to path length; None = in the main pass.
    D_opt_kwargs            = {},       # noqa: B006 - Class and arguments of its optimizer.
    D_reg_interval          = 16,       # Iterations from R1 to R1; None = in the main pass.
    batch_size              = 4,        # Pictures in an iteration, of all processes.
    batch_gpu               = 4,        # Pictures that a process takes at a time.
    ema_kimg                = 10,       # Kimg in which an old weight's share in G_ema halves.
    ema_rampup              = None,     # Half-life at most this share of the pictures shown, None = no limit.
    # Augmentation.
    augment_kwargs          = None,     # Class and arguments of the augmentation, None = no augmentation.
    augment_p               = 0,        # p at the start.
    ada_target              = None,     # Mean sign of real logits that p is steered to, None = p stays.
    ada_interval            = 4,        # Iterations from change to change of p.
    ada_kimg                = 500,      # Kimg in which p can move by 1.
    # How long, and from where.
    total_kimg              = 25000,    # Thousands of real pictures to show.
    ramp_kimg               = None,     # Kimg over which settings with two values change, None = total_kimg.
    fade_kimg               = None,     # Kimg between which the highest blocks are faded in, [begin, end], None = none.
    resume_state            = None,     # Training state to continue from, None = start anew.
    resume_pkl              = None,     # Network pickle to start from (transfer learning), None = disable.
    init_pkl                = None,     # Pickle of ordinary networks to start layers from, None = disable.
    abort_fn                = None,     # Asked once per tick; True ends the run after the tick's snapshots.
    on_collapse             = "warn",   # What a lasting collapse does: "warn", or raise errors.CollapsedError.
    # What is written.
    kimg_per_tick           = 4,        # Kimg in a tick.
    image_snapshot_ticks    = 50,       # Ticks from grid to grid, None = no grids.
    network_snapshot_ticks  = 50,       # Ticks from snapshot and training state to the next, None = none.
    snapshot_minutes        = None,     # Most minutes from snapshot to snapshot, whatever the ticks say, None = any.
    metrics                 = [],       # noqa: B006 - Names of metrics for each snapshot, see metrics.py.
    fid_weights             = None,     # Inception's weights for them, a file; the official base has its own.
    progress_fn             = None,     # Called with (kimg done, total kimg) at the start and at every tick.
):
    """Train a layered generator; see the parameters.

    Returns None when the run reached total_kimg or was aborted, else the name of the signal that stopped it.

    Raises:
        errors.UserError: A loss is not finite; the last snapshots stand.
        errors.PictureError, errors.MaskError: Too many pictures became unreadable, or a mask; all is saved.
        errors.CollapsedError: The layers stayed collapsed and on_collapse is not "warn".
        errors.CheckpointError: resume_state is damaged or does not fit this configuration.
    """
    start_time = time.time()
    device = setup.prepare_process(device, random_seed * num_gpus + rank, cudnn_benchmark, allow_tf32)
    say = print if rank == 0 else lambda *_args: None  # Ranks above 0 say nothing.
    saved = None if resume_state is None else runs.load_training_state(resume_state)

    # The pictures, the networks, and what stands around them while they learn.
    say(f"StyleGAN2-ADA base: {BASE}")
    training_set = setup.open_training_set(training_set, training_set_kwargs, rank)
    shown = setup.with_masks(training_set, masks_path, rank)
    G, D, G_ema = setup.build_networks(G_kwargs, D_kwargs, training_set, resolution, device,
                                       D_sees_masks or masks_path is not None)
    if saved is None:
        _start_from(resume_pkl, init_pkl, G, D, G_ema, loss_kwargs, batch_gpu, say)
    if rank == 0:
        setup.summarize_networks(G_ema, D, batch_gpu, device)
    augment_pipe, ada = setup.build_augmentation(augment_kwargs, augment_p, ada_target, device)
    fade = setup.build_fade(G, D, D_kwargs, fade_kimg, device)

    # The loss, who takes steps on it, and where the run stands.
    loss = setup.build_loss(loss_kwargs, G, D, G_ema, augment_pipe, fade, num_gpus, device)
    G_phases = phases.setup_phases("G", G, G_opt_kwargs, G_reg_interval)
    D_phases = phases.setup_phases("D", D if fade is None else fade.D, D_opt_kwargs, D_reg_interval)
    run = TrainingState(G=G, D=D, G_ema=G_ema, G_opt=G_phases[0].opt, D_opt=D_phases[0].opt, pl_mean=loss.pl_mean,
                        augment_pipe=augment_pipe, ada=ada, fade=fade)
    has_grown = saved is not None and run.unpack(saved, batch_size, rank)
    if saved is not None and run.cur_nimg >= total_kimg * 1000:
        say(f"Already at kimg {run.cur_nimg / 1000:.1f} of {total_kimg}: nothing to do; give a larger --kimg.")
        return None

    # What is looked at, and in which order pictures come; the random states are set last.
    process = Process(rank, num_gpus, device, random_seed)
    schedule = Schedule(total_kimg, kimg_per_tick, image_snapshot_ticks, network_snapshot_ticks, snapshot_minutes)
    maintenance = Maintenance(
        run, process, schedule,
        measure=SnapshotMetrics(metrics, fid_weights, training_set, training_set_kwargs, process),
        training_set=training_set, training_set_kwargs=training_set_kwargs, run_dir=Path(run_dir),
        shift_px=round(loss.shift * resolution), batch_size=batch_size, on_collapse=on_collapse,
        progress_fn=progress_fn, start_time=start_time)
    if saved is None or has_grown:
        maintenance.save_first_pictures(new=saved is None)
    batches = endless_batches(shown, data_loader_kwargs, batch_size, run.cur_nimg, rank, num_gpus, random_seed)
    reads_files = setup.any_rank([not shown.preload()], num_gpus, device)[0]  # Machines differ in room for them.
    feed = Feed(batches, resolution, fade, device, voters=num_gpus if reads_files else 1)
    if saved is not None:
        restore_rng(saved, process)
    say(f"Training for {total_kimg} kimg, from kimg {run.cur_nimg / 1000:.1f}...")
    loss_stats = training_stats.Collector(regex="Loss/.*", keep_previous=False)
    with signals.StopRequest() as stop, maintenance:
        while True:
            progress = run.cur_nimg / ((ramp_kimg or total_kimg) * 1000)
            loss.set_progress(progress)
            phases.set_learning_rate(G_phases, G_opt_kwargs["lr"], progress)
            phases.set_learning_rate(D_phases, D_opt_kwargs["lr"], progress)
            _run_phases(G_phases + D_phases, run, loss, loss_stats, batch_gpu, *feed.next(run.cur_nimg), training_set)
            phases.update_ema(G, G_ema, batch_size, run.cur_nimg, ema_kimg, ema_rampup)
            maintenance.count_batch()
            if ada is not None and run.batch_idx % ada_interval == 0:
                ada.adjust(augment_pipe.p, ada_target, batch_size * ada_interval / (ada_kimg * 1000))
            stopping, overdue = setup.any_rank([stop.received is not None, maintenance.overdue()], num_gpus, device)
            done = run.cur_nimg >= total_kimg * 1000
            if done or stopping or overdue or maintenance.due():
                done = done or (abort_fn is not None and abort_fn())
                maintenance.tick(ending=done or stopping, save=overdue)
                if done or stopping:
                    return None if done else (stop.received or "a signal in another process")


def _start_from(resume_pkl: str | None, init_pkl: str | None, G, D, G_ema, loss_kwargs: dict[str, Any], batch: int,
                say) -> None:
    """Give new networks the weights of a pickle, if there is one."""
    if resume_pkl is not None:
        setup.transfer(resume_pkl, dict(G=G, D=D, G_ema=G_ema), say)
    if init_pkl is not None:
        start_from_plain(init_pkl, G, D, G_ema, loss_kwargs.get("mask_min", 0.25), batch, say)


def _run_phases(all_phases: list[phases.Phase], run: TrainingState, loss, loss_stats: training_stats.Collector,
                batch_gpu: int, real_img: torch.Tensor, real_c: torch.Tensor, training_set) -> None:
    """Draw latents and labels for each phase, and take the step of those that are due."""
    num, device = len(real_img), real_img.device
    all_gen_z = torch.randn([len(all_phases), num, run.G.z_dim], device=device)
    all_gen_c = setup.draw_labels(training_set, len(all_phases) * num).to(device)
    for phase, gen_z, gen_c in zip(all_phases, all_gen_z, all_gen_c.split(num), strict=True):
        if run.batch_idx % phase.interval == 0:
            start_time = time.perf_counter()
            _accumulate(phase, loss, batch_gpu, real_img, real_c, gen_z, gen_c)
            _take_step(phase, loss_stats, run.cur_nimg / 1000)
            training_stats.report0(f"Timing/{phase.name}", (time.perf_counter() - start_time) * 1000)


def _accumulate(phase: phases.Phase, loss, batch_gpu: int, real_img: torch.Tensor, real_c: torch.Tensor,
                gen_z: torch.Tensor, gen_c: torch.Tensor) -> None:
    """Gradients of a phase, in rounds of batch_gpu; the rounds are averaged (upstream adds them up), so that their
    number changes memory alone, but for what is taken over the pictures of a round (docs/training.md)."""
    phase.opt.zero_grad(set_to_none=True)
    phase.module.requires_grad_(True)
    starts = range(0, len(real_img), batch_gpu)
    for start in starts:
        part = slice(start, start + batch_gpu)
        loss.accumulate_gradients(phase=phase.name, real_img=real_img[part], real_c=real_c[part], gen_z=gen_z[part],
                                  gen_c=gen_c[part], sync=start == starts[-1], gain=phase.interval / len(starts))
    phase.module.requires_grad_(False)


def _take_step(phase: phases.Phase, loss_stats: training_stats.Collector, kimg: float) -> None:
    """Step of the phase's optimizer, unless a loss is to blame for gradients that are not finite.

    UserError if a loss is not finite. Gradients alone are put right, as the host does.
    """
    grads = [param.grad for param in phase.module.parameters() if param.grad is not None]
    if not phases.all_finite(grads):
        loss_stats.update()
        guards.check_finite(loss_stats.as_dict(), phase.name, kimg)
        phases.zero_nonfinite(grads)
    phase.opt.step()
