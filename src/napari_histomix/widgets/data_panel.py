"""Step 1: choose images, of nuclei or of tissue, see what is in them, say which class is rare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QFileDialog, QGridLayout, QListWidget, QSizePolicy, QToolButton, QWidget

from napari_histomix.datasets import Dataset, sample_folder, synthetic_notes
from napari_histomix.datasets.edits import edit_notes
from napari_histomix.datasets.formats import FORMATS
from napari_histomix.datasets.splits import split_of, split_order
from napari_histomix.generation.unlabeled import UnlabeledCount, count_unlabeled, load_segmenter
from napari_histomix.preferences import remember
from napari_histomix.records import Event, HistomixError, Job, NucleusClass
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel, RunBar
from napari_histomix.widgets.charts import Bar
from napari_histomix.widgets.hand_edits import HandEditsBar
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.loading import Moved, Opened, open_job, study_job
from napari_histomix.widgets.loading_ahead import prepare_torch
from napari_histomix.widgets.questions import ask_to_stop
from napari_histomix.widgets.session import Session, window_of
from napari_histomix.widgets.sources import READS, RecentBox, holder, is_reader_test, is_study
from napari_histomix.widgets.splits_box import SplitsBox, classes_of

ON_COMMAND_LINE = "read the data with --split-parts"
"""Remedy in a sentence about a dataset, for which the page has a button."""


class ClassTable(QWidget):
    """Counts of classes as a bar chart, with a check box for rare and one for major in each row."""

    chosen = Signal(object, object)
    """Numbers of the rare classes, and of the major ones."""

    def __init__(self) -> None:
        super().__init__()
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(ui.SPACE)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(2, 1)
        self.rare_boxes: dict[int, QCheckBox] = {}
        self.major_boxes: dict[int, QCheckBox] = {}

    def set_classes(
        self, classes: Sequence[NucleusClass], counts: Mapping[int, int], counted: str = "Nuclei", choose: bool = True
    ) -> None:
        """Fill the table; nothing is chosen then. ``choose``: whether classes can be rare or major."""
        ui.clear(self._grid)
        self.rare_boxes.clear()
        self.major_boxes.clear()
        heads = [(1, "Class", ""), (2, counted, f"How many {counted.lower()} of each class there are in all.")]
        if choose:
            heads += [
                (4, "Rare", "The classes to grow: their nuclei are the donors."),
                (5, "Major", "The classes whose nuclei may be replaced."),
            ]
        for place, text, tip in heads:
            head = ui.label(text, wrap=False, style="font-weight: 600;")
            head.setToolTip(tip)
            # The number of nuclei and its bar share a head.
            self._grid.addWidget(head, 0, place, 1, 2 if place == 2 else 1)
        most = max([counts.get(kind.number, 0) for kind in classes], default=0) or 1
        for line, kind in enumerate(classes, start=1):
            self._add_row(line, kind, counts.get(kind.number, 0), most, choose)

    def _add_row(self, line: int, kind: NucleusClass, count: int, most: int, choose: bool) -> None:
        swatch = ui.label(style=f"background-color: rgb{kind.color}; border-radius: 3px;")
        swatch.setFixedSize(12, 12)
        bar = Bar(kind.color)
        bar.set_shares(count / most)
        name = ui.label(kind.name, wrap=False, plain=True, yields=True)
        name.setToolTip(kind.name)
        # As wide as it wants where there is room for that.
        name.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        widgets = [swatch, name, bar, ui.label(f"{count:,}", wrap=False, right=True)]
        if choose:
            rare = self.rare_boxes[kind.number] = ui.check(tip=f"Grow {kind.name}: its nuclei become donors.")
            rare.setAccessibleName(f"{kind.name} is rare")
            rare.clicked.connect(partial(self._on_clicked, kind.number, self.major_boxes))
            major = self.major_boxes[kind.number] = ui.check(
                tip=f"Nuclei of class {kind.name} may be replaced by rare ones."
            )
            major.setAccessibleName(f"{kind.name} is major")
            major.clicked.connect(partial(self._on_clicked, kind.number, self.rare_boxes))
            widgets += [rare, major]
        for place, widget in enumerate(widgets):
            self._grid.addWidget(widget, line, place)

    def choose(self, rare: Sequence[int], major: Sequence[int]) -> None:
        for boxes, chosen in ((self.rare_boxes, rare), (self.major_boxes, major)):
            for key, check_box in boxes.items():
                check_box.setChecked(key in chosen)

    def _on_clicked(self, key: int, others: Mapping[int, QCheckBox], checked: bool) -> None:
        if checked:
            others[key].setChecked(False)
        self.chosen.emit(
            *(
                tuple(key for key, check_box in boxes.items() if check_box.isChecked())
                for boxes in (self.rare_boxes, self.major_boxes)
            )
        )


def unlabeled_job(dataset: Dataset) -> Job[UnlabeledCount]:
    """Count the nuclei without a label, in a worker's thread."""
    prepare_torch()
    yield Event("Opening the network")
    return (yield from count_unlabeled(dataset, load_segmenter()))


