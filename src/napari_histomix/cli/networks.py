"""Commands that train networks, and that test what they and methods make: train, and the tests."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histomix.cli.common import (
    DATASET,
    Commands,
    Options,
    UsageError,
    add_output,
    add_settings,
    follow,
    positive,
    settings_from,
)
from napari_histomix.datasets import Dataset
from napari_histomix.records import HistomixError
from napari_histomix.settings import PaintingSettings
from napari_histomix.study import Study
from napari_histomix.training import BUNDLED_SIZE, KINDS, bundled_start, learns_labels, settings_class

if TYPE_CHECKING:
    from napari_histomix.generation.models import GeneratorModel, Kind

GENERATORS: tuple[Kind, ...] = ("segmenter", "image", "pix2pix", "structure")
"""Kinds of model that a generator test can have."""
NOTHING = "nothing"
"""What ``train --from`` calls a new network."""


def add_commands(commands: Commands) -> None:
    """Add ``train`` with an action for each kind of network, and the tests of fills, generators, changes, readers."""
    from napari_histomix.evaluation.blending import BlendSettings
    from napari_histomix.evaluation.detector import DetectorSettings
    from napari_histomix.evaluation.generator_test import GeneratorTestSettings
    from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings

    kinds = commands.group("train", "Train a network on your own images.", "networks")
    for kind, what in KINDS.items():
        summary = f"Train {what[0].lower()}{what[1:]}"
        labeled = learns_labels(kind)
        shared = ("--mpp", "--split-parts") if labeled else ()
        train = kinds.add(kind, run_train, summary, *shared, "--splits", "--device")
        train.set_defaults(kind=kind)
        sources = "labeled datasets, in any format" if labeled else "folders of images; no labels are needed"
        train.add_argument("--images", nargs="+", type=Path, required=True, metavar="FOLDER", help=sources)
        add_output(train, "--out", "model", required=True, help="new model folder")
        begun = "the bundled one, but for another --size" if bundled_start(kind) else NOTHING
        start = f"model folder to begin with, or '{NOTHING}' (default: {begun})"
        train.add_argument("--from", dest="start", type=Path, metavar="WEIGHTS", help=start)
        if kind == "latent":
            trained = "a trained autoencoder"
            train.add_argument("--autoencoder", type=Path, required=True, metavar="FOLDER", help=trained)
        if not labeled:
            scales = "µm per pixel of the images: one value, or the range"
            train.add_argument("--mpp", nargs="+", type=positive, metavar="UM", help=scales)
        train.add_argument("--name", help="name in the model card (the folder's)")
        train.add_argument("--resume", action="store_true", help="take up the killed or stopped run of --out")
        add_settings(train, [settings_class(kind)])

    summary = "Hide parts of real images, fill them in every way, compare with what was hidden."
    test = commands.add("blend-test", run_blend_test, summary, *DATASET)
    sheet = "new PNG file that shows the windows and their fills"
    add_output(test, "--sheet", "file", metavar="FILE", help=sheet)
    add_settings(test, [BlendSettings, PaintingSettings], without=["sampler"])

    summary = "Test generators on held-out images: do labels match, are pictures real-like, is anything repeated."
    generators = commands.add("generate-test", run_generator_test, summary, *DATASET)
    named = f"a model folder for a kind ({', '.join(GENERATORS)}), or none; kinds not named: the bundled ones"
    generators.add_argument("--model", nargs="+", type=_model, default=[], metavar="KIND=FOLDER", help=named)
    searched = "images that the generators learned from, where those are others: searched for what is repeated"
    generators.add_argument("--learned", type=Path, metavar="FOLDER", help=searched)
    add_output(generators, "--out", help="new folder for report.md, report.json and pairs.png, which shows the pairs")
    generators.add_argument("--resume", action="store_true", help="take up the killed test of --out")
    add_settings(generators, [GeneratorTestSettings])

    summary = "Test whether a small network can tell what methods made in studies from what is real."
    detector = commands.add("detect-test", run_detector_test, summary, "--dataset")
    made = "studies with changes of real images: nuclei, tissue or both"
    detector.add_argument("studies", nargs="+", type=Path, metavar="STUDY", help=made)
    shows = "new folder for report.md, report.json and crops.png, which shows what gives itself away most"
    add_output(detector, "--out", help=shows)
    detector.add_argument("--resume", action="store_true", help="take up the killed test of --out")
    add_settings(detector, [DetectorSettings])

    summary = "Find the real nucleus that each synthetic one of a study resembles most: copies stand out."
    neighbors = commands.add("neighbor-test", run_neighbor_test, summary, "study", "--dataset")
    add_output(neighbors, "--out", help="new folder for neighbors.csv, neighbors.json and neighbors.png")

    actions = commands.group("reader-test", "Make a blinded real-or-synthetic test, or report on one.")
    summary = "Make a reader test out of what is approved in a study."
    make = actions.add("make", run_reader_test, summary, "--mpp", "--split-parts")
    make.add_argument("dataset", type=Path, help="the study's images: of nuclei, or of tissue")
    studies = "studies of these images, of one method each"
    make.add_argument("--study", type=Path, nargs="+", required=True, metavar="FOLDER", help=studies)
    add_output(make, "--out", required=True, help="new folder for the test")
    make.add_argument("--all", action="store_true", help="also show what nobody has decided on")
    about = "what is asked about, where studies hold both: nuclei in real images, or whole images"
    make.add_argument("--about", choices=("images", "nuclei"), help=about)
    add_settings(make, [ReaderTestSettings])

    report = actions.add("report", run_reader_report, "Show how readers did, and write it as PNG, CSV and JSON.")
    report.add_argument("test", type=Path, help="folder of a reader test")
    add_output(report, "--out", required=True, help="new folder for the report")
    report.add_argument("--truth", type=Path, metavar="FILE", help="the sealed truth, if it was kept elsewhere")


def run_train(options: Options) -> dict[str, Any]:
    """Train a network of one kind on folders of images, or on labeled datasets."""
    from napari_histomix.datasets.splits import read_splits
    from napari_histomix.diffusion.model_files import CARD_FILE, read_json
    from napari_histomix.training.loop import train

    if {"minutes", "steps"} <= vars(options).keys():
        raise UsageError("--steps is in place of --minutes; give one of them.")
    settings: Any = settings_from(settings_class(options.kind), options)
    labeled = learns_labels(options.kind)
    job = train(
        options.kind,
        list(_datasets(options)) if labeled else options.images,
        options.out,
        settings=settings,
        autoencoder=getattr(options, "autoencoder", None),
        mpp=None if labeled or not options.mpp else (min(options.mpp), max(options.mpp)),
        start=_start(options.kind, settings, options.start),
        **{name: getattr(options, name) for name in ("device", "name", "resume")},
        splits=read_splits(options.splits) if options.splits else None,
    )
    out = follow(job)
    best = read_json(out / CARD_FILE, "a model")["best"]
    options.say(f"Written: {out} (best at step {int(best['step'])}, validation loss {best['validation']:.4f})")
    return {"out": str(out), **best}


def _start(kind: str, settings: Any, named: Path | None) -> Path | None:
    """The model folder that a run begins with: as named, or the bundled one where the new one is of its size."""
    if named is not None:
        return None if str(named) == NOTHING else named
    other_size = getattr(settings, "size", BUNDLED_SIZE) != BUNDLED_SIZE
    return None if other_size else bundled_start(kind)


def _datasets(options: Options) -> Iterator[Dataset]:
    """The labeled datasets that ``--images`` names."""
    for folder in options.images:
        options.dataset = folder
        yield options.open_data()


def run_blend_test(options: Options) -> dict[str, Any]:
    """Measure how well a model's samplers fill holes in real images."""
    from napari_histomix.evaluation import blending
    from napari_histomix.evaluation.sheets import check_sheet, write_sheet
    from napari_histomix.methods.record import painter

    if options.sheet:
        check_sheet(options.sheet)
    settings = settings_from(blending.BlendSettings, options)
    dataset = options.open_data()
    model = painter(settings_from(PaintingSettings, options))
    report = follow(blending.blend_test(dataset, model, settings))
    options.say(*blending.report_lines(report))
    if options.sheet:
        write_sheet(options.sheet, blending.contact_sheet(report))
        options.say(f"Written: {options.sheet}")
    return {
        "dataset": dataset.name,
        "model": model.name,
        "sha256": model.sha256,
        "count": settings.count,
        "seed": settings.seed,
        "sheet": str(options.sheet) if options.sheet else None,
        **blending.report_values(report),
    }


