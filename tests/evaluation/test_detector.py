"""The detector test: it finds planted signs, finds none where there are none, and keeps apart what must be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mix_samples import SIDE, make_tissue
from reader_samples import make_changes
from sample_changes import image_change, study_of

from napari_histomix.datasets import Dataset, load_sample, open_any
from napari_histomix.datasets.pixels import read_pixels
from napari_histomix.evaluation import detector
from napari_histomix.evaluation.crops import group_of, tissue_square
from napari_histomix.evaluation.detector import (
    AREA,
    HARD_PASTE,
    UNFITTED,
    DetectorReport,
    DetectorSettings,
    MethodTest,
    detector_test,
    keep_scores,
)
from napari_histomix.evaluation.detector_folds import divided, learned_from
from napari_histomix.evaluation.detector_report import contact_sheet, report_lines, report_values
from napari_histomix.evaluation.detector_tissue import NO_EDGE, TOO_SMALL, signs, tissue_crops
from napari_histomix.evaluation.detector_windows import HIDDEN, NUCLEI, TISSUE, Crop, Crops, nuclei_crops
from napari_histomix.evaluation.figures import paired_auc
from napari_histomix.evaluation.kept_results import KeptResults
from napari_histomix.records import Change, HistomixError, drain
from napari_histomix.study import Study

FAST = DetectorSettings(epochs=1, folds=2)
DISC = np.hypot(*(np.mgrid[:48, :48] - 23.5)) < 9


@pytest.fixture(scope="module")
def tissue(shared: Path) -> list[Crop]:
    """Twenty crops of each of twelve real images."""
    dataset, rng = open_any(shared / "data" / "consep-train"), np.random.default_rng(0)
    crops: list[Crop] = []
    for entry in dataset.training[:12]:
        pixels, name = read_pixels(entry.image), entry.source.image
        squares = [tissue_square(name, pixels, 48, rng) for _ in range(20)]
        shown = [pixels[square.window].copy() for square in squares if square is not None]
        crops += [Crop(each, DISC, name, "colon", name, frozenset({name})) for each in shown]
    return crops


def made_of(crop: Crop, number: int, pixels: np.ndarray) -> Crop:
    """A crop that passes for a synthetic one."""
    return Crop(pixels, crop.nucleus, crop.image, crop.kind, crop.group, crop.groups, change=number, pasted=crop.pixels)


def found(crops: Sequence[Crop], settings: DetectorSettings, subject: str = NUCLEI) -> MethodTest:
    return drain(detector._tested(KeptResults(), 0, Path("study"), "planted", Crops(subject, crops), settings))


# The truth is planted.


def test_real_tissue_cannot_be_told_from_real_tissue(tissue):
    rng = np.random.default_rng(1)
    crops = [made_of(crop, number, crop.pixels) if rng.random() < 0.5 else crop for number, crop in enumerate(tissue)]
    result, _ = found(crops, DetectorSettings(epochs=3, folds=2)).results
    assert result.auc.low < 0.5 < result.auc.high
    assert result.same_image.low < 0.5 < result.same_image.high


def test_a_hard_paste_is_found_and_what_is_hidden_is_not(tissue):
    """A disc out of another image lies in every other crop; it is found unless it is hidden."""
    half = len(tissue) // 2
    crops = []
    for number, crop in enumerate(tissue):
        other = tissue[(number + half) % len(tissue)]
        pasted = np.where(DISC[..., None], other.pixels, crop.pixels)
        crops.append(made_of(crop, number, pasted) if number % 2 else crop)
    seen, area = found(crops, DetectorSettings(epochs=10, folds=2, hard_paste=False)).results
    assert seen.auc.value > 0.9
    # All discs are of one size.
    assert area.variant == AREA and area.auc.value == 0.5
    hidden, _ = found(crops, DetectorSettings(epochs=2, folds=2, hard_paste=False, hide=("nucleus",))).results
    assert hidden.auc.low < 0.5


def paired(crop: Crop, number: int, pixels: np.ndarray, origin: np.ndarray) -> list[Crop]:
    """A crop of tissue that passes for a synthetic one, and a real one of its place."""
    real = replace(crop, nucleus=np.zeros_like(DISC), pair=number)
    return [replace(real, pixels=pixels, origin=origin, change=number), real]


def test_real_tissue_in_pairs_cannot_be_told_apart(tissue):
    """Of two crops of an image one passes for synthetic, with an edge where there is none."""
    origin = DISC.astype(np.uint8)
    crops = [
        each
        for number, (crop, other) in enumerate(zip(tissue[::2], tissue[1::2], strict=True))
        for each in paired(crop, number, other.pixels, origin)
    ]
    settings = DetectorSettings(tissue_steps=30, folds=2, hard_paste=False)
    (result,) = found(crops, settings, TISSUE).results
    assert result.auc.low < 0.5 < result.auc.high
    assert result.same_image.low < 0.5 < result.same_image.high


def test_few_hard_pastes_of_tissue_are_found(tissue):
    """Forty discs out of other images, of which half are learned from."""
    origin = DISC.astype(np.uint8)
    crops = []
    for number, crop in enumerate(tissue[::6]):
        other = tissue[(6 * number + len(tissue) // 2) % len(tissue)]
        crops += paired(crop, number, np.where(DISC[..., None], other.pixels, crop.pixels), origin)
    settings = DetectorSettings(tissue_steps=120, folds=2, hard_paste=False)
    (result,) = found(crops, settings, TISSUE).results
    assert result.auc.value > 0.9


# What is learned from, and how pairs are counted.


def crop_of(group: str, donor: int | None = None, nucleus: int = 0, donor_group: str = "") -> Crop:
    """A real nucleus of a group, or a copy of a donor in it."""
    pixels, groups = np.zeros((16, 16, 3), np.uint8), frozenset({group, donor_group or group})
    part = (donor_group, donor) if donor is not None else (group, nucleus)
    change = None if donor is None else 0
    return Crop(pixels, np.zeros((16, 16), bool), group, "a", group, groups, frozenset({part}), change)


def test_a_network_never_learns_from_a_donor_that_it_scores():
    crops = [
        crop_of("tested", 1, donor_group="other"),
        crop_of("tested", nucleus=5),
        crop_of("other", nucleus=1),  # the donor itself
        crop_of("third", 1, donor_group="other"),  # another copy of it
        crop_of("third", 5, donor_group="tested"),  # a copy of a tested nucleus
        crop_of("third", nucleus=2),
        crop_of("third", 2, donor_group="other"),
    ]
    folds = np.array([0, 0, 1, 1, 1, 1, 1])
    assert learned_from(crops, folds, 0, False, True).tolist() == [False] * 5 + [True] * 2
    assert learned_from(crops, folds, 0, True, True).tolist() == [False] * 2 + [True] * 5


def test_folds_hold_whole_groups_and_some_of_both_kinds():
    rng = np.random.default_rng(0)
    groups, synthetic = rng.integers(20, size=300), rng.random(300) < 0.3
    folds = divided(groups, synthetic, 5, 0)
    assert all(len(set(folds[groups == group])) == 1 for group in range(20))
    shares = [np.bincount(folds[kind], minlength=5) / kind.sum() for kind in (synthetic, ~synthetic)]
    assert np.min(shares) > 0.1 and np.max(shares) < 0.3


def test_pairs_are_of_one_stratum_and_the_interval_resamples_clusters():
    rng = np.random.default_rng(0)
    synthetic, clusters = rng.random(400) < 0.5, np.repeat(np.arange(20), 20)
    strata = clusters % 4
    scores = rng.normal(size=400) + synthetic
    estimate = paired_auc(scores, synthetic, clusters, strata)
    # Whatever a stratum adds to all of its scores does not matter.
    assert paired_auc(scores + 100 * strata, synthetic, clusters, strata) == estimate
    assert estimate.low < 0.76 < estimate.high and estimate.high - estimate.low < 0.2
    few = paired_auc(scores, synthetic, clusters % 5, strata)
    assert few.value == estimate.value and few.low is None
    assert paired_auc(scores, synthetic, clusters, np.arange(400)).value is None


# Out of studies.


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Nuclei of two classes in the bundled sample."""
    sample = load_sample()
    changes = make_changes(sample, "tumor", 12)
    changes += make_changes(sample, "stromal", 6, first=len(changes))
    return study_of(tmp_path_factory.mktemp("nuclei") / "study", sample, changes)


