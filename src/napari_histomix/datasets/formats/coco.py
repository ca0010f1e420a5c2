"""COCO's instances: one JSON file for many images (https://cocodataset.org/#format-data, "object detection").

``annotations/instances_SPLIT.json`` with the images in ``images`` or in a folder for the split, or a JSON file beside
the images. A nucleus is a list of polygons, whose union it is, or run lengths, column by column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.dataset import Dataset, Layout
from napari_histomix.datasets.entries import OUTSIDE, Entry, Labels, Row, classes_of, palette, split_name
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
from napari_histomix.datasets.listing import IMAGE_SUFFIXES, Listing, sections_of, subfolder, subfolders, visible_files
from napari_histomix.datasets.pixels import orientation_of
from napari_histomix.datasets.text_files import begins_with, naming, read_json
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, ImageWriter, safe_name
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass

_BEGINS = re.compile(rb'^(\xef\xbb\xbf)?\s*\{\s*"(info|images|annotations|categories|licenses)"\s*:')
_SPLIT = re.compile(r"instances_([a-z]+)")


def recognizes(root: Path) -> bool:
    """Whether the folder has COCO's JSON files: in ``annotations``, itself, or in folders for the splits."""
    return bool(_files(root))


def _files(root: Path) -> list[tuple[Path, str]]:
    """COCO's files with the splits that they are for, by their names or their folders'."""
    coco_files: list[tuple[Path, str]] = []
    for folder, split in ((subfolder(root, "annotations"), ""), *sections_of(root)):
        files = sorted(folder.glob("*.json")) if folder else []
        # COCO's own folder has captions and key points beside the instances.
        for path in [path for path in files if path.name.startswith("instances_")] or files:
            if not path.name.startswith(".") and path.is_file() and begins_with([path], _BEGINS, 512):
                named = _SPLIT.match(path.name)
                coco_files.append((path, split or split_name(named[1] if named else "")))
    return coco_files


def open(root: Path, mpp: float | None) -> Dataset:
    """List the images of COCO's files; class numbers are the categories' ids, or those plus 1 where one is 0.

    Regions of many objects (``iscrowd``) and boxes without an outline are no nuclei; they are reported. What is wrong
    with one annotation leaves its image out.
    """
    listing = Listing(root, mpp)
    contents = [(path, split, _Content(path)) for path, split in _files(root)]
    numbers, classes = _classes([content for _, _, content in contents], root)
    pictures = _pictures(root)
    sizes: dict[str, tuple[Any, Any]] = {}
    nuclei: dict[str, list[Nucleus]] = {}
    for path, split, content in contents:
        for record in content.images:
            file = _file_of(record["file_name"], pictures, path, split)
            if file is None:
                listing.report(record["file_name"][:200], f"{path.name} lists it but no such image is there; add it.")
                continue
            image, annotations = file.stem, content.annotations.get(record["id"], [])
            listing.add(image, (file, path), Row(split=split))
            sizes[image] = record.get("height"), record.get("width")
            with listing.leaving_out(image):
                nuclei[image] = _nuclei(image, annotations, numbers, listing)
    return listing.dataset(classes, _Layout(sizes, nuclei))


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
            if not isinstance(image.get("id"), int | str) or not isinstance(image.get("file_name"), str):
                raise HistomixError(f"{path.name}: an image has no id or no file_name; export it again.")
        if len({image["id"] for image in self.images}) < len(self.images):
            raise HistomixError(f"{path.name}: two images have one id; export it again.")
        self.annotations: dict[int | str, list[dict[str, Any]]] = {}
        for annotation in annotations:
            if not isinstance(annotation.get("image_id"), int | str):
                raise HistomixError(f"{path.name}: an annotation has no image_id; export it again.")
            self.annotations.setdefault(annotation["image_id"], []).append(annotation)


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
    annotations = chain.from_iterable(group for content in contents for group in content.annotations.values())
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


