"""The classes of a dataset: color, name, count as a bar, and whether a class is rare or major."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QGridLayout, QLabel, QWidget

from napari_histomix.records import NucleusClass
from napari_histomix.widgets.elements import Bar


class ClassTable(QWidget):
    """Counts of classes as a bar chart, with a check box for rare and one for major in each row."""

    chosen = Signal(object, object)
    """Numbers of the rare classes, and of the major ones."""

    def __init__(self) -> None:
        super().__init__()
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(8)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(2, 1)
        self.rare_boxes: dict[int, QCheckBox] = {}
        self.major_boxes: dict[int, QCheckBox] = {}
        self.bars: dict[int, Bar] = {}
        self.count_labels: dict[int, QLabel] = {}

    def set_classes(
        self, classes: Sequence[NucleusClass], counts: Mapping[int, int], counted: str = "Nuclei", choose: bool = True
    ) -> None:
        """Fill the table; nothing is chosen then. ``choose``: whether classes can be rare or major."""
        while self._grid.count():
            item = self._grid.takeAt(0)
            if item.widget() is not None:
                item.widget().deleteLater()
        for boxes in (self.rare_boxes, self.major_boxes, self.bars, self.count_labels):
            boxes.clear()
        for column, (text, tip) in enumerate(
            (
                ("", ""),
                ("Class", ""),
                (counted, f"How many {counted.lower()} of each class there are in all."),
                ("", ""),
                *(
                    (
                        ("Rare", "The classes to grow: their nuclei are the donors."),
                        ("Major", "The classes whose nuclei may be replaced."),
                    )
                    * choose
                ),
            )
        ):
            label = QLabel(text)
            label.setToolTip(tip)
            label.setStyleSheet("QLabel { font-weight: 600; }")
            self._grid.addWidget(label, 0, column)
        top = max([counts.get(one.number, 0) for one in classes], default=0) or 1
        for line, one in enumerate(classes, start=1):
            self._add_row(line, one, counts.get(one.number, 0), top, choose)

    def _add_row(self, line: int, one: NucleusClass, count: int, top: int, choose: bool) -> None:
        swatch = QLabel()
        swatch.setFixedSize(12, 12)
        swatch.setStyleSheet(f"QLabel {{ background-color: rgb{one.color}; border-radius: 3px; }}")
        bar = Bar(one.color)
        bar.set_shares(count / top)
        number = QLabel(f"{count:,}")
        number.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        for column, widget in enumerate((swatch, QLabel(one.name), bar, number)):
            self._grid.addWidget(widget, line, column)
        self.bars[one.number], self.count_labels[one.number] = bar, number
        if not choose:
            return
        rare, major = QCheckBox(), QCheckBox()
        rare.setToolTip(f"Grow {one.name}: its nuclei become donors.")
        major.setToolTip(f"Nuclei of class {one.name} may be replaced by rare ones.")
        rare.setAccessibleName(f"{one.name} is rare")
        major.setAccessibleName(f"{one.name} is major")
        rare.clicked.connect(lambda checked, number=one.number: self._clicked(number, "rare", checked))
        major.clicked.connect(lambda checked, number=one.number: self._clicked(number, "major", checked))
        for column, box in enumerate((rare, major), start=4):
            self._grid.addWidget(box, line, column)
        self.rare_boxes[one.number], self.major_boxes[one.number] = rare, major

    def choose(self, rare: Sequence[int], major: Sequence[int]) -> None:
        """Show what is chosen."""
        for number, box in self.rare_boxes.items():
            box.setChecked(number in rare)
        for number, box in self.major_boxes.items():
            box.setChecked(number in major)

    def _clicked(self, number: int, what: str, checked: bool) -> None:
        other = self.major_boxes if what == "rare" else self.rare_boxes
        if checked:
            other[number].setChecked(False)
        rare = tuple(number for number, box in self.rare_boxes.items() if box.isChecked())
        major = tuple(number for number, box in self.major_boxes.items() if box.isChecked())
        self.chosen.emit(rare, major)
