"""``histomix``: the same jobs as the docks, without a screen."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_histomix import __version__
from napari_histomix.cli.common import UsageError, add_dataset, positive
from napari_histomix.cli.data import add_commands as add_data
from napari_histomix.cli.data import add_writing as add_exporting
from napari_histomix.cli.making import add_commands as add_making
from napari_histomix.cli.networks import run_blend_test, run_train
from napari_histomix.cli.provenance import add_commands as add_provenance
from napari_histomix.cli.reader_test import add_commands as add_reader_test
from napari_histomix.cli.stages import add_commands as add_stages
from napari_histomix.methods import DEFAULT, method_names
from napari_histomix.records import HistomixError
from napari_histomix.settings import DEVICES


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults shown where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        quiet = action.default in (None, False, []) or action.default is argparse.SUPPRESS
        return action.help if quiet else super()._get_help_string(action)


TRAINED = {
    "inpainter": "Train the network that fills holes, on pixels.",
    "autoencoder": "Train an autoencoder, which a latent network works on.",
    "latent": "Train the network that fills holes, on an autoencoder's latents.",
}


def build_parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of ``histomix``; each command leaves the function that runs it in ``run``.

    Parameters
    ----------
    arguments : sequence of str
        Those that will be parsed: ``synthesize`` has the options of the method they name.
    """
    from napari_histomix.evaluation.blending import BlendSettings

    tested = BlendSettings()
    parser = argparse.ArgumentParser(
        prog="histomix",
        description="Not for diagnosis. Grows the rare nuclei and tissue that a labeled H&E dataset lacks.",
        epilog="Exit codes: 0 done, 1 something to mend (one line says what), 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"napari-histomix {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str, parent: Any = commands) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = parent.add_parser(
            name, help=summary, description=summary, formatter_class=_Formatter
        )
        added.add_argument("--json", action="store_true", help="print one last line of JSON for programs")
        added.set_defaults(run=run)
        return added

    def splits(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--splits",
            type=Path,
            metavar="FILE",
            help="CSV with the columns image and split, as 'histomix split' writes",
        )

    def model(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--model", metavar="PATH", help="inpainting model: a folder or a checkpoint (the bundled one)"
        )
        parser.add_argument(
            "--model-mpp", nargs="+", type=positive, metavar="UM", help="µm per pixel of a model that does not say it"
        )
        parser.add_argument("--prompt", default="", help="what holes are to hold, for a model that follows a prompt")

    def device(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--device", choices=list(DEVICES), default="auto", help="where to compute")

    def seed(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--seed", type=_seed, default=0, help="the same seed gives the same result")

    add_data(command)
    add_making(command, _named_method(arguments))
    add_stages(commands, command)
    add_exporting(command)
    add_provenance(command)

    networks = commands.add_parser("train", help="Train a network on your own images; no labels are needed.")
    kinds = networks.add_subparsers(title="networks", required=True, metavar="NETWORK")
    for kind, summary in TRAINED.items():
        train = command(kind, run_train, summary, kinds)
        train.set_defaults(kind=kind)
        train.add_argument("--images", nargs="+", type=Path, required=True, metavar="FOLDER", help="folders of images")
        splits(train)
        train.add_argument("--out", type=Path, required=True, help="new model folder")
        train.add_argument("--from", dest="start", type=Path, metavar="WEIGHTS", help="model folder to fine-tune")
        if kind == "latent":
            train.add_argument(
                "--autoencoder", type=Path, required=True, metavar="FOLDER", help="a trained autoencoder"
            )
        length = train.add_mutually_exclusive_group()
        length.add_argument("--minutes", type=positive, help="how long to train (60)")
        length.add_argument("--steps", type=_whole, help="how many steps to train; such a run repeats exactly")
        train.add_argument(
            "--mpp", nargs="+", type=positive, metavar="UM", help="µm per pixel of the images: one value, or the range"
        )
        train.add_argument("--batch", type=_whole, help="windows a step")
        train.add_argument("--window", type=_whole, help="side of a window in pixels")
        train.add_argument("--learning-rate", type=positive, help="AdamW's highest rate")
        train.add_argument("--save-minutes", type=positive, help="between two checkpoints (2)")
        train.add_argument("--name", help="name in the model card (the folder's)")
        train.add_argument("--resume", action="store_true", help="take up the killed or stopped run of --out")
        device(train)
        seed(train)

    blending = command(
        "blend-test", run_blend_test, "Hide parts of real images, fill them in every way, compare with what was hidden."
    )
    add_dataset(blending)
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


def _named_method(arguments: Sequence[str]) -> str:
    """The method that the arguments name; the default one where they name none that there is."""
    for place, argument in enumerate(arguments):
        name = argument.removeprefix("--method=")
        if argument == "--method" and place + 1 < len(arguments):
            name = arguments[place + 1]
        if name != argument and name in method_names():
            return name
    return DEFAULT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 something to mend, 2 wrong usage."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = build_parser(arguments)
    options = parser.parse_args(arguments)
    try:
        result = options.run(options)
    except UsageError as error:
        parser.error(str(error))
    except HistomixError as error:
        return _failed(str(error), options)
    except KeyboardInterrupt:
        return _failed("Cancelled.", options)
    if "error" in result:
        return _failed(result["error"], options, result)
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    return 0


def _failed(sentence: str, options: argparse.Namespace, found: Mapping[str, Any] | None = None) -> int:
    """Say what is wrong; ``found`` is what a command knows beside that, where it came to its end."""
    line = " ".join(sentence.split())
    print(f"histomix: {line}", file=sys.stderr)
    if options.json:
        print(json.dumps({**(found or {}), "error": line}, ensure_ascii=False))
    return 1
