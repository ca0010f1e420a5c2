"""Replay: every synthetic image of an export made again from its sources, and compared with what was exported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.composing import Synthetic, compose, new_image
from napari_histomix.datasets import Dataset, Entry, open_any
from napari_histomix.datasets.dataset_writer import WrittenDataset
from napari_histomix.datasets.edits import with_edits
from napari_histomix.datasets.pixels import image_facts, pixels_sha256
from napari_histomix.datasets.splits import absence
from napari_histomix.datasets.writing import check_place, complete_or_absent
from napari_histomix.methods import method_of
from napari_histomix.methods.base import Method
from napari_histomix.methods.record import Record
from napari_histomix.records import REAL, Change, Event, HistomixError, Job, LabeledImage
from napari_histomix.study.export import format_for
from napari_histomix.study.export_images import dataset_writer
from napari_histomix.study.manifest import DAMAGES, Manifest, SyntheticImage, read_manifest, undamaged
from napari_histomix.weights import bundled, bundled_model

if TYPE_CHECKING:
    from napari_histomix.diffusion.models import AnyModel
    from napari_histomix.generation.models import GeneratorModel


LEVELS, SHARE = 8, 0.01
"""Tolerance: at most this share of an image's changed pixels may differ by more than this many of 255 levels; of the
others none at all. docs/provenance.md says what was measured."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One synthetic image beside its rebuilt self.

    ``outcome`` is ``identical``: bit for bit; ``close``: within the tolerance; ``different``: neither, or there is
    nothing to compare; ``rebuilt``: made, and not to be compared. ``reason`` says what is different, ``largest`` is the
    largest difference of a channel, of 255, and ``share`` that of the changed pixels that differ at all.
    """

    image: str
    outcome: Literal["identical", "close", "different", "rebuilt"]
    reason: str = ""
    largest: int = 0
    share: float = 0.0


def _compare_with_export(
    exported: Dataset, entry: Entry | None, image: SyntheticImage, made: Synthetic, exact: bool
) -> Compared:
    try:
        if entry is None:
            raise HistomixError(f"{exported.root} has no image {image.file!r}")
        pixels = exported.files.pixels(entry)
    except HistomixError as error:
        return Compared(image.name, "different", f"the exported image cannot be compared ({error})")
    if pixels_sha256(pixels) != image.sha256:
        as_it_was = " Rebuilt, it is what was exported." if pixels_sha256(made.image.pixels) == image.sha256 else ""
        return Compared(image.name, "different", f"somebody changed the exported image {image.file} since.{as_it_was}")
    return compare(image.name, pixels, made.image.pixels, made.origin, exact)


def compare(
    name: str, exported: NDArray[np.uint8], rebuilt: NDArray[np.uint8], origin: NDArray[np.uint8], exact: bool
) -> Compared:
    """Compare pixels (H, W, 3) with rebuilt ones of an origin map (H, W); ``exact``: nothing but the same bits will do.

    Real pixels must be the same in any case.
    """
    if exported.shape != rebuilt.shape:
        sizes = " and ".join(f"{pixels.shape[1]}×{pixels.shape[0]}" for pixels in (exported, rebuilt))
        return Compared(name, "different", f"exported and rebuilt image are of different sizes ({sizes}).")
    apart = np.abs(exported.astype(np.int16) - rebuilt).max(axis=2)
    changed = apart[origin != REAL]
    largest, share = int(apart.max()), float((changed > 0).mean()) if changed.size else 0.0
    if largest == 0:
        return Compared(name, "identical")
    if real := int(np.count_nonzero(apart[origin == REAL])):
        reason = f"{real:,} pixels that should be the source's own differ from it."
    elif exact or (changed > LEVELS).mean() > SHARE:
        reason = f"{share:.1%} of its changed pixels differ, by up to {largest} of 255 levels."
    else:
        return Compared(name, "close", "", largest, share)
    return Compared(name, "different", reason, largest, share)


RECORDED = "recorded"
"""Stands for the device that something was made on."""


class Ingredients:
    """Source images at the scales they were used at, models that are loaded when they are needed, and a device.

    Raises HistomixError if a path holds another model than the manifest names, or one that it names is not there.
    """

    def __init__(
        self, manifest: Manifest, dataset: Dataset, models: Sequence[Path | str] = (), device: str = RECORDED
    ) -> None:
        self._wanted_device = device
        self._facts: dict[str, list[Mapping[str, Any]]] = {}
        with undamaged(manifest.path):
            for facts in (facts for image in manifest.images for facts in image.sources()):
                self._facts.setdefault(facts["image"], []).append(facts)
            scales = {
                name: next((float(facts["mpp"]) for facts in used if "mpp" in facts), None)
                for name, used in self._facts.items()
            }
            entries = [replace(entry, mpp=scales.get(entry.source.image) or entry.mpp) for entry in dataset.entries]
            self.dataset = replace(dataset, entries=tuple(entries))
            self._entries = {entry.source.image: entry for entry in entries}
            self._needed = manifest.models
            self._loaded: dict[str, Any] = {}
            if models or self._needed:
                self._take(models)

    def read(self, facts: Mapping[str, Any]) -> LabeledImage:
        entry = self._entries.get(facts["image"])
        if entry is None:
            raise HistomixError(f"{facts['image']}: {absence(self.dataset, facts['image'])}.")
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

    def _take(self, paths: Iterable[Path | str]) -> None:
        from napari_histomix.diffusion.model_files import read_card

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
        for sha256, made in self._needed.items():
            if sha256 not in self._loaded and sha256 != read_card(_bundled(made)).get("sha256"):
                raise HistomixError(
                    f"Images were made with the model {made['model']}, whose weights have the SHA-256 {sha256}; say "
                    "where it is with --model."
                )

    def _load(self, path: Path | str) -> AnyModel | GeneratorModel:
        from napari_histomix.diffusion.model_files import load_model, read_card
        from napari_histomix.generation.models import load_generator

        kind = read_card(Path(path)).get("kind", "")
        if kind in {made.get("model_kind") for made in self._needed.values()}:
            return load_generator(path, kind)
        # A checkpoint without a card, or a pipeline, is told what it was told then.
        made = next((made for made in self._needed.values() if "model_mpp" in made), None)
        if made is None:
            return load_model(path)
        (low, high), windows = made["model_mpp"], made["model_windows"]
        return load_model(path, mpp=(low, high), windows=tuple(windows), prompt=str(made.get("prompt", "")))

    def model(self, provenance: Mapping[str, Any]) -> AnyModel | GeneratorModel:
        from napari_histomix.diffusion.models import PromptedModel

        sha256 = str(provenance["model_sha256"])
        if sha256 not in self._loaded:
            self._loaded[sha256] = self._load(_bundled(provenance))
        if "model_mpp" not in provenance:
            return self._loaded[sha256]
        low, high = (float(value) for value in provenance["model_mpp"])
        windows = tuple(int(side) for side in provenance["model_windows"])
        model: AnyModel = replace(self._loaded[sha256], mpp=(low, high), windows=windows)
        return replace(model, prompt=str(provenance["prompt"])) if isinstance(model, PromptedModel) else model

    def device(self, provenance: Mapping[str, Any]) -> str:
        """Where a record's work is done again; a device that is missing here is replaced by the processor."""
        from napari_histomix.devices import choose_device

        if self._wanted_device != RECORDED:
            return choose_device(self._wanted_device).type
        try:
            return choose_device(str(provenance["device"]).split()[0]).type
        except HistomixError:
            return "cpu"

    def threads(self, provenance: Mapping[str, Any]) -> AbstractContextManager[Any]:
        from napari_histomix.devices import threads

        return threads(provenance.get("threads"))


