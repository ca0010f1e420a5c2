"""The detector test: whether a small CNN, cross-validated by patient, can tell what a method made from what is real."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.evaluation.crops import method_name
from napari_histomix.evaluation.detector_folds import (
    CropTable,
    UntestableError,
    balanced_weights,
    learned_from,
    table_of,
)
from napari_histomix.evaluation.detector_tissue import PAIRS, signs, tissue_crops
from napari_histomix.evaluation.detector_windows import HIDDEN, NOTHING, NUCLEI, TISSUE, Crop, Crops, nuclei_crops
from napari_histomix.evaluation.figures import Estimate, paired_auc
from napari_histomix.evaluation.kept_results import KeptResults
from napari_histomix.methods import method_of
from napari_histomix.records import Change, HistomixError, Job
from napari_histomix.sampling import item_seed
from napari_histomix.settings import Device, Option, Seed, check_settings, plain
from napari_histomix.study.store import Study

HARD_PASTE = "hard paste"
"""In place of a method's name: the very same changes without blending, as a yardstick."""
UNFITTED = "unfitted paste"
"""In place of a method's name: of tissue, what lies in the donors' images, as it is, in place of what was changed."""
AREA = "area alone"
"""In place of a method's name: no network, but how large a nucleus is; its mask tells that, whatever is hidden."""
TAKEN_OUT = ("reject", "delete")


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """How a detector test is made; the only home of these defaults."""

    hide: Annotated[
        tuple[str, ...],
        Option(
            "What of the crops of nuclei the detector does not see: nothing; nucleus and rim, so that the place tells; "
            "surroundings, so that nucleus and rim tell; or the rim. Several are tested one after the other.",
            choices=HIDDEN,
        ),
    ] = (NOTHING,)
    hard_paste: Annotated[
        bool,
        Option(
            "Also test the very same changes without blending: what blending has to be better than. Of tissue also "
            "with donors as they lie in their images, neither turned nor restained: what the test can find there."
        ),
    ] = True
    folds: Annotated[
        int,
        Option(
            "Parts that patients or images are divided into; each is scored by a network of its own.",
            low=2,
            advanced=True,
        ),
    ] = 5
    epochs: Annotated[
        int, Option("How often a network of nuclei sees every crop that it learns from.", low=1, advanced=True)
    ] = 24
    networks: Annotated[
        int, Option("Networks of each part, whose scores are averaged.", low=1, high=20, advanced=True)
    ] = 1
    side: Annotated[
        int, Option("Side of a crop of a nucleus, at the image's own scale.", low=16, unit="px", advanced=True)
    ] = 48
    tissue_side: Annotated[
        int, Option("Side of a crop of tissue, at the image's own scale.", low=32, unit="px", advanced=True)
    ] = 96
    tissue_steps: Annotated[
        int,
        Option(
            f"Steps in which a network of tissue learns, each of {PAIRS} pairs of a synthetic and a real crop.",
            low=1,
            advanced=True,
        ),
    ] = 400
    per_image: Annotated[int, Option("Crops of an image of tissue at most.", low=1, advanced=True)] = 8
    most: Annotated[
        int,
        Option("Synthetic crops, and real ones, at most; drawn at random where there are more.", low=10, advanced=True),
    ] = 1000
    shared_donors: Annotated[
        bool,
        Option(
            "Let networks learn from donors, and from copies of donors, of the crops that they score: shows how much "
            "the reuse of donors tells.",
            advanced=True,
        ),
    ] = False
    device: Device = "auto"
    seed: Seed = 0


@dataclass(frozen=True, eq=False)
class Result:
    """What one detector found: of one method or its hard paste, with something hidden or nothing.

    Parameters
    ----------
    variant, hide : str
        The method's name, ``HARD_PASTE``, ``UNFITTED`` or ``AREA``, and a key of ``HIDDEN``; of ``AREA`` empty.
    scores : (N,) float
        Out-of-fold logits of the crops, in their order; of ``AREA`` the areas of nuclei, or their negatives, whichever
        is higher for synthetic ones.
    auc : Estimate
        How often a synthetic crop has a higher score than a real one of its fold and class; the interval is from
        resampling groups.
    same_image : Estimate
        The same of pairs of one image alone.
    by_target : mapping of str to Estimate
        The same of nuclei on free tissue and in place of another, where there are both.
    """

    variant: str
    hide: str
    scores: NDArray[np.float64]
    auc: Estimate
    same_image: Estimate
    by_target: Mapping[str, Estimate]


