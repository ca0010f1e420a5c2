"""How a segment pool of a million holds up: one weighted draw, and the Pool dock in a real window.

    python benchmarks/pool.py [SEGMENTS]        (under xvfb-run where there is no screen)

Makes a pool of so many segments (30 an image, vectors of 128) in a temporary folder, then prints a table. A timer ticks
every 5 ms; a pause between two ticks is how long something held the window.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from PIL import Image

from napari_histomix.records import Source
from napari_histomix.sampling import DonorDraw
from napari_histomix.segmentation.pool import LIMIT, MAP, POOL, ROW, THUMBNAIL, PoolImage, Projection, SegmentPool
from napari_histomix.study import Study

KINDS = ("grade 2", "grade 3", "grade 4")
PER_IMAGE = 30
CHUNK = 50_000
LIMIT_PAUSE = 0.05
THUMBNAILS = 500
"""Different ones; segments share them."""


def make_pool(folder: Path, count: int) -> Study:
    """Write a pool of one part, file by file as ``PoolWriter`` leaves them, which would take minutes to do it."""
    study = Study.create(folder, folder.parent, "a million")
    part = folder / POOL / "part-0000"
    part.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = np.zeros(count, ROW)
    rows["image"], rows["number"] = np.divmod(np.arange(count), PER_IMAGE)
    rows["number"] += 1
    rows["height"], rows["width"] = rng.integers(20, 120, (2, count))
    rows["row"], rows["col"] = rng.integers(0, 390, (2, count))
    rows["area"] = rows["height"] * rows["width"] * 0.7
    rows["vote_share"], rows["stability"] = rng.random((2, count))
    rows["border"] = rng.random(count) < 0.1
    jpegs = []
    for _ in range(THUMBNAILS):
        coarse = rng.integers(90, 255, (12, 12, 3)).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(coarse).resize((THUMBNAIL, THUMBNAIL)).save(stream, "JPEG", quality=85)
        jpegs.append(stream.getvalue())
    sizes = np.array([len(one) for one in jpegs])
    which = rng.integers(0, THUMBNAILS, count)
    rows["thumbnail"], rows["thumbnail_bytes"] = (np.cumsum(sizes) - sizes)[which], sizes[which]
    (part / "thumbnails.bin").write_bytes(b"".join(jpegs))
    (part / "masks.bin").write_bytes(b"")
    rows.tofile(part / "rows.bin")

    image_count = -(-count // PER_IMAGE)
    kinds = np.minimum(np.arange(image_count) * len(KINDS) // image_count, len(KINDS) - 1)
    images = [
        PoolImage(Source("big", f"image_{index}", patient=f"p{index % 40}"), KINDS[kind], (512, 512), 0.5, "0" * 64)
        for index, kind in enumerate(kinds.tolist())
    ]
    about = {"signature": {"encoder": "fake"}, "dim": 4, "images": [asdict(one) for one in images]}
    vectors = open_memmap(part / "vectors.npy", "w+", np.float32, (count, LIMIT))
    for start in range(0, count, CHUNK):
        some = vectors[start : start + CHUNK]
        some[:] = rng.standard_normal(some.shape, np.float32)
    vectors.flush()
    middles = rng.normal(0, 4, (len(KINDS), 2))
    np.save(part / "map.npy", (rng.normal(size=(count, 2)) + middles[kinds[rows["image"]]]).astype(np.float32))
    np.zeros((count, 4), np.float32).tofile(part / "features.bin")
    plain = Projection(np.zeros(4, np.float32), np.ones(4, np.float32), np.zeros((4, 2), np.float32))
    for number, kind in enumerate((MAP, *KINDS)):
        np.savez(part / f"projection-{number:04d}.npz", kind=np.array(kind), **vars(plain))
    (part / "part.json").write_text(json.dumps(about), encoding="utf-8")
    return study


def timed(call: Callable[[], object], times: int = 1) -> str:
    """Median time of a call."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return f"{1000 * float(np.median(took)):,.0f} ms"


