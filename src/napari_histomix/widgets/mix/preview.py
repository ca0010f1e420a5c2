"""Ten donors to choose from, each as it would look in the target's place, and the chosen one beside what is there."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QFocusEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QGridLayout, QSizePolicy, QWidget

from napari_histomix.widgets.elements import ACCENT, CropView
from napari_histomix.widgets.mix.jobs import SHOWN, Donor

COLUMNS = 5
CELL = 74
"""Height of a cell in pixels."""


class DonorCell(CropView):
    """One donor, pasted and not blended yet; a click, Space or Enter chooses it."""

    clicked = Signal()
    stepped = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.smooth = True
        self.donor: Donor | None = None
        self.setMinimumSize(48, CELL)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.show_donor(None)

    def sizeHint(self) -> QSize:
        """Square."""
        return QSize(CELL, CELL)

    def show_donor(self, donor: Donor | None) -> None:
        """Show a donor, or that there is none."""
        self.donor = donor
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus if donor else Qt.FocusPolicy.NoFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor if donor else Qt.CursorShape.ArrowCursor)
        if donor is None:
            self.show_pixels(None, "")
            self.setToolTip("A likely donor will be shown here.")
            self.setAccessibleName("No donor")
            return
        chance = percent(donor.probability)
        self.show_pixels(donor.crop, chance)
        patient = f" · patient {donor.patient}" if donor.patient else ""
        self.setToolTip(f"{donor.image}{patient}\nDrawn with a probability of {chance}. Pasted, not blended yet.")
        self.setAccessibleName(f"Donor of {donor.image}, {chance}")

    def set_chosen(self, chosen: bool) -> None:
        """Frame it, or not."""
        self.frame_color = ACCENT if chosen else ""
        self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose it."""
        if self.donor is not None and event.button() == Qt.MouseButton.LeftButton:
            self.clicked.emit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Choose it, or go to a neighbor."""
        steps = {
            Qt.Key.Key_Left: -1,
            Qt.Key.Key_Right: 1,
            Qt.Key.Key_Up: -COLUMNS,
            Qt.Key.Key_Down: COLUMNS,
        }
        key = Qt.Key(event.key())
        if key in (Qt.Key.Key_Space, Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.donor is not None:
            self.clicked.emit()
        elif key in steps:
            self.stepped.emit(steps[key])
        else:
            super().keyPressEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Show the focus."""
        super().focusInEvent(event)
        self.update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Show the focus no longer."""
        super().focusOutEvent(event)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """The crop, and a thin frame where the keyboard is; a faint place where there is no donor."""
        if self.donor is None:
            painter = QPainter(self)
            painter.fillRect(self.rect(), QColor(128, 128, 128, 40))
            painter.end()
            return
        super().paintEvent(event)
        if self.hasFocus():
            painter = QPainter(self)
            painter.setPen(QPen(QColor("white"), 1, Qt.PenStyle.DashLine))
            painter.drawRect(self.rect().adjusted(5, 5, -6, -6))
            painter.end()


class DonorGrid(QWidget):
    """The likeliest donors in rows of five."""

    chosen = Signal(object)
    """The ``Donor`` that a person chose."""

    def __init__(self) -> None:
        super().__init__()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(3)
        self.cells = [DonorCell() for _ in range(SHOWN)]
        for place, cell in enumerate(self.cells):
            grid.addWidget(cell, place // COLUMNS, place % COLUMNS)
            cell.clicked.connect(lambda place=place: self.choose(place))
            cell.stepped.connect(lambda by, place=place: self._go(place + by))
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.donor: Donor | None = None

    @property
    def count(self) -> int:
        """How many donors are shown."""
        return sum(cell.donor is not None for cell in self.cells)

    def clear(self) -> None:
        """Show none."""
        self.donor = None
        for cell in self.cells:
            cell.set_chosen(False)
            if cell.donor is not None:
                cell.show_donor(None)

    def fill(self, donors: Sequence[Donor]) -> None:
        """Show donors, the first ones of whom may be shown already; the likeliest is chosen until a person does."""
        for cell, donor in zip(self.cells, donors, strict=False):
            if cell.donor is not donor:
                cell.show_donor(donor)
        if self.donor is None and donors:
            self.choose(0)

    def choose(self, place: int) -> None:
        """Choose a donor by its place."""
        donor = self.cells[place].donor
        if donor is None:
            return
        self.donor = donor
        for cell in self.cells:
            cell.set_chosen(cell.donor is donor)
        self.chosen.emit(donor)

    def _go(self, place: int) -> None:
        if 0 <= place < len(self.cells) and self.cells[place].donor is not None:
            self.cells[place].setFocus(Qt.FocusReason.TabFocusReason)


def percent(share: float) -> str:
    """A probability as a person reads it."""
    if share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"
