"""Segmenter: masks at the picture's own size, the same in any company; layers, flip and refinement of encoders."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from tiny_models import SIDE, make_model, picture

from layered_plugin import device
from layered_plugin.data.pictures import inner_box, to_float, to_square, to_uint8
from layered_plugin.errors import ArgumentError, ModelError
from layered_plugin.model.encoder import decode
from layered_plugin.model.layers import composite
from layered_plugin.model.unet import UNet
from layered_plugin.segmentation.colors import MARGIN, correct_by_colors
from layered_plugin.segmentation.edges import sharpen_mask
from layered_plugin.segmentation.full_size import enlarge, shrink
from layered_plugin.segmentation.model_file import load_model, load_tensors, network_hash, save_model
from layered_plugin.segmentation.segmenter import Refinement, Segmenter

KINDS = ["distill", "encoder"]

DRAWN = Refinement(sharp=False)  # The mask as the network draws it.


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch):
    """The same sums on every CPU."""
    monkeypatch.setattr(device, "has_fast_bf16", lambda: False)


@pytest.fixture
def load(models):
    return lambda kind: Segmenter.load(models / kind, "cpu")


def as_input(*pictures):
    return to_float(torch.from_numpy(np.stack([to_square(one, SIDE) for one in pictures])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharp", [True, False])
def test_a_call_is_the_network_at_its_own_size_and_then_each_picture_by_itself(load, kind, sharp):
    pictures, segmenter = [picture(17, 23), picture(40, 33, seed=1)], load(kind)
    drawn = segmenter.draw(np.stack([shrink(one, SIDE, kind == "distill") for one in pictures]))
    assert [one.mask.shape for one in drawn] == [(SIDE, SIDE)] * 2
    for one, full, by_call in zip(drawn, pictures, segmenter(pictures, refinement=Refinement(sharp=sharp)),
                                  strict=True):
        for expected, found in zip(by_call, enlarge(one, full, sharp, kind == "distill"), strict=True):
            np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("height, width", [(16, 16), (17, 23), (31, 8), (1, 5), (100, 40)])
def test_results_have_the_pictures_own_size(load, kind, height, width):
    (found,) = load(kind)([picture(height, width)])
    assert found.mask.shape == (height, width) and found.mask.dtype == np.float32
    assert 0 <= found.mask.min() <= found.mask.max() <= 1
    for part in (found.bg, found.fg, found.composite):
        if kind == "encoder":
            assert part.shape == (height, width, 3) and part.dtype == np.uint8
        else:
            assert part is None
    assert (found.error is None) == (kind == "distill")


def test_distilled_mask_is_the_networks(load, models):
    segmenter = load("distill")
    assert (segmenter.kind, segmenter.resolution, segmenter.options) == ("distill", SIDE, dict(seed=0))
    expected = load_model(models / "distill")[1]["unet"](as_input(picture())).sigmoid()
    (found,) = segmenter([picture()], refinement=DRAWN)
    torch.testing.assert_close(torch.from_numpy(found.mask), expected[0, 0])
    assert found.mask.std() > 0


def test_distilled_mask_is_much_the_same_in_half_precision(load, monkeypatch):
    pictures = [picture(seed=seed) for seed in range(20)]
    full = np.stack([found.mask for found in load("distill")(pictures)])
    monkeypatch.setattr(device, "has_fast_bf16", lambda: True)
    half = np.stack([found.mask for found in load("distill")(pictures)])
    assert half.dtype == np.float32 and not np.array_equal(full, half)
    assert ((full > 0.5) != (half > 0.5)).mean() < 0.02


def test_model_of_three_resolutions_is_still_read(tmp_path):
    unet = UNet((4, 6, 8)).eval()
    save_model(tmp_path, "distill", dict(unet=unet), dict(resolution=SIDE))
    (found,) = Segmenter.load(tmp_path, "cpu")([picture()], refinement=DRAWN)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found.mask), unet(as_input(picture())).sigmoid()[0, 0])


def test_mask_of_a_larger_picture_is_stretched_bilinearly(load):
    large = picture(3 * SIDE, 2 * SIDE)
    segmenter = load("distill")
    segmenter.letterbox = False
    (small,) = segmenter([PIL.Image.fromarray(to_square(large, SIDE).transpose(1, 2, 0))], refinement=DRAWN)
    (found,) = segmenter([large], refinement=DRAWN)
    expected = PIL.Image.fromarray(small.mask).resize((2 * SIDE, 3 * SIDE), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found.mask, np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize("height, width", [(24, 16), (16, 24), (40, 30)])
def test_distilled_model_sees_a_picture_in_its_own_proportions(load, height, width):
    large, segmenter = picture(height, width), load("distill")
    box = inner_box((width, height), SIDE)
    small = large.resize((box.right - box.left, box.bottom - box.top), PIL.Image.Resampling.LANCZOS)
    square = np.zeros([SIDE, SIDE, 3], np.uint8)
    for row in range(SIDE):
        for column in range(SIDE):  # The nearest pixel of the picture.
            nearest = min(max(column, box.left), box.right - 1), min(max(row, box.top), box.bottom - 1)
            square[row, column] = small.getpixel((nearest[0] - box.left, nearest[1] - box.top))
    within, found = (segmenter([one], refinement=DRAWN)[0] for one in (square, large))
    cut = PIL.Image.fromarray(within.mask[box.top:box.bottom, box.left:box.right])
    expected = cut.resize((width, height), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found.mask, np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_colors_correct_masks_and_edges_are_refined_from_twice_the_networks_side_on(load, kind, margin):
    segmenter = load(kind)
    for side in (2 * SIDE - 1, 2 * SIDE):
        large = picture(side, side)
        (plain,), (sharp,) = (segmenter([large], refinement=how) for how in (DRAWN, Refinement(margin=margin)))
        if side < 2 * SIDE:
            img = to_float(torch.from_numpy(np.array(large)).permute(2, 0, 1)[None])
            expected = correct_by_colors(img, torch.from_numpy(plain.mask)[None, None], margin)[0, 0]
        else:
            square = PIL.Image.fromarray(to_square(large, SIDE).transpose(1, 2, 0))
            (small,) = segmenter([square], refinement=DRAWN)
            expected = sharpen_mask(large, small.mask, margin)
        np.testing.assert_allclose(sharp.mask, expected, atol=1e-5)
        assert np.abs(sharp.mask - plain.mask).max() > 0.01


def test_the_margin_is_the_models_own_unless_it_is_given(tmp_path):
    path, found = make_model(tmp_path / "00001-distill"), {}
    img, meta = picture(24, 24), json.loads((path / "model.json").read_text())
    for margin in (None, 0.0, 0.4):
        (path / "model.json").write_text(json.dumps(meta if margin is None else dict(meta, margin=margin)))
        segmenter = Segmenter.load(path, "cpu")
        found[margin] = segmenter([img])[0].mask
        np.testing.assert_array_equal(found[margin], segmenter([img], refinement=Refinement(
            margin=MARGIN if margin is None else margin))[0].mask)
        np.testing.assert_array_equal(found[None], segmenter([img], refinement=Refinement(margin=MARGIN))[0].mask)
    assert np.abs(found[0.0] - found[0.4]).max() > 0.01


def test_layers_of_an_encoder_are_those_of_its_codes(load):
    segmenter = load("encoder")
    one = picture()
    layers = decode(segmenter.networks["G"], segmenter.networks["E"](as_input(one)), force_fp32=True)
    (found,) = segmenter([one], refinement=DRAWN)
    torch.testing.assert_close(torch.from_numpy(found.mask), layers.mask[0, 0])
    for part, layer in [(found.bg, layers.bg), (found.fg, layers.fg), (found.composite, composite(layers))]:
        expected = to_uint8(layer)[0].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(part - expected).max() <= 1
    difference = np.abs(found.composite.astype(float) - np.asarray(one))
    assert found.error == pytest.approx(difference.mean(), abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_result_does_not_depend_on_the_other_pictures(load, kind):
    pictures = [picture(17, 23, seed=1), picture(40, 8, seed=2), picture(16, 16, seed=3)]
    segmenter = load(kind)
    together = segmenter(pictures)
    assert np.abs(together[0].mask.mean() - together[2].mask.mean()) > 1e-4
    for one, found in zip(pictures, together, strict=True):
        np.testing.assert_allclose(segmenter([one])[0].mask, found.mask, atol=1e-3)  # Colors enlarge last bits.


@pytest.mark.parametrize("kind", KINDS)
def test_segmenting_leaves_no_trace(load, kind):
    segmenter = load(kind)
    before = {name: network_hash(net) for name, net in segmenter.networks.items()}
    first = segmenter([picture()])[0]
    segmenter([picture(seed=1)], refinement=Refinement(flip=True, refine=0 if kind == "distill" else 2))
    np.testing.assert_array_equal(segmenter([picture()])[0].mask, first.mask)
    assert {name: network_hash(net) for name, net in segmenter.networks.items()} == before


@pytest.fixture(params=["float64", "device", "autocast"])
def _notebook(request):
    """What a notebook may have set for work of its own."""
    if request.param == "float64":
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)
    else:
        with torch.device("meta") if request.param == "device" else torch.autocast("cpu", dtype=torch.bfloat16):
            yield


@pytest.fixture(params=KINDS)
def masks_before(request, load):
    """A model, and its masks where nothing is set."""
    segmenter = load(request.param)
    return segmenter, [found.mask for found in segmenter([picture(), picture(40, 40)])]


def test_settings_of_the_caller_change_nothing(masks_before, _notebook):
    segmenter, masks = masks_before
    for one in (segmenter, Segmenter.load(segmenter.folder, "cpu")):
        for found, mask in zip(one([picture(), picture(40, 40)]), masks, strict=True):
            assert found.mask.dtype == np.float32
            np.testing.assert_array_equal(found.mask, mask)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_codes_are_refined_where_the_caller_wants_no_gradients(load, mode):
    segmenter, refinement = load("encoder"), Refinement(refine=3)
    (expected,) = segmenter([picture()], refinement=refinement)
    with mode():
        (found,) = segmenter([picture()], refinement=refinement)
    np.testing.assert_array_equal(found.mask, expected.mask)


def test_no_pictures_give_no_results(load):
    assert load("distill")([]) == []


# Kinds of pictures.

def test_arrays_and_pictures_are_the_same(load):
    one = picture(20, 30)
    found = load("distill")([one, np.asarray(one)])
    np.testing.assert_array_equal(found[0].mask, found[1].mask)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I"])
def test_picture_of_any_mode_is_taken_as_its_rgb(load, mode):
    gray = picture(20, 30).convert("L")
    if mode.startswith("I"):
        one = PIL.Image.fromarray(np.asarray(gray).astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    else:
        one = gray.convert(mode)
    assert one.mode == mode
    if mode == "P":  # Bytes of transparency, as in many PNG files.
        one.info["transparency"] = bytes([0, 128] * 128)
    same = one.convert("RGBA").convert("RGB") if mode in ("1", "CMYK") else gray.convert("RGB")
    if mode == "P":
        same = PIL.Image.alpha_composite(PIL.Image.new("RGBA", one.size, "white"), one.convert("RGBA")).convert("RGB")
    found = load("distill")([one, same])
    np.testing.assert_array_equal(found[0].mask, found[1].mask)


def test_picture_is_turned_upright_as_its_exif_says(load):
    upright = picture(20, 30)
    turned = upright.transpose(PIL.Image.Transpose.ROTATE_90)  # Stored so that 6, a quarter turn clockwise, undoes it.
    turned.getexif()[0x0112] = 6
    found, expected = load("distill")([turned, upright])
    assert found.mask.shape == (20, 30)
    np.testing.assert_array_equal(found.mask, expected.mask)


@pytest.mark.parametrize("image", [np.zeros([4, 4]), np.zeros([4, 4], np.uint8), np.zeros([4, 4, 4], np.uint8),
                                   np.zeros([4, 4, 3], np.float32), "a.png", torch.zeros([4, 4, 3])])
def test_other_arrays_are_refused(load, image):
    with pytest.raises(ValueError, match=r"`images` to hold PIL pictures or uint8 arrays \[H, W, 3\], but got"):
        load("distill")([image])


@pytest.mark.parametrize("images", [picture(), np.asarray(picture()), torch.zeros([4, 4, 3]), "a.png", Path("a.png")])
def test_one_picture_without_a_list_is_named(load, images):
    with pytest.raises(ValueError, match="`images` to be a list of pictures, but got one by itself"):
        load("distill")(images)


@pytest.mark.parametrize("image", [np.zeros([0, 4, 3], np.uint8), PIL.Image.new("RGB", (0, 4))])
def test_pictures_without_pixels_are_refused(load, image):
    with pytest.raises(ValueError, match=r"`images` to hold pictures with pixels, but got one of \d x \d"):
        load("distill")([image])



# Flip and refinement.

@pytest.mark.parametrize("kind", KINDS)
def test_flip_treats_a_picture_as_its_mirror_image(load, kind):
    one = picture()
    mirrored = one.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    segmenter = load(kind)
    plain, mirror = (found.mask for found in segmenter([one, mirrored], refinement=DRAWN))
    both, other = (found.mask for found in segmenter([one, mirrored], refinement=replace(DRAWN, flip=True)))
    np.testing.assert_allclose(both, (plain + mirror[:, ::-1]) / 2, atol=1e-5)
    np.testing.assert_allclose(other, both[:, ::-1], atol=1e-5)
    assert np.abs(both - plain).max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_flip_makes_the_mask_of_a_symmetric_picture_symmetric_and_keeps_its_coverage(load, kind):
    pixels = np.asarray(picture())
    symmetric = PIL.Image.fromarray(np.concatenate([pixels[:, :8], pixels[:, 7::-1]], axis=1))
    segmenter = load(kind)
    (plain,), (both,) = (segmenter([symmetric], refinement=replace(DRAWN, flip=flip)) for flip in (False, True))
    np.testing.assert_allclose(both.mask, both.mask[:, ::-1], atol=1e-5)
    assert both.mask.mean() == pytest.approx(plain.mask.mean(), abs=1e-5)


def test_refinement_lowers_the_reconstruction_error(load):
    pictures = [picture(seed=seed) for seed in range(3)]
    segmenter = load("encoder")
    errors = [[found.error for found in segmenter(pictures, refinement=Refinement(refine=steps))]
              for steps in (0, 10, 40)]
    assert all(a > b > c for a, b, c in zip(*errors, strict=True))


def test_pictures_are_refined_apart_from_one_another(load):
    pictures = [picture(seed=seed) for seed in range(2)]
    segmenter = load("encoder")
    refinement = Refinement(refine=3)
    together = segmenter(pictures, refinement=refinement)
    for one, found in zip(pictures, together, strict=True):
        np.testing.assert_allclose(segmenter([one], refinement=refinement)[0].mask, found.mask, atol=1e-3)


def test_distilled_model_has_nothing_to_refine(load):
    with pytest.raises(ArgumentError, match="`refine` needs an encoder; .*distill is distilled and has no codes"):
        load("distill")([picture()], refinement=Refinement(refine=1))


def test_posterior_corrects_the_mask_and_leaves_the_layers(load):
    segmenter, one = load("encoder"), picture()
    posterior = Refinement(posterior=True, sharp=False)
    (plain,), (fitted,) = segmenter([one], refinement=DRAWN), segmenter([one], refinement=posterior)
    for name in ("bg", "fg", "composite"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(fitted, name))
    assert np.abs(plain.mask - fitted.mask).max() > 1e-3
    mirrored = one.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    (other,) = segmenter([mirrored], refinement=posterior)
    (both,) = segmenter([one], refinement=replace(posterior, flip=True))
    np.testing.assert_allclose(both.mask, (fitted.mask + other.mask[:, ::-1]) / 2, atol=1e-5)


def test_refinement_keeps_to_the_masks_of_a_prior(load):
    segmenter, prior, pictures = load("encoder"), load("distill"), [picture(seed=seed) for seed in range(3)]
    wanted = [found.mask for found in prior(pictures, refinement=DRAWN)]
    free, kept = (segmenter(pictures, refinement=replace(DRAWN, refine=30, prior=given)) for given in (None, prior))
    distances = [[np.abs(found.mask - mask).mean() for found, mask in zip(each, wanted, strict=True)]
                 for each in (free, kept)]
    assert all(near < far for far, near in zip(*distances, strict=True))
    mirrored = [one.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) for one in pictures]
    three = replace(DRAWN, refine=3, prior=prior)
    both = segmenter(pictures, refinement=replace(three, flip=True))
    sides = (segmenter(side, refinement=three) for side in (pictures, mirrored))
    for found, plain, mirror in zip(both, *sides, strict=True):
        np.testing.assert_allclose(found.mask, (plain.mask + mirror.mask[:, ::-1]) / 2, atol=1e-3)


@pytest.mark.parametrize("kind, prior, refine, words", [
    ("distill", "distill", 0, "`prior` is for an encoder's refinement"),
    ("encoder", "distill", 0, "needs `refine` of at least 1"),
    ("encoder", "encoder", 2, "`prior` must be a distilled model, but .*encoder holds an encoder")])
def test_misfit_of_a_prior_is_named(load, kind, prior, refine, words):
    with pytest.raises(ValueError, match=words):
        load(kind)([picture()], refinement=Refinement(refine=refine, prior=load(prior)))


@pytest.mark.parametrize("refinement, got", [(Refinement(margin=0.6), "0, 0.6"), (Refinement(margin=-0.1), "0, -0.1"),
                                             (Refinement(refine=-1), "-1, None")])
def test_number_out_of_range_is_named(load, refinement, got):
    with pytest.raises(ArgumentError, match=f"`refine` must be 0 or more, `margin` from 0 to 0.5; got {got}"):
        load("encoder")([picture()], refinement=refinement)


def test_prior_of_another_resolution_is_named(load):
    prior = load("distill")
    prior.resolution = 32
    with pytest.raises(ValueError, match="is of 32x32 and .*encoder of 16x16"):
        load("encoder")([picture()], refinement=Refinement(refine=2, prior=prior))


def test_distilled_model_has_no_layers_for_a_posterior(load):
    with pytest.raises(ArgumentError, match="`posterior` needs an encoder; .*distill is distilled and draws no"):
        load("distill")([picture()], refinement=Refinement(posterior=True))


# Chunks.

def test_each_picture_of_a_chunk_has_its_chunks_encoder(load):
    pictures = dict(zip(["a.png", "b.png", "c.png"], [picture(20, 16, seed=seed) for seed in range(3)], strict=True))
    order = ["c.png", "a.png", "b.png"]
    segmenter = load("chunks")
    found = dict(zip(order, segmenter([pictures[name] for name in order], order, DRAWN), strict=True))
    for chunk, names in enumerate([["a.png", "b.png"], ["c.png"]]):
        alone = load("chunks")
        E = alone._chunk_encoder(chunk)
        img = as_input(*(pictures[name] for name in names))
        mask = decode(alone.networks["G"], E(img), force_fp32=True).mask
        for name, expected in zip(names, mask, strict=True):
            stretched = torch.nn.functional.interpolate(expected[None], size=(20, 16), mode="bilinear")
            np.testing.assert_allclose(found[name].mask, stretched[0, 0].numpy(), atol=1e-5)
    other = segmenter([pictures["a.png"]], ["c.png"])[0]
    assert np.abs(other.mask - found["a.png"].mask).max() > 1e-3


def test_encoder_of_a_chunk_is_read_once_for_pictures_in_order(load, monkeypatch):
    segmenter, reads = load("chunks"), []
    monkeypatch.setattr("layered_plugin.segmentation.segmenter.load_tensors",
                        lambda path: reads.append(path.name) or load_tensors(path))
    for name in ("a.png", "b.png", "c.png"):
        segmenter([picture()], [name])
    assert reads == ["chunk-00000.safetensors", "chunk-00001.safetensors"]


def test_chunks_know_only_their_own_pictures(load):
    segmenter = load("chunks")
    assert segmenter.refusal("c.png") is None and load("encoder").refusal("d.png") is None
    assert "named d.png" in segmenter.refusal("d.png")
    with pytest.raises(ModelError, match=r"chunks: no chunk was trained on a picture named d\.png; .*--mode=dataset"):
        segmenter([picture(), picture()], ["a.png", "d.png"])


@pytest.mark.parametrize("names, words", [(None, "for a model of chunks"), (["a.png"], "2 entries, but got 1")])
def test_chunks_need_a_name_for_each_picture(load, names, words):
    with pytest.raises(ValueError, match=f"`names`.*{words}"):
        load("chunks")([picture(), picture()], names)


@pytest.mark.parametrize("names", [Refinement(flip=True), iter(["a.png"])])
def test_what_is_no_list_of_names_is_named(load, names):
    with pytest.raises(ValueError, match=f"`names` to be a list of names or None, but got {type(names).__name__}"):
        load("distill")([picture()], names)


def test_what_is_no_refinement_or_no_path_is_named(load):
    with pytest.raises(TypeError, match="`refinement` to be a Refinement, but got dict"):
        load("distill")([picture()], refinement={"flip": True})
    with pytest.raises(TypeError, match="`path` to be a path, but got NoneType"):
        Segmenter.load(None)


def test_missing_file_of_a_chunk_is_named(tmp_path, models, load):
    folder = make_model(tmp_path / "broken", "chunks")
    (folder / "chunk-00001.safetensors").write_bytes(b"")
    segmenter = Segmenter.load(folder, "cpu")
    assert len(segmenter([picture()], ["a.png"])) == 1
    with pytest.raises(ModelError, match=r"chunk-00001\.safetensors: not a readable model file"):
        segmenter([picture()], ["c.png"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_device_is_named(models):
    with pytest.raises(ArgumentError, match="`device`=cuda"):
        Segmenter.load(models / "distill", "cuda")
