"""A dock of its own: replace segments of tissue by similar ones of their class (USegMix), review and export them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import QSize, Qt, QTimer, Signal
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import QFileDialog, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_histomix.datasets import Dataset
from napari_histomix.records import Job
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.lock import READ_ONLY
from napari_histomix.widgets.base import SPACE, Note, Panel, RunBar, row
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.mix.batch import BatchSection
from napari_histomix.widgets.mix.export import ExportSection
from napari_histomix.widgets.mix.form import MixForm
from napari_histomix.widgets.mix.jobs import OpenedMix, open_job
from napari_histomix.widgets.mix.layers import MixLayers
from napari_histomix.widgets.mix.review import ReviewSection
from napari_histomix.widgets.mix.target import TargetSection
from napari_histomix.widgets.mix.work import MixWork
from napari_histomix.widgets.pool.places import PoolPlaces
from napari_histomix.widgets.preload import prepare_units, warm_networks
from napari_histomix.widgets.sections import Section
from napari_histomix.widgets.session import Session, window_of


class MixPanel(Panel):
    """One target with its donors, many images at once, review and export."""

    opened = Signal(object, object)
    """Study and pool that are open now."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        prepare_units()
        super().__init__(napari_viewer, session)
        self._moved: Study | None = None
        self.work = MixWork(self)
        self.layers = MixLayers(self.viewer, self)
        self.places = PoolPlaces(self.viewer, self)
        self.area = self.scroll()
        self._build_top()
        runners = [JobRunner(self, window_of(self.viewer)) for _ in range(3)]
        for one in (self.runner, *runners):
            self.work.watch(one)
        self.form = MixForm(self.session)
        self.target = TargetSection(self, self.work, self.layers, self.form, runners[0])
        self.settings = Section(
            "Settings", "How donors are drawn and blended, for one target and for many images.", False
        )
        self.settings.body.addWidget(self.form)
        self.batch = BatchSection(self, self.work, self.form, runners[1])
        self.review = ReviewSection(self, self.work, self.layers)
        self.export = ExportSection(self, self.work, runners[2])
        self.results = QWidget()
        column = QVBoxLayout(self.results)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE)
        for section in (self.target, self.batch, self.settings, self.review, self.export):
            column.addWidget(section)
        self.column.addWidget(self.results)
        self.column.addStretch(1)
        self.results.hide()
        self._connect()
        self._on_settings()
        self._on_running(False)
        self._waiting: Path | None = None
        self.opened.connect(lambda study, _pool: self.session.share_tissue(study.folder, self))
        self.follow_tissue()

    def _build_top(self) -> None:
        self.title = QLabel()
        self.title.setTextFormat(Qt.TextFormat.PlainText)
        self.title.setStyleSheet("QLabel { font-weight: 600; }")
        self.title.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.other_button = QPushButton("Open…")
        self.other_button.setToolTip("Open another study.")
        self.other_button.clicked.connect(self.choose_study)
        self.header = QWidget()
        self.header.setLayout(row(self.title, self.other_button, stretch=0))
        self.column.addWidget(self.header)
        self.empty = Note("Open a study with a segment pool to mix its tissue.")
        self.column.addWidget(self.empty)
        self.progress = RunBar("Open study…", "Choose the folder of a study.", self.runner)
        self.progress.run.connect(self.choose_study)
        self.column.addWidget(self.progress)
        self.note = Note()
        self.column.addWidget(self.note)
        self.find_button = QPushButton("Where are its images?…")
        self.find_button.setToolTip("Choose the folder that holds the images of this study now.")
        self.find_button.clicked.connect(self.choose_images)
        self.find_button.hide()
        self.column.addWidget(self.find_button)

    def _connect(self) -> None:
        self.runner.finished.connect(self._on_opened)
        self.runner.failed.connect(lambda sentence: self.complain(self.note, sentence))
        self.runner.running_changed.connect(self._on_running)
        self.work.busy_changed.connect(self._on_busy)
        self.places.clicked.connect(self.target.on_clicked)
        self.target.blended.connect(self.review.go)
        self.form.drawing_changed.connect(self._on_settings)
        self.form.sampler.currentIndexChanged.connect(lambda _index: self._on_settings())

    def sizeHint(self) -> QSize:
        """As the other docks."""
        return QSize(420, 860)

    @property
    def model(self) -> Any:
        """A loaded inpainting model to use instead of the session's."""
        return self.target.model

    @model.setter
    def model(self, model: Any) -> None:
        self.target.model = self.batch.model = model

    # Opening.

    def choose_study(self) -> None:
        """Let the person choose a study's folder."""
        folder = QFileDialog.getExistingDirectory(self, "Open a study", str(self.session.home))
        if folder:
            self.open_study(Path(folder))

    def choose_images(self) -> None:
        """Let the person say where the images of the study are now."""
        folder = QFileDialog.getExistingDirectory(self, "The folder that holds the study's images")
        if folder and self._moved is not None:
            self.open_study(self._moved.folder, Path(folder))

    def open_study(self, folder: Path, images: Path | None = None) -> None:
        """Open a study's pool and its images, which are in another folder now where one is given."""
        self._begin(open_job(Path(folder), None, images, self.session.claim(folder)))

    def take(self, study: Study, pool: SegmentPool | None = None, dataset: Dataset | None = None) -> None:
        """Work on a study that is open already, with its pool and its images."""
        self._begin(open_job(study, pool, dataset))

    def _begin(self, make: Callable[[], Job[Any]]) -> None:
        warm_networks()
        self.note.say("")
        self.find_button.hide()
        self.runner.replace(make, "opening the study")

    def _on_running(self, running: bool) -> None:
        ready = self.work.ready
        self.header.setVisible(ready)
        self.empty.setVisible(not ready and not running)
        self.progress.setVisible(running or not ready)
        # Beside a study that is open, the button in the header is enough.
        self.progress.run_button.setVisible(not ready)

    def _on_tissue(self, folder: Any, by: Any) -> None:
        # Not in the middle of a run, which works on the pool as it was.
        if isalive(self) and self.work.busy:
            self._waiting = None if by is self else folder
        else:
            super()._on_tissue(folder, by)

    def _on_busy(self) -> None:
        if self._waiting is not None and not self.work.busy:
            folder, self._waiting = self._waiting, None
            QTimer.singleShot(0, lambda: self._on_tissue(folder, None))
        self.other_button.setEnabled(not self.work.busy)
        self.form.setEnabled(not self.target.runner.running and not self.batch.runner.running)

    def _on_opened(self, found: OpenedMix) -> None:
        if found.problem:
            self._moved = found.study
            self.find_button.show()
            self.complain(self.note, found.problem)
            return
        self._moved = None
        self.layers.clear()
        self.session.introduce(found.study)
        self.work.take(found)
        self._on_running(False)
        count = len(found.pool)
        self.title.setText(f"{found.study.folder.name} · {count:,} segment{'' if count == 1 else 's'}")
        self.title.setToolTip(f"{len(found.pool.images):,} images of {found.dataset.name}")
        self.results.show()
        if found.study.read_only:
            self.note.say(READ_ONLY, "warning")
        self.opened.emit(found.study, found.pool)

    def _on_settings(self) -> None:
        self.settings.state.setText(self.form.words())

    # Clicks and keys only while the panel is to be seen.

    def showEvent(self, event: QShowEvent) -> None:
        """Follow the viewer."""
        self.places.listen()
        self.review.set_active(True)
        super().showEvent(event)

    def hideEvent(self, event: QHideEvent) -> None:
        """No longer."""
        self.places.rest()
        self.review.set_active(False)
        super().hideEvent(event)
