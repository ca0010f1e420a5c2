"""Patients, slides or images as a table model: their images, classes and split, which a person may change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QComboBox, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from napari_histomix.datasets.splits import SPLITS, Unit
from napari_histomix.records import NucleusClass
from napari_histomix.widgets.elements import BAD

COLORS = {"train": QColor("#3d7eff"), "val": QColor("#f39c12"), "test": QColor("#b583dc")}
NAME, SPLIT, IMAGES, CLASSES = range(4)
_HEADERS = (
    ("", "What a split may not divide: a patient, else a slide, else an image; copies stay together."),
    ("Split", "Click to change. Donors, statistics and synthetic images come from train alone."),
    ("Images", "How many images it has."),
)


class SplitTable(QAbstractTableModel):
    """One row for each unit; ``changed`` is called with the names of images and the split that a person chose."""

    def __init__(self, changed: Callable[[Sequence[str], str], None], parent: Any = None) -> None:
        super().__init__(parent)
        self._changed = changed
        self.units: tuple[Unit, ...] = ()
        self.locked = False
        self._classes: tuple[NucleusClass, ...] = ()
        self._counts: list[Counter[int]] = []
        self._splits: Mapping[str, str] = {}

    def set_units(
        self, units: Sequence[Unit], classes: Sequence[NucleusClass], counts: Mapping[str, Mapping[int, int]]
    ) -> None:
        """Show other units, with what they have of each class."""
        self.beginResetModel()
        self.units, self._classes = tuple(units), tuple(classes)
        self._counts = []
        for one in units:
            total: Counter[int] = Counter()
            for image in one.images:
                total.update(counts.get(image, {}))
            self._counts.append(total)
        self.endResetModel()

    def set_splits(self, splits: Mapping[str, str]) -> None:
        """Show other splits, by image."""
        self._splits = splits
        if self.units:
            self.dataChanged.emit(self.index(0, SPLIT), self.index(len(self.units) - 1, SPLIT))

    def splits_of(self, row: int) -> list[str]:
        """The splits that the images of a row are in: one, unless the dataset itself divides a patient."""
        found = {self._splits.get(image, "train") for image in self.units[row].images}
        return sorted(found, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))

    # Qt's side.

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008
        """Units."""
        return 0 if parent.isValid() else len(self.units)

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008
        """Name, split, images, and one for each class."""
        return 0 if parent.isValid() else CLASSES + len(self._classes)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Names of the columns, and what they mean."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if section >= CLASSES:
            name = self._classes[section - CLASSES].name
            return {Qt.ItemDataRole.DisplayRole: name, Qt.ItemDataRole.ToolTipRole: f"What is of class {name}."}.get(
                role
            )
        text, tip = _HEADERS[section]
        if section == NAME:
            kinds = list(dict.fromkeys(one.what for one in self.units))
            text = " or ".join(kinds).capitalize() or "Image"
        return {Qt.ItemDataRole.DisplayRole: text, Qt.ItemDataRole.ToolTipRole: tip}.get(role)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell shows."""
        unit, column = self.units[index.row()], index.column()
        if role == Qt.ItemDataRole.TextAlignmentRole and column >= IMAGES:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.ToolTipRole:
            shown = "\n".join(unit.images[:20]) + ("\n…" if len(unit.images) > 20 else "")
            return f"{unit.what.capitalize()} {unit.name}\n{shown}"
        if column == SPLIT:
            splits = self.splits_of(index.row())
            if role == Qt.ItemDataRole.ForegroundRole:
                return COLORS.get(splits[0]) if len(splits) == 1 else QColor(BAD)
            return " + ".join(splits) if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.EditRole) else None
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if column == NAME:
            return unit.name
        if column == IMAGES:
            return f"{len(unit.images):,}"
        return f"{self._counts[index.row()][self._classes[column - CLASSES].number]:,}"

    def flags(self, index: QModelIndex) -> Qt.ItemFlag:
        """Splits can be changed, unless the study is another window's."""
        flags = super().flags(index)
        editable = index.isValid() and index.column() == SPLIT and not self.locked
        return flags | Qt.ItemFlag.ItemIsEditable if editable else flags

    def setData(self, index: QModelIndex, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        """Take a person's choice of a split."""
        if role != Qt.ItemDataRole.EditRole or index.column() != SPLIT or self.splits_of(index.row()) == [value]:
            return False
        self._changed(self.units[index.row()].images, str(value))
        return True


class SplitChoice(QStyledItemDelegate):
    """Lets a person choose a split from a list, in its cell."""

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: QModelIndex) -> QComboBox:
        """A list that takes the choice as soon as it is made."""
        box = QComboBox(parent)
        box.addItems(SPLITS)
        box.activated.connect(lambda _index: self.commitData.emit(box))
        box.activated.connect(lambda _index: self.closeEditor.emit(box))
        return box

    def setEditorData(self, editor: QWidget, index: QModelIndex) -> None:
        """Begin with the present split."""
        assert isinstance(editor, QComboBox)
        editor.setCurrentText(str(index.data(Qt.ItemDataRole.EditRole)))
        editor.showPopup()

    def setModelData(self, editor: QWidget, model: Any, index: QModelIndex) -> None:
        """Hand the choice over."""
        assert isinstance(editor, QComboBox)
        model.setData(index, editor.currentText(), Qt.ItemDataRole.EditRole)
