"""Small parts that the panels share: base panel, run bar, notes, crops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from napari.utils.notifications import show_warning
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import QRectF, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QImage, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_histomix.records import Event
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.layers import layer_book_of
from napari_histomix.widgets.session import Session, session_of, window_of

SPACE = 8
"""Pixels between things, and around them."""
ACCENT, GOOD, BAD, CARE = "#3d7eff", "#2ecc71", "#e74c3c", "#f39c12"
"""Colors that read well on napari's dark and light themes."""
STOP_AND_KEEP = "Stop at the next step; you are asked whether what is made so far stays."
PRIMARY = (
    f"QPushButton {{ background-color: {ACCENT}; color: white; font-weight: 600; padding: 6px; border-radius: 4px; }}"
    "QPushButton:hover { background-color: #5b93ff; }"
    "QPushButton:disabled { background-color: #7a808a; color: #d5d8dc; }"
)


DEVICES = (
    ("Automatic", "auto"),
    ("Processor (CPU)", "cpu"),
    ("NVIDIA graphics (CUDA)", "cuda"),
    ("Apple graphics (MPS)", "mps"),
)


class Panel(QWidget):
    """Base of the panels: the viewer, its session, its layers, one runner for long jobs.

    Parameters
    ----------
    napari_viewer : Viewer
    session : Session, optional
        The viewer's own by default.
    """

    running_changed = Signal(bool)

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__()
        self.viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.session = session or session_of(self.viewer)
        if self.session.parent() is None:
            self.session.setParent(self)
        self.book = layer_book_of(self.viewer, self.session)
        self.runner = JobRunner(self, window_of(self.viewer))
        self.runner.running_changed.connect(self.running_changed)
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(SPACE, SPACE, SPACE, SPACE)
        self.column.setSpacing(SPACE)
        self.setMinimumWidth(300)

    def scroll(self) -> QScrollArea:
        """Let the panel's column scroll where the dock is too low for it."""
        inner, area = QWidget(), QScrollArea()
        outer, self.column = self.column, QVBoxLayout(inner)
        outer.setContentsMargins(0, 0, 0, 0)
        self.column.setContentsMargins(SPACE, SPACE, SPACE, SPACE)
        self.column.setSpacing(SPACE)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(inner)
        outer.addWidget(area)
        return area

    def follow_pool(self) -> None:
        """Open the study with a segment pool that another dock of this viewer opens, or has opened."""
        self.session.pool_changed.connect(self._on_pool)
        if self.session.pool_folder is not None:
            QTimer.singleShot(0, lambda: self._on_pool(self.session.pool_folder, None))

    def _on_pool(self, folder: Any, by: Any) -> None:
        if by is not self and isalive(self) and folder is not None:
            self.open_study(folder)

    def complain(self, note: Note, sentence: str) -> None:
        """Show one sentence about a failure: in the panel, or as a notice where the panel is not to be seen."""
        note.say(sentence, "error")
        if not self.isVisible() and hasattr(self.viewer, "window"):
            show_warning(sentence)


class Note(QLabel):
    """A sentence for the person: plain, a warning or an error. Hidden while there is nothing to say."""

    COLORS: ClassVar = {"info": ACCENT, "good": GOOD, "warning": CARE, "error": BAD}

    def __init__(self, text: str = "", kind: str = "info") -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        self.kind = kind
        self.say(text, kind)

    def say(self, text: str, kind: str = "info") -> None:
        """Show a text; an empty one hides the note."""
        self.kind = kind
        self.setStyleSheet(f"QLabel {{ border-left: 3px solid {self.COLORS[kind]}; padding: 3px 0 3px 8px; }}")
        self.setText(text)
        self.setVisible(bool(text))


