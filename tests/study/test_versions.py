"""Studies of version 3: everything is there after they are opened, and goes on."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_histomix import jobs
from napari_histomix.datasets import Dataset, load_sample, open_any
from napari_histomix.records import HistomixError, drain
from napari_histomix.study import Study
from napari_histomix.study.export import export_study
from napari_histomix.study.manifest import read_manifest
from napari_histomix.study.replay import replay

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def unpacked(kind: str, folder: Path) -> Path:
    with zipfile.ZipFile(GOLDEN / f"version-3-{kind}-study.zip") as archive:
        archive.extractall(folder)
    return folder


def manifest_of(kind: str) -> dict:
    return json.loads((GOLDEN / f"version-3-{kind}-manifest.json").read_text(encoding="utf-8"))


@pytest.fixture
def nuclei(tmp_path) -> Path:
    return unpacked("nuclei", tmp_path / "nuclei")


@pytest.fixture
def tissue(tmp_path) -> Path:
    return unpacked("tissue", tmp_path / "tissue-study")


@pytest.fixture(scope="module")
def corners(tmp_path_factory) -> Dataset:
    """The sample's images as two classes of tissue: their upper left and their lower right corners."""
    sample, root = load_sample(), tmp_path_factory.mktemp("corners") / "tissue"
    with (root.mkdir() or root / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "class", "patient", "split", "mpp"])
        for kind, window in (("left", np.s_[:160, :160]), ("right", np.s_[-160:, -160:])):
            (root / kind).mkdir()
            for number, entry in enumerate(sample.entries):
                image = sample.read(entry)
                Image.fromarray(image.pixels[window]).save(root / kind / f"{number}.png")
                table.writerow([f"{kind}/{number}.png", kind, f"patient-{number}", "train", image.mpp])
    return open_any(root)


def test_everything_of_a_study_of_nuclei_is_there(nuclei):
    study, old = Study.open(nuclei), manifest_of("nuclei")
    assert (nuclei / "study-version-3.sqlite").is_file()
    (run,) = study.runs()
    assert (run.method, run.state, run.wanted) == ("nucleimix", "done", 8)
    assert run.settings["count"] == 8 and dict(run.refusals) == old["refusals"]
    assert study.settings()["candidate_settings"] == old["candidate_settings"] and len(study.candidates()) > 8
    changes = study.changes()
    assert len(changes) == 8 and study.decisions("change") == {
        number: "reject" if number in changes.ids[6:] else "approve" for number in changes.ids
    }
    assert study.decisions("change note") == {changes.ids[6]: "a pale rim"}
    assert study.decisions("change reasons") == {changes.ids[6]: "seam"}
    assert study.decided("change")[changes.ids[0]].who == "Ann"
    for placement in old["placements"]:
        change = study.change(placement["rank"])
        assert change.in_place and (change.seed, change.score) == (placement["seed"], pytest.approx(66.667, abs=40))
        assert change.provenance == placement["provenance"]
        assert change.added == {placement["instance"]: 1} and change.donor.item == placement["donor"]["instance"]
        assert (change.target.row, change.target.item) == (placement["target"]["row"], placement["target"]["instance"])
        assert np.count_nonzero(change.origin) == placement["changed_pixels"]
        assert set(np.unique(change.labels)) == {-1, placement["instance"]}


def test_what_was_done_can_be_taken_back_and_done_again(nuclei):
    study = Study.open(nuclei)
    ids, noted = study.changes().ids, study.changes().ids[6]
    # An act that was undone and followed by another one stays undone.
    assert study.redo("change") == ()
    assert set(study.undo("change")) == {("change reasons", noted, None), ("change note", noted, None)}
    assert {(item, decision) for _, item, decision in study.undo("change")} == {(number, None) for number in ids[6:]}
    assert study.decisions("change") == dict.fromkeys(ids[:6], "approve")
    assert {item for _, item, _ in Study.open(nuclei).redo("change")} == set(ids[6:])
    assert study.undo("candidate") and study.decisions("candidate") == dict.fromkeys((3, 5, 8), "keep")


def test_it_is_upgraded_once_and_a_copy_is_kept(nuclei):
    original = Study.open(nuclei).changes().ids
    kept = (nuclei / "study-version-3.sqlite").read_bytes()
    Study.open(nuclei).decide("change", original[:1], "reject")
    assert Study.open(nuclei).decisions("change")[original[0]] == "reject"
    assert (nuclei / "study-version-3.sqlite").read_bytes() == kept
    # The copy is the study as it was.
    shutil.copy(nuclei / "study-version-3.sqlite", nuclei / "study.sqlite")
    for more in nuclei.glob("study.sqlite-*"):
        more.unlink()
    assert Study.open(nuclei).decisions("change")[original[0]] == "approve"


