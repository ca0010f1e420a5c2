"""Takes what was painted by hand into the study, as a run of the method that paints so, and leads to its review."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from napari_histomix import jobs
from napari_histomix.datasets import Dataset
from napari_histomix.methods import method_of
from napari_histomix.methods.edge_pix2pix import EdgePix2PixSettings
from napari_histomix.methods.generating import learned_from
from napari_histomix.methods.nudiff import NuDiffSettings
from napari_histomix.methods.painting_by_hand import DrawnNuclei, drawn_items
from napari_histomix.methods.whatif import PaintedNucleiSettings
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.study import Study
from napari_histomix.study.database import READ_ONLY
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.generate.making import Networks, Painted, PaintOptions
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.loading_ahead import prepare_torch
from napari_histomix.widgets.session import window_of

TITLE = "adding what was painted"
OPEN_FIRST = "Open the dataset that this is for on the page Project: what is painted goes into its study."
MAKING = "making images"
"""Title of a run of a method, which counts its changes itself."""


@dataclass(frozen=True)
class Kept:
    """Ids of the changes that were added, how many nuclei they hold, and how many were left out near earlier ones."""

    ids: tuple[int, ...]
    nuclei: int
    left: int


def method_and_settings(painted: Painted) -> tuple[str, Any]:
    """The name of the method that paints so, and its settings that say how this was painted."""
    options: PaintOptions = painted.options
    common = {"seed": options.seed, "model": options.model, "device": options.device}
    if options.kind != "image":
        return "edge-pix2pix", EdgePix2PixSettings(count=1, **common)
    painting = {**common, "preset": options.preset, "guidance": options.guidance}
    if painted.by_hand.image:
        return "painted-nuclei", PaintedNucleiSettings(count=len(painted.by_hand.new), **painting)
    return "nudiff", NuDiffSettings(count=1, **painting)


def keep_job(
    networks: Networks, painted: Painted, hashes: Mapping[str, str], dataset: Dataset, study: Study
) -> Job[Kept]:
    """Add what was painted to a study: all of it, or nothing; ``hashes`` are the SHA-256 of the dataset's pixels."""
    prepare_torch()
    yield Event("Opening the network")
    name, settings = method_and_settings(painted)
    method = method_of(name)
    jobs.check(method, dataset)
    model = networks.open(painted.options.kind, painted.options.model)
    if model.sha256 != painted.facts["model_sha256"]:
        raise HistomixError(f"The network {model.name} is another one than when this was painted; paint it again.")
    seen = yield from learned_from(dataset, model, hashes)
    made = painted.by_hand.made
    if made.get("model_kind") == "structure":
        drew = networks.opened.get(made["model_sha256"])
        if drew is None:
            raise HistomixError(
                f"What the network {made['model']} learned from, which drew this layout, is not known here; sample a "
                "layout, and paint that."
            )
        taught = yield from learned_from(dataset, replace(model, name=made["model"], card=drew), hashes)
        seen = tuple(dict.fromkeys([*seen, *taught]))
    items, left = drawn_items(painted.by_hand, dataset, study.changes(), model, seen)
    ids = yield from jobs.make_items(method, dataset, settings, study, items, model)
    return Kept(ids, sum(len(item.classes) for item in items if isinstance(item, DrawnNuclei)), left)