class RunBar(QWidget):
    """Run, Cancel, a progress bar and what is being done; follows a runner.

    Parameters
    ----------
    text : str
        On the Run button.
    runner : JobRunner
    tip, stop_tip : str
        What Run and Cancel do, as tooltips.
    pausable : bool
        Whether there is a Pause button too.
    keep_question : callable, optional
        Asks a person who stopped a run whether the changes that it had made stay, given their number (``ask_to_keep``).
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
        self._can_run = True
        self.run_button = QPushButton(text)
        self.run_button.setStyleSheet(PRIMARY)
        self.run_button.setToolTip(tip)
        self.run_button.clicked.connect(self.run)
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip(stop_tip if keep_question is None else STOP_AND_KEEP)
        self.cancel_button.clicked.connect(self._cancel)
        self.pause_button = QPushButton("Pause")
        self.pause_button.setToolTip("Hold the run, for instance to give the computer to something else.")
        self.pause_button.clicked.connect(lambda: runner.resume() if runner.paused else runner.pause())
        self._pausable = pausable
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(6)
        self.status = QLabel()
        self.status.setWordWrap(True)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button, 1)
        buttons.addWidget(self.pause_button)
        buttons.addWidget(self.cancel_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE // 2)
        column.addLayout(buttons)
        column.addWidget(self.bar)
        column.addWidget(self.status)
        runner.running_changed.connect(self._on_running)
        runner.paused_changed.connect(self._on_paused)
        runner.progressed.connect(self._on_event)
        runner.cancelled.connect(self._on_cancelled)
        self._on_running(False)

    def allow(self, can_run: bool, why_not: str = "") -> None:
        """Whether Run can be pressed, and what its tooltip says where it cannot."""
        self._can_run = can_run
        self.run_button.setEnabled(can_run and not self._runner.running)
        self.run_button.setToolTip(self._tip if can_run else f"{self._tip}\n{why_not}".strip())

    def _cancel(self) -> None:
        self.cancel_button.setEnabled(False)
        self.pause_button.setEnabled(False)
        self.status.setText("Stopping …")
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
        self.pause_button.setText("Pause")
        self.bar.setVisible(running)
        self.status.setVisible(running)
        self._made = 0 if running else self._made
        self.bar.setRange(0, 0)
        self.status.setText("Starting …")

    def _on_paused(self, paused: bool) -> None:
        self.pause_button.setText("Resume" if paused else "Pause")
        if paused:
            self.status.setText(f"Paused. {self.status.text()}")
        else:
            self.status.setText("Going on …")

    def _on_event(self, event: Event) -> None:
        self._made += len(event.made)
        if not self.cancel_button.isEnabled():
            return
        self.bar.setRange(0, event.total)
        self.bar.setValue(event.done)
        # The step that was under way when Pause was pressed still comes to its end.
        self.status.setText(f"Paused. {self.words(event)}" if self._runner.paused else self.words(event))

    def words(self, event: Event) -> str:
        """What the line below the progress bar says."""
        counted = f"{event.phase}: {event.done:,} of {event.total:,}" if event.total else event.phase
        # Inpainting says its own counts, of nuclei and of steps.
        return event.phase + " …" if " of " in event.phase else counted + " …"


def ask_to_keep(parent: QWidget) -> Callable[[int], bool]:
    """Ask, once a run was stopped, whether what it had made stays: a ``keep_question`` for ``RunBar``."""

    def ask(count: int) -> bool:
        box = QMessageBox(parent)
        box.setWindowTitle("Stopped")
        box.setText(f"{count:,} synthetic {'change is' if count == 1 else 'changes are'} made already.")
        box.setInformativeText("Keep what is made, to review it or to go on later, or discard it?")
        keep = box.addButton("Keep", QMessageBox.ButtonRole.AcceptRole)
        box.addButton("Discard", QMessageBox.ButtonRole.DestructiveRole)
        box.setDefaultButton(keep)
        box.setEscapeButton(keep)
        box.exec()
        return bool(box.clickedButton() is keep)

    return ask


class CropView(QFrame):
    """A piece of an image, magnified by a whole number and centered.

    Parameters
    ----------
    caption : str
    factor : int, optional
        Screen pixels for each image pixel; None fits the piece into the view.
    """

    def __init__(self, caption: str = "", factor: int | None = None) -> None:
        super().__init__()
        self.caption = caption
        self.factor = factor
        self.smooth = False
        self.frame_color = ""
        self._image: QImage | None = None
        self._bytes: NDArray[np.uint8] | None = None
        self.setMinimumSize(120, 120)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    @property
    def pixels(self) -> NDArray[np.uint8] | None:
        """What is shown, (H, W, 3) uint8."""
        return self._bytes

    def show_pixels(self, pixels: NDArray[np.uint8] | None, caption: str | None = None, frame: str = "") -> None:
        """Show an (H, W, 3) uint8 RGB array, or nothing; ``frame`` is the color of a border around it."""
        self.frame_color = frame
        if caption is not None:
            self.caption = caption
        if pixels is None:
            self._image = self._bytes = None
        else:
            self._bytes = np.ascontiguousarray(pixels)
            height, width = pixels.shape[:2]
            self._image = QImage(self._bytes.data, width, height, 3 * width, QImage.Format.Format_RGB888)
        self.update()

    def sizeHint(self) -> QSize:
        """A square."""
        return QSize(190, 190)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the piece, its frame and its caption."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(30, 32, 36))
        if self._image is not None:
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, self.smooth)
            fit = min(self.width() / self._image.width(), self.height() / self._image.height())
            factor = float(self.factor) if self.factor else max(fit, 0.1)
            width, height = self._image.width() * factor, self._image.height() * factor
            x, y = (self.width() - width) / 2, (self.height() - height) / 2
            painter.drawImage(QRectF(x, y, width, height), self._image)
        if self.frame_color:
            painter.setPen(QPen(QColor(self.frame_color), 4))
            painter.drawRect(self.rect().adjusted(2, 2, -2, -2))
        if self.caption:
            metrics = painter.fontMetrics()
            text = metrics.elidedText(self.caption, Qt.TextElideMode.ElideRight, self.width() - 12)
            strip = metrics.boundingRect(text).adjusted(-4, -2, 4, 2)
            strip.moveTopLeft(self.rect().topLeft())
            painter.fillRect(strip, QColor(20, 22, 26, 190))
            painter.setPen(QColor("white"))
            painter.drawText(strip, Qt.AlignmentFlag.AlignCenter, text)
        painter.end()


def form() -> QFormLayout:
    """A form with the panels' spacing."""
    layout = QFormLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(SPACE - 2)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    layout.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
    return layout


def narrow(box: QComboBox) -> None:
    """Let a choice be narrower than its longest text."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(12)


def heading(text: str) -> QLabel:
    """A small heading within a panel."""
    label = QLabel(text)
    label.setStyleSheet("QLabel { font-weight: 600; padding-top: 4px; }")
    return label


def hint(text: str) -> QLabel:
    """A quiet explanation."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setStyleSheet("QLabel { font-style: italic; }")
    return label


def row(*widgets: QWidget, stretch: int | None = None) -> QHBoxLayout:
    """Widgets side by side; ``stretch`` is the index of the one that takes the room."""
    layout = QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(SPACE - 2)
    for index, widget in enumerate(widgets):
        layout.addWidget(widget, 1 if index == stretch else 0)
    return layout
