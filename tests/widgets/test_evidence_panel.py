"""Evidence about a study: measured in the background, shown as a table and a figure, kept in its folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from review_samples import add_run, make_review_study, nucleus_change

from napari_histomix.datasets import load_sample
from napari_histomix.evaluation.neighbor_test import neighbor_test
from napari_histomix.records import drain
from napari_histomix.study import Study
from napari_histomix.widgets.charts import Picture
from napari_histomix.widgets.evidence_panel import EvidencePanel
from napari_histomix.widgets.loading import study_job
from napari_histomix.widgets.session import Session


@pytest.fixture
def panel(qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvidencePanel:
    monkeypatch.setattr("napari_histomix.widgets.session.load_networks_ahead", lambda: None)
    session = Session(home=tmp_path)
    made = EvidencePanel(ViewerModel(), session)
    qtbot.addWidget(made)
    made.resize(430, 900)
    made.show()
    assert made.empty.text() and not made.contents.isVisible()
    session.take_opened(drain(study_job(make_review_study(tmp_path / "study", 6).folder)))
    return made


def test_tissue_is_led_to_the_test_that_measures_it(panel: EvidencePanel, tissue_folder: Any, tmp_path: Path) -> None:
    root = tissue_folder(tmp_path / "tissue")
    study = Study.create(tmp_path / "mixes", root, "tissue")
    panel.session.take_opened(drain(study_job(study.folder)))
    assert panel.contents.isVisible() and not panel.empty.isVisible()
    assert not panel.progress.isVisible() and "no nuclei" in panel.about.text()


def measure(panel: EvidencePanel, name: str, qtbot: Any) -> None:
    at = next(at for at in range(panel.choice.count()) if panel.choice.itemData(at).name == name)
    panel.choice.setCurrentIndex(at)
    panel.progress.run_button.click()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=120_000)
    assert panel.note.kind == "good", panel.note.text()


def test_nearest_neighbors_are_kept_in_the_study_and_lead_to_review(panel: EvidencePanel, qtbot: Any) -> None:
    measure(panel, "neighbors", qtbot)
    folder = Path(panel.session.study.folder) / "evidence" / "neighbors"
    assert panel.found.folder == folder and panel.picture.isVisible() and panel.picture.pixels is not None
    with (folder / "neighbors.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == panel.model.rowCount() == 6
    assert [float(row["distance"]) for row in rows] == sorted(float(row["distance"]) for row in rows)
    assert json.loads((folder / "neighbors.json").read_text())["synthetic"] == 6
    asked: list[str] = []
    panel.session.page_requested.connect(asked.append)
    panel.view.clicked.emit(panel.model.index(2, 0))
    assert asked == [f"review/nearest/{int(rows[2]['number']) - 1}"]
    # Measured again, it is kept beside the first.
    measure(panel, "neighbors", qtbot)
    assert panel.found.folder == folder.with_name("neighbors 2")


def test_where_rare_nuclei_lie_has_a_table_and_a_figure(panel: EvidencePanel, qtbot: Any) -> None:
    measure(panel, "places", qtbot)
    assert panel.model.rowCount() == 4 and "AUC" in panel.note.text()
    # The sample has five images: too few for intervals, which nothing then speaks of.
    assert "brackets" not in panel.note.text() and "fewer than ten" in panel.note.text()
    header = panel.view.horizontalHeader()
    names = [panel.model.headerData(at, Qt.Orientation.Horizontal) for at in range(header.count())]
    room = [header.fontMetrics().horizontalAdvance(max(name.split("\n"), key=len)) for name in names]
    assert all(header.sectionSize(at) > wide for at, wide in enumerate(room)), "no heading is cut"
    assert {file.name for file in panel.found.folder.iterdir()} == {"report.md", "report.json", "report.png"}


def test_a_nucleus_copied_with_its_surroundings_is_pointed_out(tmp_path: Path) -> None:
    """One that repeats a third nucleus, neither its target nor its donor, with all around it."""
    made = make_review_study(tmp_path / "made", 6)
    dataset = load_sample()
    candidates = made.candidates()
    copied_image = dataset.read(candidates[0].donor.image)
    place = next(one.target for one in candidates if one.target.image == copied_image.source.image)
    side = round(32 / copied_image.mpp)
    other = next(one for one in candidates if one.target.image != place.image)
    row, col = (round(at) - side // 2 for at in (other.target.row, other.target.col))
    top, left = (round(at) - side // 2 for at in (place.row, place.col))
    height, width = dataset.read(other.target.image).instances.shape
    row, col = min(max(row, 0), height - side), min(max(col, 0), width - side)
    top, left = (
        min(max(at, 0), size - side) for at, size in zip((top, left), copied_image.instances.shape, strict=True)
    )
    pixels = copied_image.pixels[top : top + side, left : left + side]
    middle = np.zeros((side, side), bool)
    middle[side // 2 - 4 : side // 2 + 5, side // 2 - 4 : side // 2 + 5] = True
    change = nucleus_change(other, 9000, row, col, pixels, np.ones((side, side), np.uint8), nucleus=middle)
    study = Study.create(tmp_path / "study", dataset.root, dataset.name)
    add_run(study, [change])
    report = drain(neighbor_test(dataset, study))
    assert report.pairs[0].neighbor.image == copied_image.source.image
    assert report.pairs[0].neighbor.distance < np.median(report.real)


def test_a_picture_leaves_no_dark_line_beside_it(qtbot: Any) -> None:
    picture = Picture()
    qtbot.addWidget(picture)
    picture.show_picture(np.full((431, 1003, 3), 255, np.uint8))
    for width in (397, 403, 416):
        picture.resize(width, picture.heightForWidth(width))
        shown = picture.grab().toImage()
        assert all(shown.pixelColor(x, shown.height() // 2).lightness() > 250 for x in (0, shown.width() - 1))
        assert all(shown.pixelColor(shown.width() // 2, y).lightness() > 250 for y in (0, shown.height() - 1))
