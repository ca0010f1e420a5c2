"""A prompter by its short description."""

from __future__ import annotations

from pathlib import Path

from napari_histomix.records import HistomixError
from napari_histomix.segmentation.prompting import Prompter
from napari_histomix.segmentation.region_tree import RegionTreePrompter


def open_prompter(kind: str = "region-tree", weights: str | Path | None = None, device: str = "auto") -> Prompter:
    """Open a prompter.

    Parameters
    ----------
    kind : str
        ``region-tree``, which needs no weights, or ``sam``.
    weights : str or path, optional
        SAM's: a name in ``weights.registry`` or a checkpoint file.
    device : str
        auto, cpu, cuda or mps; a region tree is always grown on the processor.

    Raises
    ------
    HistomixError
        If there is no such prompter, weights are missing or do not fit, or the device is not there.
    """
    if kind == "region-tree":
        if weights is not None:
            raise HistomixError("The region tree takes no weights; leave them out, or choose the prompter sam.")
        return RegionTreePrompter()
    if kind != "sam":
        raise HistomixError(f"'{kind}' is not a prompter; choose region-tree or sam.")
    if weights is None:
        raise HistomixError("SAM needs weights; name a checkpoint file, or choose the prompter region-tree.")
    from napari_histomix.segmentation.sam import open_sam

    return open_sam(weights, device=device)
