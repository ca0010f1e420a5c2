"""A Stable Diffusion inpainting pipeline of the real classes, with a few thousand weights."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_histomix.diffusion.inpainter import Window, inpaint
from napari_histomix.diffusion.model_files import CARD_FILE, load_model
from napari_histomix.diffusion.models import PromptedModel
from napari_histomix.diffusion.samplers import Sampler
from napari_histomix.records import HistomixError, drain

transformers = pytest.importorskip("transformers")

SAMPLER = Sampler("conditional", 500, 3)


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "b</w>": 3, "a": 4, "b": 5}
    vocabulary = folder.parent / "words"
    vocabulary.mkdir()
    (vocabulary / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    (vocabulary / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    files = [str(vocabulary / name) for name in ("vocab.json", "merges.txt")]
    tokenizer = transformers.CLIPTokenizer(*files, model_max_length=8)
    text = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8,         bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    network = UNet2DConditionModel(
        sample_size=16, in_channels=9, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    autoencoder = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    StableDiffusionInpaintPipeline(
        autoencoder, transformers.CLIPTextModel(text), tokenizer, network, DDIMScheduler(steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    (folder / CARD_FILE).write_text(json.dumps({"mpp": [0.25, 0.5], "windows": [64]}), encoding="utf-8")
    return folder


@pytest.fixture
def model(pipeline_folder: Path) -> PromptedModel:
    found = load_model(pipeline_folder, prompt="a b")
    assert isinstance(found, PromptedModel)
    return found


def window(seed: int = 0) -> Window:
    hole = np.zeros((64, 64), bool)
    hole[20:40, 16:44] = True
    return Window(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8), hole, seed)


def running() -> int:
    return sum(thread.name == "inpainting pipeline" for thread in threading.enumerate())


def test_a_pipeline_fills_the_hole_and_nothing_else_the_same_way_for_a_seed(model):
    one = window()
    first, second = drain(inpaint([one, window(1)], model, SAMPLER, device="cpu"))
    (again,) = drain(inpaint([one], model, SAMPLER, device="cpu"))
    assert np.array_equal(first[~one.hole], one.pixels[~one.hole])
    assert not np.array_equal(first[one.hole], one.pixels[one.hole])
    assert np.abs(first.astype(int) - again).max() <= 2, "its batch must not matter beyond rounding"
    other = Window(np.where(one.hole[..., None], 7, one.pixels).astype(np.uint8), one.hole, one.seed)
    assert np.array_equal(drain(inpaint([other], model, SAMPLER, device="cpu"))[0], again), "the hole was looked at"
    assert not np.array_equal(second[one.hole], first[one.hole])


def test_the_prompt_is_heard(model, pipeline_folder):
    results = []
    for words in ("a", "b"):
        told = load_model(pipeline_folder, prompt=words)
        told.pipeline.unet.load_state_dict({key: 5 * value for key, value in model.pipeline.unet.state_dict().items()})
        results += drain(inpaint([window()], told, SAMPLER, device="cpu"))
    assert not np.array_equal(*results)


def test_closing_stops_the_pipeline_within_a_step(model):
    called = []
    model.pipeline.unet.register_forward_pre_hook(lambda *_: called.append(1))
    job = inpaint([window()], model, Sampler("conditional", 1000, 50), device="cpu")
    next(job)
    job.close()
    assert running() == 0
    assert len(called) < 10


def test_not_a_number_names_the_step(model):
    model.pipeline.unet.register_forward_hook(lambda *given: (torch.full_like(given[2][0], float("nan")),))
    with pytest.raises(HistomixError, match=r"not a number at step 1"):
        drain(inpaint([window()], model, SAMPLER, device="cpu"))
    assert running() == 0


def test_a_pipeline_needs_a_prompt_and_a_scale(pipeline_folder, tmp_path):
    with pytest.raises(HistomixError, match="--prompt"):
        load_model(pipeline_folder)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "model_index.json").write_text((pipeline_folder / "model_index.json").read_text())
    with pytest.raises(HistomixError, match="--model-mpp"):
        load_model(bare, prompt="a")
    with pytest.raises(HistomixError, match="does not open as an inpainting pipeline"):
        load_model(bare, prompt="a", mpp=(0.5, 0.5))
    with pytest.raises(HistomixError, match="multiples of 8"):
        load_model(bare, prompt="a", mpp=(0.5, 0.5), windows=(60,))
