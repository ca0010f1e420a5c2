"""Write images that carry a class each: a folder for each class in a folder for each split, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_histomix.datasets.dataset_writer import write_csv
from napari_histomix.datasets.hovernet import write_dataset_json
from napari_histomix.datasets.tissue import TABLE
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, Names, safe_name, write_png
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass

NAME, TITLE = "class-folders", "One folder per class"
COLUMNS = ("image", "class", "patient", "slide", "split", "mpp", "synthetic")


class Writer:
    """Writes ``SPLIT/CLASS/NAME.png`` and, by which ``open_tissue`` reads it all back, images.csv and dataset.json.

    A training loop that takes folders for classes is given a split's folder. Characters of class and image names that
    a disk may refuse are replaced in folder and file names alone; images.csv keeps the classes as they are.

    Parameters
    ----------
    folder : Path
        There, and empty.
    name : str
        Of the dataset.
    classes : sequence of NucleusClass
        Instances are not written.
    """

    def __init__(self, folder: Path, name: str, classes: Sequence[NucleusClass] = ()) -> None:
        self.folder, self.name = folder, name
        # Never a folder of something else that lies beside those of the splits.
        self._splits = Names("origin", "ignore")
        self._classes = Names()
        self._folders: dict[tuple[str, str], str] = {}
        self._names: dict[str, Names] = {}
        self._rows: list[list[Any]] = []

    def add(self, image: LabeledImage, *, synthetic: bool, original: Path | None = None) -> str:
        """Write one image.

        Parameters
        ----------
        image : LabeledImage
        synthetic : bool
            Whether the file says that it is synthetic.
        original : Path, optional
            A file of these pixels, to be copied as it is.

        Returns
        -------
        str
            Its path in the folder, with ``/``.

        Raises
        ------
        HistomixError
            If it has no class, or the original cannot be read.
        """
        source = image.source
        if not image.kind:
            raise HistomixError(f"{source.image} has no class as a whole, which {NAME} need; choose another format.")
        split = source.split or "train"
        folder = f"{self._folder('split', split)}/{self._folder('class', image.kind)}"
        (self.folder / folder).mkdir(parents=True, exist_ok=True)
        whole, short = safe_name(source.image), safe_name(source.image.rpartition("/")[2])
        names = self._names.setdefault(folder, Names())
        if original is not None:
            file = f"{folder}/{names.unique(short, whole)}{original.suffix}"
            (self.folder / file).write_bytes(_content(original))
        else:
            wanted = (f"synthetic-{whole.removeprefix('synthetic-')}",) if synthetic else (short, whole)
            file = f"{folder}/{names.unique(*wanted)}.png"
            write_png(self.folder / file, image.pixels, image.mpp, synthetic)
        flag = "yes" if synthetic else "no"
        self._rows.append([file, image.kind, source.patient, source.slide, split, image.mpp, flag])
        return file

    def _folder(self, what: str, text: str) -> str:
        """The folder name of a split or a class."""
        if (what, text) not in self._folders:
            names = self._splits if what == "split" else self._classes
            self._folders[what, text] = names.unique(safe_name(text, what))
        return self._folders[what, text]

    def finish(self, **more: Any) -> None:
        """Write what comes after all images; ``more`` goes into dataset.json, plain JSON values."""
        write_csv(self.folder / TABLE, COLUMNS, self._rows)
        scales = {row[COLUMNS.index("mpp")] for row in self._rows}
        notice = {"notice": SYNTHETIC_NOTICE} if any(row[-1] == "yes" for row in self._rows) else {}
        write_dataset_json(
            self.folder, **{"name": self.name, "mpp": scales.pop() if len(scales) == 1 else None, **notice, **more}
        )


def _content(original: Path) -> bytes:
    try:
        return original.read_bytes()
    except OSError as error:
        # Not to be taken for a disk that cannot be written to.
        raise HistomixError(f"{original.name} cannot be read ({error.strerror or error}); mend it.") from None
