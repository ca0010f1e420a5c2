"""The HistoMix dock: Project, Make, Review and Results, one of them on the screen at a time, each with its tabs.

One page is shown, and a key does what that page says: nothing is decided in a part of the program that nobody sees.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from qtpy.QtCore import QEvent, QObject, QSize, Qt, Signal
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QSizePolicy, QStackedWidget, QToolButton, QWidget

from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, ask_to_stop
from napari_histomix.widgets.data_panel import DataPanel
from napari_histomix.widgets.decisions import APPROVE, DELETE, REJECT
from napari_histomix.widgets.export_panel import ExportPanel
from napari_histomix.widgets.make_panel import MakePanel
from napari_histomix.widgets.open_layers_panel import OpenLayersPanel
from napari_histomix.widgets.plan_panel import MethodChooser, PlanPanel, chosen, data_problem
from napari_histomix.widgets.review.panel import ReviewPanel
from napari_histomix.widgets.session import Session, window_of
from napari_histomix.widgets.tabs import Tabs

PROJECT, MAKE, REVIEW, RESULTS = PAGES = ("project", "make", "review", "results")
COLORS = {"waiting": "#8a8f99", "open": ui.ACCENT, "done": ui.GOOD}
"""Of the line below a page's name, by state."""
TOOLS = {
    "segments": ("Correct", "segments.panel:SegmentsPanel"),
    "pool": ("Pool", "pool.panel:PoolPanel"),
    "mix": ("One segment", "mix_panel:MixPanel"),
    "generate": ("By hand", "generate.panel:GeneratePanel"),
    "train": ("Train", "train_panel:TrainPanel"),
}
"""Tabs of Make beside finding and making: their titles and what they are built of, when they are first shown."""
TOOLS_OF = {"segments": ("segments", "pool", "mix"), "layouts": ("generate",)}
"""Of them, those that belong to a stage."""


class PageButton(QToolButton):
    """The name of a page with its number, and a few words on how things stand there."""

    def __init__(self, number: int, title: str) -> None:
        super().__init__()
        self.number, self.title = number, title
        self.state, self._words = "", ""
        self.setCheckable(True)
        self.setAutoExclusive(True)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(44)
        self.setAccessibleName(title)

    def set_state(self, state: str, words: str) -> None:
        """Show how far the page's work is (waiting, open, done), and what has been done in a few words."""
        if state != self.state:
            self.state = state
            self.setStyleSheet(
                "QToolButton { border: none; border-radius: 0; padding: 2px 4px; "
                f"border-bottom: 3px solid {COLORS[state]}; }} "
                "QToolButton:checked { font-weight: 700; background: rgba(128, 128, 128, 60); }"
            )
        self._words = words
        self.setToolTip(f"{self.title}: {words}" if words else self.title)
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        room = max(self.width() - 12, 20)
        words = self.fontMetrics().elidedText(self._words, Qt.TextElideMode.ElideMiddle, room)
        text = f"{'✓' if self.state == 'done' else self.number} {self.title}\n{words}"
        if text != self.text():
            self.setText(text)


class MakePage(QWidget):
    """The method on top; below it tabs: what it finds first, what helps there, and the making itself."""

    def __init__(self, viewer: Any, session: Session) -> None:
        super().__init__()
        self.session = session
        self.chooser = MethodChooser(session)
        self.plan, self.making = PlanPanel(viewer, session), MakePanel(viewer, session)
        self.tabs = Tabs()
        self.tabs.add("plan", "Plan", lambda: self.plan, scrolled=True)
        *tools, train = TOOLS.items()
        for name, (title, path) in tools:
            self.tabs.add(name, title, built(path, viewer, session))
        self.tabs.add("making", "Make", lambda: self.making, scrolled=True)
        self.tabs.add(train[0], train[1][0], built(train[1][1], viewer, session))
        self.tabs.open("making")
        self._top = ui.box(ui.column(self.chooser, margin=ui.SPACE))
        self.setLayout(ui.column(self._top, self.tabs, space=0, stretch=1))
        for signal in (session.method_changed, session.dataset_changed):
            signal.connect(self._update)
        for panel in (self.plan, self.making):
            panel.running_changed.connect(self._update)
        self.making.stage_settings = self.plan.settings
        self._update()

    def _update(self, *_: object) -> None:
        method = chosen(self.session)
        stage = method.stage if method is not None else None
        first = ("plan", *TOOLS_OF.get(stage.name, ())) if stage is not None else ()
        shown = [*first, "making", "train"]
        if self.session.dataset is None:
            # Nothing is chosen yet: these bring their own data.
            shown = ["making", *TOOLS]
        self.tabs.offer(shown)
        self.tabs.rename("plan", stage.title.split()[-1].capitalize() if stage is not None else "Plan")
        self._top.setVisible(self.session.dataset is not None)
        self.chooser.setEnabled(not self.making.runner.running and not self.plan.runner.running)


