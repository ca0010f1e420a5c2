"""Open images whose labels, if there are any, do not matter: for what finds nuclei by itself."""

from __future__ import annotations

from pathlib import Path

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.entries import TABLE, Row, checked_mpp
from napari_histomix.datasets.formats import recognized
from napari_histomix.datasets.listing import Listing, Section, folder_split, folders_below, read_rows
from napari_histomix.datasets.names import composed
from napari_histomix.datasets.opening import open_dataset
from napari_histomix.datasets.pixels import is_gray
from napari_histomix.datasets.text_files import readable
from napari_histomix.records import HistomixError


def open_images(path: Path | str, mpp: float | None = None) -> Dataset:
    """Open color images, labeled or not.

    Parameters
    ----------
    path : path
        An image file; a folder, searched four folders deep, of which label images are left aside; or a dataset of any
        format, whose images keep their splits, patients and scales.
    mpp : float, optional
        Micrometers per pixel of all images. Without it: ``images.csv``, ``dataset.json``, then the image's metadata.

    Returns
    -------
    Dataset
        Without classes, unless the folder is a dataset.

    Raises
    ------
    HistomixError
        If the path is missing, or holds no color image.

    Examples
    --------
    >>> from napari_histomix.datasets import sample_folder
    >>> len(open_images(sample_folder() / "Images").entries)
    5
    """
    given = Path(path).expanduser()
    if mpp is not None:
        mpp = checked_mpp(mpp, "The scale given")
    if not given.exists():
        raise HistomixError(f"{given} does not exist; choose an image, or a folder of images.")
    with readable(given):
        root = given.resolve()
        if given.is_dir() and recognized(root) is not None:
            return open_dataset(root, mpp)
        listing = Listing(root if given.is_dir() else root.parent, mpp)
        if given.is_file():
            listing.add(composed(given.stem), (root, root))
        else:
            for folder, names in folders_below(root):
                for image, file in listing.images(folder).items():
                    if not is_gray(file):
                        listing.add(image, (file, file), Row(split=folder_split(names)), "/".join(names))
        images = {image: pair[0] for image, pair in listing.files.items()}
        if not images:
            raise HistomixError(f"{given} holds no color PNG, TIFF or JPEG image; choose another one.")
        table, section = listing.root / TABLE, Section(listing.root, listing.described)
        rows = read_rows(table, images, listing.problems) if table.is_file() else {}
        entries = [
            listing.entry(image, (file, None), section, rows.get(image, Row())) for image, file in images.items()
        ]
        return listing.dataset_of(entries)
