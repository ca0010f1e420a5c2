"""Crops around nuclei for a reader test: synthetic ones, and for each a real one that could be taken for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from napari_histomix.compositing.composing import compose, nucleus_of
from napari_histomix.datasets import Dataset
from napari_histomix.evaluation.crops import (
    COPY_PASTE,
    CROSSES_EDGE,
    GENUINE,
    NOT_READ,
    Square,
    center_of,
    crop_side,
    made_by,
    square_around,
    unblended,
)
from napari_histomix.evaluation.reader_test.specimens import (
    NO_PARTNER,
    SHOWN_ALREADY,
    Drawn,
    ReaderTestSettings,
    Specimen,
    shortage,
)
from napari_histomix.evaluation.real_nuclei import Key, RealNuclei, find_real_nuclei, place_of
from napari_histomix.records import REAL, Change, Event, Job, LabeledImage, Location, SourceRef
from napari_histomix.scales import same_scale

DONOR_SHOWN = "its donor is in the test already"
TOO_LARGE = "it is larger than a crop"

AREA_RATIO = 2.0
"""Largest ratio of the areas of a synthetic nucleus and its real partner."""
TISSUE = 0.2
"""Largest difference of the shares of their crops that are tissue and not bare glass."""

# Pairs of a synthetic and a real nucleus.


@dataclass(frozen=True, eq=False)
class _Pair:
    """A synthetic nucleus and its real partner, with their crops."""

    change: Change
    method: str
    square: Square
    real: Location
    real_square: Square


def draw_nuclei(
    dataset: Dataset, changes: Iterable[Change], settings: ReaderTestSettings, methods: Sequence[str] | None = None
) -> Job[Drawn]:
    """Draw synthetic nuclei, and as many real ones of the same class; a long job (see ``records.Job``).

    A crop of a synthetic nucleus shows that one change of its image, and nothing else that is synthetic. Its real
    partner is a nucleus of the training split that meets what a placement has to meet: room for its transition zone,
    no touching neighbor, tissue around it, no less contrast than the palest donor, the whole crop in its image. It is
    of the same class and scale, its area within ``AREA_RATIO``, and the share of tissue in its crop within ``TISSUE``.
    Of those it is one of the same image where there is one, then one that is nobody's donor, then the one most alike
    in area. No two crops show the same place, none shows another's donor, and no donor is used twice: the crops cannot
    be compared with each other.

    The changes are in place, each with a nucleus; of several methods, maybe: they are shown in equal parts as far as
    they go. ``methods`` say what made each change (``method_name``); by default their provenance does. HistomixError is
    raised if not one pair can be shown.
    """
    changes = tuple(change for change in changes if change.donor is not None and change.target is not None)
    methods = [made_by(change) for change in changes] if methods is None else methods
    rng = np.random.default_rng([settings.seed, 1])
    donors = [change.source("donor") for change in changes]
    side = crop_side(dataset, settings.side_um)
    targets = (change.source("target") for change in changes)
    real = yield from find_real_nuclei(dataset, {donor.type for donor in donors}, targets, side)
    queues = _queues(changes, methods, settings, rng)
    chosen = _Choice(real, side, donors, rng)
    tried = 0
    while any(queues.values()) and len(chosen.pairs) < settings.per_kind:
        for method, waiting in queues.items():
            before = len(chosen.pairs)
            while waiting and before == len(chosen.pairs) < settings.per_kind:
                chosen.take(waiting.pop(), method)
                tried += 1
                if tried % 20 == 0:
                    yield Event("Choosing crops", len(chosen.pairs), settings.per_kind)
    yield shortage(len(chosen.pairs), settings.per_kind, chosen.refusals)
    specimens = yield from _rendered(dataset, chosen.pairs)
    return Drawn(specimens, chosen.refusals)


def _queues(
    changes: Sequence[Change], methods: Sequence[str], settings: ReaderTestSettings, rng: np.random.Generator
) -> dict[str, list[Change]]:
    """Changes by method, each in random order."""
    queues: dict[str, list[Change]] = {}
    for index in rng.permutation(len(changes)):
        queues.setdefault(methods[index], []).append(changes[index])
    if settings.copy_paste:
        # On free tissue alone: pasted over a nucleus, a donor would have the remains of that around it.
        free = [change for change in changes if not change.source("target").item]
        queues[COPY_PASTE] = [free[index] for index in rng.permutation(len(free))]
    return dict(sorted(queues.items()))


class _Choice:
    """Pairs chosen so far, and what they take up."""

    def __init__(self, real: RealNuclei, side: int, donors: Sequence[SourceRef], rng: np.random.Generator) -> None:
        self.real, self._side, self._rng = real, side, rng
        self.pairs: list[_Pair] = []
        self.refusals: Counter[str] = Counter()
        self._squares: dict[str, list[Square]] = {}
        self._donors: dict[Key, SourceRef] = {}
        self._reals: set[Key] = set()
        self._givers = {(donor.image, donor.item) for donor in donors}
        self._candidates = real.like(donors)

    def take(self, change: Change, method: str) -> None:
        """Add a placement with a partner, or count why it cannot be shown."""
        pair = self._pair(change, method)
        if isinstance(pair, str):
            self.refusals[pair] += 1
            return
        donor = change.source("donor")
        self.pairs.append(pair)
        self._donors[donor.image, donor.item] = donor
        self._reals.add((pair.real.image, pair.real.instance))
        for square in (pair.square, pair.real_square):
            self._squares.setdefault(square.image, []).append(square)

    def _pair(self, change: Change, method: str) -> _Pair | str:
        donor, name = change.source("donor"), change.image
        if name not in self.real.shapes:
            return NOT_READ
        if (donor.image, donor.item) in self._donors or (donor.image, donor.item) in self._reals:
            return DONOR_SHOWN
        square = square_around(name, *center_of(change), self._side, self._rng)
        if not square.within(self.real.shapes[name]):
            return CROSSES_EDGE
        changed = np.argwhere(change.origin != REAL) + np.array([change.row, change.col])
        if not all(square.holds(name, *place) for place in (changed.min(axis=0), changed.max(axis=0))):
            return TOO_LARGE
        if not self._free(square):
            return SHOWN_ALREADY
        # The donor itself may be seen beside its copy: that is the method's doing, and a reader's right to notice.
        if any(other.holds(donor.image, donor.row, donor.col) for other in self._squares.get(donor.image, ())):
            return DONOR_SHOWN
        partner = self._partner(change, square, int(nucleus_of(change).sum()))
        return _Pair(change, method, square, *partner) if partner else NO_PARTNER

    def _free(self, square: Square) -> bool:
        """Whether a crop shows nothing of the others, and no donor of theirs."""
        return not any(square.overlaps(other) for other in self._squares.get(square.image, ())) and not any(
            square.holds(donor.image, donor.row, donor.col) for donor in self._donors.values()
        )

    def _partner(self, change: Change, square: Square, area: int) -> tuple[Location, Square] | None:
        donor, scales, shares = change.source("donor"), self.real.scales, self.real.tissue
        mpp, share = scales[square.image], shares[place_of(change.source("target"))]
        alike = [
            nucleus
            for nucleus in self._candidates.get(donor.type, ())
            if max(nucleus.area / area, area / nucleus.area) <= AREA_RATIO
            and same_scale(scales[nucleus.image], mpp)
            and abs(shares[place_of(nucleus)] - share) <= TISSUE
        ]

        def rank(nucleus: Location) -> tuple[bool, bool, float]:
            # A donor that is shown as it is cannot be shown as a copy any more.
            giver = (nucleus.image, nucleus.instance) in self._givers
            return nucleus.image != square.image, giver, abs(np.log(nucleus.area / area))

        for nucleus in sorted(alike, key=rank):
            key = nucleus.image, nucleus.instance
            if key in self._reals or key in self._donors or key == (donor.image, donor.item):
                continue
            other = square_around(nucleus.image, round(nucleus.row), round(nucleus.col), self._side, self._rng)
            if (
                other.within(self.real.shapes[nucleus.image])
                and self._free(other)
                and not other.overlaps(square)
                and not other.holds(donor.image, donor.row, donor.col)
            ):
                return nucleus, other
        return None


def _rendered(dataset: Dataset, pairs: Sequence[_Pair]) -> Job[list[Specimen]]:
    """The crops' pixels, each image read once."""
    specimens: list[Specimen] = []
    names = sorted({square.image for pair in pairs for square in (pair.square, pair.real_square)})
    for number, name in enumerate(names):
        yield Event("Cutting crops", number, len(names))
        image = dataset.read(name)
        for pair in pairs:
            kind, real = dataset.class_name(pair.change.source("donor").type), pair.real
            if pair.square.image == name:
                specimens.append(_synthetic(image, pair, kind))
            if pair.real_square.image == name:
                center = round(real.row), round(real.col)
                specimens.append(
                    Specimen.cut(
                        image.pixels, pair.real_square, center, kind, GENUINE, image.source, instance=real.instance
                    )
                )
    return specimens


def _synthetic(image: LabeledImage, pair: _Pair, kind: str) -> Specimen:
    change = unblended(pair.change) if pair.method == COPY_PASTE else pair.change
    donor = change.source("donor")
    facts = {
        "change": change.id,
        "seed": change.seed,
        "target": ("nucleus" if change.source("target").item else "background"),
        "donor_image": donor.image,
        "donor_instance": donor.item,
    }
    pixels = compose(image, [change]).image.pixels
    return Specimen.cut(pixels, pair.square, center_of(change), kind, pair.method, image.source, **facts)