class KeepBox(QWidget):
    """Part of the tab *By hand*, its ``panel``: there as soon as something is painted."""

    changed = Signal()
    """Something else can be added, or what was offered is added."""

    def __init__(self, panel: Panel, networks: Networks) -> None:
        super().__init__()
        self.panel, self.session, self.networks = panel, panel.session, networks
        self.runner = self.session.follow(JobRunner(self, window_of(panel.viewer)))
        self._painted: Painted | None = None
        self._adding: Painted | None = None
        self._added: dict[int, tuple[Painted, tuple[int, ...]]] = {}
        """What was added, with the ids of its changes; as long as it is here, no other object has its ``id``."""
        tip = (
            "What is painted becomes a part of the dataset's study, undecided: look at it on the page Review, and it "
            "is exported once you approve it."
        )
        self.bar = RunBar("Add to the study", self.runner, tip, "Stop; nothing of it is added.")
        self.why, self.note = ui.Note(), ui.Note()
        project = panel.lead("Go to Project →", "project/data", "Choose images, or the sample.", beside=self.why)
        self.project_button = project
        self.review_button = ui.button(
            "Review it →", "Look at it beside the image as it was, approve or reject it.", self._review, primary=True
        )
        self.setLayout(ui.column(self.bar, self.why, project, self.note, self.review_button))
        self.bar.run.connect(self.add)
        self.runner.on(finished=self._on_kept, failed=self._on_failed, cancelled=self._on_cancelled)
        self.runner.on(running_changed=lambda _running: self.update_state())
        session = self.session
        session.dataset_changed.connect(self._on_dataset)
        for signal in (session.study_changed, session.splits_changed, session.changes_changed):
            signal.connect(self.update_state)
        self.offer(None)

    @property
    def offers(self) -> bool:
        """Whether something is painted that is not in the study."""
        return self._painted is not None and not self.ids

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the changes that what is offered has become; empty before it is added, and once they are gone."""
        _, ids = self._added.get(id(self._painted), (None, ()))
        return tuple(number for number in ids if self.session.change(number) is not None)

    def offer(self, painted: Painted | None) -> None:
        """Offer something that was painted; None: nothing."""
        if painted is not self._painted:
            self.note.say("")
        self._painted = painted
        self.update_state()

    def problem(self) -> str:
        """Why what is painted cannot be added; empty where it can."""
        dataset = self.session.dataset
        if dataset is None:
            return OPEN_FIRST
        if dataset.missing_scale:
            return "Enter how many µm one pixel is, in the step Data of the page Project."
        return READ_ONLY if self.session.read_only else ""

    def update_state(self, *_: object) -> None:
        """Show what can be done."""
        offers = self.offers
        problem = self.problem() if offers else ""
        self.setVisible(self._painted is not None)
        self.bar.setVisible(offers or self.runner.running)
        self.bar.allow(offers and not problem, problem)
        self.why.say(problem)
        self.project_button.setVisible(bool(problem) and not self.session.read_only)
        self.review_button.setVisible(bool(self.ids))
        self.changed.emit()

    def add(self) -> None:
        """Add it, in the background."""
        painted, survey = self._painted, self.session.survey
        if painted is None or survey is None or self.runner.running or self.problem():
            return
        if MAKING in self.session.running:
            self.note.say("A run is under way; add this when it has ended.", "warning")
            return
        self.note.say("")
        keep: Callable[[Dataset, Study], Job[Kept]] = partial(keep_job, self.networks, painted, survey.hashes)
        try:
            make = self.session.keep_job(keep)
        except HistomixError as error:
            self.panel.complain(self.note, str(error))
            return
        self._adding = painted
        self.runner.start(make, TITLE)

    def _on_kept(self, kept: Kept) -> None:
        assert self._adding is not None
        self._added[id(self._adding)] = self._adding, kept.ids
        self.session.take_made(kept.ids)
        self.panel.book.show_synthetic(True)
        words = "1 nucleus is" if kept.nuclei == 1 else f"{kept.nuclei:,} nuclei are" if kept.nuclei else "The image is"
        left = f" {kept.left:,} left out: the study holds a synthetic nucleus there already." if kept.left else ""
        self.note.say(f"{words} in the study, to be reviewed.{left}", "warning" if left else "good")
        self.update_state()

    def _on_failed(self, sentence: str) -> None:
        self.session.take_made(())
        self.panel.complain(self.note, sentence)

    def _on_cancelled(self) -> None:
        if not self.runner.discarded:
            self.session.take_made(())
            self.note.say("Stopped; nothing was added.")

    def _on_dataset(self) -> None:
        self.runner.discard()
        # Another study: what was added is not in that.
        self._added.clear()
        self.note.say("")
        self.update_state()

    def _review(self) -> None:
        if ids := self.ids:
            # What is painted lies above what the study made of it, which is what decisions change.
            self.panel.book.lay_bare()
            self.session.page_requested.emit(f"review/{ids[0]}")
