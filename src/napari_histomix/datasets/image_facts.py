"""What a record of provenance says of a source image, by which it is known again."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.records import LabeledImage, TissueImage


def image_facts(image: LabeledImage | TissueImage) -> dict[str, Any]:
    """Name, patient, slide, µm/px and the SHA-256 of the pixels of an image, and of its instance map if it has one."""
    source = image.source
    facts: dict[str, Any] = {
        "image": source.image,
        "patient": source.patient,
        "slide": source.slide,
        "mpp": image.mpp,
        "pixels_sha256": pixels_sha256(image.pixels),
    }
    if isinstance(image, LabeledImage):
        facts["labels_sha256"] = labels_sha256(image.instances)
    return facts


def labels_sha256(instances: NDArray[np.int32]) -> str:
    """Hexadecimal SHA-256 of an instance map's shape and ids (H, W) int32: the same in whatever file they lie."""
    shape = "x".join(map(str, instances.shape))
    digest = hashlib.sha256(f"{shape}:".encode())
    digest.update(np.ascontiguousarray(instances, "<i4"))
    return digest.hexdigest()
