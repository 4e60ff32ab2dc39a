"""Device and precision: the choice, its reason, and what is refused."""

import pytest
import torch

from layered_plugin import device


@pytest.mark.parametrize("kind, base, fast, expected", [
    ("cuda", "official", False, "fp16"), ("cuda", "bundled", True, "fp16"), ("cpu", "bundled", True, "bf16"),
    ("cpu", "bundled", False, "fp32"), ("cpu", "official", True, "fp32"), ("mps", "bundled", True, "fp32"),
])
def test_auto_precision_is_the_fastest_that_the_device_has(kind, base, fast, expected, monkeypatch):
    monkeypatch.setattr(device, "has_fast_bf16", lambda: fast)
    assert device.choose_precision("auto", kind, base)[0] == expected


@pytest.mark.parametrize("name, kind, base", [("bf16", "cuda", "bundled"), ("bf16", "cpu", "official"),
                                              ("fp16", "cpu", "bundled"), ("fp16", "mps", "bundled")])
def test_precision_that_is_not_there_is_refused_with_a_remedy(name, kind, base):
    with pytest.raises(ValueError, match=f"--precision={name} .*: use fp32|; use fp32"):
        device.choose_precision(name, kind, base)


def test_missing_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.choose_device("auto") == "cpu"
    with pytest.raises(ValueError, match="--device=cuda: .*; use --device=cpu"):
        device.choose_device("cuda")
