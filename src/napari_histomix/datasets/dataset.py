"""A folder of labeled H&E images, with instances, a class each, or both: read one at a time, count nuclei.

What is synthetic stays synthetic when an export is opened again. It says so in three places: ``dataset.json`` lists a
pixel inside each synthetic nucleus, whatever the format; ``manifest.json`` records how each one was made;
``images.csv``, or the description in an image's own file, says which images hold synthetic pixels. Ids may differ from
those in the study, since some formats number nuclei anew, so nuclei are found by the pixels that they cover.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.edits import HandEdit
from napari_histomix.datasets.entries import UNCLASSIFIED, UNCLASSIFIED_COLOR, Entry, Labels, lost_objects
from napari_histomix.datasets.formats.polygons import mask_of, masks_of
from napari_histomix.datasets.parts import merged_notes, split_parts
from napari_histomix.datasets.pixels import orientation_of, pixels_sha256, read_pixels, upright
from napari_histomix.datasets.text_files import about, naming, read_json
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, NucleusClass, Problem, instance_ids


class ImageFiles:
    """How the images of one dataset are read from its files: by default each from one, and without instances.

    Both methods raise HistomixError, and nothing else.
    """

    def pixels(self, entry: Entry) -> NDArray[np.uint8]:
        """An image's pixels, (H, W, 3) RGB, turned upright where the file says how it was held."""
        return read_pixels(entry.image)

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        """The nuclei of an image of that shape; their map may have the shape that it had before it was turned."""
        return Labels(np.zeros(shape, np.int32), {})


SPLIT_PARTS = "split_parts"
"""Key in ``dataset.json``, in a study's settings and in manifests, where it is true: see `Dataset`."""

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