class UnlabeledLine(QWidget):
    """How many nuclei of a dataset seem to lack a label; looked for when a person asks, as that takes a while."""

    def __init__(self, viewer: Any, session: Session) -> None:
        super().__init__()
        self._dataset: Dataset | None = None
        self.runner = session.follow(JobRunner(self, window_of(viewer)), heavy=True)
        tip = (
            "A network looks for nuclei in all training images. Methods lay no new nucleus on a free place where\n"
            "it finds one that has no label; with many of them, label these first."
        )
        self.button = ui.button("Look for nuclei without a label", tip, self._press)
        self.note = ui.Note()
        self.setLayout(ui.column(self.button, self.note, space=ui.SPACE // 2))
        self.runner.on(finished=self._on_counted, failed=partial(self.note.say, kind="error"))
        self.runner.on(running_changed=self._on_running, progressed=self._on_event)
        self.set_dataset(None)

    def set_dataset(self, dataset: Dataset | None) -> None:
        """Speak of another dataset from now on."""
        self.runner.discard()
        self._dataset = dataset if dataset is not None and dataset.has_nuclei else None
        self.note.say("")
        self.setVisible(self._dataset is not None and not self._dataset.missing_scale)

    def _press(self) -> None:
        if self.runner.running:
            self.runner.cancel()
        elif self._dataset is not None:
            self.note.say("")
            self.runner.start(partial(unlabeled_job, self._dataset), "looking for nuclei without a label")

    def _on_running(self, running: bool) -> None:
        self.button.setText("Stop looking" if running else "Look for nuclei without a label")
        if running:
            self.note.say("Looking …")
        elif self.note.text().startswith("Looking"):
            self.note.say("")

    def _on_event(self, event: Event) -> None:
        if event.total:
            self.note.say(f"Looking … image {event.done + 1:,} of {event.total:,}")

    def _on_counted(self, count: UnlabeledCount) -> None:
        self.note.say(count.sentence, "warning" if count.nuclei else "good")


class DataPanel(Panel):
    """Dataset, classes, images and the study's place."""

    runs = False

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self.ask = partial(ask_to_stop, self)
        """Asks whether what is under way may be ended, given what it is."""
        self._build_opening()
        self._build_contents()
        self.column.addStretch(1)
        failed = partial(self.complain, self.note)
        self.runner.on(finished=self._on_opened, failed=failed, running_changed=self._on_running)
        self.session.dataset_changed.connect(self._on_dataset)
        self.session.classes_changed.connect(self._on_classes)
        self.session.splits_changed.connect(self._summarize)
        self.session.study_changed.connect(self._on_study)
        self.session.image_changed.connect(lambda name: self.images.setCurrentText(name))
        # A decision that could not be written is told on whatever page it was made.
        self.session.notice.connect(partial(self.complain, self.note, kind="warning"))
        self._on_dataset()

    def _build_opening(self) -> None:
        self.welcome = ui.hint(
            "Start with H&E images whose nuclei are labeled, or tissue in a folder for each class; with layers "
            "that are open (next tab); or with the sample."
        )
        self.folder_button = ui.asking_button(
            "Open folder …",
            f"Open a folder, whatever is in it.\n{READS}",
            "A folder of H&E images with labels or classes, a study or a reader test",
            self.open_source,
        )
        tip = f"Open what a file belongs to: a CSV of images and classes, or any file of a dataset.\n{READS}"
        self.file_button = ui.button("Open file …", tip, self._ask_file)
        self.sample_button = ui.button(
            "Open sample", "Five breast tumor images in which lymphocytes are rare.", self.open_sample
        )
        tip = "Go on with a study: all that was found and made, and every decision, come back."
        home = partial(getattr, self.session, "home")
        self.study_button = ui.asking_button("Open study …", tip, "A study's folder", self.open_study, home)
        self.progress = RunBar("Open", self.runner, "Open what was chosen.")
        self.progress.run_button.hide()
        self.note = ui.Note()
        tip = "Open the study again, to go on with it here once it is closed in the other window."
        self.again_button = ui.button("Open it again", tip, self._open_again, shown=False)
        self.hand_edits = HandEditsBar(self.book.hand_edits, window_of(self.viewer))
        self.hand_edits.ask_to_end = lambda titles: self.ask(titles)
        self.recent = RecentBox()
        self.recent.chosen.connect(self.open_source)
        self.recent.refresh()
        buttons = ui.even_row(self.folder_button, self.file_button)
        more = ui.even_row(self.study_button, self.sample_button)
        ui.add(self.column, self.welcome, buttons, more, self.recent, self.progress, self.note)
        ui.add(self.column, self.again_button, self.hand_edits)

    def _build_contents(self) -> None:
        self.summary = ui.label()
        tip = "How many micrometers one pixel is: 0.25 for most scans at 40×, 0.5 at 20×."
        self.scale = ui.number(0.05, 10.0, 0.25, step=0.05, decimals=4, suffix=" µm/px", tip=tip)
        tip = "Open the images again with this scale."
        self.scale_apply = ui.button("Use this scale", tip, self._apply_scale, primary=True)
        self.scale_box = ui.box(ui.row(ui.label("Scale", wrap=False), self.scale, self.scale_apply, stretch=1))
        self.classes = ClassTable()
        self.classes.chosen.connect(self.session.choose_classes)
        self.class_note, self.synthetic, self.edited = ui.Note(), ui.Note(), ui.Note()
        self.unlabeled = UnlabeledLine(self.viewer, self.session)
        self.splits = SplitsBox(self.viewer, self.session)
        self.split_parts = ui.button(
            "Read each shape as a nucleus",
            "Open the data again with each connected shape as a nucleus of its own, which masks without ids need.",
            self._split_parts,
        )
        self.problems_title = ui.heading("")
        self.problems = QListWidget()
        self.problems.setWordWrap(True)
        self.problems.setMaximumHeight(110)
        self.problems.setToolTip("What is left out of the data, and why; all else is used.")
        self.images = ui.choice(tip="The image on the screen.")
        self.images.activated.connect(lambda place: self.session.show(self.images.itemText(place)))
        self.previous = self._arrow(Qt.ArrowType.LeftArrow, "Previous image", -1)
        self.following = self._arrow(Qt.ArrowType.RightArrow, "Next image", 1)
        self.study = ui.label(wrap=False, plain=True, yields=True)
        self.study.setToolTip("Everything you do is kept in this folder as you do it.")
        self.study_change = ui.asking_button(
            "Change …",
            "Keep the study elsewhere; only before it has begun.",
            "The folder in which the study's folder is made",
            lambda home: self.session.choose_study_folder(self.session.free_folder(home)),
            lambda: self.session.home,
        )
        details = ui.form(
            ("Image", ui.row(self.previous, self.images, self.following, stretch=1)),
            ("Study", ui.row(self.study, self.study_change, stretch=0)),
        )
        overview = (
            self.summary,
            self.synthetic,
            self.edited,
            self.scale_box,
            self.classes,
            self.class_note,
            self.unlabeled,
        )
        problems = (self.problems_title, self.problems, self.split_parts)
        tip = "Go on to the methods, and to what they find before they make anything."
        self.next_button = self.lead("Make synthetic images →", "make/making", tip, primary=True)
        self.contents = ui.box(ui.column(*overview, self.splits, *problems, details, self.next_button))
        self.column.addWidget(self.contents)

    def _arrow(self, arrow: Qt.ArrowType, tip: str, by: int) -> QToolButton:
        made = QToolButton()
        made.setArrowType(arrow)
        made.setToolTip(tip)
        made.clicked.connect(lambda: self.session.step(by))
        return made

    # Opening.

    def _ask_file(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "A CSV, or a file of a dataset, study or reader test")
        if chosen:
            self.open_source(Path(chosen))

    def open_source(self, path: Path) -> None:
        """Open a folder or file by what it is: images of nuclei or tissue, an export, a study, or a reader test."""
        path = holder(Path(path))
        if is_study(path):
            self.open_study(path)
        elif is_reader_test(path):
            # The page first: the panel that hears the second is built when its page is.
            self.session.page_requested.emit("results/test")
            self.session.reader_test_requested.emit(path)
        else:
            self.open_folder(path)

    def open_sample(self) -> None:
        self.open_folder(sample_folder())

    def open_folder(self, folder: Path, mpp: float | None = None, *, split_parts: bool = False) -> None:
        self._start(partial(open_job, Path(folder), mpp, split_parts), "opening images")

    def open_study(self, folder: Path, images: Path | None = None) -> None:
        """Open a study in the background, with everything in it; ``images``: where those went, if they did."""
        job = partial(study_job, Path(folder), images, self.session.lock(folder))
        self._start(job, "opening a study")

    def _start(self, job: Any, title: str) -> None:
        if self.ask(self.session.under_way):
            self.note.say("")
            self.runner.start(job, title)

    def _open_again(self) -> None:
        if self.session.study is not None:
            self.open_study(self.session.study.folder)

    def _apply_scale(self) -> None:
        if self.session.dataset is not None:
            dataset = self.session.dataset
            self.open_folder(Path(dataset.root), self.scale.value(), split_parts=dataset.split_parts)

    def _split_parts(self) -> None:
        if self.session.dataset is not None:
            self.open_folder(Path(self.session.dataset.root), self.session.mpp, split_parts=True)

    def _on_running(self, running: bool) -> None:
        openers = (self.folder_button, self.file_button, self.sample_button, self.study_button, self.recent)
        for opener in (*openers, self.scale_apply, self.split_parts):
            opener.setEnabled(not running)

    def _on_opened(self, opened: Opened | Moved) -> None:
        if isinstance(opened, Opened):
            self.session.take_opened(opened)
        elif images := ui.ask_folder(self, f"Where the images of {opened.folder.name} are now"):
            self.open_study(opened.folder, images)
        else:
            self.complain(self.note, opened.sentence)

    # What the session says.

    def _on_dataset(self) -> None:
        dataset, survey = self.session.dataset, self.session.survey
        self.contents.setVisible(dataset is not None)
        self.welcome.setVisible(dataset is None)
        self.unlabeled.set_dataset(dataset)
        if dataset is None or survey is None:
            self.recent.refresh()
            return
        self.recent.put_away()
        if self.session.study is None:
            self._remember(Path(dataset.root), "nuclei" if dataset.has_nuclei else "tissue")
        classes, counts = classes_of(dataset, survey)
        total: Counter[int] = sum(map(Counter, counts.values()), Counter())
        self.classes.set_classes(classes, total, "Nuclei" if dataset.has_nuclei else "Images", dataset.has_nuclei)
        self._summarize()
        missing = len(dataset.missing_scale)
        self.scale_box.setVisible(missing > 0)
        self.next_button.setVisible(not missing and bool(survey.counts))
        if missing:
            self.note.say(
                f"Nothing says how large a pixel is in {missing} of {len(dataset.entries)} images; enter the scale.",
                "warning",
            )
        self.images.clear()
        self.images.addItems(list(survey.counts))
        self.images.setCurrentText(self.session.target_of(self.session.image))
        for widget in (self.previous, self.images, self.following):
            widget.setEnabled(len(survey.counts) > 1 and not missing)
        self.problems.clear()
        remedy = f"press '{self.split_parts.text()}'"
        self.problems.addItems([each.sentence.replace(ON_COMMAND_LINE, remedy) for each in survey.problems])
        self.problems_title.setText(f"{ui.many(len(survey.problems), 'problem')} found")
        for widget in (self.problems, self.problems_title):
            widget.setVisible(bool(survey.problems))
        self.split_parts.setVisible(any(problem.about == "parts" for problem in survey.problems))
        self._on_classes()
        self._on_study()

    def _summarize(self) -> None:
        dataset, survey = self.session.dataset, self.session.survey
        if dataset is None or survey is None:
            return
        total = survey.total.total()
        nuclei = f"{total:,} {'nucleus' if total == 1 else 'nuclei'}"
        kinds = len(dataset.kinds)
        inside = nuclei if dataset.has_nuclei else f"{kinds} class{'' if kinds == 1 else 'es'}"
        splits = Counter(split_of(entry.source) for entry in dataset.entries if entry.source.image in survey.counts)
        parts = [f"{splits[split]} {split}" for split in sorted(splits, key=split_order)]
        scales = sorted({entry.mpp for entry in dataset.entries if entry.mpp is not None})
        scale = ", ".join(f"{mpp:g}" for mpp in scales) + " µm/px" if scales else "scale unknown"
        self.synthetic.say(" ".join(synthetic_notes(dataset, survey)), "warning")
        self.edited.say(" ".join(edit_notes(dataset)))
        images = f"{ui.many(len(survey.counts), 'image')} ({', '.join(parts)})" if parts else "no image can be read"
        known = FORMATS.get(dataset.format)
        facts = [images, inside, scale, *([f"read as {known.title}"] if known else [])]
        self.summary.setText(f"<b>{dataset.name}</b><br>{' · '.join(facts)}")

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
        elif not (+session.survey.total).keys() - set(session.rare):
            self.class_note.say("No other class has nuclei: new ones go to free places and replace none.")
        elif not session.major:
            self.class_note.say("No major class is chosen: nuclei of every other class may be replaced.")
        else:
            self.class_note.say("")

    def _remember(self, path: Path, kind: str) -> None:
        try:
            remember(path, kind)
        except HistomixError as error:
            self.note.say(str(error), "warning")

    def _on_study(self) -> None:
        folder = self.session.study_folder
        if self.session.study is not None:
            self._remember(Path(self.session.study.folder), "study")
        if folder is not None:
            self.study.setText(folder.name if self.session.study else f"{folder.name} (new)")
            self.study.setToolTip(f"Everything you do is kept here as you do it:\n{folder}")
        self.study_change.setEnabled(self.session.study is None)
        if self.again_button.isVisibleTo(self) and not self.session.read_only:
            # Said of the study before.
            self.note.say("")
        self.again_button.setVisible(self.session.read_only)
