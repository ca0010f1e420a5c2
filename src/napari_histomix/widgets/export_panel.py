"""Step 5: write the approved work as a dataset that others can read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QDesktopServices, QPixmap
from qtpy.QtWidgets import QFileDialog, QGridLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_histomix.widgets.class_table import Bar
from napari_histomix.widgets.parts import SPACE, Note, Panel, RunBar, form, heading, row
from napari_histomix.widgets.session import Session

WRITTEN = "Images and Labels as HoVer-Net reads them, a manifest of every placement, and a chart of the classes."

FACTS = ("candidate_settings", "encoder", "temperature", "effective_sample_size", "synthesis_settings", "refusals")
"""What the manifest takes over from the study."""
CHART = "class_counts.png"


class ExportPanel(Panel):
    """Where to, what will be written, and the chart of classes before and after."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self._folder: Path | None = None
        self._done: Path | None = None
        self._pixmap: QPixmap | None = None
        self.empty = Note("Approve some synthetic nuclei first.")
        self.column.addWidget(self.empty)
        self._build()
        self.progress = RunBar("Export", self.runner)
        self.progress.run.connect(self.run)
        self.column.addWidget(self.progress)
        self.note = Note()
        self.column.addWidget(self.note)
        self.open_button = QPushButton("Show the folder")
        self.open_button.clicked.connect(self._open)
        self.open_button.hide()
        self.column.addWidget(self.open_button)
        self.chart = QLabel()
        self.chart.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.chart.setMinimumWidth(1)
        self.column.addWidget(self.chart)
        self.column.addStretch(1)
        self.runner.finished.connect(self._on_written)
        self.runner.failed.connect(lambda sentence: self.complain(self.note, sentence))
        self.runner.cancelled.connect(lambda: self.note.say("Stopped. Nothing was written."))
        self.session.dataset_changed.connect(self._on_dataset)
        self.session.study_changed.connect(self._propose)
        self.session.placements_changed.connect(self._on_work)
        self.session.placements_decided.connect(lambda _numbers: self._on_work())
        self._on_dataset()

    def _build(self) -> None:
        self.contents = QWidget()
        column = QVBoxLayout(self.contents)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE)
        self.summary = QLabel()
        self.summary.setWordWrap(True)
        column.addWidget(self.summary)
        column.addWidget(heading("Nuclei before and after"))
        self.counts = QWidget()
        self._grid = QGridLayout(self.counts)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setColumnStretch(1, 1)
        column.addWidget(self.counts)
        self.folder = QLabel()
        self.folder_button = QPushButton("Change …")
        self.folder_button.setToolTip("Choose the folder in which the export's own new folder is made.")
        self.folder_button.clicked.connect(self._ask_folder)
        layout = form()
        layout.addRow("Folder", row(self.folder, self.folder_button, stretch=0))
        column.addLayout(layout)
        column.addWidget(Note(WRITTEN))
        self.column.addWidget(self.contents)

    # Where to.

    def set_folder(self, folder: Path) -> None:
        """Write to this folder, which must not exist yet."""
        self._folder = folder
        self.folder.setText(folder.name)
        self.folder.setToolTip(f"{folder}\nIt is made by the export; an existing one is never written over.")

    def _propose(self, parent: Path | None = None) -> None:
        if self.session.study_folder is None:
            return
        parent = parent or self.session.study_folder
        folder, number = parent / "export", 2
        while folder.exists():
            folder, number = parent / f"export {number}", number + 1
        self.set_folder(folder)

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "The folder in which the export's folder is made")
        if folder:
            self._propose(Path(folder))

    # The run.

    def run(self) -> None:
        """Write the approved work in the background."""
        session = self.session
        if self.runner.running or session.dataset is None or self._folder is None or not session.approved:
            return
        self.note.say("")
        self.open_button.hide()
        self.chart.clear()
        dataset, placements, folder = session.dataset, session.placements, self._folder
        decisions, study = dict(session.placement_decisions), session.study

        def job() -> Any:
            from napari_histomix.study.export import export

            kept = study.settings() if study is not None else {}
            facts = {key: kept[key] for key in FACTS if key in kept}
            return (yield from export(dataset, placements, folder, decisions, facts=facts))

        self.runner.start(job, "exporting")

    def _on_written(self, out: Path) -> None:
        self._done = Path(out)
        number = len(self.session.approved)
        self.note.say(
            f"{number} approved nucle{'us' if number == 1 else 'i'} exported to the folder {self._done.name}.", "good"
        )
        self.open_button.show()
        self._pixmap = QPixmap(str(self._done / CHART))
        self._fit_chart()
        self._propose(self._done.parent)

    def _fit_chart(self) -> None:
        if self._pixmap is not None and not self._pixmap.isNull():
            width = max(self.width() - 2 * SPACE, 100)
            ratio = self.devicePixelRatioF()
            scaled = self._pixmap.scaledToWidth(round(width * ratio), Qt.TransformationMode.SmoothTransformation)
            scaled.setDevicePixelRatio(ratio)
            self.chart.setPixmap(scaled)

    def _open(self) -> None:
        if self._done is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._done)))

    # What the session says.

    def _on_dataset(self) -> None:
        self.runner.discard()
        self.note.say("")
        self.open_button.hide()
        self.chart.clear()
        self._pixmap = None
        self._propose()
        self._on_work()

    def _on_work(self) -> None:
        session = self.session
        approved = session.approved
        self.empty.setVisible(not approved)
        self.contents.setVisible(bool(approved))
        self.progress.setVisible(bool(approved))
        self.progress.allow(bool(approved))
        if session.dataset is None or session.survey is None or not approved:
            return
        images = {one.candidate.target.image for one in approved}
        names = {entry.source.image for entry in session.dataset.training}
        training = [name for name in session.images if name in names]
        left = len(session.placements) - len(approved) - session.decided("reject")
        waiting = f" {left} {'is' if left == 1 else 'are'} still undecided and stay out." if left else ""
        self.summary.setText(
            f"<b>{len(approved)} approved</b> in {len(images)} image{'s' if len(images) != 1 else ''}; "
            f"all {len(training)} training images are written.{waiting}"
        )
        before: Counter[int] = sum((session.survey.counts[name] for name in training), Counter())
        self._draw(before, counts_after(before, approved))

    def _draw(self, before: Counter[int], after: Counter[int]) -> None:
        while self._grid.count():
            widget = self._grid.takeAt(0).widget()
            if widget is not None:
                widget.deleteLater()
        assert self.session.dataset is not None
        top = max([*before.values(), *after.values()], default=0) or 1
        for line, one in enumerate(self.session.dataset.classes):
            bar = Bar(one.color)
            was, will = before[one.number], after[one.number]
            bar.set_shares(was / top, will / top)
            change = will - was
            text = f"{was:,} → <b>{will:,}</b>" + (f" ({change:+,})" if change else "")
            self._grid.addWidget(QLabel(one.name), line, 0)
            self._grid.addWidget(bar, line, 1)
            self._grid.addWidget(QLabel(text), line, 2)

    def resizeEvent(self, event: Any) -> None:
        """Fit the chart."""
        super().resizeEvent(event)
        self._fit_chart()


def counts_after(before: Counter[int], placements: Any) -> Counter[int]:
    """Nuclei by class number once placements are in: before + placed - replaced."""
    after = Counter(before)
    for one in placements:
        after[one.candidate.donor.type] += 1
        if one.candidate.target.instance:
            after[one.candidate.target.type] -= 1
    return after
