"""How well a rare nucleus would fit, as a map over the image on the screen, with its legend."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from napari.layers import Image, Layer
from napari.utils.colormaps import Colormap
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QPointF, QRectF, QSize
from qtpy.QtGui import QColor, QLinearGradient, QPainter, QPaintEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_histomix.records import Event, Job
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.layers import LayerBook
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer_layers import remove_layer

STEP_UM, SPREAD_UM, REACH = 2.0, 10.0, 1.5
"""Side of a pixel of the map, standard deviation of the kernel, and how many of these around a place count."""
COLORS = ("#00224e", "#434e6c", "#7d7c78", "#bbaf71", "#fee838")
"""From poor to good: dark blue to yellow, in steps of lightness that those who see no red or green tell apart too."""
OPACITY = 0.5
NAME = "How well a rare nucleus fits"


def fit_map(
    places: NDArray[np.float64], percentiles: NDArray[np.float64], shape: tuple[int, int], step: float, spread: float
) -> NDArray[np.float32]:
    """Mean percentile around every place of an image of ``shape`` (H, W), weighted by a Gaussian.

    Parameters
    ----------
    places : (N, 2) float
        Row and column of candidates in pixels of the image.
    percentiles : (N,) float
        How well a rare nucleus fits there, 0 to 100.
    step, spread : float
        Side of a pixel of the map, and the Gaussian's standard deviation, in pixels of the image.

    Returns
    -------
    (⌈H / step⌉, ⌈W / step⌉) float32
        NaN farther than ``REACH`` standard deviations from every candidate.
    """
    size = tuple(int(np.ceil(side / step)) for side in shape)
    cells = np.minimum((np.asarray(places).reshape(-1, 2) / step).astype(int), np.array(size) - 1)
    total, count = np.zeros(size, np.float32), np.zeros(size, np.float32)
    np.add.at(total, tuple(cells.T), percentiles)
    np.add.at(count, tuple(cells.T), 1)
    sigma = spread / step
    # What lies beyond the border says nothing of it.
    total, count = (cv2.GaussianBlur(each, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT) for each in (total, count))
    least = np.exp(-(REACH**2) / 2) / (2 * np.pi * sigma**2)
    return np.where(count >= least, total / np.maximum(count, 1e-12), np.nan).astype(np.float32)


class Legend(QWidget):
    """The colors of the map from poor to good, in words."""

    def __init__(self) -> None:
        super().__init__()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        tip = "The mean percentile of candidates nearby among the surroundings of real rare nuclei, from 0 to 100."
        self.setToolTip(tip)
        self.setAccessibleName("Dark blue: poor fit, gray: as the median rare nucleus, yellow: good fit")

    def sizeHint(self) -> QSize:
        return QSize(200, 30)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        bar = QRectF(0, 0, self.width(), 10)
        gradient = QLinearGradient(QPointF(0, 0), QPointF(self.width(), 0))
        for place, color in enumerate(COLORS):
            gradient.setColorAt(place / (len(COLORS) - 1), QColor(color))
        painter.fillRect(bar, gradient)
        painter.setPen(self.palette().windowText().color())
        metrics = painter.fontMetrics()
        for text, share in (("poor fit", 0.0), ("typical", 0.5), ("good fit", 1.0)):
            room = self.width() - metrics.horizontalAdvance(text)
            painter.drawText(QPointF(share * room, 14 + metrics.ascent()), text)
        painter.end()


class HeatMap(QObject):
    """A button, a legend, and a layer over the image on the screen that follows it while the button is down."""

    def __init__(self, panel: QWidget, viewer: Any, session: Session, book: LayerBook) -> None:
        super().__init__(panel)
        self.viewer, self.session, self.book = viewer, session, book
        tip = "Show over the tissue how well a rare nucleus would fit, by the candidates nearby."
        self.button = ui.button("Heat map", tip, checkable=True)
        self.button.toggled.connect(self._on_toggled)
        self.legend = Legend()
        self.legend.hide()
        self.runner = JobRunner(self).on(finished=self._on_made, failed=session.notice)
        self.layer: Layer | None = None
        self._shown: tuple[str, Any] | None = None
        """What the layer shows: the image and the candidates."""
        book.settled.connect(self._follow)
        session.dataset_changed.connect(lambda: self.button.setChecked(False))
        viewer.layers.events.removed.connect(self._on_removed)

    def _on_toggled(self, on: bool) -> None:
        self.legend.setVisible(on)
        if on:
            self._follow()
        else:
            remove_layer(self.viewer, self.layer)

    def _on_removed(self, event: Any) -> None:
        if event.value is self.layer:
            self.layer = self._shown = None
            self.button.setChecked(False)

    def _follow(self) -> None:
        """Have the map of the image on the screen made, where it is not the one that is shown."""
        name, candidates = self.session.image, self.session.candidates
        if not self.button.isChecked() or self._shown == (name, candidates) or self.runner.running:
            return
        image = self.book.layer(name, "image")
        if image is None or candidates is None or name not in self.session.images:
            if self.layer is not None:
                self.layer.visible = False
            self._shown = None
            return
        frame, shape, mpp = candidates.frame, image.data.shape[:2], self.book.mpp(name)

        def make() -> Job[tuple[str, Any, NDArray[np.float32]]]:
            yield Event("Making the heat map")
            here = frame[(frame["image"] == name) & np.isfinite(frame["percentile"])]
            places, values = here[["row", "col"]].to_numpy(float), here["percentile"].to_numpy(float)
            return name, candidates, fit_map(places, values, shape, STEP_UM / mpp, SPREAD_UM / mpp)

        self.runner.start(make, "making the heat map")

    def _on_made(self, result: tuple[str, Any, NDArray[np.float32]]) -> None:
        name, candidates, values = result
        image = self.book.layer(name, "image")
        if self.button.isChecked() and image is not None and name == self.session.image:
            self._shown = name, candidates
            step = STEP_UM / self.book.mpp(name)
            scale = np.array(image.scale[-2:]) * step
            # A pixel's coordinates are those of its center.
            corner = np.array(image.translate[-2:]) + (scale - image.scale[-2:]) / 2
            self._show(name, values, {"scale": scale, "translate": corner, "units": image.units}, image)
        self._follow()

    def _show(self, name: str, values: NDArray[np.float32], space: dict[str, Any], image: Layer) -> None:
        about = {"histomix": {"image": name, "heat map": True}}
        if self.layer is not None:
            self.layer.data, self.layer.metadata = values, {"histomix": {"image": name, "heat map": True}}
            self.layer.scale, self.layer.translate, self.layer.units = (
                space["scale"],
                space["translate"],
                space["units"],
            )
            self.layer.visible = True
            return
        layers, active = self.viewer.layers, self.viewer.layers.selection.active
        self.layer = Image(
            values,
            name=NAME,
            colormap=Colormap(list(COLORS), name="poor to good fit"),
            contrast_limits=(0, 100),
            opacity=OPACITY,
            blending="translucent_no_depth",
            interpolation2d="linear",
            metadata=about,
            **space,
        )
        layers.insert(layers.index(image) + 1, self.layer)
        if active is not None and active in layers:
            layers.selection.active = active
