"""Take the documentation's screenshots: starts the real program on the bundled sample and does the main job.

Needs a screen of at least 1600×1000, a virtual one will do:
xvfb-run -a -s "-screen 0 1920x1200x24" python scripts/screenshots.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import QEventLoop, QTimer
from scipy.ndimage import binary_erosion, uniform_filter

from napari_histomix.datasets import load_sample
from napari_histomix.datasets.writing import write_png
from napari_histomix.stains import is_tissue
from napari_histomix.widgets.session import session_of

OUT = Path(__file__).resolve().parents[1] / "docs" / "screenshots"
COUNT = 12


def wait_until(true: Callable[[], bool], seconds: float = 900) -> None:
    """Run the event loop until something is true."""
    loop, poll, end = QEventLoop(), QTimer(), time.monotonic() + seconds
    poll.setInterval(20)
    poll.timeout.connect(lambda: loop.quit() if true() or time.monotonic() > end else None)
    poll.start()
    loop.exec()
    poll.stop()
    if not true():
        raise TimeoutError("the program did not get there in time")


def pause(seconds: float) -> None:
    """Let the program go on for a while."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end)


def settle(dock: Any) -> None:
    """Wait until nothing runs and everything is shown."""
    panels = dock.panels
    idle = (lambda: not dock.data.book.busy, lambda: not dock.export.busy)
    wait_until(lambda: all(one() for one in idle) and not any(one.runner.running for one in panels))
    pause(0.7)


def shoot(viewer: Any, name: str) -> None:
    """Save the whole window."""
    viewer.screenshot(str(OUT / f"{name}.png"), canvas_only=False, flash=False)


def shoot_reader_test(viewer: Any, dock: Any) -> None:
    """Make a reader test of the open study, and save a picture of its first crop."""
    panel = dock.open("results/test")
    wait_until(lambda: panel.making.offer is not None)
    panel.making.what.setCurrentIndex(1)
    panel.making.run()
    wait_until(lambda: panel.test is not None)
    panel.reader.setText("Ann")
    panel.begin()
    pause(0.7)
    shoot(viewer, "reader-test")
    panel.leave()


def shoot_method(viewer: Any, dock: Any, name: str, count: int, **settings: Any) -> None:
    """Make some changes with another method in the open study, and save a picture of their review."""
    dock.session.choose_method(name)
    dock.open("make/making")
    settle(dock)
    fields = dock.make.form.fields
    fields["count" if "count" in fields else "per_class"].value = count
    for setting, value in settings.items():
        fields[setting].value = value
    dock.make.run()
    settle(dock)
    dock.open("review")
    settle(dock)
    dock.review.move_to(len(dock.session.table) - 1)
    settle(dock)
    shoot(viewer, f"{name}-review")


def make_tissue(root: Path) -> Path:
    """Class folders cut out of the bundled sample."""
    sample = load_sample()
    for number, entry in enumerate(sample.entries):
        image = sample.read(entry)
        for kind, part in (("left", image.pixels[:, :160]), ("right", image.pixels[:, 160:])):
            (root / kind).mkdir(parents=True, exist_ok=True)
            write_png(root / kind / f"{number}.png", part, image.mpp)
    return root


