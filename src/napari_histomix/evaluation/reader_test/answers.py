"""Answers of one reader: a small database of their own, on disk before the next crop is shown."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from napari_histomix.datasets.writing import safe_name
from napari_histomix.evaluation.reader_test.folder import ReaderTest
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

    Parameters
    ----------
    test : ReaderTest
    reader : str
        As they call themselves; upper and lower case are equal.

    Raises
    ------
    HistomixError
        Without a name, if the file is open in another window, belongs to another test or reader, or cannot be written.
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
        with self._transaction():
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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN EXCLUSIVE")
        try:
            yield
            self._db.execute("COMMIT")
        finally:
            # Some failures end a transaction by themselves, a full disk for one.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def given(self) -> dict[int, Given]:
        """The last answer to every crop that has one."""
        with _mended(self.path, self.reader):
            return _given(self._db)

    def looks(self) -> dict[int, int]:
        """Milliseconds that crops were looked at before a pause, and not answered since."""
        with _mended(self.path, self.reader):
            return dict(self._db.execute("SELECT crop, ms FROM looks"))

    def add(self, crop: int, answer: int, ms: int) -> None:
        """Write an answer down; it is on disk when this returns.

        Raises
        ------
        ValueError
            For an answer that is none of ``ANSWER_WORDS``.
        HistomixError
            If the disk refuses; the answer is not written then.
        """
        if answer not in ANSWER_WORDS:
            raise ValueError(f"an answer is one of {', '.join(map(str, ANSWER_WORDS))}, not {answer!r}")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with _mended(self.path, self.reader), self._transaction():
            self._db.execute(
                "INSERT INTO answers (crop, answer, ms, given) VALUES (?, ?, ?, ?)", (crop, answer, ms, now)
            )
            self._db.execute("DELETE FROM looks WHERE crop = ?", (crop,))

    def looked(self, crop: int, ms: int) -> None:
        """Write down how long a crop was looked at so far."""
        with _mended(self.path, self.reader), self._transaction():
            self._db.execute("INSERT OR REPLACE INTO looks VALUES (?, ?)", (crop, ms))


def read_answers(test: ReaderTest) -> dict[str, dict[int, Given]]:
    """Answers of every reader of a test, by name, and by crop.

    Raises
    ------
    HistomixError
        If a file is open in a window, is damaged, or belongs to another test.
    """
    found: dict[str, dict[int, Given]] = {}
    for path in sorted(test.answers_folder.glob(f"*{SUFFIX}")):
        with _mended(path, path.stem):
            db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=WAIT)
            try:
                # A window that was killed as it made the file left it empty.
                if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    continue
                meta, given = dict(db.execute("SELECT key, value FROM meta")), _given(db)
            finally:
                db.close()
        if meta.get("test") != test.identity or not set(given) <= set(range(len(test))):
            raise HistomixError(f"{path} holds the answers to another test; move it away.")
        found[meta["reader"]] = given
    return found


def _given(db: sqlite3.Connection) -> dict[int, Given]:
    rows = db.execute("SELECT crop, answer, ms, given FROM answers ORDER BY number").fetchall()
    found: dict[int, Given] = {}
    for crop, answer, ms, given in rows:
        times = found[crop].times + 1 if crop in found else 1
        found[crop] = Given(crop, answer, ms, given, times)
    return found


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
