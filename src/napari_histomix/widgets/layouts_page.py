"""The page of the layouts stage: layouts are made, looked at, edited with napari's brush, kept and dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from qtpy.compat import isalive
from qtpy.QtCore import QItemSelectionModel, Qt
from qtpy.QtGui import QColor, QHideEvent

from napari_histomix.generation.layout import Layout
from napari_histomix.methods.base import Stage
from napari_histomix.methods.layout_stage import LayoutBook, layout_picture
from napari_histomix.records import HistomixError, instance_ids
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import PanelKeys
from napari_histomix.widgets.camera import fit, show_scale_bar
from napari_histomix.widgets.crops import CropView
from napari_histomix.widgets.decisions import DROP, KEEP, UNDECIDED, WORDS
from napari_histomix.widgets.generate.edit_box import EditBox
from napari_histomix.widgets.generate.layout_layers import layout_layer, layout_of
from napari_histomix.widgets.jobs import JobRunner, single
from napari_histomix.widgets.plan_panel import PlanPage
from napari_histomix.widgets.session import Session, window_of
from napari_histomix.widgets.table_model import ArrayTableModel, Column, set_widths, table_view
from napari_histomix.widgets.viewer_layers import about, remove_layer

COLORS = {KEEP: QColor("#27ae60"), DROP: QColor("#c0392b"), UNDECIDED: None}
SAVED_AFTER = 400
"""Milliseconds after an edit before it is saved."""


def table_columns(book: LayoutBook, decisions: dict[int, str]) -> list[Column]:
    """The columns of a table of a study's layouts."""
    known = [book.facts(number) for number in range(len(book))]
    states = [decisions.get(number, UNDECIDED) for number in range(len(book))]
    classes = [", ".join(f"{name or 'no class'} {count:,}" for name, count in sorted(f.counts.items())) for f in known]
    decision = Column("decision", "Decision", "Yours; what is undecided is kept.", states, WORDS.__getitem__)
    decision.color = lambda number: COLORS[decision.values[number]]
    return [
        Column("number", "#", "The layout's number in the study.", np.arange(1, len(book) + 1), right=True),
        Column("nuclei", "Nuclei", "How many there are.", [sum(f.counts.values()) for f in known], right=True),
        Column("classes", "Classes", "How many nuclei of each class.", classes),
        decision,
        Column("edited", "Edited", "Whether you changed it.", [f.edited for f in known], lambda yes: "yes" * yes),
        Column("source", "From", "The real image whose nuclei these were.", [f.source or "drawn" for f in known]),
    ]


