"""Device and precision: the choice, its reason, and what is refused."""

import platform
import subprocess
import sys

import pytest
import torch

from layered_plugin import device
from layered_plugin.errors import ArgumentError
from layered_plugin.model.generator import LayeredGenerator


@pytest.mark.parametrize("kind, base, fast, expected", [
    ("cuda", "official", False, "fp16"), ("cuda", "bundled", True, "fp16"), ("cpu", "bundled", True, "bf16"),
    ("cpu", "bundled", False, "fp32"), ("cpu", "official", True, "fp32"), ("mps", "bundled", True, "fp32"),
])
def test_auto_precision_is_the_fastest_that_the_device_has(kind, base, fast, expected, monkeypatch):
    monkeypatch.setattr(device, "has_fast_bf16", lambda: fast)
    assert device.choose_precision("auto", kind, base)[0] == expected


@pytest.mark.parametrize("name, kind, base", [("bf16", "mps", "bundled"), ("bf16", "cuda", "official"),
                                              ("fp16", "cpu", "bundled"), ("fp16", "mps", "bundled")])
def test_precision_that_is_not_there_is_refused_with_a_remedy(name, kind, base):
    with pytest.raises(ArgumentError, match=f"`precision`={name} .*: use fp32|; use fp32"):
        device.choose_precision(name, kind, base)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_bf16_is_to_be_had_on_the_bundled_base(kind):
    assert device.choose_precision("bf16", kind, "bundled") == ("bf16", "as asked")


def test_missing_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.choose_device("auto") == "cpu"
    with pytest.raises(ArgumentError, match="`device`=cuda: .*; use `device`=cpu"):
        device.choose_device("cuda")


@pytest.mark.parametrize("name", ["cuda:0", "gpu", "CPU", None, torch.device("cpu")])
def test_other_name_of_a_device_is_refused_with_those_there_are(name):
    with pytest.raises(ArgumentError, match="`device` must be auto, cpu, cuda or mps, got .*CUDA_VISIBLE_DEVICES"):
        device.choose_device(name)


@pytest.mark.parametrize("kind, fast, half, forced", [
    ("cpu", False, "float16", True), ("cpu", True, "float16", True), ("cpu", False, "bfloat16", True),
    ("cpu", True, "bfloat16", False), ("cpu", True, None, True), ("meta", False, "float16", False),
])
def test_a_cpu_computes_in_half_precision_only_where_it_is_bfloat16_with_hardware(kind, fast, half, forced,
                                                                                  monkeypatch):
    monkeypatch.setattr(device, "has_fast_bf16", lambda: fast)
    G = LayeredGenerator(z_dim=4, c_dim=0, w_dim=4, img_resolution=16, img_channels=3,
                         synthesis_kwargs=dict(channel_base=64, channel_max=4, num_fp16_res=2,
                                               half_dtype=half or "float16"))
    if half is None:  # As upstream's own blocks.
        for block in G.modules():
            vars(block).pop("half_dtype", None)
    assert device.must_fp32(G.to(kind)) == forced


FAULTS = """
import resource, torch
from layered_plugin.device import tune_cpu
torch.set_num_threads(1)
def work():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(12_000_000)  # 48 MB, freed at once.
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = [work(), work()]
tune_cpu()
print(plain[1], [work(), work()][1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_stays_with_a_tuned_process():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    plain, tuned = map(int, done.stdout.split())
    assert tuned < 20 < 1000 < plain


def test_denormals_count_as_zero_in_a_tuned_process():
    device.tune_cpu()
    try:
        assert (torch.full([64], 1e-30) * 1e-10 == 0).all()
    finally:
        torch.set_flush_denormal(False)


def test_a_tuned_process_imports_scipy_without_a_warning():
    code = "from layered_plugin.device import tune_cpu; tune_cpu(); import scipy.ndimage"
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)
