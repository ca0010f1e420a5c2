"""How long napari's main thread is held while candidates are found and nuclei synthesized, in a real window.

    python benchmarks/main_thread.py DATASET --rare NAME        (under xvfb-run where there is no screen)

A timer ticks every 5 ms; a pause between two ticks is how long something held the main thread. Prints the longest pause
and how many were over 100 ms, from the start of each run to its end, and apart from that while its results appear.
Beside them, in the same window: what napari alone takes for one image layer added to an empty list.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_histomix.widgets.session import session_of

LIMIT = 0.1


def main() -> None:
    """Open a viewer, run both jobs, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rare", required=True)
    parser.add_argument("--count", type=int, default=32)
    options = parser.parse_args()

    viewer = napari.Viewer()
    with tempfile.TemporaryDirectory() as home:
        session_of(viewer).home = Path(home)
        _, dock = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")
        pauses: list[float] = []
        last = time.perf_counter()

        def tick() -> None:
            nonlocal last
            now = time.perf_counter()
            pauses.append(now - last)
            last = now

        timer = QTimer()
        timer.setInterval(5)
        timer.timeout.connect(tick)
        timer.start()

        def wait(done: Callable[[], bool]) -> str:
            pauses.clear()
            began = time.perf_counter()
            while not done():
                QApplication.processEvents()
                time.sleep(0.001)
            over = sum(pause > LIMIT for pause in pauses)
            longest = max(pauses, default=0.0)
            return f"{time.perf_counter() - began:.1f} s | {1000 * longest:.0f} ms | {over} of {len(pauses):,}"

        print("| run | time | longest pause | pauses over 100 ms |\n|---|---|---|---|")
        for _ in range(2):  # the first layer of all is slower: shaders are compiled
            viewer.layers.clear()
            QTimer.singleShot(50, lambda: viewer.add_image(np.zeros((1000, 1000, 3), np.uint8), name="plain"))
            alone = wait(lambda: "plain" in viewer.layers and len(pauses) > 100)
        print(f"| napari alone: one image layer | {alone} |", flush=True)
        viewer.layers.clear()

        panels = (dock.data, dock.plan, dock.make)
        dock.data.open_folder(options.dataset)
        wait(lambda: dock.session.image != "" and not dock.data.runner.running and not dock.data.book.busy)
        # Opening a dataset starts loading the network libraries; a person chooses classes meanwhile.
        wait(lambda: not any(thread.name == "histomix-preload" for thread in threading.enumerate()))
        number = dock.session.dataset.class_number(options.rare)
        dock.data.classes.rare_boxes[number].setChecked(True)
        dock.make.form.fields["count"].value = options.count
        for step, (title, panel) in enumerate((("candidates", dock.plan.page), ("making", dock.make)), 1):
            dock.open_step(step)
            wait(lambda: not dock.data.book.busy)
            panel.progress.run_button.click()
            print(f"| {title} | {wait(lambda panel=panel: not panel.runner.running)} |", flush=True)
            shown = wait(lambda: not dock.data.book.busy and not any(one.runner.running for one in panels))
            print(f"| {title}: layers | {shown} |", flush=True)
        timer.stop()
        viewer.close()


if __name__ == "__main__":
    main()
