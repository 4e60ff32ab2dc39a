"""The protocols of Tables 1 and 2, on stand-ins whose scores are known."""

import numpy as np
import PIL.Image
import pytest
import torch

from layered_plugin.data import pictures
from layered_plugin.data.pictures import PictureSource
from layered_plugin.evaluation import scoring
from layered_plugin.evaluation.scoring import Example, Extremes, score_generated, score_real
from layered_plugin.model.layers import Layers
from layered_plugin.segmentation.segmenter import Refinement, Segmentation

# Generated scenes.

class FakeGenerator(torch.nn.Module):
    """White squares of 4x4 pixels on black; the mask covers some of their columns, or those that z says."""

    z_dim, c_dim, img_resolution = 4, 0, 8

    def __init__(self, columns=None):
        super().__init__()
        self.columns, self.labels, self.trunc = columns, [], None
        self.gain = torch.nn.Parameter(torch.ones([]))

    def forward(self, z, c, noise_mode, return_layers, truncation_psi, force_fp32):
        self.labels.append(c)
        self.trunc = truncation_psi
        fg = -torch.ones(len(z), 3, 8, 8)
        fg[:, :, 2:6, 2:6] = 1
        mask = torch.zeros(len(z), 1, 8, 8)
        for idx in range(len(z)):
            width = self.columns if self.columns is not None else int(z[idx, 0] > 0) + 2 * int(z[idx, 1] > 0)
            mask[idx, :, 2:6, 2:2 + width] = 0.6
        # The composite shows the square whatever the mask is.
        return Layers(fg, fg, mask)


def sees_white(images, names):
    """A teacher that calls white object."""
    return [image[:, :, 0] > 127 for image in images]


@pytest.mark.parametrize("columns, expected", [(4, 1.0), (2, 0.5), (0, 0.0)])
def test_generated_score_is_the_iou_with_what_the_teacher_sees(columns, expected):
    scores = score_generated(FakeGenerator(columns), sees_white, num=6, seed=0, batch=4)
    assert scores["mean_iou"] == scores["detected"]["iou"] == scores["all"]["iou"] == pytest.approx(expected)
    assert scores["num"] == scores["num_detected"] == 6
    assert scores["reference_iou"] == pytest.approx(16 / 64)
    assert scores["coverage"] == pytest.approx(4 * columns / 64)
    assert scores["teacher_coverage"] == pytest.approx(16 / 64)


def test_the_mask_of_several_objects_is_of_all_together():
    class TwoStrips(FakeGenerator):
        def forward(self, z, c, **kwargs):
            layers = super().forward(z, c, **kwargs)
            mask = torch.zeros(len(z), 2, 8, 8)
            mask[:, 0, 2:6, 2:4] = mask[:, 1, 2:6, 3:6] = 1
            return Layers(layers.bg, layers.fg.repeat(1, 2, 1, 1), mask)

    scores = score_generated(TwoStrips(), sees_white, num=4, seed=0)
    assert scores["mean_iou"] == 1 and scores["coverage"] == pytest.approx(16 / 64)


def test_scenes_without_detection_count_only_among_all():
    def every_third(images, names):
        return [seen if int(name[-8:]) % 3 == 0 else None
                for seen, name in zip(sees_white(images, names), names, strict=True)]

    scores = score_generated(FakeGenerator(2), every_third, num=6, seed=0, batch=4)
    assert (scores["num"], scores["num_detected"]) == (6, 2)
    assert scores["mean_iou"] == pytest.approx(0.5) and scores["reference_iou"] == pytest.approx(0.25)
    # A zero mask as the truth: IoU 0 for a prediction that is not empty.
    assert scores["all"]["iou"] == pytest.approx(0.5 / 3)
    assert scores["teacher_coverage"] == pytest.approx(0.25 / 3)
    # And 1 for an empty one.
    assert score_generated(FakeGenerator(0), every_third, num=6, seed=0)["all"]["iou"] == pytest.approx(4 / 6)


def test_no_detection_at_all_leaves_the_papers_figure_open():
    scores = score_generated(FakeGenerator(2), lambda images, names: [None] * len(images), num=3, seed=0)
    assert scores["mean_iou"] is scores["reference_iou"] is scores["detected"] is None
    assert scores["num_detected"] == 0
    assert scores["all"]["iou"] == 0


