"""A few images written in a format on trial: how large they become, and what of them does not come back."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset, Entry, open_dataset
from napari_histomix.datasets.entries import read_json_object
from napari_histomix.datasets.formats.polygons import shapes_of
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, Placement
from napari_histomix.study.augmented import ORIGIN, Augmented

SAMPLE = 6
"""Images that are written on trial."""

ONE_LINE = ("yolo", "aperio-xml")
"""Formats in which a nucleus is one line, whatever it looks like."""

T = TypeVar("T")


def many(number: int, one: str, more: str = "") -> str:
    """A number of things in words."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def sample_of(entries: Sequence[Entry], targets: Collection[str]) -> list[Entry]:
    """Some images, evenly spread, half of them among those with placements."""
    synthetic = [entry for entry in entries if entry.source.image in targets]
    chosen_ones = {entry.source.image for entry in (*_spread(synthetic, SAMPLE // 2), *_spread(entries, SAMPLE // 2))}
    return [entry for entry in entries if entry.source.image in chosen_ones]


def _spread(items: Sequence[T], count: int) -> list[T]:
    places = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[place] for place in places]


@dataclass(frozen=True, slots=True)
class Trial:
    """What some images came to: files and bytes of the format, files more for each image, and bytes of origin maps."""

    files: int
    each: float
    size: int
    maps: int
    losses: list[str]


def try_format(
    dataset: Dataset, placements: Sequence[Placement], sample: Sequence[Entry], format: str, ignore_band: bool
) -> Job[Trial]:
    """Write some images into a temporary folder, and read them again."""
    try:
        with tempfile.TemporaryDirectory(prefix="histomix-") as place:
            folder = Path(place) / "trial"
            folder.mkdir()
            written = Augmented(dataset, placements, folder, format, ignore_band)
            made: list[LabeledImage] = []
            counts = []
            for number, entry in enumerate(sample):
                yield Event("Trying the format", number, len(sample))
                if (image := written.write(entry)) is not None:
                    made.append(image)
                counts.append(sum(1 for _ in _files(folder)))
            written.finish()
            yield Event("Trying the format", len(sample), len(sample))
            sizes = [path.stat().st_size for path in _files(folder)]
            maps = sum(path.stat().st_size for path in (folder / ORIGIN).glob("*"))
            each = (counts[-1] - counts[0]) / max(len(counts) - 1, 1)
            return Trial(len(sizes), each, sum(sizes), maps, _losses(made, format, folder))
    except OSError as error:
        raise HistomixError(
            f"The temporary folder could not be written ({error.strerror or error}); free space there."
        ) from None


def _files(folder: Path) -> Iterator[Path]:
    """The files in a folder, without the origin maps, which only some images have."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).parts[0] != ORIGIN:
            yield path


def _losses(made: Sequence[LabeledImage], format: str, folder: Path) -> list[str]:
    """What of some images does not come back from the folder they were written to."""
    again = open_dataset(folder)
    found = []
    written_as = read_json_object(folder / "dataset.json").get("written_as", {})
    renamed = [f"{name} as {other}" for name, other in written_as.items() if name.casefold() != other.casefold()]
    if renamed:
        found.append(f"This format has classes of its own: {', '.join(renamed)}.")
    back = {entry.source.image: entry for entry in again.entries}
    changed = total = 0
    for one in made:
        nuclei = len(np.unique(one.instances[one.instances > 0]))
        total += nuclei
        entry = back.get(one.source.image)
        changed += nuclei if entry is None else _changed(one.instances, again.read(entry).instances)
    where = f"of {total:,} nuclei in the {many(len(made), 'image')} tried"
    if changed:
        found.append(f"The outlines of {changed:,} {where} change: holes or loose parts are lost.")
    if format in ONE_LINE and (joined := sum(map(_joined, made))):
        found.append(
            f"{joined:,} {where} have holes or loose parts, and this format has one line for each: they are joined by "
            "lines that some programs draw one pixel wide."
        )
    return found


def _joined(image: LabeledImage) -> int:
    """How many nuclei have holes or are in several parts."""
    return sum(len(parts) > 1 or bool(parts[0][1]) for _, parts in shapes_of(image.instances))


def _changed(before: NDArray[np.int32], after: NDArray[np.int32]) -> int:
    """How many instances do not come back with exactly their pixels, under whatever id."""
    if before.shape != after.shape:
        return len(np.unique(before[before > 0]))
    # Both ids in one number: that sorts many times faster than pairs.
    pairs = np.unique(before.astype(np.int64) << 32 | after)
    ids, others = (pairs >> 32).tolist(), (pairs & 0xFFFFFFFF).tolist()
    parts, givers = Counter(ids), Counter(others)
    kept = {
        one for one, other in zip(ids, others, strict=True) if one and other and parts[one] == 1 and givers[other] == 1
    }
    return len(parts.keys() - kept - {0})
