"""Crops of a reader test: where one may be taken, and those of synthetic and real tissue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset
from napari_histomix.records import REAL, Change, Event, HistomixError, Job, LabeledImage, Source
from napari_histomix.stains import is_tissue

GENUINE = "real"
"""In place of a method's name: nothing was changed."""
COPY_PASTE = "copy-paste"
"""Donors as they are pasted, before anything is blended."""

CROSSES_EDGE = "its crop would cross the edge of its image"
SHOWN_ALREADY = "its crop would show what another crop shows"
DONOR_SHOWN = "its donor is in the test already"
TOO_LARGE = "it is larger than a crop"
NO_PARTNER = "nothing real of its class and size is left to be shown as well"
NOT_READ = "its image is not in the training split, or could not be read"


@dataclass(frozen=True)
class ReaderTestSettings:
    """How a reader test is made; the only home of these defaults.

    Parameters
    ----------
    per_kind : int
        Real ones, and synthetic ones of all methods together.
    copy_paste : bool
        Also show donors pasted without blending, as a method of its own: what blending has to be better than.
    side_um, tissue_um : float
        Side of a crop around a nucleus, and of one out of a tissue image, in µm.
    seed : int
    """

    per_kind: int = 50
    copy_paste: bool = False
    side_um: float = 32.0
    tissue_um: float = 100.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_kind < 1:
            raise HistomixError("A reader test needs at least one real and one synthetic crop; ask for more.")
        if self.seed < 0:
            raise HistomixError("A seed is 0 or more; choose another one.")


@dataclass(frozen=True, eq=False)
class Specimen:
    """A crop with its truth.

    Parameters
    ----------
    pixels : (S, S, 3) uint8
    mark : (row, col), optional
        Pixel of the crop that lies in the nucleus asked about; None where the whole crop is.
    kind : str
        Name of its class, which the reader is told.
    method : str
        ``GENUINE``, ``COPY_PASTE``, or what made it.
    cluster : str
        Patient, slide or image it comes from, the first that is known: specimens of one are not independent.
    facts : mapping
        Where it comes from, as plain JSON values.
    """

    pixels: NDArray[np.uint8]
    mark: tuple[int, int] | None
    kind: str
    method: str
    cluster: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Whether something in it is not as it was scanned."""
        return self.method != GENUINE


@dataclass(frozen=True, eq=False)
class Drawn:
    """Specimens, as many real as synthetic of each class; and why others could not be shown, counted by reason."""

    specimens: tuple[Specimen, ...]
    refusals: Counter[str]


def drawn(specimens: Sequence[Specimen], refusals: Counter[str]) -> Drawn:
    """What was drawn.

    Raises
    ------
    HistomixError
        If nothing was.
    """
    if not specimens:
        reason = f"; {refusals.most_common(1)[0][0]}" if refusals else ""
        raise HistomixError(f"No synthetic result can be shown beside a real one{reason}. Make more, or add images.")
    return Drawn(tuple(specimens), refusals)


def shortage(made: int, wanted: int, refusals: Counter[str]) -> Event:
    """An event that says how many crops of each kind there are, with a message where they are fewer than wanted."""
    message = None
    if made < wanted:
        why = "; ".join(f"{count} left out: {reason}" for reason, count in refusals.most_common())
        message = f"{made} real and {made} synthetic crops instead of {wanted} each{f' ({why})' if why else ''}."
    return Event("Choosing crops", made, wanted, message=message)


def method_name(title: str, sampler: str) -> str:
    """What a method is called in a report."""
    return f"{title}, {sampler}" if sampler else title


def made_by(change: Change) -> str:
    """What made a change, as a report calls it."""
    return method_name(str(change.provenance.get("method", change.method)), str(change.provenance.get("sampler", "")))


def cluster_of(source: Source) -> str:
    """Patient, slide or image, the first that is known."""
    return source.patient or source.slide or source.image


def crop_side(micrometers: float, mpp: float) -> int:
    """Side of a crop in pixels, an even number."""
    return max(2 * round(micrometers / mpp / 2), 16)


@dataclass(frozen=True, slots=True)
class Square:
    """A square crop of an image by its upper left corner."""

    image: str
    row: int
    col: int
    side: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Slices of the crop in its image."""
        return slice(self.row, self.row + self.side), slice(self.col, self.col + self.side)

    def within(self, shape: tuple[int, int]) -> bool:
        """Whether an image (H, W) holds all of it."""
        return min(self.row, self.col) >= 0 and self.row + self.side <= shape[0] and self.col + self.side <= shape[1]

    def holds(self, image: str, row: float, col: float) -> bool:
        """Whether a place is to be seen in it."""
        return self.image == image and 0 <= row - self.row < self.side and 0 <= col - self.col < self.side

    def overlaps(self, other: Square) -> bool:
        """Whether it shows some of what another one shows."""
        apart = max(abs(self.row - other.row), abs(self.col - other.col))
        return self.image == other.image and apart < max(self.side, other.side)


