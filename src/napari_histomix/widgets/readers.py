"""What napari opens with the package: folders of labeled images, studies, and single label files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import napari
from napari.layers import Image
from napari.utils.notifications import show_warning

from napari_histomix.datasets import Dataset, load_sample, open_dataset
from napari_histomix.datasets.entries import SPLIT_FOLDERS
from napari_histomix.datasets.formats import recognized
from napari_histomix.datasets.listing import subfolder
from napari_histomix.datasets.opening import is_label_file, label_name, read_label_file
from napari_histomix.records import HistomixError, LabeledImage
from napari_histomix.study import Study
from napari_histomix.widgets.layer_making import facts, nuclei_keywords, space_like
from napari_histomix.widgets.sources import is_reader_test, is_study

LayerData = tuple[Any, dict[str, Any], str]
Reader = Callable[[Any], list[LayerData]]

OTHER = 0.8
"""Opacity of nuclei without a class."""


def folder_reader(path: str | Sequence[str]) -> Reader | None:
    """The reader of a folder of labeled images, of a study or of a reader test; None for anything else."""
    if not isinstance(path, str):
        return None
    folder = Path(path)
    try:
        known = folder.is_dir() and (is_study(folder) or is_reader_test(folder) or _is_dataset(folder))
    except OSError:
        return None
    return read_folder if known else None


def file_reader(path: str | Sequence[str]) -> Reader | None:
    """The reader of a label file by itself; None for anything else."""
    return read_file if isinstance(path, str) and is_label_file(Path(path)) else None


def _is_dataset(folder: Path) -> bool:
    """Whether a folder is one of labeled images, by its listing and the first bytes of some files."""
    if recognized(folder) is not None:
        return True
    splits = [inner for inner in folder.iterdir() if inner.name.casefold() in SPLIT_FOLDERS and inner.is_dir()]
    return any(subfolder(place, "images") and subfolder(place, "labels") for place in (folder, *splits))


def read_folder(path: str) -> list[LayerData]:
    """Open the HistoMix dock with a dataset or a study, and give its first image as a layer.

    The dock goes on to read the folder in the background, and takes the layer over. Without a window the image comes
    with its nuclei. Where nothing in the folder can be read, napari shows the sentence of the ``HistomixError``.
    """
    folder = Path(path)
    wanted, window = "", getattr(napari.current_viewer(), "window", None)
    if is_reader_test(folder):
        if window is None:
            raise HistomixError(f"{folder} is a reader test, which is answered in napari's window; open it there.")
        _open_dock(window).open_source(folder)
        # napari's word for: read, and no layer.
        return [(None,)]  # type: ignore[list-item]
    if is_study(folder):
        study = Study.open(folder)
        dataset = study.open_images()
        wanted = str(study.settings().get("image", ""))
    else:
        dataset = open_dataset(folder)
    image, scaled = _first(dataset, wanted)
    if window is None:
        keywords = nuclei_keywords(image.types, dataset.classes, facts(image), OTHER)
        keywords |= {"name": f"{image.source.image} nuclei", **space_like(None, image.mpp if scaled else None)}
        return [_image(image, scaled, adopt=False), (image.instances, keywords, "labels")]
    data = _open_dock(window)
    data.open_source(folder)
    # The dock asks for a scale that nothing says; this layer would be without it.
    return [_image(image, scaled, adopt=scaled)]


def _first(dataset: Dataset, wanted: str) -> tuple[LabeledImage, bool]:
    """An image to show, the wanted one if it is there, and whether its scale is known."""
    reasons = []
    for entry in sorted(dataset.entries, key=lambda entry: entry.source.image != wanted):
        try:
            return dataset.read(replace(entry, mpp=entry.mpp or 1.0)), entry.mpp is not None
        except HistomixError as error:
            reasons.append(str(error))
    raise HistomixError(f"No image of {dataset.name} can be read; the first: {reasons[0]}")


def _image(image: LabeledImage, scaled: bool, *, adopt: bool) -> LayerData:
    about = {**facts(image), **({"adopt": True} if adopt else {})}
    keywords = {"name": image.source.image, "rgb": True, "metadata": {"histomix": about}}
    return image.pixels, keywords | space_like(None, image.mpp if scaled else None), "image"


def read_file(path: str) -> list[LayerData]:
    """Give the nuclei of a label file as a Labels layer: each in its class's color, with its class as a feature.

    Where the viewer shows the image of the file's name, the nuclei lie on it.
    """
    shown = _shown(label_name(Path(path)))
    labels = read_label_file(Path(path), None if shown is None else shown.data.shape[:2])
    for note in labels.notes:
        show_warning(f"{Path(path).name}: {note}")
    about = {"image": labels.name, **({"mpp": labels.mpp} if labels.mpp else {})}
    keywords = nuclei_keywords(labels.types, labels.classes, about, OTHER)
    return [(labels.instances, {"name": f"{labels.name} nuclei"} | keywords | space_like(shown, labels.mpp), "labels")]


def _shown(name: str) -> Image | None:
    """The RGB layer of the viewer that shows the image of that name."""
    viewer = napari.current_viewer()
    for layer in viewer.layers if viewer is not None else ():
        flat = isinstance(layer, Image) and layer.rgb and layer.ndim == 2 and not layer.multiscale
        if flat and name in (layer.name, layer.metadata.get("histomix", {}).get("image")):
            return layer
    return None


def open_sample() -> list[LayerData]:
    """Open the HistoMix dock with the bundled sample, and give the sample's first image as a layer.

    napari takes a sample without a layer for a failure, so the first image is handed over here; the dock's layers
    take it over when the sample is opened.
    """
    dataset = load_sample()
    image = dataset.read(dataset.entries[0])
    viewer = napari.current_viewer()
    if viewer is not None:
        _open_dock(viewer.window).open_sample()
    return [_image(image, True, adopt=True)]


def _open_dock(window: Any) -> Any:
    """The page for data of the HistoMix dock."""
    _, dock = window.add_plugin_dock_widget("napari-histomix", "HistoMix")
    return dock.open("project/data")
