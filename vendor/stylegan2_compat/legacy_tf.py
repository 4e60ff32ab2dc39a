"""Read the network objects in pickles of the TensorFlow versions of StyleGAN2 and StyleGAN2-ADA, and their layouts.

TensorFlow is not needed: the pickles hold settings, the source of the build functions, and arrays.
"""

import ast
from collections.abc import Callable
from typing import Any

import numpy as np

# Settings that the conversion reads, or that are visible in the variables and therefore checked with these.
_READ = {
    "architecture", "conv_clamp", "dlatent_avg_beta", "dlatent_size", "fmap_base", "fmap_decay", "fmap_max", "fmap_min",
    "label_fmaps", "label_size", "latent_size", "mapping_fmaps", "mapping_layers", "mapping_lrmul",
    "mapping_nonlinearity", "mbstd_group_size", "mbstd_num_features", "nonlinearity", "normalize_latents",
    "num_channels", "num_fp16_res", "resample_kernel", "resolution", "use_noise", "w_avg_beta",
}  # fmt: skip
# Settings that only concern training, or the arguments of a call.
_NEUTRAL = {
    "components", "dlatent_broadcast", "dtype", "freeze_layers", "fused_modconv", "is_template_graph", "is_training",
    "is_validation", "mapping_func", "randomize_noise", "return_dlatents", "structure", "style_mixing_prob",
    "synthesis_func", "truncation_cutoff", "truncation_cutoff_val", "truncation_psi", "truncation_psi_val",
}  # fmt: skip


class TFNetwork:
    """What a TensorFlow pickle says about a network; stands in for the class `dnnlib.tflib.network.Network`."""

    def __init__(self) -> None:
        self.__setstate__({})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.static_kwargs: dict[str, Any] = dict(state.get("static_kwargs") or {})
        self.components: dict[str, TFNetwork] = dict(state.get("components") or {})
        self.variables: list[tuple[str, np.ndarray]] = list(state.get("variables") or [])
        self.build_module_src: str = state.get("build_module_src") or ""
        self.build_func_name: str = state.get("build_func_name") or ""

    def all_variables(self) -> dict[str, np.ndarray]:
        """Return name -> value; variables of components are named `<component>/<name>`."""
        found = {name: np.asarray(value) for name, value in self.variables}
        for prefix, component in self.components.items():
            found.update((f"{prefix}/{name}", value) for name, value in component.all_variables().items())
        return found

    def all_settings(self) -> dict[str, Any]:
        """Return the arguments of the build functions: their defaults, replaced by what was passed.

        Raises:
            ValueError: If an argument was passed whose effect is not known here.
        """
        unknown = sorted(set(self.static_kwargs) - _READ - _NEUTRAL)
        if unknown:
            raise ValueError(f"TensorFlow network has unknown settings that cannot be converted: {', '.join(unknown)}")
        found = {**_default_arguments(self.build_module_src, self.build_func_name), **self.static_kwargs}
        for component in self.components.values():
            found.update(component.all_settings())
        return found


def _default_arguments(src: str, func_name: str) -> dict[str, Any]:
    """Read the constant default arguments of a function from its source without running it."""
    try:
        tree = ast.parse(src)
    except SyntaxError as error:
        raise ValueError(f"The source in the TensorFlow pickle cannot be read: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == func_name:
            arguments = node.args.posonlyargs + node.args.args
            pairs: list[Any] = list(zip(reversed(arguments), reversed(node.args.defaults), strict=False))
            pairs += list(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
            return {arg.arg: _constant(value) for arg, value in pairs if value is not None and _is_constant(value)}
    return {}


def _is_constant(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift | ast.Mult):
        return _is_constant(node.left) and _is_constant(node.right)
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def _constant(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift):
        return _constant(node.left) << _constant(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _constant(node.left) * _constant(node.right)
    return ast.literal_eval(node)


def need(settings: dict[str, Any], *names: str) -> Any:
    """Return the first of the named settings that the pickle gives; ValueError if it gives none."""
    for name in names:
        if name in settings:
            return settings[name]
    raise ValueError(f"TensorFlow network cannot be converted: the pickle does not give its setting {names[0]!r}")


def shape(variables: dict[str, np.ndarray], name: str) -> tuple[int, ...]:
    """Return the shape of a variable; ValueError if there is no such variable."""
    if name not in variables:
        raise ValueError(f"TensorFlow network cannot be converted: it has no variable {name!r}")
    return variables[name].shape


Layout = Callable[[np.ndarray], np.ndarray]


def same(value: np.ndarray) -> np.ndarray:
    """A value that both frameworks store alike."""
    return value


def kernel(value: np.ndarray) -> np.ndarray:
    """Kernels [kh, kw, I, O] as [O, I, kh, kw]."""
    return value.transpose(3, 2, 0, 1)


def flipped_kernel(value: np.ndarray) -> np.ndarray:
    """Kernels [kh, kw, I, O] of a correlation as [O, I, kh, kw] of a convolution."""
    return value[::-1, ::-1].transpose(3, 2, 0, 1)


def dense(value: np.ndarray) -> np.ndarray:
    """Weights [in, out] as [out, in]."""
    return value.transpose()


def style_bias(value: np.ndarray) -> np.ndarray:
    """Biases of styles, to which TensorFlow adds one when it runs."""
    return value + 1


def without_batch(value: np.ndarray) -> np.ndarray:
    """A constant [1, C, H, W] as [C, H, W]."""
    return value[0]


def plane(value: np.ndarray) -> np.ndarray:
    """Noise [1, 1, H, W] as [H, W]."""
    return value[0, 0]
