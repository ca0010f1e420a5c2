"""The commands that write datasets, as a person types them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from placed_samples import placed_study
from sample_changes import study_of, tissue_of_sample
from toy_methods import BLEND, changes_of

from napari_histomix.datasets import open_any, open_dataset, sample_folder
from napari_histomix.datasets.formats import FORMATS
from napari_histomix.study import Study


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A study of the sample with two approved placements of four; never write into it."""
    return placed_study(tmp_path_factory.mktemp("studies") / "study").folder


@pytest.fixture
def study(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "studies" / "study"))


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_approved_is_exported(run, study, tmp_path):
    out = tmp_path / "out"
    code, shown, _ = run("export", study, "--format", "qupath", "--out", out, "--ignore-band", "--json")
    said = json.loads(shown[-1])
    assert code == 0 and said["format"] == "qupath" and not said["dry_run"]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert [record["id"] for record in manifest["changes"]] == [0, 2]
    assert {(record["decision"], record["decided_by"]) for record in manifest["changes"]} == {("approve", "Ann")}
    assert all(record["decided"] for record in manifest["changes"])
    (done,) = manifest["runs"]
    assert done["refusals"] == {"no room": 3} and done["wanted"] == 7
    assert manifest["counts"] == {"before": said["before"], "after": said["after"]}
    assert said["after"]["lymphocyte"] == said["before"]["lymphocyte"] + 2
    assert len(open_dataset(out).entries) == 5 and len(list((out / "ignore").iterdir())) == 5
    assert said["files"] == sum(path.is_file() for path in out.rglob("*"))
    code, _, error = run("export", study, "--out", out)
    assert code == 1 and "already exists" in error[-1]
    code, shown, _ = run("inspect", out)
    assert code == 0 and any("lymphocyte" in line and line.endswith("(2 synthetic)") for line in shown)
    assert any("Contains 2 synthetic" in line and "never donors" in line for line in shown)
    assert json.loads(run("inspect", out, "--json")[1][-1])["synthetic"] == 2


def test_a_dry_run_says_what_comes_and_writes_nothing(run, study, tmp_path):
    code, shown, _ = run("export", study, "--out", tmp_path / "out", "--dry-run")
    text = "\n".join(shown)
    assert code == 0 and "5 training images, 2 with synthetic pixels." in text
    assert "lymphocyte        48 →       50 nuclei  (+2)" in text and "are free" in text
    assert "1 synthetic nucleus is still undecided and stays out" in text and "Nothing was written" in text
    assert left_in(tmp_path) == {"studies"}


def test_images_that_moved_are_found_where_a_person_says(run, study, tmp_path):
    elsewhere = Path(shutil.copytree(sample_folder(), tmp_path / "elsewhere"))
    Study.open(study).save_settings({"dataset_root": str(tmp_path / "gone"), "dataset_from_study": ""})
    code, _, error = run("export", study, "--out", tmp_path / "out")
    assert code == 1 and "no longer at" in error[-1]
    assert run("export", study, "--out", tmp_path / "out", "--dataset", elsewhere)[0] == 0
    assert len(open_dataset(tmp_path / "out").entries) == 5


def test_the_splits_of_the_study_count(run, study, tmp_path):
    names = [entry.source.image for entry in open_dataset(sample_folder()).entries]
    splits = dict.fromkeys(names, "train")
    Study.open(study).save_settings({"splits": splits | {names[-1]: "test"}})
    assert run("export", study, "--out", tmp_path / "out")[0] == 0
    assert {entry.source.image for entry in open_dataset(tmp_path / "out").entries} == set(names[:-1])
    Study.open(study).save_settings({"splits": splits | {names[2]: "test"}})
    code, _, error = run("export", study, "--out", tmp_path / "other")
    assert code == 1 and names[2] in error[-1] and "not in the training split" in error[-1]
    assert left_in(tmp_path) == {"studies", "out"}


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_too_little_room_is_refused_before_anything_is_written(run, study, tmp_path, monkeypatch, more):
    monkeypatch.setattr("napari_histomix.study.export_plan.free_space", lambda _out: 1000)
    code, _, error = run("export", study, "--out", tmp_path / "out", *more)
    assert code == 1 and "1.0 kB are free" in error[-1]
    assert left_in(tmp_path) == {"studies"}


def test_nothing_approved_is_one_sentence(run, study, tmp_path):
    Study.open(study).decide("change", [0, 2], None)
    code, _, error = run("export", study, "--out", tmp_path / "out")
    assert code == 1 and "approve some first" in error[-1] and left_in(tmp_path) == {"studies"}


