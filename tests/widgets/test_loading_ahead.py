"""What is loaded ahead: units that every layer shares, and nothing that must not be loaded beside a window."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import sys
import napari
import numpy as np
import pint
from napari.layers import Image
from pint.registry import LazyRegistry
from napari_histomix.widgets import dock, loading_ahead
pages = [f"napari_histomix.widgets.{path.partition(':')[0]}" for _, path in dock.TOOLS.values()]
loading_ahead.load_window_ahead(pages)
loading_ahead._window.join()
units = pint.get_application_registry()
assert not isinstance(units.get(), LazyRegistry), "the first layer would wait for units"
layer = Image(np.zeros((40, 40, 3), np.uint8), units=("um", "um"))
assert round((1 * layer.units[0]).to(units.Unit("nm")).magnitude) == 1000
assert set(pages) <= set(sys.modules)
assert "torch" not in sys.modules, "torch comes after what makes that safe beside a window"
print("loaded")
"""


def test_units_and_pages_are_loaded_but_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=200, check=False)
    assert "loaded" in done.stdout, done.stderr[-2000:]
