"""A dataset while its folder is listed: what all layouts do once they know which image belongs to which labels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from napari_histomix.datasets.dataset import Dataset, ImageFiles
from napari_histomix.datasets.entries import (
    SPLITS,
    TABLE,
    Entry,
    Row,
    checked_mpp,
    dataset_name,
    described_classes,
    described_split,
    is_split_folder,
    natural_key,
    natural_order,
    read_json_object,
    split_name,
    split_problems,
    stated_splits,
    tcga_origin,
)
from napari_histomix.datasets.names import Lookup, composed, paired, stated_path
from napari_histomix.datasets.pixels import is_flagged, read_mpp
from napari_histomix.datasets.text_files import about, read_table, whole_number
from napari_histomix.records import HistomixError, NucleusClass, Problem, Source

IMAGE_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg"})
LABEL_SUFFIXES = frozenset({".png", ".tif", ".tiff"})
MAT_SUFFIXES = frozenset({".mat"})
_COLUMNS = ("patient", "slide", "split", "mpp", "synthetic")
_DEEPEST = 4
"""How many folders deep images of formats without an order of their own are looked for."""
_MOST_FOLDERS = 5000
_SAY_NOTHING = frozenset(
    {"images", "image", "imgs", "img", "labels", "label", "annotations", "annotation", "data", "default", "all"}
)
"""Folders whose names, in lower case, say nothing of the images in them."""


def visible_files(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Files of a folder, without hidden ones (such as the ``._x.png`` that macOS leaves on network drives)."""
    for path in folder.iterdir():
        if path.suffix.casefold() in suffixes and not path.name.startswith(".") and path.is_file():
            yield path


def files_by_stem(
    folder: Path, suffixes: frozenset[str], problems: list[Problem], what: str = "image"
) -> dict[str, Path]:
    """Visible files of a folder by name without suffix, in NFC; two files of one name are reported and left out."""
    files: dict[str, list[Path]] = {}
    for path in sorted(visible_files(folder, suffixes)):
        files.setdefault(composed(path.stem), []).append(path)
    for stem, paths in files.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            problems.append(Problem(stem, f"{stem}: {names} are two {what} files of one name; keep one of them."))
    return {stem: paths[0] for stem, paths in files.items() if len(paths) == 1}


