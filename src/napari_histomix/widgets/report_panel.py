"""A dock of its own: a report about a problem, shown in full before it is saved."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import qtpy
from napari.settings import get_settings
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog, QPlainTextEdit

from napari_histomix import problem_report
from napari_histomix.logs import log_file
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.loading_ahead import prepare_torch
from napari_histomix.widgets.session import Session

WORDS = (
    "Something went wrong? This gathers the log, versions and settings in one file for the makers. It has no images "
    "and no names of images, patients or persons. Look through it before you save it; nothing is sent by itself."
)


def gather_job(names: Collection[str], window: dict[str, str]) -> Job[dict[str, str]]:
    """Gather a report's files in the background: graphics cards are named by torch, which takes a while to load."""
    yield Event("Gathering")
    prepare_torch()
    return problem_report.contents(names, window)


class ReportPanel(Panel):
    """What is in a report, file by file, and where it is saved."""

    preferred_size = (440, 520)
    own_dock = True

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.files: dict[str, str] = {}
        self.file = ui.choice((), "A file of the report.", self._show_file, name="File of the report")
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setAccessibleName("What the file says")
        self.progress = RunBar("Gather", self.runner, "Gather what is in the report, and show it.")
        self.save_button = ui.button("Save as zip …", "Save exactly what is shown.", self.ask_and_save)
        self.folder_button = ui.folder_button(lambda: log_file().parent)
        self.folder_button.setText("Open the log's folder")
        self.note = ui.Note()
        self.shown = ui.box(ui.column(self.file, self.text, stretch=1), shown=False)
        buttons = ui.row(self.save_button, self.folder_button, stretch=0)
        ui.add(self.column, ui.label(WORDS), self.progress, self.shown, buttons, self.note)
        self.column.addStretch(1)
        self.column.setStretchFactor(self.shown, 10)
        self.save_button.setEnabled(False)
        self.progress.run.connect(self.gather)
        self.runner.on(finished=self._on_gathered, failed=partial(self.complain, self.note))

    def gather(self) -> None:
        """Gather the report in the background, with the names of what is open taken out."""
        self.note.say("")
        self.runner.start(partial(gather_job, self._names(), _window()), "gathering a report")

    def _names(self) -> set[str]:
        """What the open data is called: nothing of it may be in the report."""
        session, names = self.session, set[str]()
        if session.dataset is not None:
            names |= {session.dataset.name, Path(session.dataset.root).name}
            for entry in session.dataset.entries:
                names |= {entry.source.image, entry.source.patient, entry.source.slide}
        names |= set(map(str, session.table.image_names))
        names |= {session.reviewer, *(folder.name for folder in (session.study_folder, session.pool_folder) if folder)}
        # A word of two letters is in every other word's neighborhood and tells nobody anything.
        return {name for name in names if len(name) > 2}

    def _on_gathered(self, files: dict[str, str]) -> None:
        self.files = files
        ui.offer(self.file, [(name, name) for name in files])
        self.shown.show()
        self.save_button.setEnabled(True)
        self._show_file()

    def _show_file(self) -> None:
        self.text.setPlainText(self.files.get(self.file.currentData() or "", ""))

    def ask_and_save(self) -> None:
        """Ask for a place, and save there."""
        proposed = str(Path.home() / problem_report.proposed_name())
        name, _ = QFileDialog.getSaveFileName(self, "Save the report", proposed, "Zip (*.zip)")
        if name:
            self.save(Path(name))

    def save(self, out: Path) -> None:
        """Save what is shown."""
        try:
            written = problem_report.write(out, self.files)
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        self.note.say(f"Saved as {written}.", "good")


def _window() -> dict[str, str]:
    """What only a window knows."""
    screen = QGuiApplication.primaryScreen()
    size = screen.size()
    return {
        "binding": str(qtpy.API_NAME),
        "Qt": str(qtpy.QT_VERSION),
        "platform": QGuiApplication.platformName(),
        "screen": f"{size.width()} × {size.height()} at {100 * screen.devicePixelRatio():.0f} %",
        "theme": str(get_settings().appearance.theme),
    }
