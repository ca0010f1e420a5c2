"""Crops of a reader test: where one may be taken, and those of synthetic and real tissue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset
from napari_histomix.records import REAL, Change, Event, HistomixError, Job, LabeledImage, Source
from napari_histomix.settings import Option, Seed
from napari_histomix.stains import is_tissue

GENUINE = "real"
"""In place of a method's name: nothing was changed."""
COPY_PASTE = "copy-paste"
"""Donors as they are pasted, before anything is blended."""

CROSSES_EDGE = "its crop would cross the edge of its image"
SHOWN_ALREADY = "its crop would show what another crop shows"
NO_PARTNER = "nothing real of its class and size is left to be shown as well"
NOT_READ = "its image is gone, cannot be read, or is not in the training split any more"
TOO_LITTLE = "no crop of it shows enough that is new"

LEAST_NEW = 0.2
"""Share of a synthetic crop of tissue that must not be its target's own pixels."""
LEAST_TISSUE = 0.5
"""Share of tissue in any crop of tissue."""
TRIES = 50


@dataclass(frozen=True, kw_only=True)
class ReaderTestSettings:
    """How a reader test is made; the only home of these defaults."""

    per_kind: Annotated[
        int,
        Option(
            "Real crops, and as many synthetic ones of all methods together. Fewer are shown where there is no room "
            "for more: no two crops show the same place or the same donor.",
            label="Crops of each kind",
            low=1,
            high=1000,
        ),
    ] = 50
    copy_paste: Annotated[
        bool,
        Option(
            "Also show donors pasted without blending, as a method of its own: what blending has to be better than. "
            "Part of the same number.",
            label="Also donors pasted without blending",
        ),
    ] = False
    side_um: Annotated[
        float, Option("Side of a crop around a nucleus.", label="Side", low=1.0, unit="µm", advanced=True)
    ] = 32.0
    tissue_um: Annotated[
        float, Option("Side of a crop out of a tissue image.", label="Side", low=1.0, unit="µm", advanced=True)
    ] = 100.0
    seed: Seed = 0


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


def crop_side(dataset: Dataset, micrometers: float) -> int:
    """Side of a crop in pixels at the median scale of the training images, an even number; 0 where none is known."""
    scales = [entry.mpp for entry in dataset.training if entry.mpp is not None]
    return max(2 * round(micrometers / float(np.median(scales)) / 2), 16) if scales else 0


@dataclass(frozen=True, eq=False)
class Specimen:
    """A crop (S, S, 3) with its truth.

    ``mark`` (row, col) is the pixel of the crop that lies in the nucleus asked about, None where the whole crop is.
    ``kind`` is the name of its class, which the reader is told; ``method`` is ``GENUINE``, ``COPY_PASTE``, or what made
    it; ``cluster`` the patient, slide or image it comes from, the first that is known: specimens of one are not
    independent. ``facts`` say where it comes from, as plain JSON values.
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

    @classmethod
    def cut(
        cls,
        pixels: NDArray[np.uint8],
        square: Square,
        center: tuple[int, int] | None,
        kind: str,
        method: str,
        source: Source,
        **facts: Any,
    ) -> Specimen:
        """Cut a square out of an image; ``center`` is the pixel of the image that is asked about, if it is one."""
        row, col = center or (square.row, square.col)
        mark = (row - square.row, col - square.col) if center else None
        cluster = source.patient or source.slide or source.image
        where = {"image": square.image, "row": row, "col": col, **facts}
        return cls(pixels[square.window].copy(), mark, kind, method, cluster, where)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Specimens, as many real as synthetic of each class; and why others could not be shown, counted by reason."""

    specimens: Sequence[Specimen]
    refusals: Counter[str]

    def __post_init__(self) -> None:
        if not self.specimens:
            reason = f"; {self.refusals.most_common(1)[0][0]}" if self.refusals else ""
            raise HistomixError(
                f"No synthetic result can be shown beside a real one{reason}. Make more, or add images."
            )


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


# Tissue.


def draw_tissue(dataset: Dataset, changes: Sequence[Change], settings: ReaderTestSettings) -> Job[Drawn]:
    """Draw crops of synthetic tissue, and as many of real images of the same class and scale; a long job.

    A crop lies anywhere on tissue; a synthetic one shows at least ``LEAST_NEW`` that is new. Every real image gives one
    crop at most, and none to a test that shows a synthetic image made from it. Images that gave donors to a synthetic
    image that is shown are taken only after the others. HistomixError is raised if not one pair can be shown.
    """
    rng = np.random.default_rng([settings.seed, 2])
    scaled = {entry.source.image for entry in dataset.training if entry.mpp is not None}
    side = crop_side(dataset, settings.tissue_um)
    shown: set[str] = set()
    givers: Counter[str] = Counter()
    specimens: list[Specimen] = []
    refusals: Counter[str] = Counter()

    def pair_of(change: Change, donors: set[str]) -> tuple[Specimen, Specimen] | str:
        """A synthetic crop and a real one, or why there are none."""
        if change.image not in scaled:
            return NOT_READ
        # Two synthetic images of one target show the same real tissue around what was replaced.
        if change.image in shown:
            return SHOWN_ALREADY
        if min(change.origin.shape) < side:
            return CROSSES_EDGE
        square = _square(change.image, change.pixels, side, rng, change.origin != REAL)
        if square is None:
            return TOO_LITTLE
        shares = change.class_shares or {"": 1.0}
        kind = max(shares, key=shares.__getitem__)
        partner = _partner(dataset, change.image, kind, shown, givers + Counter(donors), side, rng)
        if partner is None:
            return NO_PARTNER
        source, (image, real_square) = dataset.entry(change.image).source, partner
        facts = {
            "name": change.name,
            "seed": change.seed,
            "new_area": round(change.new_area, 4),
            "donors": sorted(donors),
        }
        return (
            Specimen.cut(change.pixels, square, None, kind, made_by(change), source, **facts),
            Specimen.cut(image.pixels, real_square, None, kind, GENUINE, image.source),
        )

    for index in rng.permutation(len(changes)):
        if len(specimens) == 2 * settings.per_kind:
            break
        yield Event("Choosing crops", len(specimens) // 2, settings.per_kind)
        change = changes[int(index)]
        donors = {source.image for source in change.sources if source.role == "donor"}
        pair = pair_of(change, donors)
        if isinstance(pair, str):
            refusals[pair] += 1
            continue
        specimens += pair
        shown |= {specimen.facts["image"] for specimen in pair}
        givers.update(donors)
    yield shortage(len(specimens) // 2, settings.per_kind, refusals)
    return Drawn(specimens, refusals)


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
    dataset: Dataset, target: str, kind: str, shown: set[str], givers: Counter[str], side: int, rng: np.random.Generator
) -> tuple[LabeledImage, Square] | None:
    """A real image to show beside a synthetic one of ``target``, and where; one that gave no donor if there is one."""
    mpp = dataset.entry(target).mpp
    possible = [
        entry
        for entry in dataset.training
        if not entry.synthetic
        and entry.kind == kind
        and entry.mpp == mpp
        and entry.source.image not in {*shown, target}
    ]
    order = [possible[index] for index in rng.permutation(len(possible))]
    for entry in sorted(order, key=lambda entry: givers[entry.source.image] > 0):
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
