"""Real nuclei that a synthetic one could be taken for: such as a method could have placed where they lie."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.donors import CONTRAST_UM, Mask, density_around, dilate, layer_one, transition_zone
from napari_histomix.compositing.planning import CLIPPED_AT_MOST
from napari_histomix.datasets import Dataset
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, Location, SourceRef
from napari_histomix.sampling import nucleus_locations, tissue
from napari_histomix.stains import optical_density

Key = tuple[str, int]
"""A nucleus by image and instance id."""
Place = tuple[str, int, int]
"""Image, row and column."""


@dataclass(frozen=True, eq=False)
class RealNuclei:
    """What the training images hold.

    ``shapes`` (H, W) and ``scales`` (µm per pixel) by image; ``nuclei`` by class, those that a change could have made;
    ``contrasts`` of these; ``tissue``, the share of tissue in a crop around each of these and each place asked about.
    """

    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    nuclei: dict[int, list[Location]] = field(default_factory=dict)
    contrasts: dict[Key, float] = field(default_factory=dict)
    tissue: dict[Place, float] = field(default_factory=dict)

    def like(self, donors: Iterable[SourceRef]) -> dict[int, list[Location]]:
        """By class, the nuclei that are no paler against their surroundings than the palest donor of the class."""
        palest: dict[int, float] = {}
        for donor in donors:
            contrast = self.contrasts.get((donor.image, donor.item))
            if contrast is not None:
                palest[donor.type] = min(contrast, palest.get(donor.type, contrast))
        return {
            kind: [
                nucleus
                for nucleus in nuclei
                if self.contrasts[nucleus.image, nucleus.instance] >= palest.get(kind, -np.inf)
            ]
            for kind, nuclei in self.nuclei.items()
        }


def place_of(location: Location | SourceRef) -> Place:
    """Where something lies, to the pixel."""
    return location.image, round(location.row), round(location.col)


def find_real_nuclei(
    dataset: Dataset, kinds: Collection[int], places: Iterable[SourceRef], side: int
) -> Job[RealNuclei]:
    """Nuclei of some classes in the training images, and the share of tissue around them and around other places.

    ``side`` is that of a crop, in pixels. A long job (see ``records.Job``).
    """
    real = RealNuclei()
    other: dict[str, list[SourceRef]] = {}
    for place in places:
        other.setdefault(place.image, []).append(place)
    for number, entry in enumerate(dataset.training):
        yield Event("Looking at real nuclei", number, len(dataset.training))
        try:
            image = dataset.read(entry)
        except HistomixError as error:
            yield Event("Looking at real nuclei", number, len(dataset.training), message=f"Skipped: {error}")
            continue
        name, (height, width) = entry.source.image, image.instances.shape
        real.shapes[name], real.scales[name] = (height, width), image.mpp
        on_tissue = tissue(image)
        here: list[Location | SourceRef] = [*other.get(name, ())]
        for nucleus in nucleus_locations(image, kinds, ()):
            if _shows_synthetic(image, nucleus, side):
                continue
            contrast = _contrast(image, on_tissue, nucleus)
            if contrast is not None:
                here.append(nucleus)
                real.nuclei.setdefault(nucleus.type, []).append(nucleus)
                real.contrasts[name, nucleus.instance] = contrast
        sums = np.asarray(cv2.integral(on_tissue.astype(np.uint8)), np.int64)
        real.tissue.update((place_of(place), _share(sums, place, side)) for place in here)
    return real


def _shows_synthetic(image: LabeledImage, nucleus: Location, side: int) -> bool:
    """Whether a crop around a real nucleus, wherever that lies in it, could show a synthetic one."""
    if not image.synthetic:
        return False
    window = tuple(slice(max(0, round(at) - side), round(at) + side + 1) for at in (nucleus.row, nucleus.col))
    return bool(np.isin(image.instances[window], list(image.synthetic)).any())


def _contrast(image: LabeledImage, on_tissue: Mask, location: Location) -> float | None:
    """Contrast of a nucleus that has the room and the tissue a placement would need; None where it has not."""
    # Wide enough for the surroundings that the contrast is measured in; a nucleus that does not fit is cut off, or is a
    # thread six times as long as it is wide.
    reach = round(2.5 * np.sqrt(location.area / np.pi)) + max(4, round(CONTRAST_UM / image.mpp) + 2)
    window = tuple(slice(max(0, round(at) - reach), round(at) + reach + 1) for at in (location.row, location.col))
    instances = image.instances[window]
    nucleus = instances == location.instance
    if nucleus.sum() < location.area or nucleus[[0, -1]].any() or nucleus[:, [0, -1]].any():
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


def _share(sums: NDArray[np.int64], place: Location | SourceRef, side: int) -> float:
    """Share of tissue in a crop around a place, as far as its image goes; from sums over rectangles (H + 1, W + 1)."""
    height, width = sums.shape[0] - 1, sums.shape[1] - 1
    top, left = (max(round(at) - side // 2, 0) for at in (place.row, place.col))
    bottom, right = min(top + side, height), min(left + side, width)
    total = int(sums[bottom, right]) - int(sums[top, right]) - int(sums[bottom, left]) + int(sums[top, left])
    return total / max((bottom - top) * (right - left), 1)
