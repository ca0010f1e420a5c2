"""The only place where a method is carried out: planned, made, and kept in a study change by change.

The command line, the docks and notebooks call ``run``; what was killed or cancelled goes on with ``resume``. Items of a
plan are pure functions of the dataset and their settings, grouped by image, so that they could as well be made on other
machines: only ``run`` itself writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from napari_histomix.datasets import Dataset, Problem
from napari_histomix.methods import method_of
from napari_histomix.methods.base import Method, Work
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.settings import check_settings, made_from, plain
from napari_histomix.study import Study
from napari_histomix.study.runs import OPEN, Run


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a run: the ``ids`` of all changes that it made, those of an interrupted beginning included.

    ``wanted`` is how many were asked for, ``refusals`` how often something was refused, by reason; ``problems`` are of
    images that could not be used, and ``outcomes`` why candidates were refused, by rank (``Plan.outcomes``).
    """

    study: Study
    run: int
    ids: tuple[int, ...]
    wanted: int
    refusals: Counter[str]
    problems: tuple[Problem, ...]
    outcomes: Mapping[int, str] = field(default_factory=dict)


def run(
    method: str | Method[Any, Any],
    dataset: Dataset,
    settings: Any,
    study: Study,
    *,
    stage: Any = None,
    loaded: Any = None,
) -> Job[Outcome]:
    """Carry a method out and keep every change in the study when it is made; a long job (see ``records.Job``).

    Closing the job cancels it: what is made so far is in the study, and ``resume`` goes on from there.

    Parameters
    ----------
    method : str or Method
    dataset : Dataset
    settings : object
        Of the method's ``settings`` class.
    study : Study
        Of this dataset. What its method's stage needs is found first, if it does not hold it.
    stage : object, optional
        Settings of the stage; needed only where the study does not hold its items yet.
    loaded : InpaintingModel or PromptedModel, optional
        A model that is loaded already, in place of the one that the settings name.

    Yields
    ------
    Event
        ``made`` holds changes that are on disk now.

    Returns
    -------
    Outcome

    Raises
    ------
    HistomixError
        If the method cannot use the dataset, a setting is out of its bounds, or nothing could be made.
    """
    method = method_of(method) if isinstance(method, str) else method
    check(method, dataset)
    settings = check_settings(settings)
    yield from prepare(method, dataset, study, stage)
    subjects = method.stage.subjects if method.stage is not None else ()
    decisions = {subject: study.decisions(subject) for subject in subjects}  # type: ignore[arg-type]
    begun = study.begin_run(method.name, plain(settings), decisions)
    return (yield from _carry_out(method, dataset, settings, study, begun, loaded))


def resume(study: Study, dataset: Dataset, loaded: Any = None) -> Job[Outcome]:
    """Go on with the last run of a study that was killed or cancelled; the result is that of an uninterrupted one.

    ``dataset`` is the study's, ``loaded`` as for ``run``. Raises HistomixError if all runs came to their end, or as
    ``run``.
    """
    begun = unfinished(study)
    if begun is None:
        raise HistomixError(f"All that was begun in the study {study.folder.name} is made; there is nothing to resume.")
    method = method_of(begun.method)
    check(method, dataset)
    settings: Any = made_from(method.settings, begun.settings)
    return (yield from _carry_out(method, dataset, settings, study, study.take_up(begun.id), loaded))


def make_items(
    method: Method[Any, Any], dataset: Dataset, settings: Any, study: Study, items: Sequence[Any], loaded: Any = None
) -> Job[tuple[int, ...]]:
    """Make items that a person planned by hand, and keep the changes as a run of their own; a long job.

    All of them are kept, or none: closing the job, or a failure, takes back what was made. The items have ids from 0;
    ``settings`` and ``loaded`` are as for ``run``. Returns the ids of the changes.
    """
    check(method, dataset)
    settings = check_settings(settings)
    begun = study.begin_run(method.name, plain(settings))
    # No plan leads back to these items: a killed process leaves nothing to be taken up again.
    study.end_run(begun.id)
    # No run that begins meanwhile gets their ids.
    study.set_plan(begun.id, len(items), {}, past=begun.first + len(items))
    try:
        work = Work(dataset, study, begun.first, begun.decisions, loaded)
        yield from _kept(method.make(work, items, settings), study, begun.id)
    except BaseException:
        study.discard_run(begun.id)
        raise
    study.end_run(begun.id)
    return tuple(study.ids_of_run(begun.id))


