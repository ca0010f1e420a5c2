"""Commands that find what is vetted before anything is made: candidates, segments, pools of them."""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_histomix import jobs
from napari_histomix.cli.common import (
    DATASET,
    Commands,
    Options,
    add_output,
    add_settings,
    follow,
    settings_from,
    whole,
)
from napari_histomix.methods import DEFAULT, method_of, stage_of
from napari_histomix.preferences import preferences
from napari_histomix.records import Event, HistomixError, Job, Segment, within
from napari_histomix.settings import check_settings
from napari_histomix.study import Study
from napari_histomix.study.database import FILE
from napari_histomix.study.decision_log import Entry

NOT_TESTED = ("preset", "density", "neighborhood", "temperature", "donor_temperature", "area_ratio")
"""Settings of candidates that a place test has no use for, or takes in all ways."""
SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")


def add_commands(commands: Commands) -> None:
    """Add ``candidates``, ``place``, ``place-test``, ``segment``, ``pool build`` and ``pool stats``."""
    summary = "Find where a rare nucleus would fit, and write it as CSV."
    candidates = commands.add("candidates", run_candidates, summary, *DATASET)
    add_output(candidates, "--out", "file", required=True, metavar="FILE", help="new CSV file")
    add_settings(candidates, [stage_of("candidates").settings])

    summary = "Place a candidate by hand in a study that holds a search's, or move one; it is kept, and made first."
    place = commands.add("place", run_place, summary, "study", "--dataset")
    place.add_argument("--image", required=True, help="name of a training image")
    place.add_argument("--row", type=float, required=True, help="row in its pixels, from 0")
    place.add_argument("--col", type=float, required=True, help="column in its pixels, from 0")
    moved = "rank of a candidate that is dropped for it, from 0 as in files (in the window # less 1): it is moved"
    place.add_argument("--move", type=partial(whole, low=0), metavar="RANK", help=moved)
    place.add_argument("--reviewer", metavar="NAME", help="who places it, for its record; else as in the preferences")

    summary = "Test how well places of rare nuclei are told from others, on images that nothing was learned from."
    test = commands.add("place-test", run_place_test, summary, *DATASET)
    add_output(test, "--out", help="new folder for report.md and report.json")
    add_settings(test, [stage_of("candidates").settings], without=NOT_TESTED)

    settings = stage_of("segments").settings
    segment = commands.add("segment", run_segment, "Divide an image, or a folder of images, into tissue segments.")
    segment.add_argument("image", type=Path, help="an image, or a folder of images")
    add_output(segment, "--out", required=True, help="new folder for label maps, outlines and segments.csv")
    add_settings(segment, [settings], without=("preset", "encoder", "components", "border"))

    actions = commands.group("pool", "Make a pool of tissue segments, or show what one holds.")
    summary = "Divide a dataset's training images and keep the segments."
    build = actions.add("build", run_pool_build, summary, *DATASET)
    pooled = "new study that gets the pool"
    add_output(build, "--study", "study", required=True, metavar="FOLDER", help=pooled)
    add_settings(build, [settings])
    actions.add("stats", run_pool_stats, "Show how many segments of which class a pool holds.", "study")


def run_candidates(options: Options) -> dict[str, Any]:
    """Find candidate locations and write them as a table."""
    from napari_histomix.methods.base import Work
    from napari_histomix.methods.candidate_stage import told_apart_sentence
    from napari_histomix.study.tables import write_candidates

    stage = stage_of("candidates")
    dataset = options.open_data()
    jobs.check(method_of(DEFAULT), dataset)
    settings: Any = settings_from(stage.settings, options)
    with tempfile.TemporaryDirectory() as place:
        study = Study.create(Path(place) / "study", dataset.root, dataset.name, options.mpp)
        follow(stage.find(Work(dataset, study), check_settings(settings)))
        candidates, facts = study.candidates(), study.settings()
        write_candidates(options.out, candidates)
    told = told_apart_sentence(facts)
    facts = {key: facts[key] for key in ("temperature", "effective_sample_size", "told_apart", "warnings")}
    sentence = (
        f"{len(candidates):,} candidate locations; the draw is worth {facts['effective_sample_size']:,.0f} equally "
        f"likely ones (temperature {facts['temperature']:.3g})."
    )
    options.say(sentence, *filter(None, [told]), *facts["warnings"], f"Written: {options.out}")
    return {"out": str(options.out), "candidates": len(candidates), **facts}


