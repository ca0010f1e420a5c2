"""Edge pix2pix: a generator that paints label images with structure edges, and the discriminator it learns against.

After Isola et al., *Image-to-Image Translation with Conditional Adversarial Networks* (CVPR 2017), and the edge labels
of *Generative synthetic augmentation using edge feature*. Where this differs from Isola's U-Net, and why:

- Channels are normalized at each pixel (root mean square), not over the image. Batch and instance norm take the
  statistics of a batch or a tile: at batch 1 the former is the latter, which erases flat labels and makes nothing of a
  bottleneck of one pixel; and a tile would be painted differently within a larger one. Here each pixel depends on its
  surroundings alone, so a tile of any size has no seams.
- Enlarging is nearest-neighbor followed by a 3×3 convolution. Transposed convolutions paint checkerboards where the
  kernel overlaps itself unevenly.
- The label image is seen again at full resolution, so that edges stay where they are.
- Randomness is a channel of noise, drawn from a seed on the CPU, in the place of dropout: a seed is a picture.
- The decoder follows a stain: mean and spread of the optical density of a reference (``stains.stain_of``). Labels say
  nothing of the color, and an L1 loss that must guess paints the mean of all laboratories.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pad, silu

from napari_histomix.generation.edges import FIXED

SIZES: dict[str, dict[str, int]] = {"small": {"width": 32, "depth": 5}, "paper": {"width": 64, "depth": 8}}
"""Width and depth of the networks: for two cores (3 million weights), and Isola's for 256²."""
STAIN_CENTER = (0.25, 0.25, 0.25, 0.12, 0.12, 0.12)
STAIN_SPREAD = (0.15, 0.15, 0.15, 0.06, 0.06, 0.06)
"""What a stain is centered and scaled by: about the mean and spread of those of H&E images."""


class Generator(ModelMixin, ConfigMixin):
    """Label image, noise and stain to a picture; any size, at its own resolution.

    Parameters
    ----------
    classes : sequence of str
        Names of the classes it knows, in the order of its input channels.
    width : int
        Channels of the first level; they double up to eight times as many.
    depth : int
        Number of halvings; sizes are padded by reflection to multiples of 2**depth.
    stains : sequence of six numbers each, optional
        Stains of real tissue, for pictures that follow no reference.
    """

    @register_to_config
    def __init__(
        self, classes: Sequence[str] = (), width: int = 32, depth: int = 5, stains: Sequence[Sequence[float]] = ()
    ) -> None:
        super().__init__()
        inputs = FIXED + len(classes)
        wide = [min(width << level, 8 * width) for level in range(depth)]
        self.down = nn.ModuleList(
            _conv(before, after, 4, 2) for before, after in zip([inputs + 1, *wide], wide, strict=False)
        )
        # Each level takes what comes from below beside what the encoder had at its own size.
        below = [2 * channels for channels in wide[:-1]] + [wide[-1]]
        self.up = nn.ModuleList(_conv(below[level + 1], wide[level], 3) for level in reversed(range(depth - 1)))
        self.stain = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 2 * (sum(wide[:-1]) + width)))
        self.full = _conv(below[0] + inputs + 1, width, 3)
        self.out = _conv(width, 3, 3)

    @property
    def grid(self) -> int:
        """Sides it is padded to are multiples of this."""
        return 1 << len(self.down)

    def forward(self, maps: Tensor, noise: Tensor, stains: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) in −1…1 of label maps (N, C, H, W), noise (N, 1, H, W) and stains (N, 6)."""
        height, width = maps.shape[2:]
        seen = _padded(torch.cat([maps, noise], 1), self.grid)
        center, spread = (stains.new_tensor(values) for values in (STAIN_CENTER, STAIN_SPREAD))
        # Gains and offsets of every level of the decoder.
        style = self.stain((stains - center) / spread)[..., None, None]
        x, skips = seen, []
        for level, conv in enumerate(self.down):
            # As Isola's, the first level is not normalized.
            x = leaky_relu(_normalized(conv(x)) if level else conv(x), 0.2)
            skips.append(x)
        skips.pop()
        for conv in self.up:
            x, style = _styled(conv(interpolate(x, scale_factor=2.0)), style)
            x = torch.cat([x, skips.pop()], 1)
        x, style = _styled(self.full(torch.cat([interpolate(x, scale_factor=2.0), seen], 1)), style)
        return torch.tanh(self.out(x))[..., :height, :width]


class PatchDiscriminator(nn.Module):
    """Isola's 70×70 discriminator: a logit for every overlapping patch of a picture beside its label image.

    Instance norm, which is what Isola's batch norm is at batch 1: real and painted pictures are never normalized
    together.
    """

    def __init__(self, inputs: int, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(inputs + 3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level, stride in ((0, 2), (1, 2), (2, 1)):
            channels = width << level
            layers += [nn.Conv2d(channels, 2 * channels, 4, stride, 1), nn.InstanceNorm2d(2 * channels, affine=True)]
            layers += [nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))

    def forward(self, maps: Tensor, pictures: Tensor) -> Tensor:
        """Logits (N, 1, h, w); high where a patch looks real."""
        return self.layers(torch.cat([maps, pictures], 1))


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    # Borders are repeated: zeros would tell the network where a crop ends, which no tissue knows.
    return nn.Conv2d(before, after, kernel, stride, 1, padding_mode="replicate")


def _normalized(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)


def _styled(x: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
    """A level of the decoder, with its share of the gains and offsets; and what is left of them for the next."""
    channels = x.shape[1]
    gain, offset, left = style[:, :channels], style[:, channels : 2 * channels], style[:, 2 * channels :]
    return silu(_normalized(x) * (1 + gain) + offset), left


def _padded(x: Tensor, grid: int) -> Tensor:
    """Padded below and right to multiples of a grid, by reflection as far as that goes."""
    for axis in (2, 3):
        while missing := -x.shape[axis] % grid:
            step = min(missing, max(x.shape[axis] - 1, 1))
            sides = (0, 0, 0, step) if axis == 2 else (0, step, 0, 0)
            x = pad(x, sides, "reflect" if x.shape[axis] > 1 else "replicate")
    return x


def new_generator(classes: Sequence[str], size: str = "small", **changes: Any) -> Generator:
    """An untrained generator of a size of ``SIZES``."""
    return Generator(list(classes), **SIZES[size] | changes)