Marks = Mapping[str, tuple[Mark, ...]]
"""By image name in the dataset, the marks of all its synthetic nuclei. An image that is not there is not known."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A folder of labeled images; nothing is held in memory but its listing.

    Its images have instances (nuclei), or a class as a whole (tissue), or both.

    Parameters
    ----------
    name : str
        By ``dataset.json``, else the folder's name.
    root : Path
    classes : tuple of NucleusClass
        By number, background not among them.
    entries : tuple of Entry
        In natural order of image names, which are unique.
    problems : tuple of Problem
        Images left out on opening, with the reason.
    files : ImageFiles
        Reads the files.
    kinds : tuple of str
        Classes of images as a whole, in natural order; empty where images have none.
    marks : mapping of str to tuple of Mark
        By image where its synthetic nuclei lie.
    split_parts : bool
        Whether each connected part of an instance is read as a nucleus of its own.
    format : str
        What it was taken for, a name in ``formats.FORMATS``; empty where it was put together otherwise.
    edits : mapping of str to HandEdit
        By image the nuclei that a person drew in place of its own (``datasets.edits``).

    Examples
    --------
    >>> from napari_histomix import load_sample
    >>> [known.name for known in load_sample().classes]
    ['lymphocyte', 'tumor', 'stromal']
    """

    name: str
    root: Path
    classes: tuple[NucleusClass, ...]
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...] = ()
    files: ImageFiles = field(default_factory=ImageFiles, repr=False, compare=False)
    kinds: tuple[str, ...] = ()
    marks: Marks = field(default_factory=dict, repr=False, compare=False)
    split_parts: bool = False
    format: str = field(default="", repr=False, compare=False)
    edits: Mapping[str, HandEdit] = field(default_factory=dict, repr=False, compare=False)

    @property
    def unclassified(self) -> NucleusClass:
        """The class of nuclei that have none; the one of that name, or else one behind all others."""
        named = (known for known in self.classes if known.name.casefold() == UNCLASSIFIED)
        number = max((known.number for known in self.classes), default=0) + 1
        return next(named, NucleusClass(number, UNCLASSIFIED, UNCLASSIFIED_COLOR))

    @property
    def all_classes(self) -> tuple[NucleusClass, ...]:
        """The classes, `unclassified` among them."""
        return tuple(dict.fromkeys([*self.classes, self.unclassified]))

    def classes_in(self, survey: Survey) -> tuple[NucleusClass, ...]:
        """The classes, `unclassified` among them if a nucleus is."""
        return self.all_classes if survey.total[self.unclassified.number] else self.classes

    @property
    def has_nuclei(self) -> bool:
        """Whether its images have instances, though there may be none in any of them."""
        return any(entry.labels is not None for entry in self.entries)

    @property
    def has_kinds(self) -> bool:
        """Whether its images have a class as a whole."""
        return bool(self.kinds)

    @property
    def training(self) -> tuple[Entry, ...]:
        """Entries of the training split; an image of no split is one of them."""
        return tuple(entry for entry in self.entries if entry.source.split in ("train", ""))

    @property
    def real_training(self) -> tuple[Entry, ...]:
        """Training entries that methods may learn and take donors from.

        A synthetic image without instances is left out as a whole; where an image has instances, ``read`` tells the
        synthetic ones from the real ones.
        """
        return tuple(entry for entry in self.training if entry.labels is not None or not entry.synthetic)

    @property
    def missing_scale(self) -> tuple[Entry, ...]:
        """Entries whose µm per pixel nothing says; they cannot be read before someone does."""
        return tuple(entry for entry in self.entries if entry.mpp is None)

    def entry(self, image: str) -> Entry:
        """The entry of an image by name."""
        for entry in self.entries:
            if entry.source.image == image:
                return entry
        raise HistomixError(f"{self.name} has no image {image!r}; its first is {self.entries[0].source.image!r}.")

    def of_kind(self, kind: str) -> tuple[Entry, ...]:
        """Entries of one class of images (upper or lower case), of whatever split."""
        wanted = kind.strip().casefold()
        entries = tuple(entry for entry in self.entries if entry.kind.casefold() == wanted)
        if not wanted or not entries:
            raise HistomixError(f"{self.name} has no class {kind!r}; its classes are {', '.join(self.kinds)}.")
        return entries

    def read(self, entry: Entry | str) -> LabeledImage:
        """Read one image with its labels.

        Parameters
        ----------
        entry : Entry or str
            An entry of this dataset, or its image name.

        Returns
        -------
        LabeledImage

        Raises
        ------
        HistomixError
            If a file is damaged or missing, image and labels do not fit together, an instance has no type, or
            nothing says the scale.

        Examples
        --------
        >>> from napari_histomix import load_sample
        >>> data = load_sample()
        >>> data.read(data.training[0]).pixels.shape[2]
        3
        """
        if isinstance(entry, str):
            entry = self.entry(entry)
        if entry.mpp is None:
            raise HistomixError(
                f"{entry.source.image}: nothing says how many µm one pixel is; pass --mpp, "
                'or put {"mpp": 0.25} in dataset.json beside the data.'
            )
        return self._read(entry, entry.mpp)

    def _read(self, entry: Entry, mpp: float) -> LabeledImage:
        image, pixels = entry.source.image, self.files.pixels(entry)
        rows, cols = pixels.shape[:2]
        labels = self.files.labels(entry, (rows, cols))
        instances, notes = labels.instances, [("", note) for note in labels.notes]
        if entry.labels is not None and (turn := orientation_of(entry.image)) > 1:
            if instances.shape == (cols, rows) != (rows, cols):
                instances = np.ascontiguousarray(upright(instances, turn))
            elif not (labels.sized and turn > 4 and rows != cols):
                sentence = "its EXIF data turn it; its labels are taken to be drawn on the upright image."
                notes.append(("orientation", sentence))
        present = set(instance_ids(instances))
        types = {number: kind for number, kind in labels.types.items() if kind and number in present}
        if unknown := sorted(set(types.values()) - {known.number for known in self.classes}):
            raise HistomixError(
                f"{image}: the labels have the type {unknown[0]}, which is none of the classes "
                f"({self._class_list}); add it to type_info.json."
            )
        if entry.labels is not None:
            with naming(image):
                if lost := lost_objects(labels.lost, len(present)):
                    notes.append(("objects", lost))
            if absent := len(labels.types.keys() - present - {0}):
                which = "1 nucleus is listed but has" if absent == 1 else f"{absent:,} nuclei are listed but have"
                notes.append(
                    ("objects", f"{which} no pixel in the labels; {'it is' if absent == 1 else 'they are'} left out.")
                )
            untyped = present - types.keys()
            types |= dict.fromkeys(untyped, self.unclassified.number)
            if untyped:
                verb = "has" if len(untyped) == 1 else "have"
                notes.append(("types", f"{len(untyped):,} of {len(present):,} nuclei {verb} no class: {UNCLASSIFIED}."))
        flagged = labels.synthetic
        if self.split_parts:
            instances, types, flagged = split_parts(instances, types, flagged)
        elif entry.labels is not None:
            notes += [("parts", note) for note in merged_notes(instances)]
        marks = self.marks.get(image)
        if marks is not None:
            synthetic = frozenset(mark.instance(instances) for mark in marks) & types.keys()
        else:
            # All instances of a synthetic image, where nothing says which they are.
            synthetic = flagged or frozenset(types if entry.synthetic else ())
        said = tuple(Problem(image, f"{image}: {sentence}", about) for about, sentence in notes)
        own = LabeledImage(pixels, instances, types, mpp, entry.source, entry.kind, synthetic, said)
        edit = self.edits.get(image)
        return own if edit is None else edit.applied(own, self.class_number, in_synthetic=entry.synthetic)

    def class_number(self, name_or_number: str | int) -> int:
        """Number of a class by its name (upper or lower case) or number."""
        text = str(name_or_number).strip().casefold()
        numbers = {str(known.number): known.number for known in self.all_classes}
        numbers |= {known.name.casefold(): known.number for known in reversed(self.all_classes)}
        if text not in numbers:
            raise HistomixError(
                f"{self.name} has no class {str(name_or_number)!r}; its classes are {self._class_list or 'none'}."
            )
        return numbers[text]

    @property
    def _class_list(self) -> str:
        return ", ".join(f"{known.number} {known.name}" for known in self.classes)

    def class_name(self, number: int) -> str:
        """Name of a class by its number."""
        wanted = self.class_number(number)
        return next(known.name for known in self.all_classes if known.number == wanted)


