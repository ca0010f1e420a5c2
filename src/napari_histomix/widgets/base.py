"""What the panels share: their base class, their keys, and the bar that runs, pauses and cancels a long job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from app_model.types import KeyBinding
from napari.utils.notifications import show_warning
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QHideEvent, QKeyEvent, QKeySequence, QResizeEvent, QShortcut, QShowEvent
from qtpy.QtWidgets import QApplication, QLabel, QProgressBar, QScrollArea, QSizePolicy, QWidget

from napari_histomix.records import Event
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.docking import stand_below_title, stand_beside
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.layers import layer_book_of
from napari_histomix.widgets.session import Session, session_of, window_of
from napari_histomix.widgets.viewer_layers import VIEWING_MODES

STOP_AND_KEEP = "Stop at the next step; you are asked whether what is made so far stays."
SURE_AFTER = 4.0
"""Seconds of a phase before it is said how long the rest of it takes."""
MOVES = ("Left", "Right", "Up", "Down")
QUIET_MODES = (*VIEWING_MODES, "transform", "select")
"""Modes of a layer in which nothing is drawn."""


class Panel(QWidget):
    """Base of the panels: the viewer, its session, its layers, one runner for long jobs."""

    running_changed = Signal(bool)
    preferred_size: ClassVar[tuple[int, int] | None] = None
    runs: ClassVar[bool] = True
    """Whether its job is a person's work, which nothing else ends without asking."""
    heavy: ClassVar[bool] = False
    """Whether its job takes the computer to itself, so that others of the kind wait for its end."""

    own_dock: ClassVar[bool] = False
    """Whether it is a dock of its own, not a page of the HistoMix dock."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__()
        self._placed = False
        self.viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.session = session or session_of(self.viewer)
        if self.session.parent() is None:
            self.session.setParent(self)
        self.while_shown: list[Any] = []
        """What is bound when the panel is shown, and released when it is hidden or closed."""
        self.book = layer_book_of(self.viewer, self.session)
        self.runner = JobRunner(self, window_of(self.viewer)).on(running_changed=self.running_changed)
        if self.runs:
            self.session.follow(self.runner, heavy=self.heavy)
        self.column = ui.column(margin=ui.SPACE)
        self.setLayout(self.column)
        self.setMinimumWidth(300)

    def scroll(self) -> QScrollArea:
        """Let the panel's column scroll where the dock is too low for it."""
        outer, self.column = self.column, ui.column(margin=ui.SPACE)
        area = ui.scrolled(ui.box(self.column))
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)
        return area

    def lead(self, text: str, page: str, tip: str, *, beside: ui.Note | None = None, primary: bool = False) -> Any:
        """A button that leads to another page of the dock; there as long as the note ``beside`` it, if any."""
        made = ui.button(text, tip, lambda: self.session.page_requested.emit(page), primary=primary)
        if beside is not None:
            beside.lead = made
            made.setVisible(bool(beside.text()))
        return made

    def complain(self, note: ui.Note, sentence: str, kind: str = "error") -> None:
        """Show one sentence about a failure: in the panel, or as a notice where the panel is not to be seen."""
        note.say(sentence, kind)
        # What was pressed may lie at the lower end of a page that scrolls, and the note below it.
        ui.reveal(note)
        if not self.isVisible() and hasattr(self.viewer, "window"):
            show_warning(sentence)

    def sizeHint(self) -> QSize:
        return QSize(*self.preferred_size) if self.preferred_size else super().sizeHint()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self.own_dock and not self._placed:
            self._placed = True
            QTimer.singleShot(0, partial(stand_beside, self, Panel))
            stand_below_title(self)
        for part in self.while_shown:
            part.bind()

    def hideEvent(self, event: QHideEvent) -> None:
        for part in self.while_shown:
            part.release()
        super().hideEvent(event)


