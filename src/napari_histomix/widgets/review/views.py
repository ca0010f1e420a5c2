"""Before and after: side by side, one after the other, or with a divider between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QLineF, QPointF, QRectF, Qt, QTimer, Signal
from qtpy.QtGui import (
    QColor,
    QHideEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
    QShowEvent,
    QWheelEvent,
)
from qtpy.QtWidgets import QButtonGroup, QWidget

from napari_histomix.compositing.composing import Look
from napari_histomix.records import DONOR, INPAINTED
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.crops import CropView, image_of

SIDE_BY_SIDE, BLINK, SWIPE = "side", "blink", "swipe"
MODES = (
    (SIDE_BY_SIDE, "Side by side (V)", "Before on the left, after on the right."),
    (BLINK, "Blink (B)", "Before and after in the same place, one after the other."),
    (
        SWIPE,
        "Swipe (W)",
        "After behind, before in front up to a divider: drag it, or move it with Shift+← and Shift+→.",
    ),
)
INTERVAL = 500
"""Milliseconds before the blinking view changes."""
ZOOMS = (0.125, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 16)
"""Screen pixels for each image pixel."""
HEIGHT, ALONE = 210, 270
"""Pixels that the views are high: two side by side, and one that has nothing beside it."""
FILLED = 0.75
"""Share of a piece, both ways, that is seen at least at the zoom that fits: a piece a little larger fills the frame."""
STEP = 0.05
"""Share of the width that a key moves the divider by."""
ORIGINS = {DONOR: "#2e86ff", INPAINTED: "#ffb000"}
"""Colors of the outlines of what was copied and what was painted."""


class PatchView(CropView):
    """A magnified piece with outlines over it; left of a divider, another piece can be shown instead."""

    def __init__(self, caption: str, comparison: Comparison) -> None:
        super().__init__(caption, comparison.factor)
        self.comparison = comparison
        self.divider: float | None = None
        self._left: NDArray[np.uint8] | None = None
        self._lines: dict[str, list[QLineF]] = {}
        self._from: QPointF | None = None
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.setFixedHeight(HEIGHT)

    def show_piece(
        self,
        pixels: NDArray[np.uint8] | None,
        caption: str,
        frame: str = "",
        origin: NDArray[np.uint8] | None = None,
        left: tuple[NDArray[np.uint8], float] | None = None,
    ) -> None:
        """Show a piece; outline the donor's pixels and the painted ones of its origin map (H, W).

        ``left`` is another piece of the same size, which is shown left of a divider, and the divider's place.
        """
        self._lines = {} if origin is None else {color: outline(origin == code) for code, color in ORIGINS.items()}
        self._left, self.divider = (np.ascontiguousarray(left[0]), left[1]) if left is not None else (None, None)
        self.setCursor(Qt.CursorShape.ArrowCursor if left is None else Qt.CursorShape.SplitHCursor)
        self.show_pixels(pixels, caption, frame)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if self.pixels is None or self.factor is None:
            return
        painter = QPainter(self)
        painter.save()
        painter.translate(self.place(image_of(self.pixels)).topLeft())
        painter.scale(self.factor, self.factor)
        for color, lines in self._lines.items():
            pen = QPen(QColor(color), 1.6)
            pen.setCosmetic(True)
            painter.setPen(pen)
            painter.drawLines(lines)
        painter.restore()
        if self._left is not None and self.divider is not None:
            divider = self.divider * self.width()
            painter.setClipRect(QRectF(0, 0, divider, self.height()))
            self.paint_image(painter, image_of(self._left))
            painter.setClipping(False)
            painter.setPen(QPen(QColor("white"), 2))
            painter.drawLine(QPointF(divider, 0), QPointF(divider, self.height()))
            self.paint_caption(painter, "Before")
            self.paint_caption(painter, "After", right=True)
        painter.end()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.comparison.on_resized()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._from = event.position()
        if self.divider is not None:
            self.mouseMoveEvent(event)
        super().mousePressEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        # Drags the divider, or the piece where there is none.
        if not event.buttons() & Qt.MouseButton.LeftButton:
            return
        if self.divider is not None:
            self.comparison.swipe_to(event.position().x() / max(self.width(), 1))
        elif self._from is not None and self.factor:
            moved, self._from = (self._from - event.position()) / self.factor, event.position()
            self.comparison.moved.emit(moved.y(), moved.x())

    def wheelEvent(self, event: QWheelEvent) -> None:
        if event.angleDelta().y():
            self.comparison.zoom(1 if event.angleDelta().y() > 0 else -1)
        event.accept()


def outline(mask: NDArray[np.bool_]) -> list[QLineF]:
    """The edges between a mask (H, W) and what is around it, in pixels; the mask's own border is none."""
    below, beside = (np.argwhere(np.diff(mask, axis=axis)).tolist() for axis in (0, 1))
    return [
        *(QLineF(left, top + 1, left + 1, top + 1) for top, left in below),
        *(QLineF(left + 1, top, left + 1, top + 1) for top, left in beside),
    ]


