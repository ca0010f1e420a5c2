"""Which images are for training, which for validation and test: proposed, changed by hand, checked for leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any

from qtpy.QtCore import QModelIndex, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QComboBox, QHeaderView, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from napari_histomix.datasets import Dataset, Survey
from napari_histomix.datasets.copies import find_copies
from napari_histomix.datasets.entries import palette
from napari_histomix.datasets.splits import (
    SHARES,
    SPLITS,
    Unit,
    propose_splits,
    shared,
    shortcomings,
    split_of,
    split_order,
    units,
)
from napari_histomix.records import NucleusClass
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import RunBar
from napari_histomix.widgets.docking import for_letters
from napari_histomix.widgets.jobs import JobRunner, single
from napari_histomix.widgets.session import Session, window_of
from napari_histomix.widgets.table_model import ArrayTableModel, Column, table_view

ABOUT = "Donors, statistics and synthetic images come from train; no patient, slide or copy may be in two."
ROWS = 8
"""Rows that the table shows without scrolling."""
COLORS = {"train": QColor("#3d7eff"), "val": QColor("#f39c12"), "test": QColor("#b583dc")}
NAME, SPLIT, IMAGES = range(3)
"""Places of the columns before those of the classes."""
WIDTHS = {NAME: 130, SPLIT: 76, IMAGES: 56}
CLASS_WIDTH, ROW_HEIGHT = 62, 24


class SplitChoice(QStyledItemDelegate):
    """Lets a person choose a split from a list, in its cell; the choice is taken as soon as it is made."""

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: QModelIndex) -> QComboBox:
        editor = QComboBox(parent)
        editor.addItems(SPLITS)
        editor.activated.connect(lambda _index: self.commitData.emit(editor))
        editor.activated.connect(lambda _index: self.closeEditor.emit(editor))
        return editor

    def setEditorData(self, editor: Any, index: QModelIndex) -> None:
        editor.setCurrentText(str(index.data(Qt.ItemDataRole.EditRole)))
        editor.showPopup()

    def setModelData(self, editor: Any, model: Any, index: QModelIndex) -> None:
        model.setData(index, editor.currentText(), Qt.ItemDataRole.EditRole)


class SplitsBox(ui.Section):
    """Splits by patient, slide or image: a table, a proposal, counts, warnings.

    What is chosen is kept in the session's study as soon as there is one.
    """

    def __init__(self, viewer: Any, session: Session) -> None:
        super().__init__(
            "Splits", "Which images are for training, validation and test; patients stay whole.", opened=False
        )
        self.session = session
        self.units: tuple[Unit, ...] = ()
        """What the rows of the table are."""
        self.splits_of: list[list[str]] = []
        """Splits that the images of each row are in."""
        self.classes: Sequence[NucleusClass] = ()
        self.image_counts: Mapping[str, Mapping[int, int]] = {}
        self.copies: tuple[Any, ...] | None = None
        self.proposer, self.finder = (JobRunner(self, window_of(viewer)) for _ in range(2))
        self._build_table()
        self.movers = {
            split: ui.button(split, f"Move the selected rows to {split}.", partial(self._move_rows, split))
            for split in SPLITS
        }
        tip = "Share of the images, and of each class, that goes to "
        self.shares = {
            split: ui.number(
                0, 45, round(100 * SHARES[split]), suffix=" %", tip=f"{tip}{split}.", name=f"Share of {split}"
            )
            for split in SPLITS[1:]
        }
        self.keep = ui.check(
            "Keep test as it is", "Divide the other images alone, such as where a test split was published."
        )
        self.propose_button = ui.button(
            "Propose",
            "Divide patients, else slides, else images, so that each class has its share in each split.",
            self.propose,
        )
        # A wide table must not make the dock wider than it is.
        self.counts = ui.label(wrap=False, yields=True)
        self.counts.setTextFormat(Qt.TextFormat.RichText)
        self.counts.setToolTip("Images of each split, what it has of each class, and the share of all.")
        self.warning, self.copies_note = ui.Note(), ui.Note()
        self.bar = RunBar(
            "Check for copies",
            self.finder,
            "Look for images that show the same tissue: renamed, turned, mirrored, recompressed, or overlapping.",
        )
        shares = [part for split, share in self.shares.items() for part in (ui.label(split, wrap=False), share)]
        mover_row = ui.row(ui.label("Selected to", wrap=False), *self.movers.values())
        proposal_row = ui.row(*shares, self.propose_button, stretch=4)
        ui.add(self.body, ui.hint(ABOUT), self.table, mover_row, proposal_row, self.keep)
        ui.add(self.body, self.counts, self.warning, self.bar, self.copies_note)
        self.bar.run.connect(self.check)
        self.finder.on(finished=self._on_copies, failed=lambda sentence: self.copies_note.say(sentence, "error"))
        self.proposer.on(finished=session.choose_splits, failed=lambda sentence: self.warning.say(sentence, "error"))
        self.proposer.on(running_changed=lambda _running: self._allow())
        session.dataset_changed.connect(self._on_dataset)
        for signal in (session.splits_changed, session.study_changed, session.candidates_changed):
            signal.connect(self._on_splits)
        self._on_dataset()

    @property
    def dataset(self) -> Dataset | None:
        """The session's, once its images are read."""
        return self.session.dataset if self.session.survey is not None else None

    @property
    def splits(self) -> dict[str, str]:
        entries = self.dataset.entries if self.dataset is not None else ()
        return {entry.source.image: split_of(entry.source) for entry in entries}

    @property
    def _together(self) -> list[Any]:
        """Images that show the same tissue."""
        return [pair.images for pair in self.copies or ()]

    def _build_table(self) -> None:
        self.model = ArrayTableModel(self)
        self.model.edited.connect(lambda unit, _column, split: self._move(self.units[unit].images, split))
        self.table = table_view(self.model, row_height=ROW_HEIGHT)
        self.table.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.table.setItemDelegateForColumn(SPLIT, SplitChoice(self.table))
        self.table.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked | QAbstractItemView.EditTrigger.EditKeyPressed
        )
        self.table.clicked.connect(self._on_clicked)
        self.table.horizontalHeader().setTextElideMode(Qt.TextElideMode.ElideRight)
        self.table.horizontalHeader().setMinimumSectionSize(44)

    # What a person does.

    def propose(self) -> None:
        dataset, counts = self.dataset, self.image_counts
        if dataset is None:
            return
        shares = {split: share.value() / 100 for split, share in self.shares.items()}
        shares = {"train": 1 - sum(shares.values()), **shares}
        keep = ("test",) if self.keep.isChecked() and self.keep.isVisibleTo(self) else ()
        propose = partial(propose_splits, dataset, shares, 0, counts, self._together, keep)
        self.proposer.start(single(propose, "Proposing splits"), "proposing splits")

    def check(self) -> None:
        if self.dataset is not None:
            self.copies_note.say("")
            self.finder.start(partial(find_copies, self.dataset, within=True), "looking for copies")

    def _on_clicked(self, index: QModelIndex) -> None:
        if index.column() == SPLIT and not self.model.locked:
            self.table.edit(index)

    def _move(self, images: Sequence[str], split: str) -> None:
        self.session.choose_splits({**self.splits, **dict.fromkeys(images, split)})

    def _move_rows(self, split: str, _checked: bool = False) -> None:
        rows = sorted(index.row() for index in self.table.selectionModel().selectedRows())
        images = [image for place in rows for image in self.units[place].images]
        if images:
            self._move(images, split)

    # What comes of it.

    def _on_dataset(self) -> None:
        self.finder.discard()
        self.proposer.discard()
        self.copies = None
        self.copies_note.say("")
        self._fill()

    def _on_copies(self, copies: tuple[Any, ...]) -> None:
        self.copies = copies
        self._fill()

    def _fill(self) -> None:
        dataset, survey = self.dataset, self.session.survey
        if dataset is None or survey is None:
            return
        self.classes, self.image_counts = classes_of(dataset, survey)
        self.units = tuple(units(dataset, self._together))
        self.model.set_columns(self._columns())
        header = self.table.horizontalHeader()
        for column in range(self.model.columnCount()):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Interactive)
            self.table.setColumnWidth(column, for_letters(WIDTHS.get(column, CLASS_WIDTH)))
        height = header.sizeHint().height() + for_letters(ROW_HEIGHT) * min(ROWS, max(2, len(self.units))) + 20
        self.table.setFixedHeight(height)
        self._on_splits()

    def _columns(self) -> list[Column]:
        units = self.units
        heading = " or ".join(dict.fromkeys(unit.what for unit in units)).capitalize() or "Image"
        tip = "What a split may not divide: a patient, else a slide, else an image; copies stay together."
        columns = [Column("name", heading, tip, [unit.name for unit in units])]
        tip = "Click to change. Donors, statistics and synthetic images come from train alone."
        splits = self._find_splits(self.splits)
        columns.append(Column("split", "Split", tip, splits, color=self._color, editable=True))
        columns.append(Column("images", "Images", "How many images it has.", [len(unit.images) for unit in units]))
        for kind in self.classes:
            # An image that could not be read has no counts.
            counts = [
                sum(self.image_counts.get(image, {}).get(kind.number, 0) for image in unit.images) for unit in units
            ]
            columns.append(Column(f"class {kind.number}", kind.name, f"What is of class {kind.name}.", counts))
        for column in columns:
            column.hover = self._hover
        for column in columns[IMAGES:]:
            column.shown, column.right = "{:,}".format, True
        return columns

    def _hover(self, unit: int) -> str:
        images = self.units[unit].images
        names = "\n".join(images[:20]) + ("\n…" if len(images) > 20 else "")
        return f"{self.units[unit].what.capitalize()} {self.units[unit].name}\n{names}"

    def _find_splits(self, splits: Mapping[str, str]) -> list[str]:
        """Splits of each row in words; several where the dataset itself divides a patient."""
        self.splits_of = [sorted({splits[image] for image in unit.images}, key=split_order) for unit in self.units]
        return [" + ".join(names) for names in self.splits_of]

    def _color(self, unit: int) -> QColor | None:
        splits = self.splits_of[unit]
        return COLORS.get(splits[0]) if len(splits) == 1 else QColor(ui.BAD)

    def _on_splits(self) -> None:
        if self.dataset is None:
            return
        splits = self.splits
        self.model.set_values("split", self._find_splits(splits))
        self.keep.setVisible("test" in splits.values())
        images = Counter(splits.values())
        ordered = sorted(images, key=split_order)
        self.state.setText(" · ".join(f"{images[split]:,} {split}" for split in ordered))
        self.counts.setText(self._table_of_counts(splits, ordered, images))
        self._warn(splits)
        self._say_copies(splits)
        self._allow()

    def _table_of_counts(self, splits: dict[str, str], ordered: list[str], images: Counter[str]) -> str:
        counts: dict[str, Counter[int]] = {split: Counter() for split in ordered}
        for image, own in self.image_counts.items():
            counts[splits[image]].update(own)
        heads = "".join(
            f"<td align=right><b style='color: {COLORS[split].name() if split in COLORS else 'gray'}'>"
            f"{escape(split)}</b></td>"
            for split in ordered
        )
        total = len(splits)
        lines = [f"<td></td>{heads}", "<td>images</td>" + "".join(_cell(images[split], total) for split in ordered)]
        for kind in self.classes:
            total = sum(own[kind.number] for own in counts.values())
            cells = "".join(_cell(counts[split][kind.number], total) for split in ordered)
            lines.append(f"<td>{escape(kind.name)}</td>{cells}")
        return "<table width='100%' cellspacing=3>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"

    def _warn(self, splits: dict[str, str]) -> None:
        dataset = self.dataset
        divided = [f"The {unit.what} {unit.sentence} is in several splits; choose one." for unit in shared(dataset)]
        names = {kind.number: kind.name for kind in self.classes}
        sentences = divided[:3] + ([f"And {len(divided) - 3} more."] if len(divided) > 3 else [])
        sentences += shortcomings(dataset, splits, self.image_counts, names, self._together)
        candidates = self.session.candidates
        if candidates is not None and any(splits.get(image) != "train" for image in candidates.images):
            sentences.insert(0, "Candidates were found with other splits; find them again.")
        self.warning.say("\n".join(sentences), "error" if divided else "warning")

    def _say_copies(self, splits: dict[str, str]) -> None:
        if self.copies is None:
            return
        # Told with the splits that the images have now.
        pairs = [replace(pair, splits=tuple(splits[image] for image in pair.images)) for pair in self.copies]
        leaks = [pair for pair in pairs if pair.splits[0] != pair.splits[1]]
        shown = [pair.sentence for pair in (leaks or pairs)[:4]]
        rest = len(leaks or pairs) - len(shown)
        shown += [f"And {rest:,} more."] if rest else []
        if leaks:
            self.copies_note.say("\n".join(["The same tissue is in several splits:", *shown]), "error")
        elif pairs:
            what = ui.many(len(pairs), "pair")
            self.copies_note.say(
                "\n".join([f"{what} of images show the same tissue; they stay together:", *shown]), "info"
            )
        else:
            self.copies_note.say("No two images show the same tissue.", "good")

    def _allow(self) -> None:
        free = not self.session.read_only
        self.model.locked = not free
        self.propose_button.setEnabled(free and not self.proposer.running)
        for mover in self.movers.values():
            mover.setEnabled(free)


def classes_of(dataset: Dataset, survey: Survey) -> tuple[Sequence[NucleusClass], Mapping[str, Mapping[int, int]]]:
    """Classes of a dataset, and what each image has of each: nuclei, or itself where images have a class."""
    if dataset.has_nuclei or not dataset.has_kinds:
        return dataset.classes, survey.counts
    colors = palette(len(dataset.kinds))
    numbers = {name: number for number, name in enumerate(dataset.kinds, 1)}
    kinds = [NucleusClass(numbers[name], name, color) for name, color in zip(dataset.kinds, colors, strict=True)]
    return kinds, {
        entry.source.image: {numbers[entry.kind]: 1} for entry in dataset.entries if entry.source.image in survey.counts
    }


def _cell(count: int, total: int) -> str:
    share = f" <span style='color: gray'>{count / total:.0%}</span>" if total else ""
    return f"<td align=right>{count:,}{share}</td>"
