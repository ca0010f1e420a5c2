"""USegMix from images with a class to synthetic ones: what may replace what, how much is new, where it comes from."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mix_samples import Sources
from PIL import Image

from napari_histomix import jobs
from napari_histomix.datasets import Dataset, open_tissue
from napari_histomix.methods.base import Work
from napari_histomix.methods.mixing import MixPlan, USegMixSettings, donor_choice, plan_mixes, plan_one
from napari_histomix.methods.record import Record
from napari_histomix.methods.segment_stage import PoolSettings, build_pool, correct_pool, pool_signature
from napari_histomix.methods.usegmix import METHOD, compose, make_mix
from napari_histomix.records import Change, HistomixError, Segment, drain
from napari_histomix.segmentation import AnchorSettings
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.settings import plain
from napari_histomix.study import Study

POOL = PoolSettings(superpixels=12, points=5, border=True)
MIX = USegMixSettings(
    per_class=3, new_area=(0.1, 0.9), area_ratio=(0.1, 10.0), own_patient=False, outline="segment", device="cpu"
)
"""The paper's form; what lies along seams has tests of its own."""


@pytest.fixture(scope="module")
def folder(tissue_folder, tmp_path_factory) -> Path:
    """Four images each of two classes, two patients a class, and one image of the test split."""
    return tissue_folder(tmp_path_factory.mktemp("usegmix") / "tissue", patients=2, side=120)


@pytest.fixture(scope="module")
def dataset(folder):
    return open_tissue(folder)


@pytest.fixture(scope="module")
def pool(dataset, tmp_path_factory) -> SegmentPool:
    study = tmp_path_factory.mktemp("study")
    built = drain(build_pool(dataset, study, POOL))
    pool = SegmentPool(study)
    assert built.segments == len(pool) > 16 and built.images == 8 and not built.problems
    return pool


@pytest.fixture(scope="module")
def begun(dataset, pool, tmp_path_factory) -> Study:
    """A study that holds the pool and nothing else. Never write into it."""
    folder = tmp_path_factory.mktemp("begun") / "study"
    study = Study.create(folder, dataset.root, dataset.name)
    shutil.copytree(pool.folder / "pool", folder / "pool")
    return study


def copy_of(study: Study, folder: Path) -> Study:
    shutil.copytree(study.folder, folder)
    return Study.open(folder)


def told(plan: MixPlan) -> list[tuple]:
    """A plan's replacements as values that can be compared."""
    return [(one.target, one.donor, one.probability, one.swap.pose) for one in plan.exchanges]


def everyone(pool: SegmentPool) -> dict[str, np.ndarray]:
    return {kind: np.flatnonzero(pool.image_kinds == index) for index, kind in enumerate(pool.kinds)}


def test_the_pool_is_of_the_training_split_only_and_can_be_made_again(pool, dataset, tmp_path):
    assert {one.source.split for one in pool.images} == {"train"} and len(pool.images) == 8
    drain(build_pool(dataset, tmp_path, POOL))
    again = SegmentPool(tmp_path)
    assert np.array_equal(again.rows, pool.rows) and again.signature == pool.signature
    assert np.allclose(again.vectors(np.arange(len(pool))), pool.vectors(np.arange(len(pool))))


def test_synthetic_images_are_not_in_the_pool(dataset, tmp_path):
    entries = [replace(entry, synthetic=entry.source.image != "low/0") for entry in dataset.entries]
    drain(build_pool(replace(dataset, entries=tuple(entries)), tmp_path / "study", POOL))
    assert {image.source.image for image in SegmentPool(tmp_path / "study").images} == {"low/0"}
    with pytest.raises(HistomixError, match="no real training image"):
        drain(build_pool(replace(dataset, entries=tuple(entries[:0])), tmp_path / "other", POOL))


def test_donors_are_of_the_same_class_of_another_patient_and_of_a_fitting_size(pool):
    settings = replace(MIX, area_ratio=(0.5, 2.0))
    for kind, members in everyone(pool).items():
        choice = donor_choice(pool, members, kind, settings)
        for target in members:
            allowed = members[choice.allowed(int(target))]
            for donor in allowed:
                assert pool.image(donor).source.patient != pool.image(target).source.patient
                assert 0.5 <= pool.rows["area"][donor] / pool.rows["area"][target] <= 2
            likeliest = choice.likeliest(int(target), 4)
            assert [one for one, _ in likeliest] == sorted(
                (one for one, _ in likeliest), key=lambda one: -dict(likeliest)[one]
            )
            assert {one for one, _ in likeliest} <= set(allowed.tolist())
        own = donor_choice(pool, members, kind, replace(settings, own_patient=True))
        assert own.allowed(int(members[0])).sum() > choice.allowed(int(members[0])).sum()
        assert not own.allowed(int(members[0]))[0], "never the target itself"


