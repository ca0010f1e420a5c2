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
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pad, silu

from napari_histomix.devices import choose_device, memory_error
from napari_histomix.generation.edges import FIXED, canny_edges, label_maps
from napari_histomix.generation.inputs import (
    check_each,
    check_kind,
    check_pixels,
    check_seed,
    checked_mask,
    checked_stain,
)
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.models import GeneratorModel, class_of, remarks
from napari_histomix.records import Event, HistomixError, Job, instance_ids
from napari_histomix.sampling import item_seed
from napari_histomix.scales import resized
from napari_histomix.stains import stain_of, with_stain

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
        # At full resolution channels are dear: half as many do.
        full = width // 2
        self.narrow = nn.Conv2d(below[0], full, 1)
        self.full = _conv(full + inputs + 1, full, 3)
        self.out = _conv(full, 3, 3)
        self.stain = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 2 * (sum(wide[:-1]) + full)))

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
        x = torch.cat([interpolate(self.narrow(x), scale_factor=2.0), seen], 1)
        x, _ = _styled(self.full(x), style)
        return torch.tanh(self.out(x))[..., :height, :width]


class PatchDiscriminator(nn.Module):
    """Isola's 70×70 discriminator: a logit for every overlapping patch of a picture beside its label image.

    Instance norm, which is what Isola's batch norm is at batch 1: real and painted pictures are never normalized
    together.
    """

    def __init__(self, inputs: int, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(nn.Conv2d(inputs + 3, width, 4, 2, 1), nn.LeakyReLU(0.2))]
        for level, stride in ((0, 2), (1, 2), (2, 1)):
            channels = width << level
            conv, norm = nn.Conv2d(channels, 2 * channels, 4, stride, 1), nn.InstanceNorm2d(2 * channels, affine=True)
            layers.append(nn.Sequential(conv, norm, nn.LeakyReLU(0.2)))
        self.layers = nn.ModuleList([*layers, nn.Conv2d(8 * width, 1, 4, 1, 1)])

    def forward(self, maps: Tensor, pictures: Tensor) -> list[Tensor]:
        """What each layer makes of them; the last are logits (N, 1, h, w), high where a patch looks real."""
        made = [torch.cat([maps, pictures], 1)]
        for layer in self.layers:
            made.append(layer(made[-1]))
        return made[1:]


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


TILE = 768
"""Largest side that is painted at once; of larger pictures the tiles come out the same, but for rounding."""


def render(
    layouts: Sequence[Layout],
    model: GeneratorModel,
    *,
    references: Sequence[NDArray[np.uint8] | None] | None = None,
    hidden: Sequence[NDArray[np.bool_] | None] | None = None,
    stains: Sequence[NDArray[np.float32] | None] | None = None,
    seeds: Sequence[int] | None = None,
    device: str = "auto",
) -> Job[list[NDArray[np.uint8]]]:
    """Paint layouts; a long job (see ``records.Job``). A picture depends on its own layout and seed alone.

    Parameters
    ----------
    layouts : sequence of Layout
        Of any size and scale; those of another scale than the model's are resampled to it, and the pictures back.
    model : GeneratorModel
        Of the kind "pix2pix".
    references : sequence of (H, W, 3) uint8 or None, optional
        For each layout the real tissue that its nuclei lie in, moved as they were: its edges are followed, and its
        stain. Without one, all edges are the generator's own.
    hidden : sequence of (H, W) bool or None, optional
        Where a reference's edges are not followed, because the labels were edited.
    stains : sequence of (6,) float32 or None, optional
        Stains to follow (``stains.stain_of``) in place of the references'; without either, one that the model knows.
        The generator is told of it, and what it misses is put right in the finished picture (``stains.with_stain``).
    seeds : sequence of int, optional
        From 0, where they are not given.
    device : str
        auto, cpu, cuda or mps.

    Yields
    ------
    Event
        With each finished picture as its preview.

    Returns
    -------
    list of (H, W, 3) uint8

    Raises
    ------
    HistomixError
        If a reference or a mask is not of its layout's size, or memory runs out.
    """
    check_kind(model, "pix2pix")
    check_each(len(layouts), references=references, masks=hidden, stains=stains, seeds=seeds)
    nothing = [None] * len(layouts)
    given = list(
        zip(
            layouts,
            references or nothing,
            hidden or nothing,
            stains or nothing,
            range(len(layouts)) if seeds is None else seeds,
            strict=True,
        )
    )
    for layout, reference, _, stain, seed in given:
        check_seed(seed)
        if stain is not None:
            checked_stain(stain)
        if reference is not None:
            check_pixels(reference, "reference")
            checked_mask(reference[..., 0], layout.shape, "reference")
    place = choose_device(device)
    network = model.network.to(place, memory_format=torch.channels_last)
    pictures: list[NDArray[np.uint8]] = []
    for message in remarks(layouts, model):
        yield Event("Painting", 0, len(layouts), message=message)
    for layout, reference, redrawn, stain, seed in given:
        yield Event("Painting", len(pictures), len(layouts))
        scaled = layout.at_scale(model.mpp)
        names = {number: class_of(name, model.classes) for number, name in scaled.classes.items()}
        scaled = replace(scaled, classes=names)
        edges = None
        if reference is not None:
            edges = canny_edges(resized(reference, scaled.shape))
            stain = stain_of(reference) if stain is None else stain
        if redrawn is not None:
            redrawn = checked_mask(redrawn, layout.shape, "mask")
            redrawn = resized(redrawn.astype(np.uint8), scaled.shape) > 0
        stain = _known_stain(network, seed) if stain is None else checked_stain(stain)
        maps = label_maps(scaled, model.classes, edges, redrawn)
        with memory_error("There is no memory left to paint; paint smaller layouts, or on another device."):
            made = yield from _painted(network, maps, stain, seed, place)
        pictures.append(with_stain(resized(made, layout.shape), stain))
        yield Event("Painting", len(pictures), len(layouts), preview=pictures[-1])
    return pictures


