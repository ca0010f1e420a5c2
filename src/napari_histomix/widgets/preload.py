"""What has to be ready before it is first used in a window."""

from __future__ import annotations

import ctypes
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

ENGINE = "napari_histomix.diffusion.inpainter"


def prepare_torch() -> None:
    """Make importing torch safe in a process that has a window; to be called before it, in a worker thread.

    Mesa draws with LLVM on machines without a graphics driver and on AMD cards, and triton, which torch imports on
    Linux, brings an LLVM of its own. Where the window came first, triton's library takes Mesa's symbols for its own
    and the process dies in dlopen. Loading that one library with RTLD_DEEPBIND beforehand makes it keep to its own.
    Does nothing where there is no such clash, or where triton is loaded already.
    """
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


def warm_networks() -> None:
    """Load the diffusion room in a thread of its own, while the person is still choosing.

    Loading torch's libraries holds every thread for up to half a second at a time; done here it does not fall into a
    run. The thread is no daemon: a process that ends in the midst of loading a library may crash.
    """
    if ENGINE not in sys.modules:
        Thread(target=_load_engine, name="histomix-warming").start()


def _load_engine() -> None:
    prepare_torch()
    try:
        import_module(ENGINE)
    except ImportError:
        # The synthesis that needs it imports it again, and there the person is told what is missing.
        return


def prepare_units() -> None:
    """Build pint's registry of units on the main thread, before a job starts.

    Building takes a while and is not safe beside another thread that builds it too, as the first layer would do.
    """
    import pint

    pint.get_application_registry().Unit("um")
