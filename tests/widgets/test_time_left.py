"""How long a run will take yet is said once it can be known, and anew for each phase."""

from __future__ import annotations

import pytest

from napari_histomix.records import Event
from napari_histomix.widgets.base import TimeLeft, time_words


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
    assert (time_words(89), time_words(150), time_words(60 * 61)) == ("89 s", "2 min", "61 min")
