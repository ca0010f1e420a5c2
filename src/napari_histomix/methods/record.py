"""A change as an export's manifest holds it: everything but its pixels, as plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from napari_histomix.records import Change, Kind, Location, Role, SourceRef


@dataclass(frozen=True, eq=False)
class Record:
    """The record of a change.

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
                str(number): {"class": class_name(kind), **_inside(change, number)}
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
        """Of the change in its study."""
        return int(self.content["id"])

    @property
    def image(self) -> str:
        """Name of the real image that was changed or derived from; empty for a new image."""
        return str(self.content["image"])

    @property
    def name(self) -> str:
        """Name of the image that it is seen in."""
        return str(self.content["name"])

    @property
    def in_place(self) -> bool:
        """As ``Change.in_place``."""
        return bool(self.image) and self.name == self.image

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.content["method"])

    @property
    def seed(self) -> int:
        """Of everything random in it."""
        return int(self.content["seed"])

    @property
    def score(self) -> float:
        """As ``Change.score``."""
        score = self.content.get("score")
        return math.nan if score is None else float(score)

    @cached_property
    def window(self) -> tuple[int, int, int, int]:
        """Row, column, height and width of the patch."""
        row, col, height, width = (int(value) for value in self.content["window"])
        return row, col, height, width

    @cached_property
    def sources(self) -> tuple[Mapping[str, Any], ...]:
        """As ``Change.sources``, each with ``class`` for the class's name in place of ``type``."""
        return tuple(self.content.get("sources", ()))

    def source(self, role: str) -> Mapping[str, Any]:
        """The first source in a role.

        Raises
        ------
        KeyError
            If there is none.
        """
        for source in self.sources:
            if source["role"] == role:
                return source
        raise KeyError(role)

    def location(self, role: Role) -> Location:
        """The first source in a role as a place, of type 0: records have names of classes, and names may change."""
        source = self.source(role)
        instance = int(source["item"])
        kind: Kind = "rare" if role == "donor" else "major" if instance else "background"
        row, col = (float(source.get(axis, 0.0)) for axis in ("row", "col"))
        return Location(str(source["image"]), kind, row, col, instance, area=int(source.get("area", 0)))

    @property
    def added(self) -> Mapping[int, Mapping[str, Any]]:
        """By new id its ``class`` and ``at``, a pixel (row, column) inside it."""
        return {int(number): about for number, about in self.content.get("added", {}).items()}

    @property
    def removed(self) -> tuple[int, ...]:
        """Ids of the target that are gone."""
        return tuple(int(number) for number in self.content.get("removed", ()))

    @property
    def class_shares(self) -> Mapping[str, float] | None:
        """As ``Change.class_shares``."""
        shares: Mapping[str, float] | None = self.content.get("class_shares")
        return shares

    @property
    def provenance(self) -> Mapping[str, Any]:
        """As ``Change.provenance``."""
        made: Mapping[str, Any] = self.content["provenance"]
        return made

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


def _inside(change: Change, number: int) -> dict[str, list[int]]:
    """A pixel of a new instance, in the image."""
    if change.labels is None:
        return {}
    rows, cols = np.nonzero(change.labels == number)
    if not len(rows):
        return {}
    middle = len(rows) // 2
    return {"at": [int(rows[middle]) + change.row, int(cols[middle]) + change.col]}
