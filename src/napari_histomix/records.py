"""The words of the house as small frozen dataclasses. Imported by every room, imports none of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class HistomixError(Exception):
    """Something a person can mend. The message is one sentence that says what is wrong and what to do.

    ``problems`` are all that led to it, a sentence each, where the message names the first alone.
    """

    def __init__(self, *sentence: str, problems: Iterable[str] = ()) -> None:
        super().__init__(*sentence)
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Event:
    """One small step of a long job.

    Parameters
    ----------
    phase : str
        What is being done, in words a person reads ("Reading images").
    done, total : int
        Items finished and items in all; ``total`` 0 means unknown.
    preview : (H, W, 3) uint8, optional
        What the job is looking at right now, for a live view.
    message : str, optional
        Something the person should know (an image skipped, a batch halved); shown once.
    figures : mapping
        Numbers as they come: a training run's ``step``, ``loss``, seconds ``left`` and now and then ``validation``.
    made : tuple of Change
        Changes that are finished, handed over as soon as they are.
    """

    phase: str
    done: int = 0
    total: int = 0
    preview: NDArray[np.uint8] | None = None
    message: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    made: tuple[Change, ...] = ()


Job = Generator[Event, None, T]
"""A long job: yields events, returns its result. Closing the generator cancels it."""


@dataclass(frozen=True, slots=True)
class NucleusClass:
    """One nucleus type of a dataset: its number in the label files, its name and its display color (0–255)."""

    number: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Source:
    """Where an image comes from; what the leakage guard compares. Unknown parts are empty strings."""

    dataset: str
    image: str
    split: str = "train"
    patient: str = ""
    slide: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one image (its name), in one sentence a person can act on.

    ``about`` says of what kind it is: lost ``objects``, ids with several ``parts``, ``orientation``, nuclei of no class
    (``types``), ``splits`` that are not understood; empty for files that are left out, and whatever else there may be.
    """

    image: str
    sentence: str
    about: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class LabeledImage:
    """An H&E image with its nuclei.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        RGB.
    instances : (H, W) int32
        Instance map, 0 = background.
    types : mapping of int to int
        Class number of every instance id that occurs in ``instances``.
    mpp : float
        Micrometers per pixel.
    source : Source
    kind : str
        Class of the image as a whole, as a patch of a graded tumor has one; empty where it has none.
    synthetic : frozenset of int
        Ids of the instances that are synthetic: never donors, and no part of any statistics of real nuclei.
    notes : tuple of Problem
        What reading it has to tell a person: objects that are lost, ids that cover several shapes.

    Raises
    ------
    HistomixError
        If shapes, dtypes, types or scale do not fit together.

    Examples
    --------
    >>> pixels, instances = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.int32)
    >>> instances[2:4, 2:4] = 7
    >>> LabeledImage(pixels, instances, {7: 1}, 0.5, Source("mine", "first")).counts()
    Counter({1: 1})
    """

    pixels: NDArray[np.uint8]
    instances: NDArray[np.int32]
    types: Mapping[int, int]
    mpp: float
    source: Source
    kind: str = ""
    synthetic: frozenset[int] = frozenset()
    notes: tuple[Problem, ...] = ()

    def __post_init__(self) -> None:
        name = self.source.image
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise HistomixError(
                f"{name}: pixels must be (H, W, 3) uint8 RGB, not {self.pixels.shape} {self.pixels.dtype}."
            )
        if self.instances.dtype != np.int32 or self.instances.ndim != 2:
            raise HistomixError(
                f"{name}: the instance map must be (H, W) int32, not {self.instances.shape} {self.instances.dtype}."
            )
        (rows, cols), (label_rows, label_cols) = self.pixels.shape[:2], self.instances.shape
        if (rows, cols) != (label_rows, label_cols):
            raise HistomixError(
                f"{name}: the labels are {label_cols}×{label_rows} pixels but the image is {cols}×{rows}; "
                "export the labels again at the image's size."
            )
        if not (np.isfinite(self.mpp) and self.mpp > 0):
            raise HistomixError(f"{name}: µm/px must be a positive number, not {self.mpp}.")
        if not self.types and not self.instances.any():
            # Nothing to look up: a large image that has a class as a whole is read without sorting its pixels.
            return
        missing = [i for i in instance_ids(self.instances) if i not in self.types]
        if missing:
            shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
            raise HistomixError(
                f"{name}: {len(missing)} instance(s) have no type (ids {shown}); give each a class in the labels."
            )

    @classmethod
    def of_kind(cls, pixels: NDArray[np.uint8], kind: str, mpp: float, source: Source) -> LabeledImage:
        """An image (H, W, 3) uint8 that has a class as a whole, and no instances."""
        return cls(pixels, np.zeros(pixels.shape[:2], np.int32), {}, mpp, source, kind)

    def counts(self) -> Counter[int]:
        """Number of nuclei per class number, over the instances that occur in the map."""
        return Counter(self.types[i] for i in instance_ids(self.instances))

    def synthetic_counts(self) -> Counter[int]:
        """Number of synthetic nuclei per class number, over the instances that occur in the map."""
        if not self.synthetic:
            return Counter()
        return Counter(self.types[int(i)] for i in np.unique(self.instances) if int(i) in self.synthetic)


