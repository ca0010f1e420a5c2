"""A dock of its own: divide open images into segments, build a pool of a folder's, and take corrections into it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Points
from qtpy.compat import isalive
from qtpy.QtCore import QSize, QTimer, Signal
from qtpy.QtWidgets import QFrame, QSizePolicy, QWidget

from napari_histomix.methods.segment_stage import PoolSettings
from napari_histomix.records import Event, HistomixError
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.elements import SPACE, Note, add, choice, column, form, hint, line, many, show_line
from napari_histomix.widgets.forms import SessionForm
from napari_histomix.widgets.jobs import prepare_units
from napari_histomix.widgets.layer_making import image_layer
from napari_histomix.widgets.segments.layers import (
    Divided,
    Picture,
    Prompters,
    Request,
    divide_job,
    labels_of,
    picture_of,
    prompts_of,
    segments_layer,
    space_of,
    unusable,
)
from napari_histomix.widgets.segments.pool_box import Corrected, OpenPool, PoolBox, Shown
from napari_histomix.widgets.session import Session, window_of
from napari_histomix.widgets.viewer_layers import LayerChoice, about

RANDOM, POINTS, LABELS = "random", "points", "labels"
MODES = (("random points", RANDOM), ("points of a layer", POINTS), ("segments of a layer", LABELS))
OF_SUPERPIXELS = ("superpixels", "points", "compactness", "sigma", "tissue", "seed")
"""What matters only where points are drawn in superpixels."""


class FindForm(QWidget):
    """What a person chooses of an open image: prompts, class and how segments are found."""

    changed = Signal()

    def __init__(self, viewer: Any, session: Session) -> None:
        super().__init__()
        self._proposed = ""
        self.image = LayerChoice(viewer, Image, unusable)
        self.points, self.labels = LayerChoice(viewer, Points), LayerChoice(viewer, Labels)
        self.mode = choice(MODES)
        self.kind = line("optional, for example grade 3")
        self.settings = SessionForm(session, PoolSettings)
        self.lines = form(
            ("Image", self.image, "The open image that is divided: the plane and the part of a pyramid that fit."),
            (
                "Divide by",
                self.mode,
                "What is asked about: random points in superpixels, as in the paper, or your own points.\n"
                "Segments that you drew are not looked for; they get their features.",
            ),
            ("Points", self.points, "Each shown point is a prompt that stands for itself."),
            ("Segments", self.labels, "Labels of the size of the image; 0 is background."),
            ("Class", self.kind, "The tissue class of the image; every segment of it gets this class."),
        )
        self.setLayout(column(self.lines, self.settings, space=SPACE - 2))
        for part in (self.image, self.points, self.labels, self.settings):
            part.changed.connect(self._update)
        self.mode.currentIndexChanged.connect(self._update)
        self._update()

    def _update(self) -> None:
        mode = self.mode.currentData()
        show_line(self.lines, self.points, mode == POINTS)
        show_line(self.lines, self.labels, mode == LABELS)
        self.settings.setEnabled(mode != LABELS)
        for name in OF_SUPERPIXELS:
            self.settings.fields[name].enabled = mode == RANDOM
        proposed = str(about(self.image.layer).get("class", "")) if self.image.layer is not None else ""
        if self.kind.text() == self._proposed:
            self.kind.setText(proposed)
        self._proposed = proposed
        self.changed.emit()

    def problem(self) -> str:
        """Why nothing can be divided yet; empty where it can."""
        mode, fields = self.mode.currentData(), self.settings.fields
        if self.image.layer is None:
            any_open = self.image.count() > 0
            return "No open image can be divided; open another." if any_open else "Open an H&E image in napari."
        if mode == POINTS and self.points.layer is None:
            return "Add a Points layer and set points in the image."
        if mode == LABELS and self.labels.layer is None:
            return "Add a Labels layer and paint segments."
        if mode != LABELS and fields["prompter"].value == "sam" and not fields["weights"].value:
            return "Choose the weights of SAM, or the region tree, which needs none."
        return ""

    def gather(self, point: Sequence[float]) -> tuple[Any, Picture, Request]:
        """The image layer, its picture and what is asked of it, at the viewer's point (world coordinates)."""
        layer, mode = self.image.layer, self.mode.currentData()
        picture = picture_of(layer, point)
        points = prompts_of(self.points.layer, layer, picture) if mode == POINTS else None
        labels = labels_of(self.labels.layer, point, picture.shape) if mode == LABELS else None
        return layer, picture, Request(self.settings.value(PoolSettings), self.kind.text().strip(), points, labels)


