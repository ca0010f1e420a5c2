"""One reader going through a test: which crop is next, how long each is looked at, and the answers on disk."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.writing import safe_name
from napari_histomix.evaluation.reader_test.folder import Asked, ReaderTest
from napari_histomix.records import HistomixError

ANSWER_WORDS: Mapping[int, str] = {1: "surely real", 2: "rather real", 3: "rather synthetic", 4: "surely synthetic"}
"""What can be answered; from 3 on, a crop is called synthetic."""
CALLED_SYNTHETIC = 3

SUFFIX = ".sqlite"
WAIT = 0.5
"""Seconds to wait for another window that has the file open."""
TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE answers (number INTEGER PRIMARY KEY, crop INTEGER NOT NULL, answer INTEGER NOT NULL, "
    "ms INTEGER NOT NULL, given TEXT NOT NULL)",
    "CREATE TABLE looks (crop INTEGER PRIMARY KEY, ms INTEGER NOT NULL)",
)


@dataclass(frozen=True, slots=True)
class Given:
    """The last answer to a crop (1 to 4), all the milliseconds it was looked at, and how often it was answered."""

    crop: int
    answer: int
    ms: int
    given: str
    times: int = 1

    @property
    def called_synthetic(self) -> bool:
        """Whether the reader takes it for synthetic, surely or rather."""
        return self.answer >= CALLED_SYNTHETIC


class AnswerFile:
    """The answers of one reader to one test; only one window at a time has it open.

    Answers are only ever added. Each is on disk when ``add`` returns: SQLite with a rollback journal and full
    synchronization.

    Names of readers are equal in upper and lower case. HistomixError is raised without a name, or if the file is open
    in another window, belongs to another test or reader, or cannot be written.
    """

    def __init__(self, test: ReaderTest, reader: str) -> None:
        self.reader = " ".join(reader.split())
        if not self.reader:
            raise HistomixError("Enter a name; answers are kept under it.")
        self.path = test.answers_folder / f"{safe_name(self.reader, 'reader').casefold()}{SUFFIX}"
        with _mended(self.path, self.reader):
            # Some ways of copying a folder leave out what is empty in it.
            self.path.parent.mkdir(exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
        try:
            with _mended(self.path, self.reader):
                self._begin(test)
        except BaseException:
            self._db.close()
            raise

    def _begin(self, test: ReaderTest) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("PRAGMA synchronous=FULL")
        # Taken with the first transaction and kept until the file is closed.
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        with db:
            db.execute("BEGIN EXCLUSIVE")
            if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for table in TABLES:
                    db.execute(table)
                db.executemany("INSERT INTO meta VALUES (?, ?)", [("reader", self.reader), ("test", test.identity)])
            meta = dict(db.execute("SELECT key, value FROM meta"))
        if meta["test"] != test.identity:
            raise HistomixError(f"{self.path} holds the answers to another test; move it away.")
        if meta["reader"].casefold() != self.reader.casefold():
            raise HistomixError(f"The name {self.reader} is too much like {meta['reader']}; choose another one.")
        self.reader = meta["reader"]

    def close(self) -> None:
        self._db.close()

    def given(self) -> dict[int, Given]:
        """The last answer to every crop that has one."""
        with _mended(self.path, self.reader):
            return _last_answers(self._db)

    def looks(self) -> dict[int, int]:
        """Milliseconds that crops were looked at before a pause, and not answered since."""
        with _mended(self.path, self.reader):
            return dict(self._db.execute("SELECT crop, ms FROM looks"))

    def add(self, crop: int, answer: int, ms: int) -> None:
        """Write an answer down; it is on disk when this returns, and not written at all if HistomixError is raised."""
        if answer not in ANSWER_WORDS:
            raise ValueError(f"an answer is one of {', '.join(map(str, ANSWER_WORDS))}, not {answer!r}")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with _mended(self.path, self.reader), self._db:
            self._db.execute("BEGIN EXCLUSIVE")
            self._db.execute(
                "INSERT INTO answers (crop, answer, ms, given) VALUES (?, ?, ?, ?)", (crop, answer, ms, now)
            )
            self._db.execute("DELETE FROM looks WHERE crop = ?", (crop,))

    def looked(self, crop: int, ms: int) -> None:
        """Write down how long a crop was looked at so far."""
        with _mended(self.path, self.reader):
            self._db.execute("INSERT OR REPLACE INTO looks VALUES (?, ?)", (crop, ms))


def read_answers(test: ReaderTest) -> dict[str, dict[int, Given]]:
    """Answers of every reader of a test, by name, and by crop.

    Raises
    ------
    HistomixError
        If a file is open in a window, is damaged, or belongs to another test.
    """
    answers: dict[str, dict[int, Given]] = {}
    for path in sorted(test.answers_folder.glob(f"*{SUFFIX}")):
        with _mended(path, path.stem):
            db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=WAIT)
            try:
                # A window that was killed as it made the file left it empty.
                if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    continue
                meta, given = dict(db.execute("SELECT key, value FROM meta")), _last_answers(db)
            finally:
                db.close()
        if meta.get("test") != test.identity or not set(given) <= set(range(len(test))):
            raise HistomixError(f"{path} holds the answers to another test; move it away.")
        answers[meta["reader"]] = given
    return answers


def _last_answers(db: sqlite3.Connection) -> dict[int, Given]:
    answers: dict[int, Given] = {}
    for crop, answer, ms, given in db.execute("SELECT crop, answer, ms, given FROM answers ORDER BY number"):
        times = answers[crop].times + 1 if crop in answers else 1
        answers[crop] = Given(crop, answer, ms, given, times)
    return answers


@contextmanager
def _mended(path: Path, reader: str) -> Iterator[None]:
    """What SQLite raises, as a sentence."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
            raise HistomixError(f"{reader} has this test open in another window; close it there first.") from None
        raise HistomixError(
            f"The answers in {path} cannot be read or written ({error}); check the disk's space and permissions."
        ) from None


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
        As ``AnswerFile``.
    """

    def __init__(self, test: ReaderTest, reader: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.test = test
        self._clock = clock
        self._file = AnswerFile(test, reader)
        self.reader = self._file.reader
        self._order = test.order(self.reader)
        self._given = {crop: given.ms for crop, given in self._file.given().items()}
        self._looks = self._file.looks()
        self._returned: int | None = None
        self._last: int | None = None
        self._since: float | None = None

    @property
    def answered(self) -> int:
        return len(self._given)

    @property
    def finished(self) -> bool:
        return self.current is None

    @property
    def running(self) -> bool:
        return self._since is not None

    @property
    def current(self) -> int | None:
        """The crop that is to be answered; None at the end."""
        if self._returned is not None:
            return self._returned
        return next((crop for crop in self._order if crop not in self._given), None)

    @property
    def place(self) -> int:
        """Place of the current crop in the reader's order, from 1."""
        return self.answered + (0 if self._returned is not None or self.finished else 1)

    @property
    def pixels(self) -> NDArray[np.uint8] | None:
        """Pixels (S, S, 3) of the current crop."""
        return None if self.current is None else np.asarray(self.test.crops[self.current])

    @property
    def asked(self) -> Asked | None:
        """What the reader is told of the current crop."""
        return None if self.current is None else self.test.asked[self.current]

    @property
    def can_go_back(self) -> bool:
        return self._last is not None and self._returned is None

    def resume(self) -> None:
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

        If the disk refuses, HistomixError is raised and the crop stays the current one. ValueError is raised if the
        clock does not run, or for another number.
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
