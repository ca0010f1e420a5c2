"""From files to entries: what all layouts share once they know which image belongs to which labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_histomix.datasets.entries import (
    Entry,
    Problem,
    Row,
    checked_mpp,
    classes_of,
    described_split,
    natural_key,
    read_json_object,
    read_type_info,
    split_name,
    tcga_origin,
)
from napari_histomix.datasets.pixels import is_flagged, read_mpp
from napari_histomix.datasets.tables import read_table, whole_number
from napari_histomix.records import HistomixError, NucleusClass, Source

TABLE = "images.csv"
UNCLASSIFIED, UNCLASSIFIED_COLOR = "unclassified", (160, 160, 160)
"""Class of nuclei without one, in formats that allow that: none of them is lost, and nobody has to use them."""
SPLIT_FOLDERS = ("train", "training", "test", "testing", "val", "valid", "validation")


def listed(
    root: Path,
    name: str,
    files: Mapping[str, tuple[Path, Path]],
    mpp: float | None,
    problems: list[Problem],
    *,
    said: Mapping[str, Row] | None = None,
    index: Mapping[str, int] | None = None,
) -> tuple[Entry, ...]:
    """The entries of a dataset that lies in one folder.

    Patient, slide and split: ``images.csv`` in the root, then what the format itself says, then ``dataset.json``, then
    a TCGA barcode in the image's name; without a split an image is for training. Scale: ``mpp``, then ``images.csv``,
    ``dataset.json``, the format itself, and the image's own metadata.

    Parameters
    ----------
    root : Path
    name : str
        The dataset's (see `dataset_name`).
    files : mapping of str to (image, labels)
        By image name.
    mpp : float, optional
        µm per pixel of all images, where a person said it.
    problems : list of Problem
        Added to; images that ``images.csv`` is wrong about are left out.
    said : mapping of str to Row, optional
        What the format itself says of an image.
    index : mapping of str to int, optional
        Places of images in files that hold many.

    Returns
    -------
    tuple of Entry
        In natural order of their names.

    Raises
    ------
    HistomixError
        If ``images.csv`` or ``dataset.json`` is broken, or no image is left.
    """
    described = read_json_object(root / "dataset.json")
    wanted = {image: paths[0] for image, paths in files.items()}
    table = root / TABLE
    rows = read_rows(table, wanted, problems) if table.is_file() else {}
    entries = [
        entry_of(
            image,
            files[image],
            name,
            rows.get(image, Row()),
            described,
            root,
            mpp,
            said=(said or {}).get(image, Row()),
            index=(index or {}).get(image, 0),
        )
        for image in wanted
    ]
    if not entries:
        raise nothing_left(root, problems)
    return in_order(entries)


def matched(
    images: Mapping[str, Path], labels: Mapping[str, Path], problems: list[Problem]
) -> dict[str, tuple[Path, Path]]:
    """Images and labels of one name; what is left over on either side becomes a problem, unless it has one already."""
    reported = {problem.image for problem in problems}
    for image in sorted(images.keys() - labels.keys() - reported, key=natural_key):
        problems.append(Problem(image, f"{image}: there is no label file of that name; it is left out."))
    for image in sorted(labels.keys() - images.keys() - reported, key=natural_key):
        problems.append(Problem(image, f"{image}: there are labels but no image of that name; add the image."))
    return {image: (images[image], labels[image]) for image in images if image in labels}


def in_order(entries: list[Entry]) -> tuple[Entry, ...]:
    """Entries in natural order of their images' names."""
    return tuple(sorted(entries, key=lambda entry: (natural_key(entry.source.image), entry.source.image)))


def nothing_left(root: Path, problems: list[Problem]) -> HistomixError:
    """The error about a dataset none of whose images can be used."""
    reason = f"; the first: {problems[0].sentence}" if problems else "."
    return HistomixError(f"{root} has no image that could be used{reason}")


def read_rows(
    path: Path, images: dict[str, Path], problems: list[Problem], *, with_types: bool = False
) -> dict[str, Row]:
    """What a table says by image name.

    A row without instance and type speaks of its image alone. A row that cannot be right, or contradicts another, is
    reported as a problem of its image, and that image is left out.

    Parameters
    ----------
    path : Path
        A CSV with the column ``image`` and, ``with_types``, ``instance`` and ``type``; optionally ``patient``,
        ``slide``, ``split``, ``mpp`` and ``synthetic``. It may write "a.png" or "a"; what it writes is only compared
        with the listing and never made into a path.
    images : dict of str to Path
        Image files by name; those the table is wrong about are taken out.
    problems : list of Problem
        Added to.
    with_types : bool
        Whether the table gives each nucleus its type.

    Raises
    ------
    HistomixError
        If the file is not a readable CSV or lacks a needed column.
    """
    table = read_table(path, "image", *(("instance", "type") if with_types else ()))
    stems = {file.name: image for image, file in images.items()} | {image: image for image in images}
    drafts: dict[str, RowDraft] = {}
    failed: set[str] = set()
    for line, cells in table.rows:
        written = cells["image"]
        if not written or written in failed:
            continue
        if sentence := drafts.setdefault(written, RowDraft()).add(cells):
            failed.add(written)
            image = stems.get(written, written)
            images.pop(image, None)
            problems.append(Problem(image, f"{written}: {path.name}, line {line}: {sentence}"))
    rows: dict[str, Row] = {}
    for written, draft in drafts.items():
        if written in failed:
            continue
        if written not in stems:
            problems.append(Problem(written, f"{written}: {path.name} lists it but no such image is there; add it."))
        elif stems[written] in rows:
            images.pop(stems[written], None)
            problems.append(Problem(written, f"{written}: {path.name} writes it with and without suffix; use one."))
        else:
            rows[stems[written]] = draft.row()
    return rows


