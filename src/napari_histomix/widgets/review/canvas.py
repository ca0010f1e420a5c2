"""What the window shows of the change under review: its place, or its whole image with its ring among the others."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Points

from napari_histomix.records import Change
from napari_histomix.widgets.camera import fit
from napari_histomix.widgets.layer_making import RING_WIDTH, center
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
        self._current: Change | None = None
        self._whole = False

    def forget(self) -> None:
        """Fit the image again when it is asked for next."""
        self._fitted = ""

    def show(self, change: Change, *, whole: bool, real: bool) -> None:
        """Go to a change, or to its image as a whole; with what is synthetic, or the real image."""
        self._current, self._whole = change, whole or not change.in_place
        self.book.show_synthetic(not real)
        if not self._whole:
            self.session.fly(change.name, *center(change))
        elif self.session.image != change.name:
            self.session.show(change.name)
        self.settle()

    def settle(self) -> None:
        """Fit and mark, as soon as the layers are there."""
        if self._current is not None:
            if self._whole and self._current.name == self.session.image:
                self._fit()
            self._mark(self._current)

    def _fit(self) -> None:
        # Once: where a person goes then, they stay.
        name = self.session.image
        layer = self.book.layer(name, "image") or self.book.layer(name, "synthetic")
        if layer is not None and self._fitted != name:
            self._fitted = name
            fit(self.viewer, layer)

    def _mark(self, change: Change) -> None:
        """In a whole image, draw the ring of the change under review thicker than the others."""
        layer = self.book.layer(change.name, "changes")
        if isinstance(layer, Points) and len(layer.data):
            this = layer.features["number"].to_numpy() == change.id
            widths = np.where(this & self._whole, THICK, RING_WIDTH)
            if not np.array_equal(widths, layer.border_width):
                layer.border_width = widths
