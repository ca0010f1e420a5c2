"""COCO's instances: one JSON file for many images (https://cocodataset.org/#format-data, "object detection").

``annotations/instances_SPLIT.json`` with the images in ``images`` or in a folder for the split, or a JSON file beside
the images. A nucleus is a list of polygons, whose union it is, or run lengths, column by column.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_histomix.datasets.dataset import Dataset, ImageFiles
from napari_histomix.datasets.entries import (
    CROWD,
    NO_OUTLINE,
    ONLY_BOX,
    OUTSIDE,
    SPLITS,
    Entry,
    Labels,
    Loss,
    Row,
    classes_of,
    palette,
)
from napari_histomix.datasets.formats.coco_files import Record, Subset, images_of, subsets_in
from napari_histomix.datasets.formats.polygons import (
    Canvas,
    Ring,
    as_ring,
    lengths_of,
    mask_text,
    masks_of,
    outlines,
    outside,
    rasterize,
)
from napari_histomix.datasets.listing import Listing, telling
from napari_histomix.datasets.names import composed, stated_path
from napari_histomix.datasets.pixels import orientation_of
from napari_histomix.datasets.text_files import naming, read_json
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, ImageWriter, safe_name
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass

LARGEST_CROWD = 10.0
"""How many times as large as the median object a mask may be that says ``iscrowd`` and is taken for a nucleus."""
_IDS = ("id", "image_id", "category_id")
"""Keys whose values are whole numbers, or text."""
MAIN_SHARE = 0.9
"""Share of a mask that its largest part must have; the rest are specks of a brush."""


def recognizes(root: Path) -> bool:
    """Whether the folder has COCO's JSON files: in ``annotations``, itself, or in folders for the splits."""
    return bool(subsets_in(root, looking=True))


def open(root: Path, mpp: float | None) -> Dataset:
    """List the images of COCO's files; class numbers are the categories' ids, or those plus 1 where one is 0.

    Regions of many objects (``iscrowd``, see `_Crowds`) and boxes without an outline are no nuclei; they are counted as
    lost. What is wrong with one annotation leaves its image out.
    """
    listing = Listing(root, mpp)
    contents: dict[Subset, _Content] = {}
    for subset in subsets_in(root):
        content = _Content(subset.path)
        # The file of a single image that is called as that image is no subset of its own.
        of_image = subset.split not in SPLITS and content.is_of_image(subset.path.stem)
        contents[replace(subset, name="") if of_image else subset] = content
        if content.strays:
            count = "1 annotation is" if content.strays == 1 else f"{content.strays:,} annotations are"
            listing.report(subset.path.name, f"{count} of images that it does not list; export it again.")
    numbers, classes = _classes(list(contents.values()), root)
    crowds = _Crowds.of([annotation for content in contents.values() for annotation in content.all_annotations])
    read: dict[str, _Image] = {}
    for subset, listed in images_of({subset: content.images for subset, content in contents.items()}, listing).items():
        for picture, records in listed.items():
            content = contents[subset]
            name, folder = composed(picture.path.stem), "/".join(telling(picture.folders))
            split = subset.split
            if split in ("", "train") and picture.split:
                split = picture.split
            try:
                image = listing.add(name, (picture.path, subset.path), Row(split=split), folder)
            except HistomixError as error:
                listing.report(name, str(error))
                continue
            with listing.leaving_out(image):
                annotations = [one for record in records for one in content.annotations.get(str(record["id"]), [])]
                nuclei, lost = _nuclei(annotations, numbers, crowds)
                read[image] = _Image((records[0].get("height"), records[0].get("width")), nuclei, lost)
    return listing.dataset(classes, _Files(read))


class _Content:
    """One of COCO's files, looked through once: images, categories, and the annotations of each image by its id."""

    def __init__(self, path: Path) -> None:
        content = read_json(path)
        said = content if isinstance(content, dict) else {}
        parts = [said.get("images"), said.get("categories"), said.get("annotations", [])]
        if not all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in parts):
            raise HistomixError(
                f"{path.name} is not COCO's: images, annotations and categories must be lists of objects; export it "
                "again."
            )
        self.path = path
        self.images, self.categories, annotations = parts
        for image in self.images:
            if "file_name" not in image and isinstance(image.get("coco_url"), str):
                # LVIS names its images by their addresses alone.
                image["file_name"] = stated_path(image["coco_url"]).name
            if not isinstance(image.get("id"), int | str) or not isinstance(image.get("file_name"), str):
                raise HistomixError(f"{path.name}: an image has no id or no file_name; export it again.")
        for record in (*self.images, *self.categories, *annotations):
            # pandas writes whole numbers with a decimal point where a value is missing.
            record |= {
                key: int(value) for key in _IDS if isinstance(value := record.get(key), float) and value.is_integer()
            }
        # Some programs write the same id as a number in one place and as text in the other.
        ids = {str(image["id"]) for image in self.images}
        if len(ids) < len(self.images):
            raise HistomixError(f"{path.name}: two images have one id; export it again.")
        self.annotations: dict[str, list[Record]] = {}
        for annotation in annotations:
            if not isinstance(annotation.get("image_id"), int | str):
                raise HistomixError(f"{path.name}: an annotation has no image_id; export it again.")
            self.annotations.setdefault(str(annotation["image_id"]), []).append(annotation)
        self.strays = sum(len(group) for image, group in self.annotations.items() if image not in ids)

    @property
    def all_annotations(self) -> list[Record]:
        return list(chain.from_iterable(self.annotations.values()))

    def is_of_image(self, name: str) -> bool:
        """Whether it is the file of a single image of that name."""
        return len(self.images) == 1 and stated_path(self.images[0]["file_name"]).stem == name


