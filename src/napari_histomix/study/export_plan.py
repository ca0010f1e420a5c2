"""What an export would write, before it writes: images, nuclei, files, bytes, and what the format does not hold."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.datasets import Dataset, Survey, survey
from napari_histomix.datasets.dataset_writer import check_place
from napari_histomix.datasets.formats import format_of
from napari_histomix.datasets.splits import check_splits
from napari_histomix.records import Event, HistomixError, Job, MixedImage, Placement
from napari_histomix.study.augmented import by_image, chosen, counts_after
from napari_histomix.study.export_preview import SAMPLE, many, sample_of, try_format
from napari_histomix.study.manifest import json_text, placement_record

_FIXED_FILES, _FIXED_BYTES = 4, 45_000
"""README.md, class_counts.png and the two manifests; bytes of the first two."""

_TISSUE_FILES = 5
"""images.csv, dataset.json, manifest.json, origins.zip and README.md."""

_TABLE_SHARE = 0.6
"""Bytes of a row of manifest.csv, by those of the same record in manifest.json."""


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What an export would write.

    Parameters
    ----------
    images, synthetic_images : int
        Images in all, and those with synthetic pixels among them.
    synthetic : int
        Synthetic nuclei; of tissue, synthetic images.
    before, after : mapping of str to int
        Nuclei by class name, without and with the synthetic ones; of tissue, images.
    files, size : int
        How many files, and about how many bytes: from up to six images that were written on trial.
    free : int
        Bytes that are free where it is to go.
    left_out, losses : tuple of str
        What stays out, and what the format does not hold: sentences a person should read before.
    """

    images: int
    synthetic_images: int
    synthetic: int
    before: Mapping[str, int]
    after: Mapping[str, int]
    files: int
    size: int
    free: int
    left_out: tuple[str, ...]
    losses: tuple[str, ...] = ()

    @property
    def refusal(self) -> str:
        """Why it cannot be written; empty where it can."""
        if self.size <= self.free:
            return ""
        return (
            f"The export needs about {bytes_text(self.size)} and {bytes_text(self.free)} are free there; "
            "free space or choose another place."
        )