def find_table(folder: Path, name: str) -> tuple[Path | None, int]:
    """The table of a name or the folder's only CSV, None where there is neither, and how many CSV files there are."""
    tables = sorted(visible_files(folder, frozenset({".csv"})))
    named = [path for path in tables if path.name.casefold() == name]
    return (named or tables)[0] if named or len(tables) == 1 else None, len(tables)


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, in order."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def folders_below(root: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A root and the visible folders in it, in order, with their names (in NFC) on the way from it.

    Folders of arrays (``.zarr``), which hold no image files, are passed over.
    """
    waiting: list[tuple[Path, tuple[str, ...]]] = [(root, ())]
    for count in range(_MOST_FOLDERS):
        if count == len(waiting):
            return
        folder, names = waiting[count]
        yield folder, names
        if len(names) < _DEEPEST:
            inside = (path for path in subfolders(folder) if path.suffix.casefold() != ".zarr")
            waiting += [(path, (*names, composed(path.name))) for path in inside]


def telling(names: Sequence[str]) -> list[str]:
    """Those of the names of folders that say something, as ``images`` and ``default`` do not."""
    return [name for name in names if name.casefold() not in _SAY_NOTHING]


def folder_split(names: Sequence[str]) -> str:
    """The split of what lies in folders of these names, one in the other; empty where none is named as a split."""
    return next((split_name(name) for name in reversed(names) if is_split_folder(name)), "")


def sections_of(root: Path) -> list[tuple[Path, str]]:
    """A root, and the folders in it that are named as splits, with these splits, that for training first."""
    folders = [path for path in sorted(root.iterdir()) if is_split_folder(path.name) and path.is_dir()]
    splits = [(path, split_name(path.name)) for path in folders]
    return [(root, ""), *sorted(splits, key=lambda section: SPLITS.index(section[1]))]


def split_below(folder: Path, split: str = "") -> str:
    """What a folder within one of a split says: a split of its own, else that one, or without any its own name."""
    return split if split and not is_split_folder(folder.name) else split_name(composed(folder.name))


def sections_below(images: Path, labels: Path, split: str = "") -> list[tuple[Path, Path, str]]:
    """The folders in one of images that have a partner in one of labels, of the same name or the same split.

    With each pair comes what `split_below` says of it; those for training are the first.
    """
    partners = {split_below(path): path for path in subfolders(labels)}
    inside = [(path, partners.get(split_below(path)), split_below(path, split)) for path in subfolders(images)]
    pairs = [(path, partner, said) for path, partner, said in inside if partner is not None]
    return sorted(pairs, key=lambda pair: SPLITS.index(pair[2]) if pair[2] in SPLITS else len(SPLITS))


def subfolder(folder: Path, *names: str) -> Path | None:
    """A subfolder by its name in lower case, however the disk writes it; the first of several names that is there."""
    inside = [path for path in folder.iterdir() if path.name.casefold() in names and path.is_dir()]
    return min(
        inside, key=lambda path: (names.index(path.name.casefold()), path.name != path.name.capitalize()), default=None
    )


@dataclass(frozen=True, slots=True)
class Section:
    """A folder whose images are all of one split unless a table says otherwise, and what its ``dataset.json`` says."""

    folder: Path
    described: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""


class Listing:
    """The files of a dataset by image name, what the format itself says of each, and the problems so far.

    Patient, slide and split: ``images.csv`` in the root, then what the format itself says, then ``dataset.json``, then
    a TCGA barcode in the image's name; without a split an image is for training. Scale: ``mpp``, then ``images.csv``,
    ``dataset.json``, the format itself, and the image's own metadata.
    """

    def __init__(self, root: Path, mpp: float | None) -> None:
        self.root, self.mpp = root, mpp
        self.described = read_json_object(root / "dataset.json")
        self._splits = stated_splits(self.described, root)
        self.name = dataset_name(root, self.described)
        self.problems: list[Problem] = []
        self.files: dict[str, tuple[Path, Path]] = {}
        self.said: dict[str, Row] = {}

    @property
    def classes(self) -> tuple[NucleusClass, ...]:
        """Those that the small files beside the data list."""
        return described_classes(self.root, self.described)

    def images(self, folder: Path) -> dict[str, Path]:
        return files_by_stem(folder, IMAGE_SUFFIXES, self.problems)

    def labels(self, folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
        return files_by_stem(folder, suffixes, self.problems, "label")

    def pairs(self, images: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, tuple[Path, Path]]:
        """Images and labels of one name; what is left over on either side becomes a problem, unless it has one."""
        reported = {problem.image for problem in self.problems}
        found = paired(images, labels)
        for image in sorted(images.keys() - found.keys() - reported, key=natural_key):
            self.report(image, "there is no label file of that name; it is left out.")
        for image in sorted(labels.keys() - set(found.values()) - reported, key=natural_key):
            self.report(image, "there are labels but no image of that name; add the image.")
        return {image: (images[image], labels[found[image]]) for image in images if image in found}

    def pairs_in(
        self, images: Path, labels: Path, suffixes: frozenset[str], but: Collection[str] = ()
    ) -> dict[str, tuple[Path, Path]]:
        """Images and labels of one name in two folders, as `pairs`; label files of some names (lower case) are none."""
        before, self.problems = self.problems, []
        pictures = self.images(images)
        files = self.labels(labels, suffixes)
        files = {name: path for name, path in files.items() if name in pictures or name.casefold() not in but}
        result = self.pairs(pictures, files)
        self.problems = before + self.problems
        return result

    def add(self, image: str, files: tuple[Path, Path], said: Row | None = None, folder: str = "") -> str:
        """Take in an image; returns its name, which begins with its ``folder`` where another one has that name.

        Of a folder in others, ``"Test/case 1"``, the last ones count, as many as it takes.
        """
        parts, name = composed(folder).split("/") if folder else [], image
        for count in range(1, len(parts) + 1):
            if image in self.said:
                image = "-".join([*parts[-count:], name])
        if image in self.said:
            raise HistomixError(f"{self.root} has two images named {image!r}; rename one, and its labels with it.")
        self.files[image], self.said[image] = files, said or Row()
        return image

    def report(self, image: str, sentence: str) -> None:
        """Add a problem, with the image's name in front of the sentence."""
        self.problems.append(Problem(image, f"{image}: {sentence}"))

    @contextmanager
    def reporting(self, image: str) -> Iterator[None]:
        """Report an image if what is done here raises HistomixError."""
        try:
            yield
        except HistomixError as error:
            self.problems.append(Problem(image, about(image, error)))

    @contextmanager
    def leaving_out(self, image: str) -> Iterator[None]:
        """Leave an image out, with its problem, if what is done here raises HistomixError."""
        try:
            yield
        except HistomixError as error:
            self.problems.append(Problem(image, about(image, error)))
            self.files.pop(image, None)

    def entry(self, image: str, files: tuple[Path, Path | None], section: Section, row: Row, kind: str = "") -> Entry:
        """The entry of an image, with what a table says about it."""
        said, described = self.said.get(image, Row()), section.described
        patient, slide = tcga_origin(image.rpartition("/")[2])
        split = row.split or split_name(said.split) or described_split(described, image, section.folder)
        split = split or section.split
        source = Source(
            dataset=self.name,
            image=image,
            split=self._splits.get(split, split) or "train",
            patient=row.patient or said.patient or patient,
            slide=row.slide or said.slide or slide,
        )
        mpp = row.mpp if self.mpp is None else self.mpp
        if mpp is None and described.get("mpp") is not None:
            mpp = checked_mpp(described["mpp"], f"dataset.json in {section.folder}")
        if mpp is None:
            mpp = read_mpp(files[0]) if said.mpp is None else said.mpp
        synthetic = is_flagged(files[0]) if row.synthetic is None else row.synthetic
        return Entry(source, *files, mpp, said.index, kind, synthetic)

    def dataset(self, classes: tuple[NucleusClass, ...], files: ImageFiles) -> Dataset:
        """The dataset of all files that ``images.csv`` is not wrong about."""
        images = {image: pixels for image, (pixels, _) in self.files.items()}
        table, section = self.root / TABLE, Section(self.root, self.described)
        rows = read_rows(table, images, self.problems) if table.is_file() else {}
        entries = [self.entry(image, self.files[image], section, rows.get(image, Row())) for image in images]
        return self.dataset_of(entries, classes, files)

    def dataset_of(
        self,
        entries: list[Entry],
        classes: tuple[NucleusClass, ...] = (),
        files: ImageFiles | None = None,
        kinds: tuple[str, ...] = (),
    ) -> Dataset:
        """The dataset of these entries, which must not be none."""
        if not entries:
            reason = f"; the first: {self.problems[0].sentence}" if self.problems else "."
            sentences = [problem.sentence for problem in self.problems]
            raise HistomixError(f"{self.root} has no image that could be used{reason}", problems=sentences)
        self.problems += split_problems(entries)
        ordered = sorted(entries, key=lambda entry: natural_order(entry.source.image))
        problems = tuple(self.problems)
        return Dataset(self.name, self.root, classes, tuple(ordered), problems, files or ImageFiles(), kinds)


