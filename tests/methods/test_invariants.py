"""What no change may break, on random images, donors and candidate locations."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from napari_histomix.compositing import IndexedImage, compose, donor_flaw
from napari_histomix.compositing.contours import dilate
from napari_histomix.compositing.planning import GUARD
from napari_histomix.datasets import open_dataset
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.methods.nucleimix import SynthesisSettings, synthesize
from napari_histomix.records import DONOR, INPAINTED, REAL, Candidate, LabeledImage, Placement, drain
from napari_histomix.sampling import background_locations, nucleus_locations


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


def check_pixels(target: LabeledImage, placements: list[Placement], donors: dict[str, LabeledImage], stain: bool):
    """Invariant 1: outside the changed pixels the target bit for bit, inside layer 1 the turned donor."""
    result = compose(target, placements)
    changed = np.zeros(target.instances.shape, bool)
    for one in placements:
        changed[one.window] |= one.origin != REAL
    assert np.array_equal(result.image.pixels[~changed], target.pixels[~changed])
    assert np.array_equal(result.image.instances[~changed], target.instances[~changed])
    assert np.array_equal(result.origin != REAL, changed)
    for one in placements:
        assert np.array_equal(result.image.pixels[one.window][one.origin != REAL], one.pixels[one.origin != REAL])
        assert np.array_equal(one.origin == DONOR, dilate(one.nucleus, 1))
        assert ((one.origin == INPAINTED) & one.nucleus).sum() == 0
        giver = donors[one.candidate.donor.image]
        if stain or giver.mpp != target.mpp:
            continue
        turns, mirrored = one.provenance["quarter_turns"], one.provenance["mirrored"]
        pixels, mask = giver.pixels, giver.instances == one.candidate.donor.instance
        if mirrored:
            pixels, mask = pixels[:, ::-1], mask[:, ::-1]
        pixels, mask = np.rot90(pixels, turns), np.rot90(mask, turns)
        assert np.array_equal(one.pixels[one.origin == DONOR], pixels[dilate(mask, 1)])
        assert one.nucleus.sum() == mask.sum()


def check_labels(target: LabeledImage, placements: list[Placement]):
    """Invariants 2 and 3: no other instance loses a pixel, ids stay unique, types with their ids, counts add up."""
    result = compose(target, placements).image
    replaced = {one.candidate.target.instance for one in placements} - {0}
    placed = [one.instance for one in placements]
    assert len(set(placed)) == len(placed) and not set(placed) & set(target.types)
    kept = set(np.unique(target.instances)) - {0} - replaced
    for instance in kept:
        assert np.array_equal(result.instances == instance, target.instances == instance)
        assert result.types[instance] == target.types[instance]
    assert set(np.unique(result.instances)) - {0} == kept | set(placed)
    for one in placements:
        assert result.types[one.instance] == one.candidate.donor.type
        where = np.zeros(target.instances.shape, bool)
        where[one.window] = one.nucleus
        assert np.array_equal(result.instances == one.instance, where)
    expected = Counter(target.counts())
    expected.update(one.candidate.donor.type for one in placements)
    expected.subtract(target.types[instance] for instance in replaced)
    assert +expected == result.counts()


def check_apart(target: LabeledImage, placements: list[Placement]):
    """Placements of one image keep a guard between them."""
    masks = []
    for one in placements:
        masks.append(np.zeros(target.instances.shape, bool))
        masks[-1][one.window] = one.origin != REAL
    for first, second in combinations(masks, 2):
        assert not (dilate(first, GUARD) & second).any()


def check_rejecting(target: LabeledImage, placements: list[Placement], rng: np.random.Generator):
    """A rejected placement gives the target back, and leaves the others as they are."""
    keep = rng.random(len(placements)) < 0.5
    everything = compose(target, placements)
    some = compose(target, [one for one, kept in zip(placements, keep, strict=True) if kept])
    for one, kept in zip(placements, keep, strict=True):
        changed, expected = one.origin != REAL, everything.image if kept else target
        assert np.array_equal(some.image.pixels[one.window][changed], expected.pixels[one.window][changed])
        assert np.array_equal(some.image.instances[one.window][changed], expected.instances[one.window][changed])
        replaced = one.candidate.target.instance
        if replaced:
            assert (replaced in some.image.types) != kept
    nothing = compose(target, [])
    assert np.array_equal(nothing.image.pixels, target.pixels)


@given(
    seed=st.integers(0, 2**20),
    scales=st.sampled_from([(0.25, 0.25), (0.25, 0.25), (0.25, 0.5), (1.0, 0.5)]),
    shape=st.sampled_from([(96, 96), (40, 120), (70, 45)]),
    gap=st.integers(0, 3),
    stain=st.booleans(),
    uses=st.integers(1, 4),
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
    tmp_path_factory, labeled_image, dataset_folder, small_model_folder, seed, scales, shape, gap, stain, uses
):
    images = [
        labeled_image(16, shape=shape, seed=seed + i, name=f"i{i}", mpp=mpp, gap=gap, rare=5)
        for i, mpp in enumerate(scales)
    ]
    dataset = open_dataset(dataset_folder(tmp_path_factory.mktemp("random") / "data", images))
    rng = np.random.default_rng(seed)
    candidates = random_candidates(images, rng)
    chosen = SynthesisSettings(count=12, seed=seed, device="cpu", stain_matching=stain, uses=uses)
    made = drain(synthesize(dataset, candidates, chosen, load_model(small_model_folder)))
    event(f"placed: {min(len(made.placements), 5)} or more" if made.placements else "placed: none")
    assert not made.problems
    assert len(made.placements) + made.refusals.total() <= len(candidates)
    if len(made.placements) < 12:
        assert len(made.placements) + made.refusals.total() == len(candidates), "every candidate is accounted for"
    donors = Counter((one.candidate.donor.image, one.candidate.donor.instance) for one in made.placements)
    assert max(donors.values(), default=0) <= uses
    by_name = {image.source.image: image for image in images}
    for name, target in by_name.items():
        here = [one for one in made.placements if one.candidate.target.image == name]
        check_pixels(target, here, by_name, stain)
        check_labels(target, here)
        check_apart(target, here)
        check_rejecting(target, here, rng)
