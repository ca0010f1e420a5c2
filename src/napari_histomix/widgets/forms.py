"""Forms made from settings classes by magicgui: each field becomes the typed widget that its annotation asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from magicgui.widgets import CheckBox, create_widget
from magicgui.widgets.bases import BaseValueWidget
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QLabel, QSizePolicy, QWidget

from napari_histomix.settings import Setting, made_from, settings_of
from napari_histomix.widgets.elements import SPACE, Section, column, form, label, narrow
from napari_histomix.widgets.form_widgets import (
    EncoderChoice,
    FileName,
    ManyEdit,
    ModelChoice,
    Number,
    OptionalEdit,
    RangeEdit,
    ValuesEdit,
)

if TYPE_CHECKING:
    from napari_histomix.widgets.session import Session

S = TypeVar("S")
Choices = Callable[[str], Sequence[str]]
"""What the window knows of a kind of setting: classes of the dataset, models that were trained."""

WHOLE, REAL = 2**31 - 1, 1e9
"""Bounds of numbers whose settings have none."""


def no_choices(kind: str) -> Sequence[str]:
    """What is known where there is no dataset and no session."""
    return ()


def widget_for(setting: Setting, choices: Choices = no_choices) -> BaseValueWidget[Any]:
    """The widget of a setting, with its default where it has one."""
    option = setting.option
    widget: Any
    if option.kind == "classes":
        widget = ManyEdit([(name, name) for name in choices("classes")])
    elif setting.many and option.choices:
        widget = ManyEdit(_titles(setting))
    elif setting.many:
        widget = ValuesEdit(setting.type, option.automatic)
    elif setting.pair:
        widget = RangeEdit(lambda: _single(setting, choices))
    else:
        widget = _single(setting, choices)
    if setting.optional:
        widget = OptionalEdit(widget, option.automatic)
    if not setting.required:
        widget.value = setting.default
    widget.name, widget.label, widget.tooltip = setting.name, setting.label, tooltip(setting)
    return widget  # type: ignore[no-any-return]


def _single(setting: Setting, choices: Choices) -> Any:
    """The widget of a single value of a setting, which magicgui chooses by its type where it can."""
    option = setting.option
    if option.choices:
        box = create_widget(annotation=setting.type, options={"choices": _titles(setting)})
        narrow(box.native)
        return box
    if option.kind == "model":
        model = ModelChoice(option.automatic)
        model.offer(choices("model"))
        return model
    if option.kind in ("encoder", "file"):
        return EncoderChoice() if option.kind == "encoder" else FileName()
    if setting.type in (int, float):
        end = WHOLE if setting.type is int else REAL
        low = -end if option.low is None else option.low
        high = end if option.high is None else option.high
        kind = {} if setting.type is int else {"widget_type": Number}
        box = create_widget(annotation=setting.type, options={"min": low, "max": high, "value": low, **kind})
        if setting.type is float and option.unit:
            box.native.setSuffix(f" {option.unit}")
        box.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        box.native.setMinimumWidth(64)
        return box
    if setting.type is bool:
        return create_widget(annotation=bool, options={"text": setting.label})
    line = create_widget(annotation=str)
    line.native.setPlaceholderText(option.automatic)
    return line


def _titles(setting: Setting) -> list[tuple[str, Any]]:
    return [(str(title), value) for value, title in setting.option.choices.items()]


def tooltip(setting: Setting) -> str:
    """What a setting does and what it may be."""
    option = setting.option
    bounds = "" if option.choices else setting.bounds()
    if not bounds and option.unit and not option.choices:
        bounds = f"in {option.unit}"
    return f"{option.help}\n{bounds[:1].upper()}{bounds[1:]}." if bounds else option.help


class SettingsForm(QWidget):
    """A form for one or several settings classes; fields of one name are shown once.

    ``choices("classes")`` are the names of the dataset's classes, and so on. Settings to ``omit`` keep their defaults.
    """

    changed = Signal()

    def __init__(self, *classes: type, choices: Choices = no_choices, omit: Collection[str] = ()) -> None:
        super().__init__()
        self._choices = choices
        self._settings = {setting.name: setting for cls in reversed(classes) for setting in settings_of(cls)}
        self.fields: dict[str, Any] = {}
        """magicgui's widgets, by the name of the setting."""
        self.labels: dict[str, QLabel] = {}
        usual, rare = form(), form()
        names = dict.fromkeys(setting.name for cls in classes for setting in settings_of(cls))
        for name in names:
            if name not in omit:
                self._add(self._settings[name], rare if self._settings[name].option.advanced else usual)
        self.advanced = Section("Advanced", "Settings that are rarely changed.", False)
        self.advanced.body.addLayout(rare)
        self.advanced.setVisible(rare.rowCount() > 0)
        self.setLayout(column(usual, self.advanced, space=SPACE - 2))

    def _add(self, setting: Setting, layout: QFormLayout) -> None:
        widget = widget_for(setting, self._choices)
        self.fields[setting.name] = widget
        widget.native.setAccessibleName(setting.label)
        widget.changed.connect(lambda _value: self.changed.emit())
        if isinstance(widget, CheckBox):
            layout.addRow("", widget.native)
            return
        self.labels[setting.name] = label(setting.label, wrap=False)
        self.labels[setting.name].setToolTip(widget.tooltip)
        layout.addRow(self.labels[setting.name], widget.native)

    def value(self, cls: type[S]) -> S:
        """What the form says, as settings of a class; a ``HistomixError`` where a value cannot be."""
        names = [setting.name for setting in settings_of(cls) if setting.name in self.fields]
        return made_from(cls, {name: self.fields[name].value for name in names})

    def set_value(self, settings: Any) -> None:
        """Show settings."""
        for setting in settings_of(type(settings)):
            if setting.name in self.fields:
                self.fields[setting.name].value = getattr(settings, setting.name)

    def refresh(self) -> None:
        """Offer what can be chosen now: another dataset may be open, another model trained."""
        for name, widget in self.fields.items():
            kind = self._settings[name].option.kind
            if kind == "classes":
                names = self._choices(kind)
                widget.offer([(class_name, class_name) for class_name in names])
                for part in (self.labels[name], widget.native):
                    part.setVisible(bool(names))
            elif kind == "model":
                widget.offer(self._choices(kind))

    def missing(self) -> str:
        """What a person still has to choose, in a sentence; empty where nothing is missing."""
        for name, widget in self.fields.items():
            setting = self._settings[name]
            if setting.required and not widget.value:
                return f"Choose {setting.label.lower()} first. {setting.option.help}"
        return ""


