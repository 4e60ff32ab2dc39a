"""Losses of the bundled base: gradients of each phase against the loss formulas, written out with small networks.
The toy networks have closed-form Jacobians, so that R1 and path length need no second autograd pass."""

import contextlib
import math

import pytest
import torch
from torch.nn.functional import softplus
from torch.utils._python_dispatch import TorchDispatchMode
from torch_utils import custom_ops, misc, training_stats
from training import augment
from training import loss as loss_module
from training.loss import Loss, StyleGAN2Loss
from training.networks import Discriminator, Generator

N, Z, W, NUM_WS, SIDE = 4, 3, 5, 6, 4
PHASES = ["Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth"]


class ToyMapping(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(Z, W, dtype=torch.float64))
        self.skips = []

    def forward(self, z, c, skip_w_avg_update=False):
        self.skips.append(skip_w_avg_update)
        return (z @ self.weight).tanh().unsqueeze(1).repeat(1, NUM_WS, 1)


class ToySynthesis(torch.nn.Module):
    """img = Σ_l A_l w_l², so that d(img·y)/dw_l = 2 w_l ⊙ A_lᵀ y."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(NUM_WS, W, 3 * SIDE * SIDE, dtype=torch.float64))

    def forward(self, ws):
        return torch.einsum("nlw,lwp->np", ws.square(), self.weight).reshape(-1, 3, SIDE, SIDE)


class ToyD(torch.nn.Module):
    """logit = tanh(a·x) + b·x²/2, so that dlogit/dx = a (1 - tanh²(a·x)) + b ⊙ x."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.randn(3 * SIDE * SIDE, dtype=torch.float64) / 10)
        self.b = torch.nn.Parameter(torch.randn(3 * SIDE * SIDE, dtype=torch.float64) / 10)

    def forward(self, img, c):
        x = img.flatten(1)
        return (torch.tanh(x @ self.a) + x.square() @ self.b / 2).unsqueeze(1)

    def input_gradient(self, img):
        x = img.flatten(1)
        return (1 - torch.tanh(x @ self.a).square()).unsqueeze(1) * self.a + self.b * x


class Setup:
    def __init__(self, **kwargs):
        self.mapping, self.synthesis, self.D = ToyMapping(), ToySynthesis(), ToyD()
        kwargs = dict(style_mixing_prob=0) | kwargs
        self.loss = StyleGAN2Loss(
            device=torch.device("cpu"), G_mapping=self.mapping, G_synthesis=self.synthesis, D=self.D, **kwargs
        )
        self.loss.pl_mean = self.loss.pl_mean.double()
        self.real, self.z = torch.randn(N, 3, SIDE, SIDE).double(), torch.randn(N, Z).double()
        self.c = torch.zeros(N, 0)
        self.params = [*self.mapping.parameters(), *self.synthesis.parameters(), *self.D.parameters()]

    def run(self, phase, gain=1.0, sync=True):
        self.loss.accumulate_gradients(
            phase=phase, real_img=self.real, real_c=self.c, gen_z=self.z, gen_c=self.c, sync=sync, gain=gain
        )
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        for param in self.params:
            param.grad = None
        return grads

    def grads_of(self, value):
        grads = torch.autograd.grad(value, self.params, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.params, grads, strict=True)]

    def fake(self, n=N):
        ws = self.mapping(self.z[:n], None)
        return self.synthesis(ws), ws


@pytest.fixture
def reports(monkeypatch):
    seen = {}

    def report(name, value):
        seen.setdefault(name, []).append(value.detach().clone())
        return value

    monkeypatch.setattr(training_stats, "report", report)
    return seen


def assert_all_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def path_length_penalty(setup, noise, n, pl_mean=0.0):
    """(L - a)² with the Jacobian in closed form; a = lerp(pl_mean, mean L, decay), not detached."""
    _, ws = setup.fake(n)
    y = (noise / math.sqrt(SIDE * SIDE)).flatten(1)
    jacobian = 2 * ws * torch.einsum("lwp,np->nlw", setup.synthesis.weight, y)
    lengths = jacobian.square().sum(2).mean(1).sqrt()
    decay = setup.loss.pl_decay
    target = pl_mean * (1 - decay) + lengths.mean() * decay
    return (lengths - target).square(), target.detach()


def test_defaults_are_stored_under_their_names():
    loss = Setup(style_mixing_prob=0.9).loss
    defaults = dict(style_mixing_prob=0.9, r1_gamma=10, pl_batch_shrink=2, pl_decay=0.01, pl_weight=2)
    assert {name: getattr(loss, name) for name in defaults} == defaults
    assert loss.augment_pipe is None and list(loss.pl_mean.shape) == [] and loss.pl_mean == 0


