"""Before and after: side by side, one after the other, or with a divider between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QLineF, QPointF, QRectF, QSignalBlocker, Qt, QTimer, Signal
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
from qtpy.QtWidgets import QButtonGroup, QCheckBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_histomix.compositing.composing import Look
from napari_histomix.records import DONOR, INPAINTED
from napari_histomix.widgets.elements import SPACE, CropView, row

SIDE_BY_SIDE, BLINK, SWIPE = "side", "blink", "swipe"
MODES = (SIDE_BY_SIDE, BLINK, SWIPE)
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
    """A magnified piece with outlines over it; left of a divider, another piece can be shown instead.

    Parameters
    ----------
    caption : str
    factor : float
    """

    swiped = Signal(float)
    """Share of the width a person drags the divider to."""
    dragged = Signal(float, float)
    """Rows and columns of the piece that a person moves it by."""
    zoomed = Signal(int)
    """1 to come closer, -1 to go back."""
    resized = Signal()

    def __init__(self, caption: str, factor: float) -> None:
        super().__init__(caption, factor)
        self.divider: float | None = None
        self._left: NDArray[np.uint8] | None = None
        self._lines: dict[str, list[QLineF]] = {}
        self._from: QPointF | None = None
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)

    def show_left(self, pixels: NDArray[np.uint8] | None, divider: float | None) -> None:
        """Show another piece of the same size left of the divider."""
        self._left = None if pixels is None else np.ascontiguousarray(pixels)
        self.divider = divider
        self.setCursor(Qt.CursorShape.ArrowCursor if divider is None else Qt.CursorShape.SplitHCursor)
        self.update()

    def show_outlines(self, origin: NDArray[np.uint8] | None) -> None:
        """Outline the donor's pixels and the painted ones of an origin map (H, W); None: nothing."""
        self._lines = {} if origin is None else {ORIGINS[one]: outline(origin == one) for one in ORIGINS}
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the piece, the other one left of the divider, and the outlines."""
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
            self._paint_left(painter, corner)
        painter.end()

    def _paint_left(self, painter: QPainter, corner: QPointF) -> None:
        assert self._left is not None and self.divider is not None and self.factor is not None
        height, width = self._left.shape[:2]
        at = self.divider * self.width()
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, self.smooth or self.factor < 1)
        painter.save()
        painter.setClipRect(QRectF(0, 0, at, self.height()))
        image = QImage(self._left.data, width, height, 3 * width, QImage.Format.Format_RGB888)
        painter.drawImage(QRectF(corner.x(), corner.y(), width * self.factor, height * self.factor), image)
        painter.restore()
        painter.setPen(QPen(QColor("white"), 2))
        painter.drawLine(QPointF(at, 0), QPointF(at, self.height()))
        for text, right in (("Before", False), ("After", True)):
            strip = QRectF(painter.fontMetrics().boundingRect(text).adjusted(-4, -2, 4, 2))
            strip.moveTopLeft(QPointF(self.width() - strip.width() if right else 0, 0))
            painter.fillRect(strip, QColor(20, 22, 26, 190))
            painter.drawText(strip, Qt.AlignmentFlag.AlignCenter, text)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Ask for more around the place, or less."""
        super().resizeEvent(event)
        self.resized.emit()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Take the divider along, or the piece."""
        self._from = event.position()
        if self.divider is not None:
            self._drag(event)
        super().mousePressEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Drag the divider, or the piece where there is none."""
        self._drag(event)

    def _drag(self, event: QMouseEvent) -> None:
        if not event.buttons() & Qt.MouseButton.LeftButton:
            return
        if self.divider is not None:
            self.swiped.emit(event.position().x() / max(self.width(), 1))
        elif self._from is not None and self.factor:
            moved, self._from = (self._from - event.position()) / self.factor, event.position()
            self.dragged.emit(moved.y(), moved.x())

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Come closer or go back."""
        if event.angleDelta().y():
            self.zoomed.emit(1 if event.angleDelta().y() > 0 else -1)
        event.accept()


def outline(mask: NDArray[np.bool_]) -> list[QLineF]:
    """The edges between a mask (H, W) and what is around it, in pixels; the mask's own border is none."""
    lines = []
    for axis in (0, 1):
        edges = np.argwhere(np.diff(mask, axis=axis))
        for top, left in edges.tolist():
            if axis == 0:
                lines.append(QLineF(left, top + 1, left + 1, top + 1))
            else:
                lines.append(QLineF(left + 1, top, left + 1, top + 1))
    return lines


