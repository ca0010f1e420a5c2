"""The tab *Evidence* of Results: what can be measured of the open study here, in the background, kept in its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView

from napari_histomix.datasets import Dataset
from napari_histomix.datasets.pixels import read_pixels
from napari_histomix.methods.candidate_stage import CandidateSettings
from napari_histomix.records import Job
from napari_histomix.study import Study
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.charts import Picture
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.table_model import ArrayTableModel, Column, table_view

FOLDER = "evidence"
"""Folder of a study in which results are kept, each in one of its own."""
NOTHING = "Open a study with synthetic nuclei or images first."
OF_IMAGES = (
    "These images have no nuclei to measure. Whether a network can tell which of them are synthetic is in Review."
)
TOO_FEW_GROUPS = "there is no interval where fewer than ten patients or images have rare nuclei"
TABLE_HEIGHT = 200


@dataclass(frozen=True, eq=False)
class Found:
    """What was measured: a sentence, a table, and the folder with its figure and everything else."""

    sentence: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    folder: Path
    chart: Path
    changes: Sequence[int] = ()
    """Id of the change that each row is about, where they are about changes."""


Measure = Callable[[Dataset, Study, CandidateSettings, Path], Job[Found]]


def measure_neighbors(dataset: Dataset, study: Study, _settings: CandidateSettings, folder: Path) -> Job[Found]:
    """Find the nearest real nucleus of every synthetic one."""
    from napari_histomix.evaluation import neighbor_test as neighbors

    report = yield from neighbors.neighbor_test(dataset, study)
    neighbors.write_neighbors(report, folder)
    rows = [
        (pair.change.id + 1, pair.kind, f"{pair.neighbor_kind} #{pair.neighbor.instance} of {pair.neighbor.image}",
         round(pair.neighbor.distance, 2), round(pair.neighbor.percentile, 1))
        for pair in report.pairs
    ]  # fmt: skip
    headers = "#", "Class", "Nearest", "Distance", "Percentile"
    ids = [pair.change.id for pair in report.pairs]
    return Found(neighbors.sentence_of(report), headers, rows, folder, folder / neighbors.CHART, ids)


def measure_places(dataset: Dataset, _study: Study, settings: CandidateSettings, folder: Path) -> Job[Found]:
    """Test how well surroundings tell places of the rare classes from others, on images held out."""
    from napari_histomix.evaluation import place_test as places

    report = yield from places.place_test(dataset, settings)
    places.write_report(report, folder)
    rows = [(row.surroundings, row.density, places.cell(row.pooled), places.cell(row.within)) for row in report.rows]
    intervals = any(estimate.low is not None for row in report.rows for estimate in (row.pooled, row.within))
    sentence = (
        f"{report.rare_places:,} places of {' or '.join(report.rare)} against {report.other_places:,} others. "
        f"AUC 0.5 is chance; {'the brackets are 95 % intervals' if intervals else TOO_FEW_GROUPS}."
    )
    headers = "Surroundings", "Density", "AUC,\nall images", "AUC, within\nan image"
    return Found(sentence, headers, rows, folder, folder / places.CHART)


@dataclass(frozen=True)
class Evidence:
    """Something that can be measured."""

    name: str
    title: str
    about: str
    measure: Measure


EVIDENCE = (
    Evidence(
        "neighbors",
        "Nearest real nuclei",
        "Does a synthetic nucleus repeat a training nucleus? Each is compared with all real ones, but for its own "
        "target and donor. A click on a line shows the pair in Review.",
        measure_neighbors,
    ),
    Evidence(
        "places",
        "Where rare nuclei lie",
        "How well do surroundings tell the places of the rare class from others, on patients or images that the score "
        "did not learn from?",
        measure_places,
    ),
)


def _with_picture(job: Job[Found]) -> Job[tuple[Found, NDArray[np.uint8]]]:
    """What was measured, and its figure, which is read while the window goes on."""
    found = yield from job
    return found, read_pixels(found.chart)


class EvidencePanel(Panel):
    """What to measure, the run, its table and its figure."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.found: Found | None = None
        self.empty, self.note = ui.Note(NOTHING), ui.Note()
        make = self.lead("Make some →", "make/making", "Go to the methods that make them.", beside=self.empty)
        self.choice = ui.choice(
            [(each.title, each) for each in EVIDENCE],
            "What to measure.",
            lambda _at: self._on_choice(),
            name="Evidence",
        )
        self.about = ui.hint("")
        self.progress = RunBar(
            "Measure", self.runner, "Measure it in the background; figure and table are kept in the study's folder."
        )
        self.model = ArrayTableModel(self)
        self.view = table_view(self.model)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.view.setFixedHeight(TABLE_HEIGHT)
        self.view.setAccessibleName("What was measured")
        # A heading that yields is cut at its end, not at both.
        self.view.horizontalHeader().setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self.view.horizontalHeader().setTextElideMode(Qt.TextElideMode.ElideRight)
        self.view.clicked.connect(lambda index: self._go_to(*self.model.items([index.row()])))
        self.picture = Picture()
        self.folder_button = ui.folder_button(lambda: self.found.folder if self.found else None)
        self.results = ui.box(ui.column(self.view, self.picture, self.folder_button), shown=False)
        detector = self.lead(
            "What a network can tell →",
            "review/detector",
            "Go to the detector test of these nuclei or images, in Review.",
        )
        self.contents = ui.box(ui.column(self.choice, self.about, self.progress, self.note, self.results, detector))
        ui.add(self.column, self.empty, make, self.contents)
        self.column.addStretch(1)
        self.progress.run.connect(self.run)
        self.runner.on(finished=self._on_found, failed=partial(self.complain, self.note))
        self.runner.on(cancelled=lambda: self.note.say("Stopped; nothing was kept."))
        for signal in (self.session.study_changed, self.session.changes_changed):
            signal.connect(self._on_study)
        self.session.changes_made.connect(lambda _ids: self._update())
        self._on_study()

    @property
    def chosen(self) -> Evidence:
        evidence: Evidence = self.choice.currentData()
        return evidence

    def _on_choice(self) -> None:
        nuclei = self.session.dataset is None or self.session.dataset.has_nuclei
        self.about.setText(self.chosen.about if nuclei else OF_IMAGES)
        self.choice.setVisible(nuclei)
        self.progress.setVisible(nuclei)

    def _on_study(self) -> None:
        # Its numbers may be given to others: what was measured before is in its folder.
        self.runner.discard()
        self.found = None
        self.results.hide()
        self.note.say("")
        self._update()

    def _update(self) -> None:
        usable = self.session.study is not None and self.session.dataset is not None
        self.empty.say("" if usable else NOTHING)
        self.contents.setVisible(usable)
        self._on_choice()

    # The run.

    def run(self) -> None:
        session, study = self.session, self.session.study
        if self.runner.running or study is None or session.dataset is None:
            return
        self.note.say("")
        rare, major = (tuple(map(session.dataset.class_name, each)) for each in (session.rare, session.major))
        folder = ui.free_folder(Path(study.folder) / FOLDER, self.chosen.name)
        settings = CandidateSettings(rare=rare, major=major)
        make = partial(self.chosen.measure, session.dataset, study, settings, folder)
        self.runner.start(lambda: _with_picture(make()), "measuring")

    def _on_found(self, measured: tuple[Found, NDArray[np.uint8]]) -> None:
        found, picture = measured
        self.found = found
        self.note.say(f"{found.sentence} Kept in {FOLDER}/{found.folder.name} of the study.", "good")
        columns = []
        for at, header in enumerate(found.headers):
            values = np.array([row[at] for row in found.rows], object)
            number = all(isinstance(value, int | float) for value in values)
            columns.append(Column(header, header, "", values, right=number))
            columns[-1].hover = lambda row, values=values: str(values[row])
        self.model.set_columns(columns)
        header_view = self.view.horizontalHeader()
        header_view.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        # The widest yields.
        header_view.setSectionResizeMode(2 if found.changes else 0, QHeaderView.ResizeMode.Stretch)
        self.view.setCursor(Qt.CursorShape.PointingHandCursor if found.changes else Qt.CursorShape.ArrowCursor)
        self.picture.show_picture(picture)
        self.results.show()

    def _go_to(self, row: int) -> None:
        """Show a pair in Review, with its donor and the nearest real nucleus."""
        if self.found is not None and self.found.changes:
            self.session.page_requested.emit(f"review/nearest/{self.found.changes[row]}")
