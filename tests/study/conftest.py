"""A small dataset, its candidates and its placements, made once."""

from __future__ import annotations

import pytest

from napari_histomix.datasets import open_dataset
from napari_histomix.records import Candidate, Location


@pytest.fixture(scope="session")
def study_images(labeled_image):
    train = [labeled_image(12, seed=seed, name=f"train_{seed}", patient=f"p{seed}", rare=4) for seed in range(2)]
    bare = labeled_image([], name="train_bare", patient="p3")
    return [*train, bare, labeled_image(12, seed=9, name="test_9", split="test", patient="p9")]


@pytest.fixture(scope="session")
def study_folder(study_images, dataset_folder, tmp_path_factory):
    """Never write into it."""
    return dataset_folder(tmp_path_factory.mktemp("study") / "data", study_images)


@pytest.fixture(scope="session")
def study_dataset(study_folder):
    return open_dataset(study_folder)


@pytest.fixture(scope="session")
def few_candidates() -> tuple[tuple[Candidate, ...], dict]:
    """A made-up search of ten candidates with its facts, for tests that need no pixels."""
    candidates = tuple(
        Candidate(
            rank,
            Location("ä b.c", "major", 1 / 3 + rank, 2.5, 7 + rank, 2, 90),
            Location("d", "rare", 0.1, 1e-9, 3, 1, 80),
            -123.456789012345 - rank,
            100 / 3,
        )
        for rank in range(10)
    )
    facts = {"candidate_settings": {"rare": [1]}, "encoder": "texture", "temperature": 1.5}
    return candidates, {**facts, "effective_sample_size": 9.9}
