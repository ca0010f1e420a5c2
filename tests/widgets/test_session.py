import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from napari_histomix import methods
from napari_histomix.datasets import load_sample, sample_folder, survey
from napari_histomix.methods.candidate_stage import CandidateSettings
from napari_histomix.methods.nucleimix import NucleiMixSettings
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


def test_the_arrows_lead_past_an_image_that_was_deleted(qapp, tmp_path, qtbot) -> None:
    root = shutil.copytree(sample_folder(), tmp_path / "sample")
    session = Session(home=tmp_path / "HistoMix")
    session.take_opened(drain(open_job(root)))
    first, second, third = session.images[:3]
    qtbot.waitUntil(lambda: session.image == first, timeout=20_000)
    for file in root.rglob(f"{second}.png"):
        file.unlink()
    with qtbot.waitSignal(session.notice) as said:
        session.step(1)
    assert "no longer there" in said.args[0] and session.image == first
    session.step(1)
    qtbot.waitUntil(lambda: session.image == third, timeout=20_000)


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

    rare, major = (tuple(map(session.dataset.class_name, numbers)) for numbers in (session.rare, session.major))
    settings = CandidateSettings(rare, major, background_share=0.1)
    session.take_stage(drain(session.stage_job(settings)()))
    heard = []
    session.candidates_decided.connect(
        lambda ranks: heard.append((tuple(ranks), Study.open(session.study_folder).decisions("candidate")))
    )
    session.decide("candidate", [1, 2], "keep")
    session.decide("candidate", [2], "drop")
    assert session.undo("candidate") == (2,)
    assert heard == [((1, 2), {1: "keep", 2: "keep"}), ((2,), {1: "keep", 2: "drop"}), ((2,), {1: "keep", 2: "keep"})]
    assert session.decisions["candidate"] == {1: "keep", 2: "keep"}

    again = Session(home=tmp_path)
    said: list[str] = []
    again.notice.connect(said.append)
    again.take_opened(drain(study_job(session.study_folder)))
    again.decide("candidate", [0], "drop")
    assert again.read_only and again.decisions["candidate"] == {1: "keep", 2: "keep"}
    assert "open in another window" in said[0] and len(said) == 2
    session.release()
    again.take_opened(drain(study_job(session.study_folder)))
    assert not again.read_only
    assert again.decisions["candidate"] == {1: "keep", 2: "keep"}
    assert (again.rare, again.major) == (session.rare, session.major)
    assert again.candidates.effective_sample_size == session.candidates.effective_sample_size
    assert again.undo("candidate") == (1, 2) and again.redo("candidate") == (1, 2)
    assert again.undo("candidate") == (1, 2) and again.decisions["candidate"] == {}

    # A run on candidates that are here does not tell of them again: every page would draw them anew.
    told = []
    again.candidates_changed.connect(lambda: told.append(True))
    run = again.make_job(NucleiMixSettings(count=1))()
    while not next(run).phase.startswith("Planning"):
        pass
    again.take_made(())
    run.close()
    assert again.candidates is not None and not told

    # What was decided belongs to its candidates: a new search begins a new study.
    again.decide("candidate", [0], "drop")
    found = drain(again.stage_job(settings)())
    assert found.study.folder != session.study_folder
    assert Study.open(session.study_folder).decisions("candidate") == {0: "drop"}


@pytest.fixture
def stamps(session, monkeypatch):
    sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
    from stamps import METHOD, StampSettings

    monkeypatch.setattr(methods, "_registered", {METHOD.name: METHOD})
    session.choose_method(METHOD.name)
    return StampSettings


def test_what_a_run_makes_is_here_at_once_and_stays_or_goes(session, stamps) -> None:
    from napari_histomix.jobs import unfinished
    from napari_histomix.study import Study

    made, changed = [], []
    session.changes_made.connect(made.append)
    session.changes_changed.connect(lambda: changed.append(True))
    run = session.make_job(stamps(count=6))()
    for event in run:
        if event.made:
            session.take_made([change.id for change in event.made])
        if len(session.table) == 3:
            break
    run.close()
    session.take_made(())
    assert made == [[0], [1], [2]] and session.study is not None and not session.read_only
    assert Study.open(session.study_folder).settings()["method"] == "stamps"
    target = session.change(1).image
    assert [change.id for change in session.changes_of(target) if change.id == 1] == [1]
    session.decide("change", [1], "reject")
    assert 1 not in [change.id for change in session.changes_of(target)] and session.decided("reject") == 1
    outcome = drain(session.resume_job()())
    session.take_made(outcome.ids)
    assert outcome.ids == tuple(range(6)) and session.table.ids.tolist() == list(range(6))
    assert unfinished(session.study) is None
    assert [change.id for change in session.changes] == list(range(6))

    session.discard_run(outcome.run)
    assert len(session.table) == 0 and session.decisions["change"] == {} and changed
    assert len(Study.open(session.study_folder).changes()) == 0


def test_candidates_are_found_in_a_study_that_holds_other_images_only(session, stamps, monkeypatch) -> None:
    outcome = drain(session.make_job(stamps(count=2))())
    session.take_made(outcome.ids)
    session.decide("change", [0], "approve")
    folder = session.study_folder
    monkeypatch.undo()
    session.choose_method("nucleimix")
    rare, major = (tuple(map(session.dataset.class_name, numbers)) for numbers in (session.rare, session.major))
    session.take_stage(drain(session.stage_job(CandidateSettings(rare, major, background_share=0.1))()))
    assert session.study_folder == folder and session.candidates is not None and session.decided("approve") == 1


def test_a_run_that_makes_nothing_leaves_no_study(session, stamps) -> None:
    from napari_histomix.records import HistomixError

    with pytest.raises(HistomixError, match="count"):
        drain(session.make_job(stamps(count=0))())
    session.take_made(())
    assert session.study is None and not session.study_folder.exists()
    run = session.make_job(stamps())()
    next(run)
    run.close()
    assert not session.study_folder.exists()


def test_images_with_a_class_open_in_the_same_session(qapp, tmp_path, qtbot) -> None:
    from review_samples import make_class_study

    study = make_class_study(tmp_path / "study")
    session = Session(home=tmp_path)
    session.take_opened(drain(study_job(study.folder)))
    assert session.candidates is None and not session.ready and len(session.table) == 6
    name = session.change(2).name
    assert session.target_of(name) == session.change(2).image and [c.id for c in session.changes_of(name)] == [2]
    session.show(name)
    qtbot.waitUntil(lambda: session.image == name, timeout=20_000)
    session.step(1)
    qtbot.waitUntil(lambda: session.image in session.images, timeout=20_000)


def test_a_moved_dataset_is_asked_for(session, tmp_path) -> None:
    from napari_histomix.study import Study

    Study.create(tmp_path / "lost", tmp_path / "nowhere", "lost")
    moved = drain(study_job(tmp_path / "lost"))
    assert "no longer" in moved.sentence and moved.folder == tmp_path / "lost"
    found = drain(study_job(tmp_path / "lost", sample_folder()))
    assert found.dataset.root == sample_folder()
    assert drain(study_job(tmp_path / "lost")).dataset.root == sample_folder()


def test_a_folder_that_is_nothing_is_refused(tmp_path: Path) -> None:
    from napari_histomix.records import HistomixError

    with pytest.raises(HistomixError):
        drain(open_job(tmp_path))


def test_a_study_bears_the_name_of_its_dataset(session) -> None:
    session.dataset = replace(session.dataset, name="mine, augmented")
    assert session.free_folder().name == "mine, augmented"
    session.dataset = replace(session.dataset, name="a/b")
    assert session.free_folder().name == "a-b"
