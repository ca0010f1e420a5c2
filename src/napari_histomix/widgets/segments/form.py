"""What a person chooses in the Segments dock: image, prompts, prompter and its settings; and what a pool is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from napari.layers import Image, Labels, Points
from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_histomix.segmentation import AnchorSettings
from napari_histomix.widgets.base import DEVICES, SPACE, form, narrow
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
from napari_histomix.widgets.training_form import FolderChoice

LABEL_WIDTH = 98
"""Pixels for the labels of the forms, so that their fields stand in line."""
TIPS = {
    "superpixels": ("Superpixels", "About how many SLIC superpixels the image is divided into; the paper takes 30."),
    "points": ("Points each", "Random prompts in every superpixel, the paper's K; the masks they get are voted on."),
    "compactness": ("Compactness", "The higher, the squarer the superpixels."),
    "sigma": ("Smoothing", "Gaussian smoothing before superpixels are made, in pixels."),
    "tissue": ("Least tissue", "Superpixels with a smaller share of tissue are left alone: bare glass is not asked."),
    "low": ("Smallest", "Masks that are a smaller share of the image do not count."),
    "high": ("Largest", "Masks that are a larger share of the image do not count."),
    "spread": ("Agreement", "How far masks of one vote may lie apart, as a share of the image's diagonal."),
    "duplicate": ("Duplicates", "Two segments that overlap by this much (intersection over union) count as one."),
    "seed": ("Seed", "The same seed gives the same points and the same segments."),
}
OF_SUPERPIXELS = ("superpixels", "points", "compactness", "sigma", "tissue", "seed")
"""What matters only where points are drawn in superpixels."""
RANGES = {"superpixels": (1, 5_000), "points": (1, 500), "seed": (0, 2**31 - 1), "compactness": (0.1, 1_000.0)}
ENCODERS = (("Texture (no weights)", "texture"), ("CTransPath", "ctranspath:"), ("timm model", "timm:"))
WEIGHTS = "Weights (*.safetensors *.pth *.pt)"


class FileChoice(FolderChoice):
    """A file's name and a button that asks for it."""

    def _ask(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, self._title, "", WEIGHTS)
        if name:
            self.choose(Path(name))


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


class AnchorForm(QWidget):
    """All settings of anchor segments; their defaults are the paper's."""

    def __init__(self) -> None:
        super().__init__()
        self.layout_ = form()
        self.boxes: dict[str, Any] = {}
        for name, value in _values(AnchorSettings()).items():
            box: Any = QSpinBox() if isinstance(value, int) else QDoubleSpinBox()
            if isinstance(box, QDoubleSpinBox):
                box.setDecimals(1 if value >= 1 else 2 if value >= 0.1 else 3)
                box.setSingleStep(1.0 if value >= 1 else 0.05 if value >= 0.1 else 0.002)
            box.setRange(*RANGES.get(name, (0.0, 1.0 if name != "sigma" else 50.0)))
            box.setValue(value)
            self.boxes[name] = box
            add_row(self.layout_, TIPS[name][0], box, TIPS[name][1])
        self.reset_button = QPushButton("Back to the paper's values")
        self.reset_button.setToolTip("Set all of these as the paper has them.")
        self.reset_button.clicked.connect(lambda _checked=False: self.put(AnchorSettings()))
        self.layout_.addRow("", self.reset_button)
        self.setLayout(self.layout_)

    def put(self, settings: AnchorSettings) -> None:
        """Show settings."""
        for name, value in _values(settings).items():
            self.boxes[name].setValue(value)

    def settings(self) -> AnchorSettings:
        """What the form says."""
        said = {name: box.value() for name, box in self.boxes.items()}
        return AnchorSettings(extent=(said.pop("low"), said.pop("high")), **said)

    def problem(self) -> str:
        """Why these settings make no sense; empty where they do."""
        low, high = self.settings().extent
        return "" if low < high else "The smallest segment must be smaller than the largest."

    def ask_superpixels(self, asked: bool) -> None:
        """Whether points are drawn in superpixels; where they are not, those settings say nothing."""
        for name in OF_SUPERPIXELS:
            self.boxes[name].setEnabled(asked)


def _values(settings: AnchorSettings) -> dict[str, Any]:
    found = {one.name: getattr(settings, one.name) for one in fields(settings)}
    found["low"], found["high"] = found.pop("extent")
    # The order in which a person reads about them.
    return {name: found[name] for name in TIPS}


