"""A nucleus is painted into real tissue: only there, and in the colors of the others."""

from __future__ import annotations

import numpy as np
import pytest

from napari_histomix.datasets import load_sample
from napari_histomix.generation.image_model import paint_inside
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.models import load_generator
from napari_histomix.generation.presets import PRESETS
from napari_histomix.records import drain
from napari_histomix.stains import hue_of, optical_density

SIDE = 96
NUCLEUS = np.s_[40:52, 40:52]


def drawn_in(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    """Pixels with a lymphocyte painted where there was none."""
    instances = layout.instances.copy()
    number = int(instances.max()) + 1
    instances[NUCLEUS] = number
    left = set(np.unique(instances).tolist()) - {0}
    classes = {each: name for each, name in layout.classes.items() if each in left} | {number: "lymphocyte"}
    hole = np.zeros(instances.shape, bool)
    hole[38:54, 38:54] = True
    asked = Layout(instances, classes, layout.mpp)
    model = load_generator("", "image")
    made = drain(paint_inside(pixels, asked, hole, model, 1, PRESETS["fast"], device="cpu"))
    assert np.array_equal(made[~hole], pixels[~hole]) and not np.array_equal(made[hole], pixels[hole])
    return made


@pytest.fixture(scope="module")
def tissue() -> tuple[np.ndarray, Layout]:
    data = load_sample()
    image = max((data.read(entry) for entry in data.training), key=lambda image: len(image.types))
    whole = Layout.of(image, data.all_classes)
    instances = np.ascontiguousarray(whole.instances[:SIDE, :SIDE])
    present = set(np.unique(instances).tolist())
    classes = {number: name for number, name in whole.classes.items() if number in present}
    return np.ascontiguousarray(image.pixels[:SIDE, :SIDE]), Layout(instances, classes, image.mpp)


@pytest.mark.parametrize("gain", [(1.0, 1.0, 1.0), (0.7, 1.5, 1.0)], ids=["as it is", "in a redder stain"])
def test_a_new_nucleus_is_dark_and_has_the_hue_of_the_real_ones(tissue, gain):
    pixels, layout = tissue
    pixels = np.clip(np.rint(256 * 10.0 ** -(optical_density(pixels) * np.float32(gain)) - 1), 0, 255).astype(np.uint8)
    made = drawn_in(pixels, layout)
    new = np.zeros(layout.instances.shape, bool)
    new[NUCLEUS] = True
    real = hue_of(pixels, (layout.instances > 0) & ~new)
    painted = hue_of(made, new)
    assert real is not None and painted is not None and np.abs(painted - real).max() < 0.04
    assert optical_density(made, new).mean() > 1.2 * optical_density(pixels, layout.instances == 0).mean()


def test_glass_has_no_hue_however_much_of_it_there_is():
    glass = np.full((200, 200, 3), (250, 249, 251), np.uint8)
    assert hue_of(glass, np.ones((200, 200), bool)) is None


def test_where_there_is_no_other_nucleus_it_is_as_the_network_likes(tissue):
    pixels, layout = tissue
    made = drawn_in(pixels, Layout(np.zeros_like(layout.instances), {}, layout.mpp))
    assert optical_density(made)[NUCLEUS].mean() > optical_density(pixels).mean()