def test_a_study_of_tissue_is_exported_as_class_folders_alone(run, tmp_path):
    dataset = tissue_of_sample(tmp_path / "tissue", ["grade 2"] * 3 + ["grade 3"], side=96)
    study = study_of(tmp_path / "study", dataset, changes_of(BLEND, dataset, 3))
    study.decide("change", study.changes().ids[:2], "approve")
    study.let_go()
    out = tmp_path / "out"
    code, _, error = run("export", study.folder, "--out", out, "--format", "coco")
    assert code == 1 and "class-folders" in error[-1]
    code, _, error = run("export", study.folder, "--out", out, "--ignore-band")
    assert code == 1 and "ignore band" in error[-1]
    code, shown, _ = run("export", study.folder, "--out", out, "--dry-run", "--json")
    plan = json.loads(shown[-1])
    assert code == 0 and not out.exists() and plan["format"] == "class-folders" and plan["unit"] == "images"
    assert plan["before"] == {"grade 2": 3, "grade 3": 1} and sum(plan["after"].values()) == 6
    code, shown, _ = run("export", study.folder, "--out", out)
    assert code == 0 and any("images  (+" in line for line in shown)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert plan["files"] == len(files)
    size = sum(path.stat().st_size for path in files)
    assert size / 1.5 < plan["size"] < 1.5 * size
    assert len(open_any(out).entries) == 6
    assert any("Contains 2 synthetic images among all 6" in line for line in run("inspect", out)[1])
    assert len(json.loads((out / "manifest.json").read_text(encoding="utf-8"))["changes"]) == 2


def test_a_study_of_nuclei_is_no_class_folders(run, study, tmp_path):
    code, _, error = run("export", study, "--out", tmp_path / "out", "--format", "class-folders")
    assert code == 1 and "no class for each image" in error[-1]


def test_a_dataset_is_converted_and_back_again(run, tmp_path):
    code, shown, _ = run("convert", sample_folder(), "--to", "ome-zarr", "--out", tmp_path / "a", "--json")
    said = json.loads(shown[-1])
    assert code == 0 and said["images"] == 5 and said["nuclei"] == {"lymphocyte": 48, "tumor": 302, "stromal": 89}
    assert run("convert", tmp_path / "a", "--to", "hovernet", "--out", tmp_path / "b")[0] == 0
    before, after = open_dataset(sample_folder()), open_dataset(tmp_path / "b")
    assert (after.name, after.classes) == (before.name, before.classes)
    for entry in before.entries:
        one, other = before.read(entry), after.read(entry.source.image)
        assert np.array_equal(one.pixels, other.pixels) and one.source.patient == other.source.patient
        assert np.array_equal(one.instances > 0, other.instances > 0) and one.counts() == other.counts()
    code, _, error = run("convert", tmp_path / "a", "--to", "coco", "--out", tmp_path / "b")
    assert code == 1 and "already exists" in error[-1]
    code, _, error = run("convert", tmp_path, "--to", "coco", "--out", tmp_path / "c")
    assert code == 1 and "its folders a and b" in error[-1] and left_in(tmp_path) == {"a", "b"}


def test_images_that_cannot_be_read_are_left_out_and_said(run, tmp_path):
    folder = Path(shutil.copytree(sample_folder(), tmp_path / "data"))
    first = min((folder / "Images").iterdir())
    first.write_bytes(b"no image")
    code, shown, _ = run("convert", folder, "--to", "plain", "--out", tmp_path / "out")
    assert code == 0 and any(line.startswith("Skipped: ") and first.stem in line for line in shown)
    assert len(open_dataset(tmp_path / "out").entries) == 4


def test_a_format_that_cannot_hold_the_classes_is_refused_before_the_work(run, labeled_image, dataset_folder, tmp_path):
    data = dataset_folder(tmp_path / "data", [labeled_image(8, name="a", patient="p")])
    code, _, error = run("synthesize", data, "--rare", "rare", "--format", "pannuke", "--out", tmp_path / "out")
    assert code == 1 and "none of PanNuke's" in error[-1] and left_in(tmp_path) == {"data"}


