"""Before and after: side by side, one after the other, or with a divider between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QLineF, QPointF, QRectF, Qt, QTimer, Signal
from qtpy.QtGui import (
    QColor,
    QHideEvent,
    QImage,
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
from napari_histomix.widgets.elements import SPACE, CropView, add, box, button, check, column, even_row, label, row

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
HEIGHT = 210
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

    def show_left(self, pixels: NDArray[np.uint8] | None, divider: float | None) -> None:
        """Show another piece of the same size left of the divider."""
        self._left = None if pixels is None else np.ascontiguousarray(pixels)
        self.divider = divider
        self.setCursor(Qt.CursorShape.ArrowCursor if divider is None else Qt.CursorShape.SplitHCursor)
        self.update()

    def show_outlines(self, origin: NDArray[np.uint8] | None) -> None:
        """Outline the donor's pixels and the painted ones of an origin map (H, W); None: nothing."""
        self._lines = {} if origin is None else {color: outline(origin == code) for code, color in ORIGINS.items()}
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if self.pixels is None or self.factor is None:
            return
        painter = QPainter(self)
        height, width = self.pixels.shape[:2]
        corner = QPointF((self.width() - width * self.factor) / 2, (self.height() - height * self.factor) / 2)
        painter.save()
        painter.translate(corner)
        painter.scale(self.factor, self.factor)
        for color, lines in self._lines.items():
            pen = QPen(QColor(color), 1.6)
            pen.setCosmetic(True)
            painter.setPen(pen)
            painter.drawLines(lines)
        painter.restore()
        if self._left is not None and self.divider is not None:
            self._paint_left(painter, self._left, self.divider * self.width(), corner)
        painter.end()

    def _paint_left(self, painter: QPainter, pixels: NDArray[np.uint8], divider: float, corner: QPointF) -> None:
        assert self.factor is not None
        height, width = pixels.shape[:2]
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, self.smooth or self.factor < 1)
        painter.save()
        painter.setClipRect(QRectF(0, 0, divider, self.height()))
        image = QImage(pixels.data, width, height, 3 * width, QImage.Format.Format_RGB888)
        painter.drawImage(QRectF(corner.x(), corner.y(), width * self.factor, height * self.factor), image)
        painter.restore()
        painter.setPen(QPen(QColor("white"), 2))
        painter.drawLine(QPointF(divider, 0), QPointF(divider, self.height()))
        for text, right in (("Before", False), ("After", True)):
            strip = QRectF(painter.fontMetrics().boundingRect(text).adjusted(-4, -2, 4, 2))
            strip.moveTopLeft(QPointF(self.width() - strip.width() if right else 0, 0))
            painter.fillRect(strip, QColor(20, 22, 26, 190))
            painter.drawText(strip, Qt.AlignmentFlag.AlignCenter, text)

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
        self.before, self.after = PatchView("Before", self), PatchView("After", self)
        views = even_row(self.before, self.after)
        views.setSpacing(2)
        self.modes = {
            mode: button(text, tip, lambda _checked=False, mode=mode: self.set_mode(mode), checkable=True)
            for mode, text, tip in MODES
        }
        group = QButtonGroup(self)
        for mode_button in self.modes.values():
            group.addButton(mode_button)
        self.modes[self.mode].setChecked(True)
        self.closer = button("+", "Come closer (+).", lambda: self.zoom(1))
        self.farther = button("−", "Go back (−).", lambda: self.zoom(-1))
        for zoom_button in (self.closer, self.farther):
            zoom_button.setFixedWidth(28)
        self.zoom_label = label(f"{self.factor:g}×", wrap=False)
        self.origin = check(
            "Origin (O)", "Outline what comes from the donor (blue) and what was painted (amber).", self._paint
        )
        self.smooth = check(
            "Smooth (M)", "Smooth the magnified pixels instead of showing each as a square.", self._on_smooth
        )
        self.real = check(
            "Real (X)",
            "Show the real image in the window, without anything synthetic.",
            lambda real: show_synthetic(not real),
        )
        options = row(self.origin, self.smooth, self.real)
        options.addStretch(1)
        add(options, self.farther, self.zoom_label, self.closer)
        # In a box of their own, the views never lie over the options where the dock is low.
        self.setLayout(column(even_row(*self.modes.values()), box(views), options, space=SPACE - 2))
        self._blinking = QTimer(self)
        self._blinking.setInterval(INTERVAL)
        self._blinking.timeout.connect(self._on_blink)

    @property
    def side(self) -> int:
        """Image pixels that fill the views, both ways."""
        return max(16, int(max(self.after.width(), HEIGHT) / self.factor) + 2)

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

    def show_nothing(self, why: str = "") -> None:
        self._look = None
        for view, caption in ((self.before, "Before"), (self.after, "After")):
            view.show_pixels(None, f"{caption} {why}".strip())
            view.show_outlines(None)
            view.show_left(None, None)

    def _paint(self) -> None:
        look = self._look
        if look is None:
            return
        swipe, blinked = self.mode == SWIPE, self.mode == BLINK and self._blinked
        self.before.show_pixels(look.before, self._earlier)
        if blinked:
            self.after.show_pixels(look.before, self._earlier)
        else:
            self.after.show_pixels(look.after, "" if swipe else self._caption, self._frame)
        self.after.show_outlines(look.origin if self.origin.isChecked() and not blinked else None)
        self.after.show_left(look.before if swipe else None, self.divider if swipe else None)

    # How.

    def set_mode(self, mode: str) -> None:
        if mode != self.mode:
            self.mode = mode
            self.modes[mode].setChecked(True)
            self.before.setVisible(mode == SIDE_BY_SIDE)
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
        """Go back as far as it takes to see a piece of this size as a whole."""
        wanted = min(HEIGHT / height, max(self.after.width(), HEIGHT) / width)
        self.set_factor(max((factor for factor in ZOOMS if factor <= wanted), default=ZOOMS[0]))

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
        if self.mode == BLINK and self.isVisible():
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
