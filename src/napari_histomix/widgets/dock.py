"""The HistoMix dock: Project, Make, Review and Results, one of them on the screen at a time, each with its tabs.

One page is shown, and a key does what that page says: nothing is decided in a part of the program that nobody sees.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QSize, Qt, Signal
from qtpy.QtGui import QFont, QFontMetrics, QResizeEvent, QShowEvent
from qtpy.QtWidgets import QSizePolicy, QStackedWidget, QToolButton, QWidget

from napari_histomix.methods import method_names, method_of
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel
from napari_histomix.widgets.data_panel import DataPanel
from napari_histomix.widgets.decisions import APPROVE, DELETE, REJECT
from napari_histomix.widgets.docking import around_of, for_letters, letter_points, stand_below_title
from napari_histomix.widgets.export_panel import ExportPanel
from napari_histomix.widgets.hand_edits import HandEditsLine
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.loading_ahead import load_window_ahead
from napari_histomix.widgets.make_panel import MakePanel
from napari_histomix.widgets.method_cards import MethodCards
from napari_histomix.widgets.open_layers_panel import OpenLayersPanel
from napari_histomix.widgets.plan_panel import PlanPanel, chosen, data_problem
from napari_histomix.widgets.questions import ask_to_stop
from napari_histomix.widgets.review.panel import ReviewPanel
from napari_histomix.widgets.runs_bar import RunsBar
from napari_histomix.widgets.session import Session, window_of
from napari_histomix.widgets.tabs import Tabs

PROJECT, MAKE, REVIEW, RESULTS = PAGES = ("project", "make", "review", "results")
WIDE = 440
"""Pixels that the dock is wide with letters of napari's own size; with larger ones it is wider."""
WIDEST = 0.4
"""Share of the screen that it leaves to the canvas and the rest even then."""
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
FINDING, EVIDENCE = "nuclei_panel:NucleiPanel", "evidence_panel:EvidencePanel"
READER_TEST = "reader_test_panel:ReaderTestPanel"
AHEAD = 600
"""Milliseconds after which what data need is made ahead of them."""
LOWEST_BUTTON = 44
"""Pixels that a page's button is high at least; letters that a person made large have it higher."""
WIDEST_NAME = "✓ Results"
"""What the letters of all pages' names leave room for, so that they are of one size."""
SMALLEST_LETTERS = 9
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
        self.setAccessibleName(title)

    def set_state(self, state: str, words: str) -> None:
        """Show how far the page's work is (waiting, open, done), and what has been done in a few words."""
        self.state = state
        self._dress()
        self._words = words
        self.setToolTip(f"{self.title}: {words}" if words else self.title)
        self._fit()

    def _points(self) -> int:
        """Size of the letters: as a person chose it, or what the widest of the names has room for."""
        font = QFont(self.font())
        font.setBold(True)
        for points in range(letter_points(), SMALLEST_LETTERS, -1):
            font.setPointSize(points)
            if QFontMetrics(font).horizontalAdvance(WIDEST_NAME) <= self.width() - 12:
                return points
        return SMALLEST_LETTERS

    def _dress(self) -> None:
        # napari gives letters of the size that a person chose to labels and buttons, but not to tool buttons.
        style = (
            f"QToolButton {{ border: none; border-radius: 0; padding: 2px 4px; font-size: {self._points()}pt; "
            f"border-bottom: 3px solid {COLORS[self.state]}; }} "
            "QToolButton:checked { font-weight: 700; background: rgba(128, 128, 128, 60); }"
        )
        if style != self.styleSheet():
            self.setStyleSheet(style)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if self.state:
            self._dress()
        self._fit()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            if self.state:
                self._dress()
            self._fit()

    def _fit(self) -> None:
        metrics = self.fontMetrics()
        height = max(LOWEST_BUTTON, 2 * metrics.lineSpacing() + 14)
        if height != self.height():
            self.setFixedHeight(height)
        room = max(self.width() - 12, 20)
        words = metrics.elidedText(self._words, Qt.TextElideMode.ElideMiddle, room)
        text = f"{'✓' if self.state == 'done' else self.number} {self.title}\n{words}"
        if text != self.text():
            self.setText(text)


