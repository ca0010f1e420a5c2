from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_histomix.diffusion import training
from napari_histomix.diffusion.models import CARD_FILE, WEIGHTS_FILE, file_sha256, load_model
from napari_histomix.diffusion.training import (
    TrainingSettings,
    random_hole,
    random_window,
    slide_of,
    split_by_slide,
    train_inpainter,
)
from napari_histomix.records import HistomixError, drain

SETTINGS = TrainingSettings(steps=6, batch=2, window=16, warmup=1)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, small_network):
    monkeypatch.setattr(training, "new_network", lambda window: small_network())


@pytest.fixture
def images(tmp_path) -> Path:
    """Twelve small images of three patients, and one without a barcode."""
    folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    for patient in ("TCGA-A7-A0D9", "TCGA-A7-A0DA", "TCGA-A7-A13D"):
        for number in range(4):
            save(folder / f"{patient}-01Z_{number}.png", rng.integers(120, 256, (40, 44, 3)))
    return folder


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def test_a_short_run_writes_a_whole_model_with_its_card(images, tmp_path):
    out = tmp_path / "models" / "m"
    events = []
    job = train_inpainter([images], out, settings=SETTINGS, mpp=(0.25, 0.5), name="mine")
    try:
        while True:
            events.append(next(job))
    except StopIteration as end:
        assert end.value == out
    assert [(event.done, event.total) for event in events] == [(step, 6) for step in range(1, 7)]
    model = load_model(out)
    assert (model.name, model.mpp) == ("mine", (0.25, 0.5))
    assert model.conditional
    card = json.loads((out / CARD_FILE).read_text(encoding="utf-8"))
    assert card["training_images"]["images"] + card["validation_images"]["images"] == 12
    assert card["recipe"]["steps"] == 6 and card["started_from"] is None
    assert card["history"][-1]["step"] == 6 and np.isfinite(card["history"][-1]["validation"])
    assert len(card["validation_slides"]) == 1
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert "0.25–0.5 µm/px" in readme and "6 steps" in readme
    assert str(tmp_path) not in readme + json.dumps(card), "a path may say too much"
    assert [path.name for path in out.parent.iterdir()] == ["m"]


def test_slides_are_kept_apart_between_training_and_validation(images, monkeypatch, tmp_path):
    seen = []
    split = training.split_by_slide
    monkeypatch.setattr(training, "split_by_slide", lambda *given: seen.append(split(*given)) or seen[0])
    drain(train_inpainter([images], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25)))
    learned, held = seen[0]
    assert learned and held and len(learned) + len(held) == 12
    assert not {slide_of(path) for path in learned} & {slide_of(path) for path in held}


@pytest.mark.parametrize("seed", range(5))
def test_a_tenth_of_the_slides_is_held_out_whole(seed):
    paths = [Path(f"data/TCGA-A7-A{slide:03}-x_{number}.png") for slide in range(30) for number in range(slide % 4 + 1)]
    learned, held = split_by_slide(paths, seed)
    assert sorted(learned + held) == sorted(paths)
    assert not {slide_of(path) for path in learned} & {slide_of(path) for path in held}
    assert len({slide_of(path) for path in held}) == 3


def test_of_a_few_large_slides_one_is_held_out():
    paths = [Path(f"data/{slide}/{number}.png") for slide in "abcde" for number in range(100)]
    assert len(split_by_slide(paths, 0)[1]) == 100


def test_label_maps_and_torn_files_beside_the_images_are_left_out(tmp_path):
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(tmp_path / "labels.png")
    (tmp_path / "torn.jpg").write_bytes(b"not an image")
    found, broken = training.find_images(tmp_path)
    assert [path.name for path in found] == ["image.png"]
    assert [path.name for path in broken] == ["torn.jpg"]


def test_a_single_slide_is_split_by_image():
    paths = [Path(f"data/{number:02}.png") for number in range(20)]
    learned, held = split_by_slide(paths, 0)
    assert len(held) == 2 and not set(learned) & set(held)


def test_files_without_a_barcode_belong_to_their_folder():
    assert slide_of(Path("a/patient7/x.png")) == "patient7"
    assert slide_of(Path("a/b/TCGA-A7-A0D9-01Z-00-DX1_1.png")) == "TCGA-A7-A0D9"


def test_an_existing_folder_is_never_written_into(images, tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(HistomixError, match="already exists"):
        drain(train_inpainter([images], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25)))
    assert list((tmp_path / "m").iterdir()) == []


def test_an_unknown_scale_is_asked_for(images, tmp_path):
    with pytest.raises(HistomixError, match="--mpp"):
        drain(train_inpainter([images], tmp_path / "m", settings=SETTINGS))


def test_nothing_to_learn_from_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    save(tmp_path / "one" / "a.png", np.zeros((20, 20, 3)))
    for folder, words in (("empty", "no color PNG, JPEG or TIFF"), ("one", "at least two images")):
        with pytest.raises(HistomixError, match=words):
            drain(train_inpainter([tmp_path / folder], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25)))


def test_a_folder_of_unreadable_images_is_refused(images, tmp_path):
    for path in images.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(HistomixError, match="holds no color"):
        drain(train_inpainter([images], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25)))
    assert not (tmp_path / "m").exists()


