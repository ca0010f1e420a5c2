"""A dataset that is being written in any format: the format's own files, images.csv and dataset.json beside them."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.entries import Entry, read_json_object
from napari_histomix.datasets.formats import format_of
from napari_histomix.datasets.hovernet import write_dataset_json
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, Names, safe_name
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass

TABLE = "images.csv"
COLUMNS = ("image", "patient", "slide", "split", "mpp", "synthetic")

_NOTICES = frozenset({"LICENSE", "LICENCE", "NOTICE", "COPYING"})


class WrittenDataset:
    """Writes labeled images through a format's ``Writer``, under names that every disk takes, and lists them.

    Parameters
    ----------
    folder : Path
        There, and empty.
    name : str
        Of the dataset.
    classes : sequence of NucleusClass
    format : str
        A key of ``formats.FORMATS``.

    Raises
    ------
    HistomixError
        If there is no such format, or it cannot hold the classes.
    """

    def __init__(self, folder: Path, name: str, classes: Sequence[NucleusClass], format: str) -> None:
        self.folder, self.name = folder, name
        self._writer = format_of(format).writer()(folder, name, classes)
        self._names = Names()
        self._rows: list[list[Any]] = []

    def add(self, image: LabeledImage, *, synthetic: bool, original: Path | None = None) -> str:
        """Write one image; returns the name it has in the dataset that is written."""
        source = image.source
        name = self._names.unique(safe_name(source.image))
        split = source.split or "train"
        renamed = replace(image, source=replace(source, image=name, split=split))
        self._writer.add(renamed, synthetic=synthetic)
        self._rows.append([name, source.patient, source.slide, split, image.mpp, "yes" if synthetic else "no"])
        return name

    def finish(self, **more: Any) -> None:
        """Write what comes after all images; ``more`` goes into dataset.json, plain JSON values."""
        self._writer.finish()
        write_csv(self.folder / TABLE, COLUMNS, self._rows)
        scales = {row[COLUMNS.index("mpp")] for row in self._rows}
        said = read_json_object(self.folder / "dataset.json")
        said |= {"name": self.name, "mpp": scales.pop() if len(scales) == 1 else None, **more}
        write_dataset_json(self.folder, **said)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, in UTF-8 with plain line ends."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


class SyntheticFlags:
    """Which images of a dataset hold synthetic pixels, by its images.csv or what their own files say.

    Raises
    ------
    HistomixError
        If there is an images.csv and it cannot be read.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._listed: set[str] = set()
        table = dataset.root / TABLE
        if not table.is_file():
            return
        try:
            with table.open(newline="", encoding="utf-8-sig") as stream:
                rows = csv.DictReader(stream)
                self._listed = {row.get("image") or "" for row in rows if row.get("synthetic") == "yes"}
        except (OSError, UnicodeDecodeError, csv.Error):
            raise HistomixError(f"{table} cannot be read; save it as a CSV in UTF-8.") from None

    def of(self, entry: Entry) -> bool:
        """Whether an image holds synthetic pixels."""
        return entry.source.image in self._listed or is_flagged(entry.image)


def is_flagged(path: Path) -> bool:
    """Whether a PNG or TIFF file says in its description that it is synthetic."""
    try:
        with Image.open(path, formats=["PNG", "TIFF"]) as image:
            tags = getattr(image, "tag_v2", {})
            described = (image.info.get("Description", ""), tags.get(270, ""))
    except Exception:  # decoders raise anything on a broken header, and many formats lie in other files
        return False
    return any(SYNTHETIC_NOTICE in str(one) for one in described)


def described(root: Path) -> dict[str, str]:
    """What dataset.json takes over from the source in a folder: its license, and what it is derived from."""
    said = read_json_object(root / "dataset.json")
    return {key: said[key] for key in ("license", "derived_from") if isinstance(said.get(key), str)}


def copy_notices(source: Path, folder: Path) -> None:
    """Copy the source's license and notice files: most licenses ask that they go wherever the images go."""
    for path in sorted(source.iterdir()):
        if path.stem.upper() in _NOTICES and path.suffix.casefold() in ("", ".txt", ".md") and path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())


def check_format(format: str, classes: Sequence[NucleusClass]) -> None:
    """Raise HistomixError if there is no such format, or it cannot hold the classes: before long work, not after it."""
    writer = format_of(format).writer()
    with tempfile.TemporaryDirectory(prefix="histomix-") as folder:
        writer(Path(folder), "trial", classes)


def check_place(out: Path) -> None:
    """Raise HistomixError if something lies where a new folder is to be written: before long work, not after it."""
    if out.exists():
        raise HistomixError(f"{out} already exists; name a new folder.")
