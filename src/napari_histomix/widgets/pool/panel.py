"""The tab *Pool* of Make: look through the segments of a pool, keep and drop them, give them classes and tags."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QSizePolicy, QSplitter, QWidget

from napari_histomix.segmentation.pool import has_pool
from napari_histomix.study import Study
from napari_histomix.study.curation import Counts, Curation, Decision
from napari_histomix.study.database import READ_ONLY
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import PanelKeys, turning_keys
from napari_histomix.widgets.gallery import Selection
from napari_histomix.widgets.jobs import JobRunner, single
from napari_histomix.widgets.pool.controls import ACTIONS, PoolActions, PoolFilters
from napari_histomix.widgets.pool.gallery import PoolGallery
from napari_histomix.widgets.pool.loading import CurationWriter, OpenedPool, TissuePanel, umap_job, uses_of
from napari_histomix.widgets.pool.map import PoolMap
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer_layers import SegmentPlaces, has_segments

NOTHING = Counts(0, 0, 0, 0, {})
SORTED_AT_ONCE = 20_000
"""Segments that are compared with the current one while the window waits."""
PCA, UMAP = "PCA", "UMAP"


class PoolView(QWidget):
    """Shows a curation and changes nothing in it."""

    shown_changed = Signal()
    """Other segments are shown."""
    image_wanted = Signal(str)
    said = Signal(str)
    """A sentence for the person; an empty one takes it back."""

    def __init__(self, viewer: Any, places: SegmentPlaces) -> None:
        super().__init__()
        self.viewer, self.places = viewer, places
        self.curation: Curation | None = None
        self._wanted = ""
        self.selection = Selection(self)
        self.sorter = JobRunner(self).on(finished=self._show_order, failed=self.said)
        self._build()
        self.filters.filtered.connect(self.refresh)
        self.filters.ordered.connect(self.refresh)
        self.gallery.visited.connect(self.visit)
        self.map.visited.connect(self._on_map)
        self.map.lassoed.connect(self._on_lassoed)
        self.places.clicked.connect(self._on_clicked)
        self.places.layers_changed.connect(self._on_layers)
        self.selection.current_changed.connect(lambda _number: self.describe())
        viewer.events.theme.connect(self._on_theme)

    def _build(self) -> None:
        self.filters = PoolFilters()
        self.gallery = PoolGallery(self.selection, self.viewer.theme)
        # A row of tiles.
        self.gallery.setMinimumHeight(110)
        self.map = PoolMap(self.selection, self.viewer.theme)
        tip = "How the segments' vectors are brought onto two axes."
        self.map_kind = ui.choice((("Map: principal components", PCA), ("Map: UMAP", UMAP)), tip)
        self.map_kind.setVisible(find_spec("umap") is not None)
        splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.addWidget(self.gallery)
        splitter.addWidget(ui.box(ui.column(self.map_kind, self.map, space=ui.SPACE // 2, stretch=1)))
        splitter.setStretchFactor(0, 2)
        splitter.setStretchFactor(1, 1)
        splitter.setSizes([400, 200])
        splitter.setCollapsible(0, False)
        # The room that is left, and no more: the buttons below stay in sight.
        splitter.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Ignored)
        splitter.setMinimumHeight(splitter.minimumSizeHint().height())
        self.about = ui.label(wrap=False, plain=True, yields=True)
        tip = "Show the image of this segment with all of its segments, in the tab Correct."
        self.image_button = ui.button("Show image", tip, self._want_image)
        self.similar_button = ui.button(
            "Similar", "Sort by similarity to this segment.", lambda: self.filters.choose_order("similarity")
        )
        line = ui.row(self.about, self.similar_button, self.image_button, stretch=0)
        self.setLayout(ui.column(self.filters, splitter, line, stretch=1))

    # What is shown.

    def set_curation(self, curation: Curation | None, places: NDArray[np.float32] | None = None) -> None:
        self.sorter.discard()
        self._wanted = ""
        self.curation = curation
        self.selection.reset(len(curation) if curation else 0)
        self.gallery.set_curation(curation)
        self.map.set_curation(curation, places)
        if curation is not None:
            self.filters.set_kinds(curation.kinds)
            self.filters.set_tags(curation.tags())
            self.filters.clear()
        self.describe()

    def refresh(self) -> None:
        curation = self.curation
        if curation is None:
            return
        numbers = curation.matching(self.filters.filters())
        current = self.selection.current
        self.map.set_numbers(numbers)
        self.selection.restrict(numbers)
        self.sorter.discard()
        chosen = current if current >= 0 else None
        sort = partial(curation.ordered, numbers, self.filters.by, chosen, self.filters.turn.isChecked())
        if self.filters.by == "similarity" and current < 0:
            self.said.emit("Click a segment first, then sort by similarity to it.")
        if self.filters.by == "similarity" and current >= 0 and len(numbers) > SORTED_AT_ONCE:
            self.sorter.replace(single(sort, "Comparing"), "comparing segments")
        else:
            self._show_order(sort())

    def _show_order(self, numbers: NDArray[np.intp]) -> None:
        self.gallery.set_numbers(numbers)
        self.gallery.reveal(self.selection.current)
        self.shown_changed.emit()

    def show_changes(self, numbers: NDArray[np.intp], what: str) -> None:
        """Show that segments changed: decision, class or tags, or what "undo" or "redo" turned, which is selected."""
        if self.curation is None:
            return
        if what in ("tags", "undo", "redo"):
            self.filters.set_tags(self.curation.tags())
        if what in ("class", "undo", "redo"):
            self.map.set_numbers(self.map.numbers)
        if what in ("undo", "redo"):
            self._select_shown(numbers)
        self.describe()
        self.gallery.viewport().update()

    def _select_shown(self, numbers: NDArray[np.intp]) -> None:
        shown = numbers[np.isin(numbers, self.gallery.numbers)]
        if len(shown):
            self.selection.select(shown, int(shown[0]))
            self.gallery.reveal(int(shown[0]))

    # Places: gallery, map and layers.

    def visit(self, number: int) -> None:
        if self.curation is not None:
            line, image = self.curation.pool.rows[number], self.curation.pool.image(number).source.image
            self.places.show(image, *(int(line[name]) for name in ("number", "row", "col", "height", "width")))

    def _on_map(self, number: int) -> None:
        self.gallery.reveal(number)
        self.visit(number)

    def _on_lassoed(self) -> None:
        selected = self.gallery.numbers[self.selection.mask[self.gallery.numbers]]
        if len(selected):
            self.gallery.reveal(int(selected[0]))

    def _on_clicked(self, image: str, label: int) -> None:
        number = self.curation.find(image, label) if self.curation is not None else None
        if number is None:
            return
        if self.gallery.place_of(number) is None:
            self.said.emit("The filters hide the segment that you clicked.")
            return
        self.said.emit("")
        self.selection.select([number], number)
        self.gallery.reveal(number)

    def _current_image(self) -> str:
        if self.curation is None or self.selection.current < 0:
            return ""
        return self.curation.pool.image(self.selection.current).source.image

    def _want_image(self) -> None:
        self._wanted = self._current_image()
        if self._wanted:
            self.image_wanted.emit(self._wanted)

    def _on_layers(self) -> None:
        self.describe()
        if self._wanted and self.selection.current >= 0 and self._is_shown(self._wanted):
            wanted, self._wanted = self._wanted, ""
            if self._current_image() == wanted:
                self.visit(self.selection.current)

    def _is_shown(self, image: str) -> bool:
        """Whether an image is open with its segments: without them nothing says where one ends."""
        return any(has_segments(layer) for layer in self.places.layers(image))

    def describe(self) -> None:
        curation, number, image = self.curation, self.selection.current, self._current_image()
        known = curation is not None and number >= 0
        self.about.setText(
            f"{curation.kind_of(number)} · {image}" if known else "Click a segment to see where it lies."
        )
        self.about.setToolTip(self.gallery.words(number) if known else "")
        self.similar_button.setVisible(known)
        self.image_button.setVisible(known and not self._is_shown(image))

    def _on_theme(self, event: Any = None) -> None:
        if isalive(self):
            self.gallery.set_theme(self.viewer.theme)
            self.map.set_theme(self.viewer.theme)


class PoolPanel(TissuePanel):
    """Filters, gallery, map, decisions and a count. Decisions are on disk before they are shown."""

    opened = Signal(object, object)
    """Study and pool that are shown now."""
    # Four tiles wide.
    preferred_size = (420, 860)

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.study: Study | None = None
        self._pca: NDArray[np.float32] | None = None
        self._counts = NOTHING
        self.writer = CurationWriter(self)
        self.counter = JobRunner(self).on(finished=self._on_uses, failed=self.fail)
        self._build()
        keys = {key: getattr(self, name) for name, (key, _) in ACTIONS.items()}
        self.keys = PanelKeys(self, self.viewer, keys | turning_keys(self.undo, self.redo))
        self.while_shown.append(self.keys)
        self.column.insertWidget(0, self.keys.badge("Pool"))
        self._connect()
        self._update()

    def _build(self) -> None:
        self.scroll()
        self.empty = ui.Note("Here you look through a pool of segments. Build one, or open a study that has one.")
        lead = self.lead("Build the pool →", "make/plan", "Find the segments of the open images.", beside=self.empty)
        tip = "Make the segment pool of this study anew."
        self.rebuild_button = ui.button("Rebuild…", tip, self._open_segments, shown=False)
        self.view = PoolView(self.viewer, self.places)
        self.actions_box = PoolActions(self)
        self.count = ui.label()
        self.results = ui.box(ui.column(self.view, self.actions_box, self.count, stretch=0))
        header = ui.row(self.title, self.open_button, stretch=0)
        ui.add(self.column, header, self.empty, lead, self.progress, self.note, self.rebuild_button)
        self.column.addWidget(self.results, 1000)
        self.column.addStretch(1)

    def _connect(self) -> None:
        self.runner.on(finished=self._on_finished, cancelled=lambda: self.view.map_kind.setCurrentIndex(0))
        self.writer.done.connect(self._on_done)
        self.writer.failed.connect(partial(self.complain, self.note))
        self.writer.busy_changed.connect(lambda _busy: self._recount())
        self.view.shown_changed.connect(self._recount)
        self.view.selection.changed.connect(self._recount)
        self.view.image_wanted.connect(self._show_image)
        self.view.said.connect(self.note.say)
        self.view.map_kind.currentIndexChanged.connect(self._on_map_kind)
        self.opened.connect(lambda study, _pool: self.session.share_pool(study.folder, self))
        for signal in (self.session.changes_made, self.session.changes_changed):
            signal.connect(self._count_uses)
        self.session.dataset_changed.connect(self._on_dataset)

    @property
    def curation(self) -> Curation | None:
        return self.view.curation

    def _show_image(self, name: str) -> None:
        self._open_segments()
        self.session.pool_image_wanted.emit(name)

    def _open_segments(self) -> None:
        if not self.session.shows_pool_images:
            self.session.page_requested.emit("make/segments")

    # Opening.

    def open_study(self, folder: Path) -> None:
        self.rebuild_button.hide()
        super().open_study(folder)

    def _update(self) -> None:
        self.results.setVisible(self.curation is not None)
        for part in (self.empty, self.empty.lead):
            part.setVisible(self.curation is None and not self.rebuild_button.isVisibleTo(self))

    def _on_finished(self, result: Any) -> None:
        if isinstance(result, OpenedPool):
            self._take_opened(result)
        else:
            self.view.map.set_places(result)

    def _on_dataset(self) -> None:
        """Let go of the pool of another study: what is decided here would be kept there."""
        if self.study is None or self.session.pool_folder is not None:
            return
        self.runner.discard()
        self.counter.discard()
        self.writer.forget()
        self.study, self._pca, self._counts = None, None, NOTHING
        self.view.set_curation(None)
        self.rebuild_button.hide()
        self.title.clear()
        self.note.say("")
        self._update()

    def _take_opened(self, opened: OpenedPool) -> None:
        self.study, self._pca = opened.study, opened.places
        self.writer.forget()
        self.counter.discard()
        curation, folder = opened.curation, opened.study.folder
        self._counts = curation.counts() if curation else NOTHING
        self.view.set_curation(curation, opened.places)
        self.rebuild_button.setVisible(curation is None)
        self.rebuild_button.setText("Rebuild…" if has_pool(folder) else "Build…")
        self._update()
        if curation is None:
            self.title.clear()
            self.fail(opened.problem)
            return
        self.session.introduce(opened.study)
        self.actions_box.set_kinds(curation.kinds)
        self.title.setText(f"<b>{folder.name}</b> · {ui.many(len(curation), 'segment')}")
        self._recount()
        if opened.study.read_only:
            self.note.say(READ_ONLY, "warning")
        self.opened.emit(opened.study, curation.pool)

    def fail(self, sentence: str) -> None:
        self.view.map_kind.setCurrentIndex(0)
        super().fail(sentence)

    def _count_uses(self, _ids: Any = None) -> None:
        """Count anew how often segments were drawn: the window made changes, or took some back."""
        curation = self.curation
        if curation is not None and self.session.study_folder == curation.study.folder:
            self.counter.replace(single(partial(uses_of, curation.study, curation.pool), "Counting"), "counting uses")

    def _on_uses(self, uses: NDArray[np.int32]) -> None:
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
        elif not self.runner.start(partial(umap_job, self.curation.pool), "drawing the UMAP"):
            self.view.map_kind.setCurrentIndex(0)

    # Decisions.

    def keep(self) -> None:
        self._decide("keep")

    def drop(self) -> None:
        self._decide("drop")

    def clear(self) -> None:
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
