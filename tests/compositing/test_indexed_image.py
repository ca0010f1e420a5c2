from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_histomix.compositing.indexed_image import ImageCache, IndexedImage
from napari_histomix.datasets import open_dataset
from napari_histomix.datasets.pixels import image_facts
from napari_histomix.records import Location


@pytest.fixture
def dataset(labeled_image, dataset_folder, tmp_path):
    return open_dataset(
        dataset_folder(tmp_path / "data", [labeled_image(3, seed=seed, name=f"train_{seed}") for seed in range(3)])
    )


def test_a_location_is_known_by_its_place_its_instance_and_its_type(labeled_image, location):
    image = IndexedImage(labeled_image([(30, 30, 5, 5, 1)], shape=(64, 80)))
    there = location(image.image, 1)
    assert image.holds(there)
    assert not image.holds(replace(there, instance=2))
    assert not image.holds(replace(there, type=2))
    assert not image.holds(replace(there, row=64.0))
    free = Location(image.image.source.image, "background", 63.0, 79.0)
    assert image.holds(free)
    assert not image.holds(replace(free, kind="major"))
    # Listed in the types, but erased from the map.
    image = IndexedImage(replace(image.image, instances=np.zeros_like(image.image.instances)))
    assert not image.holds(there)


def test_images_are_read_once_as_far_as_memory_goes(dataset):
    first = dataset.read("train_0")
    cache = ImageCache(dataset.read, capacity=2 * (first.pixels.nbytes + first.instances.nbytes))
    images = {name: cache.get(name) for name in ("train_0", "train_1", "train_2")}
    assert cache.get("train_0") is images["train_0"] and cache.get("train_1") is images["train_1"]
    again = cache.get("train_2")
    assert again is not images["train_2"]
    assert np.array_equal(again.image.pixels, images["train_2"].image.pixels)
    assert cache.facts == {name: image_facts(image.image) for name, image in images.items()}
    assert not cache.problems


def test_an_image_that_cannot_be_read_is_a_problem_noted_once(dataset):
    broken = dataset.entry("train_1").image
    content = broken.read_bytes()
    broken.write_bytes(content[:100])
    cache = ImageCache(dataset.read)
    assert cache.get("train_1") is None
    assert list(cache.problems) == ["train_1"] and not cache.facts
    broken.write_bytes(content)
    assert cache.get("train_1") is None, "an image that comes and goes would leave half a result"
