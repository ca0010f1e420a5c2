"""What a new segment pool is made of, besides prompter and settings."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_histomix.datasets import Dataset
from napari_histomix.widgets.base import SPACE, form, hint, narrow, row
from napari_histomix.widgets.segments.form import ENCODERS, WEIGHTS, add_row, show_row


class BuildForm(QWidget):
    """A folder that was looked into: its scale, encoder, and where it goes."""

    changed = Signal()

    def __init__(self, home: Path) -> None:
        super().__init__()
        from napari_histomix.methods.usegmix import PoolSettings

        defaults: dict[str, Any] = {one.name: one.default for one in fields(PoolSettings)}
        self.home = home
        self.dataset: Dataset | None = None
        self.summary = QLabel()
        self.summary.setWordWrap(True)
        self.scale = QDoubleSpinBox()
        self.scale.setDecimals(4)
        self.scale.setRange(0.0, 10.0)
        self.scale.setSingleStep(0.05)
        self.scale.setSpecialValueText("? µm/px")
        self.scale.setSuffix(" µm/px")
        self.encoder = QComboBox()
        for text, value in ENCODERS:
            self.encoder.addItem(text, value)
        self.encoder.setCurrentIndex(self.encoder.findData(defaults["encoder"]))
        narrow(self.encoder)
        self.detail = QLineEdit()
        self.browse = QPushButton("…")
        self.browse.setToolTip("Choose the weights file.")
        self.browse.setAccessibleName("Choose the weights file")
        self.browse.clicked.connect(self._ask_weights)
        self.weights = QWidget()
        self.weights.setLayout(row(self.detail, self.browse, stretch=0))
        self.components = QSpinBox()
        self.components.setRange(2, 2_048)
        self.components.setValue(defaults["components"])
        self.name = QLineEdit()
        self.where = QPushButton("In …")
        self.where.clicked.connect(self._ask_home)
        place = QWidget()
        place.setLayout(row(self.name, self.where, stretch=0))
        self.lines = form()
        for text, field, tip in (
            ("One pixel is", self.scale, "How many micrometers: 0.25 for most scans at 40×, 0.5 at 20×."),
            ("Encoder", self.encoder, "How segments are compared. Texture needs no weights and no internet."),
            ("Network", self.weights, "The weights file of CTransPath, or the name of a timm model."),
            ("Components", self.components, "Principal components kept of a segment, the paper's p."),
            ("Save as", place, "The study's name; its folder is new and has this name too."),
        ):
            add_row(self.lines, text, field, tip)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        column.addWidget(self.summary)
        column.addLayout(self.lines)
        column.addWidget(hint("Prompter and Details are those above."))
        for signal in (
            self.scale.valueChanged,
            self.encoder.currentIndexChanged,
            self.detail.textChanged,
            self.name.textChanged,
        ):
            signal.connect(self._update)

    def take(self, dataset: Dataset) -> None:
        """Propose to build a pool of a folder that was looked into."""
        self.say(dataset)
        self.scale.setValue(0.0)
        self._propose()

    def say(self, dataset: Dataset) -> None:
        """Say what a pool would be built of."""
        self.dataset = dataset
        images, kinds = len(dataset.training), len(dataset.kinds)
        some = f"{images:,} training image{'' if images == 1 else 's'} · {kinds} class{'' if kinds == 1 else 'es'}"
        self.summary.setText(f"<b>{dataset.name}</b><br>{some}")
        self._update()

    def _propose(self) -> None:
        """A name that no folder has yet."""
        assert self.dataset is not None
        plain = "".join(one if one.isalnum() or one in " -_." else "-" for one in self.dataset.name)
        plain = plain.strip(" .") or "study"
        name, number = plain, 2
        while (self.home / name).exists():
            name, number = f"{plain} {number}", number + 1
        self.name.setText(name)
        self._update()

    def _ask_weights(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "CTransPath weights", "", WEIGHTS)
        if name:
            self.detail.setText(name)

    def _ask_home(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "The folder in which the study's folder is made")
        if folder:
            self.home = Path(folder)
            self._propose()

    def _update(self) -> None:
        encoder = self.encoder.currentData()
        show_row(self.lines, self.scale, self.dataset is not None and bool(self.dataset.missing_scale))
        show_row(self.lines, self.weights, encoder != "texture")
        self.browse.setVisible(encoder == "ctranspath:")
        self.detail.setPlaceholderText("weights file" if encoder == "ctranspath:" else "name, for example resnet18")
        self.where.setText("In " + self.fontMetrics().elidedText(self.home.name, Qt.TextElideMode.ElideMiddle, 90))
        self.where.setToolTip(f"The study's folder:\n{self.folder}\nPress to put it elsewhere.")
        self.changed.emit()

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.home / self.name.text().strip()

    @property
    def mpp(self) -> float | None:
        """The scale that was entered; None where the images say theirs."""
        return (self.scale.value() or None) if self.dataset is not None and self.dataset.missing_scale else None

    @property
    def encoder_spec(self) -> str:
        """See ``features.open_encoder``."""
        spec = str(self.encoder.currentData())
        return spec if spec == "texture" else spec + self.detail.text().strip()

    def problem(self) -> str:
        """Why no pool can be built yet; empty where it can."""
        if self.dataset is None:
            return "Choose a folder of tissue images."
        if self.dataset.missing_scale and self.mpp is None:
            return "Enter how many µm one pixel is: 0.25 for most scans at 40×, 0.5 at 20×."
        if self.encoder.currentData() != "texture" and not self.detail.text().strip():
            return "Choose what the encoder needs, or texture, which needs nothing."
        name = self.name.text().strip()
        if not name or name in (".", "..") or any(one in '/\\:*?"<>|' for one in name):
            return "Give the study a name that can be a folder's."
        return f"There is a folder {name} already; give the study another name." if self.folder.exists() else ""
