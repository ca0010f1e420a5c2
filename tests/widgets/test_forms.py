"""Every setting of every method can be said in the window, and says there what it says everywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractSpinBox, QCheckBox, QComboBox, QWidget

from napari_histomix.methods import method_names, method_of
from napari_histomix.records import HistomixError
from napari_histomix.settings import Option, PaintingSettings, Seed, Setting, made_from, presets_of, settings_of
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.forms import SettingLinks, SettingsForm

CLASSES = ("tumor", "stroma", "lymphocyte")


@dataclass(frozen=True)
class AllKinds:
    """A setting of every form that there is."""

    rare: Annotated[tuple[str, ...], Option("To grow.", kind="classes")]
    count: Annotated[int, Option("How many.", low=1, high=100_000)] = 20
    share: Annotated[float, Option("How much.", low=0.0, high=1.0, unit="%")] = 0.125
    unbounded: Annotated[float, Option("Anything.")] = -0.002
    switch: Annotated[bool, Option("Yes or no.", label="Match stain")] = True
    sampler: Annotated[str, Option("How fast.", choices={"fast": "Fast", "paper": "As in the paper"})] = "fast"
    steps: Annotated[int, Option("How many steps.", choices={1: "one", 4: "four"})] = 4
    area: Annotated[tuple[float, float], Option("From, to.", low=0.05, high=20.0)] = (0.4, 1.1)
    temperature: Annotated[float | None, Option("τ", low=0.01, automatic="from the data")] = None
    cap: Annotated[int | None, Option("At most.", low=1)] = 3
    scales: Annotated[tuple[float, ...], Option("µm.", low=0.0)] = ()
    encoder: Annotated[str, Option("How compared.", kind="encoder", advanced=True)] = "texture"
    weights: Annotated[str, Option("A file.", kind="file", advanced=True)] = ""
    network: Annotated[str, Option("A network.", kind="model", automatic="the bundled one")] = ""
    words: Annotated[str, Option("Anything.")] = ""
    seed: Seed = 0


def other(setting: Setting) -> Any:
    """A value that is allowed and not the default."""
    option, default = setting.option, None if setting.required else setting.default
    if option.kind == "classes":
        return CLASSES[1:]
    if option.kind == "encoder":
        return "ctranspath:weights.pth"
    if option.choices:
        names = [name for name in option.choices if name != default]
        return tuple(names) if setting.many else (names or list(option.choices))[0]
    if setting.type is bool:
        return not default
    if setting.type is str:
        return ("some", "thing") if setting.many else "something"
    low = option.low if option.low is not None else -3
    high = option.high if option.high is not None else low + 10
    at = [setting.type(low + share * (high - low)) for share in (0.375, 0.625)]
    if setting.pair or setting.many:
        return tuple(at)
    return at[0] if at[0] != default else at[1]


def stages_and_methods() -> list[Any]:
    classes = [AllKinds, PaintingSettings]
    for name in method_names():
        try:
            method = method_of(name)
        except (ImportError, AttributeError):
            continue
        classes += [method.settings, *([method.stage.settings] if method.stage is not None else [])]
    return list(dict.fromkeys(classes))


@pytest.mark.parametrize("cls", stages_and_methods(), ids=lambda cls: cls.__name__)
def test_every_setting_has_a_widget_that_shows_keeps_and_explains_it(qtbot, cls) -> None:
    form = SettingsForm(cls, choices=lambda kind: CLASSES if kind == "classes" else ())
    qtbot.addWidget(form)
    settings = settings_of(cls)
    assert list(form.fields) == [setting.name for setting in settings]
    needed = {setting.name: other(setting) for setting in settings if setting.required}
    for name, value in needed.items():
        form.fields[name].value = value
    assert form.value(cls) == made_from(cls, needed)
    for setting in settings:
        widget = form.fields[setting.name]
        said = widget.text if setting.type is bool else form.labels[setting.name].text()
        assert said == setting.label
        assert setting.option.help in widget.tooltip and setting.option.help in widget.native.toolTip()
        assert form.advanced.isAncestorOf(widget.native) == setting.option.advanced
        if setting.option.choices and not setting.many:
            box = getattr(widget, "inner", widget)
            assert {title: box.get_choice(title) for title in setting.option.choices.values()} == {
                title: value for value, title in setting.option.choices.items()
            }
        changed = replace(form.value(cls), **{setting.name: other(setting)})
        form.set_value(changed)
        assert form.value(cls) == changed
        if setting.optional:
            form.fields[setting.name].value = None
            assert getattr(form.value(cls), setting.name) is None


def test_a_change_is_told_and_what_cannot_be_is_refused(qtbot) -> None:
    form = SettingsForm(AllKinds, choices=lambda kind: CLASSES if kind == "classes" else ())
    qtbot.addWidget(form)
    for name, value in (("count", 7), ("rare", ("stroma",)), ("area", (0.5, 2.0)), ("temperature", 3.0)):
        with qtbot.waitSignal(form.changed):
            form.fields[name].value = value
    form.fields["scales"].line.value = "a half"
    with pytest.raises(HistomixError, match="'scales' must be a number"):
        form.value(AllKinds)
    form.fields["area"].low.value = 5.0
    assert form.fields["area"].value == (5.0, 5.0)


def test_an_encoder_asks_only_for_what_it_needs(qtbot) -> None:
    form = SettingsForm(AllKinds)
    qtbot.addWidget(form)
    form.show()
    form.advanced.expand(animate=False)
    encoder = form.fields["encoder"]
    for spec, shown in (("texture", (False, False)), ("timm:resnet18", (True, False)), ("ctranspath:w", (True, True))):
        encoder.value = spec
        assert (encoder.detail.native.isVisible(), encoder.browse.native.isVisible()) == shown


def test_fields_of_one_name_are_shown_once(qtbot) -> None:
    form = SettingsForm(PaintingSettings, AllKinds)
    qtbot.addWidget(form)
    assert len(form.fields) == len({*form.fields}) and next(iter(form.fields)) == "sampler"
    form.fields["sampler"].value = "paper"
    form.fields["rare"].value = ("a",)
    assert form.value(PaintingSettings).sampler == form.value(AllKinds).sampler == "paper"


def test_classes_and_models_follow_what_is_open(qtbot) -> None:
    known = {"classes": ["a"]}
    form = SettingsForm(AllKinds, choices=lambda kind: known.get(kind, []))
    qtbot.addWidget(form)
    form.fields["rare"].value = ("a",)
    known.update(classes=["a", "b"])
    form.refresh()
    assert form.fields["rare"].value == ("a",)
    form.fields["rare"].value = ("b",)
    form.fields["network"].value = "/models/my tissue"
    assert form.value(AllKinds).network == "/models/my tissue" and form.value(AllKinds).rare == ("b",)
    assert "my tissue" in [form.fields["network"].box.native.itemText(at) for at in range(4)]


def test_a_preset_fills_the_form_and_is_named_while_the_form_holds_it(qtbot) -> None:
    method = method_of("usegmix")
    form = SettingsForm(method.settings)
    qtbot.addWidget(form)
    assert form.preset.currentText() == "Standard"
    form.preset.setCurrentText("Paper")
    form.preset.activated.emit(1)
    filled = form.value(method.settings)
    assert filled == made_from(method.settings, presets_of(method.settings)["paper"])
    assert form.preset.currentText() == "Paper"
    form.fields["per_class"].value = 3
    assert form.preset.currentText() == "Paper"
    form.fields["own_patient"].value = True
    assert form.preset.currentText() == ""
    form.preset.setCurrentText("Standard")
    form.preset.activated.emit(0)
    assert form.value(method.settings) == method.settings(per_class=3)


def test_a_choice_with_too_little_room_leaves_out_its_middle(qtbot) -> None:
    form = SettingsForm(AllKinds)
    qtbot.addWidget(form)
    for name in ("sampler", "network", "encoder"):
        field = form.fields[name].native
        (box,) = [field] if isinstance(field, QComboBox) else field.findChildren(QComboBox)
        box.addItem("Real labels, with nuclei moved, turned and exchanged")
        box.setCurrentIndex(box.count() - 1)
        box.setFixedWidth(120)
        long = box.grab().toImage()
        room = range(box.fontMetrics().horizontalAdvance("Real labels"), 120)
        elided = (
            box.fontMetrics().elidedText(box.currentText(), Qt.TextElideMode.ElideMiddle, width) for width in room
        )
        pictures = []
        for text in dict.fromkeys(elided):
            box.setItemText(box.currentIndex(), text)
            pictures.append(box.grab().toImage())
        assert long in pictures


@pytest.mark.parametrize("method", ["nucleimix", "usegmix"])
def test_fields_side_by_side_have_room_for_their_texts_in_a_narrow_dock(method, qtbot) -> None:
    from napari.qt import get_stylesheet

    form = SettingsForm(method_of(method).settings)
    qtbot.addWidget(form)
    form.setStyleSheet(get_stylesheet("dark"))
    form.setFixedWidth(326)
    form.advanced.open()
    form.show()
    qtbot.wait(20)
    for field in form.findChildren(QAbstractSpinBox):
        asked = field.fontMetrics().horizontalAdvance(field.text())
        assert not field.isVisible() or field.lineEdit().width() > asked, field.text()
    for name in form.fields:
        field = form.fields[name].native
        parts = [part for part in field.findChildren(QWidget, options=Qt.FindDirectChildrenOnly) if part.isVisible()]
        checks = [part for part in parts if isinstance(part, QCheckBox)]
        assert all(part.width() >= part.sizeHint().width() for part in checks), name
        ends = sorted((part.x(), part.x() + part.width()) for part in parts)
        assert all(end <= start for (_, end), (start, _) in pairwise(ends)), name


def test_a_setting_that_a_refusal_names_is_one_press_away(qtbot) -> None:
    form, links = SettingsForm(method_of("usegmix").settings), SettingLinks()
    page = ui.scrolled(ui.box(ui.column(form, links)))
    qtbot.addWidget(page)
    page.resize(340, 200)
    page.show()
    links.show_named("2 refused: the donor is unlike the target (setting: unlike)\n1 refused: (setting: luck)", form)
    (button,) = links.buttons
    assert button.text() == "Show 'Unlike'" and not form.fields["unlike"].native.isVisible()
    button.click()
    qtbot.waitUntil(lambda: not form.fields["unlike"].native.visibleRegion().isEmpty(), timeout=2_000)
    assert form.advanced.is_open and page.focusWidget() is form.fields["unlike"].native
    links.show_named("(setting: own patient or area ratio), (setting: new area)", form)
    assert [button.text() for button in links.buttons] == ["Show 'Own patient'", "Show 'Area ratio'", "Show 'New area'"]
    links.show_named("It would cross the image's edge.", form)
    assert not links.buttons and links.isHidden()


def test_a_number_is_typed_digit_by_digit_whatever_the_lowest_is(qtbot: Any) -> None:
    @dataclass(frozen=True)
    class Sides:
        side: Annotated[int, Option("How wide.", low=16, high=4096)] = 256

    form = SettingsForm(Sides)
    qtbot.addWidget(form)
    form.show()
    field = form.fields["side"].native
    for typed, taken in (("300", 300), ("9", 16)):
        field.selectAll()
        qtbot.keyClicks(field, typed)
        # No other field has to be entered first, unless the number is not allowed.
        if taken == 300:
            assert form.value(Sides).side == 300
        qtbot.keyClick(field, Qt.Key.Key_Return)
        assert form.value(Sides).side == taken and field.text() == str(taken)
