"""A real viewer on a (virtual) screen, the dock opened through the manifest, and a network small enough for seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QTimer


@pytest.fixture(scope="session")
def tiny_model() -> Any:
    """An untrained network: what it paints is noise, but where it paints and what it leaves alone is real."""
    import torch
    from diffusers import UNet2DModel

    from napari_histomix.diffusion.models import InpaintingModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=64,
        in_channels=7,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    schedule = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    return InpaintingModel(network, schedule, (0.25, 0.5), (64, 96, 128), "tiny", "0" * 64)


class Heart:
    """Ticks on the main thread; the longest pause between two ticks is how long something held it."""

    def __init__(self) -> None:
        self.ticks = 0
        self.timer = QTimer()
        self.timer.setInterval(10)
        self.timer.timeout.connect(self._tick)
        self.timer.start()

    def _tick(self) -> None:
        self.ticks += 1


@pytest.fixture
def heart(qapp: Any) -> Any:
    one = Heart()
    yield one
    one.timer.stop()


@pytest.fixture
def settle(qtbot: Any) -> Callable[[Any], None]:
    """Wait until a dock runs nothing and has shown everything."""

    def wait(dock: Any, timeout: int = 120_000) -> None:
        def quiet() -> bool:
            panels = (dock.data, dock.candidates, dock.synthesize, dock.review, dock.export)
            return not dock.data.book.busy and not any(one.runner.running for one in panels)

        qtbot.waitUntil(quiet, timeout=timeout)
        qtbot.wait(50)
        qtbot.waitUntil(quiet, timeout=timeout)

    return wait


@pytest.fixture
def open_dock(make_napari_viewer: Any, tmp_path: Path, qtbot: Any) -> Callable[..., Any]:
    """Open the dock through the manifest in a new viewer; studies go to a temporary folder."""
    from napari_histomix.widgets.session import session_of

    made = 0

    def opened(model: Any = None) -> Any:
        nonlocal made
        viewer = make_napari_viewer(show=True)
        made += 1
        session_of(viewer).home = tmp_path / f"home {made}"
        _, dock = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")
        dock.synthesize.model = model
        dock.real_viewer = viewer
        return dock

    return opened


@pytest.fixture
def with_sample(open_dock: Any, settle: Any, qtbot: Any) -> Callable[..., Any]:
    """The dock with the sample open and its first image on the screen."""

    def opened(model: Any = None) -> Any:
        dock = open_dock(model)
        dock.data.sample_button.click()
        qtbot.waitUntil(lambda: dock.session.image != "", timeout=60_000)
        settle(dock)
        return dock

    return opened


@pytest.fixture
def with_candidates(with_sample: Any, settle: Any) -> Callable[..., Any]:
    """The dock after a search for candidates."""

    def opened(model: Any = None) -> Any:
        dock = with_sample(model)
        dock.open_step(1)
        dock.candidates.progress.run_button.click()
        settle(dock)
        assert dock.session.candidates is not None, dock.candidates.note.text()
        return dock

    return opened


@pytest.fixture
def with_placements(with_candidates: Any, settle: Any, tiny_model: Any) -> Callable[..., Any]:
    """The dock with a few synthetic nuclei under review."""

    def opened(count: int = 4) -> Any:
        dock = with_candidates(tiny_model)
        dock.open_step(2)
        dock.synthesize.count.setValue(count)
        dock.synthesize.progress.run_button.click()
        settle(dock)
        assert len(dock.session.placements) == count, dock.synthesize.note.text()
        dock.open_step(3)
        settle(dock)
        return dock

    return opened
