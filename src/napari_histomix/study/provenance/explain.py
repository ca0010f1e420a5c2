"""Explain: where the pixels of an exported image come from, of the whole image and of a point in it."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.compositing.donors import before_turn, resampled_shape
from napari_histomix.compositing.exchanging import lay_all
from napari_histomix.datasets import open_dataset
from napari_histomix.datasets.card import models_of
from napari_histomix.datasets.class_folders import ORIGINS
from napari_histomix.datasets.entries import read_json_object
from napari_histomix.datasets.formats.reading import read_json
from napari_histomix.datasets.pixels import is_flagged, read_label_image
from napari_histomix.datasets.run_lengths import mask_of
from napari_histomix.records import DONOR, INPAINTED, REAL, HistomixError
from napari_histomix.study.augmented import ORIGIN
from napari_histomix.study.provenance.comparing import inside
from napari_histomix.study.provenance.rebuilding import swaps_of
from napari_histomix.study.provenance.recorded import (
    FILE,
    LARGEST,
    Manifest,
    SyntheticImage,
    is_manifest,
    read_manifest,
    undamaged,
)

ORIGIN_WORDS = {REAL: "real", DONOR: "donor", INPAINTED: "inpainted"}
_ABOVE = 4
"""Folders above an image that are searched for a manifest."""

Kind = Literal["synthetic", "real", "flagged", "unknown"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What is known of an image.

    Parameters
    ----------
    image : str
        Its name.
    kind : str
        ``synthetic``: made here, and recorded; ``real``: an image of an export that nothing was placed in;
        ``flagged``: marked as synthetic, and no manifest says how it was made; ``unknown``: nothing says anything.
    sentence : str
        The same in words.
    facts : mapping
        Of a synthetic image, plain JSON values: ``source``, ``license``, ``shares``, ``made`` (placements or
        replacements), ``models``, ``samplers``, ``decisions``.
    """

    image: str
    kind: Kind
    sentence: str
    facts: Mapping[str, Any]
    manifest: Manifest | None = None
    synthetic: SyntheticImage | None = None
    origin: NDArray[np.uint8] | None = None

    def at(self, x: int, y: int) -> dict[str, Any]:
        """Where the pixel in column ``x`` and row ``y`` comes from, as plain JSON values.

        ``origin`` is real, donor or inpainted. Of the latter two, ``placement`` is the nucleus's rank (of tissue
        ``replacement``, from 0, in the order of the record), with the ``decision`` on it; of a donor's pixel, ``image``
        and ``x`` and ``y`` are where it lay there, in fractions where it was resampled.

        Raises
        ------
        HistomixError
            If the image is not a synthetic one, the point is outside it, or the manifest is damaged.
        """
        if self.manifest is None or self.synthetic is None or self.origin is None:
            raise HistomixError(f"{self.sentence} Points can be explained in synthetic images of an export alone.")
        height, width = self.origin.shape
        if not (0 <= x < width and 0 <= y < height):
            raise HistomixError(f"({x}, {y}) lies outside of {self.image}, which is {width}×{height} pixels.")
        found: dict[str, Any] = {"origin": ORIGIN_WORDS[int(self.origin[y, x])]}
        if found["origin"] == "real":
            return found | _from(self.synthetic.target, x, y)
        with undamaged(self.manifest.path):
            explain_pixel = _in_tissue if self.manifest.tissue else _in_nucleus
            return found | explain_pixel(self.manifest, self.synthetic, self.origin, x, y)


