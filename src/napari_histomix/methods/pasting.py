"""What methods share that lay a donor into a real image without a model: places, what gives way, and the record.

Copy-and-paste, GradMix and CutMix differ in ``Pasting.lay`` alone, and in which donors they place where.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing import planning
from napari_histomix.compositing.composing import cut, window_around
from napari_histomix.compositing.donors import Mask, cut_donor, dilate
from napari_histomix.compositing.indexed_image import ImageCache, IndexedImage
from napari_histomix.compositing.placing import CHANGED, IMAGE_FULL, USED_UP, check_candidates, place_in_donor
from napari_histomix.compositing.planning import GUARD
from napari_histomix.compositing.stain import UNMATCHED
from napari_histomix.methods.base import Ingredients, Method, Needs, Placing, Plan, Work
from napari_histomix.methods.candidate_stage import CANDIDATES
from napari_histomix.methods.nucleimix import KeptOnly
from napari_histomix.methods.record import Record, plain_facts
from napari_histomix.records import (
    DONOR,
    INPAINTED,
    KEEP,
    REAL,
    Candidate,
    Change,
    Event,
    HistomixError,
    Job,
    Location,
    SourceRef,
)
from napari_histomix.sampling import item_seed, tissue
from napari_histomix.settings import Option, Seed

SYNTHETIC_DONOR = "its donor is synthetic"

TRIES = 200
"""Places drawn in an image before it counts as one without tissue."""

VISIBLE = 0.1
"""Share of a nucleus below which what is left of it under a donor counts as nothing."""


@dataclass(frozen=True, kw_only=True)
class CountSettings:
    """How much is made."""

    count: Annotated[
        int, Option("Synthetic nuclei wanted, or images where images have a class.", low=1, high=10**6, flags=("-k",))
    ] = 20
    per_image: Annotated[
        int | None,
        Option(
            "How often one image may be a target.",
            label="Most per image",
            low=1,
            high=10**6,
            automatic="as many as fit",
        ),
    ] = None
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class DonorSettings(CountSettings):
    """How much is made, and how often each donor may serve."""

    uses: Annotated[int, Option("How often one donor may be used.", label="Uses of a donor", low=1, high=10**6)] = 10


@dataclass(frozen=True, kw_only=True)
class CandidateDonorSettings(DonorSettings):
    """How the donors of candidates are used."""

    kept_only: KeptOnly = False


S = TypeVar("S", bound=DonorSettings)


@dataclass(frozen=True)
class Site:
    """A donor and its place, before any pixel of it.

    The id is the rank of the candidate whose donor or place it is, and ``target`` the nucleus or free place that the
    donor is centered on. Everything random in it follows from the seed; ``instance`` is the first id in the target
    image that is free for it, ``placed_by`` who placed the candidate by hand (``Candidate``).
    """

    id: int
    target: Location
    donor: Location
    seed: int
    instance: int = 0
    placed_by: str | None = None

    @property
    def image(self) -> str:
        return self.target.image


Check = Callable[[Site, IndexedImage, Change], str]
"""Says why a change should not be made though it could; empty where nothing speaks against it."""


class Pasting(Method[S, Site], Placing, Generic[S]):
    """A method that lays one donor at a time into a real image, in place."""

    needs = Needs(instances=True)

    @abstractmethod
    def sites(self, work: Work, settings: S, images: ImageCache) -> Job[Iterable[Site]]:
        """Donors and places in the order they are tried; places may be drawn as they are asked for."""

    @abstractmethod
    def lay(self, site: Site, target: IndexedImage, giver: IndexedImage, settings: S) -> Change | str:
        """The change (see ``in_place``), or why the donor cannot lie there."""

    def check(self, settings: S) -> Check | None:
        """What else may speak against a change that is planned; None: nothing."""
        return None

    def plan(self, work: Work, settings: S) -> Job[Plan[Site]]:
        """Take sites in their order, as long as nothing forbids them and some are wanted."""
        check = self.check(settings)
        images = ImageCache(work.dataset.read)
        before = [change for change in work.before() if change.in_place]
        taken = Taken(before)
        uses = Counter((donor.image, donor.item) for change in before if (donor := change.donor))
        filled = Counter(change.image for change in before)
        refused: dict[int, str] = {}
        items: list[Site] = []
        for site in (yield from self.sites(work, settings, images)):
            if len(items) == settings.count:
                break
            yield Event("Planning placements", len(items), settings.count)
            key = site.donor.image, site.donor.instance
            target, giver = images.get(site.image), images.get(site.donor.image)
            if target is None or giver is None:
                continue
            site = replace(site, instance=taken.free_id(target))
            laid: Change | str
            if uses[key] >= settings.uses:
                laid = USED_UP
            elif settings.per_image is not None and filled[site.image] >= settings.per_image:
                laid = IMAGE_FULL
            else:
                laid = self._checked(site, target, giver, settings)
                if isinstance(laid, Change) and taken.touches(target, laid):
                    laid = planning.TOO_CLOSE
                elif isinstance(laid, Change) and check is not None:
                    laid = check(site, target, laid) or laid
            if isinstance(laid, str):
                refused[site.id] = laid
                continue
            taken.add(target, laid)
            uses[key] += 1
            filled[site.image] += 1
            items.append(site)
        outcomes = refused | {item.id: "" for item in items} if self.stage is CANDIDATES else {}
        return Plan(items, settings.count, Counter(refused.values()), tuple(images.problems.values()), outcomes)

    def make(self, work: Work, items: Sequence[Site], settings: S) -> Job[None]:
        """Lay each donor; the images are gone through one after the other."""
        images = ImageCache(work.dataset.read)
        for done, site in enumerate(sorted(items, key=lambda site: (site.image, site.id))):
            laid = self._made(work, site, images, settings)
            if isinstance(laid, str):
                raise HistomixError(f"{site.image}: a planned nucleus cannot be placed any more: {laid}.")
            yield Event("Placing nuclei", done, len(items), preview=laid.pixels, made=(laid,))

    def place(self, work: Work, sites: Sequence[Candidate], settings: S) -> Job[list[Change | str]]:
        check_candidates(work.dataset, sites)
        images = ImageCache(work.dataset.read)
        taken = Taken(change for change in work.before() if change.in_place)
        placed: list[Change | str] = []
        for number, candidate in enumerate(sites):
            yield Event("Placing nuclei", number, len(sites))
            target = images.get(candidate.target.image)
            if target is None:
                placed.append(images.problems[candidate.target.image].sentence)
                continue
            seed = item_seed(settings.seed, candidate.rank)
            free = taken.free_id(target)
            site = Site(candidate.rank, candidate.target, candidate.donor, seed, free, candidate.placed_by)
            placed.append(self._made(work, site, images, settings))
        return placed

    def recall(self, record: Record, ingredients: Ingredients) -> Site:
        target, donor = (record.location(role, ingredients.dataset) for role in ("target", "donor"))
        made = record.provenance
        return Site(made["rank"], target, donor, record.seed, min(record.added), made.get("placed_by"))

    def trace(self, record: Record, row: int, col: int, painted: bool) -> Mapping[str, Any]:
        """A donor's pixel: its own place in the donor's image, in fractions where it was resampled."""
        if painted:
            return {}
        donor, (y, x) = record.source("donor"), place_in_donor(record.provenance, row, col)
        stain = record.provenance["stain"]
        return {"image": donor["image"], "x": x, "y": y, "donor_instance": donor["item"], "stain": stain}

    def kept_candidates(self, work: Work, kept_only: bool = False) -> list[Candidate]:
        """Candidates of the study, by rank, that may be used and that this method has not placed before.

        ``kept_only``: those alone that somebody kept; otherwise all that nobody dropped.
        """
        used = self.used_ranks(work)
        return [candidate for candidate in CANDIDATES.usable(work, kept_only) if candidate.rank not in used]

    def used_ranks(self, work: Work) -> set[int]:
        """Ranks of what this method has placed in the study before."""
        own = (change for change in work.before() if change.method == self.name and change.in_place)
        # What a person drew is of no candidate.
        return {change.provenance["rank"] for change in own if "rank" in change.provenance}

    def at_random(
        self, donors: Iterable[tuple[int, Location]], work: Work, settings: S, images: ImageCache
    ) -> Iterator[Site]:
        """Numbered donors, each at a random place in the tissue of a random training image."""
        names = [entry.source.image for entry in work.dataset.training if entry.labels is not None]
        tissues: dict[str, Mask] = {}

        def place(seed: int) -> Location:
            # Not the generator that turns donors: places stay where they are with or without that.
            rng = np.random.default_rng([seed, 1])
            for name in rng.permutation(names).tolist():
                target = images.get(name)
                if target is None:
                    continue
                if name not in tissues:
                    tissues[name] = tissue(target.image)
                for _ in range(TRIES):
                    row, col = (int(rng.integers(size)) for size in tissues[name].shape)
                    if tissues[name][row, col]:
                        return Location(name, "background", float(row), float(col))
            raise HistomixError(
                f"No training image of {work.dataset.name} shows tissue; check that its images are H&E."
            )

        for number, donor in donors:
            own = item_seed(settings.seed, number)
            yield Site(number, place(own), donor, own)

    def _checked(self, site: Site, target: IndexedImage, giver: IndexedImage, settings: S) -> Change | str:
        if not (target.holds(site.target) and giver.holds(site.donor)):
            return CHANGED
        if site.donor.instance in giver.image.synthetic:
            return SYNTHETIC_DONOR
        return self.lay(site, target, giver, settings)

    def _made(self, work: Work, site: Site, images: ImageCache, settings: S) -> Change | str:
        """The finished change of a site, with all its provenance."""
        laid = self._checked(site, images.require(site.image), images.require(site.donor.image), settings)
        if isinstance(laid, str):
            return laid
        sources = {"target": images.facts[site.image], "donor": images.facts[site.donor.image]}
        by_hand = {} if site.placed_by is None else {"placed_by": site.placed_by}
        facts = plain_facts(self.title, settings, sources) | {"rank": site.id, **by_hand}
        return replace(
            laid,
            id=work.first + site.id,
            method=self.name,
            seed=site.seed,
            sources=(SourceRef.of("target", site.target), SourceRef.of("donor", site.donor)),
            provenance={**facts, **laid.provenance},
        )


@dataclass(frozen=True, eq=False)
class LaidDonor(planning.PosedDonor):
    """A posed donor with its pixels (h, w, 3), in the target's staining where that was asked for."""

    pixels: NDArray[np.uint8]

    def within(self, window: tuple[slice, slice], array: NDArray[Any]) -> NDArray[Any]:
        """An array of the crop in a window of the target image; zeros where the crop does not reach."""
        return cut(array, window, (self.row, self.col))


