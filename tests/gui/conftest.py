"""A real viewer on a (virtual) screen, the dock opened through the manifest, and a network small enough for seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QTimer


@pytest.fixture(scope="session")
def small_network(small_network: Callable[..., object]) -> Callable[..., object]:
    """As in all tests, once no dock of an earlier test loads networks in a thread of its own."""
    from napari_histomix.widgets.loading_ahead import prepare_torch

    prepare_torch()
    return small_network


@pytest.fixture(scope="session")
def tiny_model(small_model_folder: Path) -> Any:
    """An untrained network: what it paints is noise, but where it paints and what it leaves alone is real."""
    from napari_histomix.diffusion.model_files import load_model

    return load_model(small_model_folder)


@pytest.fixture(autouse=True)
def own_page(own_preferences: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """napari's Preferences page of a test's own: what is changed on it is kept in a file, too."""
    from napari import settings

    clear = getattr(settings, "_clear_plugin_settings_cache", lambda: None)
    clear()
    monkeypatch.setattr(settings, "_CFG_PATH", str(own_preferences / "napari" / "settings.yaml"), raising=False)
    yield
    clear()


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
            running = any(panel.runner.running for panel in dock.panels)
            return not dock.data.book.busy and not dock.export.busy and not running

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
        dock.make.model = model
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


@pytest.fixture(scope="session")
def studies(tmp_path_factory: Any, tiny_model: Any) -> Path:
    """Two studies of the sample, made without a window: "searched" has candidates, "made" four synthetic nuclei too."""
    from napari_histomix import jobs
    from napari_histomix.datasets import SAMPLE_MAJORS, SAMPLE_RARE, load_sample
    from napari_histomix.methods import method_of
    from napari_histomix.methods.candidate_stage import CandidateSettings
    from napari_histomix.methods.nucleimix import NucleiMixSettings
    from napari_histomix.records import drain
    from napari_histomix.study import Study

    folder = tmp_path_factory.mktemp("studies")
    dataset = load_sample()
    settings = CandidateSettings(rare=(SAMPLE_RARE,), major=tuple(SAMPLE_MAJORS), background_share=0.25)
    study = Study.create(folder / "searched", dataset.root, dataset.name)
    drain(jobs.prepare(method_of("nucleimix"), dataset, study, settings))
    shutil.copytree(folder / "searched", folder / "made")
    study = Study.open(folder / "made")
    drain(jobs.run("nucleimix", dataset, NucleiMixSettings(count=4), study, loaded=tiny_model))
    return folder


@pytest.fixture
def with_study(open_dock: Any, studies: Path, settle: Any, qtbot: Any, tmp_path: Path) -> Callable[..., Any]:
    """The dock with a copy of one of the studies open."""

    def opened(name: str, model: Any = None) -> Any:
        dock = open_dock(model)
        folder = dock.session.home / name
        shutil.copytree(studies / name, folder)
        dock.data.open_study(folder)
        qtbot.waitUntil(lambda: dock.session.image != "", timeout=60_000)
        settle(dock)
        return dock

    return opened


@pytest.fixture
def with_candidates(with_study: Any) -> Callable[..., Any]:
    """The dock after a search for candidates."""

    def opened(model: Any = None) -> Any:
        dock = with_study("searched", model)
        assert len(dock.session.candidates.items) > 100
        dock.open("make/plan")
        return dock

    return opened


@pytest.fixture
def with_changes(with_study: Any, settle: Any) -> Callable[[], Any]:
    """The dock with four synthetic nuclei under review."""

    def opened() -> Any:
        dock = with_study("made")
        assert len(dock.session.table) == 4
        dock.open("review")
        settle(dock)
        return dock

    return opened
