from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histomix.diffusion.models import CARD_FILE, WEIGHTS_FILE, file_sha256, load_model, network_input, save_model
from napari_histomix.diffusion.training import SCHEDULE
from napari_histomix.records import HistomixError
from napari_histomix.weights import bundled


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
    assert model.conditional
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

    monkeypatch.setattr("napari_histomix.diffusion.models.save_file", full)
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

    monkeypatch.setattr("napari_histomix.diffusion.models.os.replace", fail)
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
    assert "does not fit its config.json" in refused(folder)


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
        {"windows": None},
        {"windows": []},
        {"windows": [0, 64]},
        {"name": None},
        {"sha256": None},
    ],
    ids=str,
)
def test_a_card_without_scale_windows_name_or_hash_is_refused(folder, changes):
    edit(folder / CARD_FILE, **changes)
    assert "mpp [low, high]" in refused(folder)


@pytest.mark.parametrize("name", [CARD_FILE, "config.json", "scheduler_config.json", WEIGHTS_FILE])
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
    assert model.conditional and model.mpp[0] <= 0.25 <= 0.5 <= model.mpp[1]
    assert sum(path.stat().st_size for path in bundled().iterdir()) <= 10e6
    card = json.loads((bundled() / CARD_FILE).read_text(encoding="utf-8"))
    assert card["training_images"] and card["recipe"] and card["history"]
    readme = (bundled() / "README.md").read_text(encoding="utf-8").lower()
    assert "µm/px" in readme and "license" in readme and "validation" in readme
