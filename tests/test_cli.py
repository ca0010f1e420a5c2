from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from napari_histomix.datasets import SYNTHETIC_NOTICE, load_sample, sample_folder
from napari_histomix.study import Study

COMMANDS = {
    ("demo",): ("--out", "sample", "report.png"),
    ("inspect",): ("classes", "µm/px", "--mpp"),
    ("candidates",): ("--rare", "--major", "--density", "--out", "CSV"),
    ("place-test",): ("--rare", "--major", "--encoder", "--out", "report.md"),
    ("synthesize",): ("--rare", "-k", "--seed", "fast,quality,paper", "--device", "--out", "hovernet"),
    ("blend-test",): ("--holes", "--samplers", "--spread", "--sheet", "METHOD:START:STEPS:VISITS"),
    ("train", "inpainter"): ("--images", "--from", "--minutes", "--steps", "--mpp", "--out"),
}


@pytest.fixture(scope="module")
def data(labeled_image, dataset_folder, tmp_path_factory) -> Path:
    """Two training images, one without nuclei and one of the test split. Never write into it."""
    images = [labeled_image(10, seed=seed, name=f"train_{seed}", patient=f"p{seed}", rare=4) for seed in range(2)]
    images += [
        labeled_image([], name="train_empty", patient="p8"),
        labeled_image(10, seed=9, name="test_9", split="test", patient="p9", rare=8),
    ]
    return dataset_folder(tmp_path_factory.mktemp("cli") / "data", images)


@pytest.fixture
def fails(run):
    """Run a command that must fail with one sentence; returns it."""

    def call(*arguments: object) -> str:
        code, out, err = run(*arguments)
        assert code == 1, (out, err)
        # Lines of progress end with an ellipsis; then there is one sentence and nothing else.
        said = [line for line in err if not line.endswith(" …")]
        assert len(said) == 1 and err[-1] == said[0], err
        assert said[0].startswith("histomix: ") and "Traceback" not in said[0]
        code, out, _ = run(*arguments, "--json")
        assert code == 1 and json.loads(out[-1])["error"] == said[0].removeprefix("histomix: ")
        return said[0]

    return call


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestHelpAndUsage:
    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    def test_help_says_what_a_newcomer_needs(self, run, command):
        code, out, err = run(*command, "--help")
        assert code == 0 and err == []
        for word in (*COMMANDS[command], "--json"):
            assert word in "\n".join(out), word

    def test_the_commands_and_the_exit_codes_are_listed(self, run):
        code, out, _ = run("--help")
        assert code == 0
        for word in ("demo", "inspect", "candidates", "synthesize", "train", "Exit codes", "Not for diagnosis"):
            assert word in "\n".join(out), word

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("nonsense",),
            ("inspect",),
            ("demo",),
            ("train",),
            ("synthesize", "x", "--out", "y"),
            ("synthesize", "x", "--rare", "1", "--out", "y", "-k", "0"),
            ("synthesize", "x", "--rare", "1", "--out", "y", "-k", "many"),
            ("synthesize", "x", "--rare", "1", "--out", "y", "--seed", "-1"),
            ("synthesize", "x", "--rare", "1", "--out", "y", "--sampler", "slow"),
            ("synthesize", "x", "--rare", "1", "--out", "y", "--mpp", "0"),
            ("inspect", "x", "--mpp", "nan"),
            ("train", "inpainter", "--images", "x", "--out", "y", "--steps", "1", "--minutes", "1"),
        ],
        ids=" ".join,
    )
    def test_wrong_usage_is_exit_code_two(self, run, arguments):
        code, out, err = run(*arguments)
        assert code == 2 and out == [] and "usage: histomix" in err[0]
        code, out, _ = run(*arguments, "--json")
        assert code == 2 and len(out) == 1 and json.loads(out[0])["error"] in err[-1]

    def test_what_a_command_lacks_is_said_with_its_own_usage(self, run, data, tmp_path):
        code, _, err = run("synthesize", data, "--method", "painted-nuclei", "--out", tmp_path / "out")
        assert code == 2 and err[0].startswith("usage: histomix synthesize")
        assert err[-1].startswith("histomix synthesize: error: --rare is needed")

    @pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("doctor", "--help")])
    def test_help_and_version_are_json_where_that_is_asked_for(self, run, arguments):
        code, plain, _ = run(*arguments)
        assert code == 0 and plain
        code, out, _ = run(*arguments, "--json")
        assert code == 0 and json.loads("".join(out)) == {"text": "\n".join(plain)} and len(out) == 1


