"""The leakage guard: nothing of one patient on two sides of a split. Splits are checked, proposed and kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.entries import natural_key, natural_order, split_name, split_problems
from napari_histomix.datasets.text_files import read_table, write_new_table
from napari_histomix.records import HistomixError, Source

SPLITS = ("train", "val", "test")
_COLUMNS = ("image", "split", "patient", "slide")


@dataclass(frozen=True, slots=True)
class Unit:
    """Images that must be of one split, for they share a patient, a slide or pixels."""

    name: str  # the patients', else the slides', else the images' names
    what: str  # ``patient``, ``slide`` or ``image``: what the name is
    images: tuple[str, ...]  # in natural order


@dataclass(frozen=True, slots=True)
class Shared:
    """A patient or slide (``what``) of images in more than one split; ``sides`` are the images by split."""

    what: str
    name: str
    sides: Mapping[str, tuple[str, ...]]

    @property
    def sentence(self) -> str:
        """Name and both sides: ``b (train: i1; test: i2, i3)``."""
        return f"{self.name} ({'; '.join(f'{split}: {few(images)}' for split, images in self.sides.items())})"


class Groups:
    """Items that belong together, directly or through others (union and find)."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def of(self, item: int) -> int:
        """The item that stands for a group, its first."""
        while self._parents[item] != item:
            self._parents[item] = item = self._parents[self._parents[item]]
        return item

    def join(self, first: int, second: int) -> None:
        """Make one group of two."""
        low, high = sorted((self.of(first), self.of(second)))
        self._parents[high] = low


def split_of(source: Source) -> str:
    """The split of an image; one of no split is of the training split."""
    return source.split or "train"


def shared(dataset: Dataset) -> tuple[Shared, ...]:
    """Patients, then slides, whose images are in more than one split."""
    groups = []
    for what in ("patient", "slide"):
        sides: dict[str, dict[str, list[str]]] = {}
        for source in (entry.source for entry in dataset.entries):
            if name := getattr(source, what):
                sides.setdefault(name, {}).setdefault(split_of(source), []).append(source.image)
        for name in sorted(sides, key=natural_key):
            if len(sides[name]) > 1:
                ordered = {split: tuple(sides[name][split]) for split in sorted(sides[name], key=split_order)}
                groups.append(Shared(what, name, ordered))
    return tuple(groups)


def check_splits(dataset: Dataset) -> None:
    """Refuse a dataset whose training split shares a patient or a slide with another split.

    ``datasets.copies.check_leaks`` looks at the pixels too.
    """
    mixed = [group for group in shared(dataset) if "train" in group.sides]
    if mixed:
        what = mixed[0].what
        shown = few([group.sentence for group in mixed if group.what == what], most=10)
        raise HistomixError(
            f"The training split shares {what}s with another split: {shown}; move each {what} to one split."
        )


_ABSENT = "no image of that name", "no such image"
"""Words of problems about an image whose file is not there."""


def absence(dataset: Dataset, image: str) -> str:
    """What became of an image that is none of a dataset's, in words after its name, with what to do."""
    said = next((problem.sentence for problem in dataset.problems if problem.image == image), "")
    remedy = "put {} back, or say where the images are now (--dataset FOLDER)"
    if not said or any(words in said for words in _ABSENT):
        return f"its file is gone from {dataset.root}; {remedy.format('it')}"
    reason = said.removeprefix(f"{image}: ").rstrip(".").replace("; it is left out", "")
    return f"it can no longer be read ({reason}); {remedy.format('its files')}"


def check_training(dataset: Dataset, images: Iterable[str], remedy: str) -> None:
    """Raise HistomixError if an image that something was made of is not there, or of another split than training.

    ``remedy`` is what to do about one of another split.
    """
    known = {entry.source.image: entry for entry in dataset.entries}
    wanted = sorted(set(images), key=natural_order)
    for image in wanted:
        if image not in known:
            raise HistomixError(f"Something was made of the image {image}, but {absence(dataset, image)}.")
    training = {entry.source.image for entry in dataset.training}
    for image in wanted:
        if image not in training:
            split = known[image].source.split
            raise HistomixError(
                f"The image {image} is not in the training split of {dataset.name} any more but in {split!r}; {remedy}."
            )


def units(dataset: Dataset, together: Iterable[Collection[str]] = ()) -> tuple[Unit, ...]:
    """What a split may not divide: patients, else slides, else images."""
    sources = sorted((entry.source for entry in dataset.entries), key=lambda source: natural_order(source.image))
    index = {source.image: number for number, source in enumerate(sources)}
    groups = Groups(len(sources))
    seen: dict[tuple[str, str], int] = {}
    for number, source in enumerate(sources):
        for what, name in (("patient", source.patient), ("slide", source.slide)):
            if name:
                groups.join(seen.setdefault((what, name), number), number)
    for images in together:
        known = [index[image] for image in images if image in index]
        for other in known[1:]:
            groups.join(known[0], other)
    members: dict[int, list[Source]] = {}
    for number, source in enumerate(sources):
        members.setdefault(groups.of(number), []).append(source)
    return tuple(sorted(map(_unit, members.values()), key=lambda unit: (natural_order(unit.name), unit.images)))


