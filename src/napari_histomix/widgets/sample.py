"""File > Open Sample > HistoMix."""

from __future__ import annotations

from typing import Any

import napari

from napari_histomix.datasets import load_sample


def open_sample() -> list[tuple[Any, ...]]:
    """Open the HistoMix dock with the bundled sample, and give the sample's first image as a layer.

    napari takes a sample without a layer for a failure, so the first image is handed over here; the dock's layers
    take it over when the sample is opened.

    Returns
    -------
    list of layer tuples
    """
    dataset = load_sample()
    image = dataset.read(dataset.entries[0])
    name = image.source.image
    about = {"histomix": {"dataset": dataset.name, "image": name, "adopt": True}}
    keywords = {"name": name, "rgb": True, "scale": (image.mpp, image.mpp), "units": ("um", "um"), "metadata": about}
    viewer = napari.current_viewer()
    if viewer is not None:
        _, dock = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")
        dock.open_step(0)
        dock.data.open_sample()
    return [(image.pixels, keywords, "image")]
