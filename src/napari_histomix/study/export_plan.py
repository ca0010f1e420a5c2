"""What an export would write, before it writes: images, nuclei, files, bytes, and what the format does not hold.

A few images are written in the format on trial: how large they become, and what of them does not come back.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset, Entry, Survey, open_any, survey
from napari_histomix.datasets.edits import edit_files
from napari_histomix.datasets.entries import read_json_object
from napari_histomix.datasets.formats import CLASS_FOLDERS
from napari_histomix.datasets.formats.polygons import shapes_of
from napari_histomix.datasets.writing import check_place, safe_name
from napari_histomix.records import Change, Event, HistomixError, Job, LabeledImage
from napari_histomix.study.export import chosen, format_for
from napari_histomix.study.export_images import ORIGIN, SHARES, Augmented
from napari_histomix.study.manifest import json_text, records_of

SAMPLE = 6
"""Images that are written on trial."""

ONE_LINE = ("yolo", "aperio-xml")
"""Formats in which a nucleus is one line, whatever it looks like."""

_FIXED_FILES, _FIXED_BYTES = 4, 45_000
"""README.md, class_counts.png and the two manifests; bytes of the first two."""

_TABLE_SHARE = 0.6
"""Bytes of a row of manifest.csv, by those of the same record in manifest.json."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What an export would write.

    ``images`` in all, ``synthetic_images`` of them with synthetic pixels, made of ``synthetic`` changes; nuclei or
    images (``unit``) by class name ``before`` and ``after``; ``files`` of about ``size`` bytes, while ``free`` are free
    where they are to go. ``left_out`` and ``losses``, which the format does not hold, are sentences to read before.
    """

    images: int
    synthetic_images: int
    synthetic: int
    before: Mapping[str, int]
    after: Mapping[str, int]
    unit: str
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
    changes: Iterable[Change],
    out: Path,
    decisions: Mapping[int, str] | None = None,
    *,
    format: str | None = None,
    ignore_band: bool = False,
    counted: Survey | None = None,
) -> Job[ExportPlan]:
    """Find out what `export.export` would write with the same arguments; a long job (see ``records.Job``).

    Up to six images are written into a temporary folder and read again: from their size follows that of all, and what
    comes back changed is what the format does not hold. ``counted``, a survey of the dataset where it is known already,
    saves reading every image.

    Raises HistomixError as the export would before it writes, or if the temporary folder cannot be written.
    """
    out = Path(out)
    format = format_for(dataset, format, ignore_band)
    check_place(out)
    changes = tuple(changes)
    wanted = chosen(dataset, changes, decisions)
    if counted is None:
        counted = yield from survey(replace(dataset, entries=dataset.training))
    entries = [entry for entry in dataset.training if entry.source.image in counted.counts]
    readable = {entry.source.image for entry in entries}
    if unreadable := sorted({change.image for change in wanted if change.image} - readable):
        reasons = (problem.sentence for problem in counted.problems if problem.image == unreadable[0])
        reason = next(reasons, "it was not counted").removeprefix(f"{unreadable[0]}: ").rstrip(".")
        raise HistomixError(
            f"{unreadable[0]} cannot be read, and something synthetic was made of it ({reason}); put its files back as "
            "they were."
        )
    pieces = _Pieces(entries, counted, wanted, format)
    files, size, losses = yield from _try_format(dataset, wanted, pieces, format, ignore_band)
    records = [len(json_text(record.content).encode()) for record in records_of(dataset, wanted[:SAMPLE], {}, {})]
    size += (1 + _TABLE_SHARE) * len(wanted) * sum(records) / len(records) + _FIXED_BYTES
    edits = edit_files(dataset)
    size += sum(file.stat().st_size for file in edits)
    soft = any(len(change.class_shares or {}) > 1 for change in wanted)
    yield Event("Counting", 0, 0)
    before, after = _counts(dataset, entries, counted, wanted, format)
    return ExportPlan(
        images=len(pieces.encoded) + len(pieces.copied),
        synthetic_images=len(pieces.synthetic),
        synthetic=len(wanted),
        before=before,
        after=after,
        unit="images" if format == CLASS_FOLDERS else "nuclei",
        files=round(files) + len(pieces.synthetic) + _FIXED_FILES + soft + len(edits),
        size=round(size),
        free=free_space(out),
        left_out=_left_out(changes, decisions, len(dataset.training) - len(entries)),
        losses=tuple(losses),
    )


class _Pieces:
    """The images of an export: what is encoded anew and what is copied as it is, and a sample of the former."""

    def __init__(self, entries: Sequence[Entry], counted: Survey, changes: Sequence[Change], format: str) -> None:
        changed = {change.image for change in changes if change.in_place}
        self.copied = [entry for entry in entries if format == CLASS_FOLDERS and entry.source.image not in changed]
        copied, whole = {_name(entry) for entry in self.copied}, [change for change in changes if not change.in_place]
        self.encoded: list[Entry | Change] = [*(entry for entry in entries if _name(entry) not in copied), *whole]
        self.synthetic = [piece for piece in self.encoded if isinstance(piece, Change) or _name(piece) in changed]
        shapes = {_name(entry): counted.shapes[_name(entry)] for entry in entries}
        shapes |= {change.name: change.shape for change in whole}
        self._areas = {name: math.prod(shape) for name, shape in shapes.items()}
        # Evenly spread, half of them among the synthetic ones.
        chosen = {_name(piece) for part in (self.synthetic, self.encoded) for piece in _spread(part, SAMPLE // 2)}
        self.sample = [piece for piece in self.encoded if _name(piece) in chosen]

    def share(self, pieces: Sequence[Entry | Change]) -> float:
        """How many times larger all of these images are than those of them that are in the sample."""
        size = {_name(piece): self._areas[_name(piece)] for piece in pieces}
        return sum(size.values()) / sum(size.get(_name(piece), 0) for piece in self.sample)


def _name(piece: Entry | Change) -> str:
    return piece.name if isinstance(piece, Change) else piece.source.image


def _spread(items: Sequence[T], count: int) -> list[T]:
    places = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[place] for place in places]


def _counts(
    dataset: Dataset, entries: Sequence[Entry], counted: Survey, changes: Iterable[Change], format: str
) -> list[dict[str, int]]:
    """Nuclei by class name without and with changes; images, where the format holds them by their class.

    Pixels of no change are read, unless it takes more away than its target, or is a whole image with its own labels.
    """
    keys: dict[str, Any]
    if format == CLASS_FOLDERS:
        keys, kinds = {kind: kind for kind in dataset.kinds}, {entry.source.image: entry.kind for entry in entries}
        before = Counter[Any](kinds.values())
        after = before.copy()
        for change in changes:
            shares = change.class_shares
            if change.in_place:
                after[kinds[change.image]] -= 1
            after[max(shares, key=shares.__getitem__) if shares else kinds.get(change.image, "")] += 1
    else:
        keys = {known.name: known.number for known in dataset.classes_in(counted)}
        before = sum((counted.counts[entry.source.image] for entry in entries), Counter[Any]())
        after = before.copy()
        for change in changes:
            if not change.in_place and change.labels is None and change.image:
                after.update(counted.counts[change.image])
            after.update(_gained(dataset, change))
    return [{name: counts[key] for name, key in keys.items()} for counts in (before, after)]


def _gained(dataset: Dataset, change: Change) -> Counter[int]:
    """Nuclei by class number that an image gains by a change; negative where they are lost."""
    if not change.in_place and change.labels is not None:
        types = {**(dataset.read(change.image).types if change.image else {}), **change.added}
        return Counter(types[number] for number in np.unique(change.labels).tolist() if number > 0)
    gained = Counter(change.added.values())
    target = change.target
    if change.removed and target is not None and change.removed == (target.item,):
        gained[target.type] -= 1
    elif change.removed:
        types = dict(dataset.read(change.image).types)
        gained.subtract(types[number] for number in change.removed)
    return gained


def _left_out(changes: Sequence[Change], decisions: Mapping[int, str] | None, unreadable: int) -> tuple[str, ...]:
    in_place = {change.in_place for change in changes}
    words = ("nucleus", "nuclei") if in_place == {True} else ("image", "images")
    if len(in_place) > 1:
        words = "nucleus or image", "nuclei and images"
    sentences = []
    if decisions is None:
        sentences.append(f"Nobody reviewed the synthetic {words[1]}; the manifest says so.")
    elif undecided := sum(decisions.get(change.id) is None for change in changes):
        verb = "is still undecided and stays" if undecided == 1 else "are still undecided and stay"
        sentences.append(f"{_many(undecided, *(f'synthetic {word}' for word in words))} {verb} out.")
    if unreadable:
        stay = "stays" if unreadable == 1 else "stay"
        sentences.append(f"{_many(unreadable, 'training image')} cannot be read and {stay} out.")
    return tuple(sentences)


def _many(number: int, word: str, plural: str = "") -> str:
    """A number of things in words."""
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def free_space(out: Path) -> int:
    """Bytes that are free where a folder is to go, which need not be there yet."""
    place = Path(out).absolute()
    while not place.exists():
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError as error:
        raise HistomixError(f"{place} cannot be read ({error.strerror or error}); choose another place.") from None


def _try_format(
    dataset: Dataset, changes: Sequence[Change], pieces: _Pieces, format: str, ignore_band: bool
) -> Job[tuple[float, float, list[str]]]:
    """Write the sample into a temporary folder, and read it again.

    From it follow the files and bytes of all images but the number of their origin maps; and what gets lost.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="histomix-") as place:
            folder = Path(place) / "trial"
            folder.mkdir()
            written = Augmented(dataset, changes, folder, format, ignore_band)
            images: list[LabeledImage] = []
            numbers = []
            for number, piece in enumerate(pieces.sample):
                yield Event("Trying the format", number, len(pieces.sample))
                if (image := written.write(piece)) is not None:
                    images.append(image)
                numbers.append(len(_files(folder)))
            written.finish()
            yield Event("Trying the format", len(pieces.sample), len(pieces.sample))
            sizes = [path.stat().st_size for path in _files(folder)]
            maps = [path.stat().st_size for path in (folder / ORIGIN).rglob("*.png")]
            losses = _losses(dataset, images, format, folder)
    except OSError as error:
        raise HistomixError(
            f"The temporary folder could not be written ({error.strerror or error}); free space there."
        ) from None
    each = (numbers[-1] - numbers[0]) / max(len(numbers) - 1, 1)
    files = len(sizes) + each * (len(pieces.encoded) - len(pieces.sample)) + len(pieces.copied)
    size = sum(sizes) * pieces.share(pieces.encoded) + sum(maps) * pieces.share(pieces.synthetic)
    return files, size + sum(entry.image.stat().st_size for entry in pieces.copied), losses


