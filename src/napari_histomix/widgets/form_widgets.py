"""Widgets of forms that magicgui does not have: pairs, optional values, lists of names, networks, encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, Container, FileEdit, FloatSpinBox, LineEdit, PushButton
from magicgui.widgets.bases import ValuedContainerWidget
from qtpy.QtWidgets import QFileDialog, QLabel, QWidget
from superqt import QFlowLayout as FlowLayout

from napari_histomix.widgets.elements import narrow

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
        """The number that was set, or another that a person has written since."""
        written = float(super().get_value())
        return self.exact if written == round(self.exact, self.native.decimals()) else written

    def set_value(self, value: float) -> None:
        """Show a number."""
        needed = len(f"{value:.8f}".rstrip("0").partition(".")[2])
        self.native.setDecimals(max(DECIMALS, self.native.decimals(), needed))
        self.exact = float(value)
        super().set_value(value)


class Parts(ValuedContainerWidget[Any]):
    """Base of widgets that are made of others.

    Parameters
    ----------
    widgets : sequence of Widget
    layout : str
        ``horizontal`` or ``vertical``.
    """

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
    """A lower and an upper value.

    Parameters
    ----------
    single : callable
        Makes the widget of a single value.
    """

    def __init__(self, single: Callable[[], Any], **options: Any) -> None:
        self.low, self.high = single(), single()
        super().__init__((self.low, self.high), **options)
        self.native.layout().insertWidget(1, QLabel("to"))
        self.low.changed.connect(lambda value: self.high.value < value and setattr(self.high, "value", value))
        self.high.changed.connect(lambda value: self.low.value > value and setattr(self.low, "value", value))

    def get_value(self) -> tuple[Any, Any]:
        """Both."""
        return self.low.value, self.high.value

    def set_value(self, value: Sequence[Any]) -> None:
        """Show both."""
        low, high = value
        self.high.value = max(high, self.low.value)
        self.low.value, self.high.value = low, high


class OptionalEdit(Parts):
    """A value, or None, which stands for something automatic.

    Parameters
    ----------
    inner : Widget
    automatic : str
        What None stands for.
    """

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
        """None where it is automatic."""
        return None if self.automatic.value else self.inner.value

    def set_value(self, value: Any) -> None:
        """Show a value, or that it is automatic."""
        if value is not None:
            self.inner.value = value
        self.automatic.value = value is None


class ValuesEdit(Parts):
    """Any number of values, with spaces between them.

    Parameters
    ----------
    single : type
        Of a value.
    automatic : str
        What is said where there is none.
    """

    def __init__(self, single: type, automatic: str, **options: Any) -> None:
        self._single = single
        self.line = LineEdit()
        self.line.native.setPlaceholderText(automatic)
        super().__init__((self.line,), **options)

    def get_value(self) -> tuple[Any, ...]:
        """What is written; texts stay as they are where they are no such values, and are refused by the settings."""
        try:
            return tuple(self._single(text) for text in self.line.value.replace(",", " ").split())
        except ValueError:
            return tuple(self.line.value.split())

    def set_value(self, value: Sequence[Any]) -> None:
        """Write values."""
        self.line.value = " ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)


class ManyEdit(Parts):
    """Some of several names, in their order, each a box to check.

    Parameters
    ----------
    names : sequence of (str, str)
        Titles and values.
    """

    def __init__(self, names: Sequence[tuple[str, str]] = (), **options: Any) -> None:
        self._boxes: dict[str, CheckBox] = {}
        super().__init__((), **options)
        self._flow = FlowLayout()
        inner = QWidget()
        inner.setLayout(self._flow)
        self._flow.setContentsMargins(0, 0, 0, 0)
        self.native.layout().addWidget(inner)
        self.offer(names)

    def offer(self, names: Sequence[tuple[str, str]]) -> None:
        """Offer other names; those that are chosen stay chosen where they are among them."""
        chosen = self.value
        for box in self._boxes.values():
            self._flow.removeWidget(box.native)
            box.native.deleteLater()
        self._boxes = {}
        for title, name in names:
            self._add(title, name, name in chosen)

    def _add(self, title: str, name: str, checked: bool) -> None:
        box = CheckBox(text=title, value=checked)
        box.changed.connect(self.tell)
        self._boxes[name] = box
        self._flow.addWidget(box.native)

    def get_value(self) -> tuple[str, ...]:
        """Names that are checked."""
        return tuple(name for name, box in self._boxes.items() if box.value)

    def set_value(self, value: Sequence[str]) -> None:
        """Check these and no others; a name that was not offered is added."""
        for name in value:
            if name not in self._boxes:
                self._add(name, name, False)
        if set(self.value) == set(value):
            return
        with self.changed.blocked():
            for name, box in self._boxes.items():
                box.value = name in value
        self.tell()


class FileName(FileEdit):
    """A file's name as text; empty where there is none.

    Parameters
    ----------
    filter : str
        Of the dialog.
    """

    def __init__(self, filter: str = WEIGHTS, **options: Any) -> None:
        super().__init__(filter=filter, **options)
        self.choose_btn.text = "…"

    def get_value(self) -> str:  # type: ignore[override]
        """As it is written."""
        return str(self.line_edit.value).strip()

    def set_value(self, value: Any) -> None:
        """Write a name."""
        self.line_edit.value = str(value or "")


class ModelChoice(Parts):
    """The bundled network, one that was trained in this session, or one from the disk.

    Parameters
    ----------
    automatic : str
        What the empty text stands for.
    """

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
        """Folder or checkpoint; empty for the automatic one."""
        return self._value

    def set_value(self, value: str) -> None:
        """Choose a model, and offer it from now on."""
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
        """See ``features.open_encoder``."""
        kind: str = self.box.value
        return kind if kind == "texture" else kind + str(self.detail.value).strip()

    def set_value(self, value: str) -> None:
        """Choose an encoder."""
        kind, colon, rest = value.partition(":")
        self.box.value = kind + colon
        self.detail.value = rest
