"""The images of an export as they are written: training images with their changes, derived and new ones beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from napari_histomix.compositing.composing import Synthetic, compose, new_image
from napari_histomix.datasets import SYNTHETIC_NOTICE, Dataset, Entry
from napari_histomix.datasets.dataset_writer import WrittenDataset, copy_notices, described
from napari_histomix.datasets.entries import palette
from napari_histomix.datasets.formats import CLASS_FOLDERS
from napari_histomix.datasets.pixels import labels_sha256, pixels_sha256
from napari_histomix.datasets.text_files import write_table
from napari_histomix.datasets.writing import class_map, write_ignore, write_png
from napari_histomix.records import INPAINTED, KEEP, Change, HistomixError, LabeledImage

ORIGIN = "origin"
"""Folder of the origin maps, each named as its image in the dataset that is written."""
SHARES = "class_shares.csv"
"""Table of the images that are of several classes at once."""

_ORIGIN_NOTICE = "Origin map: 0 real, 1 donor, 2 inpainted"


def dataset_writer(folder: Path, name: str, dataset: Dataset, format: str) -> WrittenDataset:
    """What writes the images of a dataset in a format."""
    kinds = dataset.kinds if format == CLASS_FOLDERS else ()
    return WrittenDataset(folder, name, dataset.classes, format, kinds, dataset.unclassified)


class Augmented:
    """The images of a dataset with their changes, as they are written into an empty folder, and what is counted.

    Raises HistomixError if the format cannot hold the dataset.

    Attributes
    ----------
    pieces : list of Entry or Change
        What is to be written, image by image: training images, then derived and new ones.
    before, after, counted_synthetic : Counter of str
        Nuclei by class name, or images where the format holds images by class (``unit``): in the dataset, in what is
        written, and synthetic ones in the latter.
    colors : dict of str to tuple
        Of each class that is counted.
    synthetic : dict
        Per synthetic image its name in the dataset that is written, and hashes of its pixels before and after;
        ``whole`` where no pixel and no label of it counts as real.
    soft : list
        Image, class and share for the images that are of several classes.
    skipped : dict
        Why images were left out.
    notes : list of str
        What reading the others had to tell, such as objects that are lost.
    """

    def __init__(
        self, dataset: Dataset, changes: Sequence[Change], folder: Path, format: str, ignore_band: bool = False
    ) -> None:
        self.dataset, self.folder, self.format, self.ignore_band = dataset, folder, format, ignore_band
        self.name = f"{dataset.name}, augmented"
        self.unit = "images" if format == CLASS_FOLDERS else "nuclei"
        self.in_place: dict[str, list[Change]] = {}
        self.pieces: list[Entry | Change] = [*dataset.training]
        for change in changes:
            if change.in_place:
                self.in_place.setdefault(change.image, []).append(change)
            else:
                self.pieces.append(change)
        self._names = {known.number: known.name for known in dataset.all_classes}
        self.colors = {known.name: known.color for known in dataset.classes}
        if format == CLASS_FOLDERS:
            self.colors = dict(zip(dataset.kinds, palette(len(dataset.kinds)), strict=True))
        self.before, self.after, self.counted_synthetic = (
            Counter[str](dict.fromkeys(self.colors, 0)) for _ in range(3)
        )
        self.images = self.synthetic_images = 0
        self.synthetic: dict[str, dict[str, Any]] = {}
        self.soft: list[tuple[str, str, float]] = []
        self.skipped: dict[str, str] = {}
        self.notes: list[str] = []
        self._needed = {change.image for change in changes}
        # Several images may be derived from one.
        self._read = lru_cache(4)(dataset.read)
        self._written = dataset_writer(folder, self.name, dataset, format)

    def write(self, piece: Entry | Change) -> LabeledImage | None:
        """Write a training image with its changes, or a derived or new image; None where it cannot be read.

        Raises HistomixError if an image that something was made of cannot be read, or is no longer as it was then.
        """
        if isinstance(piece, Change):
            return self._write_whole(piece)
        name = piece.source.image
        try:
            target = self.dataset.read(piece)
        except HistomixError as error:
            if name in self._needed:
                raise
            self.skipped[name] = str(error)
            return None
        self._count(self.before, target)
        self.notes += (note.sentence for note in target.notes)
        if changes := self.in_place.get(name):
            sha256 = _check_unchanged(target, changes)
            return self._add(compose(target, changes), name, sha256, changes)
        origin = np.zeros(target.instances.shape, np.uint8)
        self._add_image(Synthetic(target, origin), piece.synthetic, piece.image)
        return target

    def _write_whole(self, change: Change) -> LabeledImage:
        sha256 = ""
        if change.image:
            target = self._read(change.image)
            sha256 = _check_unchanged(target, [change])
            made = compose(target, [change])
        else:
            made = self._new(change)
        # Whatever is copied from a real image counts as real there, and not a second time.
        made = replace(made, image=replace(made.image, synthetic=frozenset(made.image.types)))
        return self._add(made, change.name, sha256, [change])

    def _new(self, change: Change) -> Synthetic:
        if "mpp" not in change.provenance:
            raise HistomixError(f"{change.name} does not say how many µm one pixel is; make it again.")
        made = new_image(change, float(change.provenance["mpp"]), self.dataset.name)
        sources = [self.dataset.entry(source.image).source for source in change.sources]
        patients, slides = {source.patient for source in sources}, {source.slide for source in sources}
        # Made of one patient's images alone it is that patient's, whatever split it will be in.
        source = replace(
            made.image.source,
            patient=patients.pop() if len(patients) == 1 else "",
            slide=slides.pop() if len(slides) == 1 else "",
        )
        return replace(made, image=replace(made.image, source=source))

    def _add(self, made: Synthetic, name: str, source_sha256: str, changes: Sequence[Change]) -> LabeledImage:
        """Write a synthetic image, its origin map and what is to be known of it."""
        # In class folders it is a path.
        file = self._add_image(made, True, None).removesuffix(".png")
        path = self.folder / f"{ORIGIN}/{file}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, made.origin, made.image.mpp, description=_ORIGIN_NOTICE)
        about = {"file": file, "sha256": pixels_sha256(made.image.pixels), "source_sha256": source_sha256}
        self.synthetic[name] = about if changes[0].in_place else {**about, "whole": True}
        shares = changes[-1].class_shares or {}
        if len(shares) > 1:
            self.soft += [(file, kind, share) for kind, share in shares.items()]
        return made.image

    def _add_image(self, made: Synthetic, synthetic: bool, original: Path | None) -> str:
        """Write an image and count it; its name in the dataset that is written."""
        image = made.image
        file = self._written.add(image, synthetic=synthetic, original=original)
        self.images += 1
        self.synthetic_images += synthetic
        self._count(self.after, image)
        if self.ignore_band:
            # Of every image, so that a training loop reads one folder.
            write_ignore(self.folder, file, made.origin == INPAINTED, class_map(image))
        if self.unit == "images":
            self.counted_synthetic[image.kind] += synthetic
        elif image.synthetic:
            present = np.intersect1d(image.instances, sorted(image.synthetic)).tolist()
            self.counted_synthetic.update(self._names[image.types[number]] for number in present if number)
        return file

    def _count(self, into: Counter[str], image: LabeledImage) -> None:
        if self.unit == "images":
            into[image.kind] += 1
        else:
            into.update({self._names[number]: count for number, count in image.counts().items()})
            if (unclassified := self.dataset.unclassified).name in into:
                self.colors.setdefault(unclassified.name, unclassified.color)

    def finish(self) -> None:
        """Write what comes after all images."""
        self._written.finish(**described(self.dataset.root), notice=SYNTHETIC_NOTICE, format=self.format)
        copy_notices(self.dataset.root, self.folder)
        if self.soft:
            write_table(self.folder / SHARES, ("image", "class", "share"), self.soft)


def _check_unchanged(target: LabeledImage, changes: Sequence[Change]) -> str:
    """SHA-256 of an image's pixels; HistomixError if it is no longer the one that the changes were made in or of."""
    name, sha256 = target.source.image, pixels_sha256(target.pixels)
    height, width = target.instances.shape
    labels: str | None = None
    for change in changes:
        rows, cols = change.window
        inside = min(rows.start, cols.start) >= 0 and rows.stop <= height and cols.stop <= width
        if not inside or change.pixels.shape != (*change.shape, 3) or change.pixels.dtype != np.uint8:
            raise HistomixError(f"The synthetic patch {change.id} does not fit into {name}; make it again.")
        known = change.provenance.get("sources", {}).get("target", {})
        if known.get("pixels_sha256", sha256) != sha256:
            raise HistomixError(
                f"{name} is not the image that something synthetic was made of: its pixels have changed; put it back."
            )
        if "labels_sha256" in known:
            labels = labels or labels_sha256(target.instances)
        if known.get("labels_sha256", labels) != labels and not _still_fits(target, change):
            raise HistomixError(
                f"The labels of {name} have changed since change {change.id} was made; put them back as they were."
            )
        taken = change.in_place and change.added.keys() & target.types.keys()
        if taken or not target.types.keys() >= set(change.removed):
            raise HistomixError(
                f"The labels of {name} are not those that change {change.id} was made of; put them back as they were."
            )
    return sha256


def _still_fits(target: LabeledImage, change: Change) -> bool:
    """Whether the labels that a change in place is laid on are as they were, though others have changed."""
    if not change.in_place or change.labels is None:
        return False
    laid = (change.labels != KEEP) & (change.labels != 0)
    return set(np.unique(target.instances[change.window][laid]).tolist()) <= {0, *change.removed}
