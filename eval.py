"""Score masks: those of generated scenes and those of real pictures.

Results go to standard output as JSON, of `report` the path of its file; everything else to standard error.
"""

from typing import Any

import click

from layered_plugin.command_line import DEVICES, SEED, SETTINGS, CheckedGroup, Number, Whole, user_errors
from layered_plugin.evaluation import commands
from layered_plugin.evaluation.options import TEACHERS, mask_values_option, read_shares, teacher_options
from layered_plugin.report.page import write_report


@click.group(cls=CheckedGroup, context_settings=SETTINGS)
def main() -> None:
    """Score masks against what stands for the truth; JSON on stdout, a table on stderr."""


@main.command(short_help="Masks of generated scenes, as Table 1 of the paper")
@click.option("--network", "networks", help="Trained generator; repeat for several seeds", metavar="RUN|PKL|URL|DIR",
              multiple=True, required=True)
@click.option("--snapshot", help="Which of a run's", default="best", metavar="best|latest|KIMG")
@click.option("--num", help="Scenes", type=Whole(min=1), default=10000)
@click.option("--seed", help="Random seed", type=SEED, default=0)
@click.option("--trunc", help="Truncation psi", type=Number(-10, 10), default=1.0)
@click.option("--teacher", "teacher_kind", help="What sees the object", type=click.Choice(TEACHERS), default="maskrcnn")
@teacher_options
@click.option("--detector-size", help="Of what the teacher sees  [default: 128; U-Net: its own]",
              type=Whole(8, 4096), metavar="PX")
@click.option("--fid", help="Real pictures for FID and KID", metavar="ZIP|DIR")
@click.option("--fid-weights", help="Inception weights for --fid", metavar="FILE")
@click.option("--real", help="Real pictures to compare outlines with", metavar="ZIP|DIR")
@click.option("--real-masks", help="Their true masks  [default: the teacher's]", metavar="ZIP|DIR")
@mask_values_option
@click.option("--real-model", help="Model for their masks, instead", metavar="RUN")
@click.option("--batch", help="Scenes at a time", type=Whole(1, 2**16), default=32)
@click.option("--device", "device_name", help="Where to compute", type=DEVICES, default="auto")
@user_errors()
def generated(**opts: Any) -> None:
    """Score the masks of generated scenes, as Table 1 of the paper does.

    Unshifted composites are shown to a teacher: Mask R-CNN trained on COCO, a U-Net that learnt from true masks, or an
    ONNX network for salient objects (IS-Net, U2-Net, BiRefNet; seconds a scene, each asked once).
    Where it sees the object, its mask is compared with the generator's, binarised at 0.5. `mean_iou` is the paper's
    mIoU, `num_detected` the paper's detected cars, `reference_iou` the score of the full-image mask. `all` scores
    every scene, with a zero mask where nothing is seen: there an empty mask has IoU 1, any other 0. Composites are
    resized to the teacher's size bilinearly, binary masks without smoothing. The record is added to
    metric-generated.jsonl of the run folder, or of a read-only one printed alone, with a warning; of several networks
    all records are printed, with `over_networks`, mean and deviation of each score. Labels of a conditional network are
    drawn from the data set of its training.

    The IoU does not see whether all scenes share one outline. --real does: `variety` has the outlines' `coverage` (mean
    best IoU of a real mask among generated ones), `precision` (the other way round), `variation` of a mask pixel and
    `area_deviation`, for generated and for real masks among themselves, and one as a share of the other; and the
    Frechet distance of whole pictures by features learnt on the spot from the real ones, with that of two halves of
    them. Real masks are the teacher's, or --real-masks, or a distilled model's.

    Examples:

    \b
    # The paper's protocol; without the file, the error says how to get it.
    python eval.py generated --network=runs/00000-car --class=car \\
        --weights=maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth

    \b
    # The judge of the built-in data (docs/data.md).
    python eval.py generated --network=runs/00000-shapes --teacher=unet --weights=data/judge-shapes.pt --num=2000

    \b
    # Photographs of a kind that COCO does not have.
    python eval.py generated --network=runs/00000-shirts --teacher=onnx --weights=isnet.onnx --num=200

    \b
    # Mean and deviation over three seeds.
    python eval.py generated --network=runs/00000-shapes --network=runs/00001-shapes --network=runs/00002-shapes \\
        --teacher=unet --weights=data/judge-shapes.pt --num=2000

    \b
    # Are the outlines as varied as those of the real objects?
    python eval.py generated --network=runs/00000-shapes --teacher=unet --weights=data/judge-shapes.pt \\
        --num=2000 --real=data/shapes.zip --real-masks=data/shapes-masks.zip

    \b
    # FID and KID as well: pip install 'layered-plugin[fid]'.
    python eval.py generated --network=runs/00000-shapes --teacher=unet --weights=data/judge-shapes.pt \\
        --fid=data/shapes.zip --fid-weights=weights-inception-2015-12-05-6726825d.pth
    """
    commands.run_generated(**opts)


