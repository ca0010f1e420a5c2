"""Candidates as points over the tissue: which are shown, in which colors, and which lies at a place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from napari.layers import Points
from numpy.typing import NDArray

from napari_histomix.widgets import layer_making as making
from napari_histomix.widgets.candidate_table import listed
from napari_histomix.widgets.decisions import UNDECIDED, WORDS
from napari_histomix.widgets.loading import candidate_frame

if TYPE_CHECKING:
    from napari_histomix.widgets.layers import LayerBook


class CandidateDots:
    """The layers of candidates in a layer book."""

    def __init__(self, book: LayerBook) -> None:
        self._book = book
        self._shown: NDArray[np.intp] | None = None

    def _rows(self, name: str) -> pd.DataFrame:
        session = self._book.session
        frame = session.candidates.frame if session.candidates else candidate_frame((), str)
        rows = frame[frame["image"] == name]
        decisions = session.decisions["candidate"]
        return rows.assign(decision=[WORDS[decisions.get(rank, UNDECIDED)] for rank in rows["rank"]])

    def add(self, name: str) -> None:
        """Show the candidates of an image that has layers; images of tissue have none."""
        book = self._book
        dataset = book.session.dataset
        if name in book.stacks and dataset is not None and dataset.has_nuclei:
            layer = making.candidates_layer(name, self._rows(name), book.mpp(name), book.space(name))
            book.add(name, "candidates", layer)
            self._size(name)

    def show(self, ranks: Sequence[int] | None) -> None:
        """Show the points of these candidates and no others; None: of those that are listed at first."""
        wanted = None if ranks is None else np.asarray(ranks, np.intp)
        if wanted is None or self._shown is None or not np.array_equal(wanted, self._shown):
            self._shown = wanted
            self._book.later(*(partial(self._size, name) for name in self._book.stacks))

    def _size(self, name: str) -> None:
        layer = self._book.layer(name, "candidates")
        if isinstance(layer, Points) and len(layer.data):
            session = self._book.session
            shown = self._shown
            if shown is None and session.candidates is not None:
                shown = listed(session.candidates, session.decisions["candidate"], first=True)
            some = np.ones(len(layer.data), bool) if shown is None else np.isin(layer.features["rank"], shown)
            # napari draws points of two dimensions whether they are ``shown`` or not.
            layer.size = np.where(some, making.CANDIDATE_MICROMETERS / self._book.mpp(name), 0)

    def at(self, point: Sequence[float]) -> int | None:
        """Rank of the candidate whose point, of those that are shown, lies at a place (world coordinates)."""
        layer = self._book.layer(self._book.session.image, "candidates")
        if not isinstance(layer, Points) or not layer.visible or not len(layer.data):
            return None
        sizes = np.asarray(layer.size, float)
        away = np.abs(layer.data - layer.world_to_data(point)[-2:]).max(axis=1)
        nearest = int(np.where(sizes > 0, away, np.inf).argmin())
        return int(layer.features["rank"].iloc[nearest]) if away[nearest] <= 0.6 * sizes[nearest] else None

    def move(self, rank: int, point: Sequence[float]) -> None:
        """Show a candidate of the image on the screen at another place (world coordinates), until `put_back`."""
        layer = self._book.layer(self._book.session.image, "candidates")
        if isinstance(layer, Points):
            # As napari itself moves points: without an event, as nothing is changed yet.
            layer.data[layer.features["rank"].to_numpy() == rank, -2:] = layer.world_to_data(point)[-2:]
            layer.refresh(extent=False, thumbnail=False)

    def put_back(self) -> None:
        """Show all candidates of the image on the screen where they are."""
        name = self._book.session.image
        if self._book.layer(name, "candidates") is not None:
            self._book.later(partial(self.add, name))

    def recolor(self, ranks: Sequence[int]) -> None:
        """Show what was decided on some candidates."""
        book = self._book
        frame = book.session.candidates.frame if book.session.candidates else None
        if frame is not None:
            changed = set(frame["image"].to_numpy()[np.asarray(ranks, dtype=int)])
            book.later(*(partial(self._recolor, name) for name in changed & set(book.stacks)))

    def _recolor(self, name: str) -> None:
        layer, rows = self._book.layer(name, "candidates"), self._rows(name)
        if isinstance(layer, Points) and len(rows) == len(layer.data):
            layer.features = making.candidate_features(rows)
            layer.border_color = making.decision_colors(layer.features["decision"])
            layer.symbol = making.decision_symbols(layer.features["decision"])