def measure_draw(pool: SegmentPool) -> None:
    """One weighted draw among all segments."""
    draw = DonorDraw(pool.vectors(np.arange(len(pool))))
    allowed, rng = np.ones(len(pool), bool), np.random.default_rng(0)
    target = np.array(draw.vectors[len(pool) // 2])
    draw.draw(target, allowed, rng)
    print(f"| one weighted draw | {timed(lambda: draw.draw(target, allowed, rng), 9)} | | |")


def measure_dock(folder: Path, count: int) -> None:
    """The dock: opening, scrolling, sorting, deciding; how long each held the window."""
    import napari
    from qtpy.QtCore import QEventLoop, Qt, QTimer

    viewer = napari.Viewer()
    _, panel = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix: Pool")
    pauses: list[float] = []
    last = time.perf_counter()

    def tick() -> None:
        nonlocal last
        now = time.perf_counter()
        pauses.append(now - last)
        last = now

    timer = QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.setInterval(5)
    timer.timeout.connect(tick)
    timer.start()

    def wait(done: Callable[[], bool], least: float = 0.0) -> None:
        # A loop of Qt's own, as when a person works: processEvents() alone lets timers wait behind drawing.
        began = time.perf_counter()
        while not done() or time.perf_counter() - began < least:
            loop = QEventLoop()
            QTimer.singleShot(max(1, min(10, round(1000 * (least - time.perf_counter() + began)))), loop.quit)
            loop.exec()

    def report(what: str, act: Callable[[], object], done: Callable[[], bool] = lambda: True) -> None:
        wait(lambda: True, 0.3)
        pauses.clear()
        began = time.perf_counter()
        act()
        wait(done)
        took = time.perf_counter() - began
        wait(lambda: True, 0.1)
        over = sum(pause > LIMIT_PAUSE for pause in pauses)
        print(
            f"| {what} | {took:.2f} s | {1000 * max(pauses, default=0):.0f} ms | {over} of {len(pauses)} |", flush=True
        )

    report("the dock opens", lambda: panel.open_study(folder), lambda: panel.curation is not None)
    view, bar = panel.view, panel.view.gallery.verticalScrollBar()

    def scroll(steps: np.ndarray) -> None:
        for value in steps:
            bar.setValue(int(value))
            wait(lambda: True, 0.016)

    def repaint() -> None:
        for number in range(200):
            panel.count.setText(f"{number}")
            wait(lambda: True, 0.016)

    report("one word rewritten 200 times, for comparison", repaint)
    report("6,000 px in 200 steps, as by the wheel", lambda: scroll(np.arange(0, 6000, 30)))
    report("from top to bottom in 200 steps, by the bar", lambda: scroll(np.linspace(0, bar.maximum(), 200)))
    report("select all", lambda: view.selection.select(view.gallery.numbers))
    report("filter: one class", lambda: view.filters.kind.setCurrentIndex(1))
    report("filter: none", lambda: view.filters.kind.setCurrentIndex(0))
    report("sort by size", lambda: view.filters.order.setCurrentIndex(1))
    view.gallery.go(0)
    before = view.gallery.numbers
    report(
        "sort by similarity", lambda: view.filters.order.setCurrentIndex(4), lambda: view.gallery.numbers is not before
    )
    view.selection.select(view.gallery.numbers[:100_000])
    report(f"drop {min(count, 100_000):,}", panel.drop, lambda: not panel.writer.busy)
    report("undo", panel.undo, lambda: not panel.writer.busy)
    timer.stop()
    viewer.close()


def main() -> None:
    """Make the pool, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("segments", type=int, nargs="?", default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "study"
        make_pool(folder, options.segments)
        print(f"{options.segments:,} segments\n\n| | time | longest pause | pauses over 50 ms |\n|---|---|---|---|")
        print(f"| the pool is read | {timed(lambda: SegmentPool(folder))} | | |", flush=True)
        # The dock first: peak memory is that of the whole process.
        measure_dock(folder, options.segments)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"| peak memory, with napari and mapped files | {peak:.2f} GB | | |", flush=True)
        measure_draw(SegmentPool(folder))


if __name__ == "__main__":
    main()
