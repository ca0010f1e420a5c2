"""Replay: every synthetic image of an export made again from its sources, and compared with what was exported."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing import compose
from napari_histomix.datasets import Dataset, open_dataset, open_tissue
from napari_histomix.datasets.dataset_writer import WrittenDataset, check_place
from napari_histomix.datasets.writing import complete_or_absent, write_png
from napari_histomix.records import Event, HistomixError, Job, LabeledImage
from napari_histomix.study.provenance.comparing import Compared, Exported, inside
from napari_histomix.study.provenance.ingredients import RECORDED, Models, Place, Sources
from napari_histomix.study.provenance.rebuilding import rebuild_placements, rebuild_tissue
from napari_histomix.study.provenance.recorded import Manifest, SyntheticImage, read_manifest, undamaged

_MACHINE = {"device": "on", "precision": "in", "processor": "on", "threads": "with as many threads as"}


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What came of a replay.

    Parameters
    ----------
    dataset : str
        Name of the source dataset.
    compared : tuple of Compared
        Every synthetic image; empty where sources are not those that were used.
    changed_sources : mapping of str to str
        What is wrong with source images, by name.
    conditions : tuple of str
        In what the rebuilding differed from the making: device, number format, versions.
    """

    dataset: str
    compared: tuple[Compared, ...]
    changed_sources: Mapping[str, str]
    conditions: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What differs, one sentence each; empty where everything is as it was."""
        different = [f"{one.image}: {one.reason}" for one in self.compared if one.outcome == "different"]
        return (*self.changed_sources.values(), *different)


def source_dataset(manifest: Manifest, folder: Path | None = None) -> Dataset:
    """The dataset that an export was made of: in a folder that a person names, or where the manifest says.

    Raises
    ------
    HistomixError
        If the manifest does not say where, it is no longer there, or it cannot be opened.
    """
    root = folder or manifest.dataset_root
    if root is None:
        raise HistomixError(
            f"{manifest.path} does not say where the source dataset {manifest.dataset} is, or it is no longer there; "
            "name its folder with --dataset."
        )
    return open_tissue(root) if manifest.tissue else open_dataset(root)


def replay(
    manifest: Path | Manifest,
    dataset: Dataset,
    models: Sequence[Path | str] = (),
    *,
    out: Path | None = None,
    check: bool = False,
    images: Path | None = None,
    device: str = RECORDED,
) -> Job[ReplayReport]:
    """Rebuild every synthetic image of an export; a long job (see ``records.Job``).

    First the source images are checked by their SHA-256; where one is not the one that was used, nothing is rebuilt.
    On the processor that an image was made on, with the same versions, it must come out bit for bit the same, elsewhere
    within a tolerance (``comparing``).

    Parameters
    ----------
    manifest : Path or Manifest
    dataset : Dataset
        The source images (``source_dataset``). Scales are those of the records.
    models : sequence of path
        Folders or checkpoints of the models that were used; the bundled one need not be named.
    out : Path, optional
        A new folder for the rebuilt images, in the export's format.
    check : bool
        Compare with the export's images. Without ``out`` that is done in any case.
    images : Path, optional
        The export's folder, where the manifest no longer lies in it.
    device : str
        auto, cpu, cuda or mps; or ``recorded``: as each image was made, on the processor where that is not here.

    Returns
    -------
    ReplayReport

    Raises
    ------
    HistomixError
        If the manifest is damaged or of an earlier version, a model is missing or another one, or ``out`` exists.
    """
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(manifest)
    if out is not None:
        check_place(out)
    exported = Exported(manifest, images or manifest.path.parent) if check or out is None else None
    sources, held = Sources(manifest, dataset), Models(manifest, models)
    if changed := (yield from sources.changed()):
        return ReplayReport(dataset.name, (), changed)
    with undamaged(manifest.path):
        conditions = _Conditions(manifest, held, device)
    with _writer(out, manifest, dataset) as writer:
        finish = _Finish(exported, writer, conditions)
        yield from (_tissue if manifest.tissue else _nuclei)(manifest, sources, held, device, finish)
    return ReplayReport(dataset.name, tuple(finish.compared), {}, conditions.notes)


class _Writer:
    """Writes rebuilt images under the names that the export has them by."""

    def __init__(self, folder: Path, manifest: Manifest, dataset: Dataset) -> None:
        self.folder = folder
        self._written: WrittenDataset | None = None
        if dataset.has_nuclei:
            layout = str(manifest.content.get("format", "hovernet"))
            self._written = WrittenDataset(folder, f"{dataset.name}, rebuilt", dataset.classes, layout)

    def add(self, image: SyntheticImage, pixels: NDArray[np.uint8], labeled: LabeledImage | None) -> None:
        if self._written is not None and labeled is not None:
            self._written.add(labeled, synthetic=True)
            return
        path = inside(self.folder, image.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, pixels, float(image.target["mpp"]), synthetic=True)

    def finish(self) -> None:
        if self._written is not None:
            self._written.finish()


@contextmanager
def _writer(out: Path | None, manifest: Manifest, dataset: Dataset) -> Iterator[_Writer | None]:
    """What writes into ``out``, complete or absent; None where nothing is to be written."""
    if out is None:
        yield None
        return
    with complete_or_absent(out) as folder:
        writer = _Writer(folder, manifest, dataset)
        yield writer
        writer.finish()


@dataclass(slots=True)
class _Finish:
    """What happens to each rebuilt image."""

    exported: Exported | None
    writer: _Writer | None
    conditions: _Conditions
    compared: list[Compared] = field(default_factory=list)

    def take(
        self,
        image: SyntheticImage,
        pixels: NDArray[np.uint8],
        origin: NDArray[np.uint8],
        labeled: LabeledImage | None = None,
    ) -> None:
        if self.writer is not None:
            self.writer.add(image, pixels, labeled)
        if self.exported is None:
            self.compared.append(Compared(image.name, "rebuilt"))
        else:
            self.compared.append(self.exported.compare(image, pixels, origin, image.name in self.conditions.exact))


def _nuclei(manifest: Manifest, sources: Sources, models: Models, device: str, finish: _Finish) -> Job[None]:
    remade = yield from rebuild_placements(manifest, sources, models, device)
    for done, image in enumerate(manifest.images):
        yield Event("Comparing images", done, len(manifest.images))
        placements = remade[image.name]
        if isinstance(placements, str):
            finish.compared.append(Compared(image.name, "different", placements))
            continue
        made = compose(sources.read(image.target), placements)
        finish.take(image, made.image.pixels, made.origin, made.image)


def _tissue(manifest: Manifest, sources: Sources, models: Models, device: str, finish: _Finish) -> Job[None]:
    for image in manifest.images:
        pixels, origin = yield from rebuild_tissue(image, manifest, sources, models, device)
        finish.take(image, pixels, origin)


class _Conditions:
    """In what this machine differs from those that made things.

    ``notes`` say it in words; ``exact`` holds the names of the images of which the same bits are due.
    """

    def __init__(self, manifest: Manifest, models: Models, device: str) -> None:
        from napari_histomix.diffusion.environment import machine_facts, threads

        notes: dict[str, None] = {}
        due: dict[str, bool] = {}
        self.exact = {image.name for image in manifest.images}
        for image in manifest.images:
            for made in (record["provenance"] for record in image.records):
                key = json.dumps([made["model_sha256"], made["versions"], *(made.get(word) for word in _MACHINE)])
                if key not in due:
                    place = Place.of(made, device)
                    with threads(place.threads):
                        now = machine_facts(models.of(made), place.device)
                    differing = _differing(made, now)
                    due[key] = place.device == "cpu" and not differing
                    notes.update(dict.fromkeys(differing))
                if not due[key]:
                    self.exact.discard(image.name)
        self.notes = tuple(notes)


def _differing(made: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    then, here = dict(made["versions"]), now["versions"]
    found = [
        f"made with {name} {then.get(name, 'unknown')}, rebuilt with {here.get(name, 'none')}"
        for name in sorted({*then, *here})
        if then.get(name) != here.get(name)
    ]
    return found + [
        f"made {word} {made[key]}, rebuilt {word} {now[key]}"
        for key, word in _MACHINE.items()
        if key in made and key in now and made[key] != now[key]
    ]
