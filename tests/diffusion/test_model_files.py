from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import VQModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from napari_histomix.diffusion.inpainter import Window, inpaint
from napari_histomix.diffusion.model_files import (
    CARD_FILE,
    INDEX_FILE,
    WEIGHTS_FILE,
    check_room,
    file_sha256,
    load_model,
    save_model,
)
from napari_histomix.diffusion.models import decode, encode, network_input
from napari_histomix.diffusion.samplers import Sampler
from napari_histomix.records import HistomixError
from napari_histomix.training.inpainting import SCHEDULE, new_autoencoder
from napari_histomix.weights import bundled
from tests.network_samples import sees_surroundings


@pytest.fixture
def folder(small_model_folder, tmp_path) -> Path:
    """A model folder that a test may break."""
    return Path(shutil.copytree(small_model_folder, tmp_path / "model"))


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def sign(folder: Path) -> None:
    """Make the card agree with the weights, so that only what is tested is wrong."""
    edit(folder / CARD_FILE, sha256=file_sha256(folder / WEIGHTS_FILE))


def refused(folder: Path) -> str:
    with pytest.raises(HistomixError) as error:
        load_model(folder)
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < 500
    return sentence


def test_a_saved_model_comes_back(small_network, tmp_path):
    network = small_network()
    save_model(tmp_path / "m", network, SCHEDULE, name="n", mpp=(0.2, 0.4), windows=(64, 48), extra={"more": 1})
    model = load_model(tmp_path / "m")
    assert (model.name, model.mpp, model.windows) == ("n", (0.2, 0.4), (48, 64))
    assert model.schedule["prediction_type"] == "v_prediction"
    assert model.sha256 == file_sha256(tmp_path / "m" / WEIGHTS_FILE)
    assert sees_surroundings(model)
    for key, value in network.state_dict().items():
        # Stored in half precision.
        assert torch.equal(model.network.state_dict()[key], value.half().float()), key
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert json.loads((tmp_path / "m" / CARD_FILE).read_text())["more"] == 1


def test_saving_again_replaces_the_earlier_checkpoint(small_network, tmp_path):
    for seed in (0, 1, 2):
        network = small_network(seed=seed)
        save_model(tmp_path / "m", network, SCHEDULE, name=f"n{seed}", mpp=(0.2, 0.4), windows=(48,))
        # What a killed run may have left beside it is in nobody's way.
        (tmp_path / "m.old").mkdir()
        (tmp_path / "m.old" / "file").touch()
    assert load_model(tmp_path / "m").name == "n2"


def test_a_full_disk_leaves_no_half_model(small_network, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_histomix.diffusion.model_files.save_file", full)
    with pytest.raises(HistomixError, match="No space left"):
        save_model(tmp_path / "m", small_network(), SCHEDULE, name="n", mpp=(0.2, 0.4), windows=(48,))
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_at_the_very_end_keeps_the_earlier_checkpoint(small_network, tmp_path, monkeypatch):
    arguments = {"mpp": (0.2, 0.4), "windows": (48,)}
    save_model(tmp_path / "m", small_network(), SCHEDULE, name="first", **arguments)
    replace = os.replace

    def fail(source, target):
        if str(source).endswith(".partial"):
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr("napari_histomix.diffusion.model_files.os.replace", fail)
    with pytest.raises(HistomixError, match="Input/output error"):
        save_model(tmp_path / "m", small_network(), SCHEDULE, name="second", **arguments)
    assert load_model(tmp_path / "m").name == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_weights_with_another_hash_are_refused(folder):
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)
    assert "SHA-256" in refused(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 20_000])
def test_truncated_weights_are_refused(folder, keep):
    (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:keep])
    assert "SHA-256" in refused(folder)
    sign(folder)
    assert "not a whole safetensors file" in refused(folder)


@given(st.binary(max_size=200))
@settings(max_examples=30, deadline=None)
def test_whatever_bytes_the_weights_are_the_answer_is_one_sentence(small_model_folder, tmp_path_factory, content):
    folder = Path(shutil.copytree(small_model_folder, tmp_path_factory.mktemp("any") / "model"))
    (folder / WEIGHTS_FILE).write_bytes(content)
    sign(folder)
    refused(folder)


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


def test_pickles_are_not_loaded(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / WEIGHTS_FILE).unlink()
    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin"):
        (folder / name).write_bytes(pickle.dumps(Payload()))
    assert "only safetensors" in refused(folder)
    (folder / WEIGHTS_FILE).write_bytes(pickle.dumps(Payload()))
    sign(folder)
    refused(folder)
    assert not (folder / "unpickled").exists()


