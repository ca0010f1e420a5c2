from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_histomix.features import Encoder, open_encoder
from napari_histomix.records import HistomixError

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from safetensors.torch import save_file  # noqa: E402

from napari_histomix.features.networks import CTransPathEncoder, TorchEncoder, build_network  # noqa: E402

SMALL = "test_resnet"
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)


def randomized(network: torch.nn.Module) -> torch.nn.Module:
    """Give every weight and running statistic a value of its own, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(0)
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(noise + 0.5 if key.endswith("running_var") else (noise - 0.5) * 0.4)
    return network.eval()


def normalized(patches: NDArray[np.uint8]) -> torch.Tensor:
    return (torch.from_numpy(patches).permute(0, 3, 1, 2) / 255 - IMAGENET[0]) / IMAGENET[1]


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(randomized(timm.create_model(SMALL, pretrained=False)).state_dict(), path)
    return path


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty cache, and a test that fails if anything reaches out."""
    import socket

    def refuse(*args: object) -> None:
        pytest.fail("went online")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HISTOMIX_ONLINE", raising=False)


# ---- timm


def test_timm_features_are_the_models_own(weights, patches, no_network):
    encoder = open_encoder(f"timm:{SMALL}@{weights}")
    assert isinstance(encoder, Encoder)
    assert re.fullmatch(rf"timm:{SMALL}@[0-9a-f]{{12}}", encoder.name)
    model = randomized(timm.create_model(SMALL, pretrained=False))
    model.reset_classifier(0)
    side = model.pretrained_cfg["input_size"][-1]
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(patches).permute(0, 3, 1, 2) / 255, (side, side), mode="bicubic", antialias=True
    ).clamp(0, 1)
    mean, std = (torch.tensor(model.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.inference_mode():
        expected = model((resized - mean) / std).numpy()
    features = encoder(patches)
    assert features.dtype == np.float32 and features.shape == (6, encoder.dim)
    assert features.std(axis=0).max() > 0
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert encoder(patches[:0]).shape == (0, encoder.dim)


def test_a_torch_checkpoint_with_a_nested_state_dict_gives_the_same(weights, patches, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": timm.create_model(SMALL, pretrained=False).state_dict(), "epoch": 3}, path)
    state = torch.load(path, weights_only=True)
    save_file(state["state_dict"], tmp_path / "same.safetensors")
    one, two = (open_encoder(f"timm:{SMALL}@{p}") for p in (path, tmp_path / "same.safetensors"))
    np.testing.assert_array_equal(one(patches), two(patches))
    assert one.name != two.name


def test_other_weights_give_another_name(weights, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file(timm.create_model(SMALL, pretrained=False).state_dict(), other)
    assert open_encoder(f"timm:{SMALL}@{weights}").name != open_encoder(f"timm:{SMALL}@{other}").name


def test_offline_and_absent_says_what_to_do(no_network):
    with pytest.raises(HistomixError, match=r"is not in .* set HISTOMIX_ONLINE=1 .* or give a file as timm:"):
        open_encoder(f"timm:{SMALL}")


def test_a_download_that_fails_says_what_to_do(no_network, monkeypatch):
    def fail(url: str) -> str:
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", fail)
    monkeypatch.setenv("HISTOMIX_ONLINE", "1")
    with pytest.raises(
        HistomixError,
        match=r"cannot be downloaded from .* \(no route\); check the connection .*, or give a file as timm:",
    ):
        open_encoder(f"timm:{SMALL}")


def test_weights_in_the_cache_are_used_offline(no_network, weights, patches, tmp_path):
    repository = timm.create_model(SMALL, pretrained=False).pretrained_cfg["hf_hub_id"]
    cached = tmp_path / "cache" / f"models--{repository.replace('/', '--')}"
    commit = "0" * 40
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots" / commit).mkdir(parents=True)
    (cached / "snapshots" / commit / "model.safetensors").write_bytes(weights.read_bytes())
    encoder, direct = open_encoder(f"timm:{SMALL}"), open_encoder(f"timm:{SMALL}@{weights}")
    assert encoder.name == direct.name
    np.testing.assert_array_equal(encoder(patches), direct(patches))


def test_weights_placed_by_hand_in_the_model_folder_are_used_offline(no_network, weights, monkeypatch, tmp_path):
    repository = timm.create_model(SMALL, pretrained=False).pretrained_cfg["hf_hub_id"]
    monkeypatch.setenv("HISTOMIX_WEIGHTS", str(tmp_path / "models"))
    with pytest.raises(HistomixError) as told:
        open_encoder(f"timm:{SMALL}")
    name = f"{repository.rpartition('/')[2]}.safetensors"
    assert f"'{name}' is not in {tmp_path / 'models'}; copy model.safetensors from https://huggingface.co/" in str(
        told.value
    )
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / name).write_bytes(weights.read_bytes())
    placed, named = open_encoder(f"timm:{SMALL}"), open_encoder(f"timm:{SMALL}@{name}")
    assert placed.name == named.name == open_encoder(f"timm:{SMALL}@{weights}").name


@pytest.mark.parametrize("model", ["resnet1800", "hf-hub:timm/test_resnet.r160_in1k", "local-dir:x"])
def test_a_model_timm_does_not_have_is_refused_offline(no_network, model):
    with pytest.raises(HistomixError, match="timm has no model"):
        open_encoder(f"timm:{model}")


def test_a_tag_timm_does_not_have_is_refused(no_network):
    with pytest.raises(HistomixError, match="check the tag"):
        open_encoder(f"timm:{SMALL}.no_such_tag")


def test_a_device_that_is_not_there_is_refused(weights):
    for device in ("tpu9", "cuda:63"):
        with pytest.raises(HistomixError, match=f"device '{device}' cannot be used"):
            open_encoder(f"timm:{SMALL}@{weights}", device=device)


# ---- files


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"model": Bomb(mark)}))
    torch.save({"model": Bomb(mark)}, tmp_path / "torch.pth")
    for name in ("plain.pth", "torch.pth"):
        with pytest.raises(HistomixError, match="damaged or holds more than weights"):
            open_encoder(f"ctranspath:{tmp_path / name}")
    assert not mark.exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("content", ["empty", "text", "truncated"])
