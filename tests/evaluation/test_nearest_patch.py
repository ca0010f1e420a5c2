"""The nearest training patch: copies stand out, own surroundings do not count, distances are those of real nuclei."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from reader_samples import make_changes

from napari_histomix.compositing.composing import compose, nucleus_of
from napari_histomix.datasets import load_sample, open_dataset
from napari_histomix.evaluation.nearest_patch import SPAN_UM, TrainingPatches
from napari_histomix.records import HistomixError, Location, drain


@pytest.fixture(scope="module")
def sample():
    return load_sample()


@pytest.fixture(scope="module")
def patches(sample):
    return drain(TrainingPatches.build(sample))


def crop_of(sample, one, by=0):
    """28 µm and a margin around a nucleus, shifted by some pixels where the image has them."""
    image = sample.read(one.image)
    side = round(1.2 * SPAN_UM / image.mpp) // 2
    row, col = round(one.row) + by, round(one.col)
    if min(row, col) < side or row + side >= image.pixels.shape[0] or col + side >= image.pixels.shape[1]:
        return None, image.mpp
    return image.pixels[row - side : row + side + 1, col - side : col + side + 1], image.mpp


def jpeg(pixels):
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=80)
    return np.array(Image.open(stream).convert("RGB"))


@pytest.fixture(scope="module")
def inner(sample, patches):
    """Every tenth nucleus whose patch lies inside its image."""
    return [one for one in patches.nuclei[::10] if crop_of(sample, one)[0] is not None]


def test_a_nucleus_of_a_training_image_finds_itself(sample, patches, inner):
    assert len(patches) == 439 and len(inner) > 15
    for one in inner:
        crop, mpp = crop_of(sample, one)
        found = patches.nearest(crop, mpp)
        assert (found.image, found.instance, found.type) == (one.image, one.instance, one.type)
        # The sample keeps to whole pixels, the center of a nucleus does not.
        assert found.percentile < 1


@pytest.mark.parametrize("change", [lambda one: np.rot90(one), lambda one: one[:, ::-1]], ids=["turned", "mirrored"])
def test_a_turned_copy_stands_out_from_what_is_alike_among_real_nuclei(sample, patches, inner, change):
    found = [patches.nearest(change(crop), mpp) for crop, mpp in (crop_of(sample, one) for one in inner)]
    assert [(got.image, got.instance) for got in found] == [(one.image, one.instance) for one in inner]
    assert all(one.percentile < 1 for one in found)


def test_a_recompressed_copy_leads_to_its_place_and_is_nearer_than_most_real_nuclei_are(sample, patches, inner):
    found = [patches.nearest(jpeg(crop), mpp) for crop, mpp in (crop_of(sample, one) for one in inner)]
    near = [
        got.image == one.image and max(abs(got.row - one.row), abs(got.col - one.col)) < SPAN_UM / 0.5
        for got, one in zip(found, inner, strict=True)
    ]
    assert np.mean(near) > 0.9
    assert np.median([one.percentile for one in found]) < 10


def test_without_itself_a_real_nucleus_is_as_far_from_others_as_real_nuclei_are(sample, patches, inner):
    percentiles = []
    for one in inner:
        crop, mpp = crop_of(sample, one)
        found = patches.nearest(crop, mpp, exclude=[one])
        reach = SPAN_UM / mpp
        far = max(abs(found.row - one.row), abs(found.col - one.col))
        assert found.image != one.image or far >= reach, "a patch that overlaps the excluded one must not count"
        percentiles.append(found.percentile)
    assert 25 < np.median(percentiles) < 75


def test_several_are_in_order_and_a_place_in_an_image_is_as_good_as_a_crop(sample, patches, inner):
    crop, mpp = crop_of(sample, inner[0])
    found = patches.several(crop, mpp, count=4)
    assert len(found) == 4 and [one.distance for one in found] == sorted(one.distance for one in found)
    image = sample.read(inner[0].image)
    at = round(inner[0].row), round(inner[0].col)
    assert patches.nearest(image.pixels, image.mpp, at) == found[0]


def test_only_training_images_and_only_classes_asked_for(labeled_image, dataset_folder, tmp_path):
    images = [
        labeled_image(9, seed=1, name="train", rare=2),
        labeled_image(9, seed=2, name="held", split="test", rare=2),
    ]
    dataset = open_dataset(dataset_folder(tmp_path / "data", images))
    patches = drain(TrainingPatches.build(dataset, types=(1,)))
    assert [(one.image, one.type) for one in patches.nuclei] == [("train", 1)] * 2
    everywhere = [Location("train", "background", 64, 64)]
    with pytest.raises(HistomixError, match="no other training nucleus"):
        patches.nearest(images[1].pixels, 0.25, exclude=everywhere)
    with pytest.raises(HistomixError, match="such a nucleus"):
        drain(TrainingPatches.build(dataset, types=(3,)))


def test_held_out_images_are_as_far_as_real_nuclei_are(labeled_image, dataset_folder, tmp_path):
    images = [
        labeled_image(9, seed=seed, name=f"i{seed}", rare=4, split="test" if seed > 2 else "train")
        for seed in range(1, 5)
    ]
    dataset = open_dataset(dataset_folder(tmp_path / "data", images))
    patches = drain(TrainingPatches.build(dataset))
    held = drain(patches.held_out(dataset))
    assert len(held) == 18 and held.min() > 0
    assert not len(drain(patches.held_out(replace(dataset, entries=dataset.training))))


def test_a_synthetic_nucleus_is_nearest_to_its_donor_unless_that_is_left_out(sample, patches):
    changes = make_changes(sample, "lymphocyte", each=1)
    assert changes
    for change in changes:
        image = compose(sample.read(change.image), [change]).image
        rows, cols = np.nonzero(nucleus_of(change))
        place = float(rows.mean() + change.row), float(cols.mean() + change.col)
        near = patches.several(image.pixels, image.mpp, place, change.sources, count=2)
        for neighbor in near:
            for source in change.sources:
                far = max(abs(neighbor.row - source.row), abs(neighbor.col - source.col)) * 0.5
                assert neighbor.image != source.image or far >= SPAN_UM
        assert len(near) == 2 and patches.nearest(image.pixels, image.mpp, place).distance <= near[0].distance