def test_base_class_has_no_loss():
    with pytest.raises(NotImplementedError):
        Loss().accumulate_gradients("Gmain", None, None, None, None, True, 1)


def test_unknown_phase_is_named():
    with pytest.raises(ValueError, match="`phase`.*'Gfoo'"):
        Setup().run("Gfoo")


@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_Gmain_is_the_non_saturating_loss(gain, reports):
    setup = Setup()
    found = setup.run("Gmain", gain)
    logits = setup.D(setup.fake()[0], None)
    assert_all_close(found, setup.grads_of(gain * softplus(-logits).mean()))
    torch.testing.assert_close(reports["Loss/G/loss"][0], softplus(-logits).detach())
    torch.testing.assert_close(reports["Loss/scores/fake"][0], logits.detach())
    torch.testing.assert_close(reports["Loss/signs/fake"][0], logits.detach().sign())
    assert set(reports) == {"Loss/G/loss", "Loss/scores/fake", "Loss/signs/fake"}


@pytest.mark.parametrize("gain, shrink", [(1.0, 2), (4.0, 1)])
def test_Greg_is_the_path_length_penalty(gain, shrink, reports):
    setup = Setup(pl_decay=0.2, pl_weight=1.5, pl_batch_shrink=shrink)
    n = N // shrink
    mean = 0.0
    for _ in range(2):
        torch.manual_seed(7)
        found = setup.run("Greg", gain)
        torch.manual_seed(7)
        penalty, target = path_length_penalty(setup, torch.randn(n, 3, SIDE, SIDE, dtype=torch.float64), n, mean)
        assert_all_close(found, setup.grads_of(gain * 1.5 * penalty.mean()))
        mean = setup.loss.pl_mean.item()
        assert mean == pytest.approx(target.item())
        torch.testing.assert_close(reports["Loss/pl_penalty"].pop(), penalty.detach())
        torch.testing.assert_close(reports["Loss/G/reg"].pop(), 1.5 * penalty.detach())
    assert not setup.loss.pl_mean.requires_grad


def test_Dmain_is_the_logistic_loss(reports):
    setup = Setup()
    found = setup.run("Dmain", 2.0)
    fake, real = setup.D(setup.fake()[0], None), setup.D(setup.real, None)
    assert_all_close(found, setup.grads_of(2 * (softplus(fake).mean() + softplus(-real).mean())))
    torch.testing.assert_close(reports["Loss/D/loss"][0], (softplus(fake) + softplus(-real)).detach())
    torch.testing.assert_close(reports["Loss/scores/real"][0], real.detach())
    assert "Loss/r1_penalty" not in reports


def real_setup(batch, group_size, c_dim=0, **kwargs):
    """The loss with a real discriminator, whose minibatch statistics let the samples of a group see each other."""
    setup = Setup(**kwargs)
    torch.manual_seed(3)
    D = Discriminator(c_dim=c_dim, img_resolution=SIDE * 2, img_channels=3, channel_base=64, channel_max=8,
                      epilogue_kwargs=dict(mbstd_group_size=group_size))
    calls = []
    D.register_forward_hook(lambda _D, inputs, _logits: calls.append(len(inputs[0])))
    z, real = torch.randn(batch, Z).double(), torch.randn(batch, 3, SIDE * 2, SIDE * 2)
    gen_c, real_c = torch.randn(2, batch, c_dim)
    draw = torch.nn.Linear(Z, real[0].numel(), dtype=torch.float64)
    setup.loss.D = D
    setup.loss.run_G = lambda z, c, sync: (draw(z).float().reshape(-1, *real.shape[1:]), None)
    return setup.loss, D, calls, dict(real_img=real, real_c=real_c, gen_z=z, gen_c=gen_c)


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("batch, group_size, passes", [(8, 4, [16]), (8, 8, [16]), (6, 3, [12]), (6, 2, [12]),
                                                       (8, None, [8, 8]), (2, 4, [2, 2])])
