"""Carry the chosen method out, with a live look at what is being made."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from napari_histomix import jobs
from napari_histomix.methods import method_of
from napari_histomix.methods.base import Method
from napari_histomix.records import Event, HistomixError
from napari_histomix.study.runs import Run
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.crops import CropView
from napari_histomix.widgets.decisions import KEEP
from napari_histomix.widgets.forms import SettingLinks
from napari_histomix.widgets.plan_panel import chosen, data_problem, ready
from napari_histomix.widgets.questions import ask_to_discard, ask_to_keep
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.session_form import SessionForm

SURE_OF = 3
"""Changes from which on a run tells how long each takes."""
FEW = 6
"""Changes below which it says nothing that one image took most of them."""


class MakePanel(Panel):
    """The form of the method's settings, the run with its preview, and what was refused and why."""

    heavy = True
    model: Any = None
    """A loaded model to use in place of the one that the settings name."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self._messages: list[str] = []
        self._began: float | None = None
        """When a run said its first word: before, it may have waited for others."""
        self._steady, self._new = True, 0
        """Whether it was never paused, and how many changes it has made."""
        self._ready = False
        self._forms: dict[str, SessionForm] = {}
        self.empty, self.first, self.note = ui.Note(), ui.Note(), ui.Note()
        self.refusals, self.left_text = ui.Note(), ui.Note()
        self.links = SettingLinks()
        self.refusals.setToolTip("What was refused, most often first.")
        self.stage_settings: Callable[[], Any] = lambda: None
        """Settings by which a run finds what comes first, where nobody has looked for it before."""
        self._place = ui.column()
        self._before: tuple[Path | None, int] | None = None
        """Study and number of a run that was unfinished already when another was started."""
        self.ask, self.sure = partial(ask_to_keep, self), partial(ask_to_discard, self)
        self.progress = RunBar(
            "Make",
            self.runner,
            "Each change is kept as soon as it is made.",
            pausable=True,
            # Of a run that was gone on with, what it had made before is discarded, too.
            keep_question=lambda count: self.ask(self._take_finished() or count),
        )
        self.progress.run.connect(self.run)
        self.progress.stopped.connect(self._on_stopped)
        self.resume_button = ui.button(
            "", "Make the rest of it; the result is that of an uninterrupted run.", self.resume
        )
        self.discard_button = ui.button("Discard", "Take back all that this run made.", self.discard)
        choices = ui.row(self.resume_button, self.discard_button, stretch=0)
        self.left = ui.box(ui.column(self.left_text, choices, space=ui.SPACE // 2))
        """What can be done with a run that was not finished."""
        self.preview = CropView("Being made", height=230)
        self.preview.hide()
        lead = self.lead("Go to Project →", "project/data", "Choose images, or the sample.", beside=self.empty)
        self.review_button = self.lead("Review them →", "review/undecided", "Look at each, approve or reject it.")
        self.review_button.hide()
        ui.add(self.column, self.empty, lead, self.first, self._place, self.progress, self.left)
        ui.add(self.column, self.preview, self.note, self.review_button, self.refusals, self.links)
        self.column.addStretch(1)
        self.runner.on(progressed=self._on_event, finished=self._on_made, failed=self._on_failed)
        self.runner.on(cancelled=self._on_cancelled, running_changed=self._on_running)
        self.runner.on(paused_changed=self._on_paused)
        session = self.session
        session.dataset_changed.connect(self.runner.discard)
        for signal in (session.dataset_changed, session.method_changed):
            signal.connect(self._forget)
        for signal in (session.dataset_changed, session.study_changed, session.method_changed):
            signal.connect(self._update)
        for signal in (session.candidates_changed, session.changes_changed, session.pool_changed):
            signal.connect(self._update)
        self._update()

    @property
    def form(self) -> SessionForm | None:
        """The form of the chosen method; None before there is one."""
        method = chosen(self.session)
        return None if method is None else self.form_of(method)

    def form_of(self, method: Method[Any, Any]) -> SessionForm:
        """The form of a method, made where it is not there yet."""
        if method.name not in self._forms:
            form = self._forms[method.name] = SessionForm(self.session, method.settings)
            form.setVisible(False)
            form.changed.connect(self._allow)
            self._place.addWidget(form)
        return self._forms[method.name]

    def settings(self) -> Any:
        """What the form says, as settings of the chosen method; a ``HistomixError`` where a value cannot be."""
        method, form = chosen(self.session), self.form
        assert method is not None and form is not None
        return form.value(method.settings)

    def problem(self) -> str:
        """Why nothing can be made yet; empty where it can."""
        method, form = chosen(self.session), self.form
        problem = data_problem(self.session, method)
        if problem or method is None or form is None:
            return problem
        return form.missing()

    def run(self) -> None:
        if not self.runner.running and not self.problem():
            self._start(self._make_job)

    def _make_job(self) -> Any:
        stage = None if self._ready else self.stage_settings()
        return self.session.make_job(self.settings(), stage, self.model)

    def resume(self) -> None:
        if not self.runner.running:
            self._start(self.session.resume_job)
            self._before = None

    def _start(self, prepare: Any) -> None:
        self._messages.clear()
        self._began, self._steady, self._new = None, True, 0
        self.note.say("")
        self.refusals.say("")
        self._link()
        try:
            make = prepare()
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        self.book.show_synthetic(True)
        before = self._unfinished()
        self._before = None if before is None else (self.session.study_folder, before.id)
        self.runner.start(make, "making images")

    # What comes of it.

    def _on_running(self, running: bool) -> None:
        self.preview.show_pixels(None)
        self.preview.setVisible(running)
        self._update()
        if not running:
            self.session.outcomes_changed.emit()

    def _on_paused(self, _paused: bool) -> None:
        self._steady = False

    def _on_event(self, event: Event) -> None:
        if self._began is None:
            self._began = time.monotonic()
        if event.preview is not None:
            self.preview.show_pixels(event.preview)
        if event.message and event.message not in self._messages:
            self._messages.append(event.message)
            self.note.say(" ".join(self._messages), "warning")
        if event.made:
            self._new += len(event.made)
            self.session.take_made([change.id for change in event.made])

    def _on_made(self, outcome: jobs.Outcome) -> None:
        self.session.take_made(outcome.ids)
        number, wanted = len(outcome.ids), outcome.wanted
        if self._began is not None and self._steady and self._new >= SURE_OF:
            method = outcome.study.run(outcome.run).method
            self.session.pace[method] = (time.monotonic() - self._began) / self._new
        if number < wanted:
            advice = "" if number else " Loosen a setting that is named below, or add images."
            self.note.say(f"{number:,} of {wanted:,} made.{advice}", "warning")
        else:
            self.note.say(f"{number:,} made.", "good")
        problems = [problem.sentence for problem in outcome.problems[:3]]
        if self._messages or problems:
            self.note.say(" ".join([self.note.text(), *self._messages, *problems]), "warning")
        lines = [*self._crowded(outcome.ids), *jobs.refused(outcome.refusals)]
        decided = self.session.decisions["candidate"]
        kept = [rank for rank, said in decided.items() if said == KEEP and outcome.outcomes.get(rank)]
        if kept:
            whose = "its row in the table says" if len(kept) == 1 else "their rows in the table say"
            lines.insert(0, f"Not made: {ui.many(len(kept), 'candidate')} that you kept; {whose} why.")
        self.refusals.say("\n".join(lines))
        self._link()

    def _link(self) -> None:
        """Lead to the settings that are named in what is said of a run."""
        self.links.show_named(f"{self.refusals.text()} {self.note.text()}", self.form)

    def _crowded(self, ids: Sequence[int]) -> list[str]:
        """What is said where one image took most of what a run made, and a setting could have spread it."""
        table, form = self.session.table, self.form
        rows = table.rows(ids)
        rows = rows[table.in_place[rows]]
        if form is None or "per_image" not in form.fields or len(rows) < FEW:
            return []
        codes, counts = np.unique(table.names[rows], return_counts=True)
        most = int(counts.argmax())
        if len(codes) < 2 or counts[most] <= len(rows) / 2:
            return []
        label = form.labels["per_image"].text()
        return [f"{counts[most]:,} of {len(rows):,} lie in {table.made_names[codes[most]]}; '{label}' can bound that."]

    def _on_failed(self, sentence: str) -> None:
        self._take_finished()
        self.complain(self.note, sentence)
        self._link()

    def _on_stopped(self, keep: bool) -> None:
        self._take_finished()
        if not keep:
            self._discard()

    def _on_cancelled(self) -> None:
        if self.runner.discarded:
            return
        count = self._take_finished()
        if not count and self._begun() is not None:
            # Nothing is left to resume of a run that made nothing.
            self._discard()
        self.note.say(f"Stopped. {count:,} kept." if count else "Stopped. Nothing was kept.")

    def _take_finished(self) -> int:
        """Show what a run made before it ended early; how much that is."""
        self.session.take_made(())
        study, run = self.session.study, self._begun()
        ids = study.ids_of_run(run.id) if run is not None and study is not None else []
        self.session.take_made(ids)
        self._update()
        return len(ids)

    def _begun(self) -> Run | None:
        """The unfinished run that was started last; None where it ended before it had begun, while networks load."""
        run = self._unfinished()
        return None if run is None or (self.session.study_folder, run.id) == self._before else run

    def discard(self) -> None:
        """Take back what the unfinished run made; where a person has decided on some of it, once they are sure."""
        run, study = self._unfinished(), self.session.study
        ids = study.ids_of_run(run.id) if run is not None and study is not None else []
        decided = sum(number in self.session.decisions["change"] for number in ids)
        if not decided or self.sure(decided):
            self._discard()

    def _discard(self) -> None:
        run, study = self._unfinished(), self.session.study
        if run is None or study is None or self.runner.running:
            return
        ids = study.ids_of_run(run.id)
        self.session.discard_run(run.id)
        if self._unfinished() is None:
            self.note.say(f"Discarded. {len(ids):,} taken back.")
        self._update()

    def _unfinished(self) -> Run | None:
        return jobs.unfinished(self.session.study) if self.session.study is not None else None

    # What the session says.

    def _forget(self) -> None:
        """What is said of a run is not said of another dataset or method."""
        if not self.runner.running:
            self.note.say("")
            self.refusals.say("")
            self._link()

    def _update(self, *_: object) -> None:
        self._ready = ready(self.session, chosen(self.session))
        shown = self.form
        for form in self._forms.values():
            form.setVisible(form is shown)
            form.setEnabled(not self.runner.running)
        run = None if self.runner.running else self._unfinished()
        self.review_button.setVisible(len(self.session.table) > 0 and not self.runner.running)
        self.left.setVisible(run is not None)
        if run is not None and self.session.study is not None:
            made = len(self.session.study.ids_of_run(run.id))
            asked = f", {run.wanted:,} asked for" if run.wanted else ""
            self.resume_button.setText(f"Resume ({made:,} made{asked})")
            self.left_text.say(f"A run of {method_of(run.method).title} was not finished.")
        self._allow()

    def _allow(self) -> None:
        problem = self.problem()
        method = chosen(self.session)
        self.empty.say(data_problem(self.session, method))
        waits = method is not None and method.stage is not None and not self._ready and not problem
        self.first.say(
            f"{method.stage.title} are found first; look at them in their own tab before, if you like." if waits else ""
        )
        self.progress.setVisible(self.session.dataset is not None)
        self.progress.allow(not problem, problem, said="" if self.empty.text() else problem)
