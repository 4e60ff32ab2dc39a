"""Networks of the bundled base: state, random draws, and values against references written from the formulas.
Convolutions of the references work sample by sample on explicitly up-sampled and padded images."""

import copy
import math
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from training import networks

ARCHITECTURES = ["orig", "skip", "resnet"]
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0])
FIR = torch.outer(TAPS, TAPS) / 64
LISTED = (Path(__file__).parent / "state_dicts.txt").read_text().splitlines()
LISTING = [line.split() for line in LISTED if not line.startswith("#")]
SMALL = dict(channel_base=128, channel_max=8)


def make_G(c_dim=0, res=16, mapping=None, **synthesis):
    kwargs = dict(mapping_kwargs=dict(num_layers=2) | (mapping or {}), synthesis_kwargs=SMALL | synthesis)
    return networks.Generator(z_dim=6, c_dim=c_dim, w_dim=5, img_resolution=res, img_channels=3, **kwargs)


def make_D(c_dim=0, res=16, **kwargs):
    return networks.Discriminator(c_dim=c_dim, img_resolution=res, img_channels=3, **SMALL, **kwargs)


def randomize(net, scale=1.0):
    """Give biases and noise strengths, which start at a constant, values that matter."""
    for name, param in net.named_parameters():
        if name.endswith(("bias", "noise_strength")):
            param.data.add_(torch.randn_like(param) * 0.3 * scale)
    return net


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


# Reference operations.


def ref_fir(x, pad, up=1, down=1, gain=1.0):
    n, c, h, w = x.shape
    z = x.new_zeros([n, c, h * up, w * up])
    z[:, :, ::up, ::up] = x
    z = F.pad(z, [pad[0], pad[1], pad[0], pad[1]])
    y = F.conv2d(z.reshape(n * c, 1, *z.shape[2:]), (FIR * gain).flip([0, 1])[None, None].to(x))
    return y.reshape(n, c, *y.shape[2:])[:, :, ::down, ::down]


