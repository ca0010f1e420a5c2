"""A dock of its own: make a blinded real-or-synthetic test, answer it, and see the report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import QSize, Qt, QUrl
from qtpy.QtGui import QDesktopServices, QHideEvent, QShowEvent
from qtpy.QtWidgets import QFileDialog, QLabel, QLineEdit, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_histomix.evaluation.reader_test.folder import ReaderTest
from napari_histomix.evaluation.reader_test.reading import Reading
from napari_histomix.records import HistomixError
from napari_histomix.widgets.base import Panel
from napari_histomix.widgets.elements import PRIMARY, SPACE, Note, Section, form, hint, row
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.reader_test.controls import Picture
from napari_histomix.widgets.reader_test.jobs import open_job, report_job
from napari_histomix.widgets.reader_test.making import MakeSection
from napari_histomix.widgets.reader_test.reading_page import ReadingPage
from napari_histomix.widgets.session import Session

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
