"""A segment pool: the page that builds it, and the lower half of the tab *Correct*, which shows and corrects it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers import Image
from numpy.typing import NDArray

from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, Segment
from napari_histomix.segmentation import segment_map, segments_of
from napari_histomix.segmentation.pool import PoolImage, SegmentPool
from napari_histomix.study.curation import Curation
from napari_histomix.study.database import READ_ONLY
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets import viewer_layers
from napari_histomix.widgets.layer_making import image_layer
from napari_histomix.widgets.loading import Found, Opened, open_job
from napari_histomix.widgets.loading_ahead import prepare_torch
from napari_histomix.widgets.plan_panel import PlanPage, ready
from napari_histomix.widgets.pool.loading import (
    JobMaker,
    OpenedPool,
    TissuePanel,
    current_segments,
    numbers_of,
    pathless,
)
from napari_histomix.widgets.questions import ask_to_stop
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer_layers import Divided, Picture, about, has_segments

if TYPE_CHECKING:
    from napari_histomix.widgets.segments.panel import FindForm

SPACE_PARTS = ("scale", "translate", "rotate", "shear", "affine", "units")
"""What says where a layer lies."""


# One image of the pool.


def pool_image(pool: SegmentPool, facts: Mapping[str, Any]) -> PoolImage | None:
    """The image of a pool that a layer's metadata speaks of: the one with its pixels, or else of its name."""
    if facts.get("sha256"):
        return next((image for image in pool.images if image.sha256 == facts["sha256"]), None)
    return next((image for image in pool.images if image.source.image == facts.get("image")), None)


def divided_of(curation: Curation, image: PoolImage) -> Divided:
    """The segments of an image that a pool holds, without the dropped ones; a label made twice is the newer one."""
    pool, current = curation.pool, current_segments(curation, image.source.image).values()
    segments = [pool.segment(number) for number in current]
    features = viewer_layers.features_of(
        segments, image.shape, image.mpp, [curation.kind_of(number) for number in current]
    )
    facts = {
        "image": image.source.image,
        "class": image.kind,
        "prompter": pool.signature.get("prompter", ""),
        "settings": dict(pool.signature.get("anchors", {})),
        "segments": len(segments),
        "sha256": image.sha256,
    }
    return Divided(segment_map(segments, image.shape), features, facts)


def show_job(opened: OpenedPool, name: str) -> JobMaker:
    """Read an image of the pool, and its segments as they are now."""

    def job() -> Job[Divided]:
        yield Event("Reading the image")
        curation = opened.read_again()
        image = pool_image(curation.pool, {"image": name})
        if image is None:
            raise HistomixError(f"The pool has no image {name}.")
        if opened.dataset is None:
            raise HistomixError("The images of this study are no longer where they were; put them back.")
        pixels = opened.dataset.read(name).pixels
        if pixels_sha256(pixels) != image.sha256:
            raise HistomixError(
                f"The image {name} is not the one that the pool was made of: its pixels have changed; put it back."
            )
        labeled = LabeledImage.of_kind(pixels, image.kind, image.mpp, image.source)
        return replace(divided_of(curation, image), image=labeled)

    return pathless(job, opened.study.folder)


# Corrections.


@dataclass(frozen=True, eq=False)
class Corrected:
    """How many segments were replaced, added and dropped; the pool as it is now, and the image's features."""

    counts: dict[str, int]
    opened: OpenedPool
    features: pd.DataFrame

    def words(self) -> str:
        parts = [(count, what) for what, count in self.counts.items() if count]
        if not parts:
            return "Nothing differs from the pool."
        (count, what), *rest = parts
        return ", ".join([f"{ui.many(count, 'segment')} {what}", *(f"{count:,} {what}" for count, what in rest)]) + "."