class LayoutsPage(PlanPage):
    """Makes layouts, and shows them as a table; the chosen one as a picture, and as a Labels layer to be edited."""

    run_text, run_tip = "Make layouts", "Lay out nuclei, which you look at before anything is painted."

    def __init__(self, napari_viewer: Any, session: Session | None = None, stage: Stage | None = None) -> None:
        super().__init__(napari_viewer, session, stage)
        keys = {"K": lambda: self.decide(KEEP), "D": lambda: self.decide(DROP), "U": self.undo, "Y": self.redo}
        self.keys = PanelKeys(self, self.viewer, keys)
        self.while_shown += [self.keys, self.edit_box.clicks]
        self.column.insertWidget(0, self.keys.badge("Layouts"))
        for signal in (self.session.study_changed, self.session.candidates_changed):
            signal.connect(self._on_study)
        self.session.layouts_decided.connect(self._on_decided)
        self.session.classes_changed.connect(self._offer)
        self.viewer.layers.events.removed.connect(self._on_removed)
        self._on_study()

    def build_results(self) -> None:
        self.book: LayoutBook | None = None
        self.layer: Any = None
        """The Labels layer of the layout that is open; None where none is."""
        self._open = -1
        self._saved: Layout | None = None
        self._wanted = -1
        self._covered: list[Any] = []
        """Layers that were hidden for the layout that is open."""
        self.reading = JobRunner(self).on(finished=self._on_read, failed=partial(self.complain, self.note))
        self._save_soon = ui.later(self, SAVED_AFTER, self.save)
        self.table = ArrayTableModel(self)
        self.view = table_view(self.table)
        self.view.setSortingEnabled(True)
        self.view.setShowGrid(False)
        self.view.setMinimumHeight(150)
        self.view.setToolTip("K keeps, D drops, U undoes, Y redoes; Shift and Ctrl select several.")
        self.view.selectionModel().currentRowChanged.connect(lambda _now, _before: self._look())
        self.count = ui.label()
        buttons = (
            ("Keep (K)", "Paint the selected layouts.", lambda: self.decide(KEEP)),
            ("Drop (D)", "Do not paint the selected layouts.", lambda: self.decide(DROP)),
            ("Undo (U)", "Take the last decision back.", self.undo),
            ("Redo (Y)", "Make the decision again that was taken back last.", self.redo),
        )
        self.picture = CropView("Layout", height=190)
        tip = "Open this layout as a Labels layer, to edit it; what you change is saved at once."
        self.edit_button = ui.button("Edit it", tip, self.open_layer)
        self.revert_button = ui.button("Revert", "Take back all that was edited in this layout.", self.revert)
        self.edit_box = EditBox(self.viewer)
        self.edit_box.failed.connect(partial(self.complain, self.note))
        self.edit_box.changed.connect(self._save_soon.start)
        parts = (
            self.view,
            ui.even_row(*(ui.button(text, tip, pressed) for text, tip, pressed in buttons)),
            self.count,
            self.picture,
            ui.even_row(self.edit_button, self.revert_button),
            self.edit_box,
        )
        self.results = ui.box(ui.column(*parts, stretch=0))
        self.column.addWidget(self.results, 10)

    def words(self) -> str:
        if self.book is None:
            return ""
        return f"{len(self.book) - self._count(DROP):,} of {len(self.book):,} to paint"

    def _count(self, decision: str) -> int:
        return list(self.session.decisions["layout"].values()).count(decision)

    # What the study holds.

    def _on_study(self) -> None:
        self.save()
        study = self.session.study
        folder = self.book.folder if self.book is not None else None
        self.book = None
        try:
            if study is not None and self.stage.ready(study):
                self.book = LayoutBook(study.folder)
        except HistomixError as error:
            self.complain(self.note, str(error))
        if self.book is None or self.book.folder != folder:
            self._let_go()
        self.results.setVisible(self.book is not None and len(self.book) > 0)
        self._offer()
        self._fill()
        if self.book is not None and self.table.rowCount() and not self.view.currentIndex().isValid():
            self.view.selectRow(0)

    def _fill(self) -> None:
        """Show the table anew, with the same layout selected."""
        first, current = not self.table.columns, self.current
        columns = [] if self.book is None else table_columns(self.book, self.session.decisions["layout"])
        self.table.set_columns(columns)
        if first and columns:
            set_widths(self.view, (30, 50, 134, 76, 50, 150))
            self.view.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        if current >= 0:
            self.select([current])
        self._recount()

    def _recount(self) -> None:
        kept, dropped = self._count(KEEP), self._count(DROP)
        left = len(self.table) - kept - dropped
        self.count.setText(f"<b>{kept:,} kept · {dropped:,} dropped</b> · {left:,} undecided, which are painted too")

    def on_found(self, found: Any) -> None:
        self._on_study()
        if not self.note.text():
            self.note.say(f"{ui.many(found.result.layouts, 'layout')} made.", "good")
        ui.reveal(self.results)

    # Decisions.

    @property
    def current(self) -> int:
        """Number of the layout that was clicked last; -1 for none."""
        index = self.view.currentIndex()
        return self.table.items([index.row()])[0] if index.isValid() else -1

    def selected(self) -> list[int]:
        """Numbers of the selected layouts."""
        return self.table.items(index.row() for index in self.view.selectionModel().selectedRows())

    def decide(self, decision: str) -> None:
        """Keep or drop the selected layouts, and go on to the next one."""
        numbers = self.selected()
        if not numbers:
            return
        last = max(index.row() for index in self.view.selectionModel().selectedRows())
        self.session.decide("layout", numbers, decision)
        if last + 1 < self.table.rowCount():
            self.view.selectRow(last + 1)

    def undo(self) -> None:
        self.select(self.session.undo("layout"))

    def redo(self) -> None:
        self.select(self.session.redo("layout"))

    def select(self, numbers: Sequence[int]) -> None:
        rows = [row for row in map(self.table.row_of, numbers) if row is not None]
        if rows:
            model, flags = self.view.selectionModel(), QItemSelectionModel.SelectionFlag
            model.setCurrentIndex(self.table.index(rows[0], 0), flags.ClearAndSelect | flags.Rows)
            for row in rows[1:]:
                model.select(self.table.index(row, 0), flags.Select | flags.Rows)

    def _on_decided(self, numbers: Iterable[int]) -> None:
        if self.book is not None:
            decisions = self.session.decisions["layout"]
            self.table.set_values("decision", [decisions.get(number, UNDECIDED) for number in range(len(self.table))])
            self._recount()

    # Looking at a layout, and editing it.

    def _look(self) -> None:
        number = self.current
        self.revert_button.setEnabled(number >= 0 and self.book is not None and self.book.facts(number).edited)
        self.edit_button.setEnabled(number >= 0)
        if self.book is None or number < 0:
            self.picture.show_pixels(None, "Layout")
        elif self.layer is not None and number != self._open:
            self.open_layer()
        else:
            self._read(number)

    def _read(self, number: int) -> None:
        assert self.book is not None
        self.reading.replace(single(partial(_numbered, self.book, number), "Reading a layout"), "reading a layout")

    def _on_read(self, read: tuple[int, Layout]) -> None:
        number, layout = read
        if number != self.current or self.session.dataset is None:
            return
        colors = {kind.name: kind.color for kind in self.session.dataset.classes}
        self.picture.show_pixels(layout_picture(layout, colors), f"Layout {number + 1}")
        if self._wanted == number:
            self._wanted = -1
            self._show_layer(number, layout)

    def open_layer(self) -> None:
        """Open the selected layout as a Labels layer; it is read first."""
        number = self.current
        if number < 0 or self.book is None:
            return
        if number == self._open and self.layer is not None:
            self.layer.visible = True
            self.viewer.layers.selection.active = self.layer
            return
        self.save()
        self._wanted = number
        self._read(number)

    def _show_layer(self, number: int, layout: Layout) -> None:
        self._let_go()
        dataset = self.session.dataset
        assert dataset is not None
        name, space = f"layout {number + 1} of the study", {"scale": (layout.mpp, layout.mpp), "units": ("um", "um")}
        facts = {"image": name, "synthetic": True, "source": layout.source}
        self.layer = layout_layer(layout, dataset.classes, name, space, **facts)
        self._open, self._saved = number, layout
        self._covered = [other for other in self.viewer.layers if other.visible and about(other).get("image")]
        for other in self._covered:
            other.visible = False
        self.viewer.layers.append(self.layer)
        self.viewer.layers.selection.active = self.layer
        show_scale_bar(self.viewer)
        if window_of(self.viewer) is not None:
            fit(self.viewer, self.layer)
        self.edit_box.use(self.layer)
        # The canvas shows it.
        self.picture.hide()
        self.edit_box.show()
        ui.reveal(self.edit_box)

    def _let_go(self) -> None:
        """Close the layout that is open."""
        layer, self.layer, self._open, self._saved = self.layer, None, -1, None
        self.edit_box.use(None)
        self.edit_box.hide()
        self.picture.show()
        remove_layer(self.viewer, layer)
        for other in self._covered:
            # Of the dataset's images, another one may be shown by now.
            image = about(other)["image"]
            other.visible = other.visible or image == self.session.image or image not in self.session.images
        self._covered = []

    def _offer(self) -> None:
        dataset = self.session.dataset
        self.edit_box.offer(dataset.classes if dataset is not None else ())

    def save(self) -> None:
        """Keep what was edited in the layout that is open."""
        self._save_soon.stop()
        before, book, number = self._saved, self.book, self._open
        if self.layer is None or before is None or book is None:
            return
        try:
            drawn = layout_of(self.layer, self.viewer.dims.point)
            classes = {known: drawn.classes[known] for known in instance_ids(drawn.instances)}
            now = replace(before, instances=drawn.instances, classes=classes)
            if np.array_equal(now.instances, before.instances) and classes == {
                known: before.classes[known] for known in classes
            }:
                return
            if self.session.read_only:
                raise HistomixError("Another window writes to this study; what you edit here is not kept.")
            book.edit(number, now)
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        self._saved = now
        self._fill()

    def revert(self) -> None:
        """Take back all that was edited in the selected layout."""
        number, book = self.current, self.book
        if number < 0 or book is None:
            return
        self._save_soon.stop()
        try:
            book.revert(number)
        except (HistomixError, OSError) as error:
            self.complain(self.note, str(error))
            return
        reopen = number == self._open
        self._let_go()
        self._fill()
        self._wanted = number if reopen else -1
        self._read(number)

    def _on_removed(self, event: Any) -> None:
        if isalive(self) and self.layer is not None and event.value is self.layer:
            self.save()
            self._let_go()

    def hideEvent(self, event: QHideEvent) -> None:
        self.save()
        super().hideEvent(event)


def _numbered(book: LayoutBook, number: int) -> tuple[int, Layout]:
    return number, book.read(number)