def _unit(sources: list[Source]) -> Unit:
    for what in ("patient", "slide", "image"):
        if names := list(dict.fromkeys(name for source in sources if (name := getattr(source, what)))):
            break
    return Unit(few(names), what, tuple(source.image for source in sources))


def with_splits(dataset: Dataset, splits: Mapping[str, str]) -> Dataset:
    """The dataset with these splits in its entries."""
    if missing := [entry.source.image for entry in dataset.entries if entry.source.image not in splits]:
        raise HistomixError(
            f"The splits do not list {few(missing)}; add {'it' if len(missing) == 1 else 'them'}, "
            "or propose splits again."
        )
    entries = tuple(
        replace(entry, source=replace(entry.source, split=split_name(splits[entry.source.image]) or "train"))
        for entry in dataset.entries
    )
    others = [problem for problem in dataset.problems if problem.about != "splits"]
    return replace(dataset, entries=entries, problems=(*others, *split_problems(entries)))


def with_chosen_splits(dataset: Dataset, settings: Mapping[str, Any]) -> Dataset:
    """The dataset with the splits that a study keeps in its settings; an image they do not list keeps its own."""
    chosen = settings.get("splits") or {}
    return with_splits(dataset, {entry.source.image: split_of(entry.source) for entry in dataset.entries} | chosen)


def write_splits(path: Path, dataset: Dataset, splits: Mapping[str, str] | None = None) -> None:
    """Write a new CSV with the split of every image, its patient and its slide."""
    sources = [entry.source for entry in dataset.entries]
    chosen = splits or {source.image: split_of(source) for source in sources}
    write_new_table(path, _COLUMNS, [(s.image, chosen[s.image], s.patient, s.slide) for s in sources])


def read_splits(path: Path) -> dict[str, str]:
    """Read a CSV with the columns image and split, as ``write_splits`` writes it; comma or semicolon, UTF-8."""
    result: dict[str, str] = {}
    for line, cells in read_table(path, *_COLUMNS[:2]).rows:
        image, split, where = cells["image"], split_name(cells["split"]), f"{path.name}, line {line}"
        if image and not split:
            raise HistomixError(f"{where}: {image} has no split; write one.")
        if image and result.setdefault(image, split) != split:
            raise HistomixError(f"{where}: {image} is {result[image]} above and {split} here; keep one.")
    if not result:
        raise HistomixError(f"{path.name} lists no image; write one a line.")
    return result


def split_order(name: str) -> tuple[int, str]:
    """Sort key: train, val, test, then others by name."""
    return (SPLITS.index(name) if name in SPLITS else len(SPLITS)), name


