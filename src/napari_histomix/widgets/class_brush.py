"""Give nuclei of a Labels layer their classes by clicking or dragging over them; what has one is colored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from functools import partial
from typing import Any
from weakref import ref

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import Signal
from qtpy.QtGui import QHideEvent
from qtpy.QtWidgets import QWidget
from skimage.util import map_array

from napari_histomix.datasets.entries import named_classes
from napari_histomix.records import NucleusClass
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import PanelKeys
from napari_histomix.widgets.camera import camera_of
from napari_histomix.widgets.viewer_layers import label_at, labels_between, remove_layer

GIVE, END = "Give classes", "End (Esc)"
OPACITY = 0.85
"""Of the colors: what lies below has colors of its own."""
TIP = (
    "Then click nuclei in the image, or drag over them: each gets the class above and its color.\n"
    "Escape ends it. The layer itself stays as it is."
)


class ClassBrush(QWidget):
    """A class by name, a button that lets the mouse give it, and how many nuclei have which.

    The classes belong to one Labels layer at a time; for another one they begin anew.
    """

    changed = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.viewer = viewer
        self.layer: Any = None
        """The layer whose nuclei get classes."""
        self.given: dict[int, str] = {}
        """Class of each label that was given one."""
        self.names: list[str] = []
        """Classes in the order in which they were first given."""
        self._strokes: list[dict[int, str]] = []
        self._colors: Labels | None = None
        self._pans = True
        self._contour = 0
        self.kind = ui.choice(tip="The class to give: choose one, or type the name of a new one.")
        self.kind.setEditable(True)
        self.kind.setAccessibleName("Class to give")
        self.kind.lineEdit().setPlaceholderText("class, such as lymphocyte")
        self.kind.lineEdit().setToolTip(self.kind.toolTip())
        self.button = ui.button(GIVE, TIP, self._toggle, checkable=True)
        self.undo_button = ui.button("Undo", "Take the last click or drag back, as Ctrl+Z does.", self.undo)
        self.counts = ui.label(plain=True)
        below = ui.row(self.counts, self.undo_button, stretch=0)
        self.setLayout(ui.column(ui.row(self.kind, self.button, stretch=0), below, space=ui.SPACE // 2))
        ui.narrowable(self)
        self.kind.editTextChanged.connect(self._update)
        self.keys = PanelKeys(self, viewer, {"Escape": self.end, "Ctrl+Z": self.undo})
        self._drag = _drag_callback(self)
        viewer.layers.events.removed.connect(partial(_on_removed, ref(self)))
        self._update()

    @property
    def on(self) -> bool:
        """Whether the mouse gives classes now."""
        return self.button.isChecked()

    @property
    def classes(self) -> tuple[NucleusClass, ...]:
        """The classes that were given, in the order in which they were first."""
        used = set(self.given.values())
        return named_classes(*(name for name in self.names if name in used))

    def use(self, layer: Any) -> None:
        """Give classes to the nuclei of this layer from now on; None: there is none."""
        if layer is not self.layer:
            self.end()
            self._remove_colors()
            self.layer = layer
            self.given.clear()
            self._strokes.clear()
            self._update()
            self.changed.emit()

    def problem(self) -> str:
        """Why no class can be given now; empty where it can."""
        if self.layer is None:
            return "Choose the layer of the nuclei first."
        if self.layer.ndim != 2:
            return "Classes can be given in layers of one plane; split the stack first."
        return "" if self.name else "Choose a class, or type the name of a new one."

    @property
    def name(self) -> str:
        """The class to give."""
        typed = " ".join(self.kind.currentText().split())
        return next((name for name in self.names if name.casefold() == typed.casefold()), typed)

    # On and off.

    def _toggle(self, on: bool) -> None:
        if on and not self.problem():
            self.begin()
        else:
            self.end()

    def begin(self) -> None:
        """Let the mouse give classes."""
        camera = camera_of(self.viewer)
        self.button.setChecked(True)
        self.button.setText(END)
        self._show_colors()
        # A layer in which nothing is painted: a drag gives classes, and neither draws nor moves the image.
        self.viewer.layers.selection.active = self._colors
        self._pans, camera.mouse_pan = camera.mouse_pan, False
        if self._drag not in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.append(self._drag)
        self.keys.bind()

    def end(self) -> None:
        """Give the mouse back; what was given stays."""
        self.button.setChecked(False)
        self.button.setText(GIVE)
        if self._drag in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._drag)
            camera_of(self.viewer).mouse_pan = self._pans
            self.layer.contour = self._contour
            self.keys.release()

    def hideEvent(self, event: QHideEvent) -> None:
        self.end()
        super().hideEvent(event)

    # Giving.

    def begin_stroke(self) -> None:
        """What is given from here on is taken back together."""
        self._strokes.append({})

    def give(self, *labels: int) -> None:
        """Give labels the class; 0 is background."""
        name = self.name
        new = {label for label in labels if label and self.given.get(label) != name}
        if not new or not name:
            return
        if not self._strokes:
            self.begin_stroke()
        for label in new:
            self._strokes[-1].setdefault(label, self.given.get(label, ""))
            self.given[label] = name
        if name not in self.names:
            self.names.append(name)
            ui.offer(self.kind, [(known, known) for known in self.names])
            self.kind.setCurrentText(name)
        self._after(new)

    def undo(self) -> None:
        """Take the last click or drag back."""
        stroke: dict[int, str] = {}
        while self._strokes and not stroke:
            # A click that gave nothing is no step of its own.
            stroke = self._strokes.pop()
        for label, before in stroke.items():
            if before:
                self.given[label] = before
            else:
                self.given.pop(label, None)
        self._after(set(stroke))

    def _after(self, labels: set[int]) -> None:
        if self._colors is not None:
            mask = np.isin(self.layer.data, list(labels))
            rows, cols = np.nonzero(mask)
            numbers = {name: number for number, name in enumerate(self.names, start=1)}
            values = np.zeros(len(rows), np.uint8)
            for label in labels:
                values[self.layer.data[rows, cols] == label] = numbers.get(self.given.get(label, ""), 0)
            self._paint_colors((rows, cols), values)
        self._update()
        self.changed.emit()

    # The colors.

    def _show_colors(self) -> None:
        # Outlines, so that what has a class stands out, and what has none is to be seen.
        self._contour, self.layer.contour = self.layer.contour, self.layer.contour or 1
        if self._colors is None or self._colors not in self.viewer.layers:
            self._colors = None
            space = {name: getattr(self.layer, name) for name in _SPACE}
            name = f"{self.layer.name} classes"
            layer = Labels(self._numbers(), name=name, opacity=OPACITY, colormap=self._colormap(), **space)
            layer.editable = False
            self._colors = layer
            self.viewer.add_layer(layer)

    def _numbers(self) -> NDArray[np.uint8]:
        """The number of the class that each pixel's nucleus was given (H, W)."""
        numbers = [self.names.index(name) + 1 for name in self.given.values()]
        labels = np.asarray(self.layer.data)
        return map_array(labels, np.array([*self.given], labels.dtype), np.array(numbers, np.uint8))

    def _colormap(self) -> DirectLabelColormap:
        known = {kind.number: np.array([*kind.color, 255]) / 255 for kind in named_classes(*self.names)}
        return DirectLabelColormap(color_dict={None: np.zeros(4), 0: np.zeros(4), **known})

    def _paint_colors(self, where: Any, values: Any) -> None:
        layer = self._colors
        assert layer is not None
        if len(self.names) not in layer.colormap.color_dict:
            layer.colormap = self._colormap()
        layer.data[where] = values
        layer.refresh(extent=False, thumbnail=False)

    def _remove_colors(self) -> None:
        remove_layer(self.viewer, self._colors)
        self._colors = None

    def follow_space(self) -> None:
        """Lay the colors where the layer of the nuclei lies now."""
        if self._colors is not None:
            for name in _SPACE:
                setattr(self._colors, name, getattr(self.layer, name))

    def finish(self) -> None:
        """The classes are written: the colors are no longer needed."""
        self.end()
        self._remove_colors()

    def _update(self, *_: object) -> None:
        problem = self.problem()
        self.button.setEnabled(not problem or self.on)
        self.button.setToolTip(f"{TIP}\n{problem}".strip())
        if problem and self.on:
            self.end()
        self.undo_button.setVisible(any(self._strokes))
        counts = Counter(self.given.values())
        self.counts.setText(", ".join(f"{counts[kind.name]:,} {kind.name}" for kind in self.classes))
        self.counts.setVisible(bool(counts) or any(self._strokes))


_SPACE = ("scale", "translate", "rotate", "shear", "affine", "units")


def _drag_callback(brush: ClassBrush) -> Any:
    # The viewer keeps this function: it must not keep the panel too.
    this = ref(brush)

    def on_drag(_viewer: Any, event: Any) -> Generator[None, None, None]:
        brush = this()
        if brush is None or not brush.on or getattr(event, "button", 1) != 1:
            return
        brush.begin_stroke()
        brush.give(label_at(brush.layer, event))
        before = event.position
        yield
        while event.type == "mouse_move":
            if brush.on:
                brush.give(*labels_between(brush.layer, before, event.position))
            before = event.position
            yield

    return on_drag


def _on_removed(this: ref[ClassBrush], event: Any) -> None:
    brush = this()
    if brush is not None and isalive(brush) and event.value is brush._colors:
        brush._colors = None
        brush.end()
