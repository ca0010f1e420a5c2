"""Edge pix2pix as a method: what its new images are made of, and what their network must not have seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_histomix import jobs
from napari_histomix.datasets import open_any
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.datasets.splits import with_splits
from napari_histomix.generation.models import load_generator
from napari_histomix.methods.base import Work
from napari_histomix.methods.edge_pix2pix import METHOD, EdgePix2PixSettings
from napari_histomix.methods.record import Record
from napari_histomix.records import HistomixError, drain
from napari_histomix.study import Study
from napari_histomix.study.export import export_study


@pytest.fixture(scope="module")
def dataset(labeled_image, dataset_folder, tmp_path_factory):
    images = [labeled_image(20, seed=seed, name=f"train_{seed}", patient=f"p{seed}") for seed in range(2)]
    images[1] = replace(images[1], pixels=images[1].pixels // 2)
    images.append(labeled_image(12, seed=9, name="test_9", split="test", patient="p9"))
    return open_any(dataset_folder(tmp_path_factory.mktemp("pix2pix") / "nuclei", images))


@pytest.fixture(scope="module")
def model(small_pix2pix_folder):
    return load_generator(small_pix2pix_folder, "pix2pix")


@pytest.fixture
def made(dataset, model, tmp_path):
    """Make new images with some settings; the study they are in."""

    def make(folder="study", loaded=model, **settings) -> Study:
        study = Study.create(tmp_path / folder, dataset.root, dataset.name)
        settings = EdgePix2PixSettings(**{"count": 2, "device": "cpu", **settings})
        drain(jobs.run(METHOD, dataset, settings, study, loaded=loaded))
        return study

    return make


def seen(model, dataset, *names):
    """The model, as if it had learned from these images."""
    hashes = [pixels_sha256(dataset.read(name).pixels) for name in names]
    return replace(model, card={**model.card, "training_pixels": hashes})


def test_a_replica_has_the_labels_of_its_image_and_follows_its_edges(dataset, made):
    for change in made(mode="replica").changes():
        source = dataset.read(change.sources[0].image)
        assert np.array_equal(change.labels, source.instances) and change.added == source.types
        assert (change.origin == 2).all() and not np.array_equal(change.pixels, source.pixels)
        assert change.provenance["mpp"] == source.mpp and np.isnan(change.score)


def test_every_label_of_a_shape_is_traced_to_its_image(dataset, made):
    for change in made(side=64).changes():
        assert change.shape == (64, 64)
        record, source = Record.of(change, str), dataset.read(change.sources[0].image)
        rng = np.random.default_rng(0)
        hits = [
            source.instances[round(place["y"]), round(place["x"])] == change.labels[row, col]
            for row, col in rng.integers(64, size=(50, 2)).tolist()
            for place in [METHOD.trace(record, row, col, True)["labels"]]
        ]
        assert sum(hits) >= 47  # at outlines, places between pixels are rounded


def test_redrawn_edges_and_another_stain_are_other_pictures(made):
    pictures = []
    for number, settings in enumerate(({}, {"edges": False}, {"stain": "other"})):
        other = made(f"study-{number}", mode="replica", **settings).changes()
        pictures += [change.pixels.tobytes() for change in other]
    assert len(set(pictures)) == 6
    assert all(change.source("labels").image != change.source("reference").image for change in other)


def test_a_network_that_learned_from_test_images_is_refused(dataset, model, made):
    with pytest.raises(HistomixError, match="learned from test_9, which made up keeps for validation or test"):
        made(loaded=seen(model, dataset, "train_0", "test_9"))


def test_what_it_learned_from_must_stay_in_the_training_split(dataset, model, made, tmp_path):
    study = made(loaded=seen(model, dataset, "train_1"), count=1)
    (change,) = study.changes()
    assert change.provenance["learned_from"] == ["train_1"] and change.sources[0].image == "train_0"
    splits = {entry.source.image: entry.source.split for entry in dataset.entries}
    with pytest.raises(HistomixError, match=r"train_1.*by a network that learned from train_1"):
        moved = with_splits(dataset, {**splits, "train_1": "test"})
        drain(export_study(study, moved, tmp_path / "out", reviewed=False))
    drain(export_study(study, dataset, tmp_path / "out", reviewed=False))


def test_one_image_has_no_other_stain(dataset, model, made):
    single = replace(dataset, entries=tuple(entry for entry in dataset.entries if entry.source.image != "train_1"))
    with pytest.raises(HistomixError, match="no other training image"):
        next(METHOD.plan(Work(single, None, loaded=model), EdgePix2PixSettings(stain="other")))