def _files(folder: Path) -> list[Path]:
    """The files in a folder, without those that only some images have."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if path.relative_to(folder).parts[0] not in (ORIGIN, SHARES)]


def _losses(dataset: Dataset, images: Sequence[LabeledImage], format: str, folder: Path) -> list[str]:
    """What of some images does not come back from the folder they were written to."""
    if format == CLASS_FOLDERS:
        return ["This format holds no nuclei: only the class of each image is written."] if dataset.has_nuclei else []
    losses = []
    if dataset.has_kinds:
        losses.append("This format holds nuclei: the class of each image as a whole is lost.")
    again = open_any(folder)
    written_as = read_json_object(folder / "dataset.json").get("written_as", {})
    renamed = [f"{name} as {other}" for name, other in written_as.items() if name.casefold() != other.casefold()]
    if renamed:
        losses.append(f"This format has classes of its own: {', '.join(renamed)}.")
    back = {entry.source.image: entry for entry in again.entries}
    changed = total = 0
    for image in images:
        nuclei = len(np.unique(image.instances[image.instances > 0]))
        total += nuclei
        entry = back.get(safe_name(image.source.image))
        changed += nuclei if entry is None else _changed(image.instances, again.read(entry).instances)
    where = f"of {total:,} nuclei in the {_many(len(images), 'image')} tried"
    if changed:
        losses.append(f"The outlines of {changed:,} {where} change: holes or loose parts are lost.")
    outlines = [parts for image in images for _, parts in shapes_of(image.instances)] if format in ONE_LINE else []
    if joined := sum(len(parts) > 1 or bool(parts[0][1]) for parts in outlines):
        losses.append(
            f"{joined:,} {where} have holes or loose parts, and this format has one line for each: they are joined by "
            "lines that some programs draw one pixel wide."
        )
    return losses


def _changed(before: NDArray[np.int32], after: NDArray[np.int32]) -> int:
    """How many instances do not come back with exactly their pixels, under whatever id."""
    if before.shape != after.shape:
        return len(np.unique(before[before > 0]))
    # Both ids in one number: that sorts many times faster than pairs.
    pairs = np.unique(before.astype(np.int64) << 32 | after)
    ids, others = pairs >> 32, pairs & 0xFFFFFFFF
    _, places, parts = np.unique(ids, return_inverse=True, return_counts=True)
    _, other_places, givers = np.unique(others, return_inverse=True, return_counts=True)
    kept = (ids > 0) & (others > 0) & (parts[places] == 1) & (givers[other_places] == 1)
    return len(np.unique(ids[ids > 0])) - int(np.count_nonzero(kept))
