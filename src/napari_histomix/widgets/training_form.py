"""What a person chooses of a training run beside its images: the network, its start and its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from napari_histomix.records import Event, Job
from napari_histomix.settings import DEVICES
from napari_histomix.training import BUNDLED_SIZE, KINDS, bundled_start, settings_class, state_folder, unfinished
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.forms import SettingsForm
from napari_histomix.widgets.loading_ahead import prepare_torch
from napari_histomix.widgets.training_sources import LABEL_WIDTH, FolderChoice, Source, shortened

BUNDLED, MODEL, NOTHING = "bundled", "model", "nothing"
STARTS = {BUNDLED: "with the bundled weights", MODEL: "with a model of mine", NOTHING: "from nothing"}
NAME = "My tissue"


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
        self._proposed = ""
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
            ("Autoencoder", self.autoencoder),
            ("Start", self.start),
            ("", self.start_folder),
            ("Device", self.device),
            ("Save as", ui.row(self.name, self.where, stretch=0)),
            label_width=LABEL_WIDTH,
        )
        # In a row of a form, Qt keeps the height that another text had.
        network = ui.form(("Network", self.network), label_width=LABEL_WIDTH)
        self.setLayout(ui.column(network, self.what, self.details, space=ui.SPACE - 2))
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
        if self.name.text() == self._proposed:
            self._propose()
        self._update()

    def _update(self) -> None:
        self.details.setRowVisible(self.autoencoder, self.kind == "latent")
        self.details.setRowVisible(self.start_folder, self.start.currentData() == MODEL)
        self.where.setText(f"In {shortened(self, self.home, 90)}")
        self.where.setToolTip(f"The model's folder:\n{self.out}\nPress to put it elsewhere.")
        self.changed.emit()

    # Where to.

    def _choose_home(self, folder: Path) -> None:
        self.home = folder
        self.look()

    def _propose(self) -> None:
        """A name that nothing has; or that of an unfinished run of this network, so that it is offered."""
        name, number = NAME, 2
        while self._taken(self.home / name):
            name, number = f"{NAME} {number}", number + 1
        self._proposed = name
        self.name.setText(name)

    def _taken(self, out: Path) -> bool:
        run = unfinished(out)
        return run["kind"] != self.kind if run else out.exists() or state_folder(out).exists()

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
        size = self.settings.fields.get("size")
        if self.start.currentData() == BUNDLED and size is not None and size.value != BUNDLED_SIZE and not resume:
            return "The bundled network is a small one: choose that size, or begin from nothing."
        name = self.name.text().strip()
        if not name or name in (".", "..") or any(character in '/\\:*?"<>|' for character in name):
            return "Give the model a name that can be a folder's."
        if self.unfinished is not None and self.unfinished["kind"] != self.kind:
            return "An unfinished run of this name trains another network: choose that, or give another name."
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
