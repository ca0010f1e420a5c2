"""A dataset that is being written in any format: the format's own files, images.csv, dataset.json and its card."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from napari_histomix import __version__
from napari_histomix.datasets.dataset import SYNTHETIC_KEY, Dataset, inner_pixels, no_image
from napari_histomix.datasets.entries import TABLE, read_json_object
from napari_histomix.datasets.formats import FORMATS, Format, format_of
from napari_histomix.datasets.pixels import orientation_of
from napari_histomix.datasets.text_files import write_table
from napari_histomix.datasets.writing import (
    SYNTHETIC_NOTICE,
    Names,
    check_place,
    complete_or_absent,
    safe_name,
    write_dataset_json,
    write_text,
)
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, NucleusClass
from napari_histomix.weights import bundled

COLUMNS = ("image", "patient", "slide", "split", "mpp", "synthetic")

_NOTICES = frozenset({"LICENSE", "LICENCE", "NOTICE", "COPYING"})


class WrittenDataset:
    """Writes images through a format's ``Writer``, under names that every disk takes, and lists them.

    Which nuclei are synthetic (``LabeledImage.synthetic``) is kept in ``dataset.json``, whatever the format, so that
    the dataset knows it when it is opened again. The class ``unclassified`` is written where a nucleus is of it.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        classes: Sequence[NucleusClass],
        format: str,
        kinds: Sequence[str] = (),
        unclassified: NucleusClass | None = None,
    ) -> None:
        self.folder = folder
        self._unclassified = unclassified
        self._format = checked_format(format, classes, kinds)
        self._writer = self._format.writer()(folder, name, classes, kinds)
        self._names = Names()
        self._columns = (COLUMNS[0], "class", *COLUMNS[1:]) if kinds else COLUMNS
        self._rows: list[list[Any]] = []
        self._synthetic: dict[str, list[list[int]]] = {}

    def add(self, image: LabeledImage, *, synthetic: bool, original: Path | None = None) -> str:
        """Write one image, whose file is ``original`` if it is unchanged; returns the name or path that it got."""
        source, split = image.source, image.source.split or "train"
        # Class folders make their own names, of which each is unique in its folder.
        name = self._names.unique(safe_name(source.image)) if self._format.holds == "nuclei" else source.image
        renamed = replace(image, source=replace(source, image=name, split=split))
        self._include_unclassified(image)
        path = self._writer.add(renamed, synthetic=synthetic, original=original)
        kind = [image.kind] if "class" in self._columns else []
        facts = (source.patient, source.slide, split, image.mpp, "yes" if synthetic else "no")
        self._rows.append([path, *kind, *facts])
        if self._format.holds == "nuclei" and (synthetic or image.synthetic):
            self._synthetic[path] = inner_pixels(image)
        return path

    def _include_unclassified(self, image: LabeledImage) -> None:
        known = self._unclassified
        if known is None or known in self._writer.classes or self._format.holds != "nuclei":
            return
        if known.number in image.counts():
            try:
                self._writer.include(known)
            except HistomixError:
                raise HistomixError(
                    f"{image.source.image} has nuclei of no class, and the format {self._format.name} has none for "
                    "them; give them one, or choose another format."
                ) from None

    def finish(self, **more: Any) -> None:
        """Write what comes after all images; ``more`` goes into dataset.json, plain JSON values."""
        self._writer.finish()
        write_table(self.folder / TABLE, self._columns, self._rows)
        content = read_json_object(self.folder / "dataset.json") | more
        if self._synthetic:
            content[SYNTHETIC_KEY] = self._synthetic
        write_dataset_json(self.folder, **content)


def checked_format(format: str, classes: Sequence[NucleusClass], kinds: Sequence[str] = ()) -> Format:
    """A format that can hold what a dataset has."""
    known = format_of(format)
    if known.holds == "kinds" and not kinds:
        raise HistomixError(f"{known.title} need a class for each image, and these have none; choose another format.")
    if known.holds == "nuclei" and kinds and not classes:
        raise HistomixError(
            f"The format {format} holds labeled nuclei, and these images have none; choose class-folders."
        )
    return known


def described(root: Path) -> dict[str, str]:
    """What dataset.json takes over from the source in a folder: its license, and what it is derived from."""
    content = read_json_object(root / "dataset.json")
    return {key: content[key] for key in ("license", "derived_from") if isinstance(content.get(key), str)}


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


