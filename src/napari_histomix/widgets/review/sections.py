"""Which changes are reviewed, and in which order; these changes as a list; and what the review has come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QComboBox, QHeaderView, QSizePolicy

from napari_histomix.datasets import Dataset, Survey
from napari_histomix.sampling import effective_sample_size
from napari_histomix.study.changes import ChangeTable
from napari_histomix.study.decision_log import REASONS
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.charts import Chart
from napari_histomix.widgets.decisions import APPROVE, WORDS
from napari_histomix.widgets.review.deciding import COLORS, title_of
from napari_histomix.widgets.review.queue import (
    ANY,
    BEST_FIRST,
    BY_DONOR,
    BY_IMAGE,
    CODES,
    DECISIONS,
    DETECTABLE_FIRST,
    NO_REASON,
    NOTED,
    RANDOM,
    WORST_FIRST,
    ReviewQueue,
    Wanted,
    donor_codes,
)
from napari_histomix.widgets.table_model import ArrayTableModel, Column, table_view

if TYPE_CHECKING:
    from napari_histomix.widgets.review.panel import ReviewPanel

STATES = (
    ("Any decision", ""),
    *((WORDS[decision].capitalize(), decision) for decision in DECISIONS),
    ("Any, with deleted", ANY),
)
GIVEN_REASONS = (
    ("Any reason", ""),
    *((reason.capitalize(), reason) for reason in REASONS),
    ("No reason given", NO_REASON),
    ("With a note", NOTED),
)
ORDERS = (
    ("Order: by image", BY_IMAGE),
    ("Order: best fit first", BEST_FIRST),
    ("Order: worst fit first", WORST_FIRST),
    ("Order: most detectable first", DETECTABLE_FIRST),
    ("Order: by donor", BY_DONOR),
    ("Order: at random", RANDOM),
)
DETECTABLE = "How easily the detector test tells them from what is real, at least: 50 is as a real one, 100 at once."
NOT_TESTED = "A test says how easily a network tells each of them from what is real; see “What a network can tell”."
PAUSE, SUMMARY_PAUSE = 200, 150
"""Milliseconds after the last change of a number before it counts, and after a decision before it is summed up."""
ALL_DONORS = "0 "
"""Donors are known by number and image; number 0 stands for all donors of an image."""
LIST_HEIGHT = 180
OFTEN = 6
"""Uses from which donors are counted together."""
NAME_WIDTH, DONOR_WIDTH = 110, 150
LIST_COLORS = {decision: QColor(color) for decision, color in COLORS.items()}


class FilterSection(ui.Section):
    """Decision, class, image, donor, reason, method, sampler, fit, detectability; order and its seed."""

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__("Filter and order (F)", "Review only some of them, or in another order.", opened=False)
        self.panel = panel
        self._late = ui.later(self, PAUSE, panel.on_filter)
        self.decision = self._choice("Decision", "Show only those with this decision.", STATES)
        self.kind = self._choice("Class", "Show only those of this class.")
        self.image = self._choice("Image", "Show only those in this image.")
        self.donor = self._choice("Donor", "Show only copies of this donor, or of donors from this image.")
        self.reason = self._choice("Reason", "Show only those with this reason.", GIVEN_REASONS)
        self.method = self._choice("Method", "Show only those that this method made.")
        self.sampler = self._choice("Sampler", "Show only those in which this sampler painted.", [("Any sampler", "")])
        self._choices = (self.decision, self.kind, self.image, self.donor, self.reason, self.method, self.sampler)
        self.order = self._choice("Order", "What comes next.", ORDERS, self._on_order)
        self.low = self._fit("Lowest fit", 0, "How well they fit where they are, at least (0 to 100).")
        self.high = self._fit("Highest fit", 100, "How well they fit where they are, at most (0 to 100).")
        self.detectable = self._fit("Lowest detectability", 0, DETECTABLE)
        tip = "The same seed gives the same random order."
        self.seed = ui.number(
            0, 999_999, 0, prefix="Seed ", tip=tip, changed=lambda _seed: panel.on_order(), name="Seed"
        )
        self.seed.hide()
        self.clear_button = ui.button("Show all", "Leave nothing out.", self.clear)
        fields = (*self._choices, self.order)
        pairs = (ui.even_row(*pair) for pair in zip(fields[::2], fields[1::2], strict=True))
        fits = ui.row(ui.label("Fit from", wrap=False), self.low, ui.label("to", wrap=False), self.high)
        fits.addStretch(1)
        tip = "Go to the section below that tests how easily a network tells them from what is real."
        self.test_button = ui.button("Test …", tip, lambda: panel.contents.detector.bring_up())
        found = ui.row(ui.label("Detectable from", wrap=False), self.detectable, self.test_button)
        found.addStretch(1)
        ui.add(self.body, *pairs, fits, found, ui.row(self.seed, self.clear_button, stretch=1))

    def _choice(
        self, name: str, tip: str, entries: Iterable[tuple[str, str]] = (), changed: Callable[[], None] | None = None
    ) -> QComboBox:
        changed = changed or self.panel.on_filter
        return ui.choice(entries, tip, lambda _index: changed(), name=name, letters=6)

    def _fit(self, name: str, value: int, tip: str) -> Any:
        return ui.number(0, 100, value, tip=tip, changed=lambda _fit: self._late.start(), name=name)

    def _on_order(self) -> None:
        self.seed.setVisible(self.order.currentData() == RANDOM)
        self.panel.on_order()

    # What is wanted.

    @property
    def wanted(self) -> Wanted:
        donor, _, image = (self.donor.currentData() or ALL_DONORS).partition(" ")
        return Wanted(
            decision=self.decision.currentData(),
            kind=self.kind.currentData() or "",
            image=self.image.currentData() or "",
            donor_image=image,
            donor=int(donor),
            reason=self.reason.currentData(),
            sampler=self.sampler.currentData() or "",
            low=self.low.value(),
            high=self.high.value(),
            method=self.method.currentData() or "",
            detectable=self.detectable.value(),
        )

    @property
    def by(self) -> tuple[str, int]:
        return self.order.currentData(), int(self.seed.value())

    def clear(self) -> None:
        blockers = [QSignalBlocker(field) for field in (*self._choices, self.low, self.high, self.detectable)]
        for field in self._choices:
            field.setCurrentIndex(0)
        self.low.setValue(0)
        self.high.setValue(100)
        self.detectable.setValue(0)
        del blockers
        self.panel.on_filter()

    def choose_donor(self, image: str, instance: int) -> None:
        self.clear()
        self.donor.setCurrentIndex(self.donor.findData(f"{instance} {image}"))

    def show_count(self, queue: ReviewQueue) -> None:
        total = len(queue.table)
        self.state.setText(f"{len(queue):,} of {total:,}" if len(queue) < total else f"all {total:,}")
        self.clear_button.setEnabled(queue.wanted != Wanted())

    # What there is to choose from.

    def set_rows(self) -> None:
        """Offer the classes, images, donors and methods that occur; what was chosen stays where it can."""
        queue, table = self.panel.queue, self.panel.queue.table
        counts = np.bincount(table.names, minlength=len(table.made_names)).tolist()
        images = ((f"{name}  ({count:,})", name) for name, count in zip(table.made_names, counts, strict=True))
        kinds = ((name, name) for name in sorted(set(queue.class_names)) if name)
        ui.offer(self.kind, [("Any class", ""), *kinds])
        ui.offer(self.image, [("Any image", ""), *images])
        ui.offer(self.donor, [("Any donor", ALL_DONORS), *_donors(table)])
        ui.offer(self.method, [("Any method", ""), *((title_of(name), name) for name in table.method_names)])
        self.method.setEnabled(len(table.method_names) > 1)

    def set_samplers(self, names: Iterable[str]) -> None:
        ui.offer(self.sampler, [("Any sampler", ""), *((name.capitalize(), name) for name in names if name)])

    def set_detectability(self, known: bool) -> None:
        """Offer to order and filter by detectors' scores where there are some."""
        self.detectable.setEnabled(known)
        self.detectable.setToolTip(DETECTABLE if known else NOT_TESTED)
        place = self.order.findData(DETECTABLE_FIRST)
        self.order.model().item(place).setEnabled(known)
        self.order.setItemData(place, "" if known else NOT_TESTED, Qt.ItemDataRole.ToolTipRole)


