"""What a method is. A new one is one file: a settings class, and a `Method` that plans, makes and remakes changes.

A method reads a dataset and hands over `records.Change`s. It knows no window, no command line and no disk: ``jobs.run``
carries it out and keeps what it makes in a study. docs/architecture.md shows a whole method on one page.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from napari_histomix.datasets import Dataset, Entry, Problem
from napari_histomix.methods.record import Record
from napari_histomix.records import Candidate, Change, Event, HistomixError, Job, LabeledImage
from napari_histomix.settings import made_from

S = TypeVar("S")


class Item(Protocol):
    """A change before any pixel of it: whatever ``make`` needs, with an id and the image that it will have.

    The id is unique in its plan, from 0; the change's id is ``work.first`` more. The image is that of the target; empty
    for a new image.
    """

    @property
    def id(self) -> int: ...

    @property
    def image(self) -> str: ...


I = TypeVar("I", bound=Item)  # noqa: E741


@dataclass(frozen=True, slots=True)
class Needs:
    """What a dataset must have for a method: instances, a class for each image, or either where both are False."""

    instances: bool = False
    kinds: bool = False

    @property
    def words(self) -> str:
        """What it is, in words."""
        return "labeled nuclei" if self.instances else "a class for each image" if self.kinds else "either kind of data"

    def problem(self, title: str, dataset: Dataset) -> str:
        """Why a dataset will not do for a method of this title, in a sentence; empty where it will."""
        if self.kinds and not dataset.has_kinds:
            return f"{title} needs a class for each image; these have instances."
        if self.instances and not dataset.has_nuclei:
            return f"{title} needs labeled nuclei; these images have a class each and no instances."
        return ""


@dataclass(frozen=True, eq=False)
class Plan(Generic[I]):
    """What will be made, and what will not.

    Parameters
    ----------
    items : sequence of Item
        In the order they are made.
    wanted : int
        How many were asked for.
    refusals : Counter of str
        How often something was refused, by reason.
    problems : tuple of Problem
        Images that could not be used.
    outcomes : mapping of int to str
        Of a method that makes candidates: what becomes of those that were tried, by rank. Why each was refused; empty
        for one that will be made, which is then the item of that id.
    """

    items: Sequence[I]
    wanted: int
    refusals: Counter[str] = field(default_factory=Counter)
    problems: tuple[Problem, ...] = ()
    outcomes: Mapping[int, str] = field(default_factory=dict)


class Store(Protocol):
    """What a method may ask of the study it works for; of itself, a store holds nothing and keeps nothing."""

    @property
    def folder(self) -> Path:
        """Where a stage may keep files of its own."""

    def settings(self) -> dict[str, Any]:
        """Plain JSON values by key."""
        return {}

    def save_settings(self, values: Mapping[str, Any]) -> None:
        """Keep plain JSON values by key."""
        raise HistomixError("Nothing is kept while changes are made again.")

    def has_candidates(self) -> bool:
        """Whether a search has found any."""
        return False

    def candidates(self) -> tuple[Candidate, ...]:
        """Candidate locations that were found or placed by hand, by rank."""
        return ()

    def set_candidates(self, candidates: Iterable[Candidate], facts: Mapping[str, Any]) -> None:
        """Keep candidate locations, and how they were found, for ``settings``."""
        self.save_settings(facts)

    def append_candidate(self, candidate: Candidate) -> Candidate:
        """Add a candidate that a person placed; returns it as it is kept, with its rank."""
        raise HistomixError("Nothing is kept while changes are made again.")

    def outcomes(self) -> Mapping[int, int | str]:
        """What runs made of candidates, by rank: the id of the change, or why the last one that tried refused it."""
        return {}

    def changes(self) -> Sequence[Change]:
        """All that was made so far, by id; pixels are read when they are looked at."""
        return ()


@dataclass(frozen=True, eq=False)
class Work:
    """What a method works on.

    Parameters
    ----------
    dataset : Dataset
        With its splits; donors and statistics come from ``dataset.training`` alone, and never from what is synthetic.
    store : Store
        The study.
    first : int
        Id of the change that the item 0 becomes. Changes with lower ids are of other runs.
    decisions : mapping
        What people had decided on the items of stages when the run began, by subject and item.
    loaded : InpaintingModel, PromptedModel or GeneratorModel, optional
        A model that is loaded already, in place of the one that the settings name.
    past : int, optional
        Id behind those that are the work's own; of a run that goes on, other changes may have been made behind it.
    """

    dataset: Dataset
    store: Store
    first: int = 0
    decisions: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    loaded: Any = None
    past: int | None = None

    def before(self) -> list[Change]:
        """Changes of other runs: what they changed is not changed again."""
        past = math.inf if self.past is None else self.past
        return [change for change in self.store.changes() if not self.first <= change.id < past]


def whole_images(dataset: Dataset, kinds: bool = False) -> list[Entry]:
    """Training images that hold no synthetic pixel; ``kinds``: those alone that have a class."""
    return [entry for entry in dataset.training if not entry.synthetic and (entry.kind or not kinds)]


class Ingredients(Protocol):
    """What changes are made again from: the source images of an export, its models, a place to compute."""

    @property
    def dataset(self) -> Dataset:
        """The source dataset."""

    def read(self, facts: Mapping[str, Any]) -> LabeledImage:
        """The image that facts of provenance (``datasets.image_facts``) are of, at the scale it had."""

    def model(self, provenance: Mapping[str, Any]) -> Any:
        """The model of a record, told what it was told then."""

    def device(self, provenance: Mapping[str, Any]) -> str:
        """Where the work of a record is done again."""

    def threads(self, provenance: Mapping[str, Any]) -> AbstractContextManager[Any]:
        """As many threads of a processor as worked on a record."""


class Stage(ABC):
    """Something to be found and vetted before anything is made: candidate locations, a pool of segments.

    Attributes
    ----------
    name, title : str
    settings : type
        A frozen dataclass (``settings``).
    subjects : tuple of str
        Subjects of the decisions on its items in a study (``study.decision_log``).
    page : str
        ``module:Class`` of the page where a person vets it.
    kept_as : str
        Where a study's ``settings`` keep what its items were found with.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    settings: ClassVar[type]
    subjects: ClassVar[tuple[str, ...]]
    page: ClassVar[str]
    kept_as: ClassVar[str]

    @abstractmethod
    def ready(self, store: Store) -> bool:
        """Whether the study holds its items already."""

    @abstractmethod
    def find(self, work: Work, settings: Any) -> Job[Any]:
        """Find the items and keep them in ``work.store``; a long job."""


