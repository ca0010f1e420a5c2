"""Reading a network's checkpoint from a file: nothing is unpickled, and what is wrong is said in one sentence."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from napari_histomix.records import HistomixError


def read_checkpoint(path: Path) -> tuple[Any, str]:
    """What a file holds, tensors and plain containers only, and its SHA-256.

    Parameters
    ----------
    path : Path
        ``.safetensors``, or a torch checkpoint, which is loaded with ``weights_only=True``.

    Raises
    ------
    HistomixError
        If the file is absent, cannot be read, is damaged or holds anything else.
    """
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise HistomixError(f"There is no weights file '{path}'; check the path or copy the file there.")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if path.suffix == ".safetensors":
            return load_file(path), sha256
        return torch.load(path, map_location="cpu", weights_only=True), sha256
    except OSError as error:
        raise HistomixError(f"'{path}' cannot be read ({error.strerror}); check its permissions.") from error
    # Bytes that are no checkpoint make the readers fail in any way there is.
    except Exception as error:
        raise HistomixError(
            f"'{path.name}' is damaged or holds more than weights; download it again or convert it to .safetensors."
        ) from error
