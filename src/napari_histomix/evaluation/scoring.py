"""Score a dataset of predictions against the true one: pair images and classes by name, and say what has no partner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_histomix.datasets import Dataset, Entry
from napari_histomix.datasets.entries import UNCLASSIFIED
from napari_histomix.datasets.text_files import about
from napari_histomix.evaluation.class_agreement import ClassAgreement, class_agreement
from napari_histomix.evaluation.figures import markdown_table
from napari_histomix.evaluation.metrics import IMAGE_FIGURES, NucleusTally, Overlaps, mean
from napari_histomix.evaluation.predictions import alike, image_pairs, opened
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, drain

SHOWN = 5
"""Names of images that a sentence lists, and sentences of one kind that are told."""

SCALES = 1.05
"""Largest ratio of two images' µm/px that count as the same."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Scores:
    """What `score` found.

    Parameters
    ----------
    pred, truth : str
        Names of the datasets.
    images : tuple of str
        Images that were compared, by their names in the truth.
    missing_pred, missing_truth : tuple of str
        Images of the truth without a prediction, and of the predictions without a truth: they are not scored.
    per_image : mapping of str to mapping of str to float
        By image the figures of its segmentation (``dice``, ``aji``, ``aji_plus``, ``dq``, ``sq``, ``pq``); NaN where
        neither side has a nucleus. Empty where the datasets have no nuclei.
    nuclei : NucleusTally, optional
        Counts of nuclei by class, pooled over the images.
    classes : tuple of str
        Classes of nuclei that are compared; empty where the datasets share none.
    agreement : ClassAgreement, optional
        Of the images' classes, where images have one.
    notes : tuple of str
        What a person should know, in sentences.
    """

    pred: str
    truth: str
    images: tuple[str, ...]
    missing_pred: tuple[str, ...] = ()
    missing_truth: tuple[str, ...] = ()
    per_image: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    nuclei: NucleusTally | None = None
    classes: tuple[str, ...] = ()
    agreement: ClassAgreement | None = None
    notes: tuple[str, ...] = ()

    @property
    def empty_images(self) -> int:
        """Images without a nucleus on either side, which the means leave out."""
        return sum(bool(np.isnan(figures["pq"])) for figures in self.per_image.values())

    @property
    def segmentation(self) -> dict[str, float]:
        """Means of the images' figures, over images with a nucleus on at least one side."""
        return {key: mean(figures[key] for figures in self.per_image.values()) for key in IMAGE_FIGURES}

    def lines(self) -> list[str]:
        """Tables for people.

        Examples
        --------
        >>> from napari_histomix import load_sample
        >>> score(load_sample(), load_sample()).lines()[0]
        'HistoMix sample against HistoMix sample: 5 images'
        """
        count = len(self.images)
        lines = [f"{self.pred} against {self.truth}: {count:,} image" + ("" if count == 1 else "s")]
        if self.nuclei is not None:
            tally, empty = self.nuclei, self.empty_images
            left_out = f"; {empty:,} without a nucleus on either side left out" if empty else ""
            lines += ["", f"Segmentation, mean of {len(self.per_image) - empty:,} images{left_out}:"]
            lines += markdown_table(
                [[*IMAGE_FIGURES.values()], [_shown(value) for value in self.segmentation.values()]]
            )
            pooled = {"F_d": tally.f_d}
            if self.classes:
                pooled |= {"Acc": tally.accuracy, "mPQ+": tally.mpq_plus}
            lines += ["", "Nuclei, pooled over the images:"]
            lines += markdown_table([[*pooled], [_shown(value) for value in pooled.values()]])
            rows = [["class", "true", "predicted", "F_c", "DQ", "SQ", "PQ"]]
            for name in self.classes:
                numbers = [_shown(value) for value in (tally.f_c(name), *tally.panoptic(name))]
                rows.append([name, f"{tally.truth[name]:,}", f"{tally.pred[name]:,}", *numbers])
            lines += ["", *markdown_table(rows)] if self.classes else []
        if self.agreement is not None:
            agreement = self.agreement
            lines += ["", f"Classes of {agreement.count:,} images:"]
            overall = {"accuracy": agreement.accuracy, "macro F1": agreement.macro_f1, "quadratic κ": agreement.kappa}
            lines += markdown_table([[*overall], [_shown(value) for value in overall.values()]])
            lines += ["", *markdown_table([["class", "F1"], *([k, _shown(v)] for k, v in agreement.f1.items())])]
        return lines + ([""] if self.notes else []) + [f"Note: {note}" for note in self.notes]

    def values(self) -> dict[str, Any]:
        """All of it as plain JSON values; None is not a number.

        Examples
        --------
        >>> from napari_histomix import load_sample
        >>> score(load_sample(), load_sample()).values()["segmentation"]["pq"]
        1.0
        """
        result: dict[str, Any] = {
            "pred": self.pred,
            "truth": self.truth,
            "images": len(self.images),
            "missing_pred": list(self.missing_pred),
            "missing_truth": list(self.missing_truth),
            "notes": list(self.notes),
        }
        if self.nuclei is not None:
            tally = self.nuclei
            result |= {
                "empty_images": self.empty_images,
                "segmentation": _plain(self.segmentation),
                "per_image": {image: _plain(figures) for image, figures in self.per_image.items()},
                "f_d": _number(tally.f_d),
                "nuclei": {"true": tally.truth.total(), "predicted": tally.pred.total(), "pairs": tally.paired.total()},
            }
        if self.nuclei is not None and self.classes:
            result |= {
                "accuracy": _number(tally.accuracy),
                "mpq_plus": _number(tally.mpq_plus),
                "classes": {name: _class_values(tally, name) for name in self.classes},
                "confusion": _nested(tally.paired),
            }
        if self.agreement is not None:
            result["image_classes"] = {
                "images": self.agreement.count,
                "accuracy": _number(self.agreement.accuracy),
                "macro_f1": _number(self.agreement.macro_f1),
                "kappa": _number(self.agreement.kappa),
                "f1": _plain(self.agreement.f1),
            }
        return result

    def __repr__(self) -> str:
        return f"<Scores: {self.pred} against {self.truth}, {len(self.images):,} images>"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def score(
    pred: Dataset | Path | str,
    truth: Dataset | Path | str,
    *,
    mpp: float | None = None,
    split_parts: bool = False,
    order: Sequence[str] = (),
) -> Scores:
    """Score predictions against the truth: nuclei, or the classes of images.

    Images are paired by name, classes too (upper or lower case). For nuclei: Dice, AJI, AJI+, DQ, SQ and PQ as means
    over images; F_d, Acc, F_c by class and mPQ+ from counts pooled over all images. For images that carry a class:
    accuracy, F1 and quadratic weighted kappa. ``docs/metrics.md`` has the formulas and the policies.

    Parameters
    ----------
    pred, truth : Dataset or path
        In any format that ``open_dataset`` reads. Predictions may be a folder of label files alone, named as the
        images of the truth.
    mpp : float, optional
        Micrometers per pixel, where the data does not say it.
    split_parts : bool
        Read each connected part of an id as a nucleus of its own, on both sides.
    order : sequence of str
        Classes of images from the lowest grade to the highest, for kappa; their natural order by default.

    Returns
    -------
    Scores
        ``print`` shows it as tables, ``values()`` gives plain numbers.

    Raises
    ------
    HistomixError
        If no image has a partner, a pair differs in size, one side has nuclei and the other has none to compare, or
        nothing says the scale.

    Examples
    --------
    >>> from napari_histomix import load_sample
    >>> scores = score(load_sample(), load_sample())
    >>> scores.segmentation["aji"], scores.nuclei.f_c("lymphocyte")
    (1.0, 1.0)
    """
    with opened(pred, truth, mpp, split_parts=split_parts) as sides:
        return drain(score_datasets(*sides, order=order))


