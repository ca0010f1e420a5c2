"""What a person draws and has painted: nuclei in a real image, or the layout of a new one, as changes of a method.

Nuclei that are drawn near each other are one change; it depends on the image, on them and on the seed alone, so that
any other can be taken back, and each can be made again from its record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.composing import window_around
from napari_histomix.compositing.donors import Mask
from napari_histomix.compositing.indexed_image import ImageCache, IndexedImage
from napari_histomix.datasets import Dataset
from napari_histomix.generation.drawn import groups_of, hole_of, paint_layout, paint_nuclei, ring_of, surroundings
from napari_histomix.generation.layout import Layout
from napari_histomix.methods.base import Ingredients, Work
from napari_histomix.methods.generating import Generating, NewImage, painted_image, painting_facts
from napari_histomix.methods.layout_stage import map_of, map_text
from napari_histomix.methods.pasting import Taken
from napari_histomix.methods.record import Record
from napari_histomix.records import (
    INPAINTED,
    KEEP,
    REAL,
    Change,
    Event,
    HistomixError,
    Job,
    LabeledImage,
    SourceRef,
    relayed,
)
from napari_histomix.sampling import nucleus_boxes

if TYPE_CHECKING:
    from napari_histomix.generation.models import GeneratorModel
    from napari_histomix.generation.presets import PaintSettings

DRAWN = "drawn"
"""Key in the provenance of what was drawn by hand."""


@dataclass(frozen=True, eq=False)
class PaintedByHand:
    """What was drawn and has been painted, and with what.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        The painted image.
    layout : Layout
        Its nuclei.
    seed : int
    image : str
        Name of the real image that nuclei are painted into; empty for a new image.
    new : tuple of int
        Ids of the nuclei that are drawn into a real image.
    stain : (6,) float32, optional
        That a new image follows (``stains.stain_of``).
    reference : str
        Name of the image whose stain that is.
    origins : tuple of str
        Names of the real images whose nuclei a layout holds.
    made : mapping
        How a layout was made, as plain JSON values.
    """

    pixels: NDArray[np.uint8]
    layout: Layout
    seed: int
    image: str = ""
    new: tuple[int, ...] = ()
    stain: NDArray[np.float32] | None = None
    reference: str = ""
    origins: tuple[str, ...] = ()
    made: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class DrawnNuclei:
    """Nuclei that were drawn near each other in a real image.

    Their map ``drawn`` (h, w), with their ids as they were drawn, has its upper left corner at (``row``, ``col``);
    ``numbers`` are the ids that they get in the image. ``pixels`` (h', w', 3) are those of the window that is painted
    (``hole``), where it has been painted already.
    """

    id: int
    image: str
    seed: int
    row: int
    col: int
    drawn: NDArray[np.int32]
    classes: Mapping[int, str]
    numbers: Mapping[int, int]
    learned_from: tuple[str, ...] = ()
    pixels: NDArray[np.uint8] | None = None

    @property
    def window(self) -> tuple[slice, slice]:
        """Of the map in the image."""
        height, width = self.drawn.shape
        return slice(self.row, self.row + height), slice(self.col, self.col + width)


@dataclass(frozen=True, eq=False)
class DrawnImage(NewImage):
    """A layout that a person drew, or chose and perhaps edited, to be painted as a new image; ``pixels`` if it is."""

    layout: Layout = field(kw_only=True)
    stain: NDArray[np.float32] | None = None
    origins: tuple[str, ...] = ()
    made: Mapping[str, Any] = field(default_factory=dict)
    pixels: NDArray[np.uint8] | None = None


# From what is painted to items of a method.


def drawn_items(
    painted: PaintedByHand, dataset: Dataset, before: Sequence[Change], model: GeneratorModel, seen: tuple[str, ...]
) -> tuple[list[DrawnNuclei | DrawnImage], int]:
    """What was painted as items of the method that paints so, and how many near earlier changes are left out.

    Parameters
    ----------
    painted : PaintedByHand
    dataset : Dataset
    before : sequence of Change
        Those of the study that they are to be added to.
    model : GeneratorModel
        That painted it.
    seen : tuple of str
        Names of the images of the dataset that it learned from (``generating.learned_from``).

    Raises
    ------
    HistomixError
        If the image is not a real one of the training split, or not as it was painted, or nothing is left to be added.
    """
    if not painted.image:
        return [_drawn_image(painted, dataset, before, seen)], 0
    check_target(painted.image, dataset)
    target = IndexedImage(dataset.read(painted.image))
    layout, image = painted.layout, target.image
    _check_unchanged(painted, image, dataset, model)
    taken = Taken(change for change in before if change.in_place and change.image == painted.image)
    items: list[DrawnNuclei | DrawnImage] = []
    left = 0
    for group in groups_of(layout.instances, painted.new, layout.mpp):
        only = np.where(np.isin(layout.instances, group), layout.instances, 0).astype(np.int32)
        box = window_around(list(nucleus_boxes(only).values()), 0, layout.shape)
        first = taken.free_id(target)
        item = DrawnNuclei(
            len(items),
            painted.image,
            painted.seed,
            box[0].start,
            box[1].start,
            only[box],
            {number: layout.classes[number] for number in group},
            {number: first + at for at, number in enumerate(group)},
            seen,
        )
        hole, window = _hole(item, image)
        item = replace(item, pixels=painted.pixels[window].copy())
        laid = _change(item, item.id, image, dataset, hole, window, painted.pixels[window], "", (), {})
        if taken.touches(target, laid):
            left += len(group)
            continue
        taken.add(target, laid)
        items.append(item)
    if not items:
        raise HistomixError(
            "Where this is drawn the study holds a synthetic nucleus already; draw it in another place, or paint again."
        )
    return items, left


def check_target(name: str, dataset: Dataset) -> None:
    """Raise HistomixError if nuclei may not be painted into an image: it must be a real one of the training split."""
    known = {entry.source.image: entry for entry in dataset.entries}
    if name not in known:
        raise HistomixError(f"'{name}' is no image of {dataset.name}; show one of its images, and draw into that.")
    if known[name].source.split not in ("train", ""):
        raise HistomixError(
            f"{name} is kept for {known[name].source.split}: synthetic nuclei go into training images only; draw into "
            "one of these."
        )
    if known[name].synthetic:
        raise HistomixError(f"The image {name} is synthetic; draw into a real one.")


def _check_unchanged(painted: PaintedByHand, image: LabeledImage, dataset: Dataset, model: GeneratorModel) -> None:
    """Raise HistomixError if an image, its scale or its nuclei are not those that nuclei were painted beside."""
    from napari_histomix.generation.models import class_of

    layout, name = painted.layout, painted.image
    drawn = np.isin(layout.instances, painted.new)
    real = np.where(drawn, 0, layout.instances)
    names = Layout.of(image, dataset.all_classes).classes
    same = (
        real.shape == image.instances.shape
        and math.isclose(layout.mpp, image.mpp)
        and np.array_equal(real, image.instances)
    )
    if not same or any(
        class_of(layout.classes[number], model.classes) != class_of(names[number], model.classes)
        for number in nucleus_boxes(image.instances)
    ):
        raise HistomixError(
            f"The nuclei of {name}, or its scale, are not those that were painted beside; choose its own nuclei under "
            "'Its nuclei', and paint again."
        )
    untouched = np.ones(real.shape, np.bool_)
    for number, box in nucleus_boxes(np.where(drawn, layout.instances, 0).astype(np.int32)).items():
        window = window_around([box], ring_of(layout.mpp), real.shape)
        untouched[window] &= ~hole_of(layout.instances[window], number, layout.mpp)
    if not np.array_equal(painted.pixels[untouched], image.pixels[untouched]):
        raise HistomixError(
            f"What was painted into shows other pixels than {name} of {dataset.name}; draw into the image itself."
        )


def _drawn_image(
    painted: PaintedByHand, dataset: Dataset, before: Sequence[Change], seen: tuple[str, ...]
) -> DrawnImage:
    known = {entry.source.image: entry.source.split for entry in dataset.entries}
    if absent := [name for name in painted.origins if name not in known]:
        raise HistomixError(
            f"The layout is made of nuclei of {absent[0]}, which is no image of {dataset.name}; sample a layout of the "
            "open dataset, or draw one."
        )
    for name in filter(None, (*painted.origins, painted.reference)):
        if known.get(name, "") not in ("train", ""):
            what = "Its stain is that" if name == painted.reference else "The layout is made of nuclei"
            raise HistomixError(
                f"{what} of {name}, which is kept for {known[name]}; take a training image, and paint again."
            )
    base = f"{painted.origins[0] if painted.origins else 'layout'} by hand"
    taken = {*known, *(change.name for change in before)}
    name = next(name for at in count(1) if (name := f"{base} {at}") not in taken)
    return DrawnImage(
        0,
        name,
        painted.seed,
        reference=painted.reference,
        learned_from=seen,
        layout=painted.layout,
        stain=painted.stain,
        origins=painted.origins,
        made=painted.made,
        pixels=painted.pixels,
    )


# From items to changes, and back.


def parted(items: Sequence[Any]) -> tuple[list[DrawnNuclei | DrawnImage], list[Any]]:
    """Items that were drawn by hand, and the others."""
    drawn = [item for item in items if isinstance(item, DrawnNuclei | DrawnImage)]
    return drawn, [item for item in items if not isinstance(item, DrawnNuclei | DrawnImage)]


@dataclass(frozen=True, eq=False)
class _How:
    """With what a method paints: the dataset's images, its name, network and settings, and what is recorded of them."""

    images: ImageCache
    method: str
    model: GeneratorModel
    painting: PaintSettings | None
    device: str
    facts: Mapping[str, Any]


