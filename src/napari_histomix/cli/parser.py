"""The words of the command line: commands, options, defaults, help."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from napari_histomix import __version__
from napari_histomix.cli.exporting import WRITABLE
from napari_histomix.cli.exporting import add_commands as add_exporting
from napari_histomix.cli.networks import run_blend_test, run_train
from napari_histomix.cli.nuclei import run_candidates, run_demo, run_inspect, run_synthesize
from napari_histomix.cli.provenance import add_commands as add_provenance
from napari_histomix.cli.reader_test import add_commands as add_reader_test
from napari_histomix.cli.segments import run_pool_build, run_pool_stats, run_segment
from napari_histomix.cli.splitting import add_commands as add_splitting


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults shown where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        quiet = action.default in (None, False, []) or action.default is argparse.SUPPRESS
        return action.help if quiet else super()._get_help_string(action)


ENCODERS = "how tissue is compared: texture, timm:NAME, timm:NAME@FILE or ctranspath:FILE (texture)"
TRAINED = {
    "inpainter": "Train the network that fills holes, on pixels.",
    "autoencoder": "Train an autoencoder, which a latent network works on.",
    "latent": "Train the network that fills holes, on an autoencoder's latents.",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``histomix``; each command leaves the function that runs it in ``run``."""
    from napari_histomix.evaluation.blending import BlendSettings
    from napari_histomix.methods.nucleimix import CandidateSettings, SynthesisSettings
    from napari_histomix.methods.usegmix import MixSettings
    from napari_histomix.segmentation import AnchorSettings

    found = {field.name: field.default for field in fields(CandidateSettings)}
    made = {field.name: field.default for field in fields(SynthesisSettings)}
    tested, mixed, anchors = BlendSettings(), MixSettings(), AnchorSettings()
    parser = argparse.ArgumentParser(
        prog="histomix",
        description="Grow the rare nuclei that a labeled H&E dataset lacks. Not for diagnosis.",
        epilog="Exit codes: 0 done, 1 something to mend (one line says what), 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"napari-histomix {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str, parent: Any = commands) -> argparse.ArgumentParser:
        one = parent.add_parser(name, help=summary, description=summary, formatter_class=_Formatter)
        one.add_argument("--json", action="store_true", help="print one last line of JSON for programs")
        one.set_defaults(run=run)
        return one

    def dataset(one: argparse.ArgumentParser) -> None:
        one.add_argument(
            "dataset",
            type=Path,
            help="folder of labeled images in any format that 'convert' writes, HoVer-Net's among them; for tissue a "
            "folder for each class, or a CSV of images and classes",
        )
        one.add_argument("--mpp", type=_positive, help="µm per pixel, where the data does not say it")
        splits(one)

    def splits(one: argparse.ArgumentParser) -> None:
        one.add_argument(
            "--splits",
            type=Path,
            metavar="FILE",
            help="CSV with the columns image and split, as 'histomix split' writes",
        )

    def segmenting(one: Any) -> None:
        one.add_argument("--prompter", choices=["region-tree", "sam"], help="what divides images (region-tree)")
        one.add_argument("--weights", metavar="FILE", help="SAM's checkpoint: a file, or a name such as vit_b")
        one.add_argument("--superpixels", type=_whole, default=anchors.superpixels, help="SLIC superpixels an image")
        one.add_argument("--points", type=_whole, default=anchors.points, help="random prompts in each superpixel")

    def search(one: Any, required: bool = True) -> None:
        one.add_argument(
            "--rare", nargs="+", required=required, metavar="NAME", help="class to grow, by name or number"
        )
        one.add_argument("--major", nargs="+", metavar="NAME", help="classes that may be replaced (all others)")
        encoding(one)

    def encoding(one: Any) -> None:
        one.add_argument("--encoder", help=ENCODERS)
        one.add_argument("--temperature", type=_positive, help="flattens the draw of locations (chosen from the data)")

    def synthesis(one: argparse.ArgumentParser, count: Any) -> None:
        one.add_argument("-k", "--count", type=_whole, default=count, help="synthetic nuclei to make")
        one.add_argument(
            "--sampler",
            choices=["fast", "quality", "paper"],
            default=made["sampler"],
            help="few steps, three times as many, or the papers' 250",
        )
        device(one)
        one.add_argument("--batch", type=_whole, default=made["batch"], help="windows denoised together")
        model(one)

    def model(one: argparse.ArgumentParser) -> None:
        one.add_argument("--model", metavar="PATH", help="inpainting model: a folder or a checkpoint (the bundled one)")
        one.add_argument(
            "--model-mpp", nargs="+", type=_positive, metavar="UM", help="µm per pixel of a model that does not say it"
        )
        one.add_argument("--prompt", default="", help="what holes are to hold, for a model that follows a prompt")

    def device(one: argparse.ArgumentParser) -> None:
        one.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="where to compute")

    def seed(one: argparse.ArgumentParser) -> None:
        one.add_argument("--seed", type=_seed, default=found["seed"], help="the same seed gives the same result")

    demo = command(
        "demo", run_demo, "Run the whole job on the bundled sample: candidates, synthesis, export, report.png."
    )
    demo.add_argument("--out", type=Path, required=True, help="new folder for the result")
    encoding(demo)
    synthesis(demo, 12)
    seed(demo)
    demo.set_defaults(mpp=None)

    inspect = command("inspect", run_inspect, "Show classes, counts, µm/px, splits and problems of a dataset.")
    dataset(inspect)

    add_splitting(command)

    candidates = command("candidates", run_candidates, "Find where a rare nucleus would fit, and write it as CSV.")
    dataset(candidates)
    search(candidates)
    seed(candidates)
    candidates.add_argument("--out", type=Path, required=True, metavar="FILE", help="new CSV file")

    synthesize = command(
        "synthesize",
        run_synthesize,
        "Make synthetic rare nuclei (nucleimix) or tissue images (usegmix), and write the augmented dataset.",
    )
    dataset(synthesize)
    synthesize.add_argument("--method", choices=["nucleimix", "usegmix"], default="nucleimix", help="what to make")
    synthesis(synthesize, made["count"])
    seed(synthesize)
    synthesize.add_argument("--study", type=Path, metavar="FOLDER", help="also write a study, to review in napari")
    synthesize.add_argument("--out", type=Path, required=True, help="new folder for the result")
    synthesize.add_argument("--format", choices=WRITABLE, help="layout of a dataset of nuclei (hovernet)")
    nuclei = synthesize.add_argument_group("nucleimix")
    search(nuclei, required=False)
    nuclei.add_argument("--candidates", type=Path, metavar="FILE", help="use this CSV, without its rows to drop")
    tissue = synthesize.add_argument_group("usegmix")
    tissue.add_argument("--per-class", type=_whole, default=mixed.per_class, metavar="N", help="images of each class")
    tissue.add_argument(
        "--new-area",
        nargs=2,
        type=_share,
        default=list(mixed.new_area),
        metavar=("LOW", "HIGH"),
        help="share of an image that is replaced or painted",
    )
    segmenting(tissue)

    add_exporting(command)
    add_provenance(command)

    segment = command("segment", run_segment, "Divide an image, or a folder of images, into tissue segments.")
    segment.add_argument("image", type=Path, help="an image, or a folder of images")
    segmenting(segment)
    device(segment)
    seed(segment)
    segment.add_argument("--out", type=Path, required=True, help="new folder for label maps, outlines and segments.csv")

    pools = commands.add_parser("pool", help="Make a pool of tissue segments, or show what one holds.")
    acts = pools.add_subparsers(title="acts", required=True, metavar="ACT")
    build = command("build", run_pool_build, "Divide a dataset's training images and keep the segments.", acts)
    dataset(build)
    build.add_argument("--study", type=Path, required=True, metavar="FOLDER", help="new study that gets the pool")
    build.add_argument("--encoder", help=ENCODERS)
    segmenting(build)
    device(build)
    seed(build)
    stats = command("stats", run_pool_stats, "Show how many segments of which class a pool holds.", acts)
    stats.add_argument("study", type=Path, help="study folder")

    train = commands.add_parser("train", help="Train a network on your own images; no labels are needed.")
    kinds = train.add_subparsers(title="networks", required=True, metavar="NETWORK")
    for kind, summary in TRAINED.items():
        one = command(kind, run_train, summary, kinds)
        one.set_defaults(kind=kind)
        one.add_argument("--images", nargs="+", type=Path, required=True, metavar="FOLDER", help="folders of images")
        splits(one)
        one.add_argument("--out", type=Path, required=True, help="new model folder")
        one.add_argument("--from", dest="start", type=Path, metavar="WEIGHTS", help="model folder to fine-tune")
        if kind == "latent":
            one.add_argument("--autoencoder", type=Path, required=True, metavar="FOLDER", help="a trained autoencoder")
        length = one.add_mutually_exclusive_group()
        length.add_argument("--minutes", type=_positive, help="how long to train (60)")
        length.add_argument("--steps", type=_whole, help="how many steps to train; such a run repeats exactly")
        one.add_argument(
            "--mpp", nargs="+", type=_positive, metavar="UM", help="µm per pixel of the images: one value, or the range"
        )
        one.add_argument("--batch", type=_whole, help="windows a step")
        one.add_argument("--window", type=_whole, help="side of a window in pixels")
        one.add_argument("--learning-rate", type=_positive, help="AdamW's highest rate")
        one.add_argument("--save-minutes", type=_positive, help="between two checkpoints (2)")
        one.add_argument("--name", help="name in the model card (the folder's)")
        one.add_argument("--resume", action="store_true", help="take up the killed or stopped run of --out")
        device(one)
        seed(one)

    blending = command(
        "blend-test", run_blend_test, "Hide parts of real images, fill them in every way, compare with what was hidden."
    )
    dataset(blending)
    blending.add_argument(
        "--sampler",
        nargs="+",
        default=list(tested.samplers),
        metavar="NAME",
        help="fast, quality, paper, METHOD:START:STEPS:VISITS[:grain][:unconditional], or all",
    )
    blending.add_argument(
        "--hole",
        nargs="+",
        choices=tested.holes,
        default=list(tested.holes),
        help="ring: around a nucleus; disc: on free background; large: as a tissue segment",
    )
    blending.add_argument("--count", type=_whole, default=tested.count, help="windows for each kind of hole")
    blending.add_argument("--spread", action="store_true", help="also fill each hole five times, to see how they vary")
    blending.add_argument(
        "--sheet", type=Path, metavar="FILE", help="new PNG file that shows the windows and their fills"
    )
    device(blending)
    blending.add_argument("--batch", type=_whole, default=tested.batch, help="windows denoised together")
    model(blending)
    seed(blending)
    add_reader_test(commands, command)
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value
