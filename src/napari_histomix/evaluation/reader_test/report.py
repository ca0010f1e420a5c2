"""The report of a reader test: how often synthetic crops were found out, and how far readers agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_histomix import __version__
from napari_histomix.evaluation.figures import (
    FEWEST,
    LEAST,
    Counts,
    Estimate,
    auc,
    auc_of_counts,
    clustered,
    cohen_kappa,
    fleiss_kappa,
    share,
)
from napari_histomix.evaluation.reader_test.folder import ReaderTest, Truth
from napari_histomix.evaluation.reader_test.reading import ANSWER_WORDS, CALLED_SYNTHETIC, Given
from napari_histomix.evaluation.reader_test.specimens import GENUINE
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
    counts: tuple[int, int, int, int]


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
    """Compute the figures of a reader test.

    Parameters
    ----------
    test : ReaderTest
    truths : sequence of Truth
        Of every crop.
    answers : mapping
        By reader and crop; see ``answers.read_answers``.

    Raises
    ------
    HistomixError
        If nobody has answered anything.
    """
    answers = {reader: given for reader, given in sorted(answers.items()) if given}
    if not answers:
        raise HistomixError("Nobody has answered yet; a report needs the answers of one reader at least.")
    methods = [GENUINE, *sorted({one.method for one in truths if one.synthetic})]
    readers = [_reader(reader, given, truths) for reader, given in answers.items()]
    per_method = [_method(reader, given, truths, method) for reader, given in answers.items() for method in methods]
    if len(answers) > 1:
        together = _Together.of(answers, truths)
        readers.append(_mean_reader(readers, together))
        per_method += [_all_of_method(answers, together, truths, method) for method in methods]
    clusters = len({one.cluster for one in truths})
    facts = {
        "software": f"napari-histomix {__version__}",
        "dataset": test.dataset,
        "question": test.question,
        "test": test.identity,
        "crops": len(test),
        "real": sum(not one.synthetic for one in truths),
        "synthetic": sum(one.synthetic for one in truths),
        "methods": methods[1:],
        "classes": sorted({one.kind for one in truths}),
        "clusters": clusters,
        "answers": dict(ANSWER_WORDS),
    }
    pairs, fleiss = _agreement(answers, truths)
    return Report(facts, tuple(readers), tuple(per_method), pairs, fleiss, _notes(test, answers, clusters))


def _notes(test: ReaderTest, answers: Answers, clusters: int) -> tuple[str, ...]:
    notes = [
        f"{reader} has answered {len(given)} of {len(test)} crops."
        for reader, given in answers.items()
        if len(given) < len(test)
    ]
    notes.append(
        f"{UNKNOWN}: too little to tell from. An AUC or kappa needs {LEAST} answers of either kind or crops in common, "
        f"its interval {FEWEST} patients or images; these crops come from {clusters}."
    )
    return tuple(notes)


def _reader(reader: str, given: Mapping[int, Given], truths: Sequence[Truth]) -> ReaderFigures:
    found = list(given.values())
    synthetic = [truths[one.crop].synthetic for one in found]
    called = [one.called_synthetic for one in found]
    hits = sum(call and truth for call, truth in zip(called, synthetic, strict=True))
    passes = sum(not call and not truth for call, truth in zip(called, synthetic, strict=True))
    count = sum(synthetic)
    return ReaderFigures(
        reader,
        len(found),
        len(truths),
        len(found) == len(truths),
        sum(one.times > 1 for one in found),
        share(hits + passes, len(found)),
        share(hits, count),
        share(passes, len(found) - count),
        auc([one.answer for one in found], synthetic, [truths[one.crop].cluster for one in found]),
        _median(found),
        _median([one for one in found if not truths[one.crop].synthetic]),
        _median([one for one in found if truths[one.crop].synthetic]),
    )


def _median(given: Sequence[Given]) -> float | None:
    return round(float(np.median([one.ms for one in given])) / 1000, 3) if given else None


def _method(reader: str, given: Mapping[int, Given], truths: Sequence[Truth], method: str) -> MethodFigures:
    own = [one for one in given.values() if truths[one.crop].method == method]
    called = share(sum(one.called_synthetic for one in own), len(own))
    compared = _NONE
    if method != GENUINE:
        both = own + [one for one in given.values() if not truths[one.crop].synthetic]
        synthetic = [truths[one.crop].synthetic for one in both]
        compared = auc([one.answer for one in both], synthetic, [truths[one.crop].cluster for one in both])
    return MethodFigures(reader, method, len(own), len(own), called, compared, _median(own), _tally(own))


def _tally(given: Sequence[Given]) -> tuple[int, int, int, int]:
    first, second, third, fourth = (sum(one.answer == answer for one in given) for answer in ANSWER_WORDS)
    return first, second, third, fourth


# All readers together: crops are what is resampled, whole patients or images at a time.


@dataclass(frozen=True, slots=True, eq=False)
class _Together:
    """Answers (crops, readers), 0 where there is none; whether each crop is synthetic (crops, 1), and its cluster."""

    answers: NDArray[np.int_]
    synthetic: NDArray[np.bool_]
    clusters: NDArray[np.str_]

    @classmethod
    def of(cls, answers: Answers, truths: Sequence[Truth]) -> Self:
        """The answers of all readers."""
        table = np.zeros((len(truths), len(answers)), int)
        for number, given in enumerate(answers.values()):
            for one in given.values():
                table[one.crop, number] = one.answer
        synthetic = np.array([[one.synthetic] for one in truths])
        return cls(table, synthetic, np.array([one.cluster for one in truths]))

    def only(self, crops: NDArray[np.bool_]) -> Self:
        """Some of the crops."""
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
        return clustered(values, list(self.clusters), figure, 0, least=1)

    def area(self) -> Estimate:
        """Mean over readers of their AUC."""
        counts = np.stack([self.answers == answer for answer in ANSWER_WORDS], axis=-1)
        kinds = np.stack([counts & self.synthetic[..., None], counts & ~self.synthetic[..., None]], axis=2).astype(
            float
        )
        if kinds.sum(axis=(0, 3)).min() < LEAST:
            return _NONE
        return clustered(
            kinds,
            list(self.clusters),
            lambda sums: np.asarray(auc_of_counts(sums[..., 0, :], sums[..., 1, :]).mean(axis=-1)),
            0,
        )


def _mean_reader(readers: Sequence[ReaderFigures], together: _Together) -> ReaderFigures:
    called, synthetic = together.answers >= CALLED_SYNTHETIC, together.synthetic
    fakes, reals = (together.only(kind[:, 0]) for kind in (synthetic, ~synthetic))
    return ReaderFigures(
        ALL,
        sum(one.answers for one in readers),
        len(synthetic),
        all(one.finished for one in readers),
        sum(one.changed for one in readers),
        together.share(called == synthetic),
        fakes.share(fakes.answers >= CALLED_SYNTHETIC),
        reals.share(reals.answers < CALLED_SYNTHETIC),
        together.area(),
        _mean([one.median_s for one in readers]),
        _mean([one.median_real_s for one in readers]),
        _mean([one.median_synthetic_s for one in readers]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return round(float(np.mean(known)), 3) if len(known) == len(values) else None


def _all_of_method(answers: Answers, together: _Together, truths: Sequence[Truth], method: str) -> MethodFigures:
    given = [one for some in answers.values() for one in some.values() if truths[one.crop].method == method]
    own = np.array([one.method == method for one in truths])
    shown = together.only(own)
    called = shown.share(shown.answers >= CALLED_SYNTHETIC)
    area = together.only(own | ~together.synthetic[:, 0]).area() if method != GENUINE else _NONE
    crops = len({one.crop for one in given})
    return MethodFigures(ALL, method, crops, len(given), called, area, _median(given), _tally(given))


def _agreement(answers: Answers, truths: Sequence[Truth]) -> tuple[tuple[PairFigures, ...], Estimate]:
    """Cohen's kappa of each two readers, and Fleiss' kappa of three or more on the crops that all answered."""
    pairs = []
    for (reader, one), (other, two) in combinations(answers.items(), 2):
        both = sorted(set(one) & set(two))
        calls = np.array([(one[crop].called_synthetic, two[crop].called_synthetic) for crop in both], bool).reshape(
            -1, 2
        )
        agreed = float((calls[:, 0] == calls[:, 1]).mean()) if both else None
        kappa = cohen_kappa(calls[:, 0], calls[:, 1], [truths[crop].cluster for crop in both])
        pairs.append(PairFigures(reader, other, len(both), agreed, kappa))
    shared = sorted(set.intersection(*(set(given) for given in answers.values())))
    if len(answers) < 3:
        return tuple(pairs), _NONE
    called = np.array([[given[crop].called_synthetic for given in answers.values()] for crop in shared], bool)
    clusters = [truths[crop].cluster for crop in shared]
    return tuple(pairs), fleiss_kappa(called.reshape(len(shared), len(answers)), clusters)
