"""A segment pool: the page that builds it, and the lower half of the Segments dock, which shows and corrects it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers import Image, Labels
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_histomix.datasets import Dataset, open_tissue
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.datasets.splits import with_chosen_splits
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, Segment
from napari_histomix.segmentation import segment_map, segments_of
from napari_histomix.segmentation.pool import PoolImage, SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.study.database import READ_ONLY, WriteLock
from napari_histomix.widgets.base import RunBar
from napari_histomix.widgets.elements import (
    SPACE,
    Note,
    ask_folder,
    box,
    button,
    choice,
    column,
    even_row,
    heading,
    hint,
    label,
    later,
    many,
    row,
)
from napari_histomix.widgets.jobs import JobRunner, prepare_torch, prepare_units
from napari_histomix.widgets.loading import Found, Opened, open_job
from napari_histomix.widgets.plan_panel import PlanPage, ready
from napari_histomix.widgets.pool.loading import pathless
from napari_histomix.widgets.segments.layers import Divided, Picture, features_of, labels_of, picture_of, unusable
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer_layers import about

if TYPE_CHECKING:
    from napari_histomix.widgets.segments.panel import FindForm


@dataclass(frozen=True, eq=False)
class OpenPool:
    """A study with its pool, and its images where they can be read."""

    study: Study
    pool: SegmentPool
    dataset: Dataset | None

    def curation(self) -> Curation:
        """The pool with everything that was decided so far, in whatever window."""
        return Curation(self.study, SegmentPool(self.study.folder))


def open_pool_job(folder: Path, lock: WriteLock) -> Callable[[], Job[OpenPool]]:
    """Open a study that has a pool; ``lock`` is the window's right to write to it."""

    def job() -> Job[OpenPool]:
        yield Event("Opening the study")
        study = Study.open(folder, lock)
        study.hold()
        pool = SegmentPool(folder)
        try:
            dataset = with_chosen_splits(open_tissue(study.dataset_root, mpp=study.mpp), study.settings())
        except (HistomixError, OSError):
            # The images may have been moved; what lies open in the viewer can be corrected all the same.
            dataset = None
        return OpenPool(study, pool, dataset)

    return pathless(job, folder)


# One image of the pool.


def pool_image(pool: SegmentPool, facts: Mapping[str, Any]) -> PoolImage | None:
    """The image of a pool that a layer's metadata speaks of: the one with its pixels, or else of its name."""
    if facts.get("sha256"):
        return next((image for image in pool.images if image.sha256 == facts["sha256"]), None)
    return next((image for image in pool.images if image.source.image == facts.get("image")), None)


def numbers_of(curation: Curation, name: str) -> dict[int, list[int]]:
    """For every label of an image the numbers of its segments in the pool, those not dropped last, then by age."""
    pool, allowed = curation.pool, curation.allowed()
    indices = [index for index, image in enumerate(pool.images) if image.source.image == name]
    numbers: dict[int, list[int]] = {}
    for number in np.flatnonzero(np.isin(pool.rows["image"], indices)).tolist():
        numbers.setdefault(int(pool.rows["number"][number]), []).append(number)
    return {label: sorted(same, key=lambda number: (allowed[number], number)) for label, same in numbers.items()}


def divided_of(curation: Curation, image: PoolImage) -> Divided:
    """The segments of an image that a pool holds, without the dropped ones; a label made twice is the newer one."""
    pool, allowed = curation.pool, curation.allowed()
    current = [same[-1] for same in numbers_of(curation, image.source.image).values() if allowed[same[-1]]]
    segments = [pool.segment(number) for number in current]
    features = features_of(segments, image.shape, image.mpp, [curation.kind_of(number) for number in current])
    facts = {
        "image": image.source.image,
        "class": image.kind,
        "prompter": pool.signature.get("prompter", ""),
        "settings": dict(pool.signature.get("anchors", {})),
        "segments": len(segments),
        "sha256": image.sha256,
    }
    return Divided(segment_map(segments, image.shape), features, facts)


@dataclass(frozen=True, eq=False)
class Shown:
    """An image of a pool with its segments."""

    image: LabeledImage
    divided: Divided


