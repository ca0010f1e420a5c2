"""A change as an export's manifest holds it, and what methods write into it: everything but its pixels, as JSON."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from napari_histomix import __version__
from napari_histomix.datasets import Dataset
from napari_histomix.datasets.formats.polygons import mask_text
from napari_histomix.records import Change, Kind, Location, Role, Segment, SourceRef
from napari_histomix.settings import PaintingSettings, plain

if TYPE_CHECKING:
    from napari_histomix.diffusion.models import AnyModel
    from napari_histomix.diffusion.samplers import Sampler

LIBRARIES = ("numpy", "scikit-image", "scipy")
"""What shapes pixels without a model, by the names it is installed under; OpenCV says its version itself."""


@dataclass(frozen=True, eq=False)
class Record:
    """The record of a change, with its properties (see ``records.Change``).

    Parameters
    ----------
    content : mapping
        As in the manifest; classes go by their names, since their numbers may change.

    Examples
    --------
    >>> record = Record({"id": 3, "image": "a", "name": "a", "method": "stamps", "seed": 7, "window": [1, 2, 4, 5]})
    >>> record.id, record.in_place, record.covers(4, 6), record.covers(5, 6)
    (3, True, True, False)
    """

    content: Mapping[str, Any]

    @classmethod
    def of(cls, change: Change, class_name: Callable[[int], str], **more: Any) -> Record:
        """The record of a change; ``more`` goes in beside it (decision, who decided, notes)."""
        places = _places(change)
        content: dict[str, Any] = {
            "id": change.id,
            "image": change.image,
            "name": change.name,
            "method": change.method,
            **more,
            "seed": change.seed,
            "score": None if math.isnan(change.score) else round(change.score, 3),
            "window": [change.row, change.col, *change.shape],
            "sources": [_source(source, class_name) for source in change.sources],
            "added": {
                str(number): {"class": class_name(kind), **({"at": places[number]} if number in places else {})}
                for number, kind in change.added.items()
            },
            "removed": list(change.removed),
            "changed_pixels": int(np.count_nonzero(change.origin)),
            "provenance": dict(change.provenance),
        }
        if change.class_shares is not None:
            content["class_shares"] = dict(change.class_shares)
        return cls(content)

    @property
    def id(self) -> int:
        return int(self.content["id"])

    @property
    def image(self) -> str:
        return str(self.content["image"])

    @property
    def name(self) -> str:
        return str(self.content["name"])

    @property
    def in_place(self) -> bool:
        return bool(self.image) and self.name == self.image

    @property
    def method(self) -> str:
        return str(self.content["method"])

    @property
    def seed(self) -> int:
        return int(self.content["seed"])

    @property
    def score(self) -> float:
        score = self.content.get("score")
        return math.nan if score is None else float(score)

    @property
    def window(self) -> tuple[int, int, int, int]:
        """Row, column, height and width of the patch."""
        row, col, height, width = (int(value) for value in self.content["window"])
        return row, col, height, width

    @property
    def sources(self) -> tuple[Mapping[str, Any], ...]:
        """Each with ``class`` for the class's name in place of ``type``."""
        return tuple(self.content.get("sources", ()))

    def source(self, role: str) -> Mapping[str, Any]:
        """The first source in a role; raises KeyError if there is none."""
        for source in self.sources:
            if source["role"] == role:
                return source
        raise KeyError(role)

    def location(self, role: Role, dataset: Dataset | None = None) -> Location:
        """The first source in a role as a place; its type is that of the class's name in a dataset, or else 0."""
        source = self.source(role)
        instance, name = int(source["item"]), source.get("class", "")
        kind: Kind = "rare" if role == "donor" else "major" if instance else "background"
        row, col = (float(source.get(axis, 0.0)) for axis in ("row", "col"))
        number = dataset.class_number(name) if dataset and name else 0
        return Location(str(source["image"]), kind, row, col, instance, number, int(source.get("area", 0)))

    @property
    def added(self) -> Mapping[int, Mapping[str, Any]]:
        """By new id its ``class`` and ``at``, a pixel (row, column) inside it."""
        return {int(number): about for number, about in self.content.get("added", {}).items()}

    @property
    def removed(self) -> tuple[int, ...]:
        return tuple(int(number) for number in self.content.get("removed", ()))

    @property
    def class_shares(self) -> Mapping[str, float] | None:
        return self.content.get("class_shares")

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.content["provenance"]

    def covers(self, row: int, col: int) -> bool:
        """Whether its patch holds a pixel of the image."""
        top, left, height, width = self.window
        return top <= row < top + height and left <= col < left + width


