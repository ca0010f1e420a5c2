"""Tissue that cannot be mixed well: one sentence says why, with counts and what to loosen, and nothing is left."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_histomix.datasets import load_sample

FEW = ("--superpixels", "10", "--points", "4")


def tissue(number: int, side: int = 200) -> np.ndarray:
    """A crop of an image of the bundled sample, each of another patient."""
    sample = load_sample()
    return sample.read(sample.entries[number]).pixels[:side, :side]


def stained(pixels: np.ndarray) -> np.ndarray:
    """The same tissue with three times the hematoxylin-like absorption in red, and less in blue."""
    return np.asarray(255 * (pixels / 255.0) ** np.array([2.4, 1.0, 0.4]), np.uint8)


def gray(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, axis=2)


def blank() -> np.ndarray:
    return np.full((200, 200, 3), 244, np.uint8)


def gland(col: int = 80) -> np.ndarray:
    """A single round thing on glass, around a column."""
    rows, cols = np.mgrid[:160, :160]
    pixels = np.full((160, 160, 3), 244, float)
    pixels[(rows - 80) ** 2 + (cols - col) ** 2 < 45**2] = (150, 70, 140)
    return np.clip(pixels + np.random.default_rng(0).normal(0, 6, (160, 160, 1)), 0, 255).astype(np.uint8)


def folder(root: Path, images: Sequence[tuple[np.ndarray, str, float]]) -> Path:
    """Images, classes and µm/px, each of a patient of its own."""
    root.mkdir()
    with (root / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "class", "patient", "mpp"])
        for number, (pixels, kind, mpp) in enumerate(images):
            Image.fromarray(pixels).save(root / f"{number}.png")
            table.writerow([f"{number}.png", kind, f"patient {number}", mpp])
    return root


APART = ("--no-own-patient",)
POOR = {
    "two images": (
        lambda: [(tissue(0), "a", 0.5), (tissue(3), "a", 0.5)],
        APART,
        r"make none of 2: \d+ refused: a: .*\(setting: ",
    ),
    "one image of a patient": (lambda: [(tissue(0), "a", 0.5)], APART, r"\d+ refused: a: .*\(setting: own patient\)"),
    "one segment": (lambda: [(gland(), "a", 0.5)], ("--extent", 0.1, 0.6), "two segments, and this one has 1"),
    "segments at the border": (
        lambda: [(gland(0), "a", 0.5), (gland(160), "a", 0.5)],
        ("--extent", 0.1, 0.6),
        r"No training image of tissue has a segment \(tried: 2\): All \d+ segments .* allow segments at the border",
    ),
    "four times the scale": (
        lambda: [(tissue(0), "a", 0.5), (tissue(1), "a", 2.0)],
        APART,
        r"\d+ refused: a: .* \(setting: own patient or area ratio\)",
    ),
    "another stain": (lambda: [(tissue(0), "a", 0.5), (stained(tissue(0)), "a", 0.5)], APART, r"\d+ refused: a: "),
    "an image without color": (
        lambda: [(tissue(0), "a", 0.5), (gray(tissue(0)), "a", 0.5)],
        APART,
        r"\d+ refused: a: ",
    ),
    "nothing but glass": (
        lambda: [(blank(), "a", 0.5)],
        (),
        r"No training image of tissue has a segment \(tried: 1\): .* no anchor segments",
    ),
    "a class of glass": (
        lambda: [(tissue(0), "a", 0.5), (blank(), "b", 0.5)],
        APART,
        "b: a class needs two segments, and this one has 0",
    ),
}


@pytest.mark.parametrize("name", POOR)
def test_what_cannot_be_mixed_is_said_with_counts_and_leaves_nothing(run, tmp_path, name):
    images, more, sentence = POOR[name]
    data = folder(tmp_path / "tissue", images())
    code, shown, said = run(
        "synthesize", data, "--method", "usegmix", "--per-class", 2, "--out", tmp_path / "out", *FEW, *more
    )
    assert code == 1 and not shown
    assert re.search(f"^histomix: .*{sentence}", said[-1]), said[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tissue"]


def test_a_pool_says_which_class_it_has_too_little_of(run, tmp_path):
    data = folder(tmp_path / "tissue", [(tissue(0), "a", 0.5), (blank(), "b", 0.5)])
    code, shown, _ = run("pool", "build", data, "--study", tmp_path / "study", *FEW)
    assert code == 0 and "b has too few segments to be mixed (0); add images of it." in shown