def test_plans_keep_to_the_class_the_range_and_the_seed(dataset, pool):
    planned, again, other = (
        drain(plan_mixes(dataset, pool, everyone(pool), replace(MIX, seed=seed))) for seed in (5, 5, 6)
    )
    assert planned.items and planned.wanted == 6 and not planned.refusals
    assert Counter(plan.kind for plan in planned.items) == {"low": 3, "high": 3}
    assert len({plan.name for plan in planned.items}) == 6 and len({plan.image for plan in planned.items}) == 6
    shown = [[(item.id, item.name, told(item)) for item in plan.items] for plan in (planned, again, other)]
    assert shown[0] == shown[1] and shown[0] != shown[2]
    for plan in planned.items:
        for one in plan.exchanges:
            assert pool.image(one.target).source.image == plan.image
            assert pool.image(one.donor).kind == plan.kind and 0 < one.probability <= 1
        assert len({one.target for one in plan.exchanges}) == len(plan.exchanges)
    names = [plan.name for plan in planned.items]
    more = drain(plan_mixes(dataset, pool, everyone(pool), replace(MIX, seed=5), taken=names))
    assert not {plan.name for plan in more.items} & set(names)


def test_a_segment_of_another_class_is_a_donor_but_its_image_no_target(dataset, pool):
    members = everyone(pool)
    foreign = members["high"][:6]
    moved = {"low": np.sort(np.concatenate([members["low"], foreign]))}
    planned = drain(plan_mixes(dataset, pool, moved, replace(MIX, per_class=8)))
    assert {pool.image(one.target).kind for plan in planned.items for one in plan.exchanges} == {"low"}
    donors = {one.donor for plan in planned.items for one in plan.exchanges}
    assert donors & set(foreign.tolist()), "they are drawn"
    planned = drain(plan_mixes(dataset, pool, {"low": members["high"]}, MIX))
    assert planned.items == () and set(planned.refusals) == {"low: no image of this class has a segment"}


def test_a_used_donor_becomes_less_likely(pool):
    members = everyone(pool)["low"]
    choice = donor_choice(pool, members, "low", MIX)
    target = int(members[0])
    first, chance = choice.likeliest(target, 1)[0]
    choice.pool_draw.use(int(np.flatnonzero(members == first)[0]))
    assert dict(choice.likeliest(target, len(members)))[first] < chance


def test_a_class_without_a_second_patient_or_a_range_out_of_reach_is_explained(dataset, pool):
    one = {kind: some[:1] for kind, some in everyone(pool).items()}
    planned = drain(plan_mixes(dataset, pool, one, MIX))
    assert not planned.items and all("two segments" in reason for reason in planned.refusals)
    patients = np.array([pool.images[image].source.patient for image in pool.rows["image"]])
    alone = {kind: some[patients[some] == f"{kind}-0"] for kind, some in everyone(pool).items()}
    planned = drain(plan_mixes(dataset, pool, alone, MIX))
    assert not planned.items and set(planned.refusals) == {
        f"{kind}: no segment of its class may take its place (setting: own patient)" for kind in ("low", "high")
    }
    planned = drain(plan_mixes(dataset, pool, everyone(pool), replace(MIX, new_area=(0.0001, 0.0002))))
    assert not planned.items and all("new-area ratio" in reason for reason in planned.refusals)
    with pytest.raises(HistomixError, match="between 0 and 1"):
        drain(plan_mixes(dataset, pool, everyone(pool), replace(MIX, new_area=(0.9, 0.3))))


