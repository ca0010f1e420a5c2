"""A dock of its own: divide open images into segments, build a pool of a folder's, and take corrections into it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image
from qtpy.compat import isalive
from qtpy.QtCore import QSize, QTimer, Signal
from qtpy.QtWidgets import QFrame, QSizePolicy

from napari_histomix.datasets import Dataset
from napari_histomix.records import Event, HistomixError
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.elements import Note, hint
from napari_histomix.widgets.jobs import prepare_units
from napari_histomix.widgets.segments.form import FindForm
from napari_histomix.widgets.segments.layers import (
    Divided,
    Picture,
    Prompters,
    about,
    divide_job,
    segments_layer,
    space_of,
)
from napari_histomix.widgets.segments.pool import Corrected, OpenPool, Shown
from napari_histomix.widgets.segments.pool_box import PoolBox
from napari_histomix.widgets.session import Session, window_of


class SegmentsPanel(Panel):
    """An open image above, the segment pool below."""

    pool_corrected = Signal(str)
    """Folder of the study whose pool took corrections."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        prepare_units()
        super().__init__(napari_viewer, session)
        self._prompters = Prompters()
        self._source: tuple[Any, Picture] | None = None
        self._closed = ""
        self._fitted = ""
        self.area = self.scroll()
        self.form = FindForm(self.viewer, self.session)
        self.form.changed.connect(self._update)
        self.column.addWidget(self.form)
        self.progress = RunBar("Find segments", self.runner)
        self.progress.run.connect(self.run)
        self.column.addWidget(self.progress)
        self.why = hint("")
        self.why.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        self.column.addWidget(self.why)
        self.note = Note()
        self.column.addWidget(self.note)
        line = QFrame()
        line.setObjectName("histomixLine")
        line.setFixedHeight(1)
        line.setStyleSheet("QFrame#histomixLine { background-color: rgba(128, 128, 128, 90); }")
        self.column.addWidget(line)
        self.pool = PoolBox(self.viewer, self.session, self.form, window_of(self.viewer))
        self.column.addWidget(self.pool)
        self.column.addStretch(1)
        self.runner.finished.connect(self._on_divided)
        self.runner.failed.connect(lambda sentence: self.complain(self.note, sentence))
        self.runner.cancelled.connect(self._on_cancelled)
        self.runner.progressed.connect(self._on_event)
        self.runner.running_changed.connect(self._on_running)
        self.viewer.layers.events.removed.connect(self._on_removed)
        self.pool.asked.connect(self._show_whole)
        self.pool.shown.connect(self._on_shown)
        self.pool.taken.connect(self._on_taken)
        self.pool.failed.connect(lambda sentence: self.complain(self.pool.note, sentence))
        self.pool.corrected.connect(self.pool_corrected)
        self.pool.runner.finished.connect(self._on_pool_open)
        session = self.session
        self.pool_corrected.connect(lambda folder: session.share_pool(folder, self, changed=True))
        session.pool_image_wanted.connect(self._show_wanted)
        session.shows_pool_images = True
        self.destroyed.connect(partial(setattr, session, "shows_pool_images", False))
        self._wanted = ""
        self._update()
        self.follow_pool()

    def sizeHint(self) -> QSize:
        """Narrow enough to stand beside the Pool dock."""
        return QSize(360, 760)

    # An open image.

    def run(self) -> None:
        """Divide the chosen image in the background."""
        if self.runner.running or self.form.problem():
            return
        self.note.say("")
        try:
            layer, picture, asked = self.form.gather(self.viewer.dims.point)
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        self._source, self._closed = (layer, picture), ""
        self.runner.start(divide_job(picture, asked, self._prompters), "finding segments")

    def _on_removed(self, event: Any) -> None:
        if isalive(self) and self._source is not None and event.value is self._source[0]:
            self._closed = event.value.name
            self.runner.discard()

    def _on_cancelled(self) -> None:
        self._source = None
        if self._closed:
            self.complain(self.note, f"'{self._closed}' was closed in the meantime; nothing was made of it.")
        else:
            self.note.say("Stopped; nothing was made.")

    def _on_event(self, event: Event) -> None:
        if event.message:
            self.note.say(event.message, "warning")

    def _on_divided(self, divided: Divided) -> None:
        source, self._source = self._source, None
        assert source is not None
        layer, picture = source
        full = layer.data[0] if layer.multiscale else layer.data
        if full.shape[layer.ndim - 2 : layer.ndim] != tuple(np.rint(picture.shape * picture.factor).astype(int)):
            self.complain(self.note, f"'{layer.name}' was changed in the meantime; find its segments again.")
            return
        made = segments_layer(divided, f"{layer.name} segments", space_of(layer, picture))
        self.viewer.layers.insert(self.viewer.layers.index(layer) + 1, made)
        self.viewer.layers.selection.active = made
        count = divided.about["segments"]
        self.note.say(f"{count:,} segment{'' if count == 1 else 's'} in “{made.name}”.", "good")

    def _on_running(self, running: bool) -> None:
        self.form.setEnabled(not running)
        self._update()

    def _update(self) -> None:
        problem = "" if self.runner.running else self.form.problem()
        self.progress.allow(not problem, problem)
        if not problem:
            self.progress.run_button.setToolTip("Divide the image; the segments appear as a new Labels layer.")
        self.why.setText(problem)
        self.why.setVisible(bool(problem))

    # The pool.

    def take(self, study: Study, pool: SegmentPool, dataset: Dataset | None = None) -> None:
        """Go on with an open study, its pool and, where its images can be read, its dataset."""
        self.pool.take(OpenPool(study, pool, dataset))

    def open_study(self, folder: Path) -> None:
        """Open a study that has a segment pool."""
        self.pool.open_study(folder)

    def _on_pool_open(self, found: Any) -> None:
        if isinstance(found, OpenPool):
            self.session.share_pool(found.study.folder, self)
            if self._wanted:
                QTimer.singleShot(0, partial(self._show_wanted, self._wanted))

    def _show_wanted(self, name: str) -> None:
        """Show an image another dock asks for, as soon as the study is open."""
        self._wanted = "" if self.pool.opened is not None else name
        if self.pool.opened is not None:
            self.show_image(name)

    def show_image(self, name: str) -> None:
        """Open an image of the pool and its segments as layers, to look at and to correct."""
        if all(self._layers(name)):
            self._bring(name)
        else:
            self.pool.read_image(name)

    def _show_whole(self, name: str) -> None:
        self._fitted = name
        self.show_image(name)

    def _layers(self, name: str) -> tuple[Any, Any]:
        """The topmost image and segments layers of an image of the pool, None where one is not open."""
        own = [one for one in reversed(self.viewer.layers) if about(one).get("image") == name]
        image = next((one for one in own if isinstance(one, Image)), None)
        return image, next((one for one in own if "segments" in about(one)), None)

    def _bring(self, name: str) -> None:
        """Show the layers of an image, and hide those of the others, which lie in the same place."""
        for one in self.viewer.layers:
            if about(one).get("image") is not None:
                one.visible = about(one)["image"] == name
        self.viewer.layers.selection.active = self._layers(name)[1]
        if self._fitted == name:
            # Not where another dock asked: it brings a segment onto the screen.
            getattr(self.viewer, "fit_to_view", self.viewer.reset_view)()
        self._fitted = ""

    def _on_shown(self, shown: Shown) -> None:
        image, source = shown.image, shown.image.source
        name = source.image
        layer, segments = self._layers(name)
        space: dict[str, Any] = {"scale": (image.mpp, image.mpp), "units": ("um", "um")}
        if layer is not None:
            space = {one: getattr(layer, one) for one in ("scale", "translate", "rotate", "shear", "affine", "units")}
        if segments is None:
            # Before its image, and above it: who waits for the image finds both.
            segments = segments_layer(shown.divided, f"{name} segments", space)
            self.viewer.layers.append(segments)
        if layer is None:
            told = {
                "dataset": source.dataset,
                "image": name,
                "split": source.split,
                "patient": source.patient,
                "slide": source.slide,
                "mpp": image.mpp,
                "class": image.kind,
            }
            layer = Image(image.pixels, rgb=True, name=name, metadata={"histomix": told}, **space)
            self.viewer.layers.insert(self.viewer.layers.index(segments), layer)
        self._bring(name)

    def _on_taken(self, corrected: Corrected, layer: Any) -> None:
        if layer is not None and layer in self.viewer.layers:
            layer.features = corrected.features
