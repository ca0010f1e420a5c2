"""A dock of its own: every network that the program knows, and how it gets onto this disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtGui import QColor, QShowEvent

from napari_histomix.preferences import preferences
from napari_histomix.records import Event
from napari_histomix.weights import fetch, weights_folder
from napari_histomix.weights.fetching import by_hand
from napari_histomix.weights.known import BUNDLED, OWN, STATES, Found, survey
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.table_model import ArrayTableModel, Column, table_view

COLORS = {"present": ui.GOOD, "unverified": ui.GOOD, "partial": ui.CARE, "damaged": ui.BAD}


class DownloadBar(RunBar):
    """A bar that counts megabytes."""

    def words(self, event: Event) -> str:
        """What the line below the progress bar says."""
        if event.total < 1_000_000:
            return super().words(event)
        return f"{event.phase}: {event.done / 1e6:,.0f} of {event.total / 1e6:,.0f} MB …"


class ModelsPanel(Panel):
    """Networks in a table; the chosen one is fetched, or the panel says how it is placed by hand."""

    preferred_size = (440, 520)
    own_dock = True

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.found: tuple[Found, ...] = ()
        self._wanted: str | None = None
        self._stale = True
        self.model = ArrayTableModel(self)
        self.view = table_view(self.model, (150, 110, 80))
        self.view.setAccessibleName("Networks")
        self.view.selectionModel().selectionChanged.connect(self._show_chosen)
        self.model.modelReset.connect(self._show_chosen)
        self.details = ui.Note()
        self.hash = ui.line("", "SHA-256 of the published file, to compare a copy with.")
        self.hash.setReadOnly(True)
        self.hash.setAccessibleName("SHA-256")
        self.hash_row = ui.box(ui.row(ui.label("SHA-256", wrap=False), self.hash, stretch=1))
        self.note = ui.Note()
        kept = "Stop; what came until then is kept, and Download goes on from there."
        self.progress = DownloadBar("Download", self.runner, "Fetch the chosen network into the model folder.", kept)
        self.folder_button = ui.folder_button(self._folder)
        self.folder_button.setText("Open folder")
        self.folder_button.setToolTip("Show the model folder, which is made if it is not there yet.")
        self.check_button = ui.button("Check again", "Look at the files again, and compare them with their hashes.")
        self.check_button.clicked.connect(self.check)
        buttons = ui.row(self.folder_button, self.check_button, stretch=0)
        ui.add(self.column, self.view, self.details, self.hash_row, self.progress, buttons, self.note)
        self.progress.run.connect(self.download)
        self.runner.on(finished=self._on_finished, failed=self._on_failed, cancelled=self._on_cancelled)
        self.runner.on(running_changed=self._on_running)
        self.session.preferences_changed.connect(self._on_preferences)
        self._show_chosen()

    @property
    def chosen(self) -> Found | None:
        """The network that is chosen in the table."""
        rows = [index.row() for index in self.view.selectionModel().selectedRows()]
        return self.found[self.model.items(rows)[0]] if rows and self.found else None

    def check(self) -> None:
        """Look at all files, in the background."""
        self.note.say("")
        self._wanted = None
        self._stale = not self.runner.start(survey, "looking at networks")

    def download(self) -> None:
        """Fetch the chosen network, from where its part ends."""
        found = self.chosen
        if found is None or self._problem(found):
            return
        self.note.say("")
        self._wanted = found.network.name
        self.runner.start(partial(fetch, found.network), f"fetching {found.network.name}")

    def _folder(self) -> Path | None:
        folder = weights_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.complain(self.note, f"{folder} cannot be made ({error.strerror}); choose another in the preferences.")
            return None
        return folder

    def _problem(self, found: Found) -> str:
        """Why a network cannot be fetched, in a sentence; empty where it can."""
        if found.state in ("present", "unverified"):
            return f"{found.network.name} is here already."
        if found.state == "damaged":
            again = "install the package again" if found.network.family == BUNDLED else "delete it and get it again"
            return f"{found.path} is damaged or was changed; {again}."
        if found.network.family in (BUNDLED, OWN) or not found.network.fetchable or not preferences().online:
            return by_hand(found.network)
        return ""

    def _show_chosen(self, *_: object) -> None:
        found = self.chosen
        self.hash_row.setVisible(found is not None and bool(found.network.sha256))
        if found is None:
            self.details.say("Choose a network to see where it lies, or must lie." if self.found else "")
            self.progress.allow(False, "Choose a network first.")
            return
        network, problem = found.network, self._problem(found)
        lines = [
            f"{network.name}: {network.family}, {network.purpose}.",
            f"License: {network.license}." + ("" if network.sha256 else " SHA-256: unknown."),
            problem if found.state in ("missing", "partial", "damaged") and problem else str(found.path),
        ]
        kinds = {"damaged": "error", "missing": "warning" if problem else "info"}
        self.hash.setText(network.sha256 or "")
        self.hash.setCursorPosition(0)
        self.details.say("\n".join(lines), kinds.get(found.state, "info"))
        self.progress.allow(not problem, problem)

    def _show(self) -> None:
        """The table; the chosen network stays chosen."""
        before = self.chosen.network.name if self.chosen is not None else self._wanted
        sizes = [found.network.size or found.there for found in self.found]
        states = [found.state for found in self.found]
        columns = [
            Column("name", "Network", "", [found.network.name for found in self.found]),
            Column("state", "State", "Whether its file is here and is the published one.", states),
            Column("size", "Size", "Of its file.", sizes, _megabytes, right=True),
            Column("license", "License", "", [found.network.license for found in self.found]),
            Column("purpose", "What it does", "", [found.network.purpose for found in self.found]),
        ]
        columns[1].shown = lambda state: STATES[state]
        columns[1].color = lambda item: QColor(COLORS[states[item]]) if states[item] in COLORS else None
        for column, values in zip(columns, (column.values for column in columns), strict=True):
            column.hover = None if column.right else lambda item, values=values, shown=column.shown: shown(values[item])
        self.model.set_columns(columns)
        names = [found.network.name for found in self.found]
        row = self.model.row_of(names.index(before)) if before in names else None
        if row is not None:
            self.view.selectRow(row)
        self._show_chosen()

    def _on_finished(self, result: Any) -> None:
        if isinstance(result, tuple):
            self.found = result
            self._show()
            return
        self.note.say(f"{self._wanted} is whole and verified.", "good")
        self._renew()

    def _on_failed(self, sentence: str) -> None:
        self.complain(self.note, sentence)
        if self._wanted is not None:
            self._renew()

    def _on_cancelled(self) -> None:
        if self._wanted is None:
            self._stale = True
            return
        self.note.say(f"Stopped; Download goes on with {self._wanted} where it ended.")
        self._renew()

    def _renew(self) -> None:
        """Look at the files again, with the last notice left standing."""
        self._stale = not self.runner.start(survey, "looking at networks")

    def _on_running(self, running: bool) -> None:
        self.check_button.setEnabled(not running)

    def _on_preferences(self) -> None:
        self._stale = True
        if self.isVisible() and not self.runner.running:
            self.check()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self._stale and not self.runner.running:
            self.check()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size else "unknown"
