from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.diffusion.model_files import CARD_FILE, WEIGHTS_FILE, file_sha256, load_model
from napari_histomix.evaluation.blending import trained_on
from napari_histomix.records import HistomixError, drain
from napari_histomix.training import images as training_images
from napari_histomix.training import inpainting, unfinished
from napari_histomix.training.images import slide_of
from napari_histomix.training.loop import train
from napari_histomix.training.settings import AutoencoderSettings, InpainterSettings, LatentSettings
from tests.network_samples import sees_surroundings

SETTINGS = InpainterSettings(steps=6, batch=2, window=16, warmup=1)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, small_network):
    monkeypatch.setattr(inpainting, "new_network", lambda channels, side: small_network(2 * channels + 1, out=channels))
    monkeypatch.setattr(inpainting, "CHECKED", 8)


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
    job = train("inpainter", [images], out, settings=SETTINGS, mpp=(0.25, 0.5), name="mine")
    try:
        while True:
            events.append(next(job))
    except StopIteration as end:
        assert end.value == out
    assert [(event.done, event.total) for event in events[:-1]] == [(step, 6) for step in range(1, 7)]
    assert [event.figures["step"] for event in events[:-1]] == list(range(1, 7))
    assert all(event.figures["loss"] > 0 for event in events[:-1])
    assert events[-1].figures["validation"] > 0 and events[-1].preview.shape[1:] == (48, 3)
    model = load_model(out)
    assert (model.name, model.mpp) == ("mine", (0.25, 0.5))
    assert sees_surroundings(model)
    card = json.loads((out / CARD_FILE).read_text(encoding="utf-8"))
    assert card["training_images"]["images"] + card["validation_images"]["images"] == 12
    assert card["recipe"]["steps"] == 6 and card["started_from"] is None
    assert card["history"][-1]["step"] == 6 and np.isfinite(card["history"][-1]["validation"])
    assert len(card["validation_slides"]) == 1
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert "0.25–0.5 µm/px" in readme and "6 steps" in readme
    learned = [path for path in images.iterdir() if slide_of(path) not in card["validation_slides"]]
    assert len(card["training_pixels"]) == len(learned) == 8
    for path in images.iterdir():
        assert trained_on(card, np.asarray(Image.open(path))) == (path in learned)
    assert str(tmp_path) not in readme + json.dumps(card), "a path may say too much"
    assert [path.name for path in out.parent.iterdir()] == ["m"]


def test_slides_are_kept_apart_between_training_and_validation(images, monkeypatch, tmp_path):
    seen = []
    split = training_images.split_by_slide
    monkeypatch.setattr(training_images, "split_by_slide", lambda *given: seen.append(split(*given)) or seen[0])
    drain(train("inpainter", [images], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25)))
    learned, held = seen[0]
    assert learned and held and len(learned) + len(held) == 12
    assert not {one.slide for one in learned} & {one.slide for one in held}


def test_an_existing_folder_is_never_written_into(images, tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(HistomixError, match="already exists"):
        drain(train("inpainter", [images], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25)))
    assert list((tmp_path / "m").iterdir()) == []


def test_an_unknown_scale_is_asked_for(images, tmp_path):
    with pytest.raises(HistomixError, match="--mpp"):
        drain(train("inpainter", [images], tmp_path / "m", settings=SETTINGS))


def test_nothing_to_learn_from_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    save(tmp_path / "one" / "a.png", np.zeros((20, 20, 3)))
    for folder, words in (("empty", "no color PNG, JPEG or TIFF"), ("one", "at least two images")):
        with pytest.raises(HistomixError, match=words):
            drain(train("inpainter", [tmp_path / folder], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25)))


def test_a_folder_of_unreadable_images_is_refused(images, tmp_path):
    for path in images.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(HistomixError, match="holds no color"):
        drain(train("inpainter", [images], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25)))
    assert not (tmp_path / "m").exists()


def test_stopping_keeps_what_was_reached(images, tmp_path):
    job = train("inpainter", [images], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25))
    for _ in range(3):
        next(job)
    job.close()
    assert load_model(tmp_path / "m").card["best"]["step"] == 3
    assert unfinished(tmp_path / "m")["step"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "m", "m.training"]


