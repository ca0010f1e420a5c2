"""What tests of diffusion models share."""

from __future__ import annotations

from napari_histomix.diffusion.models import InpaintingModel


def sees_surroundings(model: InpaintingModel) -> bool:
    """Whether the network is given the known pixels and the mask beside the sample."""
    return int(model.network.config["in_channels"]) == 2 * model.channels + 1
