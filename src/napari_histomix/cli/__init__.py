"""``histomix``: the same jobs as the docks, without a screen."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from napari_histomix.cli.options import UsageError
from napari_histomix.cli.parser import build_parser
from napari_histomix.records import HistomixError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 something to mend, 2 wrong usage."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = build_parser(arguments)
    options = parser.parse_args(arguments)
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


def _failed(sentence: str, options: argparse.Namespace, found: Mapping[str, Any] | None = None) -> int:
    """Say what is wrong; ``found`` is what a command knows beside that, where it came to its end."""
    line = " ".join(sentence.split())
    print(f"histomix: {line}", file=sys.stderr)
    if options.json:
        print(json.dumps({**(found or {}), "error": line}, ensure_ascii=False))
    return 1
