"""Donors laid on candidate locations: which of them stay, in the order of the draw, and why the others do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from napari_histomix.compositing.donors import DonorCrop, Mask, before_turn, cut_donor
from napari_histomix.compositing.indexed_image import ImageCache, IndexedImage
from napari_histomix.datasets import Dataset
from napari_histomix.datasets.splits import check_training
from napari_histomix.records import REAL, Candidate, Change, Event, HistomixError, Job, Location
from napari_histomix.records import SourceRef as Ref
from napari_histomix.scales import resampled_shape

USED_UP = "its donor has been used as often as allowed"
IMAGE_FULL = "its image has as many new nuclei as allowed"
CHANGED = "the labels are not those it was found in; find candidates again"


class Laid(Protocol):
    """A donor where it will lie: the slices of its patch in the image, and the pixels (h, w) of it that will change."""

    @property
    def window(self) -> tuple[slice, slice]: ...

    @property
    def changed(self) -> Mask: ...


L = TypeVar("L", bound=Laid)
Lay = Callable[[IndexedImage, Candidate, DonorCrop, Mask], L | str]
"""Lays a donor on a candidate's place beside the pixels (H, W) that are taken, or says why it cannot."""


@dataclass(eq=False)
class SourceImages(ImageCache):
    """The images that donors come from and go to. Every donor is cut once, and every new id given once."""

    _donors: dict[tuple[str, int], DonorCrop] = field(default_factory=dict)
    _last_ids: dict[str, int] = field(default_factory=dict)

    def cut_donors(self, locations: Iterable[Location]) -> Job[None]:
        """Cut donors out of their images, image by image; a long job. Synthetic nuclei give nothing."""
        missing: dict[str, dict[int, Location]] = {}
        for location in locations:
            if (location.image, location.instance) not in self._donors:
                missing.setdefault(location.image, {})[location.instance] = location
        for done, (name, donors) in enumerate(missing.items()):
            yield Event("Cutting donors", done, len(missing))
            giver = self.get(name)
            for instance, location in donors.items():
                if giver is not None and giver.holds(location) and instance not in giver.image.synthetic:
                    self._donors[name, instance] = cut_donor(giver, _typed(giver, location))

    def donor(self, location: Location) -> DonorCrop | None:
        """A donor that was cut; None if its image cannot be read, or has no such real nucleus."""
        return self._donors.get((location.image, location.instance))

    def get(self, name: str) -> IndexedImage | None:
        target = super().get(name)
        if target is not None and name not in self._last_ids:
            self._last_ids[name] = max(target.boxes, default=0)
        return target

    def new_id(self, name: str, used: Iterable[int] = ()) -> int:
        """An instance id that an image which was read does not have, above all that are used."""
        self._last_ids[name] = max(self._last_ids[name], *used, 0) + 1
        return self._last_ids[name]

    def problem(self, candidate: Candidate) -> str:
        """Why the images of a candidate cannot be read; empty if they can."""
        names = candidate.target.image, candidate.donor.image
        return next((self.problems[name].sentence for name in names if name in self.problems), "")

    def sources(self, candidate: Candidate) -> dict[str, dict[str, Any]]:
        """Facts of a candidate's two images, for provenance."""
        return {"target": self.facts[candidate.target.image], "donor": self.facts[candidate.donor.image]}


def _typed(holder: IndexedImage, location: Location) -> Location:
    return replace(location, type=holder.image.types.get(location.instance, 0))


def check_candidates(dataset: Dataset, candidates: Sequence[Candidate]) -> None:
    """Raise HistomixError if candidates leave the training split, or two of them have the same rank."""
    used = {place.image for candidate in candidates for place in (candidate.donor, candidate.target)}
    check_training(dataset, used, "give it back to that split, or find candidates again in a new study")
    if len({candidate.rank for candidate in candidates}) < len(candidates):
        raise HistomixError("Two candidates have the same rank; find candidates again.")


def lay_donors(
    candidates: Sequence[Candidate],
    images: SourceImages,
    lay: Lay[L],
    occupied: Callable[[IndexedImage], Mask] | None = None,
) -> Job[dict[int, L | str]]:
    """Lay the donors of candidates on their places, image by image; a long job (see ``records.Job``).

    ``occupied`` gives the pixels (H, W) of an image that are taken already: the donors then keep clear of these and of
    each other. Without it, each is laid as if it were the only one. The laid donors, or the reasons why they are not,
    come by rank.
    """
    yield from images.cut_donors(candidate.donor for candidate in candidates)
    by_image: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_image.setdefault(candidate.target.image, []).append(candidate)
    outcomes: dict[int, L | str] = {}
    for done, (name, group) in enumerate(by_image.items()):
        yield Event("Planning placements", done, len(by_image))
        target = images.get(name)
        if target is None:
            outcomes |= {candidate.rank: images.problem(candidate) for candidate in group}
            continue
        taken = np.zeros(target.image.instances.shape, bool) if occupied is None else occupied(target)
        for candidate in group:
            donor = images.donor(candidate.donor)
            if donor is None and (problem := images.problem(candidate)):
                outcomes[candidate.rank] = problem
                continue
            if donor is None or not target.holds(candidate.target):
                outcomes[candidate.rank] = CHANGED
                continue
            typed = replace(candidate, target=_typed(target, candidate.target), donor=donor.location)
            outcome = lay(target, typed, donor, taken)
            outcomes[candidate.rank] = outcome
            if occupied is not None and not isinstance(outcome, str):
                taken[outcome.window] |= outcome.changed
    return outcomes


