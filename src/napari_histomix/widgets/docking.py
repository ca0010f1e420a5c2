"""How a dock of ours stands in napari's window: beside another, clear of its title bar, as wide as letters need."""

from __future__ import annotations

from napari.settings import get_settings
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

POINTS = 12
"""Size of napari's own letters, for which widths are given in pixels."""


def letter_points() -> int:
    """Size of the letters that a person chose in napari, in points."""
    return int(get_settings().appearance.font_size)


def for_letters(pixels: int) -> int:
    """A width in pixels, larger where a person chose larger letters in napari."""
    return round(pixels * max(1.0, get_settings().appearance.font_size / POINTS))


def around_of(part: QWidget) -> QDockWidget | None:
    """The dock widget that a part of one lies in."""
    around: QWidget | None = part
    while around is not None and not isinstance(around, QDockWidget):
        around = around.parentWidget()
    return around


def stand_beside(part: QWidget, kind: type[QWidget]) -> None:
    """Become a tab beside another dock that holds this ``kind``; napari puts it below that, where both are too low."""
    own = around_of(part) if isalive(part) else None
    window = own.parentWidget() if own is not None else None
    if own is None or not isinstance(window, QMainWindow) or own.isFloating():
        return
    area = window.dockWidgetArea(own)
    others = [
        dock
        for dock in window.findChildren(QDockWidget)
        if dock is not own and not dock.isHidden() and dock.findChild(kind) and window.dockWidgetArea(dock) == area
    ]
    if others:
        window.tabifyDockWidget(others[0], own)
        # Tabs are there after the next layout pass.
        QTimer.singleShot(0, own.raise_)


def stand_below_title(part: QWidget) -> None:
    """Keep a dock's contents clear of its title bar, which with large letters is higher than the room it asks for."""
    around = around_of(part)
    bar = around.titleBarWidget() if around is not None else None
    if bar is not None and part.findChild(BelowTitle) is None:
        bar.installEventFilter(BelowTitle(part, bar))


class BelowTitle(QObject):
    """Follows the height of a title bar: what it covers of the contents is left free there."""

    def __init__(self, part: QWidget, bar: QWidget) -> None:
        super().__init__(part)
        self._part, self._bar = part, bar
        margins = part.layout().contentsMargins()
        self._top = margins.top()
        self._fit()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Resize:
            self._fit()
        return False

    def _fit(self) -> None:
        layout = self._part.layout()
        margins = layout.contentsMargins()
        margins.setTop(self._top + max(0, self._bar.height() - self._bar.sizeHint().height()))
        layout.setContentsMargins(margins)
