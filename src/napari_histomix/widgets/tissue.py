"""What a network learns from: a folder of images, or the RGB images that are open in the viewer."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_histomix.records import Event, Job
from napari_histomix.widgets.elements import SPACE, form, hint, narrow
from napari_histomix.widgets.jobs import JobRunner, prepare_torch
from napari_histomix.widgets.rgb_layers import RgbLayers, micrometers, pixels_of

FOLDER, LAYERS = "folder", "layers"
LOOKED = 5
"""Images of a folder whose metadata is asked for the scale."""

Source = Path | tuple[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class FolderFacts:
    """How many color images a folder holds, and µm per pixel where its files say so with one voice."""

    folder: Path
    images: int
    mpp: float | None


def look_job(folder: Path) -> Callable[[], Job[FolderFacts]]:
    """Count a folder's color images and look for their scale."""

    def job() -> Job[FolderFacts]:
        prepare_torch()
        yield Event("Looking")
        from napari_histomix.datasets.pixels import read_mpp
        from napari_histomix.diffusion.training_images import find_images

        found, _ = find_images(folder)
        scales = {round(one, 4) for path in found[:LOOKED] if (one := read_mpp(path))} or _stated(folder)
        return FolderFacts(folder, len(found), scales.pop() if len(scales) == 1 else None)

    return job


def _stated(folder: Path) -> set[float]:
    try:
        return {float(json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["mpp"])}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


