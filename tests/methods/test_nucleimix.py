"""NucleiMix end to end, on a small made-up dataset with a small untrained network."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_histomix import jobs
from napari_histomix.compositing.composing import compose
from napari_histomix.compositing.donors import CUT_BY_EDGE, PALE, SLIVER, TOUCHES_NEIGHBOR
from napari_histomix.compositing.placing import CHANGED, IMAGE_FULL, USED_UP
from napari_histomix.compositing.planning import COVERS_NEIGHBOR, CROSSES_EDGE, TOO_CLOSE
from napari_histomix.datasets import Dataset, open_dataset
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.diffusion.samplers import PRESETS, Preset, Sampler
from napari_histomix.methods import nucleimix
from napari_histomix.methods.base import Plan, Work
from napari_histomix.methods.candidate_stage import CandidateSettings, find_candidates, told_apart_sentence
from napari_histomix.methods.nucleimix import METHOD, NucleiMixSettings
from napari_histomix.methods.record import Record
from napari_histomix.records import DONOR, INPAINTED, KEEP, REAL, Candidate, Change, HistomixError, Location, drain
from napari_histomix.sampling import nucleus_locations
from napari_histomix.settings import check_settings, made_from
from napari_histomix.study import Study

FIND = CandidateSettings(rare=("rare",), background_share=0.5)
PAPER = replace(FIND, density="gaussian", neighborhood=False, beside_rare=0, balance=False)
MAKE = NucleiMixSettings(count=5, device="cpu", check_free_places=False, spare=1.0)


@dataclass
class Shelf:
    """A study without a disk."""

    kept: tuple[Candidate, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    made: list[Change] = field(default_factory=list)
    folder: Path = Path()

    def settings(self) -> dict[str, Any]:
        return dict(self.facts)

    def save_settings(self, values: Mapping[str, Any]) -> None:
        self.facts = {**self.facts, **values}

    def candidates(self) -> tuple[Candidate, ...]:
        return self.kept

    def set_candidates(self, candidates: Iterable[Candidate], facts: Mapping[str, Any]) -> None:
        self.kept, self.facts = tuple(candidates), facts

    def changes(self) -> list[Change]:
        return self.made


@dataclass(frozen=True)
class Made:
    """A plan, and its changes by id, which are made when somebody looks at them."""

    plan: Plan
    work: Work
    settings: NucleiMixSettings

    @property
    def refusals(self) -> Counter[str]:
        return self.plan.refusals

    @property
    def candidates(self) -> list[Candidate]:
        """Those that take their donors."""
        return [item.plan.plan.candidate for item in self.plan.items]

    @cached_property
    def changes(self) -> list[Change]:
        made = [change for event in METHOD.make(self.work, self.plan.items, self.settings) for change in event.made]
        return sorted(made, key=lambda change: change.id)


class Ingredients:
    """What the records of these tests are made again from."""

    def __init__(self, dataset: Dataset, model: object) -> None:
        self.dataset, self._model = dataset, model

    def read(self, facts):
        return self.dataset.read(facts["image"])

    def model(self, _provenance):
        return self._model

    def device(self, provenance):
        return provenance["device"]

    def threads(self, _provenance):
        return nullcontext()


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
    """What is placed: candidates as the paper finds them."""
    return drain(find_candidates(dataset, PAPER))


@pytest.fixture(scope="module")
def found_by_ratio(dataset):
    return drain(find_candidates(dataset, FIND))


@pytest.fixture
def run(dataset, found, small_model):
    """Plan and make, after ``before`` was made in the same study; changes by rank."""

    def carry_out(candidates=None, before=(), data=dataset, decisions=None, **settings):
        chosen = check_settings(replace(MAKE, **settings))
        shelf = Shelf(found.candidates if candidates is None else tuple(candidates), found.facts, list(before))
        first = max((change.id for change in before), default=-1) + 1
        work = Work(data, shelf, first, {"candidate": decisions or {}}, small_model)
        return Made(drain(METHOD.plan(work, chosen)), work, chosen)

    return carry_out


def content(change: Change, without: tuple[str, ...] = ()) -> tuple:
    arrays = change.pixels, change.origin, change.labels
    return (
        *(change.image, change.name, change.row, change.col, change.seed, round(change.score, 3), change.sources),
        *(dict(change.added), change.removed, change.method, change.class_shares),
        {key: value for key, value in change.provenance.items() if key not in without},
        *((array.shape, array.dtype.str, array.tobytes()) for array in arrays),
    )


def same(first: Iterable[Change], second: Iterable[Change], without: tuple[str, ...] = ()) -> bool:
    return [content(change, without) for change in first] == [content(change, without) for change in second]


def donors(candidates: Iterable[Candidate]) -> Counter[tuple[str, int]]:
    return Counter((candidate.donor.image, candidate.donor.instance) for candidate in candidates)


def images_of(candidates: Iterable[Candidate]) -> Counter[str]:
    return Counter(candidate.target.image for candidate in candidates)


class TestCandidates:
    @pytest.fixture
    def found(self, found_by_ratio):
        return found_by_ratio

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
                assert 0.1 <= one.donor.area / one.target.area <= 1.1

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
        assert found.temperature == 1 and 1 < found.effective_sample_size <= len(found.candidates)
        paper = drain(find_candidates(dataset, PAPER))
        assert paper.temperature >= 1
        assert 0.1 * len(paper.candidates) * 0.9 <= paper.effective_sample_size <= paper.considered.total()
        hot = drain(find_candidates(dataset, replace(FIND, temperature=1e9, beside_rare=0, balance=False)))
        assert hot.effective_sample_size == pytest.approx(hot.considered.total() - 12, rel=1e-6)
        peaked = replace(found, effective_sample_size=3.0, candidates=found.candidates * 4)
        assert "worth only 3" in peaked.warnings[0]

    def test_it_says_how_well_places_are_told_apart(self, dataset, found):
        sentence = told_apart_sentence(found.facts)
        assert sentence == (
            f"Places of this class can be told apart here: {found.told_apart.pooled:.2f} "
            f"(within an image {found.told_apart.within:.2f}); a guess is 0.5."
        )
        worse = told_apart_sentence({"told_apart": {"pooled": 0.21, "within": None}})
        assert worse == "Places of this class cannot be told apart here: 0.21; a guess is 0.5."
        assert 0 <= found.told_apart.pooled <= 1 and found.settings.density == "ratio"
        paper = drain(find_candidates(dataset, replace(FIND, density="gaussian")))
        assert paper.told_apart is None and told_apart_sentence(paper.facts) == ""
        assert told_apart_sentence({"candidate_settings": {}}) == "", "a study of before"

    def test_too_few_rare_nuclei_for_a_ratio_are_said(self, labeled_image, dataset_folder, tmp_path):
        image = labeled_image([(30, 30, 6, 6, 1), (30, 90, 6, 6, 2)])
        data = open_dataset(dataset_folder(tmp_path / "d", [image]))
        found = drain(find_candidates(data, FIND))
        assert "fewer than 10 rare nuclei (here 1)" in found.warnings[0] and found.settings.density == "gaussian"
        paper = drain(find_candidates(data, replace(FIND, density="gaussian")))
        assert paper.candidates == found.candidates and paper.warnings == ()

    def test_rare_nuclei_of_one_image_give_a_ratio_and_no_claim(self, labeled_image, dataset_folder, tmp_path):
        image = labeled_image(30, shape=(160, 160), rare=12)
        found = drain(find_candidates(open_dataset(dataset_folder(tmp_path / "d", [image])), FIND))
        assert found.settings.density == "ratio" and found.told_apart is None and len(found.candidates) > 10
        assert "too few to say whether places can be told apart" in told_apart_sentence(found.facts)

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

    def test_synthetic_nuclei_are_neither_donors_nor_looked_at(self, labeled_image, dataset_folder, tmp_path):
        image = labeled_image([(30, 30, 6, 6, 1), (30, 90, 6, 6, 1), (90, 30, 6, 6, 2), (90, 90, 6, 6, 2)])
        data = open_dataset(dataset_folder(tmp_path / "d", [image]))
        read = type(data).read
        marked = replace(read(data, "image"), synthetic=frozenset({2, 4}))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(data), "read", lambda *_: marked)
            found = drain(find_candidates(data, FIND))
            assert found.considered["rare"] == 1 and found.considered["major"] == 1
            assert {candidate.donor.instance for candidate in found.candidates} == {1}
            faked = [replace(one, donor=replace(one.donor, instance=2)) for one in found.candidates]
            plan = drain(METHOD.plan(Work(data, Shelf(tuple(faked))), MAKE))
        assert plan.items == [] and plan.refusals == {CHANGED: len(faked)}

    def test_a_study_keeps_how_they_were_found_and_gives_it_back(self, dataset, found, tmp_path):
        study = Study.create(tmp_path / "study", dataset.root, dataset.name)
        assert not METHOD.stage.ready(study)
        again = drain(METHOD.stage.find(Work(dataset, study), FIND))
        assert METHOD.stage.ready(study) and study.candidates() == again.candidates == found.candidates
        kept = study.settings()
        assert kept["encoder"] == "texture-1" and kept["temperature"] == found.temperature
        assert kept["effective_sample_size"] == found.effective_sample_size and kept["warnings"] == list(found.warnings)
        assert made_from(CandidateSettings, kept["candidate_settings"]) == found.settings

    def test_classes_left_out_are_neither_replaced_nor_given(self, labeled_image, dataset_folder, tmp_path):
        image = labeled_image([(30, 30, 6, 6, 1), (30, 90, 6, 6, 2), (80, 30, 6, 6, 3), (80, 90, 6, 6, 2)])
        data = open_dataset(dataset_folder(tmp_path / "d", [image]))
        some = drain(find_candidates(data, replace(FIND, major=("common",))))
        assert {one.target.type for one in some.candidates if one.target.kind == "major"} == {2}
        every = drain(find_candidates(data, FIND))
        assert {one.target.type for one in every.candidates if one.target.kind == "major"} == {2, 3}
        assert every.settings.major == ("common", "other")

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
            ({"major": ("common", "RARE")}, "cannot be both rare and major"),
            ({"rare": ()}, "at least one rare class"),
            ({"rare": ("odd",)}, "no class 'odd'; its classes are 1 rare"),
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
        assert len(first.changes) == 5
        assert same(first.changes, again.changes) and first.refusals == again.refusals
        assert [item.id for item in first.plan.items] == [change.id for change in first.changes]
        assert not same(first.changes, other.changes)

    def test_free_places_that_hold_a_nucleus_without_a_label_are_refused(self, run, monkeypatch):
        asked = []

        class Everywhere:
            def __init__(self, *_: object) -> None: ...

            def within(self, image, window):
                asked.append(image.source.image)
                return np.ones([part.stop - part.start for part in window], bool)

        monkeypatch.setattr(nucleimix, "load_segmenter", lambda: SimpleNamespace(sha256="5e9"))
        monkeypatch.setattr(nucleimix, "UnlabeledNuclei", Everywhere)
        before, checked = run(count=100), run(count=100, check_free_places=True)
        kinds = Counter(candidate.target.kind for candidate in before.candidates)
        assert kinds["background"] and kinds["major"]
        # The others are not asked about, and stay.
        assert {candidate.target.kind for candidate in checked.candidates} == {"major"}
        assert checked.refusals[nucleimix.HOLDS_NUCLEUS] == len(asked) > 0
        assert {item.how["search"]["segmenter_sha256"] for item in checked.plan.items} == {"5e9"}

    def test_the_batch_does_not_show_in_the_bytes(self, run):
        whole = run(batch=16).changes
        assert same(run(batch=1).changes, whole) and same(run(batch=2).changes, whole)

    def test_fewer_wanted_are_the_first_of_more(self, run):
        few, many = run(count=2).changes, run(count=5).changes
        assert same(few, many[:2], without=("settings",))

    def test_a_change_says_what_it_adds_replaces_and_was_made_of(self, run, images, found):
        by_name = {image.source.image: image for image in images}
        for change in run(count=8).changes:
            candidate = found.candidates[change.id]
            (instance,) = change.added
            assert change.in_place and change.method == "nucleimix" and change.score == candidate.percentile
            assert change.added[instance] == candidate.donor.type == 1
            assert instance not in by_name[change.image].types
            replaced = candidate.target.instance
            assert change.removed == ((replaced,) if replaced else ())
            assert [source.role for source in change.sources] == ["target", "donor"]
            assert (change.target.item, change.donor.item) == (replaced, candidate.donor.instance)
            assert set(np.unique(change.labels)) == {KEEP, instance}
            assert set(np.unique(change.origin)) == {REAL, DONOR, INPAINTED}
            assert not change.pixels[change.origin == REAL].any(), "nothing of the target is kept twice"

    def test_ids_go_on_where_the_image_ends(self, run, images):
        made = run().changes
        for image in images:
            here = [change for change in made if change.image == image.source.image]
            assert [next(iter(change.added)) for change in here] == [13 + number for number in range(len(here))]

    def test_fewer_places_than_wanted_is_no_error(self, run, found):
        made = run(count=1000)
        assert 5 < len(made.candidates) < len(found.candidates)
        assert len(made.candidates) + made.refusals.total() == len(found.candidates)
        assert made.refusals[TOO_CLOSE] + made.refusals[COVERS_NEIGHBOR] > 0

    def test_no_place_takes_its_donor(self, run, found):
        # In the corner of the image nothing fits.
        stuck = [
            replace(candidate, target=Location(candidate.target.image, "background", 1.0, 1.0))
            for candidate in found.candidates[:6]
        ]
        made = run(stuck)
        assert made.candidates == [] and made.refusals.total() == 6
        assert run([]).candidates == []

    def test_dropped_candidates_are_left_out_and_kept_ones_used_alone_where_asked_for(self, run):
        first = [item.id for item in run().plan.items]
        decisions = {first[0]: "drop", first[2]: "keep", first[3]: "keep"}
        assert first[0] not in [item.id for item in run(decisions=decisions).plan.items]
        kept = run(decisions=decisions, kept_only=True)
        assert [item.id for item in kept.plan.items] == [first[2], first[3]]


class TestLimits:
    def test_a_donor_is_used_only_as_often_as_allowed(self, run):
        made = run(count=1000, uses=1)
        assert max(donors(made.candidates).values()) == 1 and made.refusals[USED_UP] > 0

    def test_an_image_takes_only_as_many_as_allowed(self, run, found):
        made = run(count=1000, per_image=2)
        assert set(images_of(made.candidates).values()) == {2}
        assert made.refusals[IMAGE_FULL] > 0
        assert len(made.candidates) + made.refusals.total() == len(found.candidates)
        # Those of other images come in their place.
        assert len(run(count=8, per_image=2).candidates) == 8

    def test_earlier_changes_count(self, run):
        first = run(count=4, per_image=2)
        more = run(count=1000, before=first.changes, per_image=2, uses=1)
        assert max(images_of([*first.candidates, *more.candidates]).values()) == 2
        assert not donors(first.candidates).keys() & donors(more.candidates).keys()

    def test_earlier_changes_keep_their_places(self, run, images):
        first = run(count=4).changes
        more = run(count=6, before=first).changes
        assert len(more) == 6 and not {change.id for change in first} & {change.id for change in more}
        assert not {change.target for change in first} & {change.target for change in more}
        for image in images:
            both = [change for change in (*first, *more) if change.image == image.source.image]
            ids = [instance for change in both for instance in change.added]
            assert len(set(ids)) == len(ids) and not set(ids) & set(image.types)
            changed = np.zeros(image.instances.shape, int)
            for change in both:
                changed[change.window] += change.origin != REAL
            assert changed.max(initial=0) <= 1
            counts = compose(image, both).image.counts()
            assert counts[1] == image.counts()[1] + len(both)

    def test_more_of_the_same_is_what_one_run_would_have_made(self, run):
        once = run(count=5).changes
        first = run(count=3).changes
        more = run(count=2, before=first).changes
        assert same(once, (*first, *more), without=("settings",))


class TestChoice:
    """Of the placements that are laid out, those are made that look around them as real nuclei do."""

    @pytest.fixture
    def halves(self, labeled_image, dataset_folder, tmp_path):
        """Rare nuclei lie in darker tissue on the left; places on the right come first by rank."""
        spots = [(row, col, 6, 6, 1) for row in (24, 56, 88) for col in (24, 56)]
        images = []
        for seed in range(2):
            image = labeled_image(spots, shape=(112, 240), seed=seed, name=f"train_{seed}", patient=f"p{seed}")
            darker = np.linspace(6, 22, 112)[:, None, None] * (image.instances[:, :120, None] == 0)
            image.pixels[:, :120] -= darker.astype(np.uint8)
            images.append(image)
        data = open_dataset(dataset_folder(tmp_path / "d", images))
        donors = [donor for entry in data.training for donor in nucleus_locations(data.read(entry), (1,), ())]
        places = [
            Location(image.source.image, "background", row, col)
            for col in (160.0, 205.0, 92.0)
            for image in images
            for row in (24.0, 56.0, 88.0)
        ]
        return data, [Candidate(rank, place, donors[rank % 12], 0.0, 50.0) for rank, place in enumerate(places)]

    def on_the_left(self, made: Made) -> int:
        return sum(candidate.target.col < 120 for candidate in made.candidates)

    def test_places_like_those_of_real_nuclei_are_taken(self, run, halves):
        data, candidates = halves
        first, chosen, again = (run(candidates, data=data, count=3, spare=spare) for spare in (1.0, 6.0, 6.0))
        assert [one.rank for one in first.candidates] == [0, 1, 2] and self.on_the_left(first) == 0
        assert len(chosen.candidates) == 3 and self.on_the_left(chosen) >= 2
        assert again.candidates == chosen.candidates

    def test_without_a_choice_it_is_all(self, run, halves):
        data, candidates = halves
        first, every = (run(candidates, data=data, count=len(candidates), spare=spare) for spare in (1.0, 3.0))
        assert every.candidates == first.candidates and every.refusals == first.refusals

    def test_too_few_real_nuclei_say_nothing(self, run, halves):
        data, candidates = halves
        few = [replace(one, donor=candidates[one.rank % 9].donor) for one in candidates]
        assert [one.rank for one in run(few, data=data, count=3, spare=6.0).candidates] == [0, 1, 2]


class TestRecords:
    def test_provenance_says_how_it_was_made(self, run, found, small_model):
        made = run().changes
        for change in made:
            facts = change.provenance
            assert facts["sampler"] == "fast" and facts["method"] == "NucleiMix"
            assert (facts["model"], facts["model_sha256"]) == ("small", small_model.sha256)
            assert {"quarter_turns", "mirrored", "shift", "stain", "versions"} <= set(facts)
            assert facts["settings"]["count"] == 5 and not {"device", "batch"} & facts["settings"].keys()
            assert facts["search"]["rare"] == ["rare"] and facts["search"]["temperature"] == found.temperature
            assert facts["log_likelihood"] == found.candidates[change.id].log_likelihood
            assert facts["sources"]["target"]["image"] == change.image
        assert len({change.seed for change in made}) == 5

    def test_the_papers_sampler(self, run, monkeypatch):
        few = Sampler("mcg-fixed", 1000, 10, conditional=False, eta=0.0)
        monkeypatch.setitem(PRESETS, "paper", Preset(ring=few, disc=few, large=few, seam=few))
        assert run(count=1, sampler="paper").changes[0].provenance["sampler"] == "paper"

    def test_records_are_enough_to_make_them_again(self, run, dataset, small_model):
        made = run(count=6).changes
        records = [Record.of(change, dataset.class_name) for change in made]
        again = drain(METHOD.remake(records, Ingredients(dataset, small_model)))
        assert same(again, made) and [change.id for change in again] == [change.id for change in made]
        # Records of version 3 said less, and named things otherwise.
        older = []
        for record in records:
            facts = {
                key: value for key, value in record.provenance.items() if key not in ("settings", "log_likelihood")
            }
            older.append(Record({**record.content, "provenance": facts}))
        again = drain(METHOD.remake(older[::-1], Ingredients(dataset, small_model)))
        assert same(again[::-1], made, without=("settings", "log_likelihood"))

    def test_what_cannot_be_laid_again_is_told_with_the_reason(self, run, dataset, small_model):
        first, second = (Record.of(change, dataset.class_name) for change in run(count=2).changes)
        target = {**first.source("target"), "row": 1.0, "col": 1.0, "item": 0}
        moved = Record({**first.content, "sources": [target, first.source("donor")]})
        again = drain(METHOD.remake([moved, second], Ingredients(dataset, small_model)))
        assert again[0] == f"nucleus {first.id} can no longer be laid there: {CROSSES_EDGE}"
        assert isinstance(again[1], Change)

    def test_a_donors_pixel_is_traced_to_its_own_image(self, run, dataset, images):
        by_name = {image.source.image: image for image in images}
        for change in run(stain_matching=False).changes:
            record = Record.of(change, dataset.class_name)
            (rows, cols), (painted_rows, painted_cols) = (
                np.nonzero(change.origin == value) for value in (DONOR, INPAINTED)
            )
            for row, col in zip(rows[::9].tolist(), cols[::9].tolist(), strict=True):
                point = METHOD.trace(record, row + change.row, col + change.col, painted=False)
                giver = by_name[point["image"]]
                assert np.array_equal(giver.pixels[point["y"], point["x"]], change.pixels[row, col])
                assert (point["class"], point["donor_instance"]) == ("rare", change.donor.item)
            row, col = int(painted_rows[0]) + change.row, int(painted_cols[0]) + change.col
            assert METHOD.trace(record, row, col, painted=True)["model"] == "small"

    def test_the_card_has_a_sentence_for_each_sampler(self, run, dataset):
        record = Record.of(run(count=1).changes[0], dataset.class_name)
        other = Record({**record.content, "provenance": {**record.provenance, "sampler": "paper"}})
        how = (
            "NucleiMix: real nuclei of a rare class, copied to candidate locations and blended in by a diffusion model"
        )
        assert METHOD.sentence([record, record]) == f"{how} (sampler fast)."
        assert METHOD.sentence([other, record]) == f"{how} (sampler fast). {how} (sampler paper)."


class TestComparison:
    def test_given_donors_are_laid_on_given_places(self, run, dataset, found, small_model):
        made = run(count=4)
        sites = [found.candidates[change.id] for change in made.changes]
        work = Work(dataset, Shelf((), found.facts), 100, {}, small_model)
        placed = drain(METHOD.place(work, sites, MAKE))
        assert [change.id for change in placed] == [100 + site.rank for site in sites]
        for change, other in zip(placed, made.changes, strict=True):
            assert np.array_equal(change.pixels, other.pixels) and change.sources == other.sources

    def test_the_reason_is_told_where_there_is_none(self, dataset, found, small_model):
        corner = replace(found.candidates[0], target=Location("train_0", "background", 1.0, 1.0))
        gone = replace(found.candidates[1], donor=replace(found.candidates[1].donor, instance=999))
        work = Work(dataset, Shelf(()), loaded=small_model)
        assert drain(METHOD.place(work, [gone, corner], MAKE)) == [CHANGED, CROSSES_EDGE]


class TestTrouble:
    def test_an_image_that_broke_since_is_reported_and_skipped(self, folder, run, tmp_path):
        other = Path(shutil.copytree(folder, tmp_path / "data"))
        data = open_dataset(other)
        (other / "Images" / "train_0.png").write_bytes(b"no image")
        made = run(data=data)
        assert [problem.image for problem in made.plan.problems] == ["train_0"]
        used = {source.image for change in made.changes for source in change.sources}
        assert len(made.changes) == 5 and "train_0" not in used

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
        def spoil(candidate: Candidate) -> Candidate:
            return replace(candidate, **{part: replace(getattr(candidate, part), **changes)})

        made = run([spoil(candidate) for candidate in found.candidates[:4]])
        assert made.candidates == [] and made.refusals == {CHANGED: 4}

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"sampler": "slow"}, "one of fast, quality, paper"),
            ({"count": 0}, "at least 1|1 to"),
            ({"uses": 0}, "at least 1"),
            ({"per_image": 0}, "at least 1"),
            ({"model": "/no/such/model"}, "model"),
        ],
    )
    def test_settings_that_cannot_be_met_are_one_sentence(self, dataset, found, tmp_path, settings, words):
        study = Study.create(tmp_path / "study", dataset.root, dataset.name)
        study.set_candidates(found.candidates, found.facts)
        with pytest.raises(HistomixError, match=words):
            drain(jobs.run("nucleimix", dataset, replace(MAKE, **settings), study))

    def test_the_bundled_weights_serve_by_default(self, dataset, found):
        work = Work(dataset, Shelf(found.candidates))
        plan = drain(METHOD.plan(work, replace(MAKE, count=1)))
        (change,) = [change for event in METHOD.make(work, plan.items, MAKE) for change in event.made]
        assert change.provenance["model"] == "he-inpaint-64"


class TestInAStudy:
    """What ``jobs.run`` makes of it: every chunk is on disk when it is made."""

    @pytest.fixture
    def begin(self, dataset, tmp_path):
        def create(name: str) -> Study:
            return Study.create(tmp_path / name, dataset.root, dataset.name)

        return create

    @pytest.fixture
    def chosen(self, small_model_folder):
        return replace(MAKE, count=6, batch=1, model=str(small_model_folder))

    def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(self, begin, dataset, chosen):
        whole = begin("whole")
        outcome = drain(jobs.run("nucleimix", dataset, chosen, whole, stage=FIND))
        assert len(outcome.ids) == 6
        for stop in (0, 1, 4):
            study = begin(f"stopped after {stop}")
            job = jobs.run("nucleimix", dataset, chosen, study, stage=FIND)
            made: list[int] = []
            for event in job:
                made += [change.id for change in event.made]
                if len(made) >= stop and event.phase.startswith(("Erasing", "Blending")):
                    break
            job.close()
            again = Study.open(study.folder)
            assert again.changes().ids == sorted(made) and len(made) == stop
            # What is decided in between changes nothing of a run that had begun.
            again.decide("candidate", [outcome.ids[-1]], "drop")
            resumed = drain(jobs.resume(again, dataset))
            assert resumed.ids == outcome.ids and resumed.refusals == outcome.refusals
            assert same(again.changes(), whole.changes())

    def test_closing_midway_stops_within_one_step(self, dataset, found, small_model_folder):
        model = load_model(small_model_folder)
        calls = []
        model.network.register_forward_hook(lambda *_: calls.append(1))
        work = Work(dataset, Shelf(found.candidates), loaded=model)
        plan = drain(METHOD.plan(work, MAKE))
        job = METHOD.make(work, plan.items, MAKE)
        for event in job:
            if event.preview is not None:
                break
        before = len(calls)
        job.close()
        # One step; a processor takes the windows of a batch one by one.
        assert 1 <= before <= MAKE.count and len(calls) == before

    def test_progress_counts_all_chunks_as_one(self, run, dataset, found, small_model):
        work = Work(dataset, Shelf(found.candidates), loaded=small_model)
        settings = replace(MAKE, batch=2)
        plan = drain(METHOD.plan(work, settings))
        events = list(METHOD.make(work, plan.items, settings))
        assert len({event.total for event in events}) == 1
        done = [event.done for event in events]
        assert done == sorted(done) and done[-1] == events[-1].total
        assert [len(event.made) for event in events if event.made] == [2, 2, 1]
