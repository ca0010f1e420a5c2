"""What a person chooses of a training run: network, start, time, and where the model goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QLineEdit, QWidget

from napari_histomix.records import Event, Job
from napari_histomix.settings import DEVICES
from napari_histomix.weights import bundled
from napari_histomix.widgets.elements import ask_folder, button, choice, form, label, number, row, show_line
from napari_histomix.widgets.jobs import JobRunner, prepare_torch
from napari_histomix.widgets.training_source import Source

NETWORKS = (("Inpainter", "inpainter"), ("Autoencoder", "autoencoder"), ("Latent diffusion", "latent"))
BUNDLED, MODEL, NOTHING = "bundled", "model", "nothing"
STARTS = {BUNDLED: "with the bundled weights", MODEL: "with a model of mine", NOTHING: "from nothing"}
MINUTES = 20
NAME = "My tissue"


class FolderChoice(QWidget):
    """A folder's name and a button that asks for it."""

    changed = Signal()

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title
        self.folder: Path | None = None
        self.label = label("none yet", wrap=False)
        self.setLayout(row(self.label, button("Choose …", pressed=self._ask), stretch=0))

    def choose(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.label.setText(self.fontMetrics().elidedText(self.folder.name, Qt.TextElideMode.ElideMiddle, 150))
        self.label.setToolTip(str(self.folder))
        self.changed.emit()

    def _ask(self) -> None:
        if folder := ask_folder(self, self._title):
            self.choose(folder)


class TrainingForm(QWidget):
    """The form, and whether an unfinished run has the chosen name; models' own folders are made in ``home``."""

    changed = Signal()

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home
        self.unfinished: dict[str, Any] | None = None
        """The run that ``out`` was the goal of and that can be resumed: step, minutes, saved."""
        self.network = choice(
            NETWORKS,
            "The inpainter paints pixels and is what synthesis needs.\n"
            "An autoencoder and a latent diffusion network in its latents do the same for larger windows.",
            self._on_network,
        )
        self.autoencoder = FolderChoice("The folder of a trained autoencoder")
        self.start = choice(changed=self._update)
        self.start_folder = FolderChoice("The folder of the model to begin with")
        tip = "How long to learn. More is better; you can stop early and keep the best so far."
        self.minutes = number(1, 10_000, MINUTES, suffix=" min", tip=tip)
        tip = "Where the network runs. Automatic takes a graphics card if there is one."
        self.device = choice(((title, device) for device, title in DEVICES.items()), tip)
        self.seed = number(0, 2**31 - 1, 0, tip="Decides what is held out and in which order is learned.")
        self.name = QLineEdit(NAME)
        self.name.setToolTip("The model's name; its folder is new and has this name too.")
        self.where = button("In …", pressed=self._ask_home)
        self.details = form(
            ("Network", self.network),
            ("Autoencoder", self.autoencoder),
            ("Start", self.start),
            ("", self.start_folder),
            ("Time", self.minutes),
            ("Device", self.device),
            ("Seed", self.seed),
            ("Save as", row(self.name, self.where, stretch=0)),
        )
        self.setLayout(self.details)
        self._runner = JobRunner(self)
        self._runner.finished.connect(self._on_unfinished)
        self._runner.failed.connect(lambda _sentence: self._update())
        self._runner.cancelled.connect(self._update)
        self.start_folder.changed.connect(self._update)
        self.autoencoder.changed.connect(self._update)
        self._propose()
        self.name.textChanged.connect(self.look)
        self._on_network()
        self.look()

    @property
    def kind(self) -> str:
        return str(self.network.currentData())

    @property
    def out(self) -> Path:
        return self.home / (self.name.text().strip() or NAME)

    @property
    def start_from(self) -> Path | None:
        """Folder of the model to fine-tune; None for a new network."""
        start = self.start.currentData()
        return bundled() if start == BUNDLED else self.start_folder.folder if start == MODEL else None

    @property
    def looking(self) -> bool:
        return self._runner.busy

    def _on_network(self) -> None:
        with QSignalBlocker(self.start):
            self.start.clear()
            for start in (BUNDLED, MODEL, NOTHING) if self.kind == "inpainter" else (NOTHING, MODEL):
                self.start.addItem(STARTS[start], start)
        self._update()

    def _update(self) -> None:
        show_line(self.details, self.autoencoder, self.kind == "latent")
        show_line(self.details, self.start_folder, self.start.currentData() == MODEL)
        self.where.setText("In " + self.fontMetrics().elidedText(self.home.name, Qt.TextElideMode.ElideMiddle, 90))
        self.where.setToolTip(f"The model's folder:\n{self.out}\nPress to put it elsewhere.")
        self.changed.emit()

    # Where to.

    def _ask_home(self) -> None:
        if folder := ask_folder(self, "The folder in which the model's folder is made"):
            self.home = folder
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
        self.unfinished = None
        if _begun(self.out):
            self._runner.replace(_unfinished_job(self.out), "looking for an unfinished run")
        else:
            self._runner.discard()
        self._update()

    def _on_unfinished(self, run: dict[str, Any] | None) -> None:
        self.unfinished = run
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
        if resume:
            return ""
        if self.looking:
            return "The name is being looked up."
        if self.unfinished is not None:
            return "A run of this name is unfinished: resume it, or give another name."
        if self.out.exists() or _begun(self.out):
            return f"There is a folder {self.out.name} already; give the model another name."
        return ""


def _begun(out: Path) -> bool:
    # Where diffusion.training keeps a run's state; asking there would load torch in the window's own thread.
    return out.with_name(out.name + ".training").exists()


def _unfinished_job(out: Path) -> Callable[[], Job[dict[str, Any] | None]]:
    def job() -> Job[dict[str, Any] | None]:
        prepare_torch()
        yield Event("Looking")
        from napari_histomix.diffusion.training import unfinished

        return unfinished(out)

    return job


def run_words(run: dict[str, Any]) -> str:
    """An unfinished run in words: its date in local time, and its step."""
    saved = datetime.fromisoformat(str(run["saved"])).astimezone()
    return f"run of {saved.day} {saved:%b %Y, %H:%M}, step {int(run['step']):,}"


def training_job(
    kind: str, gather: Callable[[], Sequence[Source]], out: Path, minutes: float, seed: int, **options: Any
) -> Callable[[], Job[Path]]:
    """Train as the dock asks; ``options`` are those of ``diffusion.training.train``."""

    def job() -> Job[Path]:
        prepare_torch()
        yield Event("Preparing")
        from napari_histomix.diffusion.training import DEFAULTS, train

        # Whoever watches wants a first sample soon; a checkpoint costs seconds.
        save_minutes = min(max(minutes / 10, 0.5), 2.0)
        settings = replace(DEFAULTS[kind], minutes=minutes, seed=seed, save_minutes=save_minutes)  # type: ignore[index]
        return (yield from train(kind, gather(), out, settings=settings, **options))  # type: ignore[arg-type]

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
