"""What of a pool is shown, and in which order: the controls above the gallery."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QIcon, QIntValidator, QPixmap
from qtpy.QtWidgets import QComboBox, QLineEdit, QToolButton, QVBoxLayout, QWidget

from napari_histomix.segmentation.pool import UNDECIDED
from napari_histomix.study.curation import Filters, Order
from napari_histomix.widgets.elements import SPACE, narrow, row
from napari_histomix.widgets.pool.selection import class_colors

ORDERS: tuple[tuple[str, Order, str], ...] = (
    ("Order added", "added", "Image by image, as they were found."),
    ("Size", "size", "The largest first."),
    ("Vote share", "vote share", "Those first on which most prompts of their superpixel agreed."),
    ("Stability", "stability", "Those first whose masks differed least from prompt to prompt."),
    (
        "Similarity",
        "similarity",
        "Those first that are most like the current segment: its own class by their vectors, then other classes by the "
        "map.",
    ),
    ("Uses", "uses", "Those first that were drawn most often."),
)
BORDERS = (("Anywhere", None), ("At the border", True), ("Not at the border", False))
MOST = 999_999_999


class PoolFilters(QWidget):
    """Class, decision, border, words, tag, size; order and direction."""

    filtered = Signal()
    ordered = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.kind, self.decision, self.border, self.tag = (QComboBox() for _ in range(4))
        self.kind.addItem("Any class", "")
        for text, value in (
            ("Any decision", ""),
            ("Undecided", UNDECIDED),
            ("Kept", "keep"),
            ("Dropped", "drop"),
        ):
            self.decision.addItem(text, value)
        for text, border in BORDERS:
            self.border.addItem(text, border)
        self.border.setToolTip("Segments at the border of their image are incomplete: what lies beyond is missing.")
        self.tag.addItem("Any tag", "")
        for box in (self.kind, self.decision, self.border, self.tag):
            narrow(box)
            box.setMinimumContentsLength(6)
            box.currentIndexChanged.connect(self.filtered)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Image, patient, slide, tag …")
        self.search.setToolTip("Show the segments whose image, patient, slide or tags contain all these words.")
        self.search.setClearButtonEnabled(True)
        self.search.setMinimumWidth(90)
        self.low, self.high = QLineEdit(), QLineEdit()
        for box, sign, tip in ((self.low, "≥", "at least"), (self.high, "≤", "at most")):
            box.setValidator(QIntValidator(0, MOST, box))
            box.setPlaceholderText(f"Size {sign}")
            box.setToolTip(f"Show the segments whose area is {tip} this.")
            box.setAccessibleName(f"Size {tip}")
            box.setMinimumWidth(56)
        self.unit = QComboBox()
        self.unit.addItem("px", False)
        self.unit.addItem("µm²", True)
        self.unit.setToolTip("What area is measured in.")
        self.order = QComboBox()
        for text, order, tip in ORDERS:
            self.order.addItem(text, order)
            self.order.setItemData(self.order.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        narrow(self.order)
        self.order.setMinimumContentsLength(8)
        self.turn = QToolButton()
        self.turn.setCheckable(True)
        self.turn.setText("↓")
        self.turn.setToolTip("Turn the order round.")
        self.turn.setAccessibleName("Turn the order round")
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(250)
        self._typing.timeout.connect(self.filtered)
        self.search.textChanged.connect(lambda _text: self._typing.start())
        self.low.textChanged.connect(lambda _text: self._typing.start())
        self.high.textChanged.connect(lambda _text: self._typing.start())
        self.unit.currentIndexChanged.connect(self.filtered)
        self.order.currentIndexChanged.connect(self._on_order)
        self.turn.toggled.connect(self._on_turn)
        self._on_order()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        choices = row(self.kind, self.decision, self.border)
        for index in range(3):
            choices.setStretch(index, 1)
        column.addLayout(choices)
        column.addLayout(row(self.search, self.order, self.turn, stretch=0))
        sizes = row(self.low, self.high, self.unit, self.tag)
        for index, stretch in enumerate((1, 1, 0, 1)):
            sizes.setStretch(index, stretch)
        column.addLayout(sizes)

    def filters(self) -> Filters:
        """What the controls say."""
        return Filters(
            kind=self.kind.currentData() or "",
            text=self.search.text(),
            low=float(self.low.text() or 0),
            high=float(self.high.text() or "inf"),
            micrometers=bool(self.unit.currentData()),
            decision=self.decision.currentData() or "",
            border=self.border.currentData(),
            tag=self.tag.currentData() or "",
        )

    @property
    def by(self) -> Order:
        """The order chosen."""
        return self.order.currentData()

    @property
    def reverse(self) -> bool:
        """Whether it is turned round."""
        return self.turn.isChecked()

    def choose_order(self, order: Order) -> None:
        """Sort in this order, and again where it is chosen already."""
        index = self.order.findData(order)
        if index == self.order.currentIndex():
            self.ordered.emit()
        self.order.setCurrentIndex(index)

    def set_kinds(self, kinds: Sequence[str]) -> None:
        """The classes to choose from; back to any."""
        _fill(self.kind, kinds, "")
        # The colors of the strips below the tiles and of the dots on the map: here is what they mean.
        for index, color in enumerate(class_colors(len(kinds)).tolist()):
            pixmap = QPixmap(10, 10)
            pixmap.fill(QColor(*color))
            self.kind.setItemIcon(index + 1, QIcon(pixmap))

    def set_tags(self, tags: Sequence[str]) -> None:
        """The tags to choose from. A chosen one that is no longer there stays until another is chosen."""
        chosen = self.tag.currentData() or ""
        _fill(self.tag, sorted({*tags, chosen} - {""}), chosen)

    def clear(self) -> None:
        """Show everything."""
        blocked = QSignalBlocker(self)
        for box in (self.kind, self.decision, self.border, self.tag):
            box.setCurrentIndex(0)
        for line in (self.search, self.low, self.high):
            line.clear()
        self._typing.stop()
        blocked.unblock()
        self.filtered.emit()

    def _on_order(self) -> None:
        self.order.setToolTip(ORDERS[self.order.currentIndex()][2])
        self.ordered.emit()

    def _on_turn(self, turned: bool) -> None:
        self.turn.setText("↑" if turned else "↓")
        self.ordered.emit()


def _fill(box: QComboBox, texts: Sequence[str], chosen: str) -> None:
    blocked = QSignalBlocker(box)
    while box.count() > 1:
        box.removeItem(1)
    for text in texts:
        box.addItem(text, text)
    box.setCurrentIndex(max(box.findData(chosen), 0))
    blocked.unblock()
