"""One crop of a reader test after the other: four answers, Back, Pause, and the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QProgressBar, QPushButton, QWidget

from napari_histomix.evaluation.reader_test.reading import ANSWER_WORDS, Reading
from napari_histomix.records import HistomixError
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, PanelKeys
from napari_histomix.widgets.reading_canvas import CanvasCrop

COLORS = {1: "#1f6f9f", 2: "#4d86a5", 3: "#b07a3c", 4: "#b85c1e"}
"""Of the four buttons: blue is real, amber synthetic, the surer the stronger."""
LOOK = "← The crop is on the canvas; come closer with the wheel. Arrowheads beside it point at what is asked about."
COVER_HEIGHT = 150
"""Screen pixels of the sentence that stands for a crop."""


class ReadingPage(QWidget):
    """A reader's way through a test. Nothing on it depends on the truth, which it does not know."""

    left = Signal()
    """The reader stops for now, or is done."""

    def __init__(self, panel: Panel) -> None:
        super().__init__()
        self.panel = panel
        self.reading: Reading | None = None
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._build()
        actions: dict[str, Callable[[], None]] = {str(answer): partial(self.answer, answer) for answer in ANSWER_WORDS}
        actions |= {"U": self.back, "P": self.pause_or_go_on}
        self.keys = PanelKeys(self, panel.viewer, actions)
        self.top.insertWidget(0, self.keys.badge("Reader test"))

    def _build(self) -> None:
        self.counter = ui.label(wrap=False, plain=True, style="font-weight: 600;")
        self.kind = ui.label(wrap=False, plain=True, right=True)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(6)
        self.crop = CanvasCrop(self.panel.viewer, self.pause)
        self.cover = ui.label(plain=True, style="font-size: 13pt;")
        self.cover.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.cover.setMinimumHeight(COVER_HEIGHT)
        self.question = ui.label(plain=True)
        self.question.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.buttons: dict[int, QPushButton] = {}
        for answer, words in ANSWER_WORDS.items():
            self.buttons[answer] = ui.button(
                f"{words.capitalize().replace(' ', chr(10))}\n({answer})",
                f"{words.capitalize()}: key {answer}.",
                lambda _checked=False, answer=answer: self.answer(answer),
            )
            self.buttons[answer].setStyleSheet(
                f"QPushButton {{ background-color: {COLORS[answer]}; color: white; font-weight: 600;"
                " padding: 7px 2px; border-radius: 4px; }"
                "QPushButton:disabled { background-color: #555b66; color: #9aa0aa; }"
            )
        self.back_button = ui.button(
            "Back (U)", "Return to the crop before, to change its answer; one step.", self.back
        )
        self.pause_button = ui.button("Pause (P)", "Cover the crop and stop the clock.", self.pause_or_go_on)
        self.stop_button = ui.button("Stop for now", "Leave the test; it goes on where you left it.", self.left)
        moves = (self.back_button, self.pause_button, self.stop_button)
        for pressable in (*self.buttons.values(), *moves):
            # The keys stay with the page.
            pressable.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.answers = ui.box(ui.even_row(*self.buttons.values()))
        self.note = ui.Note()
        self.top = ui.row()
        self.top.addStretch(1)
        self.setLayout(
            ui.column(
                self.top,
                ui.row(self.counter, self.kind, stretch=1),
                self.bar,
                self.cover,
                self.question,
                self.answers,
                ui.even_row(*moves),
                self.note,
            )
        )
        self.layout().addStretch(1)

    # Going through the test.

    def begin(self, reading: Reading) -> None:
        """Take a reading up where it was left."""
        self.reading = reading
        self.note.say("")
        self.bar.setMaximum(len(reading.test))
        self.question.setText(reading.test.question)
        if not reading.finished:
            self._do(reading.resume)
        self._show()
        self.setFocus()

    def end(self) -> None:
        """Let go of the reading; the clock stops, and everything is on disk."""
        reading, self.reading = self.reading, None
        self.keys.release()
        self.crop.close()
        self.cover.setText("")
        if reading is not None:
            self._do(reading.close)

    def answer(self, answer: int) -> None:
        reading = self.reading
        if reading is None or not reading.running:
            return
        self._do(lambda: reading.answer(answer))
        self._show()

    def back(self) -> None:
        reading = self.reading
        if reading is not None and reading.can_go_back and (reading.running or reading.finished):
            self._do(reading.back)
            self._show()

    def pause_or_go_on(self) -> None:
        reading = self.reading
        if reading is not None and not reading.finished:
            self._do(reading.pause if reading.running else reading.resume)
            self._show()

    def pause(self) -> None:
        """Stop the clock and cover the crop."""
        if self.reading is not None and self.reading.running:
            self.pause_or_go_on()

    def _do(self, action: Callable[[], None]) -> None:
        try:
            action()
        except HistomixError as error:
            self.panel.complain(self.note, str(error))
        else:
            self.note.say("")

    # Showing.

    def _show(self) -> None:
        reading = self.reading
        if reading is None:
            return
        total, asked = len(reading.test), reading.asked
        self.bar.setValue(reading.answered)
        running = reading.running and asked is not None and reading.pixels is not None
        for answer_button in self.buttons.values():
            answer_button.setEnabled(running)
        self.back_button.setEnabled(reading.can_go_back and (running or reading.finished))
        for widget in (self.question, self.answers, self.pause_button):
            widget.setVisible(not reading.finished)
        self.pause_button.setText("Pause (P)" if running else "Go on (P)")
        self.pause_button.setStyleSheet("" if running else ui.PRIMARY)
        self.stop_button.setText("Done" if reading.finished else "Stop for now")
        self.stop_button.setStyleSheet(ui.PRIMARY if reading.finished else "")
        if reading.finished:
            self.counter.setText(f"{total} of {total}")
            self.kind.setText("")
            self._show_cover(f"Thank you, {reading.reader}.\n\nAll {total} crops are answered.")
            return
        assert asked is not None
        self.counter.setText(f"{reading.place} of {total}")
        self.kind.setText(asked.kind)
        if running:
            assert reading.pixels is not None
            self.crop.show(reading.pixels, asked.mark)
            self.cover.setText(LOOK)
        else:
            self._show_cover(
                f"Paused.\n\n{reading.answered} of {total} crops are answered. The clock stands still and the crop is "
                "covered until you go on."
            )

    def _show_cover(self, text: str) -> None:
        self.crop.cover()
        self.cover.setText(text)

    def set_active(self, active: bool) -> None:
        """Take the keys while the dock is shown; pause while it is hidden, since nobody reads what cannot be seen."""
        if active and self.reading is not None:
            self.keys.bind()
        else:
            self.keys.release()
        if not active:
            self.pause()