def _donors(table: ChangeTable) -> list[tuple[str, str]]:
    """All donors of an image, then each of them, with how often they occur."""
    pairs, counts = np.unique(np.stack([table.donor_images, table.donors], axis=1), axis=0, return_counts=True)
    by_image: dict[str, list[tuple[int, int]]] = {}
    for (image, donor), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        by_image.setdefault(table.donor_image_names[image], []).append((donor, count))
    entries: list[tuple[str, str]] = []
    for name, donors in sorted(by_image.items()):
        if name:
            entries.append((f"{name}  ({sum(count for _, count in donors):,})", f"0 {name}"))
            entries += [(f"    #{donor} of {name}  ({count:,})", f"{donor} {name}") for donor, count in donors if donor]
    return entries


class ListSection(ui.Section):
    """Number, image, class, fit, method and decision of each change; filled only while it is open."""

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__("List", "All that the filter leaves; click to go there.", opened=False)
        self.queue, self.model = panel.queue, ArrayTableModel(self)
        self.view = view = table_view(self.model)
        self._listed: NDArray[np.intp] | None = None
        view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        view.setSortingEnabled(True)
        view.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        view.setFixedHeight(LIST_HEIGHT)
        view.setAccessibleName("Changes")
        # The keys of the panel go on working after a click.
        view.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        view.clicked.connect(lambda index: panel.move_to_row(*self.model.items([index.row()])))
        self.body.addWidget(view)
        self.toggled.connect(self.refresh)

    def set_rows(self) -> None:
        queue, table = self.queue, self.queue.table
        names, titles = table.made_names, [title_of(name) for name in table.method_names]
        columns = (
            Column("number", "#", "In the order they were made.", table.ids, lambda value: f"{value + 1}", right=True),
            Column("image", "Image", "In which it is seen.", table.names, names.__getitem__),
            Column("class", "Class", "", table.classes, queue.class_names.__getitem__),
            Column("fit", "Fit", "How well it fits, 0 to 100.", table.scores, _fit, right=True),
            Column("method", "Method", "", table.methods, titles.__getitem__),
            Column("decision", "Decision", "", queue.decisions, lambda code: WORDS[DECISIONS[code]]),
        )
        columns[1].hover = lambda row: names[table.names[row]]
        columns[5].color = lambda row: LIST_COLORS.get(DECISIONS[queue.decisions[row]])
        self.model.set_columns(columns)
        self._listed = None
        header = self.view.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        header.setResizeContentsPrecision(50)

    def refresh(self) -> None:
        """Show what the filter leaves, and mark what is under review."""
        if not self.is_open:
            return
        shown = self.queue.shown
        if self._listed is None or not np.array_equal(shown, self._listed):
            self._listed = shown
            self.model.set_filter(items=shown)
        else:
            self.model.set_values("decision", self.queue.decisions)
        self.state.setText(f"{len(shown):,}")
        at = self.model.row_of(self.queue.row) if self.queue.row is not None else None
        with QSignalBlocker(self.view.selectionModel()):
            self.view.clearSelection()
            if at is not None:
                self.view.selectRow(at)
        if at is not None:
            self.view.scrollTo(self.model.index(at, 0))


