"""A dock of its own: look through the segments of a pool, keep and drop them, give them classes and tags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from qtpy.QtCore import QSize, Signal
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import QSizePolicy

from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Counts, Curation, Decision
from napari_histomix.study.database import READ_ONLY
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.elements import Note, add, ask_folder, box, button, column, label, many, row
from napari_histomix.widgets.pool.controls import ACTIONS, PoolActions
from napari_histomix.widgets.pool.loading import CurationWriter, JobMaker, OpenedPool, pool_job, umap_job
from napari_histomix.widgets.pool.view import UMAP, PoolView
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer import PanelKeys

NOTHING = Counts(0, 0, 0, 0, {})


class PoolPanel(Panel):
    """Filters, gallery, map, decisions and a count. Decisions are on disk before they are shown."""

    opened = Signal(object, object)
    """Study and pool that are shown now."""
    rebuild_wanted = Signal()

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.study: Study | None = None
        self._pca: NDArray[np.float32] | None = None
        self._counts = NOTHING
        self.writer = CurationWriter(self)
        self._build()
        self.keys = PanelKeys(self, self.viewer, {key: getattr(self, name) for name, (key, _) in ACTIONS.items()})
        self._connect()
        self._update()

    def _build(self) -> None:
        self.title = label(wrap=False)
        self.title.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.other_button = button("Open…", "Open the segment pool of another study.", self.choose_study)
        self.header = box(row(self.title, self.other_button, stretch=0))
        self.empty = Note("Open a study to look through its segments.")
        self.progress = RunBar("Open study…", self.runner)
        self.note = Note()
        self.rebuild_button = button(
            "Rebuild…", "Make the segment pool of this study anew.", lambda: self.rebuild_wanted.emit(), shown=False
        )
        self.view = PoolView(self.viewer)
        self.actions_box = PoolActions(self)
        self.count = label()
        self.results = box(column(self.view, self.actions_box, self.count, stretch=0))
        add(self.column, self.header, self.empty, self.progress, self.note, self.rebuild_button)
        self.column.addWidget(self.results, 1000)
        self.column.addStretch(1)

    def _connect(self) -> None:
        self.progress.run.connect(self.choose_study)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._on_failed)
        self.runner.cancelled.connect(lambda: self.view.map_kind.setCurrentIndex(0))
        self.runner.running_changed.connect(self._update)
        self.writer.done.connect(self._on_done)
        self.writer.failed.connect(lambda sentence: self.complain(self.note, sentence))
        self.writer.busy_changed.connect(lambda _busy: self._recount())
        self.view.shown_changed.connect(self._recount)
        self.view.selection.changed.connect(self._recount)
        self.view.image_wanted.connect(self._show_image)
        self.view.said.connect(self.note.say)
        self.view.map_kind.currentIndexChanged.connect(self._on_map_kind)
        self.rebuild_wanted.connect(self._open_segments)
        self.opened.connect(lambda study, _pool: self.session.share_pool(study.folder, self))
        self.follow_pool()

    def sizeHint(self) -> QSize:
        # Four tiles wide.
        return QSize(420, 860)

    @property
    def curation(self) -> Curation | None:
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
        if folder := ask_folder(self, "Open a study", self.session.home):
            self.open_study(folder)

    def open_study(self, folder: Path) -> None:
        self._open(pool_job(Path(folder), lock=self.session.lock(folder)))

    def take(self, study: Study, pool: SegmentPool | None = None, signature: Mapping[str, Any] | None = None) -> None:
        """Show a study's pool, opened already or still to be read; refuse one not made by ``signature``."""
        self._open(pool_job(study, pool, signature))

    def _open(self, make: JobMaker) -> None:
        self.note.say("")
        self.rebuild_button.hide()
        self.runner.replace(make, "opening the segment pool")

    def _update(self) -> None:
        shown, running = self.curation is not None, self.runner.running
        for part in (self.header, self.results):
            part.setVisible(shown)
        self.empty.setVisible(not shown and not self.rebuild_button.isVisibleTo(self))
        self.progress.setVisible(running or not shown)
        # Beside a pool that is shown, the button in the header is enough.
        self.progress.run_button.setVisible(not shown)
        self.other_button.setEnabled(not running)

    def _on_finished(self, result: Any) -> None:
        if isinstance(result, OpenedPool):
            self._take_opened(result)
        else:
            self.view.map.set_places(result)

    def _take_opened(self, opened: OpenedPool) -> None:
        self.study, self._pca = opened.study, opened.places
        self.writer.forget()
        curation = opened.curation
        self._counts = curation.counts() if curation else NOTHING
        self.view.set_curation(curation, opened.places)
        self.rebuild_button.setVisible(curation is None)
        self.rebuild_button.setText("Build…" if opened.missing else "Rebuild…")
        self._update()
        if curation is None:
            self.complain(self.note, opened.problem)
            return
        self.session.introduce(opened.study)
        self.actions_box.set_kinds(curation.kinds)
        self.title.setText(f"<b>{curation.study.folder.name}</b> · {many(len(curation), 'segment')}")
        self._recount()
        if opened.study.read_only:
            self.note.say(READ_ONLY, "warning")
        self.opened.emit(opened.study, curation.pool)

    def _on_failed(self, sentence: str) -> None:
        self.view.map_kind.setCurrentIndex(0)
        self.complain(self.note, sentence)

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
        self._decide("keep")

    def drop(self) -> None:
        self._decide("drop")

    def clear(self) -> None:
        """Leave the selected segments undecided."""
        self._decide(None)

    def _decide(self, decision: Decision | None) -> None:
        self._change_selected("decision", Curation.decide, decision)
        # One after the other with a key; what was selected together may be meant for more.
        if self.view.selection.count == 1:
            self.view.gallery.go_on()

    def relabel(self, kind: str) -> None:
        self._change_selected("class", Curation.relabel, kind)

    def tag(self, text: str) -> None:
        self._change_selected("tags", Curation.tag, text)

    def untag(self, text: str = "") -> None:
        """Take a tag off the selected segments; without one, all of theirs."""
        self._change_selected("tags", Curation.untag, text)

    def _change_selected(self, what: str, change: Callable[..., Any], value: Any) -> None:
        numbers = self.view.selection.numbers()
        self._write(lambda curation: change(curation, numbers, value), what, len(numbers))

    def drop_border(self) -> None:
        """Drop all undecided segments at the border of their images, shown or not."""
        self._write(lambda curation: curation.decide(curation.cut_off(), "drop"), "decision", self._cut_off())

    def undo(self) -> None:
        self._write(Curation.undo, "undo", 1)

    def redo(self) -> None:
        self._write(Curation.redo, "redo", 1)

    def _write(self, change: Callable[[Curation], Any], what: str, size: int) -> None:
        curation = self.curation
        if curation is not None and size:
            self.note.say("")
            self.writer.write(lambda: change(curation), what, size, self._counts.kept + self._counts.dropped)

    def _on_done(self, numbers: NDArray[np.intp], what: str) -> None:
        curation = self.curation
        if curation is None:
            return
        self._counts = curation.counts()
        if what in ("undo", "redo") and not len(numbers):
            self.note.say(f"There is nothing to {what}.")
        self.view.show_changes(numbers, what)
        self._recount()

    def _cut_off(self) -> int:
        return int(np.count_nonzero(self.curation.cut_off())) if self.curation is not None else 0

    def _recount(self) -> None:
        counts, selected, shown = self._counts, self.view.selection.count, len(self.view.gallery.numbers)
        writing = " · writing …" if self.writer.busy else ""
        self.count.setText(
            f"<b>{shown:,} shown · {selected:,} selected</b> · {counts.kept:,} kept · {counts.dropped:,} dropped · "
            f"{counts.border:,} at the border{writing}"
        )
        self.actions_box.set_counts(selected, self._cut_off())

    # Keys only while the panel is to be seen.

    def showEvent(self, event: QShowEvent) -> None:
        self.keys.bind()
        super().showEvent(event)

    def hideEvent(self, event: QHideEvent) -> None:
        self.keys.release()
        super().hideEvent(event)