def _model(text: str) -> tuple[str, str]:
    """A kind of model and its folder, as the type of an option."""
    kind, equals, folder = text.partition("=")
    if kind not in GENERATORS or not equals or not folder:
        raise argparse.ArgumentTypeError(f"must be KIND=FOLDER, the kind one of {', '.join(GENERATORS)}")
    return kind, folder


def run_generator_test(options: Options) -> dict[str, Any]:
    """Test generators, and print what was found as Markdown; what is made lies in ``OUT.partial`` until the end."""
    from napari_histomix.datasets import open_any
    from napari_histomix.evaluation.generator_report import report_lines, report_values, write_report
    from napari_histomix.evaluation.generator_test import GeneratorTestSettings, generator_test
    from napari_histomix.generation.models import load_generator
    from napari_histomix.weights import bundled_model

    keep = _kept(options)
    settings = settings_from(GeneratorTestSettings, options)
    dataset = options.open_data()
    learned = open_any(options.learned) if options.learned else None
    folders = {kind: bundled for kind in GENERATORS if (bundled := bundled_model(f"he-{kind}")).is_dir()}
    folders |= {kind: Path(folder) for kind, folder in options.model}
    wanted = {kind: folder for kind, folder in folders.items() if str(folder) != "none"}
    models: dict[str, GeneratorModel] = {kind: load_generator(folder, kind) for kind, folder in wanted.items()}
    report = follow(generator_test(dataset, models, settings, learned, keep=keep, resume=options.resume))
    options.say(*report_lines(report))
    values = {"dataset": dataset.name, **report_values(report)}
    if keep is not None:
        write_report(report, values, options.out, dataset.classes)
        shutil.rmtree(keep, ignore_errors=True)
        options.say(f"Written: {options.out}")
    return {"out": str(options.out) if options.out else None, **values}