def explain(image: Path | str, manifest: Path | None = None) -> Explanation:
    """Find out what an image is and what it was made of.

    Parameters
    ----------
    image : path
        An image file; or, with a manifest, the name of an image in its export: one file may hold many images.
    manifest : Path, optional
        Looked for beside the image and above it by default.

    Raises
    ------
    HistomixError
        If there is no such image, or the manifest is damaged or of an earlier version.
    """
    path = Path(image)
    if manifest is None:
        if not path.exists():
            raise HistomixError(f"{path} is not there; name an image file, or an image's name and its --manifest.")
        manifest = _manifest_above(path)
    if manifest is None:
        if is_flagged(path):
            return Explanation(
                path.name, "flagged", f"{path.name} is marked as synthetic, but no manifest beside it says more.", {}
            )
        return Explanation(path.name, "unknown", f"{path.name} is no image of an export, and not marked.", {})
    read = read_manifest(manifest)
    name, file = (_tissue_file if read.tissue else _nuclei_file)(read, path, str(image))
    synthetic = next((one for one in read.images if one.file == name), None)
    if synthetic is not None:
        origin = _origin(read, synthetic)
        facts = _facts(read, synthetic, origin)
        sentence = f"{synthetic.name} is a synthetic image, not for diagnosis."
        return Explanation(synthetic.name, "synthetic", sentence, facts, read, synthetic, origin)
    if is_flagged(file):
        words = f"{name} was synthetic in the source dataset already; its own manifest lies where it was made."
        return Explanation(name, "flagged", words, {})
    return Explanation(name, "real", f"{name} is a real image of {read.dataset}; nothing was placed in it.", {})


def _manifest_above(path: Path) -> Path | None:
    """The nearest manifest beside an image or above it; other programs have files of that name as well."""
    files = (folder / FILE for folder in path.resolve().parents[:_ABOVE])
    return next((file for file in files if file.is_file() and is_manifest(read_json(file, LARGEST))), None)


def _nuclei_file(manifest: Manifest, path: Path, given: str) -> tuple[str, Path]:
    """Name of an image in its export, and its file."""
    dataset = open_dataset(manifest.path.parent)
    here = [one for one in dataset.entries if path.exists() and one.image.resolve() == path.resolve()]
    here = here or [one for one in dataset.entries if one.source.image == given]
    if not here:
        # Under the name that it has in the source dataset.
        files = {one.name: one.file for one in manifest.images}
        here = [one for one in dataset.entries if one.source.image == files.get(given)]
    if len(here) > 1:
        raise HistomixError(
            f"{path} holds {len(here)} images; give the name of one, such as {here[0].source.image}, and --manifest."
        )
    if not here:
        raise HistomixError(f"{given} is no image of the export {manifest.path.parent}; name one of its images.")
    return here[0].source.image, here[0].image


def _tissue_file(manifest: Manifest, path: Path, given: str) -> tuple[str, Path]:
    folder = manifest.path.parent.resolve()
    named = next((one.file for one in manifest.images if given in (one.name, one.file)), given)
    file = path.resolve() if path.exists() else inside(folder, named)
    if not file.is_file() or not file.is_relative_to(folder):
        raise HistomixError(f"{given} is no image of the export {folder}; name one of its images.")
    return file.relative_to(folder).as_posix(), file


def _origin(manifest: Manifest, image: SyntheticImage) -> NDArray[np.uint8]:
    """The origin map (H, W) that the export holds of an image."""
    folder = manifest.path.parent
    if not manifest.tissue:
        found = read_label_image(inside(folder, f"{ORIGIN}/{image.file}.png"))
    else:
        try:
            with zipfile.ZipFile(folder / ORIGINS) as maps:
                found = np.asarray(Image.open(io.BytesIO(maps.read(image.file)))).astype(np.int32)
        except (OSError, KeyError, ValueError, SyntaxError, zipfile.BadZipFile) as error:
            raise HistomixError(
                f"{folder / ORIGINS} has no origin map of {image.file} ({error}); copy it again."
            ) from None
    if found.ndim != 2 or found.max() > INPAINTED:
        raise HistomixError(f"The origin map of {image.file} holds other values than 0, 1 and 2; copy it again.")
    return found.astype(np.uint8)


def _facts(manifest: Manifest, image: SyntheticImage, origin: NDArray[np.uint8]) -> dict[str, Any]:
    with undamaged(manifest.path):
        made = [record["provenance"] for record in image.records]
        replaced = len(made[0]["donors"]) if manifest.tissue else len(image.records)
        decided = [_decision(manifest, image, record) for record in image.records]
        return {
            "manifest": str(manifest.path),
            "dataset": manifest.dataset,
            "source": _source(image.target),
            "license": str(read_json_object(manifest.path.parent / "dataset.json").get("license", "")),
            "made": replaced,
            "shares": {word: float(np.mean(origin == value)) for value, word in ORIGIN_WORDS.items()},
            "methods": sorted({str(one["method"]) for one in made}),
            "samplers": sorted({str(one["sampler"]) for one in made}),
            "models": models_of(made),
            "decisions": dict(Counter(one["decision"] for one in decided)),
            "decided_by": sorted({one["decided_by"] for one in decided} - {""}),
        }


