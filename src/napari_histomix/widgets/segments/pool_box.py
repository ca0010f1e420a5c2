"""A segment pool: the page that builds it, and the lower half of the Segments dock, which shows and corrects it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari.layers import Image, Labels
from qtpy.compat import isalive
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_histomix.records import HistomixError
from napari_histomix.study.database import READ_ONLY
from napari_histomix.widgets.base import RunBar
from napari_histomix.widgets.elements import SPACE, Note, heading, hint, many, narrow, row
from napari_histomix.widgets.jobs import JobRunner, prepare_units
from napari_histomix.widgets.loading import Found, Opened
from napari_histomix.widgets.loading import open_job as open_images_job
from napari_histomix.widgets.plan_panel import PlanPage, ready
from napari_histomix.widgets.segments.form import FindForm
from napari_histomix.widgets.segments.layers import about, image_name, labels_of, picture_of, unusable
from napari_histomix.widgets.segments.pool import (
    Corrected,
    OpenPool,
    Shown,
    correct_job,
    open_pool_job,
    pool_image,
    show_job,
)
from napari_histomix.widgets.session import Session


class PoolPage(PlanPage):
    """Builds the pool of the session's study; it is looked through and corrected in docks of its own."""

    run_text, run_tip = "Build the pool", "Divide every training image, and keep the segments in the study."

    def build_results(self) -> None:
        """Add the ways to the docks."""
        self.leads = QWidget()
        buttons = []
        for name, text, tip in (
            ("Pool", "Look through them", "Keep and drop segments, and give them classes, in the dock HistoMix: Pool."),
            ("Segments", "Correct them", "Show segments in their images and correct them, in HistoMix: Segments."),
        ):
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(lambda _checked=False, name=name: self.open_dock(name))
            buttons.append(button)
        self.leads.setLayout(row(*buttons))
        self.column.addWidget(self.leads)
        self.session.study_changed.connect(self._on_study)
        self.session.pool_changed.connect(self._update)
        self._on_study()

    def open_dock(self, name: str) -> None:
        """Open a dock of this package beside this one."""
        window = getattr(self.viewer, "window", None)
        if window is not None:
            window.add_plugin_dock_widget("napari-histomix", f"HistoMix: {name}", tabify=True)

    def _update(self, *_: object) -> None:
        self.leads.setVisible(ready(self.session, self._method))

    def _on_study(self) -> None:
        self._update()
        if self.session.study is not None and ready(self.session, self._method):
            self.session.share_pool(self.session.study.folder, self)

    def on_found(self, found: Found) -> None:
        """Say what the pool was made of."""
        built = found.result
        left = f" {self.note.text()}" if self.note.text() else ""
        self.note.say(
            f"{many(built.segments, 'segment')} of {many(built.images, 'image')}.{left}", "warning" if left else "good"
        )
        self.session.share_pool(found.study.folder, self, changed=True)


class PoolBox(QWidget):
    """Opens a pool, or builds one of the open images; shows its images, takes corrections.

    Parameters
    ----------
    viewer : ViewerModel
    session : Session
        Has the images, and lets this window write to their study.
    find : FindForm
        Its settings are a new pool's too.
    window : QMainWindow, optional
    """

    corrected = Signal(str)
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
        session.dataset_changed.connect(self.update_all)
        session.pool_changed.connect(lambda _folder, _by: self.update_all())
        self.page.running_changed.connect(lambda _running: self.update_all())
        find.changed.connect(self.update_all)
        self.update_all()

    def _build(self) -> None:
        self.title = QLabel()
        self.title.setWordWrap(True)
        self.folder_button = QPushButton("Open images…")
        self.folder_button.setToolTip("Open a folder of tissue images, with a folder for each class, to build a pool.")
        self.folder_button.clicked.connect(self._ask_folder)
        self.study_button = QPushButton("Open study…")
        self.study_button.setToolTip("Open a study that has a segment pool.")
        self.study_button.clicked.connect(self._ask_study)
        self.page = PoolPage(self.viewer, self.session, form=self.choices.settings)
        self.page.column.setContentsMargins(0, 0, 0, 0)
        self.page.leads.hide()
        self.bar = RunBar("", self.runner, "Open images or a study.")
        self.bar.run_button.hide()
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
        for part in (self.page, self.bar, self.note, self.tools):
            column.addWidget(part)
        self.where.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)

    def _on_layers(self, event: Any = None) -> None:
        if isalive(self):
            self._later.start()

    def _browse(self) -> None:
        if self.opened is not None:
            self.session.share_pool(self.opened.study.folder, self, changed=True)
            self.page.open_dock("Pool")

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
        """Open a folder of tissue images, to build a pool of it."""
        self._start(open_images_job(Path(folder)), "opening images")

    def _ask_study(self) -> None:
        start = str(self.home if self.home.is_dir() else Path.home())
        folder = QFileDialog.getExistingDirectory(self, "A study with a segment pool", start)
        if folder:
            self.open_study(Path(folder))

    def open_study(self, folder: Path) -> None:
        """Open a study that has a pool."""
        self._start(open_pool_job(Path(folder), self.session.claim(folder)), "opening the segment pool")

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
        spec = str(self.choices.settings.fields["encoder"].value)
        self._start(correct_job(self.opened, about(layer), labels, pictures, spec), "taking corrections")

    # What came of it.

    def _on_finished(self, found: Any) -> None:
        if isinstance(found, Opened):
            self.session.take_opened(found)
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
        if opened.study.read_only:
            self.note.say(READ_ONLY, "warning")
        self.update_all()

    def update_all(self) -> None:
        """Show what can be done now."""
        opened, running, dataset = self.opened, self.runner.running, self.session.dataset
        if opened is None:
            self.title.setText("No pool is open.")
        else:
            images = len({one.source.image for one in opened.pool.images})
            words = f"{many(len(opened.pool), 'segment')} of {many(images, 'image')}"
            self.title.setText(f"<b>{opened.study.folder.name}</b> · {words}")
        for one in (self.folder_button, self.study_button, self.images, self.show_button):
            one.setEnabled(not running)
        mine = opened is not None and self.session.study_folder == opened.study.folder
        self.page.setVisible(dataset is not None and dataset.has_kinds and not mine)
        self.tools.setVisible(opened is not None)
        layer = self.correctable()
        self.correct_button.setEnabled(layer is not None and not running)
        tip = "Segments that you changed or painted anew are added to the pool; those they replace are dropped."
        self.correct_button.setToolTip(tip)
        self.where.setText(f"Painted in “{layer.name}”." if layer is not None else "Show an image to correct segments.")
