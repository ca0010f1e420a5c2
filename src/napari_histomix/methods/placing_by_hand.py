"""A place for a rare nucleus that a person points at: what gives way there, which donor comes, or why none can.

The rules are those of the search (``candidate_stage``): a nucleus of a major class is replaced, a free place is tissue
with room for a nucleus, and the donor is drawn by how alike the surroundings are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix import sampling
from napari_histomix.compositing import placing
from napari_histomix.compositing.donors import Mask, rare_and_major
from napari_histomix.compositing.planning import GUARD
from napari_histomix.features import open_encoder
from napari_histomix.features.context import context_features
from napari_histomix.features.neighborhood import neighborhood_features
from napari_histomix.methods.base import Work
from napari_histomix.methods.candidate_places import ROOM
from napari_histomix.methods.candidate_stage import CandidateSettings
from napari_histomix.methods.learned_places import LearnedPlaces
from napari_histomix.records import REAL, Candidate, Event, HistomixError, Job, LabeledImage, Location
from napari_histomix.settings import made_from

ELSEWHERE = "choose another place"


def place_by_hand(work: Work, image: str, row: float, col: float, moved: Candidate | None = None) -> Job[Candidate]:
    """The candidate at a place that a person points at, which is in the store from then on; a long job.

    To keep it is another act: only a decision makes it count (``Candidate.there``). A nucleus that is a candidate's
    target already gives that candidate, unless a run refused it.

    Parameters
    ----------
    work : Work
        Its store holds the candidates of a search.
    image : str
        A training image.
    row, col : float
        In its pixels.
    moved : Candidate, optional
        The candidate that a person moves there: its donor stays where it fits.

    Raises
    ------
    HistomixError
        If nothing can be placed there; the sentence says why.
    """
    yield Event("Placing a nucleus")
    if not work.store.has_candidates():
        # Those that a search found went with changed nuclei, what it learned is still there.
        raise HistomixError("The study holds no candidates; find them first.")
    kept = work.store.settings()
    learned = LearnedPlaces.load(work.store.folder, kept)
    settings = made_from(CandidateSettings, kept["candidate_settings"])
    rare, major = rare_and_major(work.dataset, settings.rare, settings.major)
    if work.dataset.entry(image).synthetic:
        raise HistomixError(f"The image {image} is synthetic; choose a place in a real one.")
    there = work.dataset.read(image)
    taken = _taken(work, there)
    target = _target(work, there, (round(row), round(col)), rare, major, taken)
    candidates, outcomes = work.store.candidates(), work.store.outcomes()
    for known in candidates:
        if target.instance and known.target == target and not isinstance(outcomes.get(known.rank), str):
            return known

    areas = learned.arrays["areas"]
    if target.instance:
        fits = sampling.fitting(areas, target.area * there.mpp**2, settings.area_ratio)
        tight = "No donor is small enough for the nucleus there"
    else:
        free, what = _clearance(there, (round(row), round(col)), taken)
        fits = areas <= np.pi * (max(free - ROOM, 0) * there.mpp) ** 2
        tight = f"A nucleus of that class would touch {what} there"
    if not fits.any():
        raise HistomixError(f"{tight}; {ELSEWHERE}.")
    features = _surroundings(work, there, target, settings)
    if moved is not None and moved.donor in learned.donors and fits[learned.donors.index(moved.donor)]:
        donor = moved.donor
    else:
        decisions = work.decisions.get("candidate", {})
        uses = Counter(each.donor for each in candidates if decisions.get(each.rank) == "keep")
        draw = sampling.DonorDraw(learned.arrays["donors"], settings.donor_temperature)
        draw.weights += [uses[each] for each in learned.donors]
        rng = np.random.default_rng([settings.seed, len(candidates), 3])
        drawn = draw.pick(learned.components(features), fits, rng)
        assert drawn is not None
        donor = learned.donors[drawn[0]]
    made = Candidate(len(candidates), target, donor, *learned.score(features, image))
    placing.check_candidates(work.dataset, [made])
    return work.store.append_candidate(made)


def _target(
    work: Work, image: LabeledImage, at: tuple[int, int], rare: Sequence[int], major: Sequence[int], taken: Mask
) -> Location:
    """The major nucleus or the free place at a row and column; HistomixError where there is neither."""
    name = image.source.image
    if not all(0 <= place < size for place, size in zip(at, image.instances.shape, strict=True)):
        raise HistomixError(f"That place is outside of {name}; {ELSEWHERE}.")
    if taken[at]:
        raise HistomixError(f"A synthetic nucleus lies there already; {ELSEWHERE}.")
    instance = int(image.instances[at])
    if not instance:
        if not sampling.tissue(image)[at]:
            raise HistomixError(f"There is no tissue at that place; {ELSEWHERE}.")
        return Location(name, "background", float(at[0]), float(at[1]))
    number = image.types[instance]
    title = work.dataset.class_name(number)
    if instance in image.synthetic:
        raise HistomixError(f"The nucleus there is synthetic; {ELSEWHERE}.")
    if number in rare:
        raise HistomixError(f"The nucleus there is of the rare class {title} already; {ELSEWHERE}.")
    if number not in major:
        raise HistomixError(f"The nucleus there is of class {title}, which may not be replaced; {ELSEWHERE}.")
    nuclei = sampling.nucleus_locations(image, rare, major)
    return next(nucleus for nucleus in nuclei if nucleus.instance == instance)


def _taken(work: Work, image: LabeledImage) -> Mask:
    """Pixels (H, W) that synthetic nuclei of the study have changed, also rejected ones: these may come back."""
    taken = np.zeros(image.instances.shape, bool)
    for change in work.store.changes():
        if change.in_place and change.image == image.source.image:
            taken[change.window] |= change.origin != REAL
    return taken


def _clearance(image: LabeledImage, at: tuple[int, int], taken: Mask) -> tuple[float, str]:
    """How far, in pixels, a place is from what a nucleus there must not touch, and what that is (``clearance``)."""
    rows, cols = image.instances.shape

    def distance(occupied: Mask) -> float:
        free = (~occupied).astype(np.uint8)
        return float(cv2.distanceTransform(free, cv2.DIST_L2, 5)[at]) if occupied.any() else np.inf

    near = {
        "another nucleus": distance(image.instances != 0),
        "another synthetic nucleus": distance(taken) - GUARD,
        "the edge of the image": float(min(at[0] + 1, at[1] + 1, rows - at[0], cols - at[1])),
    }
    what = min(near, key=near.__getitem__)
    return near[what], what


def _surroundings(
    work: Work, image: LabeledImage, target: Location, settings: CandidateSettings
) -> NDArray[np.float32]:
    """What surrounds a place, as the search describes it (``describe_places``), (d,)."""
    encoder = open_encoder(settings.encoder)
    if encoder.name != (used := work.store.settings()["encoder"]):
        raise HistomixError(
            f"The candidates were found with the encoder {used}, which is {encoder.name} here; find candidates again "
            "in a new study."
        )
    center = np.array([(target.row, target.col)])
    features = np.concatenate(list(context_features(image, center, encoder)))[0]
    if not settings.neighborhood:
        return features
    neighbors = sampling.nucleus_locations(image, (), [each.number for each in work.dataset.all_classes])
    classes = [each.number for each in work.dataset.classes]
    around = neighborhood_features([target], neighbors, classes, image.instances.shape, image.mpp)
    return np.concatenate([features, around[0]])
