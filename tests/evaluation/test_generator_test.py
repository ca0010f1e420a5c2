"""The generator test, with generators whose quality is known: faithful ones, noise, and one that repeats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.measure import label

from napari_histomix.datasets import open_any, read_pixels
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.evaluation import generator_test as room
from napari_histomix.evaluation.generator_figures import (
    DRAWN,
    EDGES,
    HELD,
    IMAGE,
    NONE,
    PIX2PIX,
    REAL,
    RECOMBINED,
    TRAINING,
)
from napari_histomix.evaluation.generator_report import contact_sheet, report_lines, report_values, verdicts
from napari_histomix.evaluation.generator_test import NOT_LEARNED, GeneratorTestSettings, generator_test
from napari_histomix.evaluation.generator_windows import RealImages, colored, mean_colors
from napari_histomix.generation import image_model, models, pix2pix, structure_model
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.layouts import Recombiner
from napari_histomix.generation.models import GeneratorModel
from napari_histomix.generation.networks import ConditionedUNet
from napari_histomix.generation.presets import PaintSettings
from napari_histomix.records import Event, HistomixError, LabeledImage, NucleusClass, Source, drain
from tests.network_samples import disc_segmenter, discs

SETTINGS = GeneratorTestSettings(count=6, side=80, device="cpu", preset="fast")
CLASSES = ("rare", "common")


def disc_image(number: int, split: str) -> LabeledImage:
    """Discs strewn on white with grain, red ones of the common class."""
    rng = np.random.default_rng(number)
    places = [(row + int(rng.integers(9)), col + int(rng.integers(9))) for row in (8, 32, 56) for col in (8, 32, 56)]
    clean = discs((80, 80), places)
    instances = label(clean[..., 2] < 128).astype(np.int32)
    types = {int(i): 2 if clean[instances == i][0, 0] > 128 else 1 for i in np.unique(instances)[1:]}
    grain = rng.integers(-20, 20, (80, 80, 1))
    pixels = np.clip(clean.astype(int) + grain, 0, 255).astype(np.uint8)
    return LabeledImage(pixels, instances, types, 0.5, Source("discs", f"i{number}", split))


@pytest.fixture(scope="module")
def folder(dataset_folder, tmp_path_factory) -> Path:
    """Three training images and four that are held out; never write into it."""
    splits = ["train"] * 3 + ["val"] * 2 + ["test"] * 2
    images = [disc_image(number, split) for number, split in enumerate(splits)]
    return dataset_folder(tmp_path_factory.mktemp("generators") / "data", images)


@pytest.fixture(scope="module")
def dataset(folder):
    return open_any(folder)


def pictures_of(layouts, *_, **__):
    """Faithful pictures, with grain."""
    rng = np.random.default_rng(0)
    made = []
    for layout in layouts:
        yield Event("Painting", len(made), len(layouts))
        pixels = np.full((*layout.shape, 3), 235)
        for number, name in layout.classes.items():
            pixels[layout.instances == number] = (220, 40, 90) if name == "common" else (40, 40, 90)
        made.append(np.clip(pixels + rng.integers(-20, 20, (*layout.shape, 1)), 0, 255).astype(np.uint8))
    return made


def noise_of(layouts, *_, **__):
    rng = np.random.default_rng(0)
    yield Event("Painting")
    return [rng.integers(0, 255, (*layout.shape, 3), dtype=np.uint8) for layout in layouts]


def stub(kind: str, **card) -> GeneratorModel:
    return GeneratorModel(kind, None, {}, CLASSES, 0.5, f"a {kind}", "0" * 64, card)


MODELS = {"segmenter": disc_segmenter(), "image": stub("image"), "pix2pix": stub("pix2pix")}


@pytest.fixture(scope="module")
def report(dataset, folder):
    """The image model is faithful, pix2pix is noise, and both learned from the training images."""
    seen = [pixels_sha256(read_pixels(folder / "Images" / f"i{number}.png")) for number in range(3)]
    given = MODELS | {"image": stub("image", training_pixels=seen)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_model, "paint", pictures_of)
        patch.setattr(pix2pix, "render", noise_of)
        yield drain(generator_test(dataset, given, SETTINGS))


def test_faithful_pairs_reach_the_ceiling_and_noise_the_floor(report):
    ratios = {name: match.ratio.value for name, match in report.matches.items()}
    assert report.matches[REAL].pq.value > 0.9 and report.floor.value < 0.3
    assert ratios[IMAGE] > 0.95 and ratios[PIX2PIX] < 0.1 and ratios[EDGES] < 0.1
    assert set(report.matches[IMAGE].by_layouts) == {HELD, RECOMBINED}
    interval = report.matches[IMAGE].pq
    assert interval.low <= interval.value <= interval.high


def test_pictures_are_compared_beside_real_ones(report):
    (likeness,) = report.likeness.values()
    assert set(likeness) == {TRAINING, IMAGE, PIX2PIX, EDGES, NONE}
    assert likeness[IMAGE].frechet < likeness[PIX2PIX].frechet / 2
    assert likeness[TRAINING].frechet < likeness[PIX2PIX].frechet / 2
    assert report.stains[IMAGE][0] < report.stains[PIX2PIX][0]


def test_only_real_images_that_were_held_out_are_the_ceiling(report):
    assert set(report.held) <= {"i3", "i4", "i5", "i6"}
    assert {layout.source for layout in report.pairs[EDGES].layouts} <= {"i0", "i1", "i2"}


def test_bars_are_told_as_found(report):
    bars = verdicts(report)
    assert bars[f"{IMAGE}: labels match, at least 85% of the PQ of real images"]
    assert not bars[f"{PIX2PIX}: labels match, at least 85% of the PQ of real images"]
    lines = "\n".join(report_lines(report))
    assert "**not met**: pix2pix: labels match" in lines and "narrow with fewer than ten" in lines
    assert "### Nothing is repeated" in lines and NOT_LEARNED not in lines
    values = json.loads(json.dumps(report_values(report), allow_nan=False))
    assert values["held_out"] == list(report.held) and values["bars"] == bars


def test_a_sheet_shows_label_generators_and_real_images(report, dataset):
    sheet = contact_sheet(report, dataset.classes)
    assert sheet.dtype == np.uint8 and sheet.shape[1] > 5 * 2 * SETTINGS.side
    real = report.real.pictures[0]
    assert any((sheet == pixel).all(axis=-1).any() for pixel in (np.array([255, 255, 255]), real[0, 0]))


def test_a_generator_that_repeats_training_images_is_found_out(dataset, report, monkeypatch):
    windows = report.training

    def repeat(layouts, *_, **__):
        yield Event("Painting")
        sources = [layout.source for layout in windows.layouts]
        return [windows.pictures[sources.index(each.source) if each.source in sources else 0] for each in layouts]

    monkeypatch.setattr(pix2pix, "render", repeat)
    given = {kind: model for kind, model in MODELS.items() if kind != "image"}
    found = drain(generator_test(dataset, given, SETTINGS, learned=dataset)).nearest[EDGES]
    assert found.median < report.nearest[REAL].median / 2 and found.nearer.value > 0.9


def test_the_same_seed_gives_the_same_test_with_real_networks(dataset, monkeypatch):
    torch.manual_seed(0)
    schedule = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    widths = {"block_out_channels": (8, 16), "layers_per_block": 1}
    image = ConditionedUNet(7, 3, len(CLASSES) + 6, image_model.VECTOR, **widths).eval()
    drawing = ConditionedUNet(80, 80, 0, len(CLASSES) + 2, **widths).eval()
    painter = pix2pix.Generator(list(CLASSES), 4, 3).eval()
    given = {
        "segmenter": disc_segmenter(),
        "image": replace(stub("image"), network=image, schedule=schedule),
        "structure": replace(stub("structure"), network=drawing, schedule=schedule),
        "pix2pix": replace(stub("pix2pix"), network=painter),
    }
    settings = replace(SETTINGS, side=32)
    monkeypatch.setattr("napari_histomix.evaluation.generator_test.PRESETS", {"fast": PaintSettings(2)})
    monkeypatch.setitem(structure_model.sample.__kwdefaults__, "steps", 2)
    found = [drain(generator_test(dataset, given, settings)) for _ in range(2)]
    assert DRAWN in found[0].layouts and set(found[0].origins) == {HELD, RECOMBINED, DRAWN}
    first, second = (report_values(each) | {"seconds": None} for each in found)
    assert first == second


def test_a_killed_test_goes_on_to_the_same_report(dataset, monkeypatch, report, tmp_path):
    monkeypatch.setattr(image_model, "paint", pictures_of)
    given, kept = {kind: model for kind, model in MODELS.items() if kind != "pix2pix"}, tmp_path / "kept"
    whole = report_values(drain(generator_test(dataset, given, SETTINGS)))
    for phase in (f"Painting: {IMAGE}", f"Finding nuclei: {REAL}"):
        job = generator_test(dataset, given, SETTINGS, keep=kept, resume=kept.exists())
        next(event for event in job if event.phase == phase and event.done == 2)
        job.close()
    assert len(list(kept.glob("painting*"))) == SETTINGS.count and len(list(kept.glob("finding*"))) == 2
    with pytest.raises(HistomixError, match="or resume the test"):
        drain(generator_test(dataset, given, SETTINGS, keep=kept))
    with pytest.raises(HistomixError, match="began with other images, models or settings"):
        drain(generator_test(dataset, given, replace(SETTINGS, seed=5), keep=kept, resume=True))
    monkeypatch.setattr(image_model, "paint", None)
    resumed = report_values(drain(generator_test(dataset, given, SETTINGS, keep=kept, resume=True)))
    assert resumed | {"seconds": None} == whole | {"seconds": None} and resumed["seconds"][IMAGE] > 0
    next(kept.glob("*.npz")).write_bytes(b"cut off")
    with pytest.raises(HistomixError, match="is damaged; delete it"):
        drain(generator_test(dataset, given, SETTINGS, keep=kept, resume=True))
    with pytest.raises(HistomixError, match="no test that could be resumed"):
        drain(generator_test(dataset, given, SETTINGS, keep=tmp_path / "none", resume=True))


def test_held_out_images_are_not_searched_for_what_is_repeated(dataset, report, monkeypatch):
    monkeypatch.setattr(image_model, "paint", pictures_of)
    given = {kind: model for kind, model in MODELS.items() if kind != "pix2pix"}
    everything = replace(
        dataset, entries=tuple(replace(each, source=replace(each.source, split="train")) for each in dataset.entries)
    )
    found = drain(generator_test(dataset, given, SETTINGS, learned=everything))
    assert any("Not searched, for they are held out: i3" in note for note in found.notes)
    assert found.nearest[REAL].median == pytest.approx(report.nearest[REAL].median)


def test_windows_of_sparse_images_are_as_many_as_asked_for():
    instances = np.zeros((480, 480), np.int32)
    instances[-6:, 3:9] = 4
    pixels = np.full((*instances.shape, 3), 200, np.uint8)
    image = LabeledImage(pixels, instances, {4: 1}, 0.5, Source("d", "sparse"))
    images = RealImages((image,), (instances < 0,), (NucleusClass(1, "rare", (0, 0, 0)),))
    windows = images.windows(12, 32, np.random.default_rng(0))
    assert len(windows) == 12 and all(set(each.layout.classes.values()) == {"rare"} for each in windows)


def test_empty_layouts_and_unknown_nuclei_of_replicas(dataset, monkeypatch):
    monkeypatch.setattr(Recombiner, "layout", lambda *_: Layout(np.zeros((80, 80), np.int32), {}, 0.5))
    monkeypatch.setattr(image_model, "paint", pictures_of)

    def replicas(layouts, *_, references=None, **__):
        yield Event("Painting")
        return list(references or [np.full((80, 80, 3), 235, np.uint8)])

    monkeypatch.setattr(pix2pix, "render", replicas)
    # Nuclei of the rare class are seen in replicas, but nobody says which they are.
    settings = replace(SETTINGS, ignore=("rare",))
    found = drain(generator_test(dataset, MODELS, settings, learned=dataset))
    assert found.matches[EDGES].pq.value > 0.9 and found.nearest[EDGES].median < found.nearest[IMAGE].median
    assert json.dumps(report_values(found), allow_nan=False)


def test_images_smaller_than_a_window_are_counted(dataset_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(image_model, "paint", pictures_of)
    images = [disc_image(number, split) for number, split in enumerate(["train", "train", "test", "test"])]
    cut = images[3]
    inside = np.ascontiguousarray(cut.instances[:60, :60])
    types = {number: cut.types[number] for number in np.unique(inside)[1:].tolist()}
    images[3] = replace(cut, pixels=np.ascontiguousarray(cut.pixels[:60, :60]), instances=inside, types=types)
    given = {kind: model for kind, model in MODELS.items() if kind != "pix2pix"}
    found = drain(generator_test(open_any(dataset_folder(tmp_path / "data", images)), given, SETTINGS))
    assert found.held == ("i2",) and any(
        "Left out: 1 held-out of 2, smaller than 80×80" in note for note in found.notes
    )


def test_the_baseline_has_the_colors_of_the_classes(report):
    nowhere = np.zeros((80, 80), bool)
    pairs = zip(report.training.pictures, report.training.layouts, strict=True)
    windows = [room.Window(*pair, nowhere) for pair in pairs]
    colors = mean_colors(windows)
    assert set(colors) <= {None, "rare", "common"} and colors[None].min() > 220
    instances = np.zeros((48, 48), np.int32)
    instances[8:40, 8:40] = 3
    picture = colored(Layout(instances, {3: "common"}, 0.5), colors)
    assert np.abs(picture[24, 24] - colors["common"]).max() < 3 and picture[0, 0].min() > 220
    unknown = colored(Layout(instances, {3: "plasma"}, 0.5), colors)
    assert unknown[24, 24].max() < 200


def test_unknown_nuclei_are_neither_right_nor_wrong(dataset, monkeypatch, report):
    monkeypatch.setattr(image_model, "paint", pictures_of)
    given = {kind: model for kind, model in MODELS.items() if kind != "pix2pix"}
    found = drain(generator_test(dataset, given, replace(SETTINGS, ignore=("Rare",))))
    assert all("rare" not in layout.classes.values() for layout in found.real.layouts)
    # The segmenter finds the nuclei of both classes in real images, and only one is labeled.
    assert found.matches[REAL].pq.value == pytest.approx(report.matches[REAL].pq.value, abs=0.05)


class TestRefusals:
    def test_a_model_that_learned_from_held_out_images(self, dataset, folder):
        seen = [pixels_sha256(read_pixels(folder / "Images" / "i5.png"))]
        for kind in ("segmenter", "image"):
            given = MODELS | {kind: replace(MODELS[kind], card={"training_pixels": seen})}
            with pytest.raises(HistomixError, match="learned from i5, which"):
                drain(generator_test(dataset, given, SETTINGS))

    @pytest.mark.parametrize(
        ("missing", "words"), [(["segmenter"], "no segmenter"), (["image", "pix2pix"], "no generator to test")]
    )
    def test_missing_models(self, dataset, missing, words):
        given = {kind: model for kind, model in MODELS.items() if kind not in missing}
        with pytest.raises(HistomixError, match=words):
            drain(generator_test(dataset, given, SETTINGS))

    def test_windows_larger_than_all_images(self, dataset):
        with pytest.raises(HistomixError, match="choose a side of at most 80"):
            drain(generator_test(dataset, MODELS, replace(SETTINGS, side=96)))

    def test_a_dataset_without_held_out_images(self, dataset):
        training = replace(dataset, entries=dataset.training)
        with pytest.raises(HistomixError, match="no held-out images with labeled nuclei"):
            drain(generator_test(training, MODELS, SETTINGS))


class TestCommand:
    @pytest.fixture
    def stubs(self, monkeypatch):
        monkeypatch.setattr(image_model, "paint", pictures_of)
        monkeypatch.setattr(models, "load_generator", lambda folder, kind: MODELS[kind])

    def test_it_prints_markdown_and_json_and_writes_a_report(self, folder, run, stubs, tmp_path):
        words = ["generate-test", folder, "--model", "image=a", "segmenter=b", "pix2pix=none", "structure=none"]
        words += ["--count", 4, "--side", 64, "--device", "cpu"]
        code, out, _ = run(*words)
        assert code == 0 and any(line.startswith("| image model") for line in out)
        code, out, err = run(*words, "--json", "--out", tmp_path / "report")
        values = json.loads(out[-1])
        assert code == 0 and values["matches"][IMAGE]["ratio"]["value"] > 0.9 and "pix2pix" not in values["models"]
        assert json.loads((tmp_path / "report" / "report.json").read_text())["matches"] == values["matches"]
        assert "### Bars" in (tmp_path / "report" / "report.md").read_text()
        assert read_pixels(tmp_path / "report" / "pairs.png").shape[2] == 3
        assert [path.name for path in tmp_path.iterdir()] == ["report"]
        assert any("### Bars" in line for line in err)

    def test_wrong_words_are_told(self, folder, run, stubs, tmp_path):
        code, _, err = run("generate-test", folder, "--model", "painter=a")
        assert code == 2 and "must be KIND=FOLDER" in err[-1]
        code, _, err = run("generate-test", folder, "--out", tmp_path)
        assert code == 1 and "already exists" in err[-1]
        code, _, err = run("generate-test", folder, "--resume")
        assert code == 2 and "--resume needs --out" in err[-1]
