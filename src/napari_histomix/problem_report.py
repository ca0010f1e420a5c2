"""What a person sends to the makers about a problem: log, versions and settings, in one zip without patient data.

There are no images in it, and no names of images, patients, folders, persons or machines: see `contents`. It is text
throughout, so that a person can read all of it before it leaves the machine.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import zipfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from napari_histomix import __version__
from napari_histomix.logs import log_file, log_files, without_names
from napari_histomix.preferences import VARIABLES, Preferences, kept, overruled
from napari_histomix.records import HistomixError
from napari_histomix.settings import plain

PACKAGES = (
    "napari",
    "npe2",
    "magicgui",
    "superqt",
    "app-model",
    "qtpy",
    "PySide6",
    "PyQt6",
    "vispy",
    "numpy",
    "scipy",
    "scikit-image",
    "scikit-learn",
    "opencv-python-headless",
    "torch",
    "torchvision",
    "diffusers",
    "timm",
    "segment-anything",
    "transformers",
    "zarr",
)
"""Distributions whose versions are said."""
FIRST = (
    "A report about a problem with napari-histomix. It has no images and no names of images, patients or persons.\n"
    "Names in the log are replaced by marks such as <1a2b3c4d.png>; the same mark stands for the same name.\n"
    "Please write in your mail, or into this file of the zip, what you did and what you expected.\n"
)


def contents(names: Collection[str] = (), window: Mapping[str, str] | None = None) -> dict[str, str]:
    """The report's files, as texts by their names.

    Parameters
    ----------
    names : collection of str
        Of what is open (images, patients, the dataset): taken out of the log wherever they stand, beside the file
        names, paths and quoted words that never come into it (`logs.redacted`).
    window : mapping, optional
        What only a window knows, such as the versions of Qt and OpenGL.

    Returns
    -------
    dict
        ``README.txt``, ``system.json``, ``settings.json`` and the log files.
    """
    logs = {path.name: without_names(_text(path), names) for path in log_files()}
    return {
        "README.txt": FIRST,
        "system.json": _json(system(window)),
        "settings.json": _json(settings()),
        **(
            logs
            or {"histomix.log": f"There is no {log_file().name}: nothing was written to it yet, or it cannot be.\n"}
        ),
    }


def system(window: Mapping[str, str] | None = None) -> dict[str, object]:
    """Versions and hardware; torch is loaded to name graphics cards."""
    return {
        "napari-histomix": __version__,
        "python": sys.version,
        "system": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        "graphics": _graphics(),
        "window": dict(window or {}),
    }


def settings() -> dict[str, object]:
    """Preferences without names: of texts that a person chose, only whether they did."""
    values, problem = kept()
    said = plain(values)
    private = [name for name in said if name in ("weights", "reviewer")]
    return {
        **said,
        **{name: "chosen" if said[name] else "as it comes" for name in private},
        "changed": [name for name, value in said.items() if value != getattr(Preferences(), name)],
        "variables": {name: "set" if name in overruled().values() else "not set" for name in VARIABLES.values()},
        "file": "damaged" if problem else "whole",
    }


def write(out: Path, files: Mapping[str, str]) -> Path:
    """Write a report's files as a zip, whole or not at all and never over another file; returns its path.

    Raises HistomixError where it cannot be written.
    """
    out = out if out.suffix == ".zip" else out.with_name(f"{out.name}.zip")
    partial = out.with_name(f"{out.name}.part")
    try:
        if out.exists():
            raise HistomixError(f"{out} exists already; choose another name.")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        partial.replace(out)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise HistomixError(f"{out} cannot be written ({error.strerror}); choose another place.") from None
    return out


def proposed_name() -> str:
    """A name for a new report."""
    return f"histomix-report-{datetime.now():%Y%m%d-%H%M%S}.zip"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _graphics() -> list[str]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [f"torch cannot be loaded ({type(error).__name__})"]
    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    found = [f"{card.name}, {card.total_memory / 2**30:.0f} GB, CUDA {torch.version.cuda}" for card in cards]
    return found + (["Apple graphics (MPS)"] if torch.backends.mps.is_available() else []) or [
        "none that torch can use"
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror}).\n"


def _json(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
