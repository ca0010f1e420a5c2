"""The page on which a person vets what the stage of the chosen method finds."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from napari_histomix.methods import method_names, method_of
from napari_histomix.methods.base import Method, Stage
from napari_histomix.records import HistomixError
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.session_form import SessionForm

NO_DATA = "Choose a dataset first."
NO_SCALE = "Enter how many µm one pixel is, on the page Project."


def chosen(session: Session) -> Method[Any, Any] | None:
    """The method of a session; None before there is one."""
    return method_of(session.method) if session.method else None


def data_problem(session: Session, method: Method[Any, Any] | None) -> str:
    """Why a method cannot work on what is open; empty where it can."""
    dataset = session.dataset
    if dataset is None or method is None:
        return NO_DATA
    if dataset.missing_scale:
        return NO_SCALE
    return method.needs.problem(method.title, dataset)


def ready(session: Session, method: Method[Any, Any] | None) -> bool:
    """Whether nothing has to be found before a method can make images."""
    if method is None or method.stage is None:
        return method is not None
    return session.study is not None and method.stage.ready(session.study)


class PlanPage(Panel):
    """Finds what a method's stage vets: a form of its settings, and the run. Pages of stages go on from here.

    The stage is by default the one whose page this is; a form that is shown elsewhere takes the place of its own.
    """

    heavy = True
    run_text, run_tip = "Find", "Find what is to be looked at before anything is made."

    def __init__(
        self,
        napari_viewer: Any,
        session: Session | None = None,
        stage: Stage | None = None,
        form: SessionForm | None = None,
    ) -> None:
        super().__init__(napari_viewer, session)
        place = f"{type(self).__module__}:{type(self).__qualname__}"
        self._methods = [
            method
            for method in map(method_of, method_names())
            if method.stage is not None
            and (method.stage.page == place if stage is None else method.stage.name == stage.name)
        ]
        self.stage: Stage = stage or self._methods[0].stage  # type: ignore[assignment]
        self.empty, self.note = ui.Note(NO_DATA), ui.Note()
        self.form = form or SessionForm(self.session, self.stage.settings)
        self._own_form = form is None
        self.progress = RunBar(self.run_text, self.runner, self.run_tip, pausable=True)
        self.progress.run.connect(self.run)
        lead = self.lead("Go to Project →", "project/data", "Choose images, or the sample.", beside=self.empty)
        ui.add(self.column, self.empty, lead, *([self.form] if self._own_form else []), self.progress, self.note)
        self.build_results()
        self.column.addStretch(1)
        self.runner.on(finished=self._on_found, failed=partial(self.complain, self.note))
        self.runner.on(cancelled=lambda: self.note.say("Stopped. Nothing was changed."))
        self.runner.on(running_changed=self.form.setDisabled)
        self.session.dataset_changed.connect(self.runner.discard)
        self.session.dataset_changed.connect(lambda: self.note.say(""))
        for signal in (self.session.dataset_changed, self.session.classes_changed, self.form.changed):
            signal.connect(self._allow)
        self._allow()

    def build_results(self) -> None:
        """Add what is shown below the run."""

    def words(self) -> str:
        """How things stand, in a few words."""
        return ""

    @property
    def _method(self) -> Method[Any, Any]:
        """The chosen method where the stage is its, else one whose stage it is."""
        own = [method for method in self._methods if method.name == self.session.method]
        return (own or self._methods)[0]

    def _allow(self) -> None:
        problem = data_problem(self.session, self._method)
        self.empty.say(problem)
        if self._own_form:
            self.form.setVisible(self.session.dataset is not None)
        self.progress.setVisible(self.session.dataset is not None)
        missing = "" if problem else self.form.missing()
        self.progress.allow(not (problem or missing), problem or missing, said=missing)

    def run(self) -> None:
        if self.runner.running or data_problem(self.session, self._method) or self.form.missing():
            return
        self.note.say("")
        self.session.choose_method(self._method.name)
        try:
            make = self.session.stage_job(self.form.value(self.stage.settings))
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        self.runner.start(make, self.run_text.lower())

    def _on_found(self, result: Any) -> None:
        before = self.session.study_folder if self.session.worked else None
        self.session.take_stage(result)
        if before is not None and before != self.session.study_folder:
            self.note.say(f"This begins a new study. Your earlier work is kept in the study {before.name}.")
        if result.problems:
            more = f" (and {len(result.problems) - 1} more)" if len(result.problems) > 1 else ""
            self.note.say(f"Left out: {result.problems[0]}{more}", "warning")
        self.on_found(result)

    def on_found(self, result: Any) -> None:
        """Show what was found."""


class PlanPanel(Panel):
    """The page of the chosen method's stage, where it has one."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self._idle = self.runner
        self.column.addStretch(1)
        self.pages: dict[str, Any] = {}
        """Those that were made."""
        self._stage: Stage | None = None
        self._make_soon = ui.later(self, 0, lambda: self.page)
        self.ready = False
        """Whether nothing has to be found before the chosen method can make images."""
        for signal in (self.session.method_changed, self.session.dataset_changed):
            signal.connect(self._on_method)
        for signal in (self.session.study_changed, self.session.candidates_changed, self.session.pool_changed):
            signal.connect(self._on_study)
        self._on_method()

    def _on_study(self, *_: object) -> None:
        self.ready = ready(self.session, chosen(self.session))

    @property
    def page(self) -> Any:
        """Page of the chosen method's stage; None where it has none."""
        return None if self._stage is None else self.page_of(self._stage)

    def page_of(self, stage: Stage) -> Any:
        """The page of a stage, made where it is not there yet."""
        if stage.page not in self.pages:
            module, _, name = stage.page.partition(":")
            page = getattr(import_module(module), name)(self.viewer, self.session, stage)
            page.layout().setContentsMargins(0, 0, 0, 0)
            page.running_changed.connect(self.running_changed)
            page.setVisible(False)
            self.column.insertWidget(self.column.count() - 1, page, 1000)
            self.pages[stage.page] = page
            self._show_made()
        return self.pages[stage.page]

    def words(self) -> str:
        """How things stand on the page of the chosen method's stage, in a few words."""
        page = self._made
        return "" if page is None else str(page.words())

    @property
    def _made(self) -> Any:
        """The chosen method's page, None before it is made."""
        return None if self._stage is None else self.pages.get(self._stage.page)

    def _on_method(self) -> None:
        method = chosen(self.session)
        self._stage = method.stage if method is not None else None
        self._on_study()
        self._show_made()
        if self._made is None:
            # In a turn of its own: with the method's form it would hold the window twice as long.
            self._make_soon.start()

    def _show_made(self) -> None:
        for page in self.pages.values():
            page.setVisible(page is self._made)
        self.runner = self._idle if self._made is None else self._made.runner
        self.running_changed.emit(self.runner.running)

    def settings(self) -> Any:
        """What the page's form says, as settings of the stage; None where the method has none."""
        return None if self.page is None else self.page.form.value(self.page.stage.settings)
