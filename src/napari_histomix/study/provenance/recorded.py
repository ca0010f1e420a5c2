"""An export's manifest, read back: its synthetic images, and the record of everything in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from napari_histomix.datasets.formats.reading import read_json
from napari_histomix.datasets.opening import dataset_at
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE
from napari_histomix.records import HistomixError

FILE = "manifest.json"
LARGEST = 2**29
"""Bytes of a manifest that is read: two hundred thousand placements."""

_NUCLEI = ("sources", "crop", "scale", "changed", "stain_matching", "symmetries", "sampler_settings", "versions")
_TISSUE = ("sources", "donors", "stain_matching", "sampler_settings", "versions")


@dataclass(frozen=True, eq=False)
class SyntheticImage:
    """A synthetic image of an export.

    Parameters
    ----------
    name : str
        Of the source image that nuclei were placed in; of the synthetic image, where it is one of tissue.
    file : str
        Name of the exported image in its dataset; its path in the export, where it is one of tissue.
    sha256 : str
        Of its pixels (``datasets.pixels.pixels_sha256``).
    records : tuple of mapping
        Of its placements in their order; the one of the image itself, where it is one of tissue.
    """

    name: str
    file: str
    sha256: str
    records: tuple[Mapping[str, Any], ...]

    @property
    def target(self) -> Mapping[str, Any]:
        """Facts of the source image (``datasets.pixels.image_facts``)."""
        found: Mapping[str, Any] = self.records[0]["provenance"]["sources"]["target"]
        return found

    def sources(self) -> Iterator[Mapping[str, Any]]:
        """Facts of every image that it was made of, some of them twice."""
        for record in self.records:
            made = record["provenance"]
            yield from made["sources"].values()
            yield from made.get("donors", ())


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
    def tissue(self) -> bool:
        """Whether its images are whole tissue images, and not images with nuclei in them."""
        return "synthetic" in self.content

    @property
    def dataset(self) -> str:
        """Name of the source dataset."""
        return str(self.content.get("dataset", ""))

    @property
    def dataset_root(self) -> Path | None:
        """Folder of the source dataset, if the manifest tells where it is and it is still there."""
        return dataset_at(self.content.get("dataset_root"), self.path.parent)

    @cached_property
    def images(self) -> tuple[SyntheticImage, ...]:
        """All synthetic images, as they were exported."""
        with undamaged(self.path):
            if self.tissue:
                return tuple(
                    SyntheticImage(str(one["name"]), str(one["file"]), str(one["sha256"]), (one,))
                    for one in self.content["synthetic"]
                )
            records: dict[str, list[Mapping[str, Any]]] = {}
            for one in self.content["placements"]:
                records.setdefault(one["image"], []).append(one)
            about = self.content["synthetic_images"]
            return tuple(
                SyntheticImage(name, str(about[name]["file"]), str(about[name]["sha256"]), tuple(some))
                for name, some in records.items()
            )

    @property
    def models(self) -> dict[str, Mapping[str, Any]]:
        """By the SHA-256 of every model that took part, the provenance of something that it made."""
        made = (record["provenance"] for image in self.images for record in image.records)
        return {str(one["model_sha256"]): one for one in made}


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of an export.

    Parameters
    ----------
    path : Path
        The file, or the folder it lies in.

    Raises
    ------
    HistomixError
        If there is none, it is damaged, or an earlier version wrote it, which recorded too little.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise HistomixError(f"{file} is not there; name the {FILE} of an export, or its folder.")
    content = read_json(file, LARGEST)
    if not is_manifest(content):
        raise HistomixError(f"{file} is no manifest of an export; name the {FILE} that lies in one.")
    with undamaged(file):
        needed = _TISSUE if "synthetic" in content else _NUCLEI
        lacking = [one for one in _records(content) if not all(key in one["provenance"] for key in needed)]
        if lacking or "dataset_root" not in content:
            raise HistomixError(
                f"An earlier version ({content.get('software', 'unknown')}) made what {file} lists and recorded too "
                "little to rebuild or explain it; make the images anew."
            )
    return Manifest(file, content)


def is_manifest(content: object) -> bool:
    """Whether a JSON value is a manifest, of whatever version."""
    return (
        isinstance(content, dict)
        and content.get("notice") == SYNTHETIC_NOTICE
        and any(isinstance(content.get(key), list) for key in ("placements", "synthetic"))
    )


def _records(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = content["synthetic" if "synthetic" in content else "placements"]
    return found


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
