"""Choices, labels, buttons and boxes that leave out a part of their text where there is too little room for it."""

from __future__ import annotations

import re

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtGui import QFontMetrics, QPaintEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QLabel,
    QPushButton,
    QStyle,
    QStyleOptionButton,
    QStyleOptionComboBox,
    QStylePainter,
    QToolTip,
)

FEWEST_LETTERS = 6
"""Of a name, those that stay in sight however little room there is."""
_KEY = re.compile(r" \([^()]{1,4}\)")
"""The key of a button: "Keep (K)"."""


class Eliding(QObject):
    """Leaves out the middle of what a choice shows where there is too little room: names differ at their ends."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Paint and isinstance(watched, QComboBox):
            self._paint(watched)
            return True
        if event.type() == QEvent.Type.ToolTip and isinstance(watched, QComboBox) and watched.currentText():
            # What the tip says of the choice, with the whole text of what is chosen.
            text = watched.currentText()
            QToolTip.showText(event.globalPos(), f"{text}\n{watched.toolTip()}".strip(), watched)
            return True
        return bool(super().eventFilter(watched, event))

    @staticmethod
    def _paint(box: QComboBox) -> None:
        painter, option = QStylePainter(box), QStyleOptionComboBox()
        box.initStyleOption(option)
        field = box.style().subControlRect(
            QStyle.ComplexControl.CC_ComboBox, option, QStyle.SubControl.SC_ComboBoxEditField, box
        )
        text, middle = option.currentText or box.placeholderText(), Qt.TextElideMode.ElideMiddle
        option.currentText = box.fontMetrics().elidedText(text, middle, field.width() - 4)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()


class Yielding(QLabel):
    """Leaves out the middle of a text without tags where there is too little room: names differ at their ends."""

    def minimumSizeHint(self) -> QSize:
        return QSize(self.fontMetrics().averageCharWidth() * FEWEST_LETTERS, super().minimumSizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        place = self.contentsRect()
        text = self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideMiddle, place.width())
        if text == self.text() or "<" in text:
            super().paintEvent(event)
            return
        painter = QStylePainter(self)
        role = self.foregroundRole()
        painter.drawItemText(place, int(self.alignment()), self.palette(), self.isEnabled(), text, role)
        painter.end()


class YieldingButton(QPushButton):
    """Leaves its key out, and then the middle of its text, where large letters have too little room."""

    def paintEvent(self, event: QPaintEvent) -> None:
        painter, option = QStylePainter(self), QStyleOptionButton()
        self.initStyleOption(option)
        if "\n" not in option.text:
            option.text = fitting(str(option.text), self.fontMetrics(), self.width() - 4)
        painter.drawControl(QStyle.ControlElement.CE_PushButton, option)
        painter.end()


class YieldingCheck(QCheckBox):
    """A box to check whose text yields as that of a button does."""

    def paintEvent(self, event: QPaintEvent) -> None:
        painter, option = QStylePainter(self), QStyleOptionButton()
        self.initStyleOption(option)
        place = self.style().subElementRect(QStyle.SubElement.SE_CheckBoxContents, option, self)
        option.text = fitting(str(option.text), self.fontMetrics(), place.width())
        painter.drawControl(QStyle.ControlElement.CE_CheckBox, option)
        painter.end()


def fitting(text: str, metrics: QFontMetrics, room: int) -> str:
    """A button's text for so many pixels: without its key, and then without its middle, where it is wider."""
    for said in (text, _KEY.sub("", text)):
        if metrics.horizontalAdvance(said) <= room:
            return said
    return str(metrics.elidedText(said, Qt.TextElideMode.ElideMiddle, room))
