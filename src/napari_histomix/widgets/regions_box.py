"""Regions drawn as shapes: candidates outside of them are dropped, as one act that undo takes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Shapes
from numpy.typing import NDArray
from qtpy.QtGui import QHideEvent
from qtpy.QtWidgets import QWidget
from skimage.measure import points_in_poly

from napari_histomix.records import Event, Job
from napari_histomix.study.decision_log import Entry
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.decisions import DROP
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.layers import LayerBook
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer_layers import LayerChoice, about

AREAS = ("rectangle", "polygon", "ellipse")
"""Shapes that have an inside."""
EDGE, EDGE_UM = "#00e5ff", 1.0


def inside(points: NDArray[np.float64], kinds: Sequence[str], shapes: Sequence[NDArray[np.float64]]) -> NDArray[Any]:
    """Which of some points (N, 2) lie in one or several of some shapes, each of vertices (M, 2); (N,) bool.

    An ellipse is given by the corners of its box, as napari gives it; lines and paths have no inside.
    """
    within = np.zeros(len(points), bool)
    for kind, vertices in zip(kinds, shapes, strict=True):
        if kind == "ellipse":
            center, axes = vertices.mean(axis=0), np.stack([vertices[1] - vertices[0], vertices[3] - vertices[0]]) / 2
            if abs(np.linalg.det(axes)) > 1e-12:
                within |= (((points - center) @ np.linalg.inv(axes)) ** 2).sum(axis=1) <= 1
        elif kind in AREAS:
            within |= points_in_poly(points, vertices)
    return within


class RegionsBox(QWidget):
    """A Shapes layer, a button that begins one, and the button that drops what lies outside."""

    def __init__(self, viewer: Any, session: Session, book: LayerBook) -> None:
        super().__init__()
        self.viewer, self.session, self.book = viewer, session, book
        self.layers = LayerChoice(viewer, Shapes)
        self.layers.setToolTip("The Shapes layer with the regions: rectangles, polygons and ellipses, which unite.")
        self.layers.setAccessibleName("Regions")
        tip = "Draw a polygon over the image, point by point; a double click or Enter ends it. Several unite."
        self.draw_button = ui.button("Draw a region", tip, self.draw)
        tip = (
            "Drop all undecided candidates of the image that the regions were drawn on, outside of them. What you kept "
            "stays, undo takes it back, and candidates of other images stay as they are."
        )
        self.drop_button = ui.button("Drop outside", tip, self.drop)
        self.others = ui.check(
            "Other images too", "Drop the undecided candidates of all other images as well: only the regions remain."
        )
        self.note = ui.Note()
        self.runner = JobRunner(self).on(finished=self._on_dropped, failed=lambda said: self.note.say(said, "error"))
        parts = ui.row(self.layers, self.draw_button, stretch=0), ui.row(self.drop_button, self.others, stretch=0)
        self.setLayout(ui.column(*parts, self.note, space=ui.SPACE // 2))
        ui.narrowable(self)
        self.layers.changed.connect(self._allow)
        for signal in (session.dataset_changed, session.study_changed):
            # What is dropped in a study is dropped there alone.
            signal.connect(self.runner.discard)
            signal.connect(lambda: self.note.say(""))
        self._allow()

    def _allow(self) -> None:
        self.drop_button.setEnabled(self.layers.layer is not None)

    def _image_of(self, layer: Any) -> str:
        """The image that regions were drawn on: the one of the metadata, else the one on the screen."""
        return str(about(layer).get("image") or self.session.target_of(self.session.image))

    def draw(self) -> None:
        """Begin a polygon on the image on the screen, in the layer of its regions."""
        name = self.session.target_of(self.session.image)
        image = self.book.layer(self.session.image, "image")
        if image is None:
            self.note.say("Show an image first: a region is drawn on one.", "warning")
            return
        own = [layer for layer in self.viewer.layers if isinstance(layer, Shapes) and about(layer).get("regions")]
        layer = next((each for each in own if about(each)["image"] == name), None)
        if layer is None:
            layer = Shapes(
                ndim=2,
                name=f"{name} regions",
                edge_color=EDGE,
                face_color="transparent",
                edge_width=max(1.0, EDGE_UM / self.book.mpp(name)),
                scale=image.scale[-2:],
                translate=image.translate[-2:],
                units=image.units,
                metadata={"histomix": {"image": name, "regions": True}},
            )
            self.viewer.layers.append(layer)
        layer.visible = True
        self.viewer.layers.selection.active = layer
        self.layers.choose(layer)
        layer.mode = "add_polygon"
        self.note.say("Click the corners of the region on the image; a double click ends it.")

    def end(self) -> None:
        """Draw no more: clicks on the image mean what they meant before."""
        for layer in self.viewer.layers:
            if about(layer).get("regions") and str(layer.mode).startswith("add_"):
                layer.mode = "pan_zoom"

    def hideEvent(self, event: QHideEvent) -> None:
        self.end()
        super().hideEvent(event)

    def drop(self) -> None:
        """Drop what lies outside of the regions of the chosen layer."""
        layer, candidates = self.layers.layer, self.session.candidates
        if layer is None or candidates is None or self.session.study is None or self.runner.running:
            return
        self.end()
        name = self._image_of(layer)
        # The image need not be on the screen: its place in the world is known.
        space = self.book.space(name)
        scale, begin = np.asarray(space["scale"]), np.asarray(space.get("translate", (0.0, 0.0)))
        shapes = [
            (np.array([layer.data_to_world(vertex)[-2:] for vertex in vertices]) - begin) / scale
            for vertices in layer.data
        ]
        if not set(layer.shape_type) & {*AREAS}:
            self.note.say("That layer has no rectangle, polygon or ellipse; draw a region.", "warning")
            return
        decided, frame = self.session.decisions["candidate"], candidates.frame
        here = frame["image"].to_numpy() == name
        outside = np.full(len(frame), self.others.isChecked())
        outside[here] = ~inside(frame.loc[here, ["row", "col"]].to_numpy(float), layer.shape_type, shapes)
        gone = set(decided) | {*candidates.by_hand}
        entries: list[Entry] = [
            ("candidate", rank, DROP) for rank in frame["rank"].to_numpy()[outside].tolist() if rank not in gone
        ]
        if not entries:
            self.note.say("All that is undecided lies inside.")
            return
        study = self.session.study

        def act() -> Job[list[Entry]]:
            yield Event("Dropping candidates")
            study.act(entries)
            return entries

        self.note.say("Dropping …")
        self.runner.start(act, "dropping candidates")

    def _on_dropped(self, entries: list[Entry]) -> None:
        self.session.take_acted(entries)
        self.note.say(f"{len(entries):,} dropped; Undo (U) brings them back.", "good")
