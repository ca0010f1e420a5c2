"""Every method there is, with small settings, on small images; the toy method is one of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from stamps import METHOD as STAMPS

from napari_histomix import jobs
from napari_histomix.datasets import Dataset, open_any
from napari_histomix.methods import method_names, method_of, register
from napari_histomix.records import drain
from napari_histomix.settings import made_from, settings_of
from napari_histomix.study import Study

register(STAMPS)


def documented() -> list[str]:
    """Methods of the package, and the toy of its documentation: not those that other tests register."""
    return [
        name for name in method_names() if type(method_of(name)).__module__.startswith(("napari_histomix", "stamps"))
    ]


SMALL: dict[str, Any] = {
    "count": 6,
    "per_class": 2,
    "rare": ("rare",),
    "background_share": 1.0,
    "new_area": (0.05, 0.95),
    "area_ratio": (0.1, 10.0),
    "border": True,
    "mismatch": 5.0,
    "seam": 5.0,
    "painted": 1.0,
    "superpixels": 10,
    "points": 5,
    "batch": 4,
    "layouts": 4,
    "side": 64,
    "steps": 2,
    "device": "cpu",
}
"""Values for the settings that a method has of these."""

GENERATORS = {"edge-pix2pix": "pix2pix", "nudiff": "image", "painted-nuclei": "image"}
"""The kind of generator that a method's ``model`` is, where it is no inpainting network."""


@dataclass(frozen=True)
class Case:
    """A method with a dataset that it can use, and a study in which its stage is done, if it has one."""

    name: str
    dataset: Dataset
    model: str
    loaded: Any
    staged: Path | None

    @property
    def method(self) -> Any:
        return method_of(self.name)

    def values(self, cls: type, **more: Any) -> Any:
        known = {setting.name: setting for setting in settings_of(cls)}
        small = {name: value for name, value in SMALL.items() if name in known}
        if "side" in known and known["side"].type is float:
            # A share of the image, not pixels.
            del small["side"]
        if "model" in known:
            small["model"] = self.model
        return made_from(cls, {**small, **{name: value for name, value in more.items() if name in known}})

    def settings(self, **more: Any) -> Any:
        return self.values(self.method.settings, **more)

    def stage(self, **more: Any) -> Any:
        return self.values(self.method.stage.settings, **more) if self.method.stage is not None else None

    def job(self, study: Study, **more: Any) -> Any:
        settings, stage = self.settings(**more), self.stage(**more)
        return jobs.run(self.method, self.dataset, settings, study, stage=stage, loaded=self.loaded)

    def begin(self, folder: Path, *, afresh: bool = False) -> Study:
        """A new study; a copy of the one whose stage is done, unless ``afresh``."""
        if self.staged is None or afresh:
            return Study.create(folder, self.dataset.root, self.dataset.name)
        return Study.open(Path(shutil.copytree(self.staged, folder)))

    def run(self, folder: Path, *, afresh: bool = False, **more: Any) -> Study:
        study = self.begin(folder, afresh=afresh)
        outcome = drain(self.job(study, **more))
        assert outcome.ids, outcome.refusals
        return study


@pytest.fixture(scope="module")
def few_steps() -> Iterator[None]:
    """The fast preset with fewer steps, noised again once each: what must hold does not depend on their number."""
    from napari_histomix.diffusion.samplers import PRESETS, Sampler

    quick = Sampler("repaint", 400, 2, 2, grain=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "fast", replace(PRESETS["fast"], disc=quick, large=quick))
        yield


@pytest.fixture(scope="session")
def nuclei_data(labeled_image, dataset_folder, tmp_path_factory) -> Dataset:
    """Three training images of three patients and one of the test split. Never write into it."""
    images = [labeled_image(24, seed=seed, name=f"train_{seed}", patient=f"p{seed}", rare=6) for seed in range(3)]
    images.append(labeled_image(12, seed=9, name="test_9", split="test", patient="p9"))
    return open_any(dataset_folder(tmp_path_factory.mktemp("contract") / "nuclei", images))


@pytest.fixture(scope="session")
def tissue_data(tissue_folder, tmp_path_factory) -> Dataset:
    """Four training images each of two classes, and one of the test split. Never write into it."""
    return open_any(tissue_folder(tmp_path_factory.mktemp("contract") / "tissue"))


def _cases() -> list[tuple[str, str]]:
    cases = []
    for name in documented():
        needs = method_of(name).needs
        if not needs.kinds:
            cases.append((name, "nuclei"))
        if not needs.instances:
            cases.append((name, "tissue"))
    return cases


@pytest.fixture(scope="module", params=_cases(), ids="-".join)
def case(request, few_steps, nuclei_data, tissue_data, tmp_path_factory) -> Case:
    """A method and a dataset of nuclei or of tissue that it can use."""
    from napari_histomix.diffusion.model_files import load_model
    from napari_histomix.generation.models import load_generator

    name, kind = request.param
    dataset = nuclei_data if kind == "nuclei" else tissue_data
    generator = GENERATORS.get(name)
    model = str(request.getfixturevalue(f"small_{generator}_folder" if generator else "small_model_folder"))
    staged, method = None, method_of(name)
    if method.stage is not None:
        staged = tmp_path_factory.mktemp("staged") / "study"
        study = Study.create(staged, dataset.root, dataset.name)
        stage = Case(name, dataset, model, None, None).stage()
        drain(jobs.prepare(method, dataset, study, stage))
    loaded = None
    if "model" in {setting.name for setting in settings_of(method.settings)}:
        loaded = load_generator(model, generator) if generator else load_model(model)
    return Case(name, dataset, model, loaded, staged)


@pytest.fixture(scope="module")
def finished(case, tmp_path_factory) -> Study:
    """An uninterrupted run. Never write into it."""
    return case.run(tmp_path_factory.mktemp("finished") / "study")