def _kept(options: Options) -> Path | None:
    """Where what a test with ``--out`` and ``--resume`` makes lies until it ends."""
    if options.resume and not options.out:
        raise UsageError("--resume needs --out, the folder that the killed test was to write.")
    return options.out.with_name(f"{options.out.name}.partial") if options.out else None


def run_detector_test(options: Options) -> dict[str, Any]:
    """Test what methods made, print what was found as Markdown, and keep each change's score in its study."""
    from napari_histomix.evaluation.detector import DetectorSettings, detector_test, keep_scores
    from napari_histomix.evaluation.detector_report import report_lines, report_values, write_report

    keep = _kept(options)
    settings = settings_from(DetectorSettings, options)
    studies = [Study.open(folder) for folder in options.studies]
    report = follow(detector_test(studies, settings, images=options.dataset, keep=keep, resume=options.resume))
    options.say(*report_lines(report))
    values = report_values(report)
    if keep is not None:
        write_report(report, values, options.out)
        shutil.rmtree(keep, ignore_errors=True)
        options.say(f"Written: {options.out}")
    for study in studies:
        try:
            keep_scores(report, study)
        except HistomixError as error:
            # The report stands without them.
            options.say(f"The scores are not kept for Review: {error}")
    return {"out": str(options.out) if options.out else None, **values}


def run_neighbor_test(options: Options) -> dict[str, Any]:
    """Compare synthetic nuclei with real ones."""
    from napari_histomix.evaluation import neighbor_test

    study = Study.open(options.study)
    report = follow(neighbor_test.neighbor_test(options.images_of(study), study))
    options.say(neighbor_test.sentence_of(report))
    if options.out:
        neighbor_test.write_neighbors(report, options.out)
        options.say(f"Written: {options.out}")
    return {"out": str(options.out) if options.out else None, **neighbor_test.report_values(report)}


def run_reader_test(options: Options) -> dict[str, Any]:
    """Make a reader test."""
    from napari_histomix.evaluation.reader_test.folder import make_reader_test
    from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings

    settings = settings_from(ReaderTestSettings, options)
    studies = [Study.open(folder) for folder in options.study]
    dataset = options.open_data(studies[0])
    asked = {"undecided": options.all, "about": options.about}
    made = follow(make_reader_test(dataset, studies, options.out, settings, **asked))
    options.say(f"{made.each} real and {made.each} synthetic crops. Written: {options.out}")
    options.say("To answer it, open napari, Plugins > HistoMix, and go to Results > Reader test.")
    return {"out": str(options.out), "crops": len(made.test), "real": made.each, "synthetic": made.each}


def run_reader_report(options: Options) -> dict[str, Any]:
    """Report on a reader test."""
    from napari_histomix.evaluation.reader_test.folder import ReaderTest
    from napari_histomix.evaluation.reader_test.report_files import report_lines, write_report

    report = write_report(ReaderTest.open(options.test), options.out, options.truth)
    options.say(*report_lines(report), f"Written: {options.out}")
    return {"out": str(options.out), **asdict(report)}