class FolderDrop(QFrame):
    """A place for a folder: drop it here, or choose it."""

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.setAcceptDrops(True)
        self.setObjectName("folderDrop")
        self.setStyleSheet("QFrame#folderDrop { border: 1px dashed #8a8f99; border-radius: 4px; }")
        self.label = QLabel("Drop a folder of H&E images here, or")
        self.label.setWordWrap(True)
        self.button = QPushButton("Choose …")
        self.button.setToolTip("PNG, JPEG or TIFF images, also in folders below; no labels are needed.")
        self.button.clicked.connect(self._ask)
        line = QHBoxLayout(self)
        line.setContentsMargins(SPACE, SPACE - 2, SPACE, SPACE - 2)
        line.addWidget(self.label, 1)
        line.addWidget(self.button)

    def _ask(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A folder of H&E images; no labels are needed")
        if folder:
            self.chosen.emit(Path(folder))

    @staticmethod
    def _folder(event: QDropEvent) -> Path | None:
        for url in event.mimeData().urls():
            path = Path(url.toLocalFile())
            if path.is_dir():
                return path
        return None

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Take folders, and leave everything else to napari."""
        if self._folder(event) is not None:
            event.acceptProposedAction()
        else:
            event.ignore()

    def dropEvent(self, event: QDropEvent) -> None:
        """Choose what was dropped."""
        folder = self._folder(event)
        if folder is not None:
            event.acceptProposedAction()
            self.chosen.emit(folder)


class TissueSource(QWidget):
    """Where the images come from, and how large their pixels are."""

    changed = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._folder: Path | None = None
        self._facts: FolderFacts | None = None
        self._trouble = ""
        self.kind = QComboBox()
        narrow(self.kind)
        self.kind.addItem("a folder of images", FOLDER)
        self.kind.addItem("the images open in napari", LAYERS)
        self.drop = FolderDrop()
        self.drop.chosen.connect(self.choose_folder)
        self.layers = RgbLayers(viewer)
        self.none = hint("No RGB image is open. Synthetic images and those of a test split are not listed.")
        self.scale = QDoubleSpinBox()
        self.scale.setDecimals(4)
        self.scale.setRange(0.0, 10.0)
        self.scale.setSingleStep(0.05)
        self.scale.setSpecialValueText("? µm/px")
        self.scale.setSuffix(" µm/px")
        self.scale.setToolTip("How many micrometers one pixel is: 0.25 for most scans at 40×, 0.5 at 20×.")
        self.known = QLabel()
        self.known.setWordWrap(True)
        self.details = form()
        self.details.addRow("Learn from", self.kind)
        below = QVBoxLayout()
        below.addWidget(self.drop)
        below.addWidget(self.layers)
        below.addWidget(self.none)
        self.details.addRow(below)
        sizes = QVBoxLayout()
        sizes.addWidget(self.scale)
        sizes.addWidget(self.known)
        self.details.addRow("One pixel is", sizes)
        self.setLayout(self.details)
        self._looker = JobRunner(self)
        self._looker.finished.connect(self._on_facts)
        self._looker.failed.connect(self._on_trouble)
        self._looker.cancelled.connect(self._look)
        self.kind.setCurrentIndex(1 if self.layers.checked() else 0)
        self.kind.currentIndexChanged.connect(self._update)
        self.layers.changed.connect(self._update)
        self.scale.valueChanged.connect(self._update)
        self._update()

    @property
    def looking(self) -> bool:
        """Whether a folder is being looked at."""
        return self._looker.running

    @property
    def from_layers(self) -> bool:
        """Whether the open images are chosen."""
        return self.kind.currentData() == LAYERS

    def choose_folder(self, folder: Path) -> None:
        """Learn from a folder."""
        self._folder, self._facts, self._trouble = Path(folder), None, ""
        self.kind.setCurrentIndex(self.kind.findData(FOLDER))
        if self._looker.running:
            self._looker.discard()
        else:
            self._look()
        self._update()

    def _look(self) -> None:
        if self._folder is not None and self._facts is None and not self._trouble:
            self._looker.start(look_job(self._folder), f"looking into {self._folder.name}")

    def _on_facts(self, facts: FolderFacts) -> None:
        self._facts = facts
        self.scale.setValue(facts.mpp or 0.0)
        self._update()

    def _on_trouble(self, sentence: str) -> None:
        self._trouble = sentence
        self._update()

    def _update(self) -> None:
        layers, some = self.from_layers, self.layers.count() > 0
        self.drop.setVisible(not layers)
        self.layers.setVisible(layers and some)
        self.none.setVisible(layers and not some)
        sizes = self._layer_sizes()
        unknown = None in sizes
        self.scale.setVisible(not layers or unknown or not sizes)
        told = sorted({size for size in sizes if size is not None})
        self.known.setVisible(layers and bool(told))
        between = "–".join(f"{one:.3g}" for one in dict.fromkeys(told[:1] + told[-1:]))
        self.known.setText(f"{'the others ' if unknown else ''}{between} µm/px by their scale")
        if self._folder is not None:
            name = f"<b>{html.escape(self._folder.name)}</b>"
            count = (
                f"{self._facts.images:,} images" if self._facts else "looking …" if not self._trouble else "no images"
            )
            self.drop.label.setText(f"{name}<br>{count}")
            self.drop.label.setToolTip(str(self._folder))
        self.changed.emit()

    def _layer_sizes(self) -> list[float | None]:
        return [micrometers(layer) for layer in self.layers.checked()] if self.from_layers else []

    # What the run asks.

    def problem(self) -> str:
        """Why nothing can be learned yet; empty where it can."""
        if self.from_layers:
            if not self.layers.checked():
                return "Open an RGB image in napari and check it." if not self.layers.count() else "Check an image."
        elif self._folder is None:
            return "Choose a folder of images."
        elif self._trouble:
            return self._trouble
        elif self._facts is None:
            return "The folder is being looked at."
        if self.mpp() is None:
            return "Enter how many µm one pixel is: 0.25 for most scans at 40×, 0.5 at 20×."
        return ""

    def mpp(self) -> tuple[float, float] | None:
        """Lowest and highest µm per pixel of the chosen images; None where it is not known of all."""
        entered = self.scale.value() or None
        sizes = [size or entered for size in self._layer_sizes()] if self.from_layers else [entered]
        known = [size for size in sizes if size is not None]
        return (min(known), max(known)) if known and len(known) == len(sizes) else None

    def words(self) -> str:
        """What is chosen, in few words."""
        if self.from_layers:
            number = len(self.layers.checked())
            return f"{number} open image{'s' if number != 1 else ''}"
        return self._folder.name if self._folder is not None else ""

    def gather(self) -> Callable[[], Sequence[Source]]:
        """What reads the chosen images, in a worker's thread; layers may be deleted meanwhile."""
        if not self.from_layers:
            folder = self._folder
            assert folder is not None
            return lambda: [folder]
        held = [(one.name, one.data[0] if one.multiscale else one.data) for one in self.layers.checked()]
        return lambda: [picture for name, data in held for picture in pixels_of(name, data)]
