"""Teachers: which pixels each calls object, and that every misfit is named."""

import io
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from layered_plugin.data.pictures import PictureSource
from layered_plugin.errors import MaskError, TeacherError
from layered_plugin.evaluation import judge as judges
from layered_plugin.evaluation import teachers
from layered_plugin.evaluation.judge import UNetTeacher, save_judge
from layered_plugin.evaluation.teachers import AlphaTeacher, MaskRCNNTeacher, MaskTeacher, coco_label, weights_name
from layered_plugin.model.unet import UNet


def gray(height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def write_masks(path: Path, masks: dict[str, np.ndarray]) -> Path:
    """A folder, or a zip if the path ends so."""
    for name, mask in masks.items():
        if path.suffix == ".zip":
            data = io.BytesIO()
            PIL.Image.fromarray(mask).save(data, "png")
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr(name, data.getvalue())
        else:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(mask).save(path / name)
    return path


# True masks.

@pytest.mark.parametrize("place", ["masks", "masks.zip"])
@pytest.mark.parametrize("picture", ["a/1.png", "a/1.jpg"])
def test_true_mask_is_object_from_128_on(tmp_path, place, picture):
    values = np.array([[0, 127], [128, 255]], np.uint8)
    teacher = MaskTeacher(write_masks(tmp_path / place, {"a/1.png": values}))
    (mask,) = teacher([gray(2, 2)], [picture])
    assert mask.dtype == bool and mask.tolist() == [[False, False], [True, True]]


def test_soft_mask_of_16_bits_is_object_from_half_on(tmp_path):
    values = np.array([[0, 300], [0x7FFF, 0x8000], [0xC000, 0xFFFF]], np.uint16)
    (mask,) = MaskTeacher(write_masks(tmp_path / "m", {"1.png": values}))([gray(3, 2)], ["1.png"])
    assert mask.tolist() == [[False, False], [False, True], [True, True]]


def test_true_mask_without_object_is_no_detection(tmp_path):
    teacher = MaskTeacher(write_masks(tmp_path / "m", {"1.png": np.zeros((4, 6), np.uint8)}))
    assert teacher([gray()], ["1.png"]) == [None]


def test_values_of_true_masks_can_be_said(tmp_path):
    path = write_masks(tmp_path / "m", {"1.png": np.array([[0, 1], [2, 3]], np.uint8)})
    (mask,) = MaskTeacher(path, [(2, 3)])([gray(2, 2)], ["1.png"])
    assert mask.tolist() == [[False, False], [True, True]]


def test_transparency_is_the_truth_of_the_pictures_themselves(tmp_path):
    alpha = np.array([[0, 127], [128, 255]], np.uint8)
    for name, matte in (("1.png", alpha), ("2.png", alpha * 0)):
        PIL.Image.fromarray(np.dstack([gray(2, 2), matte])).save(tmp_path / name)
    PIL.Image.fromarray(gray(2, 2)).save(tmp_path / "3.png")
    teacher = AlphaTeacher(PictureSource(tmp_path))
    mask, empty = teacher([gray(2, 2)] * 2, ["1.png", "2.png"])
    assert mask.tolist() == [[False, False], [True, True]] and empty is None
    with pytest.raises(TeacherError, match=r"picture 3\.png of .* has no transparency"):
        teacher([gray(2, 2)], ["3.png"])


def test_names_that_match_pass(tmp_path):
    teacher = MaskTeacher(write_masks(tmp_path / "m", {"a.b/x.y.png": np.zeros((4, 6), np.uint8)}))
    teacher.check_names(["a.b/x.y.jpg"], "data")


@pytest.mark.parametrize("masks, pictures, words", [
    (["1.png"], ["1.png", "2.png"], r"no mask for picture 2\.png of data \(masks: 1, pictures: 2\)"),
    (["1.png", "2.png"], ["1.png"], r"mask 2\.png belongs to no picture of data \(masks: 2, pictures: 1\)"),
    (["1.png"], ["a/1.png"], r"no mask for picture a/1\.png"),
    (["1.png"], ["1.jpg", "1.png"], r"pictures 1\.jpg and 1\.png of data would share mask 1\.png"),
])
def test_names_that_do_not_match_are_named(tmp_path, masks, pictures, words):
    path = write_masks(tmp_path / "m.zip", {name: np.zeros((4, 6), np.uint8) for name in masks})
    with pytest.raises(MaskError, match=rf"m\.zip: {words}"):
        MaskTeacher(path).check_names(pictures, "data")


def test_masks_of_some_pictures_will_do_where_that_is_asked_for(tmp_path):
    teacher = MaskTeacher(write_masks(tmp_path / "m", {"2.png": np.zeros((4, 6), np.uint8)}))
    assert teacher.check_names(["1.jpg", "2.jpg", "3.jpg"], "data", some=True) == ["1.jpg", "3.jpg"]
    with pytest.raises(MaskError, match=r"m: none of the 2 pictures of data has a mask, such as a/2\.jpg; "):
        teacher.check_names(["a/2.jpg", "3.jpg"], "data", some=True)
    with pytest.raises(MaskError, match=r"pictures 2\.jpg and 2\.png of data would share mask 2\.png"):
        teacher.check_names(["2.jpg", "2.png"], "data", some=True)


def test_two_masks_of_one_picture_are_refused(tmp_path):
    path = write_masks(tmp_path / "m", {name: np.zeros((4, 6), np.uint8) for name in ("1.bmp", "1.png")})
    with pytest.raises(MaskError, match=r"1\.bmp and 1\.png are masks of the same picture"):
        MaskTeacher(path)


@pytest.mark.parametrize("mask, words", [
    (np.zeros((6, 4), np.uint8), r"mask 1\.png is 4x6, its picture 6x4"),
    (np.eye(4, 6, dtype=np.uint8), r"mask 1\.png holds values up to 1 alone, and object is from 128 on"),
])
def test_unfit_mask_is_named(tmp_path, mask, words):
    with pytest.raises(MaskError, match=words):
        MaskTeacher(write_masks(tmp_path / "m", {"1.png": mask}))([gray()], ["1.png"])


def test_unreadable_masks_are_named(tmp_path):
    with pytest.raises(MaskError, match=r"none\.zip"):
        MaskTeacher(tmp_path / "none.zip")
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(MaskError, match=r"cannot read mask 1\.png"):
        MaskTeacher(tmp_path)([gray()], ["1.png"])
    with pytest.raises(MaskError, match=r"no mask for picture 2\.png"):
        MaskTeacher(tmp_path)([gray()], ["2.png"])


# The judge.

class Red(torch.nn.Module):
    """A judge that sees red as object."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones([]))
        self.sides = []

    def forward(self, img):
        self.sides.append(tuple(img.shape))
        return (img[:, :1] - img[:, 1:2]) * self.scale - 0.65


@pytest.fixture
def red(monkeypatch):
    judge = Red()
    monkeypatch.setattr(judges, "load_judge", lambda path, device: judges.SavedJudge(judge, 8))
    return judge


def test_judge_sees_squares_and_its_masks_get_the_pictures_size(red):
    small, large = gray(8, 8), gray(24, 40)
    small[2:5, 1:4, 0] = 255
    large[:, :20, 0] = 255
    masks = UNetTeacher("judge.pt")([small, large, gray()], ["a", "b", "c"])
    assert red.sides == [(3, 3, 8, 8)]
    assert np.array_equal(masks[0], small[:, :, 0] == 255)
    assert masks[1].shape == (24, 40) and masks[2] is None
    # The edge may move by half a pixel of the judge's grid.
    assert masks[1][:, :17].all() and not masks[1][:, 23:].any()


@pytest.mark.parametrize("size_px", [0, 30])
def test_judge_needs_a_multiple_of_four(red, size_px):
    with pytest.raises(ValueError, match="`size_px` to be a positive multiple of 4"):
        UNetTeacher("judge.pt", size_px)


def test_saved_judge_is_read_and_others_are_named(tmp_path):
    save_judge(UNet((4, 4, 4)), tmp_path / "judge.pt", 16)
    assert len(UNetTeacher(tmp_path / "judge.pt")([gray()], ["a"])) == 1
    assert [UNetTeacher(tmp_path / "judge.pt", size).size_px for size in (None, 8)] == [16, 8]
    whole = (tmp_path / "judge.pt").read_bytes()
    (tmp_path / "short.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("no judge")
    torch.save({"channels": [4, 4, 4], "weights": {}}, tmp_path / "empty.pt")
    torch.save([1], tmp_path / "list.pt")
    for name in ("short.pt", "text.pt", "empty.pt", "list.pt"):
        with pytest.raises(TeacherError, match=rf"{name}: no judge of eval\.py judge"):
            UNetTeacher(tmp_path / name, 8)
    with pytest.raises(TeacherError, match="none.pt: no such file$"):
        UNetTeacher(tmp_path / "none.pt", 8)


# Mask R-CNN.

CAR, DOG = 3, 18


class Detector(torch.nn.Module):
    """Finds what it is told to find; remembers what it was shown."""

    def __init__(self, found):
        super().__init__()
        self.found, self.shown = found, []

    def forward(self, images):
        (image,) = images
        self.shown.append(image)
        return [self.found.pop(0)]


def found(*objects, size=(4, 6)):
    """Output of the detector for one picture: triples of label, score and covered columns, each 0.5 or more."""
    masks = torch.full([len(objects), 1, *size], 0.49)
    for mask, (_label, _score, columns) in zip(masks, objects, strict=True):
        mask[:, :, columns] = 0.5
    return dict(labels=torch.tensor([one[0] for one in objects], dtype=torch.int64),
                scores=torch.tensor([one[1] for one in objects]), masks=masks)


@pytest.fixture
def detect(monkeypatch, tmp_path):
    """Teacher on a stand-in that finds the given things."""
    torch.save({}, tmp_path / "w.pth")

    def make(*outputs, class_name="car", **kwargs):
        detector = Detector(list(outputs))
        monkeypatch.setattr(teachers, "make_maskrcnn", lambda threshold: detector)
        return MaskRCNNTeacher(class_name, tmp_path / "w.pth", **kwargs), detector

    return make


def columns(mask):
    return np.flatnonzero(mask.all(axis=0)).tolist()


MIXED = ((CAR, 0.9, [0]), (DOG, 0.99, [1]), (CAR, 0.5, [3, 4]), (CAR, 0.4, [5]))


@pytest.mark.parametrize("kwargs, expected", [
    (dict(), [0, 3, 4]),
    (dict(objects="one"), [3, 4]),
    (dict(score_threshold=0.8), [0]),
    (dict(score_threshold=0.4), [0, 3, 4, 5]),
    (dict(class_name="dog"), [1]),
    (dict(class_name="dog", objects="one"), [1]),
])
def test_objects_are_chosen_by_class_score_and_size(detect, kwargs, expected):
    teacher, _ = detect(found(*MIXED), **kwargs)
    (mask,) = teacher([gray()], ["a"])
    assert mask.dtype == bool and mask.shape == (4, 6) and columns(mask) == expected
    assert mask.sum() == 4 * len(expected)


@pytest.mark.parametrize("objects", ["union", "one"])
def test_nothing_of_the_class_is_no_detection(detect, objects):
    teacher, _ = detect(found(), found((DOG, 0.9, [1])), found((CAR, 0.1, [1])), found((CAR, 0.9, [])), objects=objects)
    assert teacher([gray()] * 4, list("abcd")) == [None] * 4


def test_detector_gets_pictures_of_any_size_in_zero_to_one(detect):
    teacher, detector = detect(found(), found())
    white = np.full((2, 3, 3), 255, np.uint8)
    white[0, 1] = (255, 0, 51)
    white.flags.writeable = False  # As pictures come from files.
    teacher([white, gray(5, 7)], ["a", "b"])
    assert [tuple(img.shape) for img in detector.shown] == [(3, 2, 3), (3, 5, 7)]
    assert detector.shown[0][:, 0, 1].tolist() == pytest.approx([1.0, 0.0, 0.2])


@pytest.mark.parametrize("name, label", [("car", 3), ("bird", 16), ("dog", 18), ("horse", 19), ("chair", 62)])
def test_classes_of_the_paper_have_cocos_numbers(name, label):
    assert coco_label(name) == label


@pytest.mark.parametrize("name, words", [
    ("Cars", "did you mean car"),
    ("N/A", "knows no class 'N/A' among the 80 of COCO"),
    ("__background__", "they are person, bicycle, car"),
    ("qqq", "they are person, bicycle, car"),
])
def test_unknown_class_lists_what_there_is(name, words):
    with pytest.raises(TeacherError, match=words):
        coco_label(name)


def test_wrong_choice_of_objects_is_refused(detect):
    with pytest.raises(ValueError, match="`objects` to be one of union, one, but got 'two'"):
        detect(found(), objects="two")


def test_missing_weights_say_which_file_and_how_to_get_it(tmp_path):
    assert weights_name() == "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
    for path, said in ((None, "not given"), (tmp_path / "none.pth", r"none\.pth: no such file")):
        with pytest.raises(TeacherError, match=rf"{said}; .*{weights_name()} .*get_state_dict"):
            MaskRCNNTeacher("car", path)


def test_damaged_weights_are_named(tmp_path):
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("no weights")
    torch.save(Path("an object"), tmp_path / "code.pth")
    for name in ("short.pth", "text.pth", "code.pth"):
        with pytest.raises(TeacherError, match=rf"{name}: damaged, or no file of weights; the file wanted is"):
            MaskRCNNTeacher("car", tmp_path / name)


def test_torchvisions_network_is_built_without_a_network_and_reads_its_weights(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    network = teachers.make_maskrcnn(0.5)
    network.transform.min_size = (64,)  # Quick to run; torchvision enlarges to 800.
    monkeypatch.setattr(teachers, "make_maskrcnn", lambda threshold: network)
    state = network.state_dict()
    # Make it sure of a dog everywhere: class scores follow the bias, masks are all object.
    state["roi_heads.box_predictor.cls_score.bias"][DOG] = 100
    state["roi_heads.mask_predictor.mask_fcn_logits.bias"][:] = 100
    torch.save(state, tmp_path / "weights.pth")
    picture = gray(32, 48)
    teacher = MaskRCNNTeacher("dog", tmp_path / "weights.pth")
    (mask,) = teacher([picture], ["a"])
    assert mask.shape == (32, 48) and mask.mean() > 0.5
    teacher.label = CAR
    assert teacher([picture], ["a"]) == [None]
    # The same network refuses weights of another.
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    for name in ("other.pth", "list.pth"):
        with pytest.raises(TeacherError, match=rf"{name}: weights of another network than maskrcnn_resnet50_fpn"):
            MaskRCNNTeacher("dog", tmp_path / name)