class Method(ABC, Generic[S, I]):
    """A way to make synthetic images. One instance serves all; it holds no state.

    Attributes
    ----------
    name : str
        By which it is chosen: lower case, no spaces.
    title, makes : str
        What people call it, and what it makes, as a sentence.
    citation : str
        Paper or library; empty where there is none.
    needs : Needs
    settings : type
        A frozen dataclass of annotated settings (``settings``).
    stage : Stage, optional
        What is vetted before.
    seconds : float, optional
        What a change took with the default settings, planning included, on two cores of a processor
        (docs/performance.md); None where nobody has measured it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    makes: ClassVar[str]
    citation: ClassVar[str] = ""
    needs: ClassVar[Needs] = Needs()
    settings: ClassVar[type]
    stage: ClassVar[Stage | None] = None
    seconds: ClassVar[float | None] = None

    @abstractmethod
    def plan(self, work: Work, settings: S) -> Job[Plan[I]]:
        """Choose what will be made; a long job.

        The same work and settings give the same plan: an interrupted run plans again and makes what is missing.

        Raises
        ------
        HistomixError
            For settings that cannot be met.
        """

    @abstractmethod
    def make(self, work: Work, items: Sequence[I], settings: S) -> Job[None]:
        """Make changes of items of a plan; a long job whose events hand each over (``Event.made``) when it is finished.

        A change depends on its item, the dataset and the settings alone: not on the other items, nor on their order.
        """

    def recall(self, record: Record, ingredients: Ingredients) -> I:
        """The item that a recorded change was made of. Needed only where ``remake`` is not overridden."""
        raise HistomixError(f"{self.title} does not say how its changes are made again.")

    def remake(self, records: Sequence[Record], ingredients: Ingredients) -> Job[list[Change | str]]:
        """Make recorded changes again from their records; a long job.

        A method whose records name a model has a ``device`` among its settings.

        Returns
        -------
        list of Change or str
            In the order of the records; a reason where a change cannot be made any more.
        """
        remade: list[Change | str] = []
        for record in records:
            item = self.recall(record, ingredients)
            settings: Any = made_from(self.settings, record.provenance["settings"])
            loaded = None
            with ExitStack() as machine:
                if "model_sha256" in record.provenance:
                    loaded = ingredients.model(record.provenance)
                    settings = replace(settings, device=ingredients.device(record.provenance))
                    machine.enter_context(ingredients.threads(record.provenance))
                work = Work(ingredients.dataset, _Nothing(), record.id - item.id, loaded=loaded)
                made: list[Change] = []
                for event in self.make(work, [item], settings):
                    made += event.made
                    yield Event(event.phase, len(remade), len(records))
            remade.append(made[0] if made else "the method did not make it again")
        return remade

    def trace(self, record: Record, row: int, col: int, painted: bool) -> Mapping[str, Any]:
        """Where a pixel of a recorded change comes from, as plain JSON values.

        Parameters
        ----------
        record : Record
        row, col : int
            In the image that the change is seen in; one of its changed pixels.
        painted : bool
            Whether its origin map says inpainted, not donor.

        Returns
        -------
        mapping
            ``image``, ``x`` and ``y`` of a donor's pixel where the method can tell, and whatever else it knows.
        """
        return {}

    def sentence(self, records: Sequence[Record]) -> str:
        """How it made these, for a dataset's card."""
        return f"{self.title}: {self.makes}"


class Placing(ABC):
    """A method that can lay a given donor on a given place: what a comparison of methods side by side asks for."""

    @abstractmethod
    def place(self, work: Work, sites: Sequence[Candidate], settings: Any) -> Job[list[Change | str]]:
        """Changes with these donors at these places, each as if it were alone, or why there is none; a long job."""


class _Nothing(Store):
    """What a remade change may know of its study."""

    folder = Path()
