"""Predictions beside the truth: opened in any format, and paired image by image and class by class, by their names."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from napari_histomix.datasets import Dataset, Entry, open_any, open_dataset
from napari_histomix.datasets.listing import IMAGE_SUFFIXES
from napari_histomix.datasets.names import composed, paired
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.records import HistomixError

_ABOUT_ALL = ("dataset.json", "type_info.json", "images.csv", "types.csv", "data.yaml")
"""Files that speak of a whole dataset, and lie in its root."""


@contextmanager
def opened(
    pred: Dataset | Path | str, truth: Dataset | Path | str, mpp: float | None = None, *, split_parts: bool = False
) -> Iterator[tuple[Dataset, Dataset]]:
    """Open predictions and the truth, as long as the block lasts; label files alone take the images of the truth."""
    true = truth if isinstance(truth, Dataset) else open_any(truth, mpp, split_parts=split_parts)
    if isinstance(pred, Dataset):
        yield pred, true
        return
    predicted: Dataset | HistomixError
    try:
        predicted = open_any(pred, mpp, split_parts=split_parts)
    except HistomixError as error:
        predicted = error
    folder = Path(pred).expanduser()
    is_wanting = isinstance(predicted, HistomixError) or not predicted.has_nuclei
    with tempfile.TemporaryDirectory(prefix="histomix-") as place:
        if is_wanting and true.has_nuclei and folder.is_dir():
            predicted = _with_images_of(true, folder.resolve(), Path(place), mpp, split_parts) or predicted
        if isinstance(predicted, HistomixError):
            raise predicted
        yield predicted, true


def _with_images_of(truth: Dataset, labels: Path, place: Path, mpp: float | None, parts: bool) -> Dataset | None:
    """A folder of label files as a dataset, made in an empty ``place`` with the images of the truth beside them.

    None where they are no labels of these images in any format.
    """
    counts = Counter(entry.image.stem.casefold() for entry in truth.entries)
    images = [entry.image for entry in truth.entries if counts[entry.image.stem.casefold()] == 1]
    images = [image for image in images if image.suffix.casefold() in IMAGE_SUFFIXES]
    inside = [path for path in labels.iterdir() if not path.name.startswith(".")]
    # HoVer-Net's own overlays are no images of the dataset.
    folders = [path for path in inside if path.is_dir() and path.name.casefold() != "overlay"]
    for number, (for_images, for_labels) in enumerate((("images", "labels"), ("images", "."), (".", "."))):
        root = place / str(number)
        for name in (for_images, for_labels):
            (root / name).mkdir(parents=True, exist_ok=True)
        try:
            for image in images:
                _link(image, root / for_images / image.name)
            for path in (*folders, *(path for path in inside if path.is_file())):
                loose = path.is_file() and path.name.casefold() not in _ABOUT_ALL
                _link(path, root / (for_labels if loose else ".") / path.name)
            dataset = open_dataset(root, mpp, split_parts=parts)
        except (HistomixError, FileExistsError):
            continue
        if dataset.entries:
            # That the truth has more images is told by their names.
            return replace(dataset, name=labels.name, problems=())
    return None


def _link(path: Path, place: Path) -> None:
    try:
        place.symlink_to(path, path.is_dir())
    except FileExistsError:
        raise
    except OSError:  # Windows lets not everyone make links
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, place)


def alike(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """The other name that each name means, in whatever letter case and Unicode form (see `names.paired`)."""
    ours, theirs = ({composed(name): name for name in side} for side in (names, others))
    return {ours[name]: theirs[other] for name, other in paired(ours, theirs).items()}


def image_pairs(pred: Dataset, truth: Dataset) -> dict[str, str]:
    """By name of an image in the truth, the name of its prediction.

    That is the same name (upper or lower case), else the same file name in another folder, where it is the only one.
    Folders that stand for predicted classes are no part of a name, unless two images of one file name need them; then
    pixels are compared, so that a prediction is not taken for that of another image.

    Raises HistomixError where they turn out to be different images.
    """
    names, others = ([entry.source.image for entry in dataset.entries] for dataset in (truth, pred))
    short, short_others = _file_names(names), _file_names(others)
    foldered = all(entry.kind and _in_class_folder(entry) for entry in pred.entries)
    if foldered and len(short) == len(names) and len(short_others) == len(others):
        return {short[name]: short_others[other] for name, other in alike(short, short_others).items()}
    partners = alike(names, others)
    if foldered:
        for name, other in partners.items():
            entries = truth.entry(name), pred.entry(other)
            first, second = (
                pixels_sha256(dataset.files.pixels(entry))
                for dataset, entry in zip((truth, pred), entries, strict=True)
            )
            if first != second:
                raise HistomixError(
                    f"{other} is another image in the predictions than in the truth, where several are called "
                    f"{PurePosixPath(name).name}; list predictions in a CSV with the columns image and class."
                )
        return partners
    left = [name for name in short if short[name] not in partners]
    left_others = [name for name in short_others if short_others[name] not in set(partners.values())]
    return partners | {short[name]: short_others[other] for name, other in alike(left, left_others).items()}


def _in_class_folder(entry: Entry) -> bool:
    return entry.kind.casefold() in (part.casefold() for part in PurePosixPath(entry.source.image).parts[:-1])


def _file_names(names: Sequence[str]) -> dict[str, str]:
    """Names of images by their last parts, as far as these mean one of them."""
    ends = [(PurePosixPath(name).name, name) for name in names]
    counts = Counter(end.casefold() for end, _ in ends)
    return {end: name for end, name in ends if counts[end.casefold()] == 1}
