"""A small tissue dataset cut out of the bundled sample, and a study with its segment pool."""

from __future__ import annotations

import csv
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from PIL import Image

from napari_histomix.datasets import Dataset, load_sample, open_tissue
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.records import Segment, drain
from napari_histomix.segmentation.pool import PoolImage, PoolWriter
from napari_histomix.study import Study

SIDE = 96
IMAGES = (
    ("grade 2/one", "grade 2", "Ann"),
    ("grade 2/two", "grade 2", "Bob"),
    ("grade 2/three", "grade 2", "Cid"),
    ("grade 3/four", "grade 3", "Dan"),
)
"""The last class has one segment."""


def ellipse(number: int, row: int, col: int, height: int, width: int) -> Segment:
    rows, cols = np.mgrid[:height, :width]
    mask = ((rows - height / 2 + 0.5) / (height / 2)) ** 2 + ((cols - width / 2 + 0.5) / (width / 2)) ** 2 <= 1
    return Segment(number, row, col, mask)


def segments() -> list[Segment]:
    """Three apart from each other, the last one far smaller than the others."""
    return [ellipse(1, 8, 8, 40, 30), ellipse(2, 48, 50, 36, 40), ellipse(7, 6, 70, 10, 10)]


def make_tissue(root: Path) -> Dataset:
    sample = load_sample()
    with (root.mkdir(parents=True) or root / "images.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "class", "patient", "mpp"])
        for number, (name, kind, patient) in enumerate(IMAGES):
            pixels = sample.read(sample.entries[number]).pixels[20 : 20 + SIDE, 30 : 30 + SIDE]
            (root / name).parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / f"{name}.png")
            table.writerow([f"{name}.png", kind, patient, 0.5])
    return open_tissue(root)


def make_mix_study(folder: Path) -> Study:
    """A study beside its dataset ``tissue``: segments 0–2, 3–5 and 6–8 of one class, 9 alone in the other."""
    dataset = make_tissue(folder.parent / "tissue")
    study = Study.create(folder, dataset.root, dataset.name)
    rng = np.random.default_rng(0)
    with PoolWriter(folder, {"prompter": "tree", "encoder": "texture", "components": 4}) as writer:
        for name, _, _ in IMAGES:
            image = dataset.read(name)
            some = segments() if image.kind == "grade 2" else segments()[:1]
            about = PoolImage(image.source, image.kind, (SIDE, SIDE), image.mpp, pixels_sha256(image.pixels))
            features = rng.normal(size=(len(some), 6)).astype(np.float32)
            writer.add(about, some, features, [np.full((8, 8, 3), 90, np.uint8)] * len(some))
        drain(writer.finish(6, 4))
    return study


class Sources:
    """What changes are made again from, as replay has it."""

    def __init__(self, dataset: Dataset, model: object) -> None:
        self.dataset, self._model = dataset, model

    def read(self, facts):
        return self.dataset.read(facts["image"])

    def model(self, provenance):
        return self._model

    def device(self, provenance):
        return "cpu"

    def threads(self, provenance):
        return nullcontext()
