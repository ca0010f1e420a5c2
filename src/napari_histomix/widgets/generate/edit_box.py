"""The tools with which nuclei of a layout are added, moved, turned, deleted and given another class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtGui import QColor, QHideEvent, QIcon, QPixmap, QShowEvent
from qtpy.QtWidgets import QWidget

from napari_histomix.generation.layout import Layout
from napari_histomix.generation.layouts import moved, reclassed, turned, without
from napari_histomix.records import HistomixError, NucleusClass
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.generate import layout_layers
from napari_histomix.widgets.viewer_layers import Clicks, label_at, micrometers

STEP, ANGLE = 1.0, 15.0
"""µm and degrees that a nucleus is moved and turned by at each press."""
BRUSH = 4.0
"""µm across of the brush that a new nucleus is drawn with, to begin with."""
HOW = "Click a nucleus to select it, or add one."


class EditBox(QWidget):
    """Edits the nuclei of one Labels layer; what is drawn with napari's brush gets the chosen class.

    ``editing`` is emitted before a nucleus is added or changed, also where there is no layer: who hears it may call
    ``use``.
    """

    editing = Signal()
    changed = Signal()
    """The layer's nuclei or their classes were changed, here or with napari's own tools."""
    failed = Signal(str)

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.viewer = viewer
        self.layer: Any = None
        self._kept: frozenset[int] = frozenset()
        self._known: tuple[NucleusClass, ...] = ()
        self._classes: dict[int, str] = {}
        self.ring = layout_layers.SelectedRing(viewer)
        self.clicks = Clicks(viewer, self)
        self.clicks.clicked.connect(self._on_clicked)
        self.about = ui.label(HOW, plain=True)
        tip = "Class of the selected nucleus, and of those that are drawn next."
        self.kind = ui.choice(tip=tip, name="Class of the nucleus")
        self.kind.activated.connect(lambda _at: self._on_kind())
        tip = "Draw a new nucleus of this class with the brush."
        self.add_button = ui.button("Add", tip, self.add)
        self.delete_button = ui.button("Delete", "Delete the selected nucleus.", self.delete)
        arrows = (("←", 0, -1, "to the left"), ("↑", -1, 0, "up"), ("↓", 1, 0, "down"), ("→", 0, 1, "to the right"))
        self.move_buttons = [
            ui.button(
                text, f"Move the selected nucleus {where}.", lambda _=False, rows=rows, cols=cols: self.move(rows, cols)
            )
            for text, rows, cols, where in arrows
        ]
        self.turn_buttons = [
            ui.button(text, f"Turn the selected nucleus {way}.", lambda _=False, angle=angle: self.turn(angle))
            for text, angle, way in (("↺", ANGLE, "counterclockwise"), ("↻", -ANGLE, "clockwise"))
        ]
        for button in (*self.move_buttons, *self.turn_buttons):
            button.setAutoRepeat(True)
            button.setMinimumWidth(34)
        self.undo_button = ui.button("Undo", "Take the last stroke or edit back.", lambda: self._history("undo"))
        self.redo_button = ui.button("Redo", "Make it again.", lambda: self._history("redo"))
        self.setLayout(
            ui.column(
                ui.row(self.kind, self.add_button, stretch=0),
                self.about,
                ui.even_row(*self.move_buttons, *self.turn_buttons),
                ui.even_row(self.delete_button, self.undo_button, self.redo_button),
                space=ui.SPACE - 2,
            )
        )
        self._update_soon = ui.later(self, 0, self._update)
        self._remove_ring = ui.later(self, 0, self.ring.remove)
        self._update()

    # The layer.

    def use(self, layer: Any, kept: Collection[int] = ()) -> None:
        """Edit this layer, None: none; the nuclei that are ``kept`` stay as they are."""
        self._kept = frozenset(kept)
        if layer is not self.layer:
            self.ring.hide()
            # In a turn of its own: the layer may just be leaving napari's list.
            self._remove_ring.start()
            for signal, slot in self._signals(self.layer):
                signal.disconnect(slot)
            self.layer = layer
            for signal, slot in self._signals(layer):
                signal.connect(slot)
        # At once: who scrolls to the box needs its whole height.
        self.about.setVisible(layer is not None)
        self._read()

    def _signals(self, layer: Any) -> list[tuple[Any, Callable[..., None]]]:
        if layer is None:
            return []
        events = layer.events
        # napari emits ``paint`` for strokes, fills and what is written here.
        return [
            (events.paint, self._on_paint),
            (events.features, self._on_features),
            (events.selected_label, self._on_selected),
        ]

    def offer(self, classes: Sequence[NucleusClass]) -> None:
        """Offer these classes, and those of the layer."""
        self._known = tuple(classes)
        self._read()

    def _read(self) -> None:
        layer = self.layer
        self._classes = {} if layer is None else layout_layers.classes_of_layer(layer)
        kinds = self._known if layer is None else layout_layers.known_classes(layer, self._known)
        names = {kind.name.casefold() for kind in kinds}
        kinds = (*kinds, *(kind for kind in self._known if kind.name.casefold() not in names))
        # Before there was anything to choose, nothing was chosen.
        chosen = self.kind.currentData() if self.kind.count() > 1 else None
        with QSignalBlocker(self.kind):
            self.kind.clear()
            for kind in kinds:
                self.kind.addItem(_square(kind.color), kind.name, kind.name)
            self.kind.addItem("no class", "")
            self.kind.setCurrentIndex(max(self.kind.findData(chosen), 0))
        self._update_soon.start()

    def _on_features(self, event: Any = None) -> None:
        if isalive(self):
            self._read()
            self.changed.emit()

    def _on_paint(self, event: Any = None) -> None:
        if not isalive(self) or self.layer is None:
            return
        number = int(self.layer.selected_label)
        if number and number not in self._classes and number not in self._kept:
            # Drawn with a label of the person's own choice.
            self._set_class(number)
        self._update_soon.start()
        self.changed.emit()

    def _on_selected(self, event: Any = None) -> None:
        if isalive(self):
            self._update_soon.start()

    # What can be done.

    @property
    def selected(self) -> int:
        """The selected nucleus; 0 where there is none that can be edited."""
        if self.layer is None:
            return 0
        number = int(self.layer.selected_label)
        return number if number not in self._kept and layout_layers.selected_mask(self.layer, self._point).any() else 0

    @property
    def _point(self) -> tuple[float, ...]:
        return tuple(self.viewer.dims.point)

    def add(self) -> None:
        """Have the person draw a nucleus of the chosen class, with a label of its own."""
        self.editing.emit()
        layer = self.layer
        if layer is None:
            return
        with self._telling():
            number = layout_layers.fresh_label(layer, self._kept)
            self._set_class(number)
            layer.visible = True
            self.viewer.layers.selection.active = layer
            layer.selected_label = number
            layer.brush_size = max(2, round(BRUSH / (micrometers(layer) or 0.5)))
            layer.mode = "paint"
        self._update_soon.start()

    def _set_class(self, number: int) -> None:
        layout_layers.set_classes(self.layer, {number: str(self.kind.currentData() or "")}, self._known)

    def move(self, rows: int, cols: int) -> None:
        """Move the selected nucleus by so many steps."""
        step = max(1, round(STEP / (micrometers(self.layer) or 0.5)))
        self._edit(lambda layout, number: moved(layout, number, step * rows, step * cols))

    def turn(self, degrees: float) -> None:
        self._edit(lambda layout, number: turned(layout, number, degrees))

    def delete(self) -> None:
        self._edit(without)

    def _on_kind(self) -> None:
        if self.layer is None:
            return
        kind = str(self.kind.currentData() or "")
        if self.selected:
            self._edit(lambda layout, number: reclassed(layout, number, kind))
        elif int(self.layer.selected_label) in self._classes and int(self.layer.selected_label) not in self._kept:
            # Added, and not drawn yet.
            self._set_class(int(self.layer.selected_label))

    def _edit(self, change: Callable[[Layout, int], Layout]) -> None:
        number = self.selected
        if not number:
            return
        self.editing.emit()
        with self._telling():
            layout_layers.edit(self.layer, self._point, lambda layout: change(layout, number))
        self._update_soon.start()
        self.changed.emit()

    def _history(self, step: str) -> None:
        if self.layer is not None:
            getattr(self.layer, step)()
            self._update_soon.start()
            self.changed.emit()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except HistomixError as error:
            self.failed.emit(str(error))

    def _on_clicked(self, event: Any) -> None:
        layer = self.layer
        if layer is not None and layer.visible and self.isVisible() and (label := label_at(layer, event)):
            self.viewer.layers.selection.active = layer
            layer.selected_label = label

    # What is shown.

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._update_soon.start()

    def hideEvent(self, event: QHideEvent) -> None:
        self.ring.hide()
        super().hideEvent(event)

    def _update(self) -> None:
        layer, number = self.layer, self.selected
        for button in (self.delete_button, *self.move_buttons, *self.turn_buttons):
            button.setEnabled(bool(number))
        for button in (self.undo_button, self.redo_button):
            button.setEnabled(layer is not None)
        if number and layer.visible and self.isVisible():
            self.ring.show(layer, layout_layers.selected_mask(layer, self._point))
        else:
            self.ring.hide()
        if layer is None:
            self.about.setText("")
        elif number:
            kind = self._classes.get(number, "")
            with QSignalBlocker(self.kind):
                self.kind.setCurrentIndex(max(self.kind.findData(kind), 0))
            area = int(np.count_nonzero(layout_layers.selected_mask(layer, self._point)))
            size = micrometers(layer)
            words = f"{area:,} px" if size is None else f"{area * size**2:.0f} µm²"
            self.about.setText(f"Nucleus {number} · {kind or 'no class'} · {words}")
        elif int(layer.selected_label) in self._kept:
            self.about.setText("This nucleus was there before and stays as it is; add another.")
        elif str(layer.mode) == "paint":
            self.about.setText(f"Draw nucleus {layer.selected_label} with the brush.")
        else:
            self.about.setText(HOW)
        self.about.setVisible(layer is not None)


def _square(color: tuple[int, int, int]) -> QIcon:
    pixmap = QPixmap(12, 12)
    pixmap.fill(QColor(*color))
    return QIcon(pixmap)
