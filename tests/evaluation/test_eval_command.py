"""eval.py as a user types it: help, examples, records, and every wrong input named."""

import errno
import inspect
import json
import os
import re
import shlex
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import shell
import tiny_models
import torch
from shell import call
from tiny_models import make_gan_run, write_network

import eval as eval_script
from layered_plugin.errors import MissingLibraryError, TeacherError
from layered_plugin.evaluation import baselines, commands, output
from layered_plugin.evaluation.judge import save_judge
from layered_plugin.evaluation.options import make_teacher
from layered_plugin.model.generator import LayeredGenerator
from layered_plugin.model.snapshots import save_network_pkl
from layered_plugin.model.unet import UNet
from layered_plugin.segmentation.model_file import save_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of train_layered.py with an untrained generator."""
    folder = tmp_path_factory.mktemp("runs") / "00000-gan"
    folder.mkdir()
    torch.manual_seed(0)
    G = LayeredGenerator(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3,
                         mapping_kwargs=dict(num_layers=1), synthesis_kwargs=dict(channel_base=64, channel_max=4))
    G = G.eval().requires_grad_(False)
    data = dict(G=G, D=G, G_ema=G, training_set_kwargs=dict(size_px=18), augment_pipe=None)
    save_network_pkl(folder / "network-snapshot-000001.pkl", data)
    (folder / "training_options.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge") / "judge.pt"
    torch.manual_seed(0)
    save_judge(UNet((4, 4, 4)), path, 16)
    return path


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "00001-distill", seed=0)


def make_model(folder, seed, resolution=16):
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    save_model(folder, "distill", dict(unet=UNet((4, 4, 4))),
               dict(resolution=resolution, options=dict(seed=seed, network="runs/00000-gan"), command="x", date="y"))
    return folder


@pytest.fixture
def pairs(tmp_path):
    """Pictures of several sizes, their left half white, with true masks; picture 2 has no object."""
    data, masks = tmp_path / "pictures", tmp_path / "masks"
    data.mkdir()
    masks.mkdir()
    for idx, (height, width) in enumerate([(18, 18), (24, 12), (18, 18), (18, 18)]):
        values = np.zeros((height, width), np.uint8)
        values[:, : width // 2] = 255
        PIL.Image.fromarray(values).convert("RGB").save(data / f"{idx}.bmp")
        PIL.Image.fromarray(values if idx != 2 else values * 0).save(masks / f"{idx}.png")
    return [f"--data={data}", f"--masks={masks}"]


invoke = partial(shell.invoke, eval_script.main)


def scored(*args):
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize("name", ["generated", "real"])
def test_help_explains_every_option(name):
    result = invoke(name, "--help")
    assert result.exit_code == 0
    for param in eval_script.main.commands[name].params:
        assert param.opts[0] in result.output
        assert param.help and len(param.help.split("  [")[0]) <= 45 and not param.help.endswith("."), param.name


@pytest.mark.parametrize("source", ["help", "README.md", "docs/results.md", "docs/history.md", "docs/data.md"])
@pytest.mark.parametrize("name", ["generated", "real"])
def test_examples_are_accepted(name, source, monkeypatch):
    command, given = eval_script.main.commands[name], []
    monkeypatch.setattr(eval_script.commands, f"run_{name}", lambda **opts: given.append(opts))
    text = inspect.getdoc(command.callback) if source == "help" else (ROOT / source).read_text()
    examples = re.findall(rf"eval.py {name} (--[^#`\n]*)", text.replace("\\\n", " "))
    for example in examples:
        result = invoke(name, *shlex.split(example))
        assert result.exit_code == 0, (example, result.output)
    assert len(given) == len(examples) and (source != "help" or len(examples) >= 3)


@pytest.mark.parametrize("name", ["generated", "real", "judge"])
def test_options_are_exactly_what_the_work_takes(name):
    taken = set(inspect.signature(getattr(commands, f"run_{name}")).parameters)
    if "teacher_options" in taken:
        taken -= {"teacher_options"}
        taken |= set(inspect.signature(make_teacher).parameters) - {"kind", "size_px", "device"}
    assert {param.name for param in eval_script.main.commands[name].params} == taken


def test_generated_writes_its_record_to_stdout_and_the_run(run, judge):
    args = ["generated", f"--network={run}", "--teacher=unet", f"--weights={judge}", "--num=12", "--seed=3"]
    (run / "metric-generated.jsonl").unlink(missing_ok=True)
    record, stderr = scored(*args)
    again, _ = scored(*args, "--batch=5", "--trunc=0.5")
    assert lines(run / "metric-generated.jsonl") == [record, again]
    assert record["network"] == str(run / "network-snapshot-000001.pkl")
    assert (record["num"], record["seed"], record["resolution"], record["detector_size"]) == (12, 3, 16, 16)
    assert record["teacher"] == dict(kind="unet", weights=str(judge), size_px=16)
    assert {"command", "date", "base", "torch", "mean_iou", "reference_iou", "num_detected"} <= record.keys()
    assert record["command"].startswith("python eval.py") and record["base"] == "bundled"
    assert "full-image mask" in stderr and f"{record['num_detected']} of 12 scenes with an object" in stderr
    assert again["trunc"] == 0.5 and again["all"] != record["all"]


def test_generated_scenes_are_shown_to_an_onnx_network(run, tmp_path):
    network = write_network(tmp_path / "net.onnx", side=64)
    args = ["generated", f"--network={run}", "--teacher=onnx", f"--weights={network}", "--num=5", "--onnx-mean=90",
            f"--onnx-cache={tmp_path}/cache"]
    record, _ = scored(*args)
    assert record["teacher"] == dict(kind="onnx", weights=str(network), size_px=64, mean=[90], scale=[256])
    assert record["detector_size"] == 128 and 0 < record["teacher_coverage"] < 1
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*/*.png")}
    again, _ = scored(*args)
    assert len(kept) == 5 and all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert again["detected"] == record["detected"]


def test_generated_adds_fid_and_kid_on_the_pictures_of_training(run, judge, pairs, monkeypatch):
    class Stub:
        def __init__(self, weights, device):
            self.weights = weights

        def __call__(self, G_ema, real, num, seed, trunc, batch, labels):
            assert real[0][0].shape == (3, 16, 16) and G_ema.img_resolution == 16  # Cropped from 18x18.
            return dict(fid=1.5, kid=0.5, num_gen=num, num_real=len(real))

    monkeypatch.setattr(commands, "Fidelity", Stub)
    data = pairs[0].removeprefix("--data=")
    record, _ = scored("generated", f"--network={run}", "--teacher=unet", f"--weights={judge}", "--num=3",
                       f"--fid={data}", "--fid-weights=inception.pth")
    assert record["fidelity"] == dict(fid=1.5, kid=0.5, num_gen=3, num_real=4, data=data)


@pytest.mark.parametrize("source", ["masks", "teacher", "model"])
def test_generated_compares_outlines_with_real_ones(run, judge, pairs, model, source):
    data, masks = (pair.partition("=")[2] for pair in pairs)
    more = dict(masks=[f"--real-masks={masks}"], teacher=[], model=[f"--real-model={model}"])[source]
    record, stderr = scored("generated", f"--network={run}", "--teacher=unet", f"--weights={judge}", "--num=6",
                            f"--real={data}", *more)
    found = record["variety"]
    assert found["masks"] == dict(masks=masks, teacher="teacher", model=str(model))[source]
    assert (found["data"], found["num_real"]) == (data, 4)
    if source == "masks":  # Three left halves of four pictures, cropped at random from 18 to 16 pixels.
        assert 0.3 < found["shapes"]["real"]["area"] < 0.45
    assert found["frechet"] > 0 and found["frechet_floor"] >= 0
    assert "coverage" in stderr and "real from real" in stderr


def test_real_masks_that_cannot_serve_are_said_to_be_those(run, judge, pairs):
    data, masks = (pair.partition("=")[2] for pair in pairs)
    args = [f"--network={run}", "--teacher=unet", f"--weights={judge}", "--num=2", f"--real={data}",
            f"--real-masks={masks}"]
    PIL.Image.new("L", (18, 18), 7).save(Path(masks) / "0.png")
    for words in (f"Error: --real-masks: {masks}: mask 0.png holds values up to 7", f"Error: --real-masks: {masks}: no "
                  "mask for picture 0.bmp"):
        result = invoke("generated", *args)
        assert result.exit_code == 1 and words in result.stderr
        (Path(masks) / "0.png").unlink(missing_ok=True)


def test_real_pictures_are_compared_with_two_scenes_at_least_and_all_are_read(run, judge, pairs):
    data, masks = (pair.partition("=")[2] for pair in pairs)
    args = [f"--network={run}", "--teacher=unet", f"--weights={judge}", f"--real={data}", f"--real-masks={masks}"]
    result = invoke("generated", *args, "--num=1")
    assert result.exit_code == 2 and "--num must be at least 2 where scenes are compared with --real" in result.stderr
    assert scored("generated", *args, "--num=2")[0]["variety"]["num_real"] == 4
    picture = sorted(Path(data).iterdir())[1]
    picture.write_bytes(picture.read_bytes()[:60])
    result = invoke("generated", *args, "--num=2")
    assert result.exit_code == 1 and f"Error: --real: {data}: cannot read picture {picture.name}" in result.stderr


def test_chunks_are_no_source_of_real_masks(run, judge, pairs, tmp_path):
    path = tiny_models.make_model(tmp_path / "chunks", "chunks")
    result = invoke("generated", f"--network={run}", "--teacher=unet", f"--weights={judge}", "--num=2",
                    pairs[0].replace("--data", "--real"), f"--real-model={path}")
    assert result.exit_code == 1 and result.stdout == ""
    assert f"Error: --real-model: {path}: encoders of chunks know only their own pictures; give " in result.stderr


def test_several_networks_have_a_mean_and_a_deviation(run, judge, tmp_path):
    other = make_gan_run(tmp_path / "00001-gan", seed=1)
    (other / "training_options.json").write_text("{}")
    (run / "metric-generated.jsonl").unlink(missing_ok=True)
    args = ["--teacher=unet", f"--weights={judge}", "--num=20"]
    found, stderr = scored("generated", f"--network={run}", f"--network={other}", *args)
    single, _ = scored("generated", f"--network={other}", *args)
    first, second = found["networks"]
    assert {**second, "command": 0} == {**single, "command": 0} and first["network"] != second["network"]
    for name in ("coverage", "mean_iou", "num_detected"):
        values = [first[name], second[name]]
        assert found["over_networks"][name]["mean"] == pytest.approx(np.mean(values))
        assert found["over_networks"][name]["deviation"] == pytest.approx(np.std(values))
    assert found["over_networks"]["all"]["iou"]["mean"] == pytest.approx(
        (first["all"]["iou"] + second["all"]["iou"]) / 2)
    assert "over 2 networks: IoU" in stderr and stderr.count("scenes with an object") == 2
    assert lines(run / "metric-generated.jsonl") == [first]
    assert lines(other / "metric-generated.jsonl") == [second, single]


def test_scores_of_a_network_are_kept_if_the_next_one_fails(run, judge, tmp_path, monkeypatch):
    other = make_gan_run(tmp_path / "00001-gan", seed=1)
    (run / "metric-generated.jsonl").unlink(missing_ok=True)
    calls, score = [], commands.scoring.score_generated

    def second_fails(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise TeacherError("no memory left")
        return score(*args, **kwargs)

    monkeypatch.setattr(commands.scoring, "score_generated", second_fails)
    result = invoke("generated", f"--network={run}", f"--network={other}", "--teacher=unet", f"--weights={judge}",
                    "--num=4")
    assert result.exit_code == 1 and "no memory left" in result.stderr
    assert [line["num"] for line in lines(run / "metric-generated.jsonl")] == [4]


def test_a_judge_sees_scenes_of_any_resolution_at_its_own(run, judge, tmp_path):
    torch.manual_seed(0)
    G = LayeredGenerator(z_dim=8, c_dim=0, w_dim=8, img_resolution=8, img_channels=3,
                         mapping_kwargs=dict(num_layers=1), synthesis_kwargs=dict(channel_base=64, channel_max=4))
    data = dict(G=G, D=G, G_ema=G, training_set_kwargs=None, augment_pipe=None)
    save_network_pkl(tmp_path / "small.pkl", data)
    args = ["generated", f"--network={run}", f"--network={tmp_path / 'small.pkl'}", "--teacher=unet",
            f"--weights={judge}", "--num=4"]
    for size_px, more in ((16, ()), (8, ("--detector-size=8",))):
        networks = scored(*args, *more)[0]["networks"]
        assert [(one["resolution"], one["detector_size"]) for one in networks] == [(16, size_px), (8, size_px)]


def test_a_judge_that_does_not_know_its_size_is_asked_for_it(run, judge, tmp_path):
    saved = torch.load(judge)
    del saved["size_px"]
    torch.save(saved, tmp_path / "old.pt")
    args = ["generated", f"--network={run}", "--teacher=unet", f"--weights={tmp_path / 'old.pt'}", "--num=4"]
    result = invoke(*args)
    assert result.exit_code == 1 and "old.pt: does not say how large the pictures were" in result.stderr
    assert "make it anew with eval.py judge, or give --detector-size" in result.stderr
    assert scored(*args, "--detector-size=16")[0]["teacher"]["size_px"] == 16


def test_real_scores_models_and_baselines_alike(model, pairs):
    record, stderr = scored("real", f"--model={model}", *pairs, "--baselines=full,otsu")
    assert (record["num_data"], record["num"], record["num_detected"]) == (4, 4, 3)
    (own,) = record["models"]
    assert (own["model"], own["kind"], own["train_seed"], own["resolution"]) == (str(model), "distill", 0, 16)
    assert own["network"] == "runs/00000-gan"
    assert record["baselines"].keys() == {"full", "otsu"}
    full = record["baselines"]["full"]
    assert full["detected"]["iou"] == pytest.approx(0.5) == own["detected"]["full_mask_iou"]
    assert full["all"]["iou"] == pytest.approx(0.5 * 3 / 4)
    assert record["baselines"]["otsu"]["detected"]["iou"] == pytest.approx(1.0)
    assert lines(model / "metric-real.jsonl") == [record]
    for name in ("real-best.png", "real-worst.png"):
        with PIL.Image.open(model / name) as sheet:
            assert sheet.width == output.NAMES_PX + 3 * (108 + output.GAP_PX)
    for text in ("00001-distill", "otsu", "full-image mask", "3 of 4 pictures with an object"):
        assert text in stderr
    assert record["polarity"] == "fixed" and record["teacher"]["kind"] == "masks"
    assert record["sizes"] == [0.08, 0.15, 0.25]
    assert [one["num"] for one in own["detected"]["by_size"]] == [0, 0, 0, 3]
    assert full["detected"]["by_size"][3]["iou"] == pytest.approx(0.5) and "25 % and more (3)" in stderr


def test_real_scores_by_the_sizes_that_are_asked_for(model, pairs):
    record, stderr = scored("real", f"--model={model}", *pairs, "--baselines=full", "--sizes=0.1,0.6")
    bins = record["baselines"]["full"]["detected"]["by_size"]
    assert [(one["high"], one["num"], one["iou"]) for one in bins] == [
        (0.1, 0, None), (0.6, 3, pytest.approx(0.5)), (1.0, 0, None)]
    assert "10 to 60 % (3)" in stderr and "NaN" not in json.dumps(record)
    record, stderr = scored("real", f"--model={model}", *pairs, "--baselines=full", "--sizes=none")
    assert record["sizes"] == [] and "by_size" not in record["models"][0]["detected"] and "share" not in stderr
    for wrong in ("0.2,0.1", "0", "1", "0.1,x", "0.1,0.1", "nan"):
        result = invoke("real", f"--model={model}", *pairs, f"--sizes={wrong}")
        assert result.exit_code == 2 and "--sizes" in result.stderr


def test_real_scores_against_transparency_and_values(model, pairs, tmp_path):
    cut_outs, labels = tmp_path / "cut-outs", tmp_path / "labels"
    for folder in (cut_outs, labels):
        folder.mkdir()
    for file in sorted((tmp_path / "masks").iterdir()):
        mask = PIL.Image.open(file)
        picture = PIL.Image.merge("RGB", [mask] * 3)
        picture.putalpha(mask)
        picture.save(cut_outs / file.name)
        mask.point(lambda level: level and 2).save(labels / file.name)
    args = ["real", f"--model={model}", f"--data={cut_outs}", "--baselines=full"]
    expected, _ = scored(*args, f"--masks={tmp_path / 'masks'}")
    for more in (["--masks=alpha"], [f"--masks={labels}", "--mask-values=1-2"]):
        found, _ = scored(*args, *more)
        assert found["models"][0]["all"] == expected["models"][0]["all"] and found["num_detected"] == 3
    refused = invoke(*args, f"--masks={labels}")
    assert refused.exit_code == 1 and "--masks: " in refused.stderr
    assert "mask 0.png holds values up to 2 alone" in refused.stderr and "such as --mask-values=1-" in refused.stderr
    for wrong, words in ((["--masks=alpha", "--mask-values=1"], "which are missing"),
                         ([f"--masks={labels}", "--mask-values=x"], "--mask-values must be numbers and ranges")):
        assert words in invoke(*args, *wrong).stderr


def test_pictures_without_a_mask_are_left_out_with_a_line_that_says_how_many(model, pairs, tmp_path):
    everything, stderr = scored("real", f"--model={model}", *pairs)
    assert everything["num_left_out"] == 0 and "WARNING" not in stderr
    for name in ("0", "2"):
        (tmp_path / f"masks/{name}.png").unlink()
    data, masks = tmp_path / "pictures", tmp_path / "masks"
    args = ["real", f"--model={model}", f"--masks={masks}", "--baselines=full,otsu"]
    record, stderr = scored(*args, f"--data={data}")
    assert [line for line in stderr.splitlines() if "WARNING" in line] == [
        f"WARNING: 2 of 4 pictures of {data} have no mask in {masks} and are left out, such as 0.bmp"]
    assert [record[name] for name in ("num_data", "num_left_out", "num", "num_detected")] == [4, 2, 2, 2]
    assert lines(model / "metric-real.jsonl") == [everything, record]
    with PIL.Image.open(model / "real-worst.png") as sheet:
        assert sheet.width == output.NAMES_PX + 2 * (108 + output.GAP_PX)
    first, _ = scored(*args, f"--data={data}", "--num=1")  # The first that has a mask.
    assert [first[name] for name in ("num_data", "num_left_out", "num")] == [4, 2, 1]
    for name in ("0", "2"):
        (data / f"{name}.bmp").unlink()
    alone, _ = scored(*args, f"--data={data}")
    assert [alone[name] for name in ("models", "baselines")] == [record[name] for name in ("models", "baselines")]


def test_chunks_need_not_know_pictures_that_have_no_mask(pairs, tmp_path):
    path = tiny_models.make_model(tmp_path / "chunks", "chunks", chunks=[("0.bmp", "1.bmp")])
    args = ["real", f"--model={path}", *pairs]
    assert "no chunk was trained on a picture named 2.bmp" in invoke(*args).stderr
    for name in ("2", "3"):
        (tmp_path / f"masks/{name}.png").unlink()
    assert scored(*args)[0]["num"] == 2


def test_real_takes_options_on(model, pairs):
    file = model / "model.safetensors"
    record, stderr = scored("real", f"--model={file}", *pairs, "--num=2", "--eval-size=net", "--polarity=oracle",
                            "--flip=1", "--baselines=none", "--batch=1")
    assert (record["num_data"], record["num"], record["eval_size"], record["flip"]) == (4, 2, "net", True)
    assert record["baselines"] == {} and record["polarity"] == "oracle"
    assert "no measure of an unsupervised method" in stderr
    assert lines(model / "metric-real.jsonl") == [record]


def test_several_models_have_a_mean_and_a_deviation(model, pairs, tmp_path):
    other = make_model(tmp_path / "00002-distill", seed=1)
    record, stderr = scored("real", f"--model={model}", f"--model={other}", *pairs, "--baselines=none")
    ious = [one["detected"]["iou"] for one in record["models"]]
    spread = record["over_models"]["detected"]["iou"]
    assert [one["train_seed"] for one in record["models"]] == [0, 1]
    assert spread["mean"] == pytest.approx(np.mean(ious))
    assert "over 2 models: IoU" in stderr
    large = [one["detected"]["by_size"][3]["iou"] for one in record["models"]]
    assert record["over_models"]["by_size"][3]["iou"]["mean"] == pytest.approx(np.mean(large))
    for folder, own in ((model, record["models"][0]), (other, record["models"][1])):
        (line,) = lines(folder / "metric-real.jsonl")
        assert line["models"] == [own] and "over_models" not in line


def test_real_with_a_judge_for_the_truth(model, pairs, judge):
    args = ["real", f"--model={model}", pairs[0], "--teacher=unet", f"--weights={judge}", "--baselines=none"]
    for size_px, more in ((16, ()), (20, ("--detector-size=20",))):
        record, _ = scored(*args, *more)
        assert record["teacher"] == dict(kind="unet", weights=str(judge), size_px=size_px)


def test_missing_library_skips_a_baseline_or_is_named(model, pairs, monkeypatch):
    def absent(image):
        raise MissingLibraryError("needs the extra baselines")

    monkeypatch.setitem(baselines.BASELINES, "otsu", absent)
    record, stderr = scored("real", f"--model={model}", *pairs)
    assert "otsu" not in record["baselines"] and "full" in record["baselines"]
    assert "Without the baseline otsu: needs the extra" in stderr
    result = invoke("real", f"--model={model}", *pairs, "--baselines=otsu")
    assert result.exit_code == 1 and "--baselines: needs the extra" in result.stderr


@pytest.mark.parametrize("args, code, words", [
    (["--teacher=unet"], 2, "--teacher=unet needs --weights"),
    (["--teacher=unet", "--weights=none.pt"], 1, "--weights: none.pt"),
    (["--teacher=unet", "--weights=JUDGE", "--detector-size=18"], 2, "--detector-size must be a multiple of 4"),
    ([], 2, "--teacher=maskrcnn needs --class"),
    (["--class=carr"], 2, "did you mean car"),
    (["--class=car"], 1, "--weights: not given; Mask R-CNN needs its COCO weights, the file maskrcnn_resnet50"),
    (["--class=car", "--weights=JUDGE"], 1, "weights of another network"),
    (["--teacher=unet", "--weights=JUDGE", "--fid=data.zip"], 1, "--fid: no --fid-weights given"),
    (["--teacher=unet", "--weights=JUDGE", "--fid-weights=w"], 2, "--fid-weights can only be given with --fid"),
    (["--teacher=unet", "--weights=JUDGE", "--real-masks=m"], 2, "--real-masks and --real-model describe"),
    (["--teacher=unet", "--weights=JUDGE", "--real=d", "--real-masks=m", "--real-model=r"], 2, "give one"),
    (["--teacher=unet", "--weights=JUDGE", "--real=none.zip"], 1, "--real: none.zip"),
    (["--network=none.pkl"], 1, "--network: none.pkl"),
    (["--network=EMPTY"], 1, "holds no network-snapshot"),
    (["--network=TRUNCATED"], 1, "not a readable network snapshot"),
    (["--network=PLAIN"], 1, "draws no layers"),
    (["--num=0"], 2, "--num"),
    (["--teacher=unet", "--weights=JUDGE", "--class=car"], 2, "--class is for --teacher=maskrcnn"),
    (["--teacher=onnx", "--weights=net.onnx", "--class=car"], 2, "--class is for --teacher=maskrcnn"),
    (["--teacher=onnx", "--weights=net.onnx", "--objects=union"], 2, "--objects is for --teacher=maskrcnn"),
    (["--teacher=unet", "--weights=JUDGE", "--score-thresh=0.5"], 2, "--score-thresh is for --teacher=maskrcnn"),
    (["--teacher=unet", "--weights=JUDGE", "--onnx-size=320"], 2, "--onnx-size is for --teacher=onnx; leave it out"),
    (["--class=car", "--onnx-mean=0"], 2, "--onnx-mean is for --teacher=onnx"),
    (["--class=car", "--onnx-scale=255"], 2, "--onnx-scale is for --teacher=onnx"),
    (["--class=car", "--onnx-cache=cache"], 2, "--onnx-cache is for --teacher=onnx"),
])
def test_wrong_input_of_generated_is_named(run, judge, tmp_path, args, code, words):
    if any(arg.startswith("--fid=") for arg in args):
        pytest.importorskip("torch_fidelity", reason="optional extra `fid`")
    whole = (run / "network-snapshot-000001.pkl").read_bytes()
    (tmp_path / "short.pkl").write_bytes(whole[: len(whole) // 2])
    net = torch.nn.Linear(1, 1)
    save_network_pkl(tmp_path / "plain.pkl", dict(G=net, D=net, G_ema=net, training_set_kwargs=None, augment_pipe=None))
    (tmp_path / "empty").mkdir()
    names = dict(JUDGE=judge, EMPTY=tmp_path / "empty", TRUNCATED=tmp_path / "short.pkl", PLAIN=tmp_path / "plain.pkl")
    for name, path in names.items():
        args = [arg.replace(name, str(path)) for arg in args]
    result = invoke("generated", f"--network={run}", "--num=2", *args)
    assert result.exit_code == code, result.output
    assert words in result.stderr and result.stdout == ""


@pytest.mark.parametrize("args, code, words", [
    ([], 2, "either --masks or --teacher must be given"),
    (["--masks=MASKS", "--teacher=unet"], 2, "either --masks or --teacher"),
    (["--masks=MASKS", "--detector-size=16"], 2, "--detector-size is for --teacher=unet"),
    (["--masks=MASKS", "--class=car"], 2, "--weights and --class describe a --teacher"),
    (["--masks=MASKS", "--onnx-size=320"], 2, "--onnx-size is for --teacher=onnx; leave it out"),
    (["--teacher=unet", "--weights=judge.pt", "--onnx-size=320"], 2, "--onnx-size is for --teacher=onnx"),
    (["--masks=EMPTY"], 1, "--masks: "),
    (["--data=EMPTY", "--masks=MASKS"], 1, "holds no pictures"),
    (["--data=none.zip", "--masks=MASKS"], 1, "--data: none.zip"),
    (["--masks=MASKS", "--baselines=otto"], 2, "got 'otto'"),
    (["--masks=MASKS", "--refine=2"], 2, "is distilled and has no codes"),
    (["--masks=MASKS", "--posterior=1"], 2, "is distilled and draws no layers"),
    (["--masks=MASKS", "--prior=OTHER"], 2, "--prior is for an encoder's refinement"),
    (["--masks=MASKS", "--model=none"], 1, "--model: none"),
    (["--masks=MASKS", "--model=TRUNCATED"], 1, "not a readable model file"),
    (["--masks=MASKS", "--model=OTHER", "--eval-size=net"], 2, "--eval-size=net needs models of one resolution"),
    (["--masks=STRANGE"], 1, "none of the 4 pictures of TMP/pictures has a mask, such as 0.bmp; a mask needs"),
    (["--masks=MORE"], 1, "mask 9.png belongs to no picture of TMP/pictures (masks: 5, pictures: 4)"),
    (["--masks=TURNED"], 1, "mask 1.png is 24x12, its picture 12x24"),
    (["--teacher=maskrcnn", "--class=sofa"], 2, "knows no class 'sofa'"),
])
def test_wrong_input_of_real_is_named(model, pairs, tmp_path, args, code, words):
    masks = Path(pairs[1].removeprefix("--masks="))
    for name in ("empty", "strange", "more", "turned"):
        (tmp_path / name).mkdir()
    for path in sorted(masks.iterdir()):
        for name in ("more/9.png", f"more/{path.name}", f"strange/of-{path.name}"):
            (tmp_path / name).write_bytes(path.read_bytes())
        picture = PIL.Image.open(path)
        (picture.rotate(90, expand=True) if path.stem == "1" else picture).save(tmp_path / "turned" / path.name)
    broken = make_model(tmp_path / "broken", seed=0)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    names = dict(MASKS=masks, EMPTY=tmp_path / "empty", STRANGE=tmp_path / "strange", MORE=tmp_path / "more",
                 TURNED=tmp_path / "turned", TRUNCATED=broken,
                 OTHER=make_model(tmp_path / "other", seed=0, resolution=32))
    for name, path in names.items():
        args = [arg.replace(name, str(path)) for arg in args]
    result = invoke("real", f"--model={model}", pairs[0], *args)
    assert result.exit_code == code, result.output
    assert words.replace("TMP", str(tmp_path)) in result.stderr and result.stdout == ""


@pytest.mark.parametrize("change, words", [
    (lambda data: PIL.Image.new("RGB", (9, 9)).save(data / "1.bmp"),
     "1.bmp is not the picture that its chunk was trained on, which had 918 bytes, not 306; put it back"),
    (lambda data: [path.rename(path.with_stem("4")) for path in (data / "3.bmp", data.parent / "masks/3.png")],
     "no chunk was trained on a picture named 4.bmp"),
])
def test_pictures_that_chunks_were_not_trained_on_are_named_before_the_work(pairs, tmp_path, change, words):
    data = Path(pairs[0].removeprefix("--data="))
    path = tiny_models.make_model(tmp_path / "chunks", "chunks", chunks=[("0.bmp", "1.bmp"), ("2.bmp", "3.bmp")])
    meta = json.loads((path / "model.json").read_text())
    for chunk in meta["chunks"]:
        chunk["bytes"] = [(data / name).stat().st_size for name in chunk["names"]]
    (path / "model.json").write_text(json.dumps(meta))
    assert scored("real", f"--model={path}", *pairs)[0]["models"][0]["kind"] == "chunks"
    change(data)
    result = invoke("real", f"--model={path}", *pairs)
    assert result.exit_code == 1 and result.stdout == ""
    assert f"Error: --model: {path}: {words}" in result.stderr and len(lines(path / "metric-real.jsonl")) == 1


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("place, name", [(output.tempfile, "TemporaryFile"), (output, "append_line")])
def test_scores_of_a_run_in_a_read_only_folder_get_out(model, pairs, run, judge, monkeypatch, place, name, number):
    (run / "metric-generated.jsonl").unlink(missing_ok=True)
    monkeypatch.setattr(place, name, refusal(number))
    record, stderr = scored("real", f"--model={model}", *pairs, "--baselines=none")
    warning = f"can't write to {{}}: {os.strerror(number)}; the record is kept on standard output alone"
    assert record["num"] == 4 and f"WARNING: --model: {warning.format(model)}" in stderr.splitlines()
    record, stderr = scored("generated", f"--network={run}", "--teacher=unet", f"--weights={judge}", "--num=2")
    assert record["num"] == 2 and f"WARNING: --network: {warning.format(run)}" in stderr.splitlines()
    assert stderr.count("WARNING") == 1
    assert sorted(path.name for path in model.iterdir()) == ["model.json", "model.safetensors"]
    assert not (run / "metric-generated.jsonl").exists()


def refusal(number):
    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))
    return refuse


def test_read_only_folder_of_one_model_keeps_no_other_from_its_record(model, pairs, tmp_path, monkeypatch):
    other, append = make_model(tmp_path / "00002-distill", seed=1), output.append_line
    monkeypatch.setattr(output, "append_line", lambda path, line: (refusal(errno.EROFS) if path.parent == model
                                                                   else append)(path, line))
    record, stderr = scored("real", f"--model={model}", f"--model={other}", *pairs, "--baselines=none")
    assert stderr.count("WARNING") == 1 and not (model / "metric-real.jsonl").exists()
    assert [line["models"] for line in lines(other / "metric-real.jsonl")] == [record["models"][1:]]


def test_full_disk_is_named_before_the_work(model, pairs, run, judge, monkeypatch):
    monkeypatch.setattr(output.tempfile, "TemporaryFile", refusal(errno.ENOSPC))
    words = "No space left on device; make room, and give the same command again"
    for option, path, args in (("--model", model, ["real", *pairs]),
                               ("--network", run, ["generated", "--teacher=unet", f"--weights={judge}"])):
        result = invoke(*args, f"{option}={path}")
        assert result.exit_code == 1 and result.stdout == ""
        assert f"Error: {option}: can't write to {path}: {words}" in result.stderr


def test_record_that_can_not_be_written_is_not_lost(model, pairs):
    (model / "metric-real.jsonl").mkdir()
    result = invoke("real", f"--model={model}", *pairs, "--baselines=none")
    assert result.exit_code == 1 and f"--model: can't write to {model}: Is a directory" in result.stderr
    assert json.loads(result.stdout)["num"] == 4


def test_command_line_prints_json_alone(run, judge):
    args = [f"--network={run}", "--teacher=unet", f"--weights={judge}", "--num=4"]
    done = call("eval.py", "generated", *args)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["command"].startswith("python eval.py generated --network=")
    assert "Batches" in done.stderr