def choose_placements(
    candidates: Iterable[Candidate],
    images: SourceImages,
    lay: Lay[L],
    before: Iterable[Change],
    *,
    count: int,
    uses: int,
    per_image: int | None,
) -> Job[tuple[list[tuple[Candidate, L, int]], dict[int, str]]]:
    """Placements of the first candidates, in their order, that nothing forbids; a long job (see ``records.Job``).

    Only candidates of one image can stand in each other's way, so each round takes more candidates than are still
    needed, goes through them image by image, and cuts the surplus off in that order: the outcome is that of trying them
    one after the other.

    Changes made ``before`` count toward the limits, and their places are not used again. ``count`` placements are
    wanted, ``uses`` and ``per_image`` are how many one donor and one image may have at most.

    Returns the candidates that take their donors with the ids that the new nuclei get, fewer than wanted where they run
    out; and why candidates were refused, by rank.
    """
    earlier: dict[str, list[Change]] = {}
    for change in before:
        if change.in_place:
            earlier.setdefault(change.image, []).append(change)
    changes = [change for group in earlier.values() for change in group]
    targets = {change.target for change in changes}
    gone = {(change.image, instance) for change in changes for instance in change.removed}
    used = Counter((change.donor.image, change.donor.item) for change in changes if change.donor is not None)
    filled = Counter({name: sum(len(change.added) for change in group) for name, group in earlier.items()})
    waiting = [
        candidate
        for candidate in candidates
        if Ref.of("target", candidate.target) not in targets
        and (candidate.target.image, candidate.target.instance) not in gone
    ]
    accepted: list[tuple[Candidate, L, int]] = []
    laid_in: dict[str, list[L]] = {}
    refused: dict[int, str] = {}

    def over_limit(candidate: Candidate) -> str:
        """Why the limits forbid a candidate; empty where they do not."""
        if used[candidate.donor.image, candidate.donor.instance] >= uses:
            return USED_UP
        if per_image is not None and filled[candidate.target.image] >= per_image:
            return IMAGE_FULL
        return ""

    def occupied(target: IndexedImage) -> Mask:
        """Pixels that earlier changes and the accepted placements take."""
        name, taken = target.image.source.image, np.zeros(target.image.instances.shape, bool)
        for laid in laid_in.get(name, ()):
            taken[laid.window] |= laid.changed
        for change in earlier.get(name, ()):
            taken[change.window] |= change.origin != REAL
        return taken

    while waiting and len(accepted) < count:
        size = 2 * (count - len(accepted)) + 16
        tried, waiting = waiting[:size], waiting[size:]
        possible = [candidate for candidate in tried if not over_limit(candidate)]
        outcomes = yield from lay_donors(possible, images, lay, occupied)
        for candidate in tried:
            if len(accepted) == count:
                break
            outcome = outcomes.get(candidate.rank)
            # An image that cannot be read is a problem, not a refusal.
            outcome = None if outcome == images.problem(candidate) else outcome
            reason = outcome if isinstance(outcome, str) else over_limit(candidate)
            if reason:
                refused[candidate.rank] = reason
            elif outcome is not None and not isinstance(outcome, str):
                name = candidate.target.image
                ids = (instance for change in earlier.get(name, ()) for instance in change.added)
                accepted.append((candidate, outcome, images.new_id(name, ids)))
                laid_in.setdefault(name, []).append(outcome)
                filled[name] += 1
                used[candidate.donor.image, candidate.donor.instance] += 1
    return accepted, refused


def place_in_donor(provenance: Mapping[str, Any], row: int, col: int) -> tuple[float, float]:
    """Where in the donor's own image a pixel lay that is at (row, column) of the target, by the change's provenance.

    Fractions of pixels where the donor was resampled.
    """
    top, left = provenance["shift"]
    crop_row, crop_col, height, width = provenance["crop"]
    scale = provenance["scale"]
    scaled = (height, width) if scale == 1 else resampled_shape((height, width), scale)
    turned = before_turn(row - top, col - left, scaled, provenance["quarter_turns"], provenance["mirrored"])
    inner_row, inner_col = (
        # Pixels are named by their centers.
        place if size == after else round((place + 0.5) * size / after - 0.5, 2)
        for place, size, after in zip(turned, (height, width), scaled, strict=True)
    )
    return crop_row + inner_row, crop_col + inner_col
