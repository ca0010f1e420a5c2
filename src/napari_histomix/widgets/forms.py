"""Forms made from settings classes by magicgui: each field becomes the typed widget that its annotation asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from magicgui.widgets import CheckBox, ComboBox, Container, FileEdit, FloatSpinBox, LineEdit, PushButton, create_widget
from magicgui.widgets.bases import BaseValueWidget, ValuedContainerWidget
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFileDialog, QFormLayout, QLabel, QPushButton, QSizePolicy, QWidget
from superqt import QFlowLayout

from napari_histomix.settings import Setting, made_from, preset_help, presets_of, settings_of
from napari_histomix.widgets import elements as ui

S = TypeVar("S")
Choices = Callable[[str], Sequence[str]]
"""What the window knows of a kind of setting: the classes of the dataset."""

WHOLE, REAL = 2**31 - 1, 1e9
"""Bounds of numbers whose settings have none."""
DECIMALS = 2
"""Decimals that a number has at least."""
NARROWEST = 50
"""Pixels that a number has at least, beside its buttons and margins."""
SHORT = 18
"""Letters of what None stands for that have room in a form."""
NAMED, AMONG = re.compile(r"\(setting: ([^)]+)\)"), re.compile(r" (?:or|and) ")
"""How a refusal names settings, and what stands between several."""
WEIGHTS = "Weights (*.safetensors *.pth *.pt)"
ENCODERS = (("Texture (built in)", "texture"), ("timm model", "timm:"), ("CTransPath weights", "ctranspath:"))


class Number(FloatSpinBox):
    """A number with as many decimals as its value needs, up to eight; one that needs more is kept as it is."""

    exact = 0.0

    def get_value(self) -> float:
        shown = float(super().get_value())
        return self.exact if shown == round(self.exact, self.native.decimals()) else shown

    def set_value(self, value: float) -> None:
        needed = len(f"{value:.8f}".rstrip("0").partition(".")[2])
        self.native.setDecimals(max(DECIMALS, self.native.decimals(), needed))
        self.exact = float(value)
        super().set_value(value)


class Parts(ValuedContainerWidget[Any]):
    """Base of widgets that are made of others."""

    def __init__(self, widgets: Sequence[Any], layout: str = "horizontal", **options: Any) -> None:
        super().__init__(widgets=widgets, layout=layout, labels=False, **options)
        self.margins = (0, 0, 0, 0)
        for widget in widgets:
            widget.changed.disconnect()
            widget.changed.connect(self.tell)

    def tell(self) -> None:
        """Say that the value may be another."""
        self.changed.emit(self.value)


class RangeEdit(Parts):
    """A lower and an upper value, each in a widget that ``single`` makes."""

    def __init__(self, single: Callable[[], Any], **options: Any) -> None:
        self.low, self.high = single(), single()
        super().__init__((self.low, self.high), **options)
        self.native.layout().insertWidget(1, ui.label("to", wrap=False))
        self.low.changed.connect(lambda value: self.high.value < value and setattr(self.high, "value", value))
        self.high.changed.connect(lambda value: self.low.value > value and setattr(self.low, "value", value))

    def get_value(self) -> tuple[Any, Any]:
        return self.low.value, self.high.value

    def set_value(self, value: Sequence[Any]) -> None:
        low, high = value
        self.high.value = max(high, self.low.value)
        self.low.value, self.high.value = low, high


class OptionalEdit(Parts):
    """A value, or None, which stands for something automatic."""

    def __init__(self, inner: Any, automatic: str, **options: Any) -> None:
        self.inner = inner
        short = automatic if len(automatic) <= SHORT else "automatic"
        self.automatic = CheckBox(text=short or "none", value=True, tooltip=automatic)
        super().__init__((self.automatic, inner), **options)
        self.automatic.changed.connect(self._update)
        self._update()

    def _update(self) -> None:
        self.inner.enabled = not self.automatic.value

    def get_value(self) -> Any:
        return None if self.automatic.value else self.inner.value

    def set_value(self, value: Any) -> None:
        if value is not None:
            self.inner.value = value
        self.automatic.value = value is None


class ValuesEdit(Parts):
    """Any number of values of a type, with spaces between them; ``automatic`` is said where there is none."""

    def __init__(self, single: type, automatic: str, **options: Any) -> None:
        self._single = single
        self.line = LineEdit()
        self.line.native.setPlaceholderText(automatic)
        super().__init__((self.line,), **options)

    def get_value(self) -> tuple[Any, ...]:
        try:
            return tuple(self._single(text) for text in self.line.value.replace(",", " ").split())
        except ValueError:
            # Texts that are no such values are refused by the settings.
            return tuple(self.line.value.split())

    def set_value(self, value: Sequence[Any]) -> None:
        self.line.value = " ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)


class ManyEdit(Parts):
    """Some of several names, given as (title, value), in their order, each a box to check."""

    def __init__(self, names: Sequence[tuple[str, str]] = (), **options: Any) -> None:
        self._boxes: dict[str, CheckBox] = {}
        super().__init__((), **options)
        self._flow = QFlowLayout()
        self._flow.setContentsMargins(0, 0, 0, 0)
        self.native.layout().addWidget(ui.box(self._flow))
        self.offer(names)

    def offer(self, names: Sequence[tuple[str, str]]) -> None:
        """Offer other names; those that are chosen stay chosen where they are among them."""
        chosen = self.value
        for name_box in self._boxes.values():
            self._flow.removeWidget(name_box.native)
            name_box.native.deleteLater()
        self._boxes = {}
        for title, name in names:
            self._add(title, name, name in chosen)

    def _add(self, title: str, name: str, checked: bool) -> None:
        self._boxes[name] = CheckBox(text=title, value=checked)
        self._boxes[name].changed.connect(self.tell)
        self._flow.addWidget(self._boxes[name].native)

    def get_value(self) -> tuple[str, ...]:
        return tuple(name for name, name_box in self._boxes.items() if name_box.value)

    def set_value(self, value: Sequence[str]) -> None:
        # A name that was not offered is added.
        for name in value:
            if name not in self._boxes:
                self._add(name, name, False)
        if set(self.value) == set(value):
            return
        with self.changed.blocked():
            for name, name_box in self._boxes.items():
                name_box.value = name in value
        self.tell()


class FileName(FileEdit):
    """The name of a file, or of a ``folder``, as text; ``automatic`` is said where it is empty."""

    def __init__(self, automatic: str = "", *, folder: bool = False, **options: Any) -> None:
        super().__init__("d" if folder else "r", WEIGHTS, **options)
        self.choose_btn.text = "…"
        self.line_edit.native.setPlaceholderText(automatic)

    def get_value(self) -> str:  # type: ignore[override]
        return str(self.line_edit.value).strip()

    def set_value(self, value: Any) -> None:
        self.line_edit.value = str(value or "")


class ModelChoice(Parts):
    """The bundled network, one that was trained in this session, or one from the disk; as text, empty for the first."""

    FOLDER, FILE = "\0folder", "\0file"

    def __init__(self, automatic: str, **options: Any) -> None:
        self._automatic, self._names = automatic or "none", [""]
        self._value = ""
        self.box = ComboBox(choices=self._choices)
        ui.narrow(self.box.native)
        super().__init__((self.box,), **options)
        self.box.changed.disconnect()
        self.box.changed.connect(self._on_chosen)

    def _choices(self, _widget: Any = None) -> list[tuple[str, str]]:
        named = [(name.rstrip("/\\").replace("\\", "/").rpartition("/")[2], name) for name in self._names[1:]]
        return [(self._automatic, ""), *named, ("choose a folder …", self.FOLDER), ("choose a file …", self.FILE)]

    def offer(self, names: Sequence[str]) -> None:
        """Offer these models beside the ones that were offered before."""
        self._names += [name for name in names if name not in self._names]
        with self.box.changed.blocked():
            self.box.reset_choices()
            self.box.value = self._value

    def _on_chosen(self, value: str) -> None:
        if value in (self.FOLDER, self.FILE):
            title = "A trained network"
            if value == self.FOLDER:
                chosen = QFileDialog.getExistingDirectory(self.native, title)
            else:
                chosen, _ = QFileDialog.getOpenFileName(self.native, title)
            value = chosen or self._value
        self.set_value(value)

    def get_value(self) -> str:
        return self._value

    def set_value(self, value: str) -> None:
        before, self._value = self._value, value
        self.offer([value])
        if value != before:
            self.tell()


class EncoderChoice(Parts):
    """How tissue is compared: an encoder, and the name or file that it needs."""

    def __init__(self, **options: Any) -> None:
        self.box = ComboBox(choices=ENCODERS)
        ui.narrow(self.box.native)
        self.detail = LineEdit(tooltip="The weights file of CTransPath, or the name of a timm model.")
        self.browse = PushButton(text="…", tooltip="Choose the weights file.")
        # Below each other: side by side they would be wider than a dock.
        below = Container(widgets=[self.detail, self.browse], layout="horizontal", labels=False)
        below.margins = (0, 0, 0, 0)
        super().__init__((self.box, below), "vertical", **options)
        self.browse.changed.disconnect()
        self.browse.changed.connect(self._ask)
        self.box.changed.connect(self._update)
        self._update()

    def _update(self) -> None:
        kind = self.box.value
        self.detail.native.setVisible(kind != "texture")
        self.browse.native.setVisible(kind == "ctranspath:")
        self.detail.native.setPlaceholderText(
            "the weights file" if kind == "ctranspath:" else "a name, for example resnet18"
        )

    def _ask(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self.native, "CTransPath weights", "", WEIGHTS)
        if name:
            self.detail.value = name

    def get_value(self) -> str:
        kind: str = self.box.value
        return kind if kind == "texture" else kind + str(self.detail.value).strip()

    def set_value(self, value: str) -> None:
        kind, colon, rest = value.partition(":")
        self.box.value = kind + colon
        self.detail.value = rest


def widget_for(setting: Setting, choices: Choices) -> BaseValueWidget[Any]:
    """The widget of a setting, with its default where it has one."""
    option = setting.option
    widget: Any
    if option.kind == "classes":
        widget = ManyEdit(_classes(setting, choices))
    elif setting.many and option.choices:
        widget = ManyEdit(_titles(setting))
    elif setting.many:
        widget = ValuesEdit(setting.type, option.automatic)
    elif setting.pair:
        widget = RangeEdit(lambda: _single(setting))
    else:
        widget = _single(setting)
    if setting.optional:
        widget = OptionalEdit(widget, option.automatic)
    if not setting.required:
        widget.value = setting.default
    widget.name, widget.label, widget.tooltip = setting.name, setting.label, tooltip(setting)
    return widget  # type: ignore[no-any-return]


def _single(setting: Setting) -> Any:
    """The widget of a single value of a setting, which magicgui chooses by its type where it can."""
    option = setting.option
    if option.choices:
        box = create_widget(annotation=setting.type, options={"choices": _titles(setting)})
        ui.narrow(box.native)
        return box
    if option.kind == "model":
        return ModelChoice(option.automatic)
    if option.kind == "encoder":
        return EncoderChoice()
    if option.kind in ("file", "folder"):
        return FileName(option.automatic, folder=option.kind == "folder")
    if setting.type in (int, float):
        end = WHOLE if setting.type is int else REAL
        low = -end if option.low is None else option.low
        high = end if option.high is None else option.high
        kind = {} if setting.type is int else {"widget_type": Number}
        box = create_widget(annotation=setting.type, options={"min": low, "max": high, "value": low, **kind})
        if setting.type is float and option.unit:
            box.native.setSuffix(f" {option.unit}")
        box.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        # By a style sheet: napari's own has a wider one, over which two do not fit side by side.
        box.native.setStyleSheet(f"QAbstractSpinBox {{ min-width: {NARROWEST}px; }}")
        if setting.type is int:
            _take_whole_numbers(box.native)
        return box
    if setting.type is bool:
        return create_widget(annotation=bool, options={"text": setting.label})
    line = create_widget(annotation=str)
    line.native.setPlaceholderText(option.automatic)
    return line


def _take_whole_numbers(field: Any) -> None:
    """Take a number once it is within the bounds; superqt's field makes the lowest of a first digit that is below."""

    def take(text: str) -> None:
        if text.lstrip("-").isdecimal() and field.minimum() <= int(text) <= field.maximum():
            field.setValue(int(text))

    field.setKeyboardTracking(False)
    field.lineEdit().textEdited.connect(take)