def add_row(layout: QFormLayout, text: str, field: QWidget, tip: str) -> None:
    """A line of a form: label and field say the same in their tooltips."""
    layout.addRow(text, field)
    field.setToolTip(tip)
    label = layout.labelForField(field)
    label.setToolTip(tip)
    label.setMinimumWidth(LABEL_WIDTH)


def show_row(layout: QFormLayout, field: QWidget, shown: bool) -> None:
    """Show or hide a line of a form."""
    field.setVisible(shown)
    layout.labelForField(field).setVisible(shown)


class FindForm(QWidget):
    """Image, prompts, prompter, class and details."""

    changed = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._proposed = ""
        self.image = LayerChoice(viewer, Image, unusable)
        self.points, self.labels = LayerChoice(viewer, Points), LayerChoice(viewer, Labels)
        self.mode, self.prompter, self.device = QComboBox(), QComboBox(), QComboBox()
        for text, value in (
            ("random points", RANDOM),
            ("points of a layer", POINTS),
            ("segments of a layer", LABELS),
        ):
            self.mode.addItem(text, value)
        for text, value in (("Region tree (no weights)", "region-tree"), ("SAM", "sam")):
            self.prompter.addItem(text, value)
        for text, value in DEVICES:
            self.device.addItem(text, value)
        for box in (self.mode, self.prompter, self.device):
            narrow(box)
        self.weights = FileChoice("A checkpoint of SAM")
        self.weights.button.setToolTip("SAM, micro-sam, PathoSAM or another checkpoint of SAM's architecture.")
        self.kind = QLineEdit()
        self.kind.setPlaceholderText("optional, for example grade 3")
        self.details_button = QToolButton()
        self.details_button.setText("Details")
        self.details_button.setCheckable(True)
        self.details_button.setAutoRaise(True)
        self.details_button.setArrowType(Qt.ArrowType.RightArrow)
        self.details_button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.details_button.setToolTip("How superpixels, prompts and votes are set; as in the paper unless changed.")
        self.anchors = AnchorForm()
        self.anchors.hide()
        self.details_button.toggled.connect(self._on_details)
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
            ("Prompter", self.prompter, "What answers a point with a mask. The region tree needs no weights."),
            ("Weights", self.weights, "A checkpoint of SAM's architecture, as a file on this computer."),
            ("Device", self.device, "Where SAM runs. Automatic takes a graphics card if there is one."),
            ("Class", self.kind, "The tissue class of the image; every segment of it gets this class."),
        ):
            add_row(self.lines, text, field, tip)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        column.addLayout(self.lines)
        column.addWidget(self.details_button)
        column.addWidget(self.anchors)
        for choice in (self.image, self.points, self.labels, self.weights):
            choice.changed.connect(self._update)
        for box in (self.mode, self.prompter):
            box.currentIndexChanged.connect(self._update)
        for box in self.anchors.boxes.values():
            box.valueChanged.connect(self._update)
        self._update()

    def _on_details(self, opened: bool) -> None:
        self.details_button.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)
        self.anchors.setVisible(opened)

    def _update(self) -> None:
        mode, sam = self.mode.currentData(), self.prompter.currentData() == "sam"
        asks = mode != LABELS
        for field, shown in (
            (self.points, mode == POINTS),
            (self.labels, mode == LABELS),
            (self.prompter, asks),
            (self.weights, asks and sam),
            (self.device, asks and sam),
        ):
            show_row(self.lines, field, shown)
        self.details_button.setVisible(asks)
        self.anchors.setVisible(asks and self.details_button.isChecked())
        self.anchors.ask_superpixels(mode == RANDOM)
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
        return "" if mode == LABELS else self.prompter_problem()

    def prompter_problem(self) -> str:
        """Why prompter and settings cannot be used; empty where they can."""
        if self.prompter.currentData() == "sam" and self.weights.folder is None:
            return "Choose the weights of SAM, or the region tree, which needs none."
        return self.anchors.problem()

    def weights_path(self) -> str:
        """SAM's checkpoint; empty for the region tree."""
        return str(self.weights.folder) if self.prompter.currentData() == "sam" else ""

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
        how = self.prompter.currentData(), self.weights_path(), self.device.currentData(), self.anchors.settings()
        return layer, picture, Asked(*how, self.kind.text().strip(), points, labels)
