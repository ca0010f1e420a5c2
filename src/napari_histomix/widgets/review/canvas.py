"""What the window shows of the placement under review: its place, or its whole image with its ring among the others."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Points

from napari_histomix.records import Placement
from napari_histomix.widgets.camera import fit
from napari_histomix.widgets.layer_making import RING_WIDTH
from napari_histomix.widgets.layers import LayerBook
from napari_histomix.widgets.session import Session

THICK = 3 * RING_WIDTH


class ReviewCanvas:
    """Moves the camera of a viewer.

    Parameters
    ----------
    viewer : ViewerModel
    session : Session
    book : LayerBook
    """

    def __init__(self, viewer: Any, session: Session, book: LayerBook) -> None:
        self.viewer, self.session, self.book = viewer, session, book
        self._fitted = ""
        self._current: Placement | None = None
        self._whole = False

    def forget(self) -> None:
        """Fit the image again when it is asked for next."""
        self._fitted = ""

    def show(self, placement: Placement, *, whole: bool, real: bool) -> None:
        """Go to a placement, or to its image as a whole; with what is synthetic, or the real image."""
        self._current, self._whole = placement, whole
        place = placement.candidate.target
        self.book.show_synthetic(not real)
        if not whole:
            self.session.fly(place.image, place.row, place.col)
        elif self.session.image != place.image:
            self.session.show(place.image)
        self.settle()

    def settle(self) -> None:
        """Fit and mark, as soon as the layers are there."""
        if self._current is not None:
            if self._whole and self._current.candidate.target.image == self.session.image:
                self._fit()
            self._mark(self._current)

    def _fit(self) -> None:
        # Once: where a person goes then, they stay.
        name = self.session.image
        layer = self.book.layer(name, "image") or self.book.layer(name, "synthetic")
        if layer is not None and self._fitted != name:
            self._fitted = name
            fit(self.viewer, layer)

    def _mark(self, placement: Placement) -> None:
        """In a whole image, draw the ring of the placement under review thicker than the others."""
        layer = self.book.layer(placement.candidate.target.image, "placements")
        if isinstance(layer, Points) and len(layer.data):
            this = layer.features["number"].to_numpy() == placement.candidate.rank
            widths = np.where(this & self._whole, THICK, RING_WIDTH)
            if not np.array_equal(widths, layer.border_width):
                layer.border_width = widths