def test_crops_show_one_change_and_real_nuclei_that_could_be_donors(study):
    dataset = study.open_images()
    crops = drain(nuclei_crops(dataset, study.changes(), DetectorSettings())).crops
    made, real = ([crop for crop in crops if crop.synthetic == kind] for kind in (True, False))
    assert made and len(real) >= len(made) and {crop.kind for crop in real} == {crop.kind for crop in made}
    for crop in made:
        change, image = study.change(crop.change), dataset.read(crop.image)
        (donor,) = crop.parts
        assert donor == (change.donor.image, change.donor.item)
        assert group_of(dataset.entry(change.donor.image).source) in crop.groups
        # Of the change alone, and its hard paste of the donor's pixels alone.
        differs = (crop.pixels != crop.pasted).any(axis=2)
        assert differs.any() and not differs[crop.nucleus].any()
        assert not (crop.hidden("nucleus") & crop.hidden("surroundings")).any()
        assert not differs[crop.hidden("surroundings")].any() or crop.replaced
        assert image.pixels.shape[0] >= crop.pixels.shape[0]
    for crop in real:
        ((name, instance),) = crop.parts
        image = dataset.read(name)
        row, col = np.argwhere(image.instances == instance).mean(axis=0).round().astype(int)
        window = slice(row - 24, row + 24), slice(col - 24, col + 24)
        assert np.array_equal(crop.pixels, image.pixels[window])
        assert np.array_equal(crop.nucleus, image.instances[window] == instance)


