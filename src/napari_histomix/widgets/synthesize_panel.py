"""Step 3: place donors on the chosen candidates, with a live look at what is being denoised."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QComboBox, QLabel, QSpinBox, QWidget

from napari_histomix.records import Event
from napari_histomix.widgets.base import DEVICES, CropView, Note, Panel, RunBar, form, narrow
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.tables import DROP, KEEP

SAMPLERS = (("Fast", "fast"), ("Quality (more steps)", "quality"), ("As in the paper (250 steps)", "paper"))


class SynthesizePanel(Panel):
    """Settings, the run with its preview, and what was refused and why."""

    model: Any = None
    """A loaded inpainting model to use instead of the session's."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self._messages: list[str] = []
        self.empty = Note("Find candidates first.")
        self.column.addWidget(self.empty)
        self._build_settings()
        self.progress = RunBar("Synthesize", self.runner)
        self.progress.run.connect(self.run)
        self.column.addWidget(self.progress)
        self.preview = CropView("Being denoised")
        self.preview.setFixedHeight(230)
        self.preview.hide()
        self.column.addWidget(self.preview)
        self.note = Note()
        self.column.addWidget(self.note)
        self.refusals = QLabel()
        self.refusals.setWordWrap(True)
        self.refusals.setToolTip("Placements that would have harmed a neighbor, looked wrong, or did not fit.")
        self.column.addWidget(self.refusals)
        self.column.addStretch(1)
        self.runner.progressed.connect(self._on_event)
        self.runner.finished.connect(self._on_made)
        self.runner.failed.connect(lambda sentence: self.complain(self.note, sentence))
        self.runner.cancelled.connect(lambda: self.note.say("Stopped. No nucleus of this run was kept."))
        self.runner.running_changed.connect(self._on_running)
        self.session.dataset_changed.connect(self.runner.discard)
        self.session.candidates_changed.connect(self._on_candidates)
        self.session.candidates_decided.connect(lambda _ranks: self._recount())
        self.session.model_changed.connect(self._on_model)
        self._on_model()
        self._on_candidates()

    def _build_settings(self) -> None:
        from napari_histomix.methods.nucleimix import SynthesisSettings

        defaults = {one.name: one.default for one in fields(SynthesisSettings)}
        self.settings_box = QWidget()
        layout = form()
        self.source = QComboBox()
        self.source.addItem("the candidates I kept", True)
        self.source.addItem("all but the dropped ones", False)
        self.source.setToolTip("Places are tried in order of rank until enough nuclei are made.")
        self.source.currentIndexChanged.connect(self._recount)
        self.source.activated.connect(self._on_source)
        self._source_chosen = False
        self.available = QLabel()
        self.count = QSpinBox()
        self.count.setRange(1, 100_000)
        self.count.setValue(defaults["count"])
        self.count.setToolTip("How many synthetic nuclei to make.")
        self.seed = QSpinBox()
        self.seed.setRange(0, 2**31 - 1)
        self.seed.setValue(defaults["seed"])
        self.seed.setToolTip("The same seed gives the same nuclei, pixel for pixel.")
        self.sampler, self.device = QComboBox(), QComboBox()
        for box, choices, name in ((self.sampler, SAMPLERS, "sampler"), (self.device, DEVICES, "device")):
            for text, value in choices:
                box.addItem(text, value)
            box.setCurrentIndex(box.findData(defaults[name]))
        self.sampler.setToolTip(
            "Fast is meant for daily work; quality takes several times as long, the paper's sampler a hundred times."
        )
        self.network = QComboBox()
        narrow(self.network)
        self.network.addItem("the bundled one", None)
        self.network.setToolTip("The network that paints. Train one on your own tissue with HistoMix: Train.")
        self.network.activated.connect(lambda _index: self.session.use_model(self.network.currentData()))
        self.device.setToolTip("Where the network runs. Automatic takes a graphics card if there is one.")
        self.stain = QCheckBox("Match stain to the surroundings")
        self.stain.setChecked(defaults["stain_matching"])
        self.stain.setToolTip("Without it, the donor keeps its own colors pixel for pixel.")
        layout.addRow("Use", self.source)
        layout.addRow("", self.available)
        layout.addRow("How many", self.count)
        layout.addRow("Network", self.network)
        layout.addRow("Sampler", self.sampler)
        layout.addRow("Device", self.device)
        layout.addRow("Seed", self.seed)
        layout.addRow("", self.stain)
        self.settings_box.setLayout(layout)
        self.column.addWidget(self.settings_box)

    def settings(self) -> Any:
        """The ``SynthesisSettings`` that the form says."""
        from napari_histomix.methods.nucleimix import SynthesisSettings

        return SynthesisSettings(
            count=self.count.value(),
            seed=self.seed.value(),
            sampler=self.sampler.currentData(),
            device=self.device.currentData(),
            stain_matching=self.stain.isChecked(),
        )

    @property
    def kept_only(self) -> bool:
        """Whether only candidates that were explicitly kept are used."""
        return bool(self.source.currentData())

    def choose_source(self, kept_only: bool) -> None:
        """Use only the kept candidates, or all but the dropped ones."""
        self._source_chosen = True
        self.source.setCurrentIndex(self.source.findData(kept_only))

    def run(self) -> None:
        """Make synthetic nuclei in the background."""
        if self.runner.running or self.session.candidates is None:
            return
        self._messages.clear()
        self.note.say("")
        self.refusals.clear()
        make = self.session.synthesis_job(self.settings(), self.kept_only, self.model)
        self.runner.start(make, "synthesizing nuclei")

    def _on_running(self, running: bool) -> None:
        self.settings_box.setEnabled(not running)
        self.preview.show_pixels(None)
        self.preview.setVisible(running)

    def _on_event(self, event: Event) -> None:
        if event.preview is not None:
            self.preview.show_pixels(event.preview)
        if event.message and event.message not in self._messages:
            self._messages.append(event.message)
            self.note.say(" ".join(self._messages), "warning")

    def _on_made(self, made: Any) -> None:
        self.book.show_synthetic(True)
        self.session.take_synthesis(made)
        number, wanted = len(made.placements), self.count.value()
        if not number:
            self.note.say("No place could be used; keep more candidates, or use all but the dropped ones.", "warning")
        elif number < wanted:
            self.note.say(f"{number} of {wanted} nuclei made: the candidates ran out. Keep more of them.", "warning")
        else:
            self.note.say(f"{number} nuclei made. Review them in the next step.", "good")
        if self._messages:
            self.note.say(f"{self.note.text()} {' '.join(self._messages)}", "warning")
        self.refusals.setText(refused(made.refusals))

    # What the session says.

    def _on_model(self) -> None:
        folder = self.session.model_folder
        if folder is not None and self.network.findData(str(folder)) < 0:
            self.network.addItem(folder.name, str(folder))
            self.network.setItemData(self.network.count() - 1, str(folder), Qt.ItemDataRole.ToolTipRole)
        self.network.setCurrentIndex(self.network.findData(str(folder)) if folder is not None else 0)

    def _on_candidates(self) -> None:
        found = self.session.candidates is not None
        self.empty.setVisible(not found)
        self.settings_box.setVisible(found)
        self.progress.setVisible(found)
        if not found:
            self.note.say("")
            self.refusals.clear()
        self._source_chosen = False
        self._recount()

    def _on_source(self) -> None:
        self._source_chosen = True

    def _recount(self) -> None:
        if not self._source_chosen:
            # Whoever keeps some candidates wants those.
            self.source.setCurrentIndex(0 if self.session.decided(KEEP) else 1)
        if self.session.candidates is None:
            return
        kept, dropped = self.session.decided(KEEP), self.session.decided(DROP)
        number = kept if self.kept_only else len(self.session.candidates.items) - dropped
        self.available.setText(f"{number:,} candidates to choose from")
        self.progress.allow(number > 0, "Keep some candidates in the step before, or use all but the dropped ones.")


def refused(reasons: Counter[str]) -> str:
    """The refused placements by reason, most frequent first, as rich text; empty where there are none."""
    if not reasons:
        return ""
    lines = "".join(
        f"<tr><td align='right'>{number:,}&nbsp;&nbsp;</td><td>{why}</td></tr>" for why, number in reasons.most_common()
    )
    total = sum(reasons.values())
    return f"<b>{total:,} place{'s' if total != 1 else ''} refused</b><table>{lines}</table>"
