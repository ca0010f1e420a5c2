import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from napari.utils.notifications import ErrorNotification, notification_manager
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QWidget

from napari_histomix.logs import begin, log_file
from napari_histomix.records import Event, HistomixError, drain
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets import jobs, loading_ahead
from napari_histomix.widgets.base import RunBar
from napari_histomix.widgets.jobs import JobRunner, log_errors, single


class Ends:
    """What a runner said."""

    def __init__(self, runner: JobRunner) -> None:
        self.events, self.said = [], []
        runner.progressed.connect(self.events.append)
        runner.finished.connect(lambda result: self.said.append(("finished", result)))
        runner.failed.connect(lambda sentence: self.said.append(("failed", sentence)))
        runner.cancelled.connect(lambda: self.said.append(("cancelled", None)))


@pytest.fixture
def runner(qapp) -> JobRunner:
    return JobRunner()


def test_a_result_comes_on_the_main_thread_from_another(runner, qtbot) -> None:
    ends, threads = Ends(runner), []
    runner.finished.connect(lambda _: threads.append(threading.current_thread()))
    assert runner.start(single(threading.current_thread, "Looking"), "looking")
    assert runner.running and not runner.start(single(int, "No"), "no")
    qtbot.waitUntil(lambda: not runner.running)
    assert ends.said[0][0] == "finished" and ends.said[0][1] is not threading.main_thread()
    assert threads == [threading.main_thread()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, which keeps what is free")
def test_what_a_long_job_needed_goes_back_to_the_system(runner, qtbot, monkeypatch) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

    def job():
        yield Event("Filling")
        pieces = [bytes(4_000) for _ in range(100_000)]
        # What is kept among the pieces keeps all that is free around it.
        kept = pieces[::50]
        del pieces
        yield Event("Left", figures={"mebibytes": resident()})
        return kept

    monkeypatch.setattr(jobs, "LONG", 0.0)
    ends, before = Ends(runner), resident()
    runner.start(job, "filling")
    qtbot.waitUntil(lambda: not runner.running, timeout=20_000)
    assert ends.events[-1].figures["mebibytes"] > before + 200 and resident() < before + 100


def test_events_are_thinned_out_but_messages_are_not(runner, qtbot) -> None:
    def job():
        for number in range(20_000):
            yield Event("Counting", number, 20_000, message="halved" if number in (777, 778) else None)

    ends = Ends(runner)
    begun = time.monotonic()
    runner.start(job, "counting")
    qtbot.waitUntil(lambda: not runner.running, timeout=20_000)
    assert len(ends.events) <= 4 + 21 * (time.monotonic() - begun)
    assert [one.done for one in ends.events if one.message] == [777, 778]


def test_events_do_not_pile_up_where_the_window_is_slow(runner, qtbot) -> None:
    def job():
        for number in range(100):
            yield Event("Counting", number, 100)
            time.sleep(0.01)

    seen = []
    runner.progressed.connect(lambda event: (seen.append(event.done), time.sleep(0.3)))
    runner.start(job, "counting")
    qtbot.waitUntil(lambda: not runner.running, timeout=20_000)
    # A second of work, of which the window saw a part every 0.3 s; nothing waits for it when the work is done.
    assert 2 <= len(seen) <= 6


def test_no_library_is_loaded_while_nuclei_are_made() -> None:
    """Loading one holds the window, for a third of a second where it is sklearn or timm."""
    code = """
import sys
from importlib import import_module
from napari_histomix.widgets.loading_ahead import MODULES
for name in MODULES:
    import_module(name)
import napari_histomix as hm
import napari_histomix.study
before = set(sys.modules)
hm.augment(hm.load_sample(), "nucleimix", rare=["lymphocyte"], count=1, background_share=0.1)
loaded = [name for name in set(sys.modules) - before if str(getattr(sys.modules[name], "__file__", "")).endswith(".so")]
print("loaded:", *sorted(loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "loaded:"


def test_a_status_line_moves_nothing_while_its_text_fits(runner, qtbot) -> None:
    bar, around = RunBar("Make", runner), QWidget()
    around.setLayout(ui.column(bar))
    qtbot.addWidget(around)
    around.resize(400, 300)
    with qtbot.waitExposed(around):
        around.show()
    bar._on_running(True)
    bar._on_event(Event("Making", 1, 100))
    asked = []
    bar.event = lambda event: asked.append(event.type()) or QWidget.event(bar, event)
    qtbot.wait(50)
    asked.clear()
    for number in range(2, 9):
        bar._on_event(Event("Making", number, 100))
        qtbot.wait(10)
    assert QEvent.Type.LayoutRequest not in asked and bar.status.text() == "Making: 8 of 100 …"
    one_line = bar.status.height()
    bar._on_event(Event("Making what takes a sentence that goes on and on until no line holds it" * 2, 9, 100))
    assert bar.status.height() > one_line


def test_cancel_closes_the_job_within_one_event(runner, qtbot) -> None:
    done, closed, go = [], [], threading.Event()

    def job():
        try:
            for number in range(1000):
                done.append(number)
                yield Event("Working", number, 1000)
                go.wait(0.01)
        finally:
            closed.append(threading.current_thread())

    ends = Ends(runner)
    runner.start(job, "working")
    qtbot.waitUntil(lambda: len(done) > 3)
    runner.cancel()
    at = len(done)
    qtbot.waitUntil(lambda: not runner.running)
    assert len(done) <= at + 1
    assert closed and ends.said == [("cancelled", None)]


def test_discarding_takes_no_result(runner, qtbot) -> None:
    ends = Ends(runner)
    runner.start(single(lambda: 7, "Quick"), "quick")
    runner.discard()
    qtbot.waitUntil(lambda: not runner.running)
    assert ends.said == [("cancelled", None)]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (HistomixError("Choose\n another folder."), "Choose another folder."),
        (MemoryError(), "There is not enough memory for this; close other programs and try again."),
        (OSError(28, "No space left on device", "out.png"), "No space left on device: out.png."),
        (KeyError("k"), "Something unexpected went wrong (KeyError: 'k'); the details are in LOG."),
    ],
)
def test_an_error_becomes_one_sentence(runner, qtbot, error, sentence, caplog) -> None:
    begin("tests")

    def job():
        yield Event("Working")
        raise error

    ends = Ends(runner)
    runner.start(job, "working")
    qtbot.waitUntil(lambda: not runner.running)
    assert ends.said == [("failed", sentence.replace("LOG", str(log_file())))]
    logged = any(record.levelname == "ERROR" for record in caplog.records)
    assert logged != isinstance(error, HistomixError)
    # What the sentence promises: a file that is there, and says where in the code it happened.
    assert (f"{type(error).__name__}" in log_file().read_text(encoding="utf-8")) == logged
    assert runner.start(single(int, "Again"), "again")
    qtbot.waitUntil(lambda: not runner.running)


def test_nothing_heavy_stays_behind(runner, qtbot) -> None:
    import gc
    import weakref

    class Heavy:
        pass

    heavy = Heavy()
    alive = weakref.ref(heavy)

    def job(one=heavy):
        yield Event("Working")
        return None if one is None else "done"

    runner.start(job, "working")
    qtbot.waitUntil(lambda: not runner.running)
    del heavy, job
    gc.collect()
    assert alive() is None


def counting(done: list[int], closed: list[bool]):
    """A job that notes every step, and that it was closed."""
    try:
        for number in range(100_000):
            done.append(number)
            yield Event("Counting", number, 100_000)
            time.sleep(0.002)
    finally:
        closed.append(True)


def test_a_paused_job_stands_still_until_it_is_resumed(runner, qtbot) -> None:
    done, closed, said = [], [], []
    runner.paused_changed.connect(said.append)
    runner.start(lambda: counting(done, closed), "counting")
    runner.pause()
    runner.pause(False)
    qtbot.waitUntil(lambda: len(done) > 5)
    runner.pause()
    assert runner.paused
    qtbot.wait(100)
    at = len(done)
    qtbot.wait(200)
    assert len(done) == at and not closed and runner.running
    runner.pause(False)
    assert not runner.paused
    qtbot.waitUntil(lambda: len(done) > at + 5)
    assert said == [True, False, True, False]
    runner.cancel()
    qtbot.waitUntil(lambda: not runner.running)


def test_a_paused_job_can_be_cancelled(runner, qtbot) -> None:
    done, closed = [], []
    ends = Ends(runner)
    runner.start(lambda: counting(done, closed), "counting")
    qtbot.waitUntil(lambda: len(done) > 5)
    runner.pause()
    runner.cancel()
    qtbot.waitUntil(lambda: not runner.running, timeout=2000)
    assert closed == [True] and ends.said == [("cancelled", None)]
    runner.start(single(int, "Next"), "next")
    assert not runner.paused
    qtbot.waitUntil(lambda: not runner.running)


def test_the_end_of_its_parent_ends_a_paused_job(qapp, qtbot) -> None:
    from qtpy.QtCore import QObject

    done, closed = [], []
    parent = QObject()
    runner = JobRunner(parent)
    runner.start(lambda: counting(done, closed), "counting")
    qtbot.waitUntil(lambda: len(done) > 5)
    runner.pause()
    parent.deleteLater()
    qtbot.waitUntil(lambda: closed == [True], timeout=2000)


def test_no_validation_is_lost(runner, qtbot) -> None:
    def job():
        for number in range(5000):
            yield Event("Training", number, 5000, figures={"validation": 0.1} if number in (10, 11, 12) else {})

    ends = Ends(runner)
    runner.start(job, "training")
    qtbot.waitUntil(lambda: not runner.running)
    assert [one.done for one in ends.events if one.figures] == [10, 11, 12]


def test_what_goes_wrong_while_stopping_is_told(runner, qtbot) -> None:
    def job():
        try:
            while True:
                yield Event("Training")
        finally:
            raise HistomixError("The disk is full; free space.")

    ends = Ends(runner)
    runner.start(job, "training")
    qtbot.waitUntil(lambda: bool(ends.events))
    runner.cancel()
    qtbot.waitUntil(lambda: not runner.running)
    assert ends.said == [("failed", "The disk is full; free space.")]


def test_of_several_jobs_that_replace_each_other_only_the_last_one_counts(runner, qtbot) -> None:
    closed, begun = [], []

    def numbered(number: int):
        def job():
            begun.append(number)
            try:
                for _ in range(20):
                    yield Event("Working")
                    time.sleep(0.01)
            finally:
                closed.append(number)
            return number

        return job

    ends = Ends(runner)
    for number in range(4):
        runner.replace(numbered(number), "working")
        if number == 0:
            qtbot.waitUntil(lambda: begun == [0])
    assert runner.busy
    qtbot.waitUntil(lambda: not runner.busy)
    qtbot.waitUntil(lambda: len(ends.said) == 2)
    assert ends.said == [("cancelled", None), ("finished", 3)] and begun == closed == [0, 3]
    runner.replace(numbered(5), "working")
    runner.replace(numbered(6), "working")
    runner.discard()
    qtbot.waitUntil(lambda: not runner.busy)
    qtbot.wait(50)
    assert ends.said[2:] == [("cancelled", None)] and 6 not in begun


def test_what_was_made_is_told_and_a_person_is_asked_whether_it_stays(qtbot) -> None:

    asked, told, kept = [], [], []
    runner = JobRunner()
    bar = RunBar("Make", runner, keep_question=lambda count: bool(asked.append(count)) or count > 3)
    qtbot.addWidget(bar)
    bar.stopped.connect(kept.append)
    runner.progressed.connect(lambda event: told.extend(event.made))

    def making():
        for number in range(500):
            yield Event("Making", number, 500, made=(number,))
            time.sleep(0.002)

    for discarded in (False, True):
        told.clear()
        runner.start(making, "making")
        qtbot.waitUntil(lambda: len(told) > 5, timeout=10_000)
        with qtbot.waitSignal(runner.cancelled, timeout=10_000):
            runner.discard() if discarded else bar._cancel()
        # Nothing that was made before the job heard of it is lost.
        assert told == list(range(len(told)))
    assert asked and len(asked) == 1 and kept == [True]


def test_a_job_waits_for_networks_that_are_being_loaded(monkeypatch) -> None:
    loaded = threading.Event()

    def load() -> None:
        time.sleep(0.1)
        loaded.set()

    monkeypatch.setattr(loading_ahead, "_networks", threading.Thread(target=load))
    loading_ahead._networks.start()
    loading_ahead.prepare_torch()
    assert loaded.is_set()


def test_errors_of_the_window_are_logged_where_our_code_had_a_part_in_them() -> None:
    def shown(call) -> str:
        try:
            call()
        except Exception as error:
            notification_manager.dispatch(ErrorNotification(error))
        return log_file().read_text(encoding="utf-8")

    begin("tests")
    log_errors()
    log_errors()
    assert "ZeroDivisionError" not in shown(lambda: 1 / 0)
    assert "HistomixError" not in shown(lambda: drain(_raising(HistomixError("Choose another."))))
    text = shown(lambda: drain(_raising(KeyError("k"))))
    assert text.count("KeyError") == 1 and "napari_histomix.records:" in text


def _raising(error):
    yield Event("Working")
    raise error