def _classes(setting: Setting, choices: Choices) -> list[tuple[str, str]]:
    """Classes to choose from: the dataset's, and those that are the default."""
    usual = () if setting.required else setting.default
    return [(name, name) for name in dict.fromkeys([*choices("classes"), *usual])]


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

    ``choices("classes")`` are the names of the dataset's classes. Settings to ``omit`` keep their defaults.
    """

    changed = Signal()

    def __init__(self, *classes: type, choices: Choices = lambda _kind: (), omit: Collection[str] = ()) -> None:
        super().__init__()
        self._choices = choices
        self._settings = {setting.name: setting for cls in reversed(classes) for setting in settings_of(cls)}
        self.fields: dict[str, Any] = {}
        """magicgui's widgets, by the name of the setting."""
        self.labels: dict[str, QLabel] = {}
        usual, rare = ui.form(), ui.form()
        for rows in (usual, rare):
            # Below its label, a field has room where it has not beside it.
            rows.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        names = dict.fromkeys(setting.name for cls in classes for setting in settings_of(cls))
        for name in names:
            if name not in omit:
                self._add(self._settings[name], rare if self._settings[name].option.advanced else usual)
        self.advanced = ui.Section("Advanced", "Settings that are rarely changed.", False)
        self.advanced.body.addLayout(rare)
        self.advanced.setVisible(rare.rowCount() > 0)
        self.setLayout(ui.column(usual, self.advanced, space=ui.SPACE - 2))
        if presets := presets_of(*classes):
            defaults = {key: self._settings[key].default for values in presets.values() for key in values}
            self._presets = {"standard": defaults, **presets}
            names = [(name.capitalize(), name) for name in self._presets]
            self.preset = ui.choice(names, preset_help(presets, classes), name="Preset")
            self.preset.setPlaceholderText("Changed")
            self.preset.activated.connect(self._on_preset)
            self.changed.connect(self._show_preset)
            usual.insertRow(0, "Preset", self.preset)

    def _on_preset(self) -> None:
        values = self._presets[self.preset.currentData()]
        for name in values.keys() & self.fields.keys():
            self.fields[name].value = values[name]

    def _show_preset(self) -> None:
        """Name the preset that the fields hold, if they hold one."""
        held = (
            all(self.fields[key].value == value for key, value in values.items() if key in self.fields)
            for values in self._presets.values()
        )
        self.preset.setCurrentIndex(next((place for place, holds in enumerate(held) if holds), -1))

    def _add(self, setting: Setting, layout: QFormLayout) -> None:
        widget = widget_for(setting, self._choices)
        self.fields[setting.name] = widget
        widget.native.setAccessibleName(setting.label)
        widget.changed.connect(lambda _value: self.changed.emit())
        if isinstance(widget, CheckBox):
            layout.addRow("", widget.native)
            return
        self.labels[setting.name] = ui.label(setting.label, wrap=False)
        self.labels[setting.name].setToolTip(widget.tooltip)
        layout.addRow(self.labels[setting.name], widget.native)

    def value(self, cls: type[S]) -> S:
        """What the form says, as settings of a class; a ``HistomixError`` where a value cannot be."""
        names = [setting.name for setting in settings_of(cls) if setting.name in self.fields]
        return made_from(cls, {name: self.fields[name].value for name in names})

    def set_value(self, settings: Any) -> None:
        for setting in settings_of(type(settings)):
            if setting.name in self.fields:
                self.fields[setting.name].value = getattr(settings, setting.name)

    def refresh(self) -> None:
        """Offer what can be chosen now: another dataset may be open, another model trained."""
        for name, widget in self.fields.items():
            if self._settings[name].option.kind == "classes":
                names = _classes(self._settings[name], self._choices)
                widget.offer(names)
                self.show_setting(name, bool(names))

    def show_setting(self, name: str, shown: bool) -> None:
        """Show the field of a setting with its label, or hide it where it says nothing."""
        for part in (self.labels.get(name), self.fields[name].native):
            if part is not None:
                part.setVisible(shown)

    def named_in(self, text: str) -> list[str]:
        """The settings with a field that a text names, as in "(setting: unlike)", in its order."""
        said = [word for names in NAMED.findall(text) for word in AMONG.split(names)]
        labels = {self._settings[name].label.casefold(): name for name in self.fields}
        return list(dict.fromkeys(labels[word.casefold()] for word in said if word.casefold() in labels))

    def bring_up(self, name: str) -> None:
        """Unfold what hides the field of a setting, scroll to it and hand it the keys."""
        field = self.fields[name].native
        around = field.parentWidget()
        while around is not None:
            if isinstance(around, ui.Section):
                around.open()
            around = around.parentWidget()
        takes = (part for part in field.findChildren(QWidget) if part.focusPolicy() != Qt.FocusPolicy.NoFocus)
        part = field if field.focusPolicy() != Qt.FocusPolicy.NoFocus else next(takes, field)
        part.setFocus(Qt.FocusReason.OtherFocusReason)
        ui.reveal(field)

    def missing(self) -> str:
        """What a person still has to choose, in a sentence; empty where nothing is missing."""
        for name, widget in self.fields.items():
            setting = self._settings[name]
            if setting.required and not widget.value:
                return f"Choose {setting.label.lower()} first. {setting.option.help}"
        return ""


class SettingLinks(QWidget):
    """Buttons that lead to the fields of the settings that a refusal names, which may be folded away."""

    def __init__(self) -> None:
        super().__init__()
        self._flow = QFlowLayout()
        self._flow.setContentsMargins(0, 0, 0, 0)
        self.setLayout(self._flow)
        self.buttons: list[QPushButton] = []
        self.show_named("", None)

    def show_named(self, text: str, form: SettingsForm | None) -> None:
        """Lead to the settings that a text names, of those in a form; hidden where it names none."""
        for button in self.buttons:
            self._flow.removeWidget(button)
            button.deleteLater()
        names = form.named_in(text) if form is not None else []
        self.buttons = [
            ui.button(
                f"Show '{form.fields[name].label}'",
                "Go to this setting.",
                lambda _checked=False, name=name: form.bring_up(name),
            )
            for name in names
            if form is not None
        ]
        for button in self.buttons:
            self._flow.addWidget(button)
        self.setVisible(bool(names))
