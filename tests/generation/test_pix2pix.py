"""Edge pix2pix: edges and labels as input, shapes, and what the generator paints."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from napari_histomix.generation import pix2pix
from napari_histomix.generation.edges import Shape, canny_edges, label_maps
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.models import GeneratorModel, load_generator
from napari_histomix.generation.pix2pix import Generator, render, repaint
from napari_histomix.generation.structure import boundary_of
from napari_histomix.records import HistomixError, drain
from napari_histomix.stains import stain_pixels

NAMES = ("rare", "common")


def disc(size: int, row: int, col: int, radius: int) -> np.ndarray:
    return cv2.circle(np.zeros((size, size), np.uint8), (col, row), radius, 1, -1) > 0


@pytest.fixture
def layout() -> Layout:
    instances = np.zeros((72, 72), np.int32)
    instances[disc(72, 20, 24, 9)] = 5
    instances[disc(72, 50, 45, 12)] = 900_000_000
    return Layout(instances, {5: "rare", 900_000_000: "stromal"}, 0.5)


@pytest.fixture
def pixels(layout) -> np.ndarray:
    rng = np.random.default_rng(0)
    stains = np.full((*layout.shape, 3), (0.05, 0.15, 0.0), np.float32)
    stains[layout.instances > 0] = 0.6, 0.1, 0.0
    return stain_pixels(stains + rng.normal(0, 0.01, stains.shape).astype(np.float32))


@pytest.fixture(scope="module")
def model(small_pix2pix_folder) -> GeneratorModel:
    return load_generator(small_pix2pix_folder, "pix2pix")


class TestEdges:
    def test_lie_on_the_outlines_of_nuclei(self, layout, pixels):
        edges = canny_edges(pixels)
        inside = (layout.instances > 0).astype(np.uint8)
        outline = cv2.dilate(inside, np.ones((5, 5))) - cv2.erode(inside, np.ones((5, 5)))
        assert edges.sum() > 80 and edges[outline > 0].sum() > 0.95 * edges.sum()

    def test_glass_has_none(self):
        glass = np.random.default_rng(0).integers(238, 243, (64, 64, 3)).astype(np.uint8)
        assert not canny_edges(glass).any()

    def test_win_over_nuclei_and_leave_out_what_is_unknown(self, layout, pixels):
        edges, ignore, hidden = canny_edges(pixels), disc(72, 50, 45, 12), disc(72, 20, 24, 20)
        maps = label_maps(layout, NAMES, edges, hidden, ignore)
        assert maps.shape == (6, 72, 72)
        edge, nucleus, background, rare, common, redrawn = maps > 0
        outlines = (boundary_of(layout.instances) > 0) & hidden & ~ignore
        assert np.array_equal(edge, (edges & ~hidden) | outlines) and np.array_equal(redrawn, hidden & ~outlines)
        assert np.array_equal(edge.astype(int) + nucleus + background, np.where(ignore & ~edge, 0, 1))
        assert np.array_equal(rare, layout.instances == 5) and not common.any()
        without = label_maps(layout, NAMES)
        assert np.array_equal(without[0] > 0, boundary_of(layout.instances) > 0)
        assert np.array_equal(without[-1], 1 - without[0])


class TestShapes:
    def test_turns_and_mirrors_are_exact(self, layout, pixels):
        for turns in range(4):
            shape = Shape(turns, flip=True)
            assert np.array_equal(shape.layout(layout).instances, np.rot90(layout.instances[:, ::-1], turns))
            row, col = shape.source(10, 60, (72, 72))
            assert np.array_equal(shape.pixels(pixels)[10, 60], pixels[round(row), round(col)])
        assert np.array_equal(Shape().layout(layout).instances, layout.instances)

    @pytest.mark.parametrize("size", [(60, 60), (40, 90)])
    def test_drawn_ones_fill_the_corners_and_move_labels_with_pixels(self, size):
        rng = np.random.default_rng(1)
        for _ in range(20):
            shape = Shape.draw(size, rng)
            for row in (0, size[0] - 1):
                for col in (0, size[1] - 1):
                    place = shape.source(row, col, size)
                    assert all(-0.01 <= at <= side - 0.99 for at, side in zip(place, size, strict=True))
            mask = np.zeros(size, np.int32)
            mask[size[0] // 2 - 9 : size[0] // 2 + 9, size[1] // 2 - 9 : size[1] // 2 + 9] = 3
            moved = shape.layout(Layout(mask, {3: ""}, 0.5)).instances > 0
            shown = shape.pixels(np.repeat((mask > 0)[..., None] * np.uint8(255), 3, axis=2))[..., 0] > 127
            assert moved.any() and (moved != shown).sum() < 0.05 * moved.sum()

    def test_nuclei_that_are_cut_off_are_gone(self):
        mask = np.zeros((60, 60), np.int32)
        mask[:3, :3], mask[28:32, 28:32] = 1, 2
        assert set(Shape(enlarged=1.5).layout(Layout(mask, {1: "", 2: ""}, 0.5)).classes) == {2}

    def test_layouts_are_resampled_with_their_ids(self, layout):
        twice = layout.at_scale(0.25)
        assert twice.shape == (144, 144) and twice.mpp == 0.25 and twice.classes == layout.classes
        assert np.array_equal(twice.instances[::2, ::2], layout.instances)


class TestGenerator:
    def test_any_size_and_a_tile_is_what_it_is_in_the_whole(self, model, monkeypatch):
        instances = np.zeros((150, 310), np.int32)
        instances[20:40, 30:60] = 1
        wide = Layout(instances, {1: "rare"}, 0.5)
        reference = np.random.default_rng(0).integers(0, 256, (150, 310, 3)).astype(np.uint8)
        whole = drain(render([wide], model, references=[reference]))[0]
        monkeypatch.setattr(pix2pix, "TILE", 96)
        apart = np.abs(drain(render([wide], model, references=[reference]))[0].astype(int) - whole)
        # Sums of another length are rounded in another order.
        assert apart.max() <= 1 and (apart > 0).mean() < 1e-3

    def test_a_channel_of_noise_makes_a_seed_a_picture(self, model, layout):
        first, again, other = (drain(render([layout], model, seeds=[seed]))[0] for seed in (3, 3, 4))
        assert first.shape == (72, 72, 3) and np.array_equal(first, again) and not np.array_equal(first, other)

    def test_pictures_do_not_depend_on_each_other(self, model, layout):
        other = Layout(np.zeros((40, 56), np.int32), {}, 0.5)
        both = drain(render([other, layout], model, seeds=[1, 2]))
        assert np.array_equal(both[1], drain(render([layout], model, seeds=[2]))[0])

    def test_another_scale_comes_back_at_its_size_and_is_said(self, model, layout):
        fine = Layout(layout.instances, dict.fromkeys(layout.classes, "rare"), 0.25)
        job, said = render([fine, fine], model), []
        with pytest.raises(StopIteration) as end:
            while True:
                said.append(next(job).message)
        assert [message for message in said if message] == [
            "Painted at 0.5 µm/px, the scale of small, and resampled to 0.25."
        ]
        assert [picture.shape for picture in end.value.value] == [(72, 72, 3)] * 2

    def test_classes_that_it_does_not_know_are_said(self, model, layout):
        odd = Layout(layout.instances, dict.fromkeys(layout.classes, "Mars cell"), 0.5)
        said = [event.message for event in render([odd], model) if event.message]
        assert said == ["small does not know the class Mars cell: such nuclei are painted without a class."]

    def test_what_does_not_fit_is_one_sentence(self, model, layout, pixels):
        with pytest.raises(HistomixError, match="70×72 pixels but its layout 72×72"):
            drain(render([layout], model, references=[pixels[:, :70]]))

    def test_it_can_be_saved_and_loaded(self, small_pix2pix_folder, model):
        assert model.classes == NAMES and model.mpp == 0.5
        assert isinstance(model.network, Generator) and model.network.grid == 8

    def test_sizes_are_padded_by_reflection_however_small(self):
        padded = pix2pix._padded(torch.arange(15.0).reshape(1, 1, 3, 5), 8)
        assert padded.shape == (1, 1, 8, 8) and padded[0, 0, 3:5].equal(padded[0, 0, :2].flip(0))


class TestWhatIf:
    def test_only_the_edit_is_painted(self, model, layout, pixels):
        edit = disc(72, 50, 20, 8)
        instances = np.where(disc(72, 50, 20, 6), 7, layout.instances).astype(np.int32)
        edited = Layout(instances, {**layout.classes, 7: "common"}, 0.5)
        made = drain(repaint(pixels, edited, edit, model))
        changed = (made != pixels).any(axis=2)
        assert not changed[~edit].any() and changed[edit].mean() > 0.9
        assert np.array_equal(made, drain(repaint(pixels, edited, edit, model)))

    def test_the_tissue_around_it_is_carried_on(self):
        known = np.full((40, 40, 3), 30.0, np.float32)
        hole = disc(40, 20, 20, 8)
        known[hole] = -200
        assert np.allclose(pix2pix._carried_on(known, hole), 30, atol=0.5)

    def test_no_edit_is_no_change(self, model, layout, pixels):
        assert np.array_equal(drain(repaint(pixels, layout, np.zeros((72, 72), bool), model)), pixels)
