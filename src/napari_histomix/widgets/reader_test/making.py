"""Make a reader test out of a study: what to show, how much, and where the test goes."""

from __future__ import annotations

import secrets
from pathlib import Path

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QLabel, QPushButton, QSpinBox, QVBoxLayout, QWidget

from napari_histomix.evaluation.reader_test.folder import MadeTest
from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.elements import SPACE, Note, Section, form, narrow, row
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.reader_test.jobs import Offer, look_job, make_job

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
            self._on_offer(Offer.of(study, session.table, session.said["change"]))
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
