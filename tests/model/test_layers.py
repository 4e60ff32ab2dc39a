"""Compositing (Eq. 1)."""

import pytest
import torch

from layered_plugin.model.layers import Layers, composite


def scene(mask_value: float | None = None) -> Layers:
    mask = torch.rand(2, 1, 5, 4) if mask_value is None else torch.full([2, 1, 5, 4], mask_value)
    return Layers(bg=torch.randn(2, 3, 5, 4), fg=torch.randn(2, 3, 5, 4), mask=mask)


def test_composite_equals_equation_1_pixel_by_pixel():
    layers = scene()
    out = composite(layers)
    for n in range(2):
        for c in range(3):
            for y in range(5):
                for x in range(4):
                    m = layers.mask[n, 0, y, x]
                    expected = (1 - m) * layers.bg[n, c, y, x] + m * layers.fg[n, c, y, x]
                    assert out[n, c, y, x].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("value, layer", [(0.0, "bg"), (1.0, "fg")])
def test_extreme_mask_shows_one_layer(value, layer):
    layers = scene(value)
    assert torch.equal(composite(layers), getattr(layers, layer))


def test_gradient_reaches_all_three_layers_twice():
    layers = Layers(*(t.double().requires_grad_() for t in scene()))
    assert torch.autograd.gradgradcheck(lambda *t: composite(Layers(*t)), tuple(layers))
