from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from napari_histomix.diffusion.adm import SCHEDULE, convert_adm, load_adm
from napari_histomix.records import HistomixError

HEAD = 8


class Residual(nn.Module):
    def __init__(self, inner: int, outer: int, time: int, scaled: bool, resize: nn.Module | None = None) -> None:
        super().__init__()
        self.scaled, self.resize = scaled, resize or nn.Identity()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, inner), nn.SiLU(), nn.Conv2d(inner, outer, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, outer * (2 if scaled else 1)))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outer), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(outer, outer, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        norm, active, conv = self.in_layers
        inside = conv(self.resize(active(norm(x))))
        entering = self.emb_layers(time)[..., None, None]
        norm, *rest = self.out_layers
        if self.scaled:
            scale, shift = entering.chunk(2, dim=1)
            inside = norm(inside) * (1 + scale) + shift
        else:
            inside = norm(inside + entering)
        return self.skip_connection(self.resize(x)) + nn.Sequential(*rest)(inside)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.GroupNorm(32, width), nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        line = x.flatten(2)
        heads = self.qkv(self.norm(line)).unflatten(1, (-1, 3, HEAD))
        query, key, value = heads.unbind(2)
        weight = torch.softmax(query.transpose(-1, -2) @ key / math.sqrt(HEAD), dim=-1)
        return x + self.proj_out((value @ weight.transpose(-1, -2)).flatten(1, 2)).view_as(x)


class Halving(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.op(x)


class Doubling(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv(x.repeat_interleave(2, -1).repeat_interleave(2, -2))


class Reference(nn.Module):
    """The network as guided-diffusion names and computes it; every weight is random, none is zero."""

    def __init__(self, widths: tuple[int, ...], blocks: int, attended: set[int], outputs: int, modern: bool) -> None:
        super().__init__()
        base, time, levels = widths[0], 4 * widths[0], range(len(widths))
        self.time_embed = nn.Sequential(nn.Linear(base, time), nn.SiLU(), nn.Linear(time, time))
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, base, 3, padding=1)])])
        width, skips = base, [base]
        for level in levels:
            for _ in range(blocks):
                attention = [Attention(widths[level])] if level in attended else []
                self.input_blocks.append(nn.ModuleList([Residual(width, widths[level], time, modern), *attention]))
                width = widths[level]
                skips.append(width)
            if level != levels[-1]:
                smaller = Residual(width, width, time, modern, nn.AvgPool2d(2)) if modern else Halving(width)
                self.input_blocks.append(nn.ModuleList([smaller]))
                skips.append(width)
        self.middle_block = nn.ModuleList(
            [Residual(width, width, time, modern), Attention(width), Residual(width, width, time, modern)]
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(levels):
            for block in range(blocks + 1):
                layers: list[nn.Module] = [Residual(width + skips.pop(), widths[level], time, modern)]
                width = widths[level]
                if level in attended:
                    layers.append(Attention(width))
                if level and block == blocks:
                    bigger = nn.UpsamplingNearest2d(scale_factor=2)
                    layers.append(Residual(width, width, time, modern, bigger) if modern else Doubling(width))
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(nn.GroupNorm(32, base), nn.SiLU(), nn.Conv2d(base, outputs, 3, padding=1))
        generator = torch.Generator().manual_seed(5)
        for name, weight in self.named_parameters():
            spread = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3
            middle = float(weight.ndim == 1 and name.endswith("weight"))
            weight.data = middle + spread * torch.randn(weight.shape, generator=generator)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        half = self.time_embed[0].in_features // 2
        angles = steps[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype))
        skips = []
        for number, block in enumerate(self.input_blocks):
            for layer in block:
                x = layer(x, time) if number else layer(x)
            skips.append(x)
        for layer in self.middle_block:
            x = layer(x, time)
        for block in self.output_blocks:
            x = torch.cat([x, skips.pop()], dim=1)
            for layer in block:
                x = layer(x, time)
        return self.out(x)


MODERN = ((32, 32, 64), 2, {1, 2}, 6, True)
PLAIN = ((32, 64), 1, {0}, 3, False)


