"""A dock of its own: what a person prefers on this machine, whatever the study."""

from __future__ import annotations

from typing import Any

from qtpy.QtGui import QShowEvent

from napari_histomix import preferences
from napari_histomix.preferences import Preferences
from napari_histomix.records import HistomixError
from napari_histomix.settings import plain, settings_of
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel
from napari_histomix.widgets.forms import SettingsForm
from napari_histomix.widgets.session import Session


class PreferencesPanel(Panel):
    """The preferences as a form; napari 0.9 shows the same ones in its own Preferences window."""

    preferred_size = (380, 340)
    own_dock = True

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.form = SettingsForm(Preferences)
        self.overruled, self.note = ui.Note(kind="warning"), ui.Note()
        self.save_button = ui.button("Save", "Keep these values for all docks and commands.", self.save, primary=True)
        self.reset_button = ui.button("Defaults", "Fill in the defaults; nothing is kept before Save.", self._reset)
        where = ui.label(f"Kept in {preferences.path()}", plain=True, style="font-style: italic;")
        buttons = ui.row(self.save_button, self.reset_button, stretch=0)
        ui.add(self.column, self.form, buttons, self.note, self.overruled, where)
        self.column.addStretch(1)
        self.form.changed.connect(lambda: self.note.say(""))
        self.session.preferences_changed.connect(self.show_kept)
        self.show_kept()

    def show_kept(self) -> None:
        """Fill in what the file says."""
        values, problem = preferences.kept()
        self.form.set_value(values)
        self.note.say(problem, "error")
        labels = {setting.name: setting.label.lower() for setting in settings_of(Preferences)}
        lines = (
            f"{variable} is set: it goes before the choice of {labels[name]} here."
            for name, variable in preferences.overruled().items()
        )
        self.overruled.say("\n".join(lines), "warning")

    def save(self) -> None:
        """Keep what the form says."""
        try:
            wanted = self.form.value(Preferences)
            self.session.take_preferences(preferences.change(**plain(wanted)))
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        self.note.say("Saved.", "good")

    def _reset(self) -> None:
        self.form.set_value(Preferences())

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        # Another process may have changed the file.
        self.show_kept()
