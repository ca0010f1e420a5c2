"""The generator test: whether pairs match, look real, repeat no training image, and are laid out as real ones are."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset
from napari_histomix.datasets.entries import Entry
from napari_histomix.datasets.splits import few
from napari_histomix.evaluation.blending import UNLISTED
from napari_histomix.evaluation.figures import Estimate
from napari_histomix.evaluation.generator_figures import (
    DRAWN,
    EDGES,
    HELD,
    IMAGE,
    NONE,
    PIX2PIX,
    REAL,
    RECOMBINED,
    TRAINING,
    Likeness,
    Match,
    Nearest,
    Pairs,
    Scores,
    layout_distances,
    likeness_of,
    mean_score,
    nearest_of,
    outside,
    score_ratio,
)
from napari_histomix.evaluation.generator_windows import RealImages, Window, colored, mean_colors, real_images
from napari_histomix.evaluation.kept_results import KeptResults
from napari_histomix.evaluation.likeness import stain_distances
from napari_histomix.evaluation.nearest_patch import TrainingPatches
from napari_histomix.features import open_encoder
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.layouts import LayoutSettings, Recombiner
from napari_histomix.generation.presets import DEFAULT, PRESETS, TITLES
from napari_histomix.records import Event, HistomixError, Job, instance_ids
from napari_histomix.sampling import item_seed
from napari_histomix.settings import Device, Option, Seed, check_settings, plain
from napari_histomix.stains import stain_of

if TYPE_CHECKING:
    from napari_histomix.generation.models import GeneratorModel

U8 = NDArray[np.uint8]
Models = Mapping[str, "GeneratorModel"]

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
        str, Option("How many steps the image model takes, and how strictly it follows labels.", choices=TITLES)
    ] = DEFAULT
    encoders: Annotated[
        tuple[str, ...], Option("What pictures are compared by: texture, timm:NAME, timm:NAME@FILE or ctranspath:FILE.")
    ] = ("texture",)
    ignore: Annotated[
        tuple[str, ...],
        Option("Classes that stand for unknown nuclei, in upper or lower case.", kind="classes", advanced=True),
    ] = ("ambiguous", "ignore", "unknown")
    device: Device = "auto"
    seed: Seed = 0


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
    *,
    keep: Path | None = None,
    resume: bool = False,
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
    keep : Path, optional
        New folder for what is made, as it is made. It stays when the test ends.
    resume : bool
        Take up the killed test that kept what it made in ``keep``; the report is the one that it would have had.

    Raises
    ------
    HistomixError
        If a model is missing or learned from held-out images, there are no held-out or no training images with nuclei
        that are large enough, an encoder or a device is not there, or ``keep`` holds another test.
    """
    settings = check_settings(settings)
    _check_models(models)
    encoders = [open_encoder(spec, whole=True) for spec in settings.encoders]
    KeptResults.check(keep, resume)
    test = _Test(models, settings)
    searched = yield from test.passed(_learned_from(dataset, models, learned))
    mpp = (models["image"] if "image" in models else models["pix2pix"]).mpp
    held, training = yield from test.passed(_images(dataset, mpp, settings))
    held_windows = held.windows(settings.count, settings.side, np.random.default_rng([settings.seed, 1]))
    windows = training.windows(settings.count, settings.side, np.random.default_rng([settings.seed, 2]))
    patches = (yield from test.passed(TrainingPatches.build(searched))) if searched else None
    if keep is not None:
        test.keep_in(keep, resume, _identity(models, settings, [*held_windows, *windows]))

    layouts = {HELD: [window.layout for window in held_windows]}
    layouts |= yield from test.made_layouts(training)
    origins = tuple(list(layouts)[number % len(layouts)] for number in range(settings.count))
    chosen = [layouts[origin][number] for number, origin in enumerate(origins)]
    pairs = yield from test.painted(chosen, windows)
    real = Pairs(layouts[HELD], [window.pixels for window in held_windows])
    trained = Pairs([window.layout for window in windows], [window.pixels for window in windows])
    unknown = {REAL: [window.ignored for window in held_windows], EDGES: [window.ignored for window in windows]}
    matches, floor = yield from test.matched(real, unknown, pairs, origins)
    pictures = {TRAINING: trained.pictures} | {name: made.pictures for name, made in pairs.items()}
    likeness = {}
    for encoder in encoders:
        likeness[encoder.name] = yield from likeness_of(pictures, real.pictures, mpp, encoder)
    stains = {name: stain_distances(shown, real.pictures) for name, shown in pictures.items()}
    nearest = (yield from nearest_of(patches, real, pairs, settings.seed)) if patches else {}
    distances = layout_distances(layouts | {TRAINING: trained.layouts}, models.get("structure"))
    if not patches:
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
    from napari_histomix.methods.generating import learned_from, pixel_hashes

    known = False
    hashes = yield from pixel_hashes(dataset)
    for kind, model in models.items():
        names = yield from learned_from(dataset, model, hashes)
        known |= bool(names) and kind in ("image", "pix2pix")
        if not model.card.get("training_pixels"):
            yield Event("Reading images", message=f"{model.name}: {UNLISTED}")
    if learned is None:
        return dataset if known else None
    # A held-out image among those that are searched would find itself.
    held = {hashes.get(entry.source.image) for entry in _held_out(dataset)}
    own = yield from pixel_hashes(learned)
    left_out = [entry for entry in learned.training if own.get(entry.source.image, "") in held]
    if left_out:
        shown = few([entry.source.image for entry in left_out])
        yield Event("Reading images", message=f"Not searched, for they are held out: {shown}.")
    return replace(learned, entries=tuple(entry for entry in learned.entries if entry not in left_out))