def weights(reference: Reference | None = None) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in (reference or Reference(*PLAIN)).state_dict().items()}


@torch.no_grad()
def outputs(network: nn.Module, precision: torch.dtype) -> Tensor:
    windows = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(precision)
    # Not diffusers' own cast, which speaks of layers that this network does not have.
    found = nn.Module.to(network, precision)(windows, torch.tensor([3, 870]))
    return found if isinstance(found, Tensor) else found.sample


def refused(state: dict[str, Tensor], **options: int) -> str:
    with pytest.raises(HistomixError) as error:
        convert_adm(state, **{"head_channels": HEAD} | options)
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < 400 and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize("layout", [MODERN, PLAIN, ((32,), 2, {0}, 3, True)], ids=["modern", "plain", "one level"])
def test_the_converted_network_computes_the_same(layout):
    reference = Reference(*layout)
    network = convert_adm(weights(reference), head_channels=HEAD, image_size=16)
    assert not network.training
    assert network.config["sample_size"] == 16
    assert network.config["out_channels"] == layout[3]
    torch.testing.assert_close(outputs(network, torch.float32), outputs(reference, torch.float32), rtol=1e-5, atol=1e-5)
    # In double precision rounding is out of the way: another epsilon in a norm would show.
    torch.testing.assert_close(
        outputs(network, torch.float64), outputs(reference, torch.float64), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("layout", [MODERN, PLAIN], ids=["modern", "plain"])
@pytest.mark.parametrize("slip", ["heads", "query, key, value", "scale and shift", "cosine and sine"])
def test_every_order_matters(layout, slip):
    reference = Reference(*layout)
    state = weights(reference)
    for key, tensor in state.items():
        if slip == "heads" and ".qkv." in key:
            state[key] = tensor.unflatten(0, (-1, 3, HEAD)).transpose(0, 1).reshape(tensor.shape)
        if slip == "query, key, value" and ".qkv." in key:
            state[key] = tensor.unflatten(0, (-1, 3, HEAD)).flip(1).reshape(tensor.shape)
        if slip == "scale and shift" and ".emb_layers." in key:
            state[key] = tensor.roll(len(tensor) // 2, 0)
        if slip == "cosine and sine" and key == "time_embed.0.weight":
            state[key] = tensor.roll(tensor.shape[1] // 2, 1)
    network = convert_adm(state, head_channels=HEAD)
    assert (outputs(network, torch.float32) - outputs(reference, torch.float32)).abs().max() > 1e-3


def test_other_heads_are_another_network():
    reference = Reference(*PLAIN)
    network = convert_adm(weights(reference), head_channels=2 * HEAD)
    assert (outputs(network, torch.float32) - outputs(reference, torch.float32)).abs().max() > 1e-3


def test_half_precision_becomes_single():
    network = convert_adm({key: tensor.half() for key, tensor in weights().items()}, head_channels=HEAD)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}


def test_a_converted_network_can_be_trained_and_saved(tmp_path):
    # safetensors refuses tensors that share memory or are not contiguous.
    last = torch.channels_last
    state = {k: t.contiguous(memory_format=last) if t.ndim == 4 else t for k, t in weights().items()}
    network = convert_adm(state, head_channels=32)
    assert all(weight.requires_grad for weight in network.parameters())
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    again = UNet2DModel.from_config(network.config)
    again.load_state_dict(load_file(tmp_path / "network.safetensors"))
    assert torch.equal(outputs(again.eval(), torch.float32), outputs(network, torch.float32))


def test_the_schedule_is_the_linear_one():
    betas = np.linspace(0.0001, 0.02, 1000)
    scheduler = DDPMScheduler.from_config(SCHEDULE)
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), np.cumprod(1 - betas), rtol=1e-4)
    assert scheduler.config["prediction_type"] == "epsilon"


def test_names_tell_the_kind(small_network):
    assert isinstance(convert_adm(weights(), head_channels=HEAD), UNet2DModel)
    sentence = refused(dict(small_network().state_dict()))
    assert "'input_blocks.0.0.weight'" in sentence and "and 2 more" in sentence
    assert "These are not weights of guided-diffusion's UNetModel" in sentence and sentence in refused({})