def show_job(opened: OpenPool, name: str) -> Callable[[], Job[Shown]]:
    """Read an image of the pool, and its segments as they are now."""

    def job() -> Job[Shown]:
        yield Event("Reading the image")
        curation = opened.curation()
        image = next((image for image in curation.pool.images if image.source.image == name), None)
        if image is None:
            raise HistomixError(f"The pool has no image {name}.")
        if opened.dataset is None:
            raise HistomixError("The images of this study are no longer where they were; put them back.")
        pixels = opened.dataset.read(name).pixels
        if pixels_sha256(pixels) != image.sha256:
            raise HistomixError(f"The image {name} is not the one that the pool was made of; build the pool again.")
        return Shown(LabeledImage.of_kind(pixels, image.kind, image.mpp, image.source), divided_of(curation, image))

    return pathless(job, opened.study.folder)


# Corrections.


@dataclass(frozen=True, eq=False)
class Corrected:
    """How many segments were replaced, added and dropped; the pool as it is now, and the image's features."""

    counts: dict[str, int]
    opened: OpenPool
    features: pd.DataFrame

    def words(self) -> str:
        parts = [(count, what) for what, count in self.counts.items() if count]
        if not parts:
            return "Nothing differs from the pool."
        (count, what), *rest = parts
        return ", ".join([f"{many(count, 'segment')} {what}", *(f"{count:,} {what}" for count, what in rest)]) + "."


def correct_job(
    opened: OpenPool, facts: Mapping[str, Any], labels: NDArray[np.int32], pictures: Sequence[Picture], encoder: str
) -> Callable[[], Job[Corrected]]:
    """Take what a person painted into the pool: changed and new segments are added, what they replace is dropped.

    ``facts`` is the layer's metadata. The ``pictures`` of open images are asked where the dataset cannot be read, and
    ``encoder`` is what the pool was made with, where the study does not say.
    """

    def job() -> Job[Corrected]:
        from napari_histomix.methods.segment_stage import correct_pool

        yield Event("Comparing segments")
        if opened.study.read_only:
            raise HistomixError(READ_ONLY)
        curation = opened.curation()
        image = pool_image(curation.pool, facts)
        if image is None:
            raise HistomixError(f"The image {facts.get('image', '')} is not the one that the pool was made of.")
        if labels.shape != image.shape:
            (rows, cols), (height, width) = labels.shape, image.shape
            raise HistomixError(f"The labels are {cols}×{rows} pixels but the image is {width}×{height}.")
        known, allowed = numbers_of(curation, image.source.image), curation.allowed()
        before = {segment.number: segment for segment in segments_of(divided_of(curation, image).labels)}
        drawn = {segment.number: segment for segment in segments_of(labels)}
        new = []
        for number, segment in drawn.items():
            # One that was dropped stays dropped as long as nobody paints on it.
            same = before.get(number) or (curation.pool.segment(known[number][-1]) if number in known else None)
            if same is None or not _equal(segment, same):
                new.append(segment)
        replaced = {
            segment.number: known[segment.number][-1]
            for segment in new
            if segment.number in known and allowed[known[segment.number][-1]]
        }
        gone = [known[number][-1] for number in before.keys() - drawn.keys()]
        # An older one of the same label may be left where an earlier time was interrupted.
        over = [number for numbers in known.values() for number in numbers[:-1] if allowed[number]] + gone
        places: dict[int, int] = {}
        if new:
            spec = opened.study.settings().get("pool_settings", {}).get("encoder", encoder)
            if spec != "texture":
                prepare_torch()
            tissue = _read(opened, image, pictures)
            first = yield from correct_pool(opened.study.folder, tissue, new, spec)
            curation = opened.curation()
            places = {
                replaced[segment.number]: number
                for number, segment in enumerate(new, start=first)
                if segment.number in replaced
            }
        curation.correct(places, over)
        counts = {"replaced": len(replaced), "added": len(new) - len(replaced), "dropped": len(gone)}
        now = OpenPool(opened.study, curation.pool, opened.dataset)
        return Corrected(counts, now, divided_of(curation, image).features)

    return pathless(job, opened.study.folder)


def _equal(segment: Segment, other: Segment) -> bool:
    return (segment.row, segment.col) == (other.row, other.col) and np.array_equal(segment.mask, other.mask)


def _read(opened: OpenPool, image: PoolImage, pictures: Sequence[Picture]) -> LabeledImage:
    """The image that segments were drawn in, from its dataset or from an open layer."""
    name = image.source.image

    def from_dataset() -> NDArray[np.uint8] | None:
        try:
            return opened.dataset.read(name).pixels if opened.dataset is not None else None
        except HistomixError:
            return None

    for read in (from_dataset, *(picture.pixels for picture in pictures)):
        pixels = read()
        if pixels is not None and pixels_sha256(pixels) == image.sha256:
            return LabeledImage.of_kind(pixels, image.kind, image.mpp, image.source)
    raise HistomixError(
        f"The image {name} is neither in the study's folder of images nor open as it was when the pool was made."
    )