def bytes_text(size: int) -> str:
    """A number of bytes as people read it, such as 12.3 MB."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "bytes" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def plan_export(
    dataset: Dataset,
    placements: Iterable[Placement],
    out: Path,
    decisions: Mapping[int, str] | None = None,
    *,
    format: str = "hovernet",
    ignore_band: bool = False,
    counted: Survey | None = None,
) -> Job[ExportPlan]:
    """Find out what `export.export` would write with the same arguments; a long job (see ``records.Job``).

    Up to six images are written into a temporary folder and read again: from their size follows that of all, and what
    comes back changed is what the format does not hold.

    Parameters
    ----------
    dataset, placements, out, decisions, format, ignore_band
        As for the export.
    counted : Survey, optional
        Of the dataset, where it is known already; else every image is read.

    Raises
    ------
    HistomixError
        As the export would before it writes, or if the temporary folder cannot be written.
    """
    out = Path(out)
    format_of(format)
    check_place(out)
    placements = tuple(placements)
    wanted = chosen(dataset, placements, decisions)
    if counted is None:
        counted = yield from survey(replace(dataset, entries=dataset.training))
    entries = [entry for entry in dataset.training if entry.source.image in counted.counts]
    areas = {entry.source.image: math.prod(counted.shapes[entry.source.image]) for entry in entries}
    targets = by_image(wanted)
    if unreadable := sorted(targets.keys() - areas.keys()):
        raise HistomixError(f"{unreadable[0]} cannot be read, and synthetic nuclei were placed in it; mend its files.")
    sample = sample_of(entries, targets)
    trial = yield from try_format(dataset, wanted, sample, format, ignore_band)
    tried = {entry.source.image for entry in sample}
    share = sum(areas.values()) / sum(areas[name] for name in tried)
    names = {one.number: one.name for one in dataset.classes}
    records = [len(json_text(placement_record(one, names, "approve", {})).encode()) for one in wanted[:SAMPLE]]
    size = trial.size * share + trial.maps * len(targets) / len(targets.keys() & tried)
    size += (1 + _TABLE_SHARE) * len(wanted) * sum(records) / len(records) + _FIXED_BYTES
    files = trial.files + trial.each * (len(entries) - len(sample)) + len(targets) + _FIXED_FILES
    before = sum((counted.counts[name] for name in areas), Counter[int]())
    after = counts_after(before, wanted)
    return ExportPlan(
        len(entries),
        len(targets),
        len(wanted),
        {one.name: before[one.number] for one in dataset.classes},
        {one.name: after[one.number] for one in dataset.classes},
        round(files),
        round(size),
        free_space(out),
        _left_out(placements, decisions, len(dataset.training) - len(entries)),
        tuple(trial.losses),
    )


def _left_out(placements: Sequence[Placement], decisions: Mapping[int, str] | None, unreadable: int) -> tuple[str, ...]:
    found = []
    if decisions is None:
        found.append("Nobody reviewed the synthetic nuclei; the manifest says so.")
    else:
        open_ones = sum(decisions.get(one.candidate.rank) is None for one in placements)
        if open_ones:
            verb = "is still undecided and stays" if open_ones == 1 else "are still undecided and stay"
            found.append(f"{many(open_ones, 'synthetic nucleus', 'synthetic nuclei')} {verb} out.")
    if unreadable:
        found.append(_unread(unreadable))
    return tuple(found)


def _unread(number: int) -> str:
    return f"{many(number, 'training image')} cannot be read and {'stays' if number == 1 else 'stay'} out."


def free_space(out: Path) -> int:
    """Bytes that are free where a folder is to go, which need not be there yet."""
    place = Path(out).absolute()
    while not place.exists():
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError as error:
        raise HistomixError(f"{place} cannot be read ({error.strerror or error}); choose another place.") from None


def plan_tissue(dataset: Dataset, synthetic: Sequence[MixedImage], out: Path) -> Job[ExportPlan]:
    """Find out what ``datasets.class_folders.export_tissue`` would write; a long job (see ``records.Job``).

    Parameters
    ----------
    dataset, synthetic, out
        As for the export.

    Raises
    ------
    HistomixError
        If ``out`` exists, a patient is on two sides of the split, there is no synthetic image, or one is damaged.
    """
    out = Path(out)
    check_place(out)
    check_splits(dataset)
    if not synthetic:
        raise HistomixError("There is no synthetic image to export; make and approve some first.")
    before: Counter[str] = Counter()
    size, unreadable = _FIXED_BYTES, 0
    for entry in dataset.training:
        try:
            # Training images are copied as they are.
            size += entry.image.stat().st_size
            before[entry.kind] += 1
        except OSError:
            unreadable += 1
    after = before.copy()
    tried, pictures = set(np.linspace(0, len(synthetic) - 1, min(SAMPLE, len(synthetic))).round().astype(int)), []
    for number, one in enumerate(synthetic):
        yield Event("Counting images", number, len(synthetic))
        after[one.kind] += 1
        size += len(json.dumps(dict(one.provenance), indent=1))
        if number in tried:
            pictures.append(_png_size(one.pixels) + _png_size(one.origin))
    size += round(len(synthetic) * sum(pictures) / len(pictures))
    return ExportPlan(
        before.total(),
        len(synthetic),
        len(synthetic),
        {kind: before[kind] for kind in dataset.kinds},
        {kind: after[kind] for kind in dataset.kinds},
        before.total() + len(synthetic) + _TISSUE_FILES,
        size,
        free_space(out),
        (_unread(unreadable),) if unreadable else (),
    )


def _png_size(pixels: NDArray[np.uint8]) -> int:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return len(stream.getvalue())
