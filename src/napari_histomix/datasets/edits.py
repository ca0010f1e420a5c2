"""Nuclei that a person drew, changed or erased in a dataset: kept in files apart, its own files stay as they are.

A file holds what was taken at one time: for each image the whole instance map, with the names of its classes. It is
written once, complete or absent. Where several speak of an image, the last one holds.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.formats.polygons import masks_of
from napari_histomix.datasets.pixels import labels_sha256
from napari_histomix.datasets.text_files import writable
from napari_histomix.records import HistomixError, LabeledImage, instance_ids

if TYPE_CHECKING:
    from napari_histomix.datasets.dataset import Dataset

FOLDER = "edits"
"""Where the files lie in a study, and in an export."""
_ABOUT = "about"
"""Name of the array that holds the facts of a file, as JSON."""
FEW = 20
"""Ids up to which a map is gone through for each of them, which takes less time than to sort it."""
_LISTS = "drawn", "changed", "erased"
_TEXTS = "own_labels", "labels", "who", "made"


@dataclass(frozen=True, slots=True)
class Differences:
    """Ids of the nuclei in which two instance maps differ: ``drawn`` are only in the second, ``erased`` in the first.

    A nucleus is ``changed`` where it has other pixels than before.
    """

    drawn: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    erased: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """All of them."""
        return (*self.drawn, *self.changed, *self.erased)

    def words(self) -> str:
        """How many nuclei of which kind: ``2 drawn, 1 erased``."""
        return ", ".join(f"{len(getattr(self, what)):,} {what}" for what in _LISTS if getattr(self, what))


def differences(before: NDArray[np.int32], after: NDArray[np.int32]) -> Differences:
    """Compare two instance maps (H, W) of one image."""
    apart = before != after
    if not apart.any():
        return Differences()
    was, now = ({id for id in np.unique(labels[apart]).tolist() if id > 0} for labels in (before, after))
    had, has = was | _among(now - was, before), now | _among(was - now, after)
    return Differences(tuple(sorted(has - had)), tuple(sorted(has & had)), tuple(sorted(had - has)))


def _among(ids: set[int], labels: NDArray[np.int32]) -> set[int]:
    """Those of some ids that an instance map has."""
    if len(ids) > FEW:
        listed = np.array(sorted(ids))
        return set(listed[np.isin(listed, labels)].tolist())
    return {id for id in ids if (labels == id).any()}


def together(several: Iterable[Differences]) -> Differences:
    """The differences of several images, to be counted."""
    listed = tuple(several)
    return Differences(*(tuple(id for each in listed for id in getattr(each, what)) for what in _LISTS))


def separated(before: NDArray[np.int32], after: NDArray[np.int32]) -> NDArray[np.int32]:
    """The second of two instance maps (H, W), with each connected part of a drawn nucleus as one of its own.

    Whoever draws several nuclei need not choose another label for each.
    """
    drawn, parted = differences(before, after).drawn, after
    if not drawn:
        return after
    # What is drawn lies where the maps differ, mostly in a small part of a large image.
    rows, cols = np.nonzero(before != after)
    first, part = (rows.min(), cols.min()), after[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
    free = 1 + int(max(before.max(initial=0), after.max(initial=0)))
    for _, corner, mask in masks_of(np.where(np.isin(part, drawn), part, 0)):
        count, parts = cv2.connectedComponents(mask.astype(np.uint8))
        top, left = np.add(corner, first)
        for number in range(2, count):
            parted = after.copy() if parted is after else parted
            box = parted[top : top + mask.shape[0], left : left + mask.shape[1]]
            box[parts == number] = free
            free += 1
    return parted


@dataclass(frozen=True, slots=True, eq=False)
class HandEdit:
    """The nuclei of one image as a person left them.

    Parameters
    ----------
    image : str
    classes : mapping of int to str
        Name of the class of every id.
    differences : Differences
        From the dataset's own labels.
    own_labels : str
        SHA-256 of the dataset's own instance map (``datasets.pixels.labels_sha256``).
    labels : str
        That of the edited one.
    who, made : str
        Who took the edits, empty where nobody said, and when, in UTC.
    path : Path, optional
        The file that it lies in; None before it is written.
    """

    image: str
    classes: Mapping[int, str]
    differences: Differences
    own_labels: str
    labels: str
    who: str = ""
    made: str = ""
    path: Path | None = None
    _instances: NDArray[np.int32] | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, own: LabeledImage, instances: NDArray[np.int32], classes: Mapping[int, str], who: str, made: str
    ) -> HandEdit:
        """What a person made of an image, given as its dataset's own files have it; ``classes``: of all ids."""
        present = {number: classes[number] for number in instance_ids(instances)}
        apart, before, after = differences(own.instances, instances), *map(labels_sha256, (own.instances, instances))
        return cls(own.source.image, present, apart, before, after, who, made, None, instances)

    def instances(self) -> NDArray[np.int32]:
        """The instance map (H, W); HistomixError if the file is missing or damaged."""
        if self._instances is not None:
            return self._instances
        assert self.path is not None
        instances = np.asarray(_array(self.path, self.image), np.int32)
        if labels_sha256(instances) != self.labels:
            raise _damaged(self.path)
        return instances

    def applied(self, own: LabeledImage, class_number: Callable[[str], int], *, in_synthetic: bool) -> LabeledImage:
        """The image with these nuclei in place of its own.

        ``class_number`` gives the number of a class by its name. What was drawn ``in_synthetic`` pixels may show what
        is not real: it counts as synthetic.

        Raises HistomixError if the image has other labels of its own than when it was edited.
        """
        if labels_sha256(own.instances) != self.own_labels:
            raise HistomixError(
                f"{self.image}: its labels are not those that were changed by hand; put them back, or begin anew."
            )
        types = {number: class_number(name) for number, name in self.classes.items()}
        drawn = self.differences.drawn if in_synthetic else ()
        synthetic = (own.synthetic | set(drawn)) & types.keys()
        return replace(own, instances=self.instances(), types=types, synthetic=synthetic)

    @property
    def facts(self) -> tuple[str, ...]:
        """By which a survey tells that it is still the same."""
        return self.own_labels, self.labels, repr(sorted(self.classes.items()))


