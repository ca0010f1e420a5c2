"""The page of napari's own Preferences window (napari 0.9), kept in step with the file of preferences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import QObject

from napari_histomix.preferences import APP, Preferences, kept, merge_page
from napari_histomix.settings import plain

if TYPE_CHECKING:
    from napari_histomix.widgets.session import Session


def napari_page() -> Any:
    """napari's model of our page, with a value for each preference; None where napari has no such pages."""
    try:
        from napari.settings import get_plugin_settings
    except ImportError:
        # Before napari 0.9 there is the dock "Preferences" alone.
        return None
    try:
        return get_plugin_settings(APP).preferences
    except KeyError:
        return None


class PreferencesPage(QObject):
    """Between a session, the file and napari's page: whichever a person changes, the others follow.

    The file has the say. What was changed on the page while none of our docks was open is taken over when the first one
    opens; see ``preferences.merge_page``.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session, self._page, self._showing = session, napari_page(), False
        if self._page is not None:
            merge_page(self._values())
            self._show()
            self._page.events.connect(self._on_page)
            session.preferences_changed.connect(self._show)

    def _values(self) -> Mapping[str, Any]:
        return {name: getattr(self._page, name) for name in plain(Preferences())}

    def _on_page(self, _event: Any = None) -> None:
        if isalive(self) and not self._showing:
            self._session.take_preferences(merge_page(self._values()))

    def _show(self) -> None:
        """Have the page show what the file says."""
        self._showing = True
        try:
            for name, value in plain(kept()[0]).items():
                if getattr(self._page, name) != value:
                    setattr(self._page, name, value)
            merge_page(self._values())
        finally:
            self._showing = False
