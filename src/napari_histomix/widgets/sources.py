"""What a person may open on the Project page: which kind of source a path is, and what was opened before."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QPushButton, QSizePolicy, QWidget

from napari_histomix.datasets.formats import FORMATS, recognized
from napari_histomix.datasets.text_files import read_json
from napari_histomix.preferences import Recent, recent
from napari_histomix.records import HistomixError
from napari_histomix.study.database import FILE
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.jobs import JobRunner, single

SHOWN = 8
"""Of what was opened before, so many are listed."""
READS = (
    "Recognized are, of nuclei: "
    + "; ".join(known.title for known in FORMATS.values() if known.holds == "nuclei")
    + ";\nof tissue: a folder for each class, or a CSV of images and classes;\n"
    "and whatever HistoMix writes: exports, studies, reader tests. They can be dropped on napari, too."
)
_LARGEST = 2**24
"""Bytes of the file that tells a reader test."""


def holder(path: Path) -> Path:
    """The folder that a file of a study or of a reader test lies in; any other path itself."""
    folder = path.parent
    return folder if path.is_file() and (is_study(folder) or is_reader_test(folder)) else path


def is_study(path: Path) -> bool:
    """Whether a folder is a study."""
    return (path / FILE).is_file()


def is_reader_test(path: Path) -> bool:
    """Whether a folder is a reader test."""
    if (file := path / "test.json").is_file():
        from napari_histomix.evaluation.reader_test.folder import FORMAT

        with suppress(HistomixError):
            content = read_json(file, _LARGEST)
            return isinstance(content, dict) and content.get("format") == FORMAT
    return False


def dataset_of(path: Path) -> Path:
    """What a dataset is opened by: the folder that a file of it lies in, or a CSV, which may be all there is."""
    if not path.is_file():
        return path
    for folder in (path.parent, path.parent.parent):
        if recognized(folder) is not None:
            return folder
    return path if path.suffix.casefold() == ".csv" else path.parent


def when_words(when: str, now: datetime | None = None) -> str:
    """How long ago a time (ISO) was, in words of days."""
    try:
        days = ((now or datetime.now(UTC)).date() - datetime.fromisoformat(when).date()).days
    except (TypeError, ValueError):
        return ""
    return "today" if days <= 0 else "yesterday" if days == 1 else f"{days} days ago" if days < 30 else when[:10]


def _there() -> list[Recent]:
    """What was opened before and is still there."""
    found = []
    for each in recent():
        with suppress(OSError):
            if Path(each.path).exists():
                found.append(each)
    return found[:SHOWN]


class RecentButton(QPushButton):
    """One line: the name of a dataset or study, its middle left out where there is no room, what it is, and when."""

    def __init__(self, known: Recent) -> None:
        super().__init__()
        self.known = known
        self._rest = " · ".join(filter(None, (known.kind, when_words(known.when))))
        self.setToolTip(f"Open {known.path}")
        self.setAccessibleName(f"{Path(known.path).name}, {self._rest}")
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setStyleSheet("QPushButton { text-align: left; padding: 3px 6px; }")
        self._fit()

    def minimumSizeHint(self) -> QSize:
        return QSize(1, super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        metrics = self.fontMetrics()
        rest = f"  ·  {self._rest}"
        room = max(self.width() - 16 - metrics.horizontalAdvance(rest), 40)
        # An ampersand would make the next letter a shortcut.
        name = metrics.elidedText(Path(self.known.path).name, Qt.TextElideMode.ElideMiddle, room).replace("&", "&&")
        if f"{name}{rest}" != self.text():
            self.setText(f"{name}{rest}")


class RecentBox(QWidget):
    """What was opened before, a button each; hidden where there is nothing."""

    chosen = Signal(object)
    """The path of what is to be opened."""

    def __init__(self) -> None:
        super().__init__()
        self.buttons: list[RecentButton] = []
        self._lines = ui.column(space=2)
        self.setLayout(ui.column(ui.heading("Recent"), self._lines, space=2))
        self._looker = JobRunner(self).on(finished=self._show)
        self.hide()

    def refresh(self) -> None:
        """Look anew for what is still there; a folder on another machine may take a while to answer."""
        self._looker.replace(single(_there, "Looking for recent data"), "looking for recent data")

    def put_away(self) -> None:
        """Hide it, also where it is still being looked for."""
        self._looker.discard()
        self.hide()

    def _show(self, found: Sequence[Recent]) -> None:
        ui.clear(self._lines)
        self.buttons = [RecentButton(known) for known in found]
        for made in self.buttons:
            made.clicked.connect(partial(self.chosen.emit, Path(made.known.path)))
            self._lines.addWidget(made)
        self.setVisible(bool(found))
