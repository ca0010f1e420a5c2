"""Where layouts come from: one is sampled in the background, or a Labels layer is chosen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Labels
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from napari_histomix.generation.layouts import LayoutSettings
from napari_histomix.records import HistomixError
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.generate import making
from napari_histomix.widgets.generate.layout_layers import unusable_labels
from napari_histomix.widgets.generate.making import Sampled
from napari_histomix.widgets.generate.paint_form import HIGHEST_SEED
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.session import window_of
from napari_histomix.widgets.session_form import NetworkChoice, SessionForm
from napari_histomix.widgets.viewer_layers import LayerChoice

RECOMBINED, DRAWN = "recombined", "drawn"
SOURCES = (("Recombined from the dataset", RECOMBINED), ("Drawn by the structure network", DRAWN))


class LayoutBox(QWidget):
    """Part of the tab *By hand*, its ``panel``: samples layouts, on the device that ``device`` names."""

    changed = Signal()
    """Another source or other options were chosen, or sampling began or ended."""
    sampled = Signal(object)

    def __init__(self, panel: Panel, networks: making.Networks, device: Callable[[], str]) -> None:
        super().__init__()
        self.panel, self.session, self.networks, self._device = panel, panel.session, networks, device
        self.layouts = making.Layouts()
        self.sampler = JobRunner(self, window_of(panel.viewer))
        tip = "Layouts of real nuclei, moved, turned and exchanged; or drawn from noise by a network."
        self.source = ui.choice(SOURCES, tip, name="Where layouts come from")
        self.structure = NetworkChoice(self.session, "structure")
        self.form = SessionForm(self.session, LayoutSettings)
        self.options = ui.Section("Options of the layout", "Size, classes, and how nuclei are recombined.", False)
        self.options.body.addWidget(self.form)
        tip = "A new layout, as a Labels layer that you can edit; each time another one."
        self.bar = RunBar("Sample a layout", self.sampler, tip)
        self.note = ui.Note()
        self.layer = LayerChoice(panel.viewer, Labels, unusable_labels)
        tip = "The structure network: the bundled one, or one that you trained."
        self.lines = ui.form(("From", self.source), ("Weights", self.structure.native, tip))
        chosen = ui.form(("Layout", self.layer, "The Labels layer that is edited and painted."))
        self.setLayout(ui.column(self.lines, self.options, self.bar, self.note, chosen))
        for signal in (self.source.currentIndexChanged, self.form.changed):
            signal.connect(lambda *_: self.changed.emit())
        self.session.model_changed.connect(self._on_model)
        self.bar.run.connect(self.sample)
        self.sampler.on(finished=self._on_sampled, failed=partial(panel.complain, self.note))
        self.sampler.on(running_changed=lambda _running: self.changed.emit())
        self.sampler.on(cancelled=lambda: self.note.say("Stopped; nothing was made."))

    def _on_model(self) -> None:
        self.structure.follow()
        self.changed.emit()

    def problem(self) -> str:
        """Why no layout can be sampled; empty where one can."""
        dataset = self.session.dataset
        if self.source.currentData() == DRAWN:
            return ""
        if dataset is None or not dataset.has_nuclei:
            return "Open a dataset of labeled nuclei on the page Project, or let the network draw."
        return "Enter how many µm one pixel is, in the step Data." if dataset.missing_scale else ""

    def allow(self, allowed: bool) -> None:
        """Show what can be done; nothing is sampled where it is not ``allowed``."""
        problem = self.problem()
        self.bar.allow(not problem and allowed, problem)
        if problem and not self.sampler.running:
            self.note.say(problem)
        elif self.note.kind == "info":
            self.note.say("")
        self.lines.setRowVisible(self.structure.native, self.source.currentData() == DRAWN)

    def sample(self) -> None:
        """Make another layout, in the background."""
        if self.sampler.running or self.problem():
            return
        self.note.say("")
        try:
            settings = self.form.value(LayoutSettings)
        except HistomixError as error:
            self.panel.complain(self.note, str(error))
            return
        seed = int(np.random.default_rng().integers(HIGHEST_SEED))
        make: Any
        if self.source.currentData() == RECOMBINED:
            make = partial(making.recombine_job, self.layouts, self.session.dataset, settings, seed)
        else:
            make = partial(making.draw_job, self.networks, self.structure.value, settings, seed, self._device())
        self.sampler.start(make, "sampling a layout")

    def _on_sampled(self, sampled: Sampled) -> None:
        self.sampled.emit(sampled)
        self.note.say(f"“{self.layer.layer.name}”: {making.counted(sampled.layout)}.", "good")
