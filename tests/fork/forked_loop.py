"""The fork's loop: what upstream's asks of its classes and no more; one process, no augmentation, one snapshot."""

import copy
import pickle
from pathlib import Path

import dnnlib
import torch
from torch_utils import misc, training_stats

INTERVALS = dict(Gmain=1, Greg=4, Dmain=1, Dreg=2)


def training_loop(run_dir, training_set_kwargs, G_kwargs, D_kwargs, loss_kwargs, total_kimg, batch_size):
    """Train, print the names of the statistics, and write network-snapshot-000000.pkl."""
    device = torch.device("cpu")
    torch.manual_seed(0)
    training_set = dnnlib.util.construct_class_by_name(**training_set_kwargs)
    batches = iter(torch.utils.data.DataLoader(training_set, batch_size, sampler=misc.InfiniteSampler(training_set)))
    shape = dict(c_dim=training_set.label_dim, img_resolution=training_set.resolution,
                 img_channels=training_set.num_channels)
    G, D = (dnnlib.util.construct_class_by_name(**kwargs, **shape).train().requires_grad_(False)
            for kwargs in (G_kwargs, D_kwargs))
    G_ema = copy.deepcopy(G).eval()
    img = misc.print_module_summary(G, [torch.randn(2, G.z_dim), torch.zeros(2, G.c_dim)])
    misc.print_module_summary(D, [img, torch.zeros(2, G.c_dim)])
    loss = dnnlib.util.construct_class_by_name(device=device, G_mapping=G.mapping, G_synthesis=G.synthesis, D=D,
                                               augment_pipe=None, **loss_kwargs)
    optimizers = {name: torch.optim.Adam(net.parameters(), lr=0.002, betas=(0.0, 0.99)) for name, net in
                  (("G", G), ("D", D))}
    collector = training_stats.Collector()
    for batch_idx in range(round(total_kimg * 1000) // batch_size):
        real_img, real_c = next(batches)
        real_img = real_img.to(torch.float32) / 127.5 - 1
        for phase, interval in INTERVALS.items():
            if batch_idx % interval == 0:
                module, optimizer = (G, optimizers["G"]) if phase.startswith("G") else (D, optimizers["D"])
                gen_z = torch.randn(batch_size, G.z_dim)
                optimizer.zero_grad(set_to_none=True)
                module.requires_grad_(True)
                loss.accumulate_gradients(phase=phase, real_img=real_img, real_c=real_c, gen_z=gen_z, gen_c=real_c,
                                          sync=True, gain=interval)
                module.requires_grad_(False)
                optimizer.step()
        for average, weight in zip(G_ema.parameters(), G.parameters(), strict=True):
            average.copy_(weight.lerp(average, 0.5))
        for average, buffer in zip(G_ema.buffers(), G.buffers(), strict=True):
            average.copy_(buffer)
    collector.update()
    print("Statistics:", *collector.names())
    data = dict(training_set_kwargs=dict(training_set_kwargs), G=G, D=D, G_ema=G_ema, augment_pipe=None)
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(run_dir, "network-snapshot-000000.pkl"), "wb") as file:
        pickle.dump({name: value.eval() if isinstance(value, torch.nn.Module) else value
                     for name, value in data.items()}, file)
