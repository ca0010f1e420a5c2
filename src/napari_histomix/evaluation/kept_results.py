"""What a long test made so far, in a folder: a killed test goes on, and ends with the report it would have had."""

from __future__ import annotations

import json
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.text_files import writable
from napari_histomix.datasets.writing import write_text
from napari_histomix.records import Event, HistomixError, Job, relayed

T = TypeVar("T")

IDENTITY = "test.json"
"""What a kept test began with."""


class KeptResults:
    """Results of a test as they are made, and what there is to tell (``notes``); in a folder, once it is named."""

    def __init__(self) -> None:
        self.notes: dict[str, None] = {}
        self.folder: Path | None = None

    @staticmethod
    def check(folder: Path | None, resume: bool) -> None:
        """Raise HistomixError, before any work, if a new test is to be kept where something is."""
        if folder is not None and folder.exists() and not resume:
            raise HistomixError(f"{folder} already exists; name a new folder or resume the test (--resume).")

    def keep_in(self, folder: Path, resume: bool, identity: Mapping[str, Any]) -> None:
        """Keep what is made in a new folder, or in that of the test that is resumed.

        ``identity`` is what the test begins with, as plain JSON values: it may only be resumed with the same.
        """
        self.folder = folder
        if not resume:
            with writable(folder):
                folder.mkdir(parents=True)
                write_text(folder / IDENTITY, json.dumps(identity))
            return
        try:
            known = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise HistomixError(f"{folder} holds no test that could be resumed; start it without --resume.") from None
        if known != identity:
            raise HistomixError(
                f"The test kept in {folder} began with other images, models or settings; name a new folder."
            )

    def made(
        self, phase: str, number: int, total: int, job: Callable[[], Job[NDArray[Any]]]
    ) -> Job[tuple[NDArray[Any], float]]:
        """Item ``number`` of a phase and the seconds it took: as it was kept, or made now and kept."""
        name = f"{phase.replace(': ', '-').replace(' ', '-').lower()}-{number:04d}.npz"
        path = self.folder / name if self.folder else None
        messages: list[str] = []
        if path is not None and path.exists():
            yield Event(phase, number, total)
            try:
                with np.load(path) as kept:
                    made, seconds, messages = kept["made"], float(kept["seconds"]), kept["messages"].tolist()
            except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
                raise HistomixError(f"{path} is damaged; delete it, and resume the test: it is made again.") from None
            for message in messages:
                self.note(message)
            return made, seconds

        def told(event: Event) -> Event:
            messages.extend([event.message] if event.message else [])
            return event

        began = time.perf_counter()
        made = yield from self.passed(relayed(job(), told), phase, number, total)
        seconds = time.perf_counter() - began
        if path is not None:
            beside = path.with_suffix(".partial")
            with writable(path):
                with beside.open("wb") as file:
                    np.savez_compressed(file, made=made, seconds=seconds, messages=np.array(messages, np.str_))
                os.replace(beside, path)
        return made, seconds

    def note(self, sentence: str) -> None:
        """Remember what a person should know, once."""
        self.notes.setdefault(sentence)

    def passed(self, job: Job[T], phase: str = "", done: int = 0, total: int = 0) -> Job[T]:
        """A job whose messages are kept and passed on once, under a phase of this test if one is given."""

        def change(event: Event) -> Event:
            message = event.message if event.message and event.message not in self.notes else None
            if message:
                self.note(message)
            event = replace(event, message=message, phase=phase or event.phase)
            return replace(event, done=done, total=total) if total else event

        return relayed(job, change)
