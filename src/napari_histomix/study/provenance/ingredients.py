"""What synthetic images are made again from: their source images, their models, and a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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


class Sources:
    """The source images of a manifest, at the scales they were used at.

    Parameters
    ----------
    manifest : Manifest
    dataset : Dataset
    """

    def __init__(self, manifest: Manifest, dataset: Dataset) -> None:
        self.dataset = dataset
        self._entries = {entry.source.image: entry for entry in dataset.entries}
        self._facts: dict[str, list[Mapping[str, Any]]] = {}
        with undamaged(manifest.path):
            for image in manifest.images:
                for facts in image.sources():
                    self._facts.setdefault(facts["image"], []).append(facts)

    def read(self, facts: Mapping[str, Any]) -> LabeledImage:
        """The image that facts are of; whoever gave its scale back then need not say it again."""
        entry = self._entries.get(facts["image"])
        if entry is None:
            raise HistomixError(f"{facts['image']}: {self.dataset.name} has no image of that name.")
        return self.dataset.read(replace(entry, mpp=float(facts["mpp"])))

    def changed(self) -> Job[dict[str, str]]:
        """What is wrong with each image that is not the one that was used, by name; a long job."""
        found: dict[str, str] = {}
        for done, (name, used) in enumerate(sorted(self._facts.items())):
            yield Event("Checking the source images", done, len(self._facts))
            try:
                now = image_facts(self.read(used[0]))
            except HistomixError as error:
                found[name] = str(error)
                continue
            for key, what in (("pixels_sha256", "pixels"), ("labels_sha256", "labels")):
                if any(one.get(key) != now.get(key) for one in used):
                    found[name] = f"{name}: its {what} are not those that were used."
                    break
        yield Event("Checking the source images", len(self._facts), len(self._facts))
        return found


class Models:
    """The models that a manifest names, each loaded when it is needed.

    Parameters
    ----------
    manifest : Manifest
    paths : sequence of path
        Where models lie; the bundled one needs no path.

    Raises
    ------
    HistomixError
        If a path holds another model than the manifest names, or one that it names is not there.
    """

    def __init__(self, manifest: Manifest, paths: Sequence[Path | str]) -> None:
        from napari_histomix.diffusion.model_files import read_card
        from napari_histomix.weights import bundled

        self._needed = manifest.models
        self._loaded: dict[str, AnyModel] = {}
        for path in paths:
            model = self._load(path)
            if model.sha256 not in self._needed:
                names = " and ".join(f"{one['model']} ({key[:12]}…)" for key, one in self._needed.items())
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

    def of(self, made: Mapping[str, Any]) -> AnyModel:
        """The model of a record, told what it was told then."""
        from napari_histomix.diffusion.prompted import PromptedModel
        from napari_histomix.weights import bundled

        sha256 = str(made["model_sha256"])
        if sha256 not in self._loaded:
            self._loaded[sha256] = self._load(bundled())
        low, high = (float(value) for value in made["model_mpp"])
        windows = tuple(int(side) for side in made["model_windows"])
        model = replace(self._loaded[sha256], mpp=(low, high), windows=windows)
        return replace(model, prompt=str(made["prompt"])) if isinstance(model, PromptedModel) else model


@dataclass(frozen=True)
class Place:
    """Where something is rebuilt: a device, and the threads of a processor that worked on it (None: any)."""

    device: str
    threads: int | None

    @classmethod
    def of(cls, made: Mapping[str, Any], device: str) -> Place:
        """Where a record's work is done again; a device that is missing here is replaced by the processor."""
        from napari_histomix.devices import choose_device

        if device != RECORDED:
            return cls(choose_device(device).type, made.get("threads"))
        try:
            return cls(choose_device(str(made["device"]).split()[0]).type, made.get("threads"))
        except HistomixError:
            return cls("cpu", made.get("threads"))