@dataclass(frozen=True, slots=True)
class Converted:
    """What was converted: how many images and nuclei (by class name), and why some images were left out.

    ``notes`` are sentences about what reading the others had to tell, such as objects that are lost.
    """

    images: int
    nuclei: Mapping[str, int]
    skipped: Mapping[str, str]
    notes: tuple[str, ...] = ()


def convert(dataset: Dataset, out: Path, format: str) -> Job[Converted]:
    """Write all splits of a dataset in another format; a long job (see ``records.Job``).

    Images and nuclei that an earlier export marked as synthetic stay marked. ``out``, which must not be there yet, is
    written beside its place and renamed at the end. The same arguments give the same bytes.
    """
    out = Path(out)
    checked_format(format, dataset.classes, dataset.kinds)
    check_place(out)
    nuclei: Counter[int] = Counter()
    skipped: dict[str, str] = {}
    notes: list[str] = []
    marked = False
    total = len(dataset.entries)
    with complete_or_absent(out) as folder:
        writer = WrittenDataset(folder, dataset.name, dataset.classes, format, dataset.kinds, dataset.unclassified)
        for number, entry in enumerate(dataset.entries):
            yield Event("Writing images", number, total)
            try:
                image = dataset.read(entry)
            except HistomixError as error:
                skipped[entry.source.image] = str(error)
                continue
            # A copy of the file would still be turned by its EXIF data.
            original = entry.image if orientation_of(entry.image) == 1 else None
            writer.add(image, synthetic=entry.synthetic, original=original)
            marked |= entry.synthetic
            nuclei += image.counts()
            notes += (note.sentence for note in image.notes)
        if len(skipped) == total:
            raise no_image(dataset, [*(problem.sentence for problem in dataset.problems), *skipped.values()])
        yield Event("Writing the tables", total, total)
        writer.finish(**described(dataset.root), **({"notice": SYNTHETIC_NOTICE} if marked else {}), format=format)
        copy_notices(dataset.root, folder)
        if notes:
            text = [
                f"# {_line(dataset.name)}",
                f"Converted by napari-histomix {__version__}.",
                "## Notes",
                _list(few_notes(notes)),
            ]
            write_text(folder / "README.md", "\n\n".join(text) + "\n")
    classes = dataset.all_classes if nuclei[dataset.unclassified.number] else dataset.classes
    counts = {known.name: nuclei[known.number] for known in classes}
    return Converted(total - len(skipped), counts, skipped, tuple(notes))


