"""Tabs whose pages are built when they are first shown, and known by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qtpy.QtCore import QSize
from qtpy.QtWidgets import QTabWidget, QWidget

from napari_histomix.widgets import elements as ui


class Tabs(QTabWidget):
    """Pages by name; ``offer`` says which of them are there."""

    def __init__(self) -> None:
        super().__init__()
        self.setDocumentMode(True)
        self.setUsesScrollButtons(True)
        self._names: list[str] = []
        self._builders: dict[str, tuple[Callable[[], QWidget], bool]] = {}
        self.pages: dict[str, QWidget] = {}
        """Those that are in their places."""
        self._built: dict[str, QWidget] = {}
        self._soon = ui.later(self, 0, self._go_on)
        self.currentChanged.connect(lambda _at: self._soon.start())

    def sizeHint(self) -> QSize:
        return QSize(440, 600)

    def minimumSizeHint(self) -> QSize:
        return QSize(300, 200)

    @property
    def current(self) -> str:
        """Name of the page that is shown; empty where there is none."""
        at = self.currentIndex()
        return self._names[at] if at >= 0 else ""

    def add(self, name: str, title: str, build: Callable[[], QWidget], *, scrolled: bool = False) -> None:
        """Add a page; with ``scrolled`` it scrolls where it is higher than there is room."""
        self._names.append(name)
        self._builders[name] = build, scrolled
        self.addTab(QWidget(), title)

    def rename(self, name: str, title: str) -> None:
        self.setTabText(self._names.index(name), title)

    def offer(self, names: Sequence[str]) -> None:
        """Show the tabs of these pages; where the one on the screen is not among them, the first of them comes."""
        if self.current not in names and names:
            self.open(names[0])
        for at, name in enumerate(self._names):
            self._set_shown(at, name in names)

    def _set_shown(self, at: int, shown: bool) -> None:
        # Qt forgets that the tabs are to be laid out anew once it is told what it knows already.
        if self.isTabVisible(at) != shown:
            self.setTabVisible(at, shown)

    def open(self, name: str) -> QWidget:
        """Bring a page to the front, and its tab, where that was hidden."""
        at = self._names.index(name)
        self._set_shown(at, True)
        self.setCurrentIndex(at)
        if self.prepare(name):
            page = self.pages[name] = self._built.pop(name)
            _, scrolled = self._builders.pop(name)
            self.widget(at).setLayout(ui.column(ui.scrolled(page) if scrolled else page))
            page.show()
        return self.pages[name]

    def prepare(self, name: str) -> bool:
        """Build a page where it is not yet; whether ``open`` still has to put it in its place.

        Either takes a tenth of a second: a person who comes to a page has them in two turns of the event loop.
        """
        if name not in self.pages and name not in self._built:
            build, _ = self._builders[name]
            self._built[name] = build()
        return name in self._built

    def _go_on(self) -> None:
        name = self.current
        if name in self._built:
            self.open(name)
        elif name and self.prepare(name):
            self._soon.start()