def few(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


SHARES: Mapping[str, float] = {"train": 0.7, "val": 0.15, "test": 0.15}
"""Shares of the images in a proposal."""
TRIES = 8
"""Drawn proposals of which the best is taken."""

# What it costs that a split lacks a class, beside squared differences of shares: donors come from the training split,
# and a class that is not in the test split cannot be measured.
_MISSING = {"train": 100.0, "test": 10.0}
_MISSING_ELSEWHERE = 1.0


def propose_splits(
    dataset: Dataset,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    counts: Mapping[str, Mapping[Any, int]] | None = None,
    together: Iterable[Collection[str]] = (),
    keep: Collection[str] = (),
) -> dict[str, str]:
    """Give every image a split: patients whole, shares met as well as they can be, classes in every split.

    Of several drawn starts, each made better by moving one unit at a time as long as that helps (in the manner of
    iterative stratification: Sechidis, Tsoumakas & Vlahavas, ECML PKDD 2011), the best is taken. The order of the
    images does not matter. Shares are of the images and of each class, and need not add up to 1. ``counts`` are nuclei
    by class of each image (``Survey.counts``), without which images count for their own class; images ``together`` are
    of one unit (see ``units``). Images of splits in ``keep``, such as a published test split, stay there; what belongs
    to these images comes to them, nothing else does.
    """
    shares = {name: float(share) for name, share in shares.items() if share and name not in keep}
    if not all(0 < share < np.inf for share in shares.values()) or not (shares.keys() | set(keep)) >= {"train"}:
        raise HistomixError("Shares of splits must not be negative, and the training split needs one.")
    now = {entry.source.image: split_of(entry.source) for entry in dataset.entries}
    kept = {image: split for image, split in now.items() if split in keep}
    free = []
    result = dict(now)
    for unit in units(dataset, together):
        if known := [kept[image] for image in unit.images if image in kept]:
            # All of a unit goes to the split that an image of it must not leave.
            result |= dict.fromkeys(unit.images, known[0])
        else:
            free.append(unit)
    if free and shares:
        sides = _best(_amounts(_counted(dataset, counts), free), shares, np.random.default_rng(seed))
        for unit, side in zip(free, sides, strict=True):
            result |= dict.fromkeys(unit.images, list(shares)[side])
    return result


def shortcomings(
    dataset: Dataset,
    splits: Mapping[str, str],
    counts: Mapping[str, Mapping[Any, int]] | None = None,
    names: Mapping[Any, str] | None = None,
    together: Iterable[Collection[str]] = (),
) -> tuple[str, ...]:
    """What a person should know of splits: images of unknown origin, and classes that a split lacks."""
    counted = _counted(dataset, counts)
    everything = units(dataset, together)
    there = sorted(set(splits.values()), key=split_order)
    sentences = []
    unnamed = sum(not (entry.source.patient or entry.source.slide) for entry in dataset.entries)
    if unnamed and len(there) > 1:
        sentences.append(
            f"{unnamed:,} of {len(dataset.entries):,} images name no patient and no slide, so that one patient may be "
            "on two sides; name them in images.csv with the columns image, patient and slide."
        )
    kinds = {kind for counts_there in counted.values() for kind, count in counts_there.items() if count}
    for kind in sorted(kinds, key=str):
        holders = [unit for unit in everything if any(counted[image].get(kind) for image in unit.images)]
        sides = {splits[image] for unit in holders for image in unit.images if counted[image].get(kind)}
        if missing := [split for split in there if split not in sides]:
            reason = ""
            if len(holders) < len(there):
                many = "1 has" if len(holders) == 1 else f"{len(holders)} have"
                reason = f": of all {holders[0].what}s only {many} any ({few([unit.name for unit in holders])})"
            sentences.append(f"{(names or {}).get(kind, str(kind))} does not occur in {' and '.join(missing)}{reason}.")
    return tuple(sentences)


def _counted(dataset: Dataset, counts: Mapping[str, Mapping[Any, int]] | None) -> dict[str, Mapping[Any, int]]:
    """Nuclei by class of each image; an image of tissue counts for its own class."""
    if counts is None:
        return {entry.source.image: {entry.kind: 1} if entry.kind else {} for entry in dataset.entries}
    return {entry.source.image: counts.get(entry.source.image, {}) for entry in dataset.entries}


def _amounts(counted: Mapping[str, Mapping[Any, int]], free: Sequence[Unit]) -> NDArray[np.float64]:
    """(units, 1 + classes): images, and nuclei of each class, as shares of all there are."""
    images = {image for unit in free for image in unit.images}
    kinds = sorted({kind for image in images for kind, count in counted[image].items() if count}, key=str)
    rows = [
        [len(unit.images), *(sum(counted[image].get(kind, 0) for image in unit.images) for kind in kinds)]
        for unit in free
    ]
    amounts = np.array(rows, float)
    return np.asarray(amounts / amounts.sum(axis=0))


def _best(amounts: NDArray[np.float64], shares: Mapping[str, float], rng: np.random.Generator) -> NDArray[np.intp]:
    """Side of each unit: the cheapest of several proposals."""
    wanted = np.array(list(shares.values()))[:, None] / sum(shares.values())
    missing = np.array([_MISSING.get(name, _MISSING_ELSEWHERE) for name in shares])[:, None]
    best, lowest = np.empty(0, np.intp), np.inf
    for _ in range(TRIES):
        sides = _improved(amounts, wanted, missing, rng)
        cost = _cost(_held(amounts, sides, len(wanted)), wanted, missing).sum()
        if cost < lowest - 1e-12:
            best, lowest = sides, float(cost)
    return best


def _cost(held: NDArray[np.float64], wanted: NDArray[np.float64], missing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cost of what a side holds of each amount, in the shape of ``held`` (…, sides, amounts)."""
    return np.asarray((held - wanted) ** 2 + missing * (held < 1e-12))


def _held(amounts: NDArray[np.float64], sides: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    held = np.zeros((count, amounts.shape[1]))
    np.add.at(held, sides, amounts)
    return held


def _improved(
    amounts: NDArray[np.float64], wanted: NDArray[np.float64], missing: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.intp]:
    """A drawn start, made better by single moves until none helps."""
    count, number = len(wanted), len(amounts)
    sides = np.zeros(number, np.intp)
    held = np.zeros((count, amounts.shape[1]))
    # The units that hold most of something come first, while there is room for them; ties are drawn.
    for unit in sorted(rng.permutation(number), key=lambda unit: -amounts[unit].max()):
        costs = (_cost(held + amounts[unit], wanted, missing) - _cost(held, wanted, missing)).sum(axis=1)
        sides[unit] = int(np.argmin(costs))
        held[sides[unit]] += amounts[unit]
    for _ in range(4 * number):
        held = _held(amounts, sides, count)
        before = _cost(held, wanted, missing).sum(axis=1)
        # What each side would cost with each unit added, and each unit's own side without it.
        added = _cost(held[None] + amounts[:, None], wanted, missing).sum(axis=2) - before
        own = held[sides] - amounts
        taken = _cost(own, wanted[sides], missing[sides]).sum(axis=1) - before[sides]
        gains = -(added + taken[:, None])
        gains[np.arange(number), sides] = 0.0
        unit, side = np.unravel_index(int(gains.argmax()), gains.shape)
        if gains[unit, side] < 1e-9:
            break
        sides[unit] = side
    return sides