def _classes(contents: Sequence[_Content], root: Path) -> tuple[dict[int, int], tuple[NucleusClass, ...]]:
    """The class number of each category by its id, and the classes."""
    categories: dict[int, dict[str, Any]] = {}
    for content in contents:
        for category in content.categories:
            number = category.get("id")
            if type(number) is not int:
                raise HistomixError(f"{content.path.name}: the id of a category is no whole number; export it again.")
            if categories.setdefault(number, category).get("name") != category.get("name"):
                raise HistomixError(f"The files in {root} give category {number} two names; export them together.")
    annotations = chain.from_iterable(content.all_annotations for content in contents)
    if 0 in categories and not any(annotation.get("category_id") == 0 for annotation in annotations):
        # Some programs list a category 0 that stands for all of the others.
        del categories[0]
    numbers = {number: number + (0 in categories) for number in sorted(categories)}
    table = {}
    for number, color in zip(numbers, map(list, palette(len(numbers))), strict=True):
        own = categories[number].get("color")
        valid = isinstance(own, list) and len(own) == 3 and all(isinstance(c, int) and 0 <= c <= 255 for c in own)
        table[str(numbers[number])] = [categories[number].get("name"), own if valid else color]
    return numbers, classes_of(table, f"{contents[0].path.name}, categories")


@dataclass(frozen=True)
class _Crowds:
    """Which annotations that say ``iscrowd`` are nuclei nevertheless, by what the other annotations are.

    CVAT says so of every mask that was drawn with its brush. Where all annotations are crowds, the word says nothing;
    where most of them are, or most of a category, or where CVAT wrote them, a crowd is a nucleus if it is one connected
    shape of a size that nuclei have there. Elsewhere, as in COCO's own files, it is a region of many objects.
    """

    everywhere: bool
    categories: frozenset[int]
    largest: float

    @classmethod
    def of(cls, annotations: Sequence[Record]) -> _Crowds:
        counts: dict[Any, list[int]] = {}
        areas = []
        for annotation in annotations:
            if not annotation.get("segmentation"):
                continue
            category, crowd = annotation.get("category_id"), is_crowd(annotation)
            counts.setdefault(category if isinstance(category, int) else None, [0, 0])[crowd] += 1
            area = annotation.get("area")
            if not crowd and isinstance(area, int | float) and area > 0:
                areas.append(float(area))
        single, crowds = (sum(count[side] for count in counts.values()) for side in (0, 1))
        most = {category for category, count in counts.items() if count[1] > count[0] or crowds > single}
        largest = LARGEST_CROWD * float(np.median(areas)) if areas else math.inf
        return cls(single == 0, frozenset(most), largest)

    def limit(self, annotation: Record) -> float | None:
        """The largest area of a crowd that is a nucleus if it is one shape; None where it is a nucleus anyway."""
        if self.everywhere or not is_crowd(annotation):
            return None
        attributes = annotation.get("attributes")
        of_cvat = isinstance(attributes, dict) and "occluded" in attributes
        return self.largest if of_cvat or annotation.get("category_id") in self.categories else 0


def is_crowd(annotation: Record) -> bool:
    """Whether an annotation says that it is a region of many objects."""
    return annotation.get("iscrowd") in (1, True, "1")


def _nuclei(
    annotations: Sequence[Record], numbers: Mapping[int, int], crowds: _Crowds
) -> tuple[list[Nucleus], Counter[Loss]]:
    """The nuclei of an image, and how many annotations are none."""
    nuclei = []
    lost: Counter[Loss] = Counter()
    for annotation in annotations:
        category = annotation.get("category_id")
        if category is not None and (not isinstance(category, int) or category not in numbers):
            raise HistomixError(f"an annotation is of category {category!r:.40}, which is none of the categories.")
        outline = annotation.get("segmentation")
        if outline:
            limit = crowds.limit(annotation)
            if limit == 0:
                lost[CROWD] += 1
            else:
                nuclei.append(Nucleus.read(outline, 0 if category is None else numbers[category], limit))
        else:
            lost[ONLY_BOX if annotation.get("bbox") else NO_OUTLINE] += 1
    return nuclei, lost