def test_a_synthetic_image_is_its_target_but_for_donors_and_paint(pool, dataset, small_model):
    plan = drain(plan_mixes(dataset, pool, everyone(pool), MIX)).items[0]
    made, again = (drain(make_mix(dataset, pool, plan, MIX, small_model)) for _ in range(2))
    target = dataset.read(plan.image)
    assert np.array_equal(made.pixels, again.pixels) and np.array_equal(made.origin, again.origin)
    assert np.array_equal(made.pixels[made.origin == 0], target.pixels[made.origin == 0])
    assert MIX.new_area[0] <= made.new_area <= MIX.new_area[1] and set(np.unique(made.origin)) == {0, 1, 2}
    images = {donor["image"]: dataset.read(donor["image"]) for donor in made.provenance["donors"]}
    pasted, origin, facts = compose(target, pool, plan.exchanges, images)
    assert np.array_equal(origin, made.origin) and facts == made.provenance["donors"]
    assert np.array_equal(made.pixels[origin == 1], pasted[origin == 1]), "donors are not painted over"
    assert (made.image, made.name, made.seed) == (plan.image, plan.name, plan.seed) and not made.in_place
    assert made.class_shares == {plan.kind: 1.0} and made.labels is None and not made.added and not made.removed
    assert made.target.image == plan.image
    donors = [source for source in made.sources if source.role == "donor"]
    assert [source.item for source in donors] == [exchange.donor for exchange in plan.exchanges]
    for source in donors:
        segment = pool.segment(source.item)
        assert (source.image, source.area) == (pool.image(source.item).source.image, segment.area)
        assert (source.row, source.col) == (
            segment.row + segment.mask.shape[0] / 2,
            segment.col + segment.mask.shape[1] / 2,
        )
    assert made.provenance["model"] == "small" and made.provenance["signature"] == dict(pool.signature)
    assert made.provenance["settings"] == plain(MIX, recorded_only=True)


def test_without_stain_matching_donor_pixels_are_the_donors_own(pool, dataset):
    plan = drain(plan_mixes(dataset, pool, everyone(pool), MIX)).items[0]
    target = dataset.read(plan.image)
    donors = {pool.image(exchange.donor).source.image for exchange in plan.exchanges}
    images = {name: dataset.read(name) for name in donors}
    pasted, origin, facts = compose(target, pool, plan.exchanges, images, stain_matching=False)
    colors = np.concatenate([one.pixels.reshape(-1, 3) for one in images.values()]).astype(int)
    assert pasted[origin == 1].mean() == pytest.approx(colors.mean(), abs=60) and not facts[0]["stain"]
    assert np.array_equal(pasted[origin != 1], target.pixels[origin != 1])


def test_an_image_that_changed_since_is_refused(dataset, pool, folder, tissue_pixels, tmp_path, small_model):
    copy = tmp_path / "tissue"
    shutil.copytree(folder, copy)
    plan = drain(plan_mixes(dataset, pool, everyone(pool), MIX)).items[0]
    Image.fromarray(tissue_pixels(1234, 120, 120)).save(copy / f"{plan.image}.png")
    with pytest.raises(HistomixError, match="not the one that the pool was made of"):
        drain(make_mix(open_tissue(copy), pool, plan, MIX, small_model))


def test_an_image_without_tissue_is_left_out_and_named(folder, tmp_path):
    copy = tmp_path / "tissue"
    shutil.copytree(folder, copy)
    Image.fromarray(np.full((120, 120, 3), 255, np.uint8)).save(copy / "low" / "0.png")
    built = drain(build_pool(open_tissue(copy), tmp_path / "study", POOL))
    assert built.images == 7 and [(one.image, "no tissue" in one.sentence) for one in built.problems] == [
        ("low/0", True)
    ]


def test_corrections_join_the_pool_in_the_same_space(dataset, tmp_path):
    drain(build_pool(dataset, tmp_path, POOL))
    before = SegmentPool(tmp_path)
    image = dataset.read("low/0")
    drawn = Segment(77, 10, 20, np.ones((30, 40), bool))
    first = drain(correct_pool(tmp_path, image, [drawn]))
    after = SegmentPool(tmp_path)
    assert first == len(before) and len(after) == first + 1
    assert after.segment(first).number == 77 and after.image(first).source.image == "low/0"
    own = before.image(0).source.image
    same = drain(correct_pool(tmp_path, dataset.read(own), [before.segment(0)]))
    vectors = SegmentPool(tmp_path).vectors(np.array([0, same]))
    assert np.allclose(vectors[0], vectors[1], atol=1e-3)
    with pytest.raises(HistomixError, match=r"encoder|timm"):
        drain(correct_pool(tmp_path, image, [drawn], "timm:no_such_network"))


# The stage and the method in a study.


