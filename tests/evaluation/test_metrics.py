"""The figures of predictions: as torchmetrics, scikit-learn and plain references have them, on real masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from napari_histomix.datasets import load_sample, open_dataset
from napari_histomix.evaluation.class_agreement import class_agreement
from napari_histomix.evaluation.metrics import IMAGE_FIGURES, NucleusTally, Overlaps, mean, pair_centers
from napari_histomix.records import HistomixError

CONSEP = Path(__file__).resolve().parents[3] / "shared" / "data" / "consep-train"
WAYS = ("eroded", "dropped", "merged", "shifted", "split")


def perturbed(instances: np.ndarray, way: str, rng: np.random.Generator) -> np.ndarray:
    """A prediction that errs in one way."""
    ids = np.unique(instances)[1:]
    pred = instances.copy()
    if way == "eroded":
        pred[ndimage.grey_erosion(instances, 3) != ndimage.grey_dilation(instances, 3)] = 0
    elif way == "dropped":
        pred[np.isin(instances, rng.choice(ids, len(ids) // 3, replace=False))] = 0
    elif way == "merged":
        chosen = rng.permutation(ids)
        for first, second in zip(chosen[::3], chosen[1::3], strict=False):
            pred[instances == second] = first
    elif way == "shifted":
        pred = np.roll(instances, (2, -3), (0, 1))
    elif way == "split":
        for number in rng.choice(ids, len(ids) // 4, replace=False):
            rows, _ = np.nonzero(instances == number)
            half = (instances == number) & (np.arange(len(instances))[:, None] > rows.mean())
            pred[half] = ids.max() + number
    return pred


def real_maps() -> list[tuple[str, np.ndarray, dict[int, int]]]:
    """Instance maps with their types: of the sample, and parts of CoNSeP where that is there."""
    sample = load_sample()
    chosen = [(sample, entry, 0) for entry in sample.entries[:2]]
    if CONSEP.is_dir():
        consep = open_dataset(CONSEP)
        chosen += [(consep, entry, 300) for entry in consep.entries[:2]]
    maps = []
    for dataset, entry, start in chosen:
        image = dataset.read(entry)
        window = np.s_[start : start + 240, start : start + 240]
        maps.append((entry.source.image[:12], image.instances[window], dict(image.types)))
    return maps


REAL = real_maps()
CASES = [pytest.param(index, way, id=f"{REAL[index][0]}-{way}") for index in range(len(REAL)) for way in WAYS]


def case(index: int, way: str) -> tuple[np.ndarray, np.ndarray]:
    _, truth, _ = REAL[index]
    return perturbed(truth, way, np.random.default_rng(index)), truth


def test_consep_is_compared_too():
    if not CONSEP.is_dir():
        pytest.skip("CoNSeP's training images are not beside the checkout")
    assert len(REAL) == 4


# Plain references, mask by mask.


def masks(instances: np.ndarray) -> list[np.ndarray]:
    return [instances == number for number in np.unique(instances) if number]


def pairwise(pred: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersections and unions (n, m)."""
    true, predicted = (np.array(masks(side), float).reshape(-1, side.size) for side in (truth, pred))
    shared = true @ predicted.T
    return shared, true.sum(1)[:, None] + predicted.sum(1) - shared


def plain_aji(pred: np.ndarray, truth: np.ndarray, *, one_to_one: bool) -> float:
    shared, union = pairwise(pred, truth)
    iou = shared / union
    if one_to_one:
        pairs = [(i, j) for i, j in zip(*linear_sum_assignment(-iou), strict=True) if iou[i, j] > 0]
    else:
        pairs = [(i, int(row.argmax())) for i, row in enumerate(iou) if row.max() > 0]
    below = sum(union[pair] for pair in pairs)
    below += sum(a.sum() for i, a in enumerate(masks(truth)) if i not in {i for i, _ in pairs})
    below += sum(b.sum() for j, b in enumerate(masks(pred)) if j not in {j for _, j in pairs})
    return sum(shared[pair] for pair in pairs) / below


