"""Crops around nuclei for a reader test: synthetic ones, and for each a real one that could be taken for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.composing import compose, nucleus_of
from napari_histomix.compositing.donors import CONTRAST_UM, Mask, density_around, dilate, layer_one, transition_zone
from napari_histomix.compositing.planning import CLIPPED_AT_MOST
from napari_histomix.datasets import Dataset
from napari_histomix.evaluation.reader_test.specimens import (
    COPY_PASTE,
    CROSSES_EDGE,
    DONOR_SHOWN,
    GENUINE,
    NO_PARTNER,
    NOT_READ,
    SHOWN_ALREADY,
    TOO_LARGE,
    Drawn,
    ReaderTestSettings,
    Specimen,
    Square,
    cluster_of,
    crop_side,
    drawn,
    made_by,
    shortage,
    square_around,
)
from napari_histomix.records import DONOR, REAL, Change, Event, HistomixError, Job, LabeledImage, Location, SourceRef
from napari_histomix.sampling import nucleus_locations, tissue
from napari_histomix.stains import optical_density

Key = tuple[str, int]
"""A nucleus by image and instance id."""
Place = tuple[str, int, int]
"""Image, row and column."""


@dataclass(frozen=True, eq=False)
class Looked:
    """What the training images hold.

    ``shapes`` (H, W) and ``scales`` (µm per pixel) by image; ``nuclei`` by class, those that a change could have made;
    ``contrasts`` of these; ``tissue``, the share of tissue in a crop around each of these and each place asked about.
    """

    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    nuclei: dict[int, list[Location]] = field(default_factory=dict)
    contrasts: dict[Key, float] = field(default_factory=dict)
    tissue: dict[Place, float] = field(default_factory=dict)


def place_of(location: Location | SourceRef) -> Place:
    """Where a location is, to the pixel."""
    return location.image, round(location.row), round(location.col)


def look(dataset: Dataset, kinds: Collection[int], places: Iterable[SourceRef], side: int) -> Job[Looked]:
    """Read the training images once; a long job (see ``records.Job``).

    Parameters
    ----------
    dataset : Dataset
    kinds : collection of int
        Classes of the nuclei wanted.
    places : iterable of SourceRef
        Other places of which the share of tissue around them is wanted.
    side : int
        Of a crop, in pixels.
    """
    found = Looked()
    asked: dict[str, list[SourceRef]] = {}
    for place in places:
        asked.setdefault(place.image, []).append(place)
    for number, entry in enumerate(dataset.training):
        yield Event("Looking at real nuclei", number, len(dataset.training))
        try:
            image = dataset.read(entry)
        except HistomixError as error:
            yield Event("Looking at real nuclei", number, len(dataset.training), message=f"Skipped: {error}")
            continue
        name, (height, width) = entry.source.image, image.instances.shape
        found.shapes[name], found.scales[name] = (height, width), image.mpp
        on_tissue = tissue(image)
        nuclei = []
        for one in nucleus_locations(image, kinds, ()):
            if _shows_synthetic(image, one, side):
                continue
            contrast = _contrast(image, on_tissue, one)
            if contrast is not None:
                nuclei.append(one)
                found.nuclei.setdefault(one.type, []).append(one)
                found.contrasts[name, one.instance] = contrast
        sums = np.asarray(cv2.integral(on_tissue.astype(np.uint8)), np.int64)
        found.tissue.update((place_of(one), _share(sums, one, side)) for one in (*nuclei, *asked.get(name, ())))
    return found


def _shows_synthetic(image: LabeledImage, one: Location, side: int) -> bool:
    """Whether a crop around a real nucleus, wherever that lies in it, could show a synthetic one."""
    if not image.synthetic:
        return False
    window = tuple(slice(max(0, round(at) - side), round(at) + side + 1) for at in (one.row, one.col))
    return bool(np.isin(image.instances[window], list(image.synthetic)).any())


def _contrast(image: LabeledImage, on_tissue: Mask, one: Location) -> float | None:
    """Contrast of a nucleus that has the room and the tissue a placement would need; None where it has not."""
    # Wide enough for the surroundings that the contrast is measured in; a nucleus that does not fit is cut off, or is a
    # thread six times as long as it is wide.
    reach = round(2.5 * np.sqrt(one.area / np.pi)) + max(4, round(CONTRAST_UM / image.mpp) + 2)
    window = tuple(slice(max(0, round(at) - reach), round(at) + reach + 1) for at in (one.row, one.col))
    instances = image.instances[window]
    nucleus = instances == one.instance
    if nucleus.sum() < one.area or nucleus[[0, -1]].any() or nucleus[:, [0, -1]].any():
        return None
    others = (instances != 0) & ~nucleus
    ring = transition_zone(nucleus)
    if np.any(others & layer_one(nucleus)) or np.sum(ring & others) > CLIPPED_AT_MOST * ring.sum():
        return None
    if not on_tissue[window][dilate(nucleus, 3)].all():
        return None
    pixels = image.pixels[window]
    around = density_around(pixels, nucleus, instances == 0, image.mpp)
    return None if around is None else float(optical_density(pixels[nucleus])[:, 1].mean()) - around


def _share(sums: NDArray[np.int64], one: Location | SourceRef, side: int) -> float:
    """Share of tissue in a crop around a place, as far as its image goes; from sums over rectangles (H + 1, W + 1)."""
    height, width = sums.shape[0] - 1, sums.shape[1] - 1
    top, left = (max(round(at) - side // 2, 0) for at in (one.row, one.col))
    bottom, right = min(top + side, height), min(left + side, width)
    total = int(sums[bottom, right]) - int(sums[top, right]) - int(sums[bottom, left]) + int(sums[top, left])
    return total / max((bottom - top) * (right - left), 1)


AREA_RATIO = 2.0
"""Largest ratio of the areas of a synthetic nucleus and its real partner."""
TISSUE = 0.2
"""Largest difference of the shares of their crops that are tissue and not bare glass."""
SAME_SCALE = 0.02
"""Largest relative difference of µm per pixel between partners."""


@dataclass(frozen=True, eq=False)
class _Pair:
    """A synthetic nucleus and its real partner, with their crops."""

    change: Change
    method: str
    square: Square
    real: Location
    real_square: Square


def draw_nuclei(
    dataset: Dataset,
    changes: Iterable[Change],
    settings: ReaderTestSettings,
    methods: Sequence[str] | None = None,
) -> Job[Drawn]:
    """Draw synthetic nuclei, and as many real ones of the same class; a long job (see ``records.Job``).

    A crop of a synthetic nucleus shows that one change of its image, and nothing else that is synthetic. Its real
    partner is a nucleus of the training split that meets what a placement has to meet: room for its transition zone,
    no touching neighbor, tissue around it, no less contrast than the palest donor, the whole crop in its image. It is
    of the same class and scale, its area within ``AREA_RATIO``, and the share of tissue in its crop within ``TISSUE``.
    Of those it is one of the same image where there is one, then one that is nobody's donor, then the one most alike
    in area. No two crops show the same place, none shows another's donor, and no donor is used twice: the crops cannot
    be compared with each other.

    Parameters
    ----------
    dataset : Dataset
    changes : iterable of Change
        In place, each with a nucleus; of several methods, maybe: they are shown in equal parts as far as they go.
    settings : ReaderTestSettings
    methods : sequence of str, optional
        What made each change (``method_name``); by default what their provenance says.

    Raises
    ------
    HistomixError
        If not one pair can be shown.
    """
    changes = tuple(change for change in changes if change.donor is not None and change.target is not None)
    methods = [made_by(change) for change in changes] if methods is None else methods
    rng = np.random.default_rng([settings.seed, 1])
    donors = [change.donor for change in changes if change.donor is not None]
    targets = [change.target for change in changes if change.target is not None]
    scales = [entry.mpp for entry in dataset.training if entry.mpp is not None]
    side = crop_side(settings.side_um, float(np.median(scales))) if scales else 0
    found = yield from look(dataset, {one.type for one in donors}, targets, side)
    queues = _queues(changes, methods, settings, rng)
    chosen = _Choice(found, side, donors)
    tried = 0
    while any(queues.values()) and len(chosen.pairs) < settings.per_kind:
        for method, waiting in queues.items():
            before = len(chosen.pairs)
            while waiting and before == len(chosen.pairs) < settings.per_kind:
                chosen.take(waiting.pop(), method, rng)
                tried += 1
                if tried % 20 == 0:
                    yield Event("Choosing crops", len(chosen.pairs), settings.per_kind)
    yield shortage(len(chosen.pairs), settings.per_kind, chosen.refusals)
    specimens = yield from _rendered(dataset, chosen.pairs)
    return drawn(specimens, chosen.refusals)


def _queues(
    changes: Sequence[Change], methods: Sequence[str], settings: ReaderTestSettings, rng: np.random.Generator
) -> dict[str, list[Change]]:
    """Changes by method, each in random order."""
    queues: dict[str, list[Change]] = {}
    for index in rng.permutation(len(changes)):
        queues.setdefault(methods[index], []).append(changes[index])
    if settings.copy_paste:
        # On free tissue alone: pasted over a nucleus, a donor would have the remains of that around it.
        free = [change for change in changes if change.target is not None and not change.target.item]
        queues[COPY_PASTE] = [free[index] for index in rng.permutation(len(free))]
    return dict(sorted(queues.items()))


class _Choice:
    """Pairs chosen so far, and what they take up."""

    def __init__(self, images: Looked, side: int, donors: Sequence[SourceRef]) -> None:
        self.images, self._side = images, side
        self.pairs: list[_Pair] = []
        self.refusals: Counter[str] = Counter()
        self._squares: dict[str, list[Square]] = {}
        self._donors: dict[Key, SourceRef] = {}
        self._reals: set[Key] = set()
        self._givers = {(donor.image, donor.item) for donor in donors}
        palest: dict[int, float] = {}
        for donor in donors:
            contrast = images.contrasts.get((donor.image, donor.item))
            if contrast is not None:
                palest[donor.type] = min(contrast, palest.get(donor.type, contrast))
        self._candidates = {
            kind: [one for one in nuclei if images.contrasts[one.image, one.instance] >= palest.get(kind, -np.inf)]
            for kind, nuclei in images.nuclei.items()
        }

    def take(self, change: Change, method: str, rng: np.random.Generator) -> None:
        """Add a placement with a partner, or count why it cannot be shown."""
        outcome = self._pair(change, method, rng)
        if isinstance(outcome, str):
            self.refusals[outcome] += 1
            return
        donor = change.source("donor")
        self.pairs.append(outcome)
        self._donors[donor.image, donor.item] = donor
        self._reals.add((outcome.real.image, outcome.real.instance))
        for square in (outcome.square, outcome.real_square):
            self._squares.setdefault(square.image, []).append(square)

    def _pair(self, change: Change, method: str, rng: np.random.Generator) -> _Pair | str:
        donor, name = change.source("donor"), change.image
        if name not in self.images.shapes:
            return NOT_READ
        if (donor.image, donor.item) in self._donors or (donor.image, donor.item) in self._reals:
            return DONOR_SHOWN
        square = square_around(name, *_center(change), self._side, rng)
        if not square.within(self.images.shapes[name]):
            return CROSSES_EDGE
        changed = np.argwhere(change.origin != REAL) + np.array([change.row, change.col])
        if not all(square.holds(name, *place) for place in (changed.min(axis=0), changed.max(axis=0))):
            return TOO_LARGE
        if not self._free(square):
            return SHOWN_ALREADY
        # The donor itself may be seen beside its copy: that is the method's doing, and a reader's right to notice.
        if any(other.holds(donor.image, donor.row, donor.col) for other in self._squares.get(donor.image, ())):
            return DONOR_SHOWN
        partner = self._partner(change, square, int(nucleus_of(change).sum()), rng)
        return _Pair(change, method, square, *partner) if partner else NO_PARTNER

    def _free(self, square: Square) -> bool:
        """Whether a crop shows nothing of the others, and no donor of theirs."""
        return not any(square.overlaps(other) for other in self._squares.get(square.image, ())) and not any(
            square.holds(one.image, one.row, one.col) for one in self._donors.values()
        )

    def _partner(
        self, change: Change, square: Square, area: int, rng: np.random.Generator
    ) -> tuple[Location, Square] | None:
        donor, scales, shares = change.source("donor"), self.images.scales, self.images.tissue
        mpp, share = scales[square.image], shares[place_of(change.source("target"))]
        found = [
            one
            for one in self._candidates.get(donor.type, ())
            if max(one.area / area, area / one.area) <= AREA_RATIO
            and abs(scales[one.image] / mpp - 1) <= SAME_SCALE
            and abs(shares[place_of(one)] - share) <= TISSUE
        ]

        def rank(one: Location) -> tuple[bool, bool, float]:
            # A donor that is shown as it is cannot be shown as a copy any more.
            return one.image != square.image, (one.image, one.instance) in self._givers, abs(np.log(one.area / area))

        for one in sorted(found, key=rank):
            key = one.image, one.instance
            if key in self._reals or key in self._donors or key == (donor.image, donor.item):
                continue
            other = square_around(one.image, round(one.row), round(one.col), self._side, rng)
            if (
                other.within(self.images.shapes[one.image])
                and self._free(other)
                and not other.overlaps(square)
                and not other.holds(donor.image, donor.row, donor.col)
            ):
                return one, other
        return None


def _center(change: Change) -> tuple[int, int]:
    """Centroid of the new nucleus in its image, to the pixel as that of a real one."""
    row, col = np.argwhere(nucleus_of(change)).mean(axis=0)
    return round(float(row) + change.row), round(float(col) + change.col)


def _rendered(dataset: Dataset, pairs: Sequence[_Pair]) -> Job[list[Specimen]]:
    """The crops' pixels, each image read once."""
    specimens: list[Specimen] = []
    names = sorted({square.image for pair in pairs for square in (pair.square, pair.real_square)})
    for number, name in enumerate(names):
        yield Event("Cutting crops", number, len(names))
        image = dataset.read(name)
        for pair in pairs:
            if pair.square.image == name:
                specimens.append(_synthetic(dataset, image, pair))
            if pair.real_square.image == name:
                specimens.append(_real(dataset, image, pair.real, pair.real_square))
    return specimens


