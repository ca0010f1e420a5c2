"""A person at work who dies at a random moment: reviews, makes synthetic nuclei, exports, until it is killed.

Run as a program, it works on lines "what seed seconds": it forks, works in the child, kills the child after that time
and prints how many acts the child had been told are done. Python and the package are loaded once for all of them.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from sample_changes import nucleus_change

from napari_histomix.datasets import load_sample
from napari_histomix.methods import method_of
from napari_histomix.records import Candidate, Change, Location, drain
from napari_histomix.study import Study
from napari_histomix.study.export import export

# An export asks the method of its changes, whose libraries take seconds to load: once, not in each child.
method_of("nucleimix")

ITEMS = 40
REVIEW, PLACE, EXPORT = "review", "place", "export"
SUBJECTS = {
    "change": ("approve", "reject", "delete", None),
    "change note": ("a note", "änother", None),
    "change reasons": ("seam", "stain, shape", None),
}
State = dict[str, dict[int, str]]


def changes(count: int = ITEMS) -> list[Change]:
    """Made-up nuclei on the sample, none in another's way."""
    names = [entry.source.image for entry in load_sample().training]
    found = []
    for rank in range(count):
        image, place = names[rank % len(names)], rank // len(names)
        row, col = 4 + 20 * (place // 5), 4 + 20 * (place % 5)
        rng = np.random.default_rng(rank)
        origin = np.zeros((12, 12), np.uint8)
        origin[2:10, 2:10], origin[4:8, 4:8] = 2, 1
        pixels = np.where((origin > 0)[..., None], rng.integers(0, 256, (12, 12, 3)), 0).astype(np.uint8)
        target = Location(image, "background", row + 6.0, col + 6.0)
        donor = Location(names[(rank + 1) % len(names)], "rare", 30.0, 30.0, 3, 1, 80)
        candidate = Candidate(rank, target, donor, -10.0 - rank, 50.0)
        provenance = {"method": "NucleiMix", "sampler": "fast"}
        found.append(nucleus_change(candidate, 9000 + rank, (row, col), pixels, origin, origin == 1, provenance))
    return found


def begin(folder: Path) -> Study:
    """A study in which a run has begun."""
    dataset = load_sample()
    with Study.begin(folder, dataset.root, dataset.name) as study:
        study.begin_run("nucleimix", {})
    return study


def acts(seed: int, count: int = 2000) -> list[tuple]:
    """What a person does, in order: ("undo",), ("redo",) or ("act", changes)."""
    rng = random.Random(seed)
    found: list[tuple] = []
    for _ in range(count):
        kind = rng.choice(["undo", "redo", "act", "act", "act"])
        if kind != "act":
            found.append((kind,))
            continue
        items = rng.sample(range(ITEMS), rng.choice([1, 1, 1, 5, ITEMS]))
        subject = rng.choice(list(SUBJECTS))
        entries = [(subject, item, rng.choice(SUBJECTS[subject])) for item in items]
        found.append(("act", entries))
    return found


def do(study: Study, act: tuple) -> None:
    """One act of a person."""
    if act[0] == "act":
        study.act(act[1])
    else:
        getattr(study, act[0])("change")


def review(folder: Path, seed: int, tell) -> None:
    study = Study.open(folder)
    study.hold()
    for act in acts(seed):
        do(study, act)
        tell()


def place(folder: Path, seed: int, tell) -> None:
    study = Study.open(folder)
    there = set(study.changes().ids)
    left = [change for change in changes() if change.id not in there]
    for start in range(0, len(left), 3):
        study.add_changes(1, left[start : start + 3])
        tell()


def exporting(folder: Path, seed: int, tell) -> None:
    for number in range(100):
        drain(export(load_sample(), changes(3), folder / "exports" / f"{seed}-{number}"))
        tell()


def main(folder: Path) -> None:
    works = {REVIEW: review, PLACE: place, EXPORT: exporting}
    for line in sys.stdin:
        what, seed, seconds = line.split()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                works[what](folder, int(seed), partial(os.write, writing, b"."))
            finally:
                time.sleep(60)
                os._exit(0)
        os.close(writing)
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as stream:
            print(len(stream.read()), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