@pytest.mark.parametrize(("index", "way"), CASES)
def test_segmentation_is_as_plain_references_have_it(index, way):
    pred, truth = case(index, way)
    figures = Overlaps.of(pred, truth).figures()
    foreground = (pred > 0) & (truth > 0)
    assert figures["dice"] == pytest.approx(2 * foreground.sum() / ((pred > 0).sum() + (truth > 0).sum()), abs=1e-12)
    assert figures["aji"] == pytest.approx(plain_aji(pred, truth, one_to_one=False), abs=1e-9)
    assert figures["aji_plus"] == pytest.approx(plain_aji(pred, truth, one_to_one=True), abs=1e-9)
    assert 0 < figures["pq"] < 1 and figures["pq"] == pytest.approx(figures["dq"] * figures["sq"])


@pytest.mark.parametrize(("index", "way"), CASES)
def test_panoptic_quality_is_that_of_torchmetrics(index, way):
    torch = pytest.importorskip("torch")
    detection = pytest.importorskip("torchmetrics.detection")
    pred, truth = case(index, way)
    metric = detection.PanopticQuality(things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True)
    sides = [torch.from_numpy(np.stack([side > 0, side], axis=-1).astype(np.int64))[None] for side in (pred, truth)]
    metric.update(*sides)
    pq, sq, dq = metric.compute()[0].tolist()
    ours = Overlaps.of(pred, truth).panoptic
    assert (ours.pq, ours.sq, ours.dq) == pytest.approx((pq, sq, dq), abs=1e-6)


def plain_types(images: list[tuple], names: list[str], radius: float) -> dict[str, float]:
    """F_d, Acc and F_c of each class, nucleus by nucleus, as HoVer-Net's code counts them."""
    pairs, missed, extra = [], [], []
    for pred, truth, pred_types, true_types in images:
        sides = []
        for instances, types in ((truth, true_types), (pred, pred_types)):
            ids = [number for number in np.unique(instances) if number]
            sides.append(([np.argwhere(instances == number).mean(0) for number in ids], [types[i] for i in ids]))
        (true_centers, true), (pred_centers, predicted) = sides
        far = np.array([[np.hypot(*(a - b)) for b in pred_centers] for a in true_centers])
        near = [(i, j) for i, j in zip(*linear_sum_assignment(far), strict=True) if far[i, j] <= radius]
        pairs += [(true[i], predicted[j]) for i, j in near]
        missed += [true[i] for i in set(range(len(true))) - {i for i, _ in near}]
        extra += [predicted[j] for j in set(range(len(predicted))) - {j for _, j in near}]
    figures = {"f_d": 2 * len(pairs) / (2 * len(pairs) + len(missed) + len(extra))}
    figures["accuracy"] = np.mean([a == b for a, b in pairs])
    for name in names:
        concerned = [(a == name, b == name) for a, b in pairs if name in (a, b)]
        right, only_pred, only_true = (concerned.count(pair) for pair in ((True, True), (False, True), (True, False)))
        below = 2 * right + 2 * only_pred + 2 * only_true + extra.count(name) + missed.count(name)
        figures[name] = 2 * right / below
    return figures


def plain_class_pq(images: list[tuple], name: str) -> float:
    """PQ of a class, of maps that hold this class alone, pooled as CoNIC's code does."""
    total, pairs, alone = 0.0, 0, 0
    for pred, truth, pred_types, true_types in images:
        only = [
            np.where(np.isin(side, [number for number, known in types.items() if known == name]), side, 0)
            for side, types in ((pred, pred_types), (truth, true_types))
        ]
        shared, union = pairwise(*only)
        if shared.size:
            iou = shared / union
            total, pairs = total + iou[iou > 0.5].sum(), pairs + (iou > 0.5).sum()
            alone -= 2 * (iou > 0.5).sum()
        alone += sum(len(masks(side)) for side in only)
    return total / (pairs + alone / 2)