def make_drawn(
    work: Work,
    items: Sequence[DrawnNuclei | DrawnImage],
    settings: Generating,
    *,
    method: str,
    title: str,
    model: GeneratorModel,
    painting: PaintSettings | None = None,
) -> Job[None]:
    """Make changes of what was drawn, by a method of this name and title; what is not painted yet is painted."""
    facts = painting_facts(title, settings, model)
    if painting is not None:
        facts["painting"] = asdict(painting)
    how = _How(ImageCache(work.dataset.read), method, model, painting, settings.device, facts)
    for done, item in enumerate(items):
        progress = {"phase": "Painting", "done": done, "total": len(items)}
        made = _image_made(work, item, how) if isinstance(item, DrawnImage) else _nuclei_made(work, item, how)
        change = yield from relayed(made, lambda event, at=progress: replace(event, **at))  # type: ignore[misc]
        yield Event("Painting", done + 1, len(items), preview=change.pixels, made=(change,))


def _nuclei_made(work: Work, item: DrawnNuclei, how: _How) -> Job[Change]:
    image = how.images.require(item.image).image
    hole, window = _hole(item, image)
    pixels = item.pixels
    if pixels is None:
        instances = _with_drawn(item, image)
        around = surroundings(instances, item.classes, image.mpp)
        names = Layout.of(image, work.dataset.all_classes).classes
        layout = Layout(np.ascontiguousarray(instances[around]), {**names, **item.classes}, image.mpp)
        numbers = sorted(item.classes)
        part = np.ascontiguousarray(image.pixels[around])
        filled, _ = yield from paint_nuclei(part, layout, numbers, how.model, item.seed, how.painting, how.device)
        whole = image.pixels.copy()
        whole[around] = filled
        pixels = whole[window]
    about = {
        "row": item.row,
        "col": item.col,
        **map_text(item.drawn),
        "classes": {str(number): name for number, name in item.classes.items()},
        "numbers": {str(number): new for number, new in item.numbers.items()},
    }
    provenance = {
        **how.facts,
        "item": item.id,
        "learned_from": list(item.learned_from),
        "sources": {"target": how.images.facts[item.image]},
        DRAWN: about,
    }
    rows, cols = (float(axis.start + axis.stop - 1) / 2 for axis in item.window)
    target = SourceRef("target", item.image, row=rows, col=cols)
    return _change(
        item, work.first + item.id, image, work.dataset, hole, window, pixels, how.method, (target,), provenance
    )


