"""Datasets of predictions against the truth: what is paired, what is missing, and what people and programs are told."""

from __future__ import annotations

import csv
import json
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import napari_histomix as hm
from napari_histomix.cli import main
from napari_histomix.datasets import load_sample, sample_folder
from napari_histomix.datasets.dataset_writer import convert
from napari_histomix.evaluation.scoring import score
from napari_histomix.records import HistomixError, drain


@pytest.fixture(scope="module")
def images(labeled_image):
    return [labeled_image(8, seed=seed, name=f"tile_{seed}") for seed in range(3)] + [labeled_image([], name="bare")]


@pytest.fixture(scope="module")
def truth(images, dataset_folder, tmp_path_factory) -> Path:
    return dataset_folder(tmp_path_factory.mktemp("scores") / "truth", images)


def eroded(image):
    inside = ndimage.grey_erosion(image.instances, 3) == ndimage.grey_dilation(image.instances, 3)
    return replace(image, instances=np.where(inside, image.instances, 0).astype(np.int32))


def test_predictions_of_other_formats_numbers_and_case(images, truth, dataset_folder, tmp_path):
    folder = dataset_folder(tmp_path / "hovernet", [eroded(image) for image in images])
    info = json.loads((folder / "type_info.json").read_text())
    # Types are numbered and spelled otherwise.
    renamed = {number: [name.upper(), *color] for number, (name, *color) in info.items()}
    (folder / "type_info.json").write_text(json.dumps(renamed))
    expected = score(folder, truth)
    assert 0.5 < expected.segmentation["pq"] < expected.segmentation["dq"] <= 1
    assert expected.empty_images == 1 and np.isnan(expected.per_image["bare"]["pq"])
    assert expected.classes == ("rare", "common") and expected.nuclei.accuracy == 1 == expected.nuclei.f_c("rare")
    drain(convert(hm.open_dataset(folder), tmp_path / "pred", "ome-zarr"))
    assert score(tmp_path / "pred", hm.open_dataset(truth)).values()["per_image"] == expected.values()["per_image"]


def test_means_are_over_images_and_classes_are_pooled(images, truth, dataset_folder, tmp_path):
    lost = [replace(images[0], instances=np.zeros_like(images[0].instances), types={}), *images[1:3]]
    scores = score(dataset_folder(tmp_path / "pred", lost), truth)
    assert scores.missing_pred == ("bare",) and scores.images == ("tile_0", "tile_1", "tile_2")
    assert scores.segmentation["pq"] == scores.segmentation["dice"] == pytest.approx(2 / 3)
    total, left = sum(len(image.types) for image in images), sum(len(image.types) for image in images[1:])
    assert scores.nuclei.f_d == pytest.approx(2 * left / (left + total))
    assert scores.values()["classes"]["rare"]["true"] == 9 and scores.values()["classes"]["rare"]["predicted"] == 6


@pytest.mark.parametrize(
    ("names", "partners"),
    [(["TILE_0", "tile_1"], {"tile_0", "tile_1"}), (["tile_0", "tile_9"], {"tile_0"}), (["tile_1"], {"tile_1"})],
)
def test_images_without_a_partner_are_named(images, truth, dataset_folder, tmp_path, run, names, partners):
    pred = [replace(images[0], source=replace(images[0].source, image=name)) for name in names]
    folder = dataset_folder(tmp_path / "pred", pred)
    code, out, _ = run("score", folder, truth)
    missing = sorted({"tile_0", "tile_1", "tile_2", "bare"} - partners)
    assert code == 0 and out[0] == f"made up against made up: {len(partners)} image" + "s" * (len(partners) > 1)
    (said,) = [line for line in out if "without a prediction" in line]
    assert said.startswith(f"Note: {len(missing)} images") and all(name in said for name in missing)
    assert any("without a truth" in line and "tile_9" in line for line in out) == ("tile_9" in names)


