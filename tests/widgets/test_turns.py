"""Heavy jobs one after the other: who waits, what a pause and "do first" change, and the bar of what is elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from qtpy.QtWidgets import QWidget

from napari_histomix.records import Event, Job
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.runs_bar import RunsBar
from napari_histomix.widgets.session import Session


class Work:
    """A job that counts until it may end."""

    def __init__(self, runner: JobRunner, title: str) -> None:
        self.runner, self.title, self.count, self.go = runner, title, 0, threading.Event()
        self.phases: list[str] = []
        runner.progressed.connect(lambda event: self.phases.append(event.phase))

    def start(self) -> None:
        self.runner.start(self._job, self.title)

    def _job(self) -> Job[None]:
        while not self.go.is_set():
            self.count += 1
            yield Event("Counting")
            time.sleep(0.005)


@pytest.fixture
def session(qapp: Any) -> Any:
    session = Session()
    yield session
    session.release()


@pytest.fixture
def work(session: Session, qtbot: Any) -> Any:
    made = [Work(session.follow(JobRunner(session), heavy=True), title) for title in ("training", "making")]
    yield made
    for one in made:
        one.runner.discard()
    qtbot.waitUntil(lambda: not any(one.runner.running for one in made))


def test_a_heavy_job_waits_for_the_one_before_it(work: list[Work], qtbot: Any) -> None:
    first, second = work
    first.start()
    qtbot.waitUntil(lambda: first.count > 2)
    second.start()
    qtbot.waitUntil(lambda: "Waiting for the end of training" in second.phases)
    assert second.count == 0 and second.runner.waiting and not first.runner.waiting
    first.go.set()
    qtbot.waitUntil(lambda: second.count > 2)
    assert not first.runner.running and not second.runner.waiting


def test_others_go_on_while_a_job_is_paused_and_it_waits_for_them_afterwards(work: list[Work], qtbot: Any) -> None:
    first, second = work
    first.start()
    second.start()
    qtbot.waitUntil(lambda: first.count > 2)
    first.runner.pause()
    qtbot.waitUntil(lambda: second.count > 2)
    at = first.count
    first.runner.pause(False)
    qtbot.waitUntil(lambda: first.count > at and second.runner.waiting)


def test_a_job_that_is_done_first_holds_the_other_at_its_next_event(work: list[Work], qtbot: Any) -> None:
    first, second = work
    first.start()
    second.start()
    qtbot.waitUntil(lambda: first.count > 2)
    second.runner.advance()
    qtbot.waitUntil(lambda: second.count > 2)
    at = first.count
    qtbot.wait(50)
    assert first.count <= at + 1 and first.runner.waiting
    second.go.set()
    qtbot.waitUntil(lambda: first.count > at + 1)


def test_a_waiting_job_can_be_stopped(work: list[Work], qtbot: Any) -> None:
    first, second = work
    first.start()
    second.start()
    second.runner.cancel()
    qtbot.waitUntil(lambda: not second.runner.running)
    assert second.count == 0 and first.runner.running


def test_what_is_under_way_elsewhere_has_a_line_with_pause_and_stop(
    session: Session, work: list[Work], qtbot: Any
) -> None:
    here = [""]
    places: dict[JobRunner, str] = dict(zip([one.runner for one in work], ["make/train", "make/making"], strict=True))
    seen: Callable[[str], bool] = lambda place: place == here[0]  # noqa: E731
    bar, asked = RunsBar(session, places.__getitem__, seen), []
    around = QWidget()
    bar.setParent(around)
    qtbot.addWidget(around)
    session.page_requested.connect(asked.append)
    first, second = work
    assert bar.isHidden()
    first.start()
    second.start()
    assert not bar.isHidden() and len(bar.lines) == 2
    line = bar.lines[second.runner]
    qtbot.waitUntil(lambda: line.bar.status.text() == "Waiting for the end of training …")
    assert "Making" in line.title.text() and not line.first_button.isHidden()
    line.show_button.click()
    assert asked == ["make/making"]
    here[0] = "make/making"
    bar.refresh()
    assert line.isHidden() and not bar.lines[first.runner].isHidden()
    bar.lines[first.runner].bar.pause_button.click()
    qtbot.waitUntil(lambda: second.count > 2)
    bar.lines[first.runner].bar.cancel_button.click()
    qtbot.waitUntil(lambda: not first.runner.running)
    assert bar.isHidden()


def test_a_line_that_comes_in_mid_run_says_what_was_said_last(session: Session, qtbot: Any) -> None:
    runner, go = session.follow(JobRunner(session)), threading.Event()

    def job() -> Job[None]:
        yield Event("Comparing surroundings", 3, 10)
        go.wait(20)

    runner.start(job, "finding candidates")
    qtbot.waitUntil(lambda: runner.said is not None)
    bar = RunsBar(session, lambda _runner: "make/plan", lambda _place: False)
    qtbot.addWidget(bar)
    line = bar.lines[runner].bar
    assert line.status.text() == "Comparing surroundings: 3 of 10 …" and line.bar.value() == 3
    go.set()
    qtbot.waitUntil(lambda: not runner.running)
