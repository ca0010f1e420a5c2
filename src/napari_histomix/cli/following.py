"""What a person sees while a command runs: a bar, messages, lines of results."""

from __future__ import annotations

import argparse
import sys
from typing import Any, TypeVar

from tqdm import tqdm

from napari_histomix.records import Job

T = TypeVar("T")


def follow(job: Job[T]) -> T:
    """Run a job to its end with a bar on a terminal, one line for each phase elsewhere; messages go above it."""
    bar: tqdm[Any] | None = None
    shown = ""
    try:
        while True:
            event = next(job)
            phase = event.phase.split(",")[0].rstrip("0123456789 of")
            if phase != shown:
                shown = phase
                if bar is not None:
                    bar.close()
                if sys.stderr.isatty():
                    bar = tqdm(total=event.total or None, dynamic_ncols=True, leave=False)
                else:
                    print(f"{phase} …", file=sys.stderr, flush=True)
            if event.message:
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


def say(options: argparse.Namespace, *lines: str) -> None:
    """Print for people; with --json standard output holds one line for programs, so this goes to standard error."""
    for line in lines:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)
