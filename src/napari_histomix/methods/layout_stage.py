"""Layouts: nuclei without pixels, which a person looks at, edits and keeps before a generator paints them."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset, Problem
from napari_histomix.datasets.text_files import read_json, writable
from napari_histomix.datasets.writing import write_text
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.layouts import SMALLEST_SIDE, LayoutSettings, Recombiner
from napari_histomix.methods.base import Stage, Store, Work, whole_images
from napari_histomix.methods.generating import learned_from
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, instance_ids, relayed
from napari_histomix.sampling import item_seed
from napari_histomix.scales import same_scale
from napari_histomix.settings import Device, Option, Seed, plain

FOLDER, INDEX = "layouts", "layouts.json"
"""Where in a study's folder layouts lie, and the file there that lists them: a layout that it does not list is none."""

LARGEST = 2**26
"""Pixels of a layout, and bytes of its file, that are read."""

MAPS_BYTES = 2**28
"""Memory that label maps of training images may fill, while layouts are made of them: 64 maps of 1000²."""

SOURCES = {
    "recombined": "Real labels, with nuclei moved, turned and swapped",
    "real": "Real labels as they are",
    "drawn": "Drawn by a structure network",
}


# A layout as plain JSON values.


def map_text(instances: NDArray[np.int32]) -> dict[str, Any]:
    """An instance map (H, W) as ``{"size": [H, W], "map": "…"}``: its bytes, little end first, packed by zlib."""
    packed = zlib.compress(np.ascontiguousarray(instances, "<i4").tobytes(), 9)
    return {"size": list(instances.shape), "map": base64.b64encode(packed).decode("ascii")}


def map_of(text: Mapping[str, Any]) -> NDArray[np.int32]:
    """The instance map of what ``map_text`` writes."""
    try:
        height, width = (int(side) for side in text["size"])
        packed = base64.b64decode(text["map"], validate=True)
        size = 4 * height * width
        if min(height, width) < 1 or size > 4 * LARGEST:
            raise ValueError
        unpacked = zlib.decompressobj().decompress(packed, size + 1)
        return np.frombuffer(unpacked, "<i4").reshape(height, width).astype(np.int32)
    except (KeyError, TypeError, ValueError, zlib.error):
        raise HistomixError("The label map of a layout is damaged; restore it from a backup.") from None


def layout_picture(
    layout: Layout, colors: Mapping[str, tuple[int, int, int]], side: int | None = None
) -> NDArray[np.uint8]:
    """A picture of a layout, each nucleus in the color of its class with a darker rim, gray where that has none.

    Parameters
    ----------
    layout : Layout
    colors : mapping of str to RGB
        By class name.
    side : int, optional
        Of a thumbnail, which the layout is fitted into; None: in the layout's size.

    Returns
    -------
    (H, W, 3) uint8
    """
    ids = instance_ids(layout.instances)
    palette = np.array(
        [(255, 255, 255), *(colors.get(layout.classes[number], (150, 150, 150)) for number in ids)], np.uint8
    )
    places = np.zeros(max(ids, default=0) + 1, np.int32)
    places[ids] = np.arange(1, len(ids) + 1)
    codes = np.pad(places[layout.instances], 1)
    inside = codes[1:-1, 1:-1]
    neighbors = codes[:-2, 1:-1], codes[2:, 1:-1], codes[1:-1, :-2], codes[1:-1, 2:]
    rim = (inside > 0) & np.logical_or.reduce([inside != other for other in neighbors])
    picture = palette[inside]
    picture[rim] //= 2
    if side is not None:
        height, width = (max(1, round(extent * side / max(layout.shape))) for extent in layout.shape)
        smooth = cv2.INTER_AREA if side < max(layout.shape) else cv2.INTER_NEAREST
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=smooth), np.uint8)
    return picture


# Layouts in a study.


@dataclass(frozen=True, slots=True)
class LayoutFacts:
    """What is known of a layout of a study before its map is read.

    Parameters
    ----------
    shape : (int, int)
    mpp : float
    source : str
        Name of the real image that it came from; empty where it was drawn.
    donors : tuple of str
        Names of further images that nuclei were taken from.
    counts : mapping of str to int
        Number of nuclei by class name, as they are now.
    made : mapping
        How it was made, as plain JSON values: ``layouts_from``, ``seed``, and of a drawn one the network's name,
        SHA-256, and the images it ``learned_from``.
    edited : bool
        Whether a person has edited it.
    """

    shape: tuple[int, int]
    mpp: float
    source: str
    donors: tuple[str, ...]
    counts: Mapping[str, int]
    made: Mapping[str, Any]
    edited: bool = False