@dataclass(frozen=True, eq=False)
class MethodTest:
    """The test of one method in one study.

    Parameters
    ----------
    study : Path
    method : str
        With its sampler, if it has one.
    crops : Crops
    folds : (N,) int
        Fold of each crop.
    results : tuple of Result
    percentiles : mapping of int to float
        By change, the share of real crops of its fold and class with a lower score than its highest crop's, in %: 50
        is as a real one, 100 is what gives itself away most. From the result ``own``.
    """

    study: Path
    method: str
    crops: Crops
    folds: NDArray[np.intp]
    results: tuple[Result, ...]
    percentiles: Mapping[int, float]

    @property
    def own(self) -> Result:
        """The method's result with nothing hidden; with what was hidden first, where nothing was tested unhidden."""
        return own_of(self.results)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Real crops, synthetic crops, and groups."""
        synthetic = sum(crop.synthetic for crop in self.crops.crops)
        groups = {crop.group for crop in self.crops.crops}
        return len(self.crops.crops) - synthetic, synthetic, len(groups)

    @property
    def donors(self) -> int:
        """How many donors the synthetic crops have, each counted once."""
        return len({part for crop in self.crops.crops if crop.synthetic for part in crop.parts})


def own_of(results: Sequence[Result]) -> Result:
    """The result with nothing hidden, or the first; of the method itself, which comes before its hard paste."""
    return next((result for result in results if result.hide == NOTHING), results[0])


@dataclass(frozen=True, eq=False)
class DetectorReport:
    """What a detector test found, and what a person should know (``notes``)."""

    settings: DetectorSettings
    tests: tuple[MethodTest, ...]
    notes: tuple[str, ...]


def detector_test(
    studies: Sequence[Study],
    settings: DetectorSettings = DetectorSettings(),
    *,
    images: Path | None = None,
    keep: Path | None = None,
    resume: bool = False,
) -> Job[DetectorReport]:
    """Test what methods made in studies, but for what was rejected; a long job (see ``records.Job``).

    Nuclei are tested by changes in place, tissue by derived images; new images, which have no target, are what
    ``generator_test`` is for. Groups (patients, slides or images, the first that is known) are divided into folds, and
    a network scores a fold's crops after it learned from those of the others. A synthetic crop lies in the fold of its
    target. Of a donor there are a real crop and any number of copies: a network that knew one of them would know the
    others again, one way or the other. So it does not learn from

    - synthetic nuclei whose donor is of a group in the fold that it scores, and
    - crops, real or synthetic, that share a donor with a crop that it scores,

    unless ``settings.shared_donors`` asks for it. Of tissue a network may learn from other places of a tested donor's
    image: it is shown everything as often in a real crop as in a synthetic one (``tissue_crops``), so that knowing it
    tells nothing.

    Parameters
    ----------
    studies : sequence of Study
    settings : DetectorSettings
    images : Path, optional
        Where the studies' images are now, if they moved.
    keep : Path, optional
        New folder for what is found, as it is found. It stays when the test ends.
    resume : bool
        Take up the killed test that kept its results in ``keep``; the report is the one that it would have had.

    Raises
    ------
    HistomixError
        If a study holds nothing to test, nothing is said of what to hide, or ``keep`` holds another test.
        `UntestableError` if there are too few crops of either kind, or all are of one patient or image; where other
        methods can be tested, that is a note.
    """
    settings = check_settings(settings)
    if not settings.hide:
        raise HistomixError("Say what is hidden from the detector; one choice is that nothing is.")
    KeptResults.check(keep, resume)
    results = KeptResults()
    shown: list[tuple[Path, str, Crops]] = []
    for study in studies:
        dataset = study.open_images(images)
        for method, changes in _by_method(study).items():
            for subject, chosen in changes.items():
                make = nuclei_crops if subject == NUCLEI else tissue_crops
                crops = yield from results.passed(make(dataset, chosen, settings))
                shown.append((study.folder, method, crops))
                for reason, count in crops.refusals.items():
                    results.note(f"{method}: {count} of {len(chosen)} not shown: {reason}.")
    if keep is not None:
        results.keep_in(keep, resume, _identity(settings, [crops for _, _, crops in shown]))
    tests = []
    untested: list[HistomixError] = []
    for number, (folder, method, crops) in enumerate(shown):
        try:
            tests.append((yield from _tested(results, number, folder, method, crops, settings)))
        except UntestableError as error:
            # What else there is can be tested.
            results.note(str(error))
            untested.append(error)
    if not tests:
        raise untested[0]
    if any(test.counts[2] < 10 for test in tests):
        results.note("No interval is given where there are fewer than ten patients or images.")
    return DetectorReport(settings, tuple(tests), tuple(results.notes))


def keep_scores(report: DetectorReport, study: Study) -> None:
    """Keep each change's percentile in its study, for Review; HistomixError where the study cannot be written to."""
    found: dict[int, float] = {}
    for test in report.tests:
        if test.study == study.folder:
            found |= test.percentiles
    study.set_detectability(found)


