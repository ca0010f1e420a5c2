"""The keys of the review, on a sheet over the panel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence, QMouseEvent, QShortcut
from qtpy.QtWidgets import QFrame, QGridLayout, QScrollArea, QWidget

from napari_histomix.widgets.decisions import APPROVE, DELETE, REJECT, UNDECIDED
from napari_histomix.widgets.elements import SPACE, heading, hint, label
from napari_histomix.widgets.review.deciding import IMAGE, ONE, REASON_KEYS, SHOWN
from napari_histomix.widgets.review.views import SIDE_BY_SIDE, SWIPE
from napari_histomix.widgets.viewer import PanelKeys

if TYPE_CHECKING:
    from napari_histomix.widgets.review.panel import ReviewPanel

KEYS = {
    "Decide": {
        "A or 1": "approve",
        "R or 2": "reject",
        "3": "clear: undecided again",
        "4": "delete",
        "Z, U or Ctrl+Z": "undo",
        "Y or Ctrl+Shift+Z": "redo",
        "E · I · G": "one · whole image · all shown",
    },
    "Say why": {
        "S · T · C · H · L": "seam · stain · context · shape · label",
        "N": "note; Enter keeps, Escape forgets",
        "K": "stay after a rejection",
        "P": "your name",
    },
    "Move": {
        "← · →": "previous · next",
        "Home · End": "first · last",
        "J": "next undecided",
        "F": "filter; Tab goes on, Escape returns",
    },
    "Look": {
        "V · B · W": "side by side · blink · swipe",
        "Shift+← · Shift+→": "move the divider",
        "+ · −": "zoom",
        "O · M": "origin · smooth",
        "X": "real image in the window",
        "D · Q": "donor and nearest · summary",
    },
}
DECIDE = {"A": APPROVE, "1": APPROVE, "R": REJECT, "2": REJECT, "3": UNDECIDED, "4": DELETE}
SCOPES = {"E": ONE, "I": IMAGE, "G": SHOWN}


class KeyList(QScrollArea):
    """A sheet that covers the panel; a click closes it."""

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__(panel)
        self.panel = panel
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidgetResizable(True)
        inner = QWidget()
        grid = QGridLayout(inner)
        grid.setContentsMargins(SPACE, SPACE, SPACE, SPACE)
        grid.setHorizontalSpacing(SPACE)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        for title, actions in KEYS.items():
            grid.addWidget(heading(title), grid.rowCount(), 0, 1, 2)
            for keys, action in actions.items():
                place = grid.rowCount()
                grid.addWidget(label(keys, wrap=False, style="font-weight: 600;"), place, 0)
                grid.addWidget(label(action, wrap=False), place, 1)
        closing = hint("They work here and over the image. ? or Escape closes this list.")
        grid.addWidget(closing, grid.rowCount(), 0, 1, 2)
        grid.setRowStretch(grid.rowCount(), 1)
        self.setWidget(inner)
        self.hide()

    def set_open(self, opened: bool) -> None:
        if opened:
            self.setGeometry(self.panel.rect())
            self.raise_()
        self.setVisible(opened)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.panel.toggle_keys()


class ReviewKeys(PanelKeys):
    """The panel's keys, over the canvas too; and those that only the window can hear."""

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__(panel, panel.viewer, actions_of(panel))
        # napari's keys for the canvas cannot tell signs apart that need Shift on some keyboard. Qt hears these in the
        # whole window, as long as the panel is to be seen.
        for key, action, context in (
            ("?", panel.toggle_keys, Qt.ShortcutContext.WindowShortcut),
            ("+", lambda: panel.contents.views.zoom(1), Qt.ShortcutContext.WindowShortcut),
            ("Escape", panel.escape, Qt.ShortcutContext.WidgetWithChildrenShortcut),
        ):
            shortcut = QShortcut(QKeySequence(key), panel)
            shortcut.setContext(context)
            shortcut.activated.connect(action)


def actions_of(panel: ReviewPanel) -> dict[str, Callable[[], Any]]:
    """What each key does."""
    parts, views = panel.contents, panel.contents.views
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
        "B": views.toggle_blink,
        "W": lambda: views.set_mode(SWIPE),
        "Shift+Left": lambda: views.swipe_by(-1),
        "Shift+Right": lambda: views.swipe_by(1),
        "=": lambda: views.zoom(1),
        "-": lambda: views.zoom(-1),
        "O": views.origin.toggle,
        "M": views.smooth.toggle,
        "X": views.real.toggle,
        "K": parts.details.stay.toggle,
        "N": lambda: parts.details.note.setFocus(Qt.FocusReason.ShortcutFocusReason),
        "P": lambda: parts.details.reviewer.setFocus(Qt.FocusReason.ShortcutFocusReason),
        "F": lambda: panel.unfold(parts.filters, parts.filters.decision),
        "D": lambda: panel.unfold(parts.donors),
        "Q": lambda: panel.unfold(parts.summary),
        "F1": panel.toggle_keys,
    }
