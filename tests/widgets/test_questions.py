"""Questions before something is ended or lost: only the button that says so does it."""

from __future__ import annotations

import pytest
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication, QMessageBox, QWidget

from napari_histomix.widgets.questions import ask_to_discard, ask_to_keep, ask_to_stop


def answer(qtbot, ask, how) -> bool:
    """What a question comes to that a person answers by a key, or by pressing the button of a text."""

    def act() -> None:
        shown = QApplication.activeModalWidget()
        assert isinstance(shown, QMessageBox)
        if isinstance(how, str):
            next(button for button in shown.buttons() if button.text() == how).click()
        else:
            qtbot.keyClick(shown, how)

    QTimer.singleShot(100, act)
    return ask()


@pytest.mark.parametrize("how", [Qt.Key.Key_Escape, Qt.Key.Key_Return])
def test_a_key_ends_nothing(qtbot, how) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    assert not answer(qtbot, lambda: ask_to_stop(parent, ["making images"]), how)
    assert answer(qtbot, lambda: ask_to_keep(parent, 3), how)
    assert not answer(qtbot, lambda: ask_to_discard(parent, 3), how)


def test_the_button_that_says_so_does_it(qtbot) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    assert answer(qtbot, lambda: ask_to_stop(parent, ["making images"]), "End it and continue")
    assert answer(qtbot, lambda: ask_to_stop(parent, ["1 hand edit that was not taken"]), "Continue without them")
    assert not answer(qtbot, lambda: ask_to_keep(parent, 3), "Discard")
    assert answer(qtbot, lambda: ask_to_keep(parent, 3), "Keep")
    assert answer(qtbot, lambda: ask_to_discard(parent, 3), "Discard")
    assert ask_to_stop(parent, []), "nothing is under way"
