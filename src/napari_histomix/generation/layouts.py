"""Layouts without a network: nuclei of real maps moved, turned, swapped and made more frequent, or edited by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.generation.layout import Layout
from napari_histomix.generation.layout_board import (
    TRIES,
    Board,
    Pixels,
    Random,
    centered,
    largest_part,
    lying_as,
    turned_pixels,
)
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass, instance_ids
from napari_histomix.sampling import nucleus_boxes
from napari_histomix.scales import same_scale, shape_at_scale
from napari_histomix.settings import Option, check_settings

Mask = NDArray[np.bool_]

LIKE = 1.5
"""Largest ratio of the areas of two nuclei that are swapped."""

DONOR_IMAGES = 2
"""Further images that give nuclei to a layout: a few, so that it is told from which."""

SMALLEST_SIDE = 16
"""Of a layout, in pixels."""


@dataclass(frozen=True, kw_only=True)
class LayoutSettings:
    """How layouts are recombined from real maps."""

    side: Annotated[
        int, Option("Height and width of a layout.", label="Side in px", low=SMALLEST_SIDE, high=8192, unit="px")
    ] = 256
    raised: Annotated[
        tuple[str, ...],
        Option(
            "Classes to make more frequent; none: classes are as frequent as they are.",
            label="Raised classes",
            kind="classes",
        ),
    ] = ()
    share: Annotated[
        float,
        Option(
            "Least share of a layout's nuclei that are of the raised classes.", label="Their share", low=0.0, high=1.0
        ),
    ] = 0.3
    added: Annotated[
        float,
        Option("Share of the raised nuclei at free places, not in the place of others.", low=0, high=1, advanced=True),
    ] = 0.25
    moved: Annotated[float, Option("Share of the nuclei that are moved.", label="Share moved", low=0.0, high=1.0)] = 0.5
    distance: Annotated[
        float, Option("Typical distance that a nucleus is moved.", low=0.0, high=100.0, unit="µm", advanced=True)
    ] = 2.0
    turned: Annotated[
        float, Option("Share of the nuclei that are turned.", label="Share turned", low=0.0, high=1.0)
    ] = 0.5
    angle: Annotated[
        float, Option("Typical angle that a nucleus is turned by.", low=0.0, high=180.0, unit="°", advanced=True)
    ] = 20.0
    swapped: Annotated[
        float,
        Option(
            "Share of the nuclei that others of their class and size replace.", label="Share swapped", low=0.0, high=1.0
        ),
    ] = 0.5


def recombine(
    images: Sequence[LabeledImage], classes: Sequence[NucleusClass], settings: LayoutSettings, seed: int
) -> Layout:
    """A new layout out of real maps.

    A window of a random image, flipped and turned, whose nuclei are swapped with others of their class and size, turned
    and moved; nuclei of raised classes take the place of others, lying as those lay, or go to free places about as far
    from their neighbors as nuclei are there. Nuclei that the window's border cuts stay as they are. Nuclei never
    overlap: where there is no room for a nucleus, it stays what and where it was.

    Parameters
    ----------
    images : sequence of LabeledImage
        Training images; their synthetic nuclei are left out.
    classes : sequence of NucleusClass
    settings : LayoutSettings
    seed : int
        The same seed gives the same layout.

    Returns
    -------
    Layout
        (side, side), at the scale of the image that it came from.

    Raises
    ------
    HistomixError
        If no image is large enough, or a raised class does not occur in any image.

    See Also
    --------
    Recombiner : makes many layouts of the same images, and looks for their nuclei only once.

    Examples
    --------
    >>> from napari_histomix import load_sample
    >>> sample = load_sample()
    >>> images = [sample.read(entry.source.image) for entry in sample.training]
    >>> layout = recombine(images, sample.classes, LayoutSettings(side=96), seed=1)
    >>> layout.shape
    (96, 96)
    """
    return Recombiner(images, classes).layout(settings, seed)


class Recombiner:
    """Makes layouts of the same images one after another, as ``recombine`` does.

    Parameters
    ----------
    images : sequence of LabeledImage
        Training images.
    classes : sequence of NucleusClass
    """

    def __init__(self, images: Sequence[LabeledImage], classes: Sequence[NucleusClass]) -> None:
        self.images = tuple(images)
        names = {known.number: known.name for known in classes}
        self._boxes: dict[int, dict[int, tuple[slice, slice]]] = {}
        # By image: the class of every real nucleus, and the nuclei of every class.
        self._classes: list[dict[int, str]] = []
        self._by_class: list[dict[str, list[int]]] = []
        for image in self.images:
            kinds = {
                number: names.get(kind, "") for number, kind in image.types.items() if number not in image.synthetic
            }
            grouped: dict[str, list[int]] = {}
            for number, name in kinds.items():
                grouped.setdefault(name, []).append(number)
            self._classes.append(kinds)
            self._by_class.append(grouped)

    def layout(self, settings: LayoutSettings, seed: int) -> Layout:
        """The layout of a seed; see ``recombine``."""
        settings = check_settings(settings)
        self._check_classes(settings.raised)
        rng = np.random.default_rng(seed)
        source, window = self._window(settings.side, rng)
        board = Board(window)

        # 1. Like for like.
        indices = (source, *self._drawn_images([len(kinds) for kinds in self._classes], rng))
        givers = self._swap(board, settings.swapped, indices, rng)
        # 2. The raised classes in the place of others, or beside them.
        if settings.raised and settings.share:
            givers |= self._raise(board, settings, rng)
        # 3. Whatever is there by now is turned and moved.
        for number in _chosen(board.whole(), settings.turned, rng):
            angle = rng.normal(0, settings.angle) + 180 * rng.integers(2)
            center, shape = centered(board.pixels[number])
            board.lay_anew(number, [center + turned_pixels(shape, angle)])
        for number in _chosen(board.whole(), settings.moved, rng):
            steps = np.rint(rng.normal(0, settings.distance / board.mpp, (TRIES, 2))).astype(np.int64)
            pixels = board.pixels[number]
            places = centered(pixels)[0] + steps
            board.lay_anew(number, (pixels + step for step in steps[board.holds(places)]))

        names = {self.images[index].source.image for index in givers} - {window.source}
        return replace(window, instances=board.instances, classes=board.classes, donors=tuple(sorted(names)))

    def window(self, side: int, seed: int) -> Layout:
        """A random window of the images as it is, but for flips and quarter turns."""
        return self._window(side, np.random.default_rng(seed))[1]

    def _check_classes(self, raised: Sequence[str]) -> None:
        present = sorted({name for grouped in self._by_class for name in grouped if name})
        for name in raised:
            if name not in present:
                listed = f"there are {', '.join(present)}" if present else "their nuclei have no classes"
                raise HistomixError(f"No training image has a nucleus of the class '{name}'; {listed}.")

    def _window(self, side: int, rng: Random) -> tuple[int, Layout]:
        """A random window, flipped and turned at random, and the number of its image."""
        if not self.images:
            raise HistomixError("There are no images to make layouts of; add training images with nuclei.")
        shapes = np.array([image.instances.shape for image in self.images])
        places = np.maximum(shapes - side + 1, 0).prod(axis=1).astype(float)
        if not places.any():
            height, width = shapes[shapes.min(axis=1).argmax()].tolist()
            raise HistomixError(
                f"No image holds a layout of {side}×{side} pixels, the largest is {width}×{height}; "
                f"choose a side of at most {min(height, width)}."
            )
        index = int(rng.choice(len(places), p=places / places.sum()))
        image, kinds = self.images[index], self._classes[index]
        row, col = (int(rng.integers(extent - side + 1)) for extent in shapes[index])
        turned = np.rot90(image.instances[row : row + side, col : col + side], int(rng.integers(4)))
        window = np.ascontiguousarray(turned[:, ::-1] if rng.integers(2) else turned)
        # Numbered anew from 1, without synthetic nuclei.
        ids = instance_ids(window)
        kept = np.array([number in kinds for number in ids], bool)
        numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
        instances = np.zeros_like(window)
        inside = np.flatnonzero(window)
        if ids:
            instances.ravel()[inside] = numbers[np.searchsorted(ids, window.ravel()[inside])]
        classes = {int(numbers[order]): kinds[number] for order, number in enumerate(ids) if kept[order]}
        return index, Layout(instances, classes, image.mpp, image.source.image)

    def _drawn_images(self, weights: Sequence[float], rng: Random) -> list[int]:
        """A few images to take nuclei from, by weight; none where none has any."""
        chances = np.array(weights, float)
        count = min(DONOR_IMAGES, int(np.count_nonzero(chances)))
        return rng.choice(len(chances), count, replace=False, p=chances / chances.sum()).tolist() if count else []

    def _nucleus(self, index: int, number: int, mpp: float) -> Pixels | None:
        """A nucleus's pixels from its center, at the scale that is asked for; None where the border cuts it."""
        image = self.images[index]
        if index not in self._boxes:
            self._boxes[index] = nucleus_boxes(image.instances)
        box = self._boxes[index].get(number)
        extents = zip(box or (), image.instances.shape, strict=False)
        if box is None or any(part.start == 0 or part.stop == extent for part, extent in extents):
            return None
        mask = image.instances[box] == number
        if not same_scale(image.mpp, mpp):
            size = shape_at_scale(mask.shape, image.mpp, mpp)[::-1]
            mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
        return centered(np.argwhere(mask))[1] if mask.any() else None

    def _drawn_nuclei(
        self, pool: Sequence[tuple[int, int]], mpp: float, rng: Random
    ) -> Iterator[tuple[tuple[int, int], Pixels]]:
        """Up to ``TRIES`` random nuclei of a pool (image, id), each with its pixels from its center."""
        for order in rng.integers(len(pool), size=TRIES).tolist() if pool else ():
            index, number = pool[order]
            nucleus = self._nucleus(index, number, mpp)
            if nucleus is not None:
                yield pool[order], nucleus

    def _swap(self, board: Board, share: float, indices: Sequence[int], rng: Random) -> set[int]:
        """Replace a share of the nuclei by others of their class and about their size; the images that gave them."""
        pools = {name: self._pool([name], indices) for name in set(board.classes.values())}
        givers: set[int] = set()
        for number in _chosen(board.whole(), share, rng):
            center, shape = centered(board.pixels[number])
            for (index, _), donor in self._drawn_nuclei(pools[board.classes[number]], board.mpp, rng):
                like = max(len(donor), len(shape)) <= LIKE * min(len(donor), len(shape))
                if like and board.lay_anew(number, [center + lying_as(donor, shape, rng)]):
                    givers.add(index)
                    break
        return givers

    def _raise(self, board: Board, settings: LayoutSettings, rng: Random) -> set[int]:
        """Lay nuclei of the raised classes until they have their share or room is short; the images that gave them."""
        names = settings.raised
        weights = [sum(len(grouped.get(name, [])) for name in names) for grouped in self._by_class]
        pool = self._pool(names, self._drawn_images(weights, rng))
        recipients = [number for number in board.whole() if board.classes[number] not in names]
        raised = sum(name in names for name in board.classes.values())
        centroids, reach = board.neighbors()
        givers: set[int] = set()
        failures = 0
        # A layout has a nucleus of a raised class at least, even one that had no nuclei.
        while raised < max(1, settings.share * len(board.classes)) and failures < TRIES:
            failures += 1
            for (index, number), donor in self._drawn_nuclei(pool, board.mpp, rng):
                name = self._classes[index][number]
                add = not recipients or rng.random() < settings.added
                if (add and board.add(donor, name, centroids, reach, rng)) or (
                    recipients and board.give_way(recipients, donor, name, rng)
                ):
                    givers.add(index)
                    raised, failures = raised + 1, 0
                    break
        return givers

    def _pool(self, names: Sequence[str], indices: Sequence[int]) -> list[tuple[int, int]]:
        """Nuclei of these classes in these images: number of the image, id."""
        return [
            (index, number) for index in indices for name in names for number in self._by_class[index].get(name, [])
        ]


