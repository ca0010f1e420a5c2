"""What the docks are built of: buttons, choices, rows, columns, notes, sections and crops with one look."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QSignalBlocker, Qt, QTimer, QUrl
from qtpy.QtGui import QDesktopServices, QIcon, QPixmap
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QApplication,
    QBoxLayout,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_histomix.widgets.eliding import Eliding, Yielding, YieldingButton, YieldingCheck

SPACE = 8
"""Pixels between things, and around them."""
LAYOUTS = 4
"""Times that layouts are asked for their sizes before a part is scrolled to: as deep as they lie in each other."""
ACCENT, GOOD, BAD, CARE = "#3d7eff", "#2ecc71", "#e74c3c", "#f39c12"
"""Colors that read well on napari's dark and light themes."""
PRIMARY = (
    f"QPushButton {{ background-color: {ACCENT}; color: white; font-weight: 600; padding: 6px; border-radius: 4px; }}"
    "QPushButton:hover { background-color: #5b93ff; }"
    "QPushButton:disabled { background-color: #7a808a; color: #d5d8dc; }"
)
FIELDS = (QComboBox, QAbstractSpinBox, QSlider)
"""Widgets whose value the wheel would change."""
HELD = "histomix_held"
"""Property of those that leave the wheel to the page that they are on."""


def button(
    text: str,
    tip: str = "",
    pressed: Callable[..., Any] | None = None,
    *,
    checkable: bool = False,
    shown: bool = True,
    primary: bool = False,
) -> QPushButton:
    """A button that calls ``pressed``; a ``primary`` one is what a panel is there for."""
    made = YieldingButton(text)
    if primary:
        made.setStyleSheet(PRIMARY)
    made.setCheckable(checkable)
    if not shown:
        made.hide()
    return _finished(made, tip, made.clicked, pressed)


def _finished(made: Any, tip: str, signal: Any, slot: Callable[..., Any] | None, name: str = "") -> Any:
    """A widget with its tip, what its signal calls, and its name for screen readers."""
    made.setToolTip(tip)
    made.setAccessibleName(name)
    if slot is not None:
        signal.connect(slot)
    return made


def choice(
    items: Iterable[tuple[str, Any]] = (),
    tip: str = "",
    changed: Callable[..., Any] | None = None,
    *,
    name: str = "",
    letters: int = 12,
) -> QComboBox:
    """A choice among (text, value) as wide as some ``letters`` at least; ``name`` is for screen readers."""
    made = QComboBox()
    narrow(made, letters)
    for text, value in items:
        made.addItem(text, value)
    return _finished(made, tip, made.currentIndexChanged, changed, name)


def narrow(box: QComboBox, letters: int = 12) -> None:
    """Let a choice be narrower than its longest text; it leaves out the middle where there is too little room."""
    box.installEventFilter(Eliding(box))
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(letters)


def offer(box: QComboBox, items: Iterable[tuple[str, Any]]) -> None:
    """Offer other items in a choice, without a signal; the chosen one stays where it is among them."""
    chosen = box.currentData()
    with QSignalBlocker(box):
        box.clear()
        for text, value in items:
            box.addItem(text, value)
        box.setCurrentIndex(max(box.findData(chosen), 0))


def check(text: str = "", tip: str = "", toggled: Callable[..., Any] | None = None) -> QCheckBox:
    """A box to check."""
    made = YieldingCheck(text)
    return _finished(made, tip, made.toggled, toggled)


def line(placeholder: str = "", tip: str = "", changed: Callable[..., Any] | None = None) -> QLineEdit:
    """A line to type in."""
    made = QLineEdit()
    made.setPlaceholderText(placeholder)
    return _finished(made, tip, made.textChanged, changed)


def number(
    lowest: float,
    highest: float,
    value: float,
    *,
    step: float = 1,
    decimals: int = 0,
    prefix: str = "",
    suffix: str = "",
    special: str = "",
    tip: str = "",
    changed: Callable[..., Any] | None = None,
    name: str = "",
) -> QSpinBox | QDoubleSpinBox:
    """A number between bounds; of whole numbers where there are no ``decimals``. ``special`` stands for the lowest."""
    made = QDoubleSpinBox() if decimals else QSpinBox()
    if decimals:
        made.setDecimals(decimals)
    made.setRange(lowest, highest)
    made.setSingleStep(step)
    made.setValue(value)
    made.setPrefix(prefix)
    made.setSuffix(suffix)
    made.setSpecialValueText(special)
    return _finished(made, tip, made.valueChanged, changed, name)