def test_a_report_has_every_method_with_its_hard_paste_and_review_gets_the_scores(study, tmp_path):
    study.decide("change", [0, 1], "reject")
    settings = DetectorSettings(epochs=1, folds=2, most=30, side=24, hide=tuple(HIDDEN))
    report = drain(detector_test([study], settings))
    (test,) = report.tests
    assert [result.hide for result in test.results] == [*(hide for hide in HIDDEN for _ in range(2)), ""]
    assert {result.variant for result in test.results} == {test.method, HARD_PASTE, AREA}
    text = "\n".join(report_lines(report))
    assert test.method in text and "fewer than ten" in text
    assert json.loads(json.dumps(report_values(report)))["tests"][0]["synthetic"] == test.counts[1]
    assert contact_sheet(report).ndim == 3
    keep_scores(report, study)
    kept = study.detectability()
    assert kept == dict(test.percentiles) and not {0, 1} & kept.keys()
    assert all(0 <= value <= 100 for value in kept.values())
    study.undo("change")


def test_a_killed_test_goes_on_to_the_same_report(study, tmp_path):
    settings = DetectorSettings(epochs=1, folds=2, most=30, side=24, hide=("nothing", "rim"))
    whole = report_values(drain(detector_test([study], settings, keep=tmp_path / "whole")))
    job = detector_test([study], settings, keep=tmp_path / "killed")
    while len(list((tmp_path / "killed").glob("*.npz"))) < 3:
        next(job)
    job.close()
    with pytest.raises(HistomixError, match="already exists"):
        next(detector_test([study], settings, keep=tmp_path / "killed"))
    other = DetectorSettings(epochs=2, folds=2)
    with pytest.raises(HistomixError, match="other images, models or settings"):
        drain(detector_test([study], other, keep=tmp_path / "killed", resume=True))
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.npz")}
    resumed = report_values(drain(detector_test([study], settings, keep=tmp_path / "killed", resume=True)))
    assert resumed == whole
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


# Tissue.

MIXED = (("grade 2/one", "grade 2/two"), ("grade 2/two", "grade 2/three"), ("grade 2/three", "grade 2/one"))
"""Targets, each with its donor."""


