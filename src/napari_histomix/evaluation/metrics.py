"""How well nuclei are segmented and classified: the figures of HoVer-Net's tables.

What two instance maps share is counted once, as a sparse contingency table (`Overlaps`), and every figure of an image
is made from it. Figures by class are made from counts that are pooled over all images (`NucleusTally`).

Where neither side has a nucleus, a figure is not a number (NaN) and means leave it out; where one side has, it is 0.

The source is Graham et al., "HoVer-Net: simultaneous segmentation and classification of nuclei in multi-tissue
histology images", Medical Image Analysis 58 (2019), with its ``compute_stats.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from napari_histomix.records import HistomixError

NAN = float("nan")

RADIUS_UM = 3.0
"""Farthest that the centers of one nucleus may lie apart in prediction and truth: 12 px at 40×, 6 px at 20×."""

IMAGE_FIGURES = {"dice": "Dice", "aji": "AJI", "aji_plus": "AJI+", "dq": "DQ", "sq": "SQ", "pq": "PQ"}
"""Figures of one image's segmentation, with their headings."""

_TINY = 1e-6  # as HoVer-Net's: of pairs with one IoU, the one that shares more pixels counts as the better


class Panoptic(NamedTuple):
    """Detection quality, segmentation quality, and their product."""

    dq: float
    sq: float
    pq: float


def panoptic(iou: float, pairs: float, extra: float, missed: float) -> Panoptic:
    """Panoptic quality from its counts.

    DQ = TP / (TP + FP/2 + FN/2), SQ = Σ IoU / TP, PQ = DQ · SQ.

    Parameters
    ----------
    iou : float
        Sum of the pairs' intersections over unions.
    pairs, extra, missed : float
        True positives, false positives, false negatives.

    Returns
    -------
    Panoptic
        NaN where there is nothing on either side; 0 where nothing is paired.

    References
    ----------
    Kirillov et al., "Panoptic segmentation", CVPR 2019.

    Examples
    --------
    >>> panoptic(1.5, 2, 1, 1)
    Panoptic(dq=0.6666666666666666, sq=0.75, pq=0.5)
    """
    if not pairs + extra + missed:
        return Panoptic(NAN, NAN, NAN)
    dq, sq = pairs / (pairs + extra / 2 + missed / 2), iou / pairs if pairs else 0.0
    return Panoptic(dq, sq, dq * sq)


class _Instances(NamedTuple):
    """Instances of a map in the order in which their first pixels come, by rows."""

    ids: NDArray[np.int64]
    areas: NDArray[np.int64]
    centers: NDArray[np.float64]  # (n, 2), row and column
    places: NDArray[np.int64]  # for every run of equal pixels, its instance's place in the order; -1 for background


