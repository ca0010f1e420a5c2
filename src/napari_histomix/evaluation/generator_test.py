"""The generator test: whether pairs match, look real, repeat no training image, and are laid out as real ones are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset
from napari_histomix.evaluation.blending import UNLISTED
from napari_histomix.evaluation.figures import Counts, Estimate, auc, clustered
from napari_histomix.evaluation.generator_windows import (
    RealImages,
    Window,
    colored,
    mean_colors,
    nucleus_places,
    real_images,
)
from napari_histomix.evaluation.likeness import (
    density_coverage,
    frechet_distance,
    kernel_distance,
    picture_features,
    stain_distances,
    standardized,
)
from napari_histomix.evaluation.metrics import Overlaps
from napari_histomix.evaluation.nearest_patch import SPAN_UM, TrainingPatches
from napari_histomix.features import Encoder, open_encoder
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.layouts import LayoutSettings, Recombiner, layout_statistics
from napari_histomix.records import Event, HistomixError, Job, relayed
from napari_histomix.sampling import item_seed
from napari_histomix.settings import Device, Option, Seed, check_settings
from napari_histomix.stains import stain_of

if TYPE_CHECKING:
    from napari_histomix.generation.models import GeneratorModel

T = TypeVar("T")
U8 = NDArray[np.uint8]
Models = Mapping[str, "GeneratorModel"]

REAL, IMAGE, PIX2PIX, EDGES, NONE = "real images", "image model", "pix2pix", "pix2pix with edges", "none"
HELD, RECOMBINED, DRAWN = "held-out maps", "recombined", "structure model"
TRAINING = "real training images"

FEWEST_IMAGES = 4
"""Images below which there is no interval; below ten it is too narrow, which a note says."""
NUCLEI = 4
"""Nuclei of a picture whose nearest training patches are looked for."""
NOT_LEARNED = (
    "The generators learned from none of these images; name those they did learn from to see what is repeated."
)
BAR = 0.85
"""Share of the ceiling's PQ that pairs must reach."""


@dataclass(frozen=True, kw_only=True)
class GeneratorTestSettings:
    """How generators are tested."""

    count: Annotated[
        int, Option("Pairs that each generator makes, and real windows beside them.", low=4, high=4096)
    ] = 256
    side: Annotated[int, Option("Height and width of a pair.", low=32, high=2048, unit="px")] = 256
    preset: Annotated[
        str,
        Option(
            "How the image model paints.",
            choices={"fast": "Fast", "standard": "Standard", "quality": "Quality", "paper": "As in the paper"},
        ),
    ] = "standard"
    encoders: Annotated[
        tuple[str, ...], Option("What pictures are compared by: texture, timm:NAME, timm:NAME@FILE or ctranspath:FILE.")
    ] = ("texture",)
    device: Device = "auto"
    seed: Seed = 0


class Pairs(NamedTuple):
    """Pictures (S, S, 3) of a generator with their layouts, and the seconds that it took for each."""

    layouts: Sequence[Layout]
    pictures: Sequence[U8]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Match:
    """How well labels match what a segmenter finds: mean PQ, and its ratio to that of real images.

    ``by_layouts`` has the ratio by where the layouts come from.
    """

    pq: Estimate
    ratio: Estimate
    by_layouts: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Likeness:
    """How far features of pictures are from those of held-out real ones; see ``likeness``."""

    frechet: float
    kid: float
    density: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Nearest:
    """Distances of nuclei to their nearest training patch: median and 5th percentile.

    ``nearer`` is the share of pairs of such a nucleus and one of held-out images in which it is nearer to a training
    patch; 0.5 where they are alike.
    """

    median: float
    lowest: float
    nearer: Estimate


