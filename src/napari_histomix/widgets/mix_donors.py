"""Donors of the Mix dock: the jobs that look for them and blend one in, and the grid in which a person chooses one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QGridLayout, QSizePolicy, QWidget

from napari_histomix.jobs import make_items
from napari_histomix.methods.segment_stage import read_image
from napari_histomix.methods.usegmix import METHOD, MixPlan, USegMixSettings, compose, donor_choice, plan_one
from napari_histomix.records import Change, Event, HistomixError, Job, LabeledImage, Segment
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.widgets.elements import ACCENT, CropView
from napari_histomix.widgets.jobs import prepare_torch
from napari_histomix.widgets.pool.loading import pathless

SHOWN = 10
"""Donors to choose from."""
MARGIN = 0.25
"""What is shown around a segment, as a share of its longer side."""
COLUMNS = 5
CELL = 74
"""Height of a donor in the grid, in pixels."""


@dataclass(frozen=True, eq=False)
class Target:
    """An image of the pool, its segments that nobody dropped (H, W), and their numbers in the pool by label."""

    image: LabeledImage
    labels: NDArray[np.int32]
    numbers: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class Donor:
    """A segment that may replace the target: how likely, from where, and how it looks there before blending."""

    number: int
    probability: float
    image: str
    patient: str
    crop: NDArray[np.uint8]
    plan: MixPlan


@dataclass(frozen=True, eq=False)
class Tissue:
    """A study, its pool and its dataset."""

    study: Study
    pool: SegmentPool
    dataset: Any

    def _job(self, make: Callable[[], Job[Any]]) -> Callable[[], Job[Any]]:
        def job() -> Job[Any]:
            try:
                return (yield from make())
            except FileNotFoundError:
                raise HistomixError("A file of the study is no longer where it was; open the study again.") from None

        return pathless(job, self.study.folder, self.dataset.root)

    def target_job(self, name: str) -> Callable[[], Job[Target]]:
        """Read an image and draw its segments that nobody dropped."""
        pool = self.pool

        def job() -> Job[Target]:
            yield Event("Reading the image")
            image = read_image(self.dataset, pool, name)
            yield Event("Reading its segments")
            curation = Curation(self.study, pool)
            indices = [index for index, known in enumerate(pool.images) if known.source.image == name]
            # An image that was divided again has two segments of a label: the later one counts.
            own = np.flatnonzero(np.isin(curation.image, indices))
            numbers = {int(pool.rows["number"][number]): int(number) for number in own}
            allowed = curation.allowed()
            numbers = {label: number for label, number in numbers.items() if allowed[number]}
            labels = np.zeros(image.pixels.shape[:2], np.int32)
            for label, number in sorted(numbers.items(), key=lambda item: -int(pool.rows["area"][item[1]])):
                # The large ones first: where segments overlap, the small ones can be clicked too.
                segment = pool.segment(number)
                labels[segment.window][segment.mask] = label
            return Target(image, labels, numbers)

        return self._job(job)

    def donors_job(
        self, target: Target, number: int, settings: USegMixSettings, donors: list[Donor]
    ) -> Callable[[], Job[list[Donor]]]:
        """The likeliest donors of a segment, each pasted but not blended; ``donors`` fills while they are made."""
        pool = self.pool

        def job() -> Job[list[Donor]]:
            yield Event("Looking for donors")
            # Read anew: a segment may have been dropped in the Pool dock since.
            curation = Curation(self.study, pool)
            kind = curation.kind_of(number)
            yield Event("Comparing segments")
            best = donor_choice(pool, curation.members(kind), kind, settings).likeliest(number, SHOWN)
            own, images = target.image.source.image, {}
            box = around(pool.segment(number), target.image.pixels.shape)
            for done, (donor, probability) in enumerate(best):
                yield Event("Preparing donors", done, len(best))
                source = pool.image(donor).source
                if source.image not in images:
                    # One at a time: ten large images would not fit into memory.
                    image = target.image if source.image == own else read_image(self.dataset, pool, source.image)
                    images = {source.image: image}
                plan = plan_one(pool, number, donor, probability, settings.seed)
                pixels, _, _ = compose(target.image, pool, plan.exchanges, images, settings.stain_matching)
                donors.append(Donor(donor, probability, source.image, source.patient, pixels[box].copy(), plan))
            return donors

        return self._job(job)

    def one_job(self, plan: MixPlan, settings: USegMixSettings, loaded: Any = None) -> Callable[[], Job[Change]]:
        """Carry out the plan that a person chose; its change is in the study then."""

        def job() -> Job[Change]:
            prepare_torch()
            yield Event("Preparing")
            names = {entry.source.image for entry in self.dataset.entries}
            taken, number = {*self.study.change_table().made_names, *names}, 1
            while f"{plan.image} mix {number}" in taken:
                number += 1
            named = replace(plan, name=f"{plan.image} mix {number}")
            (made,) = yield from make_items(METHOD, self.dataset, settings, self.study, [named], loaded)
            return self.study.change(made)

        return job


def around(segment: Segment, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """A square around a segment, as far as its image reaches."""
    longest = max(segment.mask.shape)
    side = longest + 2 * max(8, round(MARGIN * longest))
    rows, cols = (
        # At the border it is moved inward, not cut: all donors are shown at one size.
        (max(0, min((part.start + part.stop - side) // 2, size - side)), size)
        for part, size in zip(segment.window, shape[:2], strict=True)
    )
    return slice(rows[0], min(rows[1], rows[0] + side)), slice(cols[0], min(cols[1], cols[0] + side))


class DonorCell(CropView):
    """A donor, pasted and not blended yet; a click, Space or Enter chooses it."""

    stepped = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.smooth = True
        self.donor: Donor | None = None
        self.setMinimumSize(48, CELL)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.show_donor(None)

    def sizeHint(self) -> QSize:
        return QSize(CELL, CELL)

    def show_donor(self, donor: Donor | None) -> None:
        self.donor = donor
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus if donor else Qt.FocusPolicy.NoFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor if donor else Qt.CursorShape.ArrowCursor)
        if donor is None:
            self.show_pixels(None, "")
            self.setToolTip("A likely donor will be shown here.")
            self.setAccessibleName("No donor")
            return
        chance = percent(donor.probability)
        self.show_pixels(donor.crop, chance)
        patient = f" · patient {donor.patient}" if donor.patient else ""
        self.setToolTip(f"{donor.image}{patient}\nDrawn with a probability of {chance}. Pasted, not blended yet.")
        self.setAccessibleName(f"Donor of {donor.image}, {chance}")

    def set_chosen(self, chosen: bool) -> None:
        self.frame_color = ACCENT if chosen else ""
        self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if self.donor is not None and event.button() == Qt.MouseButton.LeftButton:
            self.clicked.emit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        steps = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1, Qt.Key.Key_Up: -COLUMNS, Qt.Key.Key_Down: COLUMNS}
        key = Qt.Key(event.key())
        if key in (Qt.Key.Key_Space, Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.donor is not None:
            self.clicked.emit()
        elif key in steps:
            self.stepped.emit(steps[key])
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        if self.donor is None:
            painter = QPainter(self)
            painter.fillRect(self.rect(), QColor(128, 128, 128, 40))
            painter.end()
            return
        super().paintEvent(event)
        if self.hasFocus():
            painter = QPainter(self)
            painter.setPen(QPen(QColor("white"), 1, Qt.PenStyle.DashLine))
            painter.drawRect(self.rect().adjusted(5, 5, -6, -6))
            painter.end()


class DonorGrid(QWidget):
    """The likeliest donors in rows of five."""

    chosen = Signal(object)
    """The ``Donor`` that a person chose."""

    def __init__(self) -> None:
        super().__init__()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(3)
        self.cells = [DonorCell() for _ in range(SHOWN)]
        for place, cell in enumerate(self.cells):
            grid.addWidget(cell, place // COLUMNS, place % COLUMNS)
            cell.clicked.connect(lambda place=place: self.choose(place))
            cell.stepped.connect(lambda by, place=place: self._go(place + by))
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.donor: Donor | None = None

    @property
    def count(self) -> int:
        return sum(cell.donor is not None for cell in self.cells)

    def clear(self) -> None:
        self.donor = None
        for cell in self.cells:
            cell.set_chosen(False)
            cell.show_donor(None)

    def fill(self, donors: Sequence[Donor]) -> None:
        """Show donors, the first ones of whom may be shown already; the likeliest is chosen until a person does."""
        for cell, donor in zip(self.cells, donors, strict=False):
            if cell.donor is not donor:
                cell.show_donor(donor)
        if self.donor is None and donors:
            self.choose(0)

    def choose(self, place: int) -> None:
        donor = self.cells[place].donor
        if donor is None:
            return
        self.donor = donor
        for cell in self.cells:
            cell.set_chosen(cell.donor is donor)
        self.chosen.emit(donor)

    def _go(self, place: int) -> None:
        if 0 <= place < len(self.cells) and self.cells[place].donor is not None:
            self.cells[place].setFocus(Qt.FocusReason.TabFocusReason)


def percent(share: float) -> str:
    """A probability as a person reads it."""
    if share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"
