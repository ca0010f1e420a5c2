"""Find the nuclei of an image, and their classes, with a trained segmenter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from napari_histomix import __version__
from napari_histomix.datasets import Dataset
from napari_histomix.datasets.dataset import no_image
from napari_histomix.datasets.dataset_writer import WrittenDataset, check_format, copy_notices, described
from napari_histomix.datasets.entries import named_classes
from napari_histomix.datasets.pixels import orientation_of
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, check_place, complete_or_absent, write_text
from napari_histomix.devices import choose_device, memory_error
from napari_histomix.diffusion.models import fast_dtype
from napari_histomix.generation.inputs import check_kind, check_pixels
from napari_histomix.generation.structure import instances_of
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, relayed
from napari_histomix.scales import resized, resized_labels, same_scale, shape_at_scale

if TYPE_CHECKING:
    from napari_histomix.generation.models import GeneratorModel

TILE = 1024
"""Side in pixels of what a tile adds to the result."""
MARGIN = 64
"""What a tile sees beyond that on each side: a large nucleus, and its surroundings."""
PHASE = "Finding nuclei"


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The nuclei that a segmenter finds.

    Parameters
    ----------
    instances : (H, W) int32
        Instance map at the image's own scale, 0 = background.
    classes : mapping of int to str
        Class name of every id in ``instances``.
    probability : mapping of int to float
        Of that class, among all that the model knows; by id.
    presence : mapping of int to float
        That it is a nucleus at all: the mean over its pixels; by id.
    """

    instances: NDArray[np.int32]
    classes: Mapping[int, str]
    probability: Mapping[int, float]
    presence: Mapping[int, float]


class _Nuclei(NamedTuple):
    """Nuclei of a tile: ids 1 to n, with the index of the class, its probability and the presence by id − 1."""

    instances: NDArray[np.int32]
    kinds: NDArray[np.int64]
    probability: NDArray[np.float64]
    presence: NDArray[np.float64]