class SegmentsPanel(Panel):
    """An open image above, the segment pool below."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        prepare_units()
        super().__init__(napari_viewer, session)
        self._prompters = Prompters()
        self._source: tuple[Any, Picture] | None = None
        self._closed = ""
        self._fitted = ""
        self._wanted = ""
        self._build()
        self._connect()
        self._update()
        self.follow_pool()

    def _build(self) -> None:
        self.area = self.scroll()
        self.form = FindForm(self.viewer, self.session)
        self.progress = RunBar("Find segments", self.runner)
        self.why = hint("")
        self.why.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        self.note = Note()
        ruler = QFrame()
        ruler.setObjectName("histomixLine")
        ruler.setFixedHeight(1)
        ruler.setStyleSheet("QFrame#histomixLine { background-color: rgba(128, 128, 128, 90); }")
        self.pool = PoolBox(self.viewer, self.session, self.form, window_of(self.viewer))
        add(self.column, self.form, self.progress, self.why, self.note, ruler, self.pool)
        self.column.addStretch(1)

    def _connect(self) -> None:
        self.form.changed.connect(self._update)
        self.progress.run.connect(self.run)
        self.runner.finished.connect(self._on_divided)
        self.runner.failed.connect(partial(self.complain, self.note))
        self.runner.cancelled.connect(self._on_cancelled)
        self.runner.progressed.connect(self._on_event)
        self.runner.running_changed.connect(self._on_running)
        self.viewer.layers.events.removed.connect(self._on_removed)
        self.pool.asked.connect(self._show_whole)
        self.pool.shown.connect(self._on_shown)
        self.pool.taken.connect(self._on_taken)
        self.pool.failed.connect(partial(self.complain, self.pool.note))
        self.pool.runner.finished.connect(self._on_pool_open)
        session = self.session
        self.pool.corrected.connect(lambda folder: session.share_pool(folder, self, changed=True))
        session.pool_image_wanted.connect(self._show_wanted)
        session.shows_pool_images = True
        self.destroyed.connect(partial(setattr, session, "shows_pool_images", False))

    def sizeHint(self) -> QSize:
        # Narrow enough to stand beside the Pool dock.
        return QSize(360, 760)

    # An open image.

    def run(self) -> None:
        if self.runner.running or self.form.problem():
            return
        self.note.say("")
        try:
            layer, picture, request = self.form.gather(self.viewer.dims.point)
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        self._source, self._closed = (layer, picture), ""
        self.runner.start(divide_job(picture, request, self._prompters), "finding segments")

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
        self.note.say(f"{many(divided.facts['segments'], 'segment')} in “{made.name}”.", "good")

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

    def open_study(self, folder: Path) -> None:
        self.pool.open_study(folder)

    def _on_pool_open(self, result: Any) -> None:
        if isinstance(result, OpenPool):
            self.session.share_pool(result.study.folder, self)
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
        own = [layer for layer in reversed(self.viewer.layers) if about(layer).get("image") == name]
        image = next((layer for layer in own if isinstance(layer, Image)), None)
        return image, next((layer for layer in own if "segments" in about(layer)), None)

    def _bring(self, name: str) -> None:
        """Show the layers of an image, and hide those of the others, which lie in the same place."""
        for layer in self.viewer.layers:
            if about(layer).get("image") is not None:
                layer.visible = about(layer)["image"] == name
        self.viewer.layers.selection.active = self._layers(name)[1]
        if self._fitted == name:
            # Not where another dock asked: it brings a segment onto the screen.
            getattr(self.viewer, "fit_to_view", self.viewer.reset_view)()
        self._fitted = ""

    def _on_shown(self, shown: Shown) -> None:
        image, name = shown.image, shown.image.source.image
        layer, segments = self._layers(name)
        space: dict[str, Any] = {"scale": (image.mpp, image.mpp), "units": ("um", "um")}
        if layer is not None:
            parts = ("scale", "translate", "rotate", "shear", "affine", "units")
            space = {part: getattr(layer, part) for part in parts}
        if segments is None:
            # Before its image, and above it: who waits for the image finds both.
            segments = segments_layer(shown.divided, f"{name} segments", space)
            self.viewer.layers.append(segments)
        if layer is None:
            layer = image_layer(name, image, space, **{"class": image.kind})
            self.viewer.layers.insert(self.viewer.layers.index(segments), layer)
        self._bring(name)

    def _on_taken(self, corrected: Corrected, layer: Any) -> None:
        if layer is not None and layer in self.viewer.layers:
            layer.features = corrected.features