@dataclass(frozen=True, eq=False)
class GeneratorReport:
    """What a generator test found.

    Parameters
    ----------
    settings : GeneratorTestSettings
    mpp : float
        Micrometers per pixel of all pictures.
    models : mapping
        Facts of each model by its kind.
    held : tuple of str
        Names of the held-out images.
    real : Pairs
        Windows of the held-out images.
    training : Pairs
        Windows of training images, which ``EDGES`` repaints.
    pairs : mapping of str to Pairs
        By generator.
    origins : tuple of str
        Where the layouts of ``pairs`` come from, in their order; those of ``EDGES`` are all of training images.
    matches : mapping of str to Match
        By generator; ``REAL`` is the ceiling.
    floor : Estimate
        Mean PQ of real images with the labels of others.
    likeness : mapping
        By encoder, then by generator or ``TRAINING``.
    stains : mapping of str to (mean, spread)
        Distances of optical density from held-out images, by generator or ``TRAINING``.
    nearest : mapping of str to Nearest
        By generator, or ``REAL``; empty where the models learned from none of the images at hand.
    layouts : mapping
        Kolmogorov–Smirnov distances from held-out layouts, by where layouts come from, then by what is compared.
    notes : tuple of str
        What a person should know.
    """

    settings: GeneratorTestSettings
    mpp: float
    models: Mapping[str, Mapping[str, Any]]
    held: tuple[str, ...]
    real: Pairs
    training: Pairs
    pairs: Mapping[str, Pairs]
    origins: tuple[str, ...]
    matches: Mapping[str, Match]
    floor: Estimate
    likeness: Mapping[str, Mapping[str, Likeness]]
    stains: Mapping[str, tuple[float, float]]
    nearest: Mapping[str, Nearest]
    layouts: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...]


def generator_test(
    dataset: Dataset,
    models: Models,
    settings: GeneratorTestSettings = GeneratorTestSettings(),
    learned: Dataset | None = None,
) -> Job[GeneratorReport]:
    """Test generators on the held-out images of a dataset; a long job (see ``records.Job``).

    Parameters
    ----------
    dataset : Dataset
        Its images for validation and test are held out; stains, recombined layouts and the colors of the baseline
        come from its training images.
    models : mapping of str to GeneratorModel
        By kind: a ``segmenter``, and an ``image`` model, a ``pix2pix`` or both; a ``structure`` model where there is
        one.
    settings : GeneratorTestSettings
    learned : Dataset, optional
        What the generators learned from, where it is another dataset: its training images are searched for what they
        repeat.

    Raises
    ------
    HistomixError
        If a model is missing or learned from held-out images, there are no held-out or no training images with nuclei
        that are large enough, or an encoder or a device is not there.
    """
    settings = check_settings(settings)
    _check_models(models)
    encoders = [open_encoder(spec, whole=True) for spec in settings.encoders]
    test = _Test(models, settings)
    searched = yield from test.passed(_learned_from(dataset, models, learned))
    mpp = (models["image"] if "image" in models else models["pix2pix"]).mpp
    held, training = yield from test.passed(_images(dataset, mpp, settings))
    held_windows = held.windows(settings.count, settings.side, np.random.default_rng([settings.seed, 1]))
    windows = training.windows(settings.count, settings.side, np.random.default_rng([settings.seed, 2]))

    layouts = {HELD: [window.layout for window in held_windows]}
    layouts |= yield from test.made_layouts(training)
    origins = tuple(list(layouts)[number % len(layouts)] for number in range(settings.count))
    chosen = [layouts[origin][number] for number, origin in enumerate(origins)]
    pairs = yield from test.painted(chosen, windows)
    real = Pairs(layouts[HELD], [window.pixels for window in held_windows])
    trained = Pairs([window.layout for window in windows], [window.pixels for window in windows])
    matches, floor = yield from test.matched(real, pairs, origins)
    pictures = {TRAINING: trained.pictures} | {name: made.pictures for name, made in pairs.items()}
    likeness = {}
    for encoder in encoders:
        likeness[encoder.name] = yield from _likeness(pictures, real.pictures, mpp, encoder)
    stains = {name: stain_distances(shown, real.pictures) for name, shown in pictures.items()}
    nearest = (yield from test.passed(_nearest(searched, real, pairs, settings.seed))) if searched else {}
    distances = _layout_distances(layouts | {TRAINING: trained.layouts}, models.get("structure"))
    if not searched:
        test.note(NOT_LEARNED)
    names = tuple(sorted({layout.source for layout in layouts[HELD]}))
    if len(names) < 10:
        test.note(f"Intervals rest on {len(names)} held-out images, and are too narrow with fewer than ten.")
    facts = {kind: model.facts for kind, model in models.items()}
    return GeneratorReport(
        settings, mpp, facts, names, real, trained, pairs, origins, matches, floor, likeness, stains, nearest,
        distances, tuple(test.notes),
    )  # fmt: skip


