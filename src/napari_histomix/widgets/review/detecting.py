"""Test whether a network can tell what the open study holds from what is real, and see what gives itself away."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtWidgets import QGridLayout, QWidget

from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.study import Study
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import RunBar
from napari_histomix.widgets.charts import Picture
from napari_histomix.widgets.forms import SettingsForm
from napari_histomix.widgets.jobs import JobRunner, single
from napari_histomix.widgets.loading_ahead import prepare_torch
from napari_histomix.widgets.review.queue import DETECTABLE_FIRST, GONE
from napari_histomix.widgets.session import window_of

if TYPE_CHECKING:
    from napari_histomix.evaluation.detector import DetectorReport, DetectorSettings, MethodTest, Result
    from napari_histomix.widgets.review.panel import ReviewPanel

HOW = (
    "A small network learns from some of the patients or images to tell synthetic from real, and is asked about the "
    "others. AUC 0.5: it cannot tell; 1: it always can. Hard paste: the same changes without blending."
)
TIP = "Train and ask the network, in the background. What is rejected or deleted is left out."
NOTHING_LEFT = (
    "There is nothing to test: it takes nuclei in real images, or images derived from real ones, that are not rejected."
)
GIVEN_UP = "The study was changed, or another was opened: the test was given up, and nothing of it is kept."
TESTED = "The scores are kept: order and filter by them, or go through the most detectable ones."
NAME = "detector test"
"""Of the folder of a report."""
ROWS = 4
"""Crops of each kind that are shown; a report has more."""
UNKNOWN = "–"


@dataclass(frozen=True, eq=False)
class Tested:
    """What a test found, and the crops (H, W, 3) uint8 that give themselves away most."""

    report: DetectorReport
    sheet: NDArray[np.uint8]


def detect_job(study: Study, images: Path | None, settings: DetectorSettings) -> Job[Tested]:
    """Test a study; ``images`` says where its images are now, where the study itself cannot be told."""
    prepare_torch()
    yield Event("Opening the images")
    from napari_histomix.evaluation.detector import detector_test
    from napari_histomix.evaluation.detector_report import contact_sheet

    report = yield from detector_test([study], settings, images=images)
    return Tested(report, contact_sheet(report, ROWS))


class DetectorSection(ui.Section):
    """Settings, the run, its figures and crops, and the report's way to the disk; built when it is opened first."""

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__(
            "What a network can tell", "Test how easily a small network tells them from what is real.", opened=False
        )
        self.panel, self.session, self.queue = panel, panel.session, panel.queue
        self.form: SettingsForm | None = None
        self.report: DetectorReport | None = None
        self._saved: Path | None = None
        self.runner, self.writer = JobRunner(self, window_of(panel.viewer)), JobRunner(self)
        self.session.follow(self.runner, heavy=True)
        self.bar = RunBar("Test", self.runner, TIP, pausable=True)
        self.options, self.why, self.note = ui.column(), ui.Note(), ui.Note()
        self.tables, self.remarks, self.picture = ui.column(), ui.Note(), Picture()
        self.picture.setToolTip("The crops that the network is surest of; the saved report shows more of them.")
        self.order_button = ui.button(
            "Most detectable first", "Order the review by the scores, and begin with the highest.", self.review
        )
        self.save_button = ui.asking_button(
            "Save report …",
            "Write the tables, all figures and the crops to a new folder in the one that you choose.",
            "The folder in which the report's folder is made",
            self.save,
            lambda: self.session.study_folder,
        )
        self.folder_button = ui.folder_button(lambda: self._saved, shown=False)
        buttons = ui.even_row(self.order_button, self.save_button)
        parts = (self.tables, self.remarks, buttons, self.folder_button, self.picture)
        self.results = ui.box(ui.column(*parts), shown=False)
        ui.add(self.body, ui.hint(HOW), self.options, self.bar, self.why, self.note, self.results)
        self.toggled.connect(self.refresh)
        self.bar.run.connect(self.run)
        failed = partial(panel.complain, self.note)
        self.runner.on(finished=self._on_tested, failed=failed, cancelled=self._on_cancelled)
        self.runner.on(running_changed=self._on_running)
        self.writer.on(finished=self._on_saved, failed=failed)
        # Ids of what was taken back may be given to others: scores of a study as it was are of no use.
        for signal in (self.session.study_changed, self.session.changes_changed):
            signal.connect(self.forget)

    def bring_up(self) -> None:
        """Open the section and scroll to it."""
        self.open()
        ui.reveal(self)

    # What can be tested.

    def refresh(self) -> None:
        """Show what can be tested now."""
        if not self.is_open:
            return
        form, table = self.form or self._build(), self.queue.table
        for name, shown in (
            ("hide", table.in_place.any()),
            ("side", table.in_place.any()),
            ("epochs", table.in_place.any()),
            ("tissue_side", not table.in_place.all()),
            ("tissue_steps", not table.in_place.all()),
            ("per_image", not table.in_place.all()),
        ):
            form.show_setting(name, bool(shown))
        problem = "" if self.runner.running else self.problem()
        self.bar.allow(not problem, problem)
        self.why.say(problem)

    def _build(self) -> SettingsForm:
        # The statistics behind it take a while to load.
        from napari_histomix.evaluation.detector import DetectorSettings

        self.form = SettingsForm(DetectorSettings)
        self.options.addWidget(self.form)
        return self.form

    def problem(self) -> str:
        """Why nothing can be tested; empty where it can."""
        table = self.queue.table
        of_real = np.array([bool(name) for name in table.image_names], bool)
        left = ~np.isin(self.queue.decisions, GONE)
        return "" if len(table) and (left & of_real[table.images]).any() else NOTHING_LEFT

    # The run.

    def run(self) -> None:
        """Test what the study holds and nobody rejected."""
        study, dataset = self.session.study, self.session.dataset
        if self.runner.running or self.form is None or study is None or dataset is None or self.problem():
            return
        from napari_histomix.evaluation.detector import DetectorSettings

        self.forget()
        # A study that can only be read was told for this time where its images are.
        images = Path(dataset.root) if study.read_only else None
        self.runner.start(
            partial(detect_job, study, images, self.form.value(DetectorSettings)), "testing with a network"
        )

    def forget(self) -> None:
        """Give up the test that is under way, and show nothing of one before."""
        self.runner.discard()
        self.report, self._saved = None, None
        for part in (self.note, self.remarks):
            part.say("")
        self.results.hide()
        self.state.setText("")

    def _on_running(self, running: bool) -> None:
        if self.form is not None:
            self.form.setEnabled(not running)
        self.state.setText("testing …" if running else "")
        self.refresh()

    def _on_cancelled(self) -> None:
        if self.runner.discarded:
            self.note.say(GIVEN_UP, "warning")
        else:
            self.note.say("Stopped; nothing was kept.")

    # What was found.

    def _on_tested(self, tested: Tested) -> None:
        from napari_histomix.evaluation.detector import keep_scores

        self.report, study = tested.report, self.session.study
        assert study is not None
        try:
            keep_scores(tested.report, study)
            self.note.say(TESTED, "good")
        except HistomixError as error:
            # The figures stand without them.
            self.note.say(f"The scores are not kept for the review: {error}", "warning")
        self._show(tested)
        self.panel.contents.read_detectability(study)
        self.panel.contents.show_all()

    def _show(self, tested: Tested) -> None:
        from napari_histomix.evaluation.detector_report import figure_text, title_of

        ui.clear(self.tables)
        for test in tested.report.tests:
            ui.add(self.tables, ui.label(title_of(test), plain=True), result_table(test))
        self.state.setText(", ".join(f"AUC {figure_text(test.own.auc) or UNKNOWN}" for test in tested.report.tests))
        self.remarks.say("\n".join(tested.report.notes))
        self.picture.show_picture(tested.sheet)
        self.folder_button.hide()
        self.results.show()

    def review(self) -> None:
        """Put what gave itself away most first, and go there."""
        order = self.panel.contents.filters.order
        order.setCurrentIndex(order.findData(DETECTABLE_FIRST))
        self.panel.move_to(0)
        ui.reveal(self.panel.contents.views)

    # The report.

    def save(self, parent: Path) -> None:
        """Write the report to a new folder in ``parent``."""
        report, folder = self.report, ui.free_folder(parent, NAME)
        if report is None:
            return

        def write() -> Path:
            from napari_histomix.evaluation.detector_report import report_values, write_report

            write_report(report, report_values(report), folder)
            return folder

        self.writer.start(single(write, "Writing the report"), "writing a report")

    def _on_saved(self, folder: Path) -> None:
        self._saved = folder
        self.note.say(f"Written to the folder {folder.name}.", "good")
        self.folder_button.show()