def test_closing_midway_leaves_nothing_half_written(images, tmp_path):
    job = train_inpainter([images], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25))
    next(job)
    next(job)
    job.close()
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_closing_after_a_checkpoint_keeps_it_whole(images, tmp_path):
    settings = TrainingSettings(steps=50, batch=2, window=16, save_minutes=0.0)
    job = train_inpainter([images], tmp_path / "m", settings=settings, mpp=(0.25, 0.25))
    for _ in range(3):
        next(job)
    job.close()
    load_model(tmp_path / "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "m"]


def test_a_run_may_be_bounded_by_time(images, tmp_path):
    settings = TrainingSettings(minutes=0.005, batch=2, window=16)
    began = time.monotonic()
    drain(train_inpainter([images], tmp_path / "m", settings=settings, mpp=(0.25, 0.25)))
    assert 0.3 <= time.monotonic() - began < 30
    assert json.loads((tmp_path / "m" / CARD_FILE).read_text())["history"][-1]["step"] >= 1


def test_fine_tuning_starts_from_the_given_weights(images, small_model_folder, tmp_path):
    settings = TrainingSettings(steps=1, batch=2, window=16, learning_rate=0.0)
    drain(train_inpainter([images], tmp_path / "m", settings=settings, start=small_model_folder))
    tuned, start = load_model(tmp_path / "m"), load_model(small_model_folder)
    assert tuned.mpp == start.mpp, "the scale comes from the start's card"
    for key, value in start.network.state_dict().items():
        assert torch.allclose(tuned.network.state_dict()[key], value, atol=1e-3), key
    card = json.loads((tmp_path / "m" / CARD_FILE).read_text(encoding="utf-8"))
    assert card["started_from"] == "small"


def test_a_start_whose_weights_are_not_those_of_its_card_is_refused(images, small_model_folder, tmp_path):
    start = tmp_path / "start"
    start.mkdir()
    for path in small_model_folder.iterdir():
        content = bytearray(path.read_bytes())
        if path.name == WEIGHTS_FILE:
            content[-1] ^= 1
        (start / path.name).write_bytes(content)
    with pytest.raises(HistomixError, match="SHA-256"):
        drain(train_inpainter([images], tmp_path / "m", settings=SETTINGS, start=start))
    assert file_sha256(small_model_folder / WEIGHTS_FILE) != file_sha256(start / WEIGHTS_FILE)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"mpp": 3}', '{"mpp": ["a", "b"]}'])
def test_a_start_with_a_broken_card_is_one_sentence(images, small_model_folder, tmp_path, content):
    start = tmp_path / "start"
    start.mkdir()
    for path in small_model_folder.iterdir():
        (start / path.name).write_bytes(path.read_bytes())
    (start / CARD_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(HistomixError):
        drain(train_inpainter([images], tmp_path / "m", settings=SETTINGS, start=start))


def test_a_start_without_a_card_needs_a_scale_and_then_serves(images, small_model_folder, tmp_path):
    start = tmp_path / "start"
    start.mkdir()
    for path in small_model_folder.iterdir():
        if path.name != CARD_FILE:
            (start / path.name).write_bytes(path.read_bytes())
    with pytest.raises(HistomixError, match="--mpp"):
        drain(train_inpainter([images], tmp_path / "m", settings=SETTINGS, start=start))
    drain(train_inpainter([images], tmp_path / "m", settings=SETTINGS, start=start, mpp=(0.3, 0.4)))
    assert load_model(tmp_path / "m").mpp == (0.3, 0.4)


def test_the_loss_falls_on_images_of_one_color(tmp_path):
    for number in range(11):
        save(tmp_path / "plain" / f"{number}.png", np.full((20, 20, 3), (200, 150, 190)))
    losses = {}
    for steps in (1, 60):
        settings = TrainingSettings(steps=steps, batch=8, window=16, warmup=1, learning_rate=3e-3)
        job = train_inpainter([tmp_path / "plain"], tmp_path / str(steps), settings=settings, mpp=(0.25, 0.25))
        phases = [event.phase for event in job]
        card = json.loads((tmp_path / str(steps) / CARD_FILE).read_text(encoding="utf-8"))
        losses[steps] = card["history"][-1]["validation"]
        assert all(re.fullmatch(r"Training, loss \d+\.\d{4}", phase) for phase in phases)
    assert losses[60] < 0.7 * losses[1]


def test_a_loss_that_is_not_a_number_stops_the_run(images, tmp_path):
    settings = TrainingSettings(steps=50, batch=2, window=16, warmup=1, learning_rate=float("inf"))
    with pytest.raises(HistomixError, match="lower learning rate"):
        drain(train_inpainter([images], tmp_path / "m", settings=settings, mpp=(0.25, 0.25)))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("shape", [(12, 12), (16, 200), (64, 64)])
def test_training_windows_have_the_right_size_whatever_the_image(shape):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    for _ in range(20):
        crop = random_window(pixels, SETTINGS, rng)
        assert crop.shape == (16, 16, 3) and crop.dtype == np.uint8


def test_training_holes_are_mostly_thin_and_sometimes_everything():
    rng = np.random.default_rng(0)
    shares = np.array([random_hole(64, rng, 0.2).mean() for _ in range(300)])
    assert (shares == 1).mean() == pytest.approx(0.2, abs=0.08)
    assert 0 < np.median(shares[shares < 1]) < 0.35
    assert not (shares == 0).any()