@main.command(short_help="Masks of real pictures, as Table 2 of the paper")
@click.option("--model", "models", help="Trained model; repeat for several seeds", metavar="RUN|FILE", multiple=True,
              required=True)
@click.option("--data", help="Real pictures", metavar="ZIP|DIR", required=True)
@click.option("--masks", help="True masks, or the pictures' transparency", metavar="ZIP|DIR|alpha")
@mask_values_option
@click.option("--teacher", "teacher_kind", help="What sees the object, if not --masks", type=click.Choice(TEACHERS))
@teacher_options
@click.option("--detector-size", help="Of what a U-Net sees  [default: its own]", type=Whole(8, 4096), metavar="PX")
@click.option("--num", help="Only the first pictures  [default: all]", type=Whole(min=1))
@click.option("--eval-size", help="Score at the picture's or network's size", type=click.Choice(["gt", "net"]),
              default="gt")
@click.option("--polarity", help="May the truth swap object and ground?", type=click.Choice(["fixed", "oracle"]),
              default="fixed")
@click.option("--sharp", help="Correct masks by the pictures' colors", type=bool, default=True, metavar="BOOL")
@click.option("--margin", help="Border where objects are rare  [default: the model's]", type=Number(0, 0.5),
              metavar="FRAC")
@click.option("--flip", help="Average with the mirrored picture", type=bool, default=False, metavar="BOOL")
@click.option("--refine", help="Steps on each picture's codes (encoders)", type=Whole(min=0), default=0,
              metavar="STEPS")
@click.option("--posterior", help="Correct masks pixel by pixel (encoders)", type=bool, default=False, metavar="BOOL")
@click.option("--prior", help="Distilled model that --refine keeps to", metavar="RUN")
@click.option("--sizes", help="Object's shares that part pictures, or none", callback=read_shares,
              default="0.08,0.15,0.25", metavar="LIST")
@click.option("--baselines", help="none, all, installed, or names", default="installed", metavar="LIST")
@click.option("--seed", help="Seed of the bootstrap", type=SEED, default=0)
@click.option("--batch", help="Pictures at a time, at most", type=Whole(1, 2**16), default=100)
@click.option("--device", "device_name", help="Where to compute", type=DEVICES, default="auto")
@user_errors()
def real(**opts: Any) -> None:
    """Score the masks of real pictures, as Table 2 of the paper does, beside simple baselines.

    The truth is true masks (--masks, same names as the pictures but for the suffix) or a teacher's (--teacher).
    Object is what is opaque, a number above 0 of a coloured palette, or gray from half on; of other masks
    --mask-values=1,3-5 or 1- says what is. Pictures without a mask are left out, and --num counts the others; a line
    and `num_left_out` say how many. --masks=alpha takes the transparency of the pictures themselves. The truth of
    --teacher=onnx needs no GPU: any network from a picture to the mask of its salient object, IS-Net by default.
    `detected` scores the pictures with an object, `all` every picture, with a zero mask as the truth where there is
    none: there an empty prediction has IoU 1, any other 0. `full_mask_iou` is the score of the full-image mask.
    Soft predictions are brought to the picture's size as by `invert.py segment` and then binarised at 0.5; with
    --eval-size=net, picture and truth are squeezed to the network's square first. `boundary_f` scores the outline,
    right within 2 pixels. `by_size` has the IoU of the pictures whose true object covers less than 8 % of them, 8 to
    15 %, 15 to 25 %, and more; --sizes sets other bounds. --polarity=oracle uses the truth: such scores are no
    measure of an unsupervised method. The record is added to metric-real.jsonl of the model's folder, with
    real-best.png and real-worst.png beside it; of a read-only folder it is on standard output alone, with a warning.

    Examples:

    \b
    # True masks.
    python eval.py real --model=runs/00001-distill --data=data/shapes-test.zip --masks=data/shapes-test-masks.zip

    \b
    # The paper's protocol on its first 10,000 pictures.
    python eval.py real --model=runs/00001-chunks --data=cars.zip --num=10000 \\
        --teacher=maskrcnn --class=car --weights=maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth

    \b
    # Photographs without masks: IS-Net says where the object is. Then U2-Net, which sees other numbers.
    python eval.py real --model=runs/00001-distill --data=photos --teacher=onnx --weights=isnet.onnx
    python eval.py real --model=runs/00001-distill --data=photos --teacher=onnx --weights=u2net.onnx --onnx-size=320 \\
        --onnx-mean=123.7,116.3,103.5 --onnx-scale=58.4,57.1,57.4

    \b
    # Mean and deviation over three seeds, two baselines.
    python eval.py real --model=runs/00001-distill --model=runs/00002-distill --model=runs/00003-distill \\
        --data=data/shapes-test.zip --masks=data/shapes-test-masks.zip --baselines=full,otsu

    \b
    # How well are small objects found?
    python eval.py real --model=runs/00001-distill --data=data/shapes-test.zip --masks=data/shapes-test-masks.zip \\
        --sizes=0.05,0.1
    """
    commands.run_real(**opts)


