"""A process whose base has the names of an official checkout and no others; it draws with our snapshots.

What stands behind the names is the bundled base, since the official code is not part of this repository.
Run as `python official_checkout.py BUNDLED_BASE EMPTY_FOLDER SNAPSHOT...`: prints the plugin's base, and writes
SNAPSHOT.pt beside each snapshot.
"""

import importlib
import sys
import types
from pathlib import Path

# Module -> what it defines, as far as networks or the plugin could ask for it.
NAMES = {
    "dnnlib": "EasyDict make_cache_dir_path",
    "dnnlib.util": "EasyDict Logger call_func_by_name construct_class_by_name format_time get_module_dir_by_obj_name "
    "get_module_from_obj_name get_obj_by_name get_obj_from_module get_top_level_function_name is_pickleable "
    "is_top_level_function is_url make_cache_dir_path open_url set_cache_dir tuple_product",
    "legacy": "convert_network_pickle convert_tf_discriminator convert_tf_generator load_network_pkl",
    "torch_utils": "",
    "torch_utils.custom_ops": "get_plugin verbosity",
    "torch_utils.misc": "InfiniteSampler assert_shape check_ddp_consistency constant copy_params_and_buffers ddp_sync "
    "named_params_and_buffers nan_to_num params_and_buffers print_module_summary profiled_function "
    "suppress_tracer_warnings symbolic_assert",
    "torch_utils.ops": "",
    "torch_utils.ops.bias_act": "activation_funcs bias_act",
    "torch_utils.ops.conv2d_gradfix": "conv2d conv_transpose2d enabled no_weight_gradients weight_gradients_disabled",
    "torch_utils.ops.conv2d_resample": "conv2d_resample",
    "torch_utils.ops.fma": "fma",
    "torch_utils.ops.grid_sample_gradfix": "enabled grid_sample",
    "torch_utils.ops.upfirdn2d": "downsample2d filter2d setup_filter upfirdn2d upsample2d",
    "torch_utils.persistence": "_reconstruct_persistent_obj import_hook is_persistent persistent_class",
    "torch_utils.training_stats": "Collector init_multiprocessing report report0",
    "training": "",
    "training.augment": "AugmentPipe matrix rotate2d rotate2d_inv rotate3d scale2d scale2d_inv scale3d translate2d "
    "translate2d_inv translate3d wavelets",
    "training.dataset": "Dataset ImageFolderDataset",
    "training.loss": "Loss StyleGAN2Loss",
    "training.networks": "Conv2dLayer Discriminator DiscriminatorBlock DiscriminatorEpilogue FullyConnectedLayer "
    "Generator MappingNetwork MinibatchStdLayer SynthesisBlock SynthesisLayer SynthesisNetwork ToRGBLayer "
    "modulated_conv2d normalize_2nd_moment",
}


def install(bundled: str, folder: str) -> None:
    """Make the names importable from modules in an empty folder, and from nowhere else."""
    sys.path.insert(0, bundled)
    behind = {name: importlib.import_module(name) for name in NAMES}
    # As in a process that never imported the base: no text of a snapshot is known.
    behind["torch_utils.persistence"]._module_of_text.clear()
    for name in list(sys.modules):
        if name.partition(".")[0] in ("dnnlib", "legacy", "legacy_convert", "legacy_tf", "torch_utils", "training"):
            del sys.modules[name]
    sys.path[0] = folder
    for name in NAMES:
        is_package = any(other.startswith(f"{name}.") for other in NAMES)
        path = Path(folder, *name.split("."), "__init__.py") if is_package else Path(folder, *name.split("."))
        path = path.with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.touch()
    importlib.invalidate_caches()
    for name, names in NAMES.items():
        module = importlib.import_module(name)
        for exported in names.split():
            setattr(module, exported, getattr(behind[name], exported))


def draw(path: str) -> dict:
    """Use a snapshot as upstream's scripts do: drawing, style mixing, projecting, judging, augmenting."""
    import dnnlib
    import legacy
    import torch

    with dnnlib.util.open_url(path) as file:
        data = legacy.load_network_pkl(file)
    G, D = data["G_ema"], data["D"]
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(3, G.z_dim, generator=generator)
    c = torch.eye(max(G.c_dim, 1))[torch.arange(3) % max(G.c_dim, 1)] if G.c_dim else None
    img = G(z, c, truncation_psi=0.7, noise_mode="const", force_fp32=True)
    out = {"img": img, "logits": D(img, c, force_fp32=True)}
    ws = G.mapping(z, c)
    ws[:, : G.num_ws // 2] = G.mapping.w_avg
    out["mixed"] = G.synthesis(ws, noise_mode="const", force_fp32=True)
    out["noise"] = torch.stack([b.sum() for n, b in G.synthesis.named_buffers() if n.endswith("noise_const")])
    if hasattr(G.synthesis, "single"):
        out.update(G.synthesis(ws, noise_mode="const", force_fp32=True, return_layers=True)._asdict())
    if data["augment_pipe"] is not None:
        torch.manual_seed(1)
        out["augmented"] = data["augment_pipe"](img, debug_percentile=0.6)
    for net in (G, D):  # Training goes on from here, with gradients of gradients.
        net.requires_grad_(True)
    img = G.train()(z, c)
    (grad,) = torch.autograd.grad(D.train()(img, c).sum(), img, create_graph=True)
    grad.square().sum().backward()
    assert isinstance(data["training_set_kwargs"], dict | types.NoneType)
    return out


if __name__ == "__main__":
    import torch

    bundled_base, empty_folder, *snapshots = sys.argv[1:]
    install(bundled_base, empty_folder)
    from layered_plugin import BASE

    print(BASE)
    try:
        from torch_utils.ops import scaled_bias_act  # noqa: F401
    except ImportError:
        print("Names of ours are absent")
    for snapshot in snapshots:
        torch.save(draw(snapshot), f"{snapshot}.pt")