def read_rows(
    path: Path, images: dict[str, Path], problems: list[Problem], *, with_types: bool = False
) -> dict[str, Row]:
    """What a table says by image name, and, ``with_types``, the type of each nucleus.

    A row without instance and type speaks of its image alone. A row that cannot be right, or contradicts another, is
    reported as a problem of its image, and that image is taken out of ``images``. The table may write "a.png" or "a";
    what it writes is only compared with the listing and never made into a path.
    """
    table = read_table(path, "image", *(("instance", "type") if with_types else ()))
    meanings = _meanings(images, path.parent)
    written = {composed(cells["image"]) for _, cells in table.rows}
    for image in images.keys() & meanings.keys():
        # A table that names all images of such a name by names of their own means this one by its own.
        if meanings[image] - {image} <= written:
            meanings[image] = {image}
    known = Lookup({name: next(iter(meant)) for name, meant in meanings.items() if len(meant) == 1})
    drafts: dict[str, RowDraft] = {}
    failed: set[str] = set()
    told: set[str] = set()
    for line, cells in table.rows:
        name = cells["image"]
        meaning = known.get(name)
        if name and meaning is None:
            meant = meanings.get(stated_path(name).name, set())
            sentence = "lists it but no such image is there; add it."
            if len(meant) > 1:
                sentence = (
                    f"lists it and {len(meant)} images have that name; write their folders too, as in test/a.png."
                )
            if name not in told:
                problems.append(Problem(name, f"{name}: {path.name} {sentence}"))
            told.add(name)
        image = meaning or ""
        if not image or image in failed:
            continue
        if sentence := drafts.setdefault(image, RowDraft()).add(cells):
            failed.add(image)
            images.pop(image, None)
            problems.append(Problem(image, f"{name}: {path.name}, line {line}: {sentence}"))
    return {image: draft.row() for image, draft in drafts.items() if image not in failed}