def instance_ids(instances: NDArray[np.int32]) -> list[int]:
    """Ids other than 0 that occur in an instance map (H, W), in ascending order."""
    flat = instances.ravel()
    # The first pixel of every run of equal ids is enough, and there are far fewer runs than pixels.
    runs = np.append(flat[:1], flat[1:][flat[1:] != flat[:-1]])
    return [i for i in np.unique(runs).tolist() if i != 0]


Kind = Literal["rare", "major", "background"]


@dataclass(frozen=True, slots=True)
class Location:
    """A place in an image: a rare nucleus (a donor), a major nucleus, or a place with no nucleus."""

    image: str
    kind: Kind
    row: float  # center, in pixels
    col: float
    instance: int = 0  # 0 for background, as its type
    type: int = 0
    area: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate location with the donor drawn for it."""

    rank: int  # place in the draw, from 0; of those placed by hand, after it
    target: Location
    donor: Location
    log_likelihood: float  # of its surroundings: the log-ratio of rare to other places, or under the Gaussian
    percentile: float  # where that lies among the values of the rare nuclei's own surroundings
    placed_by: str | None = None  # who placed it by hand, perhaps without a name; None: a search found it

    def there(self, decisions: Mapping[int, str]) -> bool:
        """Whether it is there, by the decisions on candidates: one placed by hand is not once that was taken back."""
        return self.placed_by is None or self.rank in decisions


REAL, DONOR, INPAINTED = 0, 1, 2
"""Values of an origin map."""

KEEP = -1
"""In the labels of a change: where the target's own label stays."""

Role = Literal["target", "donor", "labels", "reference"]


