"""All of ``histomix`` once it is loaded: its parser, its commands, and what is said at their end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from napari_histomix import __version__, logs, preferences
from napari_histomix.cli import data, doctor, making, networks, provenance, stages, terminal, upkeep
from napari_histomix.cli.common import Commands, Options, Page, Parser, UsageError
from napari_histomix.methods import DEFAULT, method_names
from napari_histomix.records import HistomixError

MOST_PROBLEMS = 20
"""Lines of problems that are shown before an error; JSON has all of them."""


def run(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code."""
    json = terminal.wants_json(arguments)
    try:
        try:
            # What was loaded until now may be left at once, and what comes now in good order.
            terminal.signals.work()
            code = _carried_out(arguments, json)
            terminal.flush()
            return code
        except terminal.StreamError as error:
            return terminal.CLOSED if error.closed else _failed(str(error), json)
        except KeyboardInterrupt as stop:
            return _failed(terminal.CANCELLED_WORDS, json, code=getattr(stop, "code", terminal.CANCELLED))
        except BrokenPipeError:
            return terminal.CLOSED
        except Exception as error:
            if (signaled := terminal.signals.stopped) is not None:
                # A library made its own error of the signal.
                return _failed(terminal.CANCELLED_WORDS, json, code=signaled.code)
            return _failed(_unforeseen(error), json)
    except terminal.StreamError:
        return terminal.CLOSED


def _carried_out(arguments: Sequence[str], json: bool) -> int:
    options = Options()
    try:
        parser = build_parser(arguments)
        parser.parse_args(arguments, options)
        logs.begin(getattr(options, "parser", parser).prog)
        if problem := preferences.kept()[1]:
            terminal.write(sys.stderr, problem)
        options.take_preset()
        options.check_outputs()
        result = options.run(options)
    except Page as page:
        if json:
            terminal.write_json({"text": page.text})
        else:
            terminal.write(sys.stdout, page.text)
        return 0
    except UsageError as error:
        # What a command finds only when it is carried out is said as its parser would have said it.
        command = getattr(options, "parser", parser)
        usage, prog = error.usage or command.format_usage(), error.prog or command.prog
        return _failed(str(error), json, before=[usage.rstrip("\n")], prefix=f"{prog}: error", code=2)
    except HistomixError as error:
        return _failed(str(error), json, problems=error.problems)
    if "error" in result:
        return _failed(result["error"], json, result)
    if json:
        terminal.write_json(result)
    return 0


def _failed(
    sentence: str,
    json: bool,
    result: Mapping[str, Any] | None = None,
    *,
    before: Sequence[str] = (),
    problems: Sequence[str] = (),
    prefix: str = "histomix",
    code: int = 1,
) -> int:
    """Say what is wrong; ``result`` is what a command knows beside that, where it came to its end."""
    line = " ".join(sentence.split())
    shown = [f"problem: {problem}" for problem in problems[:MOST_PROBLEMS]]
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown):,} more problems.")
    # Who cannot hear it on one stream may still hear it on the other.
    with suppress(terminal.StreamError):
        terminal.write(sys.stderr, *before, *shown, f"{prefix}: {line}")
    if json:
        more = {"problems": list(problems)} if problems else {}
        with suppress(terminal.StreamError):
            terminal.write_json({**(result or {}), **more, "error": line})
    return code


def _unforeseen(error: Exception) -> str:
    """A sentence about what nobody foresaw; what its makers need to know is in the log."""
    if isinstance(error, MemoryError):
        return "There is not enough memory for this; close other programs, or take smaller images."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be read or written ({error.strerror}); check the disk and its permissions."
    logs.begin("histomix")
    logging.getLogger(__name__).error("A command failed", exc_info=error)
    return (
        f"A fault of napari-histomix ({type(error).__name__}: {error}) ended this; {logs.details()}: "
        "'histomix report-problem' makes a file of it for the makers."
    )


def build_parser(arguments: Sequence[str] = ()) -> Parser:
    """The parser of ``histomix``; each command leaves the function that runs it in ``run``.

    ``arguments`` are those that will be parsed: ``synthesize`` has the options of the method they name.
    """
    parser = Parser(
        prog="histomix",
        description="Not for diagnosis. Grows the rare nuclei and tissue that a labeled H&E dataset lacks.",
        epilog="Exit codes: 0 done, 1 something to mend (one line says what), 2 wrong usage, 130 cancelled (Ctrl-C), "
        "141 nobody reads the output any more, 143 ended by the system (SIGTERM).",
    )
    parser.add_argument("--version", action="version", version=f"napari-histomix {__version__}")
    commands = Commands(parser, "commands")
    data.add_commands(commands)
    doctor.add_commands(commands)
    making.add_commands(commands, _named_method(arguments))
    for room in (stages, provenance, networks, upkeep):
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
