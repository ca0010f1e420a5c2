"""The place test: a planted difference of surroundings is found, places of no difference are not told apart."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from napari_histomix.datasets import open_dataset
from napari_histomix.evaluation.place_test import place_test, report_lines, report_values, write_report
from napari_histomix.methods.candidate_stage import CandidateSettings
from napari_histomix.records import HistomixError, drain

SETTINGS = CandidateSettings(rare=("rare",), background_share=0.0)
ROWS = [("texture-1", "gaussian"), ("texture-1", "ratio")]
ROWS += [(f"{name} and labeled nuclei", density) for name, density in ROWS]


@pytest.fixture(scope="module")
def images(labeled_image):
    """Ten patients' images with a darker left part, where all rare nuclei but one lie."""
    planted = []
    for seed in range(10):
        image = labeled_image(24, shape=(120, 260), seed=seed, name=f"image_{seed}", patient=f"p{seed}", rare=0)
        image.pixels[:, :130] = np.rint(0.8 * image.pixels[:, :130]).astype(np.uint8)
        columns = {number: np.nonzero(image.instances == number)[1].mean() for number in image.types}
        left = [number for number, column in columns.items() if column < 110]
        rare, away = left[:5], left[5:]
        if seed == 0:
            rare.append(max(columns, key=columns.__getitem__))
        types = {number: 1 if number in rare else 2 for number in image.types if number not in away}
        kept = np.isin(image.instances, list(types))
        planted.append(replace(image, types=types, instances=np.where(kept, image.instances, 0).astype(np.int32)))
    return planted


@pytest.fixture(scope="module")
def report(images, dataset_folder, tmp_path_factory):
    return drain(place_test(open_dataset(dataset_folder(tmp_path_factory.mktemp("planted") / "d", images)), SETTINGS))


def test_places_that_differ_in_stain_are_told_apart_on_images_that_nothing_was_learned_from(report):
    assert [(row.surroundings, row.density) for row in report.rows] == ROWS
    assert report.images == report.images_with_rare == report.groups == 10 and report.rare_places >= 30
    for row in report.rows:
        if row.density == "ratio":
            assert row.pooled.value > 0.9 and row.within.value > 0.9 and row.pooled.low > 0.8
        assert row.pooled.low <= row.pooled.value <= row.pooled.high


def test_shuffled_labels_give_an_interval_that_includes_one_half(images, dataset_folder, tmp_path):
    # Over all images: were every image to keep its number of rare nuclei, those that lie around would tell of the own.
    types = np.random.default_rng(2).permutation([number for image in images for number in image.types.values()])
    drawn = iter(types.tolist())
    shuffled = [replace(image, types={instance: next(drawn) for instance in image.types}) for image in images]
    found = drain(place_test(open_dataset(dataset_folder(tmp_path / "d", shuffled)), SETTINGS))
    for row in found.rows:
        assert row.pooled.low <= 0.5 <= row.pooled.high, row


def test_the_report_is_a_table_and_values(report, tmp_path):
    lines = report_lines(report)
    assert sum(line.startswith("| texture-1") for line in lines) == 4
    best = report.rows[1].within
    assert any(f"{best.value:.2f} ({best.low:.2f} to {best.high:.2f})" in line for line in lines)
    write_report(report, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(report_values(report))) and kept["rows"][1]["within"]["value"] == best.value
    assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8").splitlines() == lines


def test_the_command_prints_the_table_and_writes_it(run, images, dataset_folder, tmp_path):
    data = dataset_folder(tmp_path / "d", images[:2])
    code, out, err = run("place-test", data, "--rare", "rare", "--background-share", 0, "--out", tmp_path / "out")
    assert code == 0, err
    assert any(line.startswith("| texture-1 and labeled nuclei") for line in out)
    assert out[-1] == f"Written: {tmp_path / 'out'}"
    rows = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["rows"]
    assert rows[0]["pooled"]["value"] is not None and rows[0]["pooled"]["low"] is None, "of two patients: no interval"
    code, _, err = run("place-test", data, "--rare", "rare", "--out", tmp_path / "out")
    assert code == 1 and "already exists" in err[-1]


def test_what_cannot_be_tested_is_one_sentence(images, labeled_image, dataset_folder, tmp_path):
    one = open_dataset(dataset_folder(tmp_path / "one", [replace_patient(image, "p") for image in images[:2]]))
    with pytest.raises(HistomixError, match="All rare nuclei are of one patient or image"):
        drain(place_test(one, SETTINGS))
    few = open_dataset(dataset_folder(tmp_path / "few", [labeled_image(8, rare=2)]))
    with pytest.raises(HistomixError, match="takes 10 nuclei of class rare, and the training images have 2"):
        drain(place_test(few, SETTINGS))
    only = [labeled_image(8, rare=8, name=f"i{seed}", patient=f"p{seed}", seed=seed) for seed in range(2)]
    with pytest.raises(HistomixError, match="no place without a rare nucleus"):
        drain(place_test(open_dataset(dataset_folder(tmp_path / "only", only)), SETTINGS))


def replace_patient(image, patient):
    return replace(image, source=replace(image.source, patient=patient))
