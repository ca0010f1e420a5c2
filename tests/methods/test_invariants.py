"""What no change may break, on random images, donors and candidate locations."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from napari_histomix.compositing.composing import compose
from napari_histomix.compositing.donors import dilate, donor_flaw
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.placing import place_in_donor
from napari_histomix.compositing.planning import GUARD
from napari_histomix.datasets import open_dataset
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.jobs import run
from napari_histomix.methods.nucleimix import NucleiMixSettings
from napari_histomix.records import DONOR, INPAINTED, KEEP, REAL, Candidate, Change, LabeledImage, drain
from napari_histomix.sampling import background_locations, nucleus_locations
from napari_histomix.study import Study


def random_candidates(images: list[LabeledImage], rng: np.random.Generator) -> list[Candidate]:
    """Every nucleus that is not rare and some free places, in random order, each with a random donor."""
    donors, targets = [], []
    for image in images:
        for one in nucleus_locations(image, rare=[1], major=[2]):
            if one.kind == "major":
                targets.append(one)
            elif donor_flaw(IndexedImage(image), one) is None:
                donors.append(one)
        targets += background_locations(image, 8, 4, rng)
    if not donors:
        return []
    order = rng.permutation(len(targets))
    return [Candidate(rank, targets[i], donors[rng.integers(len(donors))], 0.0, 50.0) for rank, i in enumerate(order)]


def check_pixels(target: LabeledImage, changes: list[Change], donors: dict[str, LabeledImage], stain: bool):
    """Invariant 1: outside the changed pixels the target bit for bit, inside the collar the turned donor."""
    result = compose(target, changes)
    changed = np.zeros(target.instances.shape, bool)
    for change in changes:
        changed[change.window] |= change.origin != REAL
    assert np.array_equal(result.image.pixels[~changed], target.pixels[~changed])
    assert np.array_equal(result.image.instances[~changed], target.instances[~changed])
    assert np.array_equal(result.origin != REAL, changed)
    for change in changes:
        own, nucleus = change.origin != REAL, change.labels != KEEP
        assert np.array_equal(result.image.pixels[change.window][own], change.pixels[own])
        collar = change.provenance["collar"]
        given = change.origin == DONOR
        assert (given >= dilate(nucleus, 1)).all()
        assert collar or np.array_equal(given, dilate(nucleus, 1))
        assert ((change.origin == INPAINTED) & nucleus).sum() == 0
        giver = donors[change.donor.image]
        if stain or giver.mpp != target.mpp:
            continue
        rows, cols = np.nonzero(given)
        places = [
            place_in_donor(change.provenance, row + change.row, col + change.col)
            for row, col in zip(rows.tolist(), cols.tolist(), strict=True)
        ]
        own = tuple(np.array(places, int).T)
        assert np.array_equal(change.pixels[given], giver.pixels[own])
        mask = giver.instances == change.donor.item
        assert np.array_equal(mask[own], nucleus[given])
        assert not ((giver.instances != 0) & ~mask)[own].any()
        assert nucleus.sum() == mask.sum()


def check_labels(target: LabeledImage, changes: list[Change]):
    """Invariants 2 and 3: no other instance loses a pixel, ids stay unique, types with their ids, counts add up."""
    result = compose(target, changes).image
    replaced = {instance for change in changes for instance in change.removed}
    placed = [instance for change in changes for instance in change.added]
    assert len(set(placed)) == len(placed) == len(changes) and not set(placed) & set(target.types)
    kept = set(np.unique(target.instances)) - {0} - replaced
    for instance in kept:
        assert np.array_equal(result.instances == instance, target.instances == instance)
        assert result.types[instance] == target.types[instance]
    assert set(np.unique(result.instances)) - {0} == kept | set(placed)
    assert result.synthetic == set(placed)
    for change in changes:
        ((instance, kind),) = change.added.items()
        assert result.types[instance] == kind == change.donor.type
        where = np.zeros(target.instances.shape, bool)
        where[change.window] = change.labels == instance
        assert np.array_equal(result.instances == instance, where)
    expected = Counter(target.counts())
    expected.update(kind for change in changes for kind in change.added.values())
    expected.subtract(target.types[instance] for instance in replaced)
    assert +expected == result.counts()


def check_apart(target: LabeledImage, changes: list[Change]):
    """Changes of one image keep a guard between them."""
    masks = []
    for change in changes:
        masks.append(np.zeros(target.instances.shape, bool))
        masks[-1][change.window] = change.origin != REAL
    for first, second in combinations(masks, 2):
        assert not (dilate(first, GUARD) & second).any()


def check_rejecting(target: LabeledImage, changes: list[Change], rng: np.random.Generator):
    """A rejected change gives the target back, and leaves the others as they are."""
    keep = rng.random(len(changes)) < 0.5
    everything = compose(target, changes)
    some = compose(target, [change for change, kept in zip(changes, keep, strict=True) if kept])
    for change, kept in zip(changes, keep, strict=True):
        changed, expected = change.origin != REAL, everything.image if kept else target
        assert np.array_equal(some.image.pixels[change.window][changed], expected.pixels[change.window][changed])
        assert np.array_equal(some.image.instances[change.window][changed], expected.instances[change.window][changed])
        for instance in change.removed:
            assert (instance in some.image.types) != kept
    nothing = compose(target, [])
    assert np.array_equal(nothing.image.pixels, target.pixels)


@given(
    seed=st.integers(0, 2**20),
    scales=st.sampled_from([(0.25, 0.25), (0.25, 0.25), (0.25, 0.5), (1.0, 0.5)]),
    shape=st.sampled_from([(96, 96), (40, 120), (70, 45)]),
    gap=st.integers(0, 3),
    stain=st.booleans(),
    uses=st.integers(1, 4),
    per_image=st.sampled_from([None, None, 3]),
    collar=st.sampled_from([0.0, 2.0]),
)
# A failing example takes seconds; making it smaller would take minutes.
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@pytest.mark.timeout(200)
def test_invariants_of_synthetic_images(
    tmp_path_factory,
    labeled_image,
    dataset_folder,
    small_model_folder,
    seed,
    scales,
    shape,
    gap,
    stain,
    uses,
    per_image,
    collar,
):
    images = [
        labeled_image(16, shape=shape, seed=seed + i, name=f"i{i}", mpp=mpp, gap=gap, rare=5)
        for i, mpp in enumerate(scales)
    ]
    dataset = open_dataset(dataset_folder(tmp_path_factory.mktemp("random") / "data", images))
    rng = np.random.default_rng(seed)
    candidates = random_candidates(images, rng)
    if not candidates:
        return
    study = Study.create(tmp_path_factory.mktemp("random") / "study", dataset.root, dataset.name)
    study.set_candidates(candidates, {})
    chosen = NucleiMixSettings(
        count=12, seed=seed, device="cpu", stain_matching=stain, uses=uses, per_image=per_image, collar=collar, batch=5
    )
    made = drain(run("nucleimix", dataset, chosen, study, loaded=load_model(small_model_folder)))
    changes = list(study.changes())
    event(f"placed: {min(len(changes), 5)} or more" if changes else "placed: none")
    assert not made.problems
    assert len(changes) + made.refusals.total() <= len(candidates)
    if len(changes) < 12:
        assert len(changes) + made.refusals.total() == len(candidates), "every candidate is accounted for"
    donors = Counter((change.donor.image, change.donor.item) for change in changes)
    assert max(donors.values(), default=0) <= uses
    by_name = {image.source.image: image for image in images}
    for name, target in by_name.items():
        here = [change for change in changes if change.image == name]
        assert per_image is None or len(here) <= per_image
        check_pixels(target, here, by_name, stain)
        check_labels(target, here)
        check_apart(target, here)
        check_rejecting(target, here, rng)