def _synthetic(dataset: Dataset, image: LabeledImage, pair: _Pair) -> Specimen:
    change = unblended(pair.change) if pair.method == COPY_PASTE else pair.change
    donor = change.source("donor")
    facts = {
        "change": change.id,
        "seed": change.seed,
        "target": ("nucleus" if change.source("target").item else "background"),
        "donor_image": donor.image,
        "donor_instance": donor.item,
    }
    shown = compose(image, [change]).image
    return _specimen(dataset, shown, pair.square, _center(change), donor.type, pair.method, facts)


def _real(dataset: Dataset, image: LabeledImage, one: Location, square: Square) -> Specimen:
    facts = {"instance": one.instance}
    return _specimen(dataset, image, square, (round(one.row), round(one.col)), one.type, GENUINE, facts)


def _specimen(
    dataset: Dataset,
    image: LabeledImage,
    square: Square,
    center: tuple[int, int],
    kind: int,
    method: str,
    facts: Mapping[str, Any],
) -> Specimen:
    row, col = center
    where = {"image": square.image, "row": row, "col": col, **facts}
    mark = row - square.row, col - square.col
    return Specimen(
        image.pixels[square.window].copy(), mark, dataset.class_name(kind), method, cluster_of(image.source), where
    )


def unblended(change: Change) -> Change:
    """A change as it was before anything was painted: the donor on the target's own pixels."""
    origin = np.where(change.origin == DONOR, DONOR, REAL).astype(np.uint8)
    values = {field.name: getattr(change, field.name) for field in fields(Change)}
    return Change(**{**values, "origin": origin})