def _fit(score: float) -> str:
    return "" if np.isnan(score) else f"{score:.0f}"


@dataclass(frozen=True, eq=False)
class DonorUse:
    """How often each donor occurs among some changes."""

    counts: NDArray[np.int64]
    """Of each of the D donors that occur."""
    worth: float
    """The effective number of donors, (Σ n)² / Σ n² (Kish 1965): D where all are used equally often."""
    most: tuple[str, int] | None
    """Image and number of the donor that is used most."""

    @classmethod
    def of(cls, table: ChangeTable, chosen: NDArray[np.bool_]) -> DonorUse:
        """The first donors of the chosen rows."""
        known = np.array([bool(name) for name in table.donor_image_names], bool)
        chosen = chosen & known[table.donor_images] if len(known) else chosen & False
        codes, first, counts = np.unique(donor_codes(table)[chosen], return_index=True, return_counts=True)
        if not len(codes):
            return cls(counts, 0.0, None)
        at = np.flatnonzero(chosen)[first[counts.argmax()]]
        most = table.donor_image_names[table.donor_images[at]], int(table.donors[at])
        return cls(counts, effective_sample_size(np.log(counts)), most)

    def histogram(self) -> list[tuple[str, int]]:
        uses = np.bincount(np.minimum(self.counts, OFTEN), minlength=OFTEN + 1).tolist()
        names = ["used once", "twice", *(f"{times} times" for times in range(3, OFTEN)), f"{OFTEN} or more"]
        last = max((at for at, count in enumerate(uses) if count), default=0)
        return list(zip(names[:last], uses[1 : last + 1], strict=True))


