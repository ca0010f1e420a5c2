"""The tab *Open layers* of Project: an image and its nuclei that are open in napari become a dataset on disk."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from napari.layers import Image, Labels
from numpy.typing import NDArray
from qtpy.QtCore import Signal

from napari_histomix.datasets.dataset_writer import WrittenDataset
from napari_histomix.datasets.entries import UNCLASSIFIED, with_names
from napari_histomix.datasets.writing import complete_or_absent, safe_name
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, NucleusClass, Source, instance_ids
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets import viewer_layers
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.class_brush import ClassBrush
from napari_histomix.widgets.generate.layout_layers import unusable_labels
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer_layers import LayerChoice, Picture, about, labels_of_rows, micrometers, plane_of

FORMAT = "plain"
ONE = "nucleus"
"""Class of all nuclei where no column says one."""
CLASS_COLUMNS = ("class", "celltype", "cellclass", "classification", "type", "nucleustype", "phenotype")
"""Names of columns that hold classes, in small letters alone; the first that is there is chosen."""


def class_columns(layer: Any) -> list[str]:
    """Columns of a Labels layer's features that may say a nucleus's class: text, or few whole numbers."""
    features = layer.features
    return [
        str(name)
        for name in features.columns
        if name != "index" and (features[name].dtype.kind not in "fc" or features[name].nunique() <= 20)
    ]


def usual_column(names: Sequence[str]) -> str:
    """The first of some columns whose name says that it holds classes; empty where none does."""
    plain = {re.sub("[^a-z]", "", name.casefold()): name for name in reversed(names)}
    return next((plain[word] for word in CLASS_COLUMNS if word in plain), "")


def classes_by(layer: Any, column: str, highest: int) -> dict[int, str]:
    """Class of each label by a column of the layer's features; without one all are of the same.

    What has no class is left out. ``highest`` is the highest label, by which `labels_of_rows` knows the rows.
    """
    features = layer.features
    if not column:
        return {}
    rows = zip(labels_of_rows(features, highest), features[column], strict=True)
    return {int(number): str(kind) for number, kind in rows if not pd.isna(kind)}


def layers_job(
    folder: Path,
    name: str,
    picture: Picture,
    instances: NDArray[np.int32],
    kinds: dict[int, str],
    mpp: float,
    known: tuple[NucleusClass, ...] = (),
    otherwise: str = ONE,
) -> Job[Path]:
    """Write one image with its nuclei as a dataset, complete or absent; in a worker's thread.

    ``known`` are classes that keep their colors, ``otherwise`` is the class of nuclei of which ``kinds`` says none.
    """
    yield Event("Reading the layers")
    pixels, ids = picture.pixels(), instance_ids(instances)
    if pixels.shape[:2] != instances.shape:
        raise HistomixError(f"The image is {_size(pixels)} pixels, its nuclei are {_size(instances)}; choose a pair.")
    if not len(ids):
        raise HistomixError("No nucleus is labeled there; choose another layer, or find nuclei first.")
    words = {number: kinds.get(number) or otherwise for number in ids}
    classes = with_names(known, set(words.values()))
    numbers = {kind.name: kind.number for kind in classes}
    types = {number: numbers[kind] for number, kind in words.items()}
    image = LabeledImage(pixels, instances, types, mpp, Source(folder.name, name))
    yield Event("Writing the dataset")
    with complete_or_absent(folder) as partial_folder:
        writer = WrittenDataset(partial_folder, folder.name, classes, FORMAT)
        writer.add(image, synthetic=False)
        writer.finish()
    return folder


def scale_sentence(image: Any, labels: Any, mpp: float) -> str:
    """What is done about the scale of two layers when they become a dataset, in one sentence."""
    unsaid = [f"'{layer.name}'" for layer in (image, labels) if micrometers(layer) is None]
    if not unsaid:
        return f"One pixel is {mpp:.4g} µm, as the layers say; the dataset's own layers lie on them."
    verb = "is" if len(unsaid) == 1 else "are"
    return (
        f"One pixel is {mpp:.4g} µm: {' and '.join(unsaid)}, until now in pixels, {verb} shown at this scale, as the "
        "dataset's own layers are."
    )


def share_scale(viewer: Any, image: Any, labels: Any, mpp: float) -> None:
    """Give layers in pixels the scale of the image, so that they and the dataset's cover the same place.

    ``mpp``: µm per pixel of the image layer. The camera goes along: what was on the screen stays there.
    """
    was = np.array(image.scale[-2:], float)
    if micrometers(image) is None:
        _rescale(image, np.array([mpp, mpp]), ("um", "um"))
        camera, ratio = getattr(viewer, "scene", viewer).camera, mpp / was
        center = np.array(camera.center, float)
        center[-2:] *= ratio
        camera.center, camera.zoom = tuple(center), camera.zoom / float(np.sqrt(ratio.prod()))
    if micrometers(labels) is None:
        _rescale(labels, np.array(image.scale[-2:], float), tuple(image.units)[-2:])
        # Of one size, they show the same place.
        translate = np.array(labels.translate, float)
        translate[-2:] = np.array(image.translate, float)[-2:]
        labels.translate = translate


def _rescale(layer: Any, scale: NDArray[np.float64], units: tuple[Any, ...]) -> None:
    before = np.array(layer.scale, float)
    translate = np.array(layer.translate, float)
    translate[-2:] *= scale / before[-2:]
    layer.scale = [*before[:-2], *scale]
    layer.translate = translate
    layer.units = (*tuple(layer.units)[:-2], *units)


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[1]:,}×{array.shape[0]:,}"


class OpenLayersPanel(Panel):
    """Which image, which nuclei, and what says their classes."""

    written = Signal(object)
    """Folder of a dataset that is to be opened."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.image = LayerChoice(self.viewer, Image, viewer_layers.unusable)
        self.labels = LayerChoice(self.viewer, Labels, unusable_labels)
        self.column_choice = ui.choice([(f"none: all are {ONE}", "")], "A column of the layer's features.")
        self.brush = ClassBrush(self.viewer)
        tip = "How many micrometers one pixel is: 0.25 for most scans at 40×, 0.5 at 20×."
        self.scale = ui.number(0, 10, 0, step=0.05, decimals=4, suffix=" µm/px", special="? µm/px", tip=tip)
        self.lines = ui.form(
            ("Image", self.image, "The H&E image: the plane that is shown."),
            ("Its nuclei", self.labels, "Labels of the same size; 0 is background."),
            ("Classes", self.column_choice),
            ("One pixel is", self.scale),
        )
        tip = "Write both as a dataset in a folder of its own, and open that; what the layers hold stays as it is."
        self.progress = RunBar("Use these layers", self.runner, tip)
        self.why, self.note, self.scaled = ui.Note(), ui.Note(), ui.Note()
        self._name = ""
        self._offered: tuple[int, tuple[str, ...]] = 0, ()
        """The Labels layer and the columns of which one was chosen for the person."""
        self._place: dict[str, Any] = {}
        """Where the image that is being written lies in the viewer."""
        hint = ui.hint("For images and labels that are open already, from any plugin or file.")
        # Not a line of the form: with large letters it needs the whole width, and as many lines as it has words.
        ui.add(self.column, hint, ui.box(self.lines), self.brush, self.progress, self.why, self.note, self.scaled)
        self.column.addStretch(1)
        for part in (self.image, self.labels):
            part.changed.connect(self._update)
        self.scale.valueChanged.connect(self._update)
        self.brush.changed.connect(self._update)
        self.progress.run.connect(self.run)
        self.runner.on(finished=self._on_written, failed=partial(self.complain, self.note))
        self._update()

    @property
    def mpp(self) -> float:
        """µm per pixel, by the layer or by the person; 0 where neither says it."""
        return (micrometers(self.image.layer) if self.image.layer is not None else None) or self.scale.value()

    def problem(self) -> str:
        """Why these layers cannot be used yet; empty where they can."""
        image, labels = self.image.layer, self.labels.layer
        if image is None or labels is None:
            return "Open an H&E image and a Labels layer of its nuclei first."
        if about(image).get("synthetic") or about(labels).get("synthetic"):
            return "These layers are synthetic, and would become donors; choose real ones."
        return "" if self.mpp else "Enter how many µm one pixel is: 0.25 for most scans at 40×, 0.5 at 20×."

    def _update(self, *_: object) -> None:
        image, labels = self.image.layer, self.labels.layer
        known = class_columns(labels) if labels is not None else []
        none = f"none: others are {UNCLASSIFIED}" if self.brush.given else f"none: all are {ONE}"
        ui.offer(self.column_choice, [(none, ""), *((name, name) for name in known)])
        # Once for a layer and its columns: what a person chooses then stays.
        offered = id(labels), tuple(known)
        if offered != self._offered:
            self._offered = offered
            if not self.column_choice.currentData():
                self.column_choice.setCurrentIndex(max(self.column_choice.findData(usual_column(known)), 0))
        self.brush.use(labels)
        self.lines.setRowVisible(self.scale, image is not None and micrometers(image) is None)
        problem = self.problem()
        self.why.say(problem)
        self.progress.allow(not problem, problem)

    def run(self) -> None:
        """Write the dataset, then have it opened."""
        if self.problem() or self.runner.running:
            return
        image, labels = self.image.layer, self.labels.layer
        self.note.say("")
        self.scaled.say("")
        self.brush.end()
        point = self.viewer.dims.point
        try:
            picture = viewer_layers.picture_of(image, point)
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        # A copy: what is drawn meanwhile is for the next time.
        instances = np.maximum(np.asarray(labels.data[plane_of(labels, point)]), 0).astype(np.int32)
        name = safe_name(image.name)
        folder = ui.free_folder(self.session.home, f"{name} layers")
        column = str(self.column_choice.currentData() or "")
        kinds, known = classes_by(labels, column, int(instances.max())) | self.brush.given, self.brush.classes
        # Of a pyramid, a coarser level may be written than the one that the layer's scale is of.
        mpp = picture.mpp or self.mpp
        otherwise = UNCLASSIFIED if known and not column else ONE
        said = scale_sentence(image, labels, mpp)
        share_scale(self.viewer, image, labels, mpp / math.sqrt(picture.factor.prod()))
        self.brush.follow_space()
        space = viewer_layers.space_of(image, picture)
        self._place = {what: tuple(space[what])[-2:] for what in ("scale", "translate", "units")}
        self._name = name
        self.scaled.say(said)
        job = partial(layers_job, folder, name, picture, instances, kinds, mpp, known, otherwise)
        self.runner.start(job, "writing the layers")

    def _on_written(self, folder: Path) -> None:
        self.note.say(f"Written: {folder}", "good")
        self.brush.finish()
        # What the dataset shows lies on what it was made of.
        self.book.places[str(folder.resolve()), self._name] = self._place
        self.written.emit(folder)
