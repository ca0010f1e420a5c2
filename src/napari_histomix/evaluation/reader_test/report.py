"""The report of a reader test: how often synthetic crops were found out, and how far readers agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_histomix import __version__
from napari_histomix.evaluation import figures
from napari_histomix.evaluation.crops import GENUINE
from napari_histomix.evaluation.figures import Counts, Estimate
from napari_histomix.evaluation.reader_test.folder import ReaderTest, Truth
from napari_histomix.evaluation.reader_test.reading import ANSWER_WORDS, CALLED_SYNTHETIC, Given
from napari_histomix.records import HistomixError

ALL = "all readers"
UNKNOWN = "n/a"
_NONE = Estimate(None, None, None, 0)


@dataclass(frozen=True, slots=True)
class ReaderFigures:
    """One reader, or the mean of all.

    ``sensitivity`` is the share of synthetic crops called synthetic, ``specificity`` that of real ones called real.
    Times are medians in seconds. ``changed``: crops answered again after going back.
    """

    reader: str
    answers: int
    crops: int
    finished: bool
    changed: int
    accuracy: Estimate
    sensitivity: Estimate
    specificity: Estimate
    auc: Estimate
    median_s: float | None
    median_real_s: float | None
    median_synthetic_s: float | None


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """One method's crops as one reader saw them, or all: the share called synthetic, and the AUC against real ones.

    ``counts`` are the answers from surely real to surely synthetic.
    """

    reader: str
    method: str
    crops: int
    answers: int
    called_synthetic: Estimate
    auc: Estimate
    median_s: float | None
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PairFigures:
    """Two readers on the crops both answered: the share they agree on, and Cohen's kappa."""

    reader: str
    other: str
    crops: int
    agreement: float | None
    kappa: Estimate


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of a reader test, and sentences a person should read beside them."""

    facts: Mapping[str, Any]
    readers: tuple[ReaderFigures, ...]
    methods: tuple[MethodFigures, ...]
    pairs: tuple[PairFigures, ...]
    fleiss: Estimate
    notes: tuple[str, ...]


Answers = Mapping[str, Mapping[int, Given]]
"""Answers by reader and crop."""


def make_report(test: ReaderTest, truths: Sequence[Truth], answers: Answers) -> Report:
    """Compute the figures of a reader test; raises HistomixError if nobody has answered anything."""
    answers = {reader: given for reader, given in sorted(answers.items()) if given}
    if not answers:
        raise HistomixError("Nobody has answered yet; a report needs the answers of one reader at least.")
    methods = [GENUINE, *sorted({truth.method for truth in truths if truth.synthetic})]
    readers = [_reader(reader, list(given.values()), truths) for reader, given in answers.items()]
    per_method = [
        _method(reader, list(given.values()), truths, method) for reader, given in answers.items() for method in methods
    ]
    if len(answers) > 1:
        together = _Together.of(answers, truths)
        readers.append(_mean_reader(readers, together))
        per_method += [_all_of_method(answers, together, truths, method) for method in methods]
    clusters = len({truth.cluster for truth in truths})
    facts = {
        "software": f"napari-histomix {__version__}",
        "dataset": test.dataset,
        "question": test.question,
        "test": test.identity,
        "crops": len(test),
        "real": sum(not truth.synthetic for truth in truths),
        "synthetic": sum(truth.synthetic for truth in truths),
        "methods": methods[1:],
        "classes": sorted({truth.kind for truth in truths}),
        "clusters": clusters,
        "answers": dict(ANSWER_WORDS),
    }
    notes = [
        f"{reader} has answered {len(given)} of {len(test)} crops."
        for reader, given in answers.items()
        if len(given) < len(test)
    ]
    notes.append(
        f"{UNKNOWN}: too little to tell from. An AUC or kappa needs {figures.LEAST} answers of either kind or crops in "
        f"common, its interval {figures.FEWEST} patients or images; these crops come from {clusters}."
    )
    return Report(facts, tuple(readers), tuple(per_method), *_agreement(answers, truths), tuple(notes))


def _reader(reader: str, given: Sequence[Given], truths: Sequence[Truth]) -> ReaderFigures:
    synthetic = np.array([truths[answer.crop].synthetic for answer in given])
    right = np.equal(synthetic, [answer.called_synthetic for answer in given])
    accuracy, sensitivity, specificity = (
        figures.share(int(part.sum()), len(part)) for part in (right, right[synthetic], right[~synthetic])
    )
    return ReaderFigures(
        reader,
        len(given),
        len(truths),
        len(given) == len(truths),
        sum(answer.times > 1 for answer in given),
        accuracy,
        sensitivity,
        specificity,
        _auc(given, truths),
        _median(given),
        _median([answer for answer in given if not truths[answer.crop].synthetic]),
        _median([answer for answer in given if truths[answer.crop].synthetic]),
    )


def _method(reader: str, given: Sequence[Given], truths: Sequence[Truth], method: str) -> MethodFigures:
    own = [answer for answer in given if truths[answer.crop].method == method]
    called = figures.share(sum(answer.called_synthetic for answer in own), len(own))
    compared = _NONE
    if method != GENUINE:
        compared = _auc(own + [answer for answer in given if not truths[answer.crop].synthetic], truths)
    return MethodFigures(reader, method, len(own), len(own), called, compared, _median(own), _tally(own))


def _auc(given: Sequence[Given], truths: Sequence[Truth]) -> Estimate:
    crops = [truths[answer.crop] for answer in given]
    return figures.auc(
        [answer.answer for answer in given], [crop.synthetic for crop in crops], [crop.cluster for crop in crops]
    )


def _median(given: Sequence[Given]) -> float | None:
    return round(float(np.median([answer.ms for answer in given])) / 1000, 3) if given else None


def _tally(given: Sequence[Given]) -> tuple[int, ...]:
    return tuple(sum(answer.answer == word for answer in given) for word in ANSWER_WORDS)


# All readers together: crops are what is resampled, whole patients or images at a time.


@dataclass(frozen=True, slots=True, eq=False)
class _Together:
    """Answers (crops, readers), 0 where there is none; whether each crop is synthetic (crops, 1), and its cluster."""

    answers: NDArray[np.int_]
    synthetic: NDArray[np.bool_]
    clusters: NDArray[np.str_]

    @classmethod
    def of(cls, answers: Answers, truths: Sequence[Truth]) -> Self:
        table = np.zeros((len(truths), len(answers)), int)
        for number, given in enumerate(answers.values()):
            for answer in given.values():
                table[answer.crop, number] = answer.answer
        synthetic = np.array([[truth.synthetic] for truth in truths])
        return cls(table, synthetic, np.array([truth.cluster for truth in truths]))

    def only(self, crops: NDArray[np.bool_]) -> Self:
        return type(self)(self.answers[crops], self.synthetic[crops], self.clusters[crops])

    def share(self, wanted: NDArray[np.bool_]) -> Estimate:
        """Mean over readers of the share of their answers that is ``wanted`` (crops, readers)."""
        answered = self.answers > 0
        if not answered.any(axis=0).all():
            return _NONE

        def figure(sums: Counts) -> Counts:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray((sums[..., 0] / sums[..., 1]).mean(axis=-1))

        values = np.stack([answered & wanted, answered], axis=-1).astype(float)
        return figures.clustered(values, list(self.clusters), figure, 0, least=1)

    def area(self) -> Estimate:
        """Mean over readers of their AUC."""
        counts = np.stack([self.answers == answer for answer in ANSWER_WORDS], axis=-1)
        synthetic = self.synthetic[..., None]
        kinds = np.stack([counts & synthetic, counts & ~synthetic], axis=2).astype(float)
        if kinds.sum(axis=(0, 3)).min() < figures.LEAST:
            return _NONE

        def figure(sums: Counts) -> Counts:
            return np.asarray(figures.auc_of_counts(sums[..., 0, :], sums[..., 1, :]).mean(axis=-1))

        return figures.clustered(kinds, list(self.clusters), figure, 0)


def _mean_reader(readers: Sequence[ReaderFigures], together: _Together) -> ReaderFigures:
    called, synthetic = together.answers >= CALLED_SYNTHETIC, together.synthetic
    fakes, reals = (together.only(kind[:, 0]) for kind in (synthetic, ~synthetic))
    return ReaderFigures(
        ALL,
        sum(reader.answers for reader in readers),
        len(synthetic),
        all(reader.finished for reader in readers),
        sum(reader.changed for reader in readers),
        together.share(called == synthetic),
        fakes.share(fakes.answers >= CALLED_SYNTHETIC),
        reals.share(reals.answers < CALLED_SYNTHETIC),
        together.area(),
        _mean([reader.median_s for reader in readers]),
        _mean([reader.median_real_s for reader in readers]),
        _mean([reader.median_synthetic_s for reader in readers]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 3) if len(known) == len(values) else None


def _all_of_method(answers: Answers, together: _Together, truths: Sequence[Truth], method: str) -> MethodFigures:
    own = [answer for given in answers.values() for answer in given.values() if truths[answer.crop].method == method]
    crops = np.array([truth.method == method for truth in truths])
    shown = together.only(crops)
    called = shown.share(shown.answers >= CALLED_SYNTHETIC)
    area = together.only(crops | ~together.synthetic[:, 0]).area() if method != GENUINE else _NONE
    answered = len({answer.crop for answer in own})
    return MethodFigures(ALL, method, answered, len(own), called, area, _median(own), _tally(own))


def _agreement(answers: Answers, truths: Sequence[Truth]) -> tuple[tuple[PairFigures, ...], Estimate]:
    """Cohen's kappa of each two readers, and Fleiss' kappa of three or more on the crops that all answered."""
    pairs = []
    for first, second in combinations(answers, 2):
        calls, clusters = _shared(answers, truths, first, second)
        agreed = float((calls[:, 0] == calls[:, 1]).mean()) if len(calls) else None
        kappa = figures.cohen_kappa(calls[:, 0], calls[:, 1], clusters)
        pairs.append(PairFigures(first, second, len(calls), agreed, kappa))
    return tuple(pairs), figures.fleiss_kappa(*_shared(answers, truths, *answers)) if len(answers) > 2 else _NONE


def _shared(answers: Answers, truths: Sequence[Truth], *readers: str) -> tuple[NDArray[np.bool_], list[str]]:
    """Whether each reader calls the crops that all of them answered synthetic (crops, readers); their clusters."""
    crops = sorted(set.intersection(*(set(answers[reader]) for reader in readers)))
    calls = [[answers[reader][crop].called_synthetic for reader in readers] for crop in crops]
    return np.array(calls, bool).reshape(len(crops), len(readers)), [truths[crop].cluster for crop in crops]
