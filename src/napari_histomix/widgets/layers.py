"""Between the session and napari's layers: one image at a time on the screen, layers held by object, never by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels, Layer, Points
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from napari_histomix.compositing.composing import compose_window
from napari_histomix.preferences import preferences
from napari_histomix.records import Change, Event, Job, LabeledImage
from napari_histomix.widgets import layer_making as making
from napari_histomix.widgets.camera import fly, show_scale_bar
from napari_histomix.widgets.candidate_dots import CandidateDots
from napari_histomix.widgets.decisions import DELETE, REJECT, UNDECIDED, WORDS
from napari_histomix.widgets.hand_edits import HandEdits
from napari_histomix.widgets.jobs import GcPause, JobRunner
from napari_histomix.widgets.layer_making import Composed, Stack, Stacks, composed_image
from napari_histomix.widgets.session import Session, session_of
from napari_histomix.widgets.viewer_layers import about, remove_layer

NAME = "napari-histomix-layers"
PAUSE = 15
"""Milliseconds between two changes of layers: without them a row of changes is one long stall."""
SYNTHETIC = ("synthetic", "synthetic nuclei", "changes")
ORDER = ("image", "nuclei", "synthetic", "synthetic nuclei", "candidates", "changes")
"""Of the layers of an image from below: points lie above all pixels."""
REWRITTEN = 40
"""Nuclei of one image that one act may rewrite in its layers; with more, they are composed anew."""


class LayerBook(QObject):
    """Shows the session, its parent, in a viewer: layer by layer, with room for the window's events between."""

    settled = Signal()
    """All that was to be shown is shown."""

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        super().__init__(session)
        self.setObjectName(NAME)
        self.viewer, self.session, self.stacks = viewer, session, Stacks(viewer)
        self._queue: deque[Callable[[], None]] = deque()
        self._place: tuple[str, float, float] | None = None
        self._synthetic, self._dots_wanted = True, False
        self.covered = self._owed = False
        """Whether nothing of the session may be seen now, whatever comes."""
        self.dots = CandidateDots(self)
        self.hand_edits = HandEdits(self)
        self.places: dict[tuple[str, str], dict[str, Any]] = {}
        """By the root of a dataset and an image: scale, units and translation of the layer that it was made of."""
        self._selected: Layer | None = None
        self._inserted: Layer | None = None
        self._gc_pause = GcPause()
        self.destroyed.connect(partial(GcPause.end, self._gc_pause))
        self._timer = QTimer(self)
        self._timer.setInterval(PAUSE)
        self._timer.timeout.connect(self._turn)
        self._composer = JobRunner(self).on(finished=self._on_composed, failed=session.notice)
        self._stale: dict[str, None] = {}
        session.dataset_changed.connect(self._on_dataset)
        session.splits_changed.connect(self._on_splits)
        session.image_changed.connect(self._on_image)
        session.candidates_changed.connect(self._on_candidates)
        session.candidates_decided.connect(self.dots.recolor)
        session.changes_changed.connect(self._on_changes)
        session.changes_made.connect(self._on_made)
        session.changes_decided.connect(self._on_changes_decided)
        session.place_requested.connect(self._on_place)
        session.preferences_changed.connect(self._on_preferences)
        self._outlines = preferences().outlines
        for ended in (self._composer.finished, self._composer.failed, self._composer.cancelled):
            ended.connect(lambda *_: self._compose(()))
        if session.image:
            self._on_image(session.image)
        if len(session.table):
            self._on_changes()

    @property
    def busy(self) -> bool:
        return bool(self._queue) or self._composer.running or self.session.reader.busy

    def layer(self, image: str, what: str) -> Layer | None:
        """A layer by image and what it shows: image, nuclei, candidates, synthetic, synthetic nuclei, changes."""
        return self.stacks.layer(image, what)

    def target(self, image: str) -> LabeledImage | None:
        """The untouched target of an image that is synthetic or has changes, as soon as it has been read."""
        stack = self.stacks.get(image)
        return (stack.target if stack else None) or self.session.reader.get(self.session.target_of(image))

    # The queue.

    def later(self, *steps: Callable[[], None]) -> None:
        """Take these steps after those that wait, one in a turn of the window."""
        if steps:
            self._gc_pause.begin()
            self._queue.extend(steps)
            self._timer.start()

    def _turn(self) -> None:
        if self._queue:
            self._queue.popleft()()
        if not self._queue:
            self._timer.stop()
            self._gc_pause.end()
            self._reselect()
            self._fly()
            self.settled.emit()

    def _reselect(self) -> None:
        """Give the selection, which napari hands to each new layer, back to whom it was taken from."""
        selection, before = self.viewer.layers.selection, self._selected
        taken = self._inserted is not None and selection.active is self._inserted
        self._selected = self._inserted = None
        if taken and before is not None and before in self.viewer.layers and before.visible:
            selection.active = before

    # What the session says.

    def _on_preferences(self) -> None:
        before, self._outlines = self._outlines, preferences().outlines
        if before != self._outlines:
            self.stacks.outline(before, self._outlines)

    def _on_dataset(self) -> None:
        self._queue.clear()
        self._stale.clear()
        self._composer.discard()
        self.hand_edits.clear()
        self.later(*(partial(remove_layer, self.viewer, layer) for layer in self.stacks.clear()))

    def _on_image(self, name: str) -> None:
        session, target = self.session, self.session.target_of(name)
        image = session.reader.get(target) if target else None
        if image is None and target:
            return
        stack, made = self.stacks.look_at(name), bool(len(session.table.seen_in(name)))
        # What lies over the image before goes first, and that image as this one comes: the canvas is never empty.
        over = [layer for what, layer in stack.spare.items() if what != "image" or image is None]
        # As does what a tab painted from it, which would lie above this one.
        over += self._painted()
        self.later(*(partial(setattr, layer, "visible", False) for layer in over if layer.visible))
        if image is not None:
            self.later(lambda: self._add_image(name, image), lambda: self._turn_to(name, "image", True))
        self.later(*(partial(self._show, other, False) for other in self.stacks if other != name))
        unused = () if made else SYNTHETIC
        if image is not None and name == target and session.dataset is not None and session.dataset.has_nuclei:
            self.later(
                lambda: self._add_nuclei(name, image),
                # Empty as long as there are none: a search then only has to fill it, which does not hold the window.
                lambda: None if self.layer(name, "candidates") else self.dots.add(name),
            )
        else:
            unused = (*unused, "nuclei", "candidates", *(("image",) if image is None else ()))
        self.later(lambda: self._show(name, True))
        self.later(*(partial(remove_layer, self.viewer, stack.spare[what]) for what in unused if what in stack.spare))
        if made and self.layer(name, "synthetic") is None:
            self._compose([name])

    def _on_candidates(self) -> None:
        for name in self.stacks:
            if self.layer(name, "candidates") or name == self.session.image:
                self.later(lambda name=name: self.dots.add(name))
        self.later(lambda: self._show(self.session.image, True))

    def _on_changes(self) -> None:
        self._stale.clear()
        self._composer.discard()
        for name in self.stacks:
            if not len(self.session.table.seen_in(name)):
                gone = SYNTHETIC if name in self.session.images else ("image", *SYNTHETIC)
                for what in gone:
                    self.later(lambda name=name, what=what: remove_layer(self.viewer, self.layer(name, what)))
        self._compose_some(self.session.table.rows(self.session.table.ids))

    def _on_made(self, ids: Sequence[int]) -> None:
        self._compose_some(self.session.table.rows(ids))

    def _compose_some(self, rows: NDArray[np.intp]) -> None:
        """Compose the images of these rows that have synthetic layers, or are shown; others come when they are."""
        table = self.session.table
        seen = [table.made_names[code] for code in dict.fromkeys(table.names[rows].tolist())]
        self._compose([name for name in seen if name == self.session.image or self.layer(name, "synthetic")])

    def _compose(self, names: Sequence[str]) -> None:
        """Make or renew the synthetic layers of these images, after those that are being made."""
        self._stale.update(dict.fromkeys(names))
        if self._composer.running:
            return
        session = self.session
        dataset, study = session.dataset, session.study
        work = [
            (name, session.target_of(name), self.target(name), session.changes_of(name, rejected=True))
            for name in self._stale
        ]
        self._stale.clear()
        work = [piece for piece in work if piece[-1]]
        if not work or dataset is None or study is None:
            return
        decisions = dict(session.decisions["change"])

        def job() -> Job[list[Composed]]:
            made = []
            for number, (name, source, target, changes) in enumerate(work):
                yield Event("Composing images", number, len(work))
                if source:
                    target = target or dataset.read(source)
                known = study.provenance(change.id for change in changes)
                facts = [making.provenance(change, known[change.id]) for change in changes]
                synthetic = composed_image(target, changes, decisions, dataset)
                made.append(Composed(name, target, synthetic, changes, facts))
            return made

        self._composer.start(job, "composing synthetic images")

    def _on_composed(self, made: list[Composed]) -> None:
        for composed in made:
            stack = self.stacks.get(composed.name)
            if stack is None:
                # A person has gone on to another image meanwhile.
                continue
            stack.target = composed.target
            for step in (self._add_synthetic, self._add_synthetic_nuclei, self._add_changes):
                self.later(partial(self._while_there, composed, step))
        self.later(lambda: self._show(self.session.image, True))

    def _while_there(self, composed: Composed, step: Callable[[Composed], None]) -> None:
        """Take a step, unless a run that was discarded took changes with it: then what is left is composed anew."""
        ids = set(self.session.table.ids.tolist())
        if composed.name in self.stacks and ids.issuperset(change.id for change in composed.changes):
            step(composed)

    def _on_changes_decided(self, ids: Sequence[int]) -> None:
        session = self.session
        table, rows = session.table, session.table.rows(ids)
        rows = rows[table.in_place[rows]]
        anew = []
        for code in np.unique(table.names[rows]).tolist():
            name = table.made_names[code]
            if name not in self.stacks:
                continue
            concerned = rows[table.names[rows] == code].tolist()
            if len(concerned) > REWRITTEN:
                # Composing an image anew in the background takes less than writing many windows of it here.
                anew.append(name)
            else:
                for row in concerned:
                    self._rewrite(session.change_at(row))
            if self._queue:
                self.later(partial(self._recolor_changes, name))
            else:
                # With nothing under way, one look of the window shows it all.
                self._recolor_changes(name)
        if anew:
            self._compose(anew)

    def _on_place(self, image: str, row: float, col: float) -> None:
        self._place = image, row, col
        if not self._queue:
            self._fly()

    # Layers.

    def space(self, name: str, image: LabeledImage | None = None) -> dict[str, Any]:
        """Scale, units and translation: those the user left the image's own layer with, else of what it was made of."""
        place = self.places.get((str(self.session.dataset.root) if self.session.dataset else "", name), {})
        return place | making.space_like(
            self.layer(name, "image"), None if place else image.mpp if image is not None else self.mpp(name)
        )

    def mpp(self, name: str) -> float:
        """µm per pixel of an image, real or synthetic; 1 where it is not known."""
        dataset, target = self.session.dataset, self.session.target_of(name)
        if dataset is None:
            return 1.0
        if not target:
            return making.new_image_mpp(self.session.changes_of(name, rejected=True)[0], dataset)
        return dataset.entry(target).mpp or 1.0

    def _on_splits(self) -> None:
        for name in self.stacks:
            for layer in self.stacks.begin(name).layers.values():
                self._mark(name, layer)

    def _mark(self, name: str, layer: Layer) -> None:
        """Write the split that an image has now into its layer: no network may learn from those of a test split."""
        about = layer.metadata.get("histomix", {})
        if "split" in about:
            about["split"] = self.session.splits.get(self.session.target_of(name), about["split"])

    def add(self, name: str, what: str, layer: Layer) -> None:
        """Put a layer of an image in its place among the others, or its contents into the one that is there."""
        self._mark(name, layer)
        # In a view of three dimensions napari takes no RGB layer in that is hidden, as those of the next image are.
        self.viewer.dims.ndisplay = 2
        if self.stacks.put(name, what, layer):
            return
        layers, shown = self.viewer.layers, self.stacks.begin(name)
        higher = ORDER[ORDER.index(what) + 1 :]
        above = [layers.index(each) for kind, each in {**shown.spare, **shown.layers}.items() if kind in higher]
        active = layers.selection.active
        if active is not self._inserted:
            self._selected = active
        self._inserted = layer
        self.stacks.own(name, what, layer)
        with self.stacks.writing():
            layers.insert(min(above, default=len(layers)), layer)

    def _add_image(self, name: str, image: LabeledImage) -> None:
        if name not in self.stacks or self.layer(name, "image") is not None:
            return
        for layer in self.viewer.layers:
            # File > Open Sample has to hand over a layer of its own: it becomes ours.
            about = layer.metadata.get("histomix", {})
            if about.get("adopt") and about["image"] == name == image.source.image:
                layer.metadata = {"histomix": making.facts(image)}
                self.stacks.own(name, "image", layer)
                return
        named = name if name == image.source.image else f"{name} target"
        self.add(name, "image", making.image_layer(named, image, self.space(name, image)))
        show_scale_bar(self.viewer)

    def _add_nuclei(self, name: str, image: LabeledImage) -> None:
        if name in self.stacks and self.layer(name, "nuclei") is None and self.session.dataset is not None:
            classes, space = self.session.dataset.classes, self.space(name, image)
            self.add(name, "nuclei", making.nuclei_layer(f"{name} nuclei", image, image.types, classes, space))
            if isinstance(layer := self.layer(name, "nuclei"), Labels):
                self.hand_edits.follow(name, layer, image)

    def _add_synthetic(self, composed: Composed) -> None:
        name, image = composed.name, composed.synthetic.image
        about = {"synthetic": True, "changes": composed.facts}
        named = f"{name} synthetic" if composed.in_place else name
        self.add(name, "synthetic", making.image_layer(named, image, self.space(name, image), **about))
        self._rewrite_all(name)

    def _add_synthetic_nuclei(self, composed: Composed) -> None:
        name, image, dataset = composed.name, composed.synthetic.image, self.session.dataset
        # A color for every id that may come back: rejected and replaced ones too.
        types = {**(composed.target.types if composed.target else {}), **image.types}
        for change in composed.changes:
            types.update(change.added)
        if dataset is not None and types:
            named = f"{name} synthetic nuclei" if composed.in_place else f"{name} nuclei"
            space = self.space(name, image)
            layer = making.nuclei_layer(named, image, types, dataset.classes, space, synthetic=True)
            # A stroke would count for nothing: it is the nuclei below that a person changes.
            layer.editable = False
            self.add(name, "synthetic nuclei", layer)
            self._rewrite_all(name)

    def _add_changes(self, composed: Composed) -> None:
        dataset, name = self.session.dataset, composed.name
        if composed.in_place and dataset is not None:
            decisions, space = self.session.decisions["change"], self.space(name)
            self.add(name, "changes", making.changes_layer(composed, decisions, dataset.class_name, space))

    def _recolor_changes(self, name: str) -> None:
        layer, decisions = self.layer(name, "changes"), self.session.decisions["change"]
        if isinstance(layer, Points):
            words = [WORDS[decisions.get(number, UNDECIDED)] for number in layer.features["number"]]
            layer.features["decision"] = words
            layer.border_color = making.ring_colors(words, layer.features["halo"].to_numpy())
            layer.symbol = making.decision_symbols(words)

    # A rejected change leaves, an approved one returns: only its window is written.

    def _rewrite_all(self, name: str) -> None:
        # Decisions made between composing and now.
        decisions = self.session.decisions["change"]
        for change in self.session.changes_of(name, rejected=True):
            if change.in_place and decisions.get(change.id) in (REJECT, DELETE):
                self._rewrite(change)

    def _rewrite(self, change: Change) -> None:
        name = change.name
        stack = self.stacks.get(name)
        if stack is None or stack.target is None:
            return
        near = self.session.changes_of(name, window=change.window)
        crop, window = compose_window(stack.target, change.window, near)
        image, nuclei = (stack.layers.get(what) for what in ("synthetic", "synthetic nuclei"))
        if image is not None:
            image.data[change.window] = crop.image.pixels[window]
            image.refresh(extent=False, thumbnail=False)
        if isinstance(nuclei, Labels):
            with self.stacks.writing():
                making.write_labels(nuclei, change.window, crop.image.instances[window])

    # Showing, removing, flying.

    def _show(self, name: str, visible: bool) -> None:
        stack = self.stacks.get(name)
        if stack is None or (visible and name != self.session.image):
            return
        steps = [partial(self._turn_to, name, what, visible) for what in stack.layers]
        if visible:
            steps.append(partial(self._select, stack))
        self._queue.extendleft(reversed(steps))

    def _turn_to(self, name: str, what: str, visible: bool) -> None:
        layer = self.layer(name, what)
        if layer is not None:
            wanted = self._dots_wanted if what == "candidates" else self._synthetic or what not in SYNTHETIC
            visible = visible and wanted and name == self.session.image
            if visible and self.covered:
                self._owed = True
                return
            if layer.visible != visible:
                layer.visible = visible

    def _painted(self) -> list[Any]:
        """Layers of what tabs painted, which are no image's of the session."""
        ours = set(self.stacks.layers())
        return [layer for layer in self.viewer.layers if about(layer).get("synthetic") and layer not in ours]

    def lay_bare(self) -> None:
        """Hide what a tab painted over the image on the screen, and show that image with what the study made of it."""
        self.later(*(partial(setattr, layer, "visible", False) for layer in self._painted() if layer.visible))
        self.later(lambda: self._show(self.session.image, True))

    def uncover(self) -> None:
        """Show again what ``covered`` kept from sight, if anything was to be shown meanwhile."""
        self.covered = False
        if self._owed:
            self._owed = False
            self.later(lambda: self._show(self.session.image, True))

    def show_dots(self, shown: bool) -> None:
        """Whether candidates are shown: they lie above what is synthetic, so only their own page shows them."""
        if shown != self._dots_wanted:
            self._dots_wanted = shown
            self.later(lambda: self._show(self.session.image, True))

    def show_synthetic(self, shown: bool) -> None:
        """Whether synthetic layers are shown over the image they were made from."""
        if shown != self._synthetic:
            self._synthetic = shown
            self.later(lambda: self._show(self.session.image, True))

    def _select(self, stack: Stack) -> None:
        """Hand the selection over from a hidden image's layer; a layer of the user's own keeps it."""
        active = self.viewer.layers.selection.active
        if active is not None and active not in self.stacks.layers(without=stack):
            return
        for what in ("changes", "candidates", "synthetic", "image"):
            layer = stack.layers.get(what)
            if layer is not None and layer.visible and layer in self.viewer.layers and len(layer.data):
                self.viewer.layers.selection.active = layer
                return

    def _fly(self) -> None:
        if self._place is None or self._place[0] != self.session.image:
            return
        name, row, col = self._place
        layer = self.layer(name, "image") or self.layer(name, "synthetic")
        if layer is None:
            return
        self._place = None
        fly(self.viewer, layer.data_to_world((row, col)))
        candidates = self.layer(name, "candidates")
        # To select a point takes napari as long as the flight.
        if isinstance(candidates, Points) and candidates.visible and len(candidates.data):
            distance = np.abs(candidates.data - (row, col)).max(axis=1)
            nearest = int(distance.argmin())
            candidates.selected_data = {nearest} if distance[nearest] < 1e-6 else set()


def layer_book_of(viewer: Any, session: Session | None = None) -> LayerBook:
    """The layer book of a viewer's session, made on first use."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    session = session or session_of(viewer)
    return session.findChild(LayerBook, NAME) or LayerBook(viewer, session)