def correct_job(
    opened: OpenedPool, facts: Mapping[str, Any], labels: NDArray[np.int32], pictures: Sequence[Picture], encoder: str
) -> JobMaker:
    """Take what a person painted into the pool: changed and new segments are added, what they replace is dropped.

    ``facts`` is the layer's metadata. The ``pictures`` of open images are asked where the dataset cannot be read, and
    ``encoder`` is what the pool was made with, where the study does not say.
    """

    def job() -> Job[Corrected]:
        from napari_histomix.methods.segment_stage import correct_pool

        yield Event("Comparing segments")
        if opened.study.read_only:
            raise HistomixError(READ_ONLY)
        curation = opened.read_again()
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
            curation = opened.read_again()
            places = {
                replaced[segment.number]: number
                for number, segment in enumerate(new, start=first)
                if segment.number in replaced
            }
        curation.correct(places, over)
        counts = {"replaced": len(replaced), "added": len(new) - len(replaced), "dropped": len(gone)}
        return Corrected(counts, replace(opened, curation=curation), divided_of(curation, image).features)

    return pathless(job, opened.study.folder)


def _equal(segment: Segment, other: Segment) -> bool:
    return (segment.row, segment.col) == (other.row, other.col) and np.array_equal(segment.mask, other.mask)


def _read(opened: OpenedPool, image: PoolImage, pictures: Sequence[Picture]) -> LabeledImage:
    """The image that segments were drawn in, from its dataset or from an open layer."""
    name, readers = image.source.image, [picture.pixels for picture in pictures]
    dataset = opened.dataset
    if dataset is not None:
        readers.insert(0, lambda: dataset.read(name).pixels)
    for read in readers:
        with suppress(HistomixError):
            pixels = read()
            if pixels_sha256(pixels) == image.sha256:
                return LabeledImage.of_kind(pixels, image.kind, image.mpp, image.source)
    raise HistomixError(
        f"The image {name} is neither in the study's folder of images nor open as it was when the pool was made."
    )


# The widgets.


class PoolPage(PlanPage):
    """Builds the pool of the session's study; it is looked through and corrected in tabs of its own."""

    run_text, run_tip = "Build the pool", "Divide every training image, and keep the segments in the study."

    def build_results(self) -> None:
        tip = "Keep and drop segments, and give them classes, in the tab Pool."
        browse = ui.button("Look through them", tip, lambda: self.session.page_requested.emit("make/pool"))
        tip = "Show segments in their images and correct them, in the tab Correct."
        correct = ui.button("Correct them", tip, lambda: self.session.page_requested.emit("make/segments"))
        self.leads = ui.box(ui.row(browse, correct))
        self.column.addWidget(self.leads)
        self.session.study_changed.connect(self._on_study)
        self.session.pool_changed.connect(self._update)
        self._on_study()

    def _update(self, *_: object) -> None:
        self.leads.setVisible(ready(self.session, self._method))

    def _on_study(self) -> None:
        self._update()
        if self.session.study is not None and ready(self.session, self._method):
            self.session.share_pool(self.session.study.folder, self)

    def on_found(self, found: Found) -> None:
        built = found.result
        left = [*filter(None, [self.note.text()]), *built.warnings]
        words = f"{ui.many(built.segments, 'segment')} of {ui.many(built.images, 'image')}."
        self.note.say(" ".join([words, *left]), "warning" if left else "good")
        self.session.share_pool(found.study.folder, self, changed=True)


