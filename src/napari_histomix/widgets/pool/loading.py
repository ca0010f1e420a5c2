"""What the tabs for segments are built on: how they open a pool, its UMAP, and decisions written in order."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer, Signal

from napari_histomix.datasets import Dataset
from napari_histomix.methods import method_of
from napari_histomix.methods.segment_stage import SegmentPoolStage
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.segmentation.pool import POOL, Projection, SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.study.database import WriteLock
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.jobs import JobRunner, single
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer_layers import SegmentPlaces

JobMaker = Callable[[], Job[Any]]


def without_paths(sentence: str, *paths: Path | str | None) -> str:
    """A sentence that names files and folders by their names alone."""
    for path in (Path(path) for path in paths if path):
        for spelling in (path.expanduser().resolve(), path):
            sentence = sentence.replace(str(spelling), spelling.name)
    return sentence


def pathless(make: JobMaker, *paths: Path | str | None) -> JobMaker:
    """A job whose error sentences name files and folders by their names alone."""

    def job() -> Job[Any]:
        try:
            return (yield from make())
        except HistomixError as error:
            raise HistomixError(without_paths(str(error), *paths)) from None

    return job


@dataclass(frozen=True, eq=False)
class OpenedPool:
    """A study and its pool with all decisions, or the sentence why there is none that can be used."""

    study: Study
    curation: Curation | None = None
    places: NDArray[np.float32] | None = None
    """Of all segments (N, 2) on the map."""
    dataset: Dataset | None = None
    """The images that the pool was made of, where they were asked for and can be read."""
    problem: str = ""

    @property
    def pool(self) -> SegmentPool:
        assert self.curation is not None
        return self.curation.pool

    @property
    def images(self) -> list[str]:
        return list(dict.fromkeys(image.source.image for image in self.pool.images))

    def read_again(self) -> Curation:
        """The pool with everything that was decided so far, in whatever window."""
        return Curation(self.study, SegmentPool(self.study.folder))


def pool_job(study: Study | Path, lock: WriteLock | None = None, *, images: bool = False) -> JobMaker:
    """Open a study's pool, its decisions and uses, and its images where ``images`` asks for them.

    ``lock`` is the window's right to write to that folder.
    """
    folder = study if isinstance(study, Path) else study.folder

    def job() -> Job[OpenedPool]:
        yield Event("Opening the study")
        opened = Study.open(study, lock) if isinstance(study, Path) else study
        opened.hold()
        yield Event("Reading the segments")
        try:
            curation = Curation(opened, SegmentPool(opened.folder))
            places = curation.pool.places()
        except HistomixError as error:
            return OpenedPool(opened, problem=without_paths(str(error), folder))
        except (OSError, ValueError):
            return OpenedPool(opened, problem=f"The segment pool in {folder.name} is damaged; build it again.")
        yield Event("Counting uses")
        curation.set_uses(uses_of(opened, curation.pool))
        return OpenedPool(opened, curation, places, _images_of(opened) if images else None)

    return pathless(job, folder)


def _images_of(study: Study) -> Dataset | None:
    try:
        return study.open_images()
    except (HistomixError, OSError):
        # The images may have been moved; what lies open in the viewer can be corrected all the same.
        return None


def uses_of(study: Study, pool: SegmentPool) -> NDArray[np.int32]:
    """How often each segment of a pool (N,) is a donor of the study's changes."""

    @cache
    def exchanges(method: str) -> bool:
        # Only methods that made something are asked: importing all of them takes longer than opening a pool.
        try:
            stage = method_of(method).stage
        except HistomixError:
            return False
        return stage is not None and stage.name == SegmentPoolStage.name

    uses = np.zeros(len(pool), np.int32)
    for change in study.changes().where(lambda header: exchanges(header.method)):
        for source in change.sources:
            # A pool may have been built anew since: then a number stands for another segment.
            known = source.role == "donor" and source.item < len(pool)
            if known and pool.image(source.item).source.image == source.image:
                uses[source.item] += 1
    return uses


def numbers_of(curation: Curation, name: str) -> dict[int, list[int]]:
    """For every label of an image the numbers of its segments in the pool, those not dropped last, then by age."""
    pool, allowed = curation.pool, curation.allowed()
    indices = [index for index, image in enumerate(pool.images) if image.source.image == name]
    numbers: dict[int, list[int]] = {}
    for number in np.flatnonzero(np.isin(curation.image, indices)).tolist():
        numbers.setdefault(int(pool.rows["number"][number]), []).append(number)
    return {label: sorted(same, key=lambda number: (allowed[number], number)) for label, same in numbers.items()}


def current_segments(curation: Curation, name: str) -> dict[int, int]:
    """Numbers of an image's segments by label, without the dropped ones; of a label made twice, the newer one."""
    allowed = curation.allowed()
    return {label: same[-1] for label, same in numbers_of(curation, name).items() if allowed[same[-1]]}


