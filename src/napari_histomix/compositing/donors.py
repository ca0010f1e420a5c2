"""Donors: rare nuclei cut out of their images with enough surroundings to place and stain-match them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.composing import window_around
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.jpeg_grid import Grid
from napari_histomix.compositing.stain import Staining
from napari_histomix.datasets import Dataset, Problem
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, Location
from napari_histomix.sampling import nucleus_locations
from napari_histomix.scales import resampled, resampled_shape, same_scale
from napari_histomix.stains import optical_density

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))

Mask = NDArray[np.bool_]


def dilate(mask: Mask, pixels: int) -> Mask:
    """``mask`` (H, W) grown by ``pixels`` steps of the 4-neighbor cross."""
    if pixels == 0:
        return mask.copy()
    # Ten times as fast as scipy.ndimage.binary_dilation. Beyond its border OpenCV, too, finds nothing.
    return cv2.dilate(mask.astype(np.uint8), CROSS, iterations=pixels).astype(bool)


def layer_one(nucleus: Mask) -> Mask:
    """The one-pixel contour that is kept from the donor's surroundings."""
    return dilate(nucleus, 1) & ~nucleus


def transition_zone(nucleus: Mask) -> Mask:
    """Layers 2 and 3: the two pixels outside layer 1, which are inpainted."""
    return dilate(nucleus, 3) & ~dilate(nucleus, 1)


CONTRAST_UM = 2.5
"""Width in µm of the surroundings that a nucleus's contrast is measured against."""

MARGIN_UM = 7.5
"""Surroundings kept on each side of a donor, in µm (NucleiMix: 30 px at 0.25 µm/px)."""

TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
"""OpenCV's codes of one, two and three quarter turns counterclockwise."""

CUT_BY_EDGE = "the donor is cut by the edge of its own image"
SLIVER = "the donor is far smaller than its class, so perhaps only a part of a nucleus"
PALE = "the donor stands out from its surroundings far less than its class does"
TOUCHES_NEIGHBOR = "the donor touches another nucleus in its own image"


