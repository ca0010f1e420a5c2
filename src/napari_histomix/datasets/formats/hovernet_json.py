"""HoVer-Net's output: a JSON file per image with the contour and the type of each nucleus; Graham et al., 2019.

``json/NAME.json`` holds ``{"mag": …, "nuc": {"1": {"bbox": [[top, left], [bottom, right]], "centroid": [x, y],
"contour": [[x, y], …], "type": 1, "type_prob": 0.9}, …}}``. Contours are OpenCV's: they run through the centers of the
outermost pixels, which are part of the nucleus. The images lie in ``images`` beside ``json``, or with the JSON files in
one folder; HoVer-Net's own ``overlay`` and ``mat`` may lie there too.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_histomix.datasets.dataset import Dataset, ImageFiles
from napari_histomix.datasets.entries import (
    NO_OUTLINE,
    OUTSIDE,
    UNCLASSIFIED,
    UNCLASSIFIED_COLOR,
    Entry,
    Labels,
    Row,
    is_split_folder,
    numbered_classes,
)
from napari_histomix.datasets.formats.polygons import Canvas, Ring, as_ring, masks_of, outside
from napari_histomix.datasets.listing import (
    IMAGE_SUFFIXES,
    Listing,
    files_by_stem,
    sections_of,
    split_below,
    subfolder,
    subfolders,
)
from napari_histomix.datasets.text_files import MAX_JSON, MAX_PIXELS, begins_with, read_bytes, read_json, whole_id
from napari_histomix.datasets.writing import ImageWriter, write_text
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass

_JSON = frozenset({".json"})
_TYPE = re.compile(rb'"type"\s*:\s*(null|[0-9]{1,9})\b')
MARK = re.compile(rb'"(mag|nuc)"\s*:')
_BEGIN = re.compile(rb'\A(\xef\xbb\xbf)?\s*\{\s*"(mag|nuc)"\s*:')
_SETTINGS = ("dataset", "type_info", "manifest")
"""JSON files without suffix that lie beside images in one folder and hold no nuclei."""
_LONGEST = 32767
"""Side of the largest contour: OpenCV counts in 16 bits where it draws."""


def recognizes(root: Path) -> bool:
    """Whether a folder has HoVer-Net's JSON files, in ``json`` or elsewhere, and no other labels in ``Labels``."""
    return any(
        subfolder(section.place, "labels") in (None, section.labels)
        and begins_with(files_by_stem(section.inner, _JSON, []).values(), MARK)
        for section in _sections(root)
    )


@dataclass(frozen=True, slots=True)
class _Section:
    """A folder of JSON files: the place of the dataset's folders, that of the labels, and one in it or the same."""

    place: Path
    labels: Path
    inner: Path
    name: str  # of the folder that says the split
    split: str


def _sections(root: Path) -> list[_Section]:
    """The folders of JSON files in a root and in its folders for splits, and the folders in these."""
    sections = []
    for place, split in sections_of(root):
        if labels := _labels(place):
            sections.append(_Section(place, labels, labels, place.name if split else "", split))
            for inner in subfolders(labels) if labels != place else ():
                if files_by_stem(inner, _JSON, []):
                    sections.append(_Section(place, labels, inner, inner.name, split_below(inner, split)))
    return sections


def _labels(place: Path) -> Path | None:
    """The folder ``json``; without it the place itself or a folder in it whose files begin as HoVer-Net's do.

    They have the names of the images in ``images`` or in the place.
    """
    if (named := subfolder(place, "json")) is not None:
        return named
    pictures: set[str] | None = None
    for folder in [place, *(path for path in subfolders(place) if not is_split_folder(path.name))]:
        files = files_by_stem(folder, _JSON, [])
        if begins_with(files.values(), _BEGIN):
            if pictures is None:
                images = files_by_stem(subfolder(place, "images") or place, IMAGE_SUFFIXES, [])
                pictures = {stem.casefold() for stem in images}
            if not pictures.isdisjoint(stem.casefold() for stem in files):
                return folder
    return None


def open(root: Path, mpp: float | None) -> Dataset:
    """List HoVer-Net's output; classes are those of ``type_info.json``, else "type 1", "type 2", …

    Where no nucleus has a type, all of them are of one class "nucleus". Where only some have none, those are of a class
    "unclassified" behind the others.
    """
    listing = Listing(root, mpp)
    for section in _sections(root):
        images = subfolder(section.place, "images") or (
            section.place if section.labels.name.casefold() != "json" else None
        )
        if images is None:
            raise HistomixError(
                f"{section.place} has HoVer-Net's JSON files but no folder images; put the images there."
            )
        inner = section.inner
        pictures = images if inner == section.labels else subfolder(images, inner.name.casefold())
        if pictures is None or (inner == section.labels and not files_by_stem(inner, _JSON, [])):
            if pictures is None:
                listing.report(inner.name, f"there is no folder of that name in {images.name}; put the images there.")
            continue
        for image, files in listing.pairs_in(pictures, inner, _JSON, _SETTINGS).items():
            with listing.reporting(image):
                listing.add(image, files, Row(split=section.split), section.name)
    dataset = listing.dataset((), _Files())
    numbers: set[int] = set().union(*(_types_in(entry.label_file) for entry in dataset.entries))
    classes, untyped = listing.classes, 0
    if not classes and numbers <= {0}:
        classes, untyped = (NucleusClass(1, "nucleus", (255, 255, 0)),), 1
    else:
        classes = classes or numbered_classes(numbers - {0})
        if 0 in numbers:
            untyped = next((known.number for known in classes if known.name.casefold() == UNCLASSIFIED), 0)
            if not untyped:
                untyped = max(known.number for known in classes) + 1
                classes = (*classes, NucleusClass(untyped, UNCLASSIFIED, UNCLASSIFIED_COLOR))
    return replace(dataset, classes=classes, files=_Files(untyped))


