"""What a notebook hands to a network by mistake ends in a sentence, and nothing outside a hole is ever changed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from napari_histomix.generation.image_model import paint, paint_inside
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.models import load_generator
from napari_histomix.generation.pix2pix import render, repaint
from napari_histomix.generation.presets import PaintSettings
from napari_histomix.generation.segmenting import segment
from napari_histomix.generation.structure_model import sample
from napari_histomix.records import HistomixError, drain

STEP = PaintSettings(1)
SIDE = 48


@pytest.fixture(scope="module")
def image(small_image_folder):
    return load_generator(small_image_folder, "image")


@pytest.fixture(scope="module")
def pix2pix(small_pix2pix_folder):
    return load_generator(small_pix2pix_folder, "pix2pix")


@pytest.fixture(scope="module")
def structure(small_structure_folder):
    return load_generator(small_structure_folder, "structure")


@pytest.fixture
def layout() -> Layout:
    instances = np.zeros((SIDE, SIDE), np.int32)
    instances[5:15, 5:15], instances[25:35, 20:40] = 1, 2
    return Layout(instances, {1: "rare", 2: "common"}, 0.5)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(100, 255, (SIDE, SIDE, 3)).astype(np.uint8)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float32])
def test_a_hole_of_any_type_changes_what_is_inside_and_nothing_else(dtype, image, pix2pix, layout, pixels):
    hole = np.zeros((SIDE, SIDE), bool)
    hole[22:38, 18:42] = True
    for made in (
        drain(paint_inside(pixels, layout, hole.astype(dtype), image, 1, STEP, device="cpu")),
        drain(repaint(pixels, layout, hole.astype(dtype), pix2pix, device="cpu")),
    ):
        assert np.array_equal(made[~hole], pixels[~hole]) and not np.array_equal(made[hole], pixels[hole])


def test_a_hole_larger_than_a_pass_is_painted_tile_by_tile(image, monkeypatch):
    monkeypatch.setattr("napari_histomix.generation.image_model.ONE_PASS", 64)
    monkeypatch.setattr("napari_histomix.generation.image_model.OVERLAP", 16)
    pixels = np.random.default_rng(0).integers(100, 255, (120, 120, 3)).astype(np.uint8)
    hole = np.zeros((120, 120), bool)
    hole[20:100, 20:100] = True
    seen: list[int] = []
    network = image.network.forward
    monkeypatch.setattr(
        image.network, "forward", lambda sample, *rest: seen.append(sample.shape[-1]) or network(sample, *rest)
    )
    made = drain(
        paint_inside(pixels, Layout(np.zeros((120, 120), np.int32), {}, 0.5), hole, image, 1, STEP, device="cpu")
    )
    assert max(seen) <= 64 and len(seen) > 1
    assert np.array_equal(made[~hole], pixels[~hole]) and (made[hole] != pixels[hole]).any(axis=1).mean() > 0.9


def test_a_hole_below_a_pixel_of_the_networks_scale_is_painted(image, pixels, layout):
    fine = Layout(layout.instances, layout.classes, 0.1)
    hole = np.zeros((SIDE, SIDE), bool)
    hole[20, 20] = True
    made = drain(paint_inside(pixels, fine, hole, image, 1, STEP, device="cpu"))
    assert np.array_equal(made[~hole], pixels[~hole]) and not np.array_equal(made[hole], pixels[hole])


def test_only_what_is_painted_is_remarked_on(image, pixels, layout):
    hole = np.zeros((SIDE, SIDE), bool)
    hole[22:38, 18:42] = True
    for elsewhere, inside, said in (("plasma", "common", []), ("rare", "plasma", ["plasma"])):
        named = Layout(layout.instances, {1: elsewhere, 2: inside}, layout.mpp)
        events = list(paint_inside(pixels, named, hole, image, 1, STEP, device="cpu"))
        assert [event.message.split(" class ")[1].split(":")[0] for event in events if event.message] == said


class TestWrongInputs:
    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            (lambda pixels: pixels.astype(np.float64), "must be 8-bit RGB"),
            (lambda pixels: pixels.astype(np.uint16), "must be 8-bit RGB"),
            (lambda pixels: pixels[..., 0], "must be 8-bit RGB"),
            (lambda pixels: np.concatenate([pixels, pixels[..., :1]], axis=2), "must be 8-bit RGB"),
        ],
        ids=["float", "16 bits", "gray", "RGBA"],
    )
    def test_pixels(self, wrong, words, image, pix2pix, layout, pixels):
        hole = layout.instances > 0
        for job in (
            paint_inside(wrong(pixels), layout, hole, image, 1, STEP),
            render([layout], pix2pix, references=[wrong(pixels)]),
            repaint(wrong(pixels), layout, hole, pix2pix),
        ):
            with pytest.raises(HistomixError, match=words):
                drain(job)

    def test_models_of_another_kind(self, image, pix2pix, layout, pixels):
        hole = layout.instances > 0
        for job in (
            paint([layout], pix2pix, [1], STEP),
            paint_inside(pixels, layout, hole, pix2pix, 1, STEP),
            render([layout], image),
            sample(1, 32, image, [1]),
            segment(pixels, 0.5, image),
        ):
            with pytest.raises(HistomixError, match="is of the kind"):
                drain(job)

    def test_lists_of_other_lengths_are_found_before_anything_is_painted(self, image, pix2pix, structure, layout):
        stain = np.full(6, 0.2, np.float32)
        for job in (
            paint([layout] * 2, image, [1], STEP),
            paint([layout] * 2, image, [1, 2], STEP, stains=[stain]),
            render([layout] * 2, pix2pix, seeds=[1]),
            render([layout] * 2, pix2pix, stains=[stain] * 3),
            sample(2, 32, structure, [1]),
        ):
            with pytest.raises(HistomixError, match="give one for each"):
                drain(job)

    @pytest.mark.parametrize("stain", [np.zeros(3), np.full(6, np.nan)], ids=["of three", "no numbers"])
    def test_stains(self, stain, image, pix2pix, layout):
        for job in (paint([layout], image, [1], STEP, stains=[stain]), render([layout], pix2pix, stains=[stain])):
            with pytest.raises(HistomixError, match="six numbers"):
                drain(job)

    @pytest.mark.parametrize("seed", [-1, 2**70])
    def test_seeds(self, seed, image, pix2pix, structure, layout):
        for job in (
            paint([layout], image, [seed], STEP),
            render([layout], pix2pix, seeds=[seed]),
            sample(1, 32, structure, [seed]),
        ):
            with pytest.raises(HistomixError, match="A seed is a whole number"):
                drain(job)

    @pytest.mark.parametrize(
        "asked", [{"shares": {"rare": -1.0}}, {"shares": {"rare": 1.0}, "density": float("nan")}, {"steps": 0}]
    )
    def test_what_is_asked_of_a_layout(self, asked, structure):
        with pytest.raises(HistomixError, match=r"from 0 up|at least one step"):
            drain(sample(1, 32, structure, [1], **asked))

    def test_layouts_that_are_none(self):
        for instances, words in ((np.zeros((0, 4), np.int32), "must be"), (np.full((4, 4), -1, np.int32), "negative")):
            with pytest.raises(HistomixError, match=words):
                Layout(instances, {-1: ""}, 0.5)


class TestModelFolders:
    @pytest.fixture
    def changed(self, small_image_folder, tmp_path):
        """A copy of a model folder, one of whose files is changed."""

        def change(file: str, **values):
            folder = tmp_path / "changed"
            shutil.copytree(small_image_folder, folder)
            kept = json.loads((folder / file).read_text()) | values
            (folder / file).write_text(json.dumps({key: value for key, value in kept.items() if value is not ...}))
            return folder

        return change

    def test_a_card_without_a_name_is_called_as_its_folder(self, changed):
        assert load_generator(changed("histomix.json", name=...), "image").name == "changed"

    @pytest.mark.parametrize("classes", [..., None, "rare", ["rare", "common", "third"]])
    def test_classes_must_be_those_of_the_network(self, classes, changed):
        with pytest.raises(HistomixError, match="must name the 2 classes that its network knows"):
            load_generator(changed("histomix.json", classes=classes), "image")

    def test_a_card_without_a_scale(self, changed):
        with pytest.raises(HistomixError, match="does not say how many µm a pixel is"):
            load_generator(changed("histomix.json", mpp=...), "image")

    @pytest.mark.parametrize(
        "values",
        [{"num_train_timesteps": ...}, {"num_train_timesteps": "x"}, {"beta_schedule": "nope"}, {"prediction_type": 5}],
    )
    def test_a_schedule_must_be_one(self, values, changed):
        with pytest.raises(HistomixError, match="describes no noise schedule"):
            load_generator(changed("scheduler_config.json", **values), "image")
