"""Command-line options made from settings classes, and the way back."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from napari_histomix.records import HistomixError
from napari_histomix.settings import Setting, made_from, settings_of, shown

S = TypeVar("S")

UNSAID = argparse.SUPPRESS
"""Default of every option: what nobody has said is left to the settings class."""


class UsageError(HistomixError):
    """Wrong usage that only shows once the command line is read as a whole."""


def positive(text: str) -> float:
    """A positive number, as the type of an option."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number")
    return value


def add_settings(parser: Any, classes: Iterable[type], *, without: Iterable[str] = ()) -> None:
    """Add an option for each setting of these classes; settings of one name are one option.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    classes : iterable of type
        Settings classes (``settings``).
    without : iterable of str
        Settings that get no option here.
    """
    added = set(without)
    common, advanced = parser.add_argument_group("settings"), parser.add_argument_group("advanced settings")
    for cls in classes:
        for setting in settings_of(cls):
            if setting.name not in added:
                added.add(setting.name)
                _add(advanced if setting.option.advanced else common, setting)


def _add(group: Any, setting: Setting) -> None:
    option = setting.option
    default = "" if setting.required else f" (default: {shown(setting)})"
    bounds = "" if option.choices or not setting.bounds() else f"; {setting.bounds()}"
    how: dict[str, Any] = {"help": f"{option.help.rstrip('.')}{bounds}{default}".replace("%", "%%"), "default": UNSAID}
    if setting.type is bool:
        how["action"] = argparse.BooleanOptionalAction
    else:
        how |= {"type": _single(setting), "metavar": _metavar(setting), "choices": list(option.choices) or None}
        if setting.pair:
            how |= {"nargs": 2, "metavar": ("LOW", "HIGH")}
        elif setting.many:
            how["nargs"] = "+"
        if option.choices:
            del how["metavar"]
    group.add_argument(*option.flags, setting.flag, dest=setting.name, required=False, **how)


def _single(setting: Setting) -> Any:
    """What reads one value of a setting, and refuses it out of its bounds."""

    def read(text: str) -> Any:
        try:
            value = setting.type(text)
            return setting.check((value, value))[0] if setting.pair or setting.many else setting.check(value)
        except HistomixError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    # By which argparse names it where the text is no such value at all.
    read.__name__ = setting.type.__name__
    return read


def _metavar(setting: Setting) -> str:
    if setting.option.kind:
        return {"classes": "NAME", "encoder": "NAME", "model": "PATH", "file": "FILE", "samplers": "NAME"}[
            setting.option.kind
        ]
    return {int: "N", float: "X", str: "TEXT"}[setting.type]


def settings_from(cls: type[S], options: argparse.Namespace | Mapping[str, Any]) -> S:
    """Settings of what was said on the command line, the class's own defaults for the rest.

    Raises
    ------
    UsageError
        If a setting that is needed was not given.
    HistomixError
        If a value is out of its bounds.
    """
    said = options if isinstance(options, Mapping) else vars(options)
    for setting in settings_of(cls):
        if setting.required and said.get(setting.name) is None:
            raise UsageError(f"{setting.flag} is needed: {setting.option.help}")
    return made_from(cls, {setting.name: said[setting.name] for setting in settings_of(cls) if setting.name in said})
