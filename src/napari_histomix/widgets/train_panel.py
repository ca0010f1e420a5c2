"""A dock of its own: train a network on one's own tissue, look at how it learns, and use it for synthesis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import QSize, Qt, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_histomix.records import Event
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.elements import CropView, Note, hint, row
from napari_histomix.widgets.jobs import prepare_units, warm_networks
from napari_histomix.widgets.loss_plot import LossPlot
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.tissue import TissueSource
from napari_histomix.widgets.training_form import TrainingForm, first_rows, read_history, run_words, training_job

LABELS = 84
"""Pixels for the labels of both forms."""
COLUMNS = {
    "inpainter": ("Real", "Hidden", "Painted"),
    "autoencoder": ("Real", "Rebuilt"),
    "latent": ("Real", "Hidden", "Painted"),
}
"""What stands side by side in the samples of each network."""


class TrainBar(RunBar):
    """Run, Pause and Stop; says step, loss and the time that is left."""

    def __init__(self, runner: Any) -> None:
        super().__init__("Run", runner, pausable=True)
        self.cancel_button.setText("Stop")
        for button in (self.pause_button, self.cancel_button):
            button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.cancel_button.setToolTip("End the run now. The best network so far is kept, and the run can be resumed.")

    def _on_running(self, running: bool) -> None:
        super()._on_running(running)
        self.run_button.setVisible(not running)

    def words(self, event: Event) -> str:
        """Loss, step, and minutes left."""
        if "step" not in event.figures:
            return f"{event.phase} …"
        left = event.total - event.done
        time = f"{(left + 30) // 60} min left" if left >= 90 else f"{left} s left" if left > 0 else "saving …"
        return f"{event.phase} · step {int(event.figures['step']):,} · {time}"


class SampleView(CropView):
    """A contact sheet, as high as its width asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = True
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.setMinimumSize(120, 40)

    def hasHeightForWidth(self) -> bool:
        """Always."""
        return True

    def heightForWidth(self, width: int) -> int:
        """That of the sheet at this width."""
        return round(width * self.pixels.shape[0] / self.pixels.shape[1]) if self.pixels is not None else 40

    def sizeHint(self) -> QSize:
        """At the dock's usual width."""
        return QSize(320, self.heightForWidth(320))


