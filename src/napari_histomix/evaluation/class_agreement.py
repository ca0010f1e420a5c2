"""How well predicted classes of images agree with the true ones: accuracy, F1, quadratic weighted kappa."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from napari_histomix.evaluation.metrics import NAN, mean


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """How well predicted classes of images agree with the true ones.

    Parameters
    ----------
    count : int
        Images.
    accuracy : float
    f1 : mapping of str to float
        F1 of each class that occurs on either side, in their order.
    kappa : float
        Cohen's kappa with quadratic weights; NaN where only one class occurs.
    """

    count: int
    accuracy: float
    f1: Mapping[str, float]
    kappa: float

    @property
    def macro_f1(self) -> float:
        """Mean of the classes' F1."""
        return mean(self.f1.values())


def class_agreement(pred: Sequence[str], truth: Sequence[str], order: Sequence[str]) -> ClassAgreement:
    """Compare the classes of images.

    Accuracy, F1 = 2 TP / (2 TP + FP + FN) of each class, and kappa = 1 − Σ w O / Σ w E, with the observed (O) and
    expected (E) confusion matrices and w = (i − j)².

    Parameters
    ----------
    pred, truth : sequence of str
        Classes of the images, in one order of images.
    order : sequence of str
        All classes, from the lowest grade to the highest: kappa weighs an error by how many grades it is off.

    Returns
    -------
    ClassAgreement

    References
    ----------
    Cohen, "Weighted kappa", Psychological Bulletin 70 (1968); figures by scikit-learn.

    Examples
    --------
    >>> agreement = class_agreement(["low", "high", "high"], ["low", "mid", "high"], ["low", "mid", "high"])
    >>> round(agreement.accuracy, 2), round(agreement.kappa, 2), round(agreement.macro_f1, 2)
    (0.67, 0.8, 0.56)
    """
    from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

    if not truth:
        return ClassAgreement(0, NAN, {}, NAN)
    numbers = {name: number for number, name in enumerate(order)}
    predicted, true = ([numbers[name] for name in names] for names in (pred, truth))
    present = sorted({*predicted, *true})
    values = f1_score(true, predicted, labels=present, average=None, zero_division=0.0)
    kappa = NAN
    if len(present) > 1:
        with warnings.catch_warnings():
            # Each side has one class only, and not the same.
            warnings.simplefilter("ignore", RuntimeWarning)
            kappa = float(cohen_kappa_score(true, predicted, labels=list(range(len(order))), weights="quadratic"))
    f1 = {order[number]: float(value) for number, value in zip(present, values, strict=True)}
    return ClassAgreement(len(truth), float(accuracy_score(true, predicted)), f1, kappa)
