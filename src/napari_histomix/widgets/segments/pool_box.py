"""The lower half of the Segments dock: a pool built from a folder, its images, and corrections taken into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari.layers import Image, Labels
from qtpy.compat import isalive
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_histomix.datasets import Dataset
from napari_histomix.records import HistomixError
from napari_histomix.study.lock import READ_ONLY
from napari_histomix.widgets.base import SPACE, Note, RunBar, heading, hint, narrow, row
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.preload import prepare_units
from napari_histomix.widgets.segments.build_form import BuildForm
from napari_histomix.widgets.segments.form import FindForm
from napari_histomix.widgets.segments.layers import about, image_name, labels_of, picture_of, unusable
from napari_histomix.widgets.segments.pool import (
    Corrected,
    OpenPool,
    Shown,
    build_job,
    correct_job,
    look_job,
    open_pool_job,
    pool_image,
    show_job,
)
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.split_source import TissueSplits
from napari_histomix.widgets.splits_box import SplitsBox


class PoolBox(QWidget):
    """Builds and opens a pool, shows its images, takes corrections.

    Parameters
    ----------
    viewer : ViewerModel
    session : Session
        Says where new studies go, and lets this window write to them.
    find : FindForm
        Its prompter and settings are a new pool's too.
    window : QMainWindow, optional
    """

    built = Signal(str)
    corrected = Signal(str)
    browse = Signal(str)
    asked = Signal(str)
    """An image of the pool that a person wants to see."""
    shown = Signal(object)
    failed = Signal(str)
    taken = Signal(object, object)
    """What came of taking corrections (``Corrected``), and the layer they were painted in."""

    def __init__(self, viewer: Any, session: Session, find: FindForm, window: Any) -> None:
        super().__init__()
        self.viewer, self.session, self.choices, self.home = viewer, session, find, session.home
        self.opened: OpenPool | None = None
        self._layer: Any = None
        self.runner = JobRunner(self, window)
        self._build()
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self.failed)
        self.runner.cancelled.connect(lambda: self.note.say("Stopped; nothing half-done was kept."))
        self.runner.running_changed.connect(lambda _running: self.update_all())
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self.update_all)
        events = viewer.layers.events
        for signal in (events.inserted, events.removed, viewer.layers.selection.events.active):
            signal.connect(self._on_layers)
        self.form.changed.connect(self.update_all)
        self.splits.source.splits_changed.connect(lambda: self.form.say(self.splits.source.dataset))
        find.changed.connect(self.update_all)
        self.update_all()

    def _build(self) -> None:
        self.title = QLabel()
        self.title.setWordWrap(True)
        self.folder_button = QPushButton("Build from a folder…")
        self.folder_button.setToolTip("Divide all training images of a folder into segments, in a new study.")
        self.folder_button.clicked.connect(self._ask_folder)
        self.study_button = QPushButton("Open study…")
        self.study_button.setToolTip("Open a study that has a segment pool.")
        self.study_button.clicked.connect(self._ask_study)
        self.form = BuildForm(self.home)
        self.form.hide()
        self.splits = SplitsBox(self.viewer, TissueSplits(self))
        self.splits.hide()
        self.bar = RunBar("Build the pool", self.runner)
        self.bar.run.connect(self.build)
        self.why = hint("")
        self.note = Note()
        self.images = QComboBox()
        narrow(self.images)
        self.images.setToolTip("An image of the pool.")
        self.images.setAccessibleName("Image of the pool")
        self.show_button = QPushButton("Show")
        self.show_button.setToolTip("Open this image and its segments, to look at them and to correct them.")
        self.show_button.clicked.connect(lambda _checked=False: self.asked.emit(self.images.currentText()))
        self.correct_button = QPushButton("Take corrections into the pool")
        self.correct_button.clicked.connect(self.correct)
        self.where = hint("")
        self.browse_button = QPushButton("Browse the pool")
        self.browse_button.setToolTip("Look through its segments in the dock HistoMix: Pool.")
        self.browse_button.clicked.connect(self._browse)
        self.tools = QWidget()
        tools = QVBoxLayout(self.tools)
        tools.setContentsMargins(0, 0, 0, 0)
        tools.setSpacing(SPACE - 2)
        tools.addLayout(row(self.images, self.show_button, stretch=0))
        tools.addWidget(self.correct_button)
        tools.addWidget(self.where)
        tools.addWidget(self.browse_button)
        buttons = row(self.folder_button, self.study_button)
        for index in range(2):
            buttons.setStretch(index, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE)
        column.addWidget(heading("Segment pool"))
        column.addWidget(self.title)
        column.addLayout(buttons)
        for part in (self.form, self.splits, self.bar, self.why, self.note, self.tools):
            column.addWidget(part)
        for part in (self.why, self.where):
            part.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)

    def _on_layers(self, event: Any = None) -> None:
        if isalive(self):
            self._later.start()

    def _browse(self) -> None:
        if self.opened is not None:
            self.browse.emit(str(self.opened.study.folder))

    # Jobs.

    def _start(self, make: Any, title: str) -> None:
        prepare_units()
        if self.runner.start(make, title):
            self.note.say("")

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A folder of tissue images, with a folder for each class")
        if folder:
            self.choose_folder(Path(folder))

    def choose_folder(self, folder: Path) -> None:
        """Look into a folder of tissue images, to build a pool of it."""
        self._start(look_job(folder), "looking into a folder")

    def _ask_study(self) -> None:
        start = str(self.home if self.home.is_dir() else Path.home())
        folder = QFileDialog.getExistingDirectory(self, "A study with a segment pool", start)
        if folder:
            self.open_study(Path(folder))

    def open_study(self, folder: Path) -> None:
        """Open a study that has a pool."""
        self._start(open_pool_job(Path(folder), self.session.claim(folder)), "opening the segment pool")

    def build(self) -> None:
        """Build the pool that the form describes."""
        from napari_histomix.methods.usegmix import PoolSettings

        if self.runner.running or self._problem() or self.form.dataset is None:
            return
        settings = PoolSettings(
            prompter=self.choices.prompter.currentData(),
            weights=self.choices.weights_path(),
            encoder=self.form.encoder_spec,
            components=self.form.components.value(),
            anchors=self.choices.anchors.settings(),
            device=self.choices.device.currentData(),
        )
        claim, source = self.session.claim(self.form.folder), self.splits.source
        splits = source.splits if source.chosen else None
        make = build_job(self.form.dataset.root, self.form.mpp, self.form.folder, settings, claim, splits)
        self._start(make, "building a segment pool")

    def read_image(self, name: str) -> None:
        """Read an image of the pool and its segments; ``shown`` follows."""
        if self.opened is None:
            self.note.say("Open a study first.", "warning")
            return
        self._start(show_job(self.opened, name), "reading an image")

    def correctable(self) -> Any:
        """The Labels layer whose corrections would be taken: the selected one, else the topmost shown; or None."""
        if self.opened is None:
            return None
        pool = self.opened.pool
        usable = [
            one
            for one in self.viewer.layers
            if isinstance(one, Labels) and "segments" in about(one) and pool_image(pool, about(one)) is not None
        ]
        active = self.viewer.layers.selection.active
        return active if active in usable else next((one for one in reversed(usable) if one.visible), None)

    def correct(self) -> None:
        """Take what was painted into the pool."""
        layer = self.correctable()
        if layer is None or self.opened is None or self.runner.running:
            return
        image, point = pool_image(self.opened.pool, about(layer)), self.viewer.dims.point
        assert image is not None
        try:
            labels = labels_of(layer, point)
            same = [one for one in self.viewer.layers if isinstance(one, Image) and not unusable(one)]
            named = [one for one in same if image_name(one) in (image.source.image, about(layer).get("image"))]
            pictures = [picture_of(one, point) for one in named]
        except HistomixError as error:
            self.failed.emit(str(error))
            return
        self._layer = layer
        spec = self.form.encoder_spec
        self._start(correct_job(self.opened, about(layer), labels, pictures, spec), "taking corrections")

    # What came of it.

    def _on_finished(self, found: Any) -> None:
        if isinstance(found, Dataset):
            self.splits.source.take(found)
            self.form.take(found)
            self.form.show()
            if found.problems:
                left = _many(len(found.problems), "image")
                self.note.say(f"{left} left out: {found.problems[0].sentence}", "warning")
        elif isinstance(found, OpenPool):
            self.take(found)
        elif isinstance(found, Shown):
            self.shown.emit(found)
        elif isinstance(found, Corrected):
            layer, self._layer = self._layer, None
            self.opened = found.opened
            self.note.say(found.words(), "good" if found.replaced + found.added + found.dropped else "info")
            self.taken.emit(found, layer)
            self.corrected.emit(str(found.opened.study.folder))
        self.update_all()

    def take(self, opened: OpenPool) -> None:
        """Go on with an open pool."""
        self.opened = opened
        self.images.clear()
        self.images.addItems(list(dict.fromkeys(one.source.image for one in opened.pool.images)))
        self.form.hide()
        self.form.dataset = None
        if opened.built is not None:
            made = opened.built
            said = f"{_many(made.segments, 'segment')} of {_many(made.images, 'image')}."
            left = f" Left out: {made.problems[0].sentence}" if made.problems else ""
            more = f" And {len(made.problems) - 1:,} more." if len(made.problems) > 1 else ""
            self.note.say(said + left + more, "warning" if left else "good")
            self.built.emit(str(opened.study.folder))
        elif opened.study.read_only:
            self.note.say(READ_ONLY, "warning")
        self.update_all()

    def _problem(self) -> str:
        return self.choices.prompter_problem() or self.form.problem()

    def update_all(self) -> None:
        """Show what can be done now."""
        opened, running = self.opened, self.runner.running
        building = self.form.dataset is not None
        if opened is None:
            self.title.setText("No pool is open.")
        else:
            images = len({one.source.image for one in opened.pool.images})
            self.title.setText(
                f"<b>{opened.study.folder.name}</b> · {_many(len(opened.pool), 'segment')} of {_many(images, 'image')}"
            )
        for one in (self.folder_button, self.study_button, self.form, self.images, self.show_button):
            one.setEnabled(not running)
        self.splits.setVisible(building)
        self.splits.setEnabled(not running)
        self.bar.setVisible(running or building)
        self.bar.run_button.setVisible(building)
        problem = self._problem() if building and not running else ""
        self.bar.allow(not problem, problem)
        if not problem:
            self.bar.run_button.setToolTip("Divide every training image, and keep the segments in a new study.")
        self.why.setText(problem)
        self.why.setVisible(bool(problem))
        self.tools.setVisible(opened is not None)
        layer = self.correctable()
        self.correct_button.setEnabled(layer is not None and not running)
        tip = "Segments that you changed or painted anew are added to the pool; those they replace are dropped."
        self.correct_button.setToolTip(tip)
        self.where.setText(f"Painted in “{layer.name}”." if layer is not None else "Show an image to correct segments.")


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
