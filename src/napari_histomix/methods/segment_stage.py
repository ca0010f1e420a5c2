"""The segment pool: training images divided into tissue segments, which a person vets before any is exchanged.

USegMix, phase 1: superpixels and prompts → anchor segments → vectors (Wang & Kwak, arXiv 2502.16160).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from napari_histomix.datasets import Dataset, Problem
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.datasets.splits import check_training
from napari_histomix.features import open_encoder
from napari_histomix.features.context import segment_crops, segment_thumbnail
from napari_histomix.methods.base import Stage, Store, Work, whole_images
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, Segment, within
from napari_histomix.segmentation import AnchorSettings, find_segments, open_prompter
from napari_histomix.segmentation.pool import LIMIT, THUMBNAIL, PoolImage, PoolWriter, SegmentPool, has_pool
from napari_histomix.settings import Device, Encoder, Option, Presets, Seed, plain

PROMPTERS = {"region-tree": "Region tree (no weights)", "sam": "SAM"}


@dataclass(frozen=True)
class PoolSettings:
    """How a segment pool is made; the paper's values where it names them."""

    presets: ClassVar[Presets] = {"paper": {"border": True}}
    prompter: Annotated[str, Option("What answers a point in an image with a segment.", choices=PROMPTERS)] = (
        "region-tree"
    )
    weights: Annotated[
        str,
        Option("SAM's checkpoint: a file, or a name such as vit_b.", kind="file", automatic="none, for a region tree"),
    ] = ""
    superpixels: Annotated[int, Option("Superpixels (SLIC) in an image.", low=1, high=10_000)] = (
        AnchorSettings.superpixels
    )
    points: Annotated[int, Option("Random points that are prompted in each superpixel.", low=1, high=1000)] = (
        AnchorSettings.points
    )
    compactness: Annotated[
        float, Option("How square superpixels are, against how alike in color.", low=0.01, high=1000, advanced=True)
    ] = AnchorSettings.compactness
    sigma: Annotated[float, Option("Blur before superpixels are sought.", low=0, high=50, unit="px", advanced=True)] = (
        AnchorSettings.sigma
    )
    tissue: Annotated[
        float, Option("Least share of tissue in a superpixel that is prompted.", low=0, high=1, advanced=True)
    ] = AnchorSettings.tissue
    extent: Annotated[
        tuple[float, float],
        Option("Least and largest share of the image that a segment covers.", low=0, high=1, advanced=True),
    ] = AnchorSettings.extent
    spread: Annotated[
        float,
        Option(
            "How far apart the answers of one superpixel may lie to count as one, as a share of the image's diagonal.",
            low=0,
            high=1,
            advanced=True,
        ),
    ] = AnchorSettings.spread
    duplicate: Annotated[
        float, Option("Intersection over union from which two segments count as one.", low=0.01, high=1, advanced=True)
    ] = AnchorSettings.duplicate
    encoder: Encoder = "texture"
    components: Annotated[
        int, Option("Principal components that segments of a class are compared by, at most.", low=1, advanced=True)
    ] = LIMIT
    border: Annotated[
        bool, Option("Keep segments that the border of their image cuts off.", label="Segments at the border")
    ] = False
    device: Device = "auto"
    seed: Seed = AnchorSettings.seed

    @property
    def anchors(self) -> AnchorSettings:
        """What of it says how anchor segments are found."""
        return AnchorSettings(**{name: getattr(self, name) for name in AnchorSettings.__dataclass_fields__})


@dataclass(frozen=True, eq=False)
class PoolBuilt:
    """What a pool was made of: numbers of images and segments, the images left out, and what a person should know."""

    images: int
    segments: int
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


class SegmentPoolStage(Stage):
    """Tissue segments of all training images, kept as a pool in the study's folder."""

    name = "segments"
    title = "Tissue segments"
    settings = PoolSettings
    subjects = ("segment", "segment class")
    page = "napari_histomix.widgets.segments.pool_box:PoolPage"
    kept_as = "pool_settings"

    def ready(self, store: Store) -> bool:
        """Whether the study has a pool; the remains of a killed build are not one."""
        return has_pool(store.folder)

    def find(self, work: Work, settings: PoolSettings) -> Job[PoolBuilt]:
        built = yield from build_pool(work.dataset, work.store.folder, settings)
        work.store.save_settings({"pool_settings": plain(settings)})
        return built