@dataclass(frozen=True, slots=True)
class Survey:
    """How many nuclei of which class each readable image has, by class number."""

    counts: dict[str, Counter[int]]  # an empty counter for an image without nuclei
    problems: tuple[Problem, ...]  # what opening and reading had to tell, and the images that could not be read
    shapes: dict[str, tuple[int, int]]
    hashes: dict[str, str] = field(default_factory=dict)  # SHA-256 of the pixels
    stamps: dict[str, str] = field(default_factory=dict)  # by which files are known to be those that were read
    synthetic: dict[str, Counter[int]] = field(default_factory=dict)  # of the nuclei counted, those that are

    @property
    def synthetic_total(self) -> Counter[int]:
        return sum(self.synthetic.values(), Counter())

    @property
    def total(self) -> Counter[int]:
        return sum(self.counts.values(), Counter())


def survey(dataset: Dataset, known: Survey | None = None) -> Job[Survey]:
    """Read every image once and count its nuclei; a bad image becomes a problem, the others go on.

    Parameters
    ----------
    dataset : Dataset
    known : Survey, optional
        An earlier one. Images whose files have the sizes and times that they had then are not read again.

    Returns
    -------
    Survey
        Handed over by a long job (see ``records.Job``), which yields an event for each image that is read.
    """
    result, problems = Survey({}, (), {}), list(dataset.problems)
    total = len(dataset.entries)
    for done, entry in enumerate(dataset.entries):
        image = entry.source.image
        stamp = _stamp(dataset, entry)
        if stamp is not None and known is not None and known.stamps.get(image) == stamp:
            for name in ("counts", "shapes", "hashes", "stamps", "synthetic"):
                if image in getattr(known, name):
                    getattr(result, name)[image] = getattr(known, name)[image]
            continue
        yield Event("Reading labels", done, total)
        try:
            # Counting needs no scale: a window can show the counts while it asks for the scale (missing_scale).
            labeled = dataset._read(entry, 1.0 if entry.mpp is None else entry.mpp)
        except HistomixError as error:
            problems.append(Problem(image, about(image, error)))
            continue
        problems += labeled.notes
        # What has something to tell is read again, to tell it again.
        if stamp is not None and not labeled.notes:
            result.stamps[image] = stamp
        if labeled.synthetic:
            result.synthetic[image] = labeled.synthetic_counts()
        rows, cols = labeled.instances.shape
        result.counts[image], result.shapes[image] = labeled.counts(), (rows, cols)
        result.hashes[image] = pixels_sha256(labeled.pixels)
    yield Event("Reading labels", total, total)
    return replace(result, problems=tuple(problems))


