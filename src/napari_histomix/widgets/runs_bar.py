"""What is under way on pages that are not on the screen: how far it is, pause, stop, and the way there."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from qtpy.compat import isalive
from qtpy.QtWidgets import QWidget

from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import RunBar
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.session import Session


class RunLine(QWidget):
    """One run: what it is, its bar, and ways to have it done first and to its page."""

    def __init__(self, runner: JobRunner, show: Callable[[], None]) -> None:
        super().__init__()
        self.runner = runner
        self.title = ui.label(wrap=False, yields=True)
        tip = "Do this first; what is under way waits, and goes on afterwards."
        self.first_button = ui.button("Do first", tip, self._advance)
        self.show_button = ui.button("Show", "Go to the page of this run.", show)
        self.bar = RunBar("", runner, stop_tip="Stop it; what it made is kept, or you are asked.", pausable=True)
        self.bar.run_button.hide()
        self.setLayout(ui.column(ui.row(self.title, self.first_button, self.show_button, stretch=0), self.bar, space=2))
        runner.progressed.connect(self.refresh)

    def refresh(self, _event: object = None) -> None:
        """Say what the run is called, and whether it waits."""
        self.title.setText(f"<b>{self.runner.title.capitalize()}</b>")
        self.first_button.setVisible(self.runner.waiting)

    def _advance(self) -> None:
        self.runner.advance()
        self.refresh()


class RunsBar(QWidget):
    """A line for each run whose page is not on the screen; hidden where there is none.

    ``place_of`` gives the page on which a runner belongs, such as ``make/train``; ``here`` says whether that is shown.
    """

    def __init__(self, session: Session, place_of: Callable[[JobRunner], str], here: Callable[[str], bool]) -> None:
        super().__init__()
        self._session, self._place_of, self._here = session, place_of, here
        self.lines: WeakKeyDictionary[JobRunner, RunLine] = WeakKeyDictionary()
        self._column = ui.column(margin=ui.SPACE // 2)
        self.setLayout(self._column)
        session.under_way_changed.connect(self.refresh)
        self.refresh()

    def refresh(self, _change: object = None) -> None:
        """Show the lines of what is under way elsewhere."""
        shown = False
        for runner in list(self._session.runners):
            if not isalive(runner):
                continue
            place = self._place_of(runner) if runner.running else ""
            seen = bool(place) and not self._here(place)
            if seen and runner not in self.lines:
                self.lines[runner] = RunLine(runner, lambda *_, to=place: self._session.page_requested.emit(to))
                self._column.addWidget(self.lines[runner])
            if (line := self.lines.get(runner)) is not None and isalive(line):
                line.refresh()
                line.setVisible(seen)
            shown = shown or seen
        self.setVisible(shown)
