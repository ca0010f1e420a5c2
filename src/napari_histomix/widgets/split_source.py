"""Where a table of splits gets its images from, and who is told what was chosen: nuclei of a session, or tissue."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qtpy.QtCore import QObject, Signal

from napari_histomix.datasets import Dataset
from napari_histomix.datasets.splits import split_of, with_splits
from napari_histomix.records import HistomixError
from napari_histomix.widgets.loading import Candidates
from napari_histomix.widgets.session import Session


class SplitClass(Protocol):
    """A class of nuclei or of images."""

    @property
    def number(self) -> int:
        """By which it is counted."""

    @property
    def name(self) -> str:
        """What it is called."""


@dataclass(frozen=True)
class Kind:
    """A class of images, numbered."""

    number: int
    name: str


class SplitSource(QObject):
    """Images that are divided into splits; of itself, none."""

    dataset_changed = Signal()
    splits_changed = Signal()
    """Or what may be done with them."""
    failed = Signal(str)

    @property
    def dataset(self) -> Any:
        """A dataset of nuclei or of tissue with the splits chosen last; None where there is none."""
        return None

    @property
    def classes(self) -> Sequence[SplitClass]:
        """In the order they are shown."""
        return ()

    @property
    def counts(self) -> Mapping[str, Mapping[int, int]]:
        """What each image has of each class, by its number."""
        return {}

    @property
    def locked(self) -> bool:
        """Whether splits can be looked at only."""
        return False

    @property
    def used(self) -> Collection[str]:
        """Images that work was done with which only training images may be used for."""
        return ()

    @property
    def splits(self) -> dict[str, str]:
        """Split of each image as it is now."""
        dataset = self.dataset
        return {} if dataset is None else {one.source.image: split_of(one.source) for one in dataset.entries}

    def choose(self, splits: Mapping[str, str]) -> None:
        """Give every image its split, where there are images."""


class NucleiSplits(SplitSource):
    """Those of a session, which keeps what is chosen in its study as soon as there is one."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.session = session
        self._found: Candidates | None = None
        self._used: Collection[str] = ()
        session.dataset_changed.connect(self.dataset_changed)
        for signal in (session.splits_changed, session.study_changed, session.candidates_changed):
            signal.connect(self.splits_changed)

    @property
    def dataset(self) -> Any:
        """The session's, once its nuclei are counted."""
        return self.session.dataset if self.session.survey is not None else None

    @property
    def classes(self) -> Sequence[SplitClass]:
        """The dataset's."""
        return self.session.dataset.classes if self.session.dataset is not None else ()

    @property
    def counts(self) -> Mapping[str, Mapping[int, int]]:
        """Nuclei by class."""
        return self.session.survey.counts if self.session.survey is not None else {}

    @property
    def locked(self) -> bool:
        """Whether another window writes to the study."""
        return self.session.read_only

    @property
    def used(self) -> Collection[str]:
        """Images of the candidates and their donors."""
        found = self.session.candidates
        if found is not self._found:
            items = found.items if found is not None else ()
            self._found, self._used = found, {place.image for one in items for place in (one.donor, one.target)}
        return self._used

    def choose(self, splits: Mapping[str, str]) -> None:
        """Hand them to the session."""
        self.session.choose_splits(splits)


class TissueSplits(SplitSource):
    """Those of a folder of tissue that is looked into."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._dataset: Dataset | None = None
        self._kinds: tuple[Kind, ...] = ()
        self.chosen = False
        """Whether a person chose any."""

    def take(self, dataset: Dataset) -> None:
        """Divide the images of another folder."""
        self._dataset, self.chosen = dataset, False
        self._kinds = tuple(Kind(number, kind) for number, kind in enumerate(dataset.kinds, 1))
        self.dataset_changed.emit()

    @property
    def dataset(self) -> Dataset | None:
        """The folder's images with their splits."""
        return self._dataset

    @property
    def classes(self) -> Sequence[SplitClass]:
        """Classes of the images."""
        return self._kinds

    @property
    def counts(self) -> Mapping[str, Mapping[int, int]]:
        """Each image once, for its own class."""
        numbers = {one.name: one.number for one in self._kinds}
        entries = self._dataset.entries if self._dataset is not None else ()
        return {one.source.image: {numbers[one.kind]: 1} for one in entries}

    def choose(self, splits: Mapping[str, str]) -> None:
        """Keep them until the pool is built."""
        if self._dataset is None:
            return
        try:
            self._dataset = with_splits(self._dataset, splits)
        except HistomixError as error:
            self.failed.emit(str(error))
            return
        self.chosen = True
        self.splits_changed.emit()
