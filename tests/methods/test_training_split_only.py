"""Whatever lies in images of validation and test splits changes nothing of what is made for training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_histomix.datasets import open_dataset
from napari_histomix.datasets.splits import with_splits
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.evaluation.nearest_patch import TrainingPatches
from napari_histomix.methods.base import Work
from napari_histomix.methods.candidate_stage import CandidateSettings, find_candidates
from napari_histomix.methods.nucleimix import METHOD, NucleiMixSettings
from napari_histomix.records import HistomixError, drain
from napari_histomix.training.images import pictures_of

FIND = CandidateSettings(rare=("rare",), background_share=0.5)
MAKE = NucleiMixSettings(count=3, device="cpu")
FEW = settings(
    max_examples=4, deadline=None, phases=(Phase.generate,), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Shelf:
    """A study that holds candidates alone."""

    def __init__(self, candidates):
        self.candidates = lambda: candidates
        self.settings = dict
        self.changes = list


def placed(dataset, candidates, model_folder):
    """Nuclei placed on candidates, by id."""
    work = Work(dataset, Shelf(candidates), loaded=load_model(model_folder))
    plan = drain(METHOD.plan(work, MAKE))
    changes = [change for event in METHOD.make(work, plan.items, MAKE) for change in event.made]
    return sorted(changes, key=lambda change: change.id)


@pytest.fixture(scope="module")
def training(labeled_image):
    return [labeled_image(10, seed=seed, shape=(96, 96), name=f"train_{seed}", rare=4) for seed in range(2)]


@pytest.fixture(scope="module")
def alone(training, dataset_folder, tmp_path_factory, small_model_folder):
    """What is made of the training images where there are no others."""
    dataset = open_dataset(dataset_folder(tmp_path_factory.mktemp("alone") / "data", training))
    found = drain(find_candidates(dataset, FIND))
    made = placed(dataset, found.candidates, small_model_folder)
    assert len(made) == 3
    patches = drain(TrainingPatches.build(dataset))
    return dataset, found, made, patches


@given(
    held=st.lists(st.tuples(st.sampled_from(["val", "test"]), st.integers(0, 99)), min_size=1, max_size=2),
    data=st.data(),
)
@FEW
def test_candidates_and_placements_do_not_depend_on_held_out_images(
    held, data, alone, training, labeled_image, dataset_folder, small_model_folder, tmp_path_factory
):
    others = []
    for number, (split, seed) in enumerate(held):
        # Sorted before, between or behind the training images.
        name = data.draw(st.sampled_from(["a", "train_0b", "z"])) + str(number)
        others.append(
            labeled_image(12, seed=seed, shape=(80, 112), name=name, split=split, rare=data.draw(st.integers(0, 9)))
        )
    _, found, made, patches = alone
    dataset = open_dataset(dataset_folder(tmp_path_factory.mktemp("held") / "data", [*training, *others]))
    assert len(dataset.entries) == 2 + len(others)
    again = drain(find_candidates(dataset, FIND))
    assert again.candidates == found.candidates
    assert (again.temperature, again.considered, again.unfit_donors) == (
        found.temperature,
        found.considered,
        found.unfit_donors,
    )
    for one, other in zip(placed(dataset, again.candidates, small_model_folder), made, strict=True):
        assert (one.id, one.sources, one.seed) == (other.id, other.sources, other.seed)
        assert np.array_equal(one.pixels, other.pixels) and np.array_equal(one.origin, other.origin)
    beside = drain(TrainingPatches.build(dataset))
    assert beside.nuclei == patches.nuclei
    crop = others[0].pixels[:80, :80]
    assert beside.nearest(crop, 0.25) == patches.nearest(crop, 0.25)


def test_an_image_moved_to_another_split_gives_no_donor_and_is_no_target(alone):
    dataset, found, _, _ = alone
    moved = with_splits(dataset, {"train_0": "test", "train_1": "train"})
    candidates = drain(find_candidates(moved, FIND)).candidates
    assert {place.image for one in candidates for place in (one.target, one.donor)} == {"train_1"}
    with pytest.raises(HistomixError, match="train_0 is not in the training split"):
        drain(METHOD.plan(Work(moved, Shelf(found.candidates)), MAKE))
    assert {one.image for one in drain(TrainingPatches.build(moved)).nuclei} == {"train_1"}


# Networks.


def test_networks_learn_from_no_image_of_another_split(tmp_path):
    for name in ("Images/a", "Images/b", "Images/c", "Images/d", "Test/e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "dataset.json").write_text('{"split": {"test": ["b"]}}')

    def learned(splits=None):
        return {one.name for one in pictures_of(tmp_path, splits)[0]}

    assert learned() == {"a.png", "c.png", "d.png"}
    assert learned({"a": "val", "Images/c": "test", "e": "train"}) == {"d.png", "e.png"}
    assert learned({"a": "fold 2"}) == {"c.png", "d.png"}
    with pytest.raises(HistomixError, match="splits only"):
        learned(dict.fromkeys("acd", "val"))