def test_classes_in_other_letters(images, truth, dataset_folder, tmp_path):
    folders = [dataset_folder(tmp_path / name, images) for name in ("pred", "truth")]
    for folder, form in zip(folders, ("NFD", "NFC"), strict=True):
        info = json.loads((folder / "type_info.json").read_text())
        name = unicodedata.normalize(form, "Épithélium")
        (folder / "type_info.json").write_text(json.dumps(info | {"2": [name, [1, 2, 3]]}))
    assert score(*folders).nuclei.mpq_plus == 1


def test_other_classes(images, truth, dataset_folder, tmp_path):
    folder = dataset_folder(tmp_path / "pred", images)
    info = json.loads((folder / "type_info.json").read_text())
    (folder / "type_info.json").write_text(json.dumps(info | {"2": ["plasma", [1, 2, 3]]}))
    scores = score(folder, truth)
    assert scores.classes == ("rare", "common", "plasma")
    assert scores.nuclei.f_c("rare") == 1 and scores.nuclei.f_c("common") == scores.nuclei.f_c("plasma") == 0
    assert scores.nuclei.mpq_plus == pytest.approx(1 / 3)
    assert any("The truth has no class plasma" in note for note in scores.notes)
    (folder / "type_info.json").write_text(
        json.dumps({str(number): [f"c{number}", [1, 2, 3]] for number in range(1, 4)})
    )
    scores = score(folder, truth)
    assert scores.classes == () and "classes" not in scores.values() and scores.segmentation["pq"] == 1
    assert any("c1, c2, c3 in the predictions), so classes are not scored." in note for note in scores.notes)


def test_the_radius_follows_the_truth_or_whoever_knows_the_scale(images, dataset_folder, tmp_path):
    # Nuclei 2.4 µm aside at 0.4 µm/px are paired; at 0.8 they are too far apart.
    def moved(image, mpp, by):
        return replace(image, instances=np.roll(image.instances, by, 1), mpp=mpp)

    (single,) = [replace(images[0], instances=np.where(images[0].instances == 1, 1, 0).astype(np.int32), types={1: 1})]
    pred = dataset_folder(tmp_path / "pred", [moved(single, 0.4, 6)])
    for mpp, f_d in ((0.4, 1), (0.8, 0)):
        scores = score(pred, dataset_folder(tmp_path / f"{mpp}", [moved(single, mpp, 0)]))
        assert scores.nuclei.f_d == f_d
        assert any("another µm/px than the truth" in note for note in scores.notes) == (mpp == 0.8)


@pytest.mark.parametrize(
    ("format", "kept", "flat"),
    [
        ("hovernet", "Labels/*.mat", True),
        ("hovernet-json", "json/*.json", True),
        ("hovernet-json", "json/*.json", False),
        ("qupath", "geojson/*", True),
        ("coco", "annotations/*", False),
        ("tiff-pairs", "masks/*", True),
        ("plain", "labels/*", True),
        ("aperio-xml", "made up/*.xml", True),
    ],
)
def test_label_files_alone(images, truth, tmp_path, run, format, kept, flat):
    drain(convert(hm.open_dataset(truth), tmp_path / "whole", format))
    pred = tmp_path / "pred"
    pred.mkdir()
    files = list((tmp_path / "whole").glob(kept if format != "aperio-xml" else "**/*.xml"))
    for file in [*files, *(tmp_path / "whole").glob("t*.*"), *(tmp_path / "whole").glob("images.csv")]:
        place = pred if flat or file.parent == tmp_path / "whole" else pred / file.parent.name
        place.mkdir(exist_ok=True)
        shutil.copy(file, place)
    if format == "hovernet-json":
        (pred / "overlay").mkdir()
        Image.fromarray(images[0].pixels).save(pred / "overlay" / "tile_0.png")
    code, out, err = run("score", pred, truth, "--json")
    assert code == 0, err
    result = json.loads(out[-1])
    assert result["images"] == 4 and result["missing_pred"] == [] and result["segmentation"]["dq"] == 1
    assert result["accuracy"] == 1 and result["pred"] == "pred"


