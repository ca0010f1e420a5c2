"""Replay: rebuilt bit for bit from an export and its sources; whatever was changed is found and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sample_changes import tissue_of_sample
from toy_methods import BLEND, FRESH, LAY, changes_of

from napari_histomix import jobs
from napari_histomix.datasets import load_sample, open_any, open_dataset
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.diffusion import models
from napari_histomix.methods.candidate_stage import CandidateSettings
from napari_histomix.methods.nucleimix import NucleiMixSettings
from napari_histomix.records import HistomixError, drain
from napari_histomix.study import Study
from napari_histomix.study.export import export, export_study
from napari_histomix.study.manifest import read_manifest
from napari_histomix.study.replay import compare, replay, source_dataset

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def painted(dataset, folder: Path, rare: str, **how) -> Study:
    """A study of nuclei that a model painted."""
    study = Study.create(folder, dataset.root, dataset.name)
    settings, stage = NucleiMixSettings(device="cpu", **how), CandidateSettings(rare=(rare,))
    drain(jobs.run("nucleimix", dataset, settings, study, stage=stage))
    return study


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """An export of the bundled sample, by the bundled model. Never write into it."""
    sample, root = load_sample(), tmp_path_factory.mktemp("demo")
    study = painted(sample, root / "study", "lymphocyte", count=3)
    return drain(export_study(study, sample, root / "out", reviewed=False))


@pytest.fixture(scope="module")
def made(study_dataset, small_model_folder, tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("made") / "study"
    return painted(study_dataset, folder, "rare", count=6, model=str(small_model_folder))


@pytest.fixture(scope="module")
def exported(study_dataset, made, study_folder) -> Path:
    """An export beside its dataset, by a model of one's own. Never write into it."""
    out = study_folder.parent / "exports" / "augmented"
    return drain(export_study(made, study_dataset, out, reviewed=False))


@pytest.fixture
def again(study_dataset, small_model_folder):
    def run(manifest: Path, dataset=study_dataset, models=(small_model_folder,), **more):
        return drain(replay(manifest, dataset, models, **more))

    return run


def outcomes(report) -> set[str]:
    return {one.outcome for one in report.compared}


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def edit(folder: Path, change) -> None:
    file = folder / "manifest.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("batch", [1, 16])
def test_a_demo_is_rebuilt_bit_for_bit_whatever_the_batch(demo, monkeypatch, batch):
    monkeypatch.setattr("napari_histomix.diffusion.inpainter.BATCH", batch)
    manifest = read_manifest(demo)
    report = drain(replay(manifest, source_dataset(manifest)))
    assert outcomes(report) == {"identical"} and report.conditions == () and report.problems == ()
    assert {one.image for one in report.compared} == set(manifest.content["synthetic_images"])


def test_the_threads_that_worked_then_work_again(demo):
    recorded = read_manifest(demo).images[0].records[0].provenance["threads"]
    before = torch.get_num_threads()
    torch.set_num_threads(recorded + 1)
    try:
        manifest = read_manifest(demo)
        report = drain(replay(manifest, source_dataset(manifest)))
        assert torch.get_num_threads() == recorded + 1, "what was set is set again"
    finally:
        torch.set_num_threads(before)
    assert outcomes(report) == {"identical"} and report.conditions == ()


def test_a_moved_export_needs_to_be_told_where_its_sources_are(exported, again, study_folder, tmp_path):
    assert source_dataset(read_manifest(exported)).root == study_folder
    moved = copy(exported, tmp_path / "elsewhere")
    with pytest.raises(HistomixError, match=r"source dataset made up.*--dataset"):
        source_dataset(read_manifest(moved))
    dataset = source_dataset(read_manifest(moved), study_folder)
    assert outcomes(again(moved / "manifest.json", dataset)) == {"identical"}
    # The manifest alone.
    alone = shutil.copy(exported / "manifest.json", tmp_path / "manifest.json")
    assert outcomes(again(Path(alone), images=exported)) == {"identical"}


def test_rebuilt_images_are_a_dataset_of_the_same_format(exported, again, tmp_path):
    report = again(exported, out=tmp_path / "rebuilt")
    assert outcomes(report) == {"rebuilt"}
    assert outcomes(again(exported, out=tmp_path / "checked", check=True)) == {"identical"}
    first, second = open_dataset(exported), open_dataset(tmp_path / "rebuilt")
    assert {entry.source.image for entry in second.entries} == {one.image for one in report.compared}
    for entry in second.entries:
        one, other = first.read(entry.source.image), second.read(entry)
        assert np.array_equal(one.pixels, other.pixels) and np.array_equal(one.instances, other.instances)
        assert dict(one.types) == dict(other.types) and one.mpp == other.mpp
    with pytest.raises(HistomixError, match="already exists"):
        again(exported, out=tmp_path / "rebuilt")


