"""Nuclei that a person changed by hand are part of the study: counted, drawn from, avoided, exported and replayed."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from napari_histomix import jobs
from napari_histomix.datasets import open_dataset, survey
from napari_histomix.datasets.edits import HandEdit, differences, edit_notes, read_edits, write_edits
from napari_histomix.methods import method_of
from napari_histomix.methods.candidate_stage import CandidateSettings
from napari_histomix.methods.copy_paste import CopyPasteSettings
from napari_histomix.records import HistomixError, drain
from napari_histomix.study import Study
from napari_histomix.study.export import export_study
from napari_histomix.study.export_plan import plan_export
from napari_histomix.study.manifest import read_manifest
from napari_histomix.study.replay import replay, source_dataset

DRAWN = 5000
IMAGE = "train_0"


def edited(dataset, name: str = IMAGE) -> tuple[HandEdit, np.ndarray]:
    """A common nucleus erased, and drawn anew as a rare one."""
    own = replace(dataset, edits={}).read(name)
    instances = own.instances.copy()
    common, (height, width) = dataset.class_number("common"), instances.shape
    inner = np.zeros_like(instances)
    inner[12 : height - 12, 12 : width - 12] = instances[12 : height - 12, 12 : width - 12]
    whole = [id for id, kind in own.types.items() if kind == common and ((inner == id) == (instances == id)).all()]
    instances[instances == whole[0]] = DRAWN
    classes = {number: dataset.class_name(kind) for number, kind in own.types.items()} | {DRAWN: "rare"}
    return HandEdit.of(own, instances, classes, "Dr. Hand", "2026-01-02T03:04:05+00:00"), instances


@pytest.fixture
def study(study_dataset, tmp_path) -> Study:
    return Study.create(tmp_path / "study", study_dataset.root, study_dataset.name)


def test_differences_name_what_was_drawn_changed_and_erased() -> None:
    before, after = np.zeros((6, 6), np.int32), np.zeros((6, 6), np.int32)
    before[0:2], after[0:1] = 3, 3
    before[3, 3], after[5, 5] = 8, 9
    found = differences(before, after)
    assert (found.drawn, found.changed, found.erased) == ((9,), (3,), (8,))
    assert found.words() == "1 drawn, 1 changed, 1 erased"
    assert not differences(before, before).ids


def test_a_study_is_read_with_them_also_when_it_is_opened_again(study, study_dataset) -> None:
    edit, instances = edited(study_dataset)
    study.add_edits([edit])
    dataset = Study.open(study.folder).open_images()
    image = dataset.read(IMAGE)
    np.testing.assert_array_equal(image.instances, instances)
    assert image.types[DRAWN] == dataset.class_number("rare") and not image.synthetic
    before = study_dataset.read(IMAGE)
    assert set(image.types) == (set(before.types) | {DRAWN}) - set(edit.differences.erased)
    assert "1 drawn" in edit_notes(dataset)[0] and not edit_notes(study_dataset)
    # The data's own files stay as they were.
    np.testing.assert_array_equal(open_dataset(study_dataset.root).read(IMAGE).instances, before.instances)
    (kept,) = read_edits(next((study.folder / "edits").iterdir()))
    assert (kept.who, kept.made) == ("Dr. Hand", "2026-01-02T03:04:05+00:00")


def test_a_survey_that_was_kept_does_not_hide_them(study, study_dataset) -> None:
    first = drain(survey(study_dataset))
    study.add_edits([edited(study_dataset)[0]])
    again = drain(survey(study.open_images(), first))
    rare = study_dataset.class_number("rare")
    assert again.counts["train_1"] == first.counts["train_1"]
    assert again.counts[IMAGE][rare] == first.counts[IMAGE][rare] + 1 and again.hashes == first.hashes


def test_no_candidate_lies_in_a_drawn_nucleus_and_it_may_be_a_donor(study, study_dataset) -> None:
    study.add_edits([edited(study_dataset)[0]])
    dataset, settings = study.open_images(), CandidateSettings(rare=("rare",), donor_temperature=5.0)
    drain(jobs.prepare(method_of("copypaste"), dataset, study, settings))
    found = study.candidates()
    map_ = dataset.read(IMAGE).instances
    inside = [map_[int(each.target.row), int(each.target.col)] == DRAWN for each in found if each.target.image == IMAGE]
    assert found and not any(inside)
    assert any((each.donor.image, each.donor.instance) == (IMAGE, DRAWN) for each in found)


def test_candidates_nobody_decided_on_go_and_work_is_left_alone(study, study_dataset, few_candidates) -> None:
    candidates, facts = few_candidates
    study.set_candidates(candidates, facts)
    study.add_edits([edited(study_dataset)[0]])
    assert not study.has_candidates()
    study.decide("candidate", [1], "keep")
    with pytest.raises(HistomixError, match="start a new study for changed nuclei"):
        study.add_edits([edited(study_dataset, "train_1")[0]])
    assert set(study.open_images().edits) == {IMAGE}
    other = Study.create(study.folder.parent / "other", study_dataset.root, study_dataset.name)
    other.carry_edits(study.open_images())
    assert other.open_images().read(IMAGE).types[DRAWN]


def test_a_decision_on_a_candidate_that_went_cannot_be_done_again(study, study_dataset, few_candidates) -> None:
    study.set_candidates(*few_candidates)
    study.decide("candidate", [1], "keep")
    study.undo("candidate")
    study.add_edits([edited(study_dataset)[0]])
    assert study.redo("candidate") == () and not study.worked
    study.set_candidates(*few_candidates)
    assert study.decisions("candidate") == {}, "nobody decided on what the new search found"


def test_the_last_taking_of_an_image_holds(study, study_dataset) -> None:
    study.add_edits([edited(study_dataset)[0]])
    own = study_dataset.read(IMAGE)
    classes = {number: study_dataset.class_name(kind) for number, kind in own.types.items()}
    study.add_edits([HandEdit.of(own, own.instances, classes, "", "")])
    np.testing.assert_array_equal(study.open_images().read(IMAGE).instances, own.instances)
    assert not edit_notes(study.open_images())


def test_an_export_carries_them_and_is_replayed_with_them(study, study_dataset, tmp_path) -> None:
    study.add_edits([edited(study_dataset)[0]])
    dataset = study.open_images()
    settings, stage = CopyPasteSettings(count=4), CandidateSettings(rare=("rare",))
    drain(jobs.run("copypaste", dataset, settings, study, stage=stage))
    plan = drain(plan_export(dataset, study.changes(), tmp_path / "out"))
    out = drain(export_study(study, dataset, tmp_path / "out", reviewed=False))
    assert plan.files == sum(path.is_file() for path in out.rglob("*"))
    manifest = read_manifest(out)
    assert "changed by hand" in (out / "README.md").read_text()
    report = drain(replay(manifest, source_dataset(manifest), check=True))
    assert not report.problems and {each.outcome for each in report.compared} == {"identical"}
    assert open_dataset(out).read(IMAGE).instances.any()
    # Without them, the sources are not those that were used.
    bare = drain(replay(manifest, open_dataset(study_dataset.root), check=True))
    assert IMAGE in bare.changed_sources


def test_what_is_missing_damaged_or_of_other_labels_is_said(study, study_dataset) -> None:
    edit, _ = edited(study_dataset)
    study.add_edits([edit])
    with pytest.raises(HistomixError, match="not those that were changed by hand"):
        replace(study_dataset, edits={IMAGE: replace(edit, own_labels="0" * 64)}).read(IMAGE)
    (file,) = (study.folder / "edits").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(HistomixError, match=r"000001\.npz is missing or damaged; restore it from a backup"):
        study.open_images()
    file.unlink()
    with pytest.raises(HistomixError, match="missing or damaged"):
        study.open_images()


def test_a_damaged_map_leaves_the_other_images_of_its_file(study_dataset, tmp_path) -> None:
    path = tmp_path / "000001.npz"
    write_edits(path, [edited(study_dataset, name)[0] for name in (IMAGE, "train_1")])
    with zipfile.ZipFile(path) as pile:
        second = pile.getinfo("2.npy")
    content = bytearray(path.read_bytes())
    # The first byte of its compressed data: no deflate block is of that kind.
    content[second.header_offset + 30 + len("2.npy")] = 0xFF
    path.write_bytes(content)
    whole, damaged = read_edits(path)
    assert DRAWN in whole.instances()
    with pytest.raises(HistomixError, match="is missing or damaged"):
        damaged.instances()


def test_what_is_drawn_among_synthetic_pixels_counts_as_synthetic(study_dataset) -> None:
    edit, _ = edited(study_dataset)
    entries = tuple(replace(entry, synthetic=entry.source.image == IMAGE) for entry in study_dataset.entries)
    dataset = replace(study_dataset, entries=entries, marks={IMAGE: ()}, edits={IMAGE: edit})
    assert dataset.read(IMAGE).synthetic == {DRAWN}


def test_the_command_line_works_with_them(study, study_dataset, run) -> None:
    study.add_edits([edited(study_dataset)[0]])
    code, out, err = run(
        "synthesize", study_dataset.root, "--study", study.folder, "--out", study.folder.parent / "out",
        "--method", "copypaste", "--rare", "rare", "--count", 2, "--json",
    )  # fmt: skip
    assert code == 0 and json.loads(out[-1]), err
    manifest = read_manifest(study.folder.parent / "out")
    assert manifest.edit_files
    counted = manifest.content["counts"]["before"]["rare"]
    assert counted == sum(
        list(study.open_images().read(entry).types.values()).count(1) for entry in study_dataset.training
    )