def square_around(image: str, row: int, col: int, side: int, rng: np.random.Generator) -> Square:
    """A crop with a place near its middle: off it by a random step, the same rule for real and synthetic ones."""
    reach = side // 16
    down, along = (int(step) for step in rng.integers(-reach, reach + 1, size=2))
    return Square(image, row - side // 2 - down, col - side // 2 - along, side)


LEAST_NEW = 0.2
"""Share of a synthetic crop that must not be its target's own pixels."""
LEAST_TISSUE = 0.5
"""Share of tissue in any crop."""
TRIES = 50
TOO_LITTLE = "no crop of it shows enough that is new"


def draw_tissue(dataset: Dataset, changes: Sequence[Change], settings: ReaderTestSettings) -> Job[Drawn]:
    """Draw crops of synthetic tissue, and as many of real images of the same class and scale; a long job.

    A crop lies anywhere on tissue; a synthetic one shows at least ``LEAST_NEW`` that is new. Every real image gives one
    crop at most, and none to a test that shows a synthetic image made from it. Images that gave donors to a synthetic
    image that is shown are taken only after the others.

    Parameters
    ----------
    dataset : Dataset
    changes : sequence of Change
        Derived images. Read one at a time.
    settings : ReaderTestSettings

    Raises
    ------
    HistomixError
        If not one pair can be shown.
    """
    rng = np.random.default_rng([settings.seed, 2])
    scales = {entry.source.image: entry.mpp for entry in dataset.training if entry.mpp is not None}
    side = crop_side(settings.tissue_um, float(np.median(list(scales.values())))) if scales else 0
    targets: set[str] = set()
    used: set[str] = set()
    given: Counter[str] = Counter()
    specimens: list[Specimen] = []
    refusals: Counter[str] = Counter()
    for index in rng.permutation(len(changes)):
        if len(specimens) == 2 * settings.per_kind:
            break
        yield Event("Choosing crops", len(specimens) // 2, settings.per_kind)
        change = changes[int(index)]
        if change.image not in scales:
            refusals[NOT_READ] += 1
            continue
        # Two synthetic images of one target show the same real tissue around what was replaced.
        if change.image in targets or change.image in used:
            refusals[SHOWN_ALREADY] += 1
            continue
        if min(change.origin.shape) < side:
            refusals[CROSSES_EDGE] += 1
            continue
        square = _square(change.image, change.pixels, side, rng, change.origin != REAL)
        if square is None:
            refusals[TOO_LITTLE] += 1
            continue
        donors = {source.image for source in change.sources if source.role == "donor"}
        partner = _partner(dataset, change, {*targets, *used}, given + Counter(donors), side, rng)
        if partner is None:
            refusals[NO_PARTNER] += 1
            continue
        image, real_square = partner
        targets.add(change.image)
        used.add(image.source.image)
        given.update(donors)
        facts = {
            "name": change.name,
            "seed": change.seed,
            "new_area": round(change.new_area, 4),
            "donors": sorted(donors),
        }
        cluster = cluster_of(dataset.entry(change.image).source)
        specimens.append(_specimen(change.pixels, square, kind_of(change), made_by(change), cluster, facts))
        specimens.append(_specimen(image.pixels, real_square, kind_of(change), GENUINE, cluster_of(image.source), {}))
    yield shortage(len(specimens) // 2, settings.per_kind, refusals)
    return drawn(specimens, refusals)


def kind_of(change: Change) -> str:
    """The class of an image that was made: that of its largest share."""
    shares = change.class_shares or {"": 1.0}
    return max(shares, key=shares.__getitem__)


def _square(
    name: str, pixels: NDArray[np.uint8], side: int, rng: np.random.Generator, new: NDArray[np.bool_] | None = None
) -> Square | None:
    """A crop on tissue, with enough that is new where ``new`` (H, W) says what is; None where none is found."""
    height, width = pixels.shape[:2]
    for _ in range(TRIES):
        square = Square(name, int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side)
        if is_tissue(pixels[square.window]).mean() >= LEAST_TISSUE and (
            new is None or new[square.window].mean() >= LEAST_NEW
        ):
            return square
    return None


def _partner(
    dataset: Dataset,
    change: Change,
    shown: set[str],
    donors: Counter[str],
    side: int,
    rng: np.random.Generator,
) -> tuple[LabeledImage, Square] | None:
    mpp = dataset.entry(change.image).mpp
    possible = [
        entry
        for entry in dataset.training
        if not entry.synthetic
        and entry.kind == kind_of(change)
        and entry.mpp == mpp
        and entry.source.image not in {*shown, change.image}
    ]
    order = [possible[index] for index in rng.permutation(len(possible))]
    for entry in sorted(order, key=lambda entry: donors[entry.source.image] > 0):
        try:
            image = dataset.read(entry)
        except HistomixError:
            # One image that cannot be read is one real crop less to choose from.
            continue
        if min(image.pixels.shape[:2]) >= side:
            square = _square(entry.source.image, image.pixels, side, rng)
            if square is not None:
                return image, square
    return None


def _specimen(
    pixels: NDArray[np.uint8], square: Square, kind: str, method: str, cluster: str, facts: Mapping[str, Any]
) -> Specimen:
    where = {"image": square.image, "row": square.row, "col": square.col, **facts}
    return Specimen(pixels[square.window].copy(), None, kind, method, cluster, where)
