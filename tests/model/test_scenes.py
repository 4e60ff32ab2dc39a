"""Random scenes for scoring: one stream of latents and labels, whatever the batch."""

import numpy as np
import pytest
import torch

from layered_plugin.data.labels import Labels
from layered_plugin.model.layers import Layers
from layered_plugin.model.scenes import draw_scenes


class Recorder(torch.nn.Module):
    """A generator of 4 x 4 pictures that notes what it is asked for; the background holds the latents."""

    z_dim, c_dim = 4, 3

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones([]))
        self.labels, self.options = [], []

    def forward(self, z, c, **options):
        self.labels.append(c)
        self.options.append(options)
        shape = [len(z), 1, 4, 4]
        return Layers(z.view(-1, 4, 1, 1)[:, :3] * self.weight, torch.zeros(shape), torch.ones(shape))


@pytest.mark.parametrize("batch, counts", [(3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_scenes_are_one_stream_of_upstreams_latents_in_batches(batch, counts):
    parts = list(draw_scenes(Recorder(), 7, seed=5, batch=batch))
    assert [len(layers.bg) for layers in parts] == counts
    latents = np.random.RandomState(5).randn(7, 4).astype(np.float32)
    assert np.array_equal(torch.cat([layers.bg for layers in parts])[:, :, 0, 0], latents[:, :3])
    assert not any(layers.bg.requires_grad for layers in parts)


def test_labels_truncation_and_precision_reach_the_generator():
    G = Recorder()
    before = torch.get_rng_state()
    list(draw_scenes(G, 40, seed=1, labels=Labels(3), batch=16, trunc=0.6))
    expected = Labels(3).draw(16, torch.Generator().manual_seed(1))
    assert torch.equal(G.labels[0], expected) and torch.cat(G.labels).sum(dim=0).min() > 5
    assert G.options == [dict(noise_mode="const", return_layers=True, truncation_psi=0.6, force_fp32=True)] * 3
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_gradients_of_the_caller_stay_on_between_batches():
    for _layers in draw_scenes(Recorder(), 4, seed=0, batch=2):
        assert torch.is_grad_enabled()
