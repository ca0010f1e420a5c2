"""USegMix from class folders to synthetic images: who may replace whom, how much is new, and where it comes from."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from napari_histomix.datasets import open_tissue
from napari_histomix.methods.usegmix import (
    MixSettings,
    PoolSettings,
    build_pool,
    compose,
    correct_pool,
    donor_choice,
    make_mix,
    plan_mixes,
)
from napari_histomix.records import HistomixError, Segment, drain
from napari_histomix.segmentation import AnchorSettings
from napari_histomix.segmentation.pool import SegmentPool

POOL = PoolSettings(anchors=AnchorSettings(superpixels=12, points=5))
MIX = MixSettings(per_class=3, new_area=(0.1, 0.9), area_ratio=(0.1, 10.0), device="cpu")


def paint(seed: int, side: int = 120) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), (225, 165, 205), float)
    rows, cols = np.mgrid[:side, :side]
    for color in ((130, 85, 160), (205, 60, 90), (160, 120, 190)):
        row, col = rng.uniform(25, side - 25, 2)
        pixels[((rows - row) / rng.uniform(14, 24)) ** 2 + ((cols - col) / rng.uniform(14, 24)) ** 2 < 1] = color
    pixels += cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), 1.0)[..., None] * 12
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Four images each of two classes, two patients a class, and one image of the test split."""
    root = tmp_path_factory.mktemp("usegmix") / "tissue"
    rows = []
    for kind in ("low", "high"):
        (root / kind).mkdir(parents=True)
        for number in range(4):
            name = f"{kind}/{number}.png"
            Image.fromarray(paint(number + 10 * (kind == "high"))).save(root / name)
            rows.append([name, kind, f"{kind}-{number % 2}", "train", 0.25])
    Image.fromarray(paint(99)).save(root / "low" / "held.png")
    rows.append(["low/held.png", "low", "other", "test", 0.25])
    with (root / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["image", "class", "patient", "split", "mpp"], *rows])
    return root


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


def test_plans_keep_to_the_class_the_range_and_the_seed(pool):
    planned, again, other = (drain(plan_mixes(pool, everyone(pool), replace(MIX, seed=seed))) for seed in (5, 5, 6))
    assert planned.plans != () and not planned.refusals
    assert Counter(plan.kind for plan in planned.plans) == {"low": 3, "high": 3}
    assert len({plan.name for plan in planned.plans}) == 6 and len({plan.image for plan in planned.plans}) == 6
    shown = [[(one.name, one.exchanges) for one in some.plans] for some in (planned, again, other)]
    assert shown[0] == shown[1] and shown[0] != shown[2]
    for plan in planned.plans:
        for one in plan.exchanges:
            assert pool.image(one.target).source.image == plan.image
            assert pool.image(one.donor).kind == plan.kind and 0 < one.probability <= 1
        assert len({one.target for one in plan.exchanges}) == len(plan.exchanges)
    names = [plan.name for plan in planned.plans]
    more = drain(plan_mixes(pool, everyone(pool), replace(MIX, seed=5), taken=names))
    assert not {plan.name for plan in more.plans} & set(names)


def test_a_segment_of_another_class_is_a_donor_but_its_image_no_target(pool):
    members = everyone(pool)
    foreign = members["high"][:6]
    moved = {"low": np.sort(np.concatenate([members["low"], foreign]))}
    planned = drain(plan_mixes(pool, moved, replace(MIX, per_class=8)))
    assert {pool.image(one.target).kind for plan in planned.plans for one in plan.exchanges} == {"low"}
    donors = {one.donor for plan in planned.plans for one in plan.exchanges}
    assert donors & set(foreign.tolist()), "they are drawn"
    planned = drain(plan_mixes(pool, {"low": members["high"]}, MIX))
    assert planned.plans == () and set(planned.refusals) == {"low: no image of this class has a segment"}


