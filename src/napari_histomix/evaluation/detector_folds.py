"""Crops of a detector test, divided so that no network learns from what it scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_histomix.evaluation.detector_windows import Crop, Crops
from napari_histomix.evaluation.figures import LEAST
from napari_histomix.records import HistomixError

if TYPE_CHECKING:
    from napari_histomix.evaluation.detector import DetectorSettings


class UntestableError(HistomixError):
    """There are too few crops of one method to learn or to tell anything from."""


@dataclass(frozen=True, eq=False)
class CropTable:
    """Crops as arrays: kind, group, image and fold (N,) as numbers, and which are synthetic."""

    crops: Sequence[Crop]
    synthetic: NDArray[np.bool_]
    kinds: NDArray[np.intp]
    groups: NDArray[np.intp]
    images: NDArray[np.intp]
    folds: NDArray[np.intp]

    @property
    def pair_up(self) -> NDArray[np.intp]:
        """Crops are compared with those of their fold and class: other folds have other networks."""
        return self.folds * (int(self.kinds.max()) + 1) + self.kinds


def _numbered(names: Sequence[str]) -> NDArray[np.intp]:
    return np.unique(np.asarray(names), return_inverse=True)[1].astype(np.intp)


def divided(groups: NDArray[np.intp], synthetic: NDArray[np.bool_], folds: int, seed: int) -> NDArray[np.intp]:
    """Fold of each crop (N,): groups go, the largest first, where there is the most room for their crops.

    Real and synthetic crops are counted apart, each as a share of its kind, so that folds have some of both.
    """
    count = int(groups.max()) + 1
    kinds = synthetic, ~synthetic
    shares = np.stack([np.bincount(groups[kind], minlength=count) / max(int(kind.sum()), 1) for kind in kinds])
    order = np.random.default_rng([seed, 3]).permutation(count)
    order = order[np.argsort(-shares.sum(axis=0)[order], kind="stable")]
    filled, place = np.zeros((2, folds)), np.zeros(count, np.intp)
    for group in order:
        place[group] = int(((filled + shares[:, [group]]) ** 2 - filled**2).sum(axis=0).argmin())
        filled[:, place[group]] += shares[:, group]
    return place[groups]


def table_of(crops: Crops, method: str, settings: DetectorSettings) -> CropTable:
    """Crops of classes that have both kinds, divided into folds; HistomixError where there is nothing to learn from."""
    both = {crop.kind for crop in crops.crops if crop.synthetic} & {
        crop.kind for crop in crops.crops if not crop.synthetic
    }
    shown = [crop for crop in crops.crops if crop.kind in both]
    synthetic = np.array([crop.synthetic for crop in shown], bool)
    made = int(synthetic.sum())
    if min(made, len(shown) - made) < LEAST:
        why = "".join(f"; {reason}: {count}" for reason, count in crops.refusals.items())
        raise UntestableError(
            f"{method}: {made} synthetic and {len(shown) - made} real crops of their classes are too few to tell "
            f"anything ({LEAST} of each at least{why}); make more, or add images."
        )
    groups = _numbered([crop.group for crop in shown])
    if groups.max() == 0:
        raise UntestableError(
            f"{method}: all crops are of one patient or image ({shown[0].group}); a detector that is scored on what it "
            "has not learned from needs two at least."
        )
    folds = divided(groups, synthetic, min(settings.folds, int(groups.max()) + 1), settings.seed)
    kinds, images = (_numbered([getattr(crop, name) for crop in shown]) for name in ("kind", "image"))
    return CropTable(shown, synthetic, kinds, groups, images, folds)


def learned_from(
    crops: Sequence[Crop], folds: NDArray[np.intp], fold: int, shared_donors: bool, donors_apart: bool
) -> NDArray[np.bool_]:
    """Which crops (N,) the network of a fold learns from; see `detector_test`.

    ``donors_apart`` says that synthetic crops with a donor of a group in the fold are left out, too.
    """
    tested = [crop for crop, own in zip(crops, folds, strict=True) if own == fold]
    if shared_donors:
        return folds != fold
    groups = {crop.group for crop in tested} if donors_apart else set()
    parts = {part for crop in tested for part in crop.parts}
    return np.array(
        [
            own != fold and not (crop.groups & groups) and not (crop.parts & parts)
            for crop, own in zip(crops, folds, strict=True)
        ],
        bool,
    )


def balanced_weights(kinds: NDArray[np.intp], synthetic: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights (N,) by which real and synthetic crops of a class count alike, and classes by their size; mean 1.

    A class of which one kind is missing counts nothing: it would tell by what it is.
    """
    weights = np.zeros(len(kinds))
    for kind in np.unique(kinds):
        rows = [np.flatnonzero((kinds == kind) & (synthetic == made)) for made in (False, True)]
        if all(map(len, rows)):
            total = sum(map(len, rows))
            for part in rows:
                weights[part] = total / (2 * len(part))
    return weights
