"""Collars: the tissue around a donor that comes along with it, cut out where it is most like the target's own.

Layer 1 alone is a pixel wide. Beyond it, real nuclei have what no paint gives back: a blurred border, parts that a
label leaves out, a halo of retracted tissue, cytoplasm. A collar brings them along, and the transition zone lies where
the two images differ least (``seams``), instead of where the nucleus is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.composing import Window, cut
from napari_histomix.compositing.donors import DonorCrop, Mask, dilate
from napari_histomix.compositing.seams import find_seam

BORDER = 3
"""Pixels around a nucleus that come along in any case where there is room: optics blur its border over them."""
APART = 2
"""Pixels kept between a collar and other nuclei: their own blurred border."""


def collar_room(donor: DonorCrop, corner: tuple[int, int], window: Window, occupied: Mask) -> Mask:
    """Where in a window of the target (h, w) the surroundings of a donor at a corner (row, column) may lie.

    Not beyond its crop, nowhere near another nucleus of its image, which would come along, and nowhere near what is
    ``occupied``.
    """
    own = cut(donor.surroundings | donor.nucleus, window, corner)
    return ~dilate(~own | occupied, APART)


def cut_collar(
    target: NDArray[np.uint8], donor: NDArray[np.uint8], nucleus: Mask, replaced: Mask, room: Mask, reach: int
) -> Mask:
    """What comes along with a donor, (h, w): its nucleus, layer 1, and of its collar what the seam leaves.

    Parameters
    ----------
    target, donor : (h, w, 3) uint8
        The place as it is, and the donor with its surroundings as it would lie there.
    nucleus, replaced : (h, w) bool
        The donor's nucleus, and the target's that it replaces: where there is room, the collar covers that and its
        blurred border, so that real tissue lies there and not paint.
    room : (h, w) bool
        Where a collar may lie.
    reach : int
        Its largest width in pixels, but for what covers the replaced nucleus.
    """
    layers = dilate(nucleus, 1)
    core = layers | (room & (dilate(nucleus, BORDER) | dilate(replaced, APART)))
    band = room & (dilate(nucleus, reach) | dilate(replaced, APART + BORDER)) & ~core
    found = find_seam(target, donor, core, band) if band.any() else None
    return core if found is None else found.mask
