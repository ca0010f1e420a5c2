"""The layer of the Mix dock: the segments of an image, over the image that the session shows."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_histomix.records import LabeledImage

OUTLINE, CHOSEN = "#2ee6d6", "#ffb000"
"""Segments, and the target among them: both read well on pink and violet."""


class SegmentsLayer(QObject):
    """Makes the layer once and gives it new content; one that a person removed is made again.

    Parameters
    ----------
    viewer : ViewerModel
    parent : QObject
    """

    selected = Signal(int)
    """The label that a person chose in the layer."""

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self._layer: Labels | None = None
        self._own = False
        # napari keeps what it calls back: it must not keep the panel too.
        this = weakref.ref(self)

        def on_label(event: Any) -> None:
            one = this()
            if one is not None and not one._own:
                one.selected.emit(int(event.source.selected_label))

        self._on_label = on_label

    @property
    def layer(self) -> Labels | None:
        """None where it is not in the viewer."""
        return self._layer if self._layer in self.viewer.layers else None

    def show(self, image: LabeledImage, labels: NDArray[np.int32]) -> None:
        """Show the segments of an image of the pool."""
        name = image.source.image
        facts = {"image": name, "class": image.kind, "patient": image.source.patient, "mpp": image.mpp}
        keywords: dict[str, Any] = {
            "name": f"{name} segments",
            "metadata": {"histomix": {**facts, "segments": {}}},
            **self._space(name, labels.shape, image.mpp),
        }
        layer = self.layer
        if layer is None:
            self._layer = Labels(labels, opacity=0.9, colormap=_colors(0), **keywords)
            self._layer.contour = 2
            self._layer.events.selected_label.connect(self._on_label)
            self.viewer.layers.append(self._layer)
        else:
            # Removing a layer collects garbage in all of napari, adding one builds its controls: half a second each.
            self._own = True
            try:
                layer.data = labels
                for key, value in keywords.items():
                    setattr(layer, key, value)
            finally:
                self._own = False
        self.look()

    def mark(self, label: int) -> None:
        """Make a segment stand out among the others; 0 for none."""
        layer = self.layer
        if layer is None:
            return
        self._own = True
        try:
            if label:
                layer.selected_label = label
            layer.colormap = _colors(label)
        finally:
            self._own = False

    def look(self, shown: bool = True) -> None:
        """Bring it onto the screen, on top and selected, or hide it."""
        layer, layers = self.layer, self.viewer.layers
        if layer is None:
            return
        layer.visible = shown
        if shown:
            layers.move(layers.index(layer), len(layers))
            layers.selection.active = layer

    def clear(self) -> None:
        """Take it out of the viewer: another study is coming."""
        if self.layer is not None:
            self.viewer.layers.remove(self.layer)

    def _space(self, name: str, shape: tuple[int, ...], mpp: float) -> Mapping[str, Any]:
        """Scale, place and units: those of the image where it is open."""
        for layer in self.viewer.layers:
            about = layer.metadata.get("histomix")
            if (
                isinstance(layer, Image)
                and isinstance(about, dict)
                and about.get("image") == name
                and tuple(layer.data.shape[:2]) == tuple(shape[:2])
            ):
                return {"scale": tuple(layer.scale), "translate": tuple(layer.translate), "units": layer.units}
        return {"scale": (mpp, mpp), "units": ("um", "um")}


def _colors(label: int) -> DirectLabelColormap:
    chosen = {label: CHOSEN} if label else {}
    return DirectLabelColormap(color_dict={None: OUTLINE, 0: "transparent", **chosen})