class TestInspect:
    def test_it_counts(self, run, data, labeled_image):
        code, out, _ = run("inspect", data)
        text = "\n".join(out)
        assert code == 0
        assert "made up: 4 images, 30 nuclei" in text and "µm/px: 0.25" in text
        assert "test 1, train 3" in text and "patients: 4" in text and "No problems found." in text
        assert any(line.split()[:3] == ["1", "rare", "16"] for line in out)

    def test_json_is_the_last_line_and_the_only_one(self, run, data):
        code, out, err = run("inspect", data, "--json")
        assert code == 0 and len(out) == 1 and err
        result = json.loads(out[0])
        assert result["images"] == 4 and result["nuclei"] == 30 and result["splits"] == {"train": 3, "test": 1}
        assert {one["name"]: one["nuclei"] for one in result["classes"]} == {"rare": 16, "common": 14, "other": 0}

    def test_it_says_what_it_was_taken_for(self, run, data, tissue_folder, tmp_path):
        assert any(line.startswith("read as: HoVer-Net") for line in run("inspect", data)[1])
        assert json.loads(run("inspect", data, "--json")[1][-1])["format"] == "hovernet"
        for folder in (tissue_folder(tmp_path / "tissue"), tmp_path / "tissue" / "images.csv"):
            code, out, _ = run("inspect", folder)
            assert code == 0 and "read as: Class folders" in out
            assert any(line.split()[:2] == ["high", "4"] for line in out)

    @pytest.mark.parametrize("command", ["inspect", "split", "candidates", "copypaste", "convert", "doctor"])
    @pytest.mark.parametrize("folder", ["empty_coco", "empty_plain"])
    def test_no_nuclei_and_no_classes(self, run, request, tmp_path, command, folder):
        data, out = request.getfixturevalue(folder), tmp_path / "out"
        more: dict[str, tuple[object, ...]] = {
            "split": ("--out", out),
            "candidates": ("--rare", "1", "--out", out),
            "copypaste": ("--method", "copypaste", "--rare", "1", "--out", out),
            "convert": ("--to", "qupath", "--out", out),
        }
        word = "synthesize" if command == "copypaste" else command
        code, shown, err = run(word, data, "--mpp", 0.25, *more.get(command, ()))
        assert code == (1 if command in ("candidates", "copypaste", "doctor") else 0), err
        assert not any("fault of napari-histomix" in line for line in err)
        if command == "inspect":
            assert shown[-1] == "problem: None of the images has a nucleus." and "a: 1 image, 0 nuclei" in shown[0]
        if command == "doctor":
            assert any("None of the images has a nucleus." in line for line in shown)

    @pytest.fixture
    def empty_coco(self, tmp_path) -> Path:
        images = [{"id": 1, "file_name": "a.png", "height": 64, "width": 64}]
        (tmp_path / "a" / "images").mkdir(parents=True)
        (tmp_path / "a" / "annotations").mkdir()
        Image.new("RGB", (64, 64), (200, 180, 190)).save(tmp_path / "a" / "images" / "a.png")
        content = json.dumps({"images": images, "annotations": [], "categories": []})
        (tmp_path / "a" / "annotations" / "instances_train.json").write_text(content, encoding="utf-8")
        return tmp_path / "a"

    @pytest.fixture
    def empty_plain(self, tmp_path) -> Path:
        for part, pixels in (
            ("images", Image.new("RGB", (64, 64), (200, 180, 190))),
            ("labels", Image.new("L", (64, 64))),
        ):
            (tmp_path / "a" / part).mkdir(parents=True)
            pixels.save(tmp_path / "a" / part / "a.png")
        (tmp_path / "a" / "types.csv").write_text("image,instance,type\n", encoding="utf-8")
        return tmp_path / "a"

    def test_no_dataset_is_one_sentence(self, fails, tmp_path):
        assert "does not exist; choose the folder of the dataset" in fails("inspect", tmp_path / "nowhere")
        assert "holds no labeled images, nor any files" in fails("inspect", tmp_path)

    def test_a_table_of_splits_that_is_not_there(self, fails, data, tmp_path):
        assert "nowhere.csv is not there" in fails("inspect", data, "--splits", tmp_path / "nowhere.csv")


