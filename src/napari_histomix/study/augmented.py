"""The training split with approved placements: what may be exported, and the images as they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_histomix.compositing import compose
from napari_histomix.datasets import SYNTHETIC_NOTICE, Dataset, Entry
from napari_histomix.datasets.dataset_writer import WrittenDataset, copy_notices, described
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.datasets.splits import check_splits
from napari_histomix.datasets.writing import class_map, write_ignore, write_png
from napari_histomix.records import INPAINTED, HistomixError, LabeledImage, Placement

ORIGIN = "origin"
"""Folder of the origin maps."""

_ORIGIN_NOTICE = "Origin map: 0 real, 1 donor, 2 inpainted"


def chosen(dataset: Dataset, placements: Iterable[Placement], decisions: Mapping[int, str] | None) -> list[Placement]:
    """The placements that may be exported: all of them where ``decisions`` is None, else what is approved.

    Raises
    ------
    HistomixError
        If a patient is on two sides of the split, a placement is not of the training split, or nothing is approved.
    """
    check_splits(dataset)
    wanted = [one for one in placements if decisions is None or decisions.get(one.candidate.rank) == "approve"]
    if not wanted:
        raise HistomixError("There is no approved synthetic nucleus to export; approve some first.")
    training = {entry.source.image for entry in dataset.training}
    offenders = [
        f"{one.candidate.rank} {what} {place.image}"
        for one in wanted
        for what, place in (("in", one.candidate.target), ("from", one.candidate.donor))
        if place.image not in training
    ]
    if offenders:
        shown = ", ".join(offenders[:10]) + (f" and {len(offenders) - 10:,} more" if len(offenders) > 10 else "")
        raise HistomixError(
            f"Synthetic nuclei of images that are not in the training split of {dataset.name} cannot be exported "
            f"({shown}); reject them."
        )
    return wanted


class Augmented:
    """The images of a dataset with their placements, as they are written: what is counted on the way.

    Parameters
    ----------
    dataset : Dataset
    placements : sequence of Placement
        All of the dataset's training images.
    folder : Path
        There, and empty.
    format : str
        A key of ``datasets.formats.FORMATS``.
    ignore_band : bool
        Whether ``ignore`` gets the classes of each image with 255 over its inpainted pixels.

    Raises
    ------
    HistomixError
        If the format cannot hold the dataset.
    """

    def __init__(
        self, dataset: Dataset, placements: Sequence[Placement], folder: Path, format: str, ignore_band: bool = False
    ) -> None:
        self.dataset, self.placements, self.folder = dataset, placements, folder
        self.format, self.ignore_band = format, ignore_band
        self.name = f"{dataset.name}, augmented"
        self.before: Counter[int] = Counter()
        self.after: Counter[int] = Counter()
        self.synthetic_nuclei: Counter[int] = Counter()
        """By class number; of earlier exports too."""
        self.images = 0
        self.skipped: dict[str, str] = {}
        """Why images were left out."""
        self.synthetic: dict[str, dict[str, Any]] = {}
        """Per synthetic image its name in the dataset that is written, and hashes of its pixels before and after."""
        self._by_image = by_image(placements)
        self._written = WrittenDataset(folder, self.name, dataset.classes, format)

    def counts(self, of: Mapping[int, int]) -> dict[str, int]:
        """Nuclei by class name."""
        return {one.name: of.get(one.number, 0) for one in self.dataset.classes}

    def write(self, entry: Entry) -> LabeledImage | None:
        """Write one image with its placements; None where it cannot be read and nothing was placed in it."""
        name = entry.source.image
        placements = self._by_image.get(name, ())
        try:
            target = self.dataset.read(entry)
        except HistomixError as error:
            if placements:
                raise
            self.skipped[name] = str(error)
            return None
        sha256 = pixels_sha256(target.pixels) if placements else ""
        for one in placements:
            _check_unchanged(target, one, sha256)
        made = compose(target, placements)
        file = self._written.add(made.image, synthetic=bool(placements) or entry.synthetic)
        self.images += 1
        self.before += target.counts()
        self.after += made.image.counts()
        self.synthetic_nuclei += made.image.synthetic_counts()
        if self.ignore_band:
            # Of every image, so that a training loop reads one folder.
            write_ignore(self.folder, file, made.origin == INPAINTED, class_map(made.image))
        if placements:
            (self.folder / ORIGIN).mkdir(exist_ok=True)
            write_png(self.folder / ORIGIN / f"{file}.png", made.origin, target.mpp, description=_ORIGIN_NOTICE)
            self.synthetic[name] = {
                "file": file,
                "sha256": pixels_sha256(made.image.pixels),
                "source_sha256": sha256,
            }
        return made.image

    def finish(self) -> None:
        """Write what comes after all images."""
        self._written.finish(**described(self.dataset.root), notice=SYNTHETIC_NOTICE, format=self.format)
        copy_notices(self.dataset.root, self.folder)


def _check_unchanged(target: LabeledImage, one: Placement, sha256: str) -> None:
    """Raise HistomixError if an image is no longer the one in which a nucleus was placed."""
    name, replaced = target.source.image, one.candidate.target.instance
    made_of = one.provenance.get("sources", {}).get("target", {}).get("pixels_sha256", sha256)
    if made_of != sha256:
        raise HistomixError(
            f"{name} is not the image that synthetic nuclei were placed in: its pixels have changed; put it back."
        )
    below = set(np.unique(target.instances[one.window][one.nucleus]).tolist())
    if not below <= {0, replaced} or one.instance in target.types or (replaced and replaced not in target.types):
        raise HistomixError(
            f"The labels of {name} have changed since the synthetic nucleus {one.candidate.rank} was placed in it; "
            "put them back, or reject it."
        )


def by_image(placements: Iterable[Placement]) -> dict[str, list[Placement]]:
    """Placements by the image they are in."""
    found: dict[str, list[Placement]] = {}
    for one in placements:
        found.setdefault(one.candidate.target.image, []).append(one)
    return found


def counts_after(before: Mapping[int, int], placements: Iterable[Placement]) -> Counter[int]:
    """Nuclei by class number once placements are in: before + placed - replaced."""
    after = Counter(before)
    for one in placements:
        after[one.candidate.donor.type] += 1
        if one.candidate.target.instance:
            after[one.candidate.target.type] -= 1
    return after
