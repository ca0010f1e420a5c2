"""The tab *Train* of Make: train a network on one's own tissue, look at how it learns, and use it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from napari.utils.theme import get_theme
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtWidgets import QSizePolicy

from napari_histomix.records import Event, HistomixError
from napari_histomix.training import learns_labels, recipe_class
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.charts import Picture
from napari_histomix.widgets.loading_ahead import load_networks_ahead
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.training_form import TrainingForm, read_history, run_words, training_job
from napari_histomix.widgets.training_sources import TissueSource


class TrainBar(RunBar):
    """Run, Pause and Stop."""

    def __init__(self, runner: Any) -> None:
        stop_tip = "End the run now. The best network so far is kept, and the run can be resumed."
        tip = "Train the network, in the background; the best one so far is always on the disk."
        super().__init__("Run", runner, tip, stop_tip, pausable=True)
        self.cancel_button.setText("Stop")
        for part in (self.pause_button, self.cancel_button):
            part.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def _on_running(self, running: bool) -> None:
        super()._on_running(running)
        self.run_button.setVisible(not running)


class LossPlot(FigureCanvasQTAgg):  # type: ignore[misc]
    """The loss of a training run as it comes, in the colors of napari's theme; of many steps, averages of neighbors."""

    MOST = 2000
    """Points of the line; beyond that, neighbors are averaged: a long run takes no more memory than a short one."""

    def __init__(self, theme: str = "dark") -> None:
        super().__init__(Figure())
        self.axes = self.figure.subplots()
        # Margins of its own: to lay the figure out at each drawing takes as long again as to draw it.
        self.figure.subplots_adjust(left=0.14, right=0.97, top=0.86, bottom=0.25)
        title, step = self.axes.set_title("Loss", loc="left"), self.axes.set_xlabel("Step")
        self.axes.grid(axis="y")
        self.axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        self.axes.yaxis.set_major_locator(MaxNLocator(5))
        self.axes.xaxis.set_major_formatter("{x:,.0f}")
        self.axes.yaxis.set_major_formatter("{x:.3g}")
        self.axes.tick_params(length=0)
        (self._line,) = self.axes.plot([], color=ui.ACCENT, linewidth=1)
        (self._dots,) = self.axes.plot([], "o", color=ui.CARE, markersize=5, label="held-out images", clip_on=False)
        legend = self.axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, frameon=False, handlelength=0.5
        )
        self._texts = title, step, *legend.get_texts()
        self.setFixedHeight(190)
        self.setMinimumWidth(200)
        self.setToolTip(
            "Lower is better. The line is the loss of every step, a dot the loss on images held out.\n"
            "Compare dots with dots: with most networks they weigh noise otherwise than the line."
        )
        self._redraw = ui.later(self, 1000, self._show)
        self.set_theme(theme)
        self.clear()

    def set_theme(self, name: str) -> None:
        theme = get_theme(name)
        background, ink, faint = (color.as_hex() for color in (theme.background, theme.text, theme.primary))
        for part in (self.figure, self.axes):
            part.set_facecolor(background)
        self.axes.tick_params(colors=ink, labelsize="small", grid_color=faint)
        self.axes.spines[:].set_color(faint)
        for text in self._texts:
            text.set(color=ink, size="small")
        self.draw_idle()

    def clear(self) -> None:
        self.losses: list[tuple[float, float]] = []
        self.validations: list[tuple[float, float]] = []
        self._each = 1
        self._pending: list[tuple[float, float]] = []
        self._show()

    def add(self, step: float, loss: float | None = None, validation: float | None = None) -> None:
        if validation is not None and math.isfinite(validation):
            self.validations.append((step, validation))
        if loss is not None and math.isfinite(loss):
            self._pending.append((step, loss))
        if len(self._pending) == self._each:
            self.losses.append(_mean(self._pending))
            self._pending = []
        if len(self.losses) == self.MOST:
            self.losses = [_mean(self.losses[at : at + 2]) for at in range(0, self.MOST, 2)]
            self._each *= 2
        if not self._redraw.isActive():
            self._redraw.start()

    def limits(self) -> tuple[float, float, float, float] | None:
        """First and last step, lowest and highest loss of the axes; None while there is nothing to show.

        The first steps of a new network lose many times as much as all others: the highest 2 % may run off the plot.
        """
        points = [*self.losses, *self.validations]
        if not points:
            return None
        steps, values = np.asarray(points).T
        high = max(float(np.percentile(values, 98)), *(value for _, value in self.validations[-3:]), 1e-9)
        low = float(values.min())
        low = 0.0 if low < 0.5 * high or high - low < 1e-3 * high else low - 0.1 * (high - low)
        return float(steps.min()), max(float(steps.max()), float(steps.min()) + 1), low, high + 0.05 * (high - low)

    def _show(self) -> None:
        for artist, points in ((self._line, self.losses), (self._dots, self.validations)):
            artist.set_data(np.reshape(points, (-1, 2)).T)
        limits = self.limits()
        first, last, low, high = limits or (0, 1, 0, 1)
        self.axes.set(xlim=(first, last), ylim=(low, high))
        self.axes.tick_params(labelleft=limits is not None, labelbottom=limits is not None)
        self.draw_idle()


