from __future__ import annotations

import numpy as np
import pytest

from napari_histomix.records import HistomixError

torch = pytest.importorskip("torch")

from napari_histomix.features.torch_encoder import TorchEncoder  # noqa: E402


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
