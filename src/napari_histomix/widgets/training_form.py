"""What a person chooses of a training run: network, start, time, and where the model goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QLabel, QLineEdit, QPushButton, QSpinBox, QWidget

from napari_histomix.records import Event, Job
from napari_histomix.weights import bundled
from napari_histomix.widgets.base import DEVICES
from napari_histomix.widgets.elements import form, narrow, row
from napari_histomix.widgets.jobs import JobRunner, prepare_torch
from napari_histomix.widgets.tissue import Source

NETWORKS = (("Inpainter", "inpainter"), ("Autoencoder", "autoencoder"), ("Latent diffusion", "latent"))
BUNDLED, MODEL, NOTHING = "bundled", "model", "nothing"
MINUTES = 20
NAME = "My tissue"


class FolderChoice(QWidget):
    """A folder's name and a button that asks for it."""

    changed = Signal()

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title
        self.folder: Path | None = None
        self.label = QLabel("none yet")
        self.button = QPushButton("Choose …")
        self.button.clicked.connect(self._ask)
        self.setLayout(row(self.label, self.button, stretch=0))

    def choose(self, folder: Path) -> None:
        """Take a folder."""
        self.folder = Path(folder)
        self.label.setText(self.fontMetrics().elidedText(self.folder.name, Qt.TextElideMode.ElideMiddle, 150))
        self.label.setToolTip(str(self.folder))
        self.changed.emit()

    def _ask(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, self._title)
        if folder:
            self.choose(Path(folder))


class TrainingForm(QWidget):
    """The form, and whether an unfinished run has the chosen name.

    Parameters
    ----------
    home : Path
        Folder in which the models' own folders are made.
    """

    changed = Signal()

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home
        self.found: dict[str, Any] | None = None
        """The run that ``out`` was the goal of and that can be resumed: step, minutes, saved."""
        self.network, self.start, self.device = QComboBox(), QComboBox(), QComboBox()
        for box in (self.network, self.start, self.device):
            narrow(box)
        for text, value in NETWORKS:
            self.network.addItem(text, value)
        self.network.setToolTip(
            "The inpainter paints pixels and is what synthesis needs.\n"
            "An autoencoder and a latent diffusion network in its latents do the same for larger windows."
        )
        for text, value in DEVICES:
            self.device.addItem(text, value)
        self.device.setToolTip("Where the network runs. Automatic takes a graphics card if there is one.")
        self.start_folder = FolderChoice("The folder of the model to begin with")
        self.autoencoder = FolderChoice("The folder of a trained autoencoder")
        self.minutes, self.seed = QSpinBox(), QSpinBox()
        self.minutes.setRange(1, 10_000)
        self.minutes.setValue(MINUTES)
        self.minutes.setSuffix(" min")
        self.minutes.setToolTip("How long to learn. More is better; you can stop early and keep the best so far.")
        self.seed.setRange(0, 2**31 - 1)
        self.seed.setToolTip("Decides what is held out and in which order is learned.")
        self.name = QLineEdit(NAME)
        self.name.setToolTip("The model's name; its folder is new and has this name too.")
        self.where = QPushButton("In …")
        self.where.clicked.connect(self._ask_home)
        self.details = form()
        for text, field in (
            ("Network", self.network),
            ("Autoencoder", self.autoencoder),
            ("Start", self.start),
            ("", self.start_folder),
            ("Time", self.minutes),
            ("Device", self.device),
            ("Seed", self.seed),
            ("Save as", row(self.name, self.where, stretch=0)),
        ):
            self.details.addRow(text, field)
        self.setLayout(self.details)
        self._looker = JobRunner(self)
        self._looker.finished.connect(self._on_found)
        self._looker.failed.connect(lambda _sentence: self._on_found((self.out, None)))
        self._looker.cancelled.connect(self.look)
        self.network.currentIndexChanged.connect(self._on_network)
        self.start.currentIndexChanged.connect(self._update)
        self.start_folder.changed.connect(self._update)
        self.autoencoder.changed.connect(self._update)
        self.name.textChanged.connect(self.look)
        self._propose()
        self._on_network()
        self.look()

    @property
    def kind(self) -> str:
        """inpainter, autoencoder or latent."""
        return str(self.network.currentData())

    @property
    def out(self) -> Path:
        """The model's folder."""
        return self.home / (self.name.text().strip() or NAME)

    @property
    def start_from(self) -> Path | None:
        """Folder of the model to fine-tune; None for a new network."""
        how = self.start.currentData()
        return bundled() if how == BUNDLED else self.start_folder.folder if how == MODEL else None

    @property
    def looking(self) -> bool:
        """Whether the chosen name is being looked up."""
        return self._looker.running

    def _on_network(self) -> None:
        self.start.blockSignals(True)
        self.start.clear()
        if self.kind == "inpainter":
            self.start.addItem("with the bundled weights", BUNDLED)
        else:
            self.start.addItem("from nothing", NOTHING)
        self.start.addItem("with a model of mine", MODEL)
        if self.kind == "inpainter":
            self.start.addItem("from nothing", NOTHING)
        self.start.blockSignals(False)
        self._update()

    def _update(self) -> None:
        for field, shown in (
            (self.autoencoder, self.kind == "latent"),
            (self.start_folder, self.start.currentData() == MODEL),
        ):
            field.setVisible(shown)
            label = self.details.labelForField(field)
            if label is not None:
                label.setVisible(shown)
        self.where.setText("In " + self.fontMetrics().elidedText(self.home.name, Qt.TextElideMode.ElideMiddle, 90))
        self.where.setToolTip(f"The model's folder:\n{self.out}\nPress to put it elsewhere.")
        self.changed.emit()

    # Where to.

    def _ask_home(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "The folder in which the model's folder is made")
        if folder:
            self.set_home(Path(folder))

    def set_home(self, folder: Path) -> None:
        """Make models in this folder."""
        self.home = Path(folder)
        self.look()

    def _propose(self) -> None:
        """A name that no finished model has; one that an unfinished run has is proposed, so that it is offered."""
        name, number = NAME, 2
        while (self.home / name).exists() and not _begun(self.home / name):
            name, number = f"{NAME} {number}", number + 1
        self.name.setText(name)

    def propose_after(self, out: Path) -> None:
        """Another name, after a run that has ended with this one."""
        if self.out == out:
            self._propose()
        self.look()

    def look(self) -> None:
        """Look for an unfinished run of the chosen name, in the background."""
        self.found = None
        if self._looker.running:
            self._looker.discard()
        elif _begun(self.out):
            self._looker.start(_unfinished_job(self.out), "looking for an unfinished run")
        self._update()

    def _on_found(self, found: tuple[Path, dict[str, Any] | None]) -> None:
        out, run = found
        if out == self.out:
            self.found = run
        self._update()

    def problem(self, resume: bool = False) -> str:
        """Why this cannot be run yet, or resumed; empty where it can."""
        if self.kind == "latent" and self.autoencoder.folder is None:
            return "Choose the folder of a trained autoencoder, which latent diffusion builds on."
        if self.start.currentData() == MODEL and self.start_folder.folder is None:
            return "Choose the folder of the model to begin with."
        name = self.name.text().strip()
        if not name or name in (".", "..") or any(one in '/\\:*?"<>|' for one in name):
            return "Give the model a name that can be a folder's."
        if resume:
            return ""
        if self.looking:
            return "The name is being looked up."
        if self.found is not None:
            return "A run of this name is unfinished: resume it, or give another name."
        if self.out.exists() or _begun(self.out):
            return f"There is a folder {self.out.name} already; give the model another name."
        return ""