# The widgets.


class PoolPage(PlanPage):
    """Builds the pool of the session's study; it is looked through and corrected in docks of its own."""

    run_text, run_tip = "Build the pool", "Divide every training image, and keep the segments in the study."

    def build_results(self) -> None:
        tip = "Keep and drop segments, and give them classes, in the dock HistoMix: Pool."
        browse = button("Look through them", tip, lambda: self.open_dock("Pool"))
        tip = "Show segments in their images and correct them, in HistoMix: Segments."
        correct = button("Correct them", tip, lambda: self.open_dock("Segments"))
        self.leads = box(row(browse, correct))
        self.column.addWidget(self.leads)
        self.session.study_changed.connect(self._on_study)
        self.session.pool_changed.connect(self._update)
        self._on_study()

    def open_dock(self, name: str) -> None:
        window = getattr(self.viewer, "window", None)
        if window is not None:
            window.add_plugin_dock_widget("napari-histomix", f"HistoMix: {name}", tabify=True)

    def _update(self, *_: object) -> None:
        self.leads.setVisible(ready(self.session, self._method))

    def _on_study(self) -> None:
        self._update()
        if self.session.study is not None and ready(self.session, self._method):
            self.session.share_pool(self.session.study.folder, self)

    def on_found(self, found: Found) -> None:
        built = found.result
        left = f" {self.note.text()}" if self.note.text() else ""
        self.note.say(
            f"{many(built.segments, 'segment')} of {many(built.images, 'image')}.{left}", "warning" if left else "good"
        )
        self.session.share_pool(found.study.folder, self, changed=True)


