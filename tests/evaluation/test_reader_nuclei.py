"""Which crops of nuclei a reader test shows, on the bundled sample's real tissue."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from reader_samples import make_changes
from scipy.stats import ks_2samp

from napari_histomix.compositing.composing import nucleus_of
from napari_histomix.datasets import load_sample, open_dataset
from napari_histomix.evaluation.crops import COPY_PASTE, GENUINE, NOT_READ, Square, square_around, unblended
from napari_histomix.evaluation.reader_test.nuclei import draw_nuclei
from napari_histomix.evaluation.reader_test.specimens import Drawn, ReaderTestSettings, Specimen
from napari_histomix.records import HistomixError, drain
from napari_histomix.sampling import nucleus_locations

SETTINGS = ReaderTestSettings(per_kind=20, copy_paste=True)


@pytest.fixture(scope="module")
def dataset():
    return load_sample()


@pytest.fixture(scope="module")
def changes(dataset):
    return make_changes(dataset)


@pytest.fixture(scope="module")
def found(dataset, changes) -> Drawn:
    return drain(draw_nuclei(dataset, changes, SETTINGS))


def square_of(one: Specimen) -> Square:
    """Where a crop lies, from what the sealed truth says."""
    assert one.mark is not None
    return Square(one.facts["image"], one.facts["row"] - one.mark[0], one.facts["col"] - one.mark[1], len(one.pixels))


def test_as_many_real_as_synthetic_and_methods_in_equal_parts(found):
    methods = Counter(one.method for one in found.specimens)
    assert methods[GENUINE] == sum(one.synthetic for one in found.specimens) >= 8
    assert abs(methods["NucleiMix, fast"] - methods[COPY_PASTE]) <= 1
    assert {one.kind for one in found.specimens} == {"tumor"}
    assert {one.pixels.shape for one in found.specimens} == {(64, 64, 3)}
    assert all(one.pixels.flags.owndata for one in found.specimens)


def test_real_crops_are_as_scanned_and_synthetic_ones_changed_by_one_change_alone(dataset, changes, found):
    by_id = {change.id: change for change in changes}
    for one in found.specimens:
        image, square = dataset.read(one.facts["image"]), square_of(one)
        scanned = image.pixels[square.window]
        assert (one.pixels.shape == scanned.shape) and (image.instances[square.window] > 0).any()
        if not one.synthetic:
            assert np.array_equal(one.pixels, scanned)
            assert image.instances[one.facts["row"], one.facts["col"]] in (one.facts["instance"], 0)
            continue
        change = by_id[one.facts["change"]]
        origin = np.zeros(image.instances.shape, np.uint8)
        origin[change.window] = change.origin
        origin = origin[square.window]
        expected = image.pixels.copy()
        expected[change.window][change.origin > 0] = change.pixels[change.origin > 0]
        expected = expected[square.window]
        assert np.array_equal(one.pixels[origin == 0], scanned[origin == 0])
        assert np.array_equal(one.pixels[origin == 1], expected[origin == 1])
        # What was painted is there only where something was painted at all.
        painted = scanned if one.method == COPY_PASTE else expected
        assert np.array_equal(one.pixels[origin == 2], painted[origin == 2])
        assert (origin == 1).any() and (origin == 2).any() and (one.pixels != scanned).any()


def test_no_two_crops_can_be_compared(dataset, found):
    squares = [square_of(one) for one in found.specimens]
    for number, one in enumerate(squares):
        assert not any(one.overlaps(other) for other in squares[:number])
        assert one.within(dataset.read(one.image).instances.shape)
    synthetic = [one for one in found.specimens if one.synthetic]
    donors = [(one.facts["donor_image"], one.facts["donor_instance"]) for one in synthetic]
    assert len(set(donors)) == len(donors)
    shown = {(one.facts["image"], one.facts["instance"]) for one in found.specimens if not one.synthetic}
    assert not shown & set(donors)
    kind = dataset.class_number("tumor")
    places = {
        (name, one.instance): one
        for name in {name for name, _ in donors}
        for one in nucleus_locations(dataset.read(name), (kind,), ())
    }
    for one in found.specimens:
        own = (one.facts.get("donor_image"), one.facts.get("donor_instance"))
        for donor in set(donors) - {own}:
            place = places[donor]
            assert not square_of(one).holds(place.image, place.row, place.col)


def test_a_real_nucleus_is_one_that_could_have_been_placed(dataset, changes, found):
    by_id = {change.id: change for change in changes}
    areas = sorted(nucleus_of(by_id[one.facts["change"]]).sum() for one in found.specimens if one.synthetic)
    for one in (one for one in found.specimens if not one.synthetic):
        image = dataset.read(one.facts["image"])
        nucleus = image.instances == one.facts["instance"]
        assert areas[0] / 2 <= nucleus.sum() <= 2 * areas[-1]
        rows, cols = np.nonzero(nucleus)
        around = image.instances[rows.min() - 1 : rows.max() + 2, cols.min() - 1 : cols.max() + 2]
        own = around == one.facts["instance"]
        grown = own.copy()
        grown[1:] |= own[:-1]
        grown[:-1] |= own[1:]
        grown[:, 1:] |= own[:, :-1]
        grown[:, :-1] |= own[:, 1:]
        assert not np.any(around[grown & ~own])


def test_where_the_nucleus_lies_in_its_crop_tells_nothing(dataset, changes):
    """The same rule for both, each crop with a step of its own: over several tests no difference is to be seen."""
    marks: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for seed in range(4):
        for one in drain(draw_nuclei(dataset, changes, ReaderTestSettings(per_kind=20, seed=seed))).specimens:
            assert one.mark is not None and max(abs(at - 32) for at in one.mark) <= 4
            marks[one.synthetic].append(one.mark)
    for axis in (0, 1):
        real, synthetic = ([mark[axis] for mark in marks[kind]] for kind in (False, True))
        assert len(set(real)) > 5 and len(set(synthetic)) > 5
        assert ks_2samp(real, synthetic).pvalue > 0.01


def test_the_step_off_the_middle_is_drawn_the_same_way_whatever_is_shown():
    rng = np.random.default_rng(0)
    steps = np.array(
        [(100 - one.row, 100 - one.col) for one in (square_around("a", 100, 100, 64, rng) for _ in range(2000))]
    )
    values, counts = np.unique(steps, return_counts=True)
    assert values.tolist() == list(range(28, 37)) and counts.min() > 380


def test_the_same_seed_draws_the_same_crops_and_another_one_others(dataset, changes, found):
    again = drain(draw_nuclei(dataset, changes, SETTINGS))
    assert all(
        np.array_equal(one.pixels, other.pixels) for one, other in zip(found.specimens, again.specimens, strict=True)
    )
    other = drain(draw_nuclei(dataset, changes, ReaderTestSettings(per_kind=20, copy_paste=True, seed=1)))
    assert {square_of(one) for one in other.specimens} != {square_of(one) for one in found.specimens}


def test_fewer_crops_than_wanted_are_said_with_the_reasons(dataset, changes):
    messages = [event.message for event in draw_nuclei(dataset, changes[:4], SETTINGS) if event.message]
    assert len(messages) == 1 and "instead of 20 each" in messages[0]


def test_only_the_training_split_is_shown(labeled_image, dataset_folder, tmp_path, changes):
    images = [
        labeled_image(20, seed=seed, name=f"i{seed}", split=split, shape=(200, 200))
        for seed, split in enumerate(("train", "test"))
    ]
    other = open_dataset(dataset_folder(tmp_path / "data", images))
    with pytest.raises(HistomixError, match=NOT_READ):
        drain(draw_nuclei(other, changes, SETTINGS))


def test_a_donor_without_its_blending_leaves_the_target_around_it(changes):
    pasted = unblended(changes[0])
    assert set(np.unique(pasted.origin)) == {0, 1}
    assert np.array_equal(pasted.origin == 1, changes[0].origin == 1)
