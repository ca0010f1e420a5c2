"""Explain: where the pixels of an exported image come from, of the whole image and of a point in it."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.datasets import Entry, open_any
from napari_histomix.datasets.dataset_writer import models_of
from napari_histomix.datasets.entries import read_json_object
from napari_histomix.datasets.formats.polygons import mask_of
from napari_histomix.datasets.pixels import is_flagged, read_label_image
from napari_histomix.methods.record import Record
from napari_histomix.records import DONOR, INPAINTED, REAL, HistomixError
from napari_histomix.study.export_images import ORIGIN
from napari_histomix.study.manifest import Manifest, SyntheticImage, manifest_above, read_manifest, undamaged
from napari_histomix.study.replay import method_for

ORIGIN_WORDS = {REAL: "real", DONOR: "donor", INPAINTED: "inpainted"}
ORIGINS = "origins.zip"
"""Where earlier versions kept the origin maps of images with a class each."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """What is known of an image.

    ``kind`` is ``synthetic``: made here, and recorded; ``real``: an image of an export that nothing was changed in;
    ``flagged``: marked as synthetic, and no manifest says how it was made; ``unknown``: nothing says anything.
    ``sentence`` says the same in words. ``facts`` of a synthetic image are plain JSON values: ``source``, ``license``,
    ``shares``, ``made`` (changes), ``methods``, ``models``, ``samplers``, ``decisions``, ``decided_by``.
    """

    image: str
    kind: Literal["synthetic", "real", "flagged", "unknown"]
    sentence: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    manifest: Manifest | None = None
    synthetic: SyntheticImage | None = None
    origin: NDArray[np.uint8] | None = None

    def at(self, x: int, y: int) -> dict[str, Any]:
        """Where the pixel in column ``x`` and row ``y`` comes from, as plain JSON values.

        ``origin`` is real, donor or inpainted. Of the latter two, ``change`` is the id of the change, with the
        ``decision`` on it; of a donor's pixel, ``image`` and ``x`` and ``y`` are where it lay there, in fractions where
        it was resampled, as far as the method can tell.

        Raises HistomixError if the image is not a synthetic one, the point is outside it, the method is not installed,
        or the manifest is damaged.
        """
        if self.manifest is None or self.synthetic is None or self.origin is None:
            raise HistomixError(f"{self.sentence} Points can be explained in synthetic images of an export alone.")
        height, width = self.origin.shape
        if not (0 <= x < width and 0 <= y < height):
            raise HistomixError(f"({x}, {y}) lies outside of {self.image}, which is {width}×{height} pixels.")
        point: dict[str, Any] = {"origin": ORIGIN_WORDS[int(self.origin[y, x])]}
        if point["origin"] == "real":
            return point | _source(self.synthetic.target) | {"x": x, "y": y}
        with undamaged(self.manifest.path):
            record = self._record(x, y)
            painted = point["origin"] == "inpainted"
            made = record.provenance
            point |= {"change": record.id, "method": record.method, **_decision(record)}
            if len(record.added) == 1:
                ((instance, about),) = record.added.items()
                point |= {"instance": instance, "class": about["class"]}
            traced = dict(method_for(self.manifest, record.method).trace(record, y, x, painted))
            if painted:
                return point | {key: made[key] for key in ("model", "model_sha256", "sampler") if key in made} | traced
            givers = {facts["image"]: facts for facts in self.synthetic.sources()}
            return point | _source(givers.get(traced.get("image", ""), {})) | traced

    def _record(self, x: int, y: int) -> Record:
        """The record of the change that a pixel belongs to."""
        assert self.synthetic is not None and self.origin is not None
        for record in self.synthetic.records:
            if not record.in_place:
                # Earlier records do not say how large the image is.
                return Record({"window": [0, 0, *self.origin.shape], **record.content})
            if _covers(record, y, x):
                return record
        raise HistomixError(
            f"No record of {self.synthetic.name} covers ({x}, {y}), which its origin map marks; copy both again."
        )


def explain(image: Path | str, manifest: Path | None = None) -> Explanation:
    """Find out what an image is and what it was made of.

    Parameters
    ----------
    image : path
        A file; or, with a manifest, the name of an image in its export: one file may hold many images.
    manifest : Path, optional
        Looked for beside the image and above it by default.

    Returns
    -------
    Explanation

    Raises
    ------
    HistomixError
        If there is no such image, or the manifest is damaged or of an earlier version.
    """
    path = Path(image)
    if manifest is None:
        if not path.exists():
            raise HistomixError(f"{path} is not there; name an image file, or an image's name and its --manifest.")
        manifest = manifest_above(path)
    if manifest is None:
        if is_flagged(path):
            words = f"{path.name} is marked as synthetic, but no manifest beside it says more."
            return Explanation(path.name, "flagged", words)
        return Explanation(path.name, "unknown", f"{path.name} is no image of an export, and not marked.")
    read = read_manifest(manifest)
    entry = _exported(read, path, str(image))
    name = entry.source.image
    synthetic = next((known for known in read.images if known.file == name), None)
    if synthetic is not None:
        origin = _origin(read, synthetic)
        sentence = f"{synthetic.name} is a synthetic image, not for diagnosis."
        return Explanation(
            synthetic.name, "synthetic", sentence, _facts(read, synthetic, origin), read, synthetic, origin
        )
    if is_flagged(entry.image):
        words = f"{name} was synthetic in the source dataset already; its own manifest lies where it was made."
        return Explanation(name, "flagged", words)
    return Explanation(name, "real", f"{name} is a real image of {read.dataset}; nothing was placed in it.")


def _exported(manifest: Manifest, path: Path, given: str) -> Entry:
    """An image in its export."""
    entries = open_any(manifest.path.parent).entries
    matches = [entry for entry in entries if path.exists() and entry.image.resolve() == path.resolve()]
    # By its name, or by the one that it has in the study.
    files = {image.name: image.file for image in manifest.images}
    for name in (given, files.get(given)):
        matches = matches or [entry for entry in entries if entry.source.image == name]
    if not matches:
        raise HistomixError(f"{given} is no image of the export {manifest.path.parent}; name one of its images.")
    if len(matches) > 1:
        name = matches[0].source.image
        raise HistomixError(
            f"{path} holds {len(matches)} images; give the name of one, such as {name}, and --manifest."
        )
    return matches[0]


def _origin(manifest: Manifest, image: SyntheticImage) -> NDArray[np.uint8]:
    """The origin map (H, W) that the export holds of an image."""
    folder, archive = manifest.path.parent, manifest.path.parent / ORIGINS
    if archive.is_file():
        try:
            with zipfile.ZipFile(archive) as maps:
                origin = np.asarray(Image.open(io.BytesIO(maps.read(f"{image.file}.png")))).astype(np.int32)
        except (OSError, KeyError, ValueError, SyntaxError, zipfile.BadZipFile) as error:
            raise HistomixError(f"{archive} has no origin map of {image.file} ({error}); copy it again.") from None
    else:
        path = (folder / f"{ORIGIN}/{image.file}.png").resolve()
        if not path.is_relative_to(folder.resolve()):
            raise HistomixError(f"The path {image.file!r} leaves the export {folder}; copy the manifest again.")
        origin = read_label_image(path)
    if origin.ndim != 2 or origin.max() > INPAINTED:
        raise HistomixError(f"The origin map of {image.file} holds other values than 0, 1 and 2; copy it again.")
    return origin.astype(np.uint8)


def _facts(manifest: Manifest, image: SyntheticImage, origin: NDArray[np.uint8]) -> dict[str, Any]:
    with undamaged(manifest.path):
        made = [record.provenance for record in image.records]
        decided = [_decision(record) for record in image.records]
        return {
            "manifest": str(manifest.path),
            "dataset": manifest.dataset,
            "source": _source(image.target),
            "license": str(read_json_object(manifest.path.parent / "dataset.json").get("license", "")),
            "made": len(image.records),
            "shares": {word: float(np.mean(origin == value)) for value, word in ORIGIN_WORDS.items()},
            "methods": sorted({str(record.provenance.get("method", record.method)) for record in image.records}),
            "samplers": sorted({str(facts["sampler"]) for facts in made if "sampler" in facts}),
            "models": models_of(made),
            "decisions": dict(Counter(review["decision"] for review in decided)),
            "decided_by": sorted({review["decided_by"] for review in decided} - {""}),
        }


def _decision(record: Record) -> dict[str, str]:
    """Who decided what on a change, and when."""
    decision = str(record.content.get("decision", "unreviewed"))
    return {"decision": decision, **{key: str(record.content.get(key, "")) for key in ("decided_by", "decided")}}


def _source(facts: Mapping[str, Any]) -> dict[str, str]:
    """A source image with its patient and slide, as far as they are known."""
    return {key: str(facts.get(key, "")) for key in ("image", "patient", "slide")}


def _covers(record: Record, row: int, col: int) -> bool:
    """Whether a record's changed pixels hold a point."""
    changed = record.content.get("changed", record.provenance.get("changed"))
    if changed is None:
        return record.covers(row, col)
    top, left = row - int(changed["row"]), col - int(changed["col"])
    height, width = changed["size"]
    return 0 <= top < height and 0 <= left < width and bool(mask_of(changed)[top, left])