def build_pool(dataset: Dataset, folder: Path, settings: PoolSettings | None = None) -> Job[PoolBuilt]:
    """Divide all training images into anchor segments and keep them as a pool in a study's folder; a long job.

    HistomixError is raised if no image has a segment, a scale is missing, or weights are unusable.
    """
    settings = settings or PoolSettings()
    entries = sorted(whole_images(dataset, kinds=True), key=lambda entry: dataset.kinds.index(entry.kind))
    if not entries:
        raise HistomixError(f"{dataset.name} has no real training image; a pool is made of these only.")
    prompter = open_prompter(settings.prompter, settings.weights or None, settings.device)
    encoder = open_encoder(settings.encoder, whole=True)
    problems, counts = list(dataset.problems), Counter[str]()
    with PoolWriter(folder, pool_signature(prompter.name, encoder.name, settings)) as writer:
        for done, entry in enumerate(entries):
            yield Event("Finding segments", done, len(entries))
            try:
                image = dataset.read(entry)
                finding = find_segments(image.pixels, prompter, settings.anchors)
                found = yield from within(finding, "Finding segments", done, len(entries))
                segments = [one for one in found if settings.border or not one.at_border(image.pixels.shape)]
                if not segments:
                    raise HistomixError(
                        f"All {len(found)} segments reach the border of the image; allow segments at the border."
                    )
            except HistomixError as error:
                problems.append(Problem(entry.source.image, str(error)))
                yield Event("Finding segments", done, len(entries), message=f"{entry.source.image}: {error}")
                continue
            add_segments(writer, image, segments, encoder)
            counts[image.kind] += len(segments)
        if writer.count == 0:
            raise HistomixError(
                f"No training image of {dataset.name} has a segment (tried: {len(entries)}): {problems[-1].sentence}"
            )
        yield from writer.finish(encoder.dim, settings.components)
    few = (kind for kind in dict.fromkeys(entry.kind for entry in entries) if counts[kind] < 2)
    warnings = tuple(f"{kind} has too few segments to be mixed ({counts[kind]}); add images of it." for kind in few)
    return PoolBuilt(len(writer.images), writer.count, tuple(problems), warnings)


def pool_signature(prompter: str, encoder: str, settings: PoolSettings) -> dict[str, Any]:
    """What two pools must share to be compared: names of prompter and encoder, and the settings of anchors."""
    anchors = asdict(settings.anchors)
    return {"prompter": prompter, "encoder": encoder, "components": settings.components, "anchors": anchors}


def add_segments(writer: PoolWriter, image: LabeledImage, segments: Sequence[Segment], encoder: Any) -> None:
    """Encode the segments of an image and write them to a pool."""
    crops = segment_crops(image.pixels, segments)
    thumbnails = [segment_thumbnail(image.pixels, segment, THUMBNAIL) for segment in segments]
    about = PoolImage(image.source, image.kind, image.pixels.shape[:2], image.mpp, pixels_sha256(image.pixels))
    writer.add(about, segments, encoder(crops), thumbnails)


def correct_pool(folder: Path, image: LabeledImage, segments: Sequence[Segment], encoder: str = "texture") -> Job[int]:
    """Add the segments of an image that a person drew or corrected to the pool of a study; a long job.

    What the pool holds of that image already stays; drop it with ``study.curation``. Returns the number of the first
    new segment; raises HistomixError if the pool was made with another encoder, or the disk is full.
    """
    yield Event("Adding segments to the pool")
    pool = SegmentPool(folder)
    opened = open_encoder(encoder, whole=True)
    signature = {**pool.signature, "encoder": opened.name}
    with PoolWriter(folder, signature) as writer:
        add_segments(writer, image, segments, opened)
        yield from writer.finish(opened.dim, int(pool.signature["components"]))
    return len(pool)


def read_image(dataset: Dataset, pool: SegmentPool, name: str) -> LabeledImage:
    """A training image that the pool was made of; raises HistomixError if it is of another split by now, or changed."""
    check_training(dataset, [name], "give it back to that split, or build the pool again in a new study")
    if all(name != entry.source.image for entry in whole_images(dataset, kinds=True)):
        raise HistomixError(f"The image {name} is synthetic or has no class by now; mend its row in images.csv.")
    image = dataset.read(name)
    if all(known.sha256 != pixels_sha256(image.pixels) for known in pool.images if known.source.image == name):
        raise HistomixError(
            f"The image {name} is not the one that the pool was made of: its pixels have changed; put it back."
        )
    return image
