from __future__ import annotations

from napari.components import ViewerModel

from napari_histomix.diffusion.samplers import PRESETS
from napari_histomix.methods.nucleimix import SynthesisSettings
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.synthesize_panel import SynthesizePanel


def test_every_preset_can_be_chosen_and_the_default_is_the_methods_own(qtbot, tmp_path) -> None:
    panel = SynthesizePanel(ViewerModel(), Session(home=tmp_path))
    qtbot.addWidget(panel)
    choices = [panel.sampler.itemData(index) for index in range(panel.sampler.count())]
    assert choices == list(PRESETS)
    assert panel.sampler.currentData() == SynthesisSettings().sampler
