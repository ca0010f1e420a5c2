"""Finding nuclei: at any scale and size, in tiles, and written as a dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_histomix.cli import main
from napari_histomix.datasets import open_any, sample_folder
from napari_histomix.datasets.unlabeled import open_images
from napari_histomix.generation import segmenting
from napari_histomix.generation.models import GeneratorModel
from napari_histomix.generation.segmenting import segment, segment_images
from napari_histomix.records import HistomixError, drain
from tests.network_samples import disc_segmenter, discs


@pytest.fixture
def model() -> GeneratorModel:
    return disc_segmenter()


PLACES = [(20, 20), (20, 60), (60, 20), (58, 64), (70, 100)]


def test_every_nucleus_is_found_with_its_class(model):
    found = drain(segment(discs((90, 120), PLACES), 0.5, model, "cpu"))
    assert found.instances.shape == (90, 120) and found.instances.dtype == np.int32
    ids = [int(found.instances[place]) for place in PLACES]
    assert sorted(ids) == [1, 2, 3, 4, 5] == sorted(found.classes)
    assert [found.classes[i] for i in ids] == ["blue", "red", "blue", "red", "blue"]
    assert min(found.probability.values()) > 0.9 and min(found.presence.values()) > 0.9


def test_another_scale_is_resampled_and_said(model):
    pixels = discs((180, 240), [(2 * row, 2 * col) for row, col in PLACES], 12)
    job = segment(pixels, 0.25, model, "cpu")
    messages = []
    while True:
        try:
            messages.append(next(job).message)
        except StopIteration as end:
            found = end.value
            break
    assert messages[0] == "The image has 0.25 µm/px: nuclei are found at 0.5 µm/px, as the segmenter learned."
    assert found.instances.shape == (180, 240) and len(found.classes) == 5
    area = np.count_nonzero(found.instances == found.instances[40, 40])
    assert area == pytest.approx(np.pi * 12**2, rel=0.15)


def test_tiles_find_what_the_whole_finds(model, monkeypatch):
    monkeypatch.setattr(segmenting, "MARGIN", 16)
    rng = np.random.default_rng(0)
    grid = [(row, col) for row in range(12, 200, 20) for col in range(12, 250, 20)]
    pixels = discs((200, 250), [(row + rng.integers(3), col + rng.integers(3)) for row, col in grid])
    whole, tiled = (drain(segment(pixels, 0.5, model, "cpu", tile=tile)) for tile in (1024, 48))
    assert len(whole.classes) == len(grid)
    assert np.array_equal(whole.instances > 0, tiled.instances > 0)
    assert sorted(whole.classes.values()) == sorted(tiled.classes.values())
    # The numbers differ; the nuclei do not.
    pairs = np.unique(np.stack([whole.instances.ravel(), tiled.instances.ravel()]), axis=1)
    assert pairs.shape[1] == len(grid) + 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (17, 5)])
def test_an_image_may_be_tiny_or_empty(model, shape):
    found = drain(segment(np.full((*shape, 3), 255, np.uint8), 0.25, model, "cpu"))
    assert found.instances.shape == shape and not found.classes


@pytest.mark.parametrize(
    "pixels, mpp",
    [(np.zeros((8, 8), np.uint8), 0.5), (np.zeros((8, 8, 3)), 0.5), (np.zeros((0, 8, 3), np.uint8), 0.5)]
    + [(np.zeros((8, 8, 3), np.uint8), mpp) for mpp in (0, -1, float("nan"))],
)
def test_bad_input_is_one_sentence(model, pixels, mpp):
    with pytest.raises(HistomixError):
        drain(segment(pixels, mpp, model, "cpu"))


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    (images / "test").mkdir(parents=True)
    Image.fromarray(discs((90, 120), PLACES)).save(images / "TCGA-AA-0001-01A.png")
    Image.fromarray(discs((60, 60), [(20, 20)])).save(images / "test" / "other.png")
    Image.fromarray(np.zeros((60, 60), np.uint8)).save(images / "mask.png")
    (images / "broken.png").write_bytes(b"no image")
    return images


@pytest.mark.parametrize("format", ["hovernet", "coco"])
def test_a_folder_becomes_a_dataset(model, folder, tmp_path, format):
    done = drain(segment_images(open_images(folder, 0.5), tmp_path / "out", model, format, "cpu"))
    assert (done.images, done.nuclei) == (2, {"blue": 4, "red": 2}) and list(done.skipped) == ["broken"]
    made = open_any(tmp_path / "out")
    assert [known.name for known in made.classes] == ["blue", "red"]
    assert {entry.source.image: entry.source.split for entry in made.entries}["other"] == "test"
    first = made.read("TCGA-AA-0001-01A")
    assert first.mpp == 0.5 and first.source.patient == "TCGA-AA-0001" and len(first.types) == 5
    assert "nobody has checked" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_labels_that_are_there_are_not_read(model, tmp_path):
    dataset = open_images(sample_folder())
    done = drain(segment_images(dataset, tmp_path / "out", model, device="cpu"))
    made = open_any(tmp_path / "out")
    assert done.images == len(dataset.entries) == len(made.entries)
    assert [entry.source.patient for entry in made.entries] == [entry.source.patient for entry in dataset.entries]
    assert (tmp_path / "out" / "NOTICE").is_file()


class TestCommand:
    @pytest.fixture(autouse=True)
    def loaded(self, monkeypatch, model):
        def load(path: Any, kind: str) -> GeneratorModel:
            assert kind == "segmenter"
            return model

        monkeypatch.setattr("napari_histomix.generation.models.load_generator", load)

    def test_it_says_what_it_found(self, folder, tmp_path, capsys):
        code = main(["segment-nuclei", str(folder), "--out", str(tmp_path / "out"), "--mpp", "0.5", "--device", "cpu"])
        assert code == 0 and "2 images, 6 nuclei (blue 4, red 2)" in capsys.readouterr().out

    def test_without_a_scale_it_says_what_to_do(self, folder, tmp_path, capsys):
        assert main(["segment-nuclei", str(folder), "--out", str(tmp_path / "out")]) == 1
        assert "pass --mpp" in capsys.readouterr().err and not (tmp_path / "out").exists()

    def test_a_folder_without_images_is_one_sentence(self, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        assert main(["segment-nuclei", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 1
        assert "holds no color PNG, TIFF or JPEG image" in capsys.readouterr().err