def mixes(dataset: Dataset, pairs: Iterable[tuple[str, str]] = MIXED) -> list[Change]:
    """The lower half of a donor in its target, and eight painted rows between them."""
    changes = []
    for number, (target, donor) in enumerate(pairs):
        image, other = dataset.read(target), dataset.read(donor)
        origin = np.zeros(image.pixels.shape[:2], np.uint8)
        origin[48:], origin[44:52] = 1, 2
        pixels = np.where(origin[..., None] == 1, other.pixels, image.pixels)
        pixels[origin == 2] = 128
        facts = {"partner": {"size": [SIDE, SIDE], "scaled": [SIDE, SIDE], "corner": [0, 0]}}
        change = image_change(number, target, image.kind, pixels, origin, (donor,), facts, method="cutmix")
        changes.append(change)
    return changes


def test_tissue_is_shown_along_its_edges_beside_the_very_same_places(tmp_path):
    dataset = make_tissue(tmp_path / "tissue")
    study = study_of(tmp_path / "study", dataset, mixes(dataset))
    settings = DetectorSettings(folds=2, tissue_side=32, tissue_steps=2)
    crops = drain(tissue_crops(study.open_images(), study.changes(), settings)).crops
    made = {crop.pair: crop for crop in crops if crop.synthetic}
    assert len(made) >= 9 and len(crops) == 3 * len(made)
    for crop in crops:
        own = made[crop.pair]
        # They are learned from, or scored, together.
        assert (crop.group, crop.parts, crop.kind) == (own.group, own.parts, "grade 2")
        if crop is own:
            edges, pasted_edges = (signs(crop.origin, pasted=pasted).any(axis=1) for pasted in (False, True))
            assert edges[16] and pasted_edges.sum() == 2 and (crop.origin[pasted_edges].max(axis=1) > 0).any()
            # What is painted is the target's own in a hard paste.
            differs = (crop.pixels != crop.pasted).any(axis=2)
            assert differs.any() and (crop.origin[differs] == 2).all()
        elif crop.image == own.image:
            assert np.array_equal(crop.pixels[own.origin == 0], own.pixels[own.origin == 0])
            assert (crop.pixels[own.origin == 1] != own.pixels[own.origin == 1]).any()
        else:
            ((donor, _),) = own.parts
            assert crop.image == donor
            assert np.array_equal(crop.pixels[own.origin == 1], own.pixels[own.origin == 1])
    report = drain(detector_test([study], settings))
    (test,) = report.tests
    assert test.crops.subject == TISSUE and [result.hide for result in test.results] == ["nothing"] * 2
    assert test.percentiles.keys() == {0, 1, 2} and test.counts[2] == 3
    # Four columns of pictures twice as large: synthetic, not blended, before, and real ones.
    assert contact_sheet(report).shape[1] >= 4 * 64
    with pytest.raises(HistomixError, match="other images, models or settings"):
        kept = tmp_path / "kept"
        drain(detector_test([study], settings, keep=kept))
        drain(detector_test([study], replace(settings, tissue_steps=3), keep=kept, resume=True))


def test_tissue_that_was_turned_is_also_tested_as_it_was(tmp_path):
    dataset = make_tissue(tmp_path / "tissue")
    changes = mixes(dataset)
    turned = [replace(change, pixels=change.pixels[:, ::-1].copy()) for change in changes]
    settings = DetectorSettings(folds=2, tissue_side=32, tissue_steps=2)
    (test,) = drain(detector_test([study_of(tmp_path / "study", dataset, turned)], settings)).tests
    assert [result.variant for result in test.results] == [test.method, HARD_PASTE, UNFITTED]
    for crop in test.crops.crops:
        assert (crop.unfitted is None) != crop.synthetic
    assert "| unfitted paste |" in "\n".join(report_lines(DetectorReport(settings, (test,), ())))


