"""A small dataset, its candidates and its placements, made once."""

from __future__ import annotations

from collections import Counter

import pytest

from napari_histomix.datasets import open_dataset
from napari_histomix.methods.nucleimix import (
    CandidateSet,
    CandidateSettings,
    Synthesis,
    SynthesisSettings,
    find_candidates,
    synthesize,
)
from napari_histomix.records import Candidate, Location, drain


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
def found(study_dataset) -> CandidateSet:
    return drain(find_candidates(study_dataset, CandidateSettings(rare=(1,), background_share=0.5)))


@pytest.fixture(scope="session")
def made(study_dataset, found, small_model_folder) -> Synthesis:
    from napari_histomix.diffusion.model_files import load_model

    settings = SynthesisSettings(count=6, device="cpu")
    made = drain(synthesize(study_dataset, found.candidates, settings, load_model(small_model_folder)))
    assert len(made.placements) == 6
    return made


@pytest.fixture(scope="session")
def few_candidates() -> CandidateSet:
    """A made-up search of ten candidates, for tests that need no pixels."""
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
    return CandidateSet(candidates, CandidateSettings((1,)), "texture", 1.5, 9.9, Counter(major=10), Counter(), ())
