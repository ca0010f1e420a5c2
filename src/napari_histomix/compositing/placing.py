"""Donors laid on candidate locations: which of them stay, in the order of the draw, and why the others do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.contours import Mask
from napari_histomix.compositing.donors import DonorCrop, before_turn, cut_donor, resampled_shape
from napari_histomix.compositing.planning import Plan
from napari_histomix.datasets import Dataset, Problem
from napari_histomix.datasets.pixels import image_facts
from napari_histomix.datasets.run_lengths import mask_text
from napari_histomix.records import KEEP, REAL, Candidate, Change, Event, HistomixError, Job, LabeledImage, Location
from napari_histomix.records import SourceRef as Ref

USED_UP = "its donor has been used as often as allowed"
IMAGE_FULL = "its image has as many new nuclei as allowed"
CHANGED = "the labels are not those it was found in; find candidates again"


class Laid(Protocol):
    """A donor where it will lie."""

    @property
    def window(self) -> tuple[slice, slice]:
        """Slices of the patch in its image."""

    @property
    def changed(self) -> Mask:
        """Pixels of the patch that will change, (h, w)."""


L = TypeVar("L", bound=Laid)
Lay = Callable[[LabeledImage, Candidate, DonorCrop, Mask], L | str]
"""Lays a donor on a candidate's place beside the pixels (H, W) that are taken, or says why it cannot."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many placements are wanted, and how many at most one donor and one image may have; None: any number."""

    count: int
    uses: int | None = None
    per_image: int | None = None


@dataclass(frozen=True, eq=False)
class Placement(Generic[L]):
    """A candidate that takes its donor, and the instance id that the new nucleus gets."""

    candidate: Candidate
    laid: L
    instance: int


class SourceImages:
    """The images that donors come from and go to. Every donor is cut once.

    Parameters
    ----------
    read : callable
        Reads an image by its name.

    Attributes
    ----------
    problems : dict of str to Problem
        Images that could not be read, by name.
    facts : dict of str to dict
        ``datasets.image_facts`` of the images that were read, by name.
    """

    def __init__(self, read: Callable[[str], LabeledImage]) -> None:
        self.problems: dict[str, Problem] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self._next_ids: dict[str, int] = {}
        self._read = read
        self._donors: dict[tuple[str, int], DonorCrop] = {}

    def image(self, name: str) -> LabeledImage | None:
        """An image, or None if it cannot be read: then ``problems`` has the reason."""
        if name in self.problems:
            return None
        try:
            image = self._read(name)
        except HistomixError as error:
            self.problems[name] = Problem(name, str(error))
            return None
        if name not in self.facts:
            self.facts[name] = image_facts(image)
            self._next_ids[name] = max(int(image.instances.max(initial=0)), 0) + 1
        return image

    def new_id(self, name: str) -> int:
        """The next free instance id of an image that was read."""
        self._next_ids[name] += 1
        return self._next_ids[name] - 1

    def keep_ids(self, name: str, instances: Iterable[int]) -> None:
        """Give no new id of an image that is not above all of these."""
        self._next_ids[name] = max(self._next_ids[name], *(instance + 1 for instance in instances), 1)

    def problem(self, candidate: Candidate) -> str:
        """Why the images of a candidate cannot be read; empty if they can."""
        names = candidate.target.image, candidate.donor.image
        return next((self.problems[name].sentence for name in names if name in self.problems), "")

    def cut_donors(self, locations: Iterable[Location]) -> Job[None]:
        """Cut donors out of their images, each of which is read once; a long job."""
        missing: dict[str, dict[int, Location]] = {}
        for location in locations:
            if (location.image, location.instance) not in self._donors:
                missing.setdefault(location.image, {})[location.instance] = location
        for done, (name, donors) in enumerate(missing.items()):
            yield Event("Cutting donors", done, len(missing))
            image = self.image(name)
            if image is not None:
                for instance, location in donors.items():
                    if is_there(image, location):
                        self._donors[name, instance] = cut_donor(image, _typed(image, location))

    def donor(self, location: Location) -> DonorCrop | None:
        """A donor that was cut; None if its image cannot be read, or no longer has it."""
        return self._donors.get((location.image, location.instance))

    def sources(self, candidate: Candidate) -> dict[str, dict[str, Any]]:
        """Facts of a candidate's two images, for provenance."""
        return {"target": self.facts[candidate.target.image], "donor": self.facts[candidate.donor.image]}


