"""Which donor goes where: locations, how rare-like their surroundings are, and the weighted draw of donors."""

from napari_histomix.sampling.context_model import ContextModel
from napari_histomix.sampling.donor_draw import (
    DonorChoice,
    DonorDraw,
    draw_order,
    effective_sample_size,
    fitting,
    item_seed,
    sharpest_temperature,
)
from napari_histomix.sampling.locations import background_locations, nucleus_locations

__all__ = [
    "ContextModel",
    "DonorChoice",
    "DonorDraw",
    "background_locations",
    "draw_order",
    "effective_sample_size",
    "fitting",
    "item_seed",
    "nucleus_locations",
    "sharpest_temperature",
]
