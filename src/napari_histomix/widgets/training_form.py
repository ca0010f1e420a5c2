"""What a person chooses of a training run: images and their scale, the network, its start and its name."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
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
from napari_histomix.settings import DEVICES
from napari_histomix.training import KINDS, bundled_start, settings_class, state_folder, unfinished
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.forms import SettingsForm
from napari_histomix.widgets.jobs import JobRunner, prepare_torch
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer_layers import LayerFollower, about, finest, micrometers, pixels_of

FOLDER, LAYERS, DATASET = "folder", "layers", "dataset"
LOOKED_AT = 5
"""Images of a folder whose metadata is asked for the scale."""
SOURCES = {
    False: (("a folder of images", FOLDER), ("the images open in napari", LAYERS)),
    True: (("the images in the Data step", DATASET), ("a folder of labeled images", FOLDER)),
}
"""What can be learned from, for networks that need no labels and for those that do."""
BUNDLED, MODEL, NOTHING = "bundled", "model", "nothing"
STARTS = {BUNDLED: "with the bundled weights", MODEL: "with a model of mine", NOTHING: "from nothing"}
NAME = "My tissue"
LABEL_WIDTH = 92
"""Pixels for the labels of both forms."""

Source = Path | Dataset | tuple[str, NDArray[np.uint8]]


class FolderChoice(QFrame):
    """A folder: asked for with a button, or dropped here."""

    chosen = Signal(object)

    def __init__(self, title: str, words: str = "none yet", tip: str = "") -> None:
        super().__init__()
        self.folder: Path | None = None
        self.setAcceptDrops(True)
        self.label = ui.label(words)
        self.setLayout(ui.row(self.label, ui.asking_button("Choose …", tip, title, self.choose), stretch=0))

    def choose(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.label.setText(_short(self, self.folder, 150))
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


def _short(widget: QWidget, folder: Path, width: int) -> str:
    return widget.fontMetrics().elidedText(folder.name, Qt.TextElideMode.ElideMiddle, width)


# The images.


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
        for signal in (self.layers.changed, self.scale.valueChanged, session.dataset_changed, session.splits_changed):
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
        """The labeled dataset that is learned from; None where there is none, or no labels are needed."""
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
        if self.drop.folder is None:
            self.kind.setCurrentIndex(int(not self._labeled and bool(self.layers.checked())))

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
        return [entry.mpp for entry in self.dataset.entries] if self.dataset is not None else [None]

    # What the run asks.

    def problem(self) -> str:
        if self.source == LAYERS and not self.layers.checked():
            return "Check an image." if self.layers.count() else "Open an RGB image in napari and check it."
        if self.source == DATASET and self.dataset is None:
            return "Open labeled images in the Data step, or choose a folder of them."
        if self.source == FOLDER:
            if self.drop.folder is None:
                return f"Choose a folder of {'labeled ' if self._labeled else ''}images."
            if self._failure or self._folder is None:
                return self._failure or "The folder is being looked at."
        if self.dataset is not None and not self.dataset.has_nuclei:
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
            return self.dataset.name
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


class TrainingForm(QWidget):
    """The network, its start, its name and its settings, and whether an unfinished run has the chosen name.

    Models' own folders are made in ``home``.
    """

    changed = Signal()

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home
        self._classes: Sequence[str] = ()
        self._forms: dict[str, SettingsForm] = {}
        self.unfinished: dict[str, Any] | None = None
        """The run that ``out`` was the goal of and that can be resumed: step, minutes, saved."""
        tip = "Which network is trained; below it says what it is for."
        self.network = ui.choice(((kind.capitalize(), kind) for kind in KINDS), tip, self._on_network)
        self.what = ui.hint("")
        self.autoencoder = FolderChoice("The folder of a trained autoencoder")
        tip = "What the network can do before it learns: from nothing, it needs more images and hours."
        self.start = ui.choice(tip=tip, changed=self._update)
        self.start_folder = FolderChoice("The folder of the model to begin with")
        tip = "Where the network runs. Automatic takes a graphics card if there is one."
        self.device = ui.choice(((title, device) for device, title in DEVICES.items()), tip)
        self.name = ui.line(tip="The model's name; its folder is new and has this name too.")
        title = "The folder in which the model's folder is made"
        self.where = ui.asking_button("In …", "", title, self._choose_home)
        self.details = ui.form(
            ("Network", self.network),
            ("", self.what),
            ("Autoencoder", self.autoencoder),
            ("Start", self.start),
            ("", self.start_folder),
            ("Device", self.device),
            ("Save as", ui.row(self.name, self.where, stretch=0)),
            label_width=LABEL_WIDTH,
        )
        self.setLayout(ui.column(self.details, space=ui.SPACE - 2))
        self.start_folder.chosen.connect(lambda _folder: self._update())
        self.autoencoder.chosen.connect(lambda _folder: self._update())
        self._propose()
        self.name.textChanged.connect(self.look)
        self._on_network()
        self.look()

    @property
    def kind(self) -> str:
        return str(self.network.currentData())

    @property
    def settings(self) -> SettingsForm:
        """The form of the chosen network's settings."""
        if self.kind not in self._forms:
            form = SettingsForm(settings_class(self.kind), choices=lambda _kind: self._classes)
            for label in form.labels.values():
                label.setMinimumWidth(LABEL_WIDTH)
            form.changed.connect(self.changed)
            self._forms[self.kind] = form
            self.layout().addWidget(form)
        return self._forms[self.kind]

    def offer_classes(self, names: Sequence[str]) -> None:
        """Offer the classes that are learned from."""
        if names != self._classes:
            self._classes = names
            for form in self._forms.values():
                form.refresh()

    @property
    def out(self) -> Path:
        return self.home / (self.name.text().strip() or NAME)

    def options(self) -> dict[str, Any]:
        """What ``training.loop.train`` is asked; a ``HistomixError`` where a setting cannot be."""
        start = self.start.currentData()
        return {
            "settings": self.settings.value(settings_class(self.kind)),
            "start": bundled_start(self.kind)
            if start == BUNDLED
            else self.start_folder.folder
            if start == MODEL
            else None,
            "autoencoder": self.autoencoder.folder if self.kind == "latent" else None,
            "device": self.device.currentData(),
        }

    def _on_network(self) -> None:
        starts = (BUNDLED, MODEL, NOTHING) if bundled_start(self.kind) else (NOTHING, MODEL)
        self.start.clear()
        ui.offer(self.start, [(STARTS[start], start) for start in starts])
        self.what.setText(KINDS[self.kind])
        chosen = self.settings
        for form in self._forms.values():
            form.setVisible(form is chosen)
        self._update()

    def _update(self) -> None:
        self.details.setRowVisible(self.autoencoder, self.kind == "latent")
        self.details.setRowVisible(self.start_folder, self.start.currentData() == MODEL)
        self.where.setText(f"In {_short(self, self.home, 90)}")
        self.where.setToolTip(f"The model's folder:\n{self.out}\nPress to put it elsewhere.")
        self.changed.emit()

    # Where to.

    def _choose_home(self, folder: Path) -> None:
        self.home = folder
        self.look()

    def _propose(self) -> None:
        """A name that no finished model has; one that an unfinished run has is proposed, so that it is offered."""
        name, number = NAME, 2
        while (self.home / name).exists() and not state_folder(self.home / name).exists():
            name, number = f"{NAME} {number}", number + 1
        self.name.setText(name)

    def propose_after(self, out: Path) -> None:
        if self.out == out:
            self._propose()
        self.look()

    def look(self) -> None:
        self.unfinished = unfinished(self.out)
        self._update()

    def problem(self, resume: bool = False) -> str:
        """Why this cannot be run yet, or resumed; empty where it can."""
        if self.kind == "latent" and self.autoencoder.folder is None:
            return "Choose the folder of a trained autoencoder, which latent diffusion builds on."
        if self.start.currentData() == MODEL and self.start_folder.folder is None:
            return "Choose the folder of the model to begin with."
        name = self.name.text().strip()
        if not name or name in (".", "..") or any(character in '/\\:*?"<>|' for character in name):
            return "Give the model a name that can be a folder's."
        if self.unfinished is not None:
            return "" if resume else "A run of this name is unfinished: resume it, or give another name."
        if self.out.exists() or state_folder(self.out).exists():
            return f"There is a folder {self.out.name} already; give the model another name."
        return ""


def run_words(run: dict[str, Any]) -> str:
    """An unfinished run in words: its date in local time, and its step."""
    saved = datetime.fromisoformat(str(run["saved"])).astimezone()
    return f"run of {saved.day} {saved:%b %Y, %H:%M}, step {int(run['step']):,}"


def training_job(kind: str, gather: Callable[[], Sequence[Source]], out: Path, **options: Any) -> Job[Path]:
    """Train as the dock asks; ``options`` are those of ``training.loop.train``."""
    prepare_torch()
    yield Event("Preparing")
    from napari_histomix.training.loop import train

    return (yield from train(kind, gather(), out, **options))


def read_history(out: Path | None) -> dict[str, Any] | None:
    """The card of a trained model with its ``history`` and ``best``; None where there is none."""
    if out is None:
        return None
    try:
        card = json.loads((out / "histomix.json").read_text(encoding="utf-8"))
        return card if {"history", "best"} <= card.keys() else None
    except (OSError, ValueError, AttributeError):
        return None