def write_edits(path: Path, edits: Sequence[HandEdit]) -> None:
    """Write edits into a new file, complete or absent; HistomixError where the disk refuses."""
    about = [
        {
            "image": edit.image,
            "classes": {str(number): name for number, name in edit.classes.items()},
            **{what: list(getattr(edit.differences, what)) for what in _LISTS},
            **{key: getattr(edit, key) for key in _TEXTS},
        }
        for edit in edits
    ]
    arrays = {edit.image: edit.instances() for edit in edits}
    part = path.with_suffix(".part")
    with writable(path):
        path.parent.mkdir(exist_ok=True)
        try:
            with part.open("wb") as stream:
                _write(stream, {_ABOUT: np.array(json.dumps(about)), **arrays})
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _write(stream: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """An archive as ``numpy.savez_compressed`` makes it, whatever an image is called; without a date."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as pile:
        for number, (name, array) in enumerate(arrays.items()):
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            # An image's name may be a path: the facts say which array is whose.
            pile.writestr(zipfile.ZipInfo(f"{number or name}.npy"), content.getvalue(), 8)


def read_edits(path: Path) -> tuple[HandEdit, ...]:
    """The edits of a file, whose maps are read when they are needed; HistomixError if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            listed = json.loads(str(kept[_ABOUT]))
        return tuple(
            HandEdit(
                str(facts["image"]),
                {int(number): str(name) for number, name in facts["classes"].items()},
                Differences(*(tuple(map(int, facts[what])) for what in _LISTS)),
                **dict[str, Any]((key, str(facts[key])) for key in _TEXTS),
                path=path,
            )
            for facts in listed
        )
    except _DAMAGES:
        raise _damaged(path) from None


def _array(path: Path, image: str) -> NDArray[Any]:
    """The map of an image in a file; others are not read."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            names = [str(facts["image"]) for facts in json.loads(str(kept[_ABOUT]))]
            return np.asarray(kept[str(1 + names.index(image))])
    except _DAMAGES:
        raise _damaged(path) from None


_DAMAGES = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error)
"""What a file that is missing, or that somebody changed, makes of reading it."""


def _damaged(path: Path) -> HistomixError:
    return HistomixError(f"{path} is missing or damaged; restore it from a backup.")


def with_edits(dataset: Dataset, files: Sequence[Path]) -> Dataset:
    """The dataset with what these files say of its nuclei, the last of them that speaks of an image."""
    edits = {edit.image: edit for path in files for edit in read_edits(path)}
    return replace(dataset, edits=edits) if edits else dataset


def edit_files(dataset: Dataset) -> list[Path]:
    """The files that a dataset's edits lie in."""
    return sorted({edit.path for edit in dataset.edits.values() if edit.path is not None})


def copy_edits(dataset: Dataset, folder: Path) -> dict[str, str]:
    """Copy the files of a dataset's edits into a study or an export; their SHA-256 by name."""
    files = edit_files(dataset)
    with writable(folder):
        for file in files:
            (folder / FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(file, folder / FOLDER / file.name)
    return file_hashes(*files)


def file_hashes(*files: Path) -> dict[str, str]:
    """SHA-256 of files by name, as a study or an export lists them."""
    return {file.name: _sha256_of(file) for file in files}


def checked_files(folder: Path, listed: Mapping[str, str]) -> list[Path]:
    """The files of a study or an export that it lists with their SHA-256, in their order.

    Raises HistomixError if one of them is missing or damaged.
    """
    files = [folder / FOLDER / Path(name).name for name in sorted(listed)]
    for file in files:
        if _sha256_of(file) != listed[file.name]:
            raise _damaged(file)
    return files


def _sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file; HistomixError if it cannot be read."""
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise _damaged(path) from None


def edit_notes(dataset: Dataset) -> tuple[str, ...]:
    """What a person should know of nuclei that were changed by hand, a sentence."""
    edits = [edit for edit in dataset.edits.values() if edit.differences.ids]
    if not edits:
        return ()
    every = together(edit.differences for edit in edits)
    images = "1 image" if len(edits) == 1 else f"{len(edits):,} images"
    return (f"Nuclei of {images} were changed by hand: {every.words()}.",)