def test_masks_without_ids_are_told_of(images, truth, tmp_path, run):
    for image in images:
        Image.fromarray(np.uint8(255 * (image.instances > 0))).save(tmp_path / f"{image.source.image}.png")
    code, out, _ = run("score", tmp_path, truth)
    assert code == 0 and any(
        "In the predictions, tile_0: 1 id covers" in line and "--split-parts" in line for line in out
    )
    assert json.loads(run("score", tmp_path, truth, "--split-parts", "--json")[1][-1])["segmentation"]["pq"] > 0.9


class TestWhatCannotBeScored:
    @pytest.fixture
    def fails(self, run):
        def call(*arguments: object) -> str:
            code, _, err = run(*arguments)
            assert code == 1 and "Traceback" not in "".join(err)
            assert json.loads(run(*arguments, "--json")[1][-1])["error"] == err[-1].removeprefix("histomix: ")
            return err[-1]

        return call

    def test_different_sizes(self, fails, truth, labeled_image, dataset_folder, tmp_path):
        pred = dataset_folder(tmp_path / "pred", [labeled_image(3, shape=(128, 96), name="tile_0")])
        assert fails("score", pred, truth) == (
            "histomix: tile_0: the prediction is 96×128 pixels but the truth is 128×128; bring both to one size."
        )

    def test_no_name_in_common(self, fails, truth):
        assert "No image of HistoMix sample has the name of one of made up" in fails("score", sample_folder(), truth)

    def test_nuclei_against_classes_of_images(self, fails, truth, tissue_folder, tmp_path):
        said = fails("score", tissue_folder(tmp_path / "tissue"), truth)
        assert said.startswith("histomix: made up has nuclei but tissue has images that carry a class;")

    def test_no_scale(self, fails, truth, images, tmp_path, run):
        folders = [tmp_path / name for name in ("pred", "truth")]
        for folder in folders:
            for part, array in (("images", images[0].pixels), ("labels", images[0].instances.astype(np.uint16))):
                (folder / part).mkdir(parents=True)
                Image.fromarray(array).save(folder / part / "tile_0.png")
        assert "nothing says how many µm one pixel is" in fails("score", *folders)
        assert run("score", *folders, "--mpp", 0.5)[0] == 0
        # One side knows it.
        code, out, _ = run("score", folders[0], truth, "--json")
        assert code == 0 and json.loads(out[-1])["segmentation"]["pq"] == 1

    def test_nothing_there(self, fails, truth, tmp_path):
        assert "does not exist" in fails("score", tmp_path / "none", truth)

    def test_a_damaged_prediction_is_left_out(self, truth, images, dataset_folder, tmp_path, fails):
        folder = dataset_folder(tmp_path / "pred", images)
        (folder / "Labels" / "tile_1.mat").write_bytes(b"MATLAB 5.0 MAT-file, but no more")
        scores = score(folder, truth)
        assert "tile_1" not in scores.per_image and len(scores.images) == 3
        assert any(note.startswith("Skipped: tile_1") for note in scores.notes)
        for file in (folder / "Labels").iterdir():
            file.write_bytes(b"MATLAB 5.0 MAT-file, but no more")
        assert "No pair of images can be read; the first: " in fails("score", folder, truth)


