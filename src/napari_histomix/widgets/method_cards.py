"""The method that makes images: one line that says which, and a card of each to choose from."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QButtonGroup, QFrame, QRadioButton, QWidget

from napari_histomix.methods import method_names, method_of, method_problems
from napari_histomix.methods.base import Method
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.plan_panel import chosen
from napari_histomix.widgets.session import Session

HIGHEST = 300
"""Pixels of the list of cards, which scrolls: what is below it stays on the screen."""


def time_sentence(method: Method[Any, Any], seconds_here: float | None) -> str:
    """How long a change of a method takes: in the last run here, else as it was measured elsewhere."""
    if seconds_here is not None:
        return f"About {_seconds(seconds_here)} each here, by the last run."
    if method.seconds is not None:
        return f"About {_seconds(method.seconds)} each on two cores of a processor, with its defaults."
    return "How long each takes is said after a first run."


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 100 else f"{value / 60:,.0f} min"


class MethodCard(QFrame):
    """A method: its title to choose it by, what it makes and needs, how long that takes, what to cite."""

    def __init__(self, method: Method[Any, Any]) -> None:
        super().__init__()
        self.method = method
        self.radio = QRadioButton(method.title)
        self.radio.setStyleSheet("font-weight: 600;")
        self.makes = ui.label(f"{method.makes[:1].upper()}{method.makes[1:]}", plain=True)
        self.needs, self.time = ui.label(plain=True), ui.label(plain=True)
        self.citation = ui.label(method.citation, plain=True, style="font-style: italic;")
        self.citation.setVisible(bool(method.citation))
        self.setLayout(ui.column(self.radio, self.makes, self.needs, self.time, self.citation, space=2, margin=6))
        self.setObjectName("MethodCard")
        self.setStyleSheet("QFrame#MethodCard { border: 1px solid rgba(128, 128, 128, 90); border-radius: 4px; }")

    def describe(self, problem: str, seconds_here: float | None) -> None:
        """Say what stands in its way, if anything does, and how long it takes."""
        first = f" {self.method.stage.title} are found first." if self.method.stage is not None else ""
        self.needs.setText(problem or f"Needs {self.method.needs.words}.{first}")
        self.time.setText(time_sentence(self.method, seconds_here))
        self.radio.setEnabled(not problem)
        self.setEnabled(not problem)
        self.setToolTip(problem or f"Make images with {self.method.title}.")
        self.radio.setToolTip(self.toolTip())
        self.radio.setAccessibleDescription(f"{self.makes.text()} {self.needs.text()} {self.time.text()}")

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        # All of the card is its button.
        if event.button() == Qt.MouseButton.LeftButton and self.rect().contains(event.pos()):
            self.radio.click()
        super().mouseReleaseEvent(event)


class MethodCards(QWidget):
    """All methods; those that cannot use the dataset come last, say why, and cannot be chosen."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.section = ui.Section("", "All methods, with what each makes and needs.", False)
        self.cards = {name: MethodCard(method_of(name)) for name in method_names()}
        self._group = QButtonGroup(self)
        self._list = ui.column(space=ui.SPACE // 2)
        for name, card in self.cards.items():
            self._group.addButton(card.radio)
            card.radio.clicked.connect(lambda _on=False, name=name: self._choose(name))
        self.area = ui.scrolled(ui.box(self._list))
        self.area.setFixedHeight(HIGHEST)
        self.section.body.addWidget(self.area)
        self.note = ui.Note("\n".join(method_problems()), "warning")
        self.setLayout(ui.column(self.section, self.note, space=ui.SPACE // 2))
        for signal in (session.dataset_changed, session.method_changed, session.outcomes_changed):
            signal.connect(self._update)
        self._update()

    def _choose(self, name: str) -> None:
        self.session.choose_method(name)
        self._update()

    def _update(self) -> None:
        dataset, method = self.session.dataset, chosen(self.session)
        problems = {
            name: card.method.needs.problem(card.method.title, dataset) if dataset is not None else ""
            for name, card in self.cards.items()
        }
        for name, card in self.cards.items():
            card.describe(problems[name], self.session.pace.get(name))
            card.radio.setChecked(method is not None and method.name == name)
        for place, name in enumerate(sorted(self.cards, key=lambda name: bool(problems[name]))):
            if self._list.indexOf(self.cards[name]) != place:
                self._list.insertWidget(place, self.cards[name])
        if method is not None:
            self.section.setText(f"Method: {method.title}")
            self.section.toggle.setToolTip(f"{self.cards[method.name].makes.text()}\nOpen it for all methods.")
            pace = self.session.pace.get(method.name) or method.seconds
            self.section.state.setText("" if pace is None else f"about {_seconds(pace)} each")
            self.section.state.setToolTip(time_sentence(method, self.session.pace.get(method.name)))
