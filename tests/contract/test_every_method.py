"""What holds for every method: the invariants, determinism, kill and resume, replay, explain, export, refusals."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_histomix import jobs
from napari_histomix.compositing.composing import compose
from napari_histomix.datasets import open_any
from napari_histomix.datasets.formats import FORMATS
from napari_histomix.methods.base import Work
from napari_histomix.records import KEEP, REAL, Change, HistomixError, LabeledImage, Source, drain
from napari_histomix.study import Study
from napari_histomix.study.explain import explain
from napari_histomix.study.export import export_study
from napari_histomix.study.manifest import read_manifest
from napari_histomix.study.replay import replay

MOMENTS = 50
"""Random moments at which runs are stopped, over all methods."""


def same(first: Change, second: Change) -> bool:
    """Whether two changes are equal to the last bit, provenance included."""
    names = ("id", "image", "name", "row", "col", "added", "removed", "class_shares", "method", "seed", "sources")
    arrays = all(np.array_equal(getattr(first, what), getattr(second, what)) for what in ("pixels", "origin"))
    labels = (first.labels is None and second.labels is None) or np.array_equal(first.labels, second.labels)
    equal = all(getattr(first, name) == getattr(second, name) for name in names)
    return equal and arrays and bool(labels) and first.provenance == second.provenance


def target_of(case, change: Change) -> LabeledImage:
    """The real image that a change is made in or of; a blank one where it is a new image."""
    if change.image:
        return case.dataset.read(change.image)
    blank = np.zeros((*change.shape, 3), np.uint8), np.zeros(change.shape, np.int32)
    return LabeledImage(*blank, {}, float(change.provenance["mpp"]), Source("", change.name))


def check_same(first: Study, second: Study) -> None:
    assert first.changes().ids == second.changes().ids
    for one, other in zip(first.changes(), second.changes(), strict=True):
        assert same(one, other), one.id


class TestChanges:
    def test_outside_its_origin_map_a_change_leaves_the_target_bit_for_bit(self, case, finished):
        for change in finished.changes():
            target = target_of(case, change)
            made = compose(target, [change])
            unchanged = made.origin == REAL
            assert np.array_equal(made.image.pixels[unchanged], target.pixels[unchanged])
            assert change.in_place or change.shape == target.instances.shape

    def test_rejecting_all_gives_the_target_back(self, case, finished):
        for change in finished.changes():
            target = target_of(case, change)
            again = compose(target, [])
            assert np.array_equal(again.image.pixels, target.pixels)
            assert np.array_equal(again.image.instances, target.instances) and again.image.types == target.types

    def test_counts_add_up_and_ids_stay_unique(self, case, finished):
        for change in finished.changes():
            target = target_of(case, change)
            made = compose(target, [change]).image
            before, after = target.counts(), made.counts()
            lost = Counter(target.types[number] for number in target.types.keys() - made.types.keys())
            gained = Counter(change.added.values())
            assert after == before + gained - lost
            assert not change.added.keys() & target.types.keys()
            assert set(change.removed) <= target.types.keys() - made.types.keys()

    def test_labels_only_change_where_the_change_says(self, case, finished):
        for change in finished.changes():
            if change.labels is None:
                continue
            target = target_of(case, change)
            made = compose(target, [change]).image
            differs = made.instances != target.instances
            outside = np.ones(differs.shape, bool)
            outside[change.window] = False
            assert not differs[outside].any()
            untouched = (change.labels == KEEP) & ~np.isin(target.instances[change.window], change.removed)
            assert not differs[change.window][untouched].any()

    def test_changes_of_an_image_are_disjoint(self, finished):
        seen: dict[str, list[Change]] = {}
        for change in finished.changes():
            if not change.in_place:
                continue
            for other in seen.setdefault(change.image, []):
                rows = max(change.row, other.row), min(change.window[0].stop, other.window[0].stop)
                cols = max(change.col, other.col), min(change.window[1].stop, other.window[1].stop)
                if rows[0] < rows[1] and cols[0] < cols[1]:
                    mine, theirs = (
                        one.origin[rows[0] - one.row : rows[1] - one.row, cols[0] - one.col : cols[1] - one.col] != REAL
                        for one in (change, other)
                    )
                    assert not (mine & theirs).any()
            seen[change.image].append(change)

    def test_class_shares_sum_to_one(self, finished):
        for change in finished.changes():
            if change.class_shares is not None:
                assert sum(change.class_shares.values()) == pytest.approx(1)
                assert all(share > 0 for share in change.class_shares.values())

    def test_nothing_comes_from_another_split(self, case, finished):
        training = {entry.source.image for entry in case.dataset.training}
        for change in finished.changes():
            assert change.sources and {source.image for source in change.sources} <= training
            if change.image:
                assert change.target is not None and change.target.image == change.image
            else:
                assert change.target is None and (change.origin != REAL).all()


class TestRuns:
    def test_the_same_seed_gives_the_same_bytes_and_another_one_others(self, case, finished, tmp_path):
        check_same(case.run(tmp_path / "again", afresh=True), finished)
        other = case.run(tmp_path / "other", afresh=True, seed=1)
        pairs = zip(other.changes(), finished.changes(), strict=False)
        assert not all(one.window == two.window and np.array_equal(one.pixels, two.pixels) for one, two in pairs)

    def test_a_change_does_not_depend_on_the_batch(self, case, finished, tmp_path):
        if "batch" not in set(vars(case.settings())):
            pytest.skip("the method has no batches")
        check_same(case.run(tmp_path / "study", batch=1), finished)

    def test_a_change_depends_on_its_item_alone(self, case, finished, tmp_path):
        study = case.begin(tmp_path / "study")
        subjects = case.method.stage.subjects if case.method.stage is not None else ()
        work = Work(case.dataset, study, 0, {subject: {} for subject in subjects}, case.loaded)
        plan = drain(case.method.plan(work, case.settings()))
        made = [
            change for event in case.method.make(work, plan.items[::-1][:2], case.settings()) for change in event.made
        ]
        assert len(made) == min(2, len(plan.items))
        for change in made:
            assert np.array_equal(change.pixels, finished.change(change.id).pixels)

    def test_stopped_at_any_moment_a_run_goes_on_to_the_same_end(self, case, finished, tmp_path):
        moments = random.Random(case.name)
        whole = sum(1 for _ in case.job(case.begin(tmp_path / "count")))
        for attempt in range(max(3, MOMENTS // 10)):
            # The first one from scratch: it may be stopped before its stage is done.
            study = case.begin(tmp_path / f"study-{attempt}", afresh=attempt == 0)
            job = case.job(study)
            for _ in range(moments.randrange(1, whole)):
                next(job)
            job.close()
            again = Study.open(study.folder)
            if jobs.unfinished(again) is None and not again.changes():
                # Stopped while the stage was looked for: nothing was begun yet.
                drain(case.job(again))
            elif jobs.unfinished(again) is not None:
                outcome = drain(jobs.resume(again, case.dataset, case.loaded))
                assert list(outcome.ids) == finished.changes().ids
            check_same(again, finished)

    def test_a_run_that_was_stopped_goes_on_after_another(self, case, tmp_path):
        study = case.begin(tmp_path / "study")
        job = case.job(study)
        next(event for event in job if event.made)
        job.close()
        stopped = jobs.unfinished(study)
        if stopped is None:
            pytest.skip("it is done as soon as anything is")
        before = study.ids_of_run(stopped.id)
        between = drain(case.job(study, seed=5)).ids
        outcome = drain(jobs.resume(study, case.dataset, case.loaded))
        assert outcome.run == stopped.id and set(before) <= set(outcome.ids)
        assert set(outcome.ids).isdisjoint(between) and study.changes().ids == sorted([*between, *outcome.ids])
        assert jobs.unfinished(study) is None
        added: Counter[tuple[str, int]] = Counter((one.name, number) for one in study.changes() for number in one.added)
        assert not added or max(added.values()) == 1

    def test_every_change_is_in_the_study_when_it_is_handed_over(self, case, tmp_path):
        study = case.begin(tmp_path / "study")
        told: list[int] = []
        for event in case.job(study):
            told += [change.id for change in event.made]
            if event.made:
                assert Study.open(study.folder).changes().ids == sorted(told)
        assert told and sorted(told) == study.changes().ids

    def test_a_second_run_adds_to_the_first(self, case, tmp_path):
        study = case.run(tmp_path / "study", count=2, per_class=1)
        first = study.changes().ids
        outcome = drain(case.job(study, count=2, per_class=1, seed=5))
        assert set(outcome.ids).isdisjoint(first) and study.changes().ids == sorted([*first, *outcome.ids])
        for change in study.changes():
            names = [other.name for other in study.changes() if other.id != change.id]
            assert change.in_place or change.name not in names

    def test_what_was_wanted_is_made_or_refused_with_a_reason(self, case, tmp_path):
        study = case.begin(tmp_path / "study")
        outcome = drain(case.job(study, count=60, per_class=5, uses=1))
        (run,) = study.runs()
        assert run.state == "done" and run.wanted == outcome.wanted and len(outcome.ids) <= outcome.wanted
        assert len(outcome.ids) == outcome.wanted or outcome.refusals
        assert dict(outcome.refusals) == dict(run.refusals)


@pytest.fixture(scope="module")
def exported(case, finished, tmp_path_factory):
    """What was made, exported as it is. Never write into it."""
    out = tmp_path_factory.mktemp("exported") / "out"
    return drain(export_study(finished, case.dataset, out, reviewed=False))


class TestExports:
    def formats(self, case) -> list[str]:
        wanted = "nuclei" if case.dataset.has_nuclei else "kinds"
        return [name for name, format in FORMATS.items() if format.writes and format.holds == wanted]

    def test_every_format_that_can_hold_it_gives_it_back(self, case, finished, tmp_path):
        for name in self.formats(case):
            if name == "pannuke" and case.dataset.has_nuclei:
                continue  # its five classes are its own
            out = drain(export_study(finished, case.dataset, tmp_path / name, format=name, reviewed=False))
            again = open_any(out)
            files = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["synthetic_images"]
            derived = [change.name for change in finished.changes() if not change.in_place]
            assert len(again.entries) == len(case.dataset.training) + len(derived)
            for change in finished.changes():
                entry = again.entry(files[change.name]["file"])
                assert entry.synthetic
                if not change.in_place:
                    assert np.array_equal(
                        again.read(entry).pixels, compose(target_of(case, change), [change]).image.pixels
                    )

    def test_it_is_replayed_bit_for_bit(self, case, exported):
        report = drain(replay(exported, case.dataset, [case.model] if "model" in vars(case.settings()) else []))
        assert report.problems == () and {compared.outcome for compared in report.compared} == {"identical"}

    def test_every_changed_pixel_is_explained(self, case, finished, exported):
        files = read_manifest(exported).content["synthetic_images"]
        for change in list(finished.changes())[:3]:
            found = explain(files[change.name]["file"], exported / "manifest.json")
            assert found.kind == "synthetic" and case.method.title in " ".join(found.facts["methods"])
            rows, cols = np.nonzero(change.origin != REAL)
            for place in np.linspace(0, len(rows) - 1, 5).astype(int):
                row, col = int(rows[place]) + change.row, int(cols[place]) + change.col
                point = found.at(col, row)
                assert point["origin"] in ("donor", "inpainted") and point["change"] == change.id

    def test_the_card_says_how_it_was_made(self, case, exported):
        assert case.method.title in (exported / "README.md").read_text(encoding="utf-8")

    def test_a_change_of_another_split_is_refused(self, case, finished, tmp_path):
        from napari_histomix.datasets.splits import with_splits

        used = finished.changes()[0].sources[0].image
        splits = {entry.source.image: entry.source.split for entry in case.dataset.entries}
        moved = with_splits(case.dataset, {**splits, used: "test"})
        with pytest.raises(HistomixError, match=used):
            drain(export_study(finished, moved, tmp_path / "out", reviewed=False))
        assert not (tmp_path / "out").exists()

    def test_only_what_is_approved_is_exported(self, case, finished, tmp_path):
        study = Study.open(Path(shutil.copytree(finished.folder, tmp_path / "study")))
        ids = study.changes().ids
        study.decide("change", ids[:1], "approve")
        study.decide("change", ids[1:], "reject")
        out = drain(export_study(study, case.dataset, tmp_path / "out"))
        records = read_manifest(out).content["changes"]
        assert [record["id"] for record in records] == ids[:1]

    def test_what_is_synthetic_is_never_used_again(self, case, exported, tmp_path):
        again = open_any(exported)
        study = Study.create(tmp_path / "study", again.root, again.name)
        outcome = drain(replace(case, dataset=again).job(study, seed=3))
        for change in study.changes():
            for source in change.sources:
                if source.role != "donor":
                    continue
                entry = again.entry(source.image)
                if source.item and entry.labels is not None:
                    assert source.item not in again.read(entry).synthetic
                elif not source.item:
                    assert not entry.synthetic
        assert outcome.ids


def test_data_that_it_cannot_use_is_refused_in_words(case, nuclei_data, tissue_data, tmp_path):
    other = tissue_data if case.dataset is nuclei_data else nuclei_data
    if not case.method.needs.problem(case.method.title, other):
        pytest.skip("it can use both")
    study = Study.create(tmp_path / "study", other.root, other.name)
    with pytest.raises(HistomixError, match=f"{case.method.title} needs "):
        drain(jobs.run(case.method, other, case.settings(), study, stage=case.stage()))
    assert study.runs() == ()