def _mean(points: list[tuple[float, float]]) -> tuple[float, float]:
    step, loss = np.mean(points, axis=0)
    return float(step), float(loss)


class TrainPanel(Panel):
    """What to learn from, which network, the run as it goes, and what came of it."""

    # Narrow enough to stand beside the HistoMix dock.
    preferred_size = (360, 760)
    heavy = True

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self._out: Path | None = None
        self._kind = "inpainter"
        self._messages: list[str] = []
        self._build()
        self.runner.on(progressed=self._on_event, finished=self._on_finished, failed=self._on_failed)
        self.runner.on(cancelled=self._on_stopped, running_changed=self._on_running)
        self.session.model_changed.connect(self._update)
        self.session.splits_changed.connect(self.tissue.layers.follower.refresh)
        self.viewer.events.theme.connect(self._on_theme)
        self._on_running(False)
        load_networks_ahead()

    def _build(self) -> None:
        self.area = self.scroll()
        self.tissue = TissueSource(self.viewer, self.session)
        self.form = TrainingForm(self.session.home / "models")
        self.form.changed.connect(lambda: self.tissue.ask_for_labels(learns_labels(self.form.kind)))
        self.tissue.changed.connect(lambda: self.form.offer_classes(self.tissue.classes()))
        for part in (self.tissue, self.form):
            part.changed.connect(self._update)
        self.summary = ui.label()
        self.progress = TrainBar(self.runner)
        self.progress.run.connect(self.run)
        tip = "Go on where the run was left, with its settings of then; choose the same images and network."
        self.resume_button = ui.button("", tip, self.resume)
        self.why, self.note = ui.Note(), ui.Note()
        tip = "All docks of this window use this network from now on, in place of the bundled one."
        self.use_button = ui.button("Use it", tip, lambda: self.session.use_model(self._out, self._network))
        self.show_button = ui.folder_button(lambda: self._out)
        self.result = ui.box(ui.even_row(self.use_button, self.show_button))
        self.plot = LossPlot(self.viewer.theme)
        self.plot.hide()
        self.titles = ui.label()
        self.preview = Picture()
        self.preview.setToolTip("Images held out from learning, as the network paints them now.")
        self.sample = ui.box(ui.column(self.titles, self.preview, space=2), shown=False)
        ui.add(self.column, self.tissue, self.form, self.summary, self.progress, self.why, self.resume_button)
        ui.add(self.column, self.note, self.result, self.plot, self.sample)
        self.column.addStretch(1)

    def bring_up(self, kind: str) -> None:
        """Choose the kind of network to train; while one is being trained, its form stays."""
        if not self.runner.running:
            self.form.network.setCurrentIndex(self.form.network.findData(kind))

    # The run.

    def run(self) -> None:
        self._begin(resume=False)

    def resume(self) -> None:
        self._begin(resume=True)

    def problem(self, resume: bool = False) -> str:
        return self.tissue.problem() or self.form.problem(resume)

    @property
    def _network(self) -> str:
        """What the network of the last run is used as."""
        return "inpainter" if self._kind == "latent" else self._kind

    def _begin(self, resume: bool) -> None:
        form = self.form
        if self.runner.running or self.problem(resume):
            return
        try:
            options = form.options()
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        self._kind, self._out = form.kind, form.out
        self._messages.clear()
        self.note.say("")
        self.plot.clear()
        self._show_sample(None)
        for checkpoint in (read_history(self._out) or {}).get("history", ()) if resume else ():
            self.plot.add(checkpoint["step"], validation=checkpoint["validation"])
        self.summary.setText(
            f"<b>{form.out.name}</b><br>{form.network.currentText()} · learns from {self.tissue.words()} · "
            f"begins {form.start.currentText()}"
        )
        # Labeled images know their scale and their splits.
        known = {} if learns_labels(form.kind) else {"mpp": self.tissue.mpp(), "splits": self.session.splits}
        make = partial(training_job, form.kind, self.tissue.gather(), form.out, **options, **known, resume=resume)
        self.runner.start(make, "training a network")

    def _on_running(self, running: bool) -> None:
        for part in (self.tissue, self.form):
            part.setVisible(not running)
        self.summary.setVisible(running)
        self.plot.setVisible(running or bool(self.plot.losses))
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
            self.preview.show_picture(None)
            return
        titles = recipe_class(self._kind).columns
        cells = (f"<td width='{100 // len(titles)}%' align='center'>{title}</td>" for title in titles)
        self.titles.setText(f"<table width='100%' cellspacing='0'><tr>{''.join(cells)}</tr></table>")
        self.preview.show_picture(first_rows(sheet, len(titles)))

    # What came of it.

    def _on_finished(self, out: Path) -> None:
        self._say(f"Done. {self._best() or f'The network is in the folder {out.name}.'}")
        if self._kind == "autoencoder":
            self.form.autoencoder.choose(out)
        self.form.propose_after(out)

    def _on_stopped(self) -> None:
        best = self._best()
        self._say(f"Stopped. {best}" if best else "Stopped before anything was learned; nothing was kept.")

    def _on_failed(self, sentence: str) -> None:
        self.complain(self.note, f"{sentence} {self._best()}".strip())
        self._update()

    def _best(self) -> str:
        """Where the best network is, in a sentence; empty where there is none."""
        card = read_history(self._out)
        if card is None or self._out is None:
            return ""
        best = card["best"]
        return (
            f"The best network (step {int(best['step']):,}, validation loss {best['validation']:.4f}) "
            f"is in the folder {self._out.name}."
        )

    def _say(self, sentence: str) -> None:
        self.note.say(" ".join([sentence, *self._messages]), "warning" if self._messages else "good")
        self._update()
        # The form is back above it, and may fill the page.
        ui.reveal(self.note)
        ui.reveal(self.result)

    # What is shown.

    def _update(self) -> None:
        running = self.runner.running
        problem = "" if running else self.problem()
        self.progress.allow(not problem, problem)
        self.why.say(problem)
        unfinished = None if running else self.form.unfinished
        self.resume_button.setVisible(unfinished is not None)
        if unfinished is not None:
            self.resume_button.setText(f"Resume the {run_words(unfinished)}")
            self.resume_button.setEnabled(not self.problem(resume=True))
        self.result.setVisible(not running and read_history(self._out) is not None)
        # An autoencoder is used in the training of a latent network only.
        self.use_button.setVisible(self._kind != "autoencoder")
        used = self._out is not None and self.session.networks.get(self._network) == self._out
        self.use_button.setEnabled(not used)
        self.use_button.setText("In use" if used else "Use it")
        if self._out is not None:
            self.show_button.setToolTip(str(self._out))

    def _on_theme(self, event: Any = None) -> None:
        if isalive(self):
            self.plot.set_theme(self.viewer.theme)


def first_rows(sheet: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """The rows of a contact sheet of square windows that fit into three quarters of its width, at least one."""
    side = sheet.shape[1] // columns
    rows = max(int(0.75 * sheet.shape[1]) // side, 1)
    return sheet[: rows * side]
