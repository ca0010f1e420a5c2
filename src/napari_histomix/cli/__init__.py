"""``histomix``: the same jobs as the docks, without a screen."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from napari_histomix import __version__
from napari_histomix.cli import data, doctor, making, networks, provenance, stages
from napari_histomix.cli.common import Commands, Options, UsageError
from napari_histomix.methods import DEFAULT, method_names
from napari_histomix.records import HistomixError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 something to mend, 2 wrong usage."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = build_parser(arguments)
    options = parser.parse_args(arguments, Options())
    try:
        result = options.run(options)
    except UsageError as error:
        parser.error(str(error))
    except HistomixError as error:
        return _failed(str(error), options)
    except KeyboardInterrupt:
        return _failed("Cancelled.", options)
    if "error" in result:
        return _failed(result["error"], options, result)
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    return 0


def _failed(sentence: str, options: Options, result: Mapping[str, Any] | None = None) -> int:
    """Say what is wrong; ``result`` is what a command knows beside that, where it came to its end."""
    line = " ".join(sentence.split())
    print(f"histomix: {line}", file=sys.stderr)
    if options.json:
        print(json.dumps({**(result or {}), "error": line}, ensure_ascii=False))
    return 1


def build_parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of ``histomix``; each command leaves the function that runs it in ``run``.

    ``arguments`` are those that will be parsed: ``synthesize`` has the options of the method they name.
    """
    parser = argparse.ArgumentParser(
        prog="histomix",
        description="Not for diagnosis. Grows the rare nuclei and tissue that a labeled H&E dataset lacks.",
        epilog="Exit codes: 0 done, 1 something to mend (one line says what), 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"napari-histomix {__version__}")
    commands = Commands(parser, "commands")
    data.add_commands(commands)
    doctor.add_commands(commands)
    making.add_commands(commands, _named_method(arguments))
    for room in (stages, provenance, networks):
        room.add_commands(commands)
    return parser


def _named_method(arguments: Sequence[str]) -> str:
    """The method that the arguments name; the default one where they name none that there is."""
    for place, argument in enumerate(arguments):
        name = argument.removeprefix("--method=")
        if argument == "--method" and place + 1 < len(arguments):
            name = arguments[place + 1]
        if name != argument and name in method_names():
            return name
    return DEFAULT
