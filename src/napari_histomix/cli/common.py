"""What commands share: how they are declared, options made from settings, datasets, what a person sees meanwhile."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm

from napari_histomix.cli import terminal
from napari_histomix.datasets import Dataset, open_any
from napari_histomix.datasets.formats import CLASS_FOLDERS, FORMATS
from napari_histomix.datasets.splits import read_splits, with_splits
from napari_histomix.datasets.writing import check_place
from napari_histomix.records import HistomixError, Job
from napari_histomix.settings import DEVICES, Setting, made_from, preset_help, presets_of, settings_of, shown
from napari_histomix.study import Study

S = TypeVar("S")
T = TypeVar("T")

WRITABLE = [format.name for format in FORMATS.values() if format.writes]
"""Formats that can be written, by name."""


class UsageError(HistomixError):
    """Wrong usage: of one command, as ``prog`` and ``usage`` say, or of the line as a whole."""

    def __init__(self, sentence: str, prog: str = "", usage: str = "") -> None:
        super().__init__(sentence)
        self.prog, self.usage = prog, usage


class Page(SystemExit):
    """Help, or the version: all that was asked for; ``text`` is what it says."""

    def __init__(self, text: str) -> None:
        super().__init__(0)
        self.text = text


class Parser(argparse.ArgumentParser):
    """A parser whose errors and pages are exceptions, so that they may be told as JSON."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(message, self.prog, self.format_usage())

    def _print_message(self, message: str, file: Any = None) -> None:
        """Raise Page: all that argparse itself prints are help and version."""
        raise Page(message.rstrip("\n"))


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults shown where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        quiet = action.default in (None, False, []) or action.default is argparse.SUPPRESS
        return action.help if quiet else super()._get_help_string(action)


class Options(argparse.Namespace):
    """What the command line says, and what commands do with it alike."""

    def say(self, *lines: str) -> None:
        """Print for people: to standard error with ``--json``, as standard output holds one line for programs then."""
        terminal.write(sys.stderr if self.json else sys.stdout, *lines)

    def take_preset(self) -> None:
        """Take the values of the preset that the command line names, where it does not say another."""
        for name, value in getattr(self, "presets", {}).get(getattr(self, "preset", None), {}).items():
            vars(self).setdefault(name, value)

    def check_outputs(self) -> None:
        """Raise HistomixError if something that the command is to write could not be written: before any work."""
        wanted = [(getattr(self, name), kind) for name, kind in self.outputs]
        named = [(Path(out), kind) for out, kind in wanted if out is not None]
        for out, kind in named:
            if kind in ("folder", "file") or not os.path.lexists(out):
                check_place(out, kind if kind == "file" else "folder")
        for (first, kind), (second, _) in permutations(named, 2):
            # What is renamed to its place at the end must not be there by then; a study may hold an export.
            if kind != "study" and first.absolute() in (second.absolute(), *second.absolute().parents):
                raise HistomixError(f"{first} cannot hold {second} as well; name two places.")

    def open_data(self, study: Study | None = None, *, quiet: bool = False) -> Dataset:
        """Open the dataset with the splits that ``--splits`` names, and say, unless ``quiet``, what is left out of it.

        What the command line does not say is as a ``study`` has it, with which the command goes on.
        """
        if study is not None and self.split_parts and not study.split_parts:
            raise HistomixError(
                f"The study {study.folder} was made without --split-parts; leave that out, or begin a new study."
            )
        mpp = self.mpp if self.mpp is not None or study is None else study.mpp
        dataset = open_any(self.dataset, mpp, split_parts=self.split_parts or (study is not None and study.split_parts))
        if study is not None:
            dataset = study.with_edits(dataset)
        if (path := getattr(self, "splits", None)) is not None:
            dataset = with_splits(dataset, read_splits(path))
        elif study is not None:
            dataset = study.with_splits(dataset)
        self.say(*([] if quiet else [f"Skipped: {problem.sentence}" for problem in dataset.problems]))
        return dataset

    def named_splits(self, dataset: Dataset) -> dict[str, Any]:
        """Splits of ``--splits`` as a study keeps them in its settings; nothing where none were named."""
        if getattr(self, "splits", None) is None:
            return {}
        return {"splits": {entry.source.image: entry.source.split for entry in dataset.entries}}

    def images_of(self, study: Study) -> Dataset:
        """The dataset of a study as that knows it; ``--dataset`` says where the images are now."""
        dataset = study.open_images(self.dataset)
        self.say(*(f"Skipped: {problem.sentence}" for problem in dataset.problems))
        return dataset


class Commands:
    """The commands of ``histomix``, or the actions of one of them."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self._parsers = parser.add_subparsers(title=title, required=True, metavar=title.removesuffix("s").upper())

    def add(
        self, name: str, run: Callable[[Options], dict[str, Any]], summary: str, *shared: str
    ) -> argparse.ArgumentParser:
        """A command with options that others share; ``run`` carries it out and returns what ``--json`` prints."""
        added = self._parsers.add_parser(name, help=summary, description=summary, formatter_class=_Formatter)
        added.add_argument("--json", action="store_true", help="print one last line of JSON for programs")
        added.set_defaults(run=run, outputs=(), parser=added)
        for flag in shared:
            add = partial(add_output, added) if flag == "--out" else added.add_argument
            add(flag, **_SHARED[flag])
        return added

    def group(self, name: str, summary: str, title: str = "actions") -> Commands:
        """A command that has actions."""
        return Commands(self._parsers.add_parser(name, help=summary), title)


def add_output(parser: argparse.ArgumentParser, flag: str, kind: str = "folder", **how: Any) -> None:
    """Add an option that names what a command writes: a new ``folder`` or ``file``, or a ``study`` or ``model``.

    A study or a model may be one that is there already, with which the command goes on. Whether they can be written is
    seen before any work (`Options.check_outputs`).
    """
    action = parser.add_argument(flag, type=Path, **how)
    parser.set_defaults(outputs=(*parser.get_default("outputs"), (action.dest, kind)))


def positive(text: str) -> float:
    """A positive number, as the type of an option."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number")
    return value


