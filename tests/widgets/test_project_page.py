"""The Project page: what a source is and where it leads, what was opened before, and what of it is synthetic."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from PIL import Image

from napari_histomix import preferences
from napari_histomix.datasets.dataset_writer import WrittenDataset
from napari_histomix.datasets.formats import FORMATS
from napari_histomix.evaluation.reader_test.folder import FORMAT, TEST
from napari_histomix.records import NucleusClass, Problem
from napari_histomix.study import Study
from napari_histomix.study.database import READ_ONLY
from napari_histomix.widgets.data_panel import ON_COMMAND_LINE, DataPanel
from napari_histomix.widgets.make_panel import MakePanel
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.sources import RecentButton, dataset_of, when_words


@pytest.fixture
def page(qtbot, tmp_path):
    session = Session(home=tmp_path / "home")
    made = DataPanel(ViewerModel(), session)
    qtbot.addWidget(made)
    made.ask = lambda _titles: True
    yield made
    session.release()


def opened(page, qtbot, path: Path) -> None:
    """Open something, and wait until it is there or was refused."""
    page.open_source(path)
    qtbot.waitUntil(lambda: not page.runner.running, timeout=60_000)


@pytest.fixture
def data(dataset_folder, labeled_image, tmp_path) -> Path:
    return dataset_folder(tmp_path / "my data", [labeled_image(6, seed=seed, name=f"i{seed}") for seed in range(2)])


def test_one_class_of_tissue_is_told_in_the_singular(page, qtbot, tissue_folder, tmp_path) -> None:
    folder = tissue_folder(tmp_path / "tissue")
    first, *others = sorted(path for path in folder.iterdir() if path.is_dir())
    opened(page, qtbot, folder)
    assert f" · {1 + len(others)} classes · " in page.summary.text()
    for other in others:
        shutil.rmtree(other)
    opened(page, qtbot, folder)
    assert first.name in page.session.dataset.kinds and " · 1 class · " in page.summary.text()


def test_a_study_of_another_window_is_opened_again_with_one_click_once_it_is_closed_there(
    page, qtbot, data, tmp_path
) -> None:
    study = Study.create(tmp_path / "study", data, "study").take()
    opened(page, qtbot, study.folder)
    assert page.session.read_only and page.again_button.isVisibleTo(page)
    assert page.note.text() == READ_ONLY and str(tmp_path) not in page.note.text()
    page.session.decide("candidate", [0], "keep")
    assert str(tmp_path) not in page.note.text() and "open it again here" in page.note.text()
    study.let_go()
    page.again_button.click()
    qtbot.waitUntil(lambda: not page.runner.running, timeout=60_000)
    assert not page.session.read_only and not page.again_button.isVisibleTo(page) and page.note.text() == ""


def test_what_a_study_was_not_allowed_is_not_said_of_the_next(page, qtbot, data, tmp_path) -> None:
    held = Study.create(tmp_path / "study", data, "study").take()
    opened(page, qtbot, held.folder)
    page.session._adopt(Study.create(tmp_path / "other", data, "other"))
    assert page.note.text() == "" and not page.again_button.isVisibleTo(page)
    held.let_go()


def test_what_is_synthetic_is_said_of_nuclei_and_of_images(page, qtbot, tmp_path, labeled_image, tissue_folder) -> None:
    classes = (NucleusClass(1, "rare", (255, 0, 0)), NucleusClass(2, "common", (0, 0, 255)))
    (tmp_path / "export").mkdir()
    writer = WrittenDataset(tmp_path / "export", "export", classes, "plain")
    image = labeled_image(8, seed=3, name="a")
    writer.add(replace(image, synthetic=frozenset([1, 2])), synthetic=True)
    writer.add(labeled_image(5, seed=4, name="b"), synthetic=False)
    writer.finish()
    opened(page, qtbot, tmp_path / "export")
    assert not page.synthetic.isHidden()
    assert page.synthetic.text() == "Contains 2 synthetic nuclei among all 13; they are never donors."
    folder = tissue_folder(tmp_path / "tissue")
    listed = [(path.relative_to(folder).as_posix(), path.parent.name) for path in sorted(folder.rglob("*.png"))]
    rows = [
        "image,class,mpp,synthetic",
        *(f"{name},{kind},0.5,{'yes' if name == listed[0][0] else ''}" for name, kind in listed),
    ]
    (folder / "images.csv").write_text("\n".join(rows) + "\n")
    opened(page, qtbot, folder)
    assert page.synthetic.text() == f"Contains 1 synthetic image among all {len(listed)}; it is never a donor."


def test_a_source_is_opened_as_what_it_is(page, qtbot, data, tmp_path) -> None:
    led, tests = [], []
    page.session.page_requested.connect(led.append)
    page.session.reader_test_requested.connect(tests.append)
    opened(page, qtbot, data)
    assert page.session.dataset.root == data and page.session.study is None
    Study.create(tmp_path / "study", data, "my data")
    for path in (tmp_path / "study", tmp_path / "study" / "study.sqlite"):
        opened(page, qtbot, path)
        assert page.session.study.folder == tmp_path / "study" and not led
    reading = tmp_path / "reading"
    reading.mkdir()
    (reading / TEST).write_text(json.dumps({"format": FORMAT, "version": 1}))
    for path in (reading, reading / TEST):
        opened(page, qtbot, path)
    assert led == ["results/test"] * 2 and tests == [reading] * 2
    # A file of a dataset stands for it.
    file = next((data / "Images").iterdir())
    assert dataset_of(file) == data
    opened(page, qtbot, file)
    assert page.session.dataset.root == data and page.session.study is None


def test_all_formats_are_named_where_nothing_is_recognized_and_in_the_tooltip(page, qtbot, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    opened(page, qtbot, tmp_path / "empty")
    for known in FORMATS.values():
        for text in (page.note.text(), page.folder_button.toolTip(), page.file_button.toolTip()):
            assert known.title in text or known.name in ("plain", "class-folders")
    assert "folder for each class" in page.folder_button.toolTip() and page.note.kind == "error"


def test_what_was_opened_before_is_one_click_away(page, qtbot, data, tmp_path) -> None:
    assert page.recent.isHidden() and not preferences.recent()
    opened(page, qtbot, data)
    Study.create(tmp_path / "a study", data, "my data")
    opened(page, qtbot, tmp_path / "a study")
    preferences.remember(tmp_path / "gone", "nuclei")
    assert [(Path(each.path).name, each.kind) for each in preferences.recent()] == [
        ("gone", "nuclei"), ("a study", "study"), ("my data", "nuclei"),
    ]  # fmt: skip
    # Preferences and this list leave each other alone.
    preferences.change(outlines="thick")
    assert len(preferences.recent()) == 3 and preferences.preferences().outlines == "thick"
    other = DataPanel(ViewerModel(), Session(home=tmp_path / "home 2"))
    qtbot.addWidget(other)
    qtbot.waitUntil(lambda: len(other.recent.buttons) == 2)
    study, dataset = other.recent.buttons
    assert study.text() == "a study  ·  study · today" and str(tmp_path / "a study") in study.toolTip()
    dataset.click()
    qtbot.waitUntil(lambda: other.session.dataset is not None and not other.runner.running, timeout=60_000)
    assert other.session.dataset.root == data and other.recent.isHidden()


def test_the_list_is_short_and_its_names_are_elided_in_the_middle(qtbot, tmp_path) -> None:
    for number in range(30):
        preferences.remember(tmp_path / f"data {number}", "tissue")
    assert len(preferences.recent()) == 24 and preferences.recent()[0].path.endswith("data 29")
    button = RecentButton(preferences.Recent(f"/x/{'long name ' * 12}end", "nuclei", "2026-01-01T00:00:00+00:00"))
    qtbot.addWidget(button)
    button.resize(330, 28)
    button.show()
    assert button.text().startswith("long") and "…" in button.text() and "nuclei" in button.text()
    assert button.fontMetrics().horizontalAdvance(button.text()) <= 330
    now = datetime(2026, 3, 10, 12, tzinfo=UTC)
    assert when_words("2026-03-10T01:00:00+00:00", now) == "today"
    assert when_words("2026-03-09T23:00:00+00:00", now) == "yesterday"
    assert when_words("2026-03-01T00:00:00+00:00", now) == "9 days ago"
    assert when_words("2025-03-01T00:00:00+00:00", now) == "2025-03-01" and when_words("?", now) == ""


def test_data_without_a_scale_lead_to_the_scale_and_nowhere_else(page, qtbot, dataset_folder, labeled_image, tmp_path):
    folder = dataset_folder(tmp_path / "unscaled", [labeled_image(6, name="a")])
    (folder / "images.csv").unlink()
    for image in (folder / "Images").glob("*.png"):
        Image.fromarray(np.asarray(Image.open(image))).save(image)
    making = MakePanel(page.viewer, page.session)
    qtbot.addWidget(making)
    opened(page, qtbot, folder)
    assert page.session.dataset.missing_scale
    assert not page.scale_box.isHidden() and page.next_button.isHidden()
    assert "µm" in making.empty.text() and not making.empty.lead.isHidden()
    page.scale_apply.click()
    qtbot.waitUntil(lambda: not page.runner.running and not page.session.dataset.missing_scale, timeout=60_000)
    assert page.scale_box.isHidden() and not page.next_button.isHidden()
    assert not making.empty.text() and making.empty.lead.isHidden()


def test_a_long_name_leaves_the_page_as_narrow_as_it_was(page, qtbot, dataset_folder, labeled_image, tmp_path) -> None:
    opened(page, qtbot, dataset_folder(tmp_path / "data", [labeled_image(6)], name=f"slide {'very ' * 20}long"))
    assert page.minimumSizeHint().width() <= 360
    assert "very long" in page.study.text() and "very long" in page.study.toolTip()


def test_where_one_id_covers_several_shapes_the_page_names_its_own_button(page, qtbot, data) -> None:
    opened(page, qtbot, data)
    problem = Problem("a", f"a: 1 id covers 2 shapes; if each is a nucleus, {ON_COMMAND_LINE}.", "parts")
    page.session.survey = replace(page.session.survey, problems=(problem,))
    page.session.dataset_changed.emit()
    assert "press 'Read each shape as a nucleus'." in page.problems.item(0).text()
    assert not page.split_parts.isHidden() and page.split_parts.text() in page.problems.item(0).text()


def test_a_page_that_is_opened_again_shows_what_is_open(page, qtbot, data) -> None:
    opened(page, qtbot, data)
    qtbot.waitUntil(lambda: page.session.image == "i0", timeout=20_000)
    page.session.step(1)
    qtbot.waitUntil(lambda: page.session.image == "i1", timeout=20_000)
    again = DataPanel(page.viewer, page.session)
    qtbot.addWidget(again)
    assert again.images.currentText() == "i1"
    # What was opened before is looked for in the background: that may end later.
    qtbot.wait(200)
    assert again.recent.isHidden()


def test_a_dataset_of_one_class_is_told_that_nothing_is_replaced(page, qtbot, data) -> None:
    opened(page, qtbot, data)
    numbers = [kind.number for kind in page.session.dataset.classes]
    page.session.choose_classes(numbers[:1], ())
    assert "nuclei of every other class may be replaced" in page.class_note.text()
    page.session.choose_classes(numbers, ())
    assert page.class_note.text() == "No other class has nuclei: new ones go to free places and replace none."
