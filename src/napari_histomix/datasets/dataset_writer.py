"""A dataset that is being written in any format: the format's own files, images.csv and dataset.json beside them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.entries import read_json_object
from napari_histomix.datasets.formats import Format, format_of
from napari_histomix.datasets.listing import TABLE
from napari_histomix.datasets.synthetic import SYNTHETIC_KEY, inner_pixels
from napari_histomix.datasets.tables import write_table
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, Names, complete_or_absent, safe_name, write_dataset_json
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, NucleusClass

COLUMNS = ("image", "patient", "slide", "split", "mpp", "synthetic")

_NOTICES = frozenset({"LICENSE", "LICENCE", "NOTICE", "COPYING"})


class WrittenDataset:
    """Writes images through a format's ``Writer``, under names that every disk takes, and lists them.

    Which nuclei are synthetic (``LabeledImage.synthetic``) is kept in ``dataset.json``, whatever the format, so that
    the dataset knows it when it is opened again.

    Parameters
    ----------
    folder : Path
        There, and empty.
    name : str
        Of the dataset.
    classes : sequence of NucleusClass
    format : str
        A key of ``formats.FORMATS``.
    kinds : sequence of str
        Classes of images as a whole.

    Raises
    ------
    HistomixError
        If there is no such format, or it cannot hold the classes.
    """

    def __init__(
        self, folder: Path, name: str, classes: Sequence[NucleusClass], format: str, kinds: Sequence[str] = ()
    ) -> None:
        self.folder, self.name = folder, name
        self._format = checked_format(format, classes, kinds)
        self._writer = self._format.writer()(folder, name, classes, kinds)
        self._names = Names()
        self._columns = (COLUMNS[0], "class", *COLUMNS[1:]) if kinds else COLUMNS
        self._rows: list[list[Any]] = []
        self._scales: set[float] = set()
        self._synthetic: dict[str, list[list[int]]] = {}

    def add(self, image: LabeledImage, *, synthetic: bool, original: Path | None = None) -> str:
        """Write one image.

        Parameters
        ----------
        image : LabeledImage
        synthetic : bool
            Whether it holds synthetic pixels.
        original : Path, optional
            The file of an image whose pixels are unchanged, which class folders get a copy of.

        Returns
        -------
        str
            The name that it has in the dataset that is written; in class folders the path of its file.
        """
        source, split = image.source, image.source.split or "train"
        # Class folders make their own names, of which each is unique in its folder.
        name = self._names.unique(safe_name(source.image)) if self._format.holds == "nuclei" else source.image
        renamed = replace(image, source=replace(source, image=name, split=split))
        written = self._writer.add(renamed, synthetic=synthetic, original=original)
        kind = [image.kind] if "class" in self._columns else []
        facts = (source.patient, source.slide, split, image.mpp, "yes" if synthetic else "no")
        self._rows.append([written, *kind, *facts])
        self._scales.add(image.mpp)
        if self._format.holds == "nuclei" and (synthetic or image.synthetic):
            self._synthetic[written] = inner_pixels(image)
        return written

    def finish(self, **more: Any) -> None:
        """Write what comes after all images; ``more`` goes into dataset.json, plain JSON values."""
        self._writer.finish()
        write_table(self.folder / TABLE, self._columns, self._rows)
        said = read_json_object(self.folder / "dataset.json")
        said |= {"name": self.name, "mpp": self._scales.pop() if len(self._scales) == 1 else None, **more}
        if self._synthetic:
            said[SYNTHETIC_KEY] = self._synthetic
        write_dataset_json(self.folder, **said)


def checked_format(format: str, classes: Sequence[NucleusClass], kinds: Sequence[str] = ()) -> Format:
    """A format that can hold what a dataset has.

    Parameters
    ----------
    format : str
        A key of ``formats.FORMATS``.
    classes : sequence of NucleusClass
    kinds : sequence of str
        Classes of images as a whole.

    Raises
    ------
    HistomixError
        If there is no such format, or it holds nuclei and the dataset has none, or classes of images and it has none.
    """
    found = format_of(format)
    if found.holds == "kinds" and not kinds:
        raise HistomixError(f"{found.title} need a class for each image, and these have none; choose another format.")
    if found.holds == "nuclei" and kinds and not classes:
        raise HistomixError(
            f"The format {format} holds labeled nuclei, and these images have none; choose class-folders."
        )
    return found


def described(root: Path) -> dict[str, str]:
    """What dataset.json takes over from the source in a folder: its license, and what it is derived from."""
    said = read_json_object(root / "dataset.json")
    return {key: said[key] for key in ("license", "derived_from") if isinstance(said.get(key), str)}


def copy_notices(source: Path, folder: Path) -> None:
    """Copy the source's license and notice files: most licenses ask that they go wherever the images go."""
    for path in sorted(source.iterdir()):
        if path.stem.upper() in _NOTICES and path.suffix.casefold() in ("", ".txt", ".md") and path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())


def check_format(format: str, classes: Sequence[NucleusClass], kinds: Sequence[str] = ()) -> None:
    """Raise HistomixError if there is no such format, or it cannot hold the classes: before long work, not after it."""
    writer = checked_format(format, classes, kinds).writer()
    with tempfile.TemporaryDirectory(prefix="histomix-") as folder:
        writer(Path(folder), "trial", classes, kinds)


def check_place(out: Path) -> None:
    """Raise HistomixError if something lies where a new folder is to be written: before long work, not after it."""
    if out.exists():
        raise HistomixError(f"{out} already exists; name a new folder.")


@dataclass(frozen=True, slots=True)
class Converted:
    """What was converted: how many images and nuclei (by class name), and why some images were left out."""

    images: int
    nuclei: Mapping[str, int]
    skipped: Mapping[str, str]


def convert(dataset: Dataset, out: Path, format: str) -> Job[Converted]:
    """Write all splits of a dataset in another format; a long job (see ``records.Job``).

    Images and nuclei that an earlier export marked as synthetic stay marked. ``out`` is written beside its place and
    renamed at the end. The same arguments give the same bytes.

    Parameters
    ----------
    dataset : Dataset
    out : Path
        A folder that is not there yet.
    format : str
        A key of ``formats.FORMATS``.

    Returns
    -------
    Converted

    Raises
    ------
    HistomixError
        If ``out`` exists, the format cannot hold the dataset, no image can be read, or the disk is full.
    """
    out = Path(out)
    checked_format(format, dataset.classes, dataset.kinds)
    check_place(out)
    nuclei: Counter[int] = Counter()
    skipped: dict[str, str] = {}
    marked = False
    total = len(dataset.entries)
    with complete_or_absent(out) as folder:
        written = WrittenDataset(folder, dataset.name, dataset.classes, format, dataset.kinds)
        for number, entry in enumerate(dataset.entries):
            name = entry.source.image
            yield Event("Writing images", number, total)
            try:
                image = dataset.read(entry)
            except HistomixError as error:
                skipped[name] = str(error)
                continue
            written.add(image, synthetic=entry.synthetic, original=entry.image)
            marked |= entry.synthetic
            nuclei += image.counts()
        if len(skipped) == total:
            raise HistomixError(f"No image of {dataset.name} can be read; the first: {next(iter(skipped.values()))}")
        yield Event("Writing the tables", total, total)
        written.finish(**described(dataset.root), **({"notice": SYNTHETIC_NOTICE} if marked else {}), format=format)
        copy_notices(dataset.root, folder)
    return Converted(total - len(skipped), {one.name: nuclei[one.number] for one in dataset.classes}, skipped)