class PanelKeys(QObject):
    """Keys that work in the panel (Qt shortcuts) and, while it is shown, over the canvas (napari's key bindings).

    napari gives a layer's own bindings precedence (A selects all points, R is a rectangle), and a selected layer can
    be any. So the keys are bound on the viewer, and on the layer that is active, and taken back from a layer as soon
    as it is not. What was bound there before is put back. While a person draws in a layer, keys over the canvas are
    napari's: Ctrl+Z takes the stroke back. ``actions`` says what each key ("A", "Left") does.
    """

    lent = Signal(str)
    """Name of the layer that is drawn in, while keys over the canvas are napari's; empty as soon as they are not."""

    def __init__(self, panel: QWidget, viewer: Any, actions: Mapping[str, Callable[[], None]]) -> None:
        super().__init__(panel)
        self._viewer = viewer
        self._actions = dict(actions)
        self._bound: list[tuple[Any, dict[KeyBinding, Any], dict[KeyBinding, Any]]] = []
        self._active: Any = None
        self._shown = False
        for key, action in actions.items():
            # As over the canvas: a key that is held down moves on, but decides once.
            add_shortcut(panel, key, action).setAutoRepeat(key in MOVES)

    def bind(self) -> None:
        """Take the keys over; to be called when the panel is shown."""
        if not self._shown:
            self._shown = True
            self._viewer.layers.selection.events.active.connect(self._on_active)
            self._on_active()

    def release(self) -> None:
        """Give the keys back; to be called when the panel is hidden or closed."""
        if self._shown:
            self._shown = False
            self._viewer.layers.selection.events.active.disconnect(self._on_active)
            self._follow(None)
            self._unbind()

    def _follow(self, active: Any) -> None:
        """Hear of the modes of the layer that is active now."""
        before, self._active = self._active, active
        for layer, hear in ((before, "disconnect"), (active, "connect")):
            if layer is not None and hasattr(layer.events, "mode"):
                getattr(layer.events.mode, hear)(self._on_mode)

    def _on_mode(self, event: Any = None) -> None:
        self._unbind()
        drawing = self._active is not None and str(self._active.mode) not in QUIET_MODES
        if not drawing:
            self._bind()
        self.lent.emit(self._active.name if drawing else "")

    def badge(self, page: str) -> KeysBadge:
        """A badge that says whose the keys are: the page's, or napari's while a person draws in a layer."""
        made = KeysBadge(page)
        self.lent.connect(made.show_owner)
        return made

    def _on_active(self, event: Any = None) -> None:
        self._follow(self._viewer.layers.selection.active)
        self._on_mode()

    def _bind(self) -> None:
        for owner in (self._viewer, self._active):
            if owner is not None:
                ours = {
                    KeyBinding.from_str(key): lambda _owner, action=action: action()
                    for key, action in self._actions.items()
                }
                before = {binding: owner.keymap[binding] for binding in ours if binding in owner.keymap}
                for binding, call in ours.items():
                    owner.keymap[binding] = call
                self._bound.append((owner, ours, before))

    def _unbind(self) -> None:
        for owner, ours, before in self._bound:
            for binding, function in ours.items():
                # Another panel may have taken the key since; then it is not ours to give back.
                if owner.keymap.get(binding) is function:
                    del owner.keymap[binding]
                    if binding in before:
                        owner.keymap[binding] = before[binding]
        self._bound.clear()


def add_shortcut(
    panel: QWidget,
    key: str,
    action: Callable[[], Any],
    context: Qt.ShortcutContext = Qt.ShortcutContext.WidgetWithChildrenShortcut,
) -> QShortcut:
    """Have Qt hear a key in a panel, or as far as ``context`` says; a list or menu that is open gets it instead."""
    shortcut = QShortcut(QKeySequence(key), panel)
    shortcut.setContext(context)

    def act() -> None:
        popup = QApplication.activePopupWidget()
        if popup is None:
            action()
            return
        # A person types what an entry begins with. As long as the shortcut is there, the key would come here again.
        code, text = shortcut.key()[0], key if len(key) == 1 else ""
        typed = QKeyEvent(QEvent.Type.KeyPress, code.key(), code.keyboardModifiers(), text)
        shortcut.setEnabled(False)
        QApplication.sendEvent(popup.focusWidget() or popup, typed)
        shortcut.setEnabled(True)

    shortcut.activated.connect(act)
    return shortcut


