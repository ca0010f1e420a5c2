"""Write the approved work as a dataset that others can read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtGui import QShowEvent

from napari_histomix.datasets.formats import FORMATS
from napari_histomix.study.export import export_study
from napari_histomix.study.export_plan import ExportPlan, bytes_text, plan_export
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.charts import Chart, Picture
from napari_histomix.widgets.decisions import nouns
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.splits_box import classes_of

WRITTEN = (
    "Beside the dataset: a manifest of every change, where each pixel comes from, a chart of the classes and a "
    "dataset card."
)
NOTHING = "Approve some synthetic nuclei or images first."
CHART = "class_counts.png"
PAUSE = 300
"""Milliseconds without a change before the dry run begins: decisions come as fast as keys are pressed."""


class ExportPanel(Panel):
    """Where to, in which format, what will be written, and the chart of classes before and after."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self._folder: Path | None = None
        self._done: Path | None = None
        self._exported = ""
        self.plan: ExportPlan | None = None
        """What an export would write now; None until that is known."""
        self.exported = False
        """Whether all that is approved has been exported."""
        self.planner = JobRunner(self).on(finished=self._on_plan)
        self._wait = ui.later(self, PAUSE, self._find_plan)
        self._count_soon = ui.later(self, PAUSE, self._summarize)
        self.empty = ui.Note(NOTHING)
        self._build_contents()
        self.progress = RunBar("Export", self.runner, "Write the folder above; complete, or not at all.")
        self.progress.run.connect(self.run)
        self.note = ui.Note()
        self.open_button = ui.folder_button(lambda: self._done, shown=False)
        self.chart = Picture()
        lead = self.lead("Review what was made →", "review", "Approve what is to be exported.", beside=self.empty)
        ui.add(self.column, self.empty, lead, self.contents, self.progress, self.note, self.open_button, self.chart)
        self.column.addStretch(1)
        self.planner.on(failed=lambda sentence: self.figures.say(sentence, "error"))
        self.runner.on(finished=self._on_written, failed=partial(self.complain, self.note))
        self.runner.on(
            cancelled=lambda: self.note.say("Stopped. Nothing was written."),
            running_changed=lambda _running: self._replan() if self.plan is None else None,
        )
        self.session.dataset_changed.connect(self._on_dataset)
        self.session.study_changed.connect(self._propose)
        session = self.session
        for signal in (session.splits_changed, session.changes_changed, session.changes_decided):
            signal.connect(self._on_work)
        session.changes_made.connect(self._on_made)
        self._on_dataset()

    def _build_contents(self) -> None:
        self.summary = ui.label()
        self.counts_title, self.counts = ui.heading(""), Chart(after="<b>{:,}</b>")
        self.folder = ui.label(wrap=False, plain=True, yields=True)
        tip = "Choose the folder in which the export's own new folder is made."
        title = "The folder in which the export's folder is made"
        self.folder_button = ui.asking_button("Change …", tip, title, self._propose, self._parent)
        self.format = ui.choice(
            tip="How images and labels are laid out; docs/formats.md says who reads which.",
            changed=lambda _place: self._propose(self._parent()),
            name="Format",
        )
        self.ignore_band = ui.check(
            "Ignore band over inpainted pixels",
            "Also write a class map for each synthetic image in which inpainted pixels are 255:\n"
            "a loss function that ignores 255 does not learn from them.",
            lambda _on: self._replan(),
        )
        self.figures, self.warnings = ui.Note(), ui.Note()
        self.figures.setToolTip("From a few images that were written to a temporary folder on trial.")
        options = ui.form(
            ("Format", self.format),
            ("", self.ignore_band),
            ("Folder", ui.row(self.folder, self.folder_button, stretch=0)),
        )
        overview = (self.summary, self.counts_title, self.counts)
        self.contents = ui.box(ui.column(*overview, options, self.figures, self.warnings, ui.Note(WRITTEN)))
        ui.narrowable(self.contents)

    # Where to.

    def set_folder(self, folder: Path) -> None:
        """Write to this folder, which must not exist yet."""
        self._name_folder(folder)
        self._replan()

    def _name_folder(self, folder: Path) -> None:
        self._folder = folder
        self.folder.setText(f"{folder.parent.name}/{folder.name}")
        self.folder.setToolTip(f"{folder}\nIt is made by the export; an existing one is never written over.")

    def _propose(self, parent: Path | None = None) -> None:
        if self.session.study_folder is not None:
            self.set_folder(self._free_folder(parent or self.session.study_folder))

    def _parent(self) -> Path | None:
        return self._folder.parent if self._folder else None

    def _free_folder(self, parent: Path) -> Path:
        # Said by its name, months later.
        return ui.free_folder(parent, f"export {self.format.currentData() or ''}".strip())

    # What an export would write.

    @property
    def busy(self) -> bool:
        """Whether it is still to be found out what an export would write, or one is being written."""
        return self.runner.running or self.planner.busy or self._wait.isActive()

    def _replan(self) -> None:
        """Find out anew what an export would write, once nothing has changed for a moment and somebody looks."""
        self.planner.discard()
        self.plan = None
        self.warnings.say("")
        self.figures.say("Finding out how large the export will be …")
        self.progress.allow(False, "Wait for the figures above.")
        if self.isVisible():
            self._wait.start()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._summarize()
        if self.plan is None:
            self._replan()

    def _arguments(self) -> dict[str, Any]:
        return {"format": self.format.currentData(), "ignore_band": self.ignore_band.isChecked()}

    def _find_plan(self) -> None:
        # Only now: to count a hundred thousand changes at each decision would hold up the next one.
        self._summarize()
        session, folder, arguments = self.session, self._folder, self._arguments()
        dataset, survey = session.dataset, session.survey
        if self.runner.running or dataset is None or survey is None or folder is None or not session.approved:
            return
        decisions = dict(session.decisions["change"])
        job = partial(plan_export, dataset, session.changes, folder, decisions, counted=survey, **arguments)
        self.planner.replace(job, "looking at what an export would write")

    def _on_plan(self, plan: ExportPlan) -> None:
        self.plan = plan
        self.figures.say(
            f"{plan.files:,} files, about {bytes_text(plan.size)}; {bytes_text(plan.free)} are free there."
        )
        self.counts_title.setText(f"{plan.unit.capitalize()} before and after")
        assert self.session.dataset is not None and self.session.survey is not None
        classes, _ = classes_of(self.session.dataset, self.session.survey)
        colors, other = {kind.name: kind.color for kind in classes}, ui.rgb(ui.ACCENT)
        self.counts.set_bars(
            [(name, colors.get(name, other), was, plan.after[name]) for name, was in plan.before.items()]
        )
        lines = filter(None, (plan.refusal, *plan.losses))
        self.warnings.say("\n".join(lines), "error" if plan.refusal else "warning")
        self.progress.allow(not plan.refusal, plan.refusal)

    # The run.

    def run(self) -> None:
        session = self.session
        study, dataset, folder = session.study, session.dataset, self._folder
        if self.runner.running or study is None or dataset is None or folder is None or not session.approved:
            return
        self._forget_export()
        arguments, self._exported = self._arguments(), self._approved_words()
        self.runner.start(partial(export_study, study, dataset, folder, **arguments), "exporting")

    def _on_written(self, out: Path) -> None:
        self._done = Path(out)
        self.note.say(f"{self._exported} exported to {self._done.parent.name}/{self._done.name}.", "good")
        self.note.setToolTip(str(self._done))
        self.open_button.show()
        ui.reveal(self.open_button)
        self.chart.show_file(self._done / CHART)
        self.exported = True
        # The next one would write the same: its figures are known.
        self._name_folder(self._free_folder(self._done.parent))

    def _approved_words(self) -> str:
        number, words = len(self.session.approved), nouns(self.session.table)
        return f"{number:,} approved {words[number != 1]}"

    # What the session says.

    def _on_work(self, _ids: object = None) -> None:
        self.exported = False
        self._replan()

    def _on_made(self, _ids: object) -> None:
        # What nobody has approved yet stays out: the figures hold, and a run does not keep anyone from exporting.
        if self.isVisible():
            self._count_soon.start()

    def _on_dataset(self) -> None:
        self.exported = False
        self.runner.discard()
        self._forget_export()
        self._offer_formats()
        self._propose()
        self._replan()

    def _forget_export(self) -> None:
        self.note.say("")
        self.open_button.hide()
        self.chart.show_file(None)

    def _offer_formats(self) -> None:
        dataset = self.session.dataset
        nuclei, kinds = (dataset.has_nuclei, dataset.has_kinds) if dataset is not None else (False, False)
        held = {"nuclei": nuclei, "kinds": kinds}
        known = FORMATS.values()
        ui.offer(self.format, [(format.title, format.name) for format in known if format.writes and held[format.holds]])
        self.ignore_band.setVisible(nuclei)
        self.ignore_band.setChecked(self.ignore_band.isChecked() and nuclei)

    def _summarize(self) -> None:
        session = self.session
        approved = session.approved
        self.empty.say("" if approved else NOTHING)
        self.contents.setVisible(bool(approved))
        self.progress.setVisible(bool(approved))
        if session.dataset is None or session.survey is None or not approved:
            return
        table = session.table
        rows = table.rows(approved)
        images = len(np.unique(table.names[rows]))
        within = f" in {ui.many(images, 'image')}" if table.in_place[rows].any() else ""
        training = {entry.source.image for entry in session.dataset.training} & set(session.images)
        left = len(table) - len(session.decisions["change"])
        waiting = f" {left:,} still undecided {'stays' if left == 1 else 'stay'} out." if left else ""
        written = (
            "the only training image is written"
            if len(training) == 1
            else f"all {len(training):,} training images are written"
        )
        self.summary.setText(f"<b>{self._approved_words()}</b>{within}; {written}.{waiting}")