class Comparison(QWidget):
    """The two views, and how they are shown."""

    side_changed = Signal()
    """Another size of the piece is wanted (``side``)."""
    moved = Signal(float, float)
    """Rows and columns by which a person moves what is shown."""
    mode_changed = Signal(str)
    zoom_changed = Signal(float)

    def __init__(self) -> None:
        super().__init__()
        self.mode, self.divider = SIDE_BY_SIDE, 0.5
        self.factor: float = 4
        self.outlined = False
        self._look: Look | None = None
        self._caption, self._frame, self._earlier = "After", "", "Before"
        self._blinked = False
        self.before, self.after = PatchView("Before", self.factor), PatchView("After", self.factor)
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(2)
        for view in (self.before, self.after):
            view.setFixedHeight(HEIGHT)
            view.zoomed.connect(self.zoom)
            view.resized.connect(self._on_resized)
            view.dragged.connect(self.moved)
            line.addWidget(view, 1)
        self.after.swiped.connect(self.swipe_to)
        self._blinking = QTimer(self)
        self._blinking.setInterval(INTERVAL)
        self._blinking.timeout.connect(self._on_blink)

    @property
    def side(self) -> int:
        """Image pixels that fill the views, both ways."""
        return max(16, int(max(self.after.width(), HEIGHT) / self.factor) + 2)

    def _on_resized(self) -> None:
        if self._look is not None and len(self._look.before) != self.side:
            self.side_changed.emit()

    # What is shown.

    def show_look(self, look: Look, caption: str = "After", frame: str = "", earlier: str = "Before") -> None:
        """Show before and after of a place; ``frame`` is the color around what was decided."""
        self._look, self._caption, self._frame, self._earlier = look, caption, frame, earlier
        self._blinked = False
        self._paint()

    def show_nothing(self, why: str = "") -> None:
        """Show empty views."""
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
        self.after.show_outlines(look.origin if self.outlined and not blinked else None)
        self.after.show_left(look.before if swipe else None, self.divider if swipe else None)

    # How.

    def set_mode(self, mode: str) -> None:
        """Side by side, blink or swipe."""
        if mode != self.mode:
            self.mode = mode
            self.before.setVisible(mode == SIDE_BY_SIDE)
            self._blinked = False
            self._run()
            self._paint()
            self.mode_changed.emit(mode)

    def zoom(self, by: int) -> None:
        """Come some steps closer, or go back."""
        if self.set_factor(ZOOMS[min(max(ZOOMS.index(self.factor) + by, 0), len(ZOOMS) - 1)]):
            self.side_changed.emit()

    def fit(self, height: int, width: int) -> None:
        """Go back as far as it takes to see a piece of this size as a whole."""
        wanted = min(HEIGHT / height, max(self.after.width(), HEIGHT) / width)
        self.set_factor(max((factor for factor in ZOOMS if factor <= wanted), default=ZOOMS[0]))

    def set_factor(self, factor: float) -> bool:
        """Magnify so much; whether that is another magnification than before."""
        changed = factor != self.factor
        if changed:
            self.factor = self.before.factor = self.after.factor = factor
            self.zoom_changed.emit(factor)
        return changed

    def swipe_to(self, share: float) -> None:
        """Put the divider at a share of the width, and show it."""
        self.divider = min(max(share, 0.0), 1.0)
        self.set_mode(SWIPE)
        self._paint()

    def swipe_by(self, steps: int) -> None:
        """Move the divider."""
        self.swipe_to(self.divider + steps * STEP)

    def set_smooth(self, smooth: bool) -> None:
        """Smooth the magnified pixels, or show each as a square."""
        for view in (self.before, self.after):
            view.smooth = smooth
            view.update()

    def set_outlined(self, outlined: bool) -> None:
        """Outline what was copied and what was painted."""
        self.outlined = outlined
        self._paint()

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
        """Go on blinking."""
        super().showEvent(event)
        self._run()

    def hideEvent(self, event: QHideEvent) -> None:
        """Rest."""
        super().hideEvent(event)
        self._run()


