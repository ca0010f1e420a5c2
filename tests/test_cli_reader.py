"""Reader tests from the command line: made out of studies, reported on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mix_samples import make_mix_study
from PIL import Image
from reader_samples import guessing, make_changes, make_reader_study, read_all
from sample_changes import image_change, study_of

from napari_histomix.datasets import load_sample, open_tissue, sample_folder
from napari_histomix.evaluation.reader_test.folder import ReaderTest


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> tuple[Path, Path]:
    """Two studies of the sample; of the first, half is approved."""
    folder, dataset = tmp_path_factory.mktemp("studies"), load_sample()
    changes = make_changes(dataset)
    make_reader_study(folder / "one", dataset, changes, approved=len(changes) // 2)
    make_reader_study(folder / "two", dataset, make_changes(dataset, "stromal", 3), approved=0)
    return folder / "one", folder / "two"


def test_a_test_is_made_of_what_is_approved_answered_and_reported(studies, run, tmp_path) -> None:
    out = tmp_path / "test"
    code, text, _ = run(
        "reader-test", "make", sample_folder(), "--study", studies[0], "--out", out, "--per-kind", 4, "--json"
    )
    made = json.loads(text[-1])
    assert code == 0 and made == {"out": str(out), "crops": 8, "real": 4, "synthetic": 4}
    test = ReaderTest.open(out)
    truths = test.truth()
    half = len(make_changes(load_sample())) // 2
    assert all(one.facts["change"] < half for one in truths if one.synthetic)
    for number, reader in enumerate(("Ann", "Bob")):
        read_all(test, reader, guessing(number))
    code, text, _ = run("reader-test", "report", out, "--out", tmp_path / "report")
    assert code == 0 and all(part in "\n".join(text) for part in ("| Ann ", "NucleiMix, fast", "Cohen's kappa"))
    assert (tmp_path / "report" / "report.png").is_file()
    code, _, error = run("reader-test", "report", out, "--out", tmp_path / "report")
    assert code == 1 and "already exists" in error[-1]


def test_the_same_seed_gives_the_same_bytes_and_several_studies_one_test(studies, run, tmp_path) -> None:
    common = ("reader-test", "make", sample_folder(), "--study", *studies, "--all", "--copy-paste", "--per-kind", 8)
    for name in ("a", "b"):
        assert run(*common, "--out", tmp_path / name)[0] == 0
    files = [sorted(path for path in (tmp_path / name).iterdir() if path.is_file()) for name in ("a", "b")]
    assert [one.read_bytes() for one in files[0]] == [one.read_bytes() for one in files[1]]
    truths = ReaderTest.open(tmp_path / "a").truth()
    assert {one.kind for one in truths} == {"tumor", "stromal"}
    for kind in ("tumor", "stromal"):
        own = [one for one in truths if one.kind == kind]
        assert 2 * sum(one.synthetic for one in own) == len(own)


def test_synthetic_tissue_is_shown_beside_real_tissue_of_its_class(run, tmp_path) -> None:
    sample, root = load_sample(), tmp_path / "tissue"
    (root / "grade 2").mkdir(parents=True)
    for number, entry in enumerate(sample.entries):
        Image.fromarray(sample.read(entry).pixels).save(root / "grade 2" / f"{number}.png")
    tissue = open_tissue(root, 0.5)
    changes = []
    for number in range(2):
        image = tissue.read(f"grade 2/{number}")
        origin = np.ones(image.pixels.shape[:2], np.uint8)
        facts = {"method": "USegMix"}
        changes.append(image_change(number, image.source.image, "grade 2", image.pixels[::-1], origin, (), facts))
    study = study_of(tmp_path / "study", tissue, changes)
    study.decide("change", [0, 1], "approve")
    out = tmp_path / "test"
    code, _, error = run("reader-test", "make", root, "--mpp", 0.5, "--study", study.folder, "--out", out)
    assert code == 0, error
    test = ReaderTest.open(out)
    assert test.crops.shape == (4, 200, 200, 3) and {one.mark for one in test.asked} == {None}
    read_all(test, "Ann", guessing(0))
    code, text, _ = run("reader-test", "report", out, "--out", tmp_path / "report")
    assert code == 0 and "USegMix" in "\n".join(text)


def test_of_a_study_with_nuclei_and_whole_images_one_of_them_is_asked_about(run, tmp_path) -> None:
    dataset = load_sample()
    changes = make_changes(dataset)
    image = dataset.read(dataset.entries[0])
    origin = np.ones(image.pixels.shape[:2], np.uint8)
    whole = image_change(len(changes), image.source.image, "", image.pixels[::-1], origin, (), {"method": "Classic"})
    study = make_reader_study(tmp_path / "both", dataset, [*changes, whole], approved=len(changes) + 1)
    out = tmp_path / "test"
    make = ("reader-test", "make", sample_folder(), "--study", study.folder, "--out", out, "--per-kind", 4)
    code, _, error = run(*make)
    assert code == 1 and "say which" in error[-1]
    code, _, error = run(*make, "--about", "nuclei")
    assert code == 0, error
    assert all(one.mark is not None for one in ReaderTest.open(out).asked)


def test_what_cannot_be_done_is_said_in_a_sentence(studies, run, tmp_path, labeled_image, dataset_folder) -> None:
    def fails(*arguments: object, expected: int = 1) -> str:
        code, _, error = run("reader-test", *arguments)
        assert code == expected
        return error[-1]

    out = tmp_path / "out"
    make = ("make", sample_folder(), "--out", out, "--study")
    assert "approve some" in fails(*make, studies[1])
    assert "must be 1 to 1000" in fails(*make, studies[0], "--per-kind", 0, expected=2)
    assert "must be 0 to" in fails(*make, studies[0], "--seed", -1, expected=2)
    assert "is not a study" in fails(*make, tmp_path)
    other = dataset_folder(tmp_path / "data", [labeled_image(5)])
    assert "of another dataset" in fails("make", other, "--out", out, "--study", studies[0])
    empty = make_mix_study(tmp_path / "tissue" / "study")
    own = ("make", tmp_path / "tissue" / "tissue", "--out", out, "--study")
    assert "nothing synthetic to show" in fails(*own, empty.folder)
    assert "is not a reader test" in fails("report", studies[0], "--out", out)
    assert not out.exists()
