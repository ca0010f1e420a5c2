from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_histomix.records import HistomixError, drain

torch = pytest.importorskip("torch")
pytest.importorskip("segment_anything")

from safetensors.torch import save_file  # noqa: E402
from sam_samples import one_by_one, scene, small_sam  # noqa: E402
from segment_anything import sam_model_registry  # noqa: E402
from segment_anything.modeling import Sam  # noqa: E402

from napari_histomix.segmentation import sam_network  # noqa: E402
from napari_histomix.segmentation.sam import SamPrompter  # noqa: E402
from napari_histomix.weights import read_checkpoint  # noqa: E402

build_sam = sys.modules["segment_anything.build_sam"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that meet at every small sum take longer than the sums, the more so beside other programs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> Sam:
    return small_sam()


@pytest.fixture(scope="module")
def weights(network: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model_state": {f"sam.{k}": v for k, v in state.items()}, "decoder_state": {"x": torch.ones(1)}},
        lambda state: {"model_state": dict(state), "iteration": 5, "optimizer_state": {"lr": 0.1}},
        lambda state: {**state, "decoder_state": {"decoder.weight": torch.ones(3)}},
        lambda state: {f"sam.{key}": value.half().float() for key, value in state.items()},
    ],
    ids=["micro-sam's training", "without a prefix", "with its own decoder beside", "only a prefix"],
)
def test_checkpoints_come_in_several_wrappings(network, wrap, tmp_path):
    torch.save(wrap(network.state_dict()), tmp_path / "wrapped.pt")
    loaded, architecture, _ = sam_network.load_network(tmp_path / "wrapped.pt")
    assert architecture == "vit_32x3"
    own = network.state_dict()
    assert loaded.state_dict().keys() == own.keys()
    assert all(torch.allclose(value, own[key], atol=2e-3) for key, value in loaded.state_dict().items())


def test_the_name_holds_the_architecture_and_the_hash_of_the_file(network, weights, tmp_path):
    save_file(network.state_dict(), tmp_path / "same.safetensors")
    names = [SamPrompter(path, "cpu").name for path in (weights, tmp_path / "same.safetensors")]
    assert names[0] == f"sam-vit_32x3-{read_checkpoint(weights)[1][:12]}"
    assert names[0] != names[1]


@pytest.mark.parametrize("kinds", [{"depth": 2, "width": 48, "window": 5, "whole": ()}, {"whole": (0, 1, 2)}])
def test_other_sizes_are_read_off_the_weights(kinds, tmp_path):
    other = small_sam(**kinds)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    pixels, points = scene((100, 128), 6)
    proposals = drain(SamPrompter(tmp_path / "other.pth", "cpu")(pixels, points))
    masks, qualities, _ = one_by_one(other, pixels, points)
    np.testing.assert_allclose(proposals.scores, qualities, rtol=1e-4, atol=1e-4)
    assert np.mean(proposals.masks(np.arange(6)) != masks) < 1e-3


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads"), [("vit_b", 768, 12, 12), ("vit_l", 1024, 24, 16), ("vit_h", 1280, 32, 16)]
)
def test_the_published_architectures_are_told_from_their_shapes(name, width, depth, heads, monkeypatch):
    def whole(**parts: object) -> Sam:
        # Its normalization is made with a constructor that knows processors only.
        with torch.device("cpu"):
            return Sam(**parts)

    monkeypatch.setattr(build_sam, "Sam", whole)
    with torch.device("meta"):
        published = sam_model_registry[name]()
    built = sam_network._build(published.state_dict())
    assert {k: v.shape for k, v in built.state_dict().items()} == {
        k: v.shape for k, v in published.state_dict().items()
    }
    blocks = built.image_encoder.blocks
    assert [block.window_size for block in blocks] == [block.window_size for block in published.image_encoder.blocks]
    assert (len(blocks), blocks[0].attn.num_heads) == (depth, heads)
    assert sam_network._NAMES[width, depth] == name


class Bomb:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def without(state: dict, key: str) -> dict:
    return {k: v for k, v in state.items() if k != key}


FAULTS = {
    "absent": (lambda state, path: None, "no weights file"),
    "empty": (lambda state, path: path.write_bytes(b""), "damaged"),
    "text": (lambda state, path: path.write_text("<html>404</html>"), "damaged"),
    "truncated": (lambda state, path: path.write_bytes(path.read_bytes()[:-2000]), "damaged"),
    "a pickled list": (lambda state, path: torch.save([1, 2], path), "holds no SAM"),
    "other network": (lambda state, path: torch.save({"conv1.weight": torch.ones(1)}, path), "holds no SAM"),
    "key missing": (
        lambda state, path: torch.save(without(state, "mask_decoder.iou_token.weight"), path),
        "lacks 'mask_decoder.iou_token.weight'",
    ),
    "part missing": (
        lambda state, path: torch.save({k: v for k, v in state.items() if not k.startswith("mask_d")}, path),
        "known architecture",
    ),
    "key added": (
        lambda state, path: torch.save({**state, "image_encoder.blocks.0.attn.lora": torch.ones(1)}, path),
        "has unexpected 'image_encoder.blocks.0.attn.lora'",
    ),
    "shape": (
        lambda state, path: torch.save({**state, "image_encoder.pos_embed": torch.ones(1, 8, 9, 32)}, path),
        "has another shape for 'image_encoder.pos_embed'",
    ),
    "no number": (
        lambda state, path: torch.save({**state, "mask_decoder.iou_token.weight": "high"}, path),
        "other than numbers",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_whole_sam_is_refused_in_one_sentence(fault, network, tmp_path):
    path = tmp_path / "broken.pth"
    spoil, said = FAULTS[fault]
    if fault == "truncated":
        torch.save(network.state_dict(), path)
    spoil(network.state_dict(), path)
    with pytest.raises(HistomixError, match=said) as caught:
        SamPrompter(path, "cpu")
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize("write", ["pickle", "torch"])
def test_nothing_is_unpickled(write, tmp_path):
    touched, path = tmp_path / "touched", tmp_path / "bomb.pth"
    if write == "torch":
        torch.save({"model": Bomb(touched)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(touched), protocol=2))
    with pytest.raises(HistomixError, match="more than weights"):
        SamPrompter(path, "cpu")
    assert not touched.exists()


def test_lean_attention_is_attention_in_pieces(monkeypatch):
    monkeypatch.setattr(sam_network, "_QUERIES", 5)
    block = small_sam(whole=(1,)).image_encoder.blocks[1].attn
    tokens = torch.randn(2, 8, 8, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(sam_network.LeanAttention(block)(tokens), block(tokens), rtol=1e-4, atol=1e-4)
