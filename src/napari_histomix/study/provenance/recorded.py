"""An export's manifest, read back: its synthetic images, and the record of everything in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from napari_histomix.datasets.formats.reading import read_json
from napari_histomix.datasets.opening import dataset_at
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE
from napari_histomix.methods import OF_VERSION_3
from napari_histomix.methods.record import Record
from napari_histomix.records import HistomixError
from napari_histomix.study.manifest import FILE, VERSION

LARGEST = 2**29
"""Bytes of a manifest that is read: two hundred thousand changes."""

_RECORDS = ("changes", *OF_VERSION_3)
"""Keys that records lie under: today's, and those of manifests that had one form for nuclei and one for tissue."""

_NEEDED = {
    "placements": (
        "sources",
        "crop",
        "scale",
        "changed",
        "stain_matching",
        "symmetries",
        "sampler_settings",
        "versions",
    ),
    "synthetic": ("sources", "donors", "stain_matching", "sampler_settings", "versions"),
}
"""Without these, earlier records say too little to make anything again."""


@dataclass(frozen=True, eq=False)
class SyntheticImage:
    """A synthetic image of an export.

    Parameters
    ----------
    name : str
        In the study: that of the source image that was changed, or its own where it was derived or is new.
    file : str
        Its name in the exported dataset.
    sha256, source_sha256 : str
        Of its pixels and of those of its source image (``datasets.pixels.pixels_sha256``); empty where there is none.
    records : tuple of Record
        Of its changes in their order.
    """

    name: str
    file: str
    sha256: str
    source_sha256: str
    records: tuple[Record, ...]

    @property
    def target(self) -> Mapping[str, Any]:
        """What is known of its source image (``datasets.pixels.image_facts``); nothing of a new image."""
        first = self.records[0]
        recorded = first.provenance.get("sources", {}).get("target", {})
        facts = {"image": first.image, **({"pixels_sha256": self.source_sha256} if self.source_sha256 else {})}
        return {**facts, **recorded} if first.image else {}

    def sources(self) -> Iterator[Mapping[str, Any]]:
        """Facts of every image that it was made of, some of them twice."""
        if self.target:
            yield self.target
        for record in self.records:
            yield from record.provenance.get("sources", {}).values()
            yield from record.provenance.get("donors", ())


@dataclass(frozen=True, eq=False)
class Manifest:
    """What an export says of itself.

    Parameters
    ----------
    path : Path
    content : mapping
        All of it, as JSON has it.
    """

    path: Path
    content: Mapping[str, Any]

    @property
    def dataset(self) -> str:
        """Name of the source dataset."""
        return str(self.content.get("dataset", ""))

    @property
    def dataset_root(self) -> Path | None:
        """Folder of the source dataset, if the manifest tells where it is and it is still there."""
        return dataset_at(self.content.get("dataset_root"), self.path.parent)

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The records of all changes; those of earlier manifests as they would be written today."""
        with undamaged(self.path):
            if "changes" in self.content:
                return tuple(Record(content) for content in self.content["changes"])
            if "placements" in self.content:
                return tuple(Record(_nucleus(old)) for old in self.content["placements"])
            decisions = self.content.get("decisions", {})
            return tuple(
                Record(_tissue(number, old, decisions.get(old["name"], {})))
                for number, old in enumerate(self.content["synthetic"])
            )

    @cached_property
    def images(self) -> tuple[SyntheticImage, ...]:
        """All synthetic images, as they were exported."""
        with undamaged(self.path):
            about: Mapping[str, Any] = self.content.get("synthetic_images") or {
                old["name"]: old for old in self.content["synthetic"]
            }
            by_name: dict[str, list[Record]] = {}
            for record in self.records:
                by_name.setdefault(record.name, []).append(record)
            return tuple(_image(name, about[name], records) for name, records in by_name.items())

    @property
    def models(self) -> dict[str, Mapping[str, Any]]:
        """By the SHA-256 of every model that took part, the provenance of something that it made."""
        made = (record.provenance for record in self.records)
        return {str(each["model_sha256"]): each for each in made if "model_sha256" in each}


def _image(name: str, about: Mapping[str, Any], records: Sequence[Record]) -> SyntheticImage:
    source = str(about.get("source_sha256", ""))
    # All that a record needs is looked at once, so that a damaged one is found before any work.
    for record in records:
        _ = record.id, record.method, record.seed, record.provenance.keys(), [each["role"] for each in record.sources]
    # Of tissue, earlier versions wrote the path.
    file = str(about["file"]).removesuffix(".png") if "name" in about else str(about["file"])
    return SyntheticImage(name, file, str(about["sha256"]), source, tuple(records))


def _nucleus(old: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a nucleus in a manifest of the first form."""
    made = old["provenance"]
    row, col = int(made["changed"]["row"]), int(made["changed"]["col"])
    height, width = (int(side) for side in made["changed"]["size"])
    return {
        "id": int(old["rank"]),
        "image": old["image"],
        "name": old["image"],
        "method": OF_VERSION_3["placements"],
        **_said(old),
        "seed": int(old["seed"]),
        "score": float(old["percentile"]),
        "window": [row, col, height, width],
        "sources": [_place(role, old[role]) for role in ("target", "donor")],
        "added": {str(int(old["instance"])): {"class": old["donor"]["type"]}},
        "removed": [int(old["target"]["instance"])] if old["target"]["instance"] else [],
        "changed_pixels": int(old["changed_pixels"]),
        "provenance": made,
    }