class TestClassesOfImages:
    @pytest.fixture
    def tissue(self, tissue_folder, tmp_path) -> Path:
        return tissue_folder(tmp_path / "tissue")

    def predicted(self, folder: Path, rows: dict[str, str]) -> Path:
        """A CSV of predictions beside the images."""
        with (folder / "pred.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([["image", "class"], *rows.items()])
        return folder / "pred.csv"

    def test_a_table_of_predictions(self, tissue, run):
        pred = {f"{kind}/{number}.png": kind.upper() for kind in ("low", "high") for number in range(4)}
        pred["low/0.png"] = pred["low/1.png"] = "HIGH"
        code, out, _ = run("score", self.predicted(tissue, pred), tissue / "images.csv", "--json")
        result = json.loads(out[-1])
        values = result["image_classes"]
        assert code == 0 and values["images"] == 8 and values["accuracy"] == 0.75
        assert values["f1"] == pytest.approx({"high": 0.8, "low": 2 / 3}) and values["kappa"] == pytest.approx(0.5)
        assert result["missing_pred"] == ["low/held"] and "segmentation" not in result

    def test_the_order_of_grades(self, tissue, run):
        pred = self.predicted(tissue, {"low/0.png": "mid", "high/0.png": "high", "low/1.png": "low"})
        natural = run("score", pred, tissue / "images.csv")[1]
        assert any("Kappa takes the classes in the order high, low, mid; --order names another." in x for x in natural)
        assert any("The truth has no class mid" in line for line in natural)
        ordered = score(pred, tissue / "images.csv", order=["low", "mid", "high"])
        assert ordered.agreement.kappa == pytest.approx(0.8) and not any("Kappa" in note for note in ordered.notes)
        for order, sentence in ((["low"], "leaves out high"), (["low", "LOW", "mid", "high"], "has a class twice")):
            with pytest.raises(HistomixError, match=sentence):
                score(pred, tissue / "images.csv", order=order)

    def sorted_into(self, root: Path, classes: dict[str, str], tissue: Path) -> Path:
        for image, kind in classes.items():
            (root / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(tissue / f"{image}.png", root / kind)
        (root / "dataset.json").write_text('{"mpp": 0.25}')
        return root

    def test_predicted_class_folders(self, tissue, tmp_path):
        for number in range(4):
            (tissue / "high" / f"{number}.png").rename(tissue / "high" / f"h{number}.png")
        (tissue / "images.csv").unlink()
        shutil.rmtree(tissue / "low" / "held.png", ignore_errors=True)
        classes = {f"low/{number}": "low" for number in range(4)} | {f"high/h{number}": "high" for number in range(4)}
        pred = self.sorted_into(tmp_path / "pred", classes | {"high/h0": "low"}, tissue)
        scores = score(pred, hm.open_dataset(tissue, mpp=0.25))
        assert scores.agreement.count == 8 and scores.agreement.accuracy == 7 / 8

    def test_files_of_one_name_in_several_classes(self, tissue, tmp_path):
        (tissue / "images.csv").unlink()
        truth = hm.open_dataset(tissue, mpp=0.25)
        assert score(truth, truth).agreement.accuracy == 1
        swapped = {"low/0": "high", "high/0": "low", "low/1": "low", "high/1": "high"}
        with pytest.raises(HistomixError, match="is another image in the predictions than in the truth"):
            score(self.sorted_into(tmp_path / "pred", swapped, tissue), truth)


def test_the_sample_against_itself_and_its_json(run):
    code, out, _ = run("score", sample_folder(), sample_folder(), "--json")
    result = json.loads(out[-1])
    assert code == 0 and len(out) == 1 and result["missing_pred"] == result["missing_truth"] == []
    assert set(result["segmentation"].values()) == {1.0} and result["f_d"] == result["accuracy"] == 1
    assert result["mpq_plus"] == 1 and {row["f_c"] for row in result["classes"].values()} == {1.0}
    assert result["confusion"]["tumor"] == {"tumor": result["classes"]["tumor"]["true"]}
    assert len(result["per_image"]) == 5


def test_a_dataset_without_a_nucleus_has_no_figures(labeled_image, dataset_folder, tmp_path, capsys):
    folder = dataset_folder(tmp_path / "bare", [labeled_image([], name="bare")])
    assert main(["score", str(folder), str(folder), "--json"]) == 0
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert set(result["segmentation"].values()) == {None} and result["f_d"] is None and result["empty_images"] == 1
    assert any("Neither side has a nucleus" in note for note in result["notes"])


def test_the_public_face(capsys):
    data = load_sample()
    print(hm.score(data, data))
    assert "mPQ+" in capsys.readouterr().out
