"""Images as planning uses them: read once, with what is asked of each again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from napari_histomix.compositing.jpeg_grid import Grid, find_grid
from napari_histomix.compositing.stain import Staining, staining
from napari_histomix.datasets import Problem
from napari_histomix.datasets.pixels import image_facts
from napari_histomix.records import HistomixError, LabeledImage, Location
from napari_histomix.sampling import nucleus_boxes

CACHE_BYTES = 2**28
"""Memory that ``ImageCache`` fills with images: 38 images of 1000²."""


@dataclass(frozen=True, eq=False)
class IndexedImage:
    """A labeled image with its nuclei's boxes, its staining and its JPEG grid, each worked out when first asked for.

    The image must not change from then on.
    """

    image: LabeledImage

    @cached_property
    def boxes(self) -> dict[int, tuple[slice, slice]]:
        """Bounding boxes of the nuclei, by instance id."""
        return nucleus_boxes(self.image.instances)

    @cached_property
    def staining(self) -> Staining:
        """How the whole image is stained."""
        return staining(self.image)

    @cached_property
    def grid(self) -> Grid | None:
        """Where blocks of JPEG begin in it; None where it has none."""
        return find_grid(self.image.pixels)

    def holds(self, location: Location) -> bool:
        """Whether a location, perhaps read from a file, is one of this image; type 0 is whatever type it has there."""
        height, width = self.image.instances.shape
        if not (0 <= location.row < height and 0 <= location.col < width):
            return False
        if not location.instance:
            return location.kind == "background"
        known = self.image.types.get(location.instance)
        return location.instance in self.boxes and known is not None and location.type in (0, known)


@dataclass(eq=False)
class ImageCache:
    """Images read when first asked for and kept as far as ``capacity`` bytes go; others are read again.

    ``read`` reads an image by its name (``Dataset.read``). Images that could not be read are among the ``problems`` and
    not tried again; ``facts`` are what provenance says of each image that was read.
    """

    read: Callable[[str], LabeledImage]
    capacity: int = CACHE_BYTES
    problems: dict[str, Problem] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    _kept: dict[str, IndexedImage] = field(default_factory=dict)
    _size: int = 0

    def get(self, name: str) -> IndexedImage | None:
        """An image by its name; None where it cannot be read, and then its problem is noted."""
        if name in self.problems:
            return None
        if name in self._kept:
            return self._kept[name]
        try:
            image = self.read(name)
        except HistomixError as error:
            self.problems[name] = Problem(name, str(error))
            return None
        if name not in self.facts:
            self.facts[name] = image_facts(image)
        indexed = IndexedImage(image)
        size = image.pixels.nbytes + image.instances.nbytes
        # Images are asked for in turns, so that making room for a new one would always drop the next one wanted.
        if self._size + size <= self.capacity:
            self._kept[name] = indexed
            self._size += size
        return indexed

    def require(self, name: str) -> IndexedImage:
        """An image by its name; raises HistomixError where it cannot be read."""
        indexed = self.get(name)
        if indexed is None:
            raise HistomixError(self.problems[name].sentence)
        return indexed
