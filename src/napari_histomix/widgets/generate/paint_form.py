"""How a person wants nuclei painted: network, steps, stain, seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from napari.layers import Image
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from napari_histomix.datasets.entries import named_classes
from napari_histomix.generation.presets import DEFAULT, TITLES
from napari_histomix.records import NucleusClass
from napari_histomix.settings import DEVICES
from napari_histomix.weights import bundled_model
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.generate.making import PaintOptions
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.session_form import NetworkChoice, training_button
from napari_histomix.widgets.viewer_layers import LayerChoice, unusable

KINDS = (("Diffusion", "image"), ("Edge pix2pix", "pix2pix"))
HIGHEST_SEED = 2**31 - 1


class PaintForm(QWidget):
    """The choice of a network and of how it paints."""

    changed = Signal()

    def __init__(self, viewer: Any, session: Session) -> None:
        super().__init__()
        self.kind = ui.choice(KINDS, "Diffusion is finer, edge pix2pix faster.", self._on_kind, name="Network")
        self.model = NetworkChoice(session, "image")
        titles = ((title, name) for name, title in TITLES.items())
        self.preset = ui.choice(titles, "More steps, finer pictures.", name="Steps")
        self.preset.setCurrentIndex(self.preset.findData(DEFAULT))
        tip = "How strictly the labels are followed (classifier-free guidance); it takes more time."
        self.guidance = ui.number(-0.5, 20, -0.5, step=0.5, decimals=1, special="as the preset", tip=tip)
        self.stain = LayerChoice(viewer, Image, unusable, absent="as the network likes")
        self.seed = ui.number(0, HIGHEST_SEED, 0, tip="Another seed, another picture; the same seed, the same picture.")
        self.device = ui.choice(
            ((title, device) for device, title in DEVICES.items()),
            "Where the network runs. Automatic takes a graphics card if there is one.",
        )
        self.usual = ui.form(
            ("Network", self.kind),
            ("", training_button(session, lambda: self._kind)),
            ("Steps", self.preset),
            ("Stain of", self.stain, "The open image whose stain is followed."),
            ("Seed", self.seed),
        )
        self.rare = ui.form(
            ("Weights", self.model.native, "The bundled network, or one that you trained: its folder."),
            ("Guidance", self.guidance),
            ("Device", self.device),
        )
        advanced = ui.Section("Advanced", "Settings that are rarely changed.", False)
        advanced.body.addLayout(self.rare)
        self.setLayout(ui.column(self.usual, advanced, space=ui.SPACE - 2))
        session.model_changed.connect(self._on_model)

    def _on_kind(self) -> None:
        self.usual.setRowVisible(self.preset, self._kind == "image")
        self.rare.setRowVisible(self.guidance, self._kind == "image")
        # Weights of one kind are none of another.
        self.model.kind = self._kind
        self._on_model()

    def _on_model(self) -> None:
        self.model.follow()
        self.changed.emit()

    @property
    def _kind(self) -> str:
        return str(self.kind.currentData())

    def ask_stain(self, asked: bool) -> None:
        """Whether there is a stain to choose: a nucleus in a real image has that of the image."""
        self.usual.setRowVisible(self.stain, asked)

    def options(self) -> PaintOptions:
        """What was chosen, but for the stain."""
        guidance = float(self.guidance.value())
        return PaintOptions(
            self._kind,
            str(self.model.value),
            str(self.preset.currentData()),
            None if guidance < 0 else guidance,
            int(self.seed.value()),
            str(self.device.currentData()),
        )

    def classes(self) -> tuple[NucleusClass, ...]:
        """The classes that the chosen network knows, by its card; none where it has none."""
        folder = Path(self.model.value).expanduser() if self.model.value else bundled_model(f"he-{self._kind}")
        try:
            return named_classes(*json.loads((folder / "histomix.json").read_text(encoding="utf-8"))["classes"])
        except (OSError, ValueError, KeyError, TypeError):
            # What is wrong with the folder is said when it is opened.
            return ()