def _place(role: str, old: Mapping[str, Any]) -> dict[str, Any]:
    kind = {"class": old["type"]} if old["type"] else {}
    place = {"row": float(old["row"]), "col": float(old["col"]), "area": int(old["area"])}
    return {"role": role, "image": old["image"], "item": int(old["instance"]), **kind, **place}


def _tissue(number: int, old: Mapping[str, Any], decided: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a tissue image in a manifest of the first form, which does not say how large the image is."""
    made = old["provenance"]
    target = made["sources"]["target"]["image"]
    donors = [{"role": "donor", "image": donor["image"], "item": int(donor["segment"])} for donor in made["donors"]]
    return {
        "id": number,
        "image": target,
        "name": old["name"],
        "method": OF_VERSION_3["synthetic"],
        **_said(decided),
        "seed": int(old["seed"]),
        "score": None,
        "sources": [{"role": "target", "image": target, "item": 0}, *donors],
        "added": {},
        "removed": [],
        "changed_pixels": int(old["changed_pixels"]),
        "provenance": made,
        "class_shares": {old["class"]: 1.0},
    }


def _said(old: Mapping[str, Any]) -> dict[str, Any]:
    """What people said of something, as far as they did."""
    said = {key: old[key] for key in ("decided_by", "decided", "note", "reasons") if key in old}
    return {"decision": old.get("decision", "unreviewed"), **said}


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of an export.

    Parameters
    ----------
    path : Path
        The file, or the folder it lies in.

    Returns
    -------
    Manifest

    Raises
    ------
    HistomixError
        If there is none, it is damaged, a newer version wrote it, or one so early that it recorded too little.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise HistomixError(f"{file} is not there; name the {FILE} of an export, or its folder.")
    content = read_json(file, LARGEST)
    if not is_manifest(content):
        raise HistomixError(f"{file} is no manifest of an export; name the {FILE} that lies in one.")
    software = content.get("software", "unknown")
    if isinstance(content.get("manifest"), int) and content["manifest"] > VERSION:
        raise HistomixError(f"A newer version ({software}) wrote {file}; update napari-histomix.")
    with undamaged(file):
        lacking = any(
            key not in old["provenance"]
            for form, keys in _NEEDED.items()
            for old in content.get(form, ())
            for key in keys
        )
        if lacking or "dataset_root" not in content:
            raise HistomixError(
                f"An earlier version ({software}) made what {file} lists and recorded too little to rebuild or explain "
                "it; make the images anew."
            )
    return Manifest(file, content)


def is_manifest(content: object) -> bool:
    """Whether a JSON value is a manifest, of whatever version."""
    return (
        isinstance(content, dict)
        and content.get("notice") == SYNTHETIC_NOTICE
        and any(isinstance(content.get(key), list) for key in _RECORDS)
    )


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """What goes wrong in reading a record is one sentence: somebody changed the manifest.

    Raises
    ------
    HistomixError
        For a value that is missing or is not what it should be.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise HistomixError(
            f"{path} is damaged ({type(error).__name__}: {error}); copy it again from the export."
        ) from None
