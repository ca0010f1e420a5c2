"""One reader going through a test: which crop is next, and how long each is looked at."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from napari_histomix.evaluation.reader_test.answers import AnswerFile
from napari_histomix.evaluation.reader_test.folder import Asked, ReaderTest


class Reading:
    """A reader's way through a test, in their own order. Begins paused; where it was left, it goes on.

    The clock runs only between ``resume`` and ``pause``. After an answer the next crop's time begins. A reader may go
    back one step, to the crop answered last, as long as the next one is not answered; its new answer counts, and the
    time of both looks.

    Parameters
    ----------
    test : ReaderTest
    reader : str
        Name under which the answers are kept.
    clock : callable, optional
        Seconds that never run backward.

    Raises
    ------
    HistomixError
        As ``answers.AnswerFile``.
    """

    def __init__(self, test: ReaderTest, reader: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.test = test
        self._clock = clock
        self._file = AnswerFile(test, reader)
        self.reader = self._file.reader
        self._order = test.order(self.reader)
        self._given = {crop: one.ms for crop, one in self._file.given().items()}
        self._looks = self._file.looks()
        self._returned: int | None = None
        self._last: int | None = None
        self._since: float | None = None

    @property
    def answered(self) -> int:
        """Number of crops that have an answer."""
        return len(self._given)

    @property
    def finished(self) -> bool:
        """Whether every crop has an answer."""
        return self.current is None

    @property
    def running(self) -> bool:
        """Whether the clock runs."""
        return self._since is not None

    @property
    def current(self) -> int | None:
        """The crop that is to be answered; None at the end."""
        if self._returned is not None:
            return self._returned
        return next((crop for crop in self._order if crop not in self._given), None)

    @property
    def place(self) -> int:
        """Its place in the reader's order, from 1."""
        return self.answered + (0 if self._returned is not None or self.finished else 1)

    @property
    def pixels(self) -> NDArray[np.uint8] | None:
        """Its pixels (S, S, 3)."""
        return None if self.current is None else np.asarray(self.test.crops[self.current])

    @property
    def asked(self) -> Asked | None:
        """What the reader is told of it."""
        return None if self.current is None else self.test.asked[self.current]

    @property
    def can_go_back(self) -> bool:
        """Whether the last answer can be changed."""
        return self._last is not None and self._returned is None

    def resume(self) -> None:
        """Let the clock run."""
        if self._since is None and not self.finished:
            self._since = self._clock()

    def pause(self) -> None:
        """Stop the clock; how long the crop was looked at so far is on disk when this returns."""
        if self._since is None or self.current is None:
            return
        self._looks[self.current] = self._time()
        self._since = None
        self._file.looked(self.current, self._looks[self.current])

    def answer(self, answer: int) -> None:
        """Answer the current crop (1 to 4) and go on to the next; on disk when this returns.

        Raises
        ------
        ValueError
            If the clock does not run, or for another number.
        HistomixError
            If the disk refuses; the crop stays the current one.
        """
        crop = self.current
        if crop is None or self._since is None:
            raise ValueError("no crop is being looked at")
        ms = self._time()
        self._file.add(crop, answer, ms)
        self._given[crop] = ms
        self._looks.pop(crop, None)
        self._last, self._returned = crop, None
        self._since = None if self.finished else self._clock()

    def back(self) -> None:
        """Return to the crop answered last; its old answer stands until there is a new one."""
        if not self.can_go_back:
            return
        self.pause()
        self._returned, self._last = self._last, None
        self.resume()

    def close(self) -> None:
        """Pause, and let go of the reader's file."""
        try:
            self.pause()
        finally:
            self._file.close()

    def _time(self) -> int:
        """Milliseconds that the current crop has been looked at, in all."""
        crop = self.current
        assert crop is not None and self._since is not None
        before = self._looks.get(crop, self._given.get(crop, 0))
        return before + round(1000 * (self._clock() - self._since))