@dataclass(frozen=True, eq=False)
class DonorCrop:
    """A donor with its surroundings: its own mask, and the pixels of no nucleus, (h, w) each.

    ``mpp`` is in µm per pixel, ``staining`` that of the donor's whole image, and ``corner`` (row, column) the
    upper left corner of the crop in that image, in its own pixels; ``grid`` is the crop's grid of JPEG, if it has one.
    """

    location: Location
    pixels: NDArray[np.uint8]
    nucleus: Mask
    surroundings: Mask
    mpp: float
    staining: Staining
    corner: tuple[int, int] = (0, 0)
    grid: Grid | None = None

    def at_scale(self, mpp: float) -> DonorCrop:
        """The donor resampled to ``mpp``; itself where that is its own scale already (within 2 %)."""
        factor = self.mpp / mpp
        if same_scale(self.mpp, mpp):
            return self
        size = resampled_shape(self.nucleus.shape, factor)[::-1]
        nucleus, surroundings = (
            cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
            for mask in (self.nucleus, self.surroundings)
        )
        pixels = resampled(self.pixels, factor)
        return replace(self, pixels=pixels, nucleus=nucleus, surroundings=surroundings, mpp=mpp, grid=None)

    def turned(self, quarter_turns: int, mirrored: bool) -> DonorCrop:
        """The donor mirrored left to right, then turned counterclockwise: lossless."""

        def turn(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
            array = np.asarray(cv2.flip(array, 1), np.uint8) if mirrored else array
            return np.asarray(cv2.rotate(array, TURNS[quarter_turns % 4]), np.uint8) if quarter_turns % 4 else array

        nucleus, surroundings = (turn(mask.view(np.uint8)).view(bool) for mask in (self.nucleus, self.surroundings))
        grid = self.grid and self.grid.turned(self.nucleus.shape, quarter_turns, mirrored)
        return replace(self, pixels=turn(self.pixels), nucleus=nucleus, surroundings=surroundings, grid=grid)


def before_turn(row: int, col: int, shape: tuple[int, int], quarter_turns: int, mirrored: bool) -> tuple[int, int]:
    """Where a pixel of a turned donor was before ``DonorCrop.turned``, in a crop of ``shape`` (h, w)."""
    height, width = shape
    if quarter_turns % 2:
        row, col = col, row
    if quarter_turns % 4 in (1, 2):
        col = width - 1 - col
    if quarter_turns % 4 in (2, 3):
        row = height - 1 - row
    return row, width - 1 - col if mirrored else col


def density_around(pixels: NDArray[np.uint8], nucleus: Mask, surroundings: Mask, mpp: float) -> float | None:
    """Mean green optical density (base 10) of what surrounds a nucleus and its rim of two pixels; None: nothing does.

    ``surroundings`` (h, w) are the pixels of no nucleus.
    """
    around = dilate(nucleus, 2 + max(2, round(CONTRAST_UM / mpp))) & ~dilate(nucleus, 2) & surroundings
    return float(optical_density(pixels, around)[:, 1].mean()) if around.any() else None


def contrast(source: IndexedImage, location: Location) -> float | None:
    """How much darker a nucleus is than what surrounds it, in green optical density; None where nothing does."""
    window = _window(source, location)
    pixels, region = source.image.pixels[window], source.image.instances[window]
    nucleus = region == location.instance
    around = density_around(pixels, nucleus, region == 0, source.image.mpp)
    return None if around is None else float(optical_density(pixels, nucleus)[:, 1].mean()) - around


def donor_flaw(source: IndexedImage, location: Location) -> str | None:
    """Why a nucleus cannot be a donor, or None.

    A nucleus within two pixels of the image's edge may be cut, and has no complete layer 1; in layer 1 of a touching
    nucleus lies the neighbor, which would come along.
    """
    instances = source.image.instances
    height, width = instances.shape
    rows, cols = source.boxes[location.instance]
    if min(rows.start, cols.start) < 2 or rows.stop > height - 2 or cols.stop > width - 2:
        return CUT_BY_EDGE
    region = instances[rows.start - 2 : rows.stop + 2, cols.start - 2 : cols.stop + 2]
    if np.any(region[layer_one(region == location.instance)] != 0):
        return TOUCHES_NEIGHBOR
    return None


def cut_donor(source: IndexedImage, location: Location) -> DonorCrop:
    """Cut the donor at ``location`` out of its image, with ``MARGIN_UM`` of surroundings where the image has them."""
    image, window = source.image, _window(source, location)
    region = image.instances[window]
    pixels, nucleus = image.pixels[window].copy(), region == location.instance
    corner = window[0].start, window[1].start
    grid = source.grid and source.grid.moved(*corner)
    return DonorCrop(location, pixels, nucleus, region == 0, image.mpp, source.staining, corner, grid)


def _window(source: IndexedImage, location: Location) -> tuple[slice, slice]:
    """A nucleus's bounding box with ``MARGIN_UM`` around it, within the image."""
    margin = round(MARGIN_UM / source.image.mpp)
    return window_around([source.boxes[location.instance]], margin, source.image.instances.shape)


def rare_and_major(
    dataset: Dataset, rare_names: Iterable[str], major_names: Iterable[str]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of the rare and the major classes; all other classes are major where none is named.

    Nuclei without a class are neither, unless they are asked for.
    """
    rare = tuple(dict.fromkeys(dataset.class_number(name) for name in rare_names))
    if not rare:
        raise HistomixError("Choose at least one rare class.")
    major = tuple(dict.fromkeys(dataset.class_number(name) for name in major_names))
    if both := set(rare) & set(major):
        raise HistomixError(f"Class {dataset.class_name(min(both))} cannot be both rare and major.")
    left_out = {*rare, dataset.unclassified.number}
    return rare, major or tuple(nucleus.number for nucleus in dataset.classes if nucleus.number not in left_out)


@dataclass(eq=False)
class NucleusSurvey:
    """The nuclei of all readable training images.

    ``problems`` are of images that could not be read. By image: its rare and major ``nuclei``, its ``areas`` in µm² and
    ``mpp`` in µm per pixel. Of rare nuclei, where they have one: ``flaws`` (``donor_flaw``) and ``contrasts``.
    """

    problems: list[Problem]
    nuclei: dict[str, list[Location]] = field(default_factory=dict)
    areas: dict[str, float] = field(default_factory=dict)
    mpp: dict[str, float] = field(default_factory=dict)
    flaws: dict[Location, str] = field(default_factory=dict)
    contrasts: dict[Location, float] = field(default_factory=dict)

    def add(self, image: LabeledImage, nuclei: list[Location]) -> None:
        name = image.source.image
        self.nuclei[name], self.mpp[name] = nuclei, image.mpp
        self.areas[name] = image.instances.size * image.mpp**2
        indexed = IndexedImage(image)
        for nucleus in nuclei:
            if nucleus.kind == "rare":
                if (value := contrast(indexed, nucleus)) is not None:
                    self.contrasts[nucleus] = value
                if flaw := donor_flaw(indexed, nucleus):
                    self.flaws[nucleus] = flaw

    @property
    def rare(self) -> list[Location]:
        """All rare nuclei."""
        return [nucleus for nuclei in self.nuclei.values() for nucleus in nuclei if nucleus.kind == "rare"]

    def all_flaws(self) -> dict[Location, str]:
        """Why rare nuclei cannot be donors; some are far smaller or far paler than the median of their class."""
        flaws: dict[Location, str] = {}
        for number in {nucleus.type for nucleus in self.rare}:
            own = [nucleus for nucleus in self.rare if nucleus.type == number]
            seen = {nucleus: self.contrasts[nucleus] for nucleus in own if nucleus in self.contrasts}
            area = float(np.median([nucleus.area for nucleus in own]))
            typical = float(np.median(list(seen.values()))) if seen else 0.0
            flaws |= {nucleus: PALE for nucleus, value in seen.items() if value < 0.65 * max(typical, 0.0)}
            flaws |= {nucleus: SLIVER for nucleus in own if nucleus.area < 0.3 * area}
        return flaws | self.flaws


def survey_nuclei(dataset: Dataset, rare: tuple[int, ...], major: tuple[int, ...]) -> Job[NucleusSurvey]:
    """Read the nuclei of the training images; a long job (see ``records.Job``).

    Synthetic nuclei are left out. A bad image becomes a problem, the others go on. HistomixError is raised if no image
    can be read, or nothing says how large a pixel is.
    """
    entries = [entry for entry in dataset.real_training if entry.labels is not None]
    if entries and all(entry.mpp is None for entry in entries):
        raise HistomixError(
            "Nothing says how many µm one pixel of these images is; pass --mpp, "
            'or put {"mpp": 0.25} in dataset.json beside the data.'
        )
    survey = NucleusSurvey(list(dataset.problems))
    for number, entry in enumerate(entries):
        yield Event("Reading labels", number, len(entries))
        try:
            image = dataset.read(entry)
        except HistomixError as error:
            survey.problems.append(Problem(entry.source.image, str(error)))
            yield Event("Reading labels", number, len(entries), message=f"Skipped: {error}")
            continue
        survey.add(image, nucleus_locations(image, rare, major))
    if not survey.nuclei:
        problems = survey.problems
        raise HistomixError(problems[-1].sentence if problems else f"{dataset.name} has no training image.")
    return survey