def test_tissue_that_cannot_be_tested_is_said_in_a_sentence(tmp_path):
    dataset = make_tissue(tmp_path / "tissue")
    settings = DetectorSettings(folds=2, tissue_side=32, tissue_steps=2, hard_paste=False)

    def test_of(name: str, changes: list[Change], settings: DetectorSettings = settings) -> DetectorReport:
        return drain(detector_test([study_of(tmp_path / name, dataset, changes)], settings))

    donors = "grade 2/two", "grade 2/three", "grade 3/four"
    with pytest.raises(HistomixError, match=r"one patient or image \(Ann\)"):
        test_of("one", mixes(dataset, [("grade 2/one", donor) for donor in donors]))
    with pytest.raises(HistomixError, match="2 synthetic and 4 real crops"):
        test_of("few", mixes(dataset, MIXED[:2]), replace(settings, per_image=1))
    # Where two targets share a donor, nothing is left to learn from.
    shared = mixes(dataset, [(target, "grade 3/four") for target, _ in MIXED])
    with pytest.raises(HistomixError, match="--shared-donors"):
        test_of("shared", shared)
    assert test_of("lifted", shared, replace(settings, shared_donors=True)).tests
    with pytest.raises(HistomixError, match=f"0 synthetic .*; {TOO_SMALL}: 3"):
        test_of("large", mixes(dataset), replace(settings, tissue_side=SIDE + 1))
    unchanged = [replace(change, origin=np.zeros_like(change.origin)) for change in mixes(dataset)]
    refusals = drain(tissue_crops(dataset, unchanged, settings)).refusals
    assert refusals == {NO_EDGE: 3}


def test_a_class_without_mixes_does_not_matter(tmp_path):
    dataset = make_tissue(tmp_path / "tissue")
    study = study_of(tmp_path / "study", dataset, mixes(dataset))
    (test,) = drain(detector_test([study], DetectorSettings(folds=2, tissue_side=32, tissue_steps=2))).tests
    assert {entry.kind for entry in dataset.training} == {"grade 2", "grade 3"}
    assert {crop.kind for crop in test.crops.crops} == {"grade 2"}


# Bad input.


def test_what_cannot_be_tested_is_said_in_a_sentence(tmp_path):
    sample = load_sample()
    with pytest.raises(HistomixError, match="holds no changes"):
        drain(detector_test([study_of(tmp_path / "empty", sample, [])], FAST))
    few = study_of(tmp_path / "few", sample, make_changes(sample, "tumor", 1)[:2])
    with pytest.raises(HistomixError, match="too few to tell"):
        drain(detector_test([few], FAST))
    one = [crop_of("only", 1, donor_group="only") for _ in range(6)] + [crop_of("only", nucleus=n) for n in range(6)]
    with pytest.raises(HistomixError, match="one patient or image"):
        found(one, FAST)
    reused = [crop_of(group, 1, donor_group="d") for group in "abc" * 3]
    reused += [crop_of(group, nucleus=number) for number, group in enumerate("abc" * 3)]
    with pytest.raises(HistomixError, match="--shared-donors"):
        found(reused, FAST)
    assert found(reused, DetectorSettings(epochs=1, folds=2, shared_donors=True)).results


def test_a_method_with_too_few_changes_is_a_note_where_another_can_be_tested(tmp_path):
    sample = load_sample()
    changes = make_changes(sample, "tumor", 12)
    other = replace(make_changes(sample, "tumor", 1, first=len(changes))[0], method="copypaste")
    study = study_of(tmp_path / "study", sample, changes)
    study.add_changes(study.begin_run("copypaste", {}).id, [other])
    report = drain(detector_test([study], DetectorSettings(epochs=1, folds=2, most=40, side=24, hard_paste=False)))
    assert len(report.tests) == 1 and any("too few to tell" in note for note in report.notes)


def test_the_command_writes_a_report_and_keeps_scores(study, run, tmp_path):
    out = tmp_path / "report"
    common = ("detect-test", study.folder, "--epochs", 1, "--folds", 2, "--most", 30, "--side", 24, "--out", out)
    code, text, _ = run(*common, "--hide", "nothing", "rim", "--json")
    assert code == 0 and json.loads(text[-1])["tests"][0]["subject"] == "nuclei"
    assert sorted(path.name for path in out.iterdir()) == ["crops.png", "report.json", "report.md"]
    assert not out.with_name("report.partial").exists()
    assert study.detectability()
    code, _, error = run(*common)
    assert code == 1 and "already exists" in error[-1]
    code, _, error = run("detect-test", study.folder, "--resume")
    assert code == 2 and "--out" in error[-1]
