"""CUDA sources of the compiled operations: they compile, their arithmetic is right, and on a GPU they run.

Without a GPU the kernels run on the CPU: the source is compiled as C++ with each launch turned into loops over blocks
and threads. That checks indices and arithmetic, not the device's compiler."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch_utils.ops import bias_act, compiled, upfirdn2d
from torch_utils.ops.scaled_bias_act import scaled_bias_act

FOLDER = Path(compiled.__file__).parent
SOURCES = {"bias_act.cu": ("bias_act_forward", "bias_act_backward"), "upfirdn2d.cu": ("upfirdn2d",)}
CL, CF = torch.channels_last, torch.contiguous_format

# The few names of CUDA that the sources use.
_EMULATOR = """
#define __global__ static
#define __launch_bounds__(threads)
typedef void* cudaStream_t;
enum { cudaErrorNotSupported = 801 };
inline int cudaGetLastError() { return 0; }
struct Index { unsigned x; };
static Index gridDim, blockDim, blockIdx, threadIdx;
template <class Body> void emulate(unsigned grid, unsigned threads, const Body& body) {
    gridDim.x = grid; blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) body();
}
"""


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
@pytest.mark.parametrize("source", SOURCES)
def test_nvcc_compiles_without_a_warning(source, tmp_path):
    command = ["nvcc", "-c", "-std=c++17", "-Werror", "all-warnings", FOLDER / source, "-o", tmp_path / "object.o"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The kernels in a library that calls them from loops."""
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("emulated")
    kernels = SimpleNamespace()
    for source, names in SOURCES.items():
        launch = r"(\w+<[^;=]*?>)<<<grid, THREADS, 0, stream>>>(\(.*?\));"
        code, count = re.subn(launch, r"emulate(grid, THREADS, [&] { \1\2; });", (FOLDER / source).read_text())
        assert count >= 1
        path = folder / f"{source}.cpp"
        path.write_text(_EMULATOR + code)
        flags = ["-O1", "-std=c++17", "-shared", "-fPIC", f"-I{FOLDER}"]
        subprocess.run(["g++", *flags, path, "-o", path.with_suffix(".so")], check=True)
        library = ctypes.CDLL(str(path.with_suffix(".so")))
        for name in names:
            setattr(kernels, name, getattr(library, name))
    return kernels


@pytest.fixture
def like_cuda(emulated, monkeypatch):
    """Let CPU tensors take the path of CUDA tensors: emulated kernels, sums by PyTorch."""

    def run(work, name, *args):
        assert getattr(emulated, name)(*args, None) == 0

    monkeypatch.setattr(compiled, "_run", run)
    monkeypatch.setattr(compiled, "_library", lambda kind: emulated)
    monkeypatch.setattr(compiled, "FUSED_SUMS", ())