CLASSES = ("rare", "major")
"""Settings whose classes are the session's own, which the Data step shows too."""


class SessionForm(SettingsForm):
    """A form that follows a viewer's session: its dataset's classes, those chosen in Data, and its trained network."""

    def __init__(self, session: Session, *classes: type, omit: Collection[str] = ()) -> None:
        self.session = session
        super().__init__(*classes, choices=self._known, omit=omit)
        self._own = [name for name in CLASSES if name in self.fields]
        self._networks = [name for name in self.fields if self._settings[name].option.kind == "model"]
        for name in self._own:
            self.fields[name].changed.connect(lambda _value: self._choose())
        for name in self._networks:
            self.fields[name].changed.connect(lambda value: session.use_model(value or None))
        session.dataset_changed.connect(self.refresh)
        session.classes_changed.connect(self._on_classes)
        session.model_changed.connect(self._on_model)
        self.refresh()
        self._on_classes()
        self._on_model()

    def _known(self, kind: str) -> Sequence[str]:
        dataset = self.session.dataset
        if kind == "classes" and dataset is not None:
            return [kind.name for kind in dataset.classes]
        return [str(self.session.model_folder)] if kind == "model" and self.session.model_folder else ()

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
        for name in self._networks:
            self.fields[name].value = str(self.session.model_folder or "")