def score_datasets(pred: Dataset, truth: Dataset, *, order: Sequence[str] = ()) -> Job[Scores]:
    """As `score`, as a long job."""
    has_nuclei = pred.has_nuclei and truth.has_nuclei
    has_kinds = pred.has_kinds and truth.has_kinds
    if not has_nuclei and not has_kinds:
        what = ("nuclei", "images that carry a class") if truth.has_nuclei else ("images that carry a class", "nuclei")
        raise HistomixError(
            f"{truth.name} has {what[0]} but {pred.name} has {what[1]}; name predictions of what the truth holds."
        )
    partners = image_pairs(pred, truth)
    named = {entry.source.image: entry for entry in pred.entries}
    pairs = [(named[partners[entry.source.image]], entry) for entry in truth.entries if entry.source.image in partners]
    used = set(partners.values())
    missing_pred = tuple(entry.source.image for entry in truth.entries if entry.source.image not in partners)
    missing_truth = tuple(image for image in named if image not in used)
    if not pairs:
        raise HistomixError(
            f"No image of {pred.name} has the name of one of {truth.name} (such as {truth.entries[0].source.image!r}, "
            f"but {pred.entries[0].source.image!r}); give predictions the names of their images."
        )
    notes = [
        *_listed("{} of the truth without a prediction, not scored: {}", missing_pred),
        *_listed("{} of the predictions without a truth, not scored: {}", missing_truth),
    ]
    scores = Scores(pred.name, truth.name, tuple(true.source.image for _, true in pairs), missing_pred, missing_truth)
    if has_nuclei:
        scores = yield from _score_nuclei(scores, pred, truth, pairs, notes)
    if has_kinds:
        scores = replace(scores, agreement=_score_kinds(pairs, truth, order, notes))
    return replace(scores, notes=tuple(notes))