def test_a_used_donor_becomes_less_likely(pool):
    members = everyone(pool)["low"]
    choice = donor_choice(pool, members, "low", MIX)
    target = int(members[0])
    first, chance = choice.likeliest(target, 1)[0]
    choice.pool_draw.use(int(np.flatnonzero(members == first)[0]))
    assert dict(choice.likeliest(target, len(members)))[first] < chance


def test_a_class_without_a_second_patient_or_a_range_out_of_reach_is_explained(pool):
    one = {kind: some[:1] for kind, some in everyone(pool).items()}
    planned = drain(plan_mixes(pool, one, MIX))
    assert not planned.plans and all("two segments" in reason for reason in planned.refusals)
    patients = np.array([pool.images[image].source.patient for image in pool.rows["image"]])
    alone = {kind: some[patients[some] == f"{kind}-0"] for kind, some in everyone(pool).items()}
    planned = drain(plan_mixes(pool, alone, MIX))
    assert not planned.plans and set(planned.refusals) == {
        f"{kind}: no segment of its class may take its place" for kind in ("low", "high")
    }
    planned = drain(plan_mixes(pool, everyone(pool), replace(MIX, new_area=(0.0001, 0.0002))))
    assert not planned.plans and all("new-area ratio" in reason for reason in planned.refusals)
    with pytest.raises(HistomixError, match="between 0 and 1"):
        drain(plan_mixes(pool, everyone(pool), replace(MIX, new_area=(0.9, 0.3))))


def test_a_synthetic_image_is_its_target_but_for_donors_and_paint(pool, dataset, small_model):
    plan = drain(plan_mixes(pool, everyone(pool), MIX)).plans[0]
    made, again = (drain(make_mix(dataset, pool, plan, MIX, small_model)) for _ in range(2))
    target = dataset.read(plan.image)
    assert np.array_equal(made.pixels, again.pixels) and np.array_equal(made.origin, again.origin)
    assert np.array_equal(made.pixels[made.origin == 0], target.pixels[made.origin == 0])
    assert MIX.new_area[0] <= made.new_area <= MIX.new_area[1] and set(np.unique(made.origin)) == {0, 1, 2}
    images = {name: dataset.read(name) for name in {one["image"] for one in made.provenance["donors"]}}
    pasted, origin, facts = compose(target, pool, plan.exchanges, images)
    assert np.array_equal(origin, made.origin) and facts == made.provenance["donors"]
    assert np.array_equal(made.pixels[origin == 1], pasted[origin == 1]), "donors are not painted over"
    assert (made.kind, made.target, made.name, made.seed) == (plan.kind, plan.image, plan.name, plan.seed)
    assert made.provenance["model"] == "small" and made.provenance["signature"] == dict(pool.signature)


def test_without_stain_matching_donor_pixels_are_the_donors_own(pool, dataset):
    plan = drain(plan_mixes(pool, everyone(pool), MIX)).plans[0]
    target = dataset.read(plan.image)
    donors = {pool.image(one.donor).source.image for one in plan.exchanges}
    images = {name: dataset.read(name) for name in donors}
    pasted, origin, facts = compose(target, pool, plan.exchanges, images, stain_matching=False)
    colors = np.concatenate([one.pixels.reshape(-1, 3) for one in images.values()]).astype(int)
    assert pasted[origin == 1].mean() == pytest.approx(colors.mean(), abs=60) and not facts[0]["stain"]
    assert np.array_equal(pasted[origin != 1], target.pixels[origin != 1])


def test_an_image_that_changed_since_is_refused(pool, folder, tmp_path, small_model):
    import shutil

    copy = tmp_path / "tissue"
    shutil.copytree(folder, copy)
    plan = drain(plan_mixes(pool, everyone(pool), MIX)).plans[0]
    Image.fromarray(paint(1234)).save(copy / f"{plan.image}.png")
    with pytest.raises(HistomixError, match="not the one that the pool was made of"):
        drain(make_mix(open_tissue(copy), pool, plan, MIX, small_model))


def test_an_image_without_tissue_is_left_out_and_named(folder, tmp_path):
    import shutil

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