@dataclass(frozen=True)
class _Image:
    """What COCO's files say of an image: height and width, where they say these, its nuclei, and what is none."""

    size: tuple[Any, Any]
    nuclei: Sequence[Nucleus]
    lost: Mapping[Loss, int]


@dataclass(frozen=True)
class _Files(ImageFiles):
    images: Mapping[str, _Image]

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        name, said = entry.source.image, self.images[entry.source.image]
        rows, cols = said.size
        if rows is None and cols is None:
            rows, cols = next((nucleus.size for nucleus in said.nuclei if nucleus.counts), said.size)
        if (rows, cols) == shape[::-1] and orientation_of(entry.image) > 4:
            # It was drawn on the image as its file stores it.
            shape = rows, cols
        if isinstance(rows, int) and isinstance(cols, int) and (rows, cols) != shape:
            raise HistomixError(
                f"{name}: {entry.label_file.name} says {cols}×{rows} pixels but the image is {shape[1]}×{shape[0]}; "
                "export the labels again at the image's size."
            )
        canvas = Canvas(shape)
        canvas.lost.update(said.lost)
        with naming(name):
            for nucleus in said.nuclei:
                if outside(nucleus.rings, shape):
                    canvas.lost[OUTSIDE] += 1
                    continue
                row, col, mask = filled(nucleus, shape, canvas)
                if nucleus.limit is not None and not is_one_shape(mask, nucleus.limit):
                    canvas.lost[CROWD] += 1
                else:
                    canvas.add(row, col, mask, nucleus.kind)
        return replace(canvas.labels(), sized=isinstance(rows, int))


def is_one_shape(mask: NDArray[np.bool_], largest: float) -> bool:
    """Whether a mask is connected but for specks, and no larger than that."""
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(parts.ravel())[1:]
    return bool(areas.size and areas.max() >= MAIN_SHARE * areas.sum() and areas.sum() <= largest)


class Writer(ImageWriter):
    """Writes ``images``, and ``annotations/instances_SPLIT.json`` for each split.

    A nucleus of one part without holes becomes a polygon along the borders of its pixels, others become run lengths;
    pycocotools makes the same mask of either. Category ids are the class numbers. Beyond COCO's own keys, ``synthetic``
    says which images are, and ``color`` of a category is its display color.
    """

    def start(self) -> None:
        self._images: dict[str, list[str]] = {}
        self._annotations: dict[str, list[str]] = {}
        self._count = 0

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        self.write_image(image, synthetic)
        split = safe_name(image.source.split or "train", "train")
        images, annotations = self._images.setdefault(split, []), self._annotations.setdefault(split, [])
        rows, cols = image.instances.shape
        number = sum(map(len, self._images.values())) + 1
        record = {"id": number, "file_name": f"{image.source.image}.png", "width": cols, "height": rows}
        images.append(json.dumps(record | {"synthetic": synthetic}, ensure_ascii=False))
        for instance, (row, col), mask in masks_of(image.instances):
            self._count += 1
            nucleus = {
                "id": self._count,
                "image_id": number,
                "category_id": image.types[instance],
                "segmentation": segmentation(mask, row, col, (rows, cols)),
                "area": int(np.count_nonzero(mask)),
                "bbox": [col, row, mask.shape[1], mask.shape[0]],
                "iscrowd": 0,
            }
            annotations.append(json.dumps(nucleus, separators=(",", ":")))

    def finish(self) -> None:
        super().finish()
        info = {"description": self.name} | ({"notice": SYNTHETIC_NOTICE} if self.has_synthetic else {})
        categories = [
            {"id": known.number, "name": known.name, "supercategory": "nucleus", "color": list(known.color)}
            for known in self.classes
        ]
        (self.folder / "annotations").mkdir()
        for split, images in self._images.items():
            path = self.folder / "annotations" / f"instances_{split}.json"
            with path.open("w", encoding="utf-8", newline="\n") as stream:
                stream.write(f'{{"info": {json.dumps(info, ensure_ascii=False)},\n"licenses": [],\n"images": [\n')
                stream.write(",\n".join(images))
                stream.write('\n],\n"annotations": [\n')
                stream.write(",\n".join(self._annotations[split]))
                stream.write(f'\n],\n"categories": {json.dumps(categories, ensure_ascii=False)}}}\n')


_NOTHING = 0, 0, np.zeros((0, 0), np.bool_)