def test_a_pool_is_never_made_of_synthetic_images(dataset, pool, tmp_path, small_model):
    plan = drain(plan_mixes(dataset, pool, everyone(pool), MIX)).items[0]
    flagged = tuple(replace(entry, synthetic=entry.source.image == plan.image) for entry in dataset.entries)
    marked = replace(dataset, entries=flagged)
    built = drain(build_pool(marked, tmp_path, POOL))
    assert built.images == 7 and plan.image not in {image.source.image for image in SegmentPool(tmp_path).images}
    # Nor is an image used of which a pool was made before it was known to be synthetic.
    with pytest.raises(HistomixError, match=f"The image {plan.image} is synthetic"):
        drain(make_mix(marked, pool, plan, MIX, small_model))


@pytest.mark.parametrize("kind", ["low", "a class of the test split alone"])
def test_pools_and_plans_do_not_depend_on_held_out_images(folder, tissue_pixels, tmp_path, kind):
    pools, plans = [], []
    for held in (1, 2):
        root = tmp_path / f"data {held}"
        shutil.copytree(folder, root)
        Image.fromarray(tissue_pixels(200 + held, 120, 120)).save(root / "low" / "held.png")
        table = (root / "images.csv").read_text(encoding="utf-8")
        if held == 2:
            table = table.replace("low/held.png,low,", f"low/held.png,{kind},")
        (root / "images.csv").write_text(table, encoding="utf-8")
        dataset = open_tissue(root)
        study = Study.create(tmp_path / f"study {held}", dataset.root, dataset.name)
        drain(METHOD.stage.find(Work(dataset, study), POOL))
        pools.append(SegmentPool(study.folder))
        plans.append(drain(METHOD.plan(Work(dataset, study), MIX)).items)
    first, second = pools
    everything = np.arange(len(first))
    assert len(first) > 12 and np.array_equal(first.rows, second.rows)
    assert np.array_equal(first.vectors(everything), second.vectors(everything))
    assert len(plans[0]) == 6
    assert [(item.name, item.seed, told(item)) for item in plans[0]] == [
        (item.name, item.seed, told(item)) for item in plans[1]
    ]


def test_the_stage_s_settings_are_those_of_the_anchors_and_are_kept(dataset, pool, tmp_path):
    assert PoolSettings().anchors == AnchorSettings()
    assert replace(POOL, seed=4, extent=(0.1, 0.2)).anchors == AnchorSettings(
        superpixels=12, points=5, seed=4, extent=(0.1, 0.2)
    )
    assert pool.signature == json.loads(json.dumps(pool_signature("region-tree-2", "texture-whole-1", POOL)))
    study = Study.create(tmp_path / "study", dataset.root, dataset.name)
    assert not METHOD.stage.ready(study)
    finding = METHOD.stage.find(Work(dataset, study), POOL)
    for _ in range(4):
        next(finding)
    finding.close()
    assert not METHOD.stage.ready(study), "a build that was stopped leaves no pool"
    assert drain(jobs.prepare(METHOD, dataset, study, POOL)).images == 8
    assert METHOD.stage.ready(study) and study.settings()["pool_settings"] == plain(POOL)
    assert drain(jobs.prepare(METHOD, dataset, study, PoolSettings(points=9))) is None, "it is not made again"


def test_a_plan_leaves_dropped_segments_out_and_follows_given_classes(dataset, pool, begun):
    members = everyone(pool)
    dropped = {int(number): "drop" for number in members["low"][::2]}
    moved = {int(number): "low" for number in members["high"][:4]}
    decisions = {"segment": {**dropped, 10_000: "drop"}, "segment class": {**moved, 0: "no such class"}}
    items = drain(METHOD.plan(Work(dataset, begun, decisions=decisions), MIX)).items
    used = {number for item in items for each in item.exchanges for number in (each.target, each.donor)}
    assert items and not used & dropped.keys()
    low = [each.donor for item in items if item.kind == "low" for each in item.exchanges]
    assert set(low) & moved.keys()
    assert not {each.donor for item in items if item.kind == "high" for each in item.exchanges} & moved.keys() - {0}
    # It looks at the snapshot alone, not at what has been decided since.
    again = drain(METHOD.plan(Work(dataset, begun, decisions=decisions), MIX)).items
    assert [told(item) for item in again] == [told(item) for item in items]


