"""Classic augmentation: flips, turns, blur, noise and color, by torchvision's transforms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.methods.deriving import Derived, Deriving
from napari_histomix.methods.pasting import CountSettings
from napari_histomix.methods.record import Record
from napari_histomix.records import DONOR, INPAINTED, LabeledImage
from napari_histomix.settings import Option

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class ClassicSettings(CountSettings):
    """How far an image may be altered; each strength is the most that is drawn."""

    flips: Annotated[bool, Option("Mirror half of the images, along either axis.")] = True
    quarter_turns: Annotated[bool, Option("Turn images by quarters, those that are not square by halves.")] = True
    rotation: Annotated[
        float, Option("Further rotation; corners that it bares are filled.", low=0.0, high=180.0, unit="°")
    ] = 10.0
    blur: Annotated[float, Option("Sigma of a Gaussian blur.", low=0.0, high=20.0, unit="px")] = 1.0
    noise: Annotated[float, Option("Sigma of Gaussian noise, where white is 1.", low=0.0, high=1.0)] = 0.02
    hue: Annotated[float, Option("Change of hue, where the whole circle is 1.", low=0.0, high=0.5)] = 0.03
    saturation: Annotated[float, Option("Relative change of saturation.", low=0.0, high=1.0)] = 0.2
    contrast: Annotated[float, Option("Relative change of contrast.", low=0.0, high=1.0)] = 0.2


class Classic(Deriving[ClassicSettings]):
    """Pixels and labels moved alike, then the pixels' look changed."""

    name, title = "classic", "Classic"
    makes = "flipped, turned, blurred, noisy and recolored copies of images."
    citation = "torchvision, transforms v2"
    settings = ClassicSettings

    def derive(
        self, target: LabeledImage, partner: LabeledImage | None, rng: np.random.Generator, settings: ClassicSettings
    ) -> Derived:
        """Move, then recolor; a nucleus that is moved out of the image is removed."""
        import torch
        import torchvision

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_torch_seed(rng))
            moved, places = _moved(target.pixels, settings)
            pixels = _recolored(moved, settings)
        inside = places[0] >= 0
        origin = np.where(inside, DONOR, INPAINTED).astype(np.uint8)
        facts = {"torchvision": torchvision.__version__}
        if not target.types:
            return Derived(pixels, origin, facts=facts)
        labels = np.where(inside, target.instances[places[0], places[1]], 0).astype(np.int32)
        removed = np.setdiff1d(target.instances, labels).tolist()
        return Derived(pixels, origin, labels, tuple(removed), facts=facts)

    def trace(self, record: Record, row: int, col: int, painted: bool) -> Mapping[str, Any]:
        """The pixel's own place in the target, the nearest one where the image was rotated by less than a quarter."""
        import torch

        if painted:
            return {}
        settings = ClassicSettings(**record.provenance["settings"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_torch_seed(np.random.default_rng(record.seed)))
            _, places = _moved(np.zeros((*record.window[2:], 3), np.uint8), settings)
        return {"image": record.image, "x": int(places[1, row, col]), "y": int(places[0, row, col])}


def _torch_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63 - 1))


def _moved(pixels: NDArray[np.uint8], settings: ClassicSettings) -> tuple[torch.Tensor, NDArray[np.intp]]:
    """An image (3, H, W) uint8 flipped, turned and rotated; rows and columns (2, H, W) of where each pixel was.

    Both are -1 where a rotation bares a corner; that is filled with the mean color.
    """
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    height, width = pixels.shape[:2]
    # Places instead of labels: they are exact in single precision, however large ids are.
    places = torch.from_numpy(np.indices((height, width), np.float32))
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    if settings.quarter_turns:
        turns = int(torch.randint(4, ()))
        turns -= turns % 2 if height != width else 0
        image, places = (torch.rot90(array, turns, (1, 2)) for array in (image, places))
    fill = {tv_tensors.Image: pixels.reshape(-1, 3).mean(axis=0).tolist(), tv_tensors.Mask: -1}
    flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()] if settings.flips else []
    rotation = v2.RandomRotation(settings.rotation, v2.InterpolationMode.BILINEAR, fill=fill)
    transform = v2.Compose([*flips, *([rotation] if settings.rotation else []), v2.Identity()])
    image, places = transform(tv_tensors.Image(image), tv_tensors.Mask(places))
    return image.as_subclass(torch.Tensor), places.numpy().astype(np.intp)


def _recolored(image: torch.Tensor, settings: ClassicSettings) -> NDArray[np.uint8]:
    """An image (3, H, W) uint8 in other colors, blurred and noisy, as (H, W, 3)."""
    import torch
    from torchvision.transforms import v2

    look = v2.ColorJitter(contrast=settings.contrast, saturation=settings.saturation, hue=settings.hue)
    values = look(image.to(torch.float32) / 255)
    if settings.blur:
        # Three sigma on each side, as far as the image's mirrored edge reaches.
        reach = min(int(np.ceil(3 * settings.blur)), min(values.shape[1:]) - 1)
        values = v2.GaussianBlur(2 * reach + 1, (1e-3, max(settings.blur, 1e-3)))(values)
    if settings.noise:
        values = values + settings.noise * torch.rand(()) * torch.randn(values.shape)
    levels = (values.clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())


METHOD = Classic()