@pytest.mark.parametrize("layout", ["yolo", "tiff-pairs", "ome-zarr"])
def test_exports_of_other_formats_too(study_dataset, made, again, tmp_path, layout):
    out = drain(export_study(made, study_dataset, tmp_path / layout, format=layout, reviewed=False))
    assert outcomes(again(out)) == {"identical"}


def test_a_scale_that_a_person_gave_need_not_be_given_again(exported, study_folder, again, tmp_path):
    folder = copy(study_folder, tmp_path / "data")
    table = (folder / "images.csv").read_text(encoding="utf-8")
    (folder / "images.csv").write_text(table.replace(",0.25", ",0.7"), encoding="utf-8")
    assert outcomes(again(exported, open_dataset(folder))) == {"identical"}


class TestWhatWasChangedIsNamed:
    def test_a_pixel_of_an_exported_image(self, exported, again, tmp_path):
        folder = copy(exported, tmp_path / "out")
        name = read_manifest(folder).images[0].name
        file = folder / "Images" / f"{name}.png"
        pixels = np.array(Image.open(file))
        pixels[0, 0, 0] ^= 1
        Image.fromarray(pixels).save(file)
        report = again(folder)
        assert len(report.problems) == 1 and report.problems[0].startswith(f"{name}: somebody changed the exported")
        assert "Rebuilt, it is what was exported" in report.problems[0]

    def test_an_image_and_its_hash(self, exported, again, tmp_path):
        folder = copy(exported, tmp_path / "out")
        image = read_manifest(folder).images[0]
        file = folder / "Images" / f"{image.name}.png"
        pixels = np.array(Image.open(file))
        real = np.argwhere(np.array(Image.open(folder / "origin" / f"{image.file}.png")) == 0)[0]
        pixels[tuple(real)] ^= 1
        Image.fromarray(pixels).save(file)
        sha256 = pixels_sha256(pixels)
        edit(folder, lambda content: content["synthetic_images"][image.name].update(sha256=sha256))
        assert "1 pixels that should be the source's own" in again(folder).problems[0]

    def test_a_record(self, exported, again, tmp_path):
        folder = copy(exported, tmp_path / "out")
        edit(folder, lambda content: content["changes"][0].update(seed=5))
        changed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["changes"][0]["image"]
        assert [one.image for one in again(folder).compared if one.outcome == "different"] == [changed]

    def test_a_donor_that_is_not_there(self, exported, again, tmp_path):
        folder = copy(exported, tmp_path / "out")
        edit(folder, lambda content: content["changes"][0]["sources"][1].update(item=10**9))
        try:
            assert again(folder).problems
        except HistomixError as error:
            assert "\n" not in str(error)

    def test_an_image_that_is_gone(self, exported, again, tmp_path):
        folder = copy(exported, tmp_path / "out")
        name = read_manifest(folder).images[0].name
        (folder / "Images" / f"{name}.png").unlink()
        (folder / "Labels" / f"{name}.mat").unlink()
        assert "cannot be compared" in again(folder).problems[0] and name in again(folder).problems[0]

    @pytest.mark.parametrize("what", ["pixels", "labels", "missing"])
    def test_a_source(self, exported, study_folder, again, tmp_path, what):
        folder = copy(study_folder, tmp_path / "data")
        name = read_manifest(exported).images[0].name
        other = next(path.stem for path in sorted((folder / "Images").iterdir()) if path.stem != name)
        if what == "pixels":
            shutil.copy(folder / "Images" / f"{other}.png", folder / "Images" / f"{name}.png")
        elif what == "labels":
            shutil.copy(folder / "Labels" / f"{other}.mat", folder / "Labels" / f"{name}.mat")
        else:
            (folder / "Images" / f"{name}.png").unlink()
        report = again(exported, open_dataset(folder), out=tmp_path / "rebuilt")
        assert list(report.changed_sources) == [name] and report.compared == ()
        assert name in report.problems[0] and (what == "missing" or f"its {what} are not" in report.problems[0])
        assert not (tmp_path / "rebuilt").exists(), "nothing is rebuilt from other sources"

    def test_the_model(self, exported, again, small_network, tmp_path):
        from napari_histomix.diffusion.model_files import save_model
        from napari_histomix.training.inpainting import SCHEDULE

        with pytest.raises(HistomixError, match=r"made with the model small.*--model"):
            again(exported, models=())
        save_model(tmp_path / "m", small_network(seed=1), SCHEDULE, name="m", mpp=(0.25, 0.5), windows=(48, 64, 96))
        with pytest.raises(HistomixError, match=r"holds the model m .*made with small"):
            again(exported, models=(tmp_path / "m",))
        weights = tmp_path / "m" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
        with pytest.raises(HistomixError, match="damaged or was changed"):
            again(exported, models=(tmp_path / "m",))


