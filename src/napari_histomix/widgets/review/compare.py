"""The same place and donor laid by every method that can: side by side, and blinking against what is under review."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout

from napari_histomix.compositing.composing import look
from napari_histomix.datasets import Dataset
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
from napari_histomix.settings import made_from, settings_of
from napari_histomix.study import Study
from napari_histomix.widgets.base import RunBar
from napari_histomix.widgets.elements import ACCENT, CropView, Note, Section
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.layer_making import center
from napari_histomix.widgets.preload import prepare_torch
from napari_histomix.widgets.session import Session

SIDE, HEIGHT, COLUMNS = 64, 104, 4
"""Pixels of the image that are shown of each result, pixels of the screen, and results in a row."""
Result = tuple[str, Change | str]
"""Title of a method, and its change or why there is none."""


class CompareSection(Section):
    """A row of small crops: what was there, and what each method makes of it.

    Parameters
    ----------
    session : Session
    """

    chosen = Signal(str, object)
    """Title of a method and the changes to show against the one under review; an empty title: no more."""

    def __init__(self, session: Session) -> None:
        super().__init__(
            "Compare", "Lay the same donor on the same place with every method, and blink between them.", opened=False
        )
        self.session, self.runner = session, JobRunner(self)
        self._change: Change | None = None
        self._target: LabeledImage | None = None
        self._near: Sequence[Change] = ()
        self.results: dict[int, list[Result]] = {}
        """What came of comparisons, by the id of the change that was compared."""
        self.bar = RunBar("Compare methods", self.runner, "Lay this donor on this place with every method that can.")
        self.bar.run.connect(self.compare)
        self.note, self.grid, self.views = Note(), QGridLayout(), list[CropView]()
        self._picked = ""
        self.grid.setSpacing(2)
        self.body.addWidget(self.bar)
        self.body.addLayout(self.grid)
        self.body.addWidget(self.note)
        self.runner.finished.connect(self._on_compared)
        self.runner.failed.connect(lambda sentence: self.note.say(sentence, "error"))
        session.dataset_changed.connect(self._on_dataset)
        self.toggled.connect(lambda _opened: self._show())

    def _on_dataset(self) -> None:
        self.runner.discard()
        self.results.clear()

    def compare(self) -> None:
        """Let every method lay the change under review, in the background."""
        session, change = self.session, self._change
        if change is not None and session.dataset is not None and session.study is not None:
            self.note.say("")
            self.runner.start(compare_job(session.dataset, session.study, change), "comparing methods")

    def _on_compared(self, found: tuple[int, list[Result]]) -> None:
        number, self.results[found[0]] = found
        if self._change is not None and self._change.id == number:
            self._show()

    def show_change(self, change: Change, target: LabeledImage | None, near: Sequence[Change]) -> None:
        """Offer to compare a change; show what came of it where that was done."""
        if self._change is None or change.id != self._change.id:
            self._picked = ""
        self._change, self._target, self._near = change, target, near
        self._show()

    def _show(self) -> None:
        change, target = self._change, self._target
        if not self.is_open or change is None:
            return
        possible = change.in_place and change.target is not None and change.donor is not None
        self.bar.allow(possible, "Only a nucleus that was put into a real image can be laid by other methods.")
        for view in self.views:
            self.grid.removeWidget(view)
            view.deleteLater()
        self.views.clear()
        results = self.results.get(change.id, [])
        reasons = [f"{title}: {made}" for title, made in results if isinstance(made, str)]
        self.note.say("\n".join(reasons))
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
        view.setMinimumSize(60, HEIGHT)
        view.setFixedHeight(HEIGHT)
        view.setToolTip("" if caption == "Before" else f"Click to blink between {caption} and what is under review.")
        view.show_pixels(pixels, frame=ACCENT if caption == self._picked else "")
        self.grid.addWidget(view, len(self.views) // COLUMNS, len(self.views) % COLUMNS)
        self.views.append(view)
        return view

    def _pick(self, title: str, changes: Sequence[Change]) -> None:
        self._picked = "" if title == self._picked else title
        for view in self.views:
            view.show_pixels(view.pixels, frame=ACCENT if view.caption == self._picked else "")
        self.chosen.emit(self._picked, changes)


def compare_job(dataset: Dataset, study: Study, change: Change) -> Callable[[], Job[tuple[int, list[Result]]]]:
    """Lay the donor of a change on its place with every method that can."""

    def job() -> Job[tuple[int, list[Result]]]:
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

    return job


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
        values["seed"] = change.seed
    return made_from(method.settings, values)