def _score_nuclei(
    scores: Scores, pred: Dataset, truth: Dataset, pairs: Sequence[tuple[Entry, Entry]], notes: list[str]
) -> Job[Scores]:
    same = _class_names(pred, truth)
    tally, per_image, failed = NucleusTally(), dict[str, dict[str, float]](), list[str]()
    said: tuple[list[str], list[str]] = [], []
    scales = 0
    for done, (predicted, true) in enumerate(pairs):
        yield Event("Scoring", done, len(pairs))
        image = true.source.image
        mpp = true.mpp if true.mpp is not None else predicted.mpp
        if mpp is None:
            raise HistomixError(
                f"{image}: nothing says how many µm one pixel is, which the pairing of nuclei needs; pass --mpp, "
                'or put {"mpp": 0.25} in dataset.json beside the truth.'
            )
        if predicted.mpp is not None and not 1 / SCALES < predicted.mpp / mpp < SCALES:
            scales += 1
        try:
            sides = pred.read(replace(predicted, mpp=mpp)), truth.read(replace(true, mpp=mpp))
        except HistomixError as error:
            failed.append(about(image, error))
            continue
        try:
            overlaps = Overlaps.of(*(side.instances for side in sides))
        except HistomixError as error:
            raise HistomixError(f"{image}: {str(error)[0].lower()}{str(error)[1:]}") from None
        per_image[image] = overlaps.figures()
        for sentences, side in zip(said, sides, strict=True):
            sentences += [note.sentence for note in side.notes if note.about != "types"]
        names = [_names_of(side, dataset) for side, dataset in zip(sides, (pred, truth), strict=True)]
        tally.add(overlaps, {number: same.get(name, name) for number, name in names[0].items()}, names[1], mpp)
    yield Event("Scoring", len(pairs), len(pairs))
    if not per_image:
        raise HistomixError(f"No pair of images can be read; the first: {failed[0]}", problems=failed)
    notes += [f"Skipped: {sentence}" for sentence in failed]
    for what, sentences in zip(("predictions", "truth"), said, strict=True):
        notes += [f"In the {what}, {sentence}" for sentence in sentences[:SHOWN]]
        notes += [f"In the {what}, {len(sentences) - SHOWN:,} more such sentences."] if sentences[SHOWN:] else []
    if scales:
        notes.append(f"{scales:,} predictions have another µm/px than the truth, which counts.")
    if not tally.truth.total() and not tally.pred.total():
        notes.append("Neither side has a nucleus in any image, so there is nothing to score.")
    if tally.truth[""]:
        notes.append(
            f"{tally.truth['']:,} nuclei of the truth have no class; what is predicted there counts for no class."
        )
    classes: tuple[str, ...] = ()
    if same:
        known = list(dict.fromkeys([kind.name for kind in truth.classes if kind.name in tally.classes]))
        classes = (*known, *(name for name in tally.classes if name not in known))
        if foreign := [name for name in tally.pred if name and name not in {kind.name for kind in truth.classes}]:
            notes.append(
                f"The truth has no class {', '.join(sorted(foreign))}; nuclei that are predicted so are wrong."
            )
    elif tally.classes:
        notes.append(
            f"No class has one name on both sides ({_names(truth)} in the truth, {_names(pred)} in the predictions), "
            "so classes are not scored."
        )
    return replace(scores, images=tuple(per_image), per_image=per_image, nuclei=tally, classes=classes)