def test_stopping_before_the_first_step_leaves_nothing(images, tmp_path):
    train("inpainter", [images], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25)).close()
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def losses_of(job) -> list[float]:
    return [event.figures["loss"] for event in job if "loss" in event.figures]


def test_a_run_that_is_taken_up_goes_on_with_the_same_losses(images, tmp_path):
    settings = replace(SETTINGS, steps=5, learning_rate=1e-2, save_minutes=0.0)
    whole = losses_of(train("inpainter", [images], tmp_path / "whole", settings=settings, mpp=(0.25, 0.25)))
    job = train("inpainter", [images], tmp_path / "m", settings=settings, mpp=(0.25, 0.25))
    for _ in range(3):
        next(job)
    # What lies on the disk at this moment is all that a killed process leaves.
    for name in ("m", "m.training"):
        shutil.copytree(tmp_path / name, tmp_path / "killed" / name)
    job.close()
    for out in (tmp_path / "m", tmp_path / "killed" / "m"):
        with pytest.raises(HistomixError, match="--resume"):
            drain(train("inpainter", [images], out, mpp=(0.25, 0.25)))
        rest = losses_of(train("inpainter", [images], out, mpp=(0.25, 0.25), resume=True))
        assert len(rest) == 2 and rest == whole[3:]
        assert unfinished(out) is None and not (out.with_name("m.training")).exists()
        first, second = (load_model(folder).network.state_dict() for folder in (out, tmp_path / "whole"))
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("begun", [True, False], ids=["from a model", "from nothing"])
def test_a_run_that_is_taken_up_keeps_what_it_began_with(begun, images, tmp_path):
    settings = replace(SETTINGS, steps=2, save_minutes=0.0)
    model = drain(train("inpainter", [images], tmp_path / "model", settings=settings, mpp=(0.25, 0.25)))
    start, other = (model, None) if begun else (None, model)
    job = train("inpainter", [images], tmp_path / "m", settings=settings, start=start, mpp=(0.25, 0.25))
    next(job)
    job.close()
    drain(train("inpainter", [images], tmp_path / "m", start=other, mpp=(0.25, 0.25), resume=True))
    card = json.loads((tmp_path / "m" / CARD_FILE).read_text(encoding="utf-8"))
    assert card["started_from"] == ("model" if begun else None) and card["history"][-1]["step"] == 2


def test_a_run_of_an_earlier_version_is_taken_up(images, tmp_path):
    """Its state holds the settings of all kinds of networks."""
    settings = AutoencoderSettings(steps=3, batch=2, window=32)
    job = train("autoencoder", [images], tmp_path / "m", settings=settings, mpp=(0.25, 0.25))
    next(job)
    job.close()
    file = tmp_path / "m.training" / "state.pt"
    state = torch.load(file, weights_only=True)
    state["settings"] |= {"unconditional": 0.0, "segments": 0.2, "low_noise": 0.5, "weighting": "velocity"}
    torch.save(state, file)
    drain(train("autoencoder", [images], tmp_path / "m", mpp=(0.25, 0.25), resume=True))
    card = json.loads((tmp_path / "m" / CARD_FILE).read_text(encoding="utf-8"))
    assert card["history"][-1]["step"] == 3 and card["recipe"]["window"] == 32


def test_a_run_is_not_taken_up_on_other_images(images, tmp_path):
    job = train("inpainter", [images], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25))
    next(job)
    job.close()
    save(images / "TCGA-A7-A0D9-01Z_new.png", np.zeros((40, 44, 3)))
    with pytest.raises(HistomixError, match="from other images"):
        drain(train("inpainter", [images], tmp_path / "m", mpp=(0.25, 0.25), resume=True))


@pytest.mark.parametrize("damage", ["absent", "torn", "pickle"])
def test_a_run_whose_state_is_gone_is_one_sentence(images, tmp_path, damage):
    out = tmp_path / "m"
    if damage != "absent":
        job = train("inpainter", [images], out, settings=SETTINGS, mpp=(0.25, 0.25))
        next(job)
        job.close()
        state = tmp_path / "m.training" / "state.pt"
        if damage == "torn":
            state.write_bytes(state.read_bytes()[:500])
        else:
            torch.save({"network": Path("x")}, state)
    with pytest.raises(HistomixError, match=r"no run that could be resumed|is damaged"):
        drain(train("inpainter", [images], out, mpp=(0.25, 0.25), resume=True))