def _known_stain(network: Generator, seed: int) -> NDArray[np.float32]:
    known = network.config["stains"] or [STAIN_CENTER]
    return np.asarray(known[item_seed(seed, 0) % len(known)], np.float32)


def _painted(
    network: Generator, maps: NDArray[np.float32], stain: NDArray[np.float32], seed: int, place: torch.device
) -> Job[NDArray[np.uint8]]:
    """A picture (H, W, 3) of maps (C, H, W), in tiles where it is large."""
    height, width = maps.shape[1:]
    noise = torch.randn((1, height, width), generator=torch.Generator().manual_seed(seed))
    seen, style = torch.cat([torch.from_numpy(maps), noise]), torch.from_numpy(stain)[None].to(place)
    # What lies further away than this does not reach a pixel.
    margin = 4 * network.grid
    core = max(TILE - 2 * margin, 2 * margin)
    picture = np.empty((height, width, 3), np.uint8)
    whole = max(height, width) <= core + 2 * margin
    tops, lefts = (range(0, side, side if whole else core) for side in (height, width))
    for number, (top, left) in enumerate((top, left) for top in tops for left in lefts):
        bottom, right = (height, width) if whole else (min(top + core, height), min(left + core, width))
        # Tiles begin on the network's grid, so that they see what the whole picture would.
        rows, cols = slice(max(top - margin, 0), bottom + margin), slice(max(left - margin, 0), right + margin)
        tile = seen[:, rows, cols][None].to(place).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            made = network(tile[:, :-1], tile[:, -1:], style)[0].permute(1, 2, 0).cpu().numpy()
        inner = made[top - rows.start : bottom - rows.start, left - cols.start : right - cols.start]
        picture[top:bottom, left:right] = np.clip(np.rint((inner + 1) * 127.5), 0, 255).astype(np.uint8)
        if not whole:
            yield Event("Painting", number + 1, len(tops) * len(lefts))
    return picture


def repaint(
    pixels: NDArray[np.uint8],
    layout: Layout,
    edit: NDArray[np.bool_],
    model: GeneratorModel,
    seed: int = 0,
    device: str = "auto",
) -> Job[NDArray[np.uint8]]:
    """What if these were the labels: paint an edit into a real image; a long job.

    Edges inside the edit are redrawn, those outside are followed; outside the edit all pixels stay as they are. What is
    painted is fitted to the tissue around it: the difference between painted and real pixels just outside the edit is
    carried on into it, and taken off.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        The real image.
    layout : Layout
        Its labels as edited.
    edit : (H, W) bool
        Where labels were edited, and a little more where membranes are to be new.
    model : GeneratorModel
    seed : int
    device : str

    Returns
    -------
    (H, W, 3) uint8

    Raises
    ------
    HistomixError
        If pixels are no RGB image, or labels or edit not of their size.
    """
    check_pixels(pixels, "image")
    if layout.shape != pixels.shape[:2]:
        raise HistomixError("The edit and the labels must have the image's size.")
    edit = checked_mask(edit, layout.shape, "edit")
    if not edit.any():
        return pixels.copy()
    rows, cols = (np.flatnonzero(edit.any(axis=axis)) for axis in (1, 0))
    reach = round(128 * model.mpp / layout.mpp)
    window = tuple(slice(max(side[0] - reach, 0), side[-1] + 1 + reach) for side in (rows, cols))
    real, redrawn, part = pixels[window], edit[window], layout.instances[window]
    present = {number: layout.classes[number] for number in instance_ids(part)}
    near = Layout(np.ascontiguousarray(part), present, layout.mpp, layout.source)
    (painted,) = yield from render(
        [near], model, references=[real], hidden=[redrawn], seeds=[seed], stains=[stain_of(real)], device=device
    )
    fitted = painted + _carried_on(real.astype(np.float32) - painted, redrawn)
    made = pixels.copy()
    made[window][redrawn] = np.clip(np.rint(fitted), 0, 255).astype(np.uint8)[redrawn]
    return made


def _carried_on(difference: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A difference (H, W, 3) that is known outside a region, smoothly carried on into it, and smoothed on the way."""
    weight = (~inside).astype(np.float32)
    filled = np.zeros_like(difference)
    covered = np.zeros(inside.shape, np.float32)
    # From near to far: where a small neighborhood holds enough that is known, it decides.
    for sigma in (3.0, 6.0, 12.0, 24.0, 48.0):
        known = cv2.GaussianBlur(weight, (0, 0), sigma)
        mean = cv2.GaussianBlur(difference * weight[..., None], (0, 0), sigma) / np.maximum(known, 1e-6)[..., None]
        share = np.clip(known / 0.2, 0, 1) * (1 - covered)
        filled += share[..., None] * mean
        covered += share
    return np.asarray(filled / np.maximum(covered, 1e-6)[..., None], np.float32)


def new_generator(classes: Sequence[str], size: str = "small", **changes: Any) -> Generator:
    """An untrained generator of a size of ``SIZES``."""
    return Generator(list(classes), **SIZES[size] | changes)
