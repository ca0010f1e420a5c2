"""Write a tissue dataset with its synthetic images: one folder per class and a CSV, complete or absent."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_histomix import __version__
from napari_histomix.datasets.card import models_of, write_card
from napari_histomix.datasets.copies import check_leaks
from napari_histomix.datasets.dataset_writer import WrittenDataset, copy_notices, described
from napari_histomix.datasets.formats.class_folders import Dataset, Entry
from napari_histomix.datasets.opening import way_to
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.datasets.writing import (
    SYNTHETIC_NOTICE,
    complete_or_absent,
    write_png,
)
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, MixedImage

ORIGINS = "origins.zip"
"""The origin maps, in folders as the images: no folder, which a training loop would take for a class."""

_ORIGIN_NOTICE = "Origin map: 0 real, 1 donor, 2 inpainted"
FORMAT = "class-folders"


def export_tissue(
    dataset: Dataset, synthetic: Sequence[MixedImage], out: Path, manifest: Mapping[str, Any]
) -> Job[Path]:
    """Write the training split with its synthetic images; a long job (see ``records.Job``).

    ``out`` gets one folder per class with the training images, their files copied as they are, and beside them the
    synthetic ones as ``synthetic-*.png``, which say in their description that they are; ``origins.zip`` with the origin
    maps in the same folders; images.csv, by which ``open_tissue`` reads it all back; dataset.json, manifest.json and
    README.md, the dataset card. It is written beside its place and renamed at the end. The same arguments give the same
    bytes.

    Characters of class and image names that a disk may refuse are replaced in folder and file names alone; images.csv
    keeps the classes as they are.

    Parameters
    ----------
    dataset : Dataset
    synthetic : sequence of MixedImage
        Patient, slide, split and scale of each are those of its target.
    out : Path
        A folder that is not there yet.
    manifest : mapping
        More for manifest.json (settings, refusals), plain JSON values.

    Raises
    ------
    HistomixError
        If ``out`` exists, patients or tissue are on two sides of the split, there is no synthetic image, one of them
        does not fit together, or is of no class of the dataset, or was made from what is not in its training split, or
        the disk is full.
    """
    out = Path(out)
    if out.exists():
        raise HistomixError(f"{out} already exists; name a new folder.")
    if not synthetic:
        raise HistomixError("There is no synthetic image to export; make and approve some first.")
    origins = _origins(dataset, synthetic)
    yield from check_leaks(dataset)
    with complete_or_absent(out) as folder:
        yield from _write(dataset, synthetic, origins, folder, manifest)
    return out


def _origins(dataset: Dataset, synthetic: Sequence[MixedImage]) -> list[tuple[Entry, list[Entry]]]:
    """Target and donors of each synthetic image, all of them of the training split."""
    training = {entry.source.image: entry for entry in dataset.training}

    def entry(one: MixedImage, what: str, image: object) -> Entry:
        if not isinstance(image, str) or image not in training:
            raise HistomixError(
                f"{one.name}: its {what} {image!r} is not in the training split of {dataset.name}; make it again."
            )
        return training[image]

    result = []
    for one in synthetic:
        if one.kind not in dataset.kinds:
            raise HistomixError(
                f"{one.name} is of the class {one.kind!r}, which {dataset.name} does not have; its classes are "
                f"{', '.join(dataset.kinds)}."
            )
        named = one.provenance.get("donors")
        if not isinstance(named, Sequence) or isinstance(named, str):
            # Without them nobody could tell whether a test image leaked into it.
            raise HistomixError(f"{one.name}: its provenance does not list its donors; make it again.")
        donors = [entry(one, "donor", each.get("image") if isinstance(each, Mapping) else each) for each in named]
        target = entry(one, "target", one.target)
        result.append((target, list({donor.source.image: donor for donor in donors}.values())))
    return result


def _write(
    dataset: Dataset,
    synthetic: Sequence[MixedImage],
    origins: list[tuple[Entry, list[Entry]]],
    out: Path,
    more: Mapping[str, Any],
) -> Job[None]:
    written = WrittenDataset(out, f"{dataset.name}, augmented", (), FORMAT, dataset.kinds)
    targets = {target.source.image for target, _ in origins}
    training, total = dataset.training, len(dataset.training) + len(synthetic)
    skipped: dict[str, str] = {}
    before: Counter[str] = Counter()
    made: Counter[str] = Counter()
    for number, entry in enumerate(training):
        yield Event("Writing images", number, total)
        try:
            image = dataset.read(entry)
        except HistomixError as error:
            if entry.source.image in targets:
                raise
            skipped[entry.source.image] = str(error)
            continue
        written.add(image, synthetic=entry.synthetic, original=entry.image)
        before[entry.kind] += 1
        made[entry.kind] += entry.synthetic
    after = before.copy()
    records = []
    with zipfile.ZipFile(out / ORIGINS, "w") as maps:
        for number, (mix, (target, donors)) in enumerate(zip(synthetic, origins, strict=True), start=len(training)):
            yield Event("Writing images", number, total)
            if mix.origin.dtype != np.uint8 or mix.origin.shape != mix.pixels.shape[:2]:
                raise HistomixError(f"{mix.name}: the origin map must be (H, W) uint8 of the image's size.")
            source = replace(target.source, image=mix.name)
            file = written.add(LabeledImage.of_kind(mix.pixels, mix.kind, target.mpp or 0.0, source), synthetic=True)
            stream = io.BytesIO()
            write_png(stream, mix.origin, target.mpp, description=_ORIGIN_NOTICE)
            # Of no date: the same arguments give the same bytes.
            maps.writestr(zipfile.ZipInfo(file), stream.getvalue())
            after[mix.kind] += 1
            made[mix.kind] += 1
            records.append(_record(file, mix, target, donors))
    yield Event("Writing the manifest", total, total)
    written.finish(notice=SYNTHETIC_NOTICE, **described(dataset.root))
    copy_notices(dataset.root, out)
    manifest = {
        "notice": SYNTHETIC_NOTICE,
        "software": f"napari-histomix {__version__}",
        "dataset": dataset.name,
        "dataset_root": way_to(dataset.root, out),
        "counts": {
            "before": {kind: before[kind] for kind in dataset.kinds},
            "after": {kind: after[kind] for kind in dataset.kinds},
        },
        "skipped_images": skipped,
        **more,
        "synthetic": records,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (out / "manifest.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    _write_readme(dataset, out, before, after, made, skipped, [record["provenance"] for record in records])


def _write_readme(
    dataset: Dataset,
    out: Path,
    before: Counter[str],
    after: Counter[str],
    made: Counter[str],
    skipped: Mapping[str, str],
    provenances: Sequence[Mapping[str, Any]],
) -> None:
    source = described(dataset.root)
    notes = [
        "The training split alone: no image of another split, and nothing made from one.",
        f"`{ORIGINS}` says where the pixels of a synthetic image are from: 0 real, 1 donor, 2 inpainted.",
    ]
    if skipped:
        notes.append(f"Left out because they could not be read: {', '.join(sorted(skipped))}.")
    write_card(
        out,
        name=f"{dataset.name}, augmented",
        format_title="class folders",
        counts_before={kind: before[kind] for kind in dataset.kinds},
        counts_after={kind: after[kind] for kind in dataset.kinds},
        images=after.total(),
        synthetic_images=made.total(),
        synthetic_nuclei=None,
        counts_synthetic=made,
        methods=[
            "USegMix: tissue segments of real images exchanged for segments of other images of their class, their "
            "surroundings painted by a diffusion model."
        ],
        models=models_of(provenances),
        license=source.get("license", ""),
        source=", ".join(filter(None, (dataset.name, source.get("derived_from", "")))),
        notes=notes,
    )


def _record(file: str, one: MixedImage, target: Entry, donors: list[Entry]) -> dict[str, Any]:
    """What the manifest says of a synthetic image."""

    def source(entry: Entry) -> dict[str, str]:
        return {"image": entry.source.image, "patient": entry.source.patient, "slide": entry.source.slide}

    return {
        "file": file,
        "name": one.name,
        "class": one.kind,
        "sha256": pixels_sha256(one.pixels),
        "sources": {"target": source(target), "donors": [source(donor) for donor in donors]},
        "seed": one.seed,
        "changed_pixels": int(np.count_nonzero(one.origin)),
        "provenance": dict(one.provenance),
    }