def lay_donor(
    site: Site, target: IndexedImage, giver: IndexedImage, *, symmetries: bool, stain_matching: bool = False
) -> LaidDonor | str:
    """Center a donor on its place, turned and stain-matched if asked for; or the reason for a refusal."""
    posed = planning.pose_donor(cut_donor(giver, site.donor), target.image.mpp, site.target, site.seed, symmetries)
    if posed is None:
        return planning.TOO_SMALL
    if not inside(posed.box, target.image.instances.shape):
        return planning.CROSSES_EDGE
    pixels, stain = posed.crop.pixels, UNMATCHED
    if stain_matching:
        pixels, stain = planning.stained(posed.crop, target, site.target.row, site.target.col)
    return LaidDonor(posed.crop, posed.row, posed.col, posed.box, posed.facts | {"stain": stain}, pixels)


def inside(window: tuple[slice, ...], shape: tuple[int, ...]) -> bool:
    """Whether a window lies within an image of ``shape`` (H, W) as a whole."""
    return all(axis.start >= 0 and axis.stop <= size for axis, size in zip(window, shape, strict=True))


def in_place(
    site: Site,
    target: IndexedImage,
    corner: tuple[int, int],
    pixels: NDArray[np.uint8],
    origin: NDArray[np.uint8],
    labels: NDArray[np.int32],
    added: Mapping[int, int],
    facts: Mapping[str, Any],
    *,
    removed: Iterable[int] = (),
    visible: float = 0.0,
) -> Change:
    """The change of a patch at a corner (row, column), grown so that it holds all of each nucleus that goes.

    Pixels, origin, labels and added ids are as of ``Change``, and ``facts`` a part of its provenance. The nuclei that
    go are those ``removed``, and those that the patch leaves less of than the share ``visible``.
    """
    image = target.image
    window = slice(corner[0], corner[0] + origin.shape[0]), slice(corner[1], corner[1] + origin.shape[1])
    covered = image.instances[window][labels != KEEP]
    gone = set(removed)
    for instance, hidden in zip(*np.unique(covered[covered != 0], return_counts=True), strict=True):
        area = int(np.count_nonzero(image.instances[target.boxes[int(instance)]] == instance))
        if hidden == area or area - hidden < visible * area:
            gone.add(int(instance))
    boxes = [window, *(target.boxes[instance] for instance in gone)]
    whole = window_around(boxes, 0, image.instances.shape)
    row, col = whole[0].start, whole[1].start
    there = tuple(slice(axis.start - start, axis.stop - start) for axis, start in zip(window, (row, col), strict=True))
    all_pixels = image.pixels[whole].copy()
    all_origin, all_labels = (
        np.full(all_pixels.shape[:2], REAL, np.uint8),
        np.full(all_pixels.shape[:2], KEEP, np.int32),
    )
    all_pixels[there][origin != REAL] = pixels[origin != REAL]
    all_origin[there], all_labels[there] = origin, labels
    name = image.source.image
    return Change(
        site.id, name, name, row, col, all_pixels, all_origin, all_labels, dict(added),
        tuple(sorted(gone)), None, "", site.seed, (), provenance=dict(facts),
    )  # fmt: skip