def _chosen(ids: Sequence[int], share: float, rng: Random) -> list[int]:
    """A random share of ids, in random order."""
    return [number for number in rng.permutation(np.array(ids, np.int64)).tolist() if rng.random() < share]


def moved(layout: Layout, number: int, rows: int, cols: int) -> Layout:
    """A layout with a nucleus moved down and to the right, or up and to the left where negative.

    Neighbors lose no pixel: the nucleus keeps the largest part that lies on free pixels within the layout. This holds
    for ``turned`` and ``with_nucleus``, too.

    Raises
    ------
    HistomixError
        If there is no such nucleus, or no free pixel where it would lie.

    Examples
    --------
    >>> layout = with_nucleus(Layout(np.zeros((8, 8), np.int32), {}, 0.5), np.eye(8, dtype=bool), "tumor")
    >>> np.argwhere(moved(layout, 1, 0, 3).instances).tolist()
    [[0, 3]]
    """
    return _laid(layout, number, _pixels(layout, number) + np.array([rows, cols]), layout.classes[number])


def turned(layout: Layout, number: int, degrees: float) -> Layout:
    """A layout with a nucleus turned counterclockwise about its center; see ``moved``."""
    center, shape = centered(_pixels(layout, number))
    return _laid(layout, number, center + turned_pixels(shape, degrees), layout.classes[number])


