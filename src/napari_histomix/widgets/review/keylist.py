"""The keys of the review, on a sheet over the panel."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QFrame, QGridLayout, QLabel, QScrollArea, QWidget

from napari_histomix.widgets.base import SPACE, heading, hint

KEYS = (
    (
        "Decide",
        (
            ("A or 1", "approve"),
            ("R or 2", "reject"),
            ("3", "clear: undecided again"),
            ("4", "delete"),
            ("Z, U or Ctrl+Z", "undo"),
            ("Y or Ctrl+Shift+Z", "redo"),
            ("E · I · G", "one · whole image · all shown"),
        ),
    ),
    (
        "Say why",
        (
            ("S · T · C · H · L", "seam · stain · context · shape · label"),
            ("N", "note; Enter keeps, Escape forgets"),
            ("K", "stay after a rejection"),
            ("P", "your name"),
        ),
    ),
    (
        "Move",
        (
            ("← · →", "previous · next"),
            ("Home · End", "first · last"),
            ("J", "next undecided"),
            ("F", "filter; Tab goes on, Escape returns"),
        ),
    ),
    (
        "Look",
        (
            ("V · B · W", "side by side · blink · swipe"),
            ("Shift+← · Shift+→", "move the divider"),
            ("+ · −", "zoom"),
            ("O · M", "origin · smooth"),
            ("X", "real image in the window"),
            ("D · Q", "donor and nearest · summary"),
        ),
    ),
)


class KeyList(QScrollArea):
    """A sheet that covers its parent; a click closes it."""

    closed = Signal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidgetResizable(True)
        inner = QWidget()
        grid = QGridLayout(inner)
        grid.setContentsMargins(SPACE, SPACE, SPACE, SPACE)
        grid.setHorizontalSpacing(SPACE)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        for title, lines in KEYS:
            grid.addWidget(heading(title), grid.rowCount(), 0, 1, 2)
            for keys, what in lines:
                name = QLabel(keys)
                name.setStyleSheet("QLabel { font-weight: 600; }")
                at = grid.rowCount()
                grid.addWidget(name, at, 0)
                grid.addWidget(QLabel(what), at, 1)
        closing = hint("They work here and over the image. ? or Escape closes this list.")
        grid.addWidget(closing, grid.rowCount(), 0, 1, 2)
        grid.setRowStretch(grid.rowCount(), 1)
        self.setWidget(inner)
        self.hide()

    def set_open(self, opened: bool) -> None:
        """Lay the sheet over its parent, or take it away."""
        parent = self.parentWidget()
        if opened and parent is not None:
            self.setGeometry(parent.rect())
            self.raise_()
        self.setVisible(opened)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Close."""
        self.closed.emit()