def _check_models(models: Models) -> None:
    if "segmenter" not in models:
        raise HistomixError("There is no segmenter to find nuclei with; name one that was trained on real images.")
    if "image" not in models and "pix2pix" not in models:
        raise HistomixError("There is no generator to test; name an image model, a pix2pix, or both.")


def _learned_from(dataset: Dataset, models: Models, learned: Dataset | None) -> Job[Dataset | None]:
    """The dataset whose training images the generators may repeat, if any; refuses models that know held-out images."""
    from napari_histomix.methods.generating import learned_from

    known = False
    for kind, model in models.items():
        names = yield from learned_from(dataset, model)
        known |= bool(names) and kind in ("image", "pix2pix")
        if not model.card.get("training_pixels"):
            yield Event("Reading images", message=f"{model.name}: {UNLISTED}")
    return learned or (dataset if known else None)


def _images(dataset: Dataset, mpp: float, settings: GeneratorTestSettings) -> Job[tuple[RealImages, RealImages]]:
    entries = [entry for entry in dataset.entries if entry.source.split in ("val", "test")]
    rng, most = np.random.default_rng([settings.seed, 0]), settings.count
    held = yield from real_images(dataset, entries, mpp, most, rng, "Reading held-out images")
    training = yield from real_images(dataset, dataset.training, mpp, most, rng, "Reading training images")
    for images, what in ((held, "held-out"), (training, "training")):
        if not images.images:
            raise HistomixError(
                f"{dataset.name} has no {what} images with labeled nuclei; name its splits, as 'histomix split' makes."
            )
    return held, training