def is_there(image: LabeledImage, location: Location) -> bool:
    """Whether a location, perhaps read from a file, is a real nucleus or a free place of an image.

    Type 0 stands for whatever type the image says.
    """
    height, width = image.instances.shape
    if not (0 <= location.row < height and 0 <= location.col < width):
        return False
    if not location.instance:
        return location.kind == "background"
    known = image.types.get(location.instance)
    if location.instance in image.synthetic or known is None or location.type not in (0, known):
        return False
    return bool((image.instances == location.instance).any())


def _typed(image: LabeledImage, location: Location) -> Location:
    return replace(location, type=image.types.get(location.instance, 0))


def check_candidates(dataset: Dataset, candidates: Sequence[Candidate]) -> None:
    """Raise HistomixError if candidates leave the training split, or two of them have the same rank."""
    training = {entry.source.image for entry in dataset.training}
    used = {place.image for candidate in candidates for place in (candidate.donor, candidate.target)}
    if outside := used - training:
        raise HistomixError(f"The image {min(outside)} is not in the training split; find candidates again.")
    if len({candidate.rank for candidate in candidates}) < len(candidates):
        raise HistomixError("Two candidates have the same rank; find candidates again.")


def lay_donors(
    candidates: Sequence[Candidate],
    images: SourceImages,
    lay: Lay[L],
    occupied: Callable[[LabeledImage], Mask] | None = None,
) -> Job[dict[int, L | str]]:
    """Lay the donors of candidates on their places, image by image; a long job (see ``records.Job``).

    Parameters
    ----------
    candidates : sequence of Candidate
    images : SourceImages
    lay : callable
    occupied : callable, optional
        Pixels (H, W) of an image that are taken already: the donors then keep clear of these and of each other.
        Without it, each is laid as if it were the only one.

    Returns
    -------
    dict of int to laid donor or str
        By rank, or the reason for a refusal; nothing of candidates whose images cannot be read.
    """
    yield from images.cut_donors(candidate.donor for candidate in candidates)
    by_image: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_image.setdefault(candidate.target.image, []).append(candidate)
    outcomes: dict[int, L | str] = {}
    for done, (name, group) in enumerate(by_image.items()):
        yield Event("Planning placements", done, len(by_image))
        image = images.image(name)
        if image is None:
            continue
        taken = np.zeros(image.instances.shape, bool) if occupied is None else occupied(image)
        for candidate in group:
            donor = images.donor(candidate.donor)
            if donor is None and candidate.donor.image in images.problems:
                continue
            if donor is None or not is_there(image, candidate.target):
                outcomes[candidate.rank] = CHANGED
                continue
            typed = replace(candidate, target=_typed(image, candidate.target), donor=donor.location)
            outcome = lay(image, typed, donor, taken)
            outcomes[candidate.rank] = outcome
            if occupied is not None and not isinstance(outcome, str):
                taken[outcome.window] |= outcome.changed
    return outcomes


