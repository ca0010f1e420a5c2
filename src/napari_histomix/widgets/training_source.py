"""What a network learns from: a folder of images, or the RGB images that are open in the viewer."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QShowEvent
from qtpy.QtWidgets import QFrame, QListWidget, QListWidgetItem, QWidget

from napari_histomix.records import Event, Job
from napari_histomix.widgets.elements import SPACE, ask_folder, button, choice, column, form, hint, label, number, row
from napari_histomix.widgets.jobs import JobRunner, prepare_torch
from napari_histomix.widgets.viewer_layers import LayerFollower, about, micrometers, pixels_of

FOLDER, LAYERS = "folder", "layers"
LOOKED_AT = 5
"""Images of a folder whose metadata is asked for the scale."""

Source = Path | tuple[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class FolderFacts:
    """How many color images a folder holds, and µm per pixel where its files agree on it."""

    images: int
    mpp: float | None


def folder_job(folder: Path) -> Callable[[], Job[FolderFacts]]:
    """Count a folder's color images and look for their scale."""

    def job() -> Job[FolderFacts]:
        prepare_torch()
        yield Event("Looking")
        from napari_histomix.datasets.pixels import read_mpp
        from napari_histomix.diffusion.training_images import find_images

        images, _ = find_images(folder)
        scales = {round(mpp, 4) for path in images[:LOOKED_AT] if (mpp := read_mpp(path))} or _stated_mpp(folder)
        return FolderFacts(len(images), scales.pop() if len(scales) == 1 else None)

    return job


def _stated_mpp(folder: Path) -> set[float]:
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
        self.label = label("Drop a folder of H&E images here, or")
        tip = "PNG, JPEG or TIFF images, also in folders below; no labels are needed."
        layout = row(self.label, button("Choose …", tip, self._ask), stretch=0)
        layout.setContentsMargins(SPACE, SPACE - 2, SPACE, SPACE - 2)
        self.setLayout(layout)

    def _ask(self) -> None:
        if folder := ask_folder(self, "A folder of H&E images; no labels are needed"):
            self.chosen.emit(folder)

    @staticmethod
    def _folder(event: QDropEvent) -> Path | None:
        paths = (Path(url.toLocalFile()) for url in event.mimeData().urls())
        return next((path for path in paths if path.is_dir()), None)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if self._folder(event) is not None:
            event.acceptProposedAction()
        else:
            # Everything else is left to napari.
            event.ignore()

    def dropEvent(self, event: QDropEvent) -> None:
        folder = self._folder(event)
        if folder is not None:
            event.acceptProposedAction()
            self.chosen.emit(folder)


def learnable(layer: Any) -> bool:
    """Whether a network may learn from a layer: RGB, not synthetic, not of images held back for testing."""
    if not isinstance(layer, Image) or not layer.rgb:
        return False
    return not about(layer).get("synthetic") and about(layer).get("split", "") in ("", "train")


class RgbLayers(QListWidget):
    """The viewer's RGB layers that a network may learn from, with check boxes."""

    changed = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._left_out: set[int] = set()
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.itemChanged.connect(self._on_item)
        self.follower = LayerFollower(viewer, learnable, self)
        self.follower.changed.connect(self._fill)
        self.follower.refresh()

    def checked(self) -> list[Any]:
        return [layer for layer in self.follower.layers if id(layer) not in self._left_out]

    def _fill(self) -> None:
        self._left_out &= {id(layer) for layer in self.follower.layers}
        with QSignalBlocker(self):
            self.clear()
            for layer in self.follower.layers:
                size = micrometers(layer)
                item = QListWidgetItem(f"{layer.name} · {size:.3g} µm/px" if size else layer.name)
                item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
                out = id(layer) in self._left_out
                item.setCheckState(Qt.CheckState.Unchecked if out else Qt.CheckState.Checked)
                item.setToolTip(layer.name)
                self.addItem(item)
        self._fit()
        self.changed.emit()

    def _fit(self) -> None:
        line = max(self.sizeHintForRow(0), 12)
        self.setFixedHeight(min(max(self.count(), 2), 6) * line + 2 * self.frameWidth() + 6)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        # How high the lines are is known only now.
        self._fit()

    def _on_item(self, item: QListWidgetItem) -> None:
        layer = self.follower.layers[self.row(item)]
        self._left_out.discard(id(layer))
        if item.checkState() != Qt.CheckState.Checked:
            self._left_out.add(id(layer))
        self.changed.emit()