def test_a_damaged_file_is_one_sentence(tmp_path, weights, suffix, content):
    path = tmp_path / f"bad.{suffix}"
    if content == "truncated" and suffix == "pth":
        torch.save(timm.create_model(SMALL, pretrained=False).state_dict(), path)
        path.write_bytes(path.read_bytes()[:-5000])
    else:
        path.write_bytes(
            {"empty": b"", "text": b"<html>404</html>", "truncated": weights.read_bytes()[:-5000]}[content]
        )
    with pytest.raises(HistomixError, match="damaged or holds more than weights"):
        open_encoder(f"timm:{SMALL}@{path}")


def test_a_file_that_is_absent_or_no_table_of_weights(tmp_path):
    with pytest.raises(HistomixError, match="no weights file"):
        open_encoder(f"ctranspath:{tmp_path / 'absent.pth'}")
    for number, content in enumerate(({}, {"epoch": 3}, [torch.zeros(2)], {"model": {}})):
        torch.save(content, tmp_path / f"{number}.pth")
        with pytest.raises(HistomixError, match="no table of weights"):
            open_encoder(f"ctranspath:{tmp_path / f'{number}.pth'}")


def test_weights_of_another_network_are_one_sentence(tmp_path, weights):
    state = timm.create_model(SMALL, pretrained=False).state_dict()
    key = "layer1.0.conv1.weight"
    lacking = {k: v for k, v in state.items() if k != key}
    misshapen = {**state, key: torch.zeros(1, 2, 3, 4)}
    extra = {**state, "neck.weight": torch.zeros(3)}
    for changed, message in ((lacking, f"lack '{key}'"), (misshapen, "another shape"), (extra, "unexpected 'neck")):
        path = tmp_path / "changed.pth"
        torch.save(changed, path)
        with pytest.raises(HistomixError, match=message):
            open_encoder(f"timm:{SMALL}@{path}")
    with pytest.raises(HistomixError, match=r"CTransPath: the weights lack '.*' and \d+ more"):
        open_encoder(f"ctranspath:{weights}")