def unfinished(study: Study) -> Run | None:
    """The last run of a study that was killed or cancelled; None where there is none."""
    return next((begun for begun in reversed(study.runs()) if begun.state == OPEN), None)


def check(method: Method[Any, Any], dataset: Dataset) -> None:
    """Raise HistomixError if a method cannot use a dataset; the sentence says what it needs."""
    if problem := method.needs.problem(method.title, dataset):
        raise HistomixError(problem)


def prepare(method: Method[Any, Any], dataset: Dataset, study: Study, stage: Any = None) -> Job[Any]:
    """Find what a method's stage needs, unless the study holds it already; what ``Stage.find`` returns, or None."""
    if method.stage is None or method.stage.ready(study):
        return None
    wanted = made_from(method.stage.settings, {}) if stage is None else check_settings(stage)
    return (yield from method.stage.find(Work(dataset, study), wanted))


def _carry_out(
    method: Method[Any, Any], dataset: Dataset, settings: Any, study: Study, begun: Run, loaded: Any
) -> Job[Outcome]:
    first: int | None = None
    while first != begun.first:
        first = begun.first
        work = Work(dataset, study, first, begun.decisions, loaded, begun.past)
        plan = yield from method.plan(work, settings)
        # What was added by hand meanwhile has the ids, and perhaps the places, of what was planned: planned anew.
        begun = study.take_up(begun.id)
    ranks = [candidate.rank for candidate in study.candidates()] if plan.outcomes else []
    past = begun.past or begun.first + 1 + max([*(item.id for item in plan.items), *ranks], default=-1)
    study.set_plan(begun.id, plan.wanted, plan.refusals, plan.outcomes, past)
    done = set(study.ids_of_run(begun.id))
    # Of a run that goes on: where other runs took a place of its plan, it may hold more than are left.
    free = [item for item in plan.items if begun.first + item.id not in done and begun.first + item.id < past]
    left = free[: max(plan.wanted - len(done), 0)]
    if left:
        yield from _kept(method.make(work, left, settings), study, begun.id)
    ids = tuple(study.ids_of_run(begun.id))
    yield Event("Done", len(ids), len(ids))
    study.end_run(begun.id)
    return Outcome(study, begun.id, ids, plan.wanted, Counter(plan.refusals), plan.problems, plan.outcomes)


def _kept(making: Job[None], study: Study, run: int) -> Job[None]:
    """Keep each change of a run as soon as it is made; what is said of every item is passed on once."""
    said: set[str] = set()
    with closing(making):
        for event in making:
            if event.made:
                study.add_changes(run, event.made)
            if event.message in said:
                event = replace(event, message=None)
            elif event.message is not None:
                said.add(event.message)
            yield event


def nothing_made(title: str, wanted: int, refusals: Mapping[str, int]) -> HistomixError:
    """The error that says why a method of this title made nothing, with the most frequent refusals and their counts."""
    reasons = "; ".join(refused(refusals)[:6])
    settings = "loosen a setting that is named here" if "(setting: " in reasons else "choose other settings"
    return HistomixError(
        f"{title} could make none of {wanted:,}{f': {reasons}' if reasons else ''}; {settings}, or add images."
    )


def refused(refusals: Mapping[str, int]) -> list[str]:
    """Refusals as lines for people, the most frequent first."""
    ordered = sorted(refusals.items(), key=lambda pair: -pair[1])
    return [f"{count:,} refused: {reason}" for reason, count in ordered]
