"""The leakage guard: nothing of one patient on two sides of a split. Splits are proposed, kept, and checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from napari_histomix.datasets.entries import natural_key, split_name
from napari_histomix.datasets.tables import read_table, write_new_table
from napari_histomix.records import HistomixError, Source

SPLITS = ("train", "val", "test")
_COLUMNS = ("image", "split", "patient", "slide")


class _Entry(Protocol):
    @property
    def source(self) -> Source: ...

    @property
    def kind(self) -> str: ...


class Listed(Protocol):
    """A dataset: all that is asked of it here are the sources and classes of its entries."""

    @property
    def entries(self) -> Sequence[_Entry]: ...


D = TypeVar("D", bound=Any)


@dataclass(frozen=True, slots=True)
class Unit:
    """Images that must be of one split, for they share a patient, a slide or pixels.

    Parameters
    ----------
    name : str
        The patients', else the slides', else the images' names.
    what : str
        ``patient``, ``slide`` or ``image``: what the name is.
    images : tuple of str
        In natural order.
    """

    name: str
    what: str
    images: tuple[str, ...]


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

    def joined(self, first: int, second: int) -> bool:
        """Whether two items are in one group."""
        return self.of(first) == self.of(second)


def split_of(source: Source) -> str:
    """The split of an image; one of no split is of the training split."""
    return source.split or "train"


# Checking.


def shared(dataset: Listed) -> tuple[Shared, ...]:
    """Patients, then slides, whose images are in more than one split."""
    found = []
    for what in ("patient", "slide"):
        sides: dict[str, dict[str, list[str]]] = {}
        for source in (entry.source for entry in dataset.entries):
            if name := getattr(source, what):
                sides.setdefault(name, {}).setdefault(split_of(source), []).append(source.image)
        for name in sorted(sides, key=natural_key):
            if len(sides[name]) > 1:
                ordered = {split: tuple(sides[name][split]) for split in sorted(sides[name], key=split_order)}
                found.append(Shared(what, name, ordered))
    return tuple(found)


def check_splits(dataset: Listed) -> None:
    """Refuse a dataset whose training split shares a patient or a slide with another split.

    ``datasets.copies.check_leaks`` looks at the pixels too.

    Raises
    ------
    HistomixError
        With the offenders, and their images on both sides.
    """
    mixed = [one for one in shared(dataset) if "train" in one.sides]
    if not mixed:
        return
    what = mixed[0].what
    names = [one.sentence for one in mixed if one.what == what]
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    raise HistomixError(
        f"The training split shares {what}s with another split: {shown}; move each {what} to one split."
    )


# What belongs together.


def units(dataset: Listed, together: Iterable[Collection[str]] = ()) -> tuple[Unit, ...]:
    """What a split may not divide: patients, else slides, else images.

    Parameters
    ----------
    dataset : Dataset
    together : iterable of collections of str
        Names of images that belong together for another reason, such as copies.

    Returns
    -------
    tuple of Unit
        In natural order of their names. Patients that share a slide or a copy are one unit.
    """
    sources = sorted((entry.source for entry in dataset.entries), key=lambda one: (natural_key(one.image), one.image))
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
    return tuple(sorted(map(_unit, members.values()), key=lambda one: (natural_key(one.name), one.name, one.images)))


def _unit(sources: list[Source]) -> Unit:
    for what in ("patient", "slide"):
        if names := list(dict.fromkeys(name for source in sources if (name := getattr(source, what)))):
            break
    else:
        what, names = "image", [source.image for source in sources]
    return Unit(few(names), what, tuple(source.image for source in sources))


# Keeping.


def with_splits(dataset: D, splits: Mapping[str, str]) -> D:
    """The dataset with these splits in its entries.

    Parameters
    ----------
    dataset : Dataset
    splits : mapping of str to str
        Split by image; names of images that are not in the dataset do not matter.

    Raises
    ------
    HistomixError
        If an image has none.
    """
    missing = [entry.source.image for entry in dataset.entries if entry.source.image not in splits]
    if missing:
        raise HistomixError(
            f"The splits do not list {few(missing)}; add {'it' if len(missing) == 1 else 'them'}, "
            "or propose splits again."
        )
    entries = tuple(
        replace(entry, source=replace(entry.source, split=split_name(splits[entry.source.image]) or "train"))
        for entry in dataset.entries
    )
    return replace(dataset, entries=entries)


def with_chosen_splits(dataset: D, settings: Mapping[str, Any]) -> D:
    """The dataset with the splits that a study keeps in its settings; an image they do not list keeps its own."""
    chosen = settings.get("splits") or {}
    return with_splits(dataset, {entry.source.image: split_of(entry.source) for entry in dataset.entries} | chosen)


def write_splits(path: Path, dataset: Listed, splits: Mapping[str, str] | None = None) -> None:
    """Write a new CSV with the split of every image, its patient and its slide.

    Parameters
    ----------
    path : Path
        A file that is not there yet.
    dataset : Dataset
    splits : mapping of str to str, optional
        Split by image; the dataset's own by default.

    Raises
    ------
    HistomixError
        If the file is there, or cannot be written.
    """
    chosen = splits or {entry.source.image: split_of(entry.source) for entry in dataset.entries}
    sources = [entry.source for entry in dataset.entries]
    write_new_table(path, _COLUMNS, [(one.image, chosen[one.image], one.patient, one.slide) for one in sources])


def read_splits(path: Path) -> dict[str, str]:
    """Read a CSV with the columns image and split, as ``write_splits`` writes it; comma or semicolon, UTF-8.

    Raises
    ------
    HistomixError
        If it cannot be read, lacks a column, or gives an image no split or two.
    """
    result: dict[str, str] = {}
    for line, cells in read_table(path, *_COLUMNS[:2]).rows:
        image, split = cells["image"], split_name(cells["split"])
        if image and not split:
            raise HistomixError(f"{path.name}, line {line}: {image} has no split; write one.")
        if image and result.setdefault(image, split) != split:
            raise HistomixError(
                f"{path.name}, line {line}: {image} is {result[image]} above and {split} here; keep one."
            )
    if not result:
        raise HistomixError(f"{path.name} lists no image; write one a line.")
    return result


def split_order(name: str) -> tuple[int, str]:
    """Sort key: train, val, test, then others by name."""
    return (SPLITS.index(name) if name in SPLITS else len(SPLITS)), name


def few(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
