"""Every method there is, with small settings, on small images; the toy method is one of them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from stamps import METHOD as STAMPS

from napari_histomix import jobs
from napari_histomix.datasets import Dataset, open_any
from napari_histomix.methods import method_names, method_of, register
from napari_histomix.records import drain
from napari_histomix.settings import made_from, settings_of
from napari_histomix.study import Study

register(STAMPS)

SMALL: dict[str, Any] = {
    "count": 6,
    "per_class": 2,
    "rare": ("rare",),
    "background_share": 1.0,
    "new_area": (0.05, 0.95),
    "area_ratio": (0.1, 10.0),
    "superpixels": 10,
    "points": 5,
    "batch": 4,
    "device": "cpu",
}
"""Values for the settings that a method has of these."""


@dataclass(frozen=True)
class Case:
    """A method with a dataset that it can use."""

    name: str
    dataset: Dataset
    model: str

    @property
    def method(self) -> Any:
        return method_of(self.name)

    def values(self, cls: type, **more: Any) -> Any:
        known = {setting.name: setting for setting in settings_of(cls)}
        small = {name: value for name, value in SMALL.items() if name in known}
        if "model" in known:
            small["model"] = self.model
        return made_from(cls, {**small, **{name: value for name, value in more.items() if name in known}})

    def settings(self, **more: Any) -> Any:
        return self.values(self.method.settings, **more)

    def stage(self, **more: Any) -> Any:
        return self.values(self.method.stage.settings, **more) if self.method.stage is not None else None

    def job(self, study: Study, **more: Any) -> Any:
        return jobs.run(self.method, self.dataset, self.settings(**more), study, stage=self.stage(**more))

    def begin(self, folder: Path) -> Study:
        return Study.create(folder, self.dataset.root, self.dataset.name)

    def run(self, folder: Path, **more: Any) -> Study:
        study = self.begin(folder)
        outcome = drain(self.job(study, **more))
        assert outcome.ids, outcome.refusals
        return study


def _tissue(seed: int, side: int = 128) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), (225, 165, 205), float)
    rows, cols = np.mgrid[:side, :side]
    for color in ((130, 85, 160), (205, 60, 90), (160, 120, 190)):
        row, col = rng.uniform(25, side - 25, 2)
        pixels[((rows - row) / rng.uniform(14, 24)) ** 2 + ((cols - col) / rng.uniform(14, 24)) ** 2 < 1] = color
    pixels += cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), 1.0)[..., None] * 12
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def nuclei_data(labeled_image, dataset_folder, tmp_path_factory) -> Dataset:
    """Three training images of three patients and one of the test split. Never write into it."""
    images = [labeled_image(24, seed=seed, name=f"train_{seed}", patient=f"p{seed}", rare=6) for seed in range(3)]
    images.append(labeled_image(12, seed=9, name="test_9", split="test", patient="p9"))
    return open_any(dataset_folder(tmp_path_factory.mktemp("contract") / "nuclei", images))


@pytest.fixture(scope="session")
def tissue_data(tmp_path_factory) -> Dataset:
    """Four training images each of two classes, and one of the test split. Never write into it."""
    root, rows = tmp_path_factory.mktemp("contract") / "tissue", []
    for kind in ("low", "high"):
        (root / kind).mkdir(parents=True)
        for number in range(4):
            name = f"{kind}/{number}.png"
            Image.fromarray(_tissue(number + 10 * (kind == "high"))).save(root / name)
            rows.append([name, kind, f"{kind}-{number}", "train", 0.25])
    Image.fromarray(_tissue(99)).save(root / "low" / "held.png")
    rows.append(["low/held.png", "low", "other", "test", 0.25])
    with (root / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["image", "class", "patient", "split", "mpp"], *rows])
    return open_any(root)


def _cases() -> list[tuple[str, str]]:
    cases = []
    for name in method_names():
        needs = method_of(name).needs
        if not needs.kinds:
            cases.append((name, "nuclei"))
        if not needs.instances:
            cases.append((name, "tissue"))
    return cases


@pytest.fixture(scope="session", params=_cases(), ids="-".join)
def case(request, nuclei_data, tissue_data, small_model_folder) -> Case:
    """A method and a dataset of nuclei or of tissue that it can use."""
    name, kind = request.param
    return Case(name, nuclei_data if kind == "nuclei" else tissue_data, str(small_model_folder))


@pytest.fixture(scope="session")
def finished(case, tmp_path_factory) -> Study:
    """An uninterrupted run. Never write into it."""
    return case.run(tmp_path_factory.mktemp("finished") / "study")


@pytest.fixture
def command(capsys) -> Iterator[Callable[..., tuple[int, list[str], list[str]]]]:
    """Run the command line: exit code, lines of standard output, lines of standard error."""
    from napari_histomix.cli import main

    def call(*arguments: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        shown = capsys.readouterr()
        return code, shown.out.splitlines(), shown.err.splitlines()

    yield call
