"""Beside a change: its donors, the training patch it resembles most, and what other methods make of its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout

from napari_histomix.compositing.composing import crop, look
from napari_histomix.datasets import Dataset
from napari_histomix.evaluation.generator_windows import nucleus_places
from napari_histomix.evaluation.nearest_patch import Neighbor, TrainingPatches
from napari_histomix.generation.layout import Layout
from napari_histomix.methods import method_names, method_of
from napari_histomix.methods.base import Method, Placing, Work
from napari_histomix.records import (
    Candidate,
    Change,
    Event,
    HistomixError,
    Job,
    LabeledImage,
    Location,
    SourceRef,
    within,
)
from napari_histomix.settings import LARGEST_SEED, made_from, settings_of
from napari_histomix.study import Study
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import RunBar
from napari_histomix.widgets.crops import CropView
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.layer_making import center
from napari_histomix.widgets.loading_ahead import prepare_torch
from napari_histomix.widgets.session import Session

MICROMETERS, HEIGHT = 28.0, 150
"""Side of donor and nearest patch, and pixels of the screen that they get."""
CLOSE = 1.0
"""Percentile below which a likeness is pointed out: few real nuclei are as much alike."""
SIDE, RESULT_HEIGHT, COLUMNS = 64, 104, 4
"""Pixels of the image that are shown of each method's result, pixels of the screen, and results in a row."""
CAPTIONS = {"donor": "Donor", "labels": "Labels of", "reference": "Stain of"}
"""What is shown of a change's sources, and what they are to it."""
LOOKED_AT = 32
"""Nuclei of a new image, at most, whose nearest training patches are looked for."""
Result = tuple[str, Change | str]
"""Title of a method, and its change or why there is none."""


class Nearest(NamedTuple):
    """The training patch that a change resembles most; of a new image the nucleus that has it, and all distances."""

    change: int
    neighbor: Neighbor
    place: tuple[float, float] = (0.0, 0.0)
    distances: NDArray[np.float64] = np.empty(0)


class ChangeSection(ui.Section):
    """A section about the change under review, filled only while it is open."""

    _show: Callable[[], None]
    """Fills it; every section has its own way."""

    def __init__(self, title: str, tip: str, session: Session) -> None:
        super().__init__(title, tip, opened=False)
        self.session, self.note = session, ui.Note()
        self._change: Change | None = None
        self._target: LabeledImage | None = None
        self._near: Sequence[Change] = ()
        """All changes that are composed around it, itself among them."""
        self.toggled.connect(self._show)

    def show_change(self, change: Change, target: LabeledImage | None, near: Sequence[Change]) -> None:
        self._change, self._target, self._near = change, target, near
        self._show()

    def _fail(self, sentence: str) -> None:
        self.note.say(sentence, "error")


