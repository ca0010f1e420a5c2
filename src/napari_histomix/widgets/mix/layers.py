"""The layers of the Mix dock: an image of the pool, and its segments."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_histomix.records import LabeledImage
from napari_histomix.widgets.camera import show_scale_bar

OUTLINE, CHOSEN = "#2ee6d6", "#ffb000"
"""Segments, and the target among them: both read well on pink and violet."""
LAYERS = ("image", "segments")


class MixLayers(QObject):
    """Makes layers once and gives them new content; one that a person removed is made again.

    Parameters
    ----------
    viewer : ViewerModel
    parent : QObject
    """

    selected = Signal(int)
    """The label that a person chose in the layer of segments."""

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self._layers: dict[str, Layer] = {}
        self._own = False
        # napari keeps what it calls back: it must not keep the panel too.
        this = weakref.ref(self)

        def on_label(event: Any) -> None:
            one = this()
            if one is not None and not one._own:
                one.selected.emit(int(event.source.selected_label))

        self._on_label = on_label

    def layer(self, what: str) -> Layer | None:
        """One of our layers; None where it is not in the viewer."""
        found = self._layers.get(what)
        return found if found is not None and found in self.viewer.layers else None

    # What is shown.

    def show_target(self, image: LabeledImage, labels: NDArray[np.int32]) -> None:
        """Show an image of the pool and its segments."""
        name, space = image.source.image, self._space(image.source.image, image.pixels.shape, image.mpp)
        facts = {"image": name, "class": image.kind, "patient": image.source.patient, "mpp": image.mpp}
        self._put("image", Image(image.pixels, rgb=True, name=name, metadata={"histomix": facts}, **space))
        colors = DirectLabelColormap(color_dict={None: OUTLINE, 0: "transparent"})
        about = {"histomix": {**facts, "segments": {}}}
        self._put(
            "segments", Labels(labels, name=f"{name} segments", colormap=colors, metadata=about, opacity=0.9, **space)
        )
        self.look()

    def mark(self, label: int) -> None:
        """Make a segment stand out among the others; 0 for none."""
        layer = self.layer("segments")
        if not isinstance(layer, Labels):
            return
        self._own = True
        try:
            if label:
                layer.selected_label = label
            chosen = {label: CHOSEN} if label else {}
            layer.colormap = DirectLabelColormap(color_dict={None: OUTLINE, 0: "transparent", **chosen})
        finally:
            self._own = False

    def look(self) -> None:
        """Bring both back onto the screen."""
        for what in LAYERS:
            layer = self.layer(what)
            if layer is not None and not layer.visible:
                layer.visible = True
        active, chosen = self.layer("segments"), self.viewer.layers.selection.active
        if active is not None and (chosen is None or chosen in self._layers.values()):
            # A layer of the person's own stays selected.
            self.viewer.layers.selection.active = active

    def clear(self) -> None:
        """Take our layers out of the viewer: another study is coming."""
        for what in LAYERS:
            layer = self.layer(what)
            if layer is not None:
                self.viewer.layers.remove(layer)
            self._layers.pop(what, None)

    # Making and re-using.

    def _put(self, what: str, new: Layer) -> None:
        old = self.layer(what)
        if isinstance(new, Labels):
            new.contour = 2
        if old is None:
            self._layers[what] = new
            self.viewer.layers.append(new)
            if what == "segments":
                new.events.selected_label.connect(self._on_label)
            if len(self.viewer.layers) == 1:
                self.viewer.reset_view()
            show_scale_bar(self.viewer)
            return
        # Removing a layer collects garbage in all of napari, adding one builds its controls: half a second each.
        sizes = [tuple(one.extent.world[1]) for one in (old, new)]
        self._own = True
        try:
            old.data, old.metadata, old.name = new.data, new.metadata, new.name
            old.scale, old.translate, old.units = new.scale, new.translate, new.units
            if isinstance(old, Labels):
                old.colormap = new.colormap
        finally:
            self._own = False
        if sizes[0] != sizes[1] and what == "image":
            self.viewer.reset_view()

    def _space(self, name: str, shape: tuple[int, ...], mpp: float) -> Mapping[str, Any]:
        """Scale, place and units: those of the image where another dock or the person has it open already."""
        for layer in self.viewer.layers:
            about = layer.metadata.get("histomix")
            if (
                isinstance(layer, Image)
                and layer not in self._layers.values()
                and isinstance(about, dict)
                and about.get("image") == name
                and tuple(layer.data.shape[:2]) == tuple(shape[:2])
            ):
                return {"scale": tuple(layer.scale), "translate": tuple(layer.translate), "units": layer.units}
        return {"scale": (mpp, mpp), "units": ("um", "um")}
