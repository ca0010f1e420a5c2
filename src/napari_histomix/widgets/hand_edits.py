"""Nuclei that a person paints, changes or erases in the layer of an image's nuclei: noticed, and taken or discarded.

Until they are taken they belong to the layer, where napari's undo works as ever. Taken, they are files of the study
(``datasets.edits``), with which its dataset is read from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QWidget

from napari_histomix.datasets import survey
from napari_histomix.datasets.edits import Differences, HandEdit, differences, separated, together
from napari_histomix.records import Event, Job, LabeledImage, instance_ids
from napari_histomix.study.store import keep_survey
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.camera import look_at, view_of
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.layer_making import write_labels
from napari_histomix.widgets.loading import Ground, Opened, Work, with_all_classes
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer_layers import VIEWING_MODES

if TYPE_CHECKING:
    from napari_histomix.widgets.layers import LayerBook

SETTLED = 150
"""Milliseconds after the last change of a layer before it is compared with the data."""
HEARD = ("paint", "data", "labels_update", "set_data")
"""Events of a Labels layer that may mean other pixels; an undo is heard as the last of them alone."""


def total(edits: Mapping[str, Differences]) -> int:
    """How many nuclei were changed in all images."""
    return sum(len(apart.ids) for apart in edits.values())


def sentence(edits: Mapping[str, Differences]) -> str:
    """What a person should know of changes that are not taken; empty where there are none."""
    count = total(edits)
    if not count:
        return ""
    nuclei, they = ("nucleus", "it counts") if count == 1 else ("nuclei", "they count")
    was, it = ("was", "it") if count == 1 else ("were", "them")
    where = f"image {next(iter(edits))}" if len(edits) == 1 else f"{len(edits):,} images"
    kinds = together(edits.values()).words()
    return f"{count:,} {nuclei} of {where} {was} changed by hand ({kinds}): {they} when you take {it}."


class HandEdits(QObject):
    """Follows the layers of nuclei of a layer book, and tells the session what differs from its dataset."""

    def __init__(self, book: LayerBook) -> None:
        super().__init__(book)
        self.book, self.session = book, book.session
        self._followed: dict[str, tuple[Labels, LabeledImage]] = {}
        self._heard: set[Labels] = set()
        self._suspects: set[str] = set()
        self._frozen = False
        self.lost: dict[str, tuple[Labels, LabeledImage]] = {}
        """Layers that were deleted with a person's changes in them, by image, and that image; the last at the end."""
        self._awaited = False
        """Whether the image of a layer that is to be brought back is on its way to the screen."""
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLED)
        self._timer.timeout.connect(self.look)
        book.viewer.layers.events.removed.connect(self._on_removed)

    def follow(self, name: str, layer: Labels, image: LabeledImage) -> None:
        """Follow the layer that shows the nuclei of an image from now on."""
        for other in [other for other, (followed, _) in self._followed.items() if followed is layer and other != name]:
            self._forget(other)
        self._followed[name] = layer, image
        layer.editable = not self._frozen
        # A stroke is a new nucleus, unless a person picks the label of another one.
        layer.selected_label = max(image.types, default=0) + 1
        if layer not in self._heard:
            self._heard.add(layer)
            for event in HEARD:
                if (signal := getattr(layer.events, event, None)) is not None:
                    signal.connect(partial(self._suspect, layer))
            layer.events.mode.connect(partial(self._on_mode, layer))

    def clear(self) -> None:
        """Follow nothing: other data come."""
        self._frozen = False
        self.lost.clear()
        self._followed.clear()
        self._heard.clear()
        self._suspects.clear()
        self._tell({})

    def _on_mode(self, layer: Labels, _event: Any = None) -> None:
        # What is painted would lie below what is synthetic.
        if str(layer.mode) not in VIEWING_MODES:
            self.book.show_synthetic(False)

    def _suspect(self, layer: Labels, _event: Any = None) -> None:
        names = [name for name, (followed, _) in self._followed.items() if followed is layer]
        if names:
            self._suspects.update(names)
            self._timer.start()

    def look(self) -> None:
        """Compare the layers that may have changed with the data, and tell the session."""
        self._timer.stop()
        found = dict(self.session.hand_edits)
        for name in self._suspects & self._followed.keys():
            layer, image = self._followed[name]
            apart = Differences()
            if layer.data.shape == image.instances.shape:
                apart = differences(image.instances, separated(image.instances, np.asarray(layer.data, np.int32)))
            found.pop(name, None)
            if apart.ids:
                found[name] = apart
        self._suspects.clear()
        self._tell(found)

    def _tell(self, found: Mapping[str, Differences]) -> None:
        if dict(found) != dict(self.session.hand_edits):
            self.session.hand_edits = dict(found)
            self.session.hand_edits_changed.emit()

    def _forget(self, name: str) -> None:
        self._followed.pop(name, None)
        self._tell({other: apart for other, apart in self.session.hand_edits.items() if other != name})

    def _on_removed(self, event: Any) -> None:
        self._heard.discard(event.value)
        names = [name for name, (layer, _) in self._followed.items() if layer is event.value]
        if names:
            self.look()
        for name in names:
            if name in self.session.hand_edits:
                self.lost[name] = self._followed[name]
            self._forget(name)

    def bring_back(self) -> None:
        """Show the layer again that was deleted last with what a person had changed in it."""
        if not self.lost or self._awaited:
            return
        name = next(reversed(self.lost))
        if name not in self.book.stacks and name != self.session.image:
            # Other images came meanwhile: this one comes first.
            self.session.show(name)
            self._awaited = True
            self.book.settled.connect(self._bring_back_later)
            return
        layer, image = self.lost.pop(name)
        label = layer.selected_label
        self.book.add(name, "nuclei", layer)
        if isinstance(shown := self.book.layer(name, "nuclei"), Labels):
            self.follow(name, shown, image)
            shown.selected_label = label
        self._suspects.add(name)
        self.look()

    def _bring_back_later(self) -> None:
        if not self.lost or next(reversed(self.lost)) in self.book.stacks:
            self.book.settled.disconnect(self._bring_back_later)
            self._awaited = False
            self.bring_back()

    def pending(self) -> dict[str, NDArray[np.int32]]:
        """By image the instance map (H, W) as a person left it, where it differs from the data."""
        self.look()
        return {
            name: separated(self._followed[name][1].instances, np.array(self._followed[name][0].data, np.int32))
            for name in self.session.hand_edits
        }

    def freeze(self, frozen: bool) -> None:
        """Keep the layers, and those that come meanwhile, from being painted in while what was painted is taken."""
        self._frozen = frozen
        for layer, _ in self._followed.values():
            layer.editable = not frozen

    def discard(self) -> None:
        """Give the layers the pixels of the data back; where a layer is shown, napari's undo brings the edits back."""
        self.look()
        for name in tuple(self.session.hand_edits):
            layer, image = self._followed[name]
            apart = np.nonzero(np.asarray(layer.data) != image.instances)
            if layer.visible:
                layer.data_setitem(apart, image.instances[apart])
            else:
                rows, cols = apart
                window = np.s_[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
                write_labels(layer, window, image.instances[window])
            self._suspects.add(name)
        self.look()


def take_job(ground: Ground, drawn: Mapping[str, NDArray[np.int32]], kind: str, who: str) -> Job[Opened]:
    """Keep what a person changed in a study, and open that with it; what is drawn is of the class ``kind``.

    ``drawn`` holds by image the whole instance map (H, W).
    """
    dataset, edits = ground.dataset, []
    own, made = replace(dataset, edits={}), datetime.now(UTC).isoformat(timespec="seconds")
    for done, (name, instances) in enumerate(drawn.items()):
        yield Event("Taking the changed nuclei", done, len(drawn))
        before = {number: dataset.class_name(type) for number, type in dataset.read(name).types.items()}
        classes = {number: before.get(number, kind) for number in instance_ids(instances)}
        edits.append(HandEdit.of(own.read(name), instances, classes, who, made))
    with ground.begin() as study:
        study.add_edits(edits)
        study.save_settings({"image": ground.settings["image"]})
        dataset = study.with_edits(dataset)
        counted = yield from survey(dataset, ground.survey)
    keep_survey(study.folder, counted)
    dataset = with_all_classes(dataset, counted)
    return Opened(dataset, counted, ground.mpp, study, Work.read(study, None), study.settings())


class HandEditsBar(QWidget):
    """Says that nuclei were changed by hand, and takes or discards what was."""

    def __init__(self, hand_edits: HandEdits, window: Any = None) -> None:
        super().__init__()
        self.hand_edits, self.session = hand_edits, hand_edits.session
        self.ask_to_end = lambda _titles: True
        """Asks whether what is under way may be ended, given what it is."""
        self.runner = JobRunner(self, window)
        self.note, self.outcome, self.gone = ui.Note(), ui.Note(), ui.Note()
        tip = "Show the deleted layer again, with what you changed in it."
        self.back_button = self.gone.lead = ui.button("Bring it back", tip, hand_edits.bring_back, shown=False)
        self.kind = ui.choice(tip="Class of the nuclei that you drew; those that you changed keep theirs.")
        self.kind.setAccessibleName("Class of drawn nuclei")
        tip = "Make the changed nuclei part of the study: counts, donors, candidates and exports go by them."
        self.take_button = ui.button("Take", tip, self.take, primary=True)
        tip = "Give the layers the pixels of the data back. In the layer that is shown, Ctrl+Z undoes that."
        self.discard_button = ui.button("Discard", tip, hand_edits.discard)
        self.kind_label = ui.label("Drawn ones are", wrap=False)
        self._row = ui.box(ui.row(self.kind_label, self.kind, self.take_button, self.discard_button, stretch=1))
        self.setLayout(ui.column(self.note, self._row, self.outcome, self.gone, self.back_button, space=ui.SPACE // 2))
        ui.narrowable(self)
        self.runner.on(finished=self._on_taken, failed=self._on_failed, running_changed=self._on_running)
        self.session.hand_edits_changed.connect(self._update)
        # Edits of the data before must not come over those that were opened meanwhile.
        self.session.dataset_changed.connect(self.runner.discard)
        self.session.dataset_changed.connect(self._on_dataset)
        self._update()

    def _on_dataset(self) -> None:
        self.outcome.say("")
        dataset = self.session.dataset
        if dataset is not None:
            # The rare class first: that is what people add.
            known = sorted(dataset.classes, key=lambda kind: kind.number not in self.session.rare)
            ui.offer(self.kind, [(kind.name, kind.name) for kind in known])
        self._update()

    def _update(self) -> None:
        edits = self.session.hand_edits
        begins = " That begins a new study; this one is kept." if edits and self.session.edits_begin_study else ""
        self.note.say(sentence(edits) + begins, "warning")
        self._row.setVisible(bool(edits))
        for part in (self.kind_label, self.kind):
            part.setVisible(any(apart.drawn for apart in edits.values()))
        if edits:
            self.outcome.say("")
        lost, said = [*self.hand_edits.lost], ""
        if lost:
            said = f"The layer with the nuclei of {lost[-1]} was deleted; what you changed in it is not taken."
            said += f" So it is with {len(lost) - 1:,} more." if len(lost) > 1 else ""
        self.gone.say(said, "warning")
        shown = bool(edits or lost or self.outcome.text())
        if shown and self.isHidden():
            # The first stroke: the page may be scrolled to where this is not to be seen.
            ui.reveal(self)
        self.setVisible(shown)

    def take(self) -> None:
        """Take what was changed, in the study or in a new one where it holds decisions or changes."""
        drawn = self.hand_edits.pending()
        session = self.session
        if self.runner.running or not drawn or not self.ask_to_end(session.running):
            return
        ground = session.edits_ground()
        self.hand_edits.freeze(True)
        job = partial(take_job, ground, drawn, str(self.kind.currentData()), session.reviewer)
        self.runner.start(job, "taking changed nuclei")

    def _on_running(self, running: bool) -> None:
        for part in (self.kind, self.take_button, self.discard_button):
            part.setEnabled(not running)

    def _on_failed(self, problem: str) -> None:
        self.hand_edits.freeze(False)
        self.outcome.say(problem, "error")
        self.setVisible(True)

    def _on_taken(self, opened: Opened) -> None:
        session = self.session
        count, before = total(session.hand_edits), session.study_folder if session.study is not None else None
        rare, major, view = session.rare, session.major, view_of(self.hand_edits.book.viewer)
        session.take_opened(opened)
        session.choose_classes(rare, major)
        said = f"{count:,} changed {'nucleus is' if count == 1 else 'nuclei are'} part of the study now."
        if before is not None and before != session.study_folder:
            said += f" This begins a new study. Your earlier work is kept in the study {before.name}."
        self.outcome.say(said, "good")
        self.setVisible(True)
        self._return_to(view)

    def _return_to(self, view: tuple[tuple[float, ...], float]) -> None:
        """Look where the person painted, once the layers are there again."""
        book = self.hand_edits.book

        def back() -> None:
            if book.busy:
                return
            book.settled.disconnect(back)
            look_at(book.viewer, view)

        book.settled.connect(back)


class HandEditsLine(QWidget):
    """One line where work would go on without nuclei that were changed by hand, and the way to where they are taken."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session, self.note = session, ui.Note()
        tip = "Take the changed nuclei on the Project page, or discard the changes."
        led = partial(session.page_requested.emit, "project/data")
        self.button = ui.button("Take →", tip, led)
        self.setLayout(ui.row(self.note, self.button, stretch=0))
        session.hand_edits_changed.connect(self._update)
        self._update()

    def _update(self) -> None:
        count = total(self.session.hand_edits)
        nuclei = "nucleus changed by hand does" if count == 1 else "nuclei changed by hand do"
        self.note.say(f"{count:,} {nuclei} not count yet." if count else "", "warning")
        self.setVisible(count > 0)