def result_table(test: MethodTest) -> QWidget:
    """AUCs of a method by what was hidden, its hard paste's beside them, and that of the nuclei's area alone.

    What each comes to within an image, and by what was at the place before, stands in its tooltip.
    """
    from napari_histomix.evaluation.detector import AREA, HARD_PASTE, UNFITTED
    from napari_histomix.evaluation.detector_windows import HIDDEN

    by_variant: dict[str, dict[str, Result]] = {}
    for result in test.results:
        by_variant.setdefault(result.variant, {})[result.hide] = result
    pasted = by_variant.get(HARD_PASTE, {})
    grid = QGridLayout()
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setHorizontalSpacing(2 * ui.SPACE)
    grid.setColumnStretch(2, 1)
    for column, heading in enumerate(("Hidden", "AUC", "Hard paste" if pasted else "")):
        grid.addWidget(ui.heading(heading), 0, column)
    lines = [(hide, HIDDEN[hide], result, pasted.get(hide)) for hide, result in by_variant[test.method].items()]
    for variant, tip in (
        (UNFITTED, "The donors' tissue as it lies in their images, neither turned nor restained."),
        (AREA, "No network: how large the nucleus is, taken for a score."),
    ):
        lines += [(variant, tip, result, None) for result in by_variant.get(variant, {}).values()]
    for row, (name, tip, *results) in enumerate(lines, start=1):
        title = ui.label(name, wrap=False)
        title.setToolTip(tip)
        grid.addWidget(title, row, 0)
        for column, one in enumerate(results, start=1):
            if one is not None:
                grid.addWidget(_figure_label(one), row, column)
    return ui.box(grid)


def _figure_label(result: Result) -> QWidget:
    from napari_histomix.evaluation.detector_report import figure_text

    parts = {"within an image": result.same_image, **result.by_target}
    label = ui.label(figure_text(result.auc) or UNKNOWN, wrap=False)
    label.setToolTip("\n".join(f"{name.capitalize()}: {figure_text(part) or UNKNOWN}" for name, part in parts.items()))
    return label
