"""Commands on tissue segments: divide images, make a pool, synthesize tissue (USegMix)."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from napari_histomix.cli.following import follow, say
from napari_histomix.cli.networks import model_of
from napari_histomix.cli.opening import named_splits, with_named_splits
from napari_histomix.records import Event, HistomixError, Job, Segment, within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histomix.datasets import Dataset
    from napari_histomix.methods.usegmix import MixSettings
    from napari_histomix.segmentation.pool import SegmentPool
    from napari_histomix.study import Study

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")


def run_segment(options: argparse.Namespace) -> dict[str, Any]:
    """Divide one image or a folder of images into anchor segments."""
    from napari_histomix.datasets.writing import complete_or_absent
    from napari_histomix.segmentation import AnchorSettings, open_prompter

    if options.out.exists():
        raise HistomixError(f"{options.out} already exists; name a new folder.")
    images = _images(options.image)
    prompter = open_prompter(_prompter(options), options.weights, options.device)
    settings = AnchorSettings(superpixels=options.superpixels, points=options.points, seed=options.seed)
    problems: dict[str, str] = {}
    with complete_or_absent(options.out) as folder:
        counts = follow(_segment_all(images, folder, prompter, settings, problems))
        if not counts:
            raise HistomixError(f"No image could be divided: {next(iter(problems.values()))}")
    for sentence in problems.values():
        say(options, f"Skipped: {sentence}")
    say(options, f"{sum(counts.values()):,} segments in {len(counts):,} images. Written: {options.out}")
    return {"out": str(options.out), "prompter": prompter.name, "segments": counts, "problems": problems}


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
    from napari_histomix.datasets.tables import write_table
    from napari_histomix.segmentation import find_segments

    counts: dict[str, int] = {}
    rows: list[tuple[object, ...]] = []
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
        for one in segments:
            figures = f"{one.vote_share:.4f}", f"{one.stability:.4f}", int(one.at_border(pixels.shape))
            rows.append((name, one.number, one.row, one.col, one.area, *figures))
    columns = ("image", "segment", "row", "col", "area", "vote_share", "stability", "at_border")
    write_table(folder / "segments.csv", columns, rows)
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
    """Make the segment pool of a study."""
    from napari_histomix.datasets.copies import check_leaks
    from napari_histomix.segmentation.pool import SegmentPool
    from napari_histomix.study import Study

    dataset = _open(options)
    follow(check_leaks(dataset))
    if not _unfinished(options.study):
        Study.check_new(options.study)
    study = _begin(options, dataset, options.study)
    pool = SegmentPool(study.folder)
    say(options, f"Written: {options.study}")
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


def run_usegmix(options: argparse.Namespace) -> dict[str, Any]:
    """Synthesize tissue images of every class and write class folders with a manifest."""
    from napari_histomix.datasets.class_folders import export_tissue
    from napari_histomix.datasets.copies import check_leaks
    from napari_histomix.methods.usegmix import MixSettings, make_mix, plan_mixes
    from napari_histomix.segmentation.pool import SegmentPool, has_pool
    from napari_histomix.study import Study
    from napari_histomix.study.curation import Curation
    from napari_histomix.study.mixes import Mixes

    if options.out.exists():
        raise HistomixError(f"{options.out} already exists; name a new folder.")
    dataset = _open(options)
    follow(check_leaks(dataset))
    model = model_of(options)
    settings = MixSettings(
        per_class=options.per_class,
        new_area=(options.new_area[0], options.new_area[1]),
        temperature=options.temperature,
        sampler=options.sampler,
        device=options.device,
        seed=options.seed,
    )
    with ExitStack() as stack:
        folder = options.study or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "study"
        study = Study.open(folder).take() if has_pool(folder) else _begin(options, dataset, folder)
        pool = SegmentPool(folder)
        _check_asked(options, pool)
        curation = Curation(study, pool)
        members = {kind: curation.members(kind) for kind in dataset.kinds}
        planned = follow(plan_mixes(pool, members, settings, study.mix_names().values()))
        if not planned.plans:
            reason = planned.refusals.most_common(1)[0][0]
            raise HistomixError(f"No synthetic image could be planned; {reason}.")
        for plan in planned.plans:
            study.add_mixes([follow(make_mix(dataset, pool, plan, settings, model))])
        names = {plan.name for plan in planned.plans}
        new = [number for number, name in study.mix_names().items() if name in names]
        facts = {"mix_settings": _recorded(settings), "refusals": dict(sorted(planned.refusals.items()))}
        follow(export_tissue(dataset, Mixes(study, new), options.out, facts | {"pool": dict(pool.signature)}))
    made = Counter(plan.kind for plan in planned.plans)
    for kind in dataset.kinds:
        say(options, f"{kind}: {made[kind]} of {settings.per_class} synthetic images.")
    for reason, count in planned.refusals.most_common():
        say(options, f"  {count:>6,} refused: {reason}")
    say(options, f"Written: {options.out}")
    return {"out": str(options.out), "made": dict(made), "refusals": dict(planned.refusals)}


def _open(options: argparse.Namespace) -> Dataset:
    from napari_histomix.datasets import open_tissue

    dataset = open_tissue(options.dataset, options.mpp)
    for problem in dataset.problems:
        say(options, f"Skipped: {problem.sentence}")
    if dataset.missing_scale:
        raise HistomixError(
            f"Nothing says how many µm one pixel of {dataset.missing_scale[0].source.image} is; pass --mpp, "
            'or put {"mpp": 0.25} in dataset.json beside the images.'
        )
    return _with_splits(options, dataset)


def _with_splits(options: argparse.Namespace, dataset: Dataset) -> Dataset:
    """The dataset with the splits that are named, or else with those of a study that is there already."""
    from napari_histomix.datasets.splits import with_chosen_splits
    from napari_histomix.study import Study
    from napari_histomix.study.store import FILE

    if options.splits is None and options.study and (options.study / FILE).is_file():
        return with_chosen_splits(dataset, Study.open(options.study).settings())
    return with_named_splits(options, dataset)


def _begin(options: argparse.Namespace, dataset: Dataset, folder: Path) -> Study:
    """A study with the pool of a dataset: a new one, or one whose pool was never finished."""
    from napari_histomix.methods.usegmix import PoolSettings, build_pool
    from napari_histomix.segmentation import AnchorSettings
    from napari_histomix.study import Study

    default = PoolSettings()
    settings = PoolSettings(
        prompter=_prompter(options),
        weights=options.weights or "",
        encoder=options.encoder or default.encoder,
        anchors=AnchorSettings(superpixels=options.superpixels, points=options.points, seed=options.seed),
        device=options.device,
    )
    started = nullcontext(Study.open(folder)) if _unfinished(folder) else None
    with started or Study.begin(folder, dataset.root, dataset.name, options.mpp) as study:
        if study.dataset_root != dataset.root.resolve():
            raise HistomixError(f"The study {folder} is of another dataset; choose a new folder.")
        study.take()
        # Before the pool, so that a killed build is taken up with them.
        study.save_settings(named_splits(options, dataset))
        built = follow(build_pool(dataset, folder, settings))
        study.save_settings({"pool_settings": asdict(settings)})
    for problem in built.problems[len(dataset.problems) :]:
        say(options, f"Skipped: {problem.sentence}")
    say(options, f"{built.segments:,} segments of {built.images:,} images.")
    return study


def _unfinished(folder: Path) -> bool:
    """Whether a folder holds a study that was begun for a pool, and killed before there was one."""
    from napari_histomix.segmentation.pool import has_pool
    from napari_histomix.study import Study
    from napari_histomix.study.store import FILE

    return (folder / FILE).is_file() and not has_pool(folder) and not Study.open(folder).candidates()


def _check_asked(options: argparse.Namespace, pool: SegmentPool) -> None:
    """A pool that is there already must be what was asked for."""
    from napari_histomix.features import open_encoder
    from napari_histomix.segmentation import open_prompter

    asked = {}
    if options.encoder:
        asked["encoder"] = open_encoder(options.encoder, whole=True).name
    if options.prompter or options.weights:
        asked["prompter"] = open_prompter(_prompter(options), options.weights, options.device).name
    pool.check({**pool.signature, **asked})


def _recorded(settings: MixSettings) -> dict[str, Any]:
    """What shapes the result; where it was computed does not."""
    return {key: value for key, value in asdict(settings).items() if key != "device"}


def _prompter(options: argparse.Namespace) -> str:
    """The prompter that was asked for; weights alone ask for SAM."""
    return options.prompter or ("sam" if options.weights else "region-tree")
