"""Tabs whose pages are built when a person comes to them, and come and go with what is open."""

from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QWidget

from napari_histomix.widgets.tabs import Tabs


@pytest.fixture
def tabs(qtbot):
    """Tabs with three pages, and the names of those that were built."""
    built, made = [], Tabs()
    for name in ("one", "two", "three"):

        def build(name=name):
            built.append(name)
            return QLabel(name)

        made.add(name, name.capitalize(), build)
    qtbot.addWidget(made)
    made.show()
    qtbot.waitUntil(lambda: built == ["one"])
    return made, built


def click(qtbot, tabs, at):
    qtbot.mouseClick(tabs.tabBar(), Qt.MouseButton.LeftButton, pos=tabs.tabBar().tabRect(at).center())


def test_a_page_that_is_clicked_is_there_in_a_moment(qtbot, tabs):
    tabs, built = tabs
    click(qtbot, tabs, 1)
    assert tabs.current == "two" and built == ["one"]
    qtbot.waitUntil(lambda: "two" in tabs.pages and tabs.pages["two"].isVisible())
    assert built == ["one", "two"]


def test_who_goes_on_before_a_page_is_built_finds_it_later(qtbot, tabs):
    tabs, built = tabs
    click(qtbot, tabs, 1)
    click(qtbot, tabs, 2)
    qtbot.waitUntil(lambda: "three" in tabs.pages and tabs.pages["three"].isVisible())
    assert built == ["one", "three"]
    click(qtbot, tabs, 1)
    qtbot.waitUntil(lambda: "two" in tabs.pages and tabs.pages["two"].isVisible())


def test_a_page_that_is_opened_by_name_is_there_at_once(qtbot, tabs):
    tabs, built = tabs
    assert tabs.open("two").isVisible() and tabs.current == "two"
    click(qtbot, tabs, 2)
    assert tabs.open("three").isVisible()
    qtbot.wait(20)
    assert built == ["one", "two", "three"]


def test_tabs_stand_side_by_side_after_others_went_while_they_were_out_of_sight(qtbot: Any) -> None:
    tabs = Tabs()
    qtbot.addWidget(tabs)
    for name in ("plan", "segments", "pool", "making"):
        tabs.add(name, name.capitalize(), QWidget)
    tabs.show()
    tabs.hide()
    # Every page of the dock is told of each change, most of them more than once.
    for _ in range(2):
        tabs.offer(["plan", "making"])
        tabs.rename("plan", "Candidates")
    tabs.offer(["plan", "making"])
    tabs.show()
    bar = tabs.tabBar()
    first, last = bar.tabRect(0), bar.tabRect(3)
    assert first.width() >= bar.fontMetrics().horizontalAdvance("Candidates")
    assert last.left() == first.right() + 1