def _instances(values: NDArray[np.int64], lengths: NDArray[np.int64], centers: NDArray[np.float64]) -> _Instances:
    ids, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    order = order[ids[order] != 0]
    rank = np.full(len(ids), -1)
    rank[order] = np.arange(len(order))
    places = rank[inverse]
    inside = places >= 0

    def total(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(places[inside], weights[inside], len(order)).astype(np.float64)

    areas = total(lengths.astype(float))
    means = np.stack([total(lengths * axis) for axis in centers.T], axis=1) / areas[:, None]
    return _Instances(ids[order], areas.astype(np.int64), means, places)


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """What the instances of a predicted and a true map share.

    Instances come in the order of their first pixels, so that no figure depends on how they are numbered.

    Parameters
    ----------
    pred_ids, truth_ids : (m,), (n,) int64
    pred_areas, truth_areas : (m,), (n,) int64
        In pixels.
    pred_centers, truth_centers : (m, 2), (n, 2) float64
        Mean row and column of each instance.
    pred, truth : (k,) int64
        Of the k pairs of instances that share pixels: places in ``pred_ids`` and ``truth_ids``.
    shared : (k,) int64
        Pixels that each of them shares.

    Examples
    --------
    >>> truth = np.array([[1, 1, 1, 0], [0, 0, 0, 2]])
    >>> pred = np.array([[0, 5, 5, 0], [0, 0, 0, 0]])
    >>> overlaps = Overlaps.of(pred, truth)
    >>> overlaps.shared.tolist(), overlaps.iou.round(2).tolist()
    ([2], [0.67])
    """

    pred_ids: NDArray[np.int64]
    truth_ids: NDArray[np.int64]
    pred_areas: NDArray[np.int64]
    truth_areas: NDArray[np.int64]
    pred_centers: NDArray[np.float64]
    truth_centers: NDArray[np.float64]
    pred: NDArray[np.int64]
    truth: NDArray[np.int64]
    shared: NDArray[np.int64]

    @classmethod
    def of(cls, pred: ArrayLike, truth: ArrayLike) -> Overlaps:
        """Compare two instance maps.

        Parameters
        ----------
        pred, truth : (H, W) int
            Instance maps, 0 = background.

        Returns
        -------
        Overlaps

        Raises
        ------
        HistomixError
            If they differ in size, or are no instance maps.

        """
        maps = [np.asarray(pred), np.asarray(truth)]
        for name, array in zip(("prediction", "truth"), maps, strict=True):
            if array.ndim != 2 or array.dtype.kind not in "iub" or (array.size and array.min() < 0):
                raise HistomixError(f"The {name} must be an instance map (H, W) of whole numbers, 0 for background.")
        (rows, cols), (true_rows, true_cols) = (array.shape for array in maps)
        if (rows, cols) != (true_rows, true_cols):
            raise HistomixError(
                f"The prediction is {cols}×{rows} pixels but the truth is {true_cols}×{true_rows}; "
                "bring both to one size."
            )
        flat = [array.astype(np.int64, copy=False).ravel() for array in maps]
        # Pixels come in runs within a row, of one instance on either side; there are far fewer runs than pixels.
        begins = np.ones((rows, cols), np.bool_)
        begins[:, 1:] = False
        for array in maps:
            begins[:, 1:] |= array[:, 1:] != array[:, :-1]
        starts = np.flatnonzero(begins)
        lengths = np.diff(np.append(starts, rows * cols))
        centers = np.stack([starts // max(cols, 1), starts % max(cols, 1) + (lengths - 1) / 2], axis=1)
        predicted, true = (_instances(values[starts], lengths, centers) for values in flat)
        both = (predicted.places >= 0) & (true.places >= 0)
        codes = true.places[both] * max(len(predicted.ids), 1) + predicted.places[both]
        pairs, inverse = np.unique(codes, return_inverse=True)
        shared = np.bincount(inverse, lengths[both], len(pairs)).astype(np.int64)
        in_truth, in_pred = np.divmod(pairs, max(len(predicted.ids), 1))
        sides = predicted.ids, true.ids, predicted.areas, true.areas, predicted.centers, true.centers
        return cls(*sides, in_pred, in_truth, shared)

    @property
    def empty(self) -> bool:
        """Whether there is no instance on either side."""
        return not len(self.pred_ids) and not len(self.truth_ids)

    @property
    def union(self) -> NDArray[np.int64]:
        """Pixels of the pairs that share some, (k,)."""
        return self.pred_areas[self.pred] + self.truth_areas[self.truth] - self.shared

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of the pairs that share pixels, (k,)."""
        return self.shared / self.union

    @property
    def matched(self) -> NDArray[np.int64]:
        """The pairs whose IoU is above 0.5, as places in ``pred`` and ``truth``: each instance is in one at most."""
        return np.flatnonzero(2 * self.shared > self.union)

    @property
    def dice(self) -> float:
        """Dice coefficient of foreground and foreground, 2 |A ∩ B| / (|A| + |B|); HoVer-Net's ``get_dice_1``.

        Examples
        --------
        >>> Overlaps.of([[1, 1, 0, 0]], [[0, 3, 3, 0]]).dice
        0.5
        """
        if self.empty:
            return NAN
        return float(2 * self.shared.sum() / (self.pred_areas.sum() + self.truth_areas.sum()))

    @property
    def aji(self) -> float:
        """Aggregated Jaccard index: Σ I / (Σ U + pixels of all instances that are in no pair).

        A true instance is paired with the prediction of the highest IoU, which may be paired repeatedly (Kumar et al.,
        "A dataset and a technique for generalized nuclear segmentation for computational pathology", IEEE TMI 36, 2017;
        as HoVer-Net's ``get_fast_aji``).

        Examples
        --------
        A prediction that covers two nuclei counts against both:

        >>> Overlaps.of([[1, 1, 1, 1]], [[1, 1, 2, 2]]).aji
        0.5
        """
        order = np.lexsort((self.pred, -self.shared / (self.union + _TINY), self.truth))
        best = order[np.unique(self.truth[order], return_index=True)[1]]
        return self._aggregated(best)

    @property
    def aji_plus(self) -> float:
        """AJI with pairs one to one, whose IoUs have the highest sum; HoVer-Net's ``get_fast_aji_plus``.

        Examples
        --------
        >>> round(Overlaps.of([[1, 1, 1, 1]], [[1, 1, 2, 2]]).aji_plus, 3)
        0.333
        """
        return self._aggregated(self._assigned())

    @property
    def panoptic(self) -> Panoptic:
        """Detection, segmentation and panoptic quality, of pairs with IoU above 0.5 (see `panoptic`).

        SQ is 0 where nothing is paired, and has no ε in its denominator, unlike HoVer-Net's ``get_fast_pq``.

        Examples
        --------
        >>> Overlaps.of([[1, 1, 1, 0, 0, 2]], [[1, 1, 1, 1, 0, 0]]).panoptic
        Panoptic(dq=0.6666666666666666, sq=0.75, pq=0.5)
        """
        pairs = len(self.matched)
        total = float(self.iou[self.matched].sum())
        return panoptic(total, pairs, len(self.pred_ids) - pairs, len(self.truth_ids) - pairs)

    @property
    def pq(self) -> float:
        """Panoptic quality (see `panoptic`).

        Examples
        --------
        >>> Overlaps.of(np.eye(3, dtype=int), np.eye(3, dtype=int)).pq
        1.0
        """
        return self.panoptic.pq

    def figures(self) -> dict[str, float]:
        """All figures of the segmentation, by the keys of ``IMAGE_FIGURES``.

        Examples
        --------
        >>> Overlaps.of([[1, 1, 0]], [[1, 1, 0]]).figures()
        {'dice': 1.0, 'aji': 1.0, 'aji_plus': 1.0, 'dq': 1.0, 'sq': 1.0, 'pq': 1.0}
        """
        return {"dice": self.dice, "aji": self.aji, "aji_plus": self.aji_plus, **self.panoptic._asdict()}

    def _aggregated(self, pairs: NDArray[np.int64]) -> float:
        if self.empty:
            return NAN
        alone = [np.ones(len(areas), np.bool_) for areas in (self.pred_areas, self.truth_areas)]
        alone[0][self.pred[pairs]] = alone[1][self.truth[pairs]] = False
        outside = self.pred_areas[alone[0]].sum() + self.truth_areas[alone[1]].sum()
        return float(self.shared[pairs].sum() / (self.union[pairs].sum() + outside))

    def _assigned(self) -> NDArray[np.int64]:
        """Pairs one to one with the highest sum of IoUs: every cluster of overlapping instances by itself."""
        if not len(self.shared):
            return np.zeros(0, np.int64)
        size = len(self.pred_ids) + len(self.truth_ids)
        edges = (self.pred, len(self.pred_ids) + self.truth)
        graph = coo_array((np.ones(len(self.shared), np.bool_), edges), (size, size))
        cluster = connected_components(graph, directed=False)[1][self.pred]
        order = np.argsort(cluster, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1)
        iou = self.shared / (self.union + _TINY)
        chosen = [group for group in groups if len(group) == 1]
        for group in groups:
            if len(group) > 1:
                preds, col = np.unique(self.pred[group], return_inverse=True)
                truths, row = np.unique(self.truth[group], return_inverse=True)
                gain, place = np.zeros((len(truths), len(preds))), np.full((len(truths), len(preds)), -1)
                gain[row, col], place[row, col] = iou[group], group
                best = place[linear_sum_assignment(gain, maximize=True)]
                chosen.append(best[best >= 0])
        return np.concatenate(chosen)


def pair_centers(
    pred: NDArray[np.float64], truth: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair points one to one with the least sum of distances, and keep the pairs that are near enough.

    As HoVer-Net's ``pair_coordinates``: pairs that are too far apart are dropped after the assignment, not before it.

    Parameters
    ----------
    pred, truth : (m, 2), (n, 2) float
        Rows and columns.
    radius : float
        Farthest that the points of a pair may lie apart, in pixels.

    Returns
    -------
    pred, truth : (k,) int64
        Places of the pairs' points.

    Examples
    --------
    >>> pred, truth = np.array([[0.0, 0.0], [50.0, 50.0]]), np.array([[90.0, 9.0], [3.0, 4.0]])
    >>> [places.tolist() for places in pair_centers(pred, truth, 12)]
    [[0], [1]]
    """
    distances = cdist(truth, pred)
    in_truth, in_pred = linear_sum_assignment(distances)
    near = distances[in_truth, in_pred] <= radius
    return in_pred[near], in_truth[near]


@dataclass(slots=True)
class NucleusTally:
    """Counts of nuclei by class, pooled over the images of a dataset; figures by class are made from them.

    The class of a nucleus is its name; "" is a nucleus without one. Where the truth has no class, the class that is
    predicted there is neither right nor wrong (HoVer-Net's ``exhaustive=False``).

    Parameters
    ----------
    paired : Counter of (str, str)
        Pairs by centers: their class in the truth and in the prediction.
    missed, extra : Counter of str
        Nuclei of the truth, and of the prediction, that are in no such pair, by class.
    matched : Counter of (str, str)
        Pairs with IoU above 0.5: their class in the truth and in the prediction.
    iou : Counter of str
        Sum of the IoUs of those that agree in class.
    truth, pred : Counter of str
        All nuclei by class.

    Examples
    --------
    >>> truth = np.array([[1, 1, 1, 0, 2, 2, 2, 0, 3]])
    >>> pred = np.array([[1, 1, 1, 0, 2, 2, 0, 0, 0]])
    >>> tally = NucleusTally()
    >>> tally.add(Overlaps.of(pred, truth), {1: "tumor", 2: "tumor"}, {1: "tumor", 2: "stromal", 3: "tumor"}, 0.25)
    >>> tally.f_d, tally.accuracy
    (0.8, 0.5)
    >>> tally.f_c("tumor"), tally.f_c("stromal"), tally.panoptic("tumor").pq
    (0.4, 0.0, 0.5)
    """

    paired: Counter[tuple[str, str]] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    extra: Counter[str] = field(default_factory=Counter)
    matched: Counter[tuple[str, str]] = field(default_factory=Counter)
    iou: dict[str, float] = field(default_factory=dict)
    truth: Counter[str] = field(default_factory=Counter)
    pred: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        overlaps: Overlaps,
        pred_classes: Mapping[int, str],
        truth_classes: Mapping[int, str],
        mpp: float,
        radius_um: float = RADIUS_UM,
    ) -> None:
        """Count the nuclei of one image.

        Parameters
        ----------
        overlaps : Overlaps
        pred_classes, truth_classes : mapping of int to str
            Class of each instance by id.
        mpp : float
            Micrometers per pixel, by which the radius becomes one in pixels.
        radius_um : float
            Farthest that the centers of a pair may lie apart.
        """
        preds = [pred_classes[number] for number in overlaps.pred_ids.tolist()]
        truths = [truth_classes[number] for number in overlaps.truth_ids.tolist()]
        self.pred.update(preds)
        self.truth.update(truths)
        in_pred, in_truth = pair_centers(overlaps.pred_centers, overlaps.truth_centers, radius_um / mpp)
        self.paired.update((truths[j], preds[i]) for i, j in zip(in_pred, in_truth, strict=True))
        self.extra.update(preds[i] for i in set(range(len(preds))) - set(in_pred.tolist()))
        self.missed.update(truths[j] for j in set(range(len(truths))) - set(in_truth.tolist()))
        matched, iou = overlaps.matched, overlaps.iou
        for i, j, value in zip(overlaps.pred[matched], overlaps.truth[matched], iou[matched], strict=True):
            self.matched[truths[j], preds[i]] += 1
            if truths[j] == preds[i]:
                self.iou[preds[i]] = self.iou.get(preds[i], 0.0) + float(value)

    @property
    def classes(self) -> list[str]:
        """Classes that occur on either side, in the order of their names."""
        return sorted({*self.truth, *self.pred} - {""})

    @property
    def f_d(self) -> float:
        """F1 of detection, whatever the classes: 2 TP / (2 TP + FP + FN), of pairs by centers."""
        pairs, alone = self.paired.total(), self.extra.total() + self.missed.total()
        return 2 * pairs / (2 * pairs + alone) if pairs + alone else NAN

    @property
    def accuracy(self) -> float:
        """Share of the pairs by centers that agree in class; NaN where nothing is paired."""
        judged = {classes: count for classes, count in self.paired.items() if classes[0]}
        total = sum(judged.values())
        return sum(count for (true, pred), count in judged.items() if true == pred) / total if total else NAN

    def f_c(self, name: str) -> float:
        """F1 of a class, in detection and classification together.

        F_c = 2 TP_c / (2 TP_c + 2 FP_c + 2 FN_c + FP_d + FN_d): of the pairs by centers, TP_c are of the class on both
        sides, FP_c in the prediction only, FN_c in the truth only; FP_d and FN_d are the nuclei of the class that are
        in no pair. The paper adds TN_c to TP_c. HoVer-Net's code, which the published tables come from, counts TN_c
        among the pairs with the class on at least one side, where there are none; so does this.

        Parameters
        ----------
        name : str
            The class.

        Returns
        -------
        float
            NaN where no nucleus is of the class.
        """
        right = self.paired[name, name]
        wrong = sum(count for (true, pred), count in self.paired.items() if true and (true == name) != (pred == name))
        total = 2 * right + 2 * wrong + self.extra[name] + self.missed[name]
        return 2 * right / total if total else NAN

    def panoptic(self, name: str) -> Panoptic:
        """Detection, segmentation and panoptic quality of a class, its nuclei pooled over all images.

        A pair has IoU above 0.5 and the class on both sides.

        Parameters
        ----------
        name : str
            The class.

        Returns
        -------
        Panoptic
            NaN where no nucleus is of the class.
        """
        pairs = self.matched[name, name]
        judged = self.pred[name] - self.matched["", name]
        return panoptic(self.iou.get(name, 0.0), pairs, judged - pairs, self.truth[name] - pairs)

    @property
    def mpq_plus(self) -> float:
        """Mean of the classes' PQ, each of counts that are pooled over all images.

        So no image without a nucleus of a class distorts it, as it distorts a mean of images' values (mPQ).

        References
        ----------
        Graham et al., "CoNIC: colon nuclei identification and counting challenge", arXiv 2111.14485.
        """
        return mean(self.panoptic(name).pq for name in self.classes)


def mean(values: Iterable[float]) -> float:
    """Mean of the values that are numbers; NaN where none is."""
    numbers = [value for value in values if not np.isnan(value)]
    return float(np.mean(numbers)) if numbers else NAN