@dataclass(frozen=True)
class Nucleus:
    """A nucleus as its file says it: the union of polygons, or run lengths of a whole image of that size."""

    kind: int
    rings: tuple[Ring, ...] = ()
    counts: str | list[Any] = ""
    size: tuple[int, int] = (0, 0)
    limit: float | None = None  # area up to which it is a nucleus if it is one shape; None where it is one anyway

    @classmethod
    def read(cls, outline: Any, kind: int, limit: float | None = None) -> Nucleus:
        """What ``segmentation`` says; run lengths are decoded when they are drawn."""
        if isinstance(outline, dict):
            size, counts = outline.get("size"), outline.get("counts")
            if not isinstance(counts, str | list) or not isinstance(size, list) or len(size) != 2:
                raise HistomixError("run lengths must read {size: [height, width], counts: …}; export them again.")
            return cls(kind, counts=counts, size=(size[0], size[1]), limit=limit)
        if isinstance(outline, list) and not any(isinstance(part, list) for part in outline):
            # Some programs leave out the brackets around a single polygon.
            outline = [outline]
        if not isinstance(outline, list) or not all(isinstance(part, list) and len(part) % 2 == 0 for part in outline):
            raise HistomixError(
                "a segmentation must be run lengths or polygons, [[x1, y1, x2, y2, …], …]; export it again."
            )
        rings = (as_ring(list(zip(part[::2], part[1::2], strict=True))) for part in outline if len(part) >= 6)
        return cls(kind, tuple(rings), limit=limit)


def filled(nucleus: Nucleus, shape: tuple[int, int], canvas: Canvas) -> tuple[int, int, NDArray[np.bool_]]:
    """The upper left corner and the mask of a nucleus; the canvas counts the pixels that are looked at."""
    if nucleus.counts:
        return _decoded(nucleus, shape, canvas)
    parts = []
    for ring in nucleus.rings:
        cols, rows = np.clip(np.ceil(ring.max(axis=0)) - np.floor(ring.min(axis=0)), 0, (shape[1], shape[0]))
        canvas.spend(int(cols * rows) + len(ring))
        row, col, mask = rasterize([ring], shape)
        if mask.any():
            parts.append((row, col, mask))
    if len(parts) <= 1:
        return parts[0] if parts else _NOTHING
    corners = np.array([(row, col) for row, col, _ in parts])
    row, col = corners.min(axis=0).tolist()
    height, width = (corners + [mask.shape for *_, mask in parts]).max(axis=0) - (row, col)
    canvas.spend(int(height * width))
    whole = np.zeros((height, width), np.bool_)
    for above, left, mask in parts:
        whole[above - row :, left - col :][: mask.shape[0], : mask.shape[1]] |= mask
    return row, col, whole


def _decoded(nucleus: Nucleus, shape: tuple[int, int], canvas: Canvas) -> tuple[int, int, NDArray[np.bool_]]:
    """The columns of an image that run lengths fill."""
    counts, total = nucleus.counts, shape[0] * shape[1]
    if nucleus.size != shape:
        raise HistomixError(f"run lengths are for the size {nucleus.size!r:.60}, but the image's is {shape}.")
    # A run takes at most seven characters.
    if len(counts) > 7 * (total + 1):
        raise HistomixError("run lengths are more than the image's pixels; export them again.")
    canvas.spend(len(counts))
    try:
        lengths = np.array(lengths_of(counts) if isinstance(counts, str) else counts)
    except (ValueError, OverflowError):
        lengths = np.zeros(0)
    fits = lengths.ndim == 1 and lengths.dtype.kind == "i" and lengths.min(initial=0) >= 0
    if not fits or lengths.max(initial=0) > total or lengths.sum() != total:
        raise HistomixError("run lengths are no whole numbers that add up to the image's pixels; export them again.")
    ends = np.cumsum(lengths)
    starts, stops = (ends - lengths)[1::2], ends[1::2]
    starts, stops = starts[starts < stops], stops[starts < stops]
    if starts.size == 0:
        return _NOTHING
    left, right = int(starts[0]) // shape[0], -(int(-stops[-1]) // shape[0])
    canvas.spend((right - left) * shape[0])
    changes = np.zeros((right - left) * shape[0] + 1, np.int8)
    changes[starts - left * shape[0]] += 1
    changes[stops - left * shape[0]] -= 1
    mask = np.cumsum(changes[:-1], dtype=np.int8).astype(np.bool_)
    return 0, left, mask.reshape(right - left, shape[0]).T


def segmentation(
    mask: NDArray[np.bool_], row: int, col: int, shape: tuple[int, int]
) -> list[list[int]] | dict[str, Any]:
    """What COCO writes of a mask that lies at that row and column."""
    parts = outlines(mask)
    if len(parts) == 1 and not parts[0][1]:
        return [(parts[0][0] + (col, row)).astype(int).ravel().tolist()]
    whole = np.zeros(shape, np.bool_)
    whole[row : row + mask.shape[0], col : col + mask.shape[1]] = mask
    return mask_text(whole)
