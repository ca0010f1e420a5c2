"""Painted tissue must hold the nuclei of its labels: what a trained segmenter says of it, as a loss (ControlNet++).

Diffusion's own loss asks that pixels are likely, and hardly minds where a border between two nuclei runs. A segmenter
does (Li et al., "ControlNet++: Improving conditional controls with efficient consistency feedback", ECCV 2024,
arXiv 2404.07987).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from napari_histomix.generation.models import GeneratorModel, class_of
from napari_histomix.records import HistomixError
from napari_histomix.training.segmenting import NOT_KNOWN, SegmenterBatch, structure_loss

SAME_SCALE = 0.1
"""By how much the scale of windows may differ from the segmenter's."""
CLEAR = 0.3
"""How much a pixel counts at least where its class is asked for: a class is seen in texture, not in a blur."""


class Consistency:
    """How far what a segmenter finds in painted tissue is from its labels.

    Parameters
    ----------
    model : GeneratorModel
        Of the kind "segmenter"; it does not learn.
    classes : sequence of str
        Of the maps, in their order; a class that the segmenter does not know is not asked for.
    mpp : float
        µm per pixel of what is painted.
    window : int
        Its side in pixels.

    Raises
    ------
    HistomixError
        If the segmenter works at another scale, or not on windows of this side.
    """

    def __init__(self, model: GeneratorModel, classes: Sequence[str], mpp: float, window: int) -> None:
        if abs(mpp / model.mpp - 1) > SAME_SCALE:
            raise HistomixError(
                f"The segmenter {model.name} works at {model.mpp:g} µm/px, not at {mpp:g}; train without "
                "consistency, or name another segmenter."
            )
        if window % model.network.grid:
            raise HistomixError(f"With a segmenter, windows must be multiples of {model.network.grid} pixels.")
        self.model = model
        known = [class_of(name, model.classes) for name in classes]
        self.numbers = torch.tensor([model.classes.index(name) if name else NOT_KNOWN for name in known])

    def loss(self, painted: Tensor, maps: Tensor, known: Tensor) -> Tensor:
        """HoVer-Net's loss of what the segmenter finds.

        Parameters
        ----------
        painted : (N, 3, S, S) Tensor
            RGB in [−1, 1].
        maps : (N, n + 6, S, S) Tensor
            The labels (``condition_maps``).
        known : (N, 1, S, S) Tensor
            How much each pixel counts.
        """
        network = self.model.network.to(painted.device)
        kinds = maps[:, 1 : 1 + len(self.numbers)]
        numbers = self.numbers.to(painted.device)[kinds.argmax(1)]
        numbers = torch.where((kinds.sum(1) > 0) & (known[:, 0] > CLEAR), numbers, NOT_KNOWN)
        structure = torch.cat([maps[:, :1], maps[:, -5:-3]], dim=1)
        return structure_loss(network(painted), SegmenterBatch(painted, structure, numbers, known))