class PoolBox(QWidget):
    """Opens a pool, or builds one with the settings of ``find``; shows its images, takes corrections."""

    corrected = Signal(str)
    asked = Signal(str)
    """An image of the pool that a person wants to see."""
    shown = Signal(object)
    failed = Signal(str)
    taken = Signal(object, object)
    """What came of taking corrections (``Corrected``), and the layer they were painted in."""

    def __init__(self, viewer: Any, session: Session, find: FindForm, window: Any) -> None:
        super().__init__()
        self.viewer, self.session, self.settings = viewer, session, find.settings
        self.opened: OpenPool | None = None
        self._layer: Any = None
        self.runner = JobRunner(self, window)
        self._build()
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self.failed)
        self.runner.cancelled.connect(lambda: self.note.say("Stopped; nothing half-done was kept."))
        self._update_soon = later(self, 0, self.update_all)
        events = viewer.layers.events
        for event in (events.inserted, events.removed, viewer.layers.selection.events.active):
            event.connect(self._on_layers)
        for running in (self.runner.running_changed, self.page.running_changed):
            running.connect(lambda _running: self.update_all())
        session.dataset_changed.connect(self.update_all)
        session.pool_changed.connect(lambda _folder, _by: self.update_all())
        find.changed.connect(self.update_all)
        self.update_all()

    def _build(self) -> None:
        self.title = label()
        tip = "Open a folder of tissue images, with a folder for each class, to build a pool."
        self.folder_button = button("Open images…", tip, self._ask_folder)
        self.study_button = button("Open study…", "Open a study that has a segment pool.", self._ask_study)
        self.page = PoolPage(self.viewer, self.session, form=self.settings)
        self.page.column.setContentsMargins(0, 0, 0, 0)
        self.page.leads.hide()
        self.bar = RunBar("", self.runner, "Open images or a study.")
        self.bar.run_button.hide()
        self.note = Note()
        self.images = choice(tip="An image of the pool.", name="Image of the pool")
        tip = "Open this image and its segments, to look at them and to correct them."
        self.show_button = button("Show", tip, lambda: self.asked.emit(self.images.currentText()))
        tip = "Segments that you changed or painted anew are added to the pool; those they replace are dropped."
        self.correct_button = button("Take corrections into the pool", tip, self.correct)
        self.where = hint("")
        self.where.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        browse = button("Browse the pool", "Look through its segments in the dock HistoMix: Pool.", self._browse)
        images = row(self.images, self.show_button, stretch=0)
        self.tools = box(column(images, self.correct_button, self.where, browse, space=SPACE - 2))
        buttons = even_row(self.folder_button, self.study_button)
        parts = heading("Segment pool"), self.title, buttons, self.page, self.bar, self.note, self.tools
        self.setLayout(column(*parts))

    def _on_layers(self, event: Any = None) -> None:
        if isalive(self):
            self._update_soon.start()

    def _browse(self) -> None:
        if self.opened is not None:
            self.session.share_pool(self.opened.study.folder, self, changed=True)
            self.page.open_dock("Pool")

    # Jobs.

    def _start(self, make: Callable[[], Job[Any]], title: str) -> None:
        prepare_units()
        if self.runner.start(make, title):
            self.note.say("")

    def _ask_folder(self) -> None:
        if folder := ask_folder(self, "A folder of tissue images, with a folder for each class"):
            self.choose_folder(folder)

    def choose_folder(self, folder: Path) -> None:
        self._start(open_job(Path(folder)), "opening images")

    def _ask_study(self) -> None:
        if folder := ask_folder(self, "A study with a segment pool", self.session.home):
            self.open_study(folder)

    def open_study(self, folder: Path) -> None:
        self._start(open_pool_job(Path(folder), self.session.lock(folder)), "opening the segment pool")

    def read_image(self, name: str) -> None:
        """Read an image of the pool and its segments; ``shown`` follows."""
        if self.opened is None:
            self.note.say("Open a study first.", "warning")
            return
        self._start(show_job(self.opened, name), "reading an image")

    def correctable(self) -> Any:
        """The Labels layer whose corrections would be taken: the selected one, else the topmost shown; or None."""
        if self.opened is None:
            return None
        pool = self.opened.pool
        usable = [
            layer
            for layer in self.viewer.layers
            if isinstance(layer, Labels) and "segments" in about(layer) and pool_image(pool, about(layer)) is not None
        ]
        active = self.viewer.layers.selection.active
        return active if active in usable else next((layer for layer in reversed(usable) if layer.visible), None)

    def correct(self) -> None:
        layer, point = self.correctable(), self.viewer.dims.point
        if layer is None or self.opened is None or self.runner.running:
            return
        image = pool_image(self.opened.pool, about(layer))
        assert image is not None
        names = image.source.image, about(layer).get("image")
        try:
            labels = labels_of(layer, point)
            open_images = [other for other in self.viewer.layers if isinstance(other, Image) and not unusable(other)]
            pictures = [picture_of(other, point) for other in open_images]
        except HistomixError as error:
            self.failed.emit(str(error))
            return
        self._layer = layer
        pictures = [picture for picture in pictures if picture.name in names]
        encoder = str(self.settings.fields["encoder"].value)
        self._start(correct_job(self.opened, about(layer), labels, pictures, encoder), "taking corrections")

    # What came of it.

    def _on_finished(self, result: Any) -> None:
        if isinstance(result, Opened):
            self.session.take_opened(result)
        elif isinstance(result, OpenPool):
            self.take(result)
        elif isinstance(result, Shown):
            self.shown.emit(result)
        elif isinstance(result, Corrected):
            layer, self._layer = self._layer, None
            self.opened = result.opened
            self.note.say(result.words(), "good" if any(result.counts.values()) else "info")
            self.taken.emit(result, layer)
            self.corrected.emit(str(result.opened.study.folder))
        self.update_all()

    def take(self, opened: OpenPool) -> None:
        self.opened = opened
        self.images.clear()
        self.images.addItems(list(dict.fromkeys(image.source.image for image in opened.pool.images)))
        if opened.study.read_only:
            self.note.say(READ_ONLY, "warning")
        self.update_all()

    def update_all(self) -> None:
        opened, running, dataset = self.opened, self.runner.running, self.session.dataset
        if opened is None:
            self.title.setText("No pool is open.")
        else:
            images = len({image.source.image for image in opened.pool.images})
            words = f"{many(len(opened.pool), 'segment')} of {many(images, 'image')}"
            self.title.setText(f"<b>{opened.study.folder.name}</b> · {words}")
        for part in (self.folder_button, self.study_button, self.images, self.show_button):
            part.setEnabled(not running)
        mine = opened is not None and self.session.study_folder == opened.study.folder
        self.page.setVisible(dataset is not None and dataset.has_kinds and not mine)
        self.tools.setVisible(opened is not None)
        layer = self.correctable()
        self.correct_button.setEnabled(layer is not None and not running)
        self.where.setText(f"Painted in “{layer.name}”." if layer is not None else "Show an image to correct segments.")