def test_weights_of_another_network_are_refused(folder):
    edit(folder / "config.json", block_out_channels=[8, 32])
    assert "have another shape for" in refused(folder)


def rewrite(folder: Path, change) -> None:
    state = load_file(folder / WEIGHTS_FILE)
    change(state)
    save_file(state, folder / WEIGHTS_FILE)
    sign(folder)


def test_missing_and_extra_weights_are_named(folder):
    rewrite(folder, lambda state: state.pop("conv_in.bias"))
    assert "lack 'conv_in.bias'" in refused(folder)
    rewrite(folder, lambda state: state.update({"conv_in.bias": torch.zeros(8), "conv_in.more": torch.zeros(1)}))
    assert "unexpected 'conv_in.more'" in refused(folder)


def test_a_network_with_other_input_channels_is_refused(small_network, tmp_path):
    save_model(tmp_path / "m", small_network(4), SCHEDULE, name="n", mpp=(0.2, 0.4), windows=(48,))
    assert "3 or 7 input channels" in refused(tmp_path / "m")


@pytest.mark.parametrize(
    "changes",
    [
        {"mpp": None},
        {"mpp": 0.25},
        {"mpp": [0.5, 0.25]},
        {"mpp": [0, 0.25]},
        {"mpp": ["a", "b"]},
        {"mpp": [0.1, 0.2, 0.3]},
        {"windows": []},
        {"windows": [0, 64]},
        {"windows": "ab"},
    ],
    ids=str,
)
def test_a_card_without_a_scale_or_with_nonsense_is_refused(folder, changes):
    edit(folder / CARD_FILE, **changes)
    assert ("--model-mpp" if changes == {"mpp": None} else "mpp must be [low, high]") in refused(folder)


def test_a_folder_without_a_card_needs_a_scale_and_then_serves(folder):
    (folder / CARD_FILE).unlink()
    assert "--model-mpp" in refused(folder)
    model = load_model(folder, mpp=(0.25, 0.5))
    assert (model.mpp, model.windows, model.name) == ((0.25, 0.5), (48,), "model")


def test_windows_that_the_network_cannot_halve_are_refused(folder):
    edit(folder / CARD_FILE, windows=[49])
    assert "multiples of 2" in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "scheduler_config.json", WEIGHTS_FILE])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert name in refused(folder)


