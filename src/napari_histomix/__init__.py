"""Grow the rare nuclei and tissue that labeled H&E datasets lack: make, vet, export.

Importing the package loads neither Qt nor torch; what is used is loaded when it is used.

Examples
--------
>>> import napari_histomix as hm
>>> data = hm.load_sample()
>>> made = hm.augment(data, "copypaste", rare=["lymphocyte"], count=3)
>>> len(made)
3
"""

from __future__ import annotations

from importlib import import_module

# The typing module takes longer to load than all else here, and until then a signal is not met in good order.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    __version__: str
    from napari_histomix.api import Made, augment, list_methods, open_study
    from napari_histomix.compositing.composing import compose
    from napari_histomix.datasets import Dataset, load_sample
    from napari_histomix.datasets import open_any as open_dataset
    from napari_histomix.evaluation.scoring import score
    from napari_histomix.records import Change, HistomixError, LabeledImage

__all__ = [
    "Change",
    "Dataset",
    "HistomixError",
    "LabeledImage",
    "Made",
    "augment",
    "compose",
    "list_methods",
    "load_sample",
    "open_dataset",
    "open_study",
    "score",
]

_HOMES = {
    "Change": "records",
    "Dataset": "datasets",
    "HistomixError": "records",
    "LabeledImage": "records",
    "Made": "api",
    "augment": "api",
    "compose": "compositing.composing",
    "list_methods": "api",
    "load_sample": "datasets",
    "open_dataset": "datasets:open_any",
    "open_study": "api",
    "score": "evaluation.scoring",
}
"""Room that each public name lives in, and its name there where that is another."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("napari-histomix")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room, _, other = _HOMES[name].partition(":")
    return getattr(import_module(f"{__name__}.{room}"), other or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