@main.command(short_help="Train a judge: a U-Net that learns from true masks")
@click.option("--data", help="Pictures to train on", metavar="ZIP|DIR", required=True)
@click.option("--masks", help="True masks of --data", metavar="ZIP|DIR", required=True)
@click.option("--test-data", help="Pictures to score on", metavar="ZIP|DIR", required=True)
@click.option("--test-masks", help="True masks of --test-data", metavar="ZIP|DIR", required=True)
@mask_values_option
@click.option("--dest", help="File for the judge", metavar="PT", required=True)
@click.option("--steps", help="Optimizer steps", type=Whole(min=1), default=1200)
@click.option("--batch", help="Pictures a step", type=Whole(1, 2**16), default=32)
@click.option("--seed", help="Random seed", type=SEED, default=0)
@click.option("--device", "device_name", help="Where to compute", type=DEVICES, default="auto")
@user_errors()
def judge(**opts: Any) -> None:
    """Train a judge and score it: a U-Net that learns from true masks where the object is.

    It is the U-Net that --teacher=unet takes, and stands in for Mask R-CNN where that knows no such object. It is
    scored on the middle of pictures that it has not learnt from; its error bounds what it can tell.

    Example:

    \b
    python eval.py judge --data=data/shapes.zip --masks=data/shapes-masks.zip --test-data=data/shapes-test.zip \\
        --test-masks=data/shapes-test-masks.zip --dest=data/judge-shapes.pt
    """
    commands.run_judge(**opts)


@main.command(short_help="One HTML file about a run")
@click.argument("run", metavar="RUN")
@click.option("--dest", help="Report  [default: report.html in RUN]", metavar="HTML")
@click.option("--model", "models", help="Model trained elsewhere; repeat for more", metavar="RUN", multiple=True)
@click.option("--segmented", help="Results of invert.py segment", metavar="DIR")
@user_errors()
def report(run: str, dest: str | None, models: tuple[str, ...], segmented: str | None) -> None:
    """Write one HTML file about a run, readable without a network; print its path.

    RUN is a run folder of train_layered.py: then the models trained from it and lying beside it are in the report as
    well, and the tables hold the scores of runs beside it that differ in the seed alone, with mean and deviation. Or
    it is a model's, whose options name the network. Shown are the layers of generated scenes, the best and
    worst masks of real pictures, all scores of this script beside the baselines, curves, and the commands that made
    them. What is missing is named, with the command that would make it.

    Examples:

    \b
    python eval.py report runs/00000-shapes

    \b
    # With a model from another folder, and the pictures that invert.py segment saved.
    python eval.py report runs/00000-shapes --model=models/00001-distill --segmented=my-masks --dest=report.html
    """
    click.echo(write_report(run, dest, models, segmented))


if __name__ == "__main__":
    main()
