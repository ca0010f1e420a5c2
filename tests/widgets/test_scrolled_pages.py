"""Pages that scroll: the wheel moves the page, and changes nothing that lies below the mouse."""

from __future__ import annotations

from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QLineEdit, QSlider

from napari_histomix.widgets import elements as ui


def turn_wheel(field) -> None:
    middle = QPointF(field.rect().center())
    event = QWheelEvent(
        middle,
        QPointF(field.mapToGlobal(field.rect().center())),
        QPoint(),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(field, event)


def test_the_wheel_leaves_the_fields_of_a_page_as_they_are(qtbot) -> None:
    choice, number = ui.choice([("one", 1), ("two", 2)]), ui.number(0, 10, 5)
    slider = QSlider()
    slider.setValue(3)
    column = ui.column(choice, number, slider, *(QLineEdit() for _ in range(40)))
    area = ui.scrolled(ui.box(column))
    qtbot.addWidget(area)
    area.resize(300, 200)
    area.show()
    late = ui.number(0, 10, 5)
    column.insertWidget(0, late)
    qtbot.waitUntil(lambda: bool(late.property(ui.HELD)))
    for field in (choice, number, slider, late):
        turn_wheel(field)
    assert choice.currentData() == 1 and number.value() == late.value() == 5 and slider.value() == 3
