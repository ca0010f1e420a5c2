"""Pairs of an image and its label image, as StarDist and Cellpose train on them.

StarDist's examples have the folders ``images`` and ``masks`` with files of one name; Cellpose has ``NAME.tif`` and
``NAME_masks.tif`` in one folder (https://cellpose.readthedocs.io/en/latest/train.html). Neither knows classes:
``types.csv`` beside them says them, and without it all nuclei are of one.
"""

from __future__ import annotations

from pathlib import Path

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.entries import Row, named_classes
from napari_histomix.datasets.formats.plain import TYPES_TABLE, LabelFiles, TypedWriter, classes_of, listed_types
from napari_histomix.datasets.listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, Listing, read_rows, sections_of, subfolder
from napari_histomix.datasets.writing import smallest_ids, write_tiff, write_tiff_image
from napari_histomix.records import HistomixError, LabeledImage

_MASKS = ("_masks", "_cp_masks")
_NO_IMAGES = ("_masks", "_flows", "_flows_0", "_flows_1", "_flows_2", "_cellprob", "_cp_output")
"""What Cellpose writes beside an image and does not take for one (``cellpose.io.get_image_files``)."""


def recognizes(root: Path) -> bool:
    """Whether the folder, or one for a split in it, has ``images`` and ``masks``, or ``NAME`` and ``NAME_masks``."""
    return any(_is_pairs(folder) for folder, _ in sections_of(root))


def open(root: Path, mpp: float | None) -> Dataset:
    """List the pairs."""
    listing = Listing(root, mpp)
    for folder, split in sections_of(root):
        if _is_pairs(folder):
            for image, pair in _pairs(folder, listing).items():
                listing.add(image, pair, Row(split=split), folder.name)
    table, classes = root / TYPES_TABLE, listing.classes
    if table.is_file():
        images = {image: pair[0] for image, pair in listing.files.items()}
        rows = read_rows(table, images, listing.problems, with_types=True)
        classes = classes or classes_of({kind for row in rows.values() for kind in row.types.values()}, table)
        listing.files = {image: listing.files[image] for image in images}
        types = listed_types(listing, {image: row.types for image, row in rows.items()}, classes)
        return listing.dataset(classes, LabelFiles(types))
    classes = classes or named_classes("nucleus")
    if len(classes) > 1:
        raise HistomixError(
            f"{root} has {len(classes)} classes but nothing says which nucleus is of which; add "
            f"{TYPES_TABLE} with the columns image, instance, type."
        )
    return listing.dataset(classes, LabelFiles(untyped=classes[0].number))


def _is_pairs(folder: Path) -> bool:
    if subfolder(folder, "images") and subfolder(folder, "masks"):
        return subfolder(folder, "labels") is None
    names = {path.stem for path in folder.iterdir() if path.suffix.casefold() in IMAGE_SUFFIXES}
    return any(name + ending in names for name in names for ending in _MASKS)


def _pairs(folder: Path, listing: Listing) -> dict[str, tuple[Path, Path]]:
    """Image and label file by image name; what has no partner is reported."""
    images_folder, masks_folder = subfolder(folder, "images"), subfolder(folder, "masks")
    if images_folder and masks_folder:
        images = listing.images(images_folder)
        masks = listing.labels(masks_folder, LABEL_SUFFIXES)
    else:
        files = listing.images(folder)
        images = {stem: path for stem, path in files.items() if not stem.endswith(_NO_IMAGES)}
        masks = {}
        # What a person drew goes before what Cellpose found, which ends with _cp_masks.
        for stem, path in sorted(files.items(), key=lambda item: item[0].endswith(_MASKS[1])):
            bases = [stem.removesuffix(ending) for ending in _MASKS if stem.endswith(ending)]
            if bases and path.suffix.casefold() in LABEL_SUFFIXES:
                masks.setdefault(next((base for base in bases if base in images), bases[0]), path)
    if not images and not masks:
        listing.report(folder.name, "there is no pair of an image and its label image in it.")
    return listing.pairs(images, masks)


class Writer(TypedWriter):
    """Writes ``images/NAME.tif`` and ``masks/NAME.tif``, the classes beside them, and ``dataset.json``.

    Ids are uint16, or int32 where there are larger ones.
    """

    parts = ("images", "masks")

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        file = f"{image.source.image}.tif"
        write_tiff_image(self.folder / "images" / file, image, synthetic)
        write_tiff(self.folder / "masks" / file, smallest_ids(image.instances))
        self.list_types(image)
