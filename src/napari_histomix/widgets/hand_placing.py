"""Places candidates by hand: dots that are dragged over the canvas, and clicks on it while a button is down."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from napari_histomix.records import Candidate, HistomixError
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import PanelKeys
from napari_histomix.widgets.camera import camera_of, canvas_size
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.layers import LayerBook
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer_layers import CLICK_TOLERANCE, VIEWING_MODES

HOW = "Click where a nucleus is to lie; drag a candidate to move it. Escape or the button ends it."
DRAGGED = "Let it go where the nucleus is to lie; Escape, or outside of the image, puts it back."
CURSOR = "crosshair"


class HandPlacing(QObject):
    """A button, a note, and what drags over the image mean, and clicks while the button is down."""

    placed = Signal(object)
    """Rank of a candidate that was placed or moved, or was there already; it is kept now."""

    def __init__(self, panel: QWidget, viewer: Any, session: Session, book: LayerBook) -> None:
        super().__init__(panel)
        self.viewer, self.session, self.book = viewer, session, book
        tip = (
            "Then click on the image: a nucleus of a major class is replaced, on free tissue a new one is placed; its "
            "donor is chosen as the search chooses. A candidate's point can be dragged elsewhere at any time. Undo "
            "takes it back."
        )
        self.button = ui.button("Place a nucleus", tip, checkable=True)
        self.button.toggled.connect(self._on_toggled)
        self.note = ui.Note()
        self.runner = JobRunner(self).on(finished=self._on_placed, failed=self._on_failed, cancelled=self._next)
        self._waiting: deque[tuple[str, float, float, Candidate | None]] = deque()
        self._moved: Candidate | None = None
        self._held: int | None = None
        """Rank of the candidate that is being dragged."""
        self._escape = PanelKeys(panel, viewer, {"Escape": self._on_escape})
        this = weakref.ref(self)

        def on_drag(viewer: Any, event: Any) -> Generator[None, None, None]:
            placing = this()
            if placing is not None:
                yield from placing._dragged(event)

        # The viewer keeps this function: it must not keep the panel too.
        self._on_drag = on_drag
        for signal in (session.dataset_changed, session.study_changed):
            signal.connect(self._forget)

    @property
    def armed(self) -> bool:
        """Whether a click on the image places a nucleus."""
        return bool(self.button.isChecked())

    def bind(self) -> None:
        """Show candidates and let them be dragged; to be called when the panel is shown, with nothing armed."""
        self.book.show_dots(True)
        if self._on_drag not in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.append(self._on_drag)

    def release(self) -> None:
        """End it; to be called when the panel is hidden or closed."""
        self.end()
        self.let_go()
        self.book.show_dots(False)
        if self._on_drag in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._on_drag)

    def end(self) -> None:
        """Clicks mean what they meant before."""
        self.button.setChecked(False)

    def let_go(self) -> None:
        """Put the candidate that is being dragged back where it was."""
        if self._held is not None:
            self._held = None
            self.book.dots.put_back()
            self.note.say(HOW if self.armed else "")

    def _on_escape(self) -> None:
        if self._held is not None:
            self.let_go()
        else:
            self.end()

    def _on_toggled(self, armed: bool) -> None:
        layers = self.viewer.layers
        if armed:
            if layers.selection.active is not None and str(layers.selection.active.mode) not in VIEWING_MODES:
                # Who presses the button wants to place, no longer to draw.
                layers.selection.active.mode = "pan_zoom"
            self._escape.bind()
            layers.selection.events.active.connect(self._point)
            self.note.say(HOW)
        else:
            self._escape.release()
            layers.selection.events.active.disconnect(self._point)
            self.note.say("")
        self._point()

    def _point(self, event: Any = None) -> None:
        """Show the cursor that tells what a click does."""
        active = self.viewer.layers.selection.active
        usual = active.cursor if active is not None else "standard"
        self.viewer.cursor.style = CURSOR if self.armed else usual

    def _dragged(self, event: Any) -> Generator[None, None, None]:
        active = self.viewer.layers.selection.active
        if event.button != 1 or event.modifiers or (active is not None and str(active.mode) not in VIEWING_MODES):
            return
        start, rank = np.array(event.pos, float), self.book.dots.at(event.position)
        if not self.button.isEnabled() or (rank is None and not self.armed):
            return
        camera, moved = camera_of(self.viewer), 0.0
        pans = camera.mouse_pan
        if rank is not None:
            # The candidate moves, not the image.
            camera.mouse_pan = False
            self._held = rank
            self._escape.bind()
        try:
            yield
            while event.type == "mouse_move":
                moved = max(moved, float(np.abs(np.array(event.pos) - start).max()))
                if self._held is not None and moved > CLICK_TOLERANCE:
                    self.book.dots.move(self._held, event.position)
                    self.note.say(DRAGGED)
                yield
        finally:
            camera.mouse_pan = pans
            held, self._held = self._held, None
            if not self.armed:
                self._escape.release()
        candidates = self.session.candidates
        if rank is None and moved <= CLICK_TOLERANCE:
            self.place(event.position)
        elif held is not None and moved > CLICK_TOLERANCE and candidates is not None:
            if self._inside(event):
                self.place(event.position, candidates.items[held])
            else:
                self._held = held
                self.let_go()

    def _inside(self, event: Any) -> bool:
        """Whether a mouse event lies on the canvas and on the image."""
        layer, size = self.book.layer(self.session.image, "image"), canvas_size(self.viewer)
        place = None if layer is None else layer.world_to_data(event.position)[-2:]
        on_image = place is not None and all(0 <= at < end for at, end in zip(place, layer.data.shape, strict=False))
        return on_image and all(0 <= at < end for at, end in zip(event.pos, size[::-1], strict=True))

    def place(self, point: Any, moved: Candidate | None = None) -> None:
        """Place a candidate at a point of the viewer (world coordinates), or move one there."""
        name = self.session.image
        layer = self.book.layer(name, "image")
        if layer is None or name not in self.session.images:
            self._on_failed("Show a real image first: a nucleus is placed in one.")
            return
        row, col = (float(place) for place in layer.world_to_data(point)[-2:])
        self._waiting.append((name, row, col, moved))
        self._next()

    def _next(self) -> None:
        if self.runner.running or not self._waiting:
            return
        *place, self._moved = self._waiting.popleft()
        make: Callable[[], Any]
        try:
            make = self.session.place_job(*place, self._moved)
        except HistomixError as error:
            self._on_failed(str(error))
            return
        self.note.say("Choosing a donor …")
        self.runner.start(make, "placing a nucleus")

    def _on_placed(self, result: Any) -> None:
        placed, candidates = result
        self.session.take_placed(placed, candidates, self._moved)
        self.note.say(f"Candidate {placed.rank + 1:,} is kept. {HOW}" if self.armed else "", "good")
        self.placed.emit(placed.rank)
        self._next()

    def _on_failed(self, sentence: str) -> None:
        self.note.say(sentence, "warning")
        self.book.dots.put_back()
        self._next()

    def _forget(self) -> None:
        """Place nothing of before in other data, or in another study: its ranks are those of others there."""
        self._waiting.clear()
        self.runner.discard()
        self.end()
        self.note.say("")
