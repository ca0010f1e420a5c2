"""From a crop to a vector: what surrounds a location, described by numbers.

``context.context_patches`` cuts the surroundings out of an image, an :class:`Encoder` turns them into vectors and
``context.context_features`` does both chunk by chunk. The default, ``texture.TextureEncoder``, needs no weights.
Importing this room loads neither torch nor timm; :func:`open_encoder` does, when a network is asked for.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from napari_histomix.features.texture import TextureEncoder
from napari_histomix.records import HistomixError


@runtime_checkable
class Encoder(Protocol):
    """Turns patches into feature vectors.

    Attributes
    ----------
    name : str
        Identity for provenance; two encoders of one name give the same features. Holds the first 12 hexadecimal
        digits of the weights file's sha256 where there are weights.
    dim : int
        Length of a feature vector.
    """

    name: str
    dim: int

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode (N, 224, 224, 3) uint8 RGB patches as (N, dim) float32 vectors; N may be 0."""


def open_encoder(spec: str, device: str = "cpu", *, whole: bool = False) -> Encoder:
    """Open an encoder by its short description.

    Parameters
    ----------
    spec : str
        ``"texture"``: stain and texture statistics, no weights.
        ``"timm:NAME"``: a timm model with its pretrained weights, which must lie in the model folder or the hub's
        cache unless downloads are allowed.
        ``"timm:NAME@FILE"``: a timm model with the weights of FILE (.safetensors, or a torch checkpoint).
        ``"ctranspath:FILE"``: CTransPath with the weights of FILE.
    device : str
        Torch device of a network ("cpu", "cuda", "mps"); texture statistics are always computed on the CPU.
    whole : bool
        Texture statistics of the whole patch, its center included; networks see all of it anyway.

    Returns
    -------
    Encoder

    Raises
    ------
    HistomixError
        If the description is not understood, weights are absent or do not fit, or the device
        cannot be used.
    """
    kind, _, rest = spec.partition(":")
    if spec == "texture":
        return TextureEncoder(whole=whole)
    if kind not in ("timm", "ctranspath") or not rest:
        raise HistomixError(
            f"'{spec}' is not an encoder; choose texture, timm:NAME, timm:NAME@WEIGHTS_FILE or ctranspath:WEIGHTS_FILE."
        )
    from napari_histomix.features.networks import CTransPathEncoder, TimmEncoder

    if kind == "ctranspath":
        return CTransPathEncoder(rest, device=device)
    model, _, weights = rest.partition("@")
    return TimmEncoder(model, weights or None, device=device)