class TissuePanel(Panel):
    """Base of the tabs for segments: what one of them opens, the others open too."""

    with_images = False
    """Whether the images of the pool are opened with it."""
    # It opens what others have open.
    runs = False

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.places = SegmentPlaces(self.viewer, self)
        self.while_shown.append(self.places)
        self.title = ui.label(yields=True)
        tip = "Open a study that has a segment pool."
        self.open_button = ui.asking_button(
            "Open study…", tip, "Open a study", self.open_study, lambda: self.session.home
        )
        self.progress = RunBar("", self.runner, "Open a study.")
        self.progress.run_button.hide()
        self.note = ui.Note()
        self.runner.on(running_changed=self.open_button.setDisabled, failed=self.fail)
        self.session.pool_changed.connect(self._on_pool)
        if self.session.pool_folder is not None:
            QTimer.singleShot(0, lambda: self._on_pool(self.session.pool_folder, None))

    def open_study(self, folder: Path) -> None:
        self.note.say("")
        make = pool_job(Path(folder), self.session.lock(folder), images=self.with_images)
        self.runner.replace(make, "opening the segment pool")

    def fail(self, sentence: str) -> None:
        self.complain(self.note, sentence)

    def _on_pool(self, folder: Any, by: Any) -> None:
        if by is not self and isalive(self) and folder is not None:
            self.open_study(folder)


# The UMAP.

FITTED = 50_000
"""Segments the map is fitted to; all others are put where they belong on it."""
COMPONENTS = 30
CHUNK = 10_000


def umap_file(pool: SegmentPool) -> Path:
    """Where the map of exactly this pool is kept."""
    made = json.dumps(dict(pool.signature), sort_keys=True) + repr([image.sha256 for image in pool.images])
    return pool.folder / POOL / f"umap-{len(pool)}-{hashlib.sha256(made.encode()).hexdigest()[:12]}.npy"


def umap_job(pool: SegmentPool) -> Job[NDArray[np.float32]]:
    """Places (N, 2) of all segments, read from disk where they were computed before."""
    file = umap_file(pool)
    yield Event("Reading the map")
    try:
        places = np.load(file, allow_pickle=False)
        if places.shape == (len(pool), 2):
            return np.asarray(places, np.float32)
    except (OSError, ValueError):
        # Not there yet, or not whole: it is made anew.
        pass
    places = yield from _umap_places(pool)
    partial = file.with_suffix(".partial")
    try:
        with partial.open("wb") as stream:
            np.save(stream, places)
        os.replace(partial, file)
    except OSError:
        # A map that cannot be kept is shown all the same.
        partial.unlink(missing_ok=True)
    return places


def _umap_places(pool: SegmentPool) -> Job[NDArray[np.float32]]:
    if len(pool) < 4:
        raise HistomixError("A UMAP needs at least four segments; look at the PCA map.")
    yield Event("Principal components of all classes")
    # Vectors of two classes lie in two spaces; only the features under them can be compared over all classes.
    features = [part.features() for part in pool._parts]
    rng = np.random.default_rng(0)
    share = min(1.0, FITTED / len(pool))
    sample = np.concatenate(
        [part[np.sort(rng.choice(len(part), max(1, round(share * len(part))), replace=False))] for part in features]
    )
    projection = Projection.fit(sample, np.arange(len(sample)), COMPONENTS)
    width = projection.axes.shape[1]
    yield Event("Fitting the UMAP, which cannot be interrupted")
    import umap

    neighbors = min(15, len(sample) - 1)
    mapper = umap.UMAP(n_components=2, n_neighbors=neighbors, random_state=0, n_jobs=1)
    fitted = np.asarray(mapper.fit_transform(projection.transform(sample, width)), np.float32)
    if len(sample) == len(pool):
        return fitted
    places, done = [], 0
    for part in features:
        for start in range(0, len(part), CHUNK):
            yield Event("Placing segments on the map", done, len(pool))
            chunk = projection.transform(np.asarray(part[start : start + CHUNK]), width)
            places.append(np.asarray(mapper.transform(chunk), np.float32))
            done += len(chunk)
    return np.concatenate(places)


# Decisions.

AT_ONCE = 2_000
"""Segments that are decided on while the window waits."""
READ_AT_ONCE = 20_000
"""Decisions that a study may hold for that: it reads them all to write one."""


class CurationWriter(QObject):
    """Makes changes to a curation in the order they were asked for: small ones at once, large ones in the background.

    A change is a call that returns the segments it changed; those asked for while a large one is written wait for it.
    """

    done = Signal(object, str)
    """Numbers of the segments that changed, and what was done to them ("decision", "class", "tags", "undo")."""
    failed = Signal(str)
    """One sentence; nothing was changed."""
    busy_changed = Signal(bool)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._waiting: deque[Callable[[], tuple[Any, str]]] = deque()
        # Without a window: a bar in napari's activity dock for every key that was pressed would be no help.
        self._runner = JobRunner(self).on(running_changed=self.busy_changed, cancelled=self._next)
        self._runner.on(finished=self._on_done, failed=self._on_failed)

    @property
    def busy(self) -> bool:
        return self._runner.running

    def write(self, change: Callable[[], Any], what: str, size: int, decisions: int) -> None:
        """Make a change to ``size`` segments, in a study that holds so many ``decisions``."""
        if size > AT_ONCE or decisions > READ_AT_ONCE or self.busy:
            self._waiting.append(lambda: (change(), what))
            self._next()
            return
        try:
            changed = change()
        except (HistomixError, OSError) as error:
            self.failed.emit(str(error))
        else:
            self.done.emit(changed, what)

    def forget(self) -> None:
        """Another pool is coming: what still waits is not done. What is being written comes to its end."""
        self._waiting.clear()
        self._runner.discard()

    def _next(self) -> None:
        if self._waiting and not self.busy:
            self._runner.start(single(self._waiting.popleft(), "Writing"), "writing decisions")

    def _on_done(self, result: tuple[Any, str]) -> None:
        self.done.emit(*result)
        self._next()

    def _on_failed(self, sentence: str) -> None:
        # Those that waited may have been meant to follow this one.
        self._waiting.clear()
        self.failed.emit(sentence)