def ref_conv(x, weight, up=1, down=1):
    k = weight.shape[2]
    if up == 2:
        extra = k // 2
        return F.conv2d(ref_fir(x, (2 + extra, 1 + extra), up=2, gain=4.0), weight.flip([2, 3]))
    if down == 2:
        return F.conv2d(ref_fir(x, (1 + k // 2, 1 + k // 2)), weight, stride=2)
    return F.conv2d(x, weight, padding=k // 2)


def ref_modconv(x, weight, styles, up=1, demodulate=True):
    samples = []
    for sample, scale in zip(x, styles, strict=True):
        kernel = weight * scale[None, :, None, None]
        if demodulate:
            kernel = kernel / (kernel.square().sum([1, 2, 3], keepdim=True) + 1e-8).sqrt()
        samples.append(ref_conv(sample[None], kernel, up=up))
    return torch.cat(samples)


def ref_fc(state, name, x, act=None, lr=1.0):
    weight = state[f"{name}.weight"]
    y = x @ weight.t() * lr / math.sqrt(weight.shape[1]) + state[f"{name}.bias"] * lr
    return lrelu(y) if act else y


def ref_mapping(state, prefix, z, c=None, layers=2):
    parts = [z] if c is None else [z, ref_fc(state, f"{prefix}.embed", c)]
    x = torch.cat([p / (p.square().mean(1, keepdim=True) + 1e-8).sqrt() for p in parts if p is not None], 1)
    for i in range(layers):
        x = ref_fc(state, f"{prefix}.fc{i}", x, act=True, lr=0.01)
    return x


def ref_synthesis(state, ws, architecture, res):
    """Synthesis with constant noise."""

    def layer(name, x, w, up=1, gain=1.0):
        y = ref_modconv(x, state[f"{name}.weight"], ref_fc(state, f"{name}.affine", w), up=up)
        y = y + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
        return lrelu(y + state[f"{name}.bias"][None, :, None, None]) * gain

    x, img, at = None, None, 0
    for r in [2**i for i in range(2, int(math.log2(res)) + 1)]:
        b = f"synthesis.b{r}"
        if r == 4:
            x = layer(f"{b}.conv1", state[f"{b}.const"].repeat(len(ws), 1, 1, 1), ws[:, at])
            at += 1
        else:
            gain = math.sqrt(0.5) if architecture == "resnet" else 1.0
            y = layer(f"{b}.conv1", layer(f"{b}.conv0", x, ws[:, at], up=2), ws[:, at + 1], gain=gain)
            if architecture == "resnet":
                weight = state[f"{b}.skip.weight"]
                y = y + ref_conv(x, weight / math.sqrt(weight.shape[1]), up=2) * gain
            x, at = y, at + 2
        if img is not None:
            img = ref_fir(img, (2, 1), up=2, gain=4.0)
        if architecture == "skip" or r == res:
            weight = state[f"{b}.torgb.weight"]
            styles = ref_fc(state, f"{b}.torgb.affine", ws[:, at]) / math.sqrt(weight.shape[1])
            rgb = ref_modconv(x, weight, styles, demodulate=False) + state[f"{b}.torgb.bias"][None, :, None, None]
            img = rgb if img is None else img + rgb
    return img


def ref_mbstd(x, group_size, num_features):
    n, c, h, w = x.shape
    group_size = n if group_size is None else min(group_size, n)
    num_groups, per = n // group_size, c // num_features
    extra = x.new_zeros([n, num_features, h, w])
    for sample in range(n):
        members = x[[m for m in range(n) if m % num_groups == sample % num_groups]]
        for feature in range(num_features):
            part = members[:, feature * per : (feature + 1) * per]
            variance = ((part - part.mean(0)) ** 2).mean(0)
            extra[sample, feature] = (variance + 1e-8).sqrt().mean()
    return torch.cat([x, extra], 1)


def ref_discriminator(state, img, architecture, res, cmap=None):
    def conv(name, x, act=True, gain=1.0, down=1):
        weight = state[f"{name}.weight"]
        y = ref_conv(x, weight / math.sqrt(weight[0].numel()), down=down)
        y = y + state[f"{name}.bias"][None, :, None, None] if act else y
        return (lrelu(y) if act else y) * gain

    x, r = None, res
    while r > 4:
        b = f"b{r}"
        if r == res or architecture == "skip":
            y = conv(f"{b}.fromrgb", img)
            x = y if x is None else x + y
            img = ref_fir(img, (1, 1), down=2)
        gain = math.sqrt(0.5) if architecture == "resnet" else 1.0
        y = conv(f"{b}.conv1", conv(f"{b}.conv0", x), gain=gain, down=2)
        x = y + conv(f"{b}.skip", x, act=False, gain=gain, down=2) if architecture == "resnet" else y
        r //= 2
    if architecture == "skip":
        x = x + conv("b4.fromrgb", img)
    x = conv("b4.conv", ref_mbstd(x, 4, 1))
    x = ref_fc(state, "b4.out", ref_fc(state, "b4.fc", x.flatten(1), act=True))
    return x if cmap is None else (x * cmap).sum(1, keepdim=True) / math.sqrt(cmap.shape[1])


# State and initial draws.


@pytest.mark.parametrize("name, count, trainable", [("Generator", 75, 314387), ("Discriminator", 37, 337281)])
def test_state_dict_equals_the_complete_listing(name, count, trainable):
    widths = dict(channel_base=2048, channel_max=64)
    size = dict(c_dim=0, img_resolution=32, img_channels=3)
    if name == "Generator":
        kwargs = dict(z_dim=64, w_dim=64, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=widths)
        net = networks.Generator(**size, **kwargs)
    else:
        net = networks.Discriminator(**size, **widths)
    params = dict(net.named_parameters())
    found = [
        [name, key, str(list(value.shape)).replace(" ", ""), "P" if key in params else "B"]
        for key, value in net.state_dict().items()
    ]
    assert found == [row for row in LISTING if row[0] == name]
    assert len(found) == count
    assert sum(p.numel() for p in net.parameters()) == trainable


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architecture_decides_skip_and_rgb_layers(architecture):
    G = {k.rsplit(".", 1)[0] for k in make_G(architecture=architecture).state_dict()}
    D = {k.rsplit(".", 1)[0] for k in make_D(architecture=architecture).state_dict()}
    torgb = {f"synthesis.b{r}.torgb" for r in ([4, 8, 16] if architecture == "skip" else [16])}
    skip = {"synthesis.b8.skip", "synthesis.b16.skip"} if architecture == "resnet" else set()
    assert {k for k in G if k.endswith("torgb")} == torgb
    assert {k for k in G if k.endswith("skip")} == skip
    fromrgb = {"b16.fromrgb", "b8.fromrgb", "b4.fromrgb"} if architecture == "skip" else {"b16.fromrgb"}
    assert {k for k in D if k.endswith("fromrgb")} == fromrgb
    assert {k for k in D if k.endswith("skip")} == ({"b16.skip", "b8.skip"} if architecture == "resnet" else set())


def test_labels_add_embedding_mapping_and_projection():
    size = dict(c_dim=3, img_resolution=32, img_channels=3)
    widths = dict(channel_base=2048, channel_max=64)
    G = networks.Generator(z_dim=64, w_dim=64, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=widths, **size)
    D = networks.Discriminator(**size, **widths)
    assert list(G.mapping.embed.weight.shape) == [64, 3]
    assert list(G.mapping.fc0.weight.shape) == [64, 128]
    assert list(D.mapping.embed.weight.shape) == [64, 3]
    assert D.mapping.num_layers == 8 and "w_avg" not in dict(D.mapping.named_buffers())
    assert list(D.b4.out.weight.shape) == [64, 64]
    assert [name for name, _ in D.named_children()] == ["b32", "b16", "b8", "mapping", "b4"]


@pytest.mark.parametrize("res, num_ws", [(4, 2), (32, 8), (64, 10)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_number_of_latents(res, num_ws, architecture):
    assert make_G(res=res, architecture=architecture).num_ws == num_ws


@pytest.mark.parametrize("num_fp16_res, expected", [(0, []), (1, [32]), (2, [16, 32]), (4, [8, 16, 32])])
def test_half_precision_blocks(num_fp16_res, expected):
    G = make_G(res=32, num_fp16_res=num_fp16_res)
    D = make_D(res=32, num_fp16_res=num_fp16_res)
    assert [r for r in G.synthesis.block_resolutions if getattr(G.synthesis, f"b{r}").use_fp16] == expected
    assert [r for r in D.block_resolutions if getattr(D, f"b{r}").use_fp16] == expected[::-1]


def test_freeze_layers_turns_leading_layers_into_buffers():
    D = make_D(res=32, block_kwargs=dict(freeze_layers=5))
    free = make_D(res=32)
    frozen = {"b32.fromrgb", "b32.conv0", "b32.conv1", "b32.skip", "b16.conv0"}
    buffers = {name.rsplit(".", 1)[0] for name, _ in D.named_buffers() if name.endswith((".weight", ".bias"))}
    assert buffers == frozen
    assert set(D.state_dict()) == set(free.state_dict())
    assert [getattr(D, f"b{r}").first_layer_idx for r in (32, 16, 8)] == [0, 4, 7]
    D.load_state_dict(free.state_dict())
    img = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(D(img, None), free(img, None))


def test_generator_draws_in_the_documented_order():
    torch.manual_seed(5)
    G = make_G(c_dim=2, architecture="resnet")
    torch.manual_seed(5)
    state = G.state_dict()
    order = []
    for res in (4, 8, 16):
        block = f"synthesis.b{res}"
        layers = ["conv1"] if res == 4 else ["conv0", "conv1"]
        order += [f"{block}.const"] if res == 4 else []
        for layer in layers:
            order += [f"{block}.{layer}.{name}" for name in ("affine.weight", "weight", "noise_const")]
        order += [f"{block}.torgb.affine.weight", f"{block}.torgb.weight"] if res == 16 else []
        order += [f"{block}.skip.weight"] if res > 4 else []
    order += [f"mapping.{name}.weight" for name in ("embed", "fc0", "fc1")]
    for name in order:
        lr = 0.01 if "mapping.fc" in name else 1
        assert torch.equal(state[name], torch.randn(state[name].shape) / lr), name
    constant = {k: v for k, v in state.items() if k not in order and not k.endswith("resample_filter")}
    assert all(v.unique().numel() == 1 for v in constant.values())
    assert all(torch.all(v == ("affine" in k)) for k, v in constant.items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_discriminator_draws_in_the_documented_order(architecture):
    torch.manual_seed(5)
    D = make_D(c_dim=2, architecture=architecture)
    torch.manual_seed(5)
    state = D.state_dict()
    names = [f"b{res}.{layer}" for res in (16, 8) for layer in ("fromrgb", "conv0", "conv1", "skip")]
    names += ["mapping.embed", *[f"mapping.fc{i}" for i in range(8)]]
    names += [f"b4.{layer}" for layer in ("fromrgb", "conv", "fc", "out")]
    drawn = [f"{name}.weight" for name in names if f"{name}.weight" in state]
    assert set(drawn) == {k for k in state if k.endswith("weight")}
    for name in drawn:
        lr = 0.01 if "mapping.fc" in name else 1
        assert torch.equal(state[name], torch.randn(state[name].shape) / lr), name


# Functions and single layers.


def test_normalize_2nd_moment_has_unit_mean_square_and_keeps_zeros():
    x = torch.randn(3, 7)
    torch.testing.assert_close(networks.normalize_2nd_moment(x).square().mean(1), torch.ones(3))
    assert torch.equal(networks.normalize_2nd_moment(torch.zeros(2, 4)), torch.zeros(2, 4))


@pytest.mark.parametrize("fused, batch", [(True, 1), (True, 3), (False, 3)])
@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel, up", [(3, 1), (3, 2), (1, 1)])
def test_modulated_conv2d_values_and_both_derivatives(kernel, up, demodulate, fused, batch):
    def tensors():
        generator = torch.Generator().manual_seed(1)
        shapes = [batch, 4, 6, 6], [5, 4, kernel, kernel], [batch, 4]
        return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]

    def derivatives(y, inputs):
        first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
        return [y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), inputs)]

    noise = torch.randn(batch, 1, 6 * up, 6 * up, dtype=torch.float64)
    x, weight, styles = tensors()
    found = networks.modulated_conv2d(
        x,
        weight,
        styles,
        noise=noise,
        up=up,
        padding=kernel // 2,
        resample_filter=FIR if up > 1 else None,
        demodulate=demodulate,
        flip_weight=up == 1,
        fused_modconv=fused,
    )
    ref_inputs = tensors()
    expected = ref_modconv(*ref_inputs, up=up, demodulate=demodulate) + noise
    pairs = zip(derivatives(found, [x, weight, styles]), derivatives(expected, ref_inputs), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("up", [1, 2])
def test_grouped_convolution_of_a_batch_equals_single_samples(up):
    # The CPU does not choose this path for a batch, other devices do.
    x, weight, styles, demod = torch.randn(3, 4, 6, 6), torch.randn(5, 4, 3, 3), torch.randn(3, 4), torch.rand(3, 5)
    resample = dict(f=FIR if up > 1 else None, up=up, padding=1, flip_weight=up == 1)
    found = networks._grouped_modconv(x, weight, styles, demod, **resample)
    expected = ref_modconv(x, weight, styles, up=up, demodulate=False) * demod[:, :, None, None]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_modulated_conv2d_normalises_before_demodulation_in_float16_only():
    # Kernels so small that the eps of the demodulation dominates unless they are normalised first.
    x, weight, styles = torch.randn(2, 8, 5, 5), torch.randn(4, 8, 3, 3) * 1e-7, torch.ones(2, 8)
    outs = {
        dtype: networks.modulated_conv2d(x.to(dtype), weight, styles, padding=1, fused_modconv=False).float()
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    }
    torch.testing.assert_close(outs[torch.bfloat16], outs[torch.float32], rtol=0.05, atol=1e-4)
    full = ref_modconv(x, weight * 1e7, styles)
    torch.testing.assert_close(outs[torch.float16], full, rtol=0.02, atol=0.02)
    assert outs[torch.float32].abs().max() < 0.1


def test_modulated_conv2d_in_float16_survives_huge_weights_and_styles():
    x, weight, styles = torch.randn(2, 8, 5, 5), torch.randn(4, 8, 3, 3), torch.rand(2, 8) + 0.5
    for fused in (True, False):
        found = networks.modulated_conv2d(x.half(), weight * 1e5, styles * 1e4, padding=1, fused_modconv=fused)
        torch.testing.assert_close(found.float(), ref_modconv(x, weight, styles), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("activation", ["linear", "lrelu", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_fully_connected_layer(activation, bias):
    layer = networks.FullyConnectedLayer(4, 3, bias=bias, activation=activation, lr_multiplier=0.1, bias_init=2)
    assert not bias or torch.equal(layer.bias.data, torch.full([3], 2.0))
    x = torch.randn(5, 4)
    y = x @ layer.weight.t() * 0.1 / 2 + (2 * 0.1 if bias else 0)
    expected = {"linear": y, "lrelu": lrelu(y), "relu": y.clamp(min=0) * math.sqrt(2)}[activation]
    torch.testing.assert_close(layer(x), expected)


def test_linear_layer_with_bias_needs_rank_2():
    with pytest.raises(RuntimeError):
        networks.FullyConnectedLayer(4, 3)(torch.randn(2, 5, 4))


@pytest.mark.parametrize("up, down", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_conv2d_layer_with_gain_and_clamp(kernel, up, down):
    layer = networks.Conv2dLayer(3, 4, kernel, activation="lrelu", up=up, down=down, conv_clamp=0.8)
    layer.bias.data.normal_()
    x = torch.randn(2, 3, 8, 8)
    y = ref_conv(x, layer.weight / math.sqrt(3 * kernel**2), up=up, down=down) + layer.bias[None, :, None, None]
    torch.testing.assert_close(layer(x, gain=0.5), (lrelu(y) * 0.5).clamp(-0.4, 0.4), rtol=1e-5, atol=1e-5)


def test_up_sampling_layer_applies_its_kernel_as_true_convolution():
    layer = networks.Conv2dLayer(1, 1, 3, bias=False, up=2)
    layer.weight.data.zero_()
    layer.weight.data[0, 0, 1, 2] = 3.0  # Right neighbour: a correlation would shift left, a convolution right.
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 4, 4] = 1.0
    image = ref_fir(x, (2, 1), up=2, gain=4.0)
    torch.testing.assert_close(layer(x), torch.roll(image, 1, dims=3))


@pytest.mark.parametrize("batch, group_size, num_channels", [(8, 4, 1), (4, 2, 3), (3, 4, 2), (6, None, 1)])
def test_minibatch_std_groups(batch, group_size, num_channels):
    x = torch.randn(batch, 6, 3, 3)
    found = networks.MinibatchStdLayer(group_size, num_channels)(x)
    torch.testing.assert_close(found, ref_mbstd(x, group_size, num_channels))


def test_minibatch_std_rejects_a_batch_that_does_not_split():
    with pytest.raises(ValueError, match="Expected argument `x`"):
        networks.MinibatchStdLayer(4)(torch.randn(6, 2, 3, 3))


# Whole networks.


@pytest.mark.parametrize("batch, fused", [(1, True), (2, False)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("c_dim", [0, 3])
def test_generator_equals_reference(architecture, c_dim, batch, fused):
    G = randomize(make_G(c_dim=c_dim, architecture=architecture)).eval()
    z, c = torch.randn(batch, 6), torch.randn(batch, 3)
    state = dict(G.state_dict())
    w = ref_mapping(state, "mapping", z, c if c_dim else None)
    expected = ref_synthesis(state, w[:, None].repeat(1, G.num_ws, 1), architecture, 16)
    found = G(z, c if c_dim else None, noise_mode="const", fused_modconv=fused)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_blocks_consume_latents_in_order_and_torgb_shares():
    G = randomize(make_G())
    ws = torch.randn(2, G.num_ws, 5)
    expected = ref_synthesis(dict(G.state_dict()), ws, "skip", 16)
    torch.testing.assert_close(G.synthesis(ws, noise_mode="const"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("c_dim", [0, 3])
def test_discriminator_equals_reference(architecture, c_dim):
    D = randomize(make_D(c_dim=c_dim, architecture=architecture))
    img, c = torch.randn(4, 3, 16, 16), torch.randn(4, 3)
    state = dict(D.state_dict())
    cmap = ref_mapping(state, "mapping", None, c, layers=8) if c_dim else None
    expected = ref_discriminator(state, img, architecture, 16, cmap)
    torch.testing.assert_close(D(img, c if c_dim else None), expected, rtol=1e-4, atol=1e-4)


def gradient_penalty_grads(out, at, params):
    """Gradients of the squared input gradient: the second derivatives that R1 and path length need."""
    (first,) = torch.autograd.grad(out.sum(), at, create_graph=True)
    return torch.autograd.grad(first.square().mean(), params, materialize_grads=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("which", ["generator", "discriminator"])
def test_second_derivatives_equal_reference(which, architecture):
    net = randomize((make_G if which == "generator" else make_D)(architecture=architecture))
    state = net.state_dict(keep_vars=True)
    params = {k: p for k, p in net.named_parameters() if not k.startswith("mapping")}
    if which == "generator":
        at = torch.randn(2, net.num_ws, 5, requires_grad=True)
        noise = torch.randn(2, 3, 16, 16)
        outs = net.synthesis(at, noise_mode="const") * noise, ref_synthesis(state, at, architecture, 16) * noise
    else:
        at = torch.randn(4, 3, 16, 16, requires_grad=True)
        outs = net(at, None), ref_discriminator(state, at, architecture, 16)
    found, expected = (gradient_penalty_grads(out, at, list(params.values())) for out in outs)
    for name, a, b in zip(params, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * max(1.0, b.abs().max().item()), msg=name)
    assert sum(g.abs().sum() > 0 for g in found) > len(params) / 2



@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_gets_a_gradient(architecture):
    G, D = make_G(c_dim=2, architecture=architecture), make_D(c_dim=2, architecture=architecture)
    c = torch.randn(4, 2)
    D(G(torch.randn(4, 6), c), c).sum().backward()
    for net in (G, D):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_running_mean_follows_training_batches_only():
    G = make_G(mapping=dict(w_avg_beta=0.9))
    z = torch.randn(5, 6)
    start = torch.randn(5)
    G.mapping.w_avg.copy_(start)
    G.mapping(z, None, skip_w_avg_update=True)
    G.eval().mapping(z, None)
    assert torch.equal(G.mapping.w_avg, start)
    w = G.train().mapping(z, None)[:, 0]
    torch.testing.assert_close(G.mapping.w_avg, 0.9 * start + 0.1 * w.mean(0).detach())
    assert not G.mapping.w_avg.requires_grad


@pytest.mark.parametrize("cutoff", [None, 0, 3])
def test_truncation_moves_leading_latents_toward_the_mean(cutoff):
    G = make_G().eval()
    G.mapping.w_avg.normal_()
    z = torch.randn(2, 6)
    ws = G.mapping(z, None)
    assert torch.equal(ws, ws[:, :1].expand(-1, G.num_ws, -1))
    expected = ws.clone()
    for i in range(G.num_ws if cutoff is None else cutoff):
        expected[:, i] = G.mapping.w_avg + 0.3 * (ws[:, i] - G.mapping.w_avg)
    torch.testing.assert_close(G.mapping(z, None, truncation_psi=0.3, truncation_cutoff=cutoff), expected)
    img = G(z, None, truncation_psi=0.3, truncation_cutoff=cutoff, noise_mode="const")
    torch.testing.assert_close(img, G.synthesis(expected, noise_mode="const"))


def test_truncation_without_a_running_mean_is_rejected():
    mapping = networks.MappingNetwork(z_dim=4, c_dim=0, w_dim=3, num_ws=None, w_avg_beta=None)
    assert list(mapping(torch.randn(2, 4), None).shape) == [2, 3]
    with pytest.raises(ValueError, match="truncation_psi.*0.5"):
        mapping(torch.randn(2, 4), None, truncation_psi=0.5)


def test_label_is_required_with_labels_only():
    G = make_G(c_dim=2)
    with pytest.raises(ValueError, match="Expected argument `c` .* got None"):
        G(torch.randn(2, 6), None)
    assert list(make_G()(torch.randn(2, 6), None).shape) == [2, 3, 16, 16]


def test_noise_modes():
    layer = networks.SynthesisLayer(3, 4, w_dim=5, resolution=8)
    x, w = torch.randn(2, 3, 8, 8), torch.randn(2, 5)
    layer.noise_strength.data.fill_(0.7)
    base = ref_modconv(x, layer.weight, layer.affine(w))
    torch.testing.assert_close(layer(x, w, noise_mode="none"), lrelu(base), rtol=1e-5, atol=1e-5)
    expected = lrelu(base + 0.7 * layer.noise_const)
    torch.testing.assert_close(layer(x, w, noise_mode="const"), expected, rtol=1e-5, atol=1e-5)
    torch.manual_seed(3)
    found = layer(x, w)
    torch.manual_seed(3)
    expected = lrelu(base + 0.7 * torch.randn([2, 1, 8, 8]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_layer_without_noise_keeps_no_noise_and_draws_none():
    layer = networks.SynthesisLayer(3, 4, w_dim=5, resolution=8, use_noise=False)
    assert not [key for key in layer.state_dict() if "noise" in key]
    before = torch.get_rng_state()
    layer(torch.randn(2, 3, 8, 8), torch.randn(2, 5), noise_mode="const")
    torch.set_rng_state(before)
    x, w = torch.randn(2, 3, 8, 8), torch.randn(2, 5)
    torch.testing.assert_close(layer(x, w, noise_mode="random"), layer(x, w, noise_mode="none"))


# Number formats.


@pytest.mark.parametrize("half_dtype, tolerance", [("float16", 0.02), ("bfloat16", 0.12)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_precision_is_near_float32_and_trains(architecture, channels_last, half_dtype, tolerance):
    half = dict(fp16_channels_last=channels_last, half_dtype=half_dtype)
    G = make_G(architecture=architecture, num_fp16_res=4, conv_clamp=256, **half)
    D = make_D(architecture=architecture, num_fp16_res=4, conv_clamp=256, block_kwargs=half)
    seen = set()
    for net in (G.synthesis.b16.conv1, D.b16.conv1):
        net.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    z = torch.randn(4, 6)
    img = G(z, None, noise_mode="const")
    exact = G(z, None, noise_mode="const", force_fp32=True)
    assert seen == {getattr(torch, half_dtype), torch.float32}
    assert img.dtype == torch.float32
    assert (img - exact).abs().mean() < tolerance * exact.abs().mean()
    logits, logits_exact = D(exact, None), D(exact, None, force_fp32=True)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, logits_exact, rtol=5 * tolerance, atol=5 * tolerance)
    real = torch.randn(4, 3, 16, 16, requires_grad=True)
    (grad,) = torch.autograd.grad(D(real, None).sum(), real, create_graph=True)
    grad.square().sum().backward()
    img.sum().backward()
    assert all(p.grad.isfinite().all() for p in G.synthesis.parameters())
    assert D.b16.conv0.weight.grad.isfinite().all() and D.b16.conv0.weight.grad.abs().sum() > 0


def test_half_dtype_defaults_to_float16_and_is_stored():
    assert make_G().synthesis.b8.half_dtype == "float16"
    assert make_D().b8.half_dtype == "float16"
    assert make_D(block_kwargs=dict(half_dtype="bfloat16")).b16.half_dtype == "bfloat16"


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: make_G(half_dtype="float32"), "half_dtype"),
        (lambda: make_D(block_kwargs=dict(half_dtype="half")), "half_dtype"),
        (lambda: make_G(architecture="plain"), "architecture"),
        (lambda: make_D(architecture="plain"), "architecture"),
        (lambda: make_G(res=24), "img_resolution"),
        (lambda: make_D(res=2), "img_resolution"),
        (lambda: networks.DiscriminatorBlock(3, 4, 4, 8, 3, first_layer_idx=0), "in_channels"),
        (lambda: make_G()(torch.randn(2, 6), None, noise_mode="some"), "noise_mode"),
        (lambda: make_G()(torch.randn(2, 5), None), "z"),
        (lambda: make_G(c_dim=2)(torch.randn(2, 6), torch.eye(3)[:2]), "c"),
        (lambda: make_G().synthesis(torch.randn(2, 3, 5)), "ws"),
        (lambda: make_G().synthesis.b8(torch.randn(2, 1, 4, 4), None, torch.randn(2, 3, 5)), "x"),
        (lambda: make_D()(torch.randn(2, 3, 8, 8), None), "img"),
        (lambda: networks.modulated_conv2d(*map(torch.ones, [(2, 3, 4, 4), (5, 3, 1, 1), (1, 3)])), "styles"),
    ],
)
def test_wrong_arguments_are_named(make, name):
    with pytest.raises(ValueError, match=f"Expected argument `{name}`"):
        make()


def test_fused_modconv_defaults_to_evaluation_in_float32_or_single_samples(monkeypatch):
    calls = []
    original = networks._modconv

    def spy(x, weight, styles, demodulate, fused_modconv, resample):
        calls.append(fused_modconv)
        return original(x, weight, styles, demodulate, fused_modconv, resample)

    monkeypatch.setattr(networks, "_modconv", spy)
    G = make_G(num_fp16_res=1)
    expected = {(True, 2): {False}, (True, 1): {False}, (False, 2): {True, False}, (False, 1): {True}}
    for (training, batch), flags in expected.items():
        calls.clear()
        G.train(training)(torch.randn(batch, 6), None)
        assert set(calls) == flags


def test_bundled_base_draws_with_its_operation_for_scale_noise_bias_and_activation(monkeypatch):
    calls, fused = [], networks.scaled_bias_act
    original = fused.scaled_bias_act
    monkeypatch.setattr(fused, "scaled_bias_act", lambda *args, **rest: calls.append(rest) or original(*args, **rest))
    make_G()(torch.randn(2, 6), None)
    assert sum(call.get("act") == "lrelu" for call in calls) == 5  # Once per convolution, at 4, 8 and 16 pixels.


# Copies.


@pytest.mark.parametrize("make", [make_G, make_D])
def test_deepcopy_and_pickle_keep_class_arguments_and_output(make):
    net = randomize(make(c_dim=2)).eval()
    inputs = torch.randn(2, *([6] if make is make_G else [3, 16, 16])), torch.randn(2, 2)
    kwargs = dict(noise_mode="const") if make is make_G else {}
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert type(other) is type(net)
        assert other.init_kwargs == net.init_kwargs
        assert other is not net and next(other.parameters()) is not next(net.parameters())
        assert torch.equal(other(*inputs, **kwargs), net(*inputs, **kwargs))
        rebuilt = type(other)(*other.init_args, **other.init_kwargs)
        assert list(rebuilt.state_dict()) == list(net.state_dict())


def test_all_classes_are_persistent():
    from torch_utils import persistence

    names = (
        "FullyConnectedLayer Conv2dLayer MappingNetwork SynthesisLayer ToRGBLayer SynthesisBlock SynthesisNetwork"
        " Generator DiscriminatorBlock MinibatchStdLayer DiscriminatorEpilogue Discriminator"
    )
    assert all(persistence.is_persistent(getattr(networks, name)) for name in names.split())
