"""How long a run will take yet is said once it can be known, and anew for each phase."""

from __future__ import annotations

import pytest

from napari_histomix.records import Event
from napari_histomix.widgets.base import RunBar, TimeLeft, time_words
from napari_histomix.widgets.jobs import JobRunner


def test_the_rest_takes_as_long_as_what_is_done_took() -> None:
    now = [0.0]
    left = TimeLeft(lambda: now[0])
    assert left.after(Event("Blending", 10, 50)) is None, "resumed at ten"
    now[0] = 2.0
    assert left.after(Event("Blending", 12, 50)) is None, "too early to say"
    now[0] = 10.0
    assert left.after(Event("Blending", 20, 50)) == pytest.approx(30.0)
    assert left.after(Event("Writing", 1, 5)) is None, "another phase"
    now[0] = 20.0
    assert left.after(Event("Writing", 1, 5)) is None and left.after(Event("Preparing")) is None
    assert [time_words(seconds) for seconds in (89, 150, 60 * 61, 9000)] == ["89 s", "2 min", "61 min", "2.5 h"]


def test_a_pause_is_none_of_the_time_that_the_rest_takes(qtbot) -> None:
    now, runner = [0.0], JobRunner()
    bar = RunBar("Make", runner, pausable=True)
    qtbot.addWidget(bar)
    bar._left = TimeLeft(lambda: now[0])
    for at, done in ((0.0, 0), (10.0, 10)):
        now[0] = at
        said = bar.words(Event("Blending", done, 50))
    assert "about 40 s left" in said
    runner.paused_changed.emit(True)
    now[0] = 1000.0
    runner.paused_changed.emit(False)
    for at, done in ((1000.0, 11), (1010.0, 21)):
        now[0] = at
        said = bar.words(Event("Blending", done, 50))
    assert "about 29 s left" in said