class TissueSource(QWidget):
    """Where the images come from, and how large their pixels are."""

    changed = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._folder: Path | None = None
        self._facts: FolderFacts | None = None
        self._failure = ""
        self.kind = choice((("a folder of images", FOLDER), ("the images open in napari", LAYERS)))
        self.drop = FolderDrop()
        self.drop.chosen.connect(self.choose_folder)
        self.layers = RgbLayers(viewer)
        self.none = hint("No RGB image is open. Synthetic images and those of a test split are not listed.")
        tip = "How many micrometers one pixel is: 0.25 for most scans at 40×, 0.5 at 20×."
        self.scale = number(0, 10, 0, step=0.05, decimals=4, suffix=" µm/px", special="? µm/px", tip=tip)
        self.known = label()
        self.details = form(("Learn from", self.kind))
        self.details.addRow(column(self.drop, self.layers, self.none))
        self.details.addRow("One pixel is", column(self.scale, self.known))
        self.setLayout(self.details)
        self._runner = JobRunner(self)
        self._runner.finished.connect(self._on_facts)
        self._runner.failed.connect(self._on_failure)
        self.kind.setCurrentIndex(1 if self.layers.checked() else 0)
        self.kind.currentIndexChanged.connect(self._update)
        self.layers.changed.connect(self._update)
        self.scale.valueChanged.connect(self._update)
        self._update()

    @property
    def looking(self) -> bool:
        return self._runner.busy

    @property
    def from_layers(self) -> bool:
        return bool(self.kind.currentData() == LAYERS)

    def choose_folder(self, folder: Path) -> None:
        self._folder, self._facts, self._failure = Path(folder), None, ""
        self.kind.setCurrentIndex(self.kind.findData(FOLDER))
        self._runner.replace(folder_job(self._folder), f"looking into {self._folder.name}")
        self._update()

    def _on_facts(self, facts: FolderFacts) -> None:
        self._facts = facts
        self.scale.setValue(facts.mpp or 0.0)
        self._update()

    def _on_failure(self, sentence: str) -> None:
        self._failure = sentence
        self._update()

    def _update(self) -> None:
        layers, any_open = self.from_layers, self.layers.count() > 0
        self.drop.setVisible(not layers)
        self.layers.setVisible(layers and any_open)
        self.none.setVisible(layers and not any_open)
        sizes = self._layer_sizes()
        known = sorted({size for size in sizes if size is not None})
        self.scale.setVisible(not layers or None in sizes or not sizes)
        self.known.setVisible(bool(known))
        span = "–".join(f"{size:.3g}" for size in dict.fromkeys(known[:1] + known[-1:]))
        self.known.setText(f"{'the others ' if None in sizes else ''}{span} µm/px by their scale")
        if self._folder is not None:
            count = f"{self._facts.images:,} images" if self._facts else "no images" if self._failure else "looking …"
            self.drop.label.setText(f"<b>{html.escape(self._folder.name)}</b><br>{count}")
            self.drop.label.setToolTip(str(self._folder))
        self.changed.emit()

    def _layer_sizes(self) -> list[float | None]:
        return [micrometers(layer) for layer in self.layers.checked()] if self.from_layers else []

    # What the run asks.

    def problem(self) -> str:
        """Why nothing can be learned yet; empty where it can."""
        if self.from_layers:
            if not self.layers.checked():
                return "Check an image." if self.layers.count() else "Open an RGB image in napari and check it."
        elif self._folder is None:
            return "Choose a folder of images."
        elif self._failure:
            return self._failure
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
        if self.from_layers:
            count = len(self.layers.checked())
            return f"{count} open image{'s' if count != 1 else ''}"
        return self._folder.name if self._folder is not None else ""

    def gather(self) -> Callable[[], Sequence[Source]]:
        """What reads the chosen images, in a worker's thread; layers may be deleted meanwhile."""
        if not self.from_layers:
            assert self._folder is not None
            folder = self._folder
            return lambda: [folder]
        held = [(layer.name, layer.data[0] if layer.multiscale else layer.data) for layer in self.layers.checked()]
        return lambda: [picture for name, data in held for picture in pixels_of(name, data)]