def run_place(options: Options) -> dict[str, Any]:
    """Place a candidate by hand, or move one."""
    from napari_histomix.methods.base import Work
    from napari_histomix.methods.placing_by_hand import place_by_hand

    study = Study.open(options.study).take()
    study.reviewer = options.reviewer or preferences().reviewer
    dataset = options.images_of(study)
    moved = None
    if options.move is not None:
        moved = next((each for each in study.candidates() if each.rank == options.move), None)
        if moved is None:
            raise HistomixError(f"The study has no candidate of rank {options.move}; name that of one.")
    work = Work(dataset, study, decisions={"candidate": study.decisions("candidate")})
    placed = follow(place_by_hand(work, options.image, options.row, options.col, moved))
    gone: list[Entry] = [] if moved in (None, placed) else [("candidate", options.move, "drop")]
    study.act([*gone, ("candidate", placed.rank, "keep")])
    donor, target = placed.donor, placed.target
    what = f"in place of nucleus {target.instance}" if target.instance else "on free tissue"
    options.say(f"The candidate of rank {placed.rank} is kept: {what}, donor {donor.image} #{donor.instance}.")
    return {"rank": placed.rank, "target": asdict(target), "donor": asdict(donor), "percentile": placed.percentile}


def run_place_test(options: Options) -> dict[str, Any]:
    """Test the scores of places, and print what was found as a Markdown table."""
    from napari_histomix.evaluation import place_test

    settings: Any = check_settings(settings_from(stage_of("candidates").settings, options))
    report = follow(place_test.place_test(options.open_data(), settings))
    options.say(*place_test.report_lines(report))
    values = place_test.report_values(report)
    if options.out:
        place_test.write_report(report, options.out)
        options.say(f"Written: {options.out}")
    return {"out": str(options.out) if options.out else None, **values}


def run_segment(options: Options) -> dict[str, Any]:
    """Divide one image or a folder of images into anchor segments."""
    from napari_histomix.datasets.writing import complete_or_absent
    from napari_histomix.segmentation import open_prompter

    images = _images(options.image)
    settings: Any = settings_from(stage_of("segments").settings, _with_prompter(options))
    prompter = open_prompter(settings.prompter, settings.weights or None, settings.device)
    problems: dict[str, str] = {}
    with complete_or_absent(options.out) as folder:
        counts = follow(_segment_all(images, folder, prompter, settings.anchors, problems))
        if not counts:
            raise HistomixError(f"No image could be divided: {next(iter(problems.values()))}")
    options.say(*(f"Skipped: {sentence}" for sentence in problems.values()))
    options.say(f"{sum(counts.values()):,} segments in {len(counts):,} images. Written: {options.out}")
    return {"out": str(options.out), "prompter": prompter.name, "segments": counts, "problems": problems}


def _with_prompter(options: Options) -> dict[str, Any]:
    """The options, where weights alone ask for SAM."""
    given = vars(options)
    return {"prompter": "sam", **given} if given.get("weights") else given


def _images(path: Path) -> dict[str, Path]:
    """Image files by the name their results get."""
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise HistomixError(f"{path} is not there; name an image or a folder of images.")
    files = [file for file in sorted(path.rglob("*")) if file.suffix.casefold() in SUFFIXES and file.is_file()]
    if not files:
        raise HistomixError(f"{path} holds no PNG, TIFF or JPEG image; name another folder.")
    stems = Counter(file.with_suffix("") for file in files)
    # Two images that differ by their suffix alone keep it.
    names = (file.with_suffix("") if stems[file.with_suffix("")] == 1 else file for file in files)
    return {name.relative_to(path).as_posix(): file for name, file in zip(names, files, strict=True)}


