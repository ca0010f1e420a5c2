"""Painted nuclei: new rare nuclei in the shapes of real ones, and nothing else of the image is touched."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from napari_histomix import jobs
from napari_histomix.compositing.composing import compose
from napari_histomix.datasets import open_any
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.generation.models import load_generator
from napari_histomix.methods import whatif
from napari_histomix.methods.base import Work
from napari_histomix.methods.candidate_stage import CandidateSettings
from napari_histomix.methods.nucleimix import HOLDS_NUCLEUS
from napari_histomix.methods.record import Record
from napari_histomix.methods.whatif import METHOD, PaintedNucleiSettings
from napari_histomix.records import INPAINTED, REAL, Change, HistomixError, drain
from napari_histomix.study import Study


@pytest.fixture(scope="module")
def dataset(labeled_image, dataset_folder, tmp_path_factory):
    images = [labeled_image(24, seed=seed, name=f"train_{seed}", patient=f"p{seed}", rare=4) for seed in range(2)]
    images.append(labeled_image(12, seed=9, name="test_9", split="test", patient="p9"))
    return open_any(dataset_folder(tmp_path_factory.mktemp("whatif") / "nuclei", images))


@pytest.fixture(scope="module")
def model(small_image_folder):
    return load_generator(small_image_folder, "image")


@pytest.fixture(scope="module")
def study(dataset, model, tmp_path_factory) -> Study:
    """Six painted nuclei. Never write into it."""
    study = Study.create(tmp_path_factory.mktemp("whatif") / "study", dataset.root, dataset.name)
    settings = PaintedNucleiSettings(count=6, steps=2, device="cpu")
    drain(jobs.run(METHOD, dataset, settings, study, stage=CandidateSettings(rare=("rare",)), loaded=model))
    return study


def test_only_the_nucleus_its_rim_and_what_it_replaces_are_painted(dataset, study):
    assert len(study.changes()) == 6
    for change in study.changes():
        target = dataset.read(change.image)
        made = compose(target, [change])
        assert set(np.unique(change.origin)) <= {REAL, INPAINTED} and (made.origin == INPAINTED).any()
        (number,) = change.added
        assert (
            dataset.class_name(change.added[number]) == "rare"
            and (made.origin[made.image.instances == number] == 2).all()
        )
        kept = (target.instances != 0) & ~np.isin(target.instances, change.removed)
        assert np.array_equal(made.image.instances[kept], target.instances[kept]) and not made.origin[kept].any()
        assert np.array_equal(made.image.pixels[made.origin == REAL], target.pixels[made.origin == REAL])
        assert (made.image.pixels != target.pixels)[made.origin != REAL].any()
        if replaced := change.sources[0].item:
            assert change.removed == (replaced,) and (made.origin[target.instances == replaced] == INPAINTED).all()


def test_shapes_are_those_of_real_nuclei_but_no_pixel_is(dataset, study):
    for change in study.changes():
        shape, (number,) = change.source("labels"), change.added
        area = np.count_nonzero(change.labels == number)
        assert area == pytest.approx(shape.area, rel=0.15) and change.donor is None
        traced = METHOD.trace(Record.of(change, dataset.class_name), change.row, change.col, True)
        assert traced["shape_of"] == {"image": shape.image, "instance": shape.item} and traced["instance"] == number


def test_a_network_that_learned_from_test_images_is_refused(dataset, study, model):
    card = {**model.card, "training_pixels": [pixels_sha256(dataset.read("test_9").pixels)]}
    work = Work(dataset, study, loaded=replace(model, card=card))
    with pytest.raises(HistomixError, match="learned from test_9"):
        drain(METHOD.plan(work, PaintedNucleiSettings(device="cpu")))


def test_it_can_be_compared_with_others_at_the_same_places(dataset, study, model):
    work = Work(dataset, study, 100, loaded=model)
    placed = drain(METHOD.place(work, study.candidates()[:3], PaintedNucleiSettings(steps=2, device="cpu")))
    assert len(placed) == 3 and any(isinstance(change, Change) for change in placed)
    for change in placed:
        if isinstance(change, Change):
            assert change.provenance["model"] == "small image" and change.source("labels").item


def test_free_places_with_an_unlabeled_nucleus_are_refused_and_counted(dataset, study, model, monkeypatch):
    class Everywhere:
        def __init__(self, *_: object) -> None: ...

        def within(self, image, window):
            return np.ones(image.instances[window].shape, bool)

    segmenter = SimpleNamespace(sha256="5e9")
    stand_ins = {"load_segmenter": lambda: segmenter, "UnlabeledNuclei": Everywhere}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(whatif, name, stand_in)
    work = Work(dataset, study, loaded=model)
    plan = drain(METHOD.plan(work, PaintedNucleiSettings(device="cpu")))
    assert plan.refusals[HOLDS_NUCLEUS] and all(site.target.instance for site in plan.items)
    assert {site.segmenter_sha256 for site in plan.items} == {"5e9"}
    unchecked = drain(METHOD.plan(work, PaintedNucleiSettings(device="cpu", check_free_places=False)))
    assert not unchecked.refusals[HOLDS_NUCLEUS] and not all(site.target.instance for site in unchecked.items)
