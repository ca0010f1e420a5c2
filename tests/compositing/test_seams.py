"""Seams run where two images are alike, around nuclei, and nowhere else than they may."""

from __future__ import annotations

import cv2
import numpy as np

from napari_histomix.compositing.seams import find_seam

SIDE = 120
ROWS, COLS = np.mgrid[:SIDE, :SIDE]
AWAY = np.hypot(ROWS - 60, COLS - 60)
CORE, BAND = AWAY < 20, (AWAY >= 20) & (AWAY < 45)


def grainy(color: tuple[int, int, int], seed: int, strength: float = 6) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, strength, (SIDE, SIDE, 1))
    return np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)


def outline(mask: np.ndarray) -> np.ndarray:
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0


def test_a_seam_runs_where_both_images_are_alike():
    target, donor = grainy((225, 165, 205), 0), grainy((150, 90, 170), 1)
    ring = np.abs(AWAY - 36) < 4
    for image in (target, donor):
        image[ring] = (244, 240, 246)
    seam = find_seam(target, donor, CORE, BAND, 0.5)
    along = AWAY[outline(seam.mask)]
    assert along.min() > 31 and along.max() < 41, "within the lumen that both have"
    apart = find_seam(grainy((225, 165, 205), 0), grainy((150, 90, 170), 1), CORE, BAND, 0.5)
    assert seam.cost < 0.2 * apart.cost


def test_a_seam_keeps_to_its_band_and_runs_around_nuclei():
    target, donor = grainy((225, 165, 205), 0, 2), grainy((225, 165, 205), 1, 2)
    nuclei = np.zeros((SIDE, SIDE), bool)
    for number, (image, radius) in enumerate([(target, 30), (donor, 34)] * 3):
        angle = number * np.pi / 3
        nucleus = np.hypot(ROWS - 60 - radius * np.sin(angle), COLS - 60 - radius * np.cos(angle)) < 5
        image[nucleus] = (90, 60, 140)
        nuclei |= nucleus
    seam = find_seam(target, donor, CORE, BAND, 0.5)
    assert (seam.mask | ~CORE).all() and not (seam.mask & ~(CORE | BAND)).any()
    crossed = outline(seam.mask) & cv2.erode(nuclei.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert not crossed.any()
    assert np.array_equal(seam.mask, find_seam(target, donor, CORE, BAND, 0.5).mask)


def test_finer_images_are_cut_as_finely_as_their_pixels():
    target, donor = (np.repeat(np.repeat(grainy((200, 150, 190), seed), 2, 0), 2, 1) for seed in (0, 1))
    core, band = (np.repeat(np.repeat(mask, 2, 0), 2, 1) for mask in (CORE, BAND))
    seam = find_seam(target, donor, core, band, 0.25)
    assert seam.mask.shape == core.shape and (seam.mask | ~core).all() and not (seam.mask & ~(core | band)).any()