def test_classes_are_as_plain_references_have_them():
    rng = np.random.default_rng(1)
    images, tally = [], NucleusTally()
    for index, way in [(index, WAYS[index % len(WAYS)]) for index in range(len(REAL))] + [(0, "merged"), (1, "split")]:
        pred, truth = case(index, way)
        types = {number: str(kind) for number, kind in REAL[index][2].items()}
        names = sorted(set(types.values()))
        # A class changed in one nucleus of four.
        guessed = {
            int(number): str(rng.choice(names)) if rng.random() < 0.25 else types.get(int(number), names[0])
            for number in np.unique(pred)[1:]
        }
        images.append((pred, truth, guessed, types))
        tally.add(Overlaps.of(pred, truth), guessed, types, 0.5)
    expected = plain_types(images, tally.classes, 6.0)
    assert tally.f_d == pytest.approx(expected["f_d"]) and tally.accuracy == pytest.approx(expected["accuracy"])
    assert len(tally.classes) > 2 and 0 < tally.accuracy < 1
    for name in tally.classes:
        assert tally.f_c(name) == pytest.approx(expected[name])
        assert tally.panoptic(name).pq == pytest.approx(plain_class_pq(images, name))
    assert tally.mpq_plus == pytest.approx(np.mean([plain_class_pq(images, name) for name in tally.classes]))


def test_centers_are_paired_before_the_far_ones_are_dropped():
    # The pair at distance 1 would be kept if far pairs were dropped first; the least sum is 7 + 4, not 1 + 12.
    pred, truth = np.array([[0.0, 7.0], [0.0, 12.0]]), np.array([[0.0, 0.0], [0.0, 8.0]])
    assert [places.tolist() for places in pair_centers(pred, truth, 12)] == [[0, 1], [0, 1]]
    assert [places.tolist() for places in pair_centers(pred, truth, 5)] == [[1], [1]]


@pytest.mark.parametrize(("mpp", "pairs"), [(0.25, 1), (0.5, 0)])
def test_the_radius_is_in_micrometers(mpp, pairs):
    truth, pred = np.zeros((40, 40), int), np.zeros((40, 40), int)
    truth[5, 5], pred[5, 15] = 1, 1
    tally = NucleusTally()
    tally.add(Overlaps.of(pred, truth), {1: "a"}, {1: "a"}, mpp)
    assert tally.paired.total() == pairs and tally.missed.total() == tally.extra.total() == 1 - pairs


def test_nuclei_without_a_true_class_judge_no_class():
    truth = np.array([[1, 1, 0, 2, 2, 0, 3, 3]])
    tally = NucleusTally()
    tally.add(Overlaps.of(truth, truth), {1: "a", 2: "a", 3: ""}, {1: "a", 2: "", 3: "a"}, 0.25)
    assert tally.f_d == 1 and tally.accuracy == 0.5
    assert tally.f_c("a") == 0.5 and tally.panoptic("a") == (2 / 3, 1, 2 / 3)
    assert tally.classes == ["a"]


# What holds for all maps.

maps = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).integers(0, 6, (4, 5)).repeat(3, 0))


@settings(max_examples=50, deadline=None)
@given(maps, maps, st.permutations(range(1, 6)))
def test_ids_do_not_matter(pred, truth, order):
    renamed = np.array([0, *(7 * number + 2**30 for number in order)])
    mpp, classes = 1.0, {number: "ab"[number % 2] for number in range(6)}
    tallies = [NucleusTally(), NucleusTally()]
    tallies[0].add(Overlaps.of(pred, truth), classes, classes, mpp)
    moved = {int(renamed[number]): name for number, name in classes.items()}
    tallies[1].add(Overlaps.of(renamed[pred], renamed[truth]), moved, moved, mpp)
    assert Overlaps.of(renamed[pred], renamed[truth]).figures() == Overlaps.of(pred, truth).figures()
    assert tallies[0].paired == tallies[1].paired and tallies[0].matched == tallies[1].matched


@settings(max_examples=50, deadline=None)
@given(maps)
def test_identical_maps_are_perfect(instances):
    overlaps, classes = Overlaps.of(instances, instances), dict.fromkeys(range(6), "a")
    assert set(overlaps.figures().values()) == {1.0}
    tally = NucleusTally()
    tally.add(overlaps, classes, classes, 0.25)
    assert (tally.f_d, tally.accuracy, tally.f_c("a"), tally.mpq_plus) == (1, 1, 1, 1)


