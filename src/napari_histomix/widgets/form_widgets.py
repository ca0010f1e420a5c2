"""Widgets of forms that magicgui does not have: pairs, optional values, lists of names, networks, encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, Container, FileEdit, FloatSpinBox, LineEdit, PushButton
from magicgui.widgets.bases import ValuedContainerWidget
from qtpy.QtWidgets import QFileDialog
from superqt import QFlowLayout as FlowLayout

from napari_histomix.widgets.elements import box, label, narrow

DECIMALS = 2
"""Decimals that a number has at least."""
SHORT = 18
"""Letters of what None stands for that have room in a form."""
WEIGHTS = "Weights (*.safetensors *.pth *.pt)"
ENCODERS = (("Texture (built in)", "texture"), ("timm model", "timm:"), ("CTransPath weights", "ctranspath:"))


class Number(FloatSpinBox):
    """A number with as many decimals as its value needs, up to eight; one that needs more is kept as it is."""

    exact = 0.0

    def get_value(self) -> float:
        written = float(super().get_value())
        return self.exact if written == round(self.exact, self.native.decimals()) else written

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
        self.native.layout().insertWidget(1, label("to", wrap=False))
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
        self._flow = FlowLayout()
        self._flow.setContentsMargins(0, 0, 0, 0)
        self.native.layout().addWidget(box(self._flow))
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
    """A file's name as text; empty where there is none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(filter=WEIGHTS, **options)
        self.choose_btn.text = "…"

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
        narrow(self.box.native)
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
            asked = QFileDialog.getExistingDirectory if value == self.FOLDER else QFileDialog.getOpenFileName
            chosen = asked(self.native, "A trained network")
            value = (chosen if isinstance(chosen, str) else chosen[0]) or self._value
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
        narrow(self.box.native)
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