def label(
    text: str = "",
    *,
    wrap: bool = True,
    plain: bool = False,
    right: bool = False,
    style: str = "",
    yields: bool = False,
) -> QLabel:
    """A text; ``plain`` where it may hold a file's or a person's words.

    One that ``yields`` asks for no width, and leaves out the middle where there is too little.
    """
    made = Yielding(text) if yields else QLabel(text)
    made.setWordWrap(wrap)
    if right:
        made.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    if plain:
        made.setTextFormat(Qt.TextFormat.PlainText)
    if style:
        made.setStyleSheet(f"QLabel {{ {style} }}")
    if yields:
        made.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    return made


def heading(text: str) -> QLabel:
    """A small heading within a panel."""
    return label(text, wrap=False, style="font-weight: 600; padding-top: 4px;")


def hint(text: str) -> QLabel:
    """A quiet explanation."""
    return label(text, style="font-style: italic;")


def row(*parts: QWidget | QLayout, stretch: int | None = None) -> QHBoxLayout:
    """Widgets or layouts side by side; ``stretch`` is the index of the one that takes the room."""
    return _filled(QHBoxLayout(), parts, SPACE - 2, stretch)


def even_row(*parts: QWidget | QLayout) -> QHBoxLayout:
    """Widgets or layouts side by side, all with the same room."""
    layout = row(*parts)
    for index in range(len(parts)):
        layout.setStretch(index, 1)
    return layout


def column(*parts: QWidget | QLayout, space: int = SPACE, stretch: int | None = None, margin: int = 0) -> QVBoxLayout:
    """Widgets or layouts below each other."""
    layout: QVBoxLayout = _filled(QVBoxLayout(), parts, space, stretch)
    layout.setContentsMargins(margin, margin, margin, margin)
    return layout


def box(layout: QLayout, *, shown: bool = True) -> QWidget:
    """A widget that holds a layout, to be shown, hidden and disabled as a whole."""
    made = QWidget()
    made.setLayout(layout)
    if not shown:
        made.hide()
    return made


class ScrolledPage(QScrollArea):
    """Scrolls by the wheel wherever the mouse is: fields that lie on the way keep their values."""

    def setWidget(self, widget: QWidget) -> None:
        super().setWidget(widget)
        self._hold()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Wheel and isinstance(watched, FIELDS):
            event.ignore()
            return True
        if event.type() == QEvent.Type.LayoutRequest and watched is self.widget():
            # Fields that came since.
            self._hold()
        return bool(super().eventFilter(watched, event))

    def _hold(self) -> None:
        for kind in FIELDS:
            for field in self.widget().findChildren(kind):
                if not field.property(HELD):
                    field.setProperty(HELD, True)
                    field.installEventFilter(self)


def scrolled(inner: QWidget) -> QScrollArea:
    """An area as wide as there is room, which scrolls where a widget is higher than it."""
    area = ScrolledPage()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    # Rows that want a little more room than there is are made narrower, rather than reach below the scroll bar.
    inner.setMinimumWidth(1)
    area.setWidget(inner)
    return area


def reveal(part: QWidget) -> None:
    """Scroll to a part of a panel, as soon as it has its place there."""
    area = part.parentWidget()
    while area is not None and not isinstance(area, QScrollArea):
        area = area.parentWidget()
    if area is not None:
        QTimer.singleShot(0, lambda: _show_whole(area, part))


def _show_whole(area: QScrollArea, part: QWidget) -> None:
    # Contents that were added a moment ago have their heights only once all layouts up to the area were asked again.
    for _ in range(LAYOUTS):
        QApplication.sendPostedEvents(None, QEvent.Type.LayoutRequest)
    if isalive(area) and isalive(part):
        area.ensureWidgetVisible(part)


def narrowable(part: QWidget) -> None:
    """Let a part be narrower than its rows want: its texts then have the lines that they take at that width.

    A layout asks a part for its height at no width below its least one, and so would cut texts in a narrow dock.
    """
    part.setMinimumWidth(1)


def add(layout: QBoxLayout, *parts: QWidget | QLayout) -> None:
    """Add widgets and layouts to a row or column."""
    for part in parts:
        if isinstance(part, QLayout):
            layout.addLayout(part)
        else:
            layout.addWidget(part)


def clear(layout: QLayout) -> None:
    """Remove all widgets from a layout."""
    while layout.count():
        widget = layout.takeAt(0).widget()
        if widget is not None:
            widget.deleteLater()


def _filled(layout: Any, parts: Iterable[QWidget | QLayout], space: int, stretch: int | None) -> Any:
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(space)
    add(layout, *parts)
    if stretch is not None:
        layout.setStretch(stretch, 1)
    return layout


def form(
    *lines: tuple[str, QWidget | QLayout] | tuple[str, QWidget | QLayout, str], label_width: int = 0
) -> QFormLayout:
    """A form of (label, field) or (label, field, tip), the tip on both."""
    layout = QFormLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(SPACE - 2)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    layout.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
    for text, field, *tips in lines:
        layout.addRow(text, field)
        if text:
            layout.labelForField(field).setMinimumWidth(label_width)
        for tip in tips:
            field.setToolTip(tip)
            layout.labelForField(field).setToolTip(tip)
    return layout


