"""A crop of a reader test on the canvas, with arrowheads beside it: nothing about the layers tells what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from napari.layers import Image, Layer, Shapes
from numpy.typing import NDArray

from napari_histomix.widgets.camera import fit
from napari_histomix.widgets.viewer_layers import remove_layer

NAME, MARKS = "crop", "crop marks"
"""Of the layers, whatever they show."""
ARROW = 0.05
"""Length of an arrowhead, as a share of the crop's side."""
BLANK = 40
"""Gray value that stands for a covered crop."""


class CanvasCrop:
    """One crop at a time, all alike: as layers with the same names and space, at the same zoom, smoothed.

    The arrowheads lie beside the crop, in the row and the column of the marked pixel: they cover none of its pixels.
    ``lost`` is called where a person deletes the crop's layer while it is shown.
    """

    def __init__(self, viewer: Any, lost: Callable[[], None]) -> None:
        self.viewer, self._lost = viewer, lost
        self.image: Image | None = None
        self.marks: Shapes | None = None
        self.mark: tuple[int, int] | None = None
        self.shown = False
        viewer.layers.events.removed.connect(self._on_removed)

    @property
    def pixels(self) -> NDArray[np.uint8] | None:
        """What is shown, (S, S, 3) uint8; None while it is covered."""
        return self.image.data if self.shown and self.image is not None else None

    def owns(self, layer: Layer) -> bool:
        return layer is self.image or layer is self.marks

    def show(self, pixels: NDArray[np.uint8], mark: tuple[int, int] | None) -> None:
        """Show a crop (S, S, 3) uint8, and where in it is asked about."""
        # All crops are shown alike; and of a layer that is seen in three dimensions, napari takes no new shapes.
        self.viewer.dims.ndisplay = 2
        image, marks = self._layers(pixels)
        self.mark = mark
        image.data = np.ascontiguousarray(pixels)
        marks.data = []
        if mark is not None:
            marks.add(arrowheads(mark, pixels.shape[:2]), shape_type="polygon", face_color="white", edge_width=0)
        marks.selected_data = set()
        for layer in (image, marks):
            layer.visible = True
        self.viewer.layers.selection.active = image
        # Every crop anew: one that a person came closer to must not make the next one look another size.
        fit(self.viewer, image, 2 * ARROW)
        self.shown = True

    def cover(self) -> None:
        """Show no crop, also not as a thumbnail of its layer."""
        self.shown, self.mark = False, None
        if self.image is not None and self.marks is not None:
            self.marks.data = []
            self.image.data = np.full_like(self.image.data, BLANK)
            self.image.visible = self.marks.visible = False

    def close(self) -> None:
        """Take the layers away."""
        self.shown, self.mark = False, None
        layers, self.image, self.marks = (self.marks, self.image), None, None
        for layer in layers:
            remove_layer(self.viewer, layer)

    def _layers(self, pixels: NDArray[np.uint8]) -> tuple[Image, Shapes]:
        if self.image is None or self.marks is None:
            self.close()
            # In the units of the layers that are open: napari measures all in one.
            units = next((layer.units for layer in self.viewer.layers if layer.ndim == 2), None)
            space = {"units": units} if units is not None else {}
            self.image = Image(np.full_like(pixels, BLANK), rgb=True, name=NAME, interpolation2d="cubic", **space)
            self.marks = Shapes(name=MARKS, ndim=2, **space)
            for layer in (self.image, self.marks):
                self.viewer.layers.append(layer)
        return self.image, self.marks

    def _on_removed(self, event: Any) -> None:
        if self.owns(event.value):
            was_shown = self.shown
            self.close()
            if was_shown:
                self._lost()


def arrowheads(mark: tuple[int, int], shape: tuple[int, int]) -> list[NDArray[np.float64]]:
    """Four triangles (3, 2) just outside a crop, which point at the row and the column of a pixel."""
    (row, col), (height, width) = mark, shape
    long, half = ARROW * max(shape), ARROW * max(shape) / 2
    gap = 1.5
    left, right, top, bottom = -0.5 - gap, width - 0.5 + gap, -0.5 - gap, height - 0.5 + gap
    return [
        np.array([[row, left], [row - half, left - long], [row + half, left - long]], float),
        np.array([[row, right], [row - half, right + long], [row + half, right + long]], float),
        np.array([[top, col], [top - long, col - half], [top - long, col + half]], float),
        np.array([[bottom, col], [bottom + long, col - half], [bottom + long, col + half]], float),
    ]
