"""All changes that the filter leaves, as thumbnails: selected in numbers, and decided on as one act."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QRect, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPixmap

from napari_histomix.compositing.composing import look
from napari_histomix.datasets import Dataset
from napari_histomix.records import Change, Event, HistomixError, Job, LabeledImage
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.crops import image_of
from napari_histomix.widgets.decisions import APPROVE, DELETE, REJECT, WORDS
from napari_histomix.widgets.gallery import Gallery, Selection, Thumbnails, Tile
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.layer_making import center
from napari_histomix.widgets.review.deciding import COLORS, title_of
from napari_histomix.widgets.review.queue import DECISIONS, ReviewQueue
from napari_histomix.widgets.session import Session

MICROMETERS, FEWEST = 28.0, 24
"""Side of the piece of tissue that a thumbnail of a nucleus shows, and its pixels at least."""
BATCH, HELD = 16, 4
"""Thumbnails that are made at once, and images that are held for the next ones."""
SYMBOLS = {APPROVE: "✓", REJECT: "✕", DELETE: "−"}
"""What tells decisions apart beside their colors."""
MARK = 17
"""Side of the mark of a decision in pixels of the screen."""
LOWEST = 180
"""Height of the grid at least."""
Pictures = dict[int, QImage | None]
"""By row of the table; None of what cannot be read."""


class ReviewGrid(Gallery):
    """The rows of a queue's table that its filter leaves, in its order."""

    def __init__(self, session: Session, queue: ReviewQueue, theme: str) -> None:
        super().__init__(Selection(), theme, "Synthetic nuclei and images")
        self.session, self.queue = session, queue
        self.selection.setParent(self)
        self.nothing = "The filter leaves nothing"
        self._ids = np.empty(0, np.int64)
        self._colors: list[QColor] = []
        self.thumbnails: ChangeThumbnails = ChangeThumbnails(self, session)
        self.setToolTip("Shift, Ctrl or a rubber band selects several; Enter or a double click looks closer.")
        session.dataset_changed.connect(self.thumbnails.clear)

    # What is shown.

    def set_rows(self) -> None:
        """Take over other rows than before; those that are the same keep their thumbnails and stay selected."""
        ids, before = self.queue.table.ids, self._ids
        self._ids, chosen, current = ids, self.selection.numbers(), self.selection.current
        same = np.array_equal(ids[: len(before)], before)
        if not same:
            # Before the selection is told of: none of what was shown is there any more.
            self.thumbnails.clear()
            self.set_numbers(np.empty(0, np.intp))
        self.selection.reset(len(ids))
        if same:
            self.selection.select(chosen, current)
        kinds = {kind.name: kind.color for kind in self.session.dataset.classes} if self.session.dataset else {}
        self._colors = [QColor(*kinds.get(name, ui.rgb(ui.ACCENT))) for name in self.queue.class_names]

    def refresh(self) -> None:
        """Show what the filter leaves now, and what is under review as the current one."""
        queue, shown = self.queue, self.queue.shown
        if not np.array_equal(shown, self.numbers):
            self.set_numbers(shown, stay=True)
            self.selection.restrict(shown)
        row = queue.row if queue.row is not None and queue.at is not None else -1
        if row != self.selection.current:
            self.selection.select([row] if row >= 0 else [], row)
            self.reveal(row)
        self.viewport().update()

    @property
    def rows(self) -> NDArray[np.intp]:
        """Selected rows, in the order in which they are shown."""
        return self.numbers[self.selection.mask[self.numbers]] if len(self.numbers) else self.numbers

    def select(self, rows: NDArray[np.intp], current: int) -> None:
        """Select rows, of those that are shown."""
        self.selection.select(rows[np.isin(rows, self.numbers)], current)
        self.reveal(current)

    def painted(self) -> None:
        self.thumbnails.fetch()

    def look_of(self, number: int) -> Tile:
        decision = DECISIONS[self.queue.decisions[number]]
        strip = self._colors[self.queue.table.classes[number]]
        return Tile(strip, COLORS.get(decision, ""), decision in (REJECT, DELETE))

    def mark(self, painter: QPainter, box: QRect, number: int) -> None:
        symbol = SYMBOLS.get(DECISIONS[self.queue.decisions[number]])
        if symbol is None:
            return
        square = QRect(box.left() + 3, box.top() + 3, MARK, MARK)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(20, 22, 26, 215))
        painter.drawRoundedRect(square, 3, 3)
        font = painter.font()
        font.setBold(True)
        painter.setFont(font)
        painter.setPen(QColor("white"))
        painter.drawText(square, Qt.AlignmentFlag.AlignCenter, symbol)

    def words(self, number: int) -> str:
        queue, table = self.queue, self.queue.table
        score, kind = table.scores[number], queue.class_names[table.classes[number]]
        facts = (
            f"#{table.ids[number] + 1}" + (f" · {kind}" if kind else ""),
            table.made_names[table.names[number]],
            title_of(table.method_names[table.methods[number]]),
            "" if np.isnan(score) else f"Fit {score:.0f}",
            WORDS[DECISIONS[queue.decisions[number]]].capitalize(),
        )
        return "\n".join(filter(None, facts))