MODE_TEXTS = (
    (SIDE_BY_SIDE, "Side by side (V)", "Before on the left, after on the right."),
    (BLINK, "Blink (B)", "Before and after in the same place, one after the other."),
    (
        SWIPE,
        "Swipe (W)",
        "After behind, before in front up to a divider: drag it, or move it with Shift+← and Shift+→.",
    ),
)


class ViewBar(QWidget):
    """Buttons above and boxes below the views, which lie between them.

    Parameters
    ----------
    views : Comparison
    """

    real_toggled = Signal(bool)
    """Whether the window should show the real image."""

    def __init__(self, views: Comparison) -> None:
        super().__init__()
        self.views = views
        self.modes: dict[str, QPushButton] = {}
        group = QButtonGroup(self)
        for mode, text, tip in MODE_TEXTS:
            button = QPushButton(text)
            button.setCheckable(True)
            button.setToolTip(tip)
            group.addButton(button)
            button.clicked.connect(lambda _checked=False, mode=mode: views.set_mode(mode))
            self.modes[mode] = button
        self.closer, self.farther, self.factor = QPushButton("+"), QPushButton("−"), QLabel()
        self.closer.setToolTip("Come closer (+).")
        self.farther.setToolTip("Go back (−).")
        for button, by in ((self.closer, 1), (self.farther, -1)):
            button.setFixedWidth(28)
            button.clicked.connect(lambda _checked=False, by=by: views.zoom(by))
        self.origin, self.smooth, self.real = QCheckBox("Origin (O)"), QCheckBox("Smooth (M)"), QCheckBox("Real (X)")
        self.origin.setToolTip("Outline what comes from the donor (blue) and what was painted (amber).")
        self.smooth.setToolTip("Smooth the magnified pixels instead of showing each as a square.")
        self.real.setToolTip("Show the real image in the window, without anything synthetic.")
        self.origin.toggled.connect(views.set_outlined)
        self.smooth.toggled.connect(views.set_smooth)
        self.real.toggled.connect(self.real_toggled)
        top = row(*self.modes.values())
        options = row(self.origin, self.smooth, self.real)
        options.addStretch(1)
        for widget in (self.farther, self.factor, self.closer):
            options.addWidget(widget)
        for index in range(3):
            top.setStretch(index, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        column.addLayout(top)
        column.addWidget(views)
        column.addLayout(options)
        views.mode_changed.connect(self._on_mode)
        views.zoom_changed.connect(self._on_zoom)
        self._on_mode(views.mode)
        self._on_zoom(views.factor)

    def toggle_blink(self) -> None:
        """Blink, or show both side by side again."""
        self.views.set_mode(SIDE_BY_SIDE if self.views.mode == BLINK else BLINK)

    def _on_mode(self, mode: str) -> None:
        with QSignalBlocker(self.modes[mode]):
            self.modes[mode].setChecked(True)

    def _on_zoom(self, factor: float) -> None:
        self.factor.setText(f"{factor:g}×")
        self.closer.setEnabled(factor < ZOOMS[-1])
        self.farther.setEnabled(factor > ZOOMS[0])
