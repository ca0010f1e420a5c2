"""What a person chooses in the Segments dock: image, prompts, and how segments are found in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from napari.layers import Image, Labels, Points
from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QLineEdit, QVBoxLayout, QWidget

from napari_histomix.methods.segment_stage import PoolSettings
from napari_histomix.widgets.elements import SPACE, form, narrow
from napari_histomix.widgets.forms import SessionForm
from napari_histomix.widgets.rgb_layers import micrometers
from napari_histomix.widgets.segments.layers import (
    LABELS,
    POINTS,
    RANDOM,
    Asked,
    about,
    labels_of,
    picture_of,
    prompts_of,
    unusable,
)
from napari_histomix.widgets.session import Session

OF_SUPERPIXELS = ("superpixels", "points", "compactness", "sigma", "tissue", "seed")
"""What matters only where points are drawn in superpixels."""


class LayerChoice(QComboBox):
    """The viewer's layers of a kind, from the top; follows them as they come, go and are renamed.

    Parameters
    ----------
    viewer : ViewerModel
    kind : type
    why_not : callable, optional
        Says of a layer in a few words why it cannot be chosen; it is listed all the same.
    """

    changed = Signal()

    def __init__(self, viewer: Any, kind: type, why_not: Callable[[Any], str] | None = None) -> None:
        super().__init__()
        self._viewer, self._kind, self._why_not = viewer, kind, why_not or (lambda _layer: "")
        self._shown: list[Any] = []
        narrow(self)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self.refresh)
        self.currentIndexChanged.connect(lambda _index: self.changed.emit())
        for signal in (viewer.layers.events.inserted, viewer.layers.events.removed, viewer.layers.events.reordered):
            signal.connect(self._on_layers)
        self.refresh()

    @property
    def layer(self) -> Any:
        """The chosen layer, None where there is none."""
        at = self.currentIndex()
        found = self._shown[at] if 0 <= at < len(self._shown) else None
        return found if found in self._viewer.layers and not self._why_not(found) else None

    def choose(self, layer: Any) -> None:
        """Choose a layer."""
        self.refresh()
        self.setCurrentIndex(self._shown.index(layer))

    def _on_layers(self, event: Any = None) -> None:
        if isalive(self):
            self._later.start()

    def refresh(self) -> None:
        """List what is open now; the chosen layer stays chosen."""
        chosen, before = self.layer, self._shown
        self._shown = [one for one in reversed(self._viewer.layers) if isinstance(one, self._kind)]
        for layer in before:
            if layer not in self._shown:
                for signal in _signals(layer):
                    signal.disconnect(self._on_layers)
        with QSignalBlocker(self):
            self.clear()
            for at, layer in enumerate(self._shown):
                if layer not in before:
                    for signal in _signals(layer):
                        signal.connect(self._on_layers)
                why = self._why_not(layer)
                size, gray = micrometers(layer), isinstance(layer, Image) and not layer.rgb
                notes = (
                    why or (f"{size:.3g} µm/px" if size and isinstance(layer, Image) else ""),
                    "gray" if gray else "",
                )
                self.addItem(" · ".join(filter(None, (layer.name, *notes))))
                self.setItemData(at, layer.name, Qt.ItemDataRole.ToolTipRole)
                model: Any = self.model()
                model.item(at).setEnabled(not why)
            usable = [layer for layer in self._shown if not self._why_not(layer)]
            # Color before gray: masks and channels lie open beside the image.
            usable.sort(key=lambda layer: isinstance(layer, Image) and not layer.rgb)
            wanted = chosen if chosen in usable else next(iter(usable), None)
            self.setCurrentIndex(self._shown.index(wanted) if wanted is not None else -1)
        self.changed.emit()


def _signals(layer: Any) -> list[Any]:
    return [getattr(layer.events, name) for name in ("name", "scale", "units", "data") if hasattr(layer.events, name)]


class FindForm(QWidget):
    """Image, prompts, class and how segments are found.

    Parameters
    ----------
    viewer : ViewerModel
    session : Session
    """

    changed = Signal()

    def __init__(self, viewer: Any, session: Session) -> None:
        super().__init__()
        self._proposed = ""
        self.image = LayerChoice(viewer, Image, unusable)
        self.points, self.labels = LayerChoice(viewer, Points), LayerChoice(viewer, Labels)
        self.mode = QComboBox()
        for text, value in (
            ("random points", RANDOM),
            ("points of a layer", POINTS),
            ("segments of a layer", LABELS),
        ):
            self.mode.addItem(text, value)
        narrow(self.mode)
        self.kind = QLineEdit()
        self.kind.setPlaceholderText("optional, for example grade 3")
        self.settings = SessionForm(session, PoolSettings)
        self.lines = form()
        for text, field, tip in (
            ("Image", self.image, "The open image that is divided: the plane and the part of a pyramid that fit."),
            (
                "Divide by",
                self.mode,
                "What is asked about: random points in superpixels, as in the paper, or your own points.\n"
                "Segments that you drew are not looked for; they get their features.",
            ),
            ("Points", self.points, "Each shown point is a prompt that stands for itself."),
            ("Segments", self.labels, "Labels of the size of the image; 0 is background."),
            ("Class", self.kind, "The tissue class of the image; every segment of it gets this class."),
        ):
            self.lines.addRow(text, field)
            field.setToolTip(tip)
            self.lines.labelForField(field).setToolTip(tip)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        column.addLayout(self.lines)
        column.addWidget(self.settings)
        for choice in (self.image, self.points, self.labels, self.settings):
            choice.changed.connect(self._update)
        self.mode.currentIndexChanged.connect(self._update)
        self._update()

    def _update(self) -> None:
        mode = self.mode.currentData()
        _show_row(self.lines, self.points, mode == POINTS)
        _show_row(self.lines, self.labels, mode == LABELS)
        self.settings.setEnabled(mode != LABELS)
        for name in OF_SUPERPIXELS:
            self.settings.fields[name].enabled = mode == RANDOM
        told = str(about(self.image.layer).get("class", "")) if self.image.layer is not None else ""
        if self.kind.text() == self._proposed:
            self.kind.setText(told)
        self._proposed = told
        self.changed.emit()

    def problem(self) -> str:
        """Why nothing can be divided yet; empty where it can."""
        mode = self.mode.currentData()
        if self.image.layer is None:
            some = self.image.count() > 0
            return "No open image can be divided; open another." if some else "Open an H&E image in napari."
        if mode == POINTS and self.points.layer is None:
            return "Add a Points layer and set points in the image."
        if mode == LABELS and self.labels.layer is None:
            return "Add a Labels layer and paint segments."
        if (
            mode != LABELS
            and self.settings.fields["prompter"].value == "sam"
            and not self.settings.fields["weights"].value
        ):
            return "Choose the weights of SAM, or the region tree, which needs none."
        return ""

    def gather(self, point: Sequence[float]) -> tuple[Any, Any, Asked]:
        """The image layer, its picture and what is asked of it, at the viewer's point (world coordinates).

        Raises
        ------
        HistomixError
            If a layer holds nothing that can be used.
        """
        layer, mode = self.image.layer, self.mode.currentData()
        picture = picture_of(layer, point)
        points = prompts_of(self.points.layer, layer, picture) if mode == POINTS else None
        labels = labels_of(self.labels.layer, point, picture.shape) if mode == LABELS else None
        return layer, picture, Asked(self.settings.value(PoolSettings), self.kind.text().strip(), points, labels)


def _show_row(layout: QFormLayout, field: QWidget, shown: bool) -> None:
    field.setVisible(shown)
    layout.labelForField(field).setVisible(shown)
