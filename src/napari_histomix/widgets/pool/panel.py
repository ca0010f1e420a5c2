"""A dock of its own: look through the segments of a pool, keep and drop them, give them classes and tags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from qtpy.QtCore import QSize, Signal
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import QFileDialog, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_histomix.records import Job
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Counts, Curation, Decision
from napari_histomix.study.database import READ_ONLY
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.elements import SPACE, Note, row
from napari_histomix.widgets.pool.actions import KEYS, PoolActions
from napari_histomix.widgets.pool.acts import PoolActs
from napari_histomix.widgets.pool.loading import OpenedPool, pool_job
from napari_histomix.widgets.pool.map import umap_job
from napari_histomix.widgets.pool.view import UMAP, PoolView
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer import PanelKeys


class PoolPanel(Panel):
    """Filters, gallery, map, decisions and a count. Decisions are on disk before they are shown."""

    opened = Signal(object, object)
    """Study and pool that are shown now."""
    decided = Signal(object)
    """Numbers of the segments whose decision, class or tags changed."""
    place_requested = Signal(str, float, float)
    """Image, row and column of a segment that a person wants to see."""
    image_wanted = Signal(str)
    """An image that is not open, and is asked for."""
    rebuild_wanted = Signal()

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.study: Study | None = None
        self._pca: NDArray[np.float32] | None = None
        self._counts = Counts(0, 0, 0, 0, {})
        self.acts = PoolActs(self)
        self._build_top()
        self.view = PoolView(self.viewer)
        self.actions_box = PoolActions()
        self.count = QLabel()
        self.count.setWordWrap(True)
        self.results = QWidget()
        column = QVBoxLayout(self.results)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE)
        column.addWidget(self.view, 1)
        column.addWidget(self.actions_box)
        column.addWidget(self.count)
        self.column.addWidget(self.results, 1000)
        self.column.addStretch(1)
        actions = {"keep": self.keep, "drop": self.drop, "clear": self.clear, "undo": self.undo, "redo": self.redo}
        self.keys = PanelKeys(self, self.viewer, {KEYS[name]: action for name, action in actions.items()})
        self._connect()
        self._show_pool(False)

    def _build_top(self) -> None:
        self.title = QLabel()
        self.title.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.other_button = QPushButton("Open…")
        self.other_button.setToolTip("Open the segment pool of another study.")
        self.other_button.clicked.connect(self.choose_study)
        self.header = QWidget()
        self.header.setLayout(row(self.title, self.other_button, stretch=0))
        self.column.addWidget(self.header)
        self.empty = Note("Open a study to look through its segments.")
        self.column.addWidget(self.empty)
        self.progress = RunBar("Open study…", self.runner)
        self.progress.run.connect(self.choose_study)
        self.column.addWidget(self.progress)
        self.note = Note()
        self.column.addWidget(self.note)
        self.rebuild_button = QPushButton("Rebuild…")
        self.rebuild_button.setToolTip("Make the segment pool of this study anew.")
        self.rebuild_button.clicked.connect(lambda: self.rebuild_wanted.emit())
        self.rebuild_button.hide()
        self.column.addWidget(self.rebuild_button)

    def _connect(self) -> None:
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._on_failed)
        self.runner.cancelled.connect(lambda: self.view.map_kind.setCurrentIndex(0))
        self.runner.running_changed.connect(self._on_running)
        self.acts.done.connect(self._on_done)
        self.acts.failed.connect(lambda sentence: self.complain(self.note, sentence))
        self.acts.busy_changed.connect(lambda _busy: self._recount())
        self.view.shown_changed.connect(self._recount)
        self.view.selection.changed.connect(self._recount)
        self.view.place_requested.connect(self.place_requested)
        self.view.image_wanted.connect(self.image_wanted)
        self.image_wanted.connect(self._show_image)
        self.rebuild_wanted.connect(self._open_segments)
        self.opened.connect(lambda study, _pool: self.session.share_pool(study.folder, self))
        self.view.said.connect(self.note.say)
        self.view.map_kind.currentIndexChanged.connect(self._on_map_kind)
        box = self.actions_box
        box.keep.connect(self.keep)
        box.drop.connect(self.drop)
        box.clear.connect(self.clear)
        box.undo.connect(self.undo)
        box.redo.connect(self.redo)
        box.drop_border.connect(self.drop_border)
        box.relabel.connect(self.relabel)
        box.tag.connect(self.tag)
        box.untag.connect(self.untag)
        self.follow_pool()

    def sizeHint(self) -> QSize:
        """Four tiles wide."""
        return QSize(420, 860)

    @property
    def curation(self) -> Curation | None:
        """What is shown."""
        return self.view.curation

    def _show_image(self, name: str) -> None:
        self._open_segments()
        self.session.pool_image_wanted.emit(name)

    def _open_segments(self) -> None:
        """The Segments dock shows images and builds pools; it is opened where it is not."""
        window = getattr(self.viewer, "window", None)
        if not self.session.shows_pool_images and window is not None:
            window.add_plugin_dock_widget("napari-histomix", "HistoMix: Segments", tabify=True)

    # Opening.

    def choose_study(self) -> None:
        """Let the person choose a study's folder."""
        folder = QFileDialog.getExistingDirectory(self, "Open a study", str(self.session.home))
        if folder:
            self.open_study(Path(folder))

    def open_study(self, folder: Path, signature: Mapping[str, Any] | None = None) -> None:
        """Show the pool of a study; refuse one not made by ``signature``, where that is given."""
        self._begin(pool_job(Path(folder), None, signature, self.session.claim(folder)), "opening the segment pool")

    def take(self, study: Study, pool: SegmentPool | None = None, signature: Mapping[str, Any] | None = None) -> None:
        """Show a study's pool, opened already or still to be read; refuse one not made by ``signature``."""
        self._begin(pool_job(study, pool, signature), "opening the segment pool")

    def _begin(self, make: Callable[[], Job[Any]], title: str) -> None:
        self.note.say("")
        self.rebuild_button.hide()
        self.runner.replace(make, title)

    def _on_running(self, running: bool) -> None:
        self.progress.setVisible(running or self.curation is None)
        # Beside a pool that is shown, the button in the header is enough.
        self.progress.run_button.setVisible(self.curation is None)
        self.other_button.setEnabled(not running)

    def _on_finished(self, found: Any) -> None:
        if not isinstance(found, OpenedPool):
            self.view.map.set_places(found)
            return
        self.study, self._pca = found.study, found.places
        self.acts.forget()
        curation = found.curation
        self._counts = curation.counts() if curation else Counts(0, 0, 0, 0, {})
        self.view.set_curation(curation, found.places)
        self._show_pool(curation is not None)
        if curation is None:
            self.empty.hide()
            self.rebuild_button.setText("Build…" if found.missing else "Rebuild…")
            self.rebuild_button.show()
            self.complain(self.note, found.problem)
            return
        self.session.introduce(found.study)
        self.actions_box.set_kinds(curation.kinds)
        self.title.setText(f"<b>{curation.study.folder.name}</b> · {_many(len(curation), 'segment')}")
        self._recount()
        if found.study.read_only:
            self.note.say(READ_ONLY, "warning")
        self.opened.emit(found.study, curation.pool)

    def _on_failed(self, sentence: str) -> None:
        self.view.map_kind.setCurrentIndex(0)
        self.complain(self.note, sentence)

    def _show_pool(self, shown: bool) -> None:
        self.header.setVisible(shown)
        self.results.setVisible(shown)
        self.empty.setVisible(not shown)
        self.progress.setVisible(not shown)
        self.progress.run_button.setVisible(not shown)

    def set_uses(self, uses: Mapping[int, int] | ArrayLike) -> None:
        """Say how often segments were drawn: by number, or (N,) of all."""
        if self.curation is not None:
            self.curation.set_uses(uses)
            if self.view.filters.by == "uses":
                self.view.refresh()

    def _on_map_kind(self) -> None:
        if self.curation is None or self._pca is None:
            return
        if self.view.map_kind.currentData() != UMAP:
            self.runner.cancel()
            self.view.map.set_places(self._pca)
        elif not self.runner.start(umap_job(self.curation.pool), "drawing the UMAP"):
            self.view.map_kind.setCurrentIndex(0)

    # Decisions.

    def keep(self) -> None:
        """Keep the selected segments."""
        self._decide("keep")

    def drop(self) -> None:
        """Drop the selected segments."""
        self._decide("drop")

    def clear(self) -> None:
        """Leave the selected segments undecided."""
        self._decide(None)

    def _decide(self, decision: Decision | None) -> None:
        numbers = self.view.selection.numbers()
        self._do(lambda curation: curation.decide(numbers, decision), "decision", len(numbers))
        # One after the other with a key; what was selected together may be meant for more.
        if len(numbers) == 1:
            self.view.gallery.go_on()

    def relabel(self, kind: str) -> None:
        """Give the selected segments another class."""
        numbers = self.view.selection.numbers()
        self._do(lambda curation: curation.relabel(numbers, kind), "class", len(numbers))

    def tag(self, text: str) -> None:
        """Tag the selected segments."""
        numbers = self.view.selection.numbers()
        self._do(lambda curation: curation.tag(numbers, text), "tags", len(numbers))

    def untag(self, text: str = "") -> None:
        """Take a tag off the selected segments; without one, all of theirs."""
        numbers = self.view.selection.numbers()
        self._do(lambda curation: curation.untag(numbers, text), "tags", len(numbers))

    def drop_border(self) -> None:
        """Drop all undecided segments at the border of their images, shown or not."""
        self._do(lambda curation: curation.decide(curation.cut_off(), "drop"), "decision", self._cut_off())

    def undo(self) -> None:
        """Take the last change back, and select what it concerned."""
        self._do(lambda curation: curation.undo(), "undo", 1)

    def redo(self) -> None:
        """Make the change again that was taken back last, and select what it concerned."""
        self._do(lambda curation: curation.redo(), "redo", 1)

    def _do(self, act: Callable[[Curation], Any], what: str, size: int) -> None:
        curation = self.curation
        if curation is not None and size:
            self.note.say("")
            self.acts.do(lambda: act(curation), what, size, self._counts.kept + self._counts.dropped)

    def _on_done(self, numbers: NDArray[np.intp], what: str) -> None:
        curation = self.curation
        if curation is None:
            return
        self._counts = curation.counts()
        if what in ("undo", "redo") and not len(numbers):
            self.note.say(f"There is nothing to {what}.")
        self.view.changed(numbers, what)
        self._recount()
        if len(numbers):
            self.decided.emit(numbers)

    def _cut_off(self) -> int:
        return int(np.count_nonzero(self.curation.cut_off())) if self.curation is not None else 0

    def _recount(self) -> None:
        counts, selected, shown = self._counts, self.view.selection.count, len(self.view.gallery.numbers)
        writing = " · writing …" if self.acts.busy else ""
        self.count.setText(
            f"<b>{shown:,} shown · {selected:,} selected</b> · {counts.kept:,} kept · {counts.dropped:,} dropped · "
            f"{counts.border:,} at the border{writing}"
        )
        self.actions_box.set_counts(selected, self._cut_off())

    # Keys only while the panel is to be seen.

    def showEvent(self, event: QShowEvent) -> None:
        """Take the keys over."""
        self.keys.bind()
        super().showEvent(event)

    def hideEvent(self, event: QHideEvent) -> None:
        """Give the keys back."""
        self.keys.release()
        super().hideEvent(event)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