def _check(func, tensors, tolerance, device="cpu", dtype=torch.float32, clamp=None):
    tensors = [t.detach().to(device, dtype if t.ndim == 4 else None).requires_grad_() for t in tensors]
    limit = {} if clamp is None else dict(clamp=clamp)
    weight = 1.0
    if clamp is not None:
        # What rounds to the limit may have the slope of either side: the reference looks at the value before, kernels
        # at the one after the clamp. The reference rounds four times on the way, each by half an eps at most.
        free = func(*(t.detach().double() for t in tensors), impl="ref", clamp=None).abs()
        weight = ((free - clamp).abs() > 4 * clamp * torch.finfo(dtype).eps).float()
        assert weight.mean() > 0.5
    results = []
    for impl in ("cuda", "ref"):
        y = func(*tensors, impl=impl, **limit)
        results.append([y, *torch.autograd.grad((y.float().square() * weight).mean(), tensors)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
        assert got.is_contiguous() == expected.is_contiguous()


# Neither channels nor pixels fit into packs; channels do; pixels do.
SHAPES = [(2, 5, 6, 7), (3, 16, 5, 3), (2, 3, 4, 8)]
PADDINGS = [[4, 5, 3, 6], [2, 1, 1, 2], [-1, 2, 0, 3]]


def _check_all(layout, device, dtype, tolerance):
    for shape in SHAPES:
        x = torch.randn(shape).contiguous(memory_format=layout)
        num, channels, height, width = shape
        for act in bias_act.activation_funcs:
            b = torch.randn(channels).to(dtype)
            _check(lambda x, b, act=act, **kwargs: bias_act.bias_act(x, b, act=act, **kwargs), [x, b], tolerance,
                   device, dtype, clamp=2)  # fmt: skip
        for noise in (num, 1):
            factors = [torch.randn(num, channels), torch.randn(noise, 1, height, width), torch.randn(channels)]
            _check(lambda *t, **kwargs: scaled_bias_act(*t, act="lrelu", **kwargs), [x, *factors], tolerance,
                   device, dtype, clamp=2)  # fmt: skip
        filters = [upfirdn2d.setup_filter(taps, device=device, separable=separable) for taps, separable in (
            ([1, 3, 2, 1], None), ([1, 3, 2, 1], True), ([[1, 2, 4], [5, 7, 1]], None), (list(range(1, 10)), None))]
        for f in filters:
            for idx, (up, down) in enumerate(((1, 1), (2, 1), (1, 2), (3, 2))):
                kwargs = dict(up=up, down=down, padding=PADDINGS[idx % 3] if len(f) == 4 else [4, 5, 3, 6], gain=2)
                _check(lambda x, impl, f=f, kwargs=kwargs: upfirdn2d.upfirdn2d(x, f, impl=impl, **kwargs), [x],
                       tolerance, device, dtype)  # fmt: skip


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_emulated_kernel_of_4x4_taps_equals_reference_at_every_phase(like_cuda, up, down):
    f = upfirdn2d.setup_filter([[1, 2, 3, 5], [2, 1, 7, 1], [3, 1, 1, 2], [1, 4, 1, 1]])
    for pad in range(-2, 6):
        for size in (1, 4, 7):
            for layout in (CF, CL):
                x = torch.randn(1, 4, size + 3, size + 4).contiguous(memory_format=layout)
                kwargs = dict(up=up, down=down, padding=[pad, 4, pad + 1, 3], flip_filter=pad % 3 == 0)
                got, expected = (upfirdn2d.upfirdn2d(x, f, impl=impl, **kwargs) for impl in ("cuda", "ref"))
                torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_division_by_multiplication_is_exact(tmp_path):
    code = '''#include "packs.h"
        extern "C" int wrong(const unsigned* is, int count, unsigned by) {
            const Divider<uint32_t> divider(by);
            int found = 0;
            for (int n = 0; n < count; ++n) found += divider.quotient(is[n]) != is[n] / by;
            return found;
        }'''
    (tmp_path / "divide.cpp").write_text(code)
    flags = ["-O1", "-std=c++17", "-shared", "-fPIC", f"-I{FOLDER}"]
    subprocess.run(["g++", *flags, tmp_path / "divide.cpp", "-o", tmp_path / "divide.so"], check=True)
    library = ctypes.CDLL(str(tmp_path / "divide.so"))
    for by in [*range(1, 70), 1023, 65537, 2**30, 2**30 + 1, 2**31 - 1]:
        near = torch.arange(-3, 4)[:, None] + by * torch.tensor([0, 1, 2, 2**31 // by - 1, 2**31 // by])
        values = torch.cat([near.flatten(), torch.randint(0, 2**31, [200])])
        values = values[(values >= 0) & (values < 2**31)].tolist()
        assert library.wrong((ctypes.c_uint * len(values))(*values), len(values), ctypes.c_uint(by)) == 0


@pytest.mark.parametrize("layout", [CF, CL])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_emulated_kernels_equal_reference(like_cuda, layout, dtype, tolerance):
    _check_all(layout, "cpu", dtype, tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("layout", [CF, CL])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float64, 1e-6), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)],
)
def test_kernels_on_a_gpu_equal_reference(layout, dtype, tolerance):
    assert compiled.supports(torch.zeros(1, device="cuda"))
    _check_all(layout, "cuda", dtype, tolerance)


def _second_derivatives(func, tensors):
    y = func(*tensors)
    # The factor keeps sums over 96 elements, of sums, below 65504, the largest float16.
    first = torch.autograd.grad(y.float().square().sum() / 16, tensors, create_graph=True)
    return torch.autograd.grad(sum(grad.float().square().sum() for grad in first), tensors)


def _check_second(device, dtype, layout, tolerance):
    f = upfirdn2d.setup_filter([1, 3, 3, 1], device=device)
    ops = dict(
        smooth=lambda x, b, impl: bias_act.bias_act(x, b.to(x.dtype), act="swish", impl=impl),
        lrelu=lambda x, b, impl: bias_act.bias_act(x, b.to(x.dtype), act="lrelu", impl=impl),
        scaled=lambda x, b, impl: scaled_bias_act(x, b[None].expand(len(x), -1), None, b, act="lrelu", impl=impl),
        up=lambda x, b, impl: upfirdn2d.upsample2d(x * b.to(x.dtype)[:, None, None], f, impl=impl),
    )
    for name, op in ops.items():
        x = 0.3 * torch.randn(2, 8, 6, 8, device=device)
        x = x.to(dtype, memory_format=layout).requires_grad_()
        b = torch.randn(8, device=device).requires_grad_()
        results = [_second_derivatives(lambda x, b, op=op, impl=impl: op(x, b, impl), [x, b]) for impl in
                   ("cuda", "ref")]
        for got, expected in zip(*results, strict=True):
            assert expected.isfinite().all(), name
            assert (got - expected).abs().max() <= tolerance * expected.abs().max(), name


@pytest.mark.parametrize("layout", [CF, CL])
def test_second_derivatives_of_emulated_kernels_equal_reference(like_cuda, layout):
    _check_second("cpu", torch.float32, layout, 1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("layout", [CF, CL])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 2e-2), (torch.bfloat16, 0.1)])
def test_second_derivatives_on_a_gpu_equal_reference(layout, dtype, tolerance):
    _check_second("cuda", dtype, layout, tolerance)