def _bundled(provenance: Mapping[str, Any]) -> Path:
    """Folder of the bundled model that does what a record's model did."""
    kind = provenance.get("model_kind")
    return bundled_model(f"he-{kind}") if kind else bundled()


_MACHINE = {"device": "on", "precision": "in", "processor": "on", "threads": "with as many threads as"}


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What came of a replay.

    ``compared`` are all synthetic images, none where images of the source ``dataset`` are not those that were used:
    ``changed_sources`` says by their names what is wrong. ``conditions`` are in what the rebuilding differed from the
    making: device, number format, versions.
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

    Raises HistomixError if the manifest does not say where, it is no longer there, or it cannot be opened.
    """
    root = folder or manifest.dataset_root
    if root is None:
        raise HistomixError(
            f"{manifest.path} does not say where the source dataset {manifest.dataset} is, or it is no longer there; "
            "name its folder with --dataset."
        )
    return with_edits(open_any(root, split_parts=manifest.split_parts), manifest.edit_files)


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
    within a tolerance (``compare``).

    Parameters
    ----------
    manifest : Path or Manifest
    dataset : Dataset
        Holds the source images (``source_dataset``), whose scales are those of the records.
    models : sequence of path
        Folders or checkpoints of the models that were used, of which the bundled one need not be named.
    out : Path, optional
        New folder for the rebuilt images, in the export's format.
    check : bool
        Compare with the export's images, as is done in any case without ``out``.
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
    exported = open_any(images or manifest.path.parent) if check or out is None else None
    entries = {entry.source.image: entry for entry in exported.entries} if exported is not None else {}
    methods = {record.method: method_for(manifest, record.method) for record in manifest.records}
    ingredients = Ingredients(manifest, dataset, models, device)
    if changed := (yield from ingredients.changed_sources()):
        return ReplayReport(dataset.name, (), changed)
    with undamaged(manifest.path):
        exact, notes = _conditions(manifest, ingredients)
    compared = []
    writer: WrittenDataset | None = None
    with ExitStack() as stack:
        if out is not None:
            folder = stack.enter_context(complete_or_absent(out))
            format = format_for(dataset, manifest.content.get("format"))
            writer = dataset_writer(folder, f"{dataset.name}, rebuilt", dataset, format)
        remade = yield from _remake_in_place(manifest, methods, ingredients)
        for done, image in enumerate(manifest.images):
            if image.name not in remade:
                # By itself: many whole images at a time would fill the memory.
                method = methods[image.records[0].method]
                remade[image.name] = yield from _remake(method, image.records, ingredients, manifest)
            yield Event("Comparing images", done, len(manifest.images))
            if problem := next((change for change in remade[image.name] if isinstance(change, str)), ""):
                compared.append(Compared(image.name, "different", problem))
                continue
            changes = [change for change in remade.pop(image.name) if isinstance(change, Change)]
            with undamaged(manifest.path):
                made = _composed(image, changes, ingredients)
            if writer is not None:
                source = replace(made.image.source, image=image.file.rpartition("/")[2])
                writer.add(replace(made.image, source=source), synthetic=True)
            if exported is None:
                compared.append(Compared(image.name, "rebuilt"))
            else:
                entry, due = entries.get(image.file), image.name in exact
                compared.append(_compare_with_export(exported, entry, image, made, due))
        if writer is not None:
            writer.finish()
    return ReplayReport(dataset.name, tuple(compared), {}, notes)


def method_for(manifest: Manifest, name: str) -> Method[Any, Any]:
    """A method that a manifest names; HistomixError if it is not installed here."""
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
            made = yield from _remake(method, records, ingredients, manifest)
            remade.update({record.id: change for record, change in zip(records, made, strict=True)})
    return {image.name: [remade[record.id] for record in image.records] for image in in_place}


def _remake(
    method: Method[Any, Any], records: Sequence[Record], ingredients: Ingredients, manifest: Manifest
) -> Job[_Remade]:
    """Changes made again; what goes wrong on the way is one sentence that names the cause."""
    try:
        return (yield from method.remake(records, ingredients))
    except DAMAGES as error:
        raise HistomixError(
            f"{method.title} could not make again what {manifest.path} records ({type(error).__name__}: {error}); copy "
            "the manifest again from the export, or report this to the makers of the method."
        ) from error


def _composed(image: SyntheticImage, changes: Sequence[Change], ingredients: Ingredients) -> Synthetic:
    if image.target:
        return compose(ingredients.read(image.target), changes)
    (change,) = changes
    return new_image(change, float(image.records[0].provenance["mpp"]), ingredients.dataset.name)


def _conditions(manifest: Manifest, ingredients: Ingredients) -> tuple[set[str], tuple[str, ...]]:
    """Names of the images of which the same bits are due, and in what this machine differs from their makers'."""
    notes: dict[str, None] = {}
    due: dict[str, bool] = {}
    exact = {image.name for image in manifest.images}
    for image in manifest.images:
        for made in (record.provenance for record in image.records):
            key = json.dumps([made.get(word) for word in ("model_sha256", "versions", *_MACHINE)])
            if key not in due:
                differing, on_processor = _here(made, ingredients)
                due[key] = on_processor and not differing
                notes.update(dict.fromkeys(differing))
            if not due[key]:
                exact.discard(image.name)
    return exact, tuple(notes)


def _here(made: Mapping[str, Any], ingredients: Ingredients) -> tuple[list[str], bool]:
    """In what this machine differs from the one of a record, and whether a processor does the work here."""
    from napari_histomix.diffusion.models import machine_facts, versions

    # What no network painted is computed on the processor, and says at most with which versions.
    device, now = "cpu", {"versions": versions()}
    if "model_sha256" in made:
        device = ingredients.device(made)
        with ingredients.threads(made):
            now = machine_facts(ingredients.model(made), device)
    then, here = made.get("versions", {}), now["versions"]
    notes = [
        f"made with {name} {version}, rebuilt with {here.get(name, 'none')}"
        for name, version in sorted(then.items())
        if version != here.get(name)
    ]
    notes += [
        f"made {word} {made[key]}, rebuilt {word} {now[key]}"
        for key, word in _MACHINE.items()
        if key in made and key in now and made[key] != now[key]
    ]
    return notes, device == "cpu"
