"""A reader's way through a test: what is kept, what is timed, and what a killed process leaves."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from napari_histomix.evaluation.crops import GENUINE
from napari_histomix.evaluation.reader_test.folder import ReaderTest, write_test
from napari_histomix.evaluation.reader_test.reading import Reading, read_answers
from napari_histomix.evaluation.reader_test.specimens import Drawn, ReaderTestSettings, Specimen
from napari_histomix.records import HistomixError

COUNT = 40


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    specimens = tuple(
        Specimen(
            rng.integers(0, 255, (16, 16, 3), np.uint8),
            (8, 8),
            "rare",
            "NucleiMix" if number % 2 else GENUINE,
            f"patient {number % 7}",
        )
        for number in range(COUNT)
    )
    return write_test(tmp_path / "test", "made up", Drawn(specimens, Counter()), ReaderTestSettings())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_runs_from_the_crop_to_its_answer_and_not_while_paused(folder):
    # A copy by mail or archive may lack the folder, which is empty as yet.
    (folder / "answers").rmdir()
    test, clock = ReaderTest.open(folder), Clock()
    assert read_answers(test) == {}
    reading = Reading(test, "Ann", clock)
    assert not reading.running
    with pytest.raises(ValueError, match="no crop"):
        reading.answer(1)
    clock.now += 50
    reading.resume()
    first = reading.current
    clock.now += 1.5
    reading.pause()
    clock.now += 1000
    reading.resume()
    reading.resume()
    clock.now += 0.25
    reading.answer(3)
    second = reading.current
    clock.now += 2
    reading.pause()
    # Another day, in another window.
    reading.close()
    reading = Reading(test, "ANN ", clock)
    assert reading.reader == "Ann" and reading.answered == 1 and reading.current == second and reading.place == 2
    clock.now += 5
    reading.resume()
    clock.now += 3
    reading.answer(4)
    reading.close()
    given = read_answers(test)["Ann"]
    assert (given[first].answer, given[first].ms) == (3, 1750)
    assert (given[second].answer, given[second].ms) == (4, 5000)


def test_a_reader_may_go_back_one_step_and_both_looks_count(folder):
    test, clock = ReaderTest.open(folder), Clock()
    reading = Reading(test, "Ann", clock)
    reading.resume()
    assert not reading.can_go_back
    first = reading.current
    clock.now += 1
    reading.answer(1)
    clock.now += 4
    second = reading.current
    reading.back()
    assert reading.current == first and reading.place == 1 and not reading.can_go_back
    reading.back()
    assert reading.current == first
    # The old answer stands until there is a new one.
    clock.now += 2
    reading.answer(4)
    assert reading.current == second and reading.place == 2
    clock.now += 1
    reading.answer(2)
    reading.close()
    given = read_answers(test)["Ann"]
    assert (given[first].answer, given[first].ms, given[first].times) == (4, 3000, 2)
    assert (given[second].answer, given[second].ms, given[second].times) == (2, 5000, 1)


def test_the_last_answer_can_be_changed_too_and_then_it_is_over(folder):
    test = ReaderTest.open(folder)
    reading = Reading(test, "Ann")
    reading.resume()
    last = None
    while reading.current is not None:
        last = reading.current
        reading.answer(1)
    assert reading.finished and not reading.running and reading.pixels is None and reading.place == COUNT
    reading.back()
    assert reading.current == last and not reading.finished
    reading.answer(4)
    assert reading.finished
    reading.close()
    assert read_answers(test)["Ann"][last].answer == 4
    again = Reading(test, "Ann")
    again.resume()
    assert again.finished and not again.running and not again.can_go_back
    again.close()


def test_readers_do_not_see_each_others_answers_and_no_one_is_in_two_windows(folder):
    test = ReaderTest.open(folder)
    ann, bob = Reading(test, "Ann"), Reading(test, "Bob")
    ann.resume()
    ann.answer(4)
    assert (ann.answered, bob.answered) == (1, 0)
    with pytest.raises(HistomixError, match="ann has this test open in another window"):
        Reading(test, "ann")
    with pytest.raises(HistomixError, match="open in another window"):
        read_answers(test)
    ann.close()
    bob.close()
    assert {reader: len(given) for reader, given in read_answers(test).items()} == {"Ann": 1, "Bob": 0}
    for name in ("", "   "):
        with pytest.raises(HistomixError, match="Enter a name"):
            Reading(test, name)
    with pytest.raises(HistomixError, match="too much like"):
        Reading(test, "Ann.")


def test_answers_of_one_test_are_not_taken_for_those_of_another(folder, tmp_path):
    test = ReaderTest.open(folder)
    Reading(test, "Ann").close()
    rng = np.random.default_rng(1)
    specimens = [Specimen(rng.integers(0, 9, (16, 16, 3), np.uint8), None, "a", kind, "p") for kind in (GENUINE, "mix")]
    other = ReaderTest.open(
        write_test(tmp_path / "other", "x", Drawn(tuple(specimens), Counter()), ReaderTestSettings())
    )
    (folder / "answers" / "ann.sqlite").rename(other.answers_folder / "ann.sqlite")
    for act in (lambda: Reading(other, "Ann"), lambda: read_answers(other)):
        with pytest.raises(HistomixError, match="another test"):
            act()


def test_an_answer_that_the_disk_refuses_is_not_taken(folder):
    test = ReaderTest.open(folder)
    reading = Reading(test, "Ann")
    reading.resume()
    # SQLite's own way of a full disk.
    pages = reading._file._db.execute("PRAGMA page_count").fetchone()[0]
    reading._file._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(HistomixError, match="space"):
        for _ in range(100_000):
            reading._file.add(reading.current, 1, 10**12)
    current, answered = reading.current, reading.answered
    with pytest.raises(HistomixError, match="space"):
        for _ in range(COUNT):
            current, answered = reading.current, reading.answered
            reading.answer(1)
    assert reading.current == current and reading.answered == answered and reading.running
    reading._file._db.execute("PRAGMA max_page_count=1000000")
    reading.answer(2)
    assert reading.answered == answered + 1
    reading.close()


def answer_on_and_on(folder: Path, pipe: int) -> None:
    """What a reader's process does until it is killed: each answer is told to a pipe when it was taken."""
    reading = Reading(ReaderTest.open(folder), "Ann")
    os.write(pipe, b"ready\n")
    reading.resume()
    for number in count():
        # The last crop is answered over and over, by going back.
        if reading.finished:
            reading.back()
        crop = reading.current
        reading.answer(1 + number % 4)
        os.write(pipe, f"{crop} {1 + number % 4}\n".encode())


def test_no_answer_is_lost_where_the_process_is_killed(folder):
    test, rng = ReaderTest.open(folder), np.random.default_rng(0)
    acknowledged: dict[int, int] = {}
    for _ in range(6):
        # A fork need not import everything again.
        source, pipe = os.pipe()
        process = multiprocessing.get_context("fork").Process(target=answer_on_and_on, args=(folder, pipe))
        process.start()
        os.close(pipe)
        with os.fdopen(source) as told:
            assert told.readline() == "ready\n"
            time.sleep(rng.uniform(0, 0.15))
            process.kill()
            # What was told by then was on disk by then.
            lines = [line for line in told.read().splitlines(keepends=True) if line.endswith("\n")]
        process.join()
        acknowledged |= {int(crop): int(answer) for crop, answer in map(str.split, lines)}
        given = {crop: one.answer for crop, one in read_answers(test).get("Ann", {}).items()}
        # One more may have been written than was told.
        differing = [crop for crop in given if given[crop] != acknowledged.get(crop)]
        assert set(acknowledged) <= set(given) and len(differing) <= 1, (acknowledged, given)
        acknowledged = given
    assert len(acknowledged) > 5
    reading = Reading(test, "Ann")
    assert reading.answered == len(acknowledged)
    reading.close()