class TestCandidates:
    def test_a_table_that_synthesize_takes_back(self, run, data, small_model_folder, tmp_path):
        table = tmp_path / "c.csv"
        code, out, _ = run("candidates", data, "--rare", "rare", "--out", table, "--json")
        result = json.loads(out[-1])
        assert code == 0 and result["out"] == str(table)
        with table.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == result["candidates"] > 10
        assert not any("test_9" in (row["image"], row["donor_image"]) for row in rows)

        arguments = ("synthesize", data, "--rare", "rare", "-k", 3, "--model", small_model_folder, "--device", "cpu")
        assert run(*arguments, "--out", tmp_path / "direct")[0] == 0
        assert run(*arguments, "--candidates", table, "--out", tmp_path / "table")[0] == 0
        direct, again = (
            json.loads((tmp_path / name / "manifest.json").read_text(encoding="utf-8"))["changes"]
            for name in ("direct", "table")
        )
        assert [one["sources"] for one in direct] == [one["sources"] for one in again]
        assert tree(tmp_path / "direct" / "Images") == tree(tmp_path / "table" / "Images")

        # What a person drops is not used, and the next takes its place.
        dropped = {str(one["id"]) for one in direct[:2]}
        for row in rows:
            row["decision"] = "drop" if row["rank"] in dropped else ""
        with table.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        assert run(*arguments, "--candidates", table, "--out", tmp_path / "dropped")[0] == 0
        manifest = json.loads((tmp_path / "dropped" / "manifest.json").read_text(encoding="utf-8"))
        ranks = {str(one["id"]) for one in manifest["changes"]}
        assert len(ranks) == 3 and not ranks & dropped

    def test_classes_by_number_too_and_an_existing_table_is_kept(self, run, fails, data, tmp_path):
        assert run("candidates", data, "--rare", "1", "--major", "COMMON", "--out", tmp_path / "c.csv")[0] == 0
        before = (tmp_path / "c.csv").read_bytes()
        assert "already exists" in fails("candidates", data, "--rare", "1", "--out", tmp_path / "c.csv")
        assert (tmp_path / "c.csv").read_bytes() == before

    def test_an_unknown_class_lists_those_there_are(self, fails, data, tmp_path):
        sentence = fails("candidates", data, "--rare", "neutrophil", "--out", tmp_path / "c.csv")
        assert "no class 'neutrophil'" in sentence and "1 rare, 2 common, 3 other" in sentence
        assert "both rare and major" in fails(
            "candidates", data, "--rare", "rare", "--major", "rare", "--out", tmp_path / "c.csv"
        )
        assert list(tmp_path.iterdir()) == []


@pytest.fixture
def synthesize(data, small_model_folder):
    return ("synthesize", data, "--rare", "rare", "--model", small_model_folder, "--device", "cpu")