def with_nucleus(layout: Layout, mask: Mask, class_name: str) -> Layout:
    """A layout with a further nucleus where ``mask`` (H, W) says; its id is the last of ``classes``. See ``moved``."""
    if mask.shape != layout.shape:
        raise HistomixError(f"A nucleus is drawn on a mask of the layout's size {layout.shape}, not {mask.shape}.")
    ids = instance_ids(layout.instances)
    number = max(ids, default=0) + 1
    if number > np.iinfo(np.int32).max:
        number = next(free for free, used in enumerate([*ids, 0], start=1) if free != used)
    return _laid(layout, number, np.argwhere(mask), class_name)


def without(layout: Layout, number: int) -> Layout:
    """A layout that lacks a nucleus."""
    _pixels(layout, number)
    instances = np.where(layout.instances == number, np.int32(0), layout.instances)
    return replace(layout, instances=instances, classes=_others(layout, number))


def reclassed(layout: Layout, number: int, class_name: str) -> Layout:
    """A layout in which a nucleus is of another class; "" for none."""
    _pixels(layout, number)
    return replace(layout, classes={**layout.classes, number: class_name})


def _others(layout: Layout, number: int) -> dict[int, str]:
    return {known: name for known, name in layout.classes.items() if known != number}


def _pixels(layout: Layout, number: int) -> Pixels:
    pixels = np.argwhere(layout.instances == number)
    if number == 0 or not len(pixels):
        raise HistomixError(f"There is no nucleus {number} in this layout; it may have been deleted.")
    return pixels