def built(path: str, viewer: Any, session: Session) -> Callable[[], QWidget]:
    """How a panel of ours, by its module and name, is made when it is first shown."""

    def build() -> QWidget:
        module, _, name = path.partition(":")
        panel: QWidget = getattr(import_module(f"napari_histomix.widgets.{module}"), name)(viewer, session)
        return panel

    return build


class HistoMixDock(QWidget):
    """The four pages, and the way from one to the next."""

    shown = Signal(str)
    """Name of the page that came to the screen."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__()
        self.data = DataPanel(napari_viewer, session)
        self.session = session = self.data.session
        viewer = self.data.viewer
        self.project = Tabs()
        self.project.add("data", "Data", lambda: self.data, scrolled=True)
        self.project.add("layers", "Open layers", self._open_layers, scrolled=True)
        self.project.add("nuclei", "Find nuclei", built("nuclei_panel:NucleiPanel", viewer, session), scrolled=True)
        self.page = MakePage(viewer, session)
        self.plan, self.make = self.page.plan, self.page.making
        self.review = ReviewPanel(viewer, session)
        self.export = ExportPanel(viewer, session)
        self.results = Tabs()
        self.results.add("export", "Export", lambda: self.export, scrolled=True)
        self.results.add("test", "Reader test", built("reader_test_panel:ReaderTestPanel", viewer, session))
        self.stack = QStackedWidget()
        self.buttons: dict[str, PageButton] = {}
        parts = (self.project, self.page, self.review, self.results)
        titles = ("Project", "Make", "Review", "Results")
        for number, (name, title, part) in enumerate(zip(PAGES, titles, parts, strict=True), start=1):
            self.buttons[name] = PageButton(number, title)
            self.buttons[name].clicked.connect(lambda _on=False, name=name: self.open(name))
            self.stack.addWidget(part)
        bar = ui.even_row(*self.buttons.values())
        bar.setSpacing(0)
        self.setLayout(ui.column(bar, self.stack, space=0, stretch=1))
        self.setMinimumWidth(360)
        for panel in self.panels:
            panel.running_changed.connect(self._update)
        for signal in (
            session.dataset_changed,
            session.classes_changed,
            session.method_changed,
            session.study_changed,
            session.candidates_changed,
            session.candidates_decided,
            session.pool_changed,
            session.changes_changed,
            session.changes_made,
            session.changes_decided,
        ):
            signal.connect(self._update)
        session.page_requested.connect(self.open)
        self.ask = partial(ask_to_stop, self)
        """Asks whether what is under way may be ended, given what it is."""
        if (window := window_of(viewer)) is not None:
            window.installEventFilter(self)
        self._update()
        self.open(PROJECT)

    def _open_layers(self) -> QWidget:
        made = OpenLayersPanel(self.data.viewer, self.session)
        made.written.connect(self._open_written)
        return made

    def _open_written(self, folder: Any) -> None:
        self.open("project/data")
        self.data.open_folder(folder)

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Those that are there from the beginning, in their order."""
        return self.data, self.plan, self.make, self.review, self.export

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        # A person closes the window; where the program does, it knows what it does.
        if event.type() == QEvent.Type.Close and event.spontaneous() and not self.ask(self.session.under_way):
            event.ignore()
            return True
        return super().eventFilter(watched, event)

    def sizeHint(self) -> QSize:
        # Wide enough for two crops side by side.
        return QSize(440, 760)

    @property
    def current(self) -> str:
        """Name of the page on the screen."""
        return PAGES[self.stack.currentIndex()]

    def open(self, page: str) -> Any:
        """Show a page (project, make, review, results), or a tab of one, as in ``make/pool``; what is shown there."""
        name, _, tab = page.partition("/")
        part = self.stack.widget(PAGES.index(name))
        opened = part
        tabs = part.tabs if isinstance(part, MakePage) else part
        if isinstance(tabs, Tabs):
            opened = tabs.open(tab or tabs.current)
        self.stack.setCurrentWidget(part)
        self.buttons[name].setChecked(True)
        self.shown.emit(name)
        return opened

    def _update(self, *_: object) -> None:
        session, method = self.session, chosen(self.session)
        usable = not data_problem(session, method)
        total, approved = len(session.table), session.decided(APPROVE)
        decided = approved + session.decided(REJECT) + session.decided(DELETE)
        found = self.plan.page.words() if self.plan.page is not None else ""
        made = f"{total:,} made" if total else found or (method.title if usable and method is not None else "")
        states = {
            PROJECT: (True, usable, session.dataset.name if session.dataset else "", (self.data,)),
            MAKE: (usable, total > 0, made, (self.plan, self.make)),
            REVIEW: (total > 0, 0 < total == decided, f"{decided:,} of {total:,}" if total else "", (self.review,)),
            RESULTS: (approved > 0, False, f"{approved:,} approved" if approved else "", (self.export,)),
        }
        for name, (possible, done, words, panels) in states.items():
            if any(panel.runner.running for panel in panels):
                self.buttons[name].set_state("open", "working …")
            else:
                self.buttons[name].set_state("waiting" if not possible else "done" if done else "open", words)
