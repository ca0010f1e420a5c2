"""Crops around nuclei for a reader test: synthetic ones, and for each a real one that could be taken for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_histomix.compositing import compose
from napari_histomix.datasets import Dataset
from napari_histomix.evaluation.reader_test.looking import Key, Looked, look, place_of
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
    shortage,
    square_around,
)
from napari_histomix.records import DONOR, REAL, Event, Job, LabeledImage, Location, Placement

AREA_RATIO = 2.0
"""Largest ratio of the areas of a synthetic nucleus and its real partner."""
TISSUE = 0.2
"""Largest difference of the shares of their crops that are tissue and not bare glass."""
SAME_SCALE = 0.02
"""Largest relative difference of µm per pixel between partners."""


@dataclass(frozen=True, eq=False)
class _Pair:
    """A synthetic nucleus and its real partner, with their crops."""

    placement: Placement
    method: str
    square: Square
    real: Location
    real_square: Square


def method_name(sampler: str) -> str:
    """What a method is called in a report."""
    return f"NucleiMix, {sampler}" if sampler else "NucleiMix"


def draw_nuclei(
    dataset: Dataset,
    placements: Iterable[Placement],
    settings: ReaderTestSettings,
    samplers: Sequence[str] | None = None,
) -> Job[Drawn]:
    """Draw synthetic nuclei, and as many real ones of the same class; a long job (see ``records.Job``).

    A crop of a synthetic nucleus shows that one placement in its image, and nothing else that is synthetic. Its real
    partner is a nucleus of the training split that meets what a placement has to meet: room for its transition zone,
    no touching neighbor, tissue around it, no less contrast than the palest donor, the whole crop in its image. It is
    of the same class and scale, its area within ``AREA_RATIO``, and the share of tissue in its crop within ``TISSUE``.
    Of those it is one of the same image where there is one, then one that is nobody's donor, then the one most alike
    in area. No two crops show the same place, none shows another's donor, and no donor is used twice: the crops cannot
    be compared with each other.

    Parameters
    ----------
    dataset : Dataset
    placements : iterable of Placement
        Of several methods, maybe; they are shown in equal parts as far as they go.
    settings : ReaderTestSettings
    samplers : sequence of str, optional
        What painted each placement, by which they are told apart; by default what their provenance says.

    Raises
    ------
    HistomixError
        If not one pair can be shown.
    """
    placements = tuple(placements)
    if samplers is None:
        samplers = [str(one.provenance.get("sampler", "")) for one in placements]
    rng = np.random.default_rng([settings.seed, 1])
    donors, targets = ([getattr(one.candidate, what) for one in placements] for what in ("donor", "target"))
    scales = [entry.mpp for entry in dataset.training if entry.mpp is not None]
    side = crop_side(settings.side_um, float(np.median(scales))) if scales else 0
    found = yield from look(dataset, {one.type for one in donors}, targets, side)
    queues = _queues(placements, samplers, settings, rng)
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
    placements: Sequence[Placement], samplers: Sequence[str], settings: ReaderTestSettings, rng: np.random.Generator
) -> dict[str, list[Placement]]:
    """Placements by method, each in random order."""
    queues: dict[str, list[Placement]] = {}
    for index in rng.permutation(len(placements)):
        queues.setdefault(method_name(samplers[index]), []).append(placements[index])
    if settings.copy_paste:
        # On free tissue alone: pasted over a nucleus, a donor would have the remains of that around it.
        free = [one for one in placements if one.candidate.target.kind == "background"]
        queues[COPY_PASTE] = [free[index] for index in rng.permutation(len(free))]
    return dict(sorted(queues.items()))


class _Choice:
    """Pairs chosen so far, and what they take up."""

    def __init__(self, images: Looked, side: int, donors: Sequence[Location]) -> None:
        self.images, self._side = images, side
        self.pairs: list[_Pair] = []
        self.refusals: Counter[str] = Counter()
        self._squares: dict[str, list[Square]] = {}
        self._donors: dict[Key, Location] = {}
        self._reals: set[Key] = set()
        self._givers = {(one.image, one.instance) for one in donors}
        palest: dict[int, float] = {}
        for one in donors:
            contrast = images.contrasts.get((one.image, one.instance))
            if contrast is not None:
                palest[one.type] = min(contrast, palest.get(one.type, contrast))
        self._candidates = {
            kind: [one for one in nuclei if images.contrasts[one.image, one.instance] >= palest.get(kind, -np.inf)]
            for kind, nuclei in images.nuclei.items()
        }

    def take(self, placement: Placement, method: str, rng: np.random.Generator) -> None:
        """Add a placement with a partner, or count why it cannot be shown."""
        outcome = self._pair(placement, method, rng)
        if isinstance(outcome, str):
            self.refusals[outcome] += 1
            return
        donor = placement.candidate.donor
        self.pairs.append(outcome)
        self._donors[donor.image, donor.instance] = donor
        self._reals.add((outcome.real.image, outcome.real.instance))
        for square in (outcome.square, outcome.real_square):
            self._squares.setdefault(square.image, []).append(square)

    def _pair(self, placement: Placement, method: str, rng: np.random.Generator) -> _Pair | str:
        donor, name = placement.candidate.donor, placement.candidate.target.image
        if name not in self.images.shapes:
            return NOT_READ
        if (donor.image, donor.instance) in self._donors or (donor.image, donor.instance) in self._reals:
            return DONOR_SHOWN
        square = square_around(name, *_center(placement), self._side, rng)
        if not square.within(self.images.shapes[name]):
            return CROSSES_EDGE
        changed = np.argwhere(placement.origin != REAL) + np.array([placement.row, placement.col])
        if not all(square.holds(name, *place) for place in (changed.min(axis=0), changed.max(axis=0))):
            return TOO_LARGE
        if not self._free(square):
            return SHOWN_ALREADY
        # The donor itself may be seen beside its copy: that is the method's doing, and a reader's right to notice.
        if any(other.holds(donor.image, donor.row, donor.col) for other in self._squares.get(donor.image, ())):
            return DONOR_SHOWN
        partner = self._partner(placement, square, int(placement.nucleus.sum()), rng)
        return _Pair(placement, method, square, *partner) if partner else NO_PARTNER

    def _free(self, square: Square) -> bool:
        """Whether a crop shows nothing of the others, and no donor of theirs."""
        return not any(square.overlaps(other) for other in self._squares.get(square.image, ())) and not any(
            square.holds(one.image, one.row, one.col) for one in self._donors.values()
        )

    def _partner(
        self, placement: Placement, square: Square, area: int, rng: np.random.Generator
    ) -> tuple[Location, Square] | None:
        donor, scales, shares = placement.candidate.donor, self.images.scales, self.images.tissue
        mpp, share = scales[square.image], shares[place_of(placement.candidate.target)]
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
            if key in self._reals or key in self._donors or key == (donor.image, donor.instance):
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


def _center(placement: Placement) -> tuple[int, int]:
    """Centroid of the new nucleus in its image, to the pixel as that of a real one."""
    row, col = np.argwhere(placement.nucleus).mean(axis=0)
    return round(float(row) + placement.row), round(float(col) + placement.col)


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
    placement = unblended(pair.placement) if pair.method == COPY_PASTE else pair.placement
    donor = placement.candidate.donor
    facts = {
        "rank": placement.candidate.rank,
        "seed": placement.seed,
        "target": placement.candidate.target.kind,
        "donor_image": donor.image,
        "donor_instance": donor.instance,
    }
    shown = compose(image, [placement]).image
    return _specimen(dataset, shown, pair.square, _center(placement), donor.type, pair.method, facts)


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


def unblended(placement: Placement) -> Placement:
    """A placement as it was before anything was painted: the donor on the target's own pixels."""
    return Placement(
        placement.candidate,
        placement.instance,
        placement.row,
        placement.col,
        placement.pixels,
        np.where(placement.origin == DONOR, DONOR, REAL).astype(np.uint8),
        placement.nucleus,
        placement.seed,
        placement.provenance,
    )
