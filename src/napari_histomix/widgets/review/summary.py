"""What the review has come to: donors and how often they were used, classes before and after, reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QSizePolicy

from napari_histomix.sampling import effective_sample_size
from napari_histomix.study.decision_log import REASONS
from napari_histomix.widgets.charts import Chart
from napari_histomix.widgets.decisions import APPROVE
from napari_histomix.widgets.elements import ACCENT, CARE, Section, add, button, heading, hint, later, many, rgb
from napari_histomix.widgets.review.queue import CODES, ChangeRows, Marks

OFTEN = 6
"""Uses from which donors are counted together."""
PAUSE = 150
"""Milliseconds after a decision before the summary is drawn anew."""
NAME_WIDTH, DONOR_WIDTH = 110, 150
Classes = dict[int | str, tuple[str, tuple[int, int, int]]]
"""Name and color of classes of nuclei by number, and of images by name."""


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
    def of(cls, rows: ChangeRows, chosen: NDArray[np.bool_]) -> DonorUse:
        """The first donors of the chosen rows."""
        table = rows.table
        known = np.array([bool(name) for name in table.donor_image_names], bool)
        chosen = chosen & known[table.donor_images] if len(known) else chosen & False
        codes, first, counts = np.unique(rows.donor_codes[chosen], return_index=True, return_counts=True)
        if not len(codes):
            return cls(counts, 0.0, None)
        at = np.flatnonzero(chosen)[first[counts.argmax()]]
        most = table.donor_image_names[table.donor_images[at]], int(table.donors[at])
        return cls(counts, effective_sample_size(np.log(counts)), most)

    def histogram(self) -> list[tuple[str, int]]:
        """How many donors were used once, twice and so on."""
        uses = np.bincount(np.minimum(self.counts, OFTEN), minlength=OFTEN + 1).tolist()
        names = ["used once", "twice", *(f"{times} times" for times in range(3, OFTEN)), f"{OFTEN} or more"]
        last = max((at for at, count in enumerate(uses) if count), default=0)
        return list(zip(names[:last], uses[1 : last + 1], strict=True))


def after_review(before: Mapping[int | str, int], rows: ChangeRows, chosen: NDArray[np.bool_]) -> dict[int | str, int]:
    """Nuclei by class number and images by class name once the chosen changes are in: before + added - replaced."""
    table, after = rows.table, {}
    for key, count in before.items():
        of_key = np.isin(table.classes, [code for code, known in enumerate(table.class_keys) if known == key])
        placed = table.in_place if isinstance(key, int) else ~table.in_place
        replaced = placed & (table.replaced == key) if isinstance(key, int) else np.zeros(len(rows), bool)
        after[key] = count + int(np.count_nonzero(chosen & placed & of_key)) - int(np.count_nonzero(chosen & replaced))
    return after


class SummarySection(Section):
    """Drawn only while it is open, and a moment after the last decision; ``choose_donor`` shows copies of a donor."""

    def __init__(self, choose_donor: Callable[[str, int], None]) -> None:
        super().__init__("Summary (Q)", "What the approved changes make of the dataset.", opened=False)
        self.donors, self.classes, self.reasons = Chart(NAME_WIDTH), Chart(NAME_WIDTH), Chart(NAME_WIDTH)
        self.worth, self._classes_title, self._reasons_title = hint(""), heading(""), heading("Reasons")
        self._most: tuple[str, int] | None = None
        self.most_button = button("", pressed=lambda: self._most and choose_donor(*self._most))
        self.most_button.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        donors = heading("Donors of the approved ones"), self.donors, self.worth, self.most_button
        add(self.body, *donors, self._classes_title, self.classes, self._reasons_title, self.reasons)
        self._work: tuple[ChangeRows, Marks, Classes, Mapping[int | str, int], float | None] | None = None
        self._late = later(self, PAUSE, self.draw)
        self.toggled.connect(self.draw)

    def set_work(
        self, rows: ChangeRows, marks: Marks, classes: Classes, before: Mapping[int | str, int], places: float | None
    ) -> None:
        """Summarize these changes.

        ``before`` are the nuclei, or images, of each class in the training images, ``places`` the effective sample
        size of the candidate locations that the changes were drawn from.
        """
        self._work = rows, marks, classes, before, places
        self._late.start()

    def refresh(self) -> None:
        self._late.start()

    def draw(self) -> None:
        """Draw it now, where it is open."""
        if self._work is None or not self.is_open:
            return
        rows, marks, classes, before, places = self._work
        chosen = marks.decisions == CODES[APPROVE]
        use = DonorUse.of(rows, chosen)
        self._draw_donors(use, places)
        after = after_review(before, rows, chosen)
        top = max([*before.values(), *after.values()], default=0) or 1
        bars = []
        for key, (name, color) in classes.items():
            was, will = before.get(key, 0), after.get(key, 0)
            change = f"  ({will - was:+,})" if will != was else ""
            bars.append((name, color, was / top, will / top, f"{was:,} → {will:,}{change}"))
        self.classes.set_bars(bars)
        kinds = {type(key) for key in classes}
        words = "Nuclei and images" if len(kinds) > 1 else "Images" if str in kinds else "Nuclei"
        self._classes_title.setText(f"{words} before and after")
        counts = {reason: int(np.count_nonzero(marks.reasons & (1 << bit))) for bit, reason in enumerate(REASONS)}
        given = {reason: count for reason, count in counts.items() if count}
        care, most = rgb(CARE), max(given.values(), default=1)
        self.reasons.set_bars([(reason, care, count / most, 0.0, f"{count:,}") for reason, count in given.items()])
        self._reasons_title.setVisible(bool(given))
        self.reasons.setVisible(bool(given))

    def _draw_donors(self, use: DonorUse, places: float | None) -> None:
        histogram = use.histogram()
        color, top = rgb(ACCENT), max((count for _, count in histogram), default=0) or 1
        self.donors.set_bars([(name, color, count / top, 0.0, f"{count:,}") for name, count in histogram])
        worth = f"{many(len(use.counts), 'donor')}, worth {use.worth:,.1f} used equally often."
        if not len(use.counts):
            worth = "Nothing is approved yet."
        if places is not None:
            worth += f" Their places were drawn as if from {places:,.0f} equally likely ones."
        self.worth.setText(worth)
        self._most = use.most
        self.most_button.setVisible(use.most is not None)
        if use.most is not None:
            image, donor = use.most
            name = self.fontMetrics().elidedText(image, Qt.TextElideMode.ElideMiddle, DONOR_WIDTH)
            of = f"#{donor} of " if donor else ""
            self.most_button.setText(f"Used most, {many(int(use.counts.max()), 'time')}: {of}{name}")
            self.most_button.setToolTip(f"Show only the copies of {of}{image}.")
