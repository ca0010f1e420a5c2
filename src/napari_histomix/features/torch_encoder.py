"""What encoders that are torch networks share: normalization, batches, the device."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from napari_histomix.features.context import check_patches
from napari_histomix.records import HistomixError


class TorchEncoder:
    """Runs a network over patches in batches.

    Parameters
    ----------
    network : torch.nn.Module
        Takes (n, 3, side, side) float32, gives (n, dim). Set to evaluation and moved to the device.
    name : str
        Identity for provenance.
    mean, std : sequences of 3 floats
        Normalization of RGB in 0–1.
    side : int
        Input size of the network in pixels; patches are resized to it.
    device : str
        Torch device.
    batch : int
        Patches per forward pass. Halved, with a warning, when the device's memory does not suffice.

    Raises
    ------
    HistomixError
        If the device cannot be used, or the network does not give one vector per patch.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        name: str,
        mean: Sequence[float],
        std: Sequence[float],
        side: int = 224,
        device: str = "cpu",
        batch: int = 32,
    ) -> None:
        try:
            self._device = torch.device(device)
            self._network = network.eval().to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise HistomixError(f"The device '{device}' cannot be used here; choose cpu.") from error
        self._mean = torch.tensor(mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=self._device).view(1, 3, 1, 1)
        self._side = side
        self._batch = batch
        self.name = name
        probe = self._forward(np.zeros((1, side, side, 3), np.uint8))
        if probe.ndim != 2:
            raise HistomixError(
                f"{name} gives an output of shape {probe.shape} per patch; choose a network that pools."
            )
        self.dim = probe.shape[1]

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode patches.

        Parameters
        ----------
        patches : (N, S, S, 3) uint8
            RGB.

        Returns
        -------
        (N, dim) float32

        Raises
        ------
        ValueError
            If the patches have another shape or dtype.
        torch.cuda.OutOfMemoryError
            If the device cannot hold even one patch.
        """
        check_patches(patches)
        features = np.empty((len(patches), self.dim), np.float32)
        start = 0
        while start < len(patches):
            stop = min(start + self._batch, len(patches))
            try:
                features[start:stop] = self._forward(patches[start:stop])
            except torch.cuda.OutOfMemoryError:
                if self._batch == 1:
                    raise
                self._batch //= 2
                warnings.warn(
                    f"Out of memory on {self._device}: going on with {self._batch} patches at a time.", stacklevel=2
                )
            else:
                start = stop
        return features

    @torch.inference_mode()
    def _forward(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.ascontiguousarray(patches)).to(self._device).permute(0, 3, 1, 2).float() / 255
        if pixels.shape[-1] != self._side:
            pixels = interpolate(pixels, (self._side, self._side), mode="bicubic", antialias=True).clamp(0, 1)
        features: NDArray[np.float32] = self._network((pixels - self._mean) / self._std).float().cpu().numpy()
        return features
