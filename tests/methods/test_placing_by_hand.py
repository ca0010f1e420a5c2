"""A candidate placed by hand: by the rules of the search, kept, made, made again, and moved."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from napari_histomix import jobs
from napari_histomix.compositing.planning import TOO_CLOSE
from napari_histomix.datasets import open_dataset
from napari_histomix.datasets.edits import HandEdit
from napari_histomix.methods.base import Work
from napari_histomix.methods.candidate_stage import CANDIDATES, CandidateSettings
from napari_histomix.methods.learned_places import LEARNED, LearnedPlaces
from napari_histomix.methods.nucleimix import NucleiMixSettings
from napari_histomix.methods.placing_by_hand import place_by_hand
from napari_histomix.records import Candidate, HistomixError, drain
from napari_histomix.study import Study
from napari_histomix.study.export import export_study
from napari_histomix.study.manifest import read_manifest
from napari_histomix.study.replay import replay

MAKE = NucleiMixSettings(count=1, device="cpu", check_free_places=False, stain_matching=True)
CLEAR = 64, 96
"""In the middle of the largest gap of the first image."""


@pytest.fixture(scope="module")
def dataset(labeled_image, dataset_folder, tmp_path_factory):
    placed = [(30, 30, 6, 6, 1), (98, 30, 6, 6, 1), (30, 90, 8, 8, 2), (98, 98, 8, 8, 2), (64, 28, 6, 6, 3)]
    images = [labeled_image(placed, name="a", patient="p0")]
    images += [labeled_image(12, seed=seed, name=f"b{seed}", patient=f"p{seed}", rare=5) for seed in (1, 2)]
    images.append(labeled_image(12, seed=9, name="test", split="test", patient="p9"))
    images[0].pixels[:16, :60] = 245
    return open_dataset(dataset_folder(tmp_path_factory.mktemp("by_hand") / "data", images))


@pytest.fixture(params=["ratio", "gaussian"])
def density(request):
    return request.param


@pytest.fixture
def study(dataset, tmp_path):
    return searched(dataset, tmp_path / "study")


def searched(dataset, folder, density="ratio") -> Study:
    study = Study.create(folder, dataset.root, dataset.name)
    settings = CandidateSettings(rare=("rare",), major=("common",), beside_rare=5, density=density)
    drain(CANDIDATES.find(Work(dataset, study), settings))
    return study


def place(dataset, study: Study, row: float, col: float, image: str = "a", moved=None) -> Candidate:
    work = Work(dataset, study, decisions={"candidate": study.decisions("candidate")})
    return drain(place_by_hand(work, image, row, col, moved))


def test_a_free_place_gets_a_donor_and_a_score_as_the_search_gives_them(dataset, tmp_path, density):
    study = searched(dataset, tmp_path / "study", density)
    study.reviewer = "Ada"
    # A place that the search has looked at itself.
    known = next(each for each in study.candidates() if each.target.kind == "background" and each.target.image == "b1")
    placed = place(dataset, study, known.target.row, known.target.col, "b1")
    assert placed.target == known.target and placed.rank == len(study.candidates()) - 1
    assert placed.log_likelihood == pytest.approx(known.log_likelihood, abs=1e-5)
    assert placed.percentile == pytest.approx(known.percentile, abs=1e-9)
    assert placed.donor.kind == "rare" and placed.placed_by == "Ada"
    assert Study.open(study.folder).candidates()[-1] == placed


def test_a_nucleus_that_may_be_replaced_gives_its_candidate(dataset, study):
    known = next(each for each in study.candidates() if each.target.image == "a" and each.target.instance == 3)
    assert place(dataset, study, 27, 92) == known and known.placed_by is None
    # One that a run refused gets another donor, if it has one.
    run = study.begin_run("nucleimix", {})
    study.set_plan(run.id, 1, {}, {known.rank: "it would touch another synthetic nucleus"})
    again = place(dataset, study, 27, 92)
    assert again.target == known.target and again.placed_by == "" and again.rank > known.rank


@pytest.mark.parametrize(
    ("row", "col", "image", "words"),
    [
        (30, 30, "a", "of the rare class rare already"),
        (64, 28, "a", "of class other, which may not be replaced"),
        (6, 20, "a", "no tissue"),
        (2, 100, "a", "would touch the edge of the image"),
        (64, 36, "a", "would touch another nucleus"),
        (500, 3, "a", "outside of a"),
        (64, 64, "test", "not in the training split"),
    ],
)
def test_where_nothing_fits_one_sentence_says_why(dataset, study, row, col, image, words):
    with pytest.raises(HistomixError, match=words):
        place(dataset, study, row, col, image)
    assert all(each.placed_by is None for each in study.candidates())


def test_it_is_made_before_all_others_and_again_to_the_last_bit(
    dataset, study, small_model, small_model_folder, tmp_path
):
    study.reviewer = "Ada"
    placed = place(dataset, study, *CLEAR)
    study.decide("candidate", [placed.rank], "keep")
    outcome = drain(jobs.run("nucleimix", dataset, MAKE, study, loaded=small_model))
    (made,) = study.changes()
    assert outcome.ids == (placed.rank,) == (made.id,)
    assert (made.target.row, made.target.col) == CLEAR and made.provenance["placed_by"] == "Ada"
    assert study.outcomes()[placed.rank] == made.id
    with pytest.raises(HistomixError, match="synthetic nucleus lies there already"):
        place(dataset, study, *CLEAR)
    with pytest.raises(HistomixError, match="touch another synthetic nucleus"):
        place(dataset, study, CLEAR[0] + 14, CLEAR[1])
    drain(export_study(study, dataset, tmp_path / "out", reviewed=False))
    manifest = read_manifest(tmp_path / "out")
    assert manifest.records[0].provenance["placed_by"] == "Ada"
    report = drain(replay(manifest, dataset, [small_model_folder]))
    assert {one.outcome for one in report.compared} == {"identical"}


def test_an_undone_placement_is_not_there_until_it_is_done_again(dataset, study, small_model):
    placed = place(dataset, study, *CLEAR)
    study.decide("candidate", [placed.rank], "keep")
    study.undo("candidate")
    usable = CANDIDATES.usable(Work(dataset, study, decisions={"candidate": study.decisions("candidate")}), False)
    assert placed.rank not in [each.rank for each in usable] and not placed.there(study.decisions("candidate"))
    study.redo("candidate")
    assert placed.there(Study.open(study.folder).decisions("candidate"))


def test_a_moved_candidate_keeps_its_donor_where_that_fits(dataset, study):
    first = place(dataset, study, *CLEAR)
    for shift in (-6, 6):
        moved = place(dataset, study, CLEAR[0], CLEAR[1] + shift, moved=first)
        assert moved.donor == first.donor and moved.target.col == CLEAR[1] + shift


def test_donors_are_shared_out_among_what_is_kept(dataset, study):
    rows = np.linspace(58, 70, 8)
    placed = []
    for row in rows:
        placed.append(place(dataset, study, row, CLEAR[1]))
        study.decide("candidate", [placed[-1].rank], "keep")
    assert max(Counter(each.donor for each in placed).values()) < len(placed)


def test_a_study_that_does_not_hold_what_was_learned_says_so(dataset, study):
    (study.folder / study.settings()[LEARNED]).unlink()
    with pytest.raises(HistomixError, match="Find candidates in a new study"):
        place(dataset, study, *CLEAR)


def test_nothing_is_placed_by_a_search_whose_candidates_went(dataset, study):
    own = dataset.read("a")
    classes = {number: dataset.class_name(kind) for number, kind in own.types.items()}
    study.add_edits([HandEdit.of(own, own.instances, classes, "", "")])
    with pytest.raises(HistomixError, match="holds no candidates; find them first"):
        place(study.with_edits(dataset), study, *CLEAR)
    assert not study.has_candidates()


def test_a_damaged_file_is_one_sentence(dataset, study):
    path = study.folder / study.settings()[LEARNED]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(HistomixError, match="is damaged"):
        LearnedPlaces.load(study.folder, study.settings())


def test_a_kept_candidate_that_is_refused_says_why(dataset, study, small_model):
    first, second = (place(dataset, study, CLEAR[0], CLEAR[1] + shift) for shift in (0, 4))
    study.decide("candidate", [first.rank, second.rank], "keep")
    drain(jobs.run("nucleimix", dataset, replace(MAKE, count=2), study, loaded=small_model))
    outcomes = Study.open(study.folder).outcomes()
    assert outcomes[first.rank] == first.rank and first.rank in study.changes().ids
    assert outcomes[second.rank] == TOO_CLOSE
    assert all(isinstance(outcome, str) for rank, outcome in outcomes.items() if rank not in study.changes().ids)
    assert sum(isinstance(outcome, str) for outcome in outcomes.values()) == sum(study.runs()[0].refusals.values())
    # What a later run makes of it counts more than that an earlier one refused it.
    study.discard_run(study.runs()[0].id)
    assert study.outcomes() == {}
    study.decide("candidate", [first.rank], "drop")
    drain(jobs.run("nucleimix", dataset, MAKE, study, loaded=small_model))
    assert study.outcomes()[second.rank] == second.rank


def test_the_command_line_places_and_moves(run, dataset, study, tmp_path):
    study.let_go()
    where = study.folder, "--image", "a", "--col", CLEAR[1]
    code, shown, _ = run("place", *where, "--row", CLEAR[0], "--reviewer", "Ada", "--json")
    first = json.loads(shown[-1])["rank"]
    code, shown, _ = run("place", *where, "--row", CLEAR[0] + 4, "--move", first)
    assert code == 0 and "is kept: on free tissue, donor" in shown[-1]
    assert Study.open(study.folder).decisions("candidate") == {first: "drop", first + 1: "keep"}
    assert [each.placed_by for each in Study.open(study.folder).candidates()[-2:]] == ["Ada", ""]
    code, _, told = run("place", *where, "--row", 30, "--move", 10_000)
    assert code != 0 and "no candidate of rank 10000" in " ".join(told)