def test_Dmain_keeps_statistics_of_real_and_generated_apart(batch, group_size, passes, c_dim):
    loss, D, calls, inputs = real_setup(batch, group_size, c_dim, augment_pipe=lambda img: img.flip(3))
    loss.accumulate_gradients("Dmain", sync=True, gain=3.0, **inputs)
    assert calls == passes  # One pass wherever the groups stay pure.
    fake = D(loss.run_G(inputs["gen_z"], None, True)[0].flip(3), inputs["gen_c"])
    real = D(inputs["real_img"].flip(3), inputs["real_c"])
    expected = torch.autograd.grad(3 * (softplus(fake).mean() + softplus(-real).mean()), list(D.parameters()))
    for (name, param), grad in zip(D.named_parameters(), expected, strict=True):
        assert torch.allclose(param.grad, grad, rtol=1e-4, atol=1e-6), name


def test_Dmain_reports_each_kind_under_its_name(reports):
    loss, D, _calls, inputs = real_setup(8, 4)
    loss.accumulate_gradients("Dmain", sync=True, gain=1.0, **inputs)
    with torch.no_grad():
        fake, real = D(loss.run_G(inputs["gen_z"], None, True)[0], None), D(inputs["real_img"], None)
    for name, expected in {"scores/fake": fake, "signs/fake": fake.sign(), "scores/real": real,
                           "signs/real": real.sign(), "D/loss": softplus(fake) + softplus(-real)}.items():
        torch.testing.assert_close(reports[f"Loss/{name}"][0], expected, rtol=1e-4, atol=1e-6)


def test_Dreg_is_r1_only(reports):
    setup = Setup(r1_gamma=3.0)
    found = setup.run("Dreg", 16.0)
    penalty = setup.D.input_gradient(setup.real).square().sum(1)
    assert_all_close(found, setup.grads_of(16 * 1.5 * penalty.mean()))
    torch.testing.assert_close(reports["Loss/r1_penalty"][0], penalty.detach())
    torch.testing.assert_close(reports["Loss/D/reg"][0], 1.5 * penalty.detach())
    torch.testing.assert_close(reports["Loss/signs/real"][0], setup.D(setup.real, None).detach().sign())
    assert set(reports) == {"Loss/r1_penalty", "Loss/D/reg", "Loss/scores/real", "Loss/signs/real"}
    assert not setup.real.requires_grad


@pytest.mark.parametrize("both, parts", [("Gboth", ["Gmain", "Greg"]), ("Dboth", ["Dmain", "Dreg"])])
def test_both_is_the_sum_of_its_parts(both, parts):
    setup = Setup()
    torch.manual_seed(1)
    together = setup.run(both)
    setup.loss.pl_mean.zero_()
    torch.manual_seed(1)
    separate = [setup.run(part) for part in parts]
    assert_all_close(together, [a + b for a, b in zip(*separate, strict=True)])


@pytest.mark.parametrize("phase, off", [("Greg", "pl_weight"), ("Dreg", "r1_gamma")])
def test_zero_weight_skips_the_regularisation(phase, off, reports):
    setup = Setup(**{off: 0})
    assert all((g == 0).all() for g in setup.run(phase))
    assert not reports and not setup.mapping.skips


def test_r1_passes_through_the_augmentation():
    setup = Setup(augment_pipe=lambda img: 2 * img)
    found = setup.run("Dreg")
    penalty = (2 * setup.D.input_gradient(2 * setup.real)).square().sum(1)
    assert_all_close(found, setup.grads_of(5 * penalty.mean()))


def test_regularisation_gives_every_parameter_a_gradient():
    setup = Setup()
    setup.loss.accumulate_gradients("Dreg", setup.real, setup.c, setup.z, setup.c, True, 1)
    setup.loss.accumulate_gradients("Greg", setup.real, setup.c, setup.z, setup.c, True, 1)
    assert all(p.grad is not None for p in setup.params)


def test_path_length_needs_enough_samples():
    setup = Setup()
    setup.z = setup.z[:1]
    with pytest.raises(ValueError, match="`gen_z`.*got 1"):
        setup.run("Greg")


@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
def test_style_mixing_draws_cutoff_then_gate_then_latent(prob):
    setup = Setup(style_mixing_prob=prob)
    mixed = 0
    for seed in range(8):
        torch.manual_seed(seed)
        img, ws = setup.loss.run_G(setup.z, setup.c, sync=True)
        after = torch.rand([])
        torch.manual_seed(seed)
        expected = setup.mapping(setup.z, None)
        if prob > 0:
            cutoff = int(torch.empty([], dtype=torch.int64).random_(1, NUM_WS))
            cutoff = cutoff if torch.rand([]) < prob else NUM_WS
            other = setup.mapping(torch.randn_like(setup.z), None)
            expected = torch.cat([expected[:, :cutoff], other[:, cutoff:]], 1)
            mixed += cutoff < NUM_WS
        assert torch.equal(ws, expected)
        assert torch.equal(img, setup.synthesis(ws))
        assert torch.equal(after, torch.rand([]))
    assert {0.0: mixed == 0, 0.5: 0 < mixed < 8, 1.0: mixed == 8}[prob]


