"""NucleiMix end to end, on a small made-up dataset with a small untrained network."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_histomix.compositing import compose
from napari_histomix.compositing.donors import CUT_BY_EDGE, PALE, SLIVER, TOUCHES_NEIGHBOR
from napari_histomix.compositing.planning import COVERS_NEIGHBOR, TOO_CLOSE
from napari_histomix.datasets import open_dataset
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.diffusion.samplers import PRESETS, Preset, Sampler
from napari_histomix.methods.nucleimix import (
    CHANGED,
    USED_UP,
    CandidateSettings,
    SynthesisSettings,
    find_candidates,
    synthesize,
)
from napari_histomix.records import Candidate, HistomixError, Location, Placement, drain

FIND = CandidateSettings(rare=(1,), background_share=0.5)
MAKE = SynthesisSettings(count=5, device="cpu")


@pytest.fixture(scope="module")
def images(labeled_image):
    train = [labeled_image(12, seed=seed, name=f"train_{seed}", patient=f"p{seed}", rare=4) for seed in range(3)]
    test = labeled_image(12, seed=9, name="test_9", split="test", patient="p9", rare=8)
    empty = labeled_image([], name="train_empty", patient="p4")
    return [*train, test, empty]


@pytest.fixture(scope="module")
def folder(images, dataset_folder, tmp_path_factory) -> Path:
    """Never write into it."""
    return dataset_folder(tmp_path_factory.mktemp("nucleimix") / "data", images)


@pytest.fixture(scope="module")
def dataset(folder):
    return open_dataset(folder)


@pytest.fixture(scope="module")
def found(dataset):
    return drain(find_candidates(dataset, FIND))


@pytest.fixture
def run(dataset, found, small_model):
    def synthesis(candidates=None, existing=(), data=dataset, **settings):
        chosen = replace(MAKE, **settings)
        candidates = found.candidates if candidates is None else candidates
        return drain(synthesize(data, candidates, chosen, small_model, existing))

    return synthesis


def content(one: Placement) -> tuple:
    arrays = one.pixels, one.origin, one.nucleus
    return (
        one.candidate,
        one.instance,
        one.row,
        one.col,
        one.seed,
        dict(one.provenance),
        *((array.shape, array.dtype.str, array.tobytes()) for array in arrays),
    )


def same(first, second) -> bool:
    return list(map(content, first)) == list(map(content, second))


class TestCandidates:
    def test_every_place_comes_once_by_rank_with_a_donor_of_the_rare_class(self, found, images):
        places = [one.target for one in found.candidates]
        assert [one.rank for one in found.candidates] == list(range(len(found.candidates)))
        assert len(set(places)) == len(places) > 20
        assert {one.kind for one in places} == {"major", "background"}
        by_name = {image.source.image: image for image in images}
        for one in found.candidates:
            assert one.donor.kind == "rare" and one.donor.type == 1
            assert by_name[one.donor.image].types[one.donor.instance] == 1
            assert 0 <= one.percentile <= 100 and np.isfinite(one.log_likelihood)
            if one.target.kind == "major":
                assert by_name[one.target.image].types[one.target.instance] == 2
                assert 0.4 <= one.donor.area / one.target.area <= 1.1

    def test_only_the_training_split_is_looked_at(self, found, folder, tmp_path):
        used = {place.image for one in found.candidates for place in (one.target, one.donor)}
        assert "test_9" not in used and len(used) >= 3
        assert found.considered["rare"] == 12
        # Not even through statistics: with the test image spoiled or gone, everything is the same.
        other = Path(shutil.copytree(folder, tmp_path / "spoiled"))
        (other / "Images" / "test_9.png").write_bytes(b"spoiled")
        again = drain(find_candidates(open_dataset(other), FIND))
        assert again.candidates == found.candidates
        for name in ("Images/test_9.png", "Labels/test_9.mat"):
            (other / name).unlink()
        assert drain(find_candidates(open_dataset(other), FIND)).candidates == found.candidates

    def test_the_seed_decides_and_nothing_else(self, dataset, found):
        again = drain(find_candidates(dataset, FIND))
        assert again.candidates == found.candidates
        other = drain(find_candidates(dataset, replace(FIND, seed=1)))
        assert other.candidates != found.candidates

    def test_the_draw_is_worth_something_and_says_how_much(self, dataset, found):
        assert found.temperature >= 1
        assert 0.1 * len(found.candidates) * 0.9 <= found.effective_sample_size <= found.considered.total()
        hot = drain(find_candidates(dataset, replace(FIND, temperature=1e9)))
        assert hot.effective_sample_size == pytest.approx(hot.considered.total() - 12, rel=1e-6)
        peaked = replace(found, effective_sample_size=3.0, candidates=found.candidates * 4)
        assert "worth only 3" in peaked.warnings[0]

    def test_donors_are_shared_out(self, found):
        donors = [(one.donor.image, one.donor.instance) for one in found.candidates]
        assert len(set(donors)) > 6

    def test_flawed_rare_nuclei_count_as_surroundings_but_give_nothing(self, labeled_image, dataset_folder, tmp_path):
        image = labeled_image(
            [
                (30, 30, 6, 6, 1),
                (30, 90, 6, 6, 1),
                (5, 60, 6, 6, 1),
                (70, 30, 6, 6, 1),
                (70, 43, 6, 6, 2),
                (70, 90, 2, 2, 1),
                (100, 60, 7, 7, 2),
            ]
        )
        found = drain(find_candidates(open_dataset(dataset_folder(tmp_path / "d", [image])), FIND))
        assert found.unfit_donors == {CUT_BY_EDGE: 1, TOUCHES_NEIGHBOR: 1, SLIVER: 1}
        assert {one.donor.instance for one in found.candidates} == {1, 2}
        assert found.considered["rare"] == 5

    def test_a_rare_nucleus_far_paler_than_its_class_gives_nothing(self, labeled_image, dataset_folder, tmp_path):
        image = labeled_image([(30, 30, 6, 6, 1), (30, 90, 6, 6, 1), (90, 30, 6, 6, 1), (90, 90, 6, 6, 2)])
        pale = image.instances == 2
        image.pixels[pale] = np.rint(0.3 * image.pixels[pale] + 0.7 * image.pixels[60, 60]).astype(np.uint8)
        found = drain(find_candidates(open_dataset(dataset_folder(tmp_path / "d", [image])), FIND))
        assert found.unfit_donors == {PALE: 1}
        assert {one.donor.instance for one in found.candidates} == {1, 3}

    def test_classes_left_out_are_neither_replaced_nor_given(self, labeled_image, dataset_folder, tmp_path):
        image = labeled_image([(30, 30, 6, 6, 1), (30, 90, 6, 6, 2), (80, 30, 6, 6, 3), (80, 90, 6, 6, 2)])
        data = open_dataset(dataset_folder(tmp_path / "d", [image]))
        some = drain(find_candidates(data, replace(FIND, major=(2,))))
        assert {one.target.type for one in some.candidates if one.target.kind == "major"} == {2}
        every = drain(find_candidates(data, FIND))
        assert {one.target.type for one in every.candidates if one.target.kind == "major"} == {2, 3}
        assert every.settings.major == (2, 3)

    def test_no_rare_nucleus_is_one_sentence(self, labeled_image, dataset_folder, tmp_path):
        image = labeled_image([(30, 30, 6, 6, 2)])
        data = open_dataset(dataset_folder(tmp_path / "d", [image]))
        with pytest.raises(HistomixError, match="No training image has a nucleus of class rare"):
            drain(find_candidates(data, FIND))

    def test_no_rare_nucleus_that_could_be_a_donor_is_one_sentence(self, labeled_image, dataset_folder, tmp_path):
        image = labeled_image([(5, 30, 6, 6, 1), (60, 60, 6, 6, 2)])
        data = open_dataset(dataset_folder(tmp_path / "d", [image]))
        with pytest.raises(HistomixError, match="None of the 1 nuclei of class rare can be a donor"):
            drain(find_candidates(data, FIND))

    def test_no_room_anywhere_is_one_sentence(self, labeled_image, dataset_folder, tmp_path):
        image = labeled_image([(16, 16, 8, 8, 1), (16, 48, 8, 8, 1)], shape=(32, 64))
        image.pixels[image.instances == 0] = 250
        data = open_dataset(dataset_folder(tmp_path / "d", [image]))
        with pytest.raises(HistomixError, match="no nucleus to replace and no free place"):
            drain(find_candidates(data, FIND))

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"major": (2, 1)}, "cannot be both rare and major"),
            ({"rare": ()}, "at least one rare class"),
            ({"rare": (7,)}, "no class '7'; its classes are 1 rare"),
            ({"encoder": "magic"}, "not an encoder"),
        ],
    )
    def test_settings_that_cannot_be_met_are_one_sentence(self, dataset, settings, words):
        with pytest.raises(HistomixError, match=words):
            drain(find_candidates(dataset, replace(FIND, **settings)))

    def test_a_bad_image_is_reported_and_the_others_go_on(self, folder, tmp_path):
        other = Path(shutil.copytree(folder, tmp_path / "data"))
        (other / "Images" / "train_1.png").write_bytes(b"no image")
        events, job = [], find_candidates(open_dataset(other), FIND)
        try:
            while True:
                events.append(next(job))
        except StopIteration as end:
            found = end.value
        assert [problem.image for problem in found.problems] == ["train_1"]
        assert any(event.message and "train_1" in event.message for event in events)
        used = {place.image for one in found.candidates for place in (one.target, one.donor)}
        assert {"train_0", "train_2"} <= used and "train_1" not in used


class TestSynthesis:
    def test_the_same_seed_gives_the_same_bytes_another_others(self, run):
        first, again, other = run(), run(), run(seed=1)
        assert len(first.placements) == 5
        assert same(first.placements, again.placements) and first.refusals == again.refusals
        assert [one.candidate.rank for one in first.placements] == sorted(
            one.candidate.rank for one in first.placements
        )
        assert not same(first.placements, other.placements)

    def test_the_batch_does_not_show_in_the_bytes(self, run):
        assert same(run(batch=1).placements, run(batch=16).placements)

    def test_fewer_wanted_are_the_first_of_more(self, run):
        few, many = run(count=2).placements, run(count=5).placements
        assert same(few, many[:2])

    def test_ids_go_on_where_the_image_ends(self, run, images):
        made = run().placements
        for image in images:
            here = [one for one in made if one.candidate.target.image == image.source.image]
            assert [one.instance for one in here] == [13 + number for number in range(len(here))]

    def test_fewer_places_than_wanted_is_no_error(self, run, found):
        made = run(count=1000)
        assert 5 < len(made.placements) < len(found.candidates)
        assert len(made.placements) + made.refusals.total() == len(found.candidates)
        assert made.refusals[TOO_CLOSE] + made.refusals[COVERS_NEIGHBOR] > 0

    def test_no_place_takes_its_donor(self, run, found, images):
        # In the corner of the image nothing fits.
        stuck = [
            replace(one, target=Location(one.target.image, "background", 1.0, 1.0)) for one in found.candidates[:6]
        ]
        made = run(stuck)
        assert made.placements == () and made.refusals.total() == 6
        assert run([]).placements == ()

    def test_a_donor_is_used_only_as_often_as_allowed(self, run):
        made = run(count=1000, uses=1)
        donors = [(one.candidate.donor.image, one.candidate.donor.instance) for one in made.placements]
        assert len(set(donors)) == len(donors)
        assert made.refusals[USED_UP] > 0

    def test_existing_placements_are_respected(self, run, images):
        first = run(count=4).placements
        more = run(count=6, existing=first, uses=2).placements
        assert not {one.candidate.rank for one in first} & {one.candidate.rank for one in more}
        assert len(more) == 6
        donors = [(one.candidate.donor.image, one.candidate.donor.instance) for one in (*first, *more)]
        assert max(donors.count(one) for one in donors) <= 2
        for image in images:
            both = [one for one in (*first, *more) if one.candidate.target.image == image.source.image]
            ids = [one.instance for one in both]
            assert len(set(ids)) == len(ids) and not set(ids) & set(image.types)
            changed = np.zeros(image.instances.shape, int)
            for one in both:
                changed[one.window] += one.origin != 0
            assert changed.max(initial=0) <= 1
            counts = compose(image, both).image.counts()
            assert counts[1] == image.counts()[1] + len(both)

    def test_more_of_the_same_is_what_one_run_would_have_made(self, run):
        once = run(count=5).placements
        first = run(count=3).placements
        more = run(count=2, existing=first).placements
        assert same(once, (*first, *more))

    def test_provenance_says_how_it_was_made(self, run, small_model):
        made = run().placements
        for one in made:
            assert one.provenance["sampler"] == "fast"
            assert (one.provenance["model"], one.provenance["model_sha256"]) == ("small", small_model.sha256)
            assert {"quarter_turns", "mirrored", "shift", "stain"} <= set(one.provenance)
        assert len({one.seed for one in made}) == 5

    def test_the_papers_sampler(self, run, monkeypatch):
        few = Sampler("mcg-fixed", 1000, 10, conditional=False, eta=0.0)
        monkeypatch.setitem(PRESETS, "paper", Preset(ring=few, disc=few, large=few))
        made = run(count=1, sampler="paper")
        assert made.placements[0].provenance["sampler"] == "paper"

    def test_an_image_that_broke_since_is_reported_and_skipped(self, folder, run, tmp_path):
        other = Path(shutil.copytree(folder, tmp_path / "data"))
        data = open_dataset(other)
        (other / "Images" / "train_0.png").write_bytes(b"no image")
        made = run(data=data)
        assert [problem.image for problem in made.problems] == ["train_0"]
        used = {place.image for one in made.placements for place in (one.candidate.target, one.candidate.donor)}
        assert len(made.placements) == 5 and "train_0" not in used

    def test_a_candidate_of_another_split_is_refused(self, run, found):
        for part in ("donor", "target"):
            moved = replace(getattr(found.candidates[0], part), image="test_9")
            with pytest.raises(HistomixError, match="test_9 is not in the training split"):
                run([replace(found.candidates[0], **{part: moved}), *found.candidates[1:]])

    def test_candidates_of_the_same_rank_are_refused(self, run, found):
        with pytest.raises(HistomixError, match="same rank"):
            run([*found.candidates[:3], found.candidates[1]])

    @pytest.mark.parametrize(
        ("part", "changes"),
        [
            ("target", {"instance": 999, "type": 2}),
            ("target", {"row": 4000.0}),
            ("target", {"row": float("nan")}),
            ("donor", {"instance": 999}),
            ("donor", {"type": 2}),
        ],
    )
    def test_candidates_that_no_longer_fit_the_labels_are_refused_and_counted(self, run, found, part, changes):
        def spoil(one: Candidate) -> Candidate:
            return replace(one, **{part: replace(getattr(one, part), **changes)})

        made = run([spoil(one) for one in found.candidates[:4]])
        assert made.placements == () and made.refusals == {CHANGED: 4}

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"sampler": "slow"}, "choose one of fast, quality, paper"),
            ({"count": 0}, "at least 1"),
            ({"uses": 0}, "at least 1"),
        ],
    )
    def test_settings_that_cannot_be_met_are_one_sentence(self, run, settings, words):
        with pytest.raises(HistomixError, match=words):
            run(**settings)

    def test_closing_midway_stops_within_one_step(self, dataset, found, small_model_folder):
        model = load_model(small_model_folder)
        calls = []
        model.network.register_forward_hook(lambda *_: calls.append(1))
        job = synthesize(dataset, found.candidates, MAKE, model)
        for event in job:
            if event.preview is not None:
                break
        before = len(calls)
        job.close()
        # One step; a processor takes the windows of a batch one by one.
        assert 1 <= before <= MAKE.count and len(calls) == before

    def test_the_bundled_weights_serve_by_default(self, dataset, found):
        made = drain(synthesize(dataset, found.candidates, replace(MAKE, count=1)))
        assert made.placements[0].provenance["model"]
