"""The nuclei segmenter: image to nuclei structure and classes.

A U-Net with the outputs of HoVer-Net (Graham et al., "HoVer-Net: Simultaneous segmentation and classification of nuclei
in multi-tissue histology images", Medical Image Analysis 58, 2019): where nuclei are, how far each pixel lies from the
center of its nucleus, and of what class that nucleus is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import timm
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import interpolate

SIZES: Mapping[str, Mapping[str, Any]] = {
    # Basic blocks at 2, 4, 8 and 16 pixels; the narrow full resolution is what makes it fast.
    "small": {
        "encoder": "resnet18",
        "encoder_options": {
            "layers": [2, 2, 2],
            "channels": [48, 80, 128],
            "stem_type": "deep",
            "stem_width": 20,
            "out_indices": [0, 1, 2, 3],
        },
        "widths": [80, 64, 32],
        "detail": 16,
    },
    "full": {"encoder": "resnet34", "encoder_options": {}, "widths": [256, 192, 128, 96], "detail": 48},
}
"""``SegmenterNetwork``'s arguments: about a million weights for two processor cores, and a large one for a GPU."""


class SegmenterOutput(NamedTuple):
    """What the network says of every pixel, each (N, channels, H, W)."""

    semantic: Tensor
    """Logit of being in a nucleus, 1 channel."""
    offsets: Tensor
    """Horizontal and vertical maps, 2 channels."""
    classes: Tensor
    """Logits of the nucleus's class, a channel each."""


class SegmenterNetwork(ModelMixin, ConfigMixin):
    """An encoder of timm, a decoder to full resolution, and three heads.

    Parameters
    ----------
    encoder : str
        Name of a timm model that gives features; it starts from random weights.
    encoder_options : mapping
        Further arguments of ``timm.create_model``.
    widths : sequence of int
        Channels of the decoder, from the coarsest features but one to the finest; the rest of the way keeps the last.
    detail : int
        Channels at full resolution.
    classes : sequence of str
        Names of the nucleus classes.
    """

    @register_to_config
    def __init__(
        self,
        encoder: str = "resnet18",
        encoder_options: Mapping[str, Any] | None = None,
        widths: Sequence[int] = (80, 64, 32),
        detail: int = 16,
        classes: Sequence[str] = ("lymphocyte", "tumor", "stromal"),
    ) -> None:
        super().__init__()
        backbone: Any = timm.create_model(encoder, pretrained=False, features_only=True, **dict(encoder_options or {}))
        self.backbone, channels = backbone, list(backbone.feature_info.channels())
        self.reductions = list(backbone.feature_info.reduction())
        width, self.ups = channels[-1], nn.ModuleList()
        for skip, after in zip(reversed(channels[:-1]), widths, strict=True):
            self.ups.append(_block(width + skip, after))
            width = after
        self.refine = _block(width, width)
        self.fine = _block(3, detail)
        self.squeeze = _block(width, detail, kernel=1)
        self.fuse = _block(2 * detail, detail)
        self.structure_head = nn.Conv2d(detail, 3, 1)
        # A class is of a whole nucleus: the finest features of the encoder are fine enough.
        self.class_head = nn.Sequential(_block(width, width), nn.Conv2d(width, len(classes), 1))

    @property
    def grid(self) -> int:
        """Sides of its input are multiples of this."""
        return max(self.reductions)

    def forward(self, images: Tensor) -> SegmenterOutput:
        """Structure and classes of RGB images (N, 3, H, W) in [−1, 1], sides multiples of ``grid``."""
        *skips, deep = self.backbone(images)
        for skip, up in zip(reversed(skips), self.ups, strict=True):
            deep = up(torch.cat([interpolate(deep, size=skip.shape[2:]), skip], dim=1))
        deep = self.refine(deep)
        size = images.shape[2:]
        wide = interpolate(self.squeeze(deep), size=size, mode="bilinear", align_corners=False)
        structure = self.structure_head(self.fuse(torch.cat([wide, self.fine(images)], dim=1)))
        classes = interpolate(self.class_head(deep), size=size, mode="bilinear", align_corners=False)
        return SegmenterOutput(structure[:, :1], structure[:, 1:], classes)


def new_segmenter(size: str, classes: Sequence[str]) -> SegmenterNetwork:
    """An untrained network of one of ``SIZES``."""
    return SegmenterNetwork(**SIZES[size], classes=list(classes))


def _block(before: int, after: int, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))