def _held_out(dataset: Dataset) -> list[Entry]:
    return [entry for entry in dataset.entries if entry.source.split in ("val", "test")]


def _images(dataset: Dataset, mpp: float, settings: GeneratorTestSettings) -> Job[tuple[RealImages, RealImages]]:
    entries = _held_out(dataset)
    rng, most = np.random.default_rng([settings.seed, 0]), settings.count
    held = yield from real_images(dataset, entries, mpp, most, settings.ignore, rng, "Reading held-out images")
    training = yield from real_images(
        dataset, dataset.training, mpp, most, settings.ignore, rng, "Reading training images"
    )
    for images, what in ((held, "held-out"), (training, "training")):
        if not images.images:
            raise HistomixError(
                f"{dataset.name} has no {what} images with labeled nuclei; name its splits, as 'histomix split' makes."
            )
        if small := sum(min(each.shape) < settings.side for each in images.ignored):
            side = f"{settings.side}×{settings.side} pixels at {mpp:g} µm/px"
            yield Event(
                "Reading images", message=f"Left out: {small} {what} of {len(images.images)}, smaller than {side}."
            )
    return held, training


def _identity(models: Models, settings: GeneratorTestSettings, windows: Sequence[Window]) -> dict[str, Any]:
    """What a test begins with, as plain JSON values: it may only be resumed with the same."""
    images = hashlib.sha256()
    for window in windows:
        images.update(window.pixels.tobytes())
        images.update(window.layout.instances.tobytes())
    weights = {kind: model.sha256 for kind, model in models.items()}
    return {"settings": json.loads(json.dumps(plain(settings))), "models": weights, "images": images.hexdigest()}