def _with_drawn(item: DrawnNuclei, image: LabeledImage) -> NDArray[np.int32]:
    """The instance map (H, W) of an image with the drawn nuclei, under the ids that they were drawn with."""
    instances = image.instances.copy()
    there = instances[item.window]
    if there.shape != item.drawn.shape or ((there != 0) & (item.drawn != 0)).any():
        raise HistomixError(f"{item.image}: a drawn nucleus lies on a real one now; paint it again.")
    there[item.drawn != 0] = item.drawn[item.drawn != 0]
    return instances


def _hole(item: DrawnNuclei, image: LabeledImage) -> tuple[Mask, tuple[slice, slice]]:
    """The pixels that are painted with drawn nuclei, in the smallest window that holds them, and that window."""
    instances = _with_drawn(item, image)
    window = window_around([item.window], ring_of(image.mpp), instances.shape)
    part = instances[window]
    hole = np.zeros(part.shape, np.bool_)
    for number in item.classes:
        hole |= hole_of(part, number, image.mpp)
    return hole, window


def _change(
    item: DrawnNuclei,
    number: int,
    image: LabeledImage,
    dataset: Dataset,
    hole: Mask,
    window: tuple[slice, slice],
    pixels: NDArray[np.uint8],
    method: str,
    sources: tuple[SourceRef, ...],
    provenance: Mapping[str, Any],
) -> Change:
    part = _with_drawn(item, image)[window]
    labels = np.full(part.shape, KEEP, np.int32)
    for drawn, new in item.numbers.items():
        labels[part == drawn] = new
    unclassified = dataset.unclassified.name
    added = {new: dataset.class_number(item.classes[drawn] or unclassified) for drawn, new in item.numbers.items()}
    origin = np.where(hole, INPAINTED, REAL).astype(np.uint8)
    row, col = window[0].start, window[1].start
    return Change(
        number, item.image, item.image, row, col, pixels, origin, labels, added, (), None, method, item.seed, sources,
        provenance=provenance,
    )  # fmt: skip


