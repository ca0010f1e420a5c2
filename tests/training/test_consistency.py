"""What is painted must hold the nuclei of its labels: the loss that a segmenter gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_histomix.datasets import load_sample
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.models import load_generator
from napari_histomix.generation.structure import condition_maps
from napari_histomix.records import HistomixError
from napari_histomix.training import settings_class
from napari_histomix.training.consistency import Consistency
from napari_histomix.training.image_model import as_tensor
from napari_histomix.training.loop import train

CLASSES = ("stromal", "unheard of", "lymphocyte", "tumor")
SIDE = 96


@pytest.fixture(scope="module")
def painted() -> tuple[torch.Tensor, torch.Tensor]:
    """Real tissue (2, 3, S, S) with its labels as maps."""
    data = load_sample()
    pixels, maps = [], []
    for entry in data.training[:2]:
        image = data.read(entry)
        names = {known.number: known.name for known in data.all_classes}
        instances = np.ascontiguousarray(image.instances[:SIDE, :SIDE])
        present = [number for number in np.unique(instances).tolist() if number]
        classes = {number: names[image.types[number]] for number in present}
        maps.append(condition_maps(Layout(instances, classes, 0.5), CLASSES))
        pixels.append(image.pixels[:SIDE, :SIDE])
    return as_tensor(pixels), torch.from_numpy(np.stack(maps))


@pytest.fixture(scope="module")
def consistency() -> Consistency:
    return Consistency(load_generator("", "segmenter"), CLASSES, 0.5, SIDE)


def test_tissue_agrees_with_its_own_labels_and_not_with_others(painted, consistency):
    tissue, maps = painted
    known = torch.ones(len(maps), 1, SIDE, SIDE)
    assert 1.5 * consistency.loss(tissue, maps, known) < consistency.loss(tissue, maps.flip(0), known)


def test_the_classes_count_in_the_order_of_the_maps(painted, consistency):
    tissue, maps = painted
    known = torch.ones(len(maps), 1, SIDE, SIDE)
    swapped = maps[:, [0, 3, 2, 1, 4, *range(5, maps.shape[1])]]
    assert consistency.loss(tissue, maps, known) < consistency.loss(tissue, swapped, known)


def test_what_does_not_count_is_left_as_it_is(painted, consistency):
    tissue = painted[0].clone().requires_grad_()
    known = torch.zeros(len(tissue), 1, SIDE, SIDE)
    known[:, :, :32] = 1
    (slope,) = torch.autograd.grad(consistency.loss(tissue, painted[1], known), tissue)
    assert slope[:, :, :32].abs().sum() > 0
    # A segmenter's sight reaches beyond, but not across the window.
    assert slope[:, :, 80:].abs().max() < 0.01 * slope[:, :, :32].abs().max()


def test_a_segmenter_of_another_scale_is_refused():
    with pytest.raises(HistomixError, match=r"works at 0\.5 µm/px, not at 0\.25"):
        Consistency(load_generator("", "segmenter"), CLASSES, 0.25, SIDE)


def test_the_card_names_the_segmenter_and_what_it_learned_from(tmp_path):
    settings = settings_class("image")(steps=1, batch=1, window=32, consistency=0.1)
    for _ in train("image", [load_sample()], tmp_path / "image", settings=settings, mpp=(0.5, 0.5), device="cpu"):
        pass
    segmenter, card = load_generator("", "segmenter"), load_generator(tmp_path / "image", "image").card
    assert card["segmenter_sha256"] == segmenter.sha256
    assert set(segmenter.card["training_pixels"]) < set(card["training_pixels"])
