"""Targets and donors of the tab *One segment*: jobs that look for them and blend one in, and what shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QGridLayout, QSizePolicy, QWidget

from napari_histomix.jobs import make_items
from napari_histomix.methods.mixing import MixPlan, USegMixSettings, donor_choice, no_donor, plan_one, segment_fits
from napari_histomix.methods.segment_stage import read_image
from napari_histomix.methods.usegmix import METHOD, compose
from napari_histomix.records import INPAINTED, Change, Event, HistomixError, Job, LabeledImage, Segment
from napari_histomix.segmentation import segment_map
from napari_histomix.study.curation import Curation
from napari_histomix.widgets.crops import CropView
from napari_histomix.widgets.elements import ACCENT
from napari_histomix.widgets.layer_making import space_like
from napari_histomix.widgets.loading_ahead import prepare_torch
from napari_histomix.widgets.pool.loading import JobMaker, OpenedPool, current_segments, pathless
from napari_histomix.widgets.viewer_layers import about, remove_layer

SHOWN, TRIED = 10, 40
"""Donors to choose from, and those that are tried at most."""
MARGIN = 0.25
"""What is shown around a segment, as a share of its longer side."""
COLUMNS = 5
CELL = 74
"""Height of a donor in the grid, in pixels."""
OUTLINE, CHOSEN = "#2ee6d6", "#ffb000"
"""Segments, and the target among them: both read well on pink and violet."""


@dataclass(frozen=True, eq=False)
class Target:
    """An image of the pool, its segments that nobody dropped (H, W), and their numbers in the pool by label."""

    image: LabeledImage
    labels: NDArray[np.int32]
    numbers: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class Donor:
    """A segment that may replace the target: how likely, from where, and how it looks there before blending.

    ``painted`` is the share of the image that would be painted; ``fit`` says how well it fits, where that was asked.
    """

    number: int
    probability: float
    image: str
    patient: str
    crop: NDArray[np.uint8]
    plan: MixPlan
    painted: float
    fit: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Donors:
    """The likeliest donors of a segment, and how many others were refused for what reason."""

    donors: Sequence[Donor]
    refusals: Counter[str]


def target_job(tissue: OpenedPool, name: str) -> JobMaker:
    """Read an image and draw its segments that nobody dropped."""

    def job() -> Job[Target]:
        yield Event("Reading the image")
        image = read_image(tissue.dataset, tissue.pool, name)
        yield Event("Reading its segments")
        numbers = current_segments(Curation(tissue.study, tissue.pool), name)
        # The large ones first: where segments overlap, the small ones can be clicked too.
        segments = sorted(map(tissue.pool.segment, numbers.values()), key=lambda segment: -segment.area)
        return Target(image, segment_map(segments, image.pixels.shape), numbers)

    return _of_files(tissue, job)


def donors_job(
    tissue: OpenedPool, target: Target, number: int, settings: USegMixSettings, donors: list[Donor]
) -> JobMaker:
    """The likeliest donors of a segment that fit, pasted but not blended; ``donors`` fills while they are made."""
    pool = tissue.pool

    def job() -> Job[Donors]:
        yield Event("Looking for donors")
        # Read anew: a segment may have been dropped in the Pool dock since.
        curation = Curation(tissue.study, pool)
        kind = curation.kind_of(number)
        yield Event("Comparing segments")
        choice = donor_choice(pool, curation.members(kind), kind, settings)
        seams = settings.outline == "seam"
        fits = segment_fits(tissue.dataset, pool, settings) if seams else None
        # Along seams many are refused; as many again are tried.
        best = choice.likeliest(number, TRIED if seams else SHOWN)
        own, images = target.image.source.image, {}
        box = around(pool.segment(number), target.image.pixels.shape)
        refusals = Counter([] if best else [no_donor(choice, number)])
        for done, (donor, probability) in enumerate(best):
            yield Event("Preparing donors", done, len(best))
            plan = plan_one(pool, number, donor, probability, settings.seed, fits=fits)
            if isinstance(plan, str):
                refusals[plan] += 1
                continue
            source = pool.image(donor).source
            if source.image not in images:
                # One at a time: ten large images would not fit into memory.
                image = target.image if source.image == own else read_image(tissue.dataset, pool, source.image)
                images = {source.image: image}
            pixels, origin, _ = compose(target.image, pool, plan.exchanges, images, settings.stain_matching)
            painted, fit = float((origin == INPAINTED).mean()), plan.exchanges[0].fit
            crop = pixels[box].copy()
            donors.append(Donor(donor, probability, source.image, source.patient, crop, plan, painted, fit))
            if len(donors) == SHOWN:
                break
        return Donors(donors, refusals)

    return _of_files(tissue, job)


def blend_job(tissue: OpenedPool, plan: MixPlan, settings: USegMixSettings, loaded: Any = None) -> JobMaker:
    """Carry out the plan that a person chose; its change is in the study then."""

    def job() -> Job[Change]:
        prepare_torch()
        yield Event("Preparing")
        names = {entry.source.image for entry in tissue.dataset.entries}
        taken = {*tissue.study.change_table().made_names, *names}
        new_names = (f"{plan.image} mix {number}" for number in count(1))
        named = replace(plan, name=next(name for name in new_names if name not in taken))
        (made,) = yield from make_items(METHOD, tissue.dataset, settings, tissue.study, [named], loaded)
        return tissue.study.change(made)

    return _of_files(tissue, job)


def _of_files(tissue: OpenedPool, make: JobMaker) -> JobMaker:
    """A job whose error sentences hold no paths, also where a file that it reads is gone."""

    def job() -> Job[Any]:
        try:
            return (yield from make())
        except FileNotFoundError:
            raise HistomixError("A file of the study is no longer where it was; open the study again.") from None

    return pathless(job, tissue.study.folder, tissue.dataset.root)


class SegmentsLayer(QObject):
    """The segments of an image, over the image that the session shows.

    The layer is made once and given new content; one that a person removed is made again.
    """

    selected = Signal(int)
    """The label that a person chose in the layer."""

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self._layer: Labels | None = None
        self._updating = False

    def _on_label(self, event: Any) -> None:
        if not self._updating:
            self.selected.emit(int(event.source.selected_label))

    @property
    def layer(self) -> Labels | None:
        return self._layer if self._layer in self.viewer.layers else None

    def _update(self, layer: Labels, **attributes: Any) -> None:
        self._updating = True
        try:
            for name, value in attributes.items():
                setattr(layer, name, value)
        finally:
            self._updating = False

    def show(self, image: LabeledImage, labels: NDArray[np.int32]) -> None:
        name = image.source.image
        facts = {"image": name, "class": image.kind, "patient": image.source.patient, "mpp": image.mpp, "segments": {}}
        attributes = {"name": f"{name} segments", "metadata": {"histomix": facts}, **self._space(image)}
        if self.layer is None:
            self._layer = Labels(labels, opacity=0.9, colormap=_colors(0), **attributes)
            self._layer.contour = 2
            self._layer.events.selected_label.connect(self._on_label)
            self.viewer.layers.append(self._layer)
        else:
            # Removing a layer collects garbage in all of napari, adding one builds its controls: half a second each.
            self._update(self.layer, data=labels, **attributes)
        self.bring()

    def mark(self, label: int) -> None:
        if self.layer is not None:
            self._update(self.layer, **({"selected_label": label} if label else {}), colormap=_colors(label))

    def bring(self, shown: bool = True) -> None:
        """Bring it onto the screen, on top and selected, or hide it."""
        layer, layers = self.layer, self.viewer.layers
        if layer is None:
            return
        layer.visible = shown
        if shown:
            layers.move(layers.index(layer), len(layers))
            layers.selection.active = layer

    def clear(self) -> None:
        remove_layer(self.viewer, self.layer)

    def _space(self, image: LabeledImage) -> dict[str, Any]:
        """Scale, place and units: those of the image where it is open."""
        name, shape = image.source.image, image.pixels.shape[:2]
        own = (layer for layer in self.viewer.layers if isinstance(layer, Image) and about(layer).get("image") == name)
        return space_like(next((layer for layer in own if layer.data.shape[:2] == shape), None), image.mpp)


def _colors(label: int) -> DirectLabelColormap:
    chosen = {label: CHOSEN} if label else {}
    return DirectLabelColormap(color_dict={None: OUTLINE, 0: "transparent", **chosen})


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
    preferred_size = (CELL, CELL)

    def __init__(self) -> None:
        super().__init__(smooth=True)
        self.donor: Donor | None = None
        self.setMinimumSize(48, CELL)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.show_donor(None)

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
        lines = [
            f"{donor.image}{patient}",
            f"Drawn with a probability of {chance}; {percent(donor.painted)} of the image would be painted.",
            "Pasted, not blended yet.",
        ]
        if fit := donor.fit:
            differs = f"its surroundings differ by {fit['mismatch']:.2f}, along the seam by {fit['seam']:.2f}."
            lines.insert(2, f"It covers {fit['cover']:.0%} of the target; {differs}")
        self.setToolTip("\n".join(lines))
        self.setAccessibleName(f"Donor of {donor.image}, {chance}")

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
        self._mark(None)
        for cell in self.cells:
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
        if donor is not None:
            self._mark(donor)
            self.chosen.emit(donor)

    def _mark(self, donor: Donor | None) -> None:
        self.donor = donor
        for cell in self.cells:
            cell.frame_color = ACCENT if donor is not None and cell.donor is donor else ""
            cell.update()

    def _go(self, place: int) -> None:
        if 0 <= place < self.count:
            self.cells[place].setFocus(Qt.FocusReason.TabFocusReason)


def percent(share: float) -> str:
    """A probability as a person reads it."""
    if share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"
