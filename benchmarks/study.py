"""A large study: how long it takes to open, to look at the next nucleus, to decide, to undo.

    python benchmarks/study.py [--count 100000] [--folder FOLDER] [--window]

Made-up nuclei on made-up images, in a temporary folder or in one that is kept (with the images beside it). With
--window (and a screen, or xvfb) also the Review dock, from the key to the screen.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np

from napari_histomix.datasets import write_hovernet, write_type_info
from napari_histomix.records import KEEP, Change, NucleusClass, SourceRef
from napari_histomix.study import Study

T = TypeVar("T")
TURNS, SIDE, EACH = 15, 1500, 1600


def images(root: Path, count: int) -> None:
    """A dataset of flat images that hold so many made-up nuclei, 1,600 each."""
    classes = (NucleusClass(1, "rare", (255, 0, 0)), NucleusClass(2, "major", (0, 0, 255)))
    pixels = np.full((SIDE, SIDE, 3), (222, 165, 205), np.uint8)
    instances = np.zeros((SIDE, SIDE), np.int32)
    for number in range(1, 51):
        instances[28 * number : 28 * number + 9, 1:10] = number
    types = {number: 1 + number % 2 for number in range(1, 51)}
    for number in range(-(-count // EACH)):
        write_hovernet(root, f"image {number}", pixels, instances, types, 0.25)
    write_type_info(root, classes)


def make(folder: Path, count: int) -> None:
    """A study of made-up nuclei, of 36² pixels each."""
    images(folder.parent / "images", count)
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 100, count).tolist()
    grid = [(20 + 36 * (place // 40), 20 + 36 * (place % 40)) for place in range(EACH)]
    study = Study.create(folder, folder.parent / "images", "made up")
    pixels, origin = rng.integers(0, 256, (36, 36, 3), np.uint8), np.zeros((36, 36), np.uint8)
    origin[8:28, 8:28] = 1
    facts = {"quarter_turns": 1, "mirrored": False, "shift": [1, 2], "sampler": "fast", "model": "none"}
    run = study.begin_run("copypaste", {})

    def nucleus(number: int) -> Change:
        name, (row, col), instance = f"image {number // EACH}", grid[number % EACH], 1000 + number
        sources = (
            SourceRef("target", name, row=row + 18.0, col=col + 18.0),
            SourceRef("donor", f"image {number % 7}", 2 * (number % 25) + 2, 1, 32.0, 5.0, 81),
        )
        labels = np.where(origin == 1, instance, KEEP).astype(np.int32)
        made = facts | {"stain": number}
        return Change(
            *(number, name, name, row, col, pixels, origin, labels, {instance: 1}, (), None, "copypaste", number),
            *(sources, scores[number], made),
        )

    for start in range(0, count, 5000):
        study.add_changes(run.id, map(nucleus, range(start, min(start + 5000, count))))
    study.end_run(run.id)


def timed(what: str, act: Callable[[], T], turns: int = 1) -> T:
    """Run something, and print the median and the longest time of its turns."""
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        result = act()
        times.append(1000 * (time.perf_counter() - began))
    print(f"  {what:<34}{median(times):8.1f} ms" + (f"   longest {max(times):.1f}" if turns > 1 else ""), flush=True)
    return result


def without_a_window(folder: Path, count: int) -> None:
    """The study by itself."""
    print("Without a window")
    study = timed("open, with its integrity checked", lambda: Study.open(folder))
    table = timed("read all changes as arrays", study.change_table)
    changes = timed("list all changes", study.changes)
    assert len(table) == len(changes) == count
    numbers = iter(range(1, count, max(count // 97, 1)))
    timed("look at another nucleus", lambda: changes[next(numbers)].pixels, TURNS)
    timed("decide on one", lambda: study.decide("change", [next(numbers)], "approve"), TURNS)
    timed("undo", lambda: study.undo("change"), TURNS)
    timed("redo", lambda: study.redo("change"), TURNS)
    timed("decide on all at once", lambda: study.decide("change", range(count), "approve"))
    timed("undo that", lambda: study.undo("change"))
    timed("redo that", lambda: study.redo("change"))
    study.undo("change")
    timed("undo one of many", lambda: (study.decide("change", [3], "reject"), study.undo("change")), TURNS)


def with_a_window(folder: Path, count: int) -> None:
    """The Review step of the dock."""
    import napari
    from qtpy.QtWidgets import QApplication

    print("In the window")
    viewer = napari.Viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")
    app, session = QApplication.instance(), dock.session

    def settle(seconds: float = 0.3) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            app.processEvents()
            time.sleep(0.003)

    def opened() -> None:
        dock.steps[0].panel.open_study(folder)
        while len(session.table) < count:
            app.processEvents()
            time.sleep(0.002)

    timed("open", opened)
    dock.open_step(3)
    settle(1)
    review = dock.steps[3].panel
    while review.book.busy:
        settle()

    def turn(what: str, act: Callable[[], object]) -> None:
        answered, shown = [], []
        for _ in range(TURNS):
            began = time.perf_counter()
            act()
            answered.append(1000 * (time.perf_counter() - began))
            app.processEvents()
            while review.book.busy:
                app.processEvents()
            shown.append(1000 * (time.perf_counter() - began))
            settle()
        print(
            f"  {what:<34}{median(answered):8.1f} ms   longest {max(answered):.1f}"
            f"   on the screen {median(shown):.1f} ms   longest {max(shown):.1f}",
            flush=True,
        )

    camera, steps = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera, iter(range(TURNS))
    turn("napari alone moves its camera", lambda: setattr(camera, "center", (0, 100 + 9 * next(steps), 100)))
    turn("next", lambda: review.move_by(1))
    review.move_by(-TURNS)
    turn("approve", lambda: review.decide("approve"))
    turn("undo", review.undo)
    turn("redo", review.redo)
    turn("undo again", review.undo)
    viewer.close()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--window", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "study"
        if not folder.exists():
            began = time.perf_counter()
            make(folder, options.count)
            print(f"{options.count:,} nuclei written in {time.perf_counter() - began:.0f} s")
        without_a_window(folder, options.count)
        if options.window:
            with_a_window(folder, options.count)


if __name__ == "__main__":
    main()