# ---- CTransPath


def published(network: torch.nn.Module) -> dict:
    """The network's weights under the names of the published checkpoint, with what it stores besides."""
    old = {}
    for key, value in network.state_dict().items():
        if found := re.match(r"layers\.(\d)\.downsample\.(.*)", key):
            key = f"layers.{int(found[1]) - 1}.downsample.{found[2]}"
        old[key] = value
    old["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    old["head.weight"] = torch.zeros(5, 7)
    return {"model": old}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_ctranspath_reads_the_published_names(tmp_path, patches, suffix):
    sizes = {"embed_dim": 16, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}
    network = randomized(build_network(**sizes))
    path = tmp_path / f"old.{suffix}"
    if suffix == "pth":
        torch.save(published(network), path)
    else:
        save_file(published(network)["model"], path)
    encoder = CTransPathEncoder(path, network=build_network(**sizes))
    with torch.inference_mode():
        expected = network(normalized(patches)).numpy()
    features = encoder(patches)
    assert features.shape == (6, 64) and features.std(axis=0).min() > 0
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_ctranspath_at_full_size_opens_by_its_description(tmp_path, patches):
    network = build_network()
    path = tmp_path / "ctranspath.pth"
    torch.save(published(network), path)
    encoder = open_encoder(f"ctranspath:{path}")
    assert isinstance(encoder, Encoder) and encoder.dim == 768
    assert re.fullmatch(r"ctranspath@[0-9a-f]{12}", encoder.name)
    network.eval()
    with torch.inference_mode():
        expected = network(normalized(patches[:2])).numpy()
    np.testing.assert_allclose(encoder(patches[:2]), expected, rtol=1e-4, atol=1e-5)


def test_the_stem_has_the_checkpoints_names_and_shapes():
    shapes = {k: tuple(v.shape) for k, v in build_network().state_dict().items() if k.startswith("patch_embed.")}
    shapes = {k.removeprefix("patch_embed."): v for k, v in shapes.items() if k.endswith(("weight", "bias"))}
    assert shapes == {
        "proj.0.weight": (12, 3, 3, 3),
        "proj.1.weight": (12,),
        "proj.1.bias": (12,),
        "proj.3.weight": (24, 12, 3, 3),
        "proj.4.weight": (24,),
        "proj.4.bias": (24,),
        "proj.6.weight": (96, 24, 1, 1),
        "proj.6.bias": (96,),
        "norm.weight": (96,),
        "norm.bias": (96,),
    }


# ---- what all share


class Hungry(torch.nn.Module):
    """Gives the mean color, and runs out of memory above ``most`` patches."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.most:
            raise torch.cuda.OutOfMemoryError
        return images.mean(dim=(2, 3))


def encoder_of(network: torch.nn.Module, batch: int) -> TorchEncoder:
    return TorchEncoder(network, name="test", mean=(0, 0, 0), std=(1, 1, 1), batch=batch)


def test_out_of_memory_halves_the_batch_says_so_and_goes_on(patches):
    encoder = encoder_of(Hungry(2), batch=6)
    with pytest.warns(UserWarning, match="going on with 3") as warned:
        features = encoder(patches)
    assert len(warned) == 2
    np.testing.assert_allclose(features, patches.mean(axis=(1, 2)) / 255, atol=1e-5)


def test_out_of_memory_with_a_single_patch_is_raised(patches):
    encoder = encoder_of(Hungry(1), batch=1)
    encoder._network.most = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        encoder(patches)


def test_features_do_not_depend_on_the_batch(patches):
    network = Hungry(99)
    np.testing.assert_allclose(encoder_of(network, 4)(patches), encoder_of(network, 1)(patches), rtol=1e-6)


def test_a_network_that_does_not_pool_is_refused():
    with pytest.raises(HistomixError, match="choose a network that pools"):
        encoder_of(torch.nn.Identity(), batch=1)