class DonorSection(ChangeSection):
    """Donor and nearest training patch side by side, at the same scale; of an image, its first two donors.

    A new image that was painted from labels has no donor: the nucleus that is nearest to a training patch takes its
    place, once patches are described.

    ``runner`` describes the training patches, once for each dataset.
    """

    def __init__(self, session: Session, runner: JobRunner) -> None:
        super().__init__(
            "Donor and nearest (D)", "What was copied, and which real nucleus the result resembles most.", session
        )
        self.runner = runner.on(finished=self._on_built, failed=self._fail)
        self.finder = JobRunner(self).on(finished=self._on_nearest, failed=self._fail)
        self._patches: TrainingPatches | None = None
        self._held_out = np.empty(0)
        self._neighbor: Nearest | None = None
        self._searched: int | None = None
        self.donor, self.nearest = (CropView(caption, smooth=True, height=HEIGHT) for caption in ("Donor", "Nearest"))
        pair = ui.row(self.donor, self.nearest)
        pair.setSpacing(2)
        self.bar = RunBar(
            "Find nearest training patch",
            runner,
            "Describe all nuclei of the training images once; then the nearest is shown for each synthetic nucleus.",
        )
        self.about = ui.hint("")
        self.about.hide()
        ui.add(self.body, pair, self.about, self.bar, self.note)
        self.bar.run.connect(self.find)
        session.dataset_changed.connect(self._on_dataset)
        session.splits_changed.connect(self._on_splits)
        session.reader.loaded.connect(self._on_loaded)

    # The nearest patches.

    def find(self) -> None:
        """Describe the training patches, unless they are; then the nearest is shown for each nucleus."""
        dataset = self.session.dataset
        if dataset is not None and self._patches is None and not self.runner.running:
            self.note.say("")
            self.runner.start(partial(describe, dataset), "describing training patches")

    def bring_up(self) -> None:
        """Open the section, find what it shows, and scroll to it."""
        self.open()
        self.find()
        ui.reveal(self)

    def _on_built(self, described: tuple[TrainingPatches, NDArray[np.float64]]) -> None:
        self._patches, self._held_out = described
        self.bar.hide()
        self._show()

    def _on_dataset(self) -> None:
        self._change = None
        self._on_splits()

    def _on_splits(self) -> None:
        # Other splits, other training patches.
        self.runner.discard()
        self.finder.discard()
        self._patches, self._neighbor, self._searched = None, None, None
        self.bar.show()
        self.note.say("")
        self._show()

    def _on_nearest(self, nearest: Nearest) -> None:
        self._neighbor = nearest
        self._show()

    # What is shown.

    def _on_loaded(self, name: str) -> None:
        change, known = self._change, self._neighbor
        wanted = {known.neighbor.image} if known is not None else set()
        if change is not None and name in wanted | {source.image for source in change.sources}:
            self._show()

    def _show(self) -> None:
        change = self._change
        if change is None or not self.is_open:
            return
        donors = [source for source in change.sources if source.role in CAPTIONS]
        labels = {source.image for source in donors if source.role == "labels"}
        # Most follow the stain of the image that their labels are of.
        donors = [source for source in donors if source.role != "reference" or source.image not in labels]
        compared = change.in_place or is_painted(change)
        found = self._nearest(change) if compared else None
        views = (self.donor,) if change.in_place or found else (self.donor, self.nearest)
        for view, donor in zip_longest(views, donors[: len(views)]):
            self._show_donor(view, donor, donors)
        self.bar.setVisible(compared and self._patches is None)
        self.about.setVisible(found is not None)
        if found is not None:
            self._show_nearest(change, found)
        elif change.in_place:
            self.nearest.show_pixels(None, "Nearest …" if self._patches is not None else "Nearest")

    def _show_donor(self, view: CropView, donor: SourceRef | None, donors: Sequence[SourceRef]) -> None:
        if donor is None:
            view.show_pixels(None, "" if donors else "No donor")
            return
        dataset = self.session.dataset
        alike = [other for other in donors if other.role == donor.role]
        place = f" {alike.index(donor) + 1} of {len(alike)}" if len(alike) > 1 else ""
        name = dataset.class_name(donor.type) if dataset is not None and donor.type else donor.image
        caption, image = f"{CAPTIONS[donor.role]}{place}: {name}", self._image(donor.image)
        if image is not None and not (donor.row or donor.col):
            view.show_pixels(image.pixels, caption)
        else:
            view.show_place(image, caption, donor.row, donor.col, MICROMETERS)

    def _nearest(self, change: Change) -> Nearest | None:
        """The nearest training patch of a change, which is looked for if it is not known yet."""
        target = self.session.reader.get(change.image) if change.in_place else None
        if self._patches is not None and self._searched != change.id and (target or not change.in_place):
            self._searched = change.id
            if target is not None:
                job = partial(find_nearest, self._patches, target, change, self._near)
            else:
                job = partial(find_repeated, self._patches, change)
            self.finder.replace(job, "finding the nearest training patch")
        return self._neighbor if self._neighbor is not None and self._neighbor.change == change.id else None

    def _show_nearest(self, change: Change, found: Nearest) -> None:
        neighbor = found.neighbor
        kind = self.session.dataset.class_name(neighbor.type) if self.session.dataset is not None else ""
        image = self._image(neighbor.image)
        self.nearest.show_place(image, f"Nearest: {kind}", neighbor.row, neighbor.col, MICROMETERS)
        words = (
            f"Nearest: #{neighbor.instance} of {neighbor.image}, distance {neighbor.distance:.2f}. "
            f"{neighbor.percentile:.0f} % of the training nuclei have another one as near"
            f"{': the likeness is striking.' if neighbor.percentile < CLOSE else '.'}"
        )
        if not change.in_place:
            side = round(MICROMETERS / float(change.provenance["mpp"]))
            self.donor.show_pixels(crop(change.pixels, *found.place, side), "Painted, most alike")
            words += f" {compared_words(found.distances, self._held_out)} {learned_words(change)}"
        self.about.setText(words)

    def _image(self, name: str) -> LabeledImage | None:
        image = self.session.reader.get(name)
        if image is None:
            self.session.reader.request(name)
        return image


