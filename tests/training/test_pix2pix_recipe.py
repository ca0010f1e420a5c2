"""How edge pix2pix learns: each network moves its own weights, nobody judges what is unknown, a run ends in a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_histomix.datasets import open_any
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.generation.models import load_generator
from napari_histomix.generation.pix2pix import SIZES, Generator, PatchDiscriminator
from napari_histomix.records import HistomixError, drain
from napari_histomix.training.loop import train
from napari_histomix.training.pix2pix import Pix2Pix, hidden_edges, texture_distance
from napari_histomix.training.settings import Pix2PixSettings


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(SIZES, "small", {"width": 4, "depth": 3})


def networks(**weights: float) -> Pix2Pix:
    torch.manual_seed(0)
    return Pix2Pix(Generator(["a"], 4, 3), PatchDiscriminator(5, 4), **weights)


def batch() -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(1)
    pictures, maps = (torch.rand((2, channels, 64, 64), generator=made) for channels in (3, 5))
    return [2 * pictures - 1, maps.round(), torch.rand((2, 6), generator=made), torch.ones(2, 1, 64, 64)]


NOISE = torch.randn((2, 1, 64, 64), generator=torch.Generator().manual_seed(2))


def gradients(network: torch.nn.Module) -> list[torch.Tensor]:
    return [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]


class TestLoss:
    def test_the_discriminator_is_not_moved_by_what_the_generator_wants(self):
        with_all, alone = networks(l1=100.0, matching=10.0), networks(l1=100.0, matching=10.0)
        with_all(*batch(), NOISE).backward()
        # Its own loss alone, as it is written in Isola's paper.
        pictures, maps, stains, _ = batch()
        made = alone.generator(maps, NOISE, stains).detach()
        verdicts = [alone.discriminator(maps, shown)[-1] for shown in (pictures, made)]
        softplus = torch.nn.functional.softplus
        (0.5 * (softplus(-verdicts[0]).mean() + softplus(verdicts[1]).mean())).backward()
        for ours, wanted in zip(gradients(with_all.discriminator), gradients(alone.discriminator), strict=True):
            assert torch.allclose(ours, wanted, atol=1e-6)

    def test_where_labels_are_unknown_nothing_moves_the_generator(self):
        network = networks(matching=10.0)
        pictures, maps, stains, counted = batch()
        network(pictures, maps, stains, 0 * counted, NOISE).backward()
        assert all(not gradient.any() for gradient in gradients(network.generator))

    def test_hidden_edges_leave_the_texture_to_the_discriminator(self):
        pictures, maps, stains, counted = batch()
        losses = []
        for hidden in (0.0, 1.0):
            maps[:, -1] = hidden
            network = networks(l1=100.0)
            losses.append(float(network(pictures, maps, stains, counted, NOISE).detach()))
        assert losses[1] < 0.35 * losses[0]


class TestTexture:
    def test_blur_and_checkerboards_are_far_and_another_piece_of_the_same_is_near(self):
        rng = np.random.default_rng(0)
        field = torch.from_numpy(rng.normal(0, 0.3, (4, 3, 64, 64)).astype(np.float32))
        other = torch.from_numpy(rng.normal(0, 0.3, (4, 3, 64, 64)).astype(np.float32))
        blurred = torch.nn.functional.avg_pool2d(other, 5, 1, 2)
        checkered = other + 1.5 * (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).sub(0.5)
        near = texture_distance(other, field)
        assert near < 0.2 * min(texture_distance(blurred, field), texture_distance(checkered, field))


@pytest.fixture(scope="module")
def dataset(labeled_image, dataset_folder, tmp_path_factory):
    images = [labeled_image(20, seed=seed, name=f"image_{seed}", patient=f"p{seed}") for seed in range(3)]
    return open_any(dataset_folder(tmp_path_factory.mktemp("pix2pix") / "nuclei", images))


SETTINGS = {"window": 48, "batch": 2, "window_mpp": 0.25, "save_minutes": 60.0}


class TestRuns:
    def test_a_run_ends_in_a_model_that_says_what_it_learned_from(self, dataset, tmp_path):
        settings = Pix2PixSettings(steps=3, **SETTINGS)
        job = train("pix2pix", [dataset], tmp_path / "model", settings=settings, mpp=(0.25, 0.25), device="cpu")
        events = list(job)
        assert events[-1].preview is not None and events[-1].preview.shape[1] == 4 * 48
        model = load_generator(tmp_path / "model", "pix2pix")
        assert model.classes == ("common", "rare")
        learned = {pixels_sha256(dataset.read(entry).pixels) for entry in dataset.entries}
        assert set(model.card["training_pixels"]) < learned and len(model.card["training_pixels"]) == 2
        assert len(model.network.config["stains"][0]) == 6
        assert all("discriminator" not in name for name in model.network.state_dict())

    def test_a_run_starts_from_a_model_of_other_classes(self, dataset, tmp_path, small_pix2pix_folder):
        settings = Pix2PixSettings(steps=1, **SETTINGS)
        job = train(
            "pix2pix", [dataset], tmp_path / "model", settings=settings, start=small_pix2pix_folder, device="cpu"
        )
        drain(job)
        begun, made = (load_generator(path, "pix2pix") for path in (small_pix2pix_folder, tmp_path / "model"))
        first, second = (model.network.state_dict()["up.0.weight"] for model in (begun, made))
        assert torch.allclose(first, second, atol=1e-2) and made.mpp == 0.25

    def test_windows_that_are_too_small_are_refused(self, dataset, tmp_path):
        settings = Pix2PixSettings(steps=1, window=32)
        with pytest.raises(HistomixError, match="at least 48 pixels"):
            drain(train("pix2pix", [dataset], tmp_path / "model", settings=settings, mpp=(0.5, 0.5), device="cpu"))


def test_edges_are_hidden_nowhere_everywhere_and_in_places(dataset):
    from napari_histomix.generation.layout import Layout
    from napari_histomix.training.labeled_windows import LabeledWindow

    image = dataset.read(dataset.entries[0])
    layout = Layout.of(image, dataset.all_classes)
    window = LabeledWindow(image.pixels, layout, np.zeros(layout.shape, bool), np.zeros(6, np.float32))
    rng = np.random.default_rng(0)
    drawn = [hidden_edges(window, Pix2PixSettings(), rng) for _ in range(60)]
    shares = np.array([0.0 if hidden is None else hidden.mean() for hidden in drawn])
    assert 8 < (shares == 0).sum() < 30 and 8 < (shares == 1).sum() < 30
    assert ((shares > 0) & (shares < 0.9)).sum() > 10
