"""The methods: each is one file, registered here by its name, or by others through a Python entry point."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from napari_histomix.methods.base import Method, Stage
from napari_histomix.records import HistomixError

ENTRY_POINTS = "napari_histomix.methods"
"""Group of the entry points by which other packages add methods: ``name = "module:METHOD"``."""

DEFAULT = "nucleimix"
"""What is chosen where nobody has chosen."""

OF_VERSION_3 = {"placements": "nucleimix", "synthetic": "usegmix"}
"""Methods of what studies and manifests held before they named methods, by the manifests' keys."""

_BUILT_IN = {
    "nucleimix": "nucleimix",
    "usegmix": "usegmix",
    "copypaste": "copy_paste",
    "gradmix": "gradmix",
    "cutmix": "cutmix",
    "cutout": "cutout",
    "mixup": "mixup",
    "classic": "classic",
    "nudiff": "nudiff",
    "painted-nuclei": "whatif",
    "edge-pix2pix": "edge_pix2pix",
}
"""Module of each method by the method's name; a module's method is its ``METHOD``."""

_registered: dict[str, Method[Any, Any]] = {}


def register(method: Method[Any, Any]) -> None:
    """Add a method by hand, in a notebook or a test; packages use an entry point.

    Raises
    ------
    HistomixError
        If another method has its name.
    """
    if method.name in _BUILT_IN or _registered.get(method.name, method) is not method:
        raise HistomixError(f"There is a method '{method.name}' already; give the new one another name.")
    _registered[method.name] = method


def method_names() -> tuple[str, ...]:
    """Names of all methods: the built-in ones, then those that were added."""
    return (*_BUILT_IN, *(name for name in {**_added()[0], **_registered} if name not in _BUILT_IN))


def method_of(name: str) -> Method[Any, Any]:
    """A method by its name.

    Raises
    ------
    HistomixError
        If there is none of that name; the message lists them.

    Examples
    --------
    >>> method_of("nucleimix").title
    'NucleiMix'
    """
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN:
        return import_module(f"{__name__}.{_BUILT_IN[name]}").METHOD
    added, problems = _added()
    if name not in added:
        why = next((f" ({problem})" for problem in problems if f"'{name}'" in problem), "")
        raise HistomixError(f"'{name}' is not a method{why}; choose one of {', '.join(method_names())}.")
    return added[name]


def stage_of(name: str) -> Stage:
    """A stage by its name, for a command or a page that shows it; raises HistomixError if no method has it."""
    for method in map(method_of, method_names()):
        if method.stage is not None and method.stage.name == name:
            return method.stage
    raise HistomixError(f"No method finds '{name}'.")


def method_problems() -> tuple[str, ...]:
    """A sentence for each method of another package that could not be loaded, and is left out."""
    return _added()[1]


@cache
def _added() -> tuple[Mapping[str, Method[Any, Any]], tuple[str, ...]]:
    methods: dict[str, Method[Any, Any]] = {}
    problems = []
    for point in entry_points(group=ENTRY_POINTS):
        try:
            method = point.load()
            if not isinstance(method, Method) or method.name != point.name or point.name in _BUILT_IN:
                raise TypeError(f"{point.value} is no method of that name")
            methods[point.name] = method
        except Exception as error:  # whatever another package raises while it is imported
            problems.append(f"The method '{point.name}' of {point.value} cannot be loaded and is left out: {error}")
    return methods, tuple(problems)
