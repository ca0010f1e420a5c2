"""A dock of its own: make a blinded real-or-synthetic test, answer it, and see the report."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from qtpy.QtCore import QSize, Qt, QTimer, QUrl, Signal
from qtpy.QtGui import QDesktopServices, QHideEvent, QShowEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_histomix.datasets import Dataset, open_any
from napari_histomix.datasets.splits import with_chosen_splits
from napari_histomix.evaluation.reader_test.folder import TAKEN_OUT, MadeTest, ReaderTest, make_reader_test
from napari_histomix.evaluation.reader_test.reading import Reading
from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.study import Study
from napari_histomix.study.changes import ChangeTable
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.elements import PRIMARY, SPACE, Note, Picture, Section, form, hint, narrow, row
from napari_histomix.widgets.jobs import JobRunner, single
from napari_histomix.widgets.reading_page import ReadingPage
from napari_histomix.widgets.session import Session


@dataclass(frozen=True, eq=False)
class Offer:
    """A study that a test can be made of, and how much of it is approved, or not taken out."""

    study: Study
    images: bool
    """Whether it holds whole images, not nuclei in images."""
    approved: int
    left: int

    @classmethod
    def of(cls, study: Study, table: ChangeTable, decisions: Mapping[int, str]) -> Self:
        """Count the decisions on all that a study holds.

        Raises
        ------
        HistomixError
            If it holds nothing.
        """
        if not len(table):
            raise HistomixError("There is nothing synthetic in the study yet; synthesize something first.")
        states = [decisions.get(number) for number in table.ids.tolist()]
        in_place = table.made_names[table.names[0]] == table.image_names[table.images[0]]
        return cls(study, not in_place, states.count("approve"), sum(state not in TAKEN_OUT for state in states))


def look_job(study: Study | Path) -> Callable[[], Job[Offer]]:
    """See what a study holds."""

    def job() -> Job[Offer]:
        yield Event("Looking at the study")
        opened = Study.open(study) if isinstance(study, Path) else study
        return Offer.of(opened, opened.change_table(), opened.decisions("change"))

    return job


def make_job(
    offer: Offer, dataset: Dataset | None, out: Path, settings: ReaderTestSettings, undecided: bool
) -> Callable[[], Job[MadeTest]]:
    """Make a test of a study; ``dataset`` is its own where it is open already."""

    def job() -> Job[MadeTest]:
        yield Event("Opening the images")
        study, images = offer.study, dataset
        if images is None:
            images = with_chosen_splits(open_any(study.locate(), study.mpp), study.settings())
        return (yield from make_reader_test(images, [study], out, settings, undecided=undecided))

    return job


def open_job(folder: Path) -> Callable[[], Job[ReaderTest]]:
    """Open a test."""
    return single(lambda: ReaderTest.open(folder), "Opening the test")


def report_job(test: ReaderTest, out: Path) -> Callable[[], Job[Path]]:
    """Write the report of a test; the result is the picture of it."""

    def write() -> Path:
        from napari_histomix.evaluation.reader_test.report_files import CHART, write_report

        write_report(test, out)
        return out / CHART

    return single(write, "Writing the report")


QUIET = 300
"""Milliseconds without a decision before the study is looked at again."""
APPROVED, UNDECIDED = "approved", "all but rejected"


class MakeSection(Section):
    """A form, and the run that writes a test."""

    made = Signal(object)
    """The ``MadeTest``."""

    def __init__(self, panel: Panel) -> None:
        super().__init__("Make a test", "Make a new test out of a study's synthetic nuclei or tissue.")
        self.panel, self.session = panel, panel.session
        self.offer: Offer | None = None
        self.folder: Path | None = None
        self._chosen: Path | None = None
        self.looker = JobRunner(self)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(QUIET)
        self._later.timeout.connect(self.look)
        self._build()
        self.looker.finished.connect(self._on_offer)
        self.looker.failed.connect(self._on_no_offer)
        panel.runner.failed.connect(lambda sentence: panel.complain(self.note, sentence))
        panel.runner.cancelled.connect(lambda: self.note.say("Stopped. Nothing was written."))
        for signal in (self.session.study_changed, self.session.changes_changed):
            signal.connect(self._later.start)
        for signal in (self.session.changes_made, self.session.changes_decided):
            signal.connect(lambda _ids: self._later.start())
        self._update()

    def _build(self) -> None:
        self.empty = Note("Open a study with synthetic nuclei or tissue.")
        self.body.addWidget(self.empty)
        self.study_label = QLabel()
        self.study_button = QPushButton("Other …")
        self.study_button.setToolTip("Choose the folder of another study.")
        self.study_button.clicked.connect(self._ask_study)
        self.what = QComboBox()
        narrow(self.what)
        self.what.setToolTip("What may be shown: what was approved in the study, or all that was not rejected.")
        self.what.currentIndexChanged.connect(lambda _index: self._update())
        self.count = QSpinBox()
        self.count.setRange(1, 1000)
        self.count.setValue(ReaderTestSettings.per_kind)
        self.count.setSuffix(" real, as many synthetic")
        self.count.setToolTip(
            "Fewer are shown where there is no room for more: no two crops show the same place or the same donor."
        )
        self.paste = QCheckBox("Also donors pasted without blending")
        self.paste.setToolTip("As a method of its own: what blending has to be better than. Part of the same number.")
        self.folder_label = QLabel()
        self.folder_button = QPushButton("Change …")
        self.folder_button.setToolTip("Choose the folder in which the test's own new folder is made.")
        self.folder_button.clicked.connect(self._ask_folder)
        self.contents_box = QWidget()
        layout = form()
        layout.addRow("Study", row(self.study_label, self.study_button, stretch=0))
        layout.addRow("Show", self.what)
        layout.addRow("Crops", self.count)
        layout.addRow("", self.paste)
        layout.addRow("Folder", row(self.folder_label, self.folder_button, stretch=0))
        self.bar = RunBar("Make test", self.panel.runner, "Cut the crops and seal the truth; all of it or nothing.")
        self.bar.run.connect(self.run)
        column = QVBoxLayout(self.contents_box)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE)
        column.addLayout(layout)
        column.addWidget(self.bar)
        self.body.addWidget(self.contents_box)
        self.note = Note()
        self.body.addWidget(self.note)

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
            self.looker.replace(look_job(study), "looking at a study")

    def choose_study(self, folder: Path) -> None:
        """Make tests of the study in a folder."""
        self._chosen = folder
        self.look()

    def _ask_study(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A study's folder", str(self.session.home))
        if folder:
            self.choose_study(Path(folder))

    def _on_offer(self, offer: Offer) -> None:
        other = self.offer is None or self.offer.study.folder != offer.study.folder
        index = int(not offer.approved) if other else self.what.currentIndex()
        self.offer = offer
        what = "images" if offer.images else "nuclei"
        self.what.clear()
        self.what.addItem(f"{offer.approved:,} {APPROVED} {what}", False)
        self.what.addItem(f"{offer.left:,} {what}, {UNDECIDED}", True)
        self.what.setCurrentIndex(index)
        if other:
            self.propose(offer.study.folder)
        self._update()

    def _on_no_offer(self, sentence: str) -> None:
        self.offer = None
        self._update()
        self.empty.say(sentence, "warning" if self._chosen else "info")

    # Where to.

    def set_folder(self, folder: Path) -> None:
        """Write to this folder, which must not exist yet."""
        self.folder = folder
        self.folder_label.setText(folder.name)
        self.folder_label.setToolTip(f"In the folder {folder.parent.name}. An existing one is never written over.")

    def propose(self, parent: Path) -> None:
        """Propose a folder that is not there yet."""
        folder, number = parent / "reader test", 2
        while folder.exists():
            folder, number = parent / f"reader test {number}", number + 1
        self.set_folder(folder)

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "The folder in which the test's folder is made")
        if folder:
            self.propose(Path(folder))

    # The run.

    def run(self) -> None:
        """Make the test in the background."""
        if self.panel.runner.running or self.offer is None or self.folder is None:
            return
        self.note.say("")
        session, offer = self.session, self.offer
        own = session.dataset if offer.study is session.study else None
        # Nobody can draw the same crops again, to see which are real, without the sealed truth.
        settings = ReaderTestSettings(
            per_kind=self.count.value(),
            copy_paste=self.paste.isChecked() and not offer.images,
            seed=secrets.randbelow(2**31),
        )
        job = make_job(offer, own, self.folder, settings, bool(self.what.currentData()))
        self.panel.runner.start(job, "making a reader test")

    def take(self, made: MadeTest) -> str:
        """Make room for the next test; why this one has fewer crops than were asked for, if it has."""
        if self.folder is not None:
            self.propose(self.folder.parent)
        self.open(False)
        few, wanted = made.each < self.count.value(), self.count.value()
        return f" There is no room for {wanted}: no two crops show the same place or donor." if few else ""

    def _update(self) -> None:
        offer = self.offer
        self.empty.say("" if offer else "Open a study with synthetic nuclei or tissue.")
        self.contents_box.setVisible(offer is not None)
        if offer is None:
            self.state.setText("")
            return
        self.study_label.setText(offer.study.folder.name)
        self.study_label.setToolTip(str(offer.study.folder))
        self.paste.setVisible(not offer.images)
        some = offer.left if self.what.currentData() else offer.approved
        self.bar.allow(some > 0, "Approve something first, or show all that was not rejected.")


HOW = (
    "You see one crop at a time and say whether it is real or synthetic, with a click or the keys 1 to 4. Take the "
    "time you need: it is measured, but not while you pause. You can go back one step. Meanwhile the canvas is empty."
)


class ReaderTestPanel(Panel):
    """Open or make a test, answer it, report on it."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.test: ReaderTest | None = None
        self._hidden: list[Any] = []
        self._report: Path | None = None
        # What a closing window has to close, though the panel is gone by then.
        self._open: list[Reading] = []
        self.opener = JobRunner(self)
        self.reporter = JobRunner(self)
        self.area = self.scroll()
        self.start = QWidget()
        self.page = ReadingPage(self)
        self._build_start()
        self.column.addWidget(self.start)
        self.column.addWidget(self.page, 1)
        self.page.hide()
        self.column.addStretch(0)
        self.opener.finished.connect(self.take)
        self.opener.failed.connect(lambda sentence: self.complain(self.note, sentence))
        self.reporter.finished.connect(self._on_report)
        self.reporter.failed.connect(lambda sentence: self.complain(self.report_note, sentence))
        self.runner.finished.connect(self._on_made)
        self.page.left.connect(self.leave)
        self.viewer.layers.events.inserted.connect(self._on_layer)
        self.destroyed.connect(partial(_close_all, self._open))
        self._update()

    def _build_start(self) -> None:
        column = QVBoxLayout(self.start)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE)
        self.title = QLabel()
        self.title.setTextFormat(Qt.TextFormat.PlainText)
        self.title.setWordWrap(True)
        self.title.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.title.setStyleSheet("QLabel { font-weight: 600; }")
        self.open_button = QPushButton("Open test …")
        self.open_button.setToolTip("Choose the folder of a reader test.")
        self.open_button.clicked.connect(self._ask_test)
        column.addLayout(row(self.title, self.open_button, stretch=0))
        self.note = Note()
        column.addWidget(self.note)
        column.addWidget(self._build_answering())
        column.addWidget(self._build_report())
        self.making = MakeSection(self)
        column.addWidget(self.making)
        column.addStretch(1)

    def _build_answering(self) -> QWidget:
        self.answering = Section("Answer it", "Go through the crops, under your name.")
        self.how = hint(HOW)
        self.reader = QLineEdit()
        self.reader.setPlaceholderText("as it is to stand in the report")
        self.reader.setToolTip("Your answers are kept under this name; enter it again to go on where you stopped.")
        self.reader.textChanged.connect(lambda _text: self._update())
        self.reader.returnPressed.connect(self.begin)
        self.start_button = QPushButton("Start")
        self.start_button.setStyleSheet(PRIMARY)
        self.start_button.clicked.connect(self.begin)
        layout = form()
        layout.addRow("Your name", self.reader)
        self.answering.body.addWidget(self.how)
        self.answering.body.addLayout(layout)
        self.answering.body.addWidget(self.start_button)
        return self.answering

    def _build_report(self) -> QWidget:
        self.reporting = Section("Report", "How readers did; it unseals the truth, so look when all are done.", False)
        self.report_button = QPushButton("Show report")
        self.report_button.setToolTip("Unseal the truth, and write PNG, CSV and JSON to a folder beside the test.")
        self.report_button.clicked.connect(self.report)
        self.report_note = Note()
        self.folder_button = QPushButton("Show the folder")
        self.folder_button.clicked.connect(self._show_folder)
        self.folder_button.hide()
        self.picture = Picture()
        self.reporting.body.addWidget(
            hint("It shows the answers of all readers beside the truth. Ask for it when everybody is done.")
        )
        for widget in (self.report_button, self.report_note, self.folder_button, self.picture):
            self.reporting.body.addWidget(widget)
        return self.reporting

    def sizeHint(self) -> QSize:
        """As the other docks."""
        return QSize(440, 860)

    # The test.

    def _ask_test(self) -> None:
        start = self.test.folder.parent if self.test else self.session.home
        folder = QFileDialog.getExistingDirectory(self, "The folder of a reader test", str(start))
        if folder:
            self.open_test(Path(folder))

    def open_test(self, folder: Path) -> None:
        """Open a reader test in the background."""
        self.note.say("")
        self.opener.replace(open_job(Path(folder)), "opening a reader test")

    def take(self, test: ReaderTest) -> None:
        """Work on a test."""
        self.leave()
        self.test = test
        self.reporter.discard()
        self.report_note.say("")
        self.picture.show_file(None)
        self.folder_button.hide()
        self.reporting.open(False)
        self._update()

    def _on_made(self, made: Any) -> None:
        why = self.making.take(made)
        self.take(made.test)
        said = f"A test of {made.each} real and {made.each} synthetic crops was made.{why}"
        self.note.say(said, "warning" if why else "good")

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
        hidden = [layer for layer in self.viewer.layers if layer.visible]
        self._hidden += hidden
        for layer in hidden:
            layer.visible = False

    def _show_layers(self) -> None:
        for layer in self._hidden:
            if layer in self.viewer.layers:
                layer.visible = True
        self._hidden = []

    def _on_layer(self, event: Any) -> None:
        if self.page.reading is not None and self.isVisible() and event.value.visible:
            self._hidden.append(event.value)
            event.value.visible = False

    # The report.

    def report(self) -> None:
        """Write the report in the background and show it."""
        if self.test is None or self.reporter.running:
            return
        self.report_note.say("")
        # Not in the test's own folder: that is what other readers are given.
        name, number = f"{self.test.folder.name} report", 2
        folder = self.test.folder.with_name(name)
        while folder.exists():
            folder, number = self.test.folder.with_name(f"{name} {number}"), number + 1
        self.reporter.start(report_job(self.test, folder), "writing a report")
        self._update()

    def _on_report(self, picture: Path) -> None:
        self._report = picture.parent
        self.report_note.say(f"Written to the folder {picture.parent.name}, beside the test.", "good")
        self.folder_button.show()
        self.picture.show_file(picture)

    def _show_folder(self) -> None:
        if self._report is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._report)))

    # What can be done now.

    def _update(self) -> None:
        test = self.test
        self.title.setText(f"{test.dataset}: {len(test)} crops" if test else "Open a reader test, or make one.")
        self.title.setToolTip(str(test.folder) if test else "")
        self.answering.setVisible(test is not None)
        self.reporting.setVisible(test is not None)
        named = bool(self.reader.text().strip())
        self.start_button.setEnabled(named)
        self.start_button.setToolTip("" if named else "Enter your name first.")

    def showEvent(self, event: QShowEvent) -> None:
        """Take the keys over; the crop stays covered until the reader goes on."""
        super().showEvent(event)
        self.making.look()
        if self.page.reading is not None:
            self._hide_layers()
        self.page.set_active(True)

    def hideEvent(self, event: QHideEvent) -> None:
        """Pause, and give the keys back."""
        self.page.set_active(False)
        self._show_layers()
        super().hideEvent(event)


def _close_all(readings: list[Reading], *_: object) -> None:
    for reading in readings:
        reading.close()
