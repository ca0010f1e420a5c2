from pathlib import Path

import pytest

from napari_histomix.datasets import load_sample, sample_folder, survey
from napari_histomix.methods.nucleimix import CandidateSettings
from napari_histomix.records import drain
from napari_histomix.widgets.loading import Opened, open_job, study_job
from napari_histomix.widgets.session import Session


@pytest.fixture(scope="module")
def sample() -> Opened:
    dataset = load_sample()
    return Opened(dataset, drain(survey(dataset)))


@pytest.fixture
def session(qapp, tmp_path, sample) -> Session:
    one = Session(home=tmp_path / "HistoMix")
    one.take_opened(sample)
    return one


def test_the_sample_comes_with_its_classes_and_a_new_study(session) -> None:
    name = session.dataset.class_name
    assert [name(number) for number in session.rare] == ["lymphocyte"]
    assert {name(number) for number in session.major} == {"tumor", "stromal"}
    assert session.ready and session.study is None and not session.study_folder.exists()


def test_images_are_read_in_the_background(session, qtbot) -> None:
    qtbot.waitUntil(lambda: session.image != "", timeout=20_000)
    first, second = session.images[:2]
    assert session.image == first
    session.step(1)
    qtbot.waitUntil(lambda: session.image == second, timeout=20_000)
    assert session.reader.get(first).source.image == first
    session.step(-1)
    assert session.image == first


def test_a_class_is_never_rare_and_major(session) -> None:
    session.choose_classes([1], [1, 2])
    assert (session.rare, session.major) == ((1,), (2,))
    session.choose_classes([], [1, 2])
    assert not session.ready


def test_a_free_folder_is_never_one_that_exists(session) -> None:
    first = session.study_folder
    first.mkdir(parents=True)
    assert session.free_folder() != first and not session.free_folder().exists()


def test_decisions_are_on_disk_before_anyone_hears_of_them(session, tmp_path) -> None:
    from napari_histomix.study import Study

    settings = CandidateSettings(session.rare, session.major, background_share=0.1)
    session.take_candidates(drain(session.candidates_job(settings)()))
    heard = []
    session.candidates_decided.connect(
        lambda ranks: heard.append((tuple(ranks), Study.open(session.study_folder).decisions("candidate")))
    )
    session.decide("candidate", [1, 2], "keep")
    session.decide("candidate", [2], "drop")
    assert session.undo("candidate") == (2,)
    assert heard == [((1, 2), {1: "keep", 2: "keep"}), ((2,), {1: "keep", 2: "drop"}), ((2,), {1: "keep", 2: "keep"})]
    assert [one.rank for one in session.usable_candidates(kept_only=True)] == [1, 2]

    again = Session(home=tmp_path)
    said: list[str] = []
    again.notice.connect(said.append)
    again.take_opened(drain(study_job(session.study_folder)()))
    again.decide("candidate", [0], "drop")
    assert again.read_only and again.candidate_decisions == {1: "keep", 2: "keep"}
    assert "open in another window" in said[0] and len(said) == 2
    session.release()
    again.take_opened(drain(study_job(session.study_folder)()))
    assert not again.read_only
    assert again.candidate_decisions == {1: "keep", 2: "keep"}
    assert (again.rare, again.major) == (session.rare, session.major)
    assert again.candidates.effective_sample_size == session.candidates.effective_sample_size
    assert again.undo("candidate") == (1, 2) and again.redo("candidate") == (1, 2)
    assert again.undo("candidate") == (1, 2) and again.candidate_decisions == {}

    # What was decided belongs to its candidates: a new search begins a new study.
    again.decide("candidate", [0], "drop")
    found = drain(again.candidates_job(settings)())
    assert found.study.folder != session.study_folder
    assert Study.open(session.study_folder).decisions("candidate") == {0: "drop"}


def test_a_moved_dataset_is_asked_for(session, tmp_path) -> None:
    from napari_histomix.study import Study

    Study.create(tmp_path / "lost", tmp_path / "nowhere", "lost")
    moved = drain(study_job(tmp_path / "lost")())
    assert "no longer" in moved.sentence and moved.folder == tmp_path / "lost"
    found = drain(study_job(tmp_path / "lost", sample_folder())())
    assert found.dataset.root == sample_folder()
    assert drain(study_job(tmp_path / "lost")()).dataset.root == sample_folder()


def test_a_folder_that_is_nothing_is_refused(tmp_path: Path) -> None:
    from napari_histomix.records import HistomixError

    with pytest.raises(HistomixError):
        drain(open_job(tmp_path)())
