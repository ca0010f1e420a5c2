"""One target: choose an image and a segment in it, look at the likeliest donors, replace it with one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QPushButton, QWidget

from napari_histomix.records import Event, MixedImage
from napari_histomix.widgets.base import CropView, Note, Panel, RunBar, hint, narrow, row
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.mix.form import MixForm
from napari_histomix.widgets.mix.jobs import Donor, Target, around, donors_job, one_job, target_job
from napari_histomix.widgets.mix.layers import TARGET, MixLayers
from napari_histomix.widgets.mix.preview import DonorGrid
from napari_histomix.widgets.mix.work import MixWork
from napari_histomix.widgets.sections import Section

ASK = "Click a segment in the image, or take a random one."
WAIT = 300
"""Milliseconds after the last change of a setting before donors are looked for again."""


class TargetSection(Section):
    """An image, a segment of it, ten donors, and the run that blends one of them in."""

    blended = Signal(int)
    """Number of a new synthetic image."""

    def __init__(self, panel: Panel, work: MixWork, layers: MixLayers, form: MixForm, runner: JobRunner) -> None:
        super().__init__("One target", "Replace one segment with a donor that you choose.")
        self.panel, self.work, self.layers, self.form, self.runner = panel, work, layers, form, runner
        self.model: Any = None
        self.target: Target | None = None
        self.number = -1
        """The target segment's number in the pool; -1 for none."""
        self._wanted = 0
        self._found: list[Donor] = []
        self._blending = -1
        self._rng = np.random.default_rng()
        self.loader, self.previews = JobRunner(self), JobRunner(self)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(WAIT)
        self._soon.timeout.connect(self._look)
        self._build()
        self.loader.finished.connect(self._on_target)
        self.loader.failed.connect(self._on_failed)
        self.previews.progressed.connect(lambda _event: self._fill())
        self.previews.finished.connect(self._on_donors)
        self.previews.failed.connect(self._on_failed)
        self.runner.progressed.connect(self._on_event)
        self.runner.finished.connect(self._on_blended)
        self.runner.failed.connect(self._on_run_failed)
        self.runner.cancelled.connect(self._on_cancelled)
        self.layers.selected.connect(self.choose)
        self.form.drawing_changed.connect(self._soon.start)
        self.work.opened.connect(self._on_opened)
        self.work.busy_changed.connect(self._update)
        self._update()

    def _build(self) -> None:
        self.image = QComboBox()
        narrow(self.image)
        self.image.setToolTip("The image whose segment is replaced.")
        self.image.setAccessibleName("Image of the target")
        self.image.activated.connect(lambda _index: self.choose_image(self.image.currentData()))
        self.random_button = QPushButton("Random target")
        self.random_button.setToolTip("Take any segment of this image that nobody dropped.")
        self.random_button.clicked.connect(self.choose_random)
        self.show_button = QPushButton("Show")
        self.show_button.setToolTip("Show this image and its segments again.")
        self.show_button.clicked.connect(self.show_image)
        self.body.addLayout(row(self.image, self.show_button, self.random_button, stretch=0))
        self.about = hint(ASK)
        self.body.addWidget(self.about)
        self.grid = DonorGrid()
        self.grid.chosen.connect(self._on_chosen)
        self.body.addWidget(self.grid)
        self.before, self.after = CropView("Now"), CropView("Pasted")
        self.before.setToolTip("The target segment and its surroundings.")
        self.after.setToolTip("The chosen donor in its place; while it is blended, what is being painted.")
        self.views = QWidget()
        views = QHBoxLayout(self.views)
        views.setContentsMargins(0, 0, 0, 0)
        views.setSpacing(3)
        for view in (self.before, self.after):
            view.smooth = True
            view.setFixedHeight(190)
            views.addWidget(view, 1)
        self.body.addWidget(self.views)
        self.bar = RunBar(
            "Replace and blend",
            "Make a synthetic image with this donor in the target's place; it is saved, ready for review.",
            self.runner,
        )
        self.bar.run.connect(self.run)
        self.body.addWidget(self.bar)
        self.note = Note()
        self.body.addWidget(self.note)

    # Image and segment.

    def _on_opened(self) -> None:
        self.runner.discard()
        self.previews.discard()
        self.loader.discard()
        self._soon.stop()
        self.target, self.number, self._wanted, self._blending = None, -1, 0, -1
        self._clear()
        self.note.say("")
        self.image.clear()
        work = self.work
        if work.pool is None or work.dataset is None:
            return
        known = {entry.source.image for entry in work.dataset.training}
        for name in dict.fromkeys(one.source.image for one in work.pool.images):
            if name in known:
                self.image.addItem(name, name)
        self.choose_image(self.image.itemData(0))

    def choose_image(self, name: str, label: int = 0) -> None:
        """Show an image of the pool, and make one of its segments the target where its label is given."""
        place = self.image.findData(name)
        if place < 0 or self.work.study is None:
            return
        self.image.setCurrentIndex(place)
        if self.target is not None and self.target.image.source.image == name and not self.loader.busy:
            self.show_image()
            if label:
                self.choose(label)
            return
        self._wanted = label
        self.previews.discard()
        self.target, self.number = None, -1
        self._clear()
        self.about.setText("Reading the image …")
        work = self.work
        self.loader.replace(target_job(work.study, work.pool, work.dataset, name), "reading an image")

    def _on_target(self, target: Target) -> None:
        self.target = target
        self.note.say("")
        self.layers.show_target(target.image, target.labels)
        self.layers.mark(0)
        label, self._wanted = self._wanted, 0
        if not target.numbers:
            self.about.setText("All segments of this image were dropped; keep some of them in HistoMix: Pool.")
        elif label:
            self.choose(label)
        else:
            self.about.setText(ASK)
        self._update()

    def show_image(self) -> None:
        """Bring the target's image back onto the screen."""
        if self.target is None:
            return
        if self.layers.layer("image") is None or self.layers.layer("segments") is None:
            # A person removed it.
            self.layers.show_target(self.target.image, self.target.labels)
            self.layers.mark(self._label())
        else:
            self.layers.look(TARGET)

    def on_clicked(self, image: str, label: int) -> None:
        """A segment was clicked in the viewer."""
        if self.target is not None and self.target.image.source.image == image:
            self.choose(label)
        else:
            self.choose_image(image, label)

    def choose_random(self) -> None:
        """Make any segment of the image the target, but not the same one again."""
        if self.target is None:
            return
        labels = [label for label, number in sorted(self.target.numbers.items()) if number != self.number]
        if labels:
            self.show_image()
            self.choose(int(self._rng.choice(labels)))

    def choose(self, label: int) -> None:
        """Make a segment of the image the target, by its label."""
        if self.target is None:
            return
        number = self.target.numbers.get(label, -1)
        if number < 0:
            if label:
                self.note.say("What you clicked is no segment of the pool.", "warning")
            return
        if number == self.number and (self.previews.busy or self.grid.count):
            return
        self.number = number
        self.layers.mark(label)
        self._look()

    def _label(self) -> int:
        numbers = self.target.numbers if self.target is not None else {}
        return next((label for label, number in numbers.items() if number == self.number), 0)

    # Donors.

    def _look(self) -> None:
        work, target = self.work, self.target
        if target is None or self.number < 0 or work.study is None or work.pool is None or work.dataset is None:
            return
        self._clear()
        self.note.say("")
        segment = work.pool.segment(self.number)
        box = around(segment, target.image.pixels.shape)
        self.before.show_pixels(np.ascontiguousarray(target.image.pixels[box]))
        kind = work.curation.kind_of(self.number) if work.curation is not None else target.image.kind
        size = segment.area * target.image.mpp**2
        self.about.setText(f"{kind} · segment {segment.number} · {size:,.0f} µm² · looking for donors …")
        self._found = []
        self.previews.replace(
            donors_job(work.study, work.pool, work.dataset, target, self.number, self.form.settings(), self._found),
            "preparing donors",
        )
        self._update()

    def _fill(self) -> None:
        self.grid.fill(tuple(self._found))

    def _on_donors(self, found: list[Donor]) -> None:
        self.grid.fill(found)
        words = self.about.text().rpartition(" · ")[0]
        if found:
            of = "the likeliest donor" if len(found) == 1 else f"the {len(found)} likeliest donors"
            self.about.setText(f"{words} · {of}")
        else:
            self.about.setText(f"{words} · no donor")
            self.note.say(
                "No segment of its class may take its place: there is none of a fitting size from another patient. "
                "Widen the donor size or allow the same patient under Settings, or choose another target.",
                "warning",
            )
        self._update()

    def _clear(self) -> None:
        self.grid.clear()
        self.before.show_pixels(None)
        self.after.show_pixels(None, "Pasted")
        self._update()

    def _on_chosen(self, donor: Donor) -> None:
        if self._blending != self.number:
            self.after.show_pixels(donor.crop, f"Pasted · {donor.image}")
        self._update()

    # The run.

    def run(self) -> None:
        """Blend the chosen donor in, in the background."""
        donor, work = self.grid.donor, self.work
        if donor is None or work.problem(self.runner) or self.runner.running:
            return
        self.note.say("")
        self._blending = self.number
        make = one_job(
            work.study, work.pool, work.dataset, donor.plan, self.form.settings(), self.model, self.form.model_folder
        )
        self.runner.start(make, "blending a segment")

    def _on_event(self, event: Event) -> None:
        if event.preview is not None and self._blending == self.number:
            self.after.show_pixels(event.preview, "Being painted")
        if event.message:
            self.note.say(event.message, "warning")

    def _on_blended(self, made: tuple[int, MixedImage]) -> None:
        number, mix = made
        if self._blending == self.number and self.target is not None and self.work.pool is not None:
            box = around(self.work.pool.segment(self.number), mix.pixels.shape)
            self.after.show_pixels(mix.pixels[box], "Blended")
        self._blending = -1
        self.note.say(f"{mix.name} is made. It waits for your review.", "good")
        self.work.learn({number: mix.kind})
        self.work.refresh()
        self.blended.emit(number)

    def _on_cancelled(self) -> None:
        if self._blending >= 0:
            self.note.say("Stopped. Nothing was kept.")
        self._end_blending()

    def _on_run_failed(self, sentence: str) -> None:
        self._end_blending()
        self._on_failed(sentence)

    def _end_blending(self) -> None:
        same, self._blending = self._blending == self.number, -1
        if same and self.grid.donor is not None:
            self._on_chosen(self.grid.donor)

    def _on_failed(self, sentence: str) -> None:
        if self.target is None or self.grid.count == 0:
            self.about.setText(ASK if self.target is not None else "")
        self.panel.complain(self.note, sentence)
        self._update()

    def _update(self) -> None:
        self.views.setVisible(self.number >= 0)
        some = self.target is not None and bool(self.target.numbers)
        self.random_button.setEnabled(some)
        self.show_button.setEnabled(self.target is not None)
        why = self.work.problem(self.runner)
        if not why and self.grid.donor is None:
            why = "Choose a target first." if self.number < 0 else "There is no donor yet."
        self.bar.allow(not why, why)
