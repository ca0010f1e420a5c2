"""A person who does anything at all in a real window: random clicks, keys, drags, drops, deletions; and what must hold.

``Person`` acts, ``DecisionLedger`` knows what must have been decided, ``Watch`` sees what goes wrong and how long the
window stands still. Everything follows from a seed, but for what jobs in other threads do meanwhile.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import numpy as np
from decision_ledger import DecisionLedger
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QMimeData, QPoint, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDesktopServices, QDropEvent, QWheelEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QDialog,
    QFileDialog,
    QLineEdit,
    QMessageBox,
    QTabBar,
    QWidget,
)

import napari_histomix
from napari_histomix.widgets.jobs import JobRunner

STALL = 0.15
"""Seconds for which the program may hold the window."""
OURS = str(Path(napari_histomix.__file__ or "").parent)
KEYS = "ARKDUYZ1234JEIGNVBWFOMXQSTCHLP?+-="
NAMES = ("Left", "Right", "Up", "Down", "Home", "End", "Return", "Escape", "Tab", "Space")
NAMED_KEYS = [getattr(Qt.Key, f"Key_{name}") for name in NAMES]
LEFT, NONE = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
CONTROL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier


def turn() -> None:
    """A turn of the event loop: outside of one, Qt keeps all that is to be deleted, as it does not for a person."""
    QApplication.processEvents()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


class Watch:
    """Exceptions wherever they are raised, warnings of Qt about threads, stalls and who caused them, and memory."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.others: list[str] = []
        self.stalls: list[tuple[float, float, str, str]] = []
        """Seconds by the clock, seconds the main thread worked, what was done, where our code was most often."""
        self.memory: list[int] = []
        self.doing = ""
        self._beat, self._worked = time.monotonic(), time.thread_time()
        self._frames: Counter[str] = Counter()

    def beat(self) -> None:
        """Say that the main thread is free; what happened since the last time is a stall where it was long."""
        now, worked = time.monotonic(), time.thread_time()
        passed = now - self._beat
        # The signal may come at any time: it counts in those of the next beat.
        frames, self._frames = self._frames, Counter()
        if passed > STALL:
            where = frames.most_common(1)[0][0] if frames else ""
            self.stalls.append((passed, worked - self._worked, self.doing, where))
        self._beat, self._worked = now, worked

    def _sample(self, _signal: int, frame: FrameType | None) -> None:
        # By a signal: another thread may look at the frames of this one only while it stands still.
        if time.monotonic() - self._beat > STALL / 2:
            ours = []
            while frame is not None:
                code = frame.f_code
                if OURS in code.co_filename:
                    ours.append(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
                frame = frame.f_back
            self._frames[" < ".join(ours[:3])] += 1

    def fail(self, kind: Any, error: Any, trace: Any) -> None:
        """Note an error: ours, where our code had a part in it, or one that napari has without us."""
        said = f"{self.doing}: {''.join(traceback.format_exception(kind, error, trace))}"
        # Filters of ours lie around all that happens in the window.
        codes = (frame.f_code for frame, _ in traceback.walk_tb(trace) if frame.f_code.co_name != "eventFilter")
        ours = any(code.co_filename.startswith(OURS) for code in codes)
        (self.errors if ours else self.others).append(said)

    @contextmanager
    def watching(self) -> Iterator[None]:
        from napari.utils.notifications import notification_manager

        def noticed(notification: Any) -> None:
            if (error := getattr(notification, "exception", None)) is not None:
                self.fail(type(error), error, error.__traceback__)

        def unraisable(caught: Any) -> None:
            if not isinstance(caught.exc_value, (SystemExit, ResourceWarning)):
                self.fail(caught.exc_type, caught.exc_value, caught.exc_traceback)

        sampled = hasattr(signal, "setitimer")
        if sampled:
            before = signal.signal(signal.SIGALRM, self._sample)
            signal.setitimer(signal.ITIMER_REAL, 0.03, 0.03)
        notification_manager.notification_ready.connect(noticed)
        with (
            patch.object(sys, "excepthook", self.fail),
            patch.object(sys, "unraisablehook", unraisable),
            patch.object(threading, "excepthook", lambda caught: self.fail(*caught[:3])),
        ):
            try:
                yield
            finally:
                if sampled:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    signal.signal(signal.SIGALRM, before)
                notification_manager.notification_ready.disconnect(noticed)

    def weigh(self) -> None:
        """Note the memory in use, in MiB; what that takes is no stall."""
        gc.collect()
        self._beat, self._worked = time.monotonic(), time.thread_time()
        pages = Path("/proc/self/statm")
        used = int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0
        self.memory.append((used or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) >> 20)


class Person:
    """Does one random thing after the other in the window of a dock, given paths to open and to drop."""

    def __init__(self, dock: Any, seed: int, paths: list[Path], watch: Watch) -> None:
        self.dock, self.viewer, self.watch, self.paths = dock, dock.real_viewer, watch, paths
        self.random = random.Random(seed)
        self.window = self.viewer.window._qt_window
        # A small canvas: drawn without a graphics card, it would take most of the time.
        self.window.resize(900, 600)
        self.canvas = self.viewer.window._qt_viewer.canvas.native
        self.log: deque[str] = deque(maxlen=40)
        acts: dict[Callable[[], str], int] = {
            self.press_button: 26,
            self.press_key: 22,
            self.press_key_on_canvas: 8,
            self.drag_on_canvas: 6,
            self.click_on_canvas: 6,
            self.turn_wheel: 3,
            self.turn_page: 5,
            self.change_field: 10,
            self.click_in_list: 7,
            self.drop: 1,
            self.meddle_with_layers: 6,
            self.undo_in_layer: 2,
            self.press_button_of_napari: 3,
            self.resize: 1,
            self.wait: 3,
        }
        self._acts, self._weights = list(acts), list(acts.values())
        self._closer = QTimer()
        self._closer.setInterval(20)
        self._closer.timeout.connect(self._close_dialogs)
        self._ticks = QTimer()
        self._ticks.setInterval(10)
        self._ticks.timeout.connect(watch.beat)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Answer what dialogs ask, in some way or other."""

        def some(*_: object, **__: object) -> str:
            return str(self.random.choice([*self.paths, ""]))

        with ExitStack() as stack:
            for name, answer in (
                ("getExistingDirectory", some),
                ("getOpenFileName", lambda *_, **__: (some(), "")),
                ("getSaveFileName", lambda *_, **__: ("", "")),
            ):
                stack.enter_context(patch.object(QFileDialog, name, staticmethod(answer)))
            stack.enter_context(patch.object(QDesktopServices, "openUrl", staticmethod(lambda _url: True)))
            self._closer.start()
            self._ticks.start()
            try:
                yield
            finally:
                self._closer.stop()
                self._ticks.stop()

    def act(self) -> None:
        """Do something, and let the window answer."""
        (do,) = self.random.choices(self._acts, self._weights)
        self.watch.doing = do.__name__
        self.watch.beat()
        said = do.__name__
        try:
            said = f"{said} {do()}"
        except Exception as error:
            self.watch.fail(type(error), error, error.__traceback__)
        self.log.append(said)
        self.watch.doing = said
        self.watch.beat()
        turn()
        self.watch.beat()

    def _close_dialogs(self) -> None:
        popup, modal = QApplication.activePopupWidget(), QApplication.activeModalWidget()
        if popup is not None:
            popup.close()
        elif isinstance(modal, QMessageBox):
            self.random.choice(modal.buttons()).click()
        elif isinstance(modal, QDialog):
            modal.reject()

    def _seen(self, kind: type) -> list[Any]:
        """Widgets of the dock of a kind that can be used now, in the order of their making."""
        found = self.dock.findChildren(kind)
        return [one for one in found if one.isVisible() and one.isEnabled() and one.width() > 4 and one.height() > 4]

    def _one(self, kind: type) -> Any:
        seen = self._seen(kind)
        return self.random.choice(seen) if seen else None

    def _at(self, widget: QWidget) -> QPoint:
        return QPoint(self.random.randrange(widget.width()), self.random.randrange(widget.height()))

    def press_button(self) -> str:
        found = self._one(QAbstractButton)
        if found is None:
            return "nothing"
        said = found.text() or found.toolTip()
        QTest.mouseClick(found, LEFT, NONE, found.rect().center())
        return str(said)

    def _key(self, widget: QWidget) -> str:
        modifier = self.random.choices([NONE, CONTROL, SHIFT, CONTROL | SHIFT], [20, 1, 2, 1])[0]
        if modifier & CONTROL:
            key = Qt.Key.Key_Z
        elif self.random.random() < 0.35:
            key = self.random.choice(NAMED_KEYS)
        else:
            key = self.random.choice(KEYS)
        QTest.keyClick(widget, key, modifier)
        return f"{key} {modifier}"

    def press_key(self) -> str:
        focus = QApplication.focusWidget()
        inside = focus is not None and (focus is self.dock or self.dock.isAncestorOf(focus))
        return self._key(focus if inside else self.dock.stack.currentWidget())

    def press_key_on_canvas(self) -> str:
        return self._key(self.canvas)

    def click_on_canvas(self) -> str:
        place = self._at(self.canvas)
        press = self.random.choice([QTest.mouseClick, QTest.mouseClick, QTest.mouseDClick])
        press(self.canvas, LEFT, self.random.choice([NONE, NONE, SHIFT, CONTROL]), place)
        return f"{place.x()}, {place.y()}"

    def drag_on_canvas(self) -> str:
        begin, end = self._at(self.canvas), self._at(self.canvas)
        QTest.mousePress(self.canvas, LEFT, NONE, begin)
        for share in (0.3, 0.6, 1.0):
            QTest.mouseMove(self.canvas, begin + (end - begin) * share)
        QTest.mouseRelease(self.canvas, LEFT, NONE, end)
        return f"to {end.x()}, {end.y()}"

    def turn_wheel(self) -> str:
        where = self.random.choice([self.canvas, self.dock.stack.currentWidget()])
        place = QPointF(self._at(where))
        turn = QPoint(0, self.random.choice([-120, 120]))
        no_button, phase = Qt.MouseButton.NoButton, Qt.ScrollPhase.NoScrollPhase
        on_screen = QPointF(where.mapToGlobal(place.toPoint()))
        event = QWheelEvent(place, on_screen, turn, turn, no_button, NONE, phase, False)
        QApplication.sendEvent(where, event)
        return type(where).__name__

    def turn_page(self) -> str:
        if self.random.random() < 0.5 or (bar := self._one(QTabBar)) is None:
            button = self.random.choice(list(self.dock.buttons.values()))
            QTest.mouseClick(button, LEFT, NONE, button.rect().center())
            return str(button.title)
        at = self.random.randrange(bar.count())
        QTest.mouseClick(bar, LEFT, NONE, bar.tabRect(at).center())
        return str(bar.tabText(at))

    def change_field(self) -> str:
        kind = self.random.choice([QComboBox, QAbstractSpinBox, QLineEdit, QAbstractSlider])
        found = self._one(kind)
        if found is None:
            return "nothing"
        found.setFocus()
        if kind is QLineEdit:
            QTest.keyClicks(found, self.random.choice(["tumor", "a", "-1", "  ", "../a", "0.5"]))
            QTest.keyClick(found, self.random.choice([Qt.Key.Key_Return, Qt.Key.Key_Escape, Qt.Key.Key_Backspace]))
        else:
            for _ in range(self.random.randint(1, 3)):
                QTest.keyClick(found, self.random.choice([Qt.Key.Key_Up, Qt.Key.Key_Down]))
        return f"{type(found).__name__} {found.toolTip()[:40]}"

    def click_in_list(self) -> str:
        views = [one for one in self._seen(QAbstractItemView) if one.model() is not None and one.model().rowCount()]
        if not views:
            return "nothing"
        view = self.random.choice(views)
        press = self.random.choice([QTest.mouseClick, QTest.mouseClick, QTest.mouseDClick])
        press(view.viewport(), LEFT, self.random.choice([NONE, SHIFT, CONTROL]), self._at(view.viewport()))
        return type(view).__name__

    def drop(self) -> str:
        path = self.random.choice(self.paths)
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(path))])
        place = QPointF(self._at(self.canvas))
        event = QDropEvent(place, Qt.DropAction.CopyAction, data, LEFT, NONE)
        self.viewer.window._qt_viewer.dropEvent(event)
        return path.name

    def meddle_with_layers(self) -> str:
        layers = self.viewer.layers
        what = self.random.choice(["delete", "delete", "rename", "hide", "move", "select", "select", "mode", "add"])
        if what == "add" or not len(layers):
            pixels = np.full((60, 60), 3, int)
            add = [self.viewer.add_labels, self.viewer.add_shapes, self.viewer.add_points]
            number = self.random.randrange(3)
            if len(layers) < 25:
                add[number](*([pixels] if number == 0 else []))
            return "add"
        layer = self.random.choice(list(layers))
        if what == "delete":
            layers.remove(layer)
        elif what == "rename":
            layer.name = f"mine {self.random.randrange(9)}"
        elif what == "hide":
            layer.visible = not layer.visible
        elif what == "move":
            layers.move(layers.index(layer), self.random.randrange(len(layers)))
        else:
            layers.selection.active = layer
            if what == "mode" and hasattr(type(layer), "mode") and layer.visible:
                kind = type(layer).__name__
                modes = {"Labels": ["paint", "erase", "fill", "pick"], "Points": ["add", "select"]}.get(kind, [])
                layer.mode = self.random.choice([*modes, "pan_zoom"])
        return f"{what} {layer.name}"

    def undo_in_layer(self) -> str:
        layer = self.viewer.layers.selection.active
        if hasattr(layer, "undo"):
            self.random.choice([layer.undo, layer.redo])()
            return str(layer.name)
        return "nothing"

    def press_button_of_napari(self) -> str:
        """Another view (three dimensions, axes swapped, a grid of layers), a new layer, or one less."""
        shown = self.viewer.window._qt_viewer
        boxes, console = (shown.viewerButtons, shown.layerButtons), shown.viewerButtons.consoleButton
        buttons = [button for box in boxes for button in box.findChildren(QAbstractButton) if button.isEnabled()]
        button = self.random.choice([button for button in buttons if button is not console])
        if len(self.viewer.layers) < 25 or "new" not in str(button.property("mode")):
            QTest.mouseClick(button, LEFT, NONE, button.rect().center())
        return str(button.property("mode"))

    def resize(self) -> str:
        if self.random.random() < 0.1:
            self.viewer.theme = self.random.choice(["dark", "light"])
            return str(self.viewer.theme)
        self.window.resize(self.random.randint(800, 1366), self.random.randint(500, 768))
        return f"{self.window.width()} x {self.window.height()}"

    def wait(self) -> str:
        end = time.monotonic() + self.random.random() * 0.3
        while time.monotonic() < end:
            turn()
            time.sleep(0.005)
        return ""


def act_at_random(dock: Any, seed: int, events: int, paths: list[Path], told: Callable[[str], None] = print) -> Watch:
    """Let a person act at random; raises AssertionError where an error was raised, or a decision lost or wrong."""
    watch, ledger = Watch(), DecisionLedger()
    person = Person(dock, seed, paths, watch)
    with watch.watching(), ledger.following(), person.acting():
        for number in range(events):
            person.act()
            assert isalive(dock), f"the dock went, seed {seed}, after {list(person.log)}"
            if number % 50 == 0:
                ledger.compare(dock.session)
            if number % max(events // 20, 1) == 0:
                watch.weigh()
                told(f"seed {seed}: {number:,} events, {watch.memory[-1]:,} MiB, {len(watch.errors)} errors")
            if watch.errors or ledger.wrong:
                break
        runners = person.window.findChildren(JobRunner)
        for runner in runners:
            runner.cancel()
        while any(isalive(runner) and runner.busy for runner in runners):
            # Questions whether what was made stays are answered, too.
            turn()
            time.sleep(0.01)
        ledger.compare(dock.session)
        watch.weigh()
    assert not ledger.wrong, f"seed {seed}: {ledger.wrong[0]}; after {list(person.log)[-8:]}"
    assert not watch.errors, f"seed {seed}: {watch.errors[0]}\nafter {list(person.log)[-8:]}"
    return watch