class _Test:
    """A test as it runs: models, settings, and what there is to tell."""

    def __init__(self, models: Models, settings: GeneratorTestSettings) -> None:
        self.models, self.settings = models, settings
        self.notes: dict[str, None] = {}

    def note(self, sentence: str) -> None:
        self.notes.setdefault(sentence)

    def passed(self, job: Job[T], phase: str = "", done: int = 0, total: int = 0) -> Job[T]:
        """A job whose messages are kept and passed on once, under a phase of this test if one is given."""

        def change(event: Event) -> Event:
            message = event.message if event.message and event.message not in self.notes else None
            if message:
                self.note(message)
            event = replace(event, message=message, phase=phase or event.phase)
            return replace(event, done=done, total=total) if total else event

        return relayed(job, change)

    def seeds(self, stream: int) -> list[int]:
        return [item_seed(self.settings.seed, stream * self.settings.count + n) for n in range(self.settings.count)]

    def made_layouts(self, training: RealImages) -> Job[dict[str, list[Layout]]]:
        """As many layouts by recombination, and by the structure model where there is one."""
        side, count = self.settings.side, self.settings.count
        recombiner, made = Recombiner(training.images, training.classes), []
        for number, seed in enumerate(self.seeds(1)):
            yield Event("Recombining layouts", number, count)
            made.append(recombiner.layout(LayoutSettings(side=side), seed))
        layouts = {RECOMBINED: made}
        if (model := self.models.get("structure")) is not None:
            from napari_histomix.generation.edges import resized_layout
            from napari_histomix.generation.models import class_of
            from napari_histomix.generation.structure_model import sample

            mpp = training.images[0].mpp
            own = max(32, round(side * mpp / model.mpp))
            drawn = yield from self.passed(sample(count, own, model, self.seeds(2), device=self.settings.device))
            # In the dataset's own words.
            names = {class_of(known.name, model.classes): known.name for known in reversed(training.classes)}
            layouts[DRAWN] = [
                resized_layout(
                    replace(each, classes={number: names.get(name, name) for number, name in each.classes.items()}), mpp
                )
                for each in drawn
            ]
        return layouts

    def painted(self, layouts: Sequence[Layout], windows: Sequence[Window]) -> Job[dict[str, Pairs]]:
        """The pairs of every generator; each picture follows the stain of a training image."""
        device, seeds = self.settings.device, self.seeds(3)
        stains = [stain_of(window.pixels) for window in windows]
        jobs: dict[str, Callable[[], Job[list[U8]]]] = {}
        if (model := self.models.get("image")) is not None:
            from napari_histomix.generation import image_model

            preset = image_model.PRESETS[self.settings.preset]
            jobs[IMAGE] = lambda: image_model.paint(layouts, model, seeds, preset, stains=stains, device=device)
        own = [window.layout for window in windows]
        if (other := self.models.get("pix2pix")) is not None:
            from napari_histomix.generation.pix2pix import render

            references = [window.pixels for window in windows]
            jobs[PIX2PIX] = lambda: render(layouts, other, stains=stains, seeds=seeds, device=device)
            jobs[EDGES] = lambda: render(own, other, references=references, seeds=seeds, device=device)
        pairs = {}
        for name, job in jobs.items():
            began = time.perf_counter()
            pictures = yield from self.passed(job(), f"Painting: {name}")
            seconds = (time.perf_counter() - began) / len(pictures)
            pairs[name] = Pairs(own if name == EDGES else layouts, pictures, seconds)
        colors = mean_colors(windows)
        pairs[NONE] = Pairs(layouts, [colored(layout, colors) for layout in layouts])
        return pairs

    def matched(
        self, real: Pairs, pairs: Mapping[str, Pairs], origins: Sequence[str]
    ) -> Job[tuple[dict[str, Match], Estimate]]:
        """How well labels match what the segmenter finds, by generator; and how well those of other images do."""
        found = yield from self._segmented(REAL, real)
        ceiling = _Scores.of(real.layouts, found)
        # Windows come by turns from all images, so that the next one is of another image.
        shuffled = [*real.layouts[1:], real.layouts[0]]
        seed = self.settings.seed
        floor = _mean(_Scores.of(shuffled, found), seed)
        matches = {REAL: Match(_mean(ceiling, seed), Estimate(1.0, None, None, len(found)))}
        for name, made in pairs.items():
            scores = _Scores.of(made.layouts, (yield from self._segmented(name, made)))
            kinds: dict[str, Estimate] = {}
            if name != EDGES:
                for origin in dict.fromkeys(origins):
                    places = [place for place, each in enumerate(origins) if each == origin]
                    kinds[origin] = _ratio(scores.at(places), ceiling, seed)
            matches[name] = Match(_mean(scores, seed), _ratio(scores, ceiling, seed), kinds)
        return matches, floor

    def _segmented(self, name: str, pairs: Pairs) -> Job[list[NDArray[np.int32]]]:
        from napari_histomix.generation.segmenting import segment

        model, total = self.models["segmenter"], len(pairs.pictures)
        found = []
        for number, (layout, pixels) in enumerate(zip(pairs.layouts, pairs.pictures, strict=True)):
            job = segment(pixels, layout.mpp, model, self.settings.device)
            segmentation = yield from self.passed(job, f"Finding nuclei: {name}", number, total)
            found.append(segmentation.instances)
        return found


class _Scores(NamedTuple):
    """PQ of pairs, NaN without any nucleus, and the names of the images that their layouts come from."""

    pq: NDArray[np.float64]
    images: list[str]

    @classmethod
    def of(cls, layouts: Sequence[Layout], found: Sequence[NDArray[np.int32]]) -> _Scores:
        scores = [Overlaps.of(instances, layout.instances).pq for instances, layout in zip(found, layouts, strict=True)]
        # A layout that comes from no image is independent of all others.
        return cls(np.array(scores), [layout.source or f" {number}" for number, layout in enumerate(layouts)])

    def at(self, places: Sequence[int]) -> _Scores:
        return _Scores(self.pq[list(places)], [self.images[place] for place in places])

    def known(self) -> _Scores:
        return self.at(np.flatnonzero(np.isfinite(self.pq)).tolist())


