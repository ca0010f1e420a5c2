"""Replay: every synthetic image of an export made again from its sources, and compared with what was exported."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_histomix.compositing.composing import Synthetic, compose, new_image
from napari_histomix.datasets import Dataset, open_any
from napari_histomix.datasets.dataset_writer import WrittenDataset, check_place
from napari_histomix.datasets.writing import complete_or_absent
from napari_histomix.methods import method_of
from napari_histomix.methods.base import Method
from napari_histomix.records import Change, Event, HistomixError, Job, LabeledImage
from napari_histomix.study.export import format_for
from napari_histomix.study.export_images import dataset_writer
from napari_histomix.study.provenance.comparing import Compared, Exported
from napari_histomix.study.provenance.ingredients import RECORDED, Ingredients
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
        different = [f"{each.image}: {each.reason}" for each in self.compared if each.outcome == "different"]
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
    return open_any(root)


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
        If the manifest is damaged or of an earlier version, a method is not installed, a model is missing or another
        one, or ``out`` exists.
    """
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(manifest)
    if out is not None:
        check_place(out)
    exported = Exported(images or manifest.path.parent) if check or out is None else None
    methods = {record.method: method_for(manifest, record.method) for record in manifest.records}
    ingredients = Ingredients(manifest, dataset, models, device)
    if changed := (yield from ingredients.changed_sources()):
        return ReplayReport(dataset.name, (), changed)
    with undamaged(manifest.path):
        conditions = _Conditions(manifest, ingredients)
    compared = []
    with _writer(out, manifest, dataset) as writer:
        remade = yield from _remake_in_place(manifest, methods, ingredients)
        for done, image in enumerate(manifest.images):
            if image.name not in remade:
                remade[image.name] = yield from _remade(methods, image, ingredients, manifest)
            yield Event("Comparing images", done, len(manifest.images))
            changes = remade.pop(image.name)
            if problem := next((change for change in changes if isinstance(change, str)), ""):
                compared.append(Compared(image.name, "different", problem))
                continue
            with undamaged(manifest.path):
                made = _composed(image, [change for change in changes if isinstance(change, Change)], ingredients)
            if writer is not None:
                writer.add(_renamed(made, image), synthetic=True)
            if exported is None:
                compared.append(Compared(image.name, "rebuilt"))
            else:
                exact = image.name in conditions.exact
                compared.append(exported.compare(image, made.image.pixels, made.origin, exact))
    return ReplayReport(dataset.name, tuple(compared), {}, conditions.notes)


def method_for(manifest: Manifest, name: str) -> Method[Any, Any]:
    """A method that a manifest names.

    Raises
    ------
    HistomixError
        If it is not installed here.
    """
    try:
        return method_of(name)
    except HistomixError:
        raise HistomixError(
            f"{manifest.path} holds changes of the method '{name}', which is not installed here; install the package "
            "that it is part of."
        ) from None


_Remade = list[Change | str]


def _remake_in_place(
    manifest: Manifest, methods: Mapping[str, Method[Any, Any]], ingredients: Ingredients
) -> Job[dict[str, _Remade]]:
    """Changes in place made again, by image: all of a method together, since many are painted at a time."""
    remade: dict[int, Change | str] = {}
    in_place = [image for image in manifest.images if image.records[0].in_place]
    for name, method in methods.items():
        records = [record for image in in_place for record in image.records if record.method == name]
        if records:
            made = yield from _guarded(method.remake(records, ingredients), manifest)
            remade.update({record.id: change for record, change in zip(records, made, strict=True)})
    return {image.name: [remade[record.id] for record in image.records] for image in in_place}


def _remade(
    methods: Mapping[str, Method[Any, Any]], image: SyntheticImage, ingredients: Ingredients, manifest: Manifest
) -> Job[_Remade]:
    """A derived or new image made again by itself: many of them at a time would fill the memory."""
    made = yield from _guarded(methods[image.records[0].method].remake(image.records, ingredients), manifest)
    return made


def _guarded(job: Job[_Remade], manifest: Manifest) -> Job[_Remade]:
    """A job in which a value of a record that is not what it should be is one sentence."""
    with undamaged(manifest.path):
        return (yield from job)


def _composed(image: SyntheticImage, changes: Sequence[Change], ingredients: Ingredients) -> Synthetic:
    if image.target:
        return compose(ingredients.read(image.target), changes)
    (change,) = changes
    return new_image(change, float(image.records[0].provenance["mpp"]), ingredients.dataset.name)


def _renamed(made: Synthetic, image: SyntheticImage) -> LabeledImage:
    """A rebuilt image under the name that the export has it by."""
    name = image.file.rpartition("/")[2]
    return replace(made.image, source=replace(made.image.source, image=name))


@contextmanager
def _writer(out: Path | None, manifest: Manifest, dataset: Dataset) -> Iterator[WrittenDataset | None]:
    """What writes into ``out``, complete or absent; None where nothing is to be written."""
    if out is None:
        yield None
        return
    with complete_or_absent(out) as folder:
        format = format_for(dataset, manifest.content.get("format"))
        writer = dataset_writer(folder, f"{dataset.name}, rebuilt", dataset, format)
        yield writer
        writer.finish()


class _Conditions:
    """In what this machine differs from those that made things.

    ``notes`` say it in words; ``exact`` holds the names of the images of which the same bits are due.
    """

    def __init__(self, manifest: Manifest, ingredients: Ingredients) -> None:
        notes: dict[str, None] = {}
        due: dict[str, bool] = {}
        self.exact = {image.name for image in manifest.images}
        for image in manifest.images:
            for made in (record.provenance for record in image.records):
                key = json.dumps([made.get(word) for word in ("model_sha256", "versions", *_MACHINE)])
                if key not in due:
                    differing, on_processor = _here(made, ingredients)
                    due[key] = on_processor and not differing
                    notes.update(dict.fromkeys(differing))
                if not due[key]:
                    self.exact.discard(image.name)
        self.notes = tuple(notes)


def _here(made: Mapping[str, Any], ingredients: Ingredients) -> tuple[list[str], bool]:
    """In what this machine differs from the one of a record, and whether a processor does the work here."""
    from napari_histomix.diffusion.environment import machine_facts, versions

    if "model_sha256" not in made:
        # What no network painted is computed on the processor, and says at most with which versions.
        return _differing(made, {"versions": versions()} if "versions" in made else {}), True
    device = ingredients.device(made)
    with ingredients.threads(made):
        now = machine_facts(ingredients.model(made), device)
    return _differing(made, now), device == "cpu"


def _differing(made: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    then, here = made.get("versions", {}), now.get("versions", {})
    notes = [
        f"made with {name} {version}, rebuilt with {here.get(name, 'none')}"
        for name, version in sorted(then.items())
        if version != here.get(name)
    ]
    return notes + [
        f"made {word} {made[key]}, rebuilt {word} {now[key]}"
        for key, word in _MACHINE.items()
        if key in made and key in now and made[key] != now[key]
    ]
