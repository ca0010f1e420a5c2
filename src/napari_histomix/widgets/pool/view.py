"""The gallery of a segment pool with its filters, its map and the viewer's layers, each following the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import QComboBox, QSizePolicy, QSplitter, QWidget

from napari_histomix.study.curation import Curation
from napari_histomix.widgets.elements import SPACE, box, button, column, label, row
from napari_histomix.widgets.jobs import JobRunner, single
from napari_histomix.widgets.pool.controls import PoolFilters
from napari_histomix.widgets.pool.gallery import PoolGallery, PoolSelection
from napari_histomix.widgets.pool.loading import umap_available
from napari_histomix.widgets.pool.map import PoolMap
from napari_histomix.widgets.viewer_layers import SegmentPlaces

SORTED_AT_ONCE = 20_000
"""Segments that are compared with the current one while the window waits."""
PCA, UMAP = "PCA", "UMAP"
Sort = Callable[[], tuple[NDArray[np.intp], NDArray[np.intp]]]
"""Segments as they were asked for, and in order."""


class PoolView(QWidget):
    """Shows a curation and changes nothing in it."""

    shown_changed = Signal()
    """Other segments are shown."""
    image_wanted = Signal(str)
    said = Signal(str)
    """A sentence for the person; an empty one takes it back."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.viewer = viewer
        self.curation: Curation | None = None
        self._sort: Sort | None = None
        self._wanted = ""
        self.selection = PoolSelection(self)
        self.sorter = JobRunner(self)
        self.places = SegmentPlaces(viewer, self)
        self._build()
        self.sorter.finished.connect(self._on_sorted)
        self.sorter.failed.connect(self.said)
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
        self.map = PoolMap(self.selection, self.viewer.theme)
        self.map_kind = QComboBox()
        self.map_kind.addItem("Map: principal components", PCA)
        self.map_kind.addItem("Map: UMAP", UMAP)
        self.map_kind.setToolTip("How the segments' vectors are brought onto two axes.")
        self.map_kind.setVisible(umap_available())
        self.splitter = QSplitter(Qt.Orientation.Vertical)
        self.splitter.addWidget(self.gallery)
        self.splitter.addWidget(box(column(self.map_kind, self.map, space=SPACE // 2, stretch=1)))
        self.splitter.setStretchFactor(0, 2)
        self.splitter.setStretchFactor(1, 1)
        self.splitter.setSizes([400, 200])
        self.splitter.setCollapsible(0, False)
        self.about = label(wrap=False, plain=True)
        self.about.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.image_button = button("Show image", "The image of this segment is not open.", self._want_image)
        self.similar_button = button(
            "Similar", "Sort by similarity to this segment.", lambda: self.filters.choose_order("similarity")
        )
        line = row(self.about, self.similar_button, self.image_button, stretch=0)
        self.setLayout(column(self.filters, self.splitter, line, stretch=1))

    # What is shown.

    def set_curation(self, curation: Curation | None, places: NDArray[np.float32] | None = None) -> None:
        """Show all of another pool, or nothing."""
        self.sorter.discard()
        self._sort, self._wanted = None, ""
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
        by, reverse, current = self.filters.by, self.filters.turn.isChecked(), self.selection.current
        self.map.set_numbers(numbers)
        self.selection.restrict(numbers)
        if by == "similarity":
            if current < 0:
                self.said.emit("Click a segment first, then sort by similarity to it.")
            elif len(numbers) > SORTED_AT_ONCE:
                self._sort_later(lambda: (numbers, curation.ordered(numbers, by, current, reverse)))
                return
        self._sort = None
        self._show_order(curation.ordered(numbers, by, current if current >= 0 else None, reverse))

    def _sort_later(self, sort: Sort) -> None:
        self._sort = sort
        if self.sorter.start(single(sort, "Comparing"), "comparing segments"):
            self._sort = None

    def _on_sorted(self, result: tuple[NDArray[np.intp], NDArray[np.intp]]) -> None:
        asked, numbers = result
        if self._sort is not None:
            self._sort_later(self._sort)
        elif self.filters.by == "similarity" and asked is self.map.numbers:
            self._show_order(numbers)

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
        """Bring a segment onto the screen, where its image is open."""
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
        if self._wanted and self.selection.current >= 0 and self.places.layers(self._wanted):
            wanted, self._wanted = self._wanted, ""
            if self._current_image() == wanted:
                self.visit(self.selection.current)

    def describe(self) -> None:
        """Say what the current segment is, and whether its image is open."""
        curation, number, image = self.curation, self.selection.current, self._current_image()
        known = curation is not None and number >= 0
        self.about.setText(
            f"{curation.kind_of(number)} · {image}" if known else "Click a segment to see where it lies."
        )
        self.about.setToolTip(self.gallery.words(number) if known else "")
        self.similar_button.setVisible(known)
        self.image_button.setVisible(known and not self.places.layers(image))

    def _on_theme(self, event: Any = None) -> None:
        if isalive(self):
            self.gallery.set_theme(self.viewer.theme)
            self.map.set_theme(self.viewer.theme)

    # Clicks only while it is to be seen.

    def showEvent(self, event: QShowEvent) -> None:
        self.places.listen()
        super().showEvent(event)

    def hideEvent(self, event: QHideEvent) -> None:
        self.places.rest()
        super().hideEvent(event)