def _laid(layout: Layout, number: int, pixels: Pixels, class_name: str) -> Layout:
    """A layout with a nucleus on the largest part of these pixels that is free, and nowhere else."""
    instances = np.where(layout.instances == number, np.int32(0), layout.instances)
    pixels = pixels[((pixels >= 0) & (pixels < layout.shape)).all(axis=1)]
    pixels = pixels[instances[tuple(pixels.T)] == 0]
    if not len(pixels):
        raise HistomixError("There is no free pixel for the nucleus there; choose a place within the layout.")
    instances[tuple(largest_part(pixels).T)] = number
    return replace(layout, instances=instances, classes={**_others(layout, number), number: class_name})


@dataclass(frozen=True, slots=True, eq=False)
class LayoutStatistics:
    """What layouts are compared by.

    Parameters
    ----------
    areas : (N,) float
        In µm², of the nuclei that the border does not cut.
    neighbor_distances : (M,) float
        In µm, from the centroid of each nucleus to the nearest other of its layout.
    class_shares : mapping of str to (L,) float
        Share of the nuclei that are of a class, by class name, for each layout that has nuclei.
    densities : (K,) float
        Nuclei per mm², for each layout.
    """

    areas: NDArray[np.float64]
    neighbor_distances: NDArray[np.float64]
    class_shares: Mapping[str, NDArray[np.float64]]
    densities: NDArray[np.float64]

    def ks_distances(self, others: LayoutStatistics) -> dict[str, float]:
        """Kolmogorov–Smirnov distance of each distribution from that of other layouts, 0 to 1.

        ``area``, ``neighbor distance``, ``density`` and ``share of`` each class; NaN where either side has no value.
        """
        from scipy.stats import ks_2samp

        pairs = {
            "area": (self.areas, others.areas),
            "neighbor distance": (self.neighbor_distances, others.neighbor_distances),
            "density": (self.densities, others.densities),
        }
        for name in sorted({*self.class_shares, *others.class_shares}):
            pairs[f"share of {name or 'no class'}"] = (self._shares(name), others._shares(name))
        return {
            name: float(ks_2samp(*pair).statistic) if min(map(len, pair)) else float("nan")
            for name, pair in pairs.items()
        }

    def _shares(self, name: str) -> NDArray[np.float64]:
        if name in self.class_shares or not self.class_shares:
            return self.class_shares.get(name, np.empty(0))
        return np.zeros_like(next(iter(self.class_shares.values())))


def layout_statistics(layouts: Iterable[Layout]) -> LayoutStatistics:
    """Areas, distances of neighbors, class shares and densities of layouts.

    Examples
    --------
    >>> layout = with_nucleus(Layout(np.zeros((8, 8), np.int32), {}, 0.5), np.eye(8) > 0, "tumor")
    >>> layout_statistics([layout]).densities.tolist()
    [62500.0]
    """
    areas, distances, densities, counts = [], [], [], []
    for layout in layouts:
        board = Board(layout)
        whole = board.whole()
        areas.append(np.array([len(board.pixels[number]) for number in whole]) * layout.mpp**2)
        densities.append(len(board.pixels) / (layout.instances.size * layout.mpp**2 * 1e-6))
        distances.append(board.neighbors()[1] * layout.mpp)
        if board.pixels:
            counts.append(layout.counts())
    names = sorted(set().union(*counts))
    return LayoutStatistics(
        np.concatenate([np.empty(0), *areas]),
        np.concatenate([np.empty(0), *distances]),
        {name: np.array([count[name] / count.total() for count in counts]) for name in names},
        np.array(densities),
    )
