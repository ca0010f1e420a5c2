"""The dock of networks: what is there, how to get the others, and downloads that are cancelled and go on."""

from __future__ import annotations

import pytest
from napari.components import ViewerModel

from napari_histomix.preferences import change
from napari_histomix.records import Event, HistomixError
from napari_histomix.weights import CHECKPOINTS
from napari_histomix.widgets import models_panel
from napari_histomix.widgets.models_panel import ModelsPanel
from napari_histomix.widgets.session import Session


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HISTOMIX_WEIGHTS", str(tmp_path / "models"))
    monkeypatch.setattr("napari_histomix.weights.known._in_hub_cache", lambda repository: None)
    return tmp_path / "models"


@pytest.fixture
def panel(folder, qtbot, tmp_path) -> ModelsPanel:
    made = ModelsPanel(ViewerModel(), Session(home=tmp_path))
    qtbot.addWidget(made)
    made.resize(440, 600)
    made.show()
    qtbot.waitUntil(lambda: bool(made.found) and not made.runner.running, timeout=20_000)
    return made


def choose(panel: ModelsPanel, name: str) -> None:
    names = [found.network.name for found in panel.found]
    panel.view.selectRow(panel.model.row_of(names.index(name)))


def cells(panel: ModelsPanel, row: int) -> list[str]:
    return [panel.model.data(panel.model.index(row, column)) for column in range(panel.model.columnCount())]


def test_every_network_is_listed_with_license_size_and_state(panel):
    rows = {shown[0]: shown for shown in (cells(panel, row) for row in range(panel.model.rowCount()))}
    assert {"he-inpaint", "he-segmenter", *CHECKPOINTS, "timm:resnet18.a1_in1k"} <= rows.keys()
    assert rows["he-inpaint"][1:4] == ["present", "8 MB", "BSD-3-Clause"]
    assert rows["vit_b"][1:4] == ["missing", "375 MB", "Apache-2.0"]
    assert rows["ctranspath"][2] == "unknown"


def test_offline_the_panel_says_how_to_place_a_file_by_hand(panel, folder, qtbot):
    choose(panel, "vit_b")
    assert not panel.progress.run_button.isEnabled()
    told = panel.details.text()
    assert f"'sam_vit_b_01ec64.pth' is not in {folder}; copy it there from https://" in told
    assert panel.hash.text() == CHECKPOINTS["vit_b"].sha256 and not panel.hash_row.isHidden()
    # The words break: a hash among them would have the lines below it cut in a narrow dock.
    panel.resize(360, 700)
    panel.show()
    qtbot.waitUntil(lambda: panel.details.height() >= panel.details.heightForWidth(panel.details.width()))
    assert panel.details.minimumSizeHint().width() < 340
    assert panel.hash.height() >= panel.hash.minimumSizeHint().height()
    assert "'sam_vit_b_01ec64.pth' is not in" in panel.progress.run_button.toolTip()
    choose(panel, "he-inpaint")
    assert "diffusion_pytorch_model.safetensors" in panel.details.text()
    assert not panel.progress.run_button.isEnabled()


def test_allowing_downloads_in_the_preferences_opens_the_button_but_not_for_what_has_no_hash(panel, qtbot):
    change(online=True)
    panel.session.preferences_changed.emit()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=20_000)
    choose(panel, "vit_b")
    assert panel.progress.run_button.isEnabled()
    choose(panel, "ctranspath")
    assert not panel.progress.run_button.isEnabled() and "publish no SHA-256" in panel.details.text()


def test_a_download_shows_megabytes_is_cancelled_and_goes_on(panel, folder, qtbot, monkeypatch):
    calls = []

    def fetch(network):
        calls.append(network.name)
        folder.mkdir(exist_ok=True)
        part = folder / f"{network.file}.part"
        begun = part.stat().st_size if part.exists() else 0
        for done in range(begun, 40):
            part.write_bytes(b"?" * (done + 1))
            yield Event("Fetching", done * 1_000_000, 40_000_000)
            if not begun and done >= 5:
                while True:
                    yield Event("Fetching", done * 1_000_000, 40_000_000)
        raise HistomixError("'sam_vit_b_01ec64.pth' is damaged or was changed.")

    monkeypatch.setattr(models_panel, "fetch", fetch)
    change(online=True)
    choose(panel, "vit_b")
    panel._show_chosen()
    panel.progress.run_button.click()
    qtbot.waitUntil(lambda: "5 of 40 MB" in panel.progress.status.text(), timeout=10_000)
    panel.progress.cancel_button.click()
    qtbot.waitUntil(lambda: not panel.runner.running and panel.chosen.state == "partial", timeout=20_000)
    assert "goes on with vit_b where it ended" in panel.note.text() and panel.chosen.there >= 6
    assert panel.progress.run_button.isEnabled()
    panel.progress.run_button.click()
    qtbot.waitUntil(lambda: "is damaged" in panel.note.text(), timeout=10_000)
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=20_000)
    assert calls == ["vit_b", "vit_b"] and panel.chosen.network.name == "vit_b"


def test_a_damaged_file_is_named_and_not_fetched_over(panel, folder, qtbot):
    folder.mkdir()
    (folder / "sam_vit_b_01ec64.pth").write_bytes(b"?")
    panel.check_button.click()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=20_000)
    choose(panel, "vit_b")
    assert f"{folder / 'sam_vit_b_01ec64.pth'} is damaged or was changed" in panel.details.text()
    assert not panel.progress.run_button.isEnabled() and panel.details.kind == "error"


def test_the_folder_is_made_when_it_is_opened(panel, folder, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "napari_histomix.widgets.elements.QDesktopServices.openUrl", lambda url: shown.append(url.toLocalFile())
    )
    panel.folder_button.click()
    assert folder.is_dir() and shown == [str(folder)]