def find_nearest(
    patches: TrainingPatches, target: LabeledImage, change: Change, near: Sequence[Change]
) -> Job[Nearest]:
    """Find the training patch that resembles a change most, its own target and donor excepted."""
    yield Event("Finding the nearest training patch")
    # A margin, for the patch is resampled from what lies around it.
    side = round(1.5 * MICROMETERS / target.mpp)
    pixels = look(target, *center(change), side, near).after
    sources = (change.target, change.donor)
    exclude = tuple(_location(source, "major") for source in sources if source is not None)
    return Nearest(change.id, patches.nearest(pixels, target.mpp, None, exclude))


def describe(dataset: Dataset) -> Job[tuple[TrainingPatches, NDArray[np.float64]]]:
    """The training patches of a dataset, and how far nuclei of its held-out images are from them."""
    patches = yield from TrainingPatches.build(dataset)
    return patches, (yield from patches.held_out(dataset))


def is_painted(change: Change) -> bool:
    """Whether a change is a new image that a network painted from labels."""
    return not change.image and bool(change.added) and "learned_from" in change.provenance


def find_repeated(patches: TrainingPatches, change: Change) -> Job[Nearest]:
    """Find the nucleus of a new image that resembles a training patch most, among random ones, and that patch."""
    assert change.labels is not None
    mpp, names = float(change.provenance["mpp"]), dict.fromkeys(change.added, "")
    rng = np.random.default_rng(change.id)
    places = nucleus_places(Layout(change.labels, names, mpp), LOOKED_AT, MICROMETERS, rng)
    distances: list[float] = []
    for done, place in enumerate(places):
        yield Event("Finding the nearest training patch", done, len(places))
        distances += patches.distances(change.pixels, mpp, [place]).tolist()
    place = places[int(np.argmin(distances))]
    return Nearest(change.id, patches.nearest(change.pixels, mpp, place), place, np.array(distances))


def compared_words(own: NDArray[np.float64], held_out: NDArray[np.float64]) -> str:
    """How far the nuclei of a new image are from training patches, beside those of held-out images."""
    words = f"Its nuclei have distances of {own.min():.2f} to {own.max():.2f} (median {np.median(own):.2f})"
    if not len(held_out):
        return f"{words}; there are no held-out images to compare with."
    low, middle = np.quantile(held_out, (0.05, 0.5))
    return f"{words}, those of held-out images {low:.2f} and more in 95 % (median {middle:.2f})."


def learned_words(change: Change) -> str:
    """Whether what is searched is what the network learned from."""
    count = len(change.provenance["learned_from"])
    if count:
        return f"The network learned from {count} of the training images here."
    return "The network's card names none of these images: what it learned from is not here to be searched."