@settings(max_examples=50, deadline=None)
@given(maps, maps)
def test_figures_lie_where_they_must(pred, truth):
    figures = Overlaps.of(pred, truth).figures()
    assert all(0 <= value <= 1 for value in figures.values())
    assert figures["aji"] <= figures["dice"] and figures["aji_plus"] <= figures["dice"]


def test_empty_images():
    nothing, something = np.zeros((6, 6), int), np.eye(6, dtype=int)
    assert all(np.isnan(value) for value in Overlaps.of(nothing, nothing).figures().values())
    for pair in ((nothing, something), (something, nothing)):
        assert Overlaps.of(*pair).figures() == dict.fromkeys(IMAGE_FIGURES, 0.0)
    tally = NucleusTally()
    tally.add(Overlaps.of(nothing, nothing), {}, {}, 0.25)
    assert np.isnan(tally.f_d) and np.isnan(tally.accuracy) and np.isnan(tally.mpq_plus) and np.isnan(tally.f_c("a"))
    tally.add(Overlaps.of(something, nothing), {1: "a"}, {}, 0.25)
    assert tally.f_d == tally.f_c("a") == tally.mpq_plus == 0 and np.isnan(tally.accuracy)
    assert np.isnan(mean([])) and mean([float("nan"), 0.5]) == 0.5


def test_without_a_single_pixel():
    assert np.isnan(Overlaps.of(np.zeros((0, 4), int), np.zeros((0, 4), int)).pq)


@pytest.mark.parametrize(
    ("pred", "sentence"),
    [
        (np.zeros((4, 6), int), "The prediction is 6×4 pixels but the truth is 5×4; bring both to one size."),
        (np.zeros((4, 5)), "The prediction must be an instance map"),
        (np.full((4, 5), -1), "The prediction must be an instance map"),
        (np.zeros((4, 5, 1), int), "The prediction must be an instance map"),
    ],
)
def test_what_is_no_pair_of_maps(pred, sentence):
    with pytest.raises(HistomixError, match=sentence):
        Overlaps.of(pred, np.zeros((4, 5), int))


# Classes of images.


def test_images_classes_are_as_plain_references_have_them():
    rng = np.random.default_rng(3)
    order = ["benign", "low", "high", "never"]
    truth = rng.choice(order[:3], 200).tolist()
    pred = [str(rng.choice(order[:3])) if rng.random() < 0.4 else name for name in truth]
    agreement = class_agreement(pred, truth, order)
    confusion = np.array(
        [[sum(t == a and p == b for t, p in zip(truth, pred, strict=True)) for b in order] for a in order]
    )
    weights = np.subtract.outer(range(4), range(4)) ** 2
    expected = np.outer(confusion.sum(1), confusion.sum(0)) / 200
    assert agreement.kappa == pytest.approx(1 - (weights * confusion).sum() / (weights * expected).sum())
    assert agreement.accuracy == pytest.approx(np.trace(confusion) / 200)
    assert list(agreement.f1) == order[:3]
    for number, name in enumerate(order[:3]):
        f1 = 2 * confusion[number, number] / (confusion[number].sum() + confusion[:, number].sum())
        assert agreement.f1[name] == pytest.approx(f1)
    assert agreement.macro_f1 == pytest.approx(np.mean([*agreement.f1.values()]))


def test_images_of_one_class_or_none():
    alone = class_agreement(["a", "a"], ["a", "a"], ["a", "b"])
    assert alone.accuracy == alone.macro_f1 == 1 and np.isnan(alone.kappa)
    wrong = class_agreement(["b", "b"], ["a", "a"], ["a", "b"])
    assert wrong.accuracy == wrong.macro_f1 == wrong.kappa == 0
    nothing = class_agreement([], [], ["a"])
    assert nothing.count == 0 and np.isnan(nothing.accuracy) and np.isnan(nothing.macro_f1)
