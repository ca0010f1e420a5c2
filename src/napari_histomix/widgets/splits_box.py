"""Which images are for training, which for validation and test: proposed, changed by hand, checked for leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qtpy.QtCore import QModelIndex, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QHeaderView,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QTableView,
)

from napari_histomix.datasets import Dataset, Survey
from napari_histomix.datasets.entries import palette
from napari_histomix.datasets.splits import (
    SHARES,
    SPLITS,
    propose_splits,
    shared,
    shortcomings,
    split_of,
    split_order,
    units,
)
from napari_histomix.records import Event, Job, NucleusClass
from napari_histomix.widgets.base import RunBar
from napari_histomix.widgets.elements import Note, Section, hint, many, row
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.session import Session, window_of
from napari_histomix.widgets.split_table import COLORS, IMAGES, NAME, SPLIT, SplitChoice, SplitTable

ROWS = 8
"""Rows that the table shows without scrolling."""


class SplitsBox(Section):
    """Splits by patient, slide or image: a table, a proposal, counts, warnings.

    Parameters
    ----------
    viewer : Viewer
    session : Session
        Has the images, and keeps what is chosen in its study as soon as there is one.
    """

    def __init__(self, viewer: Any, session: Session) -> None:
        super().__init__(
            "Splits", "Which images are for training, validation and test; patients stay whole.", opened=False
        )
        self.session = session
        self._used: tuple[Any, frozenset[str]] = (None, frozenset())
        self.classes: Sequence[NucleusClass] = ()
        self.image_counts: Mapping[str, Mapping[int, int]] = {}
        self.copies: tuple[Any, ...] | None = None
        self.proposer = JobRunner(self, window_of(viewer))
        self.finder = JobRunner(self, window_of(viewer))
        self.body.addWidget(
            hint("Donors, statistics and synthetic images come from train; no patient, slide or copy may be in two.")
        )
        self._build_table()
        self._build_proposal()
        self.counts = QLabel()
        self.counts.setTextFormat(Qt.TextFormat.RichText)
        # A wide table must not make the dock wider than it is.
        self.counts.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.counts.setToolTip("Images of each split, what it has of each class, and the share of all.")
        self.body.addWidget(self.counts)
        self.warning = Note()
        self.body.addWidget(self.warning)
        self.bar = RunBar(
            "Check for copies",
            self.finder,
            "Look for images that show the same tissue: renamed, turned, mirrored, recompressed, or overlapping.",
        )
        self.body.addWidget(self.bar)
        self.found = Note()
        self.body.addWidget(self.found)
        self.bar.run.connect(self.check)
        self.finder.finished.connect(self._on_copies)
        self.finder.failed.connect(lambda sentence: self.found.say(sentence, "error"))
        self.proposer.finished.connect(self._on_proposed)
        self.proposer.failed.connect(lambda sentence: self.warning.say(sentence, "error"))
        self.proposer.running_changed.connect(lambda _running: self._allow())
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
        """Split of each image as it is now."""
        entries = self.dataset.entries if self.dataset is not None else ()
        return {entry.source.image: split_of(entry.source) for entry in entries}

    @property
    def used(self) -> frozenset[str]:
        """Images of the candidates and their donors, which must be for training."""
        candidates = self.session.candidates
        if candidates is not self._used[0]:
            items = candidates.items if candidates is not None else ()
            self._used = candidates, frozenset(place.image for one in items for place in (one.donor, one.target))
        return self._used[1]

    def _build_table(self) -> None:
        self.model = SplitTable(self._move, self)
        self.table = QTableView()
        self.table.setModel(self.model)
        self.table.setItemDelegateForColumn(SPLIT, SplitChoice(self.table))
        self.table.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked | QAbstractItemView.EditTrigger.EditKeyPressed
        )
        self.table.clicked.connect(self._on_clicked)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setWordWrap(False)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(24)
        self.table.horizontalHeader().setTextElideMode(Qt.TextElideMode.ElideRight)
        self.table.horizontalHeader().setMinimumSectionSize(44)
        self.body.addWidget(self.table)
        self.movers = {}
        buttons = []
        for split in SPLITS:
            button = QPushButton(split)
            button.setToolTip(f"Move the selected rows to {split}.")
            button.clicked.connect(lambda _checked, split=split: self._move_selected(split))
            self.movers[split] = button
            buttons.append(button)
        self.body.addLayout(row(QLabel("Selected to"), *buttons))

    def _build_proposal(self) -> None:
        self.shares = {}
        for split in SPLITS[1:]:
            box = QSpinBox()
            box.setRange(0, 45)
            box.setSuffix(" %")
            box.setValue(round(100 * SHARES[split]))
            box.setToolTip(f"Share of the images, and of each class, that goes to {split}.")
            box.setAccessibleName(f"Share of {split}")
            self.shares[split] = box
        self.keep = QCheckBox("Keep test as it is")
        self.keep.setToolTip("Divide the other images alone, such as where a test split was published.")
        self.propose_button = QPushButton("Propose")
        self.propose_button.setToolTip(
            "Divide patients, else slides, else images, so that each class has its share in each split."
        )
        self.propose_button.clicked.connect(self.propose)
        val, test = self.shares.values()
        self.body.addLayout(row(QLabel("val"), val, QLabel("test"), test, self.propose_button, stretch=4))
        self.body.addWidget(self.keep)

    # What a person does.

    def propose(self) -> None:
        """Propose splits in the background."""
        dataset, counts = self.dataset, self.image_counts
        if dataset is None:
            return
        shares = {split: box.value() / 100 for split, box in self.shares.items()}
        shares = {"train": 1 - sum(shares.values()), **shares}
        keep = ("test",) if self.keep.isChecked() and self.keep.isVisibleTo(self) else ()
        together = [one.images for one in self.copies or ()]

        def job() -> Job[dict[str, str]]:
            yield Event("Proposing splits")
            return propose_splits(dataset, shares, 0, counts, together, keep)

        self.proposer.start(job, "proposing splits")

    def check(self) -> None:
        """Look for copies in the background."""
        dataset = self.dataset
        if dataset is None:
            return
        self.found.say("")

        def job() -> Job[Any]:
            from napari_histomix.datasets.copies import find_copies

            return (yield from find_copies(dataset, within=True))

        self.finder.start(job, "looking for copies")

    def _on_clicked(self, index: QModelIndex) -> None:
        if index.column() == SPLIT and not self.model.locked:
            self.table.edit(index)

    def _move(self, images: Sequence[str], split: str) -> None:
        self.session.choose_splits({**self.splits, **dict.fromkeys(images, split)})

    def _move_selected(self, split: str) -> None:
        rows = sorted({index.row() for index in self.table.selectionModel().selectedRows()})
        images = [image for number in rows for image in self.model.units[number].images]
        if images:
            self._move(images, split)

    # What comes of it.

    def _on_dataset(self) -> None:
        self.finder.discard()
        self.proposer.discard()
        self.copies = None
        self.found.say("")
        self._fill()

    def _on_proposed(self, splits: dict[str, str]) -> None:
        self.session.choose_splits(splits)

    def _on_copies(self, copies: tuple[Any, ...]) -> None:
        self.copies = copies
        self._fill()

    def _fill(self) -> None:
        dataset, survey = self.dataset, self.session.survey
        if dataset is None or survey is None:
            return
        self.classes, self.image_counts = classes_of(dataset, survey)
        together = [one.images for one in self.copies or ()]
        self.model.set_units(units(dataset, together), self.classes, self.image_counts)
        header = self.table.horizontalHeader()
        for column in range(self.model.columnCount()):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Interactive)
            self.table.setColumnWidth(column, {NAME: 130, SPLIT: 76, IMAGES: 56}.get(column, 62))
        height = header.sizeHint().height() + 24 * min(ROWS, max(2, len(self.model.units))) + 20
        self.table.setFixedHeight(height)
        self._on_splits()

    def _on_splits(self) -> None:
        if self.dataset is None:
            return
        splits = self.splits
        self.model.set_splits(splits)
        self.keep.setVisible("test" in splits.values())
        images = Counter(splits.values())
        ordered = sorted(images, key=split_order)
        self.state.setText(" · ".join(f"{images[split]:,} {split}" for split in ordered))
        self.counts.setText(self._table_of_counts(splits, ordered, images))
        self._warn(splits)
        self._say_copies(splits)
        self._allow()

    def _table_of_counts(self, splits: dict[str, str], ordered: list[str], images: Counter[str]) -> str:
        found: dict[str, Counter[int]] = {split: Counter() for split in ordered}
        for image, own in self.image_counts.items():
            found[splits[image]].update(own)
        heads = "".join(
            f"<td align=right><b style='color: {COLORS[split].name() if split in COLORS else 'gray'}'>"
            f"{_escaped(split)}</b></td>"
            for split in ordered
        )
        lines = [f"<td></td>{heads}", "<td>images</td>" + "".join(_cell(images[one], len(splits)) for one in ordered)]
        for one in self.classes:
            total = sum(own[one.number] for own in found.values())
            cells = "".join(_cell(found[split][one.number], total) for split in ordered)
            lines.append(f"<td>{_escaped(one.name)}</td>{cells}")
        return "<table width='100%' cellspacing=3>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"

    def _warn(self, splits: dict[str, str]) -> None:
        dataset = self.dataset
        divided = [f"The {one.what} {one.sentence} is in several splits; choose one." for one in shared(dataset)]
        names = {one.number: one.name for one in self.classes}
        together = [one.images for one in self.copies or ()]
        lacks = list(shortcomings(dataset, splits, self.image_counts, names, together))
        sentences = divided[:3] + ([f"And {len(divided) - 3} more."] if len(divided) > 3 else []) + lacks
        if any(splits.get(image) != "train" for image in self.used):
            sentences.insert(0, "Candidates were found with other splits; find them again.")
        self.warning.say("\n".join(sentences), "error" if divided else "warning")

    def _say_copies(self, splits: dict[str, str]) -> None:
        if self.copies is None:
            return
        leaks = [one for one in self.copies if splits[one.images[0]] != splits[one.images[1]]]
        shown = [_sentence(one, splits) for one in (leaks or self.copies)[:4]]
        rest = len(leaks or self.copies) - len(shown)
        shown += [f"And {rest:,} more."] if rest else []
        if leaks:
            self.found.say("\n".join(["The same tissue is in several splits:", *shown]), "error")
        elif self.copies:
            what = many(len(self.copies), "pair")
            self.found.say("\n".join([f"{what} of images show the same tissue; they stay together:", *shown]), "info")
        else:
            self.found.say("No two images show the same tissue.", "good")

    def _allow(self) -> None:
        free = not self.session.read_only
        self.model.locked = not free
        self.propose_button.setEnabled(free and not self.proposer.running)
        for button in self.movers.values():
            button.setEnabled(free)


def classes_of(dataset: Dataset, survey: Survey) -> tuple[Sequence[NucleusClass], Mapping[str, Mapping[int, int]]]:
    """Classes of a dataset, and what each image has of each: nuclei, or itself where images have a class."""
    if dataset.has_nuclei or not dataset.has_kinds:
        return dataset.classes, survey.counts
    colors = palette(len(dataset.kinds))
    kinds = [NucleusClass(number, *one) for number, one in enumerate(zip(dataset.kinds, colors, strict=True), 1)]
    numbers = {kind.name: kind.number for kind in kinds}
    return kinds, {
        entry.source.image: {numbers[entry.kind]: 1} for entry in dataset.entries if entry.source.image in survey.counts
    }


def _sentence(one: Any, splits: dict[str, str]) -> str:
    """What two images have in common, with the splits that they have now."""
    return replace(one, splits=tuple(splits[image] for image in one.images)).sentence


def _cell(count: int, total: int) -> str:
    share = f" <span style='color: gray'>{count / total:.0%}</span>" if total else ""
    return f"<td align=right>{count:,}{share}</td>"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