def later(parent: QWidget, milliseconds: int, call: Callable[..., Any]) -> QTimer:
    """A timer whose ``start`` calls once, this much after the last start."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(call)
    return timer


def ask_folder(parent: QWidget, title: str, start: Path | None = None) -> Path | None:
    """The folder that a person chooses, None where they cancel."""
    beginning = "" if start is None else str(start if start.is_dir() else Path.home())
    return Path(chosen) if (chosen := QFileDialog.getExistingDirectory(parent, title, beginning)) else None


def asking_button(
    text: str, tip: str, title: str, chosen: Callable[[Path], Any], start: Callable[[], Path | None] = lambda: None
) -> QPushButton:
    """A button that asks for a folder, from where ``start`` says, and hands it to ``chosen``."""

    def ask() -> None:
        if folder := ask_folder(made, title, start()):
            chosen(folder)

    made = button(text, tip, ask)
    return made


def free_folder(parent: Path, name: str) -> Path:
    """A folder of this name that does not exist yet, numbered where it does."""
    folder, number = parent / name, 2
    while folder.exists():
        folder, number = parent / f"{name} {number}", number + 1
    return folder


def folder_button(folder: Callable[[], Path | None], *, shown: bool = True) -> QPushButton:
    """A button that shows a folder, where there is one, in the program that the desktop has for that."""

    def show() -> None:
        if (path := folder()) is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(path)))

    return button("Open folder", "Show it in the desktop's own file manager.", show, shown=shown)


def rgb(color: str) -> tuple[int, int, int]:
    """A color such as "#3d7eff" as numbers."""
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue


def many(count: int, what: str) -> str:
    """A number of things in words."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


class Note(QLabel):
    """A sentence for the person: plain, a warning or an error. Hidden while there is nothing to say."""

    COLORS: ClassVar = {"info": ACCENT, "good": GOOD, "warning": CARE, "error": BAD}
    lead: QPushButton | None = None
    """A button that does what the sentence asks for; there as long as the sentence is."""

    def __init__(self, text: str = "", kind: str = "info") -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        self.kind = ""
        self.say(text, kind)

    def say(self, text: str, kind: str = "info") -> None:
        """Show a text; an empty one hides the note."""
        if kind != self.kind:
            # Not every time: a style sheet takes milliseconds to be set.
            self.kind = kind
            self.setStyleSheet(f"QLabel {{ border-left: 3px solid {self.COLORS[kind]}; padding: 3px 0 3px 8px; }}")
        self.setText(text)
        self.setVisible(bool(text))
        if self.lead is not None:
            self.lead.setVisible(bool(text))


class Section(QCollapsible):
    """A heading with a few words on how things stand, and contents that fold away."""

    TALLEST: ClassVar = 16_777_215
    """Qt's own limit: contents that wrap or appear later find room."""

    def __init__(self, title: str, tip: str, opened: bool = True) -> None:
        # No icons: they would be drawn in the palette's color, which on a dark theme is black.
        self._title = title
        blank = QPixmap(1, 1)
        blank.fill(Qt.GlobalColor.transparent)
        super().__init__(title, expandedIcon=QIcon(blank), collapsedIcon=QIcon(blank))
        self.toggle = self.toggleButton()
        self.toggle.setIconSize(blank.size())
        self.toggle.setToolTip(tip)
        flat = "border: none; background: transparent; padding: 2px;"
        self.toggle.setStyleSheet(f"QPushButton {{ font-weight: 600; text-align: left; {flat} }}")
        self.state = label(wrap=False, right=True, yields=True)
        layout: Any = self.layout()
        layout.setContentsMargins(0, 4, 0, 0)
        layout.setSpacing(SPACE - 2)
        layout.removeWidget(self.toggle)
        layout.insertLayout(0, row(self.toggle, self.state, stretch=1))
        self.body = column()
        self.body.setContentsMargins(0, 0, 0, 4)
        self.contents = box(self.body)
        self.setContent(self.contents)
        self.setDuration(0)
        self.toggled.connect(self._on_toggled)
        self.setObjectName("FoldingSection")
        self.setStyleSheet("QFrame#FoldingSection { border: none; border-top: 1px solid rgba(128, 128, 128, 90); }")
        self.open(opened)
        self.setText(title)

    @property
    def is_open(self) -> bool:
        return self.isExpanded()

    def setText(self, text: str) -> None:
        self._title = text
        super().setText(f"{'▾' if self.isExpanded() else '▸'}  {text}")

    def open(self, opened: bool = True) -> None:
        (self.expand if opened else self.collapse)(animate=False)

    def _on_toggled(self, opened: bool) -> None:
        self.setText(self._title)
        self.contents.setVisible(opened)
        self.contents.setMaximumHeight(self.TALLEST if opened else 0)