class ChangeThumbnails(Thumbnails):
    """Thumbnails of changes, made in the background: those in sight, some at a time, image by image.

    Each shows its change in its target without the others, so that no decision makes it stale.
    """

    def __init__(self, grid: ReviewGrid, session: Session) -> None:
        super().__init__(grid.pixels())
        self._session = session
        self._wanted: list[int] = []
        self._asked: list[int] = []
        self._images: OrderedDict[str, LabeledImage] = OrderedDict()
        self.runner = JobRunner(grid).on(finished=self._on_made, failed=self._on_failed)
        # What was asked for meanwhile is asked for anew by the next paint.
        self._again = ui.later(grid, 0, grid.viewport().update)
        self.runner.running_changed.connect(lambda running: None if running else self._again.start())

    def clear(self) -> None:
        super().clear()
        self.runner.discard()
        self._images = OrderedDict()

    def load(self, number: int) -> None:
        self._wanted.append(number)

    def fetch(self) -> None:
        """Begin to make what was asked for last."""
        wanted, self._wanted = self._wanted[:BATCH], []
        session = self._session
        if wanted and not self.runner.running and session.dataset is not None:
            self._asked = wanted
            changes = [(row, session.change_at(row)) for row in wanted]
            for _, change in changes:
                if (known := session.reader.get(change.image)) is not None:
                    self._images[change.image] = known
            job = partial(thumbnails_job, session.dataset, changes, self.side, self._images)
            self.runner.start(job, "making thumbnails")

    def _on_failed(self, _sentence: str) -> None:
        self._on_made(dict.fromkeys(self._asked))

    def _on_made(self, made: Pictures) -> None:
        for row, picture in made.items():
            if picture is None:
                pixmap = QPixmap(self.side, self.side)
                pixmap.fill(QColor(110, 114, 120))
            else:
                pixmap = QPixmap.fromImage(picture)
            self.keep(row, pixmap)


def thumbnails_job(
    dataset: Dataset, changes: Sequence[tuple[int, Change]], side: int, images: OrderedDict[str, LabeledImage]
) -> Job[Pictures]:
    """Make the thumbnails of changes by row, ``side`` pixels high or wide; ``images`` are held for the next time."""
    made: Pictures = {}
    for name, of_image in groupby(sorted(changes, key=lambda pair: pair[1].image), key=lambda pair: pair[1].image):
        for row, change in of_image:
            yield Event("Making thumbnails", len(made), len(changes))
            try:
                pixels = change.pixels
                if change.in_place:
                    target = images[name] = images.get(name) or dataset.read(name)
                    pixels = look(target, *center(change), max(FEWEST, round(MICROMETERS / target.mpp)), [change]).after
            except (HistomixError, OSError):
                made[row] = None
                continue
            keep, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
            # A copy, which does not need the pixels any more.
            made[row] = image_of(np.ascontiguousarray(pixels)).scaled(side, side, keep, smooth).copy()
        while len(images) > HELD:
            images.popitem(last=False)
    return made
