"""What writers of datasets share: names that every disk takes, PNG files, and folders that are complete or absent."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unicodedata import category, normalize

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from napari_histomix.records import HistomixError

SYNTHETIC_NOTICE = "SYNTHETIC, not for diagnosis"
"""Written into the ``Description`` of every synthetic image."""

_REFUSED = '/\\:<>|?*"'
_DEVICE = re.compile(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])(?=\.|$)", re.IGNORECASE)
"""What Windows keeps for devices, whatever follows the first dot."""
_LONGEST = 120


@contextmanager
def complete_or_absent(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` to write into, which takes its place at the end; after a failure nothing is left.

    Raises
    ------
    HistomixError
        If ``out`` is there at the end, or the disk refuses.
    """
    partial: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".partial", dir=out.parent))
        # mkdtemp makes folders only their owner may enter; an export is an ordinary folder.
        partial.chmod(0o755)
        yield partial
        # Renaming onto an empty folder would replace it without a word.
        if out.exists():
            raise HistomixError(f"{out} already exists; name a new folder.")
        partial.rename(out)
    except OSError as error:
        raise HistomixError(
            f"{out} could not be written ({error.strerror or error}); free space or choose another place."
        ) from None
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial)


def write_png(
    path: Path, pixels: NDArray[np.uint8], mpp: float | None = None, synthetic: bool = False, *, description: str = ""
) -> None:
    """Write a PNG file whose bytes depend on the arguments alone.

    Parameters
    ----------
    path : Path
        In a folder that is there.
    pixels : (H, W, 3) or (H, W) uint8
    mpp : float, optional
        µm per pixel, stated as the pixel density.
    synthetic : bool
        Whether ``Description`` says "SYNTHETIC, not for diagnosis".
    description : str
        What ``Description`` says of an image that is not synthetic; nothing where it is empty.
    """
    info = PngInfo()
    if synthetic or description:
        info.add_text("Description", SYNTHETIC_NOTICE if synthetic else description)
    density: dict[str, Any] = {} if mpp is None else {"dpi": (25400 / mpp, 25400 / mpp)}
    Image.fromarray(pixels).save(path, "PNG", pnginfo=info, **density)


def check_name(name: str) -> None:
    """Raise HistomixError if a name cannot be that of an image file, or would lead out of its folder."""
    if not name or name.startswith(".") or any(character in name for character in '/\\:\0<>|?*"'):
        raise HistomixError(f"{name!r} cannot be the name of an image file; use letters, digits, - and _.")


def safe_name(text: str, otherwise: str = "image") -> str:
    """A name that every disk takes as one folder or file, and a CSV as it is; ``otherwise`` where nothing is left."""
    text = "".join(
        " " if character.isspace() else "-" if character in _REFUSED or category(character)[0] == "C" else character
        for character in normalize("NFC", text)
    )
    # Disks count bytes; no character is cut in two.
    text = text.encode()[:_LONGEST].decode(errors="ignore")
    # A leading dot hides a file; Windows drops dots and spaces at the end.
    text = text.strip(" .").lstrip(" .-") or otherwise
    return _DEVICE.sub(r"\1_", text)


class Names:
    """Gives out names of one folder, none of them twice, upper and lower case being equal on many disks."""

    def __init__(self, *taken: str) -> None:
        self.taken = {name.casefold() for name in taken}

    def unique(self, *wanted: str) -> str:
        """The first of these that is free, or the last with a number."""
        number = 1
        candidates = list(wanted)
        while True:
            for name in candidates:
                if name.casefold() not in self.taken:
                    self.taken.add(name.casefold())
                    return name
            number += 1
            candidates = [f"{wanted[-1]}-{number}"]