def segment(
    pixels: NDArray[np.uint8], mpp: float, model: GeneratorModel, device: str = "auto", *, tile: int = TILE
) -> Job[Segmentation]:
    """Find the nuclei of an image; a long job (see ``records.Job``), with an event for each tile.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        RGB. An image of another scale than the model's is resampled for it, and an event says so; the instance map
        is brought back to the image's own pixels.
    mpp : float
        Micrometers per pixel of the image.
    model : GeneratorModel
        Of the kind ``segmenter``.
    device : str
        auto, cpu, cuda or mps.
    tile : int
        Images larger than this, in pixels of the model's scale, are seen in tiles that overlap; a nucleus counts where
        its center lies. What the network says is held for a tile at a time.

    Returns
    -------
    Segmentation

    Raises
    ------
    HistomixError
        For pixels that are no RGB image, a scale that is none, or a device that is missing or too small.
    """
    check_kind(model, "segmenter")
    check_pixels(pixels, "image")
    if tile < 1:
        raise HistomixError(f"Tiles must have at least one pixel a side, not {tile}.")
    if not (np.isfinite(mpp) and mpp > 0):
        raise HistomixError(f"The image's µm/px must be a positive number, not {mpp}.")
    place = choose_device(device)
    scaled = pixels
    if not same_scale(mpp, model.mpp):
        scaled = resized(pixels, shape_at_scale(pixels.shape, mpp, model.mpp))
        said = f"The image has {mpp:.3g} µm/px: nuclei are found at {model.mpp:.3g} µm/px, as the segmenter learned."
        yield Event(PHASE, message=said)
    network: Any = torch.nn.Module.to(deepcopy(model.network), place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    tiles = list(_tiles(scaled.shape[:2], tile))
    instances = np.zeros(scaled.shape[:2], np.int32)
    parts: list[_Nuclei] = []
    count = 0
    for number, (seen, core) in enumerate(tiles):
        yield Event(PHASE, number, len(tiles))
        with memory_error(f"The device has no memory left for tiles of {tile} pixels; use smaller ones, or cpu."):
            nuclei = _nuclei_of(network, scaled[seen], place)
        nuclei = _centered(nuclei, seen, core, scaled.shape[:2])
        target = instances[seen]
        # A pixel that two tiles give to nuclei of theirs stays with the first.
        free = (nuclei.instances > 0) & (target == 0)
        target[free] = nuclei.instances[free] + count
        count += len(nuclei.kinds)
        parts.append(nuclei)
    if scaled is not pixels:
        instances = resized_labels(instances, pixels.shape[:2])
    return _finished(instances, parts, model.classes)


@dataclass(frozen=True, slots=True)
class Segmented:
    """A dataset that was written: how many images and nuclei (by class name), and why some images were left out."""

    images: int
    nuclei: Mapping[str, int]
    skipped: Mapping[str, str]


def segment_images(
    dataset: Dataset, out: Path, model: GeneratorModel, format: str = "hovernet", device: str = "auto"
) -> Job[Segmented]:
    """Find the nuclei of all images of a dataset and write them as a new one; a long job (see ``records.Job``).

    Labels that the images have already are not read. Splits, patients, slides and scales stay.

    Parameters
    ----------
    dataset : Dataset
        Such as ``datasets.unlabeled.open_images`` opens.
    out : Path
        New folder; complete or absent.
    model : GeneratorModel
        Of the kind ``segmenter``.
    format : str
        Of the new dataset, a name in ``datasets.formats.FORMATS``.
    device : str
        auto, cpu, cuda or mps.

    Raises
    ------
    HistomixError
        If the format cannot hold nuclei, ``out`` is there already, nothing says the scale of an image, or no image
        can be read.
    """
    out, classes = Path(out), named_classes(*model.classes)
    check_format(format, classes)
    check_place(out)
    if unknown := dataset.missing_scale:
        raise HistomixError(
            f"Nothing says how many µm one pixel of {unknown[0].source.image} is; pass --mpp, or put "
            '{"mpp": 0.25} in dataset.json beside the images.'
        )
    numbers = {known.name: known.number for known in classes}
    nuclei: Counter[str] = Counter()
    skipped: dict[str, str] = {}
    marked, total, said = False, len(dataset.entries), set[str]()

    def tell(number: int, event: Event) -> Event:
        # What is true of all images is said for the first alone.
        message = None if event.message in said else event.message
        said.add(message or "")
        return replace(event, done=number, total=total, message=message)

    with complete_or_absent(out) as folder:
        writer = WrittenDataset(folder, dataset.name, classes, format)
        for number, entry in enumerate(dataset.entries):
            yield Event(PHASE, number, total)
            try:
                pixels = dataset.files.pixels(entry)
            except HistomixError as error:
                skipped[entry.source.image] = str(error)
                continue
            assert entry.mpp is not None
            segmentation = yield from relayed(segment(pixels, entry.mpp, model, device), partial(tell, number))
            types = {each: numbers[name] for each, name in segmentation.classes.items()}
            image = LabeledImage(pixels, segmentation.instances, types, entry.mpp, entry.source)
            original = entry.image if orientation_of(entry.image) == 1 else None
            writer.add(image, synthetic=entry.synthetic, original=original)
            marked |= entry.synthetic
            nuclei += Counter(segmentation.classes.values())
        if len(skipped) == total:
            raise no_image(dataset, [*(problem.sentence for problem in dataset.problems), *skipped.values()])
        notice = {"notice": SYNTHETIC_NOTICE} if marked else {}
        writer.finish(**described(dataset.root), **notice, format=format, labels_by=model.facts)
        copy_notices(dataset.root, folder)
        write_text(folder / "README.md", _card(dataset.name, model))
    return Segmented(total - len(skipped), {name: nuclei[name] for name in numbers}, skipped)


def _card(name: str, model: GeneratorModel) -> str:
    return (
        f"# {name}\n\nThe nuclei and their classes are those that the network {model.name} (SHA-256 {model.sha256}) "
        f"found; nobody has checked them. Written by napari-histomix {__version__}. Research use; not for diagnosis.\n"
    )


def _tiles(shape: tuple[int, int], tile: int) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """What each tile sees, and the part of it that is its own, row by row."""
    spans = []
    for length in shape:
        count = max(1, -(-(length - 2 * MARGIN) // tile))
        edges = np.linspace(0, length, count + 1).round().astype(int).tolist()
        spans.append([(slice(max(0, a - MARGIN), min(length, b + MARGIN)), slice(a, b)) for a, b in pairwise(edges)])
    for rows in spans[0]:
        for cols in spans[1]:
            yield (rows[0], cols[0]), (rows[1], cols[1])


@torch.inference_mode()
def _nuclei_of(network: Any, pixels: NDArray[np.uint8], place: torch.device) -> _Nuclei:
    """The nuclei of a tile (H, W, 3)."""
    height, width = pixels.shape[:2]
    below, right = -height % network.grid, -width % network.grid
    padded = cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REFLECT_101)
    images = torch.from_numpy(padded).to(place).permute(2, 0, 1)[None].float() / 127.5 - 1
    dtype = fast_dtype(place)
    with torch.autocast(place.type, dtype=dtype, enabled=dtype != torch.float32):
        output = network(images.contiguous(memory_format=torch.channels_last))
    semantic = output.semantic[0, 0, :height, :width].float().sigmoid().cpu().numpy()
    offsets = output.offsets[0, :, :height, :width].float().cpu().numpy()
    classes = output.classes[0, :, :height, :width].float().softmax(0).cpu().numpy()
    instances, ids = _numbered(instances_of(semantic, offsets[0], offsets[1]))
    inside = instances > 0
    owner, count = instances[inside] - 1, len(ids)
    area = np.bincount(owner, minlength=count)
    means = np.stack([np.bincount(owner, plane[inside], count) / area for plane in classes], axis=1)
    kinds = means.argmax(axis=1)
    presence = np.bincount(owner, semantic[inside], count) / area
    return _Nuclei(instances, kinds, means[np.arange(count), kinds], presence)


def _centered(nuclei: _Nuclei, seen: tuple[slice, slice], core: tuple[slice, slice], shape: tuple[int, int]) -> _Nuclei:
    """The nuclei whose centers lie in a tile's own part, numbered anew."""
    if all(part.start == 0 and part.stop == length for part, length in zip(core, shape, strict=True)):
        return nuclei
    count = len(nuclei.kinds)
    flat = np.flatnonzero(nuclei.instances)
    owner = nuclei.instances.ravel()[flat] - 1
    area = np.bincount(owner, minlength=count)
    keep = np.ones(count, bool)
    for place, window, part in zip(np.divmod(flat, nuclei.instances.shape[1]), seen, core, strict=True):
        center = np.bincount(owner, place, count) / area + window.start
        keep &= (center >= part.start) & (center < part.stop)
    numbers = np.zeros(count + 1, np.int32)
    numbers[1:][keep] = np.arange(1, np.count_nonzero(keep) + 1)
    return _Nuclei(numbers[nuclei.instances], nuclei.kinds[keep], nuclei.probability[keep], nuclei.presence[keep])


def _numbered(instances: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """An instance map of ids that are not much larger than their number, numbered from 1; and the ids that occur."""
    ids = np.flatnonzero(np.bincount(instances.ravel(), minlength=1)[1:]) + 1
    numbers = np.zeros(int(instances.max(initial=0)) + 1, np.int32)
    numbers[ids] = np.arange(1, len(ids) + 1)
    return numbers[instances], ids


def _finished(instances: NDArray[np.int32], parts: list[_Nuclei], names: tuple[str, ...]) -> Segmentation:
    """The nuclei of all tiles, but for those that have no pixel left, numbered from 1."""
    instances, left = _numbered(instances)
    kinds, probability, presence = (
        np.concatenate([getattr(part, field) for part in parts])[left - 1].tolist()
        for field in ("kinds", "probability", "presence")
    )
    return Segmentation(
        instances,
        {number: names[kind] for number, kind in enumerate(kinds, start=1)},
        dict(enumerate(probability, start=1)),
        dict(enumerate(presence, start=1)),
    )