_LICENSES = {"apache-2.0", "bsd-3-clause", "cc0-1.0", "mit"} | {
    f"cc-by{terms}-4.0" for terms in ("", "-nc", "-nc-nd", "-nc-sa", "-nd", "-sa")
}
"""Identifiers that the Hugging Face hub knows and that images are published under; others are "other" with a name."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

_READING = {
    "hovernet": "`Labels/NAME.mat` holds `inst_map`, `type_map`, `inst_type` and `inst_centroid` of `Images/NAME.png`; "
    "HoVer-Net's own loader for CoNSeP opens it.",
    "hovernet-json": "Each JSON file has HoVer-Net's own output form: contour, bounding box, centroid and type per "
    "nucleus.",
    "pannuke": "`images.npy`, `types.npy` and `masks.npy` as PanNuke's folds have them; load them with "
    "`numpy.load(path, mmap_mode='r')`.",
    "aperio-xml": "Each image has an Aperio XML file of its name; a `Region` is a nucleus, the `Annotation` it lies "
    "in says the class.",
    "qupath": "Open an image in QuPath and drop its GeoJSON file on it.",
    "coco": "`pycocotools.coco.COCO('annotations/instances_train.json')`; category ids are the class numbers.",
    "yolo": "`yolo segment train data=data.yaml`, with the folder's own path in `data.yaml`.",
    "tiff-pairs": "An image in `images` and the label image of the same name in `masks`: what the StarDist examples "
    "load. `types.csv` lists the class of every instance.",
    "ome-zarr": "Drop a `.zarr` folder on napari with napari-ome-zarr; the nuclei are its labels `nuclei`, and the "
    "label metadata hold the class of every instance.",
    "plain": "`labels` holds a label image for each image, `class_maps` a map of class numbers, `types.csv` the class "
    "of every instance.",
    "class-folders": "Give a training loop that takes folders for classes the folder of a split: "
    "`torchvision.datasets.ImageFolder('train')`. `images.csv` lists the class, patient and slide of every image.",
}
"""How others read each format, by its name."""


def write_card(
    folder: Path,
    *,
    name: str,
    format: str,
    counts_before: Mapping[str, int],
    counts_after: Mapping[str, int],
    counts_synthetic: Mapping[str, int],
    images: int,
    synthetic_images: int,
    synthetic_nuclei: int | None,
    methods: Sequence[str],
    models: Sequence[Mapping[str, str]],
    license: str,
    source: str,
    notes: Sequence[str],
) -> None:
    """Write ``README.md``: what the dataset holds, how it was made, and that it is not for diagnosis.

    The head is that of a Hugging Face dataset card (https://huggingface.co/docs/hub/datasets-cards).
    """
    counts = []
    for kind in dict.fromkeys([*counts_before, *counts_after]):
        before, after, synthetic = (part.get(kind, 0) for part in (counts_before, counts_after, counts_synthetic))
        counts.append((kind, f"{before:,}", f"{after:,}", f"{after - before:+,}", f"{synthetic:,}"))
    facts = [tuple(model.get(key) or "not stated" for key in ("name", "sha256", "license")) for model in models]
    tissue = synthetic_nuclei is None
    held = "" if tissue else f"; they hold {synthetic_nuclei:,} synthetic nuclei"
    parts = [
        f"---\n# {SYNTHETIC_NOTICE}\n{_head(name, license, images, tissue)}---",
        f"# {_line(name)}",
        f"**{SYNTHETIC_NOTICE}.** Of {images:,} images, {synthetic_images:,} have pixels that no microscope saw{held}. "
        "For training and research alone.",
        "## Classes",
        _table(("class", "before", "after", "change", "synthetic of them"), counts),
        "## How it was made",
        _list(methods) or "Nothing says how.",
        "## Models",
        _table(("model", "SHA-256", "license"), facts) if facts else "No network took part.",
        "## Source and license",
        f"Real images: {_line(source) or 'not stated'}. License of the source: {_line(license) or 'not stated'}. "
        "It governs what this dataset may be used for, as do the licenses of the models.",
        "## How to read it",
        f"Format: {FORMATS[format].title}. {_READING[format]}",
        '```python\nfrom napari_histomix.datasets import open_any\n\ndataset = open_any("path/to/this/folder")\n```',
        *(["## Notes", _list(notes)] if notes else []),
        f"Written by napari-histomix {__version__}.",
    ]
    write_text(Path(folder) / "README.md", "\n\n".join(parts) + "\n")


def models_of(provenances: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Name, SHA-256 and, where it is known, license of every network that took part, for the dataset card."""
    folders = (path.parent for path in bundled().parent.glob("*/histomix.json"))
    ours = {read_json_object(folder / "histomix.json").get("sha256") for folder in folders}
    models: dict[tuple[str, str], dict[str, str]] = {}
    for provenance in provenances:
        name, sha256 = str(provenance.get("model", "")), str(provenance.get("model_sha256", ""))
        if name or sha256:
            # Bundled models have the license of the package.
            license = "BSD-3-Clause" if sha256 and sha256 in ours else ""
            models.setdefault((name, sha256), {"name": name, "sha256": sha256, "license": license})
    return [models[key] for key in sorted(models)]


def _head(name: str, license: str, images: int, tissue: bool) -> str:
    """The YAML lines of the head."""
    identifier = "-".join(license.casefold().split()) or "unknown"
    known = identifier in (*_LICENSES, "unknown")
    stated = {"license": identifier} if known else {"license": "other", "license_name": _line(license)}
    head = {
        "pretty_name": _line(name),
        **stated,
        "task_categories": ["image-classification" if tissue else "image-segmentation"],
        "tags": ["synthetic", "histopathology", "h-and-e", "napari-histomix"],
        "size_categories": [next((words for limit, words in _SIZES if images < limit), "n>1M")],
    }
    return str(yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000))


MOST_NOTES = 20
"""Sentences about what reading had to tell that a card holds."""


def few_notes(notes: Sequence[str]) -> list[str]:
    """The first sentences of a card, and how many more there are."""
    more = len(notes) - MOST_NOTES
    return [
        *notes[:MOST_NOTES],
        *([f"And {more:,} more; `histomix inspect` of the source shows all."] if more > 0 else []),
    ]


def _line(text: str) -> str:
    """Text as one line."""
    return " ".join(str(text).split())


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {_line(item)}" for item in items)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    # A bar in a class's name would begin another cell.
    return "\n".join("| " + " | ".join(_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