class LayoutBook:
    """The layouts that a study keeps, by number from 0; a layout that a person edited keeps its original beside it.

    Parameters
    ----------
    folder : Path
        The study's.

    Raises
    ------
    HistomixError
        If the list of layouts is damaged.

    Examples
    --------
    >>> import tempfile
    >>> book = LayoutBook(Path(tempfile.mkdtemp()))
    >>> book.add([Layout(np.eye(4, dtype=np.int32), {1: "tumor"}, 0.5, "a")], [{"layouts_from": "real", "seed": 0}])
    >>> len(book), dict(book.facts(0).counts), book.read(0).source
    (1, {'tumor': 1}, 'a')
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder) / FOLDER
        self._facts: list[LayoutFacts] = list(self._listed())

    def __len__(self) -> int:
        return len(self._facts)

    def _listed(self) -> Iterator[LayoutFacts]:
        if not (self.folder / INDEX).is_file():
            return
        with self._undamaged():
            for known in read_json(self.folder / INDEX, LARGEST)["layouts"]:
                height, width = (int(side) for side in known["shape"])
                counts = {str(name): int(count) for name, count in known["counts"].items()}
                yield LayoutFacts(
                    (height, width), float(known["mpp"]), str(known["source"]), tuple(map(str, known["donors"])),
                    counts, dict(known["made"]), known["edited"] is True,
                )  # fmt: skip

    def facts(self, number: int) -> LayoutFacts:
        """What is known of a layout before it is read."""
        if not 0 <= number < len(self):
            raise HistomixError(f"There is no layout {number + 1} in {self.folder}; there are {len(self)}.")
        return self._facts[number]

    def read(self, number: int) -> Layout:
        """A layout as it is now; raises HistomixError if its file is missing or damaged."""
        return self._read(number, self.facts(number).edited)

    def original(self, number: int) -> Layout:
        """A layout as it was made, before anybody edited it."""
        return self._read(number, False)

    def edit(self, number: int, layout: Layout) -> None:
        """Keep a layout as a person edited it; the original stays.

        Raises HistomixError if its size or scale is another one, or the disk is full.
        """
        facts = self.facts(number)
        if layout.shape != facts.shape or layout.mpp != facts.mpp:
            (height, width), (rows, cols) = facts.shape, layout.shape
            raise HistomixError(
                f"The layout {number + 1} is {width}×{height} pixels of {facts.mpp:g} µm, what is to take its place "
                f"{cols}×{rows} of {layout.mpp:g} µm; edit the layout itself."
            )
        self._write(number, layout, edited=True)
        self._facts[number] = replace(facts, counts=dict(layout.counts()), edited=True)
        self._write_index()

    def revert(self, number: int) -> None:
        """Take back all that was edited in a layout."""
        if self.facts(number).edited:
            counts = dict(self.original(number).counts())
            self._facts[number] = replace(self._facts[number], counts=counts, edited=False)
            self._write_index()
            self._path(number, True).unlink(missing_ok=True)

    def add(self, layouts: Sequence[Layout], made: Sequence[Mapping[str, Any]]) -> None:
        """Keep further layouts, all or none of them, each with how it was made."""
        self._facts = list(self._listed())
        first = len(self._facts)
        for number, layout in enumerate(layouts, start=first):
            self._write(number, layout, edited=False)
        self._facts += [
            LayoutFacts(layout.shape, layout.mpp, layout.source, layout.donors, dict(layout.counts()), how)
            for layout, how in zip(layouts, made, strict=True)
        ]
        self._write_index()

    def _path(self, number: int, edited: bool) -> Path:
        return self.folder / f"{number + 1:05d}{'.edited' if edited else ''}.json"

    def _read(self, number: int, edited: bool) -> Layout:
        facts = self.facts(number)
        with self._undamaged():
            content = read_json(self._path(number, edited), LARGEST)
            classes = {int(known): str(name) for known, name in content["classes"].items()}
            layout = Layout(map_of(content), classes, facts.mpp, facts.source, facts.donors)
            if layout.shape != facts.shape:
                raise ValueError("its size is another one than listed")
        return layout

    def _write(self, number: int, layout: Layout, edited: bool) -> None:
        present = {str(known): layout.classes[known] for known in instance_ids(layout.instances)}
        self._replace(self._path(number, edited), {**map_text(layout.instances), "classes": present})

    def _write_index(self) -> None:
        listed = [
            {
                "shape": list(facts.shape),
                "mpp": facts.mpp,
                "source": facts.source,
                "donors": list(facts.donors),
                "counts": dict(facts.counts),
                "made": dict(facts.made),
                "edited": facts.edited,
            }
            for facts in self._facts
        ]
        self._replace(self.folder / INDEX, {"layouts": listed})

    def _replace(self, path: Path, content: Any) -> None:
        """Write a file beside its place, then let it take that."""
        with writable(path):
            self.folder.mkdir(exist_ok=True)
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            try:
                write_text(partial, json.dumps(content, ensure_ascii=False) + "\n")
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)

    @contextmanager
    def _undamaged(self) -> Iterator[None]:
        """What goes wrong in reading a layout is one sentence."""
        try:
            yield
        except (AttributeError, LookupError, TypeError, ValueError, HistomixError) as error:
            raise HistomixError(
                f"A layout in {self.folder} cannot be read ({error}); restore that folder from a backup, or delete it "
                "and make layouts again."
            ) from None


# The stage.


@dataclass(frozen=True, kw_only=True)
class LayoutStageSettings(LayoutSettings):
    """How layouts are made."""

    layouts: Annotated[int, Option("Layouts wanted.", low=1, high=100_000)] = 20
    layouts_from: Annotated[str, Option("What layouts are made of.", choices=SOURCES)] = "recombined"
    density: Annotated[
        float | None,
        Option(
            "Nuclei in a square millimeter of a drawn layout.",
            low=0.0,
            high=50_000.0,
            unit="/mm²",
            automatic="as in windows of the training images",
            advanced=True,
        ),
    ] = None
    structure_model: Annotated[
        str,
        Option(
            "The network that draws layouts: its folder.",
            label="Structure network",
            kind="model",
            network="structure",
            automatic="the bundled one",
            advanced=True,
        ),
    ] = ""
    device: Device = "auto"
    seed: Seed = 0


@dataclass(frozen=True, eq=False)
class LayoutsMade:
    """How many layouts were made, and the images left out."""

    layouts: int
    problems: tuple[Problem, ...]


class LayoutStage(Stage):
    """Layouts of the training images' nuclei, or like theirs. To make them again adds further ones."""

    name = "layouts"
    title = "Layouts"
    settings = LayoutStageSettings
    subjects = ("layout",)
    page = "napari_histomix.widgets.layouts_page:LayoutsPage"
    kept_as = "layout_settings"

    def ready(self, store: Store) -> bool:
        """Whether the study lists layouts; what a killed search left behind is not listed."""
        return (store.folder / FOLDER / INDEX).is_file()

    def find(self, work: Work, settings: LayoutStageSettings) -> Job[LayoutsMade]:
        dataset, book = work.dataset, LayoutBook(work.store.folder)
        names = tuple(dataset.class_name(dataset.class_number(name)) for name in settings.raised)
        wanted = replace(settings, raised=names)
        images, problems = yield from _maps(dataset, settings.seed)
        largest = max(min(image.instances.shape) for image in images)
        if largest < SMALLEST_SIDE:
            raise HistomixError(
                f"No training image has {SMALLEST_SIDE} pixels a side; layouts are made of larger ones only."
            )
        if settings.side > largest and settings.layouts_from != "drawn":
            wanted = replace(wanted, side=largest)
            words = f"No training image holds {settings.side}×{settings.side} pixels; layouts are {largest}×{largest}."
            yield Event("Making layouts", message=words)
        seeds = [item_seed(settings.seed, len(book) + number) for number in range(settings.layouts)]
        how: dict[str, Any] = {"layouts_from": settings.layouts_from}
        if settings.layouts_from == "drawn":
            layouts, facts = yield from _drawn(dataset, images, wanted, seeds)
            how |= facts
        else:
            layouts = yield from _recombined(dataset, images, wanted, seeds)
        book.add(layouts, [{**how, "seed": seed} for seed in seeds])
        work.store.save_settings({self.kept_as: plain(settings)})
        return LayoutsMade(len(layouts), tuple(problems))