def test_second_mapping_pass_leaves_the_running_mean_alone():
    setup = Setup(style_mixing_prob=0.9)
    setup.loss.run_G(setup.z, setup.c, sync=True)
    assert setup.mapping.skips == [False, True]


@pytest.mark.parametrize(
    "phase, expected",
    [
        ("Gmain", [("M", True), ("S", True), ("D", False)]),
        ("Greg", [("M", True), ("S", True)]),
        ("Gboth", [("M", False), ("S", False), ("D", False), ("M", True), ("S", True)]),
        ("Dmain", [("M", False), ("S", False), ("D", True)]),
        ("Dreg", [("D", True)]),
        ("Dboth", [("M", False), ("S", False), ("D", False), ("D", True)]),
    ],
)
def test_last_backward_of_a_phase_synchronises(phase, expected, monkeypatch):
    setup = Setup(style_mixing_prob=0.9)
    names = {setup.mapping: "M", setup.synthesis: "S", setup.D: "D"}
    calls = []

    def spy(module, sync):
        calls.append((names[module], sync))
        return contextlib.nullcontext()

    monkeypatch.setattr(misc, "ddp_sync", spy)
    setup.run(phase, sync=True)
    assert calls == expected
    calls.clear()
    setup.run(phase, sync=False)
    assert calls == [(name, False) for name, _ in expected]


def test_phases_run_on_the_real_networks():
    from training import networks

    widths = dict(channel_base=64, channel_max=8)
    size = dict(c_dim=2, img_resolution=8, img_channels=3)
    G = networks.Generator(z_dim=4, w_dim=4, mapping_kwargs=dict(num_layers=1), synthesis_kwargs=widths, **size)
    D = networks.Discriminator(**size, **widths)
    loss = StyleGAN2Loss(torch.device("cpu"), G.mapping, G.synthesis, D)
    inputs = torch.randn(N, 3, 8, 8), torch.eye(2).repeat(2, 1), torch.randn(N, 4), torch.eye(2).repeat(2, 1)
    for phase, net in zip(PHASES, [G] * 3 + [D] * 3, strict=True):
        G.requires_grad_(net is G), D.requires_grad_(net is D)
        loss.accumulate_gradients(phase, *inputs, sync=True, gain=1)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        frozen = D if net is G else G
        assert all(p.grad is None for p in frozen.parameters())
        net.zero_grad(set_to_none=True)
    assert loss.pl_mean > 0


def test_phase_names():
    assert list(loss_module.PHASES) == PHASES


class WithoutDoublePrecision(TorchDispatchMode):
    """A device without data that refuses float64, as MPS does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta and tensor.dtype == torch.float64:
                raise TypeError(f"{func} on a device without float64")
        return out


def test_every_phase_runs_on_a_device_without_double_precision(monkeypatch):
    monkeypatch.setattr(training_stats, "_ledger", training_stats._Ledger())
    monkeypatch.setattr(augment, "_margins", lambda inverse, height, width, reach: [3, 3, 2, 2])  # It reads values.
    widths = dict(channel_base=64, channel_max=4)
    G = Generator(4, 0, 4, 16, 3, mapping_kwargs=dict(num_layers=1), synthesis_kwargs=widths).to("meta")
    D = Discriminator(0, 16, 3, **widths).to("meta")
    pipe = augment.AugmentPipe(xflip=1, xint=1, scale=1, rotate=1, xfrac=1, hue=1, saturation=1, noise=1, cutout=1)
    loss = StyleGAN2Loss(torch.device("meta"), G.mapping, G.synthesis, D, pipe.to("meta"), style_mixing_prob=0)
    real, z, c = (torch.zeros(4, *shape, device="meta") for shape in ([3, 16, 16], [4], [0]))
    with custom_ops.reference_ops(), WithoutDoublePrecision():
        for phase in ("Gboth", "Dboth"):
            loss.accumulate_gradients(phase, real, c, z, c, sync=True, gain=1)
    assert {"Loss/G/reg", "Loss/D/loss", "Loss/r1_penalty"} <= set(training_stats._ledger.accounts)
    with WithoutDoublePrecision(), pytest.raises(TypeError):
        z.double()
