"""Many images: so many synthetic ones for each class, each saved as soon as it is made."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QSpinBox, QWidget

from napari_histomix.methods.usegmix import MixPlan, MixSettings
from napari_histomix.records import Event
from napari_histomix.widgets.base import CropView, Note, Panel, RunBar, form
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.mix.form import MixForm, align, pair
from napari_histomix.widgets.mix.runs import Batch, batch_job
from napari_histomix.widgets.mix.work import MixWork
from napari_histomix.widgets.sections import Section, many


class BatchSection(Section):
    """How many images, how much of each is new, and the run."""

    def __init__(self, panel: Panel, work: MixWork, settings: MixForm, runner: JobRunner) -> None:
        super().__init__("Many images", "Make synthetic images of every class; targets and donors are drawn at random.")
        self.panel, self.work, self.form, self.runner = panel, work, settings, runner
        self.model: Any = None
        self._made: list[MixPlan] = []
        self._seen = 0
        self._running = False
        self._build()
        runner.progressed.connect(self._on_event)
        runner.finished.connect(self._on_finished)
        runner.failed.connect(self._on_failed)
        runner.cancelled.connect(self._on_cancelled)
        runner.running_changed.connect(self._on_running)
        work.opened.connect(self._on_opened)
        work.busy_changed.connect(self._update)
        self._update()

    def _build(self) -> None:
        defaults = MixSettings()
        self.count = QSpinBox()
        self.count.setRange(1, 10_000)
        self.count.setValue(defaults.per_class)
        self.count.setToolTip("How many synthetic images to make of each class.")
        self.low, self.high = QSpinBox(), QSpinBox()
        for box, value, what in ((self.low, defaults.new_area[0], "least"), (self.high, defaults.new_area[1], "most")):
            box.setRange(1, 100)
            box.setSuffix(" %")
            box.setValue(round(100 * value))
            box.setToolTip(f"The {what} of an image that may be replaced or painted anew.")
        self.low.valueChanged.connect(self.high.setMinimum)
        self.high.valueChanged.connect(self.low.setMaximum)
        self.high.setMinimum(self.low.value())
        self.low.setMaximum(self.high.value())
        layout = form()
        layout.addRow("For each class", self.count)
        layout.addRow("New area", pair(self.low, self.high))
        align(layout)
        self.fields = QWidget()
        self.fields.setLayout(layout)
        self.body.addWidget(self.fields)
        self.bar = RunBar(
            "Make the images",
            "Each image is saved as soon as it is made, ready for review.",
            self.runner,
            "Stop at the next step; the images finished so far are kept.",
        )
        self.bar.run.connect(self.run)
        self.body.addWidget(self.bar)
        self.preview = CropView("Being painted")
        self.preview.setToolTip("What the network is painting right now.")
        self.preview.smooth = True
        self.preview.setFixedHeight(170)
        self.preview.hide()
        self.body.addWidget(self.preview)
        self.note = Note()
        self.body.addWidget(self.note)

    def settings(self) -> MixSettings:
        """What the forms say."""
        return self.form.settings(self.count.value(), (self.low.value() / 100, self.high.value() / 100))

    def run(self) -> None:
        """Make the images in the background."""
        work = self.work
        if work.problem(self.runner) or self.runner.running:
            return
        self.note.say("")
        self._made, self._seen, self._running = [], 0, True
        make = batch_job(
            work.study, work.pool, work.dataset, self.settings(), self._made, self.model, self.form.model_folder
        )
        self.runner.start(make, "mixing tissue")

    def _on_running(self, running: bool) -> None:
        self.fields.setEnabled(not running)
        self.preview.show_pixels(None)
        self.preview.hide()
        self.state.setText("working …" if running else "")

    def _on_event(self, event: Event) -> None:
        if event.preview is not None:
            self.preview.show_pixels(event.preview)
            self.preview.show()
        if event.message:
            self.note.say(event.message, "warning")
        self._take_made()

    def _take_made(self) -> None:
        if len(self._made) > self._seen:
            self._seen = len(self._made)
            self.work.refresh()

    def _on_finished(self, batch: Batch) -> None:
        self._running = False
        self._take_made()
        why = " ".join(f"{reason[:1].upper()}{reason[1:]}." for reason in batch.reasons)
        if batch.made < batch.wanted:
            self.note.say(f"{batch.made} of {many(batch.wanted, 'image')} made. {why}", "warning")
        else:
            self.note.say(f"{many(batch.made, 'image')} made. Review them below.", "good")

    def _on_failed(self, sentence: str) -> None:
        self._running = False
        self._take_made()
        self.panel.complain(self.note, f"{sentence} {self._kept()}".strip())

    def _on_cancelled(self) -> None:
        # A run that was given up because another study is open has nothing to say any more.
        if self._running:
            self._running = False
            self._take_made()
            self.note.say(f"Stopped. {self._kept() or 'No image was finished.'}")

    def _kept(self) -> str:
        return f"{many(len(self._made), 'finished image')} kept." if self._made else ""

    def _on_opened(self) -> None:
        self._running = False
        self.runner.discard()
        self.note.say("")
        self._update()

    def _update(self) -> None:
        why = self.work.problem(self.runner)
        self.bar.allow(not why, why)