def _maps(dataset: Dataset, seed: int) -> Job[tuple[list[LabeledImage], list[Problem]]]:
    """Real training images with nuclei, without their pixels: all, or as many drawn at random as fit into memory."""
    entries = [entry for entry in whole_images(dataset) if entry.labels is not None]
    if not entries:
        raise HistomixError(f"{dataset.name} has no real training image with nuclei; layouts are made of these only.")
    problems = list(dataset.problems)
    read: dict[int, LabeledImage] = {}
    room = MAPS_BYTES
    for done, place in enumerate(np.random.default_rng(seed).permutation(len(entries)).tolist()):
        yield Event("Reading labels", done, len(entries))
        try:
            image = dataset.read(entries[place])
        except HistomixError as error:
            problems.append(Problem(entries[place].source.image, str(error)))
            continue
        room -= image.instances.nbytes
        if read and room < 0:
            break
        # Every pixel is the same one.
        read[place] = replace(image, pixels=np.broadcast_to(np.uint8(0), image.pixels.shape))
    if not read:
        raise HistomixError(problems[-1].sentence)
    return [read[place] for place in sorted(read)], problems


def _recombined(
    dataset: Dataset, images: Sequence[LabeledImage], settings: LayoutStageSettings, seeds: Sequence[int]
) -> Job[list[Layout]]:
    recombiner = Recombiner(images, dataset.all_classes)
    if settings.layouts_from == "real":
        settings = replace(settings, raised=(), moved=0.0, turned=0.0, swapped=0.0)
    layouts = []
    for done, seed in enumerate(seeds):
        yield Event("Making layouts", done, len(seeds))
        layouts.append(recombiner.layout(settings, seed))
    return layouts


