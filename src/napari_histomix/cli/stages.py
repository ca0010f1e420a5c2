"""Commands that find what is vetted before anything is made: candidates, segments, pools of them."""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from napari_histomix.cli.common import (
    add_dataset,
    add_settings,
    follow,
    named_splits,
    open_data,
    say,
    settings_from,
    with_study_splits,
)
from napari_histomix.methods import stage_of
from napari_histomix.records import Event, HistomixError, Job, Segment, within

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``candidates``, ``segment``, ``pool build`` and ``pool stats``.

    Parameters
    ----------
    commands
        What ``argparse`` gives for all commands.
    command : callable
        Makes a command of a name, a function, a summary and what it is a part of.
    """
    candidates = command("candidates", run_candidates, "Find where a rare nucleus would fit, and write it as CSV.")
    add_dataset(candidates)
    candidates.add_argument("--out", type=Path, required=True, metavar="FILE", help="new CSV file")
    add_settings(candidates, [stage_of("candidates").settings])

    settings = stage_of("segments").settings
    segment = command("segment", run_segment, "Divide an image, or a folder of images, into tissue segments.")
    segment.add_argument("image", type=Path, help="an image, or a folder of images")
    segment.add_argument("--out", type=Path, required=True, help="new folder for label maps, outlines and segments.csv")
    add_settings(segment, [settings], without=("encoder", "components"))

    pools = commands.add_parser("pool", help="Make a pool of tissue segments, or show what one holds.")
    actions = pools.add_subparsers(title="actions", required=True, metavar="ACTION")
    build = command("build", run_pool_build, "Divide a dataset's training images and keep the segments.", actions)
    add_dataset(build)
    build.add_argument("--study", type=Path, required=True, metavar="FOLDER", help="new study that gets the pool")
    add_settings(build, [settings])
    stats = command("stats", run_pool_stats, "Show how many segments of which class a pool holds.", actions)
    stats.add_argument("study", type=Path, help="study folder")


def run_candidates(options: argparse.Namespace) -> dict[str, Any]:
    """Find candidate locations and write them as a table."""
    from napari_histomix import jobs
    from napari_histomix.methods.base import Work
    from napari_histomix.study import Study
    from napari_histomix.study.tables import write_candidates

    if options.out.exists():
        raise HistomixError(f"{options.out} already exists; name a new file.")
    stage = stage_of("candidates")
    dataset = open_data(options)
    settings: Any = settings_from(stage.settings, options)
    with tempfile.TemporaryDirectory() as place:
        study = Study.create(Path(place) / "study", dataset.root, dataset.name, options.mpp)
        follow(stage.find(Work(dataset, study), jobs.check_settings(settings)))
        candidates, facts = study.candidates(), study.settings()
        write_candidates(options.out, candidates)
    temperature, size, warnings = (facts[key] for key in ("temperature", "effective_sample_size", "warnings"))
    say(
        options,
        f"{len(candidates):,} candidate locations; the draw is worth {size:,.0f} equally likely ones "
        f"(temperature {temperature:.3g}).",
        *warnings,
        f"Written: {options.out}",
    )
    return {
        "out": str(options.out),
        "candidates": len(candidates),
        "temperature": temperature,
        "effective_sample_size": size,
        "warnings": warnings,
    }


def run_segment(options: argparse.Namespace) -> dict[str, Any]:
    """Divide one image or a folder of images into anchor segments."""
    from napari_histomix.datasets.writing import complete_or_absent
    from napari_histomix.segmentation import open_prompter

    if options.out.exists():
        raise HistomixError(f"{options.out} already exists; name a new folder.")
    images = _images(options.image)
    settings: Any = settings_from(stage_of("segments").settings, _with_prompter(options))
    prompter = open_prompter(settings.prompter, settings.weights or None, settings.device)
    problems: dict[str, str] = {}
    with complete_or_absent(options.out) as folder:
        counts = follow(_segment_all(images, folder, prompter, settings.anchors, problems))
        if not counts:
            raise HistomixError(f"No image could be divided: {next(iter(problems.values()))}")
    for sentence in problems.values():
        say(options, f"Skipped: {sentence}")
    say(options, f"{sum(counts.values()):,} segments in {len(counts):,} images. Written: {options.out}")
    return {"out": str(options.out), "prompter": prompter.name, "segments": counts, "problems": problems}


def _with_prompter(options: argparse.Namespace) -> dict[str, Any]:
    """What was said, and that weights alone ask for SAM."""
    said = vars(options)
    return {"prompter": "sam", **said} if said.get("weights") else said


def _images(path: Path) -> dict[str, Path]:
    """Image files by the name their results get."""
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise HistomixError(f"{path} is not there; name an image or a folder of images.")
    found = [one for one in sorted(path.rglob("*")) if one.suffix.casefold() in SUFFIXES and one.is_file()]
    if not found:
        raise HistomixError(f"{path} holds no PNG, TIFF or JPEG image; name another folder.")
    stems = Counter(one.with_suffix("") for one in found)
    # Two images that differ by their suffix alone keep it.
    kept = (one.with_suffix("") if stems[one.with_suffix("")] == 1 else one for one in found)
    return {name.relative_to(path).as_posix(): one for name, one in zip(kept, found, strict=True)}


def _segment_all(
    images: dict[str, Path], folder: Path, prompter: Any, settings: Any, problems: dict[str, str]
) -> Job[dict[str, int]]:
    from napari_histomix.datasets.pixels import read_pixels
    from napari_histomix.segmentation import find_segments

    counts: dict[str, int] = {}
    columns = ("image", "segment", "row", "col", "area", "vote_share", "stability", "at_border")
    with (folder / "segments.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(columns)
        for done, (name, path) in enumerate(images.items()):
            yield Event("Finding segments", done, len(images))
            try:
                pixels = read_pixels(path)
                finding = find_segments(pixels, prompter, settings)
                found = yield from within(finding, "Finding segments", done, len(images))
            except HistomixError as error:
                problems[name] = f"{name}: {error}"
                continue
            _write_labels(folder / name, pixels, found)
            counts[name] = len(found)
            for one in found:
                figures = f"{one.vote_share:.4f}", f"{one.stability:.4f}", int(one.at_border(pixels.shape))
                table.writerow([name, one.number, one.row, one.col, one.area, *figures])
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


def run_pool_build(options: argparse.Namespace) -> dict[str, Any]:
    """Make the segment pool of a study, or go on with one that was killed."""
    from napari_histomix.datasets.copies import check_leaks
    from napari_histomix.methods.base import Work
    from napari_histomix.segmentation.pool import SegmentPool, has_pool
    from napari_histomix.study import Study
    from napari_histomix.study.store import FILE

    stage = stage_of("segments")
    begun = (options.study / FILE).is_file() and not has_pool(options.study)
    if not begun:
        Study.check_new(options.study)
    dataset = with_study_splits(options, open_data(options))
    follow(check_leaks(dataset))
    settings: Any = settings_from(stage.settings, _with_prompter(options))
    if begun:
        study = Study.open(options.study).take()
        if study.dataset_root != dataset.root.resolve():
            raise HistomixError(f"The study {options.study} is of another dataset; choose a new folder.")
        built = follow(stage.find(Work(dataset, study), settings))
    else:
        with Study.begin(options.study, dataset.root, dataset.name, options.mpp) as study:
            study.take()
            # Before the pool, so that a killed build is taken up with them.
            study.save_settings(named_splits(options, dataset))
            built = follow(stage.find(Work(dataset, study), settings))
    for problem in built.problems[len(dataset.problems) :]:
        say(options, f"Skipped: {problem.sentence}")
    pool = SegmentPool(study.folder)
    say(options, f"{len(pool):,} segments of {len(pool.images):,} images. Written: {options.study}")
    return {"study": str(options.study), "images": len(pool.images), "segments": len(pool)}


def run_pool_stats(options: argparse.Namespace) -> dict[str, Any]:
    """Show what a segment pool holds."""
    from napari_histomix.segmentation.pool import SegmentPool
    from napari_histomix.study import Study
    from napari_histomix.study.curation import Curation

    study = Study.open(options.study)
    pool = SegmentPool(study.folder)
    curation = Curation(study, pool)
    classes = {}
    for kind in curation.kinds:
        members = np.flatnonzero(curation.kind == curation.kinds.index(kind))
        rows = pool.rows[members]
        usable = curation.members(kind)
        areas = np.percentile(rows["area"], [5, 50, 95]).tolist() if len(rows) else [0, 0, 0]
        classes[kind] = {
            "segments": len(rows),
            "usable": len(usable),
            "dropped": len(rows) - len(usable),
            "at_border": int(rows["border"].sum()),
            "images": len(np.unique(rows["image"])),
            "area_percentiles_5_50_95": [round(value) for value in areas],
            "mean_vote_share": round(float(rows["vote_share"].mean()), 4) if len(rows) else 0,
        }
        say(
            options,
            f"{kind}: {len(rows):,} segments of {classes[kind]['images']:,} images, {len(usable):,} usable, "
            f"{classes[kind]['at_border']:,} at the border; area {areas[1]:,.0f} px "
            f"({areas[0]:,.0f} to {areas[2]:,.0f}), vote share {classes[kind]['mean_vote_share']:.2f}",
        )
    say(options, *(f"{key}: {value}" for key, value in pool.signature.items()))
    return {"segments": len(pool), "signature": dict(pool.signature), "classes": classes}