class TestImagesThatAreNotThere:
    """What is said must be right about the cause, and must not cost a person the work of a review."""

    @pytest.fixture
    def images(self, study, tmp_path) -> Path:
        moved = Path(shutil.copytree(sample_folder(), tmp_path / "moved"))
        Study.open(study).locate(moved)
        return moved

    @pytest.fixture
    def used(self, study) -> str:
        return next(iter(Study.open(study).changes())).image

    def test_a_file_that_is_gone(self, run, study, images, used, tmp_path):
        (images / "Images" / f"{used}.png").unlink()
        code, _, error = run("export", study, "--out", tmp_path / "out")
        assert code == 1 and f"the image {used}, but its file is gone" in error[-1]
        assert "put it back" in error[-1] and "--dataset FOLDER" in error[-1] and "reject" not in error[-1]
        assert run("export", study, "--out", tmp_path / "out", "--dataset", sample_folder())[0] == 0

    def test_files_of_both_that_are_gone(self, run, study, images, used, tmp_path):
        for file in (images / "Images" / f"{used}.png", images / "Labels" / f"{used}.mat"):
            file.unlink()
        code, _, error = run("export", study, "--out", tmp_path / "out")
        assert code == 1 and "its file is gone" in error[-1] and "reject" not in error[-1]

    def test_labels_that_are_gone_or_damaged(self, run, study, images, used, tmp_path):
        (images / "Labels" / f"{used}.mat").write_bytes(b"damaged")
        for command in (("export", study), ("export", study, "--dry-run")):
            code, _, error = run(*command, "--out", tmp_path / "out")
            assert code == 1 and "cannot be read" in error[-1] and "put its files back" in error[-1]
            assert "reject" not in error[-1] and used in error[-1]
        (images / "Labels" / f"{used}.mat").unlink()
        code, _, error = run("export", study, "--out", tmp_path / "out")
        assert code == 1 and "no label file of that name" in error[-1] and "put its files back" in error[-1]

    def test_a_folder_that_moved(self, run, study, images, tmp_path):
        images.rename(tmp_path / "elsewhere")
        code, _, error = run("export", study, "--out", tmp_path / "out")
        assert code == 1 and "no longer at" in error[-1] and "--dataset FOLDER" in error[-1]
        code, _, error = run("export", study, "--out", tmp_path / "out", "--dataset", tmp_path / "nowhere")
        assert code == 1 and f"{tmp_path / 'nowhere'} is no folder" in error[-1]


UNCLASSIFIED_FORMATS = [name for name, known in FORMATS.items() if known.writes and known.holds == "nuclei"]


@pytest.fixture(scope="module")
def untyped(labeled_image, dataset_folder, tmp_path_factory) -> Path:
    """Two images, in one of which three nuclei have no class; an object of the other lies outside."""
    folder = tmp_path_factory.mktemp("untyped") / "data"
    images = [labeled_image(8, seed=seed, name=f"a{seed}", patient=f"p{seed}", rare=3) for seed in range(2)]
    dataset_folder(folder, images)
    labels = scipy.io.loadmat(folder / "Labels" / "a0.mat")
    labels["inst_type"][:3] = 0
    scipy.io.savemat(folder / "Labels" / "a0.mat", {"inst_map": labels["inst_map"], "inst_type": labels["inst_type"]})
    return folder


@pytest.mark.parametrize("format", UNCLASSIFIED_FORMATS)
def test_nuclei_without_a_class_stay_so_in_every_format(run, untyped, tmp_path, format):
    before = open_any(untyped)
    names = {"rare": "lymphocyte", "common": "tumor", "other": "dead"} if format == "pannuke" else {}
    if names:
        untyped = Path(shutil.copytree(untyped, tmp_path / "renamed"))
        info = (untyped / "type_info.json").read_text(encoding="utf-8")
        for name, other in names.items():
            info = info.replace(f'"{name}"', f'"{other}"')
        (untyped / "type_info.json").write_text(info, encoding="utf-8")
    code, shown, error = run("convert", untyped, "--to", format, "--out", tmp_path / "out", "--json")
    if format == "pannuke":
        assert code == 1 and "has nuclei of no class, and the format pannuke has none" in error[-1]
        assert not (tmp_path / "out").exists()
        return
    assert code == 0 and json.loads(shown[-1])["nuclei"]["unclassified"] == 3
    after = open_any(tmp_path / "out")
    assert [known.name for known in after.classes if known.name != "unclassified"] == [
        known.name for known in before.classes if known.name in {one.name for one in after.classes}
    ]
    for entry in before.entries:
        was, now = before.read(entry), after.read(entry.source.image)
        kinds = [
            {
                np.flatnonzero(image.instances == number).tobytes(): data.class_name(kind)
                for number, kind in image.types.items()
            }
            for data, image in ((before, was), (after, now))
        ]
        assert kinds[0] == kinds[1] and list(kinds[0].values()).count("unclassified") == 3 * (
            entry.source.image == "a0"
        )
    notes = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "## Notes" in notes and "have no class: unclassified" in notes