def _drawn(
    dataset: Dataset, images: Sequence[LabeledImage], settings: LayoutStageSettings, seeds: Sequence[int]
) -> Job[tuple[list[Layout], dict[str, Any]]]:
    """Layouts that a structure network draws, in the scale and with the classes of the dataset, and its facts.

    Each takes its class shares and density from a random window of the images, where nothing else is asked for.
    """
    from napari_histomix.devices import choose_device
    from napari_histomix.generation.models import class_of, load_generator
    from napari_histomix.generation.structure_model import density_of, sample

    choose_device(settings.device)
    model = load_generator(settings.structure_model, "structure")
    seen = yield from learned_from(dataset, model)
    ((mpp, _),) = Counter(image.mpp for image in images).most_common(1)
    if same_scale(mpp, model.mpp):
        mpp = model.mpp
    drawn: list[Layout] = []
    recombiner = Recombiner(images, dataset.all_classes)
    side = min(settings.side, max(min(image.instances.shape) for image in images))

    def counted(layout: Layout) -> Counter[str]:
        return Counter(name for each in layout.classes.values() if (name := class_of(each, model.classes)))

    # Of a window without nuclei there are no shares.
    all_counts = sum((counted(Layout.of(image, dataset.all_classes)) for image in images), Counter[str]())

    def of_all(event: Event) -> Event:
        return replace(event, done=len(drawn) * event.total + event.done, total=len(seeds) * event.total)

    for seed in seeds:
        window = recombiner.window(side, seed)
        job = sample(
            1,
            round(settings.side * mpp / model.mpp),
            model,
            [seed],
            shares=_shares(counted(window) or all_counts, settings, model.classes, model.name),
            density=density_of(window) if settings.density is None else settings.density,
            device=settings.device,
        )
        drawn += yield from relayed(job, of_all)
    # Of several classes that the network takes for one, the class of its own name is meant, or else the first.
    named: dict[str, str] = {}
    for name in (known.name for known in dataset.classes):
        known = class_of(name, model.classes)
        if known and (known not in named or known.casefold() == name.casefold()):
            named[known] = name
    layouts = []
    for layout in drawn:
        classes = {number: named.get(name, dataset.unclassified.name) for number, name in layout.classes.items()}
        layouts.append(replace(layout, classes=classes).at_scale(mpp))
    return layouts, {**model.facts, "learned_from": list(seen)}


def _shares(
    counts: Counter[str], settings: LayoutStageSettings, classes: Sequence[str], network: str
) -> dict[str, float] | None:
    """Shares of the network's classes: those of the counted nuclei, the raised ones at least as asked for."""
    from napari_histomix.generation.models import class_of

    raised = {name: class_of(name, classes) for name in settings.raised}
    if unknown := [name for name, known in raised.items() if not known]:
        raise HistomixError(
            f"{network} draws no '{unknown[0]}', only {', '.join(classes)}; recombine real labels instead."
        )
    total = counts.total()
    shares = {name: counts[name] / total for name in classes} if total else {}
    wanted = set(raised.values())
    have = sum(shares.get(name, 0.0) for name in wanted)
    if wanted and have < settings.share:
        rest = (1 - settings.share) / (1 - have)
        shares = {name: share * rest for name, share in shares.items()}
        for name in wanted:
            shares[name] = settings.share * (
                counts[name] / sum(counts[known] for known in wanted) if have else 1 / len(wanted)
            )
    return shares or None