def _image_made(work: Work, item: DrawnImage, how: _How) -> Job[Change]:
    layout, pixels = item.layout, item.pixels
    if pixels is None:
        pixels = yield from paint_layout(layout, how.model, item.seed, item.stain, how.painting, how.device)
    known = {entry.source.image for entry in work.dataset.entries}
    sources = [SourceRef("labels", name) for name in item.origins]
    read: dict[str, Any] = {}
    if item.reference in known:
        how.images.require(item.reference)
        sources.append(SourceRef("reference", item.reference))
        read["reference"] = how.images.facts[item.reference]
    about = {
        **map_text(layout.instances),
        "classes": {str(number): name for number, name in layout.classes.items()},
        "stain": None if item.stain is None else [float(value) for value in item.stain],
        "stain_of": item.reference,
        "origins": list(item.origins),
        "made": dict(item.made),
    }
    unclassified = work.dataset.unclassified.name
    numbers = {name: work.dataset.class_number(name or unclassified) for name in set(layout.classes.values())}
    return painted_image(
        item,
        work.first + item.id,
        pixels,
        layout,
        {number: numbers[name] for number, name in layout.classes.items()},
        method=how.method,
        sources=tuple(sources),
        facts={**how.facts, "sources": read, DRAWN: about},
    )


def is_drawn(record: Record) -> bool:
    """Whether a recorded change was drawn by hand."""
    return DRAWN in record.provenance


def recall_drawn(record: Record, ingredients: Ingredients) -> DrawnNuclei | DrawnImage:
    """What a recorded change was drawn as, to be painted again."""
    made = record.provenance
    about, seen = made[DRAWN], tuple(made["learned_from"])
    classes = {int(number): str(name) for number, name in about["classes"].items()}
    if record.in_place:
        numbers = {int(number): int(new) for number, new in about["numbers"].items()}
        corner = int(about["row"]), int(about["col"])
        return DrawnNuclei(int(made["item"]), record.image, record.seed, *corner, map_of(about), classes, numbers, seen)
    stain = None if about["stain"] is None else np.asarray(about["stain"], np.float32)
    origins = tuple(map(str, about["origins"]))
    return DrawnImage(
        int(made["item"]),
        record.name,
        record.seed,
        reference=str(about["stain_of"]),
        learned_from=seen,
        layout=Layout(map_of(about), classes, float(made["mpp"])),
        stain=stain,
        origins=origins,
        made=about["made"],
    )


def trace_drawn(record: Record, row: int, col: int) -> dict[str, Any]:
    """The nucleus that a pixel was painted with, 0 where it is around them, and that a person drew it."""
    about = record.provenance[DRAWN]
    drawn = map_of(about)
    row, col = row - int(about.get("row", 0)), col - int(about.get("col", 0))
    inside = 0 <= row < drawn.shape[0] and 0 <= col < drawn.shape[1]
    number = int(drawn[row, col]) if inside else 0
    if number and "numbers" in about:
        number = int(about["numbers"][str(number)])
    nucleus = {"instance": number, "class": record.added[number]["class"]} if number else {}
    return {"drawn_by_hand": True, **nucleus}


def sentence_of(title: str, usual: str, records: Sequence[Record]) -> str:
    """How a method of this title made records, for a dataset's card; ``usual`` is what it says where nobody drew."""
    count = sum(is_drawn(record) for record in records)
    if count and count == len(records):
        return f"{title}: nuclei that were drawn or chosen by hand, painted by a network ({count:,} times)."
    return f"{usual} {count:,} of {len(records):,} are painted from what was drawn by hand." if count else usual