@dataclass(frozen=True, slots=True)
class SourceRef:
    """Something real that a change was made of.

    A target is changed or replaced, a donor's pixels are seen, labels were the template, and a reference's look (stain,
    style) was followed.
    """

    role: Role
    image: str
    item: int = 0  # instance id or number of a segment; 0: a free place, or the image as a whole
    type: int = 0  # class number of the instance; 0 where there is none
    row: float = 0.0  # center, in pixels of its image
    col: float = 0.0
    area: int = 0

    @classmethod
    def of(cls, role: Role, location: Location) -> SourceRef:
        """A location in its role."""
        return cls(role, location.image, location.instance, location.type, location.row, location.col, location.area)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a method made: the unit that people review, and that export, replay and explain deal in.

    There are three kinds. A change *in place* (``name`` is ``image``) alters a window of a real image; several of one
    image are composed into one synthetic image. A *derived* image has a name of its own and a real image that it was
    made of. A *new* image has no target: ``image`` is empty.

    Parameters
    ----------
    id : int
        Unique in its study, from 0.
    image : str
        Name of the real image that is changed or derived from; empty for a new image.
    name : str
        Name of the image that it is seen in: ``image`` itself for a change in place.
    row, col : int
        Upper left corner of the patch in the image; 0, 0 where the patch is all of it.
    pixels : (h, w, 3) uint8
        Patch; only where ``origin`` is not 0 does it replace the target.
    origin : (h, w) uint8
        0 real, 1 donor, 2 inpainted.
    labels : (h, w) int32, optional
        Instance ids of the patch, ``KEEP`` where the target's own stay, 0 for background; None: no label changes.
    added : mapping of int to int
        Class number of each id that is new.
    removed : tuple of int
        Ids of the target that are gone; their pixels become background before ``labels`` are laid on.
    class_shares : mapping of str to float, optional
        Of an image that carries a class: its class, or several with shares that sum to 1. None: the target's.
    method : str
        Name of the method that made it.
    seed : int
        Seed of everything random in it.
    sources : tuple of SourceRef
        The target first, if there is one.
    score : float
        How well it fits where it is, 0 to 100; NaN where the method does not say.
    provenance : mapping
        How it was made, enough to make it again, as plain JSON values.

    Examples
    --------
    >>> from napari_histomix import augment, load_sample
    >>> change = augment(load_sample(), "copypaste", rare=["lymphocyte"], count=1)[0]
    >>> change.in_place, [source.role for source in change.sources]
    (True, ['target', 'donor'])
    """

    id: int
    image: str
    name: str
    row: int
    col: int
    pixels: NDArray[np.uint8]
    origin: NDArray[np.uint8]
    labels: NDArray[np.int32] | None
    added: Mapping[int, int]
    removed: tuple[int, ...]
    class_shares: Mapping[str, float] | None
    method: str
    seed: int
    sources: tuple[SourceRef, ...]
    score: float = float("nan")
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the patch."""
        height, width = self.origin.shape
        return height, width

    @property
    def window(self) -> tuple[slice, slice]:
        """Slices of the patch in its image."""
        height, width = self.shape
        return slice(self.row, self.row + height), slice(self.col, self.col + width)

    @property
    def in_place(self) -> bool:
        """Whether it alters a window of a real image, together with others of that image."""
        return bool(self.image) and self.name == self.image

    def source(self, role: Role) -> SourceRef:
        """Its first source in a role."""
        for source in self.sources:
            if source.role == role:
                return source
        raise LookupError(f"the change {self.id} has no {role}")

    @property
    def target(self) -> SourceRef | None:
        """What it changes, replaces or is derived from."""
        return next((source for source in self.sources if source.role == "target"), None)

    @property
    def donor(self) -> SourceRef | None:
        """Its first donor."""
        return next((source for source in self.sources if source.role == "donor"), None)

    @property
    def new_area(self) -> float:
        """Share of the patch that is not the target's own pixels."""
        return float(np.count_nonzero(self.origin) / self.origin.size)

    def moved(self, row: int, col: int) -> Change:
        """The same patch with its upper left corner elsewhere."""
        return replace(self, row=row, col=col)


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A piece of tissue in an image: the anchor segment of a superpixel, or one that a person drew."""

    number: int  # its label in the image's segment map, from 1
    row: int  # upper left corner of its bounding box
    col: int
    mask: NDArray[np.bool_]  # in its bounding box
    vote_share: float = 1.0  # of its superpixel's prompts, that agreed on it
    stability: float = 1.0  # mean intersection over union of the masks that agreed with it

    @property
    def area(self) -> int:
        """Square pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def window(self) -> tuple[slice, slice]:
        """Slices of the bounding box in its image."""
        height, width = self.mask.shape
        return slice(self.row, self.row + height), slice(self.col, self.col + width)

    def in_image(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Its mask in its image (H, W, …), (H, W)."""
        whole = np.zeros(shape[:2], bool)
        whole[self.window] = self.mask
        return whole

    def at_border(self, shape: tuple[int, ...]) -> bool:
        """Whether it touches the border of its image (H, W, …): what lies beyond is missing."""
        rows, cols = self.window
        return rows.start == 0 or cols.start == 0 or rows.stop >= shape[0] or cols.stop >= shape[1]


def within(job: Job[T], phase: str, done: int, total: int) -> Job[T]:
    """A job that is one item of another: its steps are passed on as that item's, so that Cancel is heard."""
    return relayed(job, lambda event: replace(event, phase=phase, done=done, total=total))


def relayed(job: Job[T], change: Callable[[Event], Event]) -> Job[T]:
    """A job whose events are passed on as ``change`` makes them."""
    try:
        while True:
            yield change(next(job))
    except StopIteration as end:
        return end.value
    finally:
        job.close()


def drain(job: Job[T]) -> T:
    """Run a long job to its end and return its result, in a notebook or a test that wants no events."""
    try:
        while True:
            next(job)
    except StopIteration as end:
        return end.value
