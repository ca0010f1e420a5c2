"""The tab *Correct* of Make: divide open images into segments, build a pool, and take corrections into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Points
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFrame, QWidget

from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.methods.segment_stage import PoolSettings
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.segmentation import find_segments, open_prompter, segment_map, segments_of
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets import viewer_layers
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.loading_ahead import prepare_torch
from napari_histomix.widgets.pool.loading import JobMaker, pathless
from napari_histomix.widgets.segments.pool_box import PoolBox
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.session_form import SessionForm
from napari_histomix.widgets.viewer_layers import Divided, LayerChoice, Picture, about

RANDOM, POINTS, LABELS = "random", "points", "labels"
MODES = (("random points", RANDOM), ("points of a layer", POINTS), ("segments of a layer", LABELS))
OF_SUPERPIXELS = ("superpixels", "points", "compactness", "sigma", "tissue", "seed")
"""What matters only where points are drawn in superpixels."""


class Prompters:
    """Opens prompters in a worker's thread, and keeps the last one: reading a network's weights takes a while."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._prompter: Any = None

    def open(self, settings: PoolSettings) -> Any:
        path = Path(settings.weights)
        changed = path.stat().st_mtime_ns if settings.weights and path.is_file() else 0
        key = settings.prompter, settings.weights, changed, settings.device
        if self._key != key:
            # The one before goes first: two may not fit into memory.
            self._key, self._prompter = (), None
            self._prompter = open_prompter(settings.prompter, settings.weights or None, settings.device)
            self._key = key
        return self._prompter


def divide_job(
    picture: Picture,
    prompters: Prompters,
    settings: PoolSettings,
    kind: str,
    points: NDArray[np.float64] | None = None,
    labels: NDArray[np.int32] | None = None,
) -> JobMaker:
    """Divide a picture of a class into segments; ``points`` or ``labels`` take the place of random points."""

    def divide() -> Job[Divided]:
        if settings.prompter == "sam" and labels is None:
            prepare_torch()
        yield Event("Reading the image")
        pixels = picture.pixels()
        facts: dict[str, Any] = {"image": picture.name, "class": kind}
        if labels is not None:
            segments = segments_of(labels)
            facts |= {"prompter": "", "settings": {}}
        else:
            yield Event("Opening the prompter")
            prompter, anchors = prompters.open(settings), settings.anchors
            segments = yield from find_segments(pixels, prompter, anchors, points)
            if not segments:
                raise HistomixError("What stands out in this image is too small; lower the least share (extent).")
            facts |= {"prompter": prompter.name, "settings": asdict(anchors)}
            if points is not None:
                facts["points"] = len(points)
        facts |= {"segments": len(segments), "sha256": pixels_sha256(pixels)}
        features = viewer_layers.features_of(segments, picture.shape, picture.mpp, kind)
        return Divided(segment_map(segments, picture.shape), features, facts)

    return pathless(divide, settings.weights)


class FindForm(QWidget):
    """What a person chooses of an open image: prompts, class and how segments are found."""

    changed = Signal()

    def __init__(self, viewer: Any, session: Session) -> None:
        super().__init__()
        self._proposed = ""
        self.image = LayerChoice(viewer, Image, viewer_layers.unusable)
        self.points, self.labels = LayerChoice(viewer, Points), LayerChoice(viewer, Labels)
        self.mode = ui.choice(MODES)
        self.kind = ui.line("optional, for example grade 3")
        self.settings = SessionForm(session, PoolSettings)
        self.lines = ui.form(
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
        self.setLayout(ui.column(self.lines, self.settings, space=ui.SPACE - 2))
        for part in (self.image, self.points, self.labels, self.settings):
            part.changed.connect(self._update)
        self.mode.currentIndexChanged.connect(self._update)
        self._update()

    def _update(self) -> None:
        mode = self.mode.currentData()
        self.lines.setRowVisible(self.points, mode == POINTS)
        self.lines.setRowVisible(self.labels, mode == LABELS)
        self.settings.setEnabled(mode != LABELS)
        for name in OF_SUPERPIXELS:
            self.settings.fields[name].enabled = mode == RANDOM
        proposed = str(about(self.image.layer).get("class", "")) if self.image.layer is not None else ""
        if self.kind.text() == self._proposed:
            self.kind.setText(proposed)
        self._proposed = proposed
        self.changed.emit()

    def problem(self) -> str:
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

    def gather(self, point: Sequence[float], prompters: Prompters) -> tuple[Any, Picture, JobMaker]:
        """The image layer, its picture at the viewer's point (world coordinates), and the job that divides it."""
        layer, mode = self.image.layer, self.mode.currentData()
        picture = viewer_layers.picture_of(layer, point)
        points = viewer_layers.prompts_of(self.points.layer, layer, picture) if mode == POINTS else None
        labels = viewer_layers.labels_of(self.labels.layer, point, picture.shape) if mode == LABELS else None
        settings, kind = self.settings.value(PoolSettings), self.kind.text().strip()
        return layer, picture, divide_job(picture, prompters, settings, kind, points, labels)


class SegmentsPanel(Panel):
    """An open image above, the segment pool below."""

    # Narrow enough to stand beside the Pool dock.
    preferred_size = (360, 760)
    heavy = True

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self._prompters = Prompters()
        self._source: tuple[Any, Picture] | None = None
        self._closed = ""
        self.area = self.scroll()
        self.form = FindForm(self.viewer, self.session)
        tip = "Divide the image; the segments appear as a new Labels layer."
        self.progress = RunBar("Find segments", self.runner, tip, pausable=True)
        self.why, self.note = ui.Note(), ui.Note()
        ruler = QFrame()
        ruler.setObjectName("histomixLine")
        ruler.setFixedHeight(1)
        ruler.setStyleSheet("QFrame#histomixLine { background-color: rgba(128, 128, 128, 90); }")
        self.pool = PoolBox(self.viewer, self.session, self.form)
        ui.add(self.column, self.form, self.progress, self.why, self.note, ruler, self.pool)
        self.column.addStretch(1)
        self.form.changed.connect(self._update)
        self.progress.run.connect(self.run)
        failed = partial(self.complain, self.note)
        self.runner.on(progressed=self._on_event, finished=self._on_divided, failed=failed)
        self.runner.on(cancelled=self._on_cancelled, running_changed=self._on_running)
        self.viewer.layers.events.removed.connect(self._on_removed)
        self._update()

    def run(self) -> None:
        if self.runner.running or self.form.problem():
            return
        self.note.say("")
        try:
            layer, picture, make = self.form.gather(self.viewer.dims.point, self._prompters)
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        self._source, self._closed = (layer, picture), ""
        self.runner.start(make, "finding segments")

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
        full = viewer_layers.finest(layer)
        if full.shape[layer.ndim - 2 : layer.ndim] != tuple(np.rint(picture.shape * picture.factor).astype(int)):
            self.complain(self.note, f"'{layer.name}' was changed in the meantime; find its segments again.")
            return
        made = viewer_layers.segments_layer(divided, f"{layer.name} segments", viewer_layers.space_of(layer, picture))
        self.viewer.layers.insert(self.viewer.layers.index(layer) + 1, made)
        self.viewer.layers.selection.active = made
        self.note.say(f"{ui.many(divided.facts['segments'], 'segment')} in “{made.name}”.", "good")

    def _on_running(self, running: bool) -> None:
        self.form.setEnabled(not running)
        self._update()

    def _update(self) -> None:
        problem = "" if self.runner.running else self.form.problem()
        self.progress.allow(not problem, problem)
        self.why.say(problem)