def _pictures(root: Path) -> dict[str, list[Path]]:
    """Image files by their names: in the root, in its folders, and in those of ``images``."""
    images = subfolder(root, "images")
    pictures: dict[str, list[Path]] = {}
    for folder in (root, *subfolders(root), *(subfolders(images) if images else [])):
        for path in sorted(visible_files(folder, IMAGE_SUFFIXES)):
            pictures.setdefault(path.name, []).append(path)
    return pictures


def _file_of(text: str, pictures: Mapping[str, list[Path]], path: Path, split: str) -> Path | None:
    """The image that a file means; what it writes is compared with the pictures there, and never made into a path."""
    name = PurePosixPath(text.replace("\\", "/"))
    files = pictures.get(name.name, [])
    if len(files) > 1:
        beside = [file for file in files if file.parent in (path.parent, path.parent / name.parent.name)]
        named = [file for file in files if file.parent.name == name.parent.name]
        of_split = [file for file in files if split and file.parent.name.casefold().startswith(split)]
        # Other pictures of the same names may lie in folders beside the images.
        in_images = [file for file in files if file.parent.name.casefold() == "images"]
        files = next((group for group in (named, beside, of_split, in_images) if len(group) == 1), [])
    return files[0] if files else None


def _nuclei(
    image: str, annotations: Sequence[Mapping[str, Any]], numbers: Mapping[int, int], listing: Listing
) -> list[Nucleus]:
    """The nuclei of an image; what is no nucleus is counted and reported."""
    nuclei = []
    crowds = boxes = 0
    for annotation in annotations:
        category = annotation.get("category_id")
        if not isinstance(category, int) or category not in numbers:
            raise HistomixError(f"an annotation is of category {category!r:.40}, which is none of the categories.")
        outline = annotation.get("segmentation")
        if annotation.get("iscrowd"):
            crowds += 1
        elif not outline:
            boxes += 1
        else:
            nuclei.append(Nucleus.read(outline, numbers[category]))
    if crowds:
        listing.report(image, f"{crowds} region(s) of many objects (iscrowd) are left out.")
    if boxes:
        listing.report(image, f"{boxes} annotation(s) have a box but no outline; they are left out.")
    return nuclei


@dataclass(frozen=True)
class _Layout(Layout):
    """What COCO's files say of each image: height and width, where they say these, and its nuclei."""

    sizes: Mapping[str, tuple[Any, Any]]
    nuclei: Mapping[str, Sequence[Nucleus]]

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        image, (rows, cols) = entry.source.image, self.sizes[entry.source.image]
        if (rows, cols) == shape[::-1] and orientation_of(entry.image) > 4:
            # It was drawn on the image as its file stores it.
            shape = rows, cols
        if isinstance(rows, int) and isinstance(cols, int) and (rows, cols) != shape:
            raise HistomixError(
                f"{image}: {entry.label_file.name} says {cols}×{rows} pixels but the image is {shape[1]}×{shape[0]}; "
                "export the labels again at the image's size."
            )
        canvas = Canvas(shape)
        with naming(image):
            for nucleus in self.nuclei[image]:
                if outside(nucleus.rings, shape):
                    canvas.lost[OUTSIDE] += 1
                else:
                    canvas.add(*filled(nucleus, shape, canvas), nucleus.kind)
        return canvas.labels()


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

    @classmethod
    def read(cls, outline: Any, kind: int) -> Nucleus:
        """What ``segmentation`` says; run lengths are decoded when they are drawn."""
        if isinstance(outline, dict):
            size, counts = outline.get("size"), outline.get("counts")
            if not isinstance(counts, str | list) or not isinstance(size, list) or len(size) != 2:
                raise HistomixError("run lengths must read {size: [height, width], counts: …}; export them again.")
            return cls(kind, counts=counts, size=(size[0], size[1]))
        if not isinstance(outline, list) or not all(isinstance(part, list) and len(part) % 2 == 0 for part in outline):
            raise HistomixError(
                "a segmentation must be run lengths or polygons, [[x1, y1, x2, y2, …], …]; export it again."
            )
        rings = (as_ring(list(zip(part[::2], part[1::2], strict=True))) for part in outline if len(part) >= 6)
        return cls(kind, tuple(rings))


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
