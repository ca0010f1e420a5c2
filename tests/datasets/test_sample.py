from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import rgb2hed

from napari_histomix.datasets import SAMPLE_MAJORS, SAMPLE_RARE, load_sample, open_dataset, sample_folder, survey
from napari_histomix.records import drain

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sample():
    return load_sample()


def test_five_patients_and_a_notice(sample):
    assert len(sample.entries) == 5 and not sample.problems
    assert len({entry.source.patient for entry in sample.entries}) == 5
    assert all(entry.source.patient.startswith("TCGA-") for entry in sample.entries)
    assert "Copyright (c) 2022, TopoXLab" in (sample_folder() / "NOTICE").read_text(encoding="utf-8")


def test_small_enough_to_bundle():
    assert sum(path.stat().st_size for path in sample_folder().rglob("*") if path.is_file()) <= 4_000_000


def test_lymphocytes_are_rare_but_everywhere(sample):
    rare = sample.class_number(SAMPLE_RARE)
    majors = [sample.class_number(name) for name in SAMPLE_MAJORS]
    assert {rare, *majors} == {one.number for one in sample.classes}
    found = drain(survey(sample))
    assert not found.problems
    assert 30 <= found.total[rare] <= 60
    assert found.total[rare] < 0.15 * found.total.total()
    for counts in found.counts.values():
        assert all(counts[number] > 0 for number in (rare, *majors))


def test_every_mask_is_one_piece_and_sits_on_a_nucleus(sample):
    for entry in sample.entries:
        image = sample.read(entry)
        hematoxylin = rgb2hed(image.pixels)[..., 0]
        better = 0
        for index in image.types:
            mask = image.instances == index
            assert ndimage.label(mask)[1] == 1
            assert 30 <= mask.sum() <= 1000
            band = ndimage.binary_dilation(mask, iterations=4) & (image.instances == 0)
            better += hematoxylin[mask].mean() > hematoxylin[band].mean()
        inside, outside = image.instances > 0, image.instances == 0
        assert better >= 0.97 * len(image.types)
        assert hematoxylin[inside].mean() > 1.5 * hematoxylin[outside].mean()


def test_the_script_derives_the_bundled_labels(shared, tmp_path):
    script = ROOT / "scripts" / "make_sample.py"
    source = shared / "data" / "brca-m2c"
    subprocess.run([sys.executable, script, "--source", source, "--output", tmp_path], check=True, capture_output=True)
    made = load_made(tmp_path)
    for name, image in load_made(sample_folder()).items():
        assert np.array_equal(made[name].pixels, image.pixels)
        # Filters may round differently on another machine, by a pixel here and there.
        assert np.mean((made[name].instances > 0) != (image.instances > 0)) < 0.005


def load_made(folder):
    dataset = open_dataset(folder)
    return {entry.source.image: dataset.read(entry) for entry in dataset.entries}
