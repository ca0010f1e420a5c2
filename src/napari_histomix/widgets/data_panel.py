"""Step 1: choose images, of nuclei or of tissue, see what is in them, say which class is rare."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QLabel,
    QListWidget,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_histomix.datasets import sample_folder
from napari_histomix.datasets.splits import split_of, split_order
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.class_table import ClassTable
from napari_histomix.widgets.elements import SPACE, Note, form, heading, hint, row
from napari_histomix.widgets.loading import Moved, Opened, open_job, study_job
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.splits_box import SplitsBox, classes_of


class DataPanel(Panel):
    """Dataset, classes, images and the study's place."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self._build_opening()
        self._build_contents()
        self.column.addStretch(1)
        self.runner.finished.connect(self._on_opened)
        self.runner.failed.connect(self._on_failed)
        self.runner.running_changed.connect(self._on_running)
        self.session.dataset_changed.connect(self._on_dataset)
        self.session.classes_changed.connect(self._on_classes)
        self.session.splits_changed.connect(self._summarize)
        self.session.study_changed.connect(self._on_study)
        self.session.image_changed.connect(self._on_image)
        self.session.notice.connect(lambda sentence: self.note.say(sentence, "warning"))
        self._on_dataset()

    def _build_opening(self) -> None:
        self.welcome = hint(
            "Start with H&E images whose nuclei are labeled, or tissue in a folder for each class, or with the sample."
        )
        self.folder_button = QPushButton("Open folder …")
        self.folder_button.setToolTip(
            "Images with labels as HoVer-Net, CoNSeP, PanNuke, MoNuSAC, QuPath, COCO, YOLO, StarDist, Cellpose\n"
            "and OME-Zarr have them, or with label images and a CSV of types; or tissue in a folder for each class.\n"
            "It can be dropped on napari, too."
        )
        self.folder_button.clicked.connect(self._ask_folder)
        self.sample_button = QPushButton("Open sample")
        self.sample_button.setToolTip("Five breast tumor images in which lymphocytes are rare.")
        self.sample_button.clicked.connect(self.open_sample)
        self.study_button = QPushButton("Open study …")
        self.study_button.setToolTip("Go on with a study: all that was found and made, and every decision, come back.")
        self.study_button.clicked.connect(self._ask_study)
        self.column.addWidget(self.welcome)
        buttons = row(self.folder_button, self.sample_button, self.study_button)
        for index in range(3):
            buttons.setStretch(index, 1)
        self.column.addLayout(buttons)
        self.progress = RunBar("", self.runner)
        self.progress.run_button.hide()
        self.column.addWidget(self.progress)
        self.note = Note()
        self.column.addWidget(self.note)

    def _build_contents(self) -> None:
        self.contents = QWidget()
        column = QVBoxLayout(self.contents)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE)
        self.summary = QLabel()
        self.summary.setWordWrap(True)
        column.addWidget(self.summary)
        self.scale_box = QWidget()
        self.scale = QDoubleSpinBox()
        self.scale.setDecimals(4)
        self.scale.setRange(0.05, 10.0)
        self.scale.setSingleStep(0.05)
        self.scale.setValue(0.25)
        self.scale.setSuffix(" µm/px")
        self.scale.setToolTip("How many micrometers one pixel is: 0.25 for most scans at 40×, 0.5 at 20×.")
        self.scale_apply = QPushButton("Use this scale")
        self.scale_apply.clicked.connect(self._apply_scale)
        scale_row = row(QLabel("Scale"), self.scale, self.scale_apply, stretch=1)
        self.scale_box.setLayout(scale_row)
        column.addWidget(self.scale_box)
        self.classes = ClassTable()
        self.classes.chosen.connect(self.session.choose_classes)
        column.addWidget(self.classes)
        self.class_note = Note()
        column.addWidget(self.class_note)
        self.splits = SplitsBox(self.viewer, self.session)
        column.addWidget(self.splits)
        self.problems_title = heading("")
        self.problems = QListWidget()
        self.problems.setWordWrap(True)
        self.problems.setMaximumHeight(110)
        self.problems.setToolTip("Images that were left out, and why. The others are used.")
        column.addWidget(self.problems_title)
        column.addWidget(self.problems)
        self.images = QComboBox()
        self.images.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.images.setMinimumContentsLength(12)
        self.images.setToolTip("The image on the screen.")
        self.images.activated.connect(lambda index: self.session.show(self.images.itemText(index)))
        self.previous = self._arrow(Qt.ArrowType.LeftArrow, "Previous image", -1)
        self.following = self._arrow(Qt.ArrowType.RightArrow, "Next image", 1)
        details = form()
        details.addRow("Image", row(self.previous, self.images, self.following, stretch=1))
        self.study = QLabel()
        self.study.setToolTip("Everything you do is kept in this folder as you do it.")
        self.study_change = QPushButton("Change …")
        self.study_change.setToolTip("Keep the study elsewhere; only before it has begun.")
        self.study_change.clicked.connect(self._ask_study_folder)
        details.addRow("Study", row(self.study, self.study_change, stretch=0))
        column.addLayout(details)
        self.column.addWidget(self.contents)

    def _arrow(self, arrow: Qt.ArrowType, tip: str, by: int) -> QToolButton:
        button = QToolButton()
        button.setArrowType(arrow)
        button.setToolTip(tip)
        button.clicked.connect(lambda: self.session.step(by))
        return button

    # Opening.

    def open_sample(self) -> None:
        """Open the bundled sample."""
        self.open_folder(sample_folder())

    def open_folder(self, folder: Path, mpp: float | None = None) -> None:
        """Open a dataset in the background."""
        self._begin(open_job(Path(folder), mpp), "opening images")

    def open_study(self, folder: Path, images: Path | None = None) -> None:
        """Open a study in the background, with everything in it; ``images``: where those went, if they did."""
        self._begin(study_job(Path(folder), images, self.session.claim(folder)), "opening a study")

    def _ask_images(self, moved: Moved) -> None:
        folder = QFileDialog.getExistingDirectory(self, f"Where the images of {moved.folder.name} are now")
        if folder:
            self.open_study(moved.folder, Path(folder))
        else:
            self.complain(self.note, moved.sentence)

    def _begin(self, make: Any, title: str) -> None:
        self.note.say("")
        self.runner.start(make, title)

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A folder of H&E images with labels or classes")
        if folder:
            self.open_folder(Path(folder))

    def _ask_study(self) -> None:
        start = str(self.session.home if self.session.home.is_dir() else Path.home())
        folder = QFileDialog.getExistingDirectory(self, "A study's folder", start)
        if folder:
            self.open_study(Path(folder))

    def _ask_study_folder(self) -> None:
        start = str(self.session.home if self.session.home.is_dir() else Path.home())
        folder = QFileDialog.getExistingDirectory(self, "The folder in which the study's folder is made", start)
        if folder and self.session.dataset is not None:
            self.session.choose_study_folder(self.session.free_folder(Path(folder)))

    def _apply_scale(self) -> None:
        if self.session.dataset is not None:
            self.open_folder(Path(self.session.dataset.root), self.scale.value())

    def _on_running(self, running: bool) -> None:
        for button in (self.folder_button, self.sample_button, self.study_button, self.scale_apply):
            button.setEnabled(not running)

    def _on_opened(self, opened: Opened | Moved) -> None:
        if isinstance(opened, Moved):
            self._ask_images(opened)
            return
        self.session.take_opened(opened)

    def _on_failed(self, sentence: str) -> None:
        self.complain(self.note, sentence)

    # What the session says.

    def _on_dataset(self) -> None:
        dataset, counted = self.session.dataset, self.session.survey
        self.contents.setVisible(dataset is not None)
        self.welcome.setVisible(dataset is None)
        if dataset is None or counted is None:
            return
        classes, counts = classes_of(dataset, counted)
        total: Counter[int] = sum(map(Counter, counts.values()), Counter())
        self.classes.set_classes(classes, total, "Nuclei" if dataset.has_nuclei else "Images", dataset.has_nuclei)
        self._summarize()
        images = len(counted.counts)
        self.scale_box.setVisible(bool(dataset.missing_scale))
        if dataset.missing_scale:
            missing = len(dataset.missing_scale)
            self.note.say(
                f"Nothing says how large a pixel is in {missing} of {len(dataset.entries)} images; enter the scale.",
                "warning",
            )
        self.images.clear()
        self.images.addItems(list(counted.counts))
        several = images > 1 and not dataset.missing_scale
        for widget in (self.previous, self.images, self.following):
            widget.setEnabled(several)
        self.problems.clear()
        self.problems.addItems([one.sentence for one in counted.problems])
        found = len(counted.problems)
        self.problems_title.setText(f"{found} problem{'s' if found != 1 else ''} found")
        for widget in (self.problems, self.problems_title):
            widget.setVisible(found > 0)
        self._on_classes()
        self._on_study()

    def _summarize(self) -> None:
        dataset, counted = self.session.dataset, self.session.survey
        if dataset is None or counted is None:
            return
        images, nuclei = len(counted.counts), counted.total.total()
        inside = f"{nuclei:,} nuclei" if dataset.has_nuclei else f"{len(dataset.kinds)} classes"
        splits = Counter(split_of(one.source) for one in dataset.entries if one.source.image in counted.counts)
        parts = [f"{splits[split]} {split}" for split in sorted(splits, key=split_order)]
        scales = sorted({one.mpp for one in dataset.entries if one.mpp is not None})
        scale = ", ".join(f"{one:g}" for one in scales) + " µm/px" if scales else "scale unknown"
        many = f"{images} image{'s' if images != 1 else ''}"
        self.summary.setText(f"<b>{dataset.name}</b><br>{many} ({', '.join(parts)}) · {inside} · {scale}")

    def _on_classes(self) -> None:
        session = self.session
        self.classes.choose(session.rare, session.major)
        if session.survey is None or session.dataset is None:
            return
        if not session.dataset.has_nuclei:
            self.class_note.say("")
        elif not session.rare:
            self.class_note.say("Choose at least one rare class.", "warning")
        elif not any(session.survey.total[number] for number in session.rare):
            self.class_note.say("No image has a nucleus of the rare class; choose one that occurs.", "warning")
        elif not session.major:
            self.class_note.say("No major class is chosen: nuclei of every other class may be replaced.")
        else:
            self.class_note.say("")

    def _on_study(self) -> None:
        folder = self.session.study_folder
        if folder is not None:
            self.study.setText(folder.name if self.session.study else f"{folder.name} (new)")
            self.study.setToolTip(f"Everything you do is kept here as you do it:\n{folder}")
        self.study_change.setEnabled(self.session.study is None)

    def _on_image(self, name: str) -> None:
        self.images.setCurrentText(name)
