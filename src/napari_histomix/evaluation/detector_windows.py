"""What a detector is shown: crops, and those of synthetic and real nuclei out of a study."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.composing import compose
from napari_histomix.compositing.donors import Mask, dilate
from napari_histomix.datasets import Dataset
from napari_histomix.evaluation.crops import CROSSES_EDGE, NOT_READ, Square, center_of, group_of, unblended
from napari_histomix.evaluation.real_nuclei import Key, find_real_nuclei
from napari_histomix.records import DONOR, Change, Event, Job, LabeledImage
from napari_histomix.scales import same_scale

if TYPE_CHECKING:
    from napari_histomix.evaluation.detector import DetectorSettings

U8 = NDArray[np.uint8]

NUCLEI, TISSUE = "nuclei", "tissue"
"""What is asked about."""
NOTHING, NUCLEUS, SURROUNDINGS, RIM = "nothing", "nucleus", "surroundings", "rim"
HIDDEN = MappingProxyType(
    {
        NOTHING: "Nothing hidden",
        NUCLEUS: "Nucleus and rim hidden",
        SURROUNDINGS: "Surroundings hidden",
        RIM: "Rim hidden",
    }
)
"""What of a crop a detector does not see, with what it is called."""
RIM_WIDTH = 3
"""Width in pixels of a nucleus's rim: layer 1, which comes along, and layers 2 and 3, which are painted."""
NO_NUCLEUS = "it adds no nucleus"


@dataclass(frozen=True, eq=False)
class Crop:
    """A crop, real or synthetic.

    Parameters
    ----------
    pixels : (S, S, 3) uint8
    nucleus : (S, S) bool
        The nucleus asked about, as the instance map has it; empty where it is tissue.
    image : str
        The real image that it is cut from, or that the synthetic one was made of.
    kind : str
        Name of its class.
    group : str
        Patient, slide or image that it comes from, the first that is known; of tissue, that of the target.
    groups : frozenset of str
        That, and those of its donors.
    parts : frozenset of (image, number)
        The nucleus that a real crop shows; the donors, nuclei or segments, that a synthetic one is made of. Real
        tissue has those of the synthetic crop that it belongs to.
    change : int, optional
        Id of the change; None where it is real.
    pasted : (S, S, 3) uint8, optional
        The same change without blending: its donors' pixels, and the target's own for the rest.
    replaced : bool
        Whether a nucleus was replaced.
    origin : (S, S) uint8, optional
        Of synthetic tissue, its part of the origin map.
    unfitted : (S, S, 3) uint8, optional
        Of synthetic tissue, the target with the donor's pixels as they lie in its image, neither turned nor restained.
    pair : int, optional
        Of tissue: a number that a synthetic crop shares with the real ones that show the same places.
    """

    pixels: U8
    nucleus: Mask
    image: str
    kind: str
    group: str
    groups: frozenset[str]
    parts: frozenset[Key] = frozenset()
    change: int | None = None
    pasted: U8 | None = None
    replaced: bool = False
    origin: U8 | None = None
    unfitted: U8 | None = None
    pair: int | None = None

    @property
    def synthetic(self) -> bool:
        """Whether something in it is not as it was scanned."""
        return self.change is not None

    def hidden(self, what: str) -> Mask:
        """What of it (S, S) a detector does not see, by a key of ``HIDDEN``; from the nucleus's shape alone."""
        if what == NOTHING:
            return np.zeros_like(self.nucleus)
        outer = dilate(self.nucleus, RIM_WIDTH)
        return {NUCLEUS: outer, SURROUNDINGS: ~outer, RIM: outer & ~self.nucleus}[what]


@dataclass(frozen=True, eq=False)
class Crops:
    """Crops of one method's changes and of real images, and why others are not shown, counted by reason."""

    subject: str
    crops: Sequence[Crop]
    refusals: Counter[str] = field(default_factory=Counter)


class CropGroups:
    """Groups of a dataset's images by name."""

    def __init__(self, dataset: Dataset) -> None:
        self._groups = {entry.source.image: group_of(entry.source) for entry in dataset.entries}

    def of(self, change: Change) -> frozenset[str]:
        """The groups of all that a change was made of."""
        names = {change.image, *(source.image for source in change.sources if source.role == "donor")}
        return frozenset(self._groups.get(name, name) for name in names)