def _types_in(path: Path) -> set[int]:
    """The types that occur in a file, 0 for none: found by their key alone, much faster than by reading it."""
    words = {match[1] for match in _TYPE.finditer(read_bytes(path, MAX_JSON))}
    return {0 if word == b"null" else int(word) for word in words}


@dataclass(frozen=True)
class _Files(ImageFiles):
    untyped: int = 0  # class number of nuclei without a type; 0 if there are none

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        name, content = entry.label_file.name, read_json(entry.label_file)
        nuclei = content.get("nuc") if isinstance(content, dict) else None
        if not isinstance(nuclei, dict):
            raise HistomixError(f'{name} must hold {{"nuc": {{"1": {{"contour": …}}}}}}; export it again.')
        canvas = Canvas(shape)
        numbered = {whole_id(key): nucleus for key, nucleus in nuclei.items()}
        if len(numbered) < len(nuclei) or 0 in numbered:
            raise HistomixError(f"{name}: ids of nuclei must be whole numbers from 1, each of them once.")
        for number, nucleus in sorted(numbered.items()):
            if not isinstance(nucleus, dict):
                raise HistomixError(f"{name}: nucleus {number} is no JSON object; export it again.")
            kind = nucleus.get("type")
            if isinstance(kind, float) and kind.is_integer():
                kind = int(kind)
            if kind is not None and type(kind) is not int:
                raise HistomixError(f"{name}: nucleus {number} has the type {kind!r}, no whole number.")
            try:
                _draw(
                    canvas,
                    as_ring([] if nucleus.get("contour") is None else nucleus["contour"]),
                    kind or self.untyped,
                    number,
                )
            except HistomixError as error:
                raise HistomixError(f"{name}, nucleus {number}: {error}") from None
        return canvas.labels()


def _draw(canvas: Canvas, contour: Ring, kind: int, number: int) -> None:
    """Draw what OpenCV fills of a contour, the pixels on it included."""
    if len(contour) == 0:
        canvas.lost[NO_OUTLINE] += 1
        return
    points = np.rint(contour).astype(np.int64)
    low = points.min(axis=0)
    cols, rows = (points.max(axis=0) - low + 1).tolist()
    if max(cols, rows) > _LONGEST or cols * rows > MAX_PIXELS:
        raise HistomixError("its contour is larger than any image; export it again.")
    canvas.spend(cols * rows)
    filled = np.zeros((rows, cols), np.uint8)
    cv2.fillPoly(filled, [(points - low).astype(np.int32)], 1)
    col, row = low.tolist()
    height, width = canvas.instances.shape
    above, left = max(row, 0), max(col, 0)
    if outside([points, points + 1], canvas.instances.shape):
        canvas.lost[OUTSIDE] += 1
        return
    inside = filled[above - row : max(height - row, 0), left - col : max(width - col, 0)] > 0
    canvas.add(above, left, inside, kind, number)


class Writer(ImageWriter):
    """Writes ``images``, ``json`` and ``type_info.json``.

    A contour holds one filled shape: holes in a nucleus are closed, and of one in several parts (pixels that touch in
    no side and no corner) the largest is written.
    """

    has_type_info = True
    parts = ("json",)

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        self.write_image(image, synthetic)
        nuclei = {
            str(number): _nucleus(mask, row, col, image.types[number])
            for number, (row, col), mask in masks_of(image.instances)
        }
        path = self.folder / "json" / f"{image.source.image}.json"
        write_text(path, json.dumps({"mag": None, "nuc": nuclei}) + "\n")


def _nucleus(mask: NDArray[np.bool_], row: int, col: int, kind: int) -> dict[str, Any]:
    """The record of a nucleus whose mask lies at that row and column."""
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    if count > 1:
        mask = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    contour = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0][0]
    rows, cols = np.nonzero(mask)
    top, left = row + int(rows.min()), col + int(cols.min())
    bottom, right = row + int(rows.max()) + 1, col + int(cols.max()) + 1
    return {
        "bbox": [[top, left], [bottom, right]],
        "centroid": [col + float(cols.mean()), row + float(rows.mean())],
        "contour": np.add(contour.reshape(-1, 2), (col, row)).tolist(),
        "type_prob": 1.0,
        "type": kind,
    }
