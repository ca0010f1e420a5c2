"""What is synthetic stays synthetic: the nuclei of a dataset that no microscope saw, known again when it is opened.

An export says it in three places: ``dataset.json`` lists a pixel inside each synthetic nucleus, whatever the format;
``manifest.json`` records how each one was made; ``images.csv``, or the description in an image's own file, says which
images hold synthetic pixels. Ids may differ from those in the study, since some formats number nuclei anew, so nuclei
are found by the pixels that they cover.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.formats.polygons import mask_of, masks_of
from napari_histomix.datasets.text_files import read_json
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE
from napari_histomix.records import HistomixError, LabeledImage

SYNTHETIC_KEY = "synthetic"
"""Key in ``dataset.json``: by image, a pixel (row, column) inside each synthetic nucleus."""

MANIFEST = "manifest.json"
MAX_MANIFEST = 2**29
"""Bytes of a manifest that is read: two hundred thousand placements."""


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """Where a synthetic nucleus lies: pixels of which it covers more than any other nucleus does.

    A single one where it is known to lie inside; ``row`` and ``col`` are the upper left corner of the mask.
    """

    row: int
    col: int
    mask: NDArray[np.bool_]

    @classmethod
    def at(cls, place: Any) -> Mark:
        """The mark of a pixel that lies inside the nucleus, ``[row, col]``."""
        row, col = (int(part) for part in place)
        return cls(row, col, np.ones((1, 1), np.bool_))

    @property
    def facts(self) -> tuple[int, int, int]:
        """Place and area, by which a survey tells that it is still the same."""
        return self.row, self.col, int(np.count_nonzero(self.mask))

    def instance(self, instances: NDArray[np.int32]) -> int:
        """The id that it finds in a map (H, W); 0 where the nucleus is not there."""
        height, width = self.mask.shape
        top, left = max(self.row, 0), max(self.col, 0)
        window = instances[top : max(self.row + height, 0), left : max(self.col + width, 0)]
        inside = window[self.mask[top - self.row :, left - self.col :][: window.shape[0], : window.shape[1]]]
        ids, counts = np.unique(inside[inside > 0], return_counts=True)
        return int(ids[counts.argmax()]) if ids.size else 0


def inner_pixels(image: LabeledImage) -> list[list[int]]:
    """For each synthetic nucleus of an image, by id, the pixel (row, column) farthest from its border."""
    if not image.synthetic:
        return []
    chosen = np.where(np.isin(image.instances, list(image.synthetic)), image.instances, 0)
    pixels = []
    for _, (top, left), mask in masks_of(chosen):
        # A frame of zeros makes the edge of the box a border.
        depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        row, col = np.unravel_index(int(depth.argmax()), depth.shape)
        pixels.append([int(row) + top, int(col) + left])
    return pixels


Marks = Mapping[str, tuple[Mark, ...]]
"""By image name in the dataset, the marks of all its synthetic nuclei. An image that is not there is not known."""


def read_marks(root: Path, described: Mapping[str, Any]) -> Marks:
    """The marks of a dataset's synthetic nuclei, by what its ``dataset.json`` says, else by ``manifest.json``.

    What is damaged is passed over: nuclei of a synthetic image without marks all count as synthetic.
    """
    listed = described.get(SYNTHETIC_KEY)
    if isinstance(listed, dict):
        return _parsed(listed, lambda place: [Mark.at(place)])
    content = None
    with suppress(HistomixError):
        content = read_json(root / MANIFEST, MAX_MANIFEST)
    if not isinstance(content, dict) or content.get("notice") != SYNTHETIC_NOTICE:
        return {}
    # Earlier versions wrote placements.
    records = content.get("changes", content.get("placements"))
    files = content.get("synthetic_images")
    by_file: dict[str, list[Any]] = {}
    for record in records if isinstance(records, list) else ():
        image = record.get("image") if isinstance(record, dict) else None
        facts = files.get(image) if isinstance(files, dict) and isinstance(image, str) else None
        file = facts.get("file") if isinstance(facts, dict) else image
        if isinstance(file, str):
            by_file.setdefault(file, []).append(record)
    return _parsed(by_file, _recorded)


def _recorded(record: Any) -> list[Mark]:
    """The marks of a record in a manifest."""
    if "added" in record:
        return [Mark.at(nucleus["at"]) for nucleus in record["added"].values()]
    changed = record["provenance"]["changed"]
    return [Mark(int(changed["row"]), int(changed["col"]), mask_of(changed))]


def _parsed(listed: Mapping[str, Any], parse: Callable[[Any], list[Mark]]) -> Marks:
    """The marks of those images all of whose items are whole."""
    marks: dict[str, tuple[Mark, ...]] = {}
    for name, items in listed.items():
        with suppress(AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, HistomixError):
            marks[name] = tuple(mark for item in items for mark in parse(item))
    return marks