class TestElsewhere:
    def test_other_versions_are_named_and_compared_within_a_tolerance(self, exported, again, monkeypatch):
        now = models.versions()
        monkeypatch.setattr(models, "versions", lambda: {**now, "torch": "0.1"})
        report = again(exported)
        assert report.conditions == (f"made with torch {now['torch']}, rebuilt with 0.1",)
        assert outcomes(report) == {"identical"}

    def test_another_number_format_is_close(self, exported, again, monkeypatch):
        other = torch.float32 if models.fast_dtype(torch.device("cpu")) != torch.float32 else torch.bfloat16
        monkeypatch.setattr(models, "fast_dtype", lambda _: other)
        report = again(exported)
        assert "rebuilt in " in report.conditions[0] and report.problems == ()
        assert "close" in outcomes(report) and max(one.largest for one in report.compared) > 0

    def test_a_device_that_is_not_here_is_replaced_by_the_processor(self, exported, again, tmp_path):
        folder = copy(exported, tmp_path / "out")

        def was_elsewhere(content):
            for one in content["changes"]:
                one["provenance"].update(device="cuda NVIDIA X", precision="float16")

        edit(folder, was_elsewhere)
        report = again(folder, device="cpu")
        assert any("made on cuda NVIDIA X, rebuilt on cpu" in note for note in report.conditions)
        assert report.problems == ()

    @pytest.mark.parametrize(("levels", "outcome"), [(0, "identical"), (1, "close"), (200, "different")])
    def test_the_tolerance(self, levels, outcome):
        origin = np.zeros((20, 20), np.uint8)
        origin[5:10] = 2
        found = np.full((20, 20, 3), 100, np.uint8)
        rebuilt = found.copy()
        rebuilt[5:7, :, 1] += levels // 2 + levels % 2
        assert compare("a", found, rebuilt, origin, exact=False).outcome == outcome
        assert compare("a", found, rebuilt, origin, exact=True).outcome == ("identical" if levels == 0 else "different")
        rebuilt[0, 0] += 1
        assert compare("a", found, rebuilt, origin, exact=False).outcome == "different"


class TestManifests:
    @pytest.mark.parametrize("key", ["sources", "sampler_settings", "crop"])
    def test_one_of_an_earlier_version_is_refused_in_one_sentence(self, tmp_path, key):
        shutil.copy(GOLDEN / "version-3-nuclei-manifest.json", tmp_path / "manifest.json")
        edit(tmp_path, lambda content: content["placements"][1]["provenance"].pop(key))
        with pytest.raises(HistomixError, match=r"earlier version \(napari-histomix .*make the images anew\.$"):
            read_manifest(tmp_path)

    def test_one_of_a_newer_version_is_refused_in_one_sentence(self, exported, again, tmp_path):
        folder = copy(exported, tmp_path / "out")
        edit(folder, lambda content: content.update(manifest=3))
        with pytest.raises(HistomixError, match="newer version"):
            again(folder)

    def test_a_method_that_is_not_installed_is_named(self, exported, again, tmp_path):
        folder = copy(exported, tmp_path / "out")
        edit(folder, lambda content: content["changes"][0].update(method="gone"))
        with pytest.raises(HistomixError, match="method 'gone', which is not installed here"):
            again(folder)

    @pytest.mark.parametrize(
        "change",
        [
            lambda content: content["changes"][0].pop("sources"),
            lambda content: content["changes"][0].pop("seed"),
            lambda content: content["changes"][0]["sources"][0].update(item="many"),
            lambda content: content["changes"][0]["sources"][0].update(row=None),
            lambda content: content["changes"][0]["provenance"].update(sources=3),
            lambda content: content["changes"][0]["provenance"].update(versions=3),
            lambda content: content.update(synthetic_images=[]),
            lambda content: content.update(synthetic_images={"other": 3}),
        ],
    )
    def test_a_damaged_one_is_one_sentence(self, exported, again, tmp_path, change):
        folder = copy(exported, tmp_path / "out")
        edit(folder, change)
        with pytest.raises(HistomixError):
            again(folder)

    def test_no_manifest_is_one_sentence(self, again, tmp_path):
        with pytest.raises(HistomixError, match="is not there"):
            again(tmp_path)
        (tmp_path / "manifest.json").write_text('{"name": "an app"}')
        with pytest.raises(HistomixError, match="no manifest of an export"):
            again(tmp_path)


@pytest.fixture(scope="module")
def tissue(tmp_path_factory) -> Path:
    """Derived and new images of two classes beside their dataset. Never write into it."""
    root = tmp_path_factory.mktemp("tissue")
    dataset = tissue_of_sample(root / "tissue", ["kind 0", "kind 1"] * 2)
    changes = [*changes_of(BLEND, dataset, 2), *changes_of(FRESH, dataset, 2, first=2)]
    return drain(export(dataset, changes, root / "out"))


