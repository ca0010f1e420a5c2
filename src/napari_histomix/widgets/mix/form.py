"""How donors are drawn and blended: the form of ``MixSettings``, which is the home of all defaults."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QLabel, QSpinBox, QWidget

from napari_histomix.methods.usegmix import MixSettings
from napari_histomix.widgets.base import DEVICES, form, narrow, row
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.synthesize_panel import SAMPLERS

LABELS = 96
"""Pixels for the labels of both forms."""


class MixForm(QWidget):
    """What holds for one target and for many images alike.

    Parameters
    ----------
    session : Session
        Says which network paints.
    """

    drawing_changed = Signal()
    """Other donors may be likely now, or look different."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        defaults = MixSettings()
        self.temperature = QDoubleSpinBox()
        self.temperature.setRange(0, 1000)
        self.temperature.setDecimals(2)
        self.temperature.setSingleStep(0.25)
        self.temperature.setSpecialValueText("automatic")
        self.temperature.setValue(defaults.temperature or 0)
        self.temperature.setToolTip(
            "How strict the draw is: low values take only the most similar segments, high ones any of the class.\n"
            "Automatic takes the median distance between the segments; 1 is the paper's."
        )
        self.low, self.high = QDoubleSpinBox(), QDoubleSpinBox()
        for box, value, what in (
            (self.low, defaults.area_ratio[0], "small"),
            (self.high, defaults.area_ratio[1], "large"),
        ):
            box.setRange(0.05, 20)
            box.setSingleStep(0.1)
            box.setSuffix(" ×")
            box.setValue(value)
            box.setToolTip(f"How {what} a donor may be, compared with the segment it replaces (area in µm²).")
        self.own_patient = QCheckBox("Donors of the same patient too")
        self.own_patient.setChecked(defaults.own_patient)
        self.own_patient.setToolTip(
            "Off, a donor comes from another patient, or from another image where patients are not known."
        )
        self.stain = QCheckBox("Match each donor's stain to the target")
        self.stain.setChecked(defaults.stain_matching)
        self.stain.setToolTip("Off, donors keep their own colors.")
        self.sampler, self.device, self.network = QComboBox(), QComboBox(), QComboBox()
        for box, choices, value in (
            (self.sampler, SAMPLERS, defaults.sampler),
            (self.device, DEVICES, defaults.device),
        ):
            narrow(box)
            for text, data in choices:
                box.addItem(text, data)
            box.setCurrentIndex(box.findData(value))
        self.sampler.setToolTip(
            "How carefully the seams are painted. Quality takes several times as long as fast, the paper's a hundred."
        )
        self.device.setToolTip("Where the network runs. Automatic takes a graphics card if there is one.")
        narrow(self.network)
        self.network.addItem("the bundled one", None)
        self.network.setToolTip("The network that paints. Train one on your own tissue with HistoMix: Train.")
        self.network.activated.connect(lambda _index: session.use_model(self.network.currentData()))
        self.seed = QSpinBox()
        self.seed.setRange(0, 2**31 - 1)
        self.seed.setValue(defaults.seed)
        self.seed.setToolTip("The same seed and settings give the same images, pixel for pixel.")
        layout = form()
        layout.addRow("Temperature", self.temperature)
        layout.addRow("Donor size", pair(self.low, self.high))
        layout.addRow("", self.own_patient)
        layout.addRow("", self.stain)
        layout.addRow("Quality", self.sampler)
        layout.addRow("Network", self.network)
        layout.addRow("Device", self.device)
        layout.addRow("Seed", self.seed)
        align(layout)
        self.setLayout(layout)
        self.low.valueChanged.connect(lambda value: self.high.setMinimum(value))
        self.high.valueChanged.connect(lambda value: self.low.setMaximum(value))
        self.high.setMinimum(self.low.value())
        self.low.setMaximum(self.high.value())
        for signal in (
            self.temperature.valueChanged,
            self.low.valueChanged,
            self.high.valueChanged,
            self.own_patient.toggled,
            self.stain.toggled,
            self.seed.valueChanged,
        ):
            signal.connect(lambda _value: self.drawing_changed.emit())
        session.model_changed.connect(self._on_model)
        self._on_model()

    def settings(self, per_class: int | None = None, new_area: tuple[float, float] | None = None) -> MixSettings:
        """What the form says; how many images and how much of them is a batch's own."""
        defaults = MixSettings()
        return MixSettings(
            per_class=per_class or defaults.per_class,
            new_area=new_area or defaults.new_area,
            temperature=self.temperature.value() or None,
            area_ratio=(self.low.value(), self.high.value()),
            own_patient=self.own_patient.isChecked(),
            stain_matching=self.stain.isChecked(),
            sampler=self.sampler.currentData(),
            device=self.device.currentData(),
            seed=self.seed.value(),
        )

    @property
    def model_folder(self) -> Path | None:
        """The folder of the network that paints; None for the bundled one."""
        return self.session.model_folder

    def words(self) -> str:
        """The settings in a few words."""
        patient = "any patient" if self.own_patient.isChecked() else "other patients"
        return f"{self.sampler.currentText().partition(' (')[0].lower()} · {patient} · seed {self.seed.value()}"

    def _on_model(self) -> None:
        folder = self.session.model_folder
        if folder is not None and self.network.findData(str(folder)) < 0:
            self.network.addItem(folder.name, str(folder))
            self.network.setItemData(self.network.count() - 1, folder.name, Qt.ItemDataRole.ToolTipRole)
        self.network.setCurrentIndex(self.network.findData(str(folder)) if folder is not None else 0)


def pair(low: QWidget, high: QWidget) -> QWidget:
    """Two fields for a range."""
    both = QWidget()
    line = row(low, QLabel("to"), high)
    line.setStretch(0, 1)
    line.setStretch(2, 1)
    both.setLayout(line)
    return both


def align(layout: QFormLayout) -> None:
    """Give the labels of a form the width that those of the other form have."""
    for line in range(layout.rowCount()):
        item = layout.itemAt(line, QFormLayout.ItemRole.LabelRole)
        if item is not None and item.widget() is not None:
            item.widget().setMinimumWidth(LABELS)
