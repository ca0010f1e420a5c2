"""Layouts as Labels layers: nuclei and their classes read from a layer, written into one, and edited in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from napari.layers import Labels, Points
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from napari_histomix.datasets.entries import with_names
from napari_histomix.generation.layout import Layout
from napari_histomix.records import HistomixError, NucleusClass, instance_ids
from napari_histomix.widgets.layer_making import nuclei_keywords, outlined, space_like
from napari_histomix.widgets.viewer_layers import about, micrometers, plane_of, remove_layer
from napari_histomix.widgets.writers import classes_in, kinds_of

RING, AROUND = "selected nucleus", 1.5
"""Name of the layer that marks a nucleus, and how far around it the ring lies, in its own extent."""


def unusable_labels(layer: Any) -> str:
    """Why a Labels layer cannot be a layout, in a few words; empty where it can."""
    if layer.multiscale:
        return "several levels"
    return "" if all(layer.data.shape[-2:]) else "empty"


def classes_of_layer(layer: Any) -> dict[int, str]:
    """Class name of each label, by the layer's features; labels that they say nothing of are not among them."""
    return kinds_of(_meta(layer))


def _meta(layer: Any) -> dict[str, Any]:
    return {"features": layer.features, "metadata": layer.metadata}


def known_classes(layer: Any, known: Sequence[NucleusClass] = ()) -> tuple[NucleusClass, ...]:
    """The classes of a layer by its metadata, else ``known``; and behind them those that its features name."""
    return with_names(classes_in(_meta(layer)) or known, set(classes_of_layer(layer).values()))


def layout_of(layer: Any, point: Sequence[float], mpp: float | None = None) -> Layout:
    """The nuclei of the plane of a Labels layer that is being looked at.

    ``mpp`` counts where the layer's scale says nothing. Nuclei without a class have the class "".
    """
    if layer.multiscale:
        raise HistomixError(f"'{layer.name}' has several levels; choose a Labels layer with one.")
    values = np.asarray(layer.data[plane_of(layer, point)])
    if int(values.max(initial=0)) > np.iinfo(np.int32).max:
        raise HistomixError(f"'{layer.name}' has labels above {np.iinfo(np.int32).max:,}; number them from 1.")
    # A copy: what is drawn meanwhile is for the next time.
    instances = np.maximum(values, 0).astype(np.int32)
    kinds = classes_of_layer(layer)
    classes = {number: kinds.get(number, "") for number in instance_ids(instances)}
    return Layout(instances, classes, micrometers(layer) or mpp or 1.0, str(about(layer).get("source", "")))


def layout_layer(
    layout: Layout, classes: Sequence[NucleusClass], name: str, space: Mapping[str, Any], **facts: Any
) -> Labels:
    """A Labels layer of a layout, in the colors of its classes; ``facts`` go into its metadata."""
    classes = with_names(classes, {kind for kind in layout.classes.values() if kind})
    numbers = {kind.name.casefold(): kind.number for kind in classes}
    types = {number: numbers[kind.casefold()] for number, kind in layout.classes.items() if kind}
    keywords = nuclei_keywords(types, classes, {"mpp": layout.mpp, **facts}, other=0.8)
    lead = len(space.get("scale", (1, 1))) - 2
    layer = Labels(layout.instances.copy()[(np.newaxis,) * lead], name=name, **keywords, **space)
    # Outlines: nuclei that touch are told apart, unless a person prefers them filled.
    outlined(layer)
    # What is drawn without a choice is a new nucleus.
    layer.selected_label = fresh_label(layer)
    return layer


def write_layout(layer: Any, point: Sequence[float], before: Layout, after: Layout) -> None:
    """Write what two layouts differ in into a layer, as one step that napari can undo."""
    rows, cols = np.nonzero(before.instances != after.instances)
    if len(rows):
        plane = [np.full(len(rows), at) for at in plane_of(layer, point)]
        layer.data_setitem((*plane, rows, cols), after.instances[rows, cols])
    changed = {number: kind for number, kind in after.classes.items() if before.classes.get(number, "") != kind}
    if changed:
        set_classes(layer, changed)


