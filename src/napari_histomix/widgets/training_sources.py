"""What networks are to learn from: a folder, open layers or the open dataset, with their scale."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QShowEvent
from qtpy.QtWidgets import QFrame, QListWidget, QListWidgetItem, QWidget

from napari_histomix.datasets import Dataset, open_any
from napari_histomix.datasets.pixels import read_mpp
from napari_histomix.datasets.splits import with_chosen_splits
from napari_histomix.records import Event, Job
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.loading_ahead import prepare_torch
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer_layers import LayerFollower, about, finest, micrometers, pixels_of

FOLDER, LAYERS, DATASET = "folder", "layers", "dataset"
SOURCES = {
    False: (
        ("a folder of images", FOLDER),
        ("the images open in napari", LAYERS),
        ("the training split of the open dataset", DATASET),
    ),
    True: (("the open dataset", DATASET), ("a folder of labeled images", FOLDER)),
}
"""What can be learned from, for networks that need no labels and for those that do."""
LABEL_WIDTH = 92
"""Pixels for the labels of both forms."""
LOOKED_AT = 5
"""Images of a folder whose metadata is asked for the scale."""

Source = Path | Dataset | tuple[str, NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class Folder:
    """What a folder holds: how many images, µm per pixel where they agree, and labels where those are asked for."""

    images: int
    mpp: float | None = None
    dataset: Dataset | None = None


def folder_job(folder: Path, labeled: bool) -> Job[Folder]:
    """Look into a folder of images, or of a labeled dataset."""
    yield Event("Looking")
    if labeled:
        dataset = open_any(folder)
        return Folder(len(dataset.entries), None, dataset)
    prepare_torch()
    from napari_histomix.training.images import find_images

    images, _ = find_images(folder)
    scales = {round(mpp, 4) for path in images[:LOOKED_AT] if (mpp := read_mpp(path))} or _stated_mpp(folder)
    return Folder(len(images), scales.pop() if len(scales) == 1 else None)


def _stated_mpp(folder: Path) -> set[float]:
    try:
        return {float(json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["mpp"])}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


class FolderChoice(QFrame):
    """A folder: asked for with a button, or dropped here."""

    chosen = Signal(object)

    def __init__(self, title: str, words: str = "none yet", tip: str = "") -> None:
        super().__init__()
        self.folder: Path | None = None
        self.setAcceptDrops(True)
        self.label = ui.label(words)
        self.setLayout(
            ui.row(self.label, ui.asking_button("Choose …", tip or f"{title}.", title, self.choose), stretch=0)
        )

    def choose(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.label.setText(shortened(self, self.folder, 150))
        self.label.setToolTip(str(self.folder))
        self.chosen.emit(self.folder)

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
        if folder := self._folder(event):
            event.acceptProposedAction()
            self.choose(folder)


def shortened(widget: QWidget, folder: Path, width: int) -> str:
    """A folder's name, without its middle where a widget's text of some pixels has no room for it."""
    return widget.fontMetrics().elidedText(folder.name, Qt.TextElideMode.ElideMiddle, width)


# The images.


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

    def __init__(self, viewer: Any, session: Session) -> None:
        super().__init__()
        self._session = session
        self._labeled = False
        self._folder: Folder | None = None
        """What was chosen; None while it is being looked at."""
        self._failure = ""
        self.kind = ui.choice(SOURCES[False], "The images that the network learns from.")
        self.drop = FolderChoice("A folder of H&E images", "Drop a folder of H&E images here, or")
        self.drop.setObjectName("folderDrop")
        self.drop.setStyleSheet("QFrame#folderDrop { border: 1px dashed #8a8f99; border-radius: 4px; }")
        self.drop.layout().setContentsMargins(ui.SPACE, ui.SPACE - 2, ui.SPACE, ui.SPACE - 2)
        self.layers = RgbLayers(viewer)
        self.layers.setToolTip("The open images; those that are checked are learned from.")
        self.none = ui.hint("No RGB image is open. Synthetic images and those of a test split are not listed.")
        tip = "How many micrometers one pixel is: 0.25 for most scans at 40×, 0.5 at 20×."
        self.scale = ui.number(0, 10, 0, step=0.05, decimals=4, suffix=" µm/px", special="? µm/px", tip=tip)
        self.known = ui.label()
        scale = ui.column(self.scale, self.known)
        layout = ui.form(("Learn from", self.kind), ("One pixel is", scale), label_width=LABEL_WIDTH)
        layout.insertRow(1, ui.column(self.drop, self.layers, self.none))
        self.setLayout(layout)
        self._runner = JobRunner(self).on(finished=self._on_folder, failed=self._on_failure)
        self._prefer()
        self.drop.chosen.connect(lambda _folder: self._look(FOLDER))
        self.kind.currentIndexChanged.connect(self._update)
        session.dataset_changed.connect(self._on_dataset)
        for signal in (self.layers.changed, self.scale.valueChanged, session.splits_changed):
            signal.connect(self._update)
        self._update()

    @property
    def looking(self) -> bool:
        return self._runner.busy

    @property
    def source(self) -> str:
        """One of ``FOLDER``, ``LAYERS`` and ``DATASET``."""
        return str(self.kind.currentData())

    @property
    def dataset(self) -> Dataset | None:
        """The dataset that is learned from; None where it is none, but a folder of images or open ones."""
        if self.source == DATASET:
            return self._session.dataset
        return self._folder.dataset if self.source == FOLDER and self._folder is not None else None

    def ask_for_labels(self, labeled: bool) -> None:
        """Offer labeled datasets, or images of any kind."""
        if labeled != self._labeled:
            self._labeled = labeled
            ui.offer(self.kind, SOURCES[labeled])
            self._prefer()
            self._look(self.source)

    def _prefer(self) -> None:
        """Choose what is open already, unless there is a folder."""
        if self.drop.folder is not None:
            return
        wanted = DATASET if self._labeled or self._session.dataset is not None else FOLDER
        if wanted == FOLDER and self.layers.checked():
            wanted = LAYERS
        self.kind.setCurrentIndex(self.kind.findData(wanted))

    def _on_dataset(self) -> None:
        if self.problem():
            self._prefer()
        self._update()

    def _look(self, source: str) -> None:
        self._folder, self._failure = None, ""
        self.kind.setCurrentIndex(self.kind.findData(source))
        if self.drop.folder is not None:
            job = partial(folder_job, self.drop.folder, self._labeled)
            self._runner.replace(job, f"looking into {self.drop.folder.name}")
        self._update()

    def _on_folder(self, folder: Folder) -> None:
        self._folder = folder
        self.scale.setValue(folder.mpp or 0.0)
        self._update()

    def _on_failure(self, sentence: str) -> None:
        self._failure = sentence
        self._update()

    def _update(self) -> None:
        layers, any_open = self.source == LAYERS, self.layers.count() > 0
        self.drop.setVisible(self.source == FOLDER)
        self.layers.setVisible(layers and any_open)
        self.none.setVisible(layers and not any_open)
        sizes = self._sizes()
        known = sorted({size for size in sizes if size is not None})
        self.scale.setVisible(None in sizes or not sizes)
        self.known.setVisible(bool(known))
        span = "–".join(f"{size:.3g}" for size in dict.fromkeys(known[:1] + known[-1:]))
        self.known.setText(f"{'the others ' if None in sizes else ''}{span} µm/px by their scale")
        if self.drop.folder is not None:
            images = self._folder.images if self._folder is not None else 0
            count = f"{images:,} images" if images else "no images" if self._failure else "looking …"
            self.drop.label.setText(f"<b>{html.escape(self.drop.folder.name)}</b><br>{count}")
        self.changed.emit()

    def _sizes(self) -> list[float | None]:
        """µm per pixel of each image by its own scale; a folder of images says it of all at once."""
        if self.source == LAYERS:
            return [micrometers(layer) for layer in self.layers.checked()]
        if self.dataset is None:
            return [None]
        return [entry.mpp for entry in (self.dataset.entries if self._labeled else self.dataset.training)]

    # What the run asks.

    def problem(self) -> str:
        if self.source == LAYERS and not self.layers.checked():
            return "Check an image." if self.layers.count() else "Open an RGB image in napari and check it."
        if self.source == DATASET and self.dataset is None:
            return f"Open {'labeled ' if self._labeled else ''}images on the page Project, or choose a folder of them."
        if self.source == FOLDER:
            if self.drop.folder is None:
                return f"Choose a folder of {'labeled ' if self._labeled else ''}images."
            if self._failure or self._folder is None:
                return self._failure or "The folder is being looked at."
        if self.dataset is not None and not self._labeled and not self.dataset.training:
            return f"{self.dataset.name} has no training image; give some to the training split, on the page Project."
        if self.dataset is not None and self._labeled and not self.dataset.has_nuclei:
            return f"{self.dataset.name} has no labeled nuclei, which this network learns from."
        if self.mpp() is None:
            return "Enter how many µm one pixel is: 0.25 for most scans at 40×, 0.5 at 20×."
        return ""

    def mpp(self) -> tuple[float, float] | None:
        """Lowest and highest µm per pixel of the chosen images; None where it is not known of all."""
        sizes = [size or self.scale.value() for size in self._sizes()]
        return (min(sizes), max(sizes)) if sizes and all(sizes) else None

    def classes(self) -> Sequence[str]:
        """Names of the classes that are learned from."""
        return tuple(kind.name for kind in self.dataset.classes) if self.dataset is not None else ()

    def words(self) -> str:
        if self.source == LAYERS:
            return ui.many(len(self.layers.checked()), "open image")
        if self.dataset is not None:
            return self.dataset.name if self._labeled else f"the training split of {self.dataset.name}"
        return self.drop.folder.name if self.drop.folder is not None else ""

    def gather(self) -> Callable[[], Sequence[Source]]:
        """What reads the chosen images, in a worker's thread; layers may be deleted meanwhile."""
        if self.dataset is not None:
            scaled = (replace(entry, mpp=entry.mpp or self.scale.value()) for entry in self.dataset.entries)
            dataset, splits = replace(self.dataset, entries=tuple(scaled)), {"splits": self._session.splits}
            return lambda: [with_chosen_splits(dataset, splits)]
        if self.source == FOLDER:
            folders = [self.drop.folder]
            return lambda: folders
        held = [(layer.name, finest(layer)) for layer in self.layers.checked()]
        return lambda: [picture for name, data in held for picture in pixels_of(name, data)]


# The network.