def whole(text: str, low: int = 1) -> int:
    """A whole number from ``low`` on, as the type of an option."""
    value = int(text)
    if value < low:
        raise argparse.ArgumentTypeError(f"must be {low} or more")
    return value


def _seed(text: str) -> int:
    return whole(text, 0)


_SHARED: dict[str, dict[str, Any]] = {
    "dataset": {
        "type": Path,
        "help": "folder of labeled images in any format that 'convert' writes, HoVer-Net's among them; for tissue a "
        "folder for each class, or a CSV of images and classes",
    },
    "study": {"type": Path, "help": "study folder"},
    "--mpp": {"type": positive, "help": "µm per pixel, where the data does not say it"},
    "--split-parts": {
        "action": "store_true",
        "help": "read each connected part of an id as a nucleus of its own, as masks without ids need it",
    },
    "--splits": {
        "type": Path,
        "metavar": "FILE",
        "help": "CSV with the columns image and split, as 'histomix split' writes",
    },
    "--dataset": {"type": Path, "metavar": "FOLDER", "help": "where the images are now, if they moved"},
    "--format": {
        "choices": WRITABLE,
        "metavar": "NAME",
        "help": f"one of {', '.join(WRITABLE)} (hovernet; for images with a class each {CLASS_FOLDERS})",
    },
    "--out": {"required": True, "help": "new folder for the dataset"},
    "--device": {"choices": list(DEVICES), "default": "auto", "help": "where to compute"},
    "--seed": {"type": _seed, "default": 0, "help": "the same seed gives the same result"},
}


DATASET = "dataset", "--mpp", "--split-parts", "--splits"
"""A dataset, its scale, how its ids are read, and its splits."""


def add_settings(parser: Any, classes: Iterable[type], *, without: Iterable[str] = ()) -> None:
    """Add an option for each setting of these classes but those ``without``; settings of one name are one option.

    Presets of the last class are an option, too (`Options.take_preset`).
    """
    classes, added = list(classes), set(without)
    common, advanced = parser.add_argument_group("settings"), parser.add_argument_group("advanced settings")
    if "preset" not in added and (presets := presets_of(*classes)):
        told = preset_help(presets, classes).rstrip(".").replace("%", "%%")
        common.add_argument("--preset", choices=list(presets), default=argparse.SUPPRESS, help=told)
        parser.set_defaults(presets=presets)
    for cls in classes:
        for setting in settings_of(cls):
            if setting.name not in added:
                added.add(setting.name)
                _add(advanced if setting.option.advanced else common, setting)


def _add(group: Any, setting: Setting) -> None:
    option = setting.option
    default = "" if setting.required else f" (default: {shown(setting)})"
    bounds = "" if option.choices or not setting.bounds() else f"; {setting.bounds()}"
    text = f"{option.help.rstrip('.')}{bounds}{default}".replace("%", "%%")
    # What nobody says is left to the settings class.
    how: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS}
    if setting.type is bool:
        how["action"] = argparse.BooleanOptionalAction
    else:
        how |= {"type": _single(setting), "choices": list(option.choices) or None}
        if not option.choices:
            how["metavar"] = _METAVARS[option.kind or setting.type]
        if setting.pair:
            how |= {"nargs": 2, "metavar": ("LOW", "HIGH")}
        elif setting.many:
            how["nargs"] = "+"
    group.add_argument(*option.flags, setting.flag, dest=setting.name, required=False, **how)


_METAVARS: dict[Any, str] = {
    **{int: "N", float: "X", str: "TEXT"},
    **{"classes": "NAME", "encoder": "NAME", "model": "PATH", "file": "FILE", "folder": "FOLDER", "samplers": "NAME"},
}
"""What stands for a value in the help, by the setting's kind or type."""


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


def settings_from(cls: type[S], options: argparse.Namespace | Mapping[str, Any]) -> S:
    """Settings of what the command line says, the class's own defaults for the rest.

    Raises UsageError if a setting that is needed is missing, HistomixError if a value is out of its bounds.
    """
    given = options if isinstance(options, Mapping) else vars(options)
    settings = settings_of(cls)
    for setting in settings:
        if setting.required and given.get(setting.name) is None:
            raise UsageError(f"{setting.flag} is needed: {setting.option.help}")
    return made_from(cls, {setting.name: given[setting.name] for setting in settings if setting.name in given})


def follow(job: Job[T]) -> T:
    """Run a job to its end with a bar on a terminal, one line for each phase elsewhere; messages go above it."""
    bar: tqdm[Any] | None = None
    shown = ""
    try:
        while True:
            terminal.signals.check()
            event = next(job)
            phase = event.phase.split(",")[0].rstrip("0123456789 of")
            if phase != shown:
                shown = phase
                if bar is not None:
                    bar.close()
                if sys.stderr.isatty():
                    bar = tqdm(total=event.total or None, dynamic_ncols=True, leave=False)
                else:
                    terminal.write(sys.stderr, f"{phase} …")
            if event.message and bar is None:
                terminal.write(sys.stderr, event.message)
            elif event.message:
                tqdm.write(event.message, file=sys.stderr)
            if bar is not None:
                bar.set_description(event.phase, refresh=False)
                bar.total = event.total or None
                bar.update(event.done - bar.n)
    except StopIteration as end:
        return end.value
    finally:
        job.close()
        if bar is not None:
            bar.close()