def _by_method(study: Study) -> dict[str, dict[str, list[Change]]]:
    """Changes with a target that nobody took out, by method and by what they are of."""
    decisions, samplers = study.decisions("change"), study.samplers()
    found: dict[str, dict[str, list[Change]]] = {}
    for change in study.changes():
        if change.image and decisions.get(change.id) not in TAKEN_OUT:
            name = method_name(method_of(change.method).title, samplers.get(change.id, ""))
            subject = NUCLEI if change.in_place else TISSUE
            found.setdefault(name, {}).setdefault(subject, []).append(change)
    if not found:
        raise HistomixError(
            f"The study {study.folder} holds no changes of real images to test; synthesize some, or take back what "
            "was rejected."
        )
    return found


def _identity(settings: DetectorSettings, shown: Sequence[Crops]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for crops in shown:
        for crop in crops.crops:
            digest.update(repr((crop.image, crop.group, crop.kind, sorted(crop.parts), crop.change)).encode())
            for array in (crop.pixels, crop.nucleus, crop.pasted, crop.unfitted):
                digest.update(b"" if array is None else array.tobytes())
    return {"settings": json.loads(json.dumps(plain(settings, recorded_only=True))), "crops": digest.hexdigest()}


# One method.


def _tested(
    results: KeptResults, number: int, study: Path, method: str, crops: Crops, settings: DetectorSettings
) -> Job[MethodTest]:
    """The test of one method; ``number`` tells it from others of its name."""
    table = table_of(crops, method, settings)
    made = [crop for crop in table.crops if crop.synthetic]
    variants = [method]
    # Where nothing was blended, hard paste is the method itself.
    pasted = [(crop.pixels, crop.pasted) for crop in made if crop.pasted is not None]
    if settings.hard_paste and len(pasted) == len(made) and not all(np.array_equal(*pair) for pair in pasted):
        variants.append(HARD_PASTE)
    # Where nothing was turned or restained, it is the hard paste.
    unfitted = [(crop.pasted, crop.unfitted) for crop in made if crop.pasted is not None and crop.unfitted is not None]
    if settings.hard_paste and len(unfitted) == len(made) and not all(np.array_equal(*pair) for pair in unfitted):
        variants.append(UNFITTED)
    hides = dict.fromkeys(settings.hide) if crops.subject == NUCLEI else (NOTHING,)
    found: list[Result] = []
    for hide in hides:
        for variant in variants:
            phase = f"{crops.subject} {number + 1}: {'method' if variant == method else variant}, {hide} hidden"
            scores = yield from _scored(results, phase, method, crops.subject, table, variant, hide, settings)
            found.append(_result(variant, hide, table, scores, settings.seed))
    if crops.subject == NUCLEI:
        areas = np.array([np.count_nonzero(crop.nucleus) for crop in table.crops], float)
        larger = _result(AREA, "", table, areas, settings.seed)
        smaller = (larger.auc.value or 0) < 0.5
        found.append(_result(AREA, "", table, -areas, settings.seed) if smaller else larger)
    counted, percentiles = Crops(crops.subject, table.crops, crops.refusals), _percentiles(table, own_of(found).scores)
    return MethodTest(study, method, counted, table.folds, tuple(found), percentiles)


def _seen(crops: Sequence[Crop], hide: str, variant: str) -> NDArray[np.uint8]:
    """What the detector sees (N, S, S, 3)."""
    from napari_histomix.evaluation.detector_network import GRAY

    others = [{HARD_PASTE: crop.pasted, UNFITTED: crop.unfitted}.get(variant) for crop in crops]
    pixels = np.stack([crop.pixels if other is None else other for crop, other in zip(crops, others, strict=True)])
    if hide != NOTHING:
        pixels[np.stack([crop.hidden(hide) for crop in crops])] = int(GRAY)
    return pixels


def _scored(
    results: KeptResults,
    phase: str,
    method: str,
    subject: str,
    table: CropTable,
    variant: str,
    hide: str,
    settings: DetectorSettings,
) -> Job[NDArray[np.float64]]:
    """Out-of-fold scores (N,)."""
    from napari_histomix.evaluation.detector_network import learn_and_score
    from napari_histomix.evaluation.detector_seams import learn_seams_and_score

    pasted = variant in (HARD_PASTE, UNFITTED)
    seen = _seen(table.crops, hide, variant)
    scores = np.zeros(len(seen))
    folds = int(table.folds.max()) + 1
    for fold in range(folds):
        learned = learned_from(table.crops, table.folds, fold, settings.shared_donors, subject == NUCLEI)
        weights = balanced_weights(table.kinds[learned], table.synthetic[learned])
        if not weights.any():
            raise UntestableError(
                f"{method}: with the donors of a tested part kept apart, too few crops are left to learn from; make "
                "more of more donors, or let networks learn from shared donors (--shared-donors)."
            )
        tested = table.folds == fold
        learn: Callable[..., Job[NDArray[np.float32]]]
        if subject == NUCLEI:
            learn = partial(learn_and_score, seen[learned], table.synthetic[learned], weights, epochs=settings.epochs)
        else:
            crops = [crop for crop, chosen in zip(table.crops, learned, strict=True) if chosen]
            marks = np.stack([_marks(crop, pasted) for crop in crops])
            pairs = np.array([crop.pair for crop in crops])
            shown = seen[learned], table.synthetic[learned], pairs, marks
            learn = partial(learn_seams_and_score, *shown, steps=settings.tissue_steps)
        for network in range(settings.networks):
            seed = item_seed(settings.seed, fold * settings.networks + network)
            job = partial(learn, tested=seen[tested], seed=seed, device=settings.device)
            at, total = fold * settings.networks + network, folds * settings.networks
            logits, _ = yield from results.made(phase, at, total, job)
            scores[tested] += logits / settings.networks
    return scores


def _marks(crop: Crop, pasted: bool) -> NDArray[np.bool_]:
    """What gives a crop of tissue away (S, S); nothing in a real one."""
    return np.zeros_like(crop.nucleus) if crop.origin is None else signs(crop.origin, pasted=pasted)


def _result(variant: str, hide: str, table: CropTable, scores: NDArray[np.float64], seed: int) -> Result:
    def auc(pair_up: NDArray[np.intp], rows: NDArray[np.bool_]) -> Estimate:
        return paired_auc(scores[rows], table.synthetic[rows], table.groups[rows], pair_up[rows], seed)

    everything = np.ones(len(scores), bool)
    same_image = table.images * (int(table.pair_up.max()) + 1) + table.pair_up
    replaced = np.array([crop.replaced for crop in table.crops], bool)
    free = table.synthetic & ~replaced
    by_target = {}
    if replaced.any() and free.any():
        parts = {"on free tissue": free, "in place of a nucleus": replaced}
        by_target = {name: auc(table.pair_up, part | ~table.synthetic) for name, part in parts.items()}
    return Result(variant, hide, scores, auc(table.pair_up, everything), auc(same_image, everything), by_target)


def _percentiles(table: CropTable, scores: NDArray[np.float64]) -> dict[int, float]:
    """By change, the share of real crops with a lower score, in %; of its highest crop, where it has several."""
    found: dict[int, float] = {}
    places = table.pair_up
    for at in np.flatnonzero(table.synthetic).tolist():
        real = scores[(places == places[at]) & ~table.synthetic]
        change = table.crops[at].change
        if len(real) and change is not None:
            below = np.count_nonzero(real < scores[at]) + np.count_nonzero(real == scores[at]) / 2
            found[change] = max(found.get(change, 0.0), float(100 * below / len(real)))
    return found