def _decision(manifest: Manifest, image: SyntheticImage, record: Mapping[str, Any]) -> dict[str, str]:
    """Who decided what on a placement or on a tissue image, and when."""
    said = manifest.content.get("decisions", {}).get(image.name, {}) if manifest.tissue else record
    found = {"decision": str(said.get("decision", "unreviewed"))}
    return found | {key: str(said.get(key, "")) for key in ("decided_by", "decided")}


def _source(facts: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(facts[key]) for key in ("image", "patient", "slide")}


def _from(facts: Mapping[str, Any], x: float, y: float) -> dict[str, Any]:
    """Facts of a source image and the place in it."""
    return {**_source(facts), "x": x, "y": y}


def _in_nucleus(manifest: Manifest, image: SyntheticImage, origin: NDArray[np.uint8], x: int, y: int) -> dict[str, Any]:
    record = next((one for one in image.records if _covers(one["provenance"]["changed"], x, y)), None)
    if record is None:
        raise HistomixError(
            f"No record of {image.name} covers ({x}, {y}), which its origin map marks; copy both again."
        )
    made = record["provenance"]
    found = {
        "placement": record["rank"],
        "instance": record["instance"],
        "class": record["donor"]["type"],
        **_decision(manifest, image, record),
    }
    if origin[y, x] != DONOR:
        return found | _painter(made)
    top, left = made["shift"]
    row, col, height, width = made["crop"]
    scaled = (height, width) if made["scale"] == 1 else resampled_shape((height, width), made["scale"])
    in_row, in_col = before_turn(y - top, x - left, scaled, made["quarter_turns"], made["mirrored"])
    giver = made["sources"]["donor"]
    there = _from(giver, col + _unscaled(in_col, width, scaled[1]), row + _unscaled(in_row, height, scaled[0]))
    return found | there | {"donor_instance": record["donor"]["instance"], "stain": made["stain"]}


def _covers(changed: Mapping[str, Any], x: int, y: int) -> bool:
    """Whether a record's changed pixels hold a point."""
    row, col = y - int(changed["row"]), x - int(changed["col"])
    height, width = changed["size"]
    return 0 <= row < height and 0 <= col < width and bool(mask_of(changed)[row, col])


def _unscaled(place: int, size: int, scaled: int) -> float:
    """Where a pixel of a row that was resampled from ``size`` to ``scaled`` pixels was; pixels are named by centers."""
    return place if size == scaled else round((place + 0.5) * size / scaled - 0.5, 2)


def _in_tissue(manifest: Manifest, image: SyntheticImage, origin: NDArray[np.uint8], x: int, y: int) -> dict[str, Any]:
    (record,) = image.records
    made = record["provenance"]
    swaps = swaps_of(made)
    laid, _ = lay_all(swaps, (origin.shape[0], origin.shape[1]))
    number = next((index for index, one in enumerate(laid) if one.donor[y, x] or one.hole[y, x]), None)
    if number is None:
        raise HistomixError(
            f"No record of {image.name} covers ({x}, {y}), which its origin map marks; copy both again."
        )
    found = {"replacement": number, **_decision(manifest, image, record)}
    if origin[y, x] != DONOR:
        return found | _painter(made)
    giver, segment = made["donors"][number], swaps[number].donor
    back = cv2.invertAffineTransform(np.array(swaps[number].pose.matrix))
    in_x, in_y = (round(float(value), 2) for value in back @ (x, y, 1))
    there = _from(giver, segment.col + in_x, segment.row + in_y)
    return found | there | {"segment": giver["segment"], "stain": giver["stain"]}


def _painter(made: Mapping[str, Any]) -> dict[str, Any]:
    """What inpainted a pixel."""
    return {key: made[key] for key in ("model", "model_sha256", "sampler")}