def test_generated_scores_do_not_depend_on_the_batch_but_on_the_seed():
    runs = [score_generated(FakeGenerator(), sees_white, num=21, seed=seed, batch=batch)
            for seed, batch in ((0, 4), (0, 21), (1, 4))]
    assert runs[0] == runs[1]
    assert runs[0]["coverage"] != runs[2]["coverage"]


def test_teacher_is_shown_enlarged_pictures_and_hard_masks_are_enlarged_unsmoothed():
    shown = []

    def teacher(images, names):
        shown.extend(zip(images, names, strict=True))
        return [np.kron(image_mask, np.ones((2, 2), bool)) for image_mask in [square] * len(images)]

    square = np.zeros((8, 8), bool)
    square[2:6, 2:6] = True
    scores = score_generated(FakeGenerator(3), teacher, num=3, seed=7, size_px=16, batch=2)
    assert scores["mean_iou"] == pytest.approx(0.75)  # A smoothed mask would have lost or won pixels.
    assert {(image.shape, image.dtype) for image, _ in shown} == {((16, 16, 3), np.dtype(np.uint8))}
    assert len({name for _, name in shown}) == 3
    middle, corner = shown[0][0][8, 8], shown[0][0][0, 0]
    assert middle.tolist() == [255] * 3 and corner.tolist() == [0] * 3


def test_truncation_and_labels_reach_the_generator():
    G = FakeGenerator(1)
    G.c_dim = 3
    score_generated(G, sees_white, num=50, seed=0, trunc=0.7, batch=20)
    labels = torch.cat(G.labels)
    assert G.trunc == 0.7 and labels.shape == (50, 3)
    assert torch.equal(labels.sum(dim=1), torch.ones(50)) and labels.sum(dim=0).min() > 8


# Real pictures.