class _Test(KeptResults):
    """A test as it runs: models, settings, and what is made."""

    def __init__(self, models: Models, settings: GeneratorTestSettings) -> None:
        super().__init__()
        self.models, self.settings = models, settings

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
            layouts[DRAWN] = yield from self._drawn(model, training, recombiner)
        return layouts

    def _drawn(self, model: GeneratorModel, training: RealImages, recombiner: Recombiner) -> Job[list[Layout]]:
        """Layouts by the structure model, at the scale of the images and with the dataset's own words for classes.

        Each is asked for the class shares and the density of a window of training images.
        """
        from napari_histomix.generation.models import class_of
        from napari_histomix.generation.structure_model import density_of, sample

        mpp = training.images[0].mpp
        side = max(32, round(self.settings.side * mpp / model.mpp))
        words = {class_of(known.name, model.classes): known.name for known in reversed(training.classes)}
        # What the model draws without a class has none.
        words[""] = ""
        names = [*model.classes, ""]

        def planes(seed: int) -> Job[NDArray[np.int32]]:
            window = recombiner.window(self.settings.side, seed)
            counts = Counter(known for name in window.classes.values() if (known := class_of(name, model.classes)))
            shares = {name: number / counts.total() for name, number in counts.items()}
            # Nuclei of unknown classes alone are as the network likes; where there are none, none are drawn.
            asked = shares if shares or not window.classes else None
            job = sample(1, side, model, [seed], shares=asked, density=density_of(window), device=self.settings.device)
            (layout,) = yield from job
            kinds = np.zeros(layout.instances.max() + 1, np.int32)
            for number, name in layout.classes.items():
                kinds[number] = names.index(name)
            return np.stack([layout.instances, kinds[layout.instances]])

        drawn = []
        for number, seed in enumerate(self.seeds(2)):
            (instances, kinds), _ = yield from self.made(
                "Drawing layouts", number, self.settings.count, partial(planes, seed)
            )
            classes = {each: names[kinds[instances == each][0]] for each in instance_ids(instances)}
            classes = {each: words.get(name, name) for each, name in classes.items()}
            drawn.append(Layout(instances, classes, model.mpp).at_scale(mpp))
        return drawn

    def painted(self, layouts: Sequence[Layout], windows: Sequence[Window]) -> Job[dict[str, Pairs]]:
        """The pairs of every generator; each picture follows the stain of a training image."""
        device, seeds = self.settings.device, self.seeds(3)
        stains = [stain_of(window.pixels) for window in windows]
        own = [window.layout for window in windows]
        jobs: dict[str, Callable[[slice], Job[list[U8]]]] = {}
        if (model := self.models.get("image")) is not None:
            from napari_histomix.generation import image_model

            preset = PRESETS[self.settings.preset]
            jobs[IMAGE] = lambda at: image_model.paint(
                layouts[at], model, seeds[at], preset, stains=stains[at], device=device
            )
        if (other := self.models.get("pix2pix")) is not None:
            from napari_histomix.generation.pix2pix import render

            references = [window.pixels for window in windows]
            jobs[PIX2PIX] = lambda at: render(layouts[at], other, stains=stains[at], seeds=seeds[at], device=device)
            jobs[EDGES] = lambda at: render(own[at], other, references=references[at], seeds=seeds[at], device=device)
        pairs = {}
        for name, job in jobs.items():

            def picture(number: int, job: Callable[[slice], Job[list[U8]]] = job) -> Job[U8]:
                (made,) = yield from job(slice(number, number + 1))
                return made

            pictures, seconds = [], 0.0
            for number in range(len(layouts)):
                made, took = yield from self.made(
                    f"Painting: {name}", number, self.settings.count, partial(picture, number)
                )
                pictures.append(made)
                seconds += took / len(layouts)
            pairs[name] = Pairs(own if name == EDGES else layouts, pictures, seconds)
        colors = mean_colors(windows)
        pairs[NONE] = Pairs(layouts, [colored(layout, colors) for layout in layouts])
        return pairs

    def matched(
        self,
        real: Pairs,
        unknown: Mapping[str, Sequence[NDArray[np.bool_]]],
        pairs: Mapping[str, Pairs],
        origins: Sequence[str],
    ) -> Job[tuple[dict[str, Match], Estimate]]:
        """How well labels match what the segmenter finds, by generator; and how well those of other images do.

        ``unknown`` are the places, by generator, where nobody knows which nuclei there are.
        """
        found = yield from self._segmented(REAL, real, unknown)
        ceiling = Scores.of(real.layouts, found)
        shuffled = []
        for number, own in enumerate(real.layouts):
            following = [*real.layouts[number + 1 :], *real.layouts[:number]]
            shuffled.append(next((each for each in following if each.source != own.source), following[0]))
        seed = self.settings.seed
        floor = mean_score(Scores.of(shuffled, found), seed)
        matches = {REAL: Match(mean_score(ceiling, seed), Estimate(1.0, None, None, len(found)))}
        for name, made in pairs.items():
            scores = Scores.of(made.layouts, (yield from self._segmented(name, made, unknown)))
            kinds: dict[str, Estimate] = {}
            if name != EDGES:
                for origin in dict.fromkeys(origins):
                    places = [place for place, each in enumerate(origins) if each == origin]
                    kinds[origin] = score_ratio(scores.at(places), ceiling, seed)
            matches[name] = Match(mean_score(scores, seed), score_ratio(scores, ceiling, seed), kinds)
        return matches, floor

    def _segmented(
        self, name: str, pairs: Pairs, unknown: Mapping[str, Sequence[NDArray[np.bool_]]]
    ) -> Job[list[NDArray[np.int32]]]:
        from napari_histomix.generation.segmenting import segment

        def instances(pixels: U8, mpp: float) -> Job[NDArray[np.int32]]:
            segmentation = yield from segment(pixels, mpp, self.models["segmenter"], self.settings.device)
            return segmentation.instances

        found = []
        for number, (layout, pixels) in enumerate(zip(pairs.layouts, pairs.pictures, strict=True)):
            job = partial(instances, pixels, layout.mpp)
            made, _ = yield from self.made(f"Finding nuclei: {name}", number, self.settings.count, job)
            found.append(outside(made, unknown[name][number]) if name in unknown else made)
        return found
