"""Sections that fold, and numbers of things in words."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from napari_histomix.widgets.base import SPACE


class Section(QFrame):
    """A heading with a few words on how things stand, and contents that fold away.

    Parameters
    ----------
    title : str
    tip : str
    opened : bool
    """

    def __init__(self, title: str, tip: str, opened: bool = True) -> None:
        super().__init__()
        self.toggle = QToolButton()
        self.toggle.setText(title)
        self.toggle.setToolTip(tip)
        self.toggle.setCheckable(True)
        self.toggle.setAutoRaise(True)
        self.toggle.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.toggle.setStyleSheet("QToolButton { font-weight: 600; border: none; background: transparent; }")
        self.state = QLabel()
        self.state.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.state.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        header = QHBoxLayout()
        header.setContentsMargins(0, 4, 0, 0)
        header.addWidget(self.toggle)
        header.addWidget(self.state, 1)
        self.contents = QWidget()
        self.body = QVBoxLayout(self.contents)
        self.body.setContentsMargins(0, 0, 0, 4)
        self.body.setSpacing(SPACE)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        column.addLayout(header)
        column.addWidget(self.contents)
        self.setObjectName("FoldingSection")
        self.setStyleSheet("QFrame#FoldingSection { border: none; border-top: 1px solid rgba(128, 128, 128, 90); }")
        self.toggle.toggled.connect(self._on_toggled)
        self.toggle.setChecked(opened)
        self._on_toggled(opened)

    @property
    def is_open(self) -> bool:
        """Whether its contents are shown."""
        return self.toggle.isChecked()

    def _on_toggled(self, opened: bool) -> None:
        self.contents.setVisible(opened)
        self.toggle.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)


def many(count: int, what: str) -> str:
    """A number of things in words."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