def choose_placements(
    candidates: Iterable[Candidate], images: SourceImages, lay: Lay[L], limits: Limits, before: Iterable[Change] = ()
) -> Job[tuple[list[Placement[L]], Counter[str]]]:
    """Placements of the first candidates, by rank, that nothing forbids; a long job (see ``records.Job``).

    Only candidates of one image can stand in each other's way, so each round takes more candidates than are still
    needed, goes through them image by image, and cuts the surplus off by rank: the outcome is that of trying them one
    after the other.

    Parameters
    ----------
    candidates : iterable of Candidate
    images : SourceImages
    lay : callable
    limits : Limits
    before : iterable of Change
        Made earlier. Their places are not used again, and they count toward the limits.

    Returns
    -------
    list of Placement
        By rank; fewer than wanted where the candidates run out.
    Counter of str
        How many candidates were refused, by reason.
    """
    earlier: dict[str, list[Change]] = {}
    for change in before:
        if change.in_place:
            earlier.setdefault(change.image, []).append(change)
    changes = [change for group in earlier.values() for change in group]
    targets = {change.target for change in changes}
    gone = {(change.image, instance) for change in changes for instance in change.removed}
    uses = Counter((change.donor.image, change.donor.item) for change in changes if change.donor is not None)
    filled = Counter({name: sum(len(change.added) for change in group) for name, group in earlier.items()})
    waiting = sorted(
        (
            candidate
            for candidate in candidates
            if Ref.of("target", candidate.target) not in targets
            and (candidate.target.image, candidate.target.instance) not in gone
        ),
        key=lambda candidate: candidate.rank,
    )
    accepted: list[Placement[L]] = []
    refusals: Counter[str] = Counter()

    def over_limit(candidate: Candidate) -> str:
        """Why the limits forbid a candidate; empty where they do not."""
        if limits.uses is not None and uses[_donor_key(candidate)] >= limits.uses:
            return USED_UP
        if limits.per_image is not None and filled[candidate.target.image] >= limits.per_image:
            return IMAGE_FULL
        return ""

    def occupied(image: LabeledImage) -> Mask:
        """Pixels that earlier changes and the accepted placements take; ids of the earlier ones are not given again."""
        name = image.source.image
        here = earlier.get(name, [])
        images.keep_ids(name, [instance for change in here for instance in change.added])
        taken = np.zeros(image.instances.shape, bool)
        for placement in accepted:
            if placement.candidate.target.image == name:
                taken[placement.laid.window] |= placement.laid.changed
        for change in here:
            taken[change.window] |= change.origin != REAL
        return taken

    while waiting and len(accepted) < limits.count:
        size = 2 * (limits.count - len(accepted)) + 16
        tried, waiting = waiting[:size], waiting[size:]
        possible = [candidate for candidate in tried if not over_limit(candidate)]
        outcomes = yield from lay_donors(possible, images, lay, occupied)
        for candidate in tried:
            if len(accepted) == limits.count:
                break
            outcome = outcomes.get(candidate.rank)
            reason = outcome if isinstance(outcome, str) else over_limit(candidate)
            if reason:
                refusals[reason] += 1
            elif outcome is not None and not isinstance(outcome, str):
                name = candidate.target.image
                accepted.append(Placement(candidate, outcome, images.new_id(name)))
                filled[name] += 1
                uses[_donor_key(candidate)] += 1
    return accepted, refusals


def _donor_key(candidate: Candidate) -> tuple[str, int]:
    return candidate.donor.image, candidate.donor.instance


def finished_change(
    plan: Plan,
    pixels: NDArray[np.uint8],
    origin: NDArray[np.uint8],
    instance: int,
    *,
    number: int,
    method: str,
    how: Mapping[str, Any],
) -> Change:
    """The change that a plan has become.

    Parameters
    ----------
    plan : Plan
    pixels : (h, w, 3) uint8
        Of the patch.
    origin : (h, w) uint8
    instance : int
        Id of the new nucleus.
    number : int
        Id of the change.
    method : str
        Name of the method.
    how : mapping
        Added to the provenance of the plan.
    """
    target, donor = plan.candidate.target, plan.candidate.donor
    changed = origin != REAL
    place = {"row": plan.row, "col": plan.col, **mask_text(changed)}
    return Change(
        id=number,
        image=target.image,
        name=target.image,
        row=plan.row,
        col=plan.col,
        pixels=np.where(changed[..., None], pixels, 0).astype(np.uint8),
        origin=origin,
        labels=np.where(plan.nucleus, instance, KEEP).astype(np.int32),
        added={instance: donor.type},
        removed=(target.instance,) if target.instance else (),
        class_shares=None,
        method=method,
        seed=plan.seed,
        sources=(Ref.of("target", target), Ref.of("donor", donor)),
        score=plan.candidate.percentile,
        provenance={**plan.provenance, "changed": place, **how},
    )


def place_in_donor(provenance: Mapping[str, Any], row: int, col: int) -> tuple[float, float]:
    """Row and column in the donor's own image of a pixel that a plan laid at (row, column) of the target.

    Fractions of pixels where the donor was resampled. ``provenance`` is that of the plan, or of its change.
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
