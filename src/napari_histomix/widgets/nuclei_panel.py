"""The tab *Find nuclei* of Project: find the nuclei of an open image, and their classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray
from qtpy.compat import isalive

from napari_histomix.datasets.entries import named_classes
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.settings import DEVICES
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets import viewer_layers
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.layer_making import nuclei_keywords, outlined
from napari_histomix.widgets.loading_ahead import load_networks_ahead, prepare_torch
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.session_form import NetworkChoice
from napari_histomix.widgets.viewer_layers import LayerChoice, Picture


@dataclass(frozen=True, eq=False)
class Nuclei:
    """Nuclei of an image as they go into a Labels layer: ids, class names and probabilities by id, the model."""

    instances: NDArray[np.int32]
    classes: dict[int, str]
    probability: dict[int, float]
    known: tuple[str, ...]
    facts: dict[str, Any]


def nuclei_job(picture: Picture, mpp: float, model: str, device: str) -> Job[Nuclei]:
    """Find the nuclei of a picture with a segmenter's folder; empty: the bundled one."""
    prepare_torch()
    yield Event("Opening the network")
    from napari_histomix.generation.models import load_generator
    from napari_histomix.generation.segmenting import segment

    opened = load_generator(model, "segmenter")
    yield Event("Reading the image")
    found = yield from segment(picture.pixels(), mpp, opened, device)
    facts = {"image": picture.name, **opened.facts}
    return Nuclei(found.instances, dict(found.classes), dict(found.probability), opened.classes, facts)


class NucleiPanel(Panel):
    """Which image, which network, and the nuclei as a new Labels layer."""

    preferred_size = (360, 320)
    heavy = True

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self._source: tuple[Any, Picture] | None = None
        self._closed = ""
        self.image = LayerChoice(self.viewer, Image, viewer_layers.unusable)
        tip = "How many micrometers one pixel is: 0.25 for most scans at 40×, 0.5 at 20×."
        self.scale = ui.number(0, 10, 0, step=0.05, decimals=4, suffix=" µm/px", special="? µm/px", tip=tip)
        self.model = NetworkChoice(self.session, "segmenter")
        self.device = ui.choice(
            ((title, device) for device, title in DEVICES.items()),
            "Where the network runs. Automatic takes a graphics card if there is one.",
        )
        self.lines = ui.form(
            ("Image", self.image, "The open image whose nuclei are looked for: the plane that is shown."),
            ("One pixel is", self.scale),
            ("Network", self.model.native, "The bundled segmenter, or one that was trained on your own labels."),
            ("Device", self.device),
        )
        self.form = ui.box(self.lines)
        tip = "Find the nuclei; they appear as a new Labels layer in the colors of their classes."
        self.progress = RunBar("Find nuclei", self.runner, tip)
        self.why, self.note = ui.Note(), ui.Note()
        tip = "Choose the image and its nuclei as the data to work on."
        self.use_button = self.lead("Go to Open layers →", "project/layers", tip)
        self.use_button.hide()
        ui.add(self.column, self.form, self.progress, self.why, self.note, self.use_button)
        self.column.addStretch(1)
        self.session.model_changed.connect(self._on_model)
        self.image.changed.connect(self._update)
        self.scale.valueChanged.connect(self._update)
        self.progress.run.connect(self.run)
        failed = partial(self.complain, self.note)
        self.runner.on(progressed=self._on_event, finished=self._on_found, failed=failed)
        self.runner.on(cancelled=self._on_cancelled, running_changed=self._on_running)
        self.viewer.layers.events.removed.connect(self._on_removed)
        self._update()
        load_networks_ahead()

    def problem(self) -> str:
        """Why nothing can be looked for; empty where it can."""
        if self.image.layer is None:
            any_open = self.image.count() > 0
            return "No open image can be used; open another." if any_open else "Open an H&E image in napari."
        if self._needs_scale and not self.scale.value():
            return "Enter how many µm one pixel is: 0.25 for most scans at 40×, 0.5 at 20×."
        return ""

    @property
    def _needs_scale(self) -> bool:
        layer = self.image.layer
        return layer is not None and viewer_layers.micrometers(layer) is None

    def _on_model(self) -> None:
        self.model.follow()

    def run(self) -> None:
        """Look for the nuclei of the chosen image."""
        if self.runner.running or self.problem():
            return
        self.note.say("")
        self.use_button.hide()
        layer = self.image.layer
        try:
            picture = viewer_layers.picture_of(layer, self.viewer.dims.point)
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        # Where the layer has no scale, the person says that of its finest level.
        mpp = picture.mpp or self.scale.value() * float(np.sqrt(picture.factor.prod()))
        self._source, self._closed = (layer, picture), ""
        model, device = self.model.value, str(self.device.currentData())
        self.runner.start(partial(nuclei_job, picture, mpp, model, device), "finding nuclei")

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
            self.note.say(event.message)

    def _on_found(self, nuclei: Nuclei) -> None:
        source, self._source = self._source, None
        assert source is not None
        layer, picture = source
        full = viewer_layers.finest(layer)
        if full.shape[layer.ndim - 2 : layer.ndim] != tuple(np.rint(picture.shape * picture.factor).astype(int)):
            self.complain(self.note, f"'{layer.name}' was changed in the meantime; find its nuclei again.")
            return
        made = nuclei_layer(nuclei, f"{layer.name} nuclei", viewer_layers.space_of(layer, picture))
        self.viewer.layers.insert(self.viewer.layers.index(layer) + 1, made)
        self.viewer.layers.selection.active = made
        counts = [(name, list(nuclei.classes.values()).count(name)) for name in nuclei.known]
        counted = ", ".join(f"{name} {count:,}" for name, count in counts if count)
        total = f"{len(nuclei.classes):,} {'nucleus' if len(nuclei.classes) == 1 else 'nuclei'}"
        self.note.say(f"{total} in “{made.name}”" + (f": {counted}." if counted else "."), "good")
        self.use_button.setVisible(bool(nuclei.classes))

    def _on_running(self, running: bool) -> None:
        self.form.setEnabled(not running)
        self._update()

    def _update(self) -> None:
        self.lines.setRowVisible(self.scale, self._needs_scale)
        problem = "" if self.runner.running else self.problem()
        self.progress.allow(not problem, problem)
        self.why.say(problem)


def nuclei_layer(nuclei: Nuclei, name: str, space: dict[str, Any]) -> Labels:
    """A Labels layer of nuclei, each outlined in the color of its class; it gets the leading axes of its space."""
    classes = named_classes(*nuclei.known)
    numbers = {known.name: known.number for known in classes}
    types = {number: numbers[kind] for number, kind in nuclei.classes.items()}
    keywords = nuclei_keywords(types, classes, nuclei.facts, other=0.8)
    keywords["features"]["probability"] = np.round(list(nuclei.probability.values()), 3)
    lead = len(space["scale"]) - 2
    layer = Labels(nuclei.instances[(np.newaxis,) * lead], name=name, **keywords, **space)
    return outlined(layer)
