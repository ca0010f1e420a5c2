"""Crops of a reader test: where one may be taken, and those of synthetic and real tissue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset
from napari_histomix.evaluation.crops import (
    CROSSES_EDGE,
    GENUINE,
    NOT_READ,
    Square,
    crop_side,
    group_of,
    made_by,
    tissue_square,
)
from napari_histomix.records import REAL, Change, Event, HistomixError, Job, LabeledImage, Source
from napari_histomix.settings import Option, Seed

SHOWN_ALREADY = "its crop would show what another crop shows"
NO_PARTNER = "nothing real of its class and size is left to be shown as well"
TOO_LITTLE = "no crop of it shows enough that is new"


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
            label="Also hard pastes of donors",
        ),
    ] = False
    side_um: Annotated[
        float, Option("Side of a crop around a nucleus.", label="Side", low=1.0, unit="µm", advanced=True)
    ] = 32.0
    tissue_um: Annotated[
        float, Option("Side of a crop out of a tissue image.", label="Side", low=1.0, unit="µm", advanced=True)
    ] = 100.0
    seed: Seed = 0


@dataclass(frozen=True, eq=False)
class Specimen:
    """A crop (S, S, 3) with its truth.

    ``mark`` (row, col) is the pixel of the crop that lies in the nucleus asked about, None where the whole crop is.
    ``kind`` is the name of its class, which the reader is told; ``method`` is ``GENUINE``, ``COPY_PASTE`` (of
    ``crops``), or what made it; ``cluster`` the patient, slide or image it comes from, the first that is known:
    specimens of one are not independent. ``facts`` say where it comes from, as plain JSON values.
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
        cluster = group_of(source)
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
        square = tissue_square(change.image, change.pixels, side, rng, change.origin != REAL)
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
            square = tissue_square(entry.source.image, image.pixels, side, rng)
            if square is not None:
                return image, square
    return None