class RowDraft:
    """What the rows read so far say about one image."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}
        self.types: dict[int, str] = {}

    def add(self, row: Mapping[str, str]) -> str:
        """Take one more row in; returns what is wrong with it, or an empty string."""
        for column in ("patient", "slide", "split", "mpp", "synthetic"):
            value = row.get(column, "")
            if column == "split":
                value = split_name(value)
            if column == "synthetic":
                value = value.casefold()
            if value and self.said.setdefault(column, value) != value:
                return f"the {column} is {self.said[column]} above and {value} here; keep one."
        if self.said.get("mpp"):
            try:
                checked_mpp(self.said["mpp"], "it")
            except HistomixError as error:
                return str(error)
        instance, kind = row.get("instance", ""), row.get("type", "")
        if not instance and not kind:
            return ""
        number = whole_number(instance)
        if number is None or number < 1:
            return f"the instance {instance!r} is not a positive whole number."
        if kind and self.types.setdefault(number, kind) != kind:
            return f"instance {number} is of type {self.types[number]} above and {kind} here; keep one."
        return ""

    def row(self) -> Row:
        mpp = self.said.get("mpp")
        said = self.said
        return Row(
            said.get("patient", ""),
            said.get("slide", ""),
            said.get("split", ""),
            float(mpp) if mpp else None,
            self.types,
            {"yes": True, "no": False}.get(said.get("synthetic", "")),
        )


def entry_of(
    image: str,
    files: tuple[Path, Path],
    dataset: str,
    row: Row,
    described: Mapping[str, Any],
    folder: Path,
    mpp: float | None,
    *,
    said: Row | None = None,
    split: str = "",
    index: int = 0,
) -> Entry:
    """The entry of one image.

    Parameters
    ----------
    image : str
    files : (image, labels)
    dataset : str
        Name of the dataset.
    row : Row
        What a table says.
    described : mapping
        What dataset.json says, which lies in ``folder``.
    folder : Path
    mpp : float, optional
        As a person gave it.
    said : Row, optional
        What the format itself says.
    split : str
        Of the folder the image lies in.
    index : int

    Raises
    ------
    HistomixError
        If dataset.json gives an impossible scale or split.
    """
    said = said or Row()
    patient, slide = tcga_origin(image)
    source = Source(
        dataset=dataset,
        image=image,
        split=row.split or split_name(said.split) or described_split(described, image, folder) or split or "train",
        patient=row.patient or said.patient or patient,
        slide=row.slide or said.slide or slide,
    )
    if mpp is None:
        mpp = row.mpp
    if mpp is None and described.get("mpp") is not None:
        mpp = checked_mpp(described["mpp"], f"dataset.json in {folder}")
    if mpp is None:
        mpp = said.mpp
    if mpp is None:
        mpp = read_mpp(files[0])
    return Entry(source, *files, mpp, index, synthetic=is_synthetic(files[0], row))


def is_synthetic(image: Path, row: Row) -> bool:
    """Whether an image holds synthetic pixels, by its table or, where that does not say, by its own description."""
    return is_flagged(image) if row.synthetic is None else row.synthetic


def dataset_name(root: Path, described: Mapping[str, Any]) -> str:
    """Name by what ``dataset.json`` says, else the folder's."""
    name = described.get("name", "")
    return name.strip() if isinstance(name, str) and name.strip() else root.name


def described_classes(root: Path, described: Mapping[str, Any]) -> tuple[NucleusClass, ...]:
    """Classes by ``type_info.json``, else by ``classes`` in ``dataset.json``, of the same form; empty without either.

    Raises
    ------
    HistomixError
        If what is there is of another form.
    """
    found = read_type_info(root / "type_info.json")
    written = described.get("classes")
    if found or written is None:
        return found
    where = f"dataset.json in {root}, classes"
    if not isinstance(written, dict):
        raise HistomixError(f'{where}: they must read {{"number": ["name", [red, green, blue]], …}}.')
    return classes_of(written, where)


def subfolder(folder: Path, *names: str) -> Path | None:
    """A subfolder by its name in lower case, however the disk writes it; the first of several names that is there."""
    inside = [path for path in folder.iterdir() if path.name.casefold() in names and path.is_dir()]
    for name in names:
        found = [path for path in inside if path.name.casefold() == name]
        if found:
            return min(found, key=lambda path: path.name != name.capitalize())
    return None