class CompareSection(ChangeSection):
    """A row of small crops: what was there, and what each method makes of it."""

    chosen = Signal(str, object)
    """Title of a method and the changes to show against the one under review; an empty title: no more."""

    def __init__(self, session: Session) -> None:
        super().__init__(
            "Compare", "Lay the same donor on the same place with every method, and blink between them.", session
        )
        self.runner, self._picked = JobRunner(self).on(finished=self._on_compared, failed=self._fail), ""
        self.results: dict[int, list[Result]] = {}
        """What came of comparisons, by the id of the change that was compared."""
        self.bar = RunBar("Compare methods", self.runner, "Lay this donor on this place with every method that can.")
        self.grid, self.views = QGridLayout(), list[CropView]()
        self.grid.setSpacing(2)
        ui.add(self.body, self.bar, self.grid, self.note)
        self.bar.run.connect(self._compare)
        session.dataset_changed.connect(self._on_dataset)

    def _on_dataset(self) -> None:
        self.runner.discard()
        self.results.clear()

    def _compare(self) -> None:
        session, change = self.session, self._change
        if change is not None and session.dataset is not None and session.study is not None:
            self.note.say("")
            self.runner.start(partial(compare, session.dataset, session.study, change), "comparing methods")

    def _on_compared(self, compared: tuple[int, list[Result]]) -> None:
        id, results = compared
        self.results[id] = results
        if self._change is not None and self._change.id == id:
            self._show()

    def show_change(self, change: Change, target: LabeledImage | None, near: Sequence[Change]) -> None:
        if self._change is None or change.id != self._change.id:
            self._picked = ""
        super().show_change(change, target, near)

    def _show(self) -> None:
        change, target = self._change, self._target
        if not self.is_open or change is None:
            return
        possible = change.in_place and change.target is not None and change.donor is not None
        self.bar.allow(possible, "Only a nucleus with a donor, put into a real image, can be laid by other methods.")
        ui.clear(self.grid)
        self.views.clear()
        results = self.results.get(change.id, [])
        self.note.say("\n".join(f"{title}: {made}" for title, made in results if isinstance(made, str)))
        if target is None or not results:
            return
        others = [near for near in self._near if near.id != change.id]
        self._add("Before", look(target, *center(change), SIDE, others).before)
        for title, made in results:
            if isinstance(made, Change):
                changes = (*others, made)
                view = self._add(title, look(target, *center(change), SIDE, changes).after)
                view.clicked.connect(lambda title=title, changes=changes: self._pick(title, changes))

    def _add(self, caption: str, pixels: Any) -> CropView:
        view = CropView(caption)
        view.setMinimumSize(60, RESULT_HEIGHT)
        view.setFixedHeight(RESULT_HEIGHT)
        view.setToolTip("" if caption == "Before" else f"Click to blink between {caption} and what is under review.")
        view.show_pixels(pixels, frame=ui.ACCENT if caption == self._picked else "")
        self.grid.addWidget(view, len(self.views) // COLUMNS, len(self.views) % COLUMNS)
        self.views.append(view)
        return view

    def _pick(self, title: str, changes: Sequence[Change]) -> None:
        self._picked = "" if title == self._picked else title
        for view in self.views:
            view.show_pixels(view.pixels, frame=ui.ACCENT if view.caption == self._picked else "")
        self.chosen.emit(self._picked, changes)


def compare(dataset: Dataset, study: Study, change: Change) -> Job[tuple[int, list[Result]]]:
    """Lay the donor of a change on its place with every method that can."""
    prepare_torch()
    site = site_of(change)
    methods = [method_of(name) for name in method_names()]
    methods = [method for method in methods if not method.needs.problem(method.title, dataset)]
    placing = [method for method in methods if isinstance(method, Placing)]
    if not placing:
        raise HistomixError("No method can lay a given donor on a given place.")
    work, results = Work(dataset, study, change.id), list[Result]()
    for done, method in enumerate(placing):
        yield Event(method.title, done, len(placing))
        made: Change | str
        try:
            settings = settings_for(method, change, dataset)
            (made,) = yield from within(method.place(work, [site], settings), method.title, done, len(placing))
        except HistomixError as error:
            made = str(error)
        results.append((method.title, made))
    return change.id, results


def site_of(change: Change) -> Candidate:
    """The place and the donor of a change, as a candidate location."""
    target, donor = change.target, change.donor
    assert target is not None and donor is not None
    kind = "major" if target.item else "background"
    return Candidate(change.id, _location(target, kind), _location(donor, "rare"), float("nan"), change.score)


def _location(source: SourceRef, kind: Any) -> Location:
    return Location(source.image, kind, source.row, source.col, source.item, source.type, source.area)


def settings_for(method: Method[Any, Any], change: Change, dataset: Dataset) -> Any:
    """A method's settings: of the change's own method as they were, of others the defaults; the same seed for all."""
    known = {setting.name: setting for setting in settings_of(method.settings)}
    recorded = change.provenance.get("settings", {}) if method.name == change.method else {}
    values = {name: value for name, value in recorded.items() if name in known}
    for name, setting in known.items():
        if setting.required and setting.option.kind == "classes" and name not in values and change.donor is not None:
            values[name] = (dataset.class_name(change.donor.type),)
    if "seed" in known:
        # An item's seed has 63 bits, more than a person may set for a run.
        values["seed"] = change.seed % (LARGEST_SEED + 1)
    return made_from(method.settings, values)