def shoot_generate(viewer: Any, dock: Any) -> None:
    """Sample a layout of the open dataset and paint it; then paint a lymphocyte into the image that is shown."""
    panel = dock.open("make/generate")
    sampling, real = panel.layout_box, panel.image.layer
    sampling.form.fields["side"].value = 128
    sampling.bar.run_button.click()
    wait_until(lambda: not sampling.sampler.busy)
    panel.paint_bar.run_button.click()
    wait_until(lambda: not panel.runner.busy)
    painted = viewer.layers.selection.active
    viewer.camera.center = np.mean(painted.extent.world, axis=0)
    viewer.camera.zoom = 780 / float(np.ptp(painted.extent.world[:, 0]))
    pause(1)
    shoot(viewer, "generate-dock")

    panel.task.setCurrentIndex(panel.task.findData("what if"))
    wait_until(lambda: panel.image.layer is real)
    panel.edit_box.kind.setCurrentIndex(panel.edit_box.kind.findData("lymphocyte"))
    panel.edit_box.add_button.click()
    drawn, pixels = viewer.layers[f"{real.name}, what if nuclei"], real.data
    free = binary_erosion(drawn.data == 0, iterations=9)
    free[:30], free[-30:], free[:, :30], free[:, -30:] = False, False, False, False
    pale = uniform_filter(np.where(is_tissue(pixels), 0.0, 1.0), 13)
    row, col = np.unravel_index(np.where(free, pale, np.inf).argmin(), free.shape)
    rows, cols = np.ogrid[: free.shape[0], : free.shape[1]]
    drawn.data = np.where((rows - row) ** 2 + (cols - col) ** 2 <= 5**2, drawn.selected_label, drawn.data)
    drawn.mode = "pan_zoom"
    panel.paint_bar.run_button.click()
    wait_until(lambda: not panel.runner.busy)
    made = viewer.layers[f"{real.name}, what if"].data
    window = np.s_[row - 30 : row + 30, col - 30 : col + 30]
    pair = [np.kron(part[window], np.ones((8, 8, 1), np.uint8)) for part in (pixels, made)]
    Image.fromarray(np.concatenate([pair[0], np.full_like(pair[0][:, :8], 255), pair[1]], axis=1)).save(
        OUT / "what-if.png"
    )


def main() -> None:
    """Do the main job and save a picture of every step."""
    OUT.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer(title="napari")
    viewer.window.resize(1600, 1000)
    with tempfile.TemporaryDirectory() as home:
        session_of(viewer).home = Path(home) / "HistoMix"
        _, dock = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")
        session = dock.session

        dock.data.open_sample()
        wait_until(lambda: session.image != "")
        settle(dock)
        shoot(viewer, "1-data")
        shoot_generate(viewer, dock)

        dock.open("make/plan")
        dock.plan.page.run()
        settle(dock)
        dock.plan.page.select(range(4))
        dock.plan.page.decide("keep")
        dock.plan.page.select([5])
        dock.plan.page.decide("drop")
        shape = session.survey.shapes
        middle = min(
            session.candidates.items[6:60],
            key=lambda one: max(
                abs(at / size - 0.5)
                for at, size in zip((one.target.row, one.target.col), shape[one.target.image], strict=True)
            ),
        )
        dock.plan.page.select([middle.rank])
        settle(dock)
        shoot(viewer, "2-candidates")

        dock.open("make/making")
        dock.make.form.fields["count"].value = COUNT
        dock.make.run()
        settle(dock)
        shoot(viewer, "3-make")

        dock.open("review")
        settle(dock)
        for decision in ("approve", "approve", "reject", "approve", "approve"):
            dock.review.decide(decision)
            settle(dock)

        def room(at: int) -> float:
            """Pixels from a placement to the nearest edge of its image."""
            dock.review.move_to(at)
            place = dock.review.current.target
            height, width = session.dataset.read(place.image).instances.shape
            return min(place.row, place.col, height - place.row, width - place.col)

        dock.review.move_to(max(range(5, len(session.table)), key=room))
        settle(dock)
        shoot(viewer, "4-review")

        for at in range(len(session.table)):
            dock.review.move_to(at)
            if dock.review.current.id not in session.decisions["change"]:
                dock.review.decide("approve")
                settle(dock)
        dock.open("results/export")
        settle(dock)
        dock.export.run()
        settle(dock)
        shoot(viewer, "5-export")

        shoot_method(viewer, dock, "gradmix", 6)
        shoot_reader_test(viewer, dock)
        viewer.close()

        viewer = napari.Viewer(title="napari")
        viewer.window.resize(1600, 1000)
        session_of(viewer).home = Path(home) / "HistoMix"
        _, dock = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")
        dock.data.open_folder(make_tissue(Path(home) / "tissue"))
        wait_until(lambda: dock.session.image != "")
        settle(dock)
        dock.session.choose_method("usegmix")
        dock.open("make/plan")
        dock.plan.page.run()
        settle(dock)
        # Donors of so few images are never as alike as usual.
        shoot_method(viewer, dock, "usegmix", 1, unlike=1.0)
        viewer.close()


if __name__ == "__main__":
    main()