def drawn_at_most(changes: Sequence[Any], most: int, rng: np.random.Generator) -> list[Any]:
    """At most so many, drawn at random and in their order."""
    rows = sorted(rng.permutation(len(changes))[:most].tolist())
    return [changes[row] for row in rows]


# Nuclei.


def nuclei_crops(dataset: Dataset, changes: Sequence[Change], settings: DetectorSettings) -> Job[Crops]:
    """Crops centered on synthetic nuclei, and on real ones of their classes that could be donors; a long job.

    A crop of a synthetic nucleus shows that one change of its image. A real nucleus has to meet what a placement has to
    meet: whole, room for its transition zone, no touching neighbor, tissue around it, no less contrast than the
    palest donor (``real_nuclei``), nothing synthetic in sight, at the scale of an image with changes. All crops lie
    within their images.
    """
    side = settings.side
    rng = np.random.default_rng([settings.seed, 1])
    refusals: Counter[str] = Counter()
    placed = [change for change in changes if change.added]
    if unplaced := len(changes) - len(placed):
        refusals[NO_NUCLEUS] = unplaced
    placed = drawn_at_most(placed, settings.most, rng)
    kinds = {kind for change in placed for kind in change.added.values()}
    real = yield from find_real_nuclei(dataset, kinds, (), side)
    donors = [donor for change in placed if (donor := change.donor) is not None]
    scales = {real.scales[change.image] for change in placed if change.image in real.scales}
    alike = [
        (nucleus, square)
        for nuclei in real.like(donors).values()
        for nucleus in nuclei
        if (square := _around(nucleus.image, round(nucleus.row), round(nucleus.col), side)).within(
            real.shapes[nucleus.image]
        )
        and any(same_scale(real.scales[nucleus.image], scale) for scale in scales)
    ]
    by_image: dict[str, tuple[list[Any], list[Change]]] = defaultdict(lambda: ([], []))
    for pair in drawn_at_most(alike, settings.most, rng):
        by_image[pair[0].image][0].append(pair)
    for change in placed:
        by_image[change.image][1].append(change)
    groups = CropGroups(dataset)
    crops: list[Crop] = []
    for number, (name, (nuclei, here)) in enumerate(sorted(by_image.items())):
        yield Event("Cutting crops", number, len(by_image))
        if name not in real.shapes:
            refusals[NOT_READ] += len(here)
            continue
        image = dataset.read(name)
        group = group_of(image.source)
        for nucleus, square in nuclei:
            kind, window = dataset.class_name(nucleus.type), square.window
            mask = image.instances[window] == nucleus.instance
            parts = frozenset({(name, nucleus.instance)})
            crops.append(Crop(image.pixels[window].copy(), mask, name, kind, group, frozenset({group}), parts))
        for change in here:
            square = _around(name, *center_of(change), side)
            if not square.within(real.shapes[name]):
                refusals[CROSSES_EDGE] += 1
                continue
            kind = dataset.class_name(next(iter(change.added.values())))
            crops.append(synthetic_crop(image, change, square, kind, groups))
    return Crops(NUCLEI, crops, refusals)


def _around(image: str, row: int, col: int, side: int) -> Square:
    return Square(image, row - side // 2, col - side // 2, side)


def synthetic_crop(image: LabeledImage, change: Change, square: Square, kind: str, groups: CropGroups) -> Crop:
    """A crop of an image with one change, and of the same without blending."""
    window, made = square.window, compose(image, [change]).image
    pasted = None
    if (change.origin == DONOR).any():
        pasted = compose(image, [unblended(change)]).image.pixels[window].copy()
    target = change.target
    return Crop(
        made.pixels[window].copy(),
        np.isin(made.instances[window], list(change.added)),
        change.image,
        kind,
        group_of(image.source),
        groups.of(change),
        frozenset((source.image, source.item) for source in change.sources if source.role == "donor"),
        change.id,
        pasted,
        target is not None and target.item != 0,
    )