def _begun(out: Path) -> bool:
    # Where diffusion.training keeps a run's state; asking there would load torch in the window's own thread.
    return out.with_name(out.name + ".training").exists()


def _unfinished_job(out: Path) -> Any:
    def job() -> Job[tuple[Path, dict[str, Any] | None]]:
        prepare_torch()
        yield Event("Looking")
        from napari_histomix.diffusion.training import unfinished

        return out, unfinished(out)

    return job


def run_words(found: dict[str, Any]) -> str:
    """An unfinished run in words: its date in local time, and its step."""
    saved = datetime.fromisoformat(str(found["saved"])).astimezone()
    return f"run of {saved.day} {saved:%b %Y, %H:%M}, step {int(found['step']):,}"


def training_job(kind: str, gather: Callable[[], Sequence[Source]], out: Path, **how: Any) -> Callable[[], Job[Path]]:
    """Train as the dock asks; ``how`` has minutes and seed, and the keywords of ``diffusion.training.train``."""
    minutes, seed = how.pop("minutes"), how.pop("seed")

    def job() -> Job[Path]:
        prepare_torch()
        yield Event("Preparing")
        from napari_histomix.diffusion.training import DEFAULTS, train

        # Whoever watches wants a first sample soon; a checkpoint costs seconds.
        save_minutes = min(max(minutes / 10, 0.5), 2.0)
        settings = replace(DEFAULTS[kind], minutes=minutes, seed=seed, save_minutes=save_minutes)  # type: ignore[index]
        return (yield from train(kind, gather(), out, settings=settings, **how))  # type: ignore[arg-type]

    return job


def read_history(out: Path | None) -> dict[str, Any] | None:
    """The card of a trained model with its ``history`` and ``best``; None where there is none."""
    if out is None:
        return None
    try:
        card = json.loads((out / "histomix.json").read_text(encoding="utf-8"))
        return card if {"history", "best"} <= card.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def first_rows(sheet: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """The rows of a contact sheet of square windows that fit into three quarters of its width, at least one."""
    side = sheet.shape[1] // columns
    rows = max(int(0.75 * sheet.shape[1]) // side, 1)
    return sheet[: rows * side]