def _segment_all(
    images: dict[str, Path], folder: Path, prompter: Any, settings: Any, problems: dict[str, str]
) -> Job[dict[str, int]]:
    from napari_histomix.datasets.pixels import read_pixels
    from napari_histomix.segmentation import find_segments

    counts: dict[str, int] = {}
    with (folder / "segments.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("image", "segment", "row", "col", "area", "vote_share", "stability", "at_border"))
        for done, (name, path) in enumerate(images.items()):
            yield Event("Finding segments", done, len(images))
            try:
                pixels = read_pixels(path)
                finding = find_segments(pixels, prompter, settings)
                segments = yield from within(finding, "Finding segments", done, len(images))
            except HistomixError as error:
                problems[name] = f"{name}: {error}"
                continue
            _write_labels(folder / name, pixels, segments)
            counts[name] = len(segments)
            for each in segments:
                figures = f"{each.vote_share:.4f}", f"{each.stability:.4f}", int(each.at_border(pixels.shape))
                table.writerow([name, each.number, each.row, each.col, each.area, *figures])
    return counts


def _write_labels(path: Path, pixels: NDArray[np.uint8], segments: Sequence[Segment]) -> None:
    """The label map as TIFF, and a picture of its outlines to look at."""
    import tifffile
    from skimage.segmentation import find_boundaries

    from napari_histomix.segmentation import segment_map

    path.parent.mkdir(parents=True, exist_ok=True)
    labels = segment_map(segments, pixels.shape)
    tifffile.imwrite(path.with_name(f"{path.name}.tif"), labels, compression="zlib")
    outlined = pixels.copy()
    outlined[find_boundaries(labels)] = (0, 255, 0)
    Image.fromarray(outlined).save(path.with_name(f"{path.name}-outlines.png"))


def run_pool_build(options: Options) -> dict[str, Any]:
    """Make the segment pool of a study, or go on with one that was killed."""
    from napari_histomix.datasets.copies import check_leaks
    from napari_histomix.methods.base import Work
    from napari_histomix.segmentation.pool import SegmentPool, has_pool

    stage = stage_of("segments")
    begun = (options.study / FILE).is_file() and not has_pool(options.study)
    if not begun:
        Study.check_new(options.study)
    dataset = options.open_data(Study.open(options.study) if begun else None)
    follow(check_leaks(dataset))
    settings: Any = settings_from(stage.settings, _with_prompter(options))
    with (
        nullcontext(Study.open(options.study))
        if begun
        else Study.begin(options.study, dataset.root, dataset.name, options.mpp, split_parts=dataset.split_parts)
    ) as study:
        study.take()
        if not begun:
            # Before the pool, so that a killed build is taken up with them.
            study.save_settings(options.named_splits(dataset))
        elif study.dataset_root != dataset.root.resolve():
            raise HistomixError(f"The study {options.study} is of another dataset; choose a new folder.")
        built = follow(stage.find(Work(dataset, study), settings))
    options.say(
        *(f"Skipped: {problem.sentence}" for problem in built.problems[len(dataset.problems) :]), *built.warnings
    )
    pool = SegmentPool(study.folder)
    options.say(f"{len(pool):,} segments of {len(pool.images):,} images. Written: {options.study}")
    return {"study": str(options.study), "images": len(pool.images), "segments": len(pool)}


def run_pool_stats(options: Options) -> dict[str, Any]:
    """Show what a segment pool holds."""
    from napari_histomix.segmentation.pool import SegmentPool
    from napari_histomix.study.curation import Curation

    study = Study.open(options.study)
    pool = SegmentPool(study.folder)
    curation = Curation(study, pool)
    classes = {}
    for number, kind in enumerate(curation.kinds):
        rows = pool.rows[curation.kind == number]
        usable = curation.members(kind)
        areas = np.percentile(rows["area"], [5, 50, 95]).tolist() if len(rows) else [0, 0, 0]
        classes[kind] = facts = {
            "segments": len(rows),
            "usable": len(usable),
            "dropped": len(rows) - len(usable),
            "at_border": int(rows["border"].sum()),
            "images": len(np.unique(rows["image"])),
            "area_percentiles_5_50_95": [round(value) for value in areas],
            "mean_vote_share": round(float(rows["vote_share"].mean()), 4) if len(rows) else 0,
        }
        options.say(
            f"{kind}: {len(rows):,} segments of {facts['images']:,} images, {len(usable):,} usable, "
            f"{facts['at_border']:,} at the border; area {areas[1]:,.0f} px ({areas[0]:,.0f} to {areas[2]:,.0f}), "
            f"vote share {facts['mean_vote_share']:.2f}"
        )
    options.say(*(f"{key}: {value}" for key, value in pool.signature.items()))
    return {"segments": len(pool), "signature": dict(pool.signature), "classes": classes}