def test_names_are_those_that_no_image_has(dataset, begun, small_model, tmp_path):
    study = copy_of(begun, tmp_path / "study")
    two = replace(MIX, per_class=1)
    first = drain(jobs.run(METHOD, dataset, two, study, loaded=small_model))
    second = drain(jobs.run(METHOD, dataset, two, study, loaded=small_model))
    names = [study.change(number).name for number in (*first.ids, *second.ids)]
    assert len(set(names)) == 4 and names[2:] == [f"{name}-2" for name in names[:2]]


def same(first: Study, second: Study) -> bool:
    assert first.changes().ids == second.changes().ids
    for one, other in zip(first.changes(), second.changes(), strict=True):
        assert (one.name, one.seed, one.sources, one.class_shares) == (
            other.name,
            other.seed,
            other.sources,
            other.class_shares,
        )
        assert np.array_equal(one.pixels, other.pixels) and np.array_equal(one.origin, other.origin)
        assert one.provenance == other.provenance
    return True


PROGRAM = """
import sys
from pathlib import Path
from napari_histomix import jobs
from napari_histomix.datasets import open_tissue
from napari_histomix.methods.mixing import USegMixSettings
from napari_histomix.study import Study

settings = USegMixSettings(
    per_class=3, new_area=(0.1, 0.9), area_ratio=(0.1, 10.0), own_patient=False, outline="segment", device="cpu",
    model=sys.argv[3],
)
for event in jobs.run("usegmix", open_tissue(sys.argv[1]), settings, Study.open(Path(sys.argv[2])).take()):
    for change in event.made:
        print(change.id, flush=True)
"""


def test_killed_and_taken_up_again_it_makes_the_same_bytes(dataset, folder, begun, small_model_folder, tmp_path):
    killed, whole = (copy_of(begun, tmp_path / name) for name in ("killed", "whole"))
    settings = replace(MIX, model=str(small_model_folder))
    arguments = [sys.executable, "-c", PROGRAM, str(folder), str(killed.folder), str(small_model_folder)]
    worker = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    told = [int(worker.stdout.readline()) for _ in range(2)]
    worker.send_signal(signal.SIGKILL)
    worker.wait(30)
    study = Study.open(killed.folder).take()
    assert set(told) <= set(study.changes().ids) and len(study.changes()) < 6
    # What is decided in between is not part of what was begun.
    pool = SegmentPool(study.folder)
    study.decide("segment", range(0, len(pool), 2), "drop")
    outcome = drain(jobs.resume(study, dataset))
    drain(jobs.run(METHOD, dataset, replace(settings, batch=1), whole))
    assert outcome.ids == tuple(range(6)) and same(study, whole) and jobs.unfinished(study) is None


@pytest.fixture(scope="module")
def finished(dataset, begun, small_model_folder, tmp_path_factory) -> Iterator[list[Change]]:
    study = copy_of(begun, tmp_path_factory.mktemp("finished") / "study")
    outcome = drain(jobs.run(METHOD, dataset, replace(MIX, per_class=1, model=str(small_model_folder)), study))
    return [study.change(number) for number in outcome.ids]


def record_of(change: Change) -> Record:
    return Record(json.loads(json.dumps(Record.of(change, str).content)))


def test_it_is_made_again_from_its_record(dataset, finished, small_model):
    records = [record_of(change) for change in finished]
    remade = drain(METHOD.remake(records, Sources(dataset, small_model)))
    for change, again in zip(finished, remade, strict=True):
        assert np.array_equal(change.pixels, again.pixels) and np.array_equal(change.origin, again.origin)
        names = ("id", "image", "name", "class_shares", "method", "seed", "sources", "labels", "removed")
        assert all(getattr(change, name) == getattr(again, name) for name in names)
    # A record of an earlier version knows neither settings nor where the donors' segments lie.
    content = dict(records[0].content)
    content["provenance"] = {key: value for key, value in records[0].provenance.items() if key != "settings"}
    content["sources"] = [{key: source[key] for key in ("role", "image", "item")} for source in content["sources"]]
    (old,) = drain(METHOD.remake([Record(content)], Sources(dataset, small_model)))
    assert np.array_equal(old.pixels, finished[0].pixels) and [one.item for one in old.sources] == [
        one.item for one in finished[0].sources
    ]


