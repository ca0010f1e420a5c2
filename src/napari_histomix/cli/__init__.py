"""``histomix``: the same jobs as the docks, without a screen.

Importing it loads next to nothing: what is slow to load comes once a signal ends the program in good order.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from napari_histomix.cli import terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default that of the process.

    Returns the exit code: 0 done, 1 something to mend, 2 wrong usage, 130 cancelled (SIGINT), 141 nobody reads the
    output any more, 143 ended (SIGTERM).
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    with terminal.taken(words, whole_process=arguments is None):
        from napari_histomix.cli.program import run

        return run(words)