def after_review(
    before: Mapping[int | str, int], table: ChangeTable, chosen: NDArray[np.bool_]
) -> dict[int | str, int]:
    """Nuclei by class number and images by class name once the chosen changes are in: before + added - replaced."""
    after = {}
    for key, count in before.items():
        of_key = np.isin(table.classes, [code for code, known in enumerate(table.class_keys) if known == key])
        placed = table.in_place if isinstance(key, int) else ~table.in_place
        replaced = placed & (table.replaced == key) if isinstance(key, int) else np.zeros(len(table), bool)
        after[key] = count + int(np.count_nonzero(chosen & placed & of_key)) - int(np.count_nonzero(chosen & replaced))
    return after


class SummarySection(ui.Section):
    """Drawn only while it is open, and a moment after the last decision."""

    def __init__(self, panel: ReviewPanel, choose_donor: Callable[[str, int], None]) -> None:
        super().__init__("Summary (Q)", "What the approved changes make of the dataset.", opened=False)
        self.session, self.queue = panel.session, panel.queue
        self.donors, self.classes, self.reasons = Chart(NAME_WIDTH), Chart(NAME_WIDTH), Chart(NAME_WIDTH)
        self.worth, self._classes_title, self._reasons_title = ui.hint(""), ui.heading(""), ui.heading("Reasons")
        self._most: tuple[str, int] | None = None
        tip = "Show only the copies of the donor that is used most."
        self.most_button = ui.button("", tip, lambda: self._most and choose_donor(*self._most))
        self.most_button.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        donors = ui.heading("Donors of the approved ones"), self.donors, self.worth, self.most_button
        ui.add(self.body, *donors, self._classes_title, self.classes, self._reasons_title, self.reasons)
        self.redraw = ui.later(self, SUMMARY_PAUSE, self.draw)
        """A timer: a moment after it is started, the summary is drawn."""
        self.toggled.connect(self.draw)

    def draw(self) -> None:
        """Draw it now, where it is open."""
        if not self.is_open or self.session.dataset is None or self.session.survey is None:
            return
        chosen = self.queue.decisions == CODES[APPROVE]
        self._draw_donors(DonorUse.of(self.queue.table, chosen))
        self._draw_classes(self.session.dataset, self.session.survey, chosen)
        bits = self.queue.reason_bits
        counts = {reason: int(np.count_nonzero(bits & (1 << place))) for place, reason in enumerate(REASONS)}
        given = {reason: count for reason, count in counts.items() if count}
        self.reasons.set_bars([(reason, ui.rgb(ui.CARE), count, None) for reason, count in given.items()])
        self._reasons_title.setVisible(bool(given))
        self.reasons.setVisible(bool(given))

    def _draw_classes(self, dataset: Dataset, survey: Survey, chosen: NDArray[np.bool_]) -> None:
        """Nuclei, or images, of each class in the training images, before and after."""
        images = {entry.source.image for entry in dataset.training}
        counts = [count for name, count in survey.counts.items() if name in images]
        classes: dict[int | str, tuple[str, tuple[int, int, int], int]] = {}
        for kind in dataset.classes if dataset.has_nuclei else ():
            classes[kind.number] = kind.name, kind.color, sum(count[kind.number] for count in counts)
        for name in dataset.kinds:
            classes[name] = name, ui.rgb(ui.ACCENT), sum(entry.kind == name for entry in dataset.training)
        before = {key: count for key, (_, _, count) in classes.items()}
        after = after_review(before, self.queue.table, chosen)
        self.classes.set_bars([(*entry, after[key]) for key, entry in classes.items()])
        words = "Nuclei and images" if dataset.has_nuclei and dataset.kinds else "Images" if dataset.kinds else "Nuclei"
        self._classes_title.setText(f"{words} before and after")

    def _draw_donors(self, use: DonorUse) -> None:
        self.donors.set_bars([(name, ui.rgb(ui.ACCENT), count, None) for name, count in use.histogram()])
        worth = f"{ui.many(len(use.counts), 'donor')}, worth {use.worth:,.1f} used equally often."
        if not len(use.counts):
            worth = "Nothing is approved yet."
        candidates = self.session.candidates
        if candidates is not None and (places := candidates.effective_sample_size) is not None:
            worth += f" Their places were drawn as if from {places:,.0f} equally likely ones."
        self.worth.setText(worth)
        self._most = use.most
        self.most_button.setVisible(use.most is not None)
        if use.most is not None:
            image, donor = use.most
            name = self.fontMetrics().elidedText(image, Qt.TextElideMode.ElideMiddle, DONOR_WIDTH)
            of = f"#{donor} of " if donor else ""
            self.most_button.setText(f"Used most, {ui.many(int(use.counts.max()), 'time')}: {of}{name}")
            self.most_button.setToolTip(f"Show only the copies of {of}{image}.")
