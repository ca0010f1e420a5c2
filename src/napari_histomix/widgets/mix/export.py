"""Export: the training images with the approved synthetic ones, as class folders that a training loop reads."""

from __future__ import annotations

from collections import Counter
from html import escape
from pathlib import Path

from qtpy.QtCore import QTimer, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_histomix.study.export_plan import ExportPlan, bytes_text
from napari_histomix.widgets.base import SPACE, Note, Panel, form, row
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.mix.runs import export_job, kinds_job, plan_job
from napari_histomix.widgets.mix.work import MixWork
from napari_histomix.widgets.sections import MixBar, Section, many

PAUSE = 300
"""Milliseconds without a change before the dry run begins: decisions come as fast as keys are pressed."""


class ExportSection(Section):
    """What will be written, where to, and the run."""

    def __init__(self, panel: Panel, work: MixWork, runner: JobRunner) -> None:
        super().__init__("Export", "Write the training images and the approved synthetic ones to a new folder.")
        self.panel, self.work, self.runner = panel, work, runner
        self.folder: Path | None = None
        self._done: Path | None = None
        self._exported = 0
        self._running = False
        self.counter = JobRunner(self)
        self.plan: ExportPlan | None = None
        """What an export would write now; None until that is known."""
        self.planner = JobRunner(self)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(PAUSE)
        self._soon.timeout.connect(self._find_plan)
        self._build()
        self.planner.finished.connect(self._on_plan)
        self.planner.failed.connect(lambda sentence: self.figures.say(sentence, "error"))
        self.counter.finished.connect(self._on_counted)
        self.counter.failed.connect(lambda sentence: panel.complain(self.note, sentence))
        runner.finished.connect(self._on_written)
        runner.failed.connect(self._on_failed)
        runner.cancelled.connect(self._on_cancelled)
        work.opened.connect(self._on_opened)
        work.mixes_changed.connect(self._on_change)
        work.decided.connect(lambda _numbers: self._on_change())
        work.busy_changed.connect(self._update)
        self._update()

    def _build(self) -> None:
        self.empty = Note("Approve some synthetic images first.")
        self.body.addWidget(self.empty)
        self.summary = QLabel()
        self.summary.setWordWrap(True)
        self.summary.setToolTip("What an export would write now.")
        self.folder_label = QLabel()
        self.folder_button = QPushButton("Change …")
        self.folder_button.setToolTip("Choose the folder in which the export's own new folder is made.")
        self.folder_button.clicked.connect(self._ask_folder)
        layout = form()
        layout.addRow("Folder", row(self.folder_label, self.folder_button, stretch=0))
        self.bar = MixBar(
            "Export",
            "Write class folders, origin maps, images.csv and a manifest; all of it or nothing.",
            self.runner,
            "Stop; nothing is written then.",
        )
        self.bar.run.connect(self.run)
        self.results = QWidget()
        column = QVBoxLayout(self.results)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE)
        column.addWidget(self.summary)
        column.addLayout(layout)
        self.figures = Note()
        self.figures.setToolTip("What an export would write now.")
        column.addWidget(self.figures)
        column.addWidget(self.bar)
        self.body.addWidget(self.results)
        self.note = Note()
        self.body.addWidget(self.note)
        self.open_button = QPushButton("Show the folder")
        self.open_button.setToolTip("Open the folder that was written.")
        self.open_button.clicked.connect(self._open)
        self.open_button.hide()
        self.body.addWidget(self.open_button)

    # Where to.

    def set_folder(self, folder: Path) -> None:
        """Write to this folder, which must not exist yet."""
        self.folder = folder
        self.folder_label.setText(folder.name)
        self.folder_label.setToolTip(f"In the folder {folder.parent.name}. An existing one is never written over.")
        self._replan()

    def propose(self, parent: Path | None = None) -> None:
        """Propose a folder that is not there yet, by default in the study's."""
        if self.work.study is None:
            return
        parent = parent or self.work.study.folder
        folder, number = parent / "tissue export", 2
        while folder.exists():
            folder, number = parent / f"tissue export {number}", number + 1
        self.set_folder(folder)

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "The folder in which the export's folder is made")
        if folder:
            self.propose(Path(folder))

    # The run.

    def run(self) -> None:
        """Write what is approved, in the background."""
        work, approved = self.work, self.work.approved
        if work.problem(self.runner) or self.runner.running or not approved or self.folder is None:
            return
        self.note.say("")
        self.open_button.hide()
        self._exported, self._running = len(approved), True
        self.runner.start(export_job(work.study, work.pool, work.dataset, approved, self.folder), "exporting tissue")

    def _on_written(self, out: Path) -> None:
        self._running = False
        self._done = Path(out)
        self.note.say(f"{many(self._exported, 'approved image')} exported to the folder {self._done.name}.", "good")
        self.open_button.show()
        self.propose(self._done.parent)

    def _on_failed(self, sentence: str) -> None:
        self._running = False
        self.panel.complain(self.note, sentence)

    def _on_cancelled(self) -> None:
        if self._running:
            self._running = False
            self.note.say("Stopped. Nothing was written.")

    def _open(self) -> None:
        if self._done is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._done)))

    # What would be written.

    def _replan(self) -> None:
        self.planner.discard()
        self.plan = None
        self.figures.say("")
        self._soon.start()

    def _find_plan(self) -> None:
        work, approved = self.work, self.work.approved
        if approved and work.dataset is not None and work.study is not None and self.folder is not None:
            self.planner.replace(plan_job(work.study, work.dataset, approved, self.folder), "looking at the export")

    def _on_plan(self, plan: ExportPlan) -> None:
        self.plan = plan
        size, free = bytes_text(plan.size), bytes_text(plan.free)
        lines = (f"{plan.files:,} files, about {size}; {free} are free there.", plan.refusal, *plan.left_out)
        self.figures.say("\n".join(filter(None, lines)), "error" if plan.refusal else "info")
        self._update()

    def _on_opened(self) -> None:
        self._running = False
        self.runner.discard()
        self.counter.discard()
        self.planner.discard()
        self.note.say("")
        self.open_button.hide()
        self.propose()
        self._update()

    def _on_change(self) -> None:
        self._replan()
        self._update()

    def _on_counted(self, kinds: dict[int, str]) -> None:
        self.work.learn(kinds)
        self._update()

    def _update(self) -> None:
        work, approved = self.work, self.work.approved
        self.empty.setVisible(not approved)
        self.results.setVisible(bool(approved))
        self.state.setText(f"{many(len(approved), 'image')}" if approved else "")
        why = work.problem(self.runner) or (self.plan.refusal if self.plan else "")
        self.bar.allow(not why and bool(approved), why)
        if not approved or work.dataset is None or work.study is None:
            return
        unknown = [number for number in approved if number not in work.kinds]
        if unknown and not self.counter.busy:
            # Those approved in an earlier session: what class they are is known only from themselves.
            self.counter.replace(kinds_job(work.study, unknown), "counting images")
        counts = Counter(work.kinds[number] for number in approved if number in work.kinds)
        classes = ", ".join(f"{counts[kind]} {kind}" for kind in work.dataset.kinds if counts[kind])
        left, training = work.counts()[2], len(work.dataset.training)
        waiting = f" {left} still undecided {'stays' if left == 1 else 'stay'} out." if left else ""
        self.summary.setText(
            f"<b>{many(len(approved), 'image')}: {escape(classes) or 'counting …'}</b>, "
            f"beside {many(training, 'training image')}.{waiting}"
        )
