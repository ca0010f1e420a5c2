"""One report of everything that may be wrong with a dataset, and a clean copy."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from napari_histomix.cli import main
from napari_histomix.datasets import load_sample, open_any, sample_folder
from napari_histomix.datasets.doctor import CHECKS, examine
from napari_histomix.records import drain

NFD = unicodedata.normalize("NFD", "Ångström")


@pytest.fixture
def troubled(tmp_path):
    """An object outside, one without a class, a turned photograph, names of macOS, and a split that nobody knows."""
    folder = tmp_path / "troubled"
    folder.mkdir()

    def square(x, y, side=12):
        return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]

    def feature(*polygons, kind="detection", name="tumor"):
        geometry = {"type": "Polygon", "coordinates": [polygons[0]]}
        if len(polygons) > 1:
            geometry = {"type": "MultiPolygon", "coordinates": [[ring] for ring in polygons]}
        classes = {"classification": {"name": name}} if name else {}
        return {"type": "Feature", "geometry": geometry, "properties": {"objectType": kind} | classes}

    features = [feature(square(5, 5)), feature(square(900, 5)), feature(square(30, 5), name="")]
    features.append(feature(square(5, 60), square(60, 60)))
    for name, split in ((NFD, "batch1"), ("b", "train")):
        pixels = np.random.default_rng(len(name)).integers(0, 255, (100, 80, 3)).astype(np.uint8)
        exif = Image.Exif()
        exif[274] = 6 if name == "b" else 1
        Image.fromarray(pixels).save(folder / f"{name}.png", exif=exif)
        (folder / f"{name}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        with (folder / "images.csv").open("a") as stream:
            stream.write(("image,split\n" if not stream.tell() else "") + f"{name},{split}\n")
    return folder


def test_a_sound_dataset_passes_every_check():
    found = drain(examine(load_sample()))
    assert found.failed == () and list(found.findings) == list(CHECKS)
    assert found.survey.total.total() > 0


def test_everything_is_found_with_its_remedy(troubled, capsys):
    found = drain(examine(open_any(troubled)))
    assert found.failed == ("objects", "parts", "orientation", "names", "splits", "scale")
    assert all("1 of 4 objects lies outside the image" in sentence for sentence in found.findings["objects"])
    assert len(found.findings["objects"]) == 2
    assert "'batch1'" in found.findings["splits"][0] and "accents" in found.findings["names"][0]
    assert main(["doctor", str(troubled), "--mpp", "0.25", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["error"].startswith("5 of 9 checks") and result["checks"]["scale"]["findings"] == []
    assert "--split-parts" in result["checks"]["parts"]["remedy"]


def test_the_clean_copy_has_nothing_left_to_mend(troubled, tmp_path, capsys):
    (troubled / "dataset.json").write_text('{"splits": {"batch1": "val"}, "split_parts": true}')
    out = tmp_path / "clean"
    assert main(["doctor", str(troubled), "--mpp", "0.25", "--fix", str(out)]) == 0
    before, after = open_any(troubled, 0.25), open_any(out)
    assert drain(examine(after)).failed == ()
    assert sorted(entry.source.split for entry in after.entries) == ["train", "val"]
    for entry, other in zip(before.entries, after.entries, strict=True):
        image, copy = before.read(entry), after.read(other)
        np.testing.assert_array_equal(image.pixels, copy.pixels)
        np.testing.assert_array_equal(image.instances > 0, copy.instances > 0)
        assert image.counts().total() == copy.counts().total() == 4
    assert main(["doctor", str(troubled), "--fix", str(out)]) == 1
    assert "already exists" in capsys.readouterr().err


def test_tissue_has_a_report_as_well(tmp_path, capsys):
    for kind in ("high", "low"):
        (tmp_path / "tissue" / kind).mkdir(parents=True)
        pixels = np.random.default_rng(len(kind)).integers(0, 255, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "tissue" / kind / "a.png")
    assert main(["doctor", str(tmp_path / "tissue"), "--mpp", "0.5"]) == 0
    assert main(["doctor", str(tmp_path / "tissue"), "--mpp", "0.5", "--fix", str(tmp_path / "out")]) == 0
    assert open_any(tmp_path / "out").kinds == ("high", "low")


def test_an_unlikely_scale_is_said():
    found = drain(examine(open_any(sample_folder(), mpp=5.0)))
    assert found.failed == ("scale",) and "µm wide" in found.findings["scale"][0]


def written(folder, images, **described):
    """A folder of images with label images beside them."""
    for name, (pixels, labels) in images.items():
        for kind, content in (("images", pixels), ("masks", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(folder / kind / f"{name}.png")
    (folder / "dataset.json").write_text(json.dumps({"mpp": 0.5} | described))
    return folder


def sample_pairs(count):
    sample = load_sample()
    read = [sample.read(entry) for entry in sample.entries[:count]]
    return {f"im{number}": (image.pixels, image.instances.astype(np.uint16)) for number, image in enumerate(read)}


def test_splits_that_are_proposed_mend_one_that_is_not_understood(tmp_path, capsys):
    folder = written(tmp_path / "data", sample_pairs(3))
    (folder / "images.csv").write_text("image,split\nim0,train\nim1,fold7\nim2,fold7\n")
    assert main(["doctor", str(folder)]) == 1
    # Each finding once: nothing of it is said before the report.
    assert capsys.readouterr().out.count("2 images are of it") == 1
    assert main(["split", str(folder), "--out", str(tmp_path / "splits.csv")]) == 0
    capsys.readouterr()
    assert main(["doctor", str(folder), "--splits", str(tmp_path / "splits.csv")]) == 0
    assert "fold7" not in capsys.readouterr().out


def test_a_fault_that_follows_from_another_is_not_reported(tmp_path):
    binary = {
        name: (pixels, ((labels > 0) * 255).astype(np.uint8)) for name, (pixels, labels) in sample_pairs(2).items()
    }
    assert drain(examine(open_any(written(tmp_path / "data", binary)))).failed == ("parts",)


def test_a_dataset_without_a_nucleus_says_so(tmp_path):
    empty = {"a": (np.full((40, 40, 3), 200, np.uint8), np.zeros((40, 40), np.uint16))}
    found = drain(examine(open_any(written(tmp_path / "data", empty))))
    assert found.findings["files"] == ("None of the images has a nucleus.",)


def test_names_of_folders_count_as_well(tmp_path):
    for kind in (unicodedata.normalize("NFD", "Drüse"), "aux"):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.random.default_rng(len(kind)).integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(
            tmp_path / kind / "a.png"
        )
    found = drain(examine(open_any(tmp_path, mpp=0.5)))
    assert found.failed == ("names",) and "objects" not in found.findings
    assert "Drüse" in unicodedata.normalize("NFC", found.findings["names"][0]) and "aux" in found.findings["names"][1]


def test_every_turned_image_is_in_the_report(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    (name, (pixels, labels)), (other, _) = sample_pairs(2).items()
    folder = written(tmp_path / "data", {name: (pixels[:100], labels[:100]), other: (pixels[:100], labels[:100])})
    for image, drawn in ((name, labels[:100]), (other, np.rot90(labels[:100]))):
        Image.fromarray(np.rot90(pixels[:100])).save(folder / "images" / f"{image}.png", exif=exif)
        Image.fromarray(np.ascontiguousarray(drawn)).save(folder / "masks" / f"{image}.png")
    found = drain(examine(open_any(folder)))
    assert all(sum(image in told for told in found.findings["orientation"]) == 1 for image in (name, other))
    assert main(["doctor", str(folder), "--fix", str(tmp_path / "out")]) == 0
    copy = open_any(tmp_path / "out")
    assert drain(examine(copy)).failed == ()
    for entry in copy.entries:
        np.testing.assert_array_equal(copy.read(entry).pixels, pixels[:100])
        np.testing.assert_array_equal(copy.read(entry).instances > 0, labels[:100] > 0)


def test_a_copy_that_cannot_be_is_refused_in_a_sentence(tmp_path, capsys):
    def said(*arguments):
        code = main(["doctor", *map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)["error"]

    folder = written(tmp_path / "data", sample_pairs(1))
    assert said(folder, "--to", "coco")[0] == 2
    code, error = said(folder, "--fix", tmp_path / "out", "--to", "class-folders")
    assert code == 1 and "choose another format" in error
    (folder / "dataset.json").unlink()
    code, error = said(folder, "--fix", tmp_path / "out")
    assert code == 1 and "do what the report says first" in error