@pytest.mark.parametrize(
    "key",
    [
        "time_embed.2.bias",
        "input_blocks.1.0.out_layers.3.weight",
        "input_blocks.1.1.qkv.weight",
        "input_blocks.2.0.op.bias",
        "middle_block.1.norm.weight",
        "output_blocks.1.1.conv.weight",
        "output_blocks.3.0.skip_connection.weight",
        "out.2.weight",
    ],
)
def test_a_missing_weight_is_named(key):
    state = weights()
    del state[key]
    sentence = refused(state)
    assert "lack" in sentence and f"'{key}'" in sentence


def test_many_missing_weights_are_counted():
    state = {key: tensor for key, tensor in weights().items() if not key.startswith("middle_block.2.")}
    sentence = refused(state)
    assert "'middle_block.2.emb_layers.1.bias'" in sentence and "and 7 more" in sentence


@pytest.mark.parametrize("key", ["input_blocks.3.0.skip_connection.bias.more", "output_blocks.0.1.qkv.weight", "ema"])
def test_an_unexpected_weight_is_named(key):
    assert f"unexpected '{key}'" in refused(weights() | {key: torch.zeros(3)})


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("middle_block.1.qkv.weight", (192, 64, 1, 1)),
        ("middle_block.1.proj_out.weight", (64, 64)),
        ("middle_block.0.in_layers.2.weight", (64, 64, 1, 1)),
        ("time_embed.0.weight", (128, 64)),
        ("out.2.weight", ()),
    ],
)
def test_a_weight_of_another_shape_is_named(key, shape):
    assert f"another shape for '{key}'" in refused(weights() | {key: torch.zeros(shape)})


def test_class_labels_are_refused():
    assert "label_emb.weight" in refused(weights() | {"label_emb.weight": torch.zeros(10, 128)})


def test_heads_that_do_not_fit_are_refused():
    for wrong in (0, -8, 24, 128):
        assert f"heads of {wrong}" in refused(weights(), head_channels=wrong)


def test_other_architectures_are_refused():
    assert "multiples of 32" in refused(weights() | {"input_blocks.1.0.out_layers.3.weight": torch.zeros(48, 48, 3, 3)})
    wide = torch.zeros(32, 6, 3, 3)
    assert "this one 6 and 3" in refused(weights() | {"input_blocks.0.0.weight": wide})
    assert "'output_blocks'" in refused(weights() | {"output_blocks.4.0.in_layers.0.weight": torch.zeros(32)})


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_checkpoint_file_is_loaded(tmp_path, suffix):
    reference = Reference(*PLAIN)
    file = tmp_path / f"ema{suffix}"
    if suffix == ".pt":
        torch.save(reference.state_dict(), file)
    else:
        save_file(weights(reference), file)
    network = load_adm(file, head_channels=HEAD)
    torch.testing.assert_close(outputs(network, torch.float32), outputs(reference, torch.float32), rtol=1e-5, atol=1e-5)


def test_what_is_wrong_inside_a_file_is_said_with_its_name(tmp_path):
    torch.save(weights() | {"ema": torch.zeros(1)}, tmp_path / "mine.pt")
    with pytest.raises(HistomixError, match=r"mine\.pt: .*'ema'"):
        load_adm(tmp_path / "mine.pt", head_channels=HEAD)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_or_absent_file_is_refused(tmp_path, suffix):
    file = tmp_path / f"ema{suffix}"
    with pytest.raises(HistomixError, match="no weights file"):
        load_adm(file)
    torch.save(weights(), file) if suffix == ".pt" else save_file(weights(), file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(HistomixError, match="damaged"):
        load_adm(file)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("trapped").touch, ())

    for name, write in (
        ("zip.pt", torch.save),
        ("bare.pt", lambda what, file: file.write_bytes(pickle.dumps(what, 2))),
    ):
        write({"input_blocks.0.0.weight": Trap()}, tmp_path / name)
        with pytest.raises(HistomixError, match="more than weights"):
            load_adm(tmp_path / name)
    assert not (tmp_path / "trapped").exists()