def test_an_export_keeps_nuclei_without_a_class_and_says_what_reading_lost(run, untyped, tmp_path):
    make = ("synthesize", untyped, "--method", "copypaste", "--rare", "rare", "-k", 1, "--out", tmp_path / "out")
    code, _, error = run(*make, "--study", tmp_path / "study", "--json")
    assert code == 0, error
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    unclassified = open_any(untyped).unclassified.number
    assert manifest["counts"]["before"]["unclassified"] == 3
    # A free place, or a nucleus of a class: what has none is neither replaced nor a donor.
    assert all(source.get("class") != unclassified for one in manifest["changes"] for source in one["sources"])
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| unclassified | 3 |" in card and "have no class: unclassified" in card.split("## Notes")[1]
    study = Study.open(tmp_path / "study")
    study.decide("change", study.changes().ids, "approve")
    code, shown, _ = run("export", tmp_path / "study", "--out", tmp_path / "dry", "--dry-run", "--json")
    assert code == 0 and json.loads(shown[-1])["before"] == manifest["counts"]["before"]


def test_split_parts_are_kept_by_studies_and_exports(run, labeled_image, dataset_folder, tmp_path):
    images = []
    for seed in range(2):
        image = labeled_image(12, seed=seed, name=f"a{seed}", patient=f"p{seed}", rare=5)
        # As masks of one class each: every nucleus of a class has the same id.
        instances = np.zeros_like(image.instances)
        for instance, kind in image.types.items():
            instances[image.instances == instance] = kind
        images.append(replace(image, instances=instances, types={kind: kind for kind in set(image.types.values())}))
    data, study, out = dataset_folder(tmp_path / "data", images), tmp_path / "study", tmp_path / "out"
    assert json.loads(run("inspect", data, "--json")[1][-1])["nuclei"] == 4
    assert json.loads(run("inspect", data, "--split-parts", "--json")[1][-1])["nuclei"] == 24
    make = ("synthesize", data, "--method", "copypaste", "--rare", "rare", "-k", 2, "--study", study)
    assert run(*make, "--split-parts", "--out", out)[0] == 0
    assert json.loads((out / "manifest.json").read_text(encoding="utf-8"))["split_parts"] is True
    kept = Study.open(study)
    assert kept.split_parts and kept.open_images().read("a0").types.keys() == set(range(1, 13))
    # Each change replaced a nucleus or was put beside the others, in an export whose ids are split already.
    counts = [len(open_any(out).read(entry).types) for entry in open_any(out).entries]
    assert 24 <= sum(counts) <= 26 and not open_any(out).split_parts
    code, shown, _ = run("replay", out)
    assert code == 0 and any("bit for bit the same" in line for line in shown)
    kept.decide("change", kept.changes().ids, "approve")
    assert run("export", study, "--out", tmp_path / "again")[0] == 0
    assert tree(tmp_path / "again" / "Labels") == tree(out / "Labels")
    # The next run goes on with it unasked.
    assert run(*make, "--out", tmp_path / "more")[0] == 0
    assert run("convert", data, "--split-parts", "--to", "coco", "--out", tmp_path / "coco")[1][-1].startswith(
        "2 images"
    )


def test_a_study_without_split_parts_is_as_it_was(run, labeled_image, dataset_folder, tmp_path):
    data = dataset_folder(tmp_path / "data", [labeled_image(8, name="a", rare=3)])
    make = ("synthesize", data, "--method", "copypaste", "--rare", "rare", "-k", 1, "--study", tmp_path / "study")
    assert run(*make, "--out", tmp_path / "out")[0] == 0
    assert "split_parts" not in Study.open(tmp_path / "study").settings()
    assert "split_parts" not in (tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")
    code, _, error = run(*make, "--split-parts", "--out", tmp_path / "more")
    assert code == 1 and "was made without --split-parts" in error[-1]
    next((data / "Images").iterdir()).unlink()
    (data / "Images" / "b.png").write_bytes((tmp_path / "out" / "Images" / "a.png").read_bytes())
    (data / "Labels" / "b.mat").write_bytes((data / "Labels" / "a.mat").read_bytes())
    code, shown, error = run("replay", tmp_path / "out")
    assert code == 1 and any("a: its file is gone" in line and "--dataset FOLDER" in line for line in shown)
    assert "put it back" in error[-1]