def test_an_upgrade_that_fails_leaves_the_study_as_it_was(nuclei, monkeypatch):
    before = (nuclei / "study.sqlite").read_bytes()

    def full(*_):
        raise HistomixError("no space")

    monkeypatch.setattr("napari_histomix.study.database.upgrade", full)
    with pytest.raises(HistomixError, match="no space"):
        Study.open(nuclei)
    assert (nuclei / "study.sqlite").read_bytes() == before
    monkeypatch.undo()
    assert len(Study.open(nuclei).changes()) == 8


def test_it_is_exported_to_the_same_pixels_and_rebuilt(nuclei, tmp_path):
    sample, old = load_sample(), manifest_of("nuclei")
    out = drain(export_study(Study.open(nuclei), sample, tmp_path / "out"))
    manifest = read_manifest(out)
    assert manifest.content["synthetic_images"] == old["synthetic_images"]
    assert manifest.content["counts"] == old["counts"]
    assert [record.id for record in manifest.records] == [placement["rank"] for placement in old["placements"]]
    # By the manifest of its time; today's says the same and more.
    shutil.copy(GOLDEN / "version-3-nuclei-manifest.json", tmp_path / "manifest.json")
    report = drain(replay(tmp_path / "manifest.json", sample, images=out))
    assert report.problems == () and report.compared
    assert report.conditions or {each.outcome for each in report.compared} == {"identical"}


def test_everything_of_a_study_of_tissue_is_there(tissue):
    study, old = Study.open(tissue), manifest_of("tissue")
    assert (tissue / "study-version-3.sqlite").is_file()
    (run,) = study.runs()
    assert (run.method, run.state, run.wanted) == ("usegmix", "done", 2)
    first, second = study.changes()
    assert [first.name, second.name] == [image["name"] for image in old["synthetic"]]
    assert study.decisions("change") == {first.id: "approve", second.id: "approve"}
    assert study.decisions("change note") == {second.id: "cut"}
    assert study.decisions("change reasons") == {second.id: "shape"}
    assert study.decisions("segment") == {3: "drop"} and study.decided("change")[first.id].who == "Bob"
    for change, image in zip((first, second), old["synthetic"], strict=True):
        assert change.shape == (160, 160) and change.class_shares == {image["class"]: 1.0} and change.labels is None
        assert change.image == image["provenance"]["sources"]["target"]["image"] and change.seed == image["seed"]
        assert [source.item for source in change.sources[1:]] == [
            donor["segment"] for donor in image["provenance"]["donors"]
        ]
        assert np.count_nonzero(change.origin) == image["changed_pixels"]
        assert change.provenance == image["provenance"]
    assert study.undo("segment") and study.decisions("segment") == {}
    assert study.undo("change")


@pytest.mark.timeout(900)
def test_tissue_is_exported_to_the_same_pixels_and_rebuilt(tissue, corners, tmp_path):
    old = {image["name"]: image["sha256"] for image in manifest_of("tissue")["synthetic"]}
    out = drain(export_study(Study.open(tissue), corners, tmp_path / "out"))
    manifest = read_manifest(out)
    assert {name: about["sha256"] for name, about in manifest.content["synthetic_images"].items()} == old
    assert manifest.content["counts"] == manifest_of("tissue")["counts"]
    # The manifest of its time, beside the image under the name that it had then; one image, for it takes a while.
    there, content = tmp_path / "then", manifest_of("tissue")
    content["synthetic"] = [min(content["synthetic"], key=lambda image: image["changed_pixels"])]
    there.mkdir()
    (there / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    (image,) = read_manifest(there).images
    file = there / f"{image.file}.png"
    file.parent.mkdir()
    shutil.copy(out / f"{manifest.content['synthetic_images'][image.name]['file']}.png", file)
    (there / "dataset.json").write_text('{"mpp": 0.5}', encoding="utf-8")
    report = drain(replay(there, corners))
    assert report.problems == () and len(report.compared) == 1
    assert report.conditions or {each.outcome for each in report.compared} == {"identical"}


def test_a_study_of_a_newer_version_is_refused(tmp_path):
    study = Study.create(tmp_path / "study", tmp_path, "new")
    study.save_settings({"version": 5})
    with pytest.raises(HistomixError, match="newer version; update"):
        Study.open(study.folder)


def test_nothing_is_left_to_take_up(nuclei):
    assert jobs.unfinished(Study.open(nuclei)) is None