def _class_names(pred: Dataset, truth: Dataset) -> dict[str, str]:
    """Name in the truth of each predicted class that means the same."""
    sides = [[kind.name for kind in dataset.classes if not _unknown(kind.name)] for dataset in (pred, truth)]
    return alike(*sides)


def _names(dataset: Dataset) -> str:
    return ", ".join(kind.name for kind in dataset.classes) or "none"


def _unknown(name: str) -> bool:
    return name.casefold() == UNCLASSIFIED


def _names_of(image: LabeledImage, dataset: Dataset) -> dict[int, str]:
    """Class names of an image's nuclei; "" where they have no class."""
    names = {kind.number: "" if _unknown(kind.name) else kind.name for kind in dataset.all_classes}
    return {number: names[kind] for number, kind in image.types.items()}


def _score_kinds(
    pairs: Sequence[tuple[Entry, Entry]], truth: Dataset, order: Sequence[str], notes: list[str]
) -> ClassAgreement:
    judged = [(predicted.kind, true.kind) for predicted, true in pairs if predicted.kind and true.kind]
    if len(judged) < len(pairs):
        notes.append(f"{len(pairs) - len(judged):,} pairs of images have no class on one side, and are not scored.")
    same = alike({kind for kind, _ in judged}, truth.kinds)
    predicted, true = [same.get(kind, kind) for kind, _ in judged], [kind for _, kind in judged]
    foreign = sorted(set(predicted) - set(true) - set(truth.kinds))
    if foreign:
        notes.append(f"The truth has no class {', '.join(foreign)}; images that are predicted so are wrong.")
    if order:
        given = {name.casefold() for name in order}
        unlisted = sorted(name for name in {*predicted, *true} if name.casefold() not in given)
        if unlisted or len(given) < len(order):
            what = f"leaves out {unlisted[0]}" if unlisted else "has a class twice"
            raise HistomixError(f"The order of the classes {what}; list each class once, from the lowest grade up.")
        names = {name.casefold(): name for name in {*predicted, *true}}
        order = [names.get(name.casefold(), name) for name in order]
    else:
        order = [*truth.kinds, *foreign]
        if len(order) > 2:
            notes.append(f"Kappa takes the classes in the order {', '.join(order)}; --order names another.")
    return class_agreement(predicted, true, order)


def _listed(sentence: str, names: Sequence[str]) -> Iterable[str]:
    if names:
        count = f"{len(names):,} image" + ("" if len(names) == 1 else "s")
        yield sentence.format(count, ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")) + "."


def _shown(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: _number(value) for key, value in values.items()}


def _class_values(tally: NucleusTally, name: str) -> dict[str, Any]:
    counts = {"true": tally.truth[name], "predicted": tally.pred[name]}
    return counts | {"f_c": _number(tally.f_c(name))} | _plain(tally.panoptic(name)._asdict())


def _nested(paired: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Pairs of nuclei by class: of the truth, then of the prediction."""
    table: dict[str, dict[str, int]] = {}
    for (true, pred), count in sorted(paired.items()):
        table.setdefault(true or UNCLASSIFIED, {})[pred or UNCLASSIFIED] = count
    return table
