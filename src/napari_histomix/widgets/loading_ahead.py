"""What is loaded in threads of their own while a person is still choosing, so that the window never waits for it."""

from __future__ import annotations

import ctypes
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread, current_thread

import numpy as np
import pint
from napari.layers import Image, Labels, Points
from pint.registry import LazyRegistry

from napari_histomix.datasets.text_files import uncollected

CHARTS = "matplotlib.figure"
"""What the slowest page to load imports."""
MODULES = (
    "napari_histomix.diffusion.inpainter",
    "napari_histomix.diffusion.model_files",
    "napari_histomix.evaluation.detector",
    "napari_histomix.generation.segmenter",
    "napari_histomix.generation.segmenting",
    "sklearn.covariance",
    "sklearn.decomposition",
    "sklearn.isotonic",
)
"""What runs import: loaded beforehand."""
_window: Thread | None = None
_networks: Thread | None = None


def load_window_ahead() -> None:
    """Load what the first layer of a process needs, units above all, and what the page with a chart needs.

    Done where they are first wanted, the layer would hold the window for a second, and the page for a third of one.
    Nothing of it may define a class of Qt's, and every page does: a process died while one was defined in this thread
    and the main thread connected a signal.
    """
    global _window
    if _window is None:
        _window = Thread(target=_load_window, name="histomix-window")
        _window.start()


def _load_window() -> None:
    with uncollected():
        registry = pint.get_application_registry()
        if isinstance(registry.get(), LazyRegistry):
            # Made whole, then put in place: one that fills itself here could be used half full in the main thread.
            made = pint.UnitRegistry()
            if isinstance(registry.get(), LazyRegistry):
                registry.set(made)
        pixels, space = np.zeros((2, 2, 3), np.uint8), {"units": ("um", "um")}
        Image(pixels, rgb=True, **space)
        Labels(pixels[..., 0], **space)
        Points(np.zeros((1, 2)), **space)
        import_module(CHARTS)


def prepare_torch() -> None:
    """Make importing torch safe in a process that has a window; to be called before it, in a worker thread.

    Mesa draws with LLVM on machines without a graphics driver and on AMD cards, and triton, which torch imports on
    Linux, brings an LLVM of its own. Where the window came first, triton's library takes Mesa's symbols for its own
    and the process dies in dlopen. Loading that one library with RTLD_DEEPBIND beforehand makes it keep to its own.
    Does nothing where there is no such clash, or where triton is loaded already. Networks that are being loaded in
    another thread come to the end of that first.
    """
    if _networks not in (None, current_thread()):
        # At the end of its import diffusers puts another module in its place: a thread that asks for it in the midst
        # of that gets the one that is replaced, which has none of the networks.
        _networks.join()
    if not sys.platform.startswith("linux") or "triton" in sys.modules or not hasattr(os, "RTLD_DEEPBIND"):
        return
    try:
        if "libLLVM" not in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"):
            return
        spec = find_spec("triton")
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for library in Path(folder, "_C").glob("libtriton*.so"):
                ctypes.CDLL(str(library), mode=os.RTLD_NOW | os.RTLD_LOCAL | os.RTLD_DEEPBIND)
    except (OSError, ImportError, ValueError):
        # Nothing to prepare, or nothing that we can do about it; the import itself says what is wrong.
        return


def load_networks_ahead() -> None:
    """Load what runs import in a thread of its own, while the person is still choosing.

    Loading a library holds every thread, torch's for up to half a second at a time; done here it does not fall into a
    run. The thread is no daemon: a process that ends in the midst of loading a library may crash.
    """
    global _networks
    if _networks is None and not all(name in sys.modules for name in MODULES):
        _networks = Thread(target=_load_networks, name="histomix-networks")
        _networks.start()


def _load_networks() -> None:
    prepare_torch()
    try:
        # A collection in the midst of it would hold the window for a second, and what modules make is no garbage.
        with uncollected():
            for name in MODULES:
                import_module(name)
    except ImportError:
        # The run that needs it imports it again, and there the person is told what is missing.
        return