def put_nucleus(
    site: Site,
    target: IndexedImage,
    window: tuple[slice, slice],
    laid: LaidDonor,
    pixels: NDArray[np.uint8],
    blended: Mask | bool = False,
    **gone: Any,
) -> Change:
    """The change of a donor's nucleus and what is ``blended`` around it; ``gone`` says what goes (``in_place``)."""
    nucleus = laid.within(window, laid.crop.nucleus)
    origin = np.where(nucleus, DONOR, np.where(blended, INPAINTED, REAL)).astype(np.uint8)
    labels = np.where(nucleus, site.instance, KEEP).astype(np.int32)
    corner, added = (window[0].start, window[1].start), {site.instance: site.donor.type}
    return in_place(site, target, corner, pixels, origin, labels, added, laid.facts, **gone)


class Taken:
    """What changes in place touch in their target images, so that any of them can be taken back alone."""

    def __init__(self, before: Iterable[Change] = ()) -> None:
        self._before: dict[str, list[Change]] = defaultdict(list)
        for change in before:
            self._before[change.image].append(change)
        self._pixels: dict[str, Mask] = {}
        self._nuclei: dict[str, set[int]] = {}
        self._next: dict[str, int] = {}

    def _of(self, target: IndexedImage) -> str:
        name = target.image.source.image
        if name not in self._pixels:
            # With a margin, so that what comes near the edge of the image needs no special care.
            self._pixels[name] = np.zeros([size + 2 * GUARD for size in target.image.instances.shape], bool)
            self._nuclei[name] = set()
            self._next[name] = max(target.boxes, default=0) + 1
            for change in self._before[name]:
                self.add(target, change)
        return name

    def free_id(self, target: IndexedImage) -> int:
        """The first id from which on all are free in an image."""
        return self._next[self._of(target)]

    def touches(self, target: IndexedImage, change: Change) -> bool:
        """Whether a change comes nearer than ``GUARD`` pixels to another, or alters a nucleus that another alters."""
        name = self._of(target)
        if self._nuclei[name] & _altered(target, change):
            return True
        changed = np.pad(change.origin != REAL, GUARD)
        height, width = changed.shape
        taken = self._pixels[name][change.row : change.row + height, change.col : change.col + width]
        return bool((dilate(changed, GUARD) & taken).any())

    def add(self, target: IndexedImage, change: Change) -> None:
        """Note what a change touches."""
        name = self._of(target)
        self._pixels[name][GUARD:-GUARD, GUARD:-GUARD][change.window] |= change.origin != REAL
        self._nuclei[name] |= _altered(target, change)
        self._next[name] = max(self._next[name], max(change.added, default=0) + 1)


def _altered(target: IndexedImage, change: Change) -> set[int]:
    """Nuclei of the target that a change clips or removes."""
    if change.labels is None:
        return set(change.removed)
    covered = target.image.instances[change.window][change.labels != KEEP]
    return {*change.removed, *np.unique(covered[covered != 0]).tolist()}