def _meanings(images: Mapping[str, Path], folder: Path) -> dict[str, set[str]]:
    """The images that a name in a table may mean: theirs or their files', with or without folders and suffix."""
    meanings: dict[str, set[str]] = {}
    for image, file in images.items():
        parts = file.relative_to(folder).parts if file.is_relative_to(folder) else (file.name,)
        paths = {
            PurePosixPath(*parts),
            *(PurePosixPath(part, file.name) for part in parts[:-1]),
            PurePosixPath(file.name),
        }
        for name in {image, *map(str, paths), *(str(path.with_suffix("")) for path in paths)}:
            meanings.setdefault(composed(name), set()).add(image)
    return meanings


@dataclass
class RowDraft:
    """What the rows read so far say about one image: its class, with ``of_class``, or else the types of its nuclei."""

    of_class: bool = False
    said: dict[str, str] = field(default_factory=dict)
    types: dict[int, str] = field(default_factory=dict)

    def add(self, row: Mapping[str, str]) -> str:
        """Take one more row in; returns what is wrong with it, or an empty string."""
        for column in ("class", *_COLUMNS) if self.of_class else _COLUMNS:
            value = row.get(column, "")
            if column == "split":
                value = split_name(value)
            if column == "synthetic":
                value = value.casefold()
            if column == "mpp":
                value = value.replace(",", ".")
            known = self.said.setdefault(column, value) if value else value
            if known != value and (column != "class" or known.casefold() != value.casefold()):
                return f"the {column} is {known} above and {value} here; keep one."
        try:
            checked_mpp(self.said.get("mpp", 1), "it")
        except HistomixError as error:
            return str(error)
        instance, kind = row.get("instance", ""), row.get("type", "")
        if self.of_class or (not instance and not kind):
            return ""
        number = whole_number(instance)
        if number is None or number < 1:
            return f"the instance {instance!r} is not a positive whole number."
        if kind and self.types.setdefault(number, kind) != kind:
            return f"instance {number} is of type {self.types[number]} above and {kind} here; keep one."
        return ""

    def row(self) -> Row:
        patient, slide, split, mpp, synthetic = (self.said.get(column, "") for column in _COLUMNS)
        flag = {"yes": True, "no": False}.get(synthetic)
        return Row(patient, slide, split, float(mpp) if mpp else None, self.types, flag)
