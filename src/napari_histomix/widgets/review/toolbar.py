"""How before and after are shown: the three ways, the zoom, and what is drawn over them."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QButtonGroup, QCheckBox, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_histomix.widgets.elements import SPACE, row
from napari_histomix.widgets.review.views import BLINK, SIDE_BY_SIDE, SWIPE, ZOOMS, Comparison

MODE_TEXTS = (
    (SIDE_BY_SIDE, "Side by side (V)", "Before on the left, after on the right."),
    (BLINK, "Blink (B)", "Before and after in the same place, one after the other."),
    (
        SWIPE,
        "Swipe (W)",
        "After behind, before in front up to a divider: drag it, or move it with Shift+← and Shift+→.",
    ),
)


class ViewBar(QWidget):
    """Buttons above and boxes below the views, which lie between them.

    Parameters
    ----------
    views : Comparison
    """

    real_toggled = Signal(bool)
    """Whether the window should show the real image."""

    def __init__(self, views: Comparison) -> None:
        super().__init__()
        self.views = views
        self.modes: dict[str, QPushButton] = {}
        group = QButtonGroup(self)
        for mode, text, tip in MODE_TEXTS:
            button = QPushButton(text)
            button.setCheckable(True)
            button.setToolTip(tip)
            group.addButton(button)
            button.clicked.connect(lambda _checked=False, mode=mode: views.set_mode(mode))
            self.modes[mode] = button
        self.closer, self.farther, self.factor = QPushButton("+"), QPushButton("−"), QLabel()
        self.closer.setToolTip("Come closer (+).")
        self.farther.setToolTip("Go back (−).")
        for button, by in ((self.closer, 1), (self.farther, -1)):
            button.setFixedWidth(28)
            button.clicked.connect(lambda _checked=False, by=by: views.zoom(by))
        self.origin, self.smooth, self.real = QCheckBox("Origin (O)"), QCheckBox("Smooth (M)"), QCheckBox("Real (X)")
        self.origin.setToolTip("Outline what comes from the donor (blue) and what was painted (amber).")
        self.smooth.setToolTip("Smooth the magnified pixels instead of showing each as a square.")
        self.real.setToolTip("Show the real image in the window, without anything synthetic.")
        self.origin.toggled.connect(views.set_outlined)
        self.smooth.toggled.connect(views.set_smooth)
        self.real.toggled.connect(self.real_toggled)
        top = row(*self.modes.values())
        options = row(self.origin, self.smooth, self.real)
        options.addStretch(1)
        for widget in (self.farther, self.factor, self.closer):
            options.addWidget(widget)
        for index in range(3):
            top.setStretch(index, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        column.addLayout(top)
        column.addWidget(views)
        column.addLayout(options)
        views.mode_changed.connect(self._on_mode)
        views.zoom_changed.connect(self._on_zoom)
        self._on_mode(views.mode)
        self._on_zoom(views.factor)

    def toggle_blink(self) -> None:
        """Blink, or show both side by side again."""
        self.views.set_mode(SIDE_BY_SIDE if self.views.mode == BLINK else BLINK)

    def _on_mode(self, mode: str) -> None:
        with QSignalBlocker(self.modes[mode]):
            self.modes[mode].setChecked(True)

    def _on_zoom(self, factor: float) -> None:
        self.factor.setText(f"{factor:g}×")
        self.closer.setEnabled(factor < ZOOMS[-1])
        self.farther.setEnabled(factor > ZOOMS[0])
