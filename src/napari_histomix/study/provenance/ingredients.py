"""What synthetic images are made again from: their source images, their models, and a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histomix.datasets import Dataset
from napari_histomix.datasets.pixels import image_facts
from napari_histomix.records import Event, HistomixError, Job, LabeledImage
from napari_histomix.study.provenance.recorded import Manifest, undamaged

if TYPE_CHECKING:
    from napari_histomix.diffusion.prompted import AnyModel

RECORDED = "recorded"
"""Stands for the device that something was made on."""


class Ingredients:
    """Source images at the scales they were used at, models that are loaded when they are needed, and a device.

    Parameters
    ----------
    manifest : Manifest
    dataset : Dataset
        The source dataset.
    models : sequence of path
        Where models lie; the bundled one needs no path.
    device : str
        auto, cpu, cuda or mps; or ``recorded``.

    Raises
    ------
    HistomixError
        If a path holds another model than the manifest names, or one that it names is not there.
    """

    def __init__(
        self, manifest: Manifest, dataset: Dataset, models: Sequence[Path | str] = (), device: str = RECORDED
    ) -> None:
        self._source, self._wanted_device = dataset, device
        self._facts: dict[str, list[Mapping[str, Any]]] = {}
        with undamaged(manifest.path):
            for facts in (facts for image in manifest.images for facts in image.sources()):
                self._facts.setdefault(facts["image"], []).append(facts)
            self._scales = {name: _scale(used) for name, used in self._facts.items()}
            self._needed = manifest.models
            self._loaded: dict[str, AnyModel] = {}
            if models or self._needed:
                self._take(models)

    # Source images.

    @cached_property
    def dataset(self) -> Dataset:
        """The source dataset; every image that was used has the scale that it had then."""
        entries = tuple(
            replace(entry, mpp=self._scales.get(entry.source.image) or entry.mpp) for entry in self._source.entries
        )
        return replace(self._source, entries=entries)

    @cached_property
    def _entries(self) -> dict[str, Any]:
        return {entry.source.image: entry for entry in self.dataset.entries}

    def read(self, facts: Mapping[str, Any]) -> LabeledImage:
        """The image that facts are of, at the scale it had: nobody need give it again."""
        entry = self._entries.get(facts["image"])
        if entry is None:
            raise HistomixError(f"{facts['image']}: {self._source.name} has no image of that name.")
        return self.dataset.read(replace(entry, mpp=float(facts["mpp"])) if "mpp" in facts else entry)

    def changed_sources(self) -> Job[dict[str, str]]:
        """What is wrong with each image that is not the one that was used, by name; a long job."""
        problems: dict[str, str] = {}
        for done, (name, used) in enumerate(sorted(self._facts.items())):
            yield Event("Checking the source images", done, len(self._facts))
            try:
                now = image_facts(self.read(used[0]))
            except HistomixError as error:
                problems[name] = str(error)
                continue
            for key, what in (("pixels_sha256", "pixels"), ("labels_sha256", "labels")):
                if any(key in facts and facts[key] != now.get(key) for facts in used):
                    problems[name] = f"{name}: its {what} are not those that were used."
                    break
        yield Event("Checking the source images", len(self._facts), len(self._facts))
        return problems

    # Models.

    def _take(self, paths: Iterable[Path | str]) -> None:
        from napari_histomix.diffusion.model_files import read_card
        from napari_histomix.weights import bundled

        for path in paths:
            if not self._needed:
                raise HistomixError(f"No model took part in these images; leave {path} out.")
            model = self._load(path)
            if model.sha256 not in self._needed:
                names = " and ".join(f"{made['model']} ({key[:12]}…)" for key, made in self._needed.items())
                raise HistomixError(
                    f"{path} holds the model {model.name} ({model.sha256[:12]}…), but the images were made with "
                    f"{names}; name that one."
                )
            self._loaded[model.sha256] = model
        ours = str(read_card(bundled()).get("sha256"))
        for sha256, made in self._needed.items():
            if sha256 not in self._loaded and sha256 != ours:
                raise HistomixError(
                    f"Images were made with the model {made['model']}, whose weights have the SHA-256 {sha256}; say "
                    "where it is with --model."
                )

    def _load(self, path: Path | str) -> AnyModel:
        from napari_histomix.diffusion.model_files import load_model

        # A checkpoint without a card, or a pipeline, is told what it was told then.
        made = next(iter(self._needed.values()))
        (low, high), windows = made["model_mpp"], made["model_windows"]
        return load_model(path, mpp=(low, high), windows=tuple(windows), prompt=str(made.get("prompt", "")))

    def model(self, provenance: Mapping[str, Any]) -> AnyModel:
        """The model of a record, told what it was told then."""
        from napari_histomix.diffusion.prompted import PromptedModel
        from napari_histomix.weights import bundled

        sha256 = str(provenance["model_sha256"])
        if sha256 not in self._loaded:
            self._loaded[sha256] = self._load(bundled())
        low, high = (float(value) for value in provenance["model_mpp"])
        windows = tuple(int(side) for side in provenance["model_windows"])
        model = replace(self._loaded[sha256], mpp=(low, high), windows=windows)
        return replace(model, prompt=str(provenance["prompt"])) if isinstance(model, PromptedModel) else model

    # A place to compute.

    def device(self, provenance: Mapping[str, Any]) -> str:
        """Where a record's work is done again; a device that is missing here is replaced by the processor."""
        from napari_histomix.devices import choose_device

        if self._wanted_device != RECORDED:
            return choose_device(self._wanted_device).type
        try:
            return choose_device(str(provenance["device"]).split()[0]).type
        except HistomixError:
            return "cpu"

    @contextmanager
    def threads(self, provenance: Mapping[str, Any]) -> Iterator[None]:
        """As many threads of a processor as worked on a record."""
        from napari_histomix.diffusion.environment import threads

        with threads(provenance.get("threads")):
            yield


def _scale(used: Sequence[Mapping[str, Any]]) -> float | None:
    return next((float(facts["mpp"]) for facts in used if "mpp" in facts), None)