def set_classes(layer: Any, classes: Mapping[int, str], known: Sequence[NucleusClass] = ()) -> None:
    """Give labels of a layer other classes, in its features, its metadata and, where it has such, its colors.

    The classes of labels that are gone stay: with an undo they come back.
    """
    kinds = {**classes_of_layer(layer), **classes}
    table = with_names(known_classes(layer, known), {kind for kind in classes.values() if kind})
    numbers = {kind.name.casefold(): kind.number for kind in table}
    types = {number: numbers[kind.casefold()] for number, kind in kinds.items() if kind}
    keywords = nuclei_keywords(types, table, about(layer), other=0.8)
    features = keywords["features"]
    others = layer.features.drop(columns="class", errors="ignore")
    if "index" in others:
        features = features.merge(others, on="index", how="outer")
    layer.features = features
    layer.metadata = {**layer.metadata, **keywords["metadata"]}
    if isinstance(layer.colormap, DirectLabelColormap):
        layer.colormap = keywords["colormap"]


def fresh_label(layer: Any, taken: Collection[int] = ()) -> int:
    """A label that a layer neither has nor had a class for."""
    used = {int(np.max(layer.data, initial=0)), *classes_of_layer(layer), *taken}
    highest = int(np.iinfo(layer.data.dtype).max)
    number = max(used, default=0) + 1
    if number > highest:
        held = set(np.unique(layer.data).tolist())
        number = next((free for free in range(1, highest + 1) if free not in held), 0)
    if not number:
        raise HistomixError(f"'{layer.name}' has room for {highest:,} labels only; convert it to a larger data type.")
    return number


def edit(layer: Any, point: Sequence[float], change: Callable[[Layout], Layout]) -> None:
    """Change the layout in a layer by a pure function of layouts."""
    if not isinstance(layer.data, np.ndarray):
        raise HistomixError(f"'{layer.name}' is not held in memory and cannot be edited; duplicate it first.")
    before = layout_of(layer, point)
    write_layout(layer, point, before, change(before))


def selected_mask(layer: Any, point: Sequence[float]) -> NDArray[np.bool_]:
    """Where the selected label of a layer is, (H, W)."""
    return np.asarray(layer.data[plane_of(layer, point)]) == layer.selected_label


class SelectedRing:
    """A ring around the selected nucleus of a layer, in a layer of its own above it."""

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self._ring: Points | None = None

    def show(self, layer: Any, nucleus: NDArray[np.bool_]) -> None:
        """Mark a nucleus of a layer, given where it is (H, W)."""
        places = np.argwhere(nucleus)
        low, high = places.min(axis=0), places.max(axis=0)
        center = [[*plane_of(layer, tuple(self.viewer.dims.point)), *((low + high) / 2)]]
        size = AROUND * float((high - low).max() + 1)
        ring = self._ring
        if ring is None or ring not in self.viewer.layers or (ring.ndim, ring.units) != (layer.ndim, layer.units):
            self.remove()
            ring = self._ring = self._added(layer)
        layers = self.viewer.layers
        if layers.index(ring) < layers.index(layer):
            layers.move(layers.index(ring), len(layers))
        ring.scale, ring.translate = layer.scale, layer.translate
        ring.data, ring.size, ring.visible = np.array(center, float), size, True
        ring.selected_data = set()

    def _added(self, layer: Any) -> Points:
        layers = self.viewer.layers
        active = layers.selection.active
        ring = Points(
            ndim=layer.ndim,
            face_color="transparent",
            border_color="yellow",
            border_width=0.06,
            name=RING,
            **space_like(layer, None),
        )
        layers.append(ring)
        # To napari it is the new layer that a person works on.
        layers.selection.active = active
        return ring

    def hide(self) -> None:
        """Mark nothing."""
        if self._ring is not None:
            self._ring.visible = False

    def remove(self) -> None:
        """Take the ring's layer away."""
        ring, self._ring = self._ring, None
        remove_layer(self.viewer, ring)
