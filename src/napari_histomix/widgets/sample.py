"""File > Open Sample > HistoMix."""

from __future__ import annotations

from typing import Any

import napari

from napari_histomix.datasets import load_sample


def open_sample() -> list[tuple[Any, ...]]:
    """Open the HistoMix dock with the bundled sample; without a window, give the sample's first image as layers.

    Returns
    -------
    list of layer tuples
        Nothing to add where the dock shows the sample by itself.
    """
    viewer = napari.current_viewer()
    if viewer is not None:
        _, dock = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")
        dock.open_step(0)
        dock.data.open_sample()
        return []
    dataset = load_sample()
    image = dataset.read(dataset.entries[0])
    about = {"scale": (image.mpp, image.mpp), "units": ("um", "um")}
    name = image.source.image
    return [
        (image.pixels, {"name": name, "rgb": True, **about}, "image"),
        (image.instances, {"name": f"{name} nuclei", **about}, "labels"),
    ]
