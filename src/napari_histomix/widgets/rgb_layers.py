"""The RGB images that are open in the viewer, as something a network can learn from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_histomix.records import HistomixError

LARGEST = 400_000_000
"""Pixels of one layer that are taken into memory."""


def usable(layer: Any) -> bool:
    """Whether a network may learn from a layer: RGB, not synthetic, not of images held back for testing."""
    if not isinstance(layer, Image) or not layer.rgb:
        return False
    about = layer.metadata.get("histomix", {})
    return not about.get("synthetic") and about.get("split", "") in ("", "train")


def micrometers(layer: Any) -> float | None:
    """µm per pixel by a layer's scale, where its units are lengths."""
    try:
        units = tuple(layer.units)[-2:]
        rows, cols = (
            (float(size) * unit).to("um").magnitude for size, unit in zip(layer.scale[-2:], units, strict=True)
        )
    except (AttributeError, TypeError, ValueError):
        # Pixels are no length (pint's DimensionalityError is a TypeError), and napari before 0.5.5 has no units.
        return None
    size = math.sqrt(abs(rows * cols))
    return size if math.isfinite(size) and size > 0 else None


def pixels_of(name: str, data: Any) -> list[tuple[str, NDArray[np.uint8]]]:
    """8-bit RGB pictures of an RGB layer's data, one for each plane of a stack.

    Parameters
    ----------
    data : (..., H, W, 3 or 4) array, lazy or not
        8 or 16 bits, or floating point from 0 to 1; transparency is left out.

    Raises
    ------
    HistomixError
        For more pixels than fit into memory.
    """
    if math.prod(data.shape[:-1]) > LARGEST:
        raise HistomixError(f"'{name}' is too large to learn from at once; crop it, or choose a folder of tiles.")
    values = np.asarray(data)[..., :3]
    if values.dtype.kind in "iu" and values.dtype != np.uint8:
        values = values / np.iinfo(values.dtype).max
    if values.dtype != np.uint8:
        values = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)
    planes = values.reshape(-1, *values.shape[-3:])
    # Copies: what is painted into a layer in mid-run is not for the network.
    return [(name if len(planes) == 1 else f"{name} {at}", one.copy()) for at, one in enumerate(planes, start=1)]


class RgbLayers(QListWidget):
    """The viewer's usable RGB layers with check boxes, kept up to date as layers come, go and change."""

    changed = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._left_out: set[int] = set()
        self._shown: list[Any] = []
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self.refresh)
        self.itemChanged.connect(self._on_item)
        for signal in (viewer.layers.events.inserted, viewer.layers.events.removed, viewer.layers.events.reordered):
            signal.connect(self._on_layers)
        self.refresh()

    def checked(self) -> list[Any]:
        """The layers that are checked."""
        return [layer for layer in self._shown if id(layer) not in self._left_out]

    def _on_layers(self, event: Any = None) -> None:
        if isalive(self):
            self._later.start()

    def refresh(self) -> None:
        """List what is open now."""
        before, self._shown = self._shown, [one for one in reversed(self._viewer.layers) if usable(one)]
        for layer in before:
            if layer not in self._shown:
                for signal in _signals(layer):
                    signal.disconnect(self._on_layers)
                self._left_out.discard(id(layer))
        self.blockSignals(True)
        self.clear()
        for layer in self._shown:
            if layer not in before:
                for signal in _signals(layer):
                    signal.connect(self._on_layers)
            size = micrometers(layer)
            item = QListWidgetItem(f"{layer.name} · {size:.3g} µm/px" if size else layer.name)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            out = id(layer) in self._left_out
            item.setCheckState(Qt.CheckState.Unchecked if out else Qt.CheckState.Checked)
            item.setToolTip(layer.name)
            self.addItem(item)
        self.blockSignals(False)
        self._fit()
        self.changed.emit()

    def _fit(self) -> None:
        line = max(self.sizeHintForRow(0), 12)
        self.setFixedHeight(min(max(len(self._shown), 2), 6) * line + 2 * self.frameWidth() + 6)

    def showEvent(self, event: QShowEvent) -> None:
        """As high as its lines; how high they are is known only now."""
        super().showEvent(event)
        self._fit()

    def _on_item(self, item: QListWidgetItem) -> None:
        layer = self._shown[self.row(item)]
        if item.checkState() == Qt.CheckState.Checked:
            self._left_out.discard(id(layer))
        else:
            self._left_out.add(id(layer))
        self.changed.emit()


def _signals(layer: Any) -> list[Any]:
    return [getattr(layer.events, name) for name in ("name", "scale", "units") if hasattr(layer.events, name)]
