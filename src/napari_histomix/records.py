"""The words of the house as small frozen dataclasses. Imported by every room, imports none of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class HistomixError(Exception):
    """Something a person can mend. The message is one sentence that says what is wrong and what to do."""


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
        Numbers worth plotting as they come: a training run's ``step``, ``loss`` and now and then ``validation``.
    """

    phase: str
    done: int = 0
    total: int = 0
    preview: NDArray[np.uint8] | None = None
    message: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


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

    Raises
    ------
    HistomixError
        If shapes, dtypes, types or scale do not fit together.
    """

    pixels: NDArray[np.uint8]
    instances: NDArray[np.int32]
    types: Mapping[int, int]
    mpp: float
    source: Source

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
        if self.instances.shape != self.pixels.shape[:2]:
            rows, cols = self.pixels.shape[:2]
            label_rows, label_cols = self.instances.shape
            raise HistomixError(
                f"{name}: the labels are {label_cols}×{label_rows} pixels but the image is {cols}×{rows}; "
                "export the labels again at the image's size."
            )
        if not (np.isfinite(self.mpp) and self.mpp > 0):
            raise HistomixError(f"{name}: µm/px must be a positive number, not {self.mpp}.")
        missing = [i for i in instance_ids(self.instances) if i not in self.types]
        if missing:
            shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
            raise HistomixError(
                f"{name}: {len(missing)} instance(s) have no type (ids {shown}); give each a class in the labels."
            )

    def counts(self) -> Counter[int]:
        """Number of nuclei per class number, over the instances that occur in the map."""
        return Counter(self.types[i] for i in instance_ids(self.instances))


def instance_ids(instances: NDArray[np.int32]) -> list[int]:
    """Ids other than 0 that occur in an instance map (H, W), in ascending order."""
    flat = instances.ravel()
    # The first pixel of every run of equal ids is enough, and there are far fewer runs than pixels.
    runs = np.append(flat[:1], flat[1:][flat[1:] != flat[:-1]])
    return [i for i in np.unique(runs).tolist() if i != 0]


Kind = Literal["rare", "major", "background"]


@dataclass(frozen=True, slots=True)
class Location:
    """A place in an image: a rare nucleus (a donor), a major nucleus, or a place with no nucleus.

    ``row`` and ``col`` are pixel coordinates of the center; ``instance`` and ``type`` are 0 for background;
    ``area`` is the nucleus's area in square pixels.
    """

    image: str
    kind: Kind
    row: float
    col: float
    instance: int = 0
    type: int = 0
    area: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate location with the donor drawn for it.

    ``rank`` is its place in the draw (0 first), ``log_likelihood`` that of its surroundings under the mixture of
    rare surroundings, ``percentile`` (0–100) where that lies among the rare nuclei's own surroundings' values.
    """

    rank: int
    target: Location
    donor: Location
    log_likelihood: float
    percentile: float


REAL, DONOR, INPAINTED = 0, 1, 2
"""Values of an origin map."""


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """One synthetic nucleus: everything that turns the target's own pixels and labels into the synthetic ones.

    Parameters
    ----------
    candidate : Candidate
    instance : int
        Id of the new nucleus in its image.
    row, col : int
        Upper left corner of the patch in the target image.
    pixels : (h, w, 3) uint8
        Patch; only where ``origin`` is not 0 does it replace the target.
    origin : (h, w) uint8
        0 real, 1 donor, 2 inpainted.
    nucleus : (h, w) bool
        The new nucleus's own mask.
    seed : int
        Seed of everything random in this placement.
    provenance : mapping
        How it was made (transform, stain gains, sampler, model), as plain JSON values.
    """

    candidate: Candidate
    instance: int
    row: int
    col: int
    pixels: NDArray[np.uint8]
    origin: NDArray[np.uint8]
    nucleus: NDArray[np.bool_]
    seed: int
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

    def moved(self, row: int, col: int) -> Placement:
        """The same patch with its upper left corner elsewhere."""
        return Placement(
            self.candidate, self.instance, row, col, self.pixels, self.origin, self.nucleus, self.seed, self.provenance
        )


@dataclass(frozen=True, slots=True, eq=False)
class TissueImage:
    """An H&E image that carries one class as a whole, as a patch of a graded tumor does.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        RGB.
    kind : str
        Name of its class.
    mpp : float
        Micrometers per pixel.
    source : Source
    """

    pixels: NDArray[np.uint8]
    kind: str
    mpp: float
    source: Source


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A piece of tissue in an image: the anchor segment of a superpixel, or one that a person drew.

    Parameters
    ----------
    number : int
        Its label in the image's segment map, from 1.
    row, col : int
        Upper left corner of its bounding box.
    mask : (h, w) bool
        In its bounding box.
    vote_share : float
        Share of its superpixel's prompts that agreed on it; 1 where a person drew it.
    stability : float
        Mean intersection over union of the masks that agreed with it; 1 where a person drew it.
    """

    number: int
    row: int
    col: int
    mask: NDArray[np.bool_]
    vote_share: float = 1.0
    stability: float = 1.0

    @property
    def area(self) -> int:
        """Square pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def window(self) -> tuple[slice, slice]:
        """Slices of the bounding box in its image."""
        height, width = self.mask.shape
        return slice(self.row, self.row + height), slice(self.col, self.col + width)

    def at_border(self, shape: tuple[int, ...]) -> bool:
        """Whether it touches the border of its image (H, W, …): what lies beyond is missing."""
        rows, cols = self.window
        return rows.start == 0 or cols.start == 0 or rows.stop >= shape[0] or cols.stop >= shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class MixedImage:
    """A synthetic tissue image: a real one, some of whose segments were replaced.

    Parameters
    ----------
    name : str
        Unique in its study.
    kind : str
        Class, that of its target image.
    target : str
        Name of the real image.
    pixels : (H, W, 3) uint8
    origin : (H, W) uint8
        0 real, 1 donor, 2 inpainted.
    seed : int
    provenance : mapping
        How it was made (every replacement's donor and transform, sampler, model), as plain JSON values.
    """

    name: str
    kind: str
    target: str
    pixels: NDArray[np.uint8]
    origin: NDArray[np.uint8]
    seed: int
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def new_area(self) -> float:
        """Share of the image that is not the target's own pixels."""
        return float(np.count_nonzero(self.origin) / self.origin.size)


def within(job: Job[T], phase: str, done: int, total: int) -> Job[T]:
    """A job that is one item of another: its steps are passed on as that item's, so that Cancel is heard."""
    try:
        while True:
            event = next(job)
            yield replace(event, phase=phase, done=done, total=total)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        job.close()


def drain(job: Job[T]) -> T:
    """Run a long job to its end and return its result, in a notebook or a test that wants no events."""
    events: Iterator[Event] = job
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value
