"""The tab *By hand* of Make: sample or draw a layout of nuclei and paint it, or paint new nuclei into a real image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray
from qtpy.compat import isalive

from napari_histomix.generation.layout import Layout
from napari_histomix.records import Event, HistomixError, NucleusClass
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets import viewer_layers
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.camera import fit, show_scale_bar
from napari_histomix.widgets.generate import making
from napari_histomix.widgets.generate.edit_box import EditBox
from napari_histomix.widgets.generate.keeping import KeepBox
from napari_histomix.widgets.generate.layout_box import LayoutBox
from napari_histomix.widgets.generate.layout_layers import layout_layer, layout_of, unusable_labels, write_layout
from napari_histomix.widgets.generate.making import Drawing, Painted, WhatIf
from napari_histomix.widgets.generate.paint_form import PaintForm
from napari_histomix.widgets.loading_ahead import load_networks_ahead
from napari_histomix.widgets.session import Session, window_of
from napari_histomix.widgets.viewer_layers import LayerChoice, about, remove_layer

NEW, WHAT_IF = "new", "what if"
TASKS = (("A new image", NEW), ("What if, in a real image", WHAT_IF))
MANY = "painted-nuclei"
USUAL_MPP = 0.5
"""µm/px of a layout that is drawn from nothing, where no dataset is open: that of the bundled networks."""
NO_SCALE = "Enter how many µm one pixel is: 0.25 for most scans at 40×, 0.5 at 20×."


class GeneratePanel(Panel):
    """A layout as a Labels layer, tools to edit it, and the network that paints it."""

    preferred_size = (360, 760)
    heavy = True

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.networks = making.Networks()
        self._named: Sequence[NucleusClass] = ()
        self._chosen_for: Any = None
        self._drawings: list[WhatIf] = []
        self._painted: dict[bool, Painted] = {}
        """What was painted last: a new image, and into a real one."""
        self._preview: Any = None
        """The Image layer that is being painted."""
        self._base: Any = None
        """The layer that is painted, or painted into; it may be gone by the end."""
        self._space: dict[str, Any] = {}
        self._messages: list[str] = []
        self._lost = ""
        self._build()
        self._connect()
        self._on_session()
        self._on_task()
        load_networks_ahead()

    def _build(self) -> None:
        self.scroll()
        self.task = ui.choice(TASKS, "What is to be made.", name="What is to be made")

        self.layout_box = LayoutBox(self, self.networks, lambda: self.paint_form.options().device)
        self.layout = self.layout_box.layer
        self.image = LayerChoice(self.viewer, Image, viewer_layers.unusable)
        self.nuclei = LayerChoice(self.viewer, Labels, unusable_labels, absent="none are labeled")
        self.image_box = ui.box(
            ui.form(
                ("Image", self.image, "The real image that a nucleus is painted into: the plane that is shown."),
                ("Its nuclei", self.nuclei, "The nuclei that are there already: they stay as they are."),
            )
        )

        tip = "How many micrometers one pixel is: 0.25 for most scans at 40×, 0.5 at 20×."
        self.scale = ui.number(0, 10, 0, step=0.05, decimals=4, suffix=" µm/px", special="? µm/px", tip=tip)
        self.scale_line = ui.form(("One pixel is", self.scale))
        self.scale_box = ui.box(self.scale_line)

        self.edit_box = EditBox(self.viewer)

        self.paint_form = PaintForm(self.viewer, self.session)
        self.paint_bar = RunBar("Paint", self.runner, "Paint the layout; image and labels appear as new layers.")
        self.why, self.note = ui.Note(), ui.Note()
        tip = "Hide what was painted, to see the image as it was."
        self.before_button = ui.button("Show as it was", tip, checkable=True, shown=False)

        ui.add(self.column, self.task, self.layout_box, self.image_box, self.scale_box)
        ui.add(self.column, ui.heading("Nuclei"), self.edit_box, ui.heading("Paint"), self.paint_form)
        tip = (
            "Paint many new nuclei of this class into the images of the dataset: with the shapes of real ones, at "
            "candidate places that you look through first. Leads to the method Painted nuclei."
        )
        self.many_button = ui.button("Many of this class …", tip, self.plan_many)
        self.keep_box = KeepBox(self, self.networks)
        ui.add(self.column, self.paint_bar, self.why, self.note, self.before_button, self.keep_box, self.many_button)
        self.column.addStretch(1)

    def _connect(self) -> None:
        self.while_shown.append(self.edit_box.clicks)
        self.task.currentIndexChanged.connect(lambda _at: self._on_task())
        self.image.changed.connect(self._choose_nuclei)
        for signal in (self.layout.changed, self.image.changed, self.nuclei.changed):
            signal.connect(self._on_layers)
        for signal in (self.layout_box.changed, self.scale.valueChanged):
            signal.connect(lambda *_: self._update())
        self.layout_box.sampled.connect(lambda sampled: self._show_layout(sampled.layout, sampled.facts))
        self.layout_box.sampled.connect(lambda _sampled: ui.reveal(self.paint_bar))
        self.paint_form.changed.connect(self._on_session)
        self.paint_bar.run.connect(self.paint)
        self.runner.on(progressed=self._on_event, finished=self._on_painted, failed=self._on_failed)
        self.runner.on(cancelled=self._on_cancelled, running_changed=self._on_running)
        self.edit_box.editing.connect(self._before_edit)
        self.edit_box.changed.connect(self._update)
        self.edit_box.failed.connect(partial(self.complain, self.note))
        self.before_button.toggled.connect(self._show_before)
        self.keep_box.changed.connect(self._update)
        self.viewer.layers.events.removed.connect(self._on_removed)
        for signal in (self.session.dataset_changed, self.session.splits_changed):
            signal.connect(self._on_session)

    # What is chosen.

    @property
    def what_if(self) -> bool:
        return bool(self.task.currentData() == WHAT_IF)

    @property
    def drawing(self) -> WhatIf | None:
        """What is drawn into the chosen image, beside the chosen nuclei; None before there is something."""
        image, nuclei = self.image.layer, self.nuclei.layer
        fitting = (each for each in self._drawings if each.image is image and each.nuclei is nuclei)
        return next(fitting, None) if image is not None else None

    @property
    def edited(self) -> Any:
        """The Labels layer that is edited, None where there is none."""
        if not self.what_if:
            return self.layout.layer
        return self.drawing.layer if self.drawing is not None else None

    def _classes(self) -> Sequence[NucleusClass]:
        """Classes of the dataset; where none is open, those of the network."""
        dataset = self.session.dataset
        if dataset is not None and dataset.has_nuclei:
            return dataset.classes
        # Of a network that is missing or damaged nothing is known: nuclei keep their classes.
        self._named = self.paint_form.classes() or self._named
        return self._named

    def _on_session(self) -> None:
        self.edit_box.offer(self._classes())
        self._update()

    def _on_task(self) -> None:
        self.layout_box.setVisible(not self.what_if)
        self.image_box.setVisible(self.what_if)
        self.many_button.setVisible(self.what_if)
        self.paint_bar.run_button.setText("Paint it" if self.what_if else "Paint")
        self.note.say("")
        self.keep_box.offer(self._painted.get(self.what_if))
        if self.what_if and self.nuclei.layer is None:
            self._choose_nuclei()
        self._on_layers()
        self._show_real()

    def _on_layers(self) -> None:
        self.edit_box.use(self.edited, self._real_ids() if self.what_if else ())
        self._update()

    def _choose_nuclei(self) -> None:
        """Choose the nuclei of the chosen image, where they are open."""
        image = self.image.layer
        name = about(image).get("image") if image is not None else None
        labels = [layer for layer in reversed(self.viewer.layers) if isinstance(layer, Labels)] if name else []
        mine = [layer for layer in labels if about(layer).get("image") == name and not unusable_labels(layer)]
        # Once for an image: what a person chooses then stays, also that none are labeled.
        before, self._chosen_for = self._chosen_for, (id(image), name) if mine else None
        if mine and before != self._chosen_for:
            self.nuclei.choose(mine[0])

    def _real_ids(self) -> list[int]:
        drawing = self.drawing
        return [] if drawing is None else np.unique(drawing.drawing.real).tolist()[1:]

    @property
    def _needs_scale(self) -> bool:
        layer = self.image.layer if self.what_if else self.layout.layer
        return layer is not None and viewer_layers.micrometers(layer) is None

    def problem(self) -> str:
        """Why nothing can be painted; empty where something can."""
        layer = self.image.layer if self.what_if else self.layout.layer
        if layer is None:
            return (
                "Open an H&E image in napari."
                if self.what_if
                else "Sample a layout, draw one with Add, or open a Labels layer."
            )
        if self._needs_scale and not self.scale.value():
            return NO_SCALE
        if self.what_if and self.drawing is None:
            return "Add a nucleus, and draw it where there is none."
        return ""

    def _update(self) -> None:
        painting, sampling = self.runner.running, self.layout_box.sampler.running
        problem = "" if painting else self.problem()
        self.paint_bar.allow(not problem and not sampling, problem)
        self.why.say(problem)
        self.layout_box.allow(not painting)
        self.scale_box.setVisible(self._needs_scale)
        self.paint_form.ask_stain(not self.what_if)
        self.paint_bar.run_button.setStyleSheet("" if self.keep_box.offers else ui.PRIMARY)
        drawing = self.drawing if self.what_if else None
        shown = drawing is not None and drawing.painted in self.viewer.layers
        self.before_button.setVisible(shown)
        if shown and drawing is not None:
            self.before_button.setChecked(not drawing.painted.visible)

    # Layouts.

    def _show_layout(self, layout: Layout, facts: dict[str, Any]) -> Labels:
        """A layout as a new layer, which is edited and painted from now on."""
        name, space = self._free_name("layout"), {"scale": (layout.mpp, layout.mpp), "units": ("um", "um")}
        layer = layout_layer(layout, self._classes(), name, space, image=name, synthetic=True, **facts)
        self._add(layer)
        self.layout.choose(layer)
        self._show_alone(name)
        show_scale_bar(self.viewer)
        if window_of(self.viewer) is not None:
            fit(self.viewer, layer)
        return layer

    def _before_edit(self) -> None:
        """Have a layer to edit, and show it; real labels stay as they are, and a copy is edited."""
        layer, real = self.edited, self.book.stacks.layers()
        self._show_real()
        if layer is None:
            self._begin_drawing()
        elif not self.what_if and any(layer is each for each in real):
            layout, label = layout_of(layer, self.viewer.dims.point, self.scale.value()), layer.selected_label
            copy = self._show_layout(layout, {"source": layout.source} if layout.source else {})
            copy.selected_label = label
            self.note.say(f"“{copy.name}” is a copy to edit; “{layer.name}” stays as it is.")
        elif not layer.visible:
            self.before_button.setChecked(False)
            layer.visible = True
            if not self.what_if:
                self._show_alone(str(about(layer).get("image", "")))

    def _begin_layout(self) -> None:
        """An empty layout, for a person to draw all of it."""
        side, dataset = int(self.layout_box.form.fields["side"].value), self.session.dataset
        mpp = dataset.entries[0].mpp if dataset is not None else None
        self._show_layout(Layout(np.zeros((side, side), np.int32), {}, mpp or USUAL_MPP), {})

    def _free_name(self, what: str) -> str:
        names, number = {layer.name for layer in self.viewer.layers}, 1
        while f"{what} {number}" in names:
            number += 1
        return f"{what} {number}"

    def _add(self, layer: Any) -> None:
        self.viewer.layers.append(layer)
        self.viewer.layers.selection.active = layer

    def _show_alone(self, image: str) -> None:
        """Hide the layers of other images, which lie in the same place."""
        for layer in self.viewer.layers:
            if layer.visible and about(layer).get("image") not in (None, image):
                layer.visible = False

    # Drawing into a real image.

    def _show_real(self) -> None:
        """Show the image that nuclei are painted into, where a layout has hidden it."""
        image, drawing = self.image.layer, self.drawing
        if not self.what_if or image is None or image.visible:
            return
        self._show_alone(str(about(image).get("image", "")))
        for layer in (image, self.nuclei.layer) if drawing is None else (image, drawing.layer, drawing.painted):
            if layer in self.viewer.layers:
                layer.visible = True
        if window_of(self.viewer) is not None:
            fit(self.viewer, image)

    def _begin_drawing(self) -> None:
        """Make the layer in which nuclei are drawn: over the chosen image, or an empty layout."""
        layer = self.image.layer
        if not self.what_if:
            self._begin_layout()
            return
        if layer is None:
            self.why.say(self.problem())
            return
        if self._needs_scale and not self.scale.value():
            self.complain(self.note, NO_SCALE)
            return
        nuclei, point = self.nuclei.layer, self.viewer.dims.point
        try:
            picture = viewer_layers.picture_of(layer, point)
            # Where the layer has no scale, the person says that of its finest level.
            mpp = picture.mpp or self.scale.value() * float(np.sqrt(picture.factor.prod()))
            empty = Layout(np.zeros(picture.shape, np.int32), {}, mpp)
            real = empty if nuclei is None else layout_of(nuclei, point, mpp)
            if real.shape != picture.shape:
                (rows, cols), (height, width) = real.shape, picture.shape
                raise HistomixError(f"'{nuclei.name}' is {cols}×{rows} pixels but the image is {width}×{height}.")
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        self.note.say("")
        name = f"{picture.name}, what if"
        space = viewer_layers.space_of(layer, picture)
        facts = {"image": name, "synthetic": True, "of": picture.name}
        drawn = layout_layer(real, self._classes(), f"{name} nuclei", space, **facts)
        drawing = Drawing(picture, mpp, real.instances)
        self._drawings.append(WhatIf(layer, nuclei, drawing, space, drawn))
        if nuclei is not None:
            nuclei.visible = False
        self._add(drawn)
        self._on_layers()

    # Painting.

    def paint(self) -> None:
        """Paint the layout, or what was drawn into the image, in the background."""
        if self.runner.running or self.problem():
            return
        self.note.say("")
        self._painted.pop(self.what_if, None)
        self.keep_box.offer(None)
        self._messages, self._lost, self._preview = [], "", None
        point = self.viewer.dims.point
        try:
            if self.what_if:
                make = self._what_if_job()
            else:
                layer = self.layout.layer
                layout = layout_of(layer, point, self.scale.value())
                stain = self.paint_form.stain.layer
                reference = None if stain is None else viewer_layers.picture_of(stain, point)
                self._base, self._space = layer, viewer_layers.plane_space(layer)
                options, facts = self.paint_form.options(), dict(about(layer))
                make = partial(making.paint_job, self.networks, layout, options, reference, facts)
        except HistomixError as error:
            self.complain(self.note, str(error))
            return
        self.runner.start(make, "painting")

    def _what_if_job(self) -> Any:
        drawing = self.drawing
        assert drawing is not None
        drawn = layout_of(drawing.layer, self.viewer.dims.point, drawing.drawing.mpp)
        self._base, self._space = drawing, drawing.space
        return partial(making.what_if_job, self.networks, drawing.drawing, drawn, self.paint_form.options())

    def plan_many(self) -> None:
        """Go to the method that paints many nuclei, with the chosen class as the rare one."""
        session = self.session
        session.choose_method(MANY)
        dataset, name = session.dataset, str(self.edit_box.kind.currentData() or "")
        known = {kind.name: kind.number for kind in dataset.classes} if dataset is not None else {}
        unclassified = dataset.unclassified.number if dataset is not None else 0
        if name in known:
            rare = known.pop(name)
            session.choose_classes((rare,), (number for number in known.values() if number != unclassified))
        session.page_requested.emit("project" if dataset is None else "make/plan")

    def _on_event(self, event: Event) -> None:
        if event.message and event.message not in self._messages:
            self._messages.append(event.message)
            self.note.say(" ".join(self._messages), "warning")
        if event.preview is not None and not isinstance(self._base, WhatIf):
            self._show_preview(event.preview)

    def _show_preview(self, pixels: NDArray[np.uint8]) -> None:
        if self._preview is None:
            name = self._free_name(f"{self._base.name} painted")
            metadata = {"histomix": {"image": name, "synthetic": True}}
            self._preview = Image(pixels, rgb=True, name=name, metadata=metadata, **self._space)
            self._base.visible = False
            self.viewer.layers.append(self._preview)
            self._show_alone(name)
        else:
            self._preview.data = pixels

    def _on_painted(self, painted: Painted) -> None:
        base, self._base = self._base, None
        words = making.counted(painted.layout)
        if isinstance(base, WhatIf):
            name = self._show_what_if(base, painted)
            count = len(painted.facts["drawn"])
            words = "1 nucleus is painted" if count == 1 else f"{count:,} nuclei are painted"
        else:
            name = self._show_pair(base, painted)
        sentence = f"{words} in “{name}”; all else is as it was." if isinstance(base, WhatIf) else f"“{name}”: {words}."
        messages, self._messages = self._messages, []
        self.note.say(" ".join([sentence, *messages]), "warning" if messages else "good")
        self._painted[isinstance(base, WhatIf)] = painted
        self.keep_box.offer(painted)
        self._update()
        ui.reveal(self.keep_box)

    def _show_pair(self, base: Any, painted: Painted) -> str:
        """The picture and its labels, named alike."""
        self._base = base
        self._show_preview(painted.pixels)
        layer, self._base, self._preview = self._preview, None, None
        name = str(layer.name)
        facts = {"mpp": painted.layout.mpp, **painted.facts, "image": name}
        layer.metadata = {"histomix": facts}
        labels = layout_layer(painted.layout, self._classes(), f"{name} nuclei", self._space, **facts)
        self.viewer.layers.insert(self.viewer.layers.index(layer) + 1, labels)
        self.viewer.layers.selection.active = layer
        return name

    def _show_what_if(self, what_if: WhatIf, painted: Painted) -> str:
        """The image with the painted nuclei, above the one as it was; and the labels of both."""
        layers, drawn = self.viewer.layers, what_if.layer
        name = str(about(drawn)["image"])
        facts = {"mpp": what_if.drawing.mpp, **painted.facts, "image": name, "of": what_if.drawing.picture.name}
        lead = len(what_if.space["scale"]) - 2
        pixels = painted.pixels[(np.newaxis,) * lead]
        if what_if.painted in layers:
            what_if.painted.data = pixels
        else:
            what_if.painted = Image(pixels, rgb=True, name=name, **what_if.space)
            place = layers.index(drawn) if drawn in layers else len(layers)
            layers.insert(place, what_if.painted)
        what_if.painted.metadata, what_if.painted.visible = {"histomix": facts}, True
        if drawn not in layers:
            drawn = layout_layer(painted.layout, self._classes(), f"{name} nuclei", what_if.space, **facts)
            layers.append(drawn)
            what_if.layer = drawn
            if what_if not in self._drawings and what_if.image in layers:
                self._drawings.append(what_if)
        self._take_drawing(what_if, painted)
        layers.selection.active = drawn
        return str(what_if.painted.name)

    def _take_drawing(self, what_if: WhatIf, painted: Painted) -> None:
        """Give real nuclei back what was drawn over them, and say which nuclei are synthetic."""
        layer, point = what_if.layer, self.viewer.dims.point
        now = layout_of(layer, point, what_if.drawing.mpp)
        write_layout(layer, point, now, what_if.drawing.layout(now)[0])
        features = layer.features.copy()
        features["synthetic"] = features["index"].isin(painted.facts["drawn"]) if len(features) else False
        layer.features = features
        layer.metadata = {"histomix": {**about(layer), **painted.facts, "mpp": what_if.drawing.mpp}}

    def _on_removed(self, event: Any) -> None:
        if not isalive(self):
            return
        layer = event.value
        if layer is self._preview:
            self._lost = str(layer.name)
            self.runner.discard()
        for drawing in list(self._drawings):
            if layer in (drawing.image, drawing.layer):
                self._drawings.remove(drawing)
        if layer is self.edit_box.layer:
            self.edit_box.use(None)

    def _on_cancelled(self) -> None:
        self._take_back()
        if self._lost:
            self.complain(self.note, f"'{self._lost}' was closed while it was painted; nothing of it was kept.")
        else:
            self.note.say("Stopped; nothing was made.")

    def _on_failed(self, sentence: str) -> None:
        self._take_back()
        self.complain(self.note, sentence)

    def _take_back(self) -> None:
        """Remove what is half-done."""
        preview, self._preview, self._base = self._preview, None, None
        remove_layer(self.viewer, preview)
        if preview is not None and self.edited is not None:
            self.edited.visible = True

    def _on_running(self, running: bool) -> None:
        for part in (self.task, self.paint_form, self.scale_box):
            part.setEnabled(not running)
        self._update()

    def _show_before(self, before: bool) -> None:
        drawing = self.drawing
        if drawing is not None and drawing.painted in self.viewer.layers:
            drawing.painted.visible = not before
            drawing.layer.visible = not before
