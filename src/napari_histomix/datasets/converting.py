"""Write a dataset in another format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.dataset_writer import SyntheticFlags, WrittenDataset, check_place, copy_notices, described
from napari_histomix.datasets.formats import format_of
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, complete_or_absent
from napari_histomix.records import Event, HistomixError, Job


@dataclass(frozen=True, slots=True)
class Converted:
    """What was converted: how many images and nuclei (by class name), and why some images were left out."""

    images: int
    nuclei: Mapping[str, int]
    skipped: Mapping[str, str]


def convert(dataset: Dataset, out: Path, format: str) -> Job[Converted]:
    """Write all splits of a dataset in another format; a long job (see ``records.Job``).

    Images that an earlier export marked as synthetic stay marked. ``out`` is written beside its place and renamed at
    the end. The same arguments give the same bytes.

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
    format_of(format)
    check_place(out)
    nuclei: Counter[int] = Counter()
    skipped: dict[str, str] = {}
    flags, marked = SyntheticFlags(dataset), False
    total = len(dataset.entries)
    with complete_or_absent(out) as folder:
        written = WrittenDataset(folder, dataset.name, dataset.classes, format)
        for number, entry in enumerate(dataset.entries):
            name = entry.source.image
            yield Event("Writing images", number, total)
            try:
                image = dataset.read(entry)
            except HistomixError as error:
                skipped[name] = str(error)
                continue
            synthetic = flags.of(entry)
            written.add(image, synthetic=synthetic)
            marked |= synthetic
            nuclei += image.counts()
        if len(skipped) == total:
            raise HistomixError(f"No image of {dataset.name} can be read; the first: {next(iter(skipped.values()))}")
        yield Event("Writing the tables", total, total)
        written.finish(**described(dataset.root), **({"notice": SYNTHETIC_NOTICE} if marked else {}), format=format)
        copy_notices(dataset.root, folder)
    return Converted(total - len(skipped), {one.name: nuclei[one.number] for one in dataset.classes}, skipped)