@pytest.mark.parametrize("name", [CARD_FILE, "config.json", "scheduler_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_broken_json_file_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    assert name in refused(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    assert "nowhere" in refused(tmp_path / "nowhere")


def test_a_hub_name_is_not_fetched_unless_asked_for(monkeypatch):
    monkeypatch.delenv("HISTOMIX_ONLINE", raising=False)
    with pytest.raises(HistomixError, match="HISTOMIX_ONLINE=1"):
        load_model("someone/some-model")


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch):
    def offline(name, **_):
        raise OSError("no route to host")

    monkeypatch.setenv("HISTOMIX_ONLINE", "1")
    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(HistomixError, match=r"could not be fetched \(no route"):
        load_model("someone/some-model")


def test_too_little_disk_is_said_before_anything_is_written(small_network, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(HistomixError, match="its disk has 0 MB left"):
        save_model(tmp_path / "m", small_network(), SCHEDULE, name="n", mpp=(0.2, 0.4), windows=(48,))
    assert list(tmp_path.iterdir()) == []
    check_room(tmp_path / "a" / "b", 1000)


def latent_folder(folder: Path, small_network, autoencoder, channels: int = 4, conditional: bool = False) -> Path:
    """What ``LDMPipeline.save_pretrained`` writes, and a card."""
    network = small_network(2 * channels + 1 if conditional else channels, out=channels)
    parts = {"unet": network, "vqvae": autoencoder}
    save_model(folder, parts, SCHEDULE, name="latent", mpp=(0.25, 0.5), windows=(64,))
    return folder


def vq_model() -> VQModel:
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    return VQModel(block_out_channels=(8, 8, 16), norm_num_groups=4, num_vq_embeddings=32, latent_channels=3, **kinds)


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("kind", ["AutoencoderKL", "VQModel"])
def test_a_latent_model_comes_back_and_fills_holes(small_network, tmp_path, kind, conditional):
    autoencoder, channels = (new_autoencoder(64), 4) if kind == "AutoencoderKL" else (vq_model(), 3)
    folder = latent_folder(tmp_path / "m", small_network, autoencoder, channels, conditional)
    model = load_model(folder)
    assert (model.channels, model.reduction, sees_surroundings(model)) == (channels, 4, conditional)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    hole = np.zeros((64, 64), bool)
    hole[20:44, 18:40] = True
    for sampler in (Sampler("repaint", 250, 3, 2), Sampler.parse("mcg-fixed:1000:3")):
        events = []
        job = inpaint([Window(pixels, hole, 0)], model, sampler, device="cpu")
        try:
            while True:
                events.append(next(job))
        except StopIteration as end:
            (filled,) = end.value
        assert np.array_equal(filled[~hole], pixels[~hole]) and not np.array_equal(filled[hole], pixels[hole])
        assert len(events) == sampler.forwards and events[0].preview.shape == (64, 64, 3)


def test_a_pipeline_that_diffusers_saved_is_read_as_it_is(small_network, tmp_path):
    from diffusers import DDIMScheduler, LDMPipeline

    LDMPipeline(vqvae=vq_model(), unet=small_network(3), scheduler=DDIMScheduler()).save_pretrained(tmp_path / "ldm")
    assert "--model-mpp" in refused(tmp_path / "ldm")
    model = load_model(tmp_path / "ldm", mpp=(0.5, 0.5))
    assert model.windows == (48 * 4,) and model.schedule["prediction_type"] == "epsilon"
    assert not model.schedule["clip_sample"], "latents have no limits"


def test_our_latent_folder_opens_in_diffusers(small_network, tmp_path):
    from diffusers import LDMPipeline

    folder = latent_folder(tmp_path / "m", small_network, vq_model(), 3)
    pipeline = LDMPipeline.from_pretrained(folder, local_files_only=True)
    assert type(pipeline.vqvae).__name__ == "VQModel"


def test_an_autoencoder_and_a_network_that_do_not_belong_together_are_refused(small_network, tmp_path):
    latent_folder(tmp_path / "m", small_network, vq_model(), 4)
    assert "do not belong together" in refused(tmp_path / "m")


def test_an_autoencoder_of_another_kind_is_refused(small_network, tmp_path):
    folder = latent_folder(tmp_path / "m", small_network, vq_model(), 3)
    edit(folder / INDEX_FILE, vqvae=["diffusers", "AutoencoderDC"])
    assert "AutoencoderKL and VQModel are" in refused(folder)


def test_a_scaled_latent_decodes_to_what_was_encoded():
    torch.manual_seed(0)
    autoencoder, pixels = new_autoencoder(32), torch.rand(1, 3, 32, 32) * 2 - 1
    plain = autoencoder(pixels).sample
    autoencoder.register_to_config(scaling_factor=0.37)
    latents = encode(autoencoder, pixels)
    assert latents.shape == (1, 4, 8, 8)
    assert torch.allclose(latents / 0.37, autoencoder.encode(pixels).latent_dist.mode())
    assert torch.allclose(decode(autoencoder, latents), plain, atol=1e-5)


def test_what_the_network_sees():
    noisy, known = torch.full((2, 3, 4, 4), 0.5), torch.full((2, 3, 4, 4), 0.25)
    hole = torch.zeros(2, 1, 4, 4)
    hole[:, :, 1:3, 1:3] = 1
    seen = network_input(noisy, known, hole, 7)
    assert torch.equal(seen[:, :3], noisy) and torch.equal(seen[:, 6:], hole)
    assert seen[0, 3, 0, 0] == 0.25 and seen[0, 3, 1, 1] == 0, "what lies in the hole must stay hidden"
    blind = network_input(noisy, None, None, 7)
    assert not blind[:, 3:6].any() and bool((blind[:, 6] == 1).all())
    assert network_input(noisy, known, hole, 3) is noisy


def test_the_bundled_weights_are_whole_small_and_say_where_they_come_from():
    model = load_model(bundled())
    assert sees_surroundings(model) and model.mpp[0] <= 0.25 <= 0.5 <= model.mpp[1]
    assert sum(path.stat().st_size for path in bundled().iterdir()) <= 10e6
    card = json.loads((bundled() / CARD_FILE).read_text(encoding="utf-8"))
    assert card["training_images"] and card["recipe"] and card["history"]
    readme = (bundled() / "README.md").read_text(encoding="utf-8").lower()
    assert "µm/px" in readme and "license" in readme and "validation" in readme