def test_the_best_checkpoint_is_kept_not_the_last(images, tmp_path, monkeypatch):
    worse = iter([0.5, 0.2, 0.9, 0.8])
    monkeypatch.setattr(inpainting.Inpainter, "check", lambda *_: next(worse))
    settings = replace(SETTINGS, steps=3, save_minutes=0.0)
    drain(train("inpainter", [images], tmp_path / "m", settings=settings, mpp=(0.25, 0.25)))
    card = load_model(tmp_path / "m").card
    assert card["best"]["step"] == 2 and card["best"]["validation"] == 0.2


def test_too_little_disk_is_said_before_the_first_step(images, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(HistomixError, match="its disk has 0 MB left"):
        next(train("inpainter", [images], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25)))


def test_open_images_can_be_learned_from(tmp_path):
    rng = np.random.default_rng(0)
    layers = [(name, rng.integers(0, 256, (300, 280, 3), dtype=np.uint8)) for name in ("first", "second")]
    drain(train("inpainter", layers, tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25)))
    card = load_model(tmp_path / "m").card
    assert card["training_images"] == {"open layers": 1} and card["validation_images"] == {"open layers": 1}
    assert trained_on(card, layers[0][1]) != trained_on(card, layers[1][1])


def test_a_single_large_image_is_cut_in_two(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 280, 3), dtype=np.uint8)
    drain(train("inpainter", [("one", pixels)], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25)))
    card = load_model(tmp_path / "m").card
    assert card["training_pixels"] == [pixels_sha256(pixels[:240])]
    with pytest.raises(HistomixError, match="8-bit RGB"):
        drain(train("inpainter", [("gray", pixels[..., 0])], tmp_path / "n", settings=SETTINGS, mpp=(0.25, 0.25)))


def test_an_autoencoder_and_a_latent_network_are_trained_one_on_the_other(images, tmp_path):
    settings = AutoencoderSettings(steps=30, batch=2, window=32, warmup=1, learning_rate=2e-3)
    events = list(train("autoencoder", [images], tmp_path / "ae", settings=settings, mpp=(0.25, 0.5)))
    losses = [event.figures["loss"] for event in events if "loss" in event.figures]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert events[-1].preview.shape == (4 * 32, 2 * 32, 3)
    with pytest.raises(HistomixError, match="needs an autoencoder"):
        drain(train("latent", [images], tmp_path / "l", mpp=(0.25, 0.5)))
    few = LatentSettings(steps=3, batch=2, window=32, warmup=1)
    before = file_sha256(tmp_path / "ae" / WEIGHTS_FILE)
    drain(train("latent", [images], tmp_path / "l", settings=few, autoencoder=tmp_path / "ae"))
    model = load_model(tmp_path / "l")
    assert (model.channels, model.reduction, model.mpp) == (4, 4, (0.25, 0.5)) and sees_surroundings(model)
    assert before == file_sha256(tmp_path / "l" / "vqvae" / WEIGHTS_FILE), "the autoencoder is not trained again"
    again = replace(few, steps=1)
    drain(train("latent", [images], tmp_path / "l2", settings=again, autoencoder=tmp_path / "ae", start=tmp_path / "l"))
    assert load_model(tmp_path / "l2").card["started_from"] == "l"


def test_an_autoencoder_says_how_far_its_latents_spread(images, tmp_path):
    settings = AutoencoderSettings(steps=2, batch=2, window=32)
    drain(train("autoencoder", [images], tmp_path / "ae", settings=settings, mpp=(0.25, 0.5)))
    coder = inpainting.load_part(inpainting.AutoencoderKL, tmp_path / "ae")[0]
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in sorted(images.iterdir())])
    latents = inpainting.encode(coder, pixels.permute(0, 3, 1, 2)[..., :40, :40].float() / 127.5 - 1)
    assert 0.5 < float(latents.detach().std()) < 2


@pytest.mark.parametrize(("kind", "window"), [("inpainter", 18), ("autoencoder", 30), ("latent", 24), ("other", 16)])
def test_what_cannot_be_trained_is_one_sentence(images, tmp_path, kind, window):
    settings = replace(SETTINGS, window=window)
    autoencoder = tmp_path / "ae"
    inpainting.new_autoencoder(32).save_pretrained(autoencoder)
    with pytest.raises(HistomixError, match=r"multiples of|no network 'other'"):
        drain(train(kind, [images], tmp_path / "m", settings=settings, mpp=(1, 1), autoencoder=autoencoder))