class PoolBox(TissuePanel):
    """Opens a pool, or builds one with the settings of ``find``; shows its images, takes corrections."""

    with_images = True

    def __init__(self, napari_viewer: Any, session: Session, find: FindForm) -> None:
        super().__init__(napari_viewer, session)
        self.settings = find.settings
        self.opened: OpenedPool | None = None
        self._layer: Any = None
        self._wanted = self._fitted = ""
        self._build()
        cancelled = partial(self.note.say, "Stopped; nothing half-done was kept.")
        self.runner.on(finished=self._on_finished, cancelled=cancelled)
        self._update_soon = ui.later(self, 0, self.update_all)
        self.places.layers_changed.connect(self._update_soon.start)
        for signal in (self.runner.running_changed, self.page.running_changed, session.pool_changed):
            signal.connect(lambda *_: self.update_all())
        session.dataset_changed.connect(self._on_dataset)
        for signal in (session.dataset_changed, find.changed):
            signal.connect(self.update_all)
        session.pool_image_wanted.connect(self._show_wanted)
        session.shows_pool_images = True
        self.destroyed.connect(partial(setattr, session, "shows_pool_images", False))
        self.update_all()

    def _build(self) -> None:
        tip = "Open a folder of tissue images, with a folder for each class, to build a pool."
        title = "A folder of tissue images, with a folder for each class"
        self.folder_button = ui.asking_button("Open images…", tip, title, self.choose_folder)
        self.page = PoolPage(self.viewer, self.session, form=self.settings)
        self.page.column.setContentsMargins(0, 0, 0, 0)
        self.page.leads.hide()
        self.images = ui.choice(tip="An image of the pool.", name="Image of the pool")
        tip = "Open this image and its segments, to look at them and to correct them."
        self.show_button = ui.button("Show", tip, self._show_whole)
        tip = "Segments that you changed or painted anew are added to the pool; those they replace are dropped."
        self.correct_button = ui.button("Take corrections into the pool", tip, self.correct)
        self.where = ui.Note()
        browse = ui.button("Browse the pool", "Look through its segments in the tab Pool.", self._browse)
        images = ui.row(self.images, self.show_button, stretch=0)
        self.tools = ui.box(ui.column(images, self.correct_button, self.where, browse, space=ui.SPACE - 2))
        buttons = ui.even_row(self.folder_button, self.open_button)
        self.column.setContentsMargins(0, 0, 0, 0)
        ui.add(self.column, ui.heading("Segment pool"), self.title, buttons, self.page, self.progress, self.note)
        self.column.addWidget(self.tools)

    def _browse(self) -> None:
        if self.opened is not None:
            self.session.share_pool(self.opened.study.folder, self)
            self.session.page_requested.emit("make/pool")

    # Jobs.

    def _start(self, make: JobMaker, title: str) -> None:
        if self.runner.start(make, title):
            self.note.say("")

    def choose_folder(self, folder: Path) -> None:
        if ask_to_stop(self, self.session.under_way):
            self._start(partial(open_job, Path(folder)), "opening images")

    def open_study(self, folder: Path) -> None:
        # Not in the midst of a correction, which would be lost.
        if not self.runner.running:
            super().open_study(folder)

    def correctable(self) -> Any:
        """The Labels layer whose corrections would be taken: the selected one, else the topmost shown; or None."""
        if self.opened is None:
            return None
        pool = self.opened.pool
        usable = [
            layer for layer in self.viewer.layers if has_segments(layer) and pool_image(pool, about(layer)) is not None
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
            labels = viewer_layers.labels_of(layer, point)
            open_images = [
                other for other in self.viewer.layers if isinstance(other, Image) and not viewer_layers.unusable(other)
            ]
            pictures = [viewer_layers.picture_of(other, point) for other in open_images]
        except HistomixError as error:
            self.fail(str(error))
            return
        self._layer = layer
        pictures = [picture for picture in pictures if picture.name in names]
        encoder = str(self.settings.fields["encoder"].value)
        self._start(correct_job(self.opened, about(layer), labels, pictures, encoder), "taking corrections")

    # What came of it.

    def _on_finished(self, result: Any) -> None:
        if isinstance(result, Opened):
            self.session.take_opened(result)
        elif isinstance(result, OpenedPool):
            self._on_opened(result)
        elif isinstance(result, Divided):
            self._on_shown(result)
        else:
            self._on_corrected(result)
        self.update_all()

    def _on_dataset(self) -> None:
        """Let go of the pool of another study: corrections would be kept there."""
        if self.session.pool_folder is None:
            self.opened = None
            self.images.clear()

    def _on_opened(self, opened: OpenedPool) -> None:
        if opened.curation is None:
            self.fail(opened.problem)
            return
        self.opened = opened
        self.images.clear()
        self.images.addItems(opened.images)
        if opened.study.read_only:
            self.note.say(READ_ONLY, "warning")
        self.session.share_pool(opened.study.folder, self)
        if self._wanted:
            wanted, self._wanted = self._wanted, ""
            self.show_image(wanted)

    def _on_corrected(self, corrected: Corrected) -> None:
        layer, self._layer = self._layer, None
        self.opened = corrected.opened
        self.note.say(corrected.words(), "good" if any(corrected.counts.values()) else "info")
        if layer is not None and layer in self.viewer.layers:
            layer.features = corrected.features
        self.session.share_pool(corrected.opened.study.folder, self, changed=True)

    def update_all(self) -> None:
        opened, running, dataset = self.opened, self.runner.running, self.session.dataset
        if opened is None:
            self.title.setText("No pool is open.")
        else:
            words = f"{ui.many(len(opened.pool), 'segment')} of {ui.many(len(opened.images), 'image')}"
            self.title.setText(f"<b>{opened.study.folder.name}</b> · {words}")
        for part in (self.folder_button, self.images, self.show_button):
            part.setEnabled(not running)
        mine = opened is not None and self.session.study_folder == opened.study.folder
        self.page.setVisible(dataset is not None and dataset.has_kinds and not mine)
        self.tools.setVisible(opened is not None)
        layer = self.correctable()
        self.correct_button.setEnabled(layer is not None and not running)
        self.where.say(
            f"Paint your corrections in “{layer.name}”." if layer is not None else "Show an image to correct segments."
        )

    # Images of the pool as layers.

    def _show_wanted(self, name: str) -> None:
        if self.opened is None:
            self._wanted = name
        else:
            self.show_image(name)

    def _show_whole(self) -> None:
        self._fitted = self.images.currentText()
        self.show_image(self._fitted)

    def show_image(self, name: str) -> None:
        """Open an image of the pool and its segments as layers, to look at and to correct."""
        if all(self._layers(name)):
            self._bring(name)
        elif self.opened is None:
            self.note.say("Open a study first.", "warning")
        else:
            self._start(show_job(self.opened, name), "reading an image")

    def _layers(self, name: str) -> tuple[Any, Any]:
        """The topmost image and segments layers of an image of the pool, None where one is not open."""
        own = self.places.layers(name)[::-1]
        image = next((layer for layer in own if isinstance(layer, Image)), None)
        return image, next((layer for layer in own if has_segments(layer)), None)

    def _bring(self, name: str) -> None:
        """Show the layers of an image, and hide those of the others, which lie in the same place."""
        for layer in self.viewer.layers:
            if about(layer).get("image") is not None:
                layer.visible = about(layer)["image"] == name
        self.images.setCurrentText(name)
        self.viewer.layers.selection.active = self._layers(name)[1]
        if self._fitted == name:
            # Not where another dock asked: it brings a segment onto the screen.
            getattr(self.viewer, "fit_to_view", self.viewer.reset_view)()
        self._fitted = ""

    def _on_shown(self, divided: Divided) -> None:
        image, name = divided.image, divided.facts["image"]
        assert image is not None
        layer, segments = self._layers(name)
        space: dict[str, Any] = {"scale": (image.mpp, image.mpp), "units": ("um", "um")}
        if layer is not None:
            space = {part: getattr(layer, part) for part in SPACE_PARTS}
        if segments is None:
            # Before its image, and above it: who waits for the image finds both.
            segments = viewer_layers.segments_layer(divided, f"{name} segments", space)
            self.viewer.layers.append(segments)
        if layer is None:
            layer = image_layer(name, image, space, **{"class": image.kind})
            self.viewer.layers.insert(self.viewer.layers.index(segments), layer)
        self._bring(name)