UNDO_KEYS, REDO_KEYS = ("U", "Ctrl+Z"), ("Y", "Ctrl+Y", "Ctrl+Shift+Z")
"""What takes decisions back and does them again, in all panels; Ctrl+Y would else be napari's, for 3D."""


def turning_keys(undo: Callable[[], Any], redo: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    """The keys of a panel's undo and redo."""
    return dict.fromkeys(UNDO_KEYS, undo) | dict.fromkeys(REDO_KEYS, redo)


class KeysBadge(QLabel):
    """Says on a page whose the keys are over the canvas."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._page = page
        self._text = ""
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(80)
        self.show_owner("")

    def show_owner(self, drawn_in: str) -> None:
        """Say that the keys are napari's, while a layer of this name is drawn in; empty: they are the page's."""
        page, color = self._page, ui.CARE if drawn_in else ui.ACCENT
        self._text = f"⌨ Keys: {f'napari, drawing in {drawn_in}' if drawn_in else page}"
        self.setToolTip(
            f"You are drawing in {drawn_in}: over the image, keys are napari's. Here they are those of {page}."
            if drawn_in
            else f"Keys do what {page} says, here and over the image, as long as it is on the screen."
        )
        self.setStyleSheet(f"QLabel {{ border: 1px solid {color}; border-radius: 3px; padding: 1px 5px; }}")
        self.updateGeometry()
        self._fit()

    @property
    def words(self) -> str:
        """What it says, in full."""
        return self._text

    def sizeHint(self) -> QSize:
        return QSize(self.fontMetrics().horizontalAdvance(self._text) + 16, super().sizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        room = max(self.width() - 14, 20)
        self.setText(self.fontMetrics().elidedText(self._text, Qt.TextElideMode.ElideMiddle, room))


class StatusLine(QWidget):
    """A text that changes many times a second without moving what stands around it.

    A label in a layout has the whole dock laid out again at every change. That takes ten times as long while a job asks
    for the interpreter, too; so this one keeps its height until the text needs another number of lines.
    """

    def __init__(self) -> None:
        super().__init__()
        self._label = ui.label()
        self._label.setParent(self)

    def text(self) -> str:
        return str(self._label.text())

    def say(self, text: str) -> None:
        """Show a text."""
        self._label.setText(text)
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        height = self._label.heightForWidth(self.width())
        if height != self.height():
            self.setFixedHeight(height)
        self._label.setGeometry(0, 0, self.width(), height)


class TimeLeft:
    """How long a phase of a run will take yet, by how far it came since it began; by a clock in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: tuple[str, int] | None = None
        self._first, self._began = 0, 0.0

    def restart(self) -> None:
        """Count from now on, as after a pause."""
        self._of = None

    def after(self, event: Event) -> float | None:
        """Seconds; None where that cannot be said yet."""
        of = event.phase, event.total
        if of != self._of:
            self._of, self._first, self._began = of, event.done, self._clock()
        passed, done = self._clock() - self._began, event.done - self._first
        if not event.total or done <= 0 or passed < SURE_AFTER:
            return None
        return (event.total - event.done) * passed / done


def time_words(seconds: float) -> str:
    """A stretch of time in words, such as ``3 min``."""
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


class RunBar(QWidget):
    """Run, Cancel, a progress bar and what is being done; follows a runner.

    ``keep_question`` asks a person who stopped a run whether the changes that it had made stay, given their number.
    """

    run = Signal()
    stopped = Signal(bool)
    """A run was cancelled after it had made something: whether that stays."""

    def __init__(
        self,
        text: str,
        runner: JobRunner,
        tip: str = "",
        stop_tip: str = "Stop at the next step; nothing half-done is kept.",
        *,
        pausable: bool = False,
        keep_question: Callable[[int], bool] | None = None,
    ) -> None:
        super().__init__()
        self._runner = runner
        self._tip, self._keep_question, self._made = tip, keep_question, 0
        self._can_run, self._said = True, ""
        self._left = TimeLeft()
        self.run_button = ui.button(text, tip, self.run, primary=True)
        stop_tip = stop_tip if keep_question is None else STOP_AND_KEEP
        self.cancel_button = ui.button("Cancel", stop_tip, self._cancel)
        self.pause_button = ui.button("Pause", "Hold the run, for instance to give the computer to something else.")
        self.pause_button.clicked.connect(lambda: runner.pause(not runner.paused))
        self._pausable = pausable
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(6)
        self.status = StatusLine()
        buttons = ui.row(self.run_button, self.pause_button, self.cancel_button, stretch=0)
        self.setLayout(ui.column(buttons, self.bar, self.status, space=ui.SPACE // 2))
        runner.on(running_changed=self._on_running, paused_changed=self._on_paused)
        runner.on(progressed=self._on_event, cancelled=self._on_cancelled)
        self._on_running(runner.running)
        if runner.running and runner.said is not None:
            # The bar came later than the run: that may say nothing new for a while.
            self._on_event(runner.said)

    def allow(self, can_run: bool, why_not: str = "", *, said: str = "") -> None:
        """Whether Run can be pressed, what its tooltip says where it cannot, and of that what is ``said`` below it."""
        self._can_run = can_run
        self._said = "" if can_run else said
        if not self._runner.running:
            self._rest()
        self.run_button.setEnabled(can_run and not self._runner.running)
        self.run_button.setToolTip(self._tip if can_run else f"{self._tip}\n{why_not}".strip())

    def _cancel(self) -> None:
        self.cancel_button.setEnabled(False)
        self.pause_button.setEnabled(False)
        self.status.say("Stopping …")
        self._runner.cancel()

    def _on_cancelled(self) -> None:
        if self._made and self._keep_question is not None and not self._runner.discarded:
            self.stopped.emit(self._keep_question(self._made))

    def _on_running(self, running: bool) -> None:
        self.run_button.setEnabled(self._can_run and not running)
        self.cancel_button.setEnabled(running)
        self.cancel_button.setVisible(running)
        self.pause_button.setEnabled(running)
        self.pause_button.setVisible(running and self._pausable)
        self.pause_button.setText("Resume" if self._runner.paused else "Pause")
        self.bar.setVisible(running)
        self._made = 0 if running else self._made
        self.bar.setRange(0, 0)
        self.status.setVisible(running)
        self.status.say("Starting …")
        if not running:
            self._rest()

    def _rest(self) -> None:
        """While nothing runs, say what a person has to do before."""
        self.status.setVisible(bool(self._said))
        self.status.say(self._said)

    def _on_paused(self, paused: bool) -> None:
        self.pause_button.setText("Resume" if paused else "Pause")
        self._left.restart()
        self.status.say(f"Paused. {self.status.text()}" if paused else "Going on …")

    def _on_event(self, event: Event) -> None:
        self._made += len(event.made)
        if not self.cancel_button.isEnabled():
            return
        # A progress bar paints at once whatever it is told, and with it the whole window, canvas included.
        self.bar.setUpdatesEnabled(False)
        self.bar.setRange(0, event.total)
        self.bar.setValue(event.done)
        self.bar.setUpdatesEnabled(True)
        # The step that was under way when Pause was pressed still comes to its end.
        self.status.say(f"Paused. {self.words(event)}" if self._runner.paused else self.words(event))

    def words(self, event: Event) -> str:
        """What the line below the progress bar says."""
        if "step" in event.figures:
            seconds = event.figures.get("left", 0.0)
            rest = f"about {time_words(seconds)} left" if seconds >= 1 else "saving …"
            return f"{event.phase} · step {int(event.figures['step']):,} · {rest}"
        # Inpainting says its own counts, of nuclei and of steps.
        left = self._left.after(event)
        rest = f"about {time_words(left)} left" if left is not None and left >= 1 else "…"
        if not event.total or " of " in event.phase:
            return f"{event.phase} {rest}" if rest == "…" else f"{event.phase} · {rest}"
        return f"{event.phase}: {event.done:,} of {event.total:,} {'' if rest == '…' else '· '}{rest}"
