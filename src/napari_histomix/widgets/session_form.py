"""Forms and fields that follow a viewer's session: its classes, its networks, and where networks are trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from qtpy.QtWidgets import QFormLayout, QPushButton, QWidget

from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.forms import ModelChoice, SettingsForm
from napari_histomix.widgets.session import Session


class NetworkChoice(ModelChoice):
    """The network of a ``kind`` that a window uses: chosen here, it is chosen for all docks; see ``follow``."""

    def __init__(self, session: Session, kind: str) -> None:
        super().__init__("the bundled one")
        self.session, self.kind = session, kind
        self.changed.connect(lambda value: session.use_model(value or None, self.kind))
        self.follow()

    def follow(self) -> None:
        """Show what the window uses; to be called when that, or the kind, is another."""
        self.value = str(self.session.networks.get(self.kind) or "")


def training_button(session: Session, kind: Callable[[], str]) -> QPushButton:
    """Leads from the choice of a network to where one of its kind is trained."""
    tip = "Train a network of your own, in the tab Train: it can be chosen here then."
    return ui.button("Train a network …", tip, lambda: session.page_requested.emit(f"make/train/{kind()}"))


CLASSES = ("rare", "major")
"""Settings whose classes are the session's own, which the page Project shows too."""


class SessionForm(SettingsForm):
    """A form that follows a viewer's session: its dataset's classes, those chosen in Data, and its trained network."""

    def __init__(self, session: Session, *classes: type, omit: Collection[str] = ()) -> None:
        self.session = session
        super().__init__(*classes, choices=self._known, omit=omit)
        self._own = [name for name in CLASSES if name in self.fields]
        options = {name: self._settings[name].option for name in self.fields}
        self._networks = {name: option.network for name, option in options.items() if option.kind == "model"}
        for name in self._own:
            self.fields[name].changed.connect(lambda _value: self._choose())
        for name, kind in self._networks.items():
            self.fields[name].changed.connect(lambda value, kind=kind: session.use_model(value or None, kind))
            self._add_training(self.fields[name].native, kind)
        session.dataset_changed.connect(self.refresh)
        session.classes_changed.connect(self._on_classes)
        session.model_changed.connect(self._on_model)
        self.refresh()
        self._on_classes()
        self._on_model()

    def _add_training(self, field: QWidget, kind: str) -> None:
        """Lead from the choice of a network, in a row below it, to where one is trained."""
        button = training_button(self.session, lambda: kind)
        for layout in self.findChildren(QFormLayout):
            row, _ = layout.getWidgetPosition(field)
            if row >= 0:
                layout.insertRow(row + 1, "", button)

    def _known(self, kind: str) -> Sequence[str]:
        dataset = self.session.dataset
        return [each.name for each in dataset.classes] if kind == "classes" and dataset is not None else ()

    def _choose(self) -> None:
        dataset = self.session.dataset
        if dataset is None:
            return
        numbers = {"rare": self.session.rare, "major": self.session.major}
        for name in self._own:
            numbers[name] = tuple(dataset.class_number(chosen) for chosen in self.fields[name].value)
        self.session.choose_classes(**numbers)

    def _on_classes(self) -> None:
        dataset = self.session.dataset
        if dataset is None:
            return
        for name in self._own:
            names = [dataset.class_name(number) for number in getattr(self.session, name)]
            if set(self.fields[name].value) != set(names):
                with self.fields[name].changed.blocked():
                    self.fields[name].value = names
                self.changed.emit()

    def _on_model(self) -> None:
        for name, kind in self._networks.items():
            self.fields[name].value = str(self.session.networks.get(kind) or "")