class Comparison(QWidget):
    """The two views, with the three ways to show them above, and what is drawn over them and the zoom below.

    It calls ``show_look`` when another size of the piece is wanted (``side``), and ``show_synthetic`` to say whether
    the window shows synthetic images or the real ones.
    """

    moved = Signal(float, float)
    """Rows and columns by which a person moves what is shown."""

    def __init__(self, show_look: Callable[[], None], show_synthetic: Callable[[bool], None]) -> None:
        super().__init__()
        self._ask = show_look
        self.mode, self.divider = SIDE_BY_SIDE, 0.5
        self.factor: float = 4
        self._look: Look | None = None
        self._caption, self._frame, self._earlier = "After", "", "Before"
        self._blinked = False
        self.alone = False
        """Whether there is nothing before what is shown."""
        self.before, self.after = PatchView("Before", self), PatchView("After", self)
        views = ui.even_row(self.before, self.after)
        views.setSpacing(2)
        self.modes = {
            mode: ui.button(text, tip, lambda _checked=False, mode=mode: self.set_mode(mode), checkable=True)
            for mode, text, tip in MODES
        }
        group = QButtonGroup(self)
        for mode_button in self.modes.values():
            group.addButton(mode_button)
        self.modes[self.mode].setChecked(True)
        self.closer = ui.button("+", "Come closer (+).", lambda: self.zoom(1))
        self.farther = ui.button("−", "Go back (−).", lambda: self.zoom(-1))
        for zoom_button in (self.closer, self.farther):
            zoom_button.setFixedWidth(28)
        self.zoom_label = ui.label(f"{self.factor:g}×", wrap=False)
        self.origin = ui.check(
            "Origin (O)", "Outline what comes from the donor (blue) and what was painted (amber).", self._paint
        )
        self.smooth = ui.check(
            "Smooth (M)", "Smooth the magnified pixels instead of showing each as a square.", self._on_smooth
        )
        self.real = ui.check(
            "Real (X)",
            "Show the real image in the window, without anything synthetic.",
            lambda real: show_synthetic(not real),
        )
        options = ui.row(self.origin, self.smooth, self.real)
        options.setSpacing(2)
        options.addStretch(1)
        ui.add(options, self.farther, self.zoom_label, self.closer)
        self.ways = ui.box(ui.even_row(*self.modes.values()))
        # In a box of their own, the views never lie over the options where the dock is low.
        self.setLayout(ui.column(self.ways, ui.box(views), options, space=ui.SPACE - 2))
        self._blinking = QTimer(self)
        self._blinking.setInterval(INTERVAL)
        self._blinking.timeout.connect(self._on_blink)

    @property
    def side(self) -> int:
        """Image pixels that fill the views, both ways."""
        return max(16, int(max(self.after.width(), self.after.maximumHeight()) / self.factor) + 2)

    def on_resized(self) -> None:
        """Ask for more around the place, or less."""
        if self._look is not None and len(self._look.before) != self.side:
            self._ask()

    # What is shown.

    def show_look(self, look: Look, caption: str = "After", frame: str = "", earlier: str = "Before") -> None:
        """Show before and after of a place; ``frame`` is the color around what was decided."""
        self._look, self._caption, self._frame, self._earlier = look, caption, frame, earlier
        self._blinked = False
        self._paint()

    def set_alone(self, alone: bool) -> None:
        """Give all the room to what is new, with nothing to compare it with; or show what was before beside it."""
        if alone != self.alone:
            self.alone = alone
            self.ways.setVisible(not alone)
            self.after.setFixedHeight(ALONE if alone else HEIGHT)
            self._show_before()
            self._run()

    def _show_before(self) -> None:
        self.before.setVisible(self.mode == SIDE_BY_SIDE and not self.alone)

    def show_nothing(self, why: str = "") -> None:
        self._look = None
        self.before.show_piece(None, f"Before {why}".strip())
        self.after.show_piece(None, f"After {why}".strip())

    def _paint(self) -> None:
        look = self._look
        if look is None:
            return
        self.before.show_piece(look.before, self._earlier)
        if self.mode == BLINK and self._blinked and not self.alone:
            self.after.show_piece(look.before, self._earlier)
            return
        origin = look.origin if self.origin.isChecked() else None
        if self.mode == SWIPE and not self.alone:
            self.after.show_piece(look.after, "", self._frame, origin, (look.before, self.divider))
        else:
            self.after.show_piece(look.after, self._caption, self._frame, origin)

    # How.

    def set_mode(self, mode: str) -> None:
        if mode != self.mode:
            self.mode = mode
            self.modes[mode].setChecked(True)
            self._show_before()
            self._blinked = False
            self._run()
            self._paint()

    def toggle_blink(self) -> None:
        self.set_mode(SIDE_BY_SIDE if self.mode == BLINK else BLINK)

    def zoom(self, by: int) -> None:
        """Come some steps closer, or go back."""
        factor = ZOOMS[min(max(ZOOMS.index(self.factor) + by, 0), len(ZOOMS) - 1)]
        if factor != self.factor:
            self.set_factor(factor)
            self._ask()

    def fit(self, height: int, width: int) -> None:
        """Go back as far as it takes to see a piece of this size as a whole, or all but its edges."""
        room = self.after.maximumHeight()
        wanted = min(room / height, max(self.width() if self.alone else self.after.width(), room) / width)
        self.set_factor(max((factor for factor in ZOOMS if FILLED * factor <= wanted), default=ZOOMS[0]))

    def set_factor(self, factor: float) -> None:
        self.factor = self.before.factor = self.after.factor = factor
        self.zoom_label.setText(f"{factor:g}×")
        self.closer.setEnabled(factor < ZOOMS[-1])
        self.farther.setEnabled(factor > ZOOMS[0])

    def swipe_to(self, share: float) -> None:
        """Put the divider at a share of the width, and show it."""
        self.divider = min(max(share, 0.0), 1.0)
        self.set_mode(SWIPE)
        self._paint()

    def swipe_by(self, steps: int) -> None:
        self.swipe_to(self.divider + steps * STEP)

    def _on_smooth(self, smooth: bool) -> None:
        for view in (self.before, self.after):
            view.smooth = smooth
            view.update()

    # Blinking, only while it can be seen.

    def _run(self) -> None:
        if self.mode == BLINK and self.isVisible() and not self.alone:
            self._blinking.start()
        else:
            self._blinking.stop()

    def _on_blink(self) -> None:
        self._blinked = not self._blinked
        self._paint()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._run()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._run()