class TestEveryKindOfChange:
    def test_in_place_and_new_images_of_nuclei_without_a_model(self, study_dataset, again, tmp_path):
        changes = [*changes_of(LAY, study_dataset, 4), *changes_of(FRESH, study_dataset, 2, first=4)]
        out = drain(export(study_dataset, changes, tmp_path / "out", format="coco"))
        report = again(out, models=())
        assert len(report.compared) == len({change.name for change in changes})
        assert outcomes(report) == {"identical"} and report.conditions == ()
        with pytest.raises(HistomixError, match="No model took part"):
            again(out)

    def test_derived_and_new_images_of_a_class(self, tissue, tmp_path):
        manifest = read_manifest(tissue)
        report = drain(replay(manifest, source_dataset(manifest), out=tmp_path / "new", check=True))
        assert len(report.compared) == 4 and outcomes(report) == {"identical"}
        first, second = open_any(tissue), open_any(tmp_path / "new")
        assert {entry.source.image for entry in second.entries} == {image.file for image in manifest.images}
        for entry in second.entries:
            assert entry.synthetic and entry.kind == first.entry(entry.source.image).kind
            assert np.array_equal(first.read(entry.source.image).pixels, second.read(entry).pixels)

    def test_a_changed_donor_and_a_changed_image_are_named(self, tissue, tmp_path):
        root = copy(tissue.parent, tmp_path / "root")
        manifest = read_manifest(root / "out")
        file = root / "out" / f"{manifest.images[1].file}.png"
        Image.fromarray(255 - np.array(Image.open(file))).save(file)
        report = drain(replay(manifest, source_dataset(manifest)))
        assert [each.outcome for each in report.compared].count("different") == 1
        assert report.compared[1].outcome == "different"
        donor = manifest.images[0].records[0].source("donor")["image"]
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(root / "tissue" / f"{donor}.png")
        report = drain(replay(manifest, source_dataset(manifest)))
        assert list(report.changed_sources) == [donor] and report.compared == ()

    def test_a_path_that_leaves_the_export_is_not_followed(self, tissue, tmp_path):
        folder = copy(tissue, tmp_path / "out")
        name = read_manifest(folder).images[0].name
        edit(folder, lambda content: content["synthetic_images"][name].update(file="../escaped"))
        dataset = open_any(tissue.parent / "tissue")
        report = drain(replay(folder, dataset))
        assert "has no image '../escaped'" in report.problems[0]
        drain(replay(folder, dataset, out=tmp_path / "new"))
        assert all(path.is_relative_to(tmp_path / "new") for path in tmp_path.rglob("*escaped*.png"))


class TestManifestsOfTheFirstForm:
    def test_a_nucleus_is_recorded_as_it_would_be_today(self):
        old = json.loads((GOLDEN / "version-3-nuclei-manifest.json").read_text(encoding="utf-8"))["placements"]
        manifest = read_manifest(GOLDEN / "version-3-nuclei-manifest.json")
        assert len(manifest.records) == len(old) == 6
        for record, placement in zip(manifest.records, old, strict=True):
            made = placement["provenance"]
            assert (record.id, record.seed, record.score) == (
                placement["rank"],
                placement["seed"],
                placement["percentile"],
            )
            assert record.in_place and record.method == "nucleimix" and record.provenance == made
            assert record.window == (made["changed"]["row"], made["changed"]["col"], *made["changed"]["size"])
            assert record.added == {placement["instance"]: {"class": "lymphocyte"}}
            assert record.source("donor")["item"] == placement["donor"]["instance"]
            assert record.source("target")["row"] == placement["target"]["row"]
            assert record.content["decision"] == "approve" and record.content["decided_by"] == "Ann"
            gone = placement["target"]["instance"]
            assert record.removed == ((gone,) if gone else ())

    def test_a_tissue_image_is_recorded_as_it_would_be_today(self):
        manifest = read_manifest(GOLDEN / "version-3-tissue-manifest.json")
        first, second = manifest.records
        assert (first.id, first.image, first.name, first.method) == (0, "left/2", "left/2 mix 1", "usegmix")
        assert not first.in_place and first.class_shares == {"left": 1.0}
        assert [source["image"] for source in first.sources][:2] == ["left/2", "left/3"]
        assert first.source("donor")["item"] == first.provenance["donors"][0]["segment"]
        assert second.content["note"] == "cut" and second.content["reasons"] == "shape"
        assert second.content["decided_by"] == "Bob"
        assert manifest.images[0].file == "left/synthetic-left-2 mix 1"
