"""Propose splits: patients whole, the shares asked for, and every class in every split where that can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.splits import Listed, Unit, few, split_of, split_order, units
from napari_histomix.records import HistomixError

SHARES: Mapping[str, float] = {"train": 0.7, "val": 0.15, "test": 0.15}
"""Shares of the images in a proposal."""
TRIES = 8
"""Drawn proposals of which the best is taken."""

# What it costs that a split lacks a class, beside squared differences of shares: donors come from the training split,
# and a class that is not in the test split cannot be measured.
_MISSING = {"train": 100.0, "test": 10.0}
_MISSING_ELSEWHERE = 1.0


def propose_splits(
    dataset: Listed,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    counts: Mapping[str, Mapping[Any, int]] | None = None,
    together: Iterable[Collection[str]] = (),
    keep: Collection[str] = (),
) -> dict[str, str]:
    """Give every image a split: patients whole, shares met as well as they can be, classes in every split.

    Of several drawn starts, each made better by moving one unit at a time as long as that helps (in the manner of
    iterative stratification: Sechidis, Tsoumakas & Vlahavas, ECML PKDD 2011), the best is taken. The order of the
    images does not matter.

    Parameters
    ----------
    dataset : Dataset
    shares : mapping of str to float
        Of the images, and of each class, by split; they need not add up to 1.
    seed : int
    counts : mapping, optional
        By image how many nuclei of which class it has (``Survey.counts``). Images of tissue count for their own class.
    together : iterable of collections of str
        As for ``units``.
    keep : collection of str
        Splits whose images stay there, such as a published test split; what belongs to these images comes to them,
        nothing else does.

    Returns
    -------
    dict of str to str
        Split by image.

    Raises
    ------
    HistomixError
        For shares that are none, or none for the training split.
    """
    shares = {name: float(share) for name, share in shares.items() if share and name not in keep}
    if not all(0 < share < np.inf for share in shares.values()) or not (shares.keys() | set(keep)) >= {"train"}:
        raise HistomixError("Shares of splits must not be negative, and the training split needs one.")
    now = {entry.source.image: split_of(entry.source) for entry in dataset.entries}
    kept = {image: split for image, split in now.items() if split in keep}
    everything = units(dataset, together)
    free = [one for one in everything if not any(image in kept for image in one.images)]
    result = {image: _kept_split(one, kept) for one in everything if one not in free for image in one.images}
    if free and shares:
        amounts = _amounts(dataset, free, counts)
        chosen = _best(amounts, shares, np.random.default_rng(seed))
        names = tuple(shares)
        result |= {image: names[side] for one, side in zip(free, chosen, strict=True) for image in one.images}
    else:
        result |= {image: now[image] for one in free for image in one.images}
    return {image: result[image] for image in now}


def shortcomings(
    dataset: Listed,
    splits: Mapping[str, str],
    counts: Mapping[str, Mapping[Any, int]] | None = None,
    names: Mapping[Any, str] | None = None,
    together: Iterable[Collection[str]] = (),
) -> tuple[str, ...]:
    """What a person should know of splits: images of unknown origin, and classes that a split lacks.

    Parameters
    ----------
    dataset : Dataset
    splits : mapping of str to str
        Split by image.
    counts, together
        As for ``propose_splits``.
    names : mapping, optional
        Name of each class in ``counts``.

    Returns
    -------
    tuple of str
        One sentence each.
    """
    counted = _counted(dataset, counts)
    everything = units(dataset, together)
    there = sorted(set(splits.values()), key=split_order)
    found = []
    unnamed = sum(not (entry.source.patient or entry.source.slide) for entry in dataset.entries)
    if unnamed and len(there) > 1:
        found.append(
            f"{unnamed:,} of {len(dataset.entries):,} images name no patient and no slide, so that one patient may be "
            "on two sides; name them in images.csv with the columns image, patient and slide."
        )
    for kind in sorted({kind for one in counted.values() for kind, count in one.items() if count}, key=str):
        holders = [one for one in everything if any(counted[image].get(kind) for image in one.images)]
        sides = {splits[image] for one in holders for image in one.images if counted[image].get(kind)}
        if missing := [split for split in there if split not in sides]:
            reason = ""
            if len(holders) < len(there):
                many = "1 has" if len(holders) == 1 else f"{len(holders)} have"
                reason = f": of all {holders[0].what}s only {many} any ({few([one.name for one in holders])})"
            found.append(f"{(names or {}).get(kind, str(kind))} does not occur in {' and '.join(missing)}{reason}.")
    return tuple(found)


def _kept_split(unit: Unit, kept: Mapping[str, str]) -> str:
    """The split of a unit that has an image in a split that is kept: all of it goes there."""
    return next(kept[image] for image in unit.images if image in kept)


def _counted(dataset: Listed, counts: Mapping[str, Mapping[Any, int]] | None) -> dict[str, Mapping[Any, int]]:
    """Nuclei by class of each image; an image of tissue counts for its own class."""
    result: dict[str, Mapping[Any, int]] = {}
    for entry in dataset.entries:
        own = {entry.kind: 1} if entry.kind else {}
        result[entry.source.image] = own if counts is None else counts.get(entry.source.image, {})
    return result


def _amounts(
    dataset: Listed, free: Sequence[Unit], counts: Mapping[str, Mapping[Any, int]] | None
) -> NDArray[np.float64]:
    """(units, 1 + classes): images, and nuclei of each class, as shares of all there are."""
    counted = _counted(dataset, counts)
    totals: Counter[Any] = Counter()
    for one in free:
        for image in one.images:
            totals.update(counted[image])
    kinds = sorted((kind for kind, total in totals.items() if total), key=str)
    rows = [
        [len(one.images), *(sum(counted[image].get(kind, 0) for image in one.images) for kind in kinds)] for one in free
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
    for unit in sorted(rng.permutation(number), key=lambda one: -amounts[one].max()):
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
