"""The tab *Reader test* of Results: make a blinded real-or-synthetic test, answer it, and see the report."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from napari.layers import Layer
from qtpy.compat import isalive
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import QWidget

from napari_histomix.evaluation.reader_test.folder import TAKEN_OUT, MadeTest, ReaderTest, make_reader_test
from napari_histomix.evaluation.reader_test.reading import Reading
from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.study import Study
from napari_histomix.study.changes import ChangeTable
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.charts import PictureWindow
from napari_histomix.widgets.forms import SettingsForm
from napari_histomix.widgets.jobs import JobRunner, single
from napari_histomix.widgets.reading_page import ReadingPage
from napari_histomix.widgets.session import Session

HOW = (
    "You see one crop at a time and say whether it is real or synthetic, with a click or the keys 1 to 4. Take the "
    "time you need: it is measured, but not while you pause. You can go back one step. The canvas shows the crop alone."
)
QUIET = 300
"""Milliseconds without a decision before the study is looked at again."""
NOTHING = "Open a study with synthetic nuclei or tissue."
NAME = "reader test"
"""Of the folder of a test."""
OFFERED = "{count:,} approved {what}", "{count:,} {what}, all but rejected"
ONE_OF = {"nuclei": "nucleus", "images": "image"}
"""What a test can be made of, and one of it."""


@dataclass(frozen=True, eq=False)
class Offer:
    """A study that a test can be made of; of nuclei and images in it how many are approved, and not taken out."""

    study: Study
    counts: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, study: Study, table: ChangeTable, decisions: Mapping[int, str]) -> Self:
        if not len(table):
            raise HistomixError("There is nothing synthetic in the study yet; synthesize something first.")
        counts = {}
        for about, rows in (("nuclei", table.in_place), ("images", ~table.in_place)):
            states = [decisions.get(number) for number in table.ids[rows].tolist()]
            if states:
                counts[about] = states.count("approve"), sum(state not in TAKEN_OUT for state in states)
        return cls(study, counts)

    @property
    def choices(self) -> list[tuple[str, tuple[str, bool], int]]:
        """What can be shown: in words, as what it is about and whether also what is undecided, and how many."""
        return [
            (words.format(count=count, what=ONE_OF[about] if count == 1 else about), (about, undecided), count)
            for about, counts in self.counts.items()
            for count, words, undecided in zip(counts, OFFERED, (False, True), strict=True)
        ]


class MakeSection(ui.Section):
    """A form, and the run that writes a test."""

    def __init__(self, panel: Panel) -> None:
        super().__init__("Make a test", "Make a new test out of a study's synthetic nuclei or tissue.")
        self.panel, self.session = panel, panel.session
        self.offer: Offer | None = None
        self.folder: Path | None = None
        self._chosen: Path | None = None
        self.looker = JobRunner(self).on(finished=self._on_offer, failed=self._on_no_offer)
        self._later = ui.later(self, QUIET, self.look)
        self._build()
        panel.runner.on(failed=partial(panel.complain, self.note))
        panel.runner.on(cancelled=lambda: self.note.say("Stopped. Nothing was written."))
        for signal in (self.session.study_changed, self.session.changes_changed):
            signal.connect(self._later.start)
        for signal in (self.session.changes_made, self.session.changes_decided):
            signal.connect(lambda _ids: self._later.start())
        self._update()

    def _build(self) -> None:
        self.empty, self.note = ui.Note(NOTHING), ui.Note()
        self.study_label, self.folder_label = ui.label(wrap=False), ui.label(wrap=False)
        self.study_button = ui.asking_button(
            "Other …",
            "Choose the folder of another study.",
            "A study's folder",
            self._choose_study,
            lambda: self.session.home,
        )
        self.what = ui.choice(
            tip="What may be shown: what was approved in the study, or all that was not rejected.",
            changed=lambda _place: self._update(),
        )
        # Nobody can draw the same crops again, to see which are real, without the sealed truth: no seed is shown.
        self.form = SettingsForm(ReaderTestSettings, omit=("seed",))
        self.folder_button = ui.asking_button(
            "Change …",
            "Choose the folder in which the test's own new folder is made.",
            "The folder in which the test's folder is made",
            lambda parent: self.set_folder(ui.free_folder(parent, NAME)),
        )
        self.bar = RunBar("Make test", self.panel.runner, "Cut the crops and seal the truth; all of it or nothing.")
        self.bar.run.connect(self.run)
        options = ui.form(
            ("Study", ui.row(self.study_label, self.study_button, stretch=0)),
            ("Show", self.what),
            ("Folder", ui.row(self.folder_label, self.folder_button, stretch=0)),
        )
        self.contents_box = ui.box(ui.column(options, self.form, self.bar))
        ui.add(self.body, self.empty, self.contents_box, self.note)

    # The study.

    def look(self) -> None:
        """See what the study holds now: the one chosen here, or the one that is open."""
        session = self.session
        if not self.panel.isVisible():
            return
        study = self._chosen or (session.study if len(session.table) else None)
        if study is None:
            self.offer = None
            self._update()
        elif study is session.study:
            # Known already: no file is read while a person decides on one nucleus after the other.
            self.looker.discard()
            self._on_offer(Offer.of(study, session.table, session.decisions["change"]))
        else:
            self.looker.replace(partial(_look, study), "looking at a study")

    def _choose_study(self, folder: Path) -> None:
        self._chosen = folder
        self.look()

    def _on_offer(self, offer: Offer) -> None:
        other = self.offer is None or self.offer.study.folder != offer.study.folder
        chosen = None if other else self.chosen
        self.offer = offer
        values = [value for _, value, _ in offer.choices]
        if chosen not in values:
            chosen = next((value for _, value, count in offer.choices if count), values[0])
        ui.offer(self.what, [(words, place) for place, (words, _, _) in enumerate(offer.choices)])
        self.what.setCurrentIndex(values.index(chosen))
        if other:
            self.set_folder(ui.free_folder(offer.study.folder, NAME))
        self._update()

    def _on_no_offer(self, sentence: str) -> None:
        self.offer = None
        self._update()
        self.empty.say(sentence, "warning" if self._chosen else "info")

    @property
    def chosen(self) -> tuple[str, bool]:
        """What the test is about, and whether it shows what is undecided, too."""
        assert self.offer is not None
        return self.offer.choices[max(self.what.currentIndex(), 0)][1]

    # Where to.

    def set_folder(self, folder: Path) -> None:
        """Write to this folder, which must not exist yet."""
        self.folder = folder
        self.folder_label.setText(folder.name)
        self.folder_label.setToolTip(f"In the folder {folder.parent.name}. An existing one is never written over.")

    # The run.

    def run(self) -> None:
        if self.panel.runner.running or self.offer is None or self.folder is None:
            return
        self.note.say("")
        session, offer = self.session, self.offer
        own = session.dataset if offer.study is session.study else None
        settings = replace(self.form.value(ReaderTestSettings), seed=secrets.randbelow(2**31))
        folder, (about, undecided) = self.folder, self.chosen

        def job() -> Job[MadeTest]:
            yield Event("Opening the images")
            study, dataset = offer.study, own
            if dataset is None:
                dataset = study.open_images()
            return (yield from make_reader_test(dataset, [study], folder, settings, undecided=undecided, about=about))

        self.panel.runner.start(job, "making a reader test")

    def take(self, made: MadeTest) -> str:
        """Make room for the next test; why this one has fewer crops than were asked for, if it has."""
        if self.folder is not None:
            self.set_folder(ui.free_folder(self.folder.parent, NAME))
        self.open(False)
        wanted = self.form.fields["per_kind"].value
        if made.each >= wanted:
            return ""
        return f" There is no room for {wanted}: no two crops show the same place or donor."

    def _update(self) -> None:
        offer = self.offer
        self.empty.say("" if offer else NOTHING)
        self.contents_box.setVisible(offer is not None)
        if offer is None:
            return
        self.study_label.setText(offer.study.folder.name)
        self.study_label.setToolTip(str(offer.study.folder))
        about, undecided = self.chosen
        for name, of_what in (("copy_paste", "nuclei"), ("side_um", "nuclei"), ("tissue_um", "images")):
            self.form.show_setting(name, of_what == about)
        count = offer.counts[about][undecided]
        self.bar.allow(count > 0, "Approve something first, or show all that was not rejected.")


class ReaderTestPanel(Panel):
    """Open or make a test, answer it, report on it."""

    preferred_size = (440, 860)

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.test: ReaderTest | None = None
        self._hidden: list[Any] = []
        self._report: Path | None = None
        # What a closing window has to close, though the panel is gone by then.
        self._open: list[Reading] = []
        self.opener, self.reporter = JobRunner(self), JobRunner(self)
        self.area = self.scroll()
        self.page = ReadingPage(self)
        self.start = self._build_start()
        self.page.hide()
        ui.add(self.column, self.start, self.page)
        self.column.setStretch(1, 1)
        self.column.addStretch(0)
        self.opener.on(finished=self.take, failed=partial(self.complain, self.note))
        self.reporter.on(finished=self._on_report, failed=partial(self.complain, self.report_note))
        self.runner.finished.connect(self._on_made)
        self.page.left.connect(self.leave)
        self.session.reader_test_requested.connect(self.open_test)
        self.viewer.layers.events.inserted.connect(self._on_layer)
        self.destroyed.connect(partial(_close_all, self._open))
        self._update()

    def _build_start(self) -> QWidget:
        self.title = ui.label(plain=True, style="font-weight: 600;", yields=True)
        self.open_button = ui.asking_button(
            "Open test …",
            "Choose the folder of a reader test.",
            "The folder of a reader test",
            self.open_test,
            lambda: self.test.folder.parent if self.test else self.session.home,
        )
        self.note = ui.Note()
        self._build_answering()
        self._build_report()
        self.making = MakeSection(self)
        opening = ui.row(self.title, self.open_button, stretch=0)
        layout = ui.column(opening, self.note, self.answering, self.reporting, self.making)
        layout.addStretch(1)
        return ui.box(layout)

    def _build_answering(self) -> None:
        self.answering = ui.Section("Answer it", "Go through the crops, under your name.")
        self.reader = ui.line(
            "as it is to stand in the report",
            "Your answers are kept under this name; enter it again to go on where you stopped.",
            lambda _text: self._update(),
        )
        self.reader.returnPressed.connect(self.begin)
        self.start_button = ui.button("Start", pressed=self.begin, primary=True)
        ui.add(self.answering.body, ui.hint(HOW), ui.form(("Your name", self.reader)), self.start_button)

    def _build_report(self) -> None:
        self.reporting = ui.Section(
            "Report", "How readers did; it unseals the truth, so look when all are done.", False
        )
        self.report_button = ui.button(
            "Show report", "Unseal the truth, and write PNG, CSV and JSON to a folder beside the test.", self.report
        )
        self.report_note = ui.Note()
        self.folder_button = ui.folder_button(lambda: self._report and self._report.parent, shown=False)
        self.window_button = ui.button(
            "Open the report", "Show the report's picture in a window of its own.", self._open_report, shown=False
        )
        self.report_window = PictureWindow(self, "Reader test: report")
        ui.add(
            self.reporting.body,
            ui.hint("It shows the answers of all readers beside the truth. Ask for it when everybody is done."),
            self.report_button,
            self.report_note,
            self.window_button,
            self.folder_button,
        )

    # The test.

    def open_test(self, folder: Path) -> None:
        self.note.say("")
        self.opener.replace(single(lambda: ReaderTest.open(folder), "Opening the test"), "opening a reader test")

    def take(self, test: ReaderTest) -> None:
        self.leave()
        self.test = test
        self.reporter.discard()
        self.report_note.say("")
        self._report = None
        self.report_window.close()
        self.window_button.hide()
        self.folder_button.hide()
        self.reporting.open(False)
        self._update()

    def _on_made(self, made: Any) -> None:
        why = self.making.take(made)
        self.take(made.test)
        self.note.say(
            f"A test of {made.each} real and {made.each} synthetic crops was made.{why}", "warning" if why else "good"
        )

    # Answering.

    def begin(self) -> None:
        """Start the test under the reader's name, or go on with it."""
        if self.test is None or not self.reader.text().strip() or self.page.reading is not None:
            return
        try:
            reading = Reading(self.test, self.reader.text())
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        self.note.say("")
        self._open.append(reading)
        self._hide_layers()
        self.start.hide()
        self.page.show()
        self.page.begin(reading)
        self.page.set_active(self.isVisible())

    def leave(self) -> None:
        """Stop for now; what was answered is on disk."""
        reading = self.page.reading
        if reading is None:
            return
        self.page.end()
        self._open.clear()
        self.page.hide()
        self.start.show()
        self._show_layers()
        if reading.finished:
            self.reporting.open()
            self.note.say(f"Thank you, {reading.reader}: all crops are answered.", "good")
        else:
            self.note.say(f"{reading.answered} of {len(reading.test)} crops are answered. Go on whenever you like.")
        self._update()

    # While somebody reads, the canvas must not show what is synthetic.

    def _hide_layers(self) -> None:
        self.book.covered = True
        hidden = [layer for layer in self.viewer.layers if layer.visible and not self.page.crop.owns(layer)]
        self._hidden += hidden
        for layer in hidden:
            layer.visible = False

    def _show_layers(self) -> None:
        self.book.uncover()
        hidden, self._hidden = self._hidden, []
        # One in a turn: each takes napari tens of milliseconds.
        self.book.later(*(partial(self._show_layer, layer) for layer in hidden))

    def _show_layer(self, layer: Layer) -> None:
        if isalive(self) and self._reads:
            self._hidden.append(layer)
        elif layer in self.viewer.layers:
            layer.visible = True

    @property
    def _reads(self) -> bool:
        """Whether somebody is reading a crop now."""
        return self.page.reading is not None and self.isVisible()

    def _on_layer(self, event: Any) -> None:
        if self._reads and event.value.visible and not self.page.crop.owns(event.value):
            self._hidden.append(event.value)
            event.value.visible = False

    # The report.

    def report(self) -> None:
        if self.test is None or self.reporter.running:
            return
        self.report_note.say("")
        # Not in the test's own folder: that is what other readers are given.
        test = self.test
        folder = ui.free_folder(test.folder.parent, f"{test.folder.name} report")

        def write() -> Path:
            from napari_histomix.evaluation.reader_test.report_files import CHART, write_report

            write_report(test, folder)
            return folder / CHART

        self.reporter.start(single(write, "Writing the report"), "writing a report")
        self._update()

    def _on_report(self, picture: Path) -> None:
        self._report = picture
        self.report_note.say(f"Written to the folder {picture.parent.name}, beside the test.", "good")
        self.folder_button.show()
        self.window_button.show()
        self._open_report()

    def _open_report(self) -> None:
        if self._report is not None:
            self.report_window.show_file(self._report)

    # What can be done now.

    def _update(self) -> None:
        test = self.test
        self.title.setText(f"{test.dataset}: {len(test)} crops" if test else "Open a reader test, or make one.")
        self.title.setToolTip(str(test.folder) if test else "")
        self.answering.setVisible(test is not None)
        self.reporting.setVisible(test is not None)
        named = bool(self.reader.text().strip())
        self.start_button.setEnabled(named)
        self.start_button.setToolTip("Begin, or go on where you stopped." if named else "Enter your name first.")

    def showEvent(self, event: QShowEvent) -> None:
        # The page takes the keys over; the crop stays covered until the reader goes on.
        super().showEvent(event)
        self.making.look()
        if self.page.reading is not None:
            self._hide_layers()
        self.page.set_active(True)

    def hideEvent(self, event: QHideEvent) -> None:
        self.page.set_active(False)
        self._show_layers()
        super().hideEvent(event)


def _look(study: Study | Path) -> Job[Offer]:
    yield Event("Looking at the study")
    opened = Study.open(study) if isinstance(study, Path) else study
    return Offer.of(opened, opened.change_table(), opened.decisions("change"))


def _close_all(readings: list[Reading], *_: object) -> None:
    for reading in readings:
        reading.close()