def test_every_changed_pixel_is_traced(dataset, finished):
    change = finished[0]
    record, donors = record_of(change), change.provenance["donors"]
    for value in (1, 2):
        rows, cols = np.nonzero(change.origin == value)
        for place in np.linspace(0, len(rows) - 1, 5).astype(int):
            row, col = int(rows[place]), int(cols[place])
            known = METHOD.trace(record, row, col, painted=value == 2)
            donor = donors[known["replacement"]]
            if value == 2:
                assert known["model"] == "small" and known["sampler"] == "fast" and "x" not in known
                continue
            assert (known["image"], known["patient"]) == (donor["image"], donor["patient"])
            shape = dataset.read(known["image"]).instances.shape
            assert -1 <= known["y"] <= shape[0] and -1 <= known["x"] <= shape[1]
    row, col = (int(places[0]) for places in np.nonzero(change.origin == 0))
    with pytest.raises(HistomixError, match="which its origin map marks"):
        METHOD.trace(record, row, col, painted=False)


def test_how_a_hole_was_filled_is_recorded_and_told(dataset, pool, small_model):
    plan = drain(plan_mixes(dataset, pool, everyone(pool), MIX)).items[0]
    made = {
        fill: drain(make_mix(dataset, pool, plan, replace(MIX, fill=fill), small_model))
        for fill in ("exemplars", "diffusion")
    }
    real, paint = made.values()
    assert np.array_equal(real.origin, paint.origin)
    assert np.array_equal((real.pixels != paint.pixels).any(axis=-1) & (real.origin != 2), np.zeros((120, 120), bool))
    assert (real.pixels != paint.pixels).any(axis=-1)[real.origin == 2].mean() > 0.5
    row, col = (int(places[0]) for places in np.nonzero(real.origin == 2))
    told = {fill: METHOD.trace(record_of(change), row, col, painted=True)["fill"] for fill, change in made.items()}
    assert told == {"exemplars": "exemplars", "diffusion": "large"}
    assert {fill: change.provenance["settings"]["fill"] for fill, change in made.items()} == {
        "exemplars": "exemplars",
        "diffusion": "diffusion",
    }
    # Each is made again as it was.
    again = drain(METHOD.remake([record_of(change) for change in made.values()], Sources(dataset, small_model)))
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(made.values(), again, strict=True))


def test_a_pixel_of_a_donor_that_only_moved_is_traced_to_itself(dataset, pool, small_model):
    members = everyone(pool)["low"]
    target, donor = int(members[0]), int(members[-1])
    plan = plan_one(pool, target, donor, 0.5, 3, "one")
    change = drain(make_mix(dataset, pool, plan, replace(MIX, stain_matching=False), small_model))
    image, record = dataset.read(pool.image(donor).source.image), record_of(change)
    rows, cols = np.nonzero(change.origin == 1)
    apart = []
    for place in np.linspace(0, len(rows) - 1, 40).astype(int):
        row, col = int(rows[place]), int(cols[place])
        known = METHOD.trace(record, row, col, painted=False)
        there = image.pixels[min(max(round(known["y"]), 0), 119), min(max(round(known["x"]), 0), 119)].astype(int)
        apart.append(np.abs(there - change.pixels[row, col]).mean())
    # Resampled, but the same tissue.
    assert np.median(apart) < 15


def test_nuclei_that_a_replacement_touches_are_labeled_no_longer(dataset, pool, small_model, monkeypatch):
    plan = drain(plan_mixes(dataset, pool, everyone(pool), MIX)).items[0]
    instances = np.zeros((120, 120), np.int32)
    instances[:60], instances[60:] = 1, 2
    instances[:2, :2] = 3
    read = Dataset.read
    monkeypatch.setattr(
        Dataset, "read", lambda self, entry: replace(read(self, entry), instances=instances, types={1: 1, 2: 1, 3: 1})
    )
    made = drain(make_mix(dataset, pool, plan, MIX, small_model))
    touched = set(np.unique(instances[made.origin != 0]).tolist())
    assert set(made.removed) == touched


def test_what_it_says_of_itself(finished):
    sentence = METHOD.sentence([record_of(change) for change in finished])
    assert sentence == (
        "USegMix: tissue segments of real images exchanged for similar ones of their class, what lies between painted "
        "by a diffusion model."
    )
    nuclei = SimpleNamespace(has_kinds=False, has_nuclei=True)
    assert METHOD.needs.problem(METHOD.title, nuclei) == ("USegMix needs a class for each image; these have instances.")