class MakePage(QWidget):
    """The method on top; below it tabs: what it finds first, what helps there, and the making itself."""

    def __init__(self, viewer: Any, session: Session) -> None:
        super().__init__()
        self.session = session
        self.chooser = MethodCards(session)
        self.plan, self.making = PlanPanel(viewer, session), MakePanel(viewer, session)
        self.tabs = Tabs()
        self.tabs.add("plan", "Plan", lambda: self.plan, scrolled=True)
        *tools, train = TOOLS.items()
        for name, (title, path) in tools:
            self.tabs.add(name, title, built(path, viewer, session))
        self.tabs.add("making", "Make", lambda: self.making, scrolled=True)
        self.tabs.add(train[0], train[1][0], built(train[1][1], viewer, session))
        self.tabs.open("making")
        self._top = ui.box(ui.column(self.chooser, HandEditsLine(session), margin=ui.SPACE))
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
        self.project.add("nuclei", "Find nuclei", built(FINDING, viewer, session), scrolled=True)
        self.page = MakePage(viewer, session)
        self.plan, self.make = self.page.plan, self.page.making
        self.review = ReviewPanel(viewer, session)
        self.export = ExportPanel(viewer, session)
        self.results = Tabs()
        self.results.add("export", "Export", lambda: self.export, scrolled=True)
        self.results.add("evidence", "Evidence", built(EVIDENCE, viewer, session), scrolled=True)
        self.results.add("test", "Reader test", built(READER_TEST, viewer, session))
        self.stack = QStackedWidget()
        # Else napari adds a stretch below, from its second dock on as strong as the pages: these had half the height.
        self.stack.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self._watched = False
        self.buttons: dict[str, PageButton] = {}
        parts = (self.project, self.page, self.review, self.results)
        titles = ("Project", "Make", "Review", "Results")
        for number, (name, title, part) in enumerate(zip(PAGES, titles, parts, strict=True), start=1):
            self.buttons[name] = PageButton(number, title)
            self.buttons[name].clicked.connect(lambda _on=False, name=name: self.open(name))
            self.stack.addWidget(part)
        bar = ui.even_row(*self.buttons.values())
        bar.setSpacing(0)
        self.runs = RunsBar(session, self.page_of, lambda place: place == self.place)
        self.setLayout(ui.column(bar, self.stack, self.runs, space=0, stretch=1))
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
        self.export.runner.finished.connect(self._update)
        self._wanted = ""
        self._open_soon = ui.later(self, 0, lambda: self.open(self._wanted))
        session.page_requested.connect(self._lead_to)
        for tabs in (self.project, self.page.tabs, self.results):
            tabs.currentChanged.connect(self.runs.refresh)
        self.ask = partial(ask_to_stop, self)
        """Asks whether what is under way may be ended, given what it is."""
        if (window := window_of(viewer)) is not None:
            window.installEventFilter(self)
        self._update()
        self.open(PROJECT)
        load_window_ahead()
        usual = method_of(method_names()[0])
        self._ahead = [partial(self.make.form_of, usual)]
        if usual.stage is not None:
            self._ahead.append(partial(self.plan.page_of, usual.stage))
        self._make_soon = ui.later(self, AHEAD, self._make_ahead)
        self._make_soon.start()

    def _make_ahead(self) -> None:
        """Make what the usual method shows while a person chooses data: opening them would take as much longer."""
        self._ahead.pop(0)()
        if self._ahead:
            self._make_soon.start()

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

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        around = around_of(self)
        if around is not None and not self._watched:
            self._watched = True
            around.visibilityChanged.connect(self._on_visibility)
            stand_below_title(self)

    def _on_visibility(self, seen: bool) -> None:
        # To Qt a dock is visible behind the tab of another one, too; a page that nobody sees must not have the keys.
        if isalive(self.stack):
            self.stack.setVisible(seen)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        closed = event.type() == QEvent.Type.Close and self._by_person(watched, event)
        if closed and not self.ask(self.session.under_way):
            event.ignore()
            return True
        return super().eventFilter(watched, event)

    @staticmethod
    def _by_person(window: Any, event: QEvent) -> bool:
        """Whether a person closes the window, by its frame, a key or the menu; a program knows what it does."""
        # napari's menu and keys close the window as a program does, but ``Viewer.close`` hides what is in it before.
        inside = getattr(window, "_qt_viewer", None)
        return event.spontaneous() or (inside is not None and inside.isVisible())

    def sizeHint(self) -> QSize:
        # Wide enough for two crops side by side, and for texts in the letters that a person chose; the canvas has its
        # share of a small screen.
        return QSize(min(for_letters(WIDE), max(WIDE, round(self.screen().availableGeometry().width() * WIDEST))), 760)

    @property
    def current(self) -> str:
        """Name of the page on the screen."""
        return PAGES[self.stack.currentIndex()]

    @property
    def place(self) -> str:
        """The page on the screen and its tab, as ``open`` takes them."""
        tabs = self._tabs(self.stack.currentWidget())
        return f"{self.current}/{tabs.current}" if tabs is not None else self.current

    def page_of(self, runner: JobRunner) -> str:
        """Where a runner's panel is, as ``open`` takes it; empty where it is on no page."""
        panel = runner.parent()
        for name, part in zip(PAGES, map(self.stack.widget, range(len(PAGES))), strict=True):
            if _within(part, panel):
                tabs = self._tabs(part)
                places = [f"/{tab}" for tab, one in tabs.pages.items() if _within(one, panel)] if tabs else []
                return "".join([name, *places[:1]])
        return ""

    @staticmethod
    def _tabs(part: QWidget) -> Tabs | None:
        found = part.tabs if isinstance(part, MakePage) else part
        return found if isinstance(found, Tabs) else None

    def open(self, page: str) -> Any:
        """Show a page (project, make, review, results), or a tab of one, as in ``make/pool``; what is shown there.

        What follows is brought up: a network's kind, as in ``make/train/image``, or a change, as in ``review/3``.
        """
        # A page that is still being built must not come over one that was asked for after it.
        self._open_soon.stop()
        name, _, tab = page.partition("/")
        part = self.stack.widget(PAGES.index(name))
        tabs, what = self._tabs(part), tab
        if tabs is not None:
            tab, _, what = tab.partition("/")
        opened = tabs.open(tab or tabs.current) if tabs is not None else part
        self.stack.setCurrentWidget(part)
        self.runs.refresh()
        if self.window().focusWidget() is self.buttons[name]:
            # Opened by a key: the next ones are the page's, not the row of buttons'.
            opened.setFocus(Qt.FocusReason.OtherFocusReason)
        self.buttons[name].setChecked(True)
        if what:
            opened.bring_up(what)
        self.shown.emit(name)
        return opened

    def _lead_to(self, page: str) -> None:
        """Open a page that was asked for; one that is not built yet in the turn after it is."""
        name, _, tab = page.partition("/")
        tabs = self._tabs(self.stack.widget(PAGES.index(name)))
        if tabs is not None and tabs.prepare(tab.partition("/")[0] or tabs.current):
            self._wanted = page
            self._open_soon.start()
        else:
            self.open(page)

    def _update(self, *_: object) -> None:
        session, method = self.session, chosen(self.session)
        usable = not data_problem(session, method)
        total, approved = len(session.table), session.decided(APPROVE)
        decided = approved + session.decided(REJECT) + session.decided(DELETE)
        made = (
            f"{total:,} made" if total else self.plan.words() or (method.title if usable and method is not None else "")
        )
        told = "exported" if self.export.exported else "approved"
        states = {
            PROJECT: (True, usable, session.dataset.name if session.dataset else "", (self.data,)),
            MAKE: (usable, total > 0, made, (self.plan, self.make)),
            REVIEW: (total > 0, 0 < total == decided, f"{decided:,} of {total:,}" if total else "", (self.review,)),
            RESULTS: (approved > 0, self.export.exported, f"{approved:,} {told}" if approved else "", (self.export,)),
        }
        for name, (possible, done, words, panels) in states.items():
            if any(panel.runner.running for panel in panels):
                self.buttons[name].set_state("open", "working …")
            else:
                self.buttons[name].set_state("waiting" if not possible else "done" if done else "open", words)


def _within(part: QWidget, widget: QObject | None) -> bool:
    """Whether a widget is a part or lies in it."""
    return isinstance(widget, QWidget) and (widget is part or part.isAncestorOf(widget))