class TestSynthesize:
    def test_the_same_seed_gives_the_same_bytes(self, run, synthesize, tmp_path):
        for name, seed, batch in (("a", 4, 16), ("b", 4, 2), ("c", 5, 16)):
            code, out, err = run(*synthesize, "-k", 4, "--seed", seed, "--batch", batch, "--out", tmp_path / name)
            assert code == 0
            assert "Made 4 of 4." in out and f"Written: {tmp_path / name}" in out
            assert any(line.startswith("Blending nuclei") for line in err), "progress, also without a terminal"
        assert tree(tmp_path / "a") == tree(tmp_path / "b") != tree(tmp_path / "c")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]

    def test_only_the_training_split_is_written_and_used(self, run, synthesize, data, tmp_path):
        code, out, _ = run(*synthesize, "-k", 3, "--out", tmp_path / "out", "--json")
        assert code == 0 and len(out) == 1
        result = json.loads(out[0])
        assert (result["made"], result["wanted"], result["problems"]) == (3, 3, [])
        names = {path.stem for path in (tmp_path / "out" / "Images").iterdir()}
        assert names == {"train_0", "train_1", "train_empty"}
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
        for one in manifest["changes"]:
            assert {source["image"] for source in one["sources"]} <= names and one["image"] in names
        for name in names:
            touched = any(one["image"] == name for one in manifest["changes"])
            before = np.array(Image.open(data / "Images" / f"{name}.png"))
            with Image.open(tmp_path / "out" / "Images" / f"{name}.png") as image:
                assert (image.info.get("Description") == SYNTHETIC_NOTICE) is touched
                changed = (np.array(image) != before).any(axis=2)
            assert changed.any() == touched
            assert changed.sum() <= sum(one["changed_pixels"] for one in manifest["changes"] if one["image"] == name)
            ids = np.unique(scipy.io.loadmat(tmp_path / "out" / "Labels" / f"{name}.mat")["inst_map"])
            new = {int(added) for one in manifest["changes"] if one["image"] == name for added in one["added"]}
            assert new <= set(ids.tolist())

    def test_a_study_to_review_comes_along(self, run, synthesize, tmp_path):
        code, *_ = run(*synthesize, "-k", 2, "--out", tmp_path / "out", "--study", tmp_path / "study")
        assert code == 0
        study = Study.open(tmp_path / "study")
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
        assert study.changes().ids == [one["id"] for one in manifest["changes"]]
        assert study.decisions("change") == {} and study.candidates()

    def test_what_is_there_already_stops_it_before_any_work(self, run, fails, synthesize, tmp_path):
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "mine").touch()
        assert "already exists" in fails(*synthesize, "--out", tmp_path / "there")
        _, _, err = run(*synthesize, "--out", tmp_path / "new", "--study", tmp_path / "there")
        assert "not empty" in err[-1] and not any("nuclei" in line for line in err)
        assert tree(tmp_path) == {"there/mine": b""}

    def test_a_study_of_given_candidates_holds_them(self, run, data, synthesize, tmp_path):
        table = tmp_path / "c.csv"
        run("candidates", data, "--rare", "rare", "--out", table)
        header, first, second, *lines = table.read_text(encoding="utf-8").splitlines()
        table.write_text("\n".join([header, f"{first}drop", second, *lines]), encoding="utf-8")
        more = ("--candidates", table, "--study", tmp_path / "study", "--out", tmp_path / "out")
        assert run(*synthesize, "-k", 2, *more)[0] == 0
        study = Study.open(tmp_path / "study")
        # In the window a candidate's place in the table is its rank: there is no gap where one was dropped.
        assert [each.rank for each in study.candidates()] == list(range(len(lines) + 2))
        assert study.decisions("candidate") == {0: "drop"}
        assert len(study.changes()) == 2 and 0 not in study.changes().ids

    def test_fewer_places_than_wanted_are_explained(self, run, synthesize, tmp_path):
        code, out, _ = run(*synthesize, "-k", 5000, "--out", tmp_path / "out")
        text = "\n".join(out)
        assert code == 0 and "of 5,000." in text and "refused: it" in text

    def test_a_missing_scale_is_asked_for(
        self, run, fails, labeled_image, dataset_folder, tmp_path, small_model_folder
    ):
        folder = dataset_folder(tmp_path / "data", [labeled_image(10, name="a", rare=4)])
        (folder / "images.csv").unlink()
        Image.open(folder / "Images" / "a.png").copy().save(folder / "Images" / "a.png")
        arguments = ("synthesize", folder, "--rare", "1", "-k", 1, "--model", small_model_folder)
        assert "pass --mpp" in fails(*arguments, "--out", tmp_path / "out")
        assert "unknown: pass --mpp" in "\n".join(run("inspect", folder)[1])
        assert run(*arguments, "--out", tmp_path / "out", "--mpp", 0.25)[0] == 0

    @pytest.mark.parametrize("what", ["weights", "model", "candidates"])
    def test_broken_files_are_one_sentence_and_leave_nothing(
        self, fails, synthesize, small_model_folder, tmp_path, what
    ):
        broken = tmp_path / "broken"
        broken.mkdir()
        for path in small_model_folder.iterdir():
            (broken / path.name).write_bytes(path.read_bytes()[: 500 if path.suffix == ".safetensors" else None])
        more = {
            "weights": ("--model", broken),
            "model": ("--model", tmp_path / "nowhere"),
            "candidates": ("--candidates", broken / "README.md"),
        }[what]
        fails(*synthesize, *more, "--out", tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["broken"]

    def test_patients_on_two_sides_are_refused(self, fails, labeled_image, dataset_folder, tmp_path):
        images = [labeled_image(4, name=split, split=split, patient="p1") for split in ("train", "test")]
        folder = dataset_folder(tmp_path / "data", images)
        assert "p1 (train: train; test: test)" in fails("synthesize", folder, "--rare", "1", "--out", tmp_path / "out")

    def test_cancelling_keeps_what_is_made(self, run, synthesize, tmp_path, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("napari_histomix.study.export.write_card", interrupted)
        code, out, err = run(*synthesize, "-k", 1, "--out", tmp_path / "out")
        assert code == 130 and err[-1] == "histomix: Cancelled." and "histomix resume" in out[-1]
        assert [path.name for path in tmp_path.iterdir()] == ["out.study"]
        monkeypatch.undo()
        study = Study.open(tmp_path / "out.study")
        assert len(study.changes()) == 1

    def test_cancelling_before_anything_is_made_leaves_nothing(self, run, synthesize, tmp_path, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("napari_histomix.study.Study.begin_run", interrupted)
        code, _, err = run(*synthesize, "-k", 1, "--out", tmp_path / "out")
        assert code == 130 and err[-1] == "histomix: Cancelled."
        assert list(tmp_path.iterdir()) == []


class TestTrain:
    def test_images_that_are_not_there(self, fails, tmp_path):
        sentence = fails("train", "inpainter", "--images", tmp_path / "nowhere", "--out", tmp_path / "out")
        assert f"{tmp_path / 'nowhere'} is not there" in sentence

    def test_a_short_run_whose_result_synthesize_takes(self, run, synthesize, small_network, tmp_path, monkeypatch):
        monkeypatch.setattr("napari_histomix.training.inpainting.new_network", lambda channels, side: small_network())
        rng = np.random.default_rng(0)
        (tmp_path / "images").mkdir()
        for number in range(3):
            pixels = rng.integers(120, 256, (70, 70, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        train = ("train", "inpainter", "--images", tmp_path / "images", "--batch", 2, "--device", "cpu")
        train += ("--from", "nothing")
        code, out, _ = run(*train, "--steps", 2, "--mpp", 0.5, 0.25, "--out", tmp_path / "m", "--json")
        assert code == 0 and json.loads(out[-1])["step"] == 2
        card = json.loads((tmp_path / "m" / "histomix.json").read_text(encoding="utf-8"))
        assert card["mpp"] == [0.25, 0.5] and card["name"] == "m"
        assert run(*synthesize, "-k", 1, "--model", tmp_path / "m", "--out", tmp_path / "out")[0] == 0

    @pytest.fixture
    def asked(self, monkeypatch):
        """What training is asked for, in place of doing it."""
        asked: dict = {}

        def train(kind, images, out, **how):
            asked.update(how, kind=kind, images=images)
            out.mkdir()
            (out / "histomix.json").write_text(json.dumps({"best": {"step": 1, "validation": 0.5}}))
            yield from ()
            return out

        monkeypatch.setattr("napari_histomix.training.loop.train", train)
        return asked

    def test_networks_that_learn_labels_take_labeled_datasets(self, run, fails, asked, tmp_path):
        train = ("train", "image", "--images", sample_folder(), "--share", 20, "--window", 32, "--out", tmp_path / "m")
        assert run(*train)[0] == 0
        assert [dataset.name for dataset in asked["images"]] == [load_sample().name]
        settings = asked["settings"]
        assert (asked["kind"], asked["mpp"], settings.share, settings.window) == ("image", None, 20.0, 32)
        assert "does not exist" in fails("train", "image", "--images", tmp_path / "nowhere", "--out", tmp_path / "n")

    @pytest.mark.parametrize(
        ("words", "start"),
        [
            (("inpainter",), "he-inpaint"),
            (("segmenter",), "he-segmenter"),
            (("segmenter", "--size", "full"), None),
            (("image", "--from", "nothing"), None),
            (("image", "--from", "mine"), "mine"),
            (("autoencoder",), None),
        ],
    )
    def test_it_begins_with_the_bundled_weights_unless_told_otherwise(self, words, start, run, asked, tmp_path):
        assert run("train", *words, "--images", sample_folder(), "--out", tmp_path / "m")[0] == 0
        assert (asked["start"] and asked["start"].name) == start

    def test_what_is_missing_is_one_sentence(self, fails, tmp_path):
        (tmp_path / "images").mkdir()
        train = ("train", "inpainter", "--from", "nothing", "--images", tmp_path / "images", "--out")
        assert "--mpp" in fails(*train, tmp_path / "m")
        assert "PNG, JPEG or TIFF image" in fails(*train, tmp_path / "m", "--mpp", 0.25)
        assert "already exists" in fails(*train, tmp_path / "images", "--mpp", 0.25)


def test_the_demo_needs_nothing_but_a_place(run, tmp_path):
    code, out, _ = run("demo", "--out", tmp_path / "out", "-k", 2, "--device", "cpu")
    assert code == 0 and "Made 2 of 2." in out
    for name in ("Images", "Labels", "manifest.json", "manifest.csv", "class_counts.png", "report.png"):
        assert (tmp_path / "out" / name).exists(), name
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    counts = manifest["counts"]
    assert counts["after"]["lymphocyte"] == counts["before"]["lymphocyte"] + 2
