"""Which method makes the images, and the page on which a person vets what its stage finds."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QWidget

from napari_histomix.methods import method_names, method_of, method_problems
from napari_histomix.methods.base import Method, Stage
from napari_histomix.records import HistomixError
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.forms import SessionForm
from napari_histomix.widgets.session import Session

NO_DATA = "Choose a dataset first."
NO_SCALE = "Enter how many µm one pixel is, on the page Project."


class MethodChooser(QWidget):
    """All methods; those that cannot use the dataset are listed, say why, and cannot be chosen."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        titles = [(method_of(name).title, name) for name in method_names()]
        self.box = ui.choice(titles, "The method that makes synthetic images.", name="Method")
        self.box.activated.connect(lambda _place: session.choose_method(self.box.currentData()))
        self.about = ui.hint("")
        self.note = ui.Note("\n".join(method_problems()), "warning")
        layout = ui.form(("Method", self.box))
        layout.addRow(self.about)
        layout.addRow(self.note)
        self.setLayout(layout)
        session.dataset_changed.connect(self._update)
        session.method_changed.connect(self._update)
        self._update()

    def _update(self) -> None:
        dataset = self.session.dataset
        items: Any = self.box.model()
        for index in range(self.box.count()):
            method = method_of(self.box.itemData(index))
            problem = method.needs.problem(method.title, dataset) if dataset is not None else ""
            items.item(index).setEnabled(not problem)
            self.box.setItemData(index, problem or method.makes, Qt.ItemDataRole.ToolTipRole)
        self.box.setCurrentIndex(self.box.findData(self.session.method))
        method = chosen(self.session)
        self.about.setText("" if method is None else f"{method.makes[:1].upper()}{method.makes[1:]} {method.citation}")


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
        self.progress = RunBar(self.run_text, self.runner, self.run_tip)
        self.progress.run.connect(self.run)
        lead = self.lead("Open a dataset →", "project/data", "Choose images, or the sample.", beside=self.empty)
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
        problem = problem or self.form.missing()
        self.progress.allow(not problem, problem)

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
        self.page: Any = None
        """Page of the chosen method's stage; None where it has none."""
        self.ready = False
        """Whether nothing has to be found before the chosen method can make images."""
        for signal in (self.session.method_changed, self.session.dataset_changed):
            signal.connect(self._on_method)
        for signal in (self.session.study_changed, self.session.candidates_changed, self.session.pool_changed):
            signal.connect(self._on_study)
        self._on_method()

    def _on_study(self, *_: object) -> None:
        self.ready = ready(self.session, chosen(self.session))

    def _on_method(self) -> None:
        method = chosen(self.session)
        stage = method.stage if method is not None else None
        if stage is not None and stage.page not in self.pages:
            module, _, name = stage.page.partition(":")
            page = getattr(import_module(module), name)(self.viewer, self.session, stage)
            page.layout().setContentsMargins(0, 0, 0, 0)
            page.running_changed.connect(self.running_changed)
            self.column.insertWidget(self.column.count() - 1, page, 1000)
            self.pages[stage.page] = page
        self.page = self.pages[stage.page] if stage is not None else None
        for page in self.pages.values():
            page.setVisible(page is self.page)
        self.runner = self._idle if self.page is None else self.page.runner
        self._on_study()
        self.running_changed.emit(self.runner.running)

    def settings(self) -> Any:
        """What the page's form says, as settings of the stage; None where the method has none."""
        return None if self.page is None else self.page.form.value(self.page.stage.settings)