def no_image(dataset: Dataset, problems: Sequence[str]) -> HistomixError:
    """The error about a dataset of which no image can be read, for these reasons."""
    return HistomixError(f"No image of {dataset.name} can be read; the first: {problems[0]}", problems=problems)


def no_nucleus(dataset: Dataset, survey: Survey) -> str:
    """What to say of a dataset of nuclei that has none; empty for any other."""
    return "None of the images has a nucleus." if dataset.has_nuclei and not survey.total.total() else ""


def synthetic_notes(dataset: Dataset, survey: Survey | None = None) -> tuple[str, ...]:
    """What a person should know of synthetic nuclei and images in a dataset."""
    notes = []
    if survey is not None and (count := survey.synthetic_total.total()):
        notes.append(_never_donors(count, survey.total.total(), "nucleus", "nuclei"))
    if images := sum(entry.synthetic and entry.labels is None for entry in dataset.entries):
        notes.append(_never_donors(images, len(dataset.entries), "image", "images"))
    names = {entry.source.image for entry in dataset.entries if entry.synthetic and entry.labels is not None}
    if unknown := names - dataset.marks.keys():
        notes.append(
            f"Nothing lists the synthetic nuclei of {len(unknown):,} synthetic image{'s' if len(unknown) > 1 else ''}; "
            "without flags of their own in the label files, all nuclei there count as synthetic."
        )
    return tuple(notes)


def _never_donors(count: int, all_items: int, word: str, words: str) -> str:
    what, never = (word, "it is never a donor") if count == 1 else (words, "they are never donors")
    return f"Contains {count:,} synthetic {what} among all {all_items:,}; {never}."


def _stamp(dataset: Dataset, entry: Entry) -> str | None:
    """What an image's labels are read from, without reading it; None where that is more than two files."""
    files = dataset.files
    listed = getattr(files, "listed_types", {}).get(entry.source.image, {})
    marks = [mark.facts for mark in dataset.marks.get(entry.source.image, ())]
    facts: list[object] = [type(files).__module__, entry.index, dataset.classes, sorted(listed.items())]
    if dataset.split_parts:
        facts.append("parts")
    if entry.synthetic or marks:
        facts += [entry.synthetic, marks]
    if (edit := dataset.edits.get(entry.source.image)) is not None:
        facts.append(edit.facts)
    for file in (entry.image, *([entry.labels] if entry.labels else ())):
        try:
            status = file.stat()
        except OSError:
            return None
        if not S_ISREG(status.st_mode):
            return None
        facts += [file.name, status.st_size, status.st_mtime_ns]
    return sha256(repr(facts).encode()).hexdigest()


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