def test_several_processes_learn_together(images, small_model_folder, tmp_path):
    """Two processes on the processor: one model, twice the windows."""
    pytest.importorskip("accelerate")
    script = tmp_path / "run.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        "from napari_histomix.training import inpainting\n"
        "from napari_histomix.training.loop import train\n"
        "from napari_histomix.training.settings import InpainterSettings\n"
        "from napari_histomix.records import drain\n"
        "inpainting.CHECKED = 8\n"
        "settings = InpainterSettings(steps=3, batch=2, window=16, warmup=1)\n"
        "drain(train('inpainter', [Path(sys.argv[1])], Path(sys.argv[2]), settings=settings,\n"
        "            start=Path(sys.argv[3]), device='cpu'))\n",
        encoding="utf-8",
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += [str(script), str(images), str(tmp_path / "m"), str(small_model_folder)]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    card = load_model(tmp_path / "m").card
    assert card["processes"] == 2 and card["history"][-1]["step"] == 3


def test_a_run_may_be_bounded_by_time(images, tmp_path):
    settings = InpainterSettings(minutes=0.01, batch=2, window=16)
    began = time.monotonic()
    drain(train("inpainter", [images], tmp_path / "m", settings=settings, mpp=(0.25, 0.25)))
    assert 0.3 <= time.monotonic() - began < 30
    assert json.loads((tmp_path / "m" / CARD_FILE).read_text())["history"][-1]["step"] >= 1


def test_the_time_left_of_a_run_bounded_by_steps_is_in_seconds(images, tmp_path, monkeypatch):
    plain = inpainting.Inpainter.loss
    monkeypatch.setattr(inpainting.Inpainter, "loss", lambda *given: (time.sleep(0.5), plain(*given))[1])
    settings = InpainterSettings(steps=4, batch=2, window=16)
    job = train("inpainter", [images], tmp_path / "m", settings=settings, mpp=(0.25, 0.25))
    left = [event.figures["left"] for event in job if "loss" in event.figures]
    assert len(left) == 4 and left[0] >= 1.5 and left[-1] == 0
    assert left[0] > left[2] >= 0.5


def test_time_spent_paused_does_not_count(images, tmp_path):
    settings = InpainterSettings(minutes=0.02, batch=2, window=16, save_minutes=5)
    job = train("inpainter", [images], tmp_path / "m", settings=settings, mpp=(0.25, 0.25))
    first = next(job)
    time.sleep(2)
    assert next(job).done <= first.done + 1
    time.sleep(2)
    job.close()
    assert unfinished(tmp_path / "m")["minutes"] < 0.03


def test_too_little_memory_is_one_sentence(images, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(inpainting.Inpainter, "loss", full)
    with pytest.raises(HistomixError, match="2 windows of 16 pixels a step; train with a smaller batch"):
        drain(train("inpainter", [images], tmp_path / "m", settings=SETTINGS, mpp=(0.25, 0.25)))


def test_fine_tuning_starts_from_the_given_weights(images, small_model_folder, tmp_path):
    shutil.copytree(small_model_folder, tmp_path / "small")
    small_model_folder = tmp_path / "small"
    earlier = json.loads((small_model_folder / CARD_FILE).read_text(encoding="utf-8")) | {"training_pixels": ["e" * 64]}
    (small_model_folder / CARD_FILE).write_text(json.dumps(earlier), encoding="utf-8")
    settings = InpainterSettings(steps=1, batch=2, window=16, learning_rate=0.0)
    drain(train("inpainter", [images], tmp_path / "m", settings=settings, start=small_model_folder))
    tuned, start = load_model(tmp_path / "m"), load_model(small_model_folder)
    assert tuned.mpp == start.mpp, "the scale comes from the start's card"
    for key, value in start.network.state_dict().items():
        assert torch.allclose(tuned.network.state_dict()[key], value, atol=1e-3), key
    card = json.loads((tmp_path / "m" / CARD_FILE).read_text(encoding="utf-8"))
    assert card["started_from"] == "small"
    assert len(card["training_pixels"]) == 9 and "e" * 64 in card["training_pixels"]


def test_a_start_whose_weights_are_not_those_of_its_card_is_refused(images, small_model_folder, tmp_path):
    start = tmp_path / "start"
    start.mkdir()
    for path in small_model_folder.iterdir():
        content = bytearray(path.read_bytes())
        if path.name == WEIGHTS_FILE:
            content[-1] ^= 1
        (start / path.name).write_bytes(content)
    with pytest.raises(HistomixError, match="SHA-256"):
        drain(train("inpainter", [images], tmp_path / "m", settings=SETTINGS, start=start))
    assert file_sha256(small_model_folder / WEIGHTS_FILE) != file_sha256(start / WEIGHTS_FILE)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"mpp": 3}', '{"mpp": ["a", "b"]}'])