def _source(source: SourceRef, class_name: Callable[[int], str]) -> dict[str, Any]:
    about: dict[str, Any] = {"role": source.role, "image": source.image, "item": source.item}
    if source.type:
        about["class"] = class_name(source.type)
    if source.area or source.row or source.col:
        # In full: a rounded center could come to lie on the other side of a pixel's border when it is made again.
        about |= {"row": source.row, "col": source.col, "area": source.area}
    return about


def _places(change: Change) -> dict[int, list[int]]:
    """A pixel, row and column in the image, of every instance of its labels: the middle one of each."""
    if change.labels is None or not change.added:
        return {}
    order = np.argsort(change.labels, axis=None, kind="stable")
    ids, first, counts = np.unique(change.labels.ravel()[order], return_index=True, return_counts=True)
    rows, cols = np.divmod(order[first + counts // 2], change.labels.shape[1])
    places = np.column_stack([ids, rows + change.row, cols + change.col]).tolist()
    return {number: place for number, *place in places}


# What methods write down to make a change again.


def painter(settings: PaintingSettings, loaded: AnyModel | None = None) -> AnyModel:
    """The model that settings name; ``loaded`` in its place where somebody has loaded one already.

    Raises
    ------
    HistomixError
        If the device is missing, or the weights are missing, damaged or of unknown scale.
    """
    from napari_histomix.devices import choose_device
    from napari_histomix.diffusion.model_files import load_model
    from napari_histomix.weights import bundled

    choose_device(settings.device)
    if loaded is not None:
        return loaded
    scale = (min(settings.model_mpp), max(settings.model_mpp)) if settings.model_mpp else None
    return load_model(settings.model or bundled(), mpp=scale, prompt=settings.prompt)


def plain_facts(title: str, settings: Any, sources: Mapping[str, Any]) -> dict[str, Any]:
    """How a method of this title made something without a model; ``sources`` are image facts by role."""
    recorded = plain(settings, recorded_only=True)
    # Without torch: what has nothing to do with a network need not wait for it.
    versions = {"napari-histomix": __version__, "python": platform.python_version(), "opencv": cv2.__version__}
    versions |= {name: version(name) for name in LIBRARIES}
    return {"method": title, "settings": recorded, "sources": dict(sources), "versions": versions}


def making_facts(
    title: str, settings: PaintingSettings, stages: Mapping[str, Sampler], model: AnyModel
) -> dict[str, Any]:
    """What is equal for all that a method of this title paints in one run.

    ``stages`` are what the preset means, for each kind of hole: presets may change with versions.
    """
    from napari_histomix.diffusion.models import machine_facts, model_facts

    return {
        "method": title,
        "sampler": settings.sampler,
        "sampler_settings": {stage: sampler.spec for stage, sampler in stages.items()},
        **model_facts(model),
        **machine_facts(model, settings.device),
        "settings": plain(settings, recorded_only=True),
    }


def mask_facts(segment: Segment) -> dict[str, Any]:
    """Where a segment lies, without its pool: by the numbers alone nobody could find it again."""
    return {"row": segment.row, "col": segment.col, **mask_text(segment.mask)}


def painter_facts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What inpainted the pixels of a change, by its provenance."""
    return {key: provenance[key] for key in ("model", "model_sha256", "sampler")}
