from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def searched(labeled_image, dataset_folder, tmp_path_factory):
    """A folder with a dataset and a study of it; never write into it."""
    from napari_histomix.datasets import open_dataset
    from napari_histomix.methods.base import Work
    from napari_histomix.methods.candidate_stage import CANDIDATES, CandidateSettings
    from napari_histomix.records import drain
    from napari_histomix.study import Study

    folder = tmp_path_factory.mktemp("page")
    placed = [(30, 30, 6, 6, 1), (98, 30, 6, 6, 1), (30, 90, 8, 8, 2), (98, 98, 8, 8, 2), (64, 28, 6, 6, 3)]
    images = [labeled_image(placed, name="a"), labeled_image(12, seed=1, name="b", rare=5)]
    dataset = open_dataset(dataset_folder(folder / "data", images))
    study = Study.create(folder / "study", dataset.root, dataset.name)
    settings = CandidateSettings(rare=("rare",), major=("common",), beside_rare=20)
    drain(CANDIDATES.find(Work(dataset, study), settings))
    return folder


@pytest.fixture
def candidates_page(searched, tmp_path, qtbot):
    """The page of candidates with a copy of the study, its first image on the screen."""
    from napari.components import ViewerModel

    from napari_histomix.records import drain
    from napari_histomix.widgets.candidates_panel import CandidatesPanel
    from napari_histomix.widgets.loading import study_job
    from napari_histomix.widgets.session import Session

    shutil.copytree(searched, tmp_path / "all")
    session = Session(home=tmp_path / "home")
    session.take_opened(drain(study_job(tmp_path / "all" / "study", tmp_path / "all" / "data")))
    panel = CandidatesPanel(ViewerModel(), session)
    qtbot.addWidget(panel)
    panel.show()
    qtbot.waitUntil(lambda: session.image == "a" and not panel.book.busy, timeout=20_000)
    yield panel
    session.release()