def test_a_start_with_a_broken_card_is_one_sentence(images, small_model_folder, tmp_path, content):
    start = tmp_path / "start"
    start.mkdir()
    for path in small_model_folder.iterdir():
        (start / path.name).write_bytes(path.read_bytes())
    (start / CARD_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(HistomixError):
        drain(train("inpainter", [images], tmp_path / "m", settings=SETTINGS, start=start))


def test_a_start_without_a_card_needs_a_scale_and_then_serves(images, small_model_folder, tmp_path):
    start = tmp_path / "start"
    start.mkdir()
    for path in small_model_folder.iterdir():
        if path.name != CARD_FILE:
            (start / path.name).write_bytes(path.read_bytes())
    with pytest.raises(HistomixError, match="--mpp"):
        drain(train("inpainter", [images], tmp_path / "m", settings=SETTINGS, start=start))
    drain(train("inpainter", [images], tmp_path / "m", settings=SETTINGS, start=start, mpp=(0.3, 0.4)))
    assert load_model(tmp_path / "m").mpp == (0.3, 0.4)


def test_the_loss_falls_on_images_of_one_color(tmp_path):
    for number in range(11):
        save(tmp_path / "plain" / f"{number}.png", np.full((20, 20, 3), (200, 150, 190)))
    losses = {}
    for steps in (1, 60):
        settings = InpainterSettings(steps=steps, batch=8, window=16, warmup=1, learning_rate=3e-3)
        job = train("inpainter", [tmp_path / "plain"], tmp_path / str(steps), settings=settings, mpp=(0.25, 0.25))
        phases = [event.phase for event in job][:-1]
        card = json.loads((tmp_path / str(steps) / CARD_FILE).read_text(encoding="utf-8"))
        losses[steps] = card["history"][-1]["validation"]
        assert all(re.fullmatch(r"Training, loss \d+\.\d{4}", phase) for phase in phases)
    assert losses[60] < 0.7 * losses[1]


def test_a_loss_that_is_not_a_number_stops_the_run(images, tmp_path):
    settings = InpainterSettings(steps=50, batch=2, window=16, warmup=1, learning_rate=float("inf"))
    with pytest.raises(HistomixError, match="lower learning rate"):
        drain(train("inpainter", [images], tmp_path / "m", settings=settings, mpp=(0.25, 0.25)))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("step", [20, 300, 900])
def test_min_snr_weighs_timesteps_as_published(step, monkeypatch):
    """min(SNR, 5) / (SNR + 1) of the plain loss on v (arXiv 2303.09556, for v-prediction)."""
    monkeypatch.setattr(inpainting, "random_steps", lambda count, *_: torch.full((count,), step))
    images, holes = torch.rand(2, 3, 16, 16) * 2 - 1, torch.ones(2, 1, 16, 16)
    losses = []
    for weighting in ("velocity", "min-snr"):
        recipe = inpainting.Inpainter(InpainterSettings(window=16, weighting=weighting), None)
        silent = lambda seen, steps: SimpleNamespace(sample=0 * seen[:, :3])  # noqa: E731
        losses.append(float(recipe.loss(silent, (images, holes), torch.Generator().manual_seed(0))))
    alpha = float(DDPMScheduler.from_config(inpainting.SCHEDULE).alphas_cumprod[step])
    ratio = alpha / (1 - alpha)
    assert losses[1] / losses[0] == pytest.approx(min(ratio, 5) / (ratio + 1), rel=1e-3)