class TrainPanel(Panel):
    """What to learn from, which network, the run as it goes, and what came of it."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        prepare_units()
        super().__init__(napari_viewer, session)
        self._out: Path | None = None
        self._kind = "inpainter"
        self._messages: list[str] = []
        self.area = self.scroll()
        self.tissue = TissueSource(self.viewer)
        self.form = TrainingForm(self.session.home / "models")
        for part in (self.tissue, self.form):
            self.column.addWidget(part)
            part.changed.connect(self._update)
            align(part.details)
        self.summary = QLabel()
        self.summary.setWordWrap(True)
        self.column.addWidget(self.summary)
        self.progress = TrainBar(self.runner)
        self.progress.run.connect(self.run)
        self.column.addWidget(self.progress)
        self.why = hint("")
        self.why.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        self.column.addWidget(self.why)
        self.resume_button = QPushButton()
        self.resume_button.setToolTip("Go on where the run was left; choose the same images and network as then.")
        self.resume_button.clicked.connect(self.resume)
        self.column.addWidget(self.resume_button)
        self.note = Note()
        self.column.addWidget(self.note)
        self._build_result()
        self._build_look()
        self.column.addStretch(1)
        self.runner.progressed.connect(self._on_event)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._on_failed)
        self.runner.cancelled.connect(self._on_stopped)
        self.runner.running_changed.connect(self._on_running)
        self.session.model_changed.connect(self._update)
        self.session.splits_changed.connect(self.tissue.layers.refresh)
        self.viewer.events.theme.connect(self._on_theme)
        self._on_running(False)
        warm_networks()

    def _build_result(self) -> None:
        self.result = QWidget()
        self.use_button = QPushButton("Use it for synthesis")
        self.use_button.setToolTip("The Synthesize panel of this window paints with this network from now on.")
        self.use_button.clicked.connect(self._use)
        self.show_button = QPushButton("Show the folder")
        self.show_button.clicked.connect(self._show_folder)
        buttons = row(self.use_button, self.show_button)
        buttons.setStretch(0, 1)
        buttons.setStretch(1, 1)
        self.result.setLayout(buttons)
        self.column.addWidget(self.result)

    def _build_look(self) -> None:
        self.plot = LossPlot(self.viewer.theme)
        self.plot.hide()
        self.column.addWidget(self.plot)
        self.sample = QWidget()
        column = QVBoxLayout(self.sample)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        self._titles = QHBoxLayout()
        self._titles.setSpacing(0)
        column.addLayout(self._titles)
        self.preview = SampleView()
        self.preview.setToolTip("Images held out from learning, as the network paints them now.")
        column.addWidget(self.preview)
        self.sample.hide()
        self.column.addWidget(self.sample)

    def sizeHint(self) -> QSize:
        """Narrow enough to stand beside the HistoMix dock."""
        return QSize(360, 760)

    # The run.

    def run(self) -> None:
        """Train in the background."""
        if not self.problem():
            self._begin(resume=False)

    def resume(self) -> None:
        """Go on with the unfinished run of the chosen name."""
        if self.form.found is not None and not self.problem(resume=True):
            self._begin(resume=True)

    def problem(self, resume: bool = False) -> str:
        """Why nothing can be run; empty where it can."""
        if self.runner.running:
            return "A network is being trained."
        return self.tissue.problem() or self.form.problem(resume)

    def _begin(self, resume: bool) -> None:
        form = self.form
        self._kind, self._out = form.kind, form.out
        self._messages.clear()
        self.note.say("")
        self.plot.clear()
        self._show_sample(None)
        for one in (read_history(self._out) or {}).get("history", ()) if resume else ():
            self.plot.add(one["step"], validation=one["validation"])
        self.summary.setText(
            f"<b>{form.out.name}</b><br>{form.network.currentText()} · learns from {self.tissue.words()} · "
            f"begins {form.start.currentText()}"
        )
        make = training_job(
            self._kind,
            self.tissue.gather(),
            self._out,
            minutes=float(form.minutes.value()),
            seed=form.seed.value(),
            start=form.start_from,
            autoencoder=form.autoencoder.folder if self._kind == "latent" else None,
            mpp=self.tissue.mpp(),
            splits=self.session.splits,
            device=form.device.currentData(),
            resume=resume,
        )
        self.runner.start(make, "training a network")

    def _on_running(self, running: bool) -> None:
        for part in (self.tissue, self.form):
            part.setVisible(not running)
        self.summary.setVisible(running)
        if running:
            self.plot.show()
        elif not self.plot.losses:
            self.plot.hide()
        if not running:
            self.form.look()
        self._update()

    def _on_event(self, event: Event) -> None:
        figures = event.figures
        if "step" in figures:
            self.plot.add(figures["step"], figures.get("loss"), figures.get("validation"))
        if event.preview is not None:
            self._show_sample(event.preview)
        if event.message and event.message not in self._messages:
            self._messages.append(event.message)
            self.note.say(" ".join(self._messages), "warning")

    def _show_sample(self, sheet: NDArray[np.uint8] | None) -> None:
        self.sample.setVisible(sheet is not None)
        if sheet is None:
            self.preview.show_pixels(None)
            return
        titles = COLUMNS[self._kind]
        if self._titles.count() != len(titles):
            while self._titles.count():
                self._titles.takeAt(0).widget().deleteLater()
            for title in titles:
                label = QLabel(title)
                label.setAlignment(Qt.AlignmentFlag.AlignCenter)
                self._titles.addWidget(label, 1)
        self.preview.show_pixels(first_rows(sheet, len(titles)))
        self.preview.updateGeometry()

    # What came of it.

    def _on_finished(self, out: Path) -> None:
        self._say(f"Done. {self._kept() or f'The network is in the folder {Path(out).name}.'}", "good")
        if self._kind == "autoencoder":
            self.form.autoencoder.choose(Path(out))
        self.form.propose_after(Path(out))

    def _on_stopped(self) -> None:
        kept = self._kept()
        self._say(f"Stopped. {kept}" if kept else "Stopped before anything was learned; nothing was kept.", "good")

    def _on_failed(self, sentence: str) -> None:
        self.complain(self.note, f"{sentence} {self._kept()}".strip())
        self._update()

    def _kept(self) -> str:
        card = read_history(self._out)
        if card is None or self._out is None:
            return ""
        best = card["best"]
        return (
            f"The best network (step {int(best['step']):,}, validation loss {best['validation']:.4f}) "
            f"is in the folder {self._out.name}."
        )

    def _say(self, sentence: str, kind: str) -> None:
        if self._messages:
            sentence, kind = f"{sentence} {' '.join(self._messages)}", "warning"
        self.note.say(sentence, kind)
        self._update()

    def _use(self) -> None:
        self.session.use_model(self._out)

    def _show_folder(self) -> None:
        if self._out is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._out)))

    # What is shown.

    def _update(self) -> None:
        running = self.runner.running
        problem = "" if running else self.problem()
        self.progress.allow(not problem, problem)
        self.why.setText(problem)
        self.why.setVisible(bool(problem))
        found = None if running else self.form.found
        self.resume_button.setVisible(found is not None)
        if found is not None:
            self.resume_button.setText(f"Resume the {run_words(found)}")
            self.resume_button.setEnabled(not self.problem(resume=True))
        made = not running and read_history(self._out) is not None
        self.result.setVisible(made)
        self.use_button.setVisible(self._kind != "autoencoder")
        used = self._out is not None and self.session.model_folder == self._out
        self.use_button.setEnabled(not used)
        self.use_button.setText("Used for synthesis" if used else "Use it for synthesis")
        if self._out is not None:
            self.show_button.setToolTip(str(self._out))

    def _on_theme(self, event: Any = None) -> None:
        if isalive(self):
            self.plot.set_theme(self.viewer.theme)


def align(layout: QFormLayout) -> None:
    """Give the labels of a form the width that those of the other form have."""
    for line in range(layout.rowCount()):
        item = layout.itemAt(line, QFormLayout.ItemRole.LabelRole)
        if item is not None and item.widget() is not None:
            item.widget().setMinimumWidth(LABELS)
