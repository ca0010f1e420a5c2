"""The tab *One segment* of Make: replace one segment of tissue by a donor that a person chooses (USegMix)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.compat import isalive
from qtpy.QtCore import QTimer

from napari_histomix.methods.mixing import USegMixSettings
from napari_histomix.records import Change, Event, HistomixError
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import RunBar
from napari_histomix.widgets.crops import CropView
from napari_histomix.widgets.forms import SettingLinks
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.loading import Moved, Opened, study_job
from napari_histomix.widgets.mix_donors import (
    Donor,
    DonorGrid,
    Donors,
    SegmentsLayer,
    Target,
    around,
    blend_job,
    donors_job,
    percent,
    target_job,
)
from napari_histomix.widgets.pool.loading import OpenedPool, TissuePanel, pool_job, without_paths
from napari_histomix.widgets.questions import ask_to_stop
from napari_histomix.widgets.session import Session, window_of
from napari_histomix.widgets.session_form import SessionForm

ASK = "Click a segment in the image, or take a random one."
NONE_FITS = "No donor fits here: {reasons}. Loosen a setting that is named under Settings, or choose another target."
WAIT = 300
"""Milliseconds after the last change of a setting before donors are looked for again."""


class MixPanel(TissuePanel):
    """An image of the session's pool, a segment of it, ten donors, and the run that blends one of them in."""

    model: Any = None
    """A loaded model to use in place of the one that the settings name."""
    preferred_size = (420, 860)

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.tissue: OpenedPool | None = None
        self.target: Target | None = None
        self.number = -1
        """The target segment's number in the pool; -1 for none."""
        self._folder: Path | None = None
        self._waiting: Path | None = None
        self._wanted = 0
        self._donors: list[Donor] = []
        self._blending = self._made = -1
        self._rng = np.random.default_rng()
        self.segments = SegmentsLayer(self.viewer, self)
        self.loader, self.previews = JobRunner(self), JobRunner(self)
        self.blender = JobRunner(self, window_of(self.viewer))
        self.session.follow(self.blender, heavy=True)
        self._find_soon = ui.later(self, WAIT, self._find_donors)
        self._build()
        self._connect()
        self._on_study()

    def _build(self) -> None:
        self.area = self.scroll()
        tip = "Choose the folder that holds the images of this study now."
        self.find_button = ui.button("Where are its images?…", tip, self.choose_images, shown=False)

        self.image = ui.choice(tip="The image whose segment is replaced.", name="Image of the target")
        self.image.textActivated.connect(self.choose_image)
        tip = "Take any segment of this image that nobody dropped."
        self.random_button = ui.button("Random target", tip, self.choose_random)
        self.show_button = ui.button("Show", "Show this image and its segments again.", self.show_image)
        self.about = ui.hint(ASK)
        self.grid = DonorGrid()
        self.before, self.after = (CropView(caption, smooth=True, height=190) for caption in ("Now", "Pasted"))
        self.before.setToolTip("The target segment and its surroundings.")
        self.after.setToolTip("The chosen donor in its place; while it is blended, what is being painted.")
        self.views = ui.box(ui.row(self.before, self.after))
        tip = "Make a synthetic image with this donor in the target's place; it is saved, ready for review."
        self.bar = RunBar("Replace and blend", self.blender, tip)
        self.settings = ui.Section("Settings", "How donors are drawn and blended.", False)
        self.form = SessionForm(self.session, USegMixSettings, omit=("per_class", "new_area"))
        self.settings.body.addWidget(self.form)
        self.links = SettingLinks()

        images = ui.row(self.image, self.show_button, self.random_button, stretch=0)
        self.results = ui.box(ui.column(images, self.about, self.grid, self.views, self.bar, self.settings))
        self.empty = ui.Note()
        tip = "Look at it beside the image as it was, approve or reject it."
        self.review_button = ui.button("Review it →", tip, self._review, shown=False)
        lead = self.lead("Build the pool →", "make/plan", "Find the segments of the open images.", beside=self.empty)
        header = ui.row(self.title, self.open_button, stretch=0)
        ui.add(self.column, header, self.empty, lead, self.progress, self.note, self.review_button)
        ui.add(self.column, self.links, self.find_button, self.results)
        self.column.addStretch(1)

    def _connect(self) -> None:
        self.runner.on(finished=self._on_opened)
        self.loader.on(finished=self._on_loaded)
        self.previews.on(progressed=lambda _event: self.grid.fill(tuple(self._donors)), finished=self._on_donors)
        self.grid.chosen.connect(self._on_chosen)
        self.bar.run.connect(self.run)
        self.blender.on(progressed=self._on_event, finished=self._on_blended, running_changed=self._on_running)
        self.blender.on(
            cancelled=lambda: self._end_blending("Stopped. Nothing was kept."),
            failed=lambda _sentence: self._end_blending(),
        )
        for runner in (self.loader, self.previews, self.blender):
            runner.failed.connect(self.fail)
        self.segments.selected.connect(self.choose)
        self.places.clicked.connect(self.on_clicked)
        self.form.changed.connect(self._find_soon.start)
        self.session.study_changed.connect(self._on_study)
        self.session.image_changed.connect(self._on_image)

    # Opening: the study is the session's.

    def choose_images(self) -> None:
        folder = ui.ask_folder(self, "The folder that holds the study's images")
        if folder and self._folder is not None:
            self.open_study(self._folder, folder)

    def open_study(self, folder: Path, images: Path | None = None) -> None:
        study = self.session.study
        self._folder = Path(folder)
        if images is None and study is not None and study.folder.resolve() == self._folder.resolve():
            self._on_study()
            return
        if not ask_to_stop(self, self.session.under_way):
            return
        self._say_nothing()
        self.find_button.hide()
        job = partial(study_job, self._folder, images, self.session.lock(folder))
        self.runner.replace(job, "opening the study")

    def _on_opened(self, opened: Opened | Moved) -> None:
        if isinstance(opened, Opened):
            self.session.take_opened(opened)
        else:
            self.find_button.show()
            self.complain(self.note, f"The images of {opened.folder.name} are not where they were.")

    def _on_pool(self, folder: Any, by: Any) -> None:
        # Not in the middle of a run, which works on the pool as it was.
        if isalive(self) and self.blender.running:
            self._waiting = None if by is self else folder
        else:
            super()._on_pool(folder, by)

    def _on_study(self) -> None:
        for runner in (self.blender, self.previews, self.loader):
            runner.discard()
        self._find_soon.stop()
        self.tissue, self.target, self.number, self._wanted, self._blending = None, None, -1, 0, -1
        self.segments.clear()
        self.image.clear()
        self._clear()
        self._say_nothing()
        self.results.hide()
        self.find_button.hide()
        study, dataset = self.session.study, self.session.dataset
        if study is None or dataset is None or not dataset.has_kinds:
            self.title.clear()
            self.empty.say("Here you replace one segment by another. Build a pool, or open a study that has one.")
            return
        self.empty.say("")
        self.title.setText(f"<b>{study.folder.name}</b>")
        self.loader.replace(pool_job(study), "reading the segment pool")

    def _on_loaded(self, result: Target | OpenedPool) -> None:
        if isinstance(result, Target):
            self._on_target(result)
        elif result.curation is None:
            self.complain(self.note, result.problem)
        else:
            self._on_tissue(replace(result, dataset=self.session.dataset))

    def _on_tissue(self, tissue: OpenedPool) -> None:
        self.tissue, folder = tissue, tissue.study.folder
        self.title.setText(f"<b>{folder.name}</b> · {ui.many(len(tissue.pool), 'segment')}")
        known = {entry.source.image for entry in tissue.dataset.training}
        self.image.addItems([name for name in tissue.images if name in known])
        if not self.image.count():
            why = f"None of the images of {folder.name} is among the training images of {tissue.dataset.name}."
            self.complain(self.note, why)
            return
        self.results.show()
        self.session.share_pool(folder, self)
        self.choose_image(self.image.itemText(0))

    # Image and segment.

    def choose_image(self, name: str, label: int = 0) -> None:
        """Show an image of the pool, and make one of its segments the target where its label is given."""
        place = self.image.findText(name)
        if place < 0 or self.tissue is None:
            return
        self.image.setCurrentIndex(place)
        if self._target_name() == name and not self.loader.busy:
            self.show_image()
            if label:
                self.choose(label)
            return
        self._wanted = label
        self.previews.discard()
        self.target, self.number = None, -1
        self._clear()
        self.about.setText("Reading the image …")
        self.loader.replace(target_job(self.tissue, name), "reading an image")

    def _target_name(self) -> str:
        return self.target.image.source.image if self.target is not None else ""

    def _on_target(self, target: Target) -> None:
        self.target = target
        self._say_nothing()
        self.session.show(target.image.source.image)
        self.segments.show(target.image, target.labels)
        self.segments.mark(0)
        label, self._wanted = self._wanted, 0
        if not target.numbers:
            self.about.setText("All segments of this image were dropped; keep some of them in the tab Pool.")
        elif label:
            self.choose(label)
        else:
            self.about.setText(ASK)
        self._update()

    def show_image(self) -> None:
        if self.target is None:
            return
        self.session.show(self._target_name())
        if self.segments.layer is None:
            # A person removed it.
            self.segments.show(self.target.image, self.target.labels)
            labels = (label for label, number in self.target.numbers.items() if number == self.number)
            self.segments.mark(next(labels, 0))
        self.segments.bring()

    def _on_image(self, name: str) -> None:
        # Another image may lie in the same place.
        if self.target is not None:
            self.segments.bring(name == self._target_name())

    def on_clicked(self, image: str, label: int) -> None:
        if self._target_name() == image:
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
        self.segments.mark(label)
        self._find_donors()

    # Donors.

    def _find_donors(self) -> None:
        target, tissue = self.target, self.tissue
        if target is None or tissue is None or self.number < 0:
            return
        self._clear()
        self._say_nothing()
        try:
            settings = self.form.value(USegMixSettings)
        except HistomixError as error:
            self.fail(str(error))
            return
        segment = tissue.pool.segment(self.number)
        self.before.show_pixels(target.image.pixels[around(segment, target.image.pixels.shape)])
        size = segment.area * target.image.mpp**2
        self.about.setText(f"{target.image.kind} · segment {segment.number} · {size:,.0f} µm² · looking for donors …")
        self._donors = []
        make = donors_job(tissue, target, self.number, settings, self._donors)
        self.previews.replace(make, "preparing donors")
        self._update()

    def _on_donors(self, found: Donors) -> None:
        donors = found.donors
        self.grid.fill(donors)
        words = self.about.text().rpartition(" · ")[0]
        likeliest = "the likeliest donor" if len(donors) == 1 else f"the {len(donors)} likeliest donors"
        self.about.setText(f"{words} · {likeliest if donors else 'no donor'}")
        reasons = ", ".join(f"{reason} ({count})" for reason, count in found.refusals.most_common())
        self.note.say("" if donors else NONE_FITS.format(reasons=reasons), "warning")
        self.links.show_named("" if donors else reasons, self.form)
        self._update()

    def _clear(self) -> None:
        self.grid.clear()
        self.links.show_named("", self.form)
        self.before.show_pixels(None)
        self.after.show_pixels(None, "Pasted")
        self._update()

    def _on_chosen(self, donor: Donor) -> None:
        if self._blending != self.number:
            self.after.show_pixels(donor.crop, f"Pasted · {percent(donor.painted)} to paint")
        self._update()

    # The run.

    def run(self) -> None:
        donor = self.grid.donor
        if donor is None or self.tissue is None or self.blender.running:
            return
        self._say_nothing()
        try:
            make = blend_job(self.tissue, donor.plan, self.form.value(USegMixSettings), self.model)
        except HistomixError as error:
            self.fail(str(error))
            return
        self._blending = self.number
        self.blender.start(make, "blending a segment")

    def _on_running(self, running: bool) -> None:
        self.form.setEnabled(not running)
        self.open_button.setEnabled(not running)
        self.running_changed.emit(running)
        if not running and self._waiting is not None:
            folder, self._waiting = self._waiting, None
            QTimer.singleShot(0, lambda: self._on_pool(folder, None))

    def _on_event(self, event: Event) -> None:
        if event.preview is not None and self._blending == self.number:
            self.after.show_pixels(event.preview, "Being painted")
        if event.message:
            self.note.say(event.message, "warning")

    def _on_blended(self, change: Change) -> None:
        if self._blending == self.number and self.target is not None and self.tissue is not None:
            segment = self.tissue.pool.segment(self.number)
            self.after.show_pixels(change.pixels[around(segment, change.pixels.shape)], "Blended")
        self._blending = -1
        self.session.take_made([change.id])
        self._made = change.id
        self.note.say(f"{change.name} is made.", "good")
        self.review_button.show()

    def _say_nothing(self) -> None:
        self.note.say("")
        self.review_button.hide()

    def _review(self) -> None:
        self.session.page_requested.emit(f"review/{self._made}")

    def _end_blending(self, sentence: str = "") -> None:
        if sentence and self._blending >= 0:
            self.note.say(sentence)
        same, self._blending = self._blending == self.number, -1
        if same and self.grid.donor is not None:
            self._on_chosen(self.grid.donor)

    def fail(self, sentence: str) -> None:
        if self.target is None or self.grid.count == 0:
            self.about.setText(ASK if self.target is not None else "")
        self.complain(self.note, without_paths(sentence, self._folder))
        self._update()

    def _update(self) -> None:
        self.views.setVisible(self.number >= 0)
        self.random_button.setEnabled(self.target is not None and bool(self.target.numbers))
        self.show_button.setEnabled(self.target is not None)
        why = "" if self.grid.donor else "Choose a target first." if self.number < 0 else "There is no donor yet."
        self.bar.allow(not why, why)