def write_pictures(folder, sizes):
    """Pictures whose left half is white."""
    folder.mkdir(parents=True, exist_ok=True)
    for idx, (height, width) in enumerate(sizes):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[:, : width // 2] = 255
        PIL.Image.fromarray(pixels).save(folder / f"{idx}.png")
    return folder


class FakeSegmenter:
    """Finds white, but in the picture named `blind`."""

    def __init__(self, blind=(), error=None):
        self.blind, self.error, self.calls = blind, error, []

    def __call__(self, images, names, refinement):
        self.calls.append((len(images), refinement.flip, refinement.refine))
        return [Segmentation(np.float32(image[:, :, 0] > 127) * (name not in self.blind), error=self.error,
                             confidence=0.2 if name in self.blind else 0.9 - int(name[0]) / 100)
                for image, name in zip(images, names, strict=True)]


def left_half(images, names, absent=("2.png",)):
    """The truth: the left half, nothing in some pictures."""
    truths = []
    for image, name in zip(images, names, strict=True):
        mask = np.zeros(image.shape[:2], bool)
        mask[:, : image.shape[1] // 2] = True
        truths.append(None if name in absent else mask)
    return truths


@pytest.fixture
def source(tmp_path):
    return PictureSource(write_pictures(tmp_path / "data", [(8, 8), (6, 12), (8, 8), (8, 4), (8, 8)]))


@pytest.mark.parametrize("batch", [2, 5])
def test_real_scores_of_detected_and_of_all_pictures(source, batch):
    right, blind = FakeSegmenter(error=3.0), FakeSegmenter(blind=("0.png", "2.png"))
    scores, extremes = score_real([right, blind], source, source.names, left_half, batch=batch,
                                  refinement=Refinement(flip=True, refine=4),
                                  baselines=dict(full=lambda image: np.ones(image.shape[:2], bool)))
    assert (scores["num"], scores["num_detected"]) == (5, 4)
    first, second = scores["models"]
    assert first["detected"]["iou"] == 1 and second["detected"]["iou"] == pytest.approx(3 / 4)
    # Picture 2 has no object: what is found there is wrong, and finding nothing is right.
    assert first["all"]["iou"] == pytest.approx(4 / 5) and second["all"]["iou"] == pytest.approx(4 / 5)
    assert first["reconstruction_error"] == 3.0 and second["reconstruction_error"] is None
    assert first["confidence"] == dict(mean=pytest.approx((0.9 + 0.89 + 0.87 + 0.86) / 4), spearman=None)
    # Of the pictures with an object: IoU 0, 1, 1, 1; ranks 1, 3, 3, 3 and 1, 4, 3, 2.
    assert second["confidence"] == dict(mean=pytest.approx((0.2 + 0.89 + 0.87 + 0.86) / 4),
                                        spearman=pytest.approx(3 / 15**0.5))
    assert scores["baselines"]["full"]["detected"]["iou"] == pytest.approx(0.5)
    assert first["detected"]["full_mask_iou"] == pytest.approx(0.5)
    assert first["all"]["full_mask_iou"] == pytest.approx(0.5 * 4 / 5)
    assert {call[1:] for call in right.calls} == {(True, 4)} and sum(call[0] for call in right.calls) == 5
    assert [example.name for example in extremes[1].worst] == ["0.png", "1.png", "3.png", "4.png"]


def test_models_and_baselines_are_scored_by_size_alike(source):
    full = dict(full=lambda image: np.ones(image.shape[:2], bool))
    scores, _ = score_real([FakeSegmenter(blind=("0.png",))], source, source.names, left_half, baselines=full,
                           sizes=(0.2, 0.5))
    # All four objects fill half of their picture; picture 2 has none.
    for found, iou in ((scores["models"][0], 3 / 4), (scores["baselines"]["full"], 1 / 2)):
        bins = found["detected"]["by_size"]
        assert [one["num"] for one in bins] == [0, 0, 4] and bins[0]["iou"] is None
        assert bins[2]["iou"] == pytest.approx(iou) == found["all"]["by_size"][2]["iou"]


def test_refinement_gets_a_hundred_pictures_at_a_time_and_fewer_of_large_ones(tmp_path, monkeypatch, capsys):
    source = PictureSource(write_pictures(tmp_path / "many", [(4, 4)] * 120))
    segmenter = FakeSegmenter()
    score_real([segmenter], source, source.names, left_half, baselines={}, refinement=Refinement(refine=5))
    assert segmenter.calls == [(100, False, 5), (20, False, 5)]
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("Pictures: 120/120") and "s left" in said[0] and "s left" not in said[-1]
    monkeypatch.setattr(pictures, "BATCH_PIXELS", 16 * 50)
    segmenter.calls.clear()
    score_real([segmenter], source, source.names, left_half, baselines={})
    assert [call[0] for call in segmenter.calls] == [50, 50, 20]


def test_network_size_squeezes_pictures_and_truth_first(source):
    segmenter = FakeSegmenter()
    scores, extremes = score_real([segmenter], source, source.names, left_half, baselines={}, size_px=4)
    assert scores["models"][0]["detected"]["iou"] == 1
    assert {example.truth.shape for example in extremes[0].best} == {(4, 4)}


def test_oracle_polarity_holds_for_models_and_baselines(source):
    def inverted(images, names, refinement):
        return [Segmentation(1 - one.mask, confidence=1.0) for one in FakeSegmenter()(images, names, refinement)]

    for oracle, expected in ((False, 0), (True, 1)):
        scores, _ = score_real([inverted], source, source.names[:2], left_half, oracle_polarity=oracle,
                               baselines=dict(black=lambda image: image[:, :, 0] < 128))
        assert scores["models"][0]["detected"]["iou"] == expected
        assert scores["baselines"]["black"]["detected"]["iou"] == expected


@pytest.mark.parametrize("confidence, iou, expected", [
    ([0.1, 0.5, 0.4], [0.2, 0.9, 0.8], 1), ([0.1, 0.5, 0.4], [0.9, 0.2, 0.8], -1), ([0.3, 0.3], [0.1, 0.2], None),
    ([0.1, 0.2], [1.0, 1.0], None), ([], [], None),
])
def test_confidence_is_scored_by_rank(confidence, iou, expected):
    found = scoring.score_confidence(confidence, iou)
    assert found["spearman"] == (None if expected is None else pytest.approx(expected))
    assert found["mean"] == (pytest.approx(np.mean(confidence)) if confidence else None)


def test_extremes_keep_the_best_and_the_worst_in_order():
    extremes, empty = Extremes(), np.zeros((1, 1))
    values = np.random.RandomState(0).permutation(30) / 30
    for idx, value in enumerate(values):
        extremes.add(Example(str(idx), float(value), empty, empty, empty))
    assert [one.iou for one in extremes.best] == sorted(values, reverse=True)[: scoring.SHOWN]
    assert [one.iou for one in extremes.worst] == sorted(values)[: scoring.SHOWN]
