"""The keys of the review, and what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence, QShortcut

from napari_histomix.widgets.keys import PanelKeys
from napari_histomix.widgets.review.deciding import IMAGE, ONE, SHOWN
from napari_histomix.widgets.review.details import REASON_KEYS
from napari_histomix.widgets.review.views import SIDE_BY_SIDE, SWIPE
from napari_histomix.widgets.tables import APPROVE, DELETE, REJECT, UNDECIDED

if TYPE_CHECKING:
    from napari_histomix.widgets.review.panel import ReviewPanel

DECIDE = {"A": APPROVE, "1": APPROVE, "R": REJECT, "2": REJECT, "3": UNDECIDED, "4": DELETE}
SCOPES = {"E": ONE, "I": IMAGE, "G": SHOWN}


class ReviewKeys(PanelKeys):
    """The panel's keys, over the canvas too; and those that only the window can hear.

    Parameters
    ----------
    panel : ReviewPanel
    """

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__(panel, panel.viewer, actions_of(panel))
        # napari's keys for the canvas cannot tell signs apart that need Shift on some keyboard. Qt hears these in the
        # whole window, as long as the panel is to be seen.
        for key, action in (("?", panel.toggle_keys), ("+", lambda: panel.contents.views.zoom(1))):
            self._listen(panel, key, action, Qt.ShortcutContext.WindowShortcut)
        self._listen(panel, "Escape", panel.escape, Qt.ShortcutContext.WidgetWithChildrenShortcut)

    @staticmethod
    def _listen(panel: ReviewPanel, key: str, action: Callable[[], Any], context: Qt.ShortcutContext) -> None:
        shortcut = QShortcut(QKeySequence(key), panel)
        shortcut.setContext(context)
        shortcut.activated.connect(action)


def actions_of(panel: ReviewPanel) -> dict[str, Callable[[], Any]]:
    """What each key does."""
    parts = panel.contents
    views, bar = parts.views, parts.view_bar
    return {
        **{key: lambda decision=decision: panel.decide(decision) for key, decision in DECIDE.items()},
        **{key: lambda reason=reason: panel.toggle_reason(reason) for reason, key in REASON_KEYS.items()},
        **{key: lambda scope=scope: parts.deciding.set_scope(scope) for key, scope in SCOPES.items()},
        **dict.fromkeys(("U", "Z", "Ctrl+Z"), panel.undo),
        **dict.fromkeys(("Y", "Ctrl+Shift+Z"), panel.redo),
        "Left": lambda: panel.move_by(-1),
        "Right": lambda: panel.move_by(1),
        "Home": lambda: panel.move_to(0),
        "End": lambda: panel.move_to(len(panel.queue) - 1),
        "J": panel.move_on,
        "V": lambda: views.set_mode(SIDE_BY_SIDE),
        "B": bar.toggle_blink,
        "W": lambda: views.set_mode(SWIPE),
        "Shift+Left": lambda: views.swipe_by(-1),
        "Shift+Right": lambda: views.swipe_by(1),
        "=": lambda: views.zoom(1),
        "-": lambda: views.zoom(-1),
        "O": bar.origin.toggle,
        "M": bar.smooth.toggle,
        "X": bar.real.toggle,
        "K": parts.details.stay.toggle,
        "N": lambda: parts.details.note.setFocus(Qt.FocusReason.ShortcutFocusReason),
        "P": lambda: parts.details.reviewer.setFocus(Qt.FocusReason.ShortcutFocusReason),
        "F": lambda: panel.unfold(parts.filters, parts.filters.decision),
        "D": lambda: panel.unfold(parts.donors),
        "Q": lambda: panel.unfold(parts.summary),
        "F1": panel.toggle_keys,
    }