def _mean(scores: _Scores, seed: int) -> Estimate:
    known = scores.known()
    values = np.stack([known.pq, np.ones(len(known.pq))], axis=1)
    return clustered(values, known.images, _quotient, seed, 1, FEWEST_IMAGES)


def _ratio(scores: _Scores, ceiling: _Scores, seed: int) -> Estimate:
    """Mean over mean, with an interval that resamples the images of both sides together."""
    parts = [scores.known(), ceiling.known()]
    values = np.zeros((sum(len(part.pq) for part in parts), 4))
    values[: len(parts[0].pq), 0], values[: len(parts[0].pq), 1] = parts[0].pq, 1
    values[len(parts[0].pq) :, 2], values[len(parts[0].pq) :, 3] = parts[1].pq, 1
    names = [*parts[0].images, *parts[1].images]

    def ratio(sums: Counts) -> Counts:
        return _quotient(np.stack([_quotient(sums[..., :2]), _quotient(sums[..., 2:])], axis=-1))

    return clustered(values, names, ratio, seed, 1, FEWEST_IMAGES)


def _quotient(sums: Counts) -> Counts:
    """The first of two sums by the second; NaN where that is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan))


def _likeness(
    pictures: Mapping[str, Sequence[U8]], real: Sequence[U8], mpp: float, encoder: Encoder
) -> Job[dict[str, Likeness]]:
    phase = f"Comparing pictures: {encoder.name.partition('@')[0]}"
    features = {}
    for number, (name, shown) in enumerate({REAL: real, **pictures}.items()):
        yield Event(phase, number, len(pictures) + 1)
        features[name] = picture_features(shown, mpp, encoder)
    all_real = np.concatenate([features[REAL], features[TRAINING]])
    reference = standardized(features.pop(REAL), all_real)
    likeness = {}
    for name, raw in features.items():
        own = standardized(raw, all_real)
        distances = frechet_distance(own, reference), kernel_distance(own, reference)
        likeness[name] = Likeness(*distances, *density_coverage(own, reference))
    return likeness


def _nearest(searched: Dataset, real: Pairs, pairs: Mapping[str, Pairs], seed: int) -> Job[dict[str, Nearest]]:
    patches = yield from TrainingPatches.build(searched)
    distances: dict[str, NDArray[np.float64]] = {}
    images: dict[str, list[str]] = {}
    for name, made in {REAL: real, **pairs}.items():
        rng, parts, images[name] = np.random.default_rng([seed, 4]), [], []
        for number, (layout, pixels) in enumerate(zip(made.layouts, made.pictures, strict=True)):
            yield Event(f"Looking for training patches: {name}", number, len(made.pictures))
            places = nucleus_places(layout, NUCLEI, SPAN_UM, rng)
            parts.append(patches.distances(pixels, layout.mpp, places))
            images[name] += [layout.source or f" {number}"] * len(places)
        distances[name] = np.concatenate(parts)
    nearest = {}
    for name, own in distances.items():
        both = np.concatenate([own, distances[REAL]])
        generated = np.arange(len(both)) < len(own)
        nearer = auc(-both, generated, [*images[name], *images[REAL]])
        nearest[name] = Nearest(float(np.median(own)), float(np.quantile(own, 0.05)), nearer)
    return nearest


def _layout_distances(
    layouts: Mapping[str, Sequence[Layout]], structure: GeneratorModel | None
) -> dict[str, dict[str, float]]:
    """KS distances from the held-out layouts; where a structure model is there, in its classes."""
    if structure is not None:
        from napari_histomix.generation.models import class_of

        known = structure.classes
        layouts = {
            origin: [
                replace(each, classes={number: class_of(name, known) for number, name in each.classes.items()})
                for each in own
            ]
            for origin, own in layouts.items()
        }
    statistics = {origin: layout_statistics(own) for origin, own in layouts.items()}
    return {origin: own.ks_distances(statistics[HELD]) for origin, own in statistics.items() if origin != HELD}
